from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, sparse

from firetv.features import Features
from firetv.lifts import (
    Lifts,
    _Events,
    _maximise,
    _squares,
    learn_lifts,
    learn_shrinkage,
    shrunk_log_lift,
)

ITEMS = 40
VALUES = ("morning", "evening", "night")


def one_genre_each(genres: int = 4) -> Features:
    """Item i has the genre i modulo their number."""
    matrix = np.eye(genres, dtype=np.float32)[np.arange(ITEMS) % genres]
    return Features(sparse.csr_array(matrix), tuple(f"genre:g{g}" for g in range(genres)))


def draw(rng: np.random.Generator, log_weights: np.ndarray) -> np.ndarray:
    """One column of each row, with probabilities in proportion to the exponentials."""
    return (log_weights + rng.gumbel(size=log_weights.shape)).argmax(axis=1)


def learned(
    codes: np.ndarray,
    items: np.ndarray,
    users: np.ndarray,
    genres: int = 4,
    prior: np.ndarray | None = None,
    strata: tuple[np.ndarray, ...] = (),
) -> Lifts:
    n_values = codes.max() + 1
    prior = np.zeros((n_values, genres)) if prior is None else prior
    return learn_lifts(
        VALUES[:n_values], codes, items, users, one_genre_each(genres), prior, strata
    )


def planted(seed: int, events: int, planted_deviation: float, users: int = 300) -> tuple:
    """Log-lifts, and what is learned from events without habits that follow them."""
    rng = np.random.default_rng(seed)
    lift = rng.normal(0, planted_deviation, (len(VALUES), 4))
    user, item = rng.integers(users, size=events), rng.integers(ITEMS, size=events)
    return lift, learned(draw(rng, lift[:, item % 4].T), item, user)


def shown(lifts: Lifts, log_lift: np.ndarray) -> np.ndarray:
    """Other log-lifts of values x attributes, against the base rate as the table has them."""
    return lifts.contrast() @ np.column_stack([np.zeros(len(log_lift)), log_lift]).ravel()


# The logit


