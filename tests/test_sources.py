import dataclasses
import hashlib
import logging
import os
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from firetv import comoda, sources
from firetv.data import Tables, read_tables, write_tables
from firetv.schema import DataError

NAME = "movielens-100k"
ZIP, WHEEL = "ml-100k.zip", "recbole-1.2.1-py3-none-any.whl"
NO_SERVER = "http://127.0.0.1:9/ml-100k.zip"  # the discard port: refused at once

# item number: name in u.item; title, year and genres in RecBole's copy
ITEMS = {
    1: ("Toy Story (1995)", "Toy Story", "1995", "Animation Children's Comedy"),
    11: ("Seven (Se7en) (1995)", "Seven (Se7en)", "1995", "Crime Thriller"),
    267: ("unknown", "unkonwn", "unkonwn", "unknown"),
    543: ("Misérables, Les (1995)", "Misérables, Les", "1995", "Drama Musical"),
    1201: ("Marlene Dietrich (1996) ", "Marlene Dietrich", "1996", "Documentary"),
    1373: ("Good Morning (1971)", "Good Morning", "1971", "unknown"),
    1412: ("Giving, The (1995) (V)", "Giving, The (1995)", "V", "Animation Children's"),
}
USERS = [
    (1, 24, "M", "technician", "02139"),
    (2, 53, "F", "none", "94043"),
    (3, 11, "M", "student", "T8H1N"),
    (4, 37, "F", "none", "90210"),
]
RATINGS = [  # out of order in every column
    (3, 543, 5, 893286638),
    (1, 1, 3, 881250949),
    (1, 11, 1, 881250950),
    (4, 267, 2, 874724710),
    (2, 1412, 4, 878887116),
    (2, 1, 4, 878887116),
    (4, 1201, 5, 891717742),
    (3, 1373, 3, 893286638),
]


def lines(rows: list[tuple], separator: str) -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in rows)


def grouplens_archive(path: Path) -> Path:
    flags = [[int(g in row[3].split()) for g in sources.GENRES.split()] for row in ITEMS.values()]
    items = [
        (item, name, "01-Jan-1995", "", "http://x", *row)
        for (item, (name, *_)), row in zip(ITEMS.items(), flags, strict=True)
    ]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("ml-100k/u.data", lines(RATINGS, "\t"))
        archive.writestr("ml-100k/u.user", lines(USERS, "|"))
        archive.writestr("ml-100k/u.item", lines(items, "|").encode("latin-1"))
        archive.writestr("ml-100k/README", bytes(3 * sources.CHUNK))  # several chunks to download
    return path


