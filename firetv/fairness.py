"""Lists for a group that are built title by title, so that nobody is always left out.

A title that pleases Ana most may still be a good choice for the group, if Ben had the last one.
Every strategy here is a frozen dataclass that makes lists for all groups of a
:class:`~firetv.panels.Panel` at once, like those of :mod:`firetv.strategies`. Where a title's score
is what it adds to the titles before it, members' shares say for whom.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from firetv.panels import LOWEST, Chosen, Panel, as_a_whole, at, at_one, in_blocks, in_order
from firetv.slate import best
from firetv.strategies import Slight, beats, nonnegative

Worth: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""From a state, (G, M), to what each candidate would add for the group, (G, K)."""
Choice: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From a state and the chosen slots, (G,), to something of shape (G, M)."""


def one_by_one(
    panel: Panel, k: int, worth: Worth, share: Choice, move: Choice, start: float = 0.0
) -> Chosen:
    """Choose the title that adds most, k times.

    Parameters
    ----------
    panel : Panel
    k : int
    worth : callable
        From a state to what each candidate would add, (G, K), an array that may be written to.
    share : callable
        From a state and the chosen slots, (G,), to what these add for each member, (G, M), or as a
        whole, (G, 1).
    move : callable
        From a state and the chosen slots, (G,), to the next state.
    start : float
        The state of each member, (G, M), before the first title.
    """
    state = np.full(panel.weights.shape, start, np.float32)
    row, closed = np.arange(len(panel.valid)), np.where(panel.valid, np.float32(0), LOWEST)
    slots, shares = [], []
    for _ in range(min(k, panel.valid.shape[1])):
        gain = worth(state)
        gain += closed
        slot = gain.argmax(axis=1)
        closed[row, slot] = -np.inf
        slots.append(slot)
        shares.append(share(state, slot))
        state = move(state, slot)
    if not slots:
        return Chosen(np.empty((len(row), 0), np.int64), np.empty((len(row), 1, 0), np.float32))
    return Chosen(np.stack(slots, axis=1), np.stack(shares, axis=2).astype(np.float32))


def adding(values: np.ndarray) -> Choice:
    """Move to what members have with the chosen slots' values, (G, M, K), besides."""
    return lambda had, slot: had + at_one(values, slot)


def total(values: np.ndarray) -> np.ndarray:
    """Sum over members, (G, M, K) to (G, K), as a product, which is the faster way."""
    return np.matmul(np.ones((len(values), 1, values.shape[1]), np.float32), values)[:, 0]


@dataclass(frozen=True)
class Turns:
    """Members choose their favourites in turn (Masthoff's fairness strategy).

    Turns go to whoever has most weight for the turns they had, by D'Hondt's divisors, members of
    equal weight in their order.
    """

    @in_blocks
    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        groups, size, held = panel.opinions.shape
        k = min(k, held)
        closed = np.where(panel.valid, np.float32(0), LOWEST)
        slots, shares = np.empty((groups, k), np.int64), np.zeros((groups, size, k), np.float32)
        row, had = np.arange(groups), np.zeros((groups, size))
        for turn in range(k):
            member = (panel.weights / (1 + had)).argmax(axis=1)
            slots[:, turn] = (panel.opinions[row, member] + closed).argmax(axis=1)
            closed[row, slots[:, turn]] = -np.inf
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

    @in_blocks
    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        opinions, liked = panel.opinions, self.social * panel.mean(panel.opinions)
        after = np.empty_like(opinions)

        def worth(had: np.ndarray) -> np.ndarray:
            np.add(had[:, :, None], opinions, out=after)
            least = after.min(axis=1)
            least -= had.min(axis=1)[:, None]
            least *= 1 - self.social
            return np.add(liked, least, out=least)

        def share(had: np.ndarray, slot: np.ndarray) -> np.ndarray:
            least = (had + at_one(opinions, slot)).min(axis=1) - had.min(axis=1)
            return (liked[np.arange(len(slot)), slot] + (1 - self.social) * least)[:, None]

        return in_order(one_by_one(panel, k, worth, share, adding(opinions)))


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

    @in_blocks
    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        held = panel.valid.sum(axis=1)[:, None, None]
        points = beats(panel)
        if not panel.full:
            points = np.where(panel.valid[:, None], points, np.float32(-1))
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

    @in_blocks
    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        size = panel.opinions.shape[1]
        many = max(1, int(self.top * size))
        if many == 1:
            bar = panel.opinions.max(axis=1, keepdims=True)
        else:
            bar = np.sort(panel.opinions, axis=1)[:, size - many, None]
        return _contenting(panel, k, panel.opinions >= bar, self.needed)


