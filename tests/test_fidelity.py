"""What becomes of a title when the titles its reason names are taken away."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from firetv.data import Dataset
from firetv.fidelity import ORDERS, TESTS, Lists, curves, falls
from firetv.models import ALS, EASE, LightFM
from firetv.newcomers import Newcomers
from firetv.slate import EMPTY

MODELS = {
    "ease": EASE(20),
    "als": ALS(8, 1.0),
    "lightfm": LightFM(8, epochs=5, use_item_features=True, use_user_features=True),
}
every_model = pytest.mark.parametrize("name", MODELS)
COUNTS = (1, 3, 6)


@pytest.fixture(scope="module")
def lists(data: Dataset) -> dict[str, Lists]:
    candidates, users = np.flatnonzero(data.item_counts), np.flatnonzero(data.user_counts > 8)
    steps = {name: Newcomers(model).fit(data) for name, model in MODELS.items()}
    return {name: Lists.of(step, users, candidates, 5) for name, step in steps.items()}


@every_model
def test_lists_hold_what_is_new_and_contributions_its_whole_history(
    lists: dict[str, Lists], data: Dataset, name: str
) -> None:
    seen = data.matrix()
    for row, user in enumerate(lists[name].users):
        own = set(seen[[user]].indices.tolist())
        items = lists[name].candidates[lists[name].slots[row]]
        assert own.isdisjoint(items.tolist())
        assert EMPTY not in items
        assert lists[name].titles(row).tolist() == sorted(own)
        assert lists[name].contributions[row].shape == (len(own), 5)


def test_a_linear_model_loses_exactly_what_was_stated(lists: dict[str, Lists]) -> None:
    found = falls(lists["ease"], named=2, items=3)
    assert len(found) == 3 * len(lists["ease"].users)
    assert found["stated"].min() > 0
    np.testing.assert_allclose(found["observed"], found["stated"], atol=1e-6)


@pytest.mark.parametrize("name", ["als", "lightfm"])
def test_vectors_lose_about_what_was_stated(lists: dict[str, Lists], name: str) -> None:
    found = falls(lists[name], named=1, items=3)
    assert found["stated"].corr(found["observed"]) > 0.9
    assert found["observed"].sum() == pytest.approx(found["stated"].sum(), rel=0.35)


@every_model
def test_named_titles_matter_more_than_random_and_these_more_than_the_least(
    lists: dict[str, Lists], name: str
) -> None:
    found = curves(lists[name], COUNTS, 3, np.random.default_rng(0))
    mean = found.groupby(["test", "order"])["stays"].mean()
    assert mean["deletion", "named"] < mean["deletion", "random"] < mean["deletion", "least"] + 0.01
    sufficient = mean["sufficiency"]
    assert sufficient["named"] > sufficient["random"] > sufficient["least"]


def test_curves_have_a_row_for_each_trial_of_each_user(lists: dict[str, Lists]) -> None:
    found = curves(lists["ease"], COUNTS, 2, np.random.default_rng(0))
    users = len(lists["ease"].users)
    assert len(found) == len(TESTS) * len(ORDERS) * len(COUNTS) * users
    assert found["stays"].isin([0, 0.5, 1]).all()
    again = curves(lists["ease"], COUNTS, 2, np.random.default_rng(0))
    pd.testing.assert_frame_equal(found, again)


def test_people_with_too_few_titles_are_left_out(lists: dict[str, Lists]) -> None:
    sizes = np.diff(lists["ease"].history.indptr)
    most = int(np.median(sizes))
    found = curves(lists["ease"], (1, most), 1, np.random.default_rng(0))
    assert set(found["user"]) == set(lists["ease"].users[sizes > most])
    assert set(falls(lists["ease"], most, 1)["user"]) == set(found["user"])
