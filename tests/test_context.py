from __future__ import annotations

import pickle
import timeit
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from threadpoolctl import threadpool_limits

from firetv.context import ContextBoost, ContextSignals, JointLift, Mode
from firetv.data import Dataset, Tables
from firetv.evaluate import measure, run
from firetv.models import ALS, EASE, LightFM, Popular
from firetv.moments import UTC_CLOCK, Clock, describe
from firetv.multipliers import Learning
from firetv.rules import Rule, Rules
from firetv.slate import EMPTY, ExcludeSeen, Slate, Stage, Step, best, chain, recommend, top
from firetv.splits import each_event
from firetv.synthetic import simulate
from firetv.world import World

NIGHT, MORNING = "2024-03-06T02:00Z", "2024-03-06T08:00Z"  # a Wednesday in spring
GENRES = ("Comedy", "Drama", "News", "Sci-Fi")
TASTE = EASE(reg=10)
EVERYTHING = {"items": True, "personal": True, "joint": True}


def requests(*users: int, at: str | None = NIGHT, **columns: object) -> pd.DataFrame:
    frame = pd.DataFrame({"user": np.array(users, np.int32)}).assign(**columns)
    return frame if at is None else frame.assign(at=pd.Timestamp(at).as_unit("us"))


def one_rule(multiplier: float = 1.3, level: str = "Sci-Fi") -> Rules:
    return Rules((Rule("daypart", "night", "genre", level, multiplier, "because"),))


