"""How figures look: one style, one heading, and names beside what they name.

A figure is as wide as a page (:data:`WIDTH`), so that text keeps its size in all of them. It is
made by ``plt.subplots``, gets a :func:`heading`, then its plots, and last the names of lines and
points (:func:`label_lines`, :func:`label_points`), which are kept apart as they will be printed.
Colours never stand alone: a name, a mark or a line style says the same.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from scipy.optimize import isotonic_regression

from firetv.artefacts import reports_dir
from firetv.writing import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.typing import ColorType

WIDTH = 8.0  # inches of every figure
# Apart for the colour-blind too, and dark enough on white to write with: a contrast of 4.5.
PALETTE = ("#0173b2", "#bf4b00", "#7a1f52", "#7a52f0", "#332288", "#5b3a1a", "#222222", "#767676")
MARKS = "osD^vP*X"
STYLES = ("-", "--", "-.", ":")
TITLE = {"size": 13.0, "weight": "bold", "color": "0.1"}
SUBTITLE = {"size": 9.5, "weight": "normal", "color": "0.35"}
LABEL = 9.5  # points: size of a name beside a line or point
HALO = [withStroke(linewidth=3, foreground="white")]  # so that text is read where lines cross it
PNG_METADATA = {"Software": None}  # names matplotlib's version: noise between two equal figures
LEADER = {"arrowstyle": "-", "lw": 0.7, "alpha": 0.6, "shrinkA": 1, "shrinkB": 3}
NEAR = 8  # points: a name further from its point has a line to it
# Where a name may stand around its point, the first that is free: offset in points, alignment.
AROUND = tuple(
    ((x * reach, y * reach), ha, va)
    for reach in (6, 18, 32, 48)
    for x, y, ha, va in (
        (1.2, 0, "left", "center"),
        (-1.2, 0, "right", "center"),
        (0, 1, "center", "bottom"),
        (0, -1, "center", "top"),
        (1, 1, "left", "bottom"),
        (1, -1, "left", "top"),
        (-1, 1, "right", "bottom"),
        (-1, -1, "right", "top"),
    )
)


# Style


def use_style() -> None:
    """Set the one style of figures and tables.

    Figures are colour-blind-safe, plain, and the same bytes on every run; tables show text whole.
    """
    pd.set_option("display.max_colwidth", None)
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette=PALETTE,
        font="DejaVu Sans",  # ships with matplotlib: the same figure on every machine
        rc={
            "figure.figsize": (WIDTH, 4.0),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "savefig.dpi": 150,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.titlesize": 11,
            "axes.labelsize": 10.5,
            "axes.linewidth": 1.0,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "lines.linewidth": 1.6,
            "lines.markersize": 5.5,
        },
    )
    if get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats
        from matplotlib_inline.config import InlineBackend

        # The setting as well as the call: the backend reads it again at the first figure.
        InlineBackend.instance().print_figure_kwargs = {
            "bbox_inches": None,
            "metadata": PNG_METADATA,
        }
        set_matplotlib_formats("png")


def heading(figure: Figure, title: str, subtitle: str = "") -> None:
    """Put a title and a small line below it above all panels, and make room for them.

    Parameters
    ----------
    figure : Figure
        Before its lines and points are named, since panels shrink.
    title : str
        What is seen: a finding, or a plain statement. Broken where it is too long.
    subtitle : str
        Data, split, seeds, number of people, kind of interval; and what is simulated.
    """
    width, height = figure.get_size_inches()
    at = 6.0  # points from the top
    for text, look in ((title, TITLE), (subtitle, SUBTITLE)):
        for line in _lines(figure, text, figure.dpi * (width - 16 / 72), look):
            figure.text(4 / 72 / width, 1 - at / 72 / height, line, va="top", **look)
            at += 1.35 * look["size"]
    room = (at + 5) / 72 / height
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - room), h_pad=0.07, hspace=0.04)


def _lines(figure: Figure, text: str, width: float, look: Mapping[str, Any]) -> list[str]:
    """Break a text into lines of at most a width in pixels."""
    sample, lines = figure.text(0, 0, "", **look), []
    for word in text.split():
        sample.set_text(f"{lines[-1]} {word}" if lines else word)
        if lines and sample.get_window_extent().width <= width:
            lines[-1] = sample.get_text()
        else:
            lines.append(word)
    sample.remove()
    return lines


# Names beside what they name


def spread(targets: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Move numbers as little as possible so that no two are nearer than a gap.

    Parameters
    ----------
    targets : sequence of n float
        Where they would like to be.
    gap : float
        Least distance.
    low, high : float
        Bounds; if there is no room for all, the gap is kept and `high` is not.

    Returns
    -------
    float array of shape (n,)
        The least sum of squared moves: an isotonic regression of the targets less their gaps.
    """
    order = np.argsort(targets, kind="stable")
    gaps = gap * np.arange(len(order))
    if not len(order):
        return gaps
    free = isotonic_regression(np.asarray(targets, float)[order] - gaps).x
    places = np.empty(len(order))
    places[order] = gaps + free.clip(low, max(low, high - gaps[-1]))
    return places


