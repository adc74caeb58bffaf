"""Lists re-ranked for calibration and diversity, beside loops over one request."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from conftest import make_tables

from firetv import metrics
from firetv.data import Dataset
from firetv.diversity import MMR, Calibrated
from firetv.features import genres
from firetv.slate import EMPTY, Slate, top

NEW = {Calibrated: "calibration", MMR: "diversity"}
STAGES = [Calibrated(0.6, k=8), Calibrated(0.3, k=4, alpha=0.2), MMR(0.6, k=8), MMR(0.3, k=4)]
KINDS = ("Comedy", "Crime", "Drama", "News", "Sport", "War")


def labelled(lists: list[list[str]], seed: int = 0) -> Dataset:
    """The small world with other genres, one list per title."""
    tables = make_tables(users=30, items=len(lists), events=300, seed=seed)
    return Dataset.from_tables(replace(tables, content=tables.content.assign(genres=lists)))


@pytest.fixture(scope="module")
def varied() -> Dataset:
    """Titles of up to four genres of six, some of none; the last, of code -1, has all."""
    rng = np.random.default_rng(3)
    lists = [list(rng.permutation(KINDS)[: rng.integers(5)]) for _ in range(59)]
    return labelled([*lists, list(KINDS)])


def random_slate(data: Dataset, slots: int = 25, seed: int = 1, empty: float = 0.1) -> Slate:
    """Two parts over random candidates of every user and a stranger, some slots empty."""
    rng = np.random.default_rng(seed)
    users = np.append(np.arange(data.shape[0]), -1)
    items = np.stack([rng.permutation(data.shape[1])[:slots] for _ in users])
    items[rng.random(items.shape) < empty] = EMPTY
    slate = Slate(pd.DataFrame({"user": users}), items)
    taste = slate.add("taste", rng.normal(5, 3, size=items.shape))
    return taste.add("friends", rng.exponential(size=items.shape))


def known_slate(data: Dataset) -> Slate:
    """Random candidates that all have genres, of users who are known, no slot empty."""
    slate = random_slate(data, slots=60, empty=0)
    bare = genres(data).matrix.sum(axis=1) == 0
    order = np.argsort(bare[slate.items], axis=1, kind="stable")[:, : int((~bare).sum())]
    full = slate.take(order)
    parts = {name: part[:-1] for name, part in full.parts.items()}
    return Slate(full.requests[:-1], full.items[:-1], parts)


def same(one: Slate, other: Slate) -> None:
    np.testing.assert_array_equal(one.items, other.items)
    assert list(one.parts) == list(other.parts)
    for name, part in one.parts.items():
        np.testing.assert_array_equal(part, other.parts[name])


# ------------------------------------------------------------------ oracles


def divided(titles: list[set[str]], mass: float) -> dict[str, float]:
    shares = dict.fromkeys(KINDS, 0.0)
    for own in titles:
        for name in own:
            shares[name] += mass / len(own)
    return shares


def closeness(stage: Calibrated, history: list[set[str]], listed: list[set[str]]) -> float:
    """Sum of p log q~, a title's mass being 1 / k."""
    p = divided(history, 1 / max(1, sum(bool(own) for own in history)))
    q = divided(listed, 1 / stage.k)
    mixed = {g: (1 - stage.alpha) * q[g] + stage.alpha * p[g] for g in KINDS}
    return sum(p[g] * math.log(mixed[g]) for g in KINDS if p[g])


def cosine(one: set[str], other: set[str]) -> float:
    return len(one & other) / math.sqrt(len(one) * len(other)) if one and other else 0.0


def naive_gain(stage: Calibrated | MMR, history: list[set[str]]) -> Callable[..., float]:
    def gain(title: set[str], listed: list[set[str]]) -> float:
        if isinstance(stage, MMR):
            return -max((cosine(title, other) for other in listed), default=0.0)
        return closeness(stage, history, [*listed, title]) - closeness(stage, history, listed)

    return gain


def naive_list(
    stage: Calibrated | MMR, scores: list[float], own: list[set[str]], history: list[set[str]]
) -> tuple[list[int], list[float]]:
    """Slots of one request, and the added part, title by title."""
    left = [slot for slot, score in enumerate(scores) if score > -math.inf]
    scale = float(np.std([scores[slot] for slot in left]))
    gain, slots, parts = naive_gain(stage, history), [], []
    while left and len(slots) < stage.k:
        listed = [own[slot] for slot in slots]
        added = {slot: stage.weight * gain(own[slot], listed) for slot in left}
        first = max(left, key=lambda s: (1 - stage.weight) * scores[s] / scale + added[s])
        slots.append(first)
        parts.append(added[first])
        left.remove(first)
    return slots, parts


