"""Lists that show all of a taste: re-ranking for calibrated genres, or for titles that differ.

Titles that are each likely to please make a list of one kind: whoever watches comedies mostly, and
news sometimes, is shown comedies only. The stages here re-rank the candidates of each request title
by title, by a score and by what a title adds to those above it. Scores are put on a scale first:
they are divided by their standard deviation over the request's titles, so that a weight means the
same behind every model, and a number added to all scores of a request changes no list.

What a title adds never grows as the list does, so the best of what is left never beats the one
above it: the list stands in the order of its ledger.

Examples
--------
Ana watched as much comedy as news, and comedies score best:

>>> import pandas as pd
>>> from firetv.data import Tables
>>> from firetv.slate import top
>>> genre = {"a": "Comedy", "b": "News", "c": "Comedy", "d": "Comedy", "e": "News"}
>>> content = pd.DataFrame({"content_id": genre.keys(), "genres": [[g] for g in genre.values()]})
>>> history = pd.DataFrame({"user_id": "ana", "content_id": ["a", "b"]})
>>> history["timestamp"] = pd.Timestamp("2026-01-01", tz="UTC")
>>> data = Dataset.from_tables(Tables(watch_history=history, content=content))
>>> slate = Slate(pd.DataFrame({"user": [0]}), np.array([2, 3, 4]))
>>> slate = slate.add("taste", np.array([[3.0, 2.0, 1.0]]))
>>> titles = data.content["content_id"].to_numpy()
>>> print(titles[top(2)(slate).items])
[['c' 'd']]
>>> for stage in Calibrated(k=2), MMR(weight=0.6, k=2):
...     chosen = stage.fit(data)(slate)
...     print(titles[chosen.items], *(f"{n} {p.round(2)}" for n, p in chosen.parts.items()))
[['c' 'e']] taste [[1.84 0.61]] calibration [[1.15 1.15]]
[['c' 'e']] taste [[1.47 0.49]] diversity [[0. 0.]]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from firetv.data import Dataset
from firetv.features import genres
from firetv.slate import CHUNK_CELLS, Slate, Step, joined

LOWEST = np.finfo(np.float32).min  # of slots that hold nothing, which come last


@dataclass(frozen=True)
class Calibrated:
    """Genres in the proportions of what the user has watched (Steck 2018).

    The list of k grows, title by title, towards the most of
    ``(1 - weight) * sum of scores - weight * KL(p || q~)``. As in
    :func:`firetv.metrics.calibration`, ``p`` are the genres of the user's training history and
    ``q`` those of the list, each title dividing its mass among its genres, and
    ``q~ = (1 - alpha) q + alpha p``.

    A title's mass is ``1 / k`` from the first on, not one over the titles so far. The divergence is
    the same in a full list whose titles all have genres, and what grows, ``sum of p log q~``, is
    then a concave function of sums, hence monotone and submodular: no title adds more than it would
    have added before. By that the greedy list is worth at least ``1 - 1/e`` of the best one, if
    scores count from the lowest candidate's (Nemhauser, Wolsey and Fisher 1978).

    The step keeps the k chosen slots, best first, and ties by slot. All parts of the slate are
    multiplied by ``(1 - weight) / deviation``, and one is added, ``calibration``: weight times what
    the title added to ``sum of p log q~``. This starts from ``q~ = alpha p``, so that the parts of
    such a full list sum to ``weight * (log(1 / alpha) - KL(p || q~))``. A title without genres adds
    nothing, and no title adds anything for a user whose history has none.

    Attributes
    ----------
    weight : float
        In [0, 1); 0 keeps the order that came.
    k : int
        Titles of a list, at least 1; shorter slates keep all.
    alpha : float
        In (0, 1); the lower, the worse it is to leave out a genre.

    Raises
    ------
    ValueError
        If one of them is out of its range.
    """

    weight: float = 0.5
    k: int = 10
    alpha: float = 0.01

    def __post_init__(self) -> None:
        _require(self.weight, self.k)
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha {self.alpha} is not between 0 and 1: give a little, like 0.01")

    def fit(self, data: Dataset) -> Step:
        """Read the genres of titles, and how much of each is in a user's history."""
        shares = genres(data).normalised().matrix.toarray()
        mass = data.matrix() @ shares
        total = mass.sum(axis=1, keepdims=True)
        return _Calibrating(self, shares, mass / np.where(total > 0, total, 1))


@dataclass(frozen=True)
class _Calibrating:
    stage: Calibrated
    shares: np.ndarray  # (n_items, n_genres) float32, sum to 1, or 0 where no genre is known
    wanted: np.ndarray  # (n_users, n_genres) float32, likewise

    def __call__(self, slate: Slate) -> Slate:
        return _in_chunks(self._rerank, slate, self.shares.shape[1])

    def _rerank(self, slate: Slate) -> Slate:
        alpha, row = self.stage.alpha, np.arange(len(slate.users))
        wanted = np.where(slate.users[:, None] >= 0, self.wanted[slate.users], 0.0)
        held = self.shares[slate.grid] * ((1 - alpha) / self.stage.k)

        def gains(shown: np.ndarray) -> np.ndarray:
            growth = held / shown[:, None]
            return np.einsum("rkg,rg->rk", np.log1p(growth, out=growth), wanted)

        def move(shown: np.ndarray, slot: np.ndarray) -> np.ndarray:
            return shown + held[row, slot]

        start = np.where(wanted > 0, alpha * wanted, 1)  # any number where nothing is wanted
        return _one_by_one(slate, "calibration", self.stage, start, gains, move)


