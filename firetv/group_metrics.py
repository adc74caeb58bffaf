"""What a list is worth to each member of a group, and how evenly: one float64 value per group.

A member for whom nothing could have been found is undefined, NaN, and left out of the group's mean,
minimum and spread; a group of such members only is NaN. Arguments mean the same everywhere:

- ``hits``: (G, M, k) bool, what each of the M members finds relevant in the group's list of k;
- ``n_relevant``: (G, M) int, how many items are relevant to each member and could be shown to the
  group;
- ``values``: (..., M), a value of each member, e.g. of :func:`member_values`.

:func:`measure_groups` takes all of them at once, from lists, groups and held-out events.

Examples
--------
>>> import numpy as np
>>> hits = np.array([[[True, True], [False, True], [False, False]]])
>>> recall = member_values(metrics.recall, hits, np.array([[2, 2, 0]]))
>>> recall
array([[1. , 0.5, nan]])
>>> mean_member(recall), least_member(recall), spread(recall)
(array([0.75]), array([0.5]), array([0.5]))
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import sparse

from firetv import metrics
from firetv.metrics import Csr, Floats, Hits, Ints


def member_values(metric: Callable[[Hits, Ints], Floats], hits: Hits, n_relevant: Ints) -> Floats:
    """Values of each member, (G, M), by one of :data:`firetv.metrics.ACCURACY`."""
    values = metric(hits.reshape(-1, hits.shape[-1]), n_relevant.ravel())
    return np.where(n_relevant > 0, values.reshape(n_relevant.shape), np.nan)


def mean_member(values: Floats) -> Floats:
    """Mean over members."""
    there = ~np.isnan(values)
    return _ratio(values.sum(axis=-1, where=there), there.sum(axis=-1))


def least_member(values: Floats) -> Floats:
    """Value of the member who has least of it."""
    return np.fmin.reduce(values, axis=-1)


def spread(values: Floats) -> Floats:
    """Greatest value of a member minus the least; 0 is even."""
    return np.fmax.reduce(values, axis=-1) - least_member(values)


def zero_share(recalls: Floats) -> Floats:
    """Share of members for whom the list holds nothing; lower is better.

    Zero recall of Kaya, Bridge & Tintarev (2020). `recalls` are values of members.
    """
    return mean_member(np.where(np.isnan(recalls), np.nan, recalls == 0))


def first_hit(hits: Hits, n_relevant: Ints) -> Floats:
    """Discounted first hit: how early members find something, on average; higher is better.

    The mean over members of ``1 / log2(1 + rank)`` of their first hit, 0 without a hit (Kaya,
    Bridge & Tintarev 2020).
    """
    return mean_member(member_values(_discounted_first_hit, hits, n_relevant))


def _discounted_first_hit(hits: Hits, n_relevant: Ints) -> Floats:
    return (hits / np.log2(2 + np.arange(hits.shape[1]))).max(axis=1, initial=0.0)


def proportionality(hits: Hits, n_relevant: Ints, weights: Floats) -> Floats:
    """How well members' shares of the list's hits agree with their weights; 1 is in proportion.

    One minus the total variation distance of the two, the criterion that EP-FuzzDA aims at (Malecek
    & Peska 2021). An item that is relevant to two members is a hit of both. `weights` is (G, M),
    not negative, and scaled to the members that are defined. NaN where the list has no hit, so that
    two models may be defined for different groups.

    Examples
    --------
    >>> hits = np.array([[[True, True, True, False], [False, False, False, True]]])
    >>> proportionality(hits, np.array([[5, 5]]), np.array([[0.5, 0.5]]))
    array([0.75])
    """
    found, due = hits.sum(axis=-1), weights * (n_relevant > 0)
    shares, due = (_ratio(x, x.sum(axis=-1, keepdims=True)) for x in (found, due))
    return 1 - np.abs(shares - due).sum(axis=-1) / 2


def satisfaction(gained: Floats, possible: Floats) -> Floats:
    """Share of what each member could have had on each evening that the group's list gave.

    After Stratigi, Nummenmaa, Pitoura & Stefanidis (2020).

    Parameters
    ----------
    gained : (E, G, M) float
        Value that the list shown on each of E evenings has for each member.
    possible : (E, G, M) float
        Value that the member's own best list would have had.

    Returns
    -------
    (E, G, M) float64
        NaN where nothing was possible.
    """
    return _ratio(gained, possible)


def running(satisfied: Floats) -> Floats:
    """Mean satisfaction of each member so far, (E, G, M); NaN until it is first defined."""
    there = ~np.isnan(satisfied)
    return _ratio(np.where(there, satisfied, 0.0).cumsum(axis=0), there.cumsum(axis=0))


def disagreement(satisfied: Floats) -> Floats:
    """How unequally satisfied members are so far, (E, G): the spread of :func:`running`.

    Group disagreement of Stratigi, Nummenmaa, Pitoura & Stefanidis (2020); 0 is even.
    """
    return spread(running(satisfied))


def measure_groups(
    model: str,
    items: Ints,
    users: Ints,
    relevant: Csr,
    seen: Csr,
    seed: int = 0,
    split: str = "groups",
    weights: Floats | None = None,
    numbers: Ints | None = None,
) -> pd.DataFrame:
    """Measure the lists of groups of one size.

    Parameters
    ----------
    model : str
        What made the lists.
    items : (G, k) int
        Codes of the recommended items in rank order, -1 for an empty slot.
    users : (G, M) int
        Codes of the members; -1 is a guest, for whom nothing is known to be relevant.
    relevant : (n_users, n_items) CSR
        What each user should find; any nonzero value means relevant.
    seen : (n_users, n_items) CSR
        What each user has seen. What any member has seen is no candidate for the group, and so not
        relevant to anybody in it.
    seed, split
        What the rows are marked with.
    weights : (G, M) float, optional
        How much each member counts in the proportionality; all alike by default.
    numbers : (G,) int, optional
        What tells a group from all others, by default its place. Give it where frames with
        different groups are put together, or they would count as the same.

    Returns
    -------
    DataFrame
        Tidy, as :func:`firetv.evaluate.measure` gives it, so that its summaries read it: ``user``
        is the number of the group, the unit of intervals, and ``known`` is True.

    Raises
    ------
    ValueError
        If there is not one list for each group.
    """
    groups, size = users.shape
    if len(items) != groups:
        raise ValueError(f"{len(items)} lists, but {groups} groups: pass one list for each")
    wanted = findable(users, relevant, seen)
    hits = metrics.hits_at(np.repeat(items, size, axis=0), wanted)
    hits = hits.reshape(groups, size, items.shape[1])
    n_relevant = np.diff(wanted.indptr).reshape(groups, size)
    ndcg, recall = (member_values(m, hits, n_relevant) for m in (metrics.ndcg, metrics.recall))
    weights = np.ones(users.shape) if weights is None else weights
    measured = {
        "mean ndcg": mean_member(ndcg),
        "least ndcg": least_member(ndcg),
        "spread ndcg": spread(ndcg),
        "mean recall": mean_member(recall),
        "least recall": least_member(recall),
        "spread recall": spread(recall),
        "zero recall": zero_share(recall),
        "first hit": first_hit(hits, n_relevant),
        "proportionality": proportionality(hits, n_relevant, weights),
    }
    names = [f"{name}@{items.shape[1]}" for name in measured]
    return pd.DataFrame(
        {
            "model": model,
            "seed": seed,
            "split": split,
            "request": np.tile(np.arange(groups), len(names)),
            "user": np.tile(np.arange(groups) if numbers is None else numbers, len(names)),
            "known": True,
            "metric": np.repeat(names, groups),
            "value": np.concatenate(list(measured.values())),
        }
    )


def findable(users: Ints, relevant: Csr, seen: Csr) -> sparse.csr_array:
    """What each member should find and none has seen: (G * M, n_items), members of a group in turn.

    Rows of the matrices are picked and added as products, so that nothing becomes dense.
    """
    groups, size = users.shape
    wanted = _picks(users.reshape(-1, 1), relevant.shape[0]) @ (relevant != 0)
    watched = _picks(users, seen.shape[0]) @ (seen != 0)
    gone = wanted.multiply(watched[np.repeat(np.arange(groups), size)])
    return sparse.csr_array(wanted > gone)


def _picks(users: Ints, n_users: int) -> sparse.csr_array:
    """Rows that add up those of some users, guests left out: bool, (len(users), n_users)."""
    row, seat = np.nonzero(users >= 0)
    place = (row, users[row, seat])
    return sparse.csr_array((np.ones(len(row), bool), place), shape=(len(users), n_users))


def _ratio(values: np.ndarray, totals: np.ndarray) -> Floats:
    """Divide, NaN where the total is not positive."""
    return np.divide(values, totals, out=np.full(values.shape, np.nan), where=totals > 0)
