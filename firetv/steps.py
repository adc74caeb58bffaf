"""What fitted base models are: scores from vectors, or from histories and weights between items.

Both add one part to the ledger, ``taste``. A user of whom the model knows nothing gets the part
``popularity`` instead, so the ledger itself says that the answer is a fallback.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import sparse
from threadpoolctl import ThreadpoolController

from firetv.data import Dataset
from firetv.slate import CHUNK_CELLS, EMPTY, Slate, best, seen_cells

BLAS = ThreadpoolController().select(user_api="blas")  # its threads are ours too
CACHED_CELLS = 1_000_000  # scores in a block (4 MB): near the core while the best are chosen
LEAST_ROWS = 64  # requests in a product at least: fewer leave BLAS waiting for memory


def log_popularity(data: Dataset) -> np.ndarray:
    """Log of one plus the number of viewers, weights or not, shape (n_items,), float32."""
    viewed = data if data.weights is None else replace(data, weights=None)
    return np.log1p(viewed.item_counts).astype(np.float32)


def scored(slate: Slate, taste: np.ndarray, known: np.ndarray, popularity: np.ndarray) -> Slate:
    """Add ``taste`` where the user is known, and ``popularity`` for everybody else."""
    if known.all():
        return slate.add("taste", taste)
    fallback = np.where(known[:, None], 0, popularity[slate.items])
    return slate.add("taste", np.where(known[:, None], taste, 0)).add("popularity", fallback)


@dataclass(frozen=True)
class FactorStep:
    """Scores as products of user and item vectors.

    Attributes
    ----------
    user_factors : float32 array of shape (n_users, d)
    item_factors : float32 array of shape (n_items, d)
    known : bool array of shape (n_users,)
        False where the user's vector means nothing.
    popularity : float32 array of shape (n_items,)
        What strangers are served.
    """

    user_factors: np.ndarray
    item_factors: np.ndarray
    known: np.ndarray
    popularity: np.ndarray

    def __call__(self, slate: Slate) -> Slate:
        """Score every slot of the slate."""
        known = self._knows(slate.users)
        users = self.user_factors[slate.users]
        if slate.items.ndim == 1:
            taste = users @ self.item_factors[slate.items].T
        else:
            taste = np.einsum("rd,rkd->rk", users, self.item_factors[slate.items])
        return scored(slate, taste, known, self.popularity)

    def mix(self, weights: sparse.csr_array) -> FactorStep:
        """Return the model of mixtures of users, whose tastes are weighted sums of theirs.

        Parameters
        ----------
        weights : CSR array of shape (m, n_users), float32
            User ``u`` of the new model is the mixture in row ``u``. It is known if anybody in it
            is, and only they count.
        """
        counted = sparse.csr_array(weights * self.known.astype(np.float32))
        counted.eliminate_zeros()
        known = np.diff(counted.indptr) > 0
        return replace(self, user_factors=counted @ self.user_factors, known=known)

    def propose(
        self,
        requests: pd.DataFrame,
        items: np.ndarray,
        k: int,
        seen: sparse.csr_array | None = None,
    ) -> Slate:
        """Retrieve the ``k`` best candidates of each request without scoring a dense slate.

        The first of two stages on a large catalogue: re-rankers then work on ``k`` slots. The list
        is that of all scores, by :class:`~firetv.slate.ExcludeSeen` and :func:`~firetv.slate.top`.
        Memory is bounded by a few blocks of scores, one for each thread that BLAS may use.

        Parameters
        ----------
        requests : DataFrame of R rows
            With a ``user`` column.
        items : int array of shape (K,)
            Candidate item codes, distinct.
        k : int
            Slots per request.
        seen : CSR array of shape (n_users, n_items), optional
            Pairs to leave out, usually ``data.matrix()``.

        Returns
        -------
        Slate
            Scored, best first; slots beyond the last unseen candidate are empty.

        Raises
        ------
        ValueError
            If a vector holds NaN.
        """
        users = requests["user"].to_numpy()
        # Both sides with rows that lie together are what a product reads fastest.
        table = np.ascontiguousarray(self.item_factors[items].T)
        wrong = np.isnan(table).any()

        def listed(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            vectors = self.user_factors[some]
            if wrong or np.isnan(vectors).any():
                raise ValueError("vectors of users or items hold NaN: fit the model again")
            scores = vectors @ table
            strangers = ~self._knows(some)
            if strangers.any():
                scores[strangers] = self.popularity[items]
            if seen is not None:
                scores.reshape(-1)[seen_cells(seen, some, items)] = -np.inf
            slots = best(scores, k)
            return slots, np.take_along_axis(scores, slots, axis=1)

        size = max(LEAST_ROWS, CACHED_CELLS // max(1, len(items)))
        size = max(1, min(size, CHUNK_CELLS // max(1, len(items))))
        blocks = [users[s : s + size] for s in range(0, max(1, len(users)), size)]
        found = zip(*_on_threads(listed, blocks), strict=True)
        slots, scores = (np.concatenate(each) for each in found)
        empty = scores == -np.inf
        slate = Slate(requests, np.where(empty, EMPTY, items[slots]))
        return scored(slate, np.where(empty, 0, scores), self._knows(users), self.popularity)

    def _knows(self, users: np.ndarray) -> np.ndarray:
        return (users >= 0) & self.known[users]


def _on_threads(
    function: Callable[[np.ndarray], tuple[np.ndarray, ...]], blocks: Sequence[np.ndarray]
) -> list[tuple[np.ndarray, ...]]:
    """Apply a function to blocks on as many threads as BLAS may use, which then has one in each."""
    threads = max((each.num_threads for each in BLAS.lib_controllers), default=1)
    if min(threads, len(blocks)) == 1:
        return [function(block) for block in blocks]
    with BLAS.limit(limits=1), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, blocks))


@dataclass(frozen=True)
class LinearStep:
    """Scores as a user's history times an item-item weight matrix.

    Attributes
    ----------
    history : CSR array of shape (n_users, n_items), float32
    weights : float32 array or CSR array of shape (n_items, n_items)
        ``weights[i, j]`` is what having seen ``i`` says for ``j``.
    popularity : float32 array of shape (n_items,)
        What strangers are served.
    """

    history: sparse.csr_array
    weights: np.ndarray | sparse.csr_array
    popularity: np.ndarray

    def __call__(self, slate: Slate) -> Slate:
        """Score every slot of the slate."""
        history = self.history[slate.users]
        known = (slate.users >= 0) & (np.diff(history.indptr) > 0)
        shared, weights = slate.items.ndim == 1, self.weights
        if history.nnz < history.shape[1]:  # few people: only what they saw is read
            titles, place = np.unique(history.indices, return_inverse=True)
            shape = (len(slate.users), len(titles))
            history = sparse.csr_array((history.data, place, history.indptr), shape=shape)
            weights = weights[titles]
        taste = history @ (weights[:, slate.items] if shared else weights)
        taste = taste.toarray() if sparse.issparse(taste) else taste
        if not shared:
            taste = np.take_along_axis(taste, slate.items.astype(np.int64), axis=1)
        return scored(slate, taste, known, self.popularity)

    def between(self, seen: np.ndarray, items: np.ndarray) -> np.ndarray:
        """What having seen each title says for others: (n,) and (n, k) to float32 (n, k)."""
        found = self.weights[seen[:, None], items]
        return found.toarray() if sparse.issparse(found) else found

    def mix(self, weights: sparse.csr_array) -> LinearStep:
        """Return the model of mixtures of users; see :meth:`FactorStep.mix`."""
        return replace(self, history=sparse.csr_array(weights @ self.history))


@dataclass(frozen=True)
class DualStep:
    """The scores of a :class:`LinearStep` by users, where these are far fewer than items.

    The weights ``learned.T @ table``, but for a diagonal of zeros, are never built.

    Attributes
    ----------
    history : CSR array of shape (n_users, n_items), float32
    learned : CSR array of shape (m, n_items), float32
        Histories that the model was fitted on.
    table : float32 array of shape (m, n_items)
    own : float32 array of shape (n_items,)
        The diagonal of ``learned.T @ table``: what an item would say for itself.
    popularity : float32 array of shape (n_items,)
        What strangers are served.
    """

    history: sparse.csr_array
    learned: sparse.csr_array
    table: np.ndarray
    own: np.ndarray
    popularity: np.ndarray

    def __call__(self, slate: Slate) -> Slate:
        """Score every slot of the slate."""
        users, row = np.unique(slate.users, return_inverse=True)  # each is worked out once
        history = self.history[users]
        known = ((users >= 0) & (np.diff(history.indptr) > 0))[row]
        alike = (history @ self.learned.T).toarray()
        own = sparse.csr_array(history * self.own)
        if slate.items.ndim == 1:
            taste = (alike @ self.table[:, slate.items] - own[:, slate.items].toarray())[row]
        else:
            taste = (alike @ self.table - own.toarray())[row[:, None], slate.items]
        return scored(slate, taste, known, self.popularity)

    def between(self, seen: np.ndarray, items: np.ndarray) -> np.ndarray:
        """What having seen each title says for others: (n,) and (n, k) to float32 (n, k)."""
        titles, row = np.unique(seen, return_inverse=True)
        columns, place = np.unique(items, return_inverse=True)
        between = self.learned[:, titles].T @ self.table[:, columns]
        found = between[row[:, None], place.reshape(items.shape)]
        return np.where(seen[:, None] == items, 0, found)

    def mix(self, weights: sparse.csr_array) -> DualStep:
        """Return the model of mixtures of users; see :meth:`FactorStep.mix`."""
        return replace(self, history=sparse.csr_array(weights @ self.history))
