from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from firetv.cli import app
from firetv.data import Tables, load, write_tables


def firetv(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_generate_writes_tables_that_load(tmp_path: Path) -> None:
    sizes = ("--users", 40, "--content", 60, "--watch-events", 500)
    result = firetv("generate", *sizes, "--seed", 3, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "500 watch events of 40 users" in result.output
    names = {path.name for path in tmp_path.iterdir()}
    assert {
        "users.csv", "content.csv", "watch_history.csv", "content_reactions.csv",
        "user_connections.csv", "groups.csv", "weather.csv", "truth.json", "manifest.json",
    } <= names  # fmt: skip
    data = load(tmp_path)
    assert data.shape == (40, 60)
    assert len(data.interactions) == 500
    kinds = json.loads((tmp_path / "manifest.json").read_text())["columns"]
    assert {kind for table in kinds.values() for kind in table.values()} == {"simulated"}


def test_check_describes_a_folder(tables: Tables, tmp_path: Path) -> None:
    write_tables(tables, tmp_path)
    result = firetv("check", tmp_path)
    assert result.exit_code == 0
    assert "watch_history            600 rows" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("check", "nowhere"), "nowhere: is not a folder"),
        (("data", "netflix"), "netflix: is not a known data set"),
        (("generate", "--users", "0"), "Invalid value"),
        (("run", "99"), "99"),
    ],
)
def test_mistakes_are_named_without_a_traceback(words: tuple[str, ...], message: str) -> None:
    result = firetv(*words)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_generate_never_overwrites_another_data_set(
    tables: Tables, tmp_path: Path, format: str
) -> None:
    write_tables(tables, tmp_path, format)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = firetv("generate", "--watch-events", 100, "--out", tmp_path)
    assert result.exit_code == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
