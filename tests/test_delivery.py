from __future__ import annotations

import io
import json
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from firetv.delivery import FORMAT, DeliveryLog, json_lines, table
from firetv.notifications import Notifications, deliver
from firetv.schema import TIMESTAMP, DataError

AT = pd.Timestamp("2026-05-04T18:00:00.000001Z")


def found(*pairs: tuple[str, str], at: pd.Timestamp = AT, **columns: object) -> Notifications:
    """Notifications of pairs of user and title."""
    rows = pd.DataFrame(pairs, columns=["user_id", "content_id"])
    rows = rows.assign(
        at=pd.Series(at, rows.index, dtype=TIMESTAMP),
        text="A friend watched this movie",
        title=[f"Title {title}" for title in rows["content_id"]],
        content_type="movie",
        genres=pd.Series([["Drama", "News"]] * len(rows), dtype=object),
        year=pd.array([2001] * len(rows), "Int64"),
        last=pd.Series(at, rows.index, dtype=TIMESTAMP),
        counts=float("nan"),
    )
    return Notifications(rows.assign(**columns), pd.DataFrame(columns=["reason"]))


THREE = (("me", "t1"), ("me", "t2"), ("you", "t1"))


class Seen:
    """A sink that keeps what it takes."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str]] = []

    def __call__(self, rows: pd.DataFrame) -> None:
        self.taken += zip(rows["user_id"], rows["content_id"], strict=True)


def failing(_: pd.DataFrame) -> None:
    raise ConnectionError("nobody listens")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.sqlite"


def pairs(log: DeliveryLog) -> list[tuple[str, str]]:
    entries = log.entries(pd.Series(["me", "you"]))
    return list(zip(entries["user_id"], entries["content_id"], strict=True))


def test_sending_twice_sends_nothing_new(path: Path) -> None:
    sink = Seen()
    with DeliveryLog(path) as log:
        assert len(deliver(found(*THREE), sink, log)) == 3
    with DeliveryLog(path) as log:
        sent = deliver(found(*THREE, ("you", "t2")), sink, log)
        assert sent["content_id"].tolist() == ["t2"]
        assert len(deliver(found(*THREE), failing, log)) == 0  # nothing new, so nobody is called
    assert sink.taken == [*THREE, ("you", "t2")]


def test_a_title_that_is_there_twice_is_sent_once() -> None:
    sink, log = Seen(), DeliveryLog()
    deliver(found(("me", "t1"), ("me", "t1")), sink, log)
    assert sink.taken == [("me", "t1")]


def test_the_log_keeps_who_what_and_when(path: Path) -> None:
    with DeliveryLog(path) as log:
        deliver(found(*THREE), Seen(), log)
        log.dismiss("me", "t1")
        log.dismiss("me", "t9")
    with DeliveryLog(path) as log:
        entries = log.entries(pd.Series(["me", "nobody"]))
    assert entries["content_id"].tolist() == ["t1", "t2", "t9"]
    assert entries["dismissed"].tolist() == [True, False, True]
    assert entries["delivered_at"].tolist() == [AT, AT, pd.NaT]
    assert entries["delivered_at"].dtype == TIMESTAMP


def test_an_empty_log_has_the_same_columns() -> None:
    log = DeliveryLog()
    empty = log.entries(pd.Series([], dtype="str"))
    log.dismiss("me", "t1")
    pd.testing.assert_series_equal(empty.dtypes, log.entries(pd.Series(["me"])).dtypes)


def test_a_sink_that_fails_leaves_the_log_as_it_was(path: Path) -> None:
    with DeliveryLog(path) as log:
        deliver(found(("me", "t1")), Seen(), log)
        with pytest.raises(ConnectionError, match="nobody listens"):
            deliver(found(*THREE), failing, log)
        assert pairs(log) == [("me", "t1")]
        sink = Seen()
        deliver(found(*THREE), sink, log)  # the log can still be used
    assert sink.taken == [("me", "t2"), ("you", "t1")]


def test_an_interrupt_leaves_the_log_as_it_was(path: Path) -> None:
    def interrupted(_: pd.DataFrame) -> None:
        raise KeyboardInterrupt

    with DeliveryLog(path) as log, pytest.raises(KeyboardInterrupt):
        deliver(found(*THREE), interrupted, log)
    with DeliveryLog(path) as log:
        assert pairs(log) == []


def test_nothing_is_kept_before_the_sink_is_done(path: Path) -> None:
    with DeliveryLog(path) as log, DeliveryLog(path) as other:
        seen: list[list[tuple[str, str]]] = []
        deliver(found(*THREE), lambda _: seen.append(pairs(other)), log)
        assert seen == [[]]
        assert len(pairs(other)) == 3


@pytest.mark.parametrize("fails", [False, True])
def test_two_deliveries_at_once_deliver_once(path: Path, fails: bool) -> None:
    """The second starts while the first is sending, and goes on when it is over."""
    sending, sink = threading.Event(), Seen()

    def slow(rows: pd.DataFrame) -> None:
        sending.set()
        waiting = threading.Event()
        waiting.wait(0.5)
        if fails:
            failing(rows)
        sink(rows)

    def first() -> None:
        with DeliveryLog(path) as log:
            deliver(found(*THREE), slow, log)

    def second() -> int:
        assert sending.wait(10)
        with DeliveryLog(path) as log:
            return len(deliver(found(*THREE), sink, log))

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.submit(first), pool.submit(second)
        assert (one.exception() is None) is not fails
        assert other.result() == (3 if fails else 0)
    assert sink.taken == [*THREE]


@pytest.mark.parametrize("number", range(10))
def test_many_may_make_the_same_log_at_once(path: Path, number: int) -> None:
    start, sink = threading.Barrier(8), Seen()

    def one(_: int) -> None:
        start.wait()
        with DeliveryLog(path) as log:
            deliver(found(*THREE), sink, log)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(8)))
    assert sink.taken == [*THREE]


def test_a_delivery_that_waits_too_long_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("firetv.delivery.WAIT", 0.05)
    with DeliveryLog(path) as log, DeliveryLog(path) as other:
        with log.transaction(), pytest.raises(DataError, match="Wait for the other delivery"):
            deliver(found(*THREE), Seen(), other)
        assert len(deliver(found(*THREE), Seen(), other)) == 3


def test_what_was_dismissed_meanwhile_is_not_sent(path: Path) -> None:
    sink = Seen()
    with DeliveryLog(path) as log:
        log.dismiss("me", "t1")
        deliver(found(*THREE), sink, log)
    assert sink.taken == [*THREE[1:]]


def test_a_preview_knows_the_log_and_changes_nothing(path: Path) -> None:
    with DeliveryLog(path) as log:
        deliver(found(("me", "t1")), Seen(), log)
    before, sink = path.read_bytes(), Seen()
    with DeliveryLog.preview(path) as log:
        deliver(found(*THREE), sink, log)
        log.dismiss("me", "t5")
        assert len(pairs(log)) == 4
    assert sink.taken == [("me", "t2"), ("you", "t1")]
    assert path.read_bytes() == before
    with DeliveryLog.preview(path.with_name("none.sqlite")) as log:
        assert pairs(log) == []
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def other_program(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE deliveries (user_id, content_id)")
    connection.commit()
    connection.close()


def later_version(path: Path) -> None:
    DeliveryLog(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    connection.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("a,b\n" * 500), "is not a delivery log. Name another file."),
        (lambda path: path.write_text("x"), "is not a delivery log. Name another file."),
        (lambda path: path.mkdir(), "unable to open database file. Name another file."),
        (other_program, "is not a delivery log. Name another file."),
        (later_version, "is a delivery log of format 2, and only 1 is known here. Update firetv"),
    ],
)
@pytest.mark.parametrize("open_", [DeliveryLog, DeliveryLog.preview])
def test_other_files_are_refused_and_left_alone(
    path: Path, make: Callable[[Path], object], message: str, open_: Callable[[Path], DeliveryLog]
) -> None:
    make(path)
    before = path.is_file() and path.read_bytes()
    with pytest.raises(DataError) as caught:
        open_(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert (path.is_file() and path.read_bytes()) == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be used as a log"):
        DeliveryLog(tmp_path / "file" / "log.sqlite")
    DeliveryLog(tmp_path / "new" / "log.sqlite").close()


def test_the_table_has_one_line_for_each() -> None:
    file = io.StringIO()
    year = pd.array([2001, None], "Int64")
    table(file)(found(("me", "t1"), ("somebody", "t22"), year=year).rows)
    assert file.getvalue().splitlines() == [
        "for       what                         title      year  genres",
        "me        A friend watched this movie  Title t1   2001  Drama, News",
        "somebody  A friend watched this movie  Title t22        Drama, News",
    ]


def test_the_table_says_how_much_friends_count() -> None:
    file = io.StringIO()
    table(file)(found(("me", "t1"), ("me", "t2"), counts=[0.256, -1.0]).rows)
    assert [line.split()[-1] for line in file.getvalue().splitlines()] == [
        "counts",
        "+0.26",
        "-1.00",
    ]


def test_json_has_one_object_a_line() -> None:
    file = io.StringIO()
    sink = json_lines(file)
    sink(found(*THREE, title=["Ä", "b", "c"]).rows)
    sink(found(("you", "t2")).rows)
    rows = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [(row["user_id"], row["content_id"]) for row in rows] == [*THREE, ("you", "t2")]
    assert rows[0]["title"] == "Ä"
    assert rows[0]["genres"] == ["Drama", "News"]
    assert rows[0]["counts"] is None
    assert pd.Timestamp(rows[0]["at"]).floor("s") == AT.floor("s")
