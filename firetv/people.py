"""Commands that answer for people: what moves a list, what friends watched, a list for a group."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from zoneinfo import ZoneInfo

import typer

from firetv.options import (
    AsJson,
    Companion,
    Country,
    Date,
    Festival,
    Folder,
    Length,
    Seed,
    Time,
    Weather,
    Zone,
    code_of,
    folder_of,
    instant_of,
    plain_errors,
)

if TYPE_CHECKING:
    import pandas as pd

    from firetv.data import Dataset
    from firetv.slate import Stage, Step

app = typer.Typer()

NEWS = 7.0  # days after which what a friend watched counts half


@app.command()
def context(
    user: Annotated[str, typer.Option(help="Whose list, such as user123.")],
    time: Time = None,
    date: Date = None,
    zone: Zone = "UTC",
    country: Country = None,
    weather: Weather = None,
    festival: Festival = None,
    companion: Companion = None,
    place: Annotated[
        str | None, typer.Option(metavar="LAT,LON", help="Asks Open-Meteo for its weather.")
    ] = None,
    k: Length = 10,
    mode: Annotated[str, typer.Option(help="off, rules, learned or rules+learned.")] = "rules",
    strength: Annotated[
        float | None, typer.Option(help="Of the context; 1 for rules, else learned by default.")
    ] = None,
    rules: Annotated[Path | None, typer.Option(help="A YAML file that overrides rules.")] = None,
    data: Folder = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Show what a moment moves in somebody's list, and why; only what is given is known of it."""
    from firetv.context import ContextBoost
    from firetv.data import load
    from firetv.models import LightFM
    from firetv.moments import Clock, Context
    from firetv.moves import (
        as_text,
        before_and_after,
        caveats,
        forget,
        headline,
        moves,
        stillness,
    )
    from firetv.rules import read_rules

    with plain_errors(ValueError):
        if all(given is None for given in (time, date, weather, festival, companion, place)):
            names = "--time, --date, --weather, --festival, --companion or --place"
            raise ValueError(f"nothing is known of the moment: give {names}")
        clock = Clock(zone=zone, country=country)
        moment = Context(instant_of(time, date, zone), weather, festival, companion)
        if strength is None and mode == "rules":
            strength = 1.0
        boost = ContextBoost(
            mode, strength=strength, rules=read_rules(rules), clock=clock, seed=seed
        )
        if place is not None and weather is None:
            moment = replace(moment, weather=_weather(place, date or datetime.now(ZoneInfo(zone))))
        dataset = load(folder_of(data))
        request = moment.requests(code_of(user, dataset.user_ids, "users"))
        request = forget(request, hour=time is None, day=date is None)
        before, after, step = before_and_after(LightFM(seed=seed), boost, dataset, request)
        moved = moves(before, after, step, dataset, k)
        for caveat in caveats(after, step, dataset):
            typer.echo(caveat, err=True)
        if as_json:
            typer.echo(moved.to_json(orient="records", force_ascii=False, indent=2))
        else:
            still = stillness(moved, boost, step)
            typer.echo(
                "\n\n".join(filter(None, (headline(request, boost, step), as_text(moved), still)))
            )


