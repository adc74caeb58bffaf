"""Batched strategies beside plain loops over one group."""

from __future__ import annotations

import numpy as np
import pytest

from firetv import peers
from firetv.group_reasons import STRATEGIES
from firetv.panels import BLOCK_CELLS, Panel

every_strategy = pytest.mark.parametrize("name", STRATEGIES)


def test_every_strategy_has_a_peer() -> None:
    assert list(peers.PER_GROUP) == list(STRATEGIES)


@every_strategy
@pytest.mark.parametrize(("members", "slots"), [(2, 30), (4, 70), (7, 120)])
def test_lists_are_those_of_a_loop_over_groups(name: str, members: int, slots: int) -> None:
    panel = peers.random_panel(40, members, slots, seed=members)
    chosen = STRATEGIES[name](panel, 10)
    np.testing.assert_array_equal(chosen.slots, peers.lists(peers.PER_GROUP[name], panel, 10))


@every_strategy
def test_blocks_of_groups_are_put_together(name: str) -> None:
    """A panel of two blocks and a bit, and its last groups alone."""
    panel = peers.random_panel(2 * BLOCK_CELLS // 600 + 5, 3, 200)
    last = next(Panel.of(panel.opinions[[-1]], panel.weights[[-1]]).blocks())
    whole, alone = (STRATEGIES[name](each, 5) for each in (panel, last))
    assert len(list(panel.blocks())) == 3
    assert len(whole.slots) == len(whole.shares) == len(panel.valid)
    np.testing.assert_array_equal(whole.slots[-1:], alone.slots)
    np.testing.assert_allclose(whole.shares[-1:], alone.shares, rtol=1e-4, atol=1e-6)
    assert (whole.turn is None) == (alone.turn is None)


def test_loops_refuse_empty_slots() -> None:
    panel = Panel.of(np.array([[[0.5, np.nan, 0.1]]]))
    with pytest.raises(ValueError, match="empty slots"):
        peers.lists(peers.average, panel, 2)


def test_random_panels_repeat() -> None:
    one, again, other = (peers.random_panel(3, 2, 5, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.opinions, again.opinions)
    assert not np.array_equal(one.opinions, other.opinions)
    np.testing.assert_allclose(one.weights.sum(axis=1), 1, rtol=1e-6)
