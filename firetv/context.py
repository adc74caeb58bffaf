"""Context: multipliers for the moment, by hand-written rules and learned from data.

:class:`ContextBoost` is a stage behind any base model. It turns the base's scores into
log-probabilities and adds, for each dimension of the request's context, the logarithm of a
multiplier: the rule's, the one learned by :mod:`firetv.lifts`, or the learned one shrunk towards
the rule. How much all of that counts is learned from events later than those the base knows.

:class:`ContextSignals` gives the same quantities unweighted and taken apart, as features for a
:class:`~firetv.ranking.Ranker`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy import sparse

from firetv.data import Dataset
from firetv.features import Features
from firetv.lifts import shrunk_log_lift
from firetv.moments import DIMENSIONS, UTC_CLOCK, Clock, Context, describe, describe_of
from firetv.multipliers import Learning, Multipliers, rule_multipliers
from firetv.rules import Rules, read_rules
from firetv.scales import Scales, learn_scales
from firetv.slate import Chain, Slate, Step, cells, chain

PREFIX = "context:"  # of the parts that a moment adds
JOINT = f"{PREFIX}joint"
QUARTER_HOUR = 900  # seconds in which the moment cannot change, in any time zone
MOST_REMEMBERED = 100_000  # quarters of an hour whose moments are kept

Mode = Literal["off", "rules", "learned", "rules+learned"]


@dataclass(frozen=True)
class JointLift:
    """Lift of an item by past events in contexts like this one, all dimensions together.

    A past event counts by a kernel of the two contexts, ``exp(-width * mismatches)``, where a
    dimension that either side does not know is half a mismatch. The lift is the item's weighted
    number of events, scaled to all events, over its number of events, with a prior of `weight`
    events on both.

    Attributes
    ----------
    dimensions : tuple of str
    contexts : DataFrame of J rows
        The distinct joint contexts of past events, a column per dimension.
    counts : CSR array of shape (J, n_items)
    width, weight : float
    """

    dimensions: tuple[str, ...]
    contexts: pd.DataFrame
    counts: sparse.csr_array
    width: float
    weight: float

    @classmethod
    def of(
        cls,
        data: Dataset,
        moments: pd.DataFrame,
        dimensions: Sequence[str],
        width: float,
        weight: float,
    ) -> JointLift:
        """Count past events by joint context and item."""
        known = tuple(d for d in dimensions if moments[d].nunique() > 1) or tuple(dimensions[:1])
        joint = moments[list(known)].fillna("")
        row = joint.groupby(list(known), sort=True).ngroup().to_numpy()
        place = (row, data.interactions["item"].to_numpy())
        shape = (row.max(initial=-1) + 1, data.shape[1])
        counts = sparse.csr_array((np.ones(len(row)), place), shape=shape)
        contexts = joint.drop_duplicates().sort_values(list(known), ignore_index=True)
        return cls(known, contexts, counts, width, weight)

    def log_lift(self, moments: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Log-lift of every item in every distinct context of the moments.

        Returns
        -------
        float32 array of shape (C, n_items), int64 array of shape (R,)
            And the row of each moment.
        """
        asked = moments[list(self.dimensions)].fillna("")
        row = asked.groupby(list(self.dimensions), sort=True).ngroup().to_numpy()
        distinct = asked.drop_duplicates().sort_values(list(self.dimensions))
        mismatches = np.zeros((len(distinct), len(self.contexts)))
        for name in self.dimensions:
            one = distinct[name].to_numpy(object)[:, None]
            other = self.contexts[name].to_numpy(object)[None]
            unknown = (one == "") | (other == "")
            mismatches += np.where(unknown, 0.5, one != other)
        kernel = np.exp(-self.width * mismatches)
        kernel *= self.counts.sum() / (kernel @ self.counts.sum(axis=1))[:, None]
        near, usual = kernel @ self.counts, self.counts.sum(axis=0)
        return shrunk_log_lift(near, usual, self.weight).astype(np.float32), row


# ------------------------------------------------------------------ stages


