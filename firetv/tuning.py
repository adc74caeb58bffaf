"""Hyperparameters of base models: searched on a validation part, kept in a file.

The last part of the data in time is cut off first, for whoever tests what was found; a study learns
from the rest without a part of its own, and asks for that. :func:`tune` makes trials until a study
holds enough of them, :func:`~firetv.packaged.read_parameters` turns its result into a stage.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import optuna
import pandas as pd
from implicit.recommender_base import ModelFitError
from joblib import Parallel, delayed
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from firetv.abtest import Interval
from firetv.data import Dataset
from firetv.evaluate import compare, measure, run, summarise
from firetv.metrics import ACCURACY
from firetv.packaged import MODELS, packaged_values, stage_of
from firetv.published import checksum
from firetv.schema import DataError, Problem
from firetv.splits import Split, published_split, random_split, temporal_split

UNWEIGHED = {
    "rating_power": 0.0,
    "half_life": 10_000.0,
}  # what a search begins with: none to speak of

_EITHER = CategoricalDistribution((False, True))
_WEIGHTS: Mapping[str, BaseDistribution] = {
    "rating_power": FloatDistribution(0, 2),
    "half_life": FloatDistribution(20, 10_000, log=True),
}
SPACES: Mapping[str, Mapping[str, BaseDistribution]] = {
    "lightfm": {
        "components": IntDistribution(16, 64, log=True),
        "loss": CategoricalDistribution(("warp", "bpr", "logistic", "warp-kos")),
        "schedule": CategoricalDistribution(("adagrad", "adadelta")),
        "learning_rate": FloatDistribution(0.01, 0.1, log=True),
        "epochs": IntDistribution(10, 45),
        "max_sampled": IntDistribution(3, 20, log=True),
        "user_reg": FloatDistribution(1e-5, 1e-2, log=True),
        "item_reg": FloatDistribution(1e-5, 1e-2, log=True),
        "use_user_features": _EITHER,
        "use_item_features": _EITHER,
        "feature_weight": FloatDistribution(0.1, 3, log=True),
        **_WEIGHTS,
    },
    "ease": {
        "reg": FloatDistribution(1, 5000, log=True),
        "use_item_features": _EITHER,
        "feature_weight": FloatDistribution(0.1, 10, log=True),
        "activity": FloatDistribution(0, 1),
        **_WEIGHTS,
    },
    "als": {
        "components": IntDistribution(8, 128, log=True),
        "reg": FloatDistribution(0.1, 200, log=True),
        "alpha": FloatDistribution(0.5, 40, log=True),
        "epochs": IntDistribution(5, 30),
        "use_item_features": _EITHER,
        "use_user_features": _EITHER,
        "feature_weight": FloatDistribution(0.1, 10, log=True),
        **_WEIGHTS,
    },
    "bpr": {
        "components": IntDistribution(8, 128, log=True),
        "learning_rate": FloatDistribution(0.002, 0.2, log=True),
        "reg": FloatDistribution(1e-4, 0.1, log=True),
        "epochs": IntDistribution(10, 100),
    },
    "itemknn": {
        "neighbours": IntDistribution(5, 500, log=True),
        "weighting": CategoricalDistribution(("cosine", "tfidf", "bm25")),
        **_WEIGHTS,
    },
}
"""What is searched: fields of the models and of their weights, with ranges that hold the defaults.

implicit's BPR takes no weights."""

ENOUGH = 20  # trials, from where the best quarter says which parameters matter
STUDY = "firetv"  # the study's name in its file
HEADER = b"SQLite format 3\0"
PROTOCOLS = ("temporal", "published")
DIVERGED = (ValueError, ArithmeticError, ModelFitError)  # how models say that a fit came to nothing


# What is asked


def defaults(model: str) -> dict[str, Any]:
    """What a search of a model begins with."""
    return {name: UNWEIGHED.get(name, getattr(MODELS[model], name, None)) for name in SPACES[model]}


