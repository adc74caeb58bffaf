"""What a policy would earn, from the log of another one, when each request shows one title.

The log says what was shown, how likely that was and what came of it. A target policy is its
probabilities of each candidate, ``target`` of shape (..., n, A): n requests, A candidates.
Requests that it would have answered as the log did count more, by the weight ``w = target /
propensity`` of the logged action.

An estimator is a function ``(log, target) -> terms``, of shape (..., n), one term per request. The
mean of the terms is the estimate, and their standard deviation over sqrt(n) its standard error. So
:func:`bounds` and :func:`estimates` serve all of them, and so do the tests of
:mod:`firetv.abtest`: ``ips(log, new) - ips(log, old)`` compares two policies request by request,
and terms of one user's requests may be clustered. Leading axes are replications, all computed at
once.

Examples
--------
>>> log = Log(action=np.array([0, 1]), reward=np.array([1.0, 0.0]), propensity=np.array([0.8, 0.5]))
>>> target = np.array([[0.4, 0.6], [0.5, 0.5]])
>>> ips(log, target)
array([0.5, 0. ])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy import stats

from firetv.abtest import Interval, require_share

CAP = 10.0  # largest weight that is still trusted, where none is given
SUM_SLACK = 1e-6  # probabilities may come as float32

# When not to trust the weights: rules of thumb, not theorems.
FEW = 100  # effective requests; a mean of fewer skewed values is not normal yet
TOP = 0.01  # share of the requests that is called the top
TOP_HEAVY = 0.5  # share of all weight that the top may hold
ONE_HEAVY = 0.05  # share of all weight that one request may hold
MEAN_ALPHA = 0.001  # level of the test that weights average 1; strict, since it is run every time
UNSEEN = 0.01  # share of the target's choices that logging may all but exclude


@dataclass(frozen=True)
class Log:
    """What was shown in n requests, and what came of it.

    Attributes
    ----------
    action : int array of shape (..., n)
        Which candidate was shown, from 0; leading axes are replications.
    reward : float array of shape (..., n)
    propensity : float array of shape (..., n)
        With which probability the logging policy chose that candidate.
    predicted : float array of shape (..., n, A), optional
        A model's reward of each candidate, such as by :func:`fit_rewards`.

    Raises
    ------
    ValueError
        If shapes disagree, there are fewer than two requests, a reward or prediction is not
        finite, or a propensity is not in (0, 1].
    """

    action: np.ndarray
    reward: np.ndarray
    propensity: np.ndarray
    predicted: np.ndarray | None = None

    def __post_init__(self) -> None:
        shapes = [np.shape(x) for x in (self.action, self.reward, self.propensity)]
        if len(set(shapes)) > 1 or not shapes[0] or shapes[0][-1] < 2:
            raise ValueError(
                f"action, reward and propensity have shapes {shapes}: give one of each for every "
                "request, of at least 2"
            )
        if not np.issubdtype(self.action.dtype, np.integer) or self.action.min() < 0:
            raise ValueError("action must be positions of candidates, integers from 0")
        wrong = np.count_nonzero(~((self.propensity > 0) & (self.propensity <= 1)))
        if wrong:
            raise ValueError(
                f"{wrong} propensities are not in (0, 1]: log the probability with which each "
                "shown title was chosen; where it was not random, nothing can be learned"
            )
        if self.predicted is not None and np.shape(self.predicted)[:-1] != shapes[0]:
            raise ValueError(
                f"predicted has shape {np.shape(self.predicted)}: give {shapes[0]} + (candidates,)"
            )
        for name in ("reward", "predicted"):
            values = getattr(self, name)
            if values is not None and not np.isfinite(values).all():
                raise ValueError(f"{name} has values that are missing or infinite: leave them out")


# ------------------------------------------------------------------ estimators


def weights(log: Log, target: np.ndarray) -> np.ndarray:
    """How much likelier the target policy is to show what was shown: target / propensity.

    Parameters
    ----------
    log : Log
    target : float array of shape (..., n, A)
        Probability of each candidate under the target policy.

    Returns
    -------
    float64 array of shape (..., n)
        Their expectation is 1 if the logging policy may show all that the target policy may.

    Raises
    ------
    ValueError
        If shapes disagree, an action is not a candidate, or rows of `target` are not
        probabilities that sum to 1.
    """
    _require_target(log, target)
    chosen = np.take_along_axis(target, log.action[..., np.newaxis], axis=-1)[..., 0]
    return chosen.astype(float) / log.propensity


def _require_target(log: Log, target: np.ndarray) -> None:
    if target.shape[:-1] != log.action.shape:
        raise ValueError(
            f"target has shape {target.shape}: give {log.action.shape} + (candidates,), a row of "
            "probabilities for each request"
        )
    if log.action.max() >= target.shape[-1]:
        raise ValueError(
            f"action {log.action.max()} is not one of {target.shape[-1]} candidates: give columns "
            "of target in the order that actions count them"
        )
    # Sums first: NaN spoils them, so that it needs no pass of its own.
    off = ~(np.abs(target.sum(axis=-1) - 1) <= SUM_SLACK)
    if off.any() or target.min() < 0:
        raise ValueError(
            f"{np.count_nonzero(off | (target < 0).any(axis=-1))} rows of target are not "
            "probabilities that sum to 1: divide each by its sum, or use a softmax"
        )


def direct(log: Log, target: np.ndarray) -> np.ndarray:
    """Direct method (DM): the model's reward of what the target policy would show.

    Terms of shape (..., n). Its interval takes the model for the truth: it tells how much requests
    differ, ignores the error of the model, and so does **not** cover the value where that is
    biased, the less so the more requests there are.
    """
    _require_target(log, target)
    return np.einsum("...a,...a->...", target, _predicted(log, target), dtype=float)


def ips(log: Log, target: np.ndarray) -> np.ndarray:
    """Inverse propensity scores (Horvitz & Thompson 1952): ``w r``; terms of shape (..., n).

    Unbiased where logging may show all that the target policy may, and if propensities are right;
    its variance grows as the square of the weights.
    """
    return weights(log, target) * log.reward


def clipped_ips(log: Log, target: np.ndarray, cap: float = CAP) -> np.ndarray:
    """Inverse propensity scores with clipped weights: ``min(w, cap) r`` (Ionides 2008).

    Terms of shape (..., n). Of rewards from 0 it underestimates, by ``E[(w - cap)+ r]``, which its
    interval ignores. ``cap = sqrt(n)`` makes that vanish as the log grows. Raises ValueError if
    `cap` is not positive.
    """
    if not cap > 0:
        raise ValueError(f"cap {cap} must be above 0: {CAP:g} is usual")
    return np.minimum(weights(log, target), cap) * log.reward


def snips(log: Log, target: np.ndarray) -> np.ndarray:
    """Self-normalised inverse propensity scores (Swaminathan & Joachims 2015).

    The estimate is ``v = sum(w r) / sum(w)``; terms, of shape (..., n), are by the delta method
    ``v + w (r - v) / mean(w)``. Adding a constant to all rewards adds it to the estimate, which
    stays within their range; the bias is of order 1 / n. Raises ValueError if all weights are 0.
    """
    return self_normalised(weights(log, target), log.reward)


def dr(log: Log, target: np.ndarray) -> np.ndarray:
    """Doubly robust (Dudik, Langford & Li 2011): the direct method, corrected by weighted errors.

    Terms of shape (..., n), ``sum_a target(a) q(a) + w (r - q)``, q being the predicted reward.
    Unbiased if propensities or predictions are right, the latter made without the request itself.
    """
    return direct(log, target) + weights(log, target) * _errors(log)


def sndr(log: Log, target: np.ndarray) -> np.ndarray:
    """Doubly robust with self-normalised weights (Thomas & Brunskill 2016).

    Terms of shape (..., n): of the direct method, and as in :func:`snips` of errors ``r - q``.
    Raises ValueError if all weights are 0.
    """
    return direct(log, target) + self_normalised(weights(log, target), _errors(log))


def switch_dr(log: Log, target: np.ndarray, tau: float = CAP) -> np.ndarray:
    """Doubly robust that trusts the model where weights are large (Wang, Agarwal & Dudik 2017).

    Terms of shape (..., n), ``sum_a target(a) q(a) + w (r - q) [w <= tau]``. With tau 0 it is the
    direct method, with a large one doubly robust. The bias, where the model is wrong for the
    actions that are switched off, is not in the interval. Raises ValueError if `tau` is negative.
    """
    if not tau >= 0:
        raise ValueError(f"tau {tau} must be a number from 0: {CAP:g} is usual")
    weight = weights(log, target)
    return direct(log, target) + np.where(weight <= tau, weight, 0.0) * _errors(log)


Estimator = Callable[[Log, np.ndarray], np.ndarray]
ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {
        "DM": direct,
        "IPS": ips,
        "clipped IPS": clipped_ips,
        "SNIPS": snips,
        "DR": dr,
        "SNDR": sndr,
        "switch-DR": switch_dr,
    }
)


def _predicted(log: Log, target: np.ndarray) -> np.ndarray:
    if log.predicted is None:
        raise ValueError(
            "this estimator needs predicted rewards: give Log(..., predicted=fit_rewards(...)), "
            "or use IPS, clipped IPS or SNIPS"
        )
    if log.predicted.shape != target.shape:
        raise ValueError(
            f"predicted has shape {log.predicted.shape}, target {target.shape}: give both for the "
            "same candidates"
        )
    return log.predicted


def _errors(log: Log) -> np.ndarray:
    """Rewards less their predictions, (..., n)."""
    known = np.take_along_axis(log.predicted, log.action[..., np.newaxis], axis=-1)[..., 0]
    return log.reward - known


def self_normalised(weight: np.ndarray, value: np.ndarray, axis: int = -1) -> np.ndarray:
    """Terms of ``sum(w x) / sum(w)`` over requests, by the delta method; their mean is that ratio.

    `axis` is that of the requests. Raises ValueError if all weights are 0.
    """
    mean = weight.mean(axis=axis, keepdims=True)
    if (mean == 0).any():
        raise ValueError(
            "weights are all 0: the target policy never shows what was logged; try one closer to it"
        )
    ratio = (weight * value).mean(axis=axis, keepdims=True) / mean
    return ratio + weight * (value - ratio) / mean


# ------------------------------------------------------------------ intervals


def bounds(
    terms: np.ndarray, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimates with normal intervals, from the terms of any estimator.

    Parameters
    ----------
    terms : float array of shape (..., n)
    confidence : float
        Nominal coverage, 0..1. Where few requests hold most of the weight the real one is lower:
        see :func:`diagnose`.

    Returns
    -------
    value, low, high : float64 arrays of shape (...)

    Raises
    ------
    ValueError
        If there are fewer than two terms, or `confidence` is not between 0 and 1.

    Examples
    --------
    >>> value, low, high = bounds(np.array([0.0, 1.0, 1.0, 0.0]))
    >>> value.round(2), low.round(2), high.round(2)
    (np.float64(0.5), np.float64(-0.07), np.float64(1.07))
    """
    if terms.shape[-1] < 2:
        raise ValueError(f"an interval needs at least 2 requests, not {terms.shape[-1]}")
    require_share("confidence", confidence)
    value = terms.mean(axis=-1)
    error = terms.std(axis=-1, ddof=1) / np.sqrt(terms.shape[-1])
    half = stats.norm.ppf((1 + confidence) / 2) * error
    return value, value - half, value + half


