"""A simulated live test: people of a synthetic world meet each variant for some weeks.

Offline figures are about people who saw other lists. Here it is known what the same people would
have done with each variant, night after night: what they watched changed what they saw next, how
content they were, and whether they came back. So it is known too whether an offline figure ranks
variants as a live test would, which is what :func:`agreement` says. It is a simulation: its
assumptions are those of :class:`Viewers` and of :mod:`firetv.world`, and nothing else is shown.

Examples
--------
>>> from firetv.slate import Slate
>>> from firetv.world import World, plant
>>> setting = plant(World(users=200, content=60, watch_events=1))
>>> def known(slate: Slate) -> Slate:
...     return slate.add("known", np.log(setting.truth.popularity)[slate.items])
>>> def unknown(slate: Slate) -> Slate:
...     return slate.add("unknown", -np.log(setting.truth.popularity)[slate.items])
>>> outcomes = live_test({"known": known, "unknown": unknown}, setting, start_day=300, days=7)
>>> watched = outcomes.groupby("variant")["watched"].mean()
>>> bool(watched["known"] > watched["unknown"])
True
>>> len(assign(outcomes, {"known": 0.5, "unknown": 0.5}, seed=0))
200
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import rankdata

from firetv.clicks import ClickModel, PositionBased
from firetv.data import Dataset
from firetv.moments import NO_FESTIVAL
from firetv.schema import TIMESTAMP
from firetv.slate import EMPTY, Slate, Step, top
from firetv.synthetic import COMPANION_WEIGHTS, COMPLETION, HOUR_WEIGHTS, WEEKDAY_WEIGHTS
from firetv.world import CONTEXTS, Setting, context_codes, labels

CELLS = 2_000_000  # user x title cells of a variant held at once
COUNTS = 10_000_000  # replication x user cells held at once
RESAMPLES = 1000
LAST_WEEK = 7  # days
FEWEST = 3  # variants that can be ranked rightly or wrongly
DAILY = ("visits", "shown", "watched", "liked", "satisfaction")


@dataclass(frozen=True)
class Viewers:
    """What is assumed of people, on top of their tastes; each is a judgement, not a finding.

    Log-odds are added to those of coming on a day, or of wanting a title that is looked at
    (:meth:`firetv.world.Truth.appeal`). How much somebody likes what they watch is the share of it
    that they would watch by the world's law, from 0 to 1, by the match of tastes alone.

    Attributes
    ----------
    clicks : ClickModel
        Which positions are looked at. What is clicked is watched.
    visits : float
        Probability that a person of median activity comes on a usual day, at the `start`. Days of
        the week count as in the world, and odds are proportional to people's activity.
    start : float
        Satisfaction before the first day, from 0 to 1.
    learning : float
        Satisfaction moves by this share, each evening, towards how much was liked what was
        watched, on average; towards 0 if nothing was.
    loyalty : float
        Log-odds of coming for each unit of satisfaction above the start.
    fatigue : float
        Log-odds that a title loses with each showing that was not clicked.
    satiation : float
        Log-odds that a title loses with each recent viewing of its genres, which is all the
        novelty that people look for; below 0 they want more of the same. No title is watched twice.
    memory : float
        Days after which a showing, or a viewing's genres, count half.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    clicks: ClickModel = field(default_factory=PositionBased)
    visits: float = 0.4
    start: float = 0.5
    learning: float = 0.2
    loyalty: float = 2.0
    fatigue: float = 0.1
    satiation: float = 0.05
    memory: float = 7.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("visits", 1e-6, 1 - 1e-6),
            ("start", 0, 1),
            ("learning", 0, 1),
            ("loyalty", 0, 50),
            ("fatigue", 0, 50),
            ("satiation", -50, 50),
            ("memory", 1e-3, 1e6),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} {getattr(self, name)} must be from {low:g} to {high:g}")


# ------------------------------------------------------------------ the test


