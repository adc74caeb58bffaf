"""The system taken apart: what is asked and learned from, and what is found in small worlds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest

from firetv import ablation
from firetv.ablation import (
    BASE,
    BOTH,
    CONTEXT,
    FRIENDS,
    GROUPS,
    PEOPLE,
    PERSONAL,
    PLACEBO,
    POPULAR,
    TIME,
    Ablation,
    Case,
    ablate,
    choose_context,
    misled,
    variants,
)
from firetv.comparisons import paired_tests, segments
from firetv.context import ContextBoost
from firetv.data import Dataset, Tables
from firetv.layers import LeftOut, Settings
from firetv.models import EASE, Popular
from firetv.multipliers import FEWEST
from firetv.personal import Personal, Unscaled
from firetv.slate import Chain, Stage
from firetv.social import FriendBoost
from firetv.splits import Split
from firetv.synthetic import simulate
from firetv.world import World

ONE = Settings(seeds=(0,))
ALL = [POPULAR, BASE, CONTEXT, FRIENDS, BOTH, PERSONAL, PLACEBO]
WORLD = World(users=90, content=80, watch_events=3000)
START = pd.Timestamp("2024-01-01T00Z")


@pytest.fixture(autouse=True)
def ease(monkeypatch: pytest.MonkeyPatch) -> None:
    """One base, so that no LightFM is fitted."""
    monkeypatch.setattr(ablation, "rank_bases", lambda train, settings: (BASES, ["EASE"], ""))


BASES = {"EASE": EASE(50)}


@pytest.fixture(scope="module")
def planted() -> Case:
    """A small world of which all is known, even times."""
    tables = simulate(WORLD)[0]
    return Case("world", Dataset.from_tables(tables), ordered=True)


def homes(people: int = 40, per_home: int = 2, titles: int = 40, with_rows: bool = True) -> Dataset:
    """Households, whose members and whose own viewings are all of one of four kinds."""
    rng, count = np.random.default_rng(0), people // per_home
    home, who = rng.integers(count, size=(2, 1600))
    who = who % (per_home + with_rows)
    item = rng.integers(titles // 4, size=1600) * 4 + home % 4
    names = [f"h{h}" if w == per_home else f"u{h}-{w}" for h, w in zip(home, who, strict=True)]
    history = pd.DataFrame({"user_id": names, "content_id": [f"c{each}" for each in item]})
    hours = pd.to_timedelta(np.arange(1600), unit="h")
    history["timestamp"] = (START + hours).astype("datetime64[us, UTC]")
    belongs = [(f"h{h}", f"u{h}-{w}") for h in range(count) for w in range(per_home)]
    groups = pd.DataFrame(belongs, columns=["group_id", "user_id"])
    return Dataset.from_tables(Tables(history, groups=groups, manifest={"name": "homes"}))


def lone(people: int = 60, events: int = 900, titles: int = 60, **columns: object) -> Dataset:
    """People without friends or groups, and what was observed of their events."""
    rng = np.random.default_rng(1)
    user = rng.integers(people, size=events)
    history = pd.DataFrame(
        {
            "user_id": [f"u{each}" for each in user],
            "content_id": [f"c{each}" for each in rng.integers(titles, size=events)],
        }
    )
    hours = pd.to_timedelta(np.arange(events) * 5, unit="h")
    history["timestamp"] = (START + hours).astype("datetime64[us, UTC]")
    named = {name: pd.array(values, "str") for name, values in columns.items()}
    return Dataset.from_tables(Tables(history.assign(**named), manifest={"name": "lone"}))


def told(data: Dataset, **kinds: str) -> Dataset:
    """What the manifest says of columns of the history."""
    columns = {"watch_history": kinds}
    return replace(data, manifest={**data.manifest, "columns": columns})


@dataclass
class Asked:
    """What stages were asked, and what they learned from."""

    calls: list[tuple[str, Stage, Split, Split | None, int]]

    def of(self, name: str) -> tuple[Stage, Split | None, Split | None, int]:
        """A variant, and what people and groups were asked of it first."""
        calls = [call[1:] for call in self.calls if call[0] == name]
        people, groups = (
            next((call[place] for call in calls if call[place] is not None), None)
            for place in (1, 2)
        )
        return calls[0][0], people, groups, calls[0][3]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Note what is asked, and answer nothing."""
    spy = Asked([])

    def ask(
        name: str, stage: Stage, asked_of: dict[str, Split], seed: int, *rest: object
    ) -> pd.DataFrame:
        spy.calls.append((name, stage, asked_of.get(PEOPLE), asked_of.get(GROUPS), seed))
        return pd.DataFrame({"model": [name]})

    monkeypatch.setattr(ablation, "_ask", ask)
    monkeypatch.setattr(ablation, "choose_context", lambda *given: ContextBoost("learned"))
    return spy


