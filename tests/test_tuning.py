from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from firetv import tuning
from firetv.cli import app
from firetv.data import Dataset, Tables, load, write_tables
from firetv.evaluate import Run
from firetv.models import ItemKNN
from firetv.packaged import MODELS, packaged_values
from firetv.schema import DataError
from firetv.splits import published_split, random_split, temporal_split
from firetv.tuning import SPACES, Search, defaults, tune

KNN = Search("itemknn", seed=3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "study.db"


@pytest.fixture(scope="module")
def folder(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables")
    write_tables(tables, path)
    return path


def trials(file: Path, state: str = "COMPLETE") -> list[tuple[dict[str, Any], float | None]]:
    """Parameters and value of a study's trials in a state."""
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{file}")
    return [(t.params, t.value) for t in study.trials if t.state.name == state]


# What a study finds


@pytest.mark.parametrize("name", MODELS)
def test_every_model_can_be_tuned(name: str, data: Dataset, file: Path) -> None:
    tuned = tune(data, Search(name), file, trials=2)
    (first, value), (second, _) = trials(file)
    assert first == defaults(name)
    assert second == packaged_values(name)
    assert value == tuned.defaults.value
    assert first != second
    assert tuned.trials == 2
    assert tuned.best.value >= tuned.defaults.value > 0
    assert json.loads(json.dumps(tuned.document()))["parameters"] == tuned.parameters


def test_the_history_lists_every_finished_trial_in_order(
    data: Dataset, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune(data, KNN, file, trials=1)
    for count in (2, 5):
        tuned = tune(data, KNN, file, trials=count)
    history = [(each["parameters"], each["value"]) for each in tuned.history]
    assert history == trials(file)
    assert len(history) == tuned.trials == 5  # what was interrupted is not among it
    assert history[0] == (KNN.defaults, tuned.defaults.value)
    assert (tuned.parameters, max(value for _, value in history)) in history
    assert tuned.document()["history"] == list(tuned.history)


# What a study sees


def test_validation_lies_before_the_test_part_and_after_what_is_learned_from(
    data: Dataset,
) -> None:
    search = Search(test_share=0.3, validation_share=0.25)
    (split,), times = search.splits(data), data.interactions["timestamp"].sort_values()
    assert split.train.interactions["timestamp"].max() < split.requests["at"].min()
    assert len(split.train.interactions) == pytest.approx(0.7 * 0.75 * len(times), abs=2)
    asked = data.interactions[data.interactions["timestamp"].between(
        split.requests["at"].iloc[0], times.iloc[419]
    )]  # fmt: skip
    assert split.relevant.nnz <= len(asked[["user", "item"]].drop_duplicates())
    assert set(split.requests["user"]) <= set(asked["user"])


def changed(data: Dataset, late: bool) -> Dataset:
    """The data with other items in all events of the test part, or before it, ratings included."""
    cut = data.interactions["timestamp"].quantile(0.8)

    def other(events: pd.DataFrame) -> pd.DataFrame:
        moved = (events["timestamp"] >= cut) == late
        item = np.where(moved, (events["item"] + events["user"]) % data.shape[1], events["item"])
        return events.assign(item=item.astype(np.int32))

    interactions = other(data.interactions).assign(completion=0.5 if late else 0.1)
    interactions["completion"] = interactions["completion"].where(
        (interactions["timestamp"] >= cut) == late, data.interactions["completion"]
    )
    return replace(data, interactions=interactions, reactions=other(data.reactions))


def test_the_test_part_changes_nothing(data: Dataset, file: Path, tmp_path: Path) -> None:
    search = Search("lightfm", seed=1)
    tuned = tune(data, search, file, trials=2)
    other = changed(data, late=True)
    assert not other.interactions.equals(data.interactions)
    assert tune(other, search, tmp_path / "other.db", trials=2) == tuned
    assert trials(tmp_path / "other.db") == trials(file)
    tune(other, search, file, trials=3)  # the same study, for all it knows


def same_learning(one: Dataset, other: Dataset) -> bool:
    """Whether two data sets hold the same events and reactions."""
    return one.interactions.equals(other.interactions) and one.reactions.equals(other.reactions)


def elsewhere(data: Dataset, hidden: np.ndarray) -> Dataset:
    """The data with what a user never met in place of some events, shape (n,)."""
    events, said = data.interactions, data.reactions
    keys = pd.MultiIndex.from_frame(events.loc[hidden, ["user", "item"]])
    rated = pd.MultiIndex.from_frame(said[["user", "item"]]).isin(keys)
    new = (data.matrix().toarray()[events["user"]] == 0).argmax(axis=1)
    interactions = events.assign(
        item=np.where(hidden, new, events["item"]).astype(np.int32),
        completion=events["completion"].where(~hidden, 0.5),
    )
    return replace(data, interactions=interactions, reactions=said[~rated])


def single(data: Dataset) -> Dataset:
    """The first event of each pair: as of ratings, so that no pair is both learned and tested."""
    first = ~data.interactions.duplicated(["user", "item"])
    said = data.reactions.drop_duplicates(["user", "item"])
    return replace(data, interactions=data.interactions[first], reactions=said)


def published_test(data: Dataset) -> np.ndarray:
    """Which events are in the published test part, bool (n,)."""
    train = published_split(data).train.interactions
    return ~data.interactions.index.isin(train.index)


def test_the_published_protocol_sees_neither_test_part(data: Dataset) -> None:
    data, search = single(data), Search("ease", protocol="published", seeds=2)
    seen, events = search.seen(data), data.interactions
    late = (events["timestamp"] >= events["timestamp"].quantile(0.8)).to_numpy()
    test = published_test(data)
    assert 0.2 < test.mean() < 0.3
    np.testing.assert_array_equal(seen.interactions.index, events.index[~(test | late)])
    for hidden in (test, late):
        other = elsewhere(data, hidden)
        assert not same_learning(other, data)
        assert same_learning(search.seen(other), seen)
        for one, two in zip(search.splits(other), search.splits(data), strict=True):
            assert same_learning(one.train, two.train)
            assert (one.relevant != two.relevant).nnz == 0
            pd.testing.assert_frame_equal(one.requests, two.requests)
            np.testing.assert_array_equal(one.candidates, two.candidates)
    assert not same_learning(search.seen(elsewhere(data, ~(test | late))), seen)


def test_neither_test_part_changes_a_published_study(
    data: Dataset, file: Path, tmp_path: Path
) -> None:
    data, search = single(data), Search("ease", protocol="published")
    tuned = tune(data, search, file, trials=2)
    events = data.interactions
    late = (events["timestamp"] >= events["timestamp"].quantile(0.8)).to_numpy()
    for number, hidden in enumerate((published_test(data), late)):
        other = elsewhere(data, hidden)
        assert tune(other, search, tmp_path / f"{number}.db", trials=2) == tuned
    assert tuned.document()["split"]["protocol"] == "published"
    assert tuned.data["rows"] == len(search.seen(data).interactions)


def test_splits_of_the_published_protocol_differ_with_the_seed_and_repeat(data: Dataset) -> None:
    search = Search("ease", protocol="published", seeds=3, seed=4, validation_share=0.3)
    splits, seen = search.splits(data), search.seen(data)
    assert [split.name for split in splits] == ["validation"] * 3
    for number, (split, again) in enumerate(zip(splits, search.splits(data), strict=True)):
        expected = random_split(seen, 4 + number, 0.3)
        for other in (again, expected):
            assert same_learning(split.train, other.train)
            assert (split.relevant != other.relevant).nnz == 0
    held_out = [set(zip(*split.relevant.nonzero(), strict=True)) for split in splits]
    assert len({frozenset(each) for each in held_out}) == 3
    (later,) = Search("ease", protocol="published", seed=5, validation_share=0.3).splits(data)
    assert same_learning(later.train, splits[1].train)


def test_a_published_study_averages_over_its_splits(data: Dataset, file: Path) -> None:
    search = Search("itemknn", protocol="published", seeds=2, k=5)
    tuned = tune(data, search, file, trials=1)
    runs = [
        tuning.run("itemknn", ItemKNN(), split, seed, 5)
        for seed, split in enumerate(search.splits(data))
    ]
    values = tuning.measure(runs, ["ndcg"])
    assert tuned.best.value == pytest.approx(
        values.groupby("user")["value"].mean().mean(), rel=0.02
    )


def test_what_comes_before_the_test_part_matters(data: Dataset, file: Path, tmp_path: Path) -> None:
    tuned = tune(data, KNN, file, trials=2)
    other = tune(changed(data, late=False), KNN, tmp_path / "other.db", trials=2)
    assert other.defaults != tuned.defaults


def test_values_are_means_over_users_and_seeds(data: Dataset, file: Path) -> None:
    tuned = tune(data, Search("bpr", metric="recall", k=5, seeds=2), file, trials=1)
    split, again = Search(seeds=2).splits(data)
    assert same_learning(split.train, again.train)
    runs = [tuning.run("bpr", MODELS["bpr"], split, seed, 5) for seed in (0, 1)]
    values = tuning.measure(runs, ["recall"])
    assert tuned.best.value == pytest.approx(values.groupby("user")["value"].mean().mean())
    assert tuned.best.n == len(split.requests)
    assert tuned.best.low < tuned.best.value < tuned.best.high
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{file}")
    assert study.trials[0].user_attrs == {"low": tuned.best.low, "high": tuned.best.high}


def test_the_difference_is_paired(data: Dataset, file: Path) -> None:
    tuned = tune(data, Search("als", seed=2), file, trials=6)
    assert tuned.parameters != tuned.search.defaults
    assert tuned.difference.value == pytest.approx(tuned.best.value - tuned.defaults.value)
    wide = tuned.best.high - tuned.best.low + tuned.defaults.high - tuned.defaults.low
    assert 0 < tuned.difference.high - tuned.difference.low < wide
    found = trials(file)
    assert tuned.best.value == max(value for _, value in found)
    assert (tuned.parameters, tuned.best.value) in found


# Going on


def test_trials_in_two_runs_equal_those_in_one(data: Dataset, file: Path, tmp_path: Path) -> None:
    search = Search("ease", seed=5)
    for count in (1, 4, 12):  # from the 11th on, the sampler has learned
        in_parts = tune(data, search, file, trials=count)
    assert tune(data, search, tmp_path / "once.db", trials=12) == in_parts
    assert trials(tmp_path / "once.db") == trials(file)
    assert len({tuple(parameters.values()) for parameters, _ in trials(file)}) == 12
    assert tune(data, search, file, trials=5) == in_parts  # nothing is left to do
    assert len(trials(file)) == 12


def test_another_seed_gives_other_trials(data: Dataset, file: Path, tmp_path: Path) -> None:
    tune(data, Search("ease", seed=5), file, trials=3)
    tune(data, Search("ease", seed=6), tmp_path / "other.db", trials=3)
    assert trials(file)[:2] == trials(tmp_path / "other.db")[:2]  # defaults and packaged values
    assert trials(file)[2:] != trials(tmp_path / "other.db")[2:]


def test_batches_repeat_and_go_on(data: Dataset, file: Path, tmp_path: Path) -> None:
    for count in (3, 12):  # cut short within a batch
        tune(data, KNN, file, trials=count, jobs=2)
    tune(data, KNN, tmp_path / "once.db", trials=12, jobs=2)
    assert trials(tmp_path / "once.db") == trials(file)


KILLED_IN_THE_THIRD_TRIAL = """
import sys, time
from pathlib import Path
from firetv import tuning
from firetv.data import load

run, calls = tuning.run, []

def slow(*given):
    calls.append(given)
    if len(calls) == 3:
        print("third", flush=True)
        time.sleep(600)
    return run(*given)

tuning.run = slow
tuning.tune(load(sys.argv[1]), tuning.Search("itemknn", seed=3), Path(sys.argv[2]), trials=5)
"""


def test_a_killed_run_is_gone_on_with(folder: Path, file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_IN_THE_THIRD_TRIAL, folder, file]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "third\n"
        process.kill()
    assert len(trials(file)) == 2
    assert len(trials(file, "RUNNING")) == 1
    data = load(folder)
    resumed = tune(data, KNN, file, trials=5)
    assert resumed.trials == len(trials(file)) == 5
    assert len(trials(file, "FAIL")) == 1
    assert trials(file, "RUNNING") == []
    assert resumed == tune(data, KNN, tmp_path / "once.db", trials=5)
    assert trials(file) == trials(tmp_path / "once.db")


def interrupted(*_: object) -> Run:
    raise KeyboardInterrupt


def test_known_values_come_first_even_if_they_were_interrupted(
    data: Dataset, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "run", interrupted)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                tune(data, KNN, file, trials=2)
    for count in (1, 3):
        tune(data, KNN, file, trials=count)
    assert [parameters for parameters, _ in trials(file)][:2] == [KNN.defaults, KNN.packaged]
    assert trials(file)[2][0] not in (KNN.defaults, KNN.packaged)
    assert len(trials(file, "FAIL")) == 2


def test_a_run_that_was_overtaken_says_so(
    data: Dataset, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = tuning.run, []

    def overtaken(*given: Any) -> Run:  # noqa: ANN401
        calls.append(given)
        if len(calls) == 2:
            tune(data, KNN, file, trials=3)
        return run(*given)

    monkeypatch.setattr(tuning, "run", overtaken)
    with pytest.raises(DataError, match=r"study\.db: is at work in another run"):
        tune(data, KNN, file, trials=5)
    assert len(trials(file)) == 3
    assert tune(data, KNN, file, trials=4).trials == 4


# Fits that come to nothing


def diverging(where: Callable[[Any], bool]) -> Callable[..., Run]:
    run = tuning.run

    def fit(name: str, stage: Any, *given: Any) -> Run:  # noqa: ANN401
        if where(stage):
            raise ValueError("not finite")
        return run(name, stage, *given)

    return fit


def test_a_fit_that_diverges_found_nothing(
    data: Dataset, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "run", diverging(lambda stage: stage.model.neighbours != 100))
    tuned = tune(data, KNN, file, trials=3)
    assert tuned.parameters == KNN.defaults
    assert [value for _, value in trials(file)][1:] == [0, 0]
    assert tuned.difference.value == tuned.difference.low == tuned.difference.high == 0
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{file}")
    assert study.trials[1].user_attrs["failure"] == "not finite"


def test_of_equally_good_trials_the_first_is_taken(
    data: Dataset, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tuning.run

    def nothing(*given: Any) -> Run:  # noqa: ANN401
        found = run(*given)
        return replace(found, items=np.full_like(found.items, -1))

    monkeypatch.setattr(tuning, "run", nothing)
    tuned = tune(data, KNN, file, trials=3)
    assert tuned.parameters == KNN.defaults
    assert tuned.best.value == 0


def test_defaults_that_cannot_be_fitted_are_an_error(
    data: Dataset, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "run", diverging(lambda stage: True))
    with pytest.raises(ValueError, match="itemknn cannot be fitted with its defaults: not finite"):
        tune(data, KNN, file, trials=2)


def test_importances_rank_what_matters(
    data: Dataset, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {name: SPACES["itemknn"][name] for name in ("neighbours", "weighting")}
    monkeypatch.setitem(SPACES, "itemknn", own)  # of few trials, chance says much of many
    good = ItemKNN()
    run = tuning.run

    def by_weighting(name: str, stage: ItemKNN, *given: Any) -> Run:  # noqa: ANN401
        found = run(name, replace(good, weighting="cosine"), *given)
        good_one = stage.weighting == "cosine"
        return found if good_one else replace(found, items=np.full_like(found.items, -1))

    monkeypatch.setattr(tuning, "run", by_weighting)
    monkeypatch.setattr(tuning, "ENOUGH", 14)
    assert tune(data, KNN, file, trials=13).importances == {}
    tuned = tune(data, KNN, file, trials=14)
    assert next(iter(tuned.importances)) == "weighting"
    assert sum(tuned.importances.values()) == pytest.approx(1)


# Studies that are refused


@pytest.fixture(scope="module")
def made(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with one trial."""
    file = tmp_path_factory.mktemp("made") / "study.db"
    tune(data, KNN, file, trials=1)
    return file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "map"}, "metric ndcg, not map"),
        ({"k": 5, "seeds": 2}, "k 10, not 5; seeds 1, not 2"),
        ({"validation_share": 0.1}, "validation_share 0.2, not 0.1"),
        ({"test_share": 0.1}, "test_share 0.2, not 0.1; other data"),
        ({"protocol": "published"}, "protocol temporal, not published; other data"),
        ({"seed": 4}, "seed 3, not 4"),
        ({"model": "ease"}, "model itemknn, not ease; another search space; other defaults"),
    ],
)
def test_a_study_of_another_search_is_refused(
    data: Dataset, made: Path, file: Path, change: dict[str, Any], message: str
) -> None:
    shutil.copy(made, file)
    before = file.read_bytes()
    with pytest.raises(DataError, match=f"is a study with {message}. Name another file"):
        tune(data, replace(KNN, **change), file, trials=2)
    assert file.read_bytes() == before


def test_a_study_of_other_data_is_refused(data: Dataset, made: Path, file: Path) -> None:
    shutil.copy(made, file)
    with pytest.raises(DataError, match=r"study\.db: is a study with other data\. Name another"):
        tune(changed(data, late=False), KNN, file, trials=2)
    assert len(trials(file)) == 1


def text(file: Path) -> None:
    file.write_text("trial,value\n")


def database(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE deliveries (user_id TEXT)")


def somebody_elses(file: Path) -> None:
    optuna.create_study(study_name="mine", storage=f"sqlite:///{file}")


def namesake(file: Path) -> None:
    study = optuna.create_study(study_name=tuning.STUDY, storage=f"sqlite:///{file}")
    study.add_trial(optuna.trial.create_trial(value=1.0))


def broken(file: Path) -> None:
    optuna.create_study(study_name=tuning.STUDY, storage=f"sqlite:///{file}")
    file.write_bytes(file.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (Path.mkdir, "is not a study of firetv. Name another file."),
        (text, "is not a study of firetv. Name another file."),
        (database, "is not a study of firetv. Name another file."),
        (somebody_elses, "is not a study of firetv. Name another file."),
        (namesake, "is not a study of firetv. Name another file."),
        (broken, "cannot be used as a study: "),
    ],
)
def test_a_file_that_is_no_study_is_refused(
    data: Dataset, file: Path, write: Callable[[Path], None], message: str
) -> None:
    write(file)
    before = file.read_bytes() if file.is_file() else None
    with pytest.raises(DataError) as error:
        tune(data, KNN, file, trials=1)
    assert str(error.value).startswith(f"{file}: {message}")
    assert len(str(error.value).splitlines()) == 1
    assert (file.read_bytes() if file.is_file() else None) == before


def test_names_of_files_may_hold_anything(data: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "50 % of it?" / "#1 {study}.db"
    tune(data, KNN, file, trials=1)
    assert tune(data, KNN, file, trials=2).trials == 2
    assert [path.name for path in file.parent.iterdir()] == [file.name]


# The command


def command(*words: object) -> Result:
    return CliRunner().invoke(app, ["tune", *map(str, words)])


def test_the_command_writes_what_it_found(folder: Path, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "als.json"
    given = ("--data", folder, "--model", "als", "--study", file, "--trials", 6, "--seed", 2)
    result = command(*given, "--out", out, "--k", 5)
    assert result.exit_code == 0, result.output
    assert "als: 100%" in result.stderr or "TQDM_DISABLE" in os.environ
    document, data = json.loads(out.read_text()), load(folder)
    tuned = tune(data, Search("als", k=5, seed=2), file, trials=6)
    assert document == json.loads(json.dumps(tuned.document()))
    assert document["model"] == "als"
    assert document["parameters"] == tuned.parameters
    assert (document["metric"], document["k"]) == ("ndcg", 5)
    assert document["low"] < document["value"] < document["high"]
    assert document["defaults"]["parameters"] == tuned.search.defaults
    assert document["difference"]["value"] == tuned.difference.value
    assert document["trials"] == 6
    split = {"protocol": "temporal", "test_share": 0.2, "validation_share": 0.2}
    assert document["split"] == split
    assert len(document["history"]) == 6
    assert document["data"]["name"] == "tiny"
    assert document["data"]["rows"] == len(temporal_split(data).train.interactions)
    assert len(document["data"]["checksum"]) == 64
    lines = result.stdout.splitlines()
    assert lines[0].startswith("als on tiny: 6 trials, ndcg@5 of ")
    shown = ["best", "defaults", "difference", *defaults("als")]
    assert [line.split()[0] for line in lines[1 : 1 + len(shown)]] == shown
    assert "validation figures, optimistic for the best of many trials" in result.stdout
    assert f"{document['value']:.3f} [{document['low']:.3f}, " in lines[1]


def test_the_study_is_beside_the_data_by_default(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRETV_ROOT", str(tmp_path))
    for count in (1, 2):
        result = command("--data", folder, "--model", "itemknn", "--trials", count)
        assert result.exit_code == 0, result.output
        assert f": {count} trials, " in result.stdout
    assert "No trial was better" in result.stdout or "(default " in result.stdout
    assert [p.name for p in (tmp_path / "data" / "tuning").iterdir()] == ["tiny-itemknn.db"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--trials 0", "Invalid value for '--trials'"),
        ("--jobs 0", "Invalid value for '--jobs'"),
        ("--model svd", "model: cannot be 'svd'. Use one of lightfm, ease, als, bpr, itemknn."),
        ("--metric auc", "metric: cannot be 'auc'. Use one of precision, recall"),
        ("--test-share 1.5", "test_share: cannot be 1.5. Give a share between 0 and 1."),
        ("--protocol random", "protocol: cannot be 'random'. Use temporal or published."),
        ("--validation-share 0", "validation_share: cannot be 0.0. Give a share"),
        ("--test-share 0.999", "split leaves 0 training events"),
        ("--study manifest.json", "manifest.json: is not a study of firetv. Name another file."),
        ("--study manifest.json/study.db", "manifest.json"),
        ("--study .", ".: is not a study of firetv"),
        ("--out .", ".: is a folder. Name a file."),
        ("--data nowhere", "nowhere: is not a folder"),
    ],
)
def test_mistakes_are_named_without_a_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.chdir(folder)
    given = ["--data", folder, "--study", "study.db", "--model", "ease", "--trials", 1]
    result = command(*given, *words.split())
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output
