from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from firetv.context import ContextBoost, ContextStep
from firetv.data import Dataset
from firetv.models import Popular
from firetv.moments import Clock, Context, describe
from firetv.moves import as_text, before_and_after, caveats, forget, headline, moves, stillness
from firetv.multipliers import Multipliers
from firetv.rules import Rule, Rules
from firetv.slate import EMPTY, Slate

# In the data, even items are Comedy and odd ones Drama; 4 and 10 are News too, 1 and 7 Sci-Fi too.
MORNING = pd.Timestamp("2024-05-07T08:00Z")
COMEDY, NEWS, DRAMA, SCI_FI = 0, 4, 3, 7


def boost(*lines: tuple[str, str, str, float], **options: object) -> ContextBoost:
    """A boost of `strength` 1 by rules of dimension, value, genre and multiplier."""
    rules = Rules(tuple(Rule(d, v, "genre", g, m, "a test") for d, v, g, m in lines))
    return ContextBoost(**{"mode": "rules", "strength": 1.0, "rules": rules, **options})


def steps_of(data: Dataset, *lines: tuple[str, str, str, float]) -> ContextStep:
    return boost(*lines).fit(data)


def slate_of(items: np.ndarray | None = None, gap: float = 0.3, **context: str) -> Slate:
    """Eight items in the morning, the first the best by far more than rounding."""
    items = np.arange(8) if items is None else items
    requests = Context(MORNING, **context).requests(np.array([0]))
    return Slate(requests, items).add("taste", -gap * np.arange(len(items))[None])


def moved(before: Slate, step: ContextStep, data: Dataset, k: int = 8) -> pd.DataFrame:
    return moves(before, step(before), step, data, k)


def reason(frame: pd.DataFrame, item: int) -> str:
    return frame.set_index("content_id").loc[f"content{item}", "reason"]


def test_ranks_multiplier_and_reason_are_exact(data: Dataset) -> None:
    step = steps_of(data, ("daypart", "morning", "News", 4.0))
    frame = moved(slate_of(), step, data, k=3)
    assert frame["content_id"].tolist() == ["content0", "content1", "content4", "content2"]
    assert frame["title"].tolist() == ["Title 0", "Title 1", "Title 4", "Title 2"]
    assert frame["rank"].tolist() == [1, 2, 3, pd.NA]
    assert frame["before"].tolist() == [1, 2, 5, 3]
    assert frame["rank"].dtype == frame["before"].dtype == "Int64"
    # News is one of two genres: the title takes the geometric mean.
    np.testing.assert_allclose(frame["multiplier"], [1, 1, 2, 1], rtol=1e-6)
    assert frame["reason"].tolist() == ["", "", "morning: News ×2.00", "others moved past it"]


def test_what_holds_back_is_named_and_others_fall_behind(data: Dataset) -> None:
    lines = (("daypart", "morning", "Comedy", 0.25), ("daypart", "morning", "News", 2.0))
    frame = moved(slate_of(), steps_of(data, *lines), data)
    assert reason(frame, COMEDY) == "morning: Comedy ×0.25"
    assert reason(frame, NEWS) == "morning: Comedy ×0.71"  # not News, which works against it
    assert reason(frame, DRAMA) == "others fell behind"


def test_attributes_that_count_alike_are_named_together(data: Dataset) -> None:
    lines = (("daypart", "morning", "Drama", 1.5), ("daypart", "morning", "Sci-Fi", 1.5))
    frame = moved(slate_of(), steps_of(data, *lines), data)
    assert reason(frame, SCI_FI) == "morning: Drama, Sci-Fi ×1.50"
    assert reason(frame, DRAMA) == "morning: Drama ×1.50"


def test_at_most_two_parts_are_named_strongest_first(data: Dataset) -> None:
    lines = (
        ("daypart", "morning", "Drama", 1.1),
        ("weather", "rainy", "Drama", 0.5),
        ("festival", "none", "Drama", 1.3),
    )
    before = slate_of(weather="rainy", festival="none")
    frame = moved(before, steps_of(data, *lines), data).set_index("content_id")
    assert frame.loc["content3", "reason"] == "rainy: Drama ×0.50, ordinary day: Drama ×1.30"
    assert frame.loc["content3", "multiplier"] == pytest.approx(1.1 * 0.5 * 1.3)


