"""Means, products, extremes and votes beside loops over one group; and laws of every strategy.

The oracle of a strategy says, from the titles listed so far, what each title left would be worth to
each member (or to the group as a whole). A list is right if every title in it is worth most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from firetv.fairness import (
    GFAR,
    EFGreedy,
    EPFuzzDA,
    GreedyLeastMisery,
    Nash,
    ParetoLevels,
    SPGreedy,
    Turns,
)
from firetv.panels import Chosen, Panel, Strategy
from firetv.strategies import (
    Approval,
    Average,
    AverageWithoutMisery,
    Borda,
    Copeland,
    LeastMisery,
    MostPleasure,
    Multiplicative,
    Plurality,
    nonnegative,
)

OF_LISTS: dict[str, Strategy] = {
    "average": Average(),
    "multiplicative": Multiplicative(),
    "least-misery": LeastMisery(),
    "most-pleasure": MostPleasure(),
    "without-misery": AverageWithoutMisery(),
    "borda": Borda(),
    "copeland": Copeland(),
    "copeland-5": Copeland(5),
    "approval": Approval(),
    "approval-3": Approval(3),
    "plurality": Plurality(),
}
STEP_BY_STEP: dict[str, Strategy] = {
    "turns": Turns(),
    "greedy-lm": GreedyLeastMisery(),
    "sp": SPGreedy(),
    "sp-2": SPGreedy(0.3, needed=2),
    "ef": EFGreedy(),
    "ef-2": EFGreedy(0.6, needed=2),
    "gfar": GFAR(),
    "gfar-4": GFAR(4),
    "gfar-chances": GFAR(depth=None),
    "epfuzzda": EPFuzzDA(),
    "nash": Nash(),
    "pareto-n": ParetoLevels("N"),
    "pareto-x": ParetoLevels("X"),
}
STRATEGIES = {**OF_LISTS, **STEP_BY_STEP}
NEED_CHANCES = ("multiplicative", "gfar-chances", "epfuzzda", "nash")
every_strategy = pytest.mark.parametrize("name", STRATEGIES)

Opinions = list[list[float]]  # of one group, by member and slot
Worth = dict[int, list[float]]  # of each slot left that may come next, by member or as a whole
Oracle = Callable[[Opinions, list[float], list[int], list[int], int], Worth]
"""From opinions, weights, valid slots, those listed so far, and the length of the list."""


def random_panel(
    seed: int, *, size: int = 3, groups: int = 30, slots: int = 14, ties: bool = False
) -> Panel:
    """Opinions of 0..1, some slots without an item, and weights at random."""
    rng = np.random.default_rng([seed, size])
    opinions = rng.random((groups, size, slots)) ** 2
    if ties:
        opinions = opinions.round(1)
    gone = rng.random((groups, 1, slots)) < rng.choice([0, 0.2, 0.7], size=(groups, 1, 1))
    weights = rng.dirichlet(np.full(size, 2.0), groups)
    return Panel.of(np.where(gone, np.nan, opinions), weights)


def selected(panel: Panel, rows: slice | np.ndarray) -> Panel:
    """Some groups of a panel."""
    seats = replace(panel.seats, rows=panel.seats.rows[rows], users=panel.seats.users[rows])
    return Panel(seats, panel.opinions[rows], panel.valid[rows], panel.weights[rows])


def scores(chosen: Chosen) -> np.ndarray:
    total = chosen.shares.sum(axis=1)
    return total if chosen.turn is None else total + chosen.turn


# ------------------------------------------------------------------ oracles


def beats(opinions: list[float], slots: list[int], slot: int) -> float:
    """How many candidates a title beats, half of those as good."""
    others = [opinions[s] for s in slots if s != slot]
    return sum((opinions[slot] > o) + 0.5 * (opinions[slot] == o) for o in others)


def slight(opinions: list[float], slots: list[int], slot: int) -> float:
    """An opinion too small to outweigh a vote."""
    values = [opinions[s] for s in slots]
    span = max(values) - min(values)
    return 1e-3 * (opinions[slot] - min(values)) / (span or 1)


def weighed(share: Callable[[list[float], list[int], int], float]) -> Oracle:
    """Members' shares, from one member's opinions, times their weights."""

    def worth(op: Opinions, w: list[float], valid: list[int], listed: list[int], k: int) -> Worth:
        left = [s for s in valid if s not in listed]
        pairs = list(zip(w, op, strict=True))
        return {s: [weight * share(own, valid, s) for weight, own in pairs] for s in left}

    return worth


def whole(score: Callable[[list[float]], float]) -> Oracle:
    """One score, from the members' opinions of a title."""

    def worth(op: Opinions, w: list[float], valid: list[int], listed: list[int], k: int) -> Worth:
        return {s: [score([own[s] for own in op])] for s in valid if s not in listed}

    return worth


