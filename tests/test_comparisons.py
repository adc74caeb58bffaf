"""Pipelines compared: tests agree with oracles, hold their level, and find what is planted."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests

from firetv import abtest, comparisons
from firetv.abtest import clustered_interval, paired_test
from firetv.comparisons import (
    ALPHA,
    DRAWS,
    FEWEST,
    Segments,
    _interaction,
    corrected,
    paired_tests,
    segments,
)
from firetv.evaluate import compare

QUICK = {"resamples": 200}


def measured(
    user: np.ndarray, seed: int = 0, metric: str = "ndcg@10", **models: np.ndarray
) -> pd.DataFrame:
    """Values of some models for each request, in the form of ``measure``."""
    request = pd.DataFrame({"seed": seed, "split": "s", "request": np.arange(len(user))})
    request = request.assign(user=user, known=True, metric=metric)
    frames = [request.assign(model=name, value=value) for name, value in models.items()]
    return pd.concat(frames, ignore_index=True)


def heavy(rng: np.random.Generator, users: int = 25) -> np.ndarray:
    """Users of requests: most have a few, some have dozens."""
    return np.repeat(np.arange(users), rng.geometric(0.15, users))


def noisy(user: np.ndarray, rng: np.random.Generator, own: float = 0.7) -> np.ndarray:
    """Differences without any effect, which are alike within a user."""
    return own * rng.normal(size=user.max() + 1)[user] + rng.normal(size=len(user))


@pytest.fixture(autouse=True)
def _fewer_flips(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as tell 5 % from 1 %, for speed."""
    monkeypatch.setattr(comparisons, "FLIPS", 1999)


@pytest.fixture(scope="module")
def values() -> pd.DataFrame:
    """Two metrics and two seeds of three models, for users of whom some ask often."""
    rng = np.random.default_rng(0)
    user, frames = heavy(rng), []
    for seed in (0, 1):
        for metric in ("ndcg@10", "hr@10"):
            base = rng.random(len(user))
            better = base + 0.15 * rng.random(len(user))
            other = np.where(rng.random(len(user)) < 0.5, base, rng.random(len(user)))
            frames.append(measured(user, seed, metric, a=base, b=better, c=other))
    return pd.concat(frames, ignore_index=True)


# Tests


@pytest.mark.parametrize("unit", ["user", "request"])
def test_intervals_are_those_of_a_comparison(values: pd.DataFrame, unit: str) -> None:
    columns = ["model", "metric", "value", "low", "high", "n", "seeds"]
    found = paired_tests(values, "a", seed=3, unit=unit)
    expected = compare(values, "a", seed=3, unit=unit)
    pd.testing.assert_frame_equal(found[columns], expected[columns], rtol=1e-12)
    assert list(found) == [
        *columns[:-1],
        "effect",
        "wins",
        "losses",
        "ties",
        "p",
        "p_sign",
        "seeds",
    ]
    assert len(found) == 4


def test_users_count_once_and_are_tested_in_pairs(values: pd.DataFrame) -> None:
    found = paired_tests(values, "a", seed=3).set_index(["model", "metric"])
    for (model, metric), row in found.iterrows():
        each = values[values["metric"] == metric].groupby(["model", "user"])["value"].mean()
        expected = paired_test(
            each[model].to_numpy(), each["a"].to_numpy(), seed=3, flips=comparisons.FLIPS
        )
        assert row["effect"] == pytest.approx(expected.effect)
        assert (row["wins"], row["losses"], row["ties"]) == (
            expected.wins, expected.losses, expected.ties,
        )  # fmt: skip
        assert row["p_sign"] == pytest.approx(expected.p_sign)
        assert row["p"] == expected.p_permutation


