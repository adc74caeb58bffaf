"""Learners and stacking: what is learned, and from which events."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
from conftest import chosen_first, planted

from firetv import ranking
from firetv.choices import Choices, later_slice, newness
from firetv.context import ContextSignals
from firetv.data import Dataset
from firetv.models import EASE, ContentProfile, ItemKNN, Random, RecentPopular
from firetv.ranking import (
    Average,
    LambdaMART,
    Learner,
    Logit,
    Prepared,
    Ranker,
    centred,
    standardised,
)
from firetv.signals import Traits
from firetv.slate import EMPTY, ExcludeSeen, Slate, Step, best, recommend, top, with_seed

TREES = LambdaMART(trees=20, min_leaf=20)
MOMENT = ContextSignals(dimensions=("daypart", "daytype"), widths=(1.0,))
LEARNERS: dict[str, Learner] = {
    "logit": Logit(),
    "lambdamart": TREES,
    "average": Average((Logit(), TREES)),
    "xendcg": replace(TREES, objective="rank_xendcg"),
}
MODELS = {"ease": EASE(10), "recent": RecentPopular(240), "profile": ContentProfile()}
RANKERS = {
    **{name: Ranker(MODELS, (MOMENT,), each, folds=2) for name, each in LEARNERS.items()},
    "one-fold": Ranker(MODELS, (MOMENT,), folds=1),
    "models-alone": Ranker(MODELS, folds=2, keep=5),
    "newcomers": Ranker(MODELS, (MOMENT,), folds=2, newness=3.0),
    "head": Ranker(MODELS, (MOMENT,), folds=4, rounds=1, head=15),
}
LENGTHS = {"models-alone": 5, "head": 15}  # of lists; all others rank all 40
every_learner = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)
every_ranker = pytest.mark.parametrize("name", RANKERS)


@pytest.fixture(scope="module")
def fitted(data: Dataset) -> dict[str, Step]:
    return {name: ranker.fit(data) for name, ranker in RANKERS.items()}


def requests(*users: int) -> pd.DataFrame:
    """One request a day, at another hour each."""
    at = pd.Timestamp("2024-02-15", tz="UTC") + pd.to_timedelta(25 * np.array(users), unit="h")
    return pd.DataFrame({"user": np.array(users, np.int32), "at": at})


def pairs(frame: pd.DataFrame) -> set[tuple[int, int]]:
    return set(zip(frame["user"], frame["item"], strict=True))


# ------------------------------------------------------------------ scales


def test_rows_are_centred_and_scaled_over_their_items_alone() -> None:
    rng = np.random.default_rng(0)
    valid = rng.random((20, 9)) < 0.7
    values = np.where(valid, rng.normal(5, 3, size=(20, 9)), -np.inf).astype(np.float32)
    scales = ((centred, values[valid].std()), (standardised, 1.0))
    for scale, deviation in scales:
        got = scale(values, valid)
        assert (got[~valid] == 0).all()
        for row, there in zip(got, valid, strict=True):
            assert row[there].mean() == pytest.approx(0, abs=1e-5)
        assert got[valid].std() == pytest.approx(deviation, rel=0.2)
    for row, raw, there in zip(standardised(values, valid), values, valid, strict=True):
        expected = (raw[there] - raw[there].mean()) / raw[there].std()
        np.testing.assert_allclose(row[there], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [centred, standardised])
def test_a_row_that_says_nothing_is_zero(
    scale: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> None:
    same, none = np.full((1, 4), 2.0, np.float32), np.full((1, 4), -np.inf, np.float32)
    np.testing.assert_array_equal(scale(same, np.ones((1, 4), bool)), np.zeros((1, 4)))
    np.testing.assert_array_equal(scale(none, np.zeros((1, 4), bool)), np.zeros((1, 4)))


def test_rounding_is_not_scaled_up_to_a_feature() -> None:
    same = np.array([[0.1] * 40, [3.3] * 40], np.float32)
    np.testing.assert_array_equal(standardised(same, np.ones((2, 40), bool)), np.zeros((2, 40)))


# ------------------------------------------------------------------ learners


@every_learner
def test_a_useful_feature_is_used_and_noise_is_not(learner: Learner) -> None:
    choices = chosen_first(*planted([0.0, 1.0, 0.0]))
    rows = choices.features.reshape(-1, 3)
    scorer = learner.fit(choices)
    weight = scorer.contributions(rows).std(axis=0)
    assert weight[1] > 4 * max(weight[0], weight[2])
    score = scorer.score(rows).reshape(choices.valid.shape)
    truth = choices.features[:, :, 1].argmax(axis=1)
    assert (score.argmax(axis=1) == truth).mean() > 0.8


@every_learner
def test_contributions_add_up_to_the_score_but_for_a_constant(learner: Learner) -> None:
    choices = chosen_first(*planted([0.4, 1.0, -0.3]))
    scorer = learner.fit(choices)
    rows = np.random.default_rng(5).normal(size=(500, 3)).astype(np.float32)
    score, shares = scorer.score(rows), scorer.contributions(rows)
    assert score.shape == (500,)
    assert shares.shape == (500, 3)
    assert np.ptp(score - shares.sum(axis=1)) <= 1e-6 * np.abs(score).max()


@every_learner
def test_learners_repeat_bit_for_bit_and_cross_processes(learner: Learner) -> None:
    choices = chosen_first(*planted([0.4, 1.0]))
    rows = choices.features.reshape(-1, 2)[:400]
    first = learner.fit(choices)
    for other in (learner.fit(choices), pickle.loads(pickle.dumps(first))):
        np.testing.assert_array_equal(other.score(rows), first.score(rows))
        np.testing.assert_array_equal(other.contributions(rows), first.contributions(rows))


@every_learner
def test_learners_ignore_slots_without_an_item(learner: Learner) -> None:
    choices = chosen_first(*planted([1.0, 0.0]))
    padded = Choices(
        np.concatenate([choices.features, np.full_like(choices.features[:, :2], 9)], axis=1),
        np.pad(choices.valid, ((0, 0), (0, 2))),
        choices.names,
    )
    rows = choices.features.reshape(-1, 2)[:400]
    a, b = learner.fit(choices).score(rows), learner.fit(padded).score(rows)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_trees_find_what_no_weighted_sum_can() -> None:
    x = np.random.default_rng(0).normal(size=(3000, 8, 1)).astype(np.float32)
    chosen = np.abs(x[:, :, 0]).argmin(axis=1)  # neither high nor low
    choices = chosen_first(x, chosen)
    hits = {}
    for name in ("logit", "lambdamart"):
        score = LEARNERS[name].fit(choices).score(x.reshape(-1, 1)).reshape(3000, 8)
        hits[name] = (score.argmax(axis=1) == chosen).mean()
    assert hits["logit"] < 0.3
    assert hits["lambdamart"] > 0.6


def test_trees_differ_by_their_seed() -> None:
    choices = chosen_first(*planted([1.0, 0.5]))
    assert TREES.fit(choices).text != replace(TREES, seed=1).fit(choices).text


def test_an_average_gives_each_learner_the_same_say() -> None:
    choices = chosen_first(*planted([1.0, 0.5]))
    rows = choices.features.reshape(-1, 2)
    logit, trees = Logit().fit(choices).score(rows), TREES.fit(choices).score(rows)
    both = Average((Logit(), TREES)).fit(choices).score(rows)
    np.testing.assert_allclose(both, (logit / logit.std() + trees / trees.std()) / 2, rtol=1e-6)


def test_an_average_hands_its_seed_on() -> None:
    choices = chosen_first(*planted([1.0, 0.5]))
    mean = Average((TREES,), seed=3).fit(choices)
    assert mean.scorers[0] == with_seed(TREES, 3).fit(choices)


# ------------------------------------------------------------------ rankers


@every_ranker
def test_a_refitted_ranker_gives_the_same_lists(
    name: str, data: Dataset, fitted: dict[str, Step]
) -> None:
    slate = Slate(requests(0, 5, -1), np.arange(data.shape[1]))
    a, b = fitted[name](slate), RANKERS[name].fit(data)(slate)
    np.testing.assert_array_equal(a.items, b.items)
    np.testing.assert_array_equal(a.scores, b.scores)


@every_ranker
def test_a_ranker_does_not_mutate_its_slate(
    name: str, data: Dataset, fitted: dict[str, Step]
) -> None:
    items = np.arange(data.shape[1])
    items.flags.writeable = False
    before = Slate(requests(1, 2), items)
    frame = before.requests.copy()
    after = fitted[name](before)
    assert not before.parts
    pd.testing.assert_frame_equal(before.requests, frame)
    assert all(part.dtype == np.float32 for part in after.parts.values())


@every_ranker
def test_the_ledger_orders_the_list_of_unseen_items(
    name: str, data: Dataset, fitted: dict[str, Step]
) -> None:
    users = [*range(data.shape[0]), -1]
    slate = fitted[name](Slate(requests(*users), np.arange(data.shape[1])))
    there = slate.items != EMPTY
    assert there[:, :5].all()
    drop = np.diff(np.where(there, slate.scores, -1e9), axis=1)
    assert (drop <= 1e-5).all()
    seen = data.matrix().toarray()[slate.users] * (slate.users >= 0)[:, None]
    rows, slots = np.nonzero(there)
    assert not seen[rows, slate.items[rows, slots]].any()
    assert (np.diff(np.sort(slate.items, axis=1), axis=1)[np.sort(there, axis=1)[:, :-1]] > 0).all()


@every_ranker
def test_the_ledger_has_a_part_for_each_group_of_features(
    name: str, data: Dataset, fitted: dict[str, Step]
) -> None:
    slate = fitted[name](Slate(requests(0, -1), np.arange(data.shape[1])))
    moment = ["context:daypart", "context:daytype", "context:joint"]
    context = [] if name == "models-alone" else moment
    assert list(slate.parts) == [*MODELS, *context]
    assert slate.shape == (2, LENGTHS.get(name, data.shape[1]))


@every_ranker
def test_neither_company_nor_order_nor_chunks_change_lists(
    name: str, data: Dataset, fitted: dict[str, Step]
) -> None:
    users = np.random.default_rng(0).permutation(np.arange(-1, data.shape[0]))
    items, asked = np.arange(data.shape[1]), requests(*users)
    whole = recommend(fitted[name], asked, items)
    small = recommend(fitted[name], asked, items, chunk_cells=4 * len(items))
    turned = recommend(fitted[name], asked[::-1], items)
    for other in (small.items, turned.items[::-1]):
        np.testing.assert_array_equal(other, whole.items)
    for part, values in whole.parts.items():
        np.testing.assert_allclose(small.parts[part], values, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(turned.parts[part][::-1], values, rtol=1e-4, atol=1e-5)


@every_ranker
def test_own_candidates_rank_as_shared_ones(
    name: str, data: Dataset, fitted: dict[str, Step]
) -> None:
    shared = np.random.default_rng(0).permutation(data.shape[1])[:20]
    own = np.pad(np.tile(shared, (3, 1)), ((0, 0), (0, 1)), constant_values=EMPTY)
    a = top(3)(fitted[name](Slate(requests(0, 3, -1), shared)))
    b = top(3)(fitted[name](Slate(requests(0, 3, -1), own)))
    np.testing.assert_array_equal(a.items, b.items)
    np.testing.assert_allclose(a.scores, b.scores, rtol=1e-4, atol=1e-5)


@every_ranker
def test_no_event_after_the_cut_reaches_a_ranker(name: str, data: Dataset) -> None:
    cut = data.interactions["timestamp"].quantile(0.7)
    other = data.interactions.copy()
    other.loc[other["timestamp"] >= cut, "item"] = 0
    slate = Slate(requests(0, 1, -1), np.arange(data.shape[1]))
    a = RANKERS[name].fit(data.until(cut))(slate)
    b = RANKERS[name].fit(replace(data, interactions=other).until(cut))(slate)
    np.testing.assert_array_equal(a.items, b.items)
    np.testing.assert_array_equal(a.scores, b.scores)


@every_ranker
def test_a_fitted_ranker_crosses_processes(
    name: str, data: Dataset, fitted: dict[str, Step]
) -> None:
    copy = pickle.loads(pickle.dumps(fitted[name]))
    users, items = requests(0, 3, -1), np.arange(data.shape[1])
    a, b = recommend(fitted[name], users, items), recommend(copy, users, items)
    np.testing.assert_array_equal(a.items, b.items)
    np.testing.assert_array_equal(a.scores, b.scores)


def test_a_ranker_trusts_a_model_that_knows_over_one_that_guesses(data: Dataset) -> None:
    models = {"chance": Random(), "ease": EASE(10)}
    slate = Ranker(models).fit(data)(Slate(requests(*range(30)), np.arange(data.shape[1])))
    there = slate.items != EMPTY
    assert slate.parts["ease"][there].std() > 4 * slate.parts["chance"][there].std()


@pytest.mark.parametrize("learner", [Logit(), TREES], ids=["logit", "lambdamart"])
@pytest.mark.parametrize("signals", [(), (MOMENT,)], ids=["bare", "moment"])
def test_some_features_learn_as_a_ranker_of_these_alone(
    learner: Learner, signals: tuple[ContextSignals, ...], data: Dataset
) -> None:
    more = Ranker({"knn": ItemKNN(), **MODELS}, signals, folds=2).prepare(data)
    less = Ranker(MODELS, signals, learner, folds=2)
    names = [name for name in reversed(more.choices.names) if name != "knn"]
    same = more.choices.select(names)
    np.testing.assert_array_equal(same.features, less.prepare(data).choices.features)
    slate = Slate(requests(*range(30), -1), np.arange(data.shape[1]))
    a, b = more.learn(learner, names)(slate), less.fit(data)(slate)
    np.testing.assert_array_equal(a.items, b.items)
    assert list(a.parts) == list(b.parts)
    for part, values in a.parts.items():
        np.testing.assert_array_equal(values, b.parts[part])


@every_ranker
def test_no_requests_have_no_lists(name: str, data: Dataset, fitted: dict[str, Step]) -> None:
    ranked = fitted[name](Slate(requests(), np.arange(data.shape[1])))
    assert ranked.shape == (0, LENGTHS.get(name, data.shape[1]))
    assert fitted[name](Slate(requests(0, -1), np.arange(0))).shape == (2, 0)


@every_ranker
def test_a_large_slate_is_ranked_in_chunks(
    name: str, data: Dataset, fitted: dict[str, Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    slate = Slate(requests(*range(20), -1), np.arange(data.shape[1]))
    whole = fitted[name](slate)
    monkeypatch.setattr(ranking, "CHUNK_CELLS", 6 * data.shape[1])
    small = fitted[name](slate)
    np.testing.assert_array_equal(small.items, whole.items)
    np.testing.assert_allclose(small.scores, whole.scores, rtol=1e-4, atol=1e-5)


@dataclass(frozen=True)
class Moody:
    """A signal with other parts, in another order, in each fit: of nothing, a, b and a, ..."""

    moods: tuple[tuple[str, ...], ...]
    fits: list[None] = field(default_factory=list)

    def fit(self, data: Dataset) -> Step:
        self.fits.append(None)
        return MoodyStep(self.moods[len(self.fits) - 1], np.log1p(data.item_counts))


@dataclass(frozen=True)
class MoodyStep:
    names: tuple[str, ...]
    popularity: np.ndarray

    def __call__(self, slate: Slate) -> Slate:
        values = {"useful": self.popularity[slate.items], "useless": slate.items % 7 / 7}
        for name in self.names:
            slate = slate.add(name, np.broadcast_to(values[name], slate.shape))
        return slate


def test_features_are_told_apart_by_name_where_fits_differ(data: Dataset) -> None:
    both = ("useful", "useless")
    same = Ranker({}, (Moody((both,) * 3),), folds=2)
    moody = Ranker({}, (Moody((both, both[::-1], both[::-1])),), folds=2)
    slate = Slate(requests(0, 1), np.arange(data.shape[1]))
    a, b = same.fit(data)(slate), moody.fit(data)(slate)
    for name in both:
        np.testing.assert_allclose(a.parts[name], b.parts[name], rtol=1e-5)
    for moods in ((both, (both[0],), both), (both, both, (both[0],)), ((both[0],), both, both)):
        some = Ranker({}, (Moody(moods),), folds=2).fit(data)(slate)
        assert list(some.parts) == [*both]
        assert np.isfinite(some.scores).all() or (some.items == EMPTY).any()


def test_a_dimension_that_only_all_the_data_know_enough_of_is_no_obstacle(data: Dataset) -> None:
    rng = np.random.default_rng(0)
    weather = pd.Series(None, index=data.interactions.index, dtype="str")
    weather.iloc[rng.permutation(len(weather))[:33]] = rng.choice(["sunny", "rainy"], 33)
    rare = replace(data, interactions=data.interactions.assign(weather=weather))
    ranked = Ranker(MODELS, (ContextSignals(),)).fit(rare)
    slate = ranked(Slate(requests(0, -1).assign(weather="sunny"), np.arange(data.shape[1])))
    assert set(MODELS) < set(slate.parts)


def test_a_signal_may_speak_of_strangers_alone(data: Dataset) -> None:
    ranked = Ranker({}, (ItemKNN(),), folds=2).fit(data)
    known, both = (
        ranked(Slate(requests(*users), np.arange(data.shape[1]))) for users in ((0,), (0, -1))
    )
    np.testing.assert_array_equal(known.items[0], both.items[0])


def test_moments_that_never_differ_say_nothing(data: Dataset) -> None:
    once = data.interactions.assign(timestamp=pd.Timestamp("2024-01-01T00:00Z"))
    step = ContextSignals().fit(replace(data, interactions=once))
    for part in step(Slate(requests(0, 1), np.arange(data.shape[1]))).parts.values():
        np.testing.assert_allclose(part, 0, atol=1e-6)


def test_features_that_there_are_not_are_refused(data: Dataset) -> None:
    ready = Ranker({"ease": EASE(10)}, folds=2).prepare(data)
    with pytest.raises(KeyError, match=r"no features \['eas'\]: there are ease"):
        ready.learn(Logit(), ["eas"])


def test_the_seed_of_a_ranker_reaches_its_learner(data: Dataset) -> None:
    ranker = Ranker({"ease": EASE(10)}, learner=TREES, folds=2, seed=5)
    same = ranker.prepare(data).learn(replace(TREES, seed=5))
    assert ranker.fit(data).scorer == same.scorer


# ------------------------------------------------------------------ newcomers


def test_every_model_counts_once_more_for_newcomers(data: Dataset) -> None:
    ready = RANKERS["newcomers"].prepare(data)
    models = [name for model in MODELS for name in (model, f"{model}/new")]
    assert list(ready.choices.names[:6]) == models
    assert all(name.startswith("context:") for name in ready.choices.names[6:])
    slate = ready.features(Slate(requests(0, 3, -1), np.arange(data.shape[1])))
    new = newness(data, 3.0)[slate.users][:, None]
    assert new[-1] == 1
    for model in MODELS:
        expected = new * slate.parts[model]
        np.testing.assert_allclose(slate.parts[f"{model}/new"], expected, rtol=1e-6)


def test_some_of_the_choices_are_made_by_newcomers(data: Dataset) -> None:
    spy = Spy()
    choices = Ranker({"spy": spy}, folds=2, newness=3.0).prepare(data).choices
    again, once = choices.names.index("spy/new"), choices.names.index("spy")
    with np.errstate(invalid="ignore"):
        new = choices.features[:, 0, again] / choices.features[:, 0, once]
    assert new.max() == pytest.approx(1)  # of whom nothing is known
    assert np.mean(new > 3 / (3 + 6)) == pytest.approx(0.5, abs=0.15)
    hidden = [train for train, asked in spy.fits if asked]
    assert all((train.user_counts == 0).any() for train in hidden)
    assert (data.user_counts > 6).all()


def test_features_for_newcomers_can_be_left_out_by_name(data: Dataset) -> None:
    ready = RANKERS["newcomers"].prepare(data)
    slate = Slate(requests(0, 3, -1), np.arange(data.shape[1]))
    for names in (["ease"], ["ease/new"], ["recent", "ease/new"]):
        step = ready.learn(Logit(), names)
        assert set(step.features.names) == set(names)
        assert set(step.features(slate).parts) == set(names)
        groups = {name.removesuffix("/new") for name in names}
        assert set(step(slate).parts) == groups


def test_the_ledger_is_the_score_of_all_features(data: Dataset) -> None:
    step = RANKERS["newcomers"].fit(data)
    items = np.arange(data.shape[1])
    ranked = step(Slate(requests(0, 3, -1), items))
    features = step.features(step.unseen(Slate(requests(0, 3, -1), items)))
    weights = dict(zip(step.features.names, step.scorer.weights, strict=True))
    there = ranked.items != EMPTY
    total = sum(weights[name] * part.astype(float) for name, part in features.parts.items())
    expected = np.take_along_axis(total, np.where(there, ranked.items, 0), axis=1)
    np.testing.assert_allclose(ranked.scores[there], expected[there], rtol=1e-4, atol=1e-5)
    group = weights["ease"] * features.parts["ease"]
    group = group + weights["ease/new"] * features.parts["ease/new"]
    expected = np.take_along_axis(group, np.where(there, ranked.items, 0), axis=1)
    np.testing.assert_allclose(ranked.parts["ease"][there], expected[there], rtol=1e-4, atol=1e-5)


def test_newness_must_be_above_zero(data: Dataset) -> None:
    with pytest.raises(ValueError, match="newness 0 must be above 0"):
        Ranker(MODELS, folds=2, newness=0).fit(data)


def test_a_logit_may_keep_weights_at_or_above_zero() -> None:
    choices = chosen_first(*planted([1.0, -0.8, 0.5]))
    free, held = Logit(l2=5.0).fit(choices), Logit(l2=5.0, nonnegative=True).fit(choices)
    assert free.weights[1] < -0.5
    assert held.weights[1] == 0
    without = Logit(l2=5.0).fit(choices.select(["feature0", "feature2"]))
    np.testing.assert_allclose(held.weights[[0, 2]], without.weights, atol=1e-4)


# ------------------------------------------------------------------ out of fold


@dataclass(frozen=True)
class Spy:
    """Notes what it is fitted on, and the requests that each fit is then asked."""

    fits: list[tuple[Dataset, list[pd.DataFrame]]] = field(default_factory=list)

    def fit(self, data: Dataset) -> Step:
        asked: list[pd.DataFrame] = []
        self.fits.append((data, asked))
        return SpyStep(asked)


@dataclass(frozen=True)
class SpyStep:
    """Scores an item by its code, so that a feature tells which item it is of."""

    asked: list[pd.DataFrame]

    def __call__(self, slate: Slate) -> Slate:
        self.asked.append(slate.requests)
        return slate.add("spy", slate.grid)


def numbered(data: Dataset) -> Dataset:
    """Every event with its number in a column, which requests keep."""
    events = data.interactions
    return replace(data, interactions=events.assign(event=np.arange(len(events))))


def prepared(ranker: Ranker, data: Dataset) -> tuple[Prepared, list[tuple[Dataset, pd.DataFrame]]]:
    """What a ranker prepares from, and each fit of its spy with the requests it was asked."""
    result = ranker.prepare(data)
    fits = ranker.models["spy"].fits
    return result, [(train, pd.concat(asked)) for train, asked in fits if asked]


def test_features_come_from_models_that_never_saw_the_event(data: Dataset) -> None:
    data, ranker = numbered(data), Ranker({"spy": Spy()}, folds=4)
    result, fits = prepared(ranker, data)
    assert len(ranker.models["spy"].fits) == 5  # four folds, and all the data
    np.testing.assert_array_equal(ranker.models["spy"].fits[-1][0].matrix().nnz, data.matrix().nnz)
    assert len(fits) == 4  # the fit on all the data is asked nothing
    events = data.interactions.set_index("event")
    for train, asked in fits:
        assert len(asked)
        held_out = events.loc[asked["event"]]
        assert not pairs(held_out) & pairs(train.interactions)
        assert not pairs(held_out) & pairs(train.reactions)
        assert (held_out["timestamp"].to_numpy() == asked["at"].to_numpy()).all()
    asked = pd.concat([asked["event"] for _, asked in fits])
    assert asked.is_unique
    assert len(result.choices.valid) == len(asked)
    once = events.groupby(["user", "item"])["completion"].transform("size") == 1
    assert set(events.index[once]) <= set(asked)  # all but repeated pairs and unknown items


def test_one_fold_learns_from_the_last_fifth_alone(data: Dataset) -> None:
    data, ranker = numbered(data), Ranker({"spy": Spy()}, folds=1)
    _, fits = prepared(ranker, data)
    train, late = later_slice(data, 0.2)
    assert len(fits) == 1
    pd.testing.assert_frame_equal(fits[0][0].interactions, train.interactions)
    assert fits[0][1]["event"].tolist() == late["event"].tolist()
    assert fits[0][1]["at"].min() > train.interactions["timestamp"].max()


def test_features_are_those_of_the_items_that_were_drawn(data: Dataset) -> None:
    """The spy scores by item code: over the candidates, standardised codes keep their distance."""
    result, _ = prepared(Ranker({"spy": Spy()}, folds=1, negatives=15), data)
    train, late = later_slice(data, 0.2)
    seen, pool = train.matrix().toarray() > 0, train.item_counts > 0
    assert result.choices.features.shape == (len(late), 16, 1)
    for row, (user, item) in enumerate(zip(late["user"], late["item"], strict=True)):
        open_to = np.flatnonzero(pool & ~seen[user])
        codes = result.choices.features[row, :, 0] * open_to.std() + open_to.mean()
        valid = result.choices.valid[row]
        assert codes[0] == pytest.approx(item, abs=1e-3)
        assert set(np.round(codes[1:][valid[1:]])) <= {*open_to} - {item}


def test_the_clock_of_a_request_is_that_of_its_event(data: Dataset) -> None:
    """Every choice is scored at its own time: recency must see the event's neighbours."""
    recent = Ranker({"recent": RecentPopular(12)}, folds=2).fit(data)
    early, late = requests(3), requests(3).assign(at=pd.Timestamp("2024-03-20T12:00Z"))
    items = np.arange(data.shape[1])
    a, b = recent(Slate(early, items)), recent(Slate(late, items))
    assert set(a.items[0]) == set(b.items[0])
    assert (a.items != b.items).any()


