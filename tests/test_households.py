"""What households watched, beside loops over questions: nothing leaks, and nothing else goes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from conftest import make_tables
from test_datasets import skip_unless_cached

from firetv import camra2011, sources
from firetv.data import Dataset
from firetv.fairness import Turns
from firetv.households import (
    SUMMARIES,
    LearnedAggregation,
    Questions,
    Who,
    ask_groups,
    clean,
    household_members,
    measure_answers,
    published,
    validation,
    watched_twice_last,
    without,
)
from firetv.models import EASE, Popular, Random
from firetv.opinions import Percentiles, Standardised
from firetv.ranking import LambdaMART, Logit
from firetv.slate import EMPTY, ExcludeSeen, Slate, Stage, Step, chain
from firetv.strategies import Average, Borda, LeastMisery

Pair = tuple[int, int]
Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]
HOMES = {"home0": (0, 1), "home1": (2, 3, 4), "home2": (5,), "home3": (6, 7), "home4": (8, 9, 7)}
LONERS = 4
ITEMS = 30


def make(histories: Mapping[str, list[int]], groups: Mapping[str, tuple[int, ...]]) -> Dataset:
    """A data set of histories, item codes by user id, each event with a rating."""
    rows = [(user, f"content{item}") for user, items in histories.items() for item in items]
    history = pd.DataFrame(rows, columns=["user_id", "content_id"])
    start = pd.Timestamp("2024-01-01", tz="UTC")
    times = start + pd.to_timedelta(np.arange(len(rows)), unit="h")
    history["timestamp"] = times.astype("datetime64[us, UTC]")
    belongs = [(home, f"user{member}") for home, members in groups.items() for member in members]
    content = pd.DataFrame({"content_id": [f"content{item}" for item in range(ITEMS)]})
    return Dataset.from_tables(
        replace(
            make_tables(),
            watch_history=history,
            content_reactions=history.assign(rating=1.0 + np.arange(len(rows)) % 5),
            users=pd.DataFrame({"user_id": list(histories)}),
            content=content.assign(title=content["content_id"], content_type="movie"),
            user_connections=None,
            groups=pd.DataFrame(belongs, columns=["group_id", "user_id"]),
        )
    )


def homes(seed: int = 0) -> Dataset:
    """Households among loners: somebody lives in two; pairs recur in the household's history."""
    rng = np.random.default_rng(seed)
    people = len({m for members in HOMES.values() for m in members}) + LONERS
    own = {f"user{n}": rng.choice(ITEMS, rng.integers(3, 9)).tolist() for n in range(people)}
    shared = {
        home: [item for m in members for item in own[f"user{m}"] if rng.random() < 0.8]
        + rng.choice(ITEMS, 4).tolist()
        for home, members in HOMES.items()
    }
    joined = {**own, **shared}
    order = rng.permutation(list(joined)).tolist()  # rows are anywhere among users
    return make({name: joined[name] for name in order}, HOMES)


def people_of(data: Dataset) -> dict[int, set[int]]:
    """A household's row and members, by its row, from the table of groups."""
    found: dict[int, set[int]] = {}
    for home, user in data.groups[["group_id", "user"]].itertuples(index=False):
        row = data.user_ids.get_loc(home)
        found.setdefault(row, {row}).add(user)
    return found


def events(data: Dataset) -> list[Pair]:
    return list(zip(data.interactions["user"], data.interactions["item"], strict=True))


def reactions(data: Dataset) -> list[Pair]:
    return list(zip(data.reactions["user"], data.reactions["item"], strict=True))


def some_questions(data: Dataset, seed: int = 0, count: int = 25, others: int = 8) -> Drawn:
    """Pairs of household and title, some of them known, some not, and others at random."""
    rng = np.random.default_rng(seed)
    row = rng.choice(sorted(people_of(data)), count)
    watched = rng.integers(ITEMS, size=count)
    beside = rng.integers(ITEMS, size=(count, others))
    beside[::3, 0] = watched[::3]  # the title itself, as published
    return row, watched, beside


def hidden_pairs(data: Dataset, row: np.ndarray, watched: np.ndarray) -> set[Pair]:
    people, asked = people_of(data), zip(row.tolist(), watched.tolist(), strict=True)
    return {(user, item) for home, item in asked for user in people[home]}


