"""Friends in the ranking: what trusted friends liked, beyond what everybody likes.

:class:`FriendBoost` is a stage behind any base model, which adds the part ``friends``;
:class:`FriendSignals` gives the same quantity unweighted, as a feature for a
:class:`~firetv.ranking.Ranker`; :class:`WithFriends` lets a base model itself learn from friends.
Who is a friend, and how much a friend counts, is said by :class:`~firetv.trust.Trust`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy import sparse

from firetv.choices import newness
from firetv.data import Dataset, compact
from firetv.proof import LATEST, FriendLog, microseconds
from firetv.scales import Scales, learn_scales
from firetv.slate import CHUNK_CELLS, EMPTY, Chain, Slate, Stage, Step, cells, chain, with_seed
from firetv.trust import Circles, Trust, themselves

PART = "friends"  # of the ledger
NEW = f"{PART}/new"  # the same for newcomers, while strengths are learned
LIKING = {"love": 1.0, "like": 0.75, "dislike": 0.0}
MICROSECONDS = 86_400_000_000  # of a day
REQUESTS_AT_ONCE = 1000  # whose circles' viewings are held at once
CELLS_AT_ONCE = 500_000  # of people x items, as an array that is not sparse
DENSE = 0.01  # share of all items that the mean person has watched


def liking(data: Dataset) -> np.ndarray:
    """How much each viewing was liked, from 0 to 1.

    The mean of what the person ever said of the item, by a rating or else by a reaction; without
    that, the share that was watched; without that, 1.

    Returns
    -------
    float32 array of shape (n_interactions,)
    """
    events, said = data.interactions, data.reactions
    value = (said["rating"] - 1) / 4 if "rating" in said else pd.Series(np.nan, said.index)
    if "reaction" in said:
        value = value.fillna(said["reaction"].map(LIKING))
    pairs = said.assign(value=value.astype(float)).groupby(["user", "item"])["value"].mean()
    liked = events[["user", "item"]].join(pairs, on=["user", "item"])["value"]
    if "completion" in events:
        liked = liked.fillna(events["completion"])
    return liked.fillna(1.0).to_numpy(np.float32)


@dataclass(frozen=True)
class Activity:
    """Everybody's viewings in the order of time, to be read as of any moment.

    How much a viewing was liked is taken as known when it happens, though a rating may follow it.

    Attributes
    ----------
    key : int64 array of shape (n,)
        User, then rank of the time: sorted.
    instants : int64 array
        The distinct times, sorted, in microseconds.
    items : int32 array of shape (n,)
    values : float32 array of shape (n,)
        How much each viewing counts when it happens.
    n_items : int
    half_life : float or None
        Days after which a viewing counts half.
    """

    key: np.ndarray
    instants: np.ndarray
    items: np.ndarray
    values: np.ndarray
    n_items: int
    half_life: float | None

    @classmethod
    def of(cls, data: Dataset, half_life: float | None = None) -> Activity:
        """Sort the interactions of a data set; each counts as much as it was liked."""
        events = data.interactions
        instants, rank = np.unique(microseconds(events["timestamp"]), return_inverse=True)
        key = events["user"].to_numpy(np.int64) * (len(instants) + 1) + rank
        order = np.argsort(key, kind="stable")
        items = events["item"].to_numpy(np.int32)[order]
        return cls(key[order], instants, items, liking(data)[order], data.shape[1], half_life)

    def moments(self, requests: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Place requests among the instants: how many came before, and how faded the last is.

        Returns
        -------
        int64 array of shape (R,), float32 array of shape (R,)
            All of them, unfaded, for a request without a time.
        """
        at = instants(requests)
        rank = np.searchsorted(self.instants, at)
        if self.half_life is None or not len(self.instants):
            return rank, np.ones(len(at), np.float32)
        known = at < LATEST
        age = np.where(known & (rank > 0), at - self.instants[rank - 1], 0)
        return rank, _fading(age, self.half_life).astype(np.float32)

    def before(self, users: np.ndarray, rank: np.ndarray) -> sparse.csr_array:
        """What each of some users had watched in the first so many instants.

        Parameters
        ----------
        users, rank : int arrays of shape (n,)
            User codes, and numbers of instants; what happened later is unknown.

        Returns
        -------
        CSR array of shape (n, n_items), float32
            Faded with the age at the last of these instants. An item that was watched twice is
            there twice.
        """
        stride = len(self.instants) + 1
        first = np.searchsorted(self.key, users * stride)
        last = np.searchsorted(self.key, users * stride + rank)
        indptr = np.concatenate([[0], np.cumsum(last - first)])
        place = np.arange(indptr[-1]) + np.repeat(first - indptr[:-1], last - first)
        values = self.values[place]
        if self.half_life is not None and len(place):
            now = np.repeat(self.instants[rank - 1], last - first)
            age = now - self.instants[self.key[place] % stride]
            values = values * _fading(age, self.half_life).astype(np.float32)
        shape = (len(users), self.n_items)
        return sparse.csr_array((values, self.items[place], indptr), shape)