def test_the_seed_of_a_ranker_moves_its_folds_draws_and_models(data: Dataset) -> None:
    first = Ranker({"chance": Random(), "ease": EASE(10)}, folds=2)
    a, b = (with_seed(first, seed).prepare(data).choices for seed in (0, 1))
    assert a.valid.shape != b.valid.shape or (a.valid != b.valid).any()
    items = np.arange(data.shape[1])
    steps = (with_seed(first, seed).prepare(data).features for seed in (0, 1))
    chance = [step(Slate(requests(0), items)).parts["chance"] for step in steps]
    assert (chance[0] != chance[1]).any()


# ------------------------------------------------------------------ heads


BOTH = {"ease": EASE(10), "spy": ItemKNN(neighbours=5)}


def head_of(data: Dataset, head: int, ranker: Ranker) -> list[tuple[int, list[int], np.ndarray]]:
    """User, head by hand, and its features, of every event of the last fifth in turn."""
    train, late = later_slice(data, 0.2)
    seen, pool = train.matrix().toarray() > 0, np.flatnonzero(train.item_counts)
    steps = [stage.fit(train) for stage in ranker.models.values()]
    found = []
    for user, at in zip(late["user"], late["timestamp"], strict=True):
        open_to = pool[~seen[user, pool]]
        asked = Slate(pd.DataFrame({"user": [user], "at": [at]}), open_to)
        scores = [step(asked).scores[0].astype(float) for step in steps]
        scores = np.array([(each - each.mean()) / each.std() for each in scores])
        first = np.argsort(-scores.sum(axis=0), kind="stable")[:head]
        found.append((user, open_to[first].tolist(), scores[:, first].T))
    return found


