"""A notebook, run with every set of a grid of parameters: many processes, one table.

Each set has a folder with the executed notebook, its page, its artefact and, written last, a
record. A set whose record is there, of the same notebook, code and parameters, is not run again;
one that failed is.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import nbformat
import pandas as pd
from distributed import Client
from sklearn.model_selection import ParameterGrid

from firetv.artefacts import RESULT_COLUMNS, Artefact, load_artefact
from firetv.cluster import check, code_checksum, run_tasks
from firetv.notebooks import read_values
from firetv.runs import (
    NotebookError,
    default_parameters,
    find_notebooks,
    match_parameters,
    run_notebooks,
)
from firetv.writing import write_whole

TABLE, RECORD, ABOUT = "sweep.csv", "run.json", "about.json"
PARAMETER = "params."  # before their names in the table, which has columns such as seeds as well
LONGEST_NAME = 80
Grid = Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Sequence[Any]]]
_ALONE = Lock()  # a process runs one notebook at a time: where it writes is in the environment


@dataclass(frozen=True)
class Set:
    """One set of parameters.

    Attributes
    ----------
    name : str
        Its folder.
    parameters : mapping
        A value for each parameter that the grid names anywhere, as the notebook's default types it.
    """

    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """What a set's ``run.json`` says.

    Attributes
    ----------
    parameters : mapping
    notebook, code : str
        Checksums of the notebook's cells and of this package.
    seconds : float
        Wall clock.
    status : {"done", "failed"}
    error : str
        Which cell failed, and how.
    executed : str
        The executed notebook, from the sweep's folder on; empty if it was not begun.
    """

    parameters: Mapping[str, Any]
    notebook: str
    code: str
    seconds: float
    status: str
    error: str
    executed: str

    def of_same(self, other: Run) -> bool:
        """Whether another run is of the same parameters, notebook and code."""
        return (self.parameters, self.notebook, self.code) == (
            other.parameters,
            other.notebook,
            other.code,
        )


class Log(Protocol):
    """Where finished sets are logged as well, such as :class:`firetv.tracking.MLflow`."""

    def __call__(self, name: str, run: Run, artefact: Artefact | None, folder: Path) -> None:
        """Log a set: its name, its run, what it found if it did not fail, the sweep's folder."""
        ...


def read_grid(path: Path) -> Grid:
    """Read a grid from YAML: names with lists of values, or a list of such mappings.

    Raises
    ------
    ValueError
        If it is not of this form.
    """
    grid = read_values(path)
    form = "write names with lists of values, such as `epochs: [10, 20]`"
    grids = grid if isinstance(grid, list) else [grid]
    for each in grids:
        if not isinstance(each, dict) or not all(isinstance(name, str) for name in each):
            raise ValueError(f"{path}: {form}")
        wrong = [
            name for name, values in each.items() if not isinstance(values, list) or not values
        ]
        if wrong:
            raise ValueError(f"{path}: {', '.join(wrong)} has no list of values: {form}")
    if not grids:
        raise ValueError(f"{path}: is empty: {form}")
    return grid


def sets_of(grid: Grid, defaults: Mapping[str, Any], notebook: str = "notebook") -> list[Set]:
    """List the sets of a grid, in its order, each once.

    Parameters
    ----------
    grid : mapping, or sequence of mappings
        See :class:`sklearn.model_selection.ParameterGrid`.
    defaults : mapping
        The notebook's: they type the values, and stand where a mapping does not name a parameter.
    notebook : str
        Its name, for messages.

    Raises
    ------
    NotebookError
        If a parameter is unknown or mistyped; all in one message.

    Examples
    --------
    >>> [set.name for set in sets_of({"k": [5, 10]}, {"k": 5, "seed": 0})]
    ['k=5-7b88004a', 'k=10-84fe6ceb']
    """
    given = list(ParameterGrid(grid))
    named = list(dict.fromkeys(name for each in given for name in each))
    sets, problems = {}, []
    for each in given:
        try:
            typed = defaults | match_parameters(each, {notebook: defaults})[notebook]
        except NotebookError as error:
            problems.append(str(error))
            continue
        parameters = {name: typed[name] for name in named}
        sets[_name(parameters)] = parameters
    if problems:
        raise NotebookError("\n".join(dict.fromkeys("\n".join(problems).splitlines())))
    return [Set(name, parameters) for name, parameters in sets.items()]


