"""What a ranking policy would earn, from the log of another one.

A list of k of A candidates is drawn from the top, and each position earns its own reward. Few lists
are ever drawn twice, so weights of whole lists are wild; each estimator here assumes something
about how people read, and so needs to weigh less:

=========================  ==================  ===================================================
estimator                  weighs              is unbiased if the reward at a position depends on
=========================  ==================  ===================================================
slate IPS                  whole lists         anything in the list
RIPS, cascade-DR           lists down to it    the titles there and above
position-based (PBM)       titles              the title, times how much a position is looked at
item-position IPS (IIPS)   titles at places    the title there
=========================  ==================  ===================================================

An estimator is a function ``(log, target) -> terms`` of shape (..., n), whose mean is the estimate
of the sum of rewards over positions. :func:`firetv.off_policy.estimates` makes intervals of them,
and :func:`firetv.off_policy.diagnose_weights` judges the weights of a position: the last one where
lists are weighed, each where titles are. Weigh positions by multiplying rewards. Leading axes are
replications.

Examples
--------
>>> policy = PlackettLuce(np.log([[3.0, 2.0, 1.0]]))
>>> np.exp(policy.log_propensities(np.array([[1, 0]]))).round(3)  # 2 of 6, then 3 of 4
array([[0.333, 0.75 ]])
>>> policy.marginals(2)[0].round(3)  # of three candidates, at two positions
array([[0.5  , 0.35 ],
       [0.333, 0.4  ],
       [0.167, 0.25 ]])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from math import perm
from types import MappingProxyType

import numpy as np
from scipy.special import log_softmax

from firetv.abtest import chunks
from firetv.off_policy import self_normalised

CELLS = 2_000_000  # numbers of a race held at once
MOST_LISTS = 100_000  # that are enumerated
STEP = 0.25  # between nodes of log time
START = -32.0  # log time by which nothing has arrived: 1e-14 of a unit
SURVIVES = 40.0  # nobody does, for so long: exp(-40)


@dataclass(frozen=True)
class Propensities:
    """How likely a policy was to make given lists of k titles.

    Attributes
    ----------
    steps : float array of shape (..., n, k)
        Log-probability of each title, given those above it.
    choices : float array of shape (..., n, k, A)
        Probability of each candidate at each position, given the titles above it.
    places : float array of shape (..., n, k, k)
        Probability that the title of the first position named is at the second one, over all
        lists that the policy may make.
    """

    steps: np.ndarray
    choices: np.ndarray
    places: np.ndarray


@dataclass(frozen=True)
class PlackettLuce:
    """Lists drawn without replacement by a softmax (Plackett 1975; Luce 1959).

    Attributes
    ----------
    scores : float array of shape (..., n, A)
    temperature : float
        Above 0; the lower, the more often the list is in the order of scores.

    Raises
    ------
    ValueError
        If scores are not finite or have no rows, or the temperature is not positive.
    """

    scores: np.ndarray
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if np.ndim(self.scores) < 2 or not np.isfinite(self.scores).all():
            raise ValueError(
                f"scores of shape {np.shape(self.scores)} must be finite, a row for each request: "
                "leave out candidates that cannot be shown"
            )
        if not 0 < self.temperature < np.inf:
            raise ValueError(
                f"temperature {self.temperature} must be above 0: 1 is a plain softmax"
            )

    def draw(self, k: int, rng: np.random.Generator) -> np.ndarray:
        """Draw a list for each request: int64 of shape (..., n, k), candidates in rank order.

        The k largest of scores with Gumbel noise are such a list (Yellott 1977). Raises ValueError
        if there are not k candidates.
        """
        self._require_candidates(k)
        noisy = self.scores / self.temperature + rng.gumbel(size=self.scores.shape)
        best = np.argpartition(-noisy, k - 1, axis=-1)[..., :k]
        order = np.argsort(-np.take_along_axis(noisy, best, axis=-1), axis=-1)
        return np.take_along_axis(best, order, axis=-1)

    def log_propensities(self, slates: np.ndarray) -> np.ndarray:
        """Log-probability of each title of given lists, given those above: (..., n, k).

        Their sum over positions is the log-probability of the list. Raises ValueError if lists do
        not fit the candidates, or name one twice.
        """
        steps = zip(self._steps(slates), np.moveaxis(slates, -1, 0), strict=True)
        taken = [
            np.take_along_axis(step, item[..., np.newaxis], -1)[..., 0] for step, item in steps
        ]
        return np.stack(taken, axis=-1)

    def marginals(self, k: int) -> np.ndarray:
        """Probability that each candidate stands at each of k positions: (..., n, A, k).

        Exact to about 1e-11: candidates may be seen as arriving in a race, at exponential times
        whose rates are ``exp(score / temperature)``, and a candidate's place is one more than how
        many came before it. The integral over its arrival is summed by the trapezoidal rule in log
        time, which converges exponentially (Trefethen & Weideman 2014). Raises ValueError if there
        are not k candidates.
        """
        self._require_candidates(k)
        a = self.scores.shape[-1]
        log_rate = log_softmax(self.scores.reshape(-1, a) / self.temperature, axis=1)
        # Until the last place is taken, A - k + 1 candidates or more have not arrived.
        slowest = np.logaddexp.reduce(np.sort(log_rate, axis=1)[:, : a - k + 1], axis=1)
        end = np.log(SURVIVES) - slowest.min()
        log_time = np.arange(START, end + STEP, STEP)
        rows = chunks(len(log_rate), len(log_time) * a * k, CELLS)
        parts = [_race(log_rate[part], log_time, k) for part in rows]
        return np.concatenate(parts).reshape(*self.scores.shape, k)

    def enumerate(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """All lists of k candidates, int64 (S, k), and their probabilities (..., n, S).

        Raises ValueError if there are not k candidates, or more than 100 000 lists.
        """
        self._require_candidates(k)
        a = self.scores.shape[-1]
        if perm(a, k) > MOST_LISTS:
            raise ValueError(f"{perm(a, k)} lists are too many to enumerate: draw some, or use k=2")
        slates = np.array(list(permutations(range(a), k)))
        rate = np.exp(log_softmax(self.scores / self.temperature, axis=-1))
        chance = rate[..., slates[:, 0]]
        for depth in range(1, k):
            above = np.array(list(permutations(range(a), depth)))
            left = np.ones((len(above), a))
            np.put_along_axis(left, above, 0, axis=1)
            # Lists are in the order of what is above, so that each of these recurs in a row.
            rest = np.repeat(rate @ left.T, len(slates) // len(above), axis=-1)
            chance = chance * rate[..., slates[:, depth]] / rest
        return slates, chance

    def propensities(self, slates: np.ndarray, places: np.ndarray | None = None) -> Propensities:
        """All that the estimators ask of a policy about given lists (..., n, k).

        `places` may be given where :meth:`marginals` are known already; see :class:`Propensities`.
        Raises ValueError as :meth:`log_propensities`.
        """
        log_choices = np.stack(list(self._steps(slates)), axis=-2)
        steps = np.take_along_axis(log_choices, slates[..., np.newaxis], axis=-1)[..., 0]
        if places is None:
            marginals = self.marginals(slates.shape[-1])
            places = np.take_along_axis(marginals, slates[..., np.newaxis], axis=-2)
        return Propensities(steps, np.exp(log_choices, out=log_choices), places)

    def _steps(self, slates: np.ndarray) -> Iterator[np.ndarray]:
        """Log-probabilities (..., n, A) of all candidates at each position, -inf if shown above."""
        self._require_slates(slates)
        left = self.scores / self.temperature
        for position in range(slates.shape[-1]):
            # Anew at each position: subtracting what was shown from one sum would leave rounding.
            yield log_softmax(left, axis=-1)
            np.put_along_axis(left, slates[..., position, np.newaxis], -np.inf, axis=-1)

    def _require_candidates(self, k: int) -> None:
        if not 1 <= k <= self.scores.shape[-1]:
            raise ValueError(f"cannot list {k} of {self.scores.shape[-1]} candidates")

    def _require_slates(self, slates: np.ndarray) -> None:
        if slates.shape[:-1] != self.scores.shape[:-1]:
            raise ValueError(
                f"slates have shape {slates.shape}, scores {self.scores.shape}: give a list for "
                "each row of scores"
            )
        self._require_candidates(slates.shape[-1])
        ordered = np.sort(slates, axis=-1)
        if ordered.min() < 0 or ordered.max() >= self.scores.shape[-1]:
            raise ValueError(f"slates must be candidates from 0 to {self.scores.shape[-1] - 1}")
        twice = np.count_nonzero((np.diff(ordered, axis=-1) == 0).any(axis=-1))
        if twice:
            raise ValueError(f"{twice} slates show a title twice: lists are without replacement")


def _race(log_rate: np.ndarray, log_time: np.ndarray, k: int) -> np.ndarray:
    """Probability that candidates with rates (m, A) arrive first to k-th: (m, A, k).

    ``before[a, p]`` is the probability that p of the candidates left of a have arrived by a time,
    ``after`` the same of those right of it, so that nothing need be divided out.
    """
    m, a = log_rate.shape
    due = np.exp(np.minimum(log_rate.T[..., np.newaxis] + log_time, 700.0))  # (A, m, times)
    gone, left = -np.expm1(-due), np.exp(-due)
    before = np.zeros((a, k, m, len(log_time)))
    before[0, 0] = 1
    for item in range(1, a):
        before[item] = before[item - 1] * left[item - 1]
        before[item, 1:] += before[item - 1, :-1] * gone[item - 1]
    after, found = np.zeros_like(before[0]), np.empty((m, a, k))
    after[0] = 1
    for item in reversed(range(a)):
        arrives = STEP * due[item] * left[item]
        for place in range(k):
            ahead = (before[item, : place + 1] * after[place::-1]).sum(axis=0)
            found[:, item, place] = (arrives * ahead).sum(axis=-1)
        longer = after * left[item]
        longer[1:] += after[:-1] * gone[item]
        after = longer
    return found


# ------------------------------------------------------------------ estimators


@dataclass(frozen=True)
class SlateLog:
    """Lists that were shown in n requests, and what came of each position.

    Attributes
    ----------
    slates : int array of shape (..., n, k)
        Candidates in rank order, from 0; leading axes are replications.
    reward : float array of shape (..., n, k)
    logged : Propensities
        Of the policy that made the lists: ``policy.propensities(slates)``.
    examination : float array of shape (k,), optional
        How likely each position is to be looked at, for the position-based estimator.
    predicted : float array of shape (..., n, k, A), optional
        For cascade-DR: a model's sum of rewards from a position on, if each candidate came there
        below the titles that were shown above it.

    Raises
    ------
    ValueError
        If shapes disagree, there are fewer than two requests, rewards are not finite, or
        examinations are not probabilities above 0.
    """

    slates: np.ndarray
    reward: np.ndarray
    logged: Propensities
    examination: np.ndarray | None = None
    predicted: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape = self.slates.shape
        if len(shape) < 2 or shape[-2] < 2 or not (shape == self.reward.shape == self._logged()):
            raise ValueError(
                f"slates have shape {shape}, reward {self.reward.shape}, logged propensities "
                f"{self._logged()}: give (..., n, k) each, of at least 2 requests"
            )
        if not np.isfinite(self.reward).all():
            raise ValueError("reward has values that are missing or infinite: leave requests out")
        seen = self.examination
        if seen is not None and (seen.shape != shape[-1:] or not ((seen > 0) & (seen <= 1)).all()):
            raise ValueError(f"examination {seen}: give {shape[-1]} probabilities above 0")
        if self.predicted is not None and self.predicted.shape != self.logged.choices.shape:
            raise ValueError(
                f"predicted has shape {self.predicted.shape}: give {self.logged.choices.shape}, "
                "each candidate at each position"
            )

    def _logged(self) -> tuple[int, ...]:
        return self.logged.steps.shape


def cascade_weights(log: SlateLog, target: Propensities) -> np.ndarray:
    """Weights (..., n, k) of lists down to each position: target / logging probability.

    The last position's are those of whole lists. Raises ValueError if shapes disagree.
    """
    _require_same(log, target)
    return np.exp(np.cumsum(target.steps - log.logged.steps, axis=-1))


def place_weights(log: SlateLog, target: Propensities) -> np.ndarray:
    """Weights (..., n, k) of titles at their positions. Raises ValueError if shapes disagree."""
    _require_same(log, target)
    at = "...pp->...p"
    return np.einsum(at, target.places) / np.einsum(at, log.logged.places)


def examined_weights(log: SlateLog, target: Propensities) -> np.ndarray:
    """Weights (..., n, k) of titles by how much they are looked at, wherever they stand.

    Raises ValueError if shapes disagree, or the log has no examinations.
    """
    _require_same(log, target)
    if log.examination is None:
        raise ValueError(
            "the position-based estimator needs SlateLog(..., examination=...): how likely each "
            "position is to be looked at, such as PositionBased().examination(k)"
        )
    return (target.places @ log.examination) / (log.logged.places @ log.examination)


def slate_ips(log: SlateLog, target: Propensities) -> np.ndarray:
    """Inverse propensity scores of whole lists (Horvitz & Thompson 1952).

    Terms of shape (..., n), ``W sum_p r_p`` with W the weight of the list. Needs no assumption of
    how people read.
    """
    return (cascade_weights(log, target)[..., -1:] * log.reward).sum(axis=-1)


def slate_snips(log: SlateLog, target: Propensities) -> np.ndarray:
    """As :func:`slate_ips`, self-normalised (Swaminathan & Joachims 2015)."""
    return self_normalised(cascade_weights(log, target)[..., -1:], log.reward, axis=-2).sum(axis=-1)


def item_position(log: SlateLog, target: Propensities) -> np.ndarray:
    """Item-position estimator (Li et al. 2018), also independent IPS.

    Terms of shape (..., n), ``sum_p r_p P_target(title at p) / P_logging(title at p)``. Unbiased
    if a reward depends on the title and the position only.
    """
    return (place_weights(log, target) * log.reward).sum(axis=-1)


def item_position_sn(log: SlateLog, target: Propensities) -> np.ndarray:
    """As :func:`item_position`, self-normalised at each position."""
    return self_normalised(place_weights(log, target), log.reward, axis=-2).sum(axis=-1)


def position_based(log: SlateLog, target: Propensities) -> np.ndarray:
    """Position-based-model estimator (Li et al. 2018).

    Terms of shape (..., n): a title's reward wherever it stood, times ``sum_q e_q P_target(title
    at q) / sum_q e_q P_logging(title at q)``, e being examinations. Unbiased if a reward is a
    property of the title times the examination of its position, known up to a factor.
    """
    return (examined_weights(log, target) * log.reward).sum(axis=-1)


def rips(log: SlateLog, target: Propensities) -> np.ndarray:
    """Reward-interaction IPS (McInerney et al. 2020).

    Terms of shape (..., n), ``sum_p W_p r_p`` with W_p the weight of the list down to p. Unbiased
    if people read from the top: if a reward depends on nothing below it.
    """
    return (cascade_weights(log, target) * log.reward).sum(axis=-1)


def rips_sn(log: SlateLog, target: Propensities) -> np.ndarray:
    """As :func:`rips`, self-normalised at each position, as McInerney et al. (2020) propose it."""
    return self_normalised(cascade_weights(log, target), log.reward, axis=-2).sum(axis=-1)


def cascade_dr(log: SlateLog, target: Propensities) -> np.ndarray:
    """Cascade doubly robust (Kiyohara et al. 2022).

    Terms of shape (..., n), ``sum_p W_p (r_p - Q_p) + W_{p-1} E_target[Q_p | titles above]`` with
    Q the prediction of rewards from p on. As unbiased as :func:`rips` whatever the predictions,
    and steadier the better they are. Raises ValueError if the log has none.
    """
    if log.predicted is None:
        raise ValueError(
            "cascade-DR needs SlateLog(..., predicted=...): rewards from each position on by "
            "candidate, such as by off_policy.fit_rewards position by position; or use RIPS"
        )
    weight = cascade_weights(log, target)
    above = np.concatenate([np.ones_like(weight[..., :1]), weight[..., :-1]], axis=-1)
    known = np.take_along_axis(log.predicted, log.slates[..., np.newaxis], axis=-1)[..., 0]
    expected = np.einsum("...a,...a->...", target.choices, log.predicted)
    return (weight * (log.reward - known) + above * expected).sum(axis=-1)


SlateEstimator = Callable[[SlateLog, Propensities], np.ndarray]
ESTIMATORS: Mapping[str, SlateEstimator] = MappingProxyType(
    {
        "slate IPS": slate_ips,
        "slate SNIPS": slate_snips,
        "RIPS": rips,
        "RIPS, self-normalised": rips_sn,
        "cascade-DR": cascade_dr,
        "PBM": position_based,
        "IIPS": item_position,
        "IIPS, self-normalised": item_position_sn,
    }
)
# What each of them weighs by, (..., n, k), to be diagnosed position by position.
WEIGHTS: Mapping[str, SlateEstimator] = MappingProxyType(
    {
        "slate IPS": cascade_weights,
        "slate SNIPS": cascade_weights,
        "RIPS": cascade_weights,
        "RIPS, self-normalised": cascade_weights,
        "cascade-DR": cascade_weights,
        "PBM": examined_weights,
        "IIPS": place_weights,
        "IIPS, self-normalised": place_weights,
    }
)


def _require_same(log: SlateLog, target: Propensities) -> None:
    if target.steps.shape != log.slates.shape:
        raise ValueError(
            f"target's propensities have shape {target.steps.shape}, slates {log.slates.shape}: "
            "give target_policy.propensities(log.slates)"
        )
