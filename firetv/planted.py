"""What a method recovers of what a synthetic world planted."""

from __future__ import annotations

import pandas as pd

from firetv.data import Dataset
from firetv.moments import UTC_CLOCK
from firetv.multipliers import Learning
from firetv.rules import Rules
from firetv.synthetic import simulate
from firetv.world import CONTEXTS, World


def recovered_lifts(world: World, rules: Rules, confidence: float = 0.9) -> pd.DataFrame:
    """Learn the genre lifts of a simulated world, and set them beside the planted ones.

    Parameters
    ----------
    world : World
        One without influence: copied viewings ignore the context, which dilutes the planted lifts.
    rules : Rules
        What thin cells are shrunk towards; ``Rules(())`` for no lift.
    confidence : float
        Of the intervals.

    Returns
    -------
    DataFrame
        ``dimension, value, attribute, log_lift, low, high, n``, and ``planted`` and ``rule``: all
        three against the base rate, as :meth:`firetv.lifts.Lifts.table` shows them.
    """
    tables, truth = simulate(world)
    learning = Learning.of(Dataset.from_tables(tables), UTC_CLOCK, ("genre",), rules)
    frames = []
    for dimension in CONTEXTS:
        learned = learning.lifts(dimension)
        if learned is None:
            continue
        lifts = learned[0]
        genres = [name.removeprefix("genre:") for name in lifts.names]
        planted = truth.lifts[dimension].reindex(index=lifts.values, columns=genres)
        planted = planted.fillna(0)  # an ordinary day, which no world names, has no lift
        rule = rules.log_multipliers(dimension, lifts.values, lifts.names)
        frames.append(
            lifts.table(confidence).assign(
                dimension=dimension,
                planted=lifts.shown(planted.to_numpy()),
                rule=lifts.shown(rule),
            )
        )
    return pd.concat(frames, ignore_index=True)
