from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from scipy import stats

from firetv import synthetic
from firetv.data import Tables, read_tables, write_tables
from firetv.schema import DataError
from firetv.synthetic import generate, read_truth, simulate
from firetv.world import CONTEXTS, GENRES, Truth, World, context_codes

TINY = World(users=40, content=60, watch_events=3000, days=70, influence=0.3, seed=7)


@pytest.fixture(scope="module")
def tiny() -> tuple[Tables, Truth]:
    return simulate(TINY)


def codes(ids: pd.Series) -> np.ndarray:
    return ids.str.extract(r"(\d+)$")[0].to_numpy(int) - 1


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def daypart(hour: int) -> str:
    if 6 <= hour < 12:
        return "morning"
    if 12 <= hour < 18:
        return "afternoon"
    return "evening" if 18 <= hour < 23 else "night"


def naive_probabilities(tables: Tables, truth: Truth, event: pd.Series) -> np.ndarray:
    """The law in the docstring of `firetv.world`, item by item."""
    at = event["timestamp"]
    context = {
        "daypart": daypart(at.hour),
        "daytype": "weekend" if at.day_name() in ("Saturday", "Sunday") else "weekday",
        **{name: event.get(name) for name in ("weather", "festival", "companion")},
    }
    user = int(event["user_id"].removeprefix("user")) - 1
    weights = []
    for item, genres in enumerate(tables.content["genres"]):
        lift = sum(
            np.mean([truth.lifts[name].loc[value, genre] for genre in genres])
            for name, value in context.items()
            if pd.notna(value)
        )
        match = sum(truth.user_taste[user] * truth.item_taste[item])
        weights.append(truth.popularity[item] * match * np.exp(lift))
    return np.array(weights) / sum(weights)


def naive_copies(tables: Tables, event: pd.Series) -> dict[str, float]:
    """Strength-weighted viewings by friends in the week before, as shares."""
    ties, history = tables.user_connections, tables.watch_history
    ties = ties[ties["user_id"] == event["user_id"]].set_index("friend_id")["strength"]
    week = (history["timestamp"] - pd.Timestamp(TINY.start, tz="UTC")).dt.days // 7
    before = history[(week == week[event.name] - 1) & history["user_id"].isin(ties.index)]
    weight = before["user_id"].map(ties).astype(float).groupby(before["content_id"]).sum()
    return (weight / weight.sum()).to_dict()


# ------------------------------------------------------------------ files


def test_same_parameters_give_the_same_bytes(tmp_path: Path) -> None:
    for name, world in {"a": TINY, "b": TINY, "c": replace(TINY, seed=8)}.items():
        generate(world, tmp_path / name)
    first, again, other = (content_of(tmp_path / name) for name in "abc")
    assert first == again
    assert first.keys() == other.keys()
    assert not [name for name in first if first[name] == other[name]]


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_files_hold_what_simulate_returns(
    tmp_path: Path, tiny: tuple[Tables, Truth], format: str
) -> None:
    generate(TINY, tmp_path, format)
    tables, truth = read_tables(tmp_path), read_truth(tmp_path)
    assert tables.present().keys() == tiny[0].present().keys()
    for name, table in tiny[0].present().items():
        assert_frame_equal(tables.present()[name], table, obj=name)
    assert {n: len(t) for n, t in tables.present().items()} == tables.manifest["rows"]
    assert tables.manifest["columns"] == tiny[0].manifest["columns"]
    assert tables.manifest["checksum"] == tiny[0].manifest["checksum"]
    assert truth.world == TINY
    assert_frame_equal(truth.watch, tiny[1].watch)
    for name in CONTEXTS:
        assert_frame_equal(truth.lifts[name], tiny[1].lifts[name])
    for name in ("user_taste", "item_taste", "popularity", "activity", "item_class"):
        assert np.array_equal(getattr(truth, name), getattr(tiny[1], name))


def test_tables_pass_the_schema(tmp_path: Path, tiny: tuple[Tables, Truth]) -> None:
    write_tables(tiny[0], tmp_path)
    assert_frame_equal(read_tables(tmp_path).watch_history, tiny[0].watch_history)
    assert set(tiny[0].manifest["columns"]["watch_history"].values()) == {"simulated"}


