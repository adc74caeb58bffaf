"""Logs whose answer is known: how far to trust each off-policy estimator, and when.

A finite population of requests is drawn from a synthetic world, where the probability that
somebody watches what they are shown is planted. So what a policy would earn is an exact sum, and
an estimator can be asked, over many logs, how far off it is, how much it varies, and how often its
interval covers. The target policy gets steeper step by step, and overlaps less and less with the
one that made the logs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import logit, softmax
from statsmodels.stats.proportion import proportion_confint

from firetv import off_policy, slate_policies
from firetv.abtest import chunks
from firetv.clicks import ClickModel, PositionBased
from firetv.off_policy import Estimator, Log, bounds, effective_size, fit_rewards
from firetv.slate_policies import PlackettLuce, SlateEstimator, SlateLog
from firetv.world import CONTEXTS, Setting, context_codes

TEMPERATURES = (1.5, 1.0, 0.7, 0.5, 0.35, 0.2)  # of the target policy: overlap from good to bad
CELLS = 2_000_000  # numbers of one kind held at once
NOISE = 0.5  # deviation of what policies get wrong, where that of the truth is 1


@dataclass(frozen=True)
class Population:
    """Requests, each with its own candidates, that logs are drawn from.

    Attributes
    ----------
    appeal : float array of shape (N, A)
        Probability that the user watches a candidate that is looked at.
    logging : float array of shape (N, A)
        Scores of the policy in use: half popularity, half taste, with noise.
    target : float array of shape (N, A)
        Scores of the policy to evaluate: taste, with other noise.
    features : float array of shape (N, A, D)
        What a reward model may learn from: popularity and the scores in use. What the target
        policy knows of taste is missing, so that such models are wrong.
    """

    appeal: np.ndarray
    logging: np.ndarray
    target: np.ndarray
    features: np.ndarray


def populate(
    setting: Setting, requests: int = 2000, candidates: int = 24, seed: int = 0
) -> Population:
    """Draw requests of active users in random contexts, with random candidates.

    Parameters
    ----------
    setting : Setting
        A planted world.
    requests : int
        N.
    candidates : int
        A, distinct titles for each request.
    seed : int

    Returns
    -------
    Population

    Raises
    ------
    ValueError
        If there are fewer than two requests or candidates, or fewer titles than candidates.
    """
    truth, rng = setting.truth, np.random.default_rng(seed)
    titles = len(truth.popularity)
    if requests < 2 or not 2 <= candidates <= titles:
        raise ValueError(
            f"{requests} requests with {candidates} candidates of {titles} titles: use 2 requests "
            "and 2 candidates or more, and a world with more content"
        )
    users = rng.choice(len(truth.activity), requests, p=truth.activity)
    moments = {name: rng.choice([*values, "none"], requests) for name, values in CONTEXTS.items()}
    # One title from each part of a shuffled catalogue: distinct, and all equally likely or almost.
    edges = np.linspace(0, titles, candidates + 1).astype(int)
    items = rng.permutation(titles)[rng.integers(edges[:-1], edges[1:], (requests, candidates))]
    appeal = truth.appeal(users, context_codes(pd.DataFrame(moments)), items)
    taste, known = _standard(logit(appeal)), _standard(np.log(truth.popularity))[items]
    noise = NOISE * rng.standard_normal((2, *appeal.shape))
    logging = (taste + known) / 2 + noise[0]
    return Population(appeal, logging, taste + noise[1], np.stack([known, logging], axis=-1))


def _standard(values: np.ndarray) -> np.ndarray:
    """Less the mean, over the deviation where there is one."""
    return (values - values.mean()) / (values.std() or 1.0)


def simulate(
    population: Population,
    temperatures: Sequence[float] = TEMPERATURES,
    n: int = 2000,
    replications: int = 500,
    seed: int = 0,
    logging_temperature: float = 1.0,
    estimators: Mapping[str, Estimator] = off_policy.ESTIMATORS,
) -> pd.DataFrame:
    """Evaluate estimators of one title per request, over many logs.

    Parameters
    ----------
    population : Population
    temperatures : sequence of float
        Of the target policy, a softmax of its scores; the lower, the less overlap.
    n : int
        Requests of a log, drawn with replacement.
    replications : int
        Logs. The same ones serve all temperatures and estimators, so that rows differ by less
        than their errors say.
    seed : int
    logging_temperature : float
        The lower, the greedier the policy in use, and the less overlap.
    estimators : mapping of str to estimators

    Returns
    -------
    DataFrame
        A row for each overlap and estimator: ``temperature``; ``overlap``, the expected share of
        effective requests, ``1 / E[w**2]``, exact; ``estimator``; ``truth``, the exact value;
        ``bias``, ``sd`` and ``rmse`` over logs, each with its Monte Carlo standard error in
        ``bias_error``, ``sd_error`` and ``rmse_error``; ``coverage`` of the nominal 95 % interval,
        with its own (Wilson 1927) in ``coverage_low`` and ``coverage_high``; ``ess``, the mean
        number of effective requests.

    Raises
    ------
    ValueError
        If a temperature is not positive, or there are fewer than two replications.

    Examples
    --------
    >>> from firetv.world import World, plant
    >>> population = populate(plant(World(users=50, content=60)), requests=100, candidates=5)
    >>> found = simulate(population, temperatures=[1.0], n=400, replications=100)
    >>> found.set_index("estimator").loc[["DM", "DR"], "bias"].round(2).to_dict()
    {'DM': -0.04, 'DR': 0.0}
    """
    _require_study(replications, *temperatures, logging_temperature)
    logging = softmax(population.logging / logging_temperature, axis=1)
    targets = [softmax(population.target / t, axis=1) for t in temperatures]
    size = n * population.appeal.shape[1]
    index_rng, action_rng, reward_rng = np.random.default_rng(seed).spawn(3)
    found = np.empty((4, len(targets), len(estimators), replications))
    for part in chunks(replications, size, CELLS):
        index = index_rng.integers(len(logging), size=(part.stop - part.start, n))
        action = _draw(logging, index, action_rng)
        reward = (reward_rng.random(index.shape) < population.appeal[index, action]).astype(float)
        predicted = fit_rewards(population.features[index], action, reward)
        log = Log(action, reward, logging[index, action], predicted)
        for i, target in enumerate(targets):
            shares = target[index]
            found[3, i, :, part] = effective_size(off_policy.weights(log, shares))
            for j, estimator in enumerate(estimators.values()):
                found[:3, i, j, part] = bounds(estimator(log, shares))
    overlap = [1 / (target**2 / logging).sum(axis=1).mean() for target in targets]
    truth = [(target * population.appeal).sum(axis=1).mean() for target in targets]
    return _tables(found, estimators, temperatures, overlap, truth)


def simulate_rankings(
    population: Population,
    clicks: ClickModel,
    temperatures: Sequence[float] = TEMPERATURES,
    k: int = 3,
    n: int = 2000,
    replications: int = 500,
    seed: int = 0,
    logging_temperature: float = 1.0,
    estimators: Mapping[str, SlateEstimator] = slate_policies.ESTIMATORS,
) -> pd.DataFrame:
    """Evaluate estimators of lists over many logs; the value is the expected number of clicks.

    Parameters
    ----------
    population : Population
        Of few candidates: all lists of k are enumerated for the truth.
    clicks : ClickModel
        How people read. The position-based estimator knows its examinations if it is a
        `PositionBased`, and otherwise takes it for one with the default decay.
    k : int
        Positions.
    temperatures, n, replications, seed, logging_temperature, estimators
        See :func:`simulate`; both policies are Plackett-Luce.

    Returns
    -------
    DataFrame
        As of :func:`simulate`. ``overlap`` is that of whole lists; ``ess`` is that of the weights
        which the estimator uses, at the position where it is least.

    Raises
    ------
    ValueError
        If a temperature is not positive, there are fewer than two replications, or too many lists
        to enumerate.
    """
    _require_study(replications, *temperatures, logging_temperature)
    policies = [PlackettLuce(population.target, t) for t in temperatures]
    logging = PlackettLuce(population.logging, logging_temperature)
    truth, overlap = _exact(population, logging, policies, clicks, k)
    places = [policy.marginals(k) for policy in (logging, *policies)]
    model = clicks if isinstance(clicks, PositionBased) else PositionBased()
    weigh = [slate_policies.WEIGHTS.get(e, slate_policies.cascade_weights) for e in estimators]
    rngs = np.random.default_rng(seed).spawn(3)
    found = np.empty((4, len(policies), len(estimators), replications))
    for part in chunks(replications, n * k * population.appeal.shape[1], CELLS):
        index = rngs[0].integers(len(population.appeal), size=(part.stop - part.start, n))
        log = _shown(population, logging, places[0], index, clicks, model.examination(k), rngs)
        for i, policy in enumerate(policies):
            target = _at(policy, index).propensities(
                log.slates, places[i + 1][index[..., np.newaxis], log.slates]
            )
            ess = {w: _least_ess(w(log, target)) for w in set(weigh)}
            for j, estimator in enumerate(estimators.values()):
                found[:3, i, j, part] = bounds(estimator(log, target))
                found[3, i, j, part] = ess[weigh[j]]
    return _tables(found, estimators, temperatures, overlap, truth)


# ------------------------------------------------------------------ logs and truth


def _draw(shares: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a column of each indexed row of probabilities (N, A)."""
    rows, columns = shares.shape
    # One ladder for all rows: row i has its rungs between i and i + 1.
    ladder = (np.cumsum(shares, axis=1) + np.arange(rows)[:, np.newaxis]).ravel()
    place = np.searchsorted(ladder, index + rng.random(index.shape), side="right")
    return np.clip(place - columns * index, 0, columns - 1)


