"""What is read block by block is what is read at once: the same data, and the same complaints."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import make_rich_tables
from pyarrow import parquet
from scipy import sparse

from firetv import streams
from firetv.data import Dataset, Tables, fingerprint, load, read_tables, write_tables
from firetv.schema import DataError

EVENTS = ("watch_history", "content_reactions")


@pytest.fixture(autouse=True)
def tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "ROWS", 97)


def assert_same(found: Dataset, expected: Dataset) -> None:
    for name in (field.name for field in fields(Dataset)):
        one, other = getattr(found, name), getattr(expected, name)
        if isinstance(other, pd.DataFrame):
            pd.testing.assert_frame_equal(one, other, check_exact=True, obj=name)
        elif isinstance(other, pd.Index):
            pd.testing.assert_index_equal(one, other, exact=True)
        elif sparse.issparse(other):
            for part in ("data", "indices", "indptr"):
                np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
                assert getattr(one, part).dtype == getattr(other, part).dtype
        else:
            assert one == other, name


def assert_streamed_as_whole(folder: Path, mapping: Path | None = None) -> Dataset:
    found = load(folder, mapping)
    assert_same(found, Dataset.from_tables(read_tables(folder, mapping)))
    return found


def complaints(folder: Path, mapping: Path | None = None) -> str:
    """What is said of a folder, be it read at once or streamed."""
    with pytest.raises(DataError) as whole:
        read_tables(folder, mapping)
    with pytest.raises(DataError) as streamed:
        load(folder, mapping)
    assert str(streamed.value).splitlines() == str(whole.value).splitlines()
    return str(whole.value)


def written(folder: Path, tables: Tables, **changes: pd.DataFrame | None) -> Path:
    """Tables as Parquet; the changed ones are not checked."""
    folder.mkdir(exist_ok=True)
    for name, table in replace(tables, **changes).present().items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    return folder


def in_parts(folder: Path, name: str, parts: int = 5) -> Path:
    """Replace a table's file by a folder of files."""
    path = folder / f"{name}.parquet"
    table = pd.read_parquet(path)
    path.unlink()
    (folder / name).mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(table)), parts)):
        table.iloc[rows].to_parquet(folder / name / f"part-{number}.parquet", index=False)
    return folder / name


@pytest.fixture
def odd() -> Tables:
    """Text with blanks and gaps, ids around which there is space, and columns of one's own."""
    tables, rng = make_rich_tables(), np.random.default_rng(0)
    history = tables.watch_history
    history["user_id"] = history["user_id"].where(
        rng.random(len(history)) < 0.8, " " + history["user_id"]
    )
    history["weather"] = history["weather"].mask(rng.random(len(history)) < 0.2, "  ")
    history["companion"] = history["companion"].mask(rng.random(len(history)) < 0.2)
    history["completion"] = history["completion"].mask(rng.random(len(history)) < 0.1)
    history["session"] = pd.array(rng.integers(5, size=len(history)), "Int64")
    history["device"] = pd.Categorical(rng.choice(["tv", "phone", None], len(history)))
    history["live"] = rng.random(len(history)) < 0.5
    return tables


# The same data


@pytest.mark.parametrize("without", ["users", "content", "watch_history", "content_reactions", ""])
def test_blocks_give_what_the_whole_gives(tmp_path: Path, odd: Tables, without: str) -> None:
    changes = {name: None for name in (without, "user_connections") if without}
    assert_streamed_as_whole(written(tmp_path, odd, **changes))


@pytest.mark.parametrize("rows", [20, 10_000])
def test_the_size_of_blocks_has_no_effect(
    tmp_path: Path, odd: Tables, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path, odd, users=None, content=None, user_connections=None)
    expected = load(folder)
    monkeypatch.setattr(streams, "ROWS", rows)
    assert_same(load(folder), expected)


def test_parts_are_one_table_in_the_order_of_their_names(tmp_path: Path, odd: Tables) -> None:
    folder = written(tmp_path, odd)
    expected, before = load(folder), fingerprint(folder)
    for name in EVENTS:
        in_parts(folder, name)
    assert_same(assert_streamed_as_whole(folder), expected)
    assert fingerprint(folder) != before


def test_a_part_without_a_column_has_it_empty(tmp_path: Path, tables: Tables) -> None:
    parts = in_parts(written(tmp_path, tables), "watch_history", 2)
    path = parts / "part-0.parquet"
    pd.read_parquet(path).drop(columns="completion").to_parquet(path, index=False)
    data = assert_streamed_as_whole(tmp_path)
    assert data.interactions["completion"].isna().tolist() == [True] * 300 + [False] * 300