def single_genres(data: Dataset) -> Dataset:
    genre = [[GENRES[i // 2 % 4]] for i in range(data.shape[1])]
    return replace(data, content=data.content.assign(genres=genre))


def of_genre(data: Dataset, genre: str) -> np.ndarray:
    return np.array([genre in genres for genres in data.content["genres"]])


@pytest.fixture(scope="module")
def single(data: Dataset) -> Dataset:
    """The small world, each title with a single genre."""
    return single_genres(data)


@pytest.fixture(scope="module")
def everything(data: Dataset) -> Step:
    return chain(TASTE, ContextBoost(**EVERYTHING)).fit(data)


def boosts(slate: Slate) -> np.ndarray:
    """What the context adds to the scores."""
    found = [part for name, part in slate.parts.items() if name.startswith("context")]
    return sum(found, np.zeros(slate.shape, np.float32))


@dataclass(frozen=True)
class Altered:
    """A model whose scores go through a function, each part."""

    stage: Stage
    change: Callable[[np.ndarray], np.ndarray]

    def fit(self, data: Dataset) -> Step:
        return partial(self._score, self.stage.fit(data))

    def _score(self, step: Step, slate: Slate) -> Slate:
        parts = {name: np.float32(self.change(v)) for name, v in step(slate).parts.items()}
        return replace(step(slate), parts=parts)


@dataclass(frozen=True)
class Spy:
    """A model that notes the instants it was fitted on."""

    seen: list[pd.Series] = field(default_factory=list)

    def fit(self, data: Dataset) -> Step:
        self.seen.append(data.interactions["timestamp"])
        return Popular().fit(data)


def below_zero(scores: np.ndarray) -> np.ndarray:
    return scores - 50


BASES = {
    "ease": TASTE,
    "als": ALS(components=4, reg=0.1, epochs=5),
    "lightfm": LightFM(components=4, epochs=5),
    "popular": Popular(),
    "negative": Altered(Popular(), below_zero),
}

every_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)


# Rules


def ranks(scores: np.ndarray) -> np.ndarray:
    order = best(scores, scores.shape[1])
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(order.shape[1])[None], axis=1)
    return place


@every_base
@pytest.mark.parametrize("strength", [None, 0.5, 3.0])
def test_a_multiplier_above_one_never_lowers_a_rank(
    base: Stage, strength: float | None, single: Dataset
) -> None:
    boost = ContextBoost("rules", strength=strength, rules=one_rule())
    slate = Slate(requests(*range(single.shape[0])), np.arange(single.shape[1]))
    before = ranks(base.fit(single)(slate).scores)
    after = ranks(chain(base, boost).fit(single)(slate).scores)
    lifted = of_genre(single, "Sci-Fi")
    assert (after[:, lifted] <= before[:, lifted]).all()
    assert (after[:, ~lifted] >= before[:, ~lifted]).all()
    if strength == 3.0:
        assert (after != before).any()


@every_base
def test_a_multiplier_below_one_never_raises_a_rank(base: Stage, single: Dataset) -> None:
    boost = ContextBoost("rules", strength=1.0, rules=one_rule(0.5))
    slate = Slate(requests(*range(single.shape[0])), np.arange(single.shape[1]))
    before = ranks(base.fit(single)(slate).scores)
    after = ranks(chain(base, boost).fit(single)(slate).scores)
    held_back = of_genre(single, "Sci-Fi")
    assert (after[:, held_back] >= before[:, held_back]).all()


def test_a_rule_of_1_3_adds_its_logarithm(single: Dataset) -> None:
    step = chain(TASTE, ContextBoost("rules", strength=1.0, rules=one_rule())).fit(single)
    slate = step(Slate(requests(0, -1), np.arange(single.shape[1])))
    expected = np.where(of_genre(single, "Sci-Fi"), np.float32(np.log(1.3)), 0)
    np.testing.assert_array_equal(slate.parts["context:daypart"], np.tile(expected, (2, 1)))
    assert list(slate.parts) == ["taste", "popularity", "context:daypart"]


def test_rules_hold_in_their_moment_alone(single: Dataset) -> None:
    step = ContextBoost("rules", strength=1.0, rules=one_rule()).fit(single)
    items = np.arange(single.shape[1])
    both = pd.concat([requests(0, at=NIGHT), requests(0, at=MORNING)], ignore_index=True)
    part = step(Slate(both, items)).parts["context:daypart"]
    assert part[0].any()
    assert not part[1].any()


def test_every_dimension_has_a_part_and_parts_sum_to_the_score(data: Dataset) -> None:
    step = chain(TASTE, ContextBoost("rules", strength=1.0)).fit(data)
    asked = requests(0, 1, weather="rainy", companion="family", festival="Halloween")
    slate = step(Slate(asked, np.arange(data.shape[1])))
    names = ["daypart", "daytype", "season", "weather", "festival", "companion"]
    assert [n for n in slate.parts if ":" in n] == [f"context:{name}" for name in names]
    np.testing.assert_allclose(slate.scores, sum(slate.parts.values()), rtol=1e-6)
    assert all(slate.parts[f"context:{name}"].any() for name in ("daypart", "daytype", "season"))


def test_only_the_dimensions_asked_for_count(data: Dataset) -> None:
    step = ContextBoost("rules", strength=1.0, dimensions=("weather",)).fit(data)
    slate = step(Slate(requests(0, weather="rainy"), np.arange(data.shape[1])))
    assert list(slate.parts) == ["context:weather"]


def test_strength_multiplies_all_logarithms(data: Dataset) -> None:
    slate = Slate(requests(0, 3), np.arange(data.shape[1]))
    once, thrice = (ContextBoost(strength=s, **EVERYTHING).fit(data)(slate) for s in (1.0, 3.0))
    assert list(once.parts) == list(thrice.parts)
    for name, part in once.parts.items():
        np.testing.assert_allclose(thrice.parts[name], 3 * part, rtol=1e-5, atol=1e-6)


# Modes and parameters


def test_the_mode_off_changes_nothing(data: Dataset) -> None:
    slate = Slate(requests(0, -1), np.arange(data.shape[1]))
    plain, off = TASTE.fit(data)(slate), chain(TASTE, ContextBoost("off")).fit(data)(slate)
    assert list(plain.parts) == list(off.parts)
    np.testing.assert_array_equal(plain.scores, off.scores)


def test_modes_differ(data: Dataset) -> None:
    slate = Slate(requests(0, 1), np.arange(data.shape[1]))
    modes: tuple[Mode, ...] = ("off", "rules", "learned", "rules+learned")
    found = [boosts(ContextBoost(mode, strength=1.0).fit(data)(slate)) for mode in modes]
    different = [not np.allclose(a, b) for n, a in enumerate(found) for b in found[:n]]
    assert all(different)


@every_base
def test_no_strength_leaves_the_order_of_the_base(base: Stage, data: Dataset) -> None:
    slate = Slate(requests(*range(data.shape[0]), -1), np.arange(data.shape[1]))
    before = base.fit(data)(slate).scores
    after = chain(base, ContextBoost(strength=0.0)).fit(data)(slate)
    assert not boosts(after).any()
    np.testing.assert_array_equal(ranks(after.scores), ranks(before))


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"mode": "magic"}, "mode 'magic': use one of off, rules, learned, rules"),
        ({"dimensions": ("weather", "mood")}, r"unknown dimensions \['mood'\]"),
        ({"strength": -0.5}, "strength -0.5"),
        ({"strength": float("nan")}, "strength nan"),
        ({"width": -1.0}, "width -1.0 is below 0"),
        ({"weight": 0.0}, "weight 0.0 not above it"),
    ],
)
def test_impossible_parameters_are_told(parameters: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ContextBoost(**parameters)


def test_nothing_to_learn_a_strength_from_is_told(data: Dataset) -> None:
    once = data.interactions.drop_duplicates("item")  # no later item was known before
    with pytest.raises(ValueError, match="no event of the last fifth"):
        chain(TASTE, ContextBoost()).fit(replace(data, interactions=once))


def test_what_has_no_data_keeps_its_rule_beside_what_is_learned(data: Dataset) -> None:
    """The small world knows winter and spring, and never saw an autumn."""
    level = "Sci-Fi"
    rules = Rules((Rule("season", "autumn", "genre", level, 2.0, "because"),))
    single = single_genres(data)
    step = ContextBoost("rules+learned", ("season",), strength=1.0, rules=rules).fit(single)
    asked = requests(0, at="2024-10-10T12:00Z")
    slate = step(Slate(asked, np.arange(single.shape[1])))
    expected = np.where(of_genre(single, level), np.log(2), 0)
    np.testing.assert_allclose(boosts(slate)[0], expected, rtol=1e-6)


def test_rules_are_what_little_data_is_drawn_to(single: Dataset) -> None:
    few = single.keep(np.arange(len(single.interactions)) < 29)
    slate = Slate(requests(0), np.arange(single.shape[1]))
    options = {"dimensions": ("daypart",), "strength": 1.0, "rules": one_rule()}
    ruled = ContextBoost("rules", **options).fit(few)(slate)
    both = ContextBoost("rules+learned", **options).fit(few)(slate)
    np.testing.assert_array_equal(both.scores, ruled.scores)
    assert not ContextBoost("learned", **options).fit(few)(slate).parts


# Laws of models, with all that can be switched on


def test_refitting_gives_the_same_scores(data: Dataset, everything: Step) -> None:
    slate = Slate(requests(0, 5, -1), np.arange(data.shape[1]))
    again = chain(TASTE, ContextBoost(**EVERYTHING)).fit(data)
    np.testing.assert_array_equal(everything(slate).scores, again(slate).scores)


def test_a_step_neither_mutates_nor_forgets_its_slate(data: Dataset, everything: Step) -> None:
    items = np.arange(data.shape[1])
    items.flags.writeable = False
    asked = requests(1, 2)
    before = Slate(asked, items).add("given", np.ones((2, len(items))))
    after = everything(before)
    assert list(before.parts) == ["given"]
    np.testing.assert_array_equal(before.parts["given"], 1)
    pd.testing.assert_frame_equal(asked, requests(1, 2))
    np.testing.assert_array_equal(after.parts["given"], 1)
    assert all(part.dtype == np.float32 for part in after.parts.values())
    np.testing.assert_allclose(after.scores, sum(after.parts.values()), rtol=1e-5)


def moments_of_all_kinds(n_users: int) -> pd.DataFrame:
    """Every user and a stranger, at different hours of different days, some of them unknown."""
    rng = np.random.default_rng(0)
    frame = requests(*range(n_users), -1, at=None)
    hours = pd.to_timedelta(rng.integers(0, 24 * 90, size=len(frame)), unit="h")
    at = pd.Series(pd.Timestamp("2024-01-01", tz="UTC") + hours).where(rng.random(len(frame)) < 0.9)
    return frame.assign(at=at.astype("datetime64[us, UTC]"))


def test_neither_company_nor_chunks_matter(data: Dataset, everything: Step) -> None:
    asked, items = moments_of_all_kinds(data.shape[0]), np.arange(data.shape[1])
    whole = everything(Slate(asked, items)).scores
    chunked = recommend(everything, asked, items, chunk_cells=3 * len(items)).scores
    np.testing.assert_allclose(chunked, whole, rtol=1e-4, atol=1e-5)
    order = np.random.default_rng(1).permutation(len(asked))
    mixed = everything(Slate(asked.iloc[order], items)).scores
    np.testing.assert_allclose(mixed, whole[order], rtol=1e-4, atol=1e-5)


def test_own_candidates_score_as_shared_ones(data: Dataset, everything: Step) -> None:
    asked = moments_of_all_kinds(data.shape[0])
    shared = np.random.default_rng(0).permutation(data.shape[1])[:10]
    own = np.tile(shared, (len(asked), 1))
    a, b = everything(Slate(asked, shared)), everything(Slate(asked, own))
    np.testing.assert_allclose(a.scores, b.scores, rtol=1e-4, atol=1e-5)
    own[1, 4] = EMPTY
    scores = everything(Slate(asked, own)).scores
    assert scores[1, 4] == -np.inf
    assert np.isfinite(np.delete(scores.ravel(), own.shape[1] + 4)).all()
    shared[0] = EMPTY
    assert (everything(Slate(asked, shared)).scores[:, 0] == -np.inf).all()


def test_no_requests_are_answered_with_nothing(data: Dataset, everything: Step) -> None:
    slate = recommend(everything, requests(at=NIGHT), np.arange(data.shape[1]))
    assert slate.scores.shape == (0, data.shape[1])


def test_no_event_after_the_cut_reaches_a_fit(data: Dataset) -> None:
    cut = data.interactions["timestamp"].quantile(0.5)
    late = data.interactions["timestamp"] >= cut
    other = data.interactions.copy()
    other.loc[late, "item"] = 0
    slate, stage = Slate(requests(0, 1), np.arange(data.shape[1])), ContextBoost(**EVERYTHING)
    a = chain(TASTE, stage).fit(data.until(cut))(slate).scores
    b = chain(TASTE, stage).fit(replace(data, interactions=other).until(cut))(slate).scores
    np.testing.assert_array_equal(a, b)
    c = chain(TASTE, stage).fit(data)(slate).scores
    assert (a != c).any()


def test_a_fitted_pipeline_crosses_processes(data: Dataset, everything: Step) -> None:
    asked, items = moments_of_all_kinds(data.shape[0]), np.arange(data.shape[1])
    copy = pickle.loads(pickle.dumps(everything))
    a, b = recommend(everything, asked, items), recommend(copy, asked, items)
    assert list(a.parts) == list(b.parts)
    np.testing.assert_array_equal(a.scores, b.scores)


def test_a_stranger_gets_everybodys_multipliers(data: Dataset) -> None:
    slate = Slate(requests(-1, 0), np.arange(data.shape[1]))
    options = {"mode": "learned", "dimensions": ("daypart",), "strength": 1.0}
    own = boosts(ContextBoost(personal=True, **options).fit(data)(slate))
    all_alike = boosts(ContextBoost(**options).fit(data)(slate))
    np.testing.assert_array_equal(own[0], all_alike[0])
    assert (own[1] != all_alike[1]).any()


@pytest.mark.parametrize(
    "asked",
    [
        requests(0, -1, at=None),
        requests(0, -1, at=None, at_what=1, weather="hail", companion=None),
        requests(0, -1, at=None).assign(at=pd.Series(pd.NaT, dtype="datetime64[us, UTC]")),
    ],
    ids=["no columns", "unknown values", "no instant"],
)
def test_unknown_context_changes_nothing(asked: pd.DataFrame, data: Dataset) -> None:
    items = np.arange(data.shape[1])
    boost = ContextBoost(items=True, personal=True)
    slate = chain(TASTE, boost).fit(data)(Slate(asked, items))
    assert not boosts(slate).any()
    np.testing.assert_array_equal(
        ranks(slate.scores), ranks(TASTE.fit(data)(Slate(asked, items)).scores)
    )


def test_a_joint_lift_of_an_unknown_moment_is_the_same_for_all_items(data: Dataset) -> None:
    step = ContextBoost("learned", strength=1.0, joint=True).fit(data)
    slate = step(Slate(requests(0, at=None), np.arange(data.shape[1])))
    usual = slate.parts["context:joint"]
    assert np.isfinite(usual).all()
    assert np.abs(usual).max() < np.log(2)


# What the strength is learned from


def test_strength_is_learned_from_later_events_than_the_base_knows(data: Dataset) -> None:
    spy = Spy()
    chain(spy, ContextBoost()).fit(data)
    times = data.interactions["timestamp"]
    counts = sorted(len(seen) for seen in spy.seen)
    assert counts == [(times < times.quantile(0.8)).sum(), len(times)]
    earlier = min(spy.seen, key=len)
    assert earlier.max() < times.quantile(0.8)


def test_a_given_strength_still_puts_the_base_in_log_probabilities(data: Dataset) -> None:
    learned = chain(TASTE, ContextBoost()).fit(data).steps[-1]
    given = chain(TASTE, ContextBoost(strength=2.0)).fit(data).steps[-1]
    assert given.strength == 2.0
    taste = learned.scales.upstream["taste"]
    assert given.scales.upstream["taste"] == pytest.approx(taste, rel=0.2)


@pytest.mark.parametrize("factor", [1e-6, 0.01, 1e6])
def test_the_scale_of_the_base_does_not_matter(factor: float, data: Dataset) -> None:
    slate = Slate(requests(*range(10)), np.arange(data.shape[1]))
    scaled = Altered(TASTE, partial(np.multiply, factor))
    a = chain(TASTE, ContextBoost()).fit(data)(slate).scores
    b = chain(scaled, ContextBoost()).fit(data)(slate).scores
    np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("between", [top(200), top(101), ExcludeSeen()], ids=repr)
def test_what_is_between_base_and_boost_does_not_mislead_the_strength(
    between: Stage | Step, data: Dataset
) -> None:
    plain = chain(TASTE, ContextBoost()).fit(data).steps[-1]
    cut = chain(TASTE, between, ContextBoost()).fit(data).steps[-1]
    assert cut.strength == pytest.approx(plain.strength, rel=1e-3)
    assert cut.scales.upstream == pytest.approx(plain.scales.upstream, rel=1e-3)


def test_a_short_list_can_be_boosted(data: Dataset) -> None:
    step = chain(TASTE, top(20), ContextBoost(**EVERYTHING)).fit(data)
    slate = step(Slate(requests(0, 1), np.arange(data.shape[1])))
    assert slate.shape == (2, 20)
    assert np.isfinite(slate.scores).all()
    assert "context:joint" in slate.parts


# Clocks


def test_the_zone_of_the_clock_and_of_the_region_shift_the_daypart(single: Dataset) -> None:
    asked, items = requests(0, 1, region=["north", "south"]), np.arange(single.shape[1])
    lifted = of_genre(single, "Sci-Fi")
    boost = ContextBoost("rules", strength=1.0, rules=one_rule())

    def is_lifted(clock: Clock, frame: pd.DataFrame) -> list[bool]:
        slate = replace(boost, clock=clock).fit(single)(Slate(frame, items))
        return list(boosts(slate)[:, lifted].all(axis=1))

    assert is_lifted(UTC_CLOCK, asked) == [True, True]
    assert is_lifted(Clock(zone="Asia/Tokyo"), asked) == [False, False]  # 11 o'clock
    by_region = Clock(zones={"south": "Asia/Tokyo"})
    assert is_lifted(by_region, asked) == [True, False]
    home = (single.users["region"].iloc[:8] == "north").tolist()
    assert is_lifted(by_region, requests(*range(8))) == home  # from the profile
    assert 0 < sum(home) < 8


def test_dayparts_may_be_ones_own(single: Dataset) -> None:
    clock = Clock(dayparts={"small hours": 0, "day": 5})
    rules = Rules((Rule("daypart", "small hours", "genre", "Sci-Fi", 1.3, "because"),))
    items = np.arange(single.shape[1])
    boost = ContextBoost("rules", strength=1.0, rules=rules, clock=clock)
    slate = boost.fit(single)(Slate(requests(0), items))
    expected = np.where(of_genre(single, "Sci-Fi"), np.log(1.3), 0)
    np.testing.assert_allclose(slate.parts["context:daypart"][0], expected, rtol=1e-6)
    learned = replace(boost, mode="learned", dimensions=("daypart",)).fit(single)
    assert set(learned.multipliers[0].values) == {"small hours", "day"}


# Joint lifts and signals


def joint(weight: float = 0.5, width: float = 2.0) -> JointLift:
    """Two past contexts: a rainy evening with items 0, 0 and 1, and a sunny one with item 1."""
    contexts = pd.DataFrame({"daypart": ["evening", "evening"], "weather": ["rainy", "sunny"]})
    counts = sparse.csr_array(np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0]]))
    return JointLift(("daypart", "weather"), contexts.astype("str"), counts, width, weight)


