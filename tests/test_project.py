"""What holds for the repository as a whole: pins, module order, notebooks, make targets."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from firetv.runs import default_parameters, match_parameters, read_params

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "firetv").glob("[!_]*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = sorted((ROOT / "notebooks" / "params").glob("*.yaml"))
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(PYPROJECT)["project"]
DEPENDENCIES = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]

# A module imports from levels above its own line only.
LEVELS = (
    {"schema", "writing"},
    {"yaml_files"},
    {"columns", "storage", "cluster", "files", "streams"},
    {"data", "moments", "published"},
    {"metrics", "slate", "features", "world", "abtest", "rules", "weather", "proof", "clicks"}
    | {"movielens", "comoda", "filmtrust", "lastfm", "camra2011", "sentences"},
    {"choices", "steps", "trust", "synthetic", "sources", "lifts", "cohorts", "panels"}
    | {"delivery", "power", "sequential", "interleaving", "off_policy", "weighting"}
    | {"diversity", "explorer_view"},
    {"models", "ranking", "scales", "multipliers", "splits", "ratings", "group_metrics"}
    | {"strategies", "member_weights", "newcomers", "slate_policies", "peers", "benchmarks"},
    {"context", "planted", "evaluate", "influence", "social", "opinions", "fairness"}
    | {"personal", "live", "logs"},
    {"explain", "moves", "notifications", "groups", "comparisons", "cold_start", "signals"}
    | {"packaged", "blends", "growth"},
    {"fidelity", "group_reasons", "households", "lists", "trials", "tuning"},
    {"layers", "recommender", "sweeps", "speed"},
    {"ablation", "batch", "tracking", "site", "explorer"},
    {"options", "messages", "explorer_html"},
    {"widgets"},
    {"api", "connections"},
    {"people", "serving", "scaling"},
    {"cli"},
)
# Presentation stands beside the levels: it imports only the lowest, and these alone import it.
PRESENTATION = {
    "artefacts": {"report", "figures", "plots", "runs", "layers", "options", "serving", "cli"}
    | {"benchmarks", "growth", "speed", "batch", "sweeps", "tracking", "scaling"}
    | {"cover", "pages", "reference", "site"},
    "figures": {"plots", "report", "benchmark_plots", "site"},
    "plots": {"report", "site"},
    "report": {"scaling"},
    "benchmark_plots": set(),
    "notebooks": {"cover", "pages", "runs", "sweeps"},
    "cover": {"pages", "site"},
    "pages": {"runs", "reference", "site"},
    "reference": {"site"},
    "runs": {"cli", "sweeps", "scaling"},
}

MOST_LINES = 599
LONGEST_DEF_IN_A_CELL = 5
LOCAL_PATH = re.compile(r"(?<![\w.])/(?:home|root|Users|tmp|var|work|mnt|opt)/|[A-Z]:\\\\?Users")


# Pins


def pins() -> dict[str, str]:
    """The lock's entries by name, each with the lines that belong to it."""
    entries = re.split(r"^(?=[A-Za-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    return {canonicalize_name(entry.split("==")[0]): entry for entry in entries}


def test_every_pin_has_a_hash() -> None:
    for entry in pins().values():
        assert re.match(r"[\w.-]+==[\w.]+", entry), f"not pinned: {entry.splitlines()[0]}"
        assert "--hash=sha256:" in entry, f"no hash: {entry.splitlines()[0]}"


def test_lock_names_no_index() -> None:
    lines = [line for line in LOCK.splitlines() if not line.lstrip().startswith("#")]
    address = re.compile(r"https?://|file://|--(?:extra-)?index-url|--find-links|@ ")
    assert [line for line in lines if address.search(line)] == []
    assert not re.search(r"https?://", LOCK)  # not in a comment either


def test_the_change_log_knows_the_version() -> None:
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(PROJECT['version'])}\b", log, flags=re.MULTILINE)


def test_every_dependency_is_pinned() -> None:
    missing = {canonicalize_name(Requirement(text).name) for text in DEPENDENCIES} - pins().keys()
    assert not missing


@pytest.mark.parametrize("dependency", DEPENDENCIES)
def test_every_dependency_says_why(dependency: str) -> None:
    assert re.search(rf'"{re.escape(dependency)}",\s+# \w.*', PYPROJECT)