def label_lines(*axes: Axes) -> None:
    """Write the label of each line at its right end, in its colour, and none over another.

    Do so last, and for all panels of a figure at once: their height decides how far labels are
    moved. Lines without a label of their own get none.
    """
    _lay_out(axes)
    for ax in axes:
        lines, box = [(line, _rightmost(ax, at)) for line, at in _named(ax)], ax.get_window_extent()
        gap = 1.3 * LABEL / 72 * ax.figure.dpi / box.height
        heights = [(ax.transData.transform(end)[1] - box.y0) / box.height for _, end in lines]
        for (line, end), at in zip(lines, spread(heights, gap), strict=True):
            color = line.get_color()
            leader = LEADER | {"color": color, "shrinkB": 4, "relpos": (0, 0.5)}
            place = {"xytext": (1.04, at), "textcoords": "axes fraction", "va": "center"}
            place["xycoords"] = line.get_transform()  # which may move a line aside
            ax.annotate(line.get_label(), end, size=LABEL, color=color, arrowprops=leader, **place)


def label_points(*axes: Axes) -> None:
    """Write the label of each point beside it, where it covers neither marks, lines nor names.

    Do so last, and for all panels of a figure at once. A point is a scatter of one with a label of
    its own, or the last of a line that has one. A name for which there is no such place gets the
    one that covers least; one that stands further away gets a line to its point.
    """
    _lay_out(axes)
    for ax in axes:
        points = [
            (c.get_label(), c.get_offsets()[-1], c.get_facecolor()[0])
            for c in ax.collections
            if not c.get_label().startswith("_") and len(c.get_offsets())
        ]
        points += [(line.get_label(), at[-1], line.get_color()) for line, at in _named(ax)]
        half, names = 4 / 72 * ax.figure.dpi, []
        marks = [Bbox([spot - half, spot + half]) for spot in _marked(ax)]
        for name, point, color in points:
            names.append(_beside(ax, name, point, color, marks, names))


def _lay_out(axes: Sequence[Axes]) -> None:
    """Give panels their final sizes."""
    for figure in {ax.figure: None for ax in axes}:
        figure.draw_without_rendering()


def _named(ax: Axes) -> list[tuple[Line2D, np.ndarray]]:
    """Lines that have a label, each with its points that have a value: shape (n, 2)."""
    named = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
    points = [line.get_xydata() for line in named]
    known = [each[np.isfinite(each[:, 1])] for each in points]
    return [(line, each) for line, each in zip(named, known, strict=True) if len(each)]


def _rightmost(ax: Axes, points: np.ndarray) -> np.ndarray:
    """Return the point furthest to the right, whichever way the axis goes; of equals the last."""
    return points[::-1][ax.transData.transform(points)[::-1, 0].argmax()]


def _marked(ax: Axes) -> np.ndarray:
    """Where there is a mark or a piece of a line, in pixels: shape (n, 2)."""
    spots = [np.empty((0, 2))]
    spots += [c.get_offset_transform().transform(c.get_offsets()) for c in ax.collections]
    for line in ax.get_lines():
        at = line.get_transform().transform(line.get_xydata())
        steps = np.linspace(0, 1, 25)[:, None, None]
        spots += [at, (at[:-1] + steps * (at[1:] - at[:-1])).reshape(-1, 2)]
    return np.concatenate(spots)


def _beside(
    ax: Axes,
    name: str,
    point: np.ndarray,
    color: ColorType,
    marks: Sequence[Bbox],
    names: Sequence[Bbox],
) -> Bbox:
    """Write one name where it covers least, and return where it stands."""
    text = ax.annotate(name, point, (0, 0), textcoords="offset points", size=LABEL)
    frame, covered = ax.get_window_extent(), []
    for offset, ha, va in AROUND:
        text.set(position=offset, ha=ha, va=va)
        box = text.get_window_extent()
        inside = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 < box.y1 < frame.y1
        worst = box.count_overlaps(names) + (not inside)  # worse than a mark or a line
        covered.append(box.count_overlaps(marks) + 10 * worst)
    text.remove()
    offset, ha, va = AROUND[int(np.argmin(covered))]
    far = LEADER | {"color": color} if max(map(abs, offset)) > NEAR else None
    look = {"size": LABEL, "color": color, "arrowprops": far, "path_effects": HALO}
    text = ax.annotate(name, point, offset, textcoords="offset points", ha=ha, va=va, **look)
    return text.get_window_extent()


# Files


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
    return write_whole(path, png(figure))


def png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file."""
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata=PNG_METADATA)
    return image.getvalue()