def asked_for(*weather: str | None) -> pd.DataFrame:
    return pd.DataFrame({"daypart": "evening", "weather": weather}).astype("str")


def test_a_joint_lift_is_what_it_says() -> None:
    table, row = joint().log_lift(asked_for("rainy", None, "rainy"))
    assert row[0] == row[2] != row[1]
    far, half = np.exp(-2.0), np.exp(-1.0)
    scale = 4 / (3 + far)  # of the kernel, so that as many events are near as there are
    near = np.array([2 * scale, (1 + far) * scale, 0])
    expected = np.log((0.5 + near) / (0.5 + np.array([2, 2, 0])))
    np.testing.assert_allclose(table[row[0]], expected, rtol=1e-5, atol=1e-6)
    both = half * np.array([2, 2, 0])  # either context is half a mismatch away
    near = both * 4 / both.sum()
    np.testing.assert_allclose(near, [2, 2, 0])
    np.testing.assert_allclose(table[row[1]], 0, atol=1e-6)


def test_a_past_event_of_unknown_context_is_half_a_mismatch_away() -> None:
    lift = joint()
    gap = replace(lift, contexts=lift.contexts.assign(weather=["", "sunny"]))
    table, row = gap.log_lift(asked_for("sunny"))
    half = np.exp(-1.0)
    near = np.array([2 * half, half + 1, 0]) * 4 / (3 * half + 1)
    expected = np.log((0.5 + near) / (0.5 + np.array([2, 2, 0])))
    np.testing.assert_allclose(table[row[0]], expected, rtol=1e-5, atol=1e-6)


