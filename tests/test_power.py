"""What tests can find, with how much less noise, and whether they can be trusted."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.power import TTestIndPower, TTestPower
from statsmodels.tools import add_constant

from firetv import power
from firetv.abtest import mean_interval, paired_test
from firetv.power import (
    AACheck,
    Arms,
    Interval,
    SampleRatio,
    aa_check,
    cuped,
    minimum_detectable_effect,
    required_users,
    sample_ratio,
)

# Power


@pytest.mark.parametrize("arms", ["paired", "independent"])
@pytest.mark.parametrize("n", [8, 50, 1000, 200_000])
@pytest.mark.parametrize(("alpha", "wanted"), [(0.05, 0.8), (0.01, 0.9), (0.05, 0.3)])
def test_effects_have_the_power_that_statsmodels_says(
    arms: Arms, n: int, alpha: float, wanted: float
) -> None:
    effect = minimum_detectable_effect(sd=2.5, n=n, alpha=alpha, power=wanted, arms=arms)
    oracle = TTestPower() if arms == "paired" else TTestIndPower()
    assert oracle.power(effect / 2.5, n, alpha) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("arms", ["paired", "independent"])
@pytest.mark.parametrize("effect", [0.004, -0.03, 0.4, 1.1])
def test_fewest_users_are_enough_and_one_fewer_is_not(arms: Arms, effect: float) -> None:
    n = required_users(effect, sd=0.5, arms=arms)
    oracle = TTestPower() if arms == "paired" else TTestIndPower()
    assert (
        oracle.power(abs(effect) / 0.5, n, 0.05)
        >= 0.8
        > oracle.power(abs(effect) / 0.5, n - 1, 0.05)
    )


def test_power_holds_in_simulations() -> None:
    """A share of 4000 that is 0.8 has a standard deviation of 0.0063; four of them."""
    rng = np.random.default_rng(0)
    effect = minimum_detectable_effect(sd=1.5, n=25)
    paired = stats.ttest_1samp(rng.normal(effect, 1.5, (25, 4000)), 0).pvalue
    assert np.mean(paired < 0.05) == pytest.approx(0.8, abs=0.025)
    n = required_users(effect=0.9, sd=1.5, arms="independent")
    arms = rng.normal(0.9, 1.5, (n, 4000)), rng.normal(0, 1.5, (n, 4000))
    assert np.mean(stats.ttest_ind(*arms).pvalue < 0.05) == pytest.approx(0.8, abs=0.025)


@pytest.mark.parametrize("arms", ["paired", "independent"])
@pytest.mark.parametrize("n", [2, 3, 10, 10**4, 10**8])
def test_effects_and_users_undo_each_other(arms: Arms, n: int) -> None:
    effect = minimum_detectable_effect(1.0, n, arms=arms)
    assert required_users(effect * 1.000001, 1.0, arms=arms) == pytest.approx(n, rel=1e-5)


@pytest.mark.parametrize("effect", [20.0, 1e6])
def test_two_users_are_the_fewest(effect: float) -> None:
    assert required_users(effect, 1.0) == required_users(effect, 1.0, arms="independent") == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sd": 0}, "sd is 0: pass the standard deviation over users, above 0"),
        ({"sd": np.nan}, "sd is nan"),
        ({"alpha": 5}, "alpha must be between 0 and 1, not 5"),
        ({"power": 1}, "power must be between 0 and 1, not 1"),
        ({"power": 0.05}, "power 0.05 must be above alpha 0.05"),
        ({"arms": "three"}, "arms 'three': use paired, independent"),
    ],
)
def test_impossible_plans_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        minimum_detectable_effect(**{"sd": 1.0, "n": 100} | change)
    with pytest.raises(ValueError, match=message):
        required_users(**{"sd": 1.0, "effect": 0.1} | change)


@pytest.mark.parametrize("n", [1, 0, np.nan])
def test_one_user_is_too_few(n: int) -> None:
    with pytest.raises(ValueError, match=f"n is {n}: a test needs at least 2 users"):
        minimum_detectable_effect(1.0, n)


@pytest.mark.parametrize("effect", [0, np.inf, np.nan])
def test_no_number_of_users_finds_nothing(effect: float) -> None:
    with pytest.raises(ValueError, match=f"effect is {effect}: pass the smallest difference"):
        required_users(effect, 1.0)


# CUPED


def habits(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes, and two covariates of other units that explain a part of them."""
    before = rng.normal([5, 300], [1, 100], size=(n, 2))
    return before @ [0.5, 0.01] + rng.normal(2, 1, n), before