def without_misery(
    op: Opinions, w: list[float], valid: list[int], listed: list[int], k: int
) -> Worth:
    """The fewest who mind first, then the mean; the size of the penalty is nobody's business."""
    bars = [sorted(own[s] for s in valid)[int(0.5 * (len(valid) - 1))] for own in op]
    left = [s for s in valid if s not in listed]
    mean = {s: sum(weight * own[s] for weight, own in zip(w, op, strict=True)) for s in left}
    mind = {s: sum(own[s] < bar for own, bar in zip(op, bars, strict=True)) for s in left}
    return {s: [mean[s]] for s in left if mind[s] == min(mind.values())}


def copeland(shortlist: int) -> Oracle:
    def worth(op: Opinions, w: list[float], valid: list[int], listed: list[int], k: int) -> Worth:
        pairs = list(zip(w, op, strict=True))
        points = {s: sum(weight * beats(own, valid, s) for weight, own in pairs) for s in valid}
        contend = sorted(valid, key=lambda s: (-round(points[s], 5), s))[: max(k, shortlist)]

        def wins(slot: int) -> int:
            total = 0
            for other in contend:
                ahead = sum(weight * np.sign(own[slot] - own[other]) for weight, own in pairs)
                total += 0 if abs(ahead) < 1e-6 else int(np.sign(ahead))
            return total

        left = [s for s in contend if s not in listed]
        top = max(map(wins, left))
        first = max(points[s] for s in left if wins(s) == top)
        return {s: [wins(s)] for s in left if wins(s) == top and points[s] > first - 1e-4}

    return worth


def approval(approved: int) -> Oracle:
    def share(own: list[float], valid: list[int], slot: int) -> float:
        better = sum(own[s] > own[slot] for s in valid)
        return (better < approved) + slight(own, valid, slot)

    return weighed(share)


def plurality(op: Opinions, w: list[float], valid: list[int], listed: list[int], k: int) -> Worth:
    left = [s for s in valid if s not in listed]
    votes = [max(left, key=lambda s: own[s]) for own in op]  # ties by slot
    return {
        s: [
            weight * ((vote == s) + slight(own, valid, s))
            for weight, vote, own in zip(w, votes, op, strict=True)
        ]
        for s in set(votes)
    }


ORACLES: dict[str, Oracle] = {
    "average": weighed(lambda own, valid, slot: own[slot]),
    "multiplicative": weighed(lambda own, valid, slot: float(np.log(max(own[slot], 1e-6)))),
    "least-misery": whole(min),
    "most-pleasure": whole(max),
    "without-misery": without_misery,
    "borda": weighed(lambda own, valid, s: beats(own, valid, s) / max(len(valid) - 1, 1)),
    "copeland": copeland(50),
    "copeland-5": copeland(5),
    "approval": approval(50),
    "approval-3": approval(3),
    "plurality": plurality,
}
UNCOMPARED = ("without-misery",)  # only the order of its titles is defined


