"""What a moment moves in somebody's list, and why: the ledger of a re-ranking in words."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from firetv.context import JOINT, PREFIX, ContextBoost, ContextStep
from firetv.data import Dataset
from firetv.moments import NO_FESTIVAL, describe
from firetv.multipliers import Multipliers
from firetv.sentences import aligned
from firetv.slate import EMPTY, ExcludeSeen, Slate, Stage, best, chain

NEGLIGIBLE = np.log(1.02)  # a log-multiplier below this is no reason
MOST_CAUSES = 2  # named for one item
PLAIN = ("genre", "type", "decade")  # families whose levels speak for themselves


def before_and_after(
    base: Stage, boost: ContextBoost, data: Dataset, requests: pd.DataFrame
) -> tuple[Slate, Slate, ContextStep]:
    """Score all items with events that a user has not seen, without the context and with it.

    Returns
    -------
    Slate, Slate, ContextStep
        By the base alone; by base and context; and the fitted `boost`.
    """
    base_step, step = chain(base, boost).fit(data).steps
    scored = base_step(Slate(requests, np.flatnonzero(data.item_counts)))
    unseen = ExcludeSeen().fit(data)
    return unseen(scored), unseen(step(scored)), step


def moves(
    before: Slate, after: Slate, step: ContextStep, data: Dataset, k: int = 10
) -> pd.DataFrame:
    """Say what moved in one request's list, and why.

    Parameters
    ----------
    before, after : Slate of one request
        All candidates in the same slots, scored without the context and with it.
    step : ContextStep
        That made the difference.
    data : Dataset
        Whose catalogue has the titles.
    k : int
        Length of the list.

    Returns
    -------
    DataFrame
        The list after, best first, and then what left it: ``rank`` (1..k, missing for what left)
        and ``before`` (Int64), ``content_id``, ``title``, ``multiplier``, ``reason``. The
        multiplier is that of all context parts together. The reason names those that are not
        negligible, strongest first, each with what about the title it is for; the ``n`` events
        that a learned one rests on are those in such moments.

    Raises
    ------
    ValueError
        If the slates are not about one request and the same candidates.
    """
    if len(after.requests) != 1 or not np.array_equal(before.grid, after.grid):
        raise ValueError("moves are told between slates of one request and the same candidates")
    parts = {name: v[0] for name, v in after.parts.items() if name.startswith(PREFIX)}
    ranks, k = (_ranks(before), _ranks(after)), min(k, (after.grid != EMPTY).sum())
    return moves_by_rank(after.grid[0], *ranks, parts, step, after.requests, data, k)


def moves_by_rank(
    items: np.ndarray,
    was: np.ndarray,
    now: np.ndarray,
    parts: Mapping[str, np.ndarray],
    step: ContextStep,
    request: pd.DataFrame,
    data: Dataset,
    k: int,
) -> pd.DataFrame:
    """Say the same of titles whose ranks, and whose context parts, are known.

    Parameters
    ----------
    items : int array of shape (n,)
    was, now : int arrays of shape (n,)
        Ranks from 1; beyond `k` where a title is not in a list.
    parts : mapping of str to float array of shape (n,)
        By name, such as ``context:weather``.
    step : ContextStep
    request : DataFrame of one row
    data : Dataset
    k : int

    Returns
    -------
    DataFrame
        As of :func:`moves`.
    """
    stayed, left = np.flatnonzero(now <= k), np.flatnonzero((was <= k) & (now > k))
    slots = np.r_[stayed[np.argsort(now[stayed])], left[np.argsort(was[left])]]
    items, was, now = items[slots], was[slots], now[slots]
    parts = {name: part[slots] for name, part in parts.items()}
    causes = _causes(parts, items, step, request) if parts else [""] * len(items)
    reasons = [c or _passed(w, n) for c, w, n in zip(causes, was, now, strict=True)]
    return pd.DataFrame(
        {
            "rank": pd.array(now, "Int64"),
            "before": pd.array(was, "Int64"),
            "content_id": pd.array(data.item_ids[items], "str"),
            "title": pd.array(data.titles[items], "str"),
            "multiplier": np.exp(sum(parts.values(), np.zeros(len(items)))),
            "reason": pd.array(reasons, "str"),
        }
    ).assign(rank=lambda frame: frame["rank"].mask(frame["rank"] > k))


def _ranks(slate: Slate) -> np.ndarray:
    """Rank of each slot of the only request, from 1; empty slots come last."""
    order = best(slate.scores, slate.shape[1])[0]
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(1, len(order) + 1)
    return ranks


def _passed(was: int, now: int) -> str:
    """Say why an item without a multiplier of its own moved."""
    if was == now:
        return ""
    return "others moved past it" if now > was else "others fell behind"


def _causes(
    parts: Mapping[str, np.ndarray], items: np.ndarray, step: ContextStep, requests: pd.DataFrame
) -> list[str]:
    """Name the strongest parts of each item, or nothing where all are negligible."""
    moment = step.moments(requests).iloc[0]
    known = {f"{PREFIX}{each.dimension}": each for each in step.multipliers}
    lifts = {name: _lifts(known[name], moment) for name in parts if name in known}
    names, logs = list(parts), np.stack(list(parts.values()), axis=1)
    causes = []
    for item, row in zip(items, logs, strict=True):
        strongest = np.argsort(-np.abs(row), kind="stable")[:MOST_CAUSES]
        shares = _shares(step, item)
        told = [
            f"watched in similar moments ×{np.exp(row[part]):.2f}"
            if names[part] == JOINT
            else _cause(known[names[part]], moment, lifts[names[part]], row[part], shares)
            for part in strongest
            if abs(row[part]) >= NEGLIGIBLE
        ]
        causes.append(", ".join(told))
    return causes


def _lifts(each: Multipliers, moment: pd.Series) -> dict[str, tuple[float, float, float]]:
    """By attribute, what a value of the context does to it: ``log_lift``, ``low`` and ``n``."""
    of_value = each.reasons[each.reasons["value"] == moment[each.dimension]]
    rows = of_value[["attribute", "log_lift", "low", "n"]].itertuples(index=False, name=None)
    return {attribute: rest for attribute, *rest in rows}


def _shares(step: ContextStep, item: int) -> dict[str, float]:
    """Attributes that an item has, each with its share of the family."""
    row = step.attributes.matrix[[item]]
    names = (step.attributes.names[column] for column in row.indices)
    return dict(zip(names, row.data.tolist(), strict=True))


def _cause(
    each: Multipliers,
    moment: pd.Series,
    lifts: Mapping[str, tuple[float, float, float]],
    log: float,
    shares: Mapping[str, float],
) -> str:
    """Tell one part: ``morning: News ×1.60``, and the count where it was learned."""
    # What works against the part cannot be its reason, however strong it is.
    push = {name: lifts[name][0] * shares[name] * np.sign(log) for name in lifts if name in shares}
    most = max(push.values(), default=0.0)
    strongest = [name for name, by in push.items() if by > 0 and np.isclose(by, most)]
    spoken = _spoken(each.dimension, moment[each.dimension])
    if not strongest:  # a lift of the item's or the user's own
        return f"{spoken} ×{np.exp(log):.2f}"
    learned = any(pd.notna(lifts[name][1]) for name in strongest)
    count = f" (n = {lifts[strongest[0]][2]})" if learned else ""
    return f"{spoken}: {', '.join(map(_label, strongest))} ×{np.exp(log):.2f}{count}"


def _label(attribute: str) -> str:
    family, level = attribute.split(":", 1)
    return level if family in PLAIN else f"{family} {level}"


def _spoken(dimension: str, value: str) -> str:
    return "ordinary day" if (dimension, value) == ("festival", NO_FESTIVAL) else value


# ------------------------------------------------------------------ for the command line


def forget(requests: pd.DataFrame, *, hour: bool, day: bool) -> pd.DataFrame:
    """Make unknown what the hour, or the day, of the instants would tell, unless it is observed."""
    dimensions = ("daypart",) * hour + ("daytype", "season", "festival") * day
    unknown = pd.Series(None, requests.index, dtype="str")
    return requests.assign(**{name: unknown for name in dimensions if name not in requests})


def headline(requests: pd.DataFrame, boost: ContextBoost, step: ContextStep) -> str:
    """Say how the moment of the only request was understood, and what it is weighed with."""
    moment = describe(requests, boost.clock).iloc[0].dropna()
    words = ", ".join(_spoken(name, value) for name, value in moment.items()) or "unknown"
    kind = "learned strength" if boost.strength is None else "strength"
    return f"Moment: {words} ({boost.mode}, {kind} {step.strength:.3g})"


def as_text(moved: pd.DataFrame) -> str:
    """Lay out moves as a table, with what left the list below it."""
    shown = pd.DataFrame(
        {
            "rank": moved["rank"].astype("str").fillna("-").str.rjust(4),
            "was": moved["before"].astype("str").str.rjust(4),
            "title": moved["title"],
            "times": [f"×{multiplier:.2f}" for multiplier in moved["multiplier"]],
            "reason": moved["reason"],
        }
    )
    lines = aligned([shown.columns, *shown.to_numpy()])
    listed = 1 + moved["rank"].notna().sum()
    left = ["", "Left the list:", *lines[listed:]] if lines[listed:] else []
    return "\n".join([*lines[:listed], *left])


def stillness(moved: pd.DataFrame, boost: ContextBoost, step: ContextStep) -> str:
    """Say why nothing moved; nothing where something did."""
    if not moved["rank"].eq(moved["before"]).fillna(False).all():
        return ""
    if boost.mode == "off":
        return "Nothing moves: the context is off."
    if step.strength == 0:
        return f"Nothing moves: the {'learned ' if boost.strength is None else ''}strength is 0."
    return "Nothing moves: no multiplier of this moment changes this list."


def caveats(after: Slate, step: ContextStep, data: Dataset) -> list[str]:
    """Warn of learned multipliers that rest on events whose moments were not observed."""
    learned = [
        each.dimension
        for each in step.multipliers
        if f"{PREFIX}{each.dimension}" in after.parts and each.reasons["low"].notna().any()
    ]
    kinds = data.manifest.get("columns", {}).get("watch_history", {})
    timed = [name for name in learned if name not in data.interactions]
    drawn = [n for n in learned if kinds.get("timestamp" if n in timed else n) == "simulated"]
    told = []
    if drawn:
        are = "is" if len(drawn) == 1 else "are"
        told.append(
            f"{' and '.join(drawn)} {are} simulated in this data set: these lifts say nothing "
            "about people"
        )
    note = re.search(r"[^.]*\btimestamps?\b[^.]*\.", data.manifest.get("notes", ""), re.IGNORECASE)
    return [*told, note[0].strip()] if note and timed else told