@pytest.fixture
def few() -> _Events:
    """Sixty events of three values and seven items, of two families and some of unknown genre."""
    rng = np.random.default_rng(0)
    shares = np.zeros((7, 5))
    shares[np.arange(6), np.arange(6) % 3] = 0.5
    shares[np.arange(6), (np.arange(6) + 1 + np.arange(6) // 3) % 3] += 0.5
    shares[np.arange(7), 3 + np.arange(7) % 2] = 1
    return _Events.of(
        rng.integers(3, size=60), rng.integers(7, size=60), sparse.csr_array(shares), 3
    )


def dense_log_posterior(
    flat: np.ndarray, events: _Events, offset: np.ndarray, mean: np.ndarray, precision: np.ndarray
) -> float:
    """Written out event by event."""
    theta = flat.reshape(mean.shape)
    total = -(precision * (theta - mean).ravel() ** 2).sum() / 2
    for code, item, row in zip(events.codes, events.items, offset, strict=True):
        logits = theta @ events.design.toarray()[item] + row
        total += logits[code] - np.log(np.exp(logits).sum())
    return total


def test_squares_are_the_outer_products_of_rows() -> None:
    rows = sparse.random_array((9, 5), density=0.4, rng=np.random.default_rng(3), format="csr")
    dense = rows.toarray()
    dense[4] = 0
    expected = np.einsum("ni,nj->nij", dense, dense).reshape(9, 25)
    np.testing.assert_allclose(_squares(sparse.csr_array(dense)).toarray(), expected)


def test_gradient_and_information_agree_with_finite_differences(few: _Events) -> None:
    rng = np.random.default_rng(1)
    theta, offset = rng.normal(size=(3, 6)), rng.normal(size=(60, 3))
    free = np.zeros(theta.size)

    def value(flat: np.ndarray) -> float:
        return dense_log_posterior(flat, few, offset, np.zeros((3, 6)), free)

    def slope(flat: np.ndarray) -> np.ndarray:
        return few.gradient(few.probabilities(flat.reshape(3, 6), offset)).ravel()

    p = few.probabilities(theta, offset)
    assert few.log_likelihood(theta, offset) == pytest.approx(value(theta.ravel()))
    numeric = optimize.approx_fprime(theta.ravel(), value, 1e-6)
    np.testing.assert_allclose(few.gradient(p).ravel(), numeric, atol=1e-4)
    curvature = -optimize.approx_fprime(theta.ravel(), slope, 1e-6)
    np.testing.assert_allclose(few.information(p), curvature, atol=1e-4)


def test_the_users_parts_add_up_to_the_gradient(few: _Events) -> None:
    p = few.probabilities(np.random.default_rng(2).normal(size=(3, 6)), np.zeros((60, 3)))
    scores = few.scores(p, np.arange(60) % 11)
    assert scores.shape == (11, 18)
    np.testing.assert_allclose(scores.sum(axis=0), few.gradient(p).ravel())
    alone = few.scores(p, np.arange(60))
    np.testing.assert_allclose(scores[4], alone[4::11].sum(axis=0))


def test_the_mode_agrees_with_a_general_optimiser(few: _Events) -> None:
    rng = np.random.default_rng(4)
    offset, mean = rng.normal(size=(60, 3)), rng.normal(size=(3, 6))
    precision = rng.uniform(0.5, 20, size=18)
    arguments = few, offset, mean, precision
    oracle = optimize.minimize(lambda flat: -dense_log_posterior(flat, *arguments), np.zeros(18))
    theta, inverse = _maximise(few, np.zeros((3, 6)), offset, mean, precision)
    np.testing.assert_allclose(theta.ravel(), oracle.x, atol=0.01)
    curvature = few.information(few.probabilities(theta, offset)) + np.diag(precision)
    np.testing.assert_allclose(inverse @ curvature, np.eye(18), atol=1e-8)


# What is learned


def test_planted_lifts_are_recovered() -> None:
    lift, lifts = planted(0, events=30_000, planted_deviation=0.5)
    error = lifts.table()["log_lift"] - shown(lifts, lift)
    assert np.abs(error).max() < 0.1


def test_how_much_lifts_deviate_is_learned() -> None:
    found = [planted(seed, 4000, planted_deviation=0.5)[1].deviation["genre"] for seed in range(10)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.1)


def test_lifts_are_near_zero_where_context_does_nothing() -> None:
    found = [planted(seed, events=6000, planted_deviation=0)[1] for seed in range(8)]
    assert np.mean([lifts.deviation["genre"] for lifts in found]) < 0.1
    assert np.mean([lifts.table()["log_lift"].abs().max() for lifts in found]) < 0.08


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    held = []
    for seed in range(40):
        lift, lifts = planted(seed, events=4000, planted_deviation=0.4)
        table, truth = lifts.table(confidence=0.9), shown(lifts, lift)
        held.append((table["low"] <= truth) & (truth <= table["high"]))
    assert 0.82 < np.mean(held) < 0.96


def test_a_higher_confidence_asks_for_wider_intervals() -> None:
    _, lifts = planted(0, events=2000, planted_deviation=0.4)
    narrow, wide = lifts.table(0.5), lifts.table(0.95)
    ratio = (wide["high"] - wide["low"]) / (narrow["high"] - narrow["low"])
    np.testing.assert_allclose(ratio, 1.959964 / 0.674490, rtol=1e-5)
    np.testing.assert_array_equal(narrow["log_lift"], wide["log_lift"])


def test_users_who_differ_in_their_lifts_make_intervals_wider() -> None:
    rng = np.random.default_rng(0)
    user, item = rng.integers(60, size=6000), rng.integers(ITEMS, size=6000)
    own = rng.normal(0, 0.5, (3, 4)) + rng.normal(0, 0.7, (60, 3, 4))
    codes = draw(rng, own[user, :, item % 4])
    alike, strangers = learned(codes, item, user), learned(codes, item, np.arange(6000))
    width = [(t["high"] - t["low"]).mean() for t in (alike.table(), strangers.table())]
    assert width[0] > 1.4 * width[1]


@pytest.mark.parametrize("users", [1, 2])
def test_a_household_of_few_gives_no_false_certainty(users: int) -> None:
    rng = np.random.default_rng(0)
    item = rng.integers(ITEMS, size=3000)
    codes = draw(rng, rng.normal(0, 0.5, (3, 4))[:, item % 4].T)
    few, many = (learned(codes, item, np.arange(3000) % n) for n in (users, 3000))
    width = [(t["high"] - t["low"]).mean() for t in (few.table(), many.table())]
    assert width[0] > 0.8 * width[1]


@pytest.mark.parametrize("rule", [0.0, np.log(3)])
def test_a_thin_cell_stays_near_its_prior(rule: float) -> None:
    """Four events of a genre, all at night, among thousands that follow the prior closely."""
    rng = np.random.default_rng(0)
    prior = np.zeros((3, 4))
    prior[0] = [rule, rule, 0, 0]
    item, user = rng.integers(ITEMS, size=4000), rng.integers(200, size=4000)
    item = np.where(item % 4 == 0, item + 1, item)
    lift = prior + rng.normal(0, 0.1, prior.shape)
    codes = draw(rng, lift[:, item % 4].T)
    item[:4], codes[:4] = 0, 2
    lifts = learned(codes, item, user, prior=prior)
    assert lifts.counts[:, 0].tolist() == [0, 0, 4]
    cells = lifts.coefficients[:, 1] - lifts.coefficients[1, 1]
    assert cells[0] == pytest.approx(rule, abs=0.15)
    assert 0 < cells[2] < 0.3  # and the four events still say something


def test_much_evidence_overrules_a_rule() -> None:
    rng = np.random.default_rng(0)
    prior = np.zeros((3, 4))
    prior[2, 0] = np.log(2)
    item, user = rng.integers(ITEMS, size=20_000), rng.integers(300, size=20_000)
    codes = draw(rng, -prior[:, item % 4].T)
    lifts = learned(codes, item, user, prior=prior)
    found = lifts.table()["log_lift"].to_numpy()
    np.testing.assert_allclose(found, shown(lifts, -prior), atol=0.12)


def owls_and_larks(share: float) -> tuple[np.ndarray, ...]:
    """Owls like the first genre and larks the last, and each keeps to their own hours."""
    rng = np.random.default_rng(0)
    user = rng.integers(200, size=8000)
    owl = user % 2 == 0
    taste = np.log([[0.1, 0.2, 0.1, 0.6], [0.6, 0.2, 0.1, 0.1]])
    item = draw(rng, taste[owl.astype(int)]) + 4 * rng.integers(ITEMS // 4, size=8000)
    codes = (rng.random(8000) < np.where(owl, share, 1 - share)).astype(int)
    return codes, item, user


@pytest.mark.parametrize("share", [0.7, 0.9])
def test_those_who_keep_to_the_night_lend_it_little_of_their_taste(share: float) -> None:
    codes, item, user = owls_and_larks(share)
    naive = learned(codes, item, np.arange(8000)).table()["log_lift"].to_numpy()
    found = learned(codes, item, user).table()["log_lift"].to_numpy()
    assert np.abs(naive).max() > 0.25
    assert np.abs(found).max() < 0.35 * np.abs(naive).max()


def test_habits_neither_hide_lifts_nor_spoil_their_intervals() -> None:
    held, slopes = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        lift, habit = rng.normal(0, 0.5, (3, 4)), rng.normal(0, 1, (200, 3))
        user, item = rng.integers(200, size=20_000), rng.integers(ITEMS, size=20_000)
        lifts = learned(draw(rng, lift[:, item % 4].T + habit[user]), item, user)
        table, truth = lifts.table(), shown(lifts, lift)
        held.append((table["low"] <= truth) & (truth <= table["high"]))
        slopes.append(table["log_lift"] @ truth / (truth @ truth))
    assert np.mean(slopes) == pytest.approx(1, abs=0.06)
    assert np.mean(held) > 0.75


def test_strata_take_a_confounder_apart() -> None:
    """People sit up in the evening at weekends, and watch the first genre at weekends."""
    rng = np.random.default_rng(0)
    weekend, user = rng.integers(2, size=8000), rng.integers(400, size=8000)
    evening = (rng.random(8000) < np.where(weekend, 0.8, 0.3)).astype(int)
    taste = np.log([[0.1, 0.3, 0.3, 0.3], [0.55, 0.15, 0.15, 0.15]])
    item = draw(rng, taste[weekend]) + 4 * rng.integers(ITEMS // 4, size=8000)
    naive = learned(evening, item, user).table()["log_lift"]
    found = learned(evening, item, user, strata=(weekend,)).table()["log_lift"]
    assert naive.abs().max() > 0.3
    assert found.abs().max() < 0.06


# What is shown


def test_log_lifts_average_to_one_over_contexts_and_over_events() -> None:
    _, lifts = planted(1, events=3000, planted_deviation=0.8)
    attributes = sparse.csr_array(np.vstack([np.eye(4), np.full((1, 4), 0.25), np.zeros((1, 4))]))
    lift = np.exp(lifts.log_lift(attributes))
    assert lift.shape == (3, 6)
    np.testing.assert_allclose(lifts.usual @ lift, 1)
    watched = lifts.counts.sum(axis=0) / lifts.counts.sum()
    np.testing.assert_allclose(lift[:, :4] @ watched, 1)
    np.testing.assert_allclose(lifts.usual, lifts.share, atol=0.02)  # there are no habits


def test_log_lifts_are_bayes_rule() -> None:
    """With much data, the share of an attribute in a context over its share in general."""
    rng = np.random.default_rng(5)
    item = rng.integers(ITEMS, size=40_000)
    codes = draw(rng, rng.normal(0, 0.5, (3, 4))[:, item % 4].T)
    count = np.zeros((3, 4))
    np.add.at(count, (codes, item % 4), 1)
    share = count / count.sum(axis=1, keepdims=True) / (count.sum(axis=0) / count.sum())
    lifts = learned(codes, item, np.arange(40_000))
    np.testing.assert_allclose(lifts.counts, count)
    np.testing.assert_allclose(
        lifts.log_lift(sparse.eye_array(4).tocsr()), np.log(share), atol=0.01
    )


def test_the_table_is_centred_over_contexts_and_levels() -> None:
    _, lifts = planted(2, events=3000, planted_deviation=0.8)
    found = lifts.table()["log_lift"].to_numpy().reshape(3, 4)
    np.testing.assert_allclose(lifts.share @ found, 0, atol=1e-12)
    np.testing.assert_allclose(found @ lifts.counts.sum(axis=0), 0, atol=1e-9)
    contrast = lifts.contrast()
    assert contrast.shape == (12, 15)
    constant = np.ones((3, 5)) * [[1.0], [-2.0], [0.5]]  # the same for all attributes of a value
    np.testing.assert_allclose(contrast @ constant.ravel(), 0, atol=1e-12)


def test_families_are_centred_each_by_itself() -> None:
    rng = np.random.default_rng(6)
    matrix = np.zeros((ITEMS, 5))
    matrix[np.arange(ITEMS), np.arange(ITEMS) % 3] = 1
    matrix[np.arange(ITEMS), 3 + np.arange(ITEMS) % 2] = 1
    names = ("genre:a", "genre:b", "genre:c", "type:a", "type:b")
    attributes = Features(sparse.csr_array(matrix), names)
    item, user = rng.integers(ITEMS, size=2000), rng.integers(50, size=2000)
    codes = draw(rng, matrix[item] @ rng.normal(size=(5, 2)))
    lifts = learn_lifts(VALUES[:2], codes, item, user, attributes, np.zeros((2, 5)))
    found = lifts.table()["log_lift"].to_numpy().reshape(2, 5)
    watched = lifts.counts.sum(axis=0)
    np.testing.assert_allclose(found[:, :3] @ watched[:3], 0, atol=1e-9)
    np.testing.assert_allclose(found[:, 3:] @ watched[3:], 0, atol=1e-9)
    assert set(lifts.deviation) == {"genre", "type"}


def test_titles_of_which_nothing_is_known_are_not_lifted() -> None:
    empty = Features(sparse.csr_array((ITEMS, 0), dtype=np.float32), ())
    codes, item = np.arange(60) % 3, np.arange(60) % ITEMS
    lifts = learn_lifts(VALUES, codes, item, np.arange(60) % 7, empty, np.zeros((3, 0)))
    assert lifts.table().empty
    np.testing.assert_allclose(lifts.log_lift(empty.matrix), 0, atol=0.01)


def test_a_single_value_lifts_nothing() -> None:
    lifts = learned(np.zeros(80, int), np.arange(80) % ITEMS, np.arange(80) % 9)
    table = lifts.table()
    assert (table[["log_lift", "low", "high"]].abs() < 1e-9).all(axis=None)


def test_learning_again_gives_the_same() -> None:
    one, other = planted(3, 1000, 0.5)[1], planted(3, 1000, 0.5)[1]
    np.testing.assert_array_equal(one.coefficients, other.coefficients)
    np.testing.assert_array_equal(one.covariance, other.covariance)


# Items and people


@pytest.mark.parametrize("weight", [0.5, 4.0, 50.0])
def test_the_weight_of_the_prior_is_found_again(weight: float) -> None:
    rng = np.random.default_rng(0)
    expected = rng.uniform(1, 20, size=20_000)
    observed = rng.poisson(expected * rng.gamma(weight, 1 / weight, size=20_000))
    assert learn_shrinkage(observed, expected) == pytest.approx(weight, rel=0.1)


def test_counts_that_vary_by_chance_alone_are_shrunk_away() -> None:
    expected = np.full(20_000, 5.0)
    observed = np.random.default_rng(0).poisson(expected)
    assert learn_shrinkage(observed, expected) > 300


def test_cells_with_nothing_expected_do_not_count() -> None:
    rng = np.random.default_rng(0)
    observed = rng.poisson(3 * rng.gamma(5, 0.2, size=500)).reshape(5, 100)
    expected = np.full((5, 100), 3.0)
    wider = [np.hstack([array, np.zeros((5, 40))]) for array in (observed, expected)]
    assert learn_shrinkage(*wider) == learn_shrinkage(observed, expected)


def test_a_shrunk_lift_lies_between_none_and_the_observed() -> None:
    observed, expected = np.array([0.0, 2.0, 8.0]), np.array([2.0, 2.0, 2.0])
    found = shrunk_log_lift(observed, expected, 2.0)
    np.testing.assert_allclose(np.exp(found), [0.5, 1, 2.5])
    np.testing.assert_allclose(shrunk_log_lift(observed, expected, 1e9), 0, atol=1e-8)
    assert shrunk_log_lift(observed, expected, 1e-9)[2] == pytest.approx(np.log(4))
