"""MovieLens-100K: films rated by people of whom age, occupation and zip code are known.

:mod:`firetv.sources` fetches an archive; the functions ``read_*`` and :func:`to_tables` turn it
into tables.

What MovieLens lacks is simulated, so that every part of the system can run on it. Friends, weather
and company are drawn without looking at ratings or content: no effect on taste is planted, and a
lift found on them says nothing about the real world.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from firetv.data import Tables
from firetv.published import checksum, marks, named
from firetv.schema import TIMESTAMP

URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
    "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
)  # in the order of u.item's flags
REACTIONS = {5: "love", 4: "like", 2: "dislike", 1: "dislike"}
_RATINGS = ["user", "item", "rating", "timestamp"]
_USERS = ["user", "age", "gender", "occupation", "zip"]
_VERBATIM = {
    "keep_default_na": False,  # "none" is an occupation
    "quoting": csv.QUOTE_NONE,
    "dtype": dict.fromkeys(["name", "title", "year", "zip"], "str"),
}


@dataclass(frozen=True)
class MovieLens:
    """MovieLens-100K as published, the same whichever archive it came from.

    Attributes
    ----------
    ratings : DataFrame
        ``user, item, rating, timestamp`` (int64, seconds since 1970), in the order of u.data.
    users : DataFrame
        ``user, age, gender, occupation, zip``.
    items : DataFrame
        ``item, name, genres``; as in ``Toy Story (1995)`` and ``Animation|Children's|Comedy``.
    """

    ratings: pd.DataFrame
    users: pd.DataFrame
    items: pd.DataFrame

    def checksum(self) -> str:
        """Return the SHA-256 of the values."""
        return checksum(self.ratings, self.users, self.items)


def read_grouplens(path: Path) -> MovieLens:
    """Read GroupLens's own zip: ``u.data``, ``u.user``, ``u.item``."""

    def read(name: str, sep: str, columns: list[str]) -> pd.DataFrame:
        with zipfile.ZipFile(path) as archive, archive.open(f"ml-100k/{name}") as file:
            return pd.read_csv(file, sep=sep, names=columns, encoding="latin-1", **_VERBATIM)

    names = GENRES.split()
    raw = read("u.item", "|", ["item", "name", "released", "video", "url", *names])
    genres = ["|".join(np.compress(flags, names)) for flags in raw[names].to_numpy(bool)]
    items = pd.DataFrame({"item": raw["item"], "name": raw["name"].str.strip(), "genres": genres})
    return MovieLens(read("u.data", "\t", _RATINGS), read("u.user", "|", _USERS), items)


def read_recbole(path: Path) -> MovieLens:
    """Read RecBole's copy, whose ratings and users equal GroupLens's to the byte.

    Its titles and years are taken apart; put together they are u.item's names again, but for item
    267, ``unknown``, that became ``unkonwn`` with ``unkonwn`` for a year.
    """

    def read(name: str, columns: list[str]) -> pd.DataFrame:
        member = f"recbole/dataset_example/ml-100k/ml-100k.{name}"
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            return pd.read_csv(file, sep="\t", names=columns, header=0, **_VERBATIM)

    raw = read("item", ["item", "title", "year", "genres"])
    name = (raw["title"] + " (" + raw["year"] + ")").replace("unkonwn (unkonwn)", "unknown")
    genres = raw["genres"].str.replace(" ", "|")
    items = pd.DataFrame({"item": raw["item"], "name": name, "genres": genres})
    return MovieLens(read("inter", _RATINGS), read("user", _USERS), items)


def to_tables(raw: MovieLens, seed: int = 0) -> Tables:
    """Turn MovieLens-100K into tables, and simulate what it does not hold.

    Events keep the order of u.data, which published splits depend on. Their timestamps are moments
    of *rating*, often a whole history in one sitting. Friends, weather, company and completion come
    from the functions ``simulate_*``, each with its own generator derived from `seed`.
    """
    for_friends, for_weather, for_company, for_completion = np.random.default_rng(seed).spawn(4)
    users, rating = _users(raw.users), raw.ratings["rating"]
    time = pd.to_datetime(raw.ratings["timestamp"], unit="s", utc=True).astype(TIMESTAMP)
    user_id, content_id = named("user", raw.ratings["user"]), named("content", raw.ratings["item"])
    events = pd.DataFrame({"user_id": user_id, "content_id": content_id, "timestamp": time})
    viewer = users.set_index("user_id").loc[user_id]
    day = time.dt.tz_localize(None).dt.normalize()
    weather = simulate_weather(users["region"], day.min(), day.max(), for_weather)
    condition = weather.set_index(["region", "date"])["condition"]
    history = events.assign(
        completion=simulate_completion(rating.to_numpy(), for_completion),
        weather=condition.loc[pd.MultiIndex.from_arrays([viewer["region"], day])].to_numpy(),
        companion=simulate_companion(events, viewer["age"].to_numpy(int), for_company),
    )
    reaction = rating.map(REACTIONS).astype("str")
    return Tables(
        watch_history=history,
        content_reactions=events.assign(rating=rating.astype(float), reaction=reaction),
        users=users,
        content=_content(raw.items),
        user_connections=simulate_friends(users, for_friends),
        weather=weather,
        manifest=MANIFEST | {"checksum": raw.checksum(), "seed": seed},
    )


