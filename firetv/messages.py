"""What is said over HTTP: requests and answers of the server, as its document shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from firetv.group_reasons import STRATEGIES
from firetv.moments import VALUES
from firetv.panels import LARGEST
from firetv.recommender import LONGEST, WEIGHTS

LONGEST_ID = 200  # characters
MOST_LIKED = 1000  # titles of a newcomer
MOST_PROFILE = 50  # entries of a newcomer's profile


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

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "user_id": "user123",
                "basis": "history",
                "note": None,
                "recommendations": [
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
            }
        }
    )

    user_id: str | None
    basis: Literal["history", "liked titles", "profile", "popularity"] = Field(
        description="What the list rests on."
    )
    note: str | None = Field(description="Said where little or nothing is known of the person.")
    recommendations: list[Title]


class Moment(BaseModel):
    """The moment of a request, as far as it is known."""

    model_config = ConfigDict(extra="forbid")

    time: str | None = Field(
        None,
        max_length=40,
        description="ISO 8601, local where it has no offset; or an hour alone, such as 20:00.",
        examples=["2026-12-24T20:00", "20:00"],
    )
    weather: str | None = Field(None, max_length=40, description=f"{', '.join(VALUES['weather'])}.")
    festival: str | None = Field(None, max_length=40, examples=["Christmas"])
    companion: str | None = Field(
        None, max_length=40, description=f"{', '.join(VALUES['companion'])}."
    )


Short = Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]
Count = Annotated[int, Field(ge=1, le=LONGEST)]
Share = Annotated[float, Field(ge=0, le=1)]


class MomentQuery(Moment):
    """What may follow the question mark of a person's list."""

    num_recommendations: Count = 10
    explain: bool = False
    strict: bool = Field(False, description="Whether an unknown person is an error, 404.")


class NewcomerRequest(Moment):
    """Somebody who is not in the data: what they liked, and their profile."""

    liked: list[Short] = Field([], max_length=MOST_LIKED, examples=[["content50", "content181"]])
    profile: dict[Annotated[str, Field(max_length=LONGEST_ID)], str | float | None] = Field(
        {}, max_length=MOST_PROFILE, examples=[{"age": 31, "gender": "F"}]
    )
    num_recommendations: Count = 10
    explain: bool = False


class GroupRequest(Moment):
    """Several people before one screen."""

    members: list[Short] = Field(
        min_length=1, max_length=LARGEST, examples=[["user123", "user456", "user789"]]
    )
    strategy: str = Field("nash", max_length=40, description=f"{', '.join(STRATEGIES)}.")
    weights: list[Annotated[str, Field(max_length=40)]] = Field(
        [], max_length=len(WEIGHTS), description=f"Who counts more: {', '.join(WEIGHTS)}."
    )
    satisfaction: list[Share | None] | None = Field(
        None, max_length=LARGEST, description="What each got before: who got less counts more."
    )
    presence: list[Share] | None = Field(
        None, max_length=LARGEST, description="Part of the evening that each is there."
    )
    unseen: Literal["all", "some", "off"] = "all"
    kids: bool = False
    num_recommendations: Count = 10


class View(BaseModel):
    """What one member thinks of one title."""

    user_id: str
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

    strategy: str
    note: str | None
    recommendations: list[GroupTitle]


class Notification(BaseModel):
    """What friends did with a title that a person has not seen."""

    content_id: str
    title: str
    text: str = Field(examples=["3 friends loved this movie"])
    watched: int
    finished: int
    loved: int


class NotificationList(BaseModel):
    """What is worth telling a person now. Nothing is recorded as sent."""

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

    content_id: str
    similar: list[SimilarTitle]


class Health(BaseModel):
    """That the server can answer, and for what."""

    status: Literal["ok"]
    data: dict[str, Any]


class Problem(BaseModel):
    """Why a request was not answered (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] | None = Field(None, description="Where the request is wrong.")