def check(panel: Panel, name: str, k: int, oracles: Mapping[str, Oracle] = ORACLES) -> None:
    """Every title is worth most of those left, and shares are what the oracle says."""
    chosen = STRATEGIES[name](panel, k)
    for group, slots in enumerate(chosen.slots.tolist()):
        valid = np.flatnonzero(panel.valid[group]).tolist()
        opinions = panel.opinions[group].astype(float).tolist()
        weights = panel.weights[group].astype(float).tolist()
        assert len(slots) == min(k, panel.valid.shape[1])
        for place, slot in enumerate(slots[: len(valid)]):
            worth = oracles[name](opinions, weights, valid, slots[:place], k)
            assert slot in worth, (name, group, place)
            total = {s: sum(shares) for s, shares in worth.items()}
            assert total[slot] >= max(total.values()) - 2e-6, (name, group, place)
            if name not in UNCOMPARED:
                shares = chosen.shares[group, :, place]
                np.testing.assert_allclose(shares, worth[slot], rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("name", OF_LISTS)
def test_lists_agree_with_loops_over_one_group(name: str, size: int, ties: bool) -> None:
    check(random_panel(1, size=size, ties=ties), name, k=6)


@pytest.mark.parametrize("name", OF_LISTS)
def test_lists_agree_where_all_members_count_the_same(name: str) -> None:
    panel = random_panel(2, size=4, ties=True)
    check(replace(panel, weights=np.full_like(panel.weights, 0.25)), name, k=14)


def test_a_majority_that_is_no_transitive_order_is_a_draw() -> None:
    votes = np.array([[[3, 2, 1, 0], [1, 3, 2, 0], [2, 1, 3, 0]]])
    chosen = Copeland()(Panel.of(votes), 4)
    np.testing.assert_array_equal(chosen.slots, [[0, 1, 2, 3]])
    np.testing.assert_array_equal(chosen.shares[0, 0], [1, 1, 1, -3])


def test_half_against_half_is_a_draw_though_sixths_do_not_add_up_exactly() -> None:
    for camps in ([[1, 0]] * 3 + [[0, 1]] * 3, [[0, 1]] * 3 + [[1, 0]] * 3):
        chosen = Copeland()(Panel.of(np.array([camps])), 2)
        np.testing.assert_array_equal(chosen.shares, np.zeros((1, 1, 2)))


def test_a_title_that_one_of_them_hates_is_for_the_mean_but_not_for_the_least() -> None:
    panel = Panel.of(np.array([[[1.0, 0.5, 0.2], [1.0, 0.6, 0.3], [0.01, 0.5, 0.4]]]))
    first = {name: STRATEGIES[name](panel, 1).slots.item() for name in OF_LISTS}
    assert first["average"] == first["most-pleasure"] == first["plurality"] == 0
    assert first["least-misery"] == first["multiplicative"] == first["without-misery"] == 1


def test_heavy_members_prevail() -> None:
    opinions = np.array([[[0.9, 0.1, 0.5], [0.1, 0.9, 0.5]]])
    heavy = Panel.of(np.repeat(opinions, 2, axis=0), np.array([[0.8, 0.2], [0.2, 0.8]]))
    for name in ("average", "multiplicative", "borda", "copeland", "approval", "plurality"):
        np.testing.assert_array_equal(STRATEGIES[name](heavy, 1).slots, [[0], [1]])


# ------------------------------------------------------------------ of every strategy


@every_strategy
@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [1, 5, 14, 20])
def test_lists_are_complete_and_in_order(name: str, size: int, ties: bool, k: int) -> None:
    panel = random_panel(3, size=size, ties=ties)
    chosen = STRATEGIES[name](panel, k)
    length = min(k, 14)
    assert chosen.slots.shape == (30, length)
    assert chosen.slots.dtype == np.int64
    assert chosen.shares.shape in {(30, size, length), (30, 1, length)}
    assert chosen.shares.dtype == np.float32
    assert chosen.turn is None or (chosen.turn.dtype, chosen.turn.shape) == ("f4", (30, length))
    assert (np.diff(np.sort(chosen.slots), axis=1) > 0).all()
    there = np.take_along_axis(panel.valid, chosen.slots, axis=1)
    np.testing.assert_array_equal(there.sum(axis=1), np.minimum(panel.valid.sum(axis=1), k))
    assert (there[:, 1:] <= there[:, :-1]).all()  # valid ones first
    assert np.isfinite(scores(chosen)).all()
    assert (np.diff(scores(chosen), axis=1)[there[:, 1:]] <= 1e-5).all()


