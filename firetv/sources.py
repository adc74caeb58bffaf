"""Public data sets, fetched with a checksum and turned into tables.

:func:`prepare` and :func:`load_tables` are the ways in; a further data set is one more entry of
:data:`SOURCES`.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import pooch
import requests
from tqdm import tqdm

from firetv import camra2011, comoda, filmtrust, lastfm, movielens
from firetv.data import Tables, read_manifest, write_tables
from firetv.files import MANIFEST, is_whole
from firetv.schema import DataError, Problem
from firetv.writing import naming

logger = logging.getLogger(__name__)

TIMEOUT = 5.0, 30.0  # seconds to connect, and between two chunks
CHUNK = 1 << 16  # bytes
PATIENCE = 1800.0  # seconds to wait for another process that prepares the same folder
_BAR = {"unit": "B", "unit_scale": True, "disable": None}  # None: only where somebody watches


@dataclass(frozen=True)
class Archive:
    """A file that holds a data set or a part of it, and how to get and read it."""

    address: str  # a URL, or a pip requirement
    sha256: str
    download: Callable[[str, str, Any], None]  # (address, path, None), as pooch calls it
    read: Callable[[Path], Any]


@dataclass(frozen=True)
class Source:
    """A data set: the parts it comes in, and the way from their content to tables.

    Attributes
    ----------
    parts : sequence of mappings
        All are needed. Each maps file names to archives of the same content, best first.
    transform : callable
        Takes what ``read`` returned of each part, in order, and a seed.
    """

    parts: Sequence[Mapping[str, Archive]]
    transform: Callable[..., Tables]


def load_tables(name: str, seed: int = 0) -> Tables:
    """Return the tables of a data set of :data:`SOURCES`, fetched if the cache does not hold it.

    The manifest says of every column whether it was observed, derived from observed ones, or
    simulated. Only the simulated ones depend on `seed`.

    Raises
    ------
    DataError
        If the name is unknown, or the data set is not in the cache and nobody delivers it.
    """
    parts = read_parts(name)
    return SOURCES[name].transform(*parts, seed)


def read_parts(name: str) -> list[Any]:
    """Return what ``read`` gives of each part of a data set, in order: what tables are made of.

    Raises
    ------
    DataError
        See :func:`load_tables`.
    """
    paths = fetch(name)
    parts = zip(SOURCES[name].parts, paths, strict=True)
    return [archives[path.name].read(path) for archives, path in parts]


def prepare(name: str, folder: Path, seed: int = 0) -> Path:
    """Return a folder that holds a data set as tables, written only if it does not hold it yet.

    Several processes may ask at once: one of them writes, and the others wait for it.

    Raises
    ------
    DataError
        See :func:`load_tables`; or if the folder's tables come from elsewhere.
    OSError
        If nothing can be written beside the folder, or another process keeps it too long.
    """
    if not _holds(folder, name, seed):
        _known(name)
        with _alone(folder):
            if not _holds(folder, name, seed):  # another process may have been first
                write_tables(load_tables(name, seed), folder)
    return folder


def _holds(folder: Path, name: str, seed: int) -> bool:
    """Whether a folder holds a data set; DataError if it holds another one."""
    if not ((folder / MANIFEST).is_file() and is_whole(folder)):
        return False
    found = read_manifest(folder)
    if (found.get("name"), found.get("seed")) == (name, seed):
        return True
    what = f"holds {found.get('name')} with seed {found.get('seed')}, not {name} with {seed}"
    raise DataError(Problem(str(folder), "", what, "Remove it, or name another folder."))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a folder to one process; SQLite's lock works on every system and ends with its owner."""
    file = folder.resolve().with_name(f".{folder.resolve().name}.lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            connection = sqlite3.connect(file, timeout=PATIENCE, isolation_level=None)
            stack.enter_context(closing(connection)).execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            held = error.sqlite_errorcode == sqlite3.SQLITE_BUSY
            remedy = "Wait for what holds it, or remove it" if held else "Name a folder to write to"
            raise OSError(f"{file}: cannot be locked: {error}. {remedy}, and run again.") from error
        yield


def _known(name: str) -> Source:
    """Return a data set by name; DataError if there is none."""
    if name not in SOURCES:
        remedy = f"Choose from {', '.join(SOURCES)}."
        raise DataError(Problem(name, "", "is not a known data set", remedy))
    return SOURCES[name]


def cache_folder(name: str) -> Path:
    """Return where a data set's archives are: under ``FIRETV_CACHE``, else in the user's cache."""
    return Path(os.environ.get("FIRETV_CACHE") or platformdirs.user_cache_path("firetv")) / name


def fetch(name: str) -> list[Path]:
    """Return an archive of each part, with the right checksum, downloaded only if need be.

    Raises
    ------
    DataError
        If the name is unknown, or if there are parts of which no archive can be had; it says of
        each of them why, and what to do by hand.
    """
    paths: list[Path] = []
    problems: list[Problem | str] = []
    for archives in _known(name).parts:
        try:
            paths.append(_fetch_one(name, archives))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)
    return paths


def _fetch_one(name: str, archives: Mapping[str, Archive]) -> Path:
    """Return one of the archives: one that is cached, or else the first that can be had."""
    folder = cache_folder(name)
    if found := _cached(folder, archives):
        return found
    # The data folder may be the cache's, whose lock is held already.
    with _alone(folder.with_name(f"{folder.name}-download")):
        return _cached(folder, archives) or _download(name, archives, folder)


