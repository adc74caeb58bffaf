"""Splits of the data: what may be learned from, and what must be found.

Every function here gives a :class:`Split`, or one per fold. Claims rest on :func:`temporal_split`,
which has no view of the future. The others get more questions out of little data, rebuild a
published protocol, or ask what becomes of strangers, of new items and of users with a short
history.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import sparse

from firetv.choices import answerable, user_folds
from firetv.data import KEYS, Dataset

OUTCOMES = ("completion", "rating", "reaction")  # columns of an event that no request knows


@dataclass(frozen=True)
class Split:
    """What may be learned from, and what must be found.

    Attributes
    ----------
    name : str
    train : Dataset
    requests : DataFrame of R rows
        One per user with something to find: ``user``, ``at`` (UTC) and ``known`` (whether the
        user has training events).
    relevant : CSR array of shape (R, n_items)
        What each request should find; pairs already seen in training are not among it. Items
        outside the candidates stay in: a title that cannot be found counts as missed.
    candidates : int array
        Item codes that may be recommended, the same for every request.
    """

    name: str
    train: Dataset
    requests: pd.DataFrame
    relevant: sparse.csr_array
    candidates: np.ndarray

    @property
    def n_relevant(self) -> np.ndarray:
        """Number of items each request should find, shape (R,)."""
        return np.diff(self.relevant.indptr)


def _split(
    name: str,
    train: Dataset,
    test: pd.DataFrame,
    candidates: np.ndarray | None = None,
    at: pd.Timestamp | None = None,
) -> Split:
    """Assemble a split from its training data and its held-out interactions.

    Raises ValueError if nothing is left to learn from or to find.
    """
    pairs = test[["user", "item"]].to_numpy().T
    held_out = sparse.csr_array((np.ones(len(test)), tuple(pairs)), shape=train.shape)
    fresh = held_out > held_out.multiply(train.matrix())
    relevant = sparse.csr_array(fresh, dtype=np.float32)
    users = np.flatnonzero(np.diff(relevant.indptr))
    first = test.groupby("user")["timestamp"].min().reindex(users)
    requests = pd.DataFrame(
        {
            "user": users.astype(np.int32),
            "at": first.to_numpy() if at is None else at,
            "known": train.user_counts[users] > 0,
        }
    )
    if candidates is None:
        candidates = np.flatnonzero(train.item_counts)
    return _usable(Split(name, train, requests, relevant[users], candidates))


def _usable(split: Split) -> Split:
    """Return the split, or raise ValueError if nothing is left to learn from or to find."""
    events, requests, candidates = map(
        len, (split.train.interactions, split.requests, split.candidates)
    )
    if not (events and requests and candidates):
        raise ValueError(
            f"the {split.name} split leaves {events} training events, {requests} requests and "
            f"{candidates} candidates: use another split, or more data"
        )
    return split


def temporal_split(data: Dataset, test_share: float = 0.2) -> Split:
    """Train on everything before one instant, test on everything after it.

    The only split here without a view of the future, hence the rule for claims. The instant is
    that quantile of the interactions' timestamps; every request is made at it.
    """
    cut = data.interactions["timestamp"].quantile(1 - test_share)
    test = data.interactions[data.interactions["timestamp"] >= cut]
    return _split("temporal", data.until(cut), test, at=cut)


def _masked(name: str, data: Dataset, held_out: np.ndarray, **options: np.ndarray) -> Split:
    return _split(name, data.keep(~held_out), data.interactions[held_out], **options)


def _share_of_each_user(users: np.ndarray, order: np.ndarray, train_share: float) -> np.ndarray:
    """Mark what is left after the first ``round(train_share * count)`` events of each user.

    ``order`` sorts the events; a user's count rounds half to even, as numpy does.
    """
    frame = pd.DataFrame({"user": users[order]})
    group = frame.groupby("user")["user"]
    late = group.cumcount() >= np.round(train_share * group.transform("size"))
    held_out = np.empty(len(users), bool)
    held_out[order] = late.to_numpy()
    return held_out


def random_split(data: Dataset, seed: int, test_share: float = 0.25) -> Split:
    """Hold out a random share of each user's events. It leaks the future: not for claims."""
    users = data.interactions["user"].to_numpy()
    order = np.lexsort((np.random.default_rng(seed).random(len(users)), users))
    held_out = _share_of_each_user(users, order, 1 - test_share)
    return _masked("random", data, held_out)


