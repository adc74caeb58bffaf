"""Fitted steps on disk: arrays in one file, everything else as JSON, and no pickle.

A frozen dataclass of arrays, tables and numbers, such as any fitted step, becomes a tree of JSON
whose leaves may be arrays. :func:`load` builds nothing but dataclasses of this package, arrays and
tables; what is shared, as the table of users may be between steps, is stored once and shared again.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from firetv.schema import DataError, Problem
from firetv.writing import is_orphan, write_whole

FORMAT = 1  # of the folder: raised when older code could not read it
DOCUMENT = "recommender.json"
_ARRAYS = re.compile(r"arrays-[0-9a-f]{12}\.npz")
_TEMPORARY = re.compile(rf"\.(?:{_ARRAYS.pattern}|{re.escape(DOCUMENT)})\.\d+")
UNNAMED = "0"  # an index without a name, as a column
_MISFITS = (zipfile.BadZipFile, LookupError, TypeError, ValueError, AttributeError, ImportError)
TRAIN = "Train it again, or restore it from a copy."


def save(folder: str | Path, thing: object, about: Mapping[str, Any]) -> None:
    """Write a dataclass to a folder, whole or not at all.

    The arrays are in a file that is named by their checksum, and the JSON document, which names it,
    is replaced last: whoever reads meanwhile finds the old or the new one. Older arrays, and what a
    save that was killed has left, go then.

    Parameters
    ----------
    folder : path
        Made where it is missing. Other files in it stay.
    thing : dataclass
        Of this package.
    about : mapping
        What is worth reading in the document, such as parameters and checksums; JSON.

    Raises
    ------
    TypeError
        If a value is of a kind that cannot be stored, which is named.
    """
    folder, writer = Path(folder), _Writer()
    tree = writer.encode(thing, type(thing).__name__)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **writer.arrays)
    arrays = buffer.getvalue()
    digest = hashlib.sha256(arrays).hexdigest()
    name = f"arrays-{digest[:12]}.npz"
    body = {"about": dict(about), "arrays": name, "sha256": digest, "tree": tree}
    document = {"format": FORMAT, "checksum": _checksum(body), **body}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / name, arrays)
    write_whole(folder / DOCUMENT, _text(document, indent=1) + "\n")
    for other in folder.iterdir():
        old = other.name != name and _ARRAYS.fullmatch(other.name)
        if old or (_TEMPORARY.fullmatch(other.name) and is_orphan(other)):
            other.unlink(missing_ok=True)


def load(folder: str | Path) -> object:
    """Read what :func:`save` wrote.

    Raises
    ------
    DataError
        If the folder holds nothing to read, or something that was cut short, edited, or written by
        a newer version.
    """
    folder = Path(folder)
    document = read_document(folder)
    path = folder / document["arrays"]
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        if read_document(folder)["arrays"] != path.name:  # saved anew meanwhile
            return load(folder)
        raise DataError(Problem(str(path), "", "is missing", TRAIN)) from error
    if hashlib.sha256(data).hexdigest() != document["sha256"]:
        raise DataError(
            Problem(str(path), "", "is not what was written: cut short or edited", TRAIN)
        )
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return _Reader({name: arrays[name] for name in arrays.files}).decode(document["tree"])
    except _MISFITS as error:
        reason = f"does not fit this version of firetv ({type(error).__name__}: {error})"
        raise DataError(Problem(str(folder), "", reason, TRAIN)) from error


def read_document(folder: Path) -> dict[str, Any]:
    """Read and check the document of a folder.

    Raises
    ------
    DataError
        See :func:`load`.
    """
    path = folder / DOCUMENT
    try:
        document = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        remedy = "Train one: firetv train."
        raise DataError(Problem(str(folder), "", f"holds no {DOCUMENT}", remedy)) from error
    except ValueError as error:
        raise DataError(Problem(str(path), "", f"is not JSON: {error}", TRAIN)) from error
    said = document.get("format") if isinstance(document, dict) else None
    if type(said) is not int or said < 1:
        raise DataError(Problem(str(path), "", "says no format", TRAIN))
    if said > FORMAT:
        reason = f"is of format {said}, and this version reads up to {FORMAT}"
        raise DataError(Problem(str(path), "", reason, "Update firetv, or train again."))
    body = {key: value for key, value in document.items() if key not in ("format", "checksum")}
    if document.get("checksum") != _checksum(body):
        raise DataError(Problem(str(path), "", "was edited: its checksum is another", TRAIN))
    return document


def _text(document: object, indent: int | None = None) -> str:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=indent)


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(body).encode()).hexdigest()


# ------------------------------------------------------------------ values


@dataclass
class _Writer:
    """Turns values into JSON, and gathers their arrays."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    known: dict[int, tuple[int, object]] = field(default_factory=dict)  # by id, kept alive

    def encode(self, value: object, where: str) -> object:
        """Encode a value; what was encoded before is referred to."""
        if value is None or isinstance(value, bool | str | int) or _plain_float(value):
            return value
        if id(value) in self.known:
            return {"again": self.known[id(value)][0]}
        number = len(self.known)
        self.known[id(value)] = (number, value)
        return {"number": number, **self._encode(value, where)}

    def _encode(self, value: object, where: str) -> dict[str, object]:
        if isinstance(value, float | np.floating):
            return {"float": float(value).hex()}
        if isinstance(value, np.bool_ | np.integer):
            return {"item": value.item()}
        if isinstance(value, np.ndarray):
            return {"array": self._array(value, where)}
        if sparse.issparse(value):
            csr = sparse.csr_array(value)
            places = (csr.data, csr.indices, csr.indptr)
            return {"csr": [self._array(each, where) for each in places], "shape": [*csr.shape]}
        if isinstance(value, pd.DataFrame):
            return {"frame": self._table(value, where)}
        if isinstance(value, pd.Index):
            named = UNNAMED if value.name is None else value.name
            return {"index": self._table(value.to_frame(index=False, name=named), where)}
        if isinstance(value, pd.Timedelta):
            return {"timedelta": value.value, "unit": value.unit}
        if isinstance(value, list | tuple | frozenset):
            each = sorted(value) if isinstance(value, frozenset) else value
            kind = type(value).__name__
            return {kind: [self.encode(v, f"{where}[{n}]") for n, v in enumerate(each)]}
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {"dict": {k: self.encode(v, f"{where}[{k!r}]") for k, v in value.items()}}
        name = f"{type(value).__module__}:{type(value).__qualname__}"
        if is_dataclass(value) and name.startswith("firetv."):
            own = {f.name: getattr(value, f.name) for f in fields(value)}
            return {name: {k: self.encode(v, f"{where}.{k}") for k, v in own.items()}}
        raise TypeError(f"{where} is a {name}, which cannot be saved: use stages of firetv")

    def _array(self, values: np.ndarray, where: str) -> str:
        if values.dtype.hasobject:
            raise TypeError(f"{where} is an array of objects, which cannot be saved")
        name = f"a{len(self.arrays)}"
        self.arrays[name] = values
        return name

    def _table(self, frame: pd.DataFrame, where: str) -> str:
        buffer = io.BytesIO()
        frame.to_parquet(buffer)
        return self._array(np.frombuffer(buffer.getvalue(), np.uint8), where)


