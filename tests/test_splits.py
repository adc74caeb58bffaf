from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from firetv import splits
from firetv.data import Dataset
from firetv.evaluate import measure, run
from firetv.models import Popular
from firetv.splits import Split

SPLITS: dict[str, Callable[[Dataset], Split]] = {
    "temporal": splits.temporal_split,
    "random": lambda data: splits.random_split(data, seed=0),
    "published": splits.published_split,
    "leave-last-out": splits.leave_last_out,
    "user-fold": lambda data: next(splits.user_kfold(data, seed=0)),
    "cold-users": lambda data: splits.cold_users(data, seed=0),
    "cold-items": lambda data: splits.cold_items(data, seed=0),
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
    split = splits.temporal_split(data, test_share=0.3)
    cut = split.requests["at"].unique()
    assert len(cut) == 1
    assert (split.train.interactions["timestamp"] < cut[0]).all()
    assert len(split.train.interactions) == pytest.approx(0.7 * len(data.interactions), abs=1)


def test_random_split_holds_out_a_share_of_each_user(data: Dataset) -> None:
    split = splits.random_split(data, seed=3, test_share=0.25)
    count = data.interactions["user"].value_counts()
    left = split.train.interactions["user"].value_counts().reindex(count.index)
    assert (left == np.round(0.75 * count)).all()
    other = splits.random_split(data, seed=4)
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
    got = splits.published_split(data).train.interactions[["user", "item"]]
    pd.testing.assert_frame_equal(got, expected)


def test_leave_last_out_holds_out_the_last(data: Dataset) -> None:
    split = splits.leave_last_out(data)
    last = data.interactions.sort_values("timestamp").groupby("user").tail(1)
    assert len(data.interactions) - len(split.train.interactions) == len(last)
    assert not set(last.index) & set(split.train.interactions.index)


def test_user_folds_cover_every_user_once(data: Dataset) -> None:
    folds = list(splits.user_kfold(data, seed=0, folds=3))
    users = np.concatenate([f.requests["user"] for f in folds])
    assert len(users) == len(set(users)) > 25
    for fold in folds:
        others = ~data.interactions["user"].isin(fold.requests["user"])
        assert set(data.interactions.index[others]) <= set(fold.train.interactions.index)


def test_cold_splits_leave_profiles_only(data: Dataset) -> None:
    users = splits.cold_users(data, seed=0)
    assert not users.requests["known"].any()
    items = splits.cold_items(data, seed=0)
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
    split = splits.each_event("later", train, events, missed=True)
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
    split = splits.each_event("later", train, events)
    pair = events[["user", "item"]].apply(tuple, axis=1)
    fresh = ~pair.isin(pairs(train.interactions)) & (events["item"] >= 5)
    assert 0 < fresh.sum() < len(events)
    assert (~fresh & (events["item"] >= 5)).any()  # seen, beside those that are unknown
    assert split.requests["event"].tolist() == events["event"][fresh].tolist()
    np.testing.assert_array_equal(split.relevant.indices, events["item"][fresh])
    every = splits.each_event("later", train, events, missed=True)
    runs = [run("popular", Popular(), s, seed=0, k=40) for s in (split, every)]
    values = [measure([r], ["recall"])["value"] for r in runs]
    assert values[0].min() == 1  # in a list of everything
    assert values[1].sum() == fresh.sum()  # the others are missed
    assert len(values[1]) == len(events)


@pytest.mark.parametrize("missed", [True, False])
def test_event_folds_ask_for_every_event_once(missed: bool, data: Dataset) -> None:
    data = numbered(data)
    folds = list(splits.event_folds(data, seed=0, folds=4, missed=missed))
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
    folds = list(splits.event_folds(data, seed=0, missed=True))
    users = range(data.shape[0])
    counts = [f.requests["user"].value_counts().reindex(users, fill_value=0) for f in folds]
    spread = np.max(counts, axis=0) - np.min(counts, axis=0)
    assert (spread <= 1).all()
    for fold, count in zip(folds, counts, strict=True):
        left = fold.train.interactions["user"].value_counts().reindex(users, fill_value=0)
        assert (count + left == data.interactions["user"].value_counts()[users]).all()


def test_event_folds_are_seeded(data: Dataset) -> None:
    data = numbered(data)
    a, b, c = (next(splits.event_folds(data, seed)).requests for seed in (0, 0, 1))
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
        folds = list(splits.event_folds(each, seed=0, least_rating=4, missed=True))
        assert set().union(*(f.requests["event"] for f in folds)) == liked
        assert sum(len(f.requests) for f in folds) == len(liked)
    everything = list(splits.event_folds(data, seed=0, missed=True))
    for fold, full in zip(folds, everything, strict=True):  # training is not filtered
        assert set(fold.train.interactions["event"]) == set(full.train.interactions["event"])


def test_a_rating_of_another_viewing_does_not_make_this_one_liked(data: Dataset) -> None:
    data = numbered(data)
    moved = data.reactions.assign(
        timestamp=data.reactions["timestamp"] + pd.Timedelta(seconds=1), rating=5.0
    )
    one = data.interactions.iloc[[7]][["user", "item", "timestamp"]].assign(rating=3.0)
    only = replace(data, reactions=pd.concat([moved, one], ignore_index=True))
    folds = splits.event_folds(only, seed=0, least_rating=3, missed=True)
    assert [e for f in folds for e in f.requests["event"]] == [7]


@pytest.mark.parametrize("side", ["user", "item"])
def test_cold_splits_leave_no_reaction_behind(side: str, data: Dataset) -> None:
    """Also where somebody reacted to what they have no viewing of."""
    rng = np.random.default_rng(0)
    other = data.reactions.assign(item=rng.permutation(data.reactions["item"]))
    make = splits.cold_users if side == "user" else splits.cold_items
    split = make(replace(data, reactions=other), seed=0)
    hidden = split.requests["user"] if side == "user" else split.candidates
    assert len(split.train.reactions)
    assert not split.train.reactions[side].isin(hidden).any()


def test_a_split_without_anything_to_learn_says_so(data: Dataset) -> None:
    once = data.interactions.assign(timestamp=pd.Timestamp("2024-01-01T00:00Z"))
    with pytest.raises(ValueError, match="temporal split leaves 0 training events"):
        splits.temporal_split(replace(data, interactions=once))


# Short histories


@pytest.fixture(scope="module")
def full(data: Dataset) -> Split:
    """Many pairs were viewed again, and half the reactions are to something not viewed."""
    rng = np.random.default_rng(0)
    stray = data.reactions.assign(item=rng.permutation(data.reactions["item"]))
    mixed = pd.concat([data.reactions, stray], ignore_index=True)
    split = splits.random_split(replace(data, reactions=mixed), seed=0)
    events = split.train.interactions
    assert events.duplicated(["user", "item"]).sum() > 50
    assert len(pairs(split.train.reactions) - pairs(events)) > 50
    return split


def cut(split: Split, kept: int, seed: int = 0, folds: int = 4) -> list[Split]:
    return list(splits.short_histories(split, kept, seed, folds))


def of_fold(part: Split, frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["user"].isin(part.requests["user"])]


every_kept = pytest.mark.parametrize("kept", [0, 1, 3, 1000])


@every_kept
def test_short_histories_ask_for_every_user_once(kept: int, full: Split) -> None:
    parts = cut(full, kept)
    assert [p.name for p in parts] == [f"short-{kept}-fold-{n}" for n in range(4)]
    sizes = [len(p.requests) for p in parts]
    assert all(
        p.requests.index.tolist() == list(range(n)) for p, n in zip(parts, sizes, strict=True)
    )
    assert max(sizes) - min(sizes) <= 1
    asked = pd.concat([p.requests for p in parts]).sort_values("user", ignore_index=True)
    columns = ["user", "at"]
    pd.testing.assert_frame_equal(asked[columns], full.requests[columns])


@every_kept
def test_short_histories_leave_everybody_elses_alone(kept: int, full: Split) -> None:
    for part in cut(full, kept):
        for name in ("interactions", "reactions"):
            before, after = (getattr(s.train, name) for s in (full, part))
            others = [f[~f["user"].isin(part.requests["user"])] for f in (before, after)]
            assert len(others[0])
            pd.testing.assert_frame_equal(*others)


@every_kept
def test_short_histories_have_so_many_items_with_all_their_events(kept: int, full: Split) -> None:
    for part in cut(full, kept):
        users = part.requests["user"]
        count = part.train.user_counts[users]
        np.testing.assert_array_equal(count, np.minimum(kept, full.train.user_counts[users]))
        np.testing.assert_array_equal(part.requests["known"], count > 0)
        events = of_fold(part, full.train.interactions)
        left = of_fold(part, part.train.interactions)
        whole = events[events[["user", "item"]].apply(tuple, axis=1).isin(pairs(left))]
        pd.testing.assert_frame_equal(left, whole)


@every_kept
def test_short_histories_leave_reactions_to_kept_items_only(kept: int, full: Split) -> None:
    for part in cut(full, kept):
        left = of_fold(part, part.train.interactions)
        reacted = of_fold(part, full.train.reactions)
        expected = reacted[reacted[["user", "item"]].apply(tuple, axis=1).isin(pairs(left))]
        pd.testing.assert_frame_equal(of_fold(part, part.train.reactions), expected)
        assert len(expected) > 0 or kept < 3


def test_short_histories_of_nothing_leave_no_trace(full: Split) -> None:
    for part in cut(full, kept=0):
        assert not part.requests["known"].any()
        assert of_fold(part, part.train.interactions).empty
        assert of_fold(part, part.train.reactions).empty


def test_a_longer_history_contains_a_shorter_one(full: Split) -> None:
    one, three, all_items = (cut(full, kept) for kept in (1, 3, 1000))
    for short, longer, whole in zip(one, three, all_items, strict=True):
        pd.testing.assert_series_equal(short.requests["user"], longer.requests["user"])
        few, more = (pairs(of_fold(short, s.train.interactions)) for s in (short, longer))
        assert few < more
        pd.testing.assert_frame_equal(whole.train.interactions, full.train.interactions)


@every_kept
def test_short_histories_ask_for_what_the_split_asked_for(kept: int, full: Split) -> None:
    row = pd.Series(range(len(full.requests)), index=full.requests["user"])
    for part in cut(full, kept):
        same = full.relevant[row[part.requests["user"]].to_numpy()]
        assert part.relevant.shape == same.shape
        assert not (part.relevant != same).nnz
        wanted = part.requests["user"].to_numpy()[part.relevant.nonzero()[0]]
        asked = set(zip(wanted, part.relevant.nonzero()[1], strict=True))
        assert not asked & pairs(full.train.interactions)  # hidden items are not among it


def test_hidden_items_stay_candidates_and_count_as_misses(full: Split) -> None:
    part = cut(full, kept=0)[0]
    hidden = pairs(of_fold(part, full.train.interactions))
    lists = run("popular", Popular(), part, seed=0, k=40).items
    listed = {
        (user, item)
        for user, items in zip(part.requests["user"], lists, strict=True)
        for item in items
    }
    known = {(user, item) for user, item in hidden if part.train.item_counts[item]}
    assert known
    assert known <= listed


def test_items_that_only_the_fold_knew_are_no_candidates(full: Split) -> None:
    events, user = full.train.interactions, full.requests["user"].iloc[0]
    item = events["item"][events["user"] == user].iloc[0]
    alone = full.train.keep((events["item"] != item) | (events["user"] == user))
    for part in cut(replace(full, train=alone), kept=0):
        np.testing.assert_array_equal(part.candidates, np.flatnonzero(part.train.item_counts))
        assert (item in part.candidates) == (user not in set(part.requests["user"]))


def test_short_histories_are_seeded(full: Split) -> None:
    a, b, c = (cut(full, 1, seed)[0] for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(a.requests, b.requests)
    pd.testing.assert_frame_equal(a.train.interactions, b.train.interactions)
    assert a.requests["user"].tolist() != c.requests["user"].tolist()
    everybody = [
        set().union(*(pairs(of_fold(p, p.train.interactions)) for p in cut(full, 1, seed)))
        for seed in (0, 1)
    ]
    assert len(everybody[0] - everybody[1]) > 0.5 * len(everybody[0])


def test_items_are_kept_whatever_the_order_and_number_of_their_events(full: Split) -> None:
    events = full.train.interactions
    twice = pd.concat([events, events.iloc[::3]]).sample(frac=1, random_state=0)
    other = replace(full, train=replace(full.train, interactions=twice.reset_index(drop=True)))
    for one, two in zip(cut(full, 2), cut(other, 2), strict=True):
        assert pairs(one.train.interactions) == pairs(two.train.interactions)


def test_every_item_is_as_likely_to_be_kept(full: Split) -> None:
    user = full.requests["user"].iloc[0]
    items = np.flatnonzero(full.train.matrix()[[user]].toarray()[0])
    count = dict.fromkeys(items, 0)
    for seed in range(300):
        part = next(p for p in cut(full, 1, seed) if user in p.requests["user"].to_numpy())
        count[np.flatnonzero(part.train.matrix()[[user]].toarray()[0])[0]] += 1
    assert stats.chisquare(list(count.values())).pvalue > 0.01


def test_short_histories_of_single_events_keep_a_users_requests_together(data: Dataset) -> None:
    train, events = held_out(data)
    split = splits.each_event("later", train, events)
    parts = cut(split, 2)
    assert split.requests["user"].duplicated().any()
    asked = pd.concat([p.requests for p in parts]).sort_values("event", ignore_index=True)
    pd.testing.assert_series_equal(asked["event"], split.requests["event"])
    assert asked.columns.tolist() == split.requests.columns.tolist()
    found = [set(p.requests["user"]) for p in parts]
    assert sum(map(len, found)) == len(set().union(*found))
    assert max(map(len, found)) - min(map(len, found)) <= 1
    for part in parts:
        assert (part.n_relevant == 1).all()
        place = split.requests["event"].isin(part.requests["event"])
        np.testing.assert_array_equal(part.relevant.indices, split.relevant.indices[place])


def test_short_histories_need_no_reactions(full: Split) -> None:
    quiet = replace(full, train=replace(full.train, reactions=full.train.reactions.iloc[:0]))
    for part, other in zip(cut(quiet, 1), cut(full, 1), strict=True):
        assert part.train.reactions.empty
        pd.testing.assert_frame_equal(part.train.interactions, other.train.interactions)


def test_short_histories_that_cannot_be_made_say_so(full: Split) -> None:
    with pytest.raises(ValueError, match="cannot keep -1 items: keep 0 or more"):
        splits.short_histories(full, -1, seed=0)
    for folds in (1, len(full.requests) + 1):
        with pytest.raises(ValueError, match=f"to {folds} folds: use at least 2 folds"):
            splits.short_histories(full, 1, seed=0, folds=folds)


def test_a_fold_that_leaves_nothing_to_learn_from_says_so(full: Split) -> None:
    alone = full.train.keep(full.train.interactions["user"] == full.requests["user"].iloc[0])
    with pytest.raises(ValueError, match=r"short-0-fold-\d split leaves 0 training events"):
        cut(replace(full, train=alone), 0)