def recbole_archive(path: Path) -> Path:
    """A wheel that pip accepts, with the data where RecBole keeps it."""
    items = [(item, *row[1:]) for item, row in ITEMS.items()]
    tables = {"inter": RATINGS, "user": USERS, "item": items}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, rows in tables.items():
            header = lines([tuple(f"column{i}:token" for i in range(len(rows[0])))], "\t")
            member = f"recbole/dataset_example/ml-100k/ml-100k.{name}"
            archive.writestr(member, (header + lines(rows, "\t")).encode())
        info = "recbole-1.2.1.dist-info"
        wheel = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", wheel)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content` at every path and records the Range header of each request."""

    content = b""
    honours_range = True
    drop_after: int | None = None  # bytes after which the next answer breaks off

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/{ZIP}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        start = int(wanted[6:-1]) if wanted and self.server.honours_range else 0
        body = self.server.content[start:]
        if start and not body:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.drop_after])
        self.server.drop_after = None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of a world where a small archive stands for each real one.

    The server has the zip; pip sees no index, only wheels put into ``wheels``.
    """
    server.content = grouplens_archive(tmp_path / ZIP).read_bytes()
    wheel = recbole_archive(tmp_path / WHEEL).read_bytes()
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("FIRETV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    use(monkeypatch, ZIP, address=server.url, sha256=sha256(server.content))
    use(monkeypatch, WHEEL, sha256=sha256(wheel))
    return tmp_path / "cache" / NAME


def use(monkeypatch: pytest.MonkeyPatch, filename: str, name: str = NAME, **changes: str) -> None:
    source = sources.SOURCES[name]
    changed = dataclasses.replace(source.archives[filename], **changes)
    source = dataclasses.replace(source, archives={**source.archives, filename: changed})
    monkeypatch.setitem(sources.SOURCES, name, source)  # type: ignore[arg-type]


def offer_wheel(folder: Path) -> None:
    tmp_path = folder.parents[1]
    (tmp_path / WHEEL).rename(tmp_path / "wheels" / WHEEL)


def cached(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_same_tables(one: Tables, other: Tables) -> None:
    assert one.present().keys() == other.present().keys()
    for name, table in one.present().items():
        assert_frame_equal(table, other.present()[name], obj=name)
    assert one.manifest == other.manifest


# --- Download and cache ---


def test_both_sources_give_identical_tables(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from_grouplens = sources.load_tables(NAME)
    assert cached(folder) == [ZIP]
    (folder / ZIP).unlink()
    use(monkeypatch, ZIP, address=NO_SERVER)
    offer_wheel(folder)
    from_recbole = sources.load_tables(NAME)
    assert cached(folder) == [WHEEL]
    assert_same_tables(from_grouplens, from_recbole)
    (said,) = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert "Connection refused" in said
    assert "trying recbole==1.2.1" in said


def test_a_cached_archive_needs_no_request(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.fetch(NAME)
    use(monkeypatch, ZIP, address=NO_SERVER)
    assert sources.fetch(NAME) == folder / ZIP
    assert len(server.ranges) == 1


def test_a_cached_second_choice_needs_no_request(folder: Path, server: Server) -> None:
    folder.mkdir(parents=True)
    recbole_archive(folder / WHEEL)
    assert sources.fetch(NAME) == folder / WHEEL
    assert server.ranges == []


def test_a_broken_download_goes_on_where_it_stopped(folder: Path, server: Server) -> None:
    server.drop_after = 2 * sources.CHUNK + 1
    with pytest.raises(DataError, match="bytes read"):
        sources.fetch(NAME)
    assert cached(folder) == [f"{ZIP}.part"]
    assert sources.fetch(NAME).read_bytes() == server.content
    assert server.ranges == [None, f"bytes={2 * sources.CHUNK}-"]
    assert cached(folder) == [ZIP]


def test_a_server_that_cannot_resume_starts_over(folder: Path, server: Server) -> None:
    server.drop_after, server.honours_range = 2 * sources.CHUNK, False
    with pytest.raises(DataError):
        sources.fetch(NAME)
    assert sources.fetch(NAME).read_bytes() == server.content
    assert server.ranges == [None, f"bytes={2 * sources.CHUNK}-"]


def test_a_part_longer_than_the_file_is_given_up(folder: Path, server: Server) -> None:
    folder.mkdir(parents=True)
    (folder / f"{ZIP}.part").write_bytes(bytes(len(server.content)))
    with pytest.raises(DataError, match="416"):
        sources.fetch(NAME)
    assert sources.fetch(NAME).read_bytes() == server.content


def test_a_wrong_checksum_is_reported_and_leaves_nothing(folder: Path, server: Server) -> None:
    server.content = server.content[:-1] + b"!"
    with pytest.raises(DataError, match="does not match the known hash"):
        sources.fetch(NAME)
    assert cached(folder) == []


def test_a_damaged_cache_is_replaced(
    folder: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    sources.fetch(NAME).write_bytes(b"damaged")
    assert sources.fetch(NAME).read_bytes() == server.content
    assert "wrong checksum" in caplog.text


def test_one_error_when_every_source_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, ZIP, address=NO_SERVER)
    with pytest.raises(DataError) as caught:
        sources.load_tables(NAME)
    message = str(caught.value)
    assert "\n" not in message
    for part in (NO_SERVER, "Connection refused", "No matching distribution", ZIP, WHEEL, folder):
        assert str(part) in message
    assert cached(folder) == []


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"movielens-1m.*Choose from movielens-100k, comoda"):
        sources.fetch("movielens-1m")


# --- Tables ---


@pytest.fixture
def raw(tmp_path: Path) -> sources.MovieLens:
    return sources.SOURCES[NAME].archives[ZIP].read(grouplens_archive(tmp_path / ZIP))


@pytest.fixture
def many() -> sources.MovieLens:
    """As `raw`, with enough users and events for frequencies to settle."""
    rng = np.random.default_rng(0)
    jobs = ["student", "none", "writer"]
    n = 400
    users = pd.DataFrame(
        {
            "user": np.arange(n),
            "age": rng.integers(10, 70, n),
            "gender": rng.choice(["F", "M"], n),
            "occupation": rng.choice(jobs, n),
            "zip": pd.Series(rng.integers(10_000, 99_999, n)).astype("str"),
        }
    )
    items = pd.DataFrame({"item": [1, 2], "name": ["A (1990)", "B"], "genres": ["Drama", "War"]})
    ratings = pd.DataFrame(
        {
            "user": rng.integers(0, n, 5000),
            "item": rng.integers(1, 3, 5000),
            "rating": rng.integers(1, 6, 5000),
            "timestamp": rng.integers(874_724_710, 893_286_638, 5000),
        }
    )
    return sources.MovieLens(ratings, users, items)


def test_content(raw: sources.MovieLens) -> None:
    content = sources.movielens_100k(raw).content
    assert content is not None
    assert content["content_id"].tolist() == [f"content{item}" for item in ITEMS]
    assert content["title"].tolist() == [
        "Toy Story",
        "Seven (Se7en)",
        "unknown",
        "Misérables, Les",
        "Marlene Dietrich",
        "Good Morning",
        "Giving, The",
    ]
    assert content["release_year"].fillna(0).tolist() == [1995, 1995, 0, 1995, 1996, 1971, 1995]
    assert content["genres"].tolist() == [
        ["Animation", "Children's", "Comedy"],
        ["Crime", "Thriller"],
        [],
        ["Drama", "Musical"],
        ["Documentary"],
        [],
        ["Animation", "Children's"],
    ]


def test_users(raw: sources.MovieLens) -> None:
    users = sources.movielens_100k(raw).users
    assert users is not None
    assert users.to_numpy().tolist() == [
        ["user1", 24, "M", "technician", "US-0"],
        ["user2", 53, "F", "none", "US-9"],
        ["user3", 11, "M", "student", "other"],
        ["user4", 37, "F", "none", "US-9"],
    ]


def test_reactions_keep_the_order_of_the_file(raw: sources.MovieLens) -> None:
    reactions = sources.movielens_100k(raw).content_reactions
    assert reactions is not None
    expected = [[f"user{u}", f"content{i}", r] for u, i, r, _ in RATINGS]
    assert reactions[["user_id", "content_id", "rating"]].to_numpy().tolist() == expected
    assert (reactions["timestamp"].astype("int64") // 10**6).tolist() == [t for *_, t in RATINGS]
    words = ["love", "", "dislike", "dislike", "like", "like", "love", ""]
    assert reactions["reaction"].fillna("").tolist() == words


def test_tables_survive_the_disk_and_every_column_is_marked(
    raw: sources.MovieLens, tmp_path: Path
) -> None:
    tables = sources.movielens_100k(raw)
    write_tables(tables, tmp_path / NAME)
    again = read_tables(tmp_path / NAME)
    for name, table in tables.present().items():
        assert_frame_equal(table, again.present()[name], obj=name)
    marks = again.manifest["columns"]
    assert {n: set(c) for n, c in marks.items()} == {n: set(t) for n, t in again.present().items()}
    assert {kind for of in marks.values() for kind in of.values()} == {
        "observed",
        "derived",
        "simulated",
    }
    assert again.manifest["rows"] == {name: len(table) for name, table in tables.present().items()}


def test_checksum_sees_every_value_and_the_order(raw: sources.MovieLens) -> None:
    known = {raw.checksum()}
    other_rating = raw.ratings.assign(rating=raw.ratings["rating"].where(raw.ratings.index > 0, 1))
    for change in (
        {"ratings": other_rating},
        {"ratings": raw.ratings.iloc[::-1]},
        {"users": raw.users.assign(age=raw.users["age"] + 1)},
        {"items": raw.items.assign(genres="Drama")},
    ):
        known.add(dataclasses.replace(raw, **change).checksum())
    assert len(known) == 5


# --- Simulated columns ---


def test_the_seed_moves_simulated_columns_only(many: sources.MovieLens) -> None:
    one, again, other = (sources.movielens_100k(many, seed) for seed in (1, 1, 2))
    assert_same_tables(one, again)
    for name, marks in one.manifest["columns"].items():
        before, after = one.present()[name], other.present()[name]
        for column, mark in marks.items():
            assert before[column].equals(after[column]) == (mark != "simulated"), (name, column)


def test_nothing_but_completion_depends_on_ratings(many: sources.MovieLens) -> None:
    shuffled = many.ratings.assign(rating=many.ratings["rating"].to_numpy()[::-1])
    one = sources.movielens_100k(many)
    other = sources.movielens_100k(dataclasses.replace(many, ratings=shuffled))
    fewer = sources.movielens_100k(dataclasses.replace(many, ratings=many.ratings[:10]))
    assert one.user_connections is not None
    assert_frame_equal(one.user_connections, other.user_connections)
    assert_frame_equal(one.user_connections, fewer.user_connections)
    assert one.watch_history is not None
    assert other.watch_history is not None
    for column in ("weather", "companion"):
        assert one.watch_history[column].equals(other.watch_history[column])
    assert not one.watch_history["completion"].equals(other.watch_history["completion"])


def test_friends_are_mutual_and_alike(many: sources.MovieLens) -> None:
    tables = sources.movielens_100k(many)
    edges, users = tables.user_connections, tables.users
    assert edges is not None
    assert users is not None
    strength = edges.set_index(["user_id", "friend_id"])["strength"]
    assert strength.index.is_unique
    assert_frame_equal(
        strength.sort_index().to_frame(),
        strength.swaplevel().rename_axis(["user_id", "friend_id"]).sort_index().to_frame(),
    )
    assert (edges["user_id"] != edges["friend_id"]).all()
    assert strength.between(0, 1).all()
    assert len(edges) / len(users) == pytest.approx(8, rel=0.1)
    profile = users.set_index("user_id")
    left, right = profile.loc[edges["user_id"]], profile.loc[edges["friend_id"]]
    region = left["region"].to_numpy() == right["region"].to_numpy()
    chance = users["region"].value_counts(normalize=True).pow(2).sum()
    assert region.mean() > 2 * chance
    assert edges["strength"][region].mean() > edges["strength"][~region].mean() + 0.1


def test_weather_follows_the_season_and_persists() -> None:
    weather = sources.simulate_weather(
        pd.Series([f"r{i % 50}" for i in range(100)]),
        pd.Timestamp("2001-01-01"),
        pd.Timestamp("2001-12-31"),
        np.random.default_rng(0),
    )
    assert len(weather) == 50 * 365
    assert not weather.duplicated(["region", "date"]).any()
    month = weather["date"].dt.month
    share = pd.crosstab(month, weather["condition"], normalize="index")
    assert share.loc[1, "snowy"] == pytest.approx(0.30, abs=0.06)
    assert share.loc[7, "sunny"] == pytest.approx(0.55, abs=0.06)
    assert share.loc[7, "snowy"] < 0.02
    kept = weather["condition"].eq(weather.groupby("region")["condition"].shift())
    assert kept.mean() > 0.55  # one half, and those drawn alike


def test_weather_of_an_event_is_that_of_region_and_day(many: sources.MovieLens) -> None:
    tables = sources.movielens_100k(many)
    assert tables.watch_history is not None
    events = tables.watch_history.merge(tables.users, on="user_id")
    events["date"] = events["timestamp"].dt.strftime("%Y-%m-%d")
    assert tables.weather is not None
    weather = tables.weather.assign(date=tables.weather["date"].dt.strftime("%Y-%m-%d"))
    joined = events.merge(weather, on=["region", "date"], validate="many_to_one")
    assert len(joined) == len(events)
    assert (joined["weather"] == joined["condition"]).all()


def test_company_is_shared_in_a_sitting_and_follows_age(many: sources.MovieLens) -> None:
    sittings = many.ratings.assign(timestamp=many.ratings["timestamp"] // 86_400 * 86_400)
    twice = pd.concat([sittings, sittings.assign(timestamp=sittings["timestamp"] + 1800)])
    raw = dataclasses.replace(many, ratings=twice.reset_index(drop=True))
    tables = sources.movielens_100k(raw)
    assert tables.watch_history is not None
    history = tables.watch_history.merge(tables.users, on="user_id")
    sitting = history.groupby(["user_id", history["timestamp"].dt.floor("h")])["companion"]
    assert (sitting.nunique() == 1).all()
    young = history["age"] < 25
    friends = history["companion"] == "friends"
    assert friends[young].mean() > friends[~young].mean() + 0.1


def test_completion_rises_with_the_rating(many: sources.MovieLens) -> None:
    history = sources.movielens_100k(many).watch_history
    assert history is not None
    assert history["completion"].between(0, 1).all()
    means = history["completion"].groupby(many.ratings["rating"]).mean()
    np.testing.assert_allclose(means, [0.25, 0.40, 0.55, 0.70, 0.85], atol=0.03)


# --- CoMoDa ---

CSV = "LDOS-CoMoDa.csv"
VIEWINGS = """\
23,14,5,900,1,20,2,3,1,2,3,3,7,2,2,1,1,1,1,234,36,9,2007,7,-1,-1,1303,1524,1656,9000000
21,5,3,28,2,10,3,1,2,3,1,5,1,2,2,2,2,2,2,775,37,-1,1998,9,5,20,1636,1539,1402,-1
23,5,1,33,1,20,2,-1,-1,-1,-1,-1,-1,-1,-1,-1,-1,-1,-1,775,37,-1,1998,9,5,20,1636,1539,1402,-1
20,6,4,-1,1,10,3,4,3,4,2,4,4,2,2,1,1,2,1,-1,37,9,2008,-1,-1,-1,1373,1510,1691,24000000
"""


@pytest.fixture
def viewings(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of a world where a server has four viewings for the real file."""
    server.content = VIEWINGS.encode()
    monkeypatch.setenv("FIRETV_CACHE", str(tmp_path / "cache"))
    use(monkeypatch, CSV, "comoda", address=server.url, sha256=sha256(server.content))
    return tmp_path / "cache" / "comoda"


