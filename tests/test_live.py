"""The simulated live test: each assumption does what it says, and chance is shared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit, logit

from firetv import live
from firetv.clicks import Cascade, PositionBased
from firetv.data import Dataset
from firetv.live import Viewers, agreement, assign, live_test
from firetv.moments import describe
from firetv.slate import Slate, Step, top
from firetv.synthetic import COMPANION_WEIGHTS, HOUR_WEIGHTS, WEEKDAY_WEIGHTS, simulate
from firetv.world import CONTEXTS, World, context_codes, plant

WORLD = World(users=300, content=80, watch_events=3000, days=120)
SETTING = plant(WORLD)
TRUTH = SETTING.truth
START = 80
EVENTS = Dataset.from_tables(simulate(WORLD)[0])
HISTORY = EVENTS.until(WORLD.dates[START].tz_localize("UTC"))
PLAIN = Viewers(fatigue=0, satiation=0, loyalty=0)  # every evening is like the first


def contexts(requests: pd.DataFrame) -> np.ndarray:
    return context_codes(requests.rename(columns={"at": "timestamp"}))


def oracle(slate: Slate) -> Slate:
    return slate.add("appeal", TRUTH.appeal(slate.users, contexts(slate.requests), slate.grid))


def worst(slate: Slate) -> Slate:
    return slate.add("-appeal", -oracle(slate).parts["appeal"])


def shuffled(slate: Slate) -> Slate:
    """Nobody's list depends on who else comes."""
    order = np.random.default_rng(7).random((WORLD.users, WORLD.content))
    return slate.add("random", order[slate.users[:, None], slate.grid])


def fixed(*items: int) -> Step:
    """The same list for everybody, whatever they have watched."""

    def step(slate: Slate) -> Slate:
        shown = np.tile(np.array(items), (len(slate.requests), 1))
        rank = np.broadcast_to(-np.arange(len(items)), shown.shape)
        return Slate(slate.requests, shown).add("rank", rank)

    return step


def spy(step: Step, seen: list[Slate]) -> Step:
    def spied(slate: Slate) -> Slate:
        seen.append(slate)
        return step(slate)

    return spied


def total(step: Step, viewers: Viewers = PLAIN, name: str = "watched", **options: object) -> float:
    options = {"days": 14, **options}
    return live_test({"x": step}, SETTING, START, viewers=viewers, **options)[name].sum()


# Shared chance


def test_equal_variants_have_equal_outcomes() -> None:
    outcomes = live_test({"a": oracle, "b": shuffled, "c": oracle}, SETTING, START, days=10)
    a, b, c = (rows.drop(columns="variant") for _, rows in outcomes.groupby("variant"))
    np.testing.assert_array_equal(a, c)
    assert (a.to_numpy() != b.to_numpy()).any()
    assert outcomes.columns.tolist() == [
        *("user", "variant", "visits", "shown", "watched", "liked", "satisfaction", "returned")
    ]
    assert a["user"].tolist() == list(range(WORLD.users))


def test_outcomes_do_not_depend_on_which_other_variants_are_tested() -> None:
    both = live_test({"a": shuffled, "b": oracle}, SETTING, START, days=5)
    alone = live_test({"b": oracle}, SETTING, START, days=5)
    pd.testing.assert_frame_equal(both[both["variant"] == "b"].reset_index(drop=True), alone)


