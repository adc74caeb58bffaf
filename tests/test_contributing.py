"""The worked examples of CONTRIBUTING.md: each patch applies, and what it says to run passes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = re.compile(r"^## (Add .+?)\n.*?^```diff\n(.*?)^```\n.*?^```sh\n(.*?)^```$", re.M | re.S)
EXAMPLES = {
    title: (patch, commands)
    for title, patch, commands in EXAMPLE.findall((ROOT / "CONTRIBUTING.md").read_text("utf-8"))
}
COPIED = ("firetv", "tests", "notebooks", "pyproject.toml", "requirements.lock", "README.md")
every_example = pytest.mark.parametrize("title", EXAMPLES)

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def test_there_is_one_for_each_kind_of_addition() -> None:
    assert list(EXAMPLES) == [
        f"Add a {kind}" for kind in ("model", "context", "group strategy", "notebook")
    ]


@every_example
def test_patches_are_short(title: str) -> None:
    assert len(EXAMPLES[title][0].splitlines()) < 40


@needs_git
@every_example
def test_patches_apply_and_what_is_to_be_run_passes(title: str, tmp_path: Path) -> None:
    patch, commands = EXAMPLES[title]
    if "movielens-100k" in patch and not (ROOT / "data" / "movielens-100k").is_dir():
        pytest.skip("MovieLens-100K is not there: `firetv data movielens-100k` fetches it")
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "data").symlink_to(ROOT / "data")
    inherited = {k: v for k, v in os.environ.items() if k != "FIRETV_REPORTS"}
    paths = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path),
        "FIRETV_ROOT": str(tmp_path),
    }
    for command, given in ((["git", "apply", "-"], patch), (["sh", "-e"], commands)):
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=inherited | paths,
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
