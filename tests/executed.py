"""Executed notebooks, made by hand: what papermill would leave, without a kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from firetv.artefacts import Artefact, Claim, write_artefact

# One grey pixel.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
CLAIMS = (
    Claim("EASE beats <chance>", True, 0.02, 0.01, 0.03),
    Claim("Random beats EASE", False, -0.02, -0.03, -0.01),
)


def write_executed(path: Path, *more: nbformat.NotebookNode) -> Path:
    """An executed notebook with prose, parameters, code, a wide table and a figure."""
    wide = pd.DataFrame(np.full((2, 30), 0.123456), index=["EASE", "Random"])
    shown = new_output("display_data", {"text/html": wide.to_html(), "text/plain": "wide"})
    drawn = new_output("display_data", {"image/png": PNG, "text/plain": "<Figure>"})
    parameters = new_code_cell("rate = 0.03\nmode = 'fast'", execution_count=1)
    parameters.metadata.tags = ["parameters"]
    cells = [
        new_markdown_cell("# Does EASE win?\n\nSee [a paper](https://example.org/paper)."),
        parameters,
        new_markdown_cell("## Result\n\n" + "Prose that goes on.\n\n" * 40),
        new_code_cell("show(wide)", execution_count=2, outputs=[shown, drawn]),
        new_markdown_cell("### By segment\n\n| segment | value |\n|---|---|\n| old | 1 |"),
        new_markdown_cell("## What we learned\n\nThat it does."),
        *more,
    ]
    record = {"papermill": {"parameters": {"mode": "007"}, "duration": 75.4}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata=record), path)
    return path


def write_found(
    path: Path,
    rows: pd.DataFrame | None = None,
    claims: Sequence = CLAIMS,
    params: Mapping = {"seeds": [0], "k": 10},
) -> Path:
    """An artefact; its results are of two models unless told."""
    if rows is None:
        rows = pd.DataFrame({"model": ["EASE", "Random"], "split": "random", "value": [0.2, 0.1]})
    rest = {"section": "toy", "metric": "ndcg@10", "low": 0.0, "high": 1.0, "n": 7, "seeds": 1}
    results = rows.assign(**{name: rest[name] for name in rest if name not in rows})
    data = {"name": "toy", "rows": 2, "checksum": "0"}
    return write_artefact(Artefact(path.stem, dict(params), data, results, list(claims)), path)