def test_joint_lifts_count_events_of_each_context(data: Dataset) -> None:
    moments = describe(data.interactions, UTC_CLOCK)
    lift = JointLift.of(data, moments, ("daypart", "daytype", "weather"), 2.5, 0.3)
    assert lift.dimensions == ("daypart", "daytype")  # nobody wrote the weather down
    assert lift.counts.sum() == len(data.interactions)
    for number in (0, len(lift.contexts) - 1):
        same = (moments[["daypart", "daytype"]] == lift.contexts.iloc[number]).all(axis=1)
        count = np.bincount(data.interactions.loc[same, "item"], minlength=data.shape[1])
        np.testing.assert_array_equal(lift.counts[[number]].toarray()[0], count)


def test_a_very_wide_kernel_lifts_nothing() -> None:
    table, _ = joint(width=1e-9).log_lift(asked_for("rainy", "sunny"))
    np.testing.assert_allclose(table, 0, atol=1e-6)


@pytest.mark.parametrize("stage", [ContextBoost(strength=1.0, **EVERYTHING), ContextSignals()])
def test_data_without_any_difference_of_context_give_no_lifts(stage: Stage, data: Dataset) -> None:
    once = data.interactions.assign(timestamp=pd.Timestamp(NIGHT).as_unit("us"))
    step = replace(stage, dimensions=("daypart", "weather")).fit(replace(data, interactions=once))
    slate = step(Slate(requests(0, at=MORNING), np.arange(data.shape[1])))
    assert np.isfinite(slate.scores).all()