def test_conda_installs_the_lock_on_a_tested_python() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["-r requirements.lock"]
    python = next(d for d in environment["dependencies"] if str(d).startswith("python="))
    assert python.removeprefix("python=") in ci_pythons()


def ci_pythons() -> list[str]:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    return workflow["jobs"]["test"]["strategy"]["matrix"]["python"]


def test_ci_covers_the_oldest_supported_python() -> None:
    supported = SpecifierSet(PROJECT["requires-python"])
    assert all(supported.contains(version) for version in ci_pythons())
    assert PROJECT["requires-python"] == f">={ci_pythons()[0]}"


def test_ci_runs_make_test() -> None:
    assert "bash .ci/run" in (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    script = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert script[-1] == "make test"


# Modules


def firetv_imports(source: str) -> Iterator[str]:
    """Name the modules of firetv that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = f"firetv.{node.module or ''}".rstrip(".") if node.level else node.module
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("firetv."))


def level(module: str) -> int:
    found = [number for number, names in enumerate(LEVELS) if module in names]
    assert found, f"{module} has no place in LEVELS yet"
    return found[0]


def is_allowed(module: str, imported: str) -> bool:
    if imported in PRESENTATION:
        return module in PRESENTATION[imported]
    return level(imported) < (1 if module in PRESENTATION else level(module))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_point_one_way(path: Path) -> None:
    imported = set(firetv_imports(path.read_text(encoding="utf-8")))
    assert [name for name in sorted(imported) if not is_allowed(path.stem, name)] == []


def test_wrong_imports_would_be_seen() -> None:
    source = "from firetv import models\nimport firetv.cli\nfrom . import api\nfrom .data import x"
    assert list(firetv_imports(source)) == ["models", "cli", "api", "data"]
    assert is_allowed("models", "slate")
    assert not is_allowed("slate", "models")
    assert not is_allowed("slate", "features")  # siblings
    assert not is_allowed("models", "report")
    assert not is_allowed("report", "data")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES


# Notebooks


def test_notebooks_are_numbered_from_one() -> None:
    assert NOTEBOOKS, "no notebooks"
    numbers = [path.stem.split("_")[0] for path in NOTEBOOKS]
    assert numbers == [f"{number:02}" for number in range(1, len(numbers) + 1)]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def test_notebooks_ran_top_to_bottom(notebook: nbformat.NotebookNode) -> None:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_notebooks_show_no_error_or_warning(notebook: nbformat.NotebookNode) -> None:
    bad = [o for o in outputs(notebook) if o.output_type == "error" or o.get("name") == "stderr"]
    assert bad == []


def test_notebooks_have_parameters(notebook: nbformat.NotebookNode) -> None:
    tagged = [c for c in code_cells(notebook) if "parameters" in c.metadata.get("tags", ())]
    assert len(tagged) == 1


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_profiles_name_parameters_of_their_notebook(path: Path) -> None:
    number, _ = path.stem.split("_")
    found = next(p for p in NOTEBOOKS if p.stem.startswith(f"{number}_"))
    defaults = default_parameters(nbformat.read(found, as_version=4))
    changed = match_parameters(read_params(file=path), {found.stem: defaults})
    assert changed[found.stem].keys() == read_params(file=path).keys()


def test_notebooks_ask_a_question(notebook: nbformat.NotebookNode) -> None:
    title = notebook.cells[0].source.splitlines()[0]
    assert re.fullmatch(r"# .+\?", title)


def test_notebooks_define_only_short_functions(notebook: nbformat.NotebookNode) -> None:
    plain = TransformerManager().transform_cell  # turns magics into Python
    definitions = [
        node
        for cell in code_cells(notebook)
        for node in ast.walk(ast.parse(plain(cell.source)))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in definitions}
    assert {n: lines for n, lines in lengths.items() if lines > LONGEST_DEF_IN_A_CELL} == {}


def test_notebooks_name_no_local_path(notebook: nbformat.NotebookNode) -> None:
    texts = [cell.source for cell in notebook.cells]
    for output in outputs(notebook):
        texts.append(output.get("text", ""))
        texts.extend(v for k, v in output.get("data", {}).items() if k.startswith("text/"))
    assert [text for text in texts if LOCAL_PATH.search(text)] == []


def test_notebooks_hold_no_tex(notebook: nbformat.NotebookNode) -> None:
    """The pages carry no script that could typeset it."""
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert re.findall(r"\$[^$\n]+\$|\\begin\{", prose) == []


def test_local_paths_would_be_seen() -> None:
    assert LOCAL_PATH.search("saved to /home/someone/firetv/reports")
    assert LOCAL_PATH.search("'/tmp/ipykernel_1/3.py:2: Warning'")
    assert not LOCAL_PATH.search("saved to reports/figures, see https://example.org/home/")


# Make

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

# Stands in for an interpreter: checks like a real one, and records what it is asked to install.
FAKE_PYTHON = """\
#!/bin/sh
case "$1 $2" in
    "-c "*) exec "{python}" "$@" ;;
    "-m venv") mkdir -p .venv/bin; rm -f .venv/locked-* .venv/project-*; cp "$0" .venv/bin/python ;;
    "-m pip") echo "$*" >> pip.log; exit "${{PIP_EXIT:-0}}" ;;
    *) echo "Python {name}" ;;
