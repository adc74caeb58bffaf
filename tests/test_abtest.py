"""Intervals of means over users and requests, and tests of two pipelines."""

from __future__ import annotations

import time
import tracemalloc
from itertools import product

import numpy as np
import pytest
from scipy import stats

from firetv import abtest
from firetv.abtest import (
    Comparison,
    Interval,
    clustered_interval,
    difference_interval,
    mean_interval,
    mean_intervals,
    paired_test,
    sign_flip_p,
    sign_p,
    two_sample_test,
)


def households(rng: np.random.Generator, clusters: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Values around 0.3 that agree within clusters of 1 to 12, and the clusters they are of."""
    sizes = rng.integers(1, 13, size=clusters)
    cluster = np.repeat(np.arange(clusters), sizes)
    own = rng.normal(0.3, 0.2, size=clusters)
    return own[cluster] + rng.normal(0, 0.1, size=len(cluster)), cluster


def test_clusters_of_one_value_give_the_plain_interval() -> None:
    values = np.random.default_rng(0).beta(0.5, 2, size=80)
    plain = mean_interval(values, seed=4)
    clustered = clustered_interval(values, np.arange(80), seed=4)
    assert clustered.n == plain.n == 80
    for name in ("value", "low", "high"):
        assert getattr(clustered, name) == pytest.approx(getattr(plain, name), rel=1e-9)


def test_a_heavy_user_is_not_a_hundred_witnesses() -> None:
    values, users = households(np.random.default_rng(0))
    plain, clustered = mean_interval(values, seed=0), clustered_interval(values, users, seed=0)
    assert clustered.value == pytest.approx(values.mean())
    assert clustered.n == 60
    assert clustered.high - clustered.low > 1.8 * (plain.high - plain.low)


def test_copies_of_every_value_add_no_certainty() -> None:
    values, copies = np.random.default_rng(0).random(50), np.repeat(np.arange(50), 9)
    once = mean_interval(values, seed=0)
    often = clustered_interval(values[copies], copies, seed=0)
    assert often.low == pytest.approx(once.low)
    assert often.high == pytest.approx(once.high)


def test_clustered_intervals_agree_with_resampling_written_out() -> None:
    """Heavy users have higher values here, so that a mean of users' means is another thing."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(150), rng.integers(1, 13, size=150))
    values = np.bincount(users)[users] / 12 + rng.normal(0, 0.1, size=len(users))
    by_user = [values[users == user] for user in range(150)]
    draws = rng.integers(150, size=(3000, 150))
    means = [np.concatenate([by_user[user] for user in draw]).mean() for draw in draws]
    interval = clustered_interval(values, users, seed=0)
    width = interval.high - interval.low
    assert interval.low == pytest.approx(np.quantile(means, 0.025), abs=0.1 * width)
    assert interval.high == pytest.approx(np.quantile(means, 0.975), abs=0.1 * width)


def test_every_request_counts_once_whosever_it_is() -> None:
    values, users = np.array([0.0, 0.0, 0.0, 1.0]), np.array(["b", "b", "b", "a"])
    assert clustered_interval(values, users, seed=0).value == 0.25


def test_clustered_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    covered = plain = 0
    for repeat in range(300):
        values, users = households(rng)
        interval = clustered_interval(values, users, seed=repeat, resamples=500)
        covered += interval.low <= 0.3 <= interval.high
        naive = mean_interval(values, seed=repeat, resamples=500)
        plain += naive.low <= 0.3 <= naive.high
    assert 0.90 <= covered / 300 <= 0.98
    assert plain / 300 < 0.8


def test_clustered_intervals_widen_with_their_confidence() -> None:
    values, users = households(np.random.default_rng(0))
    wide, narrow = (clustered_interval(values, users, 0, confidence=c) for c in (0.99, 0.8))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_clustered_intervals_are_seeded_and_need_no_order() -> None:
    values, users = households(np.random.default_rng(0))
    first = clustered_interval(values, users, seed=1)
    assert clustered_interval(values, users, seed=1) == first
    assert clustered_interval(values, users, seed=2) != first
    turned = clustered_interval(values[::-1], users[::-1], seed=1)
    assert turned.low == pytest.approx(first.low)
    assert turned.high == pytest.approx(first.high)


def test_undefined_values_are_left_out_and_so_are_clusters_of_nothing_else() -> None:
    values, users = np.array([0.1, np.nan, 0.4, 0.3, np.nan]), np.array([5, 5, 6, 7, 8])
    expected = clustered_interval(values[[0, 2, 3]], users[[0, 2, 3]], seed=0)
    assert clustered_interval(values, users, seed=0) == expected
    assert expected.n == 3


@pytest.mark.parametrize("sizes", [(1, 3, 7), (2, 2, 2)])
@pytest.mark.parametrize("value", [0.1, 0.0, -1.0])
def test_an_interval_of_equal_values_is_a_point(value: float, sizes: tuple[int, ...]) -> None:
    clusters = np.repeat([0, 1, 2], sizes)
    interval = clustered_interval(np.full(len(clusters), value), clusters, seed=0)
    assert interval.low == interval.value == interval.high == pytest.approx(value)
    assert interval.n == 3


def test_clusters_of_equal_means_leave_no_doubt() -> None:
    values, clusters = np.array([0.0, 1.0, 0.5, 0.5]), np.array([0, 0, 1, 1])
    assert clustered_interval(values, clusters, seed=0) == Interval(0.5, 0.5, 0.5, 2)


@pytest.mark.parametrize("values", [[], [1.0, 2.0], [1.0, 2.0, np.nan]])
def test_fewer_than_two_clusters_are_refused(values: list[float]) -> None:
    clusters = np.array([3, 3, 4])[: len(values)]
    with pytest.raises(ValueError, match=r"at least 2 clusters, not [01]"):
        clustered_interval(np.array(values), clusters, seed=0)


def test_every_value_needs_a_cluster() -> None:
    with pytest.raises(ValueError, match="3 values but 1 clusters"):
        clustered_interval(np.zeros(3), np.zeros(1), seed=0)


# Many values


def sparse_metric(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Skewed values, four of five of which are 0."""
    return np.where(rng.random(shape) < 0.8, 0.0, rng.lognormal(0, 0.7, shape))


def scipy_bca(values: np.ndarray, seed: int, resamples: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    found = stats.bootstrap((values,), np.mean, n_resamples=resamples, method="BCa", rng=rng)
    return tuple(found.confidence_interval)


def test_up_to_many_values_the_interval_is_scipys_to_the_last_digit() -> None:
    values = sparse_metric(np.random.default_rng(0), 900)
    interval = mean_interval(values, seed=3)
    assert (interval.low, interval.high) == scipy_bca(values, 3, 2000)


def test_values_by_bins_agree_with_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 000 replications, a bound is known to about 0.04 standard errors, twice here.

    With bins as coarse as these, most of the variance is within them.
    """
    values = sparse_metric(np.random.default_rng(1), 5000)
    expected = scipy_bca(values, 0, 10_000)
    monkeypatch.setattr(abtest, "LARGE", 4999)
    monkeypatch.setattr(abtest, "BINS", 6)
    interval = mean_interval(values, seed=0, resamples=10_000)
    error = values.std() / np.sqrt(len(values))
    assert interval.low == pytest.approx(expected[0], abs=0.2 * error)
    assert interval.high == pytest.approx(expected[1], abs=0.2 * error)


def test_bins_correct_for_skewness_as_scipy_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 150 values the acceleration moves each bound by more than the tolerance."""
    values = np.random.default_rng(2).lognormal(0, 1.2, 150)
    expected = scipy_bca(values, 0, 20_000)
    monkeypatch.setattr(abtest, "LARGE", 149)
    interval = mean_interval(values, seed=0, resamples=20_000)
    error = values.std() / np.sqrt(len(values))
    symmetric = values.mean() + error * stats.norm.ppf([0.025, 0.975])
    assert interval.low == pytest.approx(expected[0], abs=0.15 * error)
    assert interval.high == pytest.approx(expected[1], abs=0.15 * error)
    assert min(expected - symmetric) > 0.15 * error


def test_many_zeros_and_ones_give_the_exact_interval() -> None:
    """The replications of a share are binomial, so that BCa can be written down."""
    n, ones = 30_000, 60
    interval = mean_interval(np.arange(n) < ones, seed=0, resamples=40_000)
    null, share = stats.binom(n, ones / n), ones / n
    bias = stats.norm.ppf((null.cdf(ones - 1) + null.cdf(ones)) / 2)
    acceleration = (1 - 2 * share) / np.sqrt(n * share * (1 - share)) / 6
    z = bias + stats.norm.ppf([0.025, 0.975])
    low, high = null.ppf(stats.norm.cdf(bias + z / (1 - acceleration * z)))
    # Bounds are whole numbers of ones; the standard error is 7.7 of them.
    assert interval.low * n == pytest.approx(low, abs=1.01)
    assert interval.high * n == pytest.approx(high, abs=1.01)


@pytest.mark.parametrize("power", [1, 8])
def test_bins_keep_sums_and_squares(power: int) -> None:
    values = sparse_metric(np.random.default_rng(0), 50_000) ** power
    count, mean, variance = abtest._bins(values)
    assert count.sum() == len(values)
    assert len(count) <= abtest.BINS
    assert count @ mean == pytest.approx(values.sum(), rel=1e-12)
    assert count @ (mean**2 + variance) == pytest.approx((values**2).sum(), rel=1e-12)
    assert count @ variance < 2e-4 * len(values) * values.var()  # little is left to a normal
    assert (np.diff(mean) > 0).all()


def test_few_distinct_values_are_bins_of_their_own() -> None:
    count, mean, variance = abtest._bins(np.array([0.5, 0.0, 0.5, 2.0]))
    np.testing.assert_array_equal(count, [1, 2, 1])
    np.testing.assert_array_equal(mean, [0, 0.5, 2])
    np.testing.assert_array_equal(variance, 0)


def test_a_million_values_take_seconds_and_little_memory() -> None:
    values = sparse_metric(np.random.default_rng(0), 1_000_000)
    start = time.perf_counter()
    tracemalloc.start()
    interval = mean_interval(values, seed=0, resamples=10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.perf_counter() - start < 20  # usually 1
    assert peak < 150e6  # 70 MB; 8 of them are the values
    error = values.std() / 1000
    low, high = values.mean() + error * stats.norm.ppf([0.025, 0.975])
    assert interval.low == pytest.approx(low, abs=0.2 * error)
    assert interval.high == pytest.approx(high, abs=0.2 * error)


def test_intervals_by_bins_cover_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 500 intervals, a share that is 0.94 has a standard deviation of 0.011."""
    monkeypatch.setattr(abtest, "LARGE", 100)
    monkeypatch.setattr(abtest, "BINS", 50)
    rng = np.random.default_rng(5)
    covered = 0
    for repeat in range(500):
        interval = mean_interval(rng.beta(0.5, 2, size=200), seed=repeat, resamples=1000)
        covered += interval.low <= 0.2 <= interval.high
    assert 0.91 <= covered / 500 <= 0.98


def test_intervals_by_bins_need_no_order_and_leave_out_what_is_undefined() -> None:
    values = sparse_metric(np.random.default_rng(0), 30_000)
    first = mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) == first
    assert mean_interval(values, seed=2) != first
    turned = mean_interval(np.append(values[::-1], np.nan), seed=1)
    assert turned.n == 30_000
    assert turned.low == pytest.approx(first.low, rel=1e-9)
    assert turned.high == pytest.approx(first.high, rel=1e-9)


def test_chunks_do_not_change_replications(monkeypatch: pytest.MonkeyPatch) -> None:
    values = sparse_metric(np.random.default_rng(0), 30_000)
    other = values[:300].reshape(100, 3)
    first = mean_interval(values, 0), mean_intervals(other, 0)[0], sign_flip_p(9.0, values, 0)
    monkeypatch.setattr(abtest, "CELLS", 7000)
    again = mean_interval(values, 0), mean_intervals(other, 0)[0], sign_flip_p(9.0, values, 0)
    assert again[0].low == pytest.approx(first[0].low, rel=1e-12)
    np.testing.assert_allclose(again[1], first[1], rtol=1e-12)
    assert again[2] == first[2]


def test_infinite_values_are_refused() -> None:
    values = np.append(np.arange(30_000.0), [np.inf, -np.inf])
    with pytest.raises(ValueError, match="2 values are missing or infinite: leave their users out"):
        mean_interval(values, seed=0)


# Many columns


def test_intervals_of_columns_are_those_of_each() -> None:
    values = sparse_metric(np.random.default_rng(0), 400, 5)
    low, high = mean_intervals(values, seed=7, confidence=0.9, resamples=1500)
    for column in range(5):
        one = mean_interval(values[:, column], seed=7, confidence=0.9, resamples=1500)
        assert low[column] == pytest.approx(one.low, rel=1e-9)
        assert high[column] == pytest.approx(one.high, rel=1e-9)


def test_columns_of_equal_values_give_points() -> None:
    low, high = mean_intervals(np.array([[0.1, 1.0], [0.1, 2.0], [0.1, 4.0]]), seed=0)
    assert low[0] == high[0] == pytest.approx(0.1)
    assert low[1] < high[1]


def test_one_replication_is_no_reason_for_infinite_bounds() -> None:
    low, high = mean_intervals(np.array([[0.0], [1.0], [5.0]]), seed=0, resamples=1)
    assert np.isfinite([low, high]).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(5), r"values have shape \(5,\): pass \(users >= 2, columns\)"),
        (np.zeros((1, 5)), r"values have shape \(1, 5\)"),
        (np.array([[0.0, np.nan], [1.0, 2.0]]), "1 values are missing or infinite"),
    ],
)
def test_wrong_columns_are_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_intervals(values, seed=0)


