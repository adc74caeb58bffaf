from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from firetv.data import Dataset, Tables, compact, load, read_tables, write_tables
from firetv.schema import DataError

HISTORY = "user_id,content_id,timestamp\n"
GOOD = HISTORY + "u1,c1,2026-01-31T20:15:00Z\n"


def folder_of(tmp_path: Path, **files: str | bytes) -> Path:
    for name, text in files.items():
        content = text.encode() if isinstance(text, str) else text
        (tmp_path / f"{name}.csv").write_bytes(content)
    return tmp_path


def complaint(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_tables(folder)
    return str(caught.value)


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_tables_survive_writing_and_reading(tables: Tables, tmp_path: Path, format: str) -> None:
    write_tables(tables, tmp_path, format)
    back = read_tables(tmp_path)
    assert back.present().keys() == tables.present().keys()
    for name, table in tables.present().items():
        pd.testing.assert_frame_equal(back.present()[name], table, check_dtype=False)
    assert back.manifest["rows"] == {name: len(t) for name, t in tables.present().items()}


def test_only_events_are_required(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path,
        content_reactions=HISTORY.strip() + ",reaction\n1,2,2026-01-01T00:00:00+01:00,love\n",
    )
    data = load(folder)
    assert data.shape == (1, 1)
    assert list(data.user_ids) == ["1"]
    assert data.interactions["timestamp"].iloc[0] == pd.Timestamp("2025-12-31T23:00:00Z")
    assert data.manifest["name"] == folder.name


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"watch_history": "user_id,content_id\na,b\n"},
            ["watch_history.csv, column timestamp: missing column", "Add it"],
        ),
        (
            {"watch_history": HISTORY + "u,c,2026-01-31 20:15\nu,c,soon\n"},
            [
                "column timestamp: is not an instant with a time zone (2 rows)",
                "'soon'",
                "Write ISO 8601",
            ],
        ),
        ({"watch_history": HISTORY}, ["watch_history.csv: holds no rows"]),
        ({"watch_history": ""}, ["watch_history.csv: the file is empty"]),
        (
            {
                "watch_history": HISTORY.encode()
                + "u,caf\xe9,2026-01-31T20:15:00Z\n".encode("latin-1")
            },
            ["watch_history.csv: is not UTF-8", "Save the file as UTF-8"],
        ),
        (
            {"watch_history": "user_id,user_id,content_id,timestamp\na,a,b,2026-01-31T20:15:00Z\n"},
            ["column user_id: column is there twice"],
        ),
        (
            {"watch_history": GOOD.replace("\n", ",completion\n", 1).replace("Z\n", "Z,1.5\n")},
            ["column completion: must lie in 0..1 (1 row), e.g. 1.5"],
        ),
        ({"watch_history": GOOD + "u1,c1\nu1,c1,x,y,z\n"}, ["watch_history.csv: cannot be read"]),
        (
            {"watch_history": GOOD + ",c1,2026-01-31T20:15:00Z\n"},
            ["column user_id: has empty cells (1 row)"],
        ),
        (
            {"watch_history": GOOD, "content": "content_id,title\nc2,x\n"},
            ["column content_id: is unknown (1 row), e.g. 'c1'", "Add it to content"],
        ),
        (
            {"watch_history": GOOD, "content": "content_id,duration_minutes\nc1,-3\n"},
            ["content.csv, column duration_minutes: must be above 0 (1 row), e.g. -3.0"],
        ),
        (
            {"watch_history": GOOD, "content": "content_id,release_year\nc1,1990.5\n"},
            ["release_year: is not a whole number"],
        ),
        (
            {"watch_history": GOOD, "users": "user_id,age\nu1,30\nu1,31\n"},
            ["users.csv, column user_id: has duplicates (2 rows), e.g. 'u1'"],
        ),
        (
            {"watch_history": GOOD, "users": "user_id,age\nu1,old\n"},
            ["users.csv, column age: is not a whole number (1 row), e.g. 'old'"],
        ),
        (
            {"watch_history": GOOD, "user_connections": "user_id,friend_id\nu1,ghost\n"},
            ["column friend_id: is unknown (1 row), e.g. 'ghost'"],
        ),
        (
            {"watch_history": GOOD, "groups": "group_id,user_id\ng,ghost\n"},
            ["groups.csv, column user_id: is unknown"],
        ),
        (
            {
                "watch_history": GOOD,
                "weather": "region,date,condition\na,2026-01-01,wet\na,2026-01-01,dry\n",
            },
            ["weather.csv, column region: has duplicates (2 rows)"],
        ),
        (
            {
                "content_reactions": GOOD.replace("\n", ",rating,reaction\n", 1).replace(
                    "Z\n", "Z,,\n"
                )
            },
            ["neither rating nor reaction (1 row)"],
        ),
        (
            {"content_reactions": GOOD.replace("\n", ",reaction\n", 1).replace("Z\n", "Z,meh\n")},
            ["column reaction: is not a known reaction (1 row), e.g. 'meh'"],
        ),
        (
            {"watch_history": "User_ID,content_id,timestamp\nu,c,2026-01-31T20:15:00Z\n"},
            ["column user_id: missing column"],
        ),
        (
            {"watch_history": GOOD.replace(",", ";")},
            ["user_id: missing column", "content_id: missing column", "timestamp: missing column"],
        ),
        (
            {"watch_history": GOOD, "users": "user_id,gender\nu1,f,x\nu2,m,y\n"},
            ["users.csv: has rows longer than its header", "Remove commas"],
        ),
        (
            {"watch_history": GOOD, "users": ",user_id\n0,u1\n"},
            ["users.csv, column Unnamed: 0: has no name"],
        ),
        (
            {"watch_history": GOOD.replace("\n", ",item\n", 1).replace("Z\n", "Z,7\n")},
            ["column item: is a reserved name"],
        ),
        (
            {"watch_history": GOOD, "users": "user_id,age\nu1,99999999999999999999999\n"},
            ["column age: is not a whole number (1 row)"],
        ),
        (
            {"watch_history": HISTORY + "u,c,9999-12-31T23:15:00-05:00\n"},
            ["is not an instant with a time zone (1 row)", "from 1900 to 2199"],
        ),
        (
            {"watch_history": HISTORY + "u,c,soon\nu,c,\n"},
            ["is not an instant with a time zone (1 row)", "timestamp: has empty cells (1 row)"],
        ),
        ({"users": "user_id\nu1\n"}, ["there are no viewing events"]),
    ],
)
def test_bad_input_is_named(tmp_path: Path, files: dict, expected: list[str]) -> None:
    message = complaint(folder_of(tmp_path, **files))
    for text in expected:
        assert text in message


