"""For whom each title of a group's list is, and why: the ledger that made it in words.

Where the ledger has parts by member, a sentence names those who make up most of a title's score,
and the factors of their weights that changed it noticeably. Where a strategy gives the group one
score, nobody's share is made up: the sentence says what the score is of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from firetv.data import Dataset
from firetv.fairness import (
    GFAR,
    EFGreedy,
    EPFuzzDA,
    GreedyLeastMisery,
    Nash,
    ParetoLevels,
    SPGreedy,
    Turns,
)
from firetv.features import genres
from firetv.groups import GROUP, Unseen
from firetv.panels import Strategy
from firetv.sentences import TEMPLATES, aligned, together
from firetv.slate import EMPTY, Slate
from firetv.strategies import (
    LITTLE,
    Approval,
    Average,
    AverageWithoutMisery,
    Borda,
    Copeland,
    LeastMisery,
    MostPleasure,
    Multiplicative,
    Plurality,
)

STRATEGIES: Mapping[str, Strategy] = {
    "average": Average(),
    "multiplicative": Multiplicative(),
    "least-misery": LeastMisery(),
    "most-pleasure": MostPleasure(),
    "average-without-misery": AverageWithoutMisery(),
    "borda": Borda(),
    "copeland": Copeland(),
    "approval": Approval(),
    "plurality": Plurality(),
    "turns": Turns(),
    "greedy-least-misery": GreedyLeastMisery(),
    "spgreedy": SPGreedy(),
    "efgreedy": EFGreedy(),
    "gfar": GFAR(),
    "ep-fuzzda": EPFuzzDA(),
    "xpo": ParetoLevels("X"),
    "npo": ParetoLevels("N"),
    "nash": Nash(),
}

PRIOR = 5.0  # viewings of everybody's, beside which somebody's genres are weighed
MOST = 2 / 3  # of what members contribute to a title: those who make it up are named
AS_MUCH = 0.9  # of the least that is named: whoever contributes as much is named too
NOTICEABLE = 0.1  # of all contributions to a title: less than this is no reason
MOST_NAMED = 4  # members in a sentence: more are counted,
MOST_LEFT_OUT = 2  # unless no more than these are left out
EQUAL = 1e-6  # weights that differ by less are the same
MOST_COLUMNS = 8  # members with a column of their own on a screen

ONE_SCORE = "one score for all of you"
SCORES: Mapping[type, str] = {  # what a score is of that is no sum over members
    LeastMisery: "the opinion of whoever likes it least",
    MostPleasure: "the opinion of whoever likes it most",
    Copeland: "how many other titles a majority likes less",
    GreedyLeastMisery: "the mean opinion, and what the least satisfied of you gets",
    ParetoLevels: "how often it is among your best, whoever counts more",
}
VOTES = (Approval, SPGreedy, EFGreedy)  # where a title may have nobody's vote
NO_VOTE = "nobody's vote decides here, but the mean opinion"
IN_FULL = (LeastMisery, MostPleasure)  # whose members count in full, however little they weigh
NEW = {
    "all": " of what is new to all of you",
    "some": " of what is new to one of you at least",
    "off": "",
}
BECAUSE = {  # of counting more, and of counting less; other factors are called by their names
    "dissatisfaction": ("got less before", "got more before"),
    "presence": ("there for longer", "there for less of the evening"),
}
_PART = re.compile(r"member:(\d+)(?:/(.+))?")


def why(lists: Slate, names: Sequence[str], strategy: Strategy) -> list[str]:
    """Say for whom each title is.

    Parameters
    ----------
    lists : Slate of one request
        As :class:`~firetv.groups.GroupStep` makes it.
    names : sequence of str
        Of the members present, in the ledger's order.
    strategy : Strategy
        That made the list.

    Returns
    -------
    list of str
        One for each slot that is not empty.

    Raises
    ------
    ValueError
        If the slate is of several requests, or its ledger is of more members.
    """
    if len(lists.requests) != 1:
        raise ValueError("a list is put in words for one request at a time")
    slots = np.flatnonzero(lists.grid[0] != EMPTY)
    if len(names) == 1:
        return [f"{names[0]}'s own list"] * len(slots)
    if GROUP in lists.parts:
        score = SCORES.get(type(strategy))
        return [f"{ONE_SCORE}, {score}" if score else ONE_SCORE] * len(slots)
    shares, changes = _by_member(lists, len(names))
    return [
        _sentence(
            shares[:, slot], {name: c[:, slot] for name, c in changes.items()}, names, strategy
        )
        for slot in slots
    ]


def favourites(
    items: np.ndarray, views: pd.DataFrame, names: Sequence[str], data: Dataset
) -> list[str]:
    """Say of some titles that they are of the favourite genre of whoever likes them most.

    A favourite is the genre that somebody watches most beyond what people in general do. Nobody
    minds a title that is in the better half of everybody's own order.

    Returns
    -------
    list of str
        One for each title, empty where it does not hold.
    """
    genre = genres(data).matrix
    members = views.drop_duplicates("member")["user"].to_numpy()
    if len(members) < 2 or not genre.shape[1]:
        return [""] * len(items)
    watched = data.matrix()[np.maximum(members, 0)] @ genre
    usual = np.asarray(data.item_counts @ genre) + 1e-12
    usual /= usual.sum()
    own = watched.toarray() + PRIOR * usual
    lift = np.log(own / own.sum(axis=1, keepdims=True) / usual)
    known = (members >= 0) & (watched.sum(axis=1) > 0)
    best = np.where(known, lift.argmax(axis=1), -1)
    half, found = np.count_nonzero(data.item_counts) / 2, {}
    for item, view in views.groupby("item", sort=False):
        first = view["opinion"].to_numpy().argmax()
        if best[first] < 0 or not genre[item, best[first]]:
            found[item] = ""
            continue
        words = TEMPLATES["favourite"].format(name=names[first])
        minds = (view["rank"] > half).any()
        found[item] = words if minds else f"{words}, {TEMPLATES['nobody minds']}"
    return [found[item] for item in items.tolist()]


def _by_member(lists: Slate, size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What each member contributes in all, (M, k), and of it what each factor changed."""
    shares = np.zeros((size, lists.shape[1]))
    changes: dict[str, np.ndarray] = {}
    for part, values in lists.parts.items():
        found = _PART.fullmatch(part)
        if found is None or not values.any():
            continue
        member, factor = int(found[1]), found[2]
        if member > size:
            raise ValueError(f"the ledger has a member {member}, but there are {size} names")
        shares[member - 1] += values[0]
        if factor:
            changes.setdefault(factor, np.zeros(shares.shape))[member - 1] = values[0]
    return shares, changes


