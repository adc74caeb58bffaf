"""What households watched: which of a hundred titles, asked as published and without its leaks.

The protocol of Cao et al. (2018): each title that a household watched later stands against sampled
ones. A household is also a user, whose id is the group's, with a history of its own: its *row*.
As published, many of the titles to be found stand in that very history, as do some of the others,
so that nothing seen may be left out (:func:`published`). :func:`clean` takes both away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy import sparse

from firetv.choices import Choices
from firetv.data import Dataset
from firetv.groups import ForGroups
from firetv.metrics import against_negatives
from firetv.opinions import Scale
from firetv.panels import Seats, Strategy, seats
from firetv.ranking import Learner, Linear, Logit, Scorer, fit_each, standardised
from firetv.slate import EMPTY, Slate, Stage, Step, best, cells, chain, with_seed

Who = Literal["members", "row", "members + row"]
CHUNK_GROUPS = 256  # whose candidates are described at once
SUMMARIES = ("mean", "least", "most", "row")  # of opinions, by which a household is described


@dataclass(frozen=True)
class Questions:
    """Of some candidates, what did each household watch.

    Attributes
    ----------
    train : Dataset
        What may be learned from.
    row : int64 array of shape (P,)
        User code of the household's own row.
    items : int64 array of shape (P, K)
        Candidates in an order that means nothing; :data:`~firetv.slate.EMPTY` where one is left
        out.
    watched : int64 array of shape (P,)
        The candidate that is to be found.
    known : bool array of shape (P,)
        Whether the household watched it in training already.
    """

    train: Dataset
    row: np.ndarray
    items: np.ndarray
    watched: np.ndarray
    known: np.ndarray

    def slate(self, who: Who = "members") -> Slate:
        """A request for each question, of the members, of their household's row, or of both."""
        people = household_members(self.train)
        counted = {
            "members": lambda row: people[row],
            "row": lambda row: (row,),
            "members + row": lambda row: (*people[row], row),
        }[who]
        members = {row: counted(row) for row in np.unique(self.row).tolist()}
        return Slate(
            pd.DataFrame({"members": [members[row] for row in self.row.tolist()]}), self.items
        )

    def placebo(self, seed: int) -> Slate:
        """The requests with the members of another household, drawn at random."""
        slate, people = self.slate("members"), household_members(self.train)
        order = np.random.default_rng(seed).permutation(np.unique(self.row))
        other = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
        dealt = [people[other[row]] for row in self.row.tolist()]
        return replace(slate, requests=slate.requests.assign(members=dealt))


def household_members(data: Dataset) -> dict[int, tuple[int, ...]]:
    """Members of each household, by the code of its row.

    Raises
    ------
    ValueError
        If the data has no groups, or one that is not a user.
    """
    if data.groups is None:
        raise ValueError("the data has no groups")
    rows = data.user_ids.get_indexer(data.groups["group_id"])
    if (rows < 0).any():
        raise ValueError(f"{(rows < 0).sum()} members are of groups that are no users themselves")
    people = data.groups["user"].groupby(rows).agg(tuple)
    return {row: tuple(map(int, members)) for row, members in people.items()}


def published(
    data: Dataset, row: np.ndarray, watched: np.ndarray, others: np.ndarray, seed: int
) -> Questions:
    """Questions as they are published: all training data, all candidates.

    Parameters
    ----------
    data : Dataset
    row, watched : int arrays of shape (P,)
        Code of each household's row, and of what it watched.
    others : int array of shape (P, n)
        Candidates beside it; where this is what was watched, it is left out.
    seed : int
        Of the order of the candidates.
    """
    others = np.where(others == watched[:, None], EMPTY, others)
    items = np.random.default_rng(seed).permuted(np.column_stack([watched, others]), axis=1)
    known = ever_watched(data)[row, watched] > 0
    return Questions(data, row, items, watched, np.asarray(known).ravel())