@app.command()
def notifications(
    user: Annotated[list[str], typer.Option(help="For whom, such as user123; may be repeated.")],
    since: Annotated[
        str | None, typer.Option(help="Only what friends did from this date or time on.")
    ] = None,
    now: Annotated[
        str | None, typer.Option(help="Date or time; just after the last event by default.")
    ] = None,
    zone: Annotated[
        str, typer.Option(help="IANA name of the time zone: of quiet hours, and of times given.")
    ] = "UTC",
    per_day: Annotated[
        int, typer.Option("--per-day", "--k", min=1, help="Most for one person in a day.")
    ] = 3,
    data: Folder = None,
    log: Annotated[
        Path | None, typer.Option(help="What was sent; beside the data by default.")
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show what would be sent, and record nothing.")
    ] = False,
    dismiss: Annotated[
        str | None, typer.Option(metavar="CONTENT_ID", help="Say that this one is not wanted.")
    ] = None,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> None:
    """Tell people what their friends watched, finished or loved, each title once."""
    import numpy as np

    from firetv.data import load
    from firetv.delivery import DeliveryLog, json_lines, table
    from firetv.models import EASE
    from firetv.moments import Clock
    from firetv.notifications import QUIET, Policy, deliver, notify

    with plain_errors(ValueError):
        if preview and dismiss is not None:
            raise ValueError("--preview records nothing, and --dismiss does: leave one out")
        clock, policy = Clock(zone=zone), Policy(per_day=per_day)
        start, moment = _time(since, zone), _time(now, zone)
        folder = folder_of(data)
        dataset = load(folder)
        users = np.concatenate([code_of(name, dataset.user_ids, "users") for name in user])
        if dismiss is not None:
            code_of(dismiss, dataset.item_ids, "titles")
        path = log or folder / "notifications.sqlite"
        with DeliveryLog.preview(path) if preview else DeliveryLog(path) as deliveries:
            if dismiss is not None:
                for name in user:
                    deliveries.dismiss(name, dismiss)
                typer.echo(f"{dismiss} will not be sent to {', '.join(user)}")
                return
            past, moment = _before(dataset, moment)
            step, interest = _steps(EASE(), past, seed)
            found = notify(
                past, step, interest, users, moment, start, policy, deliveries, clock=clock
            )
            deliver(found, (json_lines if as_json else table)(sys.stdout), deliveries)
        caveat = _friends_caveat(dataset)
        if caveat:
            typer.echo(caveat, err=True)
        for name in dict.fromkeys(user):
            typer.echo(f"{f'{name}: ' * (users.size > 1)}{found.of(name)}", err=True)
        if found.dropped["reason"].eq(QUIET).any():
            local = moment.tz_convert(zone)
            typer.echo(f"It is {local:%H:%M} in {zone}: try another --now, or --zone.", err=True)


@app.command()
def group(
    users: Annotated[
        str | None, typer.Option(metavar="ID,ID,...", help="Who is there, such as user123,user456.")
    ] = None,
    group_id: Annotated[
        str | None, typer.Option("--group", help="A group of the data, instead of --users.")
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(
            help="average, multiplicative, least-misery, most-pleasure, average-without-misery, "
            "borda, copeland, approval, plurality, turns, greedy-least-misery, spgreedy, "
            "efgreedy, gfar, ep-fuzzda, xpo, npo or nash."
        ),
    ] = "nash",
    weights: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Who counts more: by activity, expertise, likeness."),
    ] = None,
    satisfaction: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,...",
            help="What each got before, of 0..1 or empty: whoever got less counts more.",
        ),
    ] = None,
    presence: Annotated[
        str | None,
        typer.Option(metavar="X,Y,...", help="Part of the evening that each is there, of 0..1."),
    ] = None,
    unseen: Annotated[
        Literal["all", "some", "off"],
        typer.Option(help="Titles must be new to all, to some, or need not be."),
    ] = "all",
    kids: Annotated[
        bool, typer.Option("--kids", help="Only titles for children, if a child is there.")
    ] = False,
    k: Length = 10,
    time: Time = None,
    date: Date = None,
    zone: Zone = "UTC",
    country: Country = None,
    weather: Weather = None,
    festival: Festival = None,
    companion: Companion = None,
    data: Folder = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Make one list for several people, and say for whom each title is."""
    import numpy as np

    from firetv.context import ContextBoost
    from firetv.data import load
    from firetv.group_reasons import STRATEGIES, as_text, names_of, records, table
    from firetv.groups import ForGroups
    from firetv.member_weights import Suitability, factors_of
    from firetv.models import LightFM
    from firetv.moments import Clock, Context
    from firetv.moves import forget, headline
    from firetv.panels import GUEST
    from firetv.schema import one_of
    from firetv.slate import EMPTY, Slate, chain

    with plain_errors(ValueError):
        if (users is None) == (group_id is None):
            raise ValueError("say who is there: give --users or --group, one of both")
        known = any(given is not None for given in (time, date, weather, festival, companion))
        clock = Clock(zone=zone, country=country)
        boost = ContextBoost("rules", strength=1.0, clock=clock) if known else None
        stage = ForGroups(
            chain(LightFM(), boost) if boost else LightFM(),
            one_of(strategy, STRATEGIES, "strategies"),
            weights=factors_of(
                _listed(weights or ""),
                satisfaction=satisfaction is not None,
                presence=presence is not None,
            ),
            suitability=Suitability() if kids else None,
            unseen=unseen,
            k=k,
            seed=seed,
        )
        moment = Context(instant_of(time, date, zone), weather, festival, companion)
        dataset = load(folder_of(data))
        people = _people(users, group_id, dataset)
        request = moment.requests(np.array([GUEST])).drop(columns="user").assign(members=[people])
        request = request.assign(**_known_of(people, satisfaction, presence))
        request = forget(request, hour=time is None, day=date is None)
        step = stage.fit(dataset)
        slate = Slate(request, np.flatnonzero(dataset.item_counts))
        lists = step(slate)
        if (lists.items == EMPTY).all():
            raise ValueError(f"no title is left to show{_wider(unseen, kids)}")
        views = step.views(slate, lists)
        there = views.drop_duplicates("member")["user"].to_numpy()
        told = table(lists, views, names_of(dataset, there), dataset, stage.strategy)
        if kids and not step.suitable.child[there].any():
            typer.echo("nobody here is known to be a child: --kids changes nothing", err=True)
        if as_json:
            rows = records(told, lists, views, dataset)
            typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        else:
            words = headline(request, boost, _last(step.member)) if boost else ""
            typer.echo(as_text(told, views, strategy, words, unseen))


def _last(step: Step) -> Step:
    """The last of the steps that a pipeline is made of."""
    from firetv.slate import Pipeline

    return _last(step.steps[-1]) if isinstance(step, Pipeline) else step


def _wider(unseen: str, kids: bool) -> str:
    """What to try for more titles."""
    wider = {"all": "--unseen some", "some": "--unseen off"}.get(unseen)
    options = " or ".join(filter(None, (wider, "to leave out --kids" if kids else None)))
    return f": try {options}" if options else ""


def _listed(text: str) -> list[str]:
    """Names between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _people(users: str | None, group_id: str | None, dataset: Dataset) -> tuple[int, ...]:
    """Codes of the users named, or of those of a group, also if they are there twice."""
    import pandas as pd

    from firetv.panels import LARGEST

    if group_id is None:
        names = _listed(users or "")
        codes = [int(code_of(name, dataset.user_ids, "users")[0]) for name in names]
    else:
        groups = dataset.groups
        if groups is None:
            name = dataset.manifest["name"]
            raise ValueError(f"{name} has no table groups: name people by --users")
        code_of(group_id, pd.Index(groups["group_id"].unique()), "groups")
        codes = groups.loc[groups["group_id"] == group_id, "user"].tolist()
    count = len(set(codes))
    if not 1 <= count <= LARGEST:
        raise ValueError(f"a group has 1 to {LARGEST} members, not {count}")
    again = pd.Series(dataset.user_ids[codes])
    again = again[again.duplicated()].unique()
    if len(again):
        typer.echo(f"named more than once, counted once: {', '.join(again)}", err=True)
    return tuple(codes)


