"""Table schemas, and one clear error for bad input.

Each table is described once, by a pandera schema. :func:`check_table` converts raw values (text
from CSV, typed columns from Parquet) to the schema's types and gathers every problem it meets;
:func:`check_references` looks across tables. Problems are raised together as a :class:`DataError`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

import numpy as np
import pandas as pd
import pandera.pandas as pa

TIMESTAMP = "datetime64[us, UTC]"
FIRST, LAST = pd.Timestamp("1900-01-01T00Z"), pd.Timestamp("2199-12-31T23:59:59.999999Z")
REACTIONS = ("love", "like", "dislike")
SHARING = ("on", "off")
MISSING_TEXT = ("", "na", "n/a", "nan", "null", "none")
ERA = f"from {FIRST.year} to {LAST.year}"
Named = TypeVar("Named")
EXACT = 2**53  # up to here a float is exactly one integer
SAMPLE = 3  # offending values quoted in a message
LONGEST = 200  # characters of a name or a value in a message


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one column of one table."""

    where: str
    column: str
    reason: str
    remedy: str
    rows: int = 0
    sample: tuple[str, ...] = ()

    def __str__(self) -> str:
        count = f" ({self.rows} row{'s' if self.rows != 1 else ''})" if self.rows else ""
        values = f", e.g. {', '.join(self.sample)}" if self.sample else ""
        column = f", column {brief(self.column)}" if self.column else ""
        return f"{self.where}{column}: {self.reason}{count}{values}. {self.remedy}"


class DataError(ValueError):
    """Bad input: every problem found, each with file, column, row count and remedy."""

    def __init__(self, *problems: Problem | str) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


def brief(text: str, longest: int = LONGEST) -> str:
    """Text as a message can quote it: on one line, and cut short.

    Examples
    --------
    >>> brief("one  two"), len(brief("x" * 10_000))
    ('one two', 200)
    """
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def unreadable(where: str, error: Exception) -> DataError:
    """Say in one line why a library could not read a file."""
    reason = brief(str(error)).rstrip(".") or type(error).__name__
    remedy = "Repair the file or export it again."
    return DataError(Problem(where, "", f"cannot be read: {reason}", remedy))