def _sentence(
    share: np.ndarray, changes: Mapping[str, np.ndarray], names: Sequence[str], strategy: Strategy
) -> str:
    if isinstance(strategy, VOTES) and share.sum() <= LITTLE * (1 + LITTLE):
        return NO_VOTE
    if isinstance(strategy, Turns):
        words = f"{names[share.argmax()]}'s turn"
    else:
        words = _for_whom(share, names)
    for name, reasons in _counting(share, changes, names).items():
        alone = words in (f"{name}'s turn", f"mostly for {name}")
        told = (f"{direction}: {together(because)}" for direction, because in reasons.items())
        words += f"{', who' if alone else f'; {name}'} counts {', but '.join(told)}"
    return words


def _counting(
    share: np.ndarray, changes: Mapping[str, np.ndarray], names: Sequence[str]
) -> dict[str, dict[str, list[str]]]:
    """Whom each factor changed most, and why they count ``more``, or ``less``."""
    found: dict[str, dict[str, list[str]]] = {}
    for factor, change in changes.items():
        member = np.abs(change).argmax()
        if change.any() and abs(change[member]) >= NOTICEABLE * np.abs(share).sum():
            more, less = BECAUSE.get(factor, (factor, factor))
            heavier = change[member] * share[member] > 0  # an aversion that counts more, costs
            direction, because = ("more", more) if heavier else ("less", less)
            found.setdefault(names[member], {}).setdefault(direction, []).append(because)
    return found