@pytest.mark.parametrize("columns", [[0], [0, 1]])
def test_cuped_is_the_residual_of_regression(columns: list[int]) -> None:
    outcome, before = habits(np.random.default_rng(0), 400)
    before = before[:, columns]
    found = cuped(outcome, before)
    fit = OLS(outcome, add_constant(before)).fit()
    np.testing.assert_allclose(found.theta, fit.params[1:], rtol=1e-9)
    np.testing.assert_allclose(found.adjusted, fit.resid + outcome.mean(), rtol=1e-9)
    assert found.removed == pytest.approx(fit.rsquared)
    assert found.adjusted.mean() == pytest.approx(outcome.mean())


def test_variance_falls_by_the_square_of_the_correlation() -> None:
    outcome, before = habits(np.random.default_rng(1), 500)
    found = cuped(outcome, before[:, 0])
    rho = np.corrcoef(outcome, before[:, 0])[0, 1]
    assert found.theta == pytest.approx(rho * outcome.std() / before[:, 0].std())
    assert found.removed == pytest.approx(rho**2)
    assert found.adjusted.var() == pytest.approx((1 - rho**2) * outcome.var())


def test_cuped_is_unbiased_over_randomisations_and_less_noisy() -> None:
    rng = np.random.default_rng(2)
    outcome, before = habits(rng, 200)
    plain, adjusted = np.empty(1500), np.empty(1500)
    for repeat in range(1500):
        treated = rng.permutation(200) < 100
        shown = outcome + 0.3 * treated
        after = cuped(shown, before).adjusted
        plain[repeat] = shown[treated].mean() - shown[~treated].mean()
        adjusted[repeat] = after[treated].mean() - after[~treated].mean()
    error = adjusted.std() / np.sqrt(1500)
    assert adjusted.mean() == pytest.approx(0.3, abs=4 * error)
    left = 1 - cuped(outcome, before).removed
    # A variance of 1500 has a relative deviation of 0.037, their quotient of up to 0.052.
    assert adjusted.var() / plain.var() == pytest.approx(left, rel=0.2)


def test_covariates_that_say_nothing_change_nothing() -> None:
    outcome, _ = habits(np.random.default_rng(0), 50)
    found = cuped(outcome, np.full((50, 2), 0.1))
    np.testing.assert_array_equal(found.adjusted, outcome)
    assert found.theta.tolist() == [0, 0]
    assert found.removed == 0
    assert cuped(np.full(5, 0.1), np.arange(5.0)).removed == 0


def test_a_covariate_told_twice_counts_once() -> None:
    outcome, before = habits(np.random.default_rng(0), 100)
    once, twice = cuped(outcome, before[:, 1]), cuped(outcome, before[:, [1, 1]] * [1, 1000])
    np.testing.assert_allclose(twice.adjusted, once.adjusted)
    assert twice.theta @ [1, 1000] == pytest.approx(once.theta[0])


def test_units_do_not_decide_what_is_collinear() -> None:
    outcome, before = habits(np.random.default_rng(0), 100)
    found = cuped(outcome, before * [1e-10, 1e10])
    np.testing.assert_allclose(found.adjusted, cuped(outcome, before).adjusted)


def test_missing_covariates_are_the_mean_of_theirs() -> None:
    outcome, before = habits(np.random.default_rng(0), 60)
    missing = before.copy()
    missing[:7, 0] = np.nan
    filled = missing.copy()
    filled[:7, 0] = before[7:, 0].mean()
    found, expected = cuped(outcome, missing), cuped(outcome, filled)
    np.testing.assert_allclose(found.adjusted, expected.adjusted)
    assert found.adjusted.mean() == pytest.approx(outcome.mean())
    alone = cuped(outcome, missing[:, 0]).adjusted
    np.testing.assert_array_equal(alone[:7], outcome[:7])  # of whom nothing is known


def test_users_without_an_outcome_count_nowhere() -> None:
    outcome, before = habits(np.random.default_rng(0), 60)
    gone = outcome.copy()
    gone[:5] = np.nan
    found, expected = cuped(gone, before), cuped(outcome[5:], before[5:])
    assert np.isnan(found.adjusted[:5]).all()
    np.testing.assert_allclose(found.adjusted[5:], expected.adjusted)
    np.testing.assert_allclose(found.theta, expected.theta)
    assert found.removed == pytest.approx(expected.removed)


def test_cuped_does_not_change_what_it_is_given() -> None:
    outcome, before = habits(np.random.default_rng(0), 30)
    before[3, 0] = np.nan
    copies = outcome.copy(), before.copy()
    cuped(outcome, before)
    np.testing.assert_array_equal(outcome, copies[0])
    np.testing.assert_array_equal(before, copies[1])