def check_names(names: Iterable[str], where: str) -> None:
    """Raise a DataError if a file has a column twice."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        remedy = "Remove or rename the copy."
        raise DataError(Problem(where, ", ".join(repeated), "column is there twice", remedy))


def one_of(name: str, known: Mapping[str, Named], kind: str) -> Named:
    """Look a name up; ValueError lists the known ones where it is none of them."""
    if name not in known:
        raise ValueError(f"{name!r} is not one of the {kind}: use {', '.join(known)}")
    return known[name]


def _check(function: pa.Check, reason: str, remedy: str) -> pa.Check:
    """Give a pandera check the two sentences that its failure is reported with."""
    function.error = f"{reason}\t{remedy}"
    return function


def _text(*, required: bool = True, unique: bool = False) -> pa.Column:
    return pa.Column(str, nullable=not required, required=required, unique=unique)


def _number(dtype: str, low: float, high: float, remedy: str) -> pa.Column:
    check = _check(pa.Check.in_range(low, high), f"must lie in {low:g}..{high:g}", remedy)
    return pa.Column(dtype, check, nullable=True, required=False)


_TIME = pa.Column(TIMESTAMP)
_POSITIVE = _check(pa.Check.gt(0), "must be above 0", "Give minutes, or leave it empty.")
_REACTION = _check(
    pa.Check.isin(REACTIONS), "is not a known reaction", f"Use one of {', '.join(REACTIONS)}."
)
_SHARING = _check(
    pa.Check.isin(SHARING), "is neither on nor off", "Use on, or off, or leave it empty for off."
)
_SHARE = "Give a share, not a percentage."

SCHEMAS: Mapping[str, pa.DataFrameSchema] = {
    "users": pa.DataFrameSchema(
        {
            "user_id": _text(unique=True),
            "age": _number("Int64", 0, 120, "Give years, or leave it empty."),
            "gender": _text(required=False),
            "occupation": _text(required=False),
            "region": _text(required=False),
            "name": _text(required=False),
            "sharing": pa.Column(str, _SHARING, nullable=True, required=False),
        }
    ),
    "content": pa.DataFrameSchema(
        {
            "content_id": _text(unique=True),
            "title": _text(required=False),
            "content_type": _text(required=False),
            "genres": pa.Column(object, nullable=True, required=False),
            "duration_minutes": pa.Column(float, _POSITIVE, nullable=True, required=False),
            "release_year": _number("Int64", 1870, 2100, "Give a year, or leave it empty."),
        }
    ),
    "watch_history": pa.DataFrameSchema(
        {
            "user_id": _text(),
            "content_id": _text(),
            "timestamp": _TIME,
            "completion": _number("float64", 0, 1, _SHARE),
            "weather": _text(required=False),
            "festival": _text(required=False),
            "companion": _text(required=False),
            "location": _text(required=False),
        }
    ),
    "content_reactions": pa.DataFrameSchema(
        {
            "user_id": _text(),
            "content_id": _text(),
            "timestamp": _TIME,
            "rating": _number("float64", 1, 5, "Rescale ratings to 1..5."),
            "reaction": pa.Column(str, _REACTION, nullable=True, required=False),
        }
    ),
    "user_connections": pa.DataFrameSchema(
        {
            "user_id": _text(),
            "friend_id": _text(),
            "strength": _number("float64", 0, 1, "Rescale it, or leave it empty for 1."),
        }
    ),
    "groups": pa.DataFrameSchema({"group_id": _text(), "user_id": _text()}),
    "weather": pa.DataFrameSchema(
        {"region": _text(), "date": pa.Column("datetime64[us]"), "condition": _text()},
        unique=["region", "date"],
    ),
}
EVENT_TABLES = ("watch_history", "content_reactions")
DIMENSIONS = ("daypart", "daytype", "season", "weather", "festival", "companion", "location")
RESERVED = ("user", "item")  # columns of codes in a `Dataset`
LISTS = "holds lists", "Give one value per cell."


def _problem(where: str, bad: pd.Series, reason: str, remedy: str) -> Problem:
    try:
        some = bad.drop_duplicates().head(SAMPLE)
    except TypeError:  # lists have no duplicates
        some = bad.head(SAMPLE)
    if pd.api.types.is_datetime64_any_dtype(some):  # Python cannot write years beyond 9999
        sample = tuple(map(str, some.dt.tz_localize(None).to_numpy()))
    else:
        sample = tuple(brief(repr(value)) for value in some.tolist())
    return Problem(where, str(bad.name), reason, remedy, len(bad), sample)


def whole_numbers(raw: pd.Series) -> bool:
    """Whether floats are whole numbers, so small that each is exactly one."""
    number = raw.dropna().astype("float64")
    return bool(number.mod(1).eq(0).all() and number.abs().le(EXACT).all())


def to_text(raw: pd.Series) -> pd.Series:
    """Ids and labels as text; integers keep their digits, blanks become missing."""
    if pd.api.types.is_float_dtype(raw) and whole_numbers(raw):
        raw = raw.astype("Int64")
    text = _written(raw).str.strip()
    return text.mask(text == "").astype("str")


def _written(raw: pd.Series) -> pd.Series:
    """Values as text; missing where they are missing, or bytes that are no text."""
    try:
        text = raw.astype("str")
    except UnicodeDecodeError:  # bytes, from Parquet
        raw = raw.astype(object).map(_decoded)
        text = raw.astype("str")
    return text.where(raw.notna())


def _decoded(value: object) -> object:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return None


def _to_number(raw: pd.Series) -> pd.Series:
    if _is_time(raw):  # pandas would count its microseconds
        return pd.Series(np.nan, index=raw.index, name=raw.name)
    if not pd.api.types.is_numeric_dtype(raw):
        raw = raw.mask(_written(raw).str.strip().str.lower().isin(MISSING_TEXT))
    try:
        number = pd.to_numeric(raw, errors="coerce")
    except OverflowError:  # of an integer that is no float
        number = pd.to_numeric(_written(raw), errors="coerce")
    number = number.astype("float64")
    return number.mask(np.isinf(number))


def _to_timestamp(raw: pd.Series) -> pd.Series:
    """UTC instants; a time without an offset is not an instant and stays missing."""
    if isinstance(raw.dtype, pd.DatetimeTZDtype):
        return raw.where(raw.between(FIRST, LAST)).dt.tz_convert("UTC").astype(TIMESTAMP)
    text = _written(raw).str.strip().str.upper()
    aware = text.str.contains(r"\d{2}:\d{2}.*(?:Z|[+-]\d{2}(?::?\d{2})?)$", na=False)
    instants = pd.to_datetime(text.where(aware), format="ISO8601", utc=True, errors="coerce")
    return instants.where(instants.between(FIRST, LAST)).astype(TIMESTAMP)


def _to_date(raw: pd.Series) -> pd.Series:
    if pd.api.types.is_datetime64_any_dtype(raw):
        days = raw.dt.tz_localize(None)
    else:
        text = _written(raw).str.strip()
        days = pd.to_datetime(text, format="%Y-%m-%d", errors="coerce")
    days = days.where(days.between(FIRST.tz_localize(None), LAST.tz_localize(None)))
    return days.dt.normalize().astype("datetime64[us]")


def _to_genres(raw: pd.Series) -> pd.Series:
    """Lists of genres, from lists or from text joined by ``|``; None where it is neither."""

    def genres(value: object) -> list[str] | None:
        if isinstance(value, list | tuple | np.ndarray):
            parts = [part for part in value if part is not None]
        else:
            parts = [] if pd.isna(value) else [value]
        if not all(isinstance(part, str) for part in parts):
            return None
        return [genre.strip() for part in parts for genre in part.split("|") if genre.strip()]

    lists = [genres(v) if pd.api.types.is_scalar(v) or np.ndim(v) == 1 else None for v in raw]
    return pd.Series(lists, index=raw.index, name=raw.name, dtype=object)


def _to_whole(raw: pd.Series) -> pd.Series:
    number = _to_number(raw)
    return number.where(number.mod(1).eq(0) & number.abs().le(EXACT)).astype("Int64")


def _is_time(raw: pd.Series) -> bool:
    kinds = pd.api.types
    return kinds.is_datetime64_any_dtype(raw) or kinds.is_timedelta64_dtype(raw)


def _blank(raw: pd.Series, also: tuple[str, ...] = ("",)) -> pd.Series:
    if _is_time(raw):
        return raw.isna()
    return raw.isna() | raw.astype(object).map(str).str.strip().str.lower().isin(also)


def _convert(raw: pd.Series, column: pa.Column, where: str) -> tuple[pd.Series, Problem | None]:
    """One column in its schema's type, and what could not be converted."""
    kind, blank = str(column.dtype), ("",)
    if raw.name == "genres":
        values, reason = _to_genres(raw), "is not a list of text"
        remedy = "Write genres as A|B, or as a list of text."
    elif kind == TIMESTAMP:
        values, reason = _to_timestamp(raw), "is not an instant with a time zone"
        remedy = f"Write ISO 8601 with an offset, such as 2026-01-31T20:15:00Z, {ERA}."
    elif kind.startswith("datetime64"):
        values, reason = _to_date(raw), "is not a date"
        remedy = f"Write dates as 2026-01-31, {ERA}."
    elif kind in ("float64", "Int64"):
        values = _to_whole(raw) if kind == "Int64" else _to_number(raw)
        reason, blank = f"is not a {'whole ' * (kind == 'Int64')}number", MISSING_TEXT
        remedy = "Correct the values, or leave them empty."
    elif holds_lists(raw):
        nothing = pd.Series(None, index=raw.index, name=raw.name, dtype="str")
        return nothing, Problem(where, str(raw.name), *LISTS)
    else:
        values, reason = to_text(raw), "is not UTF-8 text"
        values = values.mask(values.str.contains("\0", regex=False, na=False))
        remedy = "Store it as text without NUL characters."
    lost = raw[values.isna()]
    bad = lost[~_blank(lost, blank)]
    return values, _problem(where, bad, reason, remedy) if len(bad) else None


