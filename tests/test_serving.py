"""Commands of the assembled recommender, as a terminal has them."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import uvicorn
from conftest import make_rich_tables
from typer.testing import CliRunner, Result

from firetv import api, tuning
from firetv import packaged as module
from firetv.cli import app
from firetv.data import write_tables
from firetv.lists import Newcomer
from firetv.moments import Context
from firetv.packaged import base_model, blend, packaged
from firetv.recommender import Recommender
from firetv.storage import DOCUMENT

CLOCK = ("--zone", "Europe/Berlin", "--country", "DE")


def firetv(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables")
    write_tables(make_rich_tables(), path)
    return path


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A trained model's folder, and what was said of it."""
    out = tmp_path_factory.mktemp("models") / "new" / "model"
    said = firetv("train", "--data", folder, "--out", out, "--base", "ease", *CLOCK)
    assert said.exit_code == 0, said.output
    return out, said


@pytest.fixture(scope="module")
def made(trained: tuple[Path, Result]) -> Recommender:
    return Recommender.load(trained[0])


@pytest.fixture
def ask(trained: tuple[Path, Result]) -> Callable[..., Result]:
    return lambda *words: firetv("recommend", "--model", trained[0], *words)


def listed(result: Result) -> list[dict]:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# Training


def described(made: Recommender) -> dict[str, object]:
    """What a document says of a tuned base, of the fields that are tuned."""
    weighted = made.about["parameters"]["base"]["Newcomers"]["model"]["Weighted"]
    ((name, own),) = weighted["model"].items()
    fields = own | weighted
    return {field: fields[field] for field in tuning.SPACES[name.lower()]}


@pytest.mark.parametrize("name", ["lightfm", "ease", "als", "bpr", "itemknn"])
def test_base_models_are_the_packaged_ones(name: str) -> None:
    assert base_model(name) == packaged(name)
    assert base_model("blend") == blend()


def test_a_blend_can_be_trained_and_asked(folder: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path, "--context", "off", "--friends", "off")
    said = firetv("train", "--data", folder, *out, "--base", "blend")
    assert said.exit_code == 0, said.output
    found = Recommender.load(tmp_path)
    assert set(found.base.weights) <= {"ease", "als", "lightfm"}
    asked = ("recommend", "--model", tmp_path, "--json")
    rows = listed(firetv(*asked, "--user", "user0", "--explain"))
    assert len(rows) == 10
    assert all(list(row["parts"]) == ["taste"] for row in rows)
    assert "titles" in {reason["kind"] for row in rows for reason in row["reasons"]}
    new = listed(firetv(*asked, "--liked", "content3"))
    assert "content3" not in {row["content_id"] for row in new}


def test_training_says_what_it_did_and_saves_it(
    trained: tuple[Path, Result], made: Recommender
) -> None:
    out, said = trained
    assert said.stdout == f"trained on 559 events of 30 users in {out}\n"
    assert {path.suffix for path in out.iterdir()} == {".json", ".npz"}
    assert made.about["seed"] == 0
    assert described(made) == module.packaged_values("ease")
    assert made.clock.zone == "Europe/Berlin"
    assert made.context.strength == 1.0
    assert made.friends is not None
    helped = any(made.friends.scales.own.values())
    assert ("friends were found not to help here" in said.stderr) is not helped


def test_training_can_be_told_what_counts(folder: Path, tmp_path: Path) -> None:
    options = ("--context", "learned", "--strength", 0.5, "--friends", "0.3", "--seed", 7)
    said = firetv("train", "--data", folder, "--out", tmp_path, "--base", "itemknn", *options)
    assert said.exit_code == 0, said.output
    found = Recommender.load(tmp_path)
    assert found.about["seed"] == 7
    assert described(found) == module.packaged_values("itemknn")
    assert found.about["parameters"]["context"]["ContextBoost"]["mode"] == "learned"
    assert found.context.strength == 0.5
    assert found.friends.scales.own["friends"] == 0.3
    assert found.context.clock.zone == "UTC"