def live_test(
    variants: Mapping[str, Step],
    setting: Setting,
    start_day: int,
    days: int = 28,
    viewers: Viewers = Viewers(),
    k: int = 10,
    seed: int = 0,
    history: Dataset | None = None,
    by_day: bool = False,
) -> pd.DataFrame:
    """Let the same people live with each variant.

    All variants meet the same people with the same chance: who feels like television on which day
    and hour, with whom, which title they would then want, how far they read. So outcomes differ
    by what was shown alone, and those of a variant do not depend on which others are tested.

    Parameters
    ----------
    variants : mapping of name to Step
        Fitted before, on what came before `start_day`; they learn nothing here. Requests have
        ``user, at, weather, festival`` and, where the world has it, ``companion``; the candidates
        are empty where somebody has watched a title already, here or in the history.
    setting : Setting
        People, titles, tastes, and the weather and festivals of all days.
    start_day : int
        First day of the test, counted from that of the world.
    days : int
    viewers : Viewers
    k : int
        Length of the lists that are shown.
    seed : int
    history : Dataset, optional
        The world's events before the test: what people have watched, and which titles are
        candidates: those that anybody watched. Without it all are, and nobody watched anything.
    by_day : bool
        Whether to give each day a row.

    Returns
    -------
    DataFrame
        A row for each user and variant: ``user`` (code), ``variant``, ``visits`` (days), ``shown``
        and ``watched`` (titles), ``liked`` (sum over what was watched), ``satisfaction`` (at the
        end) and ``returned`` (1 if they came in the last seven days). With `by_day` also ``day``,
        and no ``returned``.

    Raises
    ------
    ValueError
        If days are not in the world, the history is of another world or reaches into the test, or
        there is nothing to test.
    """
    _check_test(variants, setting, start_day, days, k, history)
    people, titles = (len(x) for x in (setting.tables.users, setting.tables.content))
    frames = []
    for first in range(0, people, max(1, CELLS // titles)):
        users = np.arange(first, min(first + max(1, CELLS // titles), people))
        crowd = _Crowd.of(setting, viewers, users, start_day, history, seed)
        found = crowd.live(variants, start_day, days, k)
        frames += [_tidy(users, name, each, by_day) for name, each in found.items()]
    return pd.concat(frames, ignore_index=True)


def _check_test(
    variants: Mapping[str, Step],
    setting: Setting,
    start_day: int,
    days: int,
    k: int,
    history: Dataset | None,
) -> None:
    world = setting.truth.world
    if not variants or days < 1 or k < 1:
        raise ValueError(f"{len(variants)} variants, {days} days, lists of {k}: give one at least")
    if not 0 <= start_day <= world.days - days:
        raise ValueError(
            f"days {start_day} to {start_day + days - 1} are not all in a world of {world.days}: "
            "start earlier, or plant a longer world"
        )
    if history is None:
        return
    if history.shape != (world.users, world.content):
        raise ValueError(
            f"the history has {history.shape} users and titles, the world "
            f"{(world.users, world.content)}: give events of the same world"
        )
    start = world.dates[start_day].tz_localize("UTC")
    if history.end > start:
        raise ValueError(
            f"the history reaches into the test: give data.until(pd.Timestamp('{start}'))"
        )


def _tidy(users: np.ndarray, name: str, daily: np.ndarray, by_day: bool) -> pd.DataFrame:
    """Rows of one variant, of measures of shape (DAILY, days, users)."""
    measures = dict(zip(DAILY, daily, strict=True))
    if by_day:
        day, user = np.indices(daily.shape[1:]).reshape(2, -1)
        columns = {measure: value.ravel() for measure, value in measures.items()}
        return pd.DataFrame({"user": users[user], "variant": name, "day": day, **columns})
    satisfaction = measures.pop("satisfaction")[-1]
    returned = measures["visits"][-LAST_WEEK:].any(axis=0).astype(float)
    sums = {measure: value.sum(axis=0) for measure, value in measures.items()}
    ends = {"satisfaction": satisfaction, "returned": returned}
    return pd.DataFrame({"user": users, "variant": name, **sums, **ends})


@dataclass(frozen=True)
class _Mind:
    """What a variant has made of people so far; changed in place, evening by evening."""

    satisfaction: np.ndarray  # (n,)
    seen: np.ndarray  # (n, titles) bool
    tired: np.ndarray  # (n, titles) float32, showings in vain, the older the less
    genres: np.ndarray  # (n, genres), viewings, the older the less

    def copy(self) -> _Mind:
        return _Mind(*(each.copy() for each in vars(self).values()))


@dataclass(frozen=True)
class _Evening:
    """One day of everybody, whether they come or not: the same for all variants."""

    requests: pd.DataFrame
    contexts: np.ndarray  # (n,)
    mood: np.ndarray  # (n,) log-odds of coming at the first satisfaction, less those of chance
    wish: np.ndarray  # (n, titles) float32 in [0, 1): how much it takes for each title to be wanted
    chance: tuple[int, ...]  # seed of who looks where


@dataclass(frozen=True)
class _Crowd:
    """Some of the people, before the first day."""

    setting: Setting
    viewers: Viewers
    users: np.ndarray  # (n,)
    mind: _Mind
    candidates: np.ndarray  # shuffled, since the order of a catalogue often betrays popularity
    seed: int

    @classmethod
    def of(
        cls,
        setting: Setting,
        viewers: Viewers,
        users: np.ndarray,
        start_day: int,
        history: Dataset | None,
        seed: int,
    ) -> _Crowd:
        truth, n = setting.truth, len(users)
        titles = len(truth.item_class)
        seen, recent = np.zeros((n, titles), bool), np.zeros((n, truth.class_genres.shape[1]))
        candidates = np.arange(titles)
        if history is not None:
            events = history.interactions
            events = events[events["user"].between(users[0], users[-1])]
            user, item = events["user"].to_numpy() - users[0], events["item"].to_numpy()
            start = truth.world.dates[start_day].tz_localize("UTC")
            age = (start - events["timestamp"]) / pd.Timedelta(days=1)
            share = truth.class_genres[truth.item_class[item]]
            np.add.at(recent, user, share * 0.5 ** (age.to_numpy()[:, None] / viewers.memory))
            seen[user, item] = True
            candidates = np.flatnonzero(history.item_counts)
        tired, start = np.zeros((n, titles), np.float32), np.full(n, float(viewers.start))
        candidates = np.random.default_rng(seed).permutation(candidates)
        return cls(setting, viewers, users, _Mind(start, seen, tired, recent), candidates, seed)

    def live(
        self, variants: Mapping[str, Step], start_day: int, days: int, k: int
    ) -> dict[str, np.ndarray]:
        """What became of everybody, (DAILY, days, n) by variant."""
        minds = {name: self.mind.copy() for name in variants}
        found = {name: np.zeros((len(DAILY), days, len(self.users))) for name in variants}
        for day in range(days):
            evening = self.evening(start_day + day)
            for name, step in variants.items():
                found[name][:, day] = self.spend(evening, step, minds[name], k)
        return found

    def evening(self, day: int) -> _Evening:
        """The context of everybody who may come on a day of the world, and their luck."""
        setting, truth, n = self.setting, self.setting.truth, len(self.users)
        world, date = truth.world, truth.world.dates[day]
        key = (self.seed, int(self.users[0]), day)
        rng = np.random.default_rng((*key, 0))
        coming, hour, second, company = rng.random((4, n))
        hour = _choice(HOUR_WEIGHTS[int(date.day_of_week >= 5)], hour)
        at = date.tz_localize("UTC") + pd.to_timedelta(hour * 3600 + (second * 3600) // 1, unit="s")
        festival = setting.festival[day]
        requests = {
            "user": self.users.astype(np.int32),
            "at": pd.Series(at).astype(TIMESTAMP),
            "weather": labels(
                CONTEXTS["weather"], setting.weather[setting.region[self.users], day]
            ),
            # A day without one is known to be ordinary: missing would mean that nobody knows.
            "festival": CONTEXTS["festival"][festival] if festival >= 0 else NO_FESTIVAL,
        }
        if world.companion:
            codes = _choice(COMPANION_WEIGHTS, company)
            requests["companion"] = labels(CONTEXTS["companion"], codes)
        frame = pd.DataFrame(requests).astype({"festival": "str"})
        activity = truth.activity[self.users] / np.median(truth.activity)
        usual = logit(self.viewers.visits) + np.log(activity * WEEKDAY_WEIGHTS[date.day_of_week])
        contexts = context_codes(frame.rename(columns={"at": "timestamp"}))
        wish = rng.random((n, len(truth.item_class)), np.float32)
        return _Evening(frame, contexts, usual - logit(coming), wish, (*key, 1))

    def spend(self, evening: _Evening, step: Step, mind: _Mind, k: int) -> np.ndarray:
        """Show everybody who comes a list, let them watch, and remember it: (DAILY, n)."""
        loyalty = self.viewers.loyalty * (mind.satisfaction - self.viewers.start)
        here = np.flatnonzero(evening.mood + loyalty > 0)
        for fading in (mind.tired, mind.genres):
            fading *= 0.5 ** (1 / self.viewers.memory)
        today = np.zeros((len(DAILY), len(self.users)))
        if len(here):
            items = self.lists(evening, step, mind, here, k)
            watched = self.watch(evening, mind, here, items)
            liked = np.where(watched, self.liking(here, items), 0.0).sum(axis=1)
            count = watched.sum(axis=1)
            aim = liked / np.maximum(count, 1)
            mind.satisfaction[here] += self.viewers.learning * (aim - mind.satisfaction[here])
            self.remember(mind, here, items, watched)
            today[:4, here] = np.ones(len(here)), (items >= 0).sum(axis=1), count, liked
        today[4] = mind.satisfaction
        return today

    def lists(
        self, evening: _Evening, step: Step, mind: _Mind, here: np.ndarray, k: int
    ) -> np.ndarray:
        """What those who came are shown, (R, k)."""
        candidates = np.where(mind.seen[np.ix_(here, self.candidates)], EMPTY, self.candidates)
        slate = Slate(evening.requests.iloc[here].reset_index(drop=True), candidates)
        items = top(k)(step(slate)).items
        return np.pad(items, ((0, 0), (0, k - items.shape[1])), constant_values=EMPTY)

    def watch(
        self, evening: _Evening, mind: _Mind, here: np.ndarray, items: np.ndarray
    ) -> np.ndarray:
        """What they watch of it, bool (R, k)."""
        truth, row = self.setting.truth, here[:, None]
        appeal = logit(truth.appeal(self.users[here], evening.contexts[here], items))
        share = truth.class_genres[truth.item_class[items]]
        appeal -= self.viewers.satiation * np.einsum("nkg,ng->nk", share, mind.genres[here])
        appeal -= self.viewers.fatigue * mind.tired[row, items]
        wanted = (evening.wish[row, items] < expit(appeal)) & (items >= 0) & ~mind.seen[row, items]
        # Chance is drawn for those who stay away too, so that nobody's luck depends on them.
        attraction = np.zeros((len(self.users), items.shape[1]))
        attraction[here] = wanted
        rng = np.random.default_rng(evening.chance)
        return self.viewers.clicks.draw(attraction, rng)[here]

    def liking(self, here: np.ndarray, items: np.ndarray) -> np.ndarray:
        """How much they would like each title, from 0 to 1, (R, k)."""
        match = self.setting.truth.match(self.users[here], items)
        return expit(COMPLETION["intercept"] + COMPLETION["slope"] * np.log(match))

    def remember(
        self, mind: _Mind, here: np.ndarray, items: np.ndarray, watched: np.ndarray
    ) -> None:
        """Note what was shown in vain, and what was watched."""
        truth = self.setting.truth
        row, slot = np.nonzero((items >= 0) & ~watched)
        mind.tired[here[row], items[row, slot]] += 1
        row, slot = np.nonzero(watched)
        mind.seen[here[row], items[row, slot]] = True
        share = truth.class_genres[truth.item_class[items]]
        mind.genres[here] += np.einsum("nk,nkg->ng", watched, share)


def _choice(weights: tuple[float, ...], u: np.ndarray) -> np.ndarray:
    """Codes drawn in proportion to weights, for uniforms."""
    ladder = np.cumsum(weights)
    return np.searchsorted(ladder[:-1] / ladder[-1], u, side="right")


# ------------------------------------------------------------------ what a real test would see


def assign(outcomes: pd.DataFrame, shares: Mapping[str, float], seed: int) -> pd.DataFrame:
    """Keep one variant of each user, drawn independently: what a real live test would see.

    Parameters
    ----------
    outcomes : DataFrame
        As :func:`live_test` gives it, with the outcomes of every user with every variant; of
        several worlds if it has a column ``world``.
    shares : mapping of variant to share
        Sum to 1.
    seed : int

    Returns
    -------
    DataFrame
        The rows of each user's own variant, in their order.

    Raises
    ------
    ValueError
        If shares are no distribution, or name a variant that was not tested.
    """
    names, share = list(shares), np.array(list(shares.values()), float)
    if strays := ", ".join(sorted(set(names) - set(outcomes["variant"]))):
        raise ValueError(f"{strays}: not among the variants of these outcomes")
    if not (len(share) and (share >= 0).all() and np.isclose(share.sum(), 1)):
        raise ValueError(f"shares {dict(shares)} must not be below 0, and sum to 1")
    unit = outcomes.groupby(_keys(outcomes)).ngroup().to_numpy()
    drawn = _choice(tuple(share), np.random.default_rng(seed).random(unit.max(initial=-1) + 1))
    own = np.array(names, object)[drawn][unit]
    return outcomes[outcomes["variant"].to_numpy(object) == own].reset_index(drop=True)


def _keys(frame: pd.DataFrame) -> list[str]:
    return ["world", "user"] if "world" in frame else ["user"]


# ------------------------------------------------------------------ offline against live


def agreement(
    offline: pd.DataFrame,
    live: pd.DataFrame,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Tell whether offline metrics rank variants as the live test does.

    Per metric, the means of the variants over users are compared with their live means by three
    statistics: ``kendall`` (tau-b, Kendall 1945), ``spearman`` (1904), and ``pairs``, the share of
    pairs of variants ordered rightly; an offline tie is half right, pairs equal live are left out.

    Parameters
    ----------
    offline : DataFrame
        ``metric, variant, user, value``, as :func:`firetv.evaluate.measure` gives it, where the
        variant is called ``model``. A user's rows are averaged first; NaN is left out.
    live : DataFrame
        ``variant, user, value``, of all outcomes or of those of :func:`assign`. Users need not be
        the same on both sides.
    seed : int
        Of the bootstrap.
    resamples : int
    confidence : float
        Nominal coverage, 0..1.

    Returns
    -------
    DataFrame
        ``metric, statistic, value, low, high, variants, users``. The interval is a percentile
        bootstrap over users, the same on both sides; where both have a column ``world``, worlds are
        resampled, and users within them. Means of few users are noisier than they seem to
        themselves, so that it leans towards no agreement.

    Raises
    ------
    ValueError
        If columns are missing, the variants are not the same on both sides, or fewer than three.
    """
    offline = offline.rename(columns={} if "variant" in offline else {"model": "variant"})
    variants = _check_sides(offline, live)
    keys = _keys(live)
    sides = {name: _by_user(rows, keys) for name, rows in offline.groupby("metric", sort=False)}
    truth = _by_user(live, keys)
    units = pd.concat([side[[]] for side in (truth, *sides.values())]).index.unique().sort_values()
    truth, *tables = (
        side.reindex(index=units, columns=variants).to_numpy(float)
        for side in (truth, *sides.values())
    )
    world = pd.factorize(units.get_level_values(0))[0] if "world" in keys else np.zeros(len(units))
    found = [np.empty((0, len(STATISTICS)))] * len(tables)
    for counts in _resampled(world.astype(int), seed, resamples):
        right = _means(counts, truth)
        for number, table in enumerate(tables):
            each = [rank(_means(counts, table), right) for rank in STATISTICS.values()]
            found[number] = np.vstack([found[number], np.column_stack(each)])
    frames = [_agreed(name, each, confidence) for name, each in zip(sides, found, strict=True)]
    return pd.concat(frames, ignore_index=True).assign(variants=len(variants), users=len(units))


def _check_sides(offline: pd.DataFrame, live: pd.DataFrame) -> list[str]:
    """Names of the variants, in the order of the live outcomes."""
    for side, frame, names in (
        ("offline", offline, ("metric", "variant", "user", "value")),
        ("live", live, ("variant", "user", "value")),
    ):
        if missing := ", ".join(name for name in names if name not in frame):
            raise ValueError(f"the {side} values have no column {missing}: name or add it")
    if ("world" in offline) != ("world" in live):
        raise ValueError("only one side has a column world: give both, or neither")
    variants = list(dict.fromkeys(live["variant"]))
    alone = set(variants) ^ set(offline["variant"])
    if alone:
        raise ValueError(f"{', '.join(sorted(alone))}: on one side only, leave it out or add it")
    if len(variants) < FEWEST:
        raise ValueError(f"{len(variants)} variants cannot be ranked: compare {FEWEST} or more")
    return variants


def _by_user(values: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """One row per user, a column per variant, NaN where a user has no value."""
    return values.pivot_table("value", keys, "variant", aggfunc="mean")


def _resampled(world: np.ndarray, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """How often each user counts, (some replications, users); the first is everybody once."""
    yield np.ones((1, len(world)))
    rng, sizes = np.random.default_rng(seed), np.bincount(world)
    step = max(1, COUNTS // len(world))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        worlds = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=rows)
        counts = np.empty((rows, len(world)))
        for code, size in enumerate(sizes):
            drawn = rng.multinomial(worlds[:, code] * size, np.full(size, 1 / size))
            counts[:, world == code] = drawn
        yield counts


def _means(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of each variant over those who have a value, (replications, variants)."""
    there = ~np.isnan(values)
    number = counts @ there
    total = counts @ np.where(there, values, 0.0)
    mean = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
    return np.round(mean, 12)  # the order of summing must not break ties


def _order(means: np.ndarray) -> np.ndarray:
    """Which of each two variants is better, -1, 0 or 1, (replications, pairs)."""
    one, other = np.triu_indices(means.shape[1], 1)
    return np.sign(means[:, one] - means[:, other])


def _kendall(offline: np.ndarray, live: np.ndarray) -> np.ndarray:
    return _cosine(_order(offline), _order(live))  # tau-b is the cosine of the orders of pairs


def _spearman(offline: np.ndarray, live: np.ndarray) -> np.ndarray:
    ranks = (rankdata(x, axis=1, nan_policy="propagate") for x in (offline, live))
    return _cosine(*(rank - rank.mean(axis=1, keepdims=True) for rank in ranks))


def _pairs(offline: np.ndarray, live: np.ndarray) -> np.ndarray:
    right, told = (1 + _order(offline) * _order(live)) / 2, _order(live) != 0
    n = told.sum(axis=1)
    return np.divide((right * told).sum(axis=1), n, out=np.full(len(n), np.nan), where=n > 0)


def _cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of each two rows; NaN where one of them has no direction."""
    size = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.divide((x * y).sum(axis=1), size, out=np.full(len(size), np.nan), where=size > 0)


STATISTICS = {"kendall": _kendall, "spearman": _spearman, "pairs": _pairs}


def _agreed(metric: str, found: np.ndarray, confidence: float) -> pd.DataFrame:
    """Rows of one metric: the first replication is the value, the others give the interval."""
    tail = (1 - confidence) / 2
    rows = []
    for name, (value, *drawn) in zip(STATISTICS, found.T, strict=True):
        known = np.array(drawn)[~np.isnan(drawn)]
        low, high = np.quantile(known, (tail, 1 - tail)) if len(known) else (np.nan, np.nan)
        rows.append((metric, name, value, low, high))
    return pd.DataFrame(rows, columns=["metric", "statistic", "value", "low", "high"])
