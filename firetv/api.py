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
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram
from prometheus_client import generate_latest as metrics_text
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
    Reason,
    SimilarList,
    Title,
)
from firetv.moments import Context
from firetv.notifications import Policy
from firetv.recommender import LONGEST, Recommender
from firetv.schema import FIRST, LAST
from firetv.slate import EMPTY

LARGEST_BODY = 64 * 1024  # bytes
MOST_WAITING = 256  # requests: more are turned away
MOST_AT_ONCE = 64  # requests answered in one call
PROBLEM = "application/problem+json"


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Say which problems a path may answer with."""
    content = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {s: {"model": Problem, "content": content, "description": TITLES[s]} for s in statuses}


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

    user: str
    context: Context
    k: int
    explain: bool


class TooBusy(Exception):
    """More requests wait than may."""


class Batcher:
    """Answers what waits together, one call after another, in a thread of its own."""

    def __init__(self, answer: Callable[[Sequence[Ask]], Sequence[bytes]], most: int) -> None:
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
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < MOST_AT_ONCE and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            asks, futures = zip(*batch, strict=True)
            try:
                answers = await run_in_threadpool(self._answer, asks)
            except Exception as error:  # each of them is told; the next ones are answered
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
                continue
            for future, answer in zip(futures, answers, strict=True):
                if not future.done():  # else the client has gone
                    future.set_result(answer)


# ------------------------------------------------------------------ the application


def create_app(recommender: Recommender, most_waiting: int = MOST_WAITING) -> FastAPI:
    """Make the application of a trained recommender.

    Parameters
    ----------
    recommender : Recommender
    most_waiting : int
        Requests for lists that may wait; more are answered with 503.
    """
    service = _Service(recommender)
    service.warm_up()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.batcher = Batcher(service.personal_lists, most_waiting)
        running = asyncio.create_task(app.state.batcher.run())
        yield
        running.cancel()

    app = FastAPI(
        title="firetv",
        summary="Context-aware, social and group recommendation for TV.",
        version="1",
        lifespan=lifespan,
    )
    _add_paths(app, service)
    _add_problems(app)
    app.add_middleware(_Measured, service=service)
    app.add_middleware(_BodyLimit)
    return app


UserId = Annotated[str, Path(min_length=1, max_length=LONGEST_ID, examples=["user123"])]
ContentId = Annotated[str, Path(min_length=1, max_length=LONGEST_ID, examples=["content50"])]
Length = Annotated[int, Query(ge=1, le=LONGEST)]


def _add_paths(app: FastAPI, service: _Service) -> None:
    recommender = service.recommender

    @app.get(
        "/recommendations/{user_id}",
        response_model=PersonalList,
        responses=_problems(404, 422, 503),
        tags=["lists"],
    )
    async def recommendations(
        user_id: UserId,
        moment: Annotated[MomentQuery, Query()],
        request: Request,
    ) -> Response:
        """A person's list at a moment. Of an unknown person nothing is known: `basis` says so."""
        if moment.strict and not service.knows(user_id):
            raise HTTPException(404, f"no user {_short(user_id)}")
        with _refusing():
            context = service.context(moment)
        ask = Ask(user_id, context, moment.num_recommendations, moment.explain)
        body = await request.app.state.batcher.ask(ask)
        return Response(body, media_type="application/json")

    @app.post("/recommendations", responses=_problems(413, 422), tags=["lists"])
    def newcomer(body: NewcomerRequest) -> PersonalList:
        """The list of somebody who is not in the data, by what they liked and their profile."""
        profile = {name: value for name, value in body.profile.items() if value is not None}
        with _refusing():
            found = recommender.recommend(
                [Newcomer(tuple(body.liked), profile)],
                service.context(body),
                body.num_recommendations,
                explain=body.explain,
            )
        return _personal(found, 0, None, body.num_recommendations, body.explain)

    @app.post("/recommendations/group", responses=_problems(413, 422), tags=["lists"])
    def group(body: GroupRequest) -> GroupAnswer:
        """One list for several people. Who is not in the data is a guest."""
        numbers = body.satisfaction
        satisfaction = None if numbers is None else [np.nan if n is None else n for n in numbers]
        with _refusing():
            found = recommender.recommend_group(
                body.members,
                service.context(body),
                body.num_recommendations,
                strategy=body.strategy,
                weights=body.weights,
                satisfaction=satisfaction,
                presence=body.presence,
                unseen=body.unseen,
                kids=body.kids,
            )
        strangers = sum(not service.knows(name) for name in set(body.members))
        note = f"{strangers} of the members are not known: guests" if strangers else None
        return GroupAnswer(strategy=body.strategy, note=note, recommendations=found.records)

    @app.get("/notifications/{user_id}", responses=_problems(404, 422), tags=["friends"])
    def notifications(
        user_id: UserId,
        now: Annotated[
            str | None, Query(max_length=40, description="ISO 8601; the latest by default.")
        ] = None,
        per_day: Annotated[int, Query(ge=1, le=LONGEST)] = 3,
    ) -> NotificationList:
        """What is worth telling a person of what their friends watched."""
        if not service.knows(user_id):
            raise HTTPException(404, f"no user {_short(user_id)}")
        with _refusing():
            instant = service.instant(now) if now else None
        found = recommender.notifications([user_id], instant, Policy(per_day=per_day))
        told = found.rows[list(Notification.model_fields)].to_dict("records")
        dropped = {str(k): int(n) for k, n in found.dropped["reason"].value_counts().items()}
        return NotificationList(user_id=user_id, notifications=told, dropped=dropped)

    @app.get("/content/{content_id}/similar", responses=_problems(404, 422), tags=["titles"])
    def similar(content_id: ContentId, num_recommendations: Length = 10) -> SimilarList:
        """Titles like another."""
        if content_id not in recommender.data.item_ids:
            raise HTTPException(404, f"no title {_short(content_id)}")
        found = recommender.similar(content_id, num_recommendations)
        return SimilarList(content_id=content_id, similar=found.to_dict("records"))

    @app.get("/health", tags=["server"])
    def health() -> Health:
        """That the server can answer, and from what data."""
        return Health(status="ok", data=dict(recommender.about["data"]))

    @app.get("/metrics", response_class=Response, tags=["server"])
    def metrics() -> Response:
        """Counters and latencies in the text format of Prometheus."""
        return Response(metrics_text(service.registry), media_type=CONTENT_TYPE_LATEST)


