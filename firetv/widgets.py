"""Controls of the explorer: they ask :mod:`firetv.explorer`, and show what it answers.

The list is shown first. Notifications take longer, so that they follow once nobody has touched
anything for a moment, and never keep the list waiting.
"""

from __future__ import annotations

import asyncio
import html
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from time import perf_counter
from typing import Any
from zoneinfo import ZoneInfo

import ipywidgets as widgets
from IPython.display import HTML, display

from firetv.explorer import Choice, Explorer
from firetv.explorer_html import as_html, news_html, style
from firetv.group_reasons import STRATEGIES
from firetv.member_weights import WEIGHTS
from firetv.moments import NO_FESTIVAL, VALUES

UNKNOWN = ""  # for a control, None is no choice at all
STRENGTHS = {"nothing": 0.0, "half": 0.5, "normal": 1.0, "double": 2.0, "fourfold": 4.0}
QUIET = 0.3  # seconds without a change, after which notifications are looked up
# A live region must be there before its text changes: so it is the widget's own node.
LIVE = """<script>
new MutationObserver((changes, seen) => {
  const status = document.querySelector(".explorer .status");
  if (status) { status.setAttribute("role", "status"); seen.disconnect(); }
}).observe(document.documentElement, {childList: true, subtree: true});
</script>"""


@dataclass(frozen=True)
class Controls:
    """One widget for each thing that is chosen; they are reached by Tab in this order."""

    examples: widgets.Dropdown
    people: widgets.Text
    date: widgets.DatePicker
    hour: widgets.Dropdown
    weather: widgets.Dropdown
    festival: widgets.Dropdown
    companion: widgets.Dropdown
    moment: widgets.Dropdown
    friends: widgets.Dropdown
    strategy: widgets.Dropdown
    weights: Mapping[str, widgets.Checkbox]

    @classmethod
    def of(cls, choice: Choice, examples: Mapping[str, Sequence[str]], zone: str) -> Controls:
        """Make controls that say what `choice` does, in local time, to the hour."""
        said = {name: ", ".join(people) for name, people in examples.items()}
        options = [(f"{name}: {people}", people) for name, people in said.items()]
        at, current = choice.at.astimezone(ZoneInfo(zone)), ", ".join(choice.people)
        shown = current if current in said.values() else ""
        return cls(
            examples=_pick("Examples", [("choose one", ""), *options], shown),
            people=widgets.Text(
                current, description="People, by id, separated by commas", continuous_update=False
            ),
            date=widgets.DatePicker(value=at.date(), description="Date"),
            hour=_pick("Hour", [(f"{hour:02}:00", hour) for hour in range(24)], at.hour),
            weather=_pick("Weather", _known("weather"), choice.weather or UNKNOWN),
            festival=_pick("Festival", _known("festival", "by date"), choice.festival or UNKNOWN),
            companion=_pick("Company", _known("companion"), choice.companion or UNKNOWN),
            moment=_pick("Moment counts", list(STRENGTHS.items()), choice.moment),
            friends=_pick("Friends count", list(STRENGTHS.items()), choice.friends),
            strategy=_pick("A group's list by", list(STRATEGIES), choice.strategy),
            weights={
                name: widgets.Checkbox(name in choice.weights, description=name, indent=False)
                for name in WEIGHTS
            },
        )

    @property
    def all(self) -> tuple[widgets.Widget, ...]:
        """Every control, in order."""
        each = (getattr(self, name) for name in self.__dataclass_fields__ if name != "weights")
        return (*each, *self.weights.values())

    def choice(self, zone: str) -> Choice:
        """What they say, in local time.

        Raises
        ------
        ValueError
            See :class:`~firetv.explorer.Choice`; or if there is no date.
        """
        if self.date.value is None:
            raise ValueError("choose a date")
        moment = ("weather", "festival", "companion")  # a choice of nothing is a value as well
        known = {name: getattr(self, name).value or None for name in moment}
        return Choice(
            people=tuple(filter(None, map(str.strip, self.people.value.split(",")))),
            at=datetime.combine(self.date.value, time(self.hour.value), ZoneInfo(zone)),
            weights=tuple(name for name, box in self.weights.items() if box.value),
            strategy=self.strategy.value,
            moment=self.moment.value,
            friends=self.friends.value,
            **known,
        )

    def box(self) -> widgets.Box:
        """Lay them out."""
        pairs = (
            (self.hour, self.weather),
            (self.festival, self.companion),
            (self.moment, self.friends),
        )
        said = widgets.HTML("Who counts more in a group, by")
        rest = (self.strategy, said, *self.weights.values())
        paired = (_classed(widgets.Box(pair), "pair") for pair in pairs)
        shown = (self.examples, self.people, self.date, *paired, *rest)
        return _classed(widgets.Box(shown), "controls")


