from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from firetv import growth
from firetv.abtest import mean_interval
from firetv.artefacts import Artefact, write_artefact
from firetv.benchmark_plots import plot_growth
from firetv.data import load
from firetv.growth import (
    STAGES,
    Meter,
    Size,
    Work,
    exponents,
    grid,
    measure,
    results,
    with_items,
    with_users,
)
from firetv.metrics import hits_at
from firetv.slate import EMPTY
from firetv.splits import temporal_split
from firetv.steps import FactorStep

linux = pytest.mark.skipif(not os.access(growth.CLEAR, os.W_OK), reason="needs Linux's counters")
SMALL = Size(users=60, items=80, events=1500)
WORK = Work(components=4, epochs=1, proposals=20, chunk=16)


# Meters


@linux
def test_a_meter_sees_the_peak_of_its_own_turns() -> None:
    """Not one from before, and not only what is left at the end."""
    del_me = np.ones(30_000_000)
    del del_me
    meter = Meter()
    for megabytes in (40, 10):
        with meter.running():
            np.ones(megabytes * 1_000_000 // 8).sum()
    assert meter.extra_bytes == pytest.approx(40e6, abs=5e6)
    assert meter.peak_bytes > meter.extra_bytes
    assert meter.seconds > 0


def test_without_counters_memory_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "STATUS", tmp_path / "none")
    monkeypatch.setattr(growth, "CLEAR", tmp_path / "none" / "clear")
    meter = Meter()
    with meter.running():
        pass
    assert meter.seconds > 0
    assert np.isnan([meter.extra_bytes, meter.peak_bytes]).all()


# Stages


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    return growth._world(SMALL, folder, seed=0)


@pytest.fixture(scope="module")
def asked(world: Path) -> growth._Asked:
    return growth._Asked.of(load(world), seed=0)


@pytest.fixture(scope="module")
def model(asked: growth._Asked) -> FactorStep:
    return growth._Run(WORK).train(asked.train)


def test_a_process_measures_every_stage(tmp_path: Path) -> None:
    found = grid([SMALL], tmp_path, WORK)
    assert found["stage"].tolist() == list(STAGES)
    assert (found["seconds"] > 0).all()
    assert (found[["users", "items", "events"]] == [60, 80, 1500]).all(axis=None)
    written = results(found)
    data = {"name": "synthetic", "rows": 1500, "checksum": ""}
    write_artefact(Artefact("growth", {}, data, written, ()), tmp_path / "growth.json")


@pytest.mark.parametrize(("code", "why"), [(1, "see above"), (-9, "killed, likely for want of")])
def test_a_process_that_fails_is_an_error_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, why: str
) -> None:
    failed = subprocess.CompletedProcess([], code, "")
    monkeypatch.setattr(growth.subprocess, "run", lambda *_, **__: failed)
    message = f"60 users, 80 titles, 1,500 events: measuring failed with code {code} .{why}"
    with pytest.raises(RuntimeError, match=message):
        measure(SMALL, tmp_path, WORK)


def test_a_world_is_made_once(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "generate", None)
    assert growth._world(SMALL, world.parent, seed=0) == world
    assert load(world).shape == (60, 80)


def test_lists_are_of_unseen_titles_and_do_not_depend_on_the_chunk(
    asked: growth._Asked, model: FactorStep
) -> None:
    lists = growth._Run(WORK).lists(model, asked)
    assert lists.shape == (60, 10)
    assert (lists != EMPTY).all()
    assert not hits_at(lists, asked.train.matrix()).any()
    whole = growth._Run(replace(WORK, chunk=1000))
    np.testing.assert_array_equal(whole.lists(model, asked), lists)


def test_what_is_to_be_found_is_that_of_the_temporal_split(
    world: Path, asked: growth._Asked
) -> None:
    split = temporal_split(load(world))
    users = split.requests["user"].to_numpy()
    assert (asked.relevant[users] != split.relevant).nnz == 0
    assert asked.relevant.nnz == split.relevant.nnz
    pd.testing.assert_frame_equal(asked.train.interactions, split.train.interactions)
    assert (asked.requests["at"] >= split.requests["at"].iloc[0]).all()


def test_metrics_are_of_every_user(asked: growth._Asked, model: FactorStep) -> None:
    run = growth._Run(WORK)
    found = run.evaluate(run.lists(model, asked), asked.relevant)
    assert set(found) == set(growth.METRICS)
    assert all(values.shape == (60,) for values in found.values())
    assert run.bootstrap(found["ndcg"]) == mean_interval(found["ndcg"], 0)
    assert set(run.meters) == {"score", "re-rank", "evaluate", "bootstrap"}


