"""A scheduler and two workers on loopback, as processes of their own, for the tests that need them.

They are started as anybody starts them, with the commands of Dask.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Client

TESTS = Path(__file__).parent
PATIENCE = 120  # seconds, on a busy machine


def wait_for(what: Callable[[], object]) -> None:
    """Wait until something is true."""
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@contextmanager
def two_workers(folder: Path, *options: str) -> Iterator[str]:
    """Address of a scheduler that has two workers of one thread each, with their nannies."""
    address, dask = folder / "scheduler.json", (sys.executable, "-m", "dask")
    quiet = {"DASK_LOGGING__DISTRIBUTED": "error"}
    own = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | quiet | {"PYTHONPATH": os.pathsep.join(filter(None, own))}
    local = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")
    file = ("--scheduler-file", str(address))
    worker = (*file, *local, "--nthreads", "1", *options)
    commands = [
        ("scheduler", "--port", "0", *local, *file),
        ("worker", *worker, "--local-directory", str(folder / "scratch0")),
        ("worker", *worker, "--local-directory", str(folder / "scratch1")),
    ]
    running: list[subprocess.Popen] = []
    try:
        for command in commands:
            with (folder / f"process{len(running)}.log").open("wb") as log:
                started = subprocess.Popen(
                    [*dask, *command],
                    cwd=folder,
                    env=environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            running.append(started)
            wait_for(address.is_file)
        with Client(scheduler_file=str(address), timeout=PATIENCE) as client:
            client.wait_for_workers(2, timeout=PATIENCE)
            yield client.scheduler.address
    finally:
        for process in running:  # nannies and their workers: none has anything to finish
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=PATIENCE)
