"""Lists of all users at once: a Parquet data set, written part by part by many processes.

Each task loads the recommender once per process, scores a block of users as
:meth:`~firetv.recommender.Recommender.recommend` does, and writes one file, whole. What is there
already is not done again, so that a run that was stopped can be started again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from distributed import Client
from threadpoolctl import threadpool_limits

from firetv.cluster import check, run_tasks
from firetv.lists import Newcomer, Recommendations
from firetv.recommender import LONGEST, Recommender
from firetv.schema import DataError, Problem
from firetv.slate import CHUNK_CELLS, EMPTY
from firetv.storage import read_document
from firetv.writing import write_whole

RECORD, LISTS = "score.json", "lists"
CHUNKS = 4  # of a part: some seconds of work
MOST_USERS, FEWEST_PARTS = 10_000, 8  # few data, too, are shared among processes
_ALONE = Lock()  # a process scores one part at a time, however many threads its worker has


@dataclass(frozen=True)
class Batch:
    """What is to be scored, and how it is cut into parts: what ``score.json`` says.

    Attributes
    ----------
    model : str
        Checksum of the recommender.
    data : str
        Checksum of the data it was trained on.
    users, k, partition_users : int
        Users in all, length of the lists, and users in a part.
    parts : tuple of str
        The ledger's columns, the same in each file.
    """

    model: str
    data: str
    users: int
    k: int
    partition_users: int
    parts: tuple[str, ...]

    @property
    def partitions(self) -> int:
        """How many files there are."""
        return -(-self.users // self.partition_users)

    def block(self, number: int) -> slice:
        """Codes of the users of a part."""
        start = number * self.partition_users
        return slice(start, min(start + self.partition_users, self.users))


@dataclass(frozen=True)
class Scored:
    """What a run wrote.

    Attributes
    ----------
    folder : Path
        The data set.
    users, rows, partitions : int
        Users in all, titles in all their lists, and files.
    reused : int
        Files that were there already.
    """

    folder: Path
    users: int
    rows: int
    partitions: int
    reused: int


def part_path(out: Path, number: int) -> Path:
    """File of a part."""
    return out / LISTS / f"part-{number:05}.parquet"


def score(
    model: str | Path,
    out: str | Path,
    client: Client,
    k: int = 10,
    partition_users: int | None = None,
) -> Scored:
    """Write the lists of all users of a trained recommender, for no particular moment.

    The data set ``OUT/lists`` has a row for each title of each list: ``user_id``, ``rank`` (int32,
    from 1), ``content_id``, ``score`` (float32), and a float32 column for each part of the ledger,
    such as ``taste``; the parts sum to the score. A user who has seen all titles has no row.
    The same model, `k` and `partition_users` give the same bytes, wherever they are computed;
    another size of the parts may change the last digit of a score.

    Parameters
    ----------
    model : path
        Folder of the recommender; all workers must see it, and `out`, under the same path.
    out : path
        Folder; parts of the same run that are there are kept.
    client : distributed.Client
    k : int
        Length of the lists.
    partition_users : int, optional
        Users in a file. By default so many that a task takes seconds.

    Returns
    -------
    Scored

    Raises
    ------
    ValueError
        If `k` is not of 1..100, or a worker does not see the folders.
    DataError
        If the recommender cannot be loaded, or the folder holds lists of another run.
    """
    if not 1 <= k <= LONGEST:
        raise ValueError(f"k {k} is not of 1 to {LONGEST}")
    if partition_users is not None and partition_users < 1:
        raise ValueError(f"partition_users {partition_users}: use 1 or more")
    model, out = Path(model).resolve(), Path(out).resolve()
    batch = _planned(model, k, partition_users)
    _claim(out, batch)
    check(client, out / RECORD)
    check(client, model / "recommender.json")
    found = {n: _rows(part_path(out, n)) for n in range(batch.partitions)}
    rows = {n: count for n, count in found.items() if count is not None}
    reused, missing = len(rows), [n for n in found if n not in rows]
    tasks = run_tasks(
        client,
        write_part,
        missing,
        batch,
        str(model),
        str(out),
        total=batch.partitions,
        label="scoring",
        unit="part",
    )
    with closing(tasks):  # after a failure the rest is cancelled while the client is there
        for number, future in tasks:
            rows[number] = future.result()
    for left in (out / LISTS).glob(".part-*.parquet.*"):  # of workers that died as they wrote
        left.unlink(missing_ok=True)
    return Scored(out / LISTS, batch.users, sum(rows.values()), batch.partitions, reused)


def _planned(model: Path, k: int, partition_users: int | None) -> Batch:
    """What is to be done with a recommender."""
    checksum = read_document(model)["checksum"]
    recommender = Recommender.load(model)
    users, titles = len(recommender.data.user_ids), len(recommender.candidates)
    usual = min(CHUNKS * CHUNK_CELLS // max(1, titles), MOST_USERS, -(-users // FEWEST_PARTS))
    # A user and a stranger between them have all parts that anybody has, so that files are alike.
    both = recommender.recommend([*recommender.data.user_ids[:1], Newcomer()], k=1)
    parts = tuple(both.slate.parts)
    size = partition_users or max(1, usual)
    return Batch(checksum, recommender.about["data"]["checksum"], users, k, size, parts)


def _claim(out: Path, batch: Batch) -> None:
    """Write what the folder is for, or check that it is for the same."""
    path, wanted = out / RECORD, json.loads(json.dumps(asdict(batch)))
    remedy = "Name another folder, or remove this one."
    if not path.is_file():
        if any((out / LISTS).glob("*")):
            raise DataError(Problem(str(out), "", f"holds lists, but no {RECORD}", remedy))
        write_whole(path, json.dumps(wanted, indent=1) + "\n")
        return
    try:
        said = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DataError(Problem(str(path), "", f"is not JSON: {error}", remedy)) from error
    if said != wanted:
        there = said if isinstance(said, dict) else {}
        other = [
            f"{n} {there.get(n)!r}, not {wanted[n]!r}" for n in wanted if there.get(n) != wanted[n]
        ]
        reason = f"holds lists of another run: {'; '.join(other)}"
        raise DataError(Problem(str(out), "", reason, remedy))


def _rows(path: Path) -> int | None:
    """Rows of a part; None where it is missing, or was cut short as a machine went down."""
    try:
        return pq.read_metadata(path).num_rows
    except (FileNotFoundError, pa.ArrowInvalid):
        return None


def write_part(number: int, batch: Batch, model: str, out: str) -> int:
    """Score a block of users and write their lists; return the number of rows.

    It is what a worker does. One thread of BLAS, so that sums are the same on every machine.

    Raises
    ------
    DataError
        If the recommender cannot be loaded, or is not the one that the run began with.
    """
    with _ALONE, threadpool_limits(1):
        recommender = _loaded(model, batch.model)
        users = recommender.data.user_ids[batch.block(number)]
        frame = lists_frame(recommender.recommend(list(users), k=batch.k), users, batch.parts)
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_whole(part_path(Path(out), number), buffer.getvalue())
    return len(frame)


@lru_cache(maxsize=1)
def _loaded(model: str, checksum: str) -> Recommender:
    """The recommender of a folder, once per process."""
    if read_document(Path(model))["checksum"] != checksum:
        reason = "was trained again since the run began"
        raise DataError(Problem(model, "", reason, "Score into another folder."))
    return Recommender.load(model)


def lists_frame(found: Recommendations, users: pd.Index, parts: Sequence[str]) -> pd.DataFrame:
    """Lay lists out with their ledger, a row for each title; see :func:`score`.

    Parameters
    ----------
    found : Recommendations
        One list for each user.
    users : Index
        Their ids.
    parts : sequence of str
        Columns of the ledger; a part that no list has is zero.

    Raises
    ------
    ValueError
        If a list has a part that has no column.
    """
    slate = found.slate
    if unknown := sorted(set(slate.parts) - set(parts)):
        raise ValueError(f"no columns for the parts {', '.join(unknown)}")
    request, slot = np.nonzero(slate.grid != EMPTY)
    columns = {
        "user_id": pd.array(users.to_numpy()[request], dtype="str"),
        "rank": (slot + 1).astype(np.int32),
        "content_id": pd.array(found.ids[slate.grid[request, slot]], dtype="str"),
        "score": slate.scores[request, slot],
    }
    nothing = np.zeros(slate.shape, np.float32)
    ledger = {name: slate.parts.get(name, nothing)[request, slot] for name in parts}
    return pd.DataFrame(columns | ledger)
