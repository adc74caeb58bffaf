"""How time and memory grow, as figures. The style is :func:`firetv.report.use_style`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import NullLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNITS = {  # what a unit holds, and how it is called
    "seconds": (1.0, "seconds"),
    "cpu_seconds": (1.0, "seconds of processors"),
    "extra_bytes": (1e6, "extra memory (MB)"),
    "peak_bytes": (1e6, "peak memory (MB)"),
}
LINE = 0.055  # least distance of two labels, as a share of the axis


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
        Where to draw.

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
    ax = plt.subplots(figsize=(7.5, 4.8))[1] if ax is None else ax
    unit, label = UNITS[quantity]
    lines = measured.groupby(["stage", by], sort=False)[quantity].median().unstack(0) / unit
    lines = lines.sort_index().reindex(columns=frame["stage"].unique())  # so colours stay
    ax.set(xscale="log", yscale="log", xlabel=by, ylabel=label)
    for number, stage in enumerate(lines):
        line = lines[stage].dropna()
        ax.plot(line.index, line, color=f"C{number}", marker="o", markersize=4)
    ax.set_xticks(lines.index, [f"{size:,}" for size in lines.index])
    ax.xaxis.set_minor_locator(NullLocator())
    ends = np.array([lines.index[0], lines.index[-1]], float)
    low, high = lines.min(axis=None), lines.max(axis=None)
    start = low * np.sqrt(high / low * ends[0] / ends[1])  # through the middle
    ax.plot(ends, start * ends / ends[0], color="0.6", linestyle=":", zorder=0)
    offset = {"xytext": (8, -7), "textcoords": "offset points"}
    ax.annotate("in proportion", (ends[0], start), color="0.5", size=9, **offset)
    _label(ax, lines, {} if slopes is None else _by_stage(slopes, quantity))
    return ax


def _by_stage(slopes: pd.DataFrame, quantity: str) -> dict[str, float]:
    """Exponents of one quantity, by stage."""
    rows = slopes[slopes["metric"] == f"exponent of {quantity}"]
    return dict(zip(rows["model"], rows["value"], strict=True))


def _label(ax: Axes, lines: pd.DataFrame, exponents: dict[str, float]) -> None:
    """Name each line at its end, with room between the names."""
    ax.margins(y=0.08)
    bottom, top = np.log10(ax.get_ylim())
    last = lines.ffill().iloc[-1].dropna().sort_values()
    height = (np.log10(last.to_numpy()) - bottom) / (top - bottom)
    for n in range(1, len(height)):
        height[n] = max(height[n], height[n - 1] + LINE)
    height -= max(0.0, height.max(initial=0.0) - 1)
    for stage, at in zip(last.index, height, strict=True):
        text = f"{stage}  {exponents[stage]:.2f}" if stage in exponents else stage
        color = f"C{lines.columns.get_loc(stage)}"
        ax.annotate(text, (1.02, at), xycoords="axes fraction", color=color, size=9.5, va="center")