@pytest.mark.parametrize(
    ("outcome", "before", "message"),
    [
        (np.zeros(4), np.zeros(3), r"outcome has shape \(4,\), before \(3,\)"),
        (np.zeros((4, 1)), np.zeros(4), r"outcome has shape \(4, 1\)"),
        (np.zeros(4), np.zeros((4, 1, 1)), "the same users in both"),
        (np.arange(3.0), np.zeros((3, 2)), "3 users with an outcome, 2 covariates: pass fewer"),
        (np.arange(4.0), np.full((4, 2), [0, np.nan]), "covariate 1 is missing for everybody"),
        (np.arange(4.0), np.array([1, 2, 3, np.inf]), "1 values are missing or infinite"),
        (np.array([1, 2, 3, np.inf]), np.arange(4.0), "1 values are missing or infinite"),
    ],
)
def test_wrong_covariates_are_refused(
    outcome: np.ndarray, before: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cuped(outcome, before)


# A/A checks


def pipelines(n: int, seed: int = 0) -> np.ndarray:
    """Skewed values of two pipelines that resemble each other, with ties."""
    rng = np.random.default_rng(seed)
    both = rng.beta(0.5, 3, size=(n, 1))
    return np.clip(both + rng.normal(0, 0.1, size=(n, 2)) * (rng.random((n, 1)) < 0.6), 0, 1)


@pytest.mark.parametrize("design", ["split", "paired"])
@pytest.mark.parametrize("n", [300, 1000])
def test_tests_are_honest_where_nothing_differs(design: str, n: int) -> None:
    values = pipelines(n) if design == "paired" else pipelines(n)[:, 0]
    found = aa_check(values, seed=1, design=design)
    assert found.honest
    assert found.n == n
    for name, rate in found.rates.items():
        assert rate.n == 1000
        assert (rate.low <= 0.05 <= rate.high) or name == "sign"


def test_paired_rates_are_those_of_the_tests_one_by_one() -> None:
    """The same swaps, each tested on its own."""
    pairs, replications = pipelines(60), 40
    found = aa_check(pairs, seed=4, replications=replications, design="paired", alpha=0.2)
    difference = pairs[:, 0] - pairs[:, 1]
    signs = np.random.default_rng([4, 0]).choice([-1.0, 1.0], size=(60, replications))
    rejected = dict.fromkeys(("t", "sign flip", "sign", "BCa interval"), 0)
    for swap in signs.T:
        one = paired_test(swap * difference, np.zeros(60), seed=4)
        rejected["t"] += stats.ttest_1samp(swap * difference, 0).pvalue <= 0.2
        rejected["sign flip"] += one.p_permutation <= 0.2
        rejected["sign"] += one.p_sign <= 0.2
        rejected["BCa interval"] += mean_interval(swap * difference, 4, 0.8).excludes_zero
    assert {name: rate.value * replications for name, rate in found.rates.items()} == rejected
    assert 0 < rejected["t"] < replications


def test_split_rates_are_those_of_welchs_test_one_by_one() -> None:
    values, replications = pipelines(41)[:, 0] + 1e7, 50
    found = aa_check(values, seed=4, replications=replications, alpha=0.2)
    first = np.broadcast_to(np.arange(41) < 20, (replications, 41))
    rejected = sum(
        stats.ttest_ind(values[arm], values[~arm], equal_var=False).pvalue <= 0.2
        for arm in np.random.default_rng([4, 0]).permuted(first, axis=1)
    )
    assert found.rates["welch"].value * replications == rejected > 0


def test_a_rate_surely_above_alpha_is_not_honest() -> None:
    low, high = stats.binomtest(80, 1000).proportion_ci()
    found = AACheck("split", 0.05, 200, {"welch": Interval(0.08, low, high, 1000)})
    assert not found.honest
    assert found.table.loc["welch"].tolist() == [0.08, low, high, False, False]


def test_rates_have_exact_intervals() -> None:
    found = aa_check(pipelines(100), seed=0, replications=200, design="paired")
    for rate in found.rates.values():
        k = round(rate.value * 200)
        assert rate.low == pytest.approx(stats.beta.ppf(0.025, k, 201 - k) if k else 0)
        assert rate.high == pytest.approx(stats.beta.ppf(0.975, k + 1, 200 - k))


def test_discrete_tests_may_be_honest_and_not_exact() -> None:
    """Six signs never have a p-value between 0.032 and 0.21."""
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    found = aa_check(np.stack([values, 0 * values], axis=1), 0, 2000, "paired", alpha=0.2)
    assert found.rates["sign"].value == pytest.approx(2 / 64, abs=4 * np.sqrt(2 / 64 / 2000))
    row = found.table.loc["sign"]
    assert row["honest"]
    assert not row["exact"]


def test_equal_differences_can_be_checked() -> None:
    pairs = np.tile([0.3, 0.2], (4, 1))
    found = aa_check(pairs, seed=0, replications=400, design="paired", alpha=0.01)
    assert found.rates["t"].value == pytest.approx(1 / 8, abs=4 * np.sqrt(0.11 / 400))
    assert found.rates["sign flip"].value == 0


def test_checks_are_seeded_whatever_is_missing() -> None:
    pairs = pipelines(50)
    first = aa_check(pairs, seed=0, replications=100, design="paired")
    gone = np.concatenate([pairs, [[np.nan, 0.3], [0.1, np.nan]]])
    assert aa_check(gone, seed=0, replications=100, design="paired") == first
    assert aa_check(pairs, seed=1, replications=100, design="paired") != first


@pytest.mark.parametrize("design", ["split", "paired"])
def test_parts_of_the_replications_are_honest_together(
    design: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(power, "CELLS", 200_000)  # a hundred replications at once
    values = pipelines(200) if design == "paired" else pipelines(200)[:, 0]
    found = aa_check(values, seed=0, replications=950, design=design)
    assert found.honest
    assert all(rate.n == 950 for rate in found.rates.values())


def test_each_part_has_deals_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "CELLS", 1)  # one replication at once
    for design, values in (("split", pipelines(50)[:, 0]), ("paired", pipelines(50))):
        found = aa_check(values, 0, replications=30, design=design, alpha=0.3)
        assert all(0 < rate.value < 1 for rate in found.rates.values())


def test_thousand_checks_take_seconds() -> None:
    start = time.perf_counter()
    aa_check(pipelines(1000), seed=0, design="paired")
    aa_check(pipelines(20_000)[:, 0], seed=0)
    assert time.perf_counter() - start < 20  # usually 1


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.arange(9.0), {"design": "both"}, "design 'both': use split, paired"),
        (np.arange(9.0), {"alpha": 5}, "alpha must be between 0 and 1, not 5"),
        (np.arange(9.0), {"replications": 0}, "0 replications: pass at least 1"),
        (np.arange(9.0), {"design": "paired"}, r"\(9,\): design 'paired' needs \(users, 2\)"),
        (np.zeros((9, 2)), {}, r"\(9, 2\): design 'split' needs \(users,\)"),
        (np.zeros((9, 3)), {"design": "paired"}, r"\(9, 3\): design 'paired' needs"),
        (np.array([0, 1, 2, np.nan]), {}, "3 users with values: a check needs at least 4"),
        (np.array([0, 1, 2, 3, np.inf]), {}, "1 values are missing or infinite"),
        (np.full(9, 0.3), {}, "all users have the same value"),
        (np.ones((9, 2)), {"design": "paired"}, "all users have the same value"),
        (np.eye(20_001, 2), {"design": "paired"}, "a random sample of at most 20000 pairs"),
    ],
)
def test_what_cannot_be_checked_is_refused(values: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        aa_check(values, 0, **options)


# Sample ratios


def test_a_ratio_by_hand() -> None:
    found = sample_ratio([60, 30, 30], [0.5, 0.25, 0.25])
    assert found == SampleRatio(1.0, False, (60.0, 30.0, 30.0))
    found = sample_ratio([520, 480], [0.5, 0.5])
    assert found.p == pytest.approx(stats.chi2.sf(2 * 20**2 / 500, 1))


@pytest.mark.parametrize(("counts", "mismatch"), [((5200, 4800), True), ((5160, 4840), False)])
def test_less_than_one_in_a_thousand_is_a_mismatch(counts: Sequence[int], mismatch: bool) -> None:
    found = sample_ratio(counts, (0.5, 0.5))
    assert found.mismatch == mismatch == (found.p < 0.001)
    assert found.p < 0.05


def test_shares_add_up_within_rounding() -> None:
    assert sample_ratio([100, 100, 100], [0.3333333, 0.3333333, 0.3333333]).p == pytest.approx(1)


@pytest.mark.parametrize(
    ("counts", "shares", "message"),
    [
        ([10, 20], [1.0], r"counts of shape \(2,\), shares \(1,\): pass one of each"),
        ([10], [1.0], "at least two arms"),
        (
            [-10, 20],
            [0.5, 0.5],
            r"counts \[-10.0, 20.0\] must be whole numbers of users, 0 or more",
        ),
        ([10.5, 20], [0.5, 0.5], "must be whole numbers"),
        ([np.nan, 20], [0.5, 0.5], "must be whole numbers"),
        ([10, 20], [0.5, 0.4], r"shares \[0.5, 0.4\] must be above 0 and add up to 1"),
        ([10, 20], [0.0, 1.0], "must be above 0"),
        ([10, 20], [np.nan, 1.0], "must be above 0"),
        ([0, 0], [0.5, 0.5], "an arm should have 0 users: wait for at least 5"),
        ([40, 5], [0.95, 0.05], "an arm should have 2.25 users: wait for at least 5"),
    ],
)
def test_wrong_counts_are_refused(
    counts: Sequence[float], shares: Sequence[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sample_ratio(counts, shares)
