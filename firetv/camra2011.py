"""CAMRa2011: films rated by members of households, and by the households.

The files are the split of Cao et al. (2018) with 100 negatives for each test pair.
:mod:`firetv.sources` fetches them; the functions ``read_*`` and :func:`to_tables` turn them into
tables, and :func:`test_pairs` tells what is to be ranked.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from firetv.data import Tables
from firetv.published import LICENCE, checksum, dealt_hours, marks, named, titles

_COPY = (
    "https://raw.githubusercontent.com/LianHaiMiao/Attentive-Group-Recommendation"
    "/fed20414dc35c99496eb09d53ca44be83c596957/data/CAMRa2011"
)
MEMBERS_URL = f"{_COPY}/groupMember.txt"
USERS_URL, GROUPS_URL = f"{_COPY}/userRatingTrain.txt", f"{_COPY}/groupRatingTrain.txt"
TEST_URL, NEGATIVES_URL = f"{_COPY}/groupRatingTest.txt", f"{_COPY}/groupRatingNegative.txt"
HIGHEST = 100  # of the ratings as published; the lowest is 0
PAIR = ["group", "item"]


@dataclass(frozen=True)
class GroupTest:
    """Films that households watched, each to be ranked among films that they are taken not to have.

    Attributes
    ----------
    group_id, content_id : array of str, shape (n_pairs,)
        Ids as in the tables. A pair may be there twice.
    negatives : array of str, shape (n_pairs, n_negatives)
        Content ids, as published: a few are the pair's own film, more are of the household's
        history.
    """

    group_id: np.ndarray
    content_id: np.ndarray
    negatives: np.ndarray


def read_members(path: Path) -> pd.DataFrame:
    """Read who belongs to which household: ``group, user``, one row per member."""
    raw = pd.read_csv(path, sep=" ", names=["group", "user"], dtype={"user": "str"})
    raw["user"] = raw["user"].str.split(",")
    return raw.explode("user", ignore_index=True).astype({"user": "int64"})


def read_ratings(path: Path) -> pd.DataFrame:
    """Read ratings as published: ``who, item, rating``, 0..100 in steps of 5.

    ``who`` is a user or a group, depending on the file.
    """
    return pd.read_csv(path, sep=" ", names=["who", "item", "rating"])


def read_negatives(path: Path) -> pd.DataFrame:
    """Read the negatives as published: ``group, item`` of a test pair, ``negative1`` and so on."""
    plain = path.read_text("utf-8").translate(str.maketrans(",", " ", "()"))
    raw = pd.read_csv(io.StringIO(plain), sep=" ", header=None, dtype="int64")
    return raw.set_axis([*PAIR, *(f"negative{n}" for n in range(1, raw.shape[1] - 1))], axis=1)


def to_tables(
    members: pd.DataFrame,
    users: pd.DataFrame,
    groups: pd.DataFrame,
    test: pd.DataFrame,
    negatives: pd.DataFrame,
    seed: int = 0,
) -> Tables:
    """Turn CAMRa2011 into tables: a viewing and its rating for each training row, users' first.

    A household is a user too, whose id is the group's: under it stands what the household watched.
    The files have no times, and nothing in their order stands for one: see
    :func:`~firetv.published.dealt_hours`. Ratings are stretched to 1..5. Pairs of household and
    film that are there more than once stay.

    Parameters
    ----------
    members : DataFrame
        See :func:`read_members`.
    users, groups, test : DataFrame
        See :func:`read_ratings`: training rows of users and of groups, and test pairs of groups,
        of which only the films are used.
    negatives : DataFrame
        See :func:`read_negatives`. Only the films are used.
    seed : int
        Seed of the times.

    Returns
    -------
    Tables
        ``watch_history``, ``content_reactions``, ``users`` (members, then households), ``content``
        (the films of all files) and ``groups``.
    """
    rated = pd.concat([users, groups], ignore_index=True)
    viewers = [named("user", users["who"]), named("group", groups["who"])]
    events = pd.DataFrame(
        {
            "user_id": pd.concat(viewers, ignore_index=True),
            "content_id": named("content", rated["item"]),
            "timestamp": dealt_hours(len(rated), seed),
        }
    )
    belongs = pd.DataFrame(
        {"group_id": named("group", members["group"]), "user_id": named("user", members["user"])}
    )
    known = pd.concat([belongs["user_id"], belongs["group_id"]]).drop_duplicates(ignore_index=True)
    ranked = pd.Series(negatives.drop(columns="group").to_numpy().ravel())
    films = pd.concat([rated["item"], test["item"], ranked])
    return Tables(
        watch_history=events,
        content_reactions=events.assign(rating=1 + rated["rating"] / HIGHEST * 4),
        users=known.to_frame("user_id"),
        content=titles("Film ", films, "movie"),
        groups=belongs,
        manifest=MANIFEST
        | {"checksum": checksum(members, users, groups, test, negatives), "seed": seed},
    )


def test_pairs(test: pd.DataFrame, negatives: pd.DataFrame) -> GroupTest:
    """Return the test pairs of households in the ids of :func:`to_tables`, with their negatives.

    Parameters
    ----------
    test, negatives : DataFrame
        See :func:`read_ratings` and :func:`read_negatives`.

    Raises
    ------
    ValueError
        If the two do not list the same pairs in the same order.
    """
    if not np.array_equal(test[["who", "item"]], negatives[PAIR]):
        raise ValueError("test and negatives do not list the same pairs in the same order")
    others = negatives.drop(columns=PAIR).to_numpy()
    return GroupTest(
        group_id=named("group", test["who"]).to_numpy(),
        content_id=named("content", test["item"]).to_numpy(),
        negatives=named("content", pd.Series(others.ravel())).to_numpy().reshape(others.shape),
    )


MANIFEST: Mapping[str, Any] = {
    "name": "camra2011",
    "source": f"{MEMBERS_URL}, {USERS_URL}, {GROUPS_URL}, {TEST_URL}, {NEGATIVES_URL}",
    "licence": LICENCE,
    "citation": "Da Cao, Xiangnan He, Lianhai Miao, Yahui An, Chao Yang and Richang Hong (2018). "
    "Attentive Group Recommendation. Proceedings of the 41st International ACM SIGIR Conference. "
    "Data: Alan Said, Shlomo Berkovsky, Ernesto W. De Luca and Jannis Hermanns (2011). Challenge "
    "on Context-Aware Movie Recommendation: CAMRa2011. Proceedings of the 5th ACM Conference on "
    "Recommender Systems (RecSys 2011).",
    "columns": {
        "watch_history": marks(observed="user_id content_id", simulated="timestamp"),
        "content_reactions": marks(
            observed="user_id content_id", derived="rating", simulated="timestamp"
        ),
        "users": marks(observed="user_id"),
        "content": marks(observed="content_id", derived="title content_type"),
        "groups": marks(observed="group_id user_id"),
    },
    "notes": "Timestamps are hours dealt at random: neither order nor hour mean anything, and the "
    "last fifth of the events is a random fifth. Ratings of 0..100 were rescaled linearly to 1..5. "
    "A household's history stands under a user_id that equals its group_id; it has every film of "
    "its members' histories and more, and repeats 29704 pairs of household and film. The "
    "households' test pairs are not in the tables, but 576 of the 1450 are in the household's own "
    "training file as well, and so in its history, as are 7680 of the 145000 negatives. 24 films "
    "have no event: they are only in the test. Films are numbers, without names.",
}
