"""Races: the peers give our answers, whole and in part, and what is timed is what is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from firetv import benchmarks, speed
from firetv.artefacts import RESULT_COLUMNS
from firetv.data import Dataset
from firetv.group_reasons import STRATEGIES
from firetv.splits import random_split


def shares(race: speed.Race) -> dict[str, float]:
    return {peer: share() for peer, share in race.answers.items()}


@pytest.mark.parametrize("threads", [1, 2])
def test_peers_of_scoring_find_the_same_lists(threads: int) -> None:
    race = speed.top_lists(60, 90, 8, seen_each=10, k=5, sample=7, seed=0)(threads)
    assert shares(race) == {"implicit": 1, "numpy": 1, "LightFM": 1}
    assert race.parts == {"LightFM": 7 / 60}


def test_lightfms_evaluation_says_the_same(data: Dataset) -> None:
    race = speed.lightfm_evaluation(random_split(data, seed=0), factors=4, k=5, seed=0)
    assert shares(race) == {"LightFM": 1}


def test_lists_hold_titles_once_and_something_relevant() -> None:
    lists = speed.Lists.drawn(users=50, items=97, k=10, each=6, seed=0)
    assert lists.items.shape == (50, 10)
    assert (lists.items >= 0).all() and (lists.items < 97).all()
    assert all(len(set(row)) == 10 for row in lists.items.tolist())
    found = lists.metrics()
    assert list(found) == list(speed.METRICS)
    assert (found["precision"] > 0).all() and found["precision"].mean() < 0.5


@pytest.mark.parametrize("candidates", [8, None])
def test_re_ranking_changes_lists_and_not_their_length(
    data: Dataset, candidates: int | None
) -> None:
    race = speed.reranking(random_split(data, seed=0), 4, 5, candidates, seed=0)
    boosted, plain = (race.works[name]() for name in (speed.OURS, "scoring alone"))
    assert boosted.shape[1] == 5
    assert plain.shape[1] == (candidates or 5)
    assert {"friends", "taste"} <= set(boosted.parts) and set(plain.parts) == {"taste"}
    if candidates:  # nothing that the model did not propose
        proposed = [set(row) for row in plain.items.tolist()]
        assert all(set(row) <= known for row, known in zip(boosted.items, proposed, strict=True))


def test_every_strategy_has_a_loop_that_agrees() -> None:
    races = speed.group_strategies(12, 3, 60, k=5, sample=4, seed=0)
    assert list(races) == list(STRATEGIES)
    assert {name: shares(race)["loop"] for name, race in races.items()} == dict.fromkeys(races, 1)
    assert {race.parts["loop"] for race in races.values()} == {4 / 12}


def test_what_is_timed_in_part_is_scaled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = pd.DataFrame({"firetv": [1.0, 2.0], "slow": [3.0, 3.0]})
    monkeypatch.setattr(benchmarks, "by_turns", lambda works, repeats, threads: timed.copy())
    race = speed.Race({"firetv": dict, "slow": dict}, {"slow": lambda: 0.75}, {"slow": 0.1})
    found = race.run("a", "b", repeats=2).set_index(["model", "metric"])
    assert list(race.run("a", "b", repeats=2)) == list(RESULT_COLUMNS)
    assert found.loc[("slow", "seconds"), "value"] == pytest.approx(30)
    assert found.loc[("slow", "times"), ["value", "low", "high"]].tolist() == [22.5, 15, 30]
    assert found.loc[("slow", "same answers"), "value"] == 0.75


def test_a_peer_elsewhere_is_compared_with_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lists = speed.Lists.drawn(users=20, items=50, k=5, each=4, seed=0)
    means = {name: float(np.mean(values)) for name, values in lists.metrics().items()}
    told = {"values": means | {"map": 0.0}, "evaluate_seconds": [1.0, 3.0], "build_seconds": [9.0]}
    monkeypatch.setattr(benchmarks, "environment", lambda name, pins: tmp_path)
    monkeypatch.setattr(benchmarks, "elsewhere", lambda *arguments, threads: told)
    found = lists.against("ranx", "few", repeats=2).set_index(["model", "metric"])
    assert found.loc[("ranx", "seconds"), ["value", "low", "high"]].tolist() == [2, 1, 3]
    assert found.loc[("ranx", "building, seconds"), "value"] == 9
    assert found.loc[("ranx", "same answers"), "value"] == 0.8
    ours = found.loc[("firetv", "seconds")]
    assert ours["n"] == 4
    assert found.loc[("ranx", "times"), "value"] == pytest.approx(2 / ours["value"])
