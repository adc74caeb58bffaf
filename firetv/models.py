"""Base models: thin adapters that make popular recommenders stages.

Every model learns from who saw what (:meth:`Dataset.matrix <firetv.data.Dataset.matrix>`) and
adds one part to the ledger, ``taste``. A user of whom the model knows nothing gets the part
``popularity`` instead, so the ledger itself says that the answer is a fallback.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

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

from firetv.choices import user_folds
from firetv.data import Dataset, compact
from firetv.features import item_features, user_features
from firetv.metrics import hits_at, ndcg
from firetv.slate import Slate, Stage, Step, cells, with_seed
from firetv.steps import DualStep, FactorStep, LinearStep, log_popularity
from firetv.trust import friendships

HOLD, CHECK = 10, 5  # one of so many events is held out, and found every so many epochs, to stop
DUAL = 4  # times as many items as rows, from where EASE is cheaper by rows
Described: TypeAlias = tuple[sparse.csr_matrix, sparse.csr_matrix]  # users' and items' features


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
    use_item_features : bool
        Whether each column of :func:`~firetv.features.item_features` is a viewer more, of all items
        that have it: rows added to the Gram matrix (the collective variant of Jeunen, Van Balen and
        Goethals 2020). Items without events are then scored by what they share with others.
    feature_weight : float
        What such a row holds, beside the 1 of a viewing.
    activity : float
        Power by which heavy users count less: rows are divided by ``(titles seen / mean) **
        activity``, in what is learned from, not in what is asked for.
    """

    reg: float = 400.0
    use_item_features: bool = False
    feature_weight: float = 2.0
    activity: float = 0.0

    def fit(self, data: Dataset) -> Step:
        """Invert the Gram matrix of the items that any row holds; the others weigh nothing.

        Where rows are far fewer than these, that of the rows is inverted: the same model.
        """
        rows = self._rows(data)
        met = np.flatnonzero(np.bincount(rows.indices, minlength=rows.shape[1]))
        if DUAL * rows.shape[0] <= len(met):
            return self._by_rows(data, rows)
        columns = rows[:, met]
        gram = (columns.T @ columns).toarray().astype(np.float64)
        gram[np.diag_indices_from(gram)] += self.reg
        precision = np.linalg.inv(gram)
        block = -precision / np.diag(precision)
        np.fill_diagonal(block, 0)
        weights = np.zeros((len(data.item_ids),) * 2, np.float32)
        weights[np.ix_(met, met)] = block
        return LinearStep(data.matrix(), weights, log_popularity(data))

    def _rows(self, data: Dataset) -> sparse.csr_array:
        """Histories of the users that have one, and what features say."""
        learned, count = data.matrix()[data.user_counts > 0], data.user_counts[data.user_counts > 0]
        if self.activity:
            scale = ((count / count.mean()) ** -self.activity).astype(np.float32)
            learned = sparse.csr_array(learned.multiply(scale[:, None]))
        if self.use_item_features:
            features = _telling(item_features(data).matrix, data.item_counts > 0)
            rows = features.T * np.float32(self.feature_weight)
            learned = sparse.csr_array(sparse.vstack([learned, rows], format="csr"))
        return learned

    def _by_rows(self, data: Dataset, rows: sparse.csr_array) -> Step:
        """Solve by the Woodbury identity, ``(X'X + r)^-1 = (1 - X'(XX' + r)^-1 X) / r``."""
        gram = (rows @ rows.T).toarray().astype(np.float64)
        gram[np.diag_indices_from(gram)] += self.reg
        table = (rows.T @ np.linalg.inv(gram)).T
        explained = np.asarray(rows.multiply(table).sum(axis=0))
        table /= 1 - explained
        own = (explained / (1 - explained)).astype(np.float32)
        return DualStep(data.matrix(), rows, table.astype(np.float32), own, log_popularity(data))


def _telling(features: sparse.csr_array, known: np.ndarray) -> sparse.csr_array:
    """Leave out nobody's features, which learn nothing, and everybody's, which say nothing."""
    share = np.diff(sparse.csc_array(features[known]).indptr) / max(1, known.sum())
    return sparse.csr_array(features[:, (share > 0) & (share < 1)])


@dataclass(frozen=True)
class ALS:
    """Matrix factorisation with confidence weights (Hu, Koren and Volinsky 2008), by implicit.

    Attributes
    ----------
    components, reg, alpha, epochs
        See implicit's ``factors, regularization, alpha, iterations``.
    use_item_features, use_user_features : bool
        Whether features are factorised along with viewings: each column of
        :func:`~firetv.features.item_features` is a user more, who watched all items that have it,
        and each of :func:`~firetv.features.user_features` an item more (a collective
        factorisation; Singh and Gordon 2008). Who or what has no events then has a vector as well.
    feature_weight : float
        What such a viewing counts, beside the 1 of a real one.
    seed : int
        Of the random start.
    """

    components: int = 24
    reg: float = 20.0
    alpha: float = 4.0
    epochs: int = 15
    use_item_features: bool = False
    use_user_features: bool = False
    feature_weight: float = 1.0
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
        return _factorised(model, self._told(data), data)

    def _told(self, data: Dataset) -> sparse.csr_array:
        """Who saw what, beside what features of users say, and above what those of items do."""
        columns = sparse.csr_array((data.shape[0], 0), dtype=np.float32)
        rows = sparse.csr_array((0, data.shape[1]), dtype=np.float32)
        if self.use_user_features:
            columns = _telling(user_features(data).matrix, data.user_counts > 0)
        if self.use_item_features:
            rows = sparse.csr_array(_telling(item_features(data).matrix, data.item_counts > 0).T)
        weight = np.float32(self.feature_weight)
        told = sparse.block_array([[data.matrix(), columns * weight], [rows * weight, None]])
        return compact(sparse.csr_array(told))


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
        return _factorised(model, data.matrix(), data)


