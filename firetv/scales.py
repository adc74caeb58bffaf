"""How much a re-ranker should count: learned from what people chose later.

A re-ranker that adds to the scores of others learns its own weight, and theirs, from the last
events of the training data, which neither base nor re-ranker have seen then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.special import log_softmax

from firetv.choices import (
    LATER,
    Choices,
    answerable,
    conditional_logit,
    later_slice,
    sample_candidates,
    some,
    with_newcomers,
)
from firetv.data import Dataset
from firetv.slate import CHUNK_CELLS, EMPTY, Chain, Slate, Step, recommend

LEAST_SCALE = 1e-3  # of a part, in its deviations: even a base that tells nothing keeps its order
MOST_CHOICES = 20_000  # later events that weights are learned from
NEGATIVES = 100  # items drawn beside each of them


@dataclass(frozen=True)
class Scales:
    """Weights that make what was chosen likely, none below zero.

    Attributes
    ----------
    upstream : mapping of str to float
        Factor on each part of the stages before.
    own : mapping of str to float
        Weight of each part of the re-ranker itself.
    """

    upstream: Mapping[str, float] = field(default_factory=dict)
    own: Mapping[str, float] = field(default_factory=dict)

    def rescale(self, slate: Slate) -> dict[str, np.ndarray]:
        """Parts of a slate times their factors; a part without a factor stays as it is."""
        return {
            name: part * np.float32(self.upstream[name]) if name in self.upstream else part
            for name, part in slate.parts.items()
        }


def learn_scales(
    upstream: Chain,
    own: Callable[[Dataset], Step] | None,
    data: Dataset,
    seed: int,
    *,
    newcomers: bool = False,
    proven: bool = False,
) -> Scales:
    """Fit the weights of all parts to what was chosen last, by a conditional logit.

    Parameters
    ----------
    upstream : Chain
        Stages before, unfitted.
    own : callable, optional
        Makes the re-ranker's step of some training data; its parts must have names of their own.
        None, if only the factors of the parts before are wanted.
    data : Dataset
    seed : int
        Of choices, alternatives and newcomers.
    newcomers : bool
        Whether to hide most of the history of half of the users, so that weights which depend on
        the length of a history can be learned where nobody is new.
    proven : bool
        Whether the re-ranker's weights are zero unless they are worth their number by the Bayesian
        information criterion (Schwarz 1978).

    Returns
    -------
    Scales

    Raises
    ------
    ValueError
        If no event of the last fifth can serve, and something is to be learned from them.
    """
    if not upstream.stages and own is None:
        return Scales()
    choices, ours, _ = later_choices(upstream, own, data, seed, newcomers=newcomers)
    if not choices.names:  # nothing upstream scores, and nothing of our own is to be learned
        return Scales()
    weights = conditional_logit(choices, nonnegative=True)
    if proven and ours.any():
        others = _without(choices, ours)
        gain = _log_likelihood(choices, weights) - _log_likelihood(choices, others)
        # What that many parameters must gain by the Bayesian information criterion.
        if gain <= ours.sum() / 2 * np.log(len(choices.features)):
            weights = others
    own_names = {name for name, mine in zip(choices.names, ours, strict=True) if mine}
    owns = {n: float(w) for n, w in zip(choices.names, weights, strict=True) if n in own_names}
    return Scales(factors(choices, weights, own_names), owns)


def factors(choices: Choices, weights: np.ndarray, own: Collection[str]) -> dict[str, float]:
    """Factors on parts that are not one's own: their weights, or what keeps their order at least.

    A part that never varies has none: it is a part of others, such as strangers.
    """
    deviations = choices.features[choices.valid].std(axis=0, dtype=np.float64)
    return {
        name: float(max(weight, LEAST_SCALE / deviation))
        for name, weight, deviation in zip(choices.names, weights, deviations, strict=True)
        if name not in own and deviation > 0
    }


def _without(choices: Choices, ours: np.ndarray) -> np.ndarray:
    """Weights of the other parts where ours are zero."""
    others = [name for name, mine in zip(choices.names, ours, strict=True) if not mine]
    weights = np.zeros(len(ours))
    if others:
        weights[~ours] = conditional_logit(choices.select(others), nonnegative=True)
    return weights


def _log_likelihood(choices: Choices, weights: np.ndarray) -> float:
    logits = np.where(choices.valid, choices.features @ weights, -np.inf)
    return float(log_softmax(logits, axis=1)[:, 0].sum())


def later_choices(
    upstream: Chain,
    own: Callable[[Dataset], Step] | None,
    data: Dataset,
    seed: int,
    *,
    newcomers: bool = False,
) -> tuple[Choices, np.ndarray, np.ndarray]:
    """What the last fifth chose, scored by stages of the events before it.

    Parameters
    ----------
    upstream, own, data, seed, newcomers
        See :func:`learn_scales`.

    Returns
    -------
    Choices
        Of R events, with a feature for each part.
    bool array of shape (D,)
        Which parts are the re-ranker's own.
    int array of shape (R,)
        Who chose: user codes.

    Raises
    ------
    ValueError
        If no event can serve.
    """
    train, late = later_slice(data, LATER)
    rng = np.random.default_rng(seed)
    late = some(late, MOST_CHOICES, rng)
    if newcomers:
        train = with_newcomers(train, rng)
        late = answerable(late, train)
    if late.empty:
        raise ValueError(
            "no event of the last fifth is about a known, unseen item, so nothing can be "
            "learned from them: use more events, or learn nothing"
        )
    requests = late.rename(columns={"timestamp": "at"}).reset_index(drop=True)
    user, item = late["user"].to_numpy(), late["item"].to_numpy()
    items = sample_candidates(item, user, train, rng, NEGATIVES)
    # Models work each user out once among the requests that they are handed together.
    order = np.argsort(user, kind="stable")
    requests, items = requests.iloc[order].reset_index(drop=True), items[order]
    user, item = user[order], item[order]
    # As few requests at once as if each had the whole catalogue, which some models score.
    cells_at_once = CHUNK_CELLS * items.shape[1] // train.shape[1]
    slate = recommend(upstream.fit(train), requests, items, cells_at_once)
    chosen = slate.grid == item[:, None]  # a step between may sort the slots, or drop some
    slate = slate.take(np.argsort(~chosen, axis=1, kind="stable"))
    parts, kept = dict(slate.parts), chosen.any(axis=1)
    if own is not None:
        parts |= recommend(own(train), requests, slate.items, cells_at_once).parts
    features = np.empty((*slate.shape, len(parts)), np.float32)
    for number, part in enumerate(parts.values()):
        features[:, :, number] = part
    ours = np.array([name not in slate.parts for name in parts], bool)
    choices = Choices(features[kept], slate.items[kept] != EMPTY, tuple(parts))
    return choices, ours, user[kept]