def test_alternatives_are_the_head_of_the_sum_over_models(data: Dataset) -> None:
    ranker = Ranker(BOTH, folds=1, head=9)
    choices = ranker.prepare(data).choices
    _, late = later_slice(data, 0.2)
    chosen = late.groupby("user")["item"].agg(set)
    row, missed = 0, 0
    heads = head_of(data, 9, ranker)
    for item, (user, head, features) in zip(late["item"], heads, strict=True):
        if item not in head:
            missed += 1
            continue
        there = [place for place, each in enumerate(head) if each not in chosen[user]]
        expected = features[[head.index(item), *there]]
        valid = choices.valid[row]
        assert valid[0]
        np.testing.assert_allclose(choices.features[row][valid], expected, rtol=1e-3, atol=1e-4)
        row += 1
    assert row == len(choices.valid) > 20  # what was chosen outside is not learned from
    assert missed > 20
    assert choices.valid.shape == (row, 9)
    assert (~choices.valid).any()  # the same user chose more of the head


@dataclass(frozen=True)
class ByCode:
    """A model that prefers items by their code: the head is known by heart."""

    def fit(self, data: Dataset) -> Step:
        return lambda slate: slate.add("code", np.where(slate.grid == EMPTY, 0, -slate.grid))


def picked(user: int, items: list[int]) -> tuple[pd.DataFrame, np.ndarray]:
    """Events of a user, and the codes that they chose."""
    at = pd.Timestamp("2024-03-20", tz="UTC")
    return pd.DataFrame({"user": user, "item": items, "timestamp": at}), np.array(items)


