"""How good are lists for somebody new? Accuracy by how many of their titles are known.

Training holds nothing of these people. So each model is fitted once, and the same people are asked
for again and again, with ever more of their titles told: a curve of accuracy by what is known costs
as many fits as a single point of it.

What comes of people whose few events the model was trained on is another question, for
:func:`firetv.splits.short_histories`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from joblib import delayed
from scipy import sparse

from firetv.evaluate import Run, measure, side_by_side
from firetv.newcomers import LIKED
from firetv.slate import ExcludeSeen, Stage, chain, recommend, top, with_seed
from firetv.splits import Split

COUNTS = (0, 1, 2, 5, 10, 20)  # of known titles


@dataclass(frozen=True)
class Questions:
    """The same people and the same titles to find, with more and more of each person known.

    Attributes
    ----------
    splits : tuple of Split
        One for each count of known titles, called like ``5 known``. Requests have the column
        ``liked`` besides, tuples of as many item codes; ``known`` says whether there are any.
        People, what they should find, and candidates are the same throughout.
    reserved : CSR array of shape (n_users, n_items), float32
        Ones at the titles of each person that are known at the highest count, which are neither
        to be found nor listed at any.
    """

    splits: tuple[Split, ...]
    reserved: sparse.csr_array

    @classmethod
    def of(cls, split: Split, counts: Sequence[int] = COUNTS, seed: int = 0) -> Questions:
        """Draw which titles become known, and in which order.

        Parameters
        ----------
        split : Split
            By :func:`firetv.splits.cold_users`. Those of its people are asked for who have more
            titles than the highest count: heavier viewers than the others, where counts are high.
        counts : sequence of int
            How many titles of each person are known, ascending.
        seed : int
            Of the order, in which a person's titles are equally likely to come first. It does not
            depend on the counts, so what is known at 1 is known at 2.

        Raises
        ------
        ValueError
            If the counts are not ascending whole numbers of 0 or more, if the split trains on
            those it asks for or asks twice for the same, or if nobody has enough titles.

        Notes
        -----
        A title that training does not hold can be drawn too, and then tells models nothing.
        """
        most, users = _highest(counts), _new_people(split)
        relevant = split.relevant.sorted_indices()  # so that draws do not depend on how it is kept
        row = np.repeat(np.arange(len(users)), split.n_relevant)
        draw = np.random.default_rng(seed).random(len(row))
        title = relevant.indices[np.lexsort((draw, row))]
        late = np.arange(len(row)) - relevant.indptr[row] >= most
        to_find = _ones(row[late], title[late], relevant.shape)
        asked = np.flatnonzero(np.diff(to_find.indptr))
        if not len(asked):
            raise ValueError(
                f"nobody has more than {most} titles, the most is {split.n_relevant.max()}: "
                "lower the highest count"
            )
        first = title[relevant.indptr[asked][:, None] + np.arange(most)]
        reserved = _ones(np.repeat(users[asked], most), first.ravel(), split.train.shape)
        requests = split.requests.iloc[asked].reset_index(drop=True)
        whole = replace(split, requests=requests, relevant=to_find[asked])
        return cls(tuple(_told(whole, first[:, :count]) for count in counts), reserved)

    def ask(self, name: str, model: Stage, seed: int, k: int = 10) -> list[Run]:
        """Fit a model once, and list ``k`` titles for everybody at each count.

        Candidates come in an order shuffled by the seed, which breaks ties, as in
        :func:`firetv.evaluate.run`.

        Returns
        -------
        list of Run
            One for each count; their ``fit_seconds`` are of the one fit that they share.
        """
        train = self.splits[0].train
        candidates = np.random.default_rng(seed).permutation(self.splits[0].candidates)
        # To a list, all that is or will be told has been seen, however little is told by now.
        unlisted = ExcludeSeen().fit(replace(train, weights=self.reserved))
        start = time.perf_counter()
        step = chain(with_seed(model, seed), unlisted, top(k)).fit(train)
        fit_seconds, runs = time.perf_counter() - start, []
        for split in self.splits:
            start = time.perf_counter()
            items = recommend(step, split.requests, candidates).items
            seconds = time.perf_counter() - start
            runs.append(Run(name, seed, split, items, fit_seconds, seconds))
        return runs


def _highest(counts: Sequence[int]) -> int:
    """Return the last of the counts, or raise ValueError if they are none."""
    each = np.asarray(counts)
    whole = each.ndim == 1 and each.size and np.issubdtype(each.dtype, np.integer)
    if not whole or each[0] < 0 or (np.diff(each) <= 0).any():
        raise ValueError(
            f"counts {counts} are not ascending whole numbers from 0 up: use such as {COUNTS}"
        )
    return int(each[-1])


def _new_people(split: Split) -> np.ndarray:
    """User codes of a split's requests; ValueError if training knows them, or one comes twice."""
    users = split.requests["user"].to_numpy()
    if met := np.count_nonzero(split.train.user_counts[users]):
        raise ValueError(
            f"the {split.name} split trains on {met} of the {len(users)} people that it asks for: "
            "use cold_users, which hides all their events"
        )
    if again := len(users) - len(np.unique(users)):
        raise ValueError(
            f"{again} requests of the {split.name} split are of people asked for before: "
            "use cold_users, with one request for each"
        )
    return users


