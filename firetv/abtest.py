"""From per-user values to statements about means: intervals and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    low, high = _bca((values,), np.mean, seed, confidence, resamples)
    return Interval(mean, low, high, len(values))


def clustered_interval(
    values: np.ndarray,
    clusters: np.ndarray,
    seed: int,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Interval:
    """Mean of all values with a BCa bootstrap interval that resamples whole clusters.

    For a mean over requests where users have several: each request counts, but requests of one
    user resemble each other, and one heavy user is not a hundred witnesses. Resampled one by one
    they would give an interval that is too narrow.

    Parameters
    ----------
    values : float array of shape (n,)
        One value per request. NaN is left out.
    clusters : array of shape (n,)
        What each value belongs to, usually a user code.
    seed : int
        Seed of the resampling.
    confidence : float
        Nominal coverage, 0..1.
    resamples : int
        Bootstrap replications.

    Returns
    -------
    Interval
        ``n`` counts clusters; ``low`` and ``high`` equal the value where all clusters have the
        same mean.

    Raises
    ------
    ValueError
        If the values are of fewer than two clusters, or not one for each value is given.

    Examples
    --------
    >>> values, users = np.array([0.0, 0.0, 0.0, 1.0]), np.array([7, 7, 7, 8])
    >>> interval = clustered_interval(values, users, seed=0)
    >>> interval.value, interval.n
    (0.25, 2)
    """
    values, clusters = np.asarray(values, float), np.asarray(clusters)
    if values.shape != clusters.shape:
        raise ValueError(f"{len(values)} values but {len(clusters)} clusters: give one for each")
    there = ~np.isnan(values)
    found, cluster = np.unique(clusters[there], return_inverse=True)
    if len(found) < 2:
        raise ValueError(f"an interval needs at least 2 clusters, not {len(found)}")
    sums, sizes = np.bincount(cluster, values[there]), np.bincount(cluster)
    mean = float(sums.sum() / sizes.sum())
    if np.allclose(sums, mean * sizes, rtol=1e-12, atol=0):
        return Interval(mean, mean, mean, len(found))
    low, high = _bca((sums, sizes), _ratio, seed, confidence, resamples)
    return Interval(mean, low, high, len(found))


def _ratio(sums: np.ndarray, sizes: np.ndarray, axis: int = -1) -> np.ndarray:
    return sums.sum(axis=axis) / sizes.sum(axis=axis)


def _bca(
    samples: Sequence[np.ndarray],
    statistic: Callable[..., np.ndarray],
    seed: int,
    confidence: float,
    resamples: int,
) -> tuple[float, float]:
    """Bounds of a statistic; several samples are resampled together, place by place."""
    result = stats.bootstrap(
        samples,
        statistic,
        n_resamples=resamples,
        batch=max(1, BATCH_CELLS // len(samples[0])),
        paired=len(samples) > 1,
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return float(low), float(high)


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
