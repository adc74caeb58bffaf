"""Damaged and odd files: what is read is right, or one line says which file is wrong and how.

Damage is made up by hypothesis; see `made_up` for how much of it.
"""

from __future__ import annotations

import datetime as dt
import gzip
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import make_rich_tables
from hypothesis import given
from hypothesis import strategies as st
from made_up import made_up, on_files
from pyarrow import parquet
from typer.testing import CliRunner

from firetv import files
from firetv.cli import app
from firetv.columns import read_columns
from firetv.data import Tables, load, read_tables, write_tables
from firetv.rules import read_rules
from firetv.schema import DataError, check_table
from firetv.streams import _Reading

FORMATS = ("csv", "csv.gz", "parquet")
NAMES = ("watch_history", "users")
PATIENCE = 20.0  # seconds that a file may take on a busy machine


def packed(content: bytes, format: str) -> bytes:
    return gzip.compress(content, mtime=0) if format == "csv.gz" else content


@pytest.fixture(scope="module")
def small() -> Tables:
    tables = make_rich_tables(6, 8, 40)
    return replace(tables, content_reactions=None, user_connections=None, content=None)


@pytest.fixture(scope="module")
def folders(small: Tables, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same tables in each format."""
    found = {}
    for format in FORMATS:
        found[format] = tmp_path_factory.mktemp(format.replace(".", "-"))
        write_tables(small, found[format], "parquet" if format == "parquet" else "csv")
    for path in list(found["csv.gz"].glob("*.csv")):
        path.with_name(f"{path.name}.gz").write_bytes(packed(path.read_bytes(), "csv.gz"))
        path.unlink()
    return found


def copied(folders: dict[str, Path], format: str, tmp_path: Path) -> Path:
    return shutil.copytree(folders[format], tmp_path / "tables", dirs_exist_ok=True)


def outcome(folder: Path, file: str | None = None) -> str:
    """What is said of a folder, "" if nothing: the same by both readers, and a line a problem.

    Whatever else they raise, fails a test, and so does a line that names no table's file, gives no
    remedy, or is too long to read.
    """
    said = []
    for read in (read_tables, load):
        start = time.monotonic()
        try:
            read(folder)
        except DataError as error:
            said.append(str(error))
            assert len(said[-1].splitlines()) == len(error.problems)
        else:
            said.append("")
        assert time.monotonic() - start < PATIENCE
    assert said[0] == said[1]
    for line in said[0].splitlines():
        assert line.startswith((*NAMES, "content", "weather")), line[:300]
        assert line.endswith("."), line[-300:]
        assert len(line) < 1500, line[:300]
    assert file is None or said[0] == "" or file in said[0]
    return said[0]


# Text


def with_line(content: bytes, line: bytes) -> bytes:
    """The content with one more line, after the first two."""
    lines = content.split(b"\n")
    return b"\n".join([*lines[:2], line, *lines[2:]])


def of_three_ends(content: bytes) -> bytes:
    lines, ends = content.split(b"\n")[:-1], (b"\n", b"\r\n", b"\r")
    return b"".join(line + ends[n % 3] for n, line in enumerate(lines))


HARMLESS: dict[str, Callable[[bytes], bytes]] = {
    "byte order mark": lambda c: b"\xef\xbb\xbf" + c,
    "lines of Windows": lambda c: c.replace(b"\n", b"\r\n"),
    "lines of old Macs": lambda c: c.replace(b"\n", b"\r"),
    "mixed line ends": of_three_ends,
    "no last line end": lambda c: c.rstrip(b"\n"),
    "blank lines": lambda c: c.replace(b"\n", b"\n\n"),
}
BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda c: b"", "the file is empty"),
    "a mark alone": (lambda c: b"\xef\xbb\xbf", "the file is empty"),
    "header only": (lambda c: c.split(b"\n")[0] + b"\n", "holds no rows"),
    "Latin-1": (lambda c: with_line(c, b"caf\xe9,caf\xe9"), "is not UTF-8 text"),
    "UTF-16": (lambda c: c.decode().encode("utf-16"), "a NUL byte in line 1"),
    "UTF-16 without a mark": (lambda c: c.decode().encode("utf-16-le"), "a NUL byte in line 1"),
    "UTF-32": (lambda c: c.decode().encode("utf-32"), "a NUL byte in line 1"),
    "NUL in a cell": (lambda c: with_line(c, b"u\0,x"), "a NUL byte in line 3"),
    "NUL in the header": (lambda c: b"us\0er," + c, "a NUL byte in line 1"),
    "NULs at the end": (lambda c: c + b"\0" * 4096, "a NUL byte in line"),
    "open quote": (lambda c: with_line(c, b'"u,x'), "cannot be read: "),
    "long row": (lambda c: with_line(c, b",".join([b"1"] * 40)), "cannot be read: "),
    "column twice": (lambda c: c.replace(b"\n", b",x,x\n", 1), "column x: column is there twice"),
    "no name": (lambda c: c.replace(b"\n", b",\n"), "has no name"),
}


@pytest.mark.parametrize(
    ("kind", "format"), [*((kind, "csv") for kind in HARMLESS), ("mixed line ends", "csv.gz")]
)
def test_text_of_all_systems_is_read(
    folders: dict[str, Path], small: Tables, tmp_path: Path, kind: str, format: str
) -> None:
    folder = copied(folders, format, tmp_path)
    for name in ("watch_history", "users"):
        path = folder / f"{name}.{format}"
        path.write_bytes(
            packed(HARMLESS[kind]((folders["csv"] / f"{name}.csv").read_bytes()), format)
        )
    read, whole = read_tables(folder), read_tables(folders["csv"])
    for name, table in whole.present().items():
        pd.testing.assert_frame_equal(read.present()[name], table)
    assert len(whole.watch_history) == len(small.watch_history)


@pytest.mark.parametrize(("name", "format"), [("watch_history", "csv"), ("users", "csv.gz")])
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_text_is_named(
    folders: dict[str, Path], tmp_path: Path, kind: str, name: str, format: str
) -> None:
    folder, (broken, expected) = copied(folders, format, tmp_path), BROKEN[kind]
    content = broken((folders["csv"] / f"{name}.csv").read_bytes())
    (folder / f"{name}.{format}").write_bytes(packed(content, format))
    said = outcome(folder, f"{name}.{format}")
    assert f"{name}.{format}" in said
    assert expected in said


HISTORY = "user_id,content_id,timestamp\n"
MOMENT = "2026-01-31T20:15:00Z"


def test_a_field_of_ten_megabytes_is_read(tmp_path: Path) -> None:
    (tmp_path / "watch_history.csv").write_text(f"{HISTORY}{'u' * 10_000_000},c,{MOMENT}\n")
    assert outcome(tmp_path) == ""
    assert len(load(tmp_path).user_ids[0]) == 10_000_000


def test_a_field_of_ten_megabytes_is_quoted_briefly(tmp_path: Path) -> None:
    (tmp_path / "watch_history.csv").write_text(f"{HISTORY}u,c,{'1' * 10_000_000}\n")
    said = outcome(tmp_path)
    assert "is not an instant with a time zone (1 row), e.g. '1111" in said
    assert len(said) < 500


def test_a_name_of_several_lines_leaves_a_problem_on_one_line(tmp_path: Path) -> None:
    header = HISTORY.strip() + ',"my\ncolumn","my\ncolumn"\n'
    (tmp_path / "watch_history.csv").write_text(f"{header}u,c,{MOMENT},1,2\n")
    assert "column my column: column is there twice" in outcome(tmp_path)


@pytest.mark.parametrize(
    ("byte", "expected"), [(b"\0", "a NUL byte in line 1"), (b"a", "a line of more than 64 MB")]
)
def test_what_unpacks_to_far_more_is_refused_before_it_fills_the_memory(
    tmp_path: Path, byte: bytes, expected: str
) -> None:
    path = tmp_path / "watch_history.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(200):
            file.write(byte * 1_000_000)
    assert path.stat().st_size < 2_000_000
    assert expected in outcome(tmp_path, path.name)


def test_lines_are_counted_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BLOCK", 64)
    monkeypatch.setattr(files, "LONGEST_LINE", 100)
    path = tmp_path / "watch_history.csv"
    rows = f"u,c,{MOMENT}\n" * 50
    path.write_text(HISTORY + rows)
    assert outcome(tmp_path) == ""  # its lines are short, all in all they are long
    path.write_text(HISTORY + rows + "\0")
    assert "a NUL byte in line 52" in outcome(tmp_path)
    path.write_text(HISTORY + rows + "u" * 300 + f",c,{MOMENT}\n")
    assert "a line of more than" in outcome(tmp_path)
    assert "(line 52)" in outcome(tmp_path)


@pytest.mark.parametrize("content", [b"", b"user_id,age\n", b"\x1f\x8b", b"\x1f\x8b\x08\0" * 9])
def test_what_is_no_gzip_is_named(folders: dict[str, Path], tmp_path: Path, content: bytes) -> None:
    folder = copied(folders, "csv.gz", tmp_path)
    (folder / "users.csv.gz").write_bytes(content)
    assert outcome(folder).startswith("users.csv.gz")


def test_a_gzip_in_parts_is_one_table(folders: dict[str, Path], tmp_path: Path) -> None:
    content = (folders["csv"] / "users.csv").read_bytes()
    folder = copied(folders, "csv.gz", tmp_path)
    halves = packed(content[:50], "csv.gz") + packed(content[50:], "csv.gz")
    (folder / "users.csv.gz").write_bytes(halves)
    assert outcome(folder) == ""
    (folder / "users.csv.gz").write_bytes(halves + b"junk")
    assert "users.csv.gz: cannot be read" in outcome(folder)


IDS = ["007", "1e5", "1.0", "NA", "null", "nan", "a,b", 'say "x"', "a\nb", "a\rb", "=1", "#x", "\\"]


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_odd_ids_stay_what_they_are(tmp_path: Path, format: str) -> None:
    times = pd.to_datetime([MOMENT] * len(IDS)).astype("datetime64[us, UTC]")
    history = pd.DataFrame({"user_id": IDS, "content_id": IDS[::-1], "timestamp": times})
    write_tables(Tables(watch_history=history), tmp_path, format)
    data = load(tmp_path)
    assert list(data.user_ids) == IDS
    assert list(data.item_ids) == IDS[::-1]


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2199-12-31T23:59:59Z", "2199-12-31T23:59:59Z"),
        ("1900-01-01T00:00:00Z", "1900-01-01T00:00:00Z"),
        ("2026-01-31 20:15:00.5-0330", "2026-01-31T23:45:00.5Z"),
        ("2026-01-31T20:15Z", "2026-01-31T20:15:00Z"),
        *((each, "") for each in ("2200-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "now 00:00Z")),
        *((each, "") for each in ("9999-12-31T23:59:59Z", "2026-02-30T00:00:00Z", "NaT")),
        *(
            (each, "")
            for each in ("2026-01-01T24:00:00Z", "2026-01-01T00:00:00+99:99", "1700000000")
        ),
        *((each, "") for each in ("-2026-01-01T00:00:00Z", "292277-01-01T00:00:00Z", "inf")),
    ],
)
def test_instants_are_exact_or_refused(tmp_path: Path, moment: str, expected: str) -> None:
    (tmp_path / "watch_history.csv").write_text(f"{HISTORY}u,c,{moment}\nv,c,{MOMENT}\n")
    said = outcome(tmp_path)
    if expected:
        found = read_tables(tmp_path).watch_history["timestamp"]
        assert found.tolist() == [pd.Timestamp(expected), pd.Timestamp(MOMENT)]
    else:
        assert "is not an instant with a time zone (1 row)" in said


@pytest.mark.parametrize("age", ["inf", "1e400", "9" * 400, "0x10", "1_000", "3 0", "٣", "True"])
def test_odd_numbers_are_refused(tmp_path: Path, age: str) -> None:
    (tmp_path / "watch_history.csv").write_text(f"{HISTORY}u,c,{MOMENT}\n")
    (tmp_path / "users.csv").write_text(f"user_id,age\nu,{age}\n", encoding="utf-8")
    assert "users.csv, column age: is not a whole number (1 row)" in outcome(tmp_path)


# Parquet

THREE = pd.to_datetime([MOMENT] * 3)


def instants(value: int, unit: str, zone: str | None = "UTC") -> pa.Array:
    return pa.array([value] * 3, pa.timestamp(unit, zone))


# What a column of watch_history holds, and what is said of it; "" is nothing.
COLUMNS: list[tuple[str, object, str]] = [
    ("user_id", [["a"], ["b"], ["c"]], "column user_id: holds lists"),
    ("user_id", [{"a": 1}] * 3, "column user_id: holds lists"),
    ("user_id", pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64())), "holds lists"),
    ("user_id", pa.nulls(3), "user_id: has empty cells (3 rows)"),
    ("user_id", ["a", "b\0", "c"], r"user_id: is not UTF-8 text (1 row), e.g. 'b\x00'"),
    ("user_id", [b"a", b"\xff", b"c"], "user_id: is not UTF-8 text"),
    ("user_id", pa.array(["a", "b", "a"]).dictionary_encode(), ""),
    ("user_id", pa.array(["a", "b", "a"], pa.large_string()), ""),
    ("user_id", pa.array([1.0, float("nan"), 2.0]), "user_id: has empty cells (1 row)"),
    ("user_id", np.array([1, 2, 3], np.float16), ""),
    ("user_id", pa.array([2**64 - 1, 5, 0], pa.uint64()), ""),
    ("user_id", pa.array([2**60 + 1, -5, 0]), ""),
    ("weather", [["a"], ["b"], None], "column weather: holds lists"),
    ("weather", [{"a": "b"}] * 3, "column weather: holds lists"),
    ("weather", pa.nulls(3), ""),
    ("extra", [{"a": 1}] * 3, "column extra: holds lists"),
    ("extra", [[1], None, []], "column extra: holds lists"),
    ("extra", pa.nulls(3), ""),
    ("", [1, 2, 3], "column '': has no name"),
    ("timestamp", instants(10**12, "s"), "(3 rows), e.g. 33658-09-27T01:46:40"),
    ("timestamp", instants(2**62, "us"), "is not an instant with a time zone (3 rows)"),
    ("timestamp", instants(2**62, "ms"), "is not an instant with a time zone (3 rows)"),
    ("timestamp", instants(1, "ns"), ""),
    ("timestamp", instants(10**15, "us", "Asia/Kolkata"), ""),
    ("timestamp", instants(10**15, "us", "+05:30"), ""),
    ("timestamp", instants(10**15, "us", "Mars/Olympus"), "cannot be read"),
    ("timestamp", instants(10**15, "us", None), "is not an instant with a time zone"),
    ("timestamp", [dt.datetime(1, 1, 1, tzinfo=dt.UTC)] * 3, "e.g. 0001-01-01T00:00:00"),
    ("timestamp", [dt.date(2026, 1, 1)] * 3, "is not an instant with a time zone (3 rows)"),
    ("timestamp", [1, 2, 3], "is not an instant with a time zone (3 rows)"),
    ("timestamp", [[1], [2], [3]], "is not an instant with a time zone (3 rows)"),
    ("timestamp", [MOMENT, None, MOMENT], "timestamp: has empty cells (1 row)"),
    ("timestamp", pa.array([MOMENT] * 3).dictionary_encode(), ""),
    ("completion", [[1], [2], [3]], "completion: is not a number (3 rows)"),
    ("completion", pa.array([1, 0, 1], pa.duration("s")), "completion: is not a number (3 rows)"),
    ("completion", pa.array(THREE), "completion: is not a number (3 rows)"),
    ("completion", [float("inf"), 0.5, None], "completion: is not a number (1 row)"),
    ("completion", pa.array([Decimal("0.5"), Decimal("1.0"), None]), ""),
    ("completion", pa.nulls(3), ""),
]


@pytest.mark.parametrize(("column", "values", "expected"), COLUMNS)
def test_columns_of_any_type_are_read_or_named(
    tmp_path: Path, column: str, values: object, expected: str
) -> None:
    plain = {
        "user_id": ["a", "b", "c"],
        "content_id": ["x", "y", "z"],
        "timestamp": pa.array(THREE),
    }
    path = tmp_path / "watch_history.parquet"
    parquet.write_table(pa.table(plain | {column: values}), path)
    said = outcome(tmp_path, path.name)
    assert expected in said
    assert bool(expected) == bool(said)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1, 2, 3], pa.duration("s")), "is not a number (3 rows)"),
        (pa.array([1.5, None, 3.0]), ""),
        ([[1], [2], [3]], "is not a number (3 rows)"),
    ],
)
def test_a_duration_is_a_number_of_minutes(tmp_path: Path, values: object, expected: str) -> None:
    """Not whatever unit a duration has, of which the count would be taken for minutes."""
    (tmp_path / "watch_history.csv").write_text(f"{HISTORY}u,x,{MOMENT}\n")
    table = pa.table({"content_id": ["x", "y", "z"], "duration_minutes": values})
    parquet.write_table(table, tmp_path / "content.parquet")
    assert expected in outcome(tmp_path)


@pytest.mark.parametrize(
    ("genres", "expected"),
    [
        ([1.5, None, 2.5], "genres: is not a list of text (2 rows)"),
        ([[["a"]], [["b"]], None], "genres: is not a list of text (2 rows)"),
        ([{"a": 1}, None, None], "genres: is not a list of text (1 row)"),
        ([["A", None], [], None], ""),
        (pa.array(["A|B", None, ""]).dictionary_encode(), ""),
    ],
)
def test_genres_are_lists_of_text(tmp_path: Path, genres: object, expected: str) -> None:
    (tmp_path / "watch_history.csv").write_text(f"{HISTORY}u,x,{MOMENT}\n")
    table = pa.table({"content_id": ["x", "y", "z"], "genres": genres})
    parquet.write_table(table, tmp_path / "content.parquet")
    said = outcome(tmp_path)
    assert expected in said
    assert len(said.splitlines()) == bool(expected)


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_days_beyond_the_calendar_are_named(tmp_path: Path, unit: str) -> None:
    (tmp_path / "watch_history.csv").write_text(f"{HISTORY}u,x,{MOMENT}\n")
    date = pa.array([2**50, 0, 0], pa.timestamp(unit))
    weather = pa.table({"region": ["a", "b", "c"], "date": date, "condition": ["wet"] * 3})
    parquet.write_table(weather, tmp_path / "weather.parquet")
    said = outcome(tmp_path)
    assert ("weather.parquet, column date: is not a date (1 row)" in said) == (unit != "us")


@pytest.mark.parametrize("name", ["watch_history", "users"])
@pytest.mark.parametrize(
    "content",
    [b"", b"PAR1", b"PAR1PAR1", b"\0" * 999, b"PAR1" + b"\xff" * 20 + b"PAR1", b"a,b\n1,2"],
)
def test_what_is_no_parquet_is_named(
    folders: dict[str, Path], tmp_path: Path, name: str, content: bytes
) -> None:
    folder = copied(folders, "parquet", tmp_path)
    (folder / f"{name}.parquet").write_bytes(content)
    said = outcome(folder)
    assert f"{name}.parquet: cannot be read: " in said
    assert str(tmp_path) not in said


@pytest.mark.parametrize("name", ["watch_history", "users"])
def test_text_of_parquet_that_is_none_is_named(
    folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    folder = copied(folders, "parquet", tmp_path)
    path = folder / f"{name}.parquet"
    table = parquet.read_table(path)
    broken = pa.array([b"\xff"] * len(table)).view(pa.string())
    parquet.write_table(table.set_column(0, "user_id", broken), path)
    assert f"{name}.parquet: cannot be read: Column 0" in outcome(folder)


@pytest.mark.parametrize("name", ["watch_history", "users"])
def test_a_column_of_parquet_may_not_be_there_twice(
    folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    folder = copied(folders, "parquet", tmp_path)
    table = parquet.read_table(folder / f"{name}.parquet")
    twice = table.append_column("user_id", table["user_id"])
    parquet.write_table(twice, folder / f"{name}.parquet")
    assert f"{name}.parquet, column user_id: column is there twice" in outcome(folder)


@pytest.mark.parametrize("name", ["watch_history", "users"])
@pytest.mark.parametrize("note", [b"{", b"\xff", b"{}", b"[]", b'{"index_columns": 3}'])
def test_a_damaged_note_for_pandas_is_named(
    folders: dict[str, Path], tmp_path: Path, name: str, note: bytes
) -> None:
    """Parquet keeps what pandas knew of the columns, as JSON."""
    folder = copied(folders, "parquet", tmp_path)
    table = parquet.read_table(folder / f"{name}.parquet")
    noted = table.replace_schema_metadata({b"pandas": note})
    parquet.write_table(noted, folder / f"{name}.parquet")
    for read in (read_tables, load):
        with pytest.raises(DataError, match=rf"^{name}\.parquet: cannot be read: .+\."):
            read(folder)


def test_a_table_that_shrinks_while_it_is_read_is_named(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(folders, "parquet", tmp_path)
    rows = parquet.read_metadata(folder / "watch_history.parquet").num_rows
    for said in (rows + 5, rows - 5):
        monkeypatch.setattr(_Reading, "of", lambda table, said=said: _Reading(table, said, {}))
        with pytest.raises(DataError, match=rf"it says {said} rows, and holds {rows}\."):
            load(folder)


def test_missing_numbers_of_pandas_are_missing_ids() -> None:
    empty = pd.DataFrame({"user_id": pd.array([None, None], "Float64")})
    _, problems = check_table("users", empty, "users.parquet")
    message = "users.parquet, column user_id: has empty cells (2 rows)."
    assert [str(problem)[: len(message)] for problem in problems] == [message]


# Made up


@pytest.mark.parametrize("format", FORMATS)
@given(draw=st.data())
@on_files
def test_damage_is_named_or_harmless(
    folders: dict[str, Path], tmp_path: Path, format: str, draw: st.DataObject
) -> None:
    folder = copied(folders, format, tmp_path)
    path = folder / f"{draw.draw(st.sampled_from(NAMES))}.{format}"
    content = bytearray((folders[format] / path.name).read_bytes())
    last = len(content) - 1
    first = 4 if format == "csv.gz" else 0
    footer = last // 3 * 2 if format == "parquet" else first
    place = st.integers(first, last) | st.integers(footer, last)
    match draw.draw(st.sampled_from(["cut", "change", "remove", "repeat"])):
        case "cut":
            del content[draw.draw(place) :]
        case "change":
            for at in draw.draw(st.lists(place, min_size=1, max_size=3)):
                content[at] = draw.draw(st.integers(0, 255))
        case "remove":
            at = draw.draw(place)
            del content[at : at + draw.draw(st.integers(1, 40))]
        case "repeat":
            at = draw.draw(place)
            content[at:at] = content[at : at + draw.draw(st.integers(1, 40))]
    path.write_bytes(content)
    for read in (read_tables, load):  # which may notice damage at different places
        try:
            read(folder)
        except DataError as error:
            for line in str(error).splitlines():
                assert line.startswith(NAMES)
                assert line.endswith(".")
                assert len(line) < 1500


@pytest.mark.parametrize("name", ["users.csv", "users.parquet", "watch_history.parquet"])
@pytest.mark.parametrize(
    "make",
    [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path), lambda path: path.symlink_to("x")],
    ids=["folder", "pipe", "loop", "broken link"],
)
def test_what_is_no_file_is_named(
    folders: dict[str, Path], tmp_path: Path, name: str, make: Callable[[Path], object]
) -> None:
    folder = copied(folders, "parquet", tmp_path)
    for path in folder.glob(f"{name.split('.')[0]}.*"):
        path.unlink()
    make(folder / name)
    said = outcome(folder)
    assert f"{name}: is not a file. Put a file in its place, or remove it." in said


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_a_deep_manifest_is_named(folders: dict[str, Path], tmp_path: Path, text: str) -> None:
    folder = copied(folders, "csv", tmp_path)
    (folder / "manifest.json").write_text(text)
    for read in (read_tables, load):
        with pytest.raises(DataError, match=r"^manifest\.json: is not a JSON object: "):
            read(folder)


# YAML

SQUARES = "".join(f"x{n + 1}: &x{n + 1} [{', '.join([f'*x{n}'] * 9)}]\n" for n in range(12))
MERGED = "".join(f"x{n + 1}: &x{n + 1} {{<<: [{', '.join([f'*x{n}'] * 9)}]}}\n" for n in range(12))
BAD_YAML = {
    "[": "is not YAML",
    "a: b: c": "is not YAML",
    "\0": "is not YAML",
    "- " * 3000: "is not YAML",
    "[" * 3_000: "is not YAML",
    "a: !!python/object/apply:os.system [ls]": "is not YAML",
    "a: !!python/name:os.system": "is not YAML",
    "a: !!bool x": "is not YAML",
    "a: !!timestamp x": "is not YAML",
    "a: 2026-02-31": "is not YAML",
    f"a: 0x{'9' * 5000}": "is not YAML",
    f"{'9' * 4999}: a": "is not YAML",
    "x: &x [*x]": "aliases are not read, line 1",
    f"x0: &x0 [y]\n{SQUARES}": "aliases are not read, line 2",
    f"x0: &x0 {{k: y}}\n{MERGED}": "aliases are not read, line 2",
    "watch_history:\n  x0: &x0 [y]\n" + SQUARES.replace("x", "  x", 1): "is not YAML",
    "weather: 1\nweather: 2": "line 2, weather: is there twice",
    "3": "is not of the form",
}


@pytest.mark.parametrize("text", BAD_YAML, ids=lambda text: repr(text[:30]))
@pytest.mark.parametrize("read", [lambda path: read_columns(path, {}), read_rules])
def test_broken_yaml_is_named(tmp_path: Path, text: str, read: Callable[[Path], object]) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith("own.yaml")
    assert BAD_YAML[text] in message
    assert len(message) < 2000
    assert len(message.splitlines()) == len(caught.value.problems)


@given(content=st.binary(max_size=200) | st.text(":-[]{}&*!|> abc01\n\t'\"", max_size=80))
@made_up
def test_whatever_a_yaml_file_holds_is_read_or_named(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    for read in (lambda: read_columns(path, {}), lambda: read_rules(path)):
        try:
            read()
        except DataError as error:
            assert str(error).startswith("own.yaml")


# The command


@pytest.mark.parametrize("format", FORMATS)
def test_the_command_says_what_is_wrong_in_a_line(
    folders: dict[str, Path], tmp_path: Path, format: str
) -> None:
    folder = copied(folders, format, tmp_path)
    assert CliRunner().invoke(app, ["check", str(folder)]).exit_code == 0
    path = folder / f"users.{format}"
    path.write_bytes(path.read_bytes()[:40])
    result = CliRunner().invoke(app, ["check", str(folder)])
    assert result.exit_code == 2
    assert f"users.{format}" in result.output
    assert "Traceback" not in result.output


def test_a_process_ends_without_a_traceback(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders, "parquet", tmp_path)
    path = folder / "watch_history.parquet"
    path.write_bytes(path.read_bytes()[:-9] + b"\xff" * 9)
    done = subprocess.run(
        [sys.executable, "-c", "from firetv.cli import app; app()", "check", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("watch_history.parquet: cannot be read: ")
    assert len(done.stderr.splitlines()) == 1