every_seed = pytest.mark.parametrize("seed", range(4))


# ------------------------------------------------------------------ who


@every_seed
def test_households_are_rows_and_their_members(seed: int) -> None:
    data = homes(seed)
    found = household_members(data)
    assert {row: {row, *members} for row, members in found.items()} == people_of(data)
    named = {home: tuple(f"user{m}" for m in members) for home, members in HOMES.items()}
    assert {
        data.user_ids[row]: tuple(data.user_ids[list(members)]) for row, members in found.items()
    } == named


def test_data_without_groups_or_with_groups_that_are_no_users_are_refused() -> None:
    data = homes()
    with pytest.raises(ValueError, match="no groups"):
        household_members(replace(data, groups=None))
    unknown = data.groups.assign(group_id=data.groups["group_id"].replace("home1", "elsewhere"))
    with pytest.raises(ValueError, match="3 members are of groups that are no users"):
        household_members(replace(data, groups=unknown))


@pytest.mark.parametrize("who", ["members", "row", "members + row"])
def test_a_slate_asks_for_whom_it_says(who: Who) -> None:
    data = homes()
    row, watched, others = some_questions(data)
    questions = published(data, row, watched, others, seed=1)
    slate = questions.slate(who)
    np.testing.assert_array_equal(slate.items, questions.items)
    members = household_members(data)
    for home, asked in zip(row.tolist(), slate.requests["members"], strict=True):
        expected = {
            "members": members[home],
            "row": (home,),
            "members + row": (*members[home], home),
        }
        assert asked == expected[who]


@every_seed
def test_a_placebo_asks_the_same_questions_of_the_same_people_dealt_anew(seed: int) -> None:
    data = homes()
    questions = published(data, *some_questions(data, count=60), seed=1)
    plain, dealt = questions.slate("members"), questions.placebo(seed)
    np.testing.assert_array_equal(dealt.items, plain.items)
    one, other = plain.requests["members"].tolist(), dealt.requests["members"].tolist()
    people = household_members(data)
    assert set(other) <= set(people.values())
    assert all(a != b for a, b in zip(one, other, strict=True))
    dealt_to = {}
    for row, members in zip(questions.row.tolist(), other, strict=True):
        assert dealt_to.setdefault(row, members) == members
    assert len(set(dealt_to.values())) == len(dealt_to)
    assert other == questions.placebo(seed).requests["members"].tolist()
    assert other != questions.placebo(seed + 1).requests["members"].tolist()
    assert dealt.requests.index.tolist() == list(range(60))


# ------------------------------------------------------------------ questions


@every_seed
def test_published_questions_have_all_candidates_and_all_training(seed: int) -> None:
    data = homes(seed)
    row, watched, others = some_questions(data, seed)
    questions = published(data, row, watched, others, seed)
    assert questions.train is data
    np.testing.assert_array_equal(questions.row, row)
    np.testing.assert_array_equal(questions.watched, watched)
    assert questions.known.dtype == bool
    happened, people = set(events(data)), people_of(data)
    for n, home in enumerate(row.tolist()):
        beside = [item for item in others[n].tolist() if item != watched[n]]
        empty = [EMPTY] * (others.shape[1] - len(beside))
        assert Counter(questions.items[n].tolist()) == Counter([watched[n], *beside, *empty])
        assert questions.known[n] == any((user, watched[n]) in happened for user in people[home])
    assert 0 < questions.known.sum() < len(row)


@every_seed
def test_without_hides_a_title_from_the_household_and_all_who_live_there(seed: int) -> None:
    data = homes(seed)
    row, watched, _ = some_questions(data, seed)
    hidden = hidden_pairs(data, row, watched)
    left = without(data, row, watched)
    assert events(left) == [pair for pair in events(data) if pair not in hidden]
    assert reactions(left) == [pair for pair in reactions(data) if pair not in hidden]
    assert 0 < len(left.interactions) < len(data.interactions)
    assert left.shape == data.shape
    nothing = np.zeros(0, np.int64)
    assert events(without(data, nothing, nothing)) == events(data)