def _at(policy: PlackettLuce, rows: np.ndarray | slice) -> PlackettLuce:
    return PlackettLuce(policy.scores[rows], policy.temperature)


def _shown(
    population: Population,
    logging: PlackettLuce,
    places: np.ndarray,
    index: np.ndarray,
    clicks: ClickModel,
    examination: np.ndarray,
    rngs: Sequence[np.random.Generator],
) -> SlateLog:
    """Lists made for the indexed requests, clicks on them, and predicted clicks."""
    policy, k = _at(logging, index), len(examination)
    slates = policy.draw(k, rngs[1])
    attraction = np.take_along_axis(population.appeal[index], slates, axis=-1)
    clicked = clicks.draw(attraction.reshape(-1, k), rngs[2]).reshape(slates.shape).astype(float)
    to_come = np.cumsum(clicked[..., ::-1], axis=-1)[..., ::-1]
    features = population.features[index]
    predicted = [fit_rewards(features, slates[..., p], to_come[..., p]) for p in range(k)]
    logged = policy.propensities(slates, places[index[..., np.newaxis], slates])
    return SlateLog(slates, clicked, logged, examination, np.stack(predicted, axis=-2))


def _least_ess(weights: np.ndarray) -> np.ndarray:
    """Effective requests at the position that has the fewest: (...) of (..., n, k)."""
    return effective_size(np.swapaxes(weights, -1, -2)).min(axis=-1)