@every_strategy
def test_groups_do_not_depend_on_each_other(name: str) -> None:
    panel = random_panel(4, ties=True)
    together = STRATEGIES[name](panel, 6)
    for rows in (slice(7, 8), np.array([20, 3, 29])):
        alone = STRATEGIES[name](selected(panel, rows), 6)
        np.testing.assert_array_equal(alone.slots, together.slots[rows])
        np.testing.assert_allclose(scores(alone), scores(together)[rows], rtol=1e-5, atol=1e-6)


@every_strategy
def test_slots_that_are_not_valid_do_not_matter(name: str) -> None:
    panel = random_panel(5, groups=1)
    there = np.flatnonzero(panel.valid[0])
    bare = Panel(panel.seats, panel.opinions[:, :, there], panel.valid[:, there], panel.weights)
    padded = np.insert(panel.opinions, (0, 5, 14), 0, axis=2)
    valid = np.insert(panel.valid, (0, 5, 14), False, axis=1)
    back = np.insert(np.arange(14), (0, 5, 14), -1)
    k = min(5, len(there))
    short = there[STRATEGIES[name](bare, k).slots]
    np.testing.assert_array_equal(STRATEGIES[name](panel, k).slots, short)
    long = STRATEGIES[name](Panel(panel.seats, padded, valid, panel.weights), k)
    np.testing.assert_array_equal(back[long.slots], short)


@every_strategy
def test_arrays_are_not_written_to(name: str) -> None:
    panel = random_panel(6, ties=True)
    for values in (panel.opinions, panel.valid, panel.weights, panel.seats.users):
        values.flags.writeable = False
    STRATEGIES[name](panel, 8)


@every_strategy
def test_the_order_of_members_does_not_matter(name: str) -> None:
    """Weights differ, since members of equal weight take turns in their order."""
    panel, order = random_panel(7, size=4, groups=60), np.array([2, 0, 3, 1])
    swapped = replace(panel, opinions=panel.opinions[:, order], weights=panel.weights[:, order])
    one, other = STRATEGIES[name](panel, 8), STRATEGIES[name](swapped, 8)
    if name.startswith("pareto"):  # random weights belong to places: alike, but not the same
        same = [len(set(a) & set(b)) for a, b in zip(one.slots, other.slots, strict=True)]
        assert np.mean(same) > 7
        return
    np.testing.assert_array_equal(one.slots, other.slots)
    shares = one.shares[:, order] if one.by_member else one.shares
    np.testing.assert_allclose(other.shares, shares, rtol=1e-4, atol=1e-5)


@every_strategy
@pytest.mark.parametrize("ties", [False, True])
def test_shares_of_members_who_weigh_nothing_are_nothing_where_weights_multiply(
    name: str, ties: bool
) -> None:
    """And only such strategies say so, as those that need not add members up do by default."""
    panel = random_panel(13, size=3, ties=ties)
    weights = np.array([0.7, 0.3, 0.0], np.float32)[None].repeat(len(panel.valid), axis=0)
    chosen = STRATEGIES[name](replace(panel, weights=weights), 8)
    assert chosen.weighted == (name not in ("without-misery", "turns", "epfuzzda"))
    if chosen.weighted and chosen.by_member:
        assert not chosen.shares[:, 2].any()


