"""The strategies for one group, as plain loops: what :mod:`firetv.strategies` is measured against.

Each function takes one group's opinions and makes one list, as one would write it with NumPy in a
notebook. They are checks of the batched strategies and the other side of speed comparisons. They
know of no empty slots, and settle ties by slot where opinions themselves are not tied.

References are in :mod:`firetv.strategies` and :mod:`firetv.fairness`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from firetv.panels import Panel

Peer: TypeAlias = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""From opinions (M, K), weights (M,) and k to the slots of the list, best first, (k,)."""

LITTLE = 1e-3  # of a vote
LEAST = 1e-6  # opinion that a logarithm is taken of, and majority that is one


def lists(peer: Peer, panel: Panel, k: int) -> np.ndarray:
    """Make the list of each group by itself, int64 of shape (G, k).

    Parameters
    ----------
    peer : callable
        Of :data:`PER_GROUP`.
    panel : Panel
        All of whose slots are valid.
    k : int

    Raises
    ------
    ValueError
        If slots are not valid.

    Examples
    --------
    >>> panel = random_panel(groups=3, members=2, slots=5)
    >>> lists(PER_GROUP["average"], panel, k=2).shape
    (3, 2)
    """
    if not panel.valid.all():
        raise ValueError("loops over one group know of no empty slots: use a panel without")
    pairs = zip(panel.opinions, panel.weights, strict=True)
    made = [peer(opinions, weights, k) for opinions, weights in pairs]
    return np.array(made, np.int64).reshape(len(made), -1)


def random_panel(groups: int, members: int, slots: int, seed: int = 0) -> Panel:
    """Opinions of 0..1, squared so that few titles are liked much, and random weights."""
    rng = np.random.default_rng(seed)
    opinions = rng.random((groups, members, slots), dtype=np.float32) ** 2
    return Panel.of(opinions, rng.dirichlet(np.full(members, 2.0), groups))


def top(scores: np.ndarray, k: int) -> np.ndarray:
    """Slots of the k highest scores, (K,) to (k,), ties by slot."""
    return np.argsort(-scores, kind="stable")[:k]


def places(opinions: np.ndarray) -> np.ndarray:
    """How many candidates each one beats, if none are tied, (M, K)."""
    return np.argsort(np.argsort(opinions, axis=1), axis=1).astype(np.float32)


def little(opinions: np.ndarray) -> np.ndarray:
    """Opinions on a scale too small to outweigh a vote, (M, K)."""
    low = opinions.min(axis=1, keepdims=True)
    return LITTLE * (opinions - low) / (opinions.max(axis=1, keepdims=True) - low)


# ------------------------------------------------------------------ lists at once


