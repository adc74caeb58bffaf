"""How much each member of a group counts: factors that multiply.

``weight = product of factors``, and a group's weights sum to 1. A factor is a stage that gives a
number above 0 for each member of a :class:`~firetv.panels.Panel`; without any, all count the same.
:func:`weigh` combines them in the order they are given, and keeps what each changed, so that a
ledger can say what a member's opinion counts for, and because of what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np

from firetv.data import Dataset
from firetv.panels import Panel
from firetv.schema import one_of

FactorStep: TypeAlias = Callable[[Panel], np.ndarray]
"""From a panel to a number above 0 for each member, (G, M)."""


class Factor(Protocol):
    """A frozen dataclass whose ``name`` is that of its part in a ledger."""

    @property
    def name(self) -> str:
        """Name of the factor in a ledger."""
        ...

    def fit(self, data: Dataset) -> FactorStep:
        """Learn what it needs of a data set."""
        ...


@dataclass(frozen=True)
class Activity:
    """Who watches more counts more: ``(1 + number of items) ** power``.

    Attributes
    ----------
    power : float
        Below 0, who watches less counts more.
    """

    power: float = 0.5

    @property
    def name(self) -> str:
        """Name of the factor in a ledger."""
        return "activity"

    def fit(self, data: Dataset) -> FactorStep:
        """Count items."""
        return OfUsers((1 + np.append(data.user_counts, 0)) ** float(self.power))


@dataclass(frozen=True)
class Expertise:
    """Who knows more of what is popular counts more (Gartrell et al. 2010).

    ``(base + share of the most popular titles that the member has seen) ** power``.

    Attributes
    ----------
    titles : int
        Number of these titles.
    base : float
        Above 0: what somebody counts who knows none of them.
    power : float
    """

    titles: int = 100
    base: float = 0.1
    power: float = 1.0

    def __post_init__(self) -> None:
        if not (self.titles >= 1 and self.base > 0):
            raise ValueError(f"titles {self.titles} below 1, or base {self.base} not above 0")

    @property
    def name(self) -> str:
        """Name of the factor in a ledger."""
        return "expertise"

    def fit(self, data: Dataset) -> FactorStep:
        """Count the popular titles that each user has seen."""
        popular = np.argsort(-data.item_counts, kind="stable")[: self.titles]
        seen = np.asarray((data.matrix()[:, popular] > 0).sum(axis=1)).ravel()
        return OfUsers((self.base + np.append(seen, 0) / len(popular)) ** float(self.power))


@dataclass(frozen=True)
class OfUsers:
    """A factor that is always the same for a user: ``factors``, of shape (n_users + 1,).

    The last is for guests.
    """

    factors: np.ndarray

    def __call__(self, panel: Panel) -> np.ndarray:
        """Look the members up."""
        return self.factors[panel.seats.users]


@dataclass(frozen=True)
class Likeness:
    """Who agrees with the rest counts more, or less: ``exp(strength * likeness)``.

    Likeness is the mean correlation of a member's opinions of the candidates with the others'.

    Attributes
    ----------
    strength : float
        Above 0 outliers count less, below 0 more.
    """

    strength: float = 1.0

    @property
    def name(self) -> str:
        """Name of the factor in a ledger."""
        return "likeness"

    def fit(self, data: Dataset) -> FactorStep:
        """Learn nothing."""
        return self._of

    def _of(self, panel: Panel) -> np.ndarray:
        size = panel.seats.size
        if size == 1:
            return np.ones(panel.weights.shape)
        held = np.maximum(panel.valid.sum(axis=1), 1)[:, None, None]
        centred = panel.opinions - panel.opinions.sum(axis=2, keepdims=True) / held
        centred *= panel.valid[:, None]
        length = np.sqrt((centred**2).sum(axis=2, keepdims=True))
        centred = np.divide(centred, length, out=centred, where=length > 0)
        agreement = np.matmul(centred, centred.transpose(0, 2, 1))
        own = np.diagonal(agreement, axis1=1, axis2=2)
        return np.exp(self.strength * (agreement.sum(axis=2) - own) / (size - 1))


@dataclass(frozen=True)
class Dissatisfaction:
    """Who got less on earlier evenings counts more: ``exp(strength * (mean - own))``.

    ``own`` is the request's ``satisfaction`` of a member, of 0..1, and ``mean`` that of the group:
    sequential fairness (after Stratigi et al. 2020). Where it is not known it is the mean's.

    Attributes
    ----------
    strength : float
        Above 0; somebody who always got everything and somebody who never got anything differ by
        ``exp(strength)``.
    """

    strength: float = 3.0

    @property
    def name(self) -> str:
        """Name of the factor in a ledger."""
        return "dissatisfaction"

    def fit(self, data: Dataset) -> FactorStep:
        """Learn nothing."""
        return self._of

    def _of(self, panel: Panel) -> np.ndarray:
        own = panel.seats.known.get("satisfaction")
        if own is None:
            return np.ones(panel.weights.shape)
        there = ~np.isnan(own)
        count = np.maximum(there.sum(axis=1, keepdims=True), 1)
        mean = np.where(there, own, 0).sum(axis=1, keepdims=True) / count
        return np.exp(self.strength * np.where(there, mean - own, 0))


@dataclass(frozen=True)
class Presence:
    """Who is there for part of the evening counts for that part: the request's ``presence``.

    Somebody with a presence of 0 is not there, and no member on that evening, with this factor or
    without it.
    """

    @property
    def name(self) -> str:
        """Name of the factor in a ledger."""
        return "presence"

    def fit(self, data: Dataset) -> FactorStep:
        """Learn nothing."""
        return self._of

    def _of(self, panel: Panel) -> np.ndarray:
        part = panel.seats.known.get("presence")
        return np.ones(panel.weights.shape) if part is None else np.where(np.isnan(part), 1, part)


def weigh(panel: Panel, factors: Mapping[str, FactorStep]) -> tuple[Panel, dict[str, np.ndarray]]:
    """Weigh the members of a panel.

    Parameters
    ----------
    panel : Panel
        Whose members count the same.
    factors : mapping of str to callable

    Returns
    -------
    panel : Panel
        With weights that are the product of the factors.
    changes : dict of str to float32 array of shape (G, M)
        What each factor adds to the weights that those before it had given; they sum to 0 in a
        group, and all of them and the equal weights to the panel's.
    """
    equal = np.full(panel.weights.shape, 1 / panel.seats.size)
    product, before, changes = np.ones(equal.shape), equal, {}
    for name, factor in factors.items():
        product = product * factor(panel)
        after = product / product.sum(axis=1, keepdims=True)
        changes[name] = (after - before).astype(np.float32)
        before = after
    return replace(panel, weights=before.astype(np.float32)), changes


@dataclass(frozen=True)
class Suitability:
    """What may be shown while a child is present.

    Attributes
    ----------
    age : int
        Whoever is known to be younger is a child, in years.
    content_types, genres : tuples of str
        A title is for children if it is of such a type, or has such a genre.
    """

    age: int = 12
    content_types: tuple[str, ...] = ("kids",)
    genres: tuple[str, ...] = ("Animation", "Children", "Children's", "Family", "Kids")

    def fit(self, data: Dataset) -> Suitable:
        """Look up who is a child, and what is for children."""
        content, users = data.content, data.users
        fit = np.zeros(len(content), bool)
        if "content_type" in content:
            fit |= content["content_type"].isin(self.content_types).to_numpy()
        if "genres" in content:
            genres = content["genres"].explode()
            named = genres[genres.isin(self.genres)].index.unique()
            fit[named] = True
        child = np.zeros(len(users) + 1, bool)  # the last is for guests
        if "age" in users:
            child[:-1] = users["age"].lt(self.age).fillna(False).to_numpy(bool)
        return Suitable(child, fit)


@dataclass(frozen=True)
class Suitable:
    """Fitted :class:`Suitability`.

    Attributes
    ----------
    child : bool array of shape (n_users + 1,)
    fit : bool array of shape (n_items,)
    """

    child: np.ndarray
    fit: np.ndarray

    def __call__(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Tell which items, (G, K), each group of users, (G, M), may be shown, bool (G, K)."""
        return ~self.child[users].any(axis=1)[:, None] | self.fit[items]


WEIGHTS: Mapping[str, Factor] = {
    factor.name: factor for factor in (Activity(), Expertise(), Likeness())
}


def factors_of(names: Sequence[str], *, satisfaction: bool, presence: bool) -> tuple[Factor, ...]:
    """Factors of weights by their names, and those of what is known of an evening.

    Parameters
    ----------
    names : sequence of str
        Keys of :data:`WEIGHTS`.
    satisfaction, presence : bool
        Whether requests tell them.

    Raises
    ------
    ValueError
        If a name is unknown.
    """
    named = [one_of(name, WEIGHTS, "weights") for name in names]
    told = ((satisfaction, Dissatisfaction()), (presence, Presence()))
    return (*named, *(factor for known, factor in told if known))
