"""Results as files: where they go, and artefacts, from which tests, pages and sweeps read.

An :class:`Artefact` holds parameters, data, results and claims in one small JSON file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from firetv.writing import write_whole

RESULT_COLUMNS = ("section", "model", "split", "metric", "value", "low", "high", "n", "seeds")
RESULT_KEY = ["section", "model", "split", "metric"]
DATA_KEYS = ("name", "rows", "checksum")


# Paths


def project_root() -> Path:
    """Find the project's folder, wherever in it a notebook or command happens to run.

    Returns
    -------
    Path
        ``FIRETV_ROOT`` if set, else the nearest folder, from the current one upwards, that has
        ``pyproject.toml`` and ``notebooks/``, else the current folder.
    """
    if root := os.environ.get("FIRETV_ROOT"):
        return Path(root).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return here


def data_dir() -> Path:
    """Return the folder of the prepared data sets."""
    return project_root() / "data"


def reports_dir() -> Path:
    """Return the folder of artefacts, figures and pages.

    Returns
    -------
    Path
        ``FIRETV_REPORTS`` (a relative path counts from the project's root), else ``reports``.
    """
    return project_root() / (os.environ.get("FIRETV_REPORTS") or "reports")


# Artefacts


def format_interval(value: float, low: float | None = None, high: float | None = None) -> str:
    """Write a value and its interval: three decimals below ten, then fewer.

    Without an interval the value has three significant digits.

    Examples
    --------
    >>> format_interval(0.48013, 0.4713, 0.4899)
    '0.480 [0.471, 0.490]'
    >>> format_interval(106.28, 99.84, 112.94)
    '106 [100, 113]'
    >>> format_interval(0.0312)
    '0.0312'
    >>> format_interval(100_000)
    '100,000'
    """
    value, low, high = (_plain(number) for number in (value, low, high))  # as artefacts keep them
    if pd.isna(low) or pd.isna(high):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    decimals = 3 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{decimals}f} [{low:,.{decimals}f}, {high:,.{decimals}f}]"


@dataclass(frozen=True)
class Claim:
    """A sentence that the results confirm or refute, with the number it rests on.

    Attributes
    ----------
    text : str
        What is claimed.
    holds : bool
        Whether the results bear it out.
    value, low, high : float or None
        The number and its 95 % interval; None where there is none.

    Examples
    --------
    >>> print(Claim("the hybrid beats popularity", True, 0.0312, 0.0251, 0.0373))
    Holds: the hybrid beats popularity (0.031 [0.025, 0.037])
    """

    text: str
    holds: bool
    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def clear(self) -> bool:
        """Whether both ends of the interval stay clear of zero, by a seventh of its width.

        Two builds of a library differ in the last digits; a closer verdict may turn between them.
        """
        if self.low is None or self.high is None:
            return True
        return min(abs(self.low), abs(self.high)) * 7 > self.high - self.low

    @property
    def interval(self) -> str:
        """The value and its interval as text; empty where there is no value."""
        return "" if self.value is None else format_interval(self.value, self.low, self.high)

    def __str__(self) -> str:
        number = f" ({self.interval})" if self.interval else ""
        return f"{'Holds' if self.holds else 'Does not hold'}: {self.text}{number}"


@dataclass(frozen=True)
class Artefact:
    """What a notebook or a command found, for programs to read.

    Attributes
    ----------
    name : str
        The notebook's name, such as ``"03_lightfm_vs_implicit"``.
    params : mapping
        The parameters it ran with.
    data : mapping
        ``name``, ``rows`` and ``checksum`` of the data set.
    results : DataFrame
        Columns ``section, model, split, metric`` (text, together unique), ``value, low, high``
        (float; the interval may be missing), ``n`` (sample size) and ``seeds`` (their number).
    claims : sequence of Claim
        What follows from the results.
    """

    name: str
    params: Mapping[str, Any]
    data: Mapping[str, Any]
    results: pd.DataFrame
    claims: Sequence[Claim]


def save_artefact(artefact: Artefact) -> Path:
    """Check an artefact and write it to ``NAME.json`` of the reports, whole or not at all.

    Floats keep six significant digits and each result has a line of its own, so that a rerun
    changes few lines.

    Parameters
    ----------
    artefact : Artefact
        What the notebook found.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If the name, the data's keys or the results do not fit; all problems in one message.
    """
    named = re.fullmatch(r"\d\d_\w+", artefact.name)
    problem = "the name must be the notebook's, such as 03_lightfm_vs_implicit"
    path = reports_dir() / f"{artefact.name}.json"
    return _write(artefact, path, [] if named else [problem])


def write_artefact(artefact: Artefact, path: Path) -> Path:
    """Check an artefact and write it to any file, as :func:`save_artefact` does.

    Raises
    ------
    ValueError
        If the data's keys or the results do not fit; all problems in one message.
    """
    return _write(artefact, path, [])


def _write(artefact: Artefact, path: Path, problems: Sequence[str]) -> Path:
    if problems := [*problems, *_artefact_problems(artefact)]:
        raise ValueError(f"artefact {artefact.name}:\n" + "\n".join(problems))
    document = {
        "params": dict(artefact.params),
        "data": dict(artefact.data),
        "results": artefact.results[list(RESULT_COLUMNS)].to_dict("records"),
        "claims": [asdict(claim) for claim in artefact.claims],
    }
    return write_whole(path, _json(_plain(document)))


def _artefact_problems(artefact: Artefact) -> list[str]:
    """Say everything that is wrong with an artefact."""
    results, problems = artefact.results, []
    if set(artefact.data) != set(DATA_KEYS):
        problems.append(f"data must have the keys {', '.join(DATA_KEYS)}, not {[*artefact.data]}")
    if set(results.columns) != set(RESULT_COLUMNS):
        missing = sorted(set(RESULT_COLUMNS) - set(results.columns)) or "none"
        unknown = sorted(set(results.columns) - set(RESULT_COLUMNS)) or "none"
        return [*problems, f"results: missing columns {missing}, unknown columns {unknown}"]
    for column in ("value", "low", "high", "n", "seeds"):
        if not pd.api.types.is_numeric_dtype(results[column].dropna().infer_objects()):
            return [*problems, f"results: column {column} must be numeric"]
    checks = {
        "repeating another's section, model, split and metric": results.duplicated(RESULT_KEY),
        "without a text, value, n or seeds": (
            results[[*RESULT_KEY, "value", "n", "seeds"]].isna().any(axis=1)
        ),
        "with low above high": results["low"] > results["high"],
    }
    return problems + [
        f"results: {bad.sum()} row{'s' if bad.sum() > 1 else ''} {what}, first:\n"
        f"{results[bad].head(1).to_string()}"
        for what, bad in checks.items()
        if bad.any()
    ]


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Reduce a value to what JSON knows, floats to six significant digits."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is pd.NA:
        return None
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value


def _json(document: Mapping[str, Any]) -> str:
    """Write a document with one line for each entry of its lists of results and claims."""
    parts = []
    for key, value in document.items():
        if isinstance(value, list) and value:
            lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in value)
            text = f"[\n{lines}\n ]"
        else:
            text = json.dumps(value, ensure_ascii=False)
        parts.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def load_artefact(name: str, folder: Path | None = None) -> Artefact:
    """Read an artefact back.

    Parameters
    ----------
    name : str
        The notebook's name.
    folder : Path, optional
        Where to look; by default the reports.

    Returns
    -------
    Artefact
        What :func:`save_artefact` wrote.

    Raises
    ------
    FileNotFoundError
        If the notebook has not run.
    """
    path = (folder or reports_dir()) / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Run its notebook: firetv run {name}")
    document = json.loads(path.read_text(encoding="utf-8"))
    results = pd.DataFrame(document["results"], columns=list(RESULT_COLUMNS))
    return Artefact(
        name=name,
        params=document["params"],
        data=document["data"],
        results=results.astype(dict.fromkeys(("value", "low", "high"), "float64")),
        claims=[Claim(**claim) for claim in document["claims"]],
    )