def seen(split: Split, users: Sequence[int] | np.ndarray, item: int) -> np.ndarray:
    """Whether users have seen a title in what is learned from."""
    return split.train.matrix()[np.asarray(users)][:, [item]].toarray()[:, 0] > 0


# Cases


def test_all_is_known_of_a_planted_world(planted: Case) -> None:
    assert planted.planted
    assert planted.dimensions() == (*TIME, "weather", "festival", "companion")
    assert len(planted.rows) == 0


def test_only_what_was_observed_is_known_elsewhere() -> None:
    rng = np.random.default_rng(2)
    two = rng.choice(["sunny", "rainy"], 900)
    data = lone(weather=two, companion=two, location=["home"] * 900, mood=two)
    data = replace(data, manifest={"name": "lone", "context": ["mood"]})
    known = told(data, timestamp="observed", weather="simulated", companion="observed")
    assert not Case("lone", known, ordered=True).planted
    assert Case("lone", known, ordered=True).dimensions() == (*TIME, "companion", "mood")
    assert Case("lone", known, ordered=False).dimensions() == ("companion", "mood")
    drawn = told(data, timestamp="simulated", weather="simulated", mood="simulated")
    assert Case("lone", drawn, ordered=True).planted
    everything = (*TIME, "weather", "companion", "mood")
    assert Case("lone", drawn, ordered=True).dimensions() == everything
    assert not Case("lone", drawn, ordered=False).planted
    assert Case("lone", drawn, ordered=False).dimensions() == ("companion",)
    assert Case("lone", lone(), ordered=False).dimensions() == ()


@pytest.mark.parametrize("known", [FEWEST - 1, FEWEST])
def test_a_dimension_needs_enough_events(known: int) -> None:
    weather = np.full(900, None)
    weather[:known] = np.where(np.arange(known) % 2, "sunny", "rainy")
    names = Case("lone", lone(weather=weather), ordered=False).dimensions()
    assert names == (("weather",) if known == FEWEST else ())


def test_rows_are_groups_that_are_users() -> None:
    data = homes()
    names = data.user_ids[Case("homes", data, ordered=False).rows]
    assert sorted(names) == sorted(f"h{n}" for n in range(20))
    assert len(Case("homes", homes(with_rows=False), ordered=False).rows) == 0


# Variants


def test_variants_are_those_that_differ() -> None:
    base, context, friends = EASE(), ContextBoost("learned"), FriendBoost()
    assert list(variants(base, None, None)) == [BASE]
    assert list(variants(base, context, None)) == [BASE, CONTEXT, PERSONAL]
    assert list(variants(base, None, friends)) == [BASE, FRIENDS, PERSONAL]
    made = variants(base, context, friends)
    assert list(made) == ALL[1:-1]
    stages = {name: each.stages for name, each in made.items() if isinstance(each, Chain)}
    assert made[BASE] == base
    assert stages[CONTEXT] == (base, context)
    assert stages[FRIENDS] == (base, friends)
    assert stages[BOTH] == (base, friends, context)
    full = [Unscaled(replace(each, strength=1.0)) for each in (friends, context)]
    assert stages[PERSONAL] == (base, *full, Personal())


