"""Personal strengths: how much the moment and friends count for each user.

A strength that is learned for everybody hides that some people watch by the hour and others by
what their friends saw. Here everybody has strengths of their own, shrunk towards the common ones by
as much as their choices tell: a normal prior around the common strength, whose variance is itself
learned from all users (empirical Bayes; Morris 1983), in a mixed logit (Revelt and Train 1998).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax

from firetv.choices import Choices, conditional_logit
from firetv.data import Dataset
from firetv.scales import Scales, factors, later_choices
from firetv.slate import Chain, Slate, Stage, Step, chain

FAMILIES = ("context", "friends")
ROUNDS = 40  # of expectation and maximisation
LAST = 3  # further steps to the mode, at the variances that were found
LONGEST = 1.0  # step of a weight at once: a logit's curvature tells nothing of what is far away
START = 0.5  # deviation of the prior before anything is learned; of features that vary by about 1


@dataclass(frozen=True)
class Deviations:
    """How far users' weights lie from the common ones.

    Attributes
    ----------
    users : int array of shape (U,)
        Codes of those who chose anything, sorted.
    means : float64 array of shape (U, D)
        Most likely deviation of each user's D weights.
    variances : float64 array of shape (D,)
        Of the prior; zero where users do not differ enough to tell.
    """

    users: np.ndarray
    means: np.ndarray
    variances: np.ndarray


def learn_deviations(
    features: np.ndarray, valid: np.ndarray, offset: np.ndarray, users: np.ndarray
) -> Deviations:
    """Fit user-level weights of a conditional logit, shrunk towards zero by empirical Bayes.

    The log-odds of a slot are its offset, which holds what all users share, plus ``features @
    weights`` of its user, with ``weights ~ N(0, diag(variances))``. Newton's method finds each
    user's most likely weights, all users at once; variances follow by expectation-maximisation
    under Laplace's approximation (Dempster, Laird and Rubin 1977; Tierney and Kadane 1986). A
    variance stays only if the approximate marginal likelihood, against none, gains what one
    parameter must by the Bayesian information criterion (Schwarz 1978). Variances are
    too small where choices are few (Breslow and Lin 1995): by a quarter at five of each user.

    Parameters
    ----------
    features : float array of shape (R, K, D)
        Slot 0 of each row was chosen.
    valid : bool array of shape (R, K)
    offset : float array of shape (R, K)
    users : int array of shape (R,)
        Who chose.

    Returns
    -------
    Deviations

    Raises
    ------
    ValueError
        If there are no choices, slot 0 of one is not valid, or a number of a valid slot is missing
        or infinite.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> own = rng.normal(scale=2, size=100)  # of each user
    >>> x = rng.normal(size=(5000, 8, 1))
    >>> users = np.repeat(np.arange(100), 50)
    >>> chosen = (x[:, :, 0] * own[users, None] + rng.gumbel(size=(5000, 8))).argmax(axis=1)
    >>> x[np.arange(5000), [0] * 5000], x[np.arange(5000), chosen] = (
    ...     x[np.arange(5000), chosen],
    ...     x[:, 0].copy(),
    ... )
    >>> found = learn_deviations(x, np.ones((5000, 8), bool), np.zeros((5000, 8)), users)
    >>> bool(np.corrcoef(found.means[:, 0], own)[0, 1] > 0.95)
    True
    """
    x = np.where(valid[:, :, None], features, 0).astype(np.float64)
    offset = np.where(valid, np.asarray(offset, np.float64), -np.inf)
    _check(x, offset, users)
    found, row = np.unique(users, return_inverse=True)
    order = np.argsort(row, kind="stable")
    first = np.searchsorted(row[order], np.arange(len(found)))
    scale = _spread(x, valid)
    fit = _Fit(x[order] / scale, offset[order], row[order], first)
    kept = np.ones(len(scale), bool)
    variances, means, likelihood = fit.variances(kept)
    for each in range(len(kept)):  # what a dimension adds to the others
        without = kept & (np.arange(len(kept)) != each)
        fewer = fit.variances(without)
        if likelihood - fewer[2] <= np.log(len(found)) / 2:
            kept, (variances, means, likelihood) = without, fewer
    return Deviations(found, means / scale, variances / scale**2)


def _check(x: np.ndarray, offset: np.ndarray, users: np.ndarray) -> None:
    """Raise ValueError if there is nothing to learn from, or what no logit can explain."""
    if not len(users):
        raise ValueError("users' own weights need at least one choice to learn from")
    if wrong := np.count_nonzero(~np.isfinite(offset[:, 0])):
        raise ValueError(f"slot 0 of {wrong} choices is not valid: put what was chosen there")
    if not np.isfinite(x).all() or np.isnan(offset).any() or (offset == np.inf).any():
        raise ValueError("features or offsets are missing or infinite: mark their slots not valid")


def _spread(x: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Deviation of each feature within choices, as a power of two; 1 where it never varies."""
    held = valid.sum(axis=1)[:, None, None]
    off = np.where(valid[:, :, None], x - x.sum(axis=1, keepdims=True) / held, 0)
    scale = np.sqrt((off**2).sum(axis=(0, 1)) / valid.sum())
    return np.exp2(np.round(np.log2(np.where(scale > 0, scale, 1))))  # dividing by it is exact


