"""Splits, and pipelines evaluated on them: ``{name: stage}`` x split -> tidy frame."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy import sparse
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from firetv import metrics
from firetv.abtest import clustered_interval, mean_interval
from firetv.data import KEYS, Dataset
from firetv.features import genres
from firetv.moments import DIMENSIONS, UTC_CLOCK, Clock, describe_of
from firetv.ranking import Learner, Ranker, answerable, user_folds
from firetv.slate import ExcludeSeen, Stage, chain, recommend, top, with_seed

OUTCOMES = ("completion", "rating", "reaction")  # columns of an event that no request knows


@dataclass(frozen=True)
class Split:
    """What may be learned from, and what must be found.

    Attributes
    ----------
    name : str
    train : Dataset
    requests : DataFrame of R rows
        One per user with something to find: ``user``, ``at`` (UTC) and ``known`` (whether the
        user has training events).
    relevant : CSR array of shape (R, n_items)
        What each request should find; pairs already seen in training are not among it. Items
        outside the candidates stay in: a title that cannot be found counts as missed.
    candidates : int array
        Item codes that may be recommended, the same for every request.
    """

    name: str
    train: Dataset
    requests: pd.DataFrame
    relevant: sparse.csr_array
    candidates: np.ndarray

    @property
    def n_relevant(self) -> np.ndarray:
        """Number of items each request should find, shape (R,)."""
        return np.diff(self.relevant.indptr)


def _split(
    name: str,
    train: Dataset,
    test: pd.DataFrame,
    candidates: np.ndarray | None = None,
    at: pd.Timestamp | None = None,
) -> Split:
    """Assemble a split from its training data and its held-out interactions.

    Raises ValueError if nothing is left to learn from or to find.
    """
    pairs = test[["user", "item"]].to_numpy().T
    held_out = sparse.csr_array((np.ones(len(test)), tuple(pairs)), shape=train.shape)
    fresh = held_out > held_out.multiply(train.matrix())
    relevant = sparse.csr_array(fresh, dtype=np.float32)
    users = np.flatnonzero(np.diff(relevant.indptr))
    first = test.groupby("user")["timestamp"].min().reindex(users)
    requests = pd.DataFrame(
        {
            "user": users.astype(np.int32),
            "at": first.to_numpy() if at is None else at,
            "known": train.user_counts[users] > 0,
        }
    )
    if candidates is None:
        candidates = np.flatnonzero(train.item_counts)
    if not (len(train.interactions) and len(requests) and len(candidates)):
        raise ValueError(
            f"the {name} split leaves {len(train.interactions)} training events, {len(requests)} "
            f"requests and {len(candidates)} candidates: use another split, or more data"
        )
    return Split(name, train, requests, relevant[users], candidates)


def temporal_split(data: Dataset, test_share: float = 0.2) -> Split:
    """Train on everything before one instant, test on everything after it.

    The only split here without a view of the future, hence the rule for claims. The instant is
    that quantile of the interactions' timestamps; every request is made at it.
    """
    cut = data.interactions["timestamp"].quantile(1 - test_share)
    test = data.interactions[data.interactions["timestamp"] >= cut]
    return _split("temporal", data.until(cut), test, at=cut)


def _masked(name: str, data: Dataset, held_out: np.ndarray, **options: np.ndarray) -> Split:
    return _split(name, data.keep(~held_out), data.interactions[held_out], **options)


def _share_of_each_user(users: np.ndarray, order: np.ndarray, train_share: float) -> np.ndarray:
    """Mark what is left after the first ``round(train_share * count)`` events of each user.

    ``order`` sorts the events; a user's count rounds half to even, as numpy does.
    """
    frame = pd.DataFrame({"user": users[order]})
    group = frame.groupby("user")["user"]
    late = group.cumcount() >= np.round(train_share * group.transform("size"))
    held_out = np.empty(len(users), bool)
    held_out[order] = late.to_numpy()
    return held_out


def random_split(data: Dataset, seed: int, test_share: float = 0.25) -> Split:
    """Hold out a random share of each user's events. It leaks the future: not for claims."""
    users = data.interactions["user"].to_numpy()
    order = np.lexsort((np.random.default_rng(seed).random(len(users)), users))
    held_out = _share_of_each_user(users, order, 1 - test_share)
    return _masked("random", data, held_out)