def test_lightfm_has_its_limit(asked: growth._Asked) -> None:
    run = growth._Run(replace(WORK, warp_events=100))
    run.train(asked.train)
    assert set(run.meters) == {"train ALS"}


# Sizes and exponents


def test_sizes_grow_in_one_way() -> None:
    assert with_users([10, 100], items=5, events_each=2) == [Size(10, 5, 20), Size(100, 5, 200)]
    assert with_items([5, 50], users=10, events=20) == [Size(10, 5, 20), Size(10, 50, 20)]
    with pytest.raises(ValueError, match="nothing to measure"):
        grid([])


def planted_growth(power: float, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Two stages at four sizes, one of them with less than can be timed."""
    rng, users = np.random.default_rng(seed), np.array([1e3, 1e4, 1e5, 1e6])
    seconds = 1e-4 * users**power * np.exp(noise * rng.normal(size=4))
    frame = pd.DataFrame({"users": users, "items": 50, "events": 20 * users, "stage": "score"})
    frame = frame.assign(
        seconds=seconds, cpu_seconds=np.nan, extra_bytes=3e3 * users, peak_bytes=np.nan
    )
    return pd.concat([frame, frame.assign(stage="evaluate", seconds=1e-6 * users)])


def test_exponents_are_slopes_of_what_can_be_timed() -> None:
    found = exponents(planted_growth(1.5)).set_index(["model", "metric"])
    assert found.loc[("score", "exponent of seconds"), "value"] == pytest.approx(1.5)
    assert ("evaluate", "exponent of seconds") not in found.index  # two sizes above the noise
    memory = found.loc[("score", "exponent of extra_bytes")]
    assert (memory["n"], memory["value"]) == (3, pytest.approx(1.0))  # 3 MB do not count


def test_intervals_of_exponents_cover_the_truth() -> None:
    covered = 0
    for seed in range(200):
        frame = planted_growth(1.0, noise=0.2, seed=seed)[:4]
        slope, margin = growth._slope(frame["users"], frame["seconds"])
        covered += abs(slope - 1.0) <= margin
    assert 0.90 <= covered / 200 <= 0.99


def test_results_are_medians_of_what_was_measured() -> None:
    frame = pd.concat(planted_growth(1.0).assign(seconds=s) for s in (1.0, 5.0, 2.0))
    row = results(frame).set_index(["model", "metric"]).loc[("score", "seconds")].iloc[0]
    assert row[["value", "low", "high", "n"]].tolist() == [2.0, 1.0, 5.0, 3]


def test_results_leave_out_what_was_not_measured() -> None:
    written = results(planted_growth(1.0))
    assert set(written["metric"]) == {"seconds", "extra_bytes"}
    assert written["split"].iloc[0] == "1,000 users, 50 titles, 20,000 events"
    assert not written.isna().any(axis=None)


# Figures


@pytest.mark.parametrize("quantity", ["seconds", "extra_bytes"])
def test_the_figure_names_each_line_with_its_exponent(quantity: str) -> None:
    frame = planted_growth(1.5)
    ax = plot_growth(frame, "users", quantity, exponents(frame))
    texts = {text.get_text(): text for text in ax.texts}
    exponent = "1.50" if quantity == "seconds" else "1.00"
    assert f"score  {exponent}" in texts
    assert any(text.startswith("evaluate") for text in texts)
    guide = ax.lines[-1]
    assert guide.get_linestyle() == ":"
    x, y = guide.get_data()
    assert np.log(y[1] / y[0]) == pytest.approx(np.log(x[1] / x[0]))
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    heights = np.sort([text.xyann[1] for text in ax.texts])
    assert np.diff(heights).min() > 0.04
    plt.close(ax.figure)


def test_a_stage_keeps_its_colour_where_others_are_missing() -> None:
    frame = planted_growth(1.0)
    frame.loc[frame["stage"] == "score", "extra_bytes"] = np.nan
    colors = []
    for quantity in ("seconds", "extra_bytes"):
        ax = plot_growth(frame, "users", quantity)
        colors += [text.get_color() for text in ax.texts if text.get_text() == "evaluate"]
        plt.close(ax.figure)
    assert colors == ["C1", "C1"]


def test_a_figure_of_unknown_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="on Linux only"):
        plot_growth(planted_growth(1.0), "users", "peak_bytes")