def test_where_requests_count_users_are_still_the_witnesses(values: pd.DataFrame) -> None:
    found = paired_tests(values, "a", seed=3, unit="request").set_index(["model", "metric"])
    table = values.pivot(
        index=["metric", "user", "seed", "request"], columns="model", values="value"
    )
    for (model, metric), row in found.iterrows():
        part = table.loc[metric]
        difference = part[model] - part["a"]
        users = difference.index.get_level_values("user")
        interval = clustered_interval(difference.to_numpy(), users.to_numpy(), seed=3)
        assert (row["low"], row["high"], row["n"]) == (interval.low, interval.high, interval.n)
        assert row["value"] == pytest.approx(difference.mean())
        sums = difference.groupby(level="user").sum()
        assert row["effect"] == pytest.approx(sums.mean() / sums.std(ddof=1))
        assert (row["wins"], row["losses"]) == ((sums > 0).sum(), (sums < 0).sum())


@pytest.mark.parametrize("unit", ["user", "request"])
def test_p_is_that_of_all_signs_of_few_users(unit: str) -> None:
    """Whole users change sides: scipy tries all 512 ways."""
    rng = np.random.default_rng(1)
    user = heavy(rng, 9)
    gain = noisy(user, rng) + 0.2
    sums = np.bincount(user, gain) / (np.bincount(user) if unit == "user" else 1)
    found = paired_tests(measured(user, a=0 * gain, b=gain), "a", unit=unit).iloc[0]
    expected = stats.permutation_test(
        (sums,), np.sum, permutation_type="samples", n_resamples=np.inf
    )
    assert found["p"] == pytest.approx(expected.pvalue)
    assert 0.01 < found["p"] < 0.9


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer replications, for tests that do not look at digits."""
    paired, clustered = partial(paired_test, **QUICK), partial(clustered_interval, **QUICK)
    monkeypatch.setattr(comparisons, "paired_test", partial(paired, flips=1999))
    monkeypatch.setattr(comparisons, "clustered_interval", clustered)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("unit", ["user", "request"])
def test_models_that_are_alike_differ_one_time_in_twenty(
    unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels are swapped for whole users, some of whom ask by the dozen: 0.05 +- 4 deviations."""
    monkeypatch.setattr(abtest, "_bca", lambda *given: (np.nan, np.nan))  # p needs no interval
    rng, p = np.random.default_rng(2), []
    for repeat in range(20):
        user, frames = heavy(rng), []
        for number in range(20):
            pair = rng.random((2, len(user))) + rng.random((2, user.max() + 1))[:, user]
            swap = (rng.random(user.max() + 1) < 0.5)[user]
            a, b = np.where(swap, pair, pair[::-1])
            frames.append(measured(user, metric=f"m{number}", a=a, b=b))
        p.extend(paired_tests(pd.concat(frames), "a", repeat, unit)["p"])
    assert len(p) == 400
    assert np.mean(np.array(p) <= ALPHA) == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 400))
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_one_heavy_user_is_one_witness() -> None:
    """Each request for itself would be a sure thing."""
    user = np.repeat(np.arange(12), [300] + [2] * 11)
    gain = np.where(user == 0, 1.0, np.where(np.arange(len(user)) % 2, 0.2, -0.2))
    found = paired_tests(measured(user, a=0 * gain, b=gain), "a", unit="request").iloc[0]
    assert found["value"] > 0.9
    assert found["p"] == 1  # all others cancel out, so that one sign is left
    assert (found["wins"], found["losses"], found["ties"]) == (1, 0, 11)
    assert found["p_sign"] == 1


@pytest.mark.parametrize("unit", ["user", "request"])
def test_what_differs_by_rounding_only_is_a_tie(unit: str) -> None:
    """0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in floating point."""
    user = np.repeat(np.arange(20), 3)
    up, down = np.tile([0.1, 0.2, 0.3], 20), np.tile([0.3, 0.2, 0.1], 20)
    assert 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1
    found = paired_tests(measured(user, a=up, b=down), "a", unit=unit).iloc[0]
    assert (found["wins"], found["losses"], found["ties"]) == (0, 0, 20)
    assert (found["p"], found["p_sign"], found["effect"]) == (1, 1, 0)
    assert found["value"] == pytest.approx(0, abs=1e-15)


