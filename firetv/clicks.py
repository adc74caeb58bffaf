"""How people click on a list: which positions they look at, and what they do there.

A click model turns how attractive each shown title is, the probability of a click by somebody who
looks at it, into clicks. All have two methods, ``draw`` and ``expected``, over attractions of
shape (n, k): n lists, k positions from the top. An empty slot has attraction 0.

Examples
--------
>>> liked = np.array([[0.5, 0.5, 0.5]])
>>> PositionBased(decay=1).expected(liked).round(3)
array([[0.5  , 0.25 , 0.167]])
>>> Cascade(stay=1, go_on=0).expected(liked).round(3)
array([[0.5  , 0.25 , 0.125]])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class ClickModel(Protocol):
    """What all click models can do."""

    def draw(self, attraction: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw clicks, bool of shape (n, k)."""
        ...

    def expected(self, attraction: np.ndarray) -> np.ndarray:
        """Probability of each click, float64 of shape (n, k)."""
        ...


@dataclass(frozen=True)
class PositionBased:
    """Who reads how far does not depend on what is shown (Craswell et al. 2008).

    Position p, from 0, is looked at with probability ``(1 + p) ** -decay``, the form that
    Joachims et al. (2017) use; a title that is looked at is clicked if it attracts. Positions are
    looked at independently of each other, so that several may be clicked.

    Attributes
    ----------
    decay : float
        At least 0; 0 is no position bias.

    Raises
    ------
    ValueError
        If the decay is negative, or an attraction is not a probability.
    """

    decay: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.decay < np.inf:
            raise ValueError(f"decay {self.decay} must be a number from 0: 0 is no position bias")

    def examination(self, k: int) -> np.ndarray:
        """Probability that each of k positions is looked at, float64 of shape (k,)."""
        return (1.0 + np.arange(k)) ** -self.decay

    def expected(self, attraction: np.ndarray) -> np.ndarray:
        """Probability of each click, float64 of shape (n, k)."""
        attraction = _checked(attraction)
        return attraction * self.examination(attraction.shape[1])

    def draw(self, attraction: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw clicks, bool of shape (n, k)."""
        return rng.random(attraction.shape) < self.expected(attraction)


@dataclass(frozen=True)
class Cascade:
    """Who reads from the top may stop anywhere, and more likely so after a click.

    The first title is looked at always, and clicked if it attracts. Then the next one is looked at
    with probability `stay` if nothing was clicked here, and `go_on` if something was: the
    dependent click model (Guo et al. 2009), with the same `go_on` at all positions, and with
    readers who may give up. ``stay=1, go_on=0`` is the cascade of Craswell et al. (2008), with
    one click at most.

    Attributes
    ----------
    stay, go_on : float
        From 0 to 1.

    Raises
    ------
    ValueError
        If one of them, or an attraction, is not a probability.
    """

    stay: float = 0.9
    go_on: float = 0.5

    def __post_init__(self) -> None:
        for name in ("stay", "go_on"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} must be a probability, 0 to 1")

    def reached(self, attraction: np.ndarray) -> np.ndarray:
        """Probability that each position is looked at, float64 of shape (n, k).

        Unlike :meth:`PositionBased.examination` it depends on the titles above.
        """
        attraction = _checked(attraction)
        # Whether one reads on depends on this title's own click alone, so probabilities multiply.
        onward = self.stay + (self.go_on - self.stay) * attraction[:, :-1]
        return np.cumprod(np.pad(onward, ((0, 0), (1, 0)), constant_values=1.0), axis=1)

    def expected(self, attraction: np.ndarray) -> np.ndarray:
        """Probability of each click, float64 of shape (n, k)."""
        return self.reached(attraction) * attraction

    def draw(self, attraction: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw clicks, bool of shape (n, k)."""
        attraction = _checked(attraction)
        attracted = rng.random(attraction.shape) < attraction
        onward = rng.random(attraction.shape) < np.where(attracted, self.go_on, self.stay)
        read = np.logical_and.accumulate(onward, axis=1)
        attracted[:, 1:] &= read[:, :-1]
        return attracted


def _checked(attraction: np.ndarray) -> np.ndarray:
    """Refuse what is not an array of probabilities, a row for each list."""
    attraction = np.asarray(attraction, float)
    if attraction.ndim != 2 or attraction.shape[1] == 0:
        raise ValueError(
            f"attraction has shape {attraction.shape}: give a row per list, a column per position"
        )
    n_wrong = np.count_nonzero(~((attraction >= 0) & (attraction <= 1)))
    if n_wrong:
        raise ValueError(f"{n_wrong} attractions are not probabilities: give 0 in an empty slot")
    return attraction
