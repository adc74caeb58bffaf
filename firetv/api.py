"""The recommender over HTTP: lists for people and groups, notifications, similar titles.

A trained recommender is loaded once. Requests for a person's list that arrive while others are
being answered are answered together, in one call: what a call costs is shared. Errors are problem
details (RFC 9457).
"""

from __future__ import annotations

import asyncio
import contextlib
import time as clock_time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram
from prometheus_client import generate_latest as metrics_text
from pydantic_core import to_json
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from firetv.explain import Reason
from firetv.lists import Newcomer, Recommendations
from firetv.messages import (
    LONGEST_ID,
    GroupAnswer,
    GroupRequest,
    Health,
    Moment,
    MomentQuery,
    NewcomerRequest,
    Notification,
    NotificationList,
    PersonalList,
    Problem,
    SimilarList,
)
from firetv.moments import Context
from firetv.notifications import Policy
from firetv.recommender import LONGEST, Recommender
from firetv.schema import FIRST, LAST
from firetv.slate import EMPTY

LARGEST_BODY = 64 * 1024  # bytes
MOST_WAITING = 256  # requests: more are turned away
MOST_AT_ONCE = 64  # requests answered in one call
MOST_ERRORS = 20  # that are told of one request
MOST_TOLD = 500  # characters of what is said about a mistake, which may quote the request
PROBLEM = "application/problem+json"
TITLES = {
    400: "Bad request",
    404: "Not found",
    405: "Method not allowed",
    413: "Body too large",
    422: "Not valid",
    500: "Internal error",
    503: "Too busy",
}

# ------------------------------------------------------------------ requests answered together


@dataclass(frozen=True)
class Ask:
    """One request for a person's list."""

    user: str | Newcomer
    context: Context
    k: int
    explain: bool


class TooBusy(Exception):
    """More requests wait than may."""


class Batcher:
    """Answers what waits together, one call after another, in a thread of its own.

    Parameters
    ----------
    answer : callable
        Gives an answer, or what went wrong, for each of some requests.
    most : int
        Requests that may wait.
    """

    def __init__(
        self, answer: Callable[[Sequence[Ask]], Sequence[bytes | Exception]], most: int
    ) -> None:
        self._answer, self._waiting = answer, asyncio.Queue(most)

    async def ask(self, ask: Ask) -> bytes:
        """Wait for an answer; raises TooBusy where too many wait already."""
        future = asyncio.get_running_loop().create_future()
        try:
            self._waiting.put_nowait((ask, future))
        except asyncio.QueueFull:
            raise TooBusy from None
        return await future

    async def run(self) -> None:
        """Answer until cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as thread:
            while True:
                batch = [await self._waiting.get()]
                while len(batch) < MOST_AT_ONCE and not self._waiting.empty():
                    batch.append(self._waiting.get_nowait())
                asks = [ask for ask, _ in batch]
                answers = await loop.run_in_executor(thread, self._answer, asks)
                for (_, future), answer in zip(batch, answers, strict=True):
                    if future.done():  # the client has gone
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)


# ------------------------------------------------------------------ the application


def create_app(recommender: Recommender, most_waiting: int = MOST_WAITING) -> FastAPI:
    """Make the application of a trained recommender.

    Parameters
    ----------
    recommender : Recommender
    most_waiting : int
        Requests for people's lists that may wait, and other requests that may be worked on; more
        are answered with 503.
    """
    service = _Service(recommender, most_waiting)
    service.warm_up()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.batcher = Batcher(service.personal_lists, most_waiting)
        running = asyncio.create_task(app.state.batcher.run())
        yield
        running.cancel()
        await asyncio.wait([running])

    app = FastAPI(
        title="firetv",
        summary="Context-aware, social and group recommendation for TV.",
        version="1",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    _add_lists(app, service)
    _add_others(app, service)
    _add_problems(app)
    app.add_middleware(_limited)
    app.add_middleware(_measured, service=service)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = app.openapi()["components"]["schemas"]  # of a document that is kept
    schemas |= problem.pop("$defs") | {"Problem": problem}
    return app


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Say which problems a path may answer with."""
    content = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": TITLES[status], "content": content} for status in statuses}