def rows(table: pd.DataFrame | None) -> list[list[object]]:
    """Values by row, "?" where one is missing."""
    assert table is not None
    return table.astype(object).where(table.notna(), "?").to_numpy().tolist()


def test_comoda_viewings_hold_the_observed_context(viewings: Path) -> None:
    tables = sources.load_tables("comoda")
    assert tables.watch_history is not None
    assert tables.content_reactions is not None
    ids = [["user23", "content14"], ["user21", "content5"], ["user23", "content5"]]
    ids += [["user20", "content6"]]
    assert rows(tables.watch_history[["user_id", "content_id"]]) == ids
    assert rows(tables.watch_history[["daypart", "daytype", "season"]]) == [
        ["evening", "weekday", "summer"],
        ["morning", "weekend", "autumn"],
        ["?", "?", "?"],
        ["night", "holiday", "winter"],
    ]
    assert rows(tables.watch_history[["location", "weather", "companion"]]) == [
        ["friend's", "stormy", "family"],
        ["home", "cloudy", "alone"],
        ["?", "?", "?"],
        ["public", "snowy", "colleagues"],
    ]
    hours = [f"2008-01-01 0{hour}:00:00+00:00" for hour in range(4)]
    assert tables.watch_history["timestamp"].astype("str").tolist() == hours
    keys = ["user_id", "content_id", "timestamp"]
    assert_frame_equal(tables.watch_history[keys], tables.content_reactions[keys])
    assert tables.content_reactions["rating"].tolist() == [5, 3, 1, 4]


