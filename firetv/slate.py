"""The slate: requests, candidate items, and scores as an additive ledger of named parts.

A *step* turns a slate into a slate. A *stage* is a frozen dataclass whose fields are its
hyperparameters; fitted on a :class:`~firetv.data.Dataset` it gives a step. Stages that learn
nothing are plain steps. :func:`chain` makes one stage of several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from math import isqrt
from typing import Protocol, TypeVar

import numpy as np
import pandas as pd
from scipy import sparse

from firetv.data import Dataset

EMPTY = -1  # the item code of a slot that holds nothing
FEW, SHORT = 256, 1024  # slots of a row that are fastest ordered by keys, and by a sort
CHUNK_CELLS = 8_000_000  # request x candidate cells held at once (32 MB a part)


@dataclass(frozen=True)
class Slate:
    """Candidates of a batch of requests, and why each scores what it scores.

    Attributes
    ----------
    requests : DataFrame of R rows
        ``user`` (code, -1 for a stranger), optionally ``at`` (UTC) and context columns.
    items : int array of shape (R, K), or (K,) where all requests share their candidates
        Item codes; :data:`EMPTY` marks a slot without an item.
    parts : mapping of str to float32 array of shape (R, K)
        The ledger: the score of a slot is the sum of its parts.

    Examples
    --------
    >>> slate = Slate(pd.DataFrame({"user": [0]}), np.array([4, 7]))
    >>> slate = slate.add("taste", np.array([[0.5, 1.0]])).add("friends", np.array([[1.0, 0.0]]))
    >>> slate.scores
    array([[1.5, 1. ]], dtype=float32)
    >>> top(1)(slate).items
    array([[4]])
    """

    requests: pd.DataFrame
    items: np.ndarray
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shared = self.items.ndim == 1
        if not shared and len(self.items) != len(self.requests):
            raise ValueError(
                f"{len(self.requests)} requests but {len(self.items)} rows of items: "
                "give one row per request, or one row of items that all requests share"
            )
        for name, values in self.parts.items():
            if values.shape != self.shape:
                raise ValueError(f"part {name!r} has shape {values.shape}, not {self.shape}")

    @property
    def shape(self) -> tuple[int, int]:
        """Requests and slots, (R, K)."""
        return len(self.requests), self.items.shape[-1]

    @property
    def users(self) -> np.ndarray:
        """User code of each request, shape (R,)."""
        return self.requests["user"].to_numpy()

    @property
    def grid(self) -> np.ndarray:
        """Item codes as (R, K), also where they are shared (then a read-only view)."""
        return np.broadcast_to(self.items, self.shape)

    @property
    def scores(self) -> np.ndarray:
        """Sum of the parts, float32, shape (R, K); minus infinity in empty slots."""
        total = np.zeros(self.shape, np.float32)
        for part in self.parts.values():
            total += part
        np.copyto(total, -np.inf, where=self.items == EMPTY)
        return total

    def add(self, name: str, values: np.ndarray) -> Slate:
        """Return the slate with one more part; a name can be used once, and no value is NaN."""
        if values.size and np.isnan(np.min(values)):  # a minimum of NaN is NaN, and needs no copy
            raise ValueError(f"part {name!r} holds {np.isnan(values).sum()} NaN scores")
        if name in self.parts:
            raise ValueError(f"the ledger already has a part {name!r}")
        return replace(self, parts={**self.parts, name: np.asarray(values, np.float32)})

    def take(self, slots: np.ndarray) -> Slate:
        """Return the slate with the slots of an index array of shape (R, k), in its order."""
        parts = {name: np.take_along_axis(v, slots, axis=1) for name, v in self.parts.items()}
        return replace(self, items=np.take_along_axis(self.grid, slots, axis=1), parts=parts)


Step = Callable[[Slate], Slate]


class Stage(Protocol):
    """A frozen dataclass of hyperparameters that can be fitted."""

    def fit(self, data: Dataset) -> Step:
        """Learn from a data set and return the step that was learned."""
        ...


@dataclass(frozen=True)
class Pipeline:
    """Several steps as one."""

    steps: tuple[Step, ...]

    def __call__(self, slate: Slate) -> Slate:
        """Apply the steps left to right.

        A first step with ``propose(requests, items, k, seen)`` is asked for its list at once where
        :class:`ExcludeSeen` and :func:`top` come next: the list is the same, without a dense slate.
        """
        steps, k = self.steps, self.proposed(slate.items)
        if k is not None and not slate.parts:
            first, unseen, _, *steps = steps
            slate = first.propose(slate.requests, slate.items, k, unseen.seen)
        for step in steps:
            slate = step(slate)
        return slate

    def proposed(self, items: np.ndarray) -> int | None:
        """Return the length of the list that the first step proposes, None where it scores all."""
        match self.steps:
            case (first, _Unseen(), _Top(k=k), *_) if hasattr(first, "propose"):
                return k if items.ndim == 1 else None
        return None


@dataclass(frozen=True)
class Chain:
    """Several stages as one; see :func:`chain`."""

    stages: tuple[Stage | Step, ...]

    def fit(self, data: Dataset) -> Pipeline:
        """Fit the stages one by one on the same data; plain steps pass through.

        A stage with ``fit_after(upstream, data)`` learns from scores: it is handed the stages
        before it, unfitted, to fit them on earlier events than those it learns from.
        """
        return self.fit_after(Chain(()), data)

    def fit_after(self, upstream: Chain, data: Dataset) -> Pipeline:
        """Fit the stages as part of a longer chain, of which ``upstream`` comes before them."""
        steps = []
        for number, stage in enumerate(self.stages):
            if hasattr(stage, "fit_after"):
                before = Chain((*upstream.stages, *self.stages[:number]))
                steps.append(stage.fit_after(before, data))
            else:
                steps.append(stage.fit(data) if hasattr(stage, "fit") else stage)
        return Pipeline(tuple(steps))


def chain(*stages: Stage | Step) -> Chain:
    """Make one stage of several, applied left to right."""
    return Chain(stages)


Seeded = TypeVar("Seeded")


def with_seed(stage: Seeded, seed: int) -> Seeded:
    """Return the stage with its ``seed`` field set, inside chains too; others as they are."""
    if isinstance(stage, Chain):
        return Chain(tuple(with_seed(s, seed) for s in stage.stages))
    seeded = is_dataclass(stage) and any(f.name == "seed" for f in fields(stage))
    return replace(stage, seed=seed) if seeded else stage


def top(k: int) -> Step:
    """Return a step that keeps the ``k`` best slots of each request, best first.

    Equal scores keep the order of their slots. Slates with fewer than ``k`` slots keep them all.
    """
    return _Top(k)


@dataclass(frozen=True)
class _Top:
    k: int

    def __call__(self, slate: Slate) -> Slate:
        return slate.take(best(slate.scores, self.k))


def best(scores: np.ndarray, k: int) -> np.ndarray:
    """Slots of the k highest scores, best first and ties by slot, int64 of shape (R, k).

    Long rows are cut into blocks: what is among the k highest lies in the k blocks with the
    highest maxima, so that only those are searched. Rows where blocks tie are searched whole.
    """
    rows, n = scores.shape
    k = min(k, n)
    if k == 0 or rows == 0:
        return np.empty((rows, k), np.int64)
    width = isqrt(n // (4 * k))  # n / width maxima cost what k * width scores cost, about
    if width < 2:
        return _best_of_all(scores, k)
    blocks = n // width  # block b holds the slots b, b + blocks, b + 2 * blocks, ...
    maxima = scores[:, : width * blocks].reshape(rows, width, blocks).max(axis=1)
    chosen = maxima >= _kth(maxima, k)
    tied = np.count_nonzero(chosen, axis=1) > k
    if not tied.any():
        return _best_of_blocks(scores, chosen, k)
    slots = np.empty((rows, k), np.int64)
    slots[tied] = _best_of_all(scores[tied], k)
    slots[~tied] = _best_of_blocks(scores[~tied], chosen[~tied], k)
    return slots


def _best_of_blocks(scores: np.ndarray, chosen: np.ndarray, k: int) -> np.ndarray:
    """The best slots within k chosen blocks of each row, (R, blocks) bool, and beyond blocks."""
    (rows, n), blocks = scores.shape, chosen.shape[1]
    width, block = n // blocks, _columns(chosen, k)
    slots = np.empty((rows, width * k + n - width * blocks), np.int64)  # rising in each row
    slots[:, : width * k] = np.repeat(np.arange(0, width * blocks, blocks), k)
    slots[:, : width * k] += np.tile(block, width)
    slots[:, width * k :] = np.arange(width * blocks, n)
    return _taken(slots, _best_of_all(_taken(scores, slots), k))


def _best_of_all(scores: np.ndarray, k: int) -> np.ndarray:
    """The best slots of whole rows, where ``0 < k <= n``."""
    if scores.shape[1] <= FEW and scores.dtype == np.float32:
        return _best_by_keys(scores, k)
    bar = _kth(scores, k)
    chosen = scores >= bar
    tied = np.count_nonzero(chosen, axis=1) > k
    if tied.any():  # of the slots at the bar, the first ones that there is room for
        some, level = scores[tied], scores[tied] == bar[tied]
        room = k - np.count_nonzero(some > bar[tied], axis=1)
        late = np.cumsum(level, axis=1, dtype=np.int32) > room[:, None]
        chosen[tied] &= ~(level & late)
    slots = _columns(chosen, k)
    return _taken(slots, np.argsort(-_taken(scores, slots), axis=1, kind="stable"))


def _best_by_keys(scores: np.ndarray, k: int) -> np.ndarray:
    """The best slots by a sort of integers that hold a score, falling, and its slot."""
    bits = (scores + np.float32(0)).view(np.int32)  # adding 0 makes zeros of both signs the same
    falling = ~(bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF)))  # IEEE floats order as integers do
    keys = (falling.astype(np.int64) << 32) | np.arange(scores.shape[1])
    keys.sort(axis=1)
    return keys[:, :k] & 0xFFFFFFFF


def _kth(scores: np.ndarray, k: int) -> np.ndarray:
    """The k-th highest score of each row, (R, 1); short rows are sorted sooner than parted."""
    ordered = np.sort if scores.shape[1] <= SHORT else partial(np.partition, kth=-k)
    return ordered(scores, axis=1)[:, -k, None]


# As `nonzero` and `take_along_axis`, several times as fast: numpy is quick with flat positions.
def _columns(marked: np.ndarray, k: int) -> np.ndarray:
    """Columns of the k cells that are marked in each row, rising."""
    return np.flatnonzero(marked).reshape(-1, k) - _starts(marked)


def _taken(values: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.ravel(values).take(columns + _starts(values))


def _starts(values: np.ndarray) -> np.ndarray:
    """Flat position where each row begins, (R, 1)."""
    return np.arange(len(values))[:, None] * values.shape[1]


def cells(table: np.ndarray | sparse.csr_array, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Entries of a table for a slate: a row for each request, (R,), and its items, (R, K).

    The table, dense or sparse, has a column per item of the catalogue; the slate's items may be
    shared, (K,).
    """
    if sparse.issparse(table):
        shared = items.ndim == 1
        return (table[rows][:, items] if shared else table[rows[:, None], items]).toarray()
    if items.ndim == 2:
        return table[rows[:, None], items]
    if len(rows) and (rows == rows[0]).all():  # one moment for all: nothing to copy
        return np.broadcast_to(table[rows[0], items], (len(rows), len(items)))
    return np.take(table[:, items], rows, axis=0)


