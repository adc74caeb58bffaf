"""Studies of off-policy estimators: what they say of known worlds, and whether that is right."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import softmax

from firetv import off_policy, slate_policies
from firetv.clicks import Cascade, PositionBased
from firetv.logs import Population, _draw, populate, simulate, simulate_rankings
from firetv.off_policy import Log, diagnose
from firetv.slate_policies import PlackettLuce
from firetv.world import World, plant

SETTING = plant(World(users=300, content=400, seed=1))
POPULATION = populate(SETTING, requests=1500, candidates=20)
FEW = populate(SETTING, requests=500, candidates=10, seed=2)
UNBIASED = ["IPS", "SNIPS", "DR", "SNDR"]
LISTS = ["slate IPS", "RIPS", "cascade-DR", "IIPS", "PBM"]


@pytest.fixture(scope="module")
def study() -> pd.DataFrame:
    return simulate(POPULATION, temperatures=(1.5, 0.7, 0.3), n=1200, replications=600, seed=3)


@pytest.fixture(scope="module")
def read_at_places() -> pd.DataFrame:
    clicks = PositionBased(0.7)
    return simulate_rankings(FEW, clicks, (2.0, 1.0), 3, 800, 600, 4, logging_temperature=1.5)


@pytest.fixture(scope="module")
def read_from_the_top() -> pd.DataFrame:
    clicks = Cascade(stay=0.9, go_on=0.2)
    return simulate_rankings(FEW, clicks, (2.0, 0.6), n=800, replications=600, seed=5)


def rows(found: pd.DataFrame, temperature: float) -> pd.DataFrame:
    return found[found["temperature"] == temperature].set_index("estimator")


# Populations


def test_populations_are_of_the_world_and_seeded() -> None:
    again, other = (populate(SETTING, 1500, 20, seed) for seed in (0, 1))
    assert POPULATION.appeal.shape == POPULATION.target.shape == (1500, 20)
    assert POPULATION.features.shape == (1500, 20, 2)
    assert 0 < POPULATION.appeal.min() < 0.2 < POPULATION.appeal.max() < 1
    np.testing.assert_array_equal(again.appeal, POPULATION.appeal)
    assert (other.appeal != POPULATION.appeal).any()


def test_candidates_are_distinct_titles() -> None:
    """Popularity tells titles apart: with as many candidates as titles, each is there once."""
    few = populate(plant(World(users=50, content=12)), requests=30, candidates=12)
    assert len({round(x, 9) for x in few.features[0, :, 0]}) == 12
    half = populate(plant(World(users=50, content=12)), requests=200, candidates=6)
    ordered = np.sort(half.features[..., 0], axis=1)
    assert np.diff(ordered, axis=1).min() > 1e-9
    assert len(np.unique(ordered.round(9))) == 12  # and none is left out


def test_the_target_policy_is_better_than_the_one_in_use() -> None:
    shares = [softmax(x, axis=1) for x in (POPULATION.logging, POPULATION.target)]
    old, new = ((x * POPULATION.appeal).sum(axis=1).mean() for x in shares)
    assert new > 1.1 * old > 1.2 * POPULATION.appeal.mean()


@pytest.mark.parametrize(("requests", "candidates"), [(1, 5), (10, 1), (10, 401)])
def test_impossible_populations_are_refused(requests: int, candidates: int) -> None:
    message = f"{requests} requests with {candidates} candidates of 400 titles"
    with pytest.raises(ValueError, match=message):
        populate(SETTING, requests, candidates)


def test_draws_follow_the_shares_of_their_row() -> None:
    shares = softmax(np.random.default_rng(0).normal(size=(3, 5)), axis=1)
    index = np.repeat([[2, 0, 1, 2]], 10_000, axis=0)
    drawn = _draw(shares, index, np.random.default_rng(1))
    assert drawn.shape == index.shape
    for row in range(3):
        counts = np.bincount(drawn[index == row], minlength=5)
        assert stats.chisquare(counts, counts.sum() * shares[row]).pvalue > 0.001


# One title per request


def test_truth_and_overlap_are_exact_sums(study: pd.DataFrame) -> None:
    logging, target = softmax(POPULATION.logging, axis=1), softmax(POPULATION.target / 0.7, axis=1)
    found = rows(study, 0.7)
    value = overlap = 0.0
    for old, new, appeal in zip(logging, target, POPULATION.appeal, strict=True):
        value += (new @ appeal) / 1500
        overlap += ((new / old) ** 2 @ old) / 1500
    assert found["truth"].to_numpy() == pytest.approx(value, abs=1e-12)
    assert found["overlap"].to_numpy() == pytest.approx(1 / overlap, abs=1e-12)


def test_a_study_has_a_row_for_each_overlap_and_estimator(study: pd.DataFrame) -> None:
    wanted = (
        "overlap estimator truth bias bias_error sd rmse coverage coverage_low coverage_high ess"
    )
    assert set(wanted.split()) <= set(study.columns)
    assert len(study) == 3 * len(off_policy.ESTIMATORS)
    assert not study.isna().any(axis=None)
    assert (study["coverage_low"] <= study["coverage"]).all()
    assert (study["coverage"] <= study["coverage_high"]).all()


@pytest.mark.parametrize("temperature", [1.5, 0.7, 0.3])
def test_unbiased_estimators_are_found_so(study: pd.DataFrame, temperature: float) -> None:
    found = rows(study, temperature).loc[["IPS", "DR"]]
    assert (found["bias"].abs() < 4 * found["bias_error"]).all()


def test_the_direct_method_is_biased_and_dr_repairs_it(study: pd.DataFrame) -> None:
    """All the worse, and with intervals that never cover, the more the target policy knows."""
    worse = [rows(study, t).loc["DM", "bias"] for t in (1.5, 0.7, 0.3)]
    assert all(after < 1.2 * before < 0 for before, after in pairwise(worse))
    for temperature in (1.5, 0.7, 0.3):
        found = rows(study, temperature)
        assert found.loc["DM", "coverage"] < 0.05
        assert found.loc["DR", "rmse"] < 0.6 * found.loc["DM", "rmse"]
        assert found.loc["DR", "sd"] < found.loc["IPS", "sd"]


@pytest.mark.parametrize("name", UNBIASED)
def test_intervals_cover_at_good_overlap(study: pd.DataFrame, name: str) -> None:
    """Within 0.93 to 0.97, whose borders are two standard errors of 600 logs away."""
    assert 0.93 <= rows(study, 1.5).loc[name, "coverage"] <= 0.97


def test_clipping_trades_variance_for_bias(study: pd.DataFrame) -> None:
    found = rows(study, 0.3)
    assert found.loc["clipped IPS", "bias"] < -5 * found.loc["clipped IPS", "bias_error"]
    assert found.loc["clipped IPS", "sd"] < found.loc["IPS", "sd"]
    assert found.loc["clipped IPS", "coverage"] < 0.9


def test_less_overlap_is_more_error(study: pd.DataFrame) -> None:
    for name in UNBIASED:
        found = study[study["estimator"] == name]
        for column in ("overlap", "ess"):
            assert found[column].is_monotonic_decreasing
        assert found["rmse"].is_monotonic_increasing
    good, bad = (rows(study, t).loc["IPS", "ess"] for t in (1.5, 0.3))
    assert good > 3 * bad


def test_effective_requests_are_about_as_expected(study: pd.DataFrame) -> None:
    found = rows(study, 1.5)
    assert found["ess"].to_numpy() == pytest.approx(1200 * found["overlap"].to_numpy(), rel=0.03)


def test_errors_hang_together(study: pd.DataFrame) -> None:
    square = study["bias"] ** 2 + study["sd"] ** 2 * 599 / 600
    np.testing.assert_allclose(study["rmse"], np.sqrt(square), rtol=1e-9)
    np.testing.assert_allclose(study["bias_error"], study["sd"] / np.sqrt(600))
    # Estimates are close to normal here, for which the error of a deviation is sd / sqrt(2 R).
    near = study[study["temperature"] == 1.5]
    np.testing.assert_allclose(near["sd_error"], near["sd"] / np.sqrt(1200), rtol=0.2)
    assert (study["rmse_error"] < 0.2 * study["rmse"]).all()


def test_monte_carlo_errors_tell_how_seeds_differ() -> None:
    small = Population(*(x[:60] for x in vars(POPULATION).values()))
    found = [simulate(small, [1.0], n=60, replications=100, seed=seed) for seed in range(60)]
    for name in ("bias", "sd", "rmse"):
        between = np.std([x[name] for x in found], axis=0, ddof=1)
        within = np.mean([x[f"{name}_error"] for x in found], axis=0)
        np.testing.assert_allclose(within, between, rtol=0.35)  # 60 seeds: 9 %, once


def test_greedier_logging_overlaps_less() -> None:
    usual, greedy = (
        simulate(FEW, [1.0], n=100, replications=5, logging_temperature=t) for t in (1.0, 0.4)
    )
    assert greedy["overlap"].iloc[0] < 0.5 * usual["overlap"].iloc[0]


def test_studies_repeat_and_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    clicks = PositionBased()
    first = simulate(FEW, n=50, replications=20, seed=1)
    lists = simulate_rankings(FEW, clicks, n=50, replications=20, seed=1)
    assert first["bias"].iloc[1] != simulate(FEW, n=50, replications=20, seed=2)["bias"].iloc[1]
    monkeypatch.setattr("firetv.logs.CELLS", 3000)
    again = simulate(FEW, n=50, replications=20, seed=1)
    pd.testing.assert_frame_equal(again, first, rtol=1e-9)
    again = simulate_rankings(FEW, clicks, n=50, replications=20, seed=1)
    pd.testing.assert_frame_equal(again, lists, rtol=1e-9)


def test_diagnostics_trust_what_covers() -> None:
    """Of logs of this world, those made for a near policy, and not those for a far one."""
    rng = np.random.default_rng(0)
    index = rng.integers(1500, size=2000)
    verdicts = []
    for logging_temperature, temperature in ((1.0, 1.5), (0.25, 0.2)):
        logging = softmax(POPULATION.logging / logging_temperature, axis=1)
        action = _draw(logging, index, rng)
        log = Log(action, np.zeros(2000), logging[index, action])
        target = softmax(POPULATION.target[index] / temperature, axis=1)
        verdicts += [diagnose(log, target, logging[index])]
    good, bad = verdicts
    assert good.trusted
    assert good.ess > 800
    assert not bad.trusted
    assert bad.ess < 100
    assert "effective size" in bad.warnings[0]


# Lists


def test_the_value_of_lists_is_exact(read_at_places: pd.DataFrame) -> None:
    """Where positions are looked at independently, marginals give it too."""
    places = PlackettLuce(FEW.target, 1.0).marginals(3)
    clicks = np.einsum("nap,na,p->n", places, FEW.appeal, PositionBased(0.7).examination(3))
    value = rows(read_at_places, 1.0)["truth"].to_numpy()
    assert value == pytest.approx(clicks.mean(), abs=1e-9)


def test_the_value_of_lists_is_what_drawing_gives(read_from_the_top: pd.DataFrame) -> None:
    rng = np.random.default_rng(0)
    repeated = np.tile(np.arange(500), 200)
    slates = PlackettLuce(FEW.target[repeated], 0.6).draw(3, rng)
    liked = FEW.appeal[repeated[:, np.newaxis], slates]
    drawn = Cascade(stay=0.9, go_on=0.2).draw(liked, rng).sum(axis=1)
    value = rows(read_from_the_top, 0.6)["truth"].iloc[0]
    assert abs(drawn.mean() - value) < 4 * stats.sem(drawn)


def test_the_overlap_of_lists_is_the_mean_square_of_their_weights(
    read_at_places: pd.DataFrame,
) -> None:
    """Which is their mean under the target policy: drawn so, it has far lighter tails."""
    repeated = np.tile(np.arange(500), 400)
    policies = PlackettLuce(FEW.logging[repeated], 1.5), PlackettLuce(FEW.target[repeated], 2.0)
    slates = policies[1].draw(3, np.random.default_rng(0))
    logging, target = (policy.log_propensities(slates).sum(axis=1) for policy in policies)
    overlap = rows(read_at_places, 2.0)["overlap"].iloc[0]
    assert 1 / np.exp(target - logging).mean() == pytest.approx(overlap, rel=0.03)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("temperature", [2.0, 1.0])
def test_estimators_of_lists_are_unbiased_where_places_count(
    read_at_places: pd.DataFrame, name: str, temperature: float
) -> None:
    found = rows(read_at_places, temperature).loc[name]
    assert abs(found["bias"]) < 4 * found["bias_error"]


@pytest.mark.parametrize("name", LISTS)
def test_intervals_of_lists_cover_at_good_overlap(read_at_places: pd.DataFrame, name: str) -> None:
    assert 0.93 <= rows(read_at_places, 2.0).loc[name, "coverage"] <= 0.97


def test_the_more_is_assumed_the_less_varies(read_at_places: pd.DataFrame) -> None:
    for temperature in (2.0, 1.0):
        found = rows(read_at_places, temperature)
        sd = found["sd"]
        assert sd["slate IPS"] > 1.15 * sd["RIPS"]
        assert sd["RIPS"] > 1.1 * sd["IIPS"]
        assert sd["IIPS"] > sd["PBM"]
        assert sd["cascade-DR"] < 0.97 * sd["RIPS"]
        ess = found["ess"]
        assert ess["RIPS"] == ess["cascade-DR"] < ess["IIPS"] < ess["PBM"]


def test_what_assumes_places_fails_where_people_read_from_the_top(
    read_from_the_top: pd.DataFrame,
) -> None:
    found = rows(read_from_the_top, 0.6)
    for name in ("PBM", "IIPS"):
        assert found.loc[name, "bias"] > 8 * found.loc[name, "bias_error"]
        assert found.loc[name, "coverage_high"] < 0.95
    for name in ("slate IPS", "RIPS", "cascade-DR"):
        assert abs(found.loc[name, "bias"]) < 4 * found.loc[name, "bias_error"]


def test_own_estimators_are_welcome() -> None:
    mine = {"clicks": lambda log, _: log.reward.sum(axis=-1)}
    found = simulate_rankings(FEW, Cascade(), [1.0], n=50, replications=30, estimators=mine)
    assert found["estimator"].tolist() == ["clicks"]
    assert found["bias"].iloc[0] < -5 * found["bias_error"].iloc[0]  # what the old policy earns
    single = {"rewards": lambda log, _: log.reward}
    found = simulate(FEW, [1.0], n=50, replications=30, estimators=single)
    assert found["estimator"].tolist() == ["rewards"]


def test_hundreds_of_logs_are_evaluated_soon() -> None:
    start = time.perf_counter()
    simulate(POPULATION, temperatures=(1.5, 0.5), n=2000, replications=200)
    simulate_rankings(FEW, PositionBased(), (1.5, 0.5), n=1000, replications=100)
    assert time.perf_counter() - start < 8  # usually about 1.5


def test_all_estimators_are_studied() -> None:
    found = simulate_rankings(FEW, PositionBased(), [1.0], k=2, n=50, replications=5)
    assert found["estimator"].tolist() == list(slate_policies.ESTIMATORS)


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replications": 1}, "1 replications have no spread"),
        ({"temperatures": [1.0, 0.0]}, r"temperatures \[0.0\] must be above 0"),
        ({"logging_temperature": -1.0}, r"temperatures \[-1.0\] must be above 0"),
        ({"n": 3}, "folds 2 of 3 requests"),
    ],
)
def test_impossible_studies_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(FEW, **options)
    with pytest.raises(ValueError, match=message):
        simulate_rankings(FEW, PositionBased(), **options)


def test_lists_that_cannot_be_enumerated_are_refused() -> None:
    with pytest.raises(ValueError, match="1860480 lists are too many"):
        simulate_rankings(POPULATION, PositionBased(), k=5, n=50, replications=2)
