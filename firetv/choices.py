"""Choices to learn from: what was chosen later, or out of fold, and what else might have been.

Anything fitted on scores, such as the weight of a re-ranker or a combination of models, must see
scores of events that the models have not seen. Here such events are set apart, alternatives are
drawn, and weights are fitted to what was chosen, by a conditional logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize
from scipy.special import log_softmax

from firetv.data import Dataset
from firetv.slate import EMPTY, seen_by

SHORT = (0, 0, 1, 1, 2, 3, 5, 10)  # items left to those who are made newcomers
LATER = 0.2  # share of the events, the last ones, that strengths are learned from


@dataclass(frozen=True)
class Choices:
    """What was chosen, among what else.

    Attributes
    ----------
    features : float32 array of shape (R, K, D)
        Slot 0 of each request is the item that was chosen.
    valid : bool array of shape (R, K)
        False where a slot holds no item.
    names : tuple of str
        Of the D features.
    """

    features: np.ndarray
    valid: np.ndarray
    names: tuple[str, ...]

    def select(self, names: Sequence[str]) -> Choices:
        """Return some of the features, in the order they have here."""
        if unknown := set(names) - set(self.names):
            raise KeyError(f"no features {sorted(unknown)}: there are {', '.join(self.names)}")
        columns = [n for n, name in enumerate(self.names) if name in set(names)]
        kept = tuple(self.names[column] for column in columns)
        return Choices(self.features[:, :, columns], self.valid, kept)

    @classmethod
    def joined(cls, parts: Sequence[Choices]) -> Choices:
        """Join choices of the same K; a feature that some of them lack is zero there."""
        names = tuple(dict.fromkeys(name for part in parts for name in part.names))
        features = [part._spread(names) for part in parts]
        return cls(np.concatenate(features), np.concatenate([p.valid for p in parts]), names)

    def _spread(self, names: tuple[str, ...]) -> np.ndarray:
        if names == self.names:
            return self.features
        spread = np.zeros((*self.valid.shape, len(names)), np.float32)
        spread[:, :, [names.index(name) for name in self.names]] = self.features
        return spread


def sample_candidates(
    chosen: np.ndarray,
    users: np.ndarray,
    train: Dataset,
    rng: np.random.Generator,
    negatives: int,
) -> np.ndarray:
    """Draw items that a user might have chosen instead.

    A conditional logit stays consistent when its alternatives are a uniform sample of the
    candidates (McFadden 1978).

    Parameters
    ----------
    chosen, users : int arrays of shape (R,)
        Item and user codes of the choices.
    train : Dataset
        Candidates are the items it knows; what the user has seen in it is not drawn.
    rng : Generator
    negatives : int
        Draws per choice. An item that is drawn again does not count twice: copies of the
        alternatives, but not of what was chosen, would bias a logit where candidates are few.

    Returns
    -------
    int array of shape (R, 1 + negatives)
        The chosen item first, then draws by code; :data:`~firetv.slate.EMPTY` where a draw was
        seen, chosen or drawn before.
    """
    pool = np.flatnonzero(train.item_counts)
    drawn = np.sort(pool[rng.integers(len(pool), size=(len(chosen), negatives))], axis=1)
    again = np.diff(drawn, axis=1, prepend=EMPTY) == 0
    taken = seen_by(train.matrix(), users, drawn) | (drawn == chosen[:, None]) | again
    return np.column_stack([chosen, np.where(taken, EMPTY, drawn)])


def answerable(events: pd.DataFrame, train: Dataset) -> pd.DataFrame:
    """Return the events whose item is known to training and new to the user there."""
    if events.empty:  # of which scipy makes a matrix
        return events
    user, item = events["user"].to_numpy(), events["item"].to_numpy()
    known = train.item_counts[item] > 0
    return events[known & (train.matrix()[user, item] == 0)]


def some(events: pd.DataFrame, most: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return all events, or as many as there may be, drawn at random and in their order."""
    return events.iloc[np.sort(rng.permutation(len(events))[:most])]


