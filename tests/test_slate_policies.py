"""Policies that make lists, and estimators of their value, against all lists written out."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from math import perm

import numpy as np
import pytest
from scipy import stats

from firetv import off_policy
from firetv.slate_policies import (
    ESTIMATORS,
    WEIGHTS,
    PlackettLuce,
    Propensities,
    SlateLog,
    cascade_dr,
    cascade_weights,
    examined_weights,
    item_position,
    item_position_sn,
    place_weights,
    position_based,
    rips,
    rips_sn,
    slate_ips,
    slate_snips,
)

A, K = 4, 3
LISTS = np.array(list(permutations(range(A), K)))
CONTEXT = np.array([0.7, 0.3])
RNG = np.random.default_rng(0)
LOGGING = RNG.normal(size=(2, A))
NEW = 1.5 * RNG.normal(size=(2, A))
ATTRACTION = RNG.random((2, A))
EXAMINATION = np.array([1.0, 0.6, 0.3])


def chance(scores: np.ndarray, temperature: float, slate: tuple[int, ...]) -> float:
    """Probability of a list, title by title."""
    rate, total = np.exp(scores / temperature), 1.0
    for position, title in enumerate(slate):
        left = [b for b in range(len(scores)) if b not in slate[:position]]
        total *= rate[title] / rate[left].sum()
    return total


# Two contexts, 24 lists, all that may happen: rows are contexts x lists.
ROW = np.repeat([0, 1], len(LISTS))
SLATES = np.tile(LISTS, (2, 1))
BASE = np.array([chance(LOGGING[c], 1.0, s) for c, s in zip(ROW, SLATES.tolist(), strict=True)])
WANTED = np.array([chance(NEW[c], 1.0, s) for c, s in zip(ROW, SLATES.tolist(), strict=True)])
LIKED = np.take_along_axis(ATTRACTION[ROW], SLATES, axis=1)


def log_of(reward: np.ndarray, predicted: np.ndarray | None = None) -> tuple:
    """A log of all that may happen, the target, and how likely each row is."""
    logged = PlackettLuce(LOGGING[ROW]).propensities(SLATES)
    target = PlackettLuce(NEW[ROW]).propensities(SLATES)
    log = SlateLog(SLATES, reward, logged, EXAMINATION, predicted)
    return log, target, CONTEXT[ROW] * BASE


def above(values: np.ndarray) -> np.ndarray:
    """What stands above each position, multiplied."""
    return np.cumprod(np.hstack([np.ones((len(values), 1)), values[:, :-1]]), axis=1)


WORLDS = {
    "position-based": LIKED * EXAMINATION,
    # The title counts differently at each position: an interaction that no examination has.
    "item-position": np.abs(np.sin(7 * LIKED + np.array([0.0, 1.0, 2.0]))),
    "cascade": LIKED * above(1 - 0.8 * LIKED),
    # One title catches the eye, and leads it to the one above.
    "upward": LIKED / 2 + (np.roll(SLATES, -1, axis=1) == 0) * [0.5, 0.5, 0.0],
}
HOLDS = {  # which worlds satisfy what each estimator assumes
    "slate IPS": set(WORLDS),
    "RIPS": {"position-based", "item-position", "cascade"},
    "cascade-DR": {"position-based", "item-position", "cascade"},
    "IIPS": {"position-based", "item-position"},
    "PBM": {"position-based"},
}


def truth(reward: np.ndarray) -> float:
    return float((CONTEXT[ROW] * WANTED) @ reward.sum(axis=1))


# Policies


def test_log_propensities_are_title_by_title() -> None:
    policy = PlackettLuce(np.log([[6.0, 3.0, 1.0]]))
    found = np.exp(policy.log_propensities(np.array([[1, 2, 0]])))
    np.testing.assert_allclose(found, [[3 / 10, 1 / 7, 1]])


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_lists_have_the_probabilities_written_out(temperature: float) -> None:
    policy = PlackettLuce(LOGGING, temperature)
    for k in (1, 2, 3, 4):
        slates, found = policy.enumerate(k)
        assert len(slates) == perm(A, k)
        expected = [[chance(row, temperature, s) for s in slates.tolist()] for row in LOGGING]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        np.testing.assert_allclose(found.sum(axis=1), 1)
        again = PlackettLuce(np.repeat(LOGGING, len(slates), axis=0), temperature)
        sums = again.log_propensities(np.tile(slates, (2, 1))).sum(axis=1)
        np.testing.assert_allclose(np.exp(sums), found.ravel(), rtol=1e-12)


def test_lists_are_drawn_as_often_as_they_should() -> None:
    draws = PlackettLuce(np.tile(LOGGING[0], (20_000, 1)), 0.8).draw(K, np.random.default_rng(0))
    found = draws @ A ** np.arange(K)
    counts = [np.count_nonzero(found == code) for code in LISTS @ A ** np.arange(K)]
    expected = [20_000 * chance(LOGGING[0], 0.8, s) for s in LISTS.tolist()]
    assert stats.chisquare(counts, expected).pvalue > 0.001


def test_draws_repeat_with_their_seed_and_stack() -> None:
    policy = PlackettLuce(RNG.normal(size=(3, 5, 6)))
    first, again, other = (policy.draw(4, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first.shape == (3, 5, 4)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (np.diff(np.sort(first, axis=-1), axis=-1) > 0).all()


def test_a_cold_policy_ranks_by_score() -> None:
    scores = RNG.normal(size=(50, 6))
    slates = PlackettLuce(scores, 1e-4).draw(6, np.random.default_rng(0))
    np.testing.assert_array_equal(slates, np.argsort(-scores, axis=1))


@pytest.mark.parametrize("temperature", [0.05, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_marginals_are_sums_over_all_lists(temperature: float, k: int) -> None:
    policy = PlackettLuce(np.random.default_rng(1).normal(size=(3, 6)), temperature)
    slates, probability = policy.enumerate(k)
    expected = [
        [[row[slates[:, p] == a].sum() for p in range(k)] for a in range(6)] for row in probability
    ]
    found = policy.marginals(k)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-11)


def test_marginals_hold_for_long_lists_and_by_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = PlackettLuce(np.random.default_rng(2).normal(size=(2, 4, 30)))
    found = policy.marginals(12)
    assert found.shape == (2, 4, 30, 12)
    np.testing.assert_allclose(found.sum(axis=-2), 1, atol=1e-11)
    monkeypatch.setattr("firetv.slate_policies.CELLS", 1)
    np.testing.assert_allclose(policy.marginals(12), found, atol=1e-14)


def test_propensities_hold_all_that_is_asked() -> None:
    policy = PlackettLuce(LOGGING)
    slates = np.array([[2, 0, 3], [1, 3, 0]])
    found, places = policy.propensities(slates), policy.marginals(3)
    np.testing.assert_allclose(found.steps, policy.log_propensities(slates))
    np.testing.assert_allclose(found.choices.sum(axis=-1), 1)
    assert found.choices[0, 1, 2] == 0  # shown above
    assert found.choices[0, 1, 0] == pytest.approx(np.exp(found.steps[0, 1]))
    for row in (0, 1):
        np.testing.assert_allclose(found.places[row], places[row][slates[row]])
    known = policy.propensities(slates, places=found.places)
    assert known.places is found.places


def test_scores_are_not_changed() -> None:
    scores = LOGGING.copy()
    policy = PlackettLuce(scores)
    policy.propensities(np.array([[2, 0, 3], [1, 3, 0]]))
    policy.draw(2, np.random.default_rng(0))
    np.testing.assert_array_equal(scores, LOGGING)


# Estimators


def by_hand() -> tuple[SlateLog, Propensities]:
    """Two requests, two positions; weights are simple ratios."""
    logged = Propensities(
        steps=np.log([[0.5, 0.5], [0.25, 1.0]]),
        choices=np.array([[[0.5, 0.5], [0.0, 1.0]], [[0.25, 0.75], [1.0, 0.0]]]),
        places=np.array([[[0.5, 0.2], [0.4, 0.5]], [[0.25, 0.3], [0.6, 0.8]]]),
    )
    target = Propensities(
        steps=np.log([[0.25, 1.0], [0.5, 0.5]]),
        choices=np.array([[[0.25, 0.75], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]]),
        places=np.array([[[0.25, 0.6], [0.2, 1.0]], [[0.5, 0.1], [0.2, 0.4]]]),
    )
    log = SlateLog(
        slates=np.array([[0, 1], [0, 1]]),
        reward=np.array([[1.0, 2.0], [3.0, 1.0]]),
        logged=logged,
        examination=np.array([1.0, 0.5]),
        predicted=np.array([[[2.0, 1.0], [0.0, 1.0]], [[3.0, 2.0], [1.0, 2.0]]]),
    )
    return log, target


def test_weights_are_those_worked_out_by_hand() -> None:
    log, target = by_hand()
    # 0.25 / 0.5, then times 1 / 0.5; 0.5 / 0.25, then times 0.5 / 1.
    np.testing.assert_allclose(cascade_weights(log, target), [[0.5, 1.0], [2.0, 1.0]])
    np.testing.assert_allclose(place_weights(log, target), [[0.5, 2.0], [2.0, 0.5]])
    examined = [[0.55 / 0.6, 0.7 / 0.65], [0.55 / 0.4, 0.4 / 1.0]]
    np.testing.assert_allclose(examined_weights(log, target), examined)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (slate_ips, [3.0, 4.0]),
        (rips, [0.5 + 2, 6 + 1]),
        (item_position, [0.5 + 4, 6 + 0.5]),
        (position_based, [0.55 / 0.6 + 1.4 / 0.65, 1.65 / 0.4 + 0.4]),
        # 0.5 (1 - 2) + 1.25 and 1 (2 - 1) + 0.5 * 1; 2 (3 - 3) + 2.5 and 1 (1 - 2) + 2 * 1.5
        (cascade_dr, [0.75 + 1.5, 2.5 + 2]),
    ],
)
def test_terms_are_those_worked_out_by_hand(estimator: object, expected: list[float]) -> None:
    np.testing.assert_allclose(estimator(*by_hand()), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (slate_snips, 3.5),
        (rips_sn, 6.5 / 2.5 + 3 / 2),
        (item_position_sn, 6.5 / 2.5 + 4.5 / 2.5),
    ],
)
def test_self_normalised_values_are_those_worked_out_by_hand(
    estimator: object, expected: float
) -> None:
    assert estimator(*by_hand()).mean() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", HOLDS)
def test_estimators_are_unbiased_where_their_assumption_holds(name: str, world: str) -> None:
    """Over all contexts and lists; where it does not hold, the bias is real."""
    reward = WORLDS[world]
    guess = np.random.default_rng(3).random((len(ROW), K, A))
    # A model may not look at titles below: the same prediction for all lists that begin alike.
    for position in range(K):
        key = ROW * 1000 + SLATES[:, :position] @ A ** np.arange(position)
        _, first, same = np.unique(key, return_index=True, return_inverse=True)
        guess[:, position] = guess[first[same], position]
    log, target, weight = log_of(reward, guess)
    bias = weight @ ESTIMATORS[name](log, target) - truth(reward)
    if world in HOLDS[name]:
        assert abs(bias) < 1e-9
    else:
        assert abs(bias) > 0.01 * truth(reward)


@pytest.mark.parametrize("name", HOLDS)
def test_less_is_assumed_at_the_price_of_variance(name: str) -> None:
    """In the position-based world all are unbiased, and vary in this order."""
    log, target, weight = log_of(WORLDS["position-based"], np.zeros((len(ROW), K, A)))
    deviation = {
        e: np.sqrt(weight @ (ESTIMATORS[e](log, target) - truth(log.reward)) ** 2) for e in HOLDS
    }
    order = ["slate IPS", "RIPS", "IIPS", "PBM"]
    assert sorted(order, key=deviation.get, reverse=True) == order
    assert deviation["cascade-DR"] == pytest.approx(deviation["RIPS"])


def test_good_predictions_steady_the_cascade() -> None:
    """With the true rewards to come, only what differs between contexts and draws is left."""
    reward = WORLDS["position-based"]
    values = ATTRACTION[ROW][:, np.newaxis] * EXAMINATION[:, np.newaxis]  # of this position alone
    to_come = np.zeros((len(ROW), K, A))
    policies = {
        c: dict(zip(map(tuple, LISTS.tolist()), WANTED[c == ROW], strict=True)) for c in (0, 1)
    }
    for row, (context, slate) in enumerate(zip(ROW, SLATES.tolist(), strict=True)):
        for position in range(K):
            for title in set(range(A)) - set(slate[:position]):
                start = (*slate[:position], title)
                begins = [(s, p) for s, p in policies[context].items() if s[: len(start)] == start]
                rest = sum(
                    p * (ATTRACTION[context, list(s[position:])] @ EXAMINATION[position:])
                    for s, p in begins
                )
                to_come[row, position, title] = rest / sum(p for _, p in begins)
    assert (to_come[:, -1] >= 0).all()
    np.testing.assert_allclose(to_come[0, -1, SLATES[0, -1]], values[0, -1, SLATES[0, -1]])
    log, target, weight = log_of(reward, to_come)
    terms = cascade_dr(log, target)
    assert weight @ terms == pytest.approx(truth(reward), abs=1e-12)
    by_context = [terms[c == ROW] for c in (0, 1)]
    assert max(np.ptp(t) for t in by_context) < 1e-9  # rewards are expectations here
    assert np.ptp(rips(log, target)[ROW == 0]) > 0.5


@pytest.mark.parametrize("name", ["slate SNIPS", "RIPS, self-normalised", "IIPS, self-normalised"])
def test_a_constant_moves_self_normalised_estimates_by_itself(name: str) -> None:
    log, target = by_hand()
    more = replace(log, reward=log.reward + np.array([10.0, 5.0]))
    moved = ESTIMATORS[name](more, target).mean() - ESTIMATORS[name](log, target).mean()
    assert moved == pytest.approx(15, abs=1e-9)


def test_without_predictions_the_cascade_is_rips() -> None:
    log, target = by_hand()
    nothing = replace(log, predicted=np.zeros((2, 2, 2)))
    np.testing.assert_allclose(cascade_dr(nothing, target), rips(log, target))


def test_lists_of_one_are_single_actions() -> None:
    """And all estimators are those of one title per request."""
    rng = np.random.default_rng(4)
    logging, new = PlackettLuce(rng.normal(size=(30, 5))), PlackettLuce(rng.normal(size=(30, 5)))
    slates, reward = logging.draw(1, rng), rng.random((30, 1))
    predicted = rng.random((30, 1, 5))
    log = SlateLog(slates, reward, logging.propensities(slates), np.ones(1), predicted)
    target = new.propensities(slates)
    shares, base = (p.enumerate(1)[1] for p in (new, logging))
    chosen = base[np.arange(30), slates[:, 0]]
    single = off_policy.Log(slates[:, 0], reward[:, 0], chosen, predicted[:, 0])
    pairs = dict.fromkeys(("slate IPS", "RIPS", "PBM", "IIPS"), off_policy.ips)
    pairs |= {"cascade-DR": off_policy.dr, "slate SNIPS": off_policy.snips}
    pairs |= dict.fromkeys(("RIPS, self-normalised", "IIPS, self-normalised"), off_policy.snips)
    assert pairs.keys() == ESTIMATORS.keys()
    for name, estimator in pairs.items():
        expected = estimator(single, shares)
        np.testing.assert_allclose(ESTIMATORS[name](log, target), expected, atol=1e-9)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_replications_are_computed_as_one_by_one(name: str) -> None:
    rng = np.random.default_rng(5)
    logging, new = (PlackettLuce(rng.normal(size=(3, 20, 5))) for _ in range(2))
    slates, reward = logging.draw(2, rng), rng.random((3, 20, 2))
    predicted, seen = rng.random((3, 20, 2, 5)), np.array([1.0, 0.4])
    log = SlateLog(slates, reward, logging.propensities(slates), seen, predicted)
    found = ESTIMATORS[name](log, new.propensities(slates))
    for rep in range(3):
        logged = PlackettLuce(logging.scores[rep]).propensities(slates[rep])
        one = SlateLog(slates[rep], reward[rep], logged, seen, predicted[rep])
        target = PlackettLuce(new.scores[rep]).propensities(slates[rep])
        np.testing.assert_allclose(found[rep], ESTIMATORS[name](one, target), atol=1e-10)


def test_estimates_and_diagnostics_come_from_terms_and_weights() -> None:
    log, target = by_hand()
    found = off_policy.estimates(log, target, ESTIMATORS)
    assert found.keys() == ESTIMATORS.keys() == WEIGHTS.keys()
    assert found["RIPS"].value == pytest.approx(4.75)
    assert found["RIPS"].n == 2
    last = off_policy.diagnose_weights(WEIGHTS["RIPS"](log, target)[:, -1])
    assert last.ess == pytest.approx(2)


def test_less_weight_is_put_on_single_requests_the_more_is_assumed() -> None:
    rng = np.random.default_rng(6)
    logging, new = (PlackettLuce(rng.normal(size=(2000, 10))) for _ in range(2))
    slates = logging.draw(4, rng)
    log = SlateLog(
        slates, np.zeros(slates.shape), logging.propensities(slates), 0.5 ** np.arange(4)
    )
    target = new.propensities(slates)
    sizes = [
        off_policy.effective_size(WEIGHTS[name](log, target).T).min()
        for name in ("RIPS", "IIPS", "PBM")
    ]
    assert 1.5 * sizes[0] < sizes[1]
    assert 1.2 * sizes[1] < sizes[2]


# Errors


@pytest.mark.parametrize(
    ("scores", "temperature", "message"),
    [
        (np.ones(3), 1.0, r"scores of shape \(3,\) must be finite, a row for each request"),
        (np.array([[1.0, -np.inf]]), 1.0, "leave out candidates that cannot be shown"),
        (np.ones((2, 3)), 0.0, "temperature 0.0 must be above 0"),
        (np.ones((2, 3)), np.inf, "temperature inf must be above 0"),
    ],
)
def test_bad_policies_are_refused(scores: np.ndarray, temperature: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlackettLuce(scores, temperature)


@pytest.mark.parametrize(
    ("slates", "message"),
    [
        (np.array([[0, 1]]), r"slates have shape \(1, 2\), scores \(2, 4\)"),
        (np.array([[0, 4], [0, 1]]), "candidates from 0 to 3"),
        (np.array([[0, -1], [0, 1]]), "candidates from 0 to 3"),
        (np.array([[0, 1], [2, 2]]), "1 slates show a title twice"),
        (np.zeros((2, 5), int), "cannot list 5 of 4 candidates"),
    ],
)
def test_bad_slates_are_refused(slates: np.ndarray, message: str) -> None:
    policy = PlackettLuce(LOGGING)
    for method in (policy.log_propensities, policy.propensities):
        with pytest.raises(ValueError, match=message):
            method(slates)


@pytest.mark.parametrize("k", [0, 5])
def test_lists_are_no_longer_than_the_candidates(k: int) -> None:
    policy = PlackettLuce(LOGGING)
    for method in (policy.marginals, policy.enumerate):
        with pytest.raises(ValueError, match=f"cannot list {k} of 4 candidates"):
            method(k)
    with pytest.raises(ValueError, match=f"cannot list {k} of 4 candidates"):
        policy.draw(k, np.random.default_rng(0))


def test_too_many_lists_are_not_enumerated() -> None:
    with pytest.raises(ValueError, match="117600 lists are too many to enumerate"):
        PlackettLuce(np.zeros((1, 50))).enumerate(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": np.ones((2, 3))}, r"slates have shape \(2, 2\), reward \(2, 3\)"),
        ({"slates": np.array([[0, 1]])}, "of at least 2 requests"),
        ({"reward": np.array([[1.0, np.nan], [0.0, 0.0]])}, "reward has values that are missing"),
        ({"examination": np.ones(3)}, "give 2 probabilities above 0"),
        ({"examination": np.array([1.0, 0.0])}, "give 2 probabilities above 0"),
        ({"predicted": np.ones((2, 2))}, r"predicted has shape \(2, 2\): give \(2, 2, 2\)"),
    ],
)
def test_bad_logs_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(by_hand()[0], **change)


def test_what_an_estimator_needs_is_asked_for() -> None:
    log, target = by_hand()
    with pytest.raises(ValueError, match=r"needs SlateLog\(..., examination=...\)"):
        position_based(replace(log, examination=None), target)
    with pytest.raises(ValueError, match=r"needs SlateLog\(..., predicted=...\)"):
        cascade_dr(replace(log, predicted=None), target)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_targets_are_of_the_same_lists(name: str) -> None:
    log, _ = by_hand()
    other = PlackettLuce(LOGGING).propensities(np.array([[2, 0, 3], [1, 3, 0]]))
    with pytest.raises(
        ValueError, match=r"target's propensities have shape \(2, 3\), slates \(2, 2\)"
    ):
        ESTIMATORS[name](log, other)


def test_nothing_in_common_is_said() -> None:
    log, target = by_hand()
    never = replace(target, steps=np.full((2, 2), -np.inf))
    with pytest.raises(ValueError, match="weights are all 0"):
        rips_sn(log, never)
