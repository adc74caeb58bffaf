"""Laws that hold for every model, and implicit's checkerboard, whose right answer is provable."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from firetv import models
from firetv.data import Dataset, Tables
from firetv.evaluate import measure, run
from firetv.features import item_features, user_features
from firetv.models import (
    ALS,
    BPR,
    EASE,
    ContentProfile,
    FactorStep,
    ItemKNN,
    LightFM,
    Popular,
    Random,
    RecentPopular,
)
from firetv.slate import EMPTY, ExcludeSeen, Slate, Stage, Step, chain, recommend, top
from firetv.social import FriendBoost, WithFriends
from firetv.splits import random_split
from firetv.steps import DualStep, LinearStep
from firetv.weighting import Weighted

FEATURES = {"use_user_features": True, "use_item_features": True}
PERSONAL = {
    "knn": ItemKNN(),
    "knn-tfidf": ItemKNN(weighting="tfidf"),
    "knn-bm25": ItemKNN(weighting="bm25"),
    "ease": EASE(reg=10),
    "als": ALS(components=2, reg=0.1, epochs=50),
    "bpr": BPR(components=16, learning_rate=0.05, epochs=200),
    "lightfm": LightFM(components=8, epochs=40, learning_rate=0.05),
    "lightfm-average": LightFM(components=8, epochs=40, learning_rate=0.05, average=2),
    "lightfm-hybrid": LightFM(components=8, epochs=40, learning_rate=0.05, **FEATURES),
    "lightfm-patient": LightFM(components=8, epochs=40, learning_rate=0.05, patience=4),
    "ease-with-features": EASE(10, use_item_features=True, feature_weight=1.5, activity=0.5),
    "als-with-features": ALS(components=4, reg=0.1, epochs=50, **FEATURES),
    "ease-weighted": Weighted(EASE(reg=10), rating_power=0.5, half_life=60.0),
    "als-weighted": Weighted(ALS(components=2, reg=0.1, epochs=50), completion_power=0.5),
    "content-profile": ContentProfile(),
    "ease-with-friends": WithFriends(EASE(reg=10)),
    "als-trained-on-friends": WithFriends(ALS(components=2, reg=0.1, epochs=50), "training"),
}


@dataclass(frozen=True)
class Newest:
    """A model of somebody's own, in as few lines as it takes."""

    weight: float = 1.0

    def fit(self, data: Dataset) -> Step:
        year = data.content["release_year"].fillna(0).to_numpy(np.float32)
        return NewestStep(self.weight * year)


@dataclass(frozen=True)
class NewestStep:
    recency: np.ndarray

    def __call__(self, slate: Slate) -> Slate:
        return slate.add("recency", np.broadcast_to(self.recency[slate.items], slate.shape))


ALL = {
    "random": Random(),
    "popular": Popular(),
    "recent-popular": RecentPopular(scale=48),
    "newest": Newest(),
    "friends": FriendBoost(strength=1.0, half_life=10.0),
    "ease-and-friends": chain(EASE(reg=10), FriendBoost(half_life=10.0)),
    **PERSONAL,
}

every_model = pytest.mark.parametrize("stage", ALL.values(), ids=ALL)
every_personal_model = pytest.mark.parametrize("stage", PERSONAL.values(), ids=PERSONAL)


def requests(*users: int) -> pd.DataFrame:
    """One request of each user, on another day each."""
    at = pd.Timestamp("2024-02-01", tz="UTC") + pd.to_timedelta(np.array(users), unit="D")
    return pd.DataFrame({"user": np.array(users, np.int32), "at": at})


def checkerboard(n: int = 50) -> Dataset:
    """User i saw every item of i's parity but item i itself."""
    users, items = np.nonzero(
        (np.add.outer(np.arange(n), np.arange(n)) % 2 == 0) & ~np.eye(n, dtype=bool)
    )
    history = pd.DataFrame(
        {
            "user_id": np.char.add("u", users.astype(str)),
            "content_id": np.char.add("c", items.astype(str)),
            "timestamp": pd.Timestamp("2024-01-01", tz="UTC"),
        }
    )
    content = pd.DataFrame({"content_id": [f"c{i}" for i in range(n)]})
    users_table = pd.DataFrame({"user_id": [f"u{i}" for i in range(n)]})
    content["content_type"] = np.where(np.arange(n) % 2, "odd", "even")
    users_table["region"] = np.where(np.arange(n) % 2, "odd", "even")
    return Dataset.from_tables(Tables(history, content=content, users=users_table))


@every_personal_model
def test_checkerboard_brings_back_the_withheld_diagonal(stage: Stage) -> None:
    data = checkerboard()
    step = chain(stage, ExcludeSeen(), top(1)).fit(data)
    slate = recommend(step, requests(*range(50)), np.arange(50))
    np.testing.assert_array_equal(slate.items[:, 0], np.arange(50))


@every_model
def test_refitting_gives_the_same_scores(stage: Stage, data: Dataset) -> None:
    slate = Slate(requests(0, 5, -1), np.arange(data.shape[1]))
    np.testing.assert_array_equal(stage.fit(data)(slate).scores, stage.fit(data)(slate).scores)


@every_model
def test_a_step_neither_mutates_nor_forgets_its_slate(stage: Stage, data: Dataset) -> None:
    items = np.arange(data.shape[1])
    items.flags.writeable = False
    before = Slate(requests(1, 2), items).add("given", np.ones((2, len(items))))
    after = stage.fit(data)(before)
    assert list(before.parts) == ["given"]
    np.testing.assert_array_equal(after.parts["given"], 1)
    assert all(part.dtype == np.float32 for part in after.parts.values())
    np.testing.assert_allclose(after.scores, sum(after.parts.values()), rtol=1e-6)
    assert np.isfinite(after.scores).all()


