"""Who is tied to whom, how alike tastes are, and whose example counts, against dense algebra."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from firetv.data import Dataset, Tables
from firetv.trust import Circles, Trust, friendships, rewired, similarity

PEOPLE = ("ann", "ben", "cat", "dan", "eve", "fay")
START = pd.Timestamp("2024-01-01", tz="UTC")


def world(
    ties: dict[str, float], histories: dict[str, str], sharing: dict[str, str | None] | None = None
) -> Dataset:
    """Ties such as ``ann>ben``, and the items of each person's history, a letter each."""
    seen = [(person, item) for person, items in histories.items() for item in items]
    history = pd.DataFrame(seen, columns=["user_id", "content_id"]).assign(timestamp=START)
    users = pd.DataFrame({"user_id": PEOPLE})
    if sharing is not None:
        users["sharing"] = [sharing.get(person, "on") for person in PEOPLE]
    edges = pd.DataFrame(
        [(*tie.split(">"), strength) for tie, strength in ties.items()],
        columns=["user_id", "friend_id", "strength"],
    )
    return Dataset.from_tables(
        Tables(history, users=users, user_connections=edges if ties else None)
    )


def entries(matrix: sparse.csr_array) -> dict[str, float]:
    """What a matrix of people holds, by name; explicit zeros count."""
    coo = matrix.tocoo()
    names = (f"{PEOPLE[a]}>{PEOPLE[b]}" for a, b in zip(coo.row, coo.col, strict=True))
    return dict(zip(names, coo.data.tolist(), strict=True))


def drawn(users: int = 40, friends: float = 4, seed: int = 0, items: int = 25) -> Dataset:
    """Random ties, one way, of random strengths; some people have no tie, and some no history."""
    rng = np.random.default_rng(seed)
    linked = rng.random((users, users)) < friends / users
    linked[:3] = linked[:, 2:5] = False  # without friends; a friend of nobody; both
    np.fill_diagonal(linked, val=False)
    matrix = sparse.csr_array(np.where(linked, rng.uniform(0.1, 1, linked.shape), 0), dtype="f4")
    user, item = np.nonzero(rng.random((users, items)) < 0.3)
    busy = user % 7 != 4
    history = pd.DataFrame(
        {
            "user_id": np.char.add("u", user[busy].astype(str)),
            "content_id": np.char.add("c", item[busy].astype(str)),
            "timestamp": START,
        }
    )
    table = pd.DataFrame({"user_id": [f"u{n}" for n in range(users)]})
    return replace(Dataset.from_tables(Tables(history, users=table)), friends=matrix)


# Ties


def test_without_ties_nobody_has_a_friend() -> None:
    data = world({}, {"ann": "x"})
    assert data.friends is None
    for mutual in (False, True):
        graph = friendships(data, mutual=mutual)
        assert graph.shape == (6, 6)
        assert graph.nnz == 0
    circles = Trust().fit(data)
    assert circles.of(np.array([0, -1])).nnz == 0
    assert rewired(data, seed=0) is data


def test_a_tie_counts_one_way_unless_it_is_mutual() -> None:
    data = world({"ann>ben": 0.5, "cat>ann": 0.25, "ann>cat": 0.75}, {"ann": "x"})
    assert entries(friendships(data)) == {"ann>ben": 0.5, "ann>cat": 0.75, "cat>ann": 0.25}
    assert entries(friendships(data, mutual=True)) == {
        "ann>ben": 0.5, "ann>cat": 0.75, "ben>ann": 0.5, "cat>ann": 0.75,
    }  # fmt: skip


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("said", ["off", None])
def test_who_does_not_share_is_nobodys_friend_but_may_have_friends(
    said: str | None, mutual: bool
) -> None:
    ties = {"ann>ben": 1.0, "ben>ann": 1.0, "ben>cat": 1.0, "cat>ben": 1.0}
    data = world(ties, dict.fromkeys(PEOPLE, "xy"), {"ben": said})
    assert entries(friendships(data, mutual=mutual)) == {"ben>ann": 1.0, "ben>cat": 1.0}
    circles = Trust(mutual=mutual).fit(data)
    everybody = circles.of(np.arange(6)).toarray()
    assert not circles.trust.toarray()[:, 1].any()
    assert not everybody[:, 1].any()  # nor as a friend's friend
    assert everybody[1].sum() == pytest.approx(1)


def test_duplicate_ties_and_ties_to_oneself_do_not_count() -> None:
    history = pd.DataFrame({"user_id": ["ann"], "content_id": ["x"], "timestamp": [START]})
    edges = pd.DataFrame(
        [("ann", "ann", 1.0), ("ann", "ben", 0.2), ("ann", "ben", 0.8), ("ann", "cat", 0.8)],
        columns=["user_id", "friend_id", "strength"],
    )
    users = pd.DataFrame({"user_id": PEOPLE})
    data = Dataset.from_tables(Tables(history, users=users, user_connections=edges))
    trust = entries(Trust(distant=0).fit(data).trust)
    assert trust == pytest.approx({"ann>ben": 0.5, "ann>cat": 0.5})


