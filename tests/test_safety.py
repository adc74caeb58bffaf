"""Nothing here runs what it reads, asks a shell, or talks to strangers; and the lock holds no more
than is needed.

Ruff's own rules for this (``S``) run with the others. What this walk adds: modules that need no
call to be unsafe, notebooks' magics, and what a rule cannot know of a lock. Whether a pinned
version has a known hole is asked where the open web is: ``make audit``.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from test_project import DEPENDENCIES, LOCK, NOTEBOOKS, PYPROJECT, ROOT, pins

SOURCES = sorted(path for path in (ROOT / "firetv").rglob("*.py"))
TESTS = sorted((ROOT / "tests").glob("*.py"))
# Modules that make objects, and so run code, from what they read.
THAWING = {"pickle", "cPickle", "shelve", "marshal", "dill", "cloudpickle", "jsonpickle"}
RUNNING = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "os.system": "asks a shell",
    "os.popen": "asks a shell",
    "subprocess.getoutput": "asks a shell",
    "subprocess.getstatusoutput": "asks a shell",
    "yaml.load": "loads any YAML",
    "yaml.load_all": "loads any YAML",
    "yaml.full_load": "loads any YAML",
    "yaml.unsafe_load": "loads any YAML",
    "joblib.load": "reads a pickle",
    "pd.read_pickle": "reads a pickle",
    "pandas.read_pickle": "reads a pickle",
    "torch.load": "reads a pickle",
    "tempfile.mktemp": "names a file that others may make first",
}
ARGUMENTS = {  # by name: the values that are unsafe
    "shell": (True,),
    "verify": (False,),
    "allow_pickle": (True,),
    "host": ("0.0.0.0", "::", ""),  # noqa: S104 - what is looked for
}


def faults(source: str) -> Iterator[str]:
    """Name what is unsafe in a source, with its line."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Import | ast.ImportFrom | ast.Call):
            continue
        for fault in _faults(node):
            yield f"line {node.lineno}: {fault}"


def dotted(node: ast.expr) -> str:
    """Name what is called, such as ``os.system``; of what has no name, the last part."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def _faults(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
    else:
        names = []
    yield from (f"imports {n}" for n in names if n.split(".")[0] in THAWING)
    if not isinstance(node, ast.Call):
        return
    called = dotted(node.func)
    if called in RUNNING:
        yield f"calls {called}"
    if called in CALLS:
        yield f"{called} {CALLS[called]}"
    for argument in node.keywords:
        value = argument.value.value if isinstance(argument.value, ast.Constant) else None
        if value is not None and value in ARGUMENTS.get(argument.arg or "", ()):
            yield f"{called} is given {argument.arg}={value!r}"


BAD = {
    "import pickle": "line 1: imports pickle",
    "from marshal import loads": "line 1: imports marshal",
    "def f(x):\n    return eval(x)": "line 2: calls eval",
    "exec('a = 1')": "line 1: calls exec",
    "import yaml\nyaml.load(x, Loader=yaml.Loader)": "line 2: yaml.load loads any YAML",
    "joblib.load(path)": "line 1: joblib.load reads a pickle",
    "pd.read_pickle(path)": "line 1: pd.read_pickle reads a pickle",
    "np.load(path, allow_pickle=True)": "line 1: np.load is given allow_pickle=True",
    "subprocess.run('ls', shell=True)": "line 1: subprocess.run is given shell=True",
    "requests.get(url, verify=False)": "line 1: requests.get is given verify=False",
    "uvicorn.run(app, host='0.0.0.0')": "line 1: uvicorn.run is given host='0.0.0.0'",
    "os.system('ls')": "line 1: os.system asks a shell",
}


@pytest.mark.parametrize("source", BAD)
def test_what_is_unsafe_would_be_seen(source: str) -> None:
    assert list(faults(source)) == [BAD[source]]


def test_what_is_safe_is_let_be() -> None:
    safe = "import yaml, re\nyaml.safe_load(x)\nre.compile(x)\nmodel.eval()\nnp.load(p)\n"
    safe += "run(['ls'], shell=False)\nserve(host='127.0.0.1')\nget(url, verify=True)"
    assert list(faults(safe)) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_package_is_safe(path: Path) -> None:
    assert list(faults(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_safe(path: Path) -> None:
    """And ask no shell by a magic, of which the kernel makes a call of its own."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    plain = TransformerManager().transform_cell  # turns magics into Python
    sources = [plain("".join(c["source"])) for c in cells if c["cell_type"] == "code"]
    assert [fault for source in sources for fault in faults(source)] == []
    assert [s for s in sources if re.search(r"get_ipython\(\)\.(system|getoutput)", s)] == []


PICKLED_IN_TESTS = {  # fitted steps and data go to other processes, which are sent pickles
    "test_context",
    "test_evaluate",
    "test_groups",
    "test_models",
    "test_personal",
    "test_ranking",
    "test_social",
}


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_tests_are_safe(path: Path) -> None:
    found = list(faults(path.read_text(encoding="utf-8")))
    if path.stem in PICKLED_IN_TESTS:
        found = [fault for fault in found if not fault.endswith("imports pickle")]
    assert found == []


def test_servers_bind_to_this_machine_by_default() -> None:
    """In whatever names an address at all."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in SOURCES}
    assert {name for name, text in texts.items() if "0.0.0.0" in text} == set()  # noqa: S104
    assert {name for name, text in texts.items() if "127.0.0.1" in text} >= {"serving.py"}


# The lock


def test_no_pin_is_an_unfinished_version() -> None:
    versions = {name: entry.split("==")[1].split()[0] for name, entry in pins().items()}
    assert {n: v for n, v in versions.items() if Version(v).is_prerelease} == {}


def test_nothing_is_pinned_twice() -> None:
    named = re.findall(r"^([A-Za-z0-9._-]+)==\S+(?: *; *(.+?))? \\$", LOCK, flags=re.MULTILINE)
    pairs = [(canonicalize_name(name), marker) for name, marker in named]
    assert len(pairs) >= len(DEPENDENCIES)
    assert len(set(pairs)) == len(pairs)


def reached(names: set[str]) -> set[str]:
    """What some packages need, whatever the system or the extra.

    By what is installed; of a package for another system or Python, by the lock's own notes.
    """
    found, entries = set(), pins()
    while names:
        found |= names
        needed = set()
        for name in names:
            try:
                needed |= {canonicalize_name(Requirement(r).name) for r in requires(name) or ()}
            except PackageNotFoundError:
                note = re.compile(rf"# +(via )?{re.escape(name)}$", flags=re.MULTILINE)
                needed |= {other for other, entry in entries.items() if note.search(entry)}
        names = (needed & entries.keys()) - found
    return found


def test_every_pin_is_needed_by_a_dependency() -> None:
    direct = {canonicalize_name(Requirement(text).name) for text in DEPENDENCIES}
    assert pins().keys() - reached(direct) == set()
    assert "numpy" in reached({"scipy"})
    assert reached({"packaging"}) == {"packaging"}


def test_the_audit_reads_the_lock_that_is_installed() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    audit = re.search(r"^audit:.*\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE)[1]
    assert "pip-audit" in audit
    assert "--require-hashes" in audit
    assert "-r requirements.lock" in audit


def test_ruff_looks_for_what_is_unsafe() -> None:
    rules = tomllib.loads(PYPROJECT)["tool"]["ruff"]["lint"]
    assert "S" in rules["select"]
    assert [rule for rule in rules["ignore"] if rule.startswith("S") and rule != "S603"] == []
