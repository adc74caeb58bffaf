"""Interleaving against plain loops over all coins, and what its tests find."""

from __future__ import annotations

from collections import defaultdict
from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from firetv import interleaving
from firetv.clicks import Cascade, PositionBased
from firetv.interleaving import (
    DESIGNS,
    Interleaved,
    preference,
    probabilistic,
    sensitivity,
    team_draft,
)

PAIRS = [  # A, B
    ((1, 2, 3, 4), (1, 2, 3, 4)),
    ((1, 2, 3, 4), (4, 3, 2, 1)),
    ((1, 2, 3, 4), (2, 1, 5, 6)),
    ((1, 2, 3, 4), (5, 6, 7, 8)),
    ((9, 1, 2, 3), (1, 9, 3, 7)),
]
SHORT = [((1, 2, -1, -1), (1, 5, 6, 7)), ((1, -1, -1), (1, -1, -1)), ((-1, -1), (3, 4))]


class Coins:
    """A generator whose coins are given: below 0.5 is heads."""

    def __init__(self, heads: np.ndarray) -> None:
        self.heads = heads  # (R, k)

    def random(self, shape: tuple[int, int]) -> np.ndarray:
        assert shape == self.heads.T.shape
        return np.where(self.heads.T, 0.25, 0.75)


def all_drafts(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[np.ndarray, Interleaved]:
    """Every outcome of the coins, each as likely as any other."""
    heads = np.array(list(product([True, False], repeat=len(a))))
    lists = (np.tile(x, (len(heads), 1)) for x in (a, b))
    return heads, team_draft(*lists, Coins(heads))


def drafted(
    a: tuple[int, ...], b: tuple[int, ...], heads: np.ndarray
) -> tuple[list[int], list[int]]:
    """The draft as Radlinski et al. write it down, then the rest of the longer list."""
    made, team, k = [], [], len(a)
    a, b = ([x for x in one if x >= 0] for one in (a, b))
    while len(made) < k and set(a) - set(made) and set(b) - set(made):
        mine, yours = team.count(1), team.count(-1)
        first = mine < yours or (mine == yours and heads[len(made)])
        made.append(next(x for x in (a if first else b) if x not in made))
        team.append(1 if first else -1)
    rest = [x for x in (*a, *b) if x not in made][: k - len(made)]
    made, team = made + rest, team + [0] * len(rest)
    return made + [-1] * (k - len(made)), team + [0] * (k - len(team))


def softened(
    a: tuple[int, ...], b: tuple[int, ...], tau: float
) -> dict[tuple[int, ...], dict[tuple[int, ...], float]]:
    """Probability of each list and each assignment of its titles, by trying everything."""
    found: dict = defaultdict(lambda: defaultdict(float))

    def grow(made: tuple[int, ...], team: tuple[int, ...], p: float) -> None:
        options = []
        for side, one in ((1, a), (-1, b)):
            weights = {x: (i + 1) ** -tau for i, x in enumerate(one) if x >= 0 and x not in made}
            options.append((side, weights))
        if len(made) == len(a) or not any(weights for _, weights in options):
            left = (0,) * (len(a) - len(made))
            found[(*made, *(-1 for _ in left))][(*team, *left)] += p
            return
        able = [(side, weights) for side, weights in options if weights]
        for side, weights in able:
            for x, weight in weights.items():
                chance = p * weight / sum(weights.values()) / len(able)
                grow((*made, x), (*team, side * (len(able) == 2)), chance)

    grow((), (), 1.0)
    return found


# Team draft


@pytest.mark.parametrize(("a", "b"), [*PAIRS, *SHORT])
def test_drafts_are_those_of_the_paper(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    heads, mixed = all_drafts(a, b)
    for row, coins in enumerate(heads):
        items, team = drafted(a, b, coins)
        assert mixed.items[row].tolist() == items
        assert mixed.team[row].tolist() == team
    assert mixed.team.dtype == np.int8
    np.testing.assert_array_equal(mixed.worth, mixed.team)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_drafts_favour_nobody_who_clicks_by_position(a: tuple, b: tuple) -> None:
    """Over all coins, every position is as often A's as B's, whatever the rankings."""
    _, mixed = all_drafts(a, b)
    np.testing.assert_array_equal(mixed.team.sum(axis=0), 0)
    assert np.isin(mixed.team, (1, -1)).all()


def test_drafts_favour_nobody_on_equal_lists_whatever_is_clicked() -> None:
    _, mixed = all_drafts((1, 2, 3, 4), (1, 2, 3, 4))
    assert (mixed.items == [1, 2, 3, 4]).all()
    for clicks in product([False, True], repeat=4):
        assert mixed.credit(np.tile(clicks, (len(mixed.items), 1))).sum() == 0


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_swapped_rankings_swap_teams(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    heads, mixed = all_drafts(a, b)
    lists = (np.tile(x, (len(heads), 1)) for x in (b, a))
    swapped = team_draft(*lists, Coins(~heads))
    np.testing.assert_array_equal(swapped.items, mixed.items)
    np.testing.assert_array_equal(swapped.team, -mixed.team)


# Probabilistic


@pytest.mark.parametrize(("a", "b"), [(x[:3], y[:3]) for x, y in (*PAIRS, *SHORT)])
@pytest.mark.parametrize("tau", [3.0, 0.5])
def test_softened_lists_are_as_likely_as_they_should_be(a: tuple, b: tuple, tau: float) -> None:
    """Frequencies of lists and of teams; credit is the expected team, given the list."""
    n, expected = 20_000, softened(a, b, tau)
    lists = (np.tile(x, (n, 1)) for x in (a, b))
    mixed = probabilistic(*lists, np.random.default_rng(2), tau)
    seen = pd.Series(list(map(tuple, mixed.items.tolist())))
    assert set(seen) <= set(expected)
    for made, ways in expected.items():
        p, rows = sum(ways.values()), (seen == made).to_numpy()
        assert rows.mean() == pytest.approx(p, abs=5 * np.sqrt(p * (1 - p) / n) + 1e-12)
        worth = sum(np.array(team) * chance for team, chance in ways.items()) / p
        np.testing.assert_allclose(mixed.worth[rows], np.tile(worth, (rows.sum(), 1)), atol=1e-12)
        if rows.sum() > 100:
            noise = 5 / np.sqrt(rows.sum())
            np.testing.assert_allclose(mixed.team[rows].mean(axis=0), worth, atol=noise)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_softened_lists_favour_nobody_who_clicks_by_position(a: tuple, b: tuple) -> None:
    total = np.zeros(len(a))
    for ways in softened(a, b, 3.0).values():
        total += sum(np.array(team) * chance for team, chance in ways.items())
    np.testing.assert_allclose(total, 0, atol=1e-12)


def test_swapped_rankings_swap_worth() -> None:
    a, b = (np.tile(x, (500, 1)) for x in PAIRS[2])
    one = probabilistic(a, b, np.random.default_rng(0))
    other = probabilistic(b, a, np.random.default_rng(1))
    worth = dict(zip(map(tuple, one.items.tolist()), one.worth, strict=True))
    both = [(made, -w) for made, w in zip(map(tuple, other.items), other.worth, strict=True)]
    shared = [(worth[made], w) for made, w in both if made in worth]
    assert len(shared) > 400
    for mine, yours in shared:
        np.testing.assert_allclose(mine, yours, atol=1e-12)


def test_a_steep_softmax_keeps_the_order() -> None:
    a, b = (np.tile(x, (200, 1)) for x in PAIRS[3])
    mixed = probabilistic(a, b, np.random.default_rng(0), tau=60)
    for one, side in ((a, 1), (b, -1)):
        for row in range(200):
            mine = mixed.items[row][mixed.team[row] == side]
            np.testing.assert_array_equal(mine, one[row, : len(mine)])


# Both


@pytest.mark.parametrize("make", [team_draft, probabilistic])
def test_lists_hold_distinct_items_of_both(make: object) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.permuted(np.tile(np.arange(20), (3000, 1)), axis=1)[:, :8] for _ in range(2))
    a[:1000, 5:] = b[500:1500, 3:] = -1
    mixed = make(a, b, rng)
    assert mixed.items.shape == mixed.team.shape == mixed.worth.shape == (3000, 8)
    assert (np.abs(mixed.worth) <= 1 + 1e-12).all()
    for row, (items, team) in enumerate(zip(mixed.items, mixed.team, strict=True)):
        there = items[items >= 0]
        union = {*a[row], *b[row]} - {-1}
        assert len(set(there)) == len(there) == min(8, len(union))
        assert set(there) <= union
        assert set(items[team == 1]) <= set(a[row])
        assert set(items[team == -1]) <= set(b[row])
        if make is team_draft:
            assert abs(int(team.sum())) <= 1
            assert np.abs(np.cumsum(team)).max() <= 1  # at all depths
            for one, side in ((a, 1), (b, -1)):
                rank = [list(one[row]).index(x) for x in items[team == side]]
                assert rank == sorted(rank)


@pytest.mark.parametrize("make", [team_draft, probabilistic])
def test_equal_lists_are_a_tie(make: object) -> None:
    rng = np.random.default_rng(0)
    lists = rng.permuted(np.tile(np.arange(9), (4000, 1)), axis=1)[:, :6]
    mixed = make(lists, lists, rng)
    credit = mixed.credit(PositionBased(0.5).draw(np.full(lists.shape, 0.4), rng))
    if make is probabilistic:  # nothing in the list says whose a title is
        np.testing.assert_array_equal(mixed.worth, 0)
        assert preference(credit).p == 1
    else:
        np.testing.assert_array_equal(mixed.items, lists)
        assert preference(credit).p > 0.001


@pytest.mark.parametrize("make", [team_draft, probabilistic])
@pytest.mark.parametrize("model", [PositionBased(), Cascade(1, 0)], ids=str)
def test_whoever_likes_everything_alike_prefers_nobody(make: object, model: object) -> None:
    rng = np.random.default_rng(5)
    a, b = (rng.permuted(np.tile(np.arange(15), (20_000, 1)), axis=1)[:, :6] for _ in range(2))
    mixed = make(a, b, rng)
    found = preference(mixed.credit(model.draw(np.full(a.shape, 0.3), rng)))
    assert found.share.n > 5000
    assert found.share.value == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(found.share.n))


@pytest.mark.parametrize("make", [team_draft, probabilistic])
def test_inputs_stay_and_seeds_repeat(make: object) -> None:
    a, b = (np.tile(x, (50, 1)) for x in PAIRS[2])
    first, again = (make(a, b, np.random.default_rng(4)) for _ in range(2))
    for name in ("items", "team", "worth"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    np.testing.assert_array_equal(a, np.tile(PAIRS[2][0], (50, 1)))
    assert make(a[:0], b[:0], np.random.default_rng(0)).items.shape == (0, 4)


@pytest.mark.parametrize("make", [team_draft, probabilistic])
def test_lists_are_checked(make: object) -> None:
    rng, good = np.random.default_rng(0), np.array([[1, 2, -1, -1]])
    with pytest.raises(ValueError, match=r"shapes \(1, 4\) and \(1, 3\): give both a row per"):
        make(good, good[:, :3], rng)
    with pytest.raises(ValueError, match=r"shapes \(4,\) and \(4,\)"):
        make(good[0], good[0], rng)
    with pytest.raises(ValueError, match="1 lists of b hold an item twice: keep its first"):
        make(good, np.array([[3, 4, 3, 5]]), rng)


@pytest.mark.parametrize("tau", [0.0, -1.0, np.nan, np.inf])
def test_tau_is_checked(tau: float) -> None:
    lists = np.array([[1, 2]])
    with pytest.raises(ValueError, match="must be above 0: 3 is usual"):
        probabilistic(lists, lists, np.random.default_rng(0), tau)


# What clicks say


def test_credit_is_clicks_of_one_team_minus_the_other() -> None:
    team = np.array([[1, -1, 1, 0], [-1, 1, 0, 0]], np.int8)
    mixed = Interleaved(np.arange(8).reshape(2, 4), team, team * 0.5)
    clicks = np.array([[True, True, True, True], [True, False, False, True]])
    np.testing.assert_array_equal(mixed.credit(clicks), [0.5, -0.5])
    with pytest.raises(ValueError, match=r"clicks of shape \(4, 2\) on lists of \(2, 4\)"):
        mixed.credit(clicks.T)


def test_preference_is_a_sign_test() -> None:
    credit = np.array([2.0] * 9 + [-1.0] * 3 + [0.0] * 5 + [1e-17])
    found = preference(credit)
    assert (found.wins, found.losses, found.ties) == (9, 3, 6)
    test = stats.binomtest(9, 12)
    assert found.p == test.pvalue
    assert found.share.value == 0.75
    assert (found.share.low, found.share.high) == tuple(test.proportion_ci())
    assert found.share.n == 12
    narrow = preference(credit, confidence=0.8).share
    assert found.share.low < narrow.low < 0.75 < narrow.high < found.share.high


def test_a_heavy_user_counts_once() -> None:
    users = np.array([7] * 50 + [1, 2, 3])
    credit = np.array([1.0] * 50 + [-1.0, -0.5, 0.0])
    assert preference(credit).p < 1e-9
    found = preference(credit, users)
    assert (found.wins, found.losses, found.ties) == (1, 2, 1)
    # Requests of one user are added up, in whatever order they come.
    mixed = np.random.default_rng(0).permutation(53)
    assert preference(credit[mixed], users[mixed]) == found
    assert preference(np.array([0.1, 0.2, -0.3]), np.array(["u", "u", "u"])).ties == 1


def test_ties_alone_say_nothing() -> None:
    found = preference(np.zeros(4))
    assert (found.share.value, found.share.low, found.share.high) == (0.5, 0, 1)
    assert (found.p, found.wins, found.losses, found.ties, found.share.n) == (1, 0, 0, 4, 0)


def test_credits_are_checked() -> None:
    with pytest.raises(ValueError, match="1 credits are not finite: leave them out"):
        preference(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="2 credits but 3 users: give one for each"):
        preference(np.zeros(2), np.zeros(3))


# How much traffic


def rankings(seed: int = 0, spread: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What 300 people like, a list that knows it well and one that knows it less."""
    rng = np.random.default_rng(seed)
    attraction = rng.beta(1, 6, (300, 40)) * np.exp(spread * rng.normal(size=(300, 1)))
    noisy = (attraction + sd * rng.normal(size=attraction.shape) for sd in (0.05, 0.2))
    a, b = (np.argsort(-scores, axis=1)[:, :6] for scores in noisy)
    return np.minimum(attraction, 1), a, b


def test_more_requests_find_the_better_ranking_more_often() -> None:
    attraction, a, b = rankings()
    table = sensitivity(attraction, a, b, PositionBased(), [800, 100], 100, seed=0)
    assert list(table) == ["design", "requests", "detected", "low", "high", "wrong"]
    assert table["design"].tolist() == [d for d in DESIGNS for _ in range(2)]
    assert table["requests"].tolist() == [100, 800] * 3
    for _, few, many in ((d, *t["detected"]) for d, t in table.groupby("design")):
        assert many > few + 0.2
    assert (table["wrong"] <= 0.05).all()
    for row in table.itertuples():
        interval = stats.binomtest(round(row.detected * 100), 100).proportion_ci()
        assert (row.low, row.high) == tuple(interval)


def test_interleaving_needs_less_traffic_where_people_differ() -> None:
    """Within a request, A and B meet the same person; an A/B test pays for the differences."""
    table = sensitivity(*rankings(spread=1.0), PositionBased(0.3), [300], 200, seed=0)
    detected = table.set_index("design")["detected"]
    assert detected["team draft"] > detected["A/B"] + 0.2
    assert detected["probabilistic"] > detected["A/B"]


def test_detection_does_not_depend_on_whose_list_comes_first() -> None:
    attraction, a, b = rankings()
    one = sensitivity(attraction, a, b, Cascade(1, 0), [300], 200, seed=0)
    other = sensitivity(attraction, b, a, Cascade(1, 0), [300], 200, seed=1)
    noise = 4 * np.sqrt(2 * 0.25 / 200)
    np.testing.assert_allclose(one["detected"], other["detected"], atol=noise)


def test_a_b_detects_as_often_as_its_power_says() -> None:
    attraction, a, b = rankings()
    model, n = PositionBased(), 600
    table = sensitivity(attraction, a, b, model, [n], 300, seed=3)
    rows = np.arange(len(a))[:, None]
    clicks = [model.expected(attraction[rows, x]) for x in (a, b)]
    # Clicks on a list are independent: the variance of their number is within plus between.
    variance = [(c * (1 - c)).sum(axis=1).mean() + c.sum(axis=1).var() for c in clicks]
    gap = clicks[0].sum(axis=1).mean() - clicks[1].sum(axis=1).mean()
    power = stats.norm.sf(1.96 - gap / np.sqrt(2 * sum(variance) / n))
    noise = 4 * np.sqrt(power * (1 - power) / 300)
    assert table["detected"].iloc[0] == pytest.approx(power, abs=noise + 0.01)


def test_verdicts_are_those_of_the_tests_one_by_one() -> None:
    rng, sizes = np.random.default_rng(0), np.array([20, 35, 60])
    credit = rng.integers(-2, 3, (40, 60)) + rng.choice([-0.8, 0.0, 0.8], (40, 1))
    clicks, arm = rng.poisson(9, (40, 60)), rng.random((40, 60)) < 0.5
    clicks += arm * rng.integers(0, 6, (40, 1))
    signs, welch = interleaving._signs(credit, sizes), interleaving._welch(clicks, arm, sizes)
    for row, column in product(range(40), range(3)):
        n = sizes[column]
        found = preference(credit[row, :n])
        expected = np.sign(found.wins - found.losses) * (found.p < 0.05)
        assert signs[row, column] == expected
        one, other = (clicks[row, :n][mine] for mine in (arm[row, :n], ~arm[row, :n]))
        test = stats.ttest_ind(one, other, equal_var=False)
        assert welch[row, column] == np.sign(test.statistic) * (test.pvalue < 0.05)
    assert {-1, 0, 1} == set(signs.ravel())
    assert {0, 1} <= set(welch.ravel())


def test_almost_equal_rankings_are_told_apart_at_chance() -> None:
    """Both errors together are about 5 %, and no more."""
    attraction, a, _ = rankings()
    b = a.copy()
    b[0, [0, 5]] = b[0, [5, 0]]  # one request of 300
    table = sensitivity(attraction, a, b, PositionBased(), [200], 400, seed=0)
    false = table["detected"] + table["wrong"]
    assert (false <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 400)).all()
    assert false.iloc[0] > 0.01


def test_chunks_are_bounded_and_seeds_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    attraction, a, b = rankings()
    whole = sensitivity(attraction, a, b, PositionBased(), [50, 200], 30, seed=0)
    again = sensitivity(attraction, a, b, PositionBased(), [50, 200], 30, seed=0)
    pd.testing.assert_frame_equal(whole, again)
    other = sensitivity(attraction, a, b, PositionBased(), [50, 200], 30, seed=1)
    assert not whole.equals(other)
    monkeypatch.setattr(interleaving, "CELLS", 200 * 6 * 7)
    sizes = []
    real = interleaving.team_draft
    monkeypatch.setattr(
        interleaving, "team_draft", lambda a, *rest: (sizes.append(len(a)), real(a, *rest))[1]
    )
    sensitivity(attraction, a, b, PositionBased(), [50, 200], 30, seed=0)
    assert sizes == [1400, 1400, 1400, 1400, 400]


def test_nobody_who_clicks_finds_nothing() -> None:
    attraction, a, b = rankings()
    table = sensitivity(attraction * 1e-9, a, b, PositionBased(), [50], 20, seed=0)
    assert (table[["detected", "wrong"]] == 0).all(axis=None)


def test_studies_are_checked() -> None:
    attraction, a, b = rankings()
    model = PositionBased()
    with pytest.raises(ValueError, match="equal clicks: compare two of which one is better"):
        sensitivity(attraction, a, a, model, [100], 10, seed=0)
    with pytest.raises(ValueError, match=r"\(299, 40\): give a row for each of 300 requests"):
        sensitivity(attraction[:-1], a, b, model, [100], 10, seed=0)
    for requests, replications in (([], 5), ([9, 100], 5), ([100], 0)):
        with pytest.raises(ValueError, match="sample sizes of 10 or more"):
            sensitivity(attraction, a, b, model, requests, replications, seed=0)


def test_permutations_have_fair_drafts() -> None:
    """All pairs of rankings of three titles, of which one is clicked wherever it stands."""
    rankings_of_three = list(permutations((0, 1, 2)))
    for a, b in product(rankings_of_three, repeat=2):
        _, mixed = all_drafts(a, b)
        for liked in range(3):
            credit = mixed.credit(mixed.items == liked).mean()
            above = np.sign(b.index(liked) - a.index(liked))
            assert credit * above >= 0  # whoever ranks it higher never loses
            if a == b:
                assert credit == 0
