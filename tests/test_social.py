"""Friends' lifts against loops over friends and events; what is learned of friends, and where."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
from conftest import make_tables
from scipy import sparse

from firetv.choices import newness
from firetv.data import Dataset, Tables
from firetv.models import ALS, BPR, EASE, ItemKNN, LightFM, Popular
from firetv.proof import friend_events, social_proof
from firetv.ranking import Ranker
from firetv.scales import Scales
from firetv.slate import EMPTY, Slate, Stage, Step, chain, recommend, with_seed
from firetv.social import (
    MICROSECONDS,
    Activity,
    FriendBoost,
    FriendLift,
    FriendSignals,
    FriendStep,
    Trend,
    WithFriends,
    liking,
    slate_proof,
)
from firetv.synthetic import simulate
from firetv.trust import Trust, rewired
from firetv.world import World

START = pd.Timestamp("2024-01-01", tz="UTC")
TRUSTS = {
    "plain": Trust(),
    "near": Trust(distant=0.0, hubs=0.0),
    "mutual": Trust("jaccard", 3.0, mutual=True),
}
every_trust = pytest.mark.parametrize("trust", TRUSTS.values(), ids=TRUSTS)
every_half_life = pytest.mark.parametrize("half_life", [None, 10.0])


@pytest.fixture(scope="module")
def social() -> Dataset:
    """The small world by the hour, where many events share an instant.

    Users 0 and 1 have no friends, users 2 and 3 no events, and user 4 does not share.
    """
    data = Dataset.from_tables(make_tables(users=24, items=30, events=900))
    rng = np.random.default_rng(0)
    tied = (rng.random((24, 24)) < 0.2) & ~np.eye(24, dtype=bool)
    tied[:2] = False
    strength = np.where(tied, rng.uniform(0.1, 1, tied.shape), 0)
    events = data.interactions.assign(timestamp=data.interactions["timestamp"].dt.floor("12h"))
    users = data.users.assign(sharing=np.where(np.arange(24) == 4, "off", "on"))
    kept = [~frame["user"].isin([2, 3]) for frame in (events, data.reactions)]
    return replace(
        data,
        interactions=events[kept[0]],
        reactions=data.reactions[kept[1]],
        users=users,
        friends=sparse.csr_array(strength, dtype=np.float32),
    )


def asked(data: Dataset, count: int = 60, seed: int = 0) -> pd.DataFrame:
    """Requests of anybody at any time: before all events, at some, between, after, and at none."""
    rng = np.random.default_rng(seed)
    hours = pd.to_timedelta(rng.integers(-48, 24 * 95, size=count), unit="h")
    at = pd.Series(START + hours).dt.as_unit("us")
    at[::4] = rng.choice(data.interactions["timestamp"], size=len(at[::4]))
    at[5::11] = pd.NaT
    user = rng.integers(-1, data.shape[0], size=count).astype(np.int32)
    return pd.DataFrame({"user": user, "at": at})


def days(one: pd.Timestamp, other: pd.Series) -> pd.Series:
    return (one - other) / pd.Timedelta(days=1)


def liked_by_loops(lift: FriendLift, data: Dataset, requests: pd.DataFrame) -> np.ndarray:
    """The quantity of :meth:`FriendLift.liked`, one friend and event at a time."""
    half_life = lift.activity.half_life
    events = data.interactions.assign(value=liking(data).astype(float))
    found = np.zeros((len(requests), data.shape[1]))
    for row, (user, at) in enumerate(zip(requests["user"], requests["at"], strict=True)):
        if user < 0:
            continue
        weight = lift.circles.of(np.array([user])).toarray()[0].astype(float)
        known = events if pd.isna(at) else events[events["timestamp"] < at]
        now = events["timestamp"].max() if pd.isna(at) else at
        for friend in np.flatnonzero(weight):
            theirs = known[known["user"] == friend]
            age = days(now, theirs["timestamp"])
            fading = 1.0 if half_life is None else 0.5 ** (age / half_life)
            np.add.at(found[row], theirs["item"], weight[friend] * theirs["value"] * fading)
        found[row] /= (weight**2).sum() or 1
    return found


def shares_by_loops(data: Dataset, at: pd.Timestamp, half_life: float | None) -> np.ndarray:
    """Share of each item in all liking, faded, by whole steps of an eighth of the half-life."""
    events, amount = data.interactions, liking(data).astype(float)
    if half_life is not None:
        epoch = (events["timestamp"] - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)
        end = (np.floor(epoch / (half_life / 8)) + 1) * half_life / 8
        now = epoch.max() + half_life if pd.isna(at) else at.timestamp() / 86_400
        done = end <= now
        if done.any():
            amount = np.where(done, amount * 0.5 ** ((now - end) / half_life), 0)
    total = np.bincount(events["item"], amount, minlength=data.shape[1])
    return total / total.sum()


# Liking


def test_liking_is_what_was_said_else_what_was_watched_else_all() -> None:
    keys = ["user_id", "content_id", "timestamp"]
    views = [("ann", "a"), ("ann", "b"), ("ann", "c"), ("ann", "d"), ("ann", "a"), ("ben", "a")]
    history = pd.DataFrame([(*v, START) for v in views], columns=keys)
    history["completion"] = [0.1, 0.2, 0.3, None, 0.4, 0.6]
    said = pd.DataFrame(
        [
            ("ann", "a", START, 5.0, None),
            ("ann", "a", START, 2.0, "love"),  # stars say more than words
            ("ann", "b", START, None, "like"),
            ("ann", "z", START, 1.0, None),  # never viewed
        ],
        columns=[*keys, "rating", "reaction"],
    )
    data = Dataset.from_tables(Tables(history, said))
    expected = [(1 + 0.25) / 2, 0.75, 0.3, 1.0, (1 + 0.25) / 2, 0.6]
    np.testing.assert_allclose(liking(data), expected, rtol=1e-6)
    silent = Dataset.from_tables(Tables(history.drop(columns="completion")))
    np.testing.assert_array_equal(liking(silent), np.ones(6))
    assert liking(data).dtype == liking(silent).dtype == np.float32


# Lifts


@every_half_life
@every_trust
def test_what_friends_liked_agrees_with_loops(
    trust: Trust, half_life: float | None, social: Dataset
) -> None:
    lift, requests = FriendLift.of(social, trust, half_life, 0.5), asked(social)
    liked = lift.liked(requests)
    assert liked.dtype == np.float32
    expected = liked_by_loops(lift, social, requests)
    assert (expected.sum(axis=1) > 0).mean() > 0.5
    np.testing.assert_allclose(liked.toarray(), expected, rtol=1e-4, atol=1e-6)


@every_half_life
def test_lifts_agree_with_their_formula(half_life: float | None, social: Dataset) -> None:
    lift, requests = FriendLift.of(social, Trust(), half_life, 0.7), asked(social)
    liked = liked_by_loops(lift, social, requests)
    share = np.array([shares_by_loops(social, at, half_life) for at in requests["at"]])
    expected = np.log((0.7 + liked) / (0.7 + liked.sum(axis=1, keepdims=True) * share))
    got = lift(Slate(requests, np.arange(30)))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)
    assert np.ptp(expected) > 1


def test_own_candidates_have_the_lifts_of_shared_ones(social: Dataset) -> None:
    lift, requests = FriendLift.of(social, Trust(), 10.0, 0.5), asked(social)
    items = np.random.default_rng(0).permutation(30)[:12]
    shared = lift(Slate(requests, items))
    own = np.tile(items, (len(requests), 1))
    np.testing.assert_allclose(lift(Slate(requests, own)), shared, rtol=1e-5)
    own[:, 3] = EMPTY
    got = lift(Slate(requests, own))
    assert np.isfinite(got).all()
    np.testing.assert_allclose(np.delete(got, 3, 1), np.delete(shared, 3, 1), rtol=1e-5)


@every_half_life
def test_without_friends_nothing_is_lifted(half_life: float | None, social: Dataset) -> None:
    nobody = asked(social).assign(user=np.resize([0, 1, -1], 60).astype(np.int32))
    for data in (social, replace(social, friends=None)):
        lift = FriendLift.of(data, Trust(), half_life, 0.5)
        np.testing.assert_array_equal(lift(Slate(nobody, np.arange(30))), 0)
    assert not lift(Slate(asked(social), np.arange(30))).any()  # nobody has friends


def test_friends_who_have_seen_nothing_lift_nothing(social: Dataset) -> None:
    only = np.zeros((24, 24), np.float32)
    only[5, 2] = only[6, 7] = 1
    data = replace(social, friends=sparse.csr_array(only))
    lift = FriendLift.of(data, Trust(), None, 0.5)
    requests = pd.DataFrame({"user": np.array([5, 6], np.int32)})
    quiet, heard = lift(Slate(requests, np.arange(30)))
    assert not quiet.any()
    assert heard.any()


def test_who_does_not_share_is_never_heard(social: Dataset) -> None:
    """Other viewings of user 4 change nobody's circle."""
    requests = asked(social)
    before = FriendLift.of(social, Trust(), None, 0.5)
    mine = social.interactions["user"] == 4
    assert mine.any()
    shifted = social.interactions.assign(item=social.interactions["item"].mask(mine, 1))
    after = replace(before, activity=Activity.of(replace(social, interactions=shifted)))
    np.testing.assert_array_equal(after.liked(requests).toarray(), before.liked(requests).toarray())


