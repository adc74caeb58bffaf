"""Where results go, and how they look: paths, figures, tables, artefacts.

A notebook draws in one style (:func:`use_style`, :func:`plot_intervals`) and ends by writing an
:class:`Artefact`: parameters, data, results and claims in one small JSON file, from which tests,
pages and sweeps read.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from scipy import sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULT_COLUMNS = ("section", "model", "split", "metric", "value", "low", "high", "n", "seeds")
RESULT_KEY = ["section", "model", "split", "metric"]
TITLE_LENGTH = 26  # characters of a title in a figure
DATA_KEYS = ("name", "rows", "checksum")
PNG_METADATA = {"Software": None}  # names matplotlib's version: noise between two equal figures


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


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file whole or not at all, its folder included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


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
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata=PNG_METADATA)
    return write_whole(reports_dir() / "figures" / f"{name}.png", image.getvalue())


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


# Artefacts


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
    """What a notebook found, for programs to read.

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
    if problems := _artefact_problems(artefact):
        raise ValueError(f"artefact {artefact.name}:\n" + "\n".join(problems))
    document = {
        "params": dict(artefact.params),
        "data": dict(artefact.data),
        "results": artefact.results[list(RESULT_COLUMNS)].to_dict("records"),
        "claims": [asdict(claim) for claim in artefact.claims],
    }
    return write_whole(reports_dir() / f"{artefact.name}.json", _json(_plain(document)))


def _artefact_problems(artefact: Artefact) -> list[str]:
    """Say everything that is wrong with an artefact."""
    results, problems = artefact.results, []
    if not re.fullmatch(r"\d\d_\w+", artefact.name):
        problems.append("the name must be the notebook's, such as 03_lightfm_vs_implicit")
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
