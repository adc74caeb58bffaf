"""Log-lifts: how much more often something is watched in one context than in general.

The lift of an item with attributes ``a`` in the context value ``v`` is, by Bayes' rule,

    p(item | v) / p(item)  =  p(v | a) / p(v),

so lifts are learned by a multinomial logit of the context value on the attributes, one event a
row, which takes correlated attributes (genre, decade, country) apart. Coefficients have a normal
prior, around a rule or around zero, whose variance is learned from the data for each family of
attributes (empirical Bayes; MacKay 1992), so that thin cells stay near it. Intervals allow for
users who are alike within themselves (Liang and Zeger 1986).

What single items and single people add to that is a gamma-Poisson multiplier of observed over
expected counts (Clayton and Kaldor 1987), shrunk towards one by an amount learned likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from threading import Lock

import joblib
import numpy as np
import pandas as pd
from cachetools import LRUCache, cached
from scipy import linalg, optimize, sparse
from scipy.special import gammaln, log_softmax
from scipy.stats import norm

from firetv.features import Features

FIRST_VARIANCE = 0.02  # of log-lifts, before the data have spoken
INTERCEPT_PRECISION = 1e-3  # only one of the intercepts' directions is undetermined
ROUNDS = 20  # of empirical Bayes
TOLERANCE = 0.03  # relative change of the variances
STEPS = 30  # of Newton's method
CONVERGED = 1e-3  # rise of the log-posterior that a step still promises
USUAL_WEIGHT = 20.0  # events of prior of what somebody usually watches
KEPT = 64  # lifts, of one dimension and data set each
WEIGHTS = (0.1, 1e4)  # least and most events of prior


@dataclass(frozen=True)
class Lifts:
    """What one dimension of the context does to attributes.

    Where people have strong habits of context but a handful of events each, habits cannot be told
    from lifts: lifts are then drawn to zero, and their intervals are too narrow.

    Attributes
    ----------
    values : tuple of str
        The V values of the dimension.
    names : tuple of str
        The G attributes, ``family:level``.
    share : float64 array of shape (V,)
        How often each value is met.
    usual : float64 array of shape (V,)
        Mean probability of each value over the events, by their items alone.
    coefficients : float64 array of shape (V, 1 + G)
        Intercept and log-lifts of each value.
    covariance : float64 array of shape (V * (1 + G), V * (1 + G))
        Of the coefficients, in that order.
    counts : float64 array of shape (V, G)
        Events of each value with each attribute.
    deviation : dict of str to float
        Standard deviation of true log-lifts around their prior that was learned, by family.
    """

    values: tuple[str, ...]
    names: tuple[str, ...]
    share: np.ndarray
    usual: np.ndarray
    coefficients: np.ndarray
    covariance: np.ndarray
    counts: np.ndarray
    deviation: dict[str, float]

    def log_lift(self, attributes: sparse.csr_array) -> np.ndarray:
        """Log-lift of items in each value, (n, G) attributes to (V, n) float64.

        The lifts of a value average to one over the events that they were learned from.
        """
        logits = _with_intercept(attributes) @ self.coefficients.T
        return (log_softmax(logits, axis=1) - np.log(self.usual)).T

    def contrast(self) -> np.ndarray:
        """Matrix that turns coefficients into what a table shows, (V * G, V * (1 + G)).

        A log-lift is shown against the base rate: its mean over the values, as often as they are
        met, is zero, and so is its mean over the levels of a family, as often as they are watched.
        """
        n_values, n_names = len(self.values), len(self.names)
        over_values = np.eye(n_values) - self.share
        family = np.array([name.split(":", 1)[0] for name in self.names])
        watched = self.counts.sum(axis=0) * (family[:, None] == family)
        over_levels = np.eye(n_names) - watched / watched.sum(axis=1, keepdims=True)
        over_levels = np.column_stack([np.zeros(n_names), over_levels])
        return np.kron(over_values, over_levels)

    def shown(self, log_lifts: np.ndarray) -> np.ndarray:
        """Show other log-lifts, (V, G), as the table shows the learned ones, (V * G,)."""
        return self.contrast() @ np.column_stack([np.zeros(len(self.values)), log_lifts]).ravel()

    def table(self, confidence: float = 0.9) -> pd.DataFrame:
        """Log-lift of each attribute in each value, with its interval and count.

        Returns
        -------
        DataFrame
            ``value, attribute, log_lift, low, high, n``: V * G rows.
        """
        contrast = self.contrast()
        mean = contrast @ self.coefficients.ravel()
        deviation = np.sqrt(np.einsum("ij,ij->i", contrast @ self.covariance, contrast))
        margin = norm.ppf((1 + confidence) / 2) * deviation
        return pd.DataFrame(
            {
                "value": np.repeat(self.values, len(self.names)),
                "attribute": np.tile(self.names, len(self.values)),
                "log_lift": mean,
                "low": mean - margin,
                "high": mean + margin,
                "n": self.counts.ravel().round().astype(int),
            }
        )


@dataclass(frozen=True)
class _Events:
    """Events of one dimension: what the logit is fitted on."""

    codes: np.ndarray  # (E,), context value
    items: np.ndarray  # (E,)
    design: sparse.csr_array  # (n_items, D), with D = 1 + G
    squares: sparse.csr_array  # (n_items, D * D), each row's outer product with itself
    n_values: int

    @classmethod
    def of(
        cls, codes: np.ndarray, items: np.ndarray, attributes: sparse.csr_array, n_values: int
    ) -> _Events:
        design = _with_intercept(attributes)
        return cls(codes, items, design, _squares(design), n_values)

    def probabilities(self, theta: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Probability of each value for each event, (E, V)."""
        p = np.exp(_shifted((self.design @ theta.T)[self.items] + offset))
        p /= p.sum(axis=1, keepdims=True)
        return p

    def log_likelihood(self, theta: np.ndarray, offset: np.ndarray) -> float:
        """Log-probability of the values that were met, summed."""
        logits = _shifted((self.design @ theta.T)[self.items] + offset)
        met = np.take_along_axis(logits, self.codes[:, None], axis=1)[:, 0]
        return (met - np.log(np.exp(logits).sum(axis=1))).sum()

    def gradient(self, p: np.ndarray) -> np.ndarray:
        """Slope of the log-likelihood, (V, 1 + G)."""
        met = np.arange(self.n_values) == self.codes[:, None]
        rows = np.ascontiguousarray((met - p).T)
        return np.stack([self._by_item(row) @ self.design for row in rows])

    def information(self, p: np.ndarray) -> np.ndarray:
        """Negative curvature of the log-likelihood, (V * D, V * D), in blocks of values."""
        width = self.design.shape[1]
        one, other = np.tril_indices(self.n_values)
        pairs = zip(one, other, strict=True)
        rows = np.ascontiguousarray(p.T)
        weight = [self._by_item(rows[a] * ((a == b) - rows[b])) for a, b in pairs]
        block = (np.stack(weight) @ self.squares).reshape(-1, width, width)
        blocks = np.empty((self.n_values, width, self.n_values, width))
        blocks[one, :, other], blocks[other, :, one] = block, block
        return blocks.reshape(self.n_values * width, self.n_values * width)

    def scores(self, p: np.ndarray, users: np.ndarray) -> np.ndarray:
        """Each user's part of the gradient, (number of users, V * D)."""
        met = np.arange(self.n_values) == self.codes[:, None]
        shape = (users.max() + 1, self.design.shape[0])
        by_item = (sparse.csr_array((r, (users, self.items)), shape=shape) for r in (met - p).T)
        return np.hstack([(each @ self.design).toarray() for each in by_item])

    def counts(self) -> np.ndarray:
        """Number of events of each value and item, (V, n_items)."""
        return np.stack([self._by_item(self.codes == v) for v in range(self.n_values)])

    def _by_item(self, amount: np.ndarray) -> np.ndarray:
        return np.bincount(self.items, amount, minlength=self.design.shape[0])


