"""Intervals that hold at every look, so that a test may be watched and stopped at any time.

An interval of fixed size promises 95 % at one look that was planned; whoever looks every day and
stops at the first that excludes zero is wrong far more often. A confidence sequence holds at all
looks together. These are Robbins' normal mixture (1970) in the two-sided form of Howard et al.
(2021), with the variance estimated, whose promise is asymptotic: Waudby-Smith, Arbour, Sinha,
Kennedy & Ramdas (2024), "Time-uniform central limit theory and asymptotic confidence sequences".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from firetv.abtest import require_finite, require_share

START = 100  # users before whom variances and means are too rough for the promise


@dataclass(frozen=True)
class ConfidenceSequence:
    """A mean and its interval after each look.

    Arrays have shape (L,), or (L, R) for R streams side by side.

    Attributes
    ----------
    at : int array of shape (L,)
        Users so far.
    estimate, low, high : float64 arrays
        The bounds are infinite while nothing can be said: before `start` users, or while all
        values agree.
    p : float64 array
        Always-valid p-value of no difference: the least so far, 1 while nothing can be said. It is
        at most ``1 - confidence`` from the first look on whose interval excludes zero.
    """

    at: np.ndarray
    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray

    @property
    def excludes_zero(self) -> np.ndarray:
        """Tell for each look whether zero lies outside the interval; bool, shaped as `low`."""
        return (self.low > 0) | (self.high < 0)

    @property
    def stopped(self) -> int | None:
        """Index of the first look whose interval excludes zero, None if there is none.

        Raises
        ------
        ValueError
            If there are several streams: ask ``excludes_zero`` then.
        """
        if self.low.ndim > 1:
            raise ValueError("several streams stop at several looks: use excludes_zero")
        return int(np.argmax(self.excludes_zero)) if self.excludes_zero.any() else None


def confidence_sequence(
    values: np.ndarray,
    at: np.ndarray | None = None,
    confidence: float = 0.95,
    best_at: int | None = None,
    start: int = START,
) -> ConfidenceSequence:
    """Follow the mean of a stream, such as paired differences, with intervals valid at every look.

    After n users the interval is ``mean +- sd sqrt((n r + 1) log((n r + 1) / alpha^2) / (n^2 r))``
    where ``r`` makes it narrowest at `best_at` (Waudby-Smith et al. 2024).

    Parameters
    ----------
    values : float array of shape (n,) or (n, R)
        One value per independent user, in order of arrival; of somebody with many requests, the
        mean of them all. Columns are separate streams.
    at : int array of shape (L,), optional
        Users at each look, increasing. Each one from `start` on by default. Looks need not be
        planned: which are taken does not change what is seen at them.
    confidence : float
        Probability that all intervals together hold the mean, 0..1.
    best_at : int, optional
        Users at whom the interval is narrowest, about 1.5 times as wide as one for that size
        alone; by default the last look. Choose it before the test, and keep it at every look.
    start : int
        Users before whom nothing is said, since the promise is asymptotic. In simulations 100
        were enough up to a skewness of 3 (four of five values are 0, the rest within 0..1),
        and ``20 * skewness**2`` where that is more; take the skewness from before the test.

    Returns
    -------
    ConfidenceSequence

    Raises
    ------
    ValueError
        If values are missing or infinite, looks do not increase from 1 to at most n, or
        `best_at`, `start` or `confidence` is out of range.

    Examples
    --------
    >>> values = np.random.default_rng(0).normal(0.3, 1, size=1000)
    >>> found = confidence_sequence(values, at=[100, 200, 500, 1000])
    >>> found.stopped, found.low.round(2)
    (0, array([0.01, 0.09, 0.13, 0.16]))
    """
    values = np.asarray(values, float)
    at = _looks(values, at, start)
    shift = values.mean(axis=0)  # lest squares cancel
    total, square = (_sums((values - shift) ** power, at) for power in (1, 2))
    n = at.reshape(-1, *[1] * (values.ndim - 1))
    mean = total / n
    variance = np.maximum(square - n * mean**2, 0) / np.maximum(n - 1, 1)
    return _sequence(at, shift + mean, variance / n, confidence, best_at, start)


def difference_sequence(
    outcome: np.ndarray,
    treated: np.ndarray,
    at: np.ndarray | None = None,
    confidence: float = 0.95,
    best_at: int | None = None,
    start: int = START,
) -> ConfidenceSequence:
    """Follow the difference of two arms of a live test, treatment minus control.

    The difference of means is, but for terms that vanish faster, a mean over users (of the
    influence function of an average treatment effect, as in Waudby-Smith et al. 2024, here without
    covariates); its variance is the sum of those of both means. So it is followed as a mean is, and
    at the last look it has the estimate and the standard error of Welch's test.

    Parameters
    ----------
    outcome : float array of shape (n,) or (n, R)
        One value per independent user of either arm, in order of arrival.
    treated : bool array of the same shape, or of shape (n,)
        Which arm each user is dealt to, at random, with a probability that stays.
    at, confidence, best_at, start
        See :func:`confidence_sequence`; of users in both arms, but `start` is for each of them.

    Returns
    -------
    ConfidenceSequence
        The estimate is NaN while an arm has nobody.

    Raises
    ------
    ValueError
        As :func:`confidence_sequence`, and if the shapes do not fit or `treated` is not bool.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> treated = rng.random(4000) < 0.5
    >>> found = difference_sequence(rng.normal(0.2 * treated), treated, at=[500, 1000, 2000, 4000])
    >>> found.stopped, found.p.round(3)
    (1, array([0.17 , 0.033, 0.001, 0.   ]))
    """
    outcome, treated = np.asarray(outcome, float), np.asarray(treated)
    if treated.dtype != bool or treated.shape not in (outcome.shape, outcome.shape[:1]):
        raise ValueError(
            f"treated is {treated.dtype} of shape {treated.shape}: pass bool, of shape "
            f"{outcome.shape} or {outcome.shape[:1]}"
        )
    at = _looks(outcome, at, start)
    arm = treated.reshape(*treated.shape, *[1] * (outcome.ndim - treated.ndim))
    shift = outcome.mean(axis=0)
    sides = [_arm(outcome - shift, mask, at) for mask in (arm, ~arm)]
    (one, one_error, users), (other, other_error, others) = sides
    variance = np.where(np.minimum(users, others) >= start, one_error + other_error, 0)
    return _sequence(at, one - other, variance, confidence, best_at, start)


def _arm(
    values: np.ndarray, mask: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of an arm at each look, the variance of that mean, 0 while unknown, and its users."""
    count, total, square = (_sums(np.where(mask, values**power, 0), at) for power in range(3))
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    spread = np.maximum(square - count * mean**2, 0)
    return mean, spread / np.maximum(count * (count - 1), 1), count