def _download(name: str, archives: Mapping[str, Archive], folder: Path) -> Path:
    """Download the first of the archives that can be had to a folder that nobody else uses."""
    for left in folder.glob("tmp*"):  # pooch's and pip's, of a process that was killed
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    failures: list[str] = []
    for filename, archive in archives.items():
        if failures:
            logger.warning("%s; trying %s", failures[-1], archive.address)
        known = {"known_hash": f"sha256:{archive.sha256}", "fname": filename, "path": folder}
        try:
            return Path(pooch.retrieve(archive.address, downloader=archive.download, **known))
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk
                with naming(folder):
                    raise
            failures.append(f"{archive.address} failed ({_root_cause(error)})")
    files = " or ".join(f"{filename} ({a.address})" for filename, a in archives.items())
    remedy = f"Check the network, or put {files} into {folder}, and run again."
    raise DataError(Problem(name, "", f"cannot be downloaded: {'; '.join(failures)}", remedy))


def _cached(folder: Path, archives: Mapping[str, Archive]) -> Path | None:
    """The first of the archives that is there, with the right checksum."""
    paths = ((folder / filename, archive.sha256) for filename, archive in archives.items())
    return next((path for path, sha256 in paths if _is_cached(path, sha256)), None)


def _is_cached(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    if pooch.file_hash(path) == sha256:
        return True
    path.unlink()
    logger.warning("%s had a wrong checksum and was removed", path)
    return False


def _root_cause(error: BaseException) -> str:
    """Name the reason at the bottom of a chain of wrapped network errors."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__


def _over_http(url: str, output: str, _pooch: object) -> None:
    """Download a file, going on where an earlier attempt broke off."""
    part = Path(output).with_name(url.rsplit("/", 1)[-1] + ".part")
    start = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if start and response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()  # nothing comes after it: it is whole already, or of another file
            _over_http(url, output, _pooch)
            return
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        start = start if resumed else 0
        size = int(response.headers.get("Content-Length", 0))
        bar = tqdm(desc=part.stem, initial=start, total=start + size if size else None, **_BAR)
        with part.open("ab" if resumed else "wb") as file, bar:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    os.replace(part, output)


def _through_pip(requirement: str, output: str, _pooch: object) -> None:
    """Download a wheel, without installing it, from the package index that pip is set up for."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--retries=2", "--timeout=15", requirement]
    with tempfile.TemporaryDirectory(dir=Path(output).parent) as folder:
        # pip's progress goes to our stderr (descriptor 2), its complaint into our message
        done = subprocess.run(
            [*command, "--dest", folder], stdout=2, stderr=subprocess.PIPE, text=True
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise OSError((done.stderr.strip().splitlines() or ["pip brought no wheel"])[-1])
        os.replace(wheels[0], output)


def _file(url: str, sha256: str, read: Callable[[Path], Any]) -> dict[str, Archive]:
    """Describe what one URL delivers, kept under the name that the URL ends with."""
    return {url.rsplit("/", 1)[-1]: Archive(url, sha256, _over_http, read)}


SOURCES: Mapping[str, Source] = {
    "movielens-100k": Source(
        [
            {
                **_file(
                    movielens.URL,
                    "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
                    movielens.read_grouplens,
                ),
                "recbole-1.2.1-py3-none-any.whl": Archive(
                    "recbole==1.2.1",
                    "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
                    _through_pip,
                    movielens.read_recbole,
                ),
            }
        ],
        movielens.to_tables,
    ),
    "comoda": Source(
        [
            _file(
                comoda.URL,
                "c62f8e6b234946d2026e51f338b46ec996063282d96a595b991c1434c023eb78",
                comoda.read,
            )
        ],
        comoda.to_tables,
    ),
    "filmtrust": Source(
        [
            _file(
                filmtrust.RATINGS_URL,
                "241167424e24d588e8871d68641e94ead98d5b3a4f0db01ef3181a74ad35e7a1",
                filmtrust.read_ratings,
            ),
            _file(
                filmtrust.TRUST_URL,
                "2a5e6fc32e8f145fb0037bc8f0b22e7449c28d22f89a0b201746b32fc727471d",
                filmtrust.read_trust,
            ),
        ],
        filmtrust.to_tables,
    ),
    "lastfm": Source(
        [
            _file(
                lastfm.PLAYS_URL,
                "487e5df0bb6afb7cda912b96e08c1165e4cd0ad194ae4a1208e383fb1e6c6d7c",
                lastfm.read_plays,
            ),
            _file(
                lastfm.FRIENDS_URL,
                "1f0250e7cc9e0dd01c6de78d7b7ede402fffc32982a92f2fb4bac9c6e4dece0d",
                lastfm.read_friends,
            ),
        ],
        lastfm.to_tables,
    ),
    "camra2011": Source(
        [
            _file(
                camra2011.MEMBERS_URL,
                "63e0d9958a78e6d5c56964faf242f80ec4e70e68cc838a57469d35caa6f99ba1",
                camra2011.read_members,
            ),
            _file(
                camra2011.USERS_URL,
                "5f1fcbf8fc5e172704d587031cfff851f8b0ddeac949a79af3ebdb07a36442df",
                camra2011.read_ratings,
            ),
            _file(
                camra2011.GROUPS_URL,
                "12e532cb1fb693473da41f04099d90956644fc979be919f7acae23935529994a",
                camra2011.read_ratings,
            ),
            _file(
                camra2011.TEST_URL,
                "c546e70efbf212bfcee11effe5fb8f2346a3cf4b9386304f6feb4747ec1e4a1f",
                camra2011.read_ratings,
            ),
            _file(
                camra2011.NEGATIVES_URL,
                "41b3c47ee7dfab1a85414f064e5b667e261c58632e3e1d7384a19359fc62f006",
                camra2011.read_negatives,
            ),
        ],
        camra2011.to_tables,
    ),
}
