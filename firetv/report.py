"""How results look: figures and tables.

A notebook draws in one style (:func:`use_style`, :func:`plot_intervals`) and ends by writing an
:class:`~firetv.artefacts.Artefact`. What it needs of :mod:`firetv.artefacts` is here as well.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from scipy import sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee

from firetv.artefacts import (
    Artefact,
    Claim,
    data_dir,
    format_interval,
    load_artefact,
    project_root,
    reports_dir,
    save_artefact,
    write_whole,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Artefact",
    "Claim",
    "data_dir",
    "format_interval",
    "interval_table",
    "load_artefact",
    "plot_friends",
    "plot_intervals",
    "plot_lifts",
    "plot_moves",
    "plot_sweep",
    "plot_tradeoffs",
    "plot_trials",
    "project_root",
    "reports_dir",
    "save_artefact",
    "save_figure",
    "use_style",
    "write_figure",
]

TITLE_LENGTH = 26  # characters of a title in a figure
PNG_METADATA = {"Software": None}  # names matplotlib's version: noise between two equal figures


# Figures and tables


def use_style() -> None:
    """Set the one style of figures and tables.

    Figures are colour-blind-safe, plain, and the same bytes on every run; tables show text whole.
    """
    pd.set_option("display.max_colwidth", None)
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette="colorblind",
        font="DejaVu Sans",  # ships with matplotlib: the same figure on every machine
        rc={
            "figure.figsize": (7.0, 4.0),
            "figure.dpi": 110,
            "savefig.dpi": 150,
            "savefig.bbox": "tight",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            "axes.titlesize": 12,
            "axes.labelsize": 11,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "legend.fontsize": 10,
            "legend.frameon": False,
        },
    )
    if get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats
        from matplotlib_inline.config import InlineBackend

        # The setting as well as the call: the backend reads it again at the first figure.
        InlineBackend.instance().print_figure_kwargs = {
            "bbox_inches": "tight",
            "metadata": PNG_METADATA,
        }
        set_matplotlib_formats("png")


def save_figure(figure: Figure, name: str) -> Path:
    """Write a figure to ``figures/NAME.png`` of the reports; equal figures give equal bytes.

    Parameters
    ----------
    figure : Figure
        The figure.
    name : str
        File name without its ending.

    Returns
    -------
    Path
        The file.
    """
    return write_figure(figure, reports_dir() / "figures" / f"{name}.png")


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a figure to any PNG file, as :func:`save_figure` does."""
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata=PNG_METADATA)
    return write_whole(path, image.getvalue())


