"""What each layer of the recommender adds on one's own data, each measured over the same base.

:func:`evaluate` takes what the tables allow: base models in any case, context where it was
observed, friends where there are connections, groups where it is known what they watched. All of
them learn from the same training part. A layer is compared to the base alone, question by question,
and so is its placebo, which is told as much, and nothing true: contexts that changed places,
somebody else's friends, another group's members.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from firetv.artefacts import Artefact, Claim, format_interval
from firetv.choices import answerable, some
from firetv.context import ContextBoost
from firetv.data import KEYS, Dataset
from firetv.evaluate import Unit, compare, measure, permuted_moments, run_all, summarise
from firetv.fairness import Nash
from firetv.features import Features, genres, item_features, user_features
from firetv.households import Questions, ask_groups, clean, ever_watched, unseen
from firetv.models import DUAL, EASE, LightFM, Popular
from firetv.multipliers import FEWEST
from firetv.opinions import Chances, Standardised
from firetv.schema import DIMENSIONS, EVENT_TABLES
from firetv.sentences import aligned
from firetv.slate import CHUNK_CELLS, EMPTY, Stage, cells, chain
from firetv.social import FriendBoost
from firetv.splits import OUTCOMES, Split, each_event, random_split, temporal_split
from firetv.strategies import Average
from firetv.trust import friendships, rewired

FEWEST_PEOPLE = 10  # with something to find, that an interval needs
MOST_ASKED = 5_000  # events that are asked for one by one
MOST_CELLS = 200_000_000  # of the matrix that EASE learns
OTHERS, OF_A_GROUP = 100, 5  # candidates beside a title, and titles of a group, without times
JOBS = 2  # fits side by side
EASES = {f"EASE (reg {reg})": EASE(reg) for reg in (20, 100, 400)}
POPULAR, LIGHT, FEATURES, PLACEBO = "Popular", "LightFM", "LightFM + features", "placebo"
CONTEXT, FRIENDS = "+ context", "+ friends"
WAYS = {  # names that `ask_groups` gives
    "Average": "members, average",
    "Nash": "members, Nash",
    "members + row": "members and their group",
    "row": "the group as one user",
    "placebo": PLACEBO,
}
MEMBERS, FAIR, _, AS_ONE, _ = WAYS.values()


class LeftOut(ValueError):
    """Why something cannot be measured."""


@dataclass(frozen=True)
class Settings:
    """How layers are measured.

    Attributes
    ----------
    seeds : tuple of int
        Of models, ties and placebos.
    test_share : float
        Share of the events, the last ones, that must be found.
    k : int
        Length of the lists.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    test_share: float = 0.2
    k: int = 10

    def __post_init__(self) -> None:
        if not self.seeds or self.k < 1:
            raise ValueError("use 1 seed or more, and lists of 1 title or more")
        if not 0 < self.test_share < 1:
            raise ValueError(f"test share {self.test_share} is not between 0 and 1")


@dataclass(frozen=True)
class Layer:
    """What was measured of one layer.

    Attributes
    ----------
    name : str
        Such as ``context``, or ``context (simulated)``.
    asked : str
        What was asked, in words.
    values : DataFrame
        As :func:`firetv.evaluate.measure` gives it.
    pairs : sequence of pairs of str
        A model, and what it is measured over.
    unit : {"user", "request"}
        What counts once in a mean.
    """

    name: str
    asked: str
    values: pd.DataFrame
    pairs: Sequence[tuple[str, str]]
    unit: Unit = "user"

    def results(self) -> pd.DataFrame:
        """Values of each model, and differences of each pair, in the columns of artefacts."""
        tables = [summarise(self.values, unit=self.unit).assign(section=self.name)]
        for model, over in self.pairs:
            pair = self.values[self.values["model"].isin([model, over])]
            found = compare(pair, over, unit=self.unit)
            tables.append(found.assign(section=f"{self.name}: over {over}"))
        return pd.concat(tables, ignore_index=True).assign(split=self.values["split"].iloc[0])


