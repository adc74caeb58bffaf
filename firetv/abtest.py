"""From per-user values to statements about means: intervals, and tests of two pipelines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special, stats

RESAMPLES = 2000
BATCH_CELLS = 20_000_000  # resampled values held at once
CELLS = 2_000_000  # the same, where values are counted and not copied
LARGE = 5_000  # values beyond which scipy's BCa, quadratic in their number, is too slow
BINS = 1000  # of near values, that many values are resampled by
FLIPS = 9999  # of signs, so that p-values are multiples of 1 / 10 000
FEW = 13  # differences whose signs are all enumerated


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
        If fewer than two values are given, or one of very many is infinite.

    Notes
    -----
    More than `LARGE` values are resampled by bins of near ones: a replication draws how often each
    bin occurs, and one normal number for what varies within bins, of exactly the variance which
    that has. So mean and variance of the replications are those of the bootstrap; with at most
    `BINS` distinct values all of their distribution is.

    Examples
    --------
    >>> mean_interval(np.array([0.0, 1.0, 1.0, 0.0]), seed=0).value
    0.5
    """
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        raise ValueError(f"an interval needs at least 2 values, not {len(values)}")
    if len(values) > LARGE:
        require_finite(values)
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return Interval(mean, mean, mean, len(values))
    if len(values) > LARGE:
        low, high = _binned_bca(values, seed, confidence, resamples)
    else:
        low, high = _bca((values,), np.mean, seed, confidence, resamples)
    return Interval(mean, low, high, len(values))


def mean_intervals(
    values: np.ndarray, seed: int, confidence: float = 0.95, resamples: int = RESAMPLES
) -> tuple[np.ndarray, np.ndarray]:
    """BCa bootstrap intervals of the means of many columns, which share their resampled users.

    Parameters
    ----------
    values : float array of shape (n_users, R)
        Without NaN.
    seed : int
        Seed of the resampling.
    confidence : float
        Nominal coverage, 0..1.
    resamples : int
        Bootstrap replications; ``resamples x R`` means are held at once.

    Returns
    -------
    low, high : float64 arrays of shape (R,)
        Equal to the mean where all values of a column agree.

    Raises
    ------
    ValueError
        If values are missing or infinite, of another shape, or of fewer than two users.

    Examples
    --------
    >>> low, high = mean_intervals(np.array([[0.0, 3.0], [1.0, 3.0], [0.0, 3.0]]), seed=0)
    >>> high.round(2)
    array([1., 3.])
    """
    values = np.asarray(values, float)
    if values.ndim != 2 or len(values) < 2:
        raise ValueError(f"values have shape {values.shape}: pass (users >= 2, columns)")
    require_finite(values)
    mean = values.mean(axis=0)
    deviation = np.where(np.ptp(values, axis=0) > 0, values - mean, 0.0)
    rng, size = np.random.default_rng(seed), len(values)
    shifts = np.empty((resamples, values.shape[1]))
    for rows in chunks(resamples, size, CELLS):
        draws = rng.integers(size, size=(rows.stop - rows.start, size))
        draws += size * np.arange(len(draws))[:, np.newaxis]
        counts = np.bincount(draws.ravel(), minlength=draws.size).reshape(draws.shape)
        shifts[rows] = counts.astype(float) @ deviation / size
    low, high = _bca_bounds(shifts, deviation, confidence)
    return mean + low, mean + high


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


class _Bins(NamedTuple):
    """Values by bins, each with how many it holds, their mean and their variance."""

    count: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


