from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from firetv import evaluate
from firetv.abtest import Interval, difference_interval, mean_interval
from firetv.data import Dataset
from firetv.evaluate import Split
from firetv.models import ALS, Popular, Random
from firetv.slate import EMPTY

SPLITS: dict[str, Callable[[Dataset], Split]] = {
    "temporal": evaluate.temporal_split,
    "random": lambda data: evaluate.random_split(data, seed=0),
    "published": evaluate.published_split,
    "leave-last-out": evaluate.leave_last_out,
    "user-fold": lambda data: next(evaluate.user_kfold(data, seed=0)),
    "cold-users": lambda data: evaluate.cold_users(data, seed=0),
    "cold-items": lambda data: evaluate.cold_items(data, seed=0),
}
every_split = pytest.mark.parametrize("make", SPLITS.values(), ids=SPLITS)


def pairs(frame: pd.DataFrame) -> set[tuple[int, int]]:
    return set(zip(frame["user"], frame["item"], strict=True))


@every_split
def test_nothing_to_be_found_is_known_to_training(
    make: Callable[[Dataset], Split], data: Dataset
) -> None:
    split = make(data)
    rows, items = split.relevant.nonzero()
    wanted = set(zip(split.requests["user"].to_numpy()[rows], items, strict=True))
    assert wanted
    assert not wanted & pairs(split.train.interactions)
    assert not wanted & pairs(split.train.reactions)
    assert wanted | pairs(split.train.interactions) == pairs(data.interactions)
    assert (split.n_relevant > 0).all()
    np.testing.assert_array_equal(
        split.requests["known"], split.train.user_counts[split.requests["user"]] > 0
    )


@every_split
def test_candidates_never_betray_the_test_part(
    make: Callable[[Dataset], Split], data: Dataset
) -> None:
    split = make(data)
    seen = split.train.item_counts[split.candidates] > 0
    assert (~seen).all() if split.name == "cold-items" else seen.all()


def test_temporal_split_looks_only_back(data: Dataset) -> None:
    split = evaluate.temporal_split(data, test_share=0.3)
    cut = split.requests["at"].unique()
    assert len(cut) == 1
    assert (split.train.interactions["timestamp"] < cut[0]).all()
    assert len(split.train.interactions) == pytest.approx(0.7 * len(data.interactions), abs=1)


def test_random_split_holds_out_a_share_of_each_user(data: Dataset) -> None:
    split = evaluate.random_split(data, seed=3, test_share=0.25)
    count = data.interactions["user"].value_counts()
    left = split.train.interactions["user"].value_counts().reindex(count.index)
    assert (left == np.round(0.75 * count)).all()
    other = evaluate.random_split(data, seed=4)
    assert other.relevant.shape != split.relevant.shape or (other.relevant != split.relevant).nnz


def test_published_split_follows_its_description_step_by_step(data: Dataset) -> None:
    frame = data.interactions[["user", "item"]].copy()
    np.random.seed(42)  # noqa: NPY002 - the published protocol
    frame["draw"] = np.random.rand(len(frame))  # noqa: NPY002
    train = []
    for _, ratings in frame.groupby("user"):
        ratings = ratings.sort_values("draw")
        train.append(ratings.iloc[: round(0.75 * len(ratings))])
    expected = pd.concat(train).sort_index()[["user", "item"]]
    got = evaluate.published_split(data).train.interactions[["user", "item"]]
    pd.testing.assert_frame_equal(got, expected)


def test_leave_last_out_holds_out_the_last(data: Dataset) -> None:
    split = evaluate.leave_last_out(data)
    last = data.interactions.sort_values("timestamp").groupby("user").tail(1)
    assert len(data.interactions) - len(split.train.interactions) == len(last)
    assert not set(last.index) & set(split.train.interactions.index)


def test_user_folds_cover_every_user_once(data: Dataset) -> None:
    folds = list(evaluate.user_kfold(data, seed=0, folds=3))
    users = np.concatenate([f.requests["user"] for f in folds])
    assert len(users) == len(set(users)) > 25
    for fold in folds:
        others = ~data.interactions["user"].isin(fold.requests["user"])
        assert set(data.interactions.index[others]) <= set(fold.train.interactions.index)


def test_cold_splits_leave_profiles_only(data: Dataset) -> None:
    users = evaluate.cold_users(data, seed=0)
    assert not users.requests["known"].any()
    items = evaluate.cold_items(data, seed=0)
    assert set(items.relevant.nonzero()[1]) <= set(items.candidates)


@pytest.mark.parametrize("side", ["user", "item"])
def test_cold_splits_leave_no_reaction_behind(side: str, data: Dataset) -> None:
    """Also where somebody reacted to what they have no viewing of."""
    rng = np.random.default_rng(0)
    other = data.reactions.assign(item=rng.permutation(data.reactions["item"]))
    make = evaluate.cold_users if side == "user" else evaluate.cold_items
    split = make(replace(data, reactions=other), seed=0)
    hidden = split.requests["user"] if side == "user" else split.candidates
    assert len(split.train.reactions)
    assert not split.train.reactions[side].isin(hidden).any()