class _Service:
    """What the paths share."""

    def __init__(self, recommender: Recommender) -> None:
        self.recommender = recommender
        self.clock = recommender.clock
        self.zone = ZoneInfo(self.clock.zone)
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
        some = list(self.recommender.data.user_ids[:2])
        now = Context(datetime.now(self.zone))
        self.personal_lists([Ask(name, now, 1, True) for name in some])

    def knows(self, user_id: str) -> bool:
        """Whether somebody is in the data."""
        return user_id in self.recommender.data.user_ids

    def context(self, moment: Moment) -> Context:
        """Read a moment; raises ValueError where it cannot be read."""
        known = {"weather": moment.weather, "festival": moment.festival}
        known["companion"] = moment.companion
        text = moment.time
        if text is None:
            return Context(**known)
        if len(text) <= len("20:00") and ":" in text:
            return Context(daypart=self._daypart(text), **known)
        return Context(self.instant(text), **known)

    def _daypart(self, text: str) -> str | None:
        try:
            hour = datetime.strptime(text, "%H:%M").hour
        except ValueError:
            raise ValueError(f"{text!r} is not an hour: write it as 20:00") from None
        return self.clock.daypart(hour)

    def instant(self, text: str) -> pd.Timestamp:
        """Read an instant, local where it has no offset."""
        try:
            read = datetime.fromisoformat(text)
            moment = pd.Timestamp(read if read.tzinfo else read.replace(tzinfo=self.zone))
            inside = FIRST <= moment <= LAST
        except (ValueError, OverflowError):
            inside = False
        if not inside:
            raise ValueError(f"{text!r} is not a time: write it as 2026-01-31T20:15, or as 20:15")
        return moment.tz_convert("UTC")

    def personal_lists(self, asks: Sequence[Ask]) -> list[bytes]:
        """Answer requests together; those for reasons apart from the others, which cost less."""
        answers: dict[int, bytes] = {}
        for explain in (False, True):
            rows = [row for row, ask in enumerate(asks) if ask.explain is explain]
            if not rows:
                continue
            some = [asks[row] for row in rows]
            most = max(ask.k for ask in some)
            users, contexts = [ask.user for ask in some], [ask.context for ask in some]
            found = self.recommender.recommend(users, contexts, most, explain=explain)
            for place, (row, ask) in enumerate(zip(rows, some, strict=True)):
                answer = _personal(found, place, ask.user, ask.k, explain)
                answers[row] = answer.model_dump_json().encode()
        return [answers[row] for row in range(len(asks))]