def _factorised(
    model: AlternatingLeastSquares | BayesianPersonalizedRanking,
    told: sparse.csr_array,
    data: Dataset,
) -> FactorStep:
    """Fit an implicit model to a matrix that begins with the users and items of the data.

    Those of whom it tells nothing get zero vectors, not noise.
    """
    users, items = data.shape
    known = np.diff(told.indptr)[:users] > 0
    met = np.bincount(told.indices, minlength=told.shape[1])[:items] > 0
    with threadpool_limits(1, "blas"):
        model.fit(sparse.csr_matrix(told), show_progress=False)
    user_factors = np.where(known[:, None], model.user_factors[:users], 0).astype(np.float32)
    item_factors = np.where(met[:, None], model.item_factors[:items], 0).astype(np.float32)
    return FactorStep(user_factors, item_factors, known, log_popularity(data))


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
        See LightFM.
    schedule : {"adagrad", "adadelta"}
        How steps grow smaller. Adadelta has no learning rate.
    patience : int, optional
        Where given, a tenth of each user's events is held out first, and lists of ten are made
        every five epochs: the epochs that found most of it, once so many checks in a row have found
        no more, are those of the fit, and ``epochs`` is the most there can be.
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
    schedule: Literal["adagrad", "adadelta"] = "adagrad"
    patience: int | None = None
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
        described = sparse.csr_matrix(users[user_known]), sparse.csr_matrix(items[item_known])
        epochs = self.epochs if self.patience is None else self._stop(seen, described)
        fits = [
            self._learn(self._start(seed), seen, described, epochs)
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
        blocks, weight = [identity], np.float32(self.feature_weight)
        if self.use_user_features if side == "user" else self.use_item_features:
            features = (user_features if side == "user" else item_features)(data)
            blocks.append(_telling(features.normalised().matrix, known) * weight)
        if self.use_friends and side == "user":
            friends = compact(normalize(friendships(data), norm="l1"))
            blocks.append(_telling(friends, known) * weight)
        return sparse.csr_array(sparse.hstack(blocks, format="csr", dtype=np.float32))

    def _start(self, seed: int) -> _LightFM:
        return _LightFM(
            no_components=self.components,
            loss=self.loss,
            learning_schedule=self.schedule,
            learning_rate=self.learning_rate,
            user_alpha=self.user_reg,
            item_alpha=self.item_reg,
            max_sampled=self.max_sampled,
            random_state=int(seed),
        )

    def _learn(
        self, model: _LightFM, seen: sparse.coo_matrix, described: Described, epochs: int
    ) -> _LightFM:
        """Go on learning for some epochs."""
        weights = None if (seen.data == 1).all() else seen
        if weights is not None and self.loss == "warp-kos":
            raise ValueError("k-OS WARP takes no weights: use another loss, or weigh nothing")
        users, items = described
        return model.fit_partial(
            seen,
            user_features=users,
            item_features=items,
            sample_weight=weights,
            epochs=epochs,
            num_threads=1,
        )

    def _stop(self, seen: sparse.coo_matrix, described: Described) -> int:
        """Epochs after which a held-out tenth of each user's events is found best."""
        held_out = user_folds(seen.row, HOLD, np.random.default_rng(self.seed)) == 0
        rest, hidden = (
            sparse.coo_matrix((seen.data[some], (seen.row[some], seen.col[some])), seen.shape)
            for some in (~held_out, held_out)
        )
        model, best_epochs, most, idle = self._start(self.seed), CHECK, -1.0, 0
        for epochs in range(CHECK, self.epochs + 1, CHECK):
            self._learn(model, rest, described, CHECK)
            found = _found(model, rest.tocsr(), sparse.csr_array(hidden), described)
            best_epochs, most, idle = (
                (epochs, found, 0) if found > most else (best_epochs, most, idle + 1)
            )
            if idle == self.patience:
                break
        return min(best_epochs, self.epochs)


def _found(
    model: _LightFM, rest: sparse.csr_matrix, hidden: sparse.csr_array, described: Described
) -> float:
    """Mean nDCG@10 of lists of unseen items, over users from whom something was hidden."""
    users = _represent(described[0], model.user_embeddings, model.user_biases)
    items = _represent(described[1], model.item_embeddings, model.item_biases, item=True)
    asked = np.flatnonzero(np.diff(hidden.indptr))
    lists = topk(items, users[asked], min(10, len(items)), filter_query_items=rest[asked])[0]
    hits = hits_at(lists, hidden[asked])
    return float(np.mean(ndcg(hits, np.diff(hidden.indptr)[asked])))


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