class _Likelihood(NamedTuple):
    """What choices say of their users' weights: slope, minus the second derivative, and sum."""

    slope: np.ndarray
    curvature: np.ndarray
    total: float


@dataclass(frozen=True)
class _Fit:
    """Choices sorted by user: features, logits without them, each row's user, users' first rows."""

    x: np.ndarray
    offset: np.ndarray
    user: np.ndarray
    first: np.ndarray

    def variances(self, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Prior variances of some dimensions, users' weights, and the marginal log-likelihood."""
        variances = np.where(kept, START**2, 0.0)
        means = np.zeros((len(self.first), len(kept)))
        here = self._likelihood(means)
        for _ in range(ROUNDS if kept.any() else 0):
            means = _newton(here, means, variances)
            here = self._likelihood(means)
            spread = np.diagonal(_covariance(here, variances), axis1=1, axis2=2)
            variances = np.where(kept, (means**2 + spread).mean(axis=0), 0.0)
        for _ in range(LAST if kept.any() else 0):
            means = _newton(here, means, variances)
            here = self._likelihood(means)
        penalty = np.divide(means**2, variances, out=np.zeros_like(means), where=kept).sum()
        covariance = _covariance(here, variances)[:, kept][:, :, kept]
        inner = np.linalg.slogdet(covariance)[1].sum()
        prior = len(means) * np.log(variances[kept]).sum()
        return variances, means, float(here.total - penalty / 2 + inner / 2 - prior / 2)

    def _likelihood(self, means: np.ndarray) -> _Likelihood:
        """What the choices say at some weights of their users."""
        log_p = log_softmax(self.offset + np.einsum("rkd,rd->rk", self.x, means[self.user]), axis=1)
        p = np.exp(log_p)
        expected = np.einsum("rk,rkd->rd", p, self.x)
        second = np.einsum("rk,rkd,rke->rde", p, self.x, self.x, optimize=True)
        curvature = second - expected[:, :, None] * expected[:, None]
        return _Likelihood(
            np.add.reduceat(self.x[:, 0] - expected, self.first),
            np.add.reduceat(curvature, self.first),
            float(log_p[:, 0].sum()),
        )


def _newton(here: _Likelihood, means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Move every user's weights towards their mode; without a variance they stay where they are."""
    precision = np.divide(1.0, variances, out=np.zeros_like(variances), where=variances > 0)
    slope = here.slope - means * precision
    step = np.einsum("ude,ue->ud", _covariance(here, variances), slope)
    length = np.abs(step).max(axis=1, keepdims=True, initial=0)
    return means + step / np.maximum(1, length / LONGEST)


def _covariance(here: _Likelihood, variances: np.ndarray) -> np.ndarray:
    """Inverse of the curvature of each user's log-posterior; zero without a variance."""
    free = variances > 0
    both = free[:, None] & free
    precision = np.divide(1.0, variances, out=np.zeros_like(variances), where=free)
    information = np.where(both, here.curvature, 0) + np.diag(np.where(free, precision, 1.0))
    return np.linalg.inv(information) * both


# ------------------------------------------------------------------ the stage


@dataclass(frozen=True)
class Unscaled:
    """A re-ranker that leaves the parts before it as they are: somebody else weighs them all.

    A re-ranker of a chain scales what is before it, each time that it learns. Weights that are
    learned behind two of them would be those of other scales than the ones they are used on.

    Attributes
    ----------
    stage : Stage
        At full strength, such as ``FriendBoost(strength=1)``.
    """

    stage: Stage

    def fit(self, data: Dataset) -> Step:
        """Learn as if nothing came before it."""
        return self.stage.fit(data)


@dataclass(frozen=True)
class Personal:
    """Weights of the moment and of friends for each user, learned from what they chose later.

    In a chain it comes last, behind re-rankers at full strength, such as ``chain(base,
    Unscaled(FriendBoost(strength=1)), Unscaled(ContextBoost(strength=1)), Personal())``. Common
    weights of all parts are fitted to the last fifth of the events, as re-rankers fit theirs; then
    users' deviations from them. No weight is below zero. Whoever chose nothing lately has the
    common ones.

    Attributes
    ----------
    families : sequence of str
        First words of the parts that have a weight for each user: ``context`` stands for
        ``context:weather`` and its like, whose sum has one weight.
    seed : int
        Of the choices that are learned from, and of their alternatives.
    """

    families: Sequence[str] = FAMILIES
    seed: int = 0

    def fit(self, data: Dataset) -> Step:
        """Learn without anything before it: see :meth:`fit_after`."""
        return self.fit_after(chain(), data)

    def fit_after(self, upstream: Chain, data: Dataset) -> Step:
        """Learn common weights and users' own from the last fifth of the events.

        Raises
        ------
        ValueError
            If nothing before it scores, several re-rankers before it scale each other's parts, or
            no event of the last fifth can serve.
        """
        _check_chain(upstream)
        choices, _, users = later_choices(upstream, None, data, self.seed)
        if not choices.names:
            raise ValueError("nothing before has parts to be weighed: put it behind a base model")
        choices = self._summed(choices)
        weights = conditional_logit(choices, nonnegative=True)
        own = [name for name in choices.names if name in self.families]
        columns = [choices.names.index(name) for name in own]
        deviations = np.zeros((data.shape[0] + 1, len(own)))
        if own:
            x = choices.features[:, :, columns]
            found = learn_deviations(x, choices.valid, choices.features @ weights, users)
            deviations[found.users] = found.means
        common = dict(zip(choices.names, weights, strict=True))
        table = np.maximum([common[name] for name in own] + deviations, 0).astype(np.float32)
        return PersonalStep(Scales(factors(choices, weights, own)), tuple(own), table)

    def _summed(self, choices: Choices) -> Choices:
        """Add the parts of each family up."""
        family = [name.split(":")[0] for name in choices.names]
        family = [
            f if f in self.families else n for f, n in zip(family, choices.names, strict=True)
        ]
        names = tuple(dict.fromkeys(family))
        features = np.zeros((*choices.valid.shape, len(names)), np.float32)
        for column, name in enumerate(family):
            features[:, :, names.index(name)] += choices.features[:, :, column]
        return replace(choices, features=features, names=names)


def _check_chain(upstream: Chain) -> None:
    """Raise ValueError if a part that is to be weighed was scaled by another re-ranker."""
    found = [stage for stage in _flat(upstream) if hasattr(stage, "fit_after")]
    names = [type(stage).__name__ for stage in found if hasattr(stage, "strength")]
    if len(names) > 1:
        raise ValueError(
            f"{' and '.join(names)} scale each other's parts before Personal: wrap each, as in "
            f"Unscaled({names[0]}(strength=1))"
        )


def _flat(upstream: Chain) -> Iterator[Stage | Step]:
    for stage in upstream.stages:
        if isinstance(stage, Chain):
            yield from _flat(stage)
        else:
            yield stage


@dataclass(frozen=True)
class PersonalStep:
    """A fitted :class:`Personal`.

    Attributes
    ----------
    scales : Scales
        Whose ``upstream`` are factors on the parts without personal weights.
    families : tuple of str
        Of the D columns of the table.
    weights : float32 array of shape (n_users + 1, D)
        The last row, the common weights, is for strangers.
    """

    scales: Scales
    families: tuple[str, ...]
    weights: np.ndarray

    def __call__(self, slate: Slate) -> Slate:
        """Weigh the parts."""
        parts, own = self.scales.rescale(slate), self.weights[slate.users]
        for name in parts:
            family = name.split(":")[0]
            if family in self.families:
                parts[name] = parts[name] * own[:, [self.families.index(family)]]
        return replace(slate, parts=parts)
