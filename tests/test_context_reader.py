"""Contexts that are read one by one, from memory, as described requests are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from firetv import context as module
from firetv.context import ContextBoost, ContextReader, ContextStep
from firetv.data import Dataset
from firetv.models import EASE
from firetv.moments import DIMENSIONS, Clock, Context, describe, festivals
from firetv.slate import Slate, chain

CLOCKS = {
    "utc": Clock(),
    "country": Clock("Europe/Berlin", country="DE"),
    "zones": Clock("Asia/Kolkata", {"north": "America/New_York", "west": "Asia/Tokyo"}),
    "own": Clock(dayparts={"day": 7, "night": 22}, country="US", southern=True),
}
every_clock = pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)


def step_of(data: Dataset, clock: Clock) -> ContextStep:
    boost = ContextBoost("rules+learned", strength=1.0, joint=True, clock=clock)
    return chain(EASE(reg=10), boost).fit(data).steps[1]


def drawn(count: int, seed: int = 0) -> tuple[list[Context], np.ndarray]:
    """Contexts of all kinds, and users."""
    rng = np.random.default_rng(seed)
    start = pd.Timestamp("2023-12-20T00:00Z")

    def maybe(*values: object) -> object:
        return None if rng.random() < 0.5 else values[rng.integers(len(values))]

    contexts = []
    for _ in range(count):
        # To the second, around the quarters of hours, where the day or its part changes.
        seconds = 900 * rng.integers(4 * 24 * 400) + rng.choice([-1, 0, 1, 450])
        at = start + pd.Timedelta(int(seconds), "s")
        contexts.append(
            Context(
                maybe(at, at.tz_convert("Asia/Tokyo").to_pydatetime()),
                maybe("rainy", "snowy"),
                maybe("none", "Christmas"),
                maybe("alone", "family"),
                maybe("north", "south", "west", "nowhere"),
                maybe("evening", "", "night"),
            )
        )
    return contexts, rng.integers(-1, 30, size=count)


def asked(context: Context, user: int, clock: Clock, data: Dataset) -> pd.DataFrame:
    """The moment of one request, described by itself."""
    request = context.requests(np.array([user]))
    if clock.zones and context.region is None and user >= 0:
        request["region"] = pd.Series([data.users["region"].iloc[user]], dtype="str")
    return describe(request, clock)


@every_clock
def test_codes_and_moments_are_those_of_each_request_by_itself(clock: Clock, rich: Dataset) -> None:
    step = step_of(rich, clock)
    contexts, users = drawn(60)
    reader = ContextReader(step)
    codes, moments = reader.codes(contexts, users), reader.moments(contexts, users)
    assert codes.shape == (len(step.multipliers), 60)
    for row, (context, user) in enumerate(zip(contexts, users, strict=True)):
        alone = step.moments(context.requests(np.array([user])))
        expected = [each.codes(alone)[0] for each in step.multipliers]
        assert codes[:, row].tolist() == expected
        told, there = moments.iloc[row].fillna(""), alone.iloc[0].fillna("")
        assert told.to_dict() == there.to_dict()
        own = asked(context, user, clock, rich).iloc[0].fillna("")
        assert told.to_dict() == own.to_dict()
    np.testing.assert_array_equal(reader.codes(contexts, users), codes)  # now from memory
    pd.testing.assert_frame_equal(reader.moments(contexts, users), moments)
    assert set(moments.dtypes.astype(str)) == {"str"}


@every_clock
def test_requests_do_not_influence_each_other(clock: Clock, rich: Dataset) -> None:
    contexts, users = drawn(60, seed=1)
    step = step_of(rich, clock)
    together = ContextReader(step).codes(contexts, users)
    for some in (slice(None, None, -1), slice(0, 1), slice(7, 40, 3)):
        found = ContextReader(step).codes(contexts[some], users[some])
        np.testing.assert_array_equal(found, together[:, some])
    assert ContextReader(step).codes([], users[:0]).shape == (len(step.multipliers), 0)
    assert ContextReader(step).moments([], users[:0]).shape == (0, len(DIMENSIONS))


def test_the_region_tells_the_zone(rich: Dataset) -> None:
    step, at = step_of(rich, CLOCKS["zones"]), pd.Timestamp("2024-03-06T14:00Z")
    users = np.array(
        [int((rich.users["region"] == name).to_numpy().argmax()) for name in ("north", "south")]
    )
    parts = ContextReader(step).moments([Context(at)] * 2, users)["daypart"].tolist()
    assert parts == ["morning", "evening"]
    moved = ContextReader(step).moments([Context(at, region="west")], users[:1])
    assert moved["daypart"].item() == "night"
    guest = ContextReader(step).moments([Context(at)], np.array([-1]))
    assert guest["daypart"].item() == "evening"


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns"])
def test_moments_change_on_the_second(zone: str, rich: Dataset) -> None:
    step = step_of(rich, Clock(zone))
    reader, user = ContextReader(step), np.array([0])
    for local, before, after in (
        ("2024-03-09 18:00", {"daypart": "afternoon"}, {"daypart": "evening"}),
        ("2024-03-09 00:00", {"daytype": "weekday"}, {"daytype": "weekend"}),
        ("2024-06-01 00:00", {"season": "spring"}, {"season": "summer"}),
    ):
        change = pd.Timestamp(local, tz=zone)
        for at, values in ((change - pd.Timedelta(1, "us"), before), (change, after)):
            told = reader.moments([Context(at)], user).iloc[0]
            assert told[list(values)].to_dict() == values


def test_what_is_given_overrides_what_follows(rich: Dataset) -> None:
    step, at = step_of(rich, CLOCKS["country"]), pd.Timestamp("2024-12-25T20:00Z")
    contexts = [Context(at), Context(at, festival="none"), Context(at, daypart="morning")]
    told = ContextReader(step).moments(contexts, np.array([0, 0, 0]))
    assert told["festival"].tolist() == ["Christmas", "none", "Christmas"]
    assert told["daypart"].tolist() == ["evening", "evening", "morning"]
    assert told["daytype"].tolist() == ["weekday"] * 3


def test_memory_is_bounded(rich: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_REMEMBERED", 5)
    reader, (contexts, users) = ContextReader(step_of(rich, Clock())), drawn(40)
    for row in range(40):
        reader.codes(contexts[row : row + 1], users[row : row + 1])
        assert len(reader.remembered) <= 6


def test_dimensions_of_the_datas_own_are_unknown(rich: Dataset) -> None:
    device = np.where(np.arange(len(rich.interactions)) % 2, "phone", "tv")
    own = replace(
        rich,
        interactions=rich.interactions.assign(device=device),
        manifest={"context": ["device"]},
    )
    step = step_of(own, Clock())
    contexts, users = drawn(20)
    moments = ContextReader(step).moments(contexts, users)
    assert moments["device"].isna().all()
    codes = dict(
        zip(
            (m.dimension for m in step.multipliers),
            ContextReader(step).codes(contexts, users),
            strict=True,
        )
    )
    assert (codes["device"] == 2).all()


def test_moments_that_were_read_give_the_same_parts(rich: Dataset) -> None:
    step = step_of(rich, CLOCKS["country"])
    contexts = [Context(pd.Timestamp("2024-12-25T20:00Z"), "rainy")] * 3
    users = np.array([0, 5, -1])
    slate = Slate(contexts[0].requests(users), np.arange(40)).add("taste", np.ones((3, 40)))
    reader = ContextReader(step)
    found = step.at(slate, reader.codes(contexts, users), reader.moments(contexts, users))
    expected = step(slate)
    assert list(found.parts) == list(expected.parts)
    for name, part in expected.parts.items():
        np.testing.assert_array_equal(found.parts[name], part)


# What the clock and the calendar remember


def test_a_daypart_is_that_of_a_moment() -> None:
    for clock in CLOCKS.values():
        for hour in range(24):
            frame = pd.DataFrame(
                {"at": [pd.Timestamp("2024-03-06", tz=clock.zone).replace(hour=hour)]}
            )
            assert (
                clock.daypart(hour) == describe(frame, replace(clock, zones={}))["daypart"].item()
            )


def test_given_is_what_does_not_follow_from_the_instant() -> None:
    at = pd.Timestamp("2024-03-06T14:00Z")
    assert Context(at, region="north").given() == {}
    given = {"weather": "rainy", "festival": "none", "companion": "alone", "daypart": ""}
    assert Context(at, **given).given() == given


def test_festivals_from_memory_are_those_of_the_calendar() -> None:
    days = pd.date_range("1998-12-20", "1999-01-10").union(
        pd.date_range("2024-10-20", "2024-11-10")
    )
    expected = festivals(days, "IN").fillna("").tolist()
    assert {"", "none", "Diwali"} <= set(expected)
    clock, order = Clock(country="IN"), np.random.default_rng(0).permutation(len(days))
    for some in np.array_split(np.concatenate([order, order[::-1]]), 11):
        frame = pd.DataFrame({"at": days[some].tz_localize("UTC") + pd.Timedelta("12h")})
        found = describe(frame, clock)["festival"].fillna("").tolist()
        assert found == [expected[place] for place in some]


def test_what_was_remembered_may_be_forgotten_in_mid_call(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room is made for a new moment while one that is remembered is asked for too."""
    monkeypatch.setattr("firetv.context.MOST_REMEMBERED", 0)
    reader = ContextReader(ContextBoost("rules", strength=1.0).fit(data))
    one, other = (Context(pd.Timestamp(f"2026-07-01T{hour}:00Z")) for hour in ("08", "20"))
    nobody = np.array([-1, -1])
    expected = reader.codes([other, other], nobody)[:, :1]
    reader.codes([one, one], nobody)
    both = reader.codes([one, other], nobody)
    np.testing.assert_array_equal(both[:, 1:], expected)
    reader.codes([one, one], nobody)
    np.testing.assert_array_equal(reader.codes([one, other], nobody), both)