def test_titles_of_which_nothing_is_known_can_be_boosted(data: Dataset) -> None:
    bare = replace(data, content=data.content[["content_id"]])
    for options in ({}, EVERYTHING):
        step = chain(TASTE, ContextBoost(**options)).fit(bare)
        slate = step(Slate(requests(0, -1), np.arange(data.shape[1])))
        assert np.isfinite(slate.scores).all()


def test_signals_are_named_by_dimension_and_family(data: Dataset) -> None:
    step = ContextSignals(("daypart", "season"), ("genre", "type"), widths=(1.0, 2.5)).fit(data)
    slate = step(Slate(requests(0, -1), np.arange(data.shape[1])))
    parts = [f"context:{d}/{f}" for d in ("daypart", "season") for f in ("genre", "type", "item")]
    assert list(slate.parts) == [*parts, "context:joint/1", "context:joint/2.5"]
    assert all(part.any() for part in slate.parts.values())


def test_signals_add_up_to_the_multipliers_before_they_are_normalised(data: Dataset) -> None:
    step = ContextSignals(("daypart",), item_weight=3.0, widths=()).fit(data)
    slate = step(Slate(requests(0), np.arange(data.shape[1])))
    learning = Learning.of(data, UTC_CLOCK, (), Rules(()))
    lifts, found = learning.lifts("daypart")[0], learning.multipliers("daypart", items=3.0)
    own = found.families["item"]
    logit = lifts.coefficients[:, :1] + sum(found.families.values())[:-1] - own[:-1]
    lift = np.exp(logit) / np.exp(logit).sum(axis=0) / lifts.usual[:, None]
    np.testing.assert_allclose(np.log(lift) + own[:-1], found.table[:-1], atol=1e-5)
    night = sum(found.families.values())[found.values.index("night")]
    np.testing.assert_allclose(sum(slate.parts.values())[0], night, atol=1e-5)


