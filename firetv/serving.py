"""Commands of the assembled recommender: train it, ask it, serve it."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    folder_of,
    instant_of,
    plain_errors,
)

if TYPE_CHECKING:
    from firetv.context import ContextBoost
    from firetv.lists import Recommendations
    from firetv.moments import Clock, Context
    from firetv.recommender import Recommender
    from firetv.social import FriendBoost

SECONDS_TO_END = 3  # for requests, when the server is stopped

app = typer.Typer()

Model = Annotated[
    Path | None, typer.Option(help="Folder of a trained recommender; data/recommender by default.")
]


@app.command()
def train(
    data: Folder = None,
    out: Annotated[Path | None, typer.Option(help="Folder; data/recommender by default.")] = None,
    base: Annotated[
        str,
        typer.Option(help="Tuned: lightfm, ease, als, bpr, itemknn, or blend of the first three."),
    ] = "lightfm",
    parameters: Annotated[
        Path | None, typer.Option(help="What firetv tune --out wrote, in place of --base.")
    ] = None,
    context: Annotated[str, typer.Option(help="off, rules, learned or rules+learned.")] = "rules",
    strength: Annotated[
        float | None, typer.Option(help="Of the context; 1 for rules, else learned by default.")
    ] = None,
    friends: Annotated[
        str, typer.Option(help="How much friends count: learned, off or a number such as 0.3.")
    ] = "learned",
    zone: Zone = "UTC",
    country: Country = None,
    seed: Seed = 0,
) -> None:
    """Train a recommender of base model, friends and context, and save it."""
    from firetv.artefacts import data_dir
    from firetv.data import load
    from firetv.moments import Clock
    from firetv.packaged import base_model, read_parameters
    from firetv.recommender import Recommender

    with plain_errors(ValueError):
        stage = base_model(base) if parameters is None else read_parameters(parameters)
        boost = _context(context, strength, Clock(zone=zone, country=country))
        social = _friends(friends)
        folder = out or data_dir() / "recommender"
        dataset = load(folder_of(data))
        recommender = Recommender.train(dataset, stage, boost, social, seed)
        recommender.save(folder)
        about = recommender.about["data"]
        typer.echo(f"trained on {about['events']} events of {about['users']} users in {folder}")
        if recommender.friends is not None and not any(recommender.friends.scales.own.values()):
            typer.echo("friends were found not to help here, and count nothing", err=True)
        if recommender.context is not None and recommender.context.strength == 0:
            typer.echo("the moment was found not to help here, and counts nothing", err=True)


def _context(mode: str, strength: float | None, clock: Clock) -> ContextBoost | None:
    from firetv.context import ContextBoost

    if mode == "off":
        return None
    given = 1.0 if strength is None and mode == "rules" else strength
    return ContextBoost(mode, strength=given, clock=clock)


def _friends(text: str) -> FriendBoost | None:
    """Read how much friends count; none, if they are off."""
    from firetv.social import FriendBoost

    if text in ("learned", "off"):
        return FriendBoost() if text == "learned" else None
    try:
        return FriendBoost(strength=float(text))
    except ValueError as error:
        raise ValueError(f"friends {text!r}: use learned, off or a number from 0 on") from error


@app.command()
def recommend(
    user: Annotated[str | None, typer.Option(help="Whose list, such as user123.")] = None,
    liked: Annotated[
        str | None, typer.Option(metavar="ID,ID,...", help="What somebody new liked.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Of somebody new, as age=31; may be repeated."),
    ] = None,
    time: Time = None,
    date: Date = None,
    weather: Weather = None,
    festival: Festival = None,
    companion: Companion = None,
    k: Length = 10,
    explain: Annotated[bool, typer.Option("--explain", help="Say why, for each title.")] = False,
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """List titles for somebody, in the data or new, at a moment."""
    from firetv.lists import Newcomer

    with plain_errors(ValueError):
        if user is not None and (liked or profile):
            raise ValueError("--liked and --profile are of somebody new: leave out --user")
        recommender = _recommender(model)
        titles = tuple(name.strip() for name in (liked or "").split(",") if name.strip())
        person = user if user is not None else Newcomer(titles, _profile(profile or []))
        moment = _moment(recommender, time, date, weather, festival, companion)
        found = recommender.recommend([person], moment, k, explain=explain)
        if as_json:
            typer.echo(json.dumps(_records(found), ensure_ascii=False, indent=2))
            return
        note = {
            "profile": "a profile",
            "liked titles": "some liked titles",
            "popularity": "nothing",
        }
        if found.basis[0] != "history":
            typer.echo(f"Known of {_named(user)}: {note[found.basis[0]]}.", err=True)
        typer.echo(_as_text(found))


def _named(user: str | None) -> str:
    """Who is meant, on one line, whatever characters an id has."""
    if user is None or user.isprintable():
        return user or "this person"
    return repr(user)


def _recommender(model: Path | None) -> Recommender:
    from firetv.artefacts import data_dir
    from firetv.recommender import Recommender

    return Recommender.load(model or data_dir() / "recommender")


def _profile(pairs: list[str]) -> dict[str, str]:
    """Read NAME=VALUE."""
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is not of the form NAME=VALUE, such as age=31")
    return dict(pair.split("=", 1) for pair in pairs)


def _moment(
    recommender: Recommender,
    time: datetime | None,
    date: datetime | None,
    weather: str | None,
    festival: str | None,
    companion: str | None,
) -> Context:
    """Local time and date as the recommender's clock has them; an hour alone is a daypart."""
    from firetv.moments import Context

    clock = recommender.clock
    known: dict[str, Any] = {"weather": weather, "festival": festival, "companion": companion}
    if date is None:
        daypart = None if time is None else clock.daypart(time.hour)
        return Context(daypart=daypart, **known)
    # An hour that is not given is no hour of the day: what follows from it stays unknown.
    context = Context(instant_of(time, date, clock.zone), **known)
    return context if time is not None else Context(context.at, **known, daypart="")


