"""A television world with planted, recorded truth, to check what a method claims to recover.

A user chooses from the whole catalogue, repeats included, by

    p(item | user, context)  ~  popularity(item) * <taste(user), taste(item)> * exp(lift)

Tastes are not negative, as in Poisson factorisation (Gopalan, Hofman and Blei, 2015); the lift is
the sum, over the dimensions of the context, of the mean log-lift of the item's genres. Being a
mixture over dimensions of taste, this is drawn in three steps (dimension, class of genres, item)
from tables that all users share: exact, and an event costs the same however long the catalogue.

With probability ``influence`` a choice is instead copied from a friend's viewings of the week
before (weeks from ``start``), whatever the context: each viewing counts by the strength of the
friendship. Users without such viewings never copy.

Hours are UTC in every region. Hour and day of the week go together; weather, festival and
companion depend neither on them, nor on each other, nor on taste.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from datetime import date, timedelta
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet
from scipy import sparse
from scipy.special import expit, ndtri, softmax
from tqdm import tqdm

from firetv.data import SUFFIXES, Tables
from firetv.schema import REACTIONS, SCHEMAS, DataError

VERSION = 1  # raise it when the same parameters give other data
CHUNK = 1 << 16  # events held as a table at once; the output does not depend on it
WEEK = 7  # days

KNOWN_DATES = (date(2024, 1, 1), date(2025, 12, 31))  # as far as the festivals go
FESTIVALS = (  # name, days, the last of them; where two overlap the later row holds
    ("New Year", 3, ("2024-01-01", "2025-01-01")),
    ("Lunar New Year", 7, ("2024-02-10", "2025-01-29")),
    ("Valentine's Day", 4, ("2024-02-14", "2025-02-14")),
    ("Holi", 4, ("2024-03-25", "2025-03-14")),
    ("Eid", 6, ("2024-04-10", "2025-03-31")),
    ("Diwali", 6, ("2024-11-03", "2025-10-23")),
    ("Halloween", 8, ("2024-10-31", "2025-10-31")),
    ("Christmas", 9, ("2024-12-26", "2025-12-26")),
)
CONTEXTS: Mapping[str, tuple[str, ...]] = {
    "daypart": ("morning", "afternoon", "evening", "night"),  # from 6, 12, 18 and 23 o'clock
    "daytype": ("weekday", "weekend"),
    "weather": ("sunny", "cloudy", "rainy", "snowy"),
    "festival": tuple(name for name, _, _ in FESTIVALS),
    "companion": ("alone", "partner", "family", "friends"),
}
DAYPART_OF_HOUR = np.repeat([3, 0, 1, 2, 3], [6, 6, 6, 5, 1])
HOUR_WEIGHTS = (  # weekday, weekend
    (2, 1, 1, 1, 1, 2, 4, 6, 6, 4, 3, 3, 4, 4, 4, 5, 6, 8, 11, 14, 16, 14, 10, 5),
    (4, 2, 1, 1, 1, 1, 2, 4, 6, 8, 9, 9, 9, 9, 9, 9, 10, 10, 12, 14, 15, 14, 11, 7),
)
WEEKDAY_WEIGHTS = np.array([0.90, 0.88, 0.90, 0.95, 1.10, 1.35, 1.30])  # Monday first
COMPANION_WEIGHTS = (0.45, 0.25, 0.20, 0.10)
HOUSEHOLD_WEIGHTS = (0.28, 0.34, 0.16, 0.13, 0.06, 0.03)  # of 1 to 6 people
CLIMATES = {  # region: long-run shares of the weather conditions
    "north": (0.25, 0.30, 0.25, 0.20),
    "south": (0.55, 0.25, 0.15, 0.05),
    "east": (0.35, 0.25, 0.25, 0.15),
    "west": (0.30, 0.25, 0.40, 0.05),
}
WEATHER_STAYS = 0.5  # probability that a day repeats the last one, before its climate is asked
AGE_BANDS = (18, 35, 55)  # years; tastes of a band lean the same way
OCCUPATIONS = ("artist", "clerk", "doctor", "engineer", "retired", "student", "teacher", "trader")

# Log-multipliers that one would guess and, marked !, some that contradict the guess, so that
# learning can beat rules. Other cells are random; then the genres of a value are centred.
LIFTS: Mapping[str, Mapping[str, float]] = {
    "morning": {"News": 0.9, "Animation": 0.5, "Horror": -0.8},
    "afternoon": {"Family": 0.4, "Documentary": 0.4, "Crime": -0.4},
    "evening": {"Drama": 0.4, "Comedy": -0.4},  # ! comedy
    "night": {"Sci-Fi": 0.7, "Horror": 0.5, "Action": -0.5, "Family": -0.7},  # ! action
    "weekday": {"News": 0.3, "Drama": 0.2},
    "weekend": {"Sport": 0.6, "Family": 0.3, "Documentary": 0.4},  # ! documentary
    "sunny": {"Sport": -0.3, "Horror": 0.5},  # ! both
    "cloudy": {"Drama": 0.3},
    "rainy": {"Family": 0.6, "Romance": 0.3, "Comedy": -0.5},  # ! comedy
    "snowy": {"Fantasy": 0.5, "Documentary": 0.4},
    "New Year": {"Comedy": 0.7, "News": 0.4},
    "Lunar New Year": {"Action": 0.6, "Family": 0.6},
    "Valentine's Day": {"Romance": 1.0, "Crime": 0.6},  # ! crime
    "Holi": {"Romance": 0.5, "Comedy": 0.5},
    "Eid": {"Family": 0.6, "Drama": 0.5},
    "Diwali": {"Family": 0.8, "Drama": 0.4},
    "Halloween": {"Horror": 1.2, "Thriller": 0.5},
    "Christmas": {"Family": 0.9, "Romance": 0.4, "Fantasy": -0.4},  # ! fantasy
    "alone": {"Thriller": 0.4, "Documentary": 0.3},
    "partner": {"Romance": 0.6, "Sci-Fi": 0.3},
    "family": {"Family": 0.8, "Animation": 0.6, "Horror": -0.9},
    "friends": {"Sport": 0.6, "Horror": 0.4, "Comedy": -0.4},  # ! comedy
}
RANDOM_LIFTS = (0.12, 0.35)  # share of the other cells that are not 0, and their deviation


class _Kind(NamedTuple):
    share: float  # of the catalogue
    minutes: tuple[float, float]  # mean, deviation
    leads: tuple[str, ...]  # the first genre of a title
    others: tuple[str, ...]  # up to two more
    classes: int  # combinations of genres


STORIES = ("Action", "Animation", "Comedy", "Crime", "Documentary", "Drama", "Family", "Fantasy")
STORIES += ("Horror", "Romance", "Sci-Fi", "Thriller")
KINDS = {
    "movie": _Kind(0.45, (105, 18), STORIES, STORIES, 24),
    "series": _Kind(0.28, (48, 10), STORIES, STORIES, 16),
    "news": _Kind(0.08, (30, 8), ("News",), ("Documentary",), 2),
    "sport": _Kind(0.09, (110, 25), ("Sport",), ("Documentary", "Drama"), 3),
    "kids": _Kind(0.10, (25, 8), ("Family", "Animation"), ("Comedy", "Fantasy"), 4),
}
GENRES = tuple(sorted({*STORIES, "News", "Sport"}))
MOODS = "Bright Broken Brave Crimson Distant Endless Golden Hidden Last Lucky Midnight Quiet Secret"
PLACES = "Accra Bergen Cusco Delhi Essen Fez Galway Hanoi Izmir Jaipur Kyoto Lisbon Mumbai Naples"

# Liking = intercept + slope * log(match of tastes, 1 on average) + noise * a normal variable.
COMPLETION = {"intercept": 0.8, "slope": 0.9, "noise": 1.0}  # the logit of the share watched
RATING = {"intercept": 2.9, "slope": 0.8, "noise": 0.6}  # rounded to half stars within 1..5
LOVE, LIKE = 4.5, 3.0  # lowest rating of a love and of a like; below is a dislike


@dataclass(frozen=True)
class World:
    """Parameters of a world; the same ones give the same files, byte for byte.

    Worlds that differ in one strength share all that does not depend on it, such as people,
    catalogue and weather. Parameters out of range raise one `DataError` that names them all.
    """

    users: int = 1000
    content: int = 5000
    watch_events: int = 100_000
    seed: int = 0
    start: str = "2024-01-01"  # first day, UTC
    days: int = 364
    dimensions: int = 12  # of latent taste
    taste_strength: float = 3.0  # 0: all users are alike
    popularity_skew: float = 0.7  # exponent of Zipf's law; 0: all titles are alike
    context_strength: float = 1.0  # factor on all log-lifts
    friends: float = 8.0  # average number
    homophily: float = 4.0  # log-odds of befriending the same rather than an orthogonal taste
    influence: float = 0.1  # probability of copying, where there is something to copy
    reaction_share: float = 0.2  # of the viewings
    companion: bool = True  # whether companions are recorded and matter

    def __post_init__(self) -> None:
        low = dict.fromkeys(("users", "content", "watch_events", "days", "dimensions"), 1)
        high = {"influence": 1, "reaction_share": 1, "days": 731, "popularity_skew": 10}
        high.update(dict.fromkeys(("taste_strength", "context_strength", "homophily"), 20))
        numbers = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "start"}
        problems = [
            f"{name} must be from {low.get(name, 0)} to {high.get(name, 'any number')}, not {value}"
            for name, value in numbers.items()
            if not low.get(name, 0) <= value <= high.get(name, 1e300)
        ]
        try:
            first = date.fromisoformat(self.start)
        except ValueError:
            problems.append(f"start must be a date such as {KNOWN_DATES[0]}, not {self.start!r}")
        else:
            span = first, first + timedelta(days=min(max(self.days, 1), 731) - 1)
            if span[0] < KNOWN_DATES[0] or span[1] > KNOWN_DATES[1]:
                known, own = (" to ".join(map(str, dates)) for dates in (KNOWN_DATES, span))
                problems.append(f"start and days must lie in {known}, not {own}")
        if problems:
            raise DataError(*(f"World: {problem}." for problem in problems))

    @property
    def dates(self) -> pd.DatetimeIndex:
        """The days, in order."""
        return pd.date_range(self.start, periods=self.days, unit="us")


@dataclass(frozen=True)
class Truth:
    """What was planted. Codes are positions in the tables of users and content.

    Attributes
    ----------
    world : World
    user_taste : float array of shape (users, dimensions)
        Rows sum to 1.
    item_taste : float array of shape (content, dimensions)
        Rows average 1. The match of tastes is ``user_taste @ item_taste.T``.
    popularity : float array of shape (content,)
        Sums to 1.
    activity : float array of shape (users,)
        Probability that a viewing is this user's, sums to 1.
    item_class : int array of shape (content,)
        Items of one class have the same type and genres.
    class_genres : float array of shape (classes, genres)
        Share of each genre in a class, rows sum to 1, columns in the order of `GENRES`.
    lifts : mapping of str to DataFrame
        For each dimension of `CONTEXTS`, log-lifts of values x genres, rows average 0.
    watch : DataFrame
        One row per row of watch_history: ``propensity``, the probability that this user then
        chose this item, copying included, and ``copied``.
    """

    world: World
    user_taste: np.ndarray
    item_taste: np.ndarray
    popularity: np.ndarray
    activity: np.ndarray
    item_class: np.ndarray
    class_genres: np.ndarray
    lifts: Mapping[str, pd.DataFrame]
    watch: pd.DataFrame

    def class_lifts(self) -> np.ndarray:
        """Log-lift of each class in each joint context, shape (contexts, classes).

        Rows are in the order of :func:`context_codes`; what is unknown lifts nothing.
        """
        total = np.zeros((1, len(self.class_genres)))
        for name in CONTEXTS:
            lift = np.pad(self.lifts[name].to_numpy(), ((0, 1), (0, 0))) @ self.class_genres.T
            total = (total[:, None] + lift).reshape(-1, total.shape[1])
        return total

    def probabilities(self, users: np.ndarray, contexts: pd.DataFrame) -> np.ndarray:
        """Probability of every item as an own choice, one that is not copied.

        Parameters
        ----------
        users : int array of shape (n,)
            User codes.
        contexts : DataFrame of n rows
            See :func:`context_codes`.

        Returns
        -------
        float array of shape (n, content)
            Rows sum to 1.
        """
        lift = np.exp(self.class_lifts()[context_codes(contexts)])
        weight = (self.user_taste[users] @ self.item_taste.T) * self.popularity
        weight *= lift[:, self.item_class]
        return weight / weight.sum(axis=1, keepdims=True)


def context_codes(events: pd.DataFrame) -> np.ndarray:
    """Code the joint context of each row, int64 of shape (n,).

    Parameters
    ----------
    events : DataFrame of n rows
        Any columns of `CONTEXTS`; absent columns and other values are unknown context. Daypart
        and day type are derived from ``timestamp`` where that is given.
    """
    labels = dict(events.items())
    if "timestamp" in labels:
        time = events["timestamp"].dt
        labels["daypart"] = np.array(CONTEXTS["daypart"])[DAYPART_OF_HOUR[time.hour.to_numpy()]]
        labels["daytype"] = np.where(time.day_of_week >= 5, "weekend", "weekday")
    unknown = np.full(len(events), None)
    return _joint(
        pd.Index(values).get_indexer(labels.get(name, unknown)) for name, values in CONTEXTS.items()
    )


def _joint(codes: Iterable[np.ndarray]) -> np.ndarray:
    sizes = [len(values) for values in CONTEXTS.values()]
    known = (np.where(code < 0, n, code) for code, n in zip(codes, sizes, strict=True))
    return np.ravel_multi_index(tuple(known), [n + 1 for n in sizes])


# ------------------------------------------------------------------ laws of choice


def _ladder(weights: np.ndarray | Sequence) -> np.ndarray:
    """Row number plus cumulative share, flat and rising: one search draws from any row."""
    share = np.cumsum(np.atleast_2d(weights), axis=1, dtype=np.float64)
    share /= share[:, -1:]
    return (share + np.arange(len(share))[:, None]).ravel()


def _pick(ladder: np.ndarray, width: int, row: np.ndarray | int, u: np.ndarray) -> np.ndarray:
    """Column of each row at quantile ``u`` in [0, 1)."""
    found = np.searchsorted(ladder, row + u, side="right")
    return np.minimum(found - row * width, width - 1)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # Not BLAS, whose last digits depend on threads and on the size of the chunk.
    return np.einsum("nd,nd->n", a, b)


@dataclass(frozen=True)
class _Choice:
    """Own choices: a dimension of taste given user and context, then a class, then an item."""

    truth: Truth
    lift: np.ndarray  # (contexts, classes), multipliers
    mass: np.ndarray  # (contexts, dimensions); <taste, mass> is a user's normaliser
    classes: np.ndarray  # ladder, a row for each context and dimension
    order: np.ndarray  # (content,), items sorted by class
    items: np.ndarray  # ladder, a row for each dimension, columns in that order
    first: np.ndarray  # (classes + 1,), where each class begins in that order
    edges: np.ndarray  # (dimensions, classes + 1), cumulative share there

    @classmethod
    def of(cls, truth: Truth) -> _Choice:
        order = np.argsort(truth.item_class, kind="stable")
        n_classes = len(truth.class_genres)
        first = np.searchsorted(truth.item_class[order], np.arange(n_classes + 1))
        weight = (truth.item_taste.T * truth.popularity)[:, order]
        items = _ladder(weight)
        share = items.reshape(weight.shape) - np.arange(len(weight))[:, None]
        edges = np.pad(share, ((0, 0), (1, 0)))[:, first]
        lift = np.exp(truth.class_lifts())
        joint = lift[:, None] * np.add.reduceat(weight, first[:-1], axis=1)
        classes = _ladder(joint.reshape(-1, n_classes))
        return cls(truth, lift, joint.sum(axis=2), classes, order, items, first, edges)

    def draw(self, users: np.ndarray, contexts: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Items, for uniforms of shape (n, 3)."""
        weight = np.cumsum(self.truth.user_taste[users] * self.mass[contexts], axis=1)
        topic = (weight[:, :-1] <= u[:, :1] * weight[:, -1:]).sum(axis=1)
        row = contexts * self.mass.shape[1] + topic
        group = _pick(self.classes, self.lift.shape[1], row, u[:, 1])
        low, high = self.edges[topic, group], self.edges[topic, group + 1]
        place = _pick(self.items, len(self.order), topic, low + u[:, 2] * (high - low))
        return self.order[np.clip(place, self.first[group], self.first[group + 1] - 1)]

    def propensity(self, users: np.ndarray, contexts: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Probability that these users choose these items."""
        truth = self.truth
        lift = self.lift[contexts, truth.item_class[items]]
        match = _dot(truth.user_taste[users], truth.item_taste[items])
        total = _dot(truth.user_taste[users], self.mass[contexts])
        return truth.popularity[items] * match * lift / total


@dataclass(frozen=True)
class _LastWeek:
    """What there is to copy: the viewings of friends in the week before."""

    friends: sparse.csr_array  # (users, users), strength
    ties: sparse.csr_array  # (users, users), strength x the friend's number of viewings
    ladder: np.ndarray  # cumulative ties, from 0
    total: np.ndarray  # (users,), sum of ties; 0 where there is nothing to copy
    viewed: sparse.csr_array  # (users, content), number of viewings
    items: np.ndarray  # sorted by viewer
    first: np.ndarray  # (users + 1,), where each viewer begins in items

    @classmethod
    def of(cls, friends: sparse.csr_array, viewings: np.ndarray, n_items: int) -> _LastWeek:
        users, items = viewings
        shape = (friends.shape[0], n_items)
        count = np.bincount(users, minlength=shape[0])
        ties = sparse.csr_array(friends.multiply(count[None, :]))
        ties.eliminate_zeros()
        ladder = np.concatenate([[0.0], np.cumsum(ties.data)])
        total = ladder[ties.indptr[1:]] - ladder[ties.indptr[:-1]]
        viewed = sparse.csr_array((np.ones(len(users)), (users, items)), shape=shape)
        first = np.concatenate([[0], np.cumsum(count)])
        by_viewer = items[np.argsort(users, kind="stable")]
        return cls(friends, ties, ladder, total, viewed, by_viewer, first)

    def draw(self, users: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Items that these users copy, for uniforms of shape (n, 2)."""
        start, end = self.ties.indptr[users], self.ties.indptr[users + 1]
        target = self.ladder[start] + u[:, 0] * self.total[users]
        tie = np.searchsorted(self.ladder, target, side="right") - 1
        friend = self.ties.indices[np.clip(tie, start, end - 1)]
        low, high = self.first[friend], self.first[friend + 1]
        return self.items[low + (u[:, 1] * (high - low)).astype(np.int64)]

    def propensity(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Probability that a copy by these users is these items."""
        known, row = np.unique(users, return_inverse=True)
        reach = sparse.csr_array(self.friends[known] @ self.viewed)
        return reach[row, items] / self.total[users]


# ------------------------------------------------------------------ planting


def _rng(world: World, stream: str, week: int = 0) -> np.random.Generator:
    return np.random.default_rng([world.seed, week, *stream.encode()])


@dataclass(frozen=True)
class _Setting:
    """What events need besides the truth, in codes."""

    region: np.ndarray  # (users,)
    weather: np.ndarray  # (regions, days)
    festival: np.ndarray  # (days,), -1 on ordinary days
    friends: sparse.csr_array  # (users, users), strength


def _plant(world: World) -> tuple[Tables, Truth, _Setting]:
    """Make everything but the events."""
    users, groups, region, user_taste = _people(world)
    content, item_class, class_genres, item_taste = _catalogue(world)
    friends = _friendships(world, user_taste)
    weather = _weather(world)
    activity = _rng(world, "activity").lognormal(0, 0.8, world.users)
    rank = 1.0 + _rng(world, "popularity").permutation(world.content)
    popularity = rank**-world.popularity_skew
    truth = Truth(
        world=world,
        user_taste=user_taste,
        item_taste=item_taste,
        popularity=popularity / popularity.sum(),
        activity=activity / activity.sum(),
        item_class=item_class,
        class_genres=class_genres,
        lifts=_lifts(world),
        watch=pd.DataFrame({"propensity": np.empty(0), "copied": np.empty(0, bool)}),
    )
    ids, (one, other) = users["user_id"].array, friends.nonzero()
    ties = {"user_id": ids.take(one), "friend_id": ids.take(other), "strength": friends.data}
    days = {
        "region": _labels(tuple(CLIMATES), np.repeat(np.arange(len(CLIMATES)), world.days)),
        "date": np.tile(world.dates, len(CLIMATES)),
        "condition": _labels(CONTEXTS["weather"], weather.ravel()),
    }
    tables = Tables(
        users=users,
        content=content,
        user_connections=pd.DataFrame(ties) if friends.nnz else None,
        groups=groups,
        weather=pd.DataFrame(days),
    )
    return tables, truth, _Setting(region, weather, _festivals(world), friends)


def _ids(prefix: str, count: int) -> pd.api.extensions.ExtensionArray:
    return pd.array([f"{prefix}{i}" for i in range(1, count + 1)], dtype="str")


def _labels(values: Sequence[str], codes: np.ndarray) -> pd.api.extensions.ExtensionArray:
    return pd.array(list(values), dtype="str").take(codes, allow_fill=True)


def _people(world: World) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray, np.ndarray]:
    """Users, households, the region of each user, and tastes, half of whose variance is by age."""
    rng, n = _rng(world, "people"), world.users
    size = 1 + _pick(_ladder(HOUSEHOLD_WEIGHTS), len(HOUSEHOLD_WEIGHTS), 0, rng.random(n))
    home = np.repeat(np.arange(n), size)[:n]
    region = rng.integers(len(CLIMATES), size=n)[home]
    age = np.clip(np.rint(rng.normal(38, 18, n)), 6, 90).astype(int)
    users = {
        "user_id": _ids("user", n),
        "age": pd.array(age, dtype="Int64"),
        "gender": _labels(("female", "male"), rng.integers(2, size=n)),
        "occupation": _labels(OCCUPATIONS, rng.integers(len(OCCUPATIONS), size=n)),
        "region": _labels(tuple(CLIMATES), region),
    }
    groups = {"group_id": _ids("household", n).take(home), "user_id": users["user_id"]}
    common = rng.normal(size=(len(AGE_BANDS) + 1, world.dimensions))[np.digitize(age, AGE_BANDS)]
    return pd.DataFrame(users), pd.DataFrame(groups), region, _tastes(world, common, rng)


def _tastes(world: World, common: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shares of the dimensions of taste; half of their logits' variance is given."""
    own = rng.normal(size=common.shape)
    return softmax(world.taste_strength * (common + own) / 2**0.5, axis=1)


def _catalogue(world: World) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """Content, class of each item, genres of each class, tastes, half of them by genre."""
    rng, n = _rng(world, "titles"), world.content
    classes = [(name, _combine(k, i, rng)) for name, k in KINDS.items() for i in range(k.classes)]
    ladder = _ladder([KINDS[name].share / KINDS[name].classes for name, _ in classes])
    drawn = _pick(ladder, len(classes), 0, rng.random(n))
    used, item_class = np.unique(drawn, return_inverse=True)
    kinds, genres = zip(*(classes[code] for code in used), strict=True)
    class_genres = np.array([[(genre in row) / len(row) for genre in GENRES] for row in genres])
    mean, deviation = np.array([KINDS[name].minutes for name in kinds])[item_class].T
    age = np.minimum(rng.exponential(8, n), 60).astype(int)
    content = {
        "content_id": _ids("content", n),
        "title": _titles(np.array([row[0] for row in genres])[item_class], rng),
        "content_type": _labels(kinds, item_class),
        "genres": pd.Series([list(genres[code]) for code in item_class], dtype=object),
        "duration_minutes": np.rint(np.maximum(5, rng.normal(mean, deviation))),
        "release_year": pd.array(world.dates[0].year - age, dtype="Int64"),
    }
    common = class_genres @ rng.normal(size=(len(GENRES), world.dimensions))
    common /= np.linalg.norm(class_genres, axis=1, keepdims=True)
    item_taste = world.dimensions * _tastes(world, common[item_class], rng)
    return pd.DataFrame(content), item_class, class_genres, item_taste


def _combine(kind: _Kind, number: int, rng: np.random.Generator) -> tuple[str, ...]:
    """A leading genre, taken in turn, and up to two others."""
    lead = kind.leads[number % len(kind.leads)]
    pool = [genre for genre in kind.others if genre != lead]
    return lead, *rng.choice(pool, min(len(pool), rng.integers(3)), replace=False).tolist()


def _titles(genre: np.ndarray, rng: np.random.Generator) -> pd.Series:
    """Such as "The Midnight Horror of Bergen"; a repeated title is numbered as a sequel."""
    mood, place = (rng.choice(np.array(w.split(), object), len(genre)) for w in (MOODS, PLACES))
    title = pd.Series("The " + mood + " " + genre.astype(object) + " of " + place, dtype="str")
    part = title.groupby(title).cumcount() + 1
    return title.where(part == 1, title + " " + part.astype("str"))


def _lifts(world: World) -> dict[str, pd.DataFrame]:
    rng, (share, deviation) = _rng(world, "lifts"), RANDOM_LIFTS
    lifts = {}
    for name, values in CONTEXTS.items():
        guess = pd.DataFrame.from_dict({v: LIFTS[v] for v in values}, orient="index")
        guess = guess.reindex(columns=GENRES)
        random = rng.normal(0, deviation, guess.shape) * (rng.random(guess.shape) < share)
        lift = guess.where(guess.notna(), random)
        strength = world.context_strength * (world.companion or name != "companion")
        lifts[name] = lift.sub(lift.mean(axis=1), axis=0) * strength
    return lifts


def _friendships(world: World, taste: np.ndarray) -> sparse.csr_array:
    """Mutual ties: one meets 16 people and befriends one of them, softly by cosine of taste."""
    rng, n, people = _rng(world, "friends"), world.users, 16
    unit = taste / np.linalg.norm(taste, axis=1, keepdims=True)
    wanted = rng.poisson(world.friends / 2 * rng.lognormal(-0.32, 0.8, n))  # mean 1
    one = np.repeat(np.arange(n), np.minimum(wanted, n - 1))
    other = np.empty_like(one)
    for part in np.array_split(np.arange(len(one)), 1 + len(one) // 20_000):
        met = rng.integers(n, size=(len(part), people))
        alike = np.einsum("nd,nmd->nm", unit[one[part]], unit[met])
        ladder = _ladder(np.exp(world.homophily * (alike - 1)))
        row = np.arange(len(part))
        other[part] = met[row, _pick(ladder, people, row, rng.random(len(part)))]
    pairs = np.unique(np.minimum(one, other) * n + np.maximum(one, other))
    low, high = np.divmod(pairs[pairs % (n + 1) != 0], n)  # not oneself
    strength = np.round(rng.uniform(0.1, 1, len(low)), 2)
    ties = sparse.coo_array((strength, (low, high)), shape=(n, n))
    return sparse.csr_array(ties + ties.T)


def _weather(world: World) -> np.ndarray:
    """Condition by region and day: a Markov chain that stays, or else asks the climate."""
    rng, shape = _rng(world, "weather"), (len(CLIMATES), world.days)
    region = np.arange(len(CLIMATES))[:, None]
    ladder = _ladder(list(CLIMATES.values()))
    fresh = _pick(ladder, len(CONTEXTS["weather"]), region, rng.random(shape))
    changed = rng.random(shape) >= WEATHER_STAYS
    since = np.maximum.accumulate(np.where(changed, np.arange(world.days), 0), axis=1)
    return np.take_along_axis(fresh, since, axis=1)


def _festivals(world: World) -> np.ndarray:
    codes = np.full(world.days, -1)
    for code, (_, days, last) in enumerate(FESTIVALS):
        for end in pd.DatetimeIndex(last):
            codes[(world.dates > end - pd.Timedelta(days=days)) & (world.dates <= end)] = code
    return codes


# ------------------------------------------------------------------ events


def _events(tables: Tables, truth: Truth, setting: _Setting) -> Iterator[dict[str, pd.DataFrame]]:
    """Tables of events in the order of time, by chunks; memory holds two weeks of codes."""
    world, choice = truth.world, _Choice.of(truth)
    weight = WEEKDAY_WEIGHTS[world.dates.day_of_week]
    counts = _rng(world, "days").multinomial(world.watch_events, weight / weight.sum())
    viewings = np.empty((2, 0), np.int64)
    for week, start in enumerate(range(0, world.days, WEEK)):
        before = _LastWeek.of(setting.friends, viewings, world.content)
        times = _times(world, week, counts[start : start + WEEK])
        rng, viewings = _rng(world, "events", week), np.empty((2, len(times)), np.int64)
        for i in range(0, len(times), CHUNK):
            chunk = times[i : i + CHUNK]
            uniforms = rng.random((len(chunk), 11))  # row by row, whatever the size of the chunk
            users, items, frames = _chunk(tables, choice, setting, before, chunk, uniforms)
            viewings[:, i : i + CHUNK] = users, items
            yield frames


def _times(world: World, week: int, counts: np.ndarray) -> np.ndarray:
    """Seconds since the start of the world, sorted."""
    rng = _rng(world, "times", week)
    day = np.repeat(np.arange(len(counts)) + week * WEEK, counts)
    hour = _pick(_ladder(HOUR_WEIGHTS), 24, _weekend(world)[day], rng.random(len(day)))
    return np.sort(day * 86_400 + hour * 3600 + rng.integers(3600, size=len(day)))


def _weekend(world: World) -> np.ndarray:
    return (world.dates.day_of_week >= 5).astype(int)


def _context(
    world: World, setting: _Setting, users: np.ndarray, times: np.ndarray, u: np.ndarray
) -> dict[str, np.ndarray]:
    """Codes of each dimension of `CONTEXTS`, in its order."""
    day, second = np.divmod(times, 86_400)
    return {
        "daypart": DAYPART_OF_HOUR[second // 3600],
        "daytype": _weekend(world)[day],
        "weather": setting.weather[setting.region[users], day],
        "festival": setting.festival[day],
        "companion": _pick(_ladder(COMPANION_WEIGHTS), len(COMPANION_WEIGHTS), 0, u),
    }


def _chunk(
    tables: Tables,
    choice: _Choice,
    setting: _Setting,
    before: _LastWeek,
    times: np.ndarray,
    u: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, dict[str, pd.DataFrame]]:
    """Users, items and tables of the events at these times, for uniforms of shape (n, 11)."""
    truth, world = choice.truth, choice.truth.world
    users = _pick(_ladder(truth.activity), world.users, 0, u[:, 0])
    codes = _context(world, setting, users, times, u[:, 1])
    contexts = _joint(codes.values())
    items = choice.draw(users, contexts, u[:, 2:5])
    exposed = (before.total[users] > 0) & (world.influence > 0)
    copied = exposed & (u[:, 5] < world.influence)
    items[copied] = before.draw(users[copied], u[copied, 6:8])
    propensity = choice.propensity(users, contexts, items)
    copying = before.propensity(users[exposed], items[exposed])
    propensity[exposed] += world.influence * (copying - propensity[exposed])
    match = _dot(truth.user_taste[users], truth.item_taste[items])
    recorded = ("weather", "festival", "companion")[: 2 + world.companion]
    columns = {
        "user_id": tables.users["user_id"].array.take(users),
        "content_id": tables.content["content_id"].array.take(items),
        "timestamp": world.dates[0].tz_localize("UTC") + pd.to_timedelta(times, unit="s"),
        "completion": np.round(expit(_liking(COMPLETION, match, u[:, 8])), 2),
        **{name: _labels(CONTEXTS[name], codes[name]) for name in recorded},
    }
    watch, rated = pd.DataFrame(columns), u[:, 9] < world.reaction_share
    frames = {
        "watch_history": watch,
        "content_reactions": _reactions(watch[rated], match[rated], u[rated, 10]),
        "watch_truth": pd.DataFrame({"propensity": propensity, "copied": copied}),
    }
    return users, items, frames


def _reactions(watch: pd.DataFrame, match: np.ndarray, u: np.ndarray) -> pd.DataFrame:
    rating = np.clip(np.rint(2 * _liking(RATING, match, u)) / 2, 1, 5)
    reaction = _labels(REACTIONS, (rating < LOVE).astype(int) + (rating < LIKE))
    event = watch[["user_id", "content_id", "timestamp"]]
    return event.assign(rating=rating, reaction=reaction).reset_index(drop=True)


def _liking(law: Mapping[str, float], match: np.ndarray, u: np.ndarray) -> np.ndarray:
    return law["intercept"] + law["slope"] * np.log(match) + law["noise"] * ndtri(u)


def simulate(world: World) -> tuple[Tables, Truth]:
    """Make a world in memory: the one that :func:`generate` writes.

    Examples
    --------
    >>> tables, truth = simulate(World(users=20, content=50, watch_events=300))
    >>> len(tables.watch_history), truth.item_taste.shape
    (300, (50, 12))
    """
    tables, truth, setting = _plant(world)
    chunks = list(_events(tables, truth, setting))
    events = {n: pd.concat([c[n] for c in chunks], ignore_index=True) for n in chunks[0]}
    truth = replace(truth, watch=events.pop("watch_truth"))
    tables = replace(tables, **{name: table for name, table in events.items() if len(table)})
    columns = {name: list(table) for name, table in tables.present().items()}
    return replace(tables, manifest=_manifest(world, columns)), truth


# ------------------------------------------------------------------ files


def generate(world: World, folder: str | Path, progress: bool = False) -> None:
    """Make a world and write it to a folder, by chunks.

    The tables are CSV for :func:`firetv.data.read_tables`. Beside them, for :func:`read_truth`,
    are ``truth.json``, ``truth.npz`` and, row by row with watch_history, ``watch_truth.parquet``.
    Files move to their places when all are complete, ``manifest.json`` last.

    Parameters
    ----------
    world : World
    folder : path
        Made if absent; an earlier world in it is replaced.
    progress : bool
        Show a progress bar on standard error.

    Raises
    ------
    DataError
        If the folder holds tables in another format, which would stand beside the new ones.
    """
    folder = Path(folder)
    names = [f"{name}{suffix}" for name in SCHEMAS for suffix in SUFFIXES if suffix != ".csv"]
    if strays := ", ".join(name for name in names if (folder / name).exists()):
        raise DataError(f"{folder} already holds {strays}. Remove them, or name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
        _write(world, Path(partial), progress)
        done = sorted(os.listdir(partial), key=lambda name: (name == "manifest.json", name))
        for name in {f"{table}.csv" for table in SCHEMAS} - set(done):
            (folder / name).unlink(missing_ok=True)
        for name in done:
            os.replace(Path(partial, name), folder / name)


def _write(world: World, folder: Path, progress: bool) -> None:
    tables, truth, setting = _plant(world)
    _write_truth(truth, folder)
    sinks, columns, rows = {}, {}, Counter()
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=world.watch_events, disable=not progress))
        for frames in chain([tables.present()], _events(tables, truth, setting)):
            for name, frame in frames.items():
                if frame.empty:
                    continue
                table = _arrow(frame)
                if name not in sinks:
                    sinks[name] = stack.enter_context(_sink(folder, name, table.schema))
                    columns[name] = list(frame)
                sinks[name].write_table(table)
                rows[name] += len(frame)
            bar.update(len(frames.get("watch_history", ())))
    del columns["watch_truth"], rows["watch_truth"]
    _write_json({**_manifest(world, columns), "rows": rows}, folder / "manifest.json")


def _sink(folder: Path, name: str, schema: pa.Schema) -> csv.CSVWriter | parquet.ParquetWriter:
    if name == "watch_truth":
        return parquet.ParquetWriter(folder / f"{name}.parquet", schema)
    options = csv.WriteOptions(quoting_style="none", quoting_header="none", batch_size=CHUNK)
    return csv.CSVWriter(folder / f"{name}.csv", schema, write_options=options)


def _arrow(frame: pd.DataFrame) -> pa.Table:
    """Turn a table to Arrow, its genres and times to text."""
    if "genres" in frame:
        frame = frame.assign(genres=frame["genres"].str.join("|"))
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for i, column in enumerate(table.schema):
        if column.name == "timestamp":  # a cast without zone is 20 times as fast as strftime
            text = pc.cast(pc.cast(table[i], pa.timestamp("s")), pa.string())
            text = pc.binary_replace_slice(text, 10, 11, "T")
            table = table.set_column(i, "timestamp", pc.binary_join_element_wise(text, "Z", ""))
        elif column.name == "date":
            table = table.set_column(i, "date", pc.cast(table[i], pa.date32()))
    return table


def _manifest(world: World, columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    parameters = json.dumps({"version": VERSION, **asdict(world)}, sort_keys=True)
    return {
        "name": "synthetic",
        "source": f"firetv.synthetic, {parameters}",
        "licence": "CC0-1.0",
        "citation": "None needed: generated data.",
        "checksum": hashlib.sha256(parameters.encode()).hexdigest(),
        "columns": {name: dict.fromkeys(names, "simulated") for name, names in columns.items()},
        "notes": "A planted world; it says nothing about real people. See truth.json.",
    }


def _write_truth(truth: Truth, folder: Path) -> None:
    arrays = {n: value for n, value in vars(truth).items() if isinstance(value, np.ndarray)}
    np.savez(folder / "truth.npz", **arrays)
    record = {
        "version": VERSION,
        "parameters": asdict(truth.world),
        "genres": GENRES,
        "daypart_of_hour": [CONTEXTS["daypart"][code] for code in DAYPART_OF_HOUR],
        "festivals": FESTIVALS,
        "completion": COMPLETION,
        "rating": RATING,
        "lifts": {name: lift.to_dict(orient="index") for name, lift in truth.lifts.items()},
    }
    _write_json(record, folder / "truth.json")


def _write_json(value: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_truth(folder: str | Path) -> Truth:
    """Read what :func:`generate` planted.

    Raises
    ------
    DataError
        If the folder holds no generated world, or one of another version.
    """
    folder = Path(folder)
    if not (folder / "truth.json").is_file():
        raise DataError(f"{folder} holds no truth.json. Only a generated world has one.")
    record = json.loads((folder / "truth.json").read_text("utf-8"))
    if record["version"] != VERSION:
        raise DataError(f"{folder}: truth of another version. Generate the world again.")
    lifts = {n: pd.DataFrame.from_dict(v, orient="index") for n, v in record["lifts"].items()}
    watch = pd.read_parquet(folder / "watch_truth.parquet")
    with np.load(folder / "truth.npz", allow_pickle=False) as arrays:
        return Truth(world=World(**record["parameters"]), lifts=lifts, watch=watch, **arrays)