@dataclass(frozen=True)
class Search:
    """What a study asks: a study goes on only with the same search on the same data.

    Attributes
    ----------
    model : str
        Key of :data:`~firetv.packaged.MODELS`.
    metric : str
        Key of :data:`firetv.metrics.ACCURACY`.
    k : int
        Length of the lists.
    seeds : int
        Seeds of the model, from `seed` on, whose values are averaged for each user.
    test_share : float
        Last part of the events, which is cut off.
    validation_share : float
        Part of what is left that must be found.
    protocol : {"temporal", "published"}
        Whether the last events of what is left must be found, or a random share of each user's,
        another one with each seed; then what is test in :func:`~firetv.splits.published_split` is
        cut off as well.
    seed : int
        Of suggestions, models and intervals.

    Raises
    ------
    DataError
        If a name is unknown, or a number makes no sense.
    """

    model: str = "lightfm"
    metric: str = "ndcg"
    k: int = 10
    seeds: int = 1
    test_share: float = 0.2
    validation_share: float = 0.2
    protocol: Literal["temporal", "published"] = "temporal"
    seed: int = 0

    def __post_init__(self) -> None:
        share = "Give a share between 0 and 1."
        checks = {
            "model": (self.model in MODELS, f"Use one of {', '.join(MODELS)}."),
            "metric": (self.metric in ACCURACY, f"Use one of {', '.join(ACCURACY)}."),
            "k": (self.k >= 1, "Give 1 or more."),
            "seeds": (self.seeds >= 1, "Give 1 or more."),
            "test_share": (0 < self.test_share < 1, share),
            "validation_share": (0 < self.validation_share < 1, share),
            "protocol": (self.protocol in PROTOCOLS, f"Use {' or '.join(PROTOCOLS)}."),
        }
        problems = [
            Problem(name, "", f"cannot be {getattr(self, name)!r}", remedy)
            for name, (fits, remedy) in checks.items()
            if not fits
        ]
        if problems:
            raise DataError(*problems)

    @property
    def space(self) -> Mapping[str, BaseDistribution]:
        """What may be suggested for each hyperparameter."""
        return SPACES[self.model]

    @property
    def defaults(self) -> dict[str, Any]:
        """The values of what is searched that the models have by themselves."""
        return defaults(self.model)

    @property
    def packaged(self) -> dict[str, Any]:
        """The values that were found on MovieLens-100K and are packaged."""
        return packaged_values(self.model)

    def seen(self, data: Dataset) -> Dataset:
        """What trials may look at: nothing of a test part."""
        later = temporal_split(data, self.test_share)
        if self.protocol == "temporal":
            return later.train
        return published_split(data).train.until(later.requests["at"].iloc[0])

    def splits(self, data: Dataset) -> list[Split]:
        """For each seed of the model, what is learned from and what must be found."""
        seen, share = self.seen(data), self.validation_share
        if self.protocol == "temporal":
            splits = [temporal_split(seen, share)] * self.seeds
        else:
            splits = [random_split(seen, self.seed + n, share) for n in range(self.seeds)]
        return [replace(split, name="validation") for split in splits]

    def measure(
        self, trials: Mapping[str, Mapping[str, Any]], splits: Sequence[Split]
    ) -> pd.DataFrame:
        """Values of some hyperparameters, given by name, for every request and seed."""
        runs = [
            run(name, stage_of(self.model, parameters), split, self.seed + number, self.k)
            for name, parameters in trials.items()
            for number, split in enumerate(splits)
        ]
        return measure(runs, [self.metric])


@dataclass(frozen=True)
class Tuned:
    """The best trial of a study, beside the defaults of the model.

    Attributes
    ----------
    search : Search
    parameters : mapping of str to value
        Of the best trial; where trials are equally good, of the first of them.
    best, defaults : Interval
        Means over users of the validation part. The best of many trials is better there than it
        will be elsewhere: only the test part, which no trial saw, can say how good it is.
    difference : Interval
        Best minus defaults, paired by user; as optimistic.
    trials : int
        Finished ones.
    importances : mapping of str to float
        How much each parameter decides whether a trial is among the best quarter, as shares, the
        greatest first (PED-ANOVA; Watanabe et al. 2023). Empty where trials are too few to say.
    data : mapping
        ``name``, ``checksum`` and ``rows`` of what the study saw: the test part is not among it.
    history : sequence of mappings
        ``parameters`` and ``value`` of each finished trial, in their order.
    """

    search: Search
    parameters: Mapping[str, Any]
    best: Interval
    defaults: Interval
    difference: Interval
    trials: int
    importances: Mapping[str, float]
    data: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]

    def document(self) -> dict[str, Any]:
        """Return all of it as plain values, for :func:`~firetv.packaged.read_parameters`."""
        best, defaults, difference = (
            {name: value for name, value in vars(each).items() if name != "n"}
            for each in (self.best, self.defaults, self.difference)
        )
        return {
            "model": self.search.model,
            "parameters": dict(self.parameters),
            "metric": self.search.metric,
            "k": self.search.k,
            **best,
            "defaults": {"parameters": self.search.defaults, **defaults},
            "difference": difference,
            "note": "validation part: optimistic for the best of many trials",
            "users": self.best.n,
            "trials": self.trials,
            "importances": dict(self.importances),
            "data": dict(self.data),
            "split": {
                "protocol": self.search.protocol,
                "test_share": self.search.test_share,
                "validation_share": self.search.validation_share,
            },
            "seeds": self.search.seeds,
            "seed": self.search.seed,
            "history": list(self.history),
        }


