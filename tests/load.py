"""Load on a running server: requests at random moments of a given rate, and how long they take.

    python tests/load.py --rate 200 --seconds 30 --users 943

Each answer's time counts from when its request was due, whether or not the client could send it
then, so that a server which stalls is not spared the requests that would have come meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass, field
from urllib.parse import urlencode

import numpy as np

WEATHER = ("sunny", "cloudy", "rainy", "stormy", "snowy")
COMPANIONS = ("alone", "partner", "family", "friends")


@dataclass
class Client:
    """Connections that are kept open, and what was measured."""

    host: str
    port: int
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)

    async def get(self, path: str, due: float) -> None:
        """Ask once."""
        request = f"GET {path} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode()
        head = b""
        while not head:
            connection = self.idle.pop() if self.idle else None
            reader, writer = connection or await asyncio.open_connection(self.host, self.port)
            try:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                if connection is None:  # else the server had closed it, having been idle
                    raise
        status = int(head.split(b" ", 2)[1])
        length = next(line for line in head.lower().split(b"\r\n") if b"content-length:" in line)
        await reader.readexactly(int(length.split(b":")[1]))
        self.seconds.append(time.perf_counter() - due)
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.idle.append((reader, writer))


def paths(rng: np.random.Generator, users: int, count: int) -> list[str]:
    """Requests of random users at random moments, with context and reasons."""
    found = []
    for user in rng.integers(1, users + 1, count):
        day, hour = rng.integers(1, 29), rng.integers(24)
        query = {
            "num_recommendations": 10,
            "time": f"2026-12-{day:02}T{hour:02}:00",
            "weather": rng.choice(WEATHER),
            "companion": rng.choice(COMPANIONS),
            "explain": "true",
        }
        found.append(f"/recommendations/user{user}?{urlencode(query)}")
    return found


async def load(client: Client, asked: list[str], due: np.ndarray) -> None:
    """Send every request when it is due."""
    start, tasks = time.perf_counter(), []
    for path, at in zip(asked, due, strict=True):
        wait = start + at - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(client.get(path, start + at)))
    await asyncio.gather(*tasks)


def main() -> None:
    """Run, and print a line of JSON."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=8000)
    options.add_argument("--rate", type=float, default=200.0, help="Requests a second.")
    options.add_argument("--seconds", type=float, default=30.0)
    options.add_argument("--users", type=int, default=943)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    rng = np.random.default_rng(chosen.seed)
    due = np.cumsum(rng.exponential(1 / chosen.rate, round(chosen.rate * chosen.seconds)))
    client = Client(chosen.host, chosen.port)
    asyncio.run(load(client, paths(rng, chosen.users, len(due)), due))
    taken = 1000 * np.array(client.seconds)
    quantiles = {f"p{q:g}": round(float(np.percentile(taken, q)), 1) for q in (50, 90, 99, 99.9)}
    print(json.dumps({"requests": len(taken), "statuses": client.statuses, "ms": quantiles}))


if __name__ == "__main__":
    main()
