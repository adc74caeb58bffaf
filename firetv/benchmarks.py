"""How fast something is beside its peers: all in one process, by turns, with the same threads.

:func:`by_turns` times, :func:`compared` says how many times as long each peer takes. The peers of
scoring are here as a reader would write them: :func:`numpy_top`, :func:`implicit_top` and
:func:`lightfm_loop`, beside :func:`product`, :func:`gemm_speed` and :func:`bandwidth`, below which
no machine can go. Peers whose requirements contradict ours run in environments of their own:
:func:`environment`, :func:`elsewhere`.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from implicit.cpu.topk import topk
from lightfm import LightFM
from scipy import sparse
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from firetv.artefacts import RESULT_COLUMNS
from firetv.schema import DataError, Problem
from firetv.sources import cache_folder
from firetv.steps import BLAS
from firetv.writing import write_whole

PEER_SCRIPTS = Path(__file__).with_name("peer_scripts")
CHUNK = 1024  # users whose scores of all items are held at once


# Timing


def by_turns(
    works: Mapping[str, Callable[[], object]], repeats: int = 7, threads: int = 1, seed: int = 0
) -> pd.DataFrame:
    """Time several ways to do a thing, in turns, so that all share what else the machine does.

    Each is called once before, which does not count. Then every turn calls each of them, in an
    order drawn anew. Garbage is collected between the calls, not during them, and a result is
    thrown away after the clock has stopped.

    Parameters
    ----------
    works : mapping of str to callable
        Without arguments.
    repeats : int
        Turns.
    threads : int
        Of BLAS and OpenMP. Whatever starts threads of its own, as implicit does, must be told.
    seed : int
        Of the orders.

    Returns
    -------
    DataFrame of `repeats` rows
        Seconds, a column for each work.

    Raises
    ------
    ValueError
        If there is nothing to time, or a number is below one.

    Notes
    -----
    A progress bar goes to stderr, unless the environment sets ``TQDM_DISABLE=1``.

    Examples
    --------
    >>> x = np.ones((300, 300))
    >>> seconds = by_turns({"product": lambda: x @ x, "sum": lambda: x + x}, repeats=3)
    >>> seconds.shape, list(seconds)
    ((3, 2), ['product', 'sum'])
    """
    if not works or repeats < 1 or threads < 1:
        raise ValueError(
            f"{len(works)} works, {repeats} repeats, {threads} threads: 1 or more each"
        )
    names, rng = list(works), np.random.default_rng(seed)
    seconds = np.empty((repeats, len(names)))
    bar = tqdm(total=(repeats + 1) * len(names), desc="timing", leave=False)
    with threadpool_limits(threads), _without_garbage(), bar:
        for turn in range(-1, repeats):  # the first one only warms up
            for place in rng.permutation(len(names)):
                taken = _seconds(works[names[place]])
                if turn >= 0:
                    seconds[turn, place] = taken
                bar.update()
    return pd.DataFrame(seconds, columns=names)


@contextmanager
def _without_garbage() -> Iterator[None]:
    """Collect only when asked, and only what is made in the block: a process holds much else."""
    collects = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if collects:
            gc.enable()


def _seconds(work: Callable[[], object]) -> float:
    """Seconds of one call; its result goes after the clock has stopped."""
    gc.collect()
    start = time.perf_counter()
    result = work()
    taken = time.perf_counter() - start
    del result
    return taken


def compared(
    seconds: pd.DataFrame, ours: str, section: str = "speed", split: str = "all"
) -> pd.DataFrame:
    """Summarise what :func:`by_turns` measured, as results of an artefact.

    Parameters
    ----------
    seconds : DataFrame
        A row for each turn and a column for each work.
    ours : str
        The work that the others are compared with.
    section, split : str
        Of the results; `split` may say sizes and threads.

    Returns
    -------
    DataFrame
        Columns of an artefact's results. ``model`` is the work, ``n`` the number of turns. The
        metric ``seconds`` is the median; ``times`` says how many times as long as `ours` it took,
        the median of the ratios within each turn. ``low`` and ``high`` are the least and the
        most of all turns, not an interval.

    Raises
    ------
    ValueError
        If `ours` was not measured, or nothing was.

    Examples
    --------
    >>> seconds = pd.DataFrame({"ours": [1.0, 2.0, 1.0], "loop": [30.0, 50.0, 40.0]})
    >>> compared(seconds, "ours").query("model == 'loop'")[["metric", "value", "low", "high"]]
        metric  value   low  high
    2  seconds   40.0  30.0  50.0
    3    times   30.0  25.0  40.0
    """
    if ours not in seconds or seconds.empty:
        raise ValueError(
            f"{ours!r} was not measured: choose from {', '.join(seconds) or 'nothing'}"
        )
    found = {
        (name, metric): values
        for name in seconds
        for metric, values in (
            ("seconds", seconds[name]),
            ("times", seconds[name] / seconds[ours]),
        )
    }
    rows = [
        (section, name, split, metric, v.median(), v.min(), v.max(), len(v), 1)
        for (name, metric), v in found.items()
    ]
    return pd.DataFrame(rows, columns=list(RESULT_COLUMNS))


# The physical limit


def bandwidth(megabytes: int = 256, repeats: int = 5) -> float:
    """Bytes that one thread reads and writes in a second, in the fastest copy of a large array."""
    source = np.ones(megabytes * 1_000_000 // 8)
    target = np.empty_like(source)
    seconds = by_turns({"copy": lambda: np.copyto(target, source)}, repeats)
    return 2 * source.nbytes / float(seconds["copy"].min())


def gemm_speed(threads: int = 1, side: int = 2048, repeats: int = 5) -> float:
    """Float32 operations a second in the fastest product of two square matrices of that side."""
    x = np.ones((side, side), np.float32)
    out = np.empty_like(x)
    seconds = by_turns({"product": lambda: np.matmul(x, x, out=out)}, repeats, threads)
    return 2 * side**3 / float(seconds["product"].min())


# Peers of scoring: each takes vectors, and what is seen, and gives the best unseen items


def numpy_top(
    user_factors: np.ndarray,
    item_factors: np.ndarray,
    seen: sparse.csr_array,
    k: int,
    chunk: int = CHUNK,
) -> np.ndarray:
    """Best items of all users by plain numpy, a chunk of users at a time.

    Parameters
    ----------
    user_factors : float32 array of shape (n_users, d)
    item_factors : float32 array of shape (n_items, d)
    seen : CSR array of shape (n_users, n_items)
        Pairs to leave out.
    k : int
        Not above n_items.
    chunk : int
        Users.

    Returns
    -------
    int64 array of shape (n_users, k)
        Best first. Ties are in no particular order.

    Examples
    --------
    >>> users, items = np.array([[1.0], [-1.0]]), np.array([[3.0], [2.0], [1.0]])
    >>> seen = sparse.csr_array([[1, 0, 0], [0, 0, 0]])
    >>> numpy_top(users, items, seen, k=2)
    array([[1, 2],
           [2, 1]])
    """
    lists = np.empty((len(user_factors), k), np.int64)
    for start in range(0, len(user_factors), chunk):
        rows = slice(start, start + chunk)
        scores = user_factors[rows] @ item_factors.T
        scores[seen[rows].nonzero()] = -np.inf
        found = np.argpartition(scores, -k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(scores, found, axis=1), axis=1)
        lists[rows] = np.take_along_axis(found, order, axis=1)
    return lists


def implicit_top(
    user_factors: np.ndarray,
    item_factors: np.ndarray,
    seen: sparse.csr_array,
    k: int,
    threads: int = 1,
) -> np.ndarray:
    """The same by implicit's own routine, as its ``recommend`` calls it; int32 (n_users, k).

    Each of its threads makes products: BLAS has one thread then, as implicit advises.
    """
    hidden = sparse.csr_matrix(seen)
    with BLAS.limit(limits=1):
        found = topk(item_factors, user_factors, k, filter_query_items=hidden, num_threads=threads)
    return found[0]


def lightfm_loop(
    user_factors: np.ndarray, item_factors: np.ndarray, seen: sparse.csr_array, k: int
) -> np.ndarray:
    """The same by LightFM's ``predict``, user by user; int64 (n_users, k).

    The model is made of the vectors, without features. The loop takes long: give it a sample of
    the users, as rows of `user_factors` and `seen`.
    """
    model = LightFM(no_components=user_factors.shape[1])
    nobody = sparse.coo_matrix((len(user_factors), len(item_factors)), dtype=np.float32)
    model.fit(nobody, epochs=0)  # makes its arrays
    model.user_embeddings, model.item_embeddings = user_factors, item_factors
    model.user_biases[:] = model.item_biases[:] = 0
    items = np.arange(len(item_factors), dtype=np.int32)
    lists = np.empty((len(user_factors), k), np.int64)
    for user in range(len(user_factors)):
        scores = model.predict(user, items)
        scores[seen.indices[seen.indptr[user] : seen.indptr[user + 1]]] = -np.inf
        found = np.argpartition(scores, -k)[-k:]
        lists[user] = found[np.argsort(-scores[found])]
    return lists


def product(user_factors: np.ndarray, item_factors: np.ndarray, chunk: int = CHUNK) -> None:
    """The scores of all pairs and nothing else, chunk by chunk: less no exact search can do."""
    out = np.empty((min(chunk, len(user_factors)), len(item_factors)), user_factors.dtype)
    for start in range(0, len(user_factors), chunk):
        users = user_factors[start : start + chunk]
        np.matmul(users, item_factors.T, out=out[: len(users)])


# Peers in environments of their own


def environment(name: str, requirements: Sequence[str]) -> Path:
    """Return the Python of an environment that holds some packages, made only if need be.

    It lies in the cache, see :func:`firetv.sources.cache_folder`. A file in it, written last,
    says what it holds: an environment that is half made, or of other pins, is made anew.

    Parameters
    ----------
    name : str
        Letters, digits, ``-`` and ``_``.
    requirements : sequence of str
        Each pinned, such as ``"ranx==0.3.20"``.

    Returns
    -------
    Path
        The interpreter.

    Raises
    ------
    ValueError
        If the name is another, or a requirement is not pinned.
    DataError
        If pip cannot install them: it needs the network and an index.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"environment {name!r}: use letters, digits, - and _")
    if loose := [text for text in requirements if "==" not in text]:
        raise ValueError(f"pin {', '.join(loose)} with ==, so that timings can be repeated")
    folder = cache_folder("environments") / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "holds.txt"
    holds = "\n".join([f"Python {platform.python_version()}", *requirements]) + "\n"
    if stamp.is_file() and stamp.read_text("utf-8") == holds:
        return python
    stamp.unlink(missing_ok=True)
    _install([sys.executable, "-m", "venv", "--clear", str(folder)], name)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _install([*pip, *requirements], name)
    write_whole(stamp, holds)
    return python


