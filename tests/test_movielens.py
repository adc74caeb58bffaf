import dataclasses
import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from firetv import movielens, sources
from firetv.data import Tables, read_tables, write_tables
from firetv.schema import DataError

NAME = "movielens-100k"

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
    flags = [[int(g in row[3].split()) for g in movielens.GENRES.split()] for row in ITEMS.values()]
    items = [
        (item, name, "01-Jan-1995", "", "http://x", *row)
        for (item, (name, *_)), row in zip(ITEMS.items(), flags, strict=True)
    ]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("ml-100k/u.data", lines(RATINGS, "\t"))
        archive.writestr("ml-100k/u.user", lines(USERS, "|"))
        archive.writestr("ml-100k/u.item", lines(items, "|").encode("latin-1"))
    return path


def recbole_archive(path: Path) -> Path:
    items = [(item, *row[1:]) for item, row in ITEMS.items()]
    tables = {"inter": RATINGS, "user": USERS, "item": items}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, rows in tables.items():
            header = lines([tuple(f"column{i}:token" for i in range(len(rows[0])))], "\t")
            member = f"recbole/dataset_example/ml-100k/ml-100k.{name}"
            archive.writestr(member, (header + lines(rows, "\t")).encode())
    return path


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def assert_same_tables(one: Tables, other: Tables) -> None:
    assert one.present().keys() == other.present().keys()
    for name, table in one.present().items():
        assert_frame_equal(table, other.present()[name], obj=name)
    assert one.manifest == other.manifest


# --- Tables ---


@pytest.fixture
def raw(tmp_path: Path) -> movielens.MovieLens:
    return movielens.read_grouplens(grouplens_archive(tmp_path / "ml-100k.zip"))


@pytest.fixture
def many() -> movielens.MovieLens:
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
    return movielens.MovieLens(ratings, users, items)


def test_both_archives_give_identical_tables(raw: movielens.MovieLens, tmp_path: Path) -> None:
    again = movielens.read_recbole(recbole_archive(tmp_path / "recbole.whl"))
    assert_same_tables(movielens.to_tables(raw), movielens.to_tables(again))


def test_content(raw: movielens.MovieLens) -> None:
    content = movielens.to_tables(raw).content
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


def test_users(raw: movielens.MovieLens) -> None:
    users = movielens.to_tables(raw).users
    assert users is not None
    assert users.to_numpy().tolist() == [
        ["user1", 24, "M", "technician", "US-0"],
        ["user2", 53, "F", "none", "US-9"],
        ["user3", 11, "M", "student", "other"],
        ["user4", 37, "F", "none", "US-9"],
    ]