def average(opinions: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """The mean opinion."""
    return top(weights @ opinions, k)


def multiplicative(opinions: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """The product of opinions."""
    return top(weights @ np.log(np.maximum(opinions, LEAST)), k)


def least_misery(opinions: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """The lowest opinion."""
    return top(opinions.min(axis=0), k)


def most_pleasure(opinions: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """The highest opinion."""
    return top(opinions.max(axis=0), k)


def without_misery(opinions: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """The mean opinion, after all that fewer mind: those of a member's lower half."""
    bar = np.sort(opinions, axis=1)[:, int(0.5 * (opinions.shape[1] - 1)), None]
    span = np.ptp(opinions, axis=1).max() + 1
    return top(weights @ opinions - span * (opinions < bar).sum(axis=0), k)


def borda(opinions: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """The mean number of candidates beaten."""
    return top(weights @ places(opinions), k)


def copeland(opinions: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """Majorities won less those lost among the best 50 by Borda."""
    first = borda(opinions, weights, max(k, 50))
    short = opinions[:, first]
    ahead = np.tensordot(weights, np.sign(short[:, :, None] - short[:, None]), axes=1)
    wins = np.sign(np.where(np.abs(ahead) < LEAST, 0, ahead)).sum(axis=1)
    return first[top(wins, k)]


def approval(opinions: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """Votes of those who have a title among their best 50."""
    many = min(50, opinions.shape[1])
    bar = np.partition(opinions, -many, axis=1)[:, -many, None]
    return top(weights @ ((opinions >= bar) + little(opinions)), k)


# ------------------------------------------------------------------ title by title


def plurality(opinions: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """In each round, everybody votes for the best title left."""
    left, liked, members = opinions.copy(), weights @ little(opinions), len(weights)
    chosen = []
    for _ in range(min(k, left.shape[1])):
        vote = left.argmax(axis=1)
        total = np.array([weights[vote == vote[m]].sum() for m in range(members)]) + liked[vote]
        chosen.append(vote[total == total.max()].min())
        left[:, chosen[-1]] = -np.inf
    return np.array(chosen)


def turns(opinions: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """Members choose in turn, by D'Hondt's divisors."""
    left, had, chosen = opinions.copy(), np.zeros(len(weights)), []
    for _ in range(min(k, left.shape[1])):
        member = (weights / (1 + had)).argmax()
        chosen.append(left[member].argmax())
        left[:, chosen[-1]] = -np.inf
        had[member] += 1
    return np.array(chosen)


def greedy(
    values: np.ndarray,
    k: int,
    gain: Callable[[np.ndarray], np.ndarray],
    start: float = 0.0,
) -> np.ndarray:
    """Choose what adds most, k times; members then have the title's values, (M, K), besides."""
    had, taken = np.full(len(values), start, np.float32), np.zeros(values.shape[1], bool)
    chosen = []
    for _ in range(min(k, values.shape[1])):
        total = gain(had)
        total[taken] = -np.inf
        slot = total.argmax()
        taken[slot] = True
        had = had + values[:, slot]
        chosen.append(slot)
    return np.array(chosen)


def greedy_least_misery(opinions: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """Half the mean satisfaction, half the least."""
    mean = weights @ opinions
    return greedy(
        opinions,
        k,
        lambda had: 0.5 * mean + 0.5 * ((had[:, None] + opinions).min(axis=0) - had.min()),
    )


def content(opinions: np.ndarray, weights: np.ndarray, k: int, pleasing: np.ndarray) -> np.ndarray:
    """Choose what makes most members content, by what pleases them, bool (M, K)."""
    settled = weights @ little(opinions)
    return greedy(pleasing, k, lambda had: (weights * (had < 1)) @ pleasing + settled)


def sp_greedy(opinions: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """Members are content with a title of their best 5 per cent."""
    many = opinions.shape[1]
    bar = min(many * 0.95 - 1e-3, many - 1)
    return content(opinions, weights, k, places(opinions) >= bar)


def ef_greedy(opinions: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """Members are content with a title that they like more than three quarters of the group do."""
    size = len(weights)
    many = max(1, int(0.25 * size))
    bar = np.partition(opinions, size - many, axis=0)[size - many]
    return content(opinions, weights, k, opinions >= bar)


def gfar(opinions: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """The chance of a first title that a member likes, by Borda's points of their best 20."""
    points = np.maximum(places(opinions) - max(opinions.shape[1] - 20, 0) + 1, 0)
    chances = points / points.sum(axis=1, keepdims=True)
    missed, taken = np.ones(len(weights), np.float32), np.zeros(opinions.shape[1], bool)
    chosen = []
    for _ in range(min(k, opinions.shape[1])):
        total = (weights * missed) @ chances
        total[taken] = -np.inf
        slot = total.argmax()
        taken[slot] = True
        missed = missed * (1 - chances[:, slot])
        chosen.append(slot)
    return np.array(chosen)


def ep_fuzzda(opinions: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """What a title gives each member, up to their share of all that is given."""
    given = opinions.sum(axis=0)

    def gain(had: np.ndarray) -> np.ndarray:
        due = weights[:, None] * (had.sum() + given) - had[:, None]
        return np.minimum(opinions, np.maximum(due, 0)).sum(axis=0)

    return greedy(opinions, k, gain)


def nash(opinions: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """The growth of the product of what members have, in units of their ideal list."""
    gains = np.cumsum(1 / np.log2(2 + np.arange(k)))
    ideal = np.interp(opinions.sum(axis=1), np.arange(1, k + 1), gains).astype(np.float32)
    values = opinions / ideal[:, None]
    return greedy(values, k, lambda had: weights @ np.log1p(values / had[:, None]), start=0.2)


# ------------------------------------------------------------------ Pareto levels


def drawn(opinions: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """Share of 50 draws of weights with each title among the best k, (K,)."""
    often = np.zeros(opinions.shape[1], np.float32)
    draws = np.random.default_rng(0).exponential(size=(50, len(weights))).astype(np.float32)
    for draw in draws:
        often[top((weights * draw) @ opinions, k)] += 1 / 50
    return often


def pareto_n(opinions: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """Titles that are often among the best k when members weigh at random (NPO)."""
    return top(drawn(opinions, weights, k) + weights @ little(opinions), k)


def pareto_x(opinions: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """The same, after those of the lowest Pareto level that has k titles (XPO)."""
    often = drawn(opinions, weights, k)
    met = np.flatnonzero(often > 0)
    one, other = opinions[:, met, None], opinions[:, None, met]
    beaten = ((one >= other).all(axis=0) & (one > other).any(axis=0)).sum(axis=0)
    most = np.sort(beaten)[min(k, len(beaten)) - 1]
    often[met[beaten <= most]] += 2
    return top(often + weights @ little(opinions), k)


PER_GROUP: Mapping[str, Peer] = MappingProxyType(
    {
        "average": average,
        "multiplicative": multiplicative,
        "least-misery": least_misery,
        "most-pleasure": most_pleasure,
        "average-without-misery": without_misery,
        "borda": borda,
        "copeland": copeland,
        "approval": approval,
        "plurality": plurality,
        "turns": turns,
        "greedy-least-misery": greedy_least_misery,
        "spgreedy": sp_greedy,
        "efgreedy": ef_greedy,
        "gfar": gfar,
        "ep-fuzzda": ep_fuzzda,
        "xpo": pareto_x,
        "npo": pareto_n,
        "nash": nash,
    }
)
"""By the names of :data:`firetv.group_reasons.STRATEGIES`, with their default parameters."""