def _shifted(logits: np.ndarray) -> np.ndarray:
    """Logits less the greatest of each row, (n, V), which is found column by column: it is faster.

    What scipy's softmax begins with, to the last bit; rows are short here, and many.
    """
    return logits - reduce(np.maximum, logits.T)[:, None]


def _squares(rows: sparse.csr_array) -> sparse.csr_array:
    """Outer product of each row with itself, (n, D) to (n, D * D)."""
    n, width = rows.shape
    row = np.repeat(np.arange(n), np.diff(rows.indptr))
    entries = sparse.csr_array((np.ones(rows.nnz), (np.arange(rows.nnz), row)), (rows.nnz, n))
    one, other = sparse.coo_array(entries @ entries.T).coords  # entries of the same row
    column = rows.indices[one].astype(np.int64) * width + rows.indices[other]
    place = (row[one], column)
    return sparse.csr_array((rows.data[one] * rows.data[other], place), (n, width**2))


def _habits(codes: np.ndarray, strata: np.ndarray, p: np.ndarray) -> np.ndarray:
    """What a stratum adds to the logit of each value, (E, V).

    Its habit, over what its other items would add: ``p(v | s, i)`` is proportional to ``p(v | s)``
    times the lift of ``i`` over the mean lift of what ``s`` usually watches. Habits are
    Dirichlet-multinomial around everybody's; how much they vary is learned by maximum likelihood.
    """
    n_values, size = p.shape[1], strata.max() + 1
    cells = strata[:, None] * n_values + np.arange(n_values)
    length = size * n_values
    observed = np.bincount(strata * n_values + codes, minlength=length).reshape(size, n_values)
    total, share = observed.sum(axis=1, keepdims=True), observed.sum(axis=0) / len(codes)

    def loss(log_weight: float) -> float:
        weight = np.exp(log_weight)
        cell = gammaln(weight * share + observed) - gammaln(weight * share)
        return (gammaln(weight + total) - gammaln(weight)).sum() - cell.sum()

    weight = np.exp(optimize.minimize_scalar(loss, bounds=np.log(WEIGHTS), method="bounded").x)
    habit = np.log((weight + observed / share) / (weight + total))[strata]
    lifted = np.bincount(cells.ravel(), p.ravel(), minlength=length).reshape(size, n_values)[strata]
    usual = (lifted - p + USUAL_WEIGHT * p.mean(axis=0)) / (total[strata] - 1 + USUAL_WEIGHT)
    return habit - np.log(usual / p.mean(axis=0))


