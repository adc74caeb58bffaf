import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, permutations

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, P, R, ScoredDoc, Success, nDCG
from numpy.typing import NDArray
from scipy import sparse

from firetv import metrics

SEEDS = range(25)
IR_MEASURES = {"precision": P, "recall": R, "hr": Success, "ndcg": nDCG, "map": AP, "mrr": RR}
NAN_WITHOUT_RELEVANT = {"recall", "ndcg", "map"}


@dataclass(frozen=True)
class Case:
    """Lists with gaps, and everything a metric may read about them."""

    items: NDArray[np.int64]
    relevant: sparse.csr_array
    profiles: sparse.csr_array
    genres: NDArray[np.float64]
    popularity: NDArray[np.int64]

    @property
    def hits(self) -> NDArray[np.bool_]:
        return metrics.hits_at(self.items, self.relevant)

    @property
    def n_relevant(self) -> NDArray[np.int64]:
        return np.diff(self.relevant.indptr)

    @property
    def probability(self) -> NDArray[np.float64]:
        return (self.popularity + 1) / 32

    def take(self, requests: NDArray[np.int64]) -> "Case":
        return Case(
            self.items[requests],
            self.relevant[requests],
            self.profiles[requests],
            self.genres,
            self.popularity,
        )


def random_case(seed: int, n_requests: int = 40) -> Case:
    rng = np.random.default_rng(seed)
    k, n_items, n_genres = rng.integers(1, 13), rng.integers(13, 40), rng.integers(1, 6)
    items = np.argsort(rng.random((n_requests, n_items)), axis=1)[:, :k]
    items[rng.random(items.shape) < 0.2] = -1
    items[0] = -1  # nothing recommended
    relevant = rng.random((n_requests, n_items)) < rng.random((n_requests, 1)) ** 2
    relevant[1] = False
    relevant[2] = True
    profiles = rng.integers(1, 6, relevant.shape) * (rng.random(relevant.shape) < 0.2)
    profiles[3] = 0
    genres = (rng.random((n_items, n_genres)) < 0.4) * rng.choice([1.0, 0.5], (n_items, n_genres))
    genres[:2] = 0  # items that nobody labelled
    popularity = rng.integers(0, 31, n_items)
    for array in (items, genres, popularity):
        array.setflags(write=False)  # a metric that writes to its input fails
    return Case(
        items,
        sparse.csr_array(relevant),
        sparse.csr_array(profiles),
        genres,
        popularity,
    )


def list_values(case: Case) -> dict[str, NDArray[np.float64]]:
    return {
        "novelty": metrics.novelty(case.items, case.probability),
        "diversity": metrics.intra_list_diversity(case.items, case.genres),
        "popularity": metrics.popularity_bias(case.items, case.popularity, case.profiles),
        "calibration": metrics.calibration(case.items, case.genres, case.profiles),
    }


def all_values(case: Case) -> dict[str, NDArray[np.float64]]:
    accuracy = {name: f(case.hits, case.n_relevant) for name, f in metrics.ACCURACY.items()}
    return accuracy | list_values(case)


# The oracle: definitions written out for one list, in plain Python.


def naive_accuracy(slots: list[int], relevant: set[int]) -> dict[str, float]:
    gains = [int(item in relevant) for item in slots]
    n_hits, n_relevant, k = sum(gains), len(relevant), len(slots)
    dcg = sum(gain / math.log2(1 + rank) for rank, gain in enumerate(gains, 1))
    ideal = sum(1 / math.log2(1 + rank) for rank in range(1, min(n_relevant, k) + 1))
    precisions = [sum(gains[:rank]) / rank for rank in range(1, k + 1) if gains[rank - 1]]
    return {
        "precision": n_hits / k,
        "recall": n_hits / n_relevant if relevant else math.nan,
        "hr": float(n_hits > 0),
        "ndcg": dcg / ideal if relevant else math.nan,
        "map": sum(precisions) / n_relevant if relevant else math.nan,
        "mrr": 1 / (1 + gains.index(1)) if n_hits else 0.0,
    }


def average(values: list[float], weights: list[float] | None = None) -> float:
    weights = weights or [1.0] * len(values)
    total = sum(value * weight for value, weight in zip(values, weights, strict=True))
    return total / sum(weights) if values else math.nan


def naive_cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return sum(a * b) / math.sqrt(sum(a * a) * sum(b * b))


