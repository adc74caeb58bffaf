import time
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest
from conftest import make_tables
from scipy import stats

from firetv.cohorts import Kind, _grown, form_groups, likeness, regroup
from firetv.data import Dataset

KINDS: tuple[Kind, ...] = ("random", "similar", "divergent")


def camps(users: int = 120, items: int = 60, seed: int = 0) -> Dataset:
    """Users of six camps each like every sixth item; everybody rates about half of all."""
    rng = np.random.default_rng(seed)
    user, item = np.nonzero(rng.random((users, items)) < 0.5)
    same = user % 6 == item % 6
    rating = np.clip(np.where(same, 4, 2) + rng.integers(-1, 2, len(user)), 1, 5)
    tables = make_tables()
    events = pd.DataFrame(
        {
            "user_id": np.char.add("user", user.astype(str)),
            "content_id": np.char.add("content", item.astype(str)),
            "timestamp": tables.watch_history["timestamp"].iloc[0],
        }
    )
    reactions = events.assign(rating=rating.astype(float))
    return Dataset.from_tables(
        replace(
            tables,
            watch_history=events,
            content_reactions=reactions,
            users=None,
            content=None,
            user_connections=None,
            groups=None,
        )
    )


CAMPS = camps()


def without_ratings(data: Dataset) -> Dataset:
    return replace(data, reactions=data.reactions.iloc[:0])


