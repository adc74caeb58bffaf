from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace

import numpy as np
import pandas as pd
import pytest

from firetv import fairness, strategies
from firetv.data import Dataset
from firetv.fairness import EFGreedy, GreedyLeastMisery, Nash, ParetoLevels, SPGreedy, Turns
from firetv.group_reasons import (
    AS_MUCH,
    MOST,
    NO_VOTE,
    NOTICEABLE,
    ONE_SCORE,
    SCORES,
    STRATEGIES,
    as_text,
    favourites,
    names_of,
    records,
    table,
    together,
    why,
)
from firetv.groups import GROUP, TURN, ForGroups, part_of
from firetv.member_weights import Activity, Dissatisfaction, Factor, Presence
from firetv.models import Random
from firetv.opinions import Percentiles
from firetv.panels import Strategy
from firetv.slate import EMPTY, Slate
from firetv.strategies import Approval, Average, Copeland, LeastMisery, MostPleasure, Multiplicative

NAMES = ("Ana", "Ben", "Cleo", "Dan", "Eva", "Finn")


def said(parts: Mapping[str, Sequence[float]], size: int, strategy: Strategy) -> list[str]:
    """Words for a list whose ledger is given."""
    columns = {name: np.array([values], np.float32) for name, values in parts.items()}
    many = next(iter(columns.values())).shape[1]
    requests = pd.DataFrame({"members": [tuple(range(size))]})
    return why(Slate(requests, np.arange(many)[None], columns), NAMES[:size], strategy)


def of_shares(*shares: float, strategy: Strategy | None = None, **changes: float) -> str:
    """Words for one title; ``activity2=0.1`` is a change for the second of the members."""
    parts = {part_of(member): [share] for member, share in enumerate(shares, 1)}
    for name, change in changes.items():
        parts[part_of(int(name[-1]), name[:-1])] = [change]
    return said(parts, len(shares), strategy or Average())[0]


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ((1, 0), "mostly for Ana"),
        ((0.67, 0.33), "mostly for Ana"),
        ((2, 1), "mostly for Ana"),  # two thirds to the digit
        ((0.66, 0.34), "for both of you"),
        ((1, 1), "for both of you"),
        ((1, 1, 1), "for all of you"),  # not two of them, though they make up two thirds
        ((0.46, 0.31, 0.23), "mostly for Ana and Ben"),
        ((0.23, 0.46, 0.31), "mostly for Ben and Cleo"),
        ((0.34, 0.34, 0.32), "for all of you"),
        ((0.3, 0.3, 0.3, 0.1), "mostly for Ana, Ben and Cleo"),
        ((1, 1, 1, 1), "for all of you"),
        ((1, 1, 1, 1, 0.1), "mostly for Ana, Ben, Cleo and Dan"),
        ((1, 1, 1, 1, 1, 0), "mostly for all of you but Finn"),
        ((0, 0), "adds nothing for any of you"),
        ((0.6, 0.4, -0.2), "mostly for Ana and Ben, though Cleo would rather not"),
        ((0.9, 0.1, -0.2), "mostly for Ana, though Cleo would rather not"),
        ((0.9, 0.1, -0.11), "mostly for Ana"),  # a tenth of 1.11 is more
        ((3, -1, -2), "mostly for Ana, though Ben and Cleo would rather not"),
        ((-3, -0.1, -0.2), "least convinced: Ana"),
        ((-1, -1, -0.2), "least convinced: Ana and Ben"),
        ((-1, -1, -1), "nobody much less convinced than the others"),
    ],
)
def test_those_are_named_who_make_up_most(shares: tuple[float, ...], words: str) -> None:
    assert of_shares(*shares) == words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"activity1": 0.1}, "for both of you; Ana counts more: activity"),
        ({"activity1": 0.09}, "for both of you"),
        ({"activity1": 0.1, "activity2": -0.2}, "for both of you; Ben counts less: activity"),
        ({"dissatisfaction1": 0.2}, "for both of you; Ana counts more: got less before"),
        ({"dissatisfaction2": -0.2}, "for both of you; Ben counts less: got more before"),
        ({"presence1": 0.2}, "for both of you; Ana counts more: there for longer"),
        ({"presence2": -0.3}, "for both of you; Ben counts less: there for less of the evening"),
        (
            {"activity1": 0.2, "expertise1": 0.2, "likeness2": -0.2},
            "for both of you; Ana counts more: activity and expertise; Ben counts less: likeness",
        ),
        ({"mood1": 0.2}, "for both of you; Ana counts more: mood"),
    ],
)
def test_factors_are_named_that_changed_much(changes: dict[str, float], words: str) -> None:
    shares = [0.5, 0.5]
    for name, change in changes.items():  # what the opinion alone gives
        shares[int(name[-1]) - 1] -= change
    assert of_shares(*shares, **changes) == words


