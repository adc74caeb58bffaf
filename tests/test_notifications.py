from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from firetv.data import Dataset, Tables
from firetv.delivery import DeliveryLog
from firetv.models import EASE, Popular
from firetv.moments import Clock
from firetv.notifications import (
    BELOW,
    DELIVERED,
    DISMISSED,
    OVER,
    QUIET,
    SEEN,
    TOO_OLD,
    Notifications,
    Policy,
    notify,
)
from firetv.proof import friend_events, social_proof
from firetv.schema import TIMESTAMP
from firetv.slate import EMPTY, Pipeline, Slate, top

NOW = pd.Timestamp("2026-05-04T18:00Z")
PEOPLE = ("me", "ana", "ben", "cara", "dan", "you")
FRIENDS = PEOPLE[1:5]
TITLES = 10


@dataclass(frozen=True)
class Fixed:
    """A step that adds the same score of a title for everybody."""

    table: np.ndarray
    part: str = "taste"

    def __call__(self, slate: Slate) -> Slate:
        return slate.add(self.part, np.broadcast_to(self.table[slate.items], slate.shape))


# Of ten titles unseen, 9 score below title 0, 5 below title 4 and none below title 9.
TASTE = Fixed(np.arange(TITLES, 0, -1.0))


def world(
    *events: tuple[str, int, float] | tuple[str, int, float, str],
    ties: Sequence[tuple[str, str]] = tuple(("me", name) for name in FRIENDS),
    **columns: Sequence[str | None],
) -> Dataset:
    """Ten titles that somebody watched long ago, and events: who, title, days ago, what.

    What is watched, finished, loved (watched and loved) or disliked (but not watched).
    """
    known = [("someone", title, 400.0, "watched") for title in range(TITLES)]
    rows = [(*event, "watched")[:4] for event in (*known, *events)]
    who, title, days, what = map(list, zip(*rows, strict=True))
    frame = pd.DataFrame({"user_id": who, "content_id": [f"t{n}" for n in title]})
    times = NOW - pd.to_timedelta(days, unit="D")
    frame["timestamp"] = pd.Series(times).astype(TIMESTAMP)
    frame["what"] = what
    watched, said = frame["what"] != "disliked", frame["what"].isin(["loved", "disliked"])
    history = frame[watched].assign(
        completion=np.where(frame["what"][watched] == "finished", 1, 0.5)
    )
    reactions = frame[said].assign(
        reaction=np.where(frame["what"][said] == "loved", "love", "dislike")
    )
    names = [name.title() for name in PEOPLE]
    return Dataset.from_tables(
        Tables(
            watch_history=history.drop(columns="what"),
            content_reactions=reactions.drop(columns="what"),
            users=pd.DataFrame({"user_id": PEOPLE, "name": names} | columns),
            content=pd.DataFrame(
                {
                    "content_id": [f"t{n}" for n in range(TITLES)],
                    "title": [f"Title {n}" for n in range(TITLES)],
                    "content_type": "movie",
                    "genres": [["Drama", "News"]] * TITLES,
                    "release_year": pd.array(range(2000, 2000 + TITLES), "Int64"),
                }
            ),
            user_connections=pd.DataFrame(ties, columns=["user_id", "friend_id"]),
        )
    )


def asked(data: Dataset, users: Sequence[int] = (0,), **options: object) -> Notifications:
    given = {"step": TASTE, "interest": TASTE, "now": NOW} | options
    return notify(data, users=np.array(users), **given)


def titles(found: Notifications) -> list[str]:
    return found.rows["content_id"].tolist()


def reasons(found: Notifications) -> dict[str, str]:
    return dict(zip(found.dropped["content_id"], found.dropped["reason"], strict=True))


def recorded(*entries: tuple[str, str, str]) -> DeliveryLog:
    """A log of who, title and when."""
    log = DeliveryLog()
    who, title, when = zip(*entries, strict=True)
    log.record(pd.DataFrame({"user_id": who, "content_id": title, "at": pd.to_datetime(when)}))
    return log


