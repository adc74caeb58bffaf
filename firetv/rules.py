"""Hand-written rules of what suits a moment: sci-fi at night, news in the morning.

The packaged rules are in ``rules.yaml``, a line and a reason each; a user's file of the same form
overrides them line by line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from firetv.moments import VALUES
from firetv.schema import DataError, Problem
from firetv.yaml_files import quote, read_yaml, sections

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
    rules = list(_packaged()) if packaged else []
    rules += _read(Path(path), known) if path is not None else []
    return Rules(tuple({rule.key: rule for rule in rules}.values()))


@cache  # whoever fits a re-ranker by rules asks for them
def _packaged() -> tuple[Rule, ...]:
    return tuple(_read(PACKAGED, VALUES))


def _read(path: Path, known: Mapping[str, Sequence[str]]) -> list[Rule]:
    """The rules of one file, or all that is wrong with it."""
    raw, problems = read_yaml(path, FORM, "rules", MOST_BYTES)
    rules: list[Rule] = []
    for dimension, values in sections(raw, path.name, known, "dimension", problems):
        place = f"{path.name}, {dimension}"
        for value, lines in sections(values, place, known[dimension], "value", problems):
            rules += _rules(lines, dimension, value, f"{place}/{value}", problems)
    counts = Counter(rule.key for rule in rules)
    again = {rule.key: rule for rule in reversed(rules) if counts[rule.key] > 1}
    for key, rule in again.items():
        place = f"{path.name}, {rule.dimension}/{rule.value}, {rule.family} {rule.level}"
        problems.append(Problem(place, "", f"is there {counts[key]} times", "Keep one."))
    if problems:
        raise DataError(*problems)
    return rules


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
        place = f"{where}, {quote(line)}"
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
    unknown = [quote(key) for key in line if key not in KEYS]
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
        reason = f"has times {quote(times)}" if "times" in line else "has no times"
        yield reason, f"Give a number from {LEAST:g} to {MOST:g}; 1 switches a rule off."
    why = line.get("why")
    if not (isinstance(why, str) and why.strip()):
        yield "does not say why", "Give a source or a reason as why."
