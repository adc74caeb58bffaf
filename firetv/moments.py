"""What a request's moment is: its context, and what follows from the instant.

A moment has seven :data:`DIMENSIONS`. Daypart, day type and season follow from an instant once a
:class:`Clock` says how instants are read; the festival follows from a country's calendar; weather,
company and place can only be observed, as can the further dimensions that data may have of their
own. :func:`describe` puts them side by side, and what is not known stays missing.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import holidays
import numpy as np
import pandas as pd

from firetv.schema import DIMENSIONS, TIMESTAMP

NO_FESTIVAL = "none"  # an ordinary day, which is not the same as an unknown one
CALENDAR_YEARS = range(2001, 2036)  # where every calendar of `holidays` is complete


@dataclass(frozen=True)
class Festival:
    """A festival, and which days around it count as its time.

    Attributes
    ----------
    name : str
        As in the ``festival`` column.
    pattern : str
        Regular expression, searched in the English names of the `holidays` package.
    days_before, days_after : int
        Days before and after a day so named that still belong to the festival.
    """

    name: str
    pattern: str
    days_before: int
    days_after: int


_CHRISTMAS = r"^((Armenian )?Orthodox |Catholic |Coptic )?Christmas(?! Eve| Holiday| Joint| Second)"
FESTIVALS = (  # where two are equally near, the later row holds
    Festival("New Year", r"^(International )?New Year('s)? (Day|Holiday)", 2, 1),
    Festival("Lunar New Year", r"(Chinese|Lunar|Korean) New Year(?!'s Eve)|^Chinese Spring", 6, 1),
    Festival("Valentine's Day", r"^Valentine's Day", 3, 0),
    Festival("Carnival", r"^Carnival|^Shrove", 3, 0),
    Festival("Holi", r"^Holi\b", 3, 0),
    Festival("Nowruz", r"\bNowruz\b", 2, 1),
    Festival("Easter", r"Good Friday|Easter", 3, 3),  # many calendars have one of its days only
    Festival("Eid", r"\bEid[ -][au]l-(Fitr|Adha)", 5, 1),
    Festival("Mid-Autumn Festival", r"Mid-Autumn Festival|Chuseok", 3, 0),
    Festival("Diwali", r"^Diwali", 2, 3),
    Festival("Halloween", r"^Halloween", 7, 0),
    Festival("Thanksgiving", r"^Thanksgiving Day", 2, 3),
    Festival("Hanukkah", r"^Hanukkah", 1, 0),  # each of its days is in the calendar
    Festival("Christmas", _CHRISTMAS, 7, 1),
)
VALUES: Mapping[str, tuple[str, ...]] = {
    "daypart": ("morning", "afternoon", "evening", "night"),
    "daytype": ("weekday", "weekend", "holiday"),  # a holiday is observed, never derived
    "season": ("spring", "summer", "autumn", "winter"),
    "weather": ("sunny", "cloudy", "rainy", "stormy", "snowy"),
    "festival": (NO_FESTIVAL, *(festival.name for festival in FESTIVALS)),
    "companion": ("alone", "partner", "family", "friends", "colleagues", "parents", "public"),
    "location": ("home", "public", "friend's"),
}


@dataclass(frozen=True)
class Context:
    """The context of a request, as far as it is known; None where it is not.

    Attributes
    ----------
    at : datetime with a time zone, or None
    weather, festival, companion : str or None
        One of :data:`VALUES`, in any case; kept in the spelling that is listed there.
    region : str or None
        As in the users table.
    daypart : str or None
        Where the hour is known, but not the day; else it follows from `at`.

    Raises
    ------
    ValueError
        If `at` has no time zone, or a value is unknown; it lists the known ones.

    Examples
    --------
    >>> context = Context(pd.Timestamp("2026-12-24T20:00+01:00"), companion="Family")
    >>> context.companion
    'family'
    >>> context.requests(np.array([3]))
       user                        at companion
    0     3 2026-12-24 19:00:00+00:00    family
    """

    at: datetime | None = None
    weather: str | None = None
    festival: str | None = None
    companion: str | None = None
    region: str | None = None
    daypart: str | None = None

    def __post_init__(self) -> None:
        if self.at is not None and self.at.tzinfo is None:
            raise ValueError(
                f"{self.at} is not an instant: give its offset, as in "
                "pd.Timestamp('2026-01-31T20:15:00+01:00')"
            )
        for name in ("weather", "festival", "companion"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _canonical(name, value))

    def given(self) -> dict[str, str]:
        """Dimensions that are said, and do not follow from the instant."""
        names = ("weather", "festival", "companion", "daypart")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def requests(self, users: np.ndarray) -> pd.DataFrame:
        """Make one request of each user in this context.

        Parameters
        ----------
        users : int array of shape (R,)
            User codes, -1 for a stranger.

        Returns
        -------
        DataFrame of R rows
            ``user`` (int32) and what is given of ``at`` (datetime64[us, UTC]), ``weather``,
            ``festival``, ``companion``, ``region`` and ``daypart`` (str).
        """
        requests = pd.DataFrame({"user": np.asarray(users, np.int32)})
        if self.at is not None:
            instant = pd.Timestamp(self.at).tz_convert("UTC")
            requests["at"] = pd.Series(instant, index=requests.index, dtype=TIMESTAMP)
        for name in ("weather", "festival", "companion", "region", "daypart"):
            value = getattr(self, name)
            if value is not None:
                requests[name] = pd.Series(value, index=requests.index, dtype="str")
        return requests


def _canonical(name: str, value: str) -> str:
    spelling = {known.casefold(): known for known in VALUES[name]}
    if str(value).casefold() not in spelling:
        raise ValueError(f"{value!r} is not a known {name}: use one of {', '.join(VALUES[name])}")
    return spelling[str(value).casefold()]


def _default_dayparts() -> dict[str, int]:
    return {"morning": 6, "afternoon": 12, "evening": 18, "night": 23}


@dataclass(frozen=True)
class Clock:
    """How instants are read.

    Attributes
    ----------
    zone : str
        IANA name of the time zone where nothing else is known.
    zones : mapping of str to str
        IANA names by region; other regions use `zone`.
    dayparts : mapping of str to int
        First local hour of each part of the day, 0..23. A part lasts until the next one starts,
        the last of them past midnight.
    country : str or None
        ISO 3166 code of the country whose calendar names the festivals; None leaves them unknown.
    southern : bool
        Whether seasons are those of the southern hemisphere. They start with the month, in March,
        June, September and December.

    Raises
    ------
    ValueError
        If a zone, a country or an hour does not exist.
    """

    zone: str = "UTC"
    zones: Mapping[str, str] = field(default_factory=dict)
    dayparts: Mapping[str, int] = field(default_factory=_default_dayparts)
    country: str | None = None
    southern: bool = False

    def __post_init__(self) -> None:
        for zone in (self.zone, *self.zones.values()):
            _check_zone(zone)
        hours = list(self.dayparts.values())
        if not hours or not all(hour in range(24) for hour in hours):
            raise ValueError(f"dayparts need at least one name, and hours of 0..23, not {hours}")
        if len(set(hours)) < len(hours):
            raise ValueError(f"dayparts need different first hours, not {hours}")
        if self.country is not None and self.country not in holidays.list_supported_countries():
            raise ValueError(
                f"there is no calendar of {self.country!r}: use an ISO 3166 code such as US, one "
                "of holidays.list_supported_countries(), or None"
            )

    def daypart(self, hour: int) -> str:
        """Name the part of the day that a local hour, 0..23, is in."""
        names = sorted(self.dayparts, key=self.dayparts.__getitem__)
        begun = [name for name in names if self.dayparts[name] <= hour]
        return (begun or names)[-1]


def _check_zone(zone: str) -> None:
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, TypeError, OSError) as error:  # a folder's name is an OSError
        raise ValueError(
            f"{zone!r} is not a time zone: use an IANA name such as Europe/Berlin, one of "
            "zoneinfo.available_timezones()"
        ) from error


UTC_CLOCK = Clock()  # also knows no festivals


def describe(
    frame: pd.DataFrame, clock: Clock = UTC_CLOCK, own: Sequence[str] = ()
) -> pd.DataFrame:
    """Describe the moment of each event or request.

    A dimension that is a column of `frame` was observed: it is taken as it is, and what is missing
    in it stays missing. Else daypart, day type and season follow from the local instant, and the
    festival from the clock's calendar; weather, companion and location stay missing. There is one
    exception: in an observed festival column with any value, an empty cell is an ordinary day.

    Parameters
    ----------
    frame : DataFrame of n rows
        Instants (with a time zone) in ``timestamp``, else in ``at``; no such column, or NaT, is an
        unknown instant. ``region``, if there, picks the zone of the clock.
    clock : Clock
        How instants are read.
    own : sequence of str
        Dimensions of the data's own, see :attr:`firetv.data.Dataset.own_dimensions`.

    Returns
    -------
    DataFrame of n rows, dtype str
        The columns of :data:`DIMENSIONS` and of `own`, with the index of `frame`.

    Raises
    ------
    ValueError
        If the instants have no time zone.

    Examples
    --------
    >>> requests = Context(pd.Timestamp("2026-12-24T21:00Z")).requests(np.array([0]))
    >>> describe(requests, Clock(zone="Asia/Tokyo", country="JP")).iloc[0, :3].tolist()
    ['morning', 'weekday', 'winter']
    >>> describe(requests, Clock(country="US"))["festival"].item()
    'Christmas'
    """
    names = (*DIMENSIONS, *own)
    local = _local(frame, clock)
    day, days = pd.factorize(local.dt.floor("D"))

    def column(name: str) -> pd.api.extensions.ExtensionArray:
        if name in frame:
            return _observed(frame[name])
        if name == "daypart":
            return _daypart(local, clock)
        if name in _OF_DAY:
            return _OF_DAY[name](days, clock).take(day, allow_fill=True)
        return _labels((), np.full(len(frame), -1))

    return pd.DataFrame({name: column(name) for name in names}, index=frame.index)


def describe_of(
    frame: pd.DataFrame, users: pd.DataFrame, clock: Clock, own: Sequence[str] = ()
) -> pd.DataFrame:
    """Describe the moments of users' events or requests, each in the zone of the user's region."""
    if clock.zones and "region" not in frame and "region" in users:
        region = users["region"].array.take(frame["user"].to_numpy(), allow_fill=True)
        frame = frame.assign(region=region)
    return describe(frame, clock, own)


def _labels(names: tuple[str, ...], codes: np.ndarray) -> pd.api.extensions.ExtensionArray:
    """Texts by their codes; -1 is missing."""
    return pd.array(np.array([*names, np.nan], object)[codes], dtype="str")


def _observed(values: pd.Series) -> pd.api.extensions.ExtensionArray:
    text = values if values.dtype == "str" else values.astype("str").where(values.notna())
    if values.name == "festival" and values.notna().any():
        text = text.fillna(NO_FESTIVAL)
    return text.array


def _local(frame: pd.DataFrame, clock: Clock) -> pd.Series:
    """Local time of each row, without a zone; NaT where there is no instant."""
    name = "timestamp" if "timestamp" in frame else "at"
    if name not in frame:
        return pd.Series(pd.NaT, index=frame.index, dtype="datetime64[us]")
    instants = frame[name]
    if not isinstance(instants.dtype, pd.DatetimeTZDtype):
        raise ValueError(
            f"column {name} holds {instants.dtype}, not instants: convert it with "
            "pd.to_datetime(..., utc=True)"
        )
    if "region" not in frame or not clock.zones:
        return instants.dt.tz_convert(clock.zone).dt.tz_localize(None)
    region, names = pd.factorize(frame["region"])
    zones = [*(clock.zones.get(name, clock.zone) for name in names), clock.zone]
    zone, known = pd.factorize(np.array(zones))
    of_row = zone[region]  # an unknown region is -1, the last of the zones
    local = np.empty(len(frame), "datetime64[us]")
    for code, name in enumerate(known):
        rows = of_row == code
        local[rows] = instants[rows].dt.tz_convert(name).dt.tz_localize(None).to_numpy()
    return pd.Series(local, index=frame.index)


def _daypart(local: pd.Series, clock: Clock) -> pd.api.extensions.ExtensionArray:
    of_hour = np.array([*(clock.daypart(hour) for hour in range(24)), np.nan], object)
    return pd.array(of_hour[local.dt.hour.fillna(-1).to_numpy(np.int8)], "str")


def _daytype(days: pd.DatetimeIndex, _: Clock) -> pd.api.extensions.ExtensionArray:
    return _labels(VALUES["daytype"], (days.day_of_week >= 5).astype(np.int64))


def _season(days: pd.DatetimeIndex, clock: Clock) -> pd.api.extensions.ExtensionArray:
    since_spring = days.month.to_numpy() - (9 if clock.southern else 3)
    return _labels(VALUES["season"], since_spring % 12 // 3)


def _festival(days: pd.DatetimeIndex, clock: Clock) -> pd.api.extensions.ExtensionArray:
    if clock.country is None:
        return _labels((), np.full(len(days), -1))
    remembered = _remembered(clock.country)  # who serves asks about the same few days all the time
    missing = [day for day in days if day not in remembered]
    if missing:
        remembered.update(festivals(pd.DatetimeIndex(missing), clock.country))
    return pd.array([remembered[day] for day in days], "str")


@cache
def _remembered(country: str) -> dict[pd.Timestamp, str]:
    """What was found of days, at most as many as the schema's era has."""
    return {}