def _looks(values: np.ndarray, at: np.ndarray | None, start: int) -> np.ndarray:
    """Users at each look; what they are taken of is checked."""
    if values.ndim not in (1, 2) or not values.size:
        raise ValueError(f"values have shape {values.shape}: pass (n,), or (n, R) for R streams")
    require_finite(values)
    if not start >= 2:
        raise ValueError(f"start is {start}: pass at least 2 users, better 100")
    if at is None:
        if len(values) < start:
            raise ValueError(f"{len(values)} users, fewer than start, {start}: wait for more")
        return np.arange(start, len(values) + 1)
    at = np.asarray(at)
    steps = np.diff(at, prepend=0)
    if at.ndim != 1 or at.dtype.kind not in "iu" or not len(at) or steps.min() < 1:
        raise ValueError(f"looks {at.tolist()} must be whole numbers of users that increase from 1")
    if at[-1] > len(values):
        raise ValueError(f"the last look is at {at[-1]} users, but only {len(values)} came")
    return at


def _sums(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Sums of the values up to each look, one row for each."""
    starts = np.append(0, at[:-1])
    return np.cumsum(np.add.reduceat(values[: at[-1]], starts, axis=0), axis=0)


def _sequence(
    at: np.ndarray,
    estimate: np.ndarray,
    variance: np.ndarray,
    confidence: float,
    best_at: int | None,
    start: int,
) -> ConfidenceSequence:
    """Put the normal mixture's bounds around estimates of some variance."""
    require_share("confidence", confidence)
    best_at = int(at[-1]) if best_at is None else best_at
    if not best_at >= 1:
        raise ValueError(f"best_at is {best_at}: pass the number of users you hope to stop at")
    n = at.reshape(-1, *[1] * (estimate.ndim - 1))
    known = (variance > 0) & (n >= start)
    ratio = n * _mixture(1 - confidence, best_at)
    # Where the estimate is so many standard errors from zero, the mixture of the likelihoods of
    # other means is 1 / alpha times that of zero (Ville's inequality).
    width = np.sqrt((ratio + 1) / ratio * (np.log1p(ratio) - 2 * np.log(1 - confidence)))
    half = np.where(known, width * np.sqrt(np.where(known, variance, 0)), np.inf)
    square = np.where(known, estimate, 0) ** 2 / np.where(known, variance, 1)
    p = np.minimum(1, np.exp((np.log1p(ratio) - square * ratio / (ratio + 1)) / 2))
    centre = np.where(known, estimate, 0)
    p = np.minimum.accumulate(np.where(known, p, 1.0), axis=0)
    return ConfidenceSequence(at, estimate, centre - half, centre + half, p)


def _mixture(alpha: float, best_at: int) -> float:
    """Variance of the mixture that makes the bounds narrowest at a size (Howard et al. 2021).

    By Lambert's W; some give an approximation with logarithms.
    """
    return float((-special.lambertw(-(alpha**2) / np.e, k=-1).real - 1) / best_at)