def two(*hours: float) -> Dataset:
    """Ann's only friend ben watches item by item, one at each of these hours."""
    history = pd.DataFrame(
        {
            "user_id": "ben",
            "content_id": [f"c{n}" for n in range(len(hours))],
            "timestamp": (START + pd.to_timedelta(list(hours), unit="h")).as_unit("us"),
        }
    )
    ties = pd.DataFrame({"user_id": ["ann"], "friend_id": ["ben"]})
    users = pd.DataFrame({"user_id": ["ann", "ben"]})
    return Dataset.from_tables(Tables(history, users=users, user_connections=ties))


def of_ann(data: Dataset, half_life: float | None, at: pd.Timestamp | None) -> list[float]:
    requests = pd.DataFrame({"user": [0], "at": pd.to_datetime([at], utc=True)})
    return FriendLift.of(data, Trust(), half_life, 0.5).liked(requests).toarray()[0].tolist()


def test_an_event_at_the_very_instant_of_the_request_is_unknown() -> None:
    data, hour, tick = two(0, 1, 1, 2), pd.Timedelta(hours=1), pd.Timedelta(microseconds=1)
    assert of_ann(data, None, START) == [0, 0, 0, 0]
    assert of_ann(data, None, START + hour) == [1, 0, 0, 0]
    assert of_ann(data, None, START + hour + tick) == [1, 1, 1, 0]
    assert of_ann(data, None, START + 9 * hour) == [1, 1, 1, 1]
    assert of_ann(data, None, None) == [1, 1, 1, 1]


