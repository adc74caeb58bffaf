from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from distributed import Client
from typer.testing import CliRunner, Result
from workers import PATIENCE, two_workers, wait_for

from firetv import sweeps as module
from firetv.artefacts import load_artefact
from firetv.cli import app
from firetv.cluster import connect
from firetv.runs import NotebookError, run_notebooks
from firetv.sweeps import TABLE, compare, read_grid, read_table, sets_of, sweep

DEFAULTS = {"rate": 0.1, "mode": "fast", "seeds": [0, 1], "note": None}
CODE = """
import sys
from pathlib import Path
import pandas as pd
from firetv.artefacts import Artefact, save_artefact
sys.path.insert(0, {tests!r})
from hold import hold
with Path({folder!r}, "begun").open("a") as begun:
    begun.write(f"{{rate}}\\n")
if rate > 1:
    raise ValueError("rate is too high")
if rate == 0.3:
    hold(Path({folder!r}))
value = {{"popular": 0.1 / 3, "als": rate / 3}}
rows = [
    dict(section="temporal", model=model, split="test", metric=metric, value=value[model])
    | dict(low=value[model] - 0.01, high=value[model] + 0.01, n=10, seeds=len(seeds))
    for model in value for metric in ("ndcg@10", "hr@10")
]
data = dict(name="none", rows=0, checksum="")
save_artefact(Artefact("01_tiny", dict(rate=rate), data, pd.DataFrame(rows), []))
"""


def firetv(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """A notebook that says when it begins, and waits at a barrier if its rate is 0.3."""
    new = nbformat.v4
    defaults = "\n".join(f"{name} = {value!r}" for name, value in DEFAULTS.items())
    code = CODE.format(folder=str(tmp_path), tests=str(Path(__file__).parent))
    cells = [
        new.new_markdown_cell("# Does it run?"),
        new.new_code_cell(defaults, metadata={"tags": ["parameters"]}),
        new.new_code_cell(code.strip()),
    ]
    path = tmp_path / "01_tiny.ipynb"
    nbformat.write(new.new_notebook(cells=cells), path)
    return path


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with two_workers(tmp_path_factory.mktemp("cluster")) as address:
        yield address


@pytest.fixture(scope="module")
def client(scheduler: str) -> Iterator[Client]:
    with connect(scheduler) as connected:
        yield connected


def begun(notebook: Path) -> list[str]:
    """Rates of the runs that began, in order."""
    return sorted((notebook.parent / "begun").read_text().split())


# Grids


def test_a_grid_is_all_combinations_with_the_types_of_the_notebook() -> None:
    sets = sets_of({"rate": [1, "2e-3"], "mode": ["fast", "slow"]}, DEFAULTS)
    assert [each.parameters for each in sets] == [
        {"mode": mode, "rate": rate} for mode in ("fast", "slow") for rate in (1.0, 0.002)
    ]
    assert len({each.name for each in sets}) == 4


def test_what_a_mapping_does_not_name_is_the_default_and_equal_sets_are_one() -> None:
    sets = sets_of([{"rate": [0.5]}, {"mode": ["fast", "slow"], "rate": [0.5]}], DEFAULTS)
    assert [each.parameters["mode"] for each in sets] == ["fast", "slow"]


def test_names_of_sets_are_safe_and_differ() -> None:
    values = ["../up", "../ up", "x" * 300, "x" * 301, 1, "1", None]
    names = [each.name for each in sets_of({"note": values}, DEFAULTS)]
    assert len(set(names)) == len(values)
    assert all("/" not in name and len(name) < 100 for name in names)


def test_all_mistakes_of_a_grid_are_named_at_once() -> None:
    with pytest.raises(NotebookError) as error:
        sets_of({"speed": [1], "seeds": [0], "rate": [0.1, "much"]}, DEFAULTS, "01_tiny")
    text = str(error.value)
    assert "unknown parameter speed" in text
    assert "seeds must be list" in text
    assert "rate must be float" in text
    assert text.count("unknown parameter speed") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 3", "write names with lists"),
        ("[]", "is empty"),
        ("", "write names with lists"),
        ("rate: 3", "rate has no list"),
        ("rate: []", "rate has no list"),
        ("rate: [", "cannot be read as YAML"),
        ("rate: [!!bool x]", "cannot be read as YAML"),
        ("rate: [!!timestamp x]", "cannot be read as YAML"),
        ("rate: [!!python/object/apply:os.getcwd []]", "cannot be read as YAML"),
    ],
)
def test_what_is_no_grid_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_grid(path)