def _schema_problems(name: str, frame: pd.DataFrame, where: str) -> list[Problem]:
    """What pandera finds wrong, one problem per column and check."""
    try:
        SCHEMAS[name].validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        failures = error.failure_cases
    else:
        return []
    problems = []
    for (column, check), rows in failures.groupby(["column", "check"], sort=False, dropna=False):
        bad = rows["failure_case"].rename(column if isinstance(column, str) else name)
        if check == "column_in_dataframe":
            known = ", ".join(SCHEMAS[name].columns)
            remedy = f"Add it, or name it in columns.yaml; the columns of {name} are {known}."
            problems += [Problem(where, str(c), "missing column", remedy) for c in bad]
        elif check == "not_nullable":
            remedy = "Fill the cells or remove the rows."
            problems.append(Problem(where, column, "has empty cells", remedy, len(bad)))
        elif check == "multiple_fields_uniqueness":
            if column == SCHEMAS[name].unique[0]:  # pandera repeats the rows for every field
                remedy = f"Keep one row for each {' and '.join(SCHEMAS[name].unique)}."
                problems.append(_problem(where, bad, "has duplicates", remedy))
        elif check == "field_uniqueness":
            problems.append(_problem(where, bad, "has duplicates", "Keep one row for each."))
        else:
            reason, _, remedy = check.partition("\t")
            problems.append(_problem(where, bad, reason, remedy or "Correct the values."))
    return problems


