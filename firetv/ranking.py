"""Learned combinations: many scores, one ranking, and still an additive ledger.

A :class:`Ranker` learns how much each of several models and signals should count from events that
none of them saw: the training data is split into folds, features of a held-out event come from
models fitted on the other folds (stacking; Wolpert 1992). What is learned is the choice of one item
among candidates, with the request's own context, by a conditional logit, LambdaMART, or the mean
of both: scores that are sums over features, so they can be read back from the ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from typing import Literal, Protocol

import lightgbm
import numpy as np
import pandas as pd
from scipy import sparse

from firetv.choices import (
    LATER,
    Choices,
    answerable,
    conditional_logit,
    later_slice,
    newness,
    sample_candidates,
    some,
    user_folds,
    with_newcomers,
)
from firetv.data import Dataset
from firetv.slate import (
    EMPTY,
    ExcludeSeen,
    Slate,
    Stage,
    Step,
    best,
    recommend,
    seen_by,
    with_seed,
)

OF_USER = "user:"  # how the names of signals begin that say something of the user alone
CHUNK_CELLS = 2_000_000  # request x candidate cells whose features are held at once


# ------------------------------------------------------------------ learners


class Scorer(Protocol):
    """A fitted learner: a score that is a sum over features."""

    def score(self, features: np.ndarray) -> np.ndarray:
        """Score rows of features, (n, D) to (n,)."""
        ...

    def contributions(self, features: np.ndarray) -> np.ndarray:
        """Take the scores apart, (n, D) to (n, D), but for a constant that all rows share."""
        ...


class Learner(Protocol):
    """A frozen dataclass of hyperparameters that learns to score what was chosen highest."""

    def fit(self, choices: Choices) -> Scorer:
        """Learn from choices."""
        ...


@dataclass(frozen=True)
class Logit:
    """Conditional logit with L2 penalties: see :func:`conditional_logit`."""

    l2: float = 20.0
    even: float = 0.0
    nonnegative: bool = False

    def fit(self, choices: Choices) -> Scorer:
        """Maximise the penalised likelihood."""
        weights = conditional_logit(choices, self.l2, even=self.even, nonnegative=self.nonnegative)
        return Linear(weights)


@dataclass(frozen=True)
class Linear:
    """A weighted sum: ``weights``, float64 of shape (D,)."""

    weights: np.ndarray

    def score(self, features: np.ndarray) -> np.ndarray:
        """Weigh and add."""
        return features @ self.weights

    def contributions(self, features: np.ndarray) -> np.ndarray:
        """Weigh."""
        return features * self.weights


@dataclass(frozen=True)
class LambdaMART:
    """Gradient-boosted trees for the order of lists (Burges 2010), by LightGBM.

    Attributes
    ----------
    objective : {"lambdarank", "rank_xendcg"}
        Which loss the trees descend: that of LambdaMART, or the cross entropy of XE-NDCG-MART
        (Bruch 2021), a boosted conditional logit, for choices that are often far down in a list.
    trees, leaves, learning_rate, min_leaf, l2, feature_share, row_share
        See LightGBM's ``num_iterations, num_leaves, learning_rate, min_data_in_leaf, lambda_l2,
        feature_fraction, bagging_fraction``.
    cutoff : int
        ``lambdarank_truncation_level``: pairs below this rank of both do not count; LambdaMART's.
    seed : int
        Of rows and features drawn. One thread, so that fits repeat.
    """

    objective: Literal["lambdarank", "rank_xendcg"] = "lambdarank"
    trees: int = 100
    leaves: int = 8
    learning_rate: float = 0.07
    min_leaf: int = 100
    l2: float = 10.0
    feature_share: float = 0.5
    row_share: float = 0.8
    cutoff: int = 20
    seed: int = 0

    def fit(self, choices: Choices) -> Scorer:
        """Boost."""
        chosen = np.zeros(choices.valid.shape, np.int8)
        chosen[:, 0] = 1
        rows = lightgbm.Dataset(
            choices.features[choices.valid],
            chosen[choices.valid],
            group=choices.valid.sum(axis=1),
        )
        parameters = {
            "objective": self.objective,
            "lambdarank_truncation_level": self.cutoff,
            "learning_rate": self.learning_rate,
            "num_leaves": self.leaves,
            "min_data_in_leaf": self.min_leaf,
            "lambda_l2": self.l2,
            "feature_fraction": self.feature_share,
            "bagging_fraction": self.row_share,
            "bagging_freq": 1,
            "num_threads": 1,
            "deterministic": True,
            "force_row_wise": True,
            "seed": self.seed,
            "verbosity": -1,
        }
        return Trees(lightgbm.train(parameters, rows, self.trees).model_to_string())


@dataclass(frozen=True)
class Trees:
    """A forest in LightGBM's text format, which is data and no code."""

    text: str

    def score(self, features: np.ndarray) -> np.ndarray:
        """Add the trees up."""
        if not len(features):  # which LightGBM refuses
            return np.zeros(0)
        return _booster(self.text).predict(features, num_threads=1)

    def contributions(self, features: np.ndarray) -> np.ndarray:
        """Take scores apart by their exact Shapley values (TreeSHAP; Lundberg et al. 2020)."""
        if not len(features):
            return np.zeros(features.shape)
        return _booster(self.text).predict(features, pred_contrib=True, num_threads=1)[:, :-1]


