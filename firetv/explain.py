"""Why a title is in somebody's list: reasons, from the very parts that made its score.

Every reason states its contribution: by how much the title's score would be lower without the part,
or the share of a part, that it names. Only what contributes noticeably, and in favour, is a reason.
Contributions are differences of log-odds where the scores are, as behind a
:class:`~firetv.context.ContextBoost`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from scipy import sparse

from firetv import sentences
from firetv.context import JOINT, PREFIX, ContextStep
from firetv.data import Dataset
from firetv.newcomers import Account, Base
from firetv.proof import FriendLog
from firetv.slate import EMPTY, Slate
from firetv.social import PART as FRIENDS
from firetv.social import FriendStep, instants

TASTE, POPULARITY = "taste", "popularity"
NOTICEABLE = 0.2  # of the strongest reason: less is no reason
NEGLIGIBLE = float(np.log(1.02))  # in log-odds: less is no reason either
MOST_NAMED, MOST_REASONS = 2, 3  # titles or features in a reason; reasons of a title
BESIDE = 0.5  # of what the first one contributes, from which a second one is named with it
EVERYWHERE = 0.5  # share of titles with a feature, from which having it is no reason
LIKED_FROM, DISLIKED_UPTO = 4.0, 2.0  # mean ratings

Kind = Literal["titles", "feature", "popular", "context", "friends"]


@dataclass(frozen=True)
class Reason:
    """One reason for one title of a list.

    Attributes
    ----------
    kind : str
        What it is about: ``titles`` of the history, a ``feature``, what is ``popular``, the
        ``context``, or ``friends``.
    text : str
    contribution : float
        What the score would lose without it.
    share : float
        Of all that speaks for the title, 0..1.
    parts : tuple of str
        Of the ledger.
    about : tuple of str
        Ids of the titles or friends that are named, the feature, or the values of the context.
    """

    kind: Kind
    text: str
    contribution: float
    share: float
    parts: tuple[str, ...]
    about: tuple[str, ...]


@dataclass(frozen=True)
class _Cause:
    """What may become a reason of one title: a contribution, before it is put into words."""

    kind: Kind
    contribution: float
    parts: tuple[str, ...]
    what: tuple


@dataclass(frozen=True)
class Explainer:
    """What reasons are read from.

    Attributes
    ----------
    data : Dataset
        With the titles, and the names of friends.
    base : NewcomersStep, or a blend of several
    context : ContextStep or None
    friends : FriendStep or None
    log : FriendLog
    liked, disliked : CSR arrays of bool, of shape (n_users, n_items)
        By ratings and reactions: what is disliked is not named.
    common : frozenset of str
        Features of so many titles that having one says nothing.
    """

    data: Dataset
    base: Base
    context: ContextStep | None
    friends: FriendStep | None
    log: FriendLog
    liked: sparse.csr_array
    disliked: sparse.csr_array
    common: frozenset[str]

    @classmethod
    def of(
        cls,
        data: Dataset,
        base: Base,
        context: ContextStep | None = None,
        friends: FriendStep | None = None,
    ) -> Explainer:
        """Look up what is needed of a data set."""
        liked, disliked = _opinions(data)
        common: frozenset[str] = frozenset()
        if base.fold is not None:
            known = base.fold.metadata.matrix[base.fold.known]
            held = np.diff(sparse.csc_array(known).indptr) >= EVERYWHERE * known.shape[0]
            names = zip(base.fold.metadata.names, held, strict=True)
            common = frozenset(name for name, there in names if there)
        return cls(data, base, context, friends, FriendLog.of(data), liked, disliked, common)

    @property
    def scale(self) -> float:
        """Factor on the base's scores by the steps behind it."""
        steps = [step for step in (self.context, self.friends) if step is not None]
        return float(np.prod([step.scales.upstream.get(TASTE, 1.0) for step in steps]))

    @cached_property
    def families(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Features that may be named, their columns, and the number of the family of each."""
        known = () if self.base.fold is None else self.base.fold.metadata.names
        named = [(name, n) for n, name in enumerate(known) if name not in self.common]
        family = [name.split(":", 1)[0] for name, _ in named]
        of = np.unique(family, return_inverse=True)[1]
        return [name for name, _ in named], np.array([n for _, n in named], np.int64), of

    @cached_property
    def ids(self) -> np.ndarray:
        """Ids of all items, object array of shape (n_items,)."""
        return self.data.item_ids.to_numpy(object)

    @cached_property
    def user_ids(self) -> np.ndarray:
        """Ids of all users, object array of shape (n_users,)."""
        return self.data.user_ids.to_numpy(object)

    def __call__(self, slate: Slate, codes: np.ndarray | None = None) -> list[list[list[Reason]]]:
        """Give reasons for every slot of a slate, strongest first; none for an empty slot.

        Parameters
        ----------
        slate : Slate of R requests and k slots
            As base, context and friends score it; the slots may have been chosen since.
        codes : int array of shape (M, R), optional
            Of the moments, for each of the context's multipliers; else they are read again.
        """
        gains = _Gains(self, slate, self.base.account(slate), codes)
        causes = [[[] for _ in range(slate.shape[1])] for _ in range(slate.shape[0])]
        for request, slot, cause in gains.causes():
            causes[request][slot].append(cause)
        lead = np.where((slate.grid != EMPTY), gains.support(), 0)
        return [
            [gains.reasons(r, s, found, lead[r, s]) for s, found in enumerate(row)]
            for r, row in enumerate(causes)
        ]


def _opinions(data: Dataset) -> tuple[sparse.csr_array, sparse.csr_array]:
    """What each user is known to have liked, and disliked, CSR of bool."""
    rating = data.matrix("rating")
    liked = sparse.csr_array(rating >= LIKED_FROM)
    disliked = rating.copy()
    disliked.data = disliked.data <= DISLIKED_UPTO
    disliked = sparse.csr_array(disliked.astype(bool))
    if "reaction" in data.reactions:
        word = data.reactions["reaction"].fillna("")
        liked = liked + _pairs(data, word.isin(["love", "like"]))
        disliked = disliked + _pairs(data, word == "dislike")
    return sparse.csr_array(liked), sparse.csr_array(disliked)


def _pairs(data: Dataset, rows: pd.Series) -> sparse.csr_array:
    said = data.reactions[rows.to_numpy(bool)]
    place = (said["user"].to_numpy(), said["item"].to_numpy())
    return sparse.csr_array((np.ones(len(said), bool), place), shape=data.shape)


class _Gains:
    """What contributes to the titles of one slate, in numbers, and then in words."""

    def __init__(
        self, explainer: Explainer, slate: Slate, account: Account, codes: np.ndarray | None
    ) -> None:
        self.of, self.slate, self.account = explainer, slate, account
        self.filled = slate.grid != EMPTY
        self.titles = account.by_title * np.float32(explainer.scale)
        self.features = account.features * np.float32(explainer.scale)
        self.expected = account.expected * np.float32(explainer.scale)
        self.codes = self._read() if codes is None else codes
        self.history = np.bincount(account.row, minlength=len(slate.requests)) > 0
        at = instants(slate.requests)
        self.proof = explainer.log.about(slate.users, slate.grid, at)
        self.counts, self.circle = self.proof.counts(), self.proof.friends()

    def _read(self) -> np.ndarray | None:
        if self.of.context is None:
            return None
        moments = self.of.context.moments(self.slate.requests)
        return np.array([each.codes(moments) for each in self.of.context.multipliers])

    def support(self) -> np.ndarray:
        """All that speaks for each title, float32 of shape (R, k)."""
        total = self.features.clip(0).sum(axis=2) + self.expected.clip(0)
        np.add.at(total, self.account.row, self.titles.clip(0))
        for name, part in self.slate.parts.items():
            if name != TASTE:
                total = total + part.clip(0)
        return total

    def causes(self) -> Iterator[tuple[int, int, _Cause]]:
        """Everything that may be a reason, with its request and slot."""
        yield from self._of_titles()
        yield from self._of_features()
        yield from self._of_popularity()
        yield from self._of_context()
        yield from self._of_friends()

    def _of_titles(self) -> Iterator[tuple[int, int, _Cause]]:
        account, users = self.account, self.slate.users
        liked, disliked = self._said()
        titles = np.where(disliked[:, None], -np.inf, self.titles)
        for request, (start, end) in enumerate(_spans(account.row, len(users))):
            block = titles[start:end]
            order = np.argsort(-block, axis=0, kind="stable")[:MOST_NAMED]
            gains = np.take_along_axis(block, order, axis=0)
            named = gains >= BESIDE * gains[:1]
            told = self.filled[request] & (gains[0] > 0) if len(block) else ()
            words = np.where((liked[start + order] | ~named).all(axis=0), "liked", "watched")
            found, total = account.titles[start + order], np.where(named, gains, 0).sum(axis=0)
            for slot in np.flatnonzero(told):
                what = (words[slot], *found[named[:, slot], slot].tolist())
                yield request, slot, _Cause("titles", float(total[slot]), (TASTE,), what)

    def _said(self) -> tuple[np.ndarray, np.ndarray]:
        """Which titles of histories were liked, and which disliked, bool of shape (n,)."""
        account, users = self.account, self.slate.users[self.account.row]
        known = users >= 0
        place = (np.maximum(users, 0), account.titles)
        liked, disliked = (
            np.asarray(table[place]).ravel() for table in (self.of.liked, self.of.disliked)
        )
        return np.where(known, liked, True), disliked & known

    def _of_features(self) -> Iterator[tuple[int, int, _Cause]]:
        """The family of features that contributes most, by those that an item has."""
        names, place, of = self.of.families
        if not names or not self.features.size:
            return
        gains = self.features[:, :, place].clip(0)
        best = (gains @ (of[:, None] == np.arange(of.max() + 1)).astype(np.float32)).argmax(axis=2)
        own = np.where(of == best[:, :, None], gains, 0)
        order = np.argsort(-own, axis=2, kind="stable")[:, :, :MOST_NAMED]
        gains = np.take_along_axis(own, order, axis=2)
        named = gains >= BESIDE * gains[:, :, :1]
        total = np.where(named, gains, 0).sum(axis=2)
        for request, slot in zip(*np.nonzero(self.filled & (total > 0)), strict=True):
            told = order[request, slot][named[request, slot]].tolist()
            what = tuple(names[n] for n in told)
            yield request, slot, _Cause("feature", float(total[request, slot]), (TASTE,), what)

    def _of_popularity(self) -> Iterator[tuple[int, int, _Cause]]:
        for request, slot in zip(*np.nonzero(self.filled & (self.expected > 0)), strict=True):
            gain = float(self.expected[request, slot])
            yield request, slot, _Cause("popular", gain, (TASTE,), ("alike",))
        part = self.slate.parts.get(POPULARITY)
        if part is not None:
            for request, slot in zip(*np.nonzero(self.filled & (part > 0)), strict=True):
                gain = float(part[request, slot])
                yield request, slot, _Cause("popular", gain, (POPULARITY,), ("popular",))

    def _of_context(self) -> Iterator[tuple[int, int, _Cause]]:
        parts = {n: p for n, p in self.slate.parts.items() if n.startswith(PREFIX)}
        if not parts:
            return
        names, values = list(parts), np.stack(list(parts.values()))
        told = (values >= NEGLIGIBLE) & self.filled
        for request, slot in zip(*np.nonzero(told.any(axis=0)), strict=True):
            where = np.flatnonzero(told[:, request, slot])
            gain = float(values[where, request, slot].sum())
            used = tuple(names[n] for n in where)
            yield request, slot, _Cause("context", gain, used, ())

    def _of_friends(self) -> Iterator[tuple[int, int, _Cause]]:
        part = self.slate.parts.get(FRIENDS)
        if part is None:
            return
        told = self.filled & (part > 0) & (self.counts["watched"] > 0)
        for request, slot in zip(*np.nonzero(told), strict=True):
            yield request, slot, _Cause("friends", float(part[request, slot]), (FRIENDS,), ())

    def reasons(self, request: int, slot: int, causes: list[_Cause], lead: float) -> list[Reason]:
        """Put what is worth naming into words, strongest first."""
        causes.sort(key=lambda cause: -cause.contribution)
        told = [cause for cause in causes if cause.contribution >= NEGLIGIBLE]
        # To somebody with a history, what people of the same profile watch is said last of all.
        own = [c for c in told if c.what != ("alike",) or not self.history[request]]
        told = [c for c in own if c.contribution >= NOTICEABLE * own[0].contribution] or told[:1]
        return [self._reason(request, slot, cause, lead) for cause in told[:MOST_REASONS]]

    def _reason(self, request: int, slot: int, cause: _Cause, lead: float) -> Reason:
        text, about = self._words(request, slot, cause)
        share = float(cause.contribution / lead)
        return Reason(cause.kind, text, cause.contribution, share, cause.parts, about)

    def _words(self, request: int, slot: int, cause: _Cause) -> tuple[str, tuple[str, ...]]:
        if cause.kind == "titles":
            kind, *items = cause.what
            said = sentences.because(self.of.data.titles[items].tolist(), liked=kind == "liked")
            return said, tuple(self.of.ids[items])
        if cause.kind == "feature":
            return sentences.features(cause.what), cause.what
        if cause.kind == "context":
            return self._moment(request, cause.parts)
        if cause.kind == "friends":
            return self._friends(request, slot)
        return sentences.TEMPLATES[cause.what[0]], ()

    def _moment(self, request: int, parts: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        names = [part.removeprefix(PREFIX) for part in parts if part != JOINT]
        if not names or self.codes is None or self.of.context is None:
            return sentences.TEMPLATES["similar moments"], ()
        each = zip(self.of.context.multipliers, self.codes[:, request], strict=True)
        told = {m.dimension: m.values[code] for m, code in each if m.dimension in names}
        return sentences.moment(told), tuple(told.values())

    def _friends(self, request: int, slot: int) -> tuple[str, tuple[str, ...]]:
        codes = list(self.circle[request * self.slate.shape[1] + slot])
        numbers = [int(self.counts[n][request, slot]) for n in ("watched", "finished", "loved")]
        said = sentences.friends(*numbers, self.of.data.names[codes].tolist())
        return said, tuple(self.of.user_ids[codes])


def _spans(row: np.ndarray, count: int) -> np.ndarray:
    """Start and end of each request's rows, (count, 2)."""
    edges = np.searchsorted(row, np.arange(count + 1))
    return np.column_stack([edges[:-1], edges[1:]])
