from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pandas as pd
import pytest
from conftest import make_rich_tables
from pydantic import BaseModel
from served import AT, GROUP, LIGHTFM, MOMENT, PROBLEM, ZONE, Server, problem, serving, trained

from firetv import messages
from firetv.api import LARGEST_BODY, MOST_TOLD
from firetv.data import Dataset
from firetv.lists import Newcomer
from firetv.models import EASE
from firetv.moments import VALUES, Context
from firetv.notifications import Policy
from firetv.recommender import Recommender
from firetv.slate import Stage

SURROGATE = '{"members": ["user1"], "\\ud800": 1}'


@pytest.fixture(scope="session")
def recommender(rich: Dataset) -> Recommender:
    return trained(rich)


@pytest.fixture(scope="session")
def server(recommender: Recommender) -> Iterator[Server]:
    with serving(recommender) as server:
        yield server


# ------------------------------------------------------------------ good answers


@pytest.mark.parametrize("user", ["user3", "user4", "user27", "user29", "nobody"])
def test_a_list_is_what_the_recommender_says(
    server: Server, recommender: Recommender, user: str
) -> None:
    answer = server.get(f"/recommendations/{user}", num_recommendations=5, explain=True, **MOMENT)
    assert answer.status_code == 200
    said = messages.PersonalList.model_validate_json(answer.content)
    found = recommender.recommend([user], AT, 5, explain=True)
    rows = found.to_frame()
    assert (said.user_id, said.basis) == (user, found.basis[0])
    assert [title.content_id for title in said.recommendations] == rows["content_id"].tolist()
    assert [title.title for title in said.recommendations] == rows["title"].tolist()
    assert [title.rank for title in said.recommendations] == [1, 2, 3, 4, 5]
    for slot, title in enumerate(said.recommendations):
        assert title.score == pytest.approx(rows["score"][slot], abs=2e-6)
        assert sum(title.parts.values()) == pytest.approx(title.score, abs=5e-6)
        assert [r.text for r in title.reasons] == [r.text for r in found.reasons[0][slot]]
        assert [tuple(r.about) for r in title.reasons] == [r.about for r in found.reasons[0][slot]]


def test_a_list_has_ten_titles_without_reasons_unless_asked(server: Server) -> None:
    said = server.get("/recommendations/user3").json()
    assert len(said["recommendations"]) == 10
    assert {title["reasons"] for title in said["recommendations"]} == {None}
    assert said["note"] is None


@pytest.mark.parametrize("strict", [False, True])
def test_an_unknown_person_gets_popular_titles_or_an_error(
    server: Server, recommender: Recommender, strict: bool
) -> None:
    answer = server.get("/recommendations/nobody", num_recommendations=3, strict=strict)
    if strict:
        assert problem(answer, 404)["detail"] == "no user 'nobody'"
        return
    said = answer.json()
    assert said["basis"] == "popularity"
    assert said["note"] == "nothing is known of this person: these are popular titles"
    most = recommender.data.item_ids[recommender.data.item_counts.argsort()[::-1][:3]]
    counts = dict(zip(recommender.data.item_ids, recommender.data.item_counts, strict=True))
    told = [counts[title["content_id"]] for title in said["recommendations"]]
    assert told == [counts[name] for name in most]


def test_of_somebody_without_events_the_profile_is_known(server: Server) -> None:
    said = server.get("/recommendations/user27", strict=True).json()
    assert said["basis"] == "profile"
    assert said["note"] == "only a profile is known of this person"