def naive_genre_shares(weights: dict[int, float], genres: NDArray[np.float64]) -> list[float]:
    known = {item: weight for item, weight in weights.items() if genres[item].sum() > 0}
    return [
        average([genres[item][genre] / genres[item].sum() for item in known], list(known.values()))
        for genre in range(genres.shape[1])
    ]


def naive_calibration(
    shown: list[int], genres: NDArray[np.float64], profile: dict[int, float]
) -> float:
    wanted = naive_genre_shares(profile, genres)
    mixed = [
        0.99 * q + 0.01 * p
        for p, q in zip(wanted, naive_genre_shares(dict.fromkeys(shown, 1.0), genres), strict=True)
    ]
    if math.isnan(sum(wanted) + sum(mixed)):
        return math.nan
    return sum(p * math.log(p / q) for p, q in zip(wanted, mixed, strict=True) if p > 0)


def naive_list_values(case: Case, request: int) -> dict[str, float]:
    shown = [int(item) for item in case.items[request] if item >= 0]
    row = case.profiles[[request]]
    profile = dict(zip(row.indices.tolist(), row.data.tolist(), strict=True))
    counts = case.popularity.tolist()
    percentile = [
        average([(other < own) + 0.5 * (other == own) for other in counts]) for own in counts
    ]
    labelled = [case.genres[item] for item in shown if case.genres[item].any()]
    return {
        "novelty": average([-math.log2(case.probability[item]) for item in shown]),
        "diversity": average([1 - naive_cosine(a, b) for a, b in combinations(labelled, 2)]),
        "popularity": average([percentile[item] for item in shown])
        - average([percentile[item] for item in profile], list(profile.values())),
        "calibration": naive_calibration(shown, case.genres, profile),
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_every_value_agrees_with_the_definition_written_out(seed: int) -> None:
    case = random_case(seed)
    values = all_values(case)
    for request, slots in enumerate(case.items.tolist()):
        relevant = set(case.relevant[[request]].indices.tolist())
        expected = naive_accuracy(slots, relevant) | naive_list_values(case, request)
        actual = {name: values[name][request] for name in expected}
        assert actual == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_hits_are_the_relevant_items_of_the_row(seed: int) -> None:
    case = random_case(seed)
    dense = case.relevant.toarray()
    for slots, row, hits in zip(case.items, dense, case.hits, strict=True):
        assert hits.tolist() == [bool(item >= 0 and row[item]) for item in slots]


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("seed", range(5))
def test_accuracy_agrees_with_ir_measures(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    n_requests, n_items = 60, 30
    items = np.argsort(rng.random((n_requests, n_items)), axis=1)[:, :k]
    lengths = rng.integers(0, k + 1, n_requests)
    items[np.arange(k) >= lengths[:, np.newaxis]] = -1
    relevant = rng.random((n_requests, n_items)) < rng.random((n_requests, 1))
    relevant[:, 0] |= ~relevant.any(axis=1)  # trec_eval leaves out the others
    hits = metrics.hits_at(items, sparse.csr_array(relevant))

    judged = [
        ir_measures.Qrel(str(request), str(item), 1)
        for request, item in np.argwhere(relevant).tolist()
    ]
    # Scores that fall with the rank: trec_eval breaks ties by document name.
    run = [
        ScoredDoc(str(request), str(items[request, slot]), -float(slot))
        for request, slot in np.argwhere(items >= 0).tolist()
    ]
    measures = {measure @ k: name for name, measure in IR_MEASURES.items()}
    expected = {name: np.full(n_requests, np.nan) for name in measures.values()}
    for found in ir_measures.iter_calc(list(measures), judged, run):
        expected[measures[found.measure]][int(found.query_id)] = found.value

    for name, metric in metrics.ACCURACY.items():
        actual = metric(hits, relevant.sum(axis=1))
        np.testing.assert_allclose(actual, expected[name], rtol=1e-12, err_msg=name)


def test_accuracy_by_hand() -> None:
    hits = np.array([[True, False, True], [False, False, False], [False, True, True]])
    n_relevant = np.array([4, 1, 2])
    third = 1 / math.log2(3)
    expected = {
        "precision": [2 / 3, 0, 2 / 3],
        "recall": [1 / 2, 0, 1],
        "hr": [1, 0, 1],
        "ndcg": [1.5 / (1 + third + 0.5), 0, (third + 0.5) / (1 + third)],
        "map": [(1 + 2 / 3) / 4, 0, (1 / 2 + 2 / 3) / 2],
        "mrr": [1, 0, 1 / 2],
    }
    assert metrics.ACCURACY.keys() == expected.keys()
    for name, values in expected.items():
        assert metrics.ACCURACY[name](hits, n_relevant) == pytest.approx(values), name


def test_list_metrics_by_hand() -> None:
    case = Case(
        items=np.array([[0, 1, -1], [-1, 3, 2], [-1, 0, -1]]),
        relevant=sparse.csr_array((3, 4)),
        profiles=sparse.csr_array([[0, 0, 2, 1], [0, 0, 1, 1], [0, 0, 3, 0]]),
        genres=np.array([[1, 0], [1, 1], [0, 1], [0, 0]]),
        popularity=np.array([31, 15, 7, 7]),
    )
    values = list_values(case)
    assert values["novelty"] == pytest.approx([0.5, 2, 0])
    # Item 3 has no genre, so the second list holds no pair.
    assert values["diversity"] == pytest.approx([1 - math.sqrt(0.5), np.nan, np.nan], nan_ok=True)
    # Percentiles are 7/8, 5/8, 1/4 and 1/4, and only the two least popular were seen.
    assert values["popularity"] == pytest.approx([0.5, 0, 5 / 8])
    # Everyone watches the second genre; the lists give it a quarter, all and none of their mass.
    shown = np.array([0.25, 1, 0])
    assert values["calibration"] == pytest.approx(-np.log(0.99 * shown + 0.01), abs=1e-15)


@pytest.mark.parametrize("seed", SEEDS)
def test_values_do_not_depend_on_the_other_requests(seed: int) -> None:
    case = random_case(seed)
    order = np.random.default_rng(seed).permutation(len(case.items))
    values, shuffled = all_values(case), all_values(case.take(order))
    alone = all_values(case.take(order[:1]))
    for name in values:
        np.testing.assert_array_equal(shuffled[name], values[name][order], err_msg=name)
        np.testing.assert_array_equal(alone[name], values[name][order[:1]], err_msg=name)


@pytest.mark.parametrize("seed", SEEDS)
def test_list_metrics_ignore_ranks_and_empty_slots(seed: int) -> None:
    case = random_case(seed)
    padded = np.hstack([np.full((len(case.items), 2), -1), case.items])
    mixed = np.random.default_rng(seed).permuted(padded, axis=1)
    values = list_values(case)
    again = list_values(Case(mixed, case.relevant, case.profiles, case.genres, case.popularity))
    for name in values:
        np.testing.assert_allclose(again[name], values[name], atol=1e-12, err_msg=name)


@pytest.mark.parametrize("seed", SEEDS)
def test_appending_a_hit_never_lowers_accuracy(seed: int) -> None:
    case = random_case(seed)
    longer = np.hstack([case.hits, np.ones((len(case.hits), 1), dtype=bool)])
    n_relevant = np.maximum(case.n_relevant, longer.sum(axis=1))
    for name, metric in metrics.ACCURACY.items():
        gain = metric(longer, n_relevant) - metric(case.hits, n_relevant)
        assert gain.min() >= -1e-12, name


@pytest.mark.parametrize("seed", SEEDS)
def test_moving_a_hit_up_never_lowers_accuracy_and_raises_rank_aware_metrics(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.random((40, 8)) < 0.4
    low[:, :2] = [False, True]
    high = low[:, [1, 0, *range(2, 8)]]
    n_relevant = low.sum(axis=1) + rng.integers(0, 9, 40)
    for name, metric in metrics.ACCURACY.items():
        gain = metric(high, n_relevant) - metric(low, n_relevant)
        rank_aware = name in {"ndcg", "map", "mrr"}
        assert (gain > 0).all() if rank_aware else (gain == 0).all(), name


@pytest.mark.parametrize("n_relevant", [1, 2, 5, 20])
def test_a_perfect_list_has_ndcg_of_exactly_one(n_relevant: int) -> None:
    hits = np.arange(10)[np.newaxis] < n_relevant
    assert metrics.ndcg(hits, np.array([n_relevant])).tolist() == [1.0]


@pytest.mark.parametrize("seed", SEEDS)
def test_values_lie_within_their_bounds_and_are_nan_only_where_undefined(seed: int) -> None:
    case = random_case(seed)
    values = all_values(case)
    no_item = (case.items < 0).all(axis=1)
    no_profile = np.diff(case.profiles.indptr) == 0
    undefined = {
        "novelty": no_item,
        "diversity": ((case.genres.any(axis=1)[case.items]) & (case.items >= 0)).sum(axis=1) < 2,
        "popularity": no_item | no_profile,
    }
    for name in metrics.ACCURACY:
        undefined[name] = (case.n_relevant == 0) & (name in NAN_WITHOUT_RELEVANT)
    for name, expected in undefined.items():
        np.testing.assert_array_equal(np.isnan(values[name]), expected, err_msg=name)
    assert np.isnan(values["calibration"])[no_item | no_profile].all()

    bounds = {"novelty": (0, 5), "popularity": (-1, 1), "calibration": (0, math.log(100))}
    for name, value in values.items():
        low, high = bounds.get(name, (0, 1))
        assert value.dtype == np.float64
        assert value.shape == (len(case.items),)
        assert np.nanmin(value, initial=low) >= low - 1e-12, name
        assert np.nanmax(value, initial=high) <= high + 1e-12, name


def test_old_sparse_matrices_and_explicit_zeros_are_read_alike() -> None:
    case = random_case(0)
    matrix = sparse.csr_matrix(case.relevant, dtype=np.int8)
    profiles = sparse.csr_matrix(case.profiles)
    np.testing.assert_array_equal(metrics.hits_at(case.items, matrix), case.hits)
    old = list_values(Case(case.items, matrix, profiles, case.genres, case.popularity))
    for name, values in list_values(case).items():
        np.testing.assert_array_equal(old[name], values, err_msg=name)
    matrix.data[:] = 0
    assert not metrics.hits_at(case.items, matrix).any()


def test_no_requests_give_no_values() -> None:
    nobody = np.array([], dtype=np.int64)
    for name, values in all_values(random_case(0).take(nobody)).items():
        assert values.shape == (0,), name


@pytest.mark.parametrize("seed", SEEDS)
def test_coverage_counts_distinct_items(seed: int) -> None:
    items = random_case(seed).items
    distinct = set(items.ravel().tolist()) - {-1}
    assert metrics.catalogue_coverage(items, 50) == len(distinct) / 50
    assert metrics.catalogue_coverage(np.vstack([items, items]), 50) == len(distinct) / 50
    assert metrics.catalogue_coverage(np.full((3, 2), -1), 50) == 0


@pytest.mark.parametrize(("items", "candidates_count"), [([4, 7, -1], 1), ([-1], 0)])
def test_coverage_refuses_too_few_candidates(items: list[int], candidates_count: int) -> None:
    with pytest.raises(ValueError, match=f"{candidates_count} candidates, but"):
        metrics.catalogue_coverage(np.array([items]), candidates_count)


@pytest.mark.parametrize("wrong", [0.0, -0.5, 12.0, np.nan])
def test_novelty_refuses_what_is_not_a_probability_unless_never_recommended(wrong: float) -> None:
    probability = np.array([0.5, wrong])
    assert metrics.novelty(np.array([[0, -1]]), probability).tolist() == [1.0]
    with pytest.raises(ValueError, match=r"not in \(0, 1\] for 1 recommended items"):
        metrics.novelty(np.array([[0, 1], [1, -1]]), probability)


def calls_with_a_matrix(rows: int, code: int) -> list[Callable[[], object]]:
    matrix = sparse.csr_array(np.ones((rows, 3)))
    items = np.array([[0, code], [1, -1]])
    return [
        lambda: metrics.hits_at(items, matrix),
        lambda: metrics.popularity_bias(items, np.arange(3), matrix),
        lambda: metrics.calibration(items, np.eye(3), matrix),
    ]


@pytest.mark.parametrize(
    "call", calls_with_a_matrix(rows=1, code=2) + calls_with_a_matrix(rows=3, code=2)
)
def test_matrices_need_one_row_per_request(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"2 requests, but [13] matrix rows"):
        call()


@pytest.mark.parametrize(
    "call",
    [
        *calls_with_a_matrix(rows=2, code=3),
        lambda: metrics.novelty(np.array([[0, 3]]), np.ones(3)),
        lambda: metrics.intra_list_diversity(np.array([[0, 3]]), np.eye(3)),
    ],
)
def test_unknown_item_codes_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises((IndexError, ValueError), match="index"):
        call()


# One positive among sampled negatives


def random_scores(seed: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores with many ties, some of them minus infinity, and slots without an item."""
    rng = np.random.default_rng(seed)
    scores = rng.choice([-np.inf, 0.0, 0.5, 1.0], (30, 6), p=[0.1, 0.3, 0.3, 0.3])
    valid = rng.random(scores.shape) < 0.8
    scores[~valid] = rng.choice([np.nan, 2.0, 0.5], np.count_nonzero(~valid))
    for array in (scores, valid):
        array.setflags(write=False)
    return scores, valid


def naive_against_negatives(scores: list[float], valid: list[bool], k: int) -> dict[str, float]:
    """Average over all orders of the slots, of which a stable sort keeps that of ties."""
    slots = [slot for slot, there in enumerate(valid) if there]
    found = []
    for order in permutations(slots):
        ranked = sorted(order, key=lambda slot: -scores[slot])[:k]
        found.append(naive_accuracy(ranked + [-1] * (k - len(ranked)), {0}))
    return {name: average([each[name] for each in found]) for name in ("hr", "ndcg")}


@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_ties_with_negatives_count_in_expectation(seed: int, k: int) -> None:
    scores, valid = random_scores(seed)
    values = metrics.against_negatives(scores, k, valid)
    assert values.keys() == {"hr", "ndcg"}
    for row, (own, there) in enumerate(zip(scores.tolist(), valid.tolist(), strict=True)):
        actual = {name: value[row] for name, value in values.items()}
        assert actual == pytest.approx(naive_against_negatives(own, there, k), abs=1e-12)


def test_without_ties_a_positive_counts_by_its_rank() -> None:
    scores = np.array([[3.0, 2, 1, 0], [2.5, 3, 1, 0], [0.5, 3, 1, 0], [-1.0, 3, 1, 0]])
    values = metrics.against_negatives(scores, k=3)
    assert values["hr"].tolist() == [1, 1, 1, 0]
    assert values["ndcg"] == pytest.approx([1, 1 / math.log2(3), 1 / 2, 0])


def test_what_is_indifferent_hits_as_often_as_chance() -> None:
    values = metrics.against_negatives(np.zeros((1, 101)), k=10)
    assert values["hr"] == pytest.approx(10 / 101)


def test_a_positive_that_is_no_candidate_is_a_miss() -> None:
    values = metrics.against_negatives(np.array([[1.0, 0]]), 2, np.array([[False, True]]))
    assert [values["hr"].tolist(), values["ndcg"].tolist()] == [[0], [0]]


@pytest.mark.parametrize("slot", [0, 1])
def test_scores_that_are_nan_are_refused(slot: int) -> None:
    scores = np.zeros((2, 3))
    scores[1, slot] = np.nan
    with pytest.raises(ValueError, match="1 scores are NaN"):
        metrics.against_negatives(scores, k=2)


@pytest.mark.parametrize("seed", SEEDS)
def test_ranks_are_worth_what_pairs_and_places_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    relevant = sparse.csr_array(rng.random((30, 12)) < rng.random((30, 1)))
    n_candidates = np.full(30, 12)
    places = np.concatenate([rng.permutation(12)[:n] for n in np.diff(relevant.indptr)])
    entries = (places.astype(int), relevant.indices, relevant.indptr)
    ranks = metrics.Ranks(sparse.csr_array(entries, relevant.shape), n_candidates)
    for row in range(30):
        mine = places[relevant.indptr[row] : relevant.indptr[row + 1]]
        others = np.setdiff1d(np.arange(12), mine)
        if not mine.size:
            values = ranks.auc(), ranks.precision(3), ranks.recall(3), ranks.reciprocal_rank()
            assert np.isnan([each[row] for each in values]).all()
            continue
        right = np.mean(mine[:, None] < others) if others.size else 0.5
        assert ranks.auc()[row] == pytest.approx(right)
        assert ranks.precision(3)[row] == pytest.approx((mine < 3).sum() / 3)
        assert ranks.recall(3)[row] == pytest.approx((mine < 3).mean())
        assert ranks.reciprocal_rank()[row] == 1 / (1 + mine.min())
