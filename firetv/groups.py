"""One list for several people before one screen: the stage that joins members, weights, strategy.

Each member's candidates are scored as if they were alone, with context and friends; the scores
become opinions on one scale, and a strategy makes the list. The ledger of a group's list has a part
``member:1`` for what its first member contributed with a weight like everybody's, and
``member:1/activity`` for what the factor ``activity`` of their weight changed (or all in one part,
where a strategy's shares are not proportional to weights). Where a strategy is no sum over members,
there is one part ``group``; ``turn`` is what a place in the list adds, where places are dealt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from scipy import sparse

from firetv.data import Dataset
from firetv.fairness import Nash
from firetv.member_weights import Factor, FactorStep, Suitability, Suitable, weigh
from firetv.opinions import Chances, Opinions, Scale, ranks
from firetv.panels import OF_MEMBERS, Chosen, Panel, Seats, Strategy, seats
from firetv.slate import CHUNK_CELLS, EMPTY, Slate, Stage, Step, best, chain, seen_by, with_seed

GROUP, TURN = "group", "turn"
VIEW = ("request", "member", "user", "item", "opinion", "rank", "weight", "because")
Unseen = Literal["all", "some", "off"]


def part_of(member: int, factor: str = "") -> str:
    """Name of a member's part of the ledger: their opinion, or what a factor of weight changed.

    Members are numbered from 1 in their order in the request, each once and without the absent.

    Examples
    --------
    >>> part_of(1), part_of(2, "activity")
    ('member:1', 'member:2/activity')
    """
    return f"member:{member}" + (f"/{factor}" if factor else "")


@dataclass(frozen=True)
class ForGroups:
    """Lists for groups, from a stage that makes them for one person.

    Requests are those of :func:`~firetv.panels.seats`: a column ``members``, and the moment and
    its context as for one person. A group of one gets what that person would get alone.

    Attributes
    ----------
    member : Stage
        Scores every candidate for one person, such as ``chain(LightFM(), ContextBoost())``.
    strategy : Strategy
        Of :mod:`firetv.strategies` or :mod:`firetv.fairness`.
    scale : Scale
        How scores become opinions: :class:`~firetv.opinions.Chances`,
        :class:`~firetv.opinions.Percentiles` or :class:`~firetv.opinions.Standardised`.
    weights : tuple of Factor
        Of :mod:`firetv.member_weights`; without any, all members count the same.
    suitability : Suitability, optional
        What may be shown while a child is present; anything by default.
    unseen : {"all", "some", "off"}
        Whether a title must be new to all of them, to some, or need not be new.
    k : int
        Length of the lists.
    seed : int
        Of the member's stage and the scale.
    """

    member: Stage
    strategy: Strategy = field(default_factory=Nash)
    scale: Scale = field(default_factory=Chances)
    weights: tuple[Factor, ...] = ()
    suitability: Suitability | None = None
    unseen: Unseen = "all"
    k: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.unseen not in ("all", "some", "off"):
            raise ValueError(f"unseen {self.unseen!r}: choose all, some or off")
        if self.k < 1:
            raise ValueError(f"k {self.k}: a list has 1 title or more")
        names = [factor.name for factor in self.weights]
        if len(set(names)) < len(names):
            raise ValueError(f"weights {', '.join(names)}: give each factor once")

    def fit(self, data: Dataset) -> GroupStep:
        """Fit the member's stage, and learn on held-out events what its scores are worth."""
        member = chain(with_seed(self.member, self.seed))
        return GroupStep(
            member=member.fit(data),
            scale=with_seed(self.scale, self.seed).fit_after(member, data),
            strategy=self.strategy,
            factors={factor.name: factor.fit(data) for factor in self.weights},
            suitable=self.suitability and self.suitability.fit(data),
            seen=data.matrix(),
            unseen=self.unseen,
            k=self.k,
        )


