from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from firetv.cli import app
from firetv.columns import MOST_BYTES, MOST_VALUES
from firetv.context import ContextBoost, ContextSignals
from firetv.data import Dataset, Tables, fingerprint, load, read_tables, write_tables
from firetv.evaluate import permuted_moments, with_moments
from firetv.features import item_features, user_features
from firetv.moments import DIMENSIONS, describe
from firetv.rules import Rule, Rules
from firetv.schema import DataError
from firetv.slate import Slate, chain
from firetv.splits import each_event

HISTORY = """user,content_id,timestamp,device,wetter,session
u1,c1,2026-01-31T20:15:00Z,tv,rainy,s1
u1,c2,2026-01-31T21:15:00Z, phone ,sunny,s2
u2,c1,2026-02-01T20:15:00Z,,rainy,s3
"""
USERS = "user_id,plan,notes\nu1,gold,likes cake\nu2,basic,no cake\n"
CONTENT = "content_id,title,jahr\nc1,One,1999\nc2,Two,2004\n"
MAPPING = """
watch_history:
  user: user_id
  device: context
  wetter: weather
  session: ignore
users:
  plan: feature
  notes: ignore
content:
  jahr: release_year
"""


def folder_of(tmp_path: Path, mapping: str | bytes | None = MAPPING, **files: str) -> Path:
    tables = {"watch_history": HISTORY, "users": USERS, "content": CONTENT} | files
    for name, text in tables.items():
        (tmp_path / f"{name}.csv").write_text(text)
    if mapping is not None:
        text = mapping.encode() if isinstance(mapping, str) else mapping
        (tmp_path / "columns.yaml").write_bytes(text)
    return tmp_path


def complaint(folder: Path, mapping: Path | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read_tables(folder, mapping)
    return str(caught.value)


# What a mapping does


def test_columns_get_the_schemas_names_and_others_go(tmp_path: Path) -> None:
    tables = read_tables(folder_of(tmp_path))
    history = ["user_id", "content_id", "timestamp", "device", "weather"]
    assert list(tables.watch_history) == history
    assert list(tables.users) == ["user_id", "plan"]
    assert tables.content["release_year"].tolist() == [1999, 2004]
    assert tables.manifest["context"] == ["device"]


def test_the_data_know_their_own_dimensions_and_features(tmp_path: Path) -> None:
    data = load(folder_of(tmp_path))
    assert data.own_dimensions == ("device",)
    assert data.interactions["device"].fillna("?").tolist() == ["tv", "phone", "?"]
    assert set(user_features(data).names) == {"plan:basic", "plan:gold"}
    assert "decade:1990s" in item_features(data).names
    moments = describe(data.interactions, own=data.own_dimensions)
    assert list(moments) == [*DIMENSIONS, "device"]
    assert moments["device"].isna().tolist() == [False, False, True]
    without = replace(data, interactions=data.interactions.drop(columns="device"))
    assert without.own_dimensions == ()


def test_a_mapping_may_lie_elsewhere(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "watch_history: {user: user_id}")
    other = tmp_path / "other.yaml"
    other.write_text(MAPPING)
    assert read_tables(folder).manifest.get("context") is None
    assert read_tables(folder, other).manifest["context"] == ["device"]
    assert fingerprint(folder) != fingerprint(folder, other)
    assert "nowhere.yaml: cannot be read" in complaint(folder, tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "users:\n", "users: {}\n"])
def test_a_mapping_without_lines_changes_nothing(tmp_path: Path, text: str) -> None:
    history = HISTORY.replace("user,", "user_id,")
    plain = read_tables(folder_of(tmp_path, None, watch_history=history))
    mapped = read_tables(folder_of(tmp_path, text, watch_history=history))
    for name, table in plain.present().items():
        pd.testing.assert_frame_equal(mapped.present()[name], table)
    assert mapped.manifest == plain.manifest


def test_columns_may_change_places(tmp_path: Path) -> None:
    history = HISTORY.replace("wetter,session", "weather,companion")
    mapping = "watch_history: {user: user_id, weather: companion, companion: weather}"
    table = read_tables(folder_of(tmp_path, mapping, watch_history=history)).watch_history
    assert table["companion"].tolist() == ["rainy", "sunny", "rainy"]
    assert table["weather"].tolist() == ["s1", "s2", "s3"]


def test_reactions_are_the_events_where_there_is_no_history(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "content_reactions: {device: context, tageszeit: daypart}")
    (folder / "watch_history.csv").unlink()
    (folder / "content_reactions.csv").write_text(
        "user_id,content_id,timestamp,rating,device,tageszeit\n"
        "u1,c1,2026-01-31T20:15:00Z,4,tv,evening\n"
    )
    data = load(folder)
    assert data.own_dimensions == ("device",)
    assert data.interactions["daypart"].tolist() == ["evening"]


