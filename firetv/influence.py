"""Do people follow their friends, or only resemble them? What times of viewing can tell.

Friends watch alike for two reasons: like seeks like (homophily), and people copy each other
(influence). Both raise the chance that somebody's next title is one that friends have watched. Only
influence cares when: what friends watched *last week* then counts for more than what they watched
in weeks further off, which are as much to the taste of both (in the spirit of the shuffle test of
Anagnostopoulos, Kumar and Mahdian 2008).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from firetv.data import Dataset
from firetv.trust import friendships

WEEK = pd.Timedelta(days=7)
FAR = (-6, -5, -4, 4, 5, 6)  # weeks from a viewing, to compare with the one before it


@dataclass(frozen=True)
class Influence:
    """How viewings depend on what friends watched.

    Attributes
    ----------
    copied : float
        Estimated share of the viewings, among those of people whose friends watched anything in
        the week before, that copy a friend's viewing of that week.
    naive : float
        The same if friends did not resemble each other: likeness taken for influence.
    likeness : float
        How many times as often a title is what friends, rather than people in general, watched in
        weeks further off: homophily.
    viewings : int
        That the estimate rests on.
    """

    copied: float
    naive: float
    likeness: float
    viewings: int


def estimate(data: Dataset, far: Sequence[int] = FAR) -> Influence:
    """Separate influence from homophily by the time at which friends watched.

    Let ``f`` be the share of a title among the viewings of somebody's friends in one week, each
    viewing by the strength of the tie. Over viewings, its mean is ``c`` for own choices and
    ``sum(f ** 2)`` for copies of that week, so a share ``p`` of copies shows as
    ``p = (mean f of the week before - c) / (sum(f ** 2) - c)``. Here ``c`` is read off weeks
    further off, and, for the naive estimate, off the viewings of everybody.

    Parameters
    ----------
    data : Dataset
        With friends, and times of viewing that mean something.
    far : sequence of int
        Weeks, counted from that of a viewing, that copies do not reach.

    Returns
    -------
    Influence

    Raises
    ------
    ValueError
        If nobody has a friend who watched anything the week before.
    """
    events = data.interactions
    start = events["timestamp"].min()
    week = ((events["timestamp"] - start) // WEEK).to_numpy(np.int64)
    user, item = events["user"].to_numpy(), events["item"].to_numpy()
    weekly = _Weekly.of(friendships(data), user, item, week, data.shape)
    before, square = weekly.share(user, item, week - 1), weekly.square(user, week - 1)
    known = np.isfinite(before)
    others = np.stack([weekly.share(user, item, week + each) for each in far])
    known &= np.isfinite(others).any(axis=0)
    if not known.any():
        raise ValueError("nobody has a friend who watched anything the week before")
    usual = np.nanmean(others[:, known], axis=0).mean()
    counts = np.bincount(item, minlength=data.shape[1])
    general = (counts[item[known]] / counts.sum()).mean()
    last, copies = before[known].mean(), square[known].mean()
    return Influence(
        copied=float((last - usual) / (copies - usual)),
        naive=float((last - general) / (copies - general)),
        likeness=float(usual / general),
        viewings=int(known.sum()),
    )


@dataclass(frozen=True)
class _Weekly:
    """What friends watched, week by week: a row for each user and week."""

    shares: sparse.csr_array  # (users x weeks, items), rows sum to 1 where there is anything
    squares: np.ndarray  # (users x weeks,)
    some: np.ndarray  # (users x weeks,) bool
    weeks: int

    @classmethod
    def of(
        cls,
        friends: sparse.csr_array,
        user: np.ndarray,
        item: np.ndarray,
        week: np.ndarray,
        shape: tuple[int, int],
    ) -> _Weekly:
        weeks = int(week.max()) + 1
        place = (user.astype(np.int64) * weeks + week, item)
        seen = sparse.csr_array((np.ones(len(user)), place), shape=(shape[0] * weeks, shape[1]))
        # A tie leads from each week of one person to the same week of the other.
        same_week = sparse.kron(friends, sparse.eye_array(weeks), format="csr")
        watched = sparse.csr_array(same_week @ seen)
        total = watched.sum(axis=1)
        shares = sparse.csr_array(watched.multiply(1 / np.where(total > 0, total, 1)[:, None]))
        return cls(shares, shares.multiply(shares).sum(axis=1), total > 0, weeks)

    def _rows(self, user: np.ndarray, week: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        within = (week >= 0) & (week < self.weeks)
        rows = user.astype(np.int64) * self.weeks + np.where(within, week, 0)
        return rows, within & self.some[rows]

    def share(self, user: np.ndarray, item: np.ndarray, week: np.ndarray) -> np.ndarray:
        """Share of each item among what friends watched in a week, NaN where that is nothing."""
        rows, known = self._rows(user, week)
        values = np.full(len(rows), np.nan)
        found = self.shares[rows[known], item[known]]  # sparse, of scipy's, where there are none
        values[known] = found.toarray() if sparse.issparse(found) else found
        return values

    def square(self, user: np.ndarray, week: np.ndarray) -> np.ndarray:
        """Chance that two viewings of friends in a week are of one title."""
        return self.squares[self._rows(user, week)[0]]