@dataclass(frozen=True)
class GroupStep:
    """A fitted :class:`ForGroups`.

    Attributes
    ----------
    member : Step
    scale : Opinions
    strategy : Strategy
    factors : mapping of str to FactorStep
        Of members' weights, in the order in which their changes are told apart.
    suitable : Suitable or None
    seen : CSR array of shape (n_users, n_items)
    unseen : {"all", "some", "off"}
    k : int
    """

    member: Step
    scale: Opinions
    strategy: Strategy
    factors: Mapping[str, FactorStep]
    suitable: Suitable | None
    seen: sparse.csr_array
    unseen: Unseen
    k: int

    def __call__(self, slate: Slate) -> Slate:
        """Make the list of each group.

        Raises
        ------
        ValueError
            See :func:`~firetv.panels.seats`; or if the member's stage drops candidates.
        """
        return self.lists(slate, {"": self.strategy})[""]

    def lists(self, slate: Slate, strategies: Mapping[str, Strategy]) -> dict[str, Slate]:
        """Make the lists of several strategies from the same opinions."""
        made = {name: _Lists(slate, min(self.k, slate.shape[1])) for name in strategies}
        for part in self.members(slate) if slate.shape[1] else ():
            for name, (slots, parts) in self.choose(part, strategies).items():
                made[name].write(part, slots, parts)
        return {name: lists.slate() for name, lists in made.items()}

    def choose(
        self, part: Members, strategies: Mapping[str, Strategy]
    ) -> dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Slots of each strategy's list of k, best first, (G, k), and its ledger by name.

        Slots that are not valid come last.
        """
        if part.seats.size == 1:
            slots = best(np.where(part.valid, part.alone.scores, -np.inf), self.k)
            return dict.fromkeys(strategies, (slots, dict(part.alone.take(slots).parts)))
        panel, changes = weigh(self.panel(part), self.factors)
        made = {name: strategy(panel, self.k) for name, strategy in strategies.items()}
        return {name: (each.slots, _ledger(each, panel, changes)) for name, each in made.items()}

    def panel(self, part: Members) -> Panel:
        """What the members of some groups think, all of them counting the same."""
        size = part.seats.size
        users, valid = part.seats.users.ravel(), np.repeat(part.valid, size, axis=0)
        opinions = self.scale(users, part.alone.scores, valid)
        equal = np.full(part.seats.users.shape, 1 / size, np.float32)
        shape = (*part.seats.users.shape, -1)
        return Panel(part.seats, opinions.reshape(shape), part.valid, equal)

    def views(self, slate: Slate, lists: Slate) -> pd.DataFrame:
        """What each member thinks of the titles in their group's list.

        Parameters
        ----------
        slate : Slate
            The candidates that the lists were made from.
        lists : Slate
            Of the same requests.

        Returns
        -------
        DataFrame
            A row for each request, member and title: ``request``, ``member`` (from 1), ``user``,
            ``item``; ``opinion``; ``rank``, its place in the member's own order of the group's
            candidates, from 1; ``weight`` of the member; and ``because``, the part of the member's
            own score that lifts the title most above their mean over the candidates.
        """
        frames = []
        for part in self.members(slate) if lists.shape[1] else ():
            panel, _ = weigh(self.panel(part), self.factors)
            size, rows = part.seats.size, part.seats.rows
            flat = np.repeat(part.valid, size, axis=0)
            place = ranks(part.alone.scores, flat) + 1
            wanted = np.repeat(lists.grid[rows], size, axis=0)
            slots = _slots(part.alone.grid, wanted)
            shape = slots.shape
            frame = pd.DataFrame(
                {
                    "request": np.repeat(np.repeat(rows, size), shape[1]),
                    "member": np.repeat(np.tile(np.arange(size) + 1, len(rows)), shape[1]),
                    "user": np.repeat(part.seats.users.ravel(), shape[1]),
                    "item": wanted.ravel(),
                    "opinion": _take(panel.opinions.reshape(len(flat), -1), slots),
                    "rank": _take(place, slots).astype(int),
                    "weight": np.repeat(panel.weights.ravel(), shape[1]),
                    "because": _because(part.alone, flat, slots).ravel(),
                }
            )
            frames.append(frame[frame["item"] != EMPTY])
        if not frames:
            return pd.DataFrame(columns=list(VIEW))
        return pd.concat(frames).sort_values(
            ["request", "member"], kind="stable", ignore_index=True
        )

    def members(self, slate: Slate) -> Iterator[Members]:
        """Score candidates for the members of groups of one size, a chunk at a time."""
        for sitting in seats(slate.requests):
            most = max(1, CHUNK_CELLS // max(1, sitting.size * slate.shape[1]))
            for some in sitting.chunks(most):
                yield self._members(slate, some)

    def _members(self, slate: Slate, sitting: Seats) -> Members:
        rows = np.repeat(sitting.rows, sitting.size)
        requests = slate.requests.drop(columns=["members", *OF_MEMBERS], errors="ignore")
        requests = requests.iloc[rows].assign(user=sitting.users.ravel()).reset_index(drop=True)
        items = slate.items if slate.items.ndim == 1 else slate.items[rows]
        alone = self.member(Slate(requests, items))
        in_place = alone.shape[1] == slate.shape[1]
        if in_place and alone.items is not items:  # some slots may have been emptied
            in_place = ((alone.grid == items) | (alone.grid == EMPTY)).all()
        if not in_place:
            raise ValueError(
                "the member's stage drops or moves candidates: it must score them all where they "
                "are, so leave out what keeps the best"
            )
        shape = (*sitting.users.shape, -1)
        valid = (alone.grid != EMPTY).reshape(shape).all(axis=1)
        items = slate.grid[sitting.rows]
        if self.unseen != "off":
            seen = seen_by(self.seen, sitting.users.ravel(), alone.items).reshape(shape)
            valid &= ~(seen.any(axis=1) if self.unseen == "all" else seen.all(axis=1))
        if self.suitable is not None:
            valid &= self.suitable(sitting.users, items)
        return Members(sitting, alone, valid)


@dataclass(frozen=True)
class Members:
    """Groups of one size whose members were each asked alone.

    Attributes
    ----------
    seats : Seats
        Of G groups of M members.
    alone : Slate
        A row for each member, group by group, (G * M, K).
    valid : bool array of shape (G, K)
        What the group may be shown.
    """

    seats: Seats
    alone: Slate
    valid: np.ndarray

    @property
    def items(self) -> np.ndarray:
        """Item codes of the candidates, int of shape (G, K)."""
        return self.alone.grid[:: self.seats.size]


class _Lists:
    """Lists of all requests, which come in by the size of their groups."""

    def __init__(self, slate: Slate, k: int) -> None:
        self.requests, self.candidates = slate.requests, slate.grid
        self.items = np.full((len(slate.requests), k), EMPTY)
        self.parts: dict[str, np.ndarray] = {}

    def write(self, part: Members, slots: np.ndarray, parts: Mapping[str, np.ndarray]) -> None:
        rows = part.seats.rows
        there = np.take_along_axis(part.valid, slots, axis=1)
        found = np.take_along_axis(self.candidates[rows], slots, axis=1)
        self.items[rows] = np.where(there, found, EMPTY)
        for name, values in parts.items():
            if name not in self.parts:
                self.parts[name] = np.zeros(self.items.shape, np.float32)
            self.parts[name][rows] = np.where(there, values, 0)

    def slate(self) -> Slate:
        return Slate(self.requests, self.items, self.parts)


def _ledger(
    chosen: Chosen, panel: Panel, changes: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Parts of a list by member and factor, which sum to the scores."""
    parts: dict[str, np.ndarray] = {}
    if chosen.turn is not None:
        parts[TURN] = chosen.turn
    if not chosen.by_member:
        return {GROUP: chosen.shares[:, 0], **parts}
    equal = np.float32(1 / panel.seats.size)
    for member in range(panel.seats.size):
        share, weight = chosen.shares[:, member], panel.weights[:, [member]]
        if not chosen.weighted:
            parts[part_of(member + 1)] = share
            continue
        unit = np.divide(share, weight, out=np.zeros_like(share), where=weight > 0)
        parts[part_of(member + 1)] = unit * equal
        for name, change in changes.items():
            parts[part_of(member + 1, name)] = unit * change[:, [member]]
    return parts