@dataclass(frozen=True)
class Evaluation:
    """What each layer adds.

    Attributes
    ----------
    name : str
        Of the data set.
    rows : int
        Its events.
    settings : Settings
    base : str
        The model under context, friends and groups.
    layers : sequence of Layer
    results : DataFrame
        Of all layers, in the columns of artefacts.
    left_out : mapping of str to str
        Why other layers were not measured.
    notes : sequence of str
        What is to be known of the split and of the base.
    """

    name: str
    rows: int
    settings: Settings
    base: str
    layers: Sequence[Layer]
    results: pd.DataFrame
    left_out: Mapping[str, str]
    notes: Sequence[str]

    def lifts(self) -> pd.DataFrame:
        """A row for each pair, in nDCG: ``layer, model, over, value, low, high, n, verdict``."""
        pairs = pd.DataFrame(
            [
                (layer.name, model, over, f"{layer.name}: over {over}")
                for layer in self.layers
                for model, over in layer.pairs
            ],
            columns=["layer", "model", "over", "section"],
        )
        wanted = self.results["metric"] == f"ndcg@{self.settings.k}"
        found = self.results.loc[wanted, ["section", "model", "value", "low", "high", "n"]]
        lifts = pairs.merge(found, how="left", on=["section", "model"]).drop(columns="section")
        return lifts.assign(verdict=list(map(verdict, lifts["low"], lifts["high"])))

    def artefact(self, checksum: str) -> Artefact:
        """Return it as notebooks keep what they found."""
        claims = [
            Claim(
                f"{r.layer}: {r.model} finds more than {r.over}", r.low > 0, r.value, r.low, r.high
            )
            for r in self.lifts().itertuples()
        ]
        params = {
            "seeds": self.settings.seeds,
            "test_share": self.settings.test_share,
            "k": self.settings.k,
            "base": self.base,
            "asked": {layer.name: layer.asked for layer in self.layers},
            "left_out": self.left_out,
            "notes": self.notes,
        }
        data = {"name": self.name, "rows": self.rows, "checksum": checksum}
        return Artefact(self.name, params, data, self.results, claims)

    def __str__(self) -> str:
        """Lay out the lifts as a table for a terminal, with what there is to say of them."""
        lifts, count = self.lifts(), len(self.settings.seeds)
        lifts["layer"] = lifts["layer"].mask(lifts["layer"].duplicated(), "")
        head = f"lift in nDCG@{self.settings.k}, {count} seed{'s' if count > 1 else ''}"
        rows = [("layer", "model", "over", head, "n", "verdict")]
        rows += [
            (r.layer, r.model, r.over, format_interval(r.value, r.low, r.high), f"{r.n}", r.verdict)
            for r in lifts.itertuples()
        ]
        asked = [f"{layer.name}: {layer.asked}" for layer in self.layers]
        out = [f"no {name}: {reason}" for name, reason in self.left_out.items()]
        return "\n".join(
            [f"{self.name}, {self.rows} events", *self.notes, *asked, "", *aligned(rows), *out]
        )


def verdict(low: float, high: float) -> str:
    """Say what an interval of a difference shows.

    Examples
    --------
    >>> verdict(0.01, 0.03), verdict(-0.01, 0.03), verdict(-0.03, -0.01)
    ('helps', 'no difference shown', 'hurts')
    """
    return "helps" if low > 0 else "hurts" if high < 0 else "no difference shown"


def evaluate(data: Dataset, settings: Settings | None = None) -> Evaluation:
    """Measure each layer that the data allow, over a base chosen within the training part.

    Parameters
    ----------
    data : Dataset
    settings : Settings, optional

    Raises
    ------
    ValueError
        If the data are too small for any of it.

    Notes
    -----
    Progress bars go to stderr, unless the environment sets ``TQDM_DISABLE=1``.
    """
    settings, name = settings or Settings(), data.manifest.get("name", "data")
    data = only(data, [*DIMENSIONS, *data.own_dimensions])
    # Events are told apart by their numbers.
    data = replace(data, interactions=data.interactions.reset_index(drop=True))
    try:
        bench = Bench.of(data, settings)
        layers, left_out = [_base(bench)], {}
    except ValueError as error:
        raise ValueError(f"{name} is too small to be evaluated: {error}") from error
    for layer, measured in LAYERS.items():
        try:
            layers.append(measured(bench))
        except ValueError as error:  # too little of what it learns from, which each stage tells
            left_out[layer] = str(error)
    results = pd.concat([layer.results() for layer in layers], ignore_index=True)
    rows = len(data.interactions)
    return Evaluation(name, rows, settings, bench.name, layers, results, left_out, bench.notes)


