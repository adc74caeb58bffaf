"""Linear steps: few requests are scored as many are, and weights are what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from firetv.data import Dataset
from firetv.models import EASE, ItemKNN
from firetv.slate import Slate
from firetv.steps import DualStep, LinearStep

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