def published_split(data: Dataset) -> Split:
    """Rebuild the split of the Recommenders project's MovieLens benchmark.

    Sort by user and by ``numpy.random.seed(42); numpy.random.rand(n)`` drawn in file order; the
    first ``round(0.75 * count)`` ratings of each user train, the rest test.
    """
    users = data.interactions["user"].to_numpy()
    draw = np.random.RandomState(42).rand(len(users))  # the published stream, hence not Generator
    held_out = _share_of_each_user(users, np.lexsort((draw, users)), 0.75)
    return _masked("published", data, held_out)


def leave_last_out(data: Dataset) -> Split:
    """Hold out each user's last event; users with a single event keep it."""
    events = data.interactions
    order = np.lexsort((events["timestamp"].to_numpy(), events["user"].to_numpy()))
    users = events["user"].to_numpy()[order]
    last = np.append(users[1:] != users[:-1], True) & np.append(False, users[1:] == users[:-1])
    held_out = np.zeros(len(events), bool)
    held_out[order] = last
    return _masked("leave-last-out", data, held_out)


def user_kfold(
    data: Dataset, seed: int, folds: int = 5, test_share: float = 0.25
) -> Iterator[Split]:
    """Yield one split per fold of users: a share of those users' events is held out.

    Everybody else's events train in full, as in LensKit's user-based cross-validation.
    """
    users = data.interactions["user"].to_numpy()
    rng = np.random.default_rng(seed)
    fold = rng.permutation(data.shape[0]) % folds
    order = np.lexsort((rng.random(len(users)), users))
    late = _share_of_each_user(users, order, 1 - test_share)
    for number in range(folds):
        yield _masked(f"user-fold-{number}", data, late & (fold[users] == number))


def each_event(name: str, train: Dataset, events: pd.DataFrame, *, missed: bool = False) -> Split:
    """Ask for every held-out event on its own, in its own context.

    Parameters
    ----------
    name : str
    train : Dataset
    events : DataFrame
        Held-out rows of the interactions, with whatever context was observed.
    missed : bool
        Whether to ask, in vain, for items that no model can find either, being unknown to training
        or seen there by the user.

    Returns
    -------
    Split
        A request for each event: ``user``, ``at``, ``known`` and the columns of `events`, but for
        what came of them. Where `missed`, an item that the user has seen is relevant. Intervals
        over users still treat a user's requests as one witness.
    """
    events = events if missed else answerable(events, train)
    user, item = events["user"].to_numpy(), events["item"].to_numpy()
    requests = events.drop(columns=["item", *OUTCOMES], errors="ignore")
    requests = requests.rename(columns={"timestamp": "at"})
    requests = requests.assign(known=train.user_counts[user] > 0).reset_index(drop=True)
    place = (np.arange(len(events)), item)
    shape = (len(events), train.shape[1])
    relevant = sparse.csr_array((np.ones(len(events), np.float32), place), shape=shape)
    return Split(name, train, requests, relevant, np.flatnonzero(train.item_counts))


