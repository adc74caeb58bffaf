"""Files of a data folder: one table read from one of them, and all of them written as one."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from pyarrow import parquet

from firetv.schema import DataError, Problem, check_names, unreadable
from firetv.writing import is_orphan, naming

BLOCK = 1 << 20  # bytes of a file looked at together
LONGEST_LINE = 64 * BLOCK  # more, such as a file of one byte repeated, would only fill the memory
MANIFEST, PARTIAL, MOVING = "manifest.json", ".partial.", ".moving"


def _read_csv(path: Path) -> pd.DataFrame:
    options: dict[str, Any] = {
        "dtype": "str",  # so that an id keeps its leading zeros and a bad number its spelling
        "keep_default_na": False,
        "na_values": [""],
        "encoding": "utf-8-sig",
        "index_col": False,  # else a trailing comma would shift every column
    }
    _check_bytes(path)
    header = pd.read_csv(path, header=None, nrows=1, **options).iloc[0]
    check_names(header.dropna(), path.name)
    with warnings.catch_warnings():  # pandas would drop cells beyond the header with a warning
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(path, **options)


def _check_bytes(path: Path) -> None:
    """Refuse what is no text, before pandas makes something of it."""
    opened = gzip.open if path.suffix == ".gz" else open
    lines, length = 1, 0
    with opened(path, "rb") as file:
        while block := file.read(BLOCK):
            if (nul := block.find(b"\0")) >= 0:
                lines += block.count(b"\n", 0, nul)
                reason = f"is not UTF-8 text (a NUL byte in line {lines:,})"
                raise DataError(Problem(path.name, "", reason, "Save the file as UTF-8."))
            end = max(block.rfind(b"\n"), block.rfind(b"\r"))
            lines += block.count(b"\n")
            length = length + len(block) if end < 0 else len(block) - end
            if length > LONGEST_LINE:
                reason = f"has a line of more than {LONGEST_LINE >> 20} MB (line {lines:,})"
                raise DataError(Problem(path.name, "", reason, "Repair the file."))


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        with path.open("rb") as file:
            check_names(parquet.read_schema(file).names, path.name)
            table = parquet.read_table(file)
        table.validate(full=True)  # of text, which pandas would take as it is
        return table.to_pandas()
    except DataError:
        raise
    except Exception as error:  # of a damaged file, libraries raise all kinds
        raise unreadable(path.name, error) from error


def read_file(path: Path) -> pd.DataFrame:
    """Read a table as it is: from CSV as text, from Parquet in its own types.

    Raises
    ------
    DataError
        If it cannot be read: why, and what to do.
    """
    if not path.is_file():  # but a folder, a pipe or a link to nothing
        remedy = "Put a file in its place, or remove it."
        raise DataError(Problem(path.name, "", "is not a file", remedy))
    try:
        return _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    except DataError:
        raise
    except pd.errors.EmptyDataError:
        reason, remedy = "the file is empty", "Fill it, or remove the file."
    except UnicodeDecodeError as error:
        reason, remedy = f"is not UTF-8 text ({error.reason})", "Save the file as UTF-8."
    except pd.errors.ParserWarning:
        reason, remedy = "has rows longer than its header", "Remove commas at the ends of lines."
    except Exception as error:  # pandas', and those of gzip
        raise unreadable(path.name, error) from error
    raise DataError(Problem(path.name, "", reason, remedy))


@contextmanager
def replacing(folder: Path, owned: Collection[str] = ()) -> Iterator[Path]:
    """Give a folder to write files to, which then move to another, the manifest last.

    Whatever fails before they move leaves the other folder as it was. A process that is killed as
    they move leaves a mark, so that nobody reads the mixture: see :func:`is_whole`.

    Parameters
    ----------
    folder : Path
        Made if absent.
    owned : collection of str
        Names of files that are removed from it where no new one takes their place.

    Raises
    ------
    DataError
        If another process moves files there just now.
    OSError
        If something cannot be written; the error names a file or `folder`.
    """
    partial = folder / f"{PARTIAL}{os.getpid()}"
    with naming(folder):
        partial.mkdir(parents=True)
        try:
            yield partial
            mark = _marked(folder)
        except BaseException:
            shutil.rmtree(partial)
            raise
        names = sorted(os.listdir(partial), key=lambda name: (name == MANIFEST, name))
        for name in {*owned} - {*names}:
            (folder / name).unlink(missing_ok=True)
        for name in names:
            os.replace(partial / name, folder / name)
        partial.rmdir()
        for left in filter(is_orphan, partials(folder)):
            shutil.rmtree(left)
        mark.unlink()


def _marked(folder: Path) -> Path:
    """Mark a folder as one to which files move, unless another process has done so."""
    mark = folder / MOVING
    with contextlib.suppress(FileExistsError), mark.open("x", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
        return mark
    process = mark.read_text("utf-8").strip()
    if process.isdecimal() and psutil.pid_exists(int(process)):
        remedy = f"Wait for process {process} to end, and run again."
        raise DataError(Problem(str(folder), "", "is being written by another process", remedy))
    mark.write_text(f"{os.getpid()}\n", "utf-8")  # it was killed
    return mark


def partials(folder: Path) -> list[Path]:
    """Folders of files that were, or are, on their way to a folder."""
    return sorted(folder.glob(f"{PARTIAL}*"))


def is_whole(folder: Path) -> bool:
    """Whether nobody was stopped as files moved to a folder, see :func:`replacing`."""
    return not (folder / MOVING).exists()