def _fading(age: np.ndarray, half_life: float) -> np.ndarray:
    """How much is left of a viewing after so many microseconds."""
    return np.exp2(-age / (half_life * MICROSECONDS))


def instants(requests: pd.DataFrame) -> np.ndarray:
    """When each request is made, int64 microseconds; one without a time is after all events."""
    if "at" not in requests:
        return np.full(len(requests), LATEST)
    at = requests["at"]
    known = isinstance(at.dtype, pd.DatetimeTZDtype)  # else text, or objects
    return microseconds(at if known else pd.to_datetime(at, utc=True))


@dataclass(frozen=True)
class Trend:
    """What people in general like, as of a moment.

    Attributes
    ----------
    steps : int64 array of shape (T,)
        Ends of the steps of time that anything happened in, sorted, in microseconds.
    liked : CSR array of shape (T, n_items), float32
        How much was liked in each.
    half_life : float or None
        Days after which a viewing counts half; None, if all viewings count alike.
    """

    steps: np.ndarray
    liked: sparse.csr_array
    half_life: float | None

    @classmethod
    def of(cls, activity: Activity) -> Trend:
        """Sum up by steps of an eighth of the half-life, or in one."""
        time = activity.instants[activity.key % (len(activity.instants) + 1)]
        width = round(MICROSECONDS * (activity.half_life or 0) / 8)  # whole, so that ends are exact
        step = time // width if width else np.zeros(len(time), np.int64)
        steps, row = np.unique(step, return_inverse=True)
        shape = (len(steps), activity.n_items)
        liked = sparse.csr_array((activity.values, (row, activity.items)), shape=shape)
        return cls((steps + 1) * width, liked, activity.half_life)

    def shares(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Share of each item in everybody's faded liking, by whole steps before each instant.

        Parameters
        ----------
        at : int64 array of shape (R,)
            Microseconds. Before the first step, all viewings count, for want of others.

        Returns
        -------
        float32 array of shape (C, n_items), int64 array of shape (R,)
            Rows sum to 1; and the row of each instant.
        """
        done, row = np.unique(np.searchsorted(self.steps, at, "right"), return_inverse=True)
        weight = np.ones((len(done), len(self.steps)), np.float32)
        if self.half_life is not None and len(self.steps):
            last = self.steps[np.maximum(done, 1) - 1][:, None]
            age = last - self.steps
            faded = np.where(age >= 0, _fading(age, self.half_life), 0)
            weight = np.where(done[:, None] > 0, faded, 1)
        total = (weight @ self.liked).astype(np.float32)
        return total / np.maximum(total.sum(axis=1, keepdims=True), 1e-12), row


@dataclass(frozen=True)
class FriendLift:
    """How much more somebody's friends liked an item than people in general.

    The log of ``(prior + liked) / (prior + expected)``: what the circle liked before the request,
    each friend by their trust, against the same amount of liking spread as everybody spreads it. It
    is the posterior mean of a multiplier with a gamma prior around 1 (Clayton and Kaldor 1987): few
    friends move little.

    Attributes
    ----------
    circles : Circles
    activity : Activity
    trend : Trend
    prior : float
        Viewings of prior.
    """

    circles: Circles
    activity: Activity
    trend: Trend
    prior: float

    @classmethod
    def of(cls, data: Dataset, trust: Trust, half_life: float | None, prior: float) -> FriendLift:
        """Learn from all events of a data set."""
        activity = Activity.of(data, half_life)
        return cls(trust.fit(data), activity, Trend.of(activity), prior)

    def liked(self, requests: pd.DataFrame) -> sparse.csr_array:
        """What the circle of each request's user liked before it.

        One sparse product for so many requests: friends x what each of them had watched then.

        Returns
        -------
        CSR array of shape (R, n_items), float32
            In viewings: a circle of ``n`` equally trusted friends counts ``n`` times their mean.
        """
        starts = range(0, max(1, len(requests)), REQUESTS_AT_ONCE)
        chunks = [self._liked(requests.iloc[s : s + REQUESTS_AT_ONCE]) for s in starts]
        return chunks[0] if len(chunks) == 1 else sparse.vstack(chunks, format="csr")

    def _liked(self, requests: pd.DataFrame) -> sparse.csr_array:
        circle = self.circles.of(requests["user"].to_numpy())
        moment, faded = self.activity.moments(requests)
        ranks, moment = np.unique(moment, return_inverse=True)
        row = np.repeat(np.arange(len(requests)), np.diff(circle.indptr))
        known, place = np.unique(
            circle.indices.astype(np.int64) * len(ranks) + moment[row], return_inverse=True
        )
        watched = self.activity.before(known // len(ranks), ranks[known % len(ranks)])
        shape = (len(requests), len(known))
        friends = sparse.csr_array((circle.data, place, circle.indptr), shape=shape)
        number = faded / np.maximum(friends.multiply(friends).sum(axis=1), 1e-12)
        return sparse.csr_array((friends @ watched).multiply(number[:, None]), dtype=np.float32)

    def __call__(self, slate: Slate) -> np.ndarray:
        """Log-lift of each slot, float32 of shape (R, K); 0 without friends."""
        there, total = self._of_slots(slate)
        shares, row = self.trend.shares(instants(slate.requests))
        expected = total[:, None] * cells(shares, row, slate.items)
        there += np.float32(self.prior)  # in place: arrays as large as the slate cost time
        expected += np.float32(self.prior)
        np.divide(there, expected, out=there)
        return np.log(there, out=there)

    def _of_slots(self, slate: Slate) -> tuple[np.ndarray, np.ndarray]:
        """What each circle liked of the slate's items, (R, K), and of all items, (R,)."""
        users, n_items, items = slate.users, self.activity.n_items, slate.items
        if self._is_dense(slate):
            rank, faded = self.activity.moments(slate.requests)
            if (rank == rank[0]).all():
                liked = self._by_everybody(users, rank[0], faded)
                return _chosen(liked, items), liked.sum(axis=1)
        there, total = np.empty(slate.shape, np.float32), np.empty(len(users), np.float32)
        for start in range(0, len(users), REQUESTS_AT_ONCE):
            part = slice(start, start + REQUESTS_AT_ONCE)
            liked = self._liked(slate.requests.iloc[part])
            total[part] = liked.sum(axis=1)
            some = items if items.ndim == 1 else items[part]
            if 4 * liked.nnz > liked.shape[0] * n_items:
                there[part] = _chosen(liked.toarray(), some)
            else:
                liked.sort_indices()  # so that each cell is found by halving, not by reading a row
                there[part] = cells(liked, np.arange(liked.shape[0]), some)
        return there, total

    def _is_dense(self, slate: Slate) -> bool:
        """Whether rows of all items for all people are less work than sparse ones, and fit."""
        n_users, n_items = self.circles.trust.shape[0], self.activity.n_items
        requests, slots = slate.shape
        busy = len(self.activity.key) >= DENSE * n_users * n_items and 0 < n_users <= 4 * requests
        return busy and requests * n_items <= max(CHUNK_CELLS, 2 * requests * slots)

    def _by_everybody(self, users: np.ndarray, rank: int, faded: np.ndarray) -> np.ndarray:
        """What each circle liked, if all are asked at one moment, float32 of shape (R, n_items).

        Friends' friends are reached by way of what each friend's friends liked together, which is
        the same for all who have this friend: a sum over friends, instead of over circles.
        """
        trust, distant, n_items = self.circles.trust, self.circles.distant, self.activity.n_items
        everybody = np.arange(trust.shape[0])
        watched = self.activity.before(everybody, np.full(len(everybody), rank)).tocsc()
        own = themselves(users, len(everybody))
        near = own @ trust
        far = near @ trust
        back = far.multiply(own).sum(axis=1)  # their friends' friend, but not their own
        circle = near + distant * (far - own.multiply(back[:, None]))
        # A circle counts as many viewings as it has people, by the sum of its squares.
        squares = circle.multiply(circle).sum(axis=1)
        scale = faded * circle.sum(axis=1) / np.maximum(squares, 1e-12)
        near = sparse.csr_array(near.multiply(scale[:, None]), dtype=np.float32)
        less = sparse.csr_array(own.multiply((-distant * scale * back)[:, None]), dtype=np.float32)
        found = np.empty((len(users), n_items), np.float32)
        width = max(1, CELLS_AT_ONCE // max(1, len(everybody)))
        for start in range(0, n_items, width):
            some = watched[:, start : start + width].toarray(order="C")
            reached = trust @ some
            reached *= np.float32(distant)
            reached += some
            np.maximum(near @ reached + less @ some, 0, out=found[:, start : start + width])
        return found


def _chosen(values: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Columns of a slate's items, shared or each request's own, from a row for each request."""
    if items.ndim == 2:
        return values[np.arange(len(values))[:, None], items]
    return values if np.array_equal(items, np.arange(values.shape[1])) else values[:, items]


def slate_proof(slate: Slate, data: Dataset) -> pd.DataFrame:
    """Say who among friends did what with the titles of a slate, and how much it counts.

    Parameters
    ----------
    slate : Slate
        With the part ``friends``, or without.
    data : Dataset
        Only what friends did before a request counts.

    Returns
    -------
    DataFrame
        A row for each slot with a title, request by request in the slate's order: ``request``,
        ``user``, ``item``; ``watched``, ``finished``, ``loved`` and ``friends`` as
        :func:`~firetv.proof.social_proof` has them, and ``counts``, the part ``friends``.
    """
    proof = FriendLog.of(data).about(slate.users, slate.grid, instants(slate.requests))
    request, slot = np.nonzero(slate.grid != EMPTY)
    friends = proof.friends()
    cells = (request * slate.shape[1] + slot).tolist()
    return pd.DataFrame(
        {
            "request": request,
            "user": slate.users[request],
            "item": slate.grid[request, slot],
            **{name: count[request, slot] for name, count in proof.counts().items()},
            "friends": pd.Series([friends.get(cell, ()) for cell in cells], dtype=object),
            "counts": slate.parts[PART][request, slot] if PART in slate.parts else np.float32(0),
        }
    )


# ------------------------------------------------------------------ stages


@dataclass(frozen=True)
class FriendBoost:
    """Re-ranking by what trusted friends liked: the part ``friends``.

    The log-lift of :class:`FriendLift` counts by a weight that is learned from the last fifth of
    the events, with one more weight for people with a short history, for whom friends stand in for
    what is not known. Both are zero unless they help there (see
    :func:`~firetv.scales.learn_scales`).

    Attributes
    ----------
    trust : Trust
        Who counts how much.
    half_life : float, optional
        Days after which a friend's viewing counts half; never by default.
    prior : float
        Viewings of prior of the lift, above 0.
    newness : float
        Items after which somebody counts as half as new.
    strength : float, optional
        Factor on the log-lift, for everybody alike; learned by default.
    seed : int
        Of the draws that the strength is learned from.
    """

    trust: Trust = field(default_factory=Trust)
    half_life: float | None = None
    prior: float = 0.5
    newness: float = 3.0
    strength: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        above = {"half_life": self.half_life, "prior": self.prior, "newness": self.newness}
        for name, value in above.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} {value} must be above 0")
        if self.strength is not None and not self.strength >= 0:
            raise ValueError(f"strength {self.strength} is below 0: friends would put people off")

    def fit(self, data: Dataset) -> Step:
        """Learn without a base: see :meth:`fit_after`."""
        return self.fit_after(chain(), data)

    def fit_after(self, upstream: Chain, data: Dataset) -> Step:
        """Learn friends' lifts from all events, and how much they count from the last fifth.

        Raises
        ------
        ValueError
            If no event of the last fifth can serve, and something is to be learned from them.
        """
        signals = FriendSignals(self.trust, self.half_life, self.prior, self.newness)
        if self.strength is None:
            learn = {"newcomers": True, "proven": True}
            scales = learn_scales(upstream, signals.fit, data, self.seed, **learn)
        else:
            scales = learn_scales(upstream, None, data, self.seed)
            scales = Scales(scales.upstream, {PART: self.strength})
        fitted = signals.fit(data)
        return FriendStep(fitted.lift, fitted.newness, scales)


@dataclass(frozen=True)
class FriendStep:
    """A fitted :class:`FriendBoost`.

    Attributes
    ----------
    lift : FriendLift
    newness : float32 array of shape (n_users + 1,)
        See :func:`newness`.
    scales : Scales
        ``own`` has the weight of ``friends``, for all, and of ``friends/new``, times newness.
    """

    lift: FriendLift
    newness: np.ndarray
    scales: Scales

    def __call__(self, slate: Slate) -> Slate:
        """Scale the parts that are there, and add the one of friends."""
        slate = replace(slate, parts=self.scales.rescale(slate))
        weight = self.weight(slate.users)
        if not weight.any():
            return slate.add(PART, np.zeros(slate.shape, np.float32))
        lift = self.lift(slate)
        return slate.add(PART, np.multiply(lift, weight[:, None], out=lift))

    def weight(self, users: np.ndarray) -> np.ndarray:
        """How much friends count for each user, float32 of shape (n,)."""
        own = self.scales.own
        return np.float32(own.get(PART, 0.0)) + np.float32(own.get(NEW, 0.0)) * self.newness[users]


@dataclass(frozen=True)
class FriendSignals:
    """Friends' lifts as features: the part ``friends``, and ``friends/new``, times newness.

    Attributes
    ----------
    trust, half_life, prior, newness
        See :class:`FriendBoost`.
    """

    trust: Trust = field(default_factory=Trust)
    half_life: float | None = None
    prior: float = 0.5
    newness: float = 3.0

    def fit(self, data: Dataset) -> Step:
        """Learn from all events."""
        lift = FriendLift.of(data, self.trust, self.half_life, self.prior)
        return FriendSignalsStep(lift, newness(data, self.newness))


@dataclass(frozen=True)
class FriendSignalsStep:
    """Fitted :class:`FriendSignals`."""

    lift: FriendLift
    newness: np.ndarray

    def __call__(self, slate: Slate) -> Slate:
        """Add both signals."""
        lift = self.lift(slate)
        return slate.add(PART, lift).add(NEW, self.newness[slate.users][:, None] * lift)


@dataclass(frozen=True)
class WithFriends:
    """A base model that takes friends in, in one of three ways.

    A person is mixed with their circle: themselves, plus ``weight * newness`` times the mean of
    their friends, and of these friends', by trust. Who has a long history is hardly changed.

    Attributes
    ----------
    model : Stage
        Such as EASE, ALS or LightFM.
    use : {"scores", "training", "features"}
        ``scores``: the model is fitted as ever, and the scores of the circle are mixed in.
        ``training``: the model is fitted on mixed histories, ``R + beta S R`` (as social
        regularisation does with factors; Ma et al. 2011). ``features``: each friend is a feature
        of the user, as LightFM takes them.
    weight : float
        Of the circle; 0 leaves the model as it is.
    newness : float
        Items after which somebody counts as half as new.
    trust : Trust
    seed : int
        Becomes the model's.
    """

    model: Stage
    use: Literal["scores", "training", "features"] = "scores"
    weight: float = 1.0
    newness: float = 3.0
    trust: Trust = field(default_factory=Trust)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.use not in ("scores", "training", "features"):
            raise ValueError(f"use {self.use!r}: choose scores, training or features")
        if not (self.weight >= 0 and self.newness > 0):
            raise ValueError(
                f"weight {self.weight} is below 0, or newness {self.newness} not above it"
            )

    def fit(self, data: Dataset) -> Step:
        """Fit the model.

        Raises
        ------
        ValueError
            If the model cannot be used in this way.
        """
        model = with_seed(self.model, self.seed)
        if self.use == "features":
            if not hasattr(model, "use_friends"):
                raise ValueError(f"{model} takes no features of users: use LightFM")
            return replace(model, use_friends=True).fit(data)
        mixture = Mixture(self.trust.fit(data), self.weight * newness(data, self.newness))
        if self.use == "training":
            everybody = mixture.of(np.arange(data.shape[0]))
            return model.fit(replace(data, weights=compact(everybody @ data.matrix())))
        step = model.fit(data)
        if not hasattr(step, "mix"):
            raise ValueError(f"{model} has no tastes to mix: use EASE, ItemKNN, ALS or LightFM")
        return MixtureStep(step, mixture)


@dataclass(frozen=True)
class Mixture:
    """People mixed with their circles.

    Attributes
    ----------
    circles : Circles
    weight : float32 array of shape (n_users + 1,)
        Of the circle of each user; the last is for strangers, who have none.
    """

    circles: Circles
    weight: np.ndarray

    def of(self, users: np.ndarray) -> sparse.csr_array:
        """Weights of everybody in the mixtures of some users, CSR float32 of (n, n_users)."""
        circle = self.circles.of(users)
        own = themselves(users, circle.shape[1])
        mixed = sparse.csr_array(own + circle.multiply(self.weight[users][:, None]))
        mixed.eliminate_zeros()
        return compact(mixed)


@dataclass(frozen=True)
class MixtureStep:
    """A fitted model, asked for the mixtures of the slate's users alone."""

    model: Step
    mixture: Mixture

    def __call__(self, slate: Slate) -> Slate:
        """Score every slot of the slate."""
        users, row = np.unique(slate.users, return_inverse=True)
        mixed = self.model.mix(self.mixture.of(users))
        asked = slate.requests.assign(user=row.astype(np.int32))
        return replace(mixed(replace(slate, requests=asked)), requests=slate.requests)
