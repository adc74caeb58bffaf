"""Users' own weights: planted ones are found, none are made up, and few choices say little."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import optimize
from scipy.special import log_softmax

from firetv.abtest import paired_test
from firetv.choices import LATER, conditional_logit, later_slice
from firetv.context import ContextBoost
from firetv.data import Dataset, Tables
from firetv.evaluate import measure, run_all
from firetv.models import EASE, Popular
from firetv.personal import (
    FAMILIES,
    Deviations,
    Personal,
    PersonalStep,
    Unscaled,
    learn_deviations,
)
from firetv.scales import Scales, later_choices
from firetv.slate import EMPTY, ExcludeSeen, Slate, Stage, Step, chain, recommend, top, with_seed
from firetv.social import FriendBoost
from firetv.splits import Split, each_event

SLOTS = 6


@dataclass(frozen=True)
class Planted:
    """Choices by users whose weights are known, in the form that deviations are learned from."""

    own: np.ndarray
    users: np.ndarray
    x: np.ndarray
    offset: np.ndarray

    @classmethod
    def of(cls, counts: np.ndarray, deviations: list[float], seed: int, common: float = 0.0):  # noqa: ANN206
        """So many choices of each user, whose weights have these deviations around zero."""
        rng = np.random.default_rng(seed)
        own = rng.normal(size=(len(counts), len(deviations))) * deviations
        users = np.repeat(np.arange(len(counts)), counts)
        x = rng.normal(size=(len(users), SLOTS, len(deviations)))
        offset = common * rng.normal(size=(len(users), SLOTS))
        logits = offset + np.einsum("rkd,rd->rk", x, own[users])
        chosen = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        order = np.argsort(np.arange(SLOTS) != chosen[:, None], axis=1, kind="stable")
        x = np.take_along_axis(x, order[:, :, None], axis=1)
        return cls(own, users, x, np.take_along_axis(offset, order, axis=1))

    def learn(self, **changed: np.ndarray) -> Deviations:
        given = {
            "features": self.x,
            "valid": np.ones(self.offset.shape, bool),
            "offset": self.offset,
            "users": self.users,
        }
        return learn_deviations(**given | changed)


def equal(users: int, choices: int) -> np.ndarray:
    return np.full(users, choices)


# Planted weights


def test_planted_weights_are_found() -> None:
    for seed in range(5):
        planted = Planted.of(equal(150, 30), [1.0], seed, common=1.0)
        found = planted.learn()
        assert found.users.tolist() == list(range(150))
        # The sampling error of a variance of 150 is 0.12 of it; Laplace's method adds little.
        assert found.variances[0] == pytest.approx(planted.own.var(), rel=0.25)
        assert np.corrcoef(found.means[:, 0], planted.own[:, 0])[0, 1] > 0.95
        slope = np.polyfit(found.means[:, 0], planted.own[:, 0], 1)[0]
        assert slope == pytest.approx(1, abs=0.1)  # means are as large as they should be


def test_only_what_varies_has_weights_of_ones_own() -> None:
    for seed in range(3):
        for deviations in ([0.8, 0.0], [0.0, 0.8]):
            planted = Planted.of(equal(120, 15), deviations, seed)
            found = planted.learn()
            varies = np.array(deviations) > 0
            assert ((found.variances > 0) == varies).all()
            assert (found.means[:, ~varies] == 0).all()
            own = planted.own[:, varies][:, 0]
            assert np.corrcoef(found.means[:, varies][:, 0], own)[0, 1] > 0.85


def test_where_nobody_differs_all_is_exactly_zero() -> None:
    """In 38 of 40 worlds or more; in which each user has few choices, or one."""
    for choices in (1, 8):
        found = [Planted.of(equal(60, choices), [0.0], seed, 1.0).learn() for seed in range(40)]
        none = [(each.variances == 0).all() and (each.means == 0).all() for each in found]
        assert sum(none) >= 38


def test_who_chose_little_is_pulled_in_more() -> None:
    """Of equally extreme users, as they are planted."""
    counts = np.tile([4, 60], 60)
    planted = Planted.of(counts, [1.0], seed=3)
    found = planted.learn()
    ratio = found.means[:, 0] / planted.own[:, 0]
    extreme = np.abs(planted.own[:, 0]) > 1
    few, many = (np.median(ratio[extreme & (counts == n)]) for n in (4, 60))
    assert few < 0.85 < 0.9 < many < 1.1
    alone = Planted.of(equal(60, 1), [3.0], seed=3).learn()
    assert np.abs(alone.means).max() < 3 * np.sqrt(alone.variances[0])


@pytest.mark.parametrize("deviations", [[1.5], [1.0, 0.7]])
def test_weights_are_those_of_a_penalised_likelihood(deviations: list[float]) -> None:
    """Each user's, whose prior is the variance that was found: scipy finds the same mode."""
    planted = Planted.of(np.arange(60) % 15 + 1, deviations, seed=4, common=1.0)
    found = planted.learn()
    assert (found.variances > 0).all()
    for user in (0, 1, 7, 14, 59):
        mine = planted.users == user
        x, offset = planted.x[mine], planted.offset[mine]

        def loss(weights: np.ndarray, x: np.ndarray = x, offset: np.ndarray = offset) -> float:
            log_p = log_softmax(offset + x @ weights, axis=1)
            return (weights**2 / found.variances).sum() / 2 - log_p[:, 0].sum()

        best = optimize.minimize(loss, np.zeros(len(deviations)), tol=1e-10)
        np.testing.assert_allclose(found.means[user], best.x, atol=1e-4)