# Trials


def tune(data: Dataset, search: Search, file: Path, trials: int = 30, jobs: int = 1) -> Tuned:
    """Make trials until a study holds enough finished ones, and compare its best to the defaults.

    The first trial is that of the defaults, the second that of the packaged values. A fit that
    comes to nothing, because the learning rate is too high for instance, counts as a trial that
    found nothing.

    Parameters
    ----------
    data : Dataset
        Its test part is cut off and not looked at.
    search : Search
    file : Path
        The study: made if it is not there, gone on with if it is. What a killed run left unfinished
        is marked as failed and does not count.
    trials : int
        Finished trials in all, those of earlier runs included.
    jobs : int
        Trials side by side, in threads.

    Returns
    -------
    Tuned

    Raises
    ------
    DataError
        If the file is no study, is one of other data or of another search, cannot be written, or
        is at work in another run.
    ValueError
        If there are fewer than 1 trials or jobs, if a part of the data is empty, or if the
        defaults cannot be fitted.

    Notes
    -----
    The sampler of each trial is new and has a seed of its own, made of the search's and the number
    of finished trials, and knows what the file holds: 10 trials and later 20 more are the same as
    30 in one go. With several jobs, trials come in batches that are suggested together, none
    knowing the results of the others; the same number of jobs repeats the same trials, another
    number gives others, and a run that ends within a batch changes those after it.

    A progress bar goes to stderr, unless the environment sets ``TQDM_DISABLE=1``.
    """
    if trials < 1 or jobs < 1:
        raise ValueError(f"{trials} trials and {jobs} jobs: give at least 1 of each")
    splits = search.splits(data)
    facts = _facts(data, search)
    with _opened(file) as study, threadpool_limits(1, "blas"):
        _claim(study, _settings(search, facts), file)
        found = _finished(study)
        with tqdm(total=trials, initial=min(len(found), trials), desc=search.model) as bar:
            while len(found) < trials:
                size = min(jobs - len(found) % jobs, trials - len(found))
                _try(study, search, splits, range(len(found), len(found) + size), file)
                found = _finished(study)
                bar.set_postfix(best=f"{_best(found).value:.4f}", refresh=False)
                bar.update(size)
        return _summary(study, search, splits, facts)


def _facts(data: Dataset, search: Search) -> dict[str, Any]:
    """Name, checksum and rows of what a study sees of the data."""
    seen = search.seen(data)
    return {
        "name": data.manifest.get("name", "data"),
        "checksum": checksum(seen.interactions, seen.reactions, seen.users, seen.content),
        "rows": len(seen.interactions),
    }


