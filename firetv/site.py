"""The site around the notebooks' pages: sweeps compared, API reference, change log, cover."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from bs4 import BeautifulSoup
from nbconvert.filters import markdown2html

from firetv.artefacts import format_interval, project_root, reports_dir
from firetv.cover import Picture
from firetv.figures import png, use_style
from firetv.pages import SWEEPS, render, write_index
from firetv.plots import plot_sweep
from firetv.reference import write_reference
from firetv.sweeps import TABLE, Comparison, compare, read_table
from firetv.writing import write_whole

MOST_METRICS = 6  # of a sweep, drawn
MOST_ROWS = 40  # of a metric, shown


def write_site(folder: Path | None = None) -> Path:
    """Write all pages but those of the notebooks, which their runs write.

    Parameters
    ----------
    folder : Path, optional
        Where executed notebooks, artefacts and sweeps are; the reports by default.

    Returns
    -------
    Path
        The index page.
    """
    folder = reports_dir() if folder is None else folder
    for table in sorted(folder.glob(f"sweeps/*/{TABLE}")):
        write_comparison(table.parent)
    write_reference(folder / "api")
    write_changes(folder)
    return write_index(folder)


# Sweeps


@dataclass(frozen=True)
class Compared:
    """One metric of a sweep, as its page shows it.

    Attributes
    ----------
    metric, by : str
    rows : list of tuple of str
        Set, value of the parameter, value of the metric; best first.
    left : int
        Rows that are not shown.
    figure : Picture
    """

    metric: str
    by: str
    rows: list[tuple[str, str, str]]
    left: int
    figure: Picture


def write_comparison(sweep: Path) -> Path | None:
    """Write a sweep's page: each metric against the parameter with most values.

    Parameters
    ----------
    sweep : Path
        Folder of a sweep.

    Returns
    -------
    Path or None
        The page; None where no set has a result yet.

    Raises
    ------
    ValueError
        If there is no sweep in the folder.
    """
    table = read_table(sweep)
    metrics = table["metric"].dropna().unique().tolist()
    page = sweep / Path(SWEEPS).name
    if not metrics:
        page.unlink(missing_ok=True)
        return None
    text = render(
        "comparison.html.j2",
        name=sweep.resolve().name,
        compared=[_compared(compare(table, metric)) for metric in metrics[:MOST_METRICS]],
        left_out=metrics[MOST_METRICS:],
        failed=int(table.loc[table["status"] == "failed", "notebook"].size),
        pages=dict(_set_pages(table["notebook"].dropna().unique().tolist(), sweep)),
    )
    return write_whole(page, text)


def _compared(found: Comparison) -> Compared:
    shown = found.table.head(MOST_ROWS)
    rows = [
        (row.line, str(row.by), format_interval(row.value, row.low, row.high))
        for row in shown.itertuples(index=False)
    ]
    return Compared(found.metric, found.by, rows, len(found.table) - len(shown), _drawn(found))


def _drawn(found: Comparison) -> Picture:
    use_style()
    axes = plot_sweep(found.table, xlabel=found.by, ylabel=found.metric)
    image = base64.b64encode(png(axes.figure)).decode()
    plt.close(axes.figure)
    said = f"{found.metric} by {found.by}, with intervals"
    return Picture(image, said, said)


def _set_pages(executed: list[str], sweep: Path) -> Iterator[tuple[str, str]]:
    """Pages of the sets that have one, and the sets' names."""
    for copy in executed:
        page = Path(copy).with_suffix(".html")
        if (sweep / page).is_file():
            yield page.as_posix(), page.parent.name


# Change log


def write_changes(folder: Path) -> Path | None:
    """Write the project's ``CHANGELOG.md`` as ``changes.html``; None where there is none."""
    source, page = project_root() / "CHANGELOG.md", folder / "changes.html"
    if not source.is_file():
        page.unlink(missing_ok=True)
        return None
    text = BeautifulSoup(markdown2html(source.read_text(encoding="utf-8")), "html.parser")
    for link in text.select("a[href]"):
        path, mark, anchor = link["href"].partition("#")
        if path and ":" not in path:  # a file of the project, from where the page is
            there = os.path.relpath(source.parent / path, folder)
            link["href"] = f"{Path(there).as_posix()}{mark}{anchor}"
    return write_whole(page, render("changes.html.j2", text=str(text)))