def test_chunk_size_has_no_effect(
    tiny: tuple[Tables, Truth], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "CHUNK", 97)
    tables, truth = simulate(TINY)
    assert_frame_equal(tables.watch_history, tiny[0].watch_history)
    assert_frame_equal(tables.content_reactions, tiny[0].content_reactions)
    assert_frame_equal(truth.watch, tiny[1].watch, check_exact=True)


def test_an_interrupted_run_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate(TINY, tmp_path)
    before, times = content_of(tmp_path), synthetic._times

    def stop_in_week_3(world: World, week: int, counts: np.ndarray) -> np.ndarray:
        if week == 3:
            raise KeyboardInterrupt
        return times(world, week, counts)

    monkeypatch.setattr(synthetic, "_times", stop_in_week_3)
    with pytest.raises(KeyboardInterrupt):
        generate(replace(TINY, seed=8), tmp_path)
    assert content_of(tmp_path) == before


def test_tables_that_a_world_lacks_do_not_linger(tmp_path: Path) -> None:
    generate(TINY, tmp_path)
    generate(replace(TINY, friends=0, reaction_share=0, companion=False), tmp_path)
    tables = read_tables(tmp_path)
    assert tables.user_connections is None
    assert tables.content_reactions is None
    assert "companion" not in tables.watch_history


