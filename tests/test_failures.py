"""What the system refuses: a clear line and exit code 2, and nothing half-written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from conftest import make_rich_tables, serving
from faults import Ended, Limit, Refuse, firetv
from test_sources import FILES, RATINGS, TRUST, Server, sha256

from firetv.data import write_tables

COMMAND = [sys.executable, "-c", "from firetv.cli import app; app()"]
WORLD = ("generate", "--users", 30, "--content", 40, "--watch-events", 300)
FULL = "No space left on device. Free some space, or name another folder, and run again."


def line(said: Ended | subprocess.CompletedProcess) -> str:
    """The one line that a command says of what went wrong; progress may come before it."""
    code = said.code if isinstance(said, Ended) else said.returncode
    assert code == 2, said.stderr
    assert "Traceback" not in said.stderr
    assert "Exception ignored" not in said.stderr
    progress = ("Downloading data from", "[1/1] 01_tiny", "Looking in ", "scoring", "01_tiny:")
    (last,) = [each for each in said.stderr.splitlines() if not each.startswith(progress)]
    return last


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables, a notebook, a grid, and a trained recommender."""
    path = tmp_path_factory.mktemp("given")
    write_tables(make_rich_tables(), path / "tables")
    new = nbformat.v4
    defaults = new.new_code_cell("rate = 0.1", metadata={"tags": ["parameters"]})
    code = new.new_code_cell("print('x' * 9000)")
    title = new.new_markdown_cell("# Does it run?")
    nbformat.write(new.new_notebook(cells=[title, defaults, code]), path / "01_tiny.ipynb")
    (path / "grid.yaml").write_text("rate: [0.1]\n")
    said = firetv(*words_of("train", path), "--out", path / "model")
    assert said.code == 0, said.stderr
    return path


def words_of(stage: str, folder: Path) -> tuple[object, ...]:
    """A command that writes to ``--out``."""
    tables, notebook = folder / "tables", folder / "01_tiny.ipynb"
    return {
        "data": ("data", "filmtrust"),
        "generate": WORLD,
        "generate parquet": (*WORLD, "--format", "parquet"),
        "train": ("train", "--data", tables, "--base", "itemknn", "--context", "off"),
        "score": ("score", "--model", folder / "model"),
        "run": ("run", notebook),
        "sweep": ("sweep", notebook, "--grid", folder / "grid.yaml"),
    }[stage]


