"""Base models: thin adapters that make popular recommenders stages.

Every model learns from who saw what (:meth:`Dataset.matrix <firetv.data.Dataset.matrix>`) and
adds one part to the ledger, ``taste``. A user of whom the model knows nothing gets the part
``popularity`` instead, so the ledger itself says that the answer is a fallback.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from implicit.bpr import BayesianPersonalizedRanking
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.topk import topk
from implicit.nearest_neighbours import ItemItemRecommender, bm25_weight, tfidf_weight
from lightfm import LightFM as _LightFM
from scipy import sparse
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from firetv.data import Dataset
from firetv.features import item_features, user_features
from firetv.slate import EMPTY, Slate, Step, cells


def log_popularity(data: Dataset) -> np.ndarray:
    """Log of one plus the number of viewers, shape (n_items,), float32."""
    return np.log1p(data.item_counts).astype(np.float32)


def _scored(slate: Slate, taste: np.ndarray, known: np.ndarray, popularity: np.ndarray) -> Slate:
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
        known = (slate.users >= 0) & self.known[slate.users]
        users = self.user_factors[slate.users]
        if slate.items.ndim == 1:
            taste = users @ self.item_factors[slate.items].T
        else:
            taste = np.einsum("rd,rkd->rk", users, self.item_factors[slate.items])
        return _scored(slate, taste, known, self.popularity)

    def propose(
        self,
        requests: pd.DataFrame,
        items: np.ndarray,
        k: int,
        seen: sparse.csr_array | None = None,
    ) -> Slate:
        """Retrieve the ``k`` best candidates of each request without scoring a dense slate.

        The first of two stages on a large catalogue: re-rankers then work on ``k`` slots.

        Parameters
        ----------
        requests : DataFrame of R rows
            With a ``user`` column.
        items : int array of shape (K,)
            Candidate item codes.
        k : int
            Slots per request.
        seen : CSR array of shape (n_users, n_items), optional
            Pairs to leave out, usually ``data.matrix()``.

        Returns
        -------
        Slate
            Scored, best first; slots beyond the last unseen candidate are empty.
        """
        users = requests["user"].to_numpy()
        known = (users >= 0) & self.known[users]
        # A stranger's vector picks the last column of the table, popularity, alone.
        query = np.zeros((len(users), self.user_factors.shape[1] + 1), np.float32)
        query[known, :-1] = self.user_factors[users[known]]
        query[~known, -1] = 1
        table = np.column_stack([self.item_factors[items], self.popularity[items]])
        hidden = None
        if seen is not None:
            hidden = sparse.csr_matrix(seen[np.maximum(users, 0)][:, items])
            hidden = sparse.csr_matrix(hidden.multiply((users >= 0)[:, None]))
            hidden.eliminate_zeros()
        k = min(k, len(items))
        slots, scores = topk(table, query, k, filter_query_items=hidden)
        chosen = np.where(scores > -1e38, items[slots], EMPTY)  # implicit pads with -3.4e38
        return self(Slate(requests, chosen))


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
        shared = slate.items.ndim == 1
        taste = history @ (self.weights[:, slate.items] if shared else self.weights)
        taste = taste.toarray() if sparse.issparse(taste) else taste
        if not shared:
            taste = np.take_along_axis(taste, slate.items.astype(np.int64), axis=1)
        return _scored(slate, taste, known, self.popularity)


@dataclass(frozen=True)
class Random:
    """A score drawn uniformly for each pair of user and item: the floor of every comparison.

    The draw is a hash of seed, user and item (SplitMix64; Steele, Lea and Flood 2014), so it does
    not depend on the order of requests or the size of chunks.
    """

    seed: int = 0

    def fit(self, data: Dataset) -> Step:
        """Learn nothing."""
        return self._score

    def _score(self, slate: Slate) -> Slate:
        pair = slate.users[:, None].astype(np.uint64) << np.uint64(32)
        z = (pair + slate.grid.astype(np.uint64)) * np.uint64(2) + np.uint64(self.seed + 1)
        z = z * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        return slate.add("chance", z / np.float64(2**64))


@dataclass(frozen=True)
class Popular:
    """The same list for everybody: log of one plus the number of viewers."""

    def fit(self, data: Dataset) -> Step:
        """Count viewers."""
        return PopularStep(log_popularity(data))


@dataclass(frozen=True)
class PopularStep:
    """Scores that are the same for everybody: ``popularity``, float32 of shape (n_items,)."""

    popularity: np.ndarray

    def __call__(self, slate: Slate) -> Slate:
        """Score every slot of the slate."""
        scores = np.broadcast_to(self.popularity[slate.items], slate.shape)
        return slate.add("popularity", scores)


@dataclass(frozen=True)
class RecentPopular:
    """What people watch around the time of the request: popularity with exponential decay.

    Before the request and after it, as far as the training data go: where they end before it, this
    is recency, and where they do not, a control for all that goes with the time.

    Attributes
    ----------
    scale : float
        Hours after which an event weighs 1 / e.
    prior : float
        Weight of one event that every item is given.
    """

    scale: float = 24 * 30.0
    prior: float = 0.1

    def fit(self, data: Dataset) -> Step:
        """Count events in steps of an eighth of the scale."""
        width = pd.Timedelta(hours=self.scale / 8)
        steps = data.interactions["timestamp"].dt.floor(width)
        row, instants = pd.factorize(steps, sort=True)
        place = (row, data.interactions["item"].to_numpy())
        shape = (len(instants), data.shape[1])
        counts = sparse.csr_array((np.ones(len(row)), place), shape=shape)
        return RecentPopularStep(instants, width, counts, self.prior)


@dataclass(frozen=True)
class RecentPopularStep:
    """Counts of events by time step, CSR of shape (T, n_items), and the step's ``width``."""

    instants: pd.DatetimeIndex
    width: pd.Timedelta
    counts: sparse.csr_array
    prior: float

    def __call__(self, slate: Slate) -> Slate:
        """Score every slot of the slate by the time of its request."""
        row, asked = pd.factorize(slate.requests["at"].dt.floor(self.width))
        then, now = (each.tz_convert(None).to_numpy() for each in (self.instants, asked))
        apart = np.abs((now[:, None] - then) / self.width.to_timedelta64())
        # Row -1 is for requests without a time, to which all events are equally near.
        near = np.vstack([np.exp(-apart / 8), np.ones((1, len(self.instants)))])
        table = np.log(near @ self.counts + self.prior).astype(np.float32)
        return slate.add("popularity", cells(table, row, slate.items))