def _content(top: float, needed: int) -> None:
    if not (0 < top <= 1 and needed >= 1):
        raise ValueError(f"top {top} is not a share of 0..1 above 0, or needed {needed} below 1")


def _contenting(panel: Panel, k: int, pleasing: np.ndarray, needed: int) -> Chosen:
    """Make as many members content as can be; pleasing, (G, M, K), says with what."""
    slight, pleases = Slight.of(panel), pleasing.astype(np.float32)
    settled = slight.mean(panel)

    def missing(had: np.ndarray) -> np.ndarray:
        return panel.weights * (had < needed) / np.float32(needed)

    def worth(had: np.ndarray) -> np.ndarray:
        return np.matmul(missing(had)[:, None], pleases)[:, 0] + settled

    def share(had: np.ndarray, slot: np.ndarray) -> np.ndarray:
        settling = panel.weights * slight.at(panel, slot[:, None])[:, :, 0]
        return missing(had) * at_one(pleases, slot) + settling

    return in_order(one_by_one(panel, k, worth, share, adding(pleases)))


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

    @in_blocks
    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        chances = self._chances(panel)
        weights = panel.weights
        return one_by_one(
            panel,
            k,
            lambda missed: np.matmul((weights * missed)[:, None], chances)[:, 0],
            lambda missed, slot: weights * missed * at_one(chances, slot),
            lambda missed, slot: missed * (1 - at_one(chances, slot)),
            start=1.0,
        )

    def _chances(self, panel: Panel) -> np.ndarray:
        if self.depth is None:
            if panel.opinions.max(initial=0) > 1:
                raise ValueError("GFAR without a depth needs opinions that are chances of 0..1")
            return nonnegative(panel, self)
        held = panel.valid.sum(axis=1, dtype=np.float32)[:, None, None]
        among = beats(panel)
        among -= np.maximum(held - self.depth, 0) - np.float32(1)
        np.maximum(among, 0, out=among)
        if not panel.full:
            among = np.where(panel.valid[:, None], among, np.float32(0))
        among /= np.maximum(among.sum(axis=2, keepdims=True), 1)
        return among


@dataclass(frozen=True)
class EPFuzzDA:
    """Exact proportionality by D'Hondt's rule on opinions (Malecek and Peska 2021).

    A title's value is what it gives each member, but for what exceeds the member's share, by
    weight, in all that the list with it gives to anybody.
    """

    @in_blocks
    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        opinions = nonnegative(panel, self)
        weights, sums, due = panel.weights, total(opinions), np.empty_like(opinions)
        owed = weights[:, :, None] * sums[:, None]  # of each title, before what is had counts

        def worth(had: np.ndarray) -> np.ndarray:
            lack = weights * had.sum(axis=1, keepdims=True) - had
            np.add(owed, lack[:, :, None], out=due)
            np.maximum(due, 0, out=due)
            return total(np.minimum(opinions, due, out=due))

        def share(had: np.ndarray, slot: np.ndarray) -> np.ndarray:
            given = had.sum(axis=1) + sums[np.arange(len(slot)), slot]
            return np.minimum(at_one(opinions, slot), np.maximum(weights * given[:, None] - had, 0))

        chosen = one_by_one(panel, k, worth, share, adding(opinions))
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

    @in_blocks
    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        chances = nonnegative(panel, self)
        gain = chances / ideal_gain(chances.sum(axis=2, keepdims=True), k)
        growth = np.empty_like(gain)

        def worth(had: np.ndarray) -> np.ndarray:
            np.divide(gain, had[:, :, None], out=growth)
            return panel.mean(np.log1p(growth, out=growth))

        def share(had: np.ndarray, slot: np.ndarray) -> np.ndarray:
            return panel.weights * np.log1p(at_one(gain, slot) / had)

        return one_by_one(panel, k, worth, share, adding(gain), start=self.base)


