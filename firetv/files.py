"""One table from one file, CSV or Parquet, all of it."""

from __future__ import annotations

import warnings
import zlib
from pathlib import Path
from typing import Any

import pandas as pd

from firetv.schema import DataError, Problem


def _read_csv(path: Path) -> pd.DataFrame:
    options: dict[str, Any] = {
        "dtype": "str",  # so that an id keeps its leading zeros and a bad number its spelling
        "keep_default_na": False,
        "na_values": [""],
        "encoding": "utf-8-sig",
        "index_col": False,  # else a trailing comma would shift every column
    }
    header = pd.read_csv(path, header=None, nrows=1, **options).iloc[0]
    repeated = header[header.duplicated()].dropna().unique()
    if len(repeated):
        remedy = "Remove or rename the copy."
        raise DataError(Problem(path.name, ", ".join(repeated), "column is there twice", remedy))
    with warnings.catch_warnings():  # pandas would drop cells beyond the header with a warning
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(path, **options)


def read_file(path: Path) -> pd.DataFrame:
    """Read a table as it is: from CSV as text, from Parquet in its own types.

    Raises
    ------
    DataError
        If it cannot be read: why, and what to do.
    """
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    except DataError:
        raise
    except pd.errors.EmptyDataError:
        reason, remedy = "the file is empty", "Fill it, or remove the file."
    except UnicodeDecodeError as error:
        reason, remedy = f"is not UTF-8 text ({error.reason})", "Save the file as UTF-8."
    except pd.errors.ParserWarning:
        reason, remedy = "has rows longer than its header", "Remove commas at the ends of lines."
    except (pd.errors.ParserError, ValueError, OSError, EOFError, zlib.error) as error:
        first_line = str(error).splitlines()[0]
        reason, remedy = f"cannot be read: {first_line}", "Repair the file or export it again."
    raise DataError(Problem(path.name, "", reason, remedy))
