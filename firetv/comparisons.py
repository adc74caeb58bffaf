"""Pipelines compared on the same requests: tests, corrected for their number, and by segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from firetv.abtest import CELLS, chunks, clustered_interval, paired_test
from firetv.evaluate import Unit, by_request, by_user

ALPHA = 0.05
FLIPS = 99_999  # of signs: corrected p-values are multiples of p, and so are their errors
FEWEST = 10  # users of a segment that an interval needs
ROUNDING = 1e-12  # differences below it are of the order of summation only
INDEX = ["user", "seed", "split", "request"]
DRAWS = 1999  # of the bootstrap, so that p-values are multiples of 1 / 2000


def paired_tests(
    values: pd.DataFrame, reference: str, seed: int = 0, unit: Unit = "user"
) -> pd.DataFrame:
    """Test every model and metric against a reference, on the same requests.

    Parameters
    ----------
    values : DataFrame
        As :func:`firetv.evaluate.measure` gives it.
    reference : str
        The model that others are compared to.
    seed : int
        Of resampling and flips.
    unit : {"user", "request"}
        What counts once in the mean; users are what is resampled and flipped in either case.

    Returns
    -------
    DataFrame
        ``model, metric, value, low, high, n`` (users), ``effect`` (Cohen's d_z over users), ``wins,
        losses, ties`` (users), ``p`` (permutation), ``p_sign`` and ``seeds``; ``value`` is model
        minus reference, with a BCa interval. Correct ``p`` with :func:`corrected`.

    Raises
    ------
    KeyError
        If the reference is not among the models.
    ValueError
        If it is the only one, or fewer than two users have values of both.
    """
    table = by_user(values) if unit == "user" else by_request(values)
    if reference not in table:
        raise KeyError(f"{reference!r} is not among the models: {', '.join(table)}")
    if table.shape[1] < 2:
        raise ValueError(f"{reference!r} is the only model: measure another one to compare to it")
    rows = []
    for metric, group in table.groupby(level="metric", sort=False):
        users = group.index.get_level_values("user").to_numpy()
        for model in group.columns.drop(reference):
            difference = (group[model] - group[reference]).to_numpy()
            rows.append({"model": model, "metric": metric, **_test(difference, users, seed, unit)})
    seeds = values.groupby("model")["seed"].nunique()
    frame = pd.DataFrame(rows)
    return frame.assign(seeds=frame["model"].map(seeds))


def _test(difference: np.ndarray, users: np.ndarray, seed: int, unit: Unit) -> dict[str, float]:
    """Test differences, in the order of users; several of a user are one witness."""
    there = ~np.isnan(difference)
    each = difference[there]
    if unit == "request":
        # Sums of users, scaled so that their mean is that of the requests.
        found, row = np.unique(users[there], return_inverse=True)
        each = np.bincount(row, each) * (len(found) / max(1, len(each)))
    each = np.where(np.abs(each) < ROUNDING, 0.0, each)
    if len(each) and np.ptp(each) < ROUNDING:
        each = np.full(len(each), each.mean())
    tested = paired_test(each, np.zeros(len(each)), seed, flips=FLIPS)
    interval = tested.difference
    if unit == "request":
        interval = clustered_interval(difference, users, seed)
    return {
        **vars(interval),
        "effect": tested.effect,
        "wins": tested.wins,
        "losses": tested.losses,
        "ties": tested.ties,
        "p": tested.p_permutation,
        "p_sign": tested.p_sign,
    }


def corrected(tests: pd.DataFrame) -> pd.DataFrame:
    """Correct the p-values of a family of tests, all that were made, for their number.

    Parameters
    ----------
    tests : DataFrame
        With a column ``p``.

    Returns
    -------
    DataFrame
        And ``holm``, p-values that bound the chance of any false alarm (Holm 1979), and ``bh``,
        which bound the expected share of false ones among alarms (Benjamini and Hochberg 1995).

    Examples
    --------
    >>> corrected(pd.DataFrame({"p": [0.01, 0.04, 0.03]}))[["holm", "bh"]].round(2).values.tolist()
    [[0.03, 0.03], [0.06, 0.04], [0.06, 0.04]]
    """
    holm, bh = (multipletests(tests["p"], method=name)[1] for name in ("holm", "fdr_bh"))
    return tests.assign(holm=holm, bh=bh)


# ------------------------------------------------------------------ segments


@dataclass(frozen=True)
class Segments:
    """A difference within segments of the requests.

    Attributes
    ----------
    rows : DataFrame
        ``by, segment, value, low, high, n`` (users), ``p`` and ``holm``, corrected for all segments
        that were looked at.
    interactions : DataFrame
        A row for each way to cut: ``by, segments, p`` and ``holm``: whether the difference differs
        between the segments at all.
    left_out : tuple of str
        Segments of too few users.
    """

    rows: pd.DataFrame
    interactions: pd.DataFrame
    left_out: tuple[str, ...]

    @property
    def warning(self) -> str:
        """What so many looks would find where there is nothing to be found."""
        looks = len(self.rows)
        chance = 1 - (1 - ALPHA) ** looks
        return (
            f"{looks} segments were looked at: were the difference zero in all, and the segments "
            f"independent, one interval or more would still exclude zero with a probability of "
            f"{chance:.0%}. Trust a segment only where the interaction holds after correction, and "
            "test it on new data."
        )


def segments(
    values: pd.DataFrame,
    model: str,
    reference: str,
    by: Sequence[str],
    metric: str,
    seed: int = 0,
) -> Segments:
    """Compare two models within segments, and test whether the difference depends on them.

    Parameters
    ----------
    values : DataFrame
        As :func:`firetv.evaluate.measure` gives it, with further columns that say which segment a
        request is in. A missing segment is left out.
    model, reference : str
    by : sequence of str
        Names of those columns.
    metric : str
    seed : int

    Returns
    -------
    Segments

    Raises
    ------
    KeyError
        If a model, the metric or a column is missing.
    ValueError
        If no way to cut is given, one is by what tells requests apart, or leaves fewer than two
        segments of enough users.

    Notes
    -----
    The interaction is a Wald test that the means of all segments are alike, with a covariance
    clustered by user (Liang and Zeger 1986): a user may be in several segments. Since its usual
    distribution finds too much among few users, its own under the null is drawn: all that is left
    of a user when the common mean is taken off keeps or changes its sign (the wild cluster
    bootstrap of Cameron, Gelbach and Miller 2008).
    """
    if not by:
        raise ValueError("by is empty: name the columns to cut by")
    wanted = values[(values["metric"] == metric) & values["model"].isin([model, reference])]
    if missing := {model, reference} - set(wanted["model"]):
        raise KeyError(f"no values of {', '.join(sorted(missing))} in {metric}")
    if reserved := {*INDEX, "model", "metric", "value"} & set(by) - {"seed", "split"}:
        raise ValueError(f"cannot cut by {', '.join(sorted(reserved))}: copy it to another column")
    if unknown := set(by) - set(values):
        raise KeyError(f"no columns {', '.join(sorted(unknown))}: add them to the values first")
    table = wanted.pivot(index=INDEX, columns="model", values="value")
    difference = (table[model] - table[reference]).rename("difference").dropna()
    labels = wanted[wanted["model"] == reference].set_index(INDEX, drop=False)[["user", *by]]
    frame = labels.assign(difference=difference).dropna(subset="difference")
    frame = frame.reset_index(drop=True)
    rows, interactions, left_out = [], [], []
    for name in by:
        cut = frame[frame[name].notna()]
        users = cut.groupby(name, observed=True)["user"].nunique()
        left_out += [f"{name}: {each}" for each in users.index[users < FEWEST]]
        enough = users.index[users >= FEWEST]
        if len(enough) < 2:
            raise ValueError(
                f"{name} has {len(enough)} segments of {FEWEST} users or more: it needs 2"
            )
        cut = cut[cut[name].isin(enough)]
        for segment, part in cut.groupby(name, observed=True):
            each, who = part["difference"].to_numpy(), part["user"].to_numpy()
            found = _test(each, who, seed, "request")
            rows.append({"by": name, "segment": str(segment), **found})
        interactions.append(
            {"by": name, "segments": len(enough), "p": _interaction(cut, name, seed)}
        )
    columns = ["by", "segment", "value", "low", "high", "n", "p"]
    return Segments(
        corrected(pd.DataFrame(rows)[columns]).drop(columns="bh"),
        corrected(pd.DataFrame(interactions)).drop(columns="bh"),
        tuple(left_out),
    )


def _interaction(cut: pd.DataFrame, name: str, seed: int) -> float:
    """P-value that differences are alike in all segments."""
    segment, user = (pd.factorize(cut[column])[0] for column in (name, "user"))
    difference = cut["difference"].to_numpy()
    if np.ptp(difference) < ROUNDING:
        return 1.0  # the same everywhere, of which no covariance can be made
    shape = user.max() + 1, segment.max() + 1
    cell = user * shape[1] + segment
    sizes = np.bincount(cell, minlength=np.prod(shape)).reshape(shape)
    left = np.bincount(cell, difference - difference.mean(), np.prod(shape)).reshape(shape)
    rng = np.random.default_rng(seed)
    drawn = [
        _wald(rng.choice([-1.0, 1.0], (part.stop - part.start, len(left))), left, sizes)
        for part in chunks(DRAWS, len(left), CELLS)
    ]
    observed = _wald(np.ones((1, len(left))), left, sizes)[0]
    extreme = np.count_nonzero(np.concatenate(drawn) >= observed * (1 - 1e-9))
    return (1 + extreme) / (1 + DRAWS)


def _wald(signs: np.ndarray, left: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Wald statistics of segments' means, where users' deviations have some signs.

    Parameters
    ----------
    signs : float array of shape (B, U)
    left, sizes : arrays of shape (U, S)
        Sum of each user's deviations from the common mean in each segment, and their number.

    Returns
    -------
    float64 array of shape (B,)
    """
    (people, width), count = left.shape, sizes.sum(axis=0)
    mean = signs @ left / count
    # A user's score is sign * left - sizes * mean; products of scores are summed over users.
    mixed = signs @ (left[:, :, None] * sizes[:, None]).reshape(people, -1)
    mixed = mixed.reshape(-1, width, width) * mean[:, None]
    square = mean[:, :, None] * mean[:, None] * (sizes.T @ sizes)
    covariance = (left.T @ left - mixed - mixed.swapaxes(1, 2) + square) / np.outer(count, count)
    apart = np.eye(width)[1:] - np.eye(width)[0]  # others are measured against the first
    difference, spread = mean @ apart.T, apart @ covariance @ apart.T
    ridge = 1e-9 * (left**2 / count**2).sum()  # above 0 even if no segment varies within itself
    solved = np.linalg.solve(spread + ridge * np.eye(width - 1), difference[:, :, None])
    return np.einsum("bs,bs->b", difference, solved[:, :, 0])
