"""Whether reasons tell the truth: what becomes of a title when what its reason names is taken away.

A reason that names titles of somebody's history is tested on the model itself: titles are removed
from the history, or all others are, and the list is made anew. Titles in the order of what they are
said to contribute are compared to titles at random and to those that are said to contribute least
(deletion and sufficiency; as in DeYoung et al. 2020, "ERASER").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from firetv.newcomers import LIKED, TRAITS, NewcomersStep
from firetv.slate import EMPTY, Slate, best

ORDERS = ("named", "random", "least")
TESTS = ("deletion", "sufficiency")
AT_ONCE = 2000  # lists made in one call


@dataclass(frozen=True)
class Lists:
    """Lists of some people, by their history alone, and what each title of it contributes.

    Attributes
    ----------
    step : NewcomersStep
    users : int array of shape (R,)
    candidates : int array of shape (K,)
    history : CSR array of shape (R, n_items)
        Of what may be named.
    slots : int array of shape (R, k)
        The best unseen candidates.
    contributions : list of float32 arrays of shape (n, k)
        For each of them, what each of their n titles contributes.
    """

    step: NewcomersStep
    users: np.ndarray
    candidates: np.ndarray
    history: sparse.csr_array
    slots: np.ndarray
    contributions: list[np.ndarray]

    @classmethod
    def of(
        cls, step: NewcomersStep, users: np.ndarray, candidates: np.ndarray, k: int = 10
    ) -> Lists:
        """Make the lists of users as if they were newcomers who bring their whole history."""
        history = sparse.csr_array(step.seen[users])
        histories = np.split(history.indices, history.indptr[1:-1])
        scores = _scores(step, users, histories, candidates, history)
        slots = best(scores, k)
        requests = _requests(step, users, histories)
        account = step.account(Slate(requests, candidates[slots]))
        starts = np.searchsorted(account.row, np.arange(1, len(users)))
        rows, by_title = np.split(account.titles, starts), np.split(account.by_title, starts)
        kept = sparse.csr_array(
            (np.ones(len(account.titles), np.float32), (account.row, account.titles)),
            shape=history.shape,
        )
        ordered = [part[np.argsort(row)] for row, part in zip(rows, by_title, strict=True)]
        kept.sort_indices()
        return cls(step, users, candidates, kept, slots, ordered)

    def titles(self, row: int) -> np.ndarray:
        """Titles of one history, ascending, as the contributions have them."""
        return self.history.indices[self.history.indptr[row] : self.history.indptr[row + 1]]


def curves(
    lists: Lists, counts: Sequence[int], items: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Take titles away, or keep only these, and see whether an item stays in its list.

    Parameters
    ----------
    lists : Lists
    counts : sequence of int
        Numbers of titles removed, or kept; people with fewer titles are left out.
    items : int
        Of each list, the first.
    rng : Generator
        Of the titles at random.

    Returns
    -------
    DataFrame
        ``test``, ``order``, ``count``, ``user`` and ``stays``: the share of the user's items that
        are still among as many as the list had.
    """
    tried = list(_trials(lists, counts, items, rng))
    stays = np.concatenate(
        [_stays(lists, tried[s : s + AT_ONCE]) for s in range(0, len(tried), AT_ONCE)]
    )
    table = pd.DataFrame(
        [(t.test, t.order, t.count, t.row) for t in tried],
        columns=["test", "order", "count", "row"],
    ).assign(stays=stays)
    table["user"] = lists.users[table["row"]]
    return table.groupby(["test", "order", "count", "user"], sort=False, as_index=False)[
        "stays"
    ].mean()


@dataclass(frozen=True)
class _Trial:
    test: str
    order: str
    count: int
    row: int
    slot: int
    left: np.ndarray  # titles of the history that are left


