from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from firetv.data import Dataset, Tables, load
from firetv.features import user_features
from firetv.proof import FriendLog, friend_events, sharing, social_proof
from firetv.schema import TIMESTAMP, DataError
from firetv.sentences import sentence

NOON = pd.Timestamp("2026-05-04T12:00Z")
DTYPES = {
    "request": "int64",
    "user": "int32",
    "friend": "int32",
    "item": "int32",
    "timestamp": TIMESTAMP,
    "finished": "bool",
    "loved": "bool",
}
PROOF_DTYPES = {
    **dict.fromkeys(("request", "watched", "finished", "loved"), "int64"),
    **dict.fromkeys(("user", "item"), "int32"),
    "last": TIMESTAMP,
    "friends": "object",
}
PEOPLE = ("me", "ana", "ben", "cara", "dan")
ME, ANA, BEN, CARA, DAN = range(5)


def at(days: float) -> pd.Timestamp:
    return NOON + pd.Timedelta(days=days)


def circle(
    views: Sequence[tuple[str, str, float, float | None]],
    reactions: Sequence[tuple[str, str, float, float | None, str | None]] = (),
    ties: Sequence[tuple[str, str, float]] = (("me", "ana", 1.0), ("me", "ben", 0.1)),
    **columns: Sequence[str | None],
) -> Dataset:
    """Views are (who, title, day, completion), reactions (who, title, day, rating, reaction)."""
    history = pd.DataFrame(views, columns=["user_id", "content_id", "timestamp", "completion"])
    said = pd.DataFrame(
        reactions, columns=["user_id", "content_id", "timestamp", "rating", "reaction"]
    )
    for table in (history, said):
        table["timestamp"] = pd.to_datetime([at(day) for day in table["timestamp"]], utc=True)
        table["timestamp"] = table["timestamp"].astype(TIMESTAMP)
    return Dataset.from_tables(
        Tables(
            watch_history=history.astype({"completion": float}),
            content_reactions=said.astype({"rating": float, "reaction": "str"}),
            users=pd.DataFrame({"user_id": PEOPLE, **columns}),
            content=pd.DataFrame({"content_id": ["x", "y", "z"]}),
            user_connections=pd.DataFrame(ties, columns=["user_id", "friend_id", "strength"]),
        )
    )


def told(data: Dataset, **bounds: pd.Timestamp) -> list[tuple[str, str, bool, bool]]:
    """What the friends of `me` did: friend, title, finished, loved."""
    events = friend_events(data, np.array([ME]), **bounds)
    return [
        (PEOPLE[row.friend], data.item_ids[row.item], row.finished, row.loved)
        for row in events.itertuples()
    ]


def test_friends_are_those_the_ties_lead_to() -> None:
    ties = [("me", "ana", 0.1), ("ben", "me", 1.0), ("me", "cara", 0.0), ("ana", "dan", 1.0)]
    views = [(name, "x", 0, 0.5) for name in PEOPLE]
    assert told(circle(views, ties=ties)) == [("ana", "x", False, False)]


def test_a_title_that_was_watched_twice_is_one_row_with_the_last_time() -> None:
    views = [("ana", "x", 2, 0.2), ("ana", "x", 0, 0.95), ("ana", "y", 1, None)]
    data = circle(views)
    assert told(data) == [("ana", "x", True, False), ("ana", "y", False, False)]
    assert friend_events(data, np.array([ME]))["timestamp"].tolist() == [at(2), at(1)]


@pytest.mark.parametrize(("completion", "finished"), [(0.9, True), (0.899, False), (None, False)])
def test_finished_is_nine_tenths(completion: float | None, finished: bool) -> None:
    assert told(circle([("ana", "x", 0, completion)])) == [("ana", "x", finished, False)]


@pytest.mark.parametrize(
    ("rating", "reaction", "loved"),
    [
        (4.5, None, True),
        (4.4, None, False),
        (None, "love", True),
        (1.0, "love", True),
        (5.0, "dislike", True),
        (None, "like", False),
    ],
)
def test_love_is_said_or_rated(rating: float | None, reaction: str | None, loved: bool) -> None:
    said = [("ana", "x", 0, rating, reaction), ("ben", "y", 0, None, "love")]
    events = told(circle([("ana", "x", 0, 0.5)], said))
    assert events[0] == ("ana", "x", False, loved)


def test_love_without_a_viewing_counts_and_other_reactions_do_not() -> None:
    said = [("ana", "x", 0, None, "love"), ("ana", "y", 0, 4.0, "like"), ("me", "z", 0, 5.0, None)]
    assert told(circle([("dan", "z", 0, 1.0)], said)) == [("ana", "x", False, True)]


