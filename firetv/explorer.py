"""The explorer: what is asked about a list, and all that is shown of it.

A :class:`Choice` says for whom, in which moment, and what counts how much; :class:`Explorer` makes
a :class:`View` of it, in which every title has its ledger, a sentence, and what the moment did to
its place. Nothing here knows how that looks: :mod:`firetv.explorer_html` writes it as HTML, and
:mod:`firetv.widgets` wires controls to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from firetv.context import PREFIX, ContextBoost, ContextReader
from firetv.data import Dataset
from firetv.explain import POPULARITY, TASTE
from firetv.explorer_view import Left, Member, News, Part, Row, View
from firetv.group_metrics import satisfaction
from firetv.group_reasons import STRATEGIES, names_of, table
from firetv.groups import GROUP, TURN, GroupStep, Members
from firetv.member_weights import factors_of
from firetv.moments import NO_FESTIVAL, Clock, Context
from firetv.moves import moves, moves_by_rank
from firetv.packaged import base_model
from firetv.panels import LARGEST
from firetv.recommender import Kept, Recommender, data_of
from firetv.schema import DataError, one_of
from firetv.sentences import together
from firetv.slate import EMPTY, ExcludeSeen, Pipeline, Slate, top
from firetv.social import PART as FRIENDS
from firetv.social import FriendBoost

LENGTH = 10  # of a list
MOST_KEPT = 200  # people whose scored candidates are remembered
MOST_TOLD = 100  # people and instants whose notifications are
MOMENT = "moment"  # all parts of the context together
PARTS = (TASTE, MOMENT, FRIENDS, POPULARITY)  # of one person's list, as bars are stacked
FRIENDS_COUNT = 0.3  # what a trained explorer's friends count; learned, they may count nothing
OF_PERSON = "Bars: how far each part lifts a title above the mean of all that {name} has not seen."
OF_GROUP = "Bars: what a title is worth by {strategy}, member by member."
OF_ALL = "Bars: the one score that {strategy} gives a title for all of them."
DEALT = "Places are dealt by turns, which bars leave out."


@dataclass(frozen=True)
class Choice:
    """What is asked.

    Attributes
    ----------
    people : tuple of str
        Ids of users; more than one are a group before one screen.
    at : datetime with a time zone
    weather, festival, companion : str or None
        As in :class:`~firetv.moments.Context`; a festival that is not said is the calendar's.
    strategy : str
        Of a group: a key of :data:`~firetv.group_reasons.STRATEGIES`.
    weights : tuple of str
        Who counts more in a group: keys of :data:`~firetv.member_weights.WEIGHTS`.
    moment, friends : float
        Factors on what these parts count in the recommender, not below 0.

    Raises
    ------
    ValueError
        If a value is unknown or out of range.
    """

    people: tuple[str, ...]
    at: datetime
    weather: str | None = None
    festival: str | None = None
    companion: str | None = None
    strategy: str = "nash"
    weights: tuple[str, ...] = ()
    moment: float = 1.0
    friends: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= len(set(self.people)) <= LARGEST:
            raise ValueError(f"name 1 to {LARGEST} people, not {len(set(self.people))}")
        if min(self.moment, self.friends) < 0:
            raise ValueError(f"moment {self.moment} or friends {self.friends} is below 0")
        one_of(self.strategy, STRATEGIES, "strategies")
        factors_of(self.weights, satisfaction=False, presence=False)
        _ = self.context  # refuses what it does not know

    @property
    def context(self) -> Context:
        """The moment."""
        return Context(self.at, self.weather, self.festival, self.companion)


@dataclass(frozen=True)
class Explorer:
    """A recommender, and what is remembered of the people who were looked at.

    Friends count with all that they ever did, whatever the moment: the data are the past.

    Attributes
    ----------
    recommender : Recommender
        With a context.
    """

    recommender: Recommender
    told: dict[tuple[str, datetime], News] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.recommender.context is None:
            raise ValueError("a recommender without context has no moments to explore")

    @property
    def data(self) -> Dataset:
        """What the recommender knows."""
        return self.recommender.data

    # -------------------------------------------------------------- the list

    def view(self, choice: Choice) -> View:
        """Make the list and everything beside it.

        Raises
        ------
        ValueError
            If somebody is not in the data, or no title is left to show.
        """
        users = self._codes(choice.people)
        alone = self._scored(users, choice)
        parts = self._of_person if len(users) == 1 else self._of_group
        view = parts(alone, choice)
        if not view.rows:
            raise ValueError("no title is left that is new to all of them")
        return view

    def _codes(self, people: Sequence[str]) -> np.ndarray:
        people = list(dict.fromkeys(people))
        codes = self.data.user_ids.get_indexer(people)
        if (codes < 0).any():
            missing = [name for name, code in zip(people, codes, strict=True) if code < 0]
            known = ", ".join(self.data.user_ids[:2])
            raise ValueError(
                f"{together(missing)}: not among {len(self.data.user_ids)} people, such as {known}"
            )
        return codes

    def _scored(self, users: np.ndarray, choice: Choice) -> Slate:
        """All candidates of some people, what they have seen left out, with the whole ledger."""
        contexts = [choice.context] * len(users)
        slate = self._kept.of(users, self._score)
        slate = replace(slate, requests=choice.context.requests(users))
        codes = self._reader.codes(contexts, users)
        moments = self._reader.moments(contexts, users)
        slate = self.recommender.context.at(slate, codes, moments)
        factors = {name: choice.moment for name in slate.parts if name.startswith(PREFIX)}
        factors[FRIENDS] = choice.friends
        parts = {n: part * np.float32(factors.get(n, 1)) for n, part in slate.parts.items()}
        return replace(slate, parts=parts)

    def _score(self, requests: pd.DataFrame) -> Slate:
        return self._before(Slate(requests, self.recommender.candidates))

    @cached_property
    def _before(self) -> Pipeline:
        """What does not depend on the moment."""
        known = self.recommender.base, self.recommender.friends
        unseen = ExcludeSeen().fit(self.data)
        return Pipeline((*(step for step in known if step is not None), unseen))

    @cached_property
    def _kept(self) -> Kept:
        return Kept(MOST_KEPT)

    @cached_property
    def _reader(self) -> ContextReader:
        return ContextReader(self.recommender.context)

    def _of_person(self, after: Slate, choice: Choice) -> View:
        moved = moves(_without_moment(after), after, self.recommender.context, self.data, LENGTH)
        listed = top(LENGTH)(after)
        listed = listed.take(np.flatnonzero(listed.grid[0] != EMPTY)[None])
        codes = self._reader.codes([choice.context], after.users)
        reasons = self.recommender.explainer(listed, codes)[0]
        why = ["; ".join(reason.text for reason in told) for told in reasons]
        lifts = _lifts(after, np.searchsorted(self.recommender.candidates, listed.grid[0]))
        stacked = {self._marked(part): values for part, values in lifts.items()}
        names = tuple(names_of(self.data, after.users))
        return View(
            names=names,
            moment=self._words(choice, after.users),
            rows=self._rows(listed.grid[0], stacked, why, moved),
            left=_left(moved),
            members=(),
            scale=OF_PERSON.format(name=names[0]),
            notes=self._notes(choice),
        )

    def _of_group(self, alone: Slate, choice: Choice) -> View:
        step = self._step(alone, choice)
        request = choice.context.requests(alone.users[:1]).assign(members=[tuple(alone.users)])
        candidates = Slate(request, self.recommender.candidates)
        (members,) = step.members(candidates)
        lists = _listed(step, members, request)
        former = _listed(step, replace(members, alone=_without_moment(alone)), request)
        views, names = step.views(candidates, lists), tuple(names_of(self.data, alone.users))
        told = table(lists, views, names, self.data, step.strategy)
        moved = self._moved(alone, lists.grid[0], former.grid[0])
        ledger = {name: part[0] for name, part in lists.parts.items() if name != TURN}
        stacked = {_part(name, names): values for name, values in ledger.items()}
        places = views["rank"].to_numpy(int).reshape(len(names), -1).T
        scale = (OF_ALL if GROUP in ledger else OF_GROUP).format(strategy=choice.strategy)
        return View(
            names=names,
            moment=self._words(choice, alone.users[:1]),
            rows=self._rows(lists.grid[0], stacked, told["why"].tolist(), moved, places),
            left=_left(moved),
            members=_members(step.panel(members).opinions[0], views, names),
            scale=f"{scale} {DEALT}" if TURN in lists.parts else scale,
            notes=self._notes(choice),
        )

    def _step(self, alone: Slate, choice: Choice) -> GroupStep:
        """What makes the list of a group whose members were scored already."""
        factors = factors_of(choice.weights, satisfaction=False, presence=False)
        return GroupStep(
            member=lambda _: alone,
            scale=self.recommender.chances,
            strategy=STRATEGIES[choice.strategy],
            factors={factor.name: factor.fit(self.data) for factor in factors},
            suitable=None,
            seen=self.data.matrix(),
            unseen="all",
            k=LENGTH,
        )

    def _moved(self, alone: Slate, items: np.ndarray, was: np.ndarray) -> pd.DataFrame:
        """What moved between two lists of a group, and the members' mean reason for it.

        The ledger of a group has no part for the moment: that of its members has.
        """
        both = np.r_[items, np.setdiff1d(was, items)]
        slots = np.searchsorted(self.recommender.candidates, both)
        lifts = {
            name: part[:, slots].mean(axis=0)
            for name, part in alone.parts.items()
            if name.startswith(PREFIX)
        }
        listed = pd.Index(was).get_indexer(both)
        beyond = len(was) + np.cumsum(listed < 0)
        moved = moves_by_rank(
            both,
            np.where(listed < 0, beyond, listed + 1),
            np.arange(1, len(both) + 1),
            lifts,
            self.recommender.context,
            alone.requests.iloc[:1],
            self.data,
            len(items),
        )
        unlisted = ~moved["content_id"].isin(self.data.item_ids[was])
        return moved.assign(before=moved["before"].mask(unlisted))

    def _rows(
        self,
        items: np.ndarray,
        stacked: Mapping[Part, np.ndarray],
        why: Sequence[str],
        moved: pd.DataFrame,
        places: np.ndarray | None = None,
    ) -> tuple[Row, ...]:
        before = moved["before"].astype(object).where(moved["before"].notna(), None).tolist()
        rows = []
        for slot, item in enumerate(items.tolist()):
            parts = tuple(replace(p, value=float(v[slot])) for p, v in stacked.items())
            rows.append(
                Row(
                    rank=slot + 1,
                    content_id=self.data.item_ids[item],
                    title=str(self.data.titles[item]),
                    parts=parts,
                    score=sum(part.value for part in parts),
                    why=why[slot],
                    before=before[slot],
                    because=moved["reason"].iat[slot],
                    places=() if places is None else tuple(places[slot].tolist()),
                )
            )
        return tuple(rows)

    def _words(self, choice: Choice, users: np.ndarray) -> str:
        moment = self._reader.moments([choice.context] * len(users), users).iloc[0].dropna()
        said = [v for name, v in moment.items() if (name, v) != ("festival", NO_FESTIVAL)]
        return ", ".join(said)

    def _notes(self, choice: Choice) -> tuple[str, ...]:
        """Say what is simulated of what is shown, and whether the list knows the future."""
        notes, end = [], self.data.end
        if pd.Timestamp(choice.at) < end:
            notes.append(f"The list rests on all that happened until {end:%Y-%m-%d}, later too.")
        if self.friends_simulated and self.recommender.friends is not None:
            notes.append("Friends are simulated in these data.")
        kinds = self.data.manifest.get("columns", {}).get("watch_history", {})
        drawn = [name for name in ("weather", "companion") if kinds.get(name) == "simulated"]
        if drawn:
            are = "is" if len(drawn) == 1 else "are"
            notes.append(
                f"The {' and '.join(drawn)} of their events {are} simulated; what is chosen here "
                f"counts by {_source(self.recommender)}."
            )
        return tuple(notes)

    def _marked(self, part: Part) -> Part:
        """The part, with a word on what is simulated."""
        drawn = part.name == FRIENDS and self.friends_simulated
        return replace(part, name=f"{part.name} (simulated)") if drawn else part

    @cached_property
    def friends_simulated(self) -> bool:
        """Whether the data say that friends were drawn."""
        kinds = self.data.manifest.get("columns", {}).get("user_connections", {})
        return "simulated" in kinds.values()

    # -------------------------------------------------------------- beside the list

    def news(self, choice: Choice) -> News:
        """What the first of them would be told of friends at that instant.

        It is remembered: it takes longer than the list does, and most choices do not change it.

        Raises
        ------
        ValueError
            If they are not in the data.
        """
        person = choice.people[0]
        key = person, choice.at
        if key not in self.told:
            (name,) = names_of(self.data, self._codes([person]))
            found = self.recommender.notifications([person], pd.Timestamp(choice.at))
            lines = tuple(zip(found.rows["text"], found.rows["title"], strict=True))
            if len(self.told) >= MOST_TOLD:
                self.told.clear()
            self.told[key] = News(name, lines, str(found), self.friends_simulated)
        return self.told[key]

    def examples(self, at: datetime) -> dict[str, tuple[str, ...]]:
        """People worth a first look: one with news of friends, with one friend, with three.

        Returns
        -------
        dict of str to tuple of str
            What to call them, and their ids; the first user alone where nobody has friends.
        """
        told = self.recommender.notifications(list(self.data.user_ids), pd.Timestamp(at)).rows
        count = told.groupby("user_id", sort=False)["watched"].sum()
        first = count.idxmax() if len(count) else self.data.user_ids[0]
        found = {"one person": (first,)}
        if self.data.friends is None:
            return found
        ties = self.data.friends[[self.data.user_ids.get_loc(first)]].toarray()[0]
        closest = self.data.user_ids[np.argsort(-ties, kind="stable")[: np.count_nonzero(ties)]]
        for size, called in ((1, "with a friend"), (3, "with three friends")):
            if len(closest) >= size:
                found[called] = (first, *closest[:size])
        return found


def _source(recommender: Recommender) -> str:
    """What the multipliers of a moment come from."""
    learned = any(m.reasons["low"].notna().any() for m in recommender.context.multipliers)
    return "multipliers learned from them" if learned else "rules written by hand"


def _without_moment(slate: Slate) -> Slate:
    parts = {name: part for name, part in slate.parts.items() if not name.startswith(PREFIX)}
    return replace(slate, parts=parts)


def _lifts(slate: Slate, slots: np.ndarray) -> dict[Part, np.ndarray]:
    """Parts of some slots of the only request, minus their means over all that are not empty."""
    there, found = slate.grid[0] != EMPTY, dict[str, np.ndarray]()
    for name, part in slate.parts.items():
        kind = MOMENT if name.startswith(PREFIX) else name
        values = part[0].astype(float)
        found[kind] = found.get(kind, 0) + values[slots] - values[there].mean()
    order = dict.fromkeys((*PARTS, *found))
    return {Part(name, n): found[name] for n, name in enumerate(order) if name in found}


def _part(name: str, names: Sequence[str]) -> Part:
    """Name a part of a group's ledger: whose it is, and which factor of their weight."""
    if name == GROUP:
        return Part(name, 0)
    number, _, factor = name.removeprefix("member:").partition("/")
    member = int(number) - 1
    return Part(names[member] + (f", {factor}" if factor else ""), member, bool(factor))