@every_model
def test_scores_do_not_depend_on_the_company_of_a_request(stage: Stage, data: Dataset) -> None:
    step, items = stage.fit(data), np.arange(data.shape[1])
    users = np.random.default_rng(0).permutation(data.shape[0])
    together = step(Slate(requests(*users), items)).scores
    for row in (0, 7):
        alone = step(Slate(requests(users[row]), items)).scores
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-4, atol=1e-6)


@every_model
def test_own_candidates_score_as_shared_ones(stage: Stage, data: Dataset) -> None:
    step, users = stage.fit(data), requests(0, 3, -1)
    shared = np.random.default_rng(0).permutation(data.shape[1])[:10]
    own = np.tile(shared, (3, 1))
    a, b = step(Slate(users, shared)), step(Slate(users, own))
    np.testing.assert_allclose(a.scores, b.scores, rtol=1e-4, atol=1e-6)
    own[1, 4] = EMPTY
    assert step(Slate(users, own)).scores[1, 4] == -np.inf


@every_model
def test_no_event_after_the_cut_reaches_a_fit(stage: Stage, data: Dataset) -> None:
    cut = data.interactions["timestamp"].quantile(0.5)
    late = data.interactions["timestamp"] >= cut
    other = data.interactions.copy()
    other.loc[late, "item"] = 0
    slate = Slate(requests(0, 1, 2), np.arange(data.shape[1]))
    a = stage.fit(data.until(cut))(slate).scores
    b = stage.fit(replace(data, interactions=other).until(cut))(slate).scores
    np.testing.assert_array_equal(a, b)


@every_personal_model
def test_more_events_change_the_scores(stage: Stage, data: Dataset) -> None:
    cut = data.interactions["timestamp"].quantile(0.5)
    slate = Slate(requests(0, 1, 2), np.arange(data.shape[1]))
    assert (stage.fit(data.until(cut))(slate).scores != stage.fit(data)(slate).scores).any()


@every_model
def test_a_fitted_pipeline_crosses_processes(stage: Stage, data: Dataset) -> None:
    step = chain(stage, ExcludeSeen(), top(5)).fit(data)
    copy = pickle.loads(pickle.dumps(step))  # as a worker on another machine receives it
    users, items = requests(0, 3, -1), np.arange(data.shape[1])
    a, b = recommend(step, users, items), recommend(copy, users, items)
    np.testing.assert_array_equal(a.items, b.items)
    np.testing.assert_array_equal(a.scores, b.scores)


def test_a_title_that_nothing_describes_does_not_outrank_what_is_watched(data: Dataset) -> None:
    cold = data.keep(data.interactions["item"] >= 20)
    slate = Slate(requests(*range(data.shape[0])), np.arange(data.shape[1]))
    best = top(5)(PERSONAL["lightfm"].fit(cold)(slate)).items
    assert (best >= 20).mean() > 0.9


@every_personal_model
def test_a_stranger_is_served_what_is_popular_and_told_so(stage: Stage, data: Dataset) -> None:
    slate = stage.fit(data)(Slate(requests(-1, 0), np.arange(data.shape[1])))
    popular = Popular().fit(data)(Slate(requests(-1, 0), np.arange(data.shape[1])))
    np.testing.assert_array_equal(slate.parts["taste"][0], 0)
    np.testing.assert_array_equal(slate.parts["popularity"][0], popular.scores[0])
    np.testing.assert_array_equal(slate.parts["popularity"][1], 0)


def test_a_profile_alone_moves_the_hybrid_but_not_the_identity_model(data: Dataset) -> None:
    keep = data.interactions["user"].to_numpy() >= 2  # users 0 and 1 become strangers
    cold, slate = data.keep(keep), Slate(requests(0, 1), np.arange(data.shape[1]))
    plain = PERSONAL["lightfm"].fit(cold)(slate)
    hybrid = PERSONAL["lightfm-hybrid"].fit(cold)(slate)
    np.testing.assert_array_equal(plain.scores[0], plain.scores[1])
    assert "popularity" not in hybrid.parts
    assert np.abs(hybrid.scores[0] - hybrid.scores[1]).max() > 0.01


def test_metadata_alone_places_a_new_title(data: Dataset) -> None:
    """The parity of an item is its genre, and of a user their taste: new items must follow it."""
    new = np.arange(20)
    cold = data.keep(~np.isin(data.interactions["item"], new))
    users = np.arange(data.shape[0])
    scores = PERSONAL["lightfm-hybrid"].fit(cold)(Slate(requests(*users), new)).scores
    liked = users[:, None] % 2 == new % 2
    assert scores[liked].mean() > scores[~liked].mean() + 0.1