def test_tables_in_another_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / "users.parquet").touch()
    with pytest.raises(DataError, match=r"users\.parquet"):
        generate(TINY, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["users.parquet"]


def test_a_world_in_parquet_is_replaced_by_another_in_parquet_alone(tmp_path: Path) -> None:
    generate(TINY, tmp_path, "parquet")
    generate(replace(TINY, friends=0), tmp_path, "parquet")
    assert read_tables(tmp_path).user_connections is None
    with pytest.raises(DataError, match=r"already holds users\.parquet"):
        generate(TINY, tmp_path)


def test_truth_needs_a_generated_world(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no truth\.json"):
        read_truth(tmp_path)


# ------------------------------------------------------------------ parameters


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"users": 0}, "users must be from 1"),
        ({"seed": -1}, "seed must be from 0"),
        ({"influence": 1.5}, "influence must be from 0 to 1"),
        ({"homophily": float("nan")}, "homophily must be from 0"),
        ({"start": "last May"}, "start must be a date"),
        ({"start": "2025-06-01"}, "2025-06-01 to 2026-05-30"),
        ({"start": "1998-01-01"}, "must lie in 2024-01-01 to 2025-12-31"),
    ],
)
def test_parameters_out_of_range_are_named(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        World(**change)


def test_all_wrong_parameters_are_named_at_once() -> None:
    with pytest.raises(DataError) as error:
        World(users=0, days=0, start="")
    assert [problem.split()[1] for problem in error.value.problems] == ["users", "days", "start"]


def test_the_smallest_world_works() -> None:
    tables, truth = simulate(World(users=1, content=1, watch_events=1, days=1, dimensions=1))
    assert len(tables.watch_history) == 1
    assert truth.watch["propensity"].tolist() == [1.0]


# ------------------------------------------------------------------ choices


def test_own_choices_follow_the_definition() -> None:
    world = replace(TINY, influence=0)
    tables, truth = simulate(world)
    history = tables.watch_history
    festive = history.index[history["festival"].notna()][:20]
    rows = np.union1d(np.arange(0, len(history), 200), festive)
    sample = history.iloc[rows]
    users, items = codes(sample["user_id"]), codes(sample["content_id"])
    naive = np.array([naive_probabilities(tables, truth, event) for _, event in sample.iterrows()])
    exact = truth.probabilities(users, sample)
    assert exact == pytest.approx(naive, rel=1e-9)
    assert exact.sum(axis=1) == pytest.approx(1)
    logged = truth.watch["propensity"].to_numpy()[rows]
    assert logged == pytest.approx(naive[np.arange(len(rows)), items], rel=1e-9)


def test_choices_occur_as_often_as_their_probabilities_say() -> None:
    world = World(
        users=3,
        content=10,
        watch_events=60_000,
        days=28,
        dimensions=4,
        taste_strength=2,
        influence=0,
        seed=4,
    )
    tables, truth = simulate(world)
    users, items = codes(tables.watch_history["user_id"]), codes(tables.watch_history["content_id"])
    expected, observed = np.zeros((2, 3, 10))
    np.add.at(expected, users, truth.probabilities(users, tables.watch_history))
    np.add.at(observed, (users, items), 1)
    assert expected.min() > 5
    assert stats.chisquare(observed, expected, axis=1).pvalue.min() > 0.001


def test_copies_follow_the_definition(tiny: tuple[Tables, Truth]) -> None:
    tables, truth = tiny
    for row in range(0, TINY.watch_events, 100):
        event = tables.watch_history.iloc[row]
        item = event["content_id"]
        own = naive_probabilities(tables, truth, event)[codes(pd.Series([item]))[0]]
        copies, logged = naive_copies(tables, event), truth.watch.iloc[row]
        if copies:
            own = (1 - TINY.influence) * own + TINY.influence * copies.get(item, 0)
        assert logged["propensity"] == pytest.approx(own, rel=1e-9)
        assert item in copies or not logged["copied"]


def test_copying_happens_as_often_as_planted(tiny: tuple[Tables, Truth]) -> None:
    tables, truth = tiny
    history = tables.watch_history
    week = (history["timestamp"] - pd.Timestamp(TINY.start, tz="UTC")).dt.days // 7
    active = set(zip(history["user_id"], week, strict=True))
    friends = tables.user_connections.groupby("user_id")["friend_id"].agg(list).to_dict()
    exposed = np.array(
        [
            any((friend, before) in active for friend in friends.get(user, []))
            for user, before in zip(history["user_id"], week - 1, strict=True)
        ]
    )
    copied = truth.watch["copied"].to_numpy()
    assert not copied[~exposed].any()
    assert stats.binomtest(copied[exposed].sum(), exposed.sum(), TINY.influence).pvalue > 0.001


def test_copies_occur_as_often_as_their_probabilities_say() -> None:
    world = World(
        users=6,
        content=8,
        watch_events=20_000,
        days=14,
        taste_strength=2,
        friends=4,
        influence=1,
        seed=10,
    )
    tables, truth = simulate(world)
    history, copied = tables.watch_history, truth.watch["copied"]
    ties = tables.user_connections.pivot(index="user_id", columns="friend_id", values="strength")
    second = history["timestamp"] >= pd.Timestamp("2024-01-08", tz="UTC")
    viewed, copies = (
        pd.crosstab(h["user_id"], h["content_id"]) for h in (history[~second], history[copied])
    )
    expected = ties.fillna(0) @ viewed.reindex(ties.columns)
    expected = expected.mul(copies.sum(axis=1) / expected.sum(axis=1), axis=0)
    expected, copies = expected.align(copies, fill_value=0)
    assert copied.sum() > 5000
    assert stats.chisquare(copies, expected, axis=1).pvalue.min() > 0.001


def test_without_influence_nothing_is_copied_and_the_rest_stays(
    tiny: tuple[Tables, Truth],
) -> None:
    tables, truth = simulate(replace(TINY, influence=0))
    assert not truth.watch["copied"].any()
    own = ~tiny[1].watch["copied"]
    assert_frame_equal(
        tables.watch_history[own], tiny[0].watch_history[own], obj="events that were not copied"
    )
    assert_frame_equal(tables.user_connections, tiny[0].user_connections)


# ------------------------------------------------------------------ context


@pytest.fixture(scope="module", params=[0.0, 1.0])
def counted(request: pytest.FixtureRequest) -> tuple[pd.DataFrame, np.ndarray, Truth]:
    """Where users and titles are alike, the lifts are all there is to see."""
    world = World(
        users=50,
        content=400,
        watch_events=120_000,
        taste_strength=0,
        popularity_skew=0,
        influence=0,
        context_strength=request.param,
    )
    tables, truth = simulate(world)
    events = tables.watch_history
    labels = {
        "daypart": events["timestamp"].dt.hour.map(daypart),
        "daytype": (events["timestamp"].dt.day_of_week >= 5).map(
            {True: "weekend", False: "weekday"}
        ),
    }
    return events.assign(**labels), truth.item_class[codes(events["content_id"])], truth


ALIKE = {"daypart": ("daytype", "weekday"), "daytype": ("daypart", "evening")}


def centred(table: np.ndarray) -> np.ndarray:
    return table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()


@pytest.mark.parametrize("dimension", CONTEXTS)
def test_planted_lifts_are_recovered_by_counting(
    dimension: str, counted: tuple[pd.DataFrame, np.ndarray, Truth]
) -> None:
    events, classes, truth = counted
    if dimension in ALIKE:  # hours differ between weekdays and weekends: compare like with like
        alike = events[ALIKE[dimension][0]] == ALIKE[dimension][1]
        events, classes = events[alike], classes[alike]
    counts = pd.crosstab(events[dimension], classes)
    counts = counts[counts.sum(axis=1) > 1000]
    counts = counts.loc[:, counts.min() >= 10]
    planted = (
        truth.lifts[dimension].loc[counts.index].to_numpy() @ truth.class_genres[counts.columns].T
    )
    seen, error = np.log(counts.to_numpy()), 1 / np.sqrt(counts.to_numpy())
    freedom = (counts.shape[0] - 1) * (counts.shape[1] - 1)
    misfit = np.sum((centred(seen - planted) / error) ** 2) / freedom
    without = np.sum((centred(seen) / error) ** 2) / freedom
    assert misfit < 1.6
    assert (without > 3) == (truth.world.context_strength > 0)


def test_appeal_is_a_logit_in_match_lift_and_popularity(tiny: tuple[Tables, Truth]) -> None:
    truth, rng = tiny[1], np.random.default_rng(0)
    users = rng.integers(len(truth.user_taste), size=7)
    items = rng.integers(len(truth.popularity), size=(7, 3))
    events = pd.DataFrame({"companion": ["family"] * 7, "weather": ["rainy"] * 7})
    found = truth.appeal(users, context_codes(events), items)
    titles = len(truth.popularity)
    for row, user in enumerate(users):
        for slot, item in enumerate(items[row]):
            genres = truth.class_genres[truth.item_class[item]]
            lift = sum(
                truth.lifts[name].loc[value].to_numpy() @ genres
                for name, value in [("companion", "family"), ("weather", "rainy")]
            )
            match = truth.user_taste[user] @ truth.item_taste[item]
            logit = -2 + np.log(match) + lift + 0.2 * np.log(truth.popularity[item] * titles)
            assert found[row, slot] == pytest.approx(1 / (1 + np.exp(-logit)))
    shared = truth.appeal(users, context_codes(events), items[0])
    np.testing.assert_allclose(shared[0], found[0])
    assert shared.shape == (7, 3)


def test_lifts_are_centred_and_scale(tiny: tuple[Tables, Truth]) -> None:
    double = simulate(replace(TINY, watch_events=1, context_strength=2))[1]
    for name, values in CONTEXTS.items():
        lift = tiny[1].lifts[name]
        assert tuple(lift.index) == values
        assert lift.mean(axis=1).to_numpy() == pytest.approx(0, abs=1e-12)
        assert_frame_equal(double.lifts[name], lift * 2)


def test_unknown_context_lifts_nothing(tiny: tuple[Tables, Truth]) -> None:
    nothing = pd.DataFrame({"weather": ["foggy", None]}, index=[5, 9])
    assert context_codes(nothing)[0] == context_codes(nothing)[1] == len(tiny[1].class_lifts()) - 1
    assert not tiny[1].class_lifts()[-1].any()


def test_weather_and_festivals_agree_with_region_and_date(tiny: tuple[Tables, Truth]) -> None:
    tables = tiny[0]
    events = tables.watch_history.merge(tables.users[["user_id", "region"]])
    date = events["timestamp"].dt.tz_localize(None).dt.normalize()
    joined = events.assign(date=date).merge(tables.weather, how="left")
    assert (joined["weather"] == joined["condition"]).all()
    assert joined.groupby("date")["festival"].nunique(dropna=False).max() == 1


@pytest.mark.parametrize(
    ("day", "festival"),
    [
        ("2024-01-01", "New Year"),
        ("2024-02-14", "Valentine's Day"),
        ("2024-02-15", None),
        ("2024-10-31", "Halloween"),
        ("2024-11-01", "Diwali"),
        ("2024-12-17", None),
        ("2024-12-18", "Christmas"),
        ("2024-12-31", "New Year"),
        ("2025-10-20", "Diwali"),
    ],
)
def test_festivals_fall_on_their_days(day: str, festival: str | None) -> None:
    tables, _ = simulate(World(users=2, content=5, watch_events=3, days=1, start=day))
    shown = tables.watch_history["festival"]
    assert shown.isna().all() if festival is None else (shown == festival).all()


# ------------------------------------------------------------------ people and titles


def friend_similarity(homophily: float, seed: int) -> float:
    """Mean cosine of friends' tastes, less that of random pairs."""
    world = World(users=600, content=20, watch_events=1, homophily=homophily, seed=seed)
    tables, truth = simulate(world)
    unit = truth.user_taste / np.linalg.norm(truth.user_taste, axis=1, keepdims=True)
    ties = tables.user_connections
    friends = np.sum(unit[codes(ties["user_id"])] * unit[codes(ties["friend_id"])], axis=1)
    return friends.mean() - (unit @ unit.T).mean()


def test_homophily_makes_friends_alike() -> None:
    none, some, strong = ([friend_similarity(h, seed) for seed in range(2)] for h in (0, 2, 6))
    assert np.abs(none).max() < 0.02
    assert min(some) > 0.1
    assert min(strong) > max(some) + 0.1


def test_friendships_are_mutual_and_uneven() -> None:
    tables, _ = simulate(World(users=3000, content=20, watch_events=1))
    ties = tables.user_connections.set_index(["user_id", "friend_id"])["strength"]
    assert ties.index.is_unique
    assert (ties.index.get_level_values(0) != ties.index.get_level_values(1)).all()
    assert ties.swaplevel().reindex(ties.index).equals(ties)
    assert ties.between(0, 1).all()
    degree = ties.groupby("user_id").size()
    assert len(ties) / 3000 == pytest.approx(World.friends, rel=0.1)
    assert degree.quantile(0.99) > 2 * degree.median()


def test_households_are_disjoint_and_live_together() -> None:
    tables, _ = simulate(World(users=2000, content=20, watch_events=1))
    homes = tables.groups.merge(tables.users)
    assert homes["user_id"].is_unique
    assert len(homes) == 2000
    assert homes.groupby("group_id")["region"].nunique().max() == 1
    sizes = homes.groupby("group_id").size().value_counts()
    assert set(sizes.index) == {1, 2, 3, 4, 5, 6}
    assert sizes[2] > sizes[4] > sizes[6]


def test_titles_are_unique_and_every_genre_has_some() -> None:
    tables, truth = simulate(World(users=2, content=20_000, watch_events=1))
    content = tables.content
    assert content["title"].is_unique
    assert set(content["genres"].explode()) == set(GENRES)
    assert set(content["content_type"]) == {"movie", "series", "news", "sport", "kids"}
    minutes = content.groupby("content_type")["duration_minutes"].mean()
    assert minutes["kids"] < minutes["series"] < minutes["movie"]
    shares = pd.DataFrame(truth.class_genres, columns=GENRES).loc[truth.item_class]
    named = [set(row) for row in content["genres"]]
    columns = np.array(GENRES)
    assert named[:500] == [set(columns[row > 0]) for row in shares.to_numpy()[:500]]


# ------------------------------------------------------------------ events


def test_events_are_complete_ordered_and_in_range(tiny: tuple[Tables, Truth]) -> None:
    history, truth = tiny[0].watch_history, tiny[1]
    assert len(history) == len(truth.watch) == TINY.watch_events
    assert history["timestamp"].is_monotonic_increasing
    days = history["timestamp"].dt.tz_localize(None).dt.normalize()
    assert days.isin(TINY.dates).all()
    assert days.nunique() == TINY.days
    assert truth.watch["propensity"].between(0, 1, inclusive="right").all()


def test_people_finish_and_love_what_matches_their_taste() -> None:
    tables, truth = simulate(World(users=200, content=300, watch_events=20_000))

    def match(events: pd.DataFrame) -> pd.Series:
        taste = truth.user_taste[codes(events["user_id"])]
        likes = np.sum(taste * truth.item_taste[codes(events["content_id"])], axis=1)
        return pd.Series(np.log(likes), events.index)

    history, reactions = tables.watch_history, tables.content_reactions
    assert history["completion"].corr(match(history), method="spearman") > 0.4
    assert reactions["rating"].corr(match(reactions), method="spearman") > 0.4
    assert len(reactions) / len(history) == pytest.approx(World.reaction_share, abs=0.02)
    assert (reactions["rating"] * 2 % 1 == 0).all()
    lowest = reactions.groupby("reaction")["rating"].agg(["min", "max"])
    assert lowest.loc["love", "min"] == 4.5
    assert lowest.loc["like"].tolist() == [3, 4]
    assert lowest.loc["dislike", "max"] == 2.5
    keys = ["user_id", "content_id", "timestamp"]
    assert len(reactions.merge(history[keys].drop_duplicates())) == len(reactions)