def published_split(data: Dataset) -> Split:
    """Rebuild the split of the Recommenders project's MovieLens benchmark.

    Sort by user and by ``numpy.random.seed(42); numpy.random.rand(n)`` drawn in file order; the
    first ``round(0.75 * count)`` ratings of each user train, the rest test.
    """
    users = data.interactions["user"].to_numpy()
    draw = np.random.RandomState(42).rand(len(users))  # the published stream, hence not Generator
    held_out = _share_of_each_user(users, np.lexsort((draw, users)), 0.75)
    return _masked("published", data, held_out)


def leave_last_out(data: Dataset) -> Split:
    """Hold out each user's last event; users with a single event keep it."""
    events = data.interactions
    order = np.lexsort((events["timestamp"].to_numpy(), events["user"].to_numpy()))
    users = events["user"].to_numpy()[order]
    last = np.append(users[1:] != users[:-1], True) & np.append(False, users[1:] == users[:-1])
    held_out = np.zeros(len(events), bool)
    held_out[order] = last
    return _masked("leave-last-out", data, held_out)


def user_kfold(
    data: Dataset, seed: int, folds: int = 5, test_share: float = 0.25
) -> Iterator[Split]:
    """Yield one split per fold of users: a share of those users' events is held out.

    Everybody else's events train in full, as in LensKit's user-based cross-validation.
    """
    users = data.interactions["user"].to_numpy()
    rng = np.random.default_rng(seed)
    fold = rng.permutation(data.shape[0]) % folds
    order = np.lexsort((rng.random(len(users)), users))
    late = _share_of_each_user(users, order, 1 - test_share)
    for number in range(folds):
        yield _masked(f"user-fold-{number}", data, late & (fold[users] == number))


def each_event(name: str, train: Dataset, events: pd.DataFrame, *, missed: bool = False) -> Split:
    """Ask for every held-out event on its own, in its own context.

    Parameters
    ----------
    name : str
    train : Dataset
    events : DataFrame
        Held-out rows of the interactions, with whatever context was observed.
    missed : bool
        Whether to ask, in vain, for items that no model can find either, being unknown to training
        or seen there by the user.

    Returns
    -------
    Split
        A request for each event: ``user``, ``at``, ``known`` and the columns of `events`, but for
        what came of them. Where `missed`, an item that the user has seen is relevant. Intervals
        over users still treat a user's requests as one witness.
    """
    events = events if missed else answerable(events, train)
    user, item = events["user"].to_numpy(), events["item"].to_numpy()
    requests = events.drop(columns=["item", *OUTCOMES], errors="ignore")
    requests = requests.rename(columns={"timestamp": "at"})
    requests = requests.assign(known=train.user_counts[user] > 0).reset_index(drop=True)
    place = (np.arange(len(events)), item)
    shape = (len(events), train.shape[1])
    relevant = sparse.csr_array((np.ones(len(events), np.float32), place), shape=shape)
    return Split(name, train, requests, relevant, np.flatnonzero(train.item_counts))


def event_folds(
    data: Dataset, seed: int, folds: int = 5, least_rating: float = 0, *, missed: bool = False
) -> Iterator[Split]:
    """Yield one split per fold of events, every user's events dealt evenly to the folds.

    Parameters
    ----------
    data : Dataset
    seed : int
    folds : int
    least_rating : float
        Where above 0, only held-out events that were rated then, and not worse, are asked for.
    missed : bool
        See :func:`each_event`.
    """
    fold = user_folds(data.interactions["user"].to_numpy(), folds, np.random.default_rng(seed))
    liked = np.ones(len(fold), bool)
    if least_rating:
        good = data.reactions[data.reactions["rating"] >= least_rating]
        key = pd.MultiIndex.from_frame(data.interactions[list(KEYS)])
        liked = key.isin(pd.MultiIndex.from_frame(good[list(KEYS)]))
    for number in range(folds):
        held_out = data.interactions[(fold == number) & liked]
        train = data.keep(fold != number)
        yield each_event(f"event-fold-{number}", train, held_out, missed=missed)