def test_seeds_repeat_and_differ() -> None:
    first, again = (live_test({"a": oracle}, SETTING, START, days=5) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    other = live_test({"a": oracle}, SETTING, START, days=5, seed=1)
    assert first["watched"].sum() != other["watched"].sum()


def test_a_shorter_test_is_the_beginning_of_a_longer_one() -> None:
    short, long = (
        live_test({"a": oracle}, SETTING, START, days, by_day=True, history=HISTORY)
        for days in (3, 6)
    )
    pd.testing.assert_frame_equal(short, long[long["day"] < 3].reset_index(drop=True))


def test_variants_change_nothing_for_whom_they_do_not_reach() -> None:
    """Who is shown the same list is as well off, whatever others are shown."""

    def for_some(slate: Slate) -> Slate:
        parts = oracle(slate).parts["appeal"], shuffled(slate).parts["random"]
        return slate.add("mixed", np.where(slate.users[:, None] < 150, *parts))

    outcomes = live_test({"oracle": oracle, "some": for_some}, SETTING, START, days=10)
    one, other = (rows.drop(columns="variant") for _, rows in outcomes.groupby("variant"))
    np.testing.assert_array_equal(one[:150], other[:150])
    assert one["watched"][150:].sum() > other["watched"][150:].sum()


def test_chunks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "CELLS", 100 * WORLD.content)
    seen: list[Slate] = []
    outcomes = live_test({"a": spy(oracle, seen), "b": oracle}, SETTING, START, days=3)
    assert max(len(slate.requests) for slate in seen) <= 100
    for _, rows in outcomes.groupby("variant"):
        assert rows["user"].tolist() == list(range(WORLD.users))
    a, b = (rows.drop(columns="variant") for _, rows in outcomes.groupby("variant"))
    np.testing.assert_array_equal(a, b)


# What people are asked for


def test_requests_hold_the_context_of_the_world() -> None:
    seen: list[Slate] = []
    start = int(np.flatnonzero(SETTING.festival >= 0)[-1]) - 1  # in a festival, and out of it
    live_test({"a": spy(oracle, seen)}, SETTING, start, days=4)
    assert len(seen) == 4
    festivals = []
    for day, slate in enumerate(seen, start):
        requests, users = slate.requests, slate.users
        assert list(requests) == ["user", "at", "weather", "festival", "companion"]
        assert requests["at"].dtype == "datetime64[us, UTC]"
        assert (requests["at"].dt.tz_localize(None).dt.floor("D") == WORLD.dates[day]).all()
        codes = SETTING.weather[SETTING.region[users], day]
        assert requests["weather"].tolist() == [CONTEXTS["weather"][code] for code in codes]
        code = SETTING.festival[day]
        festivals.append(CONTEXTS["festival"][code] if code >= 0 else "none")
        assert set(requests["festival"]) == {festivals[-1]}
        assert set(requests["companion"]) == set(CONTEXTS["companion"])
        moments = describe(requests)
        assert (moments["festival"] == festivals[-1]).all()
        assert moments[["daypart", "weather", "companion"]].notna().all(axis=None)
    assert "none" in festivals
    assert len(set(festivals)) > 1


def test_requests_look_like_the_history() -> None:
    """Hours and company are drawn as in the events that variants have learned from."""
    seen: list[Slate] = []
    live_test({"a": spy(oracle, seen)}, SETTING, START, days=40)
    requests = pd.concat([slate.requests for slate in seen])
    weekend = requests["at"].dt.day_of_week >= 5
    for row, weights in ((~weekend, HOUR_WEIGHTS[0]), (weekend, HOUR_WEIGHTS[1])):
        counts = np.bincount(requests["at"][row].dt.hour, minlength=24)
        expected = np.array(weights) / sum(weights) * counts.sum()
        assert stats.chisquare(counts, expected).pvalue > 1e-3
    counts = requests["companion"].value_counts()[list(CONTEXTS["companion"])]
    assert stats.chisquare(counts, np.array(COMPANION_WEIGHTS) * counts.sum()).pvalue > 1e-3
    recorded = EVENTS.interactions
    for name in ("weather", "companion"):
        assert requests[name].dtype == recorded[name].dtype


def test_worlds_without_company_record_none() -> None:
    seen: list[Slate] = []
    live_test({"a": spy(shuffled, seen)}, plant(replace(WORLD, companion=False)), START, days=1)
    assert "companion" not in seen[0].requests


