"""What each layer adds: planted effects are found, placebos are not, and reasons are given."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from firetv.artefacts import RESULT_COLUMNS, RESULT_KEY
from firetv.cli import app
from firetv.data import Dataset, Tables, load, write_tables
from firetv.evaluate import Run, run_all
from firetv.households import ever_watched
from firetv.layers import (
    AS_ONE,
    CONTEXT,
    FRIENDS,
    MEMBERS,
    PLACEBO,
    POPULAR,
    Bench,
    Evaluation,
    Settings,
    _questions,
    evaluate,
    verdict,
)
from firetv.slate import EMPTY
from firetv.splits import Split

ONE = Settings(seeds=(0,))
KINDS = 4  # of titles, which a context, a circle of friends or a household may be set on


def history(user: np.ndarray, item: np.ndarray) -> pd.DataFrame:
    """Events an hour apart."""
    hours = pd.to_timedelta(np.arange(len(user)), unit="h")
    return pd.DataFrame(
        {
            "user_id": [f"u{each}" for each in user],
            "content_id": [f"c{each}" for each in item],
            "timestamp": (pd.Timestamp("2024-01-01T00Z") + hours).astype("datetime64[us, UTC]"),
        }
    )


def of_kind(kind: np.ndarray, titles: int, rng: np.random.Generator) -> np.ndarray:
    """A title for each event, nine times in ten of the kind given: its number modulo KINDS."""
    kind = np.where(rng.random(len(kind)) < 0.1, rng.integers(KINDS, size=len(kind)), kind)
    return rng.integers(titles // KINDS, size=len(kind)) * KINDS + kind


def of_devices(events: int = 2400, people: int = 40) -> Tables:
    """Everybody watches what suits the device at hand: nothing else is known."""
    rng = np.random.default_rng(1)
    device = rng.integers(KINDS, size=events)
    events = history(rng.integers(people, size=events), of_kind(device, 80, rng))
    named = pd.array(np.array(["tv", "phone", "tablet", "car"])[device], "str")
    return Tables(events.assign(device=named), manifest={"name": "devices", "context": ["device"]})


def of_friends(circles: int = 40, titles: int = 10) -> Tables:
    """Friends, four at a time, watch the same ten titles; the fourth of them comes late."""
    rng, people = np.random.default_rng(2), 4 * circles
    user = np.repeat(np.arange(people), 5)
    item = np.concatenate([rng.permutation(titles)[:5] for _ in range(people)])
    order = np.argsort(rng.random(len(user)) + (user % 4 == 3), kind="stable")
    one, other = np.nonzero(np.kron(np.eye(circles), 1 - np.eye(4)))
    ties = {"user_id": [f"u{each}" for each in one], "friend_id": [f"u{each}" for each in other]}
    events = history(user[order], (item + user // 4 * titles)[order])
    return Tables(events, user_connections=pd.DataFrame(ties), manifest={"name": "friends"})


def of_groups(homes: int = 40, same_time: bool = False) -> Tables:
    """Households of two, whose members and whose own viewings are all of one kind."""
    rng = np.random.default_rng(3)
    kind = rng.integers(KINDS, size=homes)
    home, who = rng.integers(homes, size=4000), rng.integers(3, size=4000)
    events = history(home, of_kind(kind[home], 160, rng))
    letters = np.array(["a", "b", "g"])[who]  # g is the household itself
    events["user_id"] = [f"{letter}{n}" for letter, n in zip(letters, home, strict=True)]
    if same_time:
        events["timestamp"] = events["timestamp"].iloc[0]
    belongs = [(f"g{n}", f"{letter}{n}") for n in range(homes) for letter in "ab"]
    groups = pd.DataFrame(belongs, columns=["group_id", "user_id"])
    return Tables(events, groups=groups, manifest={"name": "homes"})


def found(tables: Tables, settings: Settings = ONE) -> Evaluation:
    return evaluate(Dataset.from_tables(tables), settings)


def lift(evaluation: Evaluation, layer: str, model: str, over: str | None = None) -> pd.Series:
    rows = evaluation.lifts().query("layer == @layer and model == @model")
    return rows[rows["over"] == (over or evaluation.base)].iloc[0]


@pytest.fixture(scope="module")
def devices() -> Evaluation:
    return found(of_devices(), Settings(seeds=(0, 1)))


@pytest.fixture(scope="module")
def friends() -> Evaluation:
    return found(of_friends())


@pytest.fixture(scope="module")
def homes() -> Evaluation:
    return found(of_groups())


# Planted effects


def test_a_planted_dimension_of_ones_own_is_found_and_its_placebo_is_not(
    devices: Evaluation,
) -> None:
    told, blind = (lift(devices, "context", model) for model in (CONTEXT, PLACEBO))
    assert told["low"] > 0.05
    assert told["verdict"] == "helps"
    assert blind["low"] <= 0
    assert blind["high"] < told["low"] / 3


def test_planted_friends_are_found_and_somebody_elses_are_not(friends: Evaluation) -> None:
    told, blind = (lift(friends, "friends", model) for model in (FRIENDS, PLACEBO))
    assert told["low"] > 0.01
    assert blind["low"] <= 0
    assert blind["high"] < told["low"]


@pytest.mark.parametrize("same_time", [False, True])
def test_planted_households_are_found_and_others_are_not(
    homes: Evaluation, same_time: bool
) -> None:
    evaluation = found(of_groups(same_time=True)) if same_time else homes
    told, blind = (lift(evaluation, "groups", model, POPULAR) for model in (MEMBERS, PLACEBO))
    assert told["low"] > 0.05
    assert blind["high"] < told["low"]
    split = "clean, 100 others" if same_time else "temporal"
    results = evaluation.results
    assert set(results.loc[results["section"].str.startswith("groups"), "split"]) == {split}
    assert lift(evaluation, "groups", MEMBERS, AS_ONE)["n"] == told["n"] <= 40


@pytest.mark.parametrize("tables", [of_devices, of_groups])
def test_a_base_is_chosen_within_the_training_part(
    tables: Callable[[], Tables], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Split] = []

    def spy(models: object, split: Split, *options: object) -> list[Run]:
        asked.append(split)
        return run_all(models, split, *options)

    monkeypatch.setattr("firetv.layers.run_all", spy)
    bench = Bench.of(Dataset.from_tables(tables()), ONE)
    (inner,) = asked
    known = bench.split.train.matrix()
    assert inner.train.interactions["timestamp"].max() < inner.requests["at"].min()
    assert inner.requests["at"].max() < bench.split.requests["at"].min()
    row, item = inner.relevant.nonzero()
    assert known[inner.requests["user"].to_numpy()[row], item].all()


def test_what_groups_watched_is_asked_of_no_person() -> None:
    bench = Bench.of(Dataset.from_tables(of_groups()), ONE)
    names = bench.data.user_ids[bench.split.requests["user"]]
    assert not names.str.startswith("g").any()
    assert len(bench.rows) == 40
    assert not bench.split.train.interactions["user"].isin(bench.rows).any()
    assert bench.train.interactions["user"].isin(bench.rows).any()


def test_without_times_nothing_that_a_household_watched_stands_beside_a_title() -> None:
    data = Dataset.from_tables(of_groups(same_time=True))
    questions, split, _ = _questions(Bench.of(data, ONE))
    assert split == "clean, 100 others"
    ever = ever_watched(data)
    places = np.nonzero(
        (questions.items != EMPTY) & (questions.items != questions.watched[:, None])
    )
    assert len(places[0]) > 1000
    assert not ever[questions.row[places[0]], questions.items[places]].any()
    assert not ever_watched(questions.train)[questions.row, questions.watched].any()


def test_columns_that_mean_nothing_here_do_no_harm(tables: Tables) -> None:
    """Some have the names of columns that requests have."""
    odd = tables.watch_history.assign(at="x", known="y", session=1)
    ties = [(f"user{n}", f"user{(n + 2) % 30}") for n in range(30)]
    friends = pd.DataFrame(ties, columns=["user_id", "friend_id"])
    drawn = np.where(np.arange(600) % 3, "rainy", "sunny")
    changed = with_context(replace(tables, user_connections=friends), "weather", drawn)
    odd = replace(
        changed, watch_history=changed.watch_history.join(odd[["at", "known", "session"]])
    )
    pd.testing.assert_frame_equal(found(odd).results, found(changed).results)


# Which layers, and why not


@pytest.mark.parametrize(
    ("evaluation", "layers"),
    [
        ("devices", ["base", "context"]),
        ("friends", ["base", "friends"]),
        ("homes", ["base", "groups"]),
    ],
)
def test_layers_are_those_that_the_tables_allow(
    evaluation: str, layers: list[str], request: pytest.FixtureRequest
) -> None:
    found = request.getfixturevalue(evaluation)
    assert [layer.name for layer in found.layers] == layers
    reasons = {
        "context": "the table of events has no column of the context",
        "friends": "there is no table user_connections",
        "groups": "there is no table groups",
    }
    missing = [name for name in reasons if name not in layers]
    assert found.left_out == {name: reasons[name] for name in missing}
    shown = str(found).splitlines()
    assert shown[-len(missing) :] == [f"no {name}: {reasons[name]}" for name in missing]


def with_context(tables: Tables, column: str, values: object, kind: str | None = None) -> Tables:
    events = tables.watch_history.assign(**{column: pd.array(values, "str")})
    kinds = {"columns": {"watch_history": {column: kind}}} if kind else {}
    return replace(tables, watch_history=events, manifest={**tables.manifest, **kinds})


@pytest.mark.parametrize(
    ("change", "layer", "reason"),
    [
        (
            lambda t: with_context(t, "weather", ["rainy"] * 600),
            "context",
            "weather: one value only, or fewer than 30 events to learn",
        ),
        (
            lambda t: with_context(t, "weather", ["rainy", "sunny"] + [None] * 598),
            "context",
            "weather: one value only",
        ),
        (lambda t: t, "friends", "1 people with friends have something to find"),
        (lambda t: t, "groups", "no group_id is a user_id with later events"),
        (
            lambda t: replace(t, groups=t.groups.assign(group_id="user5")),
            "groups",
            "0 groups have something to find",
        ),
    ],
)
def test_what_is_too_little_is_left_out_with_a_reason(
    tables: Tables, change: Callable[[Tables], Tables], layer: str, reason: str
) -> None:
    assert found(change(tables)).left_out[layer].startswith(reason)


def test_simulated_context_serves_only_where_none_was_observed(tables: Tables) -> None:
    drawn = np.where(np.arange(600) % 3, "rainy", "sunny")
    simulated = with_context(tables, "weather", drawn, "simulated")
    evaluation = found(simulated)
    (layer,) = [each for each in evaluation.layers if each.name.startswith("context")]
    assert layer.name == "context (simulated)"
    assert "each in its own weather" in layer.asked
    both = with_context(simulated, "companion", drawn)
    kinds = simulated.manifest | {"columns": {"watch_history": {"weather": "simulated"}}}
    (layer,) = [
        each for each in found(replace(both, manifest=kinds)).layers if "context" in each.name
    ]
    assert layer.name == "context"
    assert layer.asked.endswith("each in its own companion")


def test_features_are_tried_where_they_tell_people_or_titles_apart(tables: Tables) -> None:
    models = set(found(tables).results["model"])
    assert {POPULAR, "LightFM", "LightFM + features"} <= models
    alike = tables.content[["content_id"]].assign(content_type="movie")
    plain = found(replace(tables, users=None, content=alike))
    assert "LightFM + features" not in set(plain.results["model"])


@pytest.mark.parametrize("people", [1, 5])
def test_data_too_small_for_anything_is_one_error(tables: Tables, people: int) -> None:
    events = tables.watch_history
    few = events[events["user_id"].isin([f"user{n}" for n in range(people)])]
    small = Tables(few.reset_index(drop=True), manifest={"name": "small"})
    with pytest.raises(ValueError, match="small is too small to be evaluated: "):
        found(small)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"seeds": ()}, "1 seed or more"),
        ({"k": 0}, "1 title or more"),
        ({"test_share": 1.0}, "test share 1.0"),
        ({"test_share": float("nan")}, "test share nan"),
    ],
)
def test_impossible_settings_are_told(wrong: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Settings(**wrong)


# Results


@pytest.mark.parametrize("evaluation", ["devices", "friends", "homes"])
def test_results_have_the_form_of_artefacts(
    evaluation: str, request: pytest.FixtureRequest
) -> None:
    results = request.getfixturevalue(evaluation).results
    assert set(results) == set(RESULT_COLUMNS)
    assert not results.duplicated(RESULT_KEY).any()
    assert (results["low"] <= results["value"] + 1e-12).all()
    assert (results["value"] <= results["high"] + 1e-12).all()
    assert {"ndcg@10", "hr@10"} <= set(results["metric"])


def test_lifts_are_the_paired_differences_of_the_values(devices: Evaluation) -> None:
    (layer,) = [each for each in devices.layers if each.name == "context"]
    values = layer.values[layer.values["metric"] == "ndcg@10"]
    mean = values.groupby("model")["value"].mean()
    row = lift(devices, "context", CONTEXT)
    assert row["value"] == pytest.approx(mean[CONTEXT] - mean[devices.base])
    shown = devices.results.query("section == 'context' and metric == 'ndcg@10'")
    assert shown.set_index("model")["value"][CONTEXT] == pytest.approx(mean[CONTEXT])
    assert set(shown["seeds"]) == {2}
    assert (values.groupby(["model", "seed"]).size() == values["request"].nunique()).all()


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 0.2, "helps"),
        (-0.2, -0.1, "hurts"),
        (0.0, 0.1, "no difference shown"),
        (-0.1, 0.0, "no difference shown"),
        (np.nan, np.nan, "no difference shown"),
    ],
)
def test_a_verdict_follows_the_interval(low: float, high: float, said: str) -> None:
    assert verdict(low, high) == said


# The command


def firetv(*words: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CSV files with columns of their own, and what they are."""
    path = tmp_path_factory.mktemp("shop")
    events = of_devices(1600, 30).watch_history.rename(columns={"user_id": "kunde"})
    events["timestamp"] = events["timestamp"].dt.strftime("%Y-%m-%dT%H:%M:%S+00:00")
    events.assign(session=range(len(events))).to_csv(path / "watch_history.csv", index=False)
    people = pd.DataFrame({"user_id": [f"u{n}" for n in range(30)]})
    people.assign(plan=["gold", "basic"] * 15).to_csv(path / "users.csv", index=False)
    (path / "columns.yaml").write_text(
        "watch_history: {kunde: user_id, device: context, session: ignore}\n"
        "users: {plan: feature}\n"
    )
    return path