def test_a_viewing_counts_half_after_its_half_life() -> None:
    data = two(0, 24, 48)
    later = START + pd.Timedelta(hours=72)
    assert of_ann(data, 1.0, later) == pytest.approx([1 / 8, 1 / 4, 1 / 2])
    assert of_ann(data, 2.0, later) == pytest.approx([2**-1.5, 1 / 2, 2**-0.5])
    assert of_ann(data, 1.0, None) == pytest.approx([1 / 4, 1 / 2, 1])  # as of the last event


def test_requests_may_have_no_time_at_all(social: Dataset) -> None:
    lift, requests = FriendLift.of(social, Trust(), 10.0, 0.5), asked(social)
    never = requests.assign(at=pd.to_datetime([None] * len(requests), utc=True))
    bare = lift.liked(requests[["user"]]).toarray()
    np.testing.assert_array_equal(lift.liked(never).toarray(), bare)
    assert bare.any()


@pytest.mark.parametrize("unit", ["s", "ns"])
def test_the_unit_of_time_does_not_matter(unit: str, social: Dataset) -> None:
    lift, requests = FriendLift.of(social, Trust(), 10.0, 0.5), asked(social)
    other = requests.assign(at=requests["at"].dt.as_unit(unit))
    events = social.interactions.assign(timestamp=social.interactions["timestamp"].dt.as_unit(unit))
    same = FriendLift.of(replace(social, interactions=events), Trust(), 10.0, 0.5)
    expected = lift.liked(requests).toarray()
    np.testing.assert_array_equal(lift.liked(other).toarray(), expected)
    np.testing.assert_array_equal(same.liked(requests).toarray(), expected)