def titles_of(data: Dataset) -> list[set[str]]:
    return [set(own) for own in data.content["genres"]]


def history_of(data: Dataset, user: int) -> list[set[str]]:
    titles, events = titles_of(data), data.interactions
    return [titles[item] for item in events.loc[events["user"] == user, "item"].unique()]


@pytest.mark.parametrize("stage", STAGES, ids=repr)
def test_lists_are_those_of_a_naive_loop(stage: Calibrated | MMR, varied: Dataset) -> None:
    slate, titles = random_slate(varied), titles_of(varied)
    chosen = stage.fit(varied)(slate)
    scores = slate.scores.astype(float)
    for row, user in enumerate(slate.users):
        own = [titles[item] if item != EMPTY else set() for item in slate.items[row]]
        slots, parts = naive_list(stage, scores[row], own, history_of(varied, user))
        assert chosen.items[row].tolist() == slate.items[row, slots].tolist()
        np.testing.assert_allclose(chosen.parts[NEW[type(stage)]][row], parts, atol=1e-6)


# ------------------------------------------------------------------ by hand


def one_user(watched: list[int], lists: list[list[str]]) -> Dataset:
    data = labelled(lists)
    return replace(
        data, interactions=pd.DataFrame({"user": 0, "item": watched}, index=range(len(watched)))
    )


def hand_made(data: Dataset, items: list[int], scores: list[float], user: int = 0) -> Slate:
    slate = Slate(pd.DataFrame({"user": [user]}), np.array([items]))
    return slate.add("taste", np.array([scores]))


FILMS = [["Comedy"], ["Comedy"], ["Comedy"], ["News"], ["Comedy", "News"], []]


def test_calibrated_by_hand() -> None:
    data = one_user([0, 3], FILMS)  # half comedy, half news
    chosen = Calibrated(0.5, k=2, alpha=0.1).fit(data)(hand_made(data, [1, 2, 3], [4, 1, 0]))
    deviation = math.sqrt(26) / 3
    # A genre that is half of the history grows from 0.05 to 0.5, or from 0.5 to 0.95 by a second.
    assert 0.5 * math.log(10) > 1 / deviation + 0.5 * math.log(1.9)
    assert chosen.items.tolist() == [[1, 3]]
    np.testing.assert_allclose(chosen.parts["calibration"], [[math.log(10) / 4] * 2], rtol=1e-6)
    np.testing.assert_allclose(chosen.parts["taste"], [[2 / deviation, 0]], rtol=1e-6)


def test_mmr_by_hand() -> None:
    data = one_user([0], FILMS)
    chosen = MMR(0.5, k=3).fit(data)(hand_made(data, [1, 2, 4, 3], [4, 3, 2, 0]))
    deviation = math.sqrt(35 / 16)
    # Of 4 the similarity to 1 is the cosine of 45 degrees, of 2 it is 1, of 3 none.
    left = {2: 3 / deviation - 1, 4: 2 / deviation - math.sqrt(0.5), 3: 0.0}
    assert max(left, key=left.get) == 2
    assert chosen.items.tolist() == [[1, 2, 4]]
    expected = [[0, -0.5, -math.sqrt(0.5) / 2]]
    np.testing.assert_allclose(chosen.parts["diversity"], expected, rtol=1e-6)


# ------------------------------------------------------------------ the ledger


@pytest.mark.parametrize("stage", STAGES, ids=repr)
def test_other_parts_are_scaled_and_one_is_added(stage: Calibrated | MMR, varied: Dataset) -> None:
    slate = random_slate(varied)
    chosen = stage.fit(varied)(slate)
    assert list(chosen.parts) == ["taste", "friends", NEW[type(stage)]]
    for row, items in enumerate(chosen.items):
        slots = [slate.items[row].tolist().index(item) for item in items]
        held = slate.items[row] != EMPTY
        scale = (1 - stage.weight) / slate.scores[row, held].astype(float).std()
        for name, part in slate.parts.items():
            np.testing.assert_allclose(chosen.parts[name][row], part[row, slots] * scale, 1e-5)


@pytest.mark.parametrize("stage", STAGES, ids=repr)
def test_lists_stand_in_the_order_of_their_ledger(stage: Calibrated | MMR, varied: Dataset) -> None:
    step = replace(stage, k=20).fit(varied)
    for seed in range(20):
        chosen = step(random_slate(varied, seed=seed))
        held = chosen.items != EMPTY
        scores = np.where(held, chosen.scores, -1e30)
        assert (np.diff(scores, axis=1) <= 0).all()
        same(top(20)(chosen), chosen)