def _users(raw: pd.DataFrame) -> pd.DataFrame:
    """Profiles; the region is the first digit of a US zip code, ``other`` for a foreign code."""
    region = ("US-" + raw["zip"].str[0]).where(raw["zip"].str.fullmatch(r"\d{5}"), "other")
    users = raw[["age", "gender", "occupation"]].astype({"age": "Int64"}).assign(region=region)
    users.insert(0, "user_id", named("user", raw["user"]))
    return users


def _content(raw: pd.DataFrame) -> pd.DataFrame:
    """Titles without the year that ends them, or its ``(V)``; no genres where they are unknown."""
    name = raw["name"].str.extract(r"^(?P<title>.*?)\s*(?:\((?P<year>\d{4})\)(?: \(V\))?)?$")
    genres = [[g for g in joined.split("|") if g != "unknown"] for joined in raw["genres"]]
    return pd.DataFrame(
        {
            "content_id": named("content", raw["item"]),
            "title": name["title"],
            "content_type": "movie",
            "genres": pd.Series(genres, dtype=object),
            "release_year": pd.to_numeric(name["year"]).astype("Int64"),
        }
    )


_EVENT = "user_id content_id timestamp"
MANIFEST: Mapping[str, Any] = {
    "name": "movielens-100k",
    "source": URL,
    "licence": "For research, with acknowledgement; no redistribution and no commercial use "
    "without permission: https://files.grouplens.org/datasets/movielens/ml-100k-README.txt",
    "citation": "F. Maxwell Harper and Joseph A. Konstan (2015). The MovieLens Datasets: History "
    "and Context. ACM Transactions on Interactive Intelligent Systems 5(4), 19. "
    "https://doi.org/10.1145/2827872",
    "columns": {
        "watch_history": marks(observed=_EVENT, simulated="completion weather companion"),
        "content_reactions": marks(observed=f"{_EVENT} rating", derived="reaction"),
        "users": marks(observed="user_id age gender occupation", derived="region"),
        "content": marks(observed="content_id title genres", derived="content_type release_year"),
        "user_connections": marks(simulated="user_id friend_id strength"),
        "weather": marks(derived="region date", simulated="condition"),
    },
    "notes": "Timestamps are moments of rating, not of viewing. Friends, weather and company were "
    "drawn without looking at ratings: they have no effect on taste. Completion was drawn from the "
    "rating of the same row: never predict that rating from it.",
}

# --- Simulated columns ---

CONDITIONS = ("sunny", "cloudy", "rainy", "snowy")
_WINTER = np.array([0.20, 0.35, 0.15, 0.30])
_SUMMER = np.array([0.55, 0.25, 0.20, 0.00])
COMPANIONS = ("alone", "partner", "family", "friends")
_COMPANY = np.array(  # logits of COMPANIONS
    [
        [+1.0, +0.3, +0.0, +0.0],  # always
        [-0.3, +0.6, +0.2, +0.3],  # from 18:00
        [-0.4, +0.1, +0.5, +0.6],  # on Saturday and Sunday
        [+0.0, -0.5, -0.4, +0.7],  # under 25
        [+0.0, +0.3, +0.7, -0.4],  # from 30 to 54
    ]
)