def _left(moved: pd.DataFrame) -> tuple[Left, ...]:
    gone = moved[moved["rank"].isna()]
    return tuple(
        Left(row.title, int(row.before), row.reason) for row in gone.itertuples(index=False)
    )


def _listed(step: GroupStep, members: Members, request: pd.DataFrame) -> Slate:
    """The list of one group, without empty slots."""
    slots, ledger = step.choose(members, {"": step.strategy})[""]
    there = np.flatnonzero(np.take_along_axis(members.valid, slots, axis=1)[0])
    items = np.take_along_axis(members.items, slots, axis=1)
    return Slate(request, items, ledger).take(there[None])


def _members(opinions: np.ndarray, views: pd.DataFrame, names: Sequence[str]) -> tuple[Member, ...]:
    """How well a list serves each, by opinions (M, K), which are 0 of what cannot be shown."""
    best = -np.sort(-opinions.astype(float), axis=1)[:, :LENGTH].sum(axis=1)
    of = views.astype({"opinion": float}).groupby("member")
    shares = satisfaction(of["opinion"].sum().to_numpy(), best)
    return tuple(map(Member, names, shares.tolist(), of["weight"].first().tolist()))


# ------------------------------------------------------------------ a recommender to look at


def prepared(
    data: Dataset, folder: Path, base: str = "ease", clock: Clock | None = None
) -> Explorer:
    """Load the explorer's recommender, or train and save it where none fits.

    Parameters
    ----------
    data : Dataset
    folder : Path
        Where it is, or is to be. What was trained on other data, from another base or clock, or by
        another version is trained anew.
    base : str
        See :func:`~firetv.packaged.base_model`.
    clock : Clock, optional
        UTC without a calendar by default.
    """
    clock = clock or Clock()
    wanted = {"base": base, "clock": repr(clock), "version": version("firetv")}
    about = {"data": data_of(data), "explorer": wanted}
    try:
        found = Recommender.load(folder)
    except DataError:
        found = None
    if found is not None and about.items() <= found.about.items():
        return Explorer(found)
    boost = ContextBoost("rules", strength=1.0, clock=clock)
    friends = FriendBoost(strength=FRIENDS_COUNT)
    made = Recommender.train(data, base_model(base), boost, friends)
    made = replace(made, about={**made.about, **about})
    made.save(folder)
    return Explorer(made)