def test_marks_of_the_manifest_follow_new_names(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    marks = {"watch_history": {"wetter": "simulated", "device": "observed"}}
    (folder / "manifest.json").write_text(json.dumps({"columns": marks}))
    kinds = read_tables(folder).manifest["columns"]
    assert kinds == {"watch_history": {"weather": "simulated", "device": "observed"}}


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_written_tables_keep_their_context(tmp_path: Path, format: str) -> None:
    (tmp_path / "one").mkdir()
    folder = folder_of(tmp_path / "one")
    tables = read_tables(folder)
    write_tables(tables, tmp_path / "two", format)
    assert load(tmp_path / "two").own_dimensions == ("device",)
    with pytest.raises(DataError, match=r"holds columns\.yaml"):
        write_tables(tables, folder)


# Mistakes


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ("wach_history: {a: ignore}", "columns.yaml, 'wach_history': is not a known table. Use"),
        ("groups: {size: ignore}", "columns.yaml, groups: is no table of the folder"),
        ("watch_history: context", "columns.yaml, watch_history: is not of the form `column: ...`"),
        ("- device", "columns.yaml: is not of the form `table: ...`"),
        ("users: {plan: colour}", "users/plan: is 'colour', which is nothing known. Use one of"),
        ("users: {plan: 7}", "users/plan: is 7, which is nothing known"),
        ("users: {plan: [feature]}", "users/plan: is ['feature'], which is nothing known"),
        ("users: {plan: }", "users/plan: is None, which is nothing known"),
        ("users: {plan: weather}", "users/plan: is 'weather', which is nothing known"),
        ("users: {flat: ignore}", "users/flat: is no column of the table. It has user_id, plan"),
        ("users: {plan: context}", "users/plan: is context, which is for the table of events"),
        ("watch_history: {device: feature}", "device: is feature, which is for users and content"),
        ("watch_history: {wetter: timestamp}", "wetter: is timestamp, which is there already"),
        ("content: {title: feature}", "content/title: is a column of the schema. Leave it out"),
        ("content: {jahr: genres, title: genres}", "content/jahr: is genres, as another column is"),
        ("content: {jahr: genres, title: genres}", "content/title: is genres, as another column"),
        ("users: {plan: feature, plan: ignore}", "columns.yaml, line 1, plan: is there twice"),
        ("users: {plan: feature}\nusers: {notes: ignore}", "line 2, users: is there twice"),
        ("users: [plan", "columns.yaml: is not YAML"),
        (b"users: {plan: \xff}", "columns.yaml: is not YAML"),
        ("!!python/object/apply:os.getcwd []", "columns.yaml: is not YAML"),
        ("#" * (MOST_BYTES + 1), "columns.yaml: is bigger than 100,000 bytes"),
    ],
)
def test_mistakes_are_named_with_their_place_and_a_remedy(
    tmp_path: Path, mapping: str | bytes, expected: str
) -> None:
    assert expected in complaint(folder_of(tmp_path, mapping))


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("at", ["x", "y"], "is a reserved name"),
        ("region", ["x", "y"], "is a reserved name"),
        ("code", [f"{n}" for n in range(MOST_VALUES + 1)], f"has {MOST_VALUES + 1} values"),
        ("weather", ["x", "y"], "is a column of the schema"),
        ("daypart", ["x", "y"], "is a column of the schema"),
    ],
)
def test_not_every_column_can_be_a_dimension(
    tmp_path: Path, column: str, values: list[str], expected: str
) -> None:
    rows = [f"u1,c1,2026-01-31T20:15:00Z,{value}" for value in values]
    history = "\n".join([f"user_id,content_id,timestamp,{column}", *rows, ""])
    folder = folder_of(tmp_path, f"watch_history: {{{column}: context}}", watch_history=history)
    assert f"watch_history/{column}: {expected}" in complaint(folder)


def test_lists_can_be_no_dimension(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "watch_history: {device: context}")
    (folder / "watch_history.csv").unlink()
    frame = pd.DataFrame({"user_id": ["u1"], "content_id": ["c1"], "device": [["tv", "phone"]]})
    frame.assign(timestamp="2026-01-31T20:15:00Z").to_parquet(folder / "watch_history.parquet")
    assert "device: holds lists" in complaint(folder)


def test_context_of_reactions_beside_a_history_is_refused(tmp_path: Path) -> None:
    reactions = "user_id,content_id,timestamp,rating,mood\nu1,c1,2026-01-31T20:15:00Z,4,glad\n"
    mapping = MAPPING + "content_reactions: {mood: context}"
    folder = folder_of(tmp_path, mapping, content_reactions=reactions)
    assert "mood: is context, which is for the table of events. Use ignore" in complaint(folder)


