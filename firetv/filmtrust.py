"""FilmTrust: films rated by people who state whose taste they trust.

:mod:`firetv.sources` fetches the files; the functions ``read_*`` and :func:`to_tables` turn them
into tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from firetv.data import Tables
from firetv.published import LICENCE, checksum, dealt_hours, marks, named, people, ties, titles

_COPY = (
    "https://raw.githubusercontent.com/SidLuo/Dual-Trust-Recommender-System"
    "/6a0e86170673b0494e2b25e6a5dee3a50ea9db23/filmtrust"
)
RATINGS_URL, TRUST_URL = f"{_COPY}/ratings.txt", f"{_COPY}/trust.txt"
LOWEST, HIGHEST = 0.5, 4.0  # of the ratings as published


def read_ratings(path: Path) -> pd.DataFrame:
    """Read the ratings as published: ``user, item, rating``, 0.5..4 in steps of 0.5."""
    return pd.read_csv(path, sep=" ", names=["user", "item", "rating"])


def read_trust(path: Path) -> pd.DataFrame:
    """Read the statements of trust as published: ``trustor, trustee, trust``, which is always 1."""
    return pd.read_csv(path, sep=" ", names=["trustor", "trustee", "trust"])


def to_tables(ratings: pd.DataFrame, trust: pd.DataFrame, seed: int = 0) -> Tables:
    """Turn FilmTrust into tables: a viewing and its rating for each row, in the file's order.

    The files have no times, and nothing in their order stands for one: see
    :func:`~firetv.published.dealt_hours`. Ratings are stretched to 1..5. A few pairs of user and
    film are there twice, and stay.

    Parameters
    ----------
    ratings, trust : DataFrame
        See :func:`read_ratings` and :func:`read_trust`.
    seed : int
        Seed of the times.

    Returns
    -------
    Tables
        ``watch_history``, ``content_reactions``, ``users`` (all who rated, trust or are trusted),
        ``content`` and ``user_connections``: one way, ``user_id`` trusts ``friend_id``.
    """
    events = pd.DataFrame(
        {
            "user_id": named("user", ratings["user"]),
            "content_id": named("content", ratings["item"]),
            "timestamp": dealt_hours(len(ratings), seed),
        }
    )
    stretched = 1 + (ratings["rating"] - LOWEST) / (HIGHEST - LOWEST) * 4
    return Tables(
        watch_history=events,
        content_reactions=events.assign(rating=stretched),
        users=people(ratings["user"], trust["trustor"], trust["trustee"]),
        content=titles("Film ", ratings["item"], "movie"),
        user_connections=ties(trust["trustor"], trust["trustee"]),
        manifest=MANIFEST | {"checksum": checksum(ratings, trust), "seed": seed},
    )


MANIFEST: Mapping[str, Any] = {
    "name": "filmtrust",
    "source": f"{RATINGS_URL}, {TRUST_URL}",
    "licence": LICENCE,
    "citation": "Guibing Guo, Jie Zhang and Neil Yorke-Smith (2013). A Novel Bayesian Similarity "
    "Measure for Recommender Systems. International Joint Conference on Artificial Intelligence "
    "(IJCAI).",
    "columns": {
        "watch_history": marks(observed="user_id content_id", simulated="timestamp"),
        "content_reactions": marks(
            observed="user_id content_id", derived="rating", simulated="timestamp"
        ),
        "users": marks(observed="user_id"),
        "content": marks(observed="content_id", derived="title content_type"),
        "user_connections": marks(observed="user_id friend_id"),
    },
    "notes": "Timestamps are hours dealt at random: neither order nor hour mean anything, and the "
    "last fifth of the events is a random fifth. Ratings of 0.5..4 were rescaled linearly to 1..5. "
    "A connection is a statement of trust and goes one way: user_id trusts friend_id. Some users "
    "have connections and no ratings. Films are numbers, without names.",
}
