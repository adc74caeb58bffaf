import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from firetv import metrics
from firetv.evaluate import compare, summarise
from firetv.group_metrics import (
    disagreement,
    first_hit,
    least_member,
    mean_member,
    measure_groups,
    member_values,
    proportionality,
    running,
    satisfaction,
    spread,
    zero_share,
)

SEEDS = range(10)
GROUPS, SIZE, ITEMS, USERS, K = 40, 4, 25, 12, 6
NAN = math.nan
COLUMNS = ["model", "seed", "split", "request", "user", "known", "metric", "value"]


def random_groups(seed: int) -> dict[str, np.ndarray]:
    """Lists with gaps, groups with guests, users with much and with nothing to find."""
    rng = np.random.default_rng(seed)
    items = np.argsort(rng.random((GROUPS, ITEMS)), axis=1)[:, :K]
    items[rng.random(items.shape) < 0.2] = -1
    users = np.argsort(rng.random((GROUPS, USERS)), axis=1)[:, :SIZE]
    users[rng.random(users.shape) < 0.1] = -1
    users[0] = -1  # nobody is known
    relevant = rng.random((USERS, ITEMS)) < rng.random((USERS, 1))
    relevant[:2] = False
    seen = rng.random((USERS, ITEMS)) < 0.15
    weights = rng.dirichlet(np.ones(SIZE), GROUPS)
    case = {"items": items, "users": users, "relevant": relevant, "seen": seen, "weights": weights}
    for array in case.values():
        array.setflags(write=False)
    return case


def measured(case: dict[str, np.ndarray], **options: object) -> pd.DataFrame:
    matrices = {name: sparse.csr_array(case[name]) for name in ("relevant", "seen")}
    return measure_groups("a model", **case | matrices, **options)


# The oracle: definitions written out for one group, in plain Python.


def naive_member(slots: list[int], relevant: set[int]) -> dict[str, float]:
    ranks = [rank for rank, item in enumerate(slots, 1) if item in relevant]
    ideal = range(1, min(len(relevant), len(slots)) + 1)
    return {
        "ndcg": sum(1 / math.log2(1 + r) for r in ranks) / sum(1 / math.log2(1 + r) for r in ideal),
        "recall": len(ranks) / len(relevant),
        "first hit": 1 / math.log2(1 + ranks[0]) if ranks else 0.0,
        "hits": len(ranks),
    }


def naive_group(
    slots: list[int], wanted: list[set[int]], seen: list[set[int]], weights: list[float]
) -> dict[str, float]:
    """Measure one list for members who each want and have seen a set of items."""
    wanted = [each.difference(*seen) for each in wanted]
    members = [
        naive_member(slots, each) | {"weight": weight}
        for each, weight in zip(wanted, weights, strict=True)
        if each
    ]
    found: dict[str, float] = {}
    for name in ("ndcg", "recall"):
        values = [member[name] for member in members]
        found[f"mean {name}"] = sum(values) / len(values) if values else NAN
        found[f"least {name}"] = min(values, default=NAN)
        found[f"spread {name}"] = max(values, default=NAN) - min(values, default=NAN)
    n = len(members)
    found["zero recall"] = sum(m["hits"] == 0 for m in members) / n if n else NAN
    found["first hit"] = sum(m["first hit"] for m in members) / n if n else NAN
    hits, due = sum(m["hits"] for m in members), sum(m["weight"] for m in members)
    # Twice the total variation distance is what shares lack or exceed, all in all.
    off = [abs(m["hits"] / hits - m["weight"] / due) for m in members] if hits else [NAN]
    found["proportionality"] = 1 - sum(off) / 2
    return {f"{name}@{len(slots)}": value for name, value in found.items()}


def sets_of(matrix: np.ndarray, users: list[int]) -> list[set[int]]:
    return [set(np.flatnonzero(matrix[user]).tolist()) if user >= 0 else set() for user in users]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_value_agrees_with_the_definition_written_out(seed: int) -> None:
    case = random_groups(seed)
    table = measured(case).pivot(index="request", columns="metric", values="value")
    rows = zip(case["users"].tolist(), case["items"].tolist(), case["weights"], strict=True)
    for request, (users, slots, weights) in enumerate(rows):
        wanted, seen = (sets_of(case[name], users) for name in ("relevant", "seen"))
        expected = naive_group(slots, wanted, seen, weights.tolist())
        actual = table.loc[request].to_dict()
        assert actual == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)