def test_a_folder_of_csv_files_becomes_a_table(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "found.json"
    given = (folder, "--seeds", 1, "--k", 5)
    result = firetv(*given, "--out", out)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"{folder.name}, 1600 events"
    header = next(line for line in lines if line.startswith("layer"))
    assert header.split()[-1] == "verdict"
    assert "lift in nDCG@5, 1 seed" in header
    (row,) = [line for line in lines if CONTEXT in line]
    assert row.startswith("context") and row.endswith("helps")
    assert "LightFM + features" in result.stdout
    assert "no friends: there is no table user_connections" in lines
    first = out.read_bytes()
    document = json.loads(first)
    assert list(document) == ["params", "data", "results", "claims"]
    assert set(document["results"][0]) == set(RESULT_COLUMNS)
    assert document["params"]["left_out"]["groups"] == "there is no table groups"
    assert document["data"]["rows"] == 1600
    assert any(claim["holds"] and CONTEXT in claim["text"] for claim in document["claims"])
    again = firetv(*given, "--out", out)
    assert again.stdout == result.stdout
    assert out.read_bytes() == first
    assert [path.name for path in out.parent.iterdir()] == ["found.json"]


def test_the_mapping_decides_what_is_measured(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("watch_history: {kunde: user_id}\n")
    result = firetv(folder, "--columns", other, "--seeds", 1)
    assert result.exit_code == 0, result.output
    assert "no context: the table of events has no column of the context" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nowhere", "nowhere: is not a folder"),
        ("FOLDER --columns nowhere.yaml", "nowhere.yaml: cannot be read"),
        ("FOLDER --out FOLDER", "is a folder. Name a file."),
        ("FOLDER --test-share 0", "test share 0.0 is not between 0 and 1"),
        ("FOLDER --seeds 0", "Invalid value for '--seeds'"),
        ("FOLDER --k 0", "Invalid value for '--k'"),
    ],
)
def test_mistakes_are_named_without_a_traceback(folder: Path, words: str, message: str) -> None:
    result = firetv(*words.replace("FOLDER", str(folder)).split())
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_folder_that_is_too_small_is_one_plain_error(tmp_path: Path, tables: Tables) -> None:
    small = Tables(tables.watch_history[:5], manifest={"name": "small"})
    write_tables(small, tmp_path)
    assert load(tmp_path).shape[0] <= 5
    result = firetv(tmp_path, "--out", tmp_path / "found.json")
    assert result.exit_code == 2
    assert result.output.strip().splitlines()[-1].startswith("small is too small to be evaluated:")
    assert not (tmp_path / "found.json").exists()