def test_what_has_lifts_is_chosen_on_the_last_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Titles here have moments of their own, and no genres: only the rich kind can tell."""
    rng = np.random.default_rng(3)
    user, weather = rng.integers(60, size=3000), rng.integers(2, size=3000)
    history = pd.DataFrame(
        {
            "user_id": [f"u{each}" for each in user],
            "content_id": [f"c{2 * n + w}" for n, w in zip(rng.integers(40, size=3000), weather,
                                                            strict=True)],
            "timestamp": (START + pd.to_timedelta(np.arange(3000), unit="h")),
            "weather": pd.array(np.array(["sunny", "rainy"])[weather], "str"),
        }
    )  # fmt: skip
    history["timestamp"] = history["timestamp"].astype("datetime64[us, UTC]")
    data = Dataset.from_tables(Tables(history, manifest={"name": "w"}))
    rich = choose_context(Popular(), data, ("weather",), ONE)
    assert (rich.items, rich.joint) == (True, True)
    assert tuple(rich.dimensions) == ("weather",)
    mixed = history.assign(weather=rng.permutation(history["weather"].to_numpy()))
    nothing = Dataset.from_tables(Tables(mixed, manifest={"name": "w"}))
    chosen: list[Dataset] = []
    monkeypatch.setattr(ablation, "measure", lambda runs: chosen.append(runs) or TIED)
    plain = choose_context(Popular(), nothing, ("weather", "mood"), ONE)
    assert (plain.items, plain.joint) == (False, False)
    assert tuple(plain.dimensions) == ("weather",)  # its own dimensions count anyway
    (runs,) = chosen
    inner = runs[0].split
    assert inner.train.interactions["timestamp"].max() < inner.requests["at"].min()


TIED = pd.DataFrame({"model": ["plain", "rich"], "value": [0.5, 0.5]})


def test_where_too_little_is_left_to_choose_by_it_is_the_plain_kind() -> None:
    data = lone(weather=np.where(np.arange(900) % 2, "sunny", "rainy"))
    once = replace(data, interactions=data.interactions.assign(timestamp=START))
    plain = choose_context(Popular(), once, ("weather",), ONE)
    assert not plain.items


# What is asked


def test_a_temporal_split_does_not_learn_from_later_events(planted: Case, asked: Asked) -> None:
    ablate(planted, ONE, asked=150)
    assert [call[0] for call in asked.calls] == ALL
    for _, _, people, groups, _ in asked.calls:
        last = people.train.interactions["timestamp"].max()
        assert last < people.requests["at"].min()
        assert people.train.reactions["timestamp"].max() < people.requests["at"].min()
        assert groups.train is people.train
        assert groups.requests["at"].min() >= people.requests["at"].min()
    _, people, _, _ = asked.of(BASE)
    assert len(people.requests) == 150
    share = len(people.train.interactions) / len(planted.data.interactions)
    assert share == pytest.approx(0.8, abs=0.01)
    row, item = people.relevant.nonzero()
    assert row.tolist() == list(range(150))
    users = people.requests["user"].to_numpy()
    assert people.train.matrix()[users, item].sum() == 0
    events = planted.data.interactions
    happened = pd.MultiIndex.from_frame(events[["user", "item", "timestamp"]])
    wanted = pd.MultiIndex.from_arrays([users, item, people.requests["at"]])
    assert wanted.isin(happened).all()


def test_titles_are_new_to_the_whole_group_and_members_are_its_household(
    planted: Case, asked: Asked
) -> None:
    ablate(planted, ONE, asked=150)
    _, people, groups, _ = asked.of(BASE)
    home = planted.data.groups.groupby("group_id")["user"].agg(set).tolist()
    assert 0 < len(groups.requests) < len(people.requests)
    title = groups.relevant.indices
    for row, request in enumerate(groups.requests.itertuples()):
        assert request.user in request.members
        assert len(set(request.members)) == len(request.members) >= 2
        assert set(request.members) in home
        assert not seen(groups, request.members, title[row]).any()
    # All others were left out since somebody knows the title, or lives alone.
    kept = set(zip(groups.requests["user"], groups.requests["at"], title, strict=True))
    for row, request in enumerate(people.requests.itertuples()):
        item = people.relevant.indices[row]
        if (request.user, request.at, item) not in kept:
            mine = next((each for each in home if request.user in each), {request.user})
            assert len(mine) < 2 or seen(people, list(mine), item).any()


@pytest.mark.parametrize("size", [2, 5])
def test_made_up_groups_are_of_as_many_different_people(size: int, asked: Asked) -> None:
    ablate(Case("lone", lone(), ordered=True), ONE, size=size)
    _, people, groups, _ = asked.of(BASE)
    assert {len(set(members)) for members in groups.requests["members"]} == {size}
    assert {len(members) for members in groups.requests["members"]} == {size}
    everybody = np.concatenate(groups.requests["members"].tolist())
    assert len(np.unique(everybody)) > 50
    known = set(np.flatnonzero(people.train.user_counts)) | set(people.requests["user"])
    assert set(everybody) <= known
    assert [m[0] for m in groups.requests["members"]] == groups.requests["user"].tolist()
    for row, members in enumerate(groups.requests["members"]):
        assert not seen(groups, members, groups.relevant.indices[row]).any()


def test_everybody_is_as_likely_to_be_seated_beside() -> None:
    users = np.arange(30).repeat(200)
    found = np.array(ablation._beside(users, lone(people=30), 2))
    count = np.bincount(found[:, 1], minlength=30)
    assert count.sum() == 6000
    assert np.abs(count - 200).max() < 5 * np.sqrt(200)
    assert (found[:, 0] != found[:, 1]).all()
    whole = np.array(ablation._beside(users[:200], lone(people=30), 30))
    assert (np.sort(whole, axis=1) == np.arange(30)).all()


def test_unordered_events_are_dealt_to_as_many_folds_as_it_takes(asked: Asked) -> None:
    data = lone()
    ablate(Case("lone", data, ordered=False), ONE, asked=300)
    bases = [call for call in asked.calls if call[0] == BASE]
    assert [people.name for _, _, people, _, _ in bases] == ["event-fold-0", "event-fold-1",
                                                            "event-fold-2"]  # fmt: skip
    for _, _, people, groups, _ in bases:
        assert len(people.requests) == 100
        assert len(people.train.interactions) == pytest.approx(720, abs=30)
        row, item = people.relevant.nonzero()
        assert people.train.matrix()[people.requests["user"].to_numpy()[row], item].sum() == 0
        assert groups.train is people.train
    asked.calls.clear()
    ablate(Case("lone", data, ordered=False), ONE, asked=80)
    assert [call[2].name for call in asked.calls] == ["event-fold-0"] * 2
    asked.calls.clear()
    ablate(Case("lone", data, ordered=False), replace(ONE, test_share=0.9), asked=5000)
    assert [call[2].name for call in asked.calls if call[0] == BASE] == ["event-fold-0",
                                                                        "event-fold-1"]  # fmt: skip


def test_without_anything_to_add_there_is_no_placebo(asked: Asked) -> None:
    ablate(Case("lone", lone(), ordered=False), ONE, asked=80)
    assert [call[0] for call in asked.calls] == [POPULAR, BASE]


@pytest.mark.parametrize("data", [lone(), homes()], ids=["people", "households"])
def test_simulated_context_is_hidden_from_all(data: Dataset, asked: Asked) -> None:
    drawn = np.random.default_rng(4).choice(["sunny", "rainy"], len(data.interactions))
    events = data.interactions.assign(
        weather=pd.array(drawn, "str"), companion=pd.array(drawn, "str")
    )
    data = told(replace(data, interactions=events), weather="simulated", companion="observed")
    ablate(Case("drawn", data, ordered=True), ONE, asked=80)
    _, people, groups, _ = asked.of(BASE)
    for split in (people, groups):
        assert "companion" in split.requests
        assert "companion" in split.train.interactions
        assert "weather" not in split.requests
        assert "weather" not in split.train.interactions


# Households with a history of their own


@pytest.mark.parametrize("ordered", [False, True])
def test_what_a_household_watched_is_hidden_from_its_members(ordered: bool, asked: Asked) -> None:
    data = homes()
    case = Case("homes", data, ordered)
    ablate(case, ONE, asked=100)
    _, people, groups, _ = asked.of(BASE)
    assert np.isin(groups.requests["user"], case.rows).all()
    assert 0 < len(groups.requests) <= 100
    assert {len(members) for members in groups.requests["members"]} == {2}
    hidden = 0
    for row, request in enumerate(groups.requests.itertuples()):
        name = data.user_ids[request.user]
        assert {data.user_ids[m] for m in request.members} == {f"u{name[1:]}-{w}" for w in (0, 1)}
        item = groups.relevant.indices[row]
        assert not seen(groups, [request.user, *request.members], item).any()
        assert data.matrix()[request.user, item] > 0
        hidden += data.matrix()[np.array(request.members), item].sum() > 0
    assert hidden > 20  # of which a member has watched many as well
    assert not groups.train.interactions["user"].isin(case.rows).any()
    assert not people.train.interactions["user"].isin(case.rows).any()
    assert not people.requests["user"].isin(case.rows).any()
    if ordered:
        assert groups.train.interactions["timestamp"].max() < groups.requests["at"].min()
        assert groups.requests["at"].min() >= people.train.interactions["timestamp"].max()


def test_households_are_asked_once_however_many_folds_people_take(asked: Asked) -> None:
    ablate(Case("homes", homes(), ordered=False), ONE, asked=500)
    bases = [call for call in asked.calls if call[0] == BASE]
    assert len(bases) > 1
    asked_of = [(people is not None, groups is not None) for _, _, people, groups, _ in bases]
    assert asked_of == [(True, False)] * (len(bases) - 1) + [(False, True)]


def test_households_are_in_the_values_once_each() -> None:
    found = ablate(Case("homes", homes(), ordered=False), ONE, asked=500)
    assert found.values.query("who == 'people'")["split"].nunique() > 1
    key = ["who", "model", "seed", "split", "request", "metric"]
    assert not found.values.duplicated(key).any()
    groups = found.values.query("who == 'groups'")
    assert set(groups["split"]) == {"households"}
    assert set(groups["members"]) == {2}
    tests = paired_tests(groups, POPULAR, unit="request")
    assert tests.set_index(["model", "metric"]).loc[(BASE, "ndcg@10"), "low"] > 0.1


def test_groups_that_are_no_users_are_left_out_among_households_that_are(asked: Asked) -> None:
    data = homes()
    club = pd.DataFrame({"group_id": "club", "user": [0, 1, 2]})
    data = replace(data, groups=pd.concat([data.groups, club], ignore_index=True))
    ablate(Case("homes", data, ordered=False), ONE, asked=50)
    _, _, groups, _ = asked.of(BASE)
    assert {len(members) for members in groups.requests["members"]} == {2}


# Placebo


def test_a_placebo_learns_from_moments_that_changed_places_and_other_friends(
    planted: Case, asked: Asked
) -> None:
    ablate(planted, Settings(seeds=(0, 1)), asked=50)
    blind = [call for call in asked.calls if call[0] == PLACEBO]
    true = [call for call in asked.calls if call[0] == BOTH]
    assert [call[4] for call in blind] == [0, 1]
    for (_, stage, people, groups, _), (_, same, honest, whole, _) in zip(blind, true, strict=True):
        assert stage == same
        assert groups.train is people.train
        pd.testing.assert_frame_equal(people.requests, honest.requests)
        pd.testing.assert_frame_equal(groups.requests, whole.requests)
        one, other = people.train.interactions, honest.train.interactions
        kept = ["user", "item", "timestamp"]
        pd.testing.assert_frame_equal(one[kept], other[kept])
        assert (one["companion"] != other["companion"]).mean() > 0.3
        assert "daypart" in one and "daypart" not in other
        assert (people.train.friends != honest.train.friends).nnz > 0
        ties = [np.diff(each.train.friends.indptr) for each in (people, honest)]
        np.testing.assert_array_equal(*ties)
    first, second = (call[2].train.interactions["companion"] for call in blind)
    assert (first != second).any()


def test_nothing_true_is_left_in_what_misleads(planted: Case) -> None:
    data = planted.data
    blind = misled(data, seed=0)
    events = blind.interactions.groupby("user")["weather"].value_counts()
    pd.testing.assert_series_equal(
        events.sort_index(),
        data.interactions.groupby("user")["weather"].value_counts().sort_index(),
    )
    pd.testing.assert_frame_equal(blind.interactions, misled(data, seed=0).interactions)
    assert "daypart" not in data.interactions  # the data themselves stay as they are


def test_the_placebo_of_households_hides_what_they_watched_too(asked: Asked) -> None:
    """Else the title is known to a member, and is not to be found at all."""
    data = homes()
    devices = np.random.default_rng(5).choice(["sunny", "rainy"], len(data.interactions))
    events = data.interactions.assign(weather=pd.array(devices, "str"))
    case = Case("homes", replace(data, interactions=events), ordered=False)
    ablate(case, ONE, asked=60)
    _, people, groups, _ = asked.of(PLACEBO)
    _, honest, whole, _ = asked.of(CONTEXT)
    for row, request in enumerate(groups.requests.itertuples()):
        assert not seen(groups, request.members, groups.relevant.indices[row]).any()
    for blind, true in ((people, honest), (groups, whole)):
        columns = ["user", "item"]
        pd.testing.assert_frame_equal(
            blind.train.interactions[columns], true.train.interactions[columns]
        )
        changed = blind.train.interactions["weather"] != true.train.interactions["weather"]
        assert changed.mean() > 0.2


# What is found


@pytest.fixture(scope="module")
def found() -> Ablation:
    """The small world, taken apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "rank_bases", lambda train, settings: (BASES, ["EASE"], ""))
        tables = simulate(WORLD)[0]
        return ablate(Case("world", Dataset.from_tables(tables), ordered=True), ONE, asked=150)