def _for_whom(share: np.ndarray, names: Sequence[str]) -> str:
    """Name those who make up most of a title's score, and those who are against it."""
    if (share > 0).any():
        for_it = _most(share.clip(0))
        everybody = "for both of you" if len(names) == 2 else "for all of you"
        words = everybody if for_it.all() else f"mostly for {_named(for_it, names)}"
        against = share <= -NOTICEABLE * np.abs(share).sum()
        if not against.any():
            return words
        return f"{words}, though {_named(against, names)} would rather not"
    if (share < 0).any():  # a product of opinions, as a sum of logarithms
        doubtful = _most(-share)
        if doubtful.all():
            return "nobody much less convinced than the others"
        return f"least convinced: {_named(doubtful, names)}"
    return "adds nothing for any of you"


def _most(amounts: np.ndarray) -> np.ndarray:
    """Mark the fewest members who make up most of an amount, and those who have as much."""
    ordered = np.sort(amounts)[::-1]
    total = np.cumsum(ordered)
    last = np.searchsorted(total, MOST * total[-1] * (1 - 1e-6))
    return amounts >= AS_MUCH * ordered[last]


def _named(marked: np.ndarray, names: Sequence[str]) -> str:
    some, others = (
        [name for name, there in zip(names, mark, strict=True) if there]
        for mark in (marked, ~marked)
    )
    if len(some) <= MOST_NAMED:
        return together(some)
    but = 0 < len(others) <= MOST_LEFT_OUT
    return f"all of you but {together(others)}" if but else f"{len(some)} of you"


# ------------------------------------------------------------------ for the command line


def ids_of(data: Dataset, users: np.ndarray) -> np.ndarray:
    """Ids of users, ``guest`` for those who are not in the data."""
    return np.where(users < 0, "guest", data.user_ids[users])


def names_of(data: Dataset, users: np.ndarray) -> list[str]:
    """Name users by their profiles, else by their ids; namesakes get their ids too."""
    ids = pd.Series(ids_of(data, users), dtype="str")
    if "name" not in data.users:
        return ids.tolist()
    names = data.users["name"].iloc[users].reset_index(drop=True).mask(users < 0).fillna(ids)
    return names.mask(names.duplicated(keep=False), names + " (" + ids + ")").tolist()


def table(
    lists: Slate, views: pd.DataFrame, names: Sequence[str], data: Dataset, strategy: Strategy
) -> pd.DataFrame:
    """Lay out one request's list beside what its members think of it.

    Parameters
    ----------
    lists, names, strategy
        See :func:`why`.
    views : DataFrame
        Of :meth:`~firetv.groups.GroupStep.views`.
    data : Dataset
        Whose catalogue has the titles.

    Returns
    -------
    DataFrame
        ``rank``, ``title``, ``why``; and for each member a column of the title's place in their
        own order of the group's candidates, under their name.
    """
    items = lists.items[0][lists.items[0] != EMPTY]
    told = why(lists, names, strategy)
    if GROUP not in lists.parts:  # else a title is for nobody in particular
        besides = favourites(items, views, names, data)
        told = ["; ".join(filter(None, pair)) for pair in zip(told, besides, strict=True)]
    table = pd.DataFrame(
        {
            "rank": np.arange(1, len(items) + 1),
            "title": pd.array(data.titles[items], "str"),
            "why": pd.array(told, "str"),
        }
    )
    places = views["rank"].to_numpy().reshape(len(names), -1).T  # views are by member, then title
    return pd.concat([table, pd.DataFrame(places, columns=list(names))], axis=1)


