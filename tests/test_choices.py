"""Choices to learn from: drawn items, hidden ones, and what a conditional logit makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import chosen_first, make_tables, planted
from scipy import optimize

from firetv.choices import (
    SHORT,
    Choices,
    answerable,
    conditional_logit,
    later_slice,
    newness,
    sample_candidates,
    user_folds,
    with_newcomers,
)
from firetv.data import Dataset, Tables
from firetv.slate import EMPTY


def pairs(frame: pd.DataFrame) -> set[tuple[int, int]]:
    return set(zip(frame["user"], frame["item"], strict=True))


# ------------------------------------------------------------------ conditional logit


def test_a_conditional_logit_recovers_planted_weights() -> None:
    weights = [1.5, 0.0, -0.7]
    choices = chosen_first(*planted(weights, choices=8000))
    np.testing.assert_allclose(conditional_logit(choices), weights, atol=0.08)


@pytest.mark.parametrize("l2", [0.0, 50.0])
def test_a_conditional_logit_agrees_with_its_likelihood_written_out(l2: float) -> None:
    choices = chosen_first(*planted([1.0, -0.5], choices=60, slots=4))
    rng = np.random.default_rng(1)
    choices.valid[:, 1:] = rng.random((60, 3)) < 0.7

    def loss(weights: np.ndarray) -> float:
        total = l2 / 2 * np.sum(weights**2)
        for row, valid in zip(choices.features.astype(float), choices.valid, strict=True):
            total -= row[0] @ weights - np.log(np.exp(row[valid] @ weights).sum())
        return float(total)

    oracle = optimize.minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-8})
    np.testing.assert_allclose(conditional_logit(choices, l2), oracle.x, atol=1e-3)


def test_a_penalty_holds_the_weights_where_the_gradients_balance() -> None:
    choices = chosen_first(*planted([1.0, -0.5]))
    weights = conditional_logit(choices, l2=300.0)
    p = np.exp(choices.features @ weights)
    p /= p.sum(axis=1, keepdims=True)
    surprise = choices.features[:, 0].sum(axis=0) - np.einsum("rk,rkd->d", p, choices.features)
    np.testing.assert_allclose(surprise, 300.0 * weights, rtol=1e-3)
    assert (np.abs(weights) < np.abs(conditional_logit(choices))).all()


def test_a_weight_that_would_be_negative_stops_at_zero() -> None:
    choices = chosen_first(*planted([1.0, -0.8, 0.5]))
    assert conditional_logit(choices)[1] < -0.6
    weights = conditional_logit(choices, nonnegative=True)
    without = conditional_logit(choices.select(["feature0", "feature2"]))
    assert weights[1] == 0
    np.testing.assert_allclose(weights[[0, 2]], without, atol=1e-4)


def test_slots_without_an_item_do_not_count() -> None:
    choices = chosen_first(*planted([1.0, -0.5]))
    junk = np.full((len(choices.valid), 3, 2), 7.0, np.float32)
    padded = Choices(
        np.concatenate([choices.features, junk], axis=1),
        np.pad(choices.valid, ((0, 0), (0, 3))),
        choices.names,
    )
    np.testing.assert_allclose(conditional_logit(padded), conditional_logit(choices), atol=1e-5)


def test_without_choices_there_is_nothing_to_learn() -> None:
    nothing = Choices(np.empty((0, 5, 2), np.float32), np.empty((0, 5), bool), ("a", "b"))
    with pytest.raises(ValueError, match="needs at least one choice"):
        conditional_logit(nothing)


def test_features_are_selected_by_name_and_keep_their_order() -> None:
    choices = chosen_first(*planted([1.0, 2.0, 3.0], choices=4, slots=3))
    some = choices.select(["feature2", "feature0"])
    assert some.names == ("feature0", "feature2")
    np.testing.assert_array_equal(some.features, choices.features[:, :, [0, 2]])
    assert some.valid is choices.valid


# ------------------------------------------------------------------ choices


def catalogue(items: int) -> Dataset:
    """Somebody saw every item but the last; somebody else, user 1, saw only the first."""
    codes = [*range(items - 1), 0]
    history = pd.DataFrame(
        {
            "user_id": ["all"] * (items - 1) + ["one"],
            "content_id": [f"c{i}" for i in codes],
            "timestamp": pd.Timestamp("2024-01-01", tz="UTC"),
        }
    )
    content = pd.DataFrame({"content_id": [f"c{i}" for i in range(items)]})
    return Dataset.from_tables(Tables(history, content=content))


def test_weights_from_a_sample_of_the_candidates_are_those_from_all() -> None:
    """McFadden 1978; the draws are few beside the candidates, so hardly any comes twice."""
    x, chosen = planted([1.2, -0.6], choices=2000, slots=400)
    everything = conditional_logit(chosen_first(x, chosen))
    users = np.full(len(chosen), -1)
    train = catalogue(401)  # of which 400 are known
    drawn = sample_candidates(chosen, users, train, np.random.default_rng(0), negatives=20)
    sampled = Choices(x[np.arange(len(x))[:, None], drawn], drawn != EMPTY, ("a", "b"))
    np.testing.assert_allclose(conditional_logit(sampled), everything, atol=0.08)
    np.testing.assert_allclose(everything, [1.2, -0.6], atol=0.08)


def test_weights_stand_where_there_are_more_draws_than_candidates() -> None:
    """Copies of the alternatives would make weights a fifth too large here."""
    x, chosen = planted([1.2, -0.6], choices=3000, slots=20)
    everything = conditional_logit(chosen_first(x, chosen))
    users, rng = np.full(len(chosen), -1), np.random.default_rng(0)
    drawn = sample_candidates(chosen, users, catalogue(21), rng, negatives=100)
    sampled = Choices(x[np.arange(len(x))[:, None], drawn], drawn != EMPTY, ("a", "b"))
    np.testing.assert_allclose(conditional_logit(sampled), everything, atol=0.02)
    assert all(len(set(row[row != EMPTY])) == (row != EMPTY).sum() for row in drawn[:200])


def test_negatives_are_known_items_neither_seen_nor_chosen(data: Dataset) -> None:
    train = data.keep(data.interactions["item"] >= 10)
    events = train.interactions
    users, items = events["user"].to_numpy(), events["item"].to_numpy()
    drawn = sample_candidates(items, users, train, np.random.default_rng(0), negatives=60)
    assert drawn.shape == (len(events), 61)
    np.testing.assert_array_equal(drawn[:, 0], items)
    rows, slots = np.nonzero(drawn[:, 1:] != EMPTY)
    negatives = drawn[rows, slots + 1]
    assert len(negatives) > 1000
    assert set(negatives) == set(range(10, data.shape[1]))
    assert not train.matrix().toarray()[users[rows], negatives].any()
    assert (negatives != items[rows]).all()


def test_what_strangers_might_have_chosen_is_drawn_evenly() -> None:
    train, chosen = catalogue(21), np.full(500, 3)
    drawn = sample_candidates(chosen, np.full(500, -1), train, np.random.default_rng(0), 50)
    count = np.bincount(drawn[:, 1:][drawn[:, 1:] != EMPTY], minlength=21)
    assert count[3] == count[20] == 0  # chosen; unknown to training
    others = np.delete(count, [3, 20])
    assert others.min() > 0.85 * others.mean()
    assert others.max() < 1.15 * others.mean()


def test_draws_are_seeded(data: Dataset) -> None:
    events = data.interactions.iloc[:50]
    users, items = events["user"].to_numpy(), events["item"].to_numpy()
    a, b, c = (
        sample_candidates(items, users, data, np.random.default_rng(seed), negatives=10)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_only_known_items_that_are_new_to_the_user_can_be_asked_for() -> None:
    train = catalogue(5)
    events = pd.DataFrame({"user": [1, 1, 1, 0], "item": [0, 2, 4, 1]}, index=[9, 8, 7, 6])
    assert answerable(events, train).index.tolist() == [8]  # seen; fine; unknown; seen
    assert answerable(events.iloc[:0], train).empty


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_what_is_learned_from_came_after_what_the_models_know(share: float, data: Dataset) -> None:
    shuffled = replace(data, interactions=data.interactions.sample(frac=1, random_state=0))
    train, late = later_slice(shuffled, share)
    assert len(late)
    assert train.interactions["timestamp"].max() < late["timestamp"].min()
    assert train.reactions["timestamp"].max() < late["timestamp"].min()
    left = len(data.interactions) - len(train.interactions)
    assert left == pytest.approx(share * len(data.interactions), abs=1)
    assert not pairs(late) & pairs(train.interactions)
    assert (train.item_counts[late["item"]] > 0).all()


def test_events_of_one_instant_have_no_later_ones(data: Dataset) -> None:
    once = data.interactions.assign(timestamp=pd.Timestamp("2024-01-01T00:00Z"))
    with pytest.raises(ValueError, match="nothing to learn from"):
        later_slice(replace(data, interactions=once), 0.2)


# ------------------------------------------------------------------ folds


def test_folds_share_each_users_events_evenly() -> None:
    users = np.random.default_rng(0).permutation(np.repeat(np.arange(60), np.arange(60) % 13))
    fold = user_folds(users, 5, np.random.default_rng(0))
    assert set(fold) == set(range(5))
    counts = pd.crosstab(users, fold).reindex(columns=range(5), fill_value=0).to_numpy()
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()


def test_users_of_a_single_event_are_in_all_folds() -> None:
    fold = user_folds(np.arange(2000), 4, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(fold) / 2000, 0.25, atol=0.04)


def test_folds_are_seeded_and_do_not_follow_the_order_of_events() -> None:
    users = np.zeros(100, np.int32)
    a, b, c = (user_folds(users, 5, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    assert len(set(np.diff(a) % 5)) > 1  # in file order they would be dealt 0, 1, 2, ...


# ------------------------------------------------------------------ newcomers


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_newness_halves_at_its_scale_and_a_stranger_is_new(scale: float, data: Dataset) -> None:
    short = data.keep(data.interactions["user"] > 0)
    new = newness(short, scale)
    assert new.dtype == np.float32
    assert new.shape == (data.shape[0] + 1,)
    assert new[-1] == new[0] == 1  # a stranger, and somebody without events
    for user in (1, 7):
        items = short.interactions.loc[short.interactions["user"] == user, "item"].nunique()
        assert new[user] == pytest.approx(scale / (scale + items))


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan])
def test_newness_needs_a_scale(scale: float, data: Dataset) -> None:
    with pytest.raises(ValueError, match=r"newness .* must be above 0"):
        newness(data, scale)


def test_half_of_all_users_become_newcomers_of_every_short_length() -> None:
    data, lengths = Dataset.from_tables(make_tables(events=2400)), []
    for seed in range(40):
        made = with_newcomers(data, np.random.default_rng(seed))
        assert made.shape == data.shape
        assert pairs(made.interactions) <= pairs(data.interactions)
        lengths.append(made.user_counts)
    lengths = np.array(lengths)
    assert (data.user_counts > max(SHORT)).all()
    short = lengths < data.user_counts
    assert short.mean() == pytest.approx(0.5, abs=0.05)
    assert set(lengths[short]) == set(SHORT)
    assert (lengths[short] == 0).mean() == pytest.approx(SHORT.count(0) / len(SHORT), abs=0.05)
    assert short.any(axis=0).all()  # nobody is spared for good


def test_newcomers_are_seeded(data: Dataset) -> None:
    a, b, c = (with_newcomers(data, np.random.default_rng(seed)) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(a.interactions, b.interactions)
    assert len(a.interactions) != len(c.interactions)