def test_values_are_those_of_every_variant_for_people_and_groups(found: Ablation) -> None:
    assert (found.base, found.friends) == ("EASE", "simulated")
    assert found.dimensions == found.case.dimensions()
    values = found.values
    assert list(dict.fromkeys(values["model"])) == ALL
    assert values.index.tolist() == list(range(len(values)))
    assert set(values["metric"]) == {"ndcg@10"}
    assert set(values["split"]) == {"temporal"}
    sizes = values.groupby(["who", "metric", "model"]).size().unstack("model")
    assert (sizes.nunique(axis=1) == 1).all()
    assert (sizes.loc[PEOPLE] == 150).all(axis=None)
    assert (sizes.loc[GROUPS] < 150).all(axis=None)
    assert values["value"].between(0, 1).all()
    better = values.query("metric == 'ndcg@10'").groupby(["who", "model"])["value"].mean()
    assert better[PEOPLE, BASE] > better[PEOPLE, POPULAR]


def test_a_stage_is_asked_as_it_would_be_alone(found: Ablation) -> None:
    """The hits of popularity can be counted by hand."""
    case = found.case
    cut = case.data.interactions["timestamp"].quantile(0.8)
    count = case.data.until(cut).item_counts
    people = ablation._questions(case, found.dimensions, ONE, 150, 3)[0][PEOPLE]
    hits = []
    for row, user in enumerate(people.requests["user"]):
        item = people.relevant.indices[row]
        unseen = people.train.matrix()[[user]].toarray()[0] == 0
        above = (count[unseen] > count[item]).sum()
        level = (count[unseen] == count[item]).sum() - 1
        hits.append((above + level < 10, above < 10))  # ties are broken by chance
    least, most = np.mean(hits, axis=0)
    shown = found.values.query("who == 'people' and model == 'Popular' ")
    assert least <= (shown["value"] > 0).mean() <= most


