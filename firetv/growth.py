"""How time and memory grow with users, titles and events, from reading to the bootstrap.

:func:`measure` takes one size: it makes a planted world on disk, as Parquet, which does not count,
and then runs all stages in a process of its own, so that the peak of memory is theirs. :func:`grid`
takes several sizes, :func:`exponents` says how steep the growth is: 1 is in proportion.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import sparse, stats
from tqdm import tqdm

from firetv.abtest import Interval, mean_interval
from firetv.artefacts import RESULT_COLUMNS
from firetv.benchmarks import pinned
from firetv.context import ContextBoost
from firetv.data import Dataset, load
from firetv.metrics import ACCURACY, hits_at
from firetv.models import ALS, LightFM
from firetv.moments import VALUES
from firetv.slate import EMPTY, Step, top
from firetv.sources import cache_folder
from firetv.steps import FactorStep
from firetv.synthetic import VERSION, generate
from firetv.world import World

STAGES = ("read", "train ALS", "train WARP", "score", "re-rank", "evaluate", "bootstrap")
QUANTITIES = ("seconds", "cpu_seconds", "extra_bytes", "peak_bytes")
METRICS = ("precision", "recall", "ndcg", "map", "mrr")
LATER = 0.2  # share of the events that is held out
RULES_SEE = 100_000  # events; rules by hand learn nothing from them
TIMER_NOISE = 0.02  # seconds; less says little
MEMORY_NOISE = 5e6  # bytes; less says little
WARM_UP = (200, 100, 4_000)  # users, titles, events
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Size:
    """How large a world is.

    Examples
    --------
    >>> print(Size(users=1000, items=500, events=20_000))
    1,000 users, 500 titles, 20,000 events
    """

    users: int
    items: int
    events: int

    def __str__(self) -> str:
        return f"{self.users:,.0f} users, {self.items:,.0f} titles, {self.events:,.0f} events"


@dataclass(frozen=True)
class Work:
    """What is done at each size, the same at all.

    Attributes
    ----------
    components, epochs : int
        Of ALS.
    warp_components : int
        Of LightFM, which learns for one epoch.
    warp_events : int
        Events beyond which LightFM is left out.
    proposals : int
        Titles proposed to each user, and re-ranked.
    k : int
        Length of the lists.
    chunk : int
        Users at a time; memory of scoring and re-ranking is bounded by it.
    threads : int
        Of BLAS and OpenMP. ALS and LightFM learn with one.
    seed : int
        Of the world, models, moments and resampling.
    """

    components: int = 32
    epochs: int = 3
    warp_components: int = 16
    warp_events: int = 2_000_000
    proposals: int = 100
    k: int = 10
    chunk: int = 4096
    threads: int = 1
    seed: int = 0


# Sizes


def with_users(
    users: Sequence[int] = (1_000, 3_000, 10_000, 30_000, 100_000),
    items: int = 5_000,
    events_each: int = 20,
) -> list[Size]:
    """Sizes at which users and events grow together, and titles do not."""
    return [Size(count, items, count * events_each) for count in users]


def with_items(
    items: Sequence[int] = (500, 1_500, 5_000, 15_000, 50_000),
    users: int = 10_000,
    events: int = 200_000,
) -> list[Size]:
    """Sizes at which titles grow, and nothing else."""
    return [Size(users, count, events) for count in items]


# Measuring


@dataclass
class Meter:
    """Seconds and memory of a piece of work, however often it is taken up.

    Attributes
    ----------
    seconds : float
        Wall time, summed up.
    cpu_seconds : float
        Of all threads of the process: less shaken by what else the machine does.
    extra_bytes : float
        The most by which memory rose above what it was at the beginning of a turn. Memory that
        was freed before, but not given back, may serve without being seen here: see
        :func:`give_back`.
    peak_bytes : float
        The most that the process held. Both are NaN where Linux does not count them.

    Examples
    --------
    >>> meter = Meter()
    >>> with meter.running():
    ...     total = sum(range(1000))
    >>> meter.seconds > 0
    True
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    extra_bytes: float = np.nan
    peak_bytes: float = np.nan

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count while the block runs."""
        forgotten = _forget_peak()
        before = _memory("VmRSS")
        start, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds += time.perf_counter() - start
        self.cpu_seconds += time.process_time() - cpu
        peak = _memory("VmHWM") if forgotten else np.nan
        extra = np.maximum(0, peak - before)  # the kernel's two counts differ by some pages
        self.extra_bytes = float(np.fmax(self.extra_bytes, extra))
        self.peak_bytes = float(np.fmax(self.peak_bytes, peak))


def give_back() -> None:
    """Let the libraries give memory that they no longer use back to the system, as far as known."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)  # of the GNU C library