def _install(command: Sequence[str], name: str) -> None:
    # What is installed is told on our stderr (descriptor 2), the complaint in our message.
    done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        remedy = "Check the network and pip's index, and run again."
        reason = f"cannot be made: {_last_line(done.stderr)}"
        raise DataError(Problem(f"environment {name}", "", reason, remedy))


def elsewhere(python: Path, script: str, *arguments: object, threads: int = 1) -> dict[str, Any]:
    """Run one of the scripts of ``peer_scripts`` by another Python, and read what it prints.

    Parameters
    ----------
    python : Path
        See :func:`environment`.
    script : str
        Such as ``"ranx_metrics.py"``, or the path of any other script.
    *arguments
        What it is called with, such as the file that it reads.
    threads : int
        Of BLAS, OpenMP and numba there.

    Returns
    -------
    dict
        The JSON object that is its standard output.

    Raises
    ------
    ValueError
        If there is no such script.
    RuntimeError
        If it fails, or prints something else.
    """
    path = PEER_SCRIPTS / script
    if not path.is_file():
        raise ValueError(f"{path} does not exist: name a script of {PEER_SCRIPTS.name}")
    # Without variables that would let it find our packages.
    command = [str(python), "-E", "-s", str(path), *map(str, arguments)]
    # A notebook's backend of figures is not known there.
    variables = os.environ | pinned(threads) | {"MPLBACKEND": "agg"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{path.name} failed: {_last_line(done.stderr)}")
    try:
        told = json.loads(done.stdout)
    except ValueError as error:
        raise RuntimeError(f"{path.name} printed no JSON: {done.stdout[:200]!r}") from error
    if not isinstance(told, dict):
        raise RuntimeError(f"{path.name} printed {type(told).__name__}, not a JSON object")
    return told


def pinned(threads: int) -> dict[str, str]:
    """Environment variables by which a new process keeps to so many threads."""
    pools = ("OMP", "OPENBLAS", "MKL", "NUMBA")
    return {f"{pool}_NUM_THREADS": str(threads) for pool in pools}


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "it says nothing")
