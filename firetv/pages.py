"""Pages of executed notebooks, and the index before them: files that open from disk, anywhere.

They are written with the package's own templates, for nbconvert's fetch scripts: ours stand alone,
with no script and no request. Equal input gives equal pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup, Tag
from jinja2 import Environment, PackageLoader
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from papermill.execute import ERROR_MARKER_TAG
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

import firetv
from firetv.artefacts import Claim, load_artefact
from firetv.cover import FULL, answers, headlines
from firetv.notebooks import (
    NUMBERED,
    default_parameters,
    duration_text,
    failure,
    first_figure,
    question,
    run_seconds,
)
from firetv.writing import write_whole

TEMPLATES = Path(__file__).parent / "templates"
# What may stand beside the notebooks' pages, and what the index calls it.
BESIDE = {
    "api/index.html": "API reference",
    "changes.html": "Change log",
    f"{FULL}/index.html": "The full run",
}
SWEEPS = "sweeps/*/comparison.html"


def render(template: str, **values: Any) -> str:  # noqa: ANN401
    """Fill one of the package's templates; every page gets the style of code."""
    return _environment().get_template(template).render(code_style=code_style(), **values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("firetv"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"duration": duration_text, "repr": repr}
    return environment


@cache
def code_style() -> str:
    """Return the style sheet of highlighted code, for light and dark themes."""
    light, dark = (
        HtmlFormatter(style=style).get_style_defs(".highlight")
        for style in ("default", "github-dark")
    )
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}"


# Notebooks


def write_page(executed: Path) -> Path:
    """Turn an executed notebook into one HTML page that needs nothing else.

    Parameters
    ----------
    executed : Path
        The executed notebook.

    Returns
    -------
    Path
        The page, beside it.
    """
    notebook = nbformat.read(executed, as_version=4)
    notebook.cells = [
        cell for cell in notebook.cells if ERROR_MARKER_TAG not in cell.metadata.get("tags", ())
    ]
    cells = _cells(notebook)
    text = render(
        "notebook.html.j2",
        name=executed.stem,
        title=question(notebook) or executed.stem,
        failure=failure(notebook),
        seconds=run_seconds(notebook),
        headings=[
            (heading["id"], heading.get_text().removesuffix("¶"))
            for heading in cells.select("h2[id]")
        ],
        cells=str(cells),
    )
    return write_whole(executed.with_suffix(".html"), text)


def _cells(notebook: nbformat.NotebookNode) -> BeautifulSoup:
    """A notebook's cells as HTML, with tables that can be scrolled and figures that have names."""
    config = Config()
    config.NbConvertBase.display_data_priority = [
        "text/html",
        "text/markdown",
        "image/png",
        "image/jpeg",
        "text/plain",
    ]
    exporter = HTMLExporter(
        config=config,
        extra_template_paths=[str(TEMPLATES)],
        template_file="cells.html.j2",
    )
    cells = BeautifulSoup(exporter.from_notebook_node(notebook)[0], "html.parser")
    for image in cells.select("img.figure"):
        image["alt"] = f"Figure: {_heading_of(image)}"
    for table in cells.select("table"):
        around = {"tabindex": "0", "role": "group", "aria-label": f"Table: {_heading_of(table)}"}
        table.wrap(cells.new_tag("div", attrs={"class": "scroll", **around}))
    return cells


def _heading_of(tag: Tag) -> str:
    """The text of the nearest heading above."""
    heading = tag.find_previous(["h1", "h2", "h3", "h4"])
    return heading.get_text().removesuffix("¶") if heading else "of this notebook"


# Index


@dataclass(frozen=True)
class Card:
    """What the index says about one executed notebook.

    Attributes
    ----------
    name, question : str
    answer : str or None
        HTML.
    seconds : float or None
        Of the run.
    parameters : mapping
        Those it ran with.
    failure : str or None
        Where it stopped, if it did.
    claims : sequence of Claim
    thumbnail : str or None
        A PNG, as base64.
    """

    name: str
    question: str
    answer: str | None
    seconds: float | None
    parameters: Mapping[str, Any]
    failure: str | None
    claims: Sequence[Claim]
    thumbnail: str | None

    @property
    def held(self) -> int:
        """How many claims hold."""
        return sum(claim.holds for claim in self.claims)


def write_index(folder: Path) -> Path:
    """Write ``index.html``: the headline results, and a card for each executed notebook.

    Parameters
    ----------
    folder : Path
        Executed notebooks, artefacts, figures, and whatever other pages are there to be linked.

    Returns
    -------
    Path
        The page.
    """
    said = answers(folder)
    cards = [_card(path, said.get(path.stem)) for path in sorted(folder.glob(NUMBERED))]
    page = render(
        "index.html.j2",
        about=(firetv.__doc__ or "").splitlines()[0],
        headlines=headlines(folder),
        cards=cards,
        claims=sum(len(card.claims) for card in cards),
        held=sum(card.held for card in cards),
        full_run=(folder / FULL).is_dir(),
        beside={path: text for path, text in BESIDE.items() if (folder / path).is_file()},
        sweeps={
            path.relative_to(folder).as_posix(): path.parent.name
            for path in sorted(folder.glob(SWEEPS))
        },
    )
    return write_whole(folder / "index.html", page)


def _card(executed: Path, answer: str | None) -> Card:
    notebook = nbformat.read(executed, as_version=4)
    injected = notebook.metadata.get("papermill", {}).get("parameters", {})
    stopped = failure(notebook)
    # A failed run's artefact, if there is one, is from an earlier run.
    found = stopped is None and executed.with_suffix(".json").is_file()
    return Card(
        name=executed.stem,
        question=question(notebook) or executed.stem,
        answer=markdown2html(answer) if answer and not stopped else None,
        seconds=run_seconds(notebook),
        parameters=default_parameters(notebook) | injected,
        failure=stopped,
        claims=load_artefact(executed.stem, executed.parent).claims if found else (),
        thumbnail=first_figure(notebook),
    )
