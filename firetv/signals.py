"""What is known of an item or of a user besides the scores of models: signals for a `Ranker`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from firetv.data import Dataset
from firetv.ranking import OF_USER
from firetv.slate import EMPTY, Slate, Step
from firetv.steps import log_popularity


@dataclass(frozen=True)
class Traits:
    """Parts for what items and users are like, whoever asks for what.

    ``item:viewers``
        Log of one plus the number of viewers.
    ``item:rating``
        Mean rating, with ``prior`` ratings of the mean of all.
    ``item:year``
        Release year, in decades after the mean; 0 where it is unknown.
    ``user:titles``
        Log of one plus the number of titles seen.
    ``user:rating``
        Mean rating given, with the same prior.
    ``user:viewers``
        Mean of ``item:viewers`` over the titles seen: how mainstream a taste is.

    Attributes
    ----------
    prior : float
        Ratings, above 0.

    Raises
    ------
    ValueError
        If the prior is not above 0.
    """

    prior: float = 10.0

    def __post_init__(self) -> None:
        if not self.prior > 0:
            raise ValueError(f"prior {self.prior}: what nobody rated needs one above 0")

    def fit(self, data: Dataset) -> Step:
        """Count viewers and average ratings."""
        viewers, seen = log_popularity(data), data.matrix()
        rating = data.matrix("rating")
        return TraitsStep(
            {
                "item:viewers": viewers,
                "item:rating": self._shrunk(rating.T),
                "item:year": _decades(data),
            },
            {
                f"{OF_USER}titles": np.log1p(data.user_counts),
                f"{OF_USER}rating": self._shrunk(rating),
                f"{OF_USER}viewers": seen @ viewers / np.maximum(seen.sum(axis=1), 1),
            },
        )

    def _shrunk(self, rating: sparse.csr_array) -> np.ndarray:
        """Mean of each row's ratings minus that of all, drawn towards 0 where they are few."""
        rating = sparse.csr_array(rating)
        count = np.diff(rating.indptr)
        usual = rating.data.mean() if rating.nnz else 0.0
        return (rating.sum(axis=1) - count * usual) / (count + self.prior)


def _decades(data: Dataset) -> np.ndarray:
    if "release_year" not in data.content:
        return np.zeros(data.shape[1])
    decade = data.content["release_year"].astype("float64").to_numpy() / 10
    return np.nan_to_num(decade - np.nanmean(decade) if np.isfinite(decade).any() else decade)


@dataclass(frozen=True)
class TraitsStep:
    """Values by item, float arrays of shape (n_items,), and by user, of shape (n_users,)."""

    items: dict[str, np.ndarray]
    users: dict[str, np.ndarray]

    def __call__(self, slate: Slate) -> Slate:
        """Add one part per trait; a stranger's are zero."""
        known = slate.users >= 0
        for name, values in self.items.items():
            slate = slate.add(name, np.where(slate.grid == EMPTY, 0, values[slate.grid]))
        for name, values in self.users.items():
            own = np.where(known, values[slate.users], 0)
            slate = slate.add(name, np.broadcast_to(own[:, None], slate.shape))
        return slate
