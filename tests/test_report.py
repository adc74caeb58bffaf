"""Artefacts, figures and runs of notebooks, with a tiny notebook in a project of its own."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from scipy import sparse

from firetv import report, runs

DEFAULTS = """\
dataset = "toy"  # folder of data
seeds = [0, 1]
rate = 0.03
mode = "fast"
"""

WORK = """\
import sys
import pandas as pd
from firetv import report

report.use_style()
print("working", file=sys.stderr)
frame = pd.DataFrame(
    {"section": "toy", "model": ["EASE", "Random"], "split": "random", "metric": "ndcg@10",
     "value": [rate, 0.01], "low": [rate - 0.01, 0.0], "high": [rate + 0.01, 0.02],
     "n": 10, "seeds": len(seeds)}
)
report.plot_intervals(frame, xlabel="nDCG@10");
"""

SAVE = """\
claims = [report.Claim("EASE beats <chance>", True, 0.02, 0.01, 0.03)]
report.save_artefact(report.Artefact(
    "01_toy", {"rate": rate, "mode": mode},
    {"name": dataset, "rows": 2, "checksum": "0"}, frame, claims,
));
frame
"""


def write_notebook(path: Path, *cells: nbformat.NotebookNode) -> None:
    cells[1].metadata.tags = ["parameters"]
    nbformat.write(new_notebook(cells=list(cells)), path)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("my project")
    (root / "pyproject.toml").touch()
    (root / "notebooks").mkdir()
    write_notebook(
        root / "notebooks" / "01_toy.ipynb",
        new_markdown_cell("# Does EASE win?\n\nSee [a paper](https://example.org/paper)."),
        new_code_cell(DEFAULTS),
        new_markdown_cell("## Result"),
        new_code_cell(WORK),
        new_code_cell(SAVE),
    )
    write_notebook(
        root / "notebooks" / "02_broken.ipynb",
        new_markdown_cell("# Does it break?"),
        new_code_cell("mode = 'fast'"),
        new_code_cell("# a remark\nx = [1][mode == 'fast']"),
    )
    return root


@pytest.fixture(scope="module")
def executed(project: Path) -> Iterator[Path]:
    """Run both notebooks once: the first with other parameters, the second into its error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIRETV_ROOT", str(project))
        patch.delenv("FIRETV_REPORTS", raising=False)
        runs.run_notebooks(["01"], runs.read_params(["mode=007", "rate=1e-1"]))
        with pytest.raises(runs.NotebookError, match=r"02_broken: cell \[2\] `x = .*IndexError"):
            runs.run_notebooks(["02_broken"])
        yield project / "reports"


@pytest.fixture
def results() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "section": "temporal",
            "model": ["EASE", "ALS"],
            "split": "global",
            "metric": "ndcg@10",
            "value": [0.123456789, np.float32(0.25)],
            "low": [0.1, np.nan],
            "high": [0.2, np.nan],
            "n": [10, 10],
            "seeds": [3, 3],
        }
    )


@pytest.fixture
def artefact(results: pd.DataFrame) -> report.Artefact:
    data = {"name": "toy", "rows": np.int64(7), "checksum": "abc"}
    claims = [report.Claim("ALS wins", np.bool_(True), 0.1)]
    return report.Artefact("03_models", {"seeds": [1, 2]}, data, results, claims)


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIRETV_REPORTS", str(tmp_path))
    return tmp_path


# Paths


