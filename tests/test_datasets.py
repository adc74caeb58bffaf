"""The data sets with something that was observed: context, trust, friendships, households."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from firetv import camra2011, comoda, sources
from firetv.data import Dataset, Tables, read_tables, write_tables
from firetv.published import dealt_hours

CSV = "LDOS-CoMoDa.csv"
VIEWINGS = """\
23,14,5,900,1,20,2,3,1,2,3,3,7,2,2,1,1,1,1,234,36,9,2007,7,-1,-1,1303,1524,1656,9000000
21,5,3,28,2,10,3,1,2,3,1,5,1,2,2,2,2,2,2,775,37,-1,1998,9,5,20,1636,1539,1402,-1
23,5,1,33,1,20,2,-1,-1,-1,-1,-1,-1,-1,-1,-1,-1,-1,-1,775,37,-1,1998,9,5,20,1636,1539,1402,-1
20,6,4,-1,1,10,3,4,3,4,2,4,4,2,2,1,1,2,1,-1,37,9,2008,-1,-1,-1,1373,1510,1691,24000000
"""
RATINGS = "1 1 2\n1 2 4\n3 2 0.5\n1 1 3.5\n3 7 2.5\n1 2 4\n"
TRUST = "3 1 1\n1 9 1\n8 9 1\n9 1 1\n"
PLAYS = """\
userID\tartistID\tweight\r
1\t1\t1\r
2\t51\t13883\r
2\t52\t11690\r
4\t51\t228\r
1\t51\t3\r
4\t11\t7\r
"""
FRIENDS = """\
userID\tfriendID\r
1\t2\r
2\t4\r
2\t1\r
2\t5\r
4\t2\r
5\t2\r
6\t1\r
"""
HOUSEHOLDS = {
    "groupMember.txt": "7 3,4\n2 9,1,5\n",
    "userRatingTrain.txt": "4 10 100\n3 10 0\n9 12 35\n",
    "groupRatingTrain.txt": "7 10 100\n2 12 35\n7 10 0\n7 11 50\n",
    "groupRatingTest.txt": "2 13 80\n7 11 60\n2 13 40\n",
    "groupRatingNegative.txt": "(2,13) 10 14\n(7,11) 12 13\n(2,13) 13 11\n",
}
FILES = {
    "comoda": {CSV: VIEWINGS},
    "filmtrust": {"ratings.txt": RATINGS, "trust.txt": TRUST},
    "lastfm": {"user_artists.dat": PLAYS, "user_friends.dat": FRIENDS},
    "camra2011": HOUSEHOLDS,
}
KEYS = ["user_id", "content_id", "timestamp"]

each_data_set = pytest.mark.parametrize("name", FILES)
without_times = pytest.mark.parametrize("name", ["filmtrust", "lastfm", "camra2011"])


def handwritten(name: str, folder: Path, seed: int = 0) -> Tables:
    """Tables of a few rows in the format of the real files."""
    return sources.SOURCES[name].transform(*handwritten_parts(name, folder), seed)


def handwritten_parts(name: str, folder: Path) -> list[pd.DataFrame]:
    """What is read of a few rows in the format of the real files."""
    raw = []
    for part, (filename, text) in zip(
        sources.SOURCES[name].parts, FILES[name].items(), strict=True
    ):
        (folder / filename).write_bytes(text.encode())
        raw.append(part[filename].read(folder / filename))
    return raw


def real(name: str) -> Tables:
    """Tables of the real files, where the cache holds them."""
    skip_unless_cached(name)
    return sources.load_tables(name)


def skip_unless_cached(name: str) -> None:
    for part in sources.SOURCES[name].parts:
        paths = [sources.cache_folder(name) / filename for filename in part]
        if not any(path.is_file() for path in paths):
            pytest.skip(f"{paths[0]} is not there")


def rows(table: pd.DataFrame | None) -> list[list[object]]:
    """Values by row, "?" where one is missing."""
    assert table is not None
    return table.astype(object).where(table.notna(), "?").to_numpy().tolist()


def pairs(one: pd.Series, other: pd.Series) -> set[tuple[str, str]]:
    return set(zip(one, other, strict=True))


def counts(tables: Tables) -> dict[str, int]:
    return {name: len(table) for name, table in tables.present().items()}


def kinds(tables: Tables, kind: str) -> set[str]:
    """Columns of a kind, as ``table.column``."""
    marks = tables.manifest["columns"]
    return {f"{name}.{c}" for name, of in marks.items() for c, k in of.items() if k == kind}


# --- What holds for each ---


@each_data_set
def test_tables_survive_the_disk_and_every_column_is_marked(name: str, tmp_path: Path) -> None:
    tables = handwritten(name, tmp_path, seed=3)
    write_tables(tables, tmp_path / "tables")
    again = read_tables(tmp_path / "tables")
    for table, frame in tables.present().items():
        back = again.present()[table].copy()
        for column in {"budget", "plays"} & set(back):  # beyond the schema: text
            back[column] = pd.to_numeric(back[column]).astype("Int64")
        assert_frame_equal(frame, back, obj=table, check_exact=True)
    marks = again.manifest["columns"]
    assert {n: set(c) for n, c in marks.items()} == {n: set(t) for n, t in again.present().items()}
    assert again.manifest["rows"] == counts(tables)


@each_data_set
def test_the_manifest_says_what_and_whence(name: str, tmp_path: Path) -> None:
    manifest = handwritten(name, tmp_path, seed=3).manifest
    assert (manifest["name"], manifest["seed"]) == (name, 3)
    for part in sources.SOURCES[name].parts:
        assert all(archive.address in manifest["source"] for archive in part.values())
    assert manifest["citation"]
    assert manifest["notes"]
    assert "Not redistributed" in manifest["licence"]


@each_data_set
def test_the_seed_moves_simulated_columns_only(name: str, tmp_path: Path) -> None:
    one, again, other = (handwritten(name, tmp_path, seed) for seed in (1, 1, 2))
    assert one.manifest == again.manifest
    for table, marks in one.manifest["columns"].items():
        assert_frame_equal(one.present()[table], again.present()[table])
        for column, mark in marks.items():
            before, after = one.present()[table][column], other.present()[table][column]
            assert before.equals(after) == (mark != "simulated"), (table, column)


@each_data_set
def test_the_checksum_sees_every_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {handwritten(name, tmp_path).manifest["checksum"]}
    for filename, text in FILES[name].items():
        without_last = "".join(text.splitlines(keepends=True)[:-1])
        monkeypatch.setitem(FILES, name, {**FILES[name], filename: without_last})
        seen.add(handwritten(name, tmp_path).manifest["checksum"])
    assert len(seen) == 1 + len(FILES[name])


@without_times
def test_every_event_has_an_hour_of_its_own(name: str, tmp_path: Path) -> None:
    tables = handwritten(name, tmp_path)
    assert tables.watch_history is not None
    times = tables.watch_history["timestamp"]
    hours = pd.date_range("2011-01-01", periods=len(times), freq="h", tz="UTC")
    assert sorted(times) == list(hours)


def test_the_last_fifth_of_dealt_hours_is_a_random_fifth() -> None:
    times = dealt_hours(10_000, seed=0)
    late = (times >= times.sort_values().iloc[8_000]).to_numpy()
    assert late.sum() == 2_000
    np.testing.assert_allclose(late.reshape(5, -1).mean(axis=1), 0.2, atol=0.03)


# --- CoMoDa ---


def test_comoda_viewings_hold_the_observed_context(tmp_path: Path) -> None:
    tables = handwritten("comoda", tmp_path)
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


def test_comoda_users_have_the_first_age_that_can_be_true(tmp_path: Path) -> None:
    assert rows(handwritten("comoda", tmp_path).users) == [
        ["user23", 33, "sex-1", "country-2"],
        ["user21", 28, "sex-2", "country-3"],
        ["user20", "?", "sex-1", "country-3"],
    ]


def test_comoda_content_without_what_is_not_known(tmp_path: Path) -> None:
    content = handwritten("comoda", tmp_path).content
    assert content is not None
    assert rows(content.drop(columns=["content_type", "genres"])) == [
        ["content14", "Film 14", 2007, "country-36", "language-9", "director-234", 9_000_000],
        ["content5", "Film 5", 1998, "country-37", "?", "director-775", "?"],
        ["content6", "Film 6", 2008, "country-37", "language-9", "?", 24_000_000],
    ]
    assert content["genres"].tolist() == [["Comedy"], ["Documentary", "Sport"], []]
    assert set(content["content_type"]) == {"movie"}


def test_comoda_marks(tmp_path: Path) -> None:
    tables = handwritten("comoda", tmp_path)
    assert kinds(tables, "simulated") == set()
    assert kinds(tables, "derived") == {
        "watch_history.timestamp",
        "content_reactions.timestamp",
        "content.title",
        "content.content_type",
        "content.genres",
    }
    assert tables.manifest["checksum"] == hashlib.sha256(VIEWINGS.encode()).hexdigest()


# --- FilmTrust ---


def test_filmtrust_ratings_are_stretched_and_stay_in_order(tmp_path: Path) -> None:
    tables = handwritten("filmtrust", tmp_path)
    assert tables.content_reactions is not None
    assert tables.watch_history is not None
    assert rows(tables.content_reactions[["user_id", "content_id"]]) == [
        ["user1", "content1"],
        ["user1", "content2"],
        ["user3", "content2"],
        ["user1", "content1"],  # once more
        ["user3", "content7"],
        ["user1", "content2"],
    ]
    expected = [1 + 1.5 / 3.5 * 4, 5, 1, 1 + 3 / 3.5 * 4, 1 + 2 / 3.5 * 4, 5]
    np.testing.assert_allclose(tables.content_reactions["rating"], expected)
    assert list(tables.watch_history) == KEYS
    assert_frame_equal(tables.watch_history, tables.content_reactions[KEYS])


def test_filmtrust_users_are_all_who_rate_trust_or_are_trusted(tmp_path: Path) -> None:
    tables = handwritten("filmtrust", tmp_path)
    assert rows(tables.users) == [["user1"], ["user3"], ["user8"], ["user9"]]
    assert rows(tables.content) == [
        ["content1", "Film 1", "movie"],
        ["content2", "Film 2", "movie"],
        ["content7", "Film 7", "movie"],
    ]


def test_filmtrust_trust_goes_one_way(tmp_path: Path) -> None:
    tables = handwritten("filmtrust", tmp_path)
    assert list(tables.user_connections) == ["user_id", "friend_id"]
    friends = Dataset.from_tables(tables).friends
    assert friends is not None
    assert friends.toarray().tolist() == [
        [0, 0, 0, 1],  # 1 trusts 9
        [1, 0, 0, 0],  # 3 trusts 1
        [0, 0, 0, 1],  # 8 trusts 9
        [1, 0, 0, 0],  # 9 trusts 1
    ]


def test_filmtrust_marks(tmp_path: Path) -> None:
    tables = handwritten("filmtrust", tmp_path)
    assert kinds(tables, "simulated") == {"watch_history.timestamp", "content_reactions.timestamp"}
    assert kinds(tables, "derived") == {
        "content_reactions.rating",
        "content.title",
        "content.content_type",
    }


# --- Last.fm ---


def test_lastfm_leaves_out_the_user_who_was_added(tmp_path: Path) -> None:
    tables = handwritten("lastfm", tmp_path)
    assert tables.watch_history is not None
    assert rows(tables.watch_history[["user_id", "content_id", "plays"]]) == [
        ["user2", "content51", 13883],
        ["user2", "content52", 11690],
        ["user4", "content51", 228],
        ["user4", "content11", 7],
    ]
    assert rows(tables.user_connections) == [
        ["user2", "user4"],
        ["user2", "user5"],
        ["user4", "user2"],
        ["user5", "user2"],
    ]
    assert rows(tables.content) == [
        ["content51", "Artist 51", "artist"],
        ["content52", "Artist 52", "artist"],
        ["content11", "Artist 11", "artist"],
    ]


def test_lastfm_users_are_all_who_listen_or_have_a_friend(tmp_path: Path) -> None:
    tables = handwritten("lastfm", tmp_path)
    assert rows(tables.users) == [["user2"], ["user4"], ["user5"]]  # user 6 knew user 1 only
    assert tables.content_reactions is None


def test_lastfm_marks(tmp_path: Path) -> None:
    tables = handwritten("lastfm", tmp_path)
    assert kinds(tables, "simulated") == {"watch_history.timestamp"}
    assert kinds(tables, "derived") == {"content.title", "content.content_type"}


# --- CAMRa2011 ---


def test_camra2011_is_read_as_published(tmp_path: Path) -> None:
    members, users, groups, test, negatives = handwritten_parts("camra2011", tmp_path)
    assert list(members) == ["group", "user"]
    assert rows(members) == [[7, 3], [7, 4], [2, 9], [2, 1], [2, 5]]
    assert list(users) == list(groups) == list(test) == ["who", "item", "rating"]
    assert rows(users) == [[4, 10, 100], [3, 10, 0], [9, 12, 35]]
    assert list(negatives) == ["group", "item", "negative1", "negative2"]
    assert rows(negatives) == [[2, 13, 10, 14], [7, 11, 12, 13], [2, 13, 13, 11]]


@pytest.mark.parametrize("text", ["(2,13) 10 14\n(7,11) 12\n", "(2,13) 10\n(7,11) 12 13\n"])
def test_camra2011_negatives_are_as_many_for_each_pair(text: str, tmp_path: Path) -> None:
    (tmp_path / "groupRatingNegative.txt").write_text(text)
    with pytest.raises(ValueError, match=r"NA values|Expected 3 fields"):
        camra2011.read_negatives(tmp_path / "groupRatingNegative.txt")


def test_camra2011_household_is_a_user_with_a_history(tmp_path: Path) -> None:
    tables = handwritten("camra2011", tmp_path)
    assert tables.content_reactions is not None
    assert tables.watch_history is not None
    assert rows(tables.content_reactions[["user_id", "content_id", "rating"]]) == [
        ["user4", "content10", 5],
        ["user3", "content10", 1],
        ["user9", "content12", 2.4],
        ["group7", "content10", 5],
        ["group2", "content12", 2.4],
        ["group7", "content10", 1],  # once more
        ["group7", "content11", 3],
    ]
    assert list(tables.watch_history) == KEYS
    assert_frame_equal(tables.watch_history, tables.content_reactions[KEYS])


def test_camra2011_users_are_members_and_households(tmp_path: Path) -> None:
    tables = handwritten("camra2011", tmp_path)
    people = ["user3", "user4", "user9", "user1", "user5", "group7", "group2"]
    assert rows(tables.users) == [[user] for user in people]
    assert rows(tables.groups) == [
        ["group7", "user3"],
        ["group7", "user4"],
        ["group2", "user9"],
        ["group2", "user1"],
        ["group2", "user5"],
    ]
    groups = Dataset.from_tables(tables).groups
    assert groups is not None
    assert groups["user"].tolist() == [0, 1, 2, 3, 4]


def test_camra2011_content_is_of_all_files(tmp_path: Path) -> None:
    assert rows(handwritten("camra2011", tmp_path).content) == [
        ["content10", "Film 10", "movie"],
        ["content12", "Film 12", "movie"],
        ["content11", "Film 11", "movie"],
        ["content13", "Film 13", "movie"],  # of the test
        ["content14", "Film 14", "movie"],  # of the negatives
    ]


def test_camra2011_test_pairs_have_the_ids_of_the_tables(tmp_path: Path) -> None:
    *_, test, negatives = handwritten_parts("camra2011", tmp_path)
    found = camra2011.test_pairs(test, negatives)
    assert found.group_id.tolist() == ["group2", "group7", "group2"]
    assert found.content_id.tolist() == ["content13", "content11", "content13"]
    assert found.negatives.tolist() == [
        ["content10", "content14"],
        ["content12", "content13"],
        ["content13", "content11"],  # its own film, as published
    ]


def test_camra2011_test_and_negatives_must_agree(tmp_path: Path) -> None:
    *_, test, negatives = handwritten_parts("camra2011", tmp_path)
    for other in (negatives[:-1], negatives.iloc[[1, 0, 2]], negatives.assign(item=13)):
        with pytest.raises(ValueError, match="same pairs in the same order"):
            camra2011.test_pairs(test, other)


def test_camra2011_marks(tmp_path: Path) -> None:
    tables = handwritten("camra2011", tmp_path)
    assert kinds(tables, "simulated") == {"watch_history.timestamp", "content_reactions.timestamp"}
    assert kinds(tables, "derived") == {
        "content_reactions.rating",
        "content.title",
        "content.content_type",
    }


# --- The real data sets ---


def test_real_comoda() -> None:
    tables = real("comoda")
    assert counts(tables) == {
        "watch_history": 2296,
        "content_reactions": 2296,
        "users": 121,
        "content": 1232,
    }
    assert tables.manifest["checksum"] == sources.SOURCES["comoda"].parts[0][CSV].sha256
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
    real("comoda")
    raw = comoda.read(sources.cache_folder("comoda") / CSV)
    films = raw.loc[:, "director":].columns
    assert (raw.groupby("item")[films].nunique(dropna=False) == 1).all(axis=None)
    people = raw.groupby("user")[["age", "sex", "region"]]
    assert (people.nunique(dropna=False) == 1).all(axis=None)


def test_real_filmtrust() -> None:
    tables = real("filmtrust")
    assert counts(tables) == {
        "watch_history": 35_497,
        "content_reactions": 35_497,
        "users": 1633,
        "content": 2071,
        "user_connections": 1806,
    }
    ratings, ties = tables.content_reactions, tables.user_connections
    assert ratings is not None
    assert ties is not None
    assert ratings["user_id"].nunique() == 1508
    assert ratings.duplicated(["user_id", "content_id"]).sum() == 3
    assert ratings["rating"].agg(["min", "max"]).tolist() == [1, 5]
    assert ratings["rating"].nunique() == 8
    assert ratings["rating"].mean() == pytest.approx(3.8603, abs=1e-4)
    assert not ties.duplicated().any()
    assert (ties["user_id"] != ties["friend_id"]).all()
    there, back = (
        pairs(ties["user_id"], ties["friend_id"]),
        pairs(ties["friend_id"], ties["user_id"]),
    )
    assert len(there & back) == 1038


def test_real_lastfm() -> None:
    tables = real("lastfm")
    assert counts(tables) == {
        "watch_history": 92_836,
        "users": 1892,
        "content": 17_632,
        "user_connections": 25_434,
    }
    history, ties = tables.watch_history, tables.user_connections
    assert history is not None
    assert ties is not None
    assert not history.duplicated(["user_id", "content_id"]).any()
    assert history["plays"].agg(["min", "max"]).tolist() == [1, 352_698]
    artists = history["user_id"].value_counts()
    assert set(artists.index[artists > 50]) == {"user2", "user515"}  # a row each was added
    assert artists.max() == 51
    there, back = (
        pairs(ties["user_id"], ties["friend_id"]),
        pairs(ties["friend_id"], ties["user_id"]),
    )
    assert there == back
    assert not ties.duplicated().any()
    assert set(ties["user_id"]) == set(history["user_id"])


def test_real_camra2011() -> None:
    tables = real("camra2011")
    assert counts(tables) == {
        "watch_history": 256_952,
        "content_reactions": 256_952,
        "users": 892,
        "content": 7710,
        "groups": 602,
    }
    ratings, groups = tables.content_reactions, tables.groups
    assert ratings is not None
    assert groups is not None
    assert groups["group_id"].value_counts().value_counts().to_dict() == {2: 272, 3: 14, 4: 4}
    assert groups["user_id"].is_unique
    assert ratings["rating"].agg(["min", "max"]).tolist() == [1, 5]
    assert ratings["rating"].nunique() == 21
    theirs = ratings["user_id"].isin(groups["group_id"])
    members, households = ratings[~theirs], ratings[theirs]
    assert (len(members), len(households)) == (113_334, 143_618)
    assert set(members["user_id"]) == set(groups["user_id"])
    assert set(households["user_id"]) == set(groups["group_id"])
    assert members["content_id"].nunique() == 7057
    assert not members.duplicated(["user_id", "content_id"]).any()
    assert households.duplicated(["user_id", "content_id"]).sum() == 29_704
    homes = members["user_id"].map(groups.set_index("user_id")["group_id"])
    assert pairs(homes, members["content_id"]) <= pairs(
        households["user_id"], households["content_id"]
    )


def test_real_camra2011_test_pairs() -> None:
    skip_unless_cached("camra2011")
    *_, test, negatives = parts = sources.read_parts("camra2011")
    found = camra2011.test_pairs(test, negatives)
    assert found.negatives.shape == (1450, 100)
    assert (found.negatives == found.content_id[:, None]).any(axis=1).sum() == 24
    assert test.duplicated(["who", "item"]).sum() == 6
    assert test["who"].value_counts().eq(5).all()
    data = Dataset.from_tables(camra2011.to_tables(*parts))
    group, item = data.user_ids.get_indexer(found.group_id), data.item_ids.get_indexer
    others = item(found.negatives.ravel()).reshape(found.negatives.shape)
    assert min(group.min(), others.min(), item(found.content_id).min()) >= 0
    assert (data.item_counts == 0).sum() == 24
    seen = data.matrix().toarray().astype(bool)
    assert seen[group, item(found.content_id)].sum() == 576
    assert seen[group[:, None], others].sum() == 7680
