"""Several base models as one base: their scores on one scale, weighed and added up.

A model counts by its score's distance from the mean, in deviations, of the titles that the person
has not seen: as :class:`~firetv.ranking.Ranker` has it when it learns the weights. Mean and
deviation are those of the whole catalogue, whatever titles are asked about, so that a title scores
the same in every slate.

The ledger gets the sum, as ``taste``. Parts for each model would be weighed again by the stages
behind it, which learn a factor for each part, from other alternatives than those at the head of a
list: the weights that were learned for the head would not last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import sparse

from firetv.data import Dataset
from firetv.features import Features
from firetv.newcomers import Account, FoldIn, Newcomers, NewcomersStep
from firetv.ranking import Logit, Ranker, standardised
from firetv.slate import CHUNK_CELLS, Slate
from firetv.steps import scored

TASTE, POPULARITY = "taste", "popularity"  # parts of the ledger
ROUNDING = 1e-6  # of the largest score: scores that differ by less say nothing


@dataclass(frozen=True)
class NewcomersBlend:
    """Models that answer for newcomers too, with weights that a ranker learned.

    Of a person without events, the models that know something speak, with the weights they have for
    all: where there is only a profile, those of vectors. Of whom no model knows anything, the part
    is ``popularity``.

    Attributes
    ----------
    ranker : Ranker
        Of models that :class:`~firetv.newcomers.Newcomers` takes, which learns by a
        :class:`~firetv.ranking.Logit` with ``nonnegative=True``. Each model is fitted once on all
        the data, and once in each of the ranker's rounds. Its ``head`` and ``keep`` do not limit
        what is scored here.
    seed : int
        Becomes the ranker's and the models'.

    Raises
    ------
    ValueError
        If the ranker has signals, weighs by newness, or does not learn such weights.

    Examples
    --------
    >>> from firetv.models import ALS, EASE
    >>> learner = Logit(l2=1.0, nonnegative=True)
    >>> stage = NewcomersBlend(Ranker({"ease": EASE(), "als": ALS()}, learner=learner, rounds=1))
    >>> list(stage.ranker.models)
    ['ease', 'als']
    """

    ranker: Ranker
    seed: int = 0

    def __post_init__(self) -> None:
        learner = self.ranker.learner
        if not (isinstance(learner, Logit) and learner.nonnegative):
            raise ValueError(f"{learner} gives no weights for a base: use Logit(nonnegative=True)")
        if self.ranker.signals or self.ranker.newness is not None:
            raise ValueError("a base is of models alone: leave out the ranker's signals, newness")

    def fit(self, data: Dataset) -> NewcomersBlendStep:
        """Learn the weights on events that are held out, and fit each model on all of them.

        A model that is found to be worth nothing is left out; if all are, each counts one.

        Raises
        ------
        ValueError
            If a model is of another kind, or no held-out event can be learned from.
        """
        models = {name: Newcomers(stage) for name, stage in self.ranker.models.items()}
        prepared = replace(self.ranker, models=models, seed=self.seed).prepare(data)
        found = self.ranker.learner.fit(prepared.choices).weights
        weights = dict(zip(prepared.choices.names, found.tolist(), strict=True))
        if not any(weights.values()):
            weights = dict.fromkeys(weights, 1.0)
        steps = prepared.features.models
        people = np.flatnonzero(data.user_counts)
        members = {n: Member.of(steps[n], w, people) for n, w in weights.items() if w}
        return NewcomersBlendStep(members)


@dataclass(frozen=True)
class Member:
    """One model of a blend.

    Attributes
    ----------
    step : NewcomersStep
    weight : float
        Of its standardised score, above 0.
    mean, deviation : float32 arrays of shape (n_users,)
        See :func:`spread`; 0 for users without events.
    """

    step: NewcomersStep
    weight: float
    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, step: NewcomersStep, weight: float, people: np.ndarray) -> Member:
        """Work out the scale of some users' scores, shape (n,), in advance."""
        table = np.zeros((2, step.seen.shape[0]), np.float32)
        table[:, people] = spread(step, people)
        return cls(step, weight, *table)

    def score(self, slate: Slate) -> tuple[np.ndarray, np.ndarray]:
        """Weigh the standardised scores, float32 of shape (R, K).

        Returned with them: of whom the model knows anything, bool of shape (R,). To others it gives
        zeros.
        """
        step, people = self.step.met(slate.requests)
        mean, factor = self._scale(slate.users, step, people["user"].to_numpy())
        taste = step.model(Slate(people, slate.items)).parts[TASTE]
        known = (people["user"].to_numpy() >= 0) & step.known[people["user"]]
        return (taste - mean[:, None]) * factor[:, None], known

    def account(self, slate: Slate) -> Account:
        """Say what the weighed scores are made of, but for what all titles of a slate share."""
        step, people = self.step.met(slate.requests)
        factor = self._scale(slate.users, step, people["user"].to_numpy())[1]
        return times(step.account(replace(slate, requests=people, parts={})), factor)

    def _scale(
        self, users: np.ndarray, step: NewcomersStep, met: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean of each request's scores, and factor on what exceeds it, float32 of shape (R,).

        The factor is 0 where the model knows nothing of the person, or has the same to say of all
        titles. ``met`` are the numbers that users have in the step.
        """
        mean, deviation = (np.where(users >= 0, v[users], 0) for v in (self.mean, self.deviation))
        if step is not self.step:
            new = deviation == 0
            mean[new], deviation[new] = spread(step, met[new])
        weight = np.full(len(users), self.weight, np.float32)
        return mean, np.divide(weight, deviation, out=np.zeros_like(weight), where=deviation > 0)


def spread(step: NewcomersStep, users: np.ndarray) -> np.ndarray:
    """Mean and deviation of users' scores over the titles with events that they have not seen.

    Parameters
    ----------
    step : NewcomersStep
        To which none of them is new.
    users : int array of shape (R,)

    Returns
    -------
    float32 array of shape (2, R)
        A deviation that is no more than rounding is 0.
    """
    titles = np.flatnonzero(step.model.popularity)
    found, some = np.zeros((2, len(users)), np.float32), max(1, CHUNK_CELLS // len(titles))
    for start in range(0, len(users), some):
        asked = users[start : start + some]
        slate = step.model(Slate(pd.DataFrame({"user": asked}), titles))
        scores = slate.parts[TASTE].astype(np.float64)
        unseen = step.seen[asked][:, titles].toarray() == 0
        count = np.maximum(unseen.sum(axis=1), 1)
        size = np.abs(scores).max(axis=1, where=unseen, initial=0)
        mean = scores.sum(axis=1, where=unseen) / count
        scores -= mean[:, None]
        deviation = np.sqrt(np.square(scores).sum(axis=1, where=unseen) / count)
        deviation[deviation <= ROUNDING * size] = 0
        found[:, start : start + some] = mean, deviation
    return found


@dataclass(frozen=True)
class NewcomersBlendStep:
    """A fitted :class:`NewcomersBlend`.

    Attributes
    ----------
    members : mapping of str to Member
        By the model's name.
    """

    members: Mapping[str, Member]

    def __call__(self, slate: Slate) -> Slate:
        """Score every slot of the slate."""
        given = [member.score(slate) for member in self.members.values()]
        taste, known = sum(score for score, _ in given), np.any([k for _, k in given], axis=0)
        return scored(slate, taste, known, self._first.model.popularity)

    def shares(self, slate: Slate) -> dict[str, np.ndarray]:
        """What each model gives of ``taste``, float32 of shape (R, K)."""
        return {name: member.score(slate)[0] for name, member in self.members.items()}

    @property
    def weights(self) -> dict[str, float]:
        """What each model counts."""
        return {name: member.weight for name, member in self.members.items()}

    @property
    def _first(self) -> NewcomersStep:
        """The first model of vectors, or else of all, to ask what all know alike."""
        steps = [member.step for member in self.members.values()]
        return next((step for step in steps if step.fold is not None), steps[0])

    @property
    def fold(self) -> FoldIn | None:
        """How the first model of vectors describes titles; None where there is none."""
        return self._first.fold

    @property
    def seen(self) -> sparse.csr_array:
        """Who saw what, CSR of shape (n_users, n_items)."""
        return self._first.seen

    @property
    def profiles(self) -> Features:
        """Normalised traits of everybody."""
        return self._first.profiles

    def new(self, requests: pd.DataFrame) -> np.ndarray:
        """Which requests are of people without events of whom something is known, bool (R,)."""
        return self._first.new(requests)  # models of vectors know all that linear ones do

    def known_of(self, requests: pd.DataFrame) -> tuple[sparse.csr_array, sparse.csr_array]:
        """Liked titles that have events, and traits, CSR of (R, n_items) and of (R, G)."""
        return self._first.known_of(requests)

    def history(self, requests: pd.DataFrame) -> sparse.csr_array:
        """What people have seen, or say they like, CSR of shape (R, n_items)."""
        return self._first.history(requests)

    def account(self, slate: Slate) -> Account:
        """Say what the scores of a slate are made of, but for what all of its titles share.

        It is the sum of the models' accounts, each on its scale. Without a title of the history the
        scale would be another as well: that is taken as given.
        """
        return added([member.account(slate) for member in self.members.values()])

    def likeness(self, title: int, others: np.ndarray) -> np.ndarray:
        """How alike a title is to others: the models' weighted mean, in deviations, float (n,)."""
        total, every = np.zeros(len(others)), np.ones((1, len(others)), bool)
        for member in self.members.values():
            alike = np.asarray(member.step.likeness(title, others), np.float64)
            total += member.weight * standardised(alike[None], every)[0]
        return total / sum(self.weights.values())


def times(account: Account, factor: np.ndarray) -> Account:
    """Return the account of scores times a factor for each request, shape (R,)."""
    return replace(
        account,
        lead=account.lead * factor[:, None],
        expected=account.expected * factor[:, None],
        features=account.features * factor[:, None, None],
        by_title=account.by_title * factor[account.row, None],
    )


def added(accounts: Sequence[Account]) -> Account:
    """Add up accounts of one slate, by request and title, and by the names of features."""
    names = tuple(dict.fromkeys(name for account in accounts for name in account.names))
    features = np.zeros((*accounts[0].lead.shape, len(names)), np.float32)
    for account in accounts:
        features[:, :, [names.index(name) for name in account.names]] += account.features
    row = np.concatenate([account.row for account in accounts])
    titles = np.concatenate([account.titles for account in accounts])
    width = titles.max(initial=0) + 1
    pairs, place = np.unique(row * width + titles, return_inverse=True)
    by_title = np.zeros((len(pairs), features.shape[1]), np.float32)
    np.add.at(by_title, place, np.concatenate([account.by_title for account in accounts]))
    lead, expected = (
        np.sum([getattr(account, name) for account in accounts], axis=0)
        for name in ("lead", "expected")
    )
    return Account(lead, expected, features, names, pairs // width, pairs % width, by_title)