def within(groups: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Likeness of all pairs in each group."""
    pairs = combinations(range(groups.shape[1]), 2)
    return np.stack([like[groups[:, i], groups[:, j]] for i, j in pairs], axis=1)


# Likeness


def test_likeness_is_the_correlation_of_filled_ratings(data: Dataset) -> None:
    users = np.arange(10, 20)
    ratings = data.matrix("rating").toarray()[users].astype(float)
    filled = [np.where(row > 0, row, row[row > 0].mean()) for row in ratings]
    expected = [[stats.pearsonr(one, other)[0] for other in filled] for one in filled]
    np.testing.assert_allclose(likeness(data, users), expected, atol=1e-6)


def test_likeness_without_ratings_is_the_cosine_of_histories(data: Dataset) -> None:
    history = data.matrix().toarray()
    expected = [
        [one @ other / np.sqrt(one.sum() * other.sum()) for other in history] for one in history
    ]
    found = likeness(without_ratings(data), np.arange(len(history)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_who_rates_everything_alike_is_like_nobody_known(data: Dataset) -> None:
    flat = data.reactions["rating"].where(data.reactions["user"] != 3, 3.3)
    like = likeness(replace(data, reactions=data.reactions.assign(rating=flat)), np.arange(6))
    unknown = np.isnan(like)
    assert unknown[3].all()
    assert unknown[:, 3].all()
    assert unknown.sum() == 2 * 6 - 1


# Groups


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 5])
def test_groups_have_distinct_members_of_the_pool(kind: Kind, size: int) -> None:
    pool = np.arange(10, 110)
    groups = form_groups(CAMPS, size, 70, kind, seed=1, pool=pool)
    assert groups.shape == (70, size)
    assert groups.dtype == np.int64
    assert all(len(set(group)) == size for group in groups.tolist())
    assert np.isin(groups, pool).all()


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_repeat_and_differ(kind: Kind) -> None:
    first, again, other = (form_groups(CAMPS, 3, 30, kind, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("rated", [True, False])
def test_kinds_order_by_likeness_and_keep_their_thresholds(rated: bool) -> None:
    # In the camps, only ratings tell tastes apart; in the small world, histories do.
    data = CAMPS if rated else without_ratings(Dataset.from_tables(make_tables(users=60)))
    like = likeness(data, np.arange(data.shape[0]))
    pairs = like[np.triu_indices(len(like), 1)]
    found = {kind: within(form_groups(data, 3, 60, kind, seed=0), like) for kind in KINDS}
    assert found["similar"].min() >= np.quantile(pairs, 0.75) - 1e-6
    assert found["divergent"].max() <= np.quantile(pairs, 0.5) + 1e-6
    means = [found[kind].mean() for kind in ("divergent", "random", "similar")]
    assert all(high - low > 0.1 * pairs.std() for low, high in pairwise(means))


def test_thresholds_are_quantiles_of_the_pool() -> None:
    pool = np.arange(0, 120, 6)  # one camp: its least alike pairs are alike, among everybody's
    like = likeness(CAMPS, np.arange(120))
    low = np.quantile(like[np.ix_(pool, pool)][np.triu_indices(len(pool), 1)], 0.3)
    groups = form_groups(CAMPS, 2, 10, "divergent", 0, pool, divergent=0.3)
    assert within(groups, like).max() <= low + 1e-6
    assert low > np.nanquantile(like, 0.3)


@pytest.mark.parametrize(("size", "count"), [(2, 10), (4, 30), (7, 50), (8, 15), (50, 3), (120, 2)])
def test_random_groups_use_everybody_alike(size: int, count: int) -> None:
    groups = form_groups(CAMPS, size, count, "random", seed=3)
    uses = np.bincount(groups.ravel(), minlength=CAMPS.shape[0])
    assert uses.max() - uses.min() <= 1
    assert all(len(set(group)) == size for group in groups.tolist())


def test_random_groups_are_random() -> None:
    """Each pair meets as often as any other, on average over seeds."""
    pool, seeds = np.arange(5), 3000
    met = np.zeros((5, 5))
    for seed in range(seeds):
        for group in form_groups(CAMPS, 2, 3, "random", seed, pool):  # one deck and a half
            met[tuple(sorted(group))] += 1
    counts = met[np.triu_indices(5, 1)]
    assert counts.sum() == 3 * seeds
    assert abs(counts / counts.mean() - 1).max() < 0.15


@pytest.mark.parametrize("kind", ["similar", "divergent"])
def test_groups_of_a_kind_recur_seldom(kind: Kind) -> None:
    groups = form_groups(CAMPS, 3, 40, kind, seed=0)  # a seat for each user
    uses = np.bincount(groups.ravel(), minlength=CAMPS.shape[0])
    assert uses.max() <= 3
    assert (uses > 0).mean() > 0.9


def test_groups_do_not_grow_into_dead_ends() -> None:
    fit = np.zeros((4, 4), bool)
    for one, other in [(0, 1), (0, 2), (1, 2), (0, 3)]:
        fit[one, other] = fit[other, one] = True
    turns = np.array([0, 5, 5, 0])  # whoever fits nobody but the first is the least used
    for seed in range(5):
        members = _grown(fit, 0, 3, turns, np.random.default_rng(seed))
        assert sorted(members) == [0, 1, 2]


def test_by_default_whoever_has_an_event_is_in_the_pool(data: Dataset) -> None:
    some = data.keep((data.interactions["user"] < 8).to_numpy())
    assert set(form_groups(some, 2, 20, "random", seed=0).ravel()) == set(range(8))


def test_no_groups_are_none() -> None:
    for kind in KINDS:
        assert form_groups(CAMPS, 3, 0, kind, seed=0).shape == (0, 3)


def test_hundreds_of_large_groups_are_formed_soon() -> None:
    data = camps(users=900)
    data.matrix("rating")
    start = time.perf_counter()
    for kind in KINDS:
        form_groups(data, 8, 300, kind, seed=0, divergent=0.6)
    assert time.perf_counter() - start < 6  # usually half a second


@pytest.mark.parametrize(
    ("kind", "size", "pool", "message"),
    [
        ("random", 6, 5, "random groups of 6 from 5 users"),
        ("similar", 6, 5, "similar groups of 6 from 5 users"),
        ("random", 0, 5, "random groups of 0 from 5 users"),
        # Of nine people from six camps, two are of one; and a camp has twenty people.
        ("divergent", 9, 120, "10 divergent groups of 9 from 120 users: only 0 were found"),
        ("similar", 70, 120, "10 similar groups of 70 from 120 users: only 0 were found"),
    ],
)
def test_impossible_groups_are_refused(kind: Kind, size: int, pool: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        form_groups(CAMPS, size, 10, kind, 0, np.arange(pool), similar=0.9, divergent=0.1)


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="kind 'mixed': use random, similar, divergent"):
        form_groups(CAMPS, 2, 1, "mixed", seed=0)


@pytest.mark.parametrize("kind", ["similar", "divergent"])
def test_equally_alike_pairs_are_refused(kind: Kind, data: Dataset) -> None:
    alone = replace(
        data,
        interactions=data.interactions.assign(item=data.interactions["user"]),
        reactions=data.reactions.iloc[:0],
    )
    with pytest.raises(ValueError, match="cannot tell similar from divergent pairs of 30 users"):
        form_groups(alone, 2, 5, kind, seed=0)
    assert len(form_groups(alone, 2, 5, "random", seed=0)) == 5


# Placebo


@pytest.mark.parametrize(("size", "count"), [(3, 40), (3, 41), (5, 70), (118, 3), (2, 1)])
def test_regrouping_keeps_how_often_everybody_appears(size: int, count: int) -> None:
    groups = form_groups(CAMPS, size, count, "random", seed=0)
    before = groups.copy()
    dealt = regroup(groups, seed=1)
    np.testing.assert_array_equal(groups, before)
    assert dealt.shape == groups.shape
    np.testing.assert_array_equal(np.bincount(dealt.ravel()), np.bincount(groups.ravel()))
    assert all(len(set(group)) == size for group in dealt.tolist())
    np.testing.assert_array_equal(dealt, regroup(groups, seed=1))


def test_regrouping_forgets_who_was_with_whom() -> None:
    groups = np.arange(300).reshape(100, 3)
    dealt = regroup(groups, seed=0)
    together = sum(len({user // 3 for user in group}) < 3 for group in dealt.tolist())
    assert together <= 8  # about 2 of 100 by chance
    assert (dealt != regroup(groups, seed=1)).any()


def test_regrouping_undoes_likeness() -> None:
    like = likeness(CAMPS, np.arange(CAMPS.shape[0]))
    groups = form_groups(CAMPS, 4, 60, "similar", seed=0)
    strangers = form_groups(CAMPS, 4, 60, "random", seed=0)
    alike, mixed, chance = (
        within(each, like).mean() for each in (groups, regroup(groups, seed=0), strangers)
    )
    assert abs(mixed - chance) < 0.25 * (alike - chance)
