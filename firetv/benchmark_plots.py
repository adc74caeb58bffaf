"""How time and memory grow, as figures. How they look is :mod:`firetv.figures`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import NullLocator

from firetv.figures import MARKS, STYLES, WIDTH, label_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNITS = {  # what a unit holds, and how it is called
    "seconds": (1.0, "seconds"),
    "cpu_seconds": (1.0, "seconds of processors"),
    "extra_bytes": (1e6, "extra memory (MB)"),
    "peak_bytes": (1e6, "peak memory (MB)"),
}


def plot_growth(
    frame: pd.DataFrame,
    by: str,
    quantity: str = "seconds",
    slopes: pd.DataFrame | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw what each stage takes as data grow, both axes logarithmic, beside proportional growth.

    Parameters
    ----------
    frame : DataFrame
        ``stage``, the columns `by` and `quantity`, as :func:`firetv.growth.grid` gives them; of
        several measurements at one size the median is drawn.
    by : {"users", "items", "events"}
        What grows.
    quantity : {"seconds", "cpu_seconds", "extra_bytes", "peak_bytes"}
    slopes : DataFrame, optional
        ``model, metric, value`` as :func:`firetv.growth.exponents` gives them: the exponent
        stands behind the name of its stage.
    ax : Axes, optional
        Where to draw: names are yours then, :func:`~firetv.figures.label_lines` for all panels
        at once. By default a new figure, with names.

    Returns
    -------
    Axes
        The plot; a title is yours.

    Raises
    ------
    ValueError
        If nothing was measured.
    """
    measured = frame[frame[quantity] > 0]  # NaN where memory is unknown
    if measured.empty:
        raise ValueError(f"no {quantity} above zero: memory is measured on Linux only")
    given, ax = ax, plt.subplots(figsize=(WIDTH, 4.8))[1] if ax is None else ax
    unit, label = UNITS[quantity]
    lines = measured.groupby(["stage", by], sort=False)[quantity].median().unstack(0) / unit
    lines = lines.sort_index().reindex(columns=frame["stage"].unique())  # so colours stay
    ax.set(xscale="log", yscale="log", xlabel=by, ylabel=label)
    known = {} if slopes is None else _by_stage(slopes, quantity)
    for number, stage in enumerate(lines):
        line = lines[stage].dropna()
        name = f"{stage}  {known[stage]:.2f}" if stage in known else stage
        look = {"color": f"C{number}", "linestyle": STYLES[number % len(STYLES)]}
        ax.plot(line.index, line, marker=MARKS[number % len(MARKS)], label=name, **look)
    ax.set_xticks(lines.index, [f"{size:,}" for size in lines.index])
    ax.xaxis.set_minor_locator(NullLocator())
    ends = np.array([lines.index[0], lines.index[-1]], float)
    low, high = lines.min(axis=None), lines.max(axis=None)
    start = low * np.sqrt(high / low * ends[0] / ends[1])  # through the middle
    look = {"color": "0.45", "linestyle": ":", "zorder": 0, "label": "in proportion"}
    ax.plot(ends, start * ends / ends[0], **look)
    if given is None:
        label_lines(ax)
    return ax


def _by_stage(slopes: pd.DataFrame, quantity: str) -> dict[str, float]:
    """Exponents of one quantity, by stage."""
    rows = slopes[slopes["metric"] == f"exponent of {quantity}"]
    return dict(zip(rows["model"], rows["value"], strict=True))
