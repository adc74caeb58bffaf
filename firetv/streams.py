"""Large tables: read from Parquet block by block, checked, and coded, so that no text is held.

Of a column of ids or labels, memory holds an int32 code for each row and each value once. Columns
that nobody asked for are never read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import dataset, parquet

from firetv.schema import (
    SCHEMAS,
    DataError,
    Problem,
    check_extras,
    check_names,
    check_table,
    holds_lists,
    is_text,
    merged,
    passed,
    required,
    to_text,
    unreadable,
    whole_numbers,
)

ROWS = 1 << 18  # of a block, at least; what is read does not depend on it
IDS: Mapping[str, tuple[str, str]] = {
    "watch_history": ("user_id", "content_id"),
    "content_reactions": ("user_id", "content_id"),
    "user_connections": ("user_id", "friend_id"),
}  # the tables that can be large, and their columns of ids
SAYS = ("rating", "reaction")  # a reaction must have one of them, so both are always read


@dataclass(frozen=True)
class Coded:
    """A column of text, each value once.

    Attributes
    ----------
    codes : int32 array of shape (n_rows,)
        Positions in `values`, -1 where the text is missing.
    values : Index of str
        In the order of their first rows.
    """

    codes: np.ndarray
    values: pd.Index

    @classmethod
    def of(cls, column: pd.Series) -> Coded:
        """Code a column.

        Examples
        --------
        >>> Coded.of(pd.Series(["b", "a", None, "b"])).codes.tolist()
        [0, 1, -1, 0]
        """
        codes, values = pd.factorize(column)
        return cls(codes.astype(np.int32), pd.Index(values))

    @cached_property
    def counts(self) -> np.ndarray:
        """Number of rows of each value, int64."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.values))

    def within(self, ids: pd.Index) -> np.ndarray:
        """Positions of the rows' texts in an index, -1 where they are not in it, int32."""
        place = ids.get_indexer(self.values).astype(np.int32)
        return np.append(place, np.int32(-1))[self.codes]

    def text(self) -> pd.api.extensions.ExtensionArray:
        """Return the column as it was, of pandas' dtype str."""
        return self.values.array.take(self.codes, allow_fill=True)

    def as_text(self) -> Coded:
        """Return the column with its values as :func:`firetv.schema.to_text` writes them."""
        return self._mapped(to_text(pd.Series(self.values)))

    def _mapped(self, text: pd.Series) -> Coded:
        """Give each value a text; those that now are the same, or missing, share a code."""
        if text.equals(pd.Series(self.values)):
            return self
        other = Coded.of(text)
        return Coded(np.append(other.codes, np.int32(-1))[self.codes], other.values)


@dataclass(frozen=True)
class CodedTable:
    """A table whose ids are codes.

    Attributes
    ----------
    ids : mapping of str to Coded
        By the ids' columns, see :data:`IDS`.
    rest : DataFrame
        All other columns, a row for each of the table's.
    """

    ids: Mapping[str, Coded]
    rest: pd.DataFrame

    @classmethod
    def of(
        cls, name: str, table: pd.DataFrame, columns: Collection[str] | None = None
    ) -> CodedTable:
        """Code a table in memory; `columns` are those to keep of the rest, by default all."""
        ids = {column: Coded.of(table[column]) for column in IDS[name] if column in table}
        wanted = table.columns if columns is None else {*columns, *required(name)}
        return cls(ids, table[[c for c in table if c in wanted and c not in ids]])

    def distinct(self) -> pd.DataFrame:
        """Each id once, in a column for each kind; the shorter ones end in missing values."""
        return pd.DataFrame({name: pd.Series(ids.values) for name, ids in self.ids.items()})