def plot_intervals(
    frame: pd.DataFrame,
    *,
    label: str = "model",
    xlabel: str = "",
    reference: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one dot with its interval per row, the highest value on top.

    Parameters
    ----------
    frame : DataFrame
        Columns ``value``, ``low``, ``high`` (float) and the one named by `label`.
    label : str
        Column that names the rows.
    xlabel : str
        What the values are, for instance ``"nDCG@10"``.
    reference : mapping of str to float, optional
        Values to compare with, such as published ones: ranked among the rows, each an open
        diamond with a dotted line.
    ax : Axes, optional
        Where to draw; by default a new figure, tall enough for the rows.

    Returns
    -------
    Axes
        The plot.
    """
    rows = frame[[label, "value", "low", "high"]].assign(measured=True)
    if reference:
        published = pd.DataFrame({label: list(reference), "value": list(reference.values())})
        rows = pd.concat([rows, published.assign(measured=False)], ignore_index=True)
    rows = rows.sort_values("value", kind="stable", ignore_index=True)
    if ax is None:
        ax = plt.subplots(figsize=(7.0, 1.0 + 0.32 * len(rows)))[1]
    ours, theirs = rows[rows["measured"]], rows[~rows["measured"]]
    for value in theirs["value"]:
        ax.axvline(value, color="0.75", linestyle=":", linewidth=1, zorder=0)
    ax.scatter(theirs["value"], theirs.index, marker="D", s=30, color="white", edgecolor="0.35")
    ax.hlines(ours.index, ours["low"], ours["high"], color="C0", linewidth=2.5, alpha=0.55)
    ax.scatter(ours["value"], ours.index, color="C0", s=42, zorder=3)
    for row in rows.itertuples():
        text = format_interval(row.value, row.low, row.high).split(" ")[0]
        end = row.high if row.high > row.value else row.value
        ax.annotate(text, (end, row.Index), (7, 0), textcoords="offset points", va="center", size=9)
    ax.set_yticks(rows.index, rows[label])
    for tick, measured in zip(ax.get_yticklabels(), rows["measured"], strict=True):
        tick.set_color("0.15" if measured else "0.45")
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(xlabel)
    return ax


def plot_lifts(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw multipliers as a heat map of attributes by context values, each with its count.

    Parameters
    ----------
    table : DataFrame
        ``value, attribute, log_lift, low, high, n``, as :meth:`firetv.lifts.Lifts.table` gives it.
        Cells whose interval includes a multiplier of one are printed in grey and without a shade.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        The plot.
    """
    values, attributes = table["value"].unique(), table["attribute"].unique()
    if ax is None:
        size = (1.5 + 1.0 * len(values), 1.2 + 0.34 * len(attributes))
        ax = plt.subplots(figsize=size)[1]
    grid = table.set_index(["attribute", "value"])
    clear = (grid["low"] > 0) | (grid["high"] < 0)
    shade = grid["log_lift"].where(clear, 0.0).unstack().loc[attributes, values]
    limit = max(0.1, float(shade.abs().max(axis=None)))
    ax.imshow(shade, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    for row, attribute in enumerate(attributes):
        for column, value in enumerate(values):
            cell = grid.loc[(attribute, value)]
            strong = abs(shade.iloc[row, column]) > 0.6 * limit
            color = ("white" if strong else "0.1") if clear[(attribute, value)] else "0.6"
            text = f"{np.exp(cell['log_lift']):.2f} ({int(cell['n'])})"
            ax.text(column, row, text, ha="center", va="center", color=color, size=8)
    ax.set_xticks(range(len(values)), values)
    ax.set_yticks(range(len(attributes)), [name.split(":", 1)[1] for name in attributes])
    ax.tick_params(length=0)
    sns.despine(ax=ax, left=True, bottom=True)
    return ax


def plot_moves(moves: pd.DataFrame, left: str, right: str, *, ax: Axes | None = None) -> Axes:
    """Draw two lists of one person side by side, and what moved between them.

    Parameters
    ----------
    moves : DataFrame
        ``rank, before, title, reason``: ranks in the list on the right and on the left, missing
        where a title is not in it.
    left, right : str
        Names of the lists.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        The plot.
    """
    ax = plt.subplots(figsize=(10.5, 4.2))[1] if ax is None else ax
    length, ranks = int(moves["rank"].max()), moves[["before", "rank"]].astype(float)
    # Beyond the list there is one line for each title, in their order.
    beyond = length + ranks.where(ranks > length).rank(method="first")
    places = ranks.where(ranks <= length).fillna(beyond).fillna(length + 1)
    for (_, row), start, end in zip(
        moves.iterrows(), places["before"], places["rank"], strict=True
    ):
        rose = pd.notna(row["rank"]) and row["rank"] < row["before"]
        stayed = pd.notna(row["rank"]) and row["rank"] == row["before"]
        color = "0.6" if stayed else "C0" if rose else "C1"
        long = len(row["title"]) > TITLE_LENGTH
        title = row["title"][: TITLE_LENGTH - 1] + "…" if long else row["title"]
        ax.plot([0, 1], [start, end], color=color, lw=1.5, alpha=0.8)
        ax.text(-0.04, start, f"{title}  {row['before']}", ha="right", va="center", size=9)
        if pd.notna(row["rank"]):
            ax.text(1.04, end, f"{row['rank']}  {title}", va="center", size=9, color=color)
            ax.text(2.05, end, row["reason"], va="center", size=8.5, color="0.35")
    ax.set(xlim=(-1.1, 3.4), ylim=(length + 3, 0.3), xticks=[0, 1], yticks=[])
    ax.set_xticklabels([left, right], weight="bold")
    ax.tick_params(length=0, labelbottom=False, labeltop=True)
    sns.despine(ax=ax, left=True, bottom=True)
    return ax


def plot_friends(
    names: Sequence[str],
    weights: np.ndarray,
    ties: sparse.sparray,
    did: np.ndarray,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw somebody's friends in a circle around them, and who knows whom.

    Parameters
    ----------
    names : sequence of str
        Of the person in the middle, then of n friends.
    weights : float array of shape (n,)
        How much each friend counts: the size of a dot, and the width of its tie.
    ties : sparse array of shape (n, n)
        Friendships among the friends, who are put in an order that keeps these short.
    did : bool array of shape (n,)
        Who among them did what the figure is about: blue dots.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        The plot.
    """
    ax = plt.subplots(figsize=(6.5, 6.5))[1] if ax is None else ax
    order = reverse_cuthill_mckee(sparse.csr_matrix(ties + ties.T), symmetric_mode=True)
    place = np.empty(len(order))
    place[order] = np.linspace(0, 2 * np.pi, len(order), endpoint=False)
    x, y = np.cos(place), np.sin(place)
    size = weights / weights.max()
    one, other = sparse.triu(ties + ties.T).nonzero()
    ax.plot(x[[one, other]], y[[one, other]], color="0.88", lw=0.8, zorder=1)
    for n in range(len(weights)):
        ax.plot([0, x[n]], [0, y[n]], color="C0" if did[n] else "0.75", lw=2.5 * size[n], zorder=2)
        turn = np.degrees(place[n])
        left = np.cos(place[n]) < 0
        ax.text(
            1.12 * x[n],
            1.12 * y[n],
            names[n + 1],
            rotation=turn + 180 if left else turn,
            rotation_mode="anchor",
            ha="right" if left else "left",
            va="center",
            size=8,
            color="0.15" if did[n] else "0.5",
        )
    ax.scatter(x, y, s=30 + 170 * size, c=np.where(did, "C0", "0.75"), zorder=3)
    ax.scatter(0, 0, s=260, color="C1", zorder=4)
    ax.text(0, -0.12, names[0], ha="center", va="top", size=9, weight="bold", zorder=5)
    ax.set(xlim=(-1.45, 1.45), ylim=(-1.45, 1.45), xticks=[], yticks=[], aspect="equal")
    sns.despine(ax=ax, left=True, bottom=True)
    return ax


def plot_trials(
    study: Mapping[str, Any], names: Sequence[str], axes: Sequence[Axes], *, label: str = ""
) -> None:
    """Draw what every trial of a study found, over each of some hyperparameters.

    Parameters
    ----------
    study : mapping
        As :func:`firetv.packaged.study` gives it; of it, ``history`` is read.
    names : sequence of str
        Hyperparameters: numbers, which are drawn on a log scale where they span two decades, or
        words, drawn side by side.
    axes : sequence of Axes
        One for each name. Trials that found less than two thirds of the best stand at the floor.
    label : str
        Before each name, such as the model's.
    """
    trials = pd.DataFrame([t["parameters"] | {"found": t["value"]} for t in study["history"]])
    best = trials["found"].idxmax()
    most = trials["found"][best]
    found = trials["found"].clip(lower=most * 2 / 3)
    for name, ax in zip(names, axes, strict=True):
        values = trials[name]
        if values.dtype == bool or not pd.api.types.is_numeric_dtype(values):
            levels = sorted(values.astype("str").unique())
            values = values.astype("str").map(levels.index)
            ax.set_xticks(range(len(levels)), levels, fontsize=8)
            ax.set_xlim(-0.5, len(levels) - 0.5)
        elif values.min() > 0 and values.max() >= 100 * values.min():
            ax.set_xscale("log")
        ax.scatter(values, found, s=14, color="C0", alpha=0.55, linewidth=0)
        ax.scatter(values[best], most, s=90, marker="*", color="C1", zorder=3)
        ax.set_ylim(most * 0.65, most * 1.03)
        ax.set_xlabel(f"{label} {name}".strip())


def plot_tradeoffs(
    table: pd.DataFrame,
    x: str,
    y: str,
    models: Sequence[str],
    lines: Mapping[str, Sequence[str]],
    *,
    ax: Axes,
) -> None:
    """Draw models by two metrics, and re-rankings of one of them as a line; the legend is yours.

    Parameters
    ----------
    table : DataFrame
        A row for each model, a column for each metric.
    x, y : str
        Metrics.
    models : sequence of str
        At most seven, each with a mark of its own.
    lines : mapping of str to sequence of str
        Models that a line joins, by the name of the line.
    ax : Axes
    """
    for number, (name, joined) in enumerate(lines.items(), start=1):
        path = table.loc[list(joined)]
        ax.plot(path[x], path[y], color=f"C{number}", marker="o", markersize=4, label=name)
    for model, marker in zip(models, "sD^vP*X", strict=False):
        point = table.loc[model]
        ax.scatter(
            point[x],
            point[y],
            marker=marker,
            s=46,
            color="0.25",
            linewidth=0,
            zorder=3,
            label=model,
        )
    ax.margins(x=0.12, y=0.1)
    ax.set(xlabel=x, ylabel=y)


def plot_sweep(
    frame: pd.DataFrame, *, xlabel: str = "", ylabel: str = "", ax: Axes | None = None
) -> Axes:
    """Draw values with their intervals against a parameter, a line for each of some models.

    Parameters
    ----------
    frame : DataFrame
        ``by`` (the parameter: numbers, or words, which are drawn side by side), ``line`` (whose
        value it is), ``value``, ``low`` and ``high`` (missing where there is no interval).
    xlabel, ylabel : str
        What the parameter and the values are.
    ax : Axes, optional
        Where to draw. Numbers that span two decades are on a log scale.

    Returns
    -------
    Axes
        The plot, its legend beside it.
    """
    ax = plt.subplots(figsize=(7.5, 4.2))[1] if ax is None else ax
    x, lines = frame["by"], sorted(frame["line"].unique())
    words = x.dtype == bool or not pd.api.types.is_numeric_dtype(x)
    if words:
        levels = sorted(x.astype("str").unique())
        x = x.astype("str").map(levels.index)
        ax.set_xticks(range(len(levels)), levels)
    else:
        if x.min() > 0 and x.max() >= 100 * x.min():
            ax.set_xscale("log")
        ax.set_xticks(sorted(x.unique()), [f"{value:g}" for value in sorted(x.unique())])
        ax.minorticks_off()
    # Side by side, lest the intervals of one line hide those of another.
    step = 0.4 / max(1, len(lines) - 1) if words else 0
    for number, line in enumerate(lines):
        rows = frame[frame["line"] == line].assign(x=x).sort_values("x", kind="stable")
        at = rows["x"] + step * (number - (len(lines) - 1) / 2)
        color, marker = f"C{number % 10}", "osD^vP*X"[number % 8]
        ax.vlines(at, rows["low"], rows["high"], color=color, linewidth=2, alpha=0.45)
        style = "none" if words else "-"
        ax.plot(at, rows["value"], color=color, marker=marker, linestyle=style, label=line)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return ax


def interval_table(
    results: pd.DataFrame, index: str = "model", columns: str = "metric"
) -> pd.DataFrame:
    """Spread results into a table of values with their intervals, in the order of the results.

    Parameters
    ----------
    results : DataFrame
        Columns ``value``, ``low``, ``high`` and the two named next.
    index, columns : str
        Columns of `results` that become the table's rows and columns.

    Returns
    -------
    DataFrame
        Text cells such as ``"0.480 [0.471, 0.490]"``; empty where there is no result.

    Raises
    ------
    ValueError
        If two results fall into one cell.
    """
    cells = [
        format_interval(*row)
        for row in results[["value", "low", "high"]].itertuples(index=False, name=None)
    ]
    table = results[[index, columns]].assign(cell=cells)
    spread = table.pivot(index=index, columns=columns, values="cell")
    spread = spread.loc[table[index].unique(), table[columns].unique()].fillna("")
    return spread.rename_axis(index=None, columns=None)