def test_a_tie_without_strength_is_none() -> None:
    data = world({"ann>ben": 0.0, "ann>cat": 0.5}, {"ann": "x", "ben": "x"})
    assert entries(friendships(data)) == {"ann>cat": 0.5}
    assert entries(Trust().fit(data).trust) == {"ann>cat": 1.0}


def test_reading_ties_leaves_the_data_alone() -> None:
    data = drawn()
    before = data.friends.copy(), data.matrix().copy()
    Trust(mutual=True).fit(data).of(np.arange(40))
    rewired(data, seed=0)
    for old, new in zip(before, (data.friends, data.matrix()), strict=True):
        for name in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(old, name), getattr(new, name))


# Likeness


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        # ann saw a b c d, ben a b, cat e: the mean of 2/sqrt(8) and 0, without dan's nothing.
        ("cosine", {"ann>ben": 2**-0.5, "ann>cat": 0.0}),
        ("jaccard", {"ann>ben": 1 / 2, "ann>cat": 0.0}),
    ],
)
@pytest.mark.parametrize("shrinkage", [0.0, 3.0])
def test_likeness_by_hand(measure: str, expected: dict[str, float], shrinkage: float) -> None:
    ties = {"ann>ben": 0.3, "ann>cat": 1.0, "ann>dan": 0.1}
    data = world(ties, {"ann": "abcd", "ben": "ab", "cat": "e"})
    like = entries(similarity(data, friendships(data), measure, shrinkage))
    mean = sum(expected.values()) / 2
    sizes = {"ann>ben": 2, "ann>cat": 1}
    for tie, size in sizes.items():
        shrunk = (size * expected[tie] + shrinkage * mean) / (size + shrinkage)
        assert like[tie] == pytest.approx(shrunk, rel=1e-6)
    assert like["ann>dan"] == pytest.approx(mean if shrinkage else 0, rel=1e-6)


@pytest.mark.parametrize("measure", ["cosine", "jaccard"])
def test_likeness_agrees_with_sets(measure: str) -> None:
    data = drawn()
    rows = [set(np.flatnonzero(row)) for row in data.matrix().toarray()]
    graph = friendships(data)
    got = similarity(data, graph, measure, shrinkage=0)
    np.testing.assert_array_equal(got.nonzero(), (got.toarray() != 0).nonzero())
    assert got.nnz == graph.nnz
    for a, b in zip(*graph.nonzero(), strict=True):
        common = len(rows[a] & rows[b])
        if measure == "cosine":
            whole = (len(rows[a]) * len(rows[b])) ** 0.5
        else:
            whole = len(rows[a] | rows[b])
        assert got[a, b] == pytest.approx(common / whole if common else 0, rel=1e-6)


def test_likeness_does_not_depend_on_how_many_are_compared_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = drawn()
    whole = similarity(data, friendships(data))
    monkeypatch.setattr("firetv.trust.TIES_AT_ONCE", 7)
    np.testing.assert_array_equal(similarity(data, friendships(data)).toarray(), whole.toarray())


def test_of_somebody_without_a_history_the_strength_of_ties_alone_is_known() -> None:
    ties = {"ann>ben": 0.2, "ann>cat": 0.6, "dan>ben": 1.0, "dan>cat": 1.0}
    data = world(ties, {"ben": "ab", "cat": "ab", "dan": "a"})
    trust = entries(Trust(hubs=0).fit(data).trust)
    assert trust["ann>ben"] == pytest.approx(0.25)
    assert trust["ann>cat"] == pytest.approx(0.75)


def test_where_nobody_has_anything_in_common_ties_alone_count() -> None:
    data = world({"ann>ben": 0.2, "ann>cat": 0.6}, {"ann": "a", "ben": "b", "cat": "c"})
    trust = entries(Trust().fit(data).trust)
    assert trust == pytest.approx({"ann>ben": 0.25, "ann>cat": 0.75})


def test_who_has_nothing_in_common_counts_for_nothing_without_shrinkage() -> None:
    ties = {"ann>ben": 1.0, "ann>cat": 1.0, "dan>cat": 1.0}
    data = world(ties, {"ann": "a", "ben": "a", "cat": "c", "dan": "d"})
    assert entries(Trust(shrinkage=0).fit(data).trust) == {"ann>ben": 1.0}


def test_alike_friends_count_for_more_the_longer_their_histories() -> None:
    ties = {"ann>ben": 1.0, "ann>cat": 1.0}

    def share(alike: str, other: str) -> float:
        return entries(Trust().fit(world(ties, {"ann": alike, "ben": alike, "cat": other})).trust)[
            "ann>ben"
        ]

    assert 0.5 < share("a", "z") < share("abcdef", "uvwxyz") < 1


# Trust


def test_a_friend_of_many_counts_for_less() -> None:
    ties = {"ann>ben": 1.0, "ann>cat": 1.0, **{f"{p}>ben": 1.0 for p in ("dan", "eve", "fay")}}
    data = world(ties, dict.fromkeys(PEOPLE, "ab"))
    for hubs in (0.0, 0.5, 1.0):
        trust = entries(Trust(hubs=hubs).fit(data).trust)
        ben = 4**-hubs  # beside cat, whom one is tied to
        assert trust["ann>ben"] == pytest.approx(ben / (ben + 1))