def test_all_mistakes_are_told_at_once_but_no_consequences(tmp_path: Path) -> None:
    """The history lacks user_id as it stands, which a good mapping would mend."""
    folder = folder_of(tmp_path, MAPPING + "  title: nothing\nfriends: {a: ignore}\n")
    (folder / "weather.csv").write_text("")
    found = complaint(folder).splitlines()
    assert [line.split(":")[0] for line in found] == [
        "weather.csv",
        "columns.yaml, 'friends'",
        "columns.yaml, content/title",
    ]


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        ({"context": "device"}, "column context: is not a list of columns"),
        ({"context": [3]}, "column context: is not a list of columns"),
        ({"columns": ["device"]}, "column columns: does not list columns by table"),
        ({"columns": {"users": "device"}}, "column columns: does not list columns by table"),
    ],
)
def test_a_manifest_of_another_form_is_told(
    tmp_path: Path, manifest: dict[str, object], expected: str
) -> None:
    folder = folder_of(tmp_path, None)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert f"manifest.json, {expected}" in complaint(folder)


def test_check_takes_a_mapping(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, None)
    other = tmp_path / "mine.yaml"
    other.write_text(MAPPING)
    bad = CliRunner().invoke(app, ["check", str(folder)])
    assert bad.exit_code == 2
    good = CliRunner().invoke(app, ["check", str(folder), "--columns", str(other)])
    assert good.exit_code == 0, good.output
    assert good.output.splitlines()[-1] == "  context of its own: device"


# What a dimension of one's own does


@pytest.fixture(scope="module")
def phones(tables: Tables) -> Dataset:
    """The small world, where single titles are watched on one device each, at most times."""
    history = tables.watch_history
    item = history["content_id"].str.removeprefix("content").astype(int)
    usual = np.where(item // 2 % 2, "phone", "tv")
    other = np.where(item // 2 % 2, "tv", "phone")
    device = np.where(np.random.default_rng(0).random(len(item)) < 0.9, usual, other)
    manifest = {**tables.manifest, "context": ["device"]}
    watched = history.assign(device=pd.array(device, "str"))
    return Dataset.from_tables(replace(tables, watch_history=watched, manifest=manifest))


def asked(device: str) -> pd.DataFrame:
    return pd.DataFrame({"user": [0], "device": pd.array([device], "str")})


def test_a_boost_learns_a_dimension_of_the_datas_own(phones: Dataset) -> None:
    options = {"dimensions": (), "items": True, "strength": 1.0}
    step = ContextBoost("learned", **options).fit(phones)
    items = np.arange(phones.shape[1])
    of_tv = step(Slate(asked("tv"), items)).parts["context:device"][0]
    of_phone = step(Slate(asked("phone"), items)).parts["context:device"][0]
    for_tv = items // 2 % 2 == 0
    assert of_tv[for_tv].mean() > 0.2 > -0.2 > of_phone[for_tv].mean()
    assert step(Slate(asked("watch"), items)).parts == {}
    assert step(Slate(asked("tv").drop(columns="device"), items)).parts == {}
    without = ContextBoost("learned", own=False, **options).fit(phones)
    assert without(Slate(asked("tv"), items)).parts == {}


def test_rules_say_nothing_of_a_dimension_of_the_datas_own(phones: Dataset) -> None:
    rules = Rules((Rule("device", "tv", "genre", "Comedy", 3.0, "because"),))
    slate = Slate(asked("tv"), np.arange(phones.shape[1]))
    options = {"dimensions": (), "strength": 1.0}
    assert ContextBoost("rules", rules=rules, **options).fit(phones)(slate).parts == {}
    learned = ContextBoost("learned", **options).fit(phones)(slate).parts["context:device"]
    both = ContextBoost("rules+learned", **options).fit(phones)(slate).parts["context:device"]
    np.testing.assert_array_equal(both, learned)


def test_it_counts_in_joint_lifts_and_signals(phones: Dataset) -> None:
    boost = ContextBoost("learned", dimensions=(), joint=True, strength=1.0).fit(phones)
    assert boost.joint.dimensions == ("device",)
    slate = Slate(asked("tv"), np.arange(phones.shape[1]))
    parts = ContextSignals(dimensions=()).fit(phones)(slate).parts
    assert {"context:device/item", "context:joint/1"} <= parts.keys()
    assert not ContextSignals(dimensions=(), own=False, widths=()).fit(phones)(slate).parts


def test_requests_of_events_carry_it_through_a_chain(phones: Dataset) -> None:
    cut = phones.interactions["timestamp"].quantile(0.8)
    late = phones.interactions[phones.interactions["timestamp"] >= cut]
    split = each_event("late", phones.until(cut), late)
    step = chain(ContextBoost("learned", dimensions=(), strength=1.0)).fit(split.train)
    slate = step(Slate(split.requests, split.candidates))
    assert np.abs(slate.parts["context:device"]).max() > 0


def test_a_placebo_shuffles_it_within_each_user(phones: Dataset) -> None:
    shuffled = permuted_moments(phones, seed=0)
    counts = [each.interactions.groupby(["user", "device"]).size() for each in (phones, shuffled)]
    pd.testing.assert_series_equal(*counts)
    assert (shuffled.interactions["device"] != phones.interactions["device"]).mean() > 0.2
    assert list(with_moments(phones).interactions)[-7:] == [
        "daypart", "daytype", "season", "weather", "festival", "companion", "location",
    ]  # fmt: skip
