"""Lists that are built title by title, beside loops over one group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from test_strategies import (
    STEP_BY_STEP,
    STRATEGIES,
    Opinions,
    Oracle,
    Worth,
    beats,
    check,
    random_panel,
    slight,
)

from firetv.fairness import (
    GFAR,
    EFGreedy,
    GreedyLeastMisery,
    Nash,
    ParetoLevels,
    SPGreedy,
    Turns,
    ideal_gain,
)
from firetv.panels import Panel

# ------------------------------------------------------------------ oracles


def turns(op: Opinions, w: list[float], valid: list[int], listed: list[int], k: int) -> Worth:
    had = [0] * len(w)
    for _ in range(len(listed) + 1):
        quotients = [weight / (1 + h) for weight, h in zip(w, had, strict=True)]
        chooser = quotients.index(max(quotients))
        had[chooser] += 1
    left = [s for s in valid if s not in listed]
    favourite = max(left, key=lambda s: op[chooser][s])
    return {favourite: [float(m == chooser) for m in range(len(w))]}


def greedy_lm(op: Opinions, w: list[float], valid: list[int], listed: list[int], k: int) -> Worth:
    had = [sum(own[s] for s in listed) for own in op]
    members = range(len(w))

    def gain(slot: int) -> float:
        mean = sum(w[m] * op[m][slot] for m in members)
        return 0.5 * mean + 0.5 * (min(had[m] + op[m][slot] for m in members) - min(had))

    return {s: [gain(s)] for s in valid if s not in listed}


def contenting(pleases: Callable[[Opinions, list[int], int, int], bool], needed: int) -> Oracle:
    def worth(op: Opinions, w: list[float], valid: list[int], listed: list[int], k: int) -> Worth:
        members = range(len(w))
        had = [sum(pleases(op, valid, m, s) for s in listed) for m in members]

        def share(m: int, slot: int) -> float:
            gained = pleases(op, valid, m, slot) and had[m] < needed
            return w[m] * (gained / needed + slight(op[m], valid, slot))

        return {s: [share(m, s) for m in members] for s in valid if s not in listed}

    return worth


def sp(top: float, needed: int) -> Oracle:
    def pleases(op: Opinions, valid: list[int], member: int, slot: int) -> bool:
        most = max(beats(op[member], valid, each) for each in valid)
        bar = min(len(valid) * (1 - top) - 1e-3, most)  # those tied for the best are favourites
        return beats(op[member], valid, slot) >= bar

    return contenting(pleases, needed)


def ef(top: float, needed: int) -> Oracle:
    def pleases(op: Opinions, valid: list[int], member: int, slot: int) -> bool:
        above = sum(own[slot] > op[member][slot] for own in op)
        return above < max(1, int(top * len(op)))

    return contenting(pleases, needed)


def gfar(depth: int | None) -> Oracle:
    def chances(own: list[float], valid: list[int]) -> dict[int, float]:
        if depth is None:
            return {s: own[s] for s in valid}
        rank = {s: len(valid) - 1 - beats(own, valid, s) for s in valid}
        points = {s: max(min(depth, len(valid)) - rank[s], 0) for s in valid}
        return {s: points[s] / max(sum(points.values()), 1) for s in valid}

    def worth(op: Opinions, w: list[float], valid: list[int], listed: list[int], k: int) -> Worth:
        p = [chances(own, valid) for own in op]
        missed = [float(np.prod([1 - own[s] for s in listed])) for own in p]
        members = range(len(w))
        left = [s for s in valid if s not in listed]
        return {s: [w[m] * missed[m] * p[m][s] for m in members] for s in left}

    return worth


def epfuzzda(op: Opinions, w: list[float], valid: list[int], listed: list[int], k: int) -> Worth:
    had = [sum(own[s] for s in listed) for own in op]

    def share(m: int, slot: int) -> float:
        given = sum(had) + sum(own[slot] for own in op)
        return max(0.0, min(op[m][slot], w[m] * given - had[m]))

    return {s: [share(m, s) for m in range(len(w))] for s in valid if s not in listed}


def nash(op: Opinions, w: list[float], valid: list[int], listed: list[int], k: int) -> Worth:
    discounts = [1 / np.log2(2 + place) for place in range(k)]

    def ideal(expected: float) -> float:
        expected = min(max(expected, 1.0), k)
        full = int(expected)
        rest = (expected - full) * discounts[full] if full < k else 0.0
        return sum(discounts[:full]) + rest

    gains = [{s: own[s] / ideal(sum(own[v] for v in valid)) for s in valid} for own in op]
    had = [Nash().base + sum(gain[s] for s in listed) for gain in gains]
    return {
        s: [weight * np.log((h + g[s]) / h) for weight, h, g in zip(w, had, gains, strict=True)]
        for s in valid
        if s not in listed
    }


def pareto(level: str, draws: int = 50) -> Oracle:
    def worth(op: Opinions, w: list[float], valid: list[int], listed: list[int], k: int) -> Worth:
        often = dict.fromkeys(valid, 0.0)
        for draw in np.random.default_rng(0).exponential(size=(draws, len(w))).tolist():
            mix = [a * b for a, b in zip(w, draw, strict=True)]
            total = {s: sum(m * own[s] for m, own in zip(mix, op, strict=True)) for s in valid}
            for slot in sorted(valid, key=lambda s: (-total[s], s))[:k]:
                often[slot] += 1 / draws
        drawn = [s for s in valid if often[s] > 0]
        beaten = {s: sum(dominates(op, other, s) for other in valid) for s in drawn}
        most = sorted(beaten.values())[min(k, len(drawn)) - 1]
        assert max(beaten.values()) < k  # of level k at most, as the docstring says
        lowest = {s for s in drawn if level == "X" and beaten[s] <= most}
        means = {
            s: sum(weight * slight(own, valid, s) for weight, own in zip(w, op, strict=True))
            for s in valid
        }
        return {s: [often[s] + 2 * (s in lowest) + means[s]] for s in valid if s not in listed}

    return worth


def dominates(op: Opinions, one: int, other: int) -> bool:
    return all(own[one] >= own[other] for own in op) and any(own[one] > own[other] for own in op)


ORACLES: dict[str, Oracle] = {
    "turns": turns,
    "greedy-lm": greedy_lm,
    "sp": sp(0.05, 1),
    "sp-2": sp(0.3, 2),
    "ef": ef(0.25, 1),
    "ef-2": ef(0.6, 2),
    "gfar": gfar(20),
    "gfar-4": gfar(4),
    "gfar-chances": gfar(None),
    "epfuzzda": epfuzzda,
    "nash": nash,
    "pareto-n": pareto("N"),
    "pareto-x": pareto("X"),
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("name", STEP_BY_STEP)
def test_lists_agree_with_loops_over_one_group(name: str, size: int, ties: bool) -> None:
    check(random_panel(1, size=size, ties=ties), name, k=6, oracles=ORACLES)


@pytest.mark.parametrize("name", STEP_BY_STEP)
def test_lists_agree_where_all_members_count_the_same(name: str) -> None:
    panel = random_panel(2, size=4, ties=True)
    equal = replace(panel, weights=np.full_like(panel.weights, 0.25))
    check(equal, name, k=14, oracles=ORACLES)


# ------------------------------------------------------------------ what they are for


def camps(*sizes: int, slots: int = 20, weights: list[float] | None = None) -> Panel:
    """One group of camps that like every so manyth title, and nothing else."""
    camp = np.repeat(np.arange(len(sizes)), sizes)
    likes = np.arange(slots) % len(sizes) == camp[:, None]
    weights = None if weights is None else np.array([weights])
    return Panel.of(np.where(likes, 0.5, 0.0)[None], weights)


def of_camps(name: str, panel: Panel, k: int, number: int) -> list[int]:
    """How many titles of a list are each camp's."""
    slots = STRATEGIES[name](panel, k).slots[0]
    return np.bincount(slots % number, minlength=number).tolist()


