from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests
import typer
from conftest import make_tables
from typer.testing import CliRunner, Result

from firetv.cli import app
from firetv.data import Tables, load, read_tables, write_tables
from firetv.group_reasons import STRATEGIES
from firetv.sources import SOURCES


def firetv(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


HEAVY = {
    "numpy",
    "pandas",
    "scipy",
    "pandera",
    "pyarrow",
    "sklearn",
    "papermill",
    "jinja2",
    "fastapi",
}


@pytest.mark.parametrize("words", [["--help"], ["group", "--help"], ["run", "--help"]])
def test_help_waits_for_no_heavy_import(words: list[str]) -> None:
    program = f"import sys; from firetv.cli import app; app({words}, standalone_mode=False)\n"
    program += "print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "Usage: " in done.stdout
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    assert "typer" in loaded
    assert loaded & HEAVY == set()


def test_every_data_set_is_named_in_the_help() -> None:
    command = typer.main.get_command(app).commands["data"]
    told = next(argument.help for argument in command.params if argument.name == "name")
    assert told == f"One of {', '.join(SOURCES)}."


def test_generate_writes_tables_that_load(tmp_path: Path) -> None:
    sizes = ("--users", 40, "--content", 60, "--watch-events", 500)
    result = firetv("generate", *sizes, "--seed", 3, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "500 watch events of 40 users" in result.output
    names = {path.name for path in tmp_path.iterdir()}
    assert {
        "users.csv", "content.csv", "watch_history.csv", "content_reactions.csv",
        "user_connections.csv", "groups.csv", "weather.csv", "truth.json", "manifest.json",
    } <= names  # fmt: skip
    data = load(tmp_path)
    assert data.shape == (40, 60)
    assert len(data.interactions) == 500
    kinds = json.loads((tmp_path / "manifest.json").read_text())["columns"]
    assert {kind for table in kinds.values() for kind in table.values()} == {"simulated"}


def test_check_describes_a_folder(tables: Tables, tmp_path: Path) -> None:
    write_tables(tables, tmp_path)
    result = firetv("check", tmp_path)
    assert result.exit_code == 0
    assert "watch_history            600 rows" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("check", "nowhere"), "nowhere: is not a folder"),
        (("data", "netflix"), "netflix: is not a known data set"),
        (("generate", "--users", "0"), "Invalid value"),
        (("run", "99"), "99"),
    ],
)
def test_mistakes_are_named_without_a_traceback(words: tuple[str, ...], message: str) -> None:
    result = firetv(*words)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_generate_never_overwrites_another_data_set(
    tables: Tables, tmp_path: Path, format: str
) -> None:
    write_tables(tables, tmp_path, format)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = firetv("generate", "--watch-events", 100, "--out", tmp_path)
    assert result.exit_code == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.fixture(scope="module")
