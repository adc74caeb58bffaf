"""Work for many processes, on this machine or on many: Dask runs it.

A scheduler hands tasks to its workers, and hands those of a worker that died to another one. Tasks
read and write files, so that all workers must see the same folders by the same paths, and run the
same code; :func:`check` says so before any work is lost.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from dask.system import CPU_COUNT
from distributed import Client, Future, LocalCluster, as_completed
from distributed.comm import CommClosedError
from tqdm import tqdm

RETRIES = 2  # of a task that raised: a folder on the network may be away for a moment
SECONDS_TO_ANSWER = 10  # for a scheduler, and until it has a worker


@contextmanager
def connect(scheduler: str | None = None) -> Iterator[Client]:
    """Connect to a scheduler, or to a local cluster that lasts as long as the context.

    Parameters
    ----------
    scheduler : str, optional
        Such as ``tcp://10.0.0.5:8786``. By default a cluster on this machine, with one process of
        one thread for each core, which nobody else can reach.

    Yields
    ------
    distributed.Client

    Raises
    ------
    ValueError
        If no scheduler answers at the address, or it has no worker.
    """
    # Workers that come and go are no news; errors are.
    logging.getLogger("distributed").setLevel(logging.ERROR)
    if scheduler is None:
        local = LocalCluster(
            n_workers=CPU_COUNT,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # any free port: several clusters may be there
            silence_logs=logging.CRITICAL,  # what a task raises is told by its future
        )
        with local, Client(local) as client:
            yield client
        return
    try:
        client = Client(scheduler, timeout=SECONDS_TO_ANSWER)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{scheduler}: no scheduler answers. Start one with `dask scheduler`, and give the "
            "address that it prints, such as tcp://10.0.0.5:8786."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=SECONDS_TO_ANSWER)
        except TimeoutError as error:
            raise ValueError(
                f"{scheduler}: has no workers. Start some with `dask worker {scheduler} "
                "--nthreads 1`, in an environment with firetv."
            ) from error
        yield client


@cache
def code_checksum() -> str:
    """SHA-256 of the modules of this package, as this process finds them."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(f"{path.name}\n".encode() + path.read_bytes())
    return found.hexdigest()


def check(client: Client, file: Path) -> None:
    """Check that every worker sees a file that was just written, and has the code that is here.

    Raises
    ------
    ValueError
        If one does not; it is named.
    """
    here = _seen(str(file))
    for worker, there in client.run(_seen, str(file), on_error="return").items():
        if isinstance(there, CommClosedError):  # it died just now: others do its work
            continue
        if isinstance(there, Exception):
            raise ValueError(
                f"worker {worker} cannot run firetv ({type(there).__name__}: {there}). Install "
                "the same version there."
            ) from there
        if there[0] != here[0]:
            raise ValueError(
                f"worker {worker} does not see {file}. Put it into a folder that all machines "
                "share, under the same path."
            )
        if there[1] != here[1]:
            raise ValueError(f"worker {worker} has another version of firetv. Install this one.")


def _seen(file: str) -> tuple[str, str]:
    """Checksums of a file, empty where it is not there, and of the code."""
    path = Path(file)
    content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return content, code_checksum()


def run_tasks(
    client: Client,
    task: Callable[..., Any],
    arguments: Sequence[Any],
    *more: object,
    total: int,
    label: str,
    unit: str,
) -> Iterator[tuple[Any, Future]]:
    """Run a task for each of some arguments, and give each with its future as soon as it is done.

    A progress bar with the time that remains goes to stderr unless ``TQDM_DISABLE=1``. A future
    that failed is given as well: its ``result()`` raises. Whoever stops early cancels the rest.

    Parameters
    ----------
    client : distributed.Client
    task : callable
        A function of a module, called with an argument and all of `more`.
    arguments : sequence
    *more
        The same for all.
    total : int
        Tasks in all; those that are not among the arguments were done earlier.
    label, unit : str
        Of the progress bar.

    Yields
    ------
    tuple of argument and Future
    """
    # Not pure: that two tasks have equal arguments does not mean that the second needs no run.
    futures = [client.submit(task, each, *more, pure=False, retries=RETRIES) for each in arguments]
    asked = {future.key: each for future, each in zip(futures, arguments, strict=True)}
    done = total - len(futures)
    try:
        # Of what an earlier start did, the rate of this one says nothing.
        with tqdm(total=total, initial=done, desc=label, unit=unit) as progress:
            for future in as_completed(futures):
                yield asked[future.key], future
                progress.update()
    finally:
        client.cancel([future for future in futures if not future.done()])
