from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from firetv import evaluate
from firetv.abtest import Interval, difference_interval, mean_interval
from firetv.data import Dataset
from firetv.evaluate import Split, Variant
from firetv.models import ALS, EASE, Popular, Random
from firetv.ranking import Logit, Ranker
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


def numbered(data: Dataset) -> Dataset:
    """Every event with its number and a company in columns, which requests keep."""
    events = data.interactions
    company = np.where(np.arange(len(events)) % 3, "family", "alone")
    return replace(data, interactions=events.assign(event=range(len(events)), companion=company))


def held_out(data: Dataset) -> tuple[Dataset, pd.DataFrame]:
    """Some events, and training data that have seen some of their pairs and not all items."""
    data = numbered(data)
    late = (data.interactions["event"] >= 400).to_numpy()
    train = data.keep(~late)
    unknown = (train.interactions["item"] < 5).to_numpy()
    return train.keep(~unknown), data.interactions[late]


def test_each_event_is_asked_for_in_its_own_context(data: Dataset) -> None:
    train, events = held_out(data)
    split = evaluate.each_event("later", train, events, missed=True)
    assert split.name == "later"
    assert len(split.requests) == len(events)
    expected = events.rename(columns={"timestamp": "at"}).drop(columns=["item", "completion"])
    pd.testing.assert_frame_equal(
        split.requests.drop(columns="known"), expected.reset_index(drop=True)
    )
    known = train.user_counts[events["user"]] > 0
    np.testing.assert_array_equal(split.requests["known"], known)
    assert (split.n_relevant == 1).all()
    np.testing.assert_array_equal(split.relevant.indices, events["item"])
    assert (split.relevant.data == 1).all()
    np.testing.assert_array_equal(split.candidates, np.flatnonzero(train.item_counts))


def test_only_what_can_be_found_is_asked_for_unless_misses_should_count(data: Dataset) -> None:
    train, events = held_out(data)
    split = evaluate.each_event("later", train, events)
    pair = events[["user", "item"]].apply(tuple, axis=1)
    fresh = ~pair.isin(pairs(train.interactions)) & (events["item"] >= 5)
    assert 0 < fresh.sum() < len(events)
    assert (~fresh & (events["item"] >= 5)).any()  # seen, beside those that are unknown
    assert split.requests["event"].tolist() == events["event"][fresh].tolist()
    np.testing.assert_array_equal(split.relevant.indices, events["item"][fresh])
    every = evaluate.each_event("later", train, events, missed=True)
    runs = [evaluate.run("popular", Popular(), s, seed=0, k=40) for s in (split, every)]
    values = [evaluate.measure([r], ["recall"])["value"] for r in runs]
    assert values[0].min() == 1  # in a list of everything
    assert values[1].sum() == fresh.sum()  # the others are missed
    assert len(values[1]) == len(events)


@pytest.mark.parametrize("missed", [True, False])
def test_event_folds_ask_for_every_event_once(missed: bool, data: Dataset) -> None:
    data = numbered(data)
    folds = list(evaluate.event_folds(data, seed=0, folds=4, missed=missed))
    assert [f.name for f in folds] == [f"event-fold-{n}" for n in range(4)]
    asked = pd.concat([f.requests["event"] for f in folds])
    assert asked.is_unique
    once = ~data.interactions.duplicated(["user", "item"], keep=False)
    assert set(data.interactions["event"][once | missed]) <= set(asked)
    for fold in folds:
        left = set(fold.train.interactions["event"])
        assert not left & set(fold.requests["event"])
        wanted = set(zip(fold.requests["user"], fold.relevant.indices, strict=True))
        assert missed or not wanted & pairs(fold.train.interactions)
        assert not wanted & pairs(fold.train.reactions)


def test_event_folds_deal_each_users_events_evenly(data: Dataset) -> None:
    data = numbered(data)
    folds = list(evaluate.event_folds(data, seed=0, missed=True))
    users = range(data.shape[0])
    counts = [f.requests["user"].value_counts().reindex(users, fill_value=0) for f in folds]
    spread = np.max(counts, axis=0) - np.min(counts, axis=0)
    assert (spread <= 1).all()
    for fold, count in zip(folds, counts, strict=True):
        left = fold.train.interactions["user"].value_counts().reindex(users, fill_value=0)
        assert (count + left == data.interactions["user"].value_counts()[users]).all()