@cached(LRUCache(KEPT), key=lambda *given: joblib.hash(given), lock=Lock())
def learn_lifts(
    values: Sequence[str],
    codes: np.ndarray,
    items: np.ndarray,
    users: np.ndarray,
    attributes: Features,
    prior: np.ndarray,
    strata: Sequence[np.ndarray] = (),
) -> Lifts:
    """Learn the lifts of one dimension from events.

    What a user, or a stratum, meets more often than the items explain is a habit, not a lift:
    somebody who only watches at night lends the night none of their taste.

    Parameters
    ----------
    values : sequence of V str
    codes, items, users : int arrays of shape (E,)
        Context value, item and user of each event.
    attributes : Features of n_items rows and G columns
        Rows of a family sum to one, or to zero where nothing is known.
    prior : float array of shape (V, G)
        Log-multipliers that a thin cell is drawn to; zero for none.
    strata : sequence of int arrays of shape (E,)
        Codes from 0 of other dimensions that go together with this one, such as the day type
        where it is the daypart that is learned.

    Returns
    -------
    Lifts
        Shared by all who ask for the same, and not to be written to: the last results are kept,
        since re-rankers of the same data differ in how much lifts count, not in the lifts.
    """
    events = _Events.of(codes, items, attributes.matrix, len(values))
    users, *strata = (np.unique(s, return_inverse=True)[1] for s in (users, *strata))
    family, labels = pd.factorize(attributes.families)
    mean = np.column_stack([np.zeros(len(values)), prior])
    theta, habits = mean, dict.fromkeys(range(1 + len(strata)), np.zeros((len(codes), len(values))))
    variance = np.full(len(labels), FIRST_VARIANCE)
    last = theta
    for _ in range(ROUNDS):
        precision = np.tile(np.r_[INTERCEPT_PRECISION, 1 / variance[family]], len(values))
        offset = sum(habits.values())
        theta, inverse = _maximise(events, theta, offset, mean, precision)
        for number, stratum in enumerate((users, *strata)):
            others = sum(habits.values()) - habits[number]
            habits[number] = _habits(codes, stratum, events.probabilities(theta, others))
        before, variance = variance, _variance(family, theta - mean, precision, inverse)
        moved, last = np.abs(theta - last).max(), theta
        if (np.abs(np.log(variance / before)) < TOLERANCE).all() and moved < TOLERANCE:
            break
    p, counts = events.probabilities(theta, offset), events.counts()
    return Lifts(
        tuple(values),
        attributes.names,
        counts.sum(axis=1) / counts.sum(),
        events.probabilities(theta, np.zeros(len(values))).mean(axis=0),
        theta,
        _covariance(events.scores(p, users), inverse, precision),
        counts @ attributes.matrix,
        dict(zip(labels, np.sqrt(variance).tolist(), strict=True)),
    )