@dataclass(frozen=True)
class ContentProfile:
    """Titles with the attributes that a user watches more than people in general do.

    The score is the mean over an item's attributes of the log-ratio of the user's share of the
    attribute to everybody's, the user's with a prior of everybody's.

    Attributes
    ----------
    prior : float
        Events of prior, above 0.
    """

    prior: float = 5.0

    def __post_init__(self) -> None:
        if self.prior <= 0:
            raise ValueError(f"prior {self.prior}: what a user never watched needs one above 0")

    def fit(self, data: Dataset) -> Step:
        """Compare profiles."""
        features = item_features(data).normalised().matrix
        watched = (data.matrix() @ features).toarray()
        usual = watched.sum(axis=0) / max(1.0, watched.sum())
        own = watched + self.prior * usual
        own /= np.maximum(own.sum(axis=1, keepdims=True), 1e-12)
        met = usual > 0  # an attribute that nobody watched says nothing
        ratio = np.log(np.divide(own, usual, where=met, out=np.ones_like(own)))
        known = data.user_counts > 0
        factors = np.where(known[:, None], ratio, 0).astype(np.float32)
        return FactorStep(factors, features.toarray(), known, log_popularity(data))


@dataclass(frozen=True)
class ItemKNN:
    """Nearest neighbours between items by who saw them (Deshpande and Karypis 2004).

    Attributes
    ----------
    neighbours : int
        Items that each item may lend its weight to.
    weighting : {"cosine", "tfidf", "bm25"}
        How a viewer's count is weighted before the cosine.
    """

    neighbours: int = 100
    weighting: Literal["cosine", "tfidf", "bm25"] = "cosine"

    def fit(self, data: Dataset) -> Step:
        """Compute the neighbours of each item."""
        history = data.matrix()
        weighted = _WEIGHTINGS[self.weighting](sparse.csr_matrix(history, dtype=np.float64))
        model = ItemItemRecommender(K=self.neighbours, num_threads=1)
        model.fit(sparse.csr_matrix(weighted), show_progress=False)
        weights = sparse.csr_array(model.similarity, dtype=np.float32)
        return LinearStep(history, weights, log_popularity(data))


