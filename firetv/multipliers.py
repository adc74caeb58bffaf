"""Multipliers of one dimension of the context for every item: from rules, or learned from events.

The table of a dimension holds log-multipliers of values x items, and beside it the reasons: which
attribute lifts how much, with its interval and its count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from scipy import sparse

from firetv.data import Dataset
from firetv.features import Features, item_features, stack
from firetv.lifts import Lifts, learn_lifts, learn_shrinkage, shrunk_log_lift
from firetv.moments import VALUES, Clock, describe_of
from firetv.rules import Rules

FEWEST = 30  # events of known context that a dimension is learned from
RAREST = 10  # events that an attribute needs in all to have lifts
OF_TIME = ("daypart", "daytype", "season")  # dimensions that hang together through the instant


@dataclass(frozen=True)
class Multipliers:
    """Log-multipliers of one dimension.

    Attributes
    ----------
    dimension : str
    values : tuple of str
        The V values that something is known of.
    table : float32 array of shape (V + 1, n_items)
        Log-multiplier of every item; the last row is unknown context, zero.
    reasons : DataFrame
        ``value, attribute, log_lift, low, high, n``: what the table is made of. A rule has no
        interval and no count.
    families : mapping of str to float32 array of shape (V + 1, n_items)
        The table taken apart by family of attributes, ``item`` included, before normalisation.
    personal : CSR array of shape (n_users * V, G), or None
        Personal log-lifts of the attributes, on top of the table.
    """

    dimension: str
    values: tuple[str, ...]
    table: np.ndarray
    reasons: pd.DataFrame
    families: Mapping[str, np.ndarray] = field(default_factory=dict)
    personal: sparse.csr_array | None = None

    def codes(self, moments: pd.DataFrame) -> np.ndarray:
        """Row of the table for each moment, int64 of shape (R,); V where context is unknown."""
        row, met = pd.factorize(moments[self.dimension].array)  # few distinct ones
        place = {value: code for code, value in enumerate(self.values)}
        return np.array([*(place.get(value, len(place)) for value in met), len(place)])[row]

    def beside(self, other: Multipliers) -> Multipliers:
        """Add the values that only the other one knows."""
        new = [row for row, value in enumerate(other.values) if value not in self.values]
        values = (*self.values, *(other.values[row] for row in new))
        personal = self.personal
        if personal is not None:
            row, column = personal.tocoo().coords
            user, value = np.divmod(row, len(self.values))
            place = (user * len(values) + value, column)
            shape = (personal.shape[0] // len(self.values) * len(values), personal.shape[1])
            personal = sparse.csr_array((personal.data, place), shape=shape)
        zeros = np.zeros((len(new), self.table.shape[1]), np.float32)
        return replace(
            self,
            values=values,
            table=np.vstack([self.table[:-1], other.table[new], self.table[-1:]]),
            reasons=pd.concat(
                [self.reasons, other.reasons[~other.reasons["value"].isin(self.values)]],
                ignore_index=True,
            ),
            families={
                n: np.vstack([part[:-1], zeros, part[-1:]]) for n, part in self.families.items()
            },
            personal=personal,
        )


def attribute_shares(data: Dataset, rules: Rules, families: Sequence[str] = ()) -> Features:
    """Attributes of each item, each family's row summing to one, or to zero where none is known.

    A title with several genres takes the geometric mean of their multipliers. Left out, unless a
    rule names them, are attributes that too few events have to learn from, or all of them.

    Parameters
    ----------
    data : Dataset
    rules : Rules
    families : sequence of str
        Names such as ``genre``; all that the content table gives by default.

    Raises
    ------
    ValueError
        If the content table gives attributes, but not of such a family.
    """
    features = item_features(data)
    if features.names and (unknown := set(families) - set(features.families)):
        known = ", ".join(features.families.unique())
        raise ValueError(f"no attributes {sorted(unknown)}: the content table gives {known}")
    events = np.bincount(data.interactions["item"], minlength=data.shape[1])
    met = features.matrix.T @ events
    ruled = {f"{rule.family}:{rule.level}".casefold() for rule in rules.rules}
    useful = (met >= RAREST) & (met < events.sum())
    useful |= np.array([name.casefold() in ruled for name in features.names], bool)
    family = features.families
    blocks = [
        features.select(np.flatnonzero(useful & (family == name))).normalised()
        for name in family[useful].unique()
        if not families or name in families
    ]
    return stack(features.select(np.empty(0, int)), *blocks)


def _with_unknown(table: np.ndarray) -> np.ndarray:
    """Append the row of unknown context."""
    return np.vstack([table, np.zeros((1, table.shape[1]))]).astype(np.float32)


def rule_multipliers(dimension: str, rules: Rules, attributes: Features) -> Multipliers | None:
    """Multipliers of the rules of one dimension; None where no rule applies to the catalogue."""
    if dimension not in VALUES:  # of the data's own
        return None
    values = VALUES[dimension]
    own = [rule.value for rule in rules.rules if rule.dimension == dimension]
    values = tuple(dict.fromkeys((*values, *own)))
    log = rules.log_multipliers(dimension, values, attributes.names)
    if not log.any():
        return None
    row, column = log.nonzero()
    reasons = pd.DataFrame(
        {
            "value": np.array(values, object)[row],
            "attribute": np.array(attributes.names, object)[column],
            "log_lift": log[row, column],
            "low": np.nan,
            "high": np.nan,
            "n": 0,
        }
    )
    return Multipliers(dimension, values, _with_unknown(log @ attributes.matrix.T), reasons)


@dataclass(frozen=True)
class Learning:
    """What lifts are learned from: events with their context in codes, and the attributes."""

    data: Dataset
    moments: pd.DataFrame
    attributes: Features
    rules: Rules

    @classmethod
    def of(cls, data: Dataset, clock: Clock, families: Sequence[str], rules: Rules) -> Learning:
        """Describe the moments of a data set's events."""
        moments = describe_of(data.interactions, data.users, clock, data.own_dimensions)
        return cls(data, moments, attribute_shares(data, rules, families), rules)

    def lifts(self, dimension: str) -> tuple[Lifts, pd.DataFrame] | None:
        """Learn one dimension; None where too few events, or a single value, are known.

        Returns
        -------
        Lifts, DataFrame
            And the events they were learned from: ``user, item, code``.
        """
        met = self.moments[dimension].value_counts()
        if len(met) < 2 or met.sum() < FEWEST:
            return None
        order = [v for v in VALUES.get(dimension, ()) if v in met]
        values = (*order, *sorted(set(met.index) - set(order)))
        code = pd.Index(values).get_indexer(self.moments[dimension])
        events = self.data.interactions[["user", "item"]].assign(code=code)
        others = [d for d in OF_TIME if dimension in OF_TIME and d != dimension]
        strata = [pd.factorize(self.moments[d])[0] + 1 for d in others]
        known = code >= 0
        events = events[known]
        lifts = learn_lifts(
            values,
            events["code"].to_numpy(),
            events["item"].to_numpy(),
            events["user"].to_numpy(),
            self.attributes,
            self._prior(dimension, values),
            [stratum[known] for stratum in strata],
        )
        return lifts, events

    def _prior(self, dimension: str, values: Sequence[str]) -> np.ndarray:
        """Log-multipliers of the rules, (V, G), which say nothing of dimensions of one's own."""
        names = self.attributes.names
        if dimension not in VALUES:
            return np.zeros((len(values), len(names)))
        return self.rules.log_multipliers(dimension, values, names)

    def multipliers(
        self, dimension: str, *, items: float | bool = False, personal: bool = False
    ) -> Multipliers | None:
        """Multipliers of one dimension.

        Parameters
        ----------
        dimension : str
        items : bool or float
            Whether single items have lifts of their own, beside their attributes'; a number is
            the weight of the prior in events, else it is learned.
        personal : bool
            Whether users have lifts of their own.
        """
        learned = self.lifts(dimension)
        if learned is None:
            return None
        lifts, events = learned
        attributes = self.attributes.matrix
        table = lifts.log_lift(attributes)
        families = dict(self._families(lifts))
        if items:
            own = _item_lifts(lifts, table, events, None if items is True else items)
            families["item"] = own
            table = table + own
        return Multipliers(
            dimension,
            lifts.values,
            _with_unknown(table),
            lifts.table(),
            {name: _with_unknown(part) for name, part in families.items()},
            _personal_lifts(lifts, table, events, self.data.shape[0], attributes)
            if personal and attributes.shape[1]
            else None,
        )

    def _families(self, lifts: Lifts) -> Iterator[tuple[str, np.ndarray]]:
        """What each family of attributes gives, (V, n_items), zero on average over contexts."""
        slope = lifts.coefficients[:, 1:]
        slope = slope - lifts.share @ slope
        family = self.attributes.families
        for name in family.unique():
            columns = np.flatnonzero(family == name)
            yield name, slope[:, columns] @ self.attributes.matrix[:, columns].T


