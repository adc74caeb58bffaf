import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest
from conftest import serving
from pandas.testing import assert_series_equal

from firetv import weather
from firetv.schema import DataError
from firetv.weather import CONDITIONS, OpenMeteo, WeatherTable, fill_weather

# the archive's answer for Berlin in the form that Open-Meteo documents
RECORDED = b"""{"latitude":52.54833,"longitude":13.407822,"generationtime_ms":0.0721,
"utc_offset_seconds":7200,"timezone":"Europe/Berlin","timezone_abbreviation":"GMT+2",
"elevation":38.0,"daily_units":{"time":"iso8601","weather_code":"wmo code"},
"daily":{"time":["2024-07-01","2024-07-02","2024-07-03","2024-07-04"],
"weather_code":[61,3,95,null]}}"""
BERLIN = {"berlin": (52.52, 13.41)}


class Server(ThreadingHTTPServer):
    """Answers as Open-Meteo, or with `answer`, and records the query of each request."""

    answer: bytes | None = RECORDED
    status = 200
    delay = 0.0  # seconds

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.queries: list[dict[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        pass  # a client that does not wait


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: value for name, (value,) in parse_qs(parts.query).items()}
        self.server.queries.append({"path": parts.path, **query})
        time.sleep(self.server.delay)
        body = self.server.answer
        if body is None:
            days = pd.date_range(query["start_date"], query["end_date"])
            codes = [int(float(query["latitude"])) for _ in days]
            daily = {"time": days.strftime("%Y-%m-%d").tolist(), "weather_code": codes}
            body = json.dumps({"daily": daily}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running, serving(running):
        yield running


def service(server: Server, **changes: object) -> OpenMeteo:
    options = {"coordinates": BERLIN, "timeout": 5.0, **changes}
    urls = {"forecast_url": f"{server.url}/forecast", "archive_url": f"{server.url}/archive"}
    return OpenMeteo(**options, **urls)  # type: ignore[arg-type]


def places(*rows: tuple[str | None, str | None], index: list[int] | None = None) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["region", "date"], index=index)
    return frame.astype({"region": "str", "date": "datetime64[us]"})


def found(provider: weather.WeatherProvider, *rows: tuple[str | None, str | None]) -> list[str]:
    return provider.conditions(places(*rows)).fillna("?").tolist()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.message for r in caplog.records if r.levelno >= logging.WARNING]


JULY = [("berlin", f"2024-07-0{day}") for day in (1, 2, 3)]
KNOWN = ["rainy", "cloudy", "stormy"]


# --- Table ---


@pytest.fixture
def table(tmp_path: Path) -> WeatherTable:
    path = tmp_path / "weather.csv"
    path.write_text(
        "region,date,condition\nnorth,2024-01-01,snowy\nsouth,2024-01-01,sunny\n"
        "north,2024-01-02,cloudy\n"
    )
    return WeatherTable.read(path)


def test_a_table_is_looked_up_by_region_and_day(table: WeatherTable) -> None:
    asked = places(
        ("north", "2024-01-02"),
        ("north", "2024-01-01"),
        ("south", "2024-01-02"),
        ("west", "2024-01-01"),
        (None, "2024-01-01"),
        ("north", None),
        ("north", "2024-01-02"),
        index=[7, 7, 3, 2, 1, 0, 9],
    )
    expected = pd.Series(
        ["cloudy", "snowy", None, None, None, None, "cloudy"],
        index=asked.index,
        name="condition",
        dtype="str",
    )
    assert_series_equal(table.conditions(asked), expected)
    in_seconds = asked.astype({"date": "datetime64[s]"})
    assert_series_equal(table.conditions(in_seconds), expected)
    assert table.conditions(asked.iloc[:0]).empty