@pytest.mark.parametrize(("choices", "short"), [(5, 0.35), (20, 0.12), (40, 0.07)])
def test_the_variance_is_where_the_marginal_likelihood_is_greatest(
    choices: int, short: float
) -> None:
    """Integrated numerically for each user; Laplace's method falls short where choices are few."""
    planted = Planted.of(equal(100, choices), [1.0], seed=5)
    found = planted.learn()
    node, weight = np.polynomial.hermite_e.hermegauss(121)
    weight = weight / weight.sum()

    def loss(log_variance: float) -> float:
        own = np.exp(log_variance / 2) * node
        log_p = log_softmax(planted.x[:, :, 0, None] * own, axis=1)[:, 0]
        total = np.add.reduceat(log_p, np.arange(0, len(log_p), choices))
        high = total.max(axis=1, keepdims=True)
        return -(np.log(np.exp(total - high) @ weight) + high[:, 0]).sum()

    best = np.exp(optimize.minimize_scalar(loss, bounds=(-4, 2), method="bounded").x)
    assert (1 - short) * best < found.variances[0] < 1.01 * best


def test_neither_the_order_nor_the_names_of_users_matter() -> None:
    planted = Planted.of(np.arange(50) % 9 + 1, [1.2], seed=6)
    found = planted.learn()
    order = np.random.default_rng(0).permutation(len(planted.users))
    shuffled = planted.learn(
        features=planted.x[order], offset=planted.offset[order], users=planted.users[order]
    )
    np.testing.assert_array_equal(shuffled.users, found.users)
    np.testing.assert_allclose(shuffled.means, found.means, rtol=1e-9)
    renamed = planted.learn(users=1000 - 7 * planted.users)
    assert renamed.users.tolist() == sorted(1000 - 7 * np.arange(50))
    np.testing.assert_allclose(renamed.means[::-1], found.means, rtol=1e-9)
    again = planted.learn()
    np.testing.assert_array_equal(again.means, found.means)


@pytest.mark.parametrize("scale", [2.0**-20, 1e-3, 1e3, 2.0**30])
def test_the_scale_of_a_feature_does_not_matter(scale: float) -> None:
    planted = Planted.of(equal(60, 12), [1.0, 0.0], seed=7)
    found = planted.learn()
    other = planted.learn(features=planted.x * [scale, 1.0])
    np.testing.assert_allclose(other.means[:, 0] * scale, found.means[:, 0], rtol=0.01, atol=1e-3)
    np.testing.assert_allclose(other.variances * [scale**2, 1], found.variances, rtol=0.01)
    shifted = planted.learn(features=planted.x + 1e4)  # the same for all slots: it says nothing
    np.testing.assert_allclose(shifted.means, found.means, rtol=1e-6, atol=1e-6)


