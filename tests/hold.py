"""Loaded by the workers of the tests: as long as a file is there, they wait before they write."""

from __future__ import annotations

import os
import time
from pathlib import Path


def hold(folder: Path) -> None:
    """Say that this process is in the midst of its work, and wait until it may go on."""
    held, barrier = folder / f"held-{os.getpid()}", folder / "hold"
    if barrier.is_file():
        held.touch()
    while barrier.is_file():
        time.sleep(0.02)


def dask_setup(worker: object) -> None:
    from firetv import batch

    write_whole = batch.write_whole

    def write_later(path: Path, content: bytes) -> Path:
        hold(path.parents[1])
        return write_whole(path, content)

    batch.write_whole = write_later
