"""Lists for a group that are built title by title, so that nobody is always left out.

A title that pleases Ana most may still be a good choice for the group, if Ben had the last one.
Every strategy here is a frozen dataclass that makes lists for all groups of a
:class:`~firetv.panels.Panel` at once, like those of :mod:`firetv.strategies`. Where a title's score
is what it adds to the titles before it, members' shares say for whom.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from firetv.panels import Chosen, Panel, as_a_whole, at, in_order
from firetv.slate import best
from firetv.strategies import beats, best_left, favourites, little, nonnegative

LOWEST = np.finfo(np.float32).min  # of slots that are not valid, which come last


def one_by_one(
    panel: Panel,
    k: int,
    gains: Callable[[np.ndarray], np.ndarray],
    move: Callable[[np.ndarray, np.ndarray], np.ndarray],
    start: float = 0.0,
) -> Chosen:
    """Choose the title that adds most, k times.

    Parameters
    ----------
    panel : Panel
    k : int
    gains : callable
        From a state to what each candidate would add, (G, M, K), or (G, 1, K) as a whole.
    move : callable
        From a state and the chosen slots, (G,), to the next state.
    start : float
        The state of each member, (G, M), before the first title.
    """
    state = np.full(panel.weights.shape, start, np.float32)
    row, taken = np.arange(len(panel.valid)), np.zeros(panel.valid.shape, bool)
    slots, shares = [], []
    for _ in range(min(k, panel.valid.shape[1])):
        gain = gains(state)
        total = np.where(panel.valid, gain.sum(axis=1), LOWEST)
        total[taken] = -np.inf
        slot = total.argmax(axis=1)
        taken[row, slot] = True
        slots.append(slot)
        shares.append(gain[row, :, slot])
        state = move(state, slot)
    if not slots:
        return Chosen(np.empty((len(row), 0), np.int64), np.empty((len(row), 1, 0), np.float32))
    return Chosen(np.stack(slots, axis=1), np.stack(shares, axis=2).astype(np.float32))


def adding(values: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Move to what members have with the chosen slots' values, (G, M, K), besides."""
    row = np.arange(len(values))
    return lambda had, slot: had + values[row, :, slot]


@dataclass(frozen=True)
class Turns:
    """Members choose their favourites in turn (Masthoff's fairness strategy).

    Turns go to whoever has most weight for the turns they had, by D'Hondt's divisors, members of
    equal weight in their order.
    """

    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        groups, size, held = panel.opinions.shape
        k = min(k, held)
        first, taken = favourites(panel, k), np.zeros(panel.valid.shape, bool)
        slots, shares = np.empty((groups, k), np.int64), np.zeros((groups, size, k), np.float32)
        row, had = np.arange(groups), np.zeros((groups, size))
        for turn in range(k):
            member = (panel.weights / (1 + had)).argmax(axis=1)
            slots[:, turn] = best_left(first, taken)[row, member]
            taken[row, slots[:, turn]] = True
            shares[row, member, turn] = 1
            had[row, member] += 1
        return in_order(Chosen(slots, shares, weighted=False))


@dataclass(frozen=True)
class GreedyLeastMisery:
    """Mean and least satisfaction of members by the list so far (GreedyLM; Xiao et al. 2017).

    Attributes
    ----------
    social : float
        Weight of the mean, 0..1; the rest is that of the least.
    """

    social: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.social <= 1:
            raise ValueError(f"social {self.social} is not a weight of 0..1")

    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        opinions = panel.opinions

        def gains(had: np.ndarray) -> np.ndarray:
            least = (had[:, :, None] + opinions).min(axis=1) - had.min(axis=1)[:, None]
            return (self.social * panel.mean(opinions) + (1 - self.social) * least)[:, None]

        return in_order(one_by_one(panel, k, gains, adding(opinions)))


