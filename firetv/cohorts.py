"""Groups to experiment with, where the data have none: strangers, like minds and opposites.

In the style of Kaya, Bridge & Tintarev (2020), who try what a strategy does to groups whose members
are drawn at random, are all alike, or are all different.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
from sklearn.preprocessing import normalize

from firetv.data import Dataset

Kind: TypeAlias = Literal["random", "similar", "divergent"]

DEALS = 20  # times that a member changes places on average, for a group to be forgotten


def likeness(data: Dataset, users: np.ndarray) -> np.ndarray:
    """How alike the tastes of each two of some users are, from -1 to 1.

    Pearson's correlation of their ratings over all items, where a missing rating is the user's
    mean: with few ratings in common, no two users are much alike. Without ratings in the data, the
    cosine of histories.

    Parameters
    ----------
    data : Dataset
    users : int array of shape (n,)
        At most some thousands, since all pairs are kept.

    Returns
    -------
    float32 array of shape (n, n)
        NaN for whoever has no taste to compare: no event, or the same rating for everything.
    """
    ratings = data.matrix("rating")
    # In float64 the mean of equal ratings is exact, and what is left of them exactly 0.
    rows = (ratings if ratings.nnz else data.matrix())[users].astype(np.float64)
    if ratings.nnz:
        count = np.diff(rows.indptr)
        rows.data -= np.repeat(rows.sum(axis=1) / np.maximum(count, 1), count)
    rows = normalize(rows)
    like = (rows @ rows.T).toarray().astype(np.float32)
    unknown = like.diagonal() == 0
    like[unknown] = like[:, unknown] = np.nan
    return like


def form_groups(
    data: Dataset,
    size: int,
    count: int,
    kind: Kind,
    seed: int,
    pool: np.ndarray | None = None,
    similar: float = 0.75,
    divergent: float = 0.5,
) -> np.ndarray:
    """Form groups of users who recur as seldom as the kind allows.

    Parameters
    ----------
    data : Dataset
        Whose ratings or events are compared: training data.
    size : int
        Members of a group.
    count : int
        Groups.
    kind : {"random", "similar", "divergent"}
        Anybody; every two members at least as alike as the quantile `similar` of the pool's pairs;
        or at most as alike as the quantile `divergent`.
    seed : int
    pool : int array, optional
        User codes to choose from; by default all users with an event.
    similar, divergent : float
        Shares of the pool's pairs, so that they suit any data. The stricter, the fewer users still
        make groups, and the more often those recur.

    Returns
    -------
    int64 array of shape (count, size)
        User codes, distinct within a row. In random groups, nobody appears twice more often than
        anybody else of the pool.

    Raises
    ------
    ValueError
        If the kind is unknown, if the pool is too small or too few of its pairs are alike or
        different enough, or if all pairs are equally alike.

    Notes
    -----
    Groups grow one after the other, from whoever was in the fewest so far, and by whoever of those
    who fit everybody in it was; ties are broken at random.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind {kind!r}: use {', '.join(get_args(Kind))}")
    pool = np.flatnonzero(data.user_counts) if pool is None else np.unique(pool)
    if not 1 <= size <= len(pool):
        raise ValueError(f"cannot form {kind} groups of {size} from {len(pool)} users")
    rng = np.random.default_rng(seed)
    if kind == "random":
        return pool[_deal(len(pool), size, count, rng)].astype(np.int64)
    fit = _fit(likeness(data, pool), kind, similar, divergent)
    return pool[_grow(fit, size, count, kind, rng)].astype(np.int64)


def _deal(users: int, size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Deal users to groups, a shuffled deck of all of them after the other."""
    seats = np.zeros(0, np.int64)
    while len(seats) < size * count:
        begun = seats[len(seats) - len(seats) % size :]
        deck = rng.permutation(users)
        late = np.isin(deck, begun)  # those already in the group that the last deck left unfinished
        seats = np.concatenate([seats, deck[~late], deck[late]])
    return seats[: size * count].reshape(count, size)


def _fit(like: np.ndarray, kind: Kind, similar: float, divergent: float) -> np.ndarray:
    """Mark the pairs that may be in one group; nobody pairs with themselves."""
    np.fill_diagonal(like, np.nan)
    pairs = like[~np.isnan(like)]
    low, high = np.quantile(pairs, (divergent, similar)) if len(pairs) else (0.0, 0.0)
    if not low < high:
        raise ValueError(
            f"cannot tell similar from divergent pairs of {len(like)} users: quantiles "
            f"{divergent:g} and {similar:g} of their likeness are {low:.3g} and {high:.3g}; pass "
            "a pool of users with longer histories, or quantiles further apart"
        )
    return like >= high if kind == "similar" else like <= low


def _grow(
    fit: np.ndarray, size: int, count: int, kind: Kind, rng: np.random.Generator
) -> np.ndarray:
    """Grow groups of which all pairs fit, one after the other."""
    turns = np.zeros(len(fit))
    groups = np.empty((count, size), np.int64)
    for number in range(count):
        for start in np.argsort(turns + rng.random(len(fit))):
            turns[start] += 1  # also in vain, lest those hard to place are tried first every time
            members = _grown(fit, start, size, turns, rng)
            if len(members) == size:
                break
        else:
            raise ValueError(
                f"cannot form {count} {kind} groups of {size} from {len(fit)} users: only "
                f"{number} were found; use smaller groups, a larger pool, or a milder quantile"
            )
        groups[number] = members
        turns[members[1:]] += 1
    return groups


def _grown(
    fit: np.ndarray, start: int, size: int, turns: np.ndarray, rng: np.random.Generator
) -> list[int]:
    """Add to a group whoever fits and had the fewest turns, until it is full or nobody fits."""
    members, left = [start], np.flatnonzero(fit[start])
    while len(members) < size:
        # Whoever is chosen must leave enough others to choose from.
        left = left[fit[np.ix_(left, left)].sum(axis=1) >= size - len(members) - 1]
        if not len(left):
            break
        members.append(left[np.argmin(turns[left] + rng.random(len(left)))])
        left = left[fit[members[-1], left]]
    return members


def regroup(users: np.ndarray, seed: int) -> np.ndarray:
    """Deal the members of all groups anew: a placebo.

    Everybody is in as many groups as before; whom they are with is lost. Pairs of groups swap a
    member again and again, unless somebody would be in a group twice.

    Parameters
    ----------
    users : int array of shape (G, M)
        User codes.
    seed : int

    Returns
    -------
    int array of shape (G, M)
    """
    dealt, rng = users.copy(), np.random.default_rng(seed)
    half, size = len(users) // 2, users.shape[1]
    for _ in range(DEALS * size):
        group = rng.permutation(len(users))[: 2 * half].reshape(2, half)
        seat = rng.integers(size, size=group.shape)
        moved = dealt[group, seat]
        again = (dealt[group[::-1]] == moved[:, :, None]).any(axis=(0, 2))
        group, seat, moved = (x[:, ~again] for x in (group, seat, moved))
        dealt[group, seat] = moved[::-1]
    return dealt
