"""Laws of metrics on made-up lists; see `made_up` for how much of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from made_up import made_up
from scipy import sparse

from firetv import metrics
from firetv.abtest import mean_interval
from firetv.group_metrics import (
    first_hit,
    least_member,
    mean_member,
    member_values,
    proportionality,
    spread,
    zero_share,
)

SLACK = 1e-12  # of sums in another order


@st.composite
def lists(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Hits of a few lists, and how many items are relevant: those that were hit, and more."""
    hits = draw(arrays.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 8))))
    more = draw(arrays.arrays(np.int64, len(hits), elements=st.integers(0, 12)))
    return hits, hits.sum(axis=1) + more


def values(hits: np.ndarray, n_relevant: np.ndarray) -> dict[str, np.ndarray]:
    return {name: metric(hits, n_relevant) for name, metric in metrics.ACCURACY.items()}


@given(case=lists())
@made_up
def test_accuracy_lies_in_its_bounds(case: tuple[np.ndarray, np.ndarray]) -> None:
    hits, n_relevant = case
    found, some = values(hits, n_relevant), n_relevant > 0
    for name, each in found.items():
        assert ((each[some] >= 0) & (each[some] <= 1)).all(), name
    assert (found["hr"] >= found["precision"]).all()
    assert (found["hr"] >= found["mrr"]).all()
    assert (found["recall"][some] >= found["map"][some] - SLACK).all()
    ideal = np.minimum(n_relevant, hits.shape[1])
    perfect = np.arange(hits.shape[1]) < ideal[:, None]
    assert (metrics.ndcg(perfect, n_relevant)[some] == 1).all()
    is_perfect = (hits == perfect).all(axis=1)
    np.testing.assert_array_equal(found["ndcg"][some] == 1, is_perfect[some])


@given(case=lists(), draw=st.data())
@made_up
def test_a_hit_that_moves_up_lowers_nothing(
    case: tuple[np.ndarray, np.ndarray], draw: st.DataObject
) -> None:
    hits, n_relevant = case
    low = draw.draw(st.integers(0, hits.shape[1] - 1))
    high = draw.draw(st.integers(0, low))
    better = hits.copy()
    moves = hits[:, low] & ~hits[:, high]
    better[moves, low], better[moves, high] = False, True
    before, after = values(hits, n_relevant), values(better, n_relevant)
    for name in before:
        gain = (after[name] - before[name])[n_relevant > 0]
        assert (gain >= -SLACK).all(), name
    assert (after["ndcg"][moves] > before["ndcg"][moves]).all()
    assert (after["map"][moves] > before["map"][moves]).all()


@st.composite
def rankings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Orders of all items, and what is relevant."""
    requests, n_items = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    orders = [draw(st.permutations(range(n_items))) for _ in range(requests)]
    return np.array(orders), draw(arrays.arrays(bool, (requests, n_items)))


@given(case=rankings(), k=st.integers(1, 9))
@made_up
def test_ranks_say_what_lists_say(case: tuple[np.ndarray, np.ndarray], k: int) -> None:
    orders, relevant = case
    n_items, some = orders.shape[1], relevant.any(axis=1)
    place = np.argsort(orders, axis=1)
    rows, items = np.nonzero(relevant)
    starts = np.append(0, relevant.sum(axis=1).cumsum())
    held = sparse.csr_array((place[rows, items], items, starts), shape=relevant.shape)
    ranks = metrics.Ranks(held, np.full(len(orders), n_items))
    k = min(k, n_items)
    hits = metrics.hits_at(orders, sparse.csr_array(relevant))
    found, n_relevant = values(hits[:, :k], relevant.sum(axis=1)), relevant.sum(axis=1)
    np.testing.assert_allclose(ranks.recall(k), found["recall"])
    np.testing.assert_allclose(ranks.precision(k)[some], found["precision"][some])
    first = metrics.reciprocal_rank(hits, n_relevant)
    np.testing.assert_allclose(ranks.reciprocal_rank()[some], first[some])
    for row in np.flatnonzero(some):
        good, bad = place[row][relevant[row]], place[row][~relevant[row]]
        share = np.mean(good[:, None] < bad) if len(bad) else 0.5
        assert ranks.auc()[row] == pytest.approx(share)


@given(
    orders=st.permutations(range(9)),
    genres=arrays.arrays(np.int64, (9, 3), elements=st.integers(0, 1)),
    k=st.integers(1, 9),
    alpha=st.floats(0.001, 0.999),
)
@made_up
def test_a_list_of_the_profile_itself_is_calibrated_and_no_other_is_better(
    orders: list[int], genres: np.ndarray, k: int, alpha: float
) -> None:
    items, everything = np.array([orders[:k]]), sparse.csr_array(np.ones((1, 9)))
    own = sparse.csr_array((np.ones(k), (np.zeros(k, int), orders[:k])), shape=(1, 9))
    equal = metrics.calibration(items, genres, own, alpha)
    other = metrics.calibration(items, genres, everything, alpha)
    known = genres[orders[:k]].any()
    assert np.isnan(equal[0]) == np.isnan(other[0]) == (not known)
    if known:
        assert equal[0] == pytest.approx(0, abs=1e-12)
        assert -1e-12 <= other[0] <= -np.log(alpha) + 1e-12


@st.composite
def groups(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Hits of members, (G, M, k), and how many items are relevant to each."""
    hits = draw(arrays.arrays(bool, st.tuples(*[st.integers(1, 4)] * 3)))
    more = draw(arrays.arrays(np.int64, hits.shape[:2], elements=st.integers(0, 3)))
    return hits, hits.sum(axis=2) + more