def _bins(values: np.ndarray) -> _Bins:
    """Group equal values, or near ones where more than `BINS` are distinct.

    Edges are half by rank and half by value: no bin holds much of the values, or spans much of
    their range, however skewed they are.
    """
    distinct, count = np.unique(values, return_counts=True)
    if len(distinct) <= BINS:
        return _Bins(count, distinct, np.zeros(len(distinct)))
    share = np.linspace(0, 1, BINS // 2)[1:]
    low, high = distinct[[0, -1]]
    # Edges left of which a bin ends; the first one starts at the least value.
    edges = np.union1d(np.quantile(values, share), low + share * (high - low))
    found, place = np.unique(np.searchsorted(edges, values, side="right"), return_inverse=True)
    count = np.bincount(place, minlength=len(found))
    mean = np.bincount(place, values) / count
    return _Bins(count, mean, np.bincount(place, (values - mean[place]) ** 2) / count)


def _binned_bca(
    values: np.ndarray, seed: int, confidence: float, resamples: int
) -> tuple[float, float]:
    """Bounds of the mean of many values, which are resampled by bins."""
    mean, size, rng = values.mean(), len(values), np.random.default_rng(seed)
    deviation = values - mean
    bins = _bins(deviation)
    noise, shifts = rng.standard_normal(resamples), np.empty(resamples)
    for rows in chunks(resamples, len(bins.count), CELLS):
        counts = rng.multinomial(size, bins.count / size, size=rows.stop - rows.start)
        within = noise[rows] * np.sqrt(counts @ bins.variance)
        shifts[rows] = (counts @ bins.mean + within) / size
    low, high = _bca_bounds(shifts[:, np.newaxis], deviation[:, np.newaxis], confidence)
    return float(mean + low[0]), float(mean + high[0])


def _bca_bounds(
    shifts: np.ndarray, deviation: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of means, from replications (B, R) and values (n, R), all less the mean (Efron 1987).

    ``sum d**3 / (6 (sum d**2)**1.5)`` is the acceleration that the jackknife gives for a mean.
    """
    slack = 1e-9 * shifts.std(axis=0)  # a replication equal to the mean may differ by rounding
    below = ((shifts < -slack).mean(axis=0) + (shifts <= slack).mean(axis=0)) / 2
    below = np.clip(below, 0.5 / len(shifts), 1 - 0.5 / len(shifts))  # lest the bias is infinite
    square, cube = (deviation**2).sum(axis=0), (deviation**3).sum(axis=0)
    acceleration = cube / (6 * np.where(square > 0, square, 1) ** 1.5)
    bias = special.ndtri(below)
    tail = special.ndtri([(1 - confidence) / 2, (1 + confidence) / 2])[:, np.newaxis] + bias
    level = special.ndtr(bias + tail / (1 - acceleration * tail))
    low, high = stats.quantile(shifts, level, axis=0, keepdims=True)
    return low, high


def chunks(total: int, cells: int, most: int) -> Iterator[slice]:
    """Slices of rows that have some cells each, so that at most so many are held at once."""
    step = max(1, most // cells)
    return (slice(start, min(start + step, total)) for start in range(0, total, step))


def share_interval(hits: int, n: int, confidence: float = 0.95) -> Interval:
    """Share of hits among n, with its exact interval (Clopper & Pearson 1934)."""
    low, high = stats.binomtest(hits, n).proportion_ci(confidence)
    return Interval(hits / n, float(low), float(high), n)


def require_finite(values: np.ndarray) -> None:
    """Raise ValueError if values are missing or infinite."""
    wrong = np.count_nonzero(~np.isfinite(values))
    if wrong:
        raise ValueError(f"{wrong} values are missing or infinite: leave their users out")


def require_share(name: str, value: float) -> None:
    """Raise ValueError unless a number lies between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1, not {value}: such as 0.05 or 0.95")


def difference_interval(
    treatment: np.ndarray,
    control: np.ndarray,
    seed: int,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
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
    resamples : int
        Bootstrap replications.

    Returns
    -------
    Interval
    """
    return mean_interval(np.subtract(treatment, control), seed, confidence, resamples)


@dataclass(frozen=True)
class Comparison:
    """Two pipelines on the same users, treatment minus control.

    Attributes
    ----------
    difference : Interval
        Mean difference, BCa by user.
    effect : float
        Cohen's d_z: the mean of the differences over their standard deviation. 0 where all are 0,
        infinite where all are another equal number.
    p_permutation : float
        Whether differences are symmetric around 0: two-sided, from flipped signs.
    p_sign : float
        Whether as many users gain as lose: two-sided, from the binomial distribution.
    wins, losses, ties : int
        Users whose difference is above, below and exactly 0.
    """

    difference: Interval
    effect: float
    p_permutation: float
    p_sign: float
    wins: int
    losses: int
    ties: int


def paired_test(
    treatment: np.ndarray,
    control: np.ndarray,
    seed: int,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    flips: int = FLIPS,
) -> Comparison:
    """Compare two pipelines that the same users were measured with.

    If the pipelines are alike, each difference may as well have the other sign (Fisher 1935). All
    signs are enumerated for few users; otherwise ``p = (1 + extreme) / (1 + flips)``, which is
    never 0 (Phipson & Smyth 2010).

    Parameters
    ----------
    treatment, control : float arrays of shape (n_users,)
        Values of the same users in the same order, one per independent unit. Users with a NaN in
        either are left out of both.
    seed : int
        Seed of the resampling and of the flips.
    confidence : float
        Nominal coverage of the interval, 0..1.
    resamples : int
        Bootstrap replications.
    flips : int
        Random flips of all signs, where these are not enumerated.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If the lengths differ, or values are infinite or of fewer than two users.

    Notes
    -----
    Many distinct differences are flipped by bins of near sizes, as in :func:`mean_interval`: how
    many of a bin stay positive is drawn, and what varies within bins is one normal number of
    exactly the variance that it has.

    Examples
    --------
    >>> found = paired_test(np.array([0.5, 0.4, 0.9, 0.6]), np.array([0.4, 0.4, 0.5, 0.3]), seed=0)
    >>> found.wins, found.losses, found.ties, found.p_permutation
    (3, 0, 1, 0.25)
    """
    treatment, control = np.asarray(treatment, float), np.asarray(control, float)
    if treatment.shape != control.shape or treatment.ndim != 1:
        raise ValueError(
            f"treatment has shape {treatment.shape}, control {control.shape}: pass one value for "
            "each user, the same users in both"
        )
    difference = treatment - control
    difference = difference[~(np.isnan(treatment) | np.isnan(control))]
    require_finite(difference)
    require_share("confidence", confidence)
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    return Comparison(
        difference=difference_interval(treatment, control, seed, confidence, resamples),
        effect=_standardised(difference.mean(), _deviation(difference)),
        p_permutation=float(sign_flip_p(difference.sum(), difference, seed, flips)),
        p_sign=float(sign_p(wins, wins + losses)),
        wins=wins,
        losses=losses,
        ties=len(difference) - wins - losses,
    )


def _deviation(values: np.ndarray) -> float:
    """Standard deviation, exactly 0 where all values agree."""
    return float(values.std(ddof=1)) if np.ptp(values) > 0 else 0.0


def _standardised(mean: float, deviation: float) -> float:
    if mean == 0:
        return 0.0
    return float(mean / deviation if deviation > 0 else np.copysign(np.inf, mean))


def sign_p(wins: np.ndarray | int, moved: np.ndarray | int) -> np.ndarray:
    """Two-sided p-values of the sign test.

    Parameters
    ----------
    wins : int, or int array of any shape
        Users whose difference is above 0.
    moved : int, or int array of that shape
        Users whose difference is not 0.

    Returns
    -------
    float64 array of the shape of `wins`
        Twice the smaller tail of the binomial distribution, which is symmetric here.
    """
    fewer = np.minimum(wins, moved - np.asarray(wins))
    return np.minimum(1, 2 * stats.binom.cdf(fewer, moved, 0.5))


def sign_flip_p(
    totals: np.ndarray | float, differences: np.ndarray, seed: int, flips: int = FLIPS
) -> np.ndarray:
    """Two-sided p-values of sums of differences whose signs may as well be others.

    Parameters
    ----------
    totals : float, or float array of any shape
        Observed sums.
    differences : float array of shape (n_users,)
        The sizes of the differences matter, not their signs.
    seed : int
    flips : int
        See :func:`paired_test`.

    Returns
    -------
    float64 array of the shape of `totals`
    """
    sizes = np.abs(differences[differences != 0])  # what is 0 changes no sum
    drawn = int(len(sizes) > FEW)  # one more, the observed signs, which all signs contain
    null = _drawn_sums(sizes, flips, seed) if drawn else _all_sums(sizes)
    slack = 1e-12 * sizes.sum()  # sums that are equal may differ by rounding
    extreme = len(null) - np.searchsorted(np.sort(null), np.abs(totals) - slack)
    return (extreme + drawn) / (len(null) + drawn)


def _all_sums(sizes: np.ndarray) -> np.ndarray:
    """Absolute sums under each combination of signs."""
    flipped = np.arange(2 ** len(sizes))[:, np.newaxis] >> np.arange(len(sizes)) & 1
    return np.abs((1 - 2 * flipped) @ sizes)


def _drawn_sums(sizes: np.ndarray, flips: int, seed: int) -> np.ndarray:
    """Absolute sums under random signs."""
    rng = np.random.default_rng([seed, 1])  # not the numbers that users are resampled with
    total = np.empty(flips)
    if len(sizes) <= BINS:  # a bit is a sign
        width = -(-len(sizes) // 8)
        for rows in chunks(flips, len(sizes), CELLS):
            drawn = rng.integers(256, size=(rows.stop - rows.start, width), dtype=np.uint8)
            bits = np.unpackbits(drawn, axis=1)[:, : len(sizes)]
            total[rows] = 2 * (bits @ sizes) - sizes.sum()
        return np.abs(total)
    count, mean, variance = _bins(sizes)
    noise = rng.standard_normal(flips)
    for rows in chunks(flips, len(count), CELLS):
        up = rng.binomial(count, 0.5, size=(rows.stop - rows.start, len(count)))
        # Which of a bin are flipped is drawn without replacement: the variance of their sum.
        spread = (4 * up * (count - up) / np.maximum(count - 1, 1)) @ variance
        total[rows] = (2 * up - count) @ mean + noise[rows] * np.sqrt(spread)
    return np.abs(total)


@dataclass(frozen=True)
class ArmComparison:
    """Two arms of a live test, with different users; treatment minus control.

    Attributes
    ----------
    difference : Interval
        Of the means, by Welch; ``n`` counts the users of both arms.
    effect : float
        Cohen's d: the difference over the pooled standard deviation. 0 where the means are equal,
        infinite where all users of an arm agree and the arms do not.
    p : float
        Two-sided, of Welch's t test.
    treated, control : int
        Users of each arm.
    """

    difference: Interval
    effect: float
    p: float
    treated: int
    control: int


def two_sample_test(
    treatment: np.ndarray, control: np.ndarray, confidence: float = 0.95
) -> ArmComparison:
    """Compare the means of two arms whose users are independent (Welch 1947).

    Parameters
    ----------
    treatment : float array of shape (n_treated,)
        One value per user. NaN is left out.
    control : float array of shape (n_control,)
    confidence : float
        Nominal coverage of the interval, 0..1.

    Returns
    -------
    ArmComparison

    Raises
    ------
    ValueError
        If an arm has fewer than two values, or infinite ones.

    Examples
    --------
    >>> found = two_sample_test(np.array([3.0, 4.0, 5.0]), np.array([1.0, 2.0, 3.0]))
    >>> round(found.p, 3), found.effect
    (0.07, 2.0)
    """
    arms = [np.asarray(arm, float) for arm in (treatment, control)]
    arms = [arm[~np.isnan(arm)] for arm in arms]
    for name, arm in zip(("treatment", "control"), arms, strict=True):
        if len(arm) < 2:
            raise ValueError(f"the {name} arm has {len(arm)} values: it needs at least 2")
        require_finite(arm)
    require_share("confidence", confidence)
    sizes = np.array([len(arm) for arm in arms])
    deviations = np.array([_deviation(arm) for arm in arms])
    pooled = np.sqrt((sizes - 1) @ deviations**2 / (sizes.sum() - 2))
    if pooled > 0:
        test = stats.ttest_ind(*arms, equal_var=False)
        difference, p = float(arms[0].mean() - arms[1].mean()), float(test.pvalue)
        low, high = test.confidence_interval(confidence)
    else:  # all users of an arm agree: the limit of ever smaller deviations
        low = high = difference = float(arms[0][0] - arms[1][0])
        p = float(difference == 0)
    interval = Interval(difference, float(low), float(high), int(sizes.sum()))
    return ArmComparison(interval, _standardised(difference, pooled), p, *sizes.tolist())
