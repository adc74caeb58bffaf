"""Hand-written rules of what suits a moment: sci-fi at night, news in the morning.

The packaged rules are in ``rules.yaml``, a line and a reason each; a user's file of the same form
overrides them line by line.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from firetv.moments import VALUES
from firetv.schema import DataError, Problem

PACKAGED = Path(__file__).with_name("rules.yaml")
FAMILIES = ("genre", "type", "decade", "minutes")  # of item features, as in `Features.names`
KEYS = (*FAMILIES, "times", "why")
LEAST, MOST = 0.1, 10.0  # multipliers; beyond them a rule would drown all else that is known
MOST_BYTES = 1_000_000
FORM = '{genre: Sci-Fi, times: 1.3, why: "..."}'


@dataclass(frozen=True)
class Rule:
    """One multiplier for the titles with one feature, in one value of a dimension of context."""

    dimension: str
    value: str
    family: str  # such as "genre"
    level: str  # such as "Sci-Fi"
    multiplier: float
    why: str

    @property
    def key(self) -> tuple[str, ...]:
        """What the rule is about, whatever the case: two rules of one key contradict."""
        about = (self.dimension, self.value, self.family, self.level)
        return tuple(text.casefold() for text in about)


@dataclass(frozen=True)
class Rules:
    """Rules, at most one for each dimension, value, family and level.

    Examples
    --------
    >>> rules = read_rules()
    >>> names = ["genre:Sci-Fi", "genre:War", "type:news"]
    >>> np.exp(rules.log_multipliers("daypart", ["morning", "night"], names)).round(2)
    array([[1. , 1. , 1.8],
           [1.4, 1. , 1. ]])
    >>> rules.themes("Halloween")
    ('Horror', 'Thriller', 'Mystery')
    """

    rules: tuple[Rule, ...]

    def log_multipliers(
        self, dimension: str, values: Sequence[str], names: Sequence[str]
    ) -> np.ndarray:
        """Log of the multiplier of each feature in each value; 0 where there is no rule.

        Parameters
        ----------
        dimension : str
            Such as ``daypart``.
        values : sequence of str
            Such as ``morning``; whatever the case.
        names : sequence of str
            ``family:level``, as in `Features.names`; whatever the case.

        Returns
        -------
        float64 array of shape (len(values), len(names))

        Raises
        ------
        DataError
            If there is no such dimension.
        """
        if dimension not in VALUES:
            known = ", ".join(VALUES)
            raise DataError(f"rules: {dimension!r} is not a dimension. Use one of {known}.")
        logs = {
            (rule.value.casefold(), f"{rule.family}:{rule.level}".casefold()): rule.multiplier
            for rule in self.rules
            if rule.dimension == dimension
        }
        pairs = ((value.casefold(), name.casefold()) for value in values for name in names)
        multipliers = np.array([logs.get(pair, 1.0) for pair in pairs], dtype=np.float64)
        return np.log(multipliers).reshape(len(values), len(names))

    def themes(self, festival: str) -> tuple[str, ...]:
        """Genres, types and other levels that a festival lifts, strongest first."""
        about = ("festival", festival.casefold())
        lifted = [rule for rule in self.rules if rule.key[:2] == about and rule.multiplier > 1]
        return tuple(rule.level for rule in sorted(lifted, key=lambda rule: -rule.multiplier))

    def to_frame(self) -> pd.DataFrame:
        """Return a table with a row per rule and a column per field of `Rule`."""
        names = [field.name for field in fields(Rule)]
        frame = pd.DataFrame([asdict(rule) for rule in self.rules], columns=names)
        return frame.astype(dict.fromkeys(names, "str") | {"multiplier": "float64"})


def read_rules(
    path: Path | None = None, *, packaged: bool = True, dayparts: Sequence[str] | None = None
) -> Rules:
    """Read the packaged rules, overridden line by line by a file of one's own.

    A line for the same dimension, value, family and level, whatever the case, replaces the packaged
    one, ``times: 1`` switches it off, and other lines are added.

    Parameters
    ----------
    path : Path, optional
        A YAML file of the form of ``rules.yaml``.
    packaged : bool
        False leaves the packaged rules out.
    dayparts : sequence of str, optional
        Names of dayparts that ``path`` may use, where they are not those of `moments.VALUES`.

    Raises
    ------
    DataError
        With every problem of the file: its place, what is wrong and what to do.
    """
    known = dict(VALUES) if dayparts is None else {**VALUES, "daypart": tuple(dayparts)}
    rules = _read(PACKAGED, VALUES) if packaged else []
    rules += _read(Path(path), known) if path is not None else []
    return Rules(tuple({rule.key: rule for rule in rules}.values()))


def _quote(what: object) -> str:
    """Quote a part of the file briefly, however deep it is nested."""
    brief = reprlib.Repr()
    brief.maxlevel = 2  # a line, and its list of levels
    return brief.repr(what)


class _Loader(yaml.SafeLoader):
    """The safe loader; it also gathers keys given twice, of which YAML keeps only the last."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.repeated: list[yaml.ScalarNode] = []

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, object]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        first = {key.value: key for key in reversed(keys)}
        self.repeated += [key for key in keys if first[key.value] is not key]
        return super().construct_mapping(node, deep)