@dataclass(frozen=True)
class SPGreedy:
    """As many members as can be find enough of their favourites in the list (Serbos et al. 2017).

    Single proportionality: a member is content with ``needed`` titles of the ``top`` share of all
    candidates by their own opinion, or with their best. Where nobody is gained, the mean opinion
    decides.

    Attributes
    ----------
    top : float
        0..1.
    needed : int
        At least 1.
    """

    top: float = 0.05
    needed: int = 1

    def __post_init__(self) -> None:
        _content(self.top, self.needed)

    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        held = panel.valid.sum(axis=1)[:, None, None]
        points = np.where(panel.valid[:, None], beats(panel), -1)
        bar = np.minimum(held * (1 - self.top) - 1e-3, points.max(axis=2, keepdims=True))
        return _contenting(panel, k, points >= bar, self.needed)


@dataclass(frozen=True)
class EFGreedy:
    """As many members as can be find titles that they like more than the others do.

    Envy-freeness (Serbos et al. 2017): a member is content with ``needed`` titles of which their
    opinion is among the ``top`` share of the group's. Where nobody is gained, the mean opinion
    decides.

    Attributes
    ----------
    top : float
        0..1; at least one member of a group.
    needed : int
        At least 1.
    """

    top: float = 0.25
    needed: int = 1

    def __post_init__(self) -> None:
        _content(self.top, self.needed)

    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        size = panel.opinions.shape[1]
        many = max(1, int(self.top * size))
        bar = np.partition(panel.opinions, size - many, axis=1)[:, size - many, None]
        return _contenting(panel, k, panel.opinions >= bar, self.needed)


def _content(top: float, needed: int) -> None:
    if not (0 < top <= 1 and needed >= 1):
        raise ValueError(f"top {top} is not a share of 0..1 above 0, or needed {needed} below 1")


def _contenting(panel: Panel, k: int, pleasing: np.ndarray, needed: int) -> Chosen:
    """Make as many members content as can be; pleasing, (G, M, K), says with what."""
    weights = panel.weights[:, :, None]
    settled = weights * little(panel)

    def gains(had: np.ndarray) -> np.ndarray:
        missing = weights * (had < needed)[:, :, None] / needed
        return missing * pleasing + settled

    return in_order(one_by_one(panel, k, gains, adding(pleasing)))


@dataclass(frozen=True)
class GFAR:
    """Rank-sensitive balance of relevance (Kaya, Bridge and Tintarev 2020).

    The list grows by what is likely to be the first title in it that a member likes: the chance
    that they like this one times the chance that they liked none so far, summed over members.

    Attributes
    ----------
    depth : int, optional
        As published, chances are points of Borda among a member's so many best candidates, divided
        by their sum. None takes opinions for chances.
    """

    depth: int | None = 20

    def __post_init__(self) -> None:
        if self.depth is not None and self.depth < 1:
            raise ValueError(f"depth {self.depth} must be 1 or more")

    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        chances = self._chances(panel)
        weights, row = panel.weights, np.arange(len(panel.valid))
        return one_by_one(
            panel,
            k,
            lambda missed: (weights * missed)[:, :, None] * chances,
            lambda missed, slot: missed * (1 - chances[row, :, slot]),
            start=1.0,
        )

    def _chances(self, panel: Panel) -> np.ndarray:
        if self.depth is None:
            if panel.opinions.max(initial=0) > 1:
                raise ValueError("GFAR without a depth needs opinions that are chances of 0..1")
            return nonnegative(panel, self)
        held = panel.valid.sum(axis=1)[:, None, None]
        among = np.maximum(beats(panel) - np.maximum(held - self.depth, 0) + 1, 0)
        among = np.where(panel.valid[:, None], among, 0)
        return among / np.maximum(among.sum(axis=2, keepdims=True), 1)


@dataclass(frozen=True)
class EPFuzzDA:
    """Exact proportionality by D'Hondt's rule on opinions (Malecek and Peska 2021).

    A title's value is what it gives each member, but for what exceeds the member's share, by
    weight, in all that the list with it gives to anybody.
    """

    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        opinions = nonnegative(panel, self)
        weights, sums = panel.weights[:, :, None], opinions.sum(axis=1)

        def gains(had: np.ndarray) -> np.ndarray:
            due = weights * (had.sum(axis=1)[:, None] + sums)[:, None] - had[:, :, None]
            return np.minimum(opinions, np.maximum(due, 0))

        chosen = one_by_one(panel, k, gains, adding(opinions))
        return in_order(replace(chosen, weighted=False))