def test_csv_and_parquet_stand_side_by_side(tmp_path: Path, odd: Tables) -> None:
    folder = written(tmp_path, odd)
    expected = load(folder)
    reactions = odd.content_reactions.assign(
        timestamp=odd.content_reactions["timestamp"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    )
    (folder / "content_reactions.parquet").unlink()
    reactions.to_csv(folder / "content_reactions.csv", index=False)
    assert_same(load(folder), expected)


@pytest.mark.parametrize(
    "ids",
    [
        lambda n: n,
        lambda n: n.astype(float),
        lambda n: n + (n == 20) / 2,  # one is no whole number, so all are written with a point
        lambda n: n.astype("str").astype("category"),
        lambda n: n.astype("str").str.encode("utf-8"),
    ],
    ids=["whole", "float", "half", "category", "bytes"],
)
def test_ids_of_any_type_become_the_same_text(tmp_path: Path, tables: Tables, ids: object) -> None:
    history = tables.watch_history
    number = history["content_id"].str.removeprefix("content").astype(int)
    changed = {
        "watch_history": history.assign(content_id=ids(number)),
        "content_reactions": None,
        "content": None,
    }
    assert_streamed_as_whole(written(tmp_path, tables, **changed))


def test_a_stored_row_number_is_not_kept(tmp_path: Path, tables: Tables) -> None:
    folder = written(tmp_path, tables)
    expected = load(folder)
    history = tables.watch_history
    history.set_axis(history.index * 2 + 1).to_parquet(folder / "watch_history.parquet")
    assert_same(load(folder), expected)


def test_columns_have_other_names_and_dimensions_of_their_own(tmp_path: Path, odd: Tables) -> None:
    history = odd.watch_history.rename(columns={"weather": "wetter"}).assign(seat=1.0)
    folder = written(tmp_path, odd, watch_history=history)
    (folder / "columns.yaml").write_text(
        "watch_history: {wetter: weather, device: context, seat: context, session: ignore}"
    )
    data = assert_streamed_as_whole(folder)
    assert data.own_dimensions == ("device", "seat")
    assert "session" not in data.interactions
    assert data.interactions["seat"].unique().tolist() == ["1"]


# Fewer columns


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_only_the_columns_asked_for_are_kept(tmp_path: Path, rich: Dataset, format: str) -> None:
    write_tables(make_rich_tables(), tmp_path, format)
    lean, some = load(tmp_path, columns=()), load(tmp_path, columns=["weather", "rating"])
    assert list(lean.interactions) == list(lean.reactions) == ["user", "item", "timestamp"]
    assert list(some.interactions) == ["user", "item", "timestamp", "weather"]
    assert list(some.reactions) == ["user", "item", "timestamp", "rating"]
    kept = rich.interactions[list(some.interactions)]
    pd.testing.assert_frame_equal(some.interactions, kept)
    np.testing.assert_array_equal(some.matrix("rating").data, rich.matrix("rating").data)


def test_a_column_that_is_not_asked_for_is_never_read(tmp_path: Path, tables: Tables) -> None:
    bad = tables.watch_history.assign(completion=50.0)
    folder = written(tmp_path, tables, watch_history=bad)
    assert "completion: must lie in 0..1 (600 rows)" in complaints(folder)
    assert len(load(folder, columns=["rating"]).interactions) == 600


@pytest.mark.parametrize(
    ("columns", "message"),
    [(["ratng"], "no column ratng: use some of user_id,"), ("rating", "give a list of names")],
)
def test_unknown_columns_are_named(
    tmp_path: Path, tables: Tables, columns: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load(written(tmp_path, tables), columns=columns)


# The same complaints


def changed(table: pd.DataFrame, column: str, rows: slice, value: object) -> pd.DataFrame:
    values = table[column].astype(object).copy()
    values.iloc[rows] = value
    return table.assign(**{column: pd.Series(values.tolist(), index=table.index)})


@pytest.mark.parametrize(
    ("name", "column", "value", "expected"),
    [
        ("watch_history", "completion", 1.5, "must lie in 0..1 (90 rows), e.g. 1.5"),
        ("watch_history", "user_id", None, "column user_id: has empty cells (90 rows)"),
        ("watch_history", "user_id", " ", "column user_id: has empty cells (90 rows)"),
        ("watch_history", "content_id", "x", "content_id: is unknown (90 rows), e.g. 'x'"),
        ("content_reactions", "content_id", "x", "content_id: is unknown (90 rows), e.g. 'x'"),
        ("content_reactions", "rating", None, "neither rating nor reaction (90 rows)"),
        ("content_reactions", "rating", 7.0, "must lie in 1..5 (90 rows), e.g. 7.0"),
        ("watch_history", "timestamp", pd.NaT, "timestamp: has empty cells (90 rows)"),
    ],
)
@pytest.mark.parametrize("parts", [False, True])
def test_bad_rows_of_all_blocks_are_counted_together(
    tmp_path: Path,
    tables: Tables,
    name: str,
    column: str,
    value: object,
    expected: str,
    parts: bool,
) -> None:
    table = changed(getattr(tables, name), column, slice(50, 140), value)
    folder = written(tmp_path, tables, **{name: table})
    if parts:
        in_parts(folder, name)
    message = complaints(folder)
    assert expected in message
    assert message.startswith(f"{name}/, " if parts else f"{name}.parquet, ")


def test_samples_are_of_all_blocks(tmp_path: Path, tables: Tables) -> None:
    reactions = tables.content_reactions.assign(reaction="like")
    for row, word in ((10, "meh"), (100, "bah"), (101, "meh"), (200, "ugh"), (299, "pah")):
        reactions.loc[row, "reaction"] = word
    message = complaints(written(tmp_path, tables, content_reactions=reactions))
    assert "is not a known reaction (5 rows), e.g. 'meh', 'bah', 'ugh'." in message


def test_problems_of_all_tables_come_together(tmp_path: Path, tables: Tables) -> None:
    history = tables.watch_history.drop(columns="timestamp").rename(columns={"completion": "item"})
    ties = pd.DataFrame({"user_id": ["user0", "ghost"] * 50, "friend_id": ["ghost", "user1"] * 50})
    reactions = tables.content_reactions.assign(
        timestamp=tables.content_reactions["timestamp"].dt.tz_localize(None),
        notes=[["a"]] * len(tables.content_reactions),
    )
    folder = written(
        tmp_path,
        tables,
        watch_history=history,
        content_reactions=reactions,
        user_connections=ties,
        users=tables.users.assign(age=200),
    )
    lines = complaints(folder).splitlines()
    assert len(lines) == 7
    for text in (
        "watch_history.parquet, column timestamp: missing column",
        "watch_history.parquet, column item: is a reserved name",
        "timestamp: is not an instant with a time zone (300 rows)",
        "column notes: holds lists",
        "column friend_id: is unknown (50 rows), e.g. 'ghost'",
        "users.parquet, column age: must lie in 0..120",
    ):
        assert any(text in line for line in lines), text


def test_a_table_without_rows_is_named(tmp_path: Path, tables: Tables) -> None:
    folder = written(tmp_path, tables, watch_history=tables.watch_history[:0])
    assert "watch_history.parquet: holds no rows" in complaints(folder)


@pytest.mark.parametrize("at", [10, -100])
def test_a_damaged_file_is_named(tmp_path: Path, tables: Tables, at: int) -> None:
    path = written(tmp_path, tables) / "watch_history.parquet"
    path.write_bytes(path.read_bytes()[:at])
    with pytest.raises(DataError, match=r"watch_history\.parquet: cannot be read"):
        load(tmp_path)


def test_damage_within_a_file_is_named(tmp_path: Path, tables: Tables) -> None:
    path = written(tmp_path, tables) / "watch_history.parquet"
    content = bytearray(path.read_bytes())
    content[4:3000] = b"\xff" * 2996
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"watch_history\.parquet: cannot be read"):
        load(tmp_path)


def test_parts_that_disagree_are_named(tmp_path: Path, tables: Tables) -> None:
    parts = in_parts(written(tmp_path, tables), "watch_history")
    table = parquet.read_table(parts / "part-1.parquet")
    text = table.set_column(3, "completion", pa.array(["half"] * len(table)))
    parquet.write_table(text, parts / "part-1.parquet")
    assert "watch_history/: cannot be read" in complaints(tmp_path)


def test_a_file_and_a_folder_of_parts_are_one_too_many(tmp_path: Path, tables: Tables) -> None:
    in_parts(written(tmp_path, tables), "watch_history")
    tables.watch_history.to_parquet(tmp_path / "watch_history.parquet")
    message = complaints(tmp_path)
    assert "watch_history.parquet, watch_history: the table is there twice" in message
    with pytest.raises(DataError, match="already holds other tables: watch_history"):
        write_tables(tables, tmp_path, "parquet")


def test_what_columns_are_is_checked_against_the_rows(tmp_path: Path, odd: Tables) -> None:
    history = odd.watch_history
    history = history.assign(seat=np.arange(len(history)), tags=[["a"]] * len(history))
    folder = written(tmp_path, odd, watch_history=history)
    (folder / "columns.yaml").write_text(
        "watch_history: {seat: context, tags: context, colour: ignore, weather: feature}"
    )
    message = complaints(folder)
    assert f"watch_history/seat: has {len(history)} values, more than 50" in message
    assert "watch_history/tags: holds lists" in message