def test_signals_of_unknown_context_are_zero(data: Dataset) -> None:
    step = ContextSignals(widths=()).fit(data)
    slate = step(Slate(requests(0, at=None), np.arange(data.shape[1])))
    assert not slate.scores.any()


# Worlds


def world(events: int, users: int, content: int, strength: float) -> Dataset:
    planted = World(
        users=users, content=content, watch_events=events, context_strength=strength, influence=0
    )
    return Dataset.from_tables(simulate(planted)[0])


def test_where_context_does_nothing_learned_boosts_do_no_harm() -> None:
    data = world(6000, 100, 150, strength=0)
    events = data.interactions.drop(columns=["item", "timestamp"])
    asked = events.iloc[::80].assign(at=data.interactions["timestamp"]).reset_index(drop=True)
    slate = Slate(asked, np.arange(data.shape[1]))
    before = EASE(reg=50).fit(data)(slate)
    boost = ContextBoost("learned", attributes=("genre",))
    after = chain(EASE(reg=50), boost).fit(data)(slate)
    spread = (after.scores - boosts(after)).std(axis=1).mean()
    assert boosts(after).std(axis=1).mean() < 0.1 * spread
    lists = [best(each.scores, 20) for each in (before, after)]
    kept = np.mean([np.isin(a, b).mean() for a, b in zip(*lists, strict=True)])
    assert kept > 0.9


