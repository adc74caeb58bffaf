from __future__ import annotations

import asyncio
import inspect
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import AT, GROUP, MOMENT, Server, problem, serving, trained
from typer.testing import CliRunner

from firetv.api import LARGEST_BODY
from firetv.cli import app as commands
from firetv.data import Dataset
from firetv.moments import VALUES
from firetv.recommender import Recommender
from firetv.serving import serve


@pytest.fixture(scope="session")
def recommender(rich: Dataset) -> Recommender:
    return trained(rich)


# ------------------------------------------------------------------ many requests


def rounded(text: str) -> Any:  # noqa: ANN401
    """An answer with numbers as they are however many people are scored at once."""
    return json.loads(text, parse_float=lambda number: round(float(number), 4))


def requests(server: Server) -> list[Callable[[], Awaitable[httpx.Response]]]:
    """Requests for lists that differ in everything."""

    def asking(n: int) -> Callable[[], Awaitable[httpx.Response]]:
        if n % 5 == 4:
            body = {"liked": [f"content{n}"], "explain": n % 2 == 0, "num_recommendations": 1 + n}
            return lambda: server.ask("POST", "/recommendations", json=body)
        query = {
            "num_recommendations": 1 + n * 7 % 30,
            "explain": n % 3 == 0,
            "weather": VALUES["weather"][n % 5],
            "time": ("20:00", f"2026-12-{1 + n:02}T{n % 24:02}:00", "2024-02-01T08:00")[n % 3],
        }
        return lambda: server.ask("GET", f"/recommendations/user{n + 3}", params=query)

    return [asking(n) for n in range(30)]