def _item_lifts(
    lifts: Lifts, table: np.ndarray, events: pd.DataFrame, weight: float | None
) -> np.ndarray:
    """Log-lifts of single items beyond their attributes', (V, n_items)."""
    n_values, n_items = table.shape
    observed = np.zeros((n_values, n_items))
    np.add.at(observed, (events["code"], events["item"]), 1)
    expected = np.exp(table) * lifts.share[:, None] * observed.sum(axis=0)
    if weight is None:
        weight = learn_shrinkage(observed, expected)
    return shrunk_log_lift(observed, expected, weight)


def _personal_lifts(
    lifts: Lifts,
    table: np.ndarray,
    events: pd.DataFrame,
    n_users: int,
    attributes: sparse.csr_array,
) -> sparse.csr_array:
    """Log-lifts of single users beyond everybody's, CSR of shape (n_users * V, G).

    A user's own habits of context are allowed for: expected counts have the user's own margin.
    """
    n_values, shape = len(lifts.values), (n_users * len(lifts.values), table.shape[1])
    user, item, code = (events[c].to_numpy() for c in ("user", "item", "code"))
    place = user * n_values + code
    observed = sparse.csr_array((np.ones(len(events)), (place, item)), shape=shape) @ attributes
    habit = np.bincount(place, minlength=shape[0]).reshape(n_users, n_values) + lifts.share
    p = np.exp(table.T[item]) * habit[user]
    p /= p.sum(axis=1, keepdims=True)
    rows = (user[:, None] * n_values + np.arange(n_values)).ravel()
    each = sparse.csr_array((p.ravel(), (rows, np.repeat(item, n_values))), shape=shape)
    expected = sparse.csr_array(each @ attributes)
    row, column = expected.nonzero()
    n, e = observed[row, column], expected[row, column]
    lift = shrunk_log_lift(n, e, learn_shrinkage(n, e))
    return sparse.csr_array((lift.astype(np.float32), (row, column)), shape=expected.shape)