def test_requests_without_a_value_are_left_out(values: pd.DataFrame) -> None:
    gone = values["user"].isin([0, 1]) & (values["model"] == "b")
    holed = values.assign(value=values["value"].mask(gone))
    for unit in ("user", "request"):
        found = paired_tests(holed, "a", unit=unit).set_index(["model", "metric"])
        without = values[~values["user"].isin([0, 1])]
        expected = paired_tests(without, "a", unit=unit).set_index(["model", "metric"])
        pd.testing.assert_frame_equal(found.loc[["b"]], expected.loc[["b"]])
        assert (found.loc["c", "n"] == found.loc["b", "n"] + 2).all()


def test_tests_repeat(values: pd.DataFrame) -> None:
    first = paired_tests(values, "a", seed=1)
    pd.testing.assert_frame_equal(paired_tests(values, "a", seed=1), first)
    assert (paired_tests(values, "a", seed=2)["low"] != first["low"]).any()


def test_a_reference_needs_something_to_be_compared_to(values: pd.DataFrame) -> None:
    with pytest.raises(KeyError, match="'d' is not among the models: a, b, c"):
        paired_tests(values, "d")
    with pytest.raises(ValueError, match="'a' is the only model: measure another one"):
        paired_tests(values[values["model"] == "a"], "a")


@pytest.mark.parametrize("unit", ["user", "request"])
def test_one_user_is_not_enough(unit: str) -> None:
    user = np.zeros(4, int)
    with pytest.raises(ValueError, match="needs at least 2 "):
        paired_tests(measured(user, a=np.zeros(4), b=np.arange(4.0)), "a", unit=unit)
    nothing = measured(np.arange(4), a=np.zeros(4), b=np.array([1.0, np.nan, np.nan, np.nan]))
    with pytest.raises(ValueError, match="needs at least 2 values, not 1"):
        paired_tests(nothing, "a", unit=unit)


def test_requests_none_of_which_has_a_value_are_one_error() -> None:
    nothing = measured(np.arange(4), a=np.zeros(4), b=np.full(4, np.nan))
    with pytest.raises(ValueError, match="needs at least 2 values, not 0"):
        paired_tests(nothing, "a", unit="request")


# Corrections


def test_corrections_by_hand() -> None:
    found = corrected(pd.DataFrame({"p": [0.04, 0.01, 0.2, 0.03], "model": list("abcd")}))
    # Holm: 0.01 * 4, 0.03 * 3, then 0.04 * 2 is raised to the one before; 0.2 * 1.
    np.testing.assert_allclose(found["holm"], [0.09, 0.04, 0.2, 0.09])
    # Benjamini and Hochberg: 0.2 * 4/4, 0.04 * 4/3, 0.03 * 4/2 is lowered to it; 0.01 * 4/1.
    np.testing.assert_allclose(found["bh"], [0.16 / 3, 0.04, 0.2, 0.16 / 3])
    assert found["model"].tolist() == list("abcd")


def test_corrections_are_those_of_statsmodels() -> None:
    p = np.append(np.random.default_rng(0).beta(0.3, 1, 30), [0.0, 1.0, 1.0])
    found = corrected(pd.DataFrame({"p": p}, index=np.arange(33) * 7))
    np.testing.assert_allclose(found["holm"], multipletests(p, method="holm")[1])
    np.testing.assert_allclose(found["bh"], multipletests(p, method="fdr_bh")[1])
    assert (found["holm"] >= found["bh"] - 1e-12).all()
    assert (found["bh"] >= found["p"] - 1e-12).all()
    assert found.index.tolist() == (np.arange(33) * 7).tolist()


def test_one_test_alone_needs_no_correction() -> None:
    assert corrected(pd.DataFrame({"p": [0.03]})).iloc[0].tolist() == [0.03] * 3
    assert corrected(pd.DataFrame({"p": np.zeros(0)})).empty


# Segments


