"""Runs of notebooks: parameters checked, executed by papermill, some at once.

papermill only warns about a parameter that a notebook does not know, and reads ``007`` as 7:
:func:`match_parameters` checks names and types first. Each run leaves its page.
"""

from __future__ import annotations

import ast
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import joblib
import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode

from firetv.artefacts import project_root, reports_dir
from firetv.notebooks import (
    NUMBERED,
    NotebookError,
    default_parameters,
    duration_text,
    failure,
    read_values,
)
from firetv.pages import write_index, write_page
from firetv.writing import naming, write_whole

# Kernels share the cores: more BLAS threads would wait for each other. Always the same number, so
# that results do not depend on how many notebooks run at once.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


# Parameters


def read_params(pairs: Iterable[str] = (), file: Path | None = None) -> dict[str, Any]:
    """Gather parameters from a YAML file and from ``name=value`` pairs, which win.

    Parameters
    ----------
    pairs : iterable of str
        Such as ``"epochs=30"``; the value stays text until a notebook's default gives it a type.
    file : Path, optional
        A YAML mapping of names to values.

    Returns
    -------
    dict
        Values by name.

    Raises
    ------
    NotebookError
        If the file is no mapping or a pair has no ``=``.

    Examples
    --------
    >>> read_params(["epochs=30", "note=a=b"])
    {'epochs': '30', 'note': 'a=b'}
    """
    params: dict[str, Any] = {}
    if file is not None:
        try:
            params = read_values(file) or {}
        except ValueError as error:
            raise NotebookError(str(error)) from error
        if not isinstance(params, dict):
            raise NotebookError(f"{file}: expected lines of the form `name: value`")
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise NotebookError(f"parameter {pair!r}: expected name=value")
        params[name.strip()] = value
    return params


def _typed(value: Any, default: Any) -> Any:  # noqa: ANN401
    """Read a value as the type of its default; ValueError if it cannot be."""
    kind = type(default)
    if default is None or type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if not isinstance(value, str):
        raise ValueError(f"not {kind.__name__}")
    if kind is bool:
        return ("false", "true").index(value.lower()) == 1
    parsed = kind(value) if kind in (int, float) else ast.literal_eval(value)
    if type(parsed) is not kind:
        raise ValueError(f"not {kind.__name__}")
    return parsed


