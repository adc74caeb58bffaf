"""What a notebook needs to show results: figures, tables and artefacts.

A notebook draws in one style and ends by writing an :class:`~firetv.artefacts.Artefact`. What it
needs of :mod:`firetv.figures`, :mod:`firetv.plots` and :mod:`firetv.artefacts` is here as well.
"""

from __future__ import annotations

import pandas as pd

from firetv.artefacts import (
    Artefact,
    Claim,
    data_dir,
    format_interval,
    load_artefact,
    project_root,
    reports_dir,
    save_artefact,
)
from firetv.figures import (
    WIDTH,
    heading,
    label_lines,
    label_points,
    save_figure,
    use_style,
    write_figure,
)
from firetv.plots import (
    plot_friends,
    plot_front,
    plot_intervals,
    plot_lifts,
    plot_moves,
    plot_sweep,
    plot_tradeoffs,
    plot_trials,
)

__all__ = [
    "WIDTH",
    "Artefact",
    "Claim",
    "data_dir",
    "format_interval",
    "heading",
    "interval_table",
    "label_lines",
    "label_points",
    "load_artefact",
    "plot_friends",
    "plot_front",
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
