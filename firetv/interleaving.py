"""Two rankings in one list, to see whose titles people click.

A user sees one list made of both, so that each request compares A with B, where an A/B test gives
each request to one of them. :func:`team_draft` and :func:`probabilistic` make the lists,
:func:`preference` tests what clicks say, and :func:`sensitivity` counts what is gained.

Lists are int arrays of shape (R, k): R requests, item codes in rank order, distinct within a row,
``-1`` for an empty slot, after the others. Where one ranking has nothing left, the other fills the
list, but nobody gets credit for it: a longer list is not a better one.

Examples
--------
>>> a, b = np.array([[1, 2, 3]]), np.array([[1, 4, 5]])
>>> mixed = team_draft(a, b, np.random.default_rng(1))
>>> mixed.items, mixed.team
(array([[1, 2, 3]]), array([[-1,  1,  1]], dtype=int8))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from firetv.abtest import Interval, chunks, share_interval, sign_p
from firetv.clicks import ClickModel

DESIGNS = ("A/B", "team draft", "probabilistic")
TAU = 3.0  # steepness of the softmax over ranks in Hofmann et al. (2011)
ALPHA = 0.05
TIE = 1e-9  # credit closer to zero is rounding
CELLS = 1_000_000  # positions of simulated lists held at once


@dataclass(frozen=True)
class Interleaved:
    """Lists made of two rankings, A and B.

    Attributes
    ----------
    items : int array of shape (R, k)
        Item codes, -1 in empty slots.
    team : int8 array of shape (R, k)
        Whom a title was drawn from: 1 is A, -1 is B, 0 where only one of them could still give.
    worth : float array of shape (R, k)
        What a click there says for A: the team, or its expectation given the list.
    """

    items: np.ndarray
    team: np.ndarray
    worth: np.ndarray

    def credit(self, clicks: np.ndarray) -> np.ndarray:
        """Clicks for A minus clicks for B, float64 of shape (R,), of bool clicks (R, k)."""
        if clicks.shape != self.worth.shape:
            raise ValueError(f"clicks of shape {clicks.shape} on lists of {self.worth.shape}")
        return (clicks * self.worth).sum(axis=1)


def team_draft(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> Interleaved:
    """Interleave as captains pick teams (Radlinski, Kurup & Joachims 2008).

    The team with fewer titles picks next, a coin decides between equals, and a pick is the best
    title of one's own ranking that is not in the list yet. Teams never differ by more than one.

    Parameters
    ----------
    a, b : int arrays of shape (R, k)
        See :mod:`firetv.interleaving`.
    rng : Generator

    Returns
    -------
    Interleaved
        ``worth`` is the team.

    Raises
    ------
    ValueError
        If the lists differ in shape, or hold an item twice.
    """
    lists = _checked(a, b)
    left, (r, k) = lists >= 0, a.shape
    heads = rng.random((k, r)) < 0.5
    items, team = np.full((k, r), -1, np.int64), np.zeros((k, r), np.int8)
    rows, lead = np.arange(r), np.zeros(r, np.int64)  # titles of A more than of B
    for position in range(k):
        can = left.any(axis=1)
        turn = np.where(lead == 0, heads[position], lead < 0)
        side = np.where(can[0] & (turn | ~can[1]), 0, 1)
        slot = left.argmax(axis=1)[side, rows]
        items[position] = np.where(can.any(axis=0), lists[side, slot, rows], -1)
        team[position] = np.where(can.all(axis=0), 1 - 2 * side, 0)
        lead += team[position]
        left &= lists != items[position]
    return Interleaved(items.T, team.T, team.T.astype(float))


def probabilistic(
    a: np.ndarray, b: np.ndarray, rng: np.random.Generator, tau: float = TAU
) -> Interleaved:
    """Interleave by drawing from softened rankings (Hofmann, Whiteson & de Rijke 2011).

    At each position a coin picks a ranking, which gives one of its titles that are not in the list
    yet with probability proportional to ``rank ** -tau``. A click is worth its expected credit over
    all ways in which the list may have come about: coins are tossed independently, so that given
    the list, a title at some position is A's with probability ``p_a / (p_a + p_b)``, the
    probabilities with which each would have given it there. Hofmann et al. sum over ways the sign
    of the difference of clicks; here it is the difference itself, which needs no enumeration.

    Parameters
    ----------
    a, b : int arrays of shape (R, k)
        See :mod:`firetv.interleaving`.
    rng : Generator
    tau : float
        Above 0; the greater, the more a ranking's order is kept.

    Returns
    -------
    Interleaved
        ``worth`` is from -1, a title that only B can have given, to 1.

    Raises
    ------
    ValueError
        If the lists differ in shape, or hold an item twice, or `tau` is not positive.
    """
    lists = _checked(a, b)
    if not 0 < tau < np.inf:
        raise ValueError(f"tau {tau} must be above 0: {TAU:g} is usual")
    r, k = a.shape
    weight = np.where(lists >= 0, (1.0 + np.arange(k))[:, None] ** -tau, 0.0)
    heads, u = rng.random((k, r)) < 0.5, rng.random((k, r))
    items, team = np.full((k, r), -1, np.int64), np.zeros((k, r), np.int8)
    worth, rows = np.zeros((k, r)), np.arange(r)
    for position in range(k):
        ladder = weight.cumsum(axis=1)
        total = ladder[:, -1]
        can, both = total > 0, (total > 0).all(axis=0)
        side = np.where(can[0] & (heads[position] | ~can[1]), 0, 1)
        # The first slot whose ladder is above the draw: never one of weight 0, unless all are.
        slot = (ladder > u[position] * total[:, None]).argmax(axis=1)[side, rows]
        items[position] = np.where(can.any(axis=0), lists[side, slot, rows], -1)
        same = lists == items[position]
        chance = (same * weight).sum(axis=1) / np.where(both, total, 1)
        odds = np.where(both, chance.sum(axis=0), 1)
        worth[position] = np.where(both, chance[0] - chance[1], 0) / odds
        team[position] = np.where(both, 1 - 2 * side, 0)
        weight *= ~same
    return Interleaved(items.T, team.T, worth.T)


def _checked(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Both lists in one int64 array of shape (2, k, R): sums over slots are fast that way."""
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            f"lists have shapes {a.shape} and {b.shape}: give both a row per request and as many "
            "columns, with -1 in empty slots"
        )
    lists = np.stack([a, b]).astype(np.int64)
    order = np.sort(lists, axis=2)
    twice = ((order[..., 1:] == order[..., :-1]) & (order[..., 1:] >= 0)).any(axis=2)
    for name, rows in zip("ab", twice, strict=True):
        if rows.any():
            raise ValueError(f"{rows.sum()} lists of {name} hold an item twice: keep its first")
    return np.ascontiguousarray(lists.transpose(0, 2, 1))