@pytest.mark.parametrize(
    ("body", "basis"),
    [
        ({"liked": ["content2", "content4"]}, "liked titles"),
        ({"profile": {"age": 31, "gender": "f", "region": None}}, "profile"),
        ({"liked": ["content2"], "profile": {"plan": "gold"}}, "liked titles"),
        ({"liked": ["content2", "content2"]}, "liked titles"),
        ({}, "popularity"),
    ],
)
def test_a_newcomers_list_is_what_the_recommender_says(
    server: Server, recommender: Recommender, body: dict[str, Any], basis: str
) -> None:
    asked = body | MOMENT | {"num_recommendations": 4, "explain": True}
    said = server.post("/recommendations", asked).json()
    profile = {name: value for name, value in body.get("profile", {}).items() if value is not None}
    person = Newcomer(tuple(body.get("liked", ())), profile)
    found = recommender.recommend([person], AT, 4, explain=True)
    assert [title["content_id"] for title in said["recommendations"]] == found.to_frame()[
        "content_id"
    ].tolist()
    assert (said["user_id"], said["basis"]) == (None, basis)
    assert (said["note"] is None) == (basis == "history")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strategy": "average", "weights": ["activity", "likeness"], "unseen": "some"},
        {"satisfaction": [0.2, None, 0.9], "presence": [1, 0.5, 1], "kids": True},
    ],
)
def test_a_groups_list_is_what_the_recommender_says(
    server: Server, recommender: Recommender, options: dict[str, Any]
) -> None:
    members = ["user1", "user2", "guest7"]
    asked = {"members": members, "num_recommendations": 3} | MOMENT | options
    answer = server.post("/recommendations/group", asked)
    assert answer.status_code == 200, answer.text
    if "satisfaction" in options:
        nan = float("nan")
        options = options | {"satisfaction": [0.2, nan, 0.9]}
    expected = recommender.recommend_group(members, AT, 3, **options)
    said = answer.json()
    assert said["recommendations"] == json.loads(json.dumps(expected.records))
    assert said["strategy"] == options.get("strategy", "nash")
    assert said["note"] == "not known, and so guests: 'guest7'"


def test_a_whole_number_may_be_written_with_a_point(server: Server) -> None:
    body = '{"members": ["user1"], "num_recommendations": 3.0}'
    assert len(server.send(GROUP, body).json()["recommendations"]) == 3


def test_a_group_that_is_known_has_no_note(server: Server) -> None:
    assert server.post("/recommendations/group", {"members": ["user1"]}).json()["note"] is None


def test_a_member_named_twice_counts_once(server: Server) -> None:
    once, twice = (
        server.post("/recommendations/group", {"members": ["user1", *more, "user2"]}).json()
        for more in ([], ["user1"])
    )
    assert once == twice


def test_notifications_are_what_the_recommender_says(
    server: Server, recommender: Recommender
) -> None:
    now, told = pd.Timestamp("2024-03-20T12:00", tz=ZONE), 0
    for user in recommender.data.user_ids[:10]:
        answer = server.get(f"/notifications/{user}", now="2024-03-20T12:00", per_day=2)
        said = messages.NotificationList.model_validate_json(answer.content)
        found = recommender.notifications([user], now, Policy(per_day=2))
        assert [each.text for each in said.notifications] == found.rows["text"].tolist()
        assert [each.content_id for each in said.notifications] == found.rows["content_id"].tolist()
        assert said.dropped == found.dropped["reason"].value_counts().to_dict()
        told += len(said.notifications)
    assert told > 1


def test_notifications_are_of_the_latest_by_default(
    server: Server, recommender: Recommender
) -> None:
    said = server.get("/notifications/user1").json()
    found = recommender.notifications(["user1"])
    assert len(said["notifications"]) == len(found.rows)
    assert sum(said["dropped"].values()) == len(found.dropped)


def test_similar_titles_are_what_the_recommender_says(
    server: Server, recommender: Recommender
) -> None:
    said = server.get("/content/content39/similar", num_recommendations=4).json()
    found = recommender.similar("content39", 4)
    assert said == {"content_id": "content39", "similar": found.to_dict("records")}


def test_health_says_what_is_served(server: Server, recommender: Recommender) -> None:
    assert server.get("/health").json() == {"status": "ok", "data": recommender.about["data"]}