def test_an_aversion_that_counts_more_costs_more() -> None:
    words = of_shares(-0.5, -0.1, activity1=-0.4)
    assert words == "least convinced: Ana; Ana counts more: activity"


def test_who_counts_more_and_less_is_named_once() -> None:
    words = of_shares(0.5, 0.1, activity1=0.4, expertise1=0.2, presence1=-0.3)
    assert words == (
        "mostly for Ana, who counts more: activity and expertise, "
        "but less: there for less of the evening"
    )


def test_who_alone_is_named_is_not_named_again() -> None:
    assert of_shares(0.5, 0.1, activity1=0.4) == "mostly for Ana, who counts more: activity"
    ledger = {TURN: [3, 0], part_of(1): [0.6, 0], part_of(1, "presence"): [0.4, 0]}
    ledger |= {part_of(2): [0, 2], part_of(2, "presence"): [0, -1]}
    assert said(ledger, 2, Turns()) == [
        "Ana's turn, who counts more: there for longer",
        "Ben's turn, who counts less: there for less of the evening",
    ]


def test_the_place_in_the_list_is_nobody_s_share() -> None:
    assert said({TURN: [9], part_of(1): [0.0], part_of(2): [0.1]}, 2, Nash()) == ["mostly for Ben"]


@pytest.mark.parametrize("strategy", [Approval(), SPGreedy(), EFGreedy()])
def test_where_nobody_votes_the_mean_opinion_decides(strategy: Strategy) -> None:
    ledger = {part_of(1): [0.5, 0.0009, 0], part_of(2): [0.0004, 0.0001, 0]}
    assert said(ledger, 2, strategy) == ["mostly for Ana", NO_VOTE, NO_VOTE]
    assert said(ledger, 2, Average())[1] == "mostly for Ana"


@pytest.mark.parametrize(
    "strategy",
    [LeastMisery(), MostPleasure(), Copeland(), GreedyLeastMisery(), ParetoLevels("X")],
)
def test_one_score_has_no_shares(strategy: Strategy) -> None:
    words = said({GROUP: [0.4, 0.3]}, 3, strategy)
    assert words == [f"{ONE_SCORE}, {SCORES[type(strategy)]}"] * 2
    assert not any(name in words[0] for name in NAMES)


def test_a_strategy_of_somebody_else_has_words_too() -> None:
    assert said({GROUP: [0.4]}, 3, lambda panel, k: None) == [ONE_SCORE]
    assert said({part_of(1): [1.0]}, 2, lambda panel, k: None) == ["mostly for Ana"]


def test_alone_it_is_their_own_list() -> None:
    assert (
        said({"taste": [0.5, 0.4], "context:weather": [0, 0.1]}, 1, Nash())
        == ["Ana's own list"] * 2
    )


def test_empty_slots_have_no_words() -> None:
    requests = pd.DataFrame({"members": [(0, 1)]})
    slate = Slate(requests, np.array([[4, EMPTY]]), {part_of(1): np.array([[1, 0]], np.float32)})
    assert why(slate, NAMES[:2], Average()) == ["mostly for Ana"]


def test_a_ledger_of_others_is_refused() -> None:
    with pytest.raises(ValueError, match="a member 3, but there are 2 names"):
        said({part_of(1): [0.1], part_of(3): [0.1]}, 2, Average())
    two = Slate(pd.DataFrame({"members": [(0, 1)] * 2}), np.zeros((2, 0), int))
    with pytest.raises(ValueError, match="one request at a time"):
        why(two, NAMES[:2], Average())


def test_names_are_joined() -> None:
    assert [together(NAMES[:n]) for n in (1, 2, 3)] == ["Ana", "Ana and Ben", "Ana, Ben and Cleo"]