def _read(path: Path, known: Mapping[str, Sequence[str]]) -> list[Rule]:
    """The rules of one file, or all that is wrong with it."""
    raw, problems = _parse(_text(path), path.name)
    rules: list[Rule] = []
    for dimension, values in _sections(raw, path.name, known, "dimension", problems):
        place = f"{path.name}, {dimension}"
        for value, lines in _sections(values, place, known[dimension], "value", problems):
            rules += _rules(lines, dimension, value, f"{place}/{value}", problems)
    counts = Counter(rule.key for rule in rules)
    again = {rule.key: rule for rule in reversed(rules) if counts[rule.key] > 1}
    for key, rule in again.items():
        place = f"{path.name}, {rule.dimension}/{rule.value}, {rule.family} {rule.level}"
        problems.append(Problem(place, "", f"is there {counts[key]} times", "Keep one."))
    if problems:
        raise DataError(*problems)
    return rules


def _text(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
    except OSError as error:
        reason = f"cannot be read, {error.strerror}"
        raise DataError(Problem(str(path), "", reason, "Give the path of a file.")) from error
    if len(text) > MOST_BYTES:
        reason = f"is bigger than {MOST_BYTES:,} bytes"
        raise DataError(Problem(path.name, "", reason, "Keep nothing but rules in it."))
    return text


def _parse(text: bytes, where: str) -> tuple[object, list[Problem]]:
    """What the YAML holds, and the keys that it gives twice."""
    try:
        loader = _Loader(text)
        raw = loader.get_single_data()
    # Besides its own errors, yaml raises ValueError for a day such as 2026-02-31, and it recurses.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = f"is not YAML, {' '.join(str(error).split())}"
        remedy = f"Write UTF-8, and lines such as {FORM}."
        raise DataError(Problem(where, "", reason, remedy)) from error
    remedy = "Join the two, of which YAML keeps only the last."
    places = [f"{where}, line {key.start_mark.line + 1}, {key.value}" for key in loader.repeated]
    return raw, [Problem(place, "", "is there twice", remedy) for place in places]


def _sections(
    raw: object, where: str, known: Iterable[str], what: str, problems: list[Problem]
) -> list[tuple[str, object]]:
    """What is under each known name, in the known spelling; add what is wrong to `problems`."""
    if raw is None:  # all its lines are comments
        return []
    spelling = {name.casefold(): name for name in known}
    remedy = f"Use {', '.join(spelling.values())}."
    if not isinstance(raw, dict):
        problems.append(Problem(where, "", f"is not of the form `{what}: ...`", remedy))
        return []
    sections = []
    for name, below in raw.items():
        if str(name).casefold() in spelling:
            sections.append((spelling[str(name).casefold()], below))
        else:
            place = f"{where}, {_quote(name)}"
            problems.append(Problem(place, "", f"is not a known {what}", remedy))
    return sections


def _rules(
    lines: object, dimension: str, value: str, where: str, problems: list[Problem]
) -> list[Rule]:
    """The rules of one value of a dimension; add what is wrong to `problems`."""
    if not isinstance(lines, list | None):
        problems.append(Problem(where, "", "is not a list of lines", f"Write - {FORM}."))
        return []
    rules: list[Rule] = []
    for line in lines or ():
        faults = list(_faults(line))
        place = f"{where}, {_quote(line)}"
        problems += [Problem(place, "", reason, remedy) for reason, remedy in faults]
        if not faults:
            family = next(key for key in line if key in FAMILIES)
            times, why = float(line["times"]), line["why"].strip()
            levels = (level.strip() for level in _levels(line[family]))
            rules += [Rule(dimension, value, family, level, times, why) for level in levels]
    return rules


def _levels(levels: object) -> list:
    """One level, or a list of them, as a list."""
    return levels if isinstance(levels, list) else [levels]


def _faults(line: object) -> Iterator[tuple[str, str]]:
    """What is wrong with a line, and what to do."""
    if not isinstance(line, dict):
        yield "is not a line of a rule", f"Write {FORM}."
        return
    unknown = [_quote(key) for key in line if key not in KEYS]
    named = [key for key in line if key in FAMILIES]
    if unknown:
        yield f"has the unknown key {', '.join(unknown)}", f"Use {', '.join(KEYS)}."
    elif len(named) != 1:
        yield f"names {len(named)} attributes", f"Name one of {', '.join(FAMILIES)} in each line."
    for key in named:
        levels = _levels(line[key])
        if not levels or not all(isinstance(level, str) and level.strip() for level in levels):
            yield f"has a {key} that is not text", "Write text, or a list of it; quote numbers."
    times = line.get("times")
    number = isinstance(times, int | float) and not isinstance(times, bool)
    if not number or not LEAST <= times <= MOST:
        reason = f"has times {_quote(times)}" if "times" in line else "has no times"
        yield reason, f"Give a number from {LEAST:g} to {MOST:g}; 1 switches a rule off."
    why = line.get("why")
    if not (isinstance(why, str) and why.strip()):
        yield "does not say why", "Give a source or a reason as why."
