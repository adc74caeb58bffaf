"""How much members count, factor by factor, and what may be shown to children."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_strategies import random_panel

from firetv.data import Dataset
from firetv.member_weights import (
    Activity,
    Dissatisfaction,
    Expertise,
    Factor,
    Likeness,
    Presence,
    Suitability,
    weigh,
)
from firetv.panels import Panel, Seats

NAN = float("nan")
FACTORS: dict[str, Factor] = {
    factor.name: factor
    for factor in (Activity(), Expertise(), Likeness(), Dissatisfaction(), Presence())
}


def panel_of(users: list[list[int]], **known: list[list[float]]) -> Panel:
    """Equal members who like three titles at random."""
    codes = np.array(users)
    panel = Panel.of(np.random.default_rng(0).random((*codes.shape, 3)))
    tables = {name: np.array(values, float) for name, values in known.items()}
    return replace(panel, seats=Seats(np.arange(len(codes)), codes, tables))


def factors_of(factor: Factor, panel: Panel, data: Dataset) -> np.ndarray:
    return factor.fit(data)(panel)


def test_factors_have_names_of_their_own() -> None:
    names = "activity", "expertise", "likeness", "dissatisfaction", "presence"
    assert tuple(FACTORS) == names


@pytest.mark.parametrize("power", [0.5, -1, 2])
def test_activity_is_a_power_of_the_number_of_items(power: float, data: Dataset) -> None:
    panel = panel_of([[3, 0, -1], [7, -1, -1]])
    items = data.interactions.groupby("user")["item"].nunique()
    expected = [
        [(1 + (items[user] if user >= 0 else 0)) ** float(power) for user in group]
        for group in panel.seats.users
    ]
    np.testing.assert_allclose(factors_of(Activity(power), panel, data), expected)


@pytest.mark.parametrize("titles", [5, 1000])
def test_expertise_is_the_share_of_popular_titles_that_are_known(
    titles: int, data: Dataset
) -> None:
    seen = data.matrix().toarray() > 0
    popular = np.argsort(-seen.sum(axis=0), kind="stable")[:titles]
    panel = panel_of([[3, 0, -1]])
    shares = [seen[3, popular].mean(), seen[0, popular].mean(), 0]
    found = factors_of(Expertise(titles, base=0.2, power=1.5), panel, data)
    np.testing.assert_allclose(found, [[(0.2 + share) ** 1.5 for share in shares]])


@pytest.mark.parametrize("strength", [1.0, -2.0])
def test_likeness_is_the_mean_correlation_with_the_others(strength: float, data: Dataset) -> None:
    panel = random_panel(0, size=4)
    for values in (panel.opinions, panel.valid):
        values.flags.writeable = False
    found = factors_of(Likeness(strength), panel, data)
    for group, valid in enumerate(panel.valid):
        if valid.sum() < 2:
            continue
        related = np.corrcoef(panel.opinions[group][:, valid].astype(float))
        mean = (related.sum(axis=1) - 1) / 3
        np.testing.assert_allclose(found[group], np.exp(strength * mean), rtol=1e-3)


def test_who_has_no_opinion_is_like_nobody(data: Dataset) -> None:
    panel = Panel.of(np.array([[[0.5, 0.5, 0.5], [0.1, 0.2, 0.9], [0.2, 0.4, 1.8]]]))
    np.testing.assert_allclose(
        factors_of(Likeness(), panel, data), [[1, np.exp(0.5), np.exp(0.5)]], rtol=1e-5
    )
    alone = panel_of([[3]])
    np.testing.assert_array_equal(factors_of(Likeness(), alone, data), [[1]])


def test_who_got_less_counts_more(data: Dataset) -> None:
    known = [[0.0, 1.0, 0.5], [0.2, NAN, 0.4], [NAN, NAN, NAN]]
    panel = panel_of([[0, 1, 2]] * 3, satisfaction=known)
    expected = np.exp([[1.5, -1.5, 0], [0.3, 0, -0.3], [0, 0, 0]])
    np.testing.assert_allclose(factors_of(Dissatisfaction(3.0), panel, data), expected)
    weighed, _ = weigh(panel, {"dissatisfaction": Dissatisfaction().fit(data)})
    assert (np.diff(weighed.weights[0, [1, 2, 0]]) > 0).all()


def test_who_is_there_for_half_of_the_evening_counts_half(data: Dataset) -> None:
    panel = panel_of([[0, 1, 2]], presence=[[1, 0.5, NAN]])
    np.testing.assert_array_equal(factors_of(Presence(), panel, data), [[1, 0.5, 1]])


@pytest.mark.parametrize("factor", [Dissatisfaction(), Presence()])
def test_what_requests_do_not_say_changes_nothing(factor: Factor, data: Dataset) -> None:
    np.testing.assert_array_equal(factors_of(factor, panel_of([[0, 1]]), data), [[1, 1]])


@pytest.mark.parametrize(
    ("make", "match"),
    [(lambda: Expertise(titles=0), "titles 0"), (lambda: Expertise(base=0.0), "base 0.0")],
)
def test_parameters_out_of_range_are_refused(make: Callable[[], Factor], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


# ------------------------------------------------------------------ together


@pytest.mark.parametrize("names", [(), ("activity",), tuple(FACTORS), tuple(FACTORS)[::-1]])
def test_weights_are_the_product_and_changes_say_because_of_what(
    names: tuple[str, ...], data: Dataset
) -> None:
    rng = np.random.default_rng(0)
    users, known = rng.integers(-1, 30, size=(20, 4)), rng.random((2, 20, 4))
    known[rng.random(known.shape) < 0.2] = NAN
    panel = panel_of(users.tolist(), presence=known[0], satisfaction=known[1])
    steps = {name: FACTORS[name].fit(data) for name in names}
    weighed, changes = weigh(panel, steps)
    product = np.prod([np.ones((20, 4)), *(step(panel) for step in steps.values())], axis=0)
    expected = product / product.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(weighed.weights, expected, rtol=1e-5)
    assert weighed.weights.dtype == np.float32
    assert list(changes) == list(names)
    for change in changes.values():
        np.testing.assert_allclose(change.sum(axis=1), 0, atol=1e-6)
    total = 0.25 + sum(changes.values(), np.zeros((20, 4)))
    np.testing.assert_allclose(total, weighed.weights, atol=1e-6)
    np.testing.assert_array_equal(panel.weights, np.full((20, 4), 0.25))
    if names:  # the first change is that of the first factor by itself
        first, _ = weigh(panel, {names[0]: steps[names[0]]})
        np.testing.assert_allclose(0.25 + changes[names[0]], first.weights, atol=1e-6)


# ------------------------------------------------------------------ children


def household(data: Dataset) -> Dataset:
    """Users 0, 1 and 2 are 8, 12 and of unknown age; titles 0 to 3 are for children but for 2."""
    ages = pd.array([8, 12, None, *[40] * (data.shape[0] - 3)], "Int64")
    kinds = ["kids", "movie", "movie", None, *["movie"] * (data.shape[1] - 4)]
    genres = [["News"], ["Drama", "Family"], ["Drama"], ["Kids"], None]
    content = data.content.assign(content_type=kinds, genres=[*genres, *[[]] * (data.shape[1] - 5)])
    return replace(data, users=data.users.assign(age=ages), content=content)


def shown(data: Dataset, users: list[int], suitability: Suitability | None = None) -> list[bool]:
    step = (suitability or Suitability()).fit(data)
    return step(np.array([users]), np.array([[0, 1, 2, 3, 4]]))[0].tolist()


@pytest.mark.parametrize("users", [[0], [0, 1], [5, 0, -1]])
def test_with_a_child_there_is_only_what_is_for_children(users: list[int], data: Dataset) -> None:
    assert shown(household(data), users) == [True, True, False, True, False]


@pytest.mark.parametrize("users", [[1], [2], [-1], [2, -1, 1, 7]])
def test_guests_and_people_of_unknown_age_are_no_children(users: list[int], data: Dataset) -> None:
    assert shown(household(data), users) == [True] * 5


def test_what_is_for_children_and_who_is_one_can_be_said(data: Dataset) -> None:
    home = household(data)
    drama = Suitability(age=13, content_types=(), genres=("Drama",))
    assert shown(home, [1], drama) == [False, True, True, False, False]
    assert shown(home, [0], Suitability(age=8)) == [True] * 5


def test_groups_and_candidates_have_rows_of_their_own(data: Dataset) -> None:
    step = Suitability().fit(household(data))
    found = step(np.array([[0, 5], [1, 5]]), np.array([[2, 0], [2, 0]]))
    np.testing.assert_array_equal(found, [[False, True], [True, True]])


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        (["content_type"], [False, True, False, True, False]),
        (["genres"], [True, False, False, False, False]),
        (["content_type", "genres"], [False] * 5),
    ],
)
def test_a_column_that_is_not_there_tells_nothing(
    missing: list[str], expected: list[bool], data: Dataset
) -> None:
    home = household(data)
    bare = replace(home, content=home.content.drop(columns=missing))
    assert shown(bare, [0]) == expected
    ageless = replace(home, users=home.users.drop(columns="age"))
    assert shown(ageless, [0]) == [True] * 5
