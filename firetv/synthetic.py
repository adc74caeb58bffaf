"""What people watch in a planted world, in memory or as files.

Own choices follow the law of :mod:`firetv.world`. Being a mixture over dimensions of taste, it is
drawn in three steps (dimension, class of genres, item) from tables that all users share: exact,
and an event costs the same however long the catalogue.

With probability ``influence`` a choice is instead copied from a friend's viewings of the week
before (weeks from ``start``), whatever the context: each viewing counts by the strength of the
friendship. Users without such viewings never copy.

Hours are UTC in every region. Hour and day of the week go together; weather, festival and
companion depend neither on them, nor on each other, nor on taste.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet
from scipy import sparse
from scipy.special import expit, ndtri
from tqdm import tqdm

from firetv.data import SUFFIXES, Tables, read_manifest
from firetv.files import partials, replacing
from firetv.schema import EVENT_TABLES, REACTIONS, SCHEMAS, DataError
from firetv.world import (
    CONTEXTS,
    DAYPART_OF_HOUR,
    FESTIVALS,
    GENRES,
    Setting,
    Truth,
    World,
    hour_codes,
    joint_codes,
    labels,
    plant,
)

VERSION = 1  # raise it when the same parameters give other data
SOURCE = "firetv.synthetic"  # what a manifest of ours begins its source with
CHUNK = 1 << 16  # events held as a table at once; the output does not depend on it
WEEK = 7  # days

HOUR_WEIGHTS = (  # weekday, weekend
    (2, 1, 1, 1, 1, 2, 4, 6, 6, 4, 3, 3, 4, 4, 4, 5, 6, 8, 11, 14, 16, 14, 10, 5),
    (4, 2, 1, 1, 1, 1, 2, 4, 6, 8, 9, 9, 9, 9, 9, 9, 10, 10, 12, 14, 15, 14, 11, 7),
)
WEEKDAY_WEIGHTS = np.array([0.90, 0.88, 0.90, 0.95, 1.10, 1.35, 1.30])  # Monday first
COMPANION_WEIGHTS = (0.45, 0.25, 0.20, 0.10)

# Liking = intercept + slope * log(match of tastes, 1 on average) + noise * a normal variable.
COMPLETION = {"intercept": 0.8, "slope": 0.9, "noise": 1.0}  # the logit of the share watched
RATING = {"intercept": 2.9, "slope": 0.8, "noise": 0.6}  # rounded to half stars within 1..5
LOVE, LIKE = 4.5, 3.0  # lowest rating of a love and of a like; below is a dislike


# ------------------------------------------------------------------ laws of choice


def _ladder(weights: np.ndarray | Sequence) -> np.ndarray:
    """Row number plus cumulative share: rising throughout, so one search draws from any row."""
    share = np.cumsum(np.atleast_2d(weights), axis=1, dtype=np.float64)
    share /= share[:, -1:]
    share += np.arange(len(share))[:, None]
    return np.ascontiguousarray(share)  # so that the search makes no copy


def _pick(ladder: np.ndarray, row: np.ndarray | int, u: np.ndarray) -> np.ndarray:
    """Column of each row at quantile ``u`` in [0, 1)."""
    width = ladder.shape[1]
    found = np.searchsorted(ladder.ravel(), row + u, side="right")
    return np.minimum(found - row * width, width - 1)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # Not BLAS, whose last digits depend on threads and on the size of the chunk.
    return np.einsum("nd,nd->n", a, b)


@dataclass(frozen=True)
class _Choice:
    """Own choices: a dimension of taste given user and context, then a class, then an item."""

    truth: Truth
    lift: np.ndarray  # (contexts, classes), multipliers
    mass: np.ndarray  # (contexts, dimensions); <taste, mass> is a user's normaliser
    classes: np.ndarray  # ladder, a row for each context and dimension
    order: np.ndarray  # (content,), items sorted by class
    items: np.ndarray  # ladder, a row for each dimension, columns in that order
    first: np.ndarray  # (classes + 1,), where each class begins in that order
    edges: np.ndarray  # (dimensions, classes + 1), cumulative share there

    @classmethod
    def of(cls, truth: Truth) -> _Choice:
        order = np.argsort(truth.item_class, kind="stable")
        n_classes = len(truth.class_genres)
        first = np.searchsorted(truth.item_class[order], np.arange(n_classes + 1))
        weight = (truth.item_taste.T * truth.popularity)[:, order]
        items = _ladder(weight)
        share = items - np.arange(len(items))[:, None]
        edges = np.pad(share, ((0, 0), (1, 0)))[:, first]
        lift = np.exp(truth.class_lifts())
        joint = lift[:, None] * np.add.reduceat(weight, first[:-1], axis=1)
        classes = _ladder(joint.reshape(-1, n_classes))
        return cls(truth, lift, joint.sum(axis=2), classes, order, items, first, edges)

    def draw(self, users: np.ndarray, contexts: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Items, for uniforms of shape (n, 3)."""
        weight = np.cumsum(self.truth.user_taste[users] * self.mass[contexts], axis=1)
        topic = (weight[:, :-1] <= u[:, :1] * weight[:, -1:]).sum(axis=1)
        row = contexts * self.mass.shape[1] + topic
        group = _pick(self.classes, row, u[:, 1])
        low, high = self.edges[topic, group], self.edges[topic, group + 1]
        place = _pick(self.items, topic, low + u[:, 2] * (high - low))
        return self.order[np.clip(place, self.first[group], self.first[group + 1] - 1)]

    def propensity(self, users: np.ndarray, contexts: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Probability that these users choose these items."""
        truth = self.truth
        lift = self.lift[contexts, truth.item_class[items]]
        match = _dot(truth.user_taste[users], truth.item_taste[items])
        total = _dot(truth.user_taste[users], self.mass[contexts])
        return truth.popularity[items] * match * lift / total


@dataclass(frozen=True)
class _LastWeek:
    """What there is to copy: the viewings of friends in the week before."""

    friends: sparse.csr_array  # (users, users), strength
    ties: sparse.csr_array  # (users, users), strength x the friend's number of viewings
    ladder: np.ndarray  # cumulative ties, from 0
    total: np.ndarray  # (users,), sum of ties; 0 where there is nothing to copy
    viewed: sparse.csr_array  # (users, content), number of viewings
    items: np.ndarray  # sorted by viewer
    first: np.ndarray  # (users + 1,), where each viewer begins in items

    @classmethod
    def of(cls, friends: sparse.csr_array, viewings: np.ndarray, n_items: int) -> _LastWeek:
        users, items = viewings
        shape = (friends.shape[0], n_items)
        count = np.bincount(users, minlength=shape[0])
        ties = sparse.csr_array(friends.multiply(count[None, :]))
        ties.eliminate_zeros()
        ladder = np.concatenate([[0.0], np.cumsum(ties.data)])
        total = ladder[ties.indptr[1:]] - ladder[ties.indptr[:-1]]
        viewed = sparse.csr_array((np.ones(len(users)), (users, items)), shape=shape)
        first = np.concatenate([[0], np.cumsum(count)])
        by_viewer = items[np.argsort(users, kind="stable")]
        return cls(friends, ties, ladder, total, viewed, by_viewer, first)

    def draw(self, users: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Items that these users copy, for uniforms of shape (n, 2)."""
        start, end = self.ties.indptr[users], self.ties.indptr[users + 1]
        target = self.ladder[start] + u[:, 0] * self.total[users]
        tie = np.searchsorted(self.ladder, target, side="right") - 1
        friend = self.ties.indices[np.clip(tie, start, end - 1)]
        low, high = self.first[friend], self.first[friend + 1]
        return self.items[low + (u[:, 1] * (high - low)).astype(np.int64)]

    def propensity(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Probability that a copy by these users is these items."""
        known, row = np.unique(users, return_inverse=True)
        reach = sparse.csr_array(self.friends[known] @ self.viewed)
        return reach[row, items] / self.total[users]


# ------------------------------------------------------------------ events


def _events(setting: Setting) -> Iterator[dict[str, pd.DataFrame]]:
    """Tables of events in the order of time, by chunks."""
    waiting: list[dict[str, np.ndarray]] = []
    for drawn in _drawn(setting):  # a small world's weeks become tables together, which is faster
        waiting.append(drawn)
        if sum(len(each["times"]) for each in waiting) >= CHUNK:
            yield _tables(setting, waiting)
            waiting = []
    if waiting:
        yield _tables(setting, waiting)


def _drawn(setting: Setting) -> Iterator[dict[str, np.ndarray]]:
    """Codes of events in the order of time, by chunks; memory holds two weeks of codes."""
    world, choice = setting.truth.world, _Choice.of(setting.truth)
    active = _ladder(setting.truth.activity)
    weight = WEEKDAY_WEIGHTS[world.dates.day_of_week]
    counts = world.rng("days").multinomial(world.watch_events, weight / weight.sum())
    viewings = np.empty((2, 0), np.int64)
    for week, start in enumerate(range(0, world.days, WEEK)):
        before = _LastWeek.of(setting.friends, viewings, world.content)
        times = _times(world, week, counts[start : start + WEEK])
        rng, viewings = world.rng("events", week), np.empty((2, len(times)), np.int64)
        for i in range(0, len(times), CHUNK):
            chunk = times[i : i + CHUNK]
            uniforms = rng.random((len(chunk), 11))  # row by row, whatever the size of the chunk
            users = _pick(active, 0, uniforms[:, 0])
            drawn = _chunk(setting, choice, before, users, chunk, uniforms)
            viewings[:, i : i + CHUNK] = users, drawn["items"]
            yield drawn


def _times(world: World, week: int, counts: np.ndarray) -> np.ndarray:
    """Seconds since the start of the world, sorted."""
    rng = world.rng("times", week)
    day = np.repeat(np.arange(len(counts)) + week * WEEK, counts)
    weekend = (world.dates.day_of_week >= 5).astype(int)[day]
    hour = _pick(_ladder(HOUR_WEIGHTS), weekend, rng.random(len(day)))
    return np.sort(day * 86_400 + hour * 3600 + rng.integers(3600, size=len(day)))


def _context(
    setting: Setting, users: np.ndarray, times: np.ndarray, u: np.ndarray
) -> dict[str, np.ndarray]:
    """Codes of what is recorded of the context beside the time."""
    day = times // 86_400
    codes = {
        "weather": setting.weather[setting.region[users], day],
        "festival": setting.festival[day],
    }
    if setting.truth.world.companion:
        codes["companion"] = _pick(_ladder(COMPANION_WEIGHTS), 0, u)
    return codes


def _chunk(
    setting: Setting,
    choice: _Choice,
    before: _LastWeek,
    users: np.ndarray,
    times: np.ndarray,
    u: np.ndarray,
) -> dict[str, np.ndarray]:
    """What these users watch at these times, for uniforms of shape (n, 11), of which two stay."""
    influence, dates = setting.truth.world.influence, setting.truth.world.dates
    codes = _context(setting, users, times, u[:, 1])
    day, second = np.divmod(times, 86_400)
    at = hour_codes(second // 3600, dates.day_of_week.to_numpy()[day])
    unknown = dict.fromkeys(CONTEXTS, np.full(len(times), -1))
    contexts = joint_codes(unknown | codes | at)
    items = choice.draw(users, contexts, u[:, 2:5])
    exposed = (before.total[users] > 0) & (influence > 0)
    copied = exposed & (u[:, 5] < influence)
    items[copied] = before.draw(users[copied], u[copied, 6:8])
    propensity = choice.propensity(users, contexts, items)
    copying = before.propensity(users[exposed], items[exposed])
    propensity[exposed] += influence * (copying - propensity[exposed])
    drawn = {"users": users, "items": items, "times": times, "liking": u[:, 8:11]}
    return drawn | {"propensity": propensity, "copied": copied} | codes


def _tables(setting: Setting, drawn: Sequence[dict[str, np.ndarray]]) -> dict[str, pd.DataFrame]:
    """Tables of the events of some chunks."""
    codes = {name: np.concatenate([each[name] for each in drawn]) for name in drawn[0]}
    users, items, u = (codes[name] for name in ("users", "items", "liking"))
    tables, truth, world = setting.tables, setting.truth, setting.truth.world
    match = _dot(truth.user_taste[users], truth.item_taste[items])
    columns = {
        "user_id": tables.users["user_id"].array.take(users),
        "content_id": tables.content["content_id"].array.take(items),
        "timestamp": world.dates[0].tz_localize("UTC") + pd.to_timedelta(codes["times"], unit="s"),
        "completion": np.round(expit(_liking(COMPLETION, match, u[:, 0])), 2),
    }
    recorded = {n: labels(values, codes[n]) for n, values in CONTEXTS.items() if n in codes}
    watch, rated = pd.DataFrame(columns | recorded), u[:, 1] < world.reaction_share
    return {
        "watch_history": watch,
        "content_reactions": _reactions(watch[rated], match[rated], u[rated, 2]),
        "watch_truth": pd.DataFrame({name: codes[name] for name in ("propensity", "copied")}),
    }


def _reactions(watch: pd.DataFrame, match: np.ndarray, u: np.ndarray) -> pd.DataFrame:
    rating = np.clip(np.rint(2 * _liking(RATING, match, u)) / 2, 1, 5)
    reaction = labels(REACTIONS, (rating < LOVE).astype(int) + (rating < LIKE))
    event = watch[["user_id", "content_id", "timestamp"]]
    return event.assign(rating=rating, reaction=reaction).reset_index(drop=True)


def _liking(law: Mapping[str, float], match: np.ndarray, u: np.ndarray) -> np.ndarray:
    return law["intercept"] + law["slope"] * np.log(match) + law["noise"] * ndtri(u)


def simulate(world: World) -> tuple[Tables, Truth]:
    """Make a world in memory: the one that :func:`generate` writes.

    Examples
    --------
    >>> tables, truth = simulate(World(users=20, content=50, watch_events=300))
    >>> len(tables.watch_history), truth.item_taste.shape
    (300, (50, 12))
    """
    setting = plant(world)
    chunks = list(_events(setting))
    events = {n: pd.concat([c[n] for c in chunks], ignore_index=True) for n in chunks[0]}
    truth = replace(setting.truth, watch=events.pop("watch_truth"))
    events = {name: table for name, table in events.items() if len(table)}
    tables = replace(setting.tables, **events)
    columns = {name: list(table) for name, table in tables.present().items()}
    return replace(tables, manifest=_manifest(world, columns)), truth


# ------------------------------------------------------------------ files


def generate(world: World, folder: str | Path, format: Literal["csv", "parquet"] = "csv") -> None:
    """Make a world and write it to a folder, by chunks.

    The tables are for :func:`firetv.data.load`. Beside them, for :func:`read_truth`, are
    ``truth.json``, ``truth.npz`` and, row by row with watch_history, ``watch_truth.parquet``.
    Files move to their places when all are complete, ``manifest.json`` last.

    Parameters
    ----------
    world : World
    folder : path
        Made if absent; an earlier world in it is replaced.
    format : {"csv", "parquet"}
        Of the tables. Parquet takes a quarter of the space, and is read by blocks.

    Raises
    ------
    DataError
        If the folder holds tables that are not an earlier world's, or are in another format.

    Notes
    -----
    A progress bar goes to stderr, unless the environment sets ``TQDM_DISABLE=1``.
    """
    folder, own = Path(folder), f".{format}"
    ours = any(  # or of one that was killed as its files moved
        read_manifest(each).get("source", "").startswith(SOURCE)
        for each in (folder, *partials(folder))
    )
    names = [f"{n}{suffix}" for n in SCHEMAS for suffix in SUFFIXES if suffix != own or not ours]
    if strays := ", ".join(name for name in (*names, *EVENT_TABLES) if (folder / name).exists()):
        raise DataError(f"{folder} already holds {strays}. Remove them, or name another folder.")
    with replacing(folder, [f"{table}{own}" for table in SCHEMAS]) as partial:
        _write(world, partial, own)


def _write(world: World, folder: Path, suffix: str) -> None:
    setting = plant(world)
    _write_truth(setting.truth, folder)
    sinks, columns, rows = {}, {}, Counter()
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=world.watch_events, desc="events"))
        for frames in chain([setting.tables.present()], _events(setting)):
            for name, frame in frames.items():
                if frame.empty:
                    continue
                end = ".parquet" if name == "watch_truth" else suffix
                table = _as_text(frame) if end == ".csv" else _arrow(frame)
                if name not in sinks:
                    sinks[name] = stack.enter_context(_sink(folder / f"{name}{end}", table.schema))
                    columns[name] = list(frame)
                sinks[name].write_table(table)
                rows[name] += len(frame)
            bar.update(len(frames.get("watch_history", ())))
    del columns["watch_truth"], rows["watch_truth"]
    _write_json({**_manifest(world, columns), "rows": rows}, folder / "manifest.json")


def _sink(path: Path, schema: pa.Schema) -> csv.CSVWriter | parquet.ParquetWriter:
    if path.suffix == ".parquet":
        return parquet.ParquetWriter(path, schema)
    options = csv.WriteOptions(quoting_style="none", quoting_header="none", batch_size=CHUNK)
    return csv.CSVWriter(path, schema, write_options=options)


def _arrow(frame: pd.DataFrame) -> pa.Table:
    """Turn a table to Arrow, its genres to text."""
    if "genres" in frame:
        frame = frame.assign(genres=frame["genres"].str.join("|"))
    return pa.Table.from_pandas(frame, preserve_index=False)


def _as_text(frame: pd.DataFrame) -> pa.Table:
    """Turn a table to Arrow, its genres and times to text, as CSV wants them."""
    table = _arrow(frame)
    for i, column in enumerate(table.schema):
        if column.name == "timestamp":  # a cast without zone is 20 times as fast as strftime
            text = pc.cast(pc.cast(table[i], pa.timestamp("s")), pa.string())
            text = pc.binary_replace_slice(text, 10, 11, "T")
            table = table.set_column(i, "timestamp", pc.binary_join_element_wise(text, "Z", ""))
        elif column.name == "date":
            table = table.set_column(i, "date", pc.cast(table[i], pa.date32()))
    return table


def _manifest(world: World, columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    parameters = json.dumps({"version": VERSION, **asdict(world)}, sort_keys=True)
    return {
        "name": "synthetic",
        "source": f"{SOURCE}, {parameters}",
        "licence": "CC0-1.0",
        "citation": "None needed: generated data.",
        "checksum": hashlib.sha256(parameters.encode()).hexdigest(),
        "columns": {name: dict.fromkeys(names, "simulated") for name, names in columns.items()},
        "notes": "A planted world; it says nothing about real people. See truth.json.",
    }


def _write_truth(truth: Truth, folder: Path) -> None:
    arrays = {n: value for n, value in vars(truth).items() if isinstance(value, np.ndarray)}
    np.savez(folder / "truth.npz", **arrays)
    record = {
        "version": VERSION,
        "parameters": asdict(truth.world),
        "genres": GENRES,
        "daypart_of_hour": [CONTEXTS["daypart"][code] for code in DAYPART_OF_HOUR],
        "festivals": FESTIVALS,
        "completion": COMPLETION,
        "rating": RATING,
        "lifts": {name: lift.to_dict(orient="index") for name, lift in truth.lifts.items()},
    }
    _write_json(record, folder / "truth.json")


def _write_json(value: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_truth(folder: str | Path) -> Truth:
    """Read what :func:`generate` planted.

    Raises
    ------
    DataError
        If the folder holds no generated world, or one of another version.
    """
    folder = Path(folder)
    if not (folder / "truth.json").is_file():
        raise DataError(f"{folder} holds no truth.json. Only a generated world has one.")
    record = json.loads((folder / "truth.json").read_text("utf-8"))
    if record["version"] != VERSION:
        raise DataError(f"{folder}: truth of another version. Generate the world again.")
    lifts = {n: pd.DataFrame.from_dict(v, orient="index") for n, v in record["lifts"].items()}
    watch = pd.read_parquet(folder / "watch_truth.parquet")
    with np.load(folder / "truth.npz", allow_pickle=False) as arrays:
        return Truth(world=World(**record["parameters"]), lifts=lifts, watch=watch, **arrays)
