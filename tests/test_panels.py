"""Requests of groups taken apart, and panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from firetv.panels import LARGEST, Chosen, Panel, Seats, beaten, in_order, seats

NAN = float("nan")


def requests(*members: Sequence[int], **columns: list) -> pd.DataFrame:
    return pd.DataFrame({"members": pd.Series(list(members), dtype=object), **columns})


def people(frame: pd.DataFrame) -> dict[int, list[int]]:
    """Members by row."""
    return {
        int(row): users.tolist()
        for each in seats(frame)
        for row, users in zip(each.rows, each.users, strict=True)
    }


def test_groups_come_by_size_and_in_the_order_of_their_requests() -> None:
    frame = requests((4, 2), (9,), (1, 0), (5, 3, 8), (7, 6))
    frame.index = [30, 10, 10, 20, 0]  # means nothing
    found = list(seats(frame))
    assert [each.size for each in found] == [1, 2, 3]
    assert [each.rows.tolist() for each in found] == [[1], [0, 2, 4], [3]]
    np.testing.assert_array_equal(found[1].users, [[4, 2], [1, 0], [7, 6]])
    assert all(each.users.dtype == each.rows.dtype == np.int64 for each in found)
    assert all(each.known == {} for each in found)


def test_a_person_counts_once_and_every_guest_too() -> None:
    frame = requests((3, 3, 5, 3), (-1, -1, 2), (-1,), (2, -1, 2, -1))
    assert people(frame) == {0: [3, 5], 1: [-1, -1, 2], 2: [-1], 3: [2, -1, -1]}


@pytest.mark.parametrize("kind", [tuple, list, np.array])
def test_members_may_be_any_sequence(kind: type) -> None:
    frame = requests(kind([4, 2]), kind([1, 0]), presence=[kind([1.0, 0.5]), kind([0.5, 1.0])])
    (found,) = seats(frame)
    np.testing.assert_array_equal(found.users, [[4, 2], [1, 0]])
    np.testing.assert_array_equal(found.known["presence"], [[1, 0.5], [0.5, 1]])


def test_the_absent_are_no_members_and_the_rest_keep_what_is_theirs() -> None:
    frame = requests(
        (4, 2, 7),
        (1, 0, 3),
        presence=[(1, 0, 0.5), (NAN, 1, 0)],
        satisfaction=[(0.1, 0.2, NAN), (0.4, 0.5, 0.6)],
    )
    (found,) = seats(frame)
    np.testing.assert_array_equal(found.users, [[4, 7], [1, 0]])
    np.testing.assert_array_equal(found.known["presence"], [[1, 0.5], [NAN, 1]])
    np.testing.assert_array_equal(found.known["satisfaction"], [[0.1, NAN], [0.4, 0.5]])


def test_somebody_named_twice_is_there_if_they_are_there_once() -> None:
    frame = requests((1, 1, 2), presence=[(0, 0.5, 1)], satisfaction=[(0.1, 0.2, 0.3)])
    (found,) = seats(frame)
    np.testing.assert_array_equal(found.users, [[1, 2]])
    np.testing.assert_array_equal(found.known["presence"], [[0.5, 1]])
    np.testing.assert_array_equal(found.known["satisfaction"], [[0.2, 0.3]])


def test_what_is_not_known_of_anybody_is_missing_and_whole_numbers_will_do() -> None:
    frame = requests((1, 2), (3, 4), satisfaction=[(None, NAN), (0, 1)])
    (found,) = seats(frame)
    np.testing.assert_array_equal(found.known["satisfaction"], [[NAN, NAN], [0, 1]])
    assert found.known["satisfaction"].dtype == np.float64


def test_no_requests_are_no_groups() -> None:
    assert list(seats(requests((1, 2)).iloc[:0])) == []
    assert list(seats(requests((1, 2), presence=[(1, 1)]).iloc[:0])) == []


def test_requests_are_not_written_to() -> None:
    frame = requests((1, 1, 2), presence=[(1, 1, 0)])
    before = frame.copy(deep=True)
    list(seats(frame))
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize(
    ("frame", "match"),
    [
        (pd.DataFrame({"user": [1]}), "column members"),
        (requests((1, 2), (3,), presence=[(1,), (1,)]), "presence of 1 groups has another length"),
        (requests((1, 2), satisfaction=[(0.1, 0.2, 0.3)]), "satisfaction of 1 groups"),
        (requests((1, 2), satisfaction=[(0.1, 1.2)]), "satisfaction of 1 members is not a number"),
        (requests((1, 2), presence=[(-0.1, -1)]), "presence of 2 members is not a number"),
        (requests((1, 2), presence=[(np.inf, 1)]), "presence of 1 members is not a number"),
        (requests((1,), (), ()), "2 groups have nobody, the first in row 1"),
        (requests((1, 2), (3, 4), presence=[(1, 1), (0, 0)]), "1 groups have nobody"),
        (requests((1,), range(LARGEST + 1)), "1 groups have more than 50 members.* in row 1"),
        (requests((-1,) * (LARGEST + 1)), "more than 50 members"),
    ],
)
def test_requests_that_make_no_sense_are_refused(frame: pd.DataFrame, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        list(seats(frame))


def test_the_largest_group_is_counted_without_those_named_again_or_absent() -> None:
    full = tuple(range(LARGEST))
    absent = [(1,) * LARGEST + (0,)]
    assert people(requests((*full, 7))) == people(requests((*full, 99), presence=absent))


@pytest.mark.parametrize("groups", [1, 2, 3, 99])
def test_chunks_are_the_whole(groups: int) -> None:
    (whole,) = seats(requests(*[(n, n + 1) for n in range(5)], presence=[(1, 0.5)] * 5))
    parts = list(whole.chunks(groups))
    assert [len(part.rows) for part in parts[:-1]] == [groups] * (len(parts) - 1)
    for name in ("rows", "users"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(whole, name))
    joined = np.concatenate([part.known["presence"] for part in parts])
    np.testing.assert_array_equal(joined, whole.known["presence"])


# ------------------------------------------------------------------ panels


def test_a_panel_knows_what_is_valid_and_what_each_counts() -> None:
    opinions = np.array([[[0.5, 1.0, 0.2], [0.5, NAN, 0.4]]])
    panel = Panel.of(opinions, np.array([[0.75, 0.25]]))
    np.testing.assert_array_equal(panel.valid, [[True, False, True]])
    np.testing.assert_array_equal(panel.opinions[0, :, 1], [0, 0])
    np.testing.assert_allclose(panel.mean(panel.opinions), [[0.5, 0, 0.25]], rtol=1e-6)
    np.testing.assert_array_equal(panel.masked(panel.opinions)[0, :, 1], [-np.inf] * 2)
    np.testing.assert_array_equal(panel.masked(np.ones((1, 3))), [[1, -np.inf, 1]])
    np.testing.assert_array_equal(Panel.of(opinions).weights, [[0.5, 0.5]])
    assert Panel.of(opinions).opinions.dtype == Panel.of(opinions).weights.dtype == np.float32


def test_turns_keep_scores_from_rising() -> None:
    rng = np.random.default_rng(0)
    shares = rng.normal(size=(50, 3, 8)).astype(np.float32)
    chosen = in_order(Chosen(np.tile(np.arange(8), (50, 1)), shares))
    score = shares.sum(axis=1) + chosen.turn
    assert (np.diff(score, axis=1) <= 1e-5).all()
    np.testing.assert_array_equal(chosen.turn[:, -1], 0)
    assert in_order(Chosen(np.zeros((2, 0), int), np.zeros((2, 3, 0)))).turn is None


def test_shares_are_of_members_or_of_the_group() -> None:
    slots = np.zeros((1, 2), int)
    assert Chosen(slots, np.zeros((1, 3, 2))).by_member
    assert not Chosen(slots, np.zeros((1, 1, 2))).by_member


def test_seats_have_a_size() -> None:
    assert Seats(np.arange(2), np.zeros((2, 7), int)).size == 7


def test_shares_are_weighted_if_nothing_else_is_said() -> None:
    chosen = Chosen(np.zeros((1, 2), int), np.ones((1, 3, 2), np.float32))
    assert chosen.weighted
    assert in_order(chosen).weighted
    assert not in_order(replace(chosen, weighted=False)).weighted


@pytest.mark.parametrize("digits", [0, 1, 6])
@pytest.mark.parametrize("members", [None, 3])
def test_a_slot_beats_those_below_and_half_of_those_as_good(
    digits: int, members: int | None
) -> None:
    rng = np.random.default_rng(digits)
    shape = (20, 9) if members is None else (20, members, 9)
    scores = rng.random(shape).round(digits).astype(np.float32)
    held = rng.random((20, 9)) < rng.choice([0, 0.5, 1], size=(20, 1))
    valid = held if members is None else held[:, None]
    there = np.broadcast_to(valid, shape)
    scores[~there & (rng.random(shape) < 0.5)] = -np.inf  # as of empty slots
    for array in (scores, valid):
        array.flags.writeable = False
    found = beaten(scores, valid)
    assert found.dtype == np.float32
    for place in np.argwhere(there):
        row, slot = tuple(place[:-1]), place[-1]
        own = scores[row]
        others = [own[s] for s in range(9) if there[row][s] and s != slot]
        expected = sum((own[slot] > o) + 0.5 * (own[slot] == o) for o in others)
        assert found[row][slot] == expected