def test_other_choices_of_the_same_user_are_no_alternatives(data: Dataset) -> None:
    ranker = Ranker({"code": ByCode()})
    unseen = np.flatnonzero(data.matrix()[[3]].toarray()[0] == 0)
    events, _ = picked(3, [unseen[0], unseen[2], unseen[30 if len(unseen) > 30 else -1]])
    choices = ranker._features(data).choices_of_head(events, data, head=5)
    code = -unseen.astype(float)
    code = (code - code.mean()) / code.std()
    assert choices.valid.sum(axis=1).tolist() == [4, 4]  # the third is outside
    for row, own, other in ((0, 0, 2), (1, 2, 0)):
        expected = code[[own, *(n for n in range(5) if n not in (own, other))]]
        valid = choices.valid[row]
        np.testing.assert_allclose(choices.features[row, valid, 0], expected, rtol=1e-4)


def test_what_other_users_chose_is_an_alternative(data: Dataset) -> None:
    ranker = Ranker({"code": ByCode()})
    three, four = (np.flatnonzero(data.matrix()[[u]].toarray()[0] == 0) for u in (3, 4))
    events = pd.concat([picked(3, [three[0]])[0], picked(4, [four[1]])[0]], ignore_index=True)
    choices = ranker._features(data).choices_of_head(events, data, head=5)
    assert choices.valid.all()
    assert choices.valid.shape == (2, 5)