# Pairs


def test_a_comparison_by_hand() -> None:
    treatment, control = np.array([3.0, 1.0, 5.0, 2.0, 4.0]), np.array([1.0, 1.0, 1.0, 3.0, 1.0])
    found = paired_test(treatment, control, seed=0)  # differences 2, 0, 4, -1, 3
    assert (found.wins, found.losses, found.ties) == (3, 1, 1)
    assert found.effect == pytest.approx(1.6 / np.std([2, 0, 4, -1, 3], ddof=1))
    assert found.p_sign == pytest.approx(2 * 5 / 16)  # one or none of four
    # Of 16 combinations of signs, 8 as extreme as 8: |+-2 +-4 +-1 +-3| is 10 or 8 in 4.
    assert found.p_permutation == 4 / 16
    assert found.difference == difference_interval(treatment, control, seed=0)


@pytest.mark.parametrize("size", [1, 2, 5, 9, 13])
@pytest.mark.parametrize("digits", [1, 6])
def test_few_signs_are_enumerated_as_scipy_does(size: int, digits: int) -> None:
    rng = np.random.default_rng(size)
    difference = np.append(rng.normal(0.5, 1, size).round(digits), [0.0, 0.0])
    expected = stats.permutation_test(
        (difference * 10**digits,),  # whole numbers, whose sums are exact
        np.sum,
        permutation_type="samples",
        n_resamples=np.inf,
    )
    found = paired_test(difference, np.zeros(size + 2), seed=0)
    assert found.p_permutation == pytest.approx(expected.pvalue)