# Sweeps


def test_a_sweep_finds_what_single_runs_find_and_goes_on_after_failures(
    client: Client, notebook: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    table = sweep(notebook, {"rate": [0.7, 2.0]}, out, client)
    done, failed = table[table["status"] == "done"], table[table["status"] == "failed"]
    assert len(done) == 4
    assert done["params.rate"].tolist() == [0.7] * 4
    assert (done["seconds"] > 0).all()
    run_notebooks([notebook], {"rate": 0.7}, out=tmp_path / "alone")
    folder = (out / done["notebook"].iloc[0]).parent
    name = "01_tiny.json"
    assert (folder / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    wanted = load_artefact("01_tiny", tmp_path / "alone").results
    shown = done[wanted.columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(shown, wanted, check_dtype=False)

    (row,) = failed.to_dict("records")
    assert row["params.rate"] == 2.0
    assert "ValueError: rate is too high" in row["error"]
    assert (out / row["notebook"]).is_file()
    assert (out / TABLE).read_text() == table.to_csv(index=False)
    assert read_table(out)["params.rate"].tolist() == table["params.rate"].tolist()

    again = sweep(notebook, {"rate": [0.7, 2.0]}, out, client)  # the failed one is tried again
    assert begun(notebook) == ["0.7", "0.7", "2.0", "2.0"]
    assert again["status"].tolist() == table["status"].tolist()


def test_a_killed_worker_loses_no_set(client: Client, notebook: Path, tmp_path: Path) -> None:
    said, hold = [], tmp_path / "hold"
    hold.touch()
    run = threading.Thread(
        target=lambda: said.append(sweep(notebook, {"rate": [0.3]}, tmp_path / "out", client))
    )
    run.start()
    try:
        wait_for(lambda: [*tmp_path.glob("held-*")])
        (task,) = [key for keys in client.processing().values() for key in keys]
        (address,) = [w for w, keys in client.processing().items() if task in keys]
        os.kill(client.run(os.getpid)[address], signal.SIGKILL)
        wait_for(lambda: len(begun(notebook)) == 2)
    finally:
        hold.unlink()
        run.join(timeout=PATIENCE)
    (table,) = said
    assert table["status"].tolist() == ["done"] * 4


def test_the_command_reports_each_failure_and_exits_with_1(
    scheduler: str, notebook: Path, tmp_path: Path
) -> None:
    grid, out = tmp_path / "grid.yaml", tmp_path / "out"
    grid.write_text("rate: [2.0]\n")
    words = ("sweep", notebook, "--grid", grid, "--out", out, "--scheduler", scheduler)
    said = firetv(*words)
    assert said.exit_code == 1
    (line,) = [line for line in said.stderr.splitlines() if line.startswith("failed: ")]
    assert line.startswith("failed: rate=2.0: 01_tiny: cell")
    assert line.endswith("01_tiny.ipynb)")
    assert "0 sets done, 1 failed" in said.stdout
    with pytest.raises(ValueError, match="no results to compare"):
        compare(read_table(out))
    (out / module.ABOUT).write_text('{"notebook": "02_other.ipynb"}')
    assert "holds a sweep of 02_other" in firetv(*words).output


def test_a_set_of_another_notebook_or_code_is_done_again(tmp_path: Path) -> None:
    run = module.Run({"rate": 1.0}, "cells", "code", 2.0, "done", "", "a/01_tiny.ipynb")
    tmp_path.joinpath(module.RECORD).write_text(json.dumps(vars(run)))
    assert module._done(tmp_path, run) == run
    for field, value in (("notebook", "x"), ("code", "x"), ("parameters", {"rate": 2.0})):
        assert module._done(tmp_path, module.Run(**(vars(run) | {field: value}))) is None


# Comparisons


@pytest.fixture
def table() -> pd.DataFrame:
    rows = [
        {"params.rate": rate, "params.mode": mode, "section": "temporal", "model": model}
        | {"split": "test", "metric": metric, "value": rate * (1 + (model == "als"))}
        | {"low": rate * 0.9, "high": rate * 2.1, "n": 5, "seeds": 1, "seconds": 1.0}
        | {"notebook": "x.ipynb", "status": "done", "error": ""}
        for rate in (0.1, 0.2, 0.4)
        for mode in ("fast", "slow")
        for model in ("als", "popular")
        for metric in ("ndcg@10", "hr@10")
    ]
    return pd.DataFrame(rows)


def test_a_comparison_takes_the_widest_parameter_and_names_what_else_differs(
    table: pd.DataFrame,
) -> None:
    found = compare(table)
    assert (found.metric, found.by) == ("ndcg@10", "rate")
    assert len(found.table) == 12
    assert found.table["value"].is_monotonic_decreasing
    assert set(found.table["line"]) == {
        f"{model}, mode={mode}" for model in ("als", "popular") for mode in ("fast", "slow")
    }
    assert set(compare(table, "hr@10", "mode").table["by"]) == {"fast", "slow"}


@pytest.mark.parametrize(("metric", "by"), [("map@10", None), (None, "speed")])
def test_unknown_names_in_a_comparison_are_refused(
    metric: str | None, by: str | None, table: pd.DataFrame
) -> None:
    with pytest.raises(ValueError, match="of this sweep: use "):
        compare(table, metric, by)


@pytest.mark.parametrize("by", ["rate", "mode"])
def test_compare_draws_and_prints_the_best_first(
    by: str, table: pd.DataFrame, tmp_path: Path
) -> None:
    table.to_csv(tmp_path / TABLE, index=False)
    said = firetv("compare", tmp_path, "--metric", "hr@10", "--by", by)
    assert said.exit_code == 0, said.output
    assert "0.800 [0.360, 0.840]" in said.stdout.splitlines()[1]
    drawn = tmp_path / "hr_10.png"
    assert drawn.read_bytes().startswith(b"\x89PNG")
    first = drawn.read_bytes()
    firetv("compare", tmp_path, "--metric", "hr@10", "--by", by)
    assert drawn.read_bytes() == first
    assert "Run a sweep" in firetv("compare", tmp_path / "nowhere").output


# MLflow


def test_sets_are_logged_to_mlflow_once(
    scheduler: str, notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the skinny client has no database
    uri, grid, out = (tmp_path / "mlruns").as_uri(), tmp_path / "grid.yaml", tmp_path / "out"
    grid.write_text("rate: [0.1, 2.0]\n")
    words = ("sweep", notebook, "--grid", grid, "--out", out, "--scheduler", scheduler)
    firetv(*words)
    assert firetv(*words, "--mlflow", uri).exit_code == 1
    assert firetv(*words, "--mlflow", uri).exit_code == 1
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("01_tiny")
    runs = client.search_runs([experiment.experiment_id])
    done = [run for run in runs if run.info.status == "FINISHED"]
    failed = [run for run in runs if run.info.status == "FAILED"]
    assert (len(done), len(failed)) == (1, 2)  # a set that fails again, is logged again
    assert done[0].data.params == {"rate": "0.1"}
    metrics = done[0].data.metrics
    assert metrics["temporal/als/test/ndcg_10"] == pytest.approx(0.1 / 3, rel=1e-5)
    assert metrics["seconds"] > 0
    assert [each.path for each in client.list_artifacts(done[0].info.run_id)] == ["01_tiny.ipynb"]
    assert "rate is too high" in failed[0].data.tags["error"]


def test_without_mlflow_the_extra_is_named(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    grid = tmp_path / "grid.yaml"
    grid.write_text("rate: [0.1]\n")
    said = firetv("sweep", notebook, "--grid", grid, "--out", tmp_path / "out", "--mlflow", "x")
    assert said.exit_code == 2
    assert ".[mlflow]" in said.output