def test_negligible_parts_are_not_named(data: Dataset) -> None:
    lines = (("daypart", "morning", "Drama", 1.019), ("weather", "rainy", "Comedy", 1.021))
    before = slate_of(gap=0.001, weather="rainy")
    frame = moved(before, steps_of(data, *lines), data)
    assert reason(frame, COMEDY) == "rainy: Comedy ×1.02"
    assert reason(frame, DRAMA) == "others fell behind"


def test_learned_parts_count_their_events(data: Dataset) -> None:
    reasons = pd.DataFrame(
        {
            "value": ["morning", "morning", "night"],
            "attribute": ["genre:Drama", "minutes:90-119", "genre:Drama"],
            "log_lift": [0.1, 0.9, 5.0],
            "low": 0.0,
            "high": 1.0,
            "n": [900, 410, 3],
        }
    )
    table = np.log(np.full((1, data.shape[1]), 1.5, np.float32))
    learned = Multipliers("daypart", ("morning",), np.vstack([table, 0 * table]), reasons)
    step = replace(steps_of(data), multipliers=(learned,))
    minutes = data.content["duration_minutes"].between(90, 119).to_numpy()
    drama = np.arange(data.shape[1]) % 2 == 1
    items = [np.flatnonzero(m)[0] for m in (minutes, drama & ~minutes, ~drama & ~minutes)]
    frame = moved(slate_of(np.array(items)), step, data)
    assert frame["reason"].tolist() == [
        "morning: minutes 90-119 ×1.50 (n = 410)",
        "morning: Drama ×1.50 (n = 900)",
        "morning ×1.50",  # of the item's own, if of anything
    ]


def test_similar_moments_are_named(data: Dataset) -> None:
    before, step = slate_of(), steps_of(data)
    joint = np.zeros((1, 8))
    joint[0, 2] = np.log(1.3)
    frame = moves(before, before.add("context:joint", joint), step, data)
    assert reason(frame, 2) == "watched in similar moments ×1.30"


def test_empty_slots_have_no_rank(data: Dataset) -> None:
    items = np.array([[EMPTY, 1, 2, EMPTY, 4, 5]])
    step = steps_of(data, ("daypart", "morning", "News", 4.0))
    frame = moved(slate_of(items[0]), step, data, k=10)
    assert frame["content_id"].tolist() == ["content1", "content4", "content2", "content5"]
    assert frame["rank"].tolist() == [1, 2, 3, 4]
    assert frame["before"].tolist() == [1, 3, 2, 4]


def test_titles_that_are_missing_are_ids(data: Dataset) -> None:
    step = steps_of(data)
    nameless = replace(data, content=data.content.drop(columns="title"))
    assert moved(slate_of(), step, nameless)["title"].tolist()[:2] == ["content0", "content1"]
    partly = replace(
        data, content=data.content.assign(title=data.content["title"].mask([True] * 40))
    )
    assert moved(slate_of(), step, partly)["title"].tolist()[:2] == ["content0", "content1"]


def test_other_slates_are_refused(data: Dataset) -> None:
    step, before = steps_of(data), slate_of()
    with pytest.raises(ValueError, match="one request and the same candidates"):
        moves(before, slate_of(np.arange(8)[::-1]), step, data)
    two = Slate(pd.DataFrame({"user": [0, 1]}), np.arange(8))
    with pytest.raises(ValueError, match="one request"):
        moves(two, two, step, data)


def test_comparison_leaves_out_what_was_seen(data: Dataset) -> None:
    request = Context(MORNING).requests(np.array([3]))
    context = boost(("daypart", "morning", "News", 4.0))
    before, after, step = before_and_after(Popular(), context, data, request)
    assert set(before.parts) == {"popularity"}
    assert set(after.parts) == {"popularity", "context:daypart"}
    assert isinstance(step, ContextStep)
    seen = data.matrix()[[3]].toarray()[0] > 0
    items = after.grid[0][after.grid[0] != EMPTY]
    assert sorted(items) == np.flatnonzero(~seen & (data.item_counts > 0)).tolist()