def test_slots_that_are_not_valid_say_nothing() -> None:
    planted = Planted.of(equal(60, 12), [1.0], seed=8)
    found = planted.learn()
    junk = np.full((len(planted.users), 2, 1), np.nan)
    more = {
        "features": np.concatenate([planted.x, junk], axis=1),
        "offset": np.concatenate([planted.offset, junk[:, :, 0]], axis=1),
        "valid": np.repeat([[True] * SLOTS + [False] * 2], len(planted.users), axis=0),
    }
    np.testing.assert_allclose(planted.learn(**more).means, found.means, rtol=1e-9)


def test_users_whose_choices_a_weight_explains_without_fail_stay_finite() -> None:
    """The likelihood of such a user has no greatest weight: only the prior holds it."""
    planted = Planted.of(equal(80, 10), [1.0], seed=9)
    x = planted.x.copy()
    always = planted.users < 4  # they take the greatest, whatever it is, or the least
    x[always] = np.sort(x[always], axis=1)[:, ::-1]
    x[planted.users < 2] *= -1
    found = planted.learn(features=x)
    assert (np.abs(found.means[:4, 0]) < 4 * np.sqrt(found.variances[0])).all()
    assert (found.means[:2, 0] < -1).all()
    assert (found.means[2:4, 0] > 1).all()
    everybody = planted.learn(features=np.sort(planted.x, axis=1)[:, ::-1])
    assert np.isfinite(everybody.means).all()
    assert (everybody.means > 1).all()


def test_an_impossible_choice_leaves_numbers_finite() -> None:
    """Its probability is 0 in floating point, but not its logarithm."""
    planted = Planted.of(equal(60, 12), [1.0], seed=10)
    offset = planted.offset.copy()
    offset[0, 0] = -2000
    found = planted.learn(offset=offset)
    assert np.isfinite(found.means).all()
    rest = found.users != planted.users[0]
    expected = planted.learn()
    assert found.variances == pytest.approx(expected.variances, rel=0.2)
    np.testing.assert_allclose(found.means[rest], expected.means[rest], atol=0.1)


def test_features_that_tell_nothing_have_no_weight() -> None:
    planted = Planted.of(equal(60, 12), [1.0], seed=11)
    flat = np.broadcast_to(np.arange(len(planted.users))[:, None, None], planted.x.shape)
    for nothing in (np.zeros_like(planted.x), flat.astype(float)):
        found = planted.learn(features=np.concatenate([nothing, planted.x], axis=2))
        assert found.variances[0] == 0
        assert (found.means[:, 0] == 0).all()
        np.testing.assert_allclose(found.means[:, 1:], planted.learn().means, rtol=1e-6)
        assert (planted.learn(features=nothing).means == 0).all()
    twice = planted.learn(features=np.concatenate([planted.x, planted.x], axis=2))
    assert (twice.variances > 0).sum() == 1
    np.testing.assert_allclose(twice.means.sum(axis=1), planted.learn().means[:, 0], rtol=1e-6)
    none = planted.learn(features=planted.x[:, :, :0])
    assert none.means.shape == (60, 0)
    single = planted.learn(features=planted.x[:, :1], offset=planted.offset[:, :1],
                           valid=np.ones((len(planted.users), 1), bool))  # fmt: skip
    assert (single.means == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"valid": p.offset < p.users[:, None]}, "slot 0 of 12 choices is not"),
        (lambda p: {"features": p.x + np.where(p.x > 3, np.nan, 0)}, "features or offsets are mis"),
        (lambda p: {"offset": p.offset + np.inf}, "slot 0 of 720 choices is not valid"),
        (lambda p: {"offset": np.where(p.x[:, :, 0] > 2.9, np.nan, 0)}, "missing or infinite"),
    ],
)
def test_what_no_logit_can_explain_is_told(change, message: str) -> None:  # noqa: ANN001
    planted = Planted.of(equal(60, 12), [1.0], seed=12)
    with pytest.raises(ValueError, match=message):
        planted.learn(**change(planted))