def check_table(name: str, raw: pd.DataFrame, where: str) -> tuple[pd.DataFrame, list[Problem]]:
    """Convert one table to its schema's types and list what is wrong with it.

    Parameters
    ----------
    name : str
        A key of :data:`SCHEMAS`.
    raw : DataFrame
        The table as read; not modified. Columns unknown to the schema are kept as they are.
    where : str
        The file's name, for messages.

    Returns
    -------
    DataFrame, list of Problem
        The table in the schema's dtypes; values that could not be converted are missing in it.
    """
    if raw.empty:
        return raw, [Problem(where, "", "holds no rows", "Fill it, or remove the file.")]
    columns = SCHEMAS[name].columns
    frame, problems = raw.copy(), []
    for column in columns.keys() & frame.columns:
        frame[column], problem = _convert(raw[column], columns[column], where)
        problems += [problem] if problem else []
    for problem in _schema_problems(name, frame, where):
        if problem.reason == "has empty cells":  # what could not be converted is named already
            empty = int(_blank(raw[problem.column]).sum())
            problems += [replace(problem, rows=empty)] if empty else []
        else:
            problems.append(problem)
    problems += check_extras(name, raw, where)
    if name == "content_reactions":
        problems += _empty_reactions(frame, where)
    return frame, sorted(problems, key=lambda p: (p.column, p.reason))


def is_text(name: str, column: str) -> bool:
    """Whether a column of a table's schema holds ids or labels."""
    known = SCHEMAS[name].columns
    return column in known and known[column].dtype == _text().dtype


def required(name: str) -> list[str]:
    """Columns that a table must have, in every row."""
    return [column for column, known in SCHEMAS[name].columns.items() if known.required]


@cache
def _schema_of(name: str, columns: tuple[str, ...]) -> pa.DataFrameSchema:
    return SCHEMAS[name].select_columns(list(columns))


def passed(name: str, raw: pd.DataFrame) -> pd.DataFrame | None:
    """Convert some columns of a table to their schema's types, if nothing is wrong with them.

    What this refuses, :func:`check_table` explains.

    Parameters
    ----------
    name : str
        A key of :data:`SCHEMAS`.
    raw : DataFrame
        Columns of that schema alone; not modified.

    Returns
    -------
    DataFrame or None
        None if a value cannot be converted, or breaks a rule of its column.

    Examples
    --------
    >>> passed("watch_history", pd.DataFrame({"user_id": [1, 2]}))["user_id"].tolist()
    ['1', '2']
    >>> passed("watch_history", pd.DataFrame({"completion": [0.5, 1.5]})) is None
    True
    """
    frame = {}
    for column in raw:
        frame[column], problem = _convert(raw[column], SCHEMAS[name].columns[column], name)
        if problem:
            return None
    try:
        return _schema_of(name, tuple(frame)).validate(pd.DataFrame(frame, index=raw.index))
    except pa.errors.SchemaError:
        return None