def test_groups_by_hand() -> None:
    """Two friends, a stranger without anything to find, and what one of them saw already."""
    wants = {0: [0, 1], 1: [1, 2], 2: [3]}
    relevant = np.zeros((3, 5), bool)
    for user, items in wants.items():
        relevant[user, items] = True
    seen = np.zeros((3, 5), bool)
    seen[0, 3] = True
    table = measure_groups(
        "m",
        np.array([[1, 3, 0]]),
        np.array([[0, 1, 2]]),
        sparse.csr_array(relevant),
        sparse.csr_array(seen),
    )
    third = 1 / math.log2(3)
    # User 0 finds both, at ranks 1 and 3; user 1 one of two; user 2 has nothing left to find.
    ndcg = [1.5 / (1 + third), 1 / (1 + third)]
    expected = {
        "mean ndcg@3": sum(ndcg) / 2,
        "least ndcg@3": ndcg[1],
        "spread ndcg@3": ndcg[0] - ndcg[1],
        "mean recall@3": 0.75,
        "least recall@3": 0.5,
        "spread recall@3": 0.5,
        "zero recall@3": 0,
        "first hit@3": 1,
        "proportionality@3": 1 - (abs(2 / 3 - 1 / 2) + abs(1 / 3 - 1 / 2)) / 2,
    }
    assert dict(zip(table["metric"], table["value"], strict=True)) == pytest.approx(expected)


# Values of members


