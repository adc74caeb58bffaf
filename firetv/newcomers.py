"""People, and titles, that a base model has not met in training.

Somebody new is known by a few liked titles, by a profile, by both or by neither; a new title by its
metadata. A factor model gives them vectors without being trained again:

- a title's, or a person's, expected vector is a ridge regression on its features, learned from
  those that have events (as in Gantner et al. 2010, "Learning attribute-to-feature mappings");
- liked titles move a person away from it: to the most likely vector of somebody who chose these
  out of all titles, by a softmax over the scores, with what the regression leaves over as the
  prior.

A linear model needs none of that: a new person is a new row of histories.

How the most likely vector would move without one of the titles also says what each of them
contributes to a score: an :class:`Account`, which :mod:`firetv.explain` puts into words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import pandas as pd
from scipy import optimize, sparse
from scipy.special import logsumexp, softmax
from sklearn.linear_model import Ridge

from firetv.data import Dataset
from firetv.features import Features, item_features, user_features
from firetv.slate import CHUNK_CELLS, Slate, Stage, with_seed
from firetv.steps import DualStep, FactorStep, LinearStep

LIKED, TRAITS = "liked", "traits"  # columns of requests by newcomers
PEOPLE_REG, TITLE_REG = 20.0, 5.0  # L2 penalties of the regressions on features, in people, titles
SAMPLE = 1000  # people whose choices the temperature is learned from
NEWTON_STEPS = 12
ALONE, TITLES = 16, 256  # people too few for products that all share; titles in such products
GAIN = 1e-4  # of log-likelihood: a Newton step that gains less is the last


@dataclass(frozen=True)
class Newcomers:
    """A base model that also answers for people, and scores titles, without events.

    Requests of newcomers have the user -1 (or a user without events), and what is known of them in
    columns: ``liked``, a tuple of item codes, and ``traits``, a tuple of columns of
    :func:`~firetv.features.user_features`; both may be empty. Users of the data without events have
    their profile's traits by themselves. Of whom nothing is known, the part is ``popularity``.

    Attributes
    ----------
    model : Stage
        Whose step is by factors or linear: LightFM, ALS, BPR, ContentProfile, EASE or ItemKNN.
    seed : int
        Becomes the model's.
    """

    model: Stage
    seed: int = 0

    def fit(self, data: Dataset) -> NewcomersStep:
        """Fit the model, and learn on those with events what to expect of others.

        Raises
        ------
        ValueError
            If the model is of another kind.
        """
        step = with_seed(self.model, self.seed).fit(data)
        profiles = user_features(data).normalised()
        if isinstance(step, LinearStep | DualStep):
            return NewcomersStep(step, None, profiles, step.history)
        if not isinstance(step, FactorStep):
            raise ValueError(f"{self.model} cannot take in newcomers: use LightFM, ALS or EASE")
        titles = item_features(data).normalised()
        known = data.item_counts > 0
        described = _expected(step.item_factors, titles, known, TITLE_REG)
        new = ~known & (np.diff(titles.matrix.indptr) > 0)
        factors = np.where(new[:, None], described.of(titles.matrix), step.item_factors)
        step = replace(step, item_factors=factors.astype(np.float32))
        fold = _learn(step, data, profiles, titles, described)
        return NewcomersStep(step, fold, profiles, data.matrix())


@dataclass(frozen=True)
class Expected:
    """Vectors as their features let one expect: ``mean + features @ slopes``.

    Attributes
    ----------
    mean : float64 array of shape (d,)
    slopes : float64 array of shape (G, d)
    """

    mean: np.ndarray
    slopes: np.ndarray

    def of(self, features: sparse.csr_array) -> np.ndarray:
        """Expected vectors, float64 of shape (n, d)."""
        return self.mean + features @ self.slopes


def _expected(vectors: np.ndarray, features: Features, known: np.ndarray, reg: float) -> Expected:
    """Regress vectors on features, those of rows with events."""
    vectors = vectors[known].astype(np.float64)
    if not features.names:
        return Expected(vectors.mean(axis=0), np.zeros((0, vectors.shape[1])))
    x = sparse.csr_matrix(features.matrix[known], dtype=np.float64)
    ridge = Ridge(alpha=reg, solver="sparse_cg", tol=1e-10).fit(x, vectors)
    return Expected(ridge.intercept_, ridge.coef_.T)


@dataclass(frozen=True)
class FoldIn:
    """How a person's vector follows from their profile and the titles they liked.

    A vector is ``people.of(traits) + root @ z``, where ``z`` is standard normal, and a title is
    chosen with a probability that is proportional to ``exp(temperature * score)``.

    Attributes
    ----------
    people, titles : Expected
        Vectors by profile, and by metadata.
    root : float64 array of shape (d, r)
        Of the covariance of people's vectors around what is expected.
    item_factors : float32 array of shape (n_items, d)
        The model's.
    basis : float64 array of shape (n_items, r)
        Items as ``z`` meets them: ``item_factors @ root``.
    known : bool array of shape (n_items,)
        Titles with events, which are those that could be chosen.
    temperature : float
    metadata : Features of n_items rows
        Normalised.
    """

    people: Expected
    titles: Expected
    root: np.ndarray
    item_factors: np.ndarray
    basis: np.ndarray
    known: np.ndarray
    temperature: float
    metadata: Features

    @cached_property
    def _met(self) -> tuple[np.ndarray, np.ndarray]:
        """Factors and basis of the titles with events, float64."""
        return self.item_factors[self.known].astype(np.float64), self.basis[self.known]

    @cached_property
    def _average(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Factors, basis and features of the average title."""
        features = np.asarray(self.metadata.matrix[self.known].mean(axis=0)).ravel()
        return (*(each.mean(axis=0) for each in self._met), features)

    def vectors(self, liked: sparse.csr_array, traits: sparse.csr_array) -> np.ndarray:
        """Most likely vectors of some people.

        Parameters
        ----------
        liked : CSR array of shape (m, n_items)
            Ones; titles without events say nothing, and are passed over.
        traits : CSR array of shape (m, G)
            Rows sum to 1, or to 0 without a profile.

        Returns
        -------
        float32 array of shape (m, d)
        """
        expected = self.people.of(traits)
        offset, basis = self._met
        chosen = liked[:, np.flatnonzero(self.known)]
        z = np.zeros((len(expected), basis.shape[1]))
        moved = np.flatnonzero(np.diff(chosen.indptr))  # the others are as expected
        some = _at_once(basis)
        for start in range(0, len(moved), some):
            rows = moved[start : start + some]
            prior = self.temperature * expected[rows] @ offset.T
            z[rows] = _most_likely(chosen[rows], prior, self.temperature * basis)
        return (expected + z @ self.root.T).astype(np.float32)

    def likeness(self, title: int, others: np.ndarray) -> np.ndarray:
        """Cosine of a title with others, as people's tastes meet them, float64 of shape (n,)."""
        centred = self.basis - self._average[1]
        own, theirs = centred[title], centred[others]
        length = np.linalg.norm(own) * np.linalg.norm(theirs, axis=1)
        return np.divide(theirs @ own, length, out=np.zeros(len(others)), where=length > 0)

    def account(
        self,
        history: sparse.csr_array,
        expected: np.ndarray,
        people: np.ndarray,
        items: np.ndarray,
    ) -> Account:
        """Take scores apart; see :class:`Account`.

        What a title contributes is what the most likely vector would lose without it, to first
        order: ``inverse curvature @ (basis[title] - mean choice)``, the influence function (Koh and
        Liang 2017).

        Parameters
        ----------
        history : CSR array of shape (R, n_items)
        expected, people : arrays of shape (R, d)
            Vectors as profiles let one expect them, and as they are.
        items : int array of shape (R, k)
        """
        factors, _, usual = self._average
        liking = people @ self.titles.slopes.T
        described = self.metadata.matrix[items.ravel()].toarray()
        described = described.reshape(*items.shape, len(self.metadata.names))
        by_feature = np.where(described > 0, (described - usual) * liking[:, None], 0)
        lead = self.item_factors[items] - factors
        met = history
        if not self.known[history.indices].all():
            met = sparse.csr_array(history * self.known)
            met.eliminate_zeros()
        by_title = np.empty((met.nnz, items.shape[1]), np.float32)
        some = _at_once(self.basis)
        for start in range(0, len(people), some):
            rows = slice(start, start + some)
            part = met[rows]
            where = slice(met.indptr[start], met.indptr[min(start + some, len(people))])
            scores = people[rows].astype(np.float64) @ self._met[0].T
            by_title[where] = self._influence(part, scores, items[rows])
        return Account(
            np.einsum("rd,rkd->rk", people, lead).astype(np.float32),
            np.einsum("rd,rkd->rk", expected, lead).astype(np.float32),
            by_feature.astype(np.float32),
            self.metadata.names,
            np.repeat(np.arange(len(people)), np.diff(met.indptr)),
            met.indices.astype(np.int64),
            by_title,
        )

    def _influence(
        self, met: sparse.csr_array, scores: np.ndarray, items: np.ndarray
    ) -> np.ndarray:
        """What each title of some histories contributes to each item, (nnz, k)."""
        basis = self.temperature * self._met[1]
        p = softmax(self.temperature * scores, axis=1)
        mean, count = p @ basis, np.diff(met.indptr)
        curve = _curvature(basis, p, mean, count)
        towards = self.basis[items] - self._average[1]
        moved = np.linalg.solve(curve, towards.transpose(0, 2, 1))
        row = np.repeat(np.arange(len(count)), count)
        surprise = self.temperature * self.basis[met.indices] - mean[row]
        return np.einsum("nr,nrk->nk", surprise, moved[row])


