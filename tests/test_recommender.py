"""The assembled object against the plain chain of its steps, and against itself after a journey."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import make_rich_tables

from firetv import recommender as module
from firetv import storage
from firetv.context import ContextBoost
from firetv.data import Dataset
from firetv.groups import ForGroups
from firetv.lists import Newcomer
from firetv.models import ALS, EASE, ItemKNN, LightFM, Popular
from firetv.moments import Clock, Context
from firetv.newcomers import Newcomers
from firetv.notifications import notify
from firetv.packaged import packaged
from firetv.ranking import Logit, Ranker
from firetv.recommender import BASE, LONGEST, Kept, Recommender
from firetv.schema import DataError
from firetv.slate import EMPTY, ExcludeSeen, Pipeline, Slate, Stage, chain, recommend, top
from firetv.social import FriendBoost
from firetv.weighting import Weighted

HYBRID = LightFM(components=8, epochs=10, use_user_features=True, use_item_features=True)
BLEND = Ranker(
    {"ease": EASE(reg=10), "als": ALS(components=4, reg=1.0), "lightfm": HYBRID},
    learner=Logit(l2=1.0, nonnegative=True), folds=4, rounds=1,
)  # fmt: skip
ZONES = Clock("Europe/Berlin", {"north": "Asia/Tokyo"}, country="DE")
EVERYTHING = ContextBoost(
    "learned", items=True, personal=True, joint=True, strength=0.8, clock=ZONES
)
KINDS: dict[str, tuple[Stage, ContextBoost | None, FriendBoost | None]] = {
    "ease": (EASE(reg=10), EVERYTHING, FriendBoost(strength=0.5)),
    "als": (ALS(components=4, reg=1.0), ContextBoost("rules", strength=1.0), FriendBoost()),
    "lightfm": (
        HYBRID,
        ContextBoost(personal=True, clock=ZONES),  # whose strength is learned
        FriendBoost(strength=0.5, half_life=20.0),
    ),
    "itemknn": (ItemKNN(), None, FriendBoost(strength=0.5)),
    "taste": (EASE(reg=10), None, None),
    "blend": (BLEND, ContextBoost("rules", strength=1.0), FriendBoost(strength=0.5)),
    "moments": (HYBRID, replace(EVERYTHING, strength=1.0, mode="rules+learned"), None),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
BEFORE, AFTER = pd.Timestamp("2024-02-10T20:15Z"), pd.Timestamp("2024-12-25T09:05+01:00")
CONTEXTS = [
    Context(),
    Context(BEFORE, weather="rainy"),
    Context(AFTER),
    Context(AFTER, companion="family", region="north"),
    Context(weather="sunny", festival="Christmas"),
    Context(daypart="evening"),
    Context(AFTER, daypart="", festival="none"),
    Context(BEFORE),
]
LATER = [each for each in CONTEXTS if each.at is None or each.at > BEFORE]
PEOPLE: list[str | Newcomer] = [
    "user0", "user7", "nobody", "user27", "user29", "user4", "user0",
    Newcomer(("content3", "content8")), Newcomer(("content3",), {"age": "31", "plan": "gold"}),
    Newcomer((), {"gender": "f", "region": "north"}), Newcomer(), Newcomer(("content36",)),
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(rich: Dataset) -> dict[str, Recommender]:
    return {kind: Recommender.train(rich, *layers, seed=3) for kind, layers in KINDS.items()}


@pytest.fixture
def forgetful(trained: dict[str, Recommender]) -> Callable[[str], Recommender]:
    """A copy of a recommender that has kept nothing yet."""
    return lambda kind: replace(trained[kind])


# Lists


@every_kind
@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_lists_are_those_of_the_plain_chain(
    kind: str, context: Context, rich: Dataset, forgetful: Callable[[str], Recommender]
) -> None:
    made = forgetful(kind)
    users = np.array([0, 7, 27, 29, 4, -1])
    plain = Pipeline((*made.steps, ExcludeSeen().fit(rich), top(12)))
    expected = recommend(plain, context.requests(users), made.candidates)
    names = [rich.user_ids[code] if code >= 0 else "nobody" for code in users]
    for _ in range(2):  # anew, and from what is kept
        found = made.recommend(names, context, 12).slate
        np.testing.assert_array_equal(found.grid, expected.grid)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
        for part in {*found.parts, *expected.parts}:
            there, other = (s.parts.get(part, np.zeros(s.shape)) for s in (found, expected))
            np.testing.assert_allclose(there, other, rtol=1e-3, atol=1e-5)


def test_layers_are_those_of_a_chain_of_stages(
    rich: Dataset, trained: dict[str, Recommender]
) -> None:
    for kind in ("ease", "lightfm"):
        base, context, friends = KINDS[kind]
        stages = (replace(each, seed=3) for each in (Newcomers(base), friends, context))
        requests = CONTEXTS[1].requests(np.array([0, 7, -1]))
        slate = Slate(requests, trained[kind].candidates)
        expected = chain(*stages).fit(rich)(slate)
        found = Pipeline(trained[kind].steps)(slate)
        assert list(found.parts) == list(expected.parts)
        np.testing.assert_array_equal(found.scores, expected.scores)


@every_kind
def test_requests_together_are_answered_as_each_alone(
    kind: str, forgetful: Callable[[str], Recommender]
) -> None:
    rng = np.random.default_rng(0)
    contexts = [CONTEXTS[n] for n in rng.integers(len(CONTEXTS), size=3 * len(PEOPLE))]
    people = [PEOPLE[n] for n in rng.permutation(3 * len(PEOPLE)) % len(PEOPLE)]
    together = forgetful(kind).recommend(people, contexts, 30, explain=True)
    made = forgetful(kind)
    for row, (person, context) in enumerate(zip(people, contexts, strict=True)):
        k = [1, 10, 30][row % 3]
        alone = made.recommend([person], context, k, explain=True)
        np.testing.assert_array_equal(alone.slate.grid[0], together.slate.grid[row, :k])
        scores = alone.slate.scores[0]
        np.testing.assert_allclose(scores, together.slate.scores[row, :k], rtol=1e-3, atol=1e-4)
        assert alone.basis[0] == together.basis[row]
        for one, other in zip(alone.reasons[0], together.reasons[row][:k], strict=True):
            assert [reason.text for reason in one] == [reason.text for reason in other]


@every_kind
def test_what_is_kept_changes_nothing(
    kind: str, forgetful: Callable[[str], Recommender], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, users = forgetful(kind), [f"user{n}" for n in range(30)]
    fresh = {context: forgetful(kind).recommend(users, context, 8) for context in CONTEXTS}
    for context in CONTEXTS * 2:
        for some in (users[:11], users[5:], users[::-3], [users[0], users[0]]):
            found = made.recommend(some, context, 8).slate
            rows = [users.index(name) for name in some]
            np.testing.assert_array_equal(found.grid, fresh[context].slate.grid[rows])
            expected = fresh[context].slate.scores[rows]
            np.testing.assert_allclose(found.scores, expected, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(module, "MOST_AT_ONCE", 0)
    unkept = forgetful(kind).recommend(users, LATER[1], 8)
    np.testing.assert_array_equal(unkept.slate.grid, fresh[LATER[1]].slate.grid)


def test_candidates_of_people_who_asked_are_scored_once(
    forgetful: Callable[[str], Recommender], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[int] = []
    score = Recommender._score

    def counted(self: Recommender, requests: pd.DataFrame) -> Slate:
        scored.extend(requests["user"])
        return score(self, requests)

    monkeypatch.setattr(Recommender, "_score", counted)
    made = forgetful("ease")
    made.recommend(["user0", "user1", "user0"], CONTEXTS[2])
    made.recommend(["user1", "user2", "user0"], CONTEXTS[5])
    assert scored == [0, 1, 2]
    made.recommend(["user1"], CONTEXTS[1])  # before the last event of friends
    made.recommend(["user1", Newcomer(("content3",))])
    made.recommend(["user1", "nobody"])
    assert scored == [0, 1, 2, 1, 1, -1, 1, -1]
    fading = forgetful("lightfm")
    fading.recommend(["user1"], CONTEXTS[2])
    fading.recommend(["user1"], CONTEXTS[2])
    assert scored[8:] == [1, 1]


def test_no_more_people_are_kept_than_may_be() -> None:
    kept, asked = Kept(3), []

    def score(requests: pd.DataFrame) -> Slate:
        asked.append(requests["user"].tolist())
        users = requests["user"].to_numpy()
        return Slate(requests, np.tile(np.arange(2), (len(users), 1))).add(
            "taste", np.stack([users, users], axis=1).astype(np.float32)
        )

    for users in ([1, 2], [3, 2], [4, 1], [5, 6, 7, 8], [8, 7, 8], [5]):
        slate = kept.of(np.array(users), score)
        assert slate.parts["taste"][:, 0].tolist() == users
        assert slate.users.tolist() == users
        assert len(kept.rows) <= 3
    assert asked == [[1, 2], [3], [4], [5, 6, 7, 8], [5]]


def test_chunks_change_nothing(
    forgetful: Callable[[str], Recommender], monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = [CONTEXTS[n % len(CONTEXTS)] for n in range(len(PEOPLE))]
    whole = forgetful("moments").recommend(PEOPLE, contexts, 9, explain=True)
    monkeypatch.setattr(module, "CHUNK_CELLS", 100)
    small = forgetful("moments").recommend(PEOPLE, contexts, 9, explain=True)
    np.testing.assert_array_equal(small.slate.grid, whole.slate.grid)
    np.testing.assert_allclose(small.slate.scores, whole.slate.scores, rtol=1e-4, atol=1e-5)
    assert "right for" in " ".join(whole.to_frame()["why"])
    assert len(small.reasons) == len(whole.reasons) == len(PEOPLE)
    assert small.to_frame()["why"].tolist() == whole.to_frame()["why"].tolist()


def test_only_what_friends_did_before_counts(
    rich: Dataset, trained: dict[str, Recommender]
) -> None:
    events = rich.interactions[rich.interactions["timestamp"] < BEFORE]
    early, users = replace(rich, interactions=events), [f"user{n}" for n in range(27)]
    made = trained["itemknn"]
    lift = replace(made.friends.lift, activity=type(made.friends.lift.activity).of(early))
    blind = replace(made, friends=replace(made.friends, lift=lift))
    found = made.recommend(users, Context(BEFORE), 20).slate
    expected = blind.recommend(users, Context(BEFORE), 20).slate
    np.testing.assert_allclose(found.parts["friends"], expected.parts["friends"], atol=1e-5)
    later = made.recommend(users, Context(AFTER), 20).slate
    assert (later.parts["friends"] != found.parts["friends"]).any()
    exact = made._requests(["user0", "nobody"], [Context(BEFORE), Context()])["at"]
    assert exact.tolist() == [BEFORE, pd.NaT]


@every_kind
def test_who_is_known_by_what(kind: str, trained: dict[str, Recommender]) -> None:
    vectors = trained[kind].base.fold is not None
    profile = "profile" if vectors else "popularity"
    assert trained[kind].recommend(PEOPLE).basis == (
        "history", "history", "popularity", profile, "popularity", "history", "history",
        "liked titles", "liked titles", profile, "popularity", "popularity",
    )  # fmt: skip
    assert trained[kind].recommend([]).basis == ()
    assert trained[kind].recommend([], explain=True).to_frame().empty


@every_kind
def test_lists_hold_each_unseen_candidate_once(
    kind: str, rich: Dataset, trained: dict[str, Recommender]
) -> None:
    made = trained[kind]
    slate = made.recommend(PEOPLE, k=LONGEST).slate
    described = made.base.fold is not None
    assert made.candidates.tolist() == list(range(39 if described else 36))
    for row, person in enumerate(PEOPLE):
        hidden = set(np.flatnonzero(rich.matrix().toarray()[slate.users[row]]))
        if slate.users[row] < 0:
            liked = person.liked if isinstance(person, Newcomer) else ()
            hidden = set(rich.item_ids.get_indexer(list(liked)))
        listed = slate.grid[row][slate.grid[row] != EMPTY].tolist()
        assert sorted(listed) == [i for i in made.candidates if i not in hidden]
        assert (slate.grid[row][len(listed) :] == EMPTY).all()
        assert (np.diff(slate.scores[row][: len(listed)]) <= 1e-6).all()


def test_lists_are_laid_out_with_a_row_for_each_title(
    rich: Dataset, trained: dict[str, Recommender]
) -> None:
    found = trained["ease"].recommend(["user0", "nobody"], k=LONGEST, explain=True)
    frame = found.to_frame()
    assert list(frame) == ["request", "rank", "content_id", "title", "score", "why"]
    for request, own in frame.groupby("request"):
        items = found.slate.grid[request][found.slate.grid[request] != EMPTY]
        assert own["rank"].tolist() == list(range(1, len(items) + 1))
        assert own["content_id"].tolist() == rich.item_ids[items].tolist()
        assert own["title"].tolist() == rich.content["title"].iloc[items].tolist()
        np.testing.assert_array_equal(own["score"], found.slate.scores[request][: len(items)])
        told = ["; ".join(each.text for each in slot) for slot in found.reasons[request]]
        assert own["why"].tolist() == told[: len(items)]
    assert "why" not in trained["ease"].recommend(["user0"]).to_frame()


@pytest.mark.parametrize(
    ("people", "context", "k", "message"),
    [
        (["user0"], Context(), 0, r"k 0 is not of 1 to 100"),
        (["user0"], Context(), 101, r"k 101 is not of 1 to 100"),
        (["user0"], [Context()] * 2, 5, "2 contexts for 1 people"),
        ([Newcomer(("content1", "Alien", "x"))], Context(), 5, "no titles Alien, x among 40"),
        ([Newcomer((), {"shoes": 1})], Context(), 5, "a profile has no shoes: the columns are age"),
        ([Newcomer((), {"name": "Ana"})], Context(), 5, "a profile has no name"),
        ([Newcomer((), {"age": "old"})], Context(), 5, "age 'old' is not a number"),
        ([Newcomer((), {"age": float("nan")})], Context(), 5, "age nan is not a finite number"),
    ],
)
def test_what_cannot_be_asked_is_named(
    people: list, context: Context, k: int, message: str, trained: dict[str, Recommender]
) -> None:
    with pytest.raises(ValueError, match=message):
        trained["lightfm"].recommend(people, context, k)


def test_liked_titles_and_profiles_count(trained: dict[str, Recommender]) -> None:
    made = trained["lightfm"]
    several = [
        Newcomer(), Newcomer((), {"age": 30}), Newcomer((), {"age": 70}), Newcomer(("content3",)),
        Newcomer(("content3",), {"age": 70}), Newcomer(("content8",)),
    ]  # fmt: skip
    scores = made.recommend(several, k=30).slate
    assert len({tuple(row) for row in scores.scores.tolist()}) == len(several)
    repeated = made.recommend([Newcomer(("content3", "content3"))], k=30).slate
    np.testing.assert_allclose(repeated.scores[0], scores.scores[3], rtol=1e-5)


def test_a_new_title_with_metadata_is_scored_and_listed(rich: Dataset) -> None:
    content = pd.concat([rich.content, rich.content.iloc[[2]]], ignore_index=True)
    content.loc[40, ["content_id", "title"]] = ["new", "New"]
    more = Dataset(
        rich.user_ids, rich.item_ids.append(pd.Index(["new"])), rich.users, content,
        rich.interactions, rich.reactions,
    )  # fmt: skip
    made = Recommender.train(more, HYBRID, None, None)
    slate = made.recommend(["user0", "user1"], k=100).slate
    assert (slate.grid == 40).any(axis=1).all()
    assert {"new", "New"} <= set(made.recommend(["user0"], k=100).to_frame().iloc[:, 2:4].stack())
    assert "new" not in made.recommend(["nobody"], k=36).to_frame()["content_id"].tolist()
    alike = made.similar("new", 10)["content_id"].str.removeprefix("content").astype(int)
    assert (alike % 2 == 0).all()  # as content2, whose metadata it has


# Titles, groups, notifications


@every_kind
def test_similar_titles_are_others_best_first(
    kind: str, rich: Dataset, trained: dict[str, Recommender]
) -> None:
    made = trained[kind]
    found = made.similar("content4", 100)
    codes = rich.item_ids.get_indexer(found["content_id"])
    assert sorted(codes) == [code for code in made.candidates if code != 4]
    assert (np.diff(found["similarity"]) <= 0).all()
    assert found["title"].tolist() == [f"Title {code}" for code in codes]
    if kind == "blend":
        expected = made.base.likeness(4, codes)
        np.testing.assert_allclose(found["similarity"], expected, rtol=1e-6, atol=1e-12)
    elif made.base.fold is None:
        weights = made.base.model.weights[[4]]
        weights = np.asarray(weights if isinstance(weights, np.ndarray) else weights.toarray())[0]
        np.testing.assert_allclose(found["similarity"], weights[codes], rtol=1e-6)
    else:
        expected = [made.base.fold.likeness(4, np.array([code]))[0] for code in codes]
        np.testing.assert_allclose(found["similarity"], expected, rtol=1e-6)
    assert made.similar("content4", 3)["content_id"].tolist() == found["content_id"].tolist()[:3]


def test_two_tastes_show_in_similar_titles(trained: dict[str, Recommender]) -> None:
    for kind in ("ease", "als", "itemknn"):
        found = trained[kind].similar("content4", 8)["content_id"].str.removeprefix("content")
        assert (found.astype(int) % 2 == 0).mean() > 0.6


@pytest.mark.parametrize(
    ("content", "k", "message"),
    [("Alien", 3, "'Alien' is not one of the 40 titles"), ("content1", 0, "k 0 is not of 1 to")],
)
def test_what_is_no_title_has_no_similar_ones(
    content: str, k: int, message: str, trained: dict[str, Recommender]
) -> None:
    with pytest.raises(ValueError, match=message):
        trained["ease"].similar(content, k)


def test_a_group_of_one_gets_their_own_list(trained: dict[str, Recommender]) -> None:
    for kind in KINDS:
        for context in (CONTEXTS[1], CONTEXTS[3]):
            alone = trained[kind].recommend(["user0"], context, 8).slate
            group = trained[kind].recommend_group(["user0"], context, 8).lists
            np.testing.assert_array_equal(group.grid, alone.grid)
            np.testing.assert_allclose(group.scores, alone.scores, rtol=1e-4, atol=1e-5)


def test_a_groups_list_is_that_of_the_stage(rich: Dataset, trained: dict[str, Recommender]) -> None:
    made = trained["taste"]
    stage = ForGroups(Newcomers(EASE(reg=10)), k=7, seed=3)
    request = CONTEXTS[1].requests(np.array([-1])).drop(columns="user").assign(members=[(0, 5, 9)])
    expected = stage.fit(rich)(Slate(request, made.candidates))
    found = made.recommend_group(["user0", "user5", "user9"], CONTEXTS[1], 7)
    np.testing.assert_array_equal(found.lists.grid, expected.grid)
    np.testing.assert_allclose(found.lists.scores, expected.scores, rtol=1e-5)
    assert list(found.table.columns) == ["rank", "title", "why", "Person 0", "Person 5", "Person 9"]
    ids = rich.item_ids[found.lists.grid[found.lists.grid != EMPTY]].tolist()
    assert [record["content_id"] for record in found.records] == ids
    assert json.loads(json.dumps(found.records)) == found.records


def test_guests_sit_beside_members(trained: dict[str, Recommender]) -> None:
    found = trained["lightfm"].recommend_group(["user0", "somebody", "else", "user3"], k=4)
    assert found.views["user"].tolist() == [0] * 4 + [-1] * 8 + [3] * 4
    views = found.records[0]["views"]
    assert [view["user_id"] for view in views] == ["user0", "guest", "guest", "user3"]
    guests = found.views[found.views["user"] < 0]
    assert guests.groupby("item")["opinion"].nunique().eq(1).all()
    assert len(found.table.columns) == 3 + 4
    assert found.table.columns[6] == "user3"  # who has no name


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        ([], {}, "a group has 1 to 50 members, not 0"),
        (["user0"] * 51, {}, "a group has 1 to 50 members, not 51"),
        (["user0"], {"k": 0}, "k 0 is not of 1 to 100"),
        (["user0", "user1"], {"strategy": "coin"}, "'coin' is not one of the strategies: use "),
        (["user0", "user1"], {"weights": ["loud"]}, "'loud' is not one of the weights: use "),
        (["user0", "user1"], {"satisfaction": [1.0]}, "satisfaction"),
        (["user0", "user1"], {"presence": [1.0, 2.0]}, "presence"),
    ],
)
def test_what_cannot_be_asked_for_a_group_is_named(
    members: list[str], options: dict, message: str, trained: dict[str, Recommender]
) -> None:
    with pytest.raises(ValueError, match=message):
        trained["taste"].recommend_group(members, **options)


def test_a_group_that_has_seen_everything_is_told_so(
    rich: Dataset, trained: dict[str, Recommender]
) -> None:
    one = trained["taste"].recommend_group(["user0", "user1"], k=5, unseen="off")
    assert len(one.records) == 5
    events = pd.DataFrame({"user": np.int32(0), "item": np.arange(36, dtype=np.int32)})
    events["timestamp"] = rich.interactions["timestamp"].iloc[0]
    full = replace(rich, interactions=pd.concat([rich.interactions, events], ignore_index=True))
    with pytest.raises(ValueError, match="no title is left to show"):
        replace(trained["taste"], data=full).recommend_group(["user0", "user1"])


def test_who_counts_more_moves_the_list(trained: dict[str, Recommender]) -> None:
    made, members = trained["taste"], ["user0", "user1"]
    options = {"strategy": "average", "k": 10}
    plain = made.recommend_group(members, **options)
    assert plain.views["weight"].eq(0.5).all()
    for more in ({"satisfaction": [0.0, 1.0]}, {"presence": [1.0, 0.2]}):
        moved = made.recommend_group(members, **options, **more)
        weights = moved.views.groupby("member")["weight"].first()
        assert weights[1] > weights[2]
    assert (
        made.recommend_group(members, **options, weights=["activity"]).views["weight"] != 0.5
    ).any()


@pytest.mark.parametrize("kind", ["lightfm", "taste"])
def test_notifications_are_those_of_the_module(
    kind: str, rich: Dataset, trained: dict[str, Recommender]
) -> None:
    made = trained[kind]
    found = made.notifications([*(f"user{n}" for n in range(30)), "nobody"], BEFORE)
    ranking = Pipeline(tuple(step for step in (made.base, made.friends) if step is not None))
    codes = np.append(np.arange(30), -1)
    expected = notify(rich, ranking, made.base, codes, BEFORE, clock=made.clock)
    for name in vars(expected):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(expected, name))
    latest = made.notifications(["user0"])
    assert type(latest) is type(found)


# Training


def test_a_blend_is_described_with_its_models_and_counts_several(
    trained: dict[str, Recommender],
) -> None:
    made = trained["blend"]
    described = made.about["parameters"]["base"]["NewcomersBlend"]["ranker"]["Ranker"]
    assert list(described["models"]) == ["ease", "als", "lightfm"]
    assert described["models"]["ease"]["EASE"]["reg"] == 10
    assert described["learner"]["Logit"]["nonnegative"] is True
    assert len(made.base.weights) > 1
    assert made.recommend(["user0"]).slate.parts.keys() >= {"taste", "friends"}


def test_the_default_base_is_the_tuned_lightfm() -> None:
    assert packaged("lightfm") == BASE
    assert isinstance(BASE, Weighted)
    assert isinstance(BASE.model, LightFM)


def test_layers_that_cannot_be_are_left_out(rich: Dataset) -> None:
    alone = Recommender.train(replace(rich, friends=None), EASE(reg=10), None)
    assert alone.friends is None
    assert alone.context is None
    assert alone.clock == Clock()
    assert len(alone.steps) == 1
    with pytest.raises(ValueError, match="cannot take in newcomers"):
        Recommender.train(rich, Popular(), None, None)


def test_training_is_described_and_repeats(rich: Dataset, trained: dict[str, Recommender]) -> None:
    about = trained["lightfm"].about
    assert about["seed"] == 3
    assert about["data"] | {"checksum": 0} == {
        "name": "rich", "checksum": 0, "users": 30, "titles": 40, "events": 559,
    }  # fmt: skip
    model = about["parameters"]["base"]["Newcomers"]["model"]["LightFM"]
    assert (model["components"], model["seed"]) == (8, 0)
    assert about["parameters"]["friends"]["FriendBoost"]["half_life"] == 20.0
    assert about["parameters"]["context"]["ContextBoost"]["clock"]["zones"] == {
        "north": "Asia/Tokyo"
    }
    assert json.loads(json.dumps(about)) == about
    again = Recommender.train(rich, *KINDS["lightfm"], seed=3)
    assert again.about == about
    ours, theirs = (
        each.recommend(PEOPLE, CONTEXTS[1]).slate for each in (trained["lightfm"], again)
    )
    np.testing.assert_array_equal(ours.scores, theirs.scores)
    other = Recommender.train(rich, *KINDS["lightfm"], seed=4)
    assert (other.recommend(PEOPLE, CONTEXTS[1]).slate.scores != ours.scores).any()


@pytest.mark.parametrize("table", ["interactions", "reactions", "users", "content"])
def test_the_checksum_is_of_every_table(table: str, rich: Dataset) -> None:
    frame = getattr(rich, table)
    changed = replace(rich, **{table: frame.iloc[::-1]})
    assert module.data_of(changed)["checksum"] != module.data_of(rich)["checksum"]


# Journeys

READER = """
import json, sys
from firetv.recommender import Recommender
from test_recommender import CONTEXTS, PEOPLE, KINDS, answers
print(json.dumps({kind: answers(Recommender.load(f"{sys.argv[1]}/{kind}")) for kind in KINDS}))
"""


def answers(made: Recommender) -> dict[str, object]:
    """Everything that a recommender says, in JSON."""
    contexts = [CONTEXTS[n % len(CONTEXTS)] for n in range(len(PEOPLE))]
    found = made.recommend(PEOPLE, contexts, 10, explain=True)
    frame = found.to_frame()
    group = made.recommend_group(["user0", "user5", "guest"], CONTEXTS[1], 5, weights=["likeness"])
    told = made.notifications(["user0", "user1", "user2"], BEFORE)
    return {
        "lists": frame.astype({"score": float}).to_dict("list"),
        "basis": list(found.basis),
        "parts": {name: part.tolist() for name, part in found.slate.parts.items()},
        "group": group.records,
        "similar": made.similar("content4").to_dict("list"),
        "told": [str(vars(told)[name].to_dict()) for name in sorted(vars(told))],
        "about": dict(made.about),
    }


def test_saved_and_loaded_elsewhere_it_says_the_same(
    trained: dict[str, Recommender], tmp_path: Path
) -> None:
    for kind, made in trained.items():
        made.save(tmp_path / kind)
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    for kind, made in trained.items():
        expected = json.loads(json.dumps(answers(made)))
        for name in expected:
            assert found[kind][name] == expected[name], (kind, name)


@every_kind
def test_every_field_comes_back(
    kind: str, rich: Dataset, trained: dict[str, Recommender], tmp_path: Path
) -> None:
    trained[kind].save(tmp_path)
    found = Recommender.load(tmp_path)
    assert found.about == trained[kind].about
    assert found.profiles.names == trained[kind].profiles.names
    assert found.clock == trained[kind].clock
    found.save(tmp_path / "again")
    one, other = (
        {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        for folder in (tmp_path, tmp_path / "again")
    )
    assert one == other  # nothing was lost on the way


def test_what_is_no_recommender_is_not_loaded_as_one(tmp_path: Path) -> None:
    storage.save(tmp_path, Newcomer(("a",)), {})
    with pytest.raises(DataError, match=r"holds no recommender\. Name a folder"):
        Recommender.load(tmp_path)


def test_another_rich_world_has_another_checksum() -> None:
    one, other = (Dataset.from_tables(make_rich_tables(events=n)) for n in (700, 690))
    assert module.data_of(one)["checksum"] != module.data_of(other)["checksum"]