# What a stage really makes


def made(
    data: Dataset,
    strategy: Strategy,
    members: tuple[int, ...],
    weights: tuple[Factor, ...] = (),
    **known: tuple[float, ...],
) -> tuple[Slate, pd.DataFrame]:
    stage = ForGroups(Random(), strategy, Percentiles(), weights, unseen="off", k=8)
    requests = pd.DataFrame({"members": [members]}).assign(**{k: [v] for k, v in known.items()})
    step, slate = stage.fit(data), Slate(requests, np.arange(data.shape[1]))
    lists = step(slate)
    return lists, step.views(slate, lists)


@pytest.mark.parametrize("name", STRATEGIES)
def test_words_follow_the_ledger(data: Dataset, name: str) -> None:
    factors, known = (Activity(), Dissatisfaction()), {"satisfaction": (0.1, 0.9, 0.5)}
    strategy = STRATEGIES[name]
    lists, _ = made(data, strategy, (0, 1, 2), factors, **known)
    words = why(lists, NAMES[:3], strategy)
    assert len(words) == 8
    if GROUP in lists.parts:
        assert words == [f"{ONE_SCORE}, {SCORES[type(strategy)]}"] * 8
        return
    parts = {part: values[0] for part, values in lists.parts.items()}
    shares = np.array(
        [sum(v for p, v in parts.items() if p.split("/")[0] == part_of(m)) for m in (1, 2, 3)]
    )
    for slot, sentence in enumerate(words):
        share, all_of_it = shares[:, slot], np.abs(shares[:, slot]).sum()
        for member, factor in enumerate_factors(sentence):
            assert abs(parts[part_of(member, factor)][slot]) >= NOTICEABLE * all_of_it - 1e-6
        if found := re.match(r"mostly for ([\w, ]+?)(?:, who|, though|;|$)", sentence):
            named = np.array([n in found[1] for n in NAMES[:3]])
            positive = share.clip(0)
            assert positive[named].sum() >= MOST * positive.sum() - 1e-6
            assert positive[~named].max() < AS_MUCH * positive[named].min()
        elif "turn" in sentence:
            assert sentence.startswith(f"{NAMES[share.argmax()]}'s turn")


@pytest.mark.parametrize("name", STRATEGIES)
def test_only_who_got_less_counts_more(data: Dataset, name: str) -> None:
    known = {"satisfaction": (0.0, 1.0)}
    lists, _ = made(data, STRATEGIES[name], (0, 1), (Dissatisfaction(),), **known)
    text = " ".join(why(lists, NAMES[:2], STRATEGIES[name]))
    assert "Ana counts less" not in text
    assert "Ana, who counts less" not in text
    assert "Ben counts more" not in text
    assert "Ben, who counts more" not in text
    if name in ("average-without-misery", "turns", "ep-fuzzda"):  # shares do not follow weights
        assert "counts" not in text
        assert "before" not in text
        assert set(lists.parts) - {TURN} == {part_of(1), part_of(2)}
    elif GROUP not in lists.parts and name not in ("spgreedy", "efgreedy"):
        assert "counts" in text


def enumerate_factors(sentence: str) -> list[tuple[int, str]]:
    """Members and factors that a sentence names."""
    found = []
    for clause in re.split(r"; |(?=, who)", sentence):
        if "counts" in clause:
            who = next((n for n in NAMES if n in clause), None) or next(
                n for n in NAMES if n in sentence
            )
            reasons = {"activity": "activity", "before": "dissatisfaction"}
            member = NAMES.index(who) + 1
            found += [(member, factor) for word, factor in reasons.items() if word in clause]
    return found


def test_a_table_has_everybody_s_places(data: Dataset) -> None:
    lists, views = made(data, Average(), (3, 5))
    told = table(lists, views, ("Ana", "Ben"), data, Average())
    assert told.columns.tolist() == ["rank", "title", "why", "Ana", "Ben"]
    assert told["rank"].tolist() == list(range(1, 9))
    assert told["title"].tolist() == [f"Title {item}" for item in lists.items[0]]
    for member, name in enumerate(("Ana", "Ben"), 1):
        places = views[views["member"] == member].set_index("item")["rank"]
        assert told[name].tolist() == places.loc[lists.items[0]].tolist()