def test_the_calibration_part_is_what_the_metric_measures(varied: Dataset) -> None:
    stage, slate = Calibrated(0.4, k=6, alpha=0.05), known_slate(varied)
    chosen = stage.fit(varied)(slate)
    genre, seen = genres(varied).matrix.toarray(), varied.matrix()[slate.users]
    divergence = metrics.calibration(chosen.items, genre, seen, stage.alpha)
    expected = stage.weight * (math.log(1 / stage.alpha) - divergence)
    np.testing.assert_allclose(chosen.parts["calibration"].sum(axis=1), expected, rtol=1e-5)


def worth(
    stage: Calibrated, scores: np.ndarray, own: list[set[str]], history: list[set[str]]
) -> float:
    """What a list gains on none, of scores that are counted from the lowest."""
    gained = closeness(stage, history, own) - closeness(stage, history, [])
    return (1 - stage.weight) * scores.sum() + stage.weight * gained


def test_greedy_calibration_is_worth_its_bound(varied: Dataset) -> None:
    stage, slate = Calibrated(0.7, k=3), known_slate(varied).take(np.tile(np.arange(9), (30, 1)))
    chosen, titles = stage.fit(varied)(slate), titles_of(varied)
    for row, user in enumerate(slate.users):
        scores, history = slate.scores[row].astype(float), history_of(varied, user)
        scores = (scores - scores.min()) / scores.std()
        value = {
            slots: worth(
                stage,
                scores[list(slots)],
                [titles[item] for item in slate.items[row, slots]],
                history,
            )
            for slots in combinations(range(9), 3)
        }
        own = tuple(np.flatnonzero(np.isin(slate.items[row], chosen.items[row])))
        assert value[own] >= (1 - 1 / math.e) * max(value.values())


# ------------------------------------------------------------------ what weight does


def test_calibration_falls_with_weight(varied: Dataset) -> None:
    slate, genre = known_slate(varied), genres(varied).matrix.toarray()
    seen = varied.matrix()[slate.users]
    lists = [Calibrated(w).fit(varied)(slate).items for w in (0, 0.3, 0.6, 0.9)]
    means = [metrics.calibration(items, genre, seen).mean() for items in lists]
    assert (np.diff(means) < 0).all()


def test_diversity_grows_with_weight(varied: Dataset) -> None:
    slate, genre = known_slate(varied), genres(varied).matrix.toarray()
    lists = [MMR(w).fit(varied)(slate).items for w in (0, 0.3, 0.6, 0.9)]
    means = [metrics.intra_list_diversity(items, genre).mean() for items in lists]
    assert (np.diff(means) > 0).all()


@pytest.mark.parametrize("stage", [Calibrated(0, k=8), MMR(0, k=8)], ids=repr)
def test_no_weight_keeps_the_order_that_came(stage: Calibrated | MMR, varied: Dataset) -> None:
    slate = random_slate(varied)
    chosen = stage.fit(varied)(slate)
    np.testing.assert_array_equal(chosen.items, top(8)(slate).items)
    assert not chosen.parts[NEW[type(stage)]].any()


@pytest.mark.parametrize("stage", STAGES, ids=repr)
def test_units_and_offsets_of_scores_do_not_matter(
    stage: Calibrated | MMR, varied: Dataset
) -> None:
    slate, step = random_slate(varied), stage.fit(varied)
    far = replace(slate, parts={"taste": 8 * slate.scores + np.float32(100)})
    far = replace(far, parts={"taste": np.where(slate.items == EMPTY, 0, far.parts["taste"])})
    np.testing.assert_array_equal(step(far).items, step(slate).items)


# ------------------------------------------------------------------ edges


@pytest.mark.parametrize("stage", STAGES, ids=repr)
def test_empty_slots_come_last_and_stay_empty(stage: Calibrated | MMR, varied: Dataset) -> None:
    slate = random_slate(varied, slots=12, empty=0.6)
    slate = replace(slate, items=np.where(slate.users[:, None] == 3, EMPTY, slate.items))
    chosen = stage.fit(varied)(slate)
    held = np.minimum((slate.items != EMPTY).sum(axis=1), stage.k)
    np.testing.assert_array_equal(chosen.items != EMPTY, np.arange(stage.k) < held[:, None])
    assert not chosen.parts[NEW[type(stage)]][chosen.items == EMPTY].any()
    assert all(np.isfinite(part).all() for part in chosen.parts.values())


def test_calibrated_leaves_alone_whose_genres_are_unknown() -> None:
    data = one_user([5], FILMS)  # a title without genres; user 1 watched nothing
    step = Calibrated(0.9, k=3).fit(data)
    for user in (0, 1, -1):
        chosen = step(hand_made(data, [3, 1, 2, 5], [1, 4, 3, 2], user))
        assert chosen.items.tolist() == [[1, 2, 5]]
        assert not chosen.parts["calibration"].any()


