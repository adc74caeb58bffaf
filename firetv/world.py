"""A television world with planted, recorded truth, to check what a method claims to recover.

A user chooses from the whole catalogue, repeats included, by

    p(item | user, context)  ~  popularity(item) * <taste(user), taste(item)> * exp(lift)

Tastes are not negative, as in Poisson factorisation (Gopalan, Hofman and Blei, 2015); the lift is
the sum, over the dimensions of the context, of the mean log-lift of the item's genres.
:mod:`firetv.synthetic` lets people choose, week after week, and copy their friends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, timedelta
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import expit, softmax

from firetv.data import Tables
from firetv.schema import DataError

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
# The logit of watching what one looks at = intercept + match * log(match of tastes, 1 on average)
# + lift * log-lift of the moment + popularity * log(popularity, 1 on average).
APPEAL = {"intercept": -2.0, "match": 1.0, "lift": 1.0, "popularity": 0.2}
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

    def rng(self, stream: str, week: int = 0) -> np.random.Generator:
        """Random numbers of a named stream; no stream depends on what another one drew."""
        return np.random.default_rng([self.seed, week, *stream.encode()])


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

    def match(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """How well titles (n, K) suit the tastes of users (n,), 1 on average: (n, K)."""
        return np.einsum("nd,nkd->nk", self.user_taste[users], self.item_taste[items])

    def appeal(self, users: np.ndarray, contexts: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Probability that people watch titles that they look at, in a moment.

        Who is shown a title need not look for it, so it counts how much one likes it, and little
        how many know it: the law is :data:`APPEAL`.

        Parameters
        ----------
        users : int array of shape (n,)
            User codes.
        contexts : int array of shape (n,)
            See :func:`context_codes`.
        items : int array of shape (n, K), or (K,)
            Titles that are shown to each of them, or to all.

        Returns
        -------
        float array of shape (n, K)
        """
        items = np.broadcast_to(items, (len(users), items.shape[-1]))
        match = self.match(users, items)
        lift = np.take_along_axis(self.class_lifts()[contexts], self.item_class[items], axis=1)
        known = np.log(self.popularity * len(self.popularity))[items]
        return expit(
            APPEAL["intercept"]
            + APPEAL["match"] * np.log(match)
            + APPEAL["lift"] * lift
            + APPEAL["popularity"] * known
        )


def context_codes(events: pd.DataFrame) -> np.ndarray:
    """Code the joint context of each row, int64 of shape (n,).

    Parameters
    ----------
    events : DataFrame of n rows
        Any columns of `CONTEXTS`; absent columns and other values are unknown context. Daypart
        and day type are derived from ``timestamp`` where that is given.
    """
    unknown = np.full(len(events), -1)
    codes = {
        name: pd.Index(values).get_indexer(events[name]) if name in events else unknown
        for name, values in CONTEXTS.items()
    }
    if "timestamp" in events:
        time = events["timestamp"].dt
        codes |= hour_codes(time.hour.to_numpy(), time.day_of_week.to_numpy())
    return joint_codes(codes)


def hour_codes(hour: np.ndarray, day_of_week: np.ndarray) -> dict[str, np.ndarray]:
    """Codes of daypart and day type, of hours from 0 to 23 and of days from Monday, 0, to 6."""
    return {"daypart": DAYPART_OF_HOUR[hour], "daytype": (day_of_week >= 5).astype(int)}


def joint_codes(codes: Mapping[str, np.ndarray]) -> np.ndarray:
    """Code the joint context, int64 of shape (n,), of codes of each of `CONTEXTS`, -1 if unknown.

    Examples
    --------
    >>> nothing = {name: np.array([-1]) for name in CONTEXTS}
    >>> joint_codes(nothing | {"daypart": np.array([0])}) < joint_codes(nothing)
    array([ True])
    """
    sizes = [len(values) for values in CONTEXTS.values()]
    known = (
        np.where(codes[n] < 0, size, codes[n]) for n, size in zip(CONTEXTS, sizes, strict=True)
    )
    return np.ravel_multi_index(tuple(known), [n + 1 for n in sizes])


def labels(values: Sequence[str], codes: np.ndarray) -> pd.api.extensions.ExtensionArray:
    """Texts by their codes, of the same shape; -1 is missing."""
    return pd.array(list(values), dtype="str").take(codes, allow_fill=True)


# ------------------------------------------------------------------ planting


@dataclass(frozen=True)
class Setting:
    """A world before its first event.

    Attributes
    ----------
    tables : Tables
        All but the events.
    truth : Truth
        Complete but for ``watch``.
    region : int array of shape (users,)
        Of each user, in the order of `CLIMATES`.
    weather : int array of shape (regions, days)
        Codes of the conditions.
    festival : int array of shape (days,)
        Codes, -1 on ordinary days.
    friends : sparse array of shape (users, users)
        Strength of each friendship, symmetric.
    """

    tables: Tables
    truth: Truth
    region: np.ndarray
    weather: np.ndarray
    festival: np.ndarray
    friends: sparse.csr_array