@dataclass(frozen=True)
class Nash:
    """Nash welfare: the product of what members get (after Nash 1950), title by title.

    A title's value is the growth of ``sum of weight * log(base + had)``: who has little gains most.
    What a member has is the expected number of titles in the list that they like, over the
    discounted gain of an ideal list of as many as they would like in all: in units, nearly, of
    their nDCG. Opinions are taken for chances.

    Attributes
    ----------
    base : float
        What everybody starts with, above 0: the less, the more it matters that nobody has nothing.
    """

    base: float = 0.2

    def __post_init__(self) -> None:
        if not self.base > 0:
            raise ValueError(f"base {self.base} must be above 0")

    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        chances = nonnegative(panel, self)
        gain = chances / ideal_gain(chances.sum(axis=2, keepdims=True), k)
        weights = panel.weights[:, :, None]
        return one_by_one(
            panel,
            k,
            lambda had: weights * np.log1p(gain / had[:, :, None]),
            adding(gain),
            start=self.base,
        )


def ideal_gain(expected: np.ndarray, k: int) -> np.ndarray:
    """Discounted gain of a list of k that starts with as many hits, at least one, float32."""
    discounts = 1 / np.log2(2 + np.arange(k))
    gains = np.cumsum(discounts)
    return np.interp(expected, np.arange(1, k + 1), gains).astype(np.float32)


@dataclass(frozen=True)
class ParetoLevels:
    """Titles that few others beat in everybody's opinion (NPO and XPO; Sacharidis 2019).

    Those come first that are most often among the best k when members weigh at random. Such a title
    is beaten by fewer than k others in the opinion of all, hence of level k (NPO). Level X (XPO)
    prefers those that the fewest others beat, as long as there are k of them.

    Attributes
    ----------
    level : {"N", "X"}
    draws : int
        Of members' weights, multiplied with those they have.
    seed : int
        Of the draws, which are the same for every group.
    """

    level: Literal["N", "X"] = "N"
    draws: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.level not in ("N", "X") or self.draws < 1:
            raise ValueError(f"level {self.level!r} is not N or X, or draws {self.draws} below 1")

    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        often = self._often(panel, k)
        if self.level == "X":
            often += 2 * self._least_beaten(panel, often, k)
        return as_a_whole(panel, often + panel.mean(little(panel)), k)

    def _often(self, panel: Panel, k: int) -> np.ndarray:
        """Share of the draws with each candidate among the best k, (G, K)."""
        rng = np.random.default_rng(self.seed)
        often, row = np.zeros(panel.valid.shape, np.float32), np.arange(len(panel.valid))[:, None]
        for draw in rng.exponential(size=(self.draws, panel.weights.shape[1])).astype(np.float32):
            scores = replace(panel, weights=panel.weights * draw).mean(panel.opinions)
            often[row, best(panel.masked(scores), k)] += 1 / self.draws
        return often

    def _least_beaten(self, panel: Panel, often: np.ndarray, k: int) -> np.ndarray:
        """Mark candidates of the lowest Pareto level that has k of them, bool (G, K).

        Whatever beats a candidate for everybody is drawn whenever it is: only these need comparing.
        """
        met = panel.masked(often)
        first = best(met, max(k, int((often > 0).sum(axis=1).max(initial=0))))
        there = np.take_along_axis(met, first, axis=1) > 0
        opinions = np.where(there[:, None], at(panel.opinions, first), -np.inf)
        beaten = np.where(there, 0, first.shape[1])
        for other in range(first.shape[1]):
            rival = opinions[:, :, other, None]
            beaten += (rival >= opinions).all(axis=1) & (rival > opinions).any(axis=1)
        last = min(k, beaten.shape[1]) - 1
        most = np.partition(beaten, last, axis=1)[:, [last]]
        marked = np.zeros(often.shape, bool)
        np.put_along_axis(marked, first, (beaten <= most) & there, axis=1)
        return marked