def test_requests_are_told_apart_by_what_segments_need(found: Ablation) -> None:
    case, values = found.case, found.values
    people, groups = ablation._questions(case, found.dimensions, ONE, 150, 3)[0].values()
    for who, split in ((PEOPLE, people), (GROUPS, groups)):
        rows = values[(values["who"] == who) & (values["model"] == BOTH)]
        request = split.requests.iloc[rows["request"]]
        assert (rows["user"].to_numpy() == request["user"].to_numpy()).all()
        history = [np.count_nonzero(seen_all) for seen_all in
                   split.train.matrix()[request["user"].to_numpy()].toarray()]  # fmt: skip
        assert rows["history"].tolist() == history
        hour = request["at"].dt.hour.to_numpy()
        evening = rows["daypart"].to_numpy() == "evening"
        assert evening.any() and not evening.all()
        assert hour[evening].min() > hour[rows["daypart"].to_numpy() == "afternoon"].max()
    assert (values.query("who == 'people'")["members"] == 1).all()
    seated = groups.requests["members"].map(len).to_numpy()
    rows = values[values["who"] == GROUPS]
    assert rows["members"].tolist() == seated[rows["request"]].tolist()
    cut = values[values["who"] == PEOPLE].assign(long=values["history"] > 15)
    tested = segments(cut, BOTH, BASE, ["daypart", "long"], "ndcg@10")
    assert set(tested.interactions["by"]) == {"daypart", "long"}