_WEIGHTINGS = {
    "cosine": lambda seen: normalize(seen, axis=0),
    "tfidf": lambda seen: normalize(sparse.csr_matrix(tfidf_weight(seen)), axis=0),
    "bm25": bm25_weight,
}


@dataclass(frozen=True)
class EASE:
    """Linear autoencoder with a closed form (Steck 2019, "Embarrassingly shallow autoencoders").

    Attributes
    ----------
    reg : float
        L2 penalty, in viewers: added to the diagonal of the item-item Gram matrix.
    """

    reg: float = 400.0

    def fit(self, data: Dataset) -> Step:
        """Invert the Gram matrix of the items that somebody saw; the others weigh nothing."""
        history = data.matrix()
        seen = np.flatnonzero(data.item_counts)
        columns = history[:, seen]
        gram = (columns.T @ columns).toarray().astype(np.float64)
        gram[np.diag_indices_from(gram)] += self.reg
        precision = np.linalg.inv(gram)
        block = -precision / np.diag(precision)
        np.fill_diagonal(block, 0)
        weights = np.zeros((len(data.item_ids),) * 2, np.float32)
        weights[np.ix_(seen, seen)] = block
        return LinearStep(history, weights, log_popularity(data))


@dataclass(frozen=True)
class ALS:
    """Matrix factorisation with confidence weights (Hu, Koren and Volinsky 2008), by implicit."""

    components: int = 24
    reg: float = 20.0
    alpha: float = 4.0
    epochs: int = 15
    seed: int = 0

    def fit(self, data: Dataset) -> Step:
        """Alternate least squares; BLAS is held to one thread, which implicit asks for."""
        model = AlternatingLeastSquares(
            factors=self.components,
            regularization=self.reg,
            alpha=self.alpha,
            iterations=self.epochs,
            random_state=self.seed,
            num_threads=1,
        )
        return _factorised(model, data)


@dataclass(frozen=True)
class BPR:
    """Pairwise ranking by stochastic gradient (Rendle et al. 2009), by implicit.

    One thread, because updates without locks do not repeat.
    """

    components: int = 64
    learning_rate: float = 0.02
    reg: float = 0.01
    epochs: int = 30
    seed: int = 0

    def fit(self, data: Dataset) -> Step:
        """Sample pairs of a seen and an unseen item, and descend."""
        model = BayesianPersonalizedRanking(
            factors=self.components,
            learning_rate=self.learning_rate,
            regularization=self.reg,
            iterations=self.epochs,
            random_state=self.seed,
            num_threads=1,
        )
        return _factorised(model, data)


def _factorised(
    model: AlternatingLeastSquares | BayesianPersonalizedRanking, data: Dataset
) -> Step:
    """Fit an implicit model; users and items without events get zero vectors, not noise."""
    known = data.user_counts > 0
    with threadpool_limits(1, "blas"):
        model.fit(sparse.csr_matrix(data.matrix()), show_progress=False)
    items = np.where(data.item_counts[:, None] > 0, model.item_factors, 0)
    users = np.where(known[:, None], model.user_factors, 0)
    return FactorStep(
        users.astype(np.float32), items.astype(np.float32), known, log_popularity(data)
    )