@dataclass(frozen=True)
class ContextBoost:
    """Re-ranking by the request's context: one part of the ledger for each dimension.

    In a chain it follows a base model, whose scores it turns into log-probabilities over the
    candidates (but for a constant of the request). Then a multiplier above one never lowers an
    item's rank, whatever the sign of the base's scores.

    Attributes
    ----------
    mode : {"off", "rules", "learned", "rules+learned"}
        Hand-written multipliers, learned ones, learned ones shrunk towards the rules, or nothing.
    dimensions : sequence of str
        Of :data:`~firetv.moments.DIMENSIONS`.
    attributes : sequence of str
        Families of item features that may have lifts, such as ``genre``; all by default.
    items, personal : bool
        Whether single items, or users, have learned lifts of their own beside the attributes'.
    joint : bool
        Whether past events in similar contexts count as well, in the part ``context:joint``.
    width, weight : float
        Of its kernel, see :class:`JointLift`.
    strength : float, optional
        Factor on all log-multipliers; by default learned, and never negative.
    rules : Rules, optional
        The packaged ones by default.
    clock : Clock
        How instants are read.
    seed : int
        Of the draws that the strength is learned from.
    own : bool
        Whether dimensions of the data's own count beside `dimensions`. No rule speaks of them.
    """

    mode: Mode = "rules+learned"
    dimensions: Sequence[str] = DIMENSIONS
    attributes: Sequence[str] = ()
    items: bool = False
    personal: bool = False
    joint: bool = False
    width: float = 2.5
    weight: float = 0.3
    strength: float | None = None
    rules: Rules | None = None
    clock: Clock = UTC_CLOCK
    seed: int = 0
    own: bool = True

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode {self.mode!r}: use one of {', '.join(get_args(Mode))}")
        if unknown := set(self.dimensions) - set(DIMENSIONS):
            raise ValueError(f"unknown dimensions {sorted(unknown)}: use {', '.join(DIMENSIONS)}")
        if self.strength is not None and not self.strength >= 0:
            raise ValueError(f"strength {self.strength} is below 0: it would turn rules around")
        if not (self.width >= 0 and self.weight > 0):
            raise ValueError(f"width {self.width} is below 0, or weight {self.weight} not above it")

    def fit(self, data: Dataset) -> Step:
        """Learn without a base: see :meth:`fit_after`."""
        return self.fit_after(chain(), data)

    def fit_after(self, upstream: Chain, data: Dataset) -> Step:
        """Learn multipliers from all events, and their strength from the last fifth.

        The strength and the scale of each upstream part are fitted to what was chosen in that
        fifth, by a conditional logit, with base and multipliers learned from the events before it.

        Raises
        ------
        ValueError
            If no event of the last fifth can serve, and something is to be learned from them.
        """
        if self.mode == "off":
            nothing = Features(sparse.csr_array((data.shape[1], 0), dtype=np.float32), ())
            return ContextStep(0.0, Scales(), (), nothing, None, data.users, self.clock)
        if self.strength is not None:
            scales = learn_scales(upstream, None, data, self.seed)
            return self._step(data, self.strength, scales)
        scales = learn_scales(upstream, self._total, data, self.seed)
        return self._step(data, scales.own[_TOTAL], scales)

    def _total(self, data: Dataset) -> Step:
        """All log-multipliers as one part, whose weight is to be learned."""
        step = self._step(data, 1.0, Scales())

        def total(slate: Slate) -> Slate:
            parts = step(slate).parts.values()
            return slate.add(_TOTAL, sum(parts, np.zeros(slate.shape, np.float32)))

        return total

    def _step(self, data: Dataset, strength: float, scales: Scales) -> ContextStep:
        rules = self.rules or read_rules()
        prior = rules if "rules" in self.mode else Rules(())
        learning = Learning.of(data, self.clock, self.attributes, prior)
        own = data.own_dimensions if self.own else ()
        dimensions = (*self.dimensions, *own)
        found = [self._multipliers(learning, name) for name in dimensions]
        learn = "learned" in self.mode
        return ContextStep(
            strength=strength,
            scales=scales,
            multipliers=tuple(m for m in found if m is not None),
            attributes=learning.attributes,
            joint=JointLift.of(data, learning.moments, dimensions, self.width, self.weight)
            if self.joint and learn
            else None,
            users=data.users,
            clock=self.clock,
            own=own,
        )

    def _multipliers(self, learning: Learning, dimension: str) -> Multipliers | None:
        learned = ruled = None
        if "learned" in self.mode:
            learned = learning.multipliers(dimension, items=self.items, personal=self.personal)
        if "rules" in self.mode:
            ruled = rule_multipliers(dimension, learning.rules, learning.attributes)
        if learned is None or ruled is None:
            return learned or ruled
        return learned.beside(ruled)  # nothing to learn from: the rule as it stands


_TOTAL = "context"  # the sum of all log-multipliers, while their strength is learned