def match_parameters(
    params: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Hand each notebook the parameters it knows, typed as its defaults are.

    Parameters
    ----------
    params : mapping
        Values by name, text where they come from a command line.
    defaults : mapping of str to mapping
        Default values by name, for each notebook.

    Returns
    -------
    dict
        For each notebook the values that differ from its defaults.

    Raises
    ------
    NotebookError
        If no notebook knows a name, or a value does not fit a default's type: all in one message
        that lists the known parameters.

    Examples
    --------
    >>> match_parameters({"mode": "007", "rate": "1e-3"}, {"03": {"mode": "fast", "rate": 0.1}})
    {'03': {'mode': '007', 'rate': 0.001}}
    """
    problems = [
        f"unknown parameter {name}"
        for name in params
        if not any(name in known for known in defaults.values())
    ]
    overrides: dict[str, dict[str, Any]] = {notebook: {} for notebook in defaults}
    for notebook, known in defaults.items():
        for name in (name for name in params if name in known):
            kind = type(known[name]).__name__
            try:
                value = _typed(params[name], known[name])
            except (ValueError, SyntaxError):
                problems.append(
                    f"{notebook}: {name} must be {kind}, as its default {known[name]!r}, "
                    f"not {type(params[name]).__name__} {params[name]!r}"
                )
                continue
            if value != known[name]:
                overrides[notebook][name] = value
    if problems:
        lists = [
            f"{notebook} knows "
            + (", ".join(f"{name}={value!r}" for name, value in known.items()) or "no parameters")
            for notebook, known in defaults.items()
        ]
        raise NotebookError("\n".join(problems + lists))
    return overrides


# Runs


def find_notebooks(names: Sequence[str | Path] = ()) -> list[Path]:
    """Find notebooks by path, name or number; all numbered ones, in order, by default.

    Raises
    ------
    NotebookError
        If a name fits no notebook or several.
    """
    known = sorted((project_root() / "notebooks").glob(NUMBERED))
    if not names:
        if not known:
            raise NotebookError(f"no numbered notebooks in {project_root() / 'notebooks'}")
        return known
    return [_find(name, known) for name in names]


def _find(name: str | Path, known: Sequence[Path]) -> Path:
    path = Path(name)
    if path.suffix == ".ipynb" and path.is_file():
        return path.resolve()
    found = [p for p in known if path.stem == p.stem] or [
        p for p in known if p.stem.startswith(f"{path.stem}_")
    ]
    if len(found) != 1:
        choices = ", ".join(p.stem for p in known) or "none"
        raise NotebookError(f"{name} names {len(found)} notebooks; there are: {choices}")
    return found[0]


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def run_notebooks(
    notebooks: Sequence[str | Path] = (),
    params: Mapping[str, Any] | None = None,
    *,
    out: Path | None = None,
    keep: bool = False,
    jobs: int | None = None,
) -> Path:
    """Execute notebooks, some at once, and write their pages; progress goes to standard error.

    For each notebook the executed copy, its artefact and one HTML page land in `out`, and
    ``index.html`` gathers every executed notebook found there. They begin in the order given.
    After a failure no other notebook begins, and those that run go on to their end; the failed
    notebook's copy and page, and the index, are still written.

    Parameters
    ----------
    notebooks : sequence of str or Path
        Paths, names or numbers; all numbered notebooks by default.
    params : mapping, optional
        Parameters by name; each notebook takes those it knows (see :func:`match_parameters`).
    out : Path, optional
        Folder to write to; the reports by default.
    keep : bool
        Write each executed notebook, cleaned, back over its source. Only with default parameters,
        for the committed notebooks show what the defaults give.
    jobs : int, optional
        Notebooks at once; as many as there are cores by default. Results do not depend on it:
        each notebook has one BLAS thread, unless ``OMP_NUM_THREADS`` and its like say otherwise.

    Returns
    -------
    Path
        The index page.

    Raises
    ------
    NotebookError
        If a notebook or parameter is unknown or mistyped, before anything runs; if a notebook
        fails, naming the cell.
    ValueError
        If `jobs` is below 1.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be 1 or more, not {jobs}")
    paths = list(dict.fromkeys(find_notebooks(notebooks)))
    defaults = {p.stem: default_parameters(nbformat.read(p, as_version=4)) for p in paths}
    overrides = match_parameters(params or {}, defaults)
    if keep and any(overrides.values()):
        raise NotebookError("only a run with default parameters can be kept in the notebooks")
    folder = (out or reports_dir()).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    jobs = min(jobs or joblib.cpu_count(), len(paths))
    runs = [
        _Run(path, overrides[path.stem], folder, keep, f"[{number}/{len(paths)}]", jobs == 1)
        for number, path in enumerate(paths, start=1)
    ]
    threads = {name: os.environ.get(name, "1") for name in THREADS}
    try:
        with _environment(FIRETV_REPORTS=str(folder), TQDM_DISABLE="1", **threads):
            _run_all(runs, jobs)
    finally:
        index = write_index(folder)
    return index


@dataclass(frozen=True)
class _Run:
    """A notebook that is to be executed, as the process that does it is told."""

    path: Path
    parameters: Mapping[str, Any]
    folder: Path
    keep: bool
    label: str
    bar: bool  # whether to show the cells' progress, where somebody watches

    def __str__(self) -> str:
        return f"{self.label} {self.path.stem}"


class _Here(Executor):
    """Runs at once, in this process, what is submitted."""

    def submit(self, call: Callable[..., None], /, *args: object) -> Future[None]:
        future: Future[None] = Future()
        try:
            future.set_result(call(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def _run_all(runs: Sequence[_Run], jobs: int) -> None:
    """Execute notebooks, so many at once; raise the first failure when the others have ended."""
    others, waiting, failures = {*active_children()}, deque(runs), []
    running: dict[Future[None], tuple[_Run, float]] = {}
    with _Here() if jobs == 1 else ProcessPoolExecutor(jobs, get_context("spawn")) as workers:
        try:
            while running or waiting:
                while waiting and len(running) < jobs:
                    run, begun = waiting.popleft(), time.monotonic()
                    print(f"{run} ...", file=sys.stderr, flush=True)
                    running[workers.submit(_execute, run)] = run, begun
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    run, begun = running.pop(future)
                    if error := future.exception():
                        waiting.clear()
                        failures.append(_explained(error, run))
                    took = "failed" if error else duration_text(time.monotonic() - begun)
                    left = len(running) + len(waiting)
                    print(f"{run}: {took}{f', {left} to go' * (left > 0)}", file=sys.stderr)
        except KeyboardInterrupt:
            for worker in {*active_children()} - others:
                worker.terminate()  # it stops its kernel
            raise
    if failures:
        raise failures[0]


def _explained(error: BaseException, run: _Run) -> BaseException:
    """Say of a process that is gone what may be done."""
    if not isinstance(error, BrokenProcessPool):
        return error
    return NotebookError(f"{run.path.stem}: its process is gone. Is memory short? Try --jobs 1.")


def _execute(run: _Run) -> None:
    """Run one notebook with papermill; write its executed copy and its page."""
    path, executed = run.path, run.folder / run.path.name
    partial = executed.with_name(f".{executed.name}")  # papermill writes it anew after each cell
    bar = {"desc": str(run), "leave": False, "disable": None if run.bar else True}
    try:
        with naming(executed):
            notebook = papermill.execute_notebook(
                path,
                partial,
                parameters=dict(run.parameters),
                kernel_name="python3",  # this environment, whatever the notebook was saved with
                language="python",
                cwd=project_root(),
                extra_arguments=["--log-level=CRITICAL"],  # sockets and shutdown are no news
                progress_bar=bar,
            )
            os.replace(partial, executed)
    except (papermill.PapermillExecutionError, DeadKernelError) as error:
        os.replace(partial, executed)
        write_page(executed)
        stopped = failure(nbformat.read(executed, as_version=4))
        raise NotebookError(f"{path.stem}: {stopped}\nExecuted copy: {executed}") from error
    finally:
        partial.unlink(missing_ok=True)
    write_page(executed)
    if run.keep:
        write_whole(path, nbformat.writes(clean_notebook(notebook)) + "\n")


def clean_notebook(notebook: NotebookNode) -> NotebookNode:
    """Copy an executed notebook without what changes between equal runs.

    Outputs and execution counts stay; papermill's and the kernel's records, and what was written
    to standard error, go.

    Parameters
    ----------
    notebook : NotebookNode
        An executed notebook.

    Returns
    -------
    NotebookNode
        The notebook to commit.
    """
    cells = []
    for cell in notebook.cells:
        metadata = {k: v for k, v in cell.metadata.items() if k not in ("papermill", "execution")}
        cleaned = cell | {"metadata": metadata}
        if cell.cell_type == "code":
            cleaned["outputs"] = [o for o in cell.outputs if o.get("name") != "stderr"]
        cells.append(cleaned)
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nbformat.from_dict(dict(notebook) | {"cells": cells, "metadata": metadata})