def test_what_was_watched_is_no_candidate() -> None:
    seen: list[Slate] = []
    test = {"a": spy(oracle, seen)}
    days = live_test(test, SETTING, START, days=12, by_day=True, history=HISTORY)
    watched = days.pivot_table("watched", "day", "user").to_numpy().cumsum(axis=0)
    offered = np.flatnonzero(HISTORY.item_counts)
    for day, slate in enumerate(seen):
        assert set(np.unique(slate.grid)) - {-1} <= set(offered)
        before = HISTORY.user_counts[slate.users] + (watched[day - 1, slate.users] if day else 0)
        np.testing.assert_array_equal((slate.grid < 0).sum(axis=1), before)
        assert (slate.grid[:, :, None] != -1).any()
        history = HISTORY.matrix()[slate.users].toarray() > 0
        rows, slots = np.nonzero(slate.grid >= 0)
        assert not history[rows, slate.grid[rows, slots]].any()


def test_titles_that_nobody_watched_are_no_candidates() -> None:
    known = HISTORY.keep((HISTORY.interactions["item"] < 50).to_numpy())
    known = replace(known, reactions=known.reactions.iloc[:0])
    seen: list[Slate] = []
    live_test({"a": spy(oracle, seen)}, SETTING, START, days=1, history=known)
    assert seen[0].shape[1] == (known.item_counts > 0).sum() <= 50
    assert (np.diff(seen[0].grid.max(axis=0)) < 0).any()  # in no order that betrays popularity


def test_no_title_is_watched_twice_even_if_it_is_shown() -> None:
    viewers = replace(PLAIN, clicks=PositionBased(0), visits=0.9)
    outcomes = live_test({"a": fixed(3, 4)}, SETTING, START, days=40, viewers=viewers, k=2)
    assert outcomes["watched"].max() == 2
    assert (outcomes["shown"] == 2 * outcomes["visits"]).all()
    events = HISTORY.interactions.iloc[: WORLD.users].assign(user=np.arange(WORLD.users), item=3)
    saw = replace(HISTORY, interactions=events, reactions=HISTORY.reactions.iloc[:0])
    assert total(fixed(3), viewers, k=1, history=saw) == 0


def test_lists_may_be_short() -> None:
    def three(slate: Slate) -> Slate:
        return top(3)(oracle(slate))

    outcomes = live_test({"three": three, "ten": oracle}, SETTING, START, days=5)
    shown = outcomes.groupby("variant")[["shown", "visits"]].sum()
    assert shown.loc["three", "shown"] == 3 * shown.loc["three", "visits"]
    assert shown.loc["ten", "shown"] == 10 * shown.loc["ten", "visits"]


# What they watch


def test_clicks_follow_appeal_and_position() -> None:
    """Many first evenings against the law of the world times that of the click model."""
    items = (5, 17, 60, 2, 33)
    for model in (PositionBased(), Cascade(0.9, 0.4)):
        found, expected, variance = 0.0, 0.0, 0.0
        for seed in range(30):
            seen: list[Slate] = []
            test = {"a": spy(fixed(*items), seen)}
            viewers = replace(PLAIN, clicks=model)
            outcomes = live_test(test, SETTING, START, 1, viewers, k=5, seed=seed)
            users, moment = seen[0].users, contexts(seen[0].requests)
            chance = model.expected(TRUTH.appeal(users, moment, np.array(items)))
            found += outcomes["watched"].sum()
            expected += chance.sum()
            variance += (chance * (1 - chance)).sum()
        assert found == pytest.approx(expected, abs=4 * np.sqrt(variance))


def test_better_lists_are_watched_more_and_liked_better() -> None:
    test = {"oracle": oracle, "random": shuffled, "worst": worst}
    means = live_test(test, SETTING, START, history=HISTORY).groupby("variant").mean()
    assert means.loc["oracle", "watched"] > 2 * means.loc["random", "watched"]
    assert means.loc["random", "watched"] > 2 * means.loc["worst", "watched"]
    assert means.loc["oracle", "liked"] > 2 * means.loc["random", "liked"]
    for name in ("visits", "satisfaction", "returned"):
        assert means.loc["oracle", name] > means.loc["random", name] > means.loc["worst", name]


