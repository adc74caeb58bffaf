"""A server of its own process under load: more requests than it can answer, and rude clients."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from load import Client, load
from served import GROUP, PROBLEM, trained
from test_api_server import answering, free_port

from firetv.api import LARGEST_BODY
from firetv.data import Dataset
from firetv.models import ItemKNN

WAITING, SECONDS_EACH, SECONDS_TO_ASK = 4, 0.1, 1.0
# A call takes so long that capacity is known, whatever the machine: those who wait, in each call.
CAPACITY = WAITING / SECONDS_EACH
SLOW_SERVER = f"""
import sys, time
from firetv import api, connections
from firetv.cli import app
from firetv.recommender import Recommender

create_app, recommend = api.create_app, Recommender.recommend

def slow(*given, **options):
    time.sleep({SECONDS_EACH})
    return recommend(*given, **options)

Recommender.recommend = slow
api.create_app = lambda recommender: create_app(recommender, most_waiting={WAITING})
connections.SECONDS_TO_ASK = connections.SECONDS_TO_READ = {SECONDS_TO_ASK}
app(sys.argv[1:])
"""


@dataclass(frozen=True)
class Running:
    """A server, and where it is."""

    port: int
    process: subprocess.Popen[str]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def raw(self, sent: bytes) -> bytes:
        """What is answered to these very bytes, until the connection is closed."""
        with self.connect() as connection:
            connection.sendall(sent)
            return rest(connection)


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    found = b""
    try:
        while chunk := connection.recv(1 << 16):
            found += chunk
    except ConnectionError:  # cut
        pass
    return found


@pytest.fixture(scope="module")
def server(rich: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("server")
    trained(rich, ItemKNN()).save(folder / "model")
    port, log = free_port(), folder / "log"
    words = ["serve", "--model", str(folder / "model"), "--port", str(port)]
    with log.open("w") as errors:
        command = [sys.executable, "-c", SLOW_SERVER, *words]
        process = subprocess.Popen(command, stdout=errors, stderr=errors, text=True)
    try:
        answering(port, process)
        yield Running(port, process, log)
    finally:
        process.kill()
        process.wait()


# --- More requests than can be answered ---


def test_a_crowd_is_turned_away_and_then_all_is_well(server: Running) -> None:
    rate, seconds = 4 * CAPACITY, 2.0
    due = np.arange(round(rate * seconds)) / rate
    client = Client("127.0.0.1", server.port)
    begun = time.perf_counter()
    asyncio.run(load(client, [f"/recommendations/user{n % 27}" for n in range(len(due))], due))
    assert time.perf_counter() - begun < seconds + 5
    assert set(client.statuses) == {200, 503}
    served, asked = client.statuses[200], len(due)
    assert sum(client.statuses.values()) == asked
    assert 0.4 * CAPACITY * seconds < served < 1.5 * CAPACITY * seconds + 2 * WAITING
    # Who is let in waits for those before, and a call or two: not for all who came.
    assert np.quantile(client.seconds, 0.95) < 20 * SECONDS_EACH
    begun = time.perf_counter()
    assert httpx.get(f"{server.url}/recommendations/user3").status_code == 200
    assert time.perf_counter() - begun < 10 * SECONDS_EACH
    text = httpx.get(f"{server.url}/metrics").text
    path = r'\{path="/recommendations/\{user_id\}",status="503"\} '
    assert float(re.search(rf"answers_total{path}(\S+)", text)[1]) == asked - served


def test_who_is_turned_away_is_told_when_to_come_again(server: Running) -> None:
    async def crowd() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
            asked = (client.get("/recommendations/user3") for _ in range(6 * WAITING))
            return await asyncio.gather(*asked)

    refused = [answer for answer in asyncio.run(crowd()) if answer.status_code != 200]
    assert refused
    for answer in refused:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.headers["content-type"] == PROBLEM


# --- Slow clients ---

HEAD = b"POST /recommendations HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /health HT", HEAD + b"Content-Length: 9\r\n\r\n{"],
    ids=["no", "head", "body"],
)
def test_who_never_ends_a_request_is_cut_and_others_are_served(
    server: Running, sent: bytes
) -> None:
    with server.connect() as slow:
        begun = time.perf_counter()
        slow.sendall(sent)
        with suppress(ConnectionError):  # a busy machine may be late, and the connection cut
            for byte in b"    ":  # a byte now and then does not help
                assert httpx.get(f"{server.url}/health").status_code == 200
                time.sleep(SECONDS_TO_ASK / 8)
                if sent:
                    slow.sendall(bytes([byte]))
        assert rest(slow) == b""
        assert SECONDS_TO_ASK * 0.7 < time.perf_counter() - begun < SECONDS_TO_ASK + 10


def test_who_does_not_read_is_cut_and_others_are_served(server: Running) -> None:
    with socket.socket() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greedy.settimeout(0.5)
        greedy.connect(("127.0.0.1", server.port))
        try:
            while True:
                greedy.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: here\r\n\r\n" * 100)
        except TimeoutError:  # the server does not read on, as its answers are not read
            pass
        except ConnectionError:
            return
        assert httpx.get(f"{server.url}/health").status_code == 200
        time.sleep(SECONDS_TO_ASK)
        with pytest.raises(ConnectionError):
            for _ in range(100):
                greedy.sendall(b"GET")
                time.sleep(0.05)


# --- Huge bodies ---


@pytest.mark.parametrize("path", ["/recommendations", GROUP])
def test_a_huge_body_is_refused_before_it_is_sent(server: Running, path: str) -> None:
    head = HEAD.replace(b"/recommendations", path.encode())
    for length in (b"Content-Length: 99999999999\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"):
        with server.connect() as connection:
            connection.sendall(head + length)
            chunk = b" " * (LARGEST_BODY + 1)
            if b"chunked" in length:
                chunk = b"%x\r\n%b\r\n" % (len(chunk), chunk)
            connection.sendall(chunk)  # and no more, of ever so many
            answer = rest(connection)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in answer.lower()
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 413


# --- Odd ids ---

ODD = {
    "path": "..%2f..%2fetc%2fpasswd",
    "dots": "%2e%2e",
    "plain path": "../../etc/passwd",
    "null": "user3%00",
    "line": "a%0d%0aERROR:%20injected",
    "escape": "%1b%5b31m",
    "emoji": "%F0%9F%98%80",
    "right to left": "%E2%80%AEuser3",
    "no text": "%ff%fe",
    "half": "%",
    "long": "u" * 10_000,
    "long text": "%C3%A9" * 5_000,
    "accent": "é",
    "blank": "a b",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_ids_are_refused_cleanly(server: Running, name: str) -> None:
    for path in ("/recommendations/{}?strict=true", "/notifications/{}", "/content/{}/similar"):
        target = path.format(ODD[name]).encode()
        answer = server.raw(b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target)
        head, _, body = answer.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        assert status in (400, 404, 414, 422), answer
        assert b"injected:" not in head.lower()
        assert len(body) < 1000
        if name not in ("accent", "blank", "long text"):  # no HTTP at all, or too long for a head
            assert json.loads(body)["status"] == status
    assert httpx.get(f"{server.url}/health").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"liked": ["\ud800"]},
        {"liked": ["../../etc/passwd", "\0", "a\nb", "\u202e", "😀"]},
        {"liked": ["x" * 10_000]},
        {"profile": {"\ud800": 1}},
        {"profile": {"a\nb": 1}},
        {"profile": {"age": "\ud800"}},
        {"\ud800": 1},
    ],
    ids=ascii,
)
def test_odd_words_in_a_body_are_refused_cleanly(server: Running, body: dict) -> None:
    answer = httpx.post(
        f"{server.url}/recommendations",
        content=json.dumps(body),
        headers={"content-type": "application/json"},
    )
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM), answer.text
    assert answer.json()["status"] == 422


def test_nothing_that_was_asked_is_in_the_log(server: Running) -> None:
    """It runs last: the log is of all that came before."""
    target = b"/notifications/secret%0aERROR:%20secret"
    server.raw(b"GET %b HTTP/1.1\r\nHost: secret\r\nConnection: close\r\n\r\n" % target)
    server.raw(b"\x16\x03\x01secret\r\n\r\n")
    log = server.log.read_text()
    known = ("INFO:", "WARNING:  Invalid HTTP request received.")
    assert [each for each in log.splitlines() if not each.startswith(known)] == []
    assert "secret" not in log
    assert "Invalid HTTP" in log
