"""Commands of speed and scale: lists of all users, sweeps and their comparison, benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firetv.options import Folder, Length, folder_of, plain_errors

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer()

MOST_ROWS = 40  # of a comparison, printed

Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="tcp://HOST:PORT",
        help="A Dask scheduler, whose workers (dask worker --nthreads 1) see the same folders "
        "under the same paths; by default a cluster on this machine, a process for each core.",
    ),
]


@app.command()
def score(
    out: Annotated[Path, typer.Option(help="Folder; the lists are in OUT/lists, as Parquet.")],
    data: Folder = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of a trained recommender; by default one is trained in OUT."),
    ] = None,
    base: Annotated[
        str, typer.Option(help="Of the one that is trained: see firetv train.")
    ] = "lightfm",
    k: Length = 10,
    partition_users: Annotated[
        int | None,
        typer.Option(min=1, help="Users in a file; by default seconds of work."),
    ] = None,
    scheduler: Scheduler = None,
) -> None:
    """Write the lists of all users, with many processes; a run that was stopped is gone on with."""
    from firetv.batch import score as score_all
    from firetv.cluster import connect

    with plain_errors(ValueError):
        folder = _trained(out, data, base) if model is None else model
        if model is not None and data is not None:
            _check_same(model, data)
        with connect(scheduler) as client:
            scored = score_all(folder, out, client, k, partition_users)
        kept = f", {scored.reused} of which were there" if scored.reused else ""
        typer.echo(
            f"{scored.rows} titles for {scored.users} users in {scored.folder} "
            f"({scored.partitions} files{kept})"
        )


def _trained(out: Path, data: Path | None, base: str) -> Path:
    """The recommender of a run, of an earlier start or trained now; its name has the base."""
    from firetv.data import load
    from firetv.packaged import base_model
    from firetv.recommender import Recommender

    folder = out / f"recommender-{base}"
    others = [path for path in out.glob("recommender-*") if path != folder]
    if others:
        raise ValueError(f"{out}: holds lists of {others[0].name}. Name another folder.")
    if (folder / "recommender.json").is_file():
        _check_same(folder, folder_of(data))
        return folder
    stage = base_model(base)
    Recommender.train(load(folder_of(data)), stage).save(folder)
    return folder


def _check_same(model: Path, data: Path) -> None:
    """Check that a recommender was trained on some tables."""
    from firetv.data import load
    from firetv.recommender import data_of
    from firetv.storage import read_document

    about = read_document(model)["about"]["data"]
    if about["checksum"] != data_of(load(data))["checksum"]:
        raise ValueError(
            f"{model}: was trained on other data than {data}, namely {about['users']} users and "
            f"{about['events']} events. Train again, or name its data."
        )


@app.command()
def sweep(
    notebook: Annotated[str, typer.Argument(help="Path, name or number.")],
    grid: Annotated[
        Path,
        typer.Option(
            help="YAML: names with lists of values, or a list of such mappings, as scikit-learn's "
            "ParameterGrid takes them."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder; reports/sweeps/NOTEBOOK by default.")
    ] = None,
    scheduler: Scheduler = None,
    mlflow: Annotated[
        str | None, typer.Option(metavar="URI", help="Log each set to MLflow as well.")
    ] = None,
) -> None:
    """Run a notebook with each set of a grid; sets that an earlier start finished are kept."""
    from firetv.artefacts import reports_dir
    from firetv.cluster import connect
    from firetv.runs import NotebookError, find_notebooks
    from firetv.sweeps import read_grid
    from firetv.sweeps import sweep as sweep_notebook
    from firetv.tracking import MLflow

    with plain_errors(NotebookError, ValueError):
        (path,) = find_notebooks([notebook])
        folder = (out or reports_dir() / "sweeps" / path.stem).resolve()
        values = read_grid(grid)
        log = None if mlflow is None else MLflow(mlflow, path.stem)
        if log is not None:
            typer.echo(f"Logging to experiment {log.experiment_id}", err=True)
        with connect(scheduler) as client:
            table = sweep_notebook(path, values, folder, client, log)
        _tell(table, folder)


def _tell(table: pd.DataFrame, folder: Path) -> None:
    """Say what a sweep did; exit code 1 if sets failed."""
    from firetv.sweeps import TABLE

    failed = table[table["status"] == "failed"]
    for row in failed.to_dict("records"):
        first = row["error"].splitlines()[0]
        where = folder / row["notebook"] if row["notebook"] else "no notebook was written"
        values = ", ".join(
            f"{name.removeprefix('params.')}={value}"
            for name, value in row.items()
            if name.startswith("params.")
        )
        typer.secho(f"failed: {values}: {first} ({where})", err=True, fg=typer.colors.RED)
    done = table.loc[table["status"] == "done", "notebook"].nunique()
    typer.echo(f"{done} sets done, {len(failed)} failed: {folder / TABLE}")
    if len(failed):
        raise typer.Exit(1)


@app.command()
def compare(
    folder: Annotated[Path, typer.Argument(help="Of a sweep.")],
    metric: Annotated[str | None, typer.Option(help="Such as ndcg@10.")] = None,
    by: Annotated[
        str | None, typer.Option(help="Parameter; by default the one with most values.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="PNG file; FOLDER/METRIC.png by default.")
    ] = None,
) -> None:
    """Draw a metric of a sweep against a parameter, and print it, best first."""
    import re

    import matplotlib

    matplotlib.use("Agg")  # no window
    from firetv.report import plot_sweep, use_style, write_figure
    from firetv.sweeps import compare as compare_sets
    from firetv.sweeps import read_table

    with plain_errors(ValueError):
        found = compare_sets(read_table(folder), metric, by)
        file = out or folder / f"{re.sub(r'[^A-Za-z0-9]+', '_', found.metric)}.png"
        if file.is_dir():
            raise ValueError(f"{file}: is a folder. Name a file.")
        use_style()
        axes = plot_sweep(found.table, xlabel=found.by, ylabel=found.metric)
        axes.set_title(
            f"{found.metric} by {found.by}, with its intervals ({folder.resolve().name})"
        )
        write_figure(axes.figure, file)
        typer.echo(_as_text(found.table, found.by))
        typer.echo(f"Drawn: {file}")


@app.command()
def bench(
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Larger sizes, more turns, and RecTools and ranx in environments of their own.",
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder; reports by default, reports/full with --full.")
    ] = None,
) -> None:
    """Time everything beside its peers again, by notebook 08, and say which bars hold."""
    from firetv.artefacts import load_artefact, project_root, reports_dir
    from firetv.runs import NotebookError, find_notebooks, read_params, run_notebooks

    with plain_errors(NotebookError):
        (path,) = find_notebooks(["08"])
        profile = project_root() / "notebooks" / "params" / "08_full.yaml"
        folder = out or reports_dir() / ("full" if full else "")
        index = run_notebooks([path], read_params(file=profile) if full else {}, out=folder)
        for claim in load_artefact(path.stem, folder).claims:
            typer.echo(str(claim))
        typer.echo(f"Open {index}")


def _as_text(table: pd.DataFrame, by: str) -> str:
    """The best rows of a comparison, for reading."""
    from firetv.artefacts import format_interval

    shown = table.head(MOST_ROWS)
    values = [
        format_interval(*row)
        for row in shown[["value", "low", "high"]].itertuples(index=False, name=None)
    ]
    text = shown[["line", "by"]].rename(columns={"by": by}).assign(value=values)
    left = len(table) - len(shown)
    more = f"\n... and {left} more" if left else ""
    return text.to_string(index=False) + more