def random_hits(seed: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    hits = rng.random((GROUPS, size, K)) < rng.random((GROUPS, size, 1)) ** 2
    n_relevant = hits.sum(axis=2) + rng.integers(0, 3, (GROUPS, size))
    return hits, n_relevant


@pytest.mark.parametrize("name", metrics.ACCURACY)
def test_members_are_measured_as_users_are(name: str) -> None:
    hits, n_relevant = random_hits(0)
    values = member_values(metrics.ACCURACY[name], hits, n_relevant)
    assert (n_relevant == 0).any()
    for member in range(SIZE):
        alone = metrics.ACCURACY[name](hits[:, member], n_relevant[:, member])
        alone[n_relevant[:, member] == 0] = NAN
        np.testing.assert_array_equal(values[:, member], alone)


def test_undefined_members_are_left_out() -> None:
    values = np.array([[0.5, NAN, 0.25], [NAN, 0, NAN], [NAN, NAN, NAN]])
    assert mean_member(values) == pytest.approx([0.375, 0, NAN], nan_ok=True)
    assert least_member(values) == pytest.approx([0.25, 0, NAN], nan_ok=True)
    assert spread(values) == pytest.approx([0.25, 0, NAN], nan_ok=True)
    assert zero_share(values) == pytest.approx([0, 1, NAN], nan_ok=True)


def group_values(hits: np.ndarray, n_relevant: np.ndarray) -> dict[str, np.ndarray]:
    weights = np.ones(n_relevant.shape)
    ndcg, recall = (member_values(m, hits, n_relevant) for m in (metrics.ndcg, metrics.recall))
    return {
        "mean": mean_member(ndcg),
        "least": least_member(ndcg),
        "spread": spread(ndcg),
        "zero": zero_share(recall),
        "first hit": first_hit(hits, n_relevant),
        "proportionality": proportionality(hits, n_relevant, weights),
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_bounds_and_the_order_of_members(seed: int) -> None:
    hits, n_relevant = random_hits(seed)
    values = group_values(hits, n_relevant)
    order = np.random.default_rng(seed).permutation(SIZE)
    mixed = group_values(hits[:, order], n_relevant[:, order])
    for name, value in values.items():
        assert value.shape == (GROUPS,)
        assert value.dtype == np.float64
        assert np.nanmin(value) >= -1e-12, name
        assert np.nanmax(value) <= 1 + 1e-12, name
        np.testing.assert_allclose(mixed[name], value, atol=1e-12, err_msg=name)
    assert (values["least"] <= values["mean"] + 1e-12).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_members_of_one_taste_are_served_alike(seed: int) -> None:
    hits, n_relevant = (np.repeat(x, SIZE, axis=1) for x in random_hits(seed, size=1))
    values = group_values(hits, n_relevant + 1)
    alone = metrics.ndcg(hits[:, 0], n_relevant[:, 0] + 1)
    np.testing.assert_allclose(values["mean"], alone)
    np.testing.assert_allclose(values["least"], alone)
    np.testing.assert_array_equal(values["spread"], 0)
    hit = hits[:, 0].any(axis=1)
    assert not hit.all()
    np.testing.assert_allclose(values["proportionality"], np.where(hit, 1, NAN))
    np.testing.assert_array_equal(values["zero"], ~hit)


@pytest.mark.parametrize("seed", SEEDS)
def test_somebody_without_anything_to_find_changes_nothing(seed: int) -> None:
    hits, n_relevant = random_hits(seed)
    none = np.zeros((GROUPS, 1, K), bool)
    more = group_values(np.hstack([hits, none]), np.pad(n_relevant, ((0, 0), (0, 1))))
    for name, value in group_values(hits, n_relevant).items():
        np.testing.assert_allclose(more[name], value, atol=1e-12, err_msg=name)


def test_proportion_is_to_the_weights_of_those_who_have_something_to_find() -> None:
    hits = np.zeros((1, 3, 4), bool)
    hits[0, 0, :3] = hits[0, 1, 3] = True
    n_relevant = np.array([[3, 3, 0]])
    in_proportion = proportionality(hits, n_relevant, np.array([[0.6, 0.2, 0.2]]))
    assert in_proportion == pytest.approx([1])
    # All hits are of one who should have none: nothing is as it should be.
    hit = np.array([[[True], [False]]])
    assert proportionality(hit, np.ones((1, 2)), np.array([[0.0, 1.0]])) == pytest.approx([0])


def test_an_earlier_first_hit_is_better_and_later_hits_do_not_matter() -> None:
    hits = np.zeros((3, 1, 4), bool)
    hits[0, 0, 1] = hits[1, 0, 1:] = hits[2, 0, 2] = True
    early, more, late = first_hit(hits, np.full((3, 1), 3))
    assert early == more == pytest.approx(1 / math.log2(3))
    assert late == 0.5


# Evenings


@pytest.mark.parametrize("seed", SEEDS)
def test_satisfaction_agrees_with_the_definition_written_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    possible = rng.integers(0, 4, (7, 5, SIZE)).astype(float)
    possible[:, 0] = 0
    gained = possible * rng.random(possible.shape)
    satisfied = satisfaction(gained, possible)
    so_far, apart = running(satisfied), disagreement(satisfied)
    assert so_far.shape == possible.shape
    assert apart.shape == (7, 5)
    for evening in range(7):
        for group in range(5):
            means = []
            for member in range(SIZE):
                own = [
                    gained[e, group, member] / possible[e, group, member]
                    for e in range(evening + 1)
                    if possible[e, group, member] > 0
                ]
                mean = sum(own) / len(own) if own else NAN
                assert so_far[evening, group, member] == pytest.approx(mean, nan_ok=True)
                means += [mean] if own else []
            expected = max(means) - min(means) if means else NAN
            assert apart[evening, group] == pytest.approx(expected, nan_ok=True)


def test_taking_turns_reconciles() -> None:
    satisfied = satisfaction(np.array([[[2.0, 0]], [[0, 3]]]), np.array([[[2.0, 2]], [[3, 3]]]))
    assert disagreement(satisfied).tolist() == [[1], [0]]


# Frames


def test_frames_are_read_by_the_summaries_of_evaluate() -> None:
    case = random_groups(1)
    worse = case | {"items": np.where(np.arange(K) < 2, case["items"], -1)}
    frames = [measured(case, seed=3, split="s"), measured(worse).assign(model="worse")]
    table = pd.concat(frames, ignore_index=True)
    assert list(table) == COLUMNS
    assert frames[0][["seed", "split", "known"]].drop_duplicates().to_numpy().tolist() == [
        [3, "s", True]
    ]
    means = summarise(table).set_index(["model", "metric"])
    for (model, metric), values in table.groupby(["model", "metric"])["value"]:
        assert means.loc[(model, metric), "value"] == pytest.approx(values.mean())
        assert means.loc[(model, metric), "n"] == values.notna().sum()
    differences = compare(table, "a model").set_index("metric")["value"]
    assert differences[f"mean recall@{K}"] < 0
    assert differences[f"zero recall@{K}"] > 0


def test_numbers_tell_groups_of_several_frames_apart() -> None:
    case = random_groups(2)
    frames = [measured(case, numbers=np.arange(GROUPS) + start) for start in (0, GROUPS)]
    found = summarise(pd.concat(frames)).set_index("metric")["n"]
    once = summarise(frames[0]).set_index("metric")["n"]
    assert (found == 2 * once).all()


def test_what_is_seen_or_relevant_may_have_any_weight() -> None:
    case = random_groups(3)
    rng = np.random.default_rng(0)
    weighed = case | {n: case[n] * rng.integers(-2, 0, case[n].shape) for n in ("relevant", "seen")}
    pd.testing.assert_frame_equal(measured(weighed), measured(case))


@pytest.mark.parametrize("rows", [0, 1, GROUPS + 1])
def test_every_group_needs_a_list(rows: int) -> None:
    case = random_groups(0)
    items = np.resize(case["items"], (rows, K))
    with pytest.raises(ValueError, match=f"{rows} lists, but {GROUPS} groups"):
        measured(case | {"items": items})


def test_matrices_stay_sparse() -> None:
    """Many titles: an array over groups, members and items would hold 80 GB ."""
    users = np.arange(200_000).reshape(-1, 4) % 1000
    n_items = 400_000
    place = (np.repeat(np.arange(1000), 3), np.arange(3000) * 7)
    relevant = sparse.csr_array((np.ones(3000), place), shape=(1000, n_items))
    seen = sparse.csr_array((1000, n_items))
    items = relevant.indices.reshape(-1, 3)[users[:, 0]]
    table = measure_groups("m", items, users, relevant, seen)
    assert table.groupby("metric")["value"].mean()["mean recall@3"] == pytest.approx(1 / 4)


@pytest.mark.parametrize("function", [mean_member, least_member, spread, zero_share])
def test_leading_axes_stay(function: Callable[..., np.ndarray]) -> None:
    values = np.random.default_rng(0).integers(0, 3, (3, 5, 4)).astype(float)
    expected = np.stack([function(each) for each in values])
    np.testing.assert_array_equal(function(values), expected)
