"""Processes that are killed: the next one works, and nothing half-written is taken for whole."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil
import pytest
from conftest import make_rich_tables, serving
from faults import Fault, Kill, Limit, Started, firetv
from test_sources import FILES, RATINGS, TRUST, Server, sha256
from test_sweeps import CODE
from workers import wait_for

from firetv import writing
from firetv.data import read_tables, write_tables
from firetv.recommender import Recommender
from firetv.schema import DataError
from firetv.sweeps import TABLE, read_table
from firetv.writing import write_whole

# Ratings of more bytes than any other file that is written on the way to the tables.
SERVED = FILES | {RATINGS: b"".join(b"%d %d 4\n" % (1 + n % 97, 1 + n % 89) for n in range(8633))}
DATA = ("data", "filmtrust", "--out")
WORLD = ("generate", "--users", 30, "--content", 40, "--watch-events", 300, "--out")


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder; no lock, which is empty, and no cache of Python."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in files.items() if path.suffix != ".lock"}


# --- Data sets: download and transform ---


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        running.files |= SERVED
        with serving(running):
            yield running


@pytest.fixture
def archives(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, tuple[str, str]]:
    """What stands for the archives of a data set, of which nothing is cached."""
    monkeypatch.setenv("FIRETV_CACHE", str(tmp_path / "cache"))
    server.asked.clear()
    return {name: (f"{server.url}/{name}", sha256(file)) for name, file in SERVED.items()}


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tables that an undisturbed run writes."""
    folder = tmp_path_factory.mktemp("whole")
    archives = {name: (f"{server.url}/{name}", sha256(file)) for name, file in SERVED.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIRETV_CACHE", str(folder / "cache"))
        assert firetv(*DATA, folder / "tables", archives=archives).code == 0
    return content(folder / "tables")


def test_a_killed_download_goes_on_and_leaves_nothing(
    server: Server, archives: dict[str, tuple[str, str]], whole: dict[str, bytes], tmp_path: Path
) -> None:
    cache, tables = tmp_path / "cache" / "filmtrust", tmp_path / "tables"
    half = len(SERVED[RATINGS]) // 2
    assert firetv(*DATA, tables, archives=archives, fault=Limit(half, kill=True)).killed
    part = (cache / f"{RATINGS}.part").read_bytes()
    assert SERVED[RATINGS].startswith(part)
    assert not tables.exists()
    assert firetv(*DATA, tables, archives=archives).code == 0
    assert server.asked == [(RATINGS, None), (RATINGS, f"bytes={len(part)}-"), (TRUST, None)]
    assert content(cache) == SERVED
    assert content(tables) == whole


@pytest.mark.parametrize(
    "fault",
    [
        Kill("os.rename", r"\.part", nth=2),  # of the downloads, when all of the second is there
        Kill("call", r"^to_tables$"),
        Kill("open", r"users\.csv w"),
        Kill("os.rename", r"\.csv", nth=2),
    ],
    ids=["download", "transform", "write", "move"],
)
def test_a_data_set_that_was_cut_short_is_written_again(
    fault: Fault, archives: dict[str, tuple[str, str]], whole: dict[str, bytes], tmp_path: Path
) -> None:
    tables = tmp_path / "tables"
    assert firetv(*DATA, tables, archives=archives, fault=fault).killed
    with pytest.raises(DataError):
        read_tables(tables)
    assert firetv(*DATA, tables, archives=archives).code == 0
    assert content(tables) == whole
    assert content(tmp_path / "cache" / "filmtrust") == SERVED


def test_a_mixture_of_old_and_new_tables_is_refused(tmp_path: Path) -> None:
    old, new = make_rich_tables(), make_rich_tables(events=650)
    for tables in (old, new):
        write_tables(tables, tmp_path / ("old" if tables is old else "new"))
    write_tables(old, tmp_path / "tables")
    process = os.fork()
    if process == 0:
        Kill("os.rename", r"\.csv", nth=2).arm()
        write_tables(new, tmp_path / "tables")
    assert os.waitpid(process, 0)[1] == signal.SIGKILL
    with pytest.raises(DataError, match=r"when a process was stopped\. Write them again\."):
        read_tables(tmp_path / "tables")
    said = firetv("check", tmp_path / "tables")
    assert (said.code, len(said.stderr.splitlines())) == (2, 1)
    write_tables(new, tmp_path / "tables")
    assert content(tmp_path / "tables") == content(tmp_path / "new")


@pytest.mark.parametrize(
    ("fault", "earlier"),
    [
        (Limit(4000, kill=True), False),  # as events are written
        (Kill("os.rename", r"users\.csv"), True),
        (Kill("os.rename", r"manifest\.json"), False),
    ],
    ids=["write", "move", "move the last"],
)
def test_a_world_that_was_cut_short_is_made_again(
    fault: Fault, earlier: bool, world: dict[str, bytes], tmp_path: Path
) -> None:
    if earlier:
        assert firetv(*WORLD, tmp_path, "--seed", 1).code == 0
    assert firetv(*WORLD, tmp_path, fault=fault).killed
    with pytest.raises(DataError):
        read_tables(tmp_path)
    assert firetv(*WORLD, tmp_path).code == 0
    assert content(tmp_path) == world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run writes."""
    folder = tmp_path_factory.mktemp("world")
    assert firetv(*WORLD, folder).code == 0
    return content(folder)


# --- Recommenders: train and save ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables")
    write_tables(make_rich_tables(), path)
    return path


@pytest.fixture(scope="module")
def train(folder: Path) -> tuple[object, ...]:
    return ("train", "--data", folder, "--base", "itemknn", "--context", "off", "--out")


@pytest.fixture(scope="module")
def model(train: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What undisturbed training saves."""
    path = tmp_path_factory.mktemp("models") / "whole"
    assert firetv(*train, path).code == 0
    return content(path)


@pytest.mark.parametrize(
    "fault",
    [
        Kill("call", r"^ItemKNN\.fit$"),
        Limit(10_000, kill=True),  # as arrays are written
        Kill("os.rename", "arrays-"),
        Kill("os.rename", r"recommender\.json"),
    ],
    ids=["fit", "arrays", "before arrays", "before document"],
)
def test_training_that_was_cut_short_is_done_again(
    fault: Fault, train: tuple[object, ...], model: dict[str, bytes], tmp_path: Path
) -> None:
    assert firetv(*train, tmp_path, fault=fault).killed
    with pytest.raises(DataError, match="Train"):
        Recommender.load(tmp_path)
    assert firetv(*train, tmp_path).code == 0
    assert content(tmp_path) == model


def test_a_save_that_was_cut_short_leaves_the_old_recommender(
    train: tuple[object, ...], model: dict[str, bytes], tmp_path: Path
) -> None:
    assert firetv(*train, tmp_path, "--seed", 1).code == 0
    fault = Kill("os.rename", r"recommender\.json")
    assert firetv(*train, tmp_path, fault=fault).killed
    assert Recommender.load(tmp_path).about["seed"] == 1
    assert firetv(*train, tmp_path).code == 0
    assert content(tmp_path) == model


def test_what_killed_writers_left_goes_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = tmp_path / ".a.json.17", tmp_path / ".b.json.17"
    editors = tmp_path / ".a.json.swp"
    for left in (mine, other, editors):
        left.write_text("half")
    write_whole(tmp_path / "a.json", "{}")
    assert mine.exists()  # somebody may be writing it
    monkeypatch.setattr(writing, "LONGEST_WRITE", -1.0)
    write_whole(tmp_path / "a.json", "{}")
    left = {other.name: b"half", editors.name: b"half"}
    assert content(tmp_path) == {"a.json": b"{}", **left}


# --- Notebooks: runs and sweeps ---


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """A notebook that says when it begins, and waits at a barrier if its rate is 0.3."""
    code = CODE.format(folder=str(tmp_path), tests=str(Path(__file__).parent))
    new = nbformat.v4
    cells = [
        new.new_markdown_cell("# Does it run?"),
        new.new_code_cell("rate = 0.1\nseeds = [0]", metadata={"tags": ["parameters"]}),
        new.new_code_cell(f"print('x' * 9000)\n{code.strip()}"),
    ]
    path = tmp_path / "01_tiny.ipynb"
    nbformat.write(new.new_notebook(cells=cells), path)
    return path


def outlived(started: Started) -> list[psutil.Process]:
    """Kill the command, but none of its children, which are returned."""
    children = psutil.Process(started.process.pid).children(recursive=True)
    os.kill(started.process.pid, signal.SIGKILL)
    assert started.end().killed
    return children


def test_a_run_that_was_cut_short_is_run_again(notebook: Path, tmp_path: Path) -> None:
    hold, out = tmp_path / "hold", tmp_path / "out"
    hold.touch()
    with Started(("run", notebook, "-p", "rate=0.3", "--out", out)) as started:
        wait_for(lambda: [*tmp_path.glob("held-*")])
        kernels = outlived(started)
    assert kernels
    assert psutil.wait_procs(kernels, 30)[1] == []  # a kernel does not outlive its client
    hold.unlink()
    assert not (out / "01_tiny.json").exists()
    fault = Limit(8000, kill=True)  # as the executed copy is written
    assert firetv("run", notebook, "--out", out, fault=fault).killed
    other = notebook.with_name("02_other.ipynb")
    other.write_bytes(notebook.read_bytes().replace(b"01_tiny", b"02_other"))
    said = firetv("run", other, "--out", out)
    assert said.code == 0, said.stderr
    said = firetv("run", notebook, "--out", out)
    assert said.code == 0, said.stderr
    names = {
        f"{name}.{end}" for name in ("01_tiny", "02_other") for end in ("html", "ipynb", "json")
    }
    assert {path.name for path in out.iterdir()} == names | {"index.html"}
    assert "interrupted" not in (out / "index.html").read_text("utf-8")


def test_a_sweep_that_was_cut_short_does_only_what_is_missing(
    notebook: Path, tmp_path: Path
) -> None:
    hold, grid, out = (tmp_path / name for name in ("hold", "grid.yaml", "out"))
    hold.touch()
    grid.write_text("rate: [0.1, 0.3]\n")
    words = ("sweep", notebook, "--grid", grid, "--out", out)
    with Started(words) as started:
        wait_for(lambda: [*tmp_path.glob("held-*")] and [*out.glob("*/run.json")])
        workers = outlived(started)
    assert psutil.wait_procs(workers, 30)[1] == []
    hold.unlink()
    assert len([*out.glob("*/run.json")]) == 1
    said = firetv(*words)
    assert said.stdout == f"2 sets done, 0 failed: {out / TABLE}\n", said.stderr
    assert (tmp_path / "begun").read_text().split().count("0.1") == 1
    assert read_table(out)["params.rate"].tolist() == [0.1] * 4 + [0.3] * 4
    assert not [*out.glob("**/.*")]