def test_comoda_users_have_the_first_age_that_can_be_true(viewings: Path) -> None:
    assert rows(sources.load_tables("comoda").users) == [
        ["user23", 33, "sex-1", "country-2"],
        ["user21", 28, "sex-2", "country-3"],
        ["user20", "?", "sex-1", "country-3"],
    ]


def test_comoda_content_without_what_is_not_known(viewings: Path) -> None:
    content = sources.load_tables("comoda").content
    assert content is not None
    assert rows(content.drop(columns=["content_type", "genres"])) == [
        ["content14", "Film 14", 2007, "country-36", "language-9", "director-234", 9_000_000],
        ["content5", "Film 5", 1998, "country-37", "?", "director-775", "?"],
        ["content6", "Film 6", 2008, "country-37", "language-9", "?", 24_000_000],
    ]
    assert content["genres"].tolist() == [["Comedy"], ["Documentary", "Sport"], []]
    assert set(content["content_type"]) == {"movie"}


def test_comoda_tables_survive_the_disk_and_every_column_is_marked(
    viewings: Path, tmp_path: Path
) -> None:
    folder = sources.prepare("comoda", tmp_path / "tables", seed=3)
    assert sources.prepare("comoda", folder, seed=3) == folder  # found, not written again
    again, tables = read_tables(folder), sources.load_tables("comoda", seed=3)
    assert again.content is not None
    budget = pd.to_numeric(again.content["budget"]).astype("Int64")  # beyond the schema: text
    again = dataclasses.replace(again, content=again.content.assign(budget=budget))
    for name, table in tables.present().items():
        assert_frame_equal(table, again.present()[name], obj=name)
    marks = again.manifest["columns"]
    assert {n: set(c) for n, c in marks.items()} == {n: set(t) for n, t in again.present().items()}
    derived = {(n, c) for n, of in marks.items() for c, kind in of.items() if kind == "derived"}
    assert derived == {
        ("watch_history", "timestamp"),
        ("content_reactions", "timestamp"),
        ("content", "title"),
        ("content", "content_type"),
        ("content", "genres"),
    }
    assert again.manifest["checksum"] == sha256(VIEWINGS.encode())


