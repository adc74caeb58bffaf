"""Every sentence that people are told, word by word."""

from __future__ import annotations

import re
import string
from itertools import product

import pytest

from firetv import sentences
from firetv.sentences import TEMPLATES, because, features, friends, moment, sentence, together

PEOPLE = ("Ana", "Ben", "Cleo", "Dan", "Eve")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["Ana"], "Ana"),
        (["Ana", "Ben"], "Ana and Ben"),
        (["Ana", "Ben", "Cleo"], "Ana, Ben and Cleo"),
        (["Ana", "Ben", "Cleo", "Dan"], "Ana, Ben, Cleo and Dan"),
        (["{name}", "100 %"], "{name} and 100 %"),
    ],
)
def test_names_are_joined_as_people_join_them(names: list[str], words: str) -> None:
    assert together(names) == together(tuple(names)) == words


def test_titles_are_named_as_liked_or_as_watched() -> None:
    assert because(["Alien", "Blade Runner"], liked=True) == (
        "because you liked Alien and Blade Runner"
    )
    assert because(["Alien"], liked=False) == "because you watched Alien"
    assert because(["{0} {titles}"], liked=True) == "because you liked {0} {titles}"


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["genre:Drama"], ("genre", "Drama")),
        (["genre:Drama", "genre:News"], ("genre", "Drama and News")),
        (["decade:1980s"], ("decade", "1980s")),
        (["type:series"], ("type", "series")),
        (["minutes:60-89"], ("minutes", "60-89")),
        (["studio:A24"], ("feature", "A24")),
        (["extra-type:a:b"], ("feature", "a:b")),  # a level may hold a colon
    ],
)
def test_features_are_named_by_their_family(names: list[str], told: tuple[str, str]) -> None:
    kind, level = told
    family = names[0].split(":")[0]
    assert features(names) == TEMPLATES[kind].format(family=family, level=level)
    assert level in features(names)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"weather": "rainy"}, "a rainy day"),
        ({"weather": "icy"}, "an icy day"),  # whatever the data call it
        ({"weather": "rainy", "daypart": "evening"}, "a rainy evening"),
        ({"daypart": "evening", "weather": "rainy"}, "a rainy evening"),
        ({"daypart": "evening"}, "an evening"),
        ({"daypart": "night"}, "a night"),
        ({"daypart": "afternoon", "season": "winter"}, "a winter afternoon"),
        ({"season": "autumn"}, "an autumn"),
        ({"daytype": "weekend", "daypart": "evening"}, "a weekend evening"),
        (
            {"weather": "sunny", "season": "summer", "daytype": "weekday", "daypart": "morning"},
            "a sunny summer weekday morning",
        ),
        ({"festival": "Christmas"}, "Christmas"),
        ({"festival": "none"}, "an ordinary day"),
        ({"festival": "none", "weather": "rainy"}, "a rainy day on an ordinary day"),
        ({"festival": "Diwali", "daypart": "evening"}, "an evening at Diwali"),
        ({"companion": "family"}, "company: family"),
        ({"companion": "family", "daypart": "evening"}, "an evening with family"),
        ({"companion": "alone"}, "being alone"),
        ({"companion": "alone", "weather": "rainy"}, "a rainy day alone"),
        ({"companion": "public", "daypart": "night"}, "a night in public"),
        ({"location": "home"}, "at home"),
        ({"location": "public", "daypart": "night"}, "a night in public"),
        ({"location": "friend"}, "at friend"),
        ({"device": "phone"}, "device phone"),
        ({"device": "phone", "daypart": "night"}, "a night and device phone"),
        (
            {"daytype": "weekend", "festival": "Easter", "companion": "friends"},
            "a weekend at Easter with friends",
        ),
    ],
)
def test_moments_are_named_in_words(values: dict[str, str], words: str) -> None:
    assert moment(values) == f"right for {words}"


COUNTS = [c for c in product(range(6), repeat=3) if c[0] >= max(c[1:]) and c[0] > 0]


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_friends_are_counted_or_named_by_the_strongest_thing_they_did(
    counts: tuple[int, int, int],
) -> None:
    watched, finished, loved = counts
    did, number = (
        ("loved", loved) if loved else ("finished", finished) if finished else ("watched", watched)
    )
    who = {1: "a friend", 2: "Ana and Ben", 3: "Ana, Ben and Cleo"}.get(number, f"{number} friends")
    assert friends(*counts, PEOPLE[:watched]) == f"{who} {did} it"
    told = sentence(*counts, PEOPLE[:watched], "series")
    assert told == f"{'A friend' if number == 1 else who} {did} this series"


@pytest.mark.parametrize(
    ("kind", "noun"),
    [
        ("movie", "movie"), ("Movie", "movie"), ("SERIES", "series"), ("news", "news programme"),
        ("sport", "sports programme"), ("kids", "children's programme"), ("opera", "title"),
        (None, "title"), (float("nan"), "title"),
    ],
)  # fmt: skip
def test_titles_are_called_by_their_type(kind: str | None, noun: str) -> None:
    assert sentence(1, 0, 0, ["Ana"], kind) == f"A friend watched this {noun}"


def test_limits_say_when_friends_are_named() -> None:
    assert sentence(1, 0, 0, ["Ana"], "movie", names_from=1) == "Ana watched this movie"
    assert sentence(3, 0, 0, PEOPLE[:3], "movie", names_upto=2) == "3 friends watched this movie"


def test_every_template_is_filled_by_what_it_names_and_starts_in_lower_case() -> None:
    fields = {
        name: {field for _, field, *_ in string.Formatter().parse(text) if field}
        for name, text in TEMPLATES.items()
    }
    assert fields["liked"] == fields["watched"] == {"titles"}
    assert all(
        "level" in fields[name] for name in ("genre", "decade", "type", "minutes", "feature")
    )
    assert fields["friends"] == {"who", "did"}
    for text in TEMPLATES.values():
        assert text.startswith("{") or text[0].islower()
        assert not re.search(r"\s{2}|[.!]$", text)
    assert sentences.NAMED == (2, 3)