def event_folds(
    data: Dataset, seed: int, folds: int = 5, least_rating: float = 0, *, missed: bool = False
) -> Iterator[Split]:
    """Yield one split per fold of events, every user's events dealt evenly to the folds.

    Parameters
    ----------
    data : Dataset
    seed : int
    folds : int
    least_rating : float
        Where above 0, only held-out events that were rated then, and not worse, are asked for.
    missed : bool
        See :func:`each_event`.
    """
    fold = user_folds(data.interactions["user"].to_numpy(), folds, np.random.default_rng(seed))
    liked = np.ones(len(fold), bool)
    if least_rating:
        good = data.reactions[data.reactions["rating"] >= least_rating]
        key = pd.MultiIndex.from_frame(data.interactions[list(KEYS)])
        liked = key.isin(pd.MultiIndex.from_frame(good[list(KEYS)]))
    for number in range(folds):
        held_out = data.interactions[(fold == number) & liked]
        train = data.keep(fold != number)
        yield each_event(f"event-fold-{number}", train, held_out, missed=missed)


def cold_users(data: Dataset, seed: int, share: float = 0.2) -> Split:
    """Hold out all events of a random share of users: only their profile is known."""
    rng = np.random.default_rng(seed)
    return _cold("user", data, rng.permutation(data.shape[0]) < share * data.shape[0])


def cold_items(data: Dataset, seed: int, share: float = 0.2) -> Split:
    """Hold out all events of a random share of items; only these are candidates."""
    rng = np.random.default_rng(seed)
    cold = rng.permutation(data.shape[1]) < share * data.shape[1]
    return _cold("item", data, cold, candidates=np.flatnonzero(cold))


def _cold(side: str, data: Dataset, cold: np.ndarray, **options: np.ndarray) -> Split:
    """Hide every trace of the marked users or items, reactions without a viewing included."""
    quiet = replace(data, reactions=data.reactions[~cold[data.reactions[side]]])
    return _masked(f"cold-{side}s", quiet, cold[data.interactions[side]], **options)


def short_histories(split: Split, kept: int, seed: int, folds: int = 10) -> Iterator[Split]:
    """Yield one split per fold of users, whose histories are cut to ``kept`` items.

    What a user gets who has almost no history, while everybody else keeps theirs.

    Parameters
    ----------
    split : Split
        Its users with a request are dealt to the folds at random, evenly.
    kept : int
        Items left of each of a fold's users, with all their events; users with fewer keep all.
    seed : int
        Of folds and items. The folds are the same for every ``kept``, and so is the order in which
        items are drawn: what is kept with 1 is kept with 3.
    folds : int

    Returns
    -------
    iterator of Split
        Each asks for its fold's users, with ``at`` and ``relevant`` as in `split`. Reactions to
        what is hidden are hidden too, and so are the fold's reactions without a viewing.

    Raises
    ------
    ValueError
        If ``kept`` is negative, if there are fewer than 2 folds or fewer users than folds, or if
        a fold leaves nothing to learn from.

    Notes
    -----
    Hidden training items are not asked for, but stay among the candidates and count as misses, for
    every model alike. A full history rules them out, so its lists have less to get wrong.
    """
    users = split.requests["user"].unique()
    if kept < 0:
        raise ValueError(f"cannot keep {kept} items: keep 0 or more")
    if not 2 <= folds <= len(users):
        raise ValueError(
            f"cannot deal {len(users)} users with requests to {folds} folds: "
            "use at least 2 folds, and at most one per user"
        )
    rng = np.random.default_rng(seed)
    fold = np.full(split.train.shape[0], -1)
    fold[np.sort(users)] = rng.permutation(len(users)) % folds
    return (
        _cut(f"short-{kept}-fold-{number}", split, fold == number, kept, rng)
        for number in range(folds)
    )


def _cut(name: str, split: Split, short: np.ndarray, kept: int, rng: np.random.Generator) -> Split:
    """Shorten the histories of the marked users, of whom alone the split then asks."""
    train = split.train.shorten(np.where(short, kept, np.inf), rng)
    rows = np.flatnonzero(short[split.requests["user"]])
    requests = split.requests.iloc[rows].reset_index(drop=True)
    requests = requests.assign(known=train.user_counts[requests["user"]] > 0)
    candidates = np.flatnonzero(train.item_counts)
    return _usable(Split(name, train, requests, split.relevant[rows], candidates))
