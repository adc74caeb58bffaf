"""What stands in a notebook: its question, its parameters, and, once executed, how that went."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import yaml
from nbformat import NotebookNode

from firetv.schema import brief

NUMBERED = "[0-9][0-9]_*.ipynb"
PARAMETER_TYPES = (bool, int, float, str, list, dict, type(None))  # what papermill can write


class NotebookError(RuntimeError):
    """A notebook that is unknown, was given wrong parameters, or failed while it ran."""


def read_values(path: Path) -> Any:  # noqa: ANN401
    """Read values for parameters from a YAML file.

    Raises
    ------
    OSError
        If there is no such file.
    ValueError
        If it is no YAML; in one line that names it.
    """
    text = Path(path).read_bytes()
    try:
        return yaml.safe_load(text.decode())
    except Exception as error:  # yaml's own, and of !!bool x any other
        raise ValueError(f"{path}: cannot be read as YAML: {brief(str(error))}") from error


def default_parameters(notebook: NotebookNode) -> dict[str, Any]:
    """Read names and default values from a notebook's cell tagged ``parameters``.

    Raises
    ------
    NotebookError
        If a default is not a plain number, text, list, dictionary, True, False or None.
    """
    defaults: dict[str, Any] = {}
    for cell in notebook.cells:
        if "parameters" not in cell.metadata.get("tags", ()):
            continue
        for node in ast.parse(cell.source).body:
            match node:
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=value)
                    | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
                ):
                    defaults[name] = _literal(name, value)
    return defaults


def _literal(name: str, node: ast.expr) -> Any:  # noqa: ANN401
    try:
        value = ast.literal_eval(node)
    except ValueError:
        value = node
    if not isinstance(value, PARAMETER_TYPES):
        raise NotebookError(
            f"parameter {name} = {ast.unparse(node)}: write the default out, as a number, text, "
            "list, dictionary, True, False or None"
        )
    return value


def question(notebook: NotebookNode) -> str | None:
    """Return the notebook's question: its first top heading."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+?) *$", text, flags=re.MULTILINE)
    return heading[1] if heading else None


def first_figure(notebook: NotebookNode) -> str | None:
    """Return the first PNG among the outputs, as base64."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    images = (output.get("data", {}).get("image/png") for output in outputs)
    return next((image.replace("\n", "") for image in images if image), None)


def run_seconds(notebook: NotebookNode) -> float | None:
    """Return how long an executed notebook took, by papermill's record."""
    return notebook.metadata.get("papermill", {}).get("duration")


def failure(notebook: NotebookNode) -> str | None:
    """Name the cell at which an executed notebook stopped, if it did."""
    for cell in notebook.cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        lines = cell.source.strip().splitlines()
        line = next((line for line in lines if not line.startswith("#")), lines[0])
        for output in cell.outputs:
            if output.output_type == "error":
                return f"cell [{cell.execution_count}] `{line}`: {output.ename}: {output.evalue}"
        if cell.execution_count is None:
            return f"cell `{line}` did not finish: interrupted, or its kernel ran out of memory"
    return None


def duration_text(seconds: float) -> str:
    """Write a duration for reading.

    Examples
    --------
    >>> duration_text(75.4)
    '1 min 15 s'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