def cut(
    user: np.ndarray, gain: np.ndarray, metric: str = "ndcg@10", **labels: object
) -> pd.DataFrame:
    """Values of ``a`` and of ``b``, which is better by the gain, with the segments of requests."""
    base = np.random.default_rng(9).random(len(user))
    values = measured(user, metric=metric, a=base, b=base + gain)
    return values.assign(**{n: pd.concat([pd.Series(v)] * 2).array for n, v in labels.items()})


def cut_by(values: pd.DataFrame, *by: str, seed: int = 0) -> Segments:
    return segments(values, "b", "a", by or ("daypart",), "ndcg@10", seed)


def crossed(users: int = 60, each: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Users, all of whom are in two or three of the segments."""
    user = np.repeat(np.arange(users), each)
    return user, np.array(["morning", "evening", "night"])[(user + np.arange(len(user)) // 2) % 3]


@pytest.mark.usefixtures("quick")
def test_a_planted_interaction_is_found_and_the_segment_told() -> None:
    rng = np.random.default_rng(3)
    user, daypart = crossed()
    gain = 0.3 * noisy(user, rng) + np.where(daypart == "night", 0.3, 0)
    other = np.where(user % 2, "young", "old")
    found = cut_by(cut(user, gain, daypart=daypart, age=other), "daypart", "age")
    tested = found.interactions.set_index("by")
    assert tested["segments"].to_dict() == {"daypart": 3, "age": 2}
    assert tested.loc["daypart", "holm"] < 0.01
    assert tested.loc["age", "p"] > 0.05
    rows = found.rows.set_index(["by", "segment"])
    assert rows.index.tolist() == [
        ("daypart", "evening"), ("daypart", "morning"), ("daypart", "night"),
        ("age", "old"), ("age", "young"),
    ]  # fmt: skip
    assert rows.loc[("daypart", "night"), "low"] > 0.15
    assert rows.loc[("daypart", "night"), "holm"] < 0.01
    assert rows.loc[("daypart", "evening"), "low"] < 0
    assert found.left_out == ()
    np.testing.assert_allclose(rows["holm"], multipletests(rows["p"], method="holm")[1])
    np.testing.assert_allclose(tested["holm"], multipletests(tested["p"], method="holm")[1])


def test_a_row_of_a_segment_is_the_test_of_its_requests() -> None:
    rng = np.random.default_rng(4)
    user, daypart = crossed()
    values = cut(user, noisy(user, rng), daypart=daypart)
    rows = cut_by(values, seed=5).rows.set_index("segment")
    assert list(rows) == ["by", "value", "low", "high", "n", "p", "holm"]
    for name, row in rows.iterrows():
        part = values[values["daypart"] == name]
        expected = paired_tests(part, "a", seed=5, unit="request").iloc[0]
        columns = ["value", "low", "high", "n", "p"]
        assert row[columns].tolist() == pytest.approx(expected[columns].tolist(), rel=1e-12)
        assert row["n"] == part["user"].nunique()


def nested(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Each user in one of four segments, ten users in each: usual tests find 14 % here."""
    user = np.repeat(np.arange(40), rng.geometric(0.2, 40))
    return user, user % 4


def crossing(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Each user in most of the segments."""
    return rng.integers(30, size=300), rng.integers(4, size=300)


def more_segments_than_users(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(np.arange(12), 32), np.tile(np.arange(16), 24)


@pytest.mark.parametrize("drawn", [nested, crossing, more_segments_than_users])
def test_without_an_interaction_p_is_uniform(
    drawn: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 400 shares that are 0.05, the deviation is 0.011."""
    monkeypatch.setattr(comparisons, "DRAWS", 199)
    p = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        user, segment = drawn(rng)
        frame = pd.DataFrame({"user": user, "s": segment, "difference": noisy(user, rng)})
        p.append(_interaction(frame, "s", seed))
    assert stats.kstest(p, "uniform").pvalue > 0.001
    assert np.mean(np.array(p) <= 0.05) < 0.05 + 4 * 0.011
    assert np.mean(np.array(p) <= 0.05) > 0.01


def test_the_statistic_is_that_of_a_regression_clustered_by_user() -> None:
    """But for a factor of the number of users, which no draw changes."""
    rng = np.random.default_rng(6)
    user, segment = crossing(rng)
    difference = noisy(user, rng)
    shape, cell = (30, 4), user * 4 + segment
    left = np.bincount(cell, difference - difference.mean(), 120).reshape(shape)
    sizes = np.bincount(cell, minlength=120).reshape(shape)
    signs = np.vstack([np.ones(30), rng.choice([-1.0, 1.0], (3, 30))])
    found = comparisons._wald(signs, left, sizes)
    design = np.eye(4)[segment]
    for sign, statistic in zip(signs, found, strict=True):
        each = (difference - difference.mean()) * sign[user]
        fitted = OLS(each, design).fit(cov_type="cluster", cov_kwds={"groups": user})
        apart = np.eye(4)[1:] - np.eye(4)[0]
        expected = fitted.wald_test(apart, use_f=False, scalar=True).statistic
        factor = 30 / 29 * 299 / 296  # that statsmodels puts on the covariance
        assert statistic == pytest.approx(expected * factor, rel=1e-6)


def test_many_users_give_the_p_of_the_regression() -> None:
    """Within four deviations of a share of 1999."""
    rng = np.random.default_rng(7)
    user, segment = rng.integers(1500, size=6000), rng.integers(3, size=6000)
    gain = noisy(user, rng) + 0.02 * (segment == 1)
    frame = pd.DataFrame({"user": user, "s": segment, "difference": gain})
    fitted = OLS(gain, np.eye(3)[segment]).fit(cov_type="cluster", cov_kwds={"groups": user})
    expected = float(
        fitted.wald_test(np.array([[-1, 1, 0], [-1, 0, 1]]), use_f=False, scalar=True).pvalue
    )
    assert 0.005 < expected < 0.3
    error = np.sqrt(expected * (1 - expected) / DRAWS)
    assert _interaction(frame, "s", 0) == pytest.approx(expected, abs=4 * error + 0.001)


def test_the_order_of_requests_and_the_size_of_chunks_do_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(8)
    user, segment = crossing(rng)
    frame = pd.DataFrame({"user": user, "s": segment, "difference": noisy(user, rng)})
    p = _interaction(frame, "s", 1)
    assert _interaction(frame, "s", 1) == p
    assert _interaction(frame, "s", 2) != p
    monkeypatch.setattr(comparisons, "CELLS", 7 * 30)
    assert _interaction(frame, "s", 1) == p


@pytest.mark.usefixtures("quick")
def test_no_difference_anywhere_is_no_interaction() -> None:
    user, daypart = crossed()
    for gain in (0.0, 0.25):
        found = cut_by(cut(user, np.full(len(user), gain), daypart=daypart))
        assert found.interactions["p"].tolist() == [1]
        assert found.rows["value"].tolist() == pytest.approx([gain] * 3)
        assert (found.rows["low"] == found.rows["high"]).all()
        assert (found.rows["p"] == 1).all() == (gain == 0)


@pytest.mark.usefixtures("quick")
def test_segments_that_do_not_vary_may_differ() -> None:
    user = np.repeat(np.arange(40), 3)
    values = cut(user, 0.0 + (user % 2), daypart=np.where(user % 2, "day", "night"))
    assert cut_by(values).interactions["p"].tolist() == [1 / (DRAWS + 1)]


@pytest.mark.usefixtures("quick")
def test_small_segments_and_missing_labels_are_left_out() -> None:
    rng = np.random.default_rng(10)
    user = np.repeat(np.arange(60), 3)
    names = np.array(["a", "b", "few", None], object)[np.digitize(user, [25, 48, 57])]
    gain = noisy(user, rng)
    found = cut_by(cut(user, gain, daypart=pd.Series(names, dtype=object)))
    assert found.left_out == ("daypart: few",)
    assert found.rows["segment"].tolist() == ["a", "b"]
    assert found.rows["n"].tolist() == [25, 23]
    assert found.interactions["segments"].tolist() == [2]
    kept = user < 48
    only = cut_by(cut(user[kept], gain[kept], daypart=names[kept]))
    pd.testing.assert_frame_equal(found.rows, only.rows)
    pd.testing.assert_frame_equal(found.interactions, only.interactions)


@pytest.mark.usefixtures("quick")
def test_empty_categories_are_no_segments() -> None:
    rng = np.random.default_rng(11)
    user = np.repeat(np.arange(60), 3)
    bins = pd.cut(user, [-100, -50, 19, 39, 59, 70, 80])
    gain = noisy(user, rng)
    found = cut_by(cut(user, gain, daypart=bins))
    assert found.rows["segment"].tolist() == ["(-50, 19]", "(19, 39]", "(39, 59]"]
    assert found.left_out == ()
    assert found.interactions["segments"].tolist() == [3]
    texts = np.array(["x", "y", "z"])[user // 20]
    plain = cut_by(cut(user, gain, daypart=texts))
    columns = ["value", "low", "high", "n", "p", "holm"]
    pd.testing.assert_frame_equal(found.rows[columns], plain.rows[columns])
    pd.testing.assert_frame_equal(found.interactions, plain.interactions)


@pytest.mark.usefixtures("quick")
def test_numbers_and_columns_of_every_request_can_be_cut_by() -> None:
    rng = np.random.default_rng(12)
    user = np.repeat(np.arange(40), 4)
    values = cut(user, noisy(user, rng), size=1 + user % 2)
    more = values.assign(split="t", value=values["value"] + (values["model"] == "b"))
    found = cut_by(pd.concat([values, more], ignore_index=True), "size", "split")
    assert found.rows["segment"].tolist() == ["1", "2", "s", "t"]
    assert found.interactions.set_index("by")["p"]["split"] == 1 / (DRAWS + 1)


@pytest.mark.usefixtures("quick")
def test_other_models_and_metrics_change_nothing() -> None:
    rng = np.random.default_rng(13)
    user, daypart = crossed()
    values = cut(user, noisy(user, rng), daypart=daypart)
    more = [values, values.assign(metric="hr@10", value=0.0)]
    more.append(values[values["model"] == "b"].assign(model="c", value=9.0))
    pd.testing.assert_frame_equal(
        cut_by(pd.concat(more, ignore_index=True)).rows, cut_by(values).rows
    )


@pytest.mark.usefixtures("quick")
def test_a_warning_says_what_so_many_looks_find() -> None:
    rng = np.random.default_rng(14)
    user, daypart = crossed()
    warning = cut_by(cut(user, noisy(user, rng), daypart=daypart)).warning
    assert warning.startswith("3 segments were looked at")
    assert "probability of 14%" in warning  # 1 - 0.95 ** 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "c"}, KeyError, r"no values of c in ndcg@10"),
        ({"reference": "d", "model": "c"}, KeyError, r"no values of c, d in ndcg@10"),
        ({"metric": "map@10"}, KeyError, r"no values of a, b in map@10"),
        ({"by": ["daypart", "mood"]}, KeyError, r"no columns mood: add them to the values"),
        ({"by": []}, ValueError, r"by is empty: name the columns to cut by"),
        (
            {"by": ["alone"]},
            ValueError,
            rf"alone has 1 segments of {FEWEST} users or more: it needs 2",
        ),
        ({"by": ["unknown"]}, ValueError, rf"unknown has 0 segments of {FEWEST} users or more"),
        ({"by": ["user"]}, ValueError, "cannot cut by user: copy it to another column"),
        ({"by": ["value", "request"]}, ValueError, "cannot cut by request, value: copy"),
    ],
)
def test_wrong_questions_are_told(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    user, daypart = crossed()
    gain = noisy(user, np.random.default_rng(15))
    values = cut(user, gain, daypart=daypart, alone=np.where(user < 9, "few", "many"))
    given = {"model": "b", "reference": "a", "by": ["daypart"], "metric": "ndcg@10"} | change
    with pytest.raises(error, match=message):
        segments(values.assign(unknown=None), **given)
