"""Social proof: who among somebody's friends watched, finished or loved what, also in words.

A friend whose sharing is off does not exist here: everything that tells people about each other
starts from :func:`friend_events`, or asks :func:`sharing` itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from firetv.data import KEYS, Dataset

FINISHED = 0.9  # completion from which a title was watched to its end: the rest is credits
LOVED = 4.5  # stars from which a rating says love
NOUNS = {  # by content type; anything else is a title
    "movie": "movie",
    "series": "series",
    "news": "news programme",
    "sport": "sports programme",
    "kids": "children's programme",
}


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
    finished = views["completion"] >= FINISHED if "completion" in views else False
    loves = said.loc[_loving(said), [*KEYS]]
    both = pd.concat(
        [
            views[[*KEYS]].assign(finished=finished, loved=False),
            loves.assign(finished=False, loved=True),
        ]
    ).astype({"finished": bool, "loved": bool})
    last = {"timestamp": "max", "finished": "max", "loved": "max"}
    pairs = both.groupby(["user", "item"], as_index=False).agg(last)
    return pairs.rename(columns={"user": "friend"})


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


def sentence(
    watched: int,
    finished: int,
    loved: int,
    names: Sequence[str],
    content_type: str | None = None,
    names_from: int = 2,
    names_upto: int = 3,
) -> str:
    """Say the strongest thing that any friend did with a title, of exactly those who did it.

    Parameters
    ----------
    watched, finished, loved : int
        Numbers of friends.
    names : sequence of str
        Of all of them, in the order of :func:`social_proof`.
    content_type : str, optional
    names_from, names_upto : int
        Friends are named where they are not fewer, and not more, than these.

    Examples
    --------
    >>> sentence(3, 2, 2, ["Ana", "Ben", "Cara"], "movie")
    'Ana and Ben loved this movie'
    >>> sentence(3, 1, 0, ["Ana", "Ben", "Cara"], "series")
    'A friend finished this series'
    """
    did = {"loved": loved, "finished": finished, "watched": watched}
    verb = next(verb for verb, number in did.items() if number)
    number, noun = did[verb], NOUNS.get(str(content_type).casefold(), "title")
    if names_from <= number <= names_upto:
        *others, last = names[:number]
        who = f"{', '.join(others)} and {last}" if others else last
    else:
        who = "A friend" if number == 1 else f"{number} friends"
    return f"{who} {verb} this {noun}"
