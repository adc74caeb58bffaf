"""Rating prediction: biases of users, items and context.

For the error of a predicted rating; ranking is the business of :mod:`firetv.models`. What a model
gains when it is told the context says whether that context moves ratings at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.preprocessing import normalize

from firetv.choices import user_folds

KINDS = ("none", "C", "CC", "CI")
LOWEST, HIGHEST = 1, 5
TOLERANCE = 1e-10  # of the solver; far below what a rating can show


@dataclass(frozen=True)
class RatingBiases:
    """A rating as a mean plus terms for its user, its item and its context, by ridge regression.

    The context terms are those of Baltrunas, Ludwig and Ricci (2011, "Matrix factorization
    techniques for context aware recommendation"), without the factors, and fitted jointly.

    A context term learns more than context: where every rating has a value of a dimension, the
    terms of "CC" also add up to what a genre is worth in any context, and those of "CI" to what an
    item is. Compare with shuffled rows of context before a gain is put down to context.

    Attributes
    ----------
    context : {"none", "C", "CC", "CI"}
        One term for each context value (CAMF-C); for each context value and genre, of which an
        item with several takes the mean (CAMF-CC); for each context value and item (CAMF-CI).
    reg_user, reg_item, reg_context : float
        L2 penalties, above 0, in ratings: a term is shrunk as by that many ratings without any
        deviation.

    Examples
    --------
    >>> seen = pd.DataFrame({"user": [0, 0, 1, 1], "item": [0, 1, 0, 1], "rating": [5, 2, 4, 1]})
    >>> company = pd.DataFrame({"companion": ["family", "alone", "family", None]})
    >>> fitted = RatingBiases("C", reg_context=1).fit(seen, company, None, (2, 2))
    >>> asked = pd.DataFrame({"user": [-1, -1], "item": [0, 0]})
    >>> fitted.predict(asked, pd.DataFrame({"companion": ["family", "somebody"]})).round(2)
    array([4.15, 3.29])
    """

    context: Literal["none", "C", "CC", "CI"] = "C"
    reg_user: float = 4.0
    reg_item: float = 3.0
    reg_context: float = 100.0

    def fit(
        self,
        ratings: pd.DataFrame,
        contexts: pd.DataFrame,
        genres: sparse.csr_array | None,
        shape: tuple[int, int],
    ) -> FittedBiases:
        """Fit all terms at once.

        Parameters
        ----------
        ratings : DataFrame of n rows
            ``user``, ``item`` (codes) and ``rating``.
        contexts : DataFrame of n rows
            One text column for each dimension of context; row ``i`` belongs to row ``i`` of
            `ratings`, whatever the index. A missing value has no term.
        genres : CSR array of shape (n_items, n_genres), or None
            Needed for "CC" only; see :func:`firetv.features.genres`.
        shape : (int, int)
            Number of users and of items.

        Raises
        ------
        ValueError
            If `context` is unknown, a penalty not above 0, or genres missing where needed.
        """
        if self.context not in KINDS:
            raise ValueError(f"context must be one of {', '.join(KINDS)}, not {self.context}")
        penalties = np.array([self.reg_user, self.reg_item, self.reg_context])
        if not (penalties > 0).all():
            raise ValueError(f"penalties must be above 0, not {penalties.tolist()}")
        levels = {} if self.context == "none" else _levels(contexts)
        categories = self._categories(genres, shape[1])
        blocks = _blocks(ratings, contexts, shape, levels, categories)
        # Ridge knows a single penalty: 1 on a coefficient is p on its term, where the column is
        # divided by the root of p, so that the coefficient is that root times the term.
        scale = np.repeat(1 / np.sqrt(penalties), [block.shape[1] for block in blocks])
        design = sparse.csr_array(sparse.hstack(blocks) @ sparse.diags_array(scale))
        rating = ratings["rating"].to_numpy(float)
        model = Ridge(alpha=1.0, fit_intercept=False, solver="sparse_cg", tol=TOLERANCE)
        terms = scale * model.fit(design, rating - rating.mean()).coef_
        users, items, context = np.split(terms, np.cumsum(shape))
        return FittedBiases(rating.mean(), users, items, context, levels, categories)

    def _categories(self, genres: sparse.csr_array | None, n_items: int) -> sparse.csr_array | None:
        """What a context value has a term of its own for, rows sum to 1; None: all items alike."""
        if self.context == "CI":
            return sparse.eye_array(n_items, format="csr")
        if self.context != "CC":
            return None
        if genres is None:
            raise ValueError('context="CC" needs the genres of the items')
        return sparse.csr_array(normalize(genres.astype(float), norm="l1"))


@dataclass(frozen=True)
class FittedBiases:
    """What :class:`RatingBiases` learned.

    Attributes
    ----------
    mean : float
        Mean rating.
    users, items : float64 arrays of shape (n_users,) and (n_items,)
        Terms by code.
    context : float64 array of shape (n_values,) or (n_values * n_categories,)
        Terms by context value, in the order of `levels`, and within a value by category.
    levels : mapping of str to Index
        The values of each dimension of context that were there to learn from.
    categories : CSR array of shape (n_items, n_categories), or None
        Shares of each item's genres ("CC"), or the item itself ("CI").
    """

    mean: float
    users: np.ndarray
    items: np.ndarray
    context: np.ndarray
    levels: Mapping[str, pd.Index]
    categories: sparse.csr_array | None

    def predict(self, ratings: pd.DataFrame, contexts: pd.DataFrame) -> np.ndarray:
        """Predict ratings, float64 of shape (n,), within 1..5.

        Parameters
        ----------
        ratings : DataFrame of n rows
            ``user``, ``item`` (codes); -1 for one that is unknown, which has no term.
        contexts : DataFrame of n rows
            See :meth:`RatingBiases.fit`. A value that was not there to learn from has no term.
        """
        shape = len(self.users), len(self.items)
        blocks = _blocks(ratings, contexts, shape, self.levels, self.categories)
        terms = np.concatenate([self.users, self.items, self.context])
        return (self.mean + sparse.hstack(blocks) @ terms).clip(LOWEST, HIGHEST)


def tune(
    candidates: Sequence[RatingBiases],
    ratings: pd.DataFrame,
    contexts: pd.DataFrame,
    genres: sparse.csr_array | None,
    shape: tuple[int, int],
    seed: int,
    folds: int = 5,
) -> RatingBiases:
    """Return the candidate with the least squared error in cross-validation; of equals the first.

    See :meth:`RatingBiases.fit` for the tables. They are the training part of whatever is to be
    evaluated: what is held out there must not be among them.
    """
    errors = np.zeros(len(candidates))
    for train, test in KFold(folds, shuffle=True, random_state=seed).split(ratings):
        rating = ratings["rating"].to_numpy(float)[test]
        for place, candidate in enumerate(candidates):
            fitted = candidate.fit(ratings.iloc[train], contexts.iloc[train], genres, shape)
            predicted = fitted.predict(ratings.iloc[test], contexts.iloc[test])
            errors[place] += np.square(predicted - rating).sum()
    return candidates[int(errors.argmin())]


def out_of_fold(
    candidates: Sequence[RatingBiases],
    ratings: pd.DataFrame,
    contexts: pd.DataFrame,
    genres: sparse.csr_array | None,
    shape: tuple[int, int],
    seed: int,
    folds: int = 5,
) -> np.ndarray:
    """Predict every rating, float64 of shape (n,), by a model that was tuned and fitted without it.

    Each user's ratings are dealt evenly to the folds. See :func:`tune` for the arguments.
    """
    fold = user_folds(ratings["user"].to_numpy(), folds, np.random.default_rng(seed))
    predicted = np.empty(len(ratings))
    for number in range(folds):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        known = ratings.iloc[train], contexts.iloc[train], genres, shape
        fitted = tune(candidates, *known, seed, folds).fit(*known)
        predicted[test] = fitted.predict(ratings.iloc[test], contexts.iloc[test])
    return predicted


def _levels(contexts: pd.DataFrame) -> dict[str, pd.Index]:
    """Values of each dimension, sorted, so that the order of rows does not matter."""
    return {name: pd.Index(np.sort(contexts[name].dropna().unique())) for name in contexts}


def _blocks(
    ratings: pd.DataFrame,
    contexts: pd.DataFrame,
    shape: tuple[int, int],
    levels: Mapping[str, pd.Index],
    categories: sparse.csr_array | None,
) -> list[sparse.csr_array]:
    """Columns of the regression for users, items and context, one row for each rating."""
    users = _one_hot(ratings["user"].to_numpy(), shape[0])
    items = _one_hot(ratings["item"].to_numpy(), shape[1])
    empty = sparse.csr_array((len(ratings), 0))
    coded = [_one_hot(of.get_indexer(contexts[name]), len(of)) for name, of in levels.items()]
    context = sparse.hstack([empty, *coded], format="csr")
    if categories is None:
        return [users, items, context]
    of_item = items @ categories
    crossed = [sparse.diags_array(column) @ of_item for column in context.toarray().T]
    return [users, items, sparse.hstack([empty, *crossed], format="csr")]


def _one_hot(codes: np.ndarray, size: int) -> sparse.csr_array:
    """One column for each code; a row is empty where the code is negative."""
    known = np.flatnonzero(codes >= 0)
    return sparse.csr_array((np.ones(len(known)), (known, codes[known])), shape=(len(codes), size))