_OF_DAY: Mapping[str, Callable[[pd.DatetimeIndex, Clock], pd.api.extensions.ExtensionArray]] = {
    "daytype": _daytype,
    "season": _season,
    "festival": _festival,
}


def festivals(dates: pd.DatetimeIndex, country: str) -> pd.Series:
    """Name the festival whose time each date is in.

    Where times overlap, the festival whose day is nearest holds. A country's festivals are those
    its calendar has in any of :data:`CALENDAR_YEARS`. Some are known for a few decades only, as
    Diwali in India for 2001 to 2035: in years without them, and in the week next to such a year,
    days of no other festival are missing, since nobody can say that they were ordinary.

    Parameters
    ----------
    dates : DatetimeIndex of shape (n,)
        Local days at midnight, without a zone and none missing.
    country : str
        ISO 3166 code, as in :class:`Clock`.

    Returns
    -------
    Series of shape (n,), dtype str
        By date: a name of :data:`FESTIVALS`, ``none`` on an ordinary day, or missing.

    Examples
    --------
    >>> festivals(pd.DatetimeIndex(["2024-10-31", "2024-11-05", "1997-11-05"]), "IN").tolist()
    ['Diwali', 'none', nan]
    """
    years = sorted({year + near for year in dates.year.unique() for near in (-1, 0, 1)})
    windows = pd.concat([_windows(country, year) for year in years] or [_windows(country, 2001)])
    nearest = windows.sort_values(["distance", "row"]).drop_duplicates("date").set_index("date")
    names = nearest["name"].reindex(dates)
    return names.mask(names.isna() & ~_unclear(dates, years, country), NO_FESTIVAL).astype("str")


