"""Scales: nobody's scores weigh more for being larger, and chances are what happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
from conftest import make_tables
from scipy.special import expit
from test_strategies import NEED_CHANCES, STRATEGIES

from firetv.data import Dataset
from firetv.models import EASE, Popular
from firetv.opinions import Chances, Opinions, Percentiles, Scale, Standardised, ranks
from firetv.panels import Panel
from firetv.slate import EMPTY, Chain, ExcludeSeen, Slate, Stage, Step, chain, recommend

SCALES: dict[str, Scale] = {
    "standardised": Standardised(),
    "percentiles": Percentiles(),
    "chances": Chances(liked=3),
}
MEMBER = chain(EASE(10))
every_scale = pytest.mark.parametrize("name", SCALES)


@pytest.fixture(scope="module")
def fitted(data: Dataset) -> dict[str, Opinions]:
    return {name: scale.fit_after(MEMBER, data) for name, scale in SCALES.items()}


def random_scores(seed: int, rows: int = 40, slots: int = 25) -> tuple[np.ndarray, ...]:
    """Users, scores without ties, and which slots are valid."""
    rng = np.random.default_rng(seed)
    scores = (rng.normal(size=(rows, slots)) * rng.uniform(0.1, 5, size=(rows, 1))).astype("f4")
    return rng.integers(-1, 30, size=rows), scores, rng.random((rows, slots)) < 0.8


# ------------------------------------------------------------------ scales


def test_standardised_and_percentiles_by_hand(fitted: dict[str, Opinions]) -> None:
    users, scores, valid = random_scores(0)
    deviations = fitted["standardised"](users, scores, valid)
    shares = fitted["percentiles"](users, scores, valid)
    for row, there in enumerate(valid):
        own = scores[row, there].astype(float)
        below = [(own < score).sum() / (len(own) - 1) for score in own]
        np.testing.assert_allclose(shares[row, there], below, atol=1e-6)
        np.testing.assert_allclose(
            deviations[row, there], (own - own.mean()) / own.std(), atol=1e-4
        )


def test_ranks_count_what_is_better_and_half_of_what_is_as_good() -> None:
    rng = np.random.default_rng(6)
    _, scores, valid = random_scores(6)
    scores[1::2] = scores[1::2].round()
    scores[~valid & (rng.random(valid.shape) < 0.5)] = -np.inf
    valid[:2] = False
    found = ranks(scores, valid)
    assert (found >= 0).all()
    for row, there in enumerate(valid):
        own = scores[row, there]
        expected = [(own > score).sum() + ((own == score).sum() - 1) / 2 for score in own]
        np.testing.assert_array_equal(found[row, there], expected)


@every_scale
def test_opinions_are_numbers_in_the_order_of_scores(
    name: str, fitted: dict[str, Opinions]
) -> None:
    users, scores, valid = random_scores(1)
    scores = np.where(valid | (np.arange(25) % 2 == 0), scores, -np.inf)  # as of empty slots
    for array in (users, scores, valid):
        array.flags.writeable = False
    opinions = fitted[name](users, scores, valid)
    assert opinions.dtype == np.float32
    assert (opinions[~valid] == 0).all()
    assert np.isfinite(opinions).all()
    for row, there in enumerate(valid):
        order = np.argsort(scores[row, there])
        assert (np.diff(opinions[row, there][order]) >= 0).all()
    if name != "standardised":
        assert ((opinions >= 0) & (opinions <= 1)).all()


@every_scale
def test_rows_with_one_title_or_none_are_numbers_too(
    name: str, fitted: dict[str, Opinions]
) -> None:
    valid = np.array([[False] * 4, [False, True, False, False], [True] * 4])
    scores = np.where(valid, np.float32(2), np.float32(-np.inf))
    opinions = fitted[name](np.array([0, 1, -1]), scores, valid)
    assert np.isfinite(opinions).all()
    assert (opinions[~valid] == 0).all()


@every_scale
def test_opinions_of_a_member_do_not_depend_on_others(
    name: str, fitted: dict[str, Opinions]
) -> None:
    users, scores, valid = random_scores(2)
    whole, rows = fitted[name](users, scores, valid), np.array([5, 3, 17])
    part = fitted[name](users[rows], scores[rows], valid[rows])
    np.testing.assert_allclose(part, whole[rows], rtol=1e-6)


# ------------------------------------------------------------------ nobody dominates


@every_scale
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_larger_scores_of_one_member_change_no_list(
    name: str, strategy: str, fitted: dict[str, Opinions]
) -> None:
    if name == "standardised" and strategy in NEED_CHANCES:
        pytest.skip("needs opinions of 0 and above")
    groups, size, slots = 25, 3, 30
    users, scores, _ = random_scores(3, groups * size, slots)
    valid = np.repeat(random_scores(4, groups, slots)[2], size, axis=0)

    def lists(scores: np.ndarray) -> np.ndarray:
        opinions = fitted[name](users, scores.astype(np.float32), valid)
        shape = (groups, size, slots)
        there = np.where(valid, opinions, np.nan).reshape(shape)
        return STRATEGIES[strategy](Panel.of(there), 8).slots

    louder = scores.astype(float).reshape(groups, size, slots)
    factors, shifts = np.ones((groups, size, 1)), np.zeros((groups, size, 1))
    factors[:, 1], shifts[:, 1] = 100, 40
    factors[:, 2], shifts[:, 2] = 0.01, -3
    plain = lists(scores)
    np.testing.assert_array_equal(lists((louder * factors).reshape(scores.shape)), plain)
    moved = lists((louder * factors + shifts).reshape(scores.shape))
    assert (moved == plain).mean() > 0.98  # but for near ties that float32 rounds


# ------------------------------------------------------------------ chances


def taste_world(
    users: int = 150, items: int = 60, seed: int = 0, heavy: bool = False, draws: int = 5
) -> Dataset:
    """Everybody likes some kinds of titles; a pair is viewed at most once."""
    rng = np.random.default_rng(seed)
    activity = rng.lognormal(0, 0.8, size=(users, 1)) if heavy else np.ones((users, 1))
    taste = rng.gamma(0.5, size=(users, draws)) @ rng.gamma(0.5, size=(draws, items))
    chance = np.clip(taste * activity * 0.12 / taste.mean(), 0, 0.9)
    user, item = np.nonzero(rng.random((users, items)) < chance)
    start = pd.Timestamp("2024-01-01", tz="UTC")
    history = pd.DataFrame(
        {
            "user_id": np.char.add("user", user.astype(str)),
            "content_id": np.char.add("content", item.astype(str)),
            "timestamp": start + pd.to_timedelta(rng.integers(0, 10**7, len(user)), unit="s"),
        }
    ).astype({"timestamp": "datetime64[us, UTC]"})
    good = rng.random(len(user)) < 0.6
    return Dataset.from_tables(
        replace(
            make_tables(),
            watch_history=history,
            content_reactions=history.assign(rating=np.where(good, 5.0, 2.0)),
            users=None,
            content=None,
            user_connections=None,
            groups=None,
        )
    )


def test_the_mean_chance_is_the_share_that_is_liked_later() -> None:
    """Of people with long and short histories, and in every fifth of the chances."""
    expected, found = np.zeros(5), np.zeros(5)
    for seed in range(4):
        data = taste_world(users=400, seed=seed, heavy=True)
        later = np.random.default_rng(seed).random(len(data.interactions)) < 1 / 6
        train = data.keep(~later)  # a fifth of it is as much as what comes later
        model = Chances(seed=seed).fit_after(MEMBER, train)
        users = np.flatnonzero(train.user_counts)
        step = chain(MEMBER, ExcludeSeen()).fit(train)
        slate = recommend(step, pd.DataFrame({"user": users}), np.arange(data.shape[1]))
        valid = slate.grid != EMPTY
        chances = model(users, slate.scores, valid)[valid]
        liked = (data.matrix("rating").toarray()[users] >= 4)[valid]
        fifth = np.argsort(np.argsort(chances)) * 5 // len(chances)
        expected += np.bincount(fifth, chances)
        found += np.bincount(fifth, liked)
    assert expected.sum() == pytest.approx(found.sum(), rel=0.1)
    np.testing.assert_allclose(expected, found, rtol=0.3)
    assert found[4] > 4 * found[0]  # there is something to tell apart


def test_chances_are_a_logistic_function_of_score_rank_and_history(data: Dataset) -> None:
    model = Chances(liked=3).fit_after(MEMBER, data)
    users, scores, valid = random_scores(5)
    deviations = Standardised().fit_after(MEMBER, data)(users, scores, valid)
    chances = model(users, scores, valid)
    a, b, c, d = model.weights
    assert a >= 0
    assert b >= 0
    for row, user in enumerate(users):
        for slot in np.flatnonzero(valid[row]):
            rank = (scores[row, valid[row]] > scores[row, slot]).sum()
            logit = a * deviations[row, slot] - b * np.log1p(rank) + c * model.known[user] + d
            assert chances[row, slot] == pytest.approx(expit(logit), rel=1e-4)
    assert model.known.shape == (data.shape[0] + 1,)
    assert model.known[-1] == 0  # a guest


@dataclass(frozen=True)
class Recorder:
    """Notes the data that it is fitted on and the requests that it is asked."""

    model: Stage = field(default_factory=Popular)
    handed: list[Dataset] = field(default_factory=list)
    asked: list[pd.DataFrame] = field(default_factory=list)

    def fit(self, data: Dataset) -> Step:
        self.handed.append(data)
        step = self.model.fit(data)

        def score(slate: Slate) -> Slate:
            self.asked.append(slate.requests)
            return step(slate)

        return score


def test_chances_learn_from_events_that_no_stage_has_seen(data: Dataset) -> None:
    recorder = Recorder()
    Chances(liked=3, seed=4).fit_after(Chain((recorder,)), data)
    (train,) = recorder.handed
    held_out = np.random.default_rng(4).random(len(data.interactions)) < 0.2
    pd.testing.assert_frame_equal(train.interactions, data.interactions[~held_out])
    gone = data.interactions[held_out]
    pairs = set(zip(gone["user"], gone["item"], strict=True))
    assert not pairs & set(zip(train.reactions["user"], train.reactions["item"], strict=True))
    (asked,) = recorder.asked
    assert asked["at"].unique().tolist() == [data.interactions["timestamp"].max()]
    assert sorted(asked["user"]) == np.flatnonzero(data.user_counts).tolist()


@pytest.mark.parametrize("scale", [Standardised(), Percentiles()])
def test_scales_without_parameters_fit_nothing(scale: Scale, data: Dataset) -> None:
    recorder = Recorder()
    scale.fit_after(Chain((recorder,)), data)
    assert recorder.handed == []


def test_many_users_are_a_sample(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firetv.opinions.MOST_CELLS", 40 * 7)
    recorder = Recorder()
    Chances(liked=3).fit_after(Chain((recorder,)), data)
    assert len(recorder.asked[0]) == 7


def test_chances_repeat_and_differ_by_seed(data: Dataset) -> None:
    one, again, other = (
        Chances(liked=3, seed=seed).fit_after(MEMBER, data).weights for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_without_ratings_every_event_counts_as_liked(data: Dataset) -> None:
    bare = replace(data, reactions=data.reactions.iloc[:0])
    users = np.arange(30)
    scores, valid = np.zeros((30, 40), np.float32), np.ones((30, 40), bool)
    means = [
        Chances(liked=liked).fit_after(MEMBER, each)(users, scores, valid).mean()
        for each, liked in ((bare, 5), (data, 1), (data, 5))
    ]
    assert means[0] > 1.5 * means[1] > 3 * means[2]  # half of the events are rated at all


def watched_again(data: Dataset) -> Dataset:
    """Everything was watched ten times, so that nothing held out is new to anybody."""
    return replace(data, interactions=pd.concat([data.interactions] * 10, ignore_index=True))


@pytest.mark.parametrize(
    ("make", "scale"),
    [
        (lambda data: data, Chances(liked=5.5)),
        (watched_again, Chances(liked=3)),
    ],
)
def test_chances_need_something_that_was_liked(
    make: Callable[[Dataset], Dataset], scale: Chances, data: Dataset
) -> None:
    with pytest.raises(ValueError, match=r"was rated .* or better"):
        scale.fit_after(MEMBER, make(data))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_chances_hold_out_a_part(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Chances(share=share)


def test_equal_scores_are_equal_opinions(data: Dataset) -> None:
    scores, valid = np.array([[2.0, 1.0, 2.0, 0.0]]), np.array([[True, True, True, False]])
    assert ranks(scores, valid)[0, :3].tolist() == [0.5, 2.0, 0.5]
    percentiles = Percentiles().fit_after(MEMBER, data)(np.array([0]), scores, valid)
    assert percentiles.tolist() == [[0.75, 0.0, 0.75, 0.0]]
    model = Chances(liked=3).fit_after(MEMBER, data)
    rng, there = np.random.default_rng(0), np.ones((3, 24), bool)
    tied = np.repeat(rng.normal(size=(3, 8)), 3, axis=1).astype(np.float32)
    order = rng.permutation(24)
    tied = tied[:, order]
    chances = model(np.array([0, 5, -1]), tied, there)
    for row in range(3):
        for score in np.unique(tied[row]):
            assert np.ptp(chances[row, tied[row] == score]) == 0