def _covariance(scores: np.ndarray, inverse: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Covariance of the coefficients that allows for users who are alike within themselves.

    Of a single user nobody can tell how users differ: then it is the model's own.
    """
    users = len(scores)
    if users < 2:
        return inverse
    spread = scores.T @ scores * (users / (users - 1))
    return inverse @ (spread + np.diag(precision)) @ inverse


def _with_intercept(attributes: sparse.csr_array) -> sparse.csr_array:
    ones = sparse.csr_array(np.ones((attributes.shape[0], 1)))
    return sparse.csr_array(sparse.hstack([ones, attributes], format="csr"))


def _variance(
    family: np.ndarray, found: np.ndarray, precision: np.ndarray, inverse: np.ndarray
) -> np.ndarray:
    """Variance of each family's log-lifts: sum of squares over the number the data determine.

    One more log-lift, of the first guess, keeps a thin family's variance from collapsing to zero.
    """
    determined = 1 - precision * np.diag(inverse)
    squares = np.bincount(family, (found[:, 1:] ** 2).sum(axis=0))
    number = np.bincount(family, determined.reshape(found.shape)[:, 1:].sum(axis=0))
    return (squares + FIRST_VARIANCE) / (number + 1)


def _maximise(
    events: _Events,
    theta: np.ndarray,
    offset: np.ndarray,
    mean: np.ndarray,
    precision: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mode and inverse Hessian of a multinomial logit, by damped Newton steps."""

    def log_posterior(theta: np.ndarray) -> float:
        penalty = (precision * (theta - mean).ravel() ** 2).sum() / 2
        return events.log_likelihood(theta, offset) - penalty

    reached = log_posterior(theta)
    for _ in range(STEPS):
        p = events.probabilities(theta, offset)
        gradient = events.gradient(p).ravel() - precision * (theta - mean).ravel()
        factor = linalg.cho_factor(events.information(p) + np.diag(precision))
        step = linalg.cho_solve(factor, gradient)
        slope, step = gradient @ step, step.reshape(theta.shape)
        while (value := log_posterior(theta + step)) < reached + slope / 1e4 and slope > CONVERGED:
            step, slope = step / 2, slope / 2
        if slope <= CONVERGED:
            break
        theta, reached = theta + step, value
    return theta, linalg.cho_solve(factor, np.eye(len(gradient)))


# ------------------------------------------------------------------ items and people


def learn_shrinkage(observed: np.ndarray, expected: np.ndarray) -> float:
    """Events of prior weight of a multiplier of expected counts, by maximum likelihood.

    Counts are Poisson around expectation times a multiplier that is gamma-distributed with mean
    one; the marginal is negative binomial (Clayton and Kaldor 1987). Kept within `WEIGHTS`.

    Parameters
    ----------
    observed, expected : float arrays of one shape
        Cells with nothing expected are left out.

    Returns
    -------
    float

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.poisson(3.0 * rng.gamma(5.0, 1 / 5.0, size=20_000))
    >>> round(learn_shrinkage(counts, np.full(20_000, 3.0)))
    5
    """
    cells = expected > 0
    n, e = observed[cells].astype(float), expected[cells].astype(float)

    def loss(log_weight: float) -> float:
        weight = np.exp(log_weight)
        total = gammaln(n + weight) - gammaln(weight) + weight * np.log(weight / (weight + e))
        return -(total - n * np.log(weight + e)).sum()

    found = optimize.minimize_scalar(loss, bounds=np.log(WEIGHTS), method="bounded")
    return float(np.exp(found.x))


def shrunk_log_lift(observed: np.ndarray, expected: np.ndarray, weight: float) -> np.ndarray:
    """Log of the posterior mean multiplier, ``(weight + observed) / (weight + expected)``."""
    return np.log((weight + observed) / (weight + expected))