NOTES = {
    "history": None,
    "liked titles": "only some liked titles are known of this person",
    "profile": "only a profile is known of this person",
    "popularity": "nothing is known of this person: these are popular titles",
}


def _personal(
    found: Recommendations, row: int, user: str | None, k: int, explain: bool
) -> PersonalList:
    """One person's list of several."""
    items = found.slate.grid[row, :k]
    parts = {name: part[row, :k] for name, part in found.slate.parts.items() if part[row].any()}
    scores = sum(parts.values(), np.zeros(len(items), np.float32))
    titles = []
    for slot in np.flatnonzero(items != EMPTY).tolist():
        item = items[slot]
        reasons = found.reasons[row][slot] if explain and found.reasons is not None else None
        titles.append(
            Title.model_construct(
                rank=slot + 1,
                content_id=found.ids[item],
                title=found.titles[item],
                score=round(float(scores[slot]), 6),
                parts={name: round(float(part[slot]), 6) for name, part in parts.items()},
                reasons=None if reasons is None else [_reason(reason) for reason in reasons],
            )
        )
    basis = found.basis[row]
    return PersonalList.model_construct(
        user_id=user, basis=basis, note=NOTES[basis], recommendations=titles
    )


def _reason(reason: Any) -> Reason:  # noqa: ANN401
    return Reason.model_construct(
        kind=reason.kind,
        text=reason.text,
        contribution=round(reason.contribution, 6),
        share=round(reason.share, 6),
        about=list(reason.about),
    )


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Answer 422 where a request says something that the recommender does not know."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(422, str(error)) from error


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


# ------------------------------------------------------------------ problems and limits


def _problem(status: int, detail: str, errors: list[dict[str, str]] | None = None) -> JSONResponse:
    title = TITLES.get(status, "Error")
    body = Problem(title=title, status=status, detail=detail, errors=errors)
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
            {"where": ".".join(map(str, each["loc"])), "reason": each["msg"]}
            for each in error.errors()[:20]
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


class _BodyLimit:
    """Refuse bodies that are too large, declared or not, before they are read whole."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has gone
            body += message.get("body", b"")
            if len(body) > LARGEST_BODY:
                answer = _problem(413, f"a body may have {LARGEST_BODY} bytes")
                await answer(scope, receive, send)
                return
            if not message.get("more_body", False):
                break
        pending: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def again() -> Message:
            return pending.pop() if pending else await receive()

        await self.app(scope, again, send)


class _Measured:
    """Count answers and their time by path."""

    def __init__(self, app: ASGIApp, service: _Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = clock_time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            path = getattr(scope.get("route"), "path", "unknown")
            self.service.seconds.labels(path).observe(clock_time.perf_counter() - start)
            self.service.answers.labels(path, status).inc()
