"""LDOS-CoMoDa: films rated together with the observed situation in which they were watched.

:mod:`firetv.sources` fetches the file; :func:`read` and :func:`to_tables` turn it into tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from firetv.data import Tables
from firetv.published import LICENCE, marks, named
from firetv.schema import TIMESTAMP

URL = (
    "https://raw.githubusercontent.com/primalpop/camrs/b4f45c24970228ea537a88d3380d545dd4132d83"
    "/datasets/LDOS-CoMoDa.csv"
)
MISSING = "-1"
COLUMNS = (
    "user item rating age sex city region daypart daytype season location weather companion "
    "end_emotion dominant_emotion mood physical decision interaction "
    "director country language year genre1 genre2 genre3 actor1 actor2 actor3 budget"
)
CONTEXT = {  # names of the codes 1, 2, ...
    "daypart": ("morning", "afternoon", "evening", "night"),
    "daytype": ("weekday", "weekend", "holiday"),
    "season": ("spring", "summer", "autumn", "winter"),
    "location": ("home", "public", "friend's"),
    "weather": ("sunny", "rainy", "stormy", "snowy", "cloudy"),
    "companion": ("alone", "partner", "friends", "colleagues", "parents", "public", "family"),
}
GENRES = (
    "unknown Action Adult Adventure Animation unknown Biography Comedy Crime Documentary Drama "
    "Family Fantasy History Horror Music Musical Mystery Romance Sci-Fi Sport Thriller War Western"
)  # of the codes 0 (for missing), 1, ...; code 5 is on one film only, too few to infer a name
AGES = 5, 100  # years that are believed; 900 is among the others


def read(path: Path) -> pd.DataFrame:
    """Read the file as published: :data:`COLUMNS` of codes, Int64, missing where it says -1."""
    return pd.read_csv(path, names=COLUMNS.split(), dtype="Int64", na_values=MISSING)


def to_tables(raw: pd.DataFrame, seed: int = 0) -> Tables:
    """Turn LDOS-CoMoDa into tables: a viewing and its rating for each row, in the file's order.

    The file has no times. Its rows stand roughly in the order of collection (the seasons follow
    each other), so row ``n`` is given the ``n``-th hour of 2008: the order means something, hour
    and day do not. Part and type of day, season, weather, company and place were observed, and are
    columns.

    Left out on purpose: both emotions, which are outcomes of viewing; ``interaction``, how often
    this film was seen before, and ``decision``, who chose it, which nobody knows before a film is
    chosen; and what the schema has no place for (mood, physical state, city, actors).

    Parameters
    ----------
    raw : DataFrame
        See :func:`read`.
    seed : int
        Recorded in the manifest. Nothing is drawn.

    Returns
    -------
    Tables
        ``watch_history``, ``content_reactions``, ``users`` and ``content``.
    """
    events = pd.DataFrame(
        {
            "user_id": named("user", raw["user"]),
            "content_id": named("content", raw["item"]),
            "timestamp": pd.date_range("2008-01-01", periods=len(raw), freq="h", tz="UTC"),
        }
    ).astype({"timestamp": TIMESTAMP})
    context = {
        column: raw[column].map(dict(enumerate(names, 1))).astype("str")
        for column, names in CONTEXT.items()
    }
    text = raw.to_csv(header=False, index=False, na_rep=MISSING, lineterminator="\n")
    return Tables(
        watch_history=events.assign(**context),
        content_reactions=events.assign(rating=raw["rating"].astype(float)),
        users=_users(raw),
        content=_content(raw.drop_duplicates("item", ignore_index=True)),
        manifest=MANIFEST | {"checksum": hashlib.sha256(text.encode()).hexdigest(), "seed": seed},
    )


def _users(raw: pd.DataFrame) -> pd.DataFrame:
    """Profiles, each value the first that a user gave."""
    believed = raw.assign(age=raw["age"].where(raw["age"].between(*AGES)))
    first = believed.groupby("user", sort=False, as_index=False)[["age", "sex", "region"]].first()
    return pd.DataFrame(
        {
            "user_id": named("user", first["user"]),
            "age": first["age"],
            "gender": named("sex-", first["sex"]),
            "region": named("country-", first["region"]),
        }
    )


def _content(raw: pd.DataFrame) -> pd.DataFrame:
    """Films by the first row of each; the rows of a film agree."""
    codes = raw[["genre1", "genre2", "genre3"]].fillna(0).to_numpy(int)
    names = np.take(GENRES.split(), codes).tolist()
    genres = [[name for name in row if name != "unknown"] for row in names]
    return pd.DataFrame(
        {
            "content_id": named("content", raw["item"]),
            "title": named("Film ", raw["item"]),
            "content_type": "movie",
            "genres": pd.Series(genres, dtype=object),
            "release_year": raw["year"],
            "country": named("country-", raw["country"]),
            "language": named("language-", raw["language"]),
            "director": named("director-", raw["director"]),
            "budget": raw["budget"],
        }
    )


MANIFEST: Mapping[str, Any] = {
    "name": "comoda",
    "source": URL,
    "licence": LICENCE,
    "citation": "Ante Odić, Marko Tkalčič, Jurij F. Tasič and Andrej Košir (2013). Predicting and "
    "Detecting the Relevant Contextual Information in a Movie-Recommender System. Interacting with "
    "Computers 25(1).",
    "columns": {
        "watch_history": marks(
            observed=f"user_id content_id {' '.join(CONTEXT)}", derived="timestamp"
        ),
        "content_reactions": marks(observed="user_id content_id rating", derived="timestamp"),
        "users": marks(observed="user_id age gender region"),
        "content": marks(
            observed="content_id release_year country language director budget",
            derived="title content_type genres",
        ),
    },
    "notes": "Timestamps are row numbers, one hour apart: only their order means anything, hour "
    "and day are fictitious. daypart, daytype, season, weather, companion and location were "
    "observed. This copy has codes without names for sex, countries, languages, directors and "
    "films. Genre names were inferred: the codes follow IMDb's genres in alphabetical order, which "
    "fits known films and which genres occur together.",
}
