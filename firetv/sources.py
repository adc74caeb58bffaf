"""Public data sets, fetched with a checksum and turned into tables.

:func:`prepare` and :func:`load_tables` are the ways in; a further data set is one more entry of
:data:`SOURCES`.

What MovieLens lacks is simulated, so that every part of the system can run on it. Friends, weather
and company are drawn without looking at ratings or content: no effect on taste is planted, and a
lift found on them says nothing about the real world.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import platformdirs
import pooch
import requests
from tqdm import tqdm

from firetv import comoda
from firetv.data import Tables, read_manifest, write_tables
from firetv.schema import TIMESTAMP, DataError, Problem

logger = logging.getLogger(__name__)

TIMEOUT = 5.0, 30.0  # seconds to connect, and between two chunks
CHUNK = 1 << 16  # bytes
_BAR = {"unit": "B", "unit_scale": True, "disable": None}  # None: only where somebody watches


@dataclass(frozen=True)
class Archive:
    """A file that holds a data set, and how to get and read it."""

    address: str  # a URL, or a pip requirement
    sha256: str
    download: Callable[[str, str, Any], None]  # (address, path, None), as pooch calls it
    read: Callable[[Path], Any]


@dataclass(frozen=True)
class Source:
    """A data set: its archives by file name, best first, and the way from content to tables."""

    archives: Mapping[str, Archive]
    transform: Callable[[Any, int], Tables]  # takes what `read` returned, and a seed


def load_tables(name: str, seed: int = 0) -> Tables:
    """Return the tables of a data set of :data:`SOURCES`, fetched if the cache does not hold it.

    The manifest says of every column whether it was observed, derived from observed ones, or
    simulated. Only the simulated ones depend on `seed`.

    Raises
    ------
    DataError
        If the name is unknown, or the data set is not in the cache and nobody delivers it.
    """
    path, source = fetch(name), SOURCES[name]
    return source.transform(source.archives[path.name].read(path), seed)


def prepare(name: str, folder: Path, seed: int = 0) -> Path:
    """Return a folder that holds a data set as tables, written only if it does not hold it yet.

    Raises
    ------
    DataError
        See :func:`load_tables`; or if the folder's tables come from elsewhere.
    """
    if (folder / "manifest.json").is_file():
        found = read_manifest(folder)
        if (found.get("name"), found.get("seed")) == (name, seed):
            return folder
        what = f"holds {found.get('name')} with seed {found.get('seed')}, not {name} with {seed}"
        raise DataError(Problem(str(folder), "", what, "Remove it, or name another folder."))
    write_tables(load_tables(name, seed), folder)
    return folder


def cache_folder(name: str) -> Path:
    """Return where a data set's archive is kept: under ``FIRETV_CACHE``, else the user's cache."""
    return Path(os.environ.get("FIRETV_CACHE") or platformdirs.user_cache_path("firetv")) / name


def fetch(name: str) -> Path:
    """Return an archive of the data set with the right checksum, downloaded only if need be.

    Raises
    ------
    DataError
        If the name is unknown, or no archive can be had; it says why, and what to do by hand.
    """
    if name not in SOURCES:
        remedy = f"Choose from {', '.join(SOURCES)}."
        raise DataError(Problem(name, "", "is not a known data set", remedy))
    folder, archives = cache_folder(name), SOURCES[name].archives
    for filename, archive in archives.items():
        if _is_cached(folder / filename, archive.sha256):
            return folder / filename
    failures: list[str] = []
    for filename, archive in archives.items():
        if failures:
            logger.warning("%s; trying %s", failures[-1], archive.address)
        known = {"known_hash": f"sha256:{archive.sha256}", "fname": filename, "path": folder}
        try:
            return Path(pooch.retrieve(archive.address, downloader=archive.download, **known))
        except (OSError, ValueError) as error:
            failures.append(f"{archive.address} failed ({_root_cause(error)})")
    files = " or ".join(f"{filename} ({a.address})" for filename, a in archives.items())
    remedy = f"Check the network, or put {files} into {folder}, and run again."
    raise DataError(Problem(name, "", f"cannot be downloaded: {'; '.join(failures)}", remedy))


def _is_cached(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    if pooch.file_hash(path) == sha256:
        return True
    path.unlink()
    logger.warning("%s had a wrong checksum and was removed", path)
    return False


def _root_cause(error: BaseException) -> str:
    """Name the reason at the bottom of a chain of wrapped network errors."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__


def _over_http(url: str, output: str, _pooch: object) -> None:
    """Download a file, going on where an earlier attempt broke off."""
    part = Path(output).with_name(url.rsplit("/", 1)[-1] + ".part")
    start = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()  # it does not fit the file that is served now
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        start = start if resumed else 0
        size = int(response.headers.get("Content-Length", 0))
        bar = tqdm(desc=part.stem, initial=start, total=start + size if size else None, **_BAR)
        with part.open("ab" if resumed else "wb") as file, bar:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    os.replace(part, output)