def _ones(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(row), np.float32), (row, column)), shape=shape)


def _told(split: Split, titles: np.ndarray) -> Split:
    """Tell of each person the titles of a row, (R, count)."""
    count = titles.shape[1]
    liked = pd.Series([*map(tuple, titles.tolist())], dtype=object)
    requests = split.requests.assign(known=count > 0, **{LIKED: liked})
    return replace(split, name=f"{count} known", requests=requests)


def ask_all(
    models: Mapping[str, Stage],
    splits: Sequence[Split],
    seeds: Sequence[int],
    counts: Sequence[int] = COUNTS,
    k: int = 10,
    n_jobs: int = 1,
) -> list[Run]:
    """Ask every model for the people of every split, at every count of known titles.

    Parameters
    ----------
    models : mapping of name to Stage
        Those that learn from what is told take it from the column ``liked``: wrap a model in
        :class:`~firetv.newcomers.Newcomers`. Others ignore it, and answer alike at every count.
    splits : sequence of Split
        By :func:`firetv.splits.cold_users`.
    seeds : sequence of int
        One for each split: of its models, of the order in which titles become known, and of ties.
    counts : sequence of int
        How many titles are known, ascending.
    k : int
        Length of the lists.
    n_jobs : int
        Fits side by side, each with one BLAS thread, so results do not depend on the number.

    Returns
    -------
    list of Run
        By model, then by split, then by count.

    Raises
    ------
    ValueError
        If there is no model or no split, or not a seed for each split; see also
        :meth:`Questions.of`.

    Notes
    -----
    A progress bar goes to stderr, unless the environment sets ``TQDM_DISABLE=1``.
    """
    if not models or not splits or len(splits) != len(seeds):
        raise ValueError(
            f"{len(models)} models, {len(splits)} splits and {len(seeds)} seeds: "
            "give a model and a split at least, and a seed for each split"
        )
    asked = [Questions.of(split, counts, seed) for split, seed in zip(splits, seeds, strict=True)]
    work = [
        delayed(questions.ask)(name, model, seed, k)
        for name, model in models.items()
        for questions, seed in zip(asked, seeds, strict=True)
    ]
    found = side_by_side(work, n_jobs, splits[0].name)
    return [run for runs in found for run in runs]


def curve(
    models: Mapping[str, Stage],
    splits: Sequence[Split],
    seeds: Sequence[int],
    counts: Sequence[int] = COUNTS,
    k: int = 10,
    n_jobs: int = 1,
    names: Sequence[str] = ("ndcg",),
) -> pd.DataFrame:
    """Measure accuracy for everybody new, by the number of their titles that are known.

    People and titles to find are the same at every count, and lists choose among the same
    candidates: those titles of a person that are known at the highest count are listed at none.
    In this it differs from :func:`~firetv.splits.short_histories`, where hidden titles count as
    misses, so that a longer history helps by what it rules out, too.

    Parameters
    ----------
    models, splits, seeds, counts, k, n_jobs
        See :func:`ask_all`.
    names : sequence of str
        Keys of :data:`firetv.metrics.ACCURACY`.

    Returns
    -------
    DataFrame
        As :func:`firetv.evaluate.measure` gives it, with ``split`` such as ``5 known``.

    Raises
    ------
    ValueError
        See :func:`ask_all`.

    Notes
    -----
    :func:`~firetv.evaluate.summarise` and :func:`~firetv.evaluate.compare` take the rows of one
    split, to compare models at a count. What telling more is worth to one model is
    ``compare(rows.assign(model=rows["split"]), "0 known")``, of its rows.

    Examples
    --------
    >>> from firetv.data import Dataset
    >>> from firetv.models import EASE, Popular
    >>> from firetv.newcomers import Newcomers
    >>> from firetv.splits import cold_users
    >>> from firetv.synthetic import simulate
    >>> from firetv.world import World
    >>> tables, _ = simulate(World(users=300, content=100, watch_events=15_000))
    >>> split = cold_users(Dataset.from_tables(tables), seed=0)
    >>> models = {"Popular": Popular(), "EASE": Newcomers(EASE(50))}
    >>> found = curve(models, [split], seeds=[0], counts=(0, 1, 10))
    >>> table = found.pivot_table("value", "model", "split", sort=False).round(2)
    >>> table.rename_axis(index=None, columns=None)
             0 known  1 known  10 known
    Popular     0.51     0.51      0.51
    EASE        0.51     0.37      0.58
    """
    return measure(ask_all(models, splits, seeds, counts, k, n_jobs), names)
