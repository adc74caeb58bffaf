"""Ranking metrics, vectorised: one float64 value per request, never a mean over requests.

The values stay apart so that intervals and paired tests can be computed from them. Every metric is
"at k", where ``k`` is the length of the lists: cut longer ones with ``items[:, :k]`` or
``hits[:, :k]``. A value that is undefined for a request is NaN.

Accuracy metrics share one signature, ``metric(hits, n_relevant)``, and are named in
:data:`ACCURACY`; an empty slot is a miss. The other metrics read the lists themselves and leave
empty slots out; :func:`against_negatives` alone reads scores. Arguments mean the same everywhere:

- ``items``: (R, k) int, codes of the recommended items in rank order, distinct within a row,
  ``-1`` for an empty slot;
- ``hits``: (R, k) bool from :func:`hits_at`, computed once for all accuracy metrics;
- ``n_relevant``: (R,) int, how many items are relevant, recommended or not;
- ``profiles``: (R, n_items) CSR, the training row of each request's user; the values are weights,
  1 for merely seen;
- ``genres``: (n_items, n_genres) weights >= 0, e.g. 0 or 1. Items without any genre are left out.

A matrix without exactly one row per request raises ValueError.

Examples
--------
>>> import numpy as np
>>> from scipy import sparse
>>> relevant = sparse.csr_array([[1, 0, 1, 0], [0, 0, 0, 1]])
>>> hits = hits_at(np.array([[2, 1, 0], [1, 0, -1]]), relevant)
>>> for name, metric in ACCURACY.items():
...     print(f"{name:9}", metric(hits, np.array([2, 1])).round(2))
precision [0.67 0.  ]
recall    [1. 0.]
hr        [1. 0.]
ndcg      [0.92 0.  ]
map       [0.83 0.  ]
mrr       [1. 0.]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special, stats

Hits: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.integer]
Floats: TypeAlias = NDArray[np.float64]
Csr: TypeAlias = sparse.csr_array | sparse.csr_matrix


def hits_at(items: Ints, relevant: Csr) -> Hits:
    """Mark the recommended items that are relevant: (R, k) bool, False in empty slots.

    `relevant` is (R, n_items); any nonzero value means relevant. Raises IndexError if an item code
    is not below ``n_items``.
    """
    _check_rows(items, relevant)
    if items.size == 0:
        return np.zeros(items.shape, bool)
    requests = np.repeat(np.arange(len(items)), items.shape[1])
    found = sparse.csr_array(relevant)[requests, items.ravel()]  # quickest in one dimension
    # The sparse look-up reads -1 as the last item, so empty slots are masked.
    hits = (found != 0).reshape(items.shape) & (items >= 0)
    return np.asfortranarray(hits)  # slots are few: reductions read a slot of all requests at once


def precision(hits: Hits, n_relevant: Ints) -> Floats:
    """Share of the k slots that hold a relevant item; higher is better. Ignores `n_relevant`."""
    return hits.mean(axis=1)


def recall(hits: Hits, n_relevant: Ints) -> Floats:
    """Share of all relevant items that are in the list; higher is better. NaN if there are none."""
    return _ratio(hits.sum(axis=1), n_relevant)


def hit_rate(hits: Hits, n_relevant: Ints) -> Floats:
    """1 where the list holds a relevant item, else 0; higher is better. Ignores `n_relevant`."""
    return hits.any(axis=1).astype(np.float64)


def ndcg(hits: Hits, n_relevant: Ints) -> Floats:
    """Discounted cumulative gain over that of the ideal list; higher is better.

    Gains are binary, the discount is ``1 / log2(1 + rank)``, and the ideal list starts with
    ``min(n_relevant, k)`` hits (after Järvelin & Kekäläinen 2002). NaN without relevant items.
    """
    discounts = 1 / np.log2(2 + np.arange(hits.shape[1]))
    gains = np.zeros(len(hits))
    for hit, discount in zip(hits.T, discounts, strict=True):
        gains += hit * discount  # in the order of `cumsum`, so that a perfect list has exactly 1
    ideal = np.append(0, discounts.cumsum())[np.clip(n_relevant, 0, hits.shape[1])]
    return _ratio(gains, ideal)


def average_precision(hits: Hits, n_relevant: Ints) -> Floats:
    """Sum of the precisions at the rank of each hit, over `n_relevant`; higher is better.

    This is the convention of TREC and of ``map`` in the Recommenders project. Others divide by
    ``min(n_relevant, k)`` (``map_at_k`` there), which gives larger values where
    ``n_relevant > k``. NaN without relevant items.

    Examples
    --------
    >>> average_precision(np.array([[True, False, True]]), np.array([4])).round(4)
    array([0.4167])
    """
    total, found = np.zeros(len(hits)), np.zeros(len(hits))
    for rank, hit in enumerate(hits.T, start=1):  # over slots, that many requests are read at once
        found += hit
        total += hit * found / rank
    return _ratio(total, n_relevant)


def reciprocal_rank(hits: Hits, n_relevant: Ints) -> Floats:
    """1 / rank of the first hit, 0 without a hit; higher is better. Ignores `n_relevant`."""
    values = np.zeros(len(hits))
    for rank, hit in enumerate(hits.T, start=1):
        np.maximum(values, hit / rank, out=values)
    return values


ACCURACY: Mapping[str, Callable[[Hits, Ints], Floats]] = {
    "precision": precision,
    "recall": recall,
    "hr": hit_rate,
    "ndcg": ndcg,
    "map": average_precision,
    "mrr": reciprocal_rank,
}


@dataclass(frozen=True)
class Ranks:
    """Where each relevant item stands among all candidates, and what that is worth.

    The values are those of ``lightfm.evaluation`` (Kula 2015), one per request. NaN without
    relevant items.

    Attributes
    ----------
    ranks : (R, n_items) CSR of int
        0 for the best; one entry per relevant item, also where it is 0. Counts the other candidates
        that score at least as much, so that ties count against the item.
    n_candidates : (R,) int
        How many items are ranked for each request, the relevant ones included.

    Examples
    --------
    >>> held_out = sparse.csr_array((np.array([0, 2]), np.array([4, 1]), np.array([0, 2])), (1, 5))
    >>> ranks = Ranks(held_out, np.array([4]))
    >>> ranks.precision(2), ranks.recall(2), ranks.auc(), ranks.reciprocal_rank()
    (array([0.5]), array([0.5]), array([0.75]), array([1.]))
    """

    ranks: sparse.csr_array
    n_candidates: Ints

    @property
    def n_relevant(self) -> Ints:
        """Number of relevant items of each request."""
        return np.diff(self.ranks.indptr)

    @property
    def requests(self) -> Ints:
        """Request of each entry of the ranks."""
        return np.repeat(np.arange(len(self.n_relevant)), self.n_relevant)

    def _sum(self, values: NDArray) -> Floats:
        return np.bincount(self.requests, values, minlength=len(self.n_relevant))

    def precision(self, k: int) -> Floats:
        """Share of the first k places that hold a relevant item; higher is better."""
        return np.where(self.n_relevant > 0, self._sum(self.ranks.data < k) / k, np.nan)

    def recall(self, k: int) -> Floats:
        """Share of the relevant items in the first k places; higher is better."""
        return _ratio(self._sum(self.ranks.data < k), self.n_relevant)

    def reciprocal_rank(self) -> Floats:
        """1 / place of the first relevant item in the whole ranking; higher is better."""
        values, some = np.full(len(self.n_relevant), np.nan), self.n_relevant > 0
        first = np.minimum.reduceat(self.ranks.data, self.ranks.indptr[:-1][some])
        values[some] = 1 / (1 + first)
        return values

    def auc(self) -> Floats:
        """Share of pairs of a relevant and another candidate in the right order; higher is better.

        0.5 where every candidate is relevant.
        """
        start, request = self.ranks.indptr[:-1], self.requests
        order = np.lexsort((self.ranks.data, request))
        above = self.ranks.data[order] - (np.arange(len(order)) - start[request])  # irrelevant ones
        others = self.n_candidates - self.n_relevant
        wrong = _ratio(np.clip(above, 0, others[request]), others[request], undefined=0.5)
        return 1 - _ratio(self._sum(wrong), self.n_relevant)


def against_negatives(scores: Floats, k: int, valid: Hits | None = None) -> dict[str, Floats]:
    """Hit rate and nDCG of one positive item among sampled negative ones; higher is better.

    The protocol of He et al. (2017), to compare with published numbers only: among a sample,
    models may rank otherwise than among all items (Krichene & Rendle 2020). Ties count in
    expectation, as if their order were drawn (McSherry & Najork 2008): a model that scores all
    items alike gets what chance would, not what the order of the slots betrays.

    Parameters
    ----------
    scores : (P, 1 + n) float
        The positive in slot 0. Minus infinity ranks last.
    k : int
    valid : (P, 1 + n) bool, optional
        Slots that hold an item, all by default. A positive in a slot that does not is a miss.

    Returns
    -------
    dict of str to (P,) float64
        ``hr`` and ``ndcg``.

    Raises
    ------
    ValueError
        If the score of an item is NaN.

    Examples
    --------
    >>> against_negatives(np.array([[0.5, 0.9, 0.1], [0.5, 0.5, 0.5]]), k=2)["hr"].round(2)
    array([1.  , 0.67])
    """
    valid = np.ones(scores.shape, bool) if valid is None else valid
    n_wrong = np.count_nonzero(np.isnan(scores) & valid)
    if n_wrong:
        raise ValueError(f"{n_wrong} scores are NaN: rank those items last with -inf")
    first = (valid & (scores > scores[:, :1])).sum(axis=1)
    tied = (valid & (scores == scores[:, :1])).sum(axis=1)  # the positive with itself too

    def expected(gains: Floats) -> Floats:
        """Mean gain over the ranks that the positive may have, 0 beyond k."""
        total = np.append(0, gains.cumsum())
        gain = total[np.minimum(first + tied, k)] - total[np.minimum(first, k)]
        return np.where(valid[:, 0], _ratio(gain, tied), 0.0)

    return {"hr": expected(np.ones(k)), "ndcg": expected(1 / np.log2(2 + np.arange(k)))}


def novelty(items: Ints, item_probability: Floats) -> Floats:
    """Mean self-information ``-log2 p`` of the recommended items, in bits; higher is more novel.

    `item_probability` is (n_items,), the share of users who have seen each item (Zhou et al. 2010;
    Vargas & Castells 2011). NaN for an empty list. Raises ValueError if the probability of a
    recommended item is not in (0, 1].

    Examples
    --------
    >>> novelty(np.array([[0, 1], [1, -1]]), np.array([0.5, 0.125]))
    array([2., 3.])
    """
    lists = _as_rows(items, len(item_probability))
    usable = (item_probability > 0) & (item_probability <= 1)
    n_wrong = np.count_nonzero((lists.sum(axis=0) > 0) & ~usable)
    if n_wrong:
        raise ValueError(
            f"item_probability is not in (0, 1] for {n_wrong} recommended items: pass shares of "
            "users, smoothed if unseen items are recommended, e.g. (n_seen + 1) / (n_users + 2)"
        )
    return _mean(lists, -np.log2(item_probability, where=usable, out=np.zeros(len(usable))))


def intra_list_diversity(items: Ints, genres: Floats) -> Floats:
    """Mean of ``1 - cosine`` of the genres over all pairs in a list; higher is more diverse.

    Intra-list similarity (Ziegler et al. 2005), as a mean and reversed. NaN where fewer than two
    items have a genre.

    Examples
    --------
    >>> genres = np.array([[1, 0], [0, 1], [1, 0], [0, 0]])
    >>> intra_list_diversity(np.array([[0, 1, -1], [0, 2, 3], [0, 1, 2]]), genres).round(2)
    array([1.  , 0.  , 0.67])
    """
    norms = np.linalg.norm(genres, axis=1)
    lists = _as_rows(items, len(genres))
    # The cosines of all ordered pairs, an item with itself included, sum to the squared length of
    # the sum of unit vectors: no (R, k, k) array is needed.
    unit_sums = lists @ _ratio(genres, norms[:, np.newaxis], undefined=0.0)
    n_known = lists @ (norms > 0)
    return 1 - _ratio((unit_sums**2).sum(axis=1) - n_known, n_known * (n_known - 1))


def popularity_bias(items: Ints, popularity: Floats, profiles: Csr) -> Floats:
    """Popularity percentile of the recommended items minus that of the user's own; 0 is best.

    Above zero, the list is more popular than the user's taste: a lift against the profile as in
    Abdollahpouri et al. (2019), here per request, and in percentiles so that a few blockbusters
    do not dominate. `popularity` is (n_items,), e.g. the number of training events; the percentile
    of an item is its rank from the least popular, ties averaged, over ``n_items``. Values lie
    between -1 and 1. NaN where the list or the profile is empty.

    Examples
    --------
    >>> profiles = sparse.csr_array([[0, 1, 1, 0]])
    >>> popularity_bias(np.array([[0, 2]]), np.array([90, 5, 30, 8]), profiles)
    array([0.375])
    """
    _check_rows(items, profiles)
    percentile = stats.rankdata(popularity) / len(popularity)
    return _mean(_as_rows(items, len(popularity)), percentile) - _mean(profiles, percentile)


def calibration(items: Ints, genres: Floats, profiles: Csr, alpha: float = 0.01) -> Floats:
    """Genre miscalibration ``KL(p || q~)`` in nats; lower is better, 0 is calibrated.

    ``p`` is the genre distribution of the profile, ``q`` that of the list, each item dividing its
    mass among its genres, and ``q~ = (1 - alpha) q + alpha p`` (Steck 2018, without the optional
    weights by rank). ``alpha > 0`` bounds the value by ``log(1 / alpha)``. NaN where the list or
    the profile has no item with a genre. Holds a few (R, n_genres) arrays in memory.

    Examples
    --------
    >>> genres, profiles = np.eye(2), sparse.csr_array([[1, 1], [1, 1]])
    >>> calibration(np.array([[0, 1], [0, -1]]), genres, profiles).round(3)
    array([0.   , 1.959])
    """
    _check_rows(items, profiles)
    wanted = _genre_shares(profiles, genres)
    shown = _genre_shares(_as_rows(items, len(genres)), genres)
    divergence = special.rel_entr(wanted, (1 - alpha) * shown + alpha * wanted).sum(axis=1)
    defined = (wanted.sum(axis=1) > 0) & (shown.sum(axis=1) > 0)
    return np.where(defined, divergence, np.nan)


def catalogue_coverage(items: Ints, candidates_count: int) -> float:
    """Share of the candidate items that appear in any list; one value per run, higher is wider.

    Catalogue coverage of Ge et al. (2010). Raises ValueError if there are no candidates, or fewer
    than distinct recommended items.

    Examples
    --------
    >>> catalogue_coverage(np.array([[0, 1], [1, -1]]), candidates_count=8)
    0.25
    """
    n_shown = len(np.unique(items[items >= 0]))
    if candidates_count < max(n_shown, 1):
        raise ValueError(f"{candidates_count} candidates, but {n_shown} distinct items recommended")
    return n_shown / candidates_count


def _check_rows(items: Ints, matrix: Csr) -> None:
    if matrix.shape[0] != len(items):
        raise ValueError(
            f"{len(items)} requests, but {matrix.shape[0]} matrix rows: pass one row per request, "
            "e.g. matrix[user_codes]"
        )


def _as_rows(items: Ints, n_items: int) -> sparse.csr_array:
    """Turn lists into (R, n_items) counts, without the empty slots."""
    requests, slots = np.nonzero(items >= 0)
    codes = items[requests, slots]
    # Through coordinates, because that constructor refuses codes beyond n_items.
    return sparse.csr_array((np.ones(len(codes)), (requests, codes)), (len(items), n_items))


def _ratio(values: NDArray, totals: NDArray, undefined: float = np.nan) -> Floats:
    """Divide, `undefined` where the total is not positive."""
    return np.divide(values, totals, out=np.full(values.shape, undefined), where=totals > 0)


def _mean(rows: Csr, values: Floats) -> Floats:
    """Mean of (n_items,) values by the weights in each row."""
    return _ratio(rows @ values, rows @ np.ones(len(values)))


def _genre_shares(rows: Csr, genres: Floats) -> Floats:
    """Genre distribution of each row: (R, n_genres) that sum to 1, or NaN."""
    mass = rows @ _ratio(genres, genres.sum(axis=1, keepdims=True), undefined=0.0)
    return _ratio(mass, mass.sum(axis=1, keepdims=True))