def test_two_camps_get_what_their_rule_says() -> None:
    panel = camps(1, 2)
    assert of_camps("average", panel, 6, 2) == [0, 6]  # the many get everything
    assert of_camps("turns", panel, 6, 2) == [2, 4]
    for name in ("epfuzzda", "greedy-lm"):  # as much to the few as to each of the many
        assert of_camps(name, panel, 6, 2) == [3, 3]
    for name in ("nash", "gfar-chances"):  # some to the few
        assert 0 < of_camps(name, panel, 6, 2)[0] < 4


@pytest.mark.parametrize("name", ["sp", "turns", "epfuzzda", "greedy-lm", "nash", "gfar-chances"])
def test_everybody_finds_something_in_a_list_as_long_as_the_group(name: str) -> None:
    assert of_camps(name, camps(1, 1, 1, 1), 4, 4) == [1, 1, 1, 1]


@pytest.mark.parametrize("name", ["turns", "epfuzzda"])
@pytest.mark.parametrize(("weights", "seats"), [([2, 1], [6, 3]), ([7, 2], [7, 2])])
def test_seats_are_in_proportion_to_weights(
    name: str, weights: list[float], seats: list[int]
) -> None:
    panel = camps(1, 1, weights=[w / sum(weights) for w in weights])
    assert of_camps(name, panel, 9, 2) == seats