def clean(
    data: Dataset, row: np.ndarray, watched: np.ndarray, others: np.ndarray, seed: int
) -> Questions:
    """The same questions without their leaks.

    What is to be found is no training event of the household nor of its members, and none of the
    other candidates was watched by any of them in training.
    """
    return unseen(without(data, row, watched), row, watched, others, seed)


def unseen(
    train: Dataset, row: np.ndarray, watched: np.ndarray, others: np.ndarray, seed: int
) -> Questions:
    """Questions whose other candidates were watched by nobody of the household in training.

    Parameters
    ----------
    train : Dataset
        Where what is to be found came later: :func:`clean` takes it out of data where it did not.
    row, watched : int arrays of shape (P,)
        See :func:`published`.
    others : int array of shape (P, n), or (n,)
        Candidates beside each, or beside all of them.
    seed : int
        Of the order of the candidates.
    """
    seen = cells(ever_watched(train), row, others) > 0
    return published(train, row, watched, np.where(seen, EMPTY, others), seed)


def validation(
    data: Dataset,
    seed: int,
    each: int | None = 5,
    share: float = 1.0,
    others: int = 100,
    spare: Sequence[np.ndarray] = (),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw questions from training events, to choose by, or to learn from.

    Parameters
    ----------
    data : Dataset
    seed : int
    each : int, optional
        Titles of each household, at most; all by default of None.
    share : float
        Of what it watched, at random, 0..1.
    others : int
        Candidates drawn beside each, of the whole catalogue.
    spare : two int arrays, optional
        Rows and titles that are not to be drawn: those of the test.

    Returns
    -------
    row, watched : int64 arrays of shape (P,)
    others : int64 array of shape (P, n)
    """
    rng = np.random.default_rng(seed)
    rows = np.array(sorted(household_members(data)))
    history = data.matrix()[rows].tocoo()
    pairs = pd.DataFrame({"row": rows[history.row], "watched": history.col.astype(np.int64)})
    if len(spare):
        taken = pd.MultiIndex.from_arrays(spare)
        pairs = pairs[~pd.MultiIndex.from_frame(pairs).isin(taken)]
    pairs = pairs.sample(frac=share, random_state=rng)
    if each is not None:
        pairs = pairs.groupby("row").head(each)
    row, watched = pairs["row"].to_numpy(), pairs["watched"].to_numpy()
    return row, watched, rng.integers(data.shape[1], size=(len(row), others))


def without(data: Dataset, row: np.ndarray, watched: np.ndarray) -> Dataset:
    """Return the data without some titles in the history of a household and of its members."""
    people = household_members(data)
    sizes = [1 + len(people[own]) for own in row.tolist()]
    users = [user for own in row.tolist() for user in (own, *people[own])]
    hidden = np.array(users, np.int64) * data.shape[1] + np.repeat(watched, sizes)
    events = data.interactions
    pairs = events["user"].to_numpy(np.int64) * data.shape[1] + events["item"].to_numpy()
    return data.keep(~np.isin(pairs, hidden))


def ever_watched(data: Dataset) -> sparse.csr_array:
    """What a household or any of its members watched, in the row of the household, CSR."""
    people = household_members(data)
    pairs = [(own, each) for own, members in people.items() for each in (own, *members)]
    joined = sparse.csr_array((np.ones(len(pairs)), tuple(zip(*pairs, strict=True))))
    joined.resize((data.shape[0], data.shape[0]))
    return sparse.csr_array(joined @ data.matrix())


def measure_answers(
    model: str,
    answers: Slate,
    questions: Questions,
    split: str,
    seed: int = 0,
    at: Sequence[int] = (5, 10),
) -> pd.DataFrame:
    """Hit rate and nDCG of each question, ties in expectation.

    Parameters
    ----------
    model, split : str
    answers : Slate
        All candidates of each question, with their scores, or the best of them.
    questions : Questions
    seed : int
    at : sequence of int
        Lengths of list to measure.

    Returns
    -------
    DataFrame
        As :func:`firetv.evaluate.measure` gives it; ``user`` is the household's row, and ``known``
        whether it had watched the title in training.
    """
    # What was watched first, as the metric wants it.
    order = np.argsort(answers.grid != questions.watched[:, None], axis=1, kind="stable")
    scores = np.take_along_axis(answers.scores, order, axis=1)
    grid = np.take_along_axis(answers.grid, order, axis=1)
    held = grid != EMPTY
    held[:, 0] = grid[:, 0] == questions.watched  # a miss where it was not answered
    frames = []
    for k in at:
        for name, values in against_negatives(scores, k, held).items():
            frames.append(pd.DataFrame({"metric": f"{name}@{k}", "value": values}))
    table = pd.concat(frames).rename_axis("request").reset_index()
    index = table["request"].to_numpy()
    return table.assign(
        model=model,
        seed=seed,
        split=split,
        user=questions.row[index],
        known=questions.known[index],
    )[["model", "seed", "split", "request", "user", "known", "metric", "value"]]


def ask_groups(
    name: str,
    model: Stage,
    questions: Questions,
    strategies: Sequence[tuple[Scale, Mapping[str, Strategy]]],
    split: str,
    seed: int,
    at: Sequence[int] = (5, 10),
    k: int | None = None,
) -> pd.DataFrame:
    """Answer questions by a model and every way to make one list for a household.

    Parameters
    ----------
    name : str
        Of the model.
    model : Stage
    questions : Questions
    strategies : sequence of pairs
        A scale, and strategies on its opinions, by name. One of them must be ``Average``. The first
        scale must be one that learns nothing.
    split : str
    seed : int
        Of the model.
    at : sequence of int
        Lengths of list to measure.
    k : int, optional
        Length of the lists that are made; all candidates by default.

    Returns
    -------
    DataFrame
        See :func:`measure_answers`. Models are such as ``ALS, Borda``: the members' opinions, by a
        strategy; ``ALS, row`` and ``ALS, members + row``: that of the household's row, alone or
        averaged with the members'; and ``ALS, placebo``: the average of another household's.
    """
    k = questions.items.shape[1] if k is None else k
    members, placebo = questions.slate("members"), questions.placebo(seed)
    step = ForGroups(model, scale=strategies[0][0], unseen="off", k=k, seed=seed)
    step, found = step.fit(questions.train), {"row": None}
    for scale, own in strategies:
        learned = with_seed(scale, seed).fit_after(chain(with_seed(model, seed)), questions.train)
        scaled = replace(step, scale=learned)
        found |= scaled.lists(members, own)
        if "Average" in own:
            average = {"": own["Average"]}
            found["members + row"] = scaled.lists(questions.slate("members + row"), average)[""]
            found["placebo"] = scaled.lists(placebo, average)[""]
    found["row"] = step(questions.slate("row"))
    frames = [
        measure_answers(f"{name}, {way}", answers, questions, split, seed, at)
        for way, answers in found.items()
    ]
    return pd.concat(frames, ignore_index=True)


def watched_twice_last(answers: Slate, questions: Questions) -> Slate:
    """Put titles last that stand more than once in a household's own history, and all else first.

    They were watched by several members. What is to be found is hardly ever there more than once,
    in a household of two never, since one of its viewings is the test: this is a leak of the
    published protocol, and no model.
    """
    rows, columns = (questions.train.interactions[name].to_numpy() for name in ("user", "item"))
    times = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=questions.train.shape)
    twice = cells(times, questions.row, answers.items) > 1
    beyond = np.float32(1 + 2 * np.abs(answers.scores[answers.grid != EMPTY]).max(initial=0))
    return answers.add("watched twice", np.where(twice, -beyond, 0))


@dataclass(frozen=True)
class LearnedAggregation:
    """How much several models' opinions count, learned from what households watched.

    Each model describes a candidate by its members' mean, least and most opinion, and by that of
    the household's row, all standardised over the candidates. Learned from titles held out of the
    histories of households and members alike, by models that have not seen them.

    Attributes
    ----------
    models : mapping of str to Stage
    learner : Learner
    share : float
        Of what households watched, held out to learn from.
    others : int
        Candidates drawn beside each title.
    unseen : bool
        Whether to learn from candidates that nobody of the household has seen, as in :func:`clean`.
    seed : int
    """

    models: Mapping[str, Stage]
    learner: Learner = field(default_factory=Logit)
    share: float = 0.1
    others: int = 100
    unseen: bool = True
    seed: int = 0

    def fit(self, data: Dataset) -> Step:
        """Learn from held-out titles, and fit the models on all of the data."""
        drawn = validation(data, self.seed, None, self.share, self.others)
        if self.unseen:
            questions = clean(data, *drawn, self.seed)
        else:
            questions = published(without(data, *drawn[:2]), *drawn, self.seed)
        features = self._models(questions.train)(questions.slate("members + row"))
        order = questions.items == questions.watched[:, None]
        slots = np.argsort(~order, axis=1, kind="stable")  # what was watched comes first
        names = tuple(f"{name}/{kind}" for name in self.models for kind in SUMMARIES)
        choices = Choices(
            np.take_along_axis(features, slots[:, :, None], axis=1),
            np.take_along_axis(questions.items != EMPTY, slots, axis=1),
            names,
        )
        scorer = with_seed(self.learner, self.seed).fit(choices)
        return LearnedStep(self._models(data), scorer, names)

    def _models(self, data: Dataset) -> Summaries:
        return Summaries(fit_each(self.models, data, self.seed))


@dataclass(frozen=True)
class Summaries:
    """Opinions of households by fitted models, summarised: :data:`SUMMARIES` of each."""

    models: Mapping[str, Step]

    def __call__(self, slate: Slate) -> np.ndarray:
        """Describe candidates of requests whose last member is the row, (P, K, D)."""
        found = np.zeros((*slate.shape, len(self.models) * len(SUMMARIES)), np.float32)
        for sitting in seats(slate.requests):
            order = np.argsort(sitting.users[:, -1], kind="stable")  # a household's together
            for some in Seats(sitting.rows[order], sitting.users[order]).chunks(CHUNK_GROUPS):
                found[some.rows] = self._of(some, slate.grid[some.rows])
        return found

    def _of(self, sitting: Seats, items: np.ndarray) -> np.ndarray:
        """Describe candidates of groups of one size, (G, K) to (G, K, D)."""
        items = np.repeat(items, sitting.size, axis=0)
        met, column = np.unique(items, return_inverse=True)
        users, place = np.unique(sitting.users.ravel(), return_inverse=True)
        alone = Slate(pd.DataFrame({"user": users}), met)
        parts = []
        for model in self.models.values():
            scores = model(alone).scores[place[:, None], column]
            opinions = standardised(scores, items != EMPTY)
            opinions = opinions.reshape(len(sitting.rows), sitting.size, -1)
            members, row = opinions[:, :-1], opinions[:, -1]
            parts += [members.mean(axis=1), members.min(axis=1), members.max(axis=1), row]
        return np.stack(parts, axis=2)


@dataclass(frozen=True)
class LearnedStep:
    """A fitted :class:`LearnedAggregation`: all candidates, best first, a part for each model."""

    summaries: Summaries
    scorer: Scorer
    names: tuple[str, ...]

    @property
    def weights(self) -> pd.Series:
        """What each summary of each model counts, where the learner is linear."""
        if not isinstance(self.scorer, Linear):
            raise TypeError(f"{type(self.scorer).__name__} has no weights: it is not linear")
        return pd.Series(self.scorer.weights, self.names)

    def __call__(self, slate: Slate) -> Slate:
        """Score the candidates of requests whose last member is the household's row."""
        features = self.summaries(slate)
        shares = self.scorer.contributions(features.reshape(-1, features.shape[2]))
        shares = shares.reshape(features.shape)
        for number, name in enumerate(self.summaries.models):
            at = number * len(SUMMARIES)
            slate = slate.add(name, shares[:, :, at : at + len(SUMMARIES)].sum(axis=2))
        return slate.take(best(slate.scores, slate.shape[1]))