@dataclass(frozen=True)
class MMR:
    """Titles unlike those above them: maximal marginal relevance (Carbonell and Goldstein 1998).

    Each next title has the most of ``(1 - weight) * score - weight * similarity``, which is the
    largest cosine of its genres with those of a title above it: 0 for the first one, and where
    genres are unknown.

    The step keeps the k chosen slots, best first, and ties by slot. All parts of the slate are
    multiplied by ``(1 - weight) / deviation``, and one is added, ``diversity``: minus weight times
    the similarity.

    Attributes
    ----------
    weight : float
        In [0, 1); 0 keeps the order that came.
    k : int
        Titles of a list, at least 1; shorter slates keep all.

    Raises
    ------
    ValueError
        If one of them is out of its range.
    """

    weight: float = 0.5
    k: int = 10

    def __post_init__(self) -> None:
        _require(self.weight, self.k)

    def fit(self, data: Dataset) -> Step:
        """Read the genres of titles."""
        known = genres(data).matrix.toarray()
        length = np.linalg.norm(known, axis=1, keepdims=True)
        return _Diverse(self, known / np.where(length > 0, length, 1))


@dataclass(frozen=True)
class _Diverse:
    stage: MMR
    genres: np.ndarray  # (n_items, n_genres) float32, of length 1, or 0 where no genre is known

    def __call__(self, slate: Slate) -> Slate:
        return _in_chunks(self._rerank, slate, self.genres.shape[1])

    def _rerank(self, slate: Slate) -> Slate:
        held, row = self.genres[slate.grid], np.arange(len(slate.users))

        def move(similarity: np.ndarray, slot: np.ndarray) -> np.ndarray:
            return np.maximum(similarity, np.einsum("rkg,rg->rk", held, held[row, slot]))

        start = np.zeros(slate.shape, np.float32)
        return _one_by_one(slate, "diversity", self.stage, start, lambda s: 0 - s, move)


def _require(weight: float, k: int) -> None:
    if not 0 <= weight < 1:
        raise ValueError(f"weight {weight} is not 0 or more and below 1: give a share, like 0.5")
    if not k >= 1:
        raise ValueError(f"k {k} titles make no list: give 1 or more")


def _in_chunks(rerank: Step, slate: Slate, width: int) -> Slate:
    """Re-rank some requests at a time, as many as have CHUNK_CELLS candidates x genres."""
    some = max(1, CHUNK_CELLS // max(1, slate.shape[1] * max(1, width)))
    slates = []
    for start in range(0, max(1, slate.shape[0]), some):
        rows = slice(start, start + some)
        items = slate.items if slate.items.ndim == 1 else slate.items[rows]
        parts = {name: part[rows] for name, part in slate.parts.items()}
        slates.append(rerank(Slate(slate.requests.iloc[rows], items, parts)))
    return joined(slate.requests, slates)


def _scaled(slate: Slate, weight: float) -> Slate:
    """Multiply all parts by ``(1 - weight) / deviation``, which is 1 where all scores are equal."""
    scores = np.ma.masked_invalid(slate.scores.astype(np.float64))
    deviation = scores.std(axis=1, keepdims=True).filled(0)
    factor = (1 - weight) / np.where(deviation > 0, deviation, 1)
    parts = {name: (part * factor).astype(np.float32) for name, part in slate.parts.items()}
    return replace(slate, parts=parts)


def _one_by_one(
    slate: Slate,
    name: str,
    stage: Calibrated | MMR,
    start: np.ndarray,
    gains: Callable[[np.ndarray], np.ndarray],
    move: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Slate:
    """Choose the title of the highest score and gain, k times.

    Parameters
    ----------
    slate : Slate
    name : str
        Of the part that says what chosen titles gained.
    stage : Calibrated or MMR
    start : array
        The state before the first title.
    gains : callable
        From a state to the gain of each candidate, (R, K), which never grows from state to state.
    move : callable
        From a state and the chosen slots, (R,), to the next state.
    """
    scaled = _scaled(slate, stage.weight)
    scores, row = scaled.scores, np.arange(slate.shape[0])
    valid, taken = np.isfinite(scores), np.zeros(scores.shape, bool)
    slots = np.empty((len(row), min(stage.k, scores.shape[1])), np.int64)
    gained, state = np.empty(slots.shape, np.float32), start
    for place in range(slots.shape[1]):
        # In single precision, as the ledger adds them up: else its order could differ in a digit.
        gain = np.where(valid, stage.weight * gains(state), 0).astype(np.float32)
        total = np.where(valid, scores + gain, LOWEST)
        total[taken] = -np.inf
        slot = total.argmax(axis=1)
        taken[row, slot] = True
        slots[:, place], gained[:, place] = slot, gain[row, slot]
        state = move(state, slot)
    return scaled.take(slots).add(name, gained)