def test_bounds_hold_for_viewings_and_for_what_is_said_of_them() -> None:
    views = [("ana", "x", 0, 1.0), ("ana", "x", 5, 0.1), ("ben", "y", 9, 1.0)]
    said = [("ana", "x", 1, 5.0, None), ("ben", "y", 10, 5.0, None)]
    data = circle(views, said)
    assert told(data) == [("ana", "x", True, True), ("ben", "y", True, True)]
    assert told(data, since=at(1), until=at(5)) == [("ana", "x", False, True)]
    assert told(data, since=at(2), until=at(10)) == [
        ("ana", "x", False, False),
        ("ben", "y", True, False),
    ]
    assert told(data, until=at(0)) == []  # which is not before itself


def test_who_does_not_share_is_not_told_of() -> None:
    views = [(name, "x", 0, 1.0) for name in PEOPLE]
    ties = [("me", name, 1.0) for name in PEOPLE[1:]]
    data = circle(views, ties=ties, sharing=["off", "on", "off", None, "on"])
    np.testing.assert_array_equal(sharing(data), [False, True, False, False, True])
    assert [friend for friend, *_ in told(data)] == ["ana", "dan"]
    assert [friend for friend, *_ in told(circle(views, ties=ties))] == [*PEOPLE[1:]]


def test_nobody_shares_without_a_profile_where_others_were_asked() -> None:
    data = circle([("guest", "x", 0, 1.0)], sharing=["on"] * 5)
    assert sharing(data).tolist() == [True] * 5 + [False]


def test_an_only_lover_who_does_not_share_leaves_no_trace() -> None:
    views = [("ana", "x", 0, 0.2)]
    said = [("ben", "x", 1, 5.0, "love")]
    data = circle(views, said, sharing=["on", "on", "off", "on", "on"])
    proof = social_proof(friend_events(data, np.array([ME]))).iloc[0]
    assert (proof["watched"], proof["loved"], proof["friends"]) == (1, 0, (ANA,))
    assert proof["last"] == at(0)


@pytest.fixture(scope="module")
def crowd(tables: Tables) -> Dataset:
    """Random friends, a quarter of them without a word on sharing."""
    rng = np.random.default_rng(1)
    users = tables.users.assign(sharing=rng.choice(["on", "on", "off", None], 30))
    said = tables.content_reactions
    words = rng.choice(["love", "like", None], len(said))
    said = said.assign(
        reaction=pd.array(words, "str"), rating=said["rating"].where(words != "like")
    )
    history = tables.watch_history
    history = history.assign(completion=history["completion"].where(rng.random(600) < 0.8))
    data = Dataset.from_tables(
        replace(tables, users=users, watch_history=history, content_reactions=said)
    )
    friends = sparse.random_array((30, 30), density=0.2, rng=rng, format="csr", dtype=np.float32)
    friends.data[::7] = 0
    return replace(data, friends=friends)


def by_hand(
    data: Dataset, users: np.ndarray, since: pd.Timestamp | None, until: pd.Timestamp | None
) -> list[tuple]:
    """The same as `friend_events`, one event at a time."""
    rows: dict[tuple[int, int, int], list] = {}
    ties = data.friends.toarray()
    shares = data.users["sharing"] == "on"
    for request, user in enumerate(users):
        for friend in range(len(ties)):
            if user < 0 or ties[user, friend] <= 0 or not shares[friend]:
                continue
            for table in (data.interactions, data.reactions):
                for event in table[table["user"] == friend].itertuples():
                    early = since is not None and event.timestamp < since
                    late = until is not None and event.timestamp >= until
                    loved = table is data.reactions
                    if loved and not (event.reaction == "love" or event.rating >= 4.5):
                        continue
                    if early or late:
                        continue
                    finished = not loved and event.completion >= 0.9
                    row = rows.setdefault((request, friend, event.item), [since, False, False])
                    row[0] = max(row[0] or event.timestamp, event.timestamp)
                    row[1] |= finished
                    row[2] |= loved
    return [
        (request, users[request], friend, item, *rows[request, friend, item])
        for request, friend, item in sorted(rows)
    ]


@pytest.mark.parametrize(("since", "until"), [(None, None), (30, None), (None, 60), (20, 40)])
def test_events_agree_with_a_loop_over_them(
    crowd: Dataset, since: int | None, until: int | None
) -> None:
    start = pd.Timestamp("2024-01-01", tz="UTC")
    low, high = (None if day is None else start + pd.Timedelta(days=day) for day in (since, until))
    users = np.array([3, -1, 7, 3, 29, *range(10)])
    events = friend_events(crowd, users, low, high)
    assert list(events.itertuples(index=False, name=None)) == by_hand(crowd, users, low, high)
    assert events.dtypes.astype(str).to_dict() == DTYPES
    assert len(events) > 100
    assert events["finished"].any()
    assert events["loved"].any()


