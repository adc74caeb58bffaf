import time
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from firetv.moments import (
    DIMENSIONS,
    FESTIVALS,
    VALUES,
    Clock,
    Context,
    describe,
    festivals,
)


def events(*instants: str | None, **columns: object) -> pd.DataFrame:
    timestamp = pd.to_datetime(list(instants), utc=True).astype("datetime64[us, UTC]")
    return pd.DataFrame({"timestamp": timestamp, **columns})


def texts(values: pd.Series) -> list[str]:
    return values.fillna("?").tolist()


def on(country: str, *days: str) -> list[str]:
    return texts(festivals(pd.DatetimeIndex(days), country))


# --- Context ---


def test_a_context_is_what_is_given() -> None:
    at = pd.Timestamp("2026-12-24T20:00+01:00")
    context = Context(at, "Snowy", "CHRISTMAS", "alone", region="north")
    requests = context.requests(np.array([4, -1]))
    instant = pd.Timestamp("2026-12-24T19:00Z")
    assert requests.to_numpy().tolist() == [
        [user, instant, "snowy", "Christmas", "alone", "north"] for user in (4, -1)
    ]
    assert requests.dtypes.astype(str).tolist() == [
        "int32",
        "datetime64[us, UTC]",
        *["str"] * 4,
    ]
    assert Context().requests(np.array([1])).columns.tolist() == ["user"]
    assert len(context.requests(np.array([], int))) == 0


def test_a_datetime_is_an_instant_too() -> None:
    requests = Context(datetime(2026, 1, 31, 20, tzinfo=UTC)).requests(np.array([0]))
    assert requests["at"].tolist() == [pd.Timestamp("2026-01-31T20:00Z")]


@pytest.mark.parametrize("at", [datetime(2026, 1, 31), pd.Timestamp("2026-01-31"), pd.NaT])
def test_a_time_without_a_zone_is_refused(at: datetime) -> None:
    with pytest.raises(ValueError, match=r"not an instant: .*2026-01-31T20:15:00\+01:00"):
        Context(at)


@pytest.mark.parametrize("name", ["weather", "festival", "companion"])
def test_an_unknown_value_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=f"'toothache' is not a known {name}") as caught:
        Context(**{name: "toothache"})
    assert ", ".join(VALUES[name]) in str(caught.value)


def test_any_case_is_accepted_and_normalised() -> None:
    for name in ("weather", "festival", "companion"):
        for value in VALUES[name]:
            assert getattr(Context(**{name: value.upper()}), name) == value
    assert Context(festival="none").festival == "none"


def test_values_are_those_of_the_dimensions() -> None:
    assert set(VALUES) == set(DIMENSIONS)
    assert VALUES["festival"] == ("none", *(f.name for f in FESTIVALS))


# --- Clock ---


@pytest.mark.parametrize("zone", ["Mars/Base", "", "/etc/passwd", "Europe", "../UTC"])
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match=r"is not a time zone: .*available_timezones"):
        Clock(zone=zone)
    with pytest.raises(ValueError, match="is not a time zone"):
        Clock(zones={"north": zone})


@pytest.mark.parametrize("country", ["XX", "us", "", "Germany"])
def test_an_unknown_country_is_refused(country: str) -> None:
    with pytest.raises(ValueError, match=r"there is no calendar of .*list_supported_countries"):
        Clock(country=country)


@pytest.mark.parametrize("parts", [{}, {"a": 24}, {"a": -1}, {"a": 6.5}, {"a": 6, "b": 6}])
def test_bad_dayparts_are_refused(parts: Mapping[str, int]) -> None:
    with pytest.raises(ValueError, match="dayparts need"):
        Clock(dayparts=parts)


# --- Derived dimensions ---


def test_dayparts_start_on_the_hour_and_wrap_over_midnight() -> None:
    hours = ["00:00", "05:59", "06:00", "11:59", "12:00", "18:00", "22:59", "23:00"]
    moments = describe(events(*(f"2026-01-31T{hour}Z" for hour in hours)))
    assert moments["daypart"].tolist() == [
        *["night", "night", "morning", "morning", "afternoon", "evening", "evening", "night"]
    ]


def test_dayparts_of_ones_own() -> None:
    hours = [f"2026-01-31T{hour:02}:30Z" for hour in (0, 3, 4, 16, 17)]
    halves = Clock(dayparts={"late": 17, "early": 4})
    assert describe(events(*hours), halves)["daypart"].tolist() == [
        *["late", "late", "early", "early", "late"]
    ]
    assert set(describe(events(*hours), Clock(dayparts={"always": 9}))["daypart"]) == {"always"}


def test_the_region_picks_the_zone() -> None:
    clock = Clock(zone="Europe/Berlin", zones={"tokyo": "Asia/Tokyo", "la": "America/Los_Angeles"})
    region = ["tokyo", "la", "elsewhere", None]
    frame = events(*["2026-01-30T22:30Z"] * 4, region=region)
    moments = describe(frame, clock)
    assert moments["daypart"].tolist() == ["morning", "afternoon", "night", "night"]
    assert moments["daytype"].tolist() == ["weekend", "weekday", "weekday", "weekday"]
    assert set(describe(frame.drop(columns="region"), clock)["daypart"]) == {"night"}
    assert describe(frame.iloc[:0], clock).empty


