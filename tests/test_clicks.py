"""Click models against enumeration of everything that readers may do."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from firetv.clicks import Cascade, ClickModel, PositionBased

MODELS: tuple[ClickModel, ...] = (
    PositionBased(),
    PositionBased(decay=0),
    PositionBased(decay=2.5),
    Cascade(),
    Cascade(stay=1, go_on=0),
    Cascade(stay=0.7, go_on=0.95),
    Cascade(stay=1, go_on=1),
)
LISTS = np.array([[0.5, 0.2, 0.9, 0.4], [1.0, 0.0, 0.3, 1.0], [0.0, 0.0, 0.0, 0.0]])


def enumerated(model: ClickModel, liked: np.ndarray) -> dict[tuple[int, ...], float]:
    """Probability of each pattern of clicks on one list, by walking through all of them."""
    patterns = {}
    for clicks in product((0, 1), repeat=len(liked)):
        if isinstance(model, PositionBased):
            chances = [p / (position + 1) ** model.decay for position, p in enumerate(liked)]
            patterns[clicks] = np.prod(
                [p if c else 1 - p for p, c in zip(chances, clicks, strict=True)]
            )
            continue
        total, reading = 0.0, 1.0  # stopped so far with this pattern; still reading
        for position, (p, click) in enumerate(zip(liked, clicks, strict=True)):
            reading *= p if click else 1 - p
            onward = model.go_on if click else model.stay
            last = position == len(liked) - 1
            if not any(clicks[position + 1 :]):
                total += reading * (1 if last else 1 - onward)
            reading *= onward
        patterns[clicks] = total
    return patterns


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_expected_clicks_are_those_of_all_patterns(model: ClickModel) -> None:
    found = model.expected(LISTS)
    for liked, row in zip(LISTS, found, strict=True):
        patterns = enumerated(model, liked)
        assert sum(patterns.values()) == pytest.approx(1, abs=1e-12)
        expected = sum(p * np.array(clicks) for clicks, p in patterns.items())
        np.testing.assert_allclose(row, expected, atol=1e-12)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_drawn_patterns_are_as_frequent_as_they_should_be(model: ClickModel) -> None:
    n, liked = 40_000, LISTS[0]
    drawn = model.draw(np.tile(liked, (n, 1)), np.random.default_rng(1))
    assert drawn.dtype == bool
    for clicks, p in enumerated(model, liked).items():
        share = (drawn == clicks).all(axis=1).mean()
        # 16 patterns x 7 models: five deviations leave a false alarm of one in ten thousand.
        assert share == pytest.approx(p, abs=5 * np.sqrt(p * (1 - p) / n) + 1e-12)


def test_numbers_written_out() -> None:
    liked = np.array([[0.5, 0.4, 0.2]])
    position = PositionBased(decay=2)
    np.testing.assert_allclose(position.examination(3), [1, 1 / 4, 1 / 9])
    np.testing.assert_allclose(position.expected(liked), [[0.5, 0.1, 0.2 / 9]])
    cascade = Cascade(stay=0.8, go_on=0.2)
    # Read on after the first: 0.5 * 0.2 + 0.5 * 0.8; after the second: 0.4 * 0.2 + 0.6 * 0.8.
    np.testing.assert_allclose(cascade.reached(liked), [[1, 0.5, 0.5 * 0.56]])
    np.testing.assert_allclose(cascade.expected(liked), [[0.5, 0.2, 0.2 * 0.28]])


def test_without_position_bias_everything_is_looked_at() -> None:
    np.testing.assert_array_equal(PositionBased(decay=0).expected(LISTS), LISTS)
    np.testing.assert_array_equal(Cascade(stay=1, go_on=1).expected(LISTS), LISTS)


def test_the_pure_cascade_clicks_once_at_most() -> None:
    drawn = Cascade(stay=1, go_on=0).draw(np.full((5000, 6), 0.4), np.random.default_rng(0))
    assert set(drawn.sum(axis=1)) == {0, 1}


def test_whoever_never_reads_on_clicks_the_first_only() -> None:
    drawn = Cascade(stay=0, go_on=0).draw(np.ones((50, 3)), np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, np.tile([True, False, False], (50, 1)))


def test_what_stands_above_matters_in_a_cascade_alone() -> None:
    above, below = np.array([[0.9, 0.5]]), np.array([[0.1, 0.5]])
    cascade = Cascade(stay=0.9, go_on=0.3)
    assert cascade.expected(above)[0, 1] < 0.6 * cascade.expected(below)[0, 1]
    position = PositionBased()
    assert position.expected(above)[0, 1] == position.expected(below)[0, 1]


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_draws_repeat_and_leave_their_input_alone(model: ClickModel) -> None:
    liked = LISTS.copy()
    first, again = (model.draw(liked, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(liked, LISTS)
    assert not first[2].any()


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_one_position_and_no_lists_are_fine(model: ClickModel) -> None:
    np.testing.assert_array_equal(model.expected(np.array([[0.3]])), [[0.3]])
    assert model.draw(np.zeros((0, 4)), np.random.default_rng(0)).shape == (0, 4)


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize(
    ("attraction", "message"),
    [
        ([[0.5, 1.2], [-0.1, 0.0]], "2 attractions are not probabilities: give 0 in an empty"),
        ([[np.nan]], "1 attractions are not probabilities"),
        ([0.5, 0.5], r"shape \(2,\): give a row per list"),
        ([[]], r"shape \(1, 0\): give a row per list"),
    ],
)
def test_attractions_are_checked(model: ClickModel, attraction: list, message: str) -> None:
    for act in (model.expected, lambda a: model.draw(a, np.random.default_rng(0))):
        with pytest.raises(ValueError, match=message):
            act(np.array(attraction))


@pytest.mark.parametrize("decay", [-0.1, np.nan, np.inf])
def test_decay_is_checked(decay: float) -> None:
    with pytest.raises(ValueError, match="must be a number from 0: 0 is no position bias"):
        PositionBased(decay)


@pytest.mark.parametrize("wrong", [{"stay": 1.1}, {"go_on": -0.1}, {"stay": np.nan}])
def test_probabilities_of_the_cascade_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} .* must be a probability, 0 to 1"):
        Cascade(**wrong)