def test_titles_without_genres_gain_and_lose_nothing(varied: Dataset) -> None:
    bare = genres(varied).matrix.sum(axis=1) == 0
    for stage in (Calibrated(0.5, k=25), MMR(0.5, k=25)):
        chosen = stage.fit(varied)(random_slate(varied))
        there = bare[chosen.items] & (chosen.items != EMPTY)
        assert there.any()
        assert not chosen.parts[NEW[type(stage)]][there].any()


def test_without_any_genres_the_order_stays(varied: Dataset) -> None:
    slate = random_slate(varied)
    nothing = replace(varied, content=varied.content.drop(columns="genres"))
    for stage in (Calibrated(k=8), MMR(k=8)):
        np.testing.assert_array_equal(stage.fit(nothing)(slate).items, top(8)(slate).items)


def test_equal_scores_keep_the_order_of_slots() -> None:
    data = one_user([0, 3], FILMS)
    slate = hand_made(data, [2, 1, 3, 0], [1, 1, 1, 1])  # no deviation to divide by
    for stage in (Calibrated(0.5, k=4), MMR(0.5, k=4)):
        chosen = stage.fit(data)(slate)
        assert chosen.items.tolist() == [[2, 3, 1, 0]]
        assert (chosen.parts["taste"] == 0.5).all()


@pytest.mark.parametrize("stage", STAGES, ids=repr)
def test_short_and_missing_slates(stage: Calibrated | MMR, varied: Dataset) -> None:
    step, slate = stage.fit(varied), random_slate(varied, slots=3)
    assert step(slate).items.shape == (31, 3)
    assert step(slate.take(np.empty((31, 0), int))).items.shape == (31, 0)
    nobody = Slate(slate.requests[:0], slate.items[0], {"taste": np.empty((0, 3), np.float32)})
    assert step(nobody).shape == (0, 3)


@pytest.mark.parametrize("stage", STAGES, ids=repr)
def test_shared_candidates_are_those_of_each(stage: Calibrated | MMR, varied: Dataset) -> None:
    own, step = random_slate(varied, empty=0), stage.fit(varied)
    shared = replace(own, items=np.arange(25)[::-1])
    same(step(shared), step(replace(shared, items=shared.grid.copy())))


# ------------------------------------------------------------------ laws of every stage


@pytest.mark.parametrize("stage", STAGES, ids=repr)
def test_chunks_and_the_order_of_requests_do_not_matter(
    stage: Calibrated | MMR, varied: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    slate, step = random_slate(varied), stage.fit(varied)
    whole = step(slate)
    order = np.random.default_rng(2).permutation(len(slate.users))
    parts = {name: part[order] for name, part in slate.parts.items()}
    mixed = step(Slate(slate.requests.iloc[order], slate.items[order], parts))
    np.testing.assert_array_equal(mixed.items, whole.items[order])
    np.testing.assert_array_equal(mixed.scores, whole.scores[order])
    for cells in (1, 25 * 6 * 4):
        monkeypatch.setattr("firetv.diversity.CHUNK_CELLS", cells)
        same(step(slate), whole)


@pytest.mark.parametrize("stage", STAGES, ids=repr)
def test_refitting_repeats_and_nothing_is_written_to(
    stage: Calibrated | MMR, varied: Dataset
) -> None:
    slate = random_slate(varied)
    before = Slate(
        slate.requests.copy(),
        slate.items.copy(),
        {name: part.copy() for name, part in slate.parts.items()},
    )
    same(stage.fit(varied)(slate), stage.fit(varied)(slate))
    same(slate, before)


@pytest.mark.parametrize("stage", STAGES, ids=repr)
def test_a_part_is_added_once(stage: Calibrated | MMR, varied: Dataset) -> None:
    step = stage.fit(varied)
    with pytest.raises(ValueError, match="already has a part"):
        step(step(random_slate(varied)))


@pytest.mark.parametrize("weight", [-0.1, 1, math.nan])
@pytest.mark.parametrize("kind", [Calibrated, MMR])
def test_a_weight_out_of_range_is_refused(
    kind: type[Calibrated] | type[MMR], weight: float
) -> None:
    with pytest.raises(ValueError, match="weight"):
        kind(weight)


@pytest.mark.parametrize("kind", [Calibrated, MMR])
def test_a_list_of_nothing_is_refused(kind: type[Calibrated] | type[MMR]) -> None:
    with pytest.raises(ValueError, match="k 0"):
        kind(k=0)


@pytest.mark.parametrize("alpha", [0, 1, -1, math.nan])
def test_an_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        Calibrated(alpha=alpha)
