"""Intervals of means over requests, of which a user may have many."""

from __future__ import annotations

import numpy as np
import pytest

from firetv.abtest import Interval, clustered_interval, mean_interval


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