def _through_pip(requirement: str, output: str, _pooch: object) -> None:
    """Download a wheel, without installing it, from the package index that pip is set up for."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--retries=2", "--timeout=15", requirement]
    with tempfile.TemporaryDirectory(dir=Path(output).parent) as folder:
        # pip's progress goes to our stderr (descriptor 2), its complaint into our message
        done = subprocess.run(
            [*command, "--dest", folder], stdout=2, stderr=subprocess.PIPE, text=True
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise OSError((done.stderr.strip().splitlines() or ["pip brought no wheel"])[-1])
        os.replace(wheels[0], output)


# --- MovieLens-100K ---

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
        tables = self.ratings, self.users, self.items
        text = "".join(table.to_csv(index=False, lineterminator="\n") for table in tables)
        return hashlib.sha256(text.encode()).hexdigest()


def _read_grouplens(path: Path) -> MovieLens:
    """Read GroupLens's own zip: ``u.data``, ``u.user``, ``u.item``."""

    def read(name: str, sep: str, columns: list[str]) -> pd.DataFrame:
        with zipfile.ZipFile(path) as archive, archive.open(f"ml-100k/{name}") as file:
            return pd.read_csv(file, sep=sep, names=columns, encoding="latin-1", **_VERBATIM)

    names = GENRES.split()
    raw = read("u.item", "|", ["item", "name", "released", "video", "url", *names])
    genres = ["|".join(np.compress(flags, names)) for flags in raw[names].to_numpy(bool)]
    items = pd.DataFrame({"item": raw["item"], "name": raw["name"].str.strip(), "genres": genres})
    return MovieLens(read("u.data", "\t", _RATINGS), read("u.user", "|", _USERS), items)


def _read_recbole(path: Path) -> MovieLens:
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


def movielens_100k(raw: MovieLens, seed: int = 0) -> Tables:
    """Turn MovieLens-100K into tables, and simulate what it does not hold.

    Events keep the order of u.data, which published splits depend on. Their timestamps are moments
    of *rating*, often a whole history in one sitting. Friends, weather, company and completion come
    from the functions ``simulate_*``, each with its own generator derived from `seed`.
    """
    for_friends, for_weather, for_company, for_completion = np.random.default_rng(seed).spawn(4)
    users, rating = _users(raw.users), raw.ratings["rating"]
    time = pd.to_datetime(raw.ratings["timestamp"], unit="s", utc=True).astype(TIMESTAMP)
    user_id, content_id = _ids("user", raw.ratings["user"]), _ids("content", raw.ratings["item"])
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


def _ids(kind: str, numbers: pd.Series) -> pd.Series:
    return kind + numbers.astype("str")


def _users(raw: pd.DataFrame) -> pd.DataFrame:
    """Profiles; the region is the first digit of a US zip code, ``other`` for a foreign code."""
    region = ("US-" + raw["zip"].str[0]).where(raw["zip"].str.fullmatch(r"\d{5}"), "other")
    users = raw[["age", "gender", "occupation"]].astype({"age": "Int64"}).assign(region=region)
    users.insert(0, "user_id", _ids("user", raw["user"]))
    return users


def _content(raw: pd.DataFrame) -> pd.DataFrame:
    """Titles without the year that ends them, or its ``(V)``; no genres where they are unknown."""
    name = raw["name"].str.extract(r"^(?P<title>.*?)\s*(?:\((?P<year>\d{4})\)(?: \(V\))?)?$")
    genres = [[g for g in joined.split("|") if g != "unknown"] for joined in raw["genres"]]
    return pd.DataFrame(
        {
            "content_id": _ids("content", raw["item"]),
            "title": name["title"],
            "content_type": "movie",
            "genres": pd.Series(genres, dtype=object),
            "release_year": pd.to_numeric(name["year"]).astype("Int64"),
        }
    )


def _columns(**kinds: str) -> dict[str, str]:
    return {column: kind for kind, columns in kinds.items() for column in columns.split()}


GROUPLENS_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
_EVENT = "user_id content_id timestamp"
MANIFEST: Mapping[str, Any] = {
    "name": "movielens-100k",
    "source": GROUPLENS_URL,
    "licence": "For research, with acknowledgement; no redistribution and no commercial use "
    "without permission: https://files.grouplens.org/datasets/movielens/ml-100k-README.txt",
    "citation": "F. Maxwell Harper and Joseph A. Konstan (2015). The MovieLens Datasets: History "
    "and Context. ACM Transactions on Interactive Intelligent Systems 5(4), 19. "
    "https://doi.org/10.1145/2827872",
    "columns": {
        "watch_history": _columns(observed=_EVENT, simulated="completion weather companion"),
        "content_reactions": _columns(observed=f"{_EVENT} rating", derived="reaction"),
        "users": _columns(observed="user_id age gender occupation", derived="region"),
        "content": _columns(
            observed="content_id title genres", derived="content_type release_year"
        ),
        "user_connections": _columns(simulated="user_id friend_id strength"),
        "weather": _columns(derived="region date", simulated="condition"),
    },
    "notes": "Timestamps are moments of rating, not of viewing. Friends, weather and company were "
    "drawn without looking at ratings: they have no effect on taste. Completion was drawn from the "
    "rating of the same row: never predict that rating from it.",
}
SOURCES: Mapping[str, Source] = {
    "movielens-100k": Source(
        {
            "ml-100k.zip": Archive(
                GROUPLENS_URL,
                "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
                _over_http,
                _read_grouplens,
            ),
            "recbole-1.2.1-py3-none-any.whl": Archive(
                "recbole==1.2.1",
                "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
                _through_pip,
                _read_recbole,
            ),
        },
        movielens_100k,
    ),
    "comoda": Source(
        {
            "LDOS-CoMoDa.csv": Archive(
                comoda.URL,
                "c62f8e6b234946d2026e51f338b46ec996063282d96a595b991c1434c023eb78",
                _over_http,
                comoda.read,
            )
        },
        comoda.to_tables,
    ),
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
