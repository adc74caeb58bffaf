"""Tables on disk, and the frozen `Dataset` that every stage is fitted on."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from firetv import columns as mappings
from firetv.files import MANIFEST, is_whole, read_file, replacing
from firetv.schema import EVENT_TABLES, SCHEMAS, DataError, Problem, check_references, check_table
from firetv.streams import IDS, CodedTable, ParquetTable, open_table, part_files

SUFFIXES = (".csv", ".csv.gz", ".parquet")


@dataclass(frozen=True)
class Tables:
    """The tables of one data folder, in the schema's dtypes; None where a table is absent."""

    watch_history: pd.DataFrame | None = None
    content_reactions: pd.DataFrame | None = None
    users: pd.DataFrame | None = None
    content: pd.DataFrame | None = None
    user_connections: pd.DataFrame | None = None
    groups: pd.DataFrame | None = None
    weather: pd.DataFrame | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def present(self) -> dict[str, pd.DataFrame]:
        """Return the tables that are there, by name."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "manifest")
        return {name: table for name, table in pairs if table is not None}


def _checked(
    raw: Mapping[str, pd.DataFrame | ParquetTable],
    where: Mapping[str, str],
    earlier: Sequence[Problem | str] = (),
    columns: Collection[str] | None = None,
) -> dict[str, pd.DataFrame | CodedTable]:
    """Convert and check tables; raise their problems and earlier ones together."""
    tables, problems = {}, [*earlier]
    for name, table in raw.items():
        if isinstance(table, ParquetTable):
            tables[name], found = table.read(columns if name in EVENT_TABLES else None)
        else:
            tables[name], found = check_table(name, table, where[name])
        problems += found
    if any(name in tables for name in EVENT_TABLES):
        problems += _dangling(tables, where)
    elif not earlier:
        remedy = "Provide watch_history or content_reactions, as .csv or .parquet."
        problems.append(Problem("tables", "", "there are no viewing events", remedy))
    if problems:
        raise DataError(*problems)
    return tables


def _dangling(
    tables: Mapping[str, pd.DataFrame | CodedTable], where: Mapping[str, str]
) -> list[Problem]:
    coded = {name: table for name, table in tables.items() if isinstance(table, CodedTable)}
    counts = {(n, column): ids.counts for n, t in coded.items() for column, ids in t.ids.items()}
    distinct = {name: table.distinct() for name, table in coded.items()}
    return check_references({**tables, **distinct}, where, counts)


def _read_table(name: str, path: Path, stream: bool) -> pd.DataFrame | ParquetTable:
    """Read one table, or raise a `DataError` that says why it cannot be read.

    What can be streamed, or is a folder, is only looked at.
    """
    parted = name in EVENT_TABLES and path.is_dir() and part_files(path)
    if parted or (stream and name in IDS and path.suffix == ".parquet" and path.is_file()):
        table = open_table(name, path)
        return table if stream else table.whole()
    return read_file(path)


def _table_files(folder: Path) -> dict[str, list[Path]]:
    candidates = {name: [folder / f"{name}{suffix}" for suffix in SUFFIXES] for name in SCHEMAS}
    found = {name: [p for p in paths if os.path.lexists(p)] for name, paths in candidates.items()}
    for name in EVENT_TABLES:
        found[name] += [folder / name] if part_files(folder / name) else []
    return found


@dataclass(frozen=True)
class _Raw:
    """The tables of a folder in the schema's names, before they are checked."""

    tables: Mapping[str, pd.DataFrame | ParquetTable]
    where: Mapping[str, str]
    problems: Sequence[Problem | str]
    manifest: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path, mapping: str | Path | None, stream: bool) -> _Raw:
        """Read a folder; with `stream`, large tables in Parquet are opened, but not read."""
        if not folder.is_dir():
            raise DataError(Problem(str(folder), "", "is not a folder", "Name a folder of tables."))
        if not is_whole(folder):
            reason = "holds some of the tables that were being written when a process was stopped"
            raise DataError(Problem(str(folder), "", reason, "Write them again."))
        raw, where, problems = {}, {}, []
        files = _table_files(folder)
        for name, paths in files.items():
            if len(paths) > 1:
                names = ", ".join(path.name for path in paths)
                problems.append(Problem(names, "", "the table is there twice", "Keep one file."))
            elif paths:
                where[name] = f"{paths[0].name}{'/' * paths[0].is_dir()}"
                try:
                    raw[name] = _read_table(name, paths[0], stream)
                except DataError as error:
                    problems += error.problems
        manifest = {}
        try:
            manifest = read_manifest(folder)
        except DataError as error:
            problems += error.problems
        path = folder / mappings.FILE if mapping is None else Path(mapping)
        if mapping is not None or path.is_file():
            there = {name: raw.get(name) for name, paths in files.items() if paths}
            try:
                said = mappings.read_columns(path, there)
            except DataError as error:  # what the tables' columns are, nobody knows
                raise DataError(*problems, *error.problems) from error
            raw = {name: _named(table, name, said) for name, table in raw.items()}
            manifest = said.manifest(manifest)
        return cls(raw, where, problems, manifest)