def _known_of(
    people: tuple[int, ...], satisfaction: str | None, presence: str | None
) -> dict[str, list[tuple[float, ...]]]:
    """What is known of people on this evening, as columns of their request."""
    given = {"satisfaction": satisfaction, "presence": presence}
    known = {
        name: _numbers(text, f"--{name}", len(people))
        for name, text in given.items()
        if text is not None
    }
    if not any(known.get("presence", (1,))):
        raise ValueError("nobody is there: give somebody a --presence above 0")
    return {name: [numbers] for name, numbers in known.items()}


def _numbers(text: str, option: str, people: int) -> tuple[float, ...]:
    """Read a number of 0..1 for each of some people, NaN where there is none."""
    try:
        numbers = tuple(float(part) if part.strip() else math.nan for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{option} {text!r} is not numbers: write them as 0.2,0.8") from error
    if not all(0 <= number <= 1 or math.isnan(number) for number in numbers):
        raise ValueError(f"{option} {text!r} is not all of 0..1")
    if len(numbers) != people:
        plural = "s" * (len(numbers) != 1)
        raise ValueError(
            f"{option} has {len(numbers)} number{plural} for {people} people: give one for each"
        )
    return numbers


def _steps(base: Stage, data: Dataset, seed: int) -> tuple[Step, Step]:
    """Fit what ranks notifications, and what says whether a title is of interest at all."""
    from firetv.slate import chain, with_seed
    from firetv.social import FriendBoost

    ranking = chain(base, FriendBoost(half_life=NEWS))
    return with_seed(ranking, seed).fit(data), with_seed(base, seed).fit(data)


def _before(dataset: Dataset, moment: pd.Timestamp | None) -> tuple[Dataset, pd.Timestamp]:
    """What was known at a moment, by default just after the last event, and the moment."""
    import pandas as pd

    moment = dataset.end if moment is None else moment
    past = dataset.until(moment)
    if past.interactions.empty:
        times = pd.concat([dataset.interactions["timestamp"], dataset.reactions["timestamp"]])
        raise ValueError(f"nothing was watched before {moment}: the data begin at {times.min()}")
    return past, moment


def _time(text: str | None, zone: str) -> pd.Timestamp | None:
    """Read a date or time; it is local where it has no offset."""
    import pandas as pd

    from firetv.schema import FIRST, LAST

    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
        moment = pd.Timestamp(time if time.tzinfo else time.replace(tzinfo=ZoneInfo(zone)))
    except ValueError as error:
        example = "write it as 2026-01-31, or as 2026-01-31T20:15"
        raise ValueError(f"{text!r} is not a date or time: {example}") from error
    if not FIRST <= moment <= LAST:
        raise ValueError(f"{text!r} is not a time from {FIRST.year} to {LAST.year}")
    return moment.tz_convert("UTC")


def _friends_caveat(dataset: Dataset) -> str:
    """Say what notifications of this data set cannot tell."""
    name = dataset.manifest["name"]
    if dataset.friends is None:
        return f"{name} has no table user_connections, so nobody has friends"
    kinds = dataset.manifest.get("columns", {}).get("user_connections", {})
    return f"friends in {name} are simulated" if "simulated" in kinds.values() else ""


def _weather(place: str, day: datetime) -> str | None:
    """Ask for the weather of a place."""
    import pandas as pd

    from firetv.weather import OpenMeteo, fill_weather

    try:
        latitude, longitude = map(float, place.split(","))
    except ValueError as error:
        raise ValueError(f"{place!r} is not a place: use LAT,LON such as 52.5,13.4") from error
    frame = pd.DataFrame({"region": [place]})
    days = pd.Series([pd.Timestamp(day.date())])
    weather = fill_weather(frame, OpenMeteo({place: (latitude, longitude)}), days)["weather"]
    if weather.isna().all():
        typer.echo(f"no weather is known of {place} on {day:%Y-%m-%d}", err=True)
    return weather.dropna().get(0)