def explore(
    explorer: Explorer, choice: Choice, examples: Mapping[str, Sequence[str]] | None = None
) -> widgets.Widget:
    """Make the explorer: controls, the list, and notifications beside it.

    Parameters
    ----------
    explorer : Explorer
    choice : Choice
        What is shown first.
    examples : mapping of str to sequence of str, optional
        People to choose from, by what to call them.
    """
    zone = explorer.recommender.clock.zone
    controls = Controls.of(choice, examples or {}, zone)
    listed, news, status = (widgets.HTML() for _ in range(3))
    later = Later(QUIET)

    def refresh(change: object = None) -> None:
        begun = perf_counter()
        try:
            asked = controls.choice(zone)
            view = explorer.view(asked)
        except ValueError as error:
            status.value = f'<span class="wrong">{html.escape(str(error))}</span>'
            return
        if controls.examples.value != controls.people.value:
            controls.examples.value = ""  # so that the same one can be picked again
        for control in (controls.strategy, *controls.weights.values()):
            control.disabled = len(view.names) == 1
        listed.value = as_html(view)
        took = f" {1000 * (perf_counter() - begun):.0f} ms." if change else ""
        status.value = html.escape(view.headline) + took
        later(lambda: setattr(news, "value", news_html(explorer.news(asked))))

    def pick(change: Mapping[str, Any]) -> None:
        controls.people.value = change["new"] or controls.people.value

    controls.examples.observe(pick, "value")
    for control in controls.all[1:]:
        control.observe(refresh, "value")
    refresh()
    middle = widgets.Box((_classed(status, "status"), listed))
    panes = (controls.box(), _classed(middle, "listed"), _classed(news, "told"))
    return _classed(widgets.Box((_classed(widgets.Box(panes), "panes"),)), "explorer")


class Later:
    """Calls what it was given last, once it was given nothing for some seconds.

    Without an event loop, as in a test, it calls at once.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.waiting: asyncio.TimerHandle | None = None

    def __call__(self, call: Callable[[], object]) -> None:
        """Forget what was to be called, and call this instead."""
        if self.waiting is not None:
            self.waiting.cancel()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            call()
        else:
            self.waiting = loop.call_later(self.seconds, call)


def watched() -> bool:
    """Whether this kernel was started by JupyterLab or Voila, so that somebody can use controls."""
    by_voila = os.environ.get("SERVER_SOFTWARE", "").startswith("voila")
    return by_voila or "JPY_SESSION_NAME" in os.environ


def show(
    explorer: Explorer, choice: Choice, examples: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Display the explorer; where nobody could use its controls, the view of `choice` alone."""
    if watched():
        display(HTML(f"<style>{style()}</style>{LIVE}"), explore(explorer, choice, examples))
        return
    view = explorer.view(choice)
    status = f'<p class="status">{html.escape(view.headline)}</p>'
    shown = f"{status}{as_html(view)}{news_html(explorer.news(choice))}"
    display(HTML(f'<style>{style()}</style><div class="explorer">{shown}</div>'))


def _pick(label: str, options: Sequence[Any], value: object) -> widgets.Dropdown:
    return widgets.Dropdown(options=options, value=value, description=label)


def _known(name: str, unknown: str = "not known") -> list[tuple[str, str]]:
    """Values of a dimension, after that of not saying any."""
    spoken = {NO_FESTIVAL: "an ordinary day"} if name == "festival" else {}
    return [(unknown, UNKNOWN), *((spoken.get(value, value), value) for value in VALUES[name])]


def _classed(widget: widgets.Widget, name: str) -> widgets.Widget:
    widget.add_class(name)
    return widget
