"""The command line: data sets, worlds, notebook runs, moments, what friends watched, groups."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from firetv import people, scaling, serving
from firetv.options import Folder, Length, Seed, folder_of, plain_errors
from firetv.writing import write_whole

if TYPE_CHECKING:
    from firetv.tuning import Tuned

app = typer.Typer(
    help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
)

Count = Annotated[int, typer.Option(min=1)]
Tables = Annotated[Path, typer.Argument(help="A folder of tables.")]
Mapping = Annotated[
    Path | None, typer.Option("--columns", help="What columns are; columns.yaml by default.")
]


@app.callback()
def main() -> None:
    """Context-aware, social and group recommendation for TV."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)


@app.command()
def data(
    name: Annotated[
        str, typer.Argument(help="One of movielens-100k, comoda, filmtrust, lastfm, camra2011.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder; data/NAME by default.")] = None,
    seed: Seed = 0,
) -> None:
    """Download a public data set and turn it into tables; what is already there is reused."""
    from firetv.artefacts import data_dir
    from firetv.sources import prepare

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
    format: Annotated[Literal["csv", "parquet"], typer.Option(help="Of the tables.")] = "csv",
) -> None:
    """Write a synthetic world: tables, and the truth that was planted in them."""
    from firetv.artefacts import data_dir
    from firetv.synthetic import generate
    from firetv.world import World

    with plain_errors():
        folder = out or data_dir() / "synthetic"
        generate(World(users, content, watch_events, seed), folder, format)
        typer.echo(f"{watch_events} watch events of {users} users in {folder}")


@app.command("check")
def check_folder(folder: Tables, columns: Mapping = None) -> None:
    """Validate a folder of tables, yours or ours, and say what it holds."""
    with plain_errors():
        _describe(folder, columns)


@app.command()
def evaluate(
    folder: Tables,
    columns: Mapping = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for all results.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, 0 and on.")] = 3,
    test_share: Annotated[
        float, typer.Option(help="Last part of the events, which must be found.")
    ] = 0.2,
    k: Length = 10,
) -> None:
    """Measure what context, friends and groups add to a base model, as far as the tables go."""
    from firetv.artefacts import write_artefact
    from firetv.data import fingerprint, load
    from firetv.layers import Settings
    from firetv.layers import evaluate as evaluate_layers

    with plain_errors(ValueError):
        if out is not None and out.is_dir():
            raise ValueError(f"{out}: is a folder. Name a file.")
        settings = Settings(tuple(range(seeds)), test_share, k)
        dataset = load(folder, columns)
        found = evaluate_layers(dataset, settings)
        typer.echo(found)
        if out is not None:
            checksum = dataset.manifest.get("checksum") or fingerprint(folder, columns)
            typer.echo(f"Written: {write_artefact(found.artefact(checksum), out)}")


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
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Notebooks at once; one a core by default.")
    ] = None,
) -> None:
    """Execute notebooks in order and write pages, figures and artefacts."""
    from firetv.runs import NotebookError, read_params, run_notebooks

    with plain_errors(NotebookError):
        values = read_params(param or [], params)
        index = run_notebooks(notebooks or [], values, out=out, keep=keep, jobs=jobs)
        typer.echo(f"Open {index}")


@app.command()
def site(
    out: Annotated[
        Path | None, typer.Option(help="Folder of executed notebooks; reports by default.")
    ] = None,
) -> None:
    """Write the cover, comparisons of sweeps, the API reference and the change log."""
    import matplotlib

    matplotlib.use("Agg")  # no window
    from firetv.artefacts import reports_dir
    from firetv.site import write_site

    folder = out or reports_dir()
    with plain_errors(ValueError):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} does not exist. Run the notebooks: firetv run")
        typer.echo(f"Open {write_site(folder.resolve())}")


@app.command()
def tune(
    data: Folder = None,
    model: Annotated[str, typer.Option(help="lightfm, ease, als, bpr or itemknn.")] = "lightfm",
    trials: Annotated[
        int, typer.Option(min=1, help="Finished trials in all, those of earlier runs included.")
    ] = 30,
    study: Annotated[
        Path | None, typer.Option(help="File to go on with; data/tuning/NAME-MODEL.db by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for what was found.")] = None,
    metric: Annotated[str, typer.Option(help="Such as ndcg, recall or map.")] = "ndcg",
    k: Length = 10,
    seeds: Annotated[int, typer.Option(min=1, help="Of the model, averaged in a trial.")] = 1,
    test_share: Annotated[
        float, typer.Option(help="Last part of the events, which nothing here looks at.")
    ] = 0.2,
    validation_share: Annotated[
        float, typer.Option(help="Part of the rest, which trials have to find.")
    ] = 0.2,
    protocol: Annotated[
        str, typer.Option(help="temporal, or published: a random share, another with each seed.")
    ] = "temporal",
    jobs: Annotated[
        int,
        typer.Option(
            min=1,
            help="Trials side by side, suggested in batches: another number gives other trials.",
        ),
    ] = 1,
    seed: Seed = 0,
) -> None:
    """Search hyperparameters on a validation part; a study that was cut short is gone on with."""
    from firetv.artefacts import data_dir
    from firetv.data import load
    from firetv.tuning import Search
    from firetv.tuning import tune as tune_model

    with plain_errors(ValueError):
        search = Search(model, metric, k, seeds, test_share, validation_share, protocol, seed)
        if out is not None and out.is_dir():
            raise ValueError(f"{out}: is a folder. Name a file.")
        dataset = load(folder_of(data))
        file = study or data_dir() / "tuning" / f"{dataset.manifest['name']}-{model}.db"
        tuned = tune_model(dataset, search, file, trials, jobs)
        if out is not None:
            write_whole(out, json.dumps(tuned.document(), indent=1) + "\n")
    for line in _found(tuned):
        typer.echo(line)
    typer.echo(f"Study: {file}" + (f"\nParameters: {out}" if out else ""))


app.add_typer(people.app)
app.add_typer(serving.app)
app.add_typer(scaling.app)


def _describe(folder: Path, columns: Path | None = None) -> None:
    from firetv.data import read_tables

    tables = read_tables(folder, columns)
    typer.echo(f"{tables.manifest['name']} in {folder}")
    for name, table in tables.present().items():
        typer.echo(f"  {name:<18}{len(table):>10} rows")
    if context := tables.manifest.get("context"):
        typer.echo(f"  context of its own: {', '.join(context)}")


def _found(tuned: Tuned) -> Iterator[str]:
    """What a study found, in lines."""
    from firetv.artefacts import format_interval

    search, defaults = tuned.search, tuned.search.defaults
    yield (
        f"{search.model} on {tuned.data['name']}: {tuned.trials} trials, "
        f"{search.metric}@{search.k} of {tuned.best.n} users, model seeds: {search.seeds}"
    )
    for name in ("best", "defaults", "difference"):
        each = getattr(tuned, name)
        yield f"  {name:<18}{format_interval(each.value, each.low, each.high)}"
    for name, value in tuned.parameters.items():
        shown = f"{value:.4g}" if isinstance(value, float) else value
        default = "" if value == defaults[name] else f"  (default {defaults[name]})"
        yield f"  {name:<18}{shown}{default}"
    if tuned.parameters == defaults:
        yield "No trial was better than the defaults."
    if tuned.importances:
        shares = [f"{name} {share:.2f}" for name, share in [*tuned.importances.items()][:3]]
        yield f"Most important: {', '.join(shares)}"
    yield (
        "These are validation figures, optimistic for the best of many trials; "
        "the test part was not looked at."
    )