def test_order_matters_by_position_bias_alone() -> None:
    items = tuple(np.argsort(-TRUTH.popularity)[:8])
    for decay, equal in ((0, True), (1.5, False)):
        viewers = replace(PLAIN, clicks=PositionBased(decay))
        one, other = (total(fixed(*order), viewers, k=8) for order in (items, items[::-1]))
        assert (one == other) == equal
    watched = [total(oracle, replace(PLAIN, clicks=PositionBased(d))) for d in (0, 1, 3)]
    assert watched[0] > 1.5 * watched[1] > 1.5 * watched[2]


def test_fatigue_wears_out_a_title_and_is_forgotten() -> None:
    items = fixed(*range(10))
    fresh, worn = (total(items, replace(PLAIN, fatigue=f), days=28) for f in (0, 0.5))
    assert worn < 0.8 * fresh
    forgetful = total(items, replace(PLAIN, fatigue=0.5, memory=0.2), days=28)
    assert worn < forgetful <= fresh
    first = [total(items, replace(PLAIN, fatigue=f), days=1) for f in (0, 5)]
    assert first[0] == first[1]  # nothing was shown before


def test_satiation_turns_people_from_what_they_saw_lately() -> None:
    watched = [total(oracle, replace(PLAIN, satiation=s)) for s in (1, 0, -0.3)]
    assert watched[0] < 0.9 * watched[1]
    assert watched[1] < 0.98 * watched[2]
    plain = [total(oracle, replace(PLAIN, memory=m)) for m in (1, 30)]
    assert plain[0] == plain[1]  # memory alone does nothing


def test_satiation_begins_in_the_history_and_fades() -> None:
    start, viewers = WORLD.dates[START].tz_localize("UTC"), replace(PLAIN, satiation=3)
    watched = []
    for days in (1, 70):
        events = HISTORY.interactions.assign(timestamp=start - pd.Timedelta(days=days))
        past = replace(HISTORY, interactions=events, reactions=HISTORY.reactions.iloc[:0])
        watched.append(total(oracle, viewers, days=1, history=past))
    unsated = total(oracle, PLAIN, days=1, history=HISTORY)
    assert watched[0] < 0.7 * watched[1]
    assert watched[1] == pytest.approx(unsated, rel=0.05)  # ten half-lives later


def test_satisfaction_moves_towards_how_much_was_liked() -> None:
    viewers = Viewers(start=0.4, learning=0.25)
    days = live_test({"a": oracle}, SETTING, START, 6, viewers, by_day=True)
    table = days.pivot_table(list(live.DAILY), "user", "day")
    content = np.full(WORLD.users, 0.4)
    for day in range(6):
        visits, watched, liked, found = (
            table[name][day].to_numpy() for name in ("visits", "watched", "liked", "satisfaction")
        )
        aim = np.where(watched > 0, liked / np.maximum(watched, 1), 0)
        content = np.where(visits > 0, content + 0.25 * (aim - content), content)
        np.testing.assert_allclose(found, content, atol=1e-12)
    assert (content < 0.4).any()
    assert (content > 0.4).any()


def test_liking_is_the_share_that_the_world_lets_them_watch() -> None:
    viewers = replace(PLAIN, clicks=PositionBased(0), visits=0.9)
    outcomes = live_test({"a": fixed(11)}, SETTING, START, 1, viewers, k=1)
    match = TRUTH.user_taste @ TRUTH.item_taste[11]
    liked = expit(0.8 + 0.9 * np.log(match))
    assert outcomes["watched"].sum() > 10
    np.testing.assert_allclose(outcomes["liked"], np.where(outcomes["watched"] > 0, liked, 0))


def test_only_satisfaction_and_loyalty_bring_people_back() -> None:
    for viewers in (Viewers(loyalty=0), Viewers(learning=0)):
        test = live_test({"a": oracle, "b": worst}, SETTING, START, viewers=viewers)
        visits = test.pivot(index="user", columns="variant", values="visits")
        np.testing.assert_array_equal(visits["a"], visits["b"])
    assert (
        (live_test({"a": worst}, SETTING, START, 3, Viewers(learning=0))["satisfaction"])
        .eq(0.5)
        .all()
    )
    gaps = []
    for loyalty in (1, 6):
        test = live_test(
            {"a": oracle, "b": worst}, SETTING, START, viewers=Viewers(loyalty=loyalty)
        )
        visits = test.groupby("variant")["visits"].mean()
        gaps.append(visits["a"] - visits["b"])
    assert gaps[1] > 2 * gaps[0] > 0


