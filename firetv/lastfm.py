"""HetRec 2011 Last.fm: how often people listened to artists, and who is friends with whom.

Music, not films: it is here because its friendships were observed. :mod:`firetv.sources` fetches
the files; the functions ``read_*`` and :func:`to_tables` turn them into tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from firetv.data import Tables
from firetv.published import LICENCE, checksum, dealt_hours, marks, named, people, ties, titles

_COPY = (
    "https://raw.githubusercontent.com/terrytmp/Recommender"
    "/b7783c9e5b6b52b757e9b46db345f48fbdfb08c1/data"
)
PLAYS_URL, FRIENDS_URL = f"{_COPY}/user_artists.dat", f"{_COPY}/user_friends.dat"
ADDED = 1  # the user whom this copy has and the original has not


def read_plays(path: Path) -> pd.DataFrame:
    """Read the listening as published: ``userID, artistID, weight``, the number of plays."""
    return pd.read_csv(path, sep="\t")


def read_friends(path: Path) -> pd.DataFrame:
    """Read the friendships as published: ``userID, friendID``, each in both directions."""
    return pd.read_csv(path, sep="\t")


def to_tables(plays: pd.DataFrame, friends: pd.DataFrame, seed: int = 0) -> Tables:
    """Turn Last.fm into tables: an event for each listener and artist, in the file's order.

    The files have no times, and nothing in their order stands for one: see
    :func:`~firetv.published.dealt_hours`. User 1 is left out, with the friendships that name them:
    they were added to this copy.

    Parameters
    ----------
    plays, friends : DataFrame
        See :func:`read_plays` and :func:`read_friends`.
    seed : int
        Seed of the times.

    Returns
    -------
    Tables
        ``watch_history``, ``users`` (all who listen or have a friend), ``content`` and
        ``user_connections``.
    """
    heard = plays[plays["userID"] != ADDED].reset_index(drop=True)
    mutual = friends[friends.ne(ADDED).all(axis=1)].reset_index(drop=True)
    history = {
        "user_id": named("user", heard["userID"]),
        "content_id": named("content", heard["artistID"]),
        "timestamp": dealt_hours(len(heard), seed),
        "plays": heard["weight"].astype("Int64"),
    }
    return Tables(
        watch_history=pd.DataFrame(history),
        users=people(heard["userID"], mutual["userID"], mutual["friendID"]),
        content=titles("Artist ", heard["artistID"], "artist"),
        user_connections=ties(mutual["userID"], mutual["friendID"]),
        manifest=MANIFEST | {"checksum": checksum(plays, friends), "seed": seed},
    )


MANIFEST: Mapping[str, Any] = {
    "name": "lastfm",
    "source": f"{PLAYS_URL}, {FRIENDS_URL}",
    "licence": f"Non-commercial use only, says the original. {LICENCE}",
    "citation": "Iván Cantador, Peter Brusilovsky and Tsvi Kuflik (2011). 2nd Workshop on "
    "Information Heterogeneity and Fusion in Recommender Systems (HetRec 2011). Proceedings of the "
    "5th ACM Conference on Recommender Systems (RecSys 2011). Data: Last.fm, http://www.lastfm.com",
    "columns": {
        "watch_history": marks(observed="user_id content_id plays", simulated="timestamp"),
        "users": marks(observed="user_id"),
        "content": marks(observed="content_id", derived="title content_type"),
        "user_connections": marks(observed="user_id friend_id"),
    },
    "notes": "Music, not films: it is here because its friendships were observed. Timestamps are "
    "hours dealt at random: neither order nor hour mean anything, and the last fifth of the events "
    "is a random fifth. An event is a listener and one of their 50 most played artists, plays is "
    "how often. User 1 of this copy is not in the original and was left out. Two rows remain that "
    "the original has not (its README counts 92834): user2 and user515 have 51 artists each. "
    "Artists are numbers, without names.",
}