@every_half_life
def test_what_happens_after_the_request_is_not_seen(
    half_life: float | None, social: Dataset
) -> None:
    at = social.interactions["timestamp"].quantile(0.5)
    requests = pd.DataFrame({"user": np.arange(24, dtype=np.int32), "at": at})
    late = social.interactions["timestamp"] >= at
    other = social.interactions.copy()
    other.loc[late, "item"] = 0
    before = FriendLift.of(social, Trust(), half_life, 0.5)
    activity = Activity.of(replace(social, interactions=other), half_life)
    after = FriendLift(before.circles, activity, Trend.of(activity), 0.5)
    np.testing.assert_array_equal(after.liked(requests).toarray(), before.liked(requests).toarray())
    every = np.arange(30)
    if half_life is not None:  # what is usual is of the past as well
        np.testing.assert_allclose(
            after(Slate(requests, every)), before(Slate(requests, every)), rtol=1e-5, atol=1e-6
        )
    moved = requests.assign(at=at + pd.Timedelta(days=60))
    assert (after.liked(moved).toarray() != before.liked(moved).toarray()).any()


@every_half_life
def test_neither_company_nor_order_nor_chunks_change_lifts(
    half_life: float | None, social: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    lift, requests = FriendLift.of(social, Trust(), half_life, 0.5), asked(social)
    slate = Slate(requests, np.arange(30))
    whole, liked = lift(slate), lift.liked(requests).toarray()
    turned = lift(Slate(requests[::-1], np.arange(30)))[::-1]
    np.testing.assert_allclose(turned, whole, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr("firetv.social.REQUESTS_AT_ONCE", 7)
    np.testing.assert_array_equal(lift.liked(requests).toarray(), liked)
    assert isinstance(lift.liked(requests), sparse.csr_array)
    for row in (0, 5, 17):
        alone = lift(Slate(requests.iloc[[row]], np.arange(30)))
        np.testing.assert_allclose(alone[0], whole[row], rtol=1e-5, atol=1e-6)


def test_no_requests_have_no_lifts(social: Dataset) -> None:
    nobody = asked(social).iloc[:0]
    for half_life in (None, 10.0):
        lift = FriendLift.of(social, Trust(), half_life, 0.5)
        assert lift(Slate(nobody, np.arange(30))).shape == (0, 30)
        assert lift(Slate(nobody, np.zeros((0, 4), int))).shape == (0, 4)


def test_without_events_there_is_nothing_to_lift(social: Dataset) -> None:
    empty = social.keep(np.zeros(len(social.interactions), bool))
    for half_life in (None, 10.0):
        lift = FriendLift.of(empty, Trust(), half_life, 0.5)
        assert not lift(Slate(asked(social), np.arange(30))).any()


def test_viewings_are_in_the_order_of_time_whatever_that_of_the_file(social: Dataset) -> None:
    activity = Activity.of(social)
    assert (np.diff(activity.key) >= 0).all()
    shuffled = social.interactions.sample(frac=1, random_state=0)
    other = FriendLift.of(replace(social, interactions=shuffled), Trust(), 10.0, 0.5)
    requests = asked(social)
    lift = FriendLift.of(social, Trust(), 10.0, 0.5)
    np.testing.assert_allclose(
        other.liked(requests).toarray(), lift.liked(requests).toarray(), rtol=1e-5
    )


@pytest.mark.parametrize("half_life", [0.3, 1.0, 45.0])
def test_what_is_usual_is_told_by_whole_steps_of_the_past(
    half_life: float, social: Dataset
) -> None:
    trend, requests = Trend.of(Activity.of(social, half_life)), asked(social)
    never = np.iinfo(np.int64).max
    at = requests["at"].dt.tz_convert(None).to_numpy("datetime64[us]").astype(np.int64)
    shares, row = trend.shares(np.where(requests["at"].isna(), never, at))
    expected = [shares_by_loops(social, moment, half_life) for moment in requests["at"]]
    np.testing.assert_allclose(shares[row], expected, rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    assert (trend.steps % round(half_life * MICROSECONDS / 8) == 0).all()


# Boosts


def of_friends(data: Dataset, **options: object) -> FriendStep:
    return chain(EASE(10), FriendBoost(**options)).fit(data).steps[-1]


def test_the_part_of_friends_is_the_lift_times_the_strength(social: Dataset) -> None:
    slate = Slate(asked(social), np.arange(30))
    base = chain(EASE(10)).fit(social)(slate)
    step = chain(EASE(10), FriendBoost(strength=0.8, half_life=10.0)).fit(social)
    boosted, lift = step(slate), FriendLift.of(social, Trust(), 10.0, 0.5)(slate)
    assert list(boosted.parts) == [*base.parts, "friends"]
    np.testing.assert_allclose(boosted.parts["friends"], 0.8 * lift, rtol=1e-6)
    np.testing.assert_allclose(boosted.scores, sum(boosted.parts.values()), rtol=1e-5, atol=1e-6)
    factor = boosted.parts["taste"][base.parts["taste"] != 0]
    factor = factor / base.parts["taste"][base.parts["taste"] != 0]
    assert np.ptp(factor) < 1e-4 * factor.mean()  # one for all
    np.testing.assert_array_equal(boosted.parts["friends"][slate.users <= 1], 0)


def test_without_strength_the_order_of_the_base_stays(social: Dataset) -> None:
    slate = Slate(asked(social), np.arange(30))
    plain = EASE(10).fit(social)(slate).scores
    step = chain(EASE(10), FriendBoost(strength=0)).fit(social)
    boosted = step(slate)
    np.testing.assert_array_equal(boosted.parts["friends"], 0)
    known = slate.users >= 0
    np.testing.assert_array_equal(
        np.argsort(-boosted.scores[known], kind="stable"), np.argsort(-plain[known], kind="stable")
    )


def test_new_people_may_count_on_friends_more(social: Dataset) -> None:
    scales = Scales({}, {"friends": 0.5, "friends/new": 2.0})
    lift, new = FriendLift.of(social, Trust(), None, 0.5), newness(social, 3.0)
    step, requests = FriendStep(lift, new, scales), asked(social)
    slate = Slate(requests, np.arange(30))
    weight = np.where(requests["user"] >= 0, 0.5 + 2 * new[requests["user"]], 2.5)
    np.testing.assert_allclose(step.weight(slate.users), weight, rtol=1e-6)
    expected = weight[:, None] * lift(slate)
    np.testing.assert_allclose(step(slate).parts["friends"], expected, rtol=1e-5, atol=1e-7)
    assert step.weight(np.array([2]))[0] == 2.5  # who has no events


def test_a_boost_alone_ranks_by_friends(social: Dataset) -> None:
    slate = Slate(asked(social), np.arange(30))
    alone = FriendBoost(strength=2.0).fit(social)(slate)
    assert list(alone.parts) == ["friends"]
    lift = FriendLift.of(social, Trust(), None, 0.5)
    np.testing.assert_allclose(alone.scores, 2 * lift(slate), rtol=1e-6)


def test_no_event_after_the_cut_reaches_a_boost(social: Dataset) -> None:
    cut = social.interactions["timestamp"].quantile(0.7)
    other = social.interactions.copy()
    other.loc[other["timestamp"] >= cut, "item"] = 0
    slate = Slate(asked(social), np.arange(30))
    boost = chain(EASE(10), FriendBoost(half_life=10.0))
    a = boost.fit(social.until(cut))(slate)
    b = boost.fit(replace(social, interactions=other).until(cut))(slate)
    for name, part in a.parts.items():
        np.testing.assert_array_equal(part, b.parts[name])


def test_a_boost_repeats_and_crosses_processes_and_chunks(social: Dataset) -> None:
    boost = chain(EASE(10), FriendBoost(strength=1.0, half_life=10.0))
    step, requests, items = boost.fit(social), asked(social), np.arange(30)
    whole = recommend(step, requests, items)
    small = recommend(step, requests, items, chunk_cells=70)
    for other in (boost.fit(social), pickle.loads(pickle.dumps(step))):
        np.testing.assert_array_equal(recommend(other, requests, items).scores, whole.scores)
    np.testing.assert_allclose(small.scores, whole.scores, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def copying() -> Dataset:
    """People who copy two in five viewings from friends, and have friends of their taste."""
    world = World(users=300, content=300, watch_events=12_000, influence=0.4)
    return Dataset.from_tables(simulate(world)[0])


@pytest.mark.parametrize("half_life", [None, 7.0])
def test_friends_count_where_people_copy_them_and_not_where_they_are_noise(
    half_life: float | None, copying: Dataset
) -> None:
    real = of_friends(copying, half_life=half_life).scales.own
    noise = of_friends(rewired(copying, seed=0), half_life=half_life).scales.own
    assert real["friends"] > 0.1
    assert noise == {"friends": 0, "friends/new": 0}


def test_recent_viewings_of_friends_tell_more_where_people_copy_them(copying: Dataset) -> None:
    ever, lately = (of_friends(copying, half_life=h).scales.own["friends"] for h in (None, 7.0))
    assert lately > 2 * ever


def test_friends_of_nobody_have_no_weight_and_leave_the_base_alone(social: Dataset) -> None:
    alone = replace(social, friends=None)
    step = chain(EASE(10), FriendBoost()).fit(alone)
    assert step.steps[-1].scales.own == {"friends": 0, "friends/new": 0}
    slate = Slate(asked(social), np.arange(30))
    boosted, plain = step(slate), EASE(10).fit(alone)(slate)
    known = (slate.users >= 0) & (alone.user_counts[slate.users] > 0)
    correlation = np.corrcoef(boosted.scores[known].ravel(), plain.scores[known].ravel())[0, 1]
    assert correlation > 1 - 1e-6


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ({"half_life": 0.0}, "half_life 0.0 must be above 0"),
        ({"prior": 0.0}, "prior 0.0 must be above 0"),
        ({"newness": -1.0}, "newness -1.0 must be above 0"),
        ({"half_life": float("nan")}, "half_life nan must be above 0"),
        ({"strength": -0.1}, "strength -0.1 is below 0"),
    ],
)
def test_bad_parameters_of_a_boost_are_refused(option: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        FriendBoost(**option)


# Signals


def test_signals_are_the_lift_and_the_lift_of_newcomers(social: Dataset) -> None:
    slate = Slate(asked(social), np.arange(30))
    got = FriendSignals(Trust(mutual=True), 10.0, 0.7, newness=5.0).fit(social)(slate)
    lift = FriendLift.of(social, Trust(mutual=True), 10.0, 0.7)(slate)
    assert list(got.parts) == ["friends", "friends/new"]
    np.testing.assert_array_equal(got.parts["friends"], lift)
    new = newness(social, 5.0)[slate.users][:, None]
    np.testing.assert_allclose(got.parts["friends/new"], new * lift, rtol=1e-6)


def test_a_ranker_takes_friends_as_one_group(social: Dataset) -> None:
    ranker = Ranker({"ease": EASE(10)}, (FriendSignals(),), folds=2)
    ready = ranker.prepare(social)
    assert ready.choices.names == ("ease", "friends", "friends/new")
    slate = ready.learn(ranker.learner)(Slate(asked(social), np.arange(30)))
    assert list(slate.parts) == ["ease", "friends"]
    there = slate.items != EMPTY
    total = slate.parts["ease"] + slate.parts["friends"]
    np.testing.assert_allclose(slate.scores[there], total[there], rtol=1e-5, atol=1e-6)
    assert slate.parts["friends"].any()


# Models that learn from friends


def mixed_by_hand(data: Dataset, weight: float, scale: float) -> np.ndarray:
    """Own history + weight * newness * the circle's mean history, dense, a row per user."""
    history = data.matrix().toarray().astype(float)
    circles = Trust().fit(data).of(np.arange(data.shape[0])).toarray()
    new = scale / (scale + history.sum(axis=1))
    return history + weight * new[:, None] * (circles @ history)


@dataclass(frozen=True)
class Spy:
    """A model that keeps what it is fitted on."""

    seed: int = 0
    fits: list[tuple[int, Dataset]] = field(default_factory=list)

    def fit(self, data: Dataset) -> Step:
        self.fits.append((self.seed, data))
        return Popular().fit(data)


def test_scores_are_those_of_people_mixed_with_their_circles(social: Dataset) -> None:
    step = WithFriends(EASE(10), weight=0.6, newness=4.0).fit(social)
    slate, weights = Slate(asked(social), np.arange(30)), EASE(10).fit(social).weights
    mixed = mixed_by_hand(social, 0.6, 4.0)
    known = (slate.users >= 0) & mixed[slate.users].any(axis=1)
    expected = np.where(known[:, None], mixed[slate.users] @ weights, 0)
    got = step(slate)
    np.testing.assert_allclose(got.parts["taste"], expected, rtol=1e-4, atol=1e-6)
    assert got.requests is slate.requests
    assert known[slate.users == 2].all()  # who has friends alone


def test_training_may_be_on_histories_mixed_with_those_of_circles(social: Dataset) -> None:
    spy = Spy()
    WithFriends(spy, "training", weight=0.6, newness=4.0, seed=7).fit(social)
    ((seed, data),) = spy.fits
    assert seed == 7
    np.testing.assert_allclose(
        data.matrix().toarray(), mixed_by_hand(social, 0.6, 4.0), rtol=1e-5, atol=1e-7
    )
    assert data.matrix().dtype == np.float32
    assert data.matrix().indices.dtype == np.int32  # which implicit and LightFM ask for
    pd.testing.assert_frame_equal(data.interactions, social.interactions)


PLAIN = {
    "ease": EASE(10),
    "knn": ItemKNN(),
    "als": ALS(components=4, reg=0.1, epochs=10),
    "lightfm": LightFM(components=4, epochs=5),
    "bpr": BPR(components=4, epochs=5),
}
USES = [
    ("ease", "scores"), ("knn", "scores"), ("als", "scores"), ("lightfm", "scores"),
    ("ease", "training"), ("knn", "training"), ("als", "training"), ("lightfm", "training"),
    ("bpr", "training"), ("lightfm", "features"),
]  # fmt: skip
every_use = pytest.mark.parametrize(("name", "use"), USES)


@every_use
def test_where_nobody_has_friends_the_model_is_the_plain_one(
    name: str, use: str, social: Dataset
) -> None:
    slate = Slate(asked(social), np.arange(30))
    for data in (replace(social, friends=None), replace(social, friends=social.friends * 0)):
        plain = PLAIN[name].fit(data)(slate)
        got = WithFriends(PLAIN[name], use).fit(data)(slate)
        assert list(got.parts) == list(plain.parts)
        np.testing.assert_allclose(got.scores, plain.scores, rtol=1e-5, atol=1e-6)


@every_use
def test_with_friends_people_without_a_history_have_a_taste(
    name: str, use: str, social: Dataset
) -> None:
    requests = pd.DataFrame({"user": np.array([2, 3, 0, -1], np.int32)})
    slate = Slate(requests, np.arange(30))
    plain = PLAIN[name].fit(social)(slate)
    got = WithFriends(PLAIN[name], use).fit(social)(slate)
    assert not plain.parts["taste"][:2].any()
    assert got.parts["taste"][:2].any(axis=1).all()
    assert (got.scores[0] != got.scores[1]).any()
    np.testing.assert_array_equal(got.parts["popularity"][3], plain.scores[3])  # a stranger
    np.testing.assert_array_equal(got.parts["taste"][3], 0)


@every_use
def test_no_requests_are_no_obstacle(name: str, use: str, social: Dataset) -> None:
    step = WithFriends(PLAIN[name], use).fit(social)
    assert step(Slate(asked(social).iloc[:0], np.arange(30))).scores.shape == (0, 30)


def test_who_has_no_friends_is_asked_as_ever(social: Dataset) -> None:
    slate = Slate(pd.DataFrame({"user": np.array([0, 1], np.int32)}), np.arange(30))
    plain = EASE(10).fit(social)(slate).scores
    np.testing.assert_allclose(WithFriends(EASE(10)).fit(social)(slate).scores, plain, rtol=1e-5)


def test_the_weight_of_friends_may_be_none(social: Dataset) -> None:
    slate = Slate(asked(social), np.arange(30))
    plain = EASE(10).fit(social)(slate).scores
    none = WithFriends(EASE(10), weight=0).fit(social)(slate).scores
    np.testing.assert_allclose(none, plain, rtol=1e-5, atol=1e-6)


def test_the_seed_reaches_the_model(social: Dataset) -> None:
    slate = Slate(asked(social), np.arange(30))
    stage = WithFriends(LightFM(components=4, epochs=2), "features")
    a, b = (with_seed(stage, seed).fit(social)(slate).scores for seed in (0, 1))
    assert (a != b).any()


@pytest.mark.parametrize(
    ("stage", "complaint"),
    [
        (WithFriends(EASE(), "features"), "EASE.* takes no features of users: use LightFM"),
        (WithFriends(Popular()), "Popular.* has no tastes to mix: use EASE, ItemKNN, ALS or"),
    ],
)
def test_a_model_that_cannot_learn_from_friends_says_so(
    stage: Stage, complaint: str, social: Dataset
) -> None:
    with pytest.raises(ValueError, match=complaint):
        stage.fit(social)


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ({"use": "ask"}, "use 'ask': choose scores, training or features"),
        ({"weight": -1}, "weight -1 is below 0"),
        ({"newness": 0}, "newness 0 not above it"),
    ],
)
def test_bad_parameters_of_a_model_with_friends_are_refused(
    option: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        WithFriends(EASE(), **option)


# ------------------------------------------------------------------ proof


def test_a_slate_says_who_did_what_before_each_request(social: Dataset) -> None:
    requests = asked(social, count=40)
    items = np.random.default_rng(1).permutation(30)[:7]
    grid = np.where(np.arange(7) == 3, EMPTY, np.tile(items, (40, 1)))
    slate = FriendBoost(strength=2.0).fit(social)(Slate(requests, grid))
    found = slate_proof(slate, social)
    place = list(zip(*np.nonzero(grid != EMPTY), strict=True))
    assert found["request"].tolist() == [row for row, _ in place]
    assert found["item"].tolist() == [grid[cell] for cell in place]
    assert found["counts"].tolist() == [slate.parts["friends"][cell] for cell in place]
    assert found["watched"].sum() > 20
    for row, request in requests.reset_index(drop=True).iterrows():
        until = None if pd.isna(request["at"]) else request["at"]
        own = social_proof(friend_events(social, np.array([request["user"]]), until=until))
        own = own.set_index("item")
        for line in found[found["request"] == row].itertuples():
            there = line.item in own.index
            assert line.friends == (own.at[line.item, "friends"] if there else ())
            for verb in ("watched", "finished", "loved"):
                assert getattr(line, verb) == (own.at[line.item, verb] if there else 0)


def test_a_slate_without_titles_or_friends_has_an_empty_proof(social: Dataset) -> None:
    none = Slate(pd.DataFrame({"user": [5, -1]}), np.full((2, 3), EMPTY))
    assert slate_proof(none, social).empty
    lonely = slate_proof(Slate(pd.DataFrame({"user": [0, -1]}), np.arange(3)), social)
    assert lonely["watched"].tolist() == [0] * 6
    assert lonely["friends"].tolist() == [()] * 6
    assert lonely["counts"].tolist() == [0] * 6