def test_training_can_leave_layers_out_and_read_parameters(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    path.write_text(json.dumps({"model": "ease", "parameters": {"reg": 12.5}}))
    out = ("--out", tmp_path / "model", "--context", "off", "--friends", "off")
    said = firetv("train", "--data", folder, *out, "--parameters", path)
    assert said.exit_code == 0, said.output
    found = Recommender.load(tmp_path / "model")
    assert found.friends is None
    assert found.context is None
    model = found.about["parameters"]["base"]["Newcomers"]["model"]
    assert model["EASE"]["reg"] == 12.5
    assert said.stderr.count("found not to help") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--base", "popular"), "'popular' is not one of the base models: use lightfm, ease"),
        (("--context", "guessed"), "mode 'guessed': use one of off, rules, learned"),
        (("--strength", "-1"), "strength -1.0 is below 0"),
        (("--friends", "many"), "friends 'many': use learned, off or a number from 0 on"),
        (("--friends", "-0.5"), "friends '-0.5': use learned, off or a number from 0 on"),
        (("--friends", "nan"), "friends 'nan': use learned, off or a number from 0 on"),
        (("--zone", "Mars"), "'Mars' is not a time zone"),
        (("--country", "XX"), "there is no calendar of 'XX'"),
        (("--parameters", "nowhere.json"), "nowhere.json"),
        (("--data", "nowhere"), "nowhere: is not a folder"),
        (("--seed", "-1"), "Invalid value"),
    ],
)
def test_what_cannot_be_trained_is_named_without_a_traceback(
    words: tuple[str, ...], message: str, folder: Path, tmp_path: Path
) -> None:
    data = () if "--data" in words else ("--data", folder)
    result = firetv("train", *data, "--out", tmp_path / "model", *words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "model").exists()


# Lists


def test_a_list_is_that_of_the_object(ask: Callable[..., Result], made: Recommender) -> None:
    result = ask("--user", "user0", "--k", 6)
    frame = made.recommend(["user0"], k=6).to_frame()
    assert result.stdout.splitlines() == [
        f"{rank:>3}  {title}" for rank, title in zip(frame["rank"], frame["title"], strict=True)
    ]
    assert result.stderr == ""
    rows = listed(ask("--user", "user0", "--k", 6, "--json"))
    assert [row["content_id"] for row in rows] == frame["content_id"].tolist()
    for row in rows:
        assert set(row) == {"rank", "content_id", "title", "score", "parts"}
        assert row["score"] == pytest.approx(sum(row["parts"].values()), abs=1e-5)


def test_reasons_are_told_where_they_are_asked_for(
    ask: Callable[..., Result], made: Recommender
) -> None:
    words = ("--user", "user0", "--weather", "rainy", "--explain")
    found = made.recommend(["user0"], Context(weather="rainy"), explain=True)
    lines = ask(*words).stdout.splitlines()
    for line, why in zip(lines, found.to_frame()["why"], strict=True):
        assert line.endswith(why)
    assert any("right for a rainy day" in line for line in lines)
    rows = listed(ask(*words, "--json"))
    for row, reasons in zip(rows, found.reasons[0], strict=True):
        assert [each["text"] for each in row["reasons"]] == [each.text for each in reasons]
        assert all(set(each) == set(vars(reasons[0])) for each in row["reasons"])


