"""The assembled recommender: one object to train, ask, save and load.

A base model that takes in newcomers, friends and the moment make the ledger of a person's list; the
same scores make a group's. What is asked for one request is asked in the same call for many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from firetv import storage
from firetv.blends import NewcomersBlend
from firetv.context import ContextBoost, ContextReader, ContextStep
from firetv.data import Dataset
from firetv.explain import Explainer
from firetv.features import Profiles
from firetv.group_reasons import STRATEGIES, names_of, records, table
from firetv.groups import GroupStep, Unseen
from firetv.lists import Basis, GroupList, Newcomer, Recommendations
from firetv.member_weights import Suitability, factors_of
from firetv.moments import Clock, Context
from firetv.newcomers import LIKED, TRAITS, Base, Newcomers
from firetv.notifications import POLICY, Notifications, Policy, notify
from firetv.opinions import Chances, Opinions
from firetv.packaged import packaged
from firetv.panels import GUEST, LARGEST
from firetv.published import checksum
from firetv.ranking import Ranker
from firetv.schema import DataError, Problem, one_of
from firetv.slate import (
    CHUNK_CELLS,
    EMPTY,
    Pipeline,
    Slate,
    Stage,
    best,
    chain,
    joined,
    top,
    with_seed,
)
from firetv.social import FriendBoost, FriendStep, instants

BASE = packaged("lightfm")
CONTEXT = ContextBoost("rules", strength=1.0)
FRIENDS = FriendBoost()
LONGEST = 100  # list that may be asked for
MOST_AT_ONCE = 64  # people for whom scores are looked up, or else kept
MOST_CELLS_KEPT = 4_000_000  # people x candidates, 64 MB
ANYTIME = Context()


class Kept:
    """Scored candidates of the people who asked last, a row of a slate for each of them.

    Parameters
    ----------
    most : int
        People, of whom the first to come are forgotten first.
    """

    def __init__(self, most: int) -> None:
        self.most, self.rows = most, dict[int, tuple[np.ndarray, dict[str, np.ndarray]]]()

    def of(self, users: np.ndarray, score: Callable[[pd.DataFrame], Slate]) -> Slate:
        """Slate of some users, which is scored for those of whom nothing is kept."""
        asked = users.tolist()
        found = {user: self.rows[user] for user in asked if user in self.rows}
        missing = [user for user in dict.fromkeys(asked) if user not in found]
        if missing:
            slate = score(pd.DataFrame({"user": np.array(missing, np.int32)}))
            for row, user in enumerate(missing):
                parts = {name: part[row].copy() for name, part in slate.parts.items()}
                found[user] = self.rows[user] = (slate.grid[row].copy(), parts)
            for user in list(self.rows)[: max(0, len(self.rows) - self.most)]:
                self.rows.pop(user, None)
        rows = [found[user] for user in asked]
        names = dict.fromkeys(name for _, parts in rows for name in parts)
        nothing = np.zeros(len(rows[0][0]), np.float32)
        parts = {n: np.stack([parts.get(n, nothing) for _, parts in rows]) for n in names}
        return Slate(pd.DataFrame({"user": users}), np.stack([items for items, _ in rows]), parts)


@dataclass(frozen=True)
class Recommender:
    """A trained system.

    Attributes
    ----------
    data : Dataset
        All that it knows of people and titles.
    base : NewcomersStep or NewcomersBlendStep
    friends : FriendStep or None
    context : ContextStep or None
    chances : Opinions
        What scores are worth to members of a group.
    profiles : Profiles
        How a newcomer's profile is read.
    about : mapping
        Parameters, seed, and name and checksum of the data: what ``recommender.json`` shows.

    Examples
    --------
    >>> from firetv.data import load
    >>> recommender = Recommender.train(load("data/movielens-100k"))  # doctest: +SKIP
    >>> at = pd.Timestamp("2026-12-24T20:00+01:00")  # doctest: +SKIP
    >>> recommender.recommend(["user123"], Context(at), explain=True).to_frame()  # doctest: +SKIP
    """

    data: Dataset
    base: Base
    friends: FriendStep | None
    context: ContextStep | None
    chances: Opinions
    profiles: Profiles
    about: Mapping[str, Any]

    # -------------------------------------------------------------- to train, save and load

    @classmethod
    def train(
        cls,
        data: Dataset,
        base: Stage = BASE,
        context: ContextBoost | None = CONTEXT,
        friends: FriendBoost | None = FRIENDS,
        seed: int = 0,
    ) -> Recommender:
        """Fit all layers; a progress bar goes to stderr unless ``TQDM_DISABLE=1``.

        Parameters
        ----------
        data : Dataset
        base : Stage
            See :class:`~firetv.newcomers.Newcomers` for those that can be used. A
            :class:`~firetv.ranking.Ranker` of such models, as :func:`~firetv.packaged.blend`
            returns, becomes a :class:`~firetv.blends.NewcomersBlend`.
        context : ContextBoost, optional
            None for no context.
        friends : FriendBoost, optional
            None for no friends; by default one that learns how much they count. It is left out
            where the data have no friends.
        seed : int
            Of everything that is drawn.

        Raises
        ------
        ValueError
            If a layer cannot learn from so few data, or the base is of a kind that cannot be used.
        """
        blended = isinstance(base, Ranker)
        newcomers = with_seed(NewcomersBlend(base) if blended else Newcomers(base), seed)
        layers: dict[str, Stage] = {"base": newcomers}
        if friends is not None and data.friends is not None and data.friends.nnz:
            layers["friends"] = with_seed(friends, seed)
        if context is not None:
            layers["context"] = with_seed(context, seed)
        steps: dict[str, Any] = {}
        with tqdm(total=len(layers) + 1, desc="training", unit="layer") as progress:
            for number, (name, stage) in enumerate(layers.items()):
                progress.set_postfix_str(name)
                before = chain(*list(layers.values())[:number])
                fit_after = getattr(stage, "fit_after", None)
                steps[name] = fit_after(before, data) if fit_after else stage.fit(data)
                progress.update()
            progress.set_postfix_str("groups")
            chances = Chances(seed=seed).fit_after(chain(newcomers), data)
            progress.update()
        parameters = {name: _described(stage) for name, stage in layers.items()}
        about = {"parameters": parameters, "seed": seed, "data": data_of(data)}
        rest = (steps.get("friends"), steps.get("context"), chances)
        return cls(data, steps["base"], *rest, Profiles.of(data), about)

    def save(self, folder: str | Path) -> None:
        """Write arrays and a JSON document to a folder; see :func:`firetv.storage.save`."""
        storage.save(folder, self, self.about)

    @classmethod
    def load(cls, folder: str | Path) -> Recommender:
        """Read what :meth:`save` wrote.

        Raises
        ------
        DataError
            See :func:`firetv.storage.load`.
        """
        found = storage.load(folder)
        if not isinstance(found, cls):
            remedy = "Name a folder that a recommender was saved to."
            raise DataError(Problem(str(folder), "", "holds no recommender", remedy))
        return found

    # -------------------------------------------------------------- for people

    def recommend(
        self,
        users: Sequence[str | Newcomer],
        context: Context | Sequence[Context] = ANYTIME,
        k: int = 10,
        *,
        explain: bool = False,
    ) -> Recommendations:
        """List unseen titles for some people.

        Parameters
        ----------
        users : sequence of str or Newcomer
            Ids; of an id that is not in the data nothing is known.
        context : Context, or one for each of them
        k : int
        explain : bool
            Whether to give reasons.

        Raises
        ------
        ValueError
            If `k` is not of 1..100, a liked title is unknown, or a profile cannot be read.
        """
        if not 1 <= k <= LONGEST:
            raise ValueError(f"k {k} is not of 1 to {LONGEST}")
        contexts = [context] * len(users) if isinstance(context, Context) else list(context)
        if len(contexts) != len(users):
            raise ValueError(f"{len(contexts)} contexts for {len(users)} people: give one for each")
        requests = self._requests(users, contexts)
        codes, moments = self._read(contexts, requests)
        some = max(1, CHUNK_CELLS // max(1, len(self.candidates)))
        lists, reasons = [], []
        for start in range(0, max(1, len(users)), some):
            rows = slice(start, start + some)
            then = None if moments is None else moments.iloc[rows]
            slate = self._list(requests.iloc[rows], codes[:, rows], then, k)
            lists.append(slate)
            reasons += self.explainer(slate, codes[:, rows]) if explain else []
        return Recommendations(
            joined(requests, lists),
            self._basis(requests),
            reasons if explain else None,
            self.explainer.ids,
            self.data.titles,
        )

    def _list(
        self, requests: pd.DataFrame, codes: np.ndarray, moments: pd.DataFrame | None, k: int
    ) -> Slate:
        """The lists of some requests, whose moments were read."""
        slate = self._before(requests)
        if self.context is not None:
            slate = self.context.at(slate, codes, moments)
        return top(k)(slate)

    def _before(self, requests: pd.DataFrame) -> Slate:
        """What is known of unseen candidates before the moment counts.

        It stays the same for people with a history who ask again, so it is kept for the last ones.
        """
        users = requests["user"].to_numpy()
        few = 0 < len(users) <= MOST_AT_ONCE
        if not few or LIKED in requests or not self._settled(requests, users):
            return self._score(requests)
        return replace(self._kept.of(users, self._score), requests=requests)

    def _settled(self, requests: pd.DataFrame, users: np.ndarray) -> bool:
        """Whether all are users, and nothing that friends did is yet to come or to fade."""
        if self.friends is None:
            return bool((users >= 0).all())
        activity = self.friends.lift.activity
        last = activity.instants.max(initial=0)
        past = bool((instants(requests) > last).all())
        return past and activity.half_life is None and bool((users >= 0).all())

    @cached_property
    def _kept(self) -> Kept:
        return Kept(max(MOST_AT_ONCE, MOST_CELLS_KEPT // max(1, len(self.candidates))))

    def _score(self, requests: pd.DataFrame) -> Slate:
        """Score unseen candidates by base and friends."""
        slate = Slate(requests, self.candidates)
        for step in (self.base, self.friends):
            slate = slate if step is None else step(slate)
        seen = self.base.history(requests)[:, self.candidates].toarray() > 0
        return replace(slate, items=np.where(seen, EMPTY, slate.grid))

    def _read(
        self, contexts: Sequence[Context], requests: pd.DataFrame
    ) -> tuple[np.ndarray, pd.DataFrame | None]:
        """Rows of the context's multipliers, (M, R), and the moments where they are needed."""
        if self.context is None:
            return np.empty((0, len(requests)), np.int64), None
        asked = contexts, requests["user"].to_numpy()
        joint = self.context.joint is not None
        return self._reader.codes(*asked), self._reader.moments(*asked) if joint else None

    @cached_property
    def _reader(self) -> ContextReader:
        return ContextReader(self.context)

    def warm_up(self) -> None:
        """Do what is done once, and score those who are kept, before anybody waits for it."""
        busiest = np.argsort(-self.data.user_counts, kind="stable")[: self._kept.most]
        for start in range(0, len(busiest), MOST_AT_ONCE):
            users = self.data.user_ids[busiest[start : start + MOST_AT_ONCE]]
            self.recommend(list(users), k=1, explain=True)

    @property
    def steps(self) -> tuple[Any, ...]:
        """Base, friends and context, as far as they are there."""
        layers = (self.base, self.friends, self.context)
        return tuple(step for step in layers if step is not None)

    @property
    def clock(self) -> Clock:
        """How instants are read."""
        return Clock() if self.context is None else self.context.clock

    @cached_property
    def candidates(self) -> np.ndarray:
        """Titles that may be listed, int64: those with events, or known to the base by metadata."""
        known = self.data.item_counts > 0
        if self.base.fold is not None:
            known = known | (np.diff(self.base.fold.metadata.matrix.indptr) > 0)
        return np.flatnonzero(known)

    @cached_property
    def explainer(self) -> Explainer:
        """What gives reasons."""
        return Explainer.of(self.data, self.base, self.context, self.friends)

    def _requests(
        self, users: Sequence[str | Newcomer], contexts: Sequence[Context]
    ) -> pd.DataFrame:
        known = [name for name in users if isinstance(name, str)]
        codes = dict(zip(known, self.data.user_ids.get_indexer(known), strict=True))
        user = [codes[each] if isinstance(each, str) else -1 for each in users]
        requests = pd.DataFrame({"user": np.array(user, np.int32)})
        at = [
            None if each.at is None else pd.Timestamp(each.at).tz_convert(None).to_datetime64()
            for each in contexts
        ]
        if any(instant is not None for instant in at):
            requests["at"] = pd.DatetimeIndex(np.array(at, "datetime64[us]")).tz_localize("UTC")
        new = [each if isinstance(each, Newcomer) else Newcomer() for each in users]
        if any(each.liked or each.profile for each in new):
            requests[LIKED] = pd.Series([self._codes(each.liked) for each in new], dtype=object)
            traits = [self.profiles.traits(each.profile) for each in new]
            requests[TRAITS] = pd.Series(traits, dtype=object)
        return requests

    def _codes(self, liked: Sequence[str]) -> tuple[int, ...]:
        codes = self.data.item_ids.get_indexer(list(liked))
        if (codes < 0).any():
            missing = [name for name, code in zip(liked, codes, strict=True) if code < 0]
            raise ValueError(f"no titles {', '.join(missing)} among {len(self.data.item_ids)}")
        return tuple(dict.fromkeys(codes.tolist()))

    def _basis(self, requests: pd.DataFrame) -> tuple[Basis, ...]:
        users = requests["user"].to_numpy()
        history = (users >= 0) & (self.data.user_counts > 0)[users]
        told, liked = self.base.new(requests), False
        if LIKED in requests:
            liked = np.diff(self.base.known_of(requests)[0].indptr) > 0
        names = np.where(liked, "liked titles", "profile")
        names = np.where(history, "history", np.where(told, names, "popularity"))
        return tuple(names.tolist())

    # -------------------------------------------------------------- for groups

    def recommend_group(
        self,
        members: Sequence[str],
        context: Context = ANYTIME,
        k: int = 10,
        *,
        strategy: str = "nash",
        weights: Sequence[str] = (),
        satisfaction: Sequence[float] | None = None,
        presence: Sequence[float] | None = None,
        unseen: Unseen = "all",
        kids: bool = False,
    ) -> GroupList:
        """Make one list for several people.

        Parameters
        ----------
        members : sequence of str
            Ids; somebody who is not in the data is a guest.
        context : Context
        k : int
        strategy : str
            A key of :data:`~firetv.group_reasons.STRATEGIES`.
        weights : sequence of str
            Who counts more: keys of :data:`~firetv.member_weights.WEIGHTS`.
        satisfaction, presence : sequence of float, optional
            For each member, 0..1 or NaN; see :mod:`firetv.member_weights`.
        unseen : {"all", "some", "off"}
            To whom titles must be new.
        kids : bool
            Whether only titles for children are shown while a child is there.

        Raises
        ------
        ValueError
            If a name is unknown, the numbers do not fit, or no title is left.
        """
        if not 1 <= k <= LONGEST:
            raise ValueError(f"k {k} is not of 1 to {LONGEST}")
        if not 1 <= len(members) <= LARGEST:
            raise ValueError(f"a group has 1 to {LARGEST} members, not {len(members)}")
        factors = factors_of(
            weights, satisfaction=satisfaction is not None, presence=presence is not None
        )
        chosen = one_of(strategy, STRATEGIES, "strategies")
        codes = self.data.user_ids.get_indexer(list(members))
        people = tuple(np.where(codes < 0, GUEST, codes).tolist())
        request = context.requests(np.array([GUEST])).drop(columns="user").assign(members=[people])
        for column, given in (("satisfaction", satisfaction), ("presence", presence)):
            if given is not None:
                request[column] = [tuple(given)]
        step = GroupStep(
            member=Pipeline(self.steps),
            scale=self.chances,
            strategy=chosen,
            factors={factor.name: factor.fit(self.data) for factor in factors},
            suitable=Suitability().fit(self.data) if kids else None,
            seen=self.data.matrix(),
            unseen=unseen,
            k=k,
        )
        slate = Slate(request, self.candidates)
        lists = step(slate)
        if (lists.items == EMPTY).all():
            raise ValueError("no title is left to show: ask for less that is unseen, or for all")
        views = step.views(slate, lists)
        there = views.drop_duplicates("member")["user"].to_numpy()
        told = table(lists, views, names_of(self.data, there), self.data, step.strategy)
        return GroupList(lists, views, told, records(told, lists, views, self.data))

    # -------------------------------------------------------------- for titles, and of friends

    def similar(self, content: str, k: int = 10) -> pd.DataFrame:
        """List titles that are watched by the same people, or that are described alike.

        Of a linear model, what having seen the title says for others; of a factor model, the cosine
        of their vectors, scaled as people's vary; of a blend, the weighted mean of both, each in
        deviations from its mean.

        Returns
        -------
        DataFrame of at most k rows
            ``content_id``, ``title``, ``similarity``, best first.

        Raises
        ------
        ValueError
            If there is no such title, or `k` is not of 1..100.
        """
        if not 1 <= k <= LONGEST:
            raise ValueError(f"k {k} is not of 1 to {LONGEST}")
        (code,) = self.data.item_ids.get_indexer([content])
        if code < 0:
            raise ValueError(f"{content!r} is not one of the {len(self.data.item_ids)} titles")
        others = self.candidates[self.candidates != code]
        likeness = self.base.likeness(int(code), others)
        slots = best(likeness[None], k)[0]
        items = others[slots]
        return pd.DataFrame(
            {
                "content_id": pd.array(self.data.item_ids[items], dtype="str"),
                "title": pd.array(self.data.titles[items], dtype="str"),
                "similarity": likeness[slots],
            }
        )

    def notifications(
        self, users: Sequence[str], now: pd.Timestamp | None = None, policy: Policy = POLICY
    ) -> Notifications:
        """Choose what to tell people of the titles of their friends; nothing is recorded.

        Parameters
        ----------
        users : sequence of str
            Ids; who is not in the data has no friends.
        now : Timestamp with a time zone, optional
            Just after the last event by default.
        policy : Policy

        Raises
        ------
        ValueError
            See :func:`~firetv.notifications.notify`.
        """
        if now is None:
            now = self.data.end
        codes = self.data.user_ids.get_indexer(list(users))
        ranking = Pipeline(tuple(s for s in (self.base, self.friends) if s is not None))
        return notify(self.data, ranking, self.base, codes, now, policy=policy, clock=self.clock)


def _described(stage: Stage) -> dict[str, Any]:
    """A stage's parameters for reading: its name, and its fields."""
    fields = {
        name: _plain(value) for name, value in vars(stage).items() if not name.startswith("_")
    }
    return {type(stage).__name__: fields}


def _plain(value: Any) -> Any:  # noqa: ANN401
    if hasattr(value, "fit"):
        return _described(value)
    if hasattr(value, "__dataclass_fields__"):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def data_of(data: Dataset) -> dict[str, Any]:
    """Name, checksum and size of data: what a recommender that was trained on them says."""
    frames = (data.interactions, data.reactions, data.users, data.content)
    users, items = data.shape
    return {
        "name": data.manifest.get("name", ""),
        "checksum": checksum(*frames),
        "users": users,
        "titles": items,
        "events": len(data.interactions),
    }
