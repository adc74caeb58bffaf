"""Where notifications go, and the log of what went: a file of SQLite.

The log is what keeps two deliveries, one after the other or both at once, from telling somebody
the same thing twice.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TextIO

import numpy as np
import pandas as pd

from firetv.schema import TIMESTAMP, DataError, Problem
from firetv.sentences import aligned

APPLICATION = 0x46545644  # marks a file of SQLite as a delivery log
FORMAT = 1  # of the log; a greater number is from a later version
WAIT = 30.0  # seconds for another delivery to end
MEMORY = ":memory:"
_HEADER = b"SQLite format 3\0"  # what a file of SQLite begins with
_TABLE = """
CREATE TABLE IF NOT EXISTS deliveries (
    user_id TEXT NOT NULL,
    content_id TEXT NOT NULL,
    delivered_at TEXT,  -- UTC, ISO 8601; NULL where it was dismissed before it was ever sent
    dismissed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, content_id)
) WITHOUT ROWID
"""


class DeliveryLog:
    """What was sent to whom, and what is not wanted.

    A context manager that closes the file.

    Parameters
    ----------
    path : str or Path, optional
        Made if it is not there; in memory alone by default.

    Raises
    ------
    DataError
        If the file is not a delivery log, is one of a later version, or cannot be used.
    """

    def __init__(self, path: str | Path = MEMORY) -> None:
        self.path = str(path)
        try:
            if self.path != MEMORY:
                self._check_header(Path(path))
            # Without an isolation level, transactions begin and end where this module says so.
            self._connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None)
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from error
        try:
            self._prepare()
        except DataError:
            self.close()
            raise

    @classmethod
    def preview(cls, path: str | Path) -> Self:
        """Return a copy in memory of a log that may not exist: what it records is lost."""
        if not Path(path).exists():
            return cls()
        with cls(path) as log:
            copy = cls()
            log._connection.backup(copy._connection)
        return copy

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def transaction(self, kind: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE") -> Iterator[None]:
        """Keep what is recorded within only if nothing fails; others wait until it is over.

        A deferred one only reads, always the same state, and lets others write.
        """
        self._run(f"BEGIN {kind}")
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite ends one itself where a disk is full
                self._connection.rollback()
            raise

    def record(self, rows: pd.DataFrame) -> np.ndarray:
        """Enter notifications that the log does not have.

        Parameters
        ----------
        rows : DataFrame
            With ``user_id``, ``content_id`` and ``at``.

        Returns
        -------
        bool array
            Which of them were new; the others were sent before, or are not wanted.
        """
        new = "INSERT INTO deliveries VALUES (?, ?, ?, 0) ON CONFLICT DO NOTHING"
        times = rows["at"].dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        entries = zip(rows["user_id"], rows["content_id"], times, strict=True)
        return np.array([self._run(new, *entry).rowcount == 1 for entry in entries], bool)

    def dismiss(self, user_id: str, content_id: str) -> None:
        """Remember that somebody does not want to hear of a title."""
        self._run(
            "INSERT INTO deliveries VALUES (?, ?, NULL, 1) ON CONFLICT DO UPDATE SET dismissed = 1",
            user_id,
            content_id,
        )

    def entries(self, user_ids: pd.Series) -> pd.DataFrame:
        """Return all that is known of some users, as :func:`as_entries` describes it."""
        found = self._run(
            "SELECT user_id, content_id, delivered_at, dismissed FROM deliveries "
            "WHERE user_id IN (SELECT value FROM json_each(?)) ORDER BY user_id, content_id",
            json.dumps(list(user_ids)),
        )
        return as_entries(found.fetchall())

    def _check_header(self, path: Path) -> None:
        """Refuse another file, which SQLite takes for an empty log if it is short, and fills."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file:
                if file.read(len(_HEADER)) != _HEADER:
                    raise self._foreign()

    def _prepare(self) -> None:
        """Make a new log of an empty file; refuse what is not a log that can be read."""
        # At one moment: between two of these, another process might make the log.
        with self.transaction("DEFERRED"):
            tables, kind, version = (
                self._run(query).fetchone()[0]
                for query in (
                    "SELECT count(*) FROM sqlite_master",
                    "PRAGMA application_id",
                    "PRAGMA user_version",
                )
            )
        if (kind, version, tables) == (0, 0, 0):
            with self.transaction():
                self._run(_TABLE)
                self._run(f"PRAGMA application_id = {APPLICATION}")
                self._run(f"PRAGMA user_version = {FORMAT}")
        elif kind != APPLICATION:
            raise self._foreign()
        elif version > FORMAT:
            what = f"is a delivery log of format {version}, and only {FORMAT} is known here"
            raise DataError(Problem(self.path, "", what, "Update firetv, or name another file."))

    def _run(self, statement: str, *values: object) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _foreign(self) -> DataError:
        return DataError(Problem(self.path, "", "is not a delivery log", "Name another file."))

    def _unusable(self, error: Exception) -> DataError:
        busy = "locked" in str(error)
        remedy = "Wait for the other delivery to end." if busy else "Name another file."
        return DataError(Problem(self.path, "", f"cannot be used as a log: {error}", remedy))


def as_entries(found: list[tuple[str, str, str | None, int]]) -> pd.DataFrame:
    """Make a table of rows of the log.

    Returns
    -------
    DataFrame
        ``user_id``, ``content_id``, ``delivered_at`` (UTC; missing where it was dismissed before it
        was sent) and ``dismissed`` (bool).
    """
    columns = ["user_id", "content_id", "delivered_at", "dismissed"]
    frame = pd.DataFrame(found, columns=columns, dtype=object)
    times = pd.to_datetime(frame["delivered_at"], format="ISO8601", utc=True)
    frame = frame.astype({"user_id": "str", "content_id": "str", "dismissed": bool})
    return frame.assign(delivered_at=times.astype(TIMESTAMP))


# ------------------------------------------------------------------ sinks


class Sink(Protocol):
    """Takes notifications: prints them, or hands them to whatever sends them."""

    def __call__(self, rows: pd.DataFrame) -> None:
        """Take rows as :class:`~firetv.notifications.Notifications` has them, or raise."""
        ...


def table(file: TextIO) -> Sink:
    """Return a sink that lays out notifications for reading."""

    def write(rows: pd.DataFrame) -> None:
        shown = pd.DataFrame(
            {
                "for": rows["user_id"],
                "what": rows["text"],
                "title": rows["title"],
                "year": rows["year"].astype("str").fillna(""),
                "genres": rows["genres"].str.join(", "),
            }
        )
        if rows["counts"].fillna(0).ne(0).any():
            shown["counts"] = [f"{counts:+.2f}" for counts in rows["counts"]]
        for line in aligned([shown.columns, *shown.to_numpy()]):
            file.write(line + "\n")
        file.flush()  # so that a failure shows before the delivery counts

    return write


def json_lines(file: TextIO) -> Sink:
    """Return a sink that writes one JSON object a line."""

    def write(rows: pd.DataFrame) -> None:
        options: dict[str, Any] = {"orient": "records", "lines": True, "date_format": "iso"}
        file.write(rows.to_json(force_ascii=False, **options))
        file.flush()

    return write