# ------------------------------------------------------------------ what clicks say


@dataclass(frozen=True)
class Preference:
    """Whether people prefer A.

    Attributes
    ----------
    share : Interval
        Of A's wins among all that are not ties, with its exact interval; ``n`` counts those.
    p : float
        Of the sign test that A and B win equally often, two-sided.
    wins, losses, ties : int
        Of A, over users, or over requests where users are not given.
    """

    share: Interval
    p: float
    wins: int
    losses: int
    ties: int


def preference(
    credit: np.ndarray, users: np.ndarray | None = None, confidence: float = 0.95
) -> Preference:
    """Test whether more people clicked more on A's titles than on B's.

    Parameters
    ----------
    credit : float array of shape (R,)
        See :meth:`Interleaved.credit`.
    users : array of shape (R,), optional
        Whose requests these are: the requests of one user are added up, and count once. Without
        it requests count, which is right only if nobody has two.
    confidence : float
        Nominal coverage of the interval (Clopper & Pearson 1934).

    Returns
    -------
    Preference
        A share of 0.5 from 0 to 1 where all are ties.

    Raises
    ------
    ValueError
        If a credit is not finite, or not one user for each is given.

    Examples
    --------
    >>> found = preference(np.array([1.0, 1.0, -1.0, 0.0]), users=np.array([0, 0, 1, 2]))
    >>> found.wins, found.losses, found.ties, found.share.value
    (1, 1, 1, 0.5)
    """
    credit = np.asarray(credit, float)
    if not np.isfinite(credit).all():
        raise ValueError(f"{(~np.isfinite(credit)).sum()} credits are not finite: leave them out")
    if users is not None:
        if np.shape(users) != credit.shape:
            raise ValueError(f"{len(credit)} credits but {len(users)} users: give one for each")
        credit = np.bincount(np.unique(users, return_inverse=True)[1], credit)
    wins, losses = int((credit > TIE).sum()), int((credit < -TIE).sum())
    n = wins + losses
    if not n:
        return Preference(Interval(0.5, 0.0, 1.0, 0), 1.0, 0, 0, len(credit))
    share = share_interval(wins, n, confidence)
    return Preference(share, float(sign_p(wins, n)), wins, losses, len(credit) - n)


# ------------------------------------------------------------------ how much traffic