class _Column:
    """A column that is coded block by block. Values wait to be joined until there are many."""

    def __init__(self, rows: int) -> None:
        self.codes = np.full(rows, -1, np.int32)
        self.values = pd.Index([], dtype="str")
        self.waiting: list[tuple[slice, pd.Index]] = []

    def add(self, place: slice, block: Coded) -> None:
        self.codes[place] = block.codes
        self.waiting.append((place, block.values))
        if sum(len(values) for _, values in self.waiting) > max(2 * len(self.values), ROWS):
            self._join()  # so seldom that all of it costs no more than what waited

    def _join(self) -> None:
        old = len(self.values)
        every = self.values.append([values for _, values in self.waiting])
        codes, self.values = every.factorize()
        ends = old + np.cumsum([len(values) for _, values in self.waiting])
        for (place, values), end in zip(self.waiting, ends, strict=True):
            new = np.append(codes[end - len(values) : end], -1).astype(np.int32)
            self.codes[place] = new[self.codes[place]]
        self.waiting = []

    def done(self) -> Coded:
        if self.waiting:
            self._join()
        return Coded(self.codes, self.values)


@dataclass(frozen=True)
class ParquetTable:
    """A table on disk: a Parquet file, or a folder of them, whose rows follow the files' names.

    Attributes
    ----------
    name : str
        A key of :data:`IDS`.
    where : str
        The file's or folder's name, for messages.
    source : pyarrow Dataset
    names : mapping of str to str
        The schema's names of the columns that may be read, by those in the file.
    context : tuple of str
        Those of them that are dimensions of the context, of the data's own.
    """

    name: str
    where: str
    source: dataset.Dataset
    names: Mapping[str, str]
    context: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Names of the columns in the file."""
        return list(self.names)

    def __contains__(self, column: object) -> bool:
        return column in self.names

    def __getitem__(self, column: str) -> pd.Series:
        """Return the distinct values of a column; one row that has a list, of lists."""
        found = pd.Series(dtype=object)
        for block in self._blocks([column]):
            values = self._frame(block)[column].dropna()
            if pa.types.is_nested(block.schema.field(column).type):
                found = values[:1] if len(values) else found
            else:
                found = pd.concat([found, values], ignore_index=True).drop_duplicates()
        return found

    def whole(self) -> pd.DataFrame:
        """Read the table as it is, all of it.

        Raises
        ------
        DataError
            If it cannot be read.
        """
        try:
            table = self.source.to_table(columns=self.columns)
        except Exception as error:  # of a damaged file, libraries raise all kinds
            raise unreadable(self.where, error) from error
        return self._frame(table)

    def read(self, columns: Collection[str] | None = None) -> tuple[CodedTable, list[Problem]]:
        """Read, check and code the table.

        Parameters
        ----------
        columns : collection of str, optional
            Columns to keep beside the ids and times, in the schema's names; by default all. What
            is not kept is not read, nor checked.

        Returns
        -------
        CodedTable, list of Problem
            What :func:`firetv.schema.check_table` makes of the whole table, and says of it.
        """
        wanted = None if columns is None else {*columns, *required(self.name)}
        also = SAYS if self.name == "content_reactions" else ()
        used = {
            column: name
            for column, name in self.names.items()
            if wanted is None or name in wanted or name in also
        }
        try:
            reading = _Reading.of(replace(self, names=used))
            for block in self._blocks(list(used)):
                reading.add(block, self._frame(block))
            reading.check_rows(reading.at)
        except DataError as error:
            return CodedTable({}, pd.DataFrame()), list(error.problems)
        if not reading.rows:
            _, problems = check_table(self.name, pd.DataFrame(), self.where)
            return CodedTable({}, pd.DataFrame()), problems
        return reading.table(wanted), merged(reading.problems)

    def _blocks(self, columns: list[str]) -> Iterator[pa.Table]:
        """Some columns, at least :data:`ROWS` rows at once but for the last."""
        waiting, rows = [], 0
        for batch in self._batches(columns):
            waiting, rows = [*waiting, batch], rows + batch.num_rows
            if rows >= ROWS:
                yield pa.Table.from_batches(waiting)
                waiting, rows = [], 0
        if rows:
            yield pa.Table.from_batches(waiting)

    def _batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        # By default 16 batches wait, and what was read of a file stays until its end.
        lean = dataset.ParquetFragmentScanOptions(use_buffered_stream=True, pre_buffer=False)
        try:
            yield from self.source.to_batches(
                columns=columns,
                batch_size=ROWS,
                batch_readahead=1,
                fragment_readahead=1,
                fragment_scan_options=lean,
            )
        except Exception as error:  # see `whole`
            raise unreadable(self.where, error) from error

    def _frame(self, table: pa.Table) -> pd.DataFrame:
        try:
            table.validate(full=True)  # of text, which pandas would take as it is
            frame = table.to_pandas().reset_index(drop=True)
            if list(frame) != table.column_names:
                raise ValueError("its columns have other names in its note for pandas")
            return frame
        except Exception as error:  # such as of a time zone that nobody knows
            raise unreadable(self.where, error) from error


class _Reading:
    """What has been read of a table so far."""

    def __init__(self, table: ParquetTable, rows: int, whole: Mapping[str, bool]) -> None:
        self.of_table, self.whole, self.rows = table, whole, rows
        names, done = list(table.names.values()), {}
        self.text = [n for n in names if is_text(table.name, n) or n in table.context]
        known = SCHEMAS[table.name].columns
        self.plain = [n for n in names if n in known and n not in self.text]
        self.extra = [n for n in names if n not in known and n not in self.text]
        self.coded = {name: _Column(rows) for name in self.text}
        for name in self.plain:
            done[name] = np.empty(rows, "M8[us]" if name == "timestamp" else np.float64)
        self.arrays, self.extras, self.problems, self.at = done, [], [], 0

    @classmethod
    def of(cls, table: ParquetTable) -> _Reading:
        schema = table.source.schema
        whole = {
            name: _is_whole(table, column)
            for column, name in table.names.items()
            if pa.types.is_floating(schema.field(column).type)
            and (is_text(table.name, name) or name in table.context)
        }
        return cls(table, table.source.count_rows(), whole)

    def add(self, block: pa.Table, frame: pd.DataFrame) -> None:
        """Check a block, as it is and for pandas, and put it in its place."""
        names = self.of_table.names
        self.extras.append(block.select([c for c, n in names.items() if n in self.extra]))
        frame = frame.rename(columns=names)
        if self.at + len(frame) > self.rows:
            self.check_rows(self.at + len(frame))
        for name, whole in self.whole.items():
            text = frame[name].astype("Int64") if whole else frame[name].astype("str")
            frame[name] = text.where(frame[name].notna())
        coded, plain = self._checked(frame)
        place = slice(self.at, self.at + len(frame))
        for name, values in coded.items():
            self.coded[name].add(place, values)
        for name in plain:
            values = plain[name].dt.tz_convert(None) if name == "timestamp" else plain[name]
            self.arrays[name][place] = values.to_numpy()
        self.at = place.stop

    def _checked(self, frame: pd.DataFrame) -> tuple[dict[str, Coded], pd.DataFrame]:
        """Convert a block: value by value where nothing is wrong, else row by row."""
        name, must = self.of_table.name, required(self.of_table.name)
        context = self.of_table.context
        raw = {n: Coded.of(frame[n]) for n in self.text if not holds_lists(frame[n])}
        plain = passed(name, frame[self.plain])
        coded = {n: c.as_text() if n in context else _passed(name, n, c) for n, c in raw.items()}
        fine = plain is not None and len(raw) == len(self.text)
        fine = fine and all(each is not None for each in coded.values())
        fine = fine and all(n in frame for n in must)
        fine = fine and all((c.codes >= 0).all() for n, c in coded.items() if n in must)
        if fine and self._says(coded, plain) and not self._odd(frame):
            return coded, plain
        texts = {n: raw[n].as_text().text() for n in context}
        table, problems = check_table(name, frame.assign(**texts), self.of_table.where)
        self.problems += problems
        return {n: Coded.of(table[n]) for n in self.text}, table[self.plain]

    def check_rows(self, rows: int) -> None:
        """Raise a DataError where those that were read are not as many as the file says."""
        if rows != self.rows:
            error = ValueError(f"it says {self.rows:,} rows, and holds {rows:,}")
            raise unreadable(self.of_table.where, error)

    def _says(self, coded: Mapping[str, Coded], plain: pd.DataFrame) -> bool:
        """Whether each reaction says something."""
        if self.of_table.name != "content_reactions":
            return True
        said = plain["rating"].notna().to_numpy() if "rating" in plain else np.False_
        if "reaction" in coded:
            said = said | (coded["reaction"].codes >= 0)
        return bool(np.all(said))

    def _odd(self, frame: pd.DataFrame) -> bool:
        """Whether a column beyond the schema may be at fault, by its name or what it holds."""
        return bool(check_extras(self.of_table.name, frame[self.extra], self.of_table.where))

    def table(self, wanted: Collection[str] | None) -> CodedTable:
        """What was read, in the order of the file's columns."""
        ids = {n: self.coded[n].done() for n in IDS[self.of_table.name] if n in self.coded}
        extras = pa.concat_tables(self.extras).to_pandas().rename(columns=self.of_table.names)
        rest = {}
        for name in self.of_table.names.values():
            if name in ids or not (wanted is None or name in wanted):
                continue
            if name in self.coded:
                rest[name] = self.coded.pop(name).done().text()
            elif name not in self.arrays:
                rest[name] = extras[name].array
            elif name == "timestamp":
                rest[name] = pd.DatetimeIndex(self.arrays.pop(name)).tz_localize("UTC").array
            else:
                rest[name] = self.arrays.pop(name)
        return CodedTable(ids, pd.DataFrame(rest, index=pd.RangeIndex(self.rows), copy=False))