def test_without_hides_a_title_of_either_household_of_somebody_who_lives_in_two() -> None:
    data = homes()
    user = data.user_ids.get_loc("user7")
    item = next(item for who, item in events(data) if who == user)
    for home in ("home3", "home4"):
        left = without(data, np.array([data.user_ids.get_loc(home)]), np.array([item]))
        assert (user, item) not in events(left)


@every_seed
def test_clean_questions_have_no_leaks_and_lose_nothing_else(seed: int) -> None:
    data = homes(seed)
    row, watched, others = some_questions(data, seed)
    questions = clean(data, row, watched, others, seed)
    hidden, people = hidden_pairs(data, row, watched), people_of(data)
    assert events(questions.train) == [pair for pair in events(data) if pair not in hidden]
    assert reactions(questions.train) == [pair for pair in reactions(data) if pair not in hidden]
    assert not questions.known.any()
    happened = set(events(questions.train))
    gone = 0
    for n, home in enumerate(row.tolist()):
        new = [
            item
            for item in others[n].tolist()
            if item != watched[n] and not any((user, item) in happened for user in people[home])
        ]
        gone += others.shape[1] - len(new)
        empty = [EMPTY] * (others.shape[1] - len(new))
        assert Counter(questions.items[n].tolist()) == Counter([watched[n], *new, *empty])
    assert 0 < gone < others.size


@pytest.mark.parametrize("ask", [published, clean])
def test_the_order_of_candidates_betrays_nothing(ask: type) -> None:
    data = homes()
    row, watched, others = some_questions(data, count=6000, others=9)
    questions = ask(data, row, watched, others, seed=5)
    slot = (questions.items == watched[:, None]).argmax(axis=1)
    share = np.bincount(slot, minlength=10) / 6000
    np.testing.assert_allclose(share, 0.1, atol=5 * math.sqrt(0.1 * 0.9 / 6000))
    held = questions.items != EMPTY
    rank = (np.cumsum(held, axis=1)[np.arange(6000), slot] - 0.5) / held.sum(axis=1)
    assert rank.mean() == pytest.approx(0.5, abs=5 / math.sqrt(12 * 6000))
    first = np.where(others == watched[:, None], EMPTY, others)[:, 0]
    there = (first != EMPTY) & (ask is published)  # of the others, too, the first is anywhere
    if there.any():
        place = (questions.items[there] == first[there, None]).argmax(axis=1)
        assert np.bincount(place, minlength=10).min() > 0.7 * there.sum() / 10
    again, other = (ask(data, row, watched, others, seed=seed).items for seed in (5, 6))
    np.testing.assert_array_equal(again, questions.items)
    assert (other != questions.items).mean() > 0.5


# ------------------------------------------------------------------ questions to choose by


def row_pairs(data: Dataset) -> set[Pair]:
    return {(user, item) for user, item in events(data) if user in people_of(data)}


@every_seed
@pytest.mark.parametrize("each", [None, 1, 3])
def test_validation_draws_what_households_watched(seed: int, each: int | None) -> None:
    data = homes(seed)
    row, watched, others = validation(data, seed, each, others=7)
    pairs = list(zip(row.tolist(), watched.tolist(), strict=True))
    known = row_pairs(data)
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) <= known
    drawn, there = Counter(row.tolist()), Counter(home for home, _ in known)
    assert drawn == {home: min(n, each or n) for home, n in there.items()}
    assert others.shape == (len(pairs), 7)
    assert set(np.unique(others)) <= set(range(ITEMS))
    assert row.dtype.kind == watched.dtype.kind == others.dtype.kind == "i"


def test_validation_draws_five_among_a_hundred_unless_told() -> None:
    data = homes()
    row, _, others = validation(data, seed=0)
    there = Counter(home for home, _ in row_pairs(data))
    assert Counter(row.tolist()) == {home: min(n, 5) for home, n in there.items()}
    assert others.shape[1] == 100
    share = np.bincount(others.ravel(), minlength=ITEMS) / others.size
    np.testing.assert_allclose(share, 1 / ITEMS, atol=5 / math.sqrt(ITEMS * others.size))


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_validation_draws_a_share(share: float) -> None:
    data = homes()
    known = row_pairs(data)
    drawn = [validation(data, seed, None, share) for seed in (0, 0, 1)]
    for row, _, _ in drawn:
        assert len(row) == round(share * len(known))
    for one, again in zip(drawn[0], drawn[1], strict=True):
        np.testing.assert_array_equal(one, again)
    assert not np.array_equal(drawn[0][2], drawn[2][2])
    if share < 1:
        sets = [{*zip(r.tolist(), w.tolist(), strict=True)} for r, w, _ in drawn]
        assert sets[0] != sets[2]


