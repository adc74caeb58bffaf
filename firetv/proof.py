"""Social proof: who among somebody's friends watched, finished or loved what.

A friend whose sharing is off does not exist here: everything that tells people about each other
starts from :func:`friend_events`, or asks :func:`sharing` itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from firetv.data import KEYS, Dataset

LATEST = np.iinfo(np.int64).max  # when a request without a time is made
FINISHED = 0.9  # completion from which a title was watched to its end: the rest is credits
LOVED = 4.5  # stars from which a rating says love


def sharing(data: Dataset) -> np.ndarray:
    """Whether what each user watches may be told to others, bool of shape (n_users,).

    Everybody shares where the users table has no column ``sharing``. Where it has one, only those
    who said ``on`` do: an empty cell, or somebody without a profile, is nobody's consent.
    """
    if "sharing" not in data.users:
        return np.ones(data.shape[0], bool)
    return data.users["sharing"].eq("on").fillna(False).to_numpy(bool)


def friend_events(
    data: Dataset,
    users: np.ndarray,
    since: pd.Timestamp | None = None,
    until: pd.Timestamp | None = None,
) -> pd.DataFrame:
    """List what the friends of some users did with which titles.

    A friend is somebody the user's ties lead to, with a positive strength, who shares. A love of a
    title without a viewing of it, as where somebody rates what they saw elsewhere, is a viewing.

    Parameters
    ----------
    data : Dataset
        ``friends`` may be missing, and so may ``completion``, ``rating`` and ``reaction``.
    users : int array of shape (n,)
        User codes; -1 is a stranger, without friends.
    since, until : Timestamp with a time zone, optional
        Only what happened from `since` on, and before `until`.

    Returns
    -------
    DataFrame
        A row for each position in `users`, friend and title, in that order: ``request`` (the
        position), ``user``, ``friend`` and ``item`` (codes), ``timestamp`` of the last event,
        ``finished`` and ``loved`` (bool).
    """
    ties = _ties(data, np.asarray(users, np.int64))
    involved = np.zeros(data.shape[0], bool)
    involved[ties["friend"]] = True
    logs = (data.interactions, data.reactions)
    events = _by_title(*(_within(log[involved[log["user"]]], since, until) for log in logs))
    found = ties.merge(events, on="friend")
    return found.sort_values(["request", "friend", "item"], ignore_index=True)


@dataclass(frozen=True)
class FriendLog:
    """What everybody did with which titles, laid out to be asked for a few titles at a time.

    It says the same as :func:`friend_events`, without reading the whole log for each request.

    Attributes
    ----------
    friends : CSR array of shape (n_users, n_users)
        Ties of a positive strength to people who share.
    first : int64 array of shape (n_users + 1,)
        Where each user's events begin.
    items : int32 array of shape (n,)
        By user.
    times : int64 array of shape (n,)
        Microseconds.
    finished, loved : bool arrays of shape (n,)
    """

    friends: sparse.csr_array
    first: np.ndarray
    items: np.ndarray
    times: np.ndarray
    finished: np.ndarray
    loved: np.ndarray

    @classmethod
    def of(cls, data: Dataset) -> FriendLog:
        """Lay out the events of a data set."""
        ties = _ties(data, np.arange(data.shape[0]))
        place = (ties["request"].to_numpy(), ties["friend"].to_numpy())
        shape = (data.shape[0],) * 2
        friends = sparse.csr_array((np.ones(len(ties), np.float32), place), shape=shape)
        events = _events(data.interactions, data.reactions)
        events = events.sort_values("user", kind="stable")
        count = np.bincount(events["user"], minlength=data.shape[0])
        return cls(
            friends,
            np.concatenate([[0], np.cumsum(count)]),
            events["item"].to_numpy(np.int32),
            microseconds(events["timestamp"]),
            events["finished"].to_numpy(bool),
            events["loved"].to_numpy(bool),
        )

    def about(self, users: np.ndarray, items: np.ndarray, at: np.ndarray) -> Proof:
        """What the friends of some users did with some titles before some moments.

        Parameters
        ----------
        users : int array of shape (R,)
            User codes; -1 is a stranger, without friends.
        items : int array of shape (R, k)
            Titles asked about, each once in a row; below 0 there is none.
        at : int64 array of shape (R,)
            Microseconds.
        """
        known = np.flatnonzero(users >= 0)
        circle = self.friends[users[known]]
        request = np.repeat(known, np.diff(circle.indptr))
        start = self.first[circle.indices]
        length = self.first[circle.indices + 1] - start
        ends = np.cumsum(length)
        tie = np.repeat(np.arange(len(length)), length)
        event = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - length - start, length)
        row = request[tie]
        slot = _slots_of(items, row, self.items[event])
        kept = (slot >= 0) & (self.times[event] < at[row])
        row, slot, event, friend = row[kept], slot[kept], event[kept], circle.indices[tie[kept]]
        n_users, k = len(self.first) - 1, items.shape[1]
        key = (row * k + slot) * n_users + friend
        pairs, place = np.unique(key, return_inverse=True)
        finished, loved = (
            np.bincount(place, flag[event], len(pairs)) > 0 for flag in (self.finished, self.loved)
        )
        return Proof(items.shape, pairs // n_users, pairs % n_users, finished, loved)


def microseconds(times: pd.Series) -> np.ndarray:
    """Instants as int64; a missing one is after all others."""
    instants = times.dt.tz_convert(None).to_numpy("datetime64[us]")
    return np.where(np.isnat(instants), LATEST, instants.astype(np.int64))


def _slots_of(items: np.ndarray, row: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted item is in its row of items, -1 where it is not."""
    width = items.max(initial=-1) + 2
    keys = (items + 1 + np.arange(len(items))[:, None] * width).ravel()
    order = np.argsort(keys, kind="stable")
    asked = np.where(wanted + 1 < width, wanted + 1, 0) + row * width
    place = np.searchsorted(keys[order], asked).clip(max=max(len(keys) - 1, 0))
    found = (keys[order][place] == asked) & (asked % width > 0) if len(keys) else asked < 0
    return np.where(found, order[place] % max(items.shape[1], 1) if len(keys) else 0, -1)


