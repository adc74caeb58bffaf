"""Weights of a re-ranker and of what is before it: from which choices, and when they are zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from firetv.choices import LATER, SHORT, conditional_logit, later_slice
from firetv.data import Dataset
from firetv.models import EASE, Popular, Random
from firetv.scales import LEAST_SCALE, Scales, later_choices, learn_scales
from firetv.slate import Slate, Stage, Step, chain, top

TASTE = chain(EASE(10))


@dataclass(frozen=True)
class Told:
    """A step that adds one part by the codes of users and items, and notes what it learns from."""

    name: str
    score: Callable[[np.ndarray, np.ndarray], np.ndarray]
    fits: list[Dataset] = field(default_factory=list)

    def fit(self, data: Dataset) -> Step:
        self.fits.append(data)
        return self._score

    def _score(self, slate: Slate) -> Slate:
        return slate.add(self.name, self.score(slate.users[:, None], slate.grid))


def parity(user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """What the small world's choices follow, beside noise."""
    return np.float32((user - item) % 2 == 0)


def chance(user: np.ndarray, item: np.ndarray, seed: int = 0) -> np.ndarray:
    slate = Slate(pd.DataFrame({"user": np.broadcast_to(user, item.shape)[:, 0]}), item)
    return Random(seed).fit(None)(slate).parts["chance"]