def test_validation_spares_the_test() -> None:
    data = homes()
    known = sorted(row_pairs(data))
    spare = np.array([*known[::2], (known[0][0], 29), (3, 3)]).T
    row, watched, _ = validation(data, 0, None, spare=tuple(spare))
    left = {*zip(row.tolist(), watched.tolist(), strict=True)}
    assert left == set(known) - set(map(tuple, spare.T.tolist()))


# ------------------------------------------------------------------ measures


@dataclass(frozen=True)
class Planted:
    """Scores that are given, (n_users, n_items), and notes of the data and slates it gets."""

    scores: np.ndarray
    handed: list[Dataset] = field(default_factory=list, compare=False)
    asked: list[tuple[int, np.ndarray]] = field(default_factory=list, compare=False)

    def fit(self, data: Dataset) -> Step:
        self.handed.append(data)
        number = len(self.handed) - 1

        def score(slate: Slate) -> Slate:
            self.asked.append((number, slate.users.copy()))
            return slate.add("planted", self.scores[slate.users[:, None], slate.grid])

        return score


def gains(metric: str, above: int, tied: int) -> float:
    """Of a title that as many are above, and as many tied with (itself too): the mean place."""
    name, k = metric.split("@")
    places = range(above, above + tied)
    return sum((name == "hr" or 1 / math.log2(2 + p)) * (p < int(k)) for p in places) / tied


def naive_measures(
    scores: np.ndarray, items: np.ndarray, watched: np.ndarray
) -> dict[tuple[int, str], float]:
    found = {}
    for n, title in enumerate(watched.tolist()):
        row = [(i, s) for i, s in zip(items[n].tolist(), scores[n], strict=True) if i != EMPTY]
        own = [s for i, s in row if i == title]
        for metric in ("hr@5", "hr@10", "ndcg@5", "ndcg@10"):
            above, tied = (sum(s > o for _, s in row for o in own), sum(s in own for _, s in row))
            found[n, metric] = gains(metric, above, tied) if own else 0.0
    return found


def values(table: pd.DataFrame) -> dict[tuple[int, str], float]:
    keys = zip(table["request"], table["metric"], strict=True)
    return dict(zip(keys, table["value"], strict=True))


@every_seed
@pytest.mark.parametrize("digits", [0, 1, 5])
def test_measures_are_what_ties_give_on_average(seed: int, digits: int) -> None:
    data, rng = homes(seed), np.random.default_rng(seed)
    row, watched, others = some_questions(data, seed, others=18)
    others = np.stack([rng.permutation(ITEMS)[:18] for _ in row])
    questions = clean(data, row, watched, others, seed)
    scores = rng.random(questions.items.shape).round(digits).astype(np.float32)
    scores[questions.items == EMPTY] = 9  # nobody's business
    order = np.argsort(rng.random(scores.shape), axis=1)  # answers come in any order
    answers = Slate(questions.slate().requests, questions.items).add("s", scores).take(order)
    table = measure_answers("a model", answers, questions, "a split", seed=3)
    columns = ["model", "seed", "split", "request", "user", "known", "metric", "value"]
    assert list(table) == columns
    assert len(table) == 4 * len(row)
    assert table[["model", "seed", "split"]].drop_duplicates().to_numpy().tolist() == [
        ["a model", 3, "a split"]
    ]
    np.testing.assert_array_equal(table["user"], row[table["request"]])
    np.testing.assert_array_equal(table["known"], questions.known[table["request"]])
    expected = naive_measures(scores, questions.items, watched)
    found = values(table)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-12)


def test_a_title_that_was_not_answered_is_a_miss() -> None:
    data = homes()
    questions = published(data, *some_questions(data), seed=0)
    slate = Slate(questions.slate().requests, questions.items)
    there = slate.items == questions.watched[:, None]
    answers = replace(slate, items=np.where(there, EMPTY, slate.items))
    answers = answers.add("s", np.zeros(slate.shape))
    assert (measure_answers("m", answers, questions, "s")["value"] == 0).all()