def test_a_notification_says_all_about_a_title() -> None:
    data = world(("ana", 1, 2, "loved"), ("cara", 1, 3), ("ben", 1, 1, "loved"))
    found = asked(data)
    assert len(found.rows) == 1
    assert len(found.dropped) == 0
    row = found.rows.iloc[0].to_dict()
    assert np.isnan(row.pop("counts"))
    assert row == {
        "user_id": "me",
        "content_id": "t1",
        "at": NOW,
        "text": "Ana and Ben loved this movie",
        "title": "Title 1",
        "content_type": "movie",
        "genres": ["Drama", "News"],
        "year": 2001,
        "watched": 3,
        "finished": 0,
        "loved": 2,
        "last": NOW - pd.Timedelta(days=1),
        "interest": 0.8,
        "score": 9.0,
    }


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ([("ana", 0, 1)], "A friend watched this movie"),
        ([("ana", 0, 1, "finished"), ("ben", 0, 1)], "A friend finished this movie"),
        ([("cara", 0, 1), ("ben", 0, 1)], "Ben and Cara watched this movie"),
        (
            [(name, 0, 1, "finished") for name in FRIENDS[:3]],
            "Ana, Ben and Cara finished this movie",
        ),
        ([(name, 0, 1, "finished") for name in FRIENDS], "4 friends finished this movie"),
        (
            [
                ("ana", 0, 1),
                ("ben", 0, 1, "finished"),
                ("cara", 0, 1, "loved"),
                ("dan", 0, 1, "loved"),
            ],
            "Cara and Dan loved this movie",
        ),
        # A love that is no news any more is not told, though the friend watched it again.
        ([("ana", 0, 20, "loved"), ("ana", 0, 1)], "A friend watched this movie"),
    ],
)
def test_the_words_are_of_exactly_those_who_did_it(events: list[tuple], text: str) -> None:
    assert asked(world(*events)).rows["text"].tolist() == [text]


def test_names_fall_back_to_ids() -> None:
    events = [("ana", 0, 1), ("ben", 0, 1)]
    unnamed = world(*events, name=["Me", None, "Ben", "Cara", "Dan", "You"])
    assert asked(unnamed).rows["text"].item() == "ana and Ben watched this movie"
    data = world(*events)
    nameless = replace(data, users=data.users.drop(columns="name"))
    assert asked(nameless).rows["text"].item() == "ana and ben watched this movie"


def test_a_policy_may_name_nobody() -> None:
    data = world(*((name, 0, 1) for name in FRIENDS[:2]))
    found = asked(data, policy=Policy(names_from=3))
    assert found.rows["text"].item() == "2 friends watched this movie"
    assert "Ana" not in found.rows.to_csv()


@pytest.mark.parametrize("word", ["off", None])
def test_who_does_not_share_is_neither_counted_nor_named(word: str | None) -> None:
    events = [("ana", 0, 1, "loved"), ("ben", 0, 1), ("cara", 0, 2), ("ana", 1, 1, "loved")]
    shares = ["off", word, "on", "on", "on", "on"]
    open_, shy = world(*events), world(*events, sharing=shares)
    assert asked(open_).rows["text"].tolist() == ["A friend loved this movie"] * 2
    found = asked(shy)
    assert found.rows["text"].tolist() == ["Ben and Cara watched this movie"]
    assert found.rows[["watched", "loved"]].to_numpy().tolist() == [[2, 0]]
    told = found.rows.to_csv() + found.dropped.to_csv()
    assert "Ana" not in told
    assert "t1" not in told  # that only she watched


# ------------------------------------------------------------------ filters


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (("me", 0, 30), SEEN),
        (("me", 0, 30, "disliked"), SEEN),  # who has a word on it knows it
        (("you", 0, 30), None),
        (("me", 1, 30), None),
        (("me", 0, -1), None),  # after now, which nobody knows yet
    ],
)
def test_what_was_seen_is_not_told(event: tuple, reason: str | None) -> None:
    found = asked(world(("ana", 0, 1), event))
    assert reasons(found) == ({"t0": reason} if reason else {})
    assert titles(found) == ([] if reason else ["t0"])