UserId = Annotated[str, Path(min_length=1, max_length=LONGEST_ID, examples=["user123"])]
ContentId = Annotated[str, Path(min_length=1, max_length=LONGEST_ID, examples=["content50"])]
Length = Annotated[int, Query(ge=1, le=LONGEST)]
OF_A_PATH, OF_A_BODY = _problems(404, 422, 500, 503), _problems(400, 413, 422, 500, 503)


def _add_lists(app: FastAPI, service: _Service) -> None:
    recommender = service.recommender

    @app.post(
        "/recommendations",
        summary="A newcomer's list",
        response_model=PersonalList,
        responses=OF_A_BODY,
        tags=["lists"],
    )
    async def newcomer(body: NewcomerRequest, request: Request) -> Response:
        """What to watch for somebody not in the data, by what they liked and their profile."""
        return await _listed(service.newcomer(body), body, service.context(body), request)

    @app.post(
        "/recommendations/group",
        summary="A group's list",
        responses=OF_A_BODY,
        tags=["lists"],
        dependencies=[Depends(service.admitted)],
    )
    def group(body: GroupRequest) -> GroupAnswer:
        """One list for several people. Who is not in the data is a guest."""
        numbers, context = body.satisfaction, service.context(body)
        satisfaction = None if numbers is None else [np.nan if n is None else n for n in numbers]
        with _refusing():  # where no title is left
            found = recommender.recommend_group(
                body.members,
                context,
                body.num_recommendations,
                strategy=body.strategy,
                weights=body.weights,
                satisfaction=satisfaction,
                presence=body.presence,
                unseen=body.unseen,
                kids=body.kids,
            )
        guests = [_short(name) for name in dict.fromkeys(body.members) if name not in service.users]
        note = f"not known, and so guests: {', '.join(guests)}" if guests else None
        return GroupAnswer(strategy=body.strategy, note=note, recommendations=found.records)

    @app.get(
        "/recommendations/{user_id}",
        summary="A person's list",
        response_model=PersonalList,
        responses=OF_A_PATH,
        tags=["lists"],
    )
    async def recommendations(
        user_id: UserId, moment: Annotated[MomentQuery, Query()], request: Request
    ) -> Response:
        """What to watch at a moment. Of an unknown person nothing is known: `basis` says so."""
        if moment.strict and user_id not in service.users:
            raise HTTPException(404, f"no user {_short(user_id)}")
        return await _listed(user_id, moment, service.context(moment), request)


async def _listed(
    user: str | Newcomer, moment: MomentQuery | NewcomerRequest, context: Context, request: Request
) -> Response:
    ask = Ask(user, context, moment.num_recommendations, moment.explain)
    body = await request.app.state.batcher.ask(ask)
    return Response(body, media_type="application/json")


def _add_others(app: FastAPI, service: _Service) -> None:
    recommender = service.recommender

    @app.get(
        "/notifications/{user_id}",
        summary="News of friends",
        responses=OF_A_PATH,
        tags=["friends"],
        dependencies=[Depends(service.admitted)],
    )
    def notifications(
        user_id: UserId,
        now: Annotated[
            str | None,
            Query(
                max_length=40,
                description="ISO 8601; just after the last event by default.",
                examples=["2026-12-24T20:00"],
            ),
        ] = None,
        per_day: Annotated[int, Query(ge=1, le=LONGEST)] = 3,
    ) -> NotificationList:
        """What is worth telling a person of what their friends watched."""
        if user_id not in service.users:
            raise HTTPException(404, f"no user {_short(user_id)}")
        with _refusing():
            instant = None if now is None else service.instant(now)
        found = recommender.notifications([user_id], instant, Policy(per_day=per_day))
        told = found.rows[list(Notification.model_fields)].to_dict("records")
        dropped = {str(k): int(n) for k, n in found.dropped["reason"].value_counts().items()}
        return NotificationList(user_id=user_id, notifications=told, dropped=dropped)

    @app.get(
        "/content/{content_id}/similar",
        summary="Similar titles",
        responses=OF_A_PATH,
        tags=["titles"],
        dependencies=[Depends(service.admitted)],
    )
    def similar(content_id: ContentId, num_recommendations: Length = 10) -> SimilarList:
        """Titles that the same people watch, or that are described alike, best first."""
        if content_id not in service.titles:
            raise HTTPException(404, f"no title {_short(content_id)}")
        found = recommender.similar(content_id, num_recommendations)
        return SimilarList(content_id=content_id, similar=found.to_dict("records"))

    @app.get("/health", summary="Health", tags=["server"])
    def health() -> Health:
        """That the server can answer, and from what data."""
        return Health(status="ok", data=dict(recommender.about["data"]))

    text = {"content": {"text/plain": {"schema": {"type": "string"}}}}

    @app.get(
        "/metrics",
        summary="Metrics",
        response_class=Response,
        responses={200: text},
        tags=["server"],
    )
    def metrics() -> Response:
        """Counters and latencies in the text format of Prometheus."""
        return Response(metrics_text(service.registry), media_type=CONTENT_TYPE_LATEST)


