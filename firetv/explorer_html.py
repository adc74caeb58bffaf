"""What the explorer shows, as HTML: semantic, readable without colours, and without a script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from jinja2 import Environment, PackageLoader, Template

from firetv.explorer_view import News, Part, Row, View


@dataclass(frozen=True)
class Segment:
    """Where a part is drawn: ``start`` and ``width`` in percent of the bar's room."""

    part: Part
    start: float
    width: float


def segments(rows: Sequence[Row]) -> tuple[float, list[list[Segment]]]:
    """Stack the parts of each row, those below zero to its left, in one scale for all rows.

    Returns
    -------
    zero : float
        Where it is, in percent.
    list of list of Segment
        By row.
    """
    values = np.array([[part.value for part in row.parts] for row in rows])
    low, high = values.clip(max=0).sum(axis=1), values.clip(min=0).sum(axis=1)
    room = max(float(high.max() - low.min()), 1e-9)
    zero = -100 * float(low.min()) / room
    return zero, [list(_stacked(row.parts, zero, room)) for row in rows]


def _stacked(parts: Sequence[Part], zero: float, room: float) -> Iterator[Segment]:
    left = right = zero
    for part in parts:
        width = 100 * abs(part.value) / room
        if part.value < 0:
            left -= width
        yield Segment(part, left if part.value < 0 else right, width)
        right += width if part.value > 0 else 0


def as_html(view: View) -> str:
    """Write a view as HTML; all text of the data is escaped."""
    zero, bars = segments(view.rows)
    return _template("explorer_list").render(view=view, zero=zero, bars=bars)


def news_html(news: News) -> str:
    """Write notifications as HTML."""
    return _template("explorer_news").render(news=news)


def style() -> str:
    """Return the style sheet of both."""
    return (resources.files("firetv") / "templates" / "explorer.css").read_text("utf-8")


@cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("firetv"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"signed": "{:+.2f}".format, "percent": "{:.0%}".format}
    return environment.get_template(f"{name}.html.j2")
