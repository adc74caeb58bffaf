"""What the columns of a folder's tables are, where they are not those of the schema.

A file of one's own, ``columns.yaml``, says it in a line for each column: another name for a column
of the schema, a further dimension of the context, a feature, or nothing to be used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from firetv.schema import (
    DIMENSIONS,
    EVENT_TABLES,
    RESERVED,
    SCHEMAS,
    DataError,
    Problem,
    brief,
    to_text,
)
from firetv.yaml_files import quote, read_yaml, sections

FILE = "columns.yaml"
FEATURE, CONTEXT, IGNORE = "feature", "context", "ignore"
KINDS = (FEATURE, CONTEXT, IGNORE)
DESCRIBED = ("users", "content")  # tables that have features
TAKEN = (*RESERVED, "at", "known", "region", "members", "presence", "satisfaction")  # by requests
MOST_VALUES = 50  # of a dimension: of more, nothing could be learned
MOST_BYTES = 100_000
FORM = "device: context"


@dataclass(frozen=True)
class Columns:
    """What some columns are.

    Attributes
    ----------
    kinds : mapping of str to mapping of str to str
        By table and by the column's name in the file: one of :data:`KINDS`, or the name of a
        column of the table's schema.
    """

    kinds: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def context(self) -> list[str]:
        """Further dimensions of the context."""
        return [
            column
            for kinds in self.kinds.values()
            for column, kind in kinds.items()
            if kind == CONTEXT
        ]

    def table(self, name: str, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table in the schema's names, without what is to be ignored."""
        kinds = self.kinds.get(name, {})
        table = table.drop(columns=[column for column, kind in kinds.items() if kind == IGNORE])
        context = {column: to_text(table[column]) for column in kinds if kinds[column] == CONTEXT}
        return table.assign(**context).rename(columns=_names(kinds))

    def names(self, name: str, columns: Iterable[str]) -> dict[str, str]:
        """The schema's names of a table's columns, by those in the file, but for what is ignored.

        Examples
        --------
        >>> said = Columns({"users": {"plan": "feature", "notes": "ignore", "alter": "age"}})
        >>> said.names("users", ["user_id", "plan", "notes", "alter"])
        {'user_id': 'user_id', 'plan': 'plan', 'alter': 'age'}
        """
        kinds = self.kinds.get(name, {})
        names = _names(kinds)
        return {c: names.get(c, c) for c in columns if kinds.get(c) != IGNORE}

    def manifest(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a folder says of itself, in the schema's names and with the context."""
        said = dict(manifest)
        if "columns" in said:
            said["columns"] = {
                table: {_names(self.kinds.get(table, {})).get(c, c): kind for c, kind in of.items()}
                for table, of in said["columns"].items()
            }
        context = [*dict.fromkeys([*said.get("context", ()), *self.context])]
        return said | ({"context": context} if context else {})


def _names(kinds: Mapping[str, str]) -> dict[str, str]:
    """New names of the columns that have another in the schema."""
    return {column: kind for column, kind in kinds.items() if kind not in KINDS}


def read_columns(path: Path, tables: Mapping[str, pd.DataFrame | None]) -> Columns:
    """Read a mapping file.

    Parameters
    ----------
    path : Path
    tables : mapping of str to DataFrame or None
        The folder's tables as they were read, by name; None for one that cannot be read, of which
        nothing is checked.

    Raises
    ------
    DataError
        With every problem of the file: its place, what is wrong and what to do.
    """
    raw, problems = read_yaml(path, FORM, "columns", MOST_BYTES)
    found = {}
    for name, lines in sections(raw, path.name, SCHEMAS, "table", problems):
        place = f"{path.name}, {name}"
        if name not in tables:
            problems.append(Problem(place, "", "is no table of the folder", "Remove these lines."))
        elif not isinstance(lines, dict | None):
            reason, remedy = "is not of the form `column: ...`", f"Write lines such as {FORM}."
            problems.append(Problem(place, "", reason, remedy))
        elif tables[name] is not None:
            said = {str(column): kind for column, kind in (lines or {}).items()}
            found[name] = {column: kind for column, kind in said.items() if isinstance(kind, str)}
            faults = _faults(name, said, tables)
            problems += [Problem(f"{place}/{column}", "", *why) for column, *why in faults]
    if problems:
        raise DataError(*problems)
    return Columns(found)


def _faults(
    name: str, said: Mapping[str, object], tables: Mapping[str, pd.DataFrame | None]
) -> Iterator[tuple[str, str, str]]:
    """Columns of a table that cannot be what is said of them: why, and what to do."""
    table = tables[name]
    targets, kinds = _targets(name, tables), _kinds(name, tables)
    final = [said.get(column, column) for column in table.columns]
    count = Counter(target for target in final if isinstance(target, str) and target in targets)
    given = Counter(kind for kind in said.values() if isinstance(kind, str))
    for column, kind in said.items():
        if column not in table:
            yield column, "is no column of the table", f"It has {brief(', '.join(table.columns))}."
        elif kind in kinds:
            if kind != IGNORE and column in targets:
                yield column, "is a column of the schema", f"Leave it out, or write {IGNORE}."
            elif kind == CONTEXT and (fault := _no_dimension(column, table[column])):
                yield column, *fault
        elif kind in KINDS:
            where = {FEATURE: "users and content", CONTEXT: "the table of events"}[kind]
            yield column, f"is {kind}, which is for {where}", f"Use {', '.join(kinds)}."
        elif not isinstance(kind, str) or kind not in targets:
            known = ", ".join((*kinds, *targets))
            yield column, f"is {quote(kind)}, which is nothing known", f"Use one of {known}."
        elif given[kind] > 1:
            yield column, f"is {kind}, as another column is", "Keep one of these lines."
        elif count[kind] > 1:
            yield column, f"is {kind}, which is there already", f"Write {kind}: {IGNORE} as well."


def _no_dimension(column: str, values: pd.Series) -> tuple[str, str] | None:
    """Why a column can be no dimension of the context, and what to do."""
    if column in TAKEN:
        return "is a reserved name", "Rename it in the table."
    if not values.dropna().map(pd.api.types.is_scalar).all():
        return "holds lists", "Give one value per cell."
    if (count := values.nunique()) > MOST_VALUES:
        return f"has {count} values, more than {MOST_VALUES}", f"Group them, or write {IGNORE}."
    return None


def _kinds(name: str, tables: Mapping[str, object]) -> tuple[str, ...]:
    """What a column of a table may be, beside a column of its schema."""
    return (
        *((FEATURE,) if name in DESCRIBED else ()),
        *((CONTEXT,) if name == _events(tables) else ()),
        IGNORE,
    )


def _targets(name: str, tables: Mapping[str, object]) -> tuple[str, ...]:
    """Columns that a table may have: those of its schema, and of events the context."""
    context = DIMENSIONS if name == _events(tables) else ()
    return tuple(dict.fromkeys((*SCHEMAS[name].columns, *context)))


def _events(tables: Mapping[str, object]) -> str:
    """The table that events, and their context, are read from."""
    return next((name for name in EVENT_TABLES if name in tables), EVENT_TABLES[0])