def _unclear(dates: pd.DatetimeIndex, years: list[int], country: str) -> np.ndarray:
    """Whether a date might be in the time of a festival whose day the calendar does not know."""
    unclear = np.zeros(len(dates), bool)
    for festival in _festivals_of(country):
        gaps = [year for year in years if festival.name not in set(_windows(country, year)["name"])]
        for days in (-festival.days_after, festival.days_before):
            unclear |= (dates + pd.Timedelta(days=days)).year.isin(gaps)
    return unclear


@cache
def _festivals_of(country: str) -> tuple[Festival, ...]:
    names = set().union(*(_windows(country, year)["name"] for year in CALENDAR_YEARS))
    return tuple(festival for festival in FESTIVALS if festival.name in names)


@cache
def _windows(country: str, year: int) -> pd.DataFrame:
    """Days that belong to a year's festivals: ``date``, ``name``, ``distance``, ``row``.

    ``distance`` is in days to the festival's own; ``row`` is lower for later rows of the table.
    """
    rows = [
        (day + timedelta(days=offset), festival.name, abs(offset), -row)
        for day, names in _calendar(country, year).items()
        for row, festival in enumerate(FESTIVALS)
        if any(re.search(festival.pattern, name) for name in names)
        for offset in range(-festival.days_before, festival.days_after + 1)
    ]
    windows = pd.DataFrame(rows, columns=["date", "name", "distance", "row"])
    return windows.astype({"date": "datetime64[us]", "name": "str", "distance": int, "row": int})


def _calendar(country: str, year: int) -> dict[date, list[str]]:
    """English names of a year's days of every category, such as ``unofficial`` or ``optional``."""
    known = holidays.country_holidays(country)
    english = "en_US" if "en_US" in known.supported_languages else None  # None: they have no other
    with warnings.catch_warnings():  # of years that a category lacks, which `_unclear` looks for
        warnings.filterwarnings("ignore", "Requested Holidays are available only")
        days = holidays.country_holidays(
            country,
            years=year,
            categories=known.supported_categories,
            language=english,
            observed=False,  # days off in lieu are no festivals
        )
    return {day: days.get_list(day) for day in days}