def test_comoda_with_a_wrong_checksum_is_refused(viewings: Path, server: Server) -> None:
    server.content = VIEWINGS.replace("23,14,5", "23,14,4").encode()
    with pytest.raises(DataError, match="does not match the known hash"):
        sources.load_tables("comoda")
    assert cached(viewings) == []


# --- The real data sets ---


@pytest.fixture(scope="session")
def movielens() -> sources.MovieLens:
    try:
        path = sources.fetch(NAME)
    except DataError as error:
        if os.environ.get("CI") or "does not match" in str(error):
            raise
        pytest.skip(f"no network: {error}")
    return sources.SOURCES[NAME].archives[path.name].read(path)


def test_real_values_are_the_published_ones(movielens: sources.MovieLens) -> None:
    """Published SHA-256 sums of u.data and u.user; one of our own where the formats differ."""
    data = movielens.ratings.to_csv(sep="\t", header=False, index=False, lineterminator="\n")
    user = movielens.users.to_csv(sep="|", header=False, index=False, lineterminator="\n")
    assert sha256(data.encode()) == (
        "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"
    )
    assert sha256(user.encode()) == (
        "f120e114da2e8cf314fd28f99417c94ae9ddf1cb6db8ce0e4b5995d40e90e62c"
    )
    assert movielens.checksum() == (
        "78f3d8286f46a33d89b0ec18dd3eff295a3417ce23c929d3ba178afb81a2aef9"
    )


