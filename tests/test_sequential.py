"""Intervals that may be looked at as often as one likes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize, stats

from firetv.abtest import two_sample_test
from firetv.sequential import confidence_sequence, difference_sequence

REPEATS = 1000  # of which a share of 0.05 has a standard deviation of 0.007


def normal(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal(size=(n, REPEATS))


def sparse(rng: np.random.Generator, n: int) -> np.ndarray:
    """Four of five are 0, the others skewed; the mean is 0."""
    values = rng.beta(1, 4, size=(n, REPEATS))
    return np.where(rng.random((n, REPEATS)) < 0.8, 0, values) - 0.04


def naive_p(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """P-values of a t test at each look."""
    n = at[:, np.newaxis]
    mean = values.cumsum(axis=0)[at - 1] / n
    variance = ((values**2).cumsum(axis=0)[at - 1] - n * mean**2) / (n - 1)
    return 2 * stats.t.sf(np.abs(mean) / np.sqrt(variance / n), n - 1)


# The promise


@pytest.mark.parametrize("draw", [normal, sparse])
def test_peeking_at_every_step_is_safe_here_and_not_with_a_t_test(
    draw: Callable[[np.random.Generator, int], np.ndarray],
) -> None:
    values = draw(np.random.default_rng(0), 3000)
    found = confidence_sequence(values)
    assert found.at[0] == 100
    assert len(found.at) == 2901
    assert (found.p[-1] <= 0.05).mean() < 0.05
    assert (naive_p(values, found.at).min(axis=0) <= 0.05).mean() > 0.3


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_peeking_at_two_arms_is_safe(share: float) -> None:
    rng = np.random.default_rng(1)
    values = sparse(rng, 2000)
    found = difference_sequence(values, rng.random(values.shape) < share)
    assert (found.p[-1] <= 0.05).mean() < 0.05


def test_all_intervals_together_hold_the_mean() -> None:
    values = normal(np.random.default_rng(2), 2000) + 0.7
    found = confidence_sequence(values, confidence=0.8)
    missed = ((found.low > 0.7) | (found.high < 0.7)).any(axis=0).mean()
    assert 0.03 < missed < 0.2  # not all is spent before the end, and none before the start


def test_a_start_too_early_for_skewed_values_breaks_the_promise() -> None:
    """One of fifty is not 0: twenty times the squared skewness is about 1600 users."""
    rng = np.random.default_rng(3)
    shape = (3000, REPEATS)
    values = np.where(rng.random(shape) < 0.02, rng.beta(2, 3, shape), 0) - 0.02 * 0.4
    assert 7 < stats.skew(values, axis=None) < 10
    late = int(20 * stats.skew(values, axis=None) ** 2)
    at = np.arange(100, 3001, 10)
    assert confidence_sequence(values, at).excludes_zero.any(axis=0).mean() > 0.1
    assert confidence_sequence(values, at, start=late).excludes_zero.any(axis=0).mean() < 0.05


def test_effects_are_found_and_sooner_where_they_are_larger() -> None:
    values, stops = normal(np.random.default_rng(4), 2000), []
    for effect in (0.1, 0.2, 0.4):
        found = confidence_sequence(values + effect, best_at=500)
        rejects = found.excludes_zero
        assert rejects.any(axis=0).mean() > (0.9 if effect > 0.1 else 0.8)
        stops.append(np.median(found.at[rejects.argmax(axis=0)]))
    assert stops[0] > 2 * stops[1] > 2 * stops[2]


# The formula


def test_an_interval_by_hand() -> None:
    values = np.random.default_rng(0).normal(0.2, 2, size=400)
    found = confidence_sequence(values, at=[150, 400], best_at=200, start=50)
    low = -2 * np.log(0.05)
    root = optimize.brentq(lambda x: x - low - np.log1p(x), 1, 100)  # of the best n * rho**2
    for look, n in enumerate([150, 400]):
        ratio = n * root / 200
        half = np.sqrt(2 * (ratio + 1) / (n * ratio) * np.log(np.sqrt(ratio + 1) / 0.05))
        half *= values[:n].std(ddof=1)
        assert found.estimate[look] == pytest.approx(values[:n].mean())
        assert found.low[look] == pytest.approx(values[:n].mean() - half)
        assert found.high[look] == pytest.approx(values[:n].mean() + half)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
@pytest.mark.parametrize("best_at", [200, 1000])
def test_the_interval_is_narrowest_at_the_chosen_size(confidence: float, best_at: int) -> None:
    values = np.random.default_rng(0).normal(size=2000)

    def width(aim: float) -> float:
        found = confidence_sequence(values, [best_at], confidence, best_at=aim)
        return found.high[0] - found.low[0]

    assert width(best_at) < min(width(best_at * 0.9), width(best_at * 1.1))


def test_the_price_of_peeking_is_half_of_the_width() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    found = confidence_sequence(values, at=[1000])
    fixed = 2 * 1.96 * values.std(ddof=1) / np.sqrt(1000)
    assert (found.high - found.low)[0] / fixed == pytest.approx(1.55, abs=0.01)


def test_p_is_the_level_at_which_the_interval_ends_at_zero() -> None:
    """Solved for the level, with the mixture as it is at 95 %."""
    values = np.random.default_rng(0).normal(0.15, 1, size=500)
    p = confidence_sequence(values, at=[500]).p[0]
    log_20 = -2 * np.log(0.05)
    ratio = optimize.brentq(lambda x: x - log_20 - np.log1p(x), 1, 100)
    error = values.std(ddof=1) / np.sqrt(500)

    def end(level: float) -> float:
        return values.mean() - error * np.sqrt(
            2 * (ratio + 1) / ratio * np.log(np.sqrt(ratio + 1) / level)
        )

    assert 0.001 < p < 0.9
    assert end(p) == pytest.approx(0, abs=1e-9)


def test_p_and_intervals_reject_at_the_same_look() -> None:
    values = np.random.default_rng(5).normal(0.1, 1, size=(1500, 200))
    found = confidence_sequence(values)
    ever = np.logical_or.accumulate(found.excludes_zero, axis=0)
    np.testing.assert_array_equal(found.p <= 0.05, ever)
    assert 0.1 < ever[-1].mean() < 0.9
    assert (np.diff(found.p, axis=0) <= 0).all()


# Looks and streams


def test_looks_do_not_change_what_is_seen() -> None:
    values = np.random.default_rng(0).normal(0.1, 1, size=600)
    every = confidence_sequence(values, best_at=300)
    some = confidence_sequence(values[:450], at=[130, 131, 450], best_at=300)
    rows = np.array([130, 131, 450]) - 100
    np.testing.assert_array_equal(every.at[rows], some.at)
    for name in ("estimate", "low", "high"):
        np.testing.assert_allclose(getattr(every, name)[rows], getattr(some, name), rtol=1e-9)


def test_streams_stand_side_by_side() -> None:
    rng = np.random.default_rng(0)
    values, treated = rng.normal(size=(300, 4)), rng.random((300, 4)) < 0.5
    both = confidence_sequence(values), difference_sequence(values, treated)
    for stream in range(4):
        one = confidence_sequence(values[:, stream])
        two = difference_sequence(values[:, stream], treated[:, stream])
        for name in ("estimate", "low", "high", "p"):
            np.testing.assert_allclose(getattr(both[0], name)[:, stream], getattr(one, name))
            np.testing.assert_allclose(getattr(both[1], name)[:, stream], getattr(two, name))


def test_one_assignment_serves_all_streams() -> None:
    rng = np.random.default_rng(0)
    values, treated = rng.normal(size=(300, 4)), rng.random(300) < 0.5
    found = difference_sequence(values, treated)
    again = difference_sequence(values, np.broadcast_to(treated[:, np.newaxis], values.shape))
    np.testing.assert_allclose(found.low, again.low)


def test_far_from_zero_nothing_cancels() -> None:
    values = np.random.default_rng(0).normal(size=500)
    here, there = confidence_sequence(values), confidence_sequence(values + 1e9)
    np.testing.assert_allclose(there.high - there.low, here.high - here.low, rtol=1e-5)
    treated = np.arange(500) % 2 == 0
    here, there = (difference_sequence(v, treated) for v in (values, values + 1e9))
    np.testing.assert_allclose(there.high - there.low, here.high - here.low, rtol=1e-5)


def test_two_arms_end_with_welchs_estimate_and_error() -> None:
    rng = np.random.default_rng(0)
    treated = rng.random(800) < 0.3
    values = rng.normal(0.5 * treated, 1 + treated)
    found = difference_sequence(values, treated, at=[400, 800])
    single = confidence_sequence(values, at=[400, 800])  # whose factors on the error are the same
    for look, n in enumerate([400, 800]):
        arms = values[:n][treated[:n]], values[:n][~treated[:n]]
        error = np.sqrt(sum(arm.var(ddof=1) / len(arm) for arm in arms))
        factor = (single.high - single.low)[look] / (values[:n].std(ddof=1) / np.sqrt(n))
        assert found.estimate[look] == pytest.approx(two_sample_test(*arms).difference.value)
        assert (found.high - found.low)[look] == pytest.approx(factor * error)


def test_nothing_is_said_before_the_start() -> None:
    values = np.random.default_rng(0).normal(5, 1, size=300)
    found = confidence_sequence(values, at=[50, 99, 100, 300])
    assert found.low[:2].tolist() == [-np.inf] * 2
    assert found.high[:2].tolist() == [np.inf] * 2
    assert found.p[:2].tolist() == [1, 1]
    assert found.stopped == 2
    np.testing.assert_allclose(found.estimate[0], values[:50].mean())


def test_nothing_is_said_while_all_values_agree() -> None:
    values = np.append(np.ones(200), np.zeros(200))
    found = confidence_sequence(values, at=[150, 200, 400])
    assert found.low[:2].tolist() == [-np.inf] * 2
    assert found.p[:2].tolist() == [1, 1]
    assert found.stopped == 2
    assert confidence_sequence(np.full(400, 0.1)).stopped is None


def test_nothing_is_said_before_both_arms_start() -> None:
    values = np.random.default_rng(0).normal(size=300)
    treated = np.arange(300) >= 200
    found = difference_sequence(values, treated, at=[150, 201, 299, 300])
    assert np.isnan(found.estimate[0])
    assert found.estimate[1] == pytest.approx(values[200] - values[:200].mean())
    assert np.isinf(found.low[:3]).all()
    assert found.p[:3].tolist() == [1, 1, 1]
    assert np.isfinite([found.low[3], found.high[3]]).all()


def test_several_streams_have_no_one_stop() -> None:
    found = confidence_sequence(np.random.default_rng(0).normal(size=(200, 3)))
    with pytest.raises(
        ValueError, match="several streams stop at several looks: use excludes_zero"
    ):
        found.stopped  # noqa: B018


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.zeros(0), {}, r"values have shape \(0,\): pass \(n,\), or \(n, R\) for R streams"),
        (np.zeros((9, 9, 9)), {}, r"values have shape \(9, 9, 9\)"),
        (np.array([0.0, np.nan]), {}, "1 values are missing or infinite"),
        (np.zeros(99), {}, "99 users, fewer than start, 100: wait for more"),
        (np.zeros(200), {"start": 1}, "start is 1: pass at least 2 users, better 100"),
        (np.zeros(200), {"at": []}, r"looks \[\] must be whole numbers of users that increase"),
        (np.zeros(200), {"at": [100, 100]}, r"looks \[100, 100\] must be"),
        (np.zeros(200), {"at": [0, 100]}, "increase from 1"),
        (np.zeros(200), {"at": [100.5]}, "must be whole numbers"),
        (np.zeros(200), {"at": [100, 201]}, "the last look is at 201 users, but only 200 came"),
        (np.zeros(200), {"best_at": 0}, "best_at is 0: pass the number of users"),
        (np.zeros(200), {"confidence": 95}, "confidence must be between 0 and 1, not 95"),
    ],
)
def test_wrong_streams_are_refused(values: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confidence_sequence(values, **options)
    with pytest.raises(ValueError, match=message):
        difference_sequence(values, np.zeros(values.shape, bool), **options)


@pytest.mark.parametrize("treated", [np.zeros(200), np.zeros(199, bool), np.zeros((200, 2), bool)])
def test_wrong_assignments_are_refused(treated: np.ndarray) -> None:
    with pytest.raises(
        ValueError, match=r"treated is \w+ of shape .*: pass bool, of shape \(200,\)"
    ):
        difference_sequence(np.zeros(200), treated)