def test_interest_is_the_share_of_unseen_titles_below() -> None:
    watched = [("ana", title, 1) for title in range(TITLES)]
    found = asked(world(*watched), policy=Policy(per_day=99))
    assert titles(found) == ["t0", "t1", "t2", "t3", "t4"]
    np.testing.assert_allclose(found.rows["interest"], [0.9, 0.8, 0.7, 0.6, 0.5])
    assert reasons(found) == dict.fromkeys(["t5", "t6", "t7", "t8", "t9"], BELOW)
    # Of the six titles that are left, three score below t2 and two below t3.
    seen = [("me", title, 50) for title in (5, 6, 8, 9)]
    found = asked(world(*watched, *seen), policy=Policy(per_day=99))
    assert titles(found) == ["t0", "t1", "t2"]
    np.testing.assert_allclose(found.rows["interest"], [5 / 6, 4 / 6, 3 / 6])


def test_titles_that_score_the_same_are_not_below() -> None:
    even = Fixed(np.ones(TITLES))
    assert reasons(asked(world(("ana", 0, 1)), interest=even)) == {"t0": BELOW}
    found = asked(world(("ana", 0, 1)), interest=even, policy=Policy(least_interest=0))
    assert found.rows["interest"].tolist() == [0]


def test_titles_nobody_ever_watched_are_no_candidates() -> None:
    data = world(("ana", 4, 1))
    spare = 4  # titles that would score below t4, if they were candidates
    more = replace(
        data,
        item_ids=data.item_ids.append(pd.Index([f"u{n}" for n in range(spare)])),
        content=data.content.reindex(range(TITLES + spare)),
    )
    taste = Fixed(np.r_[TASTE.table, np.zeros(spare)])
    assert asked(more, interest=taste, step=taste).rows["interest"].tolist() == [0.5]


def test_interest_does_not_depend_on_friends_or_on_the_ranking() -> None:
    data = world(("ana", 9, 1), ("ana", 0, 1))
    upside_down = Fixed(np.arange(TITLES) * 1.0)
    found = asked(data, step=upside_down)
    assert titles(found) == ["t0"]
    assert reasons(found) == {"t9": BELOW}
    assert found.rows["score"].tolist() == [0]


@pytest.mark.parametrize(
    ("days", "since", "told", "reason"),
    [
        (13.9, None, True, None),
        (14.0, None, True, None),
        (14.1, None, False, None),  # not asked for
        (14.1, 30, False, TOO_OLD),
        (30.1, 30, False, None),
        (4.9, 5, True, None),
        (5.1, 5, False, None),
    ],
)
def test_old_news_is_not_told(
    days: float, since: float | None, told: bool, reason: str | None
) -> None:
    start = None if since is None else NOW - pd.Timedelta(days=since)
    found = asked(world(("ana", 0, days)), since=start)
    assert titles(found) == (["t0"] if told else [])
    assert reasons(found) == ({"t0": reason} if reason else {})


def test_a_title_with_old_and_new_events_is_told_once_with_the_new_ones() -> None:
    data = world(("ana", 0, 20, "loved"), ("ben", 0, 3))
    found = asked(data, since=NOW - pd.Timedelta(days=30))
    assert found.rows["watched"].tolist() == [1]
    assert len(found.dropped) == 0


def test_what_happens_from_now_on_is_unknown() -> None:
    assert len(asked(world(("ana", 0, 0), ("ben", 1, -1))).rows) == 0


def test_what_was_sent_or_dismissed_is_not_told_again() -> None:
    data = world(*(("ana", title, 1) for title in range(4)), ties=[("me", "ana"), ("you", "ana")])
    log = recorded(("me", "t1", "2026-01-01T12:00Z"), ("me", "t2", "2026-01-01T12:00Z"))
    log.dismiss("me", "t2")
    log.dismiss("me", "t3")
    found = asked(data, [0, 5], log=log, policy=Policy(per_day=9))
    assert reasons(found.of("me")) == {"t1": DELIVERED, "t2": DISMISSED, "t3": DISMISSED}
    assert titles(found.of("me")) == ["t0"]
    assert titles(found.of("you")) == ["t0", "t1", "t2", "t3"]