def test_where_context_matters_learned_boosts_help_by_more_than_noise() -> None:
    data = world(20_000, 200, 300, strength=2)
    times = data.interactions["timestamp"]
    cut = times.quantile(0.8)
    split = each_event("later", data.until(cut), data.interactions[times >= cut])
    base = EASE(reg=50)
    boost = ContextBoost("learned", attributes=("genre",))
    stages = {"base": base, "learned": chain(base, boost)}
    values = measure([run(name, stage, split, seed=0) for name, stage in stages.items()])
    mean = values.pivot_table(index="user", columns="model", values="value")
    gain = mean["learned"] - mean["base"]
    assert gain.mean() > 3 * gain.sem()
    assert gain.mean() > 0.01


def test_rules_and_learning_agree_on_what_was_planted() -> None:
    """What a rule says wrongly, data correct."""
    data = world(20_000, 200, 300, strength=1)
    wrong = Rules((Rule("companion", "family", "genre", "Horror", 3.0, "because"),))
    slate = Slate(requests(-1, at=None, companion="family"), np.arange(data.shape[1]))
    horror = of_genre(data, "Horror")
    options = {"dimensions": ("companion",), "attributes": ("genre",), "strength": 1.0}
    found = {
        mode: boosts(ContextBoost(mode, rules=wrong, **options).fit(data)(slate))[0][horror].mean()
        for mode in ("rules", "learned", "rules+learned")
    }
    assert found["rules"] > 0
    assert found["learned"] < 0
    assert found["rules+learned"] == pytest.approx(found["learned"], abs=0.2)