def test_real_tables(movielens: sources.MovieLens) -> None:
    tables = sources.movielens_100k(movielens)
    rows = {name: len(table) for name, table in tables.present().items()}
    assert (rows["content_reactions"], rows["users"], rows["content"]) == (100_000, 943, 1682)
    assert tables.content_reactions is not None
    assert tables.content is not None
    first = tables.content_reactions.iloc[0]
    assert first["user_id"] == "user196"
    assert first["content_id"] == "content242"
    assert first["rating"] == 3
    assert str(first["timestamp"]) == "1997-12-04 15:55:49+00:00"
    assert tables.content_reactions["rating"].mean() == pytest.approx(3.52986)
    genres = tables.content["genres"].explode().value_counts()
    assert genres["Drama"] == 725
    assert genres["Comedy"] == 505
    assert genres["Fantasy"] == 22
    assert len(genres) == 18
    assert (tables.content["genres"].str.len() == 0).sum() == 2
    assert tables.content["release_year"].isna().sum() == 1
    titles = tables.content.set_index("content_id")["title"]
    assert titles["content6"] == "Shanghai Triad (Yao a yao yao dao waipo qiao)"
    assert titles["content1412"] == "Land Before Time III: The Time of the Great Giving"
    assert titles["content1633"] == "Á köldum klaka (Cold Fever)"
    assert rows["user_connections"] / 943 == pytest.approx(8, rel=0.1)


def test_real_comoda() -> None:
    path = sources.cache_folder("comoda") / CSV
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    tables = sources.load_tables("comoda")
    counts = {name: len(table) for name, table in tables.present().items()}
    assert counts == {
        "watch_history": 2296,
        "content_reactions": 2296,
        "users": 121,
        "content": 1232,
    }
    assert tables.manifest["checksum"] == sources.SOURCES["comoda"].archives[CSV].sha256
    history, content, users = tables.watch_history, tables.content, tables.users
    assert history is not None
    assert content is not None
    assert users is not None
    assert history.duplicated(["user_id", "content_id"]).sum() == 25
    for column, names in comoda.CONTEXT.items():
        assert set(history[column].dropna()) == set(names)
    known = history.notna().sum()
    assert (known["daypart"], known["weather"], known["companion"]) == (2192, 2169, 2191)
    assert history["companion"].value_counts()["alone"] == 1078
    assert users["age"].agg(["min", "max", "count"]).tolist() == [15, 63, 98]
    assert set(content["genres"].explode().dropna()) == set(comoda.GENRES.split()) - {"unknown"}
    assert (content["genres"].str.len() == 0).sum() == 2


def test_real_comoda_rows_of_a_user_or_film_agree() -> None:
    path = sources.cache_folder("comoda") / CSV
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    raw = comoda.read(path)
    films = raw.loc[:, "director":].columns
    assert (raw.groupby("item")[films].nunique(dropna=False) == 1).all(axis=None)
    people = raw.groupby("user")[["age", "sex", "region"]]
    assert (people.nunique(dropna=False) == 1).all(axis=None)