def test_proof_agrees_with_a_loop_over_events(crowd: Dataset) -> None:
    events = friend_events(crowd, np.array([3, -1, 7, 3, *range(30)]))
    proof = social_proof(events.sample(frac=1, random_state=0))
    assert proof.dtypes.astype(str).to_dict() == PROOF_DTYPES
    rows = iter(proof.itertuples(index=False))
    for (request, item), group in events.groupby(["request", "item"]):
        row = next(rows)
        assert (row.request, row.item) == (request, item)
        assert row.user == group["user"].iloc[0]
        assert row.watched == len(group) == len(row.friends)
        assert row.last == group["timestamp"].max()
        lovers = group.loc[group["loved"], "friend"].tolist()
        finishers = group.loc[~group["loved"] & group["finished"], "friend"].tolist()
        others = group.loc[~group["loved"] & ~group["finished"], "friend"].tolist()
        assert row.loved == len(lovers)
        assert row.finished == group["finished"].sum()
        assert list(row.friends) == sorted(lovers) + sorted(finishers) + sorted(others)
    assert next(rows, None) is None
    assert proof["watched"].max() > 2


def test_the_order_of_the_tables_does_not_matter(crowd: Dataset) -> None:
    mixed = replace(
        crowd,
        interactions=crowd.interactions.sample(frac=1, random_state=0),
        reactions=crowd.reactions.sample(frac=1, random_state=0),
    )
    users = np.arange(30)
    pd.testing.assert_frame_equal(friend_events(mixed, users), friend_events(crowd, users))


@pytest.mark.parametrize(
    ("friends", "users", "days"),
    [
        (False, [0, 1], 0),
        (True, [], 0),
        (True, [-1, -1], 0),
        (True, [0], 10_000),
        (True, [29], 0),
    ],
    ids=["no friends at all", "nobody asked", "strangers", "long ago", "a loner"],
)
def test_nothing_to_tell_has_the_same_columns(
    data: Dataset, friends: bool, users: list[int], days: int
) -> None:
    known = data if friends else replace(data, friends=None)
    since = pd.Timestamp("2024-01-01", tz="UTC") + pd.Timedelta(days=days)
    events = friend_events(known, np.array(users), since)
    assert len(events) == 0
    assert events.dtypes.astype(str).to_dict() == DTYPES
    assert social_proof(events).dtypes.astype(str).to_dict() == PROOF_DTYPES


def test_events_without_completion_or_reactions_are_watched(tables: Tables) -> None:
    history = tables.watch_history.drop(columns="completion")
    data = Dataset.from_tables(replace(tables, watch_history=history, content_reactions=None))
    events = friend_events(data, np.array([0]))
    assert len(events) > 5
    assert not events[["finished", "loved"]].any(axis=None)


def test_ratings_alone_are_viewings_and_love(tables: Tables) -> None:
    data = Dataset.from_tables(replace(tables, watch_history=None))
    events = friend_events(data, np.array([0]))
    friend = data.reactions[data.reactions["user"] == 2]
    assert len(events) == friend["item"].nunique()
    assert events["loved"].sum() == friend.loc[friend["rating"] == 5, "item"].nunique() > 0


HISTORY = "user_id,content_id,timestamp\na,x,2026-01-31T20:15:00Z\n"


def test_sharing_is_read_from_files_and_an_empty_cell_is_off(tmp_path: Path) -> None:
    (tmp_path / "watch_history.csv").write_text(HISTORY)
    (tmp_path / "users.csv").write_text("user_id,sharing\na,on\nb,\nc,off\n")
    assert sharing(load(tmp_path)).tolist() == [True, False, False]


def test_other_words_for_sharing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "watch_history.csv").write_text(HISTORY)
    (tmp_path / "users.csv").write_text("user_id,sharing\na,yes\nb,On\nc,on\n")
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        "users.csv, column sharing: is neither on nor off (2 rows), e.g. 'yes', 'On'. "
        "Use on, or off, or leave it empty for off."
    )


def test_sharing_and_names_are_no_features(data: Dataset) -> None:
    users = data.users.assign(sharing=["on", "off"] * 15, name=["Ana", "Ben", "Cara"] * 10)
    features = user_features(replace(data, users=users))
    assert features.names == user_features(data).names


NAMES = ["Ana", "Ben", "Cara", "Dan", "Eve"]


