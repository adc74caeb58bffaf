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
from implicit.nearest_neighbours import ItemItemRecommender, bm25_weight, tfidf_weight
from lightfm import LightFM as _LightFM
from scipy import sparse
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from firetv.data import Dataset, compact
from firetv.features import item_features, user_features
from firetv.slate import Slate, Stage, Step, cells, with_seed
from firetv.steps import DualStep, FactorStep, LinearStep, log_popularity
from firetv.trust import friendships

DUAL = 4  # times as many items as users, from where EASE is cheaper by users


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
class Liked:
    """A model that learns from viewings of titles that were rated well, and from no others.

    Attributes
    ----------
    model : Stage
    rating : float
        Least mean rating of a pair of user and item.
    seed : int
        Becomes the model's.
    """

    model: Stage
    rating: float = 4.0
    seed: int = 0

    def fit(self, data: Dataset) -> Step:
        """Fit the model on what is left.

        Raises
        ------
        ValueError
            If nothing was rated so well.
        """
        events = data.interactions
        ratings = data.matrix("rating")[events["user"].to_numpy(), events["item"].to_numpy()]
        liked = np.asarray(ratings).ravel() >= self.rating
        if not liked.any():
            raise ValueError(f"no viewing was rated {self.rating} or better")
        return with_seed(self.model, self.seed).fit(data.keep(liked))


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
        """Invert the Gram matrix of the items that somebody saw; the others weigh nothing.

        Where users are far fewer than these, that of the users is inverted: the same model.
        """
        history = data.matrix()
        seen = np.flatnonzero(data.item_counts)
        if DUAL * np.count_nonzero(data.user_counts) <= len(seen):
            return self._by_users(data)
        columns = history[:, seen]
        gram = (columns.T @ columns).toarray().astype(np.float64)
        gram[np.diag_indices_from(gram)] += self.reg
        precision = np.linalg.inv(gram)
        block = -precision / np.diag(precision)
        np.fill_diagonal(block, 0)
        weights = np.zeros((len(data.item_ids),) * 2, np.float32)
        weights[np.ix_(seen, seen)] = block
        return LinearStep(history, weights, log_popularity(data))

    def _by_users(self, data: Dataset) -> Step:
        """Solve by the Woodbury identity, ``(X'X + r)^-1 = (1 - X'(XX' + r)^-1 X) / r``."""
        history = data.matrix()
        learned = sparse.csr_array(history[np.flatnonzero(data.user_counts)])
        gram = (learned @ learned.T).toarray().astype(np.float64)
        gram[np.diag_indices_from(gram)] += self.reg
        table = (learned.T @ np.linalg.inv(gram)).T
        explained = np.asarray(learned.multiply(table).sum(axis=0))
        table /= 1 - explained
        own = (explained / (1 - explained)).astype(np.float32)
        return DualStep(history, learned, table.astype(np.float32), own, log_popularity(data))


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
) -> FactorStep:
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
    are switched on, and a feature for each friend. Somebody or something without events is
    described by features alone.

    Attributes
    ----------
    components : int
        Length of a vector.
    loss : {"warp", "warp-kos", "bpr", "logistic"}
    learning_rate, epochs, max_sampled
        See LightFM; the learning-rate schedule is Adagrad.
    user_reg, item_reg : float
        L2 penalty on the vectors of user and item features.
    use_user_features, use_item_features, use_friends : bool
        With all off, this is a plain matrix factorisation.
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
    use_friends: bool = False
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
        blocks = [identity]
        if self.use_user_features if side == "user" else self.use_item_features:
            features = (user_features if side == "user" else item_features)(data)
            blocks.append(self._weighed(features.normalised().matrix, known))
        if self.use_friends and side == "user":
            friends = compact(normalize(friendships(data), norm="l1"))
            blocks.append(self._weighed(friends, known))
        return sparse.csr_array(sparse.hstack(blocks, format="csr", dtype=np.float32))

    def _weighed(self, features: sparse.csr_array, known: np.ndarray) -> sparse.csr_array:
        """Leave out nobody's features, which learn nothing, and everybody's, which say nothing."""
        share = np.diff(sparse.csc_array(features[known]).indptr) / max(1, known.sum())
        return features[:, (share > 0) & (share < 1)] * np.float32(self.feature_weight)

    def _fit_once(
        self,
        seen: sparse.coo_matrix,
        users: sparse.csr_array,
        items: sparse.csr_array,
        seed: int,
    ) -> _LightFM:
        weights = None if (seen.data == 1).all() else seen
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
            sample_weight=weights,
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