class _Service:
    """What the paths share."""

    def __init__(self, recommender: Recommender, most_at_work: int) -> None:
        self.recommender = recommender
        self.users = frozenset(recommender.data.user_ids)
        self.titles = frozenset(recommender.data.item_ids)
        self.clock = recommender.clock
        self.zone = ZoneInfo(self.clock.zone)
        self.at_work, self.most_at_work = 0, most_at_work
        self.registry = CollectorRegistry()
        self.seconds = Histogram(
            "firetv_request_seconds",
            "Time to answer.",
            ["path"],
            registry=self.registry,
            buckets=(0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5),
        )
        self.answers = Counter(
            "firetv_answers", "Answers by status.", ["path", "status"], registry=self.registry
        )

    def warm_up(self) -> None:
        """Build what is built once, before anybody waits for it."""
        self.recommender.warm_up()
        some = list(self.recommender.data.user_ids[:2])
        now = Context(datetime.now(self.zone))
        self._lists([Ask(name, now, 1, True) for name in some])

    async def admitted(self) -> AsyncIterator[None]:
        """Let a request in; raises TooBusy where too many are worked on already."""
        if self.at_work >= self.most_at_work:
            raise TooBusy
        self.at_work += 1
        try:
            yield
        finally:
            self.at_work -= 1

    def context(self, moment: Moment) -> Context:
        """Read a moment; refuses what cannot be read."""
        known = {"weather": moment.weather, "festival": moment.festival}
        known["companion"] = moment.companion
        text = moment.time
        if text is None:
            return Context(**known)
        with _refusing():
            if len(text) <= len("20:00") and ":" in text:
                return Context(daypart=self._daypart(text), **known)
            return Context(self.instant(text, "2026-01-31T20:15, or as 20:15"), **known)

    def _daypart(self, text: str) -> str:
        try:
            hour = datetime.strptime(text, "%H:%M").hour
        except ValueError:
            raise ValueError(f"{text!r} is not an hour: write it as 20:00") from None
        return self.clock.daypart(hour)

    def instant(self, text: str, form: str = "2026-01-31T20:15") -> pd.Timestamp:
        """Read an instant, local where it has no offset; raises ValueError."""
        try:
            read = datetime.fromisoformat(text)
            moment = pd.Timestamp(read if read.tzinfo else read.replace(tzinfo=self.zone))
            inside = FIRST <= moment <= LAST
        except (ValueError, OverflowError):
            inside = False
        if not inside:
            raise ValueError(f"{text!r} is not a time: write it as {form}")
        return moment.tz_convert("UTC")

    def newcomer(self, body: NewcomerRequest) -> Newcomer:
        """Read a newcomer; refuses unknown titles, and profiles that cannot be read."""
        profile = {name: value for name, value in body.profile.items() if value is not None}
        missing = [_short(title) for title in body.liked if title not in self.titles]
        with _refusing():
            if missing:
                raise ValueError(f"no title {', '.join(missing)}")
            self.recommender.profiles.traits(profile)
        return Newcomer(tuple(body.liked), profile)

    def personal_lists(self, asks: Sequence[Ask]) -> list[bytes | Exception]:
        """Answer requests together, those apart that cost more: for reasons, and of strangers."""
        alike: dict[tuple[bool, bool], list[int]] = {}
        for row, ask in enumerate(asks):
            known = isinstance(ask.user, str) and ask.user in self.users
            alike.setdefault((ask.explain, known), []).append(row)
        answers: dict[int, bytes | Exception] = {}
        for rows in alike.values():
            answers.update(zip(rows, self._answered([asks[row] for row in rows]), strict=True))
        return [answers[row] for row in range(len(asks))]

    def _answered(self, asks: Sequence[Ask]) -> list[bytes | Exception]:
        """Answers, or what went wrong: with one of them, not with those that came with it."""
        try:
            return self._lists(asks)
        except Exception as error:
            if len(asks) == 1:
                return [error]
            return [answer for ask in asks for answer in self._answered([ask])]

    def _lists(self, asks: Sequence[Ask]) -> list[bytes]:
        if not asks:
            return []
        users, contexts = [ask.user for ask in asks], [ask.context for ask in asks]
        most, explain = max(ask.k for ask in asks), asks[0].explain
        found = self.recommender.recommend(users, contexts, most, explain=explain)
        return [to_json(_personal(found, row, ask)) for row, ask in enumerate(asks)]