def plant(world: World) -> Setting:
    """Make everything but the events."""
    users, groups, region, user_taste = _people(world)
    content, item_class, class_genres, item_taste = _catalogue(world)
    friends, weather = _friendships(world, user_taste), _weather(world)
    activity = world.rng("activity").lognormal(0, 0.8, world.users)
    rank = 1.0 + world.rng("popularity").permutation(world.content)
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
        watch=pd.DataFrame(),
    )
    ids, (one, other) = users["user_id"].array, friends.nonzero()
    ties = {"user_id": ids.take(one), "friend_id": ids.take(other), "strength": friends.data}
    days = {
        "region": labels(tuple(CLIMATES), np.repeat(np.arange(len(CLIMATES)), world.days)),
        "date": np.tile(world.dates, len(CLIMATES)),
        "condition": labels(CONTEXTS["weather"], weather.ravel()),
    }
    tables = Tables(
        users=users,
        content=content,
        user_connections=pd.DataFrame(ties) if friends.nnz else None,
        groups=groups,
        weather=pd.DataFrame(days),
    )
    return Setting(tables, truth, region, weather, _festivals(world), friends)


def _ids(prefix: str, count: int) -> pd.api.extensions.ExtensionArray:
    return pd.array([f"{prefix}{i}" for i in range(1, count + 1)], dtype="str")


def _people(world: World) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray, np.ndarray]:
    """Users, households, the region of each user, and tastes, half of whose variance is by age."""
    rng, n = world.rng("people"), world.users
    size = 1 + rng.choice(len(HOUSEHOLD_WEIGHTS), n, p=HOUSEHOLD_WEIGHTS)
    home = np.repeat(np.arange(n), size)[:n]
    region = rng.integers(len(CLIMATES), size=n)[home]
    age = np.clip(np.rint(rng.normal(38, 18, n)), 6, 90).astype(int)
    users = {
        "user_id": _ids("user", n),
        "age": pd.array(age, dtype="Int64"),
        "gender": labels(("female", "male"), rng.integers(2, size=n)),
        "occupation": labels(OCCUPATIONS, rng.integers(len(OCCUPATIONS), size=n)),
        "region": labels(tuple(CLIMATES), region),
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
    rng, n = world.rng("titles"), world.content
    classes = [(name, _combine(k, i, rng)) for name, k in KINDS.items() for i in range(k.classes)]
    shares = [KINDS[name].share / KINDS[name].classes for name, _ in classes]
    drawn = rng.choice(len(classes), n, p=shares)
    used, item_class = np.unique(drawn, return_inverse=True)
    kinds, genres = zip(*(classes[code] for code in used), strict=True)
    class_genres = np.array([[(genre in row) / len(row) for genre in GENRES] for row in genres])
    mean, deviation = np.array([KINDS[name].minutes for name in kinds])[item_class].T
    age = np.minimum(rng.exponential(8, n), 60).astype(int)
    content = {
        "content_id": _ids("content", n),
        "title": _titles(np.array([row[0] for row in genres])[item_class], rng),
        "content_type": labels(kinds, item_class),
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
    rng, (share, deviation) = world.rng("lifts"), RANDOM_LIFTS
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
    rng, n = world.rng("friends"), world.users
    unit = taste / np.linalg.norm(taste, axis=1, keepdims=True)
    wanted = rng.poisson(world.friends / 2 * rng.lognormal(-0.32, 0.8, n))  # mean 1
    one = np.repeat(np.arange(n), np.minimum(wanted, n - 1))
    other = np.empty_like(one)
    for part in np.array_split(np.arange(len(one)), 1 + len(one) // 20_000):
        met = rng.integers(n, size=(len(part), 16))
        alike = np.einsum("nd,nmd->nm", unit[one[part]], unit[met])
        share = np.cumsum(np.exp(world.homophily * (alike - 1)), axis=1)
        chosen = np.sum(share / share[:, -1:] <= rng.random((len(part), 1)), axis=1)
        other[part] = met[np.arange(len(part)), chosen]
    pairs = np.unique(np.minimum(one, other) * n + np.maximum(one, other))
    low, high = np.divmod(pairs[pairs % (n + 1) != 0], n)  # not oneself
    strength = np.round(rng.uniform(0.1, 1, len(low)), 2)
    ties = sparse.coo_array((strength, (low, high)), shape=(n, n))
    return sparse.csr_array(ties + ties.T)


def _weather(world: World) -> np.ndarray:
    """Condition by region and day: a Markov chain that stays, or else asks the climate."""
    rng, n = world.rng("weather"), world.days
    fresh = np.array([rng.choice(len(shares), n, p=shares) for shares in CLIMATES.values()])
    changed = rng.random(fresh.shape) >= WEATHER_STAYS
    since = np.maximum.accumulate(np.where(changed, np.arange(n), 0), axis=1)
    return np.take_along_axis(fresh, since, axis=1)


def _festivals(world: World) -> np.ndarray:
    codes = np.full(world.days, -1)
    for code, (_, days, last) in enumerate(FESTIVALS):
        for end in pd.DatetimeIndex(last):
            codes[(world.dates > end - pd.Timedelta(days=days)) & (world.dates <= end)] = code
    return codes
