"""Groups before one screen: who they are, and what each member thinks of each candidate.

A request of a group has a column ``members``, a tuple of user codes (-1 is a guest of whom nothing
is known), beside the moment and whatever context it has. :func:`seats` takes such requests
apart; a :class:`Panel` holds groups of one size as dense arrays, so that weights and strategies are
plain array operations over many groups at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from typing import TypeAlias, TypeVar

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from firetv.slate import best

GUEST = -1  # the user code of somebody of whom nothing is known
OF_MEMBERS = ("presence", "satisfaction")  # columns of tuples: a number of 0..1 for each member
LARGEST = 50  # members of a group
BLOCK_CELLS = 128 * 1024  # opinions looked at together: with what is made of them, in the cache
LOWEST = np.finfo(np.float32).min  # of slots that are not valid, which come last
PLACE = (1 << 28) - 1  # bits of a float64 that are too low for its float32 to change


@dataclass(frozen=True)
class Seats:
    """Who sits where in the groups of one size.

    Attributes
    ----------
    rows : int64 array of shape (G,)
        Place of each group's request among all requests.
    users : int64 array of shape (G, M)
        User codes, each once but for guests; nobody who is absent.
    known : mapping of str to float64 array of shape (G, M)
        Those of :data:`OF_MEMBERS` that the requests have.
    """

    rows: np.ndarray
    users: np.ndarray
    known: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Members of each group, M."""
        return self.users.shape[1]

    def chunks(self, groups: int) -> Iterator[Seats]:
        """Yield the seats of so many groups at a time."""
        for start in range(0, len(self.rows), groups):
            part = slice(start, start + groups)
            known = {name: values[part] for name, values in self.known.items()}
            yield Seats(self.rows[part], self.users[part], known)


def seats(requests: pd.DataFrame) -> Iterator[Seats]:
    """Take requests of groups apart, by the number of members present.

    Parameters
    ----------
    requests : DataFrame of R rows
        ``members``: a tuple of user codes; somebody who is there twice counts once, but every
        :data:`GUEST` is a person. Optionally ``presence`` (0 is absent) and ``satisfaction``:
        tuples of as many numbers of 0..1, NaN where not known.

    Yields
    ------
    Seats
        Of every size that there is, the smallest first.

    Raises
    ------
    ValueError
        If there is no column ``members``, if a tuple has another length than its members, a number
        is not of 0..1, nobody is there, or more than :data:`LARGEST` are.
    """
    people = _present(requests)
    names = [name for name in OF_MEMBERS if name in people]
    count = np.bincount(people["row"], minlength=len(requests))
    for wrong, what in ((count == 0, "nobody"), (count > LARGEST, f"more than {LARGEST} members")):
        if wrong.any():
            raise ValueError(
                f"{wrong.sum()} groups have {what}, the first in row {wrong.argmax()}: "
                f"a group has 1 to {LARGEST} members"
            )
    size = count[people["row"]]
    for width in np.unique(size):
        part = people[size == width]
        shape = (-1, int(width))
        known = {name: part[name].to_numpy().reshape(shape) for name in names}
        users = part["members"].to_numpy(np.int64).reshape(shape)
        yield Seats(part["row"].to_numpy()[:: int(width)], users, known)


def _present(requests: pd.DataFrame) -> pd.DataFrame:
    """A row for each member present: ``row`` of the request, ``members``, and what is known."""
    if "members" not in requests:
        raise ValueError("requests of groups need a column members: tuples of user codes")
    names = [name for name in OF_MEMBERS if name in requests]
    people = requests[["members", *names]].reset_index(drop=True)
    for name in names:
        wrong = people[name].str.len() != people["members"].str.len()
        if wrong.any():
            raise ValueError(
                f"{name} of {wrong.sum()} groups has another length than their members: "
                "give a number for each"
            )
    people = people.explode(["members", *names]).rename_axis("row").reset_index()
    people = people.astype(dict.fromkeys(names, float))
    for name in names:
        wrong = (people[name] < 0) | (people[name] > 1)
        if wrong.any():
            raise ValueError(f"{name} of {wrong.sum()} members is not a number of 0..1")
    here = people["members"].notna()
    here &= people["presence"].ne(0) if "presence" in people else True
    people = people[here]
    return people[~people.duplicated(["row", "members"]) | (people["members"] == GUEST)]


