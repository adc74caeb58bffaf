"""Races: what we do, beside what a researcher would use in its place, on the same arrays.

Each function makes a :class:`Race`. One of its works is no peer but a limit: the least that any
implementation must do, such as the bare product of vectors. :mod:`firetv.benchmarks` holds the
clock and peers of scoring, :mod:`firetv.peers` the loops over groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from lightfm import LightFM, evaluation
from scipy import sparse

from firetv import benchmarks, evaluate, peers
from firetv.artefacts import RESULT_COLUMNS
from firetv.context import ContextBoost
from firetv.group_reasons import STRATEGIES
from firetv.metrics import ACCURACY, hits_at
from firetv.models import ALS
from firetv.moments import VALUES
from firetv.slate import ExcludeSeen, Slate, Step, chain, recommend, top
from firetv.social import FriendBoost
from firetv.splits import Split
from firetv.steps import FactorStep

OURS, LIMIT = "firetv", "limit"
METRICS = ("ndcg", "map", "precision", "recall", "mrr")
PINS = {"rectools": ["rectools==0.18.0"], "ranx": ["ranx==0.3.21"]}


@dataclass(frozen=True)
class Race:
    """Ways to the same answers.

    Attributes
    ----------
    works : mapping of str to callable
        :data:`OURS`, its peers, and :data:`LIMIT`, where there is one.
    answers : mapping of str to callable
        Of a peer: the share of its answers that are ours, 0..1.
    parts : mapping of str to float
        Of a work that takes too long: the share of it that is timed, and scaled up.
    """

    works: Mapping[str, Callable[[], object]]
    answers: Mapping[str, Callable[[], float]] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)

    def run(self, section: str, split: str, repeats: int, threads: int = 1) -> pd.DataFrame:
        """Compare the answers, then time all works by turns.

        Returns
        -------
        DataFrame
            Results of an artefact: metrics ``seconds``, ``times`` (see
            :func:`firetv.benchmarks.compared`) and ``same answers``.
        """
        same = [
            (section, peer, split, "same answers", share(), np.nan, np.nan, 1, 1)
            for peer, share in self.answers.items()
        ]
        seconds = benchmarks.by_turns(self.works, repeats, threads)
        for work, part in self.parts.items():
            seconds[work] /= part
        timed = benchmarks.compared(seconds, OURS, section, split)
        return pd.concat([timed, pd.DataFrame(same, columns=list(RESULT_COLUMNS))])


def agreement(one: np.ndarray, other: np.ndarray, tolerance: float = 0.0) -> float:
    """Share of values that are the same, or closer than a tolerance."""
    return float(np.isclose(one, other, rtol=0, atol=tolerance, equal_nan=True).mean())


def random_pairs(rng: np.random.Generator, users: int, items: int, each: int) -> sparse.csr_array:
    """Ones for about `each` random items of every user, CSR of shape (users, items), float32."""
    pairs = np.repeat(np.arange(users), each), rng.integers(items, size=users * each)
    drawn = sparse.csr_array((np.ones(users * each, np.float32), pairs), shape=(users, items))
    drawn.data[:] = 1  # those drawn twice
    return drawn


# Scoring


def top_lists(
    users: int, items: int, factors: int, seen_each: int, k: int, sample: int, seed: int
) -> Callable[[int], Race]:
    """The k best unseen items of all users by their vectors, which are drawn.

    Parameters
    ----------
    users, items, factors : int
    seen_each : int
        Items that a user has seen, about.
    k : int
    sample : int
        Users for whom LightFM's loop is timed.
    seed : int

    Returns
    -------
    callable
        From threads to a Race: implicit must be told of them.
    """
    rng = np.random.default_rng(seed)
    p, q = (rng.standard_normal((n, factors), np.float32) for n in (users, items))
    seen = random_pairs(rng, users, items, seen_each)
    step = FactorStep(p, q, np.ones(users, bool), np.zeros(items, np.float32))
    requests, titles = pd.DataFrame({"user": np.arange(users)}), np.arange(items)

    def race(threads: int) -> Race:
        def ours() -> np.ndarray:
            return step.propose(requests, titles, k, seen).items

        rivals = {
            "implicit": lambda: benchmarks.implicit_top(p, q, seen, k, threads),
            "numpy": lambda: benchmarks.numpy_top(p, q, seen, k),
            "LightFM": lambda: benchmarks.lightfm_loop(p[:sample], q, seen[:sample], k),
        }

        def same(peer: str) -> float:
            lists = rivals[peer]()
            return agreement(lists, ours()[: len(lists)])

        works = {OURS: ours, **rivals, LIMIT: lambda: benchmarks.product(p, q)}
        answers = {peer: lambda peer=peer: same(peer) for peer in rivals}
        return Race(works, answers, {"LightFM": min(1.0, sample / users)})

    return race


def lightfm_evaluation(split: Split, factors: int, k: int, seed: int) -> Race:
    """Precision, recall, AUC and reciprocal rank of a LightFM model, as its own package has them.

    Parameters
    ----------
    split : Split
    factors : int
        Of a model without features, fitted for one epoch.
    k : int
    seed : int
    """
    split = replace(split, candidates=np.arange(split.train.shape[1]))  # as LightFM has it
    train = sparse.csr_matrix(split.train.matrix() > 0, dtype=np.float32)
    users = split.requests["user"].to_numpy()
    pairs = np.repeat(users, split.n_relevant), split.relevant.indices
    held_out = (np.ones(split.relevant.nnz, np.float32), pairs)
    test = sparse.csr_matrix(held_out, shape=split.train.shape)
    model = LightFM(factors, random_state=seed).fit(train)
    ones = [np.ones((n, 1), np.float32) for n in split.train.shape]
    p = np.hstack([model.user_embeddings, model.user_biases[:, None], ones[0]])
    q = np.hstack([model.item_embeddings, ones[1], model.item_biases[:, None]])
    step = FactorStep(p, q, np.ones(len(p), bool), np.zeros(len(q), np.float32))

    def ours() -> np.ndarray:
        found = evaluate.ranks(step, split)
        return np.array([found.precision(k), found.recall(k), found.auc(), found.reciprocal_rank()])

    def theirs() -> np.ndarray:
        told = {"train_interactions": train}
        return np.array(
            [
                evaluation.precision_at_k(model, test, k=k, **told),
                evaluation.recall_at_k(model, test, k=k, **told),
                evaluation.auc_score(model, test, **told),
                evaluation.reciprocal_rank(model, test, **told),
            ]
        )

    works = {OURS: ours, "LightFM": theirs, LIMIT: lambda: benchmarks.product(p[users], q)}
    return Race(works, {"LightFM": lambda: agreement(ours(), theirs(), 1e-4)})


# Metrics


@dataclass(frozen=True)
class Lists:
    """Lists, and what they should have held.

    Attributes
    ----------
    items : int array of shape (R, k)
    relevant : CSR array of shape (R, n_items)
    """

    items: np.ndarray
    relevant: sparse.csr_array

    @classmethod
    def drawn(cls, users: int, items: int, k: int, each: int, seed: int) -> Lists:
        """Lists whose places, one in five, hold something relevant."""
        rng = np.random.default_rng(seed)
        relevant = random_pairs(rng, users, items, each)
        step = -(-items // k)  # a place draws from titles of its own, so that none comes twice
        lists = np.minimum(rng.integers(step, size=(users, k)) + step * np.arange(k), items - 1)
        hits = rng.integers(relevant.indptr[:-1], relevant.indptr[1:])
        wanted = relevant.indices[hits]
        place = wanted // step
        lists[np.arange(users), place] = wanted
        return cls(lists, relevant)

    def metrics(self) -> dict[str, np.ndarray]:
        """Five metrics of each request, from the lists on."""
        hits, n_relevant = hits_at(self.items, self.relevant), np.diff(self.relevant.indptr)
        return {name: ACCURACY[name](hits, n_relevant) for name in METRICS}

    def race(self) -> Race:
        """Our own part: the peers run elsewhere, see :meth:`against`."""
        read = (self.items, self.relevant.indices, self.relevant.indptr)
        return Race({OURS: self.metrics, LIMIT: lambda: [each.copy() for each in read]})

    def against(self, peer: str, split: str, repeats: int, threads: int = 1) -> pd.DataFrame:
        """Time a peer in an environment of its own, ours before and after it.

        Parameters
        ----------
        peer : {"rectools", "ranx"}
        split : str
            Of the results.
        repeats, threads : int

        Returns
        -------
        DataFrame
            Results in a section of the peer's name. Seconds of the peer are those of its
            evaluation; its data frames, or dictionaries, were built before. ``times`` compares
            medians: the least and most are those of the peer over the median of ours.

        Raises
        ------
        DataError
            If its environment cannot be made.
        """
        python = benchmarks.environment(peer, PINS[peer])
        arguments = (repeats, threads) if peer == "ranx" else (repeats,)
        with TemporaryDirectory() as folder:
            file = Path(folder) / "lists.npz"
            np.savez(
                file, items=self.items, indptr=self.relevant.indptr, indices=self.relevant.indices
            )
            before = benchmarks.by_turns({OURS: self.metrics}, repeats, threads)[OURS]
            told = benchmarks.elsewhere(
                python, f"{peer}_metrics.py", file, *arguments, threads=threads
            )
        after = benchmarks.by_turns({OURS: self.metrics}, repeats, threads)[OURS]
        ours, theirs = pd.concat([before, after]), pd.Series(told["evaluate_seconds"])
        means = {name: np.nanmean(values) for name, values in self.metrics().items()}
        same = agreement(np.array([told["values"][n] for n in METRICS]), list(means.values()), 1e-9)
        measured = {
            (OURS, "seconds"): ours,
            (peer, "seconds"): theirs,
            (peer, "building, seconds"): pd.Series(told["build_seconds"]),
            (peer, "times"): theirs / ours.median(),
            (peer, "same answers"): pd.Series([same]),
        }
        rows = [
            (peer, model, split, metric, v.median(), v.min(), v.max(), len(v), 1)
            for (model, metric), v in measured.items()
        ]
        return pd.DataFrame(rows, columns=list(RESULT_COLUMNS))


# Re-ranking and groups


def reranking(split: Split, factors: int, k: int, candidates: int | None, seed: int) -> Race:
    """Lists with the moment and friends, beside lists of the same model without.

    Parameters
    ----------
    split : Split
        With friends.
    factors : int
        Of ALS.
    k : int
    candidates : int or None
        Proposed by the model, and re-ranked; None re-ranks the whole catalogue.
    seed : int
        Of the model and of the moments asked for.
    """
    rng, train = np.random.default_rng(seed), split.train
    requests = split.requests[["user"]].assign(at=train.interactions["timestamp"].max())
    for name in ("weather", "companion"):
        requests[name] = pd.array(rng.choice(VALUES[name], len(requests)), "str")
    model, unseen = ALS(factors, epochs=3, seed=seed).fit(train), ExcludeSeen()
    boosts = (ContextBoost("rules", strength=1.0).fit(train), FriendBoost(strength=0.3).fit(train))
    if candidates is None:
        plain = (_dense(model), unseen, top(k))
        boosted = (_dense(model), *boosts, unseen, top(k))
    else:
        plain = (model, unseen, top(candidates))
        boosted = (*plain, *boosts, top(k))

    def lists(steps: Sequence[Step]) -> Callable[[], Slate]:
        step = chain(*steps).fit(train)
        return lambda: recommend(step, requests, split.candidates)

    return Race({OURS: lists(boosted), "scoring alone": lists(plain)})


def _dense(step: Step) -> Step:
    """The step as one that scores every slot, and proposes nothing."""

    def scored(slate: Slate) -> Slate:
        return step(slate)

    return scored


def group_strategies(
    groups: int,
    members: int,
    candidates: int,
    k: int,
    sample: int,
    seed: int,
    names: Sequence[str] = tuple(STRATEGIES),
) -> dict[str, Race]:
    """Lists of all groups at once, beside a loop over groups: a race for each strategy.

    Parameters
    ----------
    groups, members, candidates : int
        Of the opinions, which are drawn.
    k : int
    sample : int
        Groups for which the loop is timed.
    seed : int
    names : sequence of str
        Of :data:`firetv.group_reasons.STRATEGIES`.
    """
    panel = peers.random_panel(groups, members, candidates, seed)
    some = peers.random_panel(min(sample, groups), members, candidates, seed)

    def race(name: str) -> Race:
        strategy, loop = STRATEGIES[name], peers.PER_GROUP[name]
        works = {
            OURS: lambda: strategy(panel, k),
            "loop": lambda: peers.lists(loop, some, k),
            LIMIT: panel.opinions.copy,
        }

        def same() -> float:
            return agreement(strategy(some, k).slots, peers.lists(loop, some, k))

        return Race(works, {"loop": same}, {"loop": len(some.opinions) / groups})

    return {name: race(name) for name in names}