def _settings(search: Search, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same for a study to go on, as JSON gives it back."""
    space = {name: distribution_to_json(each) for name, each in search.space.items()}
    settings = asdict(search) | {"data": facts, "space": space, "defaults": search.defaults}
    return json.loads(json.dumps(settings))


def _try(
    study: optuna.Study, search: Search, splits: Sequence[Split], places: range, file: Path
) -> None:
    """Make a batch of trials, whose places count from the first finished trial of the study."""
    if study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        raise _in_use(file)
    batch = [_suggested(study, search, place) for place in places]
    work = [
        delayed(_outcome)(search, splits, trial.params, place)
        for trial, place in zip(batch, places, strict=True)
    ]
    outcomes = Parallel(len(batch), backend="threading")(work)
    for trial, (interval, failure) in zip(batch, outcomes, strict=True):
        trial.set_user_attr("low", interval.low)
        trial.set_user_attr("high", interval.high)
        if failure:
            trial.set_user_attr("failure", failure)
        study.tell(trial, interval.value)


def _suggested(study: optuna.Study, search: Search, place: int) -> Trial:
    """Begin the trial of a place: known values come first, then whatever the sampler suggests."""
    first = (search.defaults, search.packaged)
    if place < len(first) and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial(first[place])
    seed = np.random.SeedSequence([search.seed, place]).generate_state(1)[0]
    study.sampler = TPESampler(seed=int(seed))
    return study.ask(dict(search.space))


def _outcome(
    search: Search, splits: Sequence[Split], parameters: Mapping[str, Any], place: int
) -> tuple[Interval, str]:
    """Mean over users with its interval, and what went wrong with the fit."""
    try:
        values = search.measure({"trial": parameters}, splits)
    except DIVERGED as error:
        if place == 0:  # then it is not the hyperparameters that are to blame
            what = f"{search.model} cannot be fitted with its defaults: {error}"
            raise ValueError(what) from error
        return Interval(0.0, 0.0, 0.0, len(splits[0].requests)), str(error)
    return _intervals(summarise(values, search.seed))["trial"], ""


def _intervals(table: pd.DataFrame) -> dict[str, Interval]:
    """Intervals of a table of results, by model."""
    return {
        row.model: Interval(float(row.value), float(row.low), float(row.high), int(row.n))
        for row in table.itertuples()
    }


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _best(found: Sequence[FrozenTrial]) -> FrozenTrial:
    return max(found, key=lambda trial: (trial.value, -trial.number))


def _summary(
    study: optuna.Study, search: Search, splits: Sequence[Split], facts: Mapping[str, Any]
) -> Tuned:
    """Compare the best trial to the defaults, both of them fitted again: models repeat exactly."""
    found = _finished(study)
    parameters = {name: _best(found).params[name] for name in search.space}
    values = search.measure({"defaults": search.defaults, "best": parameters}, splits)
    means = _intervals(summarise(values, search.seed))
    return Tuned(
        search,
        parameters,
        best=means["best"],
        defaults=means["defaults"],
        difference=_intervals(compare(values, "defaults", search.seed))["best"],
        trials=len(found),
        importances=_importances(study, search) if len(found) >= ENOUGH else {},
        data=facts,
        history=[{"parameters": each.params, "value": each.value} for each in found],
    )


def _importances(study: optuna.Study, search: Search) -> dict[str, float]:
    """Shares of the parameters; none where there is only one, or where all trials are alike."""
    if len(search.space) < 2:
        return {}
    evaluator = PedAnovaImportanceEvaluator(target_quantile=0.25)
    shares = get_param_importances(study, evaluator=evaluator, params=list(search.space))
    return shares if sum(shares.values()) else {}


# The file


@contextmanager
def _opened(file: Path) -> Iterator[optuna.Study]:
    """Open the study of a file, made if need be.

    SQLite, and not Optuna's journal: of a process that was killed it keeps neither half a line,
    which no journal can be read beyond, nor a lock that others have to wait for. Optuna pickles
    nothing in it, and its dashboard reads it.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _check_file(file)
    try:
        storage = RDBStorage(f"sqlite:///{quote(str(file))}")
    except RuntimeError as error:  # written by another Optuna
        raise _unusable(file, error) from error
    try:
        if {study.study_name for study in storage.get_all_studies()} - {STUDY}:
            raise _foreign(file)
        yield optuna.create_study(
            study_name=STUDY, storage=storage, direction="maximize", load_if_exists=True
        )
    except UpdateFinishedTrialError as error:  # another run took ours for one that was left behind
        raise _in_use(file) from error
    except OptunaError as error:
        raise _unusable(file, error.__cause__ or error) from error
    finally:
        storage.engine.dispose()


def _check_file(file: Path) -> None:
    """Refuse what cannot be written, and another file, into which Optuna would put its tables."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_dir():
        raise _foreign(file)
    if file.is_file() and file.stat().st_size:
        with file.open("rb") as opened:
            if opened.read(len(HEADER)) != HEADER:
                raise _foreign(file)
    try:
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise _unusable(file, error) from error
    if state != "ok":
        raise _unusable(file, ValueError(state))
    if tables and "studies" not in tables:
        raise _foreign(file)


def _claim(study: optuna.Study, settings: Mapping[str, Any], file: Path) -> None:
    """Refuse a study of something else, and give up what a killed run left unfinished."""
    known = study.user_attrs.get("settings")
    if known is None:
        if study.get_trials(deepcopy=False):
            raise _foreign(file)
        study.set_user_attr("settings", settings)
    elif known != settings:
        raise _other(known, settings, file)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def _other(known: Mapping[str, Any], asked: Mapping[str, Any], file: Path) -> DataError:
    """Say in what a study differs from what is asked."""
    different = [name for name in asked if known.get(name) != asked[name]]
    long = {"data": "other data", "space": "another search space", "defaults": "other defaults"}
    told = [long.get(name) or f"{name} {known.get(name)}, not {asked[name]}" for name in different]
    remedy = "Name another file, or remove this one."
    return DataError(Problem(str(file), "", f"is a study with {'; '.join(told)}", remedy))


def _foreign(file: Path) -> DataError:
    return DataError(Problem(str(file), "", "is not a study of firetv", "Name another file."))


def _unusable(file: Path, error: BaseException) -> DataError:
    what = f"cannot be used as a study: {str(error).splitlines()[0]}"
    return DataError(Problem(str(file), "", what, "Name another file, or see who else uses it."))


def _in_use(file: Path) -> DataError:
    remedy = "Let that one end, then run again."
    return DataError(Problem(str(file), "", "is at work in another run", remedy))