def test_no_choices_are_one_error() -> None:
    planted = Planted.of(equal(60, 12), [1.0], seed=12)
    nothing = {"features": planted.x[:0], "offset": planted.offset[:0], "users": planted.users[:0]}
    with pytest.raises(ValueError, match="need at least one choice to learn from"):
        planted.learn(valid=np.ones((0, SLOTS), bool), **nothing)


# The stage


CONTEXT = ContextBoost("learned", (), (), items=True)
FULL = replace(CONTEXT, strength=1.0)
FRIENDS = FriendBoost(strength=1.0)
MOMENT = ContextBoost("learned", ("daypart", "daytype"), strength=1.0)
STAGES = {
    "base": chain(EASE(10), Personal()),
    "context": chain(EASE(10), Unscaled(MOMENT), Personal()),
    "friends": chain(EASE(10), FRIENDS, Personal()),
    "both": chain(EASE(10), Unscaled(FRIENDS), Unscaled(MOMENT), Personal()),
    "without base": chain(MOMENT, Personal()),
}
every_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)


def requests(*users: int) -> pd.DataFrame:
    """One request of each user, on another day each."""
    at = pd.Timestamp("2024-04-02T08Z") + pd.to_timedelta(13 * np.array(users), unit="h")
    return pd.DataFrame({"user": np.array(users, np.int32), "at": at})


