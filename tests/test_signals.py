"""Traits of items and users: by hand, and what they leave at zero."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from firetv.data import Dataset, Tables
from firetv.ranking import OF_USER
from firetv.signals import Traits
from firetv.slate import EMPTY, Slate

NAMES = [
    "item:viewers",
    "item:rating",
    "item:year",
    "user:titles",
    "user:rating",
    "user:viewers",
]


def few() -> Dataset:
    """Three users, of whom the last saw nothing; four titles, of which nobody saw the last."""
    pairs = [(0, 0), (0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    history = pd.DataFrame(
        {
            "user_id": [f"u{user}" for user, _ in pairs],
            "content_id": [f"c{item}" for _, item in pairs],
            "timestamp": pd.Timestamp("2024-01-01", tz="UTC"),
        }
    )
    said = pd.DataFrame(
        {
            "user_id": ["u0", "u0", "u1", "u1"],
            "content_id": ["c0", "c0", "c0", "c2"],
            "timestamp": pd.Timestamp("2024-01-01", tz="UTC"),
            "rating": [5.0, 3.0, 5.0, 1.5],
        }
    )
    content = pd.DataFrame(
        {
            "content_id": [f"c{n}" for n in range(4)],
            "release_year": pd.array([1990, 2010, None, 2000], "Int64"),
        }
    )
    users = pd.DataFrame({"user_id": ["u0", "u1", "u2"]})
    return Dataset.from_tables(Tables(history, said, users=users, content=content))


def parts(data: Dataset, users: list[int], items: np.ndarray, **given: float) -> dict:
    slate = Traits(**given).fit(data)(Slate(pd.DataFrame({"user": users}), items))
    assert all(part.dtype == np.float32 for part in slate.parts.values())
    return dict(slate.parts)


ALL = np.arange(4)


def test_traits_of_items_are_these_by_hand() -> None:
    """Ratings of pairs are 4 of c0 and 5, 1.5 of u1: the mean of all three is 3.5."""
    found = parts(few(), [0, 1], ALL, prior=2.0)
    assert list(found) == NAMES
    expected = {
        "item:viewers": np.log([3, 3, 2, 1]),
        "item:rating": [(0.5 + 1.5) / (2 + 2), 0, -2.0 / (1 + 2), 0],
        "item:year": [-1, 1, 0, 0],  # decades from 2000; of one it is unknown
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], [values] * 2, rtol=1e-6, atol=1e-7)


def test_traits_of_users_are_these_by_hand() -> None:
    found = parts(few(), [0, 1, 2], ALL, prior=2.0)
    expected = {
        "user:titles": np.log([3, 4, 1]),
        "user:rating": [0.5 / (1 + 2), (1.5 - 2.0) / (2 + 2), 0],
        "user:viewers": [np.log(3), (2 * np.log(3) + np.log(2)) / 3, 0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], np.tile(values, (4, 1)).T, rtol=1e-5, atol=1e-7)
        assert name.startswith(OF_USER)


def test_a_stranger_has_traits_of_items_alone() -> None:
    found = parts(few(), [-1, 1], ALL)
    for name, part in found.items():
        assert part[1].any()
        if name.startswith(OF_USER):
            np.testing.assert_array_equal(part[0], 0)
        else:
            np.testing.assert_array_equal(part[0], part[1])


def test_an_empty_slot_has_no_traits_of_an_item() -> None:
    found = parts(few(), [0, 1], np.array([[0, EMPTY, 2], [EMPTY, 3, EMPTY]]))
    for name in NAMES[:3]:
        assert found[name][0, 1] == found[name][1, 0] == found[name][1, 2] == 0
        assert found[name][0, 0] == parts(few(), [0], ALL)[name][0, 0]


def test_own_candidates_have_the_traits_of_shared_ones(data: Dataset) -> None:
    items = np.random.default_rng(0).permutation(data.shape[1])[:9]
    shared, own = parts(data, [0, 7, -1], items), parts(data, [0, 7, -1], np.tile(items, (3, 1)))
    for name, part in shared.items():
        np.testing.assert_array_equal(part, own[name])


def test_a_great_prior_draws_mean_ratings_to_those_of_all(data: Dataset) -> None:
    weak, strong = (parts(data, [0, 1, 2], np.arange(40), prior=prior) for prior in (1.0, 1e6))
    for name in ("item:rating", "user:rating"):
        assert np.abs(strong[name]).max() < 1e-3 < np.abs(weak[name]).max()


def test_data_without_ratings_or_years_have_zeros_for_them() -> None:
    data = few()
    bare = replace(
        data,
        reactions=data.reactions.drop(columns="rating"),
        content=data.content[["content_id"]],
    )
    empty = replace(
        data,
        reactions=data.reactions.iloc[:0],
        content=data.content.assign(release_year=pd.array([None] * 4, "Int64")),
    )
    usual = parts(data, [0, 1], ALL)
    for each in (bare, empty):
        found = parts(each, [0, 1], ALL)
        for name in ("item:rating", "item:year", "user:rating"):
            np.testing.assert_array_equal(found[name], 0)
        for name in ("item:viewers", "user:titles", "user:viewers"):
            np.testing.assert_array_equal(found[name], usual[name])


def test_data_without_events_have_finite_traits() -> None:
    data = few()
    empty = data.keep(np.zeros(len(data.interactions), bool))
    found = parts(empty, [0, -1], ALL)
    for name in NAMES:
        assert np.isfinite(found[name]).all()
    assert not found["item:viewers"].any()
    assert not found["user:viewers"].any()


def test_popularity_counts_viewers_and_not_views(data: Dataset) -> None:
    found = parts(data, [0], np.arange(40))["item:viewers"][0]
    viewers = data.interactions.groupby("item")["user"].nunique().reindex(range(40), fill_value=0)
    np.testing.assert_allclose(found, np.log1p(viewers), rtol=1e-6)


def test_the_slate_and_its_parts_are_kept(data: Dataset) -> None:
    before = Slate(pd.DataFrame({"user": [0, -1]}), np.arange(3)).add("given", np.ones((2, 3)))
    after = Traits().fit(data)(before)
    assert list(before.parts) == ["given"]
    assert list(after.parts) == ["given", *NAMES]
    with pytest.raises(ValueError, match="already has a part 'item:viewers'"):
        Traits().fit(data)(after)