NOTES = {
    "history": None,
    "liked titles": "only some liked titles are known of this person",
    "profile": "only a profile is known of this person",
    "popularity": "nothing is known of this person: these are popular titles",
}


def _personal(found: Recommendations, row: int, ask: Ask) -> dict[str, Any]:
    """One person's list of several, as a PersonalList is; one by one, models would take longer."""
    items = found.slate.grid[row, : ask.k]
    parts = {name: part[row, : ask.k].astype(float) for name, part in found.slate.parts.items()}
    parts = {name: part for name, part in parts.items() if part.any()}
    scores = sum(parts.values(), np.zeros(len(items))).round(6).tolist()
    parts = {name: part.round(6).tolist() for name, part in parts.items()}
    titles = [
        {
            "rank": slot + 1,
            "content_id": found.ids[item],
            "title": found.titles[item],
            "score": scores[slot],
            "parts": {name: part[slot] for name, part in parts.items()},
            "reasons": None if found.reasons is None else _told(found.reasons[row][slot]),
        }
        for slot, item in enumerate(items.tolist())
        if item != EMPTY
    ]
    return {
        "user_id": ask.user if isinstance(ask.user, str) else None,
        "basis": found.basis[row],
        "note": NOTES[found.basis[row]],
        "recommendations": titles,
    }


def _told(reasons: Sequence[Reason]) -> list[dict[str, Any]]:
    return [
        {
            "kind": reason.kind,
            "text": reason.text,
            "contribution": round(reason.contribution, 6),
            "share": round(reason.share, 6),
            "about": reason.about,
        }
        for reason in reasons
    ]


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Answer 422 where a request says something that the recommender does not know."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(422, str(error)) from error


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


# ------------------------------------------------------------------ problems, limits and metrics


def _problem(status: int, detail: str, errors: list[dict[str, str]] | None = None) -> JSONResponse:
    body = Problem(
        title=TITLES.get(status, "Error"), status=status, detail=detail[:MOST_TOLD], errors=errors
    )
    return JSONResponse(body.model_dump(exclude_none=True), status, media_type=PROBLEM)


def _add_problems(app: FastAPI) -> None:
    @app.exception_handler(StarletteHTTPException)
    async def refused(_: Request, error: StarletteHTTPException) -> JSONResponse:
        answer = _problem(error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        errors = [
            {
                "where": ".".join(map(str, each["loc"]))[:MOST_TOLD],
                "reason": each["msg"].removeprefix("Value error, "),
            }
            for each in error.errors()[:MOST_ERRORS]
        ]
        return _problem(422, "the request is not valid", errors)

    @app.exception_handler(TooBusy)
    async def busy(_: Request, __: TooBusy) -> JSONResponse:
        answer = _problem(503, "too many requests wait: try again")
        answer.headers["Retry-After"] = "1"
        return answer

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> JSONResponse:
        return _problem(500, "the server failed; its log says why")


def _limited(app: ASGIApp) -> ASGIApp:
    """Refuse bodies that are too large, declared or not, before they are read whole."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def counting() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > LARGEST_BODY:  # the rest is not waited for
                told = f"a body may have {LARGEST_BODY} bytes"
                raise HTTPException(413, told, {"Connection": "close"})
            return message

        await app(scope, counting, send)

    return limited


def _measured(app: ASGIApp, service: _Service) -> ASGIApp:
    """Count answers and their time by path."""

    async def measured(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        start, status = clock_time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, noting)
        finally:
            path = getattr(scope.get("route"), "path", "unknown")
            service.seconds.labels(path).observe(clock_time.perf_counter() - start)
            service.answers.labels(path, status).inc()

    return measured
