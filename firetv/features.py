"""User and content features: what is known of a person or a title besides who watched what.

Profiles of behaviour (genre preferences, time of day) are read from the interactions of the data
set at hand, so a training split's features hold nothing of its test part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.preprocessing import MultiLabelBinarizer, OneHotEncoder, normalize

from firetv.data import Dataset

AGE_BANDS = (0, 18, 25, 35, 45, 55, 65, 121)  # years, lower bounds
DURATION_BANDS = (0, 30, 60, 90, 120, 10_000)  # minutes, lower bounds
MAX_CODES = 10  # a number with no more distinct values than this is a label
FAMILIES = ("genre", "type", "decade", "minutes", "likes", "hour")  # names a column may not take
MAX_LEVELS = 100  # a column with more distinct labels than this is an identifier, not a feature


@dataclass(frozen=True)
class Features:
    """A sparse feature matrix with named columns.

    Attributes
    ----------
    matrix : CSR array of shape (n, n_features), float32
    names : tuple of str
        ``family:level``, such as ``genre:Drama``.
    """

    matrix: sparse.csr_array
    names: tuple[str, ...]

    @property
    def families(self) -> pd.Series:
        """Family of each column, such as ``genre``."""
        return pd.Series([name.split(":", 1)[0] for name in self.names], dtype="str")

    def normalised(self) -> Features:
        """Scale each row to sum to 1, so that no row weighs more for having more features.

        Rows without any feature stay empty.
        """
        if not self.names:  # which scikit-learn refuses
            return self
        return Features(sparse.csr_array(normalize(self.matrix, norm="l1")), self.names)

    def select(self, columns: np.ndarray) -> Features:
        """Return some of the columns, by their numbers."""
        names = tuple(self.names[column] for column in columns)
        return Features(sparse.csr_array(self.matrix[:, columns]), names)

    def to_frame(self) -> pd.DataFrame:
        """Return a sparse DataFrame, for looking at."""
        return pd.DataFrame.sparse.from_spmatrix(self.matrix, columns=list(self.names))


def stack(*blocks: Features) -> Features:
    """Put feature blocks of the same rows side by side."""
    matrix = sparse.hstack([b.matrix for b in blocks], format="csr", dtype=np.float32)
    return Features(sparse.csr_array(matrix), tuple(n for b in blocks for n in b.names))


def one_hot(values: pd.Series, family: str) -> Features:
    """Encode labels; a missing label gives an empty row.

    Examples
    --------
    >>> one_hot(pd.Series(["film", None, "news"]), "type").matrix.toarray()
    array([[1., 0.],
           [0., 0.],
           [0., 1.]], dtype=float32)
    """
    levels = np.sort(values.dropna().astype("str").unique())
    if len(levels) == 0:
        return Features(sparse.csr_array((len(values), 0), dtype=np.float32), ())
    encoder = OneHotEncoder(categories=[levels], handle_unknown="ignore", dtype=np.float32)
    labels = values.astype(object).where(values.notna(), "").astype(str).to_numpy()[:, None]
    matrix = encoder.fit(labels[values.notna()]).transform(labels)
    return Features(sparse.csr_array(matrix), tuple(f"{family}:{level}" for level in levels))


def banded(values: pd.Series, bounds: tuple[int, ...], family: str) -> Features:
    """One-hot bands of a number, named by their lower bound; missing gives an empty row."""
    labels = [f"{low}-{high - 1}" for low, high in pairwise(bounds)]
    numbers = pd.to_numeric(values).astype("float64")
    bands = pd.cut(numbers, bounds, right=False, labels=labels).astype("str")
    return one_hot(bands.where(numbers.notna()), family)


def genres(data: Dataset) -> Features:
    """Genres of each item, multi-hot, shape (n_items, n_genres)."""
    if "genres" not in data.content:
        return Features(sparse.csr_array((data.shape[1], 0), dtype=np.float32), ())
    lists = [g if isinstance(g, list) else [] for g in data.content["genres"]]
    encoder = MultiLabelBinarizer(sparse_output=True)
    matrix = sparse.csr_array(encoder.fit_transform(lists), dtype=np.float32)
    return Features(matrix, tuple(f"genre:{name}" for name in encoder.classes_))


def item_features(data: Dataset) -> Features:
    """Genres, content type, decade, duration band and extra label columns of each item.

    Returns
    -------
    Features
        Multi-hot, shape (n_items, n_features), not normalised.
    """
    content = data.content
    blocks = [genres(data)]
    if "content_type" in content:
        blocks.append(one_hot(content["content_type"], "type"))
    if "release_year" in content:
        decade = (content["release_year"] // 10 * 10).astype("Int64").astype("string") + "s"
        blocks.append(one_hot(decade, "decade"))
    if "duration_minutes" in content:
        blocks.append(banded(content["duration_minutes"], DURATION_BANDS, "minutes"))
    known = ("content_id", "title", "genres", "content_type", "release_year", "duration_minutes")
    return stack(*blocks, *_extra_labels(content, known))


def user_features(data: Dataset) -> Features:
    """Age band, gender, occupation, region and extra label columns of each user.

    Returns
    -------
    Features
        Multi-hot, shape (n_users, n_features), not normalised: a profile only, so that it is
        there before the first event.
    """
    users = data.users
    blocks = [banded(users["age"], AGE_BANDS, "age")] if "age" in users else []
    named = [column for column in ("gender", "occupation", "region") if column in users]
    blocks += [one_hot(users[column], column) for column in named]
    # A name is a word for a person, and what may be told of them says nothing of their taste.
    blocks += _extra_labels(users, ("user_id", "age", "name", "sharing", *named))
    empty = Features(sparse.csr_array((data.shape[0], 0), dtype=np.float32), ())
    return stack(empty, *blocks)


@dataclass(frozen=True)
class Profiles:
    """What :func:`user_features` would say of somebody who is not in the data.

    Attributes
    ----------
    names : tuple of str
        Of its columns.
    columns : tuple of str
        Of the users table that a profile may give.
    edges : mapping of str to float64 array
        Between the quartiles of the numeric columns beyond the schema.
    """

    names: tuple[str, ...]
    columns: tuple[str, ...]
    edges: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, data: Dataset) -> Profiles:
        """Read names and quartiles of a data set."""
        known = ("user_id", "name", "sharing")
        columns = [name for name in data.users if name not in known]
        labels = ("age", "gender", "occupation", "region")
        numbers = {name: _number(data.users[name]) for name in columns if name not in labels}
        edges = {
            name: np.unique(np.quantile(number.dropna(), (0, 0.25, 0.5, 0.75, 1)))[1:-1]
            for name, number in numbers.items()
            if number is not None
        }
        return cls(user_features(data).names, tuple(columns), edges)

    def traits(self, profile: Mapping[str, object]) -> tuple[int, ...]:
        """Columns of the features that somebody has; None, or what nobody had, says nothing.

        Values are compared as text, and as numbers where they are: 1, 1.0 and "1" are the same.

        Raises
        ------
        ValueError
            If the profile has a key that is no column of the users table, or an age or another
            number that is none.
        """
        if unknown := [name for name in profile if name not in self.columns]:
            known = ", ".join(self.columns) or "none"
            raise ValueError(f"a profile has no {', '.join(unknown)}: the columns are {known}")
        names = [self._name(column, v) for column, v in profile.items() if v is not None]
        return tuple(self.names.index(name) for name in names if name in self.names)

    def _name(self, column: str, value: object) -> str:
        if column == "age" or column in self.edges:
            try:
                number = float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError) as error:
                raise ValueError(f"{column} {value!r} is not a number") from error
            if not np.isfinite(number):
                raise ValueError(f"{column} {value!r} is not a finite number")
            if column == "age":
                return "".join(banded(pd.Series([number]), AGE_BANDS, "age").names)
            return f"{_family(column)}:q{1 + np.searchsorted(self.edges[column], number)}"
        levels = [name for name in self.names if name.startswith(f"{_family(column)}:")]
        same = (name for name in levels if _same(name.split(":", 1)[1], value))
        return next(same, "")


def _same(level: str, value: object) -> bool:
    """Whether a value is what a level's name says."""
    if level == str(value):
        return True
    try:
        return float(level) == float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def genre_preferences(data: Dataset) -> Features:
    """Share of each user's viewing that goes to each genre, rows sum to 1.

    An item with several genres counts for each in equal shares.
    """
    item_genres = genres(data)
    shares = sparse.csr_array(normalize(item_genres.matrix, norm="l1"))
    profile = Features(
        sparse.csr_array(data.matrix() @ shares, dtype=np.float32),
        tuple(name.replace("genre:", "likes:", 1) for name in item_genres.names),
    )
    return profile.normalised()