@pytest.mark.parametrize(
    ("words", "context"),
    [
        ("", Context()),
        ("--weather Rainy --companion family", Context(weather="rainy", companion="family")),
        ("--festival diwali", Context(festival="Diwali")),
        ("--time 20:15", Context(daypart="evening")),
        ("--time 05:59", Context(daypart="night")),
        (
            "--time 20:15 --date 2024-12-24",
            Context(pd.Timestamp("2024-12-24T20:15+01:00")),
        ),
        (
            "--time 00:30 --date 2024-07-06",  # a Friday in UTC
            Context(pd.Timestamp("2024-07-06T00:30+02:00")),
        ),
        (
            "--date 2024-12-24",
            Context(pd.Timestamp("2024-12-24T12:00+01:00"), daypart=""),
        ),
    ],
)
def test_a_moment_is_read_as_the_models_clock_has_it(
    words: str,
    context: Context,
    ask: Callable[..., Result],
    made: Recommender,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, recommend = [], Recommender.recommend

    def noted(self: Recommender, users: list, moment: Context, *rest: int, **more: bool) -> object:
        asked.append(moment)
        return recommend(self, users, moment, *rest, **more)

    monkeypatch.setattr(Recommender, "recommend", noted)
    rows = listed(ask("--user", "user3", "--json", *words.split()))
    assert asked == [context]
    slate = recommend(made, ["user3"], context).slate
    for slot, row in enumerate(rows):
        parts = {name: float(part[0, slot]) for name, part in slate.parts.items()}
        assert row["parts"] == {name: round(v, 6) for name, v in parts.items() if v}


@pytest.mark.parametrize(
    ("words", "person", "note"),
    [
        ("--user nobody", "nobody", "Known of nobody: nothing."),
        ("", Newcomer(), "Known of this person: nothing."),
        (
            "--liked content3,content8",
            Newcomer(("content3", "content8")),
            "Known of this person: some liked titles.",
        ),
        ("--user user27", "user27", "Known of user27: nothing."),
    ],
)
def test_newcomers_are_told_what_the_list_rests_on(
    words: str,
    person: str | Newcomer,
    note: str,
    ask: Callable[..., Result],
    made: Recommender,
) -> None:
    result = ask(*words.split())
    assert result.stderr.strip() == note
    titles = made.recommend([person]).to_frame()["title"].tolist()
    assert [line.split(maxsplit=1)[1] for line in result.stdout.splitlines()] == titles


def test_a_profile_is_read_by_models_of_vectors(folder: Path, tmp_path: Path) -> None:
    out = ("--data", folder, "--out", tmp_path, "--context", "off", "--friends", "off")
    assert firetv("train", *out, "--base", "als").exit_code == 0
    words = ("--model", tmp_path, "--profile", "age=31", "--profile", "gender=f", "--liked", " , ")
    result = firetv("recommend", *words)
    assert result.stderr.strip() == "Known of this person: a profile."
    found = Recommender.load(tmp_path).recommend([Newcomer((), {"age": 31, "gender": "f"})])
    titles = [line.split(maxsplit=1)[1] for line in result.stdout.splitlines()]
    assert titles == found.to_frame()["title"].tolist()


def test_somebody_new_is_read_word_by_word(
    ask: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, recommend = [], Recommender.recommend

    def noted(self: Recommender, users: list, *rest: object, **more: bool) -> object:
        asked.extend(users)
        return recommend(self, users, *rest, **more)

    monkeypatch.setattr(Recommender, "recommend", noted)
    words = ("--liked", " content3,,content8 ", "--profile", "age=31", "--profile", "plan=a=b")
    assert ask(*words).exit_code == 0
    assert asked == [Newcomer(("content3", "content8"), {"age": "31", "plan": "a=b"})]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--user user0 --liked content1", "--liked and --profile are of somebody new"),
        ("--user user0 --profile age=3", "--liked and --profile are of somebody new"),
        ("--liked Alien", "no titles Alien among 40"),
        ("--profile age", "'age' is not of the form NAME=VALUE, such as age=31"),
        ("--profile shoes=3", "a profile has no shoes"),
        ("--profile age=old", "age 'old' is not a number"),
        ("--weather frogs", "'frogs' is not a known weather"),
        ("--user user0 --k 0", "Invalid value"),
        ("--user user0 --k 101", "Invalid value"),
        ("--user user0 --time 25:00", "Invalid value"),
        ("--user user0 --date 2024-13-01", "Invalid value"),
    ],
)
def test_what_cannot_be_asked_is_named_without_a_traceback(
    words: str, message: str, ask: Callable[..., Result]
) -> None:
    result = ask(*words.split())
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", ["recommend", "serve"])
def test_a_model_that_is_missing_or_damaged_is_named(
    command: str, trained: tuple[Path, Result], tmp_path: Path
) -> None:
    result = firetv(command, "--model", tmp_path)
    assert result.exit_code == 2
    assert f"{tmp_path}: holds no {DOCUMENT}. Train one: firetv train." in result.output
    for path in trained[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:-7])
    result = firetv(command, "--model", tmp_path)
    assert result.exit_code == 2
    assert "is not JSON" in result.output
    assert "Traceback" not in result.output


def test_the_server_gets_the_trained_model(
    trained: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def create_app(recommender: Recommender) -> Recommender:
        return recommender

    def run(application: Recommender, **options: object) -> None:
        asked.update(options, app=application)

    monkeypatch.setattr(api, "create_app", create_app)
    monkeypatch.setattr(uvicorn, "run", run)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    assert firetv("serve", "--model", trained[0], "--port", 8123).exit_code == 0
    assert isinstance(asked["app"], Recommender)
    assert (asked["host"], asked["port"]) == ("127.0.0.1", 8123)
    for wrong in (0, 65536):
        assert firetv("serve", "--model", trained[0], "--port", wrong).exit_code == 2