def cold_users(data: Dataset, seed: int, share: float = 0.2) -> Split:
    """Hold out all events of a random share of users: only their profile is known."""
    rng = np.random.default_rng(seed)
    return _cold("user", data, rng.permutation(data.shape[0]) < share * data.shape[0])


def cold_items(data: Dataset, seed: int, share: float = 0.2) -> Split:
    """Hold out all events of a random share of items; only these are candidates."""
    rng = np.random.default_rng(seed)
    cold = rng.permutation(data.shape[1]) < share * data.shape[1]
    return _cold("item", data, cold, candidates=np.flatnonzero(cold))


def _cold(side: str, data: Dataset, cold: np.ndarray, **options: np.ndarray) -> Split:
    """Hide every trace of the marked users or items, reactions without a viewing included."""
    quiet = replace(data, reactions=data.reactions[~cold[data.reactions[side]]])
    return _masked(f"cold-{side}s", quiet, cold[data.interactions[side]], **options)


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
    # Last first: tables end with the costly models, and none of them should be left to run alone.
    with threadpool_limits(1, "blas"):
        backend = "loky" if processes else "threading"
        jobs = Parallel(n_jobs, backend=backend, return_as="generator")(reversed(work))
        runs = list(tqdm(jobs, total=len(work), desc=splits[0].name))
    return runs[::-1]


@dataclass(frozen=True)
class Variant:
    """A combination to compare: a learner, and the features it may use, by how their names begin.

    Examples
    --------
    >>> from firetv.ranking import Logit
    >>> Variant(Logit(), ("ease", "context:")).chosen(["ease", "knn", "context:weather/item"])
    ['ease', 'context:weather/item']
    """

    learner: Learner
    use: tuple[str, ...]

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
        Processes; results do not depend on the number.

    Returns
    -------
    list of Run
        Their ``fit_seconds`` leave out the features, which all variants share.
    """
    work = [
        delayed(_run_variants)(ranker, variants, split, seed, k)
        for split, seed in zip(splits, seeds, strict=True)
    ]
    jobs = Parallel(n_jobs, return_as="generator")(work)
    return [each for found in tqdm(jobs, total=len(work), desc="splits") for each in found]


def _run_variants(
    ranker: Ranker, variants: Mapping[str, Variant], split: Split, seed: int, k: int
) -> list[Run]:
    with threadpool_limits(1, "blas"):
        prepared = replace(ranker, seed=seed).prepare(split.train)
        names = prepared.choices.names
        runs = []
        for name, variant in variants.items():
            start = time.perf_counter()
            step = prepared.learn(with_seed(variant.learner, seed), variant.chosen(names))
            seconds = time.perf_counter() - start
            runs.append(replace(run(name, step, split, seed, k), fit_seconds=seconds))
        return runs


def with_moments(data: Dataset, clock: Clock = UTC_CLOCK) -> Dataset:
    """Return the data with the moment of each event in columns, as if it had been observed."""
    moments = describe_of(data.interactions, data.users, clock)
    return replace(data, interactions=data.interactions.assign(**moments))


def permuted_moments(data: Dataset, seed: int) -> Dataset:
    """Shuffle the contexts of each user's events among them: a placebo.

    Who was met in which contexts stays; which item went with which context is lost. Use
    :func:`with_moments` first where contexts follow from the time.
    """
    events = data.interactions
    names = [name for name in DIMENSIONS if name in events]
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