@pytest.mark.parametrize("base", [EASE(), LIGHTFM], ids=["ease", "lightfm"])
def test_data_may_have_neither_titles_nor_friends(base: Stage) -> None:
    tables = make_rich_tables()
    bare = replace(
        tables,
        content=tables.content[["content_id"]],
        users=tables.users[["user_id"]],
        user_connections=None,
        groups=None,
    )
    with serving(trained(Dataset.from_tables(bare), base)) as server:
        said = server.get("/recommendations/user1", explain=True, **MOMENT).json()
        assert all(each["title"] == each["content_id"] for each in said["recommendations"])
        assert server.post("/recommendations", {"liked": ["content2"]}).status_code == 200
        assert server.post("/recommendations/group", {"members": ["user1"]}).status_code == 200
        said = server.get("/notifications/user1").json()
        assert said == {"user_id": "user1", "notifications": [], "dropped": {}}
        assert len(server.get("/content/content2/similar").json()["similar"]) == 10


# ------------------------------------------------------------------ moments


@pytest.mark.parametrize(
    ("text", "context"),
    [
        ("20:00", Context(daypart="evening")),
        ("9:05", Context(daypart="morning")),
        ("00:00", Context(daypart="night")),
        ("2026-12-24T20:00", Context(pd.Timestamp("2026-12-24T20:00", tz=ZONE))),
        ("2026-12-24 20:00", Context(pd.Timestamp("2026-12-24T20:00", tz=ZONE))),
        ("2026-12-25T01:00Z", Context(pd.Timestamp("2026-12-24T20:00", tz=ZONE))),
        ("2026-12-25T10:00+09:00", Context(pd.Timestamp("2026-12-24T20:00", tz=ZONE))),
        ("2026-12-24", Context(pd.Timestamp("2026-12-24", tz=ZONE))),
        ("2026-03-08T02:30", Context(pd.Timestamp("2026-03-08T07:30Z"))),  # an hour that is skipped
        ("1900-01-01T00:00", Context(pd.Timestamp("1900-01-01", tz=ZONE))),
        ("2199-12-30T19:00", Context(pd.Timestamp("2199-12-30T19:00", tz=ZONE))),
    ],
)
def test_times_are_read_as_they_are_meant(
    server: Server, recommender: Recommender, text: str, context: Context
) -> None:
    said = server.get("/recommendations/user3", time=text, num_recommendations=30).json()
    found = recommender.recommend(["user3"], context, 30).to_frame()
    assert [each["content_id"] for each in said["recommendations"]] == found["content_id"].tolist()
    assert [each["score"] for each in said["recommendations"]] == pytest.approx(
        found["score"].tolist(), abs=2e-6
    )


