"""Options that several commands share, and how what they say is read.

Here and in the modules of commands, what takes long to import is imported where a command uses it:
help, a mistyped option and a shell's completion do not wait for pandas.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Seed = Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn.")]
Folder = Annotated[Path | None, typer.Option(help="A folder of tables; MovieLens-100K by default.")]
Length = Annotated[int, typer.Option(min=1, max=100, help="Length of the list.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")]
Time = Annotated[datetime | None, typer.Option(formats=["%H:%M"], help="Local time of day.")]
Date = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"])]
Zone = Annotated[str, typer.Option(help="IANA name of the time zone.")]
Country = Annotated[
    str | None, typer.Option(help="ISO code: its calendar tells the festival of a date.")
]
Weather = Annotated[str | None, typer.Option(help="Such as rainy.")]
Festival = Annotated[str | None, typer.Option(help="Such as Christmas.")]
Companion = Annotated[str | None, typer.Option(help="Such as family.")]
NOON, ANY_DAY = datetime(2001, 1, 1, 12), datetime(2001, 1, 1)

_ROOM = "Free some space, or name another folder, and run again."
_RIGHTS = "Name a folder that you may write to, or change its permissions."
_NAME = "Check the name."
REMEDIES: Mapping[int, str] = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EROFS: _RIGHTS,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.ENOENT: _NAME,
    errno.ENOTDIR: _NAME,
    errno.EISDIR: _NAME,
    errno.EEXIST: _NAME,
}
"""What to do about an error of the operating system, by its number."""


@contextmanager
def plain_errors(*more: type[Exception]) -> Iterator[None]:
    """Report what the user can mend as text and exit code 2, without a traceback."""
    from firetv.schema import DataError

    try:
        yield
    except BrokenPipeError:  # who reads what is printed has seen enough: typer ends in silence
        raise
    except (DataError, OSError, *more) as error:
        typer.secho(_said(error), err=True, fg=typer.colors.RED)
        raise typer.Exit(2) from error


def _said(error: Exception) -> str:
    """An error as a line: of the operating system's, which file, what is wrong, and a remedy."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror}. {REMEDIES.get(error.errno, '')}".rstrip()


def instant_of(time: datetime | None, date: datetime | None, zone: str) -> datetime | None:
    """Join time and date; what is not asked for is noon, or any day, which is forgotten later."""
    if time is None and date is None:
        return None
    return datetime.combine(date or ANY_DAY, (time or NOON).time(), ZoneInfo(zone))


def code_of(name: str, ids: pd.Index, kind: str) -> np.ndarray:
    """Look up a user or a title."""
    if name not in ids:
        known = ", ".join(ids[:3])
        raise ValueError(f"{name!r} is not one of the {len(ids)} {kind}, such as {known}")
    return ids.get_indexer([name])


def folder_of(data: Path | None) -> Path:
    """A folder of tables: what was named, or else MovieLens-100K, ready for use."""
    from firetv.artefacts import data_dir
    from firetv.sources import prepare

    return data or prepare("movielens-100k", data_dir() / "movielens-100k")
