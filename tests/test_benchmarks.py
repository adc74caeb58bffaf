from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from threadpoolctl import threadpool_info

from firetv import benchmarks
from firetv.artefacts import Artefact, load_artefact, write_artefact
from firetv.benchmarks import (
    bandwidth,
    by_turns,
    compared,
    elsewhere,
    environment,
    gemm_speed,
    implicit_top,
    lightfm_loop,
    numpy_top,
    pinned,
    product,
)
from firetv.schema import DataError
from firetv.slate import best

# Timing


def test_every_work_runs_once_more_than_it_counts_and_in_turns() -> None:
    calls: list[str] = []
    seconds = by_turns({name: lambda n=name: calls.append(n) for name in "abc"}, repeats=20)
    assert seconds.shape == (20, 3)
    assert list(seconds) == ["a", "b", "c"]
    turns = np.reshape(calls, (21, 3))
    assert (np.sort(turns, axis=1) == ["a", "b", "c"]).all()
    assert len(np.unique(turns, axis=0)) > 3  # nobody always follows the same neighbour


def test_the_clock_sees_what_takes_long() -> None:
    seconds = by_turns({"slow": lambda: time.sleep(0.02), "fast": lambda: None}, repeats=3)
    assert (seconds["slow"] >= 0.02).all()
    assert (seconds["fast"] < 0.02).all()


def test_threads_are_pinned_and_garbage_waits() -> None:
    found: list[tuple[bool, set[int]]] = []

    def look() -> None:
        pools = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
        found.append((gc.isenabled(), pools))

    before = threadpool_info()
    by_turns({"look": look}, repeats=2, threads=1)
    assert found == [(False, {1})] * 3
    assert gc.isenabled()
    assert threadpool_info() == before


def test_a_work_that_fails_leaves_the_collector_on() -> None:
    with pytest.raises(ZeroDivisionError):
        by_turns({"wrong": lambda: 1 / 0})
    assert gc.isenabled()


@pytest.mark.parametrize("wrong", [{"works": {}}, {"repeats": 0}, {"threads": 0}])
def test_nothing_to_time_is_said(wrong: dict) -> None:
    with pytest.raises(ValueError, match="1 or more each"):
        by_turns(**{"works": {"a": int}} | wrong)


def test_ratios_are_taken_turn_by_turn(tmp_path: Path) -> None:
    """A machine that slows down by turns does not change who is how much faster."""
    pace = np.array([1.0, 5.0, 2.0, 9.0, 3.0])
    seconds = pd.DataFrame({"ours": pace, "loop": 4 * pace})
    results = compared(seconds, "ours", section="top10", split="6,000 x 3,700, 1 thread")
    rows = results.set_index(["model", "metric"])
    columns = ["value", "low", "high", "n"]
    assert rows.loc[("loop", "times"), columns].tolist() == [4, 4, 4, 5]
    assert rows.loc[("loop", "seconds"), columns].tolist() == [12, 4, 36, 5]
    assert rows.loc[("ours", "times"), columns].tolist() == [1, 1, 1, 5]
    data = {"name": "drawn", "rows": 0, "checksum": ""}
    write_artefact(Artefact("bench", {}, data, results, ()), tmp_path / "bench.json")
    pd.testing.assert_frame_equal(load_artefact("bench", tmp_path).results, results)


def test_ours_must_have_been_measured() -> None:
    with pytest.raises(ValueError, match="'ours' was not measured: choose from loop"):
        compared(pd.DataFrame({"loop": [1.0]}), "ours")


def test_the_machine_has_limits() -> None:
    assert 1e8 < bandwidth(megabytes=8, repeats=2) < 1e13  # bytes a second
    assert 1e8 < gemm_speed(side=256, repeats=2) < 1e14


# Peers


@pytest.fixture(scope="module")
def vectors() -> tuple[np.ndarray, np.ndarray, sparse.csr_array]:
    rng = np.random.default_rng(0)
    users, items = (rng.normal(size=(n, 6)).astype(np.float32) for n in (70, 50))
    seen = sparse.csr_array((rng.random((70, 50)) < 0.3).astype(np.float32))
    return users, items, seen