# What all layers share


@dataclass(frozen=True)
class Bench:
    """The split and the base that all layers share.

    Attributes
    ----------
    data : Dataset
        Its interactions numbered from 0, as they are in the training part.
    train : Dataset
        What may be learned from.
    split : Split
        Of people: what groups watched under their own name is neither learned from nor asked.
    rows : int array
        User codes of those groups.
    settings : Settings
    ease : mapping of str to Stage
        EASE with the penalty that was chosen; empty where it cannot be held in memory.
    name, base : str, Stage
        The base that was chosen.
    notes : tuple of str
    """

    data: Dataset
    train: Dataset
    split: Split
    rows: np.ndarray
    settings: Settings
    ease: Mapping[str, Stage]
    name: str
    base: Stage
    notes: tuple[str, ...]

    @classmethod
    def of(cls, data: Dataset, settings: Settings) -> Bench:
        """Cut the data, and choose a base on a validation part of what is learned from."""
        whole, rows = _split(data, settings.test_share), group_rows(data)
        split = _of_people(whole, rows)
        _check_people(split.requests["user"])
        tried, names, why = rank_bases(split.train, settings)
        ease = [name for name in names if name in EASES][:1]
        notes = (_about(data, whole), f"base: {names[0]}, {why}")
        base = {name: tried[name] for name in ease}, names[0], tried[names[0]]
        return cls(data, whole.train, split, rows, settings, *base, notes)

    @property
    def held_out(self) -> pd.DataFrame:
        """Events that are not learned from."""
        events = self.data.interactions
        return events[~events.index.isin(self.train.interactions.index)]

    @property
    def ordered(self) -> bool:
        """Whether what is held out came later."""
        drawn = simulated(self.data, EVENT_TABLES, "timestamp")
        return self.split.name == "temporal" and not drawn

    def measure(
        self,
        models: Mapping[str, Stage],
        split: Split,
        metrics: Sequence[str],
        blind: Callable[[Dataset, int], Dataset] | None = None,
    ) -> pd.DataFrame:
        """Measure models, and the last of them again where it learns from data made blind."""
        seeds, k = self.settings.seeds, self.settings.k
        runs = run_all(models, split, seeds, k, JOBS)
        if blind is not None:
            splits = [replace(split, train=blind(split.train, seed)) for seed in seeds]
            runs += run_all({PLACEBO: [*models.values()][-1]}, splits, seeds, k, JOBS)
        return measure(runs, metrics)


def rank_bases(train: Dataset, settings: Settings) -> tuple[dict[str, Stage], list[str], str]:
    """Try base models on a validation part of the training data.

    Returns
    -------
    dict of str to Stage
        All that were tried.
    list of str
        Their names, the best in nDCG first.
    str
        How they were compared, in words.
    """
    tried = _affordable(train)
    try:
        inner = _split(train, settings.test_share)
        _check_people(inner.requests["user"])
    except ValueError:
        return tried, list(tried), "since there is too little to choose by"
    values = measure(run_all(tried, inner, settings.seeds, settings.k, JOBS))
    means = values.groupby("model", sort=False)["value"].mean()
    names = means.sort_values(ascending=False, kind="stable").index.tolist()
    return tried, names, f"the best of {len(names)} on a part of what is learned from"


def group_rows(data: Dataset) -> np.ndarray:
    """User codes of groups that are users themselves."""
    if data.groups is None:
        return np.empty(0, int)
    codes = data.user_ids.get_indexer(data.groups["group_id"].unique())
    return codes[codes >= 0]


def _of_people(split: Split, rows: np.ndarray) -> Split:
    """Leave out what groups watched: beside their members', it is there twice."""
    group = split.train.interactions["user"].isin(rows).to_numpy()
    asked = ~split.requests["user"].isin(rows).to_numpy()
    if not group.any() or group.all():
        return split
    train = split.train.keep(~group)
    requests, relevant = split.requests[asked].reset_index(drop=True), split.relevant[asked]
    return Split(split.name, train, requests, relevant, np.flatnonzero(train.item_counts))


def _split(data: Dataset, test_share: float) -> Split:
    """Cut by time, or at random where nothing came before the last events."""
    times = data.interactions["timestamp"]
    if times.quantile(1 - test_share) > times.min():
        return temporal_split(data, test_share)
    return random_split(data, 0, test_share)