def hint(user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Half of it is noise."""
    return parity(user, item) + 3 * chance(user, item, seed=99)


def test_parts_are_scaled_by_their_factors_alone() -> None:
    slate = Slate(pd.DataFrame({"user": [0, 1]}), np.arange(3))
    slate = slate.add("a", np.ones((2, 3))).add("b", np.full((2, 3), 2.0))
    parts = Scales({"a": 0.5, "absent": 9.0}, {"b": 7.0}).rescale(slate)
    assert list(parts) == ["a", "b"]
    np.testing.assert_array_equal(parts["a"], 0.5)
    np.testing.assert_array_equal(parts["b"], 2.0)
    assert parts["a"].dtype == np.float32
    np.testing.assert_array_equal(slate.parts["a"], 1)


def test_nothing_is_learned_where_there_is_nothing_to_scale(data: Dataset) -> None:
    assert learn_scales(chain(), None, data, seed=0) == Scales()
    assert learn_scales(chain(top(5)), None, data, seed=0) == Scales()
    once = data.interactions.assign(timestamp=pd.Timestamp("2024-01-01T00:00Z"))
    assert learn_scales(chain(), None, replace(data, interactions=once), seed=0) == Scales()


def test_weights_are_those_of_a_logit_on_what_was_chosen_later(data: Dataset) -> None:
    told = Told("told", hint)
    scales = learn_scales(TASTE, told.fit, data, seed=3)
    choices, ours, _ = later_choices(TASTE, told.fit, data, 3, newcomers=False)
    weights = conditional_logit(choices, nonnegative=True)
    assert choices.names == ("taste", "told")
    assert ours.tolist() == [False, True]
    assert scales.upstream == {"taste": pytest.approx(weights[0])}
    assert scales.own == {"told": pytest.approx(weights[1])}
    assert min(weights) > 0.05
    _, late = later_slice(data, LATER)
    late = late.sort_values("user", kind="stable")
    chosen = hint(late["user"].to_numpy()[:, None], late["item"].to_numpy()[:, None])
    np.testing.assert_array_equal(choices.features[:, 0, 1], chosen[:, 0])


def test_base_and_own_step_learn_from_what_was_before(data: Dataset) -> None:
    base, own = Told("base", chance), Told("own", parity)
    learn_scales(chain(base), own.fit, data, seed=0)
    train, _ = later_slice(data, LATER)
    for told in (base, own):
        (seen,) = told.fits
        pd.testing.assert_frame_equal(seen.interactions, train.interactions)


def test_a_useless_base_keeps_its_order_all_the_same(data: Dataset) -> None:
    """Its scores turn people around, so no weight above zero would do them good."""
    scales = learn_scales(chain(Told("base", lambda u, i: -5 * parity(u, i))), None, data, seed=0)
    choices, _, _ = later_choices(
        chain(Told("base", lambda u, i: -5 * parity(u, i))), None, data, 0, newcomers=False
    )
    deviation = choices.features[choices.valid].std()
    assert scales.upstream == {"base": pytest.approx(LEAST_SCALE / deviation, rel=1e-4)}
    assert scales.own == {}


def test_no_weight_is_below_zero(data: Dataset) -> None:
    told = Told("told", lambda u, i: -parity(u, i))
    assert learn_scales(TASTE, told.fit, data, seed=0).own == {"told": 0}


# Proof


@pytest.mark.parametrize("base", [TASTE, chain()], ids=["ease", "alone"])
def test_what_helps_is_kept_whether_or_not_it_must_be_proven(base: Stage, data: Dataset) -> None:
    plain, proven = (
        learn_scales(base, Told("told", parity).fit, data, seed=0, proven=proven)
        for proven in (False, True)
    )
    assert proven == plain
    assert proven.own["told"] > 0.5


def test_what_only_happened_to_help_is_zero_where_it_must_be_proven(data: Dataset) -> None:
    """Of 20 random parts, some get a weight above zero by chance; hardly any is worth it."""
    base = learn_scales(TASTE, None, data, seed=0)
    lucky = kept = 0
    for seed in range(20):
        own = Told("told", partial(chance, seed=seed)).fit
        lucky += learn_scales(TASTE, own, data, seed=0).own["told"] > 0
        scales = learn_scales(TASTE, own, data, seed=0, proven=True)
        kept += scales.own["told"] > 0
        if not scales.own["told"]:  # the base counts as if it were alone
            assert scales.upstream["taste"] == pytest.approx(base.upstream["taste"], rel=1e-4)
    assert 5 < lucky < 15
    assert kept <= 1


def test_more_parts_must_be_worth_more(data: Dataset) -> None:
    """About the same gain, once by one part and once by one among noise."""

    @dataclass(frozen=True)
    class Many:
        parts: int

        def fit(self, data: Dataset) -> Step:
            return self._score

        def _score(self, slate: Slate) -> Slate:
            slate = slate.add("part0", parity(slate.users[:, None], slate.grid))
            for number in range(1, self.parts):
                slate = slate.add(f"part{number}", chance(slate.users[:, None], slate.grid, number))
            return slate

    few, many = (
        learn_scales(chain(Popular()), Many(parts).fit, data, seed=0, proven=True)
        for parts in (1, 40)
    )
    assert few.own["part0"] > 0
    assert set(many.own.values()) == {0}


# Newcomers


def test_half_of_the_choosers_are_made_newcomers_for_base_and_own_alike(data: Dataset) -> None:
    base, own = Told("base", chance), Told("own", parity)
    learn_scales(chain(base), own.fit, data, seed=0, newcomers=True)
    train, _ = later_slice(data, LATER)
    (one,), (other,) = base.fits, own.fits
    pd.testing.assert_frame_equal(one.interactions, other.interactions)
    short = one.user_counts < train.user_counts
    assert 0.25 < short.mean() < 0.75
    assert set(one.user_counts[short]) <= set(SHORT)


def test_a_weight_for_newcomers_is_learned_where_nobody_is_new(data: Dataset) -> None:
    """The part speaks to people without a history alone: among all others, it has no slope."""

    def own(train: Dataset) -> Step:
        new = (train.user_counts == 0)[:, None]

        def score(slate: Slate) -> Slate:
            return slate.add("new", parity(slate.users[:, None], slate.grid) * new[slate.users])

        return score

    assert (later_slice(data, LATER)[0].user_counts > 0).all()
    assert learn_scales(TASTE, own, data, seed=0).own == {"new": 0}
    assert learn_scales(TASTE, own, data, seed=0, newcomers=True).own["new"] > 0.5


def test_where_no_choice_is_left_that_is_said(data: Dataset) -> None:
    """Every later event is about what its user had seen before, or nobody had."""
    cut = data.interactions["timestamp"].quantile(1 - LATER)
    late = data.interactions["timestamp"] >= cut
    first = data.interactions[~late].groupby("user")["item"].first()
    again = data.interactions.copy()
    again.loc[late, "item"] = first[again.loc[late, "user"]].to_numpy()
    for newcomers in (False, True):
        with pytest.raises(ValueError, match="no event of the last fifth is about a known"):
            learn_scales(
                TASTE, Told("told", parity).fit, replace(data, interactions=again), 0,
                newcomers=newcomers,
            )  # fmt: skip


def test_where_newcomers_leave_no_choice_that_is_said() -> None:
    """A single early viewing of each item, and few of them: when hidden, items are unknown."""
    start = pd.Timestamp("2024-01-01", tz="UTC")
    ids = pd.Index(["a", "b"])
    events = pd.DataFrame(
        {
            "user": np.array([0, 0, 0, 0, 1], np.int32),
            "item": np.array([0, 0, 0, 0, 0], np.int32),
            "timestamp": start + pd.to_timedelta([0, 1, 2, 3, 4], unit="D"),
        }
    )
    data = Dataset(
        ids, pd.Index(["x"]), pd.DataFrame({"user_id": ids}), pd.DataFrame({"content_id": ["x"]}),
        events, events.iloc[:0].assign(rating=0.0, reaction=None),
    )  # fmt: skip
    outcomes = set()
    for seed in range(12):
        try:
            learn_scales(chain(Popular()), Told("t", parity).fit, data, seed, newcomers=True)
            outcomes.add("learned")
        except ValueError as error:
            outcomes.add(str(error).split(",")[0])
    assert outcomes == {"learned", "no event of the last fifth is about a known"}


def test_weights_are_seeded(data: Dataset) -> None:
    told = Told("told", parity)
    a, b, c = (
        learn_scales(TASTE, told.fit, data, seed, newcomers=True, proven=True) for seed in (0, 0, 1)
    )
    assert a == b
    assert a != c


def test_what_is_between_may_sort_the_slots(data: Dataset) -> None:
    plain, cut = (
        learn_scales(base, Told("told", hint).fit, data, seed=0)
        for base in (TASTE, chain(EASE(10), top(101)))
    )
    assert cut.own == pytest.approx(plain.own, rel=1e-3)
    assert cut.upstream == pytest.approx(plain.upstream, rel=1e-3)