def test_the_same_call_gives_the_same_values_whatever_the_number_of_jobs(found: Ablation) -> None:
    with joblib.parallel_config(backend="threading"):
        again = ablate(found.case, ONE, asked=150, n_jobs=2)
    pd.testing.assert_frame_equal(again.values, found.values)


@pytest.mark.parametrize("ordered", [False, True])
def test_a_daypart_follows_from_times_that_are_real_only(ordered: bool) -> None:
    daypart = ablate(Case("lone", lone(), ordered), ONE, asked=60).values["daypart"]
    assert daypart.notna().all() if ordered else daypart.isna().all()


def test_an_observed_daypart_is_told_without_times() -> None:
    observed = np.where(np.arange(900) % 2, "morning", "night")
    found = ablate(Case("lone", lone(daypart=observed), ordered=False), ONE, asked=60)
    assert found.dimensions == ("daypart",)
    assert found.friends == ""
    assert set(found.values["daypart"]) == {"morning", "night"}
    assert set(found.values["model"]) == {POPULAR, BASE, CONTEXT, PERSONAL, PLACEBO}


def test_observed_friends_are_told() -> None:
    data = lone()
    names = data.user_ids
    ties = pd.DataFrame({"user_id": names, "friend_id": np.roll(names, 1)})
    history = data.interactions.assign(
        user_id=names[data.interactions["user"]],
        content_id=data.item_ids[data.interactions["item"]],
    )[["user_id", "content_id", "timestamp"]]
    tables = Tables(history, user_connections=ties, manifest={"name": "ties"})
    found = ablate(Case("ties", Dataset.from_tables(tables), ordered=False), ONE, asked=60)
    assert found.friends == "observed"
    assert list(dict.fromkeys(found.values["model"])) == [POPULAR, BASE, FRIENDS, PERSONAL, PLACEBO]