def _about(data: Dataset, split: Split) -> str:
    events = len(split.train.interactions)
    if split.name != "temporal":
        return f"learned from {events} events drawn at random: their times do not tell them apart"
    said = f"learned from {events} events before {split.requests['at'].iloc[0]:%Y-%m-%d %H:%M} UTC"
    drawn = simulated(data, EVENT_TABLES, "timestamp")
    return f"{said}; times are simulated, and their order may mean nothing" if drawn else said


def _affordable(train: Dataset) -> dict[str, Stage]:
    """Models to choose the base from; EASE only where its matrix fits."""
    users, titles = np.count_nonzero(train.user_counts), np.count_nonzero(train.item_counts)
    side = users if DUAL * users <= titles else titles
    return (EASES if side * titles <= MOST_CELLS else {}) | {LIGHT: LightFM()}


def simulated(data: Dataset, tables: Sequence[str], column: str) -> bool:
    """Whether a column, of the first of some tables that the manifest tells of, was simulated."""
    kinds = data.manifest.get("columns", {})
    return next((kinds[t] for t in tables if t in kinds), {}).get(column) == "simulated"


def _check_people(users: pd.Series, who: str = "people") -> None:
    """Raise LeftOut if there are too few for an interval."""
    if (count := users.nunique()) < FEWEST_PEOPLE:
        raise LeftOut(
            f"{count} {who} have something to find in what is held out, and an interval needs "
            f"{FEWEST_PEOPLE}"
        )


# The layers


def _base(bench: Bench) -> Layer:
    split = bench.split
    models = {POPULAR: Popular(), **bench.ease, LIGHT: LightFM()}
    pairs = [(name, POPULAR) for name in models if name != POPULAR]
    users, items = (_tell_apart(of(split.train)) for of in (user_features, item_features))
    if users or items:
        models[FEATURES] = LightFM(use_user_features=users, use_item_features=items)
        pairs += [(FEATURES, POPULAR), (FEATURES, LIGHT)]
    new = (~split.requests["known"]).sum()
    asked = f"what is held out of {len(split.requests)} people, {new} of whom nothing is known"
    return Layer("base", asked, bench.measure(models, split, ("ndcg", "hr", "recall")), pairs)


def _tell_apart(features: Features) -> bool:
    """Whether any feature is there in some rows only."""
    share = features.matrix.astype(bool).sum(axis=0) / max(1, features.matrix.shape[0])
    return bool(((share > 0) & (share < 1)).any())


def _context(bench: Bench) -> Layer:
    names, drawn = _contexts(bench)
    train = only(bench.split.train, names)
    late = bench.held_out[~bench.held_out["user"].isin(bench.rows)]
    late = some(answerable(late, train), MOST_ASKED, np.random.default_rng(0))
    split = each_event(f"{bench.split.name}, each event", train, late)
    _check_people(split.requests["user"])
    boost = learned_context(train, names)
    models = {bench.name: bench.base, CONTEXT: chain(bench.base, boost)}
    people = split.requests["user"].nunique()
    return Layer(
        _marked("context", drawn),
        f"{len(late)} events of {people} people, each in its own {', '.join(names)}",
        bench.measure(models, split, ("ndcg", "hr"), permuted_moments),
        [(CONTEXT, bench.name), (PLACEBO, bench.name)],
        "request",
    )


def learned_context(train: Dataset, names: Sequence[str]) -> ContextBoost:
    """Lifts of genres, of single titles and of past moments in some dimensions."""
    known = [name for name in names if name in DIMENSIONS]  # the data's own count anyway
    families = ("genre",) if genres(train).names else ()
    return ContextBoost("learned", known, families, items=True, joint=True)


def _marked(name: str, drawn: bool) -> str:
    return f"{name} (simulated)" if drawn else name


def _contexts(bench: Bench) -> tuple[list[str], bool]:
    """Columns of the context to learn from, and whether they were simulated.

    Simulated ones serve only where none was observed.
    """
    events = bench.split.train.interactions
    there = [n for n in (*DIMENSIONS, *bench.data.own_dimensions) if n in events]
    if not there:
        raise LeftOut("the table of events has no column of the context")
    found = [n for n in there if events[n].nunique() > 1 and events[n].count() >= FEWEST]
    if not found:
        raise LeftOut(f"{', '.join(there)}: one value only, or fewer than {FEWEST} events to learn")
    observed = [n for n in found if not simulated(bench.data, EVENT_TABLES, n)]
    return observed or found, not observed