def _passed(name: str, column: str, coded: Coded) -> Coded | None:
    """Check the values of a column of text; None if one of them is at fault."""
    text = passed(name, pd.DataFrame({column: pd.Series(coded.values)}))
    return None if text is None else coded._mapped(text[column])


def _is_whole(table: ParquetTable, column: str) -> bool:
    """Whether ids that are stored as floats are whole numbers, as `to_text` asks of a column."""
    return all(whole_numbers(table._frame(block)[column]) for block in table._blocks([column]))


def part_files(folder: Path) -> list[Path]:
    """Parquet files of a folder, by their names."""
    return sorted(path for path in folder.glob("*.parquet") if path.is_file())


def open_table(name: str, path: Path) -> ParquetTable:
    """Look at a Parquet file, or a folder of part files, without reading its rows.

    Columns of the parts are joined by name; where a part has none, its values are missing.

    Parameters
    ----------
    name : str
        A key of :data:`IDS`.
    path : Path

    Raises
    ------
    DataError
        If a file is no Parquet, or the parts have columns of one name and different types.
    """
    where = f"{path.name}/" if path.is_dir() else path.name
    files = part_files(path) if path.is_dir() else [path]
    try:
        schemas = [parquet.read_schema(file) for file in files]
        for each in schemas:
            check_names(each.names, where)
        schema = pa.unify_schemas(schemas, promote_options="permissive")
        source = dataset.dataset([str(file) for file in files], schema=schema, format="parquet")
        index = (schema.pandas_metadata or {}).get("index_columns", ())  # names, or a range's ends
        stored = [column for column in index if isinstance(column, str)]
        names = {column: column for column in schema.names if column not in stored}
    except DataError:
        raise
    except Exception as error:  # its footer is damaged: see `ParquetTable.whole`
        raise unreadable(where, error) from error
    return ParquetTable(name, where, source, names)