@pytest.mark.parametrize("trust", [Trust(), Trust("jaccard", 2.0, 1.0, mutual=True)])
def test_trust_agrees_with_dense_algebra(trust: Trust) -> None:
    data = drawn()
    graph = data.friends.toarray().astype(float)
    graph = np.maximum(graph, graph.T) if trust.mutual else graph
    like = similarity(data, friendships(data, mutual=trust.mutual), trust.measure, trust.shrinkage)
    weight = graph * like.toarray() / np.maximum((graph > 0).sum(axis=0), 1) ** trust.hubs
    total = weight.sum(axis=1, keepdims=True)
    expected = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
    np.testing.assert_allclose(trust.fit(data).trust.toarray(), expected, rtol=1e-5)


def dense_circles(circles: Circles) -> np.ndarray:
    """T + distant T^2 without the diagonal, its rows scaled to a sum of 1."""
    near = circles.trust.toarray().astype(float)
    far = near @ near
    np.fill_diagonal(far, 0)
    weight = near + circles.distant * far
    total = weight.sum(axis=1, keepdims=True)
    return np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("distant", [0.0, 0.8, 5.0])
def test_circles_agree_with_dense_algebra(distant: float, mutual: bool) -> None:
    circles = Trust(distant=distant, mutual=mutual).fit(drawn())
    got = circles.of(np.arange(40))
    assert got.dtype == circles.trust.dtype == np.float32
    np.testing.assert_allclose(got.toarray(), dense_circles(circles), rtol=1e-5, atol=1e-7)
    sums = got.sum(axis=1)
    friends = np.diff(circles.trust.indptr) > 0
    assert 0 < friends.sum() < 40
    np.testing.assert_allclose(sums[friends], 1, rtol=1e-5)
    np.testing.assert_array_equal(sums[~friends], 0)
    assert not got.diagonal().any()


def test_circles_do_not_depend_on_who_else_is_asked_for() -> None:
    circles = Trust().fit(drawn())
    whole = circles.of(np.arange(40)).toarray()
    users = np.array([7, -1, 7, 39, 0, 12], np.int32)
    expected = np.where(users[:, None] >= 0, whole[users], 0)
    np.testing.assert_array_equal(circles.of(users).toarray(), expected)
    for user in (0, 7, 39):
        np.testing.assert_array_equal(circles.of(np.array([user])).toarray()[0], whole[user])


def test_asking_for_circles_leaves_trust_alone_and_nobody_has_none() -> None:
    circles = Trust().fit(drawn())
    before = circles.trust.copy()
    circles.of(np.arange(40)[::-1])
    assert circles.of(np.array([], int)).shape == (0, 40)
    assert circles.of(np.array([-1])).nnz == 0
    np.testing.assert_array_equal(circles.trust.indices, before.indices)
    np.testing.assert_array_equal(circles.trust.data, before.data)


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ({"measure": "cosin"}, "measure 'cosin': use cosine or jaccard"),
        ({"shrinkage": -1.0}, "shrinkage -1.0 must not be below 0"),
        ({"hubs": -0.5}, "hubs -0.5 must not be below 0"),
        ({"distant": float("nan")}, "distant nan must not be below 0"),
    ],
)
def test_bad_parameters_of_trust_are_refused(option: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Trust(**option)


# Placebo


def test_rewired_people_have_other_friends_and_as_many() -> None:
    data = drawn(users=60, friends=6)
    before = data.friends.toarray()
    for seed in range(20):
        after = rewired(data, seed).friends.toarray()
        assert not after.diagonal().any()
        np.testing.assert_array_equal((after > 0).sum(axis=1), (before > 0).sum(axis=1))
        np.testing.assert_array_equal(np.sort(after, axis=1), np.sort(before, axis=1))
        kept = ((after > 0) & (before > 0)).sum() / (before > 0).sum()
        assert kept < 0.3
        assert set(np.flatnonzero(after.any(axis=0))) <= set(np.flatnonzero(before.any(axis=0)))


def test_people_who_are_friends_together_stay_so() -> None:
    """Columns change places as they are, but for the few who would be their own friends."""
    data = drawn(users=60, friends=6)
    before, after = data.friends.toarray(), rewired(data, seed=1).friends.toarray()
    columns = {column.tobytes() for column in before.T}
    assert np.mean([column.tobytes() in columns for column in after.T]) > 0.7


def test_rewiring_is_seeded() -> None:
    data = drawn()
    a, b, c = (rewired(data, seed).friends.toarray() for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


@pytest.mark.parametrize("seed", range(5))
def test_friends_who_cannot_change_places_stay_friends(seed: int) -> None:
    pair = world({"ann>ben": 0.5, "ben>ann": 1.0}, {"ann": "x"})
    assert entries(rewired(pair, seed).friends) == {"ann>ben": 0.5, "ben>ann": 1.0}
    star = world({f"{p}>ann": 1.0 for p in PEOPLE[1:]}, {"ann": "x"})
    assert entries(rewired(star, seed).friends) == entries(star.friends)