def simulate_friends(
    users: pd.DataFrame, rng: np.random.Generator, mean_friends: float = 8.0
) -> pd.DataFrame:
    """Draw friendships by homophily in age, occupation and region, and by nothing else.

    Two users are friends with probability ``min(1, c w)``, ``w = exp(-|age difference| / 10) *
    3^[same occupation] * 4^[same region]``, where ``c`` sets the mean number of friends. Strength
    is Beta(1 + 4s, 5 - 4s), with ``s`` the mean of the three likenesses. Real networks are so
    inclined (McPherson, Smith-Lovin & Cook, 2001); the numbers are ours. No rating is read, so
    none, of whatever split, can leak into the graph. Memory grows with the square of the users.

    Returns
    -------
    DataFrame
        ``user_id, friend_id, strength`` (0..1); both directions of a friendship, equally strong.
    """
    age = users["age"].to_numpy(float)
    near = np.exp(-np.abs(age[:, None] - age) / 10)
    job, region = (pd.factorize(users[column])[0] for column in ("occupation", "region"))
    colleagues, neighbours = np.equal.outer(job, job), np.equal.outer(region, region)
    weight = np.triu(near * 3.0**colleagues * 4.0**neighbours, k=1)
    chance = weight * (mean_friends * len(users) / 2 / weight.sum())
    one, other = np.nonzero(rng.random(chance.shape) < chance)
    likeness = (near + colleagues + neighbours)[one, other] / 3
    strength = rng.beta(1 + 4 * likeness, 5 - 4 * likeness).round(3)
    pairs = {"user_id": np.r_[one, other], "friend_id": np.r_[other, one]}
    edges = pd.DataFrame({c: users["user_id"].array.take(codes) for c, codes in pairs.items()})
    edges["strength"] = np.r_[strength, strength]
    return edges.take(np.lexsort((pairs["friend_id"], pairs["user_id"]))).reset_index(drop=True)


def simulate_weather(
    regions: pd.Series, first: pd.Timestamp, last: pd.Timestamp, rng: np.random.Generator
) -> pd.DataFrame:
    """Draw the weather of each region and day from a seasonal Markov chain.

    Every other day, at random, keeps the condition of the day before; else a new one is drawn from
    a climate that follows a cosine between mid January and mid July of the northern hemisphere.
    All regions have this climate, each its own chain.

    Returns
    -------
    DataFrame
        ``region, date, condition`` for every distinct region and every day from `first` to `last`.
    """
    names, dates = np.unique(regions), pd.date_range(first, last, freq="D", unit="us")
    shape = len(names), len(dates)
    warmth = (1 + np.cos(2 * np.pi * (dates.day_of_year.to_numpy() - 197) / 365.25)) / 2
    climate = np.outer(warmth, _SUMMER) + np.outer(1 - warmth, _WINTER)
    drawn = (rng.random((*shape, 1)) > climate.cumsum(axis=1)[:, :-1]).sum(axis=2)
    renewed = np.where(rng.random(shape) < 0.5, 0, np.arange(len(dates)))
    state = np.take_along_axis(drawn, np.maximum.accumulate(renewed, axis=1), axis=1)
    region, date = np.repeat(names, len(dates)), np.tile(dates, len(names))
    condition = np.take(CONDITIONS, state.ravel())
    return pd.DataFrame({"region": region, "date": date, "condition": condition})


def simulate_companion(
    events: pd.DataFrame, age: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw with whom each event was watched: a multinomial logit in hour, weekday and age.

    Hour and weekday are in UTC; `age` is the viewer's, in years, shape ``(n_events,)``. Events of
    one user in the same hour share their company. Returns names of :data:`COMPANIONS`, shape
    ``(n_events,)``.
    """
    time = events["timestamp"].dt
    effects = [time.hour >= 18, time.day_of_week >= 5, age < 25, (age >= 30) & (age < 55)]
    features = np.column_stack([np.ones(len(events)), *effects])
    sitting = events.groupby(["user_id", time.floor("h")], sort=False).ngroup().to_numpy()
    noise = rng.gumbel(size=(sitting.max() + 1, len(COMPANIONS)))[sitting]
    return np.take(COMPANIONS, (features @ _COMPANY + noise).argmax(axis=1))


def simulate_completion(rating: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the share that was watched from the rating, 1..5, of the same event.

    Beta(8m, 8 - 8m) with mean ``m = 0.10 + 0.15 rating``: a standard deviation of 0.12 to 0.17.

    Examples
    --------
    >>> means = simulate_completion(np.full((1000, 2), [1, 5]), np.random.default_rng(0)).mean(0)
    >>> bool(np.allclose(means, [0.25, 0.85], atol=0.02))
    True
    """
    mean = 0.10 + 0.15 * rating
    return rng.beta(8 * mean, 8 - 8 * mean).round(3)
