"""Off-policy estimators, against numbers worked out by hand and worlds that are enumerated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax
from sklearn.linear_model import Ridge

from firetv.abtest import Interval
from firetv.off_policy import (
    ESTIMATORS,
    Estimator,
    Log,
    bounds,
    clipped_ips,
    diagnose,
    diagnose_weights,
    direct,
    dr,
    effective_size,
    estimates,
    fit_rewards,
    ips,
    sndr,
    snips,
    switch_dr,
    weights,
)

# Three requests, two candidates. Weights are 0.25 / 0.5, 0.5 / 0.25 and 0.4 / 0.4: 0.5, 2 and 1.
LOG = Log(
    action=np.array([0, 1, 1]),
    reward=np.array([1.0, 3.0, 2.0]),
    propensity=np.array([0.5, 0.25, 0.4]),
    predicted=np.array([[1.0, 0.0], [0.5, 0.25], [1.0, 1.5]]),
)
TARGET = np.array([[0.25, 0.75], [0.5, 0.5], [0.6, 0.4]])

# Three contexts, four candidates, all that may happen known.
RNG = np.random.default_rng(0)
CONTEXT = np.array([0.5, 0.3, 0.2])
LOGGING = softmax(RNG.normal(size=(3, 4)), axis=1)
NEW = softmax(2 * RNG.normal(size=(3, 4)), axis=1)
REWARD = RNG.random((3, 4))
GUESS = RNG.random((3, 4))  # a wrong model
VALUE = float(CONTEXT @ (NEW * REWARD).sum(axis=1))


def everything(predicted: np.ndarray = GUESS) -> tuple[Log, np.ndarray, np.ndarray]:
    """A log of all that may happen, the target, and how likely each row of them is."""
    context, action = np.divmod(np.arange(12), 4)
    log = Log(action, REWARD.ravel(), LOGGING.ravel(), predicted[context])
    return log, NEW[context], (CONTEXT[:, np.newaxis] * LOGGING).ravel()


def draw(rng: np.random.Generator, reps: int, n: int) -> tuple[Log, np.ndarray, np.ndarray]:
    """Logs of that world, with rewards of 0 and 1, the target, and the logging policy."""
    context = rng.choice(3, size=(reps, n), p=CONTEXT)
    below = np.cumsum(LOGGING, axis=1)[context] < rng.random((reps, n, 1))
    action = np.minimum(below.sum(axis=-1), 3)
    reward = (rng.random((reps, n)) < REWARD[context, action]).astype(float)
    log = Log(action, reward, LOGGING[context, action], GUESS[context])
    return log, NEW[context], LOGGING[context]


# Estimators


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (weights(LOG, TARGET), [0.5, 2.0, 1.0]),
        (ips(LOG, TARGET), [0.5, 6.0, 2.0]),
        (clipped_ips(LOG, TARGET, cap=1.5), [0.5, 4.5, 2.0]),
        (direct(LOG, TARGET), [0.25, 0.375, 1.2]),
        # Errors of the model are 0, 2.75 and 0.5.
        (dr(LOG, TARGET), [0.25, 0.375 + 5.5, 1.2 + 0.5]),
        (switch_dr(LOG, TARGET, tau=1.0), [0.25, 0.375, 1.7]),
        # v = 8.5 / 3.5 = 17 / 7; the mean weight is 7 / 6.
        (
            snips(LOG, TARGET),
            [
                17 / 7 + 3 / 7 * (1 - 17 / 7),
                17 / 7 + 12 / 7 * (3 - 17 / 7),
                17 / 7 + 6 / 7 * (2 - 17 / 7),
            ],
        ),
        # The mean error by weight is (5.5 + 0.5) / 3.5 = 12 / 7.
        (
            sndr(LOG, TARGET),
            [
                0.25 + 12 / 7 - 3 / 7 * 12 / 7,
                0.375 + 12 / 7 + 12 / 7 * (2.75 - 12 / 7),
                1.2 + 12 / 7 + 6 / 7 * (0.5 - 12 / 7),
            ],
        ),
    ],
    ids=["weights", "IPS", "clipped IPS", "DM", "DR", "switch-DR", "SNIPS", "SNDR"],
)
def test_terms_are_those_worked_out_by_hand(terms: np.ndarray, expected: list[float]) -> None:
    np.testing.assert_allclose(terms, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IPS", 8.5 / 3),
        ("clipped IPS", 8.5 / 3),  # no weight is above 10
        ("SNIPS", 8.5 / 3.5),
        ("DM", 1.825 / 3),
        ("DR", 7.825 / 3),
        ("SNDR", 1.825 / 3 + 6 / 3.5),
        ("switch-DR", 7.825 / 3),
    ],
)
def test_values_are_those_worked_out_by_hand(name: str, value: float) -> None:
    found = estimates(LOG, TARGET)
    assert found.keys() == ESTIMATORS.keys()
    assert found[name].value == pytest.approx(value, abs=1e-12)
    assert found[name].n == 3


@pytest.mark.parametrize("estimator", [ips, dr])
def test_ips_and_dr_are_unbiased(estimator: Estimator) -> None:
    log, target, chance = everything()
    assert chance @ estimator(log, target) == pytest.approx(VALUE, abs=1e-12)


def test_the_direct_method_is_as_biased_as_its_model() -> None:
    log, target, chance = everything()
    bias = CONTEXT @ (NEW * (GUESS - REWARD)).sum(axis=1)
    assert abs(bias) > 0.02
    assert chance @ direct(log, target) - VALUE == pytest.approx(bias, abs=1e-12)


@pytest.mark.parametrize("cap", [0.5, 1.0, 2.0])
def test_clipping_costs_what_its_formula_says(cap: float) -> None:
    log, target, chance = everything()
    bias = -(CONTEXT[:, None] * np.maximum(NEW - cap * LOGGING, 0) * REWARD).sum()
    assert bias < -0.02
    assert chance @ clipped_ips(log, target, cap) - VALUE == pytest.approx(bias, abs=1e-12)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_switching_costs_the_models_bias_where_it_is_trusted(tau: float) -> None:
    log, target, chance = everything()
    bias = (CONTEXT[:, None] * NEW * (GUESS - REWARD) * (tau * LOGGING < NEW)).sum()
    assert abs(bias) > 0.01
    assert chance @ switch_dr(log, target, tau) - VALUE == pytest.approx(bias, abs=1e-12)


def test_dr_is_right_if_the_model_is_and_propensities_are_not() -> None:
    log, target, chance = everything(predicted=REWARD)
    wrong = replace(log, propensity=log.propensity**2)
    assert chance @ dr(wrong, target) == pytest.approx(VALUE, abs=1e-12)
    assert abs(chance @ ips(wrong, target) - VALUE) > 0.1


def test_switching_goes_from_the_direct_method_to_dr() -> None:
    log, target, _ = everything()
    np.testing.assert_array_equal(switch_dr(log, target, tau=np.inf), dr(log, target))
    np.testing.assert_array_equal(switch_dr(log, target, tau=0.0), direct(log, target))
    np.testing.assert_array_equal(switch_dr(log, target, tau=1e9), dr(log, target))
    np.testing.assert_array_equal(switch_dr(log, target, tau=1e-9), direct(log, target))


@pytest.mark.parametrize(("estimator", "moves"), [(snips, True), (ips, False)])
def test_a_constant_moves_self_normalised_estimates_by_itself(
    estimator: Estimator, moves: bool
) -> None:
    more = replace(LOG, reward=LOG.reward + 100)
    moved = estimator(more, TARGET).mean() - estimator(LOG, TARGET).mean()
    assert (abs(moved - 100) < 1e-9) == moves


def test_without_a_model_dr_is_ips() -> None:
    nothing = replace(LOG, predicted=np.zeros((3, 2)))
    np.testing.assert_allclose(dr(nothing, TARGET), ips(LOG, TARGET))
    np.testing.assert_allclose(sndr(nothing, TARGET), snips(LOG, TARGET))


def test_a_policy_in_its_own_log_is_the_mean_reward() -> None:
    log, _, logging = draw(np.random.default_rng(0), 1, 50)
    for name in ("IPS", "clipped IPS", "SNIPS"):
        assert ESTIMATORS[name](log, logging).mean() == pytest.approx(log.reward.mean())


@pytest.mark.parametrize("name", ESTIMATORS)
def test_replications_are_computed_as_one_by_one(name: str) -> None:
    log, target, _ = draw(np.random.default_rng(1), 6, 20)
    shape = (2, 3, 20)
    stacked = Log(
        *(x.reshape(shape) for x in (log.action, log.reward, log.propensity)),
        log.predicted.reshape(*shape, 4),
    )
    found = bounds(ESTIMATORS[name](stacked, target.reshape(*shape, 4)))
    for rep in range(6):
        parts = (log.action, log.reward, log.propensity, log.predicted)
        alone = estimates(Log(*(x[rep] for x in parts)), target[rep])[name]
        one = tuple(x.ravel()[rep] for x in found)
        assert one == pytest.approx((alone.value, alone.low, alone.high), abs=1e-12)


# Intervals


def test_bounds_are_those_of_a_normal_mean() -> None:
    terms = np.array([0.5, 6.0, 2.0])
    value, low, high = bounds(terms, confidence=0.9)
    expected = stats.norm.interval(0.9, terms.mean(), stats.sem(terms))
    assert (low, high) == pytest.approx(expected)
    assert value == pytest.approx(8.5 / 3)


def test_self_normalised_intervals_follow_the_delta_method() -> None:
    _, low, high = bounds(snips(LOG, TARGET))
    w = np.array([0.5, 2.0, 1.0])
    squares = (w * (LOG.reward - 17 / 7)) ** 2
    error = np.sqrt(3 / 2 * squares.sum()) / w.sum()  # Owen's ratio, with n - 1 for n
    assert high - low == pytest.approx(2 * 1.959964 * error, rel=1e-6)


@pytest.mark.parametrize("name", ["IPS", "SNIPS", "DR", "SNDR"])
def test_intervals_cover_the_value_about_as_often_as_they_say(name: str) -> None:
    """Of 2000 logs, so that chance alone moves the share by 0.005, once."""
    log, target, _ = draw(np.random.default_rng(2), 2000, 400)
    _, low, high = bounds(ESTIMATORS[name](log, target))
    assert 0.935 <= ((low <= VALUE) & (high >= VALUE)).mean() <= 0.965


def test_the_direct_methods_interval_does_not_cover() -> None:
    log, target, _ = draw(np.random.default_rng(2), 500, 400)
    _, low, high = bounds(direct(log, target))
    assert ((low <= VALUE) & (high >= VALUE)).mean() < 0.5


def test_two_policies_are_compared_request_by_request() -> None:
    """Terms of both go up and down together, and their difference varies less than each."""
    log, target, logging = draw(np.random.default_rng(3), 1, 2000)
    nearby = 0.9 * target + 0.1 * logging
    _, low, high = bounds(ips(log, target) - ips(log, nearby))
    _, alone_low, alone_high = bounds(ips(log, target))
    assert high - low < 0.2 * (alone_high - alone_low)


def test_estimates_of_one_log_are_intervals() -> None:
    found = estimates(LOG, TARGET, {"mine": lambda log, _: log.reward}, confidence=0.5)
    low, high = stats.norm.interval(0.5, 2.0, stats.sem([1, 2, 3]))
    assert found == {"mine": Interval(2.0, pytest.approx(low), pytest.approx(high), 3)}


# Diagnostics


def test_diagnostics_are_those_worked_out_by_hand() -> None:
    logging = np.array([[0.5, 0.5], [0.75, 0.25], [0.6, 0.4]])
    found = diagnose(LOG, TARGET, logging)
    assert found.n == 3
    assert found.ess == pytest.approx(3.5**2 / 5.25)
    assert found.ess_share == pytest.approx(3.5**2 / 5.25 / 3)
    assert found.largest == 2
    assert found.largest_share == found.top_share == pytest.approx(2 / 3.5)  # 1 % of 3 is one
    assert found.mean == pytest.approx(3.5 / 3)
    assert found.mean_p == pytest.approx(stats.ttest_1samp([0.5, 2, 1], 1).pvalue)
    assert found.unsupported == 0
    assert not found.trusted


def test_the_heaviest_hundredth_is_counted_in_whole_requests() -> None:
    weight = np.ones(250)
    weight[[3, 77, 200]] = 100, 50, 25  # 1 % of 250, rounded up
    found = diagnose_weights(weight)
    assert found.top_share == pytest.approx(175 / (175 + 247))
    assert found.largest_share == pytest.approx(100 / (175 + 247))
    assert diagnose_weights(weight[:200]).top_share == pytest.approx(150 / (150 + 198))  # two


def test_one_heavy_request_is_enough_to_warn() -> None:
    weight = np.ones(2000)
    weight[7] = 150
    found = diagnose_weights(weight)
    assert len(found.warnings) == 1
    assert "one alone 7%: intervals are too narrow" in found.warnings[0]


def test_unsupported_choices_are_the_targets_mass_below_the_smallest_propensity() -> None:
    log = Log(np.array([0, 0]), np.zeros(2), np.array([0.9, 0.5]))
    logging = np.array([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0]])
    target = np.array([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]])
    found = diagnose(log, target, logging)
    assert found.unsupported == pytest.approx((0.5 + 0.1) / 2)
    assert "30.0% of the target's choices were less likely than anything logged" in str(
        found.warnings
    )
    assert np.isnan(diagnose(log, target).unsupported)


def test_good_overlap_is_trusted() -> None:
    log, target, logging = draw(np.random.default_rng(4), 1, 3000)
    one = Log(log.action[0], log.reward[0], log.propensity[0])
    found = diagnose(one, target[0], logging[0])
    assert found.warnings == ()
    assert found.trusted
    own = diagnose(one, logging[0])
    assert own.trusted
    assert own.ess == pytest.approx(3000)
    assert own.mean_p == 1


def test_bad_overlap_is_not() -> None:
    """The logging policy hardly ever shows what the target always shows."""
    rng = np.random.default_rng(5)
    action = (rng.random(3000) < 0.003).astype(int)
    log = Log(action, np.ones(3000), np.where(action == 1, 0.003, 0.997))
    found = diagnose(log, np.tile([0.0, 1.0], (3000, 1)))
    assert action.sum() < 20
    assert found.ess == pytest.approx(action.sum())
    assert [text.split(" of ")[0] for text in found.warnings] == [
        f"effective size {action.sum()}",
        "1%",
    ]
    assert "log more" in found.warnings[0]
    assert "SNIPS" in found.warnings[1]


def test_wrong_propensities_are_seen() -> None:
    log, target, _ = draw(np.random.default_rng(6), 1, 3000)
    wrong = Log(log.action[0], log.reward[0], np.minimum(1, 1.3 * log.propensity[0]))
    found = diagnose(wrong, target[0])
    assert len(found.warnings) == 1
    assert "not 1 (p =" in found.warnings[0]
    assert "propensities are wrong" in found.warnings[0]


def test_right_propensities_raise_few_alarms() -> None:
    log, target, _ = draw(np.random.default_rng(7), 400, 1000)
    weight = weights(log, target)
    assert sum(not diagnose_weights(row).trusted for row in weight) <= 4  # 0.4 are expected


def test_weights_of_nothing_are_not_trusted() -> None:
    found = diagnose_weights(np.zeros(500))
    assert found.ess == 0
    assert np.isnan(found.top_share)
    assert found.mean_p == 0
    assert "weights average 0, not 1" in found.warnings[1]


def test_effective_sizes_are_between_one_and_all() -> None:
    weight = np.random.default_rng(0).lognormal(0, 1.0, size=(50, 30))
    size = effective_size(weight)
    assert ((size > 1) & (size < 30)).all()
    np.testing.assert_allclose(effective_size(7 * weight), size)
    assert effective_size(np.zeros(3)) == 0


# Reward model


@pytest.mark.parametrize("folds", [2, 3])
def test_rewards_are_those_of_ridge_regressions_on_other_folds(folds: int) -> None:
    rng = np.random.default_rng(0)
    features, reward = rng.normal(2, 1, size=(31, 5, 3)), rng.normal(size=31)
    action = rng.integers(5, size=31)
    found = fit_rewards(features, action, reward, folds, reg=0.7)
    for held in range(folds):
        out = np.arange(31) % folds == held
        shown = features[np.arange(31), action]
        model = Ridge(alpha=0.7).fit(shown[~out], reward[~out])
        expected = model.predict(features[out].reshape(-1, 3)).reshape(-1, 5)
        np.testing.assert_allclose(found[out], expected, atol=1e-9)


def test_no_request_predicts_itself() -> None:
    rng = np.random.default_rng(1)
    features, reward = rng.normal(size=(20, 4, 2)), rng.normal(size=20)
    action = rng.integers(4, size=20)
    before = fit_rewards(features, action, reward)
    reward[6] += 100
    moved = np.abs(fit_rewards(features, action, reward) - before).max(axis=1) > 1e-9
    np.testing.assert_array_equal(moved, np.arange(20) % 2 == 1)


def test_reward_models_are_stacked() -> None:
    rng = np.random.default_rng(2)
    features, reward = rng.normal(size=(3, 20, 4, 2)), rng.normal(size=(3, 20))
    action = rng.integers(4, size=(3, 20))
    expected = [fit_rewards(*rows) for rows in zip(features, action, reward, strict=True)]
    np.testing.assert_allclose(fit_rewards(features, action, reward), expected, atol=1e-12)


def test_dr_with_a_fitted_model_is_unbiased_and_steadier() -> None:
    """Even with features that leave out half of what matters."""
    rng = np.random.default_rng(8)
    log, target, _ = draw(rng, 1500, 200)
    seen = np.broadcast_to(np.eye(4), (1500, 200, 4, 4))  # the candidate, not the context
    fitted = replace(log, predicted=fit_rewards(seen, log.action, log.reward))
    plain, better = (f(x, target).mean(axis=-1) for f, x in ((ips, log), (dr, fitted)))
    assert abs(better.mean() - VALUE) < 4 * better.std() / np.sqrt(1500)
    assert better.std() < 0.95 * plain.std()


# Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": np.ones(2)}, r"shapes \[\(3,\), \(2,\), \(3,\)\]: give one of each"),
        ({"action": np.array([0.0, 1.0, 1.0])}, "integers from 0"),
        ({"action": np.array([0, -1, 1])}, "integers from 0"),
        ({"propensity": np.array([0.5, 0.0, 1.1])}, r"2 propensities are not in \(0, 1\]"),
        ({"propensity": np.array([0.5, np.nan, 1.0])}, r"1 propensities are not in \(0, 1\]"),
        ({"predicted": np.ones((2, 2))}, r"predicted has shape \(2, 2\): give \(3,\)"),
        ({"reward": np.array([1.0, np.nan, 0.0])}, "reward has values that are missing"),
        ({"predicted": np.full((3, 2), np.inf)}, "predicted has values that are missing"),
    ],
)
def test_bad_logs_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(LOG, **change)


def test_a_log_needs_two_requests() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Log(np.array([0]), np.array([1.0]), np.array([0.5]))
    with pytest.raises(ValueError, match="at least 2 requests, not 1"):
        bounds(np.ones((4, 1)))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (TARGET[:2], r"target has shape \(2, 2\): give \(3,\)"),
        (TARGET[:, :1], "action 1 is not one of 1 candidates"),
        (2 * TARGET, "3 rows of target are not probabilities"),
        (TARGET * np.array([[1], [1.01], [1]]), "1 rows of target are not probabilities"),
        (np.array([[1.5, -0.5], [1, 0], [1, 0]]), "1 rows of target are not probabilities"),
        (np.array([[np.nan, 0.5], [1, 0], [1, 0]]), "1 rows of target are not probabilities"),
    ],
)
@pytest.mark.parametrize("name", ["IPS", "DM"])
def test_bad_targets_are_refused(target: np.ndarray, message: str, name: str) -> None:
    with pytest.raises(ValueError, match=message):
        ESTIMATORS[name](LOG, target)


def test_probabilities_may_be_single() -> None:
    target = softmax(np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32), axis=1)
    assert ips(LOG, target).dtype == np.float64


@pytest.mark.parametrize("name", ["DM", "DR", "SNDR", "switch-DR"])
def test_models_are_asked_for(name: str) -> None:
    with pytest.raises(ValueError, match=r"needs predicted rewards: .*or use IPS"):
        ESTIMATORS[name](replace(LOG, predicted=None), TARGET)
    with pytest.raises(ValueError, match=r"predicted has shape \(3, 3\), target \(3, 2\)"):
        ESTIMATORS[name](replace(LOG, predicted=np.ones((3, 3))), TARGET)


@pytest.mark.parametrize("name", ["SNIPS", "SNDR"])
def test_nothing_in_common_is_said(name: str) -> None:
    never = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match="weights are all 0"):
        ESTIMATORS[name](LOG, never)


def test_caps_and_thresholds_are_checked() -> None:
    with pytest.raises(ValueError, match="cap 0 must be above 0"):
        clipped_ips(LOG, TARGET, cap=0)
    with pytest.raises(ValueError, match="tau -1 must be a number from 0"):
        switch_dr(LOG, TARGET, tau=-1)
    with pytest.raises(ValueError, match="confidence must be between 0 and 1, not 95"):
        bounds(np.arange(3.0), confidence=95)


def test_estimates_are_of_one_log() -> None:
    log, target, _ = draw(np.random.default_rng(0), 2, 5)
    with pytest.raises(ValueError, match=r"shape \(2, 5\): give one replication"):
        estimates(log, target)
    with pytest.raises(ValueError, match=r"weights have shape \(2, 5\)"):
        diagnose(log, target)


@pytest.mark.parametrize("weight", [[1.0, -1.0], [1.0, np.nan], [np.inf, 1.0]])
def test_bad_weights_are_refused(weight: list[float]) -> None:
    with pytest.raises(ValueError, match="finite numbers from 0"):
        diagnose_weights(np.array(weight))


def test_logging_probabilities_must_be_those_of_the_log() -> None:
    with pytest.raises(ValueError, match="logging disagrees with 2 propensities"):
        diagnose(LOG, TARGET, np.full((3, 2), 0.5))
    with pytest.raises(ValueError, match=r"logging has shape \(3, 1\)"):
        diagnose(LOG, TARGET, np.ones((3, 1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": np.ones(5)}, r"reward \(5,\): give \(..., n, A, D\)"),
        ({"features": np.ones((6, 2))}, r"features have shape \(6, 2\)"),
        ({"folds": 1}, "folds 1 of 6 requests"),
        ({"folds": 4}, "folds 4 of 6 requests"),
        ({"reg": 0.0}, "reg 0.0 must be above 0"),
    ],
)
def test_bad_fits_are_refused(change: dict[str, object], message: str) -> None:
    good = {"features": np.ones((6, 2, 1)), "action": np.zeros(6, int), "reward": np.ones(6)}
    with pytest.raises(ValueError, match=message):
        fit_rewards(**good | change)