def test_lightfm_vectors_agree_with_its_own_prediction(data: Dataset) -> None:
    from lightfm import LightFM as Reference

    stage = LightFM(components=4, epochs=3, seed=5)
    seed = int(np.random.SeedSequence(5).generate_state(1)[0])
    model = Reference(
        no_components=4, loss="warp", learning_rate=0.03, user_alpha=1e-4, item_alpha=1e-4,
        max_sampled=5,
        random_state=seed,
    )  # fmt: skip
    model.fit(sparse.coo_matrix(data.matrix()), epochs=3, num_threads=1)
    items = np.arange(data.shape[1])
    expected = model.predict(np.full(len(items), 3), items)
    scores = stage.fit(data)(Slate(requests(3), items)).scores[0]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_ease_agrees_with_its_definition(data: Dataset) -> None:
    """Each column of weights is a ridge regression on the other items (Steck 2019, eq. 4)."""
    weights = EASE(reg=5).fit(data).weights
    seen = data.matrix().toarray().astype(float)
    for item in (0, 11):
        others = np.delete(np.arange(data.shape[1]), item)
        x, y = seen[:, others], seen[:, item]
        ridge = np.linalg.solve(x.T @ x + 5 * np.eye(len(others)), x.T @ y)
        np.testing.assert_allclose(weights[others, item], ridge, atol=1e-5)
        assert weights[item, item] == 0


# Fewer users than items


EASES = {
    "plain": EASE(reg=5),
    "activity": EASE(reg=5, activity=0.8),
    "features": EASE(reg=5, use_item_features=True, activity=0.3),
}


def by_both(stage: EASE, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> tuple[Step, Step]:
    """EASE fitted by items and by users."""
    monkeypatch.setattr("firetv.models.DUAL", np.inf)
    by_items = stage.fit(data)
    monkeypatch.setattr("firetv.models.DUAL", 0)
    by_users = stage.fit(data)
    assert isinstance(by_items, LinearStep)
    assert isinstance(by_users, DualStep)
    return by_items, by_users


def weighed(data: Dataset, seed: int = 0) -> Dataset:
    """The data with weights of their pairs."""
    weights = data.matrix().copy()
    weights.data[:] = np.random.default_rng(seed).uniform(0.2, 2, weights.nnz)
    return replace(data, weights=weights)


CUTS = {
    "whole": lambda data: data,
    "cold": lambda data: data.keep(  # users 0 and 1, and items below 5, have no event
        (data.interactions["user"] >= 2) & (data.interactions["item"] >= 5)
    ),
    "weighed": weighed,
}


@pytest.mark.parametrize("stage", EASES.values(), ids=EASES)
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_ease_is_the_same_by_users_as_by_items(
    cut: Callable[[Dataset], Dataset],
    stage: EASE,
    data: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = cut(data)
    by_items, by_users = by_both(stage, data, monkeypatch)
    users = requests(*range(data.shape[0]), -1)
    rng = np.random.default_rng(0)
    own = np.argsort(rng.random((len(users), data.shape[1])), axis=1)[:, :9]
    own[3, 2] = EMPTY
    for items in (np.arange(data.shape[1]), rng.permutation(data.shape[1])[:11], own):
        slate = Slate(users, items)
        expected, got = by_items(slate), by_users(slate)
        assert list(got.parts) == list(expected.parts)
        assert got.parts["taste"].dtype == np.float32
        for name, part in expected.parts.items():
            there = slate.grid != EMPTY
            np.testing.assert_allclose(got.parts[name][there], part[there], rtol=1e-4, atol=1e-5)
    mixture, slate = mixtures(data), Slate(requests(*range(6)), np.arange(data.shape[1]))
    mixed = [step.mix(mixture)(slate).scores for step in (by_items, by_users)]
    np.testing.assert_allclose(mixed[1], mixed[0], rtol=1e-4, atol=1e-5)


def test_ease_goes_by_users_where_these_are_far_fewer(data: Dataset) -> None:
    assert isinstance(EASE().fit(data), LinearStep)
    few = data.keep(data.interactions["user"] < 4)
    assert isinstance(EASE().fit(few), DualStep)


def test_ease_by_users_needs_no_events(data: Dataset) -> None:
    empty = data.keep(np.zeros(len(data.interactions), bool))
    slate = EASE().fit(empty)(Slate(requests(0, -1), np.arange(data.shape[1])))
    np.testing.assert_array_equal(slate.scores, 0)


# Features beside histories


def cold(data: Dataset, users: int = 2, items: int = 5) -> Dataset:
    """The data without events of the first users and of the first items."""
    return data.keep((data.interactions["user"] >= users) & (data.interactions["item"] >= items))


def described(data: Dataset) -> np.ndarray:
    """Item features that some, but not all, of the items with events have, dense (n_items, G)."""
    features = item_features(data).matrix.toarray()
    share = features[data.item_counts > 0].mean(axis=0)
    return features[:, (share > 0) & (share < 1)]


@pytest.mark.parametrize("activity", [0.0, 0.7])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "cold"])
def test_ease_with_features_is_a_ridge_regression_with_more_rows(
    whole: bool, activity: float, data: Dataset
) -> None:
    data = data if whole else cold(data)
    stage = EASE(reg=5, use_item_features=True, feature_weight=1.7, activity=activity)
    step = stage.fit(data)
    seen = data.matrix().toarray().astype(float)
    count = seen.sum(axis=1)
    usual = count[count > 0].mean()
    learned = seen * np.where(count > 0, np.maximum(count, 1) / usual, 1)[:, None] ** -activity
    rows = np.vstack([learned, 1.7 * described(data).T])
    precision = np.linalg.inv(rows.T @ rows + 5 * np.eye(data.shape[1]))
    expected = -precision / np.diag(precision)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(step.weights, expected, atol=1e-5)
    np.testing.assert_array_equal(step.history.toarray(), seen)  # activity weighs no questions
    scores = step(Slate(requests(*range(5, 12)), np.arange(data.shape[1]))).scores
    np.testing.assert_allclose(scores, seen[5:12] @ expected, rtol=1e-4, atol=1e-5)


