"""What the modules of public data sets share: ids, plain tables, times that stand in, marks."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from firetv.schema import TIMESTAMP

LICENCE = (
    "For research, with citation. Not redistributed here: it is fetched from a public copy that "
    "states no licence of its own."
)


def named(kind: str, codes: pd.Series) -> pd.Series:
    """Return ids or names made of a word and a number, such as ``user12``."""
    return kind + codes.astype("str")


def people(*numbers: pd.Series) -> pd.DataFrame:
    """Return ``users`` of whom nothing is known but that they are in one of some columns."""
    distinct = pd.concat(numbers).drop_duplicates(ignore_index=True)
    return pd.DataFrame({"user_id": named("user", distinct)})


def titles(word: str, numbers: pd.Series, content_type: str) -> pd.DataFrame:
    """Return ``content`` that has numbers for names, a row for each distinct one."""
    distinct = numbers.drop_duplicates(ignore_index=True)
    ids = {"content_id": named("content", distinct), "title": named(word, distinct)}
    return pd.DataFrame({**ids, "content_type": content_type})


def ties(one: pd.Series, other: pd.Series) -> pd.DataFrame:
    """Return ``user_connections`` from each user in one column to the one beside them."""
    return pd.DataFrame({"user_id": named("user", one), "friend_id": named("user", other)})


def dealt_hours(count: int, seed: int) -> pd.Series:
    """Give events that have no time one each, in an order that means nothing.

    The hours from 2011-01-01T00Z on, each used once, are dealt at random: whatever splits by time
    then splits at random.

    Examples
    --------
    >>> sorted(dealt_hours(3, seed=0).dt.hour)
    [0, 1, 2]
    """
    hours = pd.date_range("2011-01-01", periods=count, freq="h", tz="UTC")
    (rng,) = np.random.default_rng(seed).spawn(1)  # else a split of the same seed is the same deal
    dealt = rng.permutation(count)
    return pd.Series(hours[dealt]).astype(TIMESTAMP)


def marks(**kinds: str) -> dict[str, str]:
    """Say of each column of a table whether it is observed, derived or simulated.

    Examples
    --------
    >>> marks(observed="user_id content_id", simulated="timestamp")
    {'user_id': 'observed', 'content_id': 'observed', 'timestamp': 'simulated'}
    """
    return {column: kind for kind, columns in kinds.items() for column in columns.split()}


def checksum(*tables: pd.DataFrame) -> str:
    """Return the SHA-256 of the values of tables, in their order."""
    text = "".join(table.to_csv(index=False, lineterminator="\n") for table in tables)
    return hashlib.sha256(text.encode()).hexdigest()