@pytest.mark.parametrize(
    "text",
    [
        "", "evening", "24:00", "20:60", "-1:00", "٢٠:٠٠", "\0:00", "20:00:61", "20:00Z", "T20:00",
        "2026", "2026-02-30", "2026-12-24T25:00", "2026-12-24T20:00+99:00",
        "2026-12-24T20:00 01:00", "0000-01-01", "0001-01-01T00:00+23:59", "1899-12-31",
        "2200-01-01", "9999-12-31T23:59-23:59", "1767225600", "now", "nan",
        "2026-12-24T20:00\r\nX: 1", "x" * 40,
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/recommendations/user3", "/recommendations", "/notifications"])
def test_a_time_that_is_none_is_refused(server: Server, path: str, text: str) -> None:
    if path == "/recommendations":
        answer = server.post(path, {"time": text})
    elif path == "/notifications":
        answer = server.get("/notifications/user3", now=text)
    else:
        answer = server.get(path, time=text)
    assert "write it as 20" in problem(answer, 422)["detail"]


@pytest.mark.parametrize("name", ["weather", "festival", "companion"])
def test_values_of_the_moment_may_be_in_any_case(server: Server, name: str) -> None:
    for value in VALUES[name]:
        lists = [
            server.get("/recommendations/user3", **{name: text}).json()
            for text in (value, value.upper(), value.lower())
        ]
        assert lists[0] == lists[1] == lists[2]


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("query", "where", "reason"),
    [
        ("num_recommendations=0", "query.num_recommendations", "greater than or equal to 1"),
        ("num_recommendations=101", "query.num_recommendations", "less than or equal to 100"),
        ("num_recommendations=x", "query.num_recommendations", "valid integer"),
        ("num_recommendations=", "query.num_recommendations", "valid integer"),
        ("num_recommendations=1.5", "query.num_recommendations", "valid integer"),
        ("num_recommendations=" + "9" * 5000, "query.num_recommendations", "integer"),
        ("weather=foggy", "query.weather", "'sunny', 'cloudy', 'rainy'"),
        ("weather=", "query.weather", "'sunny'"),
        ("weather=%00", "query.weather", "'sunny'"),
        ("festival=Sunday", "query.festival", "'Diwali'"),
        ("companion=dog", "query.companion", "'family'"),
        ("time=" + "1" * 41, "query.time", "at most 40 characters"),
        ("explain=maybe", "query.explain", "boolean"),
        ("strict=2", "query.strict", "boolean"),
        ("k=3", "query.k", "not permitted"),
        ("x" * 2000 + "=1", "query.x", "not permitted"),
    ],
)
def test_a_query_of_a_list_that_is_not_valid(
    server: Server, query: str, where: str, reason: str
) -> None:
    details = problem(server.get(f"/recommendations/user3?{query}"), 422)
    assert details["detail"] == "the request is not valid"
    (error,) = details["errors"]
    assert error["where"].startswith(where)
    assert len(error["where"]) <= MOST_TOLD
    assert reason in error["reason"]


@pytest.mark.parametrize(
    "path",
    [
        "/content/content2/similar?num_recommendations=0",
        "/content/content2/similar?num_recommendations=101",
        "/content/content2/similar?num_recommendations=x",
        "/notifications/user3?per_day=0",
        "/notifications/user3?per_day=101",
        "/notifications/user3?per_day=1e3",
        f"/notifications/user3?now={'1' * 41}",
    ],
)
def test_other_queries_that_are_not_valid(server: Server, path: str) -> None:
    assert len(problem(server.get(path), 422)["errors"]) == 1


PATHS_OF_IDS = ("/recommendations/{}", "/notifications/{}", "/content/{}/similar")
ODD_IDS = ("nobody", " ", "\0", "a\r\nX-Injected: 1", "é😀", "user3 ", "USER3", "u" * 200)


@pytest.mark.parametrize("name", ODD_IDS)
@pytest.mark.parametrize("path", PATHS_OF_IDS)
def test_who_or_what_is_unknown_is_not_found(server: Server, path: str, name: str) -> None:
    query = {"strict": True} if path.startswith("/rec") else {}
    answer = server.get(path.format(quote(name, safe="")), **query)
    details = problem(answer, 404)
    assert re.match(r"no (user|title) '", details["detail"])
    assert len(details["detail"]) < 60
    assert "x-injected" not in answer.headers
    if path.startswith("/rec"):
        said = server.get(path.format(quote(name, safe=""))).json()
        assert (said["user_id"], said["basis"]) == (name, "popularity")


@pytest.mark.parametrize("name", ["u" * 201, "é" * 201, "u" * 5000])
@pytest.mark.parametrize("path", PATHS_OF_IDS)
def test_ids_have_a_greatest_length(server: Server, path: str, name: str) -> None:
    (error,) = problem(server.get(path.format(quote(name))), 422)["errors"]
    assert error["reason"] == "String should have at most 200 characters"


def test_bytes_that_are_no_text_are_an_unknown_id(server: Server) -> None:
    problem(server.get("/recommendations/%ff%fe?strict=true"), 404)
    problem(server.get("/content/%ed%a0%80/similar"), 404)
    assert problem(server.get("/notifications/%2e%2e"), 404)["detail"] == "no user '..'"


@pytest.mark.parametrize(
    "path",
    [
        "/", "/nothing", "/recommendations/", "/recommendations/user3/", "/recommendations/a/b",
        "/recommendations/a%2Fb", "/notifications/", "/content//similar", "/content/content2",
        "//", "/../etc/passwd", "/%00",
    ],
)  # fmt: skip
def test_an_unknown_path_is_not_found(server: Server, path: str) -> None:
    assert problem(server.get(path), 404)["title"] == "Not found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/recommendations/user3", "GET"),
        ("DELETE", "/recommendations/user3", "GET"),
        ("GET", "/recommendations", "POST"),
        ("PUT", "/recommendations/group", "POST"),
        ("POST", "/notifications/user3", "GET"),
        ("PATCH", "/content/content2/similar", "GET"),
        ("POST", "/health", "GET"),
        ("HEAD", "/health", "GET"),
        ("OPTIONS", "/metrics", "GET"),
    ],
)
def test_a_wrong_method_is_refused(server: Server, method: str, path: str, allowed: str) -> None:
    answer = server.run(server.ask(method, path))
    assert answer.status_code == 405
    assert allowed in answer.headers["allow"]
    assert answer.headers["content-type"] == PROBLEM