def test_knowing_is_marked_so_that_the_untouched_can_be_told_apart() -> None:
    data = homes()
    questions = published(data, *some_questions(data), seed=0)
    answers = questions.slate().add("s", np.zeros(questions.items.shape))
    table = measure_answers("m", answers, questions, "s")
    assert table.groupby("request")["known"].first().tolist() == questions.known.tolist()


def test_titles_watched_twice_come_last_and_the_rest_keep_their_order() -> None:
    data, rng = homes(), np.random.default_rng(0)
    row, watched, others = some_questions(data, count=40)
    questions = published(data, row, watched, others, seed=0)
    for scores in (rng.normal(size=questions.items.shape) * 50, np.zeros(questions.items.shape)):
        order = np.argsort(-scores, axis=1, kind="stable")
        plain = questions.slate().add("s", scores).take(order)
        changed = watched_twice_last(plain, questions)
        np.testing.assert_array_equal(changed.items, plain.items)
        times, several = Counter(events(data)), 0
        for n, home in enumerate(row.tolist()):
            held = [s for s in range(9) if plain.items[n, s] != EMPTY]
            twice = {s for s in held if times[home, plain.items[n, s]] > 1}
            several += len(twice)
            before, after = plain.scores[n], changed.scores[n]
            assert all(after[a] > after[b] for a in held for b in twice if a not in twice)
            for kind in (twice, set(held) - twice):
                for a, b in pairwise(sorted(kind, key=lambda s: before[s])):
                    assert np.sign(after[b] - after[a]) == np.sign(before[b] - before[a])
        assert 0 < several < 40 * 9 / 2


# ------------------------------------------------------------------ ways to ask


def test_every_way_to_ask_is_measured() -> None:
    data = homes()
    row, watched, others = some_questions(data, count=30, others=12)
    questions = published(data, row, watched, others, seed=0)
    strategies = [
        (Standardised(), {"Average": Average(), "Least misery": LeastMisery()}),
        (Percentiles(), {"Borda": Borda(), "Turns": Turns()}),
    ]
    table = ask_groups("EASE", EASE(10), questions, strategies, "published", seed=2)
    ways = ["Average", "Least misery", "Borda", "Turns", "row", "members + row", "placebo"]
    assert set(table["model"]) == {f"EASE, {way}" for way in ways}
    assert len(table) == len(ways) * 4 * 30
    assert not table.duplicated(["model", "request", "metric"]).any()
    assert set(table["seed"]) == {2}
    assert set(table["split"]) == {"published"}

    members = household_members(data)
    step = EASE(10).fit(data)
    asked = {
        "Average": [members[home] for home in row.tolist()],
        "row": [(home,) for home in row.tolist()],
        "members + row": [(*members[home], home) for home in row.tolist()],
        "placebo": questions.placebo(2).requests["members"].tolist(),
    }
    for way, groups in asked.items():
        scores = np.zeros(questions.items.shape)
        for n, group in enumerate(groups):
            there = questions.items[n] != EMPTY
            frame = pd.DataFrame({"user": list(group)})
            own = step(Slate(frame, questions.items[n, there])).scores.astype(float)
            own = (own - own.mean(axis=1, keepdims=True)) / own.std(axis=1, keepdims=True)
            scores[n, there] = own.mean(axis=0).round(4)
        expected = naive_measures(scores, questions.items, watched)
        found = values(table[table["model"] == f"EASE, {way}"])
        assert found.keys() == expected.keys()
        near = [abs(found[key] - value) < 1e-9 for key, value in expected.items()]
        assert np.mean(near) > 0.97  # all but near ties


def test_what_households_have_seen_may_be_the_answer() -> None:
    """As published, nothing is left out."""
    data = homes()
    row, watched, others = some_questions(data, count=30, others=12)
    questions = published(data, row, watched, others, seed=0)
    sure = np.zeros(data.shape, np.float32)
    for user, item in {*hidden_pairs(data, row, watched)}:
        sure[user, item] = 1
    strategies = [(Standardised(), {"Average": Average()})]
    table = ask_groups("sure", Planted(sure), questions, strategies, "published", 0)
    found = table[(table["model"] == "sure, row") & table["known"]]
    assert len(found)
    assert found.loc[found["metric"] == "hr@10", "value"].mean() > 0.8