def records(
    told: pd.DataFrame, lists: Slate, views: pd.DataFrame, data: Dataset
) -> list[dict[str, Any]]:
    """Say the same for a program: a dict for each title, with each member's view of it.

    Parameters
    ----------
    told : DataFrame
        Of :func:`table`.
    lists, views, data
        See there.
    """
    columns = ["user_id", "rank", "opinion", "weight", "because"]
    views = views.assign(user_id=ids_of(data, views["user"].to_numpy()))
    views = views.astype({"opinion": float, "weight": float}).round(6)
    of = {item: frame[columns].to_dict("records") for item, frame in views.groupby("item")}
    found = []
    for slot, (rank, title, reason) in enumerate(told.iloc[:, :3].itertuples(index=False)):
        item = lists.items[0, slot]
        found.append(
            {
                "rank": rank,
                "content_id": data.item_ids[item],
                "title": title,
                "score": round(float(lists.scores[0, slot]), 6),
                "why": reason,
                "views": of[item],
            }
        )
    return found


def as_text(
    told: pd.DataFrame, views: pd.DataFrame, strategy: str, moment: str = "", unseen: Unseen = "all"
) -> str:
    """Lay out a list for reading.

    Parameters
    ----------
    told, views : DataFrame
        See :func:`table`.
    strategy : str
        Its name.
    moment : str
        What is known of it, in words.
    unseen : {"all", "some", "off"}
        See :class:`~firetv.groups.ForGroups`.
    """
    names, shown, below = told.columns[3:], told.iloc[:, :2], ""
    if len(names) == 1:
        above = f"For {names[0]} alone"
    else:
        who = together(names) if len(names) <= MOST_COLUMNS else f"{len(names)} people"
        above, below = f"For {who}, by {strategy}", _caption(len(names), unseen)
        shown, reasons = pd.concat([shown, _few(told.iloc[:, 3:])], axis=1), told.iloc[:, 2]
        if len(told) > 1 and reasons.nunique() == 1:
            below = f"Every title: {reasons[0]}.\n{below}"
        else:
            shown = pd.concat([shown, reasons], axis=1)
    head = "\n".join(filter(None, (above, moment)))
    foot = "\n".join(filter(None, (below, _weights(views, names, strategy))))
    return "\n\n".join(filter(None, (head, _columns(shown), foot)))


def _few(places: pd.DataFrame) -> pd.DataFrame:
    """Everybody's places, or where they would not fit on a screen, those at the ends."""
    if places.shape[1] <= MOST_COLUMNS:
        return places
    middle = places.quantile(0.5, axis=1, interpolation="lower")
    return pd.DataFrame({"best": places.min(axis=1), "middle": middle, "worst": places.max(axis=1)})


def _caption(size: int, unseen: Unseen) -> str:
    new = NEW[unseen].replace("all", "both") if size == 2 else NEW[unseen]
    under = "Under each name" if size <= MOST_COLUMNS else "Best, middle, worst"
    return f"{under}: the title's place in a member's own order{new}."


def _weights(views: pd.DataFrame, names: Sequence[str], strategy: str) -> str:
    """Say how much each member counts, unless all count the same."""
    weights = views.groupby("member")["weight"].first()
    if np.ptp(weights) < EQUAL:
        return ""
    if isinstance(STRATEGIES.get(strategy), IN_FULL):
        return f"Weights change nothing: {strategy} counts everybody in full."
    if len(names) > MOST_COLUMNS:
        return f"Weights: {weights.min():.1%} to {weights.max():.1%}."
    counted = (f"{name} {weight:.0%}" for name, weight in zip(names, weights, strict=True))
    return f"Weights: {', '.join(counted)}."


def _columns(shown: pd.DataFrame) -> str:
    """Align text to the left and numbers to the right."""
    numbers = [n for n, kind in enumerate(shown.dtypes) if pd.api.types.is_numeric_dtype(kind)]
    return "\n".join(aligned([shown.columns, *shown.astype(str).to_numpy()], numbers))
