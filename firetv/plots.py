"""The plots that several notebooks share. How they look is :mod:`firetv.figures`'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.transforms import ScaledTranslation
from scipy import sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee

from firetv.artefacts import format_interval
from firetv.figures import LABEL, MARKS, PALETTE, STYLES, WIDTH, label_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLANK = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # behind text that lines cross
TITLE_LENGTH = 22  # characters of a title in a figure
ASIDE = 16  # points between the first and the last of many lines
MOST_MARKS = 12  # points of a line that are marked, each


def plot_intervals(
    frame: pd.DataFrame,
    *,
    label: str = "model",
    xlabel: str = "",
    reference: Mapping[str, float] | None = None,
    order: Sequence[str] | None = None,
    values: bool = True,
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
    order : sequence of str, optional
        Rows from the top, for panels that share them; a row without a value stays empty.
    values : bool
        Whether each value is written behind its interval.
    ax : Axes, optional
        Where to draw, its scale set already; by default a new figure, tall enough for the rows.

    Returns
    -------
    Axes
        The plot.
    """
    rows = frame[[label, "value", "low", "high"]].assign(measured=True)
    if reference:
        published = pd.DataFrame({label: list(reference), "value": list(reference.values())})
        rows = pd.concat([rows, published.assign(measured=False)], ignore_index=True)
    if order is None:
        rows = rows.sort_values("value", kind="stable", ignore_index=True)
    else:
        rows = rows.set_index(label).reindex(order[::-1]).reset_index(names=label)
        rows["measured"] = rows["measured"].ne(other=False)  # what is missing is not published
    if ax is None:
        ax = plt.subplots(figsize=(WIDTH, 1.4 + 0.32 * len(rows)))[1]
    ours, theirs = rows[rows["measured"]], rows[~rows["measured"]]
    for value in theirs["value"]:
        ax.axvline(value, color="0.75", linestyle=":", linewidth=1, zorder=0)
    ax.scatter(theirs["value"], theirs.index, marker="D", s=30, color="white", edgecolor="0.35")
    ax.hlines(ours.index, ours["low"], ours["high"], color="C0", linewidth=2.5, alpha=0.55)
    ax.scatter(ours["value"], ours.index, color="C0", s=42, zorder=3)
    if values:
        _write_values(ax, rows.dropna(subset="value"))
    ax.set_yticks(rows.index, rows[label])
    for tick, measured in zip(ax.yaxis.get_major_ticks(), rows["measured"], strict=True):
        tick.label1.set_color("0.15" if measured else "0.45")
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(xlabel)
    return ax


