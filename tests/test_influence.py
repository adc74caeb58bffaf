from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from firetv.data import Dataset
from firetv.influence import estimate
from firetv.synthetic import simulate
from firetv.trust import rewired
from firetv.world import World

SIZE = {"users": 200, "content": 200, "watch_events": 15_000}


def world(**planted: float) -> Dataset:
    tables, _ = simulate(World(**SIZE, **planted))
    return Dataset.from_tables(tables)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_the_planted_share_is_found_whatever_the_likeness(share: float) -> None:
    for homophily in (0.0, 4.0):
        found = estimate(world(influence=share, homophily=homophily))
        assert found.copied == pytest.approx(share, abs=0.02)


def test_likeness_is_not_taken_for_influence_but_naively() -> None:
    alike, unlike = (estimate(world(influence=0.0, homophily=h)) for h in (6.0, 0.0))
    assert alike.likeness > 1.3 > unlike.likeness > 0.9
    assert alike.naive > 0.02
    assert abs(unlike.naive) < 0.01


def test_other_peoples_friends_have_no_influence() -> None:
    data = world(influence=0.3)
    assert abs(estimate(rewired(data, seed=0)).copied) < 0.02


def by_hand() -> Dataset:
    """Two friends; the first watches what the second did the week before in two of four weeks."""
    weeks, users, items = (
        np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4]),
        np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1]),
        np.array([5, 1, 1, 2, 4, 3, 3, 4, 5, 0]),
    )
    events = pd.DataFrame(
        {
            "user": users,
            "item": items,
            "timestamp": pd.Timestamp("2024-01-01T00Z") + pd.to_timedelta(7 * weeks, "D"),
        }
    )
    ids = (pd.Index(["a", "b"]), pd.Index([str(n) for n in range(6)]))
    profiles = (pd.DataFrame(index=range(2)), pd.DataFrame(index=range(6)))
    friends = sparse.csr_array(np.array([[0, 1.0], [0, 0]], np.float32))
    return Dataset(*ids, *profiles, events, events.iloc[:0], friends)


def test_the_estimate_by_hand() -> None:
    # Of the viewings in weeks 1 to 3, those of weeks 1 and 3 are of what the friend watched the
    # week before, and that of week 2 is of what the friend watched a week later.
    found = estimate(by_hand(), far=(1,))
    assert found.viewings == 3  # of week 4, no week after is known
    before, after = 2 / 3, 1 / 3
    assert found.copied == pytest.approx((before - after) / (1 - after))


def test_nobody_to_follow_is_an_error() -> None:
    data = by_hand()
    lonely = Dataset(**{**vars(data), "friends": None})
    with pytest.raises(ValueError, match="nobody has a friend"):
        estimate(lonely)
