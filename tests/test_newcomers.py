"""People and titles without events, against optimisers, closed forms and loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, sparse
from scipy.special import log_softmax, logsumexp

from firetv import newcomers
from firetv.data import Dataset
from firetv.features import item_features, user_features
from firetv.models import ALS, BPR, EASE, ContentProfile, ItemKNN, LightFM, Popular
from firetv.newcomers import LIKED, TRAITS, FoldIn, Newcomers, NewcomersStep
from firetv.slate import EMPTY, Slate, Stage
from firetv.steps import DualStep, LinearStep

FACTORS = {
    "als": ALS(components=4, reg=1.0, epochs=5),
    "bpr": BPR(components=4, epochs=20),
    "lightfm": LightFM(components=4, epochs=10),
    "lightfm-hybrid": LightFM(
        components=4, epochs=10, use_user_features=True, use_item_features=True
    ),
    "content-profile": ContentProfile(),
}
SHARING = EASE(reg=10, use_item_features=True, feature_weight=1.5)  # scores titles without events
LINEAR = {"ease": EASE(reg=10), "ease-features": SHARING, "itemknn": ItemKNN(neighbours=5)}
EVERY = {**FACTORS, **LINEAR, "dual": EASE(reg=10)}
NEW, BARE, COLD_TITLE, BARE_TITLE = 27, 29, 36, 39  # see make_rich_tables

steps_of = pytest.mark.parametrize("name", EVERY)
factors_of = pytest.mark.parametrize("name", FACTORS)


@pytest.fixture(scope="module")
def steps(rich: Dataset) -> dict[str, NewcomersStep]:
    found = {name: Newcomers(stage).fit(rich) for name, stage in EVERY.items()}
    linear = found["ease"].model
    found["dual"] = replace(found["dual"], model=EASE(reg=10)._by_rows(rich, EASE()._rows(rich)))
    assert isinstance(linear, LinearStep)
    assert isinstance(found["dual"].model, DualStep)
    return found


def asked(*people: int | tuple[tuple[int, ...], tuple[int, ...]]) -> pd.DataFrame:
    """Requests of users by their codes, and of others by liked titles and traits."""
    new = [((), ()) if isinstance(each, int) else each for each in people]
    user = [each if isinstance(each, int) else -1 for each in people]
    return pd.DataFrame(
        {
            "user": np.array(user, np.int32),
            LIKED: pd.Series([liked for liked, _ in new], dtype=object),
            TRAITS: pd.Series([traits for _, traits in new], dtype=object),
        }
    )


PEOPLE = (0, -1, ((3,), ()), 5, ((), (1,)), NEW, ((2, 9, 30), (0, 4)), BARE, ((COLD_TITLE,), ()))


def taste_of(step: NewcomersStep, requests: pd.DataFrame) -> np.ndarray:
    items = np.arange(len(step.model.popularity))
    return step(Slate(requests, items)).parts["taste"].astype(float)


# Vectors


def loss(
    z: np.ndarray, fold: FoldIn, expected: np.ndarray, liked: tuple[int, ...], weight: np.ndarray
) -> float:
    """Minus the log of likelihood and prior, title by title."""
    scores = fold.item_factors.astype(float) @ (expected + fold.root @ z)
    log = log_softmax(fold.temperature * scores[fold.known])
    place = np.cumsum(fold.known) - 1
    return z @ z / 2 - sum(w * log[place[i]] for i, w in zip(liked, weight, strict=True))


def most_likely(
    fold: FoldIn, expected: np.ndarray, liked: tuple[int, ...], weight: np.ndarray | None = None
) -> np.ndarray:
    weight = np.ones(len(liked)) if weight is None else weight
    start = np.zeros(fold.root.shape[1])
    options = {"gtol": 1e-8}
    found = optimize.minimize(loss, start, (fold, expected, liked, weight), options=options)
    return expected + fold.root @ found.x


def expected_of(fold: FoldIn, step: NewcomersStep, requests: pd.DataFrame) -> np.ndarray:
    """Mean, and slopes of the traits in equal shares."""
    rows = []
    for user, traits in zip(requests["user"], requests[TRAITS], strict=True):
        share = np.zeros(len(step.profiles.names))
        if traits:
            share[list(traits)] = 1 / len(traits)
        elif user >= 0:
            share = step.profiles.matrix[[user]].toarray()[0]
        rows.append(fold.people.mean + share @ fold.people.slopes)
    return np.array(rows)


@factors_of
@pytest.mark.parametrize(
    "person", [((3,), ()), ((2, 9, 30), (0, 4)), ((8, 1, 21, 14, 33), ()), ((5, 5), (2,))]
)
def test_a_new_persons_vector_is_the_most_likely_one(
    name: str, person: tuple[tuple[int, ...], tuple[int, ...]], steps: dict[str, NewcomersStep]
) -> None:
    step, requests = steps[name], asked(person)
    expected = expected_of(step.fold, step, requests)[0]
    best = most_likely(step.fold, expected, person[0])
    found = step.of(requests).user_factors[0]
    unlike = np.abs(found - best).max() / np.abs(best - expected).max()
    assert unlike < 0.02
    np.testing.assert_allclose(
        taste_of(step, requests)[0], step.model.item_factors @ found, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_the_most_likely_vector_is_found_wherever_the_search_starts(scale: float) -> None:
    rng = np.random.default_rng(0)
    basis, prior = scale * rng.normal(size=(30, 4)), 5 * rng.normal(size=(8, 30))
    chosen = sparse.csr_array(rng.random((8, 30)) < 0.1 + 0.3 * rng.random((8, 1)), dtype=float)
    found = newcomers._most_likely(chosen, prior, basis)

    def gain(z: np.ndarray, row: int) -> float:
        log = log_softmax(prior[row] + basis @ z)
        return chosen.toarray()[row] @ log - z @ z / 2

    for row in range(8):
        best = optimize.minimize(lambda z, row=row: -gain(z, row), np.zeros(4))
        assert gain(found[row], row) > -best.fun - 1e-3
        assert gain(found[row], row) >= gain(np.zeros(4), row)


@factors_of
def test_without_liked_titles_a_vector_is_what_the_profile_lets_one_expect(
    name: str, steps: dict[str, NewcomersStep]
) -> None:
    step, requests = steps[name], asked(((), (1,)), NEW, ((), (0, 3, 5)))
    expected = expected_of(step.fold, step, requests)
    np.testing.assert_allclose(step.of(requests).user_factors, expected, rtol=1e-5, atol=1e-6)


@factors_of
def test_what_is_expected_is_a_ridge_regression_on_those_with_events(
    name: str, rich: Dataset, steps: dict[str, NewcomersStep]
) -> None:
    model = with_seed_of(FACTORS[name]).fit(rich)
    for features, vectors, met, reg, found in (
        (user_features(rich), model.user_factors, rich.user_counts > 0, 20.0, "people"),
        (item_features(rich), model.item_factors, rich.item_counts > 0, 5.0, "titles"),
    ):
        x = features.normalised().matrix.toarray()[met].astype(float)
        y, mean = vectors[met].astype(float), x.mean(axis=0)
        left = (x - mean).T @ (x - mean) + reg * np.eye(x.shape[1])
        slopes = np.linalg.solve(left, (x - mean).T @ (y - y.mean(axis=0)))
        expected = getattr(steps[name].fold, found)
        np.testing.assert_allclose(expected.slopes, slopes, rtol=1e-3, atol=1e-5)
        rows = y.mean(axis=0) + (x - mean) @ slopes
        np.testing.assert_allclose(expected.of(sparse.csr_array(x)), rows, rtol=1e-3, atol=1e-5)


def with_seed_of(stage: Stage) -> Stage:
    return replace(stage, seed=0) if hasattr(stage, "seed") else stage


@factors_of
def test_people_vary_around_what_is_expected_as_those_with_events_do(
    name: str, rich: Dataset, steps: dict[str, NewcomersStep]
) -> None:
    step, met = steps[name], rich.user_counts > 0
    rest = step.model.user_factors[met] - step.fold.people.of(step.profiles.matrix[met])
    expected = np.cov(rest.T, bias=True)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(step.fold.root @ step.fold.root.T, expected, atol=1e-4 * scale)
    np.testing.assert_allclose(step.fold.basis, step.model.item_factors @ step.fold.root, rtol=1e-6)


@factors_of
def test_no_other_temperature_makes_choices_likelier(
    name: str, rich: Dataset, steps: dict[str, NewcomersStep]
) -> None:
    step, met, known = steps[name], rich.user_counts > 0, rich.item_counts > 0
    scores = step.model.user_factors[met].astype(float) @ step.model.item_factors[known].T
    seen = rich.matrix().toarray()[met][:, known]

    def unlikely(temperature: float) -> float:
        total = logsumexp(temperature * scores, axis=1)
        return float(seen.sum(axis=1) @ total - temperature * (seen * scores).sum())

    best = step.fold.temperature
    assert unlikely(best) <= min(unlikely(best * 0.98), unlikely(best * 1.02))


@pytest.mark.parametrize("name", ["als", "lightfm-hybrid"])
def test_chunks_change_nothing(
    name: str, steps: dict[str, NewcomersStep], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, items = steps[name], np.tile(np.arange(7, 17), (len(PEOPLE), 1))
    slate = Slate(asked(*PEOPLE), items)
    whole = step(slate).scores, step.account(slate).by_title
    monkeypatch.setattr(newcomers, "CHUNK_CELLS", 300)
    np.testing.assert_allclose(step(slate).scores, whole[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(step.account(slate).by_title, whole[1], rtol=1e-3, atol=1e-4)


# Scores


@steps_of
def test_people_of_the_data_are_scored_as_ever(
    name: str, rich: Dataset, steps: dict[str, NewcomersStep]
) -> None:
    step = steps[name]
    slate = Slate(pd.DataFrame({"user": [0, 5, 26]}), np.arange(COLD_TITLE))
    found, plain = step(slate), step.model(slate)
    assert list(found.parts) == list(plain.parts) == ["taste"]
    np.testing.assert_array_equal(found.scores, plain.scores)
    np.testing.assert_array_equal(step.history(slate.requests).toarray(), seen(rich, [0, 5, 26]))


def seen(data: Dataset, users: list[int]) -> np.ndarray:
    return data.matrix().toarray()[users]


@steps_of
def test_of_whom_nothing_is_known_is_served_what_is_popular(
    name: str, rich: Dataset, steps: dict[str, NewcomersStep]
) -> None:
    people = asked(-1, BARE, ((COLD_TITLE,), ()), 0)
    slate = steps[name](Slate(people, np.arange(COLD_TITLE)))
    popular = np.log1p(rich.item_counts[:COLD_TITLE]).astype(np.float32)
    np.testing.assert_array_equal(slate.parts["popularity"][:3], np.tile(popular, (3, 1)))
    np.testing.assert_array_equal(slate.parts["taste"][:3], 0)
    np.testing.assert_array_equal(slate.parts["popularity"][3], 0)
    np.testing.assert_array_equal(steps[name].new(people), False)


@steps_of
def test_a_profile_says_something_to_models_of_vectors_only(
    name: str, steps: dict[str, NewcomersStep]
) -> None:
    told = steps[name].new(asked(((), (1,)), NEW, ((3,), ()), 0))
    assert told.tolist() == [name in FACTORS, name in FACTORS, True, False]


@pytest.mark.parametrize("name", [*LINEAR, "dual"])
def test_a_linear_model_reads_liked_titles_as_a_history(
    name: str, rich: Dataset, steps: dict[str, NewcomersStep]
) -> None:
    rows, columns = np.nonzero(seen(rich, [0, 5, 9]))
    liked = [tuple(columns[rows == row].tolist()) for row in range(3)]
    found = taste_of(steps[name], asked(*((titles, ()) for titles in liked)))
    theirs = taste_of(steps[name], asked(0, 5, 9))
    np.testing.assert_allclose(found, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["als", "lightfm", "lightfm-hybrid"])
def test_who_brings_somebodys_history_is_scored_much_as_they_are(
    name: str, rich: Dataset, steps: dict[str, NewcomersStep]
) -> None:
    step, users = steps[name], list(range(20))
    liked = [tuple(np.flatnonzero(row).tolist()) for row in seen(rich, users)]
    theirs = taste_of(step, asked(*users))[:, :COLD_TITLE]
    found = taste_of(step, asked(*((titles, ()) for titles in liked)))[:, :COLD_TITLE]
    alike = [np.corrcoef(one, other)[0, 1] for one, other in zip(found, theirs, strict=True)]
    assert np.mean(alike) > 0.9


@steps_of
@pytest.mark.parametrize("shared", [True, False])
def test_requests_do_not_depend_on_their_company(
    name: str, shared: bool, steps: dict[str, NewcomersStep]
) -> None:
    step, requests, items = steps[name], asked(*PEOPLE), np.arange(3, 38)
    own = items if shared else np.stack([np.roll(items, n)[:9] for n in range(len(PEOPLE))])
    together = step(Slate(requests, own))
    for row in range(len(PEOPLE)):
        one = requests.iloc[[row]]
        alone = step(Slate(one, own if shared else own[[row]]))
        for part, values in together.parts.items():
            theirs = alone.parts.get(part, np.zeros(alone.shape))
            np.testing.assert_allclose(theirs[0], values[row], rtol=1e-3, atol=1e-4)
    pd.testing.assert_frame_equal(together.requests, requests)


@factors_of
def test_a_profile_that_is_given_counts_in_place_of_the_one_in_the_data(
    name: str, steps: dict[str, NewcomersStep]
) -> None:
    step, given = steps[name], asked(NEW)
    given.at[0, TRAITS] = (1, 2)
    np.testing.assert_allclose(
        step.of(given).user_factors, step.of(asked(((), (1, 2)))).user_factors, rtol=1e-6
    )
    assert (step.of(given).user_factors != step.of(asked(NEW)).user_factors).any()


@steps_of
def test_liked_titles_count_as_seen_whether_or_not_anybody_met_them(
    name: str, steps: dict[str, NewcomersStep]
) -> None:
    history = steps[name].history(asked(((3, COLD_TITLE), ()), -1, 0))
    assert np.flatnonzero(history.toarray()[0]).tolist() == [3, COLD_TITLE]
    assert history[[1]].nnz == 0
    assert (history.toarray()[2] == steps[name].seen.toarray()[0]).all()
    one, both = (
        asked(((3,), ()), ((3, COLD_TITLE), ())),
        taste_of(steps[name], asked(((3,), ()), ((3, COLD_TITLE), ()))),
    )
    assert steps[name].new(one).all()
    np.testing.assert_allclose(both[0], both[1], rtol=1e-5, atol=1e-6)


@factors_of
def test_a_new_title_is_as_its_metadata_let_one_expect(
    name: str, rich: Dataset, steps: dict[str, NewcomersStep]
) -> None:
    step, plain = steps[name], with_seed_of(FACTORS[name]).fit(rich)
    expected = step.fold.titles.of(step.fold.metadata.matrix)
    new = slice(COLD_TITLE, BARE_TITLE)
    np.testing.assert_allclose(step.model.item_factors[new], expected[new], rtol=1e-5, atol=1e-6)
    others = [*range(COLD_TITLE), BARE_TITLE]
    np.testing.assert_array_equal(step.model.item_factors[others], plain.item_factors[others])


def test_other_models_are_refused_and_the_seed_is_the_models(rich: Dataset) -> None:
    with pytest.raises(ValueError, match=r"Popular\(\) cannot take in newcomers"):
        Newcomers(Popular()).fit(rich)
    seeded = Newcomers(FACTORS["als"], seed=3).fit(rich).model
    by_itself = replace(FACTORS["als"], seed=3).fit(rich)
    np.testing.assert_array_equal(seeded.user_factors, by_itself.user_factors)


def test_a_world_without_metadata_has_only_means(rich: Dataset) -> None:
    bare = replace(rich, users=rich.users[["user_id"]], content=rich.content[["content_id"]])
    step = Newcomers(FACTORS["als"]).fit(bare)
    assert step.fold.people.slopes.shape == (0, 4)
    scores = step(Slate(asked(((3, 5), ()), 0, -1), np.arange(40)))
    assert np.isfinite(scores.scores).all()
    assert scores.parts["taste"][0].any()
    assert step.account(scores).features.shape == (3, 40, 0)


# Accounts


@steps_of
def test_accounts_are_of_the_scores(name: str, steps: dict[str, NewcomersStep]) -> None:
    step, items = steps[name], np.tile(np.arange(12), (len(PEOPLE), 1))
    slate = step(Slate(asked(*PEOPLE), items))
    account = step.account(slate)
    taste, usual = slate.parts["taste"], 0.0
    if name in FACTORS:
        usual = taste_of(step, slate.requests)[:, step.fold.known].mean(axis=1)[:, None]
    np.testing.assert_allclose(account.lead, taste - usual, rtol=1e-3, atol=1e-4)
    history = (
        step.known_of(slate.requests)[0]
        + step.seen.toarray()[slate.users] * (slate.users >= 0)[:, None]
    )
    row, titles = np.nonzero(np.asarray(history))
    assert (np.diff(account.row) >= 0).all()
    met = account.titles < COLD_TITLE  # others are passed over, or contribute nothing
    assert not account.by_title[~met].any()
    pairs = sorted(zip(account.row[met].tolist(), account.titles[met].tolist(), strict=True))
    assert pairs == list(zip(row.tolist(), titles.tolist(), strict=True))


@steps_of
def test_the_account_of_a_stranger_is_of_zeros(name: str, steps: dict[str, NewcomersStep]) -> None:
    step = steps[name]
    account = step.account(step(Slate(asked(-1, BARE), np.tile(np.arange(9), (2, 1)))))
    for values in (account.lead, account.expected, account.features, account.by_title):
        assert not values.any()


@pytest.mark.parametrize("name", [*LINEAR, "dual"])
def test_a_linear_score_loses_exactly_what_a_title_contributes(
    name: str, steps: dict[str, NewcomersStep]
) -> None:
    step, liked = steps[name], (2, 9, 30, 31)
    items = np.array([[0, 5, 9, 17, 22]])
    slate = step(Slate(asked((liked, ())), items))
    account = step.account(slate)
    np.testing.assert_allclose(account.by_title.sum(axis=0), account.lead[0], atol=1e-5)
    for place, title in enumerate(account.titles):
        others = tuple(each for each in liked if each != title)
        less = step(Slate(asked((others, ())), items)).parts["taste"]
        lost = slate.parts["taste"][0] - less[0]
        np.testing.assert_allclose(account.by_title[place], lost, atol=1e-5)


@factors_of
def test_a_title_contributes_what_the_most_likely_vector_would_lose(
    name: str, steps: dict[str, NewcomersStep]
) -> None:
    step, liked, items = steps[name], (2, 9, 30), np.array([0, 5, 17, 22])
    account = step.account(Slate(asked((liked, (1,))), items[None]))
    expected = expected_of(step.fold, step, asked((liked, (1,))))[0]
    factors, known = step.fold.item_factors.astype(float), step.fold.known
    lead = factors[items] - factors[known].mean(axis=0)
    for place, title in enumerate(account.titles):
        eps, which = 0.02, np.array(liked) == title
        more, less = (
            most_likely(step.fold, expected, liked, np.where(which, 1 + by, 1.0))
            for by in (eps, -eps)
        )
        slope = lead @ (more - less) / (2 * eps)
        scale = max(np.abs(slope).max(), 1e-3)
        np.testing.assert_allclose(account.by_title[place], slope, atol=0.03 * scale)


@factors_of
def test_a_feature_contributes_what_a_title_has_of_it_beyond_the_average(
    name: str, rich: Dataset, steps: dict[str, NewcomersStep]
) -> None:
    step, items = steps[name], np.array([[0, 5, 17, COLD_TITLE, BARE_TITLE]])
    account = step.account(Slate(asked(7), items))
    features = item_features(rich).normalised().matrix.toarray()
    usual = features[rich.item_counts > 0].mean(axis=0)
    for slot, item in enumerate(items[0]):
        for place in range(len(account.names)):
            liking = step.model.user_factors[7] @ step.fold.titles.slopes[place]
            more = features[item, place] - usual[place]
            gain = liking * more if features[item, place] else 0.0
            assert account.features[0, slot, place] == pytest.approx(gain, rel=1e-3, abs=1e-5)


@factors_of
def test_what_is_expected_is_the_lead_without_a_history(
    name: str, steps: dict[str, NewcomersStep]
) -> None:
    step, items = steps[name], np.arange(9)[None]
    account = step.account(Slate(asked(((3, 8), (1, 4))), items))
    alone = step.account(Slate(asked(((), (1, 4))), items))
    np.testing.assert_allclose(account.expected, alone.lead, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(alone.expected, alone.lead, rtol=1e-3, atol=1e-5)
    assert np.abs(account.lead - account.expected).max() > 1e-3


@steps_of
def test_empty_slots_and_empty_batches_have_accounts_too(
    name: str, steps: dict[str, NewcomersStep]
) -> None:
    step = steps[name]
    account = step.account(Slate(asked(0), np.array([[3, EMPTY]])))
    assert np.isfinite(account.by_title).all()
    nobody = step(Slate(asked(), np.empty((0, 4), np.int64)))
    assert step.account(nobody).lead.shape == (0, 4)


# Likeness


@factors_of
def test_likeness_is_a_cosine_of_what_varies(
    name: str, rich: Dataset, steps: dict[str, NewcomersStep]
) -> None:
    fold, items = steps[name].fold, np.arange(COLD_TITLE)
    met = fold.item_factors[fold.known].astype(float).mean(axis=0)
    centred = (fold.item_factors[items] - met) @ fold.root
    length = np.linalg.norm(centred, axis=1)
    expected = centred @ centred.T / np.outer(length, length)
    found = np.stack([fold.likeness(int(title), items) for title in items])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-6)