# ------------------------------------------------------------------ learned combinations


def planted_world(seed: int = 0) -> tuple[Dataset, np.ndarray]:
    """Households watch what their members like on average; and what each likes, (n_users, n_items).

    The row's own taste is noise.
    """
    rng = np.random.default_rng(seed)
    groups = {f"home{n}": tuple(range(2 * n, 2 * n + 2 + n % 2)) for n in range(60)}
    groups = {home: tuple(m for m in members if m < 120) for home, members in groups.items()}
    taste = rng.normal(size=(120, ITEMS))
    histories = {f"user{n}": rng.choice(ITEMS, 2, replace=False).tolist() for n in range(120)}
    for home, members in groups.items():
        worth = 3 * taste[list(members)].mean(axis=0) + rng.gumbel(size=ITEMS)
        histories[home] = np.argsort(-worth)[:8].tolist()
    return make(histories, groups), np.vstack([taste, rng.normal(size=(60, ITEMS))])


@pytest.fixture(scope="module")
def world() -> tuple[Dataset, np.ndarray]:
    return planted_world()


@pytest.mark.parametrize("unseen", [True, False])
def test_what_is_learned_is_that_the_model_counts_which_knows(
    unseen: bool, world: tuple[Dataset, np.ndarray]
) -> None:
    data, taste = world
    models = {"chance": Random(), "planted": Planted(taste)}
    learned = LearnedAggregation(models, Logit(5.0), share=0.4, others=15, unseen=unseen, seed=1)
    step = learned.fit(data)
    weights = step.weights
    assert weights.index.tolist() == [f"{name}/{kind}" for name in models for kind in SUMMARIES]
    informative = weights[["planted/mean", "planted/least", "planted/most"]]
    assert informative.sum() > 1
    assert weights["planted/mean"] == weights.max()
    # Of pairs of members, the mean is half of the least and the most, so the rest is divided.
    assert weights.filter(like="chance").abs().max() < 0.25 * informative.sum()
    assert abs(weights["planted/row"]) < 0.25 * informative.sum()

    drawn = validation(data, seed=9, each=3, others=20)
    questions = clean(data, *drawn, seed=9)
    refitted = learned.fit(questions.train)
    answers = refitted(questions.slate("members + row"))
    alone = chain(Random()).fit(data)
    by_chance = alone(replace(questions.slate(), requests=pd.DataFrame({"user": questions.row})))
    hits = {
        name: measure_answers(name, each, questions, "s").groupby("metric")["value"].mean()["hr@5"]
        for name, each in (("learned", answers), ("chance", by_chance))
    }
    assert hits["learned"] > hits["chance"] + 0.2