def _records(found: Recommendations) -> list[dict[str, Any]]:
    """The only list, for a program."""
    rows = found.to_frame().drop(columns=["request", "why"], errors="ignore").to_dict("records")
    for slot, row in enumerate(rows):
        row["score"] = round(float(row["score"]), 6)
        parts = {name: float(part[0, slot]) for name, part in found.slate.parts.items()}
        row["parts"] = {name: round(value, 6) for name, value in parts.items() if value}
        if found.reasons is not None:
            row["reasons"] = [vars(reason) for reason in found.reasons[0][slot]]
    return rows


def _as_text(found: Recommendations) -> str:
    """The only list, for reading."""
    frame = found.to_frame()
    width = max(map(len, frame["title"]), default=0)
    lines = []
    for row in frame.itertuples():
        why = f"  {row.why}" if found.reasons is not None else ""
        lines.append(f"{row.rank:>3}  {row.title:<{width}}{why}".rstrip())
    return "\n".join(lines)


@app.command()
def serve(
    model: Model = None,
    host: Annotated[
        str, typer.Option(help="Address; this machine alone by default.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
) -> None:
    """Serve a trained recommender over HTTP; its document is at /docs."""
    import gc

    import uvicorn
    from threadpoolctl import threadpool_limits

    from firetv.api import create_app
    from firetv.connections import ImpatientProtocol

    with plain_errors(ValueError):
        application = create_app(_recommender(model))
    # What is loaded stays: collecting through it would make some requests wait.
    gc.collect()
    gc.freeze()
    # To stop, it lets requests end, but does not wait for clients that never finish theirs.
    with threadpool_limits(1):  # products here are small: more threads would wait for each other
        uvicorn.run(
            application,
            host=host,
            port=port,
            http=ImpatientProtocol,
            access_log=False,
            timeout_graceful_shutdown=SECONDS_TO_END,
        )
