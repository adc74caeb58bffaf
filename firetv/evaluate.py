"""Pipelines evaluated on splits: ``{name: stage}`` x split -> tidy frame."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from threading import Lock
from typing import Any, Literal

import joblib
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy import sparse
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from firetv import metrics
from firetv.abtest import clustered_interval, mean_interval
from firetv.choices import Choices
from firetv.data import Dataset
from firetv.features import genres
from firetv.moments import DIMENSIONS, UTC_CLOCK, Clock, describe_of
from firetv.ranking import (
    CHUNK_CELLS,
    Average,
    FeatureStep,
    Learner,
    Prepared,
    Ranker,
    RankerStep,
    Scorer,
)
from firetv.slate import (
    ExcludeSeen,
    Slate,
    Stage,
    Step,
    chain,
    places,
    recommend,
    seen_cells,
    top,
    with_seed,
)
from firetv.splits import Split


@dataclass(frozen=True)
class Run:
    """The lists of one pipeline with one seed on one split.

    ``items`` has shape (R, k), -1 where a list is shorter; times are wall-clock seconds.
    """

    model: str
    seed: int
    split: Split
    items: np.ndarray
    fit_seconds: float
    score_seconds: float


def run(name: str, stage: Stage, split: Split, seed: int, k: int = 10) -> Run:
    """Fit one pipeline, and list ``k`` unseen candidates for every request of a split.

    Candidates come in an order shuffled by the seed, which is what breaks ties: the order of a
    catalogue often betrays popularity.
    """
    candidates = np.random.default_rng(seed).permutation(split.candidates)
    start = time.perf_counter()
    step = chain(with_seed(stage, seed), ExcludeSeen(), top(k)).fit(split.train)
    fitted = time.perf_counter()
    slate = recommend(step, split.requests, candidates)
    scored = time.perf_counter()
    return Run(name, seed, split, slate.items, fitted - start, scored - fitted)


def run_all(
    pipelines: Mapping[str, Stage],
    split: Split | Sequence[Split],
    seeds: Sequence[int] = (0,),
    k: int = 10,
    n_jobs: int = 1,
    processes: bool = False,
) -> list[Run]:
    """Run every pipeline once per seed, on one split or on a split for each seed.

    Parameters
    ----------
    pipelines : mapping of name to stage
    split : Split, or sequence of Split as long as ``seeds``
        Several splits are for protocols that draw another test part with each seed.
    seeds : sequence of int
        Of the models and of the order of ties.
    k : int
        Length of the lists.
    n_jobs : int
        Fits side by side, each with one BLAS thread, so results do not depend on the number.
    processes : bool
        Whether to use processes, at the price of copies; implicit and LightFM release the
        interpreter, so that threads do for them.

    Returns
    -------
    list of Run

    Notes
    -----
    A progress bar goes to stderr, unless the environment sets ``TQDM_DISABLE=1``.
    """
    splits = [split] * len(seeds) if isinstance(split, Split) else split
    work = [
        delayed(run)(name, stage, part, seed, k)
        for name, stage in pipelines.items()
        for part, seed in zip(splits, seeds, strict=True)
    ]
    return side_by_side(work, n_jobs, splits[0].name, processes=processes)


def side_by_side(
    work: Sequence[Any], n_jobs: int, desc: str, *, processes: bool = False
) -> list[Any]:
    """Do joblib's delayed calls, each with one BLAS thread, and return their results in order.

    Last first: tables end with the costly models, and none of them should be left to run alone.
    """
    with threadpool_limits(1, "blas"):
        backend = "loky" if processes else "threading"
        jobs = Parallel(n_jobs, backend=backend, return_as="generator")(reversed(work))
        found = list(tqdm(jobs, total=len(work), desc=desc))
    return found[::-1]


@dataclass(frozen=True)
class Once:
    """A model fitted once on the same data, however many pipelines have it for their base.

    Pipelines that differ behind their base repeat its fits, on all events and on those that
    re-rankers learn from. Data are the same if what they hold is. What was fitted stays in memory
    as long as the stage; threads share it, other processes fit for themselves.

    Attributes
    ----------
    model : Stage
    untold : sequence of str
        What the model is not told, since it does not ask: ``friends``, or columns of the
        interactions. Data that differ in nothing else, such as a placebo's, share their fits.
    seed : int
        Becomes the model's.
    fits : dict
        What was fitted, by what on.

    Examples
    --------
    >>> from firetv.data import Dataset
    >>> from firetv.models import Popular
    >>> from firetv.synthetic import simulate
    >>> from firetv.world import World
    >>> data = Dataset.from_tables(simulate(World(users=20, content=50, watch_events=300))[0])
    >>> base = Once(Popular(), untold=["friends"])
    >>> base.fit(data) is base.fit(replace(data, friends=None))
    True
    """

    model: Stage
    untold: Sequence[str] = ()
    seed: int = 0
    fits: dict[str, tuple[Lock, list[Step]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def fit(self, data: Dataset) -> Step:
        """Fit the model, or return the step that was learned from the same data before."""
        model, told = with_seed(self.model, self.seed), self._told(data)
        lock, found = self.fits.setdefault(joblib.hash((model, _content(told))), (Lock(), []))
        with lock:  # others wait for a fit that has begun
            if not found:
                found.append(model.fit(told))
        return found[0]

    def _told(self, data: Dataset) -> Dataset:
        friends = None if "friends" in self.untold else data.friends
        events = data.interactions.drop(columns=list(self.untold), errors="ignore")
        return replace(data, interactions=events, friends=friends)

    def __reduce__(self) -> tuple:
        """Leave locks and steps behind."""
        return Once, (self.model, self.untold, self.seed)


def _content(data: Dataset) -> list:
    """What data hold, however their columns lie in memory."""
    held = {each.name: getattr(data, each.name) for each in fields(data)}
    tables = [held.pop(name) for name in ("interactions", "reactions")]
    rows = [pd.util.hash_pandas_object(table).to_numpy() for table in tables]
    return [rows, [table.dtypes.astype("str").to_dict() for table in tables], held]


@dataclass(frozen=True)
class Variant:
    """A combination to compare: a learner, and the features it may use, by how their names begin.

    Attributes
    ----------
    learner : Learner
    use : tuple of str
    then : tuple of Stage
        What re-ranks the list, such as :class:`firetv.diversity.MMR`.

    Examples
    --------
    >>> from firetv.ranking import Logit
    >>> Variant(Logit(), ("ease", "context:")).chosen(["ease", "knn", "context:weather/item"])
    ['ease', 'context:weather/item']
    """

    learner: Learner
    use: tuple[str, ...]
    then: tuple[Stage, ...] = ()

    def chosen(self, names: Sequence[str]) -> list[str]:
        """Those of the names that begin as they should."""
        return [name for name in names if name.startswith(self.use)]


def run_variants(
    ranker: Ranker,
    variants: Mapping[str, Variant],
    splits: Sequence[Split],
    seeds: Sequence[int],
    k: int = 10,
    n_jobs: int = 1,
    processes: bool = False,
) -> list[Run]:
    """Run several combinations of one ranker's features, which are worked out once per split.

    Parameters
    ----------
    ranker : Ranker
        Its models and signals give the features; its learner is not used.
    variants : mapping of name to Variant
    splits : sequence of Split
    seeds : sequence of int
        One for each split.
    k : int
        Length of the lists.
    n_jobs : int
        Splits side by side; results do not depend on the number.
    processes : bool
        Whether to use processes; models that are fitted :class:`Once` are shared by threads alone.

    Returns
    -------
    list of Run
        Their times leave out the features, which all variants share, and learners of the same
        features that an earlier variant has as well.
    """
    work = [
        delayed(_run_variants)(ranker, variants, split, seed, k)
        for split, seed in zip(splits, seeds, strict=True)
    ]
    found = side_by_side(work, n_jobs, "splits", processes=processes)
    return [each for runs in found for each in runs]


def _run_variants(
    ranker: Ranker, variants: Mapping[str, Variant], split: Split, seed: int, k: int
) -> list[Run]:
    steps, after, seconds, fits = {}, {}, {}, {}
    with threadpool_limits(1, "blas"):
        prepared = replace(ranker, seed=seed).prepare(split.train)
        names = prepared.choices.names
        for name, variant in variants.items():
            start = time.perf_counter()
            learner = _remembered(variant.learner, seed, fits)
            steps[name] = prepared.learn(learner, variant.chosen(names))
            after[name] = chain(*variant.then, top(k)).fit(split.train)
            seconds[name] = time.perf_counter() - start
        listed = _list_variants(prepared, steps, after, split, seed)
    return [Run(name, seed, split, items, seconds[name], s) for name, (items, s) in listed.items()]


def _list_variants(
    prepared: Prepared,
    steps: Mapping[str, RankerStep],
    after: Mapping[str, Step],
    split: Split,
    seed: int,
) -> dict[str, tuple[np.ndarray, float]]:
    """Lists of each variant, and how long they took beside the features, which are shared."""
    candidates = np.random.default_rng(seed).permutation(split.candidates)  # as in `run`
    some = max(1, CHUNK_CELLS // max(1, len(candidates)))
    lists, seconds = {name: [] for name in steps}, dict.fromkeys(steps, 0.0)
    for first in range(0, max(1, len(split.requests)), some):
        asked = Slate(split.requests.iloc[first : first + some], candidates)
        known = prepared.features(prepared.unseen(asked))
        for name, step in steps.items():
            start = time.perf_counter()
            step = replace(step, features=_Known(**vars(step.features), slate=known))
            lists[name].append(after[name](step(asked)).items)
            seconds[name] += time.perf_counter() - start
    return {name: (np.concatenate(each), seconds[name]) for name, each in lists.items()}


@dataclass(frozen=True)
class _Known(FeatureStep):
    """Features of a slate that were worked out before."""

    slate: Slate | None = None

    def __call__(self, slate: Slate) -> Slate:
        """Take those that are wanted."""
        parts = {name: part for name, part in self.slate.parts.items() if name in self.names}
        return replace(slate, parts=parts)


@dataclass(frozen=True)
class _Remembered:
    """A learner that several variants have, by itself or within an average: fitted once."""

    learner: Learner
    fits: dict[tuple[str, tuple[str, ...]], Scorer] = field(repr=False)

    def fit(self, choices: Choices) -> Scorer:
        """Learn from some of the features of the choices that all variants share."""
        key = repr(self.learner), choices.names
        if key not in self.fits:
            self.fits[key] = self.learner.fit(choices)
        return self.fits[key]


def _remembered(learner: Learner, seed: int, fits: dict) -> _Remembered:
    learner = with_seed(learner, seed)
    if isinstance(learner, Average):
        parts = tuple(_remembered(each, learner.seed, fits) for each in learner.learners)
        learner = replace(learner, learners=parts)
    return _Remembered(learner, fits)


def with_moments(data: Dataset, clock: Clock = UTC_CLOCK) -> Dataset:
    """Return the data with the moment of each event in columns, as if it had been observed."""
    moments = describe_of(data.interactions, data.users, clock, data.own_dimensions)
    return replace(data, interactions=data.interactions.assign(**moments))


def permuted_moments(data: Dataset, seed: int) -> Dataset:
    """Shuffle the contexts of each user's events among them: a placebo.

    Who was met in which contexts stays; which item went with which context is lost. Use
    :func:`with_moments` first where contexts follow from the time.
    """
    events = data.interactions
    names = [name for name in (*DIMENSIONS, *data.own_dimensions) if name in events]
    draw = np.random.default_rng(seed).random(len(events))
    place, source = (np.lexsort((key, events["user"])) for key in (np.arange(len(events)), draw))
    shuffled = events[names].iloc[source].set_axis(events.index[place])
    return replace(data, interactions=events.assign(**shuffled.reindex(events.index)))


def measure(runs: Sequence[Run], names: Sequence[str] = ("ndcg",)) -> pd.DataFrame:
    """Measure accuracy for every request of every run.

    Parameters
    ----------
    runs : sequence of Run
    names : sequence of str
        Keys of :data:`firetv.metrics.ACCURACY`.

    Returns
    -------
    DataFrame
        Tidy: ``model, seed, split, request, user, known, metric, value``; metrics are named like
        ``ndcg@10``.
    """
    frames = []
    for each in runs:
        hits = metrics.hits_at(each.items, each.split.relevant)
        accuracy = {n: metrics.ACCURACY[n](hits, each.split.n_relevant) for n in names}
        frames.append(_tidy(each, accuracy))
    return pd.concat(frames, ignore_index=True)


def ranks(step: Step, split: Split, chunk_cells: int = 1_000_000) -> metrics.Ranks:
    """Rank everything that the requests of a split should find among all unseen candidates.

    Parameters
    ----------
    step : callable
        Scores all slots of a slate, such as a fitted model; without :func:`~firetv.slate.top`.
    split : Split
        Its training data say what was seen.
    chunk_cells : int
        Upper bound of requests x candidates scored at once.

    Returns
    -------
    firetv.metrics.Ranks
        An item that is no candidate comes behind all that are.

    Raises
    ------
    ValueError
        If the step leaves candidates out.

    Examples
    --------
    >>> from firetv.models import Popular
    >>> from firetv.splits import random_split
    >>> from firetv.synthetic import simulate
    >>> from firetv.world import World
    >>> data = Dataset.from_tables(simulate(World(users=20, content=50, watch_events=300))[0])
    >>> split = random_split(data, seed=0)
    >>> found = ranks(Popular().fit(split.train), split)
    >>> bool(np.nanmean(found.auc()) > 0.5)
    True
    """
    items, seen, found = split.candidates, split.train.matrix(), []
    size = max(1, chunk_cells // len(items))
    for first in range(0, len(split.requests), size):
        some = slice(first, first + size)
        slate = step(Slate(split.requests[some], items))
        found.append(_ranked(slate, items, seen, split.relevant[some]))
    data, n_candidates = (np.concatenate(each) for each in zip(*found, strict=True))
    held_out = (data, split.relevant.indices, split.relevant.indptr)
    return metrics.Ranks(sparse.csr_array(held_out, split.relevant.shape), n_candidates)


def _ranked(
    slate: Slate, items: np.ndarray, seen: sparse.csr_array, relevant: sparse.csr_array
) -> tuple[np.ndarray, np.ndarray]:
    """Rank of each entry of some rows of relevant items, and how many items each row ranks."""
    if slate.shape[1] != len(items):
        raise ValueError("ranks are among all candidates: leave top() out of the pipeline")
    scores, rows = slate.scores, np.arange(len(slate.users))
    scores.reshape(-1)[seen_cells(seen, slate.users, items)] = -np.inf
    row = np.repeat(rows, np.diff(relevant.indptr))
    slot = places(items, relevant.shape[1])[relevant.indices]
    value = np.where(slot >= 0, scores[row, slot], -np.inf)
    scores.sort(axis=1)
    lost = value == -np.inf
    n_ranked = len(items) - _n_below(scores, rows, np.full(len(rows), np.finfo(scores.dtype).min))
    n_ranked += np.bincount(row[lost], minlength=len(rows))
    rank = len(items) - 1 - _n_below(scores, row, value)
    return np.where(lost, n_ranked[row] - 1, rank), n_ranked


def _n_below(ordered: np.ndarray, row: np.ndarray, value: np.ndarray) -> np.ndarray:
    """How many entries of a sorted row are below a value: ``searchsorted`` with a row for each."""
    low, high = np.zeros(len(row), np.int64), np.full(len(row), ordered.shape[1])
    for _ in range(ordered.shape[1].bit_length()):
        middle = (low + high) // 2
        below = (low < high) & (ordered[row, np.minimum(middle, ordered.shape[1] - 1)] < value)
        low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
    return low


def _tidy(run: Run, measured: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """One row per metric and request of a run."""
    k, requests = run.items.shape[1], run.split.requests[["user", "known"]]
    frames = [requests.assign(metric=f"{n}@{k}", value=v) for n, v in measured.items()]
    table = pd.concat(frames).rename_axis("request").reset_index()
    table = table.assign(model=run.model, seed=run.seed, split=run.split.name)
    return table[["model", "seed", "split", "request", "user", "known", "metric", "value"]]


def measure_lists(runs: Sequence[Run]) -> pd.DataFrame:
    """Measure what accuracy does not see: novelty, diversity, popularity bias, calibration.

    Returns
    -------
    DataFrame
        As :func:`measure`. Profiles, popularity and genres are those of the training data; an item
        that nobody saw counts as seen by one user more, as all items do.
    """
    frames = []
    for each in runs:
        train, users = each.split.train, each.split.requests["user"].to_numpy()
        genre = genres(train).matrix.toarray()
        profiles = train.matrix()[users]
        probability = (train.item_counts + 1) / (train.shape[0] + 2)
        beyond = {
            "novelty": metrics.novelty(each.items, probability),
            "diversity": metrics.intra_list_diversity(each.items, genre),
            "popularity": metrics.popularity_bias(each.items, train.item_counts, profiles),
            "calibration": metrics.calibration(each.items, genre, profiles),
        }
        frames.append(_tidy(each, beyond))
    return pd.concat(frames, ignore_index=True)


def coverage(runs: Sequence[Run]) -> pd.DataFrame:
    """Share of the candidates that a model shows to anybody, the mean over its runs.

    Returns
    -------
    DataFrame
        As :func:`summarise`, without intervals: it is a property of a run, not of a user.
    """
    k = runs[0].items.shape[1]
    rows = pd.DataFrame(
        {
            "model": r.model,
            "metric": f"coverage@{k}",
            "value": metrics.catalogue_coverage(r.items, len(r.split.candidates)),
            "n": len(r.items),
        }
        for r in runs
    )
    grouped = rows.groupby(["model", "metric"], sort=False, as_index=False)
    return grouped.agg(value=("value", "mean"), n=("n", "first"), seeds=("value", "size")).assign(
        low=np.nan, high=np.nan
    )


def by_user(values: pd.DataFrame) -> pd.DataFrame:
    """Average each user's requests and seeds: one row per metric and user, a column per model."""
    order = list(dict.fromkeys(values["model"]))
    table = values.pivot_table("value", ["metric", "user"], "model", aggfunc="mean", sort=False)
    return table[order]