@every_strategy
def test_people_of_one_mind_get_their_own_order(name: str) -> None:
    own = random_panel(8, size=1, groups=20)
    weights = random_panel(8, size=3, groups=20).weights
    panel = Panel(own.seats, np.repeat(own.opinions, 3, axis=1), own.valid, weights)
    k = 4  # as deep as the shallowest of them looks
    expected = np.argsort(-own.masked(own.opinions)[:, 0], axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(STRATEGIES[name](panel, k).slots, expected)


@pytest.mark.parametrize("name", [n for n in STRATEGIES if not n.startswith(("ef", "gfar-4"))])
@pytest.mark.parametrize("size", [2, 3])
def test_what_all_like_less_does_not_come_first(name: str, size: int) -> None:
    """But for envy, which asks who likes a title more than others do, and GFAR below its depth."""
    panel = random_panel(9, size=size, groups=60)
    slots = STRATEGIES[name](panel, 14).slots
    place = np.argsort(slots, axis=1)
    better = (panel.opinions[:, :, :, None] > panel.opinions[:, :, None]).all(axis=1)
    better &= panel.valid[:, :, None] & panel.valid[:, None]
    assert better.sum() > 500
    assert (place[:, :, None] < place[:, None])[better].all()


@every_strategy
def test_titles_that_are_liked_the_same_come_in_the_order_of_slots(name: str) -> None:
    panel = random_panel(10, groups=20, slots=5)
    twice = Panel(
        panel.seats, *(np.repeat(a, 2, -1) for a in (panel.opinions, panel.valid)), panel.weights
    )
    slots = STRATEGIES[name](twice, 10).slots
    place = np.argsort(slots, axis=1)
    there = np.repeat(panel.valid, 1, axis=1)
    assert (place[:, ::2] < place[:, 1::2])[there].all()


@every_strategy
@pytest.mark.parametrize("k", [1, 4])
def test_groups_with_one_title_or_none(name: str, k: int) -> None:
    opinions = np.full((3, 2, 6), np.nan)
    opinions[1, :, 3] = [0.2, 0.0]
    chosen = STRATEGIES[name](Panel.of(opinions), k)
    assert chosen.slots[1, 0] == 3
    assert (np.diff(np.sort(chosen.slots), axis=1) > 0).all()
    single = STRATEGIES[name](Panel.of(np.full((2, 3, 1), 0.5)), k)
    np.testing.assert_array_equal(single.slots, [[0], [0]])


@every_strategy
def test_opinions_below_zero_are_refused_where_they_mean_nothing(name: str) -> None:
    panel = random_panel(11)
    below = replace(panel, opinions=panel.opinions - panel.valid[:, None] * np.float32(0.5))
    if name not in NEED_CHANCES:
        slots = STRATEGIES[name](below, 5).slots
        there = np.take_along_axis(panel.valid, slots, axis=1)
        np.testing.assert_array_equal(there.sum(axis=1), np.minimum(panel.valid.sum(axis=1), 5))
        return
    kind = type(STRATEGIES[name]).__name__
    with pytest.raises(ValueError, match=f"{kind} needs opinions of 0 and above"):
        STRATEGIES[name](below, 5)


def test_opinions_of_zero_and_above_pass_as_they_are() -> None:
    panel = random_panel(12)
    assert nonnegative(panel, Nash()) is panel.opinions


@pytest.mark.parametrize("approved", [0, -3])
def test_members_approve_of_something(approved: int) -> None:
    with pytest.raises(ValueError, match=f"approved {approved}"):
        Approval(approved)


@pytest.mark.parametrize("misery", [-0.1, 1.0, float("nan")])
def test_misery_is_a_share(misery: float) -> None:
    with pytest.raises(ValueError, match="misery"):
        AverageWithoutMisery(misery)


def test_votes_that_are_equal_in_everything_go_to_the_first_slot() -> None:
    """Not to whoever is named first."""
    opinions = np.array([[[0.0, 1.0, 0.5], [1.0, 0.0, 0.5]]])
    for panel in (Panel.of(opinions), Panel.of(opinions[:, ::-1])):
        np.testing.assert_array_equal(Plurality()(panel, 3).slots, [[0, 1, 2]])