def _name(parameters: Mapping[str, Any]) -> str:
    """A folder's name that can be read, and that is no other set's."""
    text = ",".join(f"{name}={value}" for name, value in sorted(parameters.items()))
    exact = json.dumps(parameters, sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(exact.encode()).hexdigest()[:8]
    plain = re.sub(r"[^\w=.,+-]+", "_", text)[:LONGEST_NAME]
    return f"{plain}-{digest}"


def sweep(
    notebook: str | Path, grid: Grid, out: str | Path, client: Client, log: Log | None = None
) -> pd.DataFrame:
    """Run a notebook with every set of a grid; what an earlier start has done is not done again.

    Parameters
    ----------
    notebook : str or Path
        Path, name or number. Workers must see it, and `out`, under the same path.
    grid : mapping, or sequence of mappings
        Names with lists of values: all their combinations.
    out : path
        Folder of the sweep.
    client : distributed.Client
    log : callable, optional
        Where sets are logged as well.

    Returns
    -------
    DataFrame
        What ``OUT/sweep.csv`` holds, which is written after each set. A row for each result of
        each set: a column ``params.NAME`` for each parameter of the grid; ``section, model, split,
        metric, value, low, high, n, seeds`` as in artefacts; ``seconds`` of the run, ``notebook``
        (the executed copy, from `out` on), ``status`` and ``error``. A set that failed has one
        row, without a result.

    Raises
    ------
    NotebookError
        If the notebook or a parameter is unknown or mistyped, before anything runs.
    ValueError
        If the folder is of another notebook's sweep, or a worker does not see it.
    """
    (path,) = find_notebooks([notebook])
    document, out = nbformat.read(path, as_version=4), Path(out).resolve()
    sets = sets_of(grid, default_parameters(document), path.stem)
    cells = json.dumps([[cell.cell_type, cell.source] for cell in document.cells])
    checksum = hashlib.sha256(cells.encode()).hexdigest()
    blank = {s.name: Run(s.parameters, checksum, code_checksum(), 0.0, "", "", "") for s in sets}
    _claim(out, path)
    check(client, out / ABOUT)
    check(client, path)
    runs = {name: done for name, run in blank.items() if (done := _done(out / name, run))}
    missing = [each for each in sets if each.name not in runs]
    found = {name: load_artefact(path.stem, out / name) for name in runs}
    tasks = run_tasks(
        client,
        run_set,
        missing,
        str(path),
        str(out),
        checksum,
        total=len(sets),
        label=path.stem,
        unit="set",
    )
    for name in runs if log is not None else ():
        log(name, runs[name], found[name], out)
    with contextlib.closing(tasks):  # after a failure the rest is cancelled, the client being there
        for each, future in tasks:
            run = runs[each.name] = _outcome(future, blank[each.name], out / each.name / path.name)
            if run.status == "done":
                found[each.name] = load_artefact(path.stem, out / each.name)
            if log is not None:
                log(each.name, run, found.get(each.name), out)
            _write_table(out, [s.name for s in sets], runs, found)
    return _write_table(out, [s.name for s in sets], runs, found)


def _claim(out: Path, notebook: Path) -> None:
    """Write whose sweep the folder is, or check that it is the same notebook's."""
    path = out / ABOUT
    if path.is_file():
        said = json.loads(path.read_text("utf-8"))["notebook"]
        if said != notebook.name:
            raise ValueError(f"{out}: holds a sweep of {said}. Name another folder.")
        return
    write_whole(path, json.dumps({"notebook": notebook.name}) + "\n")


def _done(folder: Path, wanted: Run) -> Run | None:
    """The run of an earlier start, if it need not be done again."""
    path = folder / RECORD
    if not path.is_file():
        return None
    run = Run(**json.loads(path.read_text("utf-8")))
    return run if run.status == "done" and run.of_same(wanted) else None


def run_set(each: Set, notebook: str, out: str, checksum: str) -> Run:
    """Run the notebook with one set, in the set's folder, and write its record last.

    It is what a worker does. What the notebook does wrong is in the record; other errors are
    raised.
    """
    path, folder = Path(notebook), Path(out) / each.name
    executed, begun, error = folder / path.name, time.monotonic(), ""
    with _ALONE, contextlib.redirect_stderr(io.StringIO()):  # the sweep has a bar of its own
        for stale in (folder / RECORD, executed.with_suffix(".json")):
            stale.unlink(missing_ok=True)
        try:
            run_notebooks([path], each.parameters, out=folder)
            load_artefact(path.stem, folder)
        except NotebookError as failure:
            error = str(failure).partition("\nExecuted copy:")[0]  # the record says where
        except FileNotFoundError:
            error = f"{path.stem}: wrote no artefact {path.stem}.json"
    seconds = round(time.monotonic() - begun, 3)
    status = "failed" if error else "done"
    copy = f"{each.name}/{path.name}" if executed.is_file() else ""
    run = Run(each.parameters, checksum, code_checksum(), seconds, status, error, copy)
    write_whole(folder / RECORD, json.dumps(asdict(run), ensure_ascii=False, indent=1) + "\n")
    return run


def _outcome(future: Any, blank: Run, executed: Path) -> Run:  # noqa: ANN401
    """What became of a task; an error that is not the notebook's is as good as a failure."""
    failure = future.exception()
    if failure is None:
        return future.result()
    copy = f"{executed.parent.name}/{executed.name}" if executed.is_file() else ""
    said = {"status": "failed", "error": f"{type(failure).__name__}: {failure}", "executed": copy}
    return Run(**asdict(blank) | said)


def _write_table(
    out: Path, names: Sequence[str], runs: Mapping[str, Run], found: Mapping[str, Artefact]
) -> pd.DataFrame:
    """Write the table of what is there so far, in the order of the grid."""
    frames = [
        _rows(runs[name], found[name].results if name in found else None)
        for name in names
        if name in runs
    ]
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    write_whole(out / TABLE, table.to_csv(index=False, lineterminator="\n"))
    return table


def _rows(run: Run, results: pd.DataFrame | None) -> pd.DataFrame:
    """Rows of the table for one set."""
    if results is None:
        results = pd.DataFrame([dict.fromkeys(RESULT_COLUMNS)])
    shown = {PARAMETER + name: _cell(value) for name, value in run.parameters.items()}
    rows = pd.DataFrame(shown, index=results.index)
    rows = rows.join(results[list(RESULT_COLUMNS)])
    return rows.assign(
        seconds=run.seconds, notebook=run.executed, status=run.status, error=run.error
    )


def _cell(value: Any) -> Any:  # noqa: ANN401
    """A parameter as one cell: lists and mappings as JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def read_table(out: Path) -> pd.DataFrame:
    """Read the table of a sweep; see :func:`sweep`.

    Raises
    ------
    ValueError
        If there is none.
    """
    path = Path(out) / TABLE
    if not path.is_file():
        raise ValueError(f"{out}: holds no {TABLE}. Run a sweep: firetv sweep.")
    return pd.read_csv(path, keep_default_na=False, na_values=[""])  # "None" is a word


@dataclass(frozen=True)
class Comparison:
    """One metric of a sweep against one of its parameters.

    Attributes
    ----------
    metric, by : str
    table : DataFrame
        The metric's rows, best first: ``by`` and ``line`` (what else differs, in words), then the
        columns of the sweep's table.
    """

    metric: str
    by: str
    table: pd.DataFrame


def compare(table: pd.DataFrame, metric: str | None = None, by: str | None = None) -> Comparison:
    """Line up the sets of a sweep by a metric.

    Parameters
    ----------
    table : DataFrame
        Of :func:`sweep`.
    metric : str, optional
        The first one by default.
    by : str, optional
        A parameter; by default the one with most values.

    Raises
    ------
    ValueError
        If there is no result, or no such metric or parameter.
    """
    results = table[table["value"].notna()]
    metrics = results["metric"].unique().tolist()
    swept = [c.removeprefix(PARAMETER) for c in table if c.startswith(PARAMETER)]
    if not metrics:
        raise ValueError("the sweep has no results to compare yet")
    most = max(swept, key=lambda name: table[PARAMETER + name].nunique(), default="")
    metric, by = metric or metrics[0], by or most
    if metric not in metrics:
        raise ValueError(f"{metric!r} is not a metric of this sweep: use {', '.join(metrics)}")
    if by not in swept:
        raise ValueError(f"{by!r} is not a parameter of this sweep: use {', '.join(swept)}")
    rows = results[results["metric"] == metric]
    others = [PARAMETER + name for name in swept if name != by] + ["section", "split"]
    differing = ["model", *(name for name in others if rows[name].nunique(dropna=False) > 1)]
    lines = [
        ", ".join(
            f"{name.removeprefix(PARAMETER)}={value}" if name.startswith(PARAMETER) else str(value)
            for name, value in zip(differing, row, strict=True)
        )
        for row in rows[differing].itertuples(index=False, name=None)
    ]
    lined = rows.assign(by=rows[PARAMETER + by], line=lines)
    return Comparison(metric, by, lined.sort_values("value", ascending=False, kind="stable"))