def test_problems_of_all_tables_come_together(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path,
        watch_history=HISTORY + "u1,c9,2026-01-31T20:15:00Z\nu1,c1,never\n",
        content="content_id,duration_minutes\nc1,-1\nc1,5\n",
        users="user_id,age\nu1,200\n",
    )
    lines = complaint(folder).splitlines()
    assert len(lines) == 5
    assert {line.split(",")[0] for line in lines} == {
        "watch_history.csv",
        "content.csv",
        "users.csv",
    }


def test_unreadable_files_of_all_tables_come_together(tmp_path: Path) -> None:
    message = complaint(folder_of(tmp_path, watch_history="", users=b"\xff\xfe\x00"))
    assert "watch_history.csv" in message
    assert "users.csv" in message


def test_a_comma_at_the_end_of_each_line_shifts_no_column(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, watch_history=GOOD, users="user_id,gender\nu1,f,\nu2,m,\n")
    assert read_tables(folder).users.to_dict("list") == {
        "user_id": ["u1", "u2"],
        "gender": ["f", "m"],
    }


def test_a_broken_manifest_and_bad_tables_come_together(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, watch_history=HISTORY + "u,c,soon\n", users="")
    (folder / "manifest.json").write_text("[")
    message = complaint(folder)
    for text in ("users.csv: the file is empty", "manifest.json: is not", "'soon'"):
        assert text in message


