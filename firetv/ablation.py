"""The whole system with and without each of its parts, for people and for groups.

:func:`ablate` asks for held-out events one by one, each in its own moment, first for whoever
watched, then for them and others before one screen. The same base model is asked alone, with
context, with friends, with both, and with both at strengths of each user's own. Beside them stands
a placebo: the whole system, told of contexts that changed places and of somebody else's friends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from firetv.choices import later_slice, some
from firetv.context import ContextBoost
from firetv.data import Dataset
from firetv.evaluate import Once, measure, permuted_moments, run, run_all, with_moments
from firetv.groups import ForGroups
from firetv.households import household_members, without
from firetv.layers import (
    LeftOut,
    Settings,
    group_rows,
    learned_context,
    only,
    rank_bases,
    simulated,
)
from firetv.models import Popular
from firetv.moments import UTC_CLOCK, describe_of
from firetv.multipliers import FEWEST
from firetv.opinions import Standardised
from firetv.personal import Personal, Unscaled
from firetv.schema import DIMENSIONS, EVENT_TABLES
from firetv.slate import Stage, chain, seen_by, with_seed
from firetv.social import FriendBoost
from firetv.splits import Split, each_event, event_folds
from firetv.strategies import Average
from firetv.trust import rewired

TIME = ("daypart", "daytype", "season")  # what an instant tells of the moment
HALF_LIFE = 14.0  # days, of what friends watched, where times mean something
MOST_TRIED = 1000  # events that the kind of context is chosen by
FULL = 1.0  # strength of re-rankers before personal ones
POPULAR, BASE = "Popular", "base"
CONTEXT, FRIENDS, BOTH = "+ context", "+ friends", "+ both"
PERSONAL, PLACEBO = "personal", "placebo"
PEOPLE, GROUPS = "people", "groups"
ORDER = (POPULAR, BASE, CONTEXT, FRIENDS, BOTH, PERSONAL, PLACEBO)
METRICS = ("ndcg",)


@dataclass(frozen=True)
class Case:
    """A data set to take the system apart on.

    Attributes
    ----------
    name : str
    data : Dataset
    ordered : bool
        Whether times are real, or planted: then the last events are asked for, moments are read
        from them, and friends' viewings fade. Otherwise events are dealt to folds.
    """

    name: str
    data: Dataset
    ordered: bool

    @property
    def planted(self) -> bool:
        """Whether even the times are simulated: a world of which all is known."""
        return self.ordered and simulated(self.data, EVENT_TABLES, "timestamp")

    def dimensions(self) -> tuple[str, ...]:
        """Dimensions of the moment that are known: simulated ones only in a planted world."""
        events = self.data.interactions
        told = [
            name
            for name in (*DIMENSIONS, *self.data.own_dimensions)
            if name in events
            and events[name].nunique() > 1
            and events[name].count() >= FEWEST
            and (self.planted or not simulated(self.data, EVENT_TABLES, name))
        ]
        return tuple(dict.fromkeys([*(TIME if self.ordered else ()), *told]))

    @property
    def rows(self) -> np.ndarray:
        """User codes of groups that are users themselves."""
        return group_rows(self.data)


@dataclass(frozen=True)
class Ablation:
    """What was measured on one data set.

    Attributes
    ----------
    case : Case
    base : str
        The model under all variants, chosen within what is learned from; where folds chose several,
        all of them.
    dimensions : tuple of str
        Of the moment.
    friends : str
        Where friends come from: ``observed``, ``simulated``, or nothing.
    values : DataFrame
        As :func:`firetv.evaluate.measure` gives it, and ``who``: people or groups, whose requests
        are numbered apart; ``history``, how many titles the user has watched; ``members`` before
        the screen; and ``daypart``, if known.
    """

    case: Case
    base: str
    dimensions: tuple[str, ...]
    friends: str
    values: pd.DataFrame


def variants(
    base: Stage, context: ContextBoost | None, friends: FriendBoost | None
) -> dict[str, Stage]:
    """The system with and without each of its parts, by name; only such as differ.

    Parameters
    ----------
    base : Stage
    context : ContextBoost, optional
    friends : FriendBoost, optional
        Both learn how much they count, but in ``personal``, where that is learned for each user.
    """
    found: dict[str, Stage] = {BASE: base}
    if context is not None:
        found[CONTEXT] = chain(base, context)
    if friends is not None:
        found[FRIENDS] = chain(base, friends)
    if context is not None and friends is not None:
        found[BOTH] = chain(base, friends, context)
    told = [each for each in (friends, context) if each is not None]
    whole = [Unscaled(replace(each, strength=FULL)) for each in told]
    return found | ({PERSONAL: chain(base, *whole, Personal())} if whole else {})


def choose_context(
    base: Stage, train: Dataset, dimensions: Sequence[str], settings: Settings
) -> ContextBoost:
    """Choose what has lifts in a moment: genres alone, or single titles and past moments too.

    Both are tried on the last events of what is learned from; where these are too few, it is genres
    alone.
    """
    rich = learned_context(train, dimensions)
    plain = replace(rich, items=False, joint=False)
    try:
        earlier, late = later_slice(train, settings.test_share)
        late = some(late, MOST_TRIED, np.random.default_rng(0))
        inner = each_event("inner", earlier, late)
        tried = {"plain": chain(base, plain), "rich": chain(base, rich)}
        values = measure(run_all(tried, inner, settings.seeds[:1], settings.k))
    except ValueError:
        return plain
    means = values.groupby("model")["value"].mean()
    return rich if means["rich"] > means["plain"] else plain


def ablate(
    case: Case,
    settings: Settings | None = None,
    asked: int = 2000,
    size: int = 3,
    n_jobs: int = 1,
) -> Ablation:
    """Measure every variant that the data allow, for people and for groups.

    Parameters
    ----------
    case : Case
    settings : Settings, optional
    asked : int
        Events to ask for, drawn at random where there are more.
    size : int
        Members of a group where the data have none: whoever watched, and others at random.
    n_jobs : int
        Fits side by side.

    Returns
    -------
    Ablation
        In nDCG at ``settings.k``, a value for each request.

    Raises
    ------
    ValueError
        If the data are too small to learn from or to ask for, nothing is asked for, or a group is
        of fewer than two.

    Notes
    -----
    Groups are the households of the data, or made up. One title is to be found for each group: what
    one of them watched at that moment, new to all of them. Where households have histories of their
    own it is what they watched, taken out of their members' histories.
    """
    if asked < 1 or size < 2:
        raise ValueError(f"ask for 1 event or more, not {asked}, and 2 people or more, not {size}")
    settings, data = settings or Settings(), case.data
    names = case.dimensions()
    questions = _questions(case, names, settings, asked, size)
    half_life = HALF_LIFE if case.ordered else None
    friends = FriendBoost(half_life=half_life) if data.friends is not None else None
    bases, work = [], []
    untold = ("friends", *DIMENSIONS, *data.own_dimensions)  # nor is any base told by `rank_bases`
    for asked_of in questions:
        train = _train(asked_of)
        tried, ranked, _ = rank_bases(train, settings)
        bases.append(ranked[0])
        base = Once(tried[ranked[0]], untold)
        context = choose_context(base, train, names, settings) if names else None
        stages = {POPULAR: Popular()} | variants(base, context, friends)
        work += _work(stages, asked_of, settings, case.ordered)
    values = _ask_all(work, n_jobs)
    drawn = simulated(data, ("user_connections",), "friend_id")
    come = "" if friends is None else "simulated" if drawn else "observed"
    return Ablation(case, ", ".join(dict.fromkeys(bases)), names, come, values)


def _work(
    stages: Mapping[str, Stage], asked_of: Mapping[str, Split], settings: Settings, timed: bool
) -> list[tuple]:
    """What :func:`_ask` is to do: all stages, and the fullest where it learns nothing true."""
    fullest = next((stages[name] for name in (BOTH, CONTEXT, FRIENDS) if name in stages), None)
    work = []
    for seed in settings.seeds:
        how = seed, settings.k, timed
        work += [(name, stage, asked_of, *how) for name, stage in stages.items()]
        if fullest is not None:
            train = misled(_train(asked_of), seed)
            blind = {who: replace(split, train=train) for who, split in asked_of.items()}
            work.append((PLACEBO, fullest, blind, *how))
    return work


def _train(asked_of: Mapping[str, Split]) -> Dataset:
    """What is learned from by those who are asked together."""
    return next(iter(asked_of.values())).train


def _ask_all(work: Sequence[tuple], n_jobs: int) -> pd.DataFrame:
    """Ask, side by side; models in the order of :data:`ORDER`."""
    with threadpool_limits(1, "blas"):
        parallel = Parallel(n_jobs, backend="threading", return_as="generator")  # bases are shared
        jobs = parallel(delayed(_ask)(*each) for each in work)
        frames = list(tqdm(jobs, total=len(work), desc="variants"))
    values = pd.concat(frames, ignore_index=True)
    by = {"key": lambda name: name.map(ORDER.index), "kind": "stable", "ignore_index": True}
    return values.sort_values("model", **by)


def _ask(
    name: str, stage: Stage, asked_of: Mapping[str, Split], seed: int, k: int, timed: bool
) -> pd.DataFrame:
    """Learn once, then ask for people and for groups."""
    step = chain(chain(with_seed(stage, seed)).fit(_train(asked_of)))
    stages = {PEOPLE: step, GROUPS: ForGroups(step, Average(), Standardised(), k=k)}
    frames = []
    for who, split in asked_of.items():
        values = measure([run(name, stages[who], split, seed, k)], METRICS)
        frames.append(_described(values, split, timed).assign(who=who))
    return pd.concat(frames)


def _described(values: pd.DataFrame, split: Split, timed: bool) -> pd.DataFrame:
    """Say of each request what it may be told apart by; moments follow from times that are real."""
    requests, row = split.requests, values["request"].to_numpy()
    moments = requests if timed else requests.drop(columns="at")
    daypart = describe_of(moments, split.train.users, UTC_CLOCK)["daypart"].array
    members = requests["members"].map(len) if "members" in requests else np.ones(len(requests), int)
    return values.assign(
        history=split.train.user_counts[requests["user"]][row],
        members=np.asarray(members)[row],
        daypart=daypart.take(row),
    )


def misled(train: Dataset, seed: int) -> Dataset:
    """Shuffle the moments within each user, and give everybody the friends of somebody else."""
    return permuted_moments(with_moments(rewired(train, seed)), seed)


# ------------------------------------------------------------------ questions


def _questions(
    case: Case, names: Sequence[str], settings: Settings, asked: int, size: int
) -> list[dict[str, Split]]:
    """What people and groups are asked for, by what is learned from.

    Households with rows learn from other data than people do, whose copies are taken out.
    """
    splits = _splits(case, names, settings, asked)
    if not len(case.rows):
        return [{PEOPLE: split, GROUPS: _together(split, size)} for split in splits]
    households = _households(case, names, settings, asked)
    return [*({PEOPLE: split} for split in splits), {GROUPS: households}]


def _splits(case: Case, names: Sequence[str], settings: Settings, asked: int) -> list[Split]:
    """Held-out events of people, each a question: the last ones, or as many folds as it takes."""
    data = only(case.data, names)
    data = data.keep(~data.interactions["user"].isin(case.rows).to_numpy())
    rng = np.random.default_rng(0)
    if case.ordered:
        cut = _cut(case, settings)
        late = data.interactions[data.interactions["timestamp"] >= cut]
        return [_some(each_event("temporal", data.until(cut), late), asked, rng)]
    folds = max(2, round(1 / settings.test_share))
    found: list[Split] = []
    for split in event_folds(data, 0, folds):
        found.append(split)
        if (most := len(split.requests)) * len(found) >= asked or most == 0:
            break
    return [_some(split, -(-asked // len(found)), rng) for split in found]


def _cut(case: Case, settings: Settings) -> pd.Timestamp:
    """Instant before which everybody learns, people and households alike."""
    return case.data.interactions["timestamp"].quantile(1 - settings.test_share)


def _some(split: Split, most: int, rng: np.random.Generator) -> Split:
    """Ask some of the questions only."""
    return _pick(split, np.sort(rng.permutation(len(split.requests))[:most]))


def _pick(split: Split, rows: np.ndarray, what: str = "") -> Split:
    """Ask some of the questions; raise LeftOut if there are none."""
    if not len(rows):
        raise LeftOut(f"the {split.name} split has nothing to ask {what}for: use more events")
    requests = split.requests.iloc[rows].reset_index(drop=True)
    return replace(split, requests=requests, relevant=split.relevant[rows])


def _together(split: Split, size: int) -> Split:
    """Seat others beside whoever watched: their household, or people drawn at random."""
    users, train = split.requests["user"].to_numpy(), split.train
    if train.groups is not None:
        home = train.groups.groupby("group_id")["user"].agg(tuple)
        of = {user: people for people in home for user in people}
        members = [of.get(user, (user,)) for user in users.tolist()]
    else:
        members = _beside(users, train, size)
    alone = np.array([len(people) < 2 for people in members])
    row = np.repeat(np.arange(len(members)), [len(people) for people in members])
    everybody = np.concatenate([np.array(people, np.int64) for people in members])
    title = split.relevant.indices[row]  # of each request, one
    seen = seen_by(train.matrix(), everybody, title[:, None])[:, 0]
    known = np.bincount(row, seen, minlength=len(members)) > 0
    rows = np.flatnonzero(~(alone | known))
    found = _pick(split, rows, "groups ")
    people = pd.Series([members[r] for r in rows], dtype=object)
    return replace(found, requests=found.requests.assign(members=people))


def _beside(users: np.ndarray, train: Dataset, size: int) -> list[tuple[int, ...]]:
    """Each user and ``size - 1`` others who have watched anything, drawn without repeats."""
    rng = np.random.default_rng(0)
    known = rng.permutation(np.union1d(np.flatnonzero(train.user_counts), users))
    if len(known) < size:
        raise LeftOut(f"groups of {size} cannot be made of {len(known)} people")
    place = np.empty(known.max() + 1, np.int64)
    place[known] = np.arange(len(known))
    # Neighbours on a ring of all people, from a random distance on.
    away = rng.integers(1, len(known) - size + 2, len(users))[:, None] + np.arange(size - 1)
    others = known[(place[users][:, None] + away) % len(known)]
    return list(map(tuple, np.column_stack([users, others]).tolist()))


def _households(case: Case, names: Sequence[str], settings: Settings, asked: int) -> Split:
    """What households with a history of their own watched, hidden from them and their members."""
    data, rng = only(case.data, names), np.random.default_rng(0)
    known = data.groups[data.groups["group_id"].isin(data.user_ids)]
    data = replace(data, groups=known)
    events = data.interactions[data.interactions["user"].isin(case.rows)]
    if case.ordered:
        cut = _cut(case, settings)
        late, data = events[events["timestamp"] >= cut], data.until(cut)
    else:
        late = events[rng.random(len(events)) < settings.test_share]
    late = some(late, asked, rng)
    people = household_members(data)
    train = without(data, late["user"].to_numpy(), late["item"].to_numpy())
    train = train.keep(~train.interactions["user"].isin(case.rows).to_numpy())
    split = each_event("households", train, late, missed=True)
    there = np.flatnonzero(train.item_counts[split.relevant.indices] > 0)
    split = _pick(split, there, "households ")
    members = pd.Series([people[row] for row in split.requests["user"]], dtype=object)
    return replace(split, requests=split.requests.assign(members=members))