def _exact(
    population: Population,
    logging: PlackettLuce,
    policies: Sequence[PlackettLuce],
    clicks: ClickModel,
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Expected clicks under each policy, and expected share of effective requests, by all lists."""
    n, a = population.appeal.shape
    value, square = np.zeros((2, len(policies)))
    for part in chunks(n, a**k, CELLS):
        slates, base = _at(logging, part).enumerate(k)
        attraction = population.appeal[part][:, slates]
        earned = clicks.expected(attraction.reshape(-1, k)).sum(axis=1).reshape(base.shape)
        for i, policy in enumerate(policies):
            _, chance = _at(policy, part).enumerate(k)
            value[i] += np.vdot(chance, earned) / n
            square[i] += (chance**2 / base).sum() / n
    return value, 1 / square


def _require_study(replications: int, *temperatures: float) -> None:
    if replications < 2:
        raise ValueError(f"{replications} replications have no spread: use 2 or more, such as 500")
    wrong = [t for t in temperatures if not 0 < t < np.inf]
    if wrong:
        raise ValueError(f"temperatures {wrong} must be above 0: 1 is a plain softmax")


# ------------------------------------------------------------------ tables


def _tables(
    found: np.ndarray,
    names: Mapping[str, Callable],
    temperatures: Sequence[float],
    overlap: Sequence[float],
    truth: Sequence[float],
) -> pd.DataFrame:
    """See :func:`simulate`; `found` is (4, temperatures, estimators, R): value, low, high, ess."""
    tables = [
        pd.DataFrame(
            {"temperature": temperatures[i], "overlap": overlap[i], "estimator": list(names)}
            | {"truth": truth[i]}
            | _errors(*found[:3, i], truth[i])
            | {"ess": found[3, i].mean(axis=1)}
        )
        for i in range(len(temperatures))
    ]
    return pd.concat(tables, ignore_index=True)


def _errors(
    value: np.ndarray, low: np.ndarray, high: np.ndarray, truth: float
) -> dict[str, np.ndarray]:
    """What estimates and intervals (E, R) say of estimators, with Monte Carlo errors."""
    count = value.shape[1]
    error = value - truth
    bias, sd = error.mean(axis=1), error.std(axis=1, ddof=1)
    rmse = np.sqrt((error**2).mean(axis=1))
    covered = ((low <= truth) & (truth <= high)).sum(axis=1)
    coverage_low, coverage_high = proportion_confint(covered, count, method="wilson")
    return {
        "bias": bias,
        "bias_error": sd / np.sqrt(count),
        "sd": sd,
        "sd_error": _root_error((error - bias[:, np.newaxis]) ** 2, sd),
        "rmse": rmse,
        "rmse_error": _root_error(error**2, rmse),
        "coverage": covered / count,
        "coverage_low": coverage_low,
        "coverage_high": coverage_high,
    }


def _root_error(squares: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Standard error of the root of the mean of squares (E, R), by the delta method."""
    error = squares.std(axis=1, ddof=1) / np.sqrt(squares.shape[1])
    return np.divide(error, 2 * root, out=np.zeros_like(root), where=root > 0)