@pytest.mark.parametrize(
    ("quiet", "hour", "told"),
    [
        ((22, 8), 21, True),
        ((22, 8), 22, False),
        ((22, 8), 23, False),
        ((22, 8), 0, False),
        ((22, 8), 7, False),
        ((22, 8), 8, True),
        ((13, 15), 12, True),
        ((13, 15), 13, False),
        ((13, 15), 14, False),
        ((13, 15), 15, True),
        ((9, 9), 9, True),
        ((0, 0), 0, True),
    ],
)
def test_nothing_is_sent_in_quiet_hours(quiet: tuple[int, int], hour: int, told: bool) -> None:
    now = NOW.normalize() + pd.Timedelta(hours=hour, minutes=30)
    found = asked(world(("ana", 0, 2)), now=now, policy=Policy(quiet=quiet))
    assert titles(found) == (["t0"] if told else [])
    assert reasons(found) == ({} if told else {"t0": QUIET})


def test_hours_are_those_of_the_users_region() -> None:
    regions = ["Japan", "Peru", "Peru", "Peru", None, "Peru"]
    ties = [("me", "ana"), ("you", "ana"), ("dan", "ana")]
    data = world(("ana", 0, 1), ties=ties, region=regions)
    clock = Clock(zone="Asia/Kolkata", zones={"Japan": "Asia/Tokyo", "Peru": "America/Lima"})
    found = asked(data, [0, 5, 4], clock=clock)  # 3:00 in Tokyo, 13:00 in Lima, 23:30 in Kolkata
    assert found.rows["user_id"].tolist() == ["you"]
    assert found.dropped["user_id"].tolist() == ["me", "dan"]
    assert set(found.dropped["reason"]) == {QUIET}
    elsewhere = asked(world(("ana", 0, 1)), clock=Clock(zone="Asia/Tokyo"))
    assert reasons(elsewhere) == {"t0": QUIET}


def test_the_best_of_the_day_are_sent() -> None:
    data = world(*(("ana", title, 1) for title in (4, 2, 0, 3, 1)))
    found = asked(data)
    assert titles(found) == ["t0", "t1", "t2"]
    assert reasons(found) == {"t3": OVER, "t4": OVER}
    assert titles(asked(data, policy=Policy(per_day=1))) == ["t0"]


def test_what_was_sent_on_the_same_local_day_counts() -> None:
    data = world(*(("ana", title, 1) for title in range(5)))
    now, clock = pd.Timestamp("2026-05-04T01:00Z"), Clock(zone="Asia/Tokyo")  # 10:00 on the 4th
    log = recorded(
        ("me", "old", "2026-05-03T14:59:59Z"),  # the 3rd, in Tokyo and in UTC
        ("me", "new", "2026-05-03T15:00:00Z"),  # the 4th in Tokyo, though the 3rd in UTC
        ("you", "new", "2026-05-04T00:30:00Z"),
    )
    log.dismiss("me", "not sent at all")
    found = asked(data, now=now, clock=clock, log=log)
    assert titles(found) == ["t0", "t1"]
    assert list(reasons(found).values()) == [OVER] * 3
    assert titles(asked(data, now=now, clock=clock)) == ["t0", "t1", "t2"]


def test_more_sent_than_the_day_allows_leaves_no_room() -> None:
    log = recorded(*(("me", f"x{n}", "2026-05-04T09:00Z") for n in range(5)))
    assert titles(asked(world(("ana", 0, 1)), log=log)) == []