@pytest.mark.parametrize(
    ("path", "body", "where", "reason"),
    [
        (GROUP, {}, "body.members", "required"),
        (GROUP, [], "body", "object"),
        (GROUP, 0, "body", "object"),
        (GROUP, "user1", "body", "object"),
        (GROUP, {"members": []}, "body.members", "at least 1"),
        (GROUP, {"members": "user1"}, "body.members", "list"),
        (GROUP, {"members": [1]}, "body.members.0", "string"),
        (GROUP, {"members": [""]}, "body.members.0", "at least 1"),
        (GROUP, {"members": ["u" * 201]}, "body.members.0", "at most 200"),
        (GROUP, {"members": ["user1", None]}, "body.members.1", "string"),
        (GROUP, {"members": [f"u{n}" for n in range(51)]}, "body.members", "at most 50"),
        (GROUP, {"members": ["user1"], "k": 5}, "body.k", "not permitted"),
        (GROUP, {"members": ["user1"], "x" * 9000: 5}, "body.xxx", "not permitted"),
        (GROUP, {"members": ["user1"], "strategy": "best"}, "body.strategy", "'nash'"),
        (GROUP, {"members": ["user1"], "strategy": None}, "body.strategy", "'nash'"),
        (GROUP, {"members": ["user1"], "weights": ["fame"]}, "body.weights.0", "'activity'"),
        (GROUP, {"members": ["user1"], "weights": ["activity"] * 4}, "body.weights", "at most 3"),
        (GROUP, {"members": ["user1"], "unseen": "none"}, "body.unseen", "'some'"),
        (GROUP, {"members": ["user1"], "kids": "yes"}, "body.kids", "boolean"),
        (GROUP, {"members": ["user1"], "satisfaction": [1.1]}, "body.satisfaction.0", "equal to 1"),
        (GROUP, {"members": ["user1"], "satisfaction": [-1]}, "body.satisfaction.0", "equal to 0"),
        (GROUP, {"members": ["user1"], "satisfaction": ["1"]}, "body.satisfaction.0", "number"),
        (GROUP, {"members": ["user1"], "satisfaction": [True]}, "body.satisfaction.0", "number"),
        (GROUP, {"members": ["user1"], "satisfaction": [1, 1]}, "body", "2 numbers for 1 members"),
        (GROUP, {"members": ["user1"], "satisfaction": []}, "body", "0 numbers for 1 members"),
        (GROUP, {"members": ["user1"], "presence": [0.5, 1]}, "body", "2 numbers for 1 members"),
        (GROUP, {"members": ["user1"], "presence": [None]}, "body.presence.0", "number"),
        (GROUP, {"members": ["user1", "user2"], "presence": [0, 0.0]}, "body", "nobody is there"),
        (GROUP, {"members": ["user1"], "num_recommendations": 0}, "body.num_rec", "equal to 1"),
        (GROUP, {"members": ["user1"], "num_recommendations": "3"}, "body.num_rec", "integer"),
        (GROUP, {"members": ["user1"], "num_recommendations": 3.5}, "body.num_rec", "integer"),
        (GROUP, {"members": ["user1"], "num_recommendations": 10**400}, "body.num_rec", "100"),
        (GROUP, {"members": ["user1"], "time": 5}, "body.time", "string"),
        (GROUP, {"members": ["user1"], "weather": 5}, "body.weather", "'sunny'"),
        ("/recommendations", {"liked": "content2"}, "body.liked", "list"),
        ("/recommendations", {"liked": [""]}, "body.liked.0", "at least 1"),
        ("/recommendations", {"liked": ["c"] * 1001}, "body.liked", "at most 1000"),
        ("/recommendations", {"profile": []}, "body.profile", "dictionary"),
        ("/recommendations", {"profile": {"age": [1]}}, "body.profile.age.", "string"),
        ("/recommendations", {"profile": {"age": True}}, "body.profile.age.", "string"),
        ("/recommendations", {"profile": {"age": 10**400}}, "body.profile.age.", "string"),
        ("/recommendations", {"profile": {"plan": "x" * 201}}, "body.profile.plan.", "at most 200"),
        ("/recommendations", {"profile": {"x" * 201: 1}}, "body.profile.xxx", "at most 200"),
        ("/recommendations", {"profile": dict.fromkeys(map(str, range(51)))}, "body.profile", "50"),
        ("/recommendations", {"user_id": "user1"}, "body.user_id", "not permitted"),
        ("/recommendations", {"explain": 1}, "body.explain", "boolean"),
        ("/recommendations", {"weather": "foggy"}, "body.weather", "'sunny'"),
    ],
)  # fmt: skip
def test_a_body_that_is_not_valid(
    server: Server, path: str, body: object, where: str, reason: str
) -> None:
    error = problem(server.post(path, body), 422)["errors"][0]
    assert error["where"].startswith(where)
    assert len(error["where"]) <= MOST_TOLD
    assert reason in error["reason"]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"liked": ["content2", "no", "nor"]}, "no title 'no', 'nor'"),
        ({"liked": ["\n"]}, r"no title '\n'"),
        ({"profile": {"age": "old"}}, "age 'old' is not a "),
        ({"profile": {"name": "Ann"}}, "a profile has no name: the columns are age, "),
        ({"profile": {"x" * 200: 1, "y" * 200: 1, "z" * 200: 1}}, "a profile has no xxx"),
    ],
)
def test_a_newcomer_that_cannot_be_read_is_refused(
    server: Server, body: dict[str, Any], detail: str
) -> None:
    said = problem(server.post("/recommendations", body), 422)["detail"]
    assert said.startswith(detail)
    assert len(said) <= MOST_TOLD