def test_event_folds_are_seeded(data: Dataset) -> None:
    data = numbered(data)
    a, b, c = (next(evaluate.event_folds(data, seed)).requests for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(a, b)
    assert a["event"].tolist() != c["event"].tolist()


def test_event_folds_ask_for_liked_events_however_reactions_are_kept(data: Dataset) -> None:
    """Half the events were rated, in another table and another order, and some more than once."""
    data = numbered(data)
    keys = ["user", "item", "timestamp"]
    again = data.reactions.iloc[:40].assign(rating=1.0)  # an event may be rated twice
    mixed = pd.concat([data.reactions, again]).sample(frac=1, random_state=0)
    shuffled = replace(data, reactions=mixed.reset_index(drop=True))
    rated = data.interactions.merge(data.reactions[[*keys, "rating"]], on=keys)
    liked = set(rated["event"][rated["rating"] >= 4])
    assert 0 < len(liked) < len(rated) < len(data.interactions)
    for each in (data, shuffled):
        folds = list(evaluate.event_folds(each, seed=0, least_rating=4, missed=True))
        assert set().union(*(f.requests["event"] for f in folds)) == liked
        assert sum(len(f.requests) for f in folds) == len(liked)
    everything = list(evaluate.event_folds(data, seed=0, missed=True))
    for fold, full in zip(folds, everything, strict=True):  # training is not filtered
        assert set(fold.train.interactions["event"]) == set(full.train.interactions["event"])


def test_a_rating_of_another_viewing_does_not_make_this_one_liked(data: Dataset) -> None:
    data = numbered(data)
    moved = data.reactions.assign(
        timestamp=data.reactions["timestamp"] + pd.Timedelta(seconds=1), rating=5.0
    )
    one = data.interactions.iloc[[7]][["user", "item", "timestamp"]].assign(rating=3.0)
    only = replace(data, reactions=pd.concat([moved, one], ignore_index=True))
    folds = evaluate.event_folds(only, seed=0, least_rating=3, missed=True)
    assert [e for f in folds for e in f.requests["event"]] == [7]


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


def test_requests_count_once_each_and_users_are_resampled() -> None:
    """A heavy user outweighs light ones in a mean of requests, not in a mean of users."""
    rows = [
        {"model": m, "seed": 0, "split": "s", "request": r, "user": u, "metric": "ndcg", "value": v}
        for m, gain in (("a", 0.0), ("b", 1.0))
        for r, u in enumerate([0] * 30 + list(range(1, 11)))
        for v in (gain if u == 0 else 0.0,)
    ]
    values = pd.DataFrame(rows)
    by_request = evaluate.compare(values, "a", unit="request").iloc[0]
    by_user = evaluate.compare(values, "a").iloc[0]
    assert by_request["value"] == pytest.approx(30 / 40)
    assert by_user["value"] == pytest.approx(1 / 11)
    assert by_request["n"] == by_user["n"] == 11
    assert by_request["low"] < 0.1  # one witness, however often it speaks


def test_permuted_moments_keep_who_met_what_and_lose_what_went_with_which_item(
    data: Dataset,
) -> None:
    clocked = evaluate.with_moments(data)
    events = clocked.interactions
    assert set(events["daypart"].dropna()) == {"morning", "afternoon", "evening", "night"}
    shuffled = evaluate.permuted_moments(clocked, seed=0).interactions
    kept = ["user", "item", "timestamp"]
    pd.testing.assert_frame_equal(shuffled[kept], events[kept])
    for columns in (["user", "daypart"], ["user", "daypart", "daytype", "season"]):
        met = [each.groupby(columns).size() for each in (events, shuffled)]
        pd.testing.assert_series_equal(*met)
    assert (shuffled["daypart"] != events["daypart"]).mean() > 0.3


def test_variants_use_the_features_they_name(data: Dataset) -> None:
    clocked = evaluate.with_moments(data)
    late = clocked.interactions["timestamp"] >= data.interactions["timestamp"].quantile(0.8)
    split = evaluate.each_event("late", clocked.keep(~late), clocked.interactions[late])
    ranker = Ranker({"popularity": Popular(), "ease": EASE(reg=10)}, folds=2)
    variants = {
        "both": Variant(Logit(), ("popularity", "ease")),
        "popularity": Variant(Logit(), ("pop",)),
    }
    alone, together = (
        evaluate.run_variants(ranker, variants, [split], [0], n_jobs=n) for n in (1, 2)
    )
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.items, other.items)
    popular = evaluate.run("popularity", Popular(), split, seed=0)
    ndcg = evaluate.measure([*alone, popular]).groupby("model")["value"].mean()
    assert ndcg["both"] > ndcg["popularity"]
    np.testing.assert_array_equal(np.sort(alone[1].items), np.sort(popular.items))