@dataclass(frozen=True)
class Proof:
    """Who among friends did what with the titles of a slate: a row for each slot and friend.

    Attributes
    ----------
    shape : tuple of int
        Of the slate, (R, k).
    cell : int64 array of shape (n,)
        Request and slot, ``request * k + slot``, in that order.
    friend : int64 array of shape (n,)
        User codes, in that order within a cell.
    finished, loved : bool arrays of shape (n,)
    """

    shape: tuple[int, int]
    cell: np.ndarray
    friend: np.ndarray
    finished: np.ndarray
    loved: np.ndarray

    def counts(self) -> dict[str, np.ndarray]:
        """Numbers of friends who ``watched``, ``finished`` and ``loved``, int64 of (R, k)."""
        size = self.shape[0] * self.shape[1]
        flags = {"watched": np.ones(len(self.cell)), "finished": self.finished, "loved": self.loved}
        return {
            name: np.bincount(self.cell, flag, size).astype(np.int64).reshape(self.shape)
            for name, flag in flags.items()
        }

    def friends(self) -> dict[int, tuple[int, ...]]:
        """Codes of the friends of each cell that has any, in the order of :func:`social_proof`."""
        strongest = np.where(self.loved, 0, np.where(self.finished, 1, 2))
        order = np.lexsort((self.friend, strongest, self.cell))
        cells, first = np.unique(self.cell[order], return_index=True)
        each = np.split(self.friend[order], first[1:])
        return {c: tuple(f.tolist()) for c, f in zip(cells.tolist(), each, strict=False)}


def _ties(data: Dataset, users: np.ndarray) -> pd.DataFrame:
    """Pairs of a request and a friend who shares."""
    none = sparse.csr_array((data.shape[0],) * 2, dtype=np.float32)
    friends = none if data.friends is None else data.friends
    known = np.flatnonzero(users >= 0)
    rows = friends[users[known]]
    request = np.repeat(known, np.diff(rows.indptr))
    frame = pd.DataFrame(
        {
            "request": request,
            "user": users[request].astype(np.int32),
            "friend": rows.indices.astype(np.int32),
        }
    )
    return frame[(rows.data > 0) & sharing(data)[rows.indices]]


def _within(
    events: pd.DataFrame, since: pd.Timestamp | None, until: pd.Timestamp | None
) -> pd.DataFrame:
    """Events from an instant on, and before another."""
    events = events if since is None else events[events["timestamp"] >= since]
    return events if until is None else events[events["timestamp"] < until]


def _by_title(views: pd.DataFrame, said: pd.DataFrame) -> pd.DataFrame:
    """What each viewer did with each title, one row per pair."""
    last = {"timestamp": "max", "finished": "max", "loved": "max"}
    pairs = _events(views, said).groupby(["user", "item"], as_index=False).agg(last)
    return pairs.rename(columns={"user": "friend"})


def _events(views: pd.DataFrame, said: pd.DataFrame) -> pd.DataFrame:
    """Viewings, and loves as viewings: ``user, item, timestamp, finished, loved``."""
    finished = views["completion"] >= FINISHED if "completion" in views else False
    loves = said.loc[_loving(said), [*KEYS]]
    both = pd.concat(
        [
            views[[*KEYS]].assign(finished=finished, loved=False),
            loves.assign(finished=False, loved=True),
        ]
    )
    return both.astype({"finished": bool, "loved": bool})


def _loving(reactions: pd.DataFrame) -> np.ndarray:
    """Whether each reaction says love, by its word or by its stars."""
    loving = np.zeros(len(reactions), bool)
    if "reaction" in reactions:
        loving |= reactions["reaction"].eq("love").fillna(False).to_numpy(bool)
    if "rating" in reactions:
        loving |= (reactions["rating"].astype(float) >= LOVED).to_numpy()
    return loving


def social_proof(events: pd.DataFrame) -> pd.DataFrame:
    """Sum up the events of friends by title.

    Parameters
    ----------
    events : DataFrame
        As :func:`friend_events` returns them.

    Returns
    -------
    DataFrame
        A row for each request and title, in that order: ``request``, ``user``, ``item``; the
        numbers of friends who ``watched``, ``finished`` and ``loved`` it; ``last``, the latest
        timestamp; and ``friends``, a tuple of their codes. Those who loved it come first, then
        those who finished it, then the others, each by code: so the first ``loved`` are they who
        loved it, and where nobody did, the first ``finished`` they who finished it.
    """
    keys = ["request", "user", "item"]
    order = np.where(events["loved"], 0, np.where(events["finished"], 1, 2))
    ordered = events.assign(order=order).sort_values([*keys, "order", "friend"])
    proof = ordered.groupby(keys, as_index=False).agg(
        watched=("friend", "size"),
        finished=("finished", "sum"),
        loved=("loved", "sum"),
        last=("timestamp", "max"),
    )
    ends, codes = np.cumsum(proof["watched"]), ordered["friend"].tolist()
    friends = [tuple(codes[end - n : end]) for end, n in zip(ends, proof["watched"], strict=True)]
    return proof.assign(friends=pd.Series(friends, proof.index, dtype=object))
