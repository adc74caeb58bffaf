"""Lists for groups, beside what a loop over their members makes of each one's own scores."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_strategies import STRATEGIES

from firetv.context import ContextBoost
from firetv.data import Dataset
from firetv.groups import GROUP, TURN, ForGroups, GroupStep, part_of
from firetv.member_weights import (
    Activity,
    Dissatisfaction,
    Expertise,
    Factor,
    Likeness,
    Presence,
    Suitability,
    weigh,
)
from firetv.models import EASE, ItemKNN, Liked, Popular, Random
from firetv.opinions import Chances, Percentiles, Scale, Standardised
from firetv.panels import Strategy
from firetv.ranking import Blend
from firetv.slate import EMPTY, ExcludeSeen, Slate, Stage, chain, recommend, top
from firetv.social import FriendBoost
from firetv.strategies import Average, LeastMisery

STAGES: dict[str, Stage] = {
    "popular": Popular(),
    "random": Random(),
    "ease": EASE(10),
    "knn": ItemKNN(),
    "liked": Liked(EASE(10), 3),
    "blend": Blend({"ease": EASE(10), "knn": ItemKNN()}),
    "context": chain(EASE(10), ContextBoost("rules", strength=1.0)),
    "friends": chain(EASE(10), FriendBoost(strength=1.0)),
}
SCALES: dict[str, Scale] = {
    "standardised": Standardised(),
    "percentiles": Percentiles(),
    "chances": Chances(liked=3),
}
ALL_FACTORS = (Activity(), Expertise(), Likeness(), Dissatisfaction(), Presence())
MIXED = ((0, 1), (2,), (3, 4, 7), (-1,), (5, -1), (-1, -1, 6), (8, 8), (9, 10), (11, 12, 13, 14))
ITEMS = np.random.default_rng(0).permutation(40)


def requests(*members: Sequence[int], **columns: object) -> pd.DataFrame:
    at = pd.Timestamp("2024-04-05T19:30", tz="UTC") + pd.to_timedelta(np.arange(len(members)), "D")
    named = pd.Series(list(members), dtype=object)
    return pd.DataFrame({"members": named, "at": at.astype("datetime64[us, UTC]"), **columns})


def groups_of(
    member: Stage,
    strategy: Strategy | None = None,
    scale: Scale | None = None,
    weights: tuple[Factor, ...] = (),
    **rest: object,
) -> ForGroups:
    """Lists by the mean of percentiles, if nothing else is said."""
    return ForGroups(member, strategy or Average(), scale or Percentiles(), weights, **rest)


def lists(step: GroupStep, *members: Sequence[int], **columns: object) -> np.ndarray:
    return step(Slate(requests(*members, **columns), ITEMS)).items


def assert_same(one: Slate, other: Slate) -> None:
    """Items, and scores and parts where there is an item."""
    np.testing.assert_array_equal(one.items, other.items)
    there = one.items != EMPTY
    assert {n for n, p in one.parts.items() if p[there].any()} == {
        n for n, p in other.parts.items() if p[there].any()
    }
    for name in one.parts.keys() & other.parts.keys():
        np.testing.assert_allclose(
            one.parts[name][there], other.parts[name][there], rtol=1e-5, atol=1e-6
        )


@pytest.fixture(scope="module")
def ease(data: Dataset) -> GroupStep:
    return groups_of(EASE(10), weights=(Activity(), Dissatisfaction())).fit(data)


# ------------------------------------------------------------------ of one, and of more


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("own_candidates", [False, True])
def test_a_group_of_one_gets_what_that_person_would_get_alone(
    name: str, scale: str, own_candidates: bool, data: Dataset
) -> None:
    step = groups_of(STAGES[name], scale=SCALES[scale], weights=ALL_FACTORS, k=6).fit(data)
    users = [0, 2, -1, 17, 2]
    frame = requests(*[(user,) for user in users], weather=["rainy", "sunny", None, "rainy", None])
    items = np.stack([np.roll(ITEMS, n)[:25] for n in range(5)]) if own_candidates else ITEMS
    together = step(Slate(frame, items))
    single = frame.drop(columns="members").assign(user=users)
    alone = chain(STAGES[name], ExcludeSeen(), top(6)).fit(data)(Slate(single, items))
    np.testing.assert_array_equal(together.items, alone.items)
    assert list(together.parts) == list(alone.parts)
    there = alone.items != EMPTY
    for part, values in alone.parts.items():
        np.testing.assert_array_equal(together.parts[part][there], values[there])


def test_a_list_is_that_of_a_loop_over_its_members(data: Dataset, ease: GroupStep) -> None:
    satisfaction = [tuple(np.linspace(0, 1, len(group))) for group in MIXED]
    slate = Slate(requests(*MIXED, satisfaction=satisfaction), ITEMS)
    found = ease(slate)
    step, seen = EASE(10).fit(data), data.matrix().toarray() > 0
    for row, group in enumerate(MIXED):
        people = list(dict.fromkeys(group)) if -1 not in group else list(group)
        if len(people) == 1:
            continue
        hidden = seen[[user for user in people if user >= 0]].any(axis=0)
        valid = [item for item in ITEMS if not hidden[item]]
        own = step(Slate(pd.DataFrame({"user": people}), np.array(valid))).scores
        above, same = (
            compared(own[:, None], own[:, :, None]).sum(axis=2)
            for compared in (np.greater, np.equal)
        )
        opinions = 1 - (above + (same - 1) / 2) / (len(valid) - 1)
        count = np.array([seen[user].sum() if user >= 0 else 0 for user in people])
        weight = np.sqrt(1 + count) * np.exp(3 * (0.5 - np.array(satisfaction[row])))
        score = (weight / weight.sum()) @ opinions
        listed = found.items[row] != EMPTY
        value = dict(zip(valid, score, strict=True))
        best = np.sort(score)[::-1][:10]
        np.testing.assert_allclose(found.scores[row, listed], best, atol=1e-5)
        np.testing.assert_allclose([value[i] for i in found.items[row, listed]], best, atol=1e-5)


def test_somebody_named_twice_or_absent_does_not_count(ease: GroupStep) -> None:
    presence = [(1, 1, 1), (1, 1, 0), (1, 0, 0), (0, 1, 1)]
    found = lists(ease, (3, 3, 5), (3, 5, 9), (3, 5, 9), (-1, 3, 5), presence=presence)
    plain = lists(ease, (3, 5), (3,))
    np.testing.assert_array_equal(found, plain[[0, 0, 1, 0]])


def test_guests_count_and_people_without_a_history_are_like_them(data: Dataset) -> None:
    events = data.interactions["user"].to_numpy()
    step = groups_of(EASE(10), weights=(Activity(),)).fit(data.keep(events != 29))
    found = lists(step, (3, -1), (3, 29), (3,), (-1, -1), (29, -1), (-1,))
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[3:], found[[5, 5, 5]])


@pytest.mark.parametrize("name", STRATEGIES)
def test_any_strategy_makes_lists_for_groups_of_all_sizes(name: str, data: Dataset) -> None:
    rng = np.random.default_rng(0)
    groups = [tuple(rng.integers(-1, 30, size=size)) for size in (1, 2, 2, 3, 7, 50)]
    few = data.keep(rng.random(len(data.interactions)) < 0.05)
    step = groups_of(EASE(10), STRATEGIES[name], Percentiles(), ALL_FACTORS, k=8).fit(few)
    slate = step(Slate(requests(*groups), ITEMS))
    seen = few.matrix().toarray() > 0
    for row, group in enumerate(groups):
        hidden = seen[[user for user in group if user >= 0]].any(axis=0)
        listed = slate.items[row][slate.items[row] != EMPTY]
        assert len(listed) == min(8, (~hidden).sum())
        assert len(set(listed)) == len(listed)
        assert not hidden[listed].any()
        assert (slate.items[row, len(listed) :] == EMPTY).all()
        assert (np.diff(slate.scores[row, : len(listed)]) <= 1e-4).all()
    for part in slate.parts.values():
        assert (part[slate.items == EMPTY] == 0).all()
        assert part.dtype == np.float32


def omniscient(data: Dataset) -> Dataset:
    """User 0 has seen everything; user 1 nothing that user 2 has not."""
    seen = data.interactions.iloc[: data.shape[1]].assign(user=0, item=range(data.shape[1]))
    return replace(data, interactions=pd.concat([data.interactions, seen], ignore_index=True))


@pytest.mark.parametrize("name", STRATEGIES)
def test_where_nothing_is_left_lists_are_empty(name: str, data: Dataset) -> None:
    step = groups_of(EASE(10), STRATEGIES[name], k=4).fit(omniscient(data))
    slate = step(Slate(requests((0, 1), (0,), (0, -1, 2), (3, 4)), ITEMS))
    np.testing.assert_array_equal(slate.items[:3], np.full((3, 4), EMPTY))
    assert (slate.items[3] != EMPTY).any()
    assert (slate.scores[:3] == -np.inf).all()
    assert all((part[slate.items == EMPTY] == 0).all() for part in slate.parts.values())


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_candidates_or_no_requests_are_no_lists(name: str, data: Dataset) -> None:
    step = groups_of(EASE(10), STRATEGIES[name], k=4).fit(data)
    frame = requests((0, 1), (2,))
    assert step(Slate(frame, ITEMS[:0])).items.shape == (2, 0)
    none = Slate(frame.iloc[:0], ITEMS)
    assert step(none).items.shape == (0, 4)
    assert recommend(step, frame.iloc[:0], ITEMS).items.shape == (0, 4)
    slate = Slate(frame, ITEMS)
    some = step.views(slate, step(slate))
    for empty in (none, Slate(frame, ITEMS[:0])):
        views = step.views(empty, step(empty))
        assert len(views) == 0
        assert list(views) == list(some)


# ------------------------------------------------------------------ batches


@pytest.mark.parametrize("name", ["average", "nash", "turns", "plurality", "pareto-x"])
@pytest.mark.parametrize("own_candidates", [False, True])
def test_chunks_and_the_order_of_requests_do_not_change_lists(
    name: str, own_candidates: bool, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = groups_of(STAGES["context"], STRATEGIES[name], weights=ALL_FACTORS).fit(data)
    weather = np.resize(["rainy", "sunny", "snowy"], len(MIXED))
    frame = requests(*MIXED, weather=weather)
    rng = np.random.default_rng(0)
    items = np.stack([rng.permutation(40)[:30] for _ in MIXED]) if own_candidates else ITEMS
    whole = step(Slate(frame, items))
    for cells in (1, 90):
        assert_same(recommend(step, frame, items, cells), whole)
    order = rng.permutation(len(MIXED))
    mixed = step(Slate(frame.iloc[order], items[order] if own_candidates else items))
    parts = {part: values[order] for part, values in whole.parts.items()}
    assert_same(mixed, Slate(mixed.requests, whole.items[order], parts))
    monkeypatch.setattr("firetv.groups.CHUNK_CELLS", 1)
    assert_same(step(Slate(frame, items)), whole)


def test_slates_are_not_written_to(ease: GroupStep) -> None:
    frame, items = requests(*MIXED), ITEMS.copy()
    before = frame.copy(deep=True)
    items.flags.writeable = False
    slate = Slate(frame, items)
    made = ease(slate)
    pd.testing.assert_frame_equal(frame, before)
    assert slate.parts == {}
    assert made.requests is frame


@pytest.mark.parametrize("name", STAGES)
def test_a_refitted_stage_and_one_that_was_stored_give_the_same_lists(
    name: str, data: Dataset
) -> None:
    stage = ForGroups(STAGES[name], scale=Chances(liked=3), weights=ALL_FACTORS, seed=3)
    slate = Slate(requests(*MIXED), ITEMS)
    step = stage.fit(data)
    for other in (stage.fit(data), pickle.loads(pickle.dumps(step))):
        one, two = step(slate), other(slate)
        np.testing.assert_array_equal(one.items, two.items)
        np.testing.assert_array_equal(one.scores, two.scores)


def test_the_seed_is_that_of_the_stage_and_the_scale(data: Dataset) -> None:
    stage = ForGroups(chain(Random(), top(10**6)), scale=Chances(liked=3), seed=5)
    fitted = replace(stage, member=Random()).fit(data)
    scale = Chances(liked=3, seed=5).fit_after(chain(Random(5)), data)
    np.testing.assert_array_equal(fitted.scale.weights, scale.weights)
    alone = chain(Random(5), ExcludeSeen(), top(10)).fit(data)
    expected = alone(Slate(pd.DataFrame({"user": [4]}), ITEMS)).items
    np.testing.assert_array_equal(lists(fitted, (4,)), expected)


def test_several_strategies_share_what_members_think(data: Dataset) -> None:
    stage = groups_of(EASE(10), weights=(Activity(),))
    slate = Slate(requests(*MIXED), ITEMS)
    made = stage.fit(data).lists(slate, STRATEGIES)
    assert list(made) == list(STRATEGIES)
    for name, strategy in STRATEGIES.items():
        assert_same(made[name], replace(stage, strategy=strategy).fit(data)(slate))


# ------------------------------------------------------------------ the ledger


def test_parts_are_of_members_and_of_what_changed_their_weights(data: Dataset) -> None:
    step = groups_of(EASE(10), weights=(Activity(), Presence())).fit(data)
    plain = groups_of(EASE(10)).fit(data)
    groups, presence = ((0, 1), (3, 4, 7)), [(1, 0.5), (0.2, 1, 1)]
    slate = Slate(requests(*groups, presence=presence), ITEMS)
    made = step(slate)
    names = [part_of(m, factor) for m in (1, 2, 3) for factor in ("", "activity", "presence")]
    assert set(made.parts) == set(names)
    assert set(plain(slate).parts) == {"member:1", "member:2", "member:3"}
    views = step.views(slate, made).set_index(["request", "member", "item"])
    count = data.user_counts
    for row, group in enumerate(groups):
        active = np.sqrt(1 + count[list(group)])
        both = active * presence[row]
        activity, weight = active / active.sum(), both / both.sum()
        for place, item in enumerate(made.items[row]):
            for m in range(len(group)):
                view = views.loc[(row, m + 1, item)]
                assert view["weight"] == pytest.approx(weight[m], rel=1e-5)
                expected = 1 / len(group), activity[m] - 1 / len(group), weight[m] - activity[m]
                for factor, part in zip(("", "activity", "presence"), expected, strict=True):
                    value = made.parts[part_of(m + 1, factor)][row, place]
                    assert value == pytest.approx(view["opinion"] * part, abs=1e-6)
    for factor in ("", "activity", "presence"):  # there is no third member in the first group
        assert not made.parts[part_of(3, factor)][0].any()


UNWEIGHTED = ("without-misery", "turns", "epfuzzda")


@pytest.mark.parametrize("name", STRATEGIES)
def test_factors_have_parts_where_shares_are_proportional_to_weights(
    name: str, data: Dataset
) -> None:
    stage = groups_of(EASE(10), STRATEGIES[name], weights=(Activity(), Presence()))
    slate = Slate(requests((0, 1), (3, 4), presence=[(1, 0.5), (0.2, 1)]), ITEMS)
    step = stage.fit(data)
    made = step(slate)
    if GROUP in made.parts:
        assert set(made.parts) <= {GROUP, TURN}
        return
    factors = ("",) if name in UNWEIGHTED else ("", "activity", "presence")
    parts = {part_of(member, factor) for member in (1, 2) for factor in factors}
    assert set(made.parts) - {TURN} == parts
    for part in step.members(slate):
        panel, changes = weigh(step.panel(part), step.factors)
        chosen = STRATEGIES[name](panel, step.k)
        for m in (0, 1):
            own = [made.parts[part_of(m + 1, factor)] for factor in factors]
            np.testing.assert_allclose(sum(own), chosen.shares[:, m], rtol=1e-5, atol=1e-6)
            for factor, values in zip(factors[1:], own[1:], strict=True):
                each = changes[factor][:, [m]] / panel.weights[:, [m]]
                np.testing.assert_allclose(values, each * chosen.shares[:, m], rtol=1e-4, atol=1e-6)


def test_equal_scores_are_equal_places(data: Dataset) -> None:
    """All titles are the same to strangers of whom nobody knows anything."""
    none = data.keep(np.zeros(len(data.interactions), bool))
    step = groups_of(EASE(10), k=40).fit(none)
    slate = Slate(requests((-1, -1), (0, 1)), ITEMS)
    views = step.views(slate, step(slate))
    assert (views["rank"] == 1 + 39 // 2).all()
    assert (views["opinion"] == 0.5).all()


@pytest.mark.parametrize("scale", ["percentiles", "chances"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_parts_sum_to_scores_that_do_not_rise(name: str, scale: str, data: Dataset) -> None:
    step = groups_of(EASE(10), STRATEGIES[name], SCALES[scale], ALL_FACTORS).fit(data)
    frame = requests(*MIXED, satisfaction=[tuple([0.2, 0.9, 0.4, np.nan][: len(g)]) for g in MIXED])
    made = step(Slate(frame, ITEMS))
    for row, items in zip(made.scores, made.items, strict=True):
        assert (np.diff(row[items != EMPTY]) <= 1e-4).all()
    of_members = {part for part in made.parts if part.startswith("member:")}
    assert {"taste", "popularity"} <= set(made.parts)  # groups of one
    assert bool(of_members) != (GROUP in made.parts)
    assert set(made.parts) <= {"taste", "popularity", GROUP, TURN} | of_members


# ------------------------------------------------------------------ context and friends


@pytest.mark.parametrize("strategy", [Average(), LeastMisery()])
def test_context_counts_before_members_are_joined(strategy: Strategy, data: Dataset) -> None:
    """As it would for each member alone, each request with its own."""
    stage = chain(EASE(10), ContextBoost("rules", strength=1.0))
    step = groups_of(stage, strategy, Standardised()).fit(data)
    weather = ["rainy", "sunny", None]
    slate = Slate(requests((0, 1), (0, 1), (0, 1), weather=weather), ITEMS)
    slate = replace(slate, requests=slate.requests.assign(at=slate.requests["at"].iloc[0]))
    made, member = step(slate), stage.fit(data)
    assert not np.array_equal(made.scores[0], made.scores[1])
    assert not np.array_equal(made.scores[0], made.scores[2])
    hidden = (data.matrix().toarray()[[0, 1]] > 0).any(axis=0)
    new = ITEMS[~hidden[ITEMS]]
    for row in range(3):
        own = slate.requests.drop(columns="members").iloc[[row, row]].assign(user=[0, 1])
        scores = member(Slate(own, new)).scores.astype(float)
        assert (np.ptp(scores, axis=1) > 0).all()
        opinions = (scores - scores.mean(axis=1, keepdims=True)) / scores.std(axis=1)[:, None]
        joined = opinions.mean(axis=0) if strategy == Average() else opinions.min(axis=0)
        np.testing.assert_allclose(made.scores[row], np.sort(joined)[::-1][:10], atol=1e-3)


def test_the_weather_changes_a_list(data: Dataset) -> None:
    step = groups_of(chain(EASE(10), ContextBoost("rules", strength=10.0))).fit(data)
    found = lists(step, (0, 1), (0, 1), weather=["rainy", "cloudy"])
    comedies = [(data.content["genres"].str[0][row] == "Comedy").sum() for row in found]
    assert comedies[0] > comedies[1]


def test_friends_change_a_list_and_are_named(data: Dataset) -> None:
    plain = groups_of(EASE(10)).fit(data)
    step = groups_of(chain(EASE(10), FriendBoost(strength=20.0))).fit(data)
    slate = Slate(requests((0, 7), (5, 7)), ITEMS)  # user 0 has a friend
    found = step(slate)
    assert not np.array_equal(found.items[0], plain(slate).items[0])
    np.testing.assert_array_equal(found.items[1], plain(slate).items[1])
    views = step.views(slate, found)
    because = views.groupby("user")["because"].agg(set)
    assert "friends" in because[0]
    assert because[5] == {"taste"}


# ------------------------------------------------------------------ what may be shown


@pytest.mark.parametrize("unseen", ["all", "some", "off"])
@pytest.mark.parametrize("own_candidates", [False, True])
def test_titles_are_new_to_all_to_some_or_need_not_be(
    unseen: str, own_candidates: bool, data: Dataset
) -> None:
    step = groups_of(EASE(10), unseen=unseen, k=40).fit(data)
    groups = [(0, 1), (2,), (3, 4, -1), (-1,)]
    items = np.stack([np.roll(ITEMS, n) for n in range(4)]) if own_candidates else ITEMS
    made = step(Slate(requests(*groups), items)).items
    seen = np.vstack([data.matrix().toarray() > 0, np.zeros((1, 40), bool)])  # guests last
    for row, group in enumerate(groups):
        hidden = {"all": seen[list(group)].any(axis=0), "some": seen[list(group)].all(axis=0)}
        hidden = hidden.get(unseen, np.zeros(40, bool))
        assert sorted(made[row][made[row] != EMPTY]) == np.flatnonzero(~hidden).tolist()


def test_with_a_child_only_what_is_for_children_is_shown(data: Dataset) -> None:
    ages = pd.array([8, *[40] * 29], "Int64")
    home = replace(data, users=data.users.assign(age=ages))
    suitable = Suitability(content_types=("series",), genres=())
    step = groups_of(EASE(10), suitability=suitable, k=40).fit(home)
    made = lists(step, (0, 1), (1, 2), (0,), (0, -1))
    series = np.arange(40) % 5 == 0
    seen = data.matrix().toarray() > 0
    for row, users in ((0, [0, 1]), (2, [0]), (3, [0])):
        expected = np.flatnonzero(series & ~seen[users].any(axis=0))
        assert sorted(made[row][made[row] != EMPTY]) == expected.tolist()
    assert (~series[made[1][made[1] != EMPTY]]).any()


def test_empty_slots_of_candidates_stay_empty(data: Dataset, ease: GroupStep) -> None:
    items = np.stack([np.where((ITEMS + n) % 3 == 0, EMPTY, ITEMS) for n in range(3)])
    made = ease(Slate(requests((0, 1), (2,), (3, 4, 5)), items)).items
    for row in range(3):
        listed = made[row][made[row] != EMPTY]
        assert len(listed)
        assert ((listed + row) % 3).all()


@pytest.mark.parametrize("own_candidates", [False, True])
@pytest.mark.parametrize("kept", [5, 40])
def test_a_stage_that_drops_or_sorts_candidates_is_refused(
    own_candidates: bool, kept: int, data: Dataset
) -> None:
    step = groups_of(chain(EASE(10), top(kept))).fit(data)
    items = np.stack([ITEMS, ITEMS[::-1]]) if own_candidates else ITEMS
    with pytest.raises(ValueError, match="the member's stage"):
        step(Slate(requests((0, 1), (2,)), items))


@pytest.mark.parametrize("own_candidates", [False, True])
def test_a_stage_may_empty_slots(own_candidates: bool, data: Dataset) -> None:
    items = np.stack([ITEMS, ITEMS[::-1]]) if own_candidates else ITEMS
    slate = Slate(requests((0, 1), (2,)), items)
    made = [
        groups_of(stage).fit(data)(slate) for stage in (EASE(10), chain(EASE(10), ExcludeSeen()))
    ]
    assert_same(*made)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"unseen": "none"}, "unseen 'none'"),
        ({"k": 0}, "k 0"),
        ({"weights": (Activity(0.5), Activity(1.0))}, "activity"),
    ],
)
def test_parameters_out_of_range_are_refused(fields: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ForGroups(EASE(10), **fields)


def test_requests_that_make_no_sense_are_refused(ease: GroupStep) -> None:
    with pytest.raises(ValueError, match="groups have nobody"):
        lists(ease, (0, 1), ())
    with pytest.raises(ValueError, match="column members"):
        ease(Slate(pd.DataFrame({"user": [1]}), ITEMS))


# ------------------------------------------------------------------ views


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("own_candidates", [False, True])
def test_views_are_what_each_member_thinks(scale: str, own_candidates: bool, data: Dataset) -> None:
    stage = chain(EASE(10), ContextBoost("rules", strength=5.0))
    fitted = groups_of(stage, scale=SCALES[scale], weights=(Expertise(),), k=5).fit(data)
    member = stage.fit(data)
    rng = np.random.default_rng(1)
    groups = [(7, 3, -1), (0, 1), (2,), (4, 4, 9), (-1,), (5, -1)]
    items = np.stack([rng.permutation(40)[:30] for _ in groups]) if own_candidates else ITEMS
    slate = Slate(requests(*groups, weather=["rainy"] * 6), items)
    made = fitted(slate)
    views = fitted.views(slate, made)
    seen = np.vstack([data.matrix().toarray() > 0, np.zeros((1, 40), bool)])
    popular = np.argsort(-seen.sum(axis=0), kind="stable")  # fewer than a hundred: all of them
    rows = []
    for row, group in enumerate(groups):
        people = list(dict.fromkeys(group))
        new = [item for item in slate.grid[row] if not seen[people, item].any()]
        expertise = np.array([0.1 + seen[user, popular].mean() for user in people])
        listed = [item for item in made.items[row] if item != EMPTY]
        for number, user in enumerate(people):
            frame = slate.requests.drop(columns="members").iloc[[row]].assign(user=user)
            own = member(Slate(frame, np.array(new)))
            score = dict(zip(new, own.scores[0], strict=True))
            opinions = fitted.scale(np.array([user]), own.scores, np.ones((1, len(new)), bool))
            for item in listed:
                place = new.index(item)
                lifts = {n: p[0, place] - p[0].mean(dtype=float) for n, p in own.parts.items()}
                lifts = {n: lift for n, lift in lifts.items() if np.ptp(own.parts[n]) > 0}
                above = sum(score[other] > score[item] for other in new)
                same = sum(score[other] == score[item] for other in new)
                rank = 1 + above + (same - 1) // 2  # the mean place, rounded down
                weight = expertise[number] / expertise.sum()
                because = max(lifts, key=lifts.get)
                rows.append(
                    (row, number + 1, user, item, opinions[0, place], rank, weight, because)
                )
    expected = pd.DataFrame(rows, columns=list(views))
    pd.testing.assert_frame_equal(views, expected, check_dtype=False, rtol=1e-4, atol=1e-5)


def test_a_reason_does_not_depend_on_who_else_asks(data: Dataset) -> None:
    """A part that others have, such as a stranger's fallback, is nobody else's reason."""
    step = groups_of(EASE(10), k=40).fit(data)
    for others in ([], [(4, -1)]):
        slate = Slate(requests((0, 1), *others), ITEMS)
        views = step.views(slate, step(slate))
        reasons = views.groupby("user")["because"].agg(set)
        assert reasons[0] == reasons[1] == {"taste"}
    assert reasons[-1] == {"popularity"}
