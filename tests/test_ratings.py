"""Rating prediction: planted terms, an oracle with dense matrices, and what is not known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal
from scipy import sparse

from firetv.ratings import KINDS, FittedBiases, RatingBiases, tune

EFFECTS = {"alone": -0.4, "friends": 0.0, "family": 0.4}
every_kind = pytest.mark.parametrize("kind", KINDS)


@dataclass(frozen=True)
class Simulated:
    """Ratings around 3 that no limit cuts, and what they are made of."""

    ratings: pd.DataFrame
    contexts: pd.DataFrame
    genres: sparse.csr_array
    users: np.ndarray
    items: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.users), len(self.items)

    def fit(self, model: RatingBiases, rows: slice = slice(None)) -> FittedBiases:
        return model.fit(self.ratings[rows], self.contexts[rows], self.genres, self.shape)


def simulate(planted: str = "C", n: int = 4000, n_users: int = 40, n_items: int = 30) -> Simulated:
    """Plant effects of company: none, the same everywhere, by genre, or by item."""
    rng = np.random.default_rng(0)
    users, items = rng.normal(0, 0.5, n_users), rng.normal(0, 0.5, n_items)
    user, item = rng.integers(n_users, size=n), rng.integers(n_items, size=n)
    genre = rng.integers(2, size=n_items)
    company = rng.choice(list(EFFECTS), size=n)
    signs = {
        "none": np.zeros(n_items),
        "C": np.ones(n_items),
        "CC": np.where(genre, 1, -1),
        "CI": rng.choice([-1, 1], size=n_items),
    }
    effect = pd.Series(company).map(EFFECTS).to_numpy() * signs[planted][item]
    rating = 3 + users[user] + items[item] + effect + rng.normal(0, 0.3, n)
    return Simulated(
        pd.DataFrame({"user": user, "item": item, "rating": rating}),
        pd.DataFrame({"company": company, "noise": rng.choice(["x", "y"], size=n)}),
        sparse.csr_array(np.eye(2, dtype=np.float32)[genre]),
        users,
        items,
    )


def error(data: Simulated, model: RatingBiases) -> float:
    """RMSE on the last quarter, learned from the rest."""
    cut = len(data.ratings) * 3 // 4
    fitted, held = data.fit(model, slice(cut)), slice(cut, None)
    predicted = fitted.predict(data.ratings[held], data.contexts[held])
    return float(np.sqrt(np.square(predicted - data.ratings["rating"][held].clip(1, 5)).mean()))


def values(fitted: FittedBiases) -> list[str]:
    return [f"{name}:{value}" for name, of in fitted.levels.items() for value in of]


# --- Planted terms ---


def test_planted_terms_are_found() -> None:
    data = simulate("C")
    fitted = data.fit(RatingBiases("C", reg_user=0.1, reg_item=0.1, reg_context=0.1))
    assert_allclose(fitted.users - fitted.users.mean(), data.users - data.users.mean(), atol=0.12)
    assert_allclose(fitted.items - fitted.items.mean(), data.items - data.items.mean(), atol=0.12)
    terms = dict(zip(values(fitted), fitted.context, strict=True))
    middle = terms["company:friends"]
    assert terms["company:alone"] - middle == pytest.approx(-0.4, abs=0.05)
    assert terms["company:family"] - middle == pytest.approx(0.4, abs=0.05)
    assert terms["noise:x"] - terms["noise:y"] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("planted", KINDS[1:])
def test_context_helps_where_it_was_planted(planted: str) -> None:
    data = simulate(planted)
    models = [RatingBiases(kind, reg_context=1) for kind in KINDS]
    errors = dict(zip(KINDS, (error(data, model) for model in models), strict=True))
    assert errors[planted] < errors["none"] - 0.04
    assert errors[planted] == min(errors.values())


@pytest.mark.parametrize("kind", KINDS[1:])
def test_context_helps_nowhere_else(kind: str) -> None:
    data = simulate("none")
    assert error(data, RatingBiases(kind)) > error(data, RatingBiases("none")) - 0.002


# --- Exactness ---

TINY = pd.DataFrame(
    {"user": [0, 0, 1, 2, 2, 1], "item": [0, 1, 1, 0, 2, 2], "rating": [5, 3, 4, 4, 1, 2]}
)
TINY_CONTEXTS = pd.DataFrame(
    {
        "company": ["alone", "family", None, "alone", "family", "alone"],
        "weather": ["sunny", "rainy", "rainy", None, None, "sunny"],
    }
)
TINY_GENRES = sparse.csr_array(np.array([[1, 1], [0, 1], [0, 0]], np.float32))
TINY_SHAPE = 3, 3


def dense_terms(model: RatingBiases) -> np.ndarray:
    """Solve the normal equations of :data:`TINY`, term by term as the paper has them."""
    pairs = [
        ("company", "alone"),
        ("company", "family"),
        ("weather", "rainy"),
        ("weather", "sunny"),
    ]
    shares = {
        "none": np.zeros((3, 0)),
        "C": np.ones((3, 1)),
        "CC": np.array([[0.5, 0.5], [0, 1], [0, 0]]),
        "CI": np.eye(3),
    }[model.context]
    design = []
    for (user, item, _), context in zip(TINY.to_numpy(), TINY_CONTEXTS.to_numpy(), strict=True):
        holds = dict(zip(TINY_CONTEXTS, context, strict=True))
        on = np.array([holds[name] == value for name, value in pairs], float)
        design.append(np.concatenate([np.eye(3)[user], np.eye(3)[item], np.kron(on, shares[item])]))
    x = np.array(design)
    penalty = np.full(x.shape[1], float(model.reg_context))
    penalty[:3], penalty[3:6] = model.reg_user, model.reg_item
    y = TINY["rating"].to_numpy(float)
    return np.linalg.solve(x.T @ x + np.diag(penalty), x.T @ (y - y.mean()))


def fit_tiny(model: RatingBiases) -> FittedBiases:
    return model.fit(TINY, TINY_CONTEXTS, TINY_GENRES, TINY_SHAPE)


@every_kind
def test_agrees_with_dense_normal_equations(kind: str) -> None:
    model = RatingBiases(kind, reg_user=0.5, reg_item=2, reg_context=3)
    fitted = fit_tiny(model)
    terms = np.concatenate([fitted.users, fitted.items, fitted.context])
    assert_allclose(terms, dense_terms(model), atol=1e-8)
    assert fitted.mean == pytest.approx(19 / 6)


def test_a_heavy_penalty_silences_its_own_terms_only() -> None:
    fitted = fit_tiny(RatingBiases("C", reg_user=1, reg_item=1, reg_context=1e9))
    bare = fit_tiny(RatingBiases("none", reg_user=1, reg_item=1))
    assert_allclose(fitted.context, 0, atol=1e-6)
    assert_allclose(fitted.users, bare.users, atol=1e-6)
    assert_allclose(fitted.items, bare.items, atol=1e-6)


# --- What is not known ---


@every_kind
def test_unknown_users_items_and_values_have_no_term(kind: str) -> None:
    fitted = fit_tiny(RatingBiases(kind, reg_user=1, reg_item=1, reg_context=1))
    ratings = pd.DataFrame({"user": [-1, 0, -1, 0], "item": [-1, -1, 1, 1]})
    contexts = pd.DataFrame({"company": ["strangers"] * 4, "weather": [None] * 4})
    user, item = fitted.users[0], fitted.items[1]
    expected = fitted.mean + np.array([0, user, item, user + item])
    assert_allclose(fitted.predict(ratings, contexts), expected)


def test_an_unknown_item_keeps_the_terms_that_all_items_share() -> None:
    ratings = pd.DataFrame({"user": [-1], "item": [-1]})
    contexts = pd.DataFrame({"company": ["family"], "weather": [None]})
    shared, by_genre, by_item = (fit_tiny(RatingBiases(kind)) for kind in KINDS[1:])
    expected = shared.mean + shared.context[1]
    assert_allclose(shared.predict(ratings, contexts), expected)
    assert_allclose(by_genre.predict(ratings, contexts), by_genre.mean)
    assert_allclose(by_item.predict(ratings, contexts), by_item.mean)


@every_kind
def test_without_any_context_only_biases_are_left(kind: str) -> None:
    nothing = pd.DataFrame({"company": pd.Series([None] * len(TINY), dtype="str")})
    fitted = RatingBiases(kind).fit(TINY, nothing, TINY_GENRES, TINY_SHAPE)
    bare = fit_tiny(RatingBiases("none"))
    assert_allclose(fitted.predict(TINY, nothing), bare.predict(TINY, TINY_CONTEXTS))


def test_predictions_stay_on_the_scale() -> None:
    extreme = replace(fit_tiny(RatingBiases("none")), users=np.array([9.0, -9.0, 0.0]))
    assert_array_equal(extreme.predict(TINY, TINY_CONTEXTS)[:3], [5, 5, 1])


# --- Manners ---


@every_kind
def test_a_refit_repeats_and_changes_no_input(kind: str) -> None:
    data = simulate(n=300)
    before = data.ratings.copy(), data.contexts.copy(), data.genres.copy()
    first, again = (data.fit(RatingBiases(kind)) for _ in range(2))
    for name in ("users", "items", "context"):
        assert_array_equal(getattr(first, name), getattr(again, name))
    predicted = first.predict(data.ratings, data.contexts)
    assert predicted.dtype == np.float64
    assert_frame_equal(data.ratings, before[0])
    assert_frame_equal(data.contexts, before[1])
    assert (data.genres != before[2]).nnz == 0


@every_kind
def test_rows_belong_together_by_position_and_columns_by_name(kind: str) -> None:
    fitted = fit_tiny(RatingBiases(kind))
    order = [3, 1, 0, 5, 2, 4]
    turned = TINY_CONTEXTS.iloc[order][["weather", "company"]].set_axis(range(10, 16))
    predicted = fitted.predict(TINY.iloc[order], turned)
    assert_allclose(predicted, fitted.predict(TINY, TINY_CONTEXTS)[order])
    refitted = RatingBiases(kind).fit(TINY.iloc[order], turned, TINY_GENRES, TINY_SHAPE)
    assert_allclose(refitted.predict(TINY, TINY_CONTEXTS)[order], predicted)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        fit_tiny(RatingBiases(reg_item=0))
    with pytest.raises(ValueError, match="one of none, C, CC, CI"):
        fit_tiny(RatingBiases("cc"))
    with pytest.raises(ValueError, match="needs the genres"):
        RatingBiases("CC").fit(TINY, TINY_CONTEXTS, None, TINY_SHAPE)


# --- Tuning ---


def tuned(data: Simulated, *candidates: RatingBiases, seed: int = 0) -> RatingBiases:
    return tune(candidates, data.ratings, data.contexts, data.genres, data.shape, seed)


def test_tuning_finds_what_was_planted() -> None:
    candidates = [RatingBiases("none"), RatingBiases("C"), RatingBiases("C", reg_context=1e5)]
    assert tuned(simulate("C"), *candidates) == candidates[1]
    assert tuned(simulate("C"), *candidates[::-1], seed=1) == candidates[1]
    strong, weak = RatingBiases("CI", reg_context=1e4), RatingBiases("CI", reg_context=1)
    assert tuned(simulate("none", n=400), weak, strong) == strong


def test_of_equal_candidates_the_first_is_chosen() -> None:
    one, other = RatingBiases("none", reg_context=1), RatingBiases("none", reg_context=2)
    assert tuned(simulate(n=300), one, other) == one
    assert tuned(simulate(n=300), other, one) == other