def _plain_float(value: object) -> bool:
    return type(value) is float and bool(np.isfinite(value))


@dataclass
class _Reader:
    """Turns JSON back into values."""

    arrays: Mapping[str, np.ndarray]
    known: dict[int, object] = field(default_factory=dict)

    def decode(self, node: object) -> Any:  # noqa: ANN401
        """Decode a value."""
        if not isinstance(node, dict):
            return node
        if "again" in node:
            return self.known[node["again"]]
        number = node["number"]
        kind = next((key for key in node if key not in ("number", "shape", "unit")), "")
        read = getattr(self, f"_{kind}", None) if ":" not in kind else self._dataclass(kind)
        if read is None:
            raise ValueError(f"unknown kind {kind!r}")
        self.known[number] = read(node)
        return self.known[number]

    def _float(self, node: dict) -> float:
        return float.fromhex(node["float"])

    def _item(self, node: dict) -> int | bool:
        return node["item"]

    def _array(self, node: dict) -> np.ndarray:
        return self.arrays[node["array"]]

    def _csr(self, node: dict) -> sparse.csr_array:
        data, indices, indptr = (self.arrays[name] for name in node["csr"])
        return sparse.csr_array((data, indices, indptr), shape=tuple(node["shape"]))

    def _frame(self, node: dict) -> pd.DataFrame:
        frame = self._table(node["frame"])
        for name in frame.columns:
            if frame[name].dtype == object:  # Parquet gives lists back as arrays
                values = [v.tolist() if isinstance(v, np.ndarray) else v for v in frame[name]]
                frame[name] = pd.Series(values, frame.index, dtype=object)
        return frame

    def _index(self, node: dict) -> pd.Index:
        column = self._table(node["index"]).iloc[:, 0]
        return pd.Index(column.array, name=None if column.name == UNNAMED else column.name)

    def _table(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(io.BytesIO(self.arrays[name].tobytes()))

    def _timedelta(self, node: dict) -> pd.Timedelta:
        return pd.Timedelta(node["timedelta"], "ns").as_unit(node["unit"])

    def _list(self, node: dict) -> list:
        return [self.decode(each) for each in node["list"]]

    def _tuple(self, node: dict) -> tuple:
        return tuple(self.decode(each) for each in node["tuple"])

    def _frozenset(self, node: dict) -> frozenset:
        return frozenset(self.decode(each) for each in node["frozenset"])

    def _dict(self, node: dict) -> dict:
        return {key: self.decode(value) for key, value in node["dict"].items()}

    def _dataclass(self, kind: str) -> Callable[[dict], object]:
        module, _, name = kind.partition(":")
        found = (
            getattr(importlib.import_module(module), name) if module.startswith("firetv.") else 0
        )
        if not (isinstance(found, type) and is_dataclass(found)):
            raise ValueError(f"{kind} is no dataclass of firetv")
        return lambda node: found(**{k: self.decode(v) for k, v in node[kind].items()})