def only(data: Dataset, names: Sequence[str]) -> Dataset:
    """Return the data whose events have no other context than some columns, and nothing else."""
    kept = data.interactions.columns.intersection([*KEYS, *OUTCOMES, *names])
    return replace(data, interactions=data.interactions[kept])


def _friends(bench: Bench) -> Layer:
    if bench.data.friends is None:
        raise LeftOut("there is no table user_connections")
    split = bench.split
    ties = np.diff(friendships(split.train).indptr)[split.requests["user"]]
    _check_people(split.requests["user"][ties > 0], "people with friends")
    models = {bench.name: bench.base, FRIENDS: chain(bench.base, FriendBoost())}
    return Layer(
        _marked("friends", simulated(bench.data, ("user_connections",), "friend_id")),
        f"what is held out of {len(ties)} people, {(ties > 0).sum()} of whom have friends",
        bench.measure(models, split, ("ndcg", "hr", "recall"), rewired),
        [(FRIENDS, bench.name), (PLACEBO, bench.name)],
    )


def _groups(bench: Bench) -> Layer:
    questions, split, asked = _questions(bench)
    opinions = [(Standardised(), {"Average": Average()})]
    fair = [(Chances(liked=1.0), {"Nash": Nash()})]  # it was watched, whatever was said of it
    ways = {POPULAR: (Popular(), opinions), bench.name: (bench.base, opinions + fair)}
    found, k = [], bench.settings.k
    with threadpool_limits(1, "blas"):
        for seed in tqdm(bench.settings.seeds, desc=f"groups, {split}"):
            found += [
                ask_groups(name, model, questions, strategies, split, seed, (k,), k)
                for name, (model, strategies) in ways.items()
            ]
    values = pd.concat(found, ignore_index=True)
    named = {f"{bench.name}, {way}": said for way, said in WAYS.items()}
    named[f"{POPULAR}, Average"] = POPULAR
    values = values.assign(model=values["model"].map(named)).dropna(subset="model")
    name = _marked("groups", simulated(bench.data, ("groups",), "user_id"))
    pairs = [(MEMBERS, POPULAR), (PLACEBO, POPULAR), (MEMBERS, AS_ONE), (FAIR, MEMBERS)]
    return Layer(name, asked, values, pairs, "request")


def _questions(bench: Bench) -> tuple[Questions, str, str]:
    """What groups watched later; the name of the split, and what was asked, in words."""
    if bench.data.groups is None:
        raise LeftOut("there is no table groups")
    groups = bench.data.groups
    known = groups[groups["group_id"].isin(bench.data.user_ids)]
    data, train = (replace(each, groups=known) for each in (bench.data, bench.train))
    late = answerable(bench.held_out[bench.held_out["user"].isin(bench.rows)], train)
    if late.empty:
        raise LeftOut("no group_id is a user_id with later events, so what they watch is unknown")
    rng, titles = np.random.default_rng(0), np.flatnonzero(train.item_counts)
    if bench.ordered:
        seen = ever_watched(train)[late["user"].to_numpy(), late["item"].to_numpy()]
        late = some(late[np.asarray(seen).ravel() == 0], CHUNK_CELLS // len(titles), rng)
    else:
        late = late.sample(frac=1, random_state=rng).groupby("user").head(OF_A_GROUP)
    _check_people(late["user"], "groups")
    row, watched = (late[name].to_numpy(np.int64) for name in ("user", "item"))
    said = f"{len(row)} titles that {late['user'].nunique()} groups watched"
    if bench.ordered:
        return unseen(train, row, watched, titles, 0), "temporal", f"{said} later, each among all"
    others = rng.choice(titles, (len(row), OTHERS))
    others = np.where(cells(ever_watched(data), row, others) > 0, EMPTY, others)
    said = f"{said}, hidden from their members, each among up to {OTHERS} others"
    return clean(train, row, watched, others, 0), f"clean, {OTHERS} others", said


LAYERS: Mapping[str, Callable[[Bench], Layer]] = {
    "context": _context,
    "friends": _friends,
    "groups": _groups,
}