def test_nothing_in_the_head_is_nothing_to_learn_from(data: Dataset) -> None:
    unseen = np.flatnonzero(data.matrix()[[3]].toarray()[0] == 0)
    events, _ = picked(3, [unseen[-1]])
    choices = Ranker({"code": ByCode()})._features(data).choices_of_head(events, data, head=5)
    assert choices.valid.shape == (0, 5)
    with pytest.raises(ValueError, match="at least one choice"):
        Logit().fit(choices)


def test_a_head_may_be_longer_than_there_are_candidates(data: Dataset) -> None:
    """Folds need not know the same number of titles: here some title is of one fold alone."""
    once = data.keep((data.interactions["item"] >= 4) | (np.arange(600) % 40 == 3))
    ranker = Ranker({"ease": EASE(10)}, folds=3, head=100)
    pools = [np.count_nonzero(train.item_counts) for train, _ in folds_of(ranker, once)]
    assert len(set(pools)) > 1
    ranked = ranker.fit(once)(Slate(requests(0, 3, -1), np.arange(data.shape[1])))
    assert ranked.shape == (3, data.shape[1])
    assert (ranked.items[:, :5] != EMPTY).all()


def folds_of(ranker: Ranker, data: Dataset) -> list[tuple[Dataset, pd.DataFrame]]:
    return list(ranker._held_out(data, np.random.default_rng(ranker.seed)))