# --- Downloads ---


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves a small data set, of which nothing is cached."""
    monkeypatch.setenv("FIRETV_CACHE", str(tmp_path / "cache"))
    with Server() as running:
        running.files |= FILES
        with serving(running):
            yield running


def archives(server: Server) -> dict[str, tuple[str, str]]:
    return {name: (f"{server.url}/{name}", sha256(file)) for name, file in FILES.items()}


def test_a_wrong_checksum_is_a_line(server: Server, tmp_path: Path) -> None:
    server.files[TRUST] += b"!"
    said = line(firetv("data", "filmtrust", "--out", tmp_path / "out", archives=archives(server)))
    assert said.startswith("filmtrust: cannot be downloaded: ")
    for part in ("hash", f"{server.url}/{TRUST}", f"put {TRUST}", str(tmp_path / "cache")):
        assert part in said
    assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "cache" / "filmtrust").iterdir()] == [RATINGS]


def test_no_network_is_a_line_of_each_way_that_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = "http://127.0.0.1:9"  # the discard port: refused at once
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, proxy)
        monkeypatch.setenv(name.upper(), proxy)
    monkeypatch.setenv("FIRETV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    words = ["data", "movielens-100k", "--out", str(tmp_path / "out")]
    said = subprocess.run([*COMMAND, *words], capture_output=True, text=True)
    *progress, last = said.stderr.splitlines()
    assert said.returncode == 2
    assert last.startswith("movielens-100k: cannot be downloaded: https://files.grouplens.org/")
    assert "recbole==1.2.1 failed" in last
    assert last.endswith(f"into {tmp_path / 'cache' / 'movielens-100k'}, and run again.")
    assert not any("Traceback" in each or each.startswith("  File") for each in progress)
    assert not (tmp_path / "out").exists()


def test_a_cached_data_set_needs_no_network(server: Server, tmp_path: Path) -> None:
    words = ("data", "filmtrust", "--out")
    assert firetv(*words, tmp_path / "one", archives=archives(server)).code == 0
    fault = Refuse("socket.connect", "", errno.ENETUNREACH)
    said = firetv(*words, tmp_path / "other", archives=archives(server), fault=fault)
    assert said.code == 0, said.stderr


# --- Full disks ---


def test_a_download_that_the_disk_has_no_room_for(server: Server, tmp_path: Path) -> None:
    words = ("data", "filmtrust", "--out", tmp_path / "out")
    fault = Refuse("open", r"\.part w", errno.ENOSPC)
    said = line(firetv(*words, archives=archives(server), fault=fault))
    assert said.startswith(str(tmp_path / "cache" / "filmtrust"))
    assert said.endswith(FULL)
    assert firetv(*words, archives=archives(server)).code == 0


@pytest.mark.parametrize(
    ("stage", "size"),
    [
        ("generate", 4000),
        ("generate parquet", 4000),
        ("train", 10_000),
        ("run", 8000),
    ],
)
def test_a_file_that_the_disk_has_no_room_for(
    stage: str, size: int, folder: Path, tmp_path: Path
) -> None:
    """The system itself refuses to write on, in the midst of a file."""
    words, out = (*words_of(stage, folder), "--out", tmp_path / "out"), tmp_path / "out"
    said = line(firetv(*words, fault=Limit(size, kill=False)))
    assert str(out) in said
    assert "File too large" in said
    assert not [path for path in out.rglob("*") if path.suffix != ".html" and path.is_file()]
    again = firetv(*words)
    assert again.code == 0, again.stderr


@pytest.mark.parametrize(
    ("stage", "file"),
    [("score", "score.json"), ("sweep", "about.json"), ("train", "recommender.json")],
)
def test_a_disk_that_is_full(stage: str, file: str, folder: Path, tmp_path: Path) -> None:
    fault = Refuse("open", rf"{file}\S* w", errno.ENOSPC)
    said = line(firetv(*words_of(stage, folder), "--out", tmp_path / "out", fault=fault))
    assert said.startswith(str(tmp_path / "out"))
    assert said.endswith(FULL)


def test_no_room_for_what_is_printed(folder: Path) -> None:
    words = ["recommend", "--model", str(folder / "model"), "--user", "user3"]
    with Path("/dev/full").open("w") as full:
        said = subprocess.run([*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, text=True)
    assert line(said) == FULL


def test_a_reader_that_has_seen_enough_is_no_error(folder: Path) -> None:
    command = [*COMMAND, "check", str(folder / "tables")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


# --- Folders that cannot be written to ---


@pytest.mark.parametrize("stage", ["data", "generate", "train", "run"])
def test_a_folder_that_cannot_be_made(
    stage: str, folder: Path, server: Server, tmp_path: Path
) -> None:
    """Below a file nobody has a folder, whatever their rights."""
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    words = (*words_of(stage, folder), "--out", out)
    said = line(firetv(*words, archives=archives(server)))
    assert str(tmp_path / "file") in said
    assert said.endswith("Check the name.")


@pytest.mark.parametrize("stage", ["data", "generate", "train", "run"])
def test_a_folder_that_is_read_only(
    stage: str, folder: Path, server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    fault = Refuse("os.mkdir", str(out), errno.EROFS)
    said = line(
        firetv(*words_of(stage, folder), "--out", out, archives=archives(server), fault=fault)
    )
    assert said.startswith(str(out))
    assert "Read-only file system. Name a folder that you may write to" in said
