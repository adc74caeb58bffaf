from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest

from firetv.data import Dataset
from firetv.models import ALS, Popular
from firetv.slate import (
    EMPTY,
    Chain,
    ExcludeSeen,
    Pipeline,
    Slate,
    Step,
    best,
    chain,
    joined,
    recommend,
    top,
    with_seed,
)
from firetv.steps import FactorStep


def slate_of(scores: np.ndarray, items: np.ndarray | None = None) -> Slate:
    requests = pd.DataFrame({"user": np.arange(len(scores))})
    items = np.arange(scores.shape[1]) if items is None else items
    return Slate(requests, items).add("taste", scores)


@pytest.mark.parametrize("k", [1, 3, 7, 20])
def test_top_agrees_with_a_stable_sort(k: int) -> None:
    rng = np.random.default_rng(k)
    scores = rng.integers(0, 5, size=(50, 12)).astype(np.float32)  # many ties
    items = np.where(rng.random((50, 12)) < 0.2, EMPTY, rng.integers(100, size=(50, 12)))
    slate = slate_of(scores, items)
    order = np.argsort(-slate.scores, axis=1, kind="stable")[:, :k]
    best = top(k)(slate)
    np.testing.assert_array_equal(best.items, np.take_along_axis(items, order, axis=1))
    np.testing.assert_array_equal(best.scores, np.take_along_axis(slate.scores, order, axis=1))


def test_top_of_nothing_is_nothing() -> None:
    assert top(3)(slate_of(np.empty((2, 0)))).items.shape == (2, 0)
    assert top(3)(slate_of(np.empty((0, 5)))).items.shape == (0, 3)


def test_ledger_sums_and_is_not_mutated() -> None:
    slate = slate_of(np.array([[1.0, 2.0]]))
    more = slate.add("friends", np.array([[0.5, -3.0]]))
    np.testing.assert_array_equal(more.scores, [[1.5, -1.0]])
    assert list(slate.parts) == ["taste"]
    with pytest.raises(ValueError, match="already has a part 'taste'"):
        slate.add("taste", np.zeros((1, 2)))


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="part 'taste' holds 1 NaN"):
        slate_of(np.array([[1.0, np.nan]]))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="has shape"):
        slate_of(np.zeros((2, 3))).add("friends", np.zeros((3, 2)))
    with pytest.raises(ValueError, match="2 requests but 3 rows"):
        Slate(pd.DataFrame({"user": [0, 1]}), np.zeros((3, 4), int))


@pytest.mark.parametrize("shared", [True, False])
def test_seen_items_never_come_back(data: Dataset, shared: bool) -> None:
    users = np.array([3, 0, -1, 3])
    items = np.random.default_rng(0).permutation(data.shape[1])
    grid = items if shared else np.stack([np.roll(items, r) for r in range(4)])
    out = ExcludeSeen().fit(data)(Slate(pd.DataFrame({"user": users}), grid))
    seen = data.matrix().toarray() > 0
    for row, user in enumerate(users):
        expected = np.broadcast_to(grid, (4, len(items)))[row].copy()
        if user >= 0:
            expected[seen[user, expected]] = EMPTY
        np.testing.assert_array_equal(out.items[row], expected)


def test_chunks_do_not_change_lists(data: Dataset) -> None:
    step = chain(ALS(components=4), ExcludeSeen(), top(5)).fit(data)
    requests = pd.DataFrame({"user": [-1, *range(data.shape[0])]})
    items = np.arange(data.shape[1])
    whole, small = recommend(step, requests, items), recommend(step, requests, items, 50)
    np.testing.assert_array_equal(whole.items, small.items)
    for name, values in whole.parts.items():
        np.testing.assert_allclose(small.parts[name], values, atol=1e-6)


class Watched:
    """A factor model that notes whether it proposed lists."""

    def __init__(self, step: FactorStep) -> None:
        self.step, self.proposed = step, 0

    def __call__(self, slate: Slate) -> Slate:
        return self.step(slate)

    def propose(self, *asked: object) -> Slate:
        self.proposed += 1
        return self.step.propose(*asked)


def test_a_pipeline_lets_a_factor_model_propose_the_same_list(data: Dataset) -> None:
    step, unseen, ten = chain(ALS(components=4), ExcludeSeen(), top(10)).fit(data).steps
    requests = pd.DataFrame({"user": [-1, *range(data.shape[0]), 0]})
    items = np.random.default_rng(0).permutation(data.shape[1])[:30]
    watched = Watched(step)
    quick = recommend(Pipeline((watched, unseen, ten, top(7))), requests, items)
    assert watched.proposed == 1
    whole = recommend(step, requests, items)
    dense = top(7)(unseen(whole))
    np.testing.assert_array_equal(quick.items, dense.items)
    np.testing.assert_allclose(quick.scores, dense.scores, atol=1e-6)
    assert quick.parts.keys() == dense.parts.keys()
    own = np.tile(items, (len(requests), 1))  # each one's own candidates are scored as they are
    scored = recommend(Pipeline((watched, unseen, ten)), requests, own)
    np.testing.assert_array_equal(scored.items[:, :7], dense.items)
    assert watched.proposed == 1


