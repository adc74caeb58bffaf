"""From opinions of members to one score for the group: means, products, extremes and votes.

Every strategy is a frozen dataclass that makes lists for all groups of a
:class:`~firetv.panels.Panel` at once; :mod:`firetv.fairness` has those that build a list title by
title. Masthoff (2015), "Group Recommender Systems: Aggregation, Satisfaction and Group Attributes",
compares most of them. Weights of members multiply their opinions or votes; the least and the most
pleased member count in full, however little they weigh.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from firetv.panels import Chosen, Panel, as_a_whole, at, beaten, by_mean, by_members, in_order
from firetv.slate import best

LITTLE = 1e-3  # of a vote: how much opinions count where votes are equal
LEAST = 1e-6  # what the logarithm of an opinion is taken of, at least


@dataclass(frozen=True)
class Average:
    """The mean opinion: the utilitarian strategy."""

    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        return by_mean(panel, panel.opinions, k)


@dataclass(frozen=True)
class Multiplicative:
    """The product of opinions, as a sum of logarithms: who minds a title much, counts more.

    Opinions must be above 0, as chances and percentiles are; what is not counts as next to nothing.
    """

    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        return by_mean(panel, np.log(np.maximum(nonnegative(panel, self), LEAST)), k)


@dataclass(frozen=True)
class LeastMisery:
    """The opinion of whoever likes a title least (PolyLens; O'Connor et al. 2001)."""

    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        return as_a_whole(panel, panel.opinions.min(axis=1), k)


@dataclass(frozen=True)
class MostPleasure:
    """The opinion of whoever likes a title most."""

    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        return as_a_whole(panel, panel.opinions.max(axis=1), k)


@dataclass(frozen=True)
class AverageWithoutMisery:
    """The mean opinion, but what somebody rather would not see comes last (MusicFX; McCarthy 1998).

    Attributes
    ----------
    misery : float
        Share of the candidates that a member minds, those they like least, 0..1.
    """

    misery: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.misery < 1:
            raise ValueError(f"misery {self.misery} is not a share of 0..1, below 1")

    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        ordered = np.sort(np.where(panel.valid[:, None], panel.opinions, np.inf), axis=2)
        place = (self.misery * (panel.valid.sum(axis=1) - 1)).clip(0).astype(np.int64)
        minded = panel.opinions < np.take_along_axis(ordered, place[:, None, None], axis=2)
        # The penalty is more than any two means differ by, and falls on those who mind.
        span = np.ptp(panel.opinions, axis=2).max(axis=1) + 1
        shares = panel.weights[:, :, None] * panel.opinions
        chosen = by_members(panel, shares - span[:, None, None] * minded, k)
        return replace(chosen, weighted=False)


@dataclass(frozen=True)
class Borda:
    """Each member gives a title a point for every candidate that it beats (Borda 1781).

    Points are shares of all candidates; half a point for one that is as good.
    """

    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        most = np.maximum(panel.valid.sum(axis=1) - 1, 1).astype(np.float32)
        return by_mean(panel, beats(panel) / most[:, None, None], k)


@dataclass(frozen=True)
class Copeland:
    """Titles win or lose against each other by majority; wins less losses count (Copeland 1951).

    Attributes
    ----------
    shortlist : int
        Candidates that contend: the best by Borda's points, since all pairs of a whole catalogue
        are too many.
    """

    shortlist: int = 50

    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        first = Borda()(panel, max(k, self.shortlist))
        held = np.take_along_axis(panel.valid, first.slots, axis=1)
        opinions = np.where(held[:, None], at(panel.opinions, first.slots), -np.inf)
        wins = np.zeros(held.shape, np.float32)
        for other in range(held.shape[1]):  # a slot at a time: all pairs at once take much memory
            rival = opinions[:, :, other, None]
            ahead = panel.mean((opinions > rival).astype(np.float32) - (opinions < rival))
            wins += np.sign(np.where(np.abs(ahead) < LEAST, 0, ahead)) * held[:, other, None]
        # Borda's order settles ties, since the sort is stable.
        order = np.argsort(-np.where(held, wins, -np.inf), axis=1, kind="stable")[:, :k]
        shares = np.take_along_axis(wins, order, axis=1)[:, None]
        return Chosen(np.take_along_axis(first.slots, order, axis=1), shares)


@dataclass(frozen=True)
class Approval:
    """Each member approves of a few titles; most approvals win (Brams and Fishburn 1978).

    Equal votes are settled by the mean opinion.

    Attributes
    ----------
    approved : int
        How many titles a member approves of.
    """

    approved: int = 50

    def __post_init__(self) -> None:
        if self.approved < 1:
            raise ValueError(f"approved {self.approved} must be 1 or more")

    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        many = min(self.approved, panel.opinions.shape[2])
        opinions = panel.masked(panel.opinions)
        bar = np.partition(opinions, -many, axis=2)[:, :, -many, None]
        return by_mean(panel, (opinions >= bar) + little(panel), k)


@dataclass(frozen=True)
class Plurality:
    """In each round everybody votes for the best title left; most votes win.

    Equal votes are settled by the mean opinion of the titles voted for.
    """

    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        groups, size, slots = panel.opinions.shape
        k = min(k, slots)
        slight, taken = little(panel), np.zeros(panel.valid.shape, bool)
        chosen, shares = np.empty((groups, k), np.int64), np.zeros((groups, size, k), np.float32)
        first = favourites(panel, k)
        row = np.arange(groups)
        for turn in range(k):
            vote = best_left(first, taken)
            same = vote[:, :, None] == vote[:, None]
            votes = np.matmul(same, panel.weights[:, :, None])[:, :, 0]
            liked = panel.mean(at(slight, vote))
            total = votes + liked
            most = total == total.max(axis=1, keepdims=True)
            winner = np.where(most, vote, slots).min(axis=1)  # ties by slot, not by member
            for_it = (vote == winner[:, None]) + slight[row, :, winner]
            shares[:, :, turn] = panel.weights * for_it
            chosen[:, turn], taken[row, winner] = winner, True
        return in_order(Chosen(chosen, shares))


def beats(panel: Panel) -> np.ndarray:
    """How many candidates each one beats in a member's opinion, float32 of shape (G, M, K)."""
    return beaten(panel.opinions, panel.valid[:, None])


def favourites(panel: Panel, k: int) -> np.ndarray:
    """The k best slots of each member, best first, int64 of shape (G, M, k)."""
    groups, size, slots = panel.opinions.shape
    flat = panel.masked(panel.opinions).reshape(groups * size, slots)
    return best(flat, k).reshape(groups, size, -1)


def best_left(first: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Each member's best slot that is not taken yet, (G, M, k) and (G, K) to (G, M)."""
    gone = np.take_along_axis(taken[:, None], first, axis=2)
    return np.take_along_axis(first, gone.argmin(axis=2)[:, :, None], axis=2)[:, :, 0]


def little(panel: Panel) -> np.ndarray:
    """Opinions on a scale too small to outweigh a vote, (G, M, K)."""
    low = np.where(panel.valid[:, None], panel.opinions, np.inf).min(axis=2, keepdims=True)
    high = panel.masked(panel.opinions).max(axis=2, keepdims=True)
    span = np.where(high > low, high - low, 1)
    return LITTLE * np.where(panel.valid[:, None], (panel.opinions - low) / span, 0)


def nonnegative(panel: Panel, strategy: object) -> np.ndarray:
    """Opinions, if none is below 0; else raise ValueError."""
    below = np.count_nonzero(panel.opinions < 0)
    if below:
        raise ValueError(
            f"{type(strategy).__name__} needs opinions of 0 and above, as chances and percentiles "
            f"are: {below} are below"
        )
    return panel.opinions