def test_a_split_without_anything_to_learn_says_so(data: Dataset) -> None:
    once = data.interactions.assign(timestamp=pd.Timestamp("2024-01-01T00:00Z"))
    with pytest.raises(ValueError, match="temporal split leaves 0 training events"):
        evaluate.temporal_split(replace(data, interactions=once))


def test_lists_hold_unseen_candidates_only(data: Dataset) -> None:
    split = evaluate.random_split(data, seed=0)
    for each in evaluate.run_all({"als": ALS(4), "popular": Popular()}, split):
        assert set(np.unique(each.items)) <= {EMPTY, *split.candidates}
        seen = split.train.matrix().toarray()[split.requests["user"]]
        rows, slots = np.nonzero(each.items != EMPTY)
        assert not seen[rows, each.items[rows, slots]].any()


def test_same_seed_same_table_whatever_the_number_of_jobs(data: Dataset) -> None:
    split = evaluate.random_split(data, seed=0)
    models = {"als": ALS(4), "random": Random()}
    tables = []
    for n_jobs in (1, 2):
        runs = evaluate.run_all(models, split, seeds=(0, 1), n_jobs=n_jobs)
        tables.append(evaluate.summarise(evaluate.measure(runs, ["ndcg", "map"])))
    pd.testing.assert_frame_equal(*tables)
    assert (tables[0]["seeds"] == 2).all()


def test_lists_are_described_beyond_accuracy(data: Dataset) -> None:
    split = evaluate.random_split(data, seed=0)
    runs = evaluate.run_all({"popular": Popular(), "random": Random()}, split, seeds=(0, 1), k=5)
    means = evaluate.measure_lists(runs).groupby(["metric", "model"])["value"].mean().unstack()
    assert means.loc["novelty@5", "random"] > means.loc["novelty@5", "popular"]
    assert means.loc["popularity@5", "popular"] > means.loc["popularity@5", "random"]
    assert means.notna().all(axis=None)
    covered = evaluate.coverage(runs).set_index("model")
    shown = [len(set(r.items[r.items >= 0])) / len(split.candidates) for r in runs[:2]]
    assert covered.loc["popular", "value"] == pytest.approx(np.mean(shown))
    assert covered.loc["random", "value"] > 0.9
    assert (covered["seeds"] == 2).all()


def test_ties_are_not_broken_by_the_order_of_the_catalogue(data: Dataset) -> None:
    split = evaluate.cold_items(data, seed=0)
    lists = [evaluate.run("popular", Popular(), split, seed).items for seed in (0, 1)]
    assert (lists[0] != lists[1]).any()


def test_comparison_is_paired_by_user_over_seeds() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(200)
    rows = [
        {"model": model, "seed": seed, "user": user, "known": True, "metric": "ndcg@10", "value": v}
        for seed in (0, 1)
        for user in range(200)
        for model, v in (("a", base[user]), ("b", base[user] + 0.01 * (1 + seed)))
    ]
    values = pd.DataFrame(rows)
    gap = evaluate.compare(values, "a").iloc[0]
    assert (gap["model"], gap["n"], gap["seeds"]) == ("b", 200, 2)
    assert gap["value"] == pytest.approx(0.015)
    assert gap["high"] - gap["low"] < 1e-9  # the users' own spread cancels
    wide = evaluate.summarise(values).query("model == 'b'").iloc[0]
    assert wide["high"] - wide["low"] > 0.05
    with pytest.raises(KeyError, match="among the models: a, b"):
        evaluate.compare(values, "c")


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for repeat in range(300):
        interval = mean_interval(rng.beta(0.5, 2, size=80), seed=repeat, resamples=500)
        covered += interval.low <= 0.2 <= interval.high
    assert 0.91 <= covered / 300 <= 0.98


def test_a_comparison_of_equals_rejects_about_one_time_in_twenty() -> None:
    rng = np.random.default_rng(2)
    rejected = sum(
        difference_interval(rng.random(60), rng.random(60), seed=repeat).excludes_zero
        for repeat in range(300)
    )
    assert 0.02 <= rejected / 300 <= 0.09


def test_intervals_are_seeded_and_skip_the_undefined() -> None:
    values = np.array([0.1, 0.4, np.nan, 0.3, 0.9])
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1).n == 4
    assert mean_interval(np.ones(5), seed=0) == Interval(1.0, 1.0, 1.0, 5)
    assert not difference_interval(values, values, seed=0).excludes_zero
    with pytest.raises(ValueError, match="at least 2 values, not 1"):
        mean_interval(np.array([1.0, np.nan]), seed=0)