@dataclass(frozen=True)
class ContextStep:
    """A fitted :class:`ContextBoost`.

    Attributes
    ----------
    strength : float
        Factor on every log-multiplier.
    scales : Scales
        Whose ``upstream`` are factors on the parts before.
    multipliers : tuple of Multipliers
        One for each dimension that something is known of.
    attributes : Features of n_items rows and G columns
    joint : JointLift, or None
    users : DataFrame
        Whose ``region`` tells the time zone.
    clock : Clock
    own : tuple of str
        Dimensions of the data's own.
    """

    strength: float
    scales: Scales
    multipliers: tuple[Multipliers, ...]
    attributes: Features
    joint: JointLift | None
    users: pd.DataFrame
    clock: Clock
    own: tuple[str, ...] = ()

    def __call__(self, slate: Slate) -> Slate:
        """Scale the parts that are there, and add one for each dimension that is known."""
        moments = self.moments(slate.requests)
        codes = [each.codes(moments) for each in self.multipliers]
        return self.at(slate, np.reshape(codes, (len(codes), len(moments))), moments)

    def at(self, slate: Slate, codes: np.ndarray, moments: pd.DataFrame | None = None) -> Slate:
        """The same, of moments that were read already.

        Parameters
        ----------
        slate : Slate of R requests
        codes : int array of shape (M, R)
            For each of the multipliers, see :meth:`~firetv.multipliers.Multipliers.codes`.
        moments : DataFrame of R rows
            Only a :class:`JointLift` needs them.
        """
        slate = replace(slate, parts=self.scales.rescale(slate))
        for each, rows in zip(self.multipliers, codes, strict=True):
            if (rows < len(each.values)).any():
                slate = slate.add(f"{PREFIX}{each.dimension}", self._part(each, rows, slate))
        if self.joint is not None:
            table, rows = self.joint.log_lift(moments)
            slate = slate.add(JOINT, cells(np.float32(self.strength) * table, rows, slate.items))
        return slate

    def moments(self, requests: pd.DataFrame) -> pd.DataFrame:
        """Describe the moments of requests, as :func:`~firetv.moments.describe` does."""
        return describe_of(requests, self.users, self.clock, self.own)

    def _part(self, each: Multipliers, rows: np.ndarray, slate: Slate) -> np.ndarray:
        part = cells(np.float32(self.strength) * each.table, rows, slate.items)
        if each.personal is None:
            return part
        known = (slate.users >= 0) & (rows < len(each.values))
        own = each.personal[np.where(known, slate.users * len(each.values) + rows, 0)]
        lift = np.where(known[:, None], (own @ self.attributes.matrix.T).toarray(), 0)
        lift = cells(lift, np.arange(len(lift)), slate.items)
        return part + np.float32(self.strength) * lift