def seen_by(seen: sparse.csr_array, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Which items of a slate each request's user has seen, bool (R, K); strangers saw nothing.

    ``seen`` has a row per user and a column per item of the catalogue.
    """
    return (cells(seen, users, items) > 0) & (users >= 0)[:, None]


def places(items: np.ndarray, n_items: int) -> np.ndarray:
    """Slot of each item of the catalogue among distinct ones, (n_items,) int; ``EMPTY`` if none.

    Examples
    --------
    >>> places(np.array([3, 0]), 5)
    array([ 1, -1, -1,  0, -1])
    """
    slots = np.full(n_items, EMPTY)
    held = np.flatnonzero(items != EMPTY)
    slots[items[held]] = held
    return slots


def seen_cells(seen: sparse.csr_array, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Flat positions in an (R, K) slate of what :func:`seen_by` marks; items distinct, (K,).

    What was seen is little where the slate is large.
    """
    rows = seen[np.where(users >= 0, users, 0)]
    start = np.repeat(np.arange(len(users)) * len(items), np.diff(rows.indptr))
    held = rows.data > 0
    if (users < 0).any():
        held &= np.repeat(users >= 0, np.diff(rows.indptr))
    slot = rows.indices
    if not np.array_equal(items, np.arange(seen.shape[1])):  # else a title's slot is its code
        slot = places(items, seen.shape[1]).take(slot)
        held &= slot != EMPTY
    found = start + slot
    return found if held.all() else found[held]


@dataclass(frozen=True)
class ExcludeSeen:
    """Empty the slots of items that the user has an event with in the training data."""

    def fit(self, data: Dataset) -> Step:
        """Remember who saw what."""
        return _Unseen(data.matrix())


@dataclass(frozen=True)
class _Unseen:
    seen: sparse.csr_array  # (n_users, n_items)

    def __call__(self, slate: Slate) -> Slate:
        if slate.items.ndim == 1 and len(set(slate.items.tolist())) == len(slate.items):
            grid = np.array(slate.grid, order="C")
            grid.reshape(-1)[seen_cells(self.seen, slate.users, slate.items)] = EMPTY
        else:
            seen = seen_by(self.seen, slate.users, slate.items)
            grid = np.where(seen, EMPTY, slate.grid)
        return replace(slate, items=grid)


def recommend(
    step: Step, requests: pd.DataFrame, items: np.ndarray, chunk_cells: int = CHUNK_CELLS
) -> Slate:
    """Run a step over requests in chunks, so that memory is bounded by a chunk.

    Parameters
    ----------
    step : callable
        Usually a pipeline that ends with :func:`top`.
    requests : DataFrame of R rows
        One row per request, with a ``user`` column.
    items : int array of shape (K,), or (R, K)
        Candidate item codes, shared by all requests or each one's own.
    chunk_cells : int
        Upper bound of requests x candidates handled at once.

    Returns
    -------
    Slate
        The slates of all chunks, joined.
    """
    slots = step.proposed(items) if isinstance(step, Pipeline) else None
    slots = items.shape[-1] if slots is None else slots
    rows, shared = max(1, chunk_cells // max(1, slots)), items.ndim == 1
    slates = [
        step(Slate(requests.iloc[s : s + rows], items if shared else items[s : s + rows]))
        for s in range(0, max(1, len(requests)), rows)
    ]
    return joined(requests, slates)


def joined(requests: pd.DataFrame, slates: Sequence[Slate]) -> Slate:
    """Put the slates of some requests below each other."""
    names = dict.fromkeys(name for s in slates for name in s.parts)
    parts = {  # a part that a chunk has no use for, such as a fallback, is zero there
        name: np.concatenate([s.parts.get(name, np.zeros(s.shape, np.float32)) for s in slates])
        for name in names
    }
    return Slate(requests, np.concatenate([s.grid for s in slates]), parts)
