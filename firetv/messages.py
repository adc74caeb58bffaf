"""What is said over HTTP: requests and answers of the server, as its document shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from firetv.group_reasons import STRATEGIES
from firetv.member_weights import WEIGHTS
from firetv.moments import VALUES
from firetv.panels import LARGEST
from firetv.recommender import LONGEST

LONGEST_ID = 200  # characters
MOST_LIKED = 1000  # titles of a newcomer
MOST_PROFILE = 50  # entries of a newcomer's profile


def _shown(**example: Any) -> ConfigDict:  # noqa: ANN401
    """An example for the server's document."""
    return ConfigDict(json_schema_extra={"example": example})


class Reason(BaseModel):
    """One reason for one title, read from the parts of its score."""

    kind: Literal["titles", "feature", "popular", "context", "friends"]
    text: str
    contribution: float = Field(description="What the score would lose without it.")
    share: float = Field(description="Of all that speaks for the title, 0..1.")
    about: list[str] = Field(description="Ids of titles or friends, features, or context values.")


class Title(BaseModel):
    """One title of a list."""

    rank: int
    content_id: str
    title: str
    score: float
    parts: dict[str, float] = Field(description="The ledger: the score is their sum.")
    reasons: list[Reason] | None = None


class PersonalList(BaseModel):
    """A person's list."""

    model_config = _shown(
        user_id="user123",
        basis="history",
        recommendations=[
            {
                "rank": 1,
                "content_id": "content181",
                "title": "Return of the Jedi",
                "score": 1.91,
                "parts": {"taste": 1.71, "context:weather": 0.07, "friends": 0.13},
                "reasons": [
                    {
                        "kind": "titles",
                        "text": "because you liked Star Wars",
                        "contribution": 1.03,
                        "share": 0.49,
                        "about": ["content50"],
                    }
                ],
            }
        ],
    )

    user_id: str | None
    basis: Literal["history", "liked titles", "profile", "popularity"] = Field(
        description="What the list rests on."
    )
    note: str | None = Field(None, description="Where little or nothing is known of the person.")
    recommendations: list[Title]


def _spelling(name: str) -> Callable[[Any], Any]:
    """Values of a dimension in any case, as they are spelled."""
    known = {value.casefold(): value for value in VALUES[name]}
    return lambda given: known.get(str(given).casefold(), given)


Weather: TypeAlias = Annotated[Literal[VALUES["weather"]], BeforeValidator(_spelling("weather"))]
Festival: TypeAlias = Annotated[Literal[VALUES["festival"]], BeforeValidator(_spelling("festival"))]
Company: TypeAlias = Annotated[
    Literal[VALUES["companion"]], BeforeValidator(_spelling("companion"))
]


class Moment(BaseModel):
    """The moment of a request, as far as it is known."""

    model_config = ConfigDict(extra="forbid")

    time: str | None = Field(
        None,
        max_length=40,
        description=(
            "ISO 8601, local where it has no offset (whose + is written %2B in a URL); or an hour "
            "alone, such as 20:00."
        ),
        examples=["2026-12-24T20:00", "20:00"],
    )
    weather: Weather | None = None
    festival: Festival | None = Field(None, description="By the calendar, if it is not given.")
    companion: Company | None = None


def _whole(given: Any) -> Any:  # noqa: ANN401
    """A whole number as such, however it is written: in JSON, 10.0 is one."""
    return int(given) if isinstance(given, float) and given.is_integer() else given


Short = Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]
Count = Annotated[int, Field(ge=1, le=LONGEST), BeforeValidator(_whole)]
Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class MomentQuery(Moment):
    """What may follow the question mark of a person's list."""

    num_recommendations: Count = 10
    explain: bool = False
    strict: bool = Field(False, description="Whether an unknown person is an error, 404.")


class NewcomerRequest(Moment):
    """Somebody who is not in the data: what they liked, and their profile."""

    model_config = ConfigDict(strict=True)  # a number is no text, nor a text a number

    liked: list[Short] = Field([], max_length=MOST_LIKED, examples=[["content50", "content181"]])
    profile: dict[Short, Short | Number | None] = Field(
        {},
        max_length=MOST_PROFILE,
        description="By columns of the users table.",
        examples=[{"age": 31, "gender": "F"}],
    )
    num_recommendations: Count = 10
    explain: bool = False