def _most_likely(chosen: sparse.csr_array, prior: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Maximise a softmax likelihood with a standard normal prior, by damped Newton steps.

    Parameters
    ----------
    chosen : CSR array of shape (m, n)
    prior : float64 array of shape (m, n)
        Logits where ``z`` is zero.
    basis : float64 array of shape (n, r)

    Returns
    -------
    float64 array of shape (m, r)
    """
    count, met = np.asarray(chosen.sum(axis=1))[:, None], chosen @ basis
    base = chosen.multiply(prior).sum(axis=1)

    def gain(z: np.ndarray) -> np.ndarray:
        total = logsumexp(prior + z @ basis.T, axis=1)
        return base + (met * z).sum(axis=1) - count[:, 0] * total - (z * z).sum(axis=1) / 2

    z = np.zeros((len(prior), basis.shape[1]))
    best = gain(z)
    for _ in range(NEWTON_STEPS):
        p = softmax(prior + z @ basis.T, axis=1)
        mean = p @ basis
        curve = _curvature(basis, p, mean, count[:, 0])
        step = np.linalg.solve(curve, (met - count * mean - z)[:, :, None])[:, :, 0]
        now, size = gain(z + step), np.ones(len(z))
        while (worse := now < best - GAIN).any() and size.min() > GAIN:
            size[worse] /= 2
            now = gain(z + size[:, None] * step)
        z, last, best = z + size[:, None] * step, best, now
        if (best - last < GAIN).all():
            break
    return z


def _at_once(basis: np.ndarray) -> int:
    """People whose logits, (m, n), and curvatures, (m, r, r), fit into a chunk; basis (n, r)."""
    n, r = basis.shape
    return max(1, CHUNK_CELLS // max(1, n, r * r))


def _curvature(basis: np.ndarray, p: np.ndarray, mean: np.ndarray, count: np.ndarray) -> np.ndarray:
    """How fast the loss of so many choices, and the prior, grow around ``z``, (m, r, r)."""
    spread = _second_moments(basis, p) - mean[:, :, None] * mean[:, None]
    return count[:, None, None] * spread + np.eye(basis.shape[1])


def _second_moments(basis: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Mean outer products of titles' rows by each person's chances, (n, r), (m, n) to (m, r, r)."""
    if len(p) < ALONE:
        return np.matmul(basis.T * p[:, None], basis)
    # Products of columns, once for all people: half of them, since they are symmetric.
    row, column = np.triu_indices(basis.shape[1])
    upper = np.zeros((len(p), len(row)))
    for start in range(0, len(basis), TITLES):
        titles = slice(start, start + TITLES)
        part = np.ascontiguousarray(basis[titles].T)
        upper += p[:, titles] @ (part[row] * part[column]).T
    moments = np.empty((len(p), *2 * basis.shape[1:]))
    moments[:, row, column] = moments[:, column, row] = upper
    return moments


def _learn(
    step: FactorStep, data: Dataset, profiles: Features, titles: Features, described: Expected
) -> FoldIn:
    """Learn what to expect of people, how they differ from it, and how sharply they choose."""
    met = data.user_counts > 0
    people = _expected(step.user_factors, profiles, met, PEOPLE_REG)
    rest = step.user_factors[met] - people.of(profiles.matrix[met])
    values, axes = np.linalg.eigh(np.atleast_2d(np.cov(rest.T, bias=True)))
    values = values.clip(0)
    kept = values > 1e-6 * values.max(initial=0)  # a column of ones does not vary
    root = axes[:, kept] * np.sqrt(values[kept])
    known = data.item_counts > 0
    temperature = _temperature(step, data, met, known)
    factors = step.item_factors
    return FoldIn(people, described, root, factors, factors @ root, known, temperature, titles)


def _temperature(step: FactorStep, data: Dataset, met: np.ndarray, known: np.ndarray) -> float:
    """How sharply people choose by their scores, by maximum likelihood."""
    some = np.flatnonzero(met)
    some = some[:: -(-len(some) // SAMPLE)]
    scores = step.user_factors[some].astype(np.float64) @ step.item_factors[known].T
    seen = data.matrix()[some][:, np.flatnonzero(known)]
    chosen, count = seen.multiply(scores).sum(), seen.sum(axis=1)

    def loss(log: float) -> float:
        return count @ logsumexp(np.exp(log) * scores, axis=1) - np.exp(log) * chosen

    found = optimize.minimize_scalar(loss, bounds=(-7, 7), method="bounded")
    return float(np.exp(found.x))


@dataclass(frozen=True)
class Account:
    """What scores of a base model rest on: what they would lose, taken away one by one.

    Attributes
    ----------
    lead : float32 array of shape (R, k)
        Score above the mean of all titles with events; of a linear model, the score.
    expected : float32 array of shape (R, k)
        Of it, what a vector of no history would give: what people of the same profile like.
    features : float32 array of shape (R, k, G)
        What each feature contributes that the item has, beyond what it gives the average title.
    names : tuple of str
        Of the features; none for linear models.
    row : int64 array of shape (n,)
        Request of each title of a history, ascending.
    titles : int64 array of shape (n,)
        Item codes.
    by_title : float32 array of shape (n, k)
        What each of them contributes to the items of its request. Of a linear model they sum to
        the score; of a factor model, others would partly stand in for one that is missing.
    """

    lead: np.ndarray
    expected: np.ndarray
    features: np.ndarray
    names: tuple[str, ...]
    row: np.ndarray
    titles: np.ndarray
    by_title: np.ndarray


class Base(Protocol):
    """What an assembled recommender asks of its base: a :class:`NewcomersStep`, or a blend."""

    @property
    def fold(self) -> FoldIn | None:
        """How titles are described, and people met; None for linear models."""
        ...

    def __call__(self, slate: Slate) -> Slate:
        """Score every slot of the slate."""
        ...

    def new(self, requests: pd.DataFrame) -> np.ndarray:
        """Which requests are of people without events of whom something is known, bool (R,)."""
        ...

    def known_of(self, requests: pd.DataFrame) -> tuple[sparse.csr_array, sparse.csr_array]:
        """Liked titles that have events, and traits, CSR of (R, n_items) and of (R, G)."""
        ...

    def history(self, requests: pd.DataFrame) -> sparse.csr_array:
        """What people have seen, or say they like, CSR of shape (R, n_items)."""
        ...

    def account(self, slate: Slate) -> Account:
        """Say what the scores of a slate are made of."""
        ...

    def likeness(self, title: int, others: np.ndarray) -> np.ndarray:
        """How alike a title is to others, float of shape (n,)."""
        ...


@dataclass(frozen=True)
class NewcomersStep:
    """A fitted :class:`Newcomers`.

    Attributes
    ----------
    model : FactorStep, LinearStep or DualStep
    fold : FoldIn or None
        None for linear models.
    profiles : Features of n_users rows
        Normalised traits of everybody.
    seen : CSR array of shape (n_users, n_items)
        Who saw what; of a linear model, with the weights that it learned from.
    """

    model: FactorStep | LinearStep | DualStep
    fold: FoldIn | None
    profiles: Features
    seen: sparse.csr_array

    def __call__(self, slate: Slate) -> Slate:
        """Score every slot of the slate."""
        new = self.new(slate.requests)
        if not new.any():
            return self.model(slate)
        if new.all():
            people = slate.requests.assign(user=np.arange(len(new), dtype=np.int32))
            scored = self.of(slate.requests)(replace(slate, requests=people))
            return replace(scored, requests=slate.requests)
        rows = np.flatnonzero(~new), np.flatnonzero(new)
        shared = slate.items.ndim == 1
        halves = [
            self(Slate(slate.requests.iloc[r], slate.items if shared else slate.items[r]))
            for r in rows
        ]
        parts = {name: np.zeros(slate.shape, np.float32) for half in halves for name in half.parts}
        for r, half in zip(rows, halves, strict=True):
            for name, values in half.parts.items():
                parts[name][r] = values
        return replace(slate, parts=parts)

    @property
    def known(self) -> np.ndarray:
        """Of which users the model knows anything, bool of shape (n_users,)."""
        return self.model.known if self.fold is not None else np.diff(self.model.history.indptr) > 0

    def met(self, requests: pd.DataFrame) -> tuple[NewcomersStep, pd.DataFrame]:
        """Return a step to which nobody of some requests is new, and the requests as it knows them.

        Whoever asks it for several things has newcomers folded in once.
        """
        new = self.new(requests)
        if not new.any():
            return self, requests
        users = np.where(new, -1, requests["user"])
        liked, traits = self.known_of(requests)
        if self.fold is None:
            own = self.model.history[np.maximum(users, 0)].multiply((users >= 0)[:, None])
            history = sparse.csr_array(own + liked.multiply(new[:, None]))
            history.eliminate_zeros()
            model = replace(self.model, history=history)
        else:
            known = new | ((users >= 0) & self.known[users])
            vectors = np.where((known & ~new)[:, None], self.model.user_factors[users], 0)
            vectors[new] = self.fold.vectors(liked[new], traits[new])
            model = replace(self.model, user_factors=vectors, known=known)
        profiles, seen = replace(self.profiles, matrix=traits), self.history(requests)
        people = requests.drop(columns=[LIKED, TRAITS], errors="ignore")
        people = people.assign(user=np.arange(len(users), dtype=np.int32))
        return NewcomersStep(model, self.fold, profiles, seen), people

    def new(self, requests: pd.DataFrame) -> np.ndarray:
        """Which requests are of people without events of whom something is known, bool (R,)."""
        users = requests["user"].to_numpy()
        stranger = (users < 0) | (np.diff(self.seen.indptr) == 0)[users]
        if not stranger.any():
            return stranger
        liked, traits = self.known_of(requests)
        told = np.diff(liked.indptr) > 0
        if self.fold is not None:
            told |= traits.sum(axis=1) > 0
        return stranger & told

    def known_of(self, requests: pd.DataFrame) -> tuple[sparse.csr_array, sparse.csr_array]:
        """Liked titles that have events, and traits, CSR of (R, n_items) and of (R, G)."""
        users = requests["user"].to_numpy()
        liked = _rows(requests, LIKED, len(self.model.popularity))
        if liked.nnz:  # what nobody has met says nothing of a taste
            liked.data[self.model.popularity[liked.indices] == 0] = 0
            liked.eliminate_zeros()
        own = self.profiles.matrix[np.maximum(users, 0)]
        if not (users >= 0).all():
            own = sparse.csr_array(own.multiply((users >= 0)[:, None]))
        if TRAITS not in requests:
            return liked, own
        traits = _rows(requests, TRAITS, len(self.profiles.names))
        count = np.diff(traits.indptr)
        traits.data /= np.repeat(np.maximum(count, 1), count)
        return liked, sparse.csr_array(traits + own.multiply((count == 0)[:, None]))

    def of(self, requests: pd.DataFrame) -> FactorStep | LinearStep | DualStep:
        """Model of the people of some requests, who are its users 0, 1, ..."""
        liked, traits = self.known_of(requests)
        if self.fold is None:
            return replace(self.model, history=liked)
        vectors = self.fold.vectors(liked, traits)
        return replace(self.model, user_factors=vectors, known=np.ones(len(vectors), bool))

    def account(self, slate: Slate) -> Account:
        """Say what the scores of a slate are made of.

        People of whom nothing is known have an account of zeros.
        """
        new = self.new(slate.requests)
        history, model = self.history(slate.requests), self.model
        items = np.maximum(slate.grid, 0)
        if self.fold is None:
            return _linear_account(history, model, items)
        expected = self.fold.people.of(self.known_of(slate.requests)[1])
        known = (slate.users >= 0) & model.known[slate.users]
        people = np.where(known[:, None], model.user_factors[slate.users], 0)
        if new.any():
            people[new] = self.of(slate.requests[new]).user_factors
        expected = np.where((known | new)[:, None], expected, 0)
        return self.fold.account(history, expected, people, items)

    def likeness(self, title: int, others: np.ndarray) -> np.ndarray:
        """How alike a title is to others, float of shape (n,).

        Of a linear model, what having seen the title says for others; of a factor model, see
        :meth:`FoldIn.likeness`.
        """
        if self.fold is not None:
            return self.fold.likeness(title, others)
        return self.model.between(np.array([title]), others[None])[0]

    def history(self, requests: pd.DataFrame) -> sparse.csr_array:
        """What people have seen, or say they like, CSR of shape (R, n_items)."""
        users = requests["user"].to_numpy()
        if (users >= 0).all():
            own = self.seen[users]
        else:
            own = sparse.csr_array(self.seen[np.maximum(users, 0)].multiply((users >= 0)[:, None]))
            own.eliminate_zeros()
        return own.maximum(_rows(requests, LIKED, own.shape[1])) if LIKED in requests else own


def _linear_account(
    history: sparse.csr_array, model: LinearStep | DualStep, items: np.ndarray
) -> Account:
    """What each title of a history says for the items of its request: exactly its weight."""
    row = np.repeat(np.arange(len(items)), np.diff(history.indptr))
    titles, wanted = history.indices.astype(np.int64), items[row]
    counted = history.data * (model.popularity[titles] > 0)  # see `known_of`
    by_title = (model.between(titles, wanted) * counted[:, None]).astype(np.float32)
    lead = np.zeros(items.shape, np.float32)
    np.add.at(lead, row, by_title)
    nothing = np.zeros_like(lead)
    return Account(
        lead, nothing, np.zeros((*items.shape, 0), np.float32), (), row, titles, by_title
    )


def _rows(requests: pd.DataFrame, name: str, width: int) -> sparse.csr_array:
    """Tuples of column numbers as rows of ones, CSR float32 of shape (R, width)."""
    if name not in requests:
        return sparse.csr_array((len(requests), width), dtype=np.float32)
    tuples = [each if isinstance(each, tuple) else () for each in requests[name]]
    indptr = np.cumsum([0, *map(len, tuples)])
    columns = np.fromiter((column for each in tuples for column in each), np.int32, indptr[-1])
    ones = np.ones(len(columns), np.float32)
    return sparse.csr_array((ones, columns, indptr), shape=(len(tuples), width))