@pytest.mark.parametrize("learner", [Logit(), TREES], ids=["logit", "lambdamart"])
def test_only_the_head_is_ranked(learner: Learner, data: Dataset) -> None:
    ready = Ranker(BOTH, (Traits(),), learner, folds=2, head=12).prepare(data)
    step = ready.learn(learner)
    items = np.arange(data.shape[1])
    slate = step(Slate(requests(*range(30), -1), items))
    assert slate.shape == (31, 12)
    bare = ExcludeSeen().fit(data)(Slate(slate.requests, items))
    total = sum(ready.features(bare).parts[name] for name in BOTH)
    head = best(np.where(bare.items == EMPTY, -np.inf, total), 12)
    np.testing.assert_array_equal(np.sort(slate.items), np.sort(head))
    first = top(10)(slate).items
    assert all(set(some) <= set(every) for some, every in zip(first, head, strict=True))
    assert (first != head[:, :10]).any()  # the order is the learner's


def test_the_ledger_of_a_head_is_the_score_of_all_features(data: Dataset) -> None:
    step = Ranker(BOTH, (Traits(),), folds=2, head=12, keep=7).fit(data)
    slate, items = Slate(requests(0, 3, -1), np.arange(data.shape[1])), np.arange(data.shape[1])
    ranked, features = step(slate), step.features(step.unseen(slate))
    assert ranked.shape == (3, 7)
    weights = dict(zip(step.features.names, step.scorer.weights, strict=True))
    assert list(ranked.parts) == list(weights)
    for name, part in ranked.parts.items():
        expected = np.take_along_axis(weights[name] * features.parts[name], ranked.items, axis=1)
        np.testing.assert_allclose(part, expected, rtol=1e-4, atol=1e-5)
    total = sum(part.astype(float) for part in ranked.parts.values())
    np.testing.assert_allclose(ranked.scores, total, rtol=1e-4, atol=1e-5)
    assert (np.diff(ranked.scores, axis=1) <= 1e-5).all()
    head = best(step.features.total(features), 12)
    score = np.take_along_axis(sum(weights[n] * features.parts[n] for n in weights), head, axis=1)
    kept = np.take_along_axis(items[head], best(score, 7), axis=1)
    np.testing.assert_array_equal(ranked.items, kept)


