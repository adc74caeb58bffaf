"""Reasons against what becomes of a score when what they name is taken away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from firetv.context import PREFIX, ContextBoost
from firetv.data import Dataset
from firetv.explain import (
    BESIDE,
    MOST_NAMED,
    MOST_REASONS,
    NEGLIGIBLE,
    NOTICEABLE,
    Explainer,
    Reason,
)
from firetv.features import item_features
from firetv.lists import Newcomer, Recommendations
from firetv.models import ALS, EASE, ItemKNN, LightFM
from firetv.moments import Clock, Context
from firetv.proof import friend_events, sharing, social_proof
from firetv.ranking import Logit, Ranker
from firetv.recommender import Recommender
from firetv.scales import Scales
from firetv.sentences import friends as friends_sentence
from firetv.slate import EMPTY, Slate
from firetv.social import FriendBoost

HYBRID = LightFM(components=8, epochs=15, use_user_features=True, use_item_features=True)
BASES = {
    "ease": EASE(reg=10),
    "itemknn": ItemKNN(),
    "als": ALS(components=4, reg=1.0),
    "lightfm": HYBRID,
    "blend": Ranker(
        {"ease": EASE(reg=10), "itemknn": ItemKNN(), "lightfm": HYBRID},
        learner=Logit(l2=1.0, nonnegative=True),
        folds=4,
        rounds=1,
    ),
}
LINEAR = ("ease", "itemknn")
COUNTS = {"ease": 4.0, "itemknn": 1.0, "als": 30.0, "lightfm": 4.0, "blend": 1.0}
AT = pd.Timestamp("2024-02-20T20:15Z")
MOMENT = Context(AT, weather="rainy", companion="family", festival="Diwali")
CLOCK = Clock(zone="Europe/Berlin")
JOINT = ContextBoost("rules+learned", strength=1.5, joint=True, personal=True, clock=CLOCK)
PEOPLE = [f"user{n}" for n in range(30)]
NEWCOMERS = [
    Newcomer(("content3", "content8", "content5"), {"age": 30, "gender": "f"}),
    Newcomer(("content36",)),
    Newcomer((), {"age": 15}),
    Newcomer(),
]

every_base = pytest.mark.parametrize("name", BASES)


@pytest.fixture(scope="module")
def trained(rich: Dataset) -> dict[str, Recommender]:
    """Recommenders in which taste counts for much, so that it has something to say."""
    found = {}
    for name, base in BASES.items():
        made = Recommender.train(rich, base, JOINT, FriendBoost(strength=0.7))
        scales = Scales({**made.context.scales.upstream, "taste": COUNTS[name]})
        found[name] = replace(made, context=replace(made.context, scales=scales))
    return found


@pytest.fixture(scope="module")
def found(trained: dict[str, Recommender]) -> dict[str, Recommendations]:
    everybody = [*PEOPLE, *NEWCOMERS]
    return {n: r.recommend(everybody, MOMENT, 100, explain=True) for n, r in trained.items()}


def reasons_of(found: Recommendations, *kinds: str) -> Iterator[tuple[int, int, Reason]]:
    """All reasons, or those of some kinds, with request and slot; at least one."""
    told = [
        (row, slot, reason)
        for row, slots in enumerate(found.reasons)
        for slot, reasons in enumerate(slots)
        for reason in reasons
        if not kinds or reason.kind in kinds
    ]
    assert told
    yield from told


def some_of(told: Iterator[tuple[int, int, Reason]]) -> list[tuple[int, int, Reason]]:
    """A few of them, of all requests, for what takes its time."""
    told = list(told)
    return told[:: 1 + len(told) // 40]


def scored_at(recommender: Recommender, requests: pd.DataFrame, items: np.ndarray) -> Slate:
    """Scores of some titles by all steps."""
    slate = Slate(requests, items)
    for step in recommender.steps:
        slate = step(slate)
    return slate


def asked_at(found: Recommendations, row: int) -> tuple[pd.DataFrame, np.ndarray]:
    """One request with its context, and its titles."""
    requests = found.slate.requests.iloc[[row]].reset_index(drop=True)
    for name, value in MOMENT.given().items():
        requests[name] = pd.Series([value], dtype="str")
    return requests, found.slate.grid[[row]]


@every_base
def test_reasons_are_few_noticeable_and_in_order(
    name: str, found: dict[str, Recommendations], trained: dict[str, Recommender]
) -> None:
    parts = found[name].slate.parts
    for row, slots in enumerate(found[name].reasons):
        for slot, reasons in enumerate(slots):
            if found[name].slate.grid[row, slot] == EMPTY:
                assert reasons == []
                continue
            gains = [reason.contribution for reason in reasons]
            assert gains == sorted(gains, reverse=True)
            assert len(gains) <= MOST_REASONS
            assert all(gain >= NEGLIGIBLE for gain in gains)
            assert all(gain >= NOTICEABLE * gains[0] for gain in gains)
            assert len({reason.kind for reason in reasons}) == len(reasons)
            for reason in reasons:
                assert 0 < reason.share <= 1 + 1e-5
                assert reason.text
                whole = [parts[part][row, slot] for part in reason.parts if part != "taste"]
                assert all(part >= NEGLIGIBLE for part in whole)
    assert found[name].slate.shape[1] == len(trained[name].candidates)


def test_every_kind_of_reason_is_found(found: dict[str, Recommendations]) -> None:
    told = {name: {r.kind for *_, r in reasons_of(each)} for name, each in found.items()}
    assert told["lightfm"] == {"titles", "feature", "popular", "context", "friends"}
    assert told["ease"] == {"titles", "popular", "context", "friends"}


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_score_loses_exactly_what_named_titles_contribute(
    name: str, found: dict[str, Recommendations], trained: dict[str, Recommender]
) -> None:
    recommender = trained[name]
    for row, slot, reason in some_of(reasons_of(found[name], "titles")):
        requests, items = asked_at(found[name], row)
        whole = scored_at(recommender, requests, items[:, [slot]]).scores
        history = recommender.base.history(requests).toarray()[0]
        history[recommender.data.item_ids.get_indexer(list(reason.about))] = 0
        without = replace(
            recommender.base,
            model=replace(
                recommender.base.model,
                history=sparse.csr_array(np.tile(history, (30, 1)).astype(np.float32)),
            ),
        )
        told = requests.assign(user=np.maximum(requests["user"], 0)).drop(columns="liked")
        taste = without.model(Slate(told, items[:, [slot]])).parts["taste"][0, 0]
        kept = recommender.base(Slate(requests, items[:, [slot]])).parts["taste"][0, 0]
        lost = (kept - taste) * recommender.explainer.scale
        assert reason.contribution == pytest.approx(lost, rel=1e-3, abs=1e-4)
        assert whole[0, 0] == pytest.approx(found[name].slate.scores[row, slot], abs=1e-4)


@every_base
def test_the_scale_is_that_of_the_ledger(
    name: str, found: dict[str, Recommendations], trained: dict[str, Recommender]
) -> None:
    requests, items = asked_at(found[name], 0)
    base = trained[name].base(Slate(requests, items)).parts["taste"]
    ledger = found[name].slate.parts["taste"][[0]]
    there = (items != EMPTY) & (np.abs(base) > 1e-3)
    np.testing.assert_allclose(
        ledger[there], trained[name].explainer.scale * base[there], rtol=1e-3
    )


def test_named_titles_are_those_that_contribute_most_and_are_not_disliked(
    rich: Dataset, found: dict[str, Recommendations], trained: dict[str, Recommender]
) -> None:
    recommender = trained["ease"]
    weights, scale = recommender.base.model.weights, recommender.explainer.scale
    ratings = rich.reactions.groupby(["user", "item"])["rating"].mean().to_dict()
    words = rich.reactions.groupby(["user", "item"])["reaction"].agg(set).to_dict()
    hidden = 0
    for row, slot, reason in reasons_of(found["ease"], "titles"):
        item, user = found["ease"].slate.grid[row, slot], found["ease"].slate.users[row]
        if user < 0:
            continue
        seen = np.flatnonzero(recommender.base.seen.toarray()[user])

        def disliked(title: int, user: int = user) -> bool:
            said = words.get((user, title), set())
            return ratings.get((user, title), 3.0) <= 2.0 or "dislike" in said

        hidden += sum(map(disliked, seen))
        gains = {int(t): float(weights[t, item]) * scale for t in seen if not disliked(t)}
        best = sorted(gains, key=lambda title: -gains[title])[:MOST_NAMED]
        named = [title for title in best if gains[title] >= BESIDE * gains[best[0]]]
        assert set(reason.about) == set(rich.item_ids[named])
        liked = all(
            ratings.get((user, t), 0) >= 4 or words.get((user, t), set()) & {"love", "like"}
            for t in named
        )
        verb = "liked" if liked else "watched"
        assert reason.text.startswith(f"because you {verb} Title ")
        assert reason.contribution == pytest.approx(sum(gains[t] for t in named), rel=1e-4)
    assert hidden


@every_base
def test_newcomers_are_told_of_what_they_liked(
    name: str, found: dict[str, Recommendations]
) -> None:
    told = [r for row, _, r in reasons_of(found[name], "titles") if row == len(PEOPLE)]
    assert told
    for reason in told:
        assert set(reason.about) <= set(NEWCOMERS[0].liked)
        assert reason.text.startswith("because you liked Title ")


@every_base
def test_a_score_loses_exactly_what_the_named_context_contributes(
    name: str, found: dict[str, Recommendations], trained: dict[str, Recommender]
) -> None:
    recommender = trained[name]
    context = recommender.context
    for row, slot, reason in some_of(reasons_of(found[name], "context")):
        requests, items = asked_at(found[name], row)
        forgotten = {part.removeprefix(PREFIX) for part in reason.parts}
        kept = tuple(m for m in context.multipliers if m.dimension not in forgotten)
        joint = None if "joint" in forgotten else context.joint
        without = replace(recommender, context=replace(context, multipliers=kept, joint=joint))
        after = scored_at(without, requests, items[:, [slot]]).scores[0, 0]
        lost = found[name].slate.scores[row, slot] - after
        assert reason.contribution == pytest.approx(lost, rel=1e-3, abs=1e-4)
        named = forgotten - {"joint"}
        values = {m.dimension: MOMENT.given().get(m.dimension) for m in context.multipliers}
        assert len(reason.about) == len(named)
        assert {values[n] for n in named if values[n]} <= set(reason.about)
        assert reason.text.startswith("right for " if named else "watched in moments like this")
    told = {part for *_, reason in reasons_of(found[name], "context") for part in reason.parts}
    dimensions = ("weather", "companion", "festival", "daypart", "joint")
    assert {f"{PREFIX}{dimension}" for dimension in dimensions} <= told


def test_a_moment_that_is_not_known_is_no_reason(trained: dict[str, Recommender]) -> None:
    plain = trained["ease"].recommend(PEOPLE, k=20, explain=True)
    assert {reason.kind for *_, reason in reasons_of(plain)} <= {
        "titles",
        "popular",
        "friends",
        "context",
    }
    for *_, reason in reasons_of(plain):
        assert reason.kind != "context" or reason.parts == ("context:joint",)


@every_base
def test_a_score_loses_exactly_what_friends_contribute(
    name: str, rich: Dataset, found: dict[str, Recommendations], trained: dict[str, Recommender]
) -> None:
    recommender = trained[name]
    lift = recommender.friends.lift
    nobody = replace(
        lift.circles, trust=sparse.csr_array(lift.circles.trust.shape, dtype=np.float32)
    )
    alone = replace(
        recommender, friends=replace(recommender.friends, lift=replace(lift, circles=nobody))
    )
    share = sharing(rich)
    for row, slot, reason in some_of(reasons_of(found[name], "friends")):
        requests, items = asked_at(found[name], row)
        after = scored_at(alone, requests, items[:, [slot]]).scores[0, 0]
        lost = found[name].slate.scores[row, slot] - after
        assert reason.contribution == pytest.approx(lost, rel=1e-3, abs=1e-4)
        user, item = found[name].slate.users[row], items[0, slot]
        events = friend_events(rich, np.array([user]), until=AT)
        proof = social_proof(events[events["item"] == item]).iloc[0]
        codes = list(proof["friends"])
        assert list(reason.about) == rich.user_ids[codes].tolist()
        assert share[codes].all()
        people = rich.users["name"].fillna(rich.users["user_id"]).iloc[codes].tolist()
        counts = [int(proof[n]) for n in ("watched", "finished", "loved")]
        assert reason.text == friends_sentence(*counts, people)


def test_friends_who_do_not_share_are_not_told_of(
    rich: Dataset, trained: dict[str, Recommender]
) -> None:
    silent = replace(rich, users=rich.users.assign(sharing="off"))
    quiet = replace(trained["ease"], data=silent)
    assert quiet.friends is not None
    told = quiet.recommend(PEOPLE, MOMENT, 30, explain=True)
    assert all(reason.kind != "friends" for *_, reason in reasons_of(told))


def test_features_contribute_what_a_title_would_lose_without_them(
    rich: Dataset, found: dict[str, Recommendations], trained: dict[str, Recommender]
) -> None:
    base, scale = trained["lightfm"].base, trained["lightfm"].explainer.scale
    features = item_features(rich).normalised()
    dense = features.matrix.toarray()
    usual, held = dense[rich.item_counts > 0].mean(axis=0), dense[rich.item_counts > 0] > 0
    for row, slot, reason in reasons_of(found["lightfm"], "feature"):
        requests, items = asked_at(found["lightfm"], row)
        item = items[0, slot]
        factors, place = base.model.item_factors.copy(), []
        for name in reason.about:
            place.append(features.names.index(name))
            excess = dense[item, place[-1]] - usual[place[-1]]
            factors[item] -= excess * base.fold.titles.slopes[place[-1]]
        assert (dense[item, place] > 0).all()
        assert (held[:, place].mean(axis=0) < 0.5).all()  # what most titles have is no reason
        assert len({features.names[each].split(":")[0] for each in place}) == 1
        assert len(place) <= MOST_NAMED
        model = base.of(requests) if base.new(requests).any() else base.model
        user = 0 if base.new(requests).any() else int(requests["user"].iloc[0])
        one = Slate(pd.DataFrame({"user": [user]}), items[:, [slot]])
        before = model(one).parts["taste"][0, 0]
        after = replace(model, item_factors=factors)(one).parts["taste"][0, 0]
        lost = scale * (before - after)
        assert reason.contribution == pytest.approx(lost, rel=1e-3, abs=1e-4)


@every_base
def test_strangers_are_told_that_many_people_watch_it(
    name: str, found: dict[str, Recommendations]
) -> None:
    stranger = len(PEOPLE) + 3
    popularity = found[name].slate.parts["popularity"][stranger]
    told = [(slot, r) for row, slot, r in reasons_of(found[name]) if row == stranger]
    assert {reason.kind for _, reason in told} <= {"popular", "context"}
    for slot, reason in told:
        if reason.kind == "popular":
            assert reason.text == "many people watch it"
            assert reason.parts == ("popularity",)
            assert reason.contribution == pytest.approx(popularity[slot])


def test_to_who_has_a_history_people_alike_are_a_reason_only_where_no_other_is(
    trained: dict[str, Recommender],
) -> None:
    plain = replace(trained["lightfm"], context=None, friends=None)
    result = plain.recommend([*PEOPLE, *NEWCOMERS], MOMENT, 100, explain=True)
    history = np.diff(plain.base.history(result.slate.requests).indptr) > 0
    expected = plain.base.account(result.slate).expected
    told = set()
    for row, slot, reason in reasons_of(result, "popular"):
        if reason.parts == ("taste",):
            told.add(bool(history[row]))
            assert reason.text == "people like you watch it"
            assert reason.contribution == pytest.approx(expected[row, slot], rel=1e-3)
            assert not history[row] or len(result.reasons[row][slot]) == 1
    assert told == {True, False}


@every_base
def test_shares_are_of_all_that_speaks_for_a_title(
    name: str, found: dict[str, Recommendations], trained: dict[str, Recommender]
) -> None:
    explainer, result = trained[name].explainer, found[name]
    account = trained[name].base.account(result.slate)
    scale = explainer.scale
    for row, slot, reason in reasons_of(result):
        own = account.by_title[account.row == row, slot]
        support = own.clip(0).sum() + account.features[row, slot].clip(0).sum()
        support = scale * (support + max(0.0, account.expected[row, slot]))
        support += sum(
            max(0.0, p[row, slot]) for n, p in result.slate.parts.items() if n != "taste"
        )
        assert reason.share == pytest.approx(reason.contribution / support, rel=1e-3)


def test_moments_are_read_again_where_they_are_not_handed_over(
    trained: dict[str, Recommender], found: dict[str, Recommendations]
) -> None:
    recommender = trained["ease"]
    requests = found["ease"].slate.requests.assign(**MOMENT.given())
    slate = replace(found["ease"].slate, requests=requests)
    assert recommender.explainer(slate) == found["ease"].reasons


def test_a_recommender_of_taste_alone_has_reasons_too(rich: Dataset) -> None:
    base = Recommender.train(rich, EASE(reg=10), None, None)
    assert base.explainer.scale == 1
    told = base.recommend(["user0", "nobody"], k=5, explain=True)
    assert {reason.kind for *_, reason in reasons_of(told)} == {"titles", "popular"}


@pytest.mark.parametrize("columns", [[], ["title"], ["name"]])
def test_without_names_ids_are_told(columns: list[str], rich: Dataset) -> None:
    users = rich.users.drop(columns="name") if "name" not in columns else rich.users
    content = rich.content.drop(columns="title") if "title" not in columns else rich.content
    data = replace(rich, users=users, content=content)
    names = Explainer.of(data, Recommender.train(data, EASE(reg=10), None, None).base)
    assert names.data.names[3] == "user3"  # who has no name in any case
    assert names.data.names[0] == ("Person 0" if "name" in columns else "user0")
    assert names.data.titles[7] == ("Title 7" if "title" in columns else "content7")