@lru_cache(maxsize=8)  # a step scores many chunks, and reading costs more than a small one
def _booster(text: str) -> lightgbm.Booster:
    return lightgbm.Booster(model_str=text)


@dataclass(frozen=True)
class Average:
    """Scores of several learners, each divided by its deviation over the choices, and averaged.

    Its seed becomes that of every learner.
    """

    learners: Sequence[Learner] = (Logit(), LambdaMART())
    seed: int = 0

    def fit(self, choices: Choices) -> Scorer:
        """Fit each learner by itself."""
        rows = choices.features[choices.valid]
        scorers = tuple(with_seed(learner, self.seed).fit(choices) for learner in self.learners)
        deviations = tuple(float(np.std(scorer.score(rows))) or 1.0 for scorer in scorers)
        return Mean(scorers, deviations)


@dataclass(frozen=True)
class Mean:
    """The mean of several scorers' scores over their deviations."""

    scorers: tuple[Scorer, ...]
    deviations: tuple[float, ...]

    def score(self, features: np.ndarray) -> np.ndarray:
        """Average scores."""
        return self._mean([scorer.score(features) for scorer in self.scorers])

    def contributions(self, features: np.ndarray) -> np.ndarray:
        """Average contributions."""
        return self._mean([scorer.contributions(features) for scorer in self.scorers])

    def _mean(self, values: Sequence[np.ndarray]) -> np.ndarray:
        pairs = zip(values, self.deviations, strict=True)
        return sum(value / deviation for value, deviation in pairs) / len(values)


# ------------------------------------------------------------------ stacking


