"""Packaged models: spaces that hold their defaults, files that are read, studies that say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution

from firetv import packaged as module
from firetv.data import Dataset
from firetv.models import ALS, EASE, ItemKNN, LightFM
from firetv.packaged import (
    BLENDED,
    MODELS,
    WEIGHTS,
    base_model,
    blend,
    packaged,
    packaged_values,
    read_parameters,
    stage_of,
    study,
)
from firetv.schema import DataError
from firetv.slate import Stage
from firetv.tuning import SPACES, Search, defaults, tune
from firetv.weighting import Weighted

every_model = pytest.mark.parametrize("name", MODELS)


def own_of(stage: Stage) -> Stage:
    """A model without what weighs its viewings."""
    return stage.model if isinstance(stage, Weighted) else stage


# Search spaces


@every_model
def test_spaces_are_of_fields_and_hold_the_defaults(name: str) -> None:
    assert list(defaults(name)) == list(SPACES[name])
    stage = stage_of(name, defaults(name))
    for field, space in SPACES[name].items():
        default = defaults(name)[field]
        assert space._contains(space.to_internal_repr(default)), field
        kind = {"IntDistribution": int, "FloatDistribution": float}.get(type(space).__name__)
        assert kind is None or type(default) is kind, field
        assert getattr(stage if field in WEIGHTS else own_of(stage), field) == default


@every_model
def test_a_search_begins_with_the_models_own_values(name: str) -> None:
    stage = stage_of(name, defaults(name))
    assert own_of(stage) == MODELS[name] == type(MODELS[name])()
    if isinstance(stage, Weighted):
        assert (stage.rating_power, stage.half_life) == (0, 10_000)
    assert isinstance(stage, Weighted) == (name != "bpr")


@every_model
def test_whatever_may_be_suggested_can_be_made_and_read(name: str, tmp_path: Path) -> None:
    for place in ("low", "high"):
        values = {
            field: space.choices[-1 if place == "high" else 0]
            if isinstance(space, CategoricalDistribution)
            else getattr(space, place)
            for field, space in SPACES[name].items()
        }
        path = written(tmp_path / "mine.json", name, **values)
        assert read_parameters(path) == stage_of(name, values)


# Stages


def test_a_stage_is_weighted_where_a_weight_is_given() -> None:
    assert stage_of("als", {}) == ALS()
    assert stage_of("als", {"reg": 3.0}) == ALS(reg=3.0)
    assert stage_of("ease", {"reg": 3.0, "rating_power": 0.5}) == Weighted(EASE(reg=3.0), 0.5)
    weights = {"rating_power": 1.0, "completion_power": 2.0, "half_life": 90.0}
    expected = Weighted(ItemKNN(), rating_power=1.0, completion_power=2.0, half_life=90.0)
    assert stage_of("itemknn", weights) == expected
    assert stage_of("itemknn", {"half_life": None}) == Weighted(ItemKNN())


def test_a_stage_of_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="half_life 0"):
        stage_of("ease", {"half_life": 0})
    with pytest.raises(ValueError, match=r"powers -1 and 0\.0"):
        stage_of("ease", {"rating_power": -1})
    with pytest.raises(TypeError, match="alpha"):
        stage_of("ease", {"alpha": 1.0})


# Parameters


def test_parameters_are_read_back(data: Dataset, tmp_path: Path) -> None:
    tuned = tune(data, Search("als", seed=2), tmp_path / "study.db", trials=3)
    path = tmp_path / "als.json"
    path.write_text(json.dumps(tuned.document()))
    assert read_parameters(path) == stage_of("als", tuned.parameters) != ALS()


def written(path: Path, model: object, **parameters: object) -> Path:
    path.write_text(json.dumps({"model": model, "parameters": parameters}))
    return path


def test_parameters_may_go_beyond_the_search(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.json", "lightfm", components=200, user_reg=0, average=3)
    assert read_parameters(path) == LightFM(components=200, user_reg=0.0, average=3)
    assert read_parameters(written(path, "ease", reg=7)) == EASE(reg=7.0)
    assert type(read_parameters(path).reg) is float
    assert read_parameters(written(path, "itemknn")) == ItemKNN()
    assert read_parameters(written(path, "lightfm", patience=None)) == LightFM()
    assert read_parameters(written(path, "lightfm", patience=3)) == LightFM(patience=3)


def test_weights_are_read_with_a_model(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.json", "ease", reg=7, rating_power=1, half_life=30)
    assert read_parameters(path) == Weighted(EASE(reg=7.0), rating_power=1.0, half_life=30.0)
    assert (
        type(read_parameters(path).half_life) is type(read_parameters(path).rating_power) is float
    )
    path = written(path, "als", completion_power=0, half_life=None)
    assert read_parameters(path) == Weighted(ALS())
    assert read_parameters(path).half_life is None


@pytest.mark.parametrize(
    ("model", "parameters", "message"),
    [
        ("svd", {}, "model: is missing or unknown. Name one of lightfm, ease"),
        (["ease"], {}, "model: is missing or unknown"),
        ("ease", {"alpha": 1}, "parameters.alpha: is no field of ease. It has reg, use_item"),
        ("ease", {"reg": "high"}, 'parameters.reg: cannot be "high". Give a number'),
        ("ease", {"reg": -1}, "parameters.reg: cannot be -1. Give a number not below 0"),
        ("ease", {"reg": True}, "parameters.reg: cannot be true"),
        ("ease", {"reg": float("nan")}, "parameters.reg: cannot be NaN"),
        ("ease", {"reg": None}, "parameters.reg: cannot be null"),
        ("ease", {"activity": -0.1}, "cannot be -0.1. Give a number not below 0"),
        ("ease", {"rating_power": -1}, "cannot be -1. Give a number not below 0, up to 1000000."),
        ("ease", {"rating_power": None}, "parameters.rating_power: cannot be null"),
        ("ease", {"half_life": 0}, "parameters.half_life: cannot be 0. Give a number above 0"),
        ("ease", {"half_life": -5}, "parameters.half_life: cannot be -5. Give a number above 0"),
        ("ease", {"half_life": True}, "parameters.half_life: cannot be true"),
        ("ease", {"half_life": "week"}, 'parameters.half_life: cannot be "week"'),
        ("lightfm", {"schedule": "cosine"}, 'cannot be "cosine". Use one of adagrad, adadelta.'),
        ("lightfm", {"patience": 0}, "cannot be 0. Give a whole number from 1 to 1000000."),
        ("lightfm", {"patience": 1.5}, "parameters.patience: cannot be 1.5"),
        ("als", {"alpha": 0}, "parameters.alpha: cannot be 0. Give a number above 0"),
        ("als", {"epochs": 1.5}, "parameters.epochs: cannot be 1.5. Give a whole number from 1"),
        ("als", {"epochs": 10**9}, "cannot be 1000000000. Give a whole number from 1 to 1000000."),
        ("bpr", {"components": 0}, "parameters.components: cannot be 0"),
        ("lightfm", {"loss": "hinge"}, 'cannot be "hinge". Use one of warp, warp-kos, bpr'),
        ("lightfm", {"loss": ["warp"]}, 'parameters.loss: cannot be ["warp"]'),
        ("lightfm", {"use_item_features": 1}, "cannot be 1. Use true or false."),
    ],
)
def test_wrong_parameters_are_named(
    tmp_path: Path, model: object, parameters: dict[str, object], message: str
) -> None:
    path = written(tmp_path / "mine.json", model, **parameters)
    with pytest.raises(DataError) as error:
        read_parameters(path)
    assert str(error.value).startswith(f"{path}, ")
    assert message in str(error.value)


def test_all_wrong_parameters_are_named_at_once(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.json", "als", epochs=0, factors=3)
    with pytest.raises(DataError) as error:
        read_parameters(path)
    assert len(error.value.problems) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("\xff", "cannot be read as JSON"),
        ("[]", "model: is missing or unknown"),
        ('{"model": "ease"}', "parameters: is missing or no object"),
        ('{"model": "ease", "parameters": [1]}', "parameters: is missing or no object"),
    ],
)
def test_files_without_parameters_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        read_parameters(path)
    with pytest.raises(DataError, match=r"nowhere\.json: cannot be read as JSON"):
        read_parameters(tmp_path / "nowhere.json")


# Studies


def test_a_packaged_model_is_what_its_study_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "ease.json", "ease", reg=7.0, half_life=30.0)
    monkeypatch.setattr(module, "_studied", lambda model: tmp_path / f"{model}.json")
    assert study("ease") == json.loads(path.read_text())
    assert packaged_values("ease") == {"reg": 7.0, "half_life": 30.0}
    assert packaged("ease") == Weighted(EASE(reg=7.0), half_life=30.0)


@pytest.mark.parametrize("ask", [study, packaged, packaged_values])
def test_a_model_that_is_not_packaged_is_named(ask: Any) -> None:  # noqa: ANN401
    with pytest.raises(KeyError, match="no model 'svd': there are lightfm, ease, als, bpr"):
        ask("svd")


@every_model
def test_packaged_values_are_the_best_of_their_study(name: str) -> None:
    found = study(name)
    values = [each["value"] for each in found["history"]]
    assert found["trials"] == len(values) > 1
    best = found["history"][values.index(max(values))]
    assert best["parameters"] == found["parameters"]
    assert found["value"] == pytest.approx(max(values), abs=1e-6)
    assert found["low"] < found["value"] < found["high"]
    assert packaged(name) == stage_of(name, found["parameters"])


@every_model
def test_packaged_values_are_not_below_the_defaults(name: str) -> None:
    found = study(name)
    before, first = found["defaults"], found["history"][0]
    assert found["model"] == name
    assert before["parameters"] == first["parameters"] == defaults(name)
    assert before["value"] == pytest.approx(first["value"], abs=1e-6)
    assert found["value"] >= before["value"]
    gain = found["value"] - before["value"]
    assert found["difference"]["value"] == pytest.approx(gain, abs=1e-9)


@every_model
def test_packaged_values_were_found_where_no_test_part_is(name: str) -> None:
    found = study(name)
    assert found["data"]["name"] == "movielens-100k"
    assert found["data"] == study("ease")["data"]  # all saw the same
    assert found["split"]["protocol"] == "published"
    assert found["split"]["test_share"] == 0.2
    assert found["data"]["rows"] < 0.8 * 0.75 * 100_000 * 1.01


@every_model
def test_every_trial_lies_in_the_space_that_is_searched(name: str) -> None:
    found = study(name)
    for each in (found, *found["history"]):
        assert set(each["parameters"]) == set(SPACES[name])
        for field, value in each["parameters"].items():
            space = SPACES[name][field]
            assert space._contains(space.to_internal_repr(value)), (field, value)


@every_model
def test_a_study_can_be_given_as_parameters(name: str) -> None:
    assert read_parameters(Path(str(module._studied(name)))) == packaged(name)


def test_the_blend_is_of_packaged_models() -> None:
    ranker = blend()
    assert ranker.models == {name: packaged(name) for name in BLENDED}
    assert ranker.learner.nonnegative
    assert set(BLENDED) <= set(MODELS)


def test_an_unknown_base_is_refused_with_those_that_there_are() -> None:
    known = "use lightfm, ease, als, bpr, itemknn, blend"
    with pytest.raises(ValueError, match=f"'svd' is not one of the base models: {known}"):
        base_model("svd")