def test_ease_scores_items_without_events_by_what_they_share(data: Dataset) -> None:
    """The parity of an item is its genre, and of a user their taste: new items must follow it."""
    new, users = np.arange(20), np.arange(data.shape[0])
    unseen = data.keep(~np.isin(data.interactions["item"], new))
    plain = EASE(reg=10).fit(unseen)(Slate(requests(*users), new)).scores
    np.testing.assert_array_equal(plain, 0)
    scores = EASE(10, use_item_features=True).fit(unseen)(Slate(requests(*users), new)).scores
    liked = users[:, None] % 2 == new % 2
    assert scores[liked].mean() > scores[~liked].mean() + 0.05


def test_who_is_as_active_as_all_are_counts_as_ever() -> None:
    data = checkerboard()
    board = Slate(requests(*range(50)), np.arange(50))
    plain, active = (EASE(10, activity=power).fit(data)(board).scores for power in (0.0, 0.9))
    np.testing.assert_allclose(active, plain, rtol=1e-4, atol=1e-6)


def test_activity_makes_heavy_users_count_less(data: Dataset) -> None:
    rows = EASE(activity=0.5)._rows(data)
    norms = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    np.testing.assert_allclose(norms, np.sqrt(data.user_counts.mean()), rtol=1e-5)
    assert EASE(activity=0.0)._rows(data).max() == 1


ALIKE = {
    "ease": EASE(10, use_item_features=True),
    "als": ALS(components=4, reg=0.1, epochs=5, **FEATURES),
    "lightfm": LightFM(components=4, epochs=5, **FEATURES),
}


@pytest.mark.parametrize("name", ALIKE)
def test_what_all_or_none_have_adds_nothing(name: str, data: Dataset) -> None:
    """Everybody's region and type, and a genre of items, and an age of users, without events."""
    data, stage = cold(data), ALIKE[name]
    off = {name: False for name in FEATURES if hasattr(stage, name)}
    bare = replace(data, content=data.content[["content_id"]], users=data.users[["user_id"]])
    told = replace(
        bare,
        content=bare.content.assign(
            content_type="film", genres=[["Rare"] if i < 5 else [] for i in range(data.shape[1])]
        ),
        users=bare.users.assign(region="here", age=[30.0 if u < 2 else None for u in range(30)]),
    )
    slate = Slate(requests(0, *range(5, 9), -1), np.arange(data.shape[1]))
    expected = replace(stage, **off).fit(data)(slate)
    for same in (bare, told):
        got = stage.fit(same)(slate)
        assert list(got.parts) == list(expected.parts)
        np.testing.assert_array_equal(got.scores, expected.scores)


def test_als_without_features_is_what_implicit_fits(data: Dataset) -> None:
    from implicit.cpu.als import AlternatingLeastSquares

    unseen = cold(data)
    given = {"factors": 4, "regularization": 0.1, "alpha": 3.0, "iterations": 5}
    model = AlternatingLeastSquares(**given, random_state=7, num_threads=1)
    model.fit(sparse.csr_matrix(unseen.matrix()), show_progress=False)
    step = ALS(components=4, reg=0.1, alpha=3.0, epochs=5, seed=7).fit(unseen)
    users, items = unseen.user_counts > 0, unseen.item_counts > 0
    np.testing.assert_array_equal(step.user_factors[users], model.user_factors[users])
    np.testing.assert_array_equal(step.item_factors[items], model.item_factors[items])
    assert not step.user_factors[~users].any()
    assert not step.item_factors[~items].any()
    np.testing.assert_array_equal(step.known, users)


def test_als_factorises_features_along_with_viewings(data: Dataset) -> None:
    unseen = cold(data)
    told = ALS(feature_weight=0.5, **FEATURES)._told(unseen)
    known = unseen.user_counts > 0
    people = user_features(unseen).matrix.toarray()
    share = people[known].mean(axis=0)
    people, titles = people[:, (share > 0) & (share < 1)], described(unseen)
    nothing = np.zeros((titles.shape[1], people.shape[1]))
    seen = unseen.matrix().toarray()
    expected = np.block([[seen, 0.5 * people], [0.5 * titles.T, nothing]])
    np.testing.assert_array_equal(told.toarray(), expected)
    assert told.dtype == np.float32
    assert told.indices.dtype == np.int32
    half = ALS(feature_weight=0.5, use_item_features=True)._told(unseen)
    np.testing.assert_array_equal(half.toarray(), np.vstack([seen, 0.5 * titles.T]))
    half = ALS(feature_weight=0.5, use_user_features=True)._told(unseen)
    np.testing.assert_array_equal(half.toarray(), np.hstack([seen, 0.5 * people]))


def test_whom_only_features_describe_als_gives_a_vector(data: Dataset) -> None:
    """Users 0 and 1 and items 0 to 4 have no events; of user 1 and item 4 nothing is known."""
    unseen = cold(data)
    people, titles = unseen.users.copy(), unseen.content.copy()
    people.loc[1, ["age", "gender", "region"]] = None
    titles.loc[4, ["content_type", "release_year", "duration_minutes"]] = None
    titles["genres"] = [[] if item == 4 else own for item, own in enumerate(titles["genres"])]
    told = replace(unseen, users=people, content=titles)
    stage = ALS(components=4, reg=0.1, epochs=5)
    both = replace(stage, **FEATURES).fit(told)
    assert both.user_factors[0].any()
    assert not both.user_factors[1].any()
    assert both.known[:3].tolist() == [True, False, True]
    assert both.item_factors[:4].any(axis=1).all()
    assert not both.item_factors[4].any()
    users = replace(stage, use_user_features=True).fit(told)
    assert users.user_factors[0].any()
    assert not users.item_factors[:5].any()
    items = replace(stage, use_item_features=True).fit(told)
    assert not items.user_factors[:2].any()
    assert items.known[:3].tolist() == [False, False, True]
    assert items.item_factors[:4].any(axis=1).all()