def test_peers_agree_with_the_whole_matrix(
    vectors: tuple[np.ndarray, np.ndarray, sparse.csr_array],
) -> None:
    users, items, seen = vectors
    expected = best(np.where(seen.toarray() > 0, -np.inf, users @ items.T), 10)
    np.testing.assert_array_equal(numpy_top(users, items, seen, 10), expected)
    np.testing.assert_array_equal(numpy_top(users, items, seen, 10, chunk=13), expected)
    np.testing.assert_array_equal(implicit_top(users, items, seen, 10), expected)
    np.testing.assert_array_equal(lightfm_loop(users, items, seen, 10), expected)


def test_the_product_takes_all_chunks(
    vectors: tuple[np.ndarray, np.ndarray, sparse.csr_array], monkeypatch: pytest.MonkeyPatch
) -> None:
    users, items, _ = vectors
    rows = []
    multiply = np.matmul

    def counted(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> np.ndarray:
        rows.append(len(x))
        return multiply(x, y, out=out)

    monkeypatch.setattr(np, "matmul", counted)
    product(users, items, chunk=32)
    assert rows == [32, 32, 6]


# Environments


@pytest.fixture
def installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would be run to make an environment; the environments are made of nothing."""
    commands: list[list[str]] = []

    def record(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        failed = "broken==1.0" in command
        return subprocess.CompletedProcess(command, int(failed), "", "tried\nno such package\n")

    monkeypatch.setenv("FIRETV_CACHE", str(tmp_path))
    monkeypatch.setattr(benchmarks.subprocess, "run", record)
    return commands


def test_an_environment_is_made_once_and_anew_for_other_pins(
    installs: list[list[str]], tmp_path: Path
) -> None:
    python = environment("ranx", ["ranx==0.3.20"])
    assert tmp_path in python.parents
    assert environment("ranx", ["ranx==0.3.20"]) == python
    assert [command[2] for command in installs] == ["venv", "pip"]
    assert installs[1][0] == str(python)
    assert installs[1][-1] == "ranx==0.3.20"
    environment("ranx", ["ranx==0.3.21"])
    assert len(installs) == 4


def test_an_environment_that_failed_is_tried_again(installs: list[list[str]]) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match=r"cannot be made: no such package.*network"):
            environment("broken", ["broken==1.0"])
    assert len(installs) == 4


def test_what_failed_later_is_no_environment_any_more(installs: list[list[str]]) -> None:
    environment("peer", ["fine==1.0"])
    with pytest.raises(DataError):
        environment("peer", ["broken==1.0"])
    environment("peer", ["fine==1.0"])
    assert [command[2] for command in installs] == ["venv", "pip"] * 3


def test_loose_pins_and_strange_names_are_refused(installs: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="pin ranx with =="):
        environment("ranx", ["ranx"])
    with pytest.raises(ValueError, match="use letters"):
        environment("../ranx", ["ranx==0.3.20"])
    assert installs == []


def test_a_script_runs_elsewhere_with_its_threads(tmp_path: Path) -> None:
    script, file = tmp_path / "peer.py", tmp_path / "input.txt"
    script.write_text(
        "import json, os, sys\n"
        "print(json.dumps({'text': open(sys.argv[1]).read(), 'repeats': sys.argv[2],"
        " 'threads': os.environ['OMP_NUM_THREADS']}))\n"
    )
    file.write_text("lists")
    told = elsewhere(Path(sys.executable), str(script), file, 7, threads=3)
    assert told == {"text": "lists", "repeats": "7", "threads": "3"}
    assert json.dumps(pinned(3)).count('"3"') == 4


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise SystemExit('no lists in it')", "peer.py failed: no lists in it"),
        ("print('done')", "peer.py printed no JSON: 'done"),
        ("print([1])", "peer.py printed list, not a JSON object"),
    ],
)
def test_a_script_that_fails_says_so(tmp_path: Path, source: str, message: str) -> None:
    script = tmp_path / "peer.py"
    script.write_text(source)
    with pytest.raises(RuntimeError, match=message):
        elsewhere(Path(sys.executable), str(script), tmp_path)


def test_an_unknown_script_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist: name a script of peer_scripts"):
        elsewhere(Path(sys.executable), "nobody.py", tmp_path)