@pytest.mark.parametrize("text", ["2026-01-31 20:15:00+00", " 2026-01-31t20:15:00z "])
def test_common_spellings_of_an_instant_are_read(tmp_path: Path, text: str) -> None:
    tables = read_tables(folder_of(tmp_path, watch_history=HISTORY + f"u1,c1,{text}\n"))
    assert tables.watch_history["timestamp"].iloc[0] == pd.Timestamp("2026-01-31T20:15:00Z")


def test_genres_survive_every_plain_form_and_nothing_else(tmp_path: Path) -> None:
    folder_of(tmp_path, watch_history=GOOD)
    frame = pd.DataFrame({"content_id": ["c1", "c2", "c3"], "genres": [["A|B", None], None, []]})
    frame.to_parquet(tmp_path / "content.parquet")
    assert read_tables(tmp_path).content["genres"].tolist() == [["A", "B"], [], []]
    frame.assign(genres=[[1, 2], None, []]).to_parquet(tmp_path / "content.parquet")
    assert "column genres: is not a list of text (1 row)" in complaint(tmp_path)


@pytest.mark.parametrize("length", [5, -5])
def test_damaged_gzip_is_named(tables: Tables, tmp_path: Path, length: int) -> None:
    path = tmp_path / "watch_history.csv.gz"
    tables.watch_history.to_csv(path, index=False)
    path.write_bytes(path.read_bytes()[:length])
    assert "watch_history.csv.gz: " in complaint(tmp_path)


def test_truncated_parquet_is_named(tables: Tables, tmp_path: Path) -> None:
    write_tables(tables, tmp_path, "parquet")
    path = tmp_path / "watch_history.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    assert "watch_history.parquet: cannot be read" in complaint(tmp_path)


def test_parquet_bytes_that_are_no_text_are_named(tables: Tables, tmp_path: Path) -> None:
    ids = pd.Series([b"\xff"] * 600, dtype=object)
    tables.watch_history.assign(user_id=ids).to_parquet(tmp_path / "watch_history.parquet")
    assert "column user_id: is not UTF-8 text (600 rows)" in complaint(tmp_path)


def test_parquet_without_time_zone_is_refused(tables: Tables, tmp_path: Path) -> None:
    naive = tables.watch_history["timestamp"].dt.tz_localize(None)
    tables.watch_history.assign(timestamp=naive).to_parquet(tmp_path / "watch_history.parquet")
    assert "is not an instant with a time zone (600 rows)" in complaint(tmp_path)


def test_broken_manifest_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, watch_history=GOOD)
    (folder / "manifest.json").write_text("{")
    assert "manifest.json: is not a JSON object" in complaint(folder)


def test_a_table_may_not_be_there_twice(tables: Tables, tmp_path: Path) -> None:
    write_tables(tables, tmp_path)
    with pytest.raises(DataError, match="already holds other tables"):
        write_tables(tables, tmp_path, "parquet")
    tables.users.to_parquet(tmp_path / "users.parquet")
    assert "the table is there twice" in complaint(tmp_path)