# Too little


@pytest.mark.parametrize(
    ("data", "ordered", "options", "message"),
    [
        (lone(events=3), True, {}, "the temporal split has nothing to ask for: use more events"),
        (lone(events=1), False, {}, "event-fold-0 split has nothing to ask for: use more events"),
        (lone(), True, {"size": 61}, "groups of 61 cannot be made of 60 people"),
        (lone(), True, {"size": 1}, "2 people or more, not 1"),
        (lone(), True, {"asked": 0}, "ask for 1 event or more, not 0"),
        (
            lone(people=3, titles=30, events=500).keep(np.arange(500) > 60),
            True,
            {"size": 3},
            "the temporal split has nothing to ask (groups )?for: use more events",
        ),
    ],
)
def test_too_little_is_one_error(
    data: Dataset, ordered: bool, options: dict[str, Any], message: str, asked: Asked
) -> None:
    with pytest.raises(ValueError, match=message):
        ablate(Case("lone", data, ordered), ONE, **options)
    assert not asked.calls


def test_households_that_watched_nothing_new_are_one_error(asked: Asked) -> None:
    data = homes()
    rows = Case("homes", data, ordered=False).rows
    events = data.interactions
    alone = events["user"].isin(rows)
    gone = ~alone | (np.cumsum(alone) <= 1)
    with pytest.raises(LeftOut, match="households split has nothing to ask households for"):
        ablate(Case("homes", data.keep(gone.to_numpy()), ordered=True), ONE)
    assert not asked.calls


def test_one_instant_is_one_error(asked: Asked) -> None:
    data = lone()
    once = replace(data, interactions=data.interactions.assign(timestamp=START))
    with pytest.raises(LeftOut, match="temporal split has nothing to ask for"):
        ablate(Case("lone", once, ordered=True), ONE)
    assert not asked.calls