def test_a_group_for_whom_nothing_is_new_is_told_so(rich: Dataset) -> None:
    everybody = {"members": [f"user{n}" for n in range(30)]}
    with serving(trained(rich, EASE())) as server:
        detail = problem(server.post(GROUP, everybody), 422)["detail"]
        assert detail.startswith("no title is left to show")
        assert server.post(GROUP, everybody | {"unseen": "some"}).status_code == 200


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ("", 422),
        ("{", 422),
        ("members=user1", 422),
        ('{"members": ["user1"]} {}', 422),
        ("[" * 30_000, 400),
        (b"\xff\xfe{", 400),
        (b'{"members": ["\xff"]}', 400),
        ('{"members": ["user1"], "num_recommendations": ' + "9" * 5000 + "}", 400),
        ('{"members": ["user1"], "satisfaction": [NaN]}', 422),
        ('{"members": ["user1"], "satisfaction": [Infinity]}', 422),
        ('{"members": ["user1"], "satisfaction": [1e999]}', 422),
        ('{"members": ["user1"], "num_recommendations": 1e999}', 422),
        ('{"members": ["\\ud800"]}', 422),
        (SURROGATE, 422),
    ],
)
def test_a_body_that_is_no_json(server: Server, content: str | bytes, status: int) -> None:
    problem(server.send(GROUP, content), status)