@dataclass(frozen=True)
class LightFM:
    """Hybrid matrix factorisation (Kula 2015): a vector is the sum of its features' vectors.

    Each user and item has its own identity feature, beside the columns of
    :func:`~firetv.features.user_features` and :func:`~firetv.features.item_features` where these
    are switched on. Somebody or something without events is described by features alone.

    Attributes
    ----------
    components : int
        Length of a vector.
    loss : {"warp", "warp-kos", "bpr", "logistic"}
    learning_rate, epochs, max_sampled
        See LightFM; the learning-rate schedule is Adagrad.
    user_reg, item_reg : float
        L2 penalty on the vectors of user and item features.
    use_user_features, use_item_features : bool
        With both off, this is a plain matrix factorisation.
    feature_weight : float
        Sum of a row's feature values, beside the 1 of its identity.
    average : int
        Number of models, differing in their seed, whose scores are averaged.
    seed : int
        Models repeat bit for bit: each runs on one thread.
    """

    components: int = 32
    loss: Literal["warp", "warp-kos", "bpr", "logistic"] = "warp"
    learning_rate: float = 0.03
    epochs: int = 45
    max_sampled: int = 5
    user_reg: float = 1e-4
    item_reg: float = 1e-4
    use_user_features: bool = False
    use_item_features: bool = False
    feature_weight: float = 1.0
    average: int = 1
    seed: int = 0

    def fit(self, data: Dataset) -> Step:
        """Fit on the users and items that have events; the rest is described by features.

        Items without events must not enter the fit: WARP would sample them as negatives.
        """
        user_known, item_known = data.user_counts > 0, data.item_counts > 0
        users = self._described(data, "user", user_known)
        items = self._described(data, "item", item_known)
        seen = sparse.coo_matrix(data.matrix()[user_known][:, item_known])
        fits = [
            self._fit_once(seen, users[user_known], items[item_known], seed)
            for seed in np.random.SeedSequence(self.seed).generate_state(self.average)
        ]
        user_factors = np.hstack(
            [_represent(users, m.user_embeddings, m.user_biases) for m in fits]
        )
        item_factors = np.hstack(
            [_represent(items, m.item_embeddings, m.item_biases, item=True) for m in fits]
        )
        return FactorStep(
            user_factors / np.float32(self.average),
            item_factors,
            np.diff(users.indptr) > 0,
            log_popularity(data),
        )

    def _described(
        self, data: Dataset, side: Literal["user", "item"], known: np.ndarray
    ) -> sparse.csr_array:
        """Identity of the known rows beside the features, CSR float32, all rows."""
        identity = sparse.eye_array(len(known), format="csr", dtype=np.float32)[:, known]
        if not (self.use_user_features if side == "user" else self.use_item_features):
            return sparse.csr_array(identity)
        features = (user_features if side == "user" else item_features)(data).normalised().matrix
        share = np.diff(sparse.csc_array(features[known]).indptr) / max(1, known.sum())
        used = (share > 0) & (
            share < 1
        )  # nobody's feature learns nothing, everybody's says nothing
        blocks = [identity, features[:, used] * np.float32(self.feature_weight)]
        return sparse.csr_array(sparse.hstack(blocks, format="csr", dtype=np.float32))

    def _fit_once(
        self,
        seen: sparse.coo_matrix,
        users: sparse.csr_array,
        items: sparse.csr_array,
        seed: int,
    ) -> _LightFM:
        model = _LightFM(
            no_components=self.components,
            loss=self.loss,
            learning_rate=self.learning_rate,
            user_alpha=self.user_reg,
            item_alpha=self.item_reg,
            max_sampled=self.max_sampled,
            random_state=int(seed),
        )
        return model.fit(
            seen,
            user_features=sparse.csr_matrix(users),
            item_features=sparse.csr_matrix(items),
            epochs=self.epochs,
            num_threads=1,
        )


def _represent(
    features: sparse.csr_array, embeddings: np.ndarray, biases: np.ndarray, item: bool = False
) -> np.ndarray:
    """Vectors with both biases folded in, so that a score is one product, float32 (n, d + 2).

    Biases of known titles are mostly negative: a title that nothing describes takes the lowest of
    them, lest its zero outrank what people watch.
    """
    described = np.diff(features.indptr) > 0
    bias = features @ biases
    bias = np.where(described, bias, bias[described].min()) if item else bias
    ones = np.ones(features.shape[0])
    columns = [features @ embeddings, *((ones, bias) if item else (bias, ones))]
    return np.column_stack(columns).astype(np.float32)