@pytest.mark.parametrize(
    ("hour", "day", "known"),
    [
        (True, True, ["rainy"]),
        (False, True, ["morning", "rainy"]),
        (True, False, ["weekday", "spring", "rainy", "none"]),
    ],
)
def test_what_was_not_asked_is_forgotten(hour: bool, day: bool, known: list[str]) -> None:
    requests = forget(Context(MORNING, "rainy").requests(np.array([0])), hour=hour, day=day)
    assert describe(requests, Clock(country="US")).iloc[0].dropna().tolist() == known


def test_an_observed_festival_is_not_forgotten() -> None:
    requests = Context(MORNING, festival="Diwali").requests(np.array([0]))
    assert describe(forget(requests, hour=True, day=True))["festival"].item() == "Diwali"


def test_text_lines_up_and_says_what_left(data: Dataset) -> None:
    step = steps_of(data, ("daypart", "morning", "News", 4.0))
    assert as_text(moved(slate_of(), step, data, k=3)).splitlines() == [
        "rank  was   title    times  reason",
        "   1     1  Title 0  ×1.00",
        "   2     2  Title 1  ×1.00",
        "   3     5  Title 4  ×2.00  morning: News ×2.00",
        "",
        "Left the list:",
        "   -     3  Title 2  ×1.00  others moved past it",
    ]


@pytest.mark.parametrize(
    ("options", "moment", "still"),
    [
        ({}, "morning, weekday, spring (rules, strength 1)", "no multiplier of this moment"),
        ({"strength": 0.0}, "spring (rules, strength 0)", "the strength is 0"),
        ({"mode": "off"}, "spring (off, strength 0)", "the context is off"),
    ],
)
def test_stillness_has_a_reason(
    data: Dataset, options: dict[str, object], moment: str, still: str
) -> None:
    before, context = slate_of(), boost(("daypart", "night", "News", 4.0), **options)
    step = context.fit(data)
    frame = moved(before, step, data)
    assert f"Nothing moves: {still}" in stillness(frame, context, step)
    assert moment in headline(before.requests, context, step)
    assert (frame["reason"] == "").all()


def test_a_strength_learned_to_be_zero_is_called_so(data: Dataset) -> None:
    step = replace(steps_of(data), strength=0.0)
    learned = boost(mode="learned", strength=None)
    frame = moved(slate_of(), step, data)
    assert stillness(frame, learned, step) == "Nothing moves: the learned strength is 0."
    assert headline(slate_of().requests, learned, step).endswith("(learned, learned strength 0)")


def test_lists_that_move_are_not_still(data: Dataset) -> None:
    context = boost(("daypart", "morning", "News", 4.0))
    step = context.fit(data)
    assert stillness(moved(slate_of(), step, data), context, step) == ""
    assert stillness(moved(slate_of(), step, data, k=3), context, step) == ""


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ({"timestamp": "observed", "weather": "observed"}, []),
        ({"timestamp": "observed", "weather": "simulated"}, ["weather is simulated"]),
        ({"timestamp": "simulated"}, ["daypart is simulated"]),
        (dict.fromkeys(("timestamp", "weather"), "simulated"), ["daypart and weather are"]),
    ],
)
def test_lifts_of_simulated_columns_carry_a_warning(
    data: Dataset, kinds: dict[str, str], expected: list[str]
) -> None:
    weather = np.where(np.arange(len(data.interactions)) % 2, "rainy", "sunny")
    drawn = replace(
        data,
        interactions=data.interactions.assign(weather=weather),
        manifest={"columns": {"watch_history": kinds}},
    )
    requests = forget(slate_of(weather="rainy").requests, hour=False, day=True)
    step = boost(mode="learned").fit(drawn)
    told = caveats(step(Slate(requests, np.arange(8))), step, drawn)
    assert len(told) == len(expected)
    assert all(text in line for text, line in zip(expected, told, strict=True))
    ruled = steps_of(drawn, ("weather", "rainy", "News", 2.0))
    assert caveats(ruled(Slate(requests, np.arange(8))), ruled, drawn) == []


def test_a_note_on_timestamps_is_passed_on(data: Dataset) -> None:
    notes = "Of 1997. Timestamps are moments of rating, not of viewing. Friends were drawn."
    noted = replace(data, manifest={"notes": notes})
    step = boost(mode="learned").fit(noted)
    told = caveats(step(slate_of()), step, noted)
    assert told == ["Timestamps are moments of rating, not of viewing."]