esac
"""


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose path has a space, and a PATH where only python3.11 works."""
    root = tmp_path / "my checkout"
    root.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, root)
    for name in ("python3.13", "python3.12", "python3.11", "python3", "python"):
        write_program(tmp_path / "bin" / name, "#!/bin/sh\nexit 127\n")
    fake = FAKE_PYTHON.format(python=sys.executable, name="3.11")
    write_program(tmp_path / "bin" / "python3.11", fake)
    return root


def make(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{root.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "PYTHON"}
    return subprocess.run(
        ["make", *arguments],  # noqa: S607 - of the PATH that it is to look at
        cwd=root,
        env=inherited | {"PATH": path} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def environment_target(root: Path) -> str:
    """The stamp that every target needs, as make names it."""
    plan = make(root, "-n", "lab").stdout
    return re.findall(r"touch (\.venv/project-\d+)", plan)[0]


@needs_make
def test_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.+)$", makefile, flags=re.MULTILINE)[1].split()
    lines = make(ROOT).stdout.splitlines()
    assert [line.split()[1] for line in lines] == targets
    assert all(len(line.split()) > 3 for line in lines)


@needs_make
def test_environment_is_made_once_with_an_interpreter_that_works(checkout: Path) -> None:
    stamp = environment_target(checkout)
    made = make(checkout, stamp)
    assert made.returncode == 0, made.stderr
    assert "creating .venv with python3.11" in made.stdout
    installs = (checkout / "pip.log").read_text().splitlines()
    assert len(installs) == 2
    assert installs[0].endswith("--require-hashes -r requirements.lock")
    assert installs[1].endswith("install --no-deps --no-build-isolation -e .")

    make(checkout, stamp)
    assert (checkout / "pip.log").read_text().splitlines() == installs


@needs_make
def test_a_changed_lock_makes_the_environment_anew(checkout: Path) -> None:
    make(checkout, environment_target(checkout))
    with (checkout / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    again = make(checkout, environment_target(checkout))
    assert "creating .venv" in again.stdout
    assert len((checkout / "pip.log").read_text().splitlines()) == 4


@needs_make
def test_an_interrupted_install_is_redone(checkout: Path) -> None:
    stamp = environment_target(checkout)
    assert make(checkout, stamp, PIP_EXIT="1").returncode != 0
    assert not list((checkout / ".venv").glob("locked-*"))
    again = make(checkout, stamp)
    assert again.returncode == 0
    assert "creating .venv" in again.stdout


@needs_make
def test_a_named_interpreter_comes_first(checkout: Path) -> None:
    mine = checkout.parent / "my python"
    write_program(mine, FAKE_PYTHON.format(python=sys.executable, name="mine"))
    made = make(checkout, environment_target(checkout), f"PYTHON={mine}")
    assert "creating .venv with" in made.stdout
    assert "Python mine" in made.stdout


@needs_make
def test_no_working_interpreter_is_said_plainly(checkout: Path) -> None:
    write_program(checkout.parent / "bin" / "python3.11", "#!/bin/sh\nexit 127\n")
    made = make(checkout, environment_target(checkout))
    assert made.returncode != 0
    assert "No Python 3.11 or newer" in made.stderr
