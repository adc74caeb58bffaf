"""From per-user values to statements about means: intervals and paired differences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 2000
BATCH_CELLS = 20_000_000  # resampled values held at once


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval, and the number of independent units behind it."""

    value: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Tell whether zero lies outside the interval."""
        return not self.low <= 0 <= self.high


def mean_interval(
    values: np.ndarray, seed: int, confidence: float = 0.95, resamples: int = RESAMPLES
) -> Interval:
    """Mean of per-user values with a BCa bootstrap interval over users (Efron 1987).

    Parameters
    ----------
    values : float array of shape (n_users,)
        One value per independent unit: average a user's requests and seeds first, since one heavy
        user is not a hundred witnesses. NaN (a metric undefined for the user) is left out.
    seed : int
        Seed of the resampling.
    confidence : float
        Nominal coverage, 0..1.
    resamples : int
        Bootstrap replications.

    Returns
    -------
    Interval
        With ``low`` and ``high`` equal to the value where all values agree.

    Raises
    ------
    ValueError
        If fewer than two values are given.

    Examples
    --------
    >>> mean_interval(np.array([0.0, 1.0, 1.0, 0.0]), seed=0).value
    0.5
    """
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        raise ValueError(f"an interval needs at least 2 values, not {len(values)}")
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return Interval(mean, mean, mean, len(values))
    result = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, BATCH_CELLS // len(values)),
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Interval(mean, float(low), float(high), len(values))


def difference_interval(
    treatment: np.ndarray, control: np.ndarray, seed: int, confidence: float = 0.95
) -> Interval:
    """Mean of paired differences, treatment minus control, with its bootstrap interval.

    Parameters
    ----------
    treatment, control : float arrays of shape (n_users,)
        Values of the same users in the same order.
    seed : int
        Seed of the resampling.
    confidence : float
        Nominal coverage, 0..1.

    Returns
    -------
    Interval
    """
    return mean_interval(np.subtract(treatment, control), seed, confidence)
