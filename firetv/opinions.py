"""Scores of several people on one scale, before they are added up for a group.

One person's scores may be ten times another's without meaning more. What is learned here depends on
a member's scores only through their order and their distances in deviations: multiplied by any
number above 0, they give the same opinions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import pandas as pd
from scipy import optimize, sparse
from scipy.special import expit, log_expit

from firetv.data import Dataset
from firetv.panels import beaten
from firetv.ranking import standardised
from firetv.slate import EMPTY, Chain, ExcludeSeen, chain, recommend

MOST_CELLS = 2_000_000  # of users x candidates to learn from: users are drawn if there are more

Opinions: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""From users (N,), their scores (N, K), and which slots are valid (N, K), to float32 (N, K)."""


class Scale(Protocol):
    """A frozen dataclass that learns what scores of a chain of stages are worth."""

    def fit_after(self, upstream: Chain, data: Dataset) -> Opinions:
        """Learn from what was scored by stages fitted on earlier, or on other events."""
        ...


@dataclass(frozen=True)
class Standardised:
    """Deviations from the member's mean over the candidates: nothing is learned."""

    def fit_after(self, upstream: Chain, data: Dataset) -> Opinions:
        """Learn nothing."""
        return _standardised


def _standardised(users: np.ndarray, scores: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return standardised(scores, valid).astype(np.float32)


@dataclass(frozen=True)
class Percentiles:
    """Share of the candidates that a member likes less: nothing is learned."""

    def fit_after(self, upstream: Chain, data: Dataset) -> Opinions:
        """Learn nothing."""
        return _percentiles


def _percentiles(users: np.ndarray, scores: np.ndarray, valid: np.ndarray) -> np.ndarray:
    most = np.maximum(valid.sum(axis=1, keepdims=True) - 1, 1)
    return np.where(valid, 1 - ranks(scores, valid) / most, 0).astype(np.float32)


def ranks(scores: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Number of valid slots with a higher score, half of those as high, float32 of shape (N, K)."""
    held = valid.sum(axis=1, keepdims=True, dtype=np.float32)
    return np.maximum(held - 1 - beaten(scores, valid), 0)


@dataclass(frozen=True)
class Chances:
    """The chance that a title is among those that a member turns out to like, from score and rank.

    Candidates should be as many as are learned from: the whole catalogue that training knows.
    A logistic regression (calibration as in Platt 1999) on the standardised score, the logarithm of
    its rank and that of the member's number of items, learned from events that are held out.

    Attributes
    ----------
    liked : float
        Least rating that counts as liked; where the data has no ratings, every event counts.
    share : float
        Of the events, held out to learn from.
    seed : int
        Of the events held out.
    """

    liked: float = 4.0
    share: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share {self.share} is not between 0 and 1")

    def fit_after(self, upstream: Chain, data: Dataset) -> Opinions:
        """Learn from the scores of stages that have not seen what is held out.

        Raises
        ------
        ValueError
            If nothing that is held out is liked and new to its user.
        """
        rng = np.random.default_rng(self.seed)
        held_out = rng.random(len(data.interactions)) < self.share
        train = data.keep(~held_out)
        liked = self._liked(data, data.interactions[held_out])
        people, items = np.flatnonzero(data.user_counts), np.flatnonzero(train.item_counts)
        people = rng.permutation(people)[: max(1, MOST_CELLS // len(items))]
        step, known = chain(upstream, ExcludeSeen()).fit(train), _log_counts(train)
        last = data.interactions["timestamp"].max()
        slate = recommend(step, pd.DataFrame({"user": people, "at": last}), items)
        valid = slate.grid != EMPTY
        found = liked[people][:, items].toarray()[valid]
        if not found.any():
            raise ValueError(
                f"none of {held_out.sum()} events held out is new to its user and was rated "
                f"{self.liked} or better: lower liked, or use Percentiles or Standardised"
            )
        cells = _features(known[people], slate.scores, valid)[valid]
        # As many items as are left of all when a share is held out: the scale that was learned on.
        return ChanceModel(_nonnegative_logistic(cells, found), _log_counts(data, 1 - self.share))

    def _liked(self, data: Dataset, events: pd.DataFrame) -> sparse.csr_array:
        """Mark pairs of user and item among events that were liked, CSR of (n_users, n_items)."""
        place = (events["user"].to_numpy(), events["item"].to_numpy())
        met = sparse.csr_array((np.ones(len(events), bool), place), shape=data.shape)
        ratings = data.matrix("rating")
        return met.multiply(ratings >= self.liked).tocsr() if ratings.nnz else met


@dataclass(frozen=True)
class ChanceModel:
    """Fitted :class:`Chances`.

    Attributes
    ----------
    weights : float64 array of shape (4,)
        Of the standardised score, minus the log of one plus its rank, the log of one plus the
        member's number of items, and 1; the first two are not below 0, so that chances are in the
        order of scores.
    known : float32 array of shape (n_users + 1,)
        Log of one plus each user's number of items, times the share not held out; the last is for
        guests.
    """

    weights: np.ndarray
    known: np.ndarray

    def __call__(self, users: np.ndarray, scores: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Turn scores into chances; 0 where a slot is not valid."""
        features = _features(self.known[users], scores, valid)
        return np.where(valid, expit(features @ self.weights), 0).astype(np.float32)


def _log_counts(data: Dataset, share: float = 1.0) -> np.ndarray:
    return np.log1p(np.append(share * data.user_counts, 0)).astype(np.float32)


def _features(known: np.ndarray, scores: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """What chances depend on, float32 of shape (N, K, 4)."""
    rank = -np.log1p(ranks(scores, valid))
    parts = standardised(scores, valid), rank, np.broadcast_to(known[:, None], rank.shape)
    return np.stack([*parts, np.ones(rank.shape)], axis=2, dtype=np.float32)


def _nonnegative_logistic(features: np.ndarray, liked: np.ndarray) -> np.ndarray:
    """Weights of a logistic regression, the first two of which are not below 0."""
    x, sign = features.astype(np.float64), np.where(liked, 1.0, -1.0)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ weights)
        return -log_expit(margin).mean(), -(sign * expit(-margin)) @ x / len(x)

    bounds = [(0, None), (0, None), (None, None), (None, None)]
    start = np.array([0.0, 0.0, 0.0, np.log(liked.mean() / (1 - liked.mean()))])
    return optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