def folder(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables with weather that was drawn."""
    path = tmp_path_factory.mktemp("tables")
    drawn = np.where(np.arange(len(tables.watch_history)) % 2, "rainy", "sunny")
    kinds = {"timestamp": "observed", "weather": "simulated"}
    write_tables(
        replace(
            tables,
            watch_history=tables.watch_history.assign(weather=drawn),
            manifest={"name": "tiny", "columns": {"watch_history": kinds}},
        ),
        path,
    )
    return path


def context(folder: Path, *words: object, user: str = "user0") -> Result:
    return firetv("context", "--data", folder, "--user", user, *words)


@pytest.mark.parametrize(
    ("words", "moment", "reason"),
    [
        ("--time 08:00", "morning", "morning: News ×1.26"),
        ("--time 23:30", "night", "night: Sci-Fi ×1.18"),
        ("--time 23:30 --zone Asia/Tokyo", "night", "night: Sci-Fi ×1.18"),
        ("--weather Rainy", "rainy", "rainy: Comedy ×1.20"),
        ("--festival diwali", "Diwali", "Diwali: Drama ×1.30"),
        ("--festival none --weather cloudy", "cloudy, ordinary day", "cloudy: Drama ×1.10"),
        ("--companion family", "family", "family: Comedy ×1.20"),
        ("--date 2026-12-31 --country US", "weekday, winter, New Year", "New Year: Comedy ×1.50"),
        ("--date 2026-12-31", "weekday, winter", "weekday: Comedy ×1.10"),
        (
            "--time 20:00 --date 2026-11-26 --country US --weather rainy --companion friends",
            "evening, weekday, autumn, rainy, Thanksgiving, friends",
            "Thanksgiving: Comedy ×1.40, friends: Comedy ×1.40",
        ),
    ],
)
def test_context_says_what_moves_and_why(
    folder: Path, words: str, moment: str, reason: str
) -> None:
    result = context(folder, *words.split(), "--k", 100)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"Moment: {moment} (rules, strength 1)"
    assert lines[2].split() == ["rank", "was", "title", "times", "reason"]
    assert reason in result.stdout
    assert result.stderr == ""


def test_context_as_json(folder: Path) -> None:
    rows = json.loads(context(folder, "--weather", "rainy", "--k", 4, "--json").stdout)
    listed = [row for row in rows if row["rank"] is not None]
    assert [row["rank"] for row in listed] == [1, 2, 3, 4]
    assert len(rows) - len(listed) == sum(row["before"] > 4 for row in listed)
    assert set(rows[0]) == {"rank", "before", "content_id", "title", "multiplier", "reason"}


def test_own_rules_change_the_list(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("weather: {rainy: [{genre: News, times: 9, why: a test}]}")
    words = ("--weather", "rainy", "--json")
    mine = json.loads(context(folder, *words, "--rules", path).stdout)
    packaged = json.loads(context(folder, *words).stdout)
    assert [row["content_id"] for row in mine] != [row["content_id"] for row in packaged]
    assert any("rainy: News" in row["reason"] for row in mine)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--mode off", "the context is off"),
        ("--strength 0", "the strength is 0"),
        ("--mode learned --strength 0", "the strength is 0"),
    ],
)
def test_context_says_why_nothing_moves(folder: Path, words: str, why: str) -> None:
    result = context(folder, "--weather", "rainy", *words.split())
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"Nothing moves: {why}."


@pytest.mark.parametrize("mode", ["learned", "rules+learned"])
def test_context_warns_of_lifts_from_simulated_columns(folder: Path, mode: str) -> None:
    result = context(folder, "--weather", "rainy", "--mode", mode)
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("weather is simulated in this data set: these lifts say")
    assert f"({mode}, learned strength " in result.stdout
    assert context(folder, "--time", "08:00", "--mode", mode).stderr == ""


def test_context_does_without_weather_that_cannot_be_had(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise requests.ConnectionError("offline")

    monkeypatch.setattr(requests, "get", offline)
    with caplog.at_level(logging.WARNING):
        result = context(folder, "--place", "-33.9,151.2", "--date", "2024-05-07")
    assert result.exit_code == 0, result.output
    assert caplog.messages == ["weather is missing: offline"]
    assert "no weather is known of -33.9,151.2 on 2024-05-07" in result.stderr
    assert "Moment: weekday, spring (" in result.stdout
    given = context(folder, "--place", "-33.9,151.2", "--weather", "rainy")
    assert given.stderr == ""
    assert "Moment: rainy (" in given.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "give --time, --date, --weather, --festival, --companion or --place"),
        ("--country US --zone Asia/Tokyo", "nothing is known of the moment"),
        ("--weather foggy", "use one of sunny, cloudy, rainy"),
        ("--festival Xmas", "use one of none, New Year"),
        ("--companion dog", "use one of alone, partner"),
        ("--time 25:00", "'25:00' does not match"),
        ("--date 2026-02-30", "'2026-02-30' does not match"),
        ("--date 2026-01-01 --country XX", "there is no calendar of 'XX'"),
        ("--time 08:00 --zone Mars/Olympus", "'Mars/Olympus' is not a time zone"),
        ("--time 08:00 --mode fast", "use one of off, rules, learned, rules+learned"),
        ("--time 08:00 --strength -1", "is below 0"),
        ("--time 08:00 --k 0", "Invalid value for '--k'"),
        ("--time 08:00 --rules nowhere.yaml", "nowhere.yaml: cannot be read"),
        ("--place Berlin", "'Berlin' is not a place"),
        ("--place 95,0", "is not on Earth"),
        ("--time 08:00 --user user999", "'user999' is not one of the 30 users, such as user0"),
    ],
)
def test_context_names_mistakes_without_a_traceback(folder: Path, words: str, message: str) -> None:
    result = context(folder, *words.split())
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.fixture(scope="module")
def social(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables in which user0 and user1 have friends, all of them drawn."""
    path = tmp_path_factory.mktemp("social")
    ties = {"user0": ["user2", "user4", "user6"], "user1": ["user3"]}
    edges = [(user, friend) for user, friends in ties.items() for friend in friends]
    kinds = {"user_id": "simulated", "friend_id": "simulated"}
    write_tables(
        replace(
            tables,
            user_connections=pd.DataFrame(edges, columns=["user_id", "friend_id"]),
            manifest={"name": "tiny", "columns": {"user_connections": kinds}},
        ),
        path,
    )
    return path


@pytest.fixture
def notifications(social: Path, tmp_path: Path) -> Callable[..., Result]:
    """The command at noon, with a log of its own."""

    def run(*words: object, user: str = "user0", now: str = "2024-03-20T12:00Z") -> Result:
        given = ("--data", social, "--log", tmp_path / "log.sqlite", "--now", now)
        return firetv("notifications", *given, "--user", user, *words)

    return run


def test_notifications_are_told_once(notifications: Callable[..., Result]) -> None:
    first = notifications("--json")
    assert first.exit_code == 0, first.output
    rows = [json.loads(line) for line in first.stdout.splitlines()]
    assert len(rows) == 3
    assert {row["user_id"] for row in rows} == {"user0"}
    assert {row["at"] for row in rows} == {"2024-03-20T12:00:00.000Z"}
    caveat, summary = first.stderr.splitlines()
    assert caveat == "friends in tiny are simulated"
    assert summary.endswith(", 3 to tell")
    again = notifications()
    assert again.exit_code == 0
    assert again.stdout == ""
    assert "3 already delivered" in again.stderr
    assert "over the day's limit, 0 to tell" in again.stderr
    tomorrow = notifications("--json", now="2024-03-21T12:00Z")
    more = [json.loads(line)["content_id"] for line in tomorrow.stdout.splitlines()]
    assert more
    assert not {row["content_id"] for row in rows} & set(more)


def test_notifications_as_a_table(notifications: Callable[..., Result]) -> None:
    lines = notifications("--per-day", 2).stdout.splitlines()
    assert lines[0].split() == ["for", "what", "title", "year", "genres"]
    assert len(lines) == 3
    assert all("this movie" in line or "this series" in line for line in lines[1:])


def test_a_preview_of_notifications_records_nothing(
    notifications: Callable[..., Result], tmp_path: Path
) -> None:
    shown = notifications("--preview", "--k", 1)
    assert shown.exit_code == 0
    assert len(shown.stdout.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []
    assert notifications("--preview", "--k", 1).stdout == shown.stdout
    assert notifications("--k", 1).stdout == shown.stdout
    assert notifications("--preview", "--k", 1).stdout == ""


def test_dismissed_titles_are_not_sent(notifications: Callable[..., Result]) -> None:
    shown = notifications("--preview", "--json").stdout.splitlines()
    title = json.loads(shown[0])["content_id"]
    said = notifications("--dismiss", title)
    assert said.exit_code == 0
    assert said.stdout == f"{title} will not be sent to user0\n"
    sent = notifications("--json")
    assert "1 dismissed" in sent.stderr
    assert title not in [json.loads(line)["content_id"] for line in sent.stdout.splitlines()]


def test_notifications_for_several_people(notifications: Callable[..., Result]) -> None:
    result = notifications("--user", "user1", "--user", "user5", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["user_id"] for row in rows] == sorted(row["user_id"] for row in rows)
    assert {row["user_id"] for row in rows} == {"user0", "user1"}
    told = [line.split(":")[0] for line in result.stderr.splitlines()[1:]]
    assert told == ["user0", "user1", "user5"]
    assert result.stderr.splitlines()[-1] == "user5: 0 titles of friends"


def test_notifications_look_back_no_further_than_asked(
    notifications: Callable[..., Result],
) -> None:
    day = notifications("--since", "2024-03-19", "--preview", "--json", "--k", 99)
    for line in day.stdout.splitlines():
        assert json.loads(line)["last"] >= "2024-03-19"
    assert "too old" not in day.stderr
    assert "too old" in notifications("--since", "2024-01-01", "--preview").stderr


def test_notifications_know_nothing_of_what_comes_later(
    notifications: Callable[..., Result], social: Path, tmp_path: Path
) -> None:
    tables, now = read_tables(social), pd.Timestamp("2024-02-10T12:00Z")
    events = {name: getattr(tables, name) for name in ("watch_history", "content_reactions")}
    early = {name: table[table["timestamp"] < now] for name, table in events.items()}
    write_tables(replace(tables, **early), tmp_path / "early")
    given = ("--json", "--preview", "--now", now.isoformat())
    shown = notifications(*given)
    assert len(shown.stdout.splitlines()) == 3
    assert notifications(*given, "--data", tmp_path / "early").stdout == shown.stdout


def test_notifications_wait_for_the_morning(notifications: Callable[..., Result]) -> None:
    result = notifications("--zone", "Asia/Tokyo", now="2024-03-20T15:00Z")
    assert result.stdout == ""
    assert "in quiet hours, 0 to tell" in result.stderr
    assert "It is 00:00 in Asia/Tokyo" in result.stderr
    local = notifications("--zone", "Asia/Tokyo", "--json", now="2024-03-20T21:00")
    assert json.loads(local.stdout.splitlines()[0])["at"] == "2024-03-20T12:00:00.000Z"


def test_notifications_are_for_the_end_of_the_data_by_default(social: Path, tmp_path: Path) -> None:
    given = ("--data", social, "--log", tmp_path / "log.sqlite", "--zone", "Asia/Tokyo")
    last = load(social).interactions["timestamp"].max()
    result = firetv("notifications", "--user", "user0", *given, "--json")
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout.splitlines()[0])
    assert pd.Timestamp(row["at"]) == last.floor("s")


def test_notifications_without_friends_say_so(tables: Tables, tmp_path: Path) -> None:
    write_tables(replace(tables, user_connections=None), tmp_path / "tables")
    given = ("--data", tmp_path / "tables", "--log", tmp_path / "log.sqlite")
    result = firetv("notifications", "--user", "user0", *given)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "tiny has no table user_connections, so nobody has friends" in result.stderr


def test_observed_friends_need_no_caveat(tables: Tables, tmp_path: Path) -> None:
    write_tables(tables, tmp_path / "tables")
    given = ("--data", tmp_path / "tables", "--log", tmp_path / "log.sqlite")
    assert "simulated" not in firetv("notifications", "--user", "user0", *given).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--user user999", "'user999' is not one of the 30 users, such as user0"),
        ("--dismiss t1", "'t1' is not one of the 40 titles, such as content0, content1"),
        ("--dismiss content1 --preview", "--preview records nothing, and --dismiss does"),
        ("--since soon", "'soon' is not a date or time: write it as 2026-01-31"),
        ("--since 2026-02-30", "'2026-02-30' is not a date or time"),
        ("--since 0001-01-01", "'0001-01-01' is not a time from 1900 to 2199"),
        ("--since 2024-03-20T12:00Z", "is not before 2024-03-20 12:00:00+00:00"),
        ("--now 2023-01-01", "nothing was watched before 2023-01-01 00:00:00+00:00"),
        ("--now 9999-12-31", "'9999-12-31' is not a time from 1900 to 2199"),
        ("--zone Mars/Olympus", "'Mars/Olympus' is not a time zone"),
        ("--per-day 0", "Invalid value for '--per-day'"),
        ("--data nowhere", "nowhere: is not a folder"),
        ("--log README.md", "README.md: is not a delivery log. Name another file."),
    ],
)
def test_notifications_name_mistakes_without_a_traceback(
    notifications: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    message: str,
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    result = notifications(*words.split())
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    if "Invalid" not in message:
        assert len(result.output.splitlines()) == 1


@pytest.fixture(scope="module")
def family(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables with names, one of them missing and two the same, a child, and groups."""
    path = tmp_path_factory.mktemp("family")
    people = tables.users.assign(name=tables.users["user_id"].str.replace("user", "Person "))
    people.loc[:3, "name"] = ["Ana", "Ben", None, "Ben"]
    people["age"] = people["age"].mask(people.index == 2, 7).mask(people.index < 2, 40)
    pairs = [("pair", "user0"), ("pair", "user1"), ("twice", "user0"), ("twice", "user0")]
    groups = pd.DataFrame(pairs, columns=["group_id", "user_id"])
    write_tables(replace(tables, users=people, groups=groups), path)
    return path


def group(family: Path, *words: object) -> Result:
    return firetv("group", "--data", family, *words)


def rows_of(result: Result) -> list[dict]:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_group_gets_a_list_with_reasons(family: Path) -> None:
    words = "--users user0,user1,user2 --strategy average --unseen off --time 08:00 --weather rainy"
    result = group(family, *words.split(), "--k", 5)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        "For Ana, Ben and user2, by average",
        "Moment: morning, rainy (rules, strength 1)",
        "",
    ]
    assert lines[3].split()[:5] == ["rank", "title", "Ana", "Ben", "user2"]
    assert [line.split()[0] for line in lines[4:9]] == ["1", "2", "3", "4", "5"]
    assert "Title " in lines[4]
    assert lines[-1].endswith("the title's place in a member's own order.")
    assert "Weights" not in result.stdout


def test_a_group_as_json(family: Path) -> None:
    words = "--users user0,user1,user3 --k 4 --json --unseen off --satisfaction 0.2,,0.8"
    rows = rows_of(group(family, *words.split()))
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert set(rows[0]) == {"rank", "content_id", "title", "score", "why", "views"}
    views = rows[0]["views"]
    assert [view["user_id"] for view in views] == ["user0", "user1", "user3"]
    assert set(views[0]) == {"user_id", "rank", "opinion", "weight", "because"}
    weights = [view["weight"] for view in views]
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) == pytest.approx(1, abs=1e-5)
    assert any("Ana" in row["why"] and "got less before" in row["why"] for row in rows)
    assert "Ben (user1)" not in str([row["views"] for row in rows])


def test_a_moment_moves_the_list_of_a_group(family: Path) -> None:
    words = ("--users", "user0,user1", "--unseen", "off", "--json", "--k", 20)
    plain, diwali = (
        rows_of(group(family, *words, *more)) for more in ((), ("--festival", "Diwali"))
    )
    assert [row["content_id"] for row in plain] != [row["content_id"] for row in diwali]
    named = {view["because"] for row in diwali for view in row["views"]}
    assert "context:festival" in named


def test_a_group_of_the_data(family: Path) -> None:
    words = ("--unseen", "off", "--k", 3, "--json")
    by_name = group(family, "--group", "pair", *words)
    assert rows_of(by_name) == rows_of(group(family, "--users", "user0, user1", *words))
    assert by_name.stderr == ""


def test_whoever_is_named_twice_counts_once(family: Path) -> None:
    words = ("--unseen", "off", "--k", 3, "--json")
    twice = group(family, "--users", "user0,user1,user0", "--presence", "1,0.5,0.2", *words)
    assert twice.stderr == "named more than once, counted once: user0\n"
    once = group(family, "--users", "user0,user1", "--presence", "1,0.5", *words)
    assert rows_of(twice) == rows_of(once)
    alone = group(family, "--group", "twice", "--k", 3)
    assert alone.stdout.startswith("For Ana alone\n")
    assert "user0" in alone.stderr


def test_one_person_gets_their_own_list(family: Path) -> None:
    alone = rows_of(group(family, "--users", "user4", "--k", 6, "--json"))
    assert [view["rank"] for row in alone for view in row["views"]] == [1, 2, 3, 4, 5, 6]
    assert {row["why"] for row in alone} == {"Person 4's own list"}
    other = "--users user4,user5 --presence 1,0 --k 6 --json"
    assert rows_of(group(family, *other.split())) == alone


def test_children_get_what_suits_them(family: Path, tables: Tables) -> None:
    words = ("--unseen", "off", "--strategy", "borda", "--k", 5)
    grown = group(family, "--users", "user0,user1", "--kids", *words)
    assert grown.stderr == "nobody here is known to be a child: --kids changes nothing\n"
    assert grown.stdout == group(family, "--users", "user0,user1", *words).stdout
    none = group(family, "--users", "user0,user2", "--kids", *words)  # no such genre is there
    assert none.exit_code == 2
    assert none.output == "no title is left to show: try to leave out --kids\n"


def test_weights_change_who_counts(family: Path) -> None:
    words = "--users user0,user1,user2 --strategy average --unseen off"
    result = group(family, *words.split(), "--weights", "activity, likeness,expertise")
    assert result.exit_code == 0, result.output
    assert "\nWeights: Ana " in result.stdout
    idle = group(family, *words.replace("average", "least-misery").split(), "--weights", "activity")
    assert "Weights change nothing: least-misery counts everybody in full." in idle.stdout


def test_every_strategy_is_named_in_the_help() -> None:
    command = typer.main.get_command(app).commands["group"]
    told = next(option.help for option in command.params if option.name == "strategy")
    assert re.split(r", | or ", told.removesuffix(".")) == list(STRATEGIES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "say who is there: give --users or --group, one of both"),
        ("--users user0 --group pair", "give --users or --group, one of both"),
        ("--users user0,user999", "'user999' is not one of the 30 users, such as user0"),
        ("--users ,", "a group has 1 to 50 members, not 0"),
        ("--group g9", "'g9' is not one of the 2 groups, such as pair, twice"),
        ("--users user0 --strategy best", "'best' is not one of the strategies: use average, mult"),
        ("--users user0 --weights fame", "'fame' is not one of the weights: use activity, expert"),
        ("--users user0,user1 --satisfaction 0.1", "--satisfaction has 1 number for 2 people"),
        ("--users user0 --presence 0.1,1", "--presence has 2 numbers for 1 people"),
        ("--users user0,user1 --satisfaction 0.1,2", "--satisfaction '0.1,2' is not all of 0..1"),
        ("--users user0,user1 --satisfaction 1,a", "--satisfaction '1,a' is not numbers"),
        ("--users user0,user1 --presence 0,0", "nobody is there"),
        ("--users user0 --unseen none", "Invalid value for '--unseen'"),
        ("--users user0 --k 0", "Invalid value for '--k'"),
        ("--users user0 --weather foggy", "use one of sunny, cloudy, rainy"),
        ("--users user0 --time 08:00 --zone Mars/Olympus", "'Mars/Olympus' is not a time zone"),
        ("--users user0 --date 2026-01-01 --country XX", "there is no calendar of 'XX'"),
        ("--users user0 --data nowhere", "nowhere: is not a folder"),
    ],
)
def test_group_names_mistakes_without_a_traceback(family: Path, words: str, message: str) -> None:
    result = group(family, *words.split())
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    if "Invalid" not in message:
        assert len(result.output.splitlines()) == 1


def test_groups_may_be_too_large_or_missing(tmp_path: Path) -> None:
    crowd = make_tables(users=60)
    write_tables(replace(crowd, groups=None), tmp_path)
    everybody = ",".join(f"user{n}" for n in range(51))
    result = group(tmp_path, "--users", everybody)
    assert result.exit_code == 2
    assert result.output == "a group has 1 to 50 members, not 51\n"
    result = group(tmp_path, "--group", "pair")
    assert result.exit_code == 2
    assert result.output == "tiny has no table groups: name people by --users\n"


def test_nothing_may_be_left_that_is_new(family: Path) -> None:
    everybody = ",".join(f"user{n}" for n in range(30))
    result = group(family, "--users", everybody)
    assert result.exit_code == 2
    assert result.output == "no title is left to show: try --unseen some\n"