@dataclass(frozen=True)
class Panel:
    """Groups of M members each, and their members' opinions of K candidates.

    Attributes
    ----------
    seats : Seats
        Who the members are.
    opinions : float32 array of shape (G, M, K)
        What each member thinks of each candidate, on a scale that all members share; 0 in slots
        that are not valid.
    valid : bool array of shape (G, K)
        Whether a slot holds an item that the group may be shown.
    weights : float32 array of shape (G, M)
        How much each member counts; a group's sum to 1.
    """

    seats: Seats
    opinions: np.ndarray
    valid: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, opinions: np.ndarray, weights: np.ndarray | None = None) -> Panel:
        """Groups of nobody in particular: an opinion that is NaN is of a slot without an item.

        Examples
        --------
        >>> Panel.of(np.array([[[0.5, 1.0], [0.5, np.nan]]])).valid
        array([[ True, False]])
        """
        groups, size, _ = opinions.shape
        valid = ~np.isnan(opinions).any(axis=1)
        weights = np.full((groups, size), 1 / size) if weights is None else weights
        there = np.where(valid[:, None], opinions, 0).astype(np.float32)
        guests = Seats(np.arange(groups), np.full((groups, size), GUEST))
        return cls(guests, there, valid, np.asarray(weights, np.float32))

    def mean(self, opinions: np.ndarray) -> np.ndarray:
        """Weighted mean over members, (G, M, K) to (G, K)."""
        return np.matmul(self.weights[:, None], opinions)[:, 0]

    def masked(self, scores: np.ndarray) -> np.ndarray:
        """Scores of shape (G, K), or (G, M, K), with minus infinity in slots that are not valid."""
        if self.full:
            return scores
        closed = np.array([-np.inf, 0], np.float32)[self.valid.view(np.uint8)]
        return scores + (closed if scores.ndim == 2 else closed[:, None])

    @cached_property
    def full(self) -> bool:
        """Whether all slots are valid."""
        return bool(self.valid.all())

    def blocks(self) -> Iterator[Panel]:
        """Yield so few groups at a time that a pass over their opinions stays in the cache."""
        groups = max(1, BLOCK_CELLS // max(1, self.opinions[:1].size))
        for start, some in enumerate(self.seats.chunks(groups)):
            part = slice(start * groups, (start + 1) * groups)
            yield Panel(some, self.opinions[part], self.valid[part], self.weights[part])


@dataclass(frozen=True)
class Chosen:
    """The list of each group of a panel, and what it rests on.

    Attributes
    ----------
    slots : int64 array of shape (G, k)
        Slots of the panel, best first; those that are not valid come last.
    shares : float32 array of shape (G, M, k), or (G, 1, k)
        What each member contributed to the score of each, or the group's score as a whole where a
        strategy does not add members up.
    turn : float32 array of shape (G, k), optional
        What a title's place adds to its score, where shares alone would not be in order.
    weighted : bool
        Whether the shares are proportional to members' weights.
    """

    slots: np.ndarray
    shares: np.ndarray
    turn: np.ndarray | None = None
    weighted: bool = True

    @property
    def by_member(self) -> bool:
        """Whether shares are those of members."""
        return self.shares.shape[1] > 1


Strategy: TypeAlias = Callable[[Panel, int], Chosen]
"""Makes lists of k slots for all groups of a panel: a frozen dataclass that can be called."""
Own = TypeVar("Own")


def in_blocks(make: Callable[[Own, Panel, int], Chosen]) -> Callable[[Own, Panel, int], Chosen]:
    """Call a strategy with a block of groups at a time, see :meth:`Panel.blocks`.

    Groups do not depend on each other, and memory runs at a fraction of the cache's speed.
    """

    @wraps(make)
    def by_block(self: Own, panel: Panel, k: int) -> Chosen:
        made = [make(self, block, k) for block in panel.blocks()]
        return make(self, panel, k) if not made else made[0] if len(made) == 1 else joined(made)

    return by_block


def joined(made: Sequence[Chosen]) -> Chosen:
    """Put the lists of some groups below each other."""
    turns = [each.turn for each in made if each.turn is not None]
    return replace(
        made[0],
        slots=np.concatenate([each.slots for each in made]),
        shares=np.concatenate([each.shares for each in made]),
        turn=np.concatenate(turns) if turns else None,
    )


def by_members(panel: Panel, shares: np.ndarray, k: int) -> Chosen:
    """The best by the sum of members' shares, weights included, (G, M, K)."""
    return _chosen(shares, best(panel.masked(shares.sum(axis=1)), k))


def by_mean(panel: Panel, opinions: np.ndarray, k: int) -> Chosen:
    """The best by the weighted mean of opinions, (G, M, K), each member's share its summand."""
    slots = best(panel.masked(panel.mean(opinions)), k)
    return Chosen(slots, panel.weights[:, :, None] * at(opinions, slots))


def as_a_whole(panel: Panel, scores: np.ndarray, k: int) -> Chosen:
    """The best by a score of the group that is not a sum over members, (G, K)."""
    return _chosen(scores[:, None], best(panel.masked(scores), k))


def in_order(chosen: Chosen) -> Chosen:
    """Add turns, so that scores do not rise along a list though what its titles add does."""
    if not chosen.slots.size:
        return chosen
    gain = chosen.shares.sum(axis=1)
    turns = np.arange(gain.shape[1], dtype=np.float32)[::-1]
    return replace(chosen, turn=(1 + np.ptp(gain, axis=1)[:, None]) * turns)


def _chosen(shares: np.ndarray, slots: np.ndarray) -> Chosen:
    return Chosen(slots, at(shares, slots).astype(np.float32))


def beaten(scores: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """How many valid slots each one beats, half of those that are as good.

    Parameters
    ----------
    scores : float32 array of shape (..., K)
    valid : bool array that broadcasts to this shape

    Returns
    -------
    float32 array of shape (..., K)
        Means nothing in slots that are not valid.
    """
    slots = scores.shape[-1]
    rows = scores.reshape(-1, slots)
    there = None if valid.all() else np.broadcast_to(valid, scores.shape).reshape(-1, slots)
    found = np.empty(rows.shape, np.float32)
    step = max(1, BLOCK_CELLS // max(1, slots))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        found[part] = _beaten(rows[part], None if there is None else there[part])
    return found.reshape(scores.shape)


def _beaten(scores: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """The same of some rows, (N, K); without `valid` all slots are."""
    size, slots = scores.size, scores.shape[1]
    scores = np.clip(scores, LOWEST, -LOWEST)
    if valid is not None:
        scores = np.where(valid, scores, LOWEST)
    # A float64 has room below a float32 for the place of a value, which so rides along while values
    # are sorted: several times as fast as to sort by index.
    key = scores.astype(np.float64)
    code = key.view(np.int64)
    code += np.arange(size).reshape(code.shape)
    key.sort(axis=1)
    ordered = key.astype(np.float32)
    code &= PLACE
    found = np.empty(size, np.float32)
    found[code] = np.arange(slots, dtype=np.float32)
    found = found.reshape(scores.shape)
    tied = ordered[:, 1:] == ordered[:, :-1]
    if valid is not None:
        tied &= ordered[:, 1:] > LOWEST
    tied = tied.any(axis=1)
    if tied.any():  # only there, because it takes six times as long
        found[tied] = rankdata(scores[tied], axis=1) - 1
    if valid is not None:
        found -= (slots - np.count_nonzero(valid, axis=1)[:, None]).astype(np.float32)
    return found


def at(values: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Values of some slots, (G, M, K) and (G, k) to (G, M, k)."""
    groups, size, held = values.shape
    start = np.arange(0, groups * size * held, held).reshape(groups, size, 1)
    return values.reshape(-1)[start + slots[:, None]]


def at_one(values: np.ndarray, slot: np.ndarray) -> np.ndarray:
    """Values of one slot of each group, (G, M, K) and (G,) to (G, M)."""
    return values[np.arange(len(values)), :, slot]