def test_own_candidates_are_chunked_too(data: Dataset) -> None:
    step = chain(ALS(components=4), top(5)).fit(data)
    requests = pd.DataFrame({"user": np.arange(data.shape[0])})
    own = np.random.default_rng(0).integers(data.shape[1], size=(data.shape[0], 8))
    whole, small = recommend(step, requests, own), recommend(step, requests, own, 20)
    np.testing.assert_array_equal(whole.items, small.items)


def test_seed_reaches_stages_inside_a_chain() -> None:
    pipeline = with_seed(chain(ALS(), Popular(), top(3)), 7)
    assert pipeline.stages[0].seed == 7
    assert pipeline.stages[1] == Popular()


@dataclass(frozen=True)
class After:
    """Learns from what comes before it, and notes what it was handed."""

    handed: list[tuple[Chain, Dataset]] = field(default_factory=list)

    def fit(self, data: Dataset) -> Step:
        raise AssertionError("in a chain it is fitted after the others")

    def fit_after(self, upstream: Chain, data: Dataset) -> Step:
        self.handed.append((upstream, data))
        return top(2)


def test_a_stage_that_learns_from_scores_is_handed_the_unfitted_stages(data: Dataset) -> None:
    first, second, last = Popular(), ExcludeSeen(), After()
    step = top(9)
    fitted = chain(first, step, second, last, top(1)).fit(data)
    assert last.handed == [(chain(first, step, second), data)]
    assert all(a is b for a, b in zip(last.handed[0][0].stages, (first, step, second), strict=True))
    assert fitted.steps[1] is step
    assert fitted.steps[3] == top(2)  # what it learned is in the pipeline
    slate = fitted(Slate(pd.DataFrame({"user": [0, -1]}), np.arange(data.shape[1])))
    assert slate.shape == (2, 1)


def test_a_stage_that_learns_from_scores_may_come_first_or_twice(data: Dataset) -> None:
    first, second = After(), After()
    chain(first, Popular(), second).fit(data)
    assert first.handed == [(chain(), data)]
    assert second.handed == [(chain(first, Popular()), data)]


def test_a_chain_inside_a_chain_is_one_stage_of_it(data: Dataset) -> None:
    inner, last = chain(Popular(), top(9)), After()
    requests, items = pd.DataFrame({"user": [0, 3, -1]}), np.arange(data.shape[1])
    nested = chain(inner, ExcludeSeen(), top(5)).fit(data)
    flat = chain(Popular(), top(9), ExcludeSeen(), top(5)).fit(data)
    a, b = recommend(nested, requests, items), recommend(flat, requests, items)
    np.testing.assert_array_equal(a.items, b.items)
    np.testing.assert_array_equal(a.scores, b.scores)
    chain(inner, last).fit(data)
    assert last.handed == [(chain(inner), data)]


def test_a_stage_inside_a_chain_learns_from_what_comes_before_that_chain(data: Dataset) -> None:
    last = After()
    chain(Popular(), chain(ExcludeSeen(), chain(last))).fit(data)
    assert last.handed == [(chain(Popular(), ExcludeSeen()), data)]


def test_the_best_slots_come_in_order_with_ties_by_slot() -> None:
    scores = np.array([[1.0, 3.0, 1.0, 3.0, 2.0], [-np.inf, 0.0, -np.inf, -np.inf, -np.inf]])
    np.testing.assert_array_equal(best(scores, 4), [[1, 3, 4, 0], [1, 0, 2, 3]])
    np.testing.assert_array_equal(best(scores, 9), [[1, 3, 4, 0, 2], [1, 0, 2, 3, 4]])
    assert best(scores, 2).dtype == np.int64


@pytest.mark.parametrize("columns", [40, 81, 500, 1003])
@pytest.mark.parametrize("k", [1, 2, 10])
@pytest.mark.parametrize("levels", [2, 50, 10**6])
def test_the_best_of_long_rows_are_those_of_a_stable_sort(
    columns: int, k: int, levels: int
) -> None:
    rng = np.random.default_rng(columns)
    scores = rng.integers(levels, size=(60, columns)).astype(np.float32)
    scores[::3][rng.random((20, columns)) < 0.9] = -np.inf
    scores[0] = -np.inf
    for each in (scores, np.asfortranarray(scores), scores[:, ::-1], scores.astype(float)):
        expected = np.argsort(-each, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(best(each, k), expected)


@pytest.mark.parametrize(("rows", "columns", "k"), [(0, 5, 3), (2, 0, 3), (2, 5, 0)])
def test_the_best_of_nothing_is_nothing(rows: int, columns: int, k: int) -> None:
    assert best(np.zeros((rows, columns)), k).shape == (rows, min(k, columns))


def test_slates_are_joined_below_each_other() -> None:
    one = slate_of(np.ones((2, 3)))
    other = slate_of(np.full((1, 3), 2.0), np.array([[7, EMPTY, 8]])).add("more", np.ones((1, 3)))
    requests = pd.DataFrame({"user": [4, 5, 6]})
    found = joined(requests, [one, other])
    assert found.requests is requests
    np.testing.assert_array_equal(found.items, [[0, 1, 2], [0, 1, 2], [7, EMPTY, 8]])
    np.testing.assert_array_equal(found.parts["taste"], [[1] * 3, [1] * 3, [2] * 3])
    np.testing.assert_array_equal(found.parts["more"], [[0] * 3, [0] * 3, [1] * 3])