def test_as_many_folds_are_learned_from_as_there_are_rounds(data: Dataset) -> None:
    data = numbered(data)
    for rounds, expected in ((1, 1), (3, 3), (None, 5)):
        ranker = Ranker({"spy": Spy()}, folds=5, rounds=rounds)
        _, fits = prepared(ranker, data)
        assert len(fits) == expected
        assert len(ranker.models["spy"].fits) == expected + 1  # and all the data
    one, _ = prepared(Ranker({"spy": Spy()}, folds=5, rounds=1), data)
    assert len(one.choices.valid) < len(data.interactions) / 5 + 1


def test_a_round_takes_its_share_of_the_events(data: Dataset) -> None:
    for rounds, each in ((1, 30), (2, 15)):
        ranker = Ranker({"spy": Spy()}, folds=4, rounds=rounds, most=30)
        _, fits = prepared(ranker, numbered(data))
        assert [len(asked) for _, asked in fits] == [each] * rounds


# ------------------------------------------------------------------ signals of users


def test_signals_of_users_are_not_centred_and_those_of_items_are(data: Dataset) -> None:
    features = Ranker({"ease": EASE(10)}, (Traits(),))._features(data)
    bare = ExcludeSeen().fit(data)(Slate(requests(0, 3, 5), np.arange(data.shape[1])))
    slate, raw = features(bare), Traits().fit(data)(bare)
    there = bare.items != EMPTY
    for name, part in raw.parts.items():
        got = slate.parts[name]
        if name.startswith("user:"):
            np.testing.assert_array_equal(got, part)
            assert np.ptp(got, axis=1).max() == 0
            assert len(np.unique(got[:, 0])) == 3
        else:
            assert np.abs(got.sum(axis=1)).max() < 1e-3
            np.testing.assert_allclose(got, centred(part, there), atol=1e-6)
    assert sum(name.startswith("user:") for name in raw.parts) == 3


def test_what_is_of_the_user_alone_only_trees_can_use() -> None:
    """One feature speaks for an item to every other user, and against it to the rest."""
    x, _ = planted([1.0], choices=4000)
    kind = np.where(np.arange(4000) % 2, 1.0, -0.5)[:, None]
    noise = np.random.default_rng(1).gumbel(size=x.shape[:2])
    chosen = (4 * kind * x[:, :, 0] + noise).argmax(axis=1)
    known = np.broadcast_to(kind[:, :, None], x.shape)
    x = np.concatenate([x, known], axis=2).astype(np.float32)
    choices, hits = chosen_first(x, chosen), {}
    trees = replace(TREES, trees=50, feature_share=1.0)
    for learner in (Logit(), trees, replace(trees, objective="rank_xendcg")):
        score = learner.fit(choices).score(x.reshape(-1, 2)).reshape(x.shape[:2])
        found = score.argmax(axis=1) == (kind * x[:, :, 0]).argmax(axis=1)
        hits[getattr(learner, "objective", "logit")] = found.mean()
    assert hits.pop("logit") < 0.55
    assert min(hits.values()) > 0.8