def test_als_places_new_titles_by_their_features(data: Dataset) -> None:
    new, users = np.arange(20), np.arange(data.shape[0])
    unseen = data.keep(~np.isin(data.interactions["item"], new))
    stage = ALS(components=4, reg=0.5, use_item_features=True, feature_weight=2.0)
    scores = stage.fit(unseen)(Slate(requests(*users), new)).scores
    liked = users[:, None] % 2 == new % 2
    assert scores[liked].mean() > scores[~liked].mean() + 0.1


# When LightFM stops


class Scripted:
    """What is found at each check, as if in a script."""

    def __init__(self, *values: float) -> None:
        self.values, self.checks = values, 0

    def __call__(self, *_: object) -> float:
        self.checks += 1
        return self.values[min(self.checks, len(self.values)) - 1]


PATIENT = LightFM(components=4, epochs=60, patience=2)


@pytest.mark.parametrize(
    ("patience", "epochs", "found", "checks", "kept"),
    [
        (2, 60, (0.1, 0.3, 0.2, 0.25, 0.9), 4, 10),  # the best was the second check
        (1, 60, (0.1, 0.3, 0.3), 3, 10),  # as good is no better
        (3, 60, (0.2, 0.1, 0.1, 0.3, 0.0), 7, 20),
        (2, 20, (0.1, 0.2, 0.3, 0.4, 0.5), 4, 20),  # epochs are the most there can be
        (2, 12, (0.1, 0.2, 0.3), 2, 10),
        (2, 3, (0.1,), 0, 3),  # nothing to check
        (2, 60, (0.0, 0.0, 0.0), 3, 5),
    ],
)
def test_patience_keeps_the_epochs_that_found_most(
    patience: int,
    epochs: int,
    found: tuple[float, ...],
    checks: int,
    kept: int,
    data: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = Scripted(*found)
    monkeypatch.setattr(models, "_found", script)
    step = replace(PATIENT, patience=patience, epochs=epochs).fit(data)
    assert script.checks == checks
    plain = replace(PATIENT, patience=None, epochs=kept).fit(data)
    np.testing.assert_array_equal(step.user_factors, plain.user_factors)
    np.testing.assert_array_equal(step.item_factors, plain.item_factors)


def test_patience_learns_from_nine_tenths_and_asks_for_the_rest(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr(models, "_found", lambda *seen: given.append(seen[1:3]) or 0.0)
    PATIENT.fit(data)
    rest, hidden = (matrix.toarray() for matrix in given[0])
    assert not (rest * hidden).any()
    np.testing.assert_array_equal(rest + hidden, data.matrix().toarray())
    assert np.abs(hidden.sum(axis=1) - data.user_counts / 10).max() < 1
    assert all((one[0] != two[0]).nnz == 0 for one, two in pairwise(given))


def test_what_is_found_is_the_ndcg_of_lists_of_the_unseen(data: Dataset) -> None:
    split = random_split(data, seed=3)
    stage = LightFM(components=4, epochs=5)
    eyes = tuple(sparse.eye_array(n, format="csr", dtype=np.float32) for n in data.shape)
    rest = sparse.csr_matrix(split.train.matrix())
    hidden = sparse.csr_array(data.matrix() - data.matrix().multiply(rest > 0))
    hidden.eliminate_zeros()
    model = stage._learn(stage._start(0), sparse.coo_matrix(rest), eyes, 5)
    found = models._found(model, rest, hidden, eyes)
    scores = model.predict(*np.indices(data.shape).reshape(2, -1), num_threads=1)
    scores = np.where(rest.toarray() > 0, -np.inf, scores.reshape(data.shape))
    expected = []
    for user in np.flatnonzero(np.diff(hidden.indptr)):
        best, wanted = np.argsort(-scores[user])[:10], hidden.toarray()[user] > 0
        gain = (wanted[best] / np.log2(2 + np.arange(10))).sum()
        expected.append(gain / (1 / np.log2(2 + np.arange(min(10, wanted.sum())))).sum())
    assert found == pytest.approx(np.mean(expected), rel=1e-6)


def test_patience_repeats_and_stops_early(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, found, checks = replace(PATIENT, epochs=200), models._found, []
    monkeypatch.setattr(models, "_found", lambda *seen: checks.append(found(*seen)) or checks[-1])
    first = stage.fit(data)
    once, best = len(checks), int(np.argmax(checks))
    assert once == best + 1 + PATIENT.patience < 40
    again = stage.fit(data)
    assert checks[:once] == checks[once:]
    np.testing.assert_array_equal(first.user_factors, again.user_factors)
    np.testing.assert_array_equal(first.item_factors, again.item_factors)
    plain = replace(stage, patience=None, epochs=5 * (best + 1)).fit(data)
    np.testing.assert_array_equal(first.item_factors, plain.item_factors)


def test_adadelta_is_another_schedule_without_a_learning_rate(data: Dataset) -> None:
    slate = Slate(requests(*range(data.shape[0])), np.arange(data.shape[1]))
    stage = LightFM(components=4, epochs=5, schedule="adadelta")
    scores = stage.fit(data)(slate).scores
    assert np.isfinite(scores).all()
    assert np.abs(scores - replace(stage, schedule="adagrad").fit(data)(slate).scores).max() > 0.01
    np.testing.assert_array_equal(scores, replace(stage, learning_rate=0.2).fit(data)(slate).scores)


@pytest.mark.parametrize("patience", [None, 2])
def test_warp_kos_refuses_weights(patience: int | None, data: Dataset) -> None:
    stage = LightFM(components=4, epochs=5, loss="warp-kos", patience=patience)
    stage.fit(data)
    with pytest.raises(ValueError, match="k-OS WARP takes no weights: use another loss, or weigh"):
        stage.fit(weighed(data))


# Mixtures of users


def mixtures(data: Dataset) -> sparse.csr_array:
    """Somebody alone, twice somebody, two halves, four at random, nobody, and user 0 alone."""
    weights = np.zeros((6, data.shape[0]), np.float32)
    weights[0, 7], weights[1, 7], weights[5, 0] = 1, 2, 1
    weights[2, [3, 7]] = 0.5
    weights[3, [0, 2, 9, 11]] = np.random.default_rng(0).uniform(0.1, 1, 4)
    return sparse.csr_array(weights)


MIXED = [name for name in PERSONAL if "friends" not in name]


@pytest.mark.parametrize("name", MIXED)
def test_the_taste_of_a_mixture_is_the_sum_of_tastes(name: str, data: Dataset) -> None:
    cold = data.keep(data.interactions["user"] > 0)  # user 0 has no events
    step, weights = PERSONAL[name].fit(cold), mixtures(cold)
    slate = Slate(requests(*range(data.shape[0])), np.arange(data.shape[1]))
    everybody = step(slate)
    mixed = step.mix(weights)(Slate(requests(*range(6), -1), slate.items))
    expected = weights.toarray() @ everybody.parts["taste"]
    np.testing.assert_allclose(mixed.parts["taste"][:6], expected, rtol=1e-4, atol=1e-5)
    popular = Popular().fit(cold)(slate).scores[0]
    known = name in ("lightfm-hybrid", "als-with-features")  # by the profile of user 0
    for row, unknown in enumerate([False, False, False, False, True, not known, True]):
        fallback = mixed.parts["popularity"][row]
        np.testing.assert_array_equal(fallback, popular if unknown else 0)
    assert (mixed.parts["taste"][3] != 0).any()


@pytest.mark.parametrize("name", MIXED)
def test_everybody_unmixed_is_the_model_itself(name: str, data: Dataset) -> None:
    step = PERSONAL[name].fit(data)
    alone = sparse.eye_array(data.shape[0], format="csr", dtype=np.float32)
    slate = Slate(requests(*range(data.shape[0]), -1), np.arange(data.shape[1]))
    own = Slate(slate.requests, np.tile(slate.items[:7], (len(slate.users), 1)))
    for each in (slate, own):
        got, expected = step.mix(alone)(each), step(each)
        for part, values in expected.parts.items():
            np.testing.assert_allclose(got.parts[part], values, rtol=1e-5, atol=1e-6)
            assert got.parts[part].dtype == np.float32


def test_a_vector_that_means_nothing_does_not_reach_a_mixture() -> None:
    factors = np.array([[1.0, 2.0], [np.nan, np.nan], [3.0, 4.0]], np.float32)
    known = np.array([True, False, True])
    step = FactorStep(factors, np.eye(2, dtype=np.float32), known, np.zeros(2, np.float32))
    weights = sparse.csr_array(np.array([[1, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32))
    mixed = step.mix(weights)
    np.testing.assert_array_equal(mixed.user_factors, [[1, 2], [4, 6], [0, 0]])
    assert mixed.known.tolist() == [True, True, False]


# Weights, and friends as features


WEIGHABLE = {
    "ease": EASE(reg=10),
    "als": ALS(components=4, reg=0.1, epochs=5),
    "lightfm": LightFM(components=4, epochs=5),
    "lightfm-bpr": LightFM(components=4, epochs=5, loss="bpr"),
}


@pytest.mark.parametrize("stage", WEIGHABLE.values(), ids=WEIGHABLE)
def test_weights_matter_and_those_of_one_do_not(stage: Stage, data: Dataset) -> None:
    slate = Slate(requests(*range(data.shape[0])), np.arange(data.shape[1]))
    plain = stage.fit(data)(slate).scores
    ones = replace(data, weights=data.matrix())
    np.testing.assert_array_equal(stage.fit(ones)(slate).scores, plain)
    assert np.abs(stage.fit(weighed(data))(slate).scores - plain).max() > 0.01


def test_a_heavy_pair_is_learned_first(data: Dataset) -> None:
    weights = data.matrix().copy()
    weights.data[:] = 0.01
    weights[3, np.flatnonzero(weights[[3]].toarray()[0])[0]] = 1
    item = np.flatnonzero(weights[[3]].toarray()[0] == 1)[0]
    stage = LightFM(components=8, epochs=20)
    slate = Slate(requests(3), np.arange(data.shape[1]))
    heavy = stage.fit(replace(data, weights=weights))(slate).scores[0]
    assert heavy.argmax() == item
    assert stage.fit(data)(slate).scores[0].argmax() != item


def test_strangers_are_served_what_was_viewed_whatever_the_weights(data: Dataset) -> None:
    slate = Slate(requests(-1), np.arange(data.shape[1]))
    popular = Popular().fit(data)(slate).scores
    more = replace(data, weights=sparse.csr_array(np.ones(data.shape, np.float32)))
    for stage in (Popular(), EASE(), ItemKNN(), ALS(components=2, epochs=1)):
        np.testing.assert_array_equal(stage.fit(more)(slate).scores, popular)


def tied(data: Dataset, ties: dict[tuple[int, int], float]) -> Dataset:
    strength = np.zeros((data.shape[0],) * 2, np.float32)
    for pair, value in ties.items():
        strength[pair] = value
    return replace(data, friends=sparse.csr_array(strength))


BY_FRIENDS = LightFM(components=8, epochs=40, learning_rate=0.05, use_friends=True)


def test_friends_alone_give_somebody_new_a_taste(data: Dataset) -> None:
    """Users 0 and 1 have no history; one befriends even users, who like even items, one odd."""
    ties = {(u, f): 1.0 for u in range(30) for f in range(2, 30) if u % 2 == f % 2 and u != f}
    cold = tied(data.keep(data.interactions["user"] >= 2), ties)
    slate = Slate(requests(0, 1, -1), np.arange(data.shape[1]))
    got = BY_FRIENDS.fit(cold)(slate)
    parity = np.arange(data.shape[1]) % 2
    for user in (0, 1):
        taste = got.parts["taste"][user]
        assert taste[parity == user].mean() > taste[parity != user].mean() + 0.1
    assert not got.parts["taste"][2].any()


def test_friends_are_described_by_their_share_of_the_ties(data: Dataset) -> None:
    """A row is an identity, and the strengths of a user's ties, scaled to a sum of one."""
    ties = {(0, 2): 0.2, (0, 3): 0.6, (1, 2): 1.0, (4, 5): 0.5, (7, 5): 0.5}
    linked = tied(data.keep(data.interactions["user"] != 7), ties)
    stage = replace(BY_FRIENDS, feature_weight=0.5)
    rows = stage._described(linked, "user", linked.user_counts > 0).toarray()
    assert rows.shape == (30, 29 + 3)
    features = rows[:, 29:]
    np.testing.assert_allclose(features[0], [0.125, 0.375, 0])
    np.testing.assert_allclose(features[[1, 4, 7]], [[0.5, 0, 0], [0, 0, 0.5], [0, 0, 0.5]])
    assert not np.delete(features, [0, 1, 4, 7], axis=0).any()
    assert not rows[7, :29].any()


def test_without_friends_there_are_no_features_of_friends(data: Dataset) -> None:
    slate = Slate(requests(0, 5, -1), np.arange(data.shape[1]))
    plain = replace(BY_FRIENDS, use_friends=False).fit(data)(slate).scores
    for alone in (replace(data, friends=None), tied(data, {})):
        np.testing.assert_array_equal(BY_FRIENDS.fit(alone)(slate).scores, plain)
    off = data.users.assign(sharing="off")
    np.testing.assert_array_equal(BY_FRIENDS.fit(replace(data, users=off))(slate).scores, plain)


@pytest.mark.parametrize("name", ["als", "als-with-features", "lightfm-hybrid"])
def test_retrieval_gives_the_lists_of_the_dense_slate(name: str, data: Dataset) -> None:
    step = PERSONAL[name].fit(data)
    assert isinstance(step, FactorStep)
    users, items = requests(*range(data.shape[0]), -1), np.arange(5, data.shape[1])
    proposed = step.propose(users, items, 8, seen=data.matrix())
    dense = top(8)(ExcludeSeen().fit(data)(step(Slate(users, items))))
    np.testing.assert_allclose(proposed.scores, dense.scores, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(proposed.items[:-1], dense.items[:-1])  # strangers' ties may swap


def test_retrieval_leaves_slots_empty_when_candidates_run_out(data: Dataset) -> None:
    seen = data.matrix()[0].nonzero()[0]
    slate = PERSONAL["als"].fit(data).propose(requests(0), seen[:3], 5, seen=data.matrix())
    assert (slate.items == EMPTY).all()


def test_the_cut_of_retrieval_costs_little(data: Dataset) -> None:
    """Re-ranking 20 retrieved candidates must find nearly what re-ranking all 40 finds."""
    split = random_split(data, seed=0)
    step = PERSONAL["als"].fit(split.train)
    full = run("als", PERSONAL["als"], split, seed=0)
    cut = step.propose(split.requests, split.candidates, 20, seen=split.train.matrix())
    short = replace(full, model="cut", items=top(10)(cut).items)
    values = measure([full, short]).groupby("model")["value"].mean()
    assert values["cut"] == pytest.approx(values["als"], abs=0.02)


def test_random_scores_are_uniform_and_seeded(data: Dataset) -> None:
    slate = Slate(requests(*range(data.shape[0])), np.arange(data.shape[1]))
    a, b = Random(0).fit(data)(slate).scores, Random(1).fit(data)(slate).scores
    assert a.mean() == pytest.approx(0.5, abs=0.03)
    assert a.std() == pytest.approx(12**-0.5, abs=0.02)
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.1
    assert abs(np.corrcoef(a)[np.triu_indices(len(a), 1)].mean()) < 0.05


def dated(hours: dict[str, list[float]]) -> Dataset:
    """Viewings of each item by one user, in hours after an instant that a time step starts at."""
    history = pd.DataFrame(
        [(item, hour) for item, times in hours.items() for hour in times],
        columns=["content_id", "hour"],
    )
    start = pd.Timestamp("2024-01-01", tz="UTC")
    history = history.assign(
        user_id=[f"u{n}" for n in range(len(history))],
        timestamp=start + pd.to_timedelta(history.pop("hour"), unit="h"),
    )
    content = pd.DataFrame({"content_id": list(hours)})
    return Dataset.from_tables(Tables(history, content=content))


def asked(*hours: float) -> pd.DataFrame:
    at = pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(list(hours), unit="h")
    return pd.DataFrame({"user": np.full(len(hours), -1, np.int32), "at": at})


def test_events_near_the_request_weigh_by_exponential_decay() -> None:
    """All instants start a step of three hours, so that no rounding is left."""
    times = {"a": [0.0, 0.0, 48.0], "b": [24.0], "c": [96.0], "none": []}
    step = RecentPopular(scale=24, prior=0.1).fit(dated(times))
    hours = [-240.0, 0.0, 24.0, 96.0, 300.0]
    scores = step(Slate(asked(*hours), np.arange(4))).scores
    for hour, row in zip(hours, scores, strict=True):
        near = [sum(np.exp(-abs(t - hour) / 24) for t in each) for each in times.values()]
        np.testing.assert_allclose(row, np.log(np.array(near) + 0.1), rtol=1e-5)
    assert scores[:, :3].argmax(axis=1).tolist() == [0, 0, 0, 2, 2]


def test_times_are_rounded_by_less_than_an_eighth_of_the_scale() -> None:
    rng = np.random.default_rng(0)
    event, hours = rng.uniform(0, 100), rng.uniform(-50, 150, size=200)
    step = RecentPopular(scale=24, prior=0).fit(dated({"a": [event]}))
    scores = step(Slate(asked(*hours), np.arange(1))).scores[:, 0]
    error = np.abs(scores + np.abs(hours - event) / 24)
    assert error.max() < 1 / 8 + 1e-5
    assert error.max() > 0.05  # steps there are


def test_long_ago_all_items_are_alike_again() -> None:
    step = RecentPopular(scale=24).fit(dated({"a": [0.0] * 5, "b": [0.0]}))
    near, far = step(Slate(asked(0, 24 * 60), np.arange(2))).scores
    assert near[0] > near[1] + 1
    assert far[0] == pytest.approx(far[1], abs=1e-5)


def tastes() -> Dataset:
    """One user watches two films, the other one news; nobody has watched the last two titles."""
    history = pd.DataFrame(
        {
            "user_id": ["u0", "u0", "u1"],
            "content_id": ["film0", "film1", "news0"],
            "timestamp": pd.Timestamp("2024-01-01", tz="UTC"),
        }
    )
    content = pd.DataFrame(
        {
            "content_id": ["film0", "film1", "news0", "film2", "bare"],
            "content_type": ["film", "film", "news", "film", None],
            "genres": [[], [], [], ["Rare"], []],
        }
    )
    return Dataset.from_tables(Tables(history, content=content))


def test_a_profile_is_the_log_ratio_of_a_users_shares_to_everybodys() -> None:
    """Shares of film and news are 2/3 and 1/3 for all, and with a prior of one event for u0
    8/9 and 1/9, for u1 1/3 and 2/3."""
    slate = ContentProfile(prior=1.0).fit(tastes())(Slate(requests(0, 1), np.arange(5)))
    film, news = np.log([4 / 3, 1 / 2]), np.log([1 / 3, 2])
    expected = np.column_stack([film, film, news, film / 2, [0, 0]])  # the genre says nothing
    np.testing.assert_allclose(slate.scores, expected, rtol=1e-5, atol=1e-7)


def test_a_strong_prior_leaves_little_of_a_profile() -> None:
    weak, strong = (
        ContentProfile(prior).fit(tastes())(Slate(requests(0), np.arange(3))).scores
        for prior in (1.0, 1e4)
    )
    assert np.ptp(strong) < 0.01 * np.ptp(weak)
    assert strong[0, 0] > strong[0, 2]


def test_a_profile_places_new_titles_by_what_the_user_watches(data: Dataset) -> None:
    new = np.arange(20)
    cold = data.keep(~np.isin(data.interactions["item"], new))
    users = np.arange(data.shape[0])
    scores = ContentProfile().fit(cold)(Slate(requests(*users), new)).scores
    liked = users[:, None] % 2 == new % 2
    assert scores[liked].mean() > scores[~liked].mean() + 0.1


def test_at_no_known_time_all_events_are_equally_near(data: Dataset) -> None:
    step, items = RecentPopular(scale=24, prior=0.1).fit(data), np.arange(data.shape[1])
    timed = requests(0, 1)
    both = pd.concat([timed, timed.assign(at=pd.to_datetime([None, None], utc=True))])
    scores = step(Slate(both, items)).scores
    np.testing.assert_array_equal(scores[:2], step(Slate(timed, items)).scores)
    events = np.bincount(data.interactions["item"], minlength=len(items))
    np.testing.assert_allclose(scores[2:], [np.log(events + 0.1)] * 2, rtol=1e-5)
    assert step(Slate(timed.iloc[:0], items)).scores.shape == (0, len(items))


def test_a_profile_needs_a_prior() -> None:
    with pytest.raises(ValueError, match="prior 0"):
        ContentProfile(prior=0)


def test_a_catalogue_without_attributes_gives_no_profile() -> None:
    data = dated({"a": [0.0], "b": [1.0]})
    scores = ContentProfile().fit(data)(Slate(requests(0), np.arange(2))).scores
    np.testing.assert_array_equal(scores, 0)
