"""From opinions of members to one score for the group: means, products, extremes and votes.

Every strategy is a frozen dataclass that makes lists for all groups of a
:class:`~firetv.panels.Panel` at once; :mod:`firetv.fairness` has those that build a list title by
title. Masthoff (2015), "Group Recommender Systems: Aggregation, Satisfaction and Group Attributes",
compares most of them. Weights of members multiply their opinions or votes; the least and the most
pleased member count in full, however little they weigh.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from firetv.panels import (
    BLOCK_CELLS,
    LOWEST,
    Chosen,
    Panel,
    as_a_whole,
    at,
    beaten,
    by_mean,
    in_blocks,
    in_order,
)
from firetv.slate import best

LITTLE = 1e-3  # of a vote: how much opinions count where votes are equal
LEAST = 1e-6  # what the logarithm of an opinion is taken of, at least


@dataclass(frozen=True)
class Average:
    """The mean opinion: the utilitarian strategy."""

    @in_blocks
    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        return by_mean(panel, panel.opinions, k)


@dataclass(frozen=True)
class Multiplicative:
    """The product of opinions, as a sum of logarithms: who minds a title much, counts more.

    Opinions must be above 0, as chances and percentiles are; what is not counts as next to nothing.
    """

    @in_blocks
    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        return by_mean(panel, np.log(np.maximum(nonnegative(panel, self), LEAST)), k)


@dataclass(frozen=True)
class LeastMisery:
    """The opinion of whoever likes a title least (PolyLens; O'Connor et al. 2001)."""

    @in_blocks
    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        return as_a_whole(panel, panel.opinions.min(axis=1), k)


@dataclass(frozen=True)
class MostPleasure:
    """The opinion of whoever likes a title most."""

    @in_blocks
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

    @in_blocks
    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        ordered = in_rising_order(panel)
        place = (self.misery * (panel.valid.sum(axis=1) - 1)).clip(0).astype(np.int64)
        bar = np.take_along_axis(ordered, place[:, None, None], axis=2)
        minded = panel.opinions < bar
        # The penalty is more than any two means differ by, and falls on those who mind.
        if panel.full:
            span = (ordered[:, :, -1] - ordered[:, :, 0]).max(axis=1) + 1
        else:
            span = np.ptp(panel.opinions, axis=2).max(axis=1) + 1
        many = minded.view(np.uint8).sum(axis=1, dtype=np.uint8)
        slots = best(panel.masked(panel.mean(panel.opinions) - span[:, None] * many), k)
        opinions = at(panel.opinions, slots)
        shares = panel.weights[:, :, None] * opinions - span[:, None, None] * (opinions < bar)
        return Chosen(slots, shares, weighted=False)


@dataclass(frozen=True)
class Borda:
    """Each member gives a title a point for every candidate that it beats (Borda 1781).

    Points are shares of all candidates; half a point for one that is as good.
    """

    @in_blocks
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

    @in_blocks
    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        first = Borda()(panel, max(k, self.shortlist))
        held = np.take_along_axis(panel.valid, first.slots, axis=1)
        opinions = np.where(held[:, None], at(panel.opinions, first.slots), np.float32(-np.inf))
        wins = majorities(opinions, panel.weights, held)
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

    @in_blocks
    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        many = min(self.approved, panel.opinions.shape[2])
        ordered = np.sort(panel.masked(panel.opinions), axis=2)
        slight = Slight.of(panel)
        votes = panel.opinions - slight.low[:, :, None]
        votes *= slight.scale[:, :, None]
        votes += panel.opinions >= ordered[:, :, -many, None]
        return by_mean(panel, votes, k)


@dataclass(frozen=True)
class Plurality:
    """In each round everybody votes for the best title left; most votes win.

    Equal votes are settled by the mean opinion of the titles voted for.
    """

    @in_blocks
    def __call__(self, panel: Panel, k: int) -> Chosen:
        """Make the list of each group."""
        groups, size, slots = panel.opinions.shape
        k = min(k, slots)
        slight, left = Slight.of(panel), np.where(panel.valid[:, None], panel.opinions, LOWEST)
        liked = slight.mean(panel)
        chosen, shares = np.empty((groups, k), np.int64), np.zeros((groups, size, k), np.float32)
        row = np.arange(groups)
        for turn in range(k):
            vote = left.argmax(axis=2)
            same = vote[:, :, None] == vote[:, None]
            votes = np.matmul(same, panel.weights[:, :, None])[:, :, 0]
            total = votes + liked[row[:, None], vote]
            most = total == total.max(axis=1, keepdims=True)
            winner = np.where(most, vote, slots).min(axis=1)  # ties by slot, not by member
            shares[:, :, turn] = panel.weights * (
                (vote == winner[:, None]) + slight.at(panel, winner[:, None])[:, :, 0]
            )
            chosen[:, turn] = winner
            left[row, :, winner] = -np.inf
        return in_order(Chosen(chosen, shares))


def beats(panel: Panel) -> np.ndarray:
    """How many candidates each one beats in a member's opinion, float32 of shape (G, M, K)."""
    return beaten(panel.opinions, panel.valid[:, None])


def in_rising_order(panel: Panel) -> np.ndarray:
    """Each member's opinions, sorted, with infinity for slots that are not valid, (G, M, K)."""
    if panel.full:
        return np.sort(panel.opinions, axis=2)
    return np.sort(np.where(panel.valid[:, None], panel.opinions, np.float32(np.inf)), axis=2)


def majorities(opinions: np.ndarray, weights: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Pairs that each title wins less those it loses, by weight of the members who like it more.

    Parameters
    ----------
    opinions : float32 array of shape (G, M, S)
    weights : float32 array of shape (G, M)
    held : bool array of shape (G, S)
        Only pairs with these count.

    Returns
    -------
    float32 array of shape (G, S)
    """
    groups, size, slots = opinions.shape
    count = np.empty((groups, slots), np.float32)
    step = max(
        1, BLOCK_CELLS // (size * slots * slots)
    )  # all pairs of many groups take much memory
    for start in range(0, groups, step):
        part = slice(start, start + step)
        some = opinions[part]
        more = (some[:, :, :, None] > some[:, :, None]).reshape(len(some), size, -1)
        ahead = np.matmul(weights[part, None], more.astype(np.float32))
        ahead = ahead.reshape(-1, slots, slots)
        ahead = ahead - ahead.transpose(0, 2, 1)
        won, lost = ahead >= LEAST, ahead <= -LEAST
        if not held[part].all():
            won, lost = won & held[part, None], lost & held[part, None]
        count[part] = np.count_nonzero(won, axis=2) - np.count_nonzero(lost, axis=2)
    return count


@dataclass(frozen=True)
class Slight:
    """Opinions on a scale too small to outweigh a vote: from 0 to :data:`LITTLE` for each member.

    Attributes
    ----------
    low, scale : float32 arrays of shape (G, M)
        It is ``scale * (opinion - low)``.
    """

    low: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, panel: Panel) -> Slight:
        """Find the range of each member's opinions of what is valid."""
        opinions, masked = panel.opinions, panel.masked(panel.opinions)
        if not panel.full:
            opinions = np.where(panel.valid[:, None], opinions, np.float32(np.inf))
        low, high = opinions.min(axis=2), masked.max(axis=2)
        span = np.where(high > low, high - low, np.float32(np.inf))
        return cls(np.where(np.isfinite(low), low, 0), np.float32(LITTLE) / span)

    def mean(self, panel: Panel) -> np.ndarray:
        """Weighted mean over members, (G, K); means nothing in slots that are not valid."""
        scale = panel.weights * self.scale
        low = (scale * self.low).sum(axis=1)
        return np.matmul(scale[:, None], panel.opinions)[:, 0] - low[:, None]

    def at(self, panel: Panel, slots: np.ndarray) -> np.ndarray:
        """Of some slots, (G, k), for each member, (G, M, k); 0 in slots that are not valid."""
        there = np.take_along_axis(panel.valid, slots, axis=1)[:, None]
        above = np.where(there, at(panel.opinions, slots) - self.low[:, :, None], 0)
        return self.scale[:, :, None] * above


def nonnegative(panel: Panel, strategy: object) -> np.ndarray:
    """Opinions, if none is below 0; else raise ValueError."""
    below = np.count_nonzero(panel.opinions < 0)
    if below:
        raise ValueError(
            f"{type(strategy).__name__} needs opinions of 0 and above, as chances and percentiles "
            f"are: {below} are below"
        )
    return panel.opinions
