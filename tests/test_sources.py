import dataclasses
import hashlib
import logging
import os
import sqlite3
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import serving
from typer.testing import CliRunner

from firetv import sources
from firetv.cli import app
from firetv.data import read_tables, write_tables
from firetv.schema import DataError

NAME, TWO = "movielens-100k", "filmtrust"  # one part of two archives, and two parts of one each
ZIP, WHEEL = "ml-100k.zip", "recbole-1.2.1-py3-none-any.whl"
RATINGS, TRUST = "ratings.txt", "trust.txt"
FILES = {RATINGS: b"1 2 4\n3 2 0.5\n", TRUST: b"3 1 1\n"}
NO_SERVER = "http://127.0.0.1:9"  # the discard port: refused at once


def wheel(path: Path) -> Path:
    """A wheel that pip accepts."""
    info = "recbole-1.2.1.dist-info"
    tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    named = "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/METADATA", named)
        archive.writestr(f"{info}/RECORD", "")
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files` by name and records which were asked for, with the Range header."""

    honours_range = True
    drop_after: int | None = None  # bytes after which the next answer breaks off

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name, wanted = self.path[1:], self.headers.get("Range")
        self.server.asked.append((name, wanted))
        if name not in self.server.files:
            self.send_error(404)
            return
        start = int(wanted[6:-1]) if wanted and self.server.honours_range else 0
        body = self.server.files[name][start:]
        if start and not body:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.drop_after])
        self.server.drop_after = None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running, serving(running):
        yield running


@pytest.fixture
def folder(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of a world where a small archive stands for each real one.

    The server has the zip; pip sees no index, only wheels put into ``wheels``.
    """
    server.files[ZIP] = b"zip" * sources.CHUNK  # several chunks to download
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("FIRETV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    use(monkeypatch, ZIP, address=f"{server.url}/{ZIP}", sha256=sha256(server.files[ZIP]))
    use(monkeypatch, WHEEL, sha256=sha256(wheel(tmp_path / WHEEL).read_bytes()))
    return tmp_path / "cache" / NAME


@pytest.fixture
def two(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of a world where a server has small files for a data set of two parts."""
    server.files |= FILES
    monkeypatch.setenv("FIRETV_CACHE", str(tmp_path / "cache"))
    for name, content in FILES.items():
        address = f"{server.url}/{name}"
        use(monkeypatch, name, TWO, address=address, sha256=sha256(content))
    return tmp_path / "cache" / TWO


def use(
    monkeypatch: pytest.MonkeyPatch, filename: str, name: str = NAME, **changes: object
) -> None:
    source = sources.SOURCES[name]
    parts = [
        {f: dataclasses.replace(a, **changes) if f == filename else a for f, a in part.items()}
        for part in source.parts
    ]
    changed = dataclasses.replace(source, parts=parts)
    monkeypatch.setitem(sources.SOURCES, name, changed)  # type: ignore[arg-type]


def offer_wheel(folder: Path) -> None:
    tmp_path = folder.parents[1]
    (tmp_path / WHEEL).rename(tmp_path / "wheels" / WHEEL)


def cached(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- A choice of archives ---


def test_a_second_choice_is_made_and_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use(monkeypatch, ZIP, address=f"{NO_SERVER}/{ZIP}")
    offer_wheel(folder)
    assert sources.fetch(NAME) == [folder / WHEEL]
    assert cached(folder) == [WHEEL]
    (said,) = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert "Connection refused" in said
    assert "trying recbole==1.2.1" in said


def test_each_archive_is_read_in_its_own_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, ZIP, read=lambda path: f"zip {path.name}")
    use(monkeypatch, WHEEL, read=lambda path: f"wheel {path.name}")
    source = dataclasses.replace(sources.SOURCES[NAME], transform=lambda *given: given)
    monkeypatch.setitem(sources.SOURCES, NAME, source)  # type: ignore[arg-type]
    assert sources.read_parts(NAME) == [f"zip {ZIP}"]
    assert sources.load_tables(NAME, 3) == (f"zip {ZIP}", 3)
    (folder / ZIP).unlink()
    wheel(folder / WHEEL)
    assert sources.load_tables(NAME, 3) == (f"wheel {WHEEL}", 3)


def test_a_cached_archive_needs_no_request(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.fetch(NAME)
    use(monkeypatch, ZIP, address=f"{NO_SERVER}/{ZIP}")
    assert sources.fetch(NAME) == [folder / ZIP]
    assert len(server.asked) == 1


def test_a_cached_second_choice_needs_no_request(folder: Path, server: Server) -> None:
    folder.mkdir(parents=True)
    wheel(folder / WHEEL)
    assert sources.fetch(NAME) == [folder / WHEEL]
    assert server.asked == []


def test_one_error_when_every_source_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, ZIP, address=f"{NO_SERVER}/{ZIP}")
    with pytest.raises(DataError) as caught:
        sources.load_tables(NAME)
    message = str(caught.value)
    assert "\n" not in message
    for part in (NO_SERVER, "Connection refused", "No matching distribution", ZIP, WHEEL, folder):
        assert str(part) in message
    assert cached(folder) == []


def test_an_unknown_name_lists_the_known_ones() -> None:
    known = "movielens-100k, comoda, filmtrust, lastfm, camra2011"
    with pytest.raises(DataError, match=rf"movielens-1m.*Choose from {known}\."):
        sources.load_tables("movielens-1m")


# --- Downloads ---


def test_a_broken_download_goes_on_where_it_stopped(folder: Path, server: Server) -> None:
    server.drop_after = 2 * sources.CHUNK + 1
    with pytest.raises(DataError, match="bytes read"):
        sources.fetch(NAME)
    assert cached(folder) == [f"{ZIP}.part"]
    assert sources.fetch(NAME)[0].read_bytes() == server.files[ZIP]
    assert server.asked == [(ZIP, None), (ZIP, f"bytes={2 * sources.CHUNK}-")]
    assert cached(folder) == [ZIP]


def test_a_server_that_cannot_resume_starts_over(folder: Path, server: Server) -> None:
    server.drop_after, server.honours_range = 2 * sources.CHUNK, False
    with pytest.raises(DataError):
        sources.fetch(NAME)
    assert sources.fetch(NAME)[0].read_bytes() == server.files[ZIP]
    assert server.asked == [(ZIP, None), (ZIP, f"bytes={2 * sources.CHUNK}-")]


def test_a_part_as_long_as_the_file_is_given_up(folder: Path, server: Server) -> None:
    folder.mkdir(parents=True)
    (folder / f"{ZIP}.part").write_bytes(bytes(len(server.files[ZIP])))
    assert sources.fetch(NAME)[0].read_bytes() == server.files[ZIP]


def test_a_wrong_checksum_is_reported_and_leaves_nothing(folder: Path, server: Server) -> None:
    server.files[ZIP] += b"!"
    with pytest.raises(DataError, match="does not match the known hash"):
        sources.fetch(NAME)
    assert cached(folder) == []


def test_a_damaged_cache_is_replaced(
    folder: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    sources.fetch(NAME)[0].write_bytes(b"damaged")
    assert sources.fetch(NAME)[0].read_bytes() == server.files[ZIP]
    assert "wrong checksum" in caplog.text


# --- A data set of two parts ---


def test_parts_are_fetched_once_and_in_order(two: Path, server: Server) -> None:
    assert sources.fetch(TWO) == [two / RATINGS, two / TRUST]
    assert sources.fetch(TWO) == [two / RATINGS, two / TRUST]
    assert {path.name: path.read_bytes() for path in two.iterdir()} == FILES
    assert server.asked == [(RATINGS, None), (TRUST, None)]


@pytest.mark.parametrize(("missing", "there"), [(RATINGS, TRUST), (TRUST, RATINGS)])
def test_one_missing_part_is_an_error_that_names_it(
    two: Path, server: Server, missing: str, there: str
) -> None:
    del server.files[missing]
    with pytest.raises(DataError) as caught:
        sources.load_tables(TWO)
    message = str(caught.value)
    assert "404" in message
    assert f"put {missing} ({server.url}/{missing}) into {two}" in message
    assert there not in message
    assert cached(two) == [there]
    server.files |= FILES
    server.asked.clear()
    assert len(sources.fetch(TWO)) == 2
    assert server.asked == [(missing, None)]  # what is there is not fetched again


def test_one_error_names_every_missing_part(two: Path, server: Server) -> None:
    server.files.clear()
    with pytest.raises(DataError) as caught:
        sources.load_tables(TWO)
    assert len(caught.value.problems) == 2
    for name in FILES:
        assert f"put {name} ({server.url}/{name}) into {two}" in str(caught.value)


def test_a_part_with_a_wrong_checksum_is_refused(two: Path, server: Server) -> None:
    server.files[TRUST] = b"3 2 1\n"
    with pytest.raises(DataError, match=rf"{TRUST}.* does not match the known hash"):
        sources.load_tables(TWO)
    assert cached(two) == [RATINGS]


def test_a_damaged_part_is_replaced(two: Path, server: Server) -> None:
    sources.fetch(TWO)[1].write_bytes(b"damaged")
    sources.fetch(TWO)
    assert {path.name: path.read_bytes() for path in two.iterdir()} == FILES
    assert server.asked == [(RATINGS, None), (TRUST, None), (TRUST, None)]


def test_a_broken_part_goes_on_where_it_stopped(
    two: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files[TRUST] = FILES[TRUST] * sources.CHUNK
    use(monkeypatch, TRUST, TWO, sha256=sha256(server.files[TRUST]))
    two.mkdir(parents=True)
    (two / RATINGS).write_bytes(FILES[RATINGS])
    server.drop_after = sources.CHUNK
    with pytest.raises(DataError, match="bytes read"):
        sources.fetch(TWO)
    assert cached(two) == [RATINGS, f"{TRUST}.part"]
    assert sources.fetch(TWO)[1].read_bytes() == server.files[TRUST]
    assert server.asked == [(TRUST, None), (TRUST, f"bytes={sources.CHUNK}-")]
    assert cached(two) == [RATINGS, TRUST]


# --- Folders of tables ---


def test_tables_are_prepared_once(two: Path, tmp_path: Path, server: Server) -> None:
    folder = sources.prepare(TWO, tmp_path / "tables", seed=3)
    tables = read_tables(folder)
    assert tables.manifest["seed"] == 3
    assert tables.watch_history is not None
    assert tables.watch_history["user_id"].tolist() == ["user1", "user3"]
    for name in FILES:
        (two / name).unlink()
    server.files.clear()
    assert sources.prepare(TWO, folder, seed=3) == folder  # found, not written again
    with pytest.raises(DataError, match="holds filmtrust with seed 3, not filmtrust with 4"):
        sources.prepare(TWO, folder, seed=4)


def test_tables_are_prepared_by_one_of_several_that_ask_at_once(
    two: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, written = tmp_path / "tables", []

    def write(*given: object) -> None:
        written.append(given)
        time.sleep(0.2)  # the others look, find no tables, and wait
        write_tables(*given)

    monkeypatch.setattr(sources, "write_tables", write)
    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(sources.prepare, [TWO] * 4, [folder] * 4)] == [folder] * 4
    assert len(written) == 1
    assert sorted(server.asked) == [(name, None) for name in FILES]
    assert read_tables(folder).manifest["name"] == TWO


def test_a_data_set_that_another_process_keeps_is_named(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PATIENCE", 0.01)
    with closing(sqlite3.connect(tmp_path / ".tables.lock", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OSError, match=r"lock: cannot be locked: database is locked\. Wait"):
            sources.prepare(TWO, tmp_path / "tables")
    assert sources.prepare(TWO, tmp_path / "tables").is_dir()


def test_the_command_line_prepares_and_describes(two: Path, tmp_path: Path, server: Server) -> None:
    words = ["data", TWO, "--out", str(tmp_path / "tables")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "user_connections" in result.output
    del server.files[TRUST]
    (two / TRUST).unlink()
    result = CliRunner().invoke(app, [*words[:-1], str(tmp_path / "other")])
    assert result.exit_code == 2
    assert f"put {TRUST}" in result.output
    assert not (tmp_path / "other").exists()