def by_request(values: pd.DataFrame) -> pd.DataFrame:
    """One row per metric, user and request, a column per model."""
    order = list(dict.fromkeys(values["model"]))
    index = ["metric", "user", "seed", "split", "request"]
    return values.pivot(index=index, columns="model", values="value")[order]


Unit = Literal["user", "request"]


def _intervals(
    values: pd.DataFrame, unit: Unit, seed: int, reference: str | None = None
) -> pd.DataFrame:
    """Mean of each metric and model, or of its difference to a reference, with its interval."""
    table = by_user(values) if unit == "user" else by_request(values)
    if reference is not None:
        if reference not in table:
            raise KeyError(f"{reference!r} is not among the models: {', '.join(table)}")
        table = table.drop(columns=reference).sub(table[reference], axis=0)
    rows = []
    for metric, group in table.groupby(level="metric", sort=False):
        users = group.index.get_level_values("user").to_numpy()
        for model, column in group.items():
            each = column.to_numpy()
            if unit == "user":
                interval = mean_interval(each, seed)
            else:
                interval = clustered_interval(each, users, seed)
            rows.append({"model": model, "metric": metric, **vars(interval)})
    frame = pd.DataFrame(rows)
    return frame.assign(seeds=frame["model"].map(values.groupby("model")["seed"].nunique()))


def summarise(values: pd.DataFrame, seed: int = 0, unit: Unit = "user") -> pd.DataFrame:
    """Mean of each model and metric, with a 95 % bootstrap interval over users.

    Parameters
    ----------
    values : DataFrame
        As :func:`measure` gives it.
    seed : int
        Of the bootstrap.
    unit : {"user", "request"}
        What counts once in the mean: a user, whose requests and seeds are averaged first, or a
        request. The interval resamples users in either case.

    Returns
    -------
    DataFrame
        ``model, metric, value, low, high, n`` (users) and ``seeds``.
    """
    return _intervals(values, unit, seed)


def compare(
    values: pd.DataFrame, reference: str, seed: int = 0, unit: Unit = "user"
) -> pd.DataFrame:
    """Paired differences of every model to a reference, with 95 % bootstrap intervals over users.

    Returns
    -------
    DataFrame
        As :func:`summarise`, without the reference; ``value`` is model minus reference.

    Raises
    ------
    KeyError
        If the reference is not among the models.
    """
    return _intervals(values, unit, seed, reference)