class GroupRequest(Moment):
    """Several people before one screen."""

    model_config = ConfigDict(strict=True)

    members: list[Short] = Field(
        min_length=1, max_length=LARGEST, examples=[["user123", "user456", "user789"]]
    )
    strategy: Literal[tuple(STRATEGIES)] = "nash"
    weights: list[Literal[tuple(WEIGHTS)]] = Field(
        [], max_length=len(WEIGHTS), description="Who counts more."
    )
    satisfaction: list[Share | None] | None = Field(
        None, max_length=LARGEST, description="What each got before: who got less counts more."
    )
    presence: list[Share] | None = Field(
        None, max_length=LARGEST, description="Part of the evening that each is there."
    )
    unseen: Literal["all", "some", "off"] = "all"
    kids: bool = Field(False, description="Only titles for children, while a child is there.")
    num_recommendations: Count = 10

    @model_validator(mode="after")
    def _fits(self) -> GroupRequest:
        """A number for each member, and at least one of them there."""
        count = len(self.members)
        for name in ("satisfaction", "presence"):
            numbers = getattr(self, name)
            if numbers is not None and len(numbers) != count:
                raise ValueError(f"{name} has {len(numbers)} numbers for {count} members")
        if self.presence is not None and not any(self.presence):
            raise ValueError("nobody is there")
        return self


class View(BaseModel):
    """What one member thinks of one title."""

    user_id: str = Field(description="Who is not in the data is called a guest.")
    rank: int = Field(description="In the member's own order of the group's candidates.")
    opinion: float
    weight: float
    because: str


class GroupTitle(BaseModel):
    """One title of a group's list."""

    rank: int
    content_id: str
    title: str
    score: float
    why: str
    views: list[View]


class GroupAnswer(BaseModel):
    """A group's list."""

    model_config = _shown(
        strategy="nash",
        note="not known, and so guests: 'Grandma'",
        recommendations=[
            {
                "rank": 1,
                "content_id": "content22",
                "title": "Braveheart",
                "score": 0.066,
                "why": "mostly for user123 and user456",
                "views": [
                    {
                        "user_id": "user123",
                        "rank": 1,
                        "opinion": 0.019,
                        "weight": 0.5,
                        "because": "taste",
                    },
                    {
                        "user_id": "user456",
                        "rank": 4,
                        "opinion": 0.021,
                        "weight": 0.5,
                        "because": "friends",
                    },
                ],
            }
        ],
    )

    strategy: str
    note: str | None = Field(None, description="Names members who are not known.")
    recommendations: list[GroupTitle]


class Notification(BaseModel):
    """What friends did with a title that a person has not seen."""

    content_id: str
    title: str
    text: str
    watched: int
    finished: int
    loved: int


class NotificationList(BaseModel):
    """What is worth telling a person now. Nothing is recorded as sent."""

    model_config = _shown(
        user_id="user123",
        notifications=[
            {
                "content_id": "content100",
                "title": "Fargo",
                "text": "3 friends loved this movie",
                "watched": 4,
                "finished": 3,
                "loved": 3,
            }
        ],
        dropped={"already seen": 2},
    )

    user_id: str
    notifications: list[Notification]
    dropped: dict[str, int] = Field(description="Titles that are not told, by reason.")


class SimilarTitle(BaseModel):
    """A title like another."""

    content_id: str
    title: str
    similarity: float


class SimilarList(BaseModel):
    """Titles that the same people watch, or that are described alike."""

    model_config = _shown(
        content_id="content50",
        similar=[{"content_id": "content181", "title": "Return of the Jedi", "similarity": 0.31}],
    )

    content_id: str
    similar: list[SimilarTitle]


class Health(BaseModel):
    """That the server can answer, and for what."""

    model_config = _shown(
        status="ok",
        data={
            "name": "movielens-100k",
            "checksum": "851ff7541d69",
            "users": 943,
            "titles": 1682,
            "events": 100000,
        },
    )

    status: Literal["ok"]
    data: dict[str, Any]


class Fault(BaseModel):
    """Where a request is wrong, and why."""

    where: str
    reason: str


class Problem(BaseModel):
    """Why a request was not answered (RFC 9457)."""

    model_config = _shown(
        type="about:blank",
        title="Not valid",
        status=422,
        detail="the request is not valid",
        errors=[{"where": "query.num_recommendations", "reason": "Input should be at least 1"}],
    )

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[Fault] | None = Field(None, description="Where the request is wrong, if it is.")