def test_tables_of_ratings_without_context_can_be_boosted() -> None:
    """No users, no content, no column of context: what a file of ratings has."""
    history = pd.DataFrame(
        {
            "user_id": [f"u{n % 9}" for n in range(200)],
            "content_id": [f"c{n * n % 23}" for n in range(200)],
            "timestamp": pd.date_range("2024-01-01", periods=200, freq="7h", tz="UTC"),
        }
    )
    data = Dataset.from_tables(Tables(history))
    slate = Slate(requests(0, -1), np.arange(data.shape[1]))
    step = chain(Popular(), ContextBoost(strength=1.0, items=True)).fit(data)
    assert np.isfinite(step(slate).scores).all()


def test_the_context_costs_no_more_than_the_lists_without_it() -> None:
    """As many users and titles as MovieLens-100K has, each request in a moment of its own."""
    tables, _ = simulate(World(users=943, content=1682, watch_events=5000, influence=0))
    data = Dataset.from_tables(tables)
    base, step = (
        chain(ALS(components=32, epochs=1), ContextBoost("rules", strength=1)).fit(data).steps
    )
    drawn = data.interactions.iloc[:943]
    asked = drawn.assign(user=np.arange(943), companion="family").rename(
        columns={"timestamp": "at"}
    )
    slate, unseen = Slate(asked, np.arange(1682)), ExcludeSeen().fit(data)
    scored = base(slate)
    assert len(step(scored).parts) >= 6
    with threadpool_limits(1):
        lists = timeit.repeat(lambda: top(10)(unseen(base(slate))), number=1, repeat=9)
        context = timeit.repeat(lambda: step(scored), number=1, repeat=9)
    assert np.median(context) <= np.median(lists)