def test_summer_time_moves_the_daypart() -> None:
    frame = events("2026-03-28T16:59Z", "2026-03-28T17:00Z", "2026-03-29T16:00Z")
    parts = describe(frame, Clock(zone="Europe/Berlin"))["daypart"]
    assert parts.tolist() == ["afternoon", "evening", "evening"]
    twice = events("2026-10-25T00:30Z", "2026-10-25T01:30Z")  # both are half past two
    early = Clock(zone="Europe/Berlin", dayparts={"day": 3, "two": 2})
    assert describe(twice, early)["daypart"].tolist() == ["two", "two"]


def test_seasons_start_with_the_month() -> None:
    days = ["02-28", "03-01", "05-31", "06-01", "08-31", "09-01", "11-30", "12-01"]
    frame = events(*(f"2026-{day}T12:00Z" for day in days))
    north = ["winter", "spring", "spring", "summer", "summer", "autumn", "autumn", "winter"]
    south = ["summer", "autumn", "autumn", "winter", "winter", "spring", "spring", "summer"]
    assert describe(frame)["season"].tolist() == north
    assert describe(frame, Clock(southern=True))["season"].tolist() == south


def test_weekends_are_saturday_and_sunday() -> None:
    days = pd.date_range("2026-01-26", periods=7).strftime("%Y-%m-%dT12:00Z")  # from a Monday
    assert describe(events(*days))["daytype"].tolist() == ["weekday"] * 5 + ["weekend"] * 2


# --- Observed and missing ---


def test_what_was_observed_is_taken_as_it_is() -> None:
    observed = {
        "daypart": ["tea time", None],
        "daytype": ["holiday", None],
        "season": [None, "monsoon"],
        "weather": ["hail", None],
        "companion": [None, "dog"],
        "location": ["cinema", None],
    }
    frame = events(*["2026-12-24T12:00Z"] * 2, **observed).set_axis([3, 3])
    moments = describe(frame, Clock(country="US"))
    assert moments.index.tolist() == [3, 3]
    assert moments.columns.tolist() == list(DIMENSIONS)
    assert (moments.dtypes == "str").all()
    for name, values in observed.items():
        assert texts(moments[name]) == ["?" if v is None else v for v in values], name
    assert moments["festival"].tolist() == ["Christmas"] * 2


def test_an_empty_cell_of_an_observed_festival_is_an_ordinary_day() -> None:
    frame = events(*["2026-12-24T12:00Z"] * 2)
    clock = Clock(country="US")
    some = frame.assign(festival=pd.Series(["Tulip Time", None], dtype=object))
    assert texts(describe(some, clock)["festival"]) == ["Tulip Time", "none"]
    nowhere = frame.assign(festival=pd.Series([None, None], dtype="str"))
    assert texts(describe(nowhere, clock)["festival"]) == ["?", "?"]


def test_without_an_instant_nothing_is_derived() -> None:
    clock = Clock(country="US", zones={"tokyo": "Asia/Tokyo"})
    for frame in (
        pd.DataFrame({"user": [1, 2]}),
        events(None, None),
        events(None, None, region=["tokyo", None]),
    ):
        moments = describe(frame, clock)
        assert moments.isna().all(axis=None)
        assert (moments.dtypes == "str").all()
    mixed = describe(events(None, "2026-12-25T12:00Z", region="tokyo"), clock)
    assert texts(mixed["daypart"]) == ["?", "evening"]
    assert texts(mixed["festival"]) == ["?", "Christmas"]
    assert describe(pd.DataFrame({"user": []}), clock).shape == (0, len(DIMENSIONS))


def test_requests_are_described_like_events() -> None:
    instants = ["2026-12-24T20:00Z", "2026-07-04T02:00Z"]
    clock = Clock(zone="America/New_York", country="US")
    requests = events(*instants).rename(columns={"timestamp": "at"})
    assert_frame_equal(describe(requests, clock), describe(events(*instants), clock))


def test_without_a_country_the_festival_is_unknown() -> None:
    assert describe(events("2026-12-25T12:00Z"))["festival"].isna().all()


def test_times_without_a_zone_are_refused() -> None:
    frame = events("2026-12-25T12:00Z")
    frame["timestamp"] = frame["timestamp"].dt.tz_localize(None)
    with pytest.raises(ValueError, match=r"column timestamp holds datetime64.*utc=True"):
        describe(frame)


# --- Festivals ---


def test_lead_days_belong_to_a_festival() -> None:
    days = [f"2024-12-{day}" for day in (17, 18, 25, 26, 27, 29, 30, 31)]
    assert on("US", *days, "2025-01-01", "2025-01-02", "2025-01-03") == [
        "none",
        *["Christmas"] * 3,
        *["none"] * 2,
        *["New Year"] * 4,
        "none",
    ]


