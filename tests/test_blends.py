"""A blend against the plain sum of its models' standardised scores, and its account against it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import make_rich_tables
from scipy import sparse

from firetv import blends
from firetv.blends import Member, NewcomersBlend, NewcomersBlendStep, added, spread
from firetv.context import ContextBoost
from firetv.data import Dataset
from firetv.fidelity import Lists, curves, falls
from firetv.lists import Newcomer
from firetv.models import ALS, EASE, ItemKNN, LightFM, Popular
from firetv.newcomers import LIKED, TRAITS, Newcomers, NewcomersStep
from firetv.ranking import LambdaMART, Logit, Ranker, standardised
from firetv.recommender import Recommender
from firetv.slate import EMPTY, ExcludeSeen, Slate, Stage, chain, recommend, top
from firetv.social import FriendSignals
from firetv.weighting import Weighted

LEARNER = Logit(l2=1.0, nonnegative=True)
MODELS: dict[str, Stage] = {
    "ease": Weighted(EASE(reg=10), rating_power=0.5),
    "als": ALS(components=4, reg=1.0),
    "lightfm": LightFM(8, epochs=10, use_item_features=True),
}
LINEAR: dict[str, Stage] = {"ease": EASE(reg=10), "itemknn": ItemKNN()}
KINDS = {"all": MODELS, "linear": LINEAR, "one": {"als": MODELS["als"]}}
every_kind = pytest.mark.parametrize("kind", KINDS)
PEOPLE = (
    (0, (), ()), (7, (), ()), (-1, (3, 8), ()), (-1, (5,), (1,)), (-1, (), (0, 2)), (-1, (), ()),
    (27, (), ()), (28, (4,), ()), (29, (), ()), (-1, (36,), ()),
)  # fmt: skip


def ranker(models: dict[str, Stage]) -> Ranker:
    return Ranker(models, learner=LEARNER, folds=3, rounds=1, head=20)


@pytest.fixture(scope="module")
def steps(rich: Dataset) -> dict[str, NewcomersBlendStep]:
    """Blends in which every model counts, whatever was learned of so few events."""
    found = {kind: NewcomersBlend(ranker(models), 1).fit(rich) for kind, models in KINDS.items()}
    people = np.flatnonzero(rich.user_counts)
    for kind in ("all", "linear"):
        members = {
            name: Member.of(Newcomers(stage, 1).fit(rich), 0.5 + n, people)
            for n, (name, stage) in enumerate(KINDS[kind].items())
        }
        found[kind] = NewcomersBlendStep(members)
    return found


def asked(*people: tuple[int, tuple[int, ...], tuple[int, ...]]) -> pd.DataFrame:
    users, liked, traits = zip(*people, strict=True)
    requests = pd.DataFrame({"user": np.array(users, np.int32)})
    requests[LIKED] = pd.Series(liked, dtype=object)
    requests[TRAITS] = pd.Series(traits, dtype=object)
    return requests


def taste_of(step: NewcomersStep, requests: pd.DataFrame, items: np.ndarray) -> np.ndarray:
    return step(Slate(requests, items)).parts["taste"]


# What is learned


@every_kind
def test_weights_are_those_that_the_ranker_learns(kind: str, rich: Dataset) -> None:
    models = {name: Newcomers(stage) for name, stage in KINDS[kind].items()}
    prepared = replace(ranker(models), seed=1).prepare(rich)
    expected = dict(zip(prepared.choices.names, LEARNER.fit(prepared.choices).weights, strict=True))
    found = NewcomersBlend(ranker(KINDS[kind]), seed=1).fit(rich)
    assert found.weights == {name: weight for name, weight in expected.items() if weight > 0}


def test_models_are_those_fitted_alone_and_each_is_fitted_once_on_all(
    rich: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[tuple[str, int]] = []
    fit = Newcomers.fit

    def counted(self: Newcomers, data: Dataset) -> NewcomersStep:
        fitted.append((type(self.model).__name__, len(data.interactions)))
        return fit(self, data)

    monkeypatch.setattr(Newcomers, "fit", counted)
    found = NewcomersBlend(ranker(LINEAR), seed=1).fit(rich)
    events = len(rich.interactions)
    assert sorted(n for n, size in fitted if size == events) == ["EASE", "ItemKNN"]
    assert len(fitted) == 4  # once more each, without a fold
    for name, member in found.members.items():
        alone = fit(Newcomers(LINEAR[name], seed=1), rich)
        items = np.arange(36)
        requests = pd.DataFrame({"user": [0, 3]})
        np.testing.assert_array_equal(
            taste_of(member.step, requests, items), taste_of(alone, requests, items)
        )


def test_models_that_are_worth_nothing_are_left_out(
    rich: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    for weights, expected in (
        ([0.0, 0.7], {"itemknn": 0.7}),
        ([0.0, 0.0], {"ease": 1.0, "itemknn": 1.0}),
    ):
        worth = type("Worth", (), {"weights": np.array(weights)})
        monkeypatch.setattr(Logit, "fit", lambda self, choices, worth=worth: worth)
        assert NewcomersBlend(ranker(LINEAR)).fit(rich).weights == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner": Logit()}, r"gives no weights for a base: use Logit\(nonnegative=True\)"),
        ({"learner": LambdaMART()}, "gives no weights for a base"),
        ({"signals": (FriendSignals(),)}, "leave out the ranker's signals, newness"),
        ({"newness": 5.0}, "leave out the ranker's signals, newness"),
    ],
)
def test_a_ranker_that_is_no_weighted_sum_of_models_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NewcomersBlend(replace(ranker(LINEAR), **changes))


def test_models_that_cannot_take_in_newcomers_are_refused(rich: Dataset) -> None:
    with pytest.raises(ValueError, match="cannot take in newcomers"):
        NewcomersBlend(ranker({"popular": Popular()})).fit(rich)


# Scores


@every_kind
def test_taste_is_the_weighted_sum_of_scores_standardised_over_what_is_unseen(
    kind: str, rich: Dataset, steps: dict[str, NewcomersBlendStep]
) -> None:
    titles = np.flatnonzero(rich.item_counts)
    requests = asked(*PEOPLE)
    unseen = steps[kind].history(requests)[:, titles].toarray() == 0
    expected = np.zeros(unseen.shape)
    for member in steps[kind].members.values():
        taste = taste_of(member.step, requests, titles)
        expected += member.weight * standardised(taste.astype(np.float64), unseen)
    found = steps[kind](Slate(requests, titles)).parts["taste"]
    np.testing.assert_allclose(found[unseen], expected[unseen], rtol=1e-3, atol=2e-5)
    shares = steps[kind].shares(Slate(requests, titles))
    assert list(shares) == list(steps[kind].members)
    np.testing.assert_allclose(sum(shares.values()), found, atol=1e-5)


def test_the_order_is_that_of_the_ranker(rich: Dataset) -> None:
    models = {name: Newcomers(stage) for name, stage in MODELS.items()}
    stage = replace(ranker(models), head=None, keep=10)
    requests = pd.DataFrame({"user": np.flatnonzero(rich.user_counts)})
    titles = np.flatnonzero(rich.item_counts)
    expected = stage.fit(rich)(Slate(requests, titles))
    blend = chain(NewcomersBlend(replace(ranker(MODELS), head=None)), ExcludeSeen(), top(10))
    found = blend.fit(rich)(Slate(requests, titles))
    np.testing.assert_array_equal(found.grid, expected.grid)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-3, atol=1e-4)


@every_kind
def test_a_title_scores_the_same_in_every_slate(
    kind: str, steps: dict[str, NewcomersBlendStep], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, step = asked(*PEOPLE), steps[kind]
    whole = step(Slate(requests, np.arange(40)))
    rng = np.random.default_rng(0)
    items = rng.integers(40, size=(len(requests), 6))
    monkeypatch.setattr(blends, "CHUNK_CELLS", 100)
    some = step(Slate(requests, items))
    expected = np.take_along_axis(whole.scores, items, axis=1)
    np.testing.assert_allclose(some.scores, expected, rtol=1e-4, atol=1e-5)
    for row in range(len(requests)):
        alone = step(Slate(requests.iloc[[row]], items[[row]]))
        np.testing.assert_allclose(alone.scores, some.scores[[row]], rtol=1e-4, atol=1e-5)
    chunked = recommend(step, requests, np.arange(40), 100)
    np.testing.assert_allclose(chunked.scores, whole.scores, rtol=1e-4, atol=1e-5)


@every_kind
def test_of_whom_nothing_is_known_popularity_alone_counts(
    kind: str, rich: Dataset, steps: dict[str, NewcomersBlendStep]
) -> None:
    slate = steps[kind](Slate(asked(*PEOPLE), np.arange(40)))
    stranger = np.array([False] * 5 + [True] + [False] * 2 + [True, True])
    if kind == "linear":  # to which a profile says nothing
        stranger[[4, 6]] = True
    popularity = slate.parts["popularity"]
    np.testing.assert_allclose(popularity[stranger][0], np.log1p(rich.item_counts), rtol=1e-6)
    assert (slate.parts["taste"][stranger] == 0).all()
    assert (popularity[~stranger] == 0).all()
    assert (slate.parts["taste"][~stranger].std(axis=1) > 0).all()
    assert steps[kind].new(asked(*PEOPLE)).tolist() == [
        person not in (0, 1) and not alone for person, alone in enumerate(stranger)
    ]
    met = steps[kind](Slate(asked(*PEOPLE[:3]), np.arange(40)))
    assert list(met.parts) == ["taste"]


def test_somebody_with_a_profile_alone_is_left_to_models_of_vectors(
    steps: dict[str, NewcomersBlendStep],
) -> None:
    shares = steps["all"].shares(Slate(asked((-1, (), (0, 2))), np.arange(40)))
    assert (shares["ease"] == 0).all()
    assert shares["als"].std() > 0
    assert shares["lightfm"].std() > 0


def test_somebody_new_who_liked_what_a_user_saw_scores_as_that_user_by_linear_models(
    rich: Dataset, steps: dict[str, NewcomersBlendStep]
) -> None:
    own = tuple(rich.matrix()[[3]].indices.tolist())
    slate = steps["linear"](Slate(asked((3, (), ()), (-1, own, ())), np.arange(36)))
    np.testing.assert_allclose(slate.scores[0], slate.scores[1], rtol=1e-4, atol=1e-5)


def test_scores_that_do_not_differ_say_nothing(
    rich: Dataset, steps: dict[str, NewcomersBlendStep]
) -> None:
    member = steps["all"].members["als"]
    same = np.ones_like(member.step.model.item_factors)
    step = replace(member.step, model=replace(member.step.model, item_factors=same))
    assert (spread(step, np.arange(27))[1] == 0).all()
    flat = NewcomersBlendStep({"als": Member.of(step, 1.0, np.arange(27))})
    slate = flat(Slate(pd.DataFrame({"user": [0, 5]}), np.arange(36)))
    assert (slate.scores == 0).all()


# Steps to which nobody is new


@pytest.mark.parametrize("name", [*MODELS, "itemknn"])
def test_a_step_that_has_met_people_says_the_same_of_them(
    name: str, rich: Dataset, steps: dict[str, NewcomersBlendStep]
) -> None:
    members = {**steps["linear"].members, **steps["all"].members}
    step, requests = members[name].step, asked(*PEOPLE)
    met, people = step.met(requests)
    assert people["user"].tolist() == list(range(len(PEOPLE)))
    assert not {LIKED, TRAITS} & set(people)
    slots = np.tile(np.arange(20, 40), (len(PEOPLE), 1))
    for items in (np.arange(36), slots):
        one, other = step(Slate(requests, items)), met.model(Slate(people, items))
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(step.history(requests).toarray(), met.history(people).toarray())
    one, other = step.account(Slate(requests, slots)), met.account(Slate(people, slots))
    for field in ("lead", "expected", "features", "by_title"):
        np.testing.assert_allclose(getattr(one, field), getattr(other, field), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(one.row, other.row)
    np.testing.assert_array_equal(one.titles, other.titles)


def test_a_step_to_which_nobody_is_new_has_met_everybody(
    steps: dict[str, NewcomersBlendStep],
) -> None:
    step, requests = steps["all"].members["als"].step, asked(PEOPLE[0], PEOPLE[5])
    assert all(
        one is other for one, other in zip(step.met(requests), (step, requests), strict=True)
    )
    np.testing.assert_array_equal(step.known[:27], True)
    assert not step.known[27:].any()


# Accounts


def test_contributions_of_linear_models_sum_to_the_score_but_for_a_shift(
    steps: dict[str, NewcomersBlendStep],
) -> None:
    requests, items = asked(*PEOPLE[:4]), np.tile(np.arange(36), (4, 1))
    account = steps["linear"].account(Slate(requests, items))
    summed = np.zeros(items.shape)
    np.add.at(summed, account.row, account.by_title)
    np.testing.assert_allclose(summed, account.lead, rtol=1e-4, atol=1e-5)
    rest = steps["linear"](Slate(requests, items)).scores - summed
    np.testing.assert_allclose(rest, np.repeat(rest[:, :1], 36, axis=1), atol=1e-4)


def test_a_linear_blend_loses_exactly_what_a_title_contributes(
    steps: dict[str, NewcomersBlendStep],
) -> None:
    user, items, step = 7, np.arange(36), steps["linear"]
    slate = Slate(pd.DataFrame({"user": [user]}), items[None])
    account, before = step.account(slate), step(slate).scores
    for title, stated in list(zip(account.titles, account.by_title, strict=True))[:5]:
        members = {}
        for name, member in step.members.items():
            history = member.step.model.history.copy()
            history[user, title] = 0
            model = replace(member.step.model, history=sparse.csr_array(history))
            members[name] = replace(member, step=replace(member.step, model=model))
        after = NewcomersBlendStep(members)(slate).scores
        np.testing.assert_allclose((before - after)[0], stated, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["all", "linear"])
def test_an_account_is_the_sum_of_the_models_accounts_on_their_scales(
    kind: str, rich: Dataset, steps: dict[str, NewcomersBlendStep]
) -> None:
    requests, items = asked(*PEOPLE), np.tile(np.arange(30, 40), (len(PEOPLE), 1))
    step = steps[kind]
    found, expected = step.account(Slate(requests, items)), np.zeros((10, 40, 10))
    features = {name: np.zeros(items.shape) for name in found.names}
    wide = Slate(requests, np.flatnonzero(rich.item_counts))
    for member in step.members.values():
        scores = taste_of(member.step, requests, wide.items).astype(np.float64)
        unseen = member.step.history(requests)[:, wide.items].toarray() == 0
        deviation = np.array([row[u].std() for row, u in zip(scores, unseen, strict=True)])
        factor = member.weight * np.divide(1, deviation, where=deviation > 1e-9, out=0 * deviation)
        own = member.step.account(Slate(requests, items))
        expected[own.row, own.titles] += own.by_title * factor[own.row, None]
        for name, values in zip(own.names, np.moveaxis(own.features, 2, 0), strict=True):
            features[name] += values * factor[:, None]
    np.testing.assert_allclose(
        found.by_title, expected[found.row, found.titles], rtol=1e-3, atol=1e-4
    )
    assert np.count_nonzero(expected.any(axis=2)) <= len(found.row)
    pairs = found.row * 40 + found.titles
    assert (np.diff(pairs) > 0).all()
    for number, name in enumerate(found.names):
        np.testing.assert_allclose(
            found.features[:, :, number], features[name], rtol=2e-3, atol=1e-4
        )
    assert bool(found.names) == (kind == "all")


def test_accounts_are_aligned_by_the_names_of_features(
    steps: dict[str, NewcomersBlendStep],
) -> None:
    slate = Slate(asked(*PEOPLE[:4]), np.tile(np.arange(5), (4, 1)))
    one = steps["all"].members["als"].step.account(slate)
    turned = replace(one, names=one.names[::-1], features=one.features[:, :, ::-1])
    both = added([one, turned])
    assert both.names == one.names
    np.testing.assert_allclose(both.features, 2 * one.features, rtol=1e-6)
    np.testing.assert_allclose(both.by_title, 2 * one.by_title, rtol=1e-6)
    np.testing.assert_array_equal(both.titles, one.titles)
    np.testing.assert_array_equal(both.row, one.row)


def test_of_a_stranger_there_is_nothing_to_account_for(
    steps: dict[str, NewcomersBlendStep],
) -> None:
    account = steps["all"].account(Slate(asked(PEOPLE[5]), np.arange(5)[None]))
    assert not account.lead.any()
    assert not account.expected.any()
    assert not account.features.any()
    assert not account.by_title.size


@pytest.fixture(scope="module")
def lists(rich: Dataset, steps: dict[str, NewcomersBlendStep]) -> Lists:
    users = np.flatnonzero(rich.user_counts > 8)
    return Lists.of(steps["all"], users, np.flatnonzero(rich.item_counts), 5)


def test_where_the_scale_may_move_too_about_what_is_stated_is_lost() -> None:
    data = Dataset.from_tables(make_rich_tables(150, 240, 5000))
    people, titles = np.flatnonzero(data.user_counts > 12), np.flatnonzero(data.item_counts)
    step = NewcomersBlend(ranker(LINEAR)).fit(data)
    found = falls(Lists.of(step, people, titles, 5), named=1, items=3)
    assert found["stated"].corr(found["observed"]) > 0.75
    assert found["observed"].sum() == pytest.approx(found["stated"].sum(), rel=0.15)


def test_named_titles_matter_more_than_random_and_these_more_than_the_least(lists: Lists) -> None:
    found = curves(lists, (1, 3, 6), 3, np.random.default_rng(0))
    mean = found.groupby(["test", "order"])["stays"].mean()
    assert mean["deletion", "named"] < mean["deletion", "random"] < mean["deletion", "least"] + 0.01
    sufficient = mean["sufficiency"]
    assert sufficient["named"] > sufficient["random"] > sufficient["least"]


# Titles


def test_likeness_is_the_weighted_mean_in_deviations(
    steps: dict[str, NewcomersBlendStep],
) -> None:
    others = np.array([0, 3, 9, 14, 20, 36])
    expected, weights = np.zeros(6), 0.0
    for member in steps["all"].members.values():
        alike = member.step.likeness(4, others).astype(float)
        expected += member.weight * (alike - alike.mean()) / alike.std()
        weights += member.weight
    np.testing.assert_allclose(steps["all"].likeness(4, others), expected / weights, rtol=1e-5)


# The assembled recommender


def test_reasons_are_of_the_whole_taste_on_the_scale_of_the_ledger(rich: Dataset) -> None:
    boost = ContextBoost("rules", strength=1.0)
    made = Recommender.train(rich, ranker(LINEAR), boost, None, seed=3)
    assert isinstance(made.base, NewcomersBlendStep)
    people = [f"user{n}" for n in range(10)] + [Newcomer(("content3", "content8"))]
    found = made.recommend(people, k=5, explain=True)
    account, scale = made.base.account(found.slate), made.context.scales.upstream["taste"]
    told = 0
    for row, slots in enumerate(found.reasons):
        for slot, reasons in enumerate(slots):
            for reason in (each for each in reasons if each.kind == "titles"):
                titles = rich.item_ids.get_indexer(list(reason.about))
                own = (account.row == row) & np.isin(account.titles, titles)
                stated = scale * account.by_title[own, slot].sum()
                assert reason.contribution == pytest.approx(stated, rel=1e-4)
                assert reason.parts == ("taste",)
                told += 1
    assert told > 20
    assert EMPTY not in found.slate.grid
