"""Requests that schemathesis makes up from the server's own document."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks
from served import trained

from firetv.api import create_app
from firetv.data import Dataset

OPERATIONS = (
    "GET /recommendations/{user_id}",
    "POST /recommendations",
    "POST /recommendations/group",
    "GET /notifications/{user_id}",
    "GET /content/{content_id}/similar",
    "GET /health",
    "GET /metrics",
)
AS_DOCUMENTED = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
BOUNDED = settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
KNOWN = {
    "user_id": "user3",
    "content_id": "content4",
    "liked": ["content4"],
    "profile": {"age": 31, "plan": None},
    "members": ["user1", "user2"],
    "satisfaction": [0.2, None],
    "presence": [1, 0.5],
}
TIMES = some.sampled_from(["2026-12-24T20:00", "2024-02-01T08:00Z"])


@pytest.fixture(scope="session")
def document(rich: Dataset) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(trained(rich)))


def made_up(document: schemathesis.BaseSchema, name: str, mode: GenerationMode) -> Any:  # noqa: ANN401
    method, path = name.split()
    return given(case=document[path][method].as_strategy(mode), time=TIMES)


@pytest.mark.parametrize("name", OPERATIONS)
def test_whatever_is_asked_is_answered_as_documented(
    document: schemathesis.BaseSchema, name: str
) -> None:
    @BOUNDED
    @made_up(document, name, GenerationMode.POSITIVE)
    def asked(case: schemathesis.Case, time: str) -> None:
        case.call_and_validate(checks=AS_DOCUMENTED)

    asked()


@pytest.mark.parametrize("name", OPERATIONS[:-2])
def test_what_is_asked_of_somebody_known_is_answered(
    document: schemathesis.BaseSchema, name: str
) -> None:
    @BOUNDED
    @made_up(document, name, GenerationMode.POSITIVE)
    def asked(case: schemathesis.Case, time: str) -> None:
        known = KNOWN | {"time": time, "now": time}
        for told in (case.path_parameters, case.query, case.body):
            if isinstance(told, dict):
                told.update({key: known[key] for key in known.keys() & told.keys()})
        assert case.call_and_validate(checks=AS_DOCUMENTED).status_code == 200

    asked()


@pytest.mark.parametrize("name", OPERATIONS[:-2])
def test_what_the_document_does_not_allow_is_refused(
    document: schemathesis.BaseSchema, name: str
) -> None:
    @BOUNDED
    @made_up(document, name, GenerationMode.NEGATIVE)
    def asked(case: schemathesis.Case, time: str) -> None:
        case.call_and_validate(checks=[*AS_DOCUMENTED, checks.negative_data_rejection])

    asked()


def test_the_document_has_no_other_operations(document: schemathesis.BaseSchema) -> None:
    found = [operation.ok().label for operation in document.get_all_operations()]
    assert sorted(found) == sorted(OPERATIONS)
