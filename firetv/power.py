"""What a test can find, and whether it can be trusted: power, CUPED, A/A checks, sample ratios."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
from scipy import optimize, stats

from firetv.abtest import (
    RESAMPLES,
    Interval,
    chunks,
    mean_intervals,
    require_finite,
    require_share,
    share_interval,
    sign_flip_p,
    sign_p,
)

Arms: TypeAlias = Literal["paired", "independent"]
Design: TypeAlias = Literal["split", "paired"]

MOST_PAIRS = 20_000  # of an A/A check: each replication resamples all of them
CELLS = 10_000_000  # values of replications held at once
MISMATCH = 0.001  # p-value below which the users of the arms are not as many as planned


def minimum_detectable_effect(
    sd: float, n: int, alpha: float = 0.05, power: float = 0.8, arms: Arms = "paired"
) -> float:
    """Smallest true difference that a two-sided t test finds as often as the power says.

    The square of t has a noncentral F distribution (Cohen 1988).

    Parameters
    ----------
    sd : float
        Standard deviation: of users' differences for "paired", of users' values for
        "independent".
    n : int
        Users: for "paired" all, for "independent" those of each of two equal arms.
    alpha : float
        Level of the test, 0..1.
    power : float
        Probability of finding the difference, above alpha, below 1.
    arms : {"paired", "independent"}

    Returns
    -------
    float
        In units of the metric.

    Raises
    ------
    ValueError
        If the standard deviation is not above 0, there are fewer than two users, alpha or power
        are out of range, or arms is unknown.

    Examples
    --------
    >>> round(minimum_detectable_effect(sd=0.3, n=1000), 4)
    0.0266
    """
    _check_plan(sd, alpha, power, arms)
    if not n >= 2:
        raise ValueError(f"n is {n}: a test needs at least 2 users")
    return sd * _root(lambda effect: _power(effect, n, alpha, arms) - power, 0.0, 1 / np.sqrt(n))


def required_users(
    effect: float, sd: float, alpha: float = 0.05, power: float = 0.8, arms: Arms = "paired"
) -> int:
    """Fewest users with which a two-sided t test finds a difference as often as the power says.

    Parameters
    ----------
    effect : float
        True difference, in units of the metric; its sign does not matter.
    sd, alpha, power, arms
        See :func:`minimum_detectable_effect`.

    Returns
    -------
    int
        For "paired" all users, for "independent" those of each of two equal arms; at least 2.

    Raises
    ------
    ValueError
        As :func:`minimum_detectable_effect`, and if the effect is 0 or not finite.

    Examples
    --------
    >>> required_users(effect=0.02, sd=0.3), required_users(0.02, 0.3, arms="independent")
    (1768, 3533)
    """
    _check_plan(sd, alpha, power, arms)
    if not 0 < abs(effect) < np.inf:
        raise ValueError(f"effect is {effect}: pass the smallest difference worth finding, not 0")
    if _power(effect / sd, 2, alpha, arms) >= power:
        return 2
    return int(np.ceil(_root(lambda n: _power(effect / sd, n, alpha, arms) - power, 2.0, 2.0)))


def _check_plan(sd: float, alpha: float, power: float, arms: Arms) -> None:
    if arms not in get_args(Arms):
        raise ValueError(f"arms {arms!r}: use {', '.join(get_args(Arms))}")
    if not 0 < sd < np.inf:
        raise ValueError(f"sd is {sd}: pass the standard deviation over users, above 0")
    require_share("alpha", alpha)
    require_share("power", power)
    if power <= alpha:
        raise ValueError(f"power {power} must be above alpha {alpha}: that much comes by chance")


def _power(effect: float, n: float, alpha: float, arms: Arms) -> float:
    """Probability of finding an effect, in standard deviations.

    As statsmodels' power of t tests, by the square: scipy's noncentral t, which that is made of,
    is NaN for some large effects.
    """
    samples = 1 if arms == "paired" else 2
    free = samples * (n - 1)
    critical = stats.f.isf(alpha, 1, free)
    return float(stats.ncf.sf(critical, 1, free, n * effect**2 / samples))


def _root(function: Callable[[float], float], low: float, step: float) -> float:
    """Where a rising function, negative at `low`, is zero."""
    while function(low + step) < 0:
        low, step = low + step, 2 * step
    return float(optimize.brentq(function, low, low + step, xtol=1e-12))


@dataclass(frozen=True)
class Cuped:
    """Outcomes with what was known before the test taken out of them.

    Attributes
    ----------
    adjusted : float64 array of shape (n,)
        Of the same mean as the outcomes.
    theta : float64 array of shape (C,)
        Weight of each covariate.
    removed : float
        Share of the variance that is gone: rho squared, of the multiple correlation.
    """

    adjusted: np.ndarray
    theta: np.ndarray
    removed: float


def cuped(outcome: np.ndarray, before: np.ndarray) -> Cuped:
    """Take out of outcomes what was known of the users before the test (Deng et al. 2013).

    ``outcome - (before - mean(before)) @ theta`` with theta of least squares. Pass the users of all
    arms together, so that theta is the same in each, then compare the adjusted outcomes.

    Parameters
    ----------
    outcome : float array of shape (n,)
        One value per user. NaN stays NaN, and its user counts nowhere.
    before : float array of shape (n,) or (n, C)
        Covariates from before the test, which it cannot have changed. A missing value (NaN)
        becomes the mean of its covariate, which changes the outcome by nothing.

    Returns
    -------
    Cuped
        A covariate that is the same for everybody has theta 0; of collinear ones, the thetas are
        the smallest.

    Raises
    ------
    ValueError
        If the shapes do not fit, values are infinite, a covariate is missing for everybody, or
        users are not at least two more than covariates.

    Examples
    --------
    >>> found = cuped(np.array([2.0, 4.0, 6.0, 9.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    >>> found.theta.round(2), round(found.removed, 3), found.adjusted.mean()
    (array([2.3]), 0.989, np.float64(5.25))
    """
    outcome, before = np.asarray(outcome, float), np.asarray(before, float)
    known = ~np.isnan(outcome)
    covariates = _covariates(outcome, before, known)
    scale = covariates[known].std(axis=0)
    scaled = covariates / np.where(scale > 0, scale, 1.0)  # lest units decide what is collinear
    centred = outcome[known] - outcome[known].mean()
    weights = np.linalg.lstsq(scaled[known], centred, rcond=None)[0]
    adjusted = outcome - scaled @ weights
    total = centred @ centred
    left = adjusted[known] - adjusted[known].mean()
    removed = 1 - (left @ left) / total if total > 0 else 0.0
    return Cuped(adjusted, weights / np.where(scale > 0, scale, 1.0), float(removed))


def _covariates(outcome: np.ndarray, before: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Covariates (n, C) less their means over users with an outcome, 0 where missing."""
    if outcome.ndim != 1 or before.ndim not in (1, 2) or len(before) != len(outcome):
        raise ValueError(
            f"outcome has shape {outcome.shape}, before {before.shape}: pass (n,), and (n,) or "
            "(n, C), the same users in both"
        )
    before = before.reshape(len(before), -1)
    require_finite(outcome[known])
    there = ~np.isnan(before)
    require_finite(before[there])
    if known.sum() < before.shape[1] + 2:
        raise ValueError(
            f"{known.sum()} users with an outcome, {before.shape[1]} covariates: pass fewer "
            "covariates, or at least 2 users more than there are of them"
        )
    count = (there & known[:, np.newaxis]).sum(axis=0)
    if not count.all():
        column = int(np.argmin(count))
        raise ValueError(f"covariate {column} is missing for everybody: leave it out")
    filled = np.where(there, before, 0.0)
    varies = [np.ptp(filled[there[:, c] & known, c]) > 0 for c in range(before.shape[1])]
    centre = filled[known].sum(axis=0) / count
    return np.where(there & varies, before - centre, 0.0)


@dataclass(frozen=True)
class AACheck:
    """How often tests find a difference where there is none.

    Attributes
    ----------
    design : {"split", "paired"}
    alpha : float
        Nominal level of the tests.
    n : int
        Users.
    rates : mapping of str to Interval
        Share of the replications that each test rejects, with its exact 95 % interval (Clopper &
        Pearson 1934).
    """

    design: Design
    alpha: float
    n: int
    rates: Mapping[str, Interval]

    @property
    def table(self) -> pd.DataFrame:
        """A row for each test: ``rate, low, high, exact, honest``.

        ``exact`` tells whether the interval contains alpha, ``honest`` whether it is not above it.
        A test of discrete values, such as the sign test, may be honest and reject too seldom.
        """
        rows = {
            name: (r.value, r.low, r.high, r.low <= self.alpha <= r.high, r.low <= self.alpha)
            for name, r in self.rates.items()
        }
        columns = ["rate", "low", "high", "exact", "honest"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("test")

    @property
    def honest(self) -> bool:
        """Tell whether no test rejects too often."""
        return bool(self.table["honest"].all())


def aa_check(
    values: np.ndarray,
    seed: int,
    replications: int = 1000,
    design: Design = "split",
    alpha: float = 0.05,
) -> AACheck:
    """Try the tests on these very data, with labels that mean nothing (Kohavi et al. 2009).

    Parameters
    ----------
    values : float array of shape (n_users,) or (n_users, 2)
        For "split", one value per user: users are dealt to two arms of equal size, and Welch's
        test compares them. For "paired", the values of two pipelines: their labels are swapped
        for each user by the toss of a coin, then tested by t, flipped signs, signs and the BCa
        interval. Swapping makes the differences symmetric, so that a skewed alternative is not
        tried. Users with a NaN are left out.
    seed : int
    replications : int
        How often users are dealt or labels swapped.
    design : {"split", "paired"}
    alpha : float
        Level of the tests, 0..1.

    Returns
    -------
    AACheck

    Raises
    ------
    ValueError
        If the design is unknown, the values are of another shape, too few, infinite or all alike,
        or, for "paired", of more than `MOST_PAIRS` users; or without a replication.

    Examples
    --------
    >>> values = np.random.default_rng(0).exponential(size=200)
    >>> aa_check(values, seed=0).table.loc["welch", ["rate", "honest"]].to_dict()
    {'rate': 0.049, 'honest': True}
    """
    if design not in get_args(Design):
        raise ValueError(f"design {design!r}: use {', '.join(get_args(Design))}")
    require_share("alpha", alpha)
    if replications < 1:
        raise ValueError(f"{replications} replications: pass at least 1, better 1000")
    values = _aa_values(np.asarray(values, float), design)
    reject = _reject_split if design == "split" else _reject_paired
    cells = max(len(values), RESAMPLES)  # a replication has that many means
    parts = [
        reject(values, rows.stop - rows.start, alpha, [seed, part])
        for part, rows in enumerate(chunks(replications, cells, CELLS))
    ]
    rates = {name: _rate(np.concatenate([part[name] for part in parts])) for name in parts[0]}
    return AACheck(design, alpha, len(values), rates)


def _rate(rejected: np.ndarray) -> Interval:
    """Share of replications that are rejected, with its exact interval."""
    return share_interval(int(rejected.sum()), len(rejected))


def _aa_values(values: np.ndarray, design: Design) -> np.ndarray:
    """Values, or differences of pairs, that can tell something; shape (n,)."""
    if values.ndim != 1 + (design == "paired") or values.shape[1:] not in ((), (2,)):
        wanted = "(users,)" if design == "split" else "(users, 2)"
        raise ValueError(f"values have shape {values.shape}: design {design!r} needs {wanted}")
    if design == "paired":
        values = values[:, 0] - values[:, 1]
    values = values[~np.isnan(values)]
    require_finite(values)
    if len(values) < 4:
        raise ValueError(f"{len(values)} users with values: a check needs at least 4")
    if design == "paired" and len(values) > MOST_PAIRS:
        told = f"pass a random sample of at most {MOST_PAIRS} pairs"
        raise ValueError(f"{len(values)} users: {told}")
    if np.ptp(values) == 0 and (design == "split" or values[0] == 0):
        raise ValueError("all users have the same value: no test can say anything about these data")
    return values


def _reject_split(
    values: np.ndarray, replications: int, alpha: float, seed: Sequence[int]
) -> dict[str, np.ndarray]:
    """Reject by Welch's test, from the sums of each arm."""
    size, treated = len(values), len(values) // 2
    arm = np.broadcast_to(np.arange(size) < treated, (replications, size))
    arm = np.random.default_rng(seed).permuted(arm, axis=1).astype(float)
    deviation = values - values.mean()  # lest squares cancel
    moments = np.stack([deviation, deviation**2], axis=1)
    first = arm @ moments
    sides = []
    for sums, n in ((first, treated), (moments.sum(axis=0) - first, size - treated)):
        mean = sums[:, 0] / n
        variance = np.maximum(sums[:, 1] - n * mean**2, 0) / (n - 1)
        sides += [mean, np.sqrt(variance), n]
    return {"welch": stats.ttest_ind_from_stats(*sides, equal_var=False).pvalue <= alpha}


def _reject_paired(
    difference: np.ndarray, replications: int, alpha: float, seed: Sequence[int]
) -> dict[str, np.ndarray]:
    """Reject by each of the paired tests."""
    rng, size = np.random.default_rng(seed), len(difference)
    swapped = difference[:, np.newaxis] * rng.choice([-1.0, 1.0], size=(size, replications))
    # Swaps change signs only: flipped signs have one null distribution in all replications.
    p_flip = sign_flip_p(swapped.sum(axis=0), difference, seed[0])
    low, high = mean_intervals(swapped, seed[0], confidence=1 - alpha)
    with np.errstate(divide="ignore"):  # few equal differences may all get one sign
        t = swapped.mean(axis=0) / (swapped.std(axis=0, ddof=1) / np.sqrt(size))
    p_sign = sign_p((swapped > 0).sum(axis=0), np.count_nonzero(difference))
    return {
        "t": 2 * stats.t.sf(np.abs(t), size - 1) <= alpha,
        "sign flip": p_flip <= alpha,
        "sign": p_sign <= alpha,
        "BCa interval": (low > 0) | (high < 0),
    }


@dataclass(frozen=True)
class SampleRatio:
    """Whether users came to the arms in the shares that were planned.

    Attributes
    ----------
    p : float
        Of Pearson's chi-square test.
    mismatch : bool
        Whether p is below 0.001: then something loses or adds users, and no result of the test
        can be trusted (Fabijan et al. 2019).
    expected : tuple of float
        Users of each arm, had the plan held exactly.
    """

    p: float
    mismatch: bool
    expected: tuple[float, ...]


def sample_ratio(counts: Sequence[int], shares: Sequence[float]) -> SampleRatio:
    """Compare how many users each arm has to the shares planned.

    Parameters
    ----------
    counts : ints, one for each arm
        Users seen.
    shares : floats, one for each arm
        Planned, above 0, with sum 1.

    Returns
    -------
    SampleRatio

    Raises
    ------
    ValueError
        If there are not two arms or more with a count and a share each, counts are not whole
        numbers from 0, shares do not add up to 1, or an arm should have fewer than 5 users.

    Examples
    --------
    >>> sample_ratio([5000, 5300], [0.5, 0.5])
    SampleRatio(p=0.003116693839866867, mismatch=False, expected=(5150.0, 5150.0))
    """
    found, planned = np.asarray(counts, float), np.asarray(shares, float)
    if found.ndim != 1 or found.shape != planned.shape or len(found) < 2:
        raise ValueError(
            f"counts of shape {found.shape}, shares {planned.shape}: pass one of each for every "
            "arm, and at least two arms"
        )
    if not (np.isfinite(found) & (found >= 0) & (found == np.round(found))).all():
        raise ValueError(f"counts {found.tolist()} must be whole numbers of users, 0 or more")
    if not ((planned > 0).all() and np.isclose(planned.sum(), 1, rtol=0, atol=1e-6)):
        raise ValueError(f"shares {planned.tolist()} must be above 0 and add up to 1")
    expected = found.sum() * planned / planned.sum()
    if expected.min() < 5:
        raise ValueError(f"an arm should have {expected.min():.3g} users: wait for at least 5")
    p = float(stats.chisquare(found, expected).pvalue)
    return SampleRatio(p, p < MISMATCH, tuple(expected.tolist()))
