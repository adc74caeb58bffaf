"""Where weather comes from when nobody observed it: a table, or a service on the network.

A provider answers for many places and days at once, and what it does not know stays missing; so
does all that it would have known while it cannot be reached.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import requests

from firetv.schema import DataError, Problem, check_table
from firetv.writing import write_whole

logger = logging.getLogger(__name__)

CHUNK = 1 << 16  # bytes
LARGEST = 1 << 20  # bytes of an answer; every day since 1940 would fit
ARCHIVE_FIRST = pd.Timestamp("1940-01-01")
SETTLED = pd.Timedelta(days=7)  # after which the archive has a day, and changes it no more
AHEAD = pd.Timedelta(days=15)  # how far forecasts go
GAP = pd.Timedelta(days=31)  # days asked for that are no further apart share a request
_CODES = {  # WMO 4677, as far as Open-Meteo uses it
    "sunny": (0, 1),  # clear, mainly clear
    "cloudy": (2, 3, 45, 48),  # partly cloudy, overcast, fog
    "rainy": (*range(51, 68), 80, 81, 82),  # drizzle and rain, freezing too; showers
    "snowy": (*range(71, 78), 85, 86),  # snow, snow grains; snow showers
    "stormy": range(95, 100),  # thunderstorm, with hail too
}
CONDITIONS: Mapping[int, str] = {code: name for name, codes in _CODES.items() for code in codes}


class WeatherProvider(Protocol):
    """Anything that knows the weather of a region and day."""

    def conditions(self, places: pd.DataFrame) -> pd.Series:
        """Look up conditions.

        Parameters
        ----------
        places : DataFrame of n rows
            ``region`` (str) and ``date`` (datetime64, the local day); rows may repeat.

        Returns
        -------
        Series of shape (n,), dtype str
            The condition of each row, with the index of `places`; missing where it is unknown.
        """
        ...


@dataclass(frozen=True)
class WeatherTable:
    """Weather from a table.

    Attributes
    ----------
    table : DataFrame
        ``region``, ``date``, ``condition``, as in the schema's ``weather``: one row for each region
        and day.

    Examples
    --------
    >>> day = pd.Timestamp("2026-01-31")
    >>> table = pd.DataFrame({"region": ["north"], "date": [day], "condition": ["snowy"]})
    >>> places = pd.DataFrame({"region": ["north", "south"], "date": [day, day]})
    >>> WeatherTable(table).conditions(places).tolist()
    ['snowy', nan]
    """

    table: pd.DataFrame

    @classmethod
    def read(cls, path: str | Path) -> WeatherTable:
        """Read one CSV (UTF-8) or Parquet file.

        Raises
        ------
        DataError
            If the file cannot be read, or everything that is wrong with its rows.
        """
        path = Path(path)
        text = {"dtype": "str", "keep_default_na": False, "na_values": [""]}
        try:
            if path.suffix == ".parquet":
                raw = pd.read_parquet(path)
            else:
                raw = pd.read_csv(path, encoding="utf-8-sig", **text)
        except (OSError, ValueError) as error:
            remedy = "Name a CSV (UTF-8) or Parquet file."
            raise DataError(Problem(path.name, "", f"cannot be read: {error}", remedy)) from error
        table, problems = check_table("weather", raw, path.name)
        if problems:
            raise DataError(*problems)
        return cls(table)

    def conditions(self, places: pd.DataFrame) -> pd.Series:
        """Look up conditions; see :class:`WeatherProvider`."""
        known = pd.MultiIndex.from_frame(self.table[["region", "date"]])
        row = known.get_indexer(pd.MultiIndex.from_frame(places[["region", "date"]]))
        condition = self.table["condition"].astype("str").array.take(row, allow_fill=True)
        return pd.Series(condition, index=places.index, name="condition")


@dataclass(frozen=True)
class OpenMeteo:
    """Weather from Open-Meteo (https://open-meteo.com), or a server that speaks its language.

    Days from 1940 to a week ago come from the archive, later ones from the forecast, which ends in
    two weeks. Only days of the archive are cached, for ever. A service that fails is not asked
    again in the same call; the rows it would have answered are missing, and each kind of failure is
    logged once, as a warning. The service is free for non-commercial use; its data are CC BY 4.0.

    Attributes
    ----------
    coordinates : mapping of str to (float, float)
        Latitude and longitude of each region, in degrees; other regions are unknown.
    forecast_url, archive_url : str
        Where to ask.
    timeout : float
        Seconds to connect, and between two parts of an answer.
    cache : Path or None
        Folder of JSON files, one for each pair of coordinates; None keeps nothing.

    Raises
    ------
    ValueError
        If coordinates are not on Earth.
    """

    coordinates: Mapping[str, tuple[float, float]]
    forecast_url: str = "https://api.open-meteo.com/v1/forecast"
    archive_url: str = "https://archive-api.open-meteo.com/v1/archive"
    timeout: float = 10.0
    cache: Path | None = None
    _warned: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for region, (latitude, longitude) in self.coordinates.items():
            if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
                raise ValueError(
                    f"{region} is not on Earth at ({latitude}, {longitude}): give its latitude "
                    "in -90..90, then its longitude in -180..180"
                )

    def conditions(self, places: pd.DataFrame) -> pd.Series:
        """Look up conditions in the cache, then online; see :class:`WeatherProvider`."""
        today = _today()
        asked = places[["region", "date"]].drop_duplicates()
        asked = asked[
            asked["region"].isin(list(self.coordinates))
            & asked["date"].between(ARCHIVE_FIRST, today + AHEAD)
        ]
        answers = [self._cached(region) for region in asked["region"].unique()]
        unknown = asked[_joined(answers).conditions(asked).isna()]
        for span in _spans(unknown, today - SETTLED).itertuples():
            try:
                answer = self._ask(span.region, span.first, span.last, span.settled)
                answers.append(answer)
                if span.settled:
                    self._keep(span.region, answer)
            except (OSError, ValueError) as error:  # errors of requests are OSErrors
                self._warn(f"weather is missing: {_reason(error)}")
                break
        return _joined(answers).conditions(places)

    def _ask(
        self, region: str, first: pd.Timestamp, last: pd.Timestamp, settled: bool
    ) -> pd.DataFrame:
        latitude, longitude = self.coordinates[region]
        url = self.archive_url if settled else self.forecast_url
        parameters: dict[str, str | float] = {
            "latitude": latitude,
            "longitude": longitude,
            "daily": "weather_code",
            "timezone": "auto",
            "start_date": f"{first:%Y-%m-%d}",
            "end_date": f"{last:%Y-%m-%d}",
        }
        content = b""
        with requests.get(url, parameters, timeout=self.timeout, stream=True) as response:
            response.raise_for_status()
            for chunk in response.iter_content(CHUNK):
                content += chunk
                if len(content) > LARGEST:
                    raise ValueError(f"an answer of more than {LARGEST} bytes")
        return _parse(content).assign(region=region)

    def _path(self, cache: Path, region: str) -> Path:
        latitude, longitude = self.coordinates[region]
        return cache / f"{latitude:.4f}_{longitude:.4f}.json"

    def _cached(self, region: str) -> pd.DataFrame:
        """What the cache holds of a region; a damaged file holds nothing."""
        nothing = pd.DataFrame({"date": pd.DatetimeIndex([]), "code": [], "region": []})
        if self.cache is None or not self._path(self.cache, region).is_file():
            return nothing
        path = self._path(self.cache, region)
        try:
            return _parse(path.read_bytes()).assign(region=region)
        except (OSError, ValueError) as error:
            self._warn(f"{path} cannot be read, and will be replaced: {error}")
            return nothing

    def _keep(self, region: str, answer: pd.DataFrame) -> None:
        """Add an answer to the cache; in the form of an answer, and never half a file."""
        if self.cache is None:
            return
        days = pd.concat([self._cached(region), answer]).drop_duplicates("date", keep="last")
        daily = {
            "time": days["date"].dt.strftime("%Y-%m-%d").tolist(),
            "weather_code": days["code"].tolist(),
        }
        write_whole(self._path(self.cache, region), json.dumps({"daily": daily}))

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning(message)


def _today() -> pd.Timestamp:
    return pd.Timestamp.now("UTC").tz_localize(None).normalize()


def _joined(answers: list[pd.DataFrame]) -> WeatherTable:
    if not answers:
        return WeatherTable(pd.DataFrame({"region": [], "date": [], "condition": []}))
    days = pd.concat(answers).drop_duplicates(["region", "date"], keep="last")
    return WeatherTable(days.assign(condition=days["code"].map(CONDITIONS)))


def _spans(unknown: pd.DataFrame, settled_until: pd.Timestamp) -> pd.DataFrame:
    """Spans of days to ask for: ``region``, ``first``, ``last``, ``settled``."""
    days = unknown.sort_values(["region", "date"])
    days = days.assign(settled=days["date"] <= settled_until)
    starts = days[["region", "settled"]].ne(days[["region", "settled"]].shift()).any(axis=1)
    starts |= days["date"].diff() > GAP
    return days.groupby(starts.cumsum()).agg(
        region=("region", "first"),
        first=("date", "min"),
        last=("date", "max"),
        settled=("settled", "first"),
    )


def _parse(content: bytes) -> pd.DataFrame:
    """Days and their codes from an answer: ``date``, ``code``; days without a code are left out.

    Raises
    ------
    ValueError
        If it is not an answer of Open-Meteo.
    """
    try:
        daily = json.loads(content)["daily"]
        codes = dict(zip(daily["time"], daily["weather_code"], strict=True))
        dates = pd.to_datetime(list(codes), format="%Y-%m-%d").as_unit("us")
        days = pd.DataFrame({"date": dates, "code": np.array(list(codes.values()), float)})
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError("not an answer of Open-Meteo") from error
    return days.dropna()


def _reason(error: BaseException) -> str:
    """Name a failure in words that are the same for every request."""
    if isinstance(error, requests.HTTPError):
        return f"the service answered HTTP {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "the service did not answer in time"
    if isinstance(error, requests.RequestException):  # wraps the error that says what happened
        while error.__context__ is not None:
            error = error.__context__
    return str(error) or type(error).__name__


def fill_weather(
    frame: pd.DataFrame, provider: WeatherProvider, dates: pd.Series | None = None
) -> pd.DataFrame:
    """Fill in missing weather from a provider.

    Parameters
    ----------
    frame : DataFrame of n rows
        Events or requests, with ``region``, instants in ``timestamp`` (else ``at``), and perhaps
        ``weather``. Not modified.
    provider : WeatherProvider
        Asked only for rows without weather whose region and day are known.
    dates : Series of shape (n,), datetime64, optional
        Local day of each row. By default the day in UTC.

    Returns
    -------
    DataFrame of n rows
        The frame, with ``weather`` (str) as observed, else as the provider says, else missing.

    Examples
    --------
    >>> day = pd.Timestamp("2026-01-31")
    >>> table = pd.DataFrame({"region": ["north"], "date": [day], "condition": ["snowy"]})
    >>> requests = pd.DataFrame({"region": ["north"], "at": [day.tz_localize("UTC")]})
    >>> fill_weather(requests, WeatherTable(table))["weather"].tolist()
    ['snowy']
    """
    observed = frame.get("weather", pd.Series(None, index=frame.index, dtype="str"))
    weather = observed.astype("str").where(observed.notna()).array.copy()
    places = pd.DataFrame({"region": frame.get("region"), "date": _dates(frame, dates)})
    wanted = weather.isna() & places.notna().all(axis=1).to_numpy()
    weather[wanted] = provider.conditions(places[wanted]).array
    return frame.assign(weather=weather)


def _dates(frame: pd.DataFrame, dates: pd.Series | None) -> np.ndarray:
    if dates is not None:
        return dates.to_numpy()
    instants = frame.get("timestamp", frame.get("at"))
    if instants is None:
        return np.full(len(frame), np.datetime64("NaT", "us"))
    return instants.dt.tz_convert("UTC").dt.tz_localize(None).dt.normalize().to_numpy()