def test_sums_that_are_equal_but_for_rounding_count() -> None:
    """0.1 + 0.2 - 0.3 is not 0 in floating point, yet any combination of signs is as extreme."""
    difference = np.array([0.1, 0.2, -0.3])
    assert sign_flip_p(difference.sum(), difference, seed=0) == 1
    signs = np.array(list(product([-1, 1], repeat=3)))
    expected = np.mean(np.abs(signs @ [1, 2, 3]) >= 4)
    assert sign_flip_p(0.4, difference, seed=0) == expected == 0.5


@pytest.mark.parametrize("total", [8.0, 16.0, 24.0])
def test_random_signs_agree_with_all_of_them(total: float) -> None:
    """Within four standard deviations of a share of 9999."""
    sizes = np.arange(1.0, 17.0) / 2
    signs = 1 - 2 * (np.arange(2**16)[:, np.newaxis] >> np.arange(16) & 1)
    exact = np.mean(np.abs(signs @ sizes) >= total)
    found = sign_flip_p(total, sizes, seed=0)
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / abtest.FLIPS))


def test_signs_by_bins_agree_with_signs_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coarse bins on purpose: the normal number within them must make up for it."""
    monkeypatch.setattr(abtest, "BINS", 6)
    rng = np.random.default_rng(0)
    sizes = rng.lognormal(0, 1, 3000)
    plain = np.abs(rng.choice([-1.0, 1.0], size=(6000, 3000)) @ sizes)
    binned = abtest._drawn_sums(sizes, 6000, seed=0)
    assert np.mean(binned**2) == pytest.approx((sizes**2).sum(), rel=0.08)  # 4 deviations
    assert stats.ks_2samp(plain, binned).pvalue > 0.001


def test_random_signs_follow_the_t_test_for_many_normal_differences() -> None:
    difference = np.random.default_rng(3).normal(0.02, 1, 8000)
    found = paired_test(difference, np.zeros(8000), seed=0)
    p = stats.ttest_1samp(difference, 0).pvalue
    assert 0.02 < p < 0.3
    assert found.p_permutation == pytest.approx(p, abs=4 * np.sqrt(p / abtest.FLIPS))


def test_random_signs_never_give_p_of_zero() -> None:
    found = paired_test(np.ones(50), np.zeros(50), seed=0)
    assert found.p_permutation == 1 / (abtest.FLIPS + 1)
    assert paired_test(np.ones(50), np.zeros(50), seed=0, flips=99).p_permutation == 1 / 100


def test_signs_alone_are_binomial() -> None:
    for wins, moved in [(0, 0), (0, 1), (3, 10), (5, 10), (9, 10), (700, 1300)]:
        expected = stats.binomtest(wins, moved).pvalue if moved else 1
        assert sign_p(wins, moved) == pytest.approx(expected)
    np.testing.assert_allclose(sign_p(np.array([3, 9]), 10), [sign_p(3, 10), sign_p(9, 10)])


def test_no_differences_mean_nothing() -> None:
    values = np.array([0.2, 0.4, 0.4])
    point = Interval(0.0, 0.0, 0.0, 3)
    assert paired_test(values, values, seed=0) == Comparison(point, 0.0, 1.0, 1.0, 0, 0, 3)


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_equal_differences_are_an_infinite_effect(shift: float) -> None:
    found = paired_test(np.full(4, shift), np.zeros(4), seed=0)
    assert found.effect == np.copysign(np.inf, shift)
    assert found.difference == Interval(shift, shift, shift, 4)
    assert found.p_permutation == 2 / 16


def test_users_without_a_value_are_left_out_of_both() -> None:
    rng = np.random.default_rng(0)
    treatment, control = rng.random(30), rng.random(30)
    expected = paired_test(treatment[2:], control[2:], seed=0)
    treatment[0] = control[1] = np.nan
    assert paired_test(treatment, control, seed=0) == expected
    assert expected.difference.n == 28


def test_swapped_pipelines_turn_the_comparison() -> None:
    rng = np.random.default_rng(0)
    treatment, control = rng.random(100) + 0.1, rng.random(100)
    one, other = paired_test(treatment, control, seed=0), paired_test(control, treatment, seed=0)
    assert one.effect == -other.effect > 0
    assert (one.wins, one.losses) == (other.losses, other.wins)
    assert one.p_permutation == other.p_permutation
    assert one.p_sign == other.p_sign
    assert paired_test(treatment, control, seed=0) == one
    assert paired_test(treatment, control, seed=1).difference != one.difference
    assert paired_test(treatment, control, seed=1).p_permutation != one.p_permutation


def test_a_million_pairs_take_seconds_and_little_memory() -> None:
    rng = np.random.default_rng(0)
    treatment, control = sparse_metric(rng, 1_000_000), sparse_metric(rng, 1_000_000)
    start = time.perf_counter()
    tracemalloc.start()
    found = paired_test(treatment, control, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.perf_counter() - start < 30  # usually 2
    assert peak < 200e6
    p = stats.ttest_rel(treatment, control).pvalue
    assert found.p_permutation == pytest.approx(p, abs=4 * np.sqrt(p / abtest.FLIPS))


@pytest.mark.parametrize(
    ("treatment", "control", "message"),
    [
        (np.zeros(3), np.zeros(2), r"treatment has shape \(3,\), control \(2,\): pass one value"),
        (np.zeros(3), np.zeros(1), "the same users in both"),
        (np.zeros((3, 2)), np.zeros((3, 2)), "pass one value for each user"),
        (np.array([1.0, np.inf, 2.0]), np.zeros(3), "1 values are missing or infinite"),
        (np.array([1.0, np.nan]), np.zeros(2), "at least 2 values, not 1"),
        (np.zeros(0), np.zeros(0), "at least 2 values, not 0"),
    ],
)
def test_wrong_pairs_are_refused(treatment: np.ndarray, control: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_test(treatment, control, seed=0)


@pytest.mark.parametrize("confidence", [0, 1, 95, np.nan])
def test_confidence_is_a_share(confidence: float) -> None:
    with pytest.raises(ValueError, match=f"confidence must be between 0 and 1, not {confidence}"):
        paired_test(np.arange(3.0), np.zeros(3), seed=0, confidence=confidence)
    with pytest.raises(ValueError, match=f"confidence must be between 0 and 1, not {confidence}"):
        two_sample_test(np.arange(3.0), np.zeros(3), confidence=confidence)


# Arms


def test_arms_are_compared_as_scipy_does() -> None:
    rng = np.random.default_rng(0)
    treatment, control = rng.normal(1.2, 3, 80), rng.normal(1, 1, 300)
    found = two_sample_test(np.append(treatment, np.nan), control, confidence=0.9)
    expected = stats.ttest_ind(treatment, control, equal_var=False)
    low, high = expected.confidence_interval(0.9)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.difference == Interval(treatment.mean() - control.mean(), low, high, 380)
    assert (found.treated, found.control) == (80, 300)


def test_the_effect_of_arms_is_in_pooled_deviations() -> None:
    found = two_sample_test(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0]))
    assert found.effect == pytest.approx(2.5 / np.sqrt((2 * 4 + 1 * 0.5) / 3))


def test_arms_without_spread_need_no_t() -> None:
    same = two_sample_test(np.full(3, 0.1), np.full(4, 0.1))
    assert (same.p, same.effect, same.difference) == (1.0, 0.0, Interval(0.0, 0.0, 0.0, 7))
    other = two_sample_test(np.full(3, 2.0), np.full(4, 1.5))
    assert (other.p, other.effect, other.difference) == (0.0, np.inf, Interval(0.5, 0.5, 0.5, 7))


@pytest.mark.parametrize(
    ("treatment", "control", "message"),
    [
        ([1.0, np.nan], [1.0, 2.0], "the treatment arm has 1 values: it needs at least 2"),
        ([1.0, 2.0], [], "the control arm has 0 values"),
        ([1.0, 2.0], [1.0, np.inf], "1 values are missing or infinite"),
    ],
)
def test_wrong_arms_are_refused(treatment: list[float], control: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        two_sample_test(np.array(treatment), np.array(control))


@pytest.mark.parametrize("law", ["beta", "gamma", "sparse"])
def test_intervals_of_means_cover_what_was_planted(law: str) -> None:
    """Of 2000 means, 93 to 97 %: two points are four deviations of the count."""
    rng, size = np.random.default_rng(1), (400, 2000)
    draws = {
        "beta": lambda: (rng.beta(2, 5, size), 2 / 7),
        "gamma": lambda: (rng.gamma(2.0, 0.5, size), 1.0),
        "sparse": lambda: ((rng.random(size) < 0.3) * rng.normal(0.1, 1, size), 0.03),
    }
    values, truth = draws[law]()
    low, high = mean_intervals(values, seed=0)
    assert 0.93 <= ((low <= truth) & (truth <= high)).mean() <= 0.97
