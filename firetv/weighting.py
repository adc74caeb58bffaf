"""How much each viewing counts when a model learns: by its rating, its completion and its age."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import sparse

from firetv.data import Dataset
from firetv.slate import Stage, Step, with_seed

BEST_RATING = 5.0
LEAST = 0.01  # weight of a viewing, which stays one


@dataclass(frozen=True)
class Weighted:
    """A model that learns more from some viewings than from others.

    A pair of user and item weighs ``(rating / 5) ** rating_power * completion ** completion_power *
    2 ** (-age / half_life)``, by the means of its ratings and completions and by its last event.
    Where a rating or a completion is missing, its factor is the mean of those that are there. How a
    model takes weights in is its own: ALS as confidence (Hu, Koren and Volinsky 2008), LightFM as
    sample weights, linear models as the values of histories.

    Attributes
    ----------
    model : Stage
    rating_power, completion_power : float
        0 leaves the column out.
    half_life : float, optional
        Days before the last event after which a viewing weighs half; None lets nothing fade.
    seed : int
        Becomes the model's.

    Raises
    ------
    ValueError
        If a power is negative or the half-life is not above 0.

    Examples
    --------
    >>> from firetv.models import ALS
    >>> Weighted(ALS(reg=40, alpha=8), rating_power=1.0).model.alpha
    8
    """

    model: Stage
    rating_power: float = 0.0
    completion_power: float = 0.0
    half_life: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.rating_power, self.completion_power) < 0:
            raise ValueError(
                f"powers {self.rating_power} and {self.completion_power}: give 0, or more where "
                "better viewings are to count more"
            )
        if self.half_life is not None and not self.half_life > 0:
            raise ValueError(f"half_life {self.half_life}: give days above 0, or None")

    def fit(self, data: Dataset) -> Step:
        """Fit the model on weighed viewings."""
        return with_seed(self.model, self.seed).fit(replace(data, weights=self.weights(data)))

    def weights(self, data: Dataset) -> sparse.csr_array:
        """Weight of every pair with an event, CSR float32 of shape (n_users, n_items).

        Of data that were weighed before, the product of both.
        """
        seen = data.matrix().copy()
        width = data.shape[1]
        pairs = np.repeat(np.arange(data.shape[0]), np.diff(seen.indptr)) * width + seen.indices
        weight = np.ones(len(pairs))
        if self.rating_power:
            rating = _of_pairs(data.reactions, "rating", pairs, width) / BEST_RATING
            weight *= _known(rating**self.rating_power)
        if self.completion_power:
            completion = _of_pairs(data.interactions, "completion", pairs, width)
            weight *= _known(completion**self.completion_power)
        if self.half_life is not None:
            events = data.interactions
            age = (events["timestamp"].max() - events["timestamp"]) / pd.Timedelta(days=1)
            days = _of_pairs(events.assign(age=-age), "age", pairs, width, "max")
            weight *= _known(np.exp2(days / self.half_life))
        seen.data = (seen.data * np.maximum(weight, LEAST)).astype(np.float32)
        return seen


def _of_pairs(
    frame: pd.DataFrame, column: str, pairs: np.ndarray, width: int, how: str = "mean"
) -> np.ndarray:
    """One value for each pair of user and item, NaN where there is none, shape (n,)."""
    if column not in frame:
        return np.full(len(pairs), np.nan)
    place = frame["user"].to_numpy(np.int64) * width + frame["item"].to_numpy(np.int64)
    values = pd.to_numeric(frame[column]).groupby(place).agg(how)
    return values.reindex(pairs).to_numpy(np.float64)


def _known(factor: np.ndarray) -> np.ndarray:
    """Factors, with the mean of the known ones where one is missing; ones if none is known."""
    known = ~np.isnan(factor)
    return np.where(known, factor, factor[known].mean() if known.any() else 1.0)