def test_parquet_is_read_too(table: WeatherTable, tmp_path: Path) -> None:
    path = tmp_path / "weather.parquet"
    table.table.to_parquet(path)
    assert found(WeatherTable.read(path), ("south", "2024-01-01")) == ["sunny"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("region,date\nnorth,2024-01-01\n", "column condition: missing column"),
        ("region,date,condition\nnorth,yesterday,sunny\n", "is not a date"),
        ("region,date,condition\na,2024-01-01,x\na,2024-01-01,y\n", "has duplicates"),
        ("", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_table_is_a_data_error(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "weather.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        WeatherTable.read(path)
    assert "weather.csv" in str(caught.value)


# --- Open-Meteo ---


def test_a_recorded_answer(server: Server) -> None:
    rows = [*JULY, ("berlin", "2024-07-04"), ("paris", "2024-07-01"), (None, None), JULY[0]]
    assert found(service(server), *rows) == [*KNOWN, "?", "?", "?", "rainy"]
    (query,) = server.queries
    assert query == {
        "path": "/archive",
        "latitude": "52.52",
        "longitude": "13.41",
        "daily": "weather_code",
        "timezone": "auto",
        "start_date": "2024-07-01",
        "end_date": "2024-07-04",
    }


def test_codes_are_those_that_open_meteo_documents() -> None:
    documented = [0, 1, 2, 3, 45, 48, 51, 53, 55, 56, 57, 61, 63, 65, 66, 67]
    documented += [71, 73, 75, 77, 80, 81, 82, 85, 86, 95, 96, 99]
    assert set(documented) <= set(CONDITIONS)
    names = [CONDITIONS[code] for code in (0, 1, 2, 48, 51, 67, 71, 77, 80, 82, 85, 95, 99)]
    assert names == ["sunny"] * 2 + ["cloudy"] * 2 + ["rainy"] * 2 + ["snowy"] * 2 + [
        "rainy",
        "rainy",
        "snowy",
        "stormy",
        "stormy",
    ]


def test_one_request_for_each_region_and_span(server: Server) -> None:
    server.answer = None
    provider = service(server, coordinates={"a": (3.0, 1.0), "b": (61.0, 1.0)})
    rows = [("b", "2024-01-05"), ("a", "2024-01-09"), ("a", "2024-01-01"), ("a", "2023-01-01")]
    assert found(provider, *rows) == ["rainy", "cloudy", "cloudy", "cloudy"]
    asked = [(q["latitude"], q["start_date"], q["end_date"]) for q in server.queries]
    assert asked == [
        ("3.0", "2023-01-01", "2023-01-01"),
        ("3.0", "2024-01-01", "2024-01-09"),
        ("61.0", "2024-01-05", "2024-01-05"),
    ]


def test_recent_days_come_from_the_forecast_and_are_not_kept(
    server: Server, tmp_path: Path
) -> None:
    server.answer = None
    provider = service(server, coordinates={"a": (3.0, 1.0)}, cache=tmp_path)
    today = pd.Timestamp.now("UTC").tz_localize(None).normalize()
    days = [today + pd.Timedelta(days=n) for n in (-20, -3, 0, 2)]
    rows = [("a", str(day.date())) for day in days]
    assert found(provider, *rows) == ["cloudy"] * 4
    assert [q["path"] for q in server.queries] == ["/archive", "/forecast"]
    assert found(provider, *rows) == ["cloudy"] * 4
    assert [q["path"] for q in server.queries] == ["/archive", "/forecast", "/forecast"]


def test_days_that_nobody_knows_are_not_asked_for(server: Server) -> None:
    later = str((pd.Timestamp.now() + pd.Timedelta(days=60)).date())
    assert found(service(server), ("berlin", "1939-12-31"), ("berlin", later)) == ["?", "?"]
    assert server.queries == []


def test_a_cached_day_needs_no_request(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "weather"
    assert found(service(server, cache=folder), *JULY) == KNOWN
    (path,) = folder.iterdir()
    assert path.name == "52.5200_13.4100.json"
    assert found(service(server, cache=folder), *JULY) == KNOWN
    assert len(server.queries) == 1


def test_the_cache_grows(server: Server, tmp_path: Path) -> None:
    server.answer = None
    provider = service(server, coordinates={"a": (3.0, 1.0)}, cache=tmp_path)
    first, second = ("a", "2024-01-01"), ("a", "2024-01-02")
    found(provider, first)
    found(provider, first, second)
    assert [q["start_date"] for q in server.queries] == ["2024-01-01", "2024-01-02"]
    assert found(provider, second, first) == ["cloudy", "cloudy"]
    assert len(server.queries) == 2


def test_a_truncated_cache_is_ignored_and_replaced(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    provider = service(server, cache=tmp_path)
    found(provider, *JULY)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert found(provider, *JULY) == KNOWN
    assert path.read_bytes() == whole
    assert len(server.queries) == 2
    (said,) = warnings(caplog)
    assert path.name in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": 500}, "HTTP 500"),
        ({"status": 429}, "HTTP 429"),
        ({"answer": RECORDED[:100]}, "not an answer"),
        ({"answer": b"<html>"}, "not an answer"),
        ({"answer": b"\xff\xfe"}, "not an answer"),
        ({"answer": b"[" * 100_000}, "not an answer"),
        ({"answer": b'{"error":true,"reason":"Cannot initialize"}'}, "not an answer"),
        ({"answer": b'{"daily":{"time":["2024-07-01"],"weather_code":[]}}'}, "not an answer"),
        ({"answer": b'{"daily":{"time":["soon"],"weather_code":[1]}}'}, "not an answer"),
        ({"answer": b'{"daily":{"time":["2024-07-01"],"weather_code":["x"]}}'}, "not an answer"),
        ({"answer": b" " * (weather.LARGEST + 1)}, "more than 1048576 bytes"),
        ({"delay": 0.4}, "did not answer in time"),
    ],
)
def test_a_failing_service_means_missing_weather_and_one_warning(
    server: Server,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, object],
    said: str,
) -> None:
    for name, value in changes.items():
        setattr(server, name, value)
    two = {**BERLIN, "paris": (48.86, 2.35)}
    timeout = 0.1 if "delay" in changes else 5.0
    provider = service(server, coordinates=two, timeout=timeout, cache=tmp_path)
    for _ in range(3):
        assert found(provider, *JULY, ("paris", "2024-07-01")) == ["?"] * 4
    assert len(server.queries) == 3  # not again for the second region
    (warning,) = warnings(caplog)
    assert said in warning
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_gone(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        provider = service(server, cache=tmp_path)
        found(provider, JULY[0])
        server.shutdown()
        thread.join()
    for _ in range(3):
        # what is cached is still known
        assert found(provider, JULY[0], ("berlin", "2023-01-01")) == ["rainy", "?"]
    (warning,) = warnings(caplog)
    assert "Connection refused" in warning


def test_a_cache_that_cannot_be_written_costs_nothing_but_requests(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    provider = service(server, cache=tmp_path / "file" / "cache")
    for _ in range(2):
        assert found(provider, *JULY) == KNOWN
    assert len(warnings(caplog)) == 1


def test_coordinates_are_on_earth() -> None:
    with pytest.raises(ValueError, match=r"berlin is not on Earth at \(113.41, 52.52\)"):
        OpenMeteo({"berlin": (113.41, 52.52)})


# --- Filling in ---


def test_only_missing_weather_is_filled_in(table: WeatherTable) -> None:
    instants = pd.to_datetime(["2024-01-01T23:30Z"] * 4 + [None], utc=True)
    frame = pd.DataFrame(
        {
            "region": ["north", "north", None, "west", "north"],
            "timestamp": instants,
            "weather": ["hail", None, None, None, None],
        },
        index=[5, 5, 2, 1, 0],
    )
    before = frame.copy()
    filled = fill_weather(frame, table)
    assert filled["weather"].fillna("?").tolist() == ["hail", "snowy", "?", "?", "?"]
    assert filled["weather"].dtype == "str"
    pd.testing.assert_frame_equal(frame, before)
    requests = frame.drop(columns="weather").rename(columns={"timestamp": "at"})
    assert fill_weather(requests, table)["weather"].fillna("?").tolist()[:2] == ["snowy", "snowy"]


def test_local_days_can_be_given(table: WeatherTable) -> None:
    at = pd.to_datetime(["2024-01-01T23:30Z"], utc=True)
    frame = pd.DataFrame({"region": ["north"], "at": at})
    local = frame["at"].dt.tz_convert("Europe/Berlin").dt.tz_localize(None).dt.normalize()
    assert fill_weather(frame, table, local)["weather"].tolist() == ["cloudy"]


def test_nothing_is_filled_in_where_nothing_is_known(table: WeatherTable) -> None:
    for frame in (pd.DataFrame({"user": [1]}), pd.DataFrame({"user": [1], "region": "north"})):
        assert fill_weather(frame, table)["weather"].isna().all()
    assert fill_weather(pd.DataFrame({"user": []}), table)["weather"].empty