@dataclass(frozen=True)
class ContextReader:
    """Reads contexts into rows of a step's multipliers, and remembers what it has read.

    Requests come at about the same time, again and again. Each is read by itself: a dimension that
    one of them gives says nothing of the others.

    Attributes
    ----------
    step : ContextStep
    remembered : dict
        Derived values by quarter of an hour and region.
    """

    step: ContextStep
    remembered: dict[tuple[int | None, str | None], tuple[str, ...]] = field(default_factory=dict)

    def codes(self, contexts: Sequence[Context], users: np.ndarray) -> np.ndarray:
        """Rows of each multiplier, int64 of shape (M, R), for contexts and codes of users."""
        place = [
            {value: code for code, value in enumerate(each.values)}
            for each in self.step.multipliers
        ]
        told, row = self._read(contexts, users)
        rows = [
            [
                known.get(each.get(multipliers.dimension, ""), len(known))
                for multipliers, known in zip(self.step.multipliers, place, strict=True)
            ]
            for each in told
        ]
        return np.reshape(rows, (len(told), len(place))).astype(np.int64)[row].T

    def moments(self, contexts: Sequence[Context], users: np.ndarray) -> pd.DataFrame:
        """The same as :meth:`ContextStep.moments`, of contexts and codes of users."""
        told, row = self._read(contexts, users)
        names = (*DIMENSIONS, *self.step.own)
        values = [[each.get(name) or None for name in names] for each in told]
        return pd.DataFrame(values, columns=list(names), dtype="str").iloc[row]

    def _read(
        self, contexts: Sequence[Context], users: np.ndarray
    ) -> tuple[list[dict[str, str]], np.ndarray]:
        """What is known of each distinct moment, by dimension, and which one is whose."""
        keys = list(zip(contexts, self._regions(contexts, users), strict=True))
        of = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return self._told(list(of)), np.array([of[key] for key in keys], np.int64)

    def _regions(self, contexts: Sequence[Context], users: np.ndarray) -> list[str | None]:
        """Region of each request, where it matters: the context's, else the user's."""
        if not self.step.clock.zones:
            return [None] * len(contexts)
        own = self.step.users.get("region")
        return [
            own.iat[user] if each.region is None and own is not None and user >= 0 else each.region
            for each, user in zip(contexts, users.tolist(), strict=True)
        ]

    def _told(self, distinct: Sequence[tuple[Context, str | None]]) -> list[dict[str, str]]:
        """Everything that is known of some moments, by dimension."""
        keys = [
            (None if each.at is None else int(each.at.timestamp() // QUARTER_HOUR), region)
            for each, region in distinct
        ]
        found = {key: self.remembered.get(key) for key in keys}
        missing = [key for key, told in found.items() if told is None]
        if missing:
            found |= dict(zip(missing, self._derived(missing), strict=True))
            if len(self.remembered) > MOST_REMEMBERED:
                self.remembered.clear()
            self.remembered.update((key, found[key]) for key in missing)
        return [
            dict(zip(DIMENSIONS, found[key], strict=True)) | each.given()
            for key, (each, _) in zip(keys, distinct, strict=True)
        ]

    def _derived(self, keys: Sequence[tuple[int | None, str | None]]) -> Iterator[tuple[str, ...]]:
        """What follows from the instants, as texts in the order of the dimensions."""
        seconds = [np.nan if quarter is None else quarter * QUARTER_HOUR for quarter, _ in keys]
        frame = pd.DataFrame({"at": pd.to_datetime(seconds, unit="s", utc=True)})
        frame["region"] = pd.array([region for _, region in keys], "str")
        told = describe(frame, self.step.clock).fillna("")
        return told.itertuples(index=False, name=None)


@dataclass(frozen=True)
class ContextSignals:
    """Log-lifts as features for a :class:`~firetv.ranking.Ranker`: unweighted, taken apart.

    Parts are ``context:weather/genre`` for each dimension and family of attributes,
    ``context:weather/item`` for single items, and ``context:joint`` for each width of the kernel.

    Attributes
    ----------
    dimensions, attributes, clock
        As for :class:`ContextBoost`.
    item_weight : float
        Events of prior of the lifts of single items.
    widths : sequence of float
        Of the kernels; none for no joint lifts.
    weight : float
        Events of prior of each item in the joint lifts.
    own : bool
        As for :class:`ContextBoost`.
    """

    dimensions: Sequence[str] = DIMENSIONS
    attributes: Sequence[str] = ()
    item_weight: float = 3.0
    widths: Sequence[float] = (1.0, 2.5)
    weight: float = 0.3
    clock: Clock = UTC_CLOCK
    own: bool = True

    def fit(self, data: Dataset) -> Step:
        """Learn the lifts."""
        learning = Learning.of(data, self.clock, self.attributes, Rules(()))
        own = data.own_dimensions if self.own else ()
        dimensions = (*self.dimensions, *own)
        found = [learning.multipliers(name, items=self.item_weight) for name in dimensions]
        past = (  # the same for every width
            JointLift.of(data, learning.moments, dimensions, 0.0, self.weight)
            if self.widths
            else None
        )
        joint = {f"{JOINT}/{width:g}": replace(past, width=width) for width in self.widths}
        known = tuple(m for m in found if m is not None)
        return ContextSignalsStep(known, joint, data.users, self.clock, own)


@dataclass(frozen=True)
class ContextSignalsStep:
    """Fitted :class:`ContextSignals`."""

    multipliers: tuple[Multipliers, ...]
    joint: Mapping[str, JointLift]
    users: pd.DataFrame
    clock: Clock
    own: tuple[str, ...] = ()

    def __call__(self, slate: Slate) -> Slate:
        """Add every signal as a part of its own."""
        moments = describe_of(slate.requests, self.users, self.clock, self.own)
        for each in self.multipliers:
            rows = each.codes(moments)
            for family, table in each.families.items():
                name = f"{PREFIX}{each.dimension}/{family}"
                slate = slate.add(name, cells(table, rows, slate.items))
        for name, joint in self.joint.items():
            slate = slate.add(name, cells(*joint.log_lift(moments), slate.items))
        return slate