def later_slice(data: Dataset, share: float) -> tuple[Dataset, pd.DataFrame]:
    """Cut the last share of the events off: what came before, and those of them to learn from.

    Anything fitted on scores sees scores of events that came after the ones its models know.

    Raises
    ------
    ValueError
        If nothing came before, as where all events are of one instant.
    """
    cut = data.interactions["timestamp"].quantile(1 - share)
    late = data.interactions[data.interactions["timestamp"] >= cut]
    train = data.until(cut)
    if train.interactions.empty:
        raise ValueError("no event came before the last ones: there is nothing to learn from")
    return train, answerable(late, train)


def with_newcomers(data: Dataset, rng: np.random.Generator) -> Dataset:
    """Hide most of the history of half of all users: of some of them, all of it.

    What is learned from their later events holds for people with a short history, of whom a data
    set may have none.
    """
    lengths = np.where(rng.random(data.shape[0]) < 0.5, np.inf, rng.choice(SHORT, data.shape[0]))
    return data.shorten(lengths, rng)


def user_folds(users: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Deal each user's events to folds in turn, from a random fold on; int64 of shape (n,).

    A user with few events is in few folds, and every fold has its share of such users.
    """
    frame = pd.DataFrame({"user": users, "draw": rng.random(len(users))})
    place = frame.groupby("user")["draw"].rank(method="first").to_numpy(np.int64)
    return (place + rng.integers(folds, size=users.max(initial=0) + 1)[users]) % folds


def newness(data: Dataset, scale: float) -> np.ndarray:
    """How new each user is: ``scale / (scale + number of items)``.

    Returns
    -------
    float32 array of shape (n_users + 1,)
        The last is 1, so that code -1, a stranger, is new.

    Raises
    ------
    ValueError
        If the scale is not above 0.
    """
    if not scale > 0:
        raise ValueError(f"newness {scale} must be above 0")
    return (scale / (scale + np.append(data.user_counts, 0))).astype(np.float32)


def conditional_logit(
    choices: Choices, l2: float = 0.0, *, even: float = 0.0, nonnegative: bool = False
) -> np.ndarray:
    """Weights that make the chosen items likely: maximum likelihood of a conditional logit.

    The probability of a slot is ``softmax(features @ weights)`` over the request's slots
    (McFadden 1974).

    Parameters
    ----------
    choices : Choices
    l2 : float
        Penalty ``l2 / 2 * sum(weights**2)``, on the scale of one choice's log-likelihood.
    even : float
        Penalty ``even / 2 * sum((weights - their mean)**2)``: draws features of one scale towards
        a plain sum, which few choices cannot easily better (Dawes 1979).
    nonnegative : bool
        Keep every weight at or above zero.

    Returns
    -------
    float64 array of shape (D,)

    Raises
    ------
    ValueError
        If there are no choices.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(4000, 6, 2))
    >>> best = (x @ [2.0, 0.0] + rng.gumbel(size=(4000, 6))).argmax(axis=1)[:, None, None]
    >>> x = np.concatenate([np.take_along_axis(x, best, 1), x], axis=1)
    >>> np.put_along_axis(x, best + 1, np.nan, 1)
    >>> valid = ~np.isnan(x).any(axis=2)
    >>> conditional_logit(Choices(np.nan_to_num(x), valid, ("a", "b"))).round(1) + 0.0
    array([2., 0.])
    """
    if not len(choices.features):
        raise ValueError("a conditional logit needs at least one choice to learn from")
    x = np.array(choices.features, np.float64, order="C")  # sums do not depend on its history
    scale = x[choices.valid].std(axis=0)
    scale = np.exp2(np.round(np.log2(np.where(scale > 0, scale, 1))))  # dividing by it is exact
    x /= scale

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = np.where(choices.valid, x @ weights, -np.inf)
        log_p = log_softmax(logits, axis=1)
        expected = np.exp(log_p).ravel() @ x.reshape(-1, len(weights))
        own = weights / scale
        apart = own - own.mean()
        penalty = (l2 * (own**2).sum() + even * (apart**2).sum()) / 2
        gradient = expected - x[:, 0].sum(axis=0) + (l2 * own + even * apart) / scale
        return penalty - log_p[:, 0].sum(), gradient

    bounds = [(0.0, None)] * len(scale) if nonnegative else None
    found = optimize.minimize(
        loss, np.zeros(len(scale)), jac=True, method="L-BFGS-B", bounds=bounds
    )
    return found.x / scale
