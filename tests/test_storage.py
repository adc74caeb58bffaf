"""What was saved is what is loaded; what was damaged is refused, in words."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from firetv import storage
from firetv.data import Dataset
from firetv.lists import Newcomer
from firetv.moments import Clock
from firetv.schema import DataError
from firetv.storage import DOCUMENT, load, save


def there_and_back(value: object, folder: Path) -> object:
    """A value that a dataclass of the package holds, after it was saved and loaded."""
    save(folder, Newcomer(("a",), {"it": value}), {})
    found = load(folder)
    assert isinstance(found, Newcomer)
    assert found.liked == ("a",)
    return found.profile["it"]


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -3, 2**70, 0.1, -0.0, 1e-320, float("inf"), float("-inf"), "", "x\ny",
        "Ærøskøbing", (), [], {}, frozenset(), (1, "2", (3.5, None)), [1, [2, (3,)]],
        {"a": {"b": [1]}, "array": 2, "number": 3, "": 4}, frozenset({"a"}), np.bool_(True),
        np.int32(7), np.float64(0.1), np.float32(0.5), pd.Timedelta("3 days 00:00:01"),
        pd.Timedelta(7, "us"), Clock("Europe/Berlin", {"north": "Asia/Tokyo"}, country="DE"),
    ],
    ids=repr,
)  # fmt: skip
def test_plain_values_come_back(value: object, tmp_path: Path) -> None:
    found = there_and_back(value, tmp_path)
    assert found == value
    assert str(found) == str(value)  # minus zero is zero otherwise
    plain = value.item() if isinstance(value, np.generic) else value
    assert type(found) is type(plain)


def test_a_number_that_is_none_comes_back(tmp_path: Path) -> None:
    assert np.isnan(there_and_back(float("nan"), tmp_path))


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.empty((0, 3), np.float32),
        np.array(5.0),
        np.array([np.nan, np.inf, -0.0]),
        np.array([True, False]),
        np.array(["a", "längst"]),
        np.array(["2024-01-01", "NaT"], "datetime64[us]"),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(10)[::-2],
    ],
    ids=lambda value: f"{value.dtype}{value.shape}",
)
def test_arrays_come_back(value: np.ndarray, tmp_path: Path) -> None:
    found = there_and_back(value, tmp_path)
    assert found.dtype == value.dtype
    assert repr(found.tolist()) == repr(value.tolist())  # minus zero is zero otherwise


@pytest.mark.parametrize("make", [sparse.csr_array, sparse.csc_array, sparse.csr_matrix])
@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0)])
def test_sparse_matrices_come_back_as_rows(
    make: type, shape: tuple[int, int], tmp_path: Path
) -> None:
    dense = np.round(np.random.default_rng(0).random(shape) - 0.5).astype(np.float32)
    found = there_and_back(make(dense), tmp_path)
    assert type(found) is sparse.csr_array
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.toarray(), dense)


def test_tables_come_back(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "text": pd.array(["a", None, "ü"], "str"),
            "count": pd.array([1, None, 3], "Int64"),
            "at": pd.to_datetime(["2024-01-01", None, "2199-12-31"], utc=True).astype(
                "datetime64[us, UTC]"
            ),
            "share": [0.1, np.nan, 3],
            "kind": pd.Categorical(["x", "y", "x"]),
            "genres": [["a", "b"], [], None],
        },
        index=[5, 3, 9],
    )
    pd.testing.assert_frame_equal(there_and_back(frame, tmp_path), frame)
    empty = frame.drop(columns="kind").iloc[:0]
    pd.testing.assert_frame_equal(there_and_back(empty, tmp_path), empty)
    assert isinstance(there_and_back(frame, tmp_path)["genres"].iloc[0], list)


@pytest.mark.parametrize("name", [None, "user_id"])
@pytest.mark.parametrize("values", [["a", "ü"], [], [3, 1]])
def test_indices_come_back(name: str | None, values: list, tmp_path: Path) -> None:
    index = pd.Index(values, name=name, dtype="int64" if 3 in values else "str")
    pd.testing.assert_index_equal(there_and_back(index, tmp_path), index)


def test_a_data_set_comes_back(rich: Dataset, tmp_path: Path) -> None:
    save(tmp_path, rich, {})
    found = load(tmp_path)
    assert isinstance(found, Dataset)
    for name in ("users", "content", "interactions", "reactions"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(rich, name))
    pd.testing.assert_index_equal(found.user_ids, rich.user_ids)
    np.testing.assert_array_equal(found.friends.toarray(), rich.friends.toarray())
    assert found.friends.dtype == rich.friends.dtype
    np.testing.assert_array_equal(found.matrix().toarray(), rich.matrix().toarray())


def test_what_is_shared_is_stored_once_and_shared_again(tmp_path: Path) -> None:
    array, table = np.arange(1000), pd.DataFrame({"a": [1]})
    found = there_and_back([array, table, {"again": array}, (table,), array.copy()], tmp_path)
    assert found[0] is found[2]["again"]
    assert found[1] is found[3][0]
    assert found[4] is not found[0]
    with np.load(next(tmp_path.glob("*.npz")), allow_pickle=False) as arrays:
        assert sorted(values.nbytes for values in arrays.values())[-2:] == [8000, 8000]
        assert len(arrays.files) == 3


@dataclass(frozen=True)
class Foreign:
    """A dataclass that is not of the package."""

    value: int = 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([None, "a"], object), r"profile\['it'\] is an array of objects"),
        ([1, {"a": {1, 2}}], r"profile\['it'\]\[1\]\['a'\] is a builtins:set"),
        (Foreign(), r"profile\['it'\] is a .*Foreign, which cannot be saved"),
        (len, "which cannot be saved"),
        ({1: 2}, r"profile\['it'\] is a builtins:dict"),
        (pd.Timestamp(0), "Timestamp"),
    ],
)
def test_what_cannot_be_saved_is_named_and_nothing_is_written(
    value: object, message: str, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=message):
        save(tmp_path / "new", Newcomer(profile={"it": value}), {})
    assert not (tmp_path / "new").exists()


def test_the_document_can_be_read_and_the_arrays_need_no_pickle(tmp_path: Path) -> None:
    about = {"parameters": {"reg": 0.5}, "seed": 3, "data": {"checksum": "ab"}}
    save(tmp_path, Newcomer(profile={"it": np.arange(3)}), about)
    document = json.loads((tmp_path / DOCUMENT).read_text("utf-8"))
    assert document["format"] == storage.FORMAT == 1
    assert document["about"] == about
    assert [path.name for path in tmp_path.glob("*.npz")] == [document["arrays"]]
    with np.load(tmp_path / document["arrays"], allow_pickle=False) as arrays:
        assert all(not values.dtype.hasobject for values in arrays.values())


# Damage


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(tmp_path, Newcomer(("a", "b"), {"x": np.arange(50), "y": 0.5}), {"seed": 3})
    return tmp_path


def arrays_of(folder: Path) -> Path:
    (path,) = folder.glob("*.npz")
    return path


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, -1])
@pytest.mark.parametrize("which", ["document", "arrays"])
def test_a_file_that_was_cut_short_is_refused(which: str, share: float, saved: Path) -> None:
    path = saved / DOCUMENT if which == "document" else arrays_of(saved)
    content = path.read_bytes()
    # The last byte of the document is a line feed, which says nothing.
    upto = len(content) - 2 if share == -1 else int(share * len(content))
    path.write_bytes(content[:upto])
    with pytest.raises(DataError, match=r"is not JSON|cut short or edited") as error:
        load(saved)
    assert str(path) in str(error.value)
    assert "Train it again, or restore it from a copy." in str(error.value)


def test_no_flipped_bit_is_overlooked(saved: Path) -> None:
    before = load(saved)
    for path in (saved / DOCUMENT, arrays_of(saved)):
        content = path.read_bytes()
        for place in range(0, len(content), 7 if path.name == DOCUMENT else 97):
            for bit in (0, 5):
                changed = bytearray(content)
                changed[place] ^= 1 << bit
                path.write_bytes(bytes(changed))
                try:
                    found = load(saved)
                except DataError:
                    continue
                assert found.liked == before.liked  # white space, which says nothing
                assert bytes(changed)[place : place + 1].isspace()
        path.write_bytes(content)


def edited(folder: Path, **values: object) -> None:
    path = folder / DOCUMENT
    document = {**json.loads(path.read_text("utf-8")), **values}
    path.write_text(json.dumps(document), "utf-8")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"about": {"seed": 4}}, "was edited: its checksum is another"),
        ({"tree": {}}, "was edited: its checksum is another"),
        ({"arrays": "other.npz"}, "was edited: its checksum is another"),
        ({"checksum": None}, "was edited: its checksum is another"),
        ({"more": 1}, "was edited: its checksum is another"),
        ({"format": 2}, r"is of format 2, and this version reads up to 1. Update firetv"),
        ({"format": 99, "tree": "unknown"}, "is of format 99"),
        ({"format": 0}, "says no format"),
        ({"format": True}, "says no format"),
        ({"format": "1"}, "says no format"),
    ],
)
def test_an_edited_or_newer_document_is_refused(
    values: dict[str, object], message: str, saved: Path
) -> None:
    edited(saved, **values)
    with pytest.raises(DataError, match=message):
        load(saved)


@pytest.mark.parametrize("text", ["{}", "[]", "3", "null", '{"format": null}', '{"name": "tiny"}'])
def test_foreign_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / DOCUMENT).write_text(text)
    with pytest.raises(DataError, match="says no format"):
        load(tmp_path)


def test_what_is_missing_is_named(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere", saved / DOCUMENT):
        with pytest.raises(DataError, match=r"holds no recommender.json. Train one: firetv train"):
            load(folder)
    path = arrays_of(saved)
    path.unlink()
    with pytest.raises(DataError, match=f"{path.name}: is missing"):
        load(saved)


def resealed(folder: Path, tree: object) -> None:
    """Put another tree into a document, with its right checksum."""
    document = json.loads((folder / DOCUMENT).read_text("utf-8"))
    body = {k: v for k, v in document.items() if k not in ("format", "checksum")} | {"tree": tree}
    sealed = {"format": 1, "checksum": storage._checksum(body), **body}
    (folder / DOCUMENT).write_text(json.dumps(sealed), "utf-8")


@pytest.mark.parametrize(
    "tree",
    [
        {"number": 0, "os:system": {"command": "true"}},
        {"number": 0, "firetv.storage:save": {"folder": "x"}},  # a function
        {"number": 0, "firetv.storage:Path": {}},  # no dataclass
        {"number": 0, "pstats:StatsProfile": {"total_tt": 1, "func_profiles": None}},
        {"number": 0, "firetv.renamed:Newcomer": {}},
        {"number": 0, "firetv.lists:Renamed": {}},
        {"number": 0, "firetv.lists:Newcomer": {"renamed": 1}},
        {"number": 0, "pickle": "x"},
        {"number": 0, "array": "a99"},
        {"number": 0, "csr": ["a0"], "shape": [1, 1]},
        {"number": 0, "frame": "a0"},
        {"number": 0, "timedelta": 3},
        {"number": 0},
        {"again": 7},
    ],
    ids=str,
)
def test_nothing_but_what_was_saved_is_built(tree: object, saved: Path) -> None:
    resealed(saved, tree)
    with pytest.raises(DataError, match="does not fit this version of firetv"):
        load(saved)


# Writing


def test_saving_again_replaces_only_what_was_saved(saved: Path) -> None:
    kept = {"notes.txt", "arrays-mine.npz", "arrays.npz", "columns.json"}
    for name in kept:
        (saved / name).write_text("mine")
    old = arrays_of_document(saved)
    save(saved, Newcomer(("c",), {"x": np.arange(60)}), {})
    assert load(saved).liked == ("c",)
    new = arrays_of_document(saved)
    assert new != old
    assert {path.name for path in saved.iterdir()} == {*kept, DOCUMENT, new}


def arrays_of_document(folder: Path) -> str:
    return json.loads((folder / DOCUMENT).read_text("utf-8"))["arrays"]


def test_the_same_is_saved_as_the_same_bytes(tmp_path: Path, rich: Dataset) -> None:
    for name in ("one", "other"):
        save(tmp_path / name, rich, {"seed": 1})
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "other")
    )
    assert one == other


@pytest.mark.parametrize("fails_at", [1, 2])
def test_an_interrupted_save_leaves_what_was_there(
    fails_at: int, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(source: Path, target: Path, replace: object = os.replace) -> None:
        calls.append(target)
        if len(calls) == fails_at:
            raise OSError("no space left")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        save(saved, Newcomer(("c",), {"x": np.arange(60)}), {})
    monkeypatch.undo()
    assert load(saved).liked == ("a", "b")
    assert not list(saved.glob(".*"))
    save(saved, Newcomer(("c",), {"x": np.arange(60)}), {})
    assert load(saved).liked == ("c",)
    assert len(list(saved.glob("*.npz"))) == 1


def test_who_reads_while_another_saves_finds_the_new(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = storage.read_document

    def slowly(folder: Path) -> dict:
        document = read(folder)
        if load_count.pop():
            save(saved, Newcomer(("c",), {"x": np.arange(60)}), {})
        return document

    load_count = [False, False, True]
    monkeypatch.setattr(storage, "read_document", slowly)
    assert load(saved).liked == ("c",)
    assert load_count == []