def ideal_gain(expected: np.ndarray, k: int) -> np.ndarray:
    """Discounted gain of a list of k that starts with as many hits, at least one, float32."""
    places = np.arange(max(k, 1))
    return np.interp(expected, 1 + places, np.cumsum(1 / np.log2(2 + places))).astype(np.float32)


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

    @in_blocks
    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        often = self._often(panel, k)
        if self.level == "X":
            often += 2 * self._least_beaten(panel, often, k)
        return as_a_whole(panel, often + Slight.of(panel).mean(panel), k)

    def _often(self, panel: Panel, k: int) -> np.ndarray:
        """Share of the draws with each candidate among the best k, (G, K)."""
        rng = np.random.default_rng(self.seed)
        count = np.zeros(panel.valid.shape, np.uint16)
        for draw in rng.exponential(size=(self.draws, panel.weights.shape[1])).astype(np.float32):
            scores = np.matmul((panel.weights * draw)[:, None], panel.opinions)[:, 0]
            count += among_best(panel.masked(scores), k)
        # A share is the sum of so many equal steps, with their rounding.
        steps = np.full(self.draws, 1 / self.draws, np.float32)
        return np.concatenate([[0], np.cumsum(steps)]).astype(np.float32)[count]

    def _least_beaten(self, panel: Panel, often: np.ndarray, k: int) -> np.ndarray:
        """Mark candidates of the lowest Pareto level that has k of them, bool (G, K).

        Whatever beats a candidate for everybody is drawn whenever it is: only these need comparing.
        """
        met = panel.masked(often)
        first = best(met, max(k, 1, int((often > 0).sum(axis=1).max(initial=0))))
        there = np.take_along_axis(met, first, axis=1) > 0
        opinions = np.where(there[:, None], at(panel.opinions, first), np.float32(-np.inf))
        beaten = np.where(there, dominators(opinions), first.shape[1])
        last = min(max(k, 1), beaten.shape[1]) - 1
        most = np.partition(beaten, last, axis=1)[:, [last]]
        marked = np.zeros(often.shape, bool)
        np.put_along_axis(marked, first, (beaten <= most) & there, axis=1)
        return marked


def among_best(scores: np.ndarray, k: int) -> np.ndarray:
    """Mark the k best of each row, ties by slot, bool of shape (G, K)."""
    k = min(k, scores.shape[1])
    marked = scores >= np.sort(scores, axis=1)[:, -k, None]
    tied = np.flatnonzero(np.count_nonzero(marked, axis=1) > k)
    if len(tied):
        marked[tied] = False
        marked[tied[:, None], best(scores[tied], k)] = True
    return marked


def dominators(opinions: np.ndarray) -> np.ndarray:
    """By how many titles each is beaten: nobody likes these less, and somebody likes them more.

    Parameters
    ----------
    opinions : float array of shape (G, M, S)

    Returns
    -------
    int64 array of shape (G, S)
    """
    groups, size, slots = opinions.shape
    as_good = np.ones((groups, slots, slots), bool)  # the first title as the second, for everybody
    for member in range(size):
        as_good &= opinions[:, member, :, None] >= opinions[:, member, None]
    return np.count_nonzero(as_good & ~as_good.transpose(0, 2, 1), axis=1)