def time_profile(data: Dataset, zone: str = "UTC", prior: float = 0.0) -> Features:
    """Share of each user's events in each hour of the day, rows sum to 1.

    Parameters
    ----------
    data : Dataset
    zone : str
        Time zone in which the hour is read.
    prior : float
        Pseudo-events that pull a thin profile towards everybody's; 0 for raw shares.

    Returns
    -------
    Features
        Shape (n_users, 24), columns ``hour:00`` to ``hour:23``.
    """
    events = data.interactions
    hours = events["timestamp"].dt.tz_convert(zone).dt.hour.to_numpy()
    place = (events["user"].to_numpy(), hours)
    counts = sparse.csr_array((np.ones(len(events)), place), shape=(data.shape[0], 24))
    if prior:
        everybody = counts.sum(axis=0) / max(1, len(events))
        counts = sparse.csr_array(counts.toarray() + prior * everybody)
    names = tuple(f"hour:{hour:02d}" for hour in range(24))
    return Features(counts.astype(np.float32), names).normalised()


def _extra_labels(table: pd.DataFrame, known: tuple[str, ...]) -> list[Features]:
    """Columns beyond the schema: labels and small sets of numbers one-hot, others in quartiles."""
    blocks = []
    for column in table.columns.difference(known, sort=False):
        values, number = table[column], _number(table[column])
        if number is not None:
            quartile = pd.qcut(number.astype(float), 4, labels=False, duplicates="drop")
            values = ("q" + (quartile + 1).astype("Int64").astype("string")).astype("str")
            values = values.where(number.notna())
        if values.nunique() <= MAX_LEVELS:
            blocks.append(one_hot(values, _family(str(column))))
    return blocks


def _family(column: str) -> str:
    """Family of the features of a column of one's own."""
    return f"extra-{column}" if column in FAMILIES else column


def _number(values: pd.Series) -> pd.Series | None:
    """A column as numbers, NaN where infinite; None where it is of labels, or of few numbers."""
    number = pd.to_numeric(values, errors="coerce").replace([np.inf, -np.inf], np.nan)
    whole = number.notna().sum() == values.notna().sum()
    return number if whole and number.nunique() > MAX_CODES else None