def test_a_table_bears_names_like_its_columns(data: Dataset) -> None:
    lists, views = made(data, Average(), (3, 5))
    told = table(lists, views, ("rank", "why"), data, Average())
    assert told.columns.tolist() == ["rank", "title", "why", "rank", "why"]
    assert as_text(told, views, "average").splitlines()[0] == "For rank and why, by average"


def test_titles_that_are_missing_are_called_by_id(data: Dataset) -> None:
    lists, views = made(data, Average(), (3, 5))
    best = lists.items[0, 0]
    content = data.content.assign(title=data.content["title"].mask(data.content.index == best))
    nameless = replace(data, content=content)
    told = table(lists, views, NAMES[:2], nameless, Average())
    assert told["title"].tolist()[:2] == [f"content{best}", f"Title {lists.items[0, 1]}"]
    untitled = replace(data, content=data.content.drop(columns="title"))
    assert table(lists, views, NAMES[:2], untitled, Average())["title"][0] == f"content{best}"


def test_records_are_the_ledger_and_the_views(data: Dataset) -> None:
    lists, views = made(data, Nash(), (3, 5), (Presence(),), presence=(1.0, 0.5))
    told = table(lists, views, NAMES[:2], data, Nash())
    rows = records(told, lists, views, data)
    assert [row["rank"] for row in rows] == list(range(1, 9))
    assert [row["why"] for row in rows] == told["why"].tolist()
    np.testing.assert_allclose([row["score"] for row in rows], lists.scores[0], atol=1e-6)
    assert [view["user_id"] for view in rows[0]["views"]] == ["user3", "user5"]
    np.testing.assert_allclose([v["weight"] for v in rows[0]["views"]], [2 / 3, 1 / 3], atol=1e-6)
    assert [v["rank"] for v in rows[4]["views"]] == told.loc[4, ["Ana", "Ben"]].tolist()
    assert {v["because"] for row in rows for v in row["views"]} == {"chance"}


def test_names_are_those_of_profiles(data: Dataset) -> None:
    assert names_of(data, np.array([2, 0])) == ["user2", "user0"]
    named = pd.Series(["Ana", "Ben", None, "Ben"]).reindex(range(len(data.users)))
    profiles = replace(data, users=data.users.assign(name=named.astype("str")))
    assert names_of(profiles, np.array([0, 1, 2])) == ["Ana", "Ben", "user2"]
    assert names_of(profiles, np.array([3, 0, 1])) == ["Ben (user3)", "Ana", "Ben (user1)"]


# On a screen


def text_of(
    data: Dataset, strategy: str, size: int, weights: tuple[Factor, ...] = (), **words: str
) -> str:
    lists, views = made(data, STRATEGIES[strategy], tuple(range(size)), weights)
    names = names_of(data, np.arange(size))
    told = table(lists, views, names, data, STRATEGIES[strategy])
    return as_text(told, views, strategy, **words)


def test_text_has_who_what_and_why(data: Dataset) -> None:
    text = text_of(data, "borda", 3, (Activity(),), moment="Moment: rainy")
    lines = text.splitlines()
    assert lines[:3] == ["For user0, user1 and user2, by borda", "Moment: rainy", ""]
    assert lines[3].split() == ["rank", "title", "user0", "user1", "user2", "why"]
    assert len(lines) == 3 + 9 + 1 + 2
    assert lines[-2].endswith("own order of what is new to all of you.")
    assert re.fullmatch(r"Weights: user0 \d+%, user1 \d+%, user2 \d+%\.", lines[-1])
    assert "Weights" not in text_of(data, "borda", 3)
    assert "new to both of you." in text_of(data, "borda", 2)
    assert "new to one of you at least." in text_of(data, "borda", 2, unseen="some")
    assert text_of(data, "borda", 2, unseen="off").endswith("a member's own order.")


def test_what_holds_for_every_title_is_said_once(data: Dataset) -> None:
    text = text_of(data, "least-misery", 3, (Activity(),))
    assert text.count(ONE_SCORE) == 1
    assert "Every title: one score for all of you, the opinion of whoever likes" in text
    assert "why" not in text
    assert text.endswith("Weights change nothing: least-misery counts everybody in full.")