def merged(problems: Iterable[Problem]) -> list[Problem]:
    """Add up problems that differ in their rows alone, such as those of parts of a table.

    Examples
    --------
    >>> one = Problem("a.csv", "age", "is odd", "Change it.", 2, ("1", "3"))
    >>> print(*merged([one, replace(one, rows=3, sample=("3", "5", "7"))]))
    a.csv, column age: is odd (5 rows), e.g. 1, 3, 5. Change it.
    """
    found: dict[tuple[str, ...], Problem] = {}
    for problem in problems:
        key = (problem.column, problem.reason, problem.where, problem.remedy)
        if first := found.get(key):
            sample = tuple(dict.fromkeys((*first.sample, *problem.sample)))[:SAMPLE]
            problem = replace(first, rows=first.rows + problem.rows, sample=sample)
        found[key] = problem
    return sorted(found.values(), key=lambda p: (p.column, p.reason))


def check_extras(name: str, raw: pd.DataFrame, where: str) -> list[Problem]:
    """Columns beyond the schema are welcome, if they have a name of their own and plain values."""
    problems = []
    for column in raw.columns.difference(list(SCHEMAS[name].columns), sort=False):
        if not str(column).strip() or str(column).startswith("Unnamed:"):
            remedy = "Name it, or remove it (it may be a row number)."
            problems.append(Problem(where, str(column).strip() or "''", "has no name", remedy))
        elif name in EVENT_TABLES and column in RESERVED:
            problems.append(Problem(where, column, "is a reserved name", "Rename it."))
        elif holds_lists(raw[column]):
            problems.append(Problem(where, column, *LISTS))
    return problems


def holds_lists(raw: pd.Series) -> bool:
    """Whether a cell of a column holds several values."""
    plain = isinstance(raw.dtype, pd.StringDtype) or pd.api.types.is_numeric_dtype(raw)
    return not (plain or raw.dropna().map(pd.api.types.is_scalar).all())


def _empty_reactions(frame: pd.DataFrame, where: str) -> list[Problem]:
    """A reaction row must say something: a rating, a reaction, or both."""
    given = frame.reindex(columns=["rating", "reaction"]).notna().any(axis=1)
    if given.any() and given.all():
        return []
    remedy = "Give a rating of 1..5, a reaction, or both."
    return [Problem(where, "rating", "neither rating nor reaction", remedy, int((~given).sum()))]


def check_references(
    tables: Mapping[str, pd.DataFrame],
    where: Mapping[str, str],
    counts: Mapping[tuple[str, str], np.ndarray] | None = None,
) -> list[Problem]:
    """List ids that point to nothing.

    Content of an event must be in ``content`` when that table is given. A friend or group member
    must be known: in ``users``, or with at least one event. A viewer without a profile is allowed.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        Tables in the schema's dtypes; of a large one it is enough to give each id once.
    where : mapping of str to str
        The files' names, for messages.
    counts : mapping of (table, column) to int array of shape (n_ids,), optional
        For a column that holds each id once: in how many rows of the table it is.
    """
    counts = counts or {}
    events = [tables[name] for name in EVENT_TABLES if name in tables]
    problems = []

    def unknown(name: str, column: str, known: pd.Index, remedy: str) -> None:
        ids = tables[name][column] if column in tables.get(name, ()) else pd.Series(dtype="str")
        distinct = ids.dropna().drop_duplicates()
        strange = distinct[known.get_indexer(distinct) < 0]  # pandas' isin walks through text
        if len(strange):
            bad = ids[ids.isin(strange)]
            problem = _problem(where[name], bad, "is unknown", remedy)
            if (name, column) in counts:
                problem = replace(problem, rows=int(counts[name, column][bad.index].sum()))
            problems.append(problem)

    if "content_id" in tables.get("content", ()):
        for name in EVENT_TABLES:
            known = pd.Index(tables["content"]["content_id"].unique())
            unknown(name, "content_id", known, "Add it to content, or remove these rows.")
    sources = [*events, *([tables["users"]] if "users" in tables else [])]
    ids = [table["user_id"] for table in sources if "user_id" in table]
    viewers = pd.Index(pd.concat(ids).unique() if ids else [])
    for name, column in (
        ("user_connections", "user_id"),
        ("user_connections", "friend_id"),
        ("groups", "user_id"),
    ):
        unknown(name, column, viewers, "Add the person to users, or remove these rows.")
    return problems