class Gate:
    """Holds the recommender up until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str = "recommend") -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        held = getattr(Recommender, name)

        def holding(*given: Any, **options: Any) -> Any:  # noqa: ANN401
            self.reached.set()
            assert self.open.wait(10)
            return held(*given, **options)

        monkeypatch.setattr(Recommender, name, holding)

    async def arrival(self) -> None:
        """Wait until somebody stands before it."""
        while not self.reached.is_set():
            await asyncio.sleep(0.001)


def test_requests_that_wait_are_answered_together_each_with_its_own(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommend, asked = Recommender.recommend, []

    def noting(self: Recommender, users: list[Any], *others: Any, **options: Any) -> Any:  # noqa: ANN401
        asked.append(len(users))
        return recommend(self, users, *others, **options)

    with serving(recommender) as server:
        alone = [server.run(ask()) for ask in requests(server)]
        monkeypatch.setattr(Recommender, "recommend", noting)
        gate = Gate(monkeypatch)

        async def together() -> list[httpx.Response]:
            first, *others = requests(server)
            tasks = [asyncio.create_task(first())]
            await gate.arrival()
            tasks += [asyncio.create_task(ask()) for ask in others]
            for _ in range(500):  # until all of them wait
                await asyncio.sleep(0)
            gate.open.set()
            return await asyncio.gather(*tasks)

        answers = server.run(together())
    assert {answer.status_code for answer in [*alone, *answers]} == {200}
    assert [rounded(answer.text) for answer in answers] == [rounded(each.text) for each in alone]
    assert sum(asked) == 30
    assert len(asked) <= 5  # the first one, then known or not, with reasons or not


def test_more_may_not_wait_than_may(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(recommender, most_waiting=2) as server:
        gate = Gate(monkeypatch)

        async def crowd() -> tuple[list[httpx.Response], list[httpx.Response]]:
            tasks = [asyncio.create_task(server.ask("GET", "/recommendations/user1"))]
            await gate.arrival()
            tasks += [
                asyncio.create_task(server.ask("GET", f"/recommendations/user{n}"))
                for n in range(2, 7)
            ]
            refused = []
            while len(refused) < 3:
                await asyncio.sleep(0.001)
                refused = [task.result() for task in tasks if task.done()]
            gate.open.set()
            return refused, await asyncio.gather(*tasks)

        refused, answers = server.run(crowd())
        assert len(refused) == 3
        for answer in refused:
            assert problem(answer, 503)["detail"] == "too many requests wait: try again"
            assert answer.headers["retry-after"] == "1"
        served = [answer.json()["user_id"] for answer in answers if answer.status_code == 200]
        assert len(served) == 3
        assert server.get("/recommendations/user9").json()["user_id"] == "user9"


def test_no_more_groups_are_worked_on_than_may(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(recommender, most_waiting=1) as server:
        gate = Gate(monkeypatch, "recommend_group")

        async def crowd() -> list[httpx.Response]:
            first = asyncio.create_task(server.ask("POST", GROUP, json={"members": ["user1"]}))
            await gate.arrival()
            others = [
                await server.ask("POST", GROUP, json={"members": ["user1"]}),
                await server.ask("GET", "/notifications/user1"),
                await server.ask("GET", "/content/content2/similar"),
                await server.ask("GET", "/health"),
                await server.ask("GET", "/recommendations/user1"),
            ]
            gate.open.set()
            return [await first, *others]

        statuses = [answer.status_code for answer in server.run(crowd())]
        assert statuses == [200, 503, 503, 503, 200, 200]
        assert server.post(GROUP, {"members": ["user1"]}).status_code == 200
        problem(server.post(GROUP, {"members": []}), 422)
        assert server.get("/notifications/user1").status_code == 200  # no place was lost


def test_a_client_that_goes_away_does_no_harm(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(recommender) as server:
        gate = Gate(monkeypatch)

        async def leaving() -> httpx.Response:
            gone = [asyncio.create_task(server.ask("GET", "/recommendations/user1"))]
            await gate.arrival()
            gone.append(asyncio.create_task(server.ask("GET", "/recommendations/user2")))
            staying = asyncio.create_task(server.ask("GET", "/recommendations/user3"))
            await asyncio.sleep(0.02)
            for task in gone:
                task.cancel()
            await asyncio.gather(*gone, return_exceptions=True)
            gate.open.set()
            return await staying

        assert server.run(leaving()).json()["user_id"] == "user3"
        assert server.get("/recommendations/user4").json()["user_id"] == "user4"


@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyError])
def test_an_internal_error_says_nothing_of_itself(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def failing(*_: Any, **__: Any) -> None:  # noqa: ANN401
        raise error("a secret of the house")

    with serving(recommender) as server:
        for name in ("recommend", "similar", "notifications"):
            monkeypatch.setattr(Recommender, name, failing)
        for answer in (
            server.get("/recommendations/user1"),
            server.post("/recommendations", {}),
            server.get("/content/content2/similar"),
            server.get("/notifications/user1"),
        ):
            assert problem(answer, 500)["detail"] == "the server failed; its log says why"
            assert "secret" not in answer.text
        monkeypatch.undo()
        assert server.get("/recommendations/user1").status_code == 200


def test_who_cannot_be_answered_does_not_harm_those_who_wait_too(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommend = Recommender.recommend

    def failing(self: Recommender, users: list[Any], *others: Any, **options: Any) -> Any:  # noqa: ANN401
        if "user2" in users:
            raise RuntimeError("not this one")
        return recommend(self, users, *others, **options)

    with serving(recommender) as server:
        monkeypatch.setattr(Recommender, "recommend", failing)

        async def together() -> list[httpx.Response]:
            asked = [server.ask("GET", f"/recommendations/user{n}") for n in range(1, 6)]
            return await asyncio.gather(*asked)

        answers = server.run(together())
    assert [answer.status_code for answer in answers] == [200, 500, 200, 200, 200]


# ------------------------------------------------------------------ metrics


def test_metrics_count_by_path_and_status_not_by_what_was_asked(recommender: Recommender) -> None:
    with serving(recommender) as server:
        for user in ("user1", "user2", "nobody"):
            server.get(f"/recommendations/{user}", strict=True)
        server.get("/recommendations/user1?weather=foggy")
        server.send(GROUP, " " * (LARGEST_BODY + 1))
        server.run(server.ask("DELETE", "/notifications/user1"))
        for path in ("/secret1", "/secret2"):
            server.get(path)
        answer = server.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    counts = dict(re.findall(r"^firetv_answers_total(\{.*\}) (\S+)$", answer.text, re.MULTILINE))
    assert counts == {
        '{path="/recommendations/{user_id}",status="200"}': "2.0",
        '{path="/recommendations/{user_id}",status="404"}': "1.0",
        '{path="/recommendations/{user_id}",status="422"}': "1.0",
        '{path="/recommendations/group",status="413"}': "1.0",
        '{path="/notifications/{user_id}",status="405"}': "1.0",
        '{path="unknown",status="404"}': "2.0",
    }
    assert re.search(r'seconds_count\{path="/recommendations/\{user_id\}"\} 4.0', answer.text)
    assert "secret" not in answer.text
    assert "user1" not in answer.text


def test_metrics_count_internal_errors(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(recommender) as server:
        monkeypatch.setattr(Recommender, "similar", None)
        problem(server.get("/content/content2/similar"), 500)
        text = server.get("/metrics").text
    assert 'answers_total{path="/content/{content_id}/similar",status="500"} 1.0' in text


# ------------------------------------------------------------------ firetv serve


def test_a_server_is_for_this_machine_alone_by_default() -> None:
    assert inspect.signature(serve).parameters["host"].default == "127.0.0.1"


@pytest.mark.parametrize("words", [("--port", "0"), ("--port", "70000"), ("--port", "x")])
def test_a_port_is_a_number_of_a_port(words: tuple[str, str]) -> None:
    result = CliRunner().invoke(commands, ["serve", *words])
    assert result.exit_code == 2
    assert "Invalid value for '--port'" in result.output


@pytest.mark.parametrize("name", ["nowhere", ""])
def test_serve_needs_a_recommender(tmp_path: Path, name: str) -> None:
    result = CliRunner().invoke(commands, ["serve", "--model", str(tmp_path / name)])
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1
    assert str(tmp_path) in result.output


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answering(port: int, process: subprocess.Popen[str]) -> httpx.Response:
    """The first answer of a server that starts."""
    for _ in range(600):
        assert process.poll() is None, process.stderr.read()
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health")
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


def test_serve_answers_until_it_is_stopped_whoever_is_still_asking(
    recommender: Recommender, tmp_path: Path
) -> None:
    recommender.save(tmp_path / "model")
    port = free_port()
    words = ["serve", "--model", str(tmp_path / "model"), "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-c", "from firetv.cli import app; app()", *words],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert answering(port, process).json()["data"] == recommender.about["data"]
        address = f"http://127.0.0.1:{port}"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.2:{port}/health", timeout=5)
        said = httpx.get(f"{address}/recommendations/user3", params=MOMENT).json()
        expected = recommender.recommend(["user3"], AT).to_frame()["content_id"].tolist()
        assert [title["content_id"] for title in said["recommendations"]] == expected
        endless = (b" " * 1000 for _ in range(200))
        headers = {"content-type": "application/json"}
        problem(httpx.post(f"{address}{GROUP}", content=endless, headers=headers), 413)
        with socket.create_connection(("127.0.0.1", port)) as unfinished:
            unfinished.sendall(
                b"POST /recommendations HTTP/1.1\r\nHost: here\r\n"
                b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
            )
            assert httpx.get(f"{address}/health").status_code == 200
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)
    finally:
        process.kill()
        _, log = process.communicate()
    assert "Finished server process" in log