def centred(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Centre each row on the mean of its valid cells; 0 elsewhere."""
    count = np.maximum(valid.sum(axis=1, keepdims=True), 1)
    mean = np.where(valid, values, 0).sum(axis=1, keepdims=True) / count
    return np.where(valid, values - mean, 0)


def standardised(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Centre each row and scale its valid cells to a deviation of one; 0 elsewhere.

    A row whose cells differ by no more than rounding is 0 as well.
    """
    size = np.abs(np.where(valid, values, 0)).max(axis=1, keepdims=True, initial=0)
    values = centred(values, valid)
    count = np.maximum(valid.sum(axis=1, keepdims=True), 1)
    deviation = np.sqrt((values**2).sum(axis=1, keepdims=True) / count)
    return np.divide(values, deviation, out=np.zeros_like(values), where=deviation > 1e-6 * size)


def fit_each(models: Mapping[str, Stage], data: Dataset, seed: int) -> dict[str, Step]:
    """Fit several models by themselves, all with one seed."""
    return {name: with_seed(stage, seed).fit(data) for name, stage in models.items()}


@dataclass(frozen=True)
class Blend:
    """Several models that count the same: the sum of their scores, standardised, a part for each.

    Attributes
    ----------
    models : mapping of str to Stage
    seed : int
        Becomes the models'.
    """

    models: Mapping[str, Stage]
    seed: int = 0

    def fit(self, data: Dataset) -> Step:
        """Fit each model by itself."""
        return BlendStep(fit_each(self.models, data, self.seed))


@dataclass(frozen=True)
class BlendStep:
    """Fitted models, whose scores are standardised over each request's candidates."""

    models: Mapping[str, Step]

    def __call__(self, slate: Slate) -> Slate:
        """Add one part per model."""
        valid, bare = slate.grid != EMPTY, Slate(slate.requests, slate.items)
        for name, model in self.models.items():
            slate = slate.add(name, standardised(model(bare).scores, valid))
        return slate


@dataclass(frozen=True)
class Ranker:
    """One ranking from several models and signals, learned on out-of-fold events.

    Attributes
    ----------
    models : mapping of str to Stage
        Each gives one feature: its score, standardised over the request's candidates.
    signals : sequence of Stage
        Every part that they add is a feature as it is, centred unless it is of the user alone.
    learner : Logit, LambdaMART or Average
    folds : int
        Of the training data; 1 learns from its last fifth instead, whose features come from
        models of the rest.
    negatives : int
        Candidates drawn beside each chosen item.
    rounds : int, optional
        Of the folds, how many are learned from; all by default.
    head : int, optional
        Where given, only so many unseen candidates of a request are ranked: those of the greatest
        sum over the models. Alternatives are then the others of these, not a random sample, and
        what was chosen from elsewhere is not learned from: what makes the order of a long tail
        likely need not be what makes that of its first ten titles.
    most : int
        Events to learn from, drawn from all if there are more; features of 20 000 take a few
        hundred megabytes.
    keep : int
        Slots left: contributions, which cost more than scores, are worked out for these alone.
    newness : float, optional
        Where given, every model counts once more times ``newness / (newness + number of items)``,
        so that weights may differ for people with a short history, and some are learned from
        users who are given one (:func:`with_newcomers`).
    seed : int
        Of folds, draws, models and the learner.
    """

    models: Mapping[str, Stage]
    signals: Sequence[Stage] = ()
    learner: Learner = field(default_factory=Logit)
    folds: int = 5
    rounds: int | None = None
    head: int | None = None
    negatives: int = 100
    most: int = 20_000
    keep: int = 100
    newness: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rounds is not None and not 1 <= self.rounds <= self.folds:
            raise ValueError(f"rounds {self.rounds}: learn from 1 to {self.folds} of the folds")
        if self.head is not None and self.head < 1:
            raise ValueError(f"head {self.head}: rank 1 candidate or more")

    def fit(self, data: Dataset) -> Step:
        """Learn the combination on held-out folds, with models and signals of all the data."""
        return self.prepare(data).learn(with_seed(self.learner, self.seed))

    def prepare(self, data: Dataset) -> Prepared:
        """Work out the features that combinations are learned from.

        Each held-out event that can be answered is a choice, with features from the other folds.
        """
        rng = np.random.default_rng(self.seed)
        rounds = self.folds if self.rounds is None else self.rounds
        parts = []
        for train, held_out in islice(self._held_out(data, rng), rounds):
            events, features = some(held_out, self.most // rounds, rng), self._features(train)
            if self.head is None:
                parts.append(features.choices(events, train, rng, self.negatives))
            else:
                parts.append(features.choices_of_head(events, train, self.head))
        unseen = ExcludeSeen().fit(data)
        return Prepared(Choices.joined(parts), self._features(data), unseen, self.keep, self.head)

    def _held_out(
        self, data: Dataset, rng: np.random.Generator
    ) -> Iterator[tuple[Dataset, pd.DataFrame]]:
        if self.folds == 1:
            parts = [later_slice(data, LATER)]
        else:
            fold = user_folds(data.interactions["user"].to_numpy(), self.folds, rng)
            folds = [(fold != number, fold == number) for number in range(self.folds)]
            parts = ((data.keep(kept), data.interactions[held_out]) for kept, held_out in folds)
        for train, held_out in parts:
            train = train if self.newness is None else with_newcomers(train, rng)
            yield train, answerable(held_out, train)

    def _features(self, data: Dataset) -> FeatureStep:
        return FeatureStep(
            fit_each(self.models, data, self.seed),
            tuple(with_seed(stage, self.seed).fit(data) for stage in self.signals),
            None if self.newness is None else newness(data, self.newness),
        )


@dataclass(frozen=True)
class FeatureStep:
    """Fitted models and signals, whose scores are features; of these, ``names`` or all.

    Where ``newness`` of each user is given, models count again, times it, as ``name/new``.
    """

    models: Mapping[str, Step]
    signals: tuple[Step, ...]
    newness: np.ndarray | None = None
    names: tuple[str, ...] | None = None

    def __call__(self, slate: Slate) -> Slate:
        """Add one part per feature to a bare slate."""
        valid = slate.grid != EMPTY
        bare = Slate(slate.requests, slate.items)
        for name, model in self.models.items():
            again = f"{name}/new"
            wanted = [n for n in (name, again) if self.names is None or n in self.names]
            if not wanted:
                continue
            score = standardised(model(bare).scores, valid)
            if name in wanted:
                slate = slate.add(name, score)
            if again in wanted and self.newness is not None:
                slate = slate.add(again, self.newness[slate.users][:, None] * score)
        for signal in self.signals:
            for name, part in signal(bare).parts.items():
                if self.names is None or name in self.names:
                    # What is the same for all candidates of a user, only trees can use.
                    value = part if name.startswith(OF_USER) else centred(part, valid)
                    slate = slate.add(name, value)
        return slate

    def total(self, slate: Slate) -> np.ndarray:
        """Sum of the models' features, float32 (R, K); minus infinity in empty slots."""
        parts = {name: part for name, part in slate.parts.items() if name in self.models}
        return replace(slate, parts=parts).scores

    def choices(
        self, events: pd.DataFrame, train: Dataset, rng: np.random.Generator, negatives: int
    ) -> Choices:
        """Features of the items that events chose, and of a sample of the other candidates.

        They are standardised over all candidates before the sample is drawn.
        """
        user, item = events["user"].to_numpy(), events["item"].to_numpy()
        place = np.full(train.shape[1] + 1, EMPTY)  # the last, for EMPTY, stays so
        pool = np.flatnonzero(train.item_counts)
        place[pool] = np.arange(len(pool))
        drawn = sample_candidates(item, user, train, rng, negatives)
        chunks = [
            self._chosen(slate, place[drawn[rows]])
            for rows, slate in self._slates(events, train, pool)
        ]
        return Choices.joined(chunks)

    def choices_of_head(self, events: pd.DataFrame, train: Dataset, head: int) -> Choices:
        """Features of what events chose and of the rest of each request's head, if it was there.

        What the same user chose in other events is no alternative: of the head, it is a large part.
        """
        pool, item = np.flatnonzero(train.item_counts), events["item"].to_numpy()
        place = (events["user"].to_numpy(), item)
        chosen_ever = sparse.csr_array((np.ones(len(item), np.float32), place), shape=train.shape)
        chunks = []
        for rows, slate in self._slates(events, train, pool):
            slots = best(self.total(slate), head)
            chosen = pool[slots] == item[rows, None]
            order = np.argsort(~chosen, axis=1, kind="stable")
            slots, found = np.take_along_axis(slots, order, axis=1), chosen.any(axis=1)
            items = np.take_along_axis(slate.grid, slots, axis=1)
            valid = (items != EMPTY) & ~seen_by(chosen_ever, slate.users, items)
            valid[:, 0] = True
            room = ((0, 0), (0, head - slots.shape[1]))  # folds may know fewer titles than that
            slots = np.pad(np.where(valid, slots, EMPTY), room, constant_values=EMPTY)
            made = self._chosen(slate, slots)
            chunks.append(Choices(made.features[found], made.valid[found], made.names))
        return Choices.joined(chunks)

    def _slates(
        self, events: pd.DataFrame, train: Dataset, pool: np.ndarray
    ) -> Iterator[tuple[slice, Slate]]:
        """Features of all unseen candidates of some events at a time."""
        requests = events.rename(columns={"timestamp": "at"})
        unseen, some = ExcludeSeen().fit(train), max(1, CHUNK_CELLS // len(pool))
        for start in range(0, max(1, len(events)), some):
            rows = slice(start, start + some)
            yield rows, self(unseen(Slate(requests.iloc[rows], pool)))

    def _chosen(self, slate: Slate, slots: np.ndarray) -> Choices:
        """Choices among some slots, of which the first was chosen."""
        taken = slate.take(slots)
        return Choices(_cells(taken, tuple(taken.parts)), slots != EMPTY, tuple(taken.parts))


@dataclass(frozen=True)
class Prepared:
    """Features worked out once, for any number of combinations of them.

    Attributes
    ----------
    choices : Choices
        Out of fold.
    features : FeatureStep
        Of models and signals fitted on all the data.
    unseen : Step
    keep : int
    head : int or None
    """

    choices: Choices
    features: FeatureStep
    unseen: Step
    keep: int
    head: int | None = None

    def learn(self, learner: Learner, names: Sequence[str] | None = None) -> Step:
        """Learn a combination of all features, or of those that are named."""
        choices = self.choices if names is None else self.choices.select(names)
        features = replace(self.features, names=choices.names)
        return RankerStep(features, learner.fit(choices), self.unseen, self.keep, self.head)


@dataclass(frozen=True)
class RankerStep:
    """The learned combination: the best ``keep`` unseen slots, with a ledger of their own.

    It ranks anew: parts that the slate came with are dropped.
    """

    features: FeatureStep
    scorer: Scorer
    unseen: Step
    keep: int
    head: int | None = None

    def __call__(self, slate: Slate) -> Slate:
        """Score all slots, keep the best, and say what each group of features contributes."""
        if slate.items.ndim == 1 and slate.shape[0] > 1 and np.prod(slate.shape) > CHUNK_CELLS:
            return recommend(self, slate.requests, slate.items, CHUNK_CELLS)
        names = self.features.names
        slate = self.features(self.unseen(Slate(slate.requests, slate.items)))
        if self.head is not None:
            slate = slate.take(best(self.features.total(slate), self.head))
        rows = _cells(slate, names).reshape(-1, len(names))
        score = self.scorer.score(rows).reshape(slate.shape)
        slate = slate.take(best(np.where(slate.grid == EMPTY, -np.inf, score), self.keep))
        rows = _cells(slate, names).reshape(-1, len(names))
        shares = self.scorer.contributions(rows).reshape(*slate.shape, len(names))
        parts: dict[str, np.ndarray] = {}
        for number, name in enumerate(names):
            group = name.split("/")[0]
            parts[group] = parts.get(group, 0) + shares[:, :, number]
        ranked = Slate(slate.requests, slate.items)
        for group, values in parts.items():
            ranked = ranked.add(group, values)
        return ranked


def _cells(slate: Slate, names: tuple[str, ...]) -> np.ndarray:
    """Features of each slot by name, (R, K, D); one that the slate has no part for is zero."""
    none = np.zeros(slate.shape, np.float32)
    return np.stack([slate.parts.get(name, none) for name in names], axis=2)