def _named(
    table: pd.DataFrame | ParquetTable, name: str, said: mappings.Columns
) -> pd.DataFrame | ParquetTable:
    if not isinstance(table, ParquetTable):
        return said.table(name, table)
    context = tuple(c for c, kind in said.kinds.get(name, {}).items() if kind == mappings.CONTEXT)
    return replace(table, names=said.names(name, table.columns), context=context)


def read_tables(folder: str | Path, mapping: str | Path | None = None) -> Tables:
    """Read a folder of tables, CSV (UTF-8, optionally gzipped) or Parquet, and validate them.

    Only ``watch_history`` or ``content_reactions`` is required; they may be folders of Parquet
    files too. Ids become text, timestamps UTC. All of it is held in memory: :func:`load` need not.

    Parameters
    ----------
    folder : str or Path
    mapping : str or Path, optional
        A file that says what columns are, see :mod:`firetv.columns`; by default the folder's
        ``columns.yaml``, if there is one.

    Raises
    ------
    DataError
        All problems of all tables at once: file, column, number of rows, sample and remedy.
    """
    raw = _Raw.of(Path(folder), mapping, stream=False)
    return Tables(**_checked(raw.tables, raw.where, raw.problems), manifest=raw.manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read what a data folder says of itself; its name is all that is known without a manifest.

    Raises
    ------
    DataError
        If ``manifest.json`` is not a JSON object, or what it says of columns has another form.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return {"name": folder.name}
    remedy = "Repair it, or remove it: it is optional."
    try:
        said = {"name": folder.name, **json.loads(path.read_text("utf-8"))}
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(Problem(path.name, "", f"is not a JSON object: {error}", remedy)) from error
    context, kinds = said.get("context", []), said.get("columns", {})
    if not (isinstance(context, list) and all(isinstance(name, str) for name in context)):
        raise DataError(Problem(path.name, "context", "is not a list of columns", remedy))
    if not (isinstance(kinds, dict) and all(isinstance(of, dict) for of in kinds.values())):
        raise DataError(Problem(path.name, "columns", "does not list columns by table", remedy))
    return said


def _write_table(table: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
        return
    if "genres" in table:
        table = table.assign(genres=table["genres"].str.join("|"))
    if "timestamp" in table:
        table = table.assign(timestamp=table["timestamp"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    # A reader ends a line at each carriage return but in quotes, which csv leaves out around it.
    text = table.select_dtypes("str")
    returns = any(text[column].str.contains("\r", regex=False).any() for column in text)
    quoting = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
    table.to_csv(path, index=False, encoding="utf-8", lineterminator="\n", quoting=quoting)


def write_tables(
    tables: Tables, folder: str | Path, format: Literal["csv", "parquet"] = "csv"
) -> None:
    """Validate tables and write them to a folder, with ``manifest.json`` last.

    Files move to their places when all are complete; see :func:`~firetv.files.replacing`. CSV
    keeps timestamps to the second.

    Raises
    ------
    DataError
        If a table is invalid, or if the folder holds a table that this call would not replace.
    """
    folder, present = Path(folder), tables.present()
    checked = _checked(present, {name: f"{name}.{format}" for name in present})
    targets = {name: folder / f"{name}.{format}" for name in checked}
    if (folder / mappings.FILE).is_file():
        reason = f"holds {mappings.FILE}, which would change what is written when it is read"
        remedy = "Remove it, or choose another folder."
        raise DataError(Problem(str(folder), "", reason, remedy))
    strays = {p for paths in _table_files(folder).values() for p in paths} - set(targets.values())
    if strays:
        names = ", ".join(sorted(path.name for path in strays))
        remedy = "Remove them, or choose another folder."
        raise DataError(Problem(str(folder), "", f"already holds other tables: {names}", remedy))
    rows = {name: len(table) for name, table in checked.items()}
    text = json.dumps({**tables.manifest, "rows": rows}, indent=2, ensure_ascii=False) + "\n"
    with replacing(folder) as partial:
        for name, table in checked.items():
            _write_table(table, partial / targets[name].name)
        (partial / MANIFEST).write_text(text, "utf-8")


@dataclass(frozen=True)
class Dataset:
    """Viewing data with coded ids: what every stage is fitted on.

    Attributes
    ----------
    user_ids, item_ids : Index of str
        Position is the code. Ids stay when their events are filtered away, so codes keep their
        meaning across :meth:`until` and splits.
    users, content : DataFrame
        Row ``i`` describes user or item ``i``; attributes are missing where nothing is known.
    interactions : DataFrame
        One row per viewing event in file order: ``user``, ``item`` (int32 codes), ``timestamp``
        (UTC), and the observed or simulated columns of the table it came from: watch_history,
        or content_reactions where there is no history.
    reactions : DataFrame
        One row per reaction: ``user``, ``item``, ``timestamp``, ``rating`` and/or ``reaction``.
    friends : CSR matrix of shape (n_users, n_users), float32, or None
        Strength of the tie from row to column.
    groups : DataFrame or None
        ``group_id`` and ``user`` (code), one row per member.
    weather : DataFrame or None
        ``region``, ``date``, ``condition``.
    manifest : mapping
        Source, licence, checksum, whether each column was observed or simulated, and which columns
        are dimensions of the context beyond those of the schema.
    weights : CSR array of shape (n_users, n_items), float32, or None
        What :meth:`matrix` returns in place of who saw what: for models that are to learn from
        more, or from less. Such data cannot be filtered any more.
    """

    user_ids: pd.Index
    item_ids: pd.Index
    users: pd.DataFrame
    content: pd.DataFrame
    interactions: pd.DataFrame
    reactions: pd.DataFrame
    friends: sparse.csr_array | None = None
    groups: pd.DataFrame | None = None
    weather: pd.DataFrame | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    weights: sparse.csr_array | None = None

    @classmethod
    def from_tables(cls, tables: Tables) -> Dataset:
        """Code the ids of validated tables. Codes follow the profile table, then first event."""
        return cls._of(tables.present(), tables.manifest)

    @classmethod
    def _of(
        cls,
        tables: Mapping[str, pd.DataFrame | CodedTable],
        manifest: Mapping[str, Any],
        columns: Collection[str] | None = None,
    ) -> Dataset:
        large = {
            name: table if isinstance(table, CodedTable) else CodedTable.of(name, table, columns)
            for name, table in tables.items()
            if name in IDS
        }
        users, content, groups = (tables.get(name) for name in ("users", "content", "groups"))
        events = [large[name] for name in EVENT_TABLES if name in large]
        user_ids = _all_ids("user_id", users, events)
        item_ids = _all_ids("content_id", content, events)
        interactions = _coded(events[0], user_ids, item_ids)
        if "content_reactions" in large:
            said = large["content_reactions"]
            reactions = interactions if said is events[0] else _coded(said, user_ids, item_ids)
        else:
            reactions = interactions.iloc[:0].reindex(columns=[*KEYS, "rating", "reaction"])
        if groups is not None:
            codes = user_ids.get_indexer(groups["user_id"]).astype(np.int32)
            groups = groups[["group_id"]].assign(user=codes)
        return cls(
            user_ids=user_ids,
            item_ids=item_ids,
            users=_aligned(users, "user_id", user_ids),
            content=_aligned(content, "content_id", item_ids),
            interactions=interactions,
            reactions=reactions,
            friends=_friend_matrix(large.get("user_connections"), user_ids),
            groups=groups,
            weather=tables.get("weather"),
            manifest=manifest,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of users and of items, with or without events."""
        return len(self.user_ids), len(self.item_ids)

    @property
    def own_dimensions(self) -> tuple[str, ...]:
        """Columns of the interactions that are dimensions of the context, of the data's own."""
        context = self.manifest.get("context", ())
        return tuple(name for name in context if name in self.interactions)

    def matrix(self, values: Literal["seen", "rating"] = "seen") -> sparse.csr_array:
        """Return users x items as CSR, float32, shape ``(n_users, n_items)``.

        ``seen`` holds 1 for every pair with an event, however often; ``rating`` the mean rating.
        Built once and shared by all who ask: not to be written to.
        """
        return self._seen if values == "seen" else self._mean_rating

    @cached_property
    def _seen(self) -> sparse.csr_array:
        if self.weights is not None:
            return self.weights
        seen = self._sum_by_pair(self.interactions, np.ones(len(self.interactions), np.float32))
        seen.data[:] = 1
        return seen

    @cached_property
    def _mean_rating(self) -> sparse.csr_array:
        if "rating" not in self.reactions:
            return sparse.csr_array(self.shape, dtype=np.float32)
        rated = self.reactions.dropna(subset="rating")
        mean = self._sum_by_pair(rated, rated["rating"].to_numpy(float))
        mean.data /= self._sum_by_pair(rated, np.ones(len(rated))).data
        return mean.astype(np.float32)

    def _sum_by_pair(self, frame: pd.DataFrame, amount: np.ndarray) -> sparse.csr_array:
        place = (frame["user"].to_numpy(), frame["item"].to_numpy())
        return sparse.csr_array((amount, place), shape=self.shape)

    @cached_property
    def item_counts(self) -> np.ndarray:
        """Number of distinct viewers of each item, or of weights, ``(n_items,)``, int64."""
        return np.bincount(self._seen.indices, minlength=self.shape[1])

    @cached_property
    def user_counts(self) -> np.ndarray:
        """Number of distinct items of each user, or of weights, ``(n_users,)``, int64."""
        return np.diff(self._seen.indptr).astype(np.int64)

    @cached_property
    def titles(self) -> np.ndarray:
        """Titles of all items, their ids where there is none, object array of ``(n_items,)``."""
        return _called(self.content, "title", self.item_ids)

    @cached_property
    def names(self) -> np.ndarray:
        """Names of all users, their ids where there is none, object array of ``(n_users,)``."""
        return _called(self.users, "name", self.user_ids)

    @property
    def end(self) -> pd.Timestamp:
        """The instant just after the last event or reaction."""
        times = (self.interactions["timestamp"], self.reactions["timestamp"])
        return pd.concat(times).max() + pd.Timedelta(1, "us")

    def until(self, instant: pd.Timestamp) -> Dataset:
        """Return what was known just before ``instant``: events at or after it are gone."""
        return self._filtered(
            interactions=self.interactions[self.interactions["timestamp"] < instant],
            reactions=self.reactions[self.reactions["timestamp"] < instant],
        )

    def keep(self, mask: np.ndarray) -> Dataset:
        """Return the data with only the interactions of a mask, shape ``(n_interactions,)``.

        Reactions to a pair that loses an interaction go too, so that a held-out pair leaves no
        trace.
        """
        mask = np.asarray(mask, bool)
        lost = self._pairs(self.interactions[~mask])
        left = ~np.isin(self._pairs(self.reactions), lost)
        return self._filtered(interactions=self.interactions[mask], reactions=self.reactions[left])

    def shorten(self, lengths: np.ndarray, rng: np.random.Generator) -> Dataset:
        """Return the data with short histories, as if their users had only just come.

        Parameters
        ----------
        lengths : float array of shape (n_users,)
            Distinct items that each user keeps, drawn at random; infinity keeps all. With the
            same state of `rng`, those kept at one length are among those at a greater one.
        rng : Generator

        Returns
        -------
        Dataset
            Without the interactions and reactions of a shortened user with any other item.
        """
        history = self._seen.tocoo()
        order = np.lexsort((rng.random(history.nnz), history.row))
        rank = np.empty(history.nnz, np.int64)
        rank[order] = np.arange(history.nnz) - self._seen.indptr[history.row[order]]
        kept = rank < lengths[history.row]
        pairs = np.sort(history.row[kept] * np.int64(self.shape[1]) + history.col[kept])
        whole = np.isinf(lengths)
        frames = {
            name: frame[whole[frame["user"]] | np.isin(self._pairs(frame), pairs)]
            for name, frame in (("interactions", self.interactions), ("reactions", self.reactions))
        }
        return self._filtered(**frames)

    def _filtered(self, interactions: pd.DataFrame, reactions: pd.DataFrame) -> Dataset:
        if self.weights is not None:
            raise ValueError("the weights are of all events: filter the data before weighing them")
        return replace(self, interactions=interactions, reactions=reactions)

    def _pairs(self, frame: pd.DataFrame) -> np.ndarray:
        return frame["user"].to_numpy(np.int64) * self.shape[1] + frame["item"].to_numpy(np.int64)


KEYS = ("user", "item", "timestamp")


def load(
    folder: str | Path,
    mapping: str | Path | None = None,
    columns: Collection[str] | None = None,
) -> Dataset:
    """Read, validate and code a folder of tables.

    Events and friendships in Parquet, events in folders of Parquet files too, are read by blocks of
    rows: of them, memory holds the codes of their ids and the columns that are kept. The result and
    the errors are those of :func:`read_tables`, but for row numbers that the files may store.

    Parameters
    ----------
    folder : str or Path
    mapping : str or Path, optional
        See :func:`read_tables`.
    columns : collection of str, optional
        Columns of the events and reactions to keep beside user, item and timestamp, in the schema's
        names, such as ``("rating",)``; by default all. In Parquet the others are not read.

    Raises
    ------
    DataError
        See :func:`read_tables`.
    ValueError
        If no table of events has one of `columns`.
    """
    raw = _Raw.of(Path(folder), mapping, stream=True)
    if columns is not None:
        _check_known(columns, raw)
    tables = _checked(raw.tables, raw.where, raw.problems, columns)
    return Dataset._of(tables, raw.manifest, columns)


def _check_known(columns: Collection[str], raw: _Raw) -> None:
    """Refuse names that are neither in the schema of events, nor in the files."""
    if isinstance(columns, str):
        raise ValueError(f"columns is {columns!r}: give a list of names")
    known = [column for name in EVENT_TABLES for column in SCHEMAS[name].columns]
    for table in (raw.tables[name] for name in EVENT_TABLES if name in raw.tables):
        known += table.names.values() if isinstance(table, ParquetTable) else list(table)
    if strange := [column for column in columns if column not in known]:
        names = ", ".join(dict.fromkeys(known))
        raise ValueError(f"events have no column {', '.join(strange)}: use some of {names}")


def fingerprint(folder: str | Path, mapping: str | Path | None = None) -> str:
    """SHA-256 of the tables of a folder, and of what says what their columns are."""
    folder, found = Path(folder), hashlib.sha256()
    files = [path for paths in _table_files(folder).values() for path in paths]
    files.append(folder / mappings.FILE if mapping is None else Path(mapping))
    for path in files:
        for part in part_files(path) or [path]:
            if part.is_file():
                found.update(f"{part.name}\n".encode())
                with part.open("rb") as file:
                    while block := file.read(1 << 20):
                        found.update(block)
    return found.hexdigest()


def compact(matrix: sparse.csr_array) -> sparse.csr_array:
    """The same matrix in float32, its rows sorted, with 32-bit indices if they suffice.

    Products and sums of scipy may come with 64-bit ones, which implicit and LightFM refuse, and
    with rows in another order, which both would let decide what they learn.
    """
    matrix = matrix.sorted_indices()
    index = sparse.get_index_dtype(maxval=max(matrix.nnz, *matrix.shape))
    places = matrix.indices.astype(index), matrix.indptr.astype(index)
    return sparse.csr_array((matrix.data.astype(np.float32), *places), shape=matrix.shape)


def _called(table: pd.DataFrame, column: str, ids: pd.Index) -> np.ndarray:
    known = pd.Series(ids, dtype="str")
    return (table[column].fillna(known) if column in table else known).to_numpy(object)


def _all_ids(column: str, profile: pd.DataFrame | None, events: Sequence[CodedTable]) -> pd.Index:
    known = [] if profile is None else [profile[column]]
    seen = [pd.Series(table.ids[column].values) for table in events]
    return pd.Index(pd.concat([*known, *seen]).unique(), name=column)


def _coded(events: CodedTable, user_ids: pd.Index, item_ids: pd.Index) -> pd.DataFrame:
    codes = {
        "user": events.ids["user_id"].within(user_ids),
        "item": events.ids["content_id"].within(item_ids),
    }
    return pd.concat([pd.DataFrame(codes, index=events.rest.index), events.rest], axis=1)


def _aligned(table: pd.DataFrame | None, column: str, ids: pd.Index) -> pd.DataFrame:
    if table is None:
        return pd.DataFrame({column: ids})
    return table.set_index(column).reindex(ids).reset_index()


def _friend_matrix(ties: CodedTable | None, user_ids: pd.Index) -> sparse.csr_array | None:
    """Strength of friendship; of duplicate edges the strongest counts, self-loops do not."""
    if ties is None:
        return None
    n, strength = len(user_ids), np.ones(len(ties.rest))
    if "strength" in ties.rest:
        strength = ties.rest["strength"].fillna(1.0).to_numpy()
    user, friend = (ties.ids[name].within(user_ids) for name in ("user_id", "friend_id"))
    others = user != friend
    pair = user[others].astype(np.int64) * n + friend[others]
    order = np.argsort(pair)
    pair, first = np.unique(pair[order], return_index=True)
    strongest = np.maximum.reduceat(strength[others][order], first).astype(np.float32)
    return sparse.csr_array((strongest, np.divmod(pair, n)), shape=(n, n))