def test_invalid_tables_leave_the_folder_as_it_was(tables: Tables, tmp_path: Path) -> None:
    write_tables(tables, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    bad = replace(tables, content=tables.content.assign(duration_minutes=-1.0))
    with pytest.raises(DataError, match="duration_minutes"):
        write_tables(bad, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_failed_writing_leaves_the_folder_as_it_was(
    tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tables(tables, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(*args: object, **options: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_tables(replace(tables, users=tables.users[:25]), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_tables_that_another_process_writes_are_left_to_it(tables: Tables, tmp_path: Path) -> None:
    write_tables(tables, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / ".moving").write_text(f"{os.getppid()}\n")
    with pytest.raises(DataError, match="is being written by another process"):
        write_tables(tables, tmp_path)
    (tmp_path / ".moving").unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_until_forgets_events_but_not_ids(data: Dataset) -> None:
    cut = data.interactions["timestamp"].iloc[300]
    past = data.until(cut)
    assert past.interactions["timestamp"].max() < cut
    assert past.reactions["timestamp"].max() < cut
    assert len(past.interactions) == 300
    assert past.shape == data.shape
    assert past.item_counts.sum() < data.item_counts.sum()


def test_keep_leaves_no_trace_of_a_held_out_pair(data: Dataset) -> None:
    mask = np.random.default_rng(0).random(len(data.interactions)) < 0.5
    kept = data.keep(mask)
    lost = data.interactions[~mask]
    lost_pairs = set(zip(lost["user"], lost["item"], strict=True))
    left = set(zip(kept.reactions["user"], kept.reactions["item"], strict=True))
    assert len(kept.interactions) == mask.sum()
    assert left
    assert not left & lost_pairs


def test_matrices_count_a_pair_once(data: Dataset) -> None:
    seen = data.matrix()
    pairs = data.interactions.drop_duplicates(["user", "item"])
    assert seen.dtype == np.float32
    assert seen.nnz == len(pairs) < len(data.interactions)
    assert set(seen.data) == {1.0}
    rating = data.matrix("rating")
    expected = data.reactions.groupby(["user", "item"])["rating"].mean()
    for (user, item), value in expected.items():
        assert rating[user, item] == pytest.approx(value)
    assert rating.nnz == len(expected)


def test_friends_keep_the_strongest_tie_and_drop_self_loops(data: Dataset) -> None:
    expected = np.zeros((30, 30), np.float32)
    expected[0, 2], expected[1, 0] = 0.7, 1.0
    np.testing.assert_array_equal(data.friends.toarray(), expected)


# Short histories and weights


def pairs(frame: pd.DataFrame) -> set[tuple[int, int]]:
    return set(zip(frame["user"], frame["item"], strict=True))


@pytest.fixture(scope="module")
def strayed(data: Dataset) -> Dataset:
    """Half the reactions are to something that was not viewed."""
    stray = data.reactions.assign(item=(data.reactions["item"] + 1) % data.shape[1])
    mixed = replace(data, reactions=pd.concat([data.reactions, stray], ignore_index=True))
    assert len(pairs(mixed.reactions) - pairs(mixed.interactions)) > 50
    return mixed


def shortened(data: Dataset, length: float | np.ndarray, seed: int = 0) -> Dataset:
    lengths = np.broadcast_to(np.asarray(length, float), data.shape[0])
    return data.shorten(lengths, np.random.default_rng(seed))


def test_histories_are_shortened_to_so_many_items_with_all_that_was_done(
    strayed: Dataset,
) -> None:
    lengths = np.resize([0, 1, 3, 8, 1000, np.inf], 30)
    short = shortened(strayed, lengths)
    np.testing.assert_array_equal(short.user_counts, np.minimum(lengths, strayed.user_counts))
    left, whole = pairs(short.interactions), np.isinf(lengths)
    for name in ("interactions", "reactions"):
        before, after = getattr(strayed, name), getattr(short, name)
        kept = before[["user", "item"]].apply(tuple, axis=1).isin(left)
        pd.testing.assert_frame_equal(after, before[kept | whole[before["user"]]])
    stray = pairs(short.reactions) - left
    assert {lengths[user] for user, _ in stray} == {np.inf}


def test_a_short_history_is_within_a_longer_one(strayed: Dataset) -> None:
    chain = [pairs(shortened(strayed, n).interactions) for n in (0, 1, 2, 5, 9, np.inf)]
    assert not chain[0]
    for short, longer in pairwise(chain):
        assert short < longer
    mixed = shortened(strayed, np.where(np.arange(30) % 2, 2, 9))
    for user, item in pairs(mixed.interactions):  # a user's draw is not that of the others' lengths
        assert (user, item) in chain[2 if user % 2 else 4]


def test_infinite_lengths_keep_all(strayed: Dataset) -> None:
    whole = shortened(strayed, np.inf)
    pd.testing.assert_frame_equal(whole.interactions, strayed.interactions)
    pd.testing.assert_frame_equal(whole.reactions, strayed.reactions)
    assert whole.friends is strayed.friends


def test_shortening_is_seeded_and_does_not_follow_the_order_of_events(strayed: Dataset) -> None:
    shuffled = strayed.interactions.sample(frac=1, random_state=0)
    other = replace(strayed, interactions=pd.concat([shuffled, shuffled.iloc[:99]]))
    a, b, c = (shortened(d, 2, seed) for d, seed in ((strayed, 0), (other, 0), (strayed, 1)))
    assert pairs(a.interactions) == pairs(b.interactions)
    assert len(pairs(a.interactions) - pairs(c.interactions)) > 20


def test_any_item_may_be_left(strayed: Dataset) -> None:
    left = {item for seed in range(200) for user, item in one_each(strayed, seed) if user == 0}
    assert left == set(strayed.interactions.loc[strayed.interactions["user"] == 0, "item"])


def one_each(data: Dataset, seed: int) -> set[tuple[int, int]]:
    return pairs(shortened(data, 1, seed).interactions)


def test_data_without_events_are_short_already(strayed: Dataset) -> None:
    empty = strayed.keep(np.zeros(len(strayed.interactions), bool))
    assert shortened(empty, 1).interactions.empty


def test_weights_stand_in_for_who_saw_what(data: Dataset) -> None:
    weights = data.matrix() * np.float32(0.5)
    weights.data[: weights.indptr[1]] = 0
    weights.eliminate_zeros()
    weighed = replace(data, weights=weights)
    assert weighed.matrix() is weights
    assert weighed.user_counts[0] == 0
    np.testing.assert_array_equal(weighed.user_counts[1:], data.user_counts[1:])
    np.testing.assert_array_equal(data.matrix().data, 1)  # of which nothing is kept
    assert data.user_counts.dtype == weighed.user_counts.dtype == np.int64


def test_weighed_data_cannot_be_filtered(data: Dataset) -> None:
    weighed = replace(data, weights=data.matrix())
    cuts = (
        lambda: weighed.until(pd.Timestamp("2024-02-01", tz="UTC")),
        lambda: weighed.keep(np.ones(len(data.interactions), bool)),
        lambda: shortened(weighed, 3),
    )
    for cut in cuts:
        with pytest.raises(ValueError, match="filter the data before weighing them"):
            cut()


def test_a_compact_matrix_is_the_same_one_sorted_and_the_source_stays() -> None:
    dense = np.array([[0, 3, 1], [0, 0, 0], [2, 0, 4]], np.float64)
    places = np.array([2, 1, 2, 0], np.int64), np.array([0, 2, 2, 4], np.int64)
    source = sparse.csr_array((np.array([1.0, 3.0, 4.0, 2.0]), *places), shape=(3, 3))
    source.indices, source.indptr = places  # which scipy makes as small as they can be
    got = compact(source)
    np.testing.assert_array_equal(got.toarray(), dense)
    assert got.dtype == np.float32
    assert got.indices.dtype == got.indptr.dtype == np.int32
    assert got.indices.tolist() == [1, 2, 0, 2]
    got.data[:] = 0
    np.testing.assert_array_equal(source.toarray(), dense)
    assert source.indices.tolist() == [2, 1, 2, 0]
    assert source.indices.dtype == np.int64


def test_without_a_column_of_ratings_nothing_is_rated(data: Dataset) -> None:
    words = data.reactions.drop(columns="rating").assign(reaction="love")
    assert replace(data, reactions=words).matrix("rating").nnz == 0