@pytest.mark.parametrize("unseen", [True, False])
def test_features_do_not_see_the_pairs_that_are_learned_from(
    unseen: bool, world: tuple[Dataset, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, taste = world
    planted = Planted(taste)
    noted: list[tuple[Questions, Slate]] = []
    slate_of = Questions.slate

    def note(questions: Questions, who: Who = "members") -> Slate:
        slate = slate_of(questions, who)
        noted.append((questions, slate))
        return slate

    monkeypatch.setattr(Questions, "slate", note)
    LearnedAggregation({"planted": planted}, share=0.3, others=12, unseen=unseen, seed=4).fit(data)
    monkeypatch.undo()
    ((questions, slate),) = noted
    assert len(planted.handed) == 2
    train, whole = planted.handed
    assert events(whole) == events(data)
    row, watched, others = validation(data, 4, None, 0.3, 12)
    assert len(row) == round(0.3 * len(row_pairs(data)))
    np.testing.assert_array_equal(questions.row, row)
    np.testing.assert_array_equal(questions.watched, watched)
    hidden = hidden_pairs(data, row, watched)
    assert events(train) == [pair for pair in events(data) if pair not in hidden]
    assert not hidden & set(reactions(train))
    asked = [users for number, users in planted.asked if number == 0]
    assert len(asked) == len(planted.asked)  # nothing is asked of what has seen everything
    people = people_of(data)
    assert set(np.concatenate(asked).tolist()) == set().union(*(people[r] for r in row.tolist()))
    assert [set(m) for m in slate.requests["members"]] == [people[r] for r in row.tolist()]
    assert all(m[-1] == r for m, r in zip(slate.requests["members"], row, strict=True))
    happened = set(events(train))
    seen = sum(
        (user, item) in happened
        for n, home in enumerate(row.tolist())
        for item in slate.items[n].tolist()
        for user in people[home]
    )
    assert (seen == 0) == unseen
    expected = (clean if unseen else published)(train, row, watched, others, 4)
    np.testing.assert_array_equal(slate.items, expected.items)


@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_answers_are_sums_over_summaries_of_opinions(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, rng = homes(), np.random.default_rng(0)
    taste = rng.normal(size=data.shape).astype(np.float32)
    models: dict[str, Stage] = {"planted": Planted(taste), "popular": Popular()}
    step = LearnedAggregation(models, share=0.5, others=10, seed=2).fit(data)
    monkeypatch.setattr("firetv.households.CHUNK_GROUPS", chunk)
    row, watched, others = some_questions(data, others=12)
    questions = published(data, row, watched, others, seed=0)
    answers = step(questions.slate("members + row"))
    assert list(answers.parts) == list(models)
    fitted = {name: model.fit(data) for name, model in models.items()}
    members = household_members(data)
    for n, home in enumerate(row.tolist()):
        there = [item for item in questions.items[n].tolist() if item != EMPTY]
        expected = dict.fromkeys(there, 0.0)
        by_item: dict[str, dict[int, float]] = {}
        for name, model in fitted.items():
            people = pd.DataFrame({"user": [*members[home], home]})
            own = model(Slate(people, np.array(there))).scores.astype(float)
            own = (own - own.mean(axis=1, keepdims=True)) / own.std(axis=1, keepdims=True)
            summaries = (own[:-1].mean(axis=0), own[:-1].min(axis=0), own[:-1].max(axis=0), own[-1])
            weights = [step.weights[f"{name}/{kind}"] for kind in SUMMARIES]
            total = sum(w * s for w, s in zip(weights, summaries, strict=True))
            by_item[name] = dict(zip(there, total, strict=True))
            expected = {item: expected[item] + by_item[name][item] for item in there}
        listed = answers.items[n][answers.items[n] != EMPTY].tolist()
        assert sorted(listed) == sorted(there)
        assert (answers.items[n, len(there) :] == EMPTY).all()
        score = answers.scores[n, : len(there)]
        assert (np.diff(score) <= 1e-6).all()
        np.testing.assert_allclose(score, [expected[i] for i in listed], rtol=1e-3, atol=1e-3)
        for name, part in answers.parts.items():
            of = [by_item[name][i] for i in listed]
            np.testing.assert_allclose(part[n, : len(there)], of, rtol=1e-3, atol=1e-3)


def test_the_seed_is_that_of_the_draw_and_of_the_models(
    world: tuple[Dataset, np.ndarray],
) -> None:
    data, _ = world
    learned = LearnedAggregation({"chance": Random()}, share=0.2, others=10)
    questions = clean(data, *validation(data, 7, 1, others=10), seed=7)
    slate = questions.slate("members + row")
    weights, chances = [], []
    for seed in (0, 0, 1):
        step = replace(learned, seed=seed).fit(data)
        weights.append(step.weights.to_numpy())
        chances.append(step.summaries(slate))
    np.testing.assert_array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(chances[0], chances[1])
    assert not np.array_equal(weights[0], weights[2])
    assert not np.allclose(chances[0], chances[2])


def test_trees_learn_too_but_have_no_weights(world: tuple[Dataset, np.ndarray]) -> None:
    data, taste = world
    models = {"chance": Random(), "planted": Planted(taste)}
    learner = LambdaMART(trees=20, min_leaf=20)
    step = LearnedAggregation(models, learner, share=0.4, others=15).fit(data)
    with pytest.raises(TypeError, match="Trees has no weights"):
        _ = step.weights
    questions = clean(data, *validation(data, 7, 2, others=15), seed=7)
    answers = step(questions.slate("members + row"))
    there = answers.items != EMPTY
    assert answers.parts["planted"][there].std() > 2 * answers.parts["chance"][there].std()
    assert (answers.scores[:, 1:] <= answers.scores[:, :-1] + 1e-6).all()


def test_a_stage_that_leaves_the_seen_out_still_answers_the_rest() -> None:
    data = homes()
    questions = published(data, *some_questions(data), seed=0)
    step = chain(Popular(), ExcludeSeen()).fit(data)
    asked = replace(questions.slate(), requests=pd.DataFrame({"user": questions.row}))
    table = measure_answers("m", step(asked), questions, "s")
    own = data.matrix()[questions.row].toarray()[np.arange(25), questions.watched] > 0
    assert own.any()
    assert (table.loc[own[table["request"]], "value"] == 0).all()
    assert (table.loc[~own[table["request"]], "value"] > 0).any()


# ------------------------------------------------------------------ the real households


@pytest.fixture(scope="module")
def real() -> tuple[Dataset, Drawn]:
    skip_unless_cached("camra2011")
    *_, test, negatives = parts = sources.read_parts("camra2011")
    data = Dataset.from_tables(camra2011.to_tables(*parts))
    pairs = camra2011.test_pairs(test, negatives)
    others = data.item_ids.get_indexer(pairs.negatives.ravel()).reshape(pairs.negatives.shape)
    row, watched = (
        data.user_ids.get_indexer(pairs.group_id),
        data.item_ids.get_indexer(pairs.content_id),
    )
    return data, (row, watched, others)


def test_real_questions_as_published_leak(real: tuple[Dataset, Drawn]) -> None:
    data, (row, watched, others) = real
    questions = published(data, row, watched, others, seed=0)
    assert questions.items.shape == (1450, 101)
    assert questions.known.sum() == 576
    assert (questions.items == EMPTY).sum() == (others == watched[:, None]).sum()
    seen = data.matrix().toarray() > 0
    beside = (questions.items != watched[:, None]) & (questions.items != EMPTY)
    share = (seen[row[:, None], questions.items] & beside).sum() / beside.sum()
    assert share == pytest.approx(0.053, abs=0.0005)
    slots = np.bincount((questions.items == watched[:, None]).argmax(axis=1), minlength=101)
    assert abs(slots[:50].sum() / 1450 - 50 / 101) < 5 * 0.5 / math.sqrt(1450)


def test_real_titles_to_be_found_were_hardly_ever_watched_twice(
    real: tuple[Dataset, Drawn],
) -> None:
    data, drawn = real
    members = household_members(data)
    questions = published(data, *drawn, seed=0)
    answers = questions.slate("row").add("s", np.zeros(questions.items.shape))
    last = watched_twice_last(answers, questions).scores < 0
    twice = (last & (questions.items == questions.watched[:, None])).any(axis=1)
    couple = np.array([len(members[home]) == 2 for home in questions.row.tolist()])
    assert couple.sum() == 1360
    assert not twice[couple].any()
    assert twice.sum() == 15
    assert (last & (questions.items != EMPTY)).any(axis=1).mean() > 0.3


def test_real_questions_that_are_clean_do_not_leak(real: tuple[Dataset, Drawn]) -> None:
    data, (row, watched, others) = real
    questions = clean(data, row, watched, others, seed=0)
    assert not questions.known.any()
    seen = questions.train.matrix().toarray() > 0
    people = household_members(data)
    for n, home in enumerate(row.tolist()):
        there = questions.items[n][questions.items[n] != EMPTY]
        assert (there == watched[n]).sum() == 1
        assert not seen[np.ix_([home, *people[home]], there)].any()
    hidden = hidden_pairs(data, row, watched)
    gone = [pair for pair in events(data) if pair in hidden]
    assert len(questions.train.interactions) == len(data.interactions) - len(gone)
    assert (questions.items == EMPTY).mean() < 0.1


def test_real_validation_is_of_five_each_and_none_of_the_test(real: tuple[Dataset, Drawn]) -> None:
    data, (row, watched, _) = real
    mine, found, others = validation(data, seed=1, spare=(row, watched))
    assert np.unique(mine, return_counts=True)[1].tolist() == [5] * 290
    assert others.shape == (1450, 100)
    test = set(zip(row.tolist(), watched.tolist(), strict=True))
    assert not test & set(zip(mine.tolist(), found.tolist(), strict=True))