def test_the_first_reason_that_holds_is_given() -> None:
    """The day's room goes to what nothing else speaks against."""
    events = [("ana", title, 1) for title in (0, 1, 2, 9)]
    log = recorded(("me", "t0", "2026-01-01T12:00Z"))
    found = asked(world(*events, ("me", 1, 9)), log=log, policy=Policy(per_day=1))
    assert titles(found) == ["t2"]
    assert reasons(found) == {"t0": DELIVERED, "t1": SEEN, "t9": BELOW}
    told = "4 titles of friends: 1 already seen, 1 already delivered, 1 below your interest"
    assert str(found) == f"{told}, 1 to tell"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_age": 0}, "max_age must be above 0 and at most 36500 days, not 0"),
        ({"max_age": float("nan")}, "max_age"),
        ({"max_age": float("inf")}, "max_age"),
        ({"per_day": 0}, "per_day must be at least 1, not 0"),
        ({"quiet": (22, 24)}, "quiet must be two hours of 0..23, not \\(22, 24\\)"),
        ({"quiet": (22,)}, "quiet"),
        ({"least_interest": 50}, "least_interest must be a share of 0..1, not 50"),
        ({"names_from": 0}, "names_from must be at least 1"),
        ({"names_upto": -1}, "names_upto must be at least 0"),
        ({"per_day": -1, "names_from": 0}, "per_day .*; names_from "),
    ],
)
def test_a_policy_out_of_range_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Policy(**values)


# ------------------------------------------------------------------ ranking


def test_friends_part_is_told_and_ranks() -> None:
    data = world(("ana", 0, 1), ("ana", 1, 1), ("ana", 2, 1))
    friends = Fixed(np.array([0.0, 5.0, 1.5, *[0.0] * 7]), "friends")
    found = asked(data, step=Pipeline((TASTE, friends)))
    assert titles(found) == ["t1", "t0", "t2"]
    assert found.rows["score"].tolist() == [14, 10, 9.5]
    assert found.rows["counts"].tolist() == [5, 0, 1.5]
    assert asked(data).rows["counts"].isna().all()


def test_the_ranking_sees_padded_slates_with_the_time() -> None:
    slates: list[Slate] = []

    def watching(slate: Slate) -> Slate:
        slates.append(slate)
        return TASTE(slate)

    ties = [("me", "ana"), ("you", "ben")]
    data = world(("ana", 2, 1), ("ben", 0, 1), ("ben", 1, 1), ("ben", 9, 1), ties=ties)
    asked(data, [5, 3, 0], step=watching)
    assert len(slates) == 1
    np.testing.assert_array_equal(slates[0].items, [[0, 1], [2, EMPTY]])
    assert slates[0].users.tolist() == [5, 0]
    assert slates[0].requests["at"].tolist() == [NOW, NOW]


def test_equal_scores_keep_the_order_of_the_catalogue() -> None:
    data = world(*(("ana", title, 1) for title in (3, 1, 0, 2)))
    found = asked(data, step=Fixed(np.ones(TITLES)))
    assert titles(found) == ["t0", "t1", "t2"]