def sensitivity(
    attraction: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    model: ClickModel,
    requests: Sequence[int],
    replications: int,
    seed: int,
    tau: float = TAU,
) -> pd.DataFrame:
    """How often an A/B test and interleaving find the better ranking at equal traffic.

    Each replication draws requests from those given, with replacement; smaller samples are the
    first requests of the largest. An A/B test shows each one A's or B's list at random and compares
    clicks per request (Welch 1947). Interleaving shows the mixed list and compares wins (sign
    test). The better ranking is the one whose own lists get more clicks in expectation.

    Parameters
    ----------
    attraction : float array of shape (R, n_items)
        Probability that whoever makes a request clicks an item that they look at.
    a, b : int arrays of shape (R, k)
        Both rankings' lists for these requests, see :mod:`firetv.interleaving`.
    model : ClickModel
    requests : sequence of int
        Sample sizes, each the whole traffic of a design.
    replications : int
    seed : int
    tau : float
        See :func:`probabilistic`.

    Returns
    -------
    DataFrame
        A row for each design of :data:`DESIGNS` and sample size: ``design, requests, detected,
        low, high, wrong``, the share of replications that find the better ranking at 5 %,
        two-sided, its exact 95 % interval, and the share that find the other one better.

    Raises
    ------
    ValueError
        If shapes or counts do not fit, or neither ranking is better.
    """
    _check_study(attraction, a, requests, replications)
    right = np.sign(_clicks_of(attraction, a, model) - _clicks_of(attraction, b, model))
    if right == 0:
        raise ValueError("both rankings get equal clicks: compare two of which one is better")
    sizes, rng = np.unique(requests), np.random.default_rng(seed)
    found = [
        _replicate(attraction, a, b, model, sizes, rows.stop - rows.start, tau, rng)
        for rows in chunks(replications, int(sizes[-1] * a.shape[1]), CELLS)
    ]
    verdicts = np.concatenate(found, axis=1) * right  # (designs, replications, sizes)
    rows = []
    for design, of_design in zip(DESIGNS, verdicts, strict=True):
        for size, each in zip(sizes.tolist(), of_design.T, strict=True):
            share = share_interval(int((each > 0).sum()), replications)
            row = design, size, share.value, share.low, share.high, (each < 0).mean()
            rows.append(row)
    return pd.DataFrame(rows, columns=["design", "requests", "detected", "low", "high", "wrong"])


def _check_study(
    attraction: np.ndarray, a: np.ndarray, requests: Sequence[int], replications: int
) -> None:
    if attraction.ndim != 2 or len(attraction) != len(a):
        raise ValueError(
            f"attraction has shape {attraction.shape}: give a row for each of {len(a)} requests"
        )
    if len(requests) == 0 or min(requests) < 10 or replications < 1:
        raise ValueError(
            f"{replications} replications of {list(requests)} requests: give at least one, and "
            "sample sizes of 10 or more"
        )


def _appeal(attraction: np.ndarray, row: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Attraction of the items of lists, (n, k); 0 in empty slots."""
    return np.where(items >= 0, attraction[row[:, None], items], 0.0)


def _clicks_of(attraction: np.ndarray, items: np.ndarray, model: ClickModel) -> float:
    """Expected clicks per request on a ranking's own lists."""
    liked = _appeal(attraction, np.arange(len(items)), items)
    return float(model.expected(liked).sum(axis=1).mean())


def _replicate(
    attraction: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    model: ClickModel,
    sizes: np.ndarray,
    count: int,
    tau: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Verdicts of all designs, 1 for A, -1 for B, 0 for neither: (designs, count, sizes)."""
    shape = (count, sizes[-1])
    row = rng.integers(len(a), size=count * sizes[-1])
    one, other = a[row], b[row]

    def clicks(items: np.ndarray) -> np.ndarray:
        return model.draw(_appeal(attraction, row, items), rng)

    arm = rng.random(len(row)) < 0.5
    number = clicks(np.where(arm[:, None], one, other)).sum(axis=1)
    verdicts = [_welch(number.reshape(shape), arm.reshape(shape), sizes)]
    for mixed in (team_draft(one, other, rng), probabilistic(one, other, rng, tau)):
        credit = mixed.credit(clicks(mixed.items)).reshape(shape)
        verdicts.append(_signs(credit, sizes))
    return np.stack(verdicts)


def _welch(number: np.ndarray, arm: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Verdicts of Welch's test on the first requests of each replication."""
    moments = []
    for mine in (arm, ~arm):
        n, total, square = (
            (mine * number**power).cumsum(axis=1, dtype=float)[:, sizes - 1] for power in (0, 1, 2)
        )
        mean = total / np.maximum(n, 1)
        variance = np.maximum(square - n * mean**2, 0) / np.maximum(n - 1, 1)
        moments += [mean, np.sqrt(variance), n]
    with np.errstate(divide="ignore", invalid="ignore"):  # no click at all is no verdict
        t, p = stats.ttest_ind_from_stats(*moments, equal_var=False)
    return np.where(p < ALPHA, np.sign(t), 0.0)


def _signs(credit: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Verdicts of the sign test on the first requests of each replication."""
    wins, losses = ((s * credit > TIE).cumsum(axis=1)[:, sizes - 1] for s in (1, -1))
    p = sign_p(wins, wins + losses)
    return np.where(p < ALPHA, np.sign(wins - losses), 0.0)