def test_members_of_equal_weight_take_turns_in_their_order() -> None:
    likes = np.array([[[0.1, 0.2, 0.9, 0.3], [0.1, 0.2, 0.8, 0.9]]])
    chosen = Turns()(Panel.of(likes), 4)
    np.testing.assert_array_equal(chosen.slots, [[2, 3, 1, 0]])
    np.testing.assert_array_equal(chosen.shares[0], [[1, 0, 1, 0], [0, 1, 0, 1]])


def test_a_base_decides_how_much_it_matters_that_nobody_has_nothing() -> None:
    panel = camps(1, 3, slots=40)
    share = [of_camps_of(Nash(base), panel) for base in (0.01, 0.5, 100.0)]
    assert share[0] > share[1] > share[2] == 0


def of_camps_of(strategy: Nash, panel: Panel) -> int:
    return int((strategy(panel, 12).slots % 2 == 0).sum())


@pytest.mark.parametrize(("top", "many"), [(0.01, 1), (0.05, 1), (0.1, 1), (0.2, 2), (0.5, 5)])
def test_favourites_are_a_share_of_all_titles_or_the_best(top: float, many: int) -> None:
    """Of two people of opposite taste, each gets as many as it takes, the heavy one first."""
    up = np.linspace(0.1, 1, 10)
    panel = Panel.of(np.array([[up, up[::-1]]]), np.array([[0.9, 0.1]]))
    for needed in range(1, 4):
        slots = SPGreedy(top, needed)(panel, 2 * needed).slots[0].tolist()
        got = min(needed, many)
        assert slots[:got] == list(range(9, 9 - got, -1))
        assert slots[got : 2 * got] == list(range(many - 1, many - 1 - got, -1))  # by the mean


def test_the_ideal_gain_is_that_of_a_list_full_of_hits() -> None:
    full = 1 / np.log2(np.arange(2, 12))
    expected = np.array([0.0, 1.0, 2.0, 2.5, 10.0, 300.0])
    sums = [1, 1, full[:2].sum(), full[:2].sum() + full[2] / 2, full.sum(), full.sum()]
    np.testing.assert_allclose(ideal_gain(expected, 10), sums, rtol=1e-6)


def test_titles_that_others_beat_come_after_the_front() -> None:
    panel = random_panel(20, size=2, slots=40)
    slots, k = ParetoLevels("X", draws=300)(panel, 3).slots, 3
    for group, listed in enumerate(slots):
        op = panel.opinions[group].tolist()
        valid = np.flatnonzero(panel.valid[group])
        beaten = [sum(dominates(op, o, s) for o in valid) for s in valid]
        if beaten.count(0) < 2 * k:  # a front so small that the draws may not meet k of it
            continue
        assert [s for s in listed if any(dominates(op, o, s) for o in valid)] == []


def test_draws_repeat_and_differ_by_seed() -> None:
    panel = random_panel(21, size=4)
    one, again, other = (
        ParetoLevels("N", draws=5, seed=seed)(panel, 5).shares for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: GreedyLeastMisery(1.5), "social 1.5"),
        (lambda: GreedyLeastMisery(-0.5), "social -0.5"),
        (lambda: SPGreedy(top=0.0), "top 0.0"),
        (lambda: SPGreedy(needed=0), "needed 0"),
        (lambda: EFGreedy(top=1.1), "top 1.1"),
        (lambda: EFGreedy(needed=0), "needed 0"),
        (lambda: GFAR(0), "depth 0"),
        (lambda: Nash(0.0), "base 0.0"),
        (lambda: Nash(float("nan")), "base nan"),
        (lambda: ParetoLevels("Q"), "level 'Q'"),
        (lambda: ParetoLevels(draws=0), "draws 0"),
    ],
)
def test_parameters_out_of_range_are_refused(make: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_chances_above_one_are_refused_where_they_mean_nothing() -> None:
    panel = random_panel(22)
    above = replace(panel, opinions=panel.opinions * 2)
    assert above.opinions.max() > 1
    with pytest.raises(ValueError, match=r"GFAR without a depth needs .* of 0\.\.1"):
        GFAR(depth=None)(above, 5)
    GFAR(depth=None)(replace(panel, opinions=np.minimum(above.opinions, 1)), 5)  # 1 is a chance
    np.testing.assert_array_equal(GFAR()(above, 5).slots, GFAR()(panel, 5).slots)