def _write_values(ax: Axes, rows: pd.DataFrame) -> None:
    """Write each row's value behind its interval, and make room for the last."""
    for row in rows.itertuples():
        text = format_interval(row.value, row.low, row.high).split(" ")[0]
        end = row.high if row.high > row.value else row.value
        offset = {"xytext": (7, 0), "textcoords": "offset points", "bbox": BLANK}
        ax.annotate(text, (end, row.Index), va="center", size=LABEL, **offset)
    right = ax.transData.inverted().transform(ax.transAxes.transform((1.08, 0)))[0]
    ax.update_datalim([(right, 0)], updatey=False)
    ax.autoscale_view()


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
        ax = plt.subplots(figsize=(WIDTH, 1.4 + 0.27 * len(attributes)))[1]
    grid = table.set_index(["attribute", "value"])
    clear = (grid["low"] > 0) | (grid["high"] < 0)
    shade = grid["log_lift"].where(clear, 0.0).unstack().loc[attributes, values]
    limit = max(0.1, float(shade.abs().max(axis=None)))
    ax.imshow(shade, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    for row, attribute in enumerate(attributes):
        for column, value in enumerate(values):
            cell = grid.loc[(attribute, value)]
            strong = abs(shade.iloc[row, column]) > 0.6 * limit
            color = ("white" if strong else "0.1") if clear[(attribute, value)] else "0.45"
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
    ax = plt.subplots(figsize=(WIDTH, 3.4))[1] if ax is None else ax
    length, ranks = int(moves["rank"].max()), moves[["before", "rank"]].astype(float)
    # Beyond the list there is one line for each title, in their order.
    beyond = length + ranks.where(ranks > length).rank(method="first")
    places = ranks.where(ranks <= length).fillna(beyond).fillna(length + 1)
    for (_, row), start, end in zip(
        moves.iterrows(), places["before"], places["rank"], strict=True
    ):
        rose = pd.notna(row["rank"]) and row["rank"] < row["before"]
        stayed = pd.notna(row["rank"]) and row["rank"] == row["before"]
        color, style = ("0.5", ":") if stayed else ("C0", "-") if rose else ("C1", "--")
        long = len(row["title"]) > TITLE_LENGTH
        title = row["title"][: TITLE_LENGTH - 1] + "…" if long else row["title"]
        ax.plot([0, 1], [start, end], color=color, linestyle=style, lw=1.5)
        ax.text(-0.06, start, f"{title}  {row['before']}", ha="right", va="center", size=9)
        if pd.notna(row["rank"]):
            ax.text(1.06, end, f"{row['rank']}  {title}", va="center", size=9, color=color)
            ax.text(2.75, end, row["reason"], va="center", size=8.5, color="0.35")
    ax.set(xlim=(-1.75, 5.3), ylim=(length + 1.6, 0.3), xticks=[0, 1], yticks=[])
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
    ax = plt.subplots(figsize=(WIDTH, 7.4))[1] if ax is None else ax
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
            size=9.5,
            color="0.15" if did[n] else "0.5",
        )
    ax.scatter(x, y, s=30 + 170 * size, c=np.where(did, "C0", "0.75"), zorder=3)
    ax.scatter(0, 0, s=260, color="C1", zorder=4)
    ax.text(0, -0.12, names[0], ha="center", va="top", size=10, weight="bold", zorder=5)
    ax.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), xticks=[], yticks=[], aspect="equal")
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
        if levels := _words(values):
            values = values.astype("str").map(levels.index)
            turn = {"rotation": 30, "ha": "right"} if len(levels) > 2 else {}
            ax.set_xticks(range(len(levels)), levels, fontsize=8, **turn)
            ax.set_xlim(-0.5, len(levels) - 0.5)
        elif _spans_decades(values):
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
    """Draw models by two metrics, and re-rankings of one of them as a line; the names are yours.

    Parameters
    ----------
    table : DataFrame
        A row for each model, a column for each metric.
    x, y : str
        Metrics.
    models : sequence of str
        At most seven, each with a mark of its own.
    lines : mapping of str to sequence of str
        Models that a line joins, by the name of the line, which stands at its last one.
    ax : Axes
        Where to draw. Names are yours: :func:`~firetv.figures.label_points`.
    """
    for number, (name, joined) in enumerate(lines.items(), start=1):
        path = table.loc[list(joined)]
        look = {"color": f"C{number}", "linestyle": STYLES[number % len(STYLES)]}
        ax.plot(path[x], path[y], marker="o", markersize=4, label=name, **look)
    for model, marker in zip(models, MARKS[1:], strict=False):
        point = table.loc[model]
        look = {"s": 46, "color": "0.25", "linewidth": 0, "zorder": 3, "label": model}
        ax.scatter(point[x], point[y], marker=marker, **look)
    ax.margins(x=0.12, y=0.12)
    ax.set(xlabel=x, ylabel=y)


def plot_front(table: pd.DataFrame, x: str, y: str, named: Sequence[str], *, ax: Axes) -> None:
    """Draw models by two metrics, more being better, and join those that none beats in both.

    Parameters
    ----------
    table : DataFrame
        A row for each model, a column for each metric.
    x, y : str
        Metrics.
    named : sequence of str
        Models with a colour, a mark and a name; all others are grey.
    ax : Axes
        Where to draw. Names are yours: :func:`~firetv.figures.label_points`.
    """
    at = table[[x, y]].to_numpy()
    beaten = (at[:, None] <= at).all(axis=2).sum(axis=1) > 1  # each is at least as good as itself
    front = table[~beaten].sort_values(x)
    ax.step(front[x], front[y], where="post", color="0.6", lw=1, zorder=0)
    ax.scatter(table[x], table[y], color="0.75", s=22)
    for number, (name, mark) in enumerate(zip(named, MARKS, strict=False)):
        look = {"color": f"C{number % len(PALETTE)}", "marker": mark, "s": 60, "label": name}
        ax.scatter(table.loc[name, x], table.loc[name, y], **look)
    ax.margins(x=0.1, y=0.1)
    ax.set(xlabel=x, ylabel=y)
    ax.locator_params(nbins=4)