def test_unofficial_and_optional_days_count() -> None:
    days = ("2024-02-14", "2024-02-15", "2024-10-31", "2024-11-28", "2024-03-31")
    assert on("US", *days) == ["Valentine's Day", "none", "Halloween", "Thanksgiving", "Easter"]
    assert on("IN", "2024-03-25", "2024-10-31", "2024-04-11") == ["Holi", "Diwali", "Eid"]


def test_moving_festivals() -> None:
    assert on("CN", "2024-02-10", "2025-01-29", "2024-09-17") == [
        "Lunar New Year",
        "Lunar New Year",
        "Mid-Autumn Festival",
    ]
    assert on("SG", "2024-02-10", "2024-04-10", "2024-06-17", "2024-10-31") == [
        *["Lunar New Year", "Eid", "Eid", "Diwali"]
    ]
    assert on("VN", "2024-02-10") == on("KR", "2024-02-10") == ["Lunar New Year"]
    assert on("TR", "2024-04-10", "2024-06-19", "2024-03-01") == ["Eid", "Eid", "none"]
    assert on("IL", "2024-12-28", "2024-12-31") == ["Hanukkah", "Hanukkah"]


def test_a_country_without_english_as_a_choice_has_festivals_too() -> None:
    assert on("NZ", "2024-12-25", "2024-04-01", "2024-08-01") == ["Christmas", "Easter", "none"]


def test_other_new_years_and_days_off_are_not_the_festival() -> None:
    assert on("IN", "2024-08-15") == ["none"]  # Parsi New Year
    assert on("ID", "2024-07-07") == ["none"]  # Islamic New Year
    assert on("JP", "2024-11-23") == ["none"]  # Labor Thanksgiving Day
    assert on("US", "2022-12-28") == ["none"]  # Christmas was a Sunday, observed on Monday


def test_an_unknown_date_is_not_an_ordinary_day() -> None:
    assert on("IN", "1997-11-05", "1997-12-25", "2000-06-01", "2001-06-01") == [
        *["?", "Christmas", "?", "none"]
    ]
    assert on("US", "1997-11-05", "1997-12-25") == ["none", "Christmas"]
    assert on("DE", "1985-06-01", "1985-12-25") == ["?", "?"]  # the calendar starts later


def test_the_next_years_festival_can_be_the_unknown_one() -> None:
    # calendars end with 2100, and New Year's time starts two days ahead of it
    assert on("US", "2100-12-24", "2100-12-30", "2101-01-01") == ["Christmas", "?", "?"]
    assert on("US", "2100-12-20", "2100-12-10") == ["Christmas", "none"]


def test_the_nearest_festival_holds() -> None:
    # Holi is on 25 March and Good Friday on the 29th, with three days of lead
    days = ("2024-03-24", "2024-03-25", "2024-03-26", "2024-03-29")
    assert on("IN", *days) == ["Holi", "Holi", "Easter", "Easter"]
    # Diwali is on 1 November and has three days after it, Eid is on the 4th and has five before it
    days = ("2005-11-01", "2005-11-02", "2005-11-03", "2005-11-04")
    assert on("IN", *days) == ["Diwali", "Diwali", "Eid", "Eid"]


def test_on_ties_the_later_row_holds() -> None:
    assert on("TR", "2006-12-30", "2007-01-01") == ["Eid", "Eid"]  # Eid begins on 31 December
    assert on("SG", "2033-12-24") == ["Christmas"]  # Eid is on 23 December


def test_festivals_keep_order_and_index() -> None:
    days = pd.DatetimeIndex(["2024-12-25", "2023-10-31", "2024-07-09"])
    found = festivals(days, "US")
    assert found.index.equals(days)
    assert found.dtype == "str"
    assert found.tolist() == ["Christmas", "Halloween", "none"]
    assert festivals(days[:0], "US").empty


def test_the_local_day_decides() -> None:
    frame = events("2024-12-31T16:00Z", "2025-01-02T23:30Z")
    clock = Clock(zone="Asia/Tokyo", country="US")
    assert describe(frame, clock)["festival"].tolist() == ["New Year", "none"]


def test_a_million_rows_take_seconds() -> None:
    rng = np.random.default_rng(0)
    seconds = pd.to_timedelta(rng.integers(0, 3 * 365 * 86_400, 1_000_000), unit="s")
    instants = (pd.Timestamp("2022-01-01T00Z") + seconds).astype("datetime64[us, UTC]")
    region = pd.array(rng.choice(["north", "south"], len(instants)), dtype="str")
    frame = pd.DataFrame({"timestamp": instants, "region": region})
    clock = Clock(zones={"north": "Europe/Berlin", "south": "Africa/Lagos"}, country="IN")
    start = time.perf_counter()
    moments = describe(frame, clock)
    assert time.perf_counter() - start < 10  # about half a second where this was written
    assert moments[["daypart", "daytype", "season", "festival"]].notna().all(axis=None)
