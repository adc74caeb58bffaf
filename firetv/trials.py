"""Strategies tried on made-up groups of real people: one evening, or many in a row.

No data set here says what made-up groups would choose. What is known is what each member liked
among the titles held out; a good list has some of it for everybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import sparse
from tqdm import tqdm

from firetv.cohorts import Kind, form_groups
from firetv.data import Dataset
from firetv.group_metrics import findable, measure_groups, satisfaction
from firetv.groups import GroupStep, Members
from firetv.opinions import Opinions
from firetv.panels import Strategy
from firetv.slate import EMPTY, Slate, cells


def liked_later(data: Dataset, train: Dataset, rating: float = 4.0) -> sparse.csr_array:
    """What each user rated well, and has no event with in training, bool CSR (n_users, n_items)."""
    return sparse.csr_array((data.matrix("rating") >= rating) > (train.matrix() > 0))


@dataclass(frozen=True)
class Trial:
    """What lists for made-up groups are tried on.

    Attributes
    ----------
    train : Dataset
    liked : CSR array of shape (n_users, n_items)
        What each user should find: see :func:`liked_later`.
    pool : int array
        User codes that groups are made of.
    seed : int
        Of the groups, and of the order of the candidates, which breaks ties.
    """

    train: Dataset
    liked: sparse.csr_array
    pool: np.ndarray
    seed: int

    @classmethod
    def of(cls, data: Dataset, train: Dataset, seed: int, least: int = 5) -> Trial:
        """Try on users who rated at least so many of the titles held out well."""
        liked = liked_later(data, train)
        return cls(train, liked, np.flatnonzero(np.diff(liked.indptr) >= least), seed)

    def groups(self, size: int, kind: Kind, count: int) -> np.ndarray:
        """Make groups, int64 of shape (count, size)."""
        return form_groups(self.train, size, count, kind, self.seed, self.pool)

    @property
    def candidates(self) -> np.ndarray:
        """Items that training knows, in an order that means nothing."""
        known = np.flatnonzero(self.train.item_counts)
        return np.random.default_rng(self.seed).permutation(known)

    def slate(self, users: np.ndarray) -> Slate:
        """A request for each group of users, (G, M)."""
        requests = pd.DataFrame({"members": list(map(tuple, users.tolist()))})
        return Slate(requests, self.candidates)


def try_strategies(
    step: GroupStep,
    trial: Trial,
    strategies: Sequence[tuple[Opinions, Mapping[str, Strategy]]],
    sizes: Sequence[int],
    kinds: Sequence[Kind],
    count: int,
) -> pd.DataFrame:
    """Measure strategies on groups of several sizes and kinds.

    Parameters
    ----------
    step : GroupStep
        Its own strategy and scale are not used.
    trial : Trial
    strategies : sequence of pairs
        A fitted scale, and the strategies to try on its opinions, by name.
    sizes, kinds : sequences
    count : int
        Groups of each size and kind.

    Returns
    -------
    DataFrame
        See :func:`~firetv.group_metrics.measure_groups`; ``split`` is such as ``random 4``.
    """
    frames = []
    cells_ = [(kind, size) for kind in kinds for size in sizes]
    for number, (kind, size) in enumerate(tqdm(cells_, desc="groups")):
        users = trial.groups(size, kind, count)
        numbers = (trial.seed * len(cells_) + number) * count + np.arange(count)
        slate = trial.slate(users)
        for scale, own in strategies:
            for name, lists in replace(step, scale=scale).lists(slate, own).items():
                measured = measure_groups(
                    name,
                    lists.items,
                    users,
                    trial.liked,
                    trial.train.matrix(),
                    seed=trial.seed,
                    split=f"{kind} {size}",
                    numbers=numbers,
                )
                frames.append(measured)
    return pd.concat(frames, ignore_index=True)


@dataclass(frozen=True)
class Evenings:
    """What groups were shown on evenings in a row, and how satisfied that left their members.

    Attributes
    ----------
    items : int64 array of shape (E, G, k)
    satisfied : float64 array of shape (E, G, M)
        Share of the titles in a list that a member likes, of as many as an own list could have had;
        NaN where nothing was left that they like.
    """

    items: np.ndarray
    satisfied: np.ndarray


def spend_evenings(
    step: GroupStep, trial: Trial, users: np.ndarray, evenings: int, *, shuffled: bool = False
) -> Evenings:
    """Show each group a list evening after evening, no title twice.

    The next request knows how satisfied each member was so far, which is what
    :class:`~firetv.member_weights.Dissatisfaction` reads.

    Parameters
    ----------
    step : GroupStep
    trial : Trial
    users : int array of shape (G, M)
    evenings : int
    shuffled : bool
        Whether the satisfaction that requests know is dealt anew among the members of each group: a
        placebo.

    Returns
    -------
    Evenings
    """
    wanted = findable(users, trial.liked, trial.train.matrix())
    parts = list(step.members(trial.slate(users)))
    rng, bar = np.random.default_rng(trial.seed), tqdm(total=len(parts) * evenings, desc="evenings")
    with bar:
        spent = [
            _spend(step, part, wanted, evenings, rng if shuffled else None, bar) for part in parts
        ]
    return Evenings(
        np.concatenate([each.items for each in spent], axis=1),
        np.concatenate([each.satisfied for each in spent], axis=1),
    )


def _spend(
    step: GroupStep,
    part: Members,
    wanted: sparse.csr_array,
    evenings: int,
    shuffle: np.random.Generator | None,
    bar: tqdm,
) -> Evenings:
    """Spend the evenings of some groups, whose members' scores stay what they are."""
    groups, size = part.seats.users.shape
    people = (part.seats.rows[:, None] * size + np.arange(size)).ravel()
    liked = cells(wanted, people, part.alone.items) != 0
    left = (liked.reshape(groups, size, -1) & part.valid[:, None]).sum(axis=2)
    gained, possible = np.zeros((2, groups, size))
    valid, items, satisfied = part.valid, [], []
    for _ in range(evenings):
        known = satisfaction(gained, possible)
        known = shuffle.permuted(known, axis=1) if shuffle else known
        seated = replace(part.seats, known={"satisfaction": known})
        tonight = replace(part, seats=seated, valid=valid)
        slots, _ = step.choose(tonight, {"": step.strategy})[""]
        there = np.take_along_axis(valid, slots, axis=1)
        shown = np.where(there, np.take_along_axis(part.items, slots, axis=1), EMPTY)
        hits = cells(wanted, people, np.repeat(shown, size, axis=0)) != 0
        found = (hits.reshape(groups, size, -1) & there[:, None]).sum(axis=2)
        most = np.minimum(left, shown.shape[1])
        gained, possible, left = gained + found, possible + most, left - found
        valid = valid.copy()
        np.put_along_axis(valid, slots, False, axis=1)
        items.append(shown)
        satisfied.append(satisfaction(found, most))
        bar.update()
    return Evenings(np.stack(items), np.stack(satisfied))