def test_reactions_keep_the_order_of_the_file(raw: movielens.MovieLens) -> None:
    reactions = movielens.to_tables(raw).content_reactions
    assert reactions is not None
    expected = [[f"user{u}", f"content{i}", r] for u, i, r, _ in RATINGS]
    assert reactions[["user_id", "content_id", "rating"]].to_numpy().tolist() == expected
    assert (reactions["timestamp"].astype("int64") // 10**6).tolist() == [t for *_, t in RATINGS]
    words = ["love", "", "dislike", "dislike", "like", "like", "love", ""]
    assert reactions["reaction"].fillna("").tolist() == words


def test_tables_survive_the_disk_and_every_column_is_marked(
    raw: movielens.MovieLens, tmp_path: Path
) -> None:
    tables = movielens.to_tables(raw)
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


def test_checksum_sees_every_value_and_the_order(raw: movielens.MovieLens) -> None:
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


def test_the_seed_moves_simulated_columns_only(many: movielens.MovieLens) -> None:
    one, again, other = (movielens.to_tables(many, seed) for seed in (1, 1, 2))
    assert_same_tables(one, again)
    for name, marks in one.manifest["columns"].items():
        before, after = one.present()[name], other.present()[name]
        for column, mark in marks.items():
            assert before[column].equals(after[column]) == (mark != "simulated"), (name, column)


def test_nothing_but_completion_depends_on_ratings(many: movielens.MovieLens) -> None:
    shuffled = many.ratings.assign(rating=many.ratings["rating"].to_numpy()[::-1])
    one = movielens.to_tables(many)
    other = movielens.to_tables(dataclasses.replace(many, ratings=shuffled))
    fewer = movielens.to_tables(dataclasses.replace(many, ratings=many.ratings[:10]))
    assert one.user_connections is not None
    assert_frame_equal(one.user_connections, other.user_connections)
    assert_frame_equal(one.user_connections, fewer.user_connections)
    assert one.watch_history is not None
    assert other.watch_history is not None
    for column in ("weather", "companion"):
        assert one.watch_history[column].equals(other.watch_history[column])
    assert not one.watch_history["completion"].equals(other.watch_history["completion"])


def test_friends_are_mutual_and_alike(many: movielens.MovieLens) -> None:
    tables = movielens.to_tables(many)
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
    weather = movielens.simulate_weather(
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


def test_weather_of_an_event_is_that_of_region_and_day(many: movielens.MovieLens) -> None:
    tables = movielens.to_tables(many)
    assert tables.watch_history is not None
    events = tables.watch_history.merge(tables.users, on="user_id")
    events["date"] = events["timestamp"].dt.strftime("%Y-%m-%d")
    assert tables.weather is not None
    weather = tables.weather.assign(date=tables.weather["date"].dt.strftime("%Y-%m-%d"))
    joined = events.merge(weather, on=["region", "date"], validate="many_to_one")
    assert len(joined) == len(events)
    assert (joined["weather"] == joined["condition"]).all()


def test_company_is_shared_in_a_sitting_and_follows_age(many: movielens.MovieLens) -> None:
    sittings = many.ratings.assign(timestamp=many.ratings["timestamp"] // 86_400 * 86_400)
    twice = pd.concat([sittings, sittings.assign(timestamp=sittings["timestamp"] + 1800)])
    raw = dataclasses.replace(many, ratings=twice.reset_index(drop=True))
    tables = movielens.to_tables(raw)
    assert tables.watch_history is not None
    history = tables.watch_history.merge(tables.users, on="user_id")
    sitting = history.groupby(["user_id", history["timestamp"].dt.floor("h")])["companion"]
    assert (sitting.nunique() == 1).all()
    young = history["age"] < 25
    friends = history["companion"] == "friends"
    assert friends[young].mean() > friends[~young].mean() + 0.1


def test_completion_rises_with_the_rating(many: movielens.MovieLens) -> None:
    history = movielens.to_tables(many).watch_history
    assert history is not None
    assert history["completion"].between(0, 1).all()
    means = history["completion"].groupby(many.ratings["rating"]).mean()
    np.testing.assert_allclose(means, [0.25, 0.40, 0.55, 0.70, 0.85], atol=0.03)


# --- The real data set ---


@pytest.fixture(scope="session")
def real() -> movielens.MovieLens:
    try:
        (path,) = sources.fetch(NAME)
    except DataError as error:
        if os.environ.get("CI") or "does not match" in str(error):
            raise
        pytest.skip(f"no network: {error}")
    (archives,) = sources.SOURCES[NAME].parts
    return archives[path.name].read(path)


def test_real_values_are_the_published_ones(real: movielens.MovieLens) -> None:
    """Published SHA-256 sums of u.data and u.user; one of our own where the formats differ."""
    data = real.ratings.to_csv(sep="\t", header=False, index=False, lineterminator="\n")
    user = real.users.to_csv(sep="|", header=False, index=False, lineterminator="\n")
    assert sha256(data) == "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"
    assert sha256(user) == "f120e114da2e8cf314fd28f99417c94ae9ddf1cb6db8ce0e4b5995d40e90e62c"
    assert real.checksum() == "78f3d8286f46a33d89b0ec18dd3eff295a3417ce23c929d3ba178afb81a2aef9"


def test_real_tables(real: movielens.MovieLens) -> None:
    tables = movielens.to_tables(real)
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