def test_a_step_that_moves_slots_is_refused() -> None:
    data = world(*(("ana", title, 1) for title in range(3)))
    with pytest.raises(ValueError, match="leave out top"):
        asked(data, step=Pipeline((TASTE, top(2))))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({"now": pd.Timestamp("2026-05-04")}, "is not an instant"),
        ({"since": pd.Timestamp("2026-05-01")}, "is not an instant"),
        ({"since": NOW}, "is not before"),
    ],
)
def test_times_must_make_sense(times: dict[str, pd.Timestamp], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked(world(("ana", 0, 1)), **times)


# ------------------------------------------------------------------ batches


@pytest.mark.parametrize("users", [[], [-1], [5], [1]])
def test_nothing_to_tell_has_the_same_columns(users: list[int]) -> None:
    data = world(("ana", 0, 1))
    found, some = asked(data, users), asked(data)
    assert len(found.rows) == len(found.dropped) == 0
    pd.testing.assert_series_equal(found.rows.dtypes, some.rows.dtypes)
    assert list(found.dropped) == list(some.dropped)
    assert str(found) == "0 titles of friends"
    lonely = replace(data, friends=None)
    assert len(asked(lonely, [0, 5]).rows) == 0


def test_data_without_profiles_or_catalogue_will_do(tables: Tables) -> None:
    bare = Tables(tables.watch_history, user_connections=tables.user_connections)
    data, now = Dataset.from_tables(bare), pd.Timestamp("2024-03-30T12:00Z")
    step = Popular().fit(data)
    user = data.user_ids.get_indexer(["user0"])
    found = notify(data, step, step, user, now, policy=Policy(least_interest=0))
    assert len(found.rows) > 0
    assert set(found.rows["text"]) <= {
        "A friend watched this title",
        "A friend finished this title",
    }
    assert found.rows["title"].tolist() == found.rows["content_id"].tolist()
    assert found.rows["genres"].tolist() == [[]] * len(found.rows)


@pytest.fixture(scope="module")
def crowd(data: Dataset) -> Dataset:
    """Thirty people with many friends, two tastes and two zones."""
    rng = np.random.default_rng(1)
    friends = sparse.random_array((30, 30), density=0.3, rng=rng, format="csr", dtype=np.float32)
    return replace(data, friends=friends)


CROWDED = {
    "now": pd.Timestamp("2024-03-20T18:30Z"),  # 23:30 in the north, midnight in the south
    "clock": Clock(zones={"north": "Asia/Karachi", "south": "Asia/Kolkata"}),
    "policy": Policy(per_day=2, quiet=(0, 8)),
}


def test_a_batch_is_the_same_as_one_by_one(crowd: Dataset) -> None:
    step = EASE().fit(crowd.until(CROWDED["now"]))
    users = np.random.default_rng(0).permutation(30)
    together = notify(crowd, step, step, np.r_[users, users[:3], -1], **CROWDED)
    alone = [notify(crowd, step, step, np.array([user]), **CROWDED) for user in users]
    for name in ("rows", "dropped"):
        joined = pd.concat([getattr(each, name) for each in alone], ignore_index=True)
        pd.testing.assert_frame_equal(getattr(together, name), joined, rtol=1e-4)
    assert together.rows["user_id"].nunique() > 5
    assert {SEEN, BELOW, QUIET, OVER} == set(together.dropped["reason"])
    of_one = together.of(crowd.user_ids[users[0]])
    pd.testing.assert_frame_equal(of_one.dropped, alone[0].dropped)


def test_filters_agree_with_a_loop_over_titles(crowd: Dataset) -> None:
    now, policy = CROWDED["now"], CROWDED["policy"]
    past = crowd.until(now)
    step = EASE().fit(past)
    found = notify(crowd, step, step, np.arange(30), **CROWDED)
    history = past.matrix().toarray() > 0
    scores = step(Slate(pd.DataFrame({"user": range(30)}), np.arange(40))).scores
    for user in range(30):
        hour = 23 if crowd.users["region"][user] == "north" else 0
        proof = social_proof(
            friend_events(past, np.array([user]), now - pd.Timedelta(days=policy.max_age))
        )
        expected, good = {}, []
        unseen = np.flatnonzero(~history[user] & (past.item_counts > 0))
        for item in proof["item"]:
            below = (scores[user, unseen] < scores[user, item]).sum() / len(unseen)
            if history[user, item]:
                expected[crowd.item_ids[item]] = SEEN
            elif below < policy.least_interest:
                expected[crowd.item_ids[item]] = BELOW
            elif policy.quiet[0] <= hour < policy.quiet[1]:
                expected[crowd.item_ids[item]] = QUIET
            else:
                good.append(item)
        best = sorted(good, key=lambda item: -scores[user, item])
        expected |= {crowd.item_ids[item]: OVER for item in best[policy.per_day :]}
        mine = found.of(crowd.user_ids[user])
        assert titles(mine) == [crowd.item_ids[item] for item in best[: policy.per_day]]
        assert reasons(mine) == expected
