"""Requests that schemathesis makes up from the server's own document.

It is imported where it is used, for that takes seconds, which every worker would spend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from served import trained

from firetv.api import create_app
from firetv.data import Dataset

if TYPE_CHECKING:
    from schemathesis import BaseSchema, Case

OPERATIONS = (
    "GET /recommendations/{user_id}",
    "POST /recommendations",
    "POST /recommendations/group",
    "GET /notifications/{user_id}",
    "GET /content/{content_id}/similar",
    "GET /health",
    "GET /metrics",
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
TIMES = ("2026-12-24T20:00", "2024-02-01T08:00Z")


@pytest.fixture(scope="session")
def document(rich: Dataset) -> BaseSchema:
    import schemathesis

    return schemathesis.openapi.from_asgi("/openapi.json", create_app(trained(rich)))


def as_documented() -> list[Callable[..., object]]:
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    return [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
    ]


def make_up(document: BaseSchema, name: str, mode: str, asked: Callable[[Case, str], None]) -> None:
    """Call a test with requests that are as the document has them, or with others."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as some
    from schemathesis import GenerationMode

    method, path = name.split()
    bounded = settings(
        max_examples=20,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    cases = document[path][method].as_strategy(GenerationMode[mode])
    bounded(given(case=cases, time=some.sampled_from(TIMES))(asked))()


@pytest.mark.parametrize("name", OPERATIONS)
def test_whatever_is_asked_is_answered_as_documented(document: BaseSchema, name: str) -> None:
    def asked(case: Case, time: str) -> None:
        case.call_and_validate(checks=as_documented())

    make_up(document, name, "POSITIVE", asked)


@pytest.mark.parametrize("name", OPERATIONS[:-2])
def test_what_is_asked_of_somebody_known_is_answered(document: BaseSchema, name: str) -> None:
    def asked(case: Case, time: str) -> None:
        known = KNOWN | {"time": time, "now": time}
        for told in (case.path_parameters, case.query, case.body):
            if isinstance(told, dict):
                told.update({key: known[key] for key in known.keys() & told.keys()})
        assert case.call_and_validate(checks=as_documented()).status_code == 200

    make_up(document, name, "POSITIVE", asked)


@pytest.mark.parametrize("name", OPERATIONS[:-2])
def test_what_the_document_does_not_allow_is_refused(document: BaseSchema, name: str) -> None:
    from schemathesis.specs.openapi.checks import negative_data_rejection

    def asked(case: Case, time: str) -> None:
        case.call_and_validate(checks=[*as_documented(), negative_data_rejection])

    make_up(document, name, "NEGATIVE", asked)


def test_the_document_has_no_other_operations(document: BaseSchema) -> None:
    found = [operation.ok().label for operation in document.get_all_operations()]
    assert sorted(found) == sorted(OPERATIONS)