def test_root_is_found_from_any_folder_below(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FIRETV_ROOT", raising=False)
    monkeypatch.delenv("FIRETV_REPORTS", raising=False)
    monkeypatch.chdir(project / "notebooks")
    assert report.project_root() == project
    assert report.reports_dir() == project / "reports"
    assert report.data_dir() == project / "data"
    monkeypatch.chdir(tmp_path)
    assert report.project_root() == tmp_path
    monkeypatch.setenv("FIRETV_ROOT", str(project))
    assert report.project_root() == project


def test_relative_reports_count_from_the_root(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRETV_ROOT", str(project))
    monkeypatch.setenv("FIRETV_REPORTS", "build/reports")
    monkeypatch.chdir(project / "notebooks")
    assert report.reports_dir() == project / "build" / "reports"


# Figures and tables


def test_equal_figures_are_equal_files(reports: Path, results: pd.DataFrame) -> None:
    report.use_style()
    files = []
    for name in ("one", "two"):
        axes = report.plot_intervals(results, xlabel="nDCG@10", reference={"published": 0.2})
        files.append(report.save_figure(axes.figure, name).read_bytes())
        plt.close(axes.figure)
    assert files[0] == files[1]
    assert b"Software" not in files[0]
    assert {path.name for path in (reports / "figures").iterdir()} == {"one.png", "two.png"}


def test_intervals_are_ranked_with_the_published_values(results: pd.DataFrame) -> None:
    axes = report.plot_intervals(results, reference={"published": 0.2})
    assert [label.get_text() for label in axes.get_yticklabels()] == ["EASE", "published", "ALS"]
    assert [text.get_text() for text in axes.texts] == ["0.123", "0.200", "0.250"]
    plt.close(axes.figure)


def test_a_heat_map_shades_only_clear_multipliers_and_names_all() -> None:
    lifts = pd.DataFrame(
        {
            "value": ["rainy", "rainy", "sunny", "sunny"],
            "attribute": ["genre:News", "genre:Drama"] * 2,
            "log_lift": [0.4, -0.1, -0.3, 0.05],
            "low": [0.2, -0.3, -0.5, -0.2],
            "high": [0.6, 0.1, -0.1, 0.3],
            "n": [40, 12, 31, 9],
        }
    )
    axes = report.plot_lifts(lifts)
    shown = {(t.get_position(), t.get_text()): t.get_color() for t in axes.texts}
    assert shown[((0, 0), "1.49 (40)")] == "white"
    assert shown[((0, 1), "0.90 (12)")] == "0.45"
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.4, -0.3], [0, 0]])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["News", "Drama"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["rainy", "sunny"]


def test_moves_show_where_each_title_was_and_why_it_moved() -> None:
    moves = pd.DataFrame(
        {
            "rank": pd.array([1, 2, None], "Int64"),
            "before": pd.array([7, 2, 1], "Int64"),
            "title": ["Alien", "A title much longer than the figure has room for", "Big"],
            "reason": ["night: Horror ×1.30", "", "others moved past it"],
        }
    )
    axes = report.plot_moves(moves, "day", "night")
    texts = [t.get_text() for t in axes.texts]
    assert {"Alien  7", "1  Alien", "night: Horror ×1.30", "Big  1"} <= set(texts)
    assert max(map(len, texts)) < 40
    assert "others moved past it" not in texts  # what left the list has no line on the right
    ends = [tuple(line.get_ydata()) for line in axes.lines]
    assert ends == [(3, 1), (2, 2), (1, 3)]


def test_interval_table_keeps_the_order_of_the_results(results: pd.DataFrame) -> None:
    more = pd.concat([results, results.iloc[:1].assign(metric="map@10", value=0.15)])
    table = report.interval_table(more)
    assert table.index.to_list() == ["EASE", "ALS"]
    assert table.columns.to_list() == ["ndcg@10", "map@10"]
    assert table.loc["EASE"].to_list() == ["0.123 [0.100, 0.200]", "0.150 [0.100, 0.200]"]
    assert table.loc["ALS"].to_list() == ["0.250", ""]


# Artefacts


def test_artefact_round_trips_with_six_digits(reports: Path, artefact: report.Artefact) -> None:
    report.save_artefact(artefact)
    loaded = report.load_artefact("03_models")
    rounded = artefact.results.assign(value=[0.123457, 0.25])
    pd.testing.assert_frame_equal(loaded.results, rounded)
    assert loaded.claims == artefact.claims
    assert (loaded.params, loaded.data) == (artefact.params, artefact.data)
    document = json.loads((reports / "03_models.json").read_text(encoding="utf-8"))
    assert list(document) == ["params", "data", "results", "claims"]
    assert document["results"][1]["low"] is None
    assert [path.name for path in reports.iterdir()] == ["03_models.json"]


def test_each_result_has_a_line_of_its_own(artefact: report.Artefact, reports: Path) -> None:
    before = report.save_artefact(artefact).read_text().splitlines()
    changed = artefact.results.assign(value=[0.5, 0.25])
    after = report.save_artefact(replace(artefact, results=changed)).read_text().splitlines()
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "models"}, "name must be the notebook's"),
        ({"data": {"name": "toy"}}, "data must have the keys name, rows, checksum"),
    ],
)
def test_artefact_heads_are_checked(
    artefact: report.Artefact, reports: Path, change: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        report.save_artefact(replace(artefact, **change))
    assert not any(reports.iterdir())


def test_artefact_results_are_checked(artefact: report.Artefact, reports: Path) -> None:
    good = artefact.results
    bad = {
        r"missing columns \['n'\], unknown columns \['users'\]": good.rename(
            columns={"n": "users"}
        ),
        "column value must be numeric": good.assign(value="high"),
        "2 rows repeating": good.assign(model="EASE").pipe(lambda f: pd.concat([f, f[:1]])),
        "1 row without": good.assign(value=[np.nan, 1.0]),
        "1 row with low above high": good.assign(low=[0.3, np.nan]),
    }
    for message, results in bad.items():
        with pytest.raises(ValueError, match=f"artefact 03_models:(.|\n)*{message}"):
            report.save_artefact(replace(artefact, results=results))
    assert not any(reports.iterdir())


def test_a_missing_artefact_names_the_remedy(reports: Path) -> None:
    with pytest.raises(FileNotFoundError, match="firetv run 03_models"):
        report.load_artefact("03_models")


# Parameters


@pytest.mark.parametrize(
    ("default", "given", "expected"),
    [
        ("fast", "007", "007"),
        (0.03, "1e-3", 1e-3),
        (0.03, 2, 2.0),
        (5, "30", 30),
        (True, "false", False),
        ([0], "[1, 2]", [1, 2]),
        (None, "text", "text"),
    ],
)
def test_values_take_the_type_of_the_default(
    default: object, given: object, expected: object
) -> None:
    matched = runs.match_parameters({"x": given}, {"01": {"x": default}})["01"]["x"]
    assert (type(matched), matched) == (type(expected), expected)


@pytest.mark.parametrize(
    ("default", "given"),
    [
        (5, "1.5"),
        (5, 2.0),
        (5, True),
        (True, 1),
        (True, "yes"),
        ("fast", 7),
        ([0], "3"),
        (0.1, "a"),
    ],
)
def test_values_of_another_type_are_refused(default: object, given: object) -> None:
    with pytest.raises(runs.NotebookError, match=rf"01: x must be {type(default).__name__}"):
        runs.match_parameters({"x": given}, {"01": {"x": default}})


def test_each_notebook_takes_what_it_knows_and_differs_from_its_default() -> None:
    defaults = {"01": {"seed": 0}, "02": {"seed": 1, "k": 10}}
    expected = {"01": {}, "02": {"seed": 0, "k": 5}}
    assert runs.match_parameters({"seed": 0, "k": 5}, defaults) == expected


def test_unknown_parameters_fail_before_anything_runs(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRETV_ROOT", str(project))
    with pytest.raises(runs.NotebookError, match="unknown parameter sed") as error:
        runs.run_notebooks(["01"], {"sed": 1, "rate": "x"}, out=tmp_path / "out")
    assert "rate must be float" in str(error.value)
    assert "01_toy knows dataset='toy', seeds=[0, 1], rate=0.03" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_computed_defaults_are_refused() -> None:
    cell = new_code_cell("seeds = list(range(3))", metadata={"tags": ["parameters"]})
    with pytest.raises(runs.NotebookError, match=r"seeds = list\(range\(3\)\)"):
        runs.default_parameters(new_notebook(cells=[cell]))


def test_pairs_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "quick.yaml"
    file.write_text("epochs: 3\nmode: quick\n")
    assert runs.read_params(["mode=full"], file) == {"epochs": 3, "mode": "full"}


@pytest.mark.parametrize("text", ["- a list\n", "a: [1\n", "a: !!bool x\n", "a: !!timestamp x\n"])
def test_a_bad_parameter_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(runs.NotebookError, match=r"bad\.yaml"):
        runs.read_params(file=file)


def test_a_pair_needs_a_name_and_a_value() -> None:
    with pytest.raises(runs.NotebookError, match="expected name=value"):
        runs.read_params(["epochs"])


# Runs


def test_notebooks_are_found_by_number_name_or_path(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRETV_ROOT", str(project))
    path = project / "notebooks" / "01_toy.ipynb"
    assert runs.find_notebooks(["01", "01_toy", path]) == [path] * 3
    assert [p.stem for p in runs.find_notebooks()] == ["01_toy", "02_broken"]
    with pytest.raises(runs.NotebookError, match="there are: 01_toy, 02_broken"):
        runs.find_notebooks(["03"])


def test_a_run_leaves_copy_page_and_artefact(executed: Path) -> None:
    notebook = nbformat.read(executed / "01_toy.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[-1].execution_count == 4  # the injected parameters are one cell
    loaded = report.load_artefact("01_toy", executed)
    assert loaded.params == {"rate": 0.1, "mode": "007"}
    pages = sorted(path.stem for path in executed.glob("*.html"))
    assert pages == ["01_toy", "02_broken", "index"]


def test_a_failure_is_on_its_page_and_on_the_index(executed: Path) -> None:
    for name in ("02_broken", "index"):
        page = (executed / f"{name}.html").read_text(encoding="utf-8")
        assert "This run failed: cell [2] `x = [1][mode == " in page
    copy = nbformat.read(executed / "02_broken.ipynb", as_version=4)
    assert any(output.ename == "IndexError" for output in copy.cells[-1].outputs)
    assert "mode = &#39;007&#39;" in page  # of the other run, on the index


def test_inline_figures_name_no_software(executed: Path) -> None:
    notebook = nbformat.read(executed / "01_toy.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    image = next(o.data["image/png"] for o in outputs if "image/png" in o.get("data", ()))
    assert b"Software" not in base64.b64decode(image)


def test_kept_notebooks_do_not_change_when_run_again(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRETV_ROOT", str(project))
    path = project / "notebooks" / "01_toy.ipynb"
    source = path.read_bytes()
    with pytest.raises(runs.NotebookError, match="default parameters"):
        runs.run_notebooks(["01"], {"mode": "slow"}, out=tmp_path, keep=True)
    assert path.read_bytes() == source

    runs.run_notebooks(["01"], {"mode": "fast"}, out=tmp_path, keep=True)
    kept = path.read_bytes()
    runs.run_notebooks(["01"], out=tmp_path, keep=True)
    assert path.read_bytes() == kept

    notebook = nbformat.reads(kept.decode(), as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}
    assert {key for cell in notebook.cells for key in cell.metadata} == {"tags"}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3]
    assert not any(o.get("name") == "stderr" for cell in code for o in cell.outputs)
    assert [len(cell.outputs) for cell in code] == [0, 1, 1]


# Side by side


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three notebooks; the first fails once the second has begun, which ends after that."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("FIRETV_ROOT", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    imports = "import os, time\nfrom pathlib import Path\n"
    wait = "while not Path('{}').exists():\n    time.sleep(0.05)\n"
    fails = imports + wait.format("second") + "1 / 0"
    goes_on = imports + "Path('second').touch()\n" + wait.format("reports/01_fails.html")
    goes_on += "print(os.environ['OMP_NUM_THREADS'])"
    for name, code in {"01_fails": fails, "02_runs": goes_on, "03_late": "1"}.items():
        write_notebook(
            tmp_path / "notebooks" / f"{name}.ipynb",
            new_markdown_cell("# Why?"),
            new_code_cell("seed = 0"),
            new_code_cell(code),
        )
    return tmp_path


def test_after_a_failure_what_runs_goes_on_and_nothing_begins(
    slow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(runs.NotebookError, match=r"01_fails: cell \[2\] .*ZeroDivisionError"):
        runs.run_notebooks(jobs=2, keep=True)
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == ["[1/3] 01_fails ...", "[2/3] 02_runs ..."]
    ends = {line.split(":")[0]: line.split(": ")[1] for line in said[2:]}
    assert ends.keys() == {"[1/3] 01_fails", "[2/3] 02_runs"}
    assert ends["[1/3] 01_fails"].startswith("failed")
    written = {path.name for path in (slow / "reports").iterdir()}
    assert written == {"index.html"} | {
        f"{name}.{kind}" for name in ("01_fails", "02_runs") for kind in ("html", "ipynb")
    }
    kept = nbformat.read(slow / "notebooks" / "02_runs.ipynb", as_version=4)
    assert kept.cells[-1].outputs[0].text == "1\n"  # one BLAS thread
    assert "OMP_NUM_THREADS" not in os.environ


def test_one_at_a_time_stops_at_the_first_failure(
    slow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (slow / "second").touch()
    with pytest.raises(runs.NotebookError, match="ZeroDivisionError"):
        runs.run_notebooks(jobs=1)
    assert capsys.readouterr().err.splitlines() == ["[1/3] 01_fails ...", "[1/3] 01_fails: failed"]


def test_jobs_are_counted_from_one(slow: Path) -> None:
    with pytest.raises(ValueError, match="jobs must be 1 or more, not 0"):
        runs.run_notebooks(jobs=0)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(os.name == "nt", reason="signals of a terminal")
def test_an_interrupted_run_leaves_no_process(slow: Path) -> None:
    program = "import signal\nfrom firetv.runs import run_notebooks\n"
    program += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in background
    program += "run_notebooks(jobs=2)"
    endless = "import os\nfrom pathlib import Path\nPath(f'kernel{os.getpid()}').touch()\n"
    endless += "import time\ntime.sleep(600)"
    for name in ("01_fails", "02_runs"):
        write_notebook(
            slow / "notebooks" / f"{name}.ipynb",
            new_markdown_cell("# Why?"),
            new_code_cell("seed = 0"),
            new_code_cell(endless),
        )
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as run:
        while len(kernels := list(slow.glob("kernel*"))) < 2:
            assert run.poll() is None
            time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        assert run.wait(60) != 0
    pids = [int(path.name.removeprefix("kernel")) for path in kernels]
    until = time.monotonic() + 30
    while any(map(is_alive, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(is_alive, pids))


def test_friends_are_drawn_by_trust_and_by_what_they_did() -> None:
    ties = sparse.csr_array(np.array([[0, 1, 0], [0, 0, 0], [1, 0, 0]], np.float32))
    weights, did = np.array([0.5, 0.3, 0.2]), np.array([True, False, True])
    ax = report.plot_friends(["me", "ana", "ben", "cara"], weights, ties, did)
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["ana", "ben", "cara", "me"]
    between, *spokes = ax.lines[:2], *ax.lines[2:]
    assert [line.get_color() for line in between] == ["0.88"] * 2
    assert [line.get_color() for line in spokes] == ["C0", "0.75", "C0"]
    widths = [line.get_linewidth() for line in spokes]
    assert widths[0] > widths[1] > widths[2]
    plt.close(ax.figure)


def test_trials_stand_at_their_values_and_the_best_has_a_star() -> None:
    history = [
        {"parameters": {"reg": 10.0**n, "loss": loss}, "value": value}
        for n, loss, value in ((0, "warp", 0.2), (1, "bpr", 0.01), (3, "warp", 0.3))
    ]
    _, axes = plt.subplots(1, 2)
    report.plot_trials({"history": history}, ["reg", "loss"], axes, label="lightfm")
    dots, star = (c.get_offsets() for c in axes[0].collections)
    np.testing.assert_allclose(dots, [[1, 0.2], [10, 0.2], [1000, 0.3]])  # 0.01 is at the floor
    np.testing.assert_allclose(star, [[1000, 0.3]])
    assert axes[0].get_xscale() == "log"
    assert axes[0].get_xlabel() == "lightfm reg"
    assert [tick.get_text() for tick in axes[1].get_xticklabels()] == ["bpr", "warp"]
    np.testing.assert_allclose(axes[1].collections[0].get_offsets()[:, 0], [1, 0, 1])
    plt.close()


def test_tradeoffs_have_a_mark_for_each_model_and_a_line_for_re_rankings() -> None:
    table = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [0.3, 0.2, 0.1]}, index=["a", "b", "c"])
    _, ax = plt.subplots()
    report.plot_tradeoffs(table, "x", "y", ["a", "b"], {"a, re-ranked": ["a", "c"]}, ax=ax)
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), [[1, 0.3], [3, 0.1]])
    marks = {c.get_label(): c.get_offsets().tolist() for c in ax.collections}
    assert marks == {"a": [[1, 0.3]], "b": [[2, 0.2]]}
    plt.close()