@cache
def world(heeding: tuple[float, float], seed: int) -> Dataset:
    """Users of two halves heed their device as often as given, else they take their own kind."""
    rng, people, kinds, titles, events = np.random.default_rng(seed), 60, 4, 200, 4800
    user, device = rng.integers(people, size=events), rng.integers(kinds, size=events)
    heeds = rng.random(events) < np.array(heeding)[user % 2]
    kind = np.where(heeds, device, user // 2 % kinds)
    item = rng.integers(titles // kinds, size=events) * kinds + kind
    hours = pd.to_timedelta(np.arange(events), unit="h")
    history = pd.DataFrame(
        {
            "user_id": [f"u{each:02}" for each in user],
            "content_id": [f"c{each}" for each in item],
            "timestamp": (pd.Timestamp("2024-01-01T00Z") + hours).astype("datetime64[us, UTC]"),
            "device": pd.array(np.array(["tv", "phone", "tablet", "car"])[device], "str"),
        }
    )
    return Dataset.from_tables(Tables(history, manifest={"name": "w", "context": ["device"]}))


def later(data: Dataset) -> Split:
    cut = data.interactions["timestamp"].quantile(0.8)
    events = data.interactions
    return each_event("later", data.until(cut), events[events["timestamp"] >= cut])


def found(split: Split) -> pd.DataFrame:
    """nDCG of each request, where context counts alike for all, and for each user."""
    stages = {
        "common": chain(EASE(20), CONTEXT),
        "personal": chain(EASE(20), Unscaled(FULL), Personal()),
    }
    values = measure(run_all(stages, split))
    table = values.pivot(index=["user", "request"], columns="model", values="value")
    return table.groupby("user").mean()


def own(step: Step) -> PersonalStep:
    return step.steps[-1]


def test_where_half_of_the_users_heed_the_moment_their_own_weights_find_more() -> None:
    tables = [found(later(world((0.1, 0.9), seed))) for seed in (0, 1, 2)]
    gains = np.concatenate([t["personal"].to_numpy() - t["common"].to_numpy() for t in tables])
    tested = paired_test(gains, np.zeros(len(gains)), seed=0)
    assert tested.difference.value > 0.005
    assert tested.p_permutation < 0.01


def test_users_who_heed_the_moment_are_told_from_those_who_do_not() -> None:
    data = world((0.1, 0.9), 0)
    step = own(chain(EASE(20), Unscaled(FULL), Personal()).fit(data))
    assert step.families == ("context",)
    assert step.weights.shape == (61, 1)
    assert (step.weights >= 0).all()
    heeds = data.user_ids.str.slice(1).astype(int).to_numpy() % 2 == 1
    weights = step.weights[:-1, 0]
    assert weights[heeds].min() > weights[~heeds].mean()
    assert weights[~heeds].mean() < step.weights[-1, 0] < weights[heeds].mean()


def test_where_nobody_differs_all_have_the_common_weight() -> None:
    split = later(world((0.5, 0.5), 1))
    stage = chain(EASE(20), Unscaled(FULL), Personal())
    step = own(stage.fit(split.train))
    choices, _, _ = later_choices(chain(EASE(20), Unscaled(FULL)), None, split.train, 0)
    weights = conditional_logit(choices, nonnegative=True)
    assert choices.names == ("taste", "context:device")
    np.testing.assert_allclose(step.weights, weights[1], rtol=1e-6)
    assert step.scales.upstream == {"taste": pytest.approx(weights[0])}
    scaled = {"taste": weights[0], "context:device": weights[1]}
    slate = Slate(split.requests.iloc[:40], split.candidates)
    raw = chain(EASE(20), Unscaled(FULL)).fit(split.train)(slate)
    for name, part in stage.fit(split.train)(slate).parts.items():
        np.testing.assert_allclose(part, raw.parts[name] * scaled[name], rtol=1e-5)
    table = found(split)  # and re-ranked as by a context that counts alike for all
    assert table["personal"].mean() == pytest.approx(table["common"].mean(), abs=0.002)


@every_stage
def test_laws_of_a_step(stage: Stage, rich: Dataset) -> None:
    """It mutates nothing, parts sum to scores, requests are alone, and refitting repeats."""
    items = np.arange(rich.shape[1])
    items.flags.writeable = False
    step = stage.fit(rich)
    before = Slate(requests(1, 2, -1, 7), items).add("given", np.ones((4, len(items))))
    after = step(before)
    np.testing.assert_array_equal(stage.fit(rich)(before).scores, after.scores)
    assert list(before.parts) == ["given"]
    np.testing.assert_array_equal(after.parts["given"], 1)
    assert all(part.dtype == np.float32 for part in after.parts.values())
    np.testing.assert_allclose(after.scores, sum(after.parts.values()), rtol=1e-6)
    assert np.isfinite(after.scores).all()
    for row, user in enumerate((1, 2, -1, 7)):
        alone = step(Slate(requests(user), items).add("given", np.ones((1, len(items)))))
        np.testing.assert_allclose(alone.scores[0], after.scores[row], rtol=1e-4, atol=1e-6)
    mine = np.tile(np.random.default_rng(0).permutation(items)[:9], (4, 1))
    mine[1, 4] = EMPTY
    scores = step(Slate(requests(1, 2, -1, 7), mine)).scores
    assert scores[1, 4] == -np.inf
    np.testing.assert_allclose(scores[0], after.scores[0, mine[0]] - 1, rtol=1e-4, atol=1e-5)


@every_stage
def test_no_event_after_the_cut_reaches_a_fit(stage: Stage, rich: Dataset) -> None:
    cut = rich.interactions["timestamp"].quantile(0.7)
    other = rich.interactions.copy()
    other.loc[rich.interactions["timestamp"] >= cut, "item"] = 0
    slate = Slate(requests(0, 1, 2), np.arange(rich.shape[1]))
    a = stage.fit(rich.until(cut))(slate).scores
    b = stage.fit(replace(rich, interactions=other).until(cut))(slate).scores
    np.testing.assert_array_equal(a, b)


def test_a_fitted_pipeline_crosses_processes(rich: Dataset) -> None:
    step = chain(STAGES["both"], ExcludeSeen(), top(5)).fit(rich)
    copy = pickle.loads(pickle.dumps(step))  # as a worker on another machine receives it
    people, items = requests(0, 3, -1), np.arange(rich.shape[1])
    a, b = recommend(step, people, items), recommend(copy, people, items)
    np.testing.assert_array_equal(a.items, b.items)
    np.testing.assert_array_equal(a.scores, b.scores)


def test_strangers_and_who_chose_nothing_lately_have_the_common_weights() -> None:
    data = world((0.1, 0.9), 0)
    cut = data.interactions["timestamp"].quantile(1 - LATER)
    late = (data.interactions["timestamp"] >= cut).to_numpy()
    gone = late & data.interactions["user"].isin([4, 9]).to_numpy()
    stage = chain(EASE(20), Unscaled(FULL), Personal())
    step = own(stage.fit(data.keep(~gone)))
    _, _, chose = later_choices(chain(EASE(20)), None, data.keep(~gone), 0)
    assert len(set(chose) | {4, 9}) == len(set(chose)) + 2 > 50
    assert (np.delete(step.weights, chose, axis=0) == step.weights[-1]).all()
    assert (step.weights[np.unique(chose)] != step.weights[-1]).all()
    moments = requests(4, -1).assign(device="tv")
    slate = stage.fit(data.keep(~gone))(Slate(moments, np.arange(data.shape[1])))
    part = slate.parts["context:device"]
    assert np.ptp(part[0]) > 0.1
    np.testing.assert_array_equal(part[0], part[1])


@pytest.mark.parametrize("name", ["base", "friends", "both"])
def test_a_stranger_is_still_served_what_is_popular(name: str, rich: Dataset) -> None:
    """A part that those who chose had no use for has no factor, lest it is lost."""
    step = STAGES[name].fit(rich)
    slate = step(Slate(requests(-1), np.arange(rich.shape[1])))
    popular = Popular().fit(rich)(Slate(requests(-1), np.arange(rich.shape[1])))
    np.testing.assert_array_equal(slate.parts["popularity"], popular.scores)


def test_a_part_of_zeros_among_the_choices_is_left_as_it_is(rich: Dataset) -> None:
    """As one for strangers alone, of whom none chose lately."""

    def for_strangers(slate: Slate) -> Slate:
        values = np.where(slate.users[:, None] < 0, np.float32(slate.grid), 0)
        return slate.add("strangers", values)

    step = chain(EASE(10), for_strangers, Personal()).fit(rich)
    assert set(own(step).scales.upstream) == {"taste"}
    slate = step(Slate(requests(-1, 0), np.arange(rich.shape[1])))
    np.testing.assert_array_equal(slate.parts["strangers"][0], np.arange(rich.shape[1]))


def test_other_parts_change_by_their_factor_alone() -> None:
    slate = Slate(pd.DataFrame({"user": [0, 1, -1]}), np.arange(2))
    for name in ("taste", "context:weather", "context:season", "friends", "contextual", "more"):
        slate = slate.add(name, np.ones((3, 2)))
    table = np.array([[2, 3], [0, 4], [1, 1]], np.float32)
    step = PersonalStep(Scales({"taste": 0.5}), ("context", "friends"), table)
    parts = {name: part[:, 0].tolist() for name, part in step(slate).parts.items()}
    assert parts == {
        "taste": [0.5, 0.5, 0.5],
        "context:weather": [2, 0, 1],
        "context:season": [2, 0, 1],
        "friends": [3, 4, 1],
        "contextual": [1, 1, 1],
        "more": [1, 1, 1],
    }


def test_parts_of_a_family_share_one_weight_learned_on_their_sum() -> None:
    split = later(world((0.5, 0.5), 0))

    def halved(slate: Slate) -> Slate:
        """The context in two parts, one of them a third."""
        parts = dict(slate.parts)
        part = parts.pop("context:device")
        parts |= {"context:a": part / 3, "context:b": part * 2 / 3}
        return replace(slate, parts=parts)

    base = EASE(20), Unscaled(FULL)
    whole, apart = (
        own(chain(*stages, Personal()).fit(split.train)) for stages in (base, (*base, halved))
    )
    np.testing.assert_allclose(apart.weights, whole.weights, rtol=1e-3)
    assert apart.families == ("context",)


def test_families_may_be_others() -> None:
    data = world((0.1, 0.9), 0)
    taste = own(chain(EASE(20), Unscaled(FULL), Personal(("taste",))).fit(data))
    assert taste.families == ("taste",)
    assert set(taste.scales.upstream) == {"context:device"}
    assert np.ptp(taste.weights) > 0
    none = own(chain(EASE(20), Unscaled(FULL), Personal(())).fit(data))
    assert none.weights.shape == (61, 0)
    assert set(none.scales.upstream) == {"taste", "context:device"}
    assert FAMILIES == ("context", "friends")


def test_parts_of_two_rerankers_have_the_same_scale_where_they_are_learned_and_used(
    rich: Dataset,
) -> None:
    """Each leaves the other's part alone, so weights differ by what the choices say only."""
    train, _ = later_slice(rich, LATER)
    stage = STAGES["both"]
    upstream = chain(*stage.stages[:-1])
    slate = Slate(requests(0, 1, 2), np.arange(rich.shape[1]))
    for data in (train, rich):
        raw = upstream.fit(data)(slate)
        alone = FRIENDS.fit(data)(slate)
        np.testing.assert_array_equal(raw.parts["friends"], alone.parts["friends"])
        taste = EASE(10).fit(data)(slate)
        np.testing.assert_array_equal(raw.parts["taste"], taste.parts["taste"])
    factors = own(stage.fit(rich))
    raw, weighed = upstream.fit(rich)(slate), stage.fit(rich)(slate)
    column = factors.families.index("friends")
    assert factors.weights[-1, column] < 5
    np.testing.assert_allclose(
        weighed.parts["friends"],
        raw.parts["friends"] * factors.weights[:3, [column]],
        rtol=1e-5,
    )


def test_rerankers_that_scale_each_other_are_refused(rich: Dataset) -> None:
    two = chain(EASE(10), chain(FRIENDS, MOMENT))
    with pytest.raises(ValueError, match="FriendBoost and ContextBoost scale each other's parts"):
        chain(two, Personal()).fit(rich)
    with pytest.raises(ValueError, match=r"wrap each, as in Unscaled\(FriendBoost\(strength=1\)\)"):
        chain(two, Personal()).fit(rich)


def test_nothing_to_weigh_is_one_error(rich: Dataset) -> None:
    for stage in (Personal(), chain(Personal()), chain(top(5), Personal())):
        with pytest.raises(ValueError, match="nothing before has parts to be weighed"):
            stage.fit(rich)


def test_no_later_choice_is_one_error(data: Dataset) -> None:
    once = data.interactions.assign(timestamp=pd.Timestamp("2024-01-01T00:00Z"))
    with pytest.raises(ValueError, match="no event came before the last ones"):
        chain(EASE(10), Personal()).fit(replace(data, interactions=once))


def test_no_weight_is_below_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever turns away from what suits the moment is not shown its opposite."""
    opposed = Deviations(np.array([3, 5]), np.array([[-100.0], [0.5]]), np.ones(1))
    monkeypatch.setattr("firetv.personal.learn_deviations", lambda *given: opposed)
    step = own(chain(EASE(20), Unscaled(FULL), Personal()).fit(world((0.5, 0.5), 1)))
    common = step.weights[-1, 0]
    assert step.weights[3, 0] == 0
    assert step.weights[5, 0] == pytest.approx(common + 0.5)
    assert common > 0
    assert (np.delete(step.weights, [3, 5]) == common).all()


def test_choices_are_drawn_by_the_seed(rich: Dataset) -> None:
    seeded = [own(with_seed(STAGES["both"], seed).fit(rich)) for seed in (0, 0, 1)]
    assert seeded[0].scales == seeded[1].scales
    assert seeded[0].scales != seeded[2].scales