def test_many_people_fit_on_a_screen(data: Dataset) -> None:
    text = text_of(data, "average", 12, (Activity(),))
    lines = text.splitlines()
    assert lines[0] == "For 12 people, by average"
    assert lines[2].split() == ["rank", "title", "best", "middle", "worst", "why"]
    assert all(int(best) <= int(middle) <= int(worst) for best, middle, worst in places(lines))
    assert "Best, middle, worst: the title's place" in text
    assert re.search(r"Weights: \d+\.\d% to \d+\.\d%\.$", text)
    assert max(map(len, lines)) < 120


def places(lines: list[str]) -> list[tuple[str, ...]]:
    return [re.findall(r"\d+", line)[2:5] for line in lines[3:11]]


def test_one_person_needs_no_columns(data: Dataset) -> None:
    lines = text_of(data, "nash", 1).splitlines()
    assert lines[0] == "For user0 alone"
    assert lines[2].split() == ["rank", "title"]
    assert len(lines) == 3 + 8


def test_every_strategy_can_be_named_but_once() -> None:
    written = {
        name
        for module in (strategies, fairness)
        for name, found in vars(module).items()
        if is_dataclass(found) and found.__module__ == module.__name__ and "__call__" in vars(found)
    }
    assert {type(strategy).__name__ for strategy in STRATEGIES.values()} == written
    assert len({repr(strategy) for strategy in STRATEGIES.values()}) == len(STRATEGIES)
    assert isinstance(STRATEGIES["multiplicative"], Multiplicative)


# Favourite genres


def views_of(
    opinions: Mapping[int, Sequence[float]], ranks: Sequence[Sequence[int]]
) -> pd.DataFrame:
    """Views of titles 0, 1, ... by members, who are user codes."""
    rows = [
        (member, user, item, opinion, ranks[member - 1][item])
        for member, (user, own) in enumerate(opinions.items(), 1)
        for item, opinion in enumerate(own)
    ]
    return pd.DataFrame(rows, columns=["member", "user", "item", "opinion", "rank"])


def favourite_by_counting(data: Dataset, user: int) -> str:
    """The genre whose share of somebody's viewings is most above everybody's."""
    own, usual = (dict.fromkeys(ALL_GENRES, 1e-12) for _ in range(2))
    for person, item in zip(*np.nonzero(data.matrix().toarray()), strict=True):
        for genre in data.content["genres"].iloc[item]:
            usual[genre] += 1
            own[genre] += person == user
    total = sum(usual.values())
    return max(own, key=lambda genre: (own[genre] + 5 * usual[genre] / total) / usual[genre])


ALL_GENRES = ("Comedy", "Drama", "News", "Sci-Fi")


def test_a_favourite_genre_is_named_where_who_likes_a_title_most_has_it(data: Dataset) -> None:
    rng, items, users = np.random.default_rng(0), np.arange(data.shape[1]), [0, 5, -1]
    opinions = {user: rng.random(len(items)) for user in users}
    ranks = [rng.permutation(len(items)) + 1 for _ in users]
    order = rng.permutation(items)
    told = favourites(order, views_of(opinions, ranks), NAMES, data)
    half, kinds = np.count_nonzero(data.item_counts) / 2, set()
    for item, words in zip(order, told, strict=True):
        first = int(np.argmax([own[item] for own in opinions.values()]))
        genres = data.content["genres"].iloc[item]
        expected = ""
        if users[first] >= 0 and favourite_by_counting(data, users[first]) in genres:
            expected = f"{NAMES[first]}'s favourite genre"
            if all(own[item] <= half for own in ranks):
                expected += ", and nobody minds"
        assert words == expected
        kinds.add(words.partition("'")[2])
    assert kinds == {"", "s favourite genre", "s favourite genre, and nobody minds"}


def test_there_are_no_favourites_of_one_or_without_genres(data: Dataset) -> None:
    both, ranks = {0: [0.5], 1: [0.4]}, [[1], [1]]
    bare = replace(data, content=data.content.drop(columns="genres"))
    assert favourites(np.arange(1), views_of(both, ranks), NAMES, bare) == [""]
    assert favourites(np.arange(1), views_of({0: [0.5]}, [[1]]), NAMES, data) == [""]
    nobody = views_of({-1: [0.9], 0: [0.4]}, ranks)
    assert favourites(np.arange(1), nobody, NAMES, data) == [""]