def _take(values: np.ndarray, slots: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, slots, axis=1).ravel()


def _slots(items: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where the wanted items are among a row's items, (N, K) and (N, k) to (N, k)."""
    order = np.argsort(items, axis=1, kind="stable")
    ordered = np.take_along_axis(items, order, axis=1)
    place = np.stack(
        [(ordered < wanted[:, [n]]).sum(axis=1) for n in range(wanted.shape[1])], axis=1
    )
    return np.take_along_axis(order, np.minimum(place, items.shape[1] - 1), axis=1)


def _because(alone: Slate, valid: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """The part that lifts each title most above the row's mean over its candidates, (N, k).

    A part that is the same for all of them, such as others' fallback, lifts none.
    """
    names = list(alone.parts)
    count = np.maximum(valid.sum(axis=1, keepdims=True), 1)
    lifts = []
    for part in alone.parts.values():
        mean = np.where(valid, part, 0).sum(axis=1, keepdims=True) / count
        high = np.where(valid, part, -np.inf).max(axis=1, keepdims=True)
        low = np.where(valid, part, np.inf).min(axis=1, keepdims=True)
        lift = np.take_along_axis(part, slots, axis=1) - mean
        lifts.append(np.where(high > low, lift, -np.inf))
    return np.array(names, object)[np.stack(lifts).argmax(axis=0)]