def plot_sweep(
    frame: pd.DataFrame, *, xlabel: str = "", ylabel: str = "", ax: Axes | None = None
) -> Axes:
    """Draw values with their intervals against a parameter, a line for each of some models.

    Parameters
    ----------
    frame : DataFrame
        ``by`` (the parameter: numbers, levels in an order, or words, which are drawn side by side
        and not joined), ``line`` (whose value it is), ``value``, ``low`` and ``high`` (missing
        where there is no interval). Lines are drawn in the order of the rows.
    xlabel, ylabel : str
        What the parameter and the values are.
    ax : Axes, optional
        Where to draw: names are yours then, :func:`~firetv.figures.label_lines` for all panels
        at once. By default a new figure, with names.

    Returns
    -------
    Axes
        The plot. Numbers that span two decades are on a log scale.
    """
    given, frame = ax, frame.reset_index(drop=True)
    ax = plt.subplots(figsize=(WIDTH, 4.2))[1] if ax is None else ax
    lines, ordered = frame["line"].unique(), isinstance(frame["by"].dtype, pd.CategoricalDtype)
    x, words = _positions(frame["by"], ax)
    step = min(4, ASIDE / max(1, len(lines) - 1))
    for number, line in enumerate(lines):
        rows = frame[frame["line"] == line].assign(x=x).sort_values("x", kind="stable")
        # Side by side, lest the intervals of one line hide those of another.
        aside = step * (number - (len(lines) - 1) / 2) / 72
        place = ax.transData + ScaledTranslation(aside, 0, ax.figure.dpi_scale_trans)
        few, color = len(rows) <= MOST_MARKS, f"C{number % len(PALETTE)}"
        bars = {"color": color, "linewidth": 2, "alpha": 0.45, "transform": place}
        ax.vlines(rows["x"], rows["low"], rows["high"], **bars)
        look = {"linestyle": "none" if words and not ordered else STYLES[number % len(STYLES)]}
        look |= {"marker": MARKS[number % len(MARKS)], "transform": place} if few else {}
        ax.plot(rows["x"], rows["value"], color=color, label=line, **look)
        for column in ("low", "value", "high"):  # what is moved aside does not count by itself
            ax.update_datalim(rows[["x", column]].to_numpy(float))
    if not words:
        ax.margins(x=0.08)
    ax.autoscale_view()
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if given is None:
        label_lines(ax)
    return ax


def _positions(by: pd.Series, ax: Axes) -> tuple[pd.Series, bool]:
    """Where a parameter's values stand on the axis, which gets its ticks; and are they words."""
    if isinstance(by.dtype, pd.CategoricalDtype):
        levels = [str(level) for level in by.cat.categories]
    elif not (levels := _words(by)):
        if _spans_decades(by):
            ax.set_xscale("log")
        if by.nunique() <= MOST_MARKS:
            ax.set_xticks(sorted(by.unique()), [f"{value:,g}" for value in sorted(by.unique())])
            ax.minorticks_off()
        return by, False
    ax.set_xticks(range(len(levels)), levels)
    ax.set_xlim(-0.4, len(levels) - 0.6)
    return by.astype("str").map(levels.index).astype(float), True


def _words(values: pd.Series) -> list[str]:
    """Distinct values that are no numbers, in their order as words; nothing of numbers."""
    if pd.api.types.is_numeric_dtype(values) and values.dtype != bool:
        return []
    return sorted(values.astype("str").unique())


def _spans_decades(values: pd.Series) -> bool:
    """Whether numbers, all above zero, span two decades, so that a log scale shows them."""
    return bool(values.min() > 0 and values.max() >= 100 * values.min())