def estimates(
    log: Any,  # noqa: ANN401, the estimators' own kind of log
    target: Any,  # noqa: ANN401, likewise
    estimators: Mapping[str, Callable[[Any, Any], np.ndarray]] = ESTIMATORS,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Evaluate a policy on one log by several estimators.

    Parameters
    ----------
    log, target
        What the estimators take, without leading axes; of slates, if those of
        :mod:`firetv.slate_policies` are given.
    estimators : mapping of str to estimators
    confidence : float
        Nominal coverage, 0..1.

    Returns
    -------
    dict of str to Interval

    Raises
    ------
    ValueError
        If an estimator refuses the input, or the log holds several replications.

    Examples
    --------
    >>> log = Log(np.array([0, 1, 1]), np.array([1.0, 0.0, 1.0]), np.array([0.8, 0.5, 0.5]))
    >>> found = estimates(log, np.full((3, 2), 0.5), {"IPS": ips, "SNIPS": snips})
    >>> round(found["IPS"].value, 4), round(found["SNIPS"].value, 4)
    (0.5417, 0.619)
    """
    found = {}
    for name, estimator in estimators.items():
        terms = estimator(log, target)
        if terms.ndim != 1:
            raise ValueError(
                f"the log has shape {terms.shape}: give one replication, or use bounds(terms)"
            )
        value, low, high = (float(x) for x in bounds(terms, confidence))
        found[name] = Interval(value, low, high, len(terms))
    return found


# ------------------------------------------------------------------ diagnostics


@dataclass(frozen=True)
class Diagnostics:
    """Whether weights can carry an answer.

    Attributes
    ----------
    n : int
        Requests.
    ess : float
        Effective sample size ``sum(w)**2 / sum(w**2)`` (Kish 1965).
    ess_share : float
        Of n.
    largest : float
        Largest weight.
    largest_share, top_share : float
        Share of all weight that one request, and the heaviest 1 % of them, hold.
    mean : float
        Mean weight, 1 if propensities are right and logging may show all that the target may.
    mean_p : float
        Two-sided, of the t test that it is 1. Blind where a few huge weights are just not seen.
    unsupported : float
        Share of the target policy's choices whose propensity is below the smallest one logged;
        NaN where the logging policy's probabilities of all candidates are not given.
    """

    n: int
    ess: float
    ess_share: float
    largest: float
    largest_share: float
    top_share: float
    mean: float
    mean_p: float
    unsupported: float

    @property
    def trusted(self) -> bool:
        """Tell whether nothing warns."""
        return not self.warnings

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why not to trust an answer that rests on these weights, and what to do."""
        found = []  # comparisons with NaN are false
        if self.ess < FEW:
            found += [
                f"effective size {self.ess:.0f} of {self.n} requests, below {FEW}: log more, or "
                "ask for a policy closer to the logging one"
            ]
        if self.top_share > TOP_HEAVY or self.largest_share > ONE_HEAVY:
            found += [
                f"{TOP:.0%} of the requests hold {self.top_share:.0%} of all weight, one alone "
                f"{self.largest_share:.0%}: intervals are too narrow; prefer SNIPS or SNDR, which "
                "are steadier, and log more"
            ]
        if self.mean_p < MEAN_ALPHA:
            found += [
                f"weights average {self.mean:.3g}, not 1 (p = {self.mean_p:.1g}): propensities are "
                "wrong, or logging never shows what the target policy likes"
            ]
        if self.unsupported > UNSEEN:
            found += [
                f"{self.unsupported:.1%} of the target's choices were less likely than anything "
                "logged: next to nothing is known of them; let the logging policy explore more"
            ]
        return tuple(found)


def effective_size(weight: np.ndarray) -> np.ndarray:
    """Effective sample size of weights (..., n), of shape (...): Kish (1965). 0 if all are 0.

    Examples
    --------
    >>> effective_size(np.array([[1.0, 1.0, 1.0, 1.0], [9.0, 0.0, 0.0, 0.0]]))
    array([4., 1.])
    """
    square = (weight**2).sum(axis=-1)
    return np.divide(
        weight.sum(axis=-1) ** 2, square, out=np.zeros(np.shape(square)), where=square > 0
    )


def diagnose(log: Log, target: np.ndarray, logging: np.ndarray | None = None) -> Diagnostics:
    """Say whether a log can tell what a target policy would earn.

    Parameters
    ----------
    log : Log
        Without leading axes.
    target : float array of shape (n, A)
    logging : float array of shape (n, A), optional
        Probabilities of all candidates under the logging policy.

    Returns
    -------
    Diagnostics

    Raises
    ------
    ValueError
        If shapes disagree, rows of `target` do not sum to 1, the log holds several replications,
        or `logging` is not what the propensities were taken from.
    """
    weight, unsupported = weights(log, target), np.nan
    if logging is not None:
        if logging.shape != target.shape:
            raise ValueError(f"logging has shape {logging.shape}, target {target.shape}")
        chosen = np.take_along_axis(logging, log.action[..., np.newaxis], axis=-1)[..., 0]
        wrong = np.count_nonzero(~np.isclose(chosen, log.propensity, rtol=1e-4, atol=0))
        if wrong:
            raise ValueError(f"logging disagrees with {wrong} propensities: give what drew the log")
        # Rounding must not make what was logged itself look unseen.
        floor = log.propensity.min() * (1 - 1e-4)
        unsupported = float(np.where(logging < floor, target, 0.0).sum(axis=-1).mean())
    return diagnose_weights(weight, unsupported)


def diagnose_weights(weight: np.ndarray, unsupported: float = np.nan) -> Diagnostics:
    """Say whether weights can carry an answer.

    Parameters
    ----------
    weight : float array of shape (n,)
        One per request, such as those of the last position of
        :func:`firetv.slate_policies.cascade_weights`.
    unsupported : float
        See :class:`Diagnostics`.

    Returns
    -------
    Diagnostics

    Raises
    ------
    ValueError
        If weights are not of shape (n,) with n at least 2, or one is negative or not finite.

    Examples
    --------
    >>> diagnose_weights(np.full(200, 1.0)).trusted
    True
    >>> diagnose_weights(np.append(np.zeros(199), 200.0)).warnings[0]
    'effective size 1 of 200 requests, below 100: log more, or ask for a policy closer to the logging one'
    """  # noqa: E501
    weight = np.asarray(weight, float)
    if weight.ndim != 1 or len(weight) < 2:
        raise ValueError(f"weights have shape {weight.shape}: give one per request, at least 2")
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError("weights must be finite numbers from 0: check the propensities")
    n, total, ess = len(weight), weight.sum(), float(effective_size(weight))
    heaviest = np.sort(weight)[::-1]
    top = heaviest[: int(np.ceil(TOP * n))].sum()
    spread = np.ptp(weight) > 1e-12 * weight.max()
    # Equal weights have no spread to test by.
    p = stats.ttest_1samp(weight, 1).pvalue if spread else abs(total / n - 1) < 1e-9
    return Diagnostics(
        n=n,
        ess=ess,
        ess_share=ess / n,
        largest=float(heaviest[0]),
        largest_share=float(heaviest[0] / total) if total else np.nan,
        top_share=float(top / total) if total else np.nan,
        mean=float(total / n),
        mean_p=float(p),
        unsupported=unsupported,
    )


# ------------------------------------------------------------------ reward model


def fit_rewards(
    features: np.ndarray, action: np.ndarray, reward: np.ndarray, folds: int = 2, reg: float = 1.0
) -> np.ndarray:
    """Rewards of all candidates by cross-fitted ridge regression (Hoerl & Kennard 1970).

    Requests are predicted by a model that was fitted to the logged actions of the other folds
    only: predictions made from a request's own reward would take away the very errors that
    doubly robust estimators correct by (Chernozhukov et al. 2018).

    Parameters
    ----------
    features : float array of shape (..., n, A, D)
        Of each candidate in each request; an intercept is added, and not shrunk.
    action : int array of shape (..., n)
        Which candidate was shown.
    reward : float array of shape (..., n)
    folds : int
        Request i is of fold ``i % folds``: shuffle requests first if their order repeats.
    reg : float
        Ridge penalty, above 0; scale features alike.

    Returns
    -------
    float64 array of shape (..., n, A)
        For `Log.predicted`. Not kept within the range of rewards.

    Raises
    ------
    ValueError
        If shapes disagree, there are fewer requests than two for each fold, or `folds` or `reg`
        is out of range.

    Examples
    --------
    >>> features = np.array([[[0.0], [1.0]]] * 40)
    >>> action = np.repeat([0, 1], 20)
    >>> fit_rewards(features, action, 2.0 + 3.0 * action, reg=1e-9)[0].round(3)
    array([2., 5.])
    """
    n = _require_fit(features, action, reward, folds, reg)
    shown = np.take_along_axis(features, action[..., np.newaxis, np.newaxis], axis=-2)[..., 0, :]
    fold = np.arange(n) % folds
    predicted = np.empty(features.shape[:-1])
    for held in range(folds):
        slope, intercept = _ridge(shown[..., fold != held, :], reward[..., fold != held], reg)
        fitted = np.einsum("...nad,...d->...na", features[..., held::folds, :, :], slope)
        predicted[..., held::folds, :] = fitted + intercept[..., np.newaxis, np.newaxis]
    return predicted


def _ridge(x: np.ndarray, y: np.ndarray, reg: float) -> tuple[np.ndarray, np.ndarray]:
    """Slopes (..., D) and intercept (...) of centred ridge regressions, x (..., m, D)."""
    x_mean, y_mean = x.mean(axis=-2, keepdims=True), y.mean(axis=-1, keepdims=True)
    centred = x - x_mean
    gram = np.swapaxes(centred, -1, -2) @ centred + reg * np.eye(x.shape[-1])
    moment = np.swapaxes(centred, -1, -2) @ (y - y_mean)[..., np.newaxis]
    slope = np.linalg.solve(gram, moment)[..., 0]
    return slope, y_mean[..., 0] - (x_mean[..., 0, :] * slope).sum(axis=-1)


def _require_fit(
    features: np.ndarray, action: np.ndarray, reward: np.ndarray, folds: int, reg: float
) -> int:
    if not action.shape == reward.shape == features.shape[:-2] or not action.shape:
        raise ValueError(
            f"features have shape {features.shape}, action {action.shape}, reward {reward.shape}: "
            "give (..., n, A, D), (..., n) and (..., n)"
        )
    if folds < 2 or action.shape[-1] < 2 * folds:
        raise ValueError(
            f"folds {folds} of {action.shape[-1]} requests: use 2 or more, each with 2 requests"
        )
    if not reg > 0:
        raise ValueError(f"reg {reg} must be above 0: 1 is usual")
    return action.shape[-1]