def test_visits_follow_activity_and_the_week() -> None:
    """Against the law of visits, day by day and person by person."""
    days = live_test({"a": shuffled}, SETTING, START, 40, PLAIN, by_day=True)
    came = days.pivot(index="user", columns="day", values="visits").to_numpy()
    activity = TRUTH.activity / np.median(TRUTH.activity)
    week = WEEKDAY_WEIGHTS[WORLD.dates[START : START + 40].day_of_week]
    chance = expit(logit(0.4) + np.log(activity[:, None] * week))
    deviation = np.sqrt((chance * (1 - chance)).sum(axis=0))
    assert (abs(came.sum(axis=0) - chance.sum(axis=0)) < 4 * deviation).all()
    assert np.corrcoef(came.mean(axis=1), chance.mean(axis=1))[0, 1] > 0.9


def test_days_add_up() -> None:
    test = {"a": oracle, "b": shuffled}
    whole = live_test(test, SETTING, START, 10, history=HISTORY)
    days = live_test(test, SETTING, START, 10, history=HISTORY, by_day=True)
    assert list(days) == ["user", "variant", "day", *live.DAILY]
    sums = days.groupby(["variant", "user"])[["visits", "shown", "watched", "liked"]].sum()
    found = whole.set_index(["variant", "user"])
    np.testing.assert_allclose(found[sums.columns], sums)
    last = days[days["day"] == 9].set_index(["variant", "user"])["satisfaction"]
    np.testing.assert_array_equal(found["satisfaction"], last)
    week = days[days["day"] >= 3].groupby(["variant", "user"])["visits"].max()
    np.testing.assert_array_equal(found["returned"], week)
    assert 0 < found["returned"].mean() < 1


def test_tests_are_checked() -> None:
    test = {"a": oracle}
    with pytest.raises(ValueError, match="days 100 to 127 are not all in a world of 120: start"):
        live_test(test, SETTING, 100)
    with pytest.raises(ValueError, match="days -1 to 8 are not all in a world"):
        live_test(test, SETTING, -1, days=10)
    with pytest.raises(ValueError, match="0 variants, 28 days, lists of 10: give one at least"):
        live_test({}, SETTING, 0)
    with pytest.raises(ValueError, match="1 variants, 0 days, lists of 0"):
        live_test(test, SETTING, 0, days=0, k=0)
    with pytest.raises(
        ValueError, match=r"reaches into the test: give data.until\(pd.Timestamp\('"
    ):
        live_test(test, SETTING, START - 1, history=HISTORY)
    other = Dataset.from_tables(simulate(replace(WORLD, users=20))[0])
    with pytest.raises(ValueError, match=r"\(20, 80\) users and titles, the world \(300, 80\)"):
        live_test(test, SETTING, START, history=other)


def test_the_last_event_before_the_test_may_be_just_before_it() -> None:
    start = WORLD.dates[START].tz_localize("UTC")
    at = HISTORY.interactions["timestamp"].where(
        HISTORY.interactions.index != 0, start - pd.Timedelta(1, "us")
    )
    history = replace(HISTORY, interactions=HISTORY.interactions.assign(timestamp=at))
    assert len(live_test({"a": oracle}, SETTING, START, 1, history=history)) == WORLD.users
    late = HISTORY.interactions.assign(timestamp=start)
    with pytest.raises(ValueError, match="reaches into the test"):
        live_test({"a": oracle}, SETTING, START, 1, history=replace(HISTORY, interactions=late))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("visits", 0), ("visits", 1), ("start", 1.1), ("learning", -0.1), ("loyalty", -1)),
        *(("fatigue", -0.1), ("satiation", np.nan), ("memory", 0)),
    ],
)
def test_viewers_are_checked(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} {value} must be from .* to "):
        Viewers(**{name: value})


# What a real test would see