def _forget_peak() -> bool:
    """Let the kernel measure the peak of this process anew; False where it does not."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _memory(name: Literal["VmRSS", "VmHWM"]) -> float:
    """Bytes that this process holds now, or held at most; NaN where nobody counts them."""
    if not STATUS.is_file():
        return np.nan
    lines = dict(line.split(":", 1) for line in STATUS.read_text("ascii", "replace").splitlines())
    return 1024.0 * int(lines[name].split()[0])


def measure(size: Size, folder: Path | None = None, work: Work | None = None) -> pd.DataFrame:
    """Measure all stages at one size, in a process of their own.

    It runs them on a very small world first: what only a first call costs, such as imports, is
    no part of growth.

    Parameters
    ----------
    size : Size
    folder : Path, optional
        Where worlds are kept, and found again; by default in the cache.
    work : Work, optional
        What is done.

    Returns
    -------
    DataFrame
        ``users, items, events, stage`` and :data:`QUANTITIES`, a row for each of
        :data:`STAGES`, without LightFM where there are too many events for it. See
        :class:`Meter` for what the quantities are.

    Raises
    ------
    DataError
        If no such world can be made.
    RuntimeError
        If the process fails; it says why on stderr.
    """
    work = work or Work()
    folder = folder or cache_folder("growth")
    world = _world(size, folder, work.seed)
    small = _world(Size(*WARM_UP), folder, work.seed)
    command = [sys.executable, "-m", "firetv.growth", str(small), str(world)]
    command.append(json.dumps(asdict(work)))
    environment = os.environ | pinned(work.threads)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        why = "killed, likely for want of memory" if done.returncode < 0 else "see above"
        raise RuntimeError(f"{size}: measuring failed with code {done.returncode} ({why})")
    columns = ["stage", *QUANTITIES]
    found = pd.DataFrame(json.loads(done.stdout), columns=columns).astype(
        dict.fromkeys(QUANTITIES, float)
    )
    for place, (name, value) in enumerate(asdict(size).items()):
        found.insert(place, name, value)
    return found


def _world(size: Size, folder: Path, seed: int) -> Path:
    """Folder of a world of that size, made only if it is not there yet."""
    place = folder / f"{size.users}-{size.items}-{size.events}-seed{seed}-version{VERSION}"
    if not (place / "manifest.json").is_file():  # which is written last
        generate(World(size.users, size.items, size.events, seed), place, "parquet")
    return place


def grid(
    sizes: Iterable[Size],
    folder: Path | None = None,
    work: Work | None = None,
    repeats: int = 1,
) -> pd.DataFrame:
    """Measure several sizes, one below the other: see :func:`measure`.

    Parameters
    ----------
    sizes : iterable of Size
        Such as :func:`with_users` or :func:`with_items`.
    folder, work
        See :func:`measure`.
    repeats : int
        Processes of each size. All sizes come once before any comes again.

    Raises
    ------
    ValueError
        If there is nothing to measure.
    """
    jobs = list(sizes) * repeats
    if not jobs:
        raise ValueError(f"nothing to measure: give sizes, and {repeats} repeats must be 1 or more")
    return pd.concat(
        [measure(size, folder, work) for size in tqdm(jobs, desc="sizes")], ignore_index=True
    )


# The stages


@dataclass(frozen=True)
class _Asked:
    """What is learned from, what is asked, and what should be found."""

    train: Dataset
    requests: pd.DataFrame  # one for each user, in a moment of the days after
    relevant: sparse.csr_array  # (n_users, n_items)

    @classmethod
    def of(cls, data: Dataset, seed: int) -> _Asked:
        """Hold the last events out, and draw a moment for every user."""
        times = data.interactions["timestamp"]
        cut = times.quantile(1 - LATER)
        train, test = data.until(cut), data.interactions[times >= cut]
        pairs = (test["user"].to_numpy(), test["item"].to_numpy())
        later = sparse.csr_array((np.ones(len(test), np.float32), pairs), shape=data.shape)
        fresh = sparse.csr_array(later > later.multiply(train.matrix()))
        rng, users = np.random.default_rng(seed), np.arange(data.shape[0], dtype=np.int32)
        moments = {
            name: pd.array(rng.choice(VALUES[name], len(users)), "str")
            for name in ("weather", "companion")
        }
        week = pd.to_timedelta(rng.integers(7 * 86_400, size=len(users)), unit="s")
        return cls(train, pd.DataFrame({"user": users, "at": cut + week} | moments), fresh)

    def rules(self) -> Step:
        """Rules by hand for the moment: they read the titles, and are not part of what counts."""
        few = self.train.interactions.iloc[:RULES_SEE]
        known = replace(self.train, interactions=few, reactions=self.train.reactions.iloc[:0])
        return ContextBoost("rules", strength=1.0).fit(known)


@dataclass(frozen=True)
class _Run:
    """All stages in order, each under its meter."""

    work: Work
    meters: dict[str, Meter] = field(default_factory=dict)

    def all(self, folder: Path) -> dict[str, Meter]:
        """Run the stages on a world."""
        with self.metered("read"):
            data = load(folder)
        asked = _Asked.of(data, self.work.seed)
        del data  # what is held from here on is the training part
        model = self.train(asked.train)
        lists = self.lists(model, asked)
        found = self.evaluate(lists, asked.relevant)
        self.bootstrap(found["ndcg"])
        return self.meters

    @contextmanager
    def metered(self, stage: str) -> Iterator[None]:
        """Run a block under the meter of its stage, without rubbish from before."""
        give_back()
        with self.meters.setdefault(stage, Meter()).running():
            yield

    def train(self, data: Dataset) -> FactorStep:
        """Learn by ALS, whose vectors go on, and by one epoch of LightFM."""
        work = self.work
        with self.metered("train ALS"):
            model = ALS(work.components, epochs=work.epochs, seed=work.seed).fit(data)
        if len(data.interactions) <= work.warp_events:
            with self.metered("train WARP"):
                LightFM(work.warp_components, epochs=1, seed=work.seed).fit(data)
        return model

    def lists(self, model: FactorStep, asked: _Asked) -> np.ndarray:
        """Propose and re-rank for all users; chunk by chunk, or all proposals would be held."""
        work, rules, seen = self.work, asked.rules(), asked.train.matrix()
        titles = np.flatnonzero(asked.train.item_counts)
        lists = np.full((len(asked.requests), work.k), EMPTY, np.int32)
        score, rerank = (self.meters.setdefault(n, Meter()) for n in ("score", "re-rank"))
        give_back()
        for start in tqdm(range(0, len(lists), work.chunk), desc="scoring", leave=False):
            rows = slice(start, start + work.chunk)
            with score.running():
                slate = model.propose(asked.requests.iloc[rows], titles, work.proposals, seen)
            with rerank.running():
                slate = top(work.k)(rules(slate))
            lists[rows, : slate.shape[1]] = slate.items
        return lists

    def evaluate(self, lists: np.ndarray, relevant: sparse.csr_array) -> Mapping[str, np.ndarray]:
        """Five accuracy metrics of each user."""
        with self.metered("evaluate"):
            hits, n_relevant = hits_at(lists, relevant), np.diff(relevant.indptr)
            return {name: ACCURACY[name](hits, n_relevant) for name in METRICS}

    def bootstrap(self, values: np.ndarray) -> Interval:
        """Interval of the mean over users."""
        with self.metered("bootstrap"):
            return mean_interval(values, self.work.seed)


# What follows from it


def results(frame: pd.DataFrame, section: str = "growth") -> pd.DataFrame:
    """Turn what was measured into results of an artefact.

    Returns
    -------
    DataFrame
        ``model`` is the stage, ``split`` the size in words, ``metric`` one of
        :data:`QUANTITIES`, ``value`` the median of ``n`` measurements, ``low`` and ``high`` their
        least and most. Memory that was not measured is left out.
    """
    tall = frame.melt([*Size.__annotations__, "stage"], list(QUANTITIES), "metric").dropna()
    keys = [*Size.__annotations__, "stage", "metric"]
    found = tall.groupby(keys, sort=False)["value"].agg(["median", "min", "max", "size"])
    rows = [
        (section, stage, str(Size(*size)), metric, *values, n, 1)
        for (*size, stage, metric), (*values, n) in zip(
            found.index, found.itertuples(index=False, name=None), strict=True
        )
    ]
    return pd.DataFrame(rows, columns=list(RESULT_COLUMNS))


def exponents(
    frame: pd.DataFrame,
    by: Literal["users", "items", "events"] = "users",
    section: str = "growth",
) -> pd.DataFrame:
    """How steeply each stage grows: the slope of its logarithm on that of the size.

    Parameters
    ----------
    frame : DataFrame
        As :func:`grid` gives it.
    by : {"users", "items", "events"}
        What grows.
    section : str
        Of the results.

    Returns
    -------
    DataFrame
        Columns of an artefact's results. ``model`` is the stage, ``split`` is `by`, ``metric`` is
        ``exponent of`` one of :data:`QUANTITIES` but the peak; ``value`` with its 95 % interval
        of a least-squares line by Student's t, which takes five sizes to be of use; ``n``
        measurements. Those below :data:`TIMER_NOISE` or :data:`MEMORY_NOISE` do not count; a
        stage that is left with fewer than three sizes has no row.

    Notes
    -----
    What a stage costs however small the data are makes the slope too flat, where it matters.

    Examples
    --------
    >>> users = np.array([1e3, 1e4, 1e5])
    >>> frame = pd.DataFrame({"users": users, "stage": "score", "seconds": 1e-4 * users})
    >>> found = exponents(frame.assign(cpu_seconds=np.nan, extra_bytes=np.nan))
    >>> found[["model", "metric", "value"]].round(2)
       model               metric  value
    0  score  exponent of seconds    1.0
    """
    floors = {"seconds": TIMER_NOISE, "cpu_seconds": TIMER_NOISE, "extra_bytes": MEMORY_NOISE}
    rows = []
    for quantity, floor in floors.items():
        for stage, measured in frame[frame[quantity] >= floor].groupby("stage", sort=False):
            if measured[by].nunique() >= 3:
                slope, margin = _slope(measured[by], measured[quantity])
                metric, ends = f"exponent of {quantity}", (slope - margin, slope + margin)
                rows.append((section, stage, by, metric, slope, *ends, len(measured), 1))
    return pd.DataFrame(rows, columns=list(RESULT_COLUMNS))


def _slope(x: pd.Series, y: pd.Series) -> tuple[float, float]:
    """Slope of log y on log x, and half of its 95 % interval."""
    line = stats.linregress(np.log(x), np.log(y))
    return float(line.slope), float(stats.t.ppf(0.975, len(x) - 2) * line.stderr)


def _main() -> None:
    """Measure one world in this process, after a small one, and print the rows as JSON."""
    options = argparse.ArgumentParser(description=_main.__doc__)
    options.add_argument("small", type=Path, help="A world for what only the first call costs.")
    options.add_argument("folder", type=Path)
    options.add_argument("work", type=json.loads, help="JSON of Work.")
    chosen = options.parse_args()
    work = Work(**chosen.work)
    _Run(work).all(chosen.small)
    meters = _Run(work).all(chosen.folder)
    rows = [{"stage": stage, **asdict(meters[stage])} for stage in STAGES if stage in meters]
    print(json.dumps(rows))


if __name__ == "__main__":
    _main()
