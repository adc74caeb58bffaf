"""Strategies tried on made-up groups, and evenings in a row, beside loops over groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
from conftest import make_tables

from firetv.data import Dataset
from firetv.fairness import Nash
from firetv.group_metrics import measure_groups
from firetv.groups import ForGroups, GroupStep
from firetv.member_weights import Dissatisfaction, Suitable
from firetv.models import EASE, Popular
from firetv.opinions import Chances, Percentiles, Standardised
from firetv.panels import Panel
from firetv.slate import EMPTY, Slate, chain
from firetv.strategies import Average, Borda, LeastMisery
from firetv.trials import Evenings, Trial, liked_later, spend_evenings, try_strategies

KINDS = ("random", "similar", "divergent")
K = 4


@pytest.fixture(scope="module")
def whole() -> Dataset:
    """Everything is rated, some of it twice; the taste for it is that of even and odd users."""
    tables = make_tables(users=60, items=50, events=1500, seed=3)
    events = tables.watch_history[["user_id", "content_id", "timestamp"]]
    rating = np.random.default_rng(33).integers(1, 6, len(events)).astype(float)
    return Dataset.from_tables(replace(tables, content_reactions=events.assign(rating=rating)))


@pytest.fixture(scope="module")
def train(whole: Dataset) -> Dataset:
    """Some titles have no event in it, though they are liked later."""
    held = np.random.default_rng(0).random(len(whole.interactions)) < 0.35
    return whole.keep(~held & (whole.interactions["item"] >= 6).to_numpy())


@pytest.fixture(scope="module")
def trial(whole: Dataset, train: Dataset) -> Trial:
    return Trial.of(whole, train, seed=5, least=2)


@pytest.fixture(scope="module")
def step(train: Dataset) -> GroupStep:
    return ForGroups(EASE(10), Nash(), Chances(liked=3), k=K, seed=0).fit(train)


def naive_liked(whole: Dataset, train: Dataset, rating: float = 4.0) -> dict[int, set[int]]:
    """Titles of each user whose mean rating is as good, and that training has no event with."""
    known = set(zip(train.interactions["user"], train.interactions["item"], strict=True))
    rated: dict[tuple[int, int], list[float]] = {}
    for row in whole.reactions.dropna(subset="rating").itertuples():
        rated.setdefault((row.user, row.item), []).append(row.rating)
    found: dict[int, set[int]] = {user: set() for user in range(whole.shape[0])}
    for (user, item), values in rated.items():
        if sum(values) / len(values) >= rating - 1e-6 and (user, item) not in known:
            found[user].add(item)
    return found


def seen_by(train: Dataset) -> dict[int, set[int]]:
    pairs = train.interactions.groupby("user")["item"].agg(set).to_dict()
    return {user: pairs.get(user, set()) for user in range(train.shape[0])}


# ------------------------------------------------------------------ what is liked


@pytest.mark.parametrize("rating", [1.0, 3.5, 4.0, 5.0])
def test_liked_later_is_what_was_rated_well_and_is_new(
    rating: float, whole: Dataset, train: Dataset
) -> None:
    found = liked_later(whole, train, rating)
    assert found.shape == whole.shape
    assert found.dtype == bool
    assert found.data.all()  # nothing is stored that is not liked: entries are counted
    rows = [set(found.indices[a:b]) for a, b in zip(found.indptr, found.indptr[1:], strict=False)]
    assert dict(enumerate(rows)) == naive_liked(whole, train, rating)
    assert found.nnz


def test_good_is_four_stars_unless_told(whole: Dataset, train: Dataset) -> None:
    assert (liked_later(whole, train) != liked_later(whole, train, 4.0)).nnz == 0


@pytest.mark.parametrize("least", [1, 2, 4, 99])
def test_a_trial_is_on_users_who_have_something_to_find(
    least: int, whole: Dataset, train: Dataset
) -> None:
    trial = Trial.of(whole, train, seed=1, least=least)
    liked = naive_liked(whole, train)
    assert trial.pool.tolist() == [user for user in liked if len(liked[user]) >= least]
    assert trial.train is train
    assert trial.seed == 1
    assert (trial.liked != liked_later(whole, train)).nnz == 0
    five = [user for user in liked if len(liked[user]) >= 5]
    assert Trial.of(whole, train, seed=1).pool.tolist() == five


@pytest.mark.parametrize("kind", KINDS)
def test_groups_are_of_the_pool_and_of_the_seed(kind: str, trial: Trial) -> None:
    users = trial.groups(3, kind, 20)
    assert users.shape == (20, 3)
    assert set(users.ravel().tolist()) <= set(trial.pool.tolist())
    assert all(len(set(group)) == 3 for group in users.tolist())
    np.testing.assert_array_equal(trial.groups(3, kind, 20), users)
    assert not np.array_equal(replace(trial, seed=6).groups(3, kind, 20), users)


def test_candidates_are_what_training_knows_in_an_order_that_means_nothing(trial: Trial) -> None:
    found = trial.candidates
    assert sorted(found) == np.flatnonzero(trial.train.item_counts).tolist()
    assert len(found) < trial.train.shape[1]
    np.testing.assert_array_equal(trial.candidates, found)
    assert not np.array_equal(replace(trial, seed=6).candidates, found)
    first = np.array([replace(trial, seed=seed).candidates[0] for seed in range(400)])
    assert np.bincount(np.searchsorted(np.sort(found), first)).max() < 30  # of 9 on average


def test_a_slate_asks_for_each_group(trial: Trial) -> None:
    users = trial.groups(4, "random", 7)
    slate = trial.slate(users)
    assert slate.requests["members"].tolist() == list(map(tuple, users.tolist()))
    np.testing.assert_array_equal(slate.items, trial.candidates)
    assert slate.parts == {}


# ------------------------------------------------------------------ strategies


def scales(step: GroupStep, train: Dataset) -> list[tuple[Callable, dict]]:
    score, rank = (scale.fit_after(chain(), train) for scale in (Standardised(), Percentiles()))
    return [
        (score, {"Average": Average(), "Least misery": LeastMisery()}),
        (rank, {"Borda": Borda()}),
        (step.scale, {"Nash": Nash()}),
    ]


NAMES = {"Average", "Least misery", "Borda", "Nash"}


def test_every_strategy_is_measured_on_every_group_once(
    step: GroupStep, trial: Trial, train: Dataset
) -> None:
    sizes, kinds, count = (2, 3), ("random", "divergent"), 6
    tables = [
        try_strategies(step, replace(trial, seed=s), scales(step, train), sizes, kinds, count)
        for s in (0, 1, 2)
    ]
    table = pd.concat(tables)
    columns = ["model", "seed", "split", "request", "user", "known", "metric", "value"]
    assert list(table) == columns
    cells = {f"{kind} {size}" for kind in kinds for size in sizes}
    assert set(table["model"]) == NAMES
    assert set(table["split"]) == cells
    assert set(table["seed"]) == {0, 1, 2}
    metrics = table["metric"].unique()
    assert all(metric.endswith(f"@{K}") for metric in metrics)
    assert len(table) == 3 * len(NAMES) * len(cells) * count * len(metrics)
    assert not table.duplicated(["model", "seed", "split", "request", "metric"]).any()
    assert tables[0].index.is_unique

    numbers = table[["seed", "split", "request", "user"]].drop_duplicates()
    assert len(numbers) == 3 * len(cells) * count  # the same for every strategy and metric
    assert numbers["user"].is_unique  # and nobody else's
    assert not table.duplicated(["model", "user", "metric"]).any()


def test_values_are_those_of_the_step_s_own_lists(
    step: GroupStep, trial: Trial, train: Dataset
) -> None:
    tried = scales(step, train)
    table = try_strategies(step, trial, tried, (2, 3), ("random", "similar"), 8)
    for kind in ("random", "similar"):
        for size in (2, 3):
            users = trial.groups(size, kind, 8)
            for scale, own in tried:
                for name, strategy in own.items():
                    lists = replace(step, scale=scale, strategy=strategy)(trial.slate(users))
                    expected = measure_groups(
                        name, lists.items, users, trial.liked, train.matrix(), 5, f"{kind} {size}"
                    )
                    mine = table[(table["split"] == f"{kind} {size}") & (table["model"] == name)]
                    pd.testing.assert_frame_equal(
                        mine.drop(columns="user").reset_index(drop=True),
                        expected.drop(columns="user"),
                    )


# ------------------------------------------------------------------ evenings


@dataclass(frozen=True)
class Noting:
    """A factor that changes nothing, and notes how satisfied members are known to be."""

    noted: list[np.ndarray] = field(default_factory=list, compare=False)
    factor: Callable[[Panel], np.ndarray] = lambda panel: np.ones(panel.weights.shape)

    def __call__(self, panel: Panel) -> np.ndarray:
        self.noted.append(panel.seats.known["satisfaction"])
        return self.factor(panel)


def spent_with(
    step: GroupStep, trial: Trial, users: np.ndarray, evenings: int, **options: bool
) -> tuple[Evenings, list[np.ndarray]]:
    """Evenings, and what was known before each."""
    factor = Noting(factor=Dissatisfaction().fit(trial.train))
    spent = spend_evenings(
        replace(step, factors={"dissatisfaction": factor}), trial, users, evenings, **options
    )
    return spent, factor.noted


Naive = tuple[list[list[set[int]]], np.ndarray, np.ndarray]


def naive_evenings(items: np.ndarray, users: np.ndarray, trial: Trial, whole: Dataset) -> Naive:
    """What each member could have found before each evening, gained, and could have had."""
    liked, seen = naive_liked(whole, trial.train), seen_by(trial.train)
    candidates = set(trial.candidates.tolist())
    shape = (len(items), *users.shape)
    gained, possible = np.zeros(shape), np.zeros(shape)
    for group, members in enumerate(users.tolist()):
        hidden = set().union(*(seen[user] for user in members))
        for place, user in enumerate(members):
            left = (liked[user] & candidates) - hidden
            for evening, slots in enumerate(items[:, group].tolist()):
                possible[evening, group, place] = min(len(left), items.shape[2])
                gained[evening, group, place] = len(left & set(slots))
                left = left - set(slots)
    return gained, possible


def ratio(gained: np.ndarray, possible: np.ndarray) -> np.ndarray:
    return np.where(possible > 0, gained / np.maximum(possible, 1), np.nan)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("shuffled", [False, True])
def test_no_title_is_shown_twice_nor_if_anybody_has_seen_it(
    size: int, shuffled: bool, step: GroupStep, trial: Trial
) -> None:
    users = trial.groups(size, "random", 12)
    spent = spend_evenings(step, trial, users, 14, shuffled=shuffled)
    assert spent.items.shape == (14, 12, K)
    assert spent.satisfied.shape == (14, 12, size)
    seen, known = seen_by(trial.train), set(trial.candidates.tolist())
    for group, members in enumerate(users.tolist()):
        shown = spent.items[:, group].ravel()
        held = shown[shown != EMPTY].tolist()
        assert len(set(held)) == len(held)
        new = known.difference(*(seen[user] for user in members))
        assert set(held) <= new
        assert len(held) == min(len(new), 14 * K)  # nothing is held back
        assert (shown[len(held) :] == EMPTY).all()
    if size < 4:
        assert (spent.items == EMPTY).any()  # until all of it was shown


@pytest.mark.parametrize("size", [1, 2, 4])
def test_satisfaction_is_the_share_of_what_could_have_been_had(
    size: int, step: GroupStep, trial: Trial, whole: Dataset
) -> None:
    users = trial.groups(size, "random", 12)
    spent = spend_evenings(step, trial, users, 14)
    gained, possible = naive_evenings(spent.items, users, trial, whole)
    np.testing.assert_allclose(spent.satisfied, ratio(gained, possible), rtol=1e-12)
    assert np.isnan(spent.satisfied[-1]).any()
    assert np.nanmax(spent.satisfied) <= 1
    assert 0 < np.nanmean(spent.satisfied[0]) < 1


def test_everything_that_could_be_found_is_found_in_the_end(step: GroupStep, trial: Trial) -> None:
    """Also where members like titles that are no candidates."""
    users = trial.groups(2, "random", 12)
    unknown = trial.liked[users.ravel()].toarray()[:, trial.train.item_counts == 0]
    assert unknown.any()
    spent = spend_evenings(step, trial, users, 20)
    assert np.isnan(spent.satisfied[-1]).all()


def test_what_may_not_be_shown_could_not_have_been_had(
    step: GroupStep, trial: Trial, whole: Dataset
) -> None:
    """With a child, only half of the titles are suitable."""
    users = trial.groups(2, "random", 12)
    tame = np.arange(trial.train.shape[1]) % 2 == 0
    suitable = Suitable(np.ones(trial.train.shape[0] + 1, bool), tame)
    spent = spend_evenings(replace(step, suitable=suitable), trial, users, 8)
    assert tame[spent.items[spent.items != EMPTY]].all()
    child = replace(trial, train=trial.train.keep(tame[trial.train.interactions["item"]]))
    gained, possible = naive_evenings(spent.items, users, child, whole)
    wild = naive_evenings(spent.items, users, trial, whole)[1]
    np.testing.assert_allclose(spent.satisfied, ratio(gained, possible), rtol=1e-12)
    assert (wild > possible).any()


@pytest.mark.parametrize("kind", ["random", "divergent"])
def test_members_weigh_by_how_satisfied_they_were_so_far(
    kind: str, step: GroupStep, trial: Trial, whole: Dataset
) -> None:
    users = trial.groups(3, kind, 10)
    spent, known = spent_with(step, trial, users, 8)
    assert len(known) == 8
    gained, possible = naive_evenings(spent.items, users, trial, whole)
    assert np.isnan(known[0]).all()
    for evening in range(1, 8):
        expected = ratio(gained[:evening].sum(axis=0), possible[:evening].sum(axis=0))
        np.testing.assert_allclose(known[evening], expected, rtol=1e-12)
    plain = spend_evenings(step, trial, users, 8)
    np.testing.assert_array_equal(spent.items[0], plain.items[0])
    assert not np.array_equal(spent.items, plain.items)


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("size", [1, 3])
def test_each_evening_is_the_step_s_own_list_of_what_is_left(
    size: int, weighed: bool, step: GroupStep, trial: Trial, whole: Dataset
) -> None:
    users = trial.groups(size, "random", 9)
    if weighed:
        factor = Dissatisfaction().fit(trial.train)
        step = replace(step, factors={"dissatisfaction": factor})
    spent = spend_evenings(step, trial, users, 6)
    np.testing.assert_array_equal(spent.items[0], step(trial.slate(users)).items)
    gained, possible = naive_evenings(spent.items, users, trial, whole)
    left = np.tile(trial.candidates, (9, 1))
    for evening in range(6):
        known = ratio(gained[:evening].sum(axis=0), possible[:evening].sum(axis=0))
        requests = trial.slate(users).requests
        requests = requests.assign(satisfaction=list(map(tuple, known.tolist())))
        found = step(Slate(requests, left)).items
        same = (found == spent.items[evening]).all(axis=1)
        assert same.all()
        left = np.where((left[:, :, None] == spent.items[evening][:, None]).any(2), EMPTY, left)


def test_a_placebo_deals_what_is_known_anew_within_each_group(
    step: GroupStep, trial: Trial, whole: Dataset
) -> None:
    users = trial.groups(4, "random", 15)
    spent, dealt = spent_with(step, trial, users, 6, shuffled=True)
    gained, possible = naive_evenings(spent.items, users, trial, whole)
    np.testing.assert_allclose(spent.satisfied, ratio(gained, possible), rtol=1e-12)
    moved = 0
    for evening in range(1, 6):
        known = ratio(gained[:evening].sum(axis=0), possible[:evening].sum(axis=0))
        np.testing.assert_allclose(
            np.sort(dealt[evening], axis=1), np.sort(known, axis=1), rtol=1e-12
        )
        moved += (~np.isclose(dealt[evening], known, equal_nan=True)).any(axis=1).sum()
    assert moved > 25
    again, _ = spent_with(step, trial, users, 6, shuffled=True)
    np.testing.assert_array_equal(again.items, spent.items)
    plain, _ = spent_with(step, trial, users, 6)
    np.testing.assert_array_equal(plain.items[0], spent.items[0])
    assert not np.array_equal(plain.items, spent.items)


def test_evenings_do_not_depend_on_chunks(
    step: GroupStep, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = trial.groups(3, "random", 7)
    whole, _ = spent_with(step, trial, users, 5)
    monkeypatch.setattr("firetv.groups.CHUNK_CELLS", 3 * 50 * 2)
    parts, _ = spent_with(step, trial, users, 5)
    np.testing.assert_array_equal(parts.items, whole.items)
    np.testing.assert_array_equal(parts.satisfied, whole.satisfied)


def test_lists_may_be_longer_than_what_there_is(trial: Trial, train: Dataset) -> None:
    step = ForGroups(Popular(), Average(), Percentiles(), k=99).fit(train)
    users = trial.groups(2, "random", 5)
    spent = spend_evenings(step, trial, users, 2)
    assert spent.items.shape == (2, 5, len(trial.candidates))
    assert (spent.items[1] == EMPTY).all()
    assert np.nanmin(spent.satisfied[0]) == 1
    assert np.isnan(spent.satisfied[1]).all()
