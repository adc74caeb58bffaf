"""Friends as a graph: who is tied to whom, how alike their tastes are, whose example counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import sparse

from firetv.data import Dataset
from firetv.proof import sharing

TIES_AT_ONCE = 200_000  # whose histories are compared in one product


@dataclass(frozen=True)
class Trust:
    """How much a person's example counts for another: strength of the tie x likeness of taste.

    Attributes
    ----------
    measure : {"cosine", "jaccard"}
        Of the likeness of two people's sets of items.
    shrinkage : float
        Items after which a likeness counts half; before them it is closer to that of all friends,
        so somebody without a history trusts friends by the strength of the ties alone.
    hubs : float
        Somebody whom ``n`` people are tied to counts ``n ** -hubs``: a friend of everybody says
        little about anybody.
    mutual : bool
        Whether a tie counts both ways where only one way is recorded.
    distant : float
        Weight of friends' friends, all together, beside that of friends; 0 leaves them out.
    """

    measure: Literal["cosine", "jaccard"] = "cosine"
    shrinkage: float = 10.0
    hubs: float = 0.5
    mutual: bool = False
    distant: float = 0.8

    def __post_init__(self) -> None:
        if self.measure not in ("cosine", "jaccard"):
            raise ValueError(f"measure {self.measure!r}: use cosine or jaccard")
        for name in ("shrinkage", "hubs", "distant"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} {getattr(self, name)} must not be below 0")

    def fit(self, data: Dataset) -> Circles:
        """Weigh every tie by the histories of both its ends."""
        graph = friendships(data, mutual=self.mutual)
        weight = graph.multiply(similarity(data, graph, self.measure, self.shrinkage))
        holders = np.bincount(graph.indices, minlength=data.shape[0])
        weight = sparse.csr_array(weight * np.maximum(holders, 1.0) ** -self.hubs)
        return Circles(_shares(weight), self.distant)


@dataclass(frozen=True)
class Circles:
    """Everybody's friends, and how much each counts.

    Attributes
    ----------
    trust : CSR array of shape (n_users, n_users), float32
        Rows sum to 1, or to 0 for people without a friend who counts. The diagonal is empty.
    distant : float
        See :class:`Trust`.
    """

    trust: sparse.csr_array
    distant: float

    def of(self, users: np.ndarray) -> sparse.csr_array:
        """Weights of the friends, and their friends, of some users.

        Parameters
        ----------
        users : int array of shape (n,)
            User codes; -1 is a stranger, without friends.

        Returns
        -------
        CSR array of shape (n, n_users), float32
            Rows sum to 1 or to 0. Built for these users alone: friends' friends of everybody are
            too many to keep.
        """
        own = themselves(users, self.trust.shape[0])
        near = own @ self.trust
        if self.distant:
            far = near @ self.trust
            near = near + self.distant * (far - far.multiply(own))
        return _shares(sparse.csr_array(near))


def themselves(users: np.ndarray, n_users: int) -> sparse.csr_array:
    """Rows that pick each of some users out of all; a stranger, -1, picks nobody.

    Returns
    -------
    CSR array of shape (n, n_users), float32
    """
    known = np.flatnonzero(users >= 0)
    place = (known, users[known])
    return sparse.csr_array((np.ones(len(known), np.float32), place), shape=(len(users), n_users))


def friendships(data: Dataset, *, mutual: bool = False) -> sparse.csr_array:
    """Strength of the ties between people who share what they do.

    Parameters
    ----------
    data : Dataset
        ``friends`` may be missing; duplicate ties and ties to oneself are gone from it already.
    mutual : bool
        Whether a tie counts both ways where only one way is recorded; of two unequal strengths
        the greater holds.

    Returns
    -------
    CSR array of shape (n_users, n_users), float32
        From row to column. Nothing leads to somebody whose sharing is off.
    """
    if data.friends is None:
        return sparse.csr_array((data.shape[0],) * 2, dtype=np.float32)
    graph = data.friends.maximum(data.friends.T) if mutual else data.friends
    shares = sharing(data).astype(np.float32)
    graph = sparse.csr_array(graph * shares, dtype=np.float32)
    graph.eliminate_zeros()
    return graph


def similarity(
    data: Dataset,
    graph: sparse.csr_array,
    measure: Literal["cosine", "jaccard"] = "cosine",
    shrinkage: float = 10.0,
) -> sparse.csr_array:
    """Likeness of the tastes of friends, shrunk towards that of friends in general.

    ``(n * s + shrinkage * mean) / (n + shrinkage)``, where ``s`` is the cosine or the Jaccard index
    of two sets of items and ``n`` the size of the smaller (significance weighting; Herlocker et
    al. 1999). The mean is over all ties whose two ends have a history.

    Parameters
    ----------
    data : Dataset
        Whose events are compared: training data.
    graph : CSR array of shape (n_users, n_users)
        Its entries, of whatever strength, are the pairs compared.
    measure : {"cosine", "jaccard"}
    shrinkage : float
        In items.

    Returns
    -------
    CSR array of the graph's pattern, float32, from 0 to 1
    """
    one, other = graph.nonzero()
    history, size = data.matrix(), data.user_counts
    starts = range(0, len(one), TIES_AT_ONCE)
    common = [
        history[one[s : s + TIES_AT_ONCE]].multiply(history[other[s : s + TIES_AT_ONCE]]).sum(1)
        for s in starts
    ]
    common = np.concatenate([np.zeros(0), *common])
    least = np.minimum(size[one], size[other])
    if measure == "cosine":
        whole = np.sqrt(size[one] * size[other])
    else:
        whole = size[one] + size[other] - common
    like = np.divide(common, whole, out=np.zeros(len(one)), where=least > 0)
    # Where nobody has anything in common with a friend, all friends are equally alike.
    usual = (like[least > 0].mean() if (least > 0).any() else 0) or 1.0
    total = np.maximum(least + shrinkage, 1e-12)
    values = ((least * like + shrinkage * usual) / total).astype(np.float32)
    return sparse.csr_array((values, (one, other)), shape=graph.shape)


def rewired(data: Dataset, seed: int) -> Dataset:
    """Give everybody the friends of somebody else's, as many as they have: a placebo.

    All who are a friend of anybody change places at random. How many friends each has stays, and
    which people are friends together; who they are a friend of is lost. Whoever would become a
    friend of themselves gets instead whoever took their own place.
    """
    if data.friends is None:
        return data
    ties = data.friends.tocoo()
    place, named = np.arange(data.shape[0]), np.unique(ties.col)
    place[named] = np.random.default_rng(seed).permutation(named)
    friend = place[ties.col]
    friend = np.where(friend == ties.row, place[ties.row], friend)
    ties = (ties.data, (ties.row, friend))
    return replace(data, friends=sparse.csr_array(ties, shape=data.friends.shape))


def _shares(weights: sparse.csr_array) -> sparse.csr_array:
    """Scale rows to a sum of 1; rows of zeros stay. Sorted, lest a later call sorts in place."""
    weights.eliminate_zeros()
    weights.sort_indices()
    total = np.repeat(weights.sum(axis=1), np.diff(weights.indptr))
    shares = (weights.data / total).astype(np.float32)
    return sparse.csr_array((shares, weights.indices, weights.indptr), shape=weights.shape)