def _trials(
    lists: Lists, counts: Sequence[int], items: int, rng: np.random.Generator
) -> Iterator[_Trial]:
    for row in range(len(lists.users)):
        titles = lists.titles(row)
        if len(titles) <= max(counts):
            continue
        for place in range(items):
            by_title = np.argsort(-lists.contributions[row][:, place], kind="stable")
            orders = dict(
                zip(ORDERS, (by_title, rng.permutation(len(titles)), by_title[::-1]), strict=True)
            )
            for order, ranked in orders.items():
                for count in counts:
                    chosen = titles[ranked[:count]]
                    rest = titles[ranked[count:]]
                    yield _Trial("deletion", order, count, row, place, rest)
                    yield _Trial("sufficiency", order, count, row, place, chosen)


def _stays(lists: Lists, trials: Sequence[_Trial]) -> np.ndarray:
    """Whether the item of each trial is still in its list, bool of shape (n,)."""
    rows = np.array([trial.row for trial in trials])
    left = [trial.left for trial in trials]
    scores = _scores(lists.step, lists.users[rows], left, lists.candidates, lists.history[rows])
    slots = lists.slots[rows, [trial.slot for trial in trials]]
    own = np.take_along_axis(scores, slots[:, None], axis=1)
    return (scores > own).sum(axis=1) < lists.slots.shape[1]


def falls(lists: Lists, named: int, items: int) -> pd.DataFrame:
    """Compare what titles are said to contribute with what an item's score loses without them.

    Parameters
    ----------
    lists : Lists
    named : int
        Titles removed: those that contribute most.
    items : int
        Of each list, the first.

    Returns
    -------
    DataFrame
        ``user``, ``stated``, the sum of the contributions, and ``observed``, the fall of the score:
        of a linear model by itself, of another against the mean of all titles with events.
    """
    rows, stated, left, places = [], [], [], []
    for row in range(len(lists.users)):
        titles = lists.titles(row)
        if len(titles) <= named:
            continue
        for place in range(items):
            ranked = np.argsort(-lists.contributions[row][:, place], kind="stable")
            rows.append(row)
            places.append(place)
            stated.append(lists.contributions[row][ranked[:named], place].sum())
            left.append(titles[ranked[named:]])
    users = lists.users[rows]
    whole = [lists.titles(row) for row in rows]
    slots = lists.slots[rows, places][:, None]
    before, after = (
        _leads(lists.step, users, titles, lists.candidates, slots) for titles in (whole, left)
    )
    return pd.DataFrame({"user": users, "stated": stated, "observed": (before - after)[:, 0]})


def _leads(
    step: NewcomersStep,
    users: np.ndarray,
    histories: Sequence[np.ndarray],
    candidates: np.ndarray,
    slots: np.ndarray,
) -> np.ndarray:
    return step.account(Slate(_requests(step, users, histories), candidates[slots])).lead


def _requests(
    step: NewcomersStep, users: np.ndarray, histories: Sequence[np.ndarray]
) -> pd.DataFrame:
    """Requests of newcomers with these histories, and the profiles of these users."""
    profiles = step.profiles.matrix[users]
    traits = np.split(profiles.indices, profiles.indptr[1:-1])
    return pd.DataFrame(
        {
            "user": np.full(len(users), -1, np.int32),
            LIKED: pd.Series([tuple(titles.tolist()) for titles in histories], dtype=object),
            TRAITS: pd.Series([tuple(each.tolist()) for each in traits], dtype=object),
        }
    )


def _scores(
    step: NewcomersStep,
    users: np.ndarray,
    histories: Sequence[np.ndarray],
    candidates: np.ndarray,
    seen: sparse.csr_array,
) -> np.ndarray:
    """Scores of all candidates but those seen, by some histories, (n, K)."""
    slate = step(Slate(_requests(step, users, histories), candidates))
    hidden = seen[:, candidates].toarray() > 0
    return Slate(slate.requests, np.where(hidden, EMPTY, slate.grid), slate.parts).scores
