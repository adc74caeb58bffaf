"""The command line: data sets, worlds, notebook runs, moments, what friends watched, groups."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from firetv import people
from firetv.data import read_tables
from firetv.options import Seed, plain_errors
from firetv.report import data_dir
from firetv.sources import SOURCES, prepare
from firetv.synthetic import generate
from firetv.world import World

app = typer.Typer(
    help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
)

Count = Annotated[int, typer.Option(min=1)]


@app.callback()
def main() -> None:
    """Context-aware, social and group recommendation for TV."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)


@app.command()
def data(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(SOURCES)}.")],
    out: Annotated[Path | None, typer.Option(help="Folder; data/NAME by default.")] = None,
    seed: Seed = 0,
) -> None:
    """Download a public data set and turn it into tables; what is already there is reused."""
    with plain_errors():
        folder = prepare(name, out or data_dir() / name, seed)
        _describe(folder)


@app.command("generate")
def generate_world(
    users: Count = 1000,
    content: Count = 5000,
    watch_events: Count = 100_000,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Folder; data/synthetic by default.")] = None,
) -> None:
    """Write a synthetic world: tables, and the truth that was planted in them."""
    with plain_errors():
        folder = out or data_dir() / "synthetic"
        generate(World(users=users, content=content, watch_events=watch_events, seed=seed), folder)
        typer.echo(f"{watch_events} watch events of {users} users in {folder}")


@app.command("check")
def check_folder(folder: Annotated[Path, typer.Argument(help="A folder of tables.")]) -> None:
    """Validate a folder of tables, yours or ours, and say what it holds."""
    with plain_errors():
        _describe(folder)


@app.command()
def run(
    notebooks: Annotated[
        list[str] | None, typer.Argument(help="Names or numbers; all by default.")
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option("-p", "--param", help="name=value; may be repeated.")
    ] = None,
    params: Annotated[Path | None, typer.Option(help="A YAML file of parameters.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; reports by default.")] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Write the executed notebooks back to notebooks/.")
    ] = False,
) -> None:
    """Execute notebooks in order and write pages, figures and artefacts."""
    # Here, because papermill takes seconds to import and the other commands do not need it.
    from firetv.runs import NotebookError, read_params, run_notebooks

    with plain_errors(NotebookError):
        values = read_params(param or [], params)
        index = run_notebooks(notebooks or [], values, out=out, keep=keep)
        typer.echo(f"Open {index}")


app.add_typer(people.app)


def _describe(folder: Path) -> None:
    tables = read_tables(folder)
    typer.echo(f"{tables.manifest['name']} in {folder}")
    for name, table in tables.present().items():
        typer.echo(f"  {name:<18}{len(table):>10} rows")
