"""A server in this process, for its tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pandas as pd

from firetv.api import create_app
from firetv.context import ContextBoost
from firetv.data import Dataset
from firetv.messages import Problem
from firetv.models import LightFM
from firetv.moments import Clock, Context
from firetv.recommender import Recommender
from firetv.slate import Stage
from firetv.social import FriendBoost

ZONE = "America/New_York"
RULES = ContextBoost("rules", strength=1.0, clock=Clock(zone=ZONE, country="US"))
LIGHTFM = LightFM(use_user_features=True, use_item_features=True, epochs=5)
MOMENT = {"time": "2026-12-24T20:00", "weather": "rainy", "companion": "family"}
AT = Context(pd.Timestamp("2026-12-24T20:00", tz=ZONE), weather="rainy", companion="family")
PROBLEM, GROUP = "application/problem+json", "/recommendations/group"


def trained(data: Dataset, base: Stage = LIGHTFM) -> Recommender:
    return Recommender.train(data, base, RULES, FriendBoost(strength=0.3))


class Server:
    """An application in this process, which works while something is asked."""

    def __init__(self, recommender: Recommender, **limits: int) -> None:
        self.app = create_app(recommender, **limits)
        self.runner = asyncio.Runner()

    def run(self, work: Awaitable[Any]) -> Any:  # noqa: ANN401
        async def wait() -> Any:  # noqa: ANN401
            return await asyncio.wait_for(work, 60)

        return self.runner.run(wait())

    async def ask(self, method: str, path: str, **sent: Any) -> httpx.Response:  # noqa: ANN401
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.request(method, path, **sent)

    def get(self, path: str, **query: object) -> httpx.Response:
        return self.run(self.ask("GET", path, params=query or None))

    def post(self, path: str, body: object) -> httpx.Response:
        return self.run(self.ask("POST", path, json=body))

    def send(self, path: str, content: str | bytes, kind: str = "application/json") -> Any:  # noqa: ANN401
        return self.run(self.ask("POST", path, content=content, headers={"content-type": kind}))


@contextmanager
def serving(recommender: Recommender, **limits: int) -> Iterator[Server]:
    server = Server(recommender, **limits)
    lifespan = server.app.router.lifespan_context(server.app)
    with server.runner:
        server.run(lifespan.__aenter__())
        yield server
        server.run(lifespan.__aexit__(None, None, None))


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The details of a problem, which are as they should be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    details = answer.json()
    Problem.model_validate(details)
    assert details["status"] == status
    assert details["type"] == "about:blank"
    assert "Traceback" not in answer.text
    assert "firetv/" not in answer.text
    return details
