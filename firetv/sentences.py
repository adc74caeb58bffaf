"""The sentences that people are told: every template in one place, singular and plural.

A template with several forms is chosen by a number, as in "a friend" and "3 friends". Nothing here
decides whether a reason holds: that is done by
:mod:`firetv.explain`, from the ledger, and by :mod:`firetv.notifications`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from firetv.moments import NO_FESTIVAL

TEMPLATES: Mapping[str, str] = {
    "liked": "because you liked {titles}",
    "watched": "because you watched {titles}",
    "genre": "it is {level}, which suits you",
    "decade": "it is of the {level}, which suits you",
    "type": "it is of the type {level}, which suits you",
    "minutes": "it takes {level} minutes, which suits you",
    "feature": "its {family} is {level}, which suits you",
    "alike": "people like you watch it",
    "popular": "many people watch it",
    "moment": "right for {moment}",
    "similar moments": "watched in moments like this",
    "friends": "{who} {did} it",
    "notification": "{who} {did} this {noun}",
    "favourite": "{name}'s favourite genre",
    "nobody minds": "and nobody minds",
}
NOUNS = {  # by content type; anything else is a title
    "movie": "movie",
    "series": "series",
    "news": "news programme",
    "sport": "sports programme",
    "kids": "children's programme",
}
WEATHER_FIRST = ("weather", "season", "daytype", "daypart")  # words before the noun, in this order
NAMED = 2, 3  # friends, fewest and most: else they are counted


def because(titles: Sequence[str], *, liked: bool) -> str:
    """Name titles of somebody's history.

    Examples
    --------
    >>> because(["Alien", "Blade Runner"], liked=True)
    'because you liked Alien and Blade Runner'
    """
    return TEMPLATES["liked" if liked else "watched"].format(titles=together(titles))


def features(names: Sequence[str]) -> str:
    """Say that some features of one family suit somebody.

    Examples
    --------
    >>> features(["genre:Sci-Fi", "genre:Action"]), features(["studio:A24"])
    ('it is Sci-Fi and Action, which suits you', 'its studio is A24, which suits you')
    """
    family = names[0].split(":", 1)[0]
    levels = together([name.split(":", 1)[1] for name in names])
    known = family if family in ("genre", "decade", "type", "minutes") else "feature"
    return TEMPLATES[known].format(family=family, level=levels)


def moment(values: Mapping[str, str]) -> str:
    """Name a moment by some dimensions of its context.

    Examples
    --------
    >>> moment({"weather": "rainy", "daypart": "evening"})
    'right for a rainy evening'
    >>> moment({"companion": "family", "daytype": "weekend", "festival": "Christmas"})
    'right for a weekend with family at Christmas'
    >>> moment({"companion": "alone"}), moment({"device": "phone"})
    ('right for being alone', 'right for device phone')
    """
    before = {name: values[name] for name in WEATHER_FIRST if name in values}
    time = [*before.values(), *(["day"] if [*before] == ["weather"] else [])]
    words = [_article(time)] if time else []
    rest = {name: value for name, value in values.items() if name not in WEATHER_FIRST}
    words += [_circumstance(name, value, first=not words) for name, value in rest.items()]
    return TEMPLATES["moment"].format(moment=" ".join(words))


def _article(words: Sequence[str]) -> str:
    """Put an article before words for a time."""
    return " ".join(["an" if words[0][0].lower() in "aeiou" else "a", *words])


def _circumstance(name: str, value: str, *, first: bool) -> str:
    if name == "companion":
        if value in ("alone", "public"):
            being = "alone" if value == "alone" else "in public"
            return f"being {being}" if first else being
        return f"{'company: ' * first}{'' if first else 'with '}{value}"
    if name == "festival":
        if value == NO_FESTIVAL:
            return "an ordinary day" if first else "on an ordinary day"
        return value if first else f"at {value}"
    if name == "location":
        return {"home": "at home", "public": "in public"}.get(value, f"at {value}")
    return f"{name} {value}" if first else f"and {name} {value}"


def friends(watched: int, finished: int, loved: int, names: Sequence[str]) -> str:
    """Say the strongest thing that friends did with a title.

    Parameters
    ----------
    watched, finished, loved : int
        Numbers of friends.
    names : sequence of str
        Of all of them, those who loved it first, then those who finished it.

    Examples
    --------
    >>> friends(4, 3, 3, ["Ana", "Ben", "Cleo", "Dan"]), friends(1, 0, 0, ["Ana"])
    ('Ana, Ben and Cleo loved it', 'a friend watched it')
    >>> friends(5, 0, 0, ["Ana", "Ben", "Cleo", "Dan", "Eve"])
    '5 friends watched it'
    """
    who, did = _strongest(watched, finished, loved, names, *NAMED)
    return TEMPLATES["friends"].format(who=who, did=did)


def sentence(
    watched: int,
    finished: int,
    loved: int,
    names: Sequence[str],
    content_type: str | None = None,
    names_from: int = 2,
    names_upto: int = 3,
) -> str:
    """Say the strongest thing that any friend did with a title, of exactly those who did it.

    Parameters
    ----------
    watched, finished, loved : int
        Numbers of friends.
    names : sequence of str
        Of all of them, in the order of :func:`~firetv.proof.social_proof`.
    content_type : str, optional
    names_from, names_upto : int
        Friends are named where they are not fewer, and not more, than these.

    Examples
    --------
    >>> sentence(3, 2, 2, ["Ana", "Ben", "Cara"], "movie")
    'Ana and Ben loved this movie'
    >>> sentence(3, 1, 0, ["Ana", "Ben", "Cara"], "series")
    'A friend finished this series'
    """
    who, did = _strongest(watched, finished, loved, names, names_from, names_upto)
    who = "A friend" if who == "a friend" else who
    noun = NOUNS.get(str(content_type).casefold(), "title")
    return TEMPLATES["notification"].format(who=who, did=did, noun=noun)


def _strongest(
    watched: int, finished: int, loved: int, names: Sequence[str], names_from: int, names_upto: int
) -> tuple[str, str]:
    """Who did the strongest thing that anybody did, and what that is."""
    counts = {"loved": loved, "finished": finished, "watched": watched}
    did = next(did for did, number in counts.items() if number)
    number = counts[did]
    if names_from <= number <= names_upto:
        return together(names[:number]), did
    return ("a friend" if number == 1 else f"{number} friends"), did


def together(names: Sequence[str]) -> str:
    """Name several people, or titles.

    Examples
    --------
    >>> together(["Ana"]), together(["Ana", "Ben"]), together(["Ana", "Ben", "Cleo"])
    ('Ana', 'Ana and Ben', 'Ana, Ben and Cleo')
    """
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Lay out rows of cells as lines whose columns begin, or end, below each other.

    Parameters
    ----------
    rows : sequence of sequences of str
        All of the same length.
    right : collection of int
        Columns that end below each other, as numbers do.

    Examples
    --------
    >>> aligned([("title", "n"), ("Alien", "12"), ("M", "3")], right=[1])
    ['title   n', 'Alien  12', 'M       3']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        padded = (c.rjust(w) if n in right else c.ljust(w) for n, (c, w) in cells)
        lines.append("  ".join(padded).rstrip())
    return lines