@pytest.mark.parametrize(
    "content",
    ['{"profile": {"age": NaN}}', '{"profile": {"age": -Infinity}}', '{"profile": {"\\udfff": 1}}'],
)
def test_a_profile_that_is_no_json(server: Server, content: str) -> None:
    problem(server.send("/recommendations", content), 422)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "x"])
def test_a_body_must_say_that_it_is_json(server: Server, kind: str) -> None:
    problem(server.send(GROUP, '{"members": ["user1"]}', kind), 422)


@pytest.mark.parametrize("path", [GROUP, "/recommendations"])
@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_refused_before_it_is_read(
    server: Server, path: str, declared: bool
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 10_000
            yield b" " * 10_000

    headers = {"content-type": "application/json"}
    if declared:
        headers["content-length"] = "10000000"
    answer = server.run(server.ask("POST", path, content=endless(), headers=headers))
    assert problem(answer, 413)["title"] == "Body too large"
    assert sent <= LARGEST_BODY + 20_000


def test_the_largest_body_is_read(server: Server) -> None:
    body = '{"members": ["user1"]}'
    full = body + " " * (LARGEST_BODY - len(body))
    assert server.send(GROUP, full).status_code == 200
    problem(server.send(GROUP, full + " "), 413)


# ------------------------------------------------------------------ the document


@pytest.fixture(scope="session")
def document(server: Server) -> dict[str, Any]:
    return server.get("/openapi.json").json()


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_the_document_has_every_path_and_what_it_may_answer(document: dict[str, Any]) -> None:
    found = operations(document)
    statuses = {name: sorted(map(int, each["responses"])) for name, each in found.items()}
    with_body = [200, 400, 413, 422, 500, 503]
    assert statuses == {
        "GET /recommendations/{user_id}": [200, 404, 422, 500, 503],
        "POST /recommendations": with_body,
        "POST /recommendations/group": with_body,
        "GET /notifications/{user_id}": [200, 404, 422, 500, 503],
        "GET /content/{content_id}/similar": [200, 404, 422, 500, 503],
        "GET /health": [200],
        "GET /metrics": [200],
    }
    for operation in found.values():
        assert operation["summary"]
        assert operation["description"]
        for status, answer in operation["responses"].items():
            if status == "200":
                continue
            schema = {"$ref": "#/components/schemas/Problem"}
            assert answer["content"] == {PROBLEM: {"schema": schema}}


def test_the_document_names_only_what_it_has(document: dict[str, Any]) -> None:
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert named <= set(document["components"]["schemas"])
    assert "HTTPValidationError" not in json.dumps(document)


@pytest.mark.parametrize(
    "name", ["PersonalList", "GroupAnswer", "NotificationList", "SimilarList", "Health", "Problem"]
)
def test_answers_have_examples_that_are_valid(document: dict[str, Any], name: str) -> None:
    example = document["components"]["schemas"][name]["example"]
    model: type[BaseModel] = getattr(messages, name)
    model.model_validate(example, extra="forbid")


def test_requests_have_examples_that_are_answered(document: dict[str, Any]) -> None:
    for name, model in (
        ("GroupRequest", messages.GroupRequest),
        ("NewcomerRequest", messages.NewcomerRequest),
    ):
        properties = document["components"]["schemas"][name]["properties"]
        examples = {
            key: each["examples"][0] for key, each in properties.items() if "examples" in each
        }
        model.model_validate(examples)
        assert len(examples) >= 2
    for operation in operations(document).values():
        for parameter in operation.get("parameters", []):
            schema = parameter["schema"]
            assert "examples" in schema or "default" in schema or "anyOf" in schema


def test_values_and_limits_are_in_the_document(document: dict[str, Any]) -> None:
    listed = operations(document)["GET /recommendations/{user_id}"]["parameters"]
    schemas = {parameter["name"]: parameter["schema"] for parameter in listed}
    for name in ("weather", "festival", "companion"):
        assert schemas[name]["anyOf"][0]["enum"] == list(VALUES[name])
    limits = schemas["num_recommendations"]
    assert (limits["minimum"], limits["maximum"], limits["default"]) == (1, 100, 10)
