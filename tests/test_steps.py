"""Steps: few requests are scored as many are, weights and proposals are what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from threadpoolctl import threadpool_limits

from firetv.data import Dataset
from firetv.models import EASE, ItemKNN
from firetv.slate import EMPTY, Slate, best
from firetv.steps import DualStep, FactorStep, LinearStep

FEATURED = EASE(reg=10, use_item_features=True, activity=0.5)
MAKERS = {
    "dense": lambda data: EASE(reg=10).fit(data),
    "sparse": lambda data: ItemKNN(neighbours=4).fit(data),
    "dual": lambda data: EASE(reg=10)._by_rows(data, EASE()._rows(data)),
    "features": lambda data: FEATURED.fit(data),
    "dual-features": lambda data: FEATURED._by_rows(data, FEATURED._rows(data)),
}
every_step = pytest.mark.parametrize("name", MAKERS)
USERS = [0, 27, -1, 5, 0]  # user 27 has no events


@pytest.fixture(scope="module")
def steps(rich: Dataset) -> dict[str, LinearStep | DualStep]:
    return {name: make(rich) for name, make in MAKERS.items()}


def weights_of(step: LinearStep | DualStep) -> np.ndarray:
    if isinstance(step, DualStep):
        weights = step.learned.toarray().T @ step.table
        np.testing.assert_allclose(np.diag(weights), step.own, rtol=1e-4, atol=1e-6)
        return weights - np.diag(np.diag(weights))
    return step.weights.toarray() if sparse.issparse(step.weights) else step.weights


def test_the_steps_are_of_each_kind(steps: dict[str, LinearStep | DualStep]) -> None:
    assert isinstance(steps["dense"].weights, np.ndarray)
    assert sparse.issparse(steps["sparse"].weights)
    assert isinstance(steps["dual"], DualStep)


@every_step
@pytest.mark.parametrize("count", [1, 2, 5, 40])
@pytest.mark.parametrize("shared", [True, False])
def test_scores_are_histories_times_weights(
    name: str, count: int, shared: bool, rich: Dataset, steps: dict[str, LinearStep | DualStep]
) -> None:
    users, rng = np.resize(USERS, count), np.random.default_rng(0)
    items = rng.permutation(40)[:11]
    if not shared:
        items = np.stack([rng.permutation(40)[:11] for _ in users])
    slate = steps[name](Slate(pd.DataFrame({"user": users}), items))
    history = np.where(users[:, None] < 0, 0, rich.matrix().toarray()[users])
    expected = np.take_along_axis(history @ weights_of(steps[name]), slate.grid, axis=1)
    np.testing.assert_allclose(slate.parts["taste"], expected, rtol=1e-4, atol=1e-6)
    assert slate.parts["taste"].dtype == np.float32
    unknown = (users < 0) | (users == 27)
    if unknown.any():
        popular = np.log1p(rich.item_counts)[slate.grid]
        popularity = np.where(unknown[:, None], popular, 0)
        np.testing.assert_allclose(slate.parts["popularity"], popularity, rtol=1e-6)


@pytest.mark.parametrize("name", ["dense", "sparse", "features"])
def test_few_rows_are_gathered_only_where_that_is_less(
    name: str, steps: dict[str, LinearStep | DualStep]
) -> None:
    step = steps[name]
    titles = np.array([3, 17, 30])
    history = np.zeros((30, 40), np.float32)
    history[:, titles] = [1.0, 0.5, 2.0]
    step = replace(step, history=sparse.csr_array(history))
    few, many = (
        step(Slate(pd.DataFrame({"user": np.arange(n)}), np.arange(40))).parts["taste"]
        for n in (2, 30)
    )
    np.testing.assert_allclose(few, many[:2], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(few[0], history[0] @ weights_of(step), rtol=1e-5, atol=1e-6)


@every_step
def test_between_titles_is_their_weight(name: str, steps: dict[str, LinearStep | DualStep]) -> None:
    rng, weights = np.random.default_rng(0), weights_of(steps[name])
    seen = rng.integers(40, size=25)
    items = rng.integers(40, size=(25, 7))
    items[:, 0] = seen  # what a title says for itself
    found = steps[name].between(seen, items)
    assert found.shape == (25, 7)
    np.testing.assert_allclose(found, weights[seen[:, None], items], rtol=1e-4, atol=1e-6)
    assert (found[:, 0] == weights[seen, seen]).all()
    none = steps[name].between(seen[:0], items[:0])
    assert none.shape == (0, 7)


@pytest.mark.parametrize("threads", [1, 2])
def test_proposals_of_many_blocks_are_the_best_of_all_scores(threads: int) -> None:
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=(n, 6)).astype(np.float32) for n in (300, 9000)]
    known, popularity = rng.random(300) < 0.9, rng.random(9000).astype(np.float32)
    step = FactorStep(*vectors, known, popularity)
    seen = sparse.random_array((300, 9000), density=0.05, rng=rng, format="csr")
    users, items = rng.integers(-1, 300, size=200), rng.permutation(9000)[:8000]
    with threadpool_limits(threads, "blas"):
        found = step.propose(pd.DataFrame({"user": users}), items, 10, seen)
    scores = np.where(
        ((users >= 0) & known[users])[:, None],
        vectors[0][users] @ vectors[1][items].T,
        popularity[items],
    )
    hidden = (seen.toarray()[users][:, items] > 0) & (users >= 0)[:, None]
    expected = best(np.where(hidden, -np.inf, scores), 10)
    np.testing.assert_array_equal(found.items, items[expected])
    np.testing.assert_allclose(found.scores, np.take_along_axis(scores, expected, 1), atol=1e-5)


def test_lists_are_as_long_as_there_are_unseen_candidates() -> None:
    step = FactorStep(*(np.ones((n, 2), np.float32) for n in (2, 4)), np.ones(2, bool), np.ones(4))
    seen = sparse.csr_array([[1.0, 0, 1, 0], [0, 0, 0, 0]])
    found = step.propose(pd.DataFrame({"user": [0, 1]}), np.array([2, 3, 0, 1]), 3, seen)
    np.testing.assert_array_equal(found.items, [[3, 1, EMPTY], [2, 3, 0]])
    none = step.propose(pd.DataFrame({"user": []}, dtype=int), np.arange(4), 3, seen)
    assert none.shape == (0, 3)


def test_vectors_that_are_not_numbers_are_refused() -> None:
    step = FactorStep(*(np.full((2, 2), np.nan),) * 2, np.ones(2, bool), np.ones(2))
    with pytest.raises(ValueError, match="hold NaN"):
        step.propose(pd.DataFrame({"user": [0]}), np.arange(2), 1)
