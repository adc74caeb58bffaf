"""Weights of viewings: by hand, as models take them in, and what they must leave alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from firetv.data import Dataset, Tables
from firetv.models import ALS, BPR, EASE, ItemKNN, LightFM, Popular
from firetv.newcomers import LIKED, TRAITS, Newcomers
from firetv.slate import EMPTY, ExcludeSeen, Slate, Stage, Step, chain, top
from firetv.steps import DualStep
from firetv.weighting import LEAST, Weighted

MODELS = {
    "ease": EASE(reg=10),
    "als": ALS(components=4, reg=0.1, epochs=5),
    "itemknn": ItemKNN(neighbours=10),
    "lightfm": LightFM(components=4, epochs=5),
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
NOON = pd.Timestamp("2024-03-01T12:00Z")


def viewings(rows: list[tuple[int, int, float, float | None]], **more: object) -> pd.DataFrame:
    """Events of user, item, days before the last one, and completion."""
    user, item, days, completion = zip(*rows, strict=True)
    return pd.DataFrame(
        {
            "user_id": [f"u{n}" for n in user],
            "content_id": [f"c{n}" for n in item],
            "timestamp": NOON - pd.to_timedelta(days, unit="D"),
            "completion": pd.array(completion, "Float64").astype("float64"),
            **more,
        }
    )


def few() -> Dataset:
    """Two users, three titles; of four pairs one is seen twice, one is unrated, one unfinished."""
    history = viewings(
        [
            (0, 0, 0.0, 1.0),
            (0, 0, 20.0, 0.5),
            (0, 1, 10.0, 0.25),
            (1, 0, 30.0, None),
            (1, 2, 5, 1.0),
        ]
    )
    said = pd.DataFrame(
        {
            "user_id": ["u0", "u0", "u0", "u1", "u1"],
            "content_id": ["c0", "c0", "c1", "c2", "c1"],  # the last was rated, and never viewed
            "timestamp": NOON,
            "rating": [5.0, 3.0, 2.0, 3.0, 5.0],
        }
    )
    users = pd.DataFrame({"user_id": ["u0", "u1"]})
    content = pd.DataFrame({"content_id": ["c0", "c1", "c2"]})
    return Dataset.from_tables(Tables(history, said, users=users, content=content))


def table(stage: Weighted, data: Dataset) -> np.ndarray:
    return stage.weights(data).toarray()


def everybody(data: Dataset) -> Slate:
    return Slate(pd.DataFrame({"user": [*range(data.shape[0]), -1]}), np.arange(data.shape[1]))


# By hand


def test_ratings_weigh_by_their_mean_and_a_missing_one_as_the_mean_weight() -> None:
    """Mean ratings are 4, 2 and 3 of 5; the pair of u1 and c0 was not rated."""
    weights = table(Weighted(EASE(), rating_power=1.0), few())
    np.testing.assert_allclose(weights, [[0.8, 0.4, 0], [0.6, 0, 0.6]], rtol=1e-6)
    weights = table(Weighted(EASE(), rating_power=2.0), few())
    mean = (0.64 + 0.16 + 0.36) / 3  # of the factors, not the factor of the mean
    np.testing.assert_allclose(weights, [[0.64, 0.16, 0], [mean, 0, 0.36]], rtol=1e-6)


def test_completions_weigh_by_their_mean_and_a_missing_one_as_the_mean_weight() -> None:
    weights = table(Weighted(EASE(), completion_power=2.0), few())
    known = np.array([0.75, 0.25, 1.0]) ** 2
    expected = [[known[0], known[1], 0], [known.mean(), 0, known[2]]]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_a_half_life_halves_from_the_last_event_on_and_by_the_last_of_a_pair() -> None:
    weights = table(Weighted(EASE(), half_life=10.0), few())
    assert weights[0].tolist() == [1, 0.5, 0]  # c0 was seen again at the end
    np.testing.assert_allclose(weights[1], [1 / 8, 0, 2**-0.5], rtol=1e-6)


def test_factors_are_multiplied() -> None:
    data = few()
    alone = [
        table(Weighted(EASE(), **kind), data)
        for kind in ({"rating_power": 1.5}, {"completion_power": 0.5}, {"half_life": 40.0})
    ]
    both = table(Weighted(EASE(), 1.5, 0.5, 40.0), data)
    np.testing.assert_allclose(both, np.prod(alone, axis=0), rtol=1e-5)


def test_no_viewing_is_forgotten() -> None:
    data = few()
    weights = Weighted(EASE(), half_life=0.01).weights(data)
    assert weights.nnz == data.matrix().nnz
    assert weights.dtype == np.float32
    assert weights.data.min() == np.float32(LEAST)
    none = replace(data, interactions=data.interactions.assign(completion=0.0))
    np.testing.assert_array_equal(
        table(Weighted(EASE(), completion_power=1.0), none), data.matrix().toarray() * 0.01
    )


def test_columns_that_are_not_there_weigh_nothing() -> None:
    data = few()
    bare = replace(
        data,
        interactions=data.interactions.drop(columns="completion"),
        reactions=data.reactions.iloc[:0].drop(columns="rating"),
    )
    stage = Weighted(EASE(), rating_power=1.0, completion_power=1.0)
    np.testing.assert_array_equal(table(stage, bare), data.matrix().toarray())
    unrated = replace(bare, reactions=data.reactions.iloc[:0])
    np.testing.assert_array_equal(table(stage, unrated), data.matrix().toarray())
    nothing = data.keep(np.zeros(len(data.interactions), bool))
    assert Weighted(EASE(), 1.0, 1.0, 5.0).weights(nothing).nnz == 0


def test_weights_equal_a_loop_over_pairs(data: Dataset) -> None:
    stage = Weighted(EASE(), rating_power=0.7, completion_power=1.3, half_life=25.0)
    events, weights = data.interactions, table(stage, data)
    rating = data.reactions.groupby(["user", "item"])["rating"].mean()
    usual = ((rating / 5) ** 0.7).reindex(events.groupby(["user", "item"]).size().index).mean()
    for (user, item), rows in events.groupby(["user", "item"]):
        rated = (rating[user, item] / 5) ** 0.7 if (user, item) in rating else usual
        age = (events["timestamp"].max() - rows["timestamp"].max()).total_seconds() / 86_400
        expected = rated * rows["completion"].mean() ** 1.3 * 2 ** (-age / 25)
        assert weights[user, item] == pytest.approx(max(expected, LEAST), rel=1e-5)
    assert (weights > 0).sum() == data.matrix().nnz


def test_data_that_carry_weights_are_weighed_once_more() -> None:
    data = few()
    before = data.matrix().copy()
    before.data[:] = [2.0, 0.5, 3.0, 0.25]
    stage = Weighted(EASE(), rating_power=1.0)
    twice = table(stage, replace(data, weights=before))
    np.testing.assert_allclose(twice, before.toarray() * table(stage, data), rtol=1e-6)
    assert before.data.tolist() == [2.0, 0.5, 3.0, 0.25]  # and are left as they were


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rating_power": -0.5}, r"powers -0\.5 and 0\.0: give 0, or more"),
        ({"completion_power": -1.0}, r"powers 0\.0 and -1\.0: give 0, or more"),
        ({"half_life": 0.0}, r"half_life 0\.0: give days above 0, or None"),
        ({"half_life": -3.0}, r"half_life -3\.0: give days above 0"),
        ({"half_life": float("nan")}, "half_life nan: give days above 0"),
    ],
)
def test_arguments_without_a_sense_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Weighted(EASE(), **arguments)


# As models take them in


@every_model
def test_a_model_of_equal_viewings_is_the_model_itself(model: Stage, data: Dataset) -> None:
    stage, slate = Weighted(model), everybody(data)
    np.testing.assert_array_equal(stage.weights(data).toarray(), data.matrix().toarray())
    weighed, bare = stage.fit(data)(slate), model.fit(data)(slate)
    assert list(weighed.parts) == list(bare.parts)
    np.testing.assert_array_equal(weighed.scores, bare.scores)


@every_model
@pytest.mark.parametrize(
    "weight", [{"rating_power": 1.0}, {"completion_power": 1.0}, {"half_life": 20.0}], ids=list
)
def test_weights_reach_the_model(model: Stage, weight: dict[str, float], data: Dataset) -> None:
    slate, known = everybody(data), slice(0, data.shape[0])
    stage = Weighted(model, **weight)
    weighed, bare = stage.fit(data)(slate).scores[known], model.fit(data)(slate).scores[known]
    assert np.abs(weighed - bare).max() > 0.01
    same = model.fit(replace(data, weights=stage.weights(data)))(slate)
    np.testing.assert_array_equal(weighed, same.scores[known])


@pytest.mark.parametrize("name", ["ease", "als", "itemknn"])
def test_a_title_that_weighs_more_says_more(name: str, data: Dataset) -> None:
    """User 0 finished one half of what they saw, or the other: that half is scored higher then."""
    events = data.interactions
    mine = np.unique(events.loc[events["user"] == 0, "item"])
    first, rest = mine[: len(mine) // 2], mine[len(mine) // 2 :]

    def scores(finished: np.ndarray) -> np.ndarray:
        full = (events["user"] != 0) | events["item"].isin(finished)
        seen = replace(data, interactions=events.assign(completion=np.where(full, 1.0, 0.05)))
        stage = Weighted(MODELS[name], completion_power=1.0)
        return stage.fit(seen)(Slate(pd.DataFrame({"user": [0]}), mine)).scores[0]

    gain = scores(first) - scores(rest)
    where = np.isin(mine, first)
    assert gain[where].mean() > gain[~where].mean()


def test_a_linear_score_is_a_sum_over_weighed_histories(data: Dataset) -> None:
    stage = Weighted(EASE(reg=10), rating_power=1.0, half_life=30.0)
    weights = stage.weights(data).toarray().astype(float)
    gram = weights.T @ weights + 10 * np.eye(data.shape[1])
    precision = np.linalg.inv(gram)
    between = -precision / np.diag(precision)
    np.fill_diagonal(between, 0)
    scores = stage.fit(data)(everybody(data)).scores[:-1]
    np.testing.assert_allclose(scores, weights @ between, rtol=1e-4, atol=1e-5)


@dataclass(frozen=True)
class Spy:
    """Notes the seeds that it is fitted with."""

    seeds: list[int] = field(default_factory=list)
    seed: int = 0

    def fit(self, data: Dataset) -> Step:
        self.seeds.append(self.seed)
        return lambda slate: slate


def test_the_seed_becomes_the_models(data: Dataset) -> None:
    spy = Spy()
    Weighted(spy, rating_power=1.0, seed=7).fit(data)
    Weighted(Weighted(spy, half_life=3.0), seed=2).fit(data)
    assert spy.seeds == [7, 2]


# What weights leave alone


@every_model
def test_strangers_are_served_what_was_viewed_whatever_the_weights(
    model: Stage, data: Dataset
) -> None:
    slate = Slate(pd.DataFrame({"user": [-1]}), np.arange(data.shape[1]))
    popular = Popular().fit(data)(slate).scores
    stage = Weighted(model, rating_power=2.0, completion_power=2.0, half_life=5.0)
    np.testing.assert_array_equal(stage.fit(data)(slate).scores, popular)


@every_model
def test_what_was_seen_is_hidden_however_little_it_weighs(model: Stage, data: Dataset) -> None:
    stage = Weighted(model, rating_power=2.0, completion_power=2.0, half_life=0.5)
    seen = data.matrix().toarray() > 0
    weighed = replace(data, weights=stage.weights(data))
    for lists in (
        chain(stage, ExcludeSeen(), top(40)).fit(data)(everybody(data)),
        top(40)(ExcludeSeen().fit(weighed)(stage.fit(data)(everybody(data)))),
    ):
        for user, items in enumerate(lists.items[:-1]):
            there = items[items != EMPTY]
            assert not seen[user, there].any()
            assert len(there) == (~seen[user]).sum()


def test_weighed_events_are_not_filtered(data: Dataset) -> None:
    weighed = replace(data, weights=Weighted(EASE(), half_life=9.0).weights(data))
    with pytest.raises(ValueError, match="filter the data before weighing them"):
        weighed.keep(np.ones(len(data.interactions), bool))


def test_warp_kos_takes_no_weights(data: Dataset) -> None:
    model = LightFM(components=4, epochs=1, loss="warp-kos")
    Weighted(model).fit(data)
    with pytest.raises(ValueError, match="k-OS WARP takes no weights: use another loss"):
        Weighted(model, half_life=9.0).fit(data)


def test_bpr_of_implicit_heeds_no_weights(data: Dataset) -> None:
    """Why no weights of it are searched."""
    model, slate = BPR(components=4, epochs=5), everybody(data)
    weighed = Weighted(model, half_life=9.0).fit(data)(slate).scores
    np.testing.assert_array_equal(weighed, model.fit(data)(slate).scores)


# Newcomers


def people(*each: int | tuple[int, ...]) -> pd.DataFrame:
    """Requests of users by their codes, and of newcomers by what they liked."""
    return pd.DataFrame(
        {
            "user": np.array([one if isinstance(one, int) else -1 for one in each], np.int32),
            LIKED: pd.Series([() if isinstance(one, int) else one for one in each], dtype=object),
            TRAITS: pd.Series([()] * len(each), dtype=object),
        }
    )


@pytest.mark.parametrize("kind", ["dense", "dual", "sparse"])
def test_accounts_of_newcomers_and_of_weighed_histories_add_up(kind: str, rich: Dataset) -> None:
    model = ItemKNN(neighbours=9) if kind == "sparse" else EASE(reg=10)
    stage = Weighted(model, rating_power=1.0, half_life=20.0)
    step = Newcomers(stage).fit(rich)
    if kind == "dual":
        weighed = replace(rich, weights=stage.weights(rich))
        step = replace(step, model=model._by_rows(weighed, model._rows(weighed)))
        assert isinstance(step.model, DualStep)
    asked, items = people(0, 5, (2, 9, 30), 12), np.tile(np.arange(0, 36, 4), (4, 1))
    slate = step(Slate(asked, items))
    account = step.account(slate)
    total = np.zeros(items.shape)
    np.add.at(total, account.row, account.by_title)
    np.testing.assert_allclose(account.lead, slate.parts["taste"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(total, slate.parts["taste"], rtol=1e-4, atol=1e-5)
    assert np.abs(total).min(axis=0).max() > 0
    mine = account.titles[account.row == 0]
    assert sorted(mine) == np.flatnonzero(rich.matrix().toarray()[0]).tolist()


@every_model
def test_newcomers_are_answered_by_weighed_models(model: Stage, rich: Dataset) -> None:
    stage = Weighted(model, completion_power=1.0, half_life=20.0)
    step = Newcomers(stage).fit(rich)
    slate = step(Slate(people(0, (2, 9, 30), -1), np.arange(36)))
    own = stage.fit(rich)(Slate(people(0), np.arange(36)))
    np.testing.assert_allclose(slate.scores[0], own.scores[0], rtol=1e-5, atol=1e-6)
    assert slate.parts["taste"][1].any()
    assert np.isfinite(slate.scores).all()
    popular = Popular().fit(rich)(Slate(people(-1), np.arange(36))).scores
    np.testing.assert_array_equal(slate.scores[2], popular[0])


def test_weights_are_sparse_of_float32(data: Dataset) -> None:
    weights = Weighted(EASE(), rating_power=1.0).weights(data)
    assert sparse.issparse(weights)
    assert weights.format == "csr"
    assert weights.shape == data.shape
    assert weights.dtype == np.float32
    assert weights.has_sorted_indices