@given(case=groups(), draw=st.data())
@made_up
def test_values_of_groups_lie_between_those_of_members(
    case: tuple[np.ndarray, np.ndarray], draw: st.DataObject
) -> None:
    hits, n_relevant = case
    recalls = member_values(metrics.recall, hits, n_relevant)
    some = ~np.isnan(recalls).all(axis=1)
    mean, least, gap = mean_member(recalls), least_member(recalls), spread(recalls)
    np.testing.assert_array_equal(~np.isnan(mean), some)
    assert (least[some] <= mean[some] + SLACK).all()
    assert (mean[some] <= least[some] + gap[some] + SLACK).all()
    assert ((gap[some] >= 0) & (gap[some] <= 1)).all()
    zero = zero_share(recalls)
    np.testing.assert_array_equal(zero[some] > 0, least[some] == 0)
    np.testing.assert_array_equal(zero[some] == 1, mean[some] == 0)
    first = first_hit(hits, n_relevant)[some]
    assert ((first >= 0) & (first <= 1 - zero[some] + SLACK)).all()
    weights = draw.draw(arrays.arrays(float, hits.shape[:2], elements=st.floats(0.1, 1)))
    fit = proportionality(hits, n_relevant, weights)
    found = hits.any(axis=(1, 2))
    np.testing.assert_array_equal(~np.isnan(fit), found)
    assert ((fit[found] >= -SLACK) & (fit[found] <= 1 + SLACK)).all()
    doubled = proportionality(hits, n_relevant, 2 * weights)
    np.testing.assert_allclose(doubled, fit)
    order = draw.draw(st.permutations(range(hits.shape[1])))
    turned = proportionality(hits[:, order], n_relevant[:, order], weights[:, order])
    np.testing.assert_allclose(turned, fit)


@given(
    scores=arrays.arrays(float, (3, 6), elements=st.integers(0, 3)),
    valid=arrays.arrays(bool, (3, 6)),
    k=st.integers(1, 6),
)
@made_up
def test_among_negatives_a_longer_list_finds_no_less(
    scores: np.ndarray, valid: np.ndarray, k: int
) -> None:
    short, longer = (metrics.against_negatives(scores, n, valid) for n in (k, k + 1))
    for name in ("hr", "ndcg"):
        assert ((short[name] >= 0) & (short[name] <= 1 + SLACK)).all()
        assert (longer[name] >= short[name] - SLACK).all()
    assert (short["hr"] >= short["ndcg"] - SLACK).all()


thousandths = st.integers(-(10**6), 10**6).map(lambda n: n / 1000)


@given(sample=arrays.arrays(float, st.integers(2, 40), elements=thousandths))
@made_up
def test_an_interval_holds_the_mean_and_lies_within_the_values(sample: np.ndarray) -> None:
    found = mean_interval(sample, 0)
    slack = 1e-9 * max(1, np.abs(sample).max())
    assert found.value == pytest.approx(sample.mean(), abs=slack)
    assert sample.min() - slack <= found.low <= found.value + slack
    assert found.value - slack <= found.high <= sample.max() + slack
