"""The command line in processes of its own, which are killed or refused something at a named point.

Python announces what it is about to do, such as to open or rename a file, to audit hooks (PEP 578).
A hook in the process kills it there, or fails in place of the system: no code is replaced. A
process is forked off a server that has imported the package, which saves seconds.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

MODULES = ("firetv.cli", "firetv.recommender", "firetv.packaged", "firetv.sources", "firetv.runs")
MODULES += ("firetv.synthetic",)
PATIENCE = 120  # seconds, on a busy machine


@dataclass(frozen=True)
class Kill:
    """The process is killed as it begins an event for the n-th time."""

    event: str  # of Python's table of audit events, such as "os.rename"; or "call"
    match: str  # a pattern that is searched in its arguments; or in the name of what is called
    nth: int = 1

    def arm(self) -> None:
        """Fault this process."""
        _on(self.event, self.match, self.nth, lambda *_: os.kill(os.getpid(), signal.SIGKILL))


@dataclass(frozen=True)
class Refuse:
    """The system refuses an event, each time."""

    event: str
    match: str
    errno: int

    def arm(self) -> None:
        """Fault this process."""

        def refuse(what: object, *_: object) -> None:
            raise OSError(self.errno, os.strerror(self.errno), what)

        _on(self.event, self.match, 1, refuse)


@dataclass(frozen=True)
class Limit:
    """No file may grow beyond some bytes: whoever writes on is killed, or gets an error."""

    size: int
    kill: bool

    def arm(self) -> None:
        """Fault this process and its children."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))
        if self.kill:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


Fault = Kill | Refuse | Limit


def _on(event: str, match: str, nth: int, act: Callable[..., None]) -> None:
    left = nth

    def hook(name: str, arguments: tuple) -> None:
        nonlocal left
        if name == event and re.search(match, " ".join(map(str, arguments))):
            left -= 1
            if left <= 0:
                act(*arguments)

    if event == "call":
        sys.setprofile(lambda frame, kind, _: hook(kind, (frame.f_code.co_qualname,)))
    else:
        sys.addaudithook(hook)


@dataclass(frozen=True)
class Ended:
    """What is left of a process."""

    code: int  # negative: the signal
    stdout: str
    stderr: str

    @property
    def killed(self) -> bool:
        """Whether the fault ended it."""
        return -self.code in (signal.SIGKILL, signal.SIGXFSZ)


@dataclass
class Started:
    """The command line in a process that goes on."""

    words: tuple[object, ...]
    fault: Fault | None = None
    archives: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __enter__(self) -> Started:
        context = get_context("forkserver")
        context.set_forkserver_preload(list(MODULES))
        self.folder = TemporaryDirectory()
        given = [str(word) for word in self.words], self.fault, self.archives
        where = dict(os.environ), os.getcwd(), self.folder.name
        self.process: BaseProcess = context.Process(target=_run, args=(*given, *where))
        self.process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()
        self.folder.cleanup()

    def end(self) -> Ended:
        """Wait for the end."""
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, f"firetv {self.words} does not end"
        said = [Path(self.folder.name, name) for name in ("stdout", "stderr")]
        return Ended(self.process.exitcode, *(path.read_text("utf-8") for path in said))


def firetv(
    *words: object,
    fault: Fault | None = None,
    archives: Mapping[str, tuple[str, str]] | None = None,
) -> Ended:
    """Run a command to its end.

    Parameters
    ----------
    *words
        Of the command line.
    fault : Kill, Refuse or Limit, optional
    archives : mapping, optional
        Address and SHA-256 of archives that stand for those of the same name.
    """
    with Started(words, fault, archives or {}) as started:
        return started.end()


def _run(
    words: list[str],
    fault: Fault | None,
    archives: Mapping[str, tuple[str, str]],
    environment: Mapping[str, str],
    where: str,
    folder: str,
) -> None:
    """What the process does."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(where)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT), number)
    from firetv.cli import app

    _stand_in(archives)
    if fault is not None:
        fault.arm()
    app(words)


def _stand_in(archives: Mapping[str, tuple[str, str]]) -> None:
    """Fetch archives from elsewhere."""
    from dataclasses import replace

    from firetv import sources

    for name, source in sources.SOURCES.items():
        parts = [
            {
                file: replace(archive, address=archives[file][0], sha256=archives[file][1])
                if file in archives
                else archive
                for file, archive in part.items()
            }
            for part in source.parts
        ]
        sources.SOURCES[name] = replace(source, parts=parts)