def outcomes_of(users: int, worlds: int = 0) -> pd.DataFrame:
    grid = pd.MultiIndex.from_product(
        [range(max(worlds, 1)), ["a", "b", "c"], range(users)], names=["world", "variant", "user"]
    )
    frame = grid.to_frame(index=False).assign(value=np.arange(len(grid)) * 1.0)
    return frame if worlds else frame.drop(columns="world")


@pytest.mark.parametrize("worlds", [0, 3])
def test_everybody_gets_one_variant_by_its_share(worlds: int) -> None:
    outcomes, shares = outcomes_of(3000, worlds), {"c": 0.2, "a": 0.5, "b": 0.3}
    seen, again, other = (assign(outcomes, shares, seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(seen, again)
    n = 3000 * max(worlds, 1)
    assert len(seen) == n
    keys = ["world", "user"] if worlds else ["user"]
    assert not seen[keys].duplicated().any()
    assert len(seen.merge(outcomes)) == n  # values are untouched
    counts = seen["variant"].value_counts()[list(shares)]
    assert stats.chisquare(counts, np.array(list(shares.values())) * n).pvalue > 1e-3
    own, elsewhere = (x.set_index(keys)["variant"].sort_index() for x in (seen, other))
    assert 0.5 < (own != elsewhere).mean() < 0.7  # 1 - (0.2^2 + 0.5^2 + 0.3^2) = 0.62


def test_assignment_does_not_depend_on_the_order_of_rows() -> None:
    outcomes = outcomes_of(500)
    mixed = outcomes.sample(frac=1, random_state=0)
    one, other = (assign(x, {"a": 0.5, "b": 0.5}, 0).sort_values("user") for x in (outcomes, mixed))
    np.testing.assert_array_equal(one, other)
    assert set(one["variant"]) == {"a", "b"}


def test_days_of_a_user_stay_together() -> None:
    days = pd.concat([outcomes_of(50).assign(day=day) for day in range(3)])
    seen = assign(days, {"a": 0.5, "c": 0.5}, seed=0)
    assert (seen.groupby("user")["variant"].nunique() == 1).all()
    assert len(seen) == 150


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"a": 0.5, "d": 0.25, "e": 0.25}, "d, e: not among the variants"),
        ({"a": 0.5, "b": 0.4}, "sum to 1"),
        ({"a": 1.5, "b": -0.5}, "must not be below 0"),
        ({}, "sum to 1"),
    ],
)
def test_shares_are_checked(shares: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assign(outcomes_of(3), shares, seed=0)


def test_assigned_means_are_those_of_everybody_but_for_noise() -> None:
    outcomes = live_test({"a": oracle, "b": shuffled}, SETTING, START, days=14)
    seen = assign(outcomes, {"a": 0.5, "b": 0.5}, seed=3)
    for name, rows in seen.groupby("variant"):
        everybody = outcomes[outcomes["variant"] == name]["watched"]
        error = everybody.std() / np.sqrt(len(rows))
        assert rows["watched"].mean() == pytest.approx(everybody.mean(), abs=4 * error)


# Offline against live

Means = Callable[[np.random.Generator], np.ndarray]


def sides(
    offline: np.ndarray, live_means: np.ndarray, users: int = 30, noise: float = 0.0, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Values of users around given means of the variants."""
    rng, frames = np.random.default_rng(seed), []
    for means in (offline, live_means):
        values = means + noise * rng.normal(size=(users, len(means)))
        frame = pd.DataFrame(values, columns=[f"v{i}" for i in range(len(means))])
        frame = frame.rename_axis("user").reset_index().melt("user", var_name="variant")
        frames.append(frame)
    return frames[0].assign(metric="ndcg@10"), frames[1]


def value(table: pd.DataFrame, statistic: str, metric: str = "ndcg@10") -> pd.Series:
    return table.set_index(["metric", "statistic"]).loc[(metric, statistic)]


def test_agreement_by_hand() -> None:
    """Of six pairs, one is in the wrong order: tau 4 / 6, rho 1 - 6 * 2 / 60."""
    table = agreement(*sides(np.array([1.0, 2, 3, 4]), np.array([10.0, 30, 20, 40])), seed=0)
    assert list(table) == ["metric", "statistic", "value", "low", "high", "variants", "users"]
    assert table["statistic"].tolist() == ["kendall", "spearman", "pairs"]
    np.testing.assert_allclose(table["value"], [4 / 6, 0.8, 5 / 6])
    np.testing.assert_allclose(table[["low", "high"]], table[["value"]].to_numpy().repeat(2, 1))
    assert (table["variants"] == 4).all()
    assert (table["users"] == 30).all()


@pytest.mark.parametrize("seed", range(4))
def test_agreement_is_that_of_scipy_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.integers(4, size=(2, 7)).astype(float)
    table = agreement(*sides(one, other), seed=0, resamples=10)
    tau, rho = stats.kendalltau(one, other).statistic, stats.spearmanr(one, other).statistic
    assert value(table, "kendall")["value"] == pytest.approx(tau)
    assert value(table, "spearman")["value"] == pytest.approx(rho)


def test_ties_are_half_right_and_live_ties_are_no_question() -> None:
    table = agreement(*sides(np.array([1.0, 1, 2]), np.array([1.0, 2, 3])), seed=0, resamples=5)
    assert value(table, "pairs")["value"] == pytest.approx((0.5 + 1 + 1) / 3)
    table = agreement(*sides(np.array([1.0, 3, 2]), np.array([1.0, 1, 2])), seed=0, resamples=5)
    assert value(table, "pairs")["value"] == pytest.approx(1 / 2)


def test_what_is_the_same_for_all_variants_agrees_with_nothing() -> None:
    table = agreement(*sides(np.ones(4), np.arange(4.0)), seed=0, resamples=5)
    assert table.set_index("statistic")["value"].isna().tolist() == [True, True, False]
    assert value(table, "pairs")["value"] == 0.5
    table = agreement(*sides(np.arange(4.0), np.ones(4)), seed=0, resamples=5)
    assert table[["value", "low", "high"]].isna().all(axis=None)


def test_metrics_stay_apart_and_models_are_variants() -> None:
    good, truth = sides(np.array([1.0, 2, 3]), np.array([1.0, 2, 3]))
    bad = sides(np.array([3.0, 2, 1]), truth["value"].to_numpy()[:3])[0].assign(metric="hr@10")
    offline = pd.concat([good, bad]).rename(columns={"variant": "model"})
    table = agreement(offline, truth, seed=0, resamples=5)
    assert table["metric"].tolist() == ["ndcg@10"] * 3 + ["hr@10"] * 3
    assert value(table, "kendall")["value"] == 1
    assert value(table, "kendall", "hr@10")["value"] == -1


def test_requests_of_a_user_are_averaged_and_nan_is_left_out() -> None:
    offline, truth = sides(np.array([1.0, 2, 3]), np.array([1.0, 2, 3]), users=2)
    heavy = offline[offline["user"] == 0].assign(value=[9.0, 6, 3])  # the other way round
    more = pd.concat([offline[offline["user"] == 1], *[heavy] * 50])
    table = agreement(more, truth, seed=0, resamples=5)
    assert value(table, "kendall")["value"] == -1  # (9 + 1) / 2, (6 + 2) / 2, (3 + 3) / 2
    missing = pd.concat([offline, heavy.assign(user=7, value=np.nan)])
    assert value(agreement(missing, truth, seed=0, resamples=5), "kendall")["value"] == 1


def test_intervals_resample_the_same_users_on_both_sides() -> None:
    """Against a bootstrap written out."""
    offline, truth = sides(
        np.array([1.0, 1.2, 1.4, 1.6]), np.array([2.0, 1.0, 3.0, 4.0]), noise=1.0
    )
    table = agreement(offline, truth, seed=0, resamples=2000)
    wide = [
        x.pivot(index="user", columns="variant", values="value").to_numpy()
        for x in (offline, truth)
    ]
    rng, found = np.random.default_rng(1), []
    for _ in range(1000):
        users = rng.integers(30, size=30)
        one, other = (x[users].mean(axis=0) for x in wide)
        found.append(
            (stats.kendalltau(one, other).statistic, stats.spearmanr(one, other).statistic)
        )
    low, high = np.quantile(found, (0.025, 0.975), axis=0)
    expected = pd.DataFrame({"low": low, "high": high}, index=["kendall", "spearman"])
    got = table.set_index("statistic").loc[["kendall", "spearman"], ["low", "high"]]
    np.testing.assert_allclose(got, expected, atol=0.35)  # steps of tau among four are 1 / 3
    assert (got["low"] < got["high"]).all()


def test_one_user_on_both_sides_moves_both() -> None:
    """Shared ups and downs leave the agreement whole; unshared ones do not."""
    rng = np.random.default_rng(0)
    own = rng.normal(size=(40, 5))
    frame = pd.DataFrame(own, columns=list("abcde")).rename_axis("user").reset_index()
    rows = frame.melt("user", var_name="variant")
    table = agreement(rows.assign(metric="m"), rows, seed=0, resamples=300)
    np.testing.assert_array_equal(table[["value", "low", "high"]], 1)
    alone = rows.assign(metric="m", user=rows["user"] + 1000)
    table = agreement(alone, rows, seed=0, resamples=300)
    assert value(table, "kendall", "m")["low"] < 0.5
    assert (table["users"] == 80).all()


def test_worlds_are_resampled_too() -> None:
    """Worlds disagree on the best variant: more users in each world cannot settle it."""
    offline, truth = [], []
    for world in range(6):
        means = np.random.default_rng(world).normal(size=4)
        for side, rows in zip((offline, truth), sides(np.arange(4.0), means, 40, 0.1), strict=True):
            side.append(rows.assign(world=world))
    with_worlds = [pd.concat(side) for side in (offline, truth)]
    codes = [
        x.assign(user=x["user"] + 1000 * x["world"]).drop(columns="world") for x in with_worlds
    ]
    by_world, by_user = (agreement(*x, seed=0, resamples=500) for x in (with_worlds, codes))
    np.testing.assert_allclose(by_world["value"], by_user["value"])
    assert (by_world["users"] == 240).all()
    width = [value(t, "kendall")["high"] - value(t, "kendall")["low"] for t in (by_world, by_user)]
    assert width[0] > width[1] + 0.3


def test_agreement_with_what_a_real_test_saw() -> None:
    offline, truth = sides(np.arange(5.0), np.arange(5.0), users=400, noise=0.1)
    seen = assign(truth, dict.fromkeys(truth["variant"].unique(), 0.2), seed=0)
    assert value(agreement(offline, seen, seed=0, resamples=50), "kendall")["value"] == 1


def test_bootstrap_is_seeded_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = sides(np.arange(6) / 9, np.arange(6) / 9, noise=0.5)
    first, again, other = (agreement(*frames, seed=s, resamples=99) for s in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)
    monkeypatch.setattr(live, "COUNTS", 30 * 10)
    shapes = [counts.shape for counts in live._resampled(np.zeros(30, int), 0, 25)]
    assert shapes == [(1, 30), (10, 30), (10, 30), (5, 30)]
    assert all((c.sum(axis=1) == 30).all() for c in live._resampled(np.zeros(30, int), 0, 25))


def test_sides_are_checked() -> None:
    offline, truth = sides(np.arange(3.0), np.arange(3.0), users=2)
    with pytest.raises(ValueError, match="2 variants cannot be ranked: compare 3 or more"):
        agreement(*(x[x["variant"] != "v2"] for x in (offline, truth)), seed=0)
    with pytest.raises(ValueError, match="v2: on one side only, leave it out or add it"):
        agreement(offline, truth[truth["variant"] != "v2"], seed=0)
    with pytest.raises(ValueError, match="the offline values have no column metric: name or add"):
        agreement(offline.drop(columns="metric"), truth, seed=0)
    with pytest.raises(ValueError, match="the live values have no column user, value"):
        agreement(offline, truth[["variant"]], seed=0)
    with pytest.raises(ValueError, match="only one side has a column world: give both, or neither"):
        agreement(offline.assign(world=0), truth, seed=0)