@pytest.mark.parametrize(
    ("watched", "finished", "loved", "kind", "expected"),
    [
        (1, 0, 0, "movie", "A friend watched this movie"),
        (1, 1, 0, "series", "A friend finished this series"),
        (1, 1, 1, "news", "A friend loved this news programme"),
        (2, 0, 0, "sport", "Ana and Ben watched this sports programme"),
        (3, 0, 0, "kids", "Ana, Ben and Cara watched this children's programme"),
        (4, 0, 0, "movie", "4 friends watched this movie"),
        (5, 3, 1, "movie", "A friend loved this movie"),
        (5, 5, 2, "movie", "Ana and Ben loved this movie"),
        (5, 3, 0, "movie", "Ana, Ben and Cara finished this movie"),
        (5, 5, 4, "Movie", "4 friends loved this movie"),
        (2, 0, 0, None, "Ana and Ben watched this title"),
        (2, 0, 0, float("nan"), "Ana and Ben watched this title"),
        (2, 0, 0, "opera", "Ana and Ben watched this title"),
    ],
)
def test_sentences(
    watched: int, finished: int, loved: int, kind: str | None, expected: str
) -> None:
    assert sentence(watched, finished, loved, NAMES[:watched], kind) == expected


@pytest.mark.parametrize(
    ("loved", "names_from", "names_upto", "who"),
    [
        (1, 1, 3, "Ana"),
        (2, 3, 3, "2 friends"),
        (3, 2, 2, "3 friends"),
        (3, 4, 2, "3 friends"),
        (1, 2, 0, "A friend"),
        (4, 2, 4, "Ana, Ben, Cara and Dan"),
    ],
)
def test_how_many_friends_are_named(loved: int, names_from: int, names_upto: int, who: str) -> None:
    said = sentence(5, 0, loved, NAMES, "movie", names_from, names_upto)
    assert said == f"{who} loved this movie"


# Laid out to be asked for a few titles


def random_log(seed: int) -> Dataset:
    """Many events of few people and titles by the half day, some of them again and again."""
    rng = np.random.default_rng(seed)
    people = [PEOPLE[n] for n in rng.integers(len(PEOPLE), size=120)]
    titles = [("x", "y", "z")[n] for n in rng.integers(3, size=120)]
    days = (rng.integers(0, 40, size=120) / 2).tolist()
    completion = np.where(rng.random(120) < 0.2, 1.0, 0.3).tolist()
    views = list(zip(people[:70], titles[:70], days[:70], completion[:70], strict=True))
    words = np.array([None, "love", "like", "dislike"], object)[rng.integers(4, size=50)]
    stars = np.where(rng.random(50) < 0.1, 5.0, 2.0).tolist()
    said = list(zip(people[70:], titles[70:], days[70:], stars, words, strict=True))
    ties = [(one, other, rng.random()) for one in PEOPLE for other in PEOPLE if one != other]
    ties = [(*pair, strength if strength > 0.3 else 0.0) for *pair, strength in ties]
    share = np.where(rng.random(len(PEOPLE)) < 0.7, "on", "off").tolist()
    return circle(views, said, ties=ties, sharing=share)


@pytest.mark.parametrize("seed", range(8))
def test_a_log_that_is_laid_out_says_the_same(seed: int) -> None:
    rng, data = np.random.default_rng(seed), random_log(seed)
    users = rng.integers(-1, len(PEOPLE), size=30)
    instants = NOON + pd.to_timedelta(rng.integers(-1, 42, size=30) / 2, unit="D")
    items = np.stack([rng.permutation([0, 1, 2, -1, 7, -1])[:4] for _ in users])
    at = instants.tz_localize(None).to_numpy("datetime64[us]").astype(np.int64)
    proof = FriendLog.of(data).about(users, items, at)
    counts, friends = proof.counts(), proof.friends()
    assert proof.shape == counts["watched"].shape == items.shape
    assert (np.diff(proof.cell) >= 0).all()
    found = 0
    for row in range(len(users)):
        events = friend_events(data, users[[row]], until=instants[row])
        told = {each.item: each for each in social_proof(events).itertuples()}
        for slot, item in enumerate(items[row].tolist()):
            each = told.get(item)
            for name in ("watched", "finished", "loved"):
                assert counts[name][row, slot] == (getattr(each, name) if each else 0)
            assert friends.get(row * 4 + slot, ()) == (each.friends if each else ())
            found += each is not None
    assert found > 10


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (3, 2)])
def test_where_nothing_is_asked_or_known_there_is_no_proof(shape: tuple[int, int]) -> None:
    data = replace(random_log(0), friends=None)
    users, items = np.full(shape[0], ME), np.zeros(shape, np.int64)
    proof = FriendLog.of(data).about(users, items, np.full(shape[0], np.iinfo(np.int64).max))
    assert proof.friends() == {}
    assert all(count.shape == shape and not count.any() for count in proof.counts().values())
