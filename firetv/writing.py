"""Files that are written whole or not at all, and errors that say which file they are about."""

from __future__ import annotations

import contextlib
import glob
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

LONGEST_WRITE = 3600.0  # seconds: a temporary file that is older has nobody who writes it


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file whole or not at all, its folder included.

    What processes that were killed as they wrote it have left goes, once it is old enough.

    Raises
    ------
    OSError
        If it cannot be written; the error names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path):
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with contextlib.suppress(OSError):  # another process, here or elsewhere, may be first
            old = time.time() - left.stat().st_mtime > LONGEST_WRITE
            if old and writer(left) is not None:
                left.unlink()
    return path


def writer(temporary: Path) -> int | None:
    """The process that a temporary file or folder is named after; None if after none."""
    number = temporary.name.rpartition(".")[2]
    return int(number) if number.isdecimal() else None


def is_orphan(temporary: Path) -> bool:
    """Whether the process that a temporary file or folder is named after is not on this machine."""
    process = writer(temporary)
    return process is not None and not psutil.pid_exists(process)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name a file in an error of the system that names none, such as of a disk that is full."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
