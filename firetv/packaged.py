"""Base models by name: what a file says of them, and what was found.

Packaged values were found by ``firetv tune`` on MovieLens-100K, on a part of its data that neither
test part of notebook 03 holds; the summaries of these studies are in ``firetv/studies``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from firetv.models import ALS, BPR, EASE, ItemKNN, LightFM
from firetv.ranking import Learner, Logit, Ranker
from firetv.schema import DataError, Problem, one_of
from firetv.slate import Stage
from firetv.weighting import Weighted

MODELS: Mapping[str, Stage] = {
    "lightfm": LightFM(),
    "ease": EASE(),
    "als": ALS(),
    "bpr": BPR(),
    "itemknn": ItemKNN(),
}
"""Models that can be tuned, each with the defaults of its class."""

WEIGHTS = ("rating_power", "completion_power", "half_life")  # fields of what wraps a model
BLENDED = ("ease", "als", "lightfm")
# Of 0, 300, 1000, 3000 and a plain sum, 1000 found most in four draws of the studies' validation.
BLEND_LOGIT = Logit(l2=1.0, even=1000.0, nonnegative=True)
MAY_BE_ZERO = ("reg", "user_reg", "item_reg", "feature_weight", "activity", *WEIGHTS[:2])
MOST = 1_000_000  # beyond it a number is a slip of the pen


def stage_of(model: str, parameters: Mapping[str, Any]) -> Stage:
    """Make a stage of a name and some hyperparameters, its own or those of :class:`Weighted`.

    Examples
    --------
    >>> stage_of("ease", {"reg": 300.0})
    EASE(reg=300.0, use_item_features=False, feature_weight=2.0, activity=0.0)
    """
    weights = {name: value for name, value in parameters.items() if name in WEIGHTS}
    own = {name: value for name, value in parameters.items() if name not in WEIGHTS}
    stage = replace(MODELS[model], **own)
    return Weighted(stage, **weights) if weights else stage


def study(model: str) -> dict[str, Any]:
    """Read what the study of a packaged model found, as :func:`firetv.tuning.tune` summed it up.

    Raises
    ------
    KeyError
        If there is no such model.
    """
    if model not in MODELS:
        raise KeyError(f"no model {model!r}: there are {', '.join(MODELS)}")
    return json.loads(_studied(model).read_text("utf-8"))


def packaged_values(model: str) -> dict[str, Any]:
    """Return the values that a model's study found."""
    return study(model)["parameters"]


def packaged(model: str) -> Stage:
    """Return a model with the values that its study found."""
    return stage_of(model, packaged_values(model))


def blend(learner: Learner = BLEND_LOGIT, signals: Sequence[Stage] = ()) -> Ranker:
    """Return the packaged models of :data:`BLENDED` as one ranking.

    Parameters
    ----------
    learner : Learner
        By default weights that are not negative, from a conditional logit.
    signals : sequence of Stage
        What else is known, for a learner that can use it.
    """
    models = {name: packaged(name) for name in BLENDED}
    return Ranker(models, signals, learner, folds=8, rounds=1, head=100, most=4000)


def base_model(name: str) -> Stage:
    """Return what a recommender can have for its base: a packaged model, or ``blend``.

    Raises
    ------
    ValueError
        If the name is another; it lists those that there are.
    """
    made = {model: partial(packaged, model) for model in MODELS} | {"blend": blend}
    return one_of(name, made, "base models")()


def _studied(model: str) -> Traversable:
    return resources.files("firetv") / "studies" / f"{model}.json"


def read_parameters(path: Path) -> Stage:
    """Read a model with its hyperparameters from a file such as ``firetv tune --out`` writes.

    Parameters
    ----------
    path : Path
        A JSON object with ``model``, a key of :data:`MODELS`, and ``parameters``, an object of some
        of its fields, beyond the ranges that are searched if need be. Other keys are not read.

    Returns
    -------
    Stage
        The model; what the file does not name has its default.

    Raises
    ------
    DataError
        All that is wrong with the file, with keys and remedies.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        remedy = "Write it with `firetv tune --out`."
        raise DataError(
            Problem(str(path), "", f"cannot be read as JSON: {error}", remedy)
        ) from error
    document = document if isinstance(document, dict) else {}
    name, parameters = document.get("model"), document.get("parameters")
    problems = []
    if not isinstance(name, str) or name not in MODELS:
        remedy = f"Name one of {', '.join(MODELS)}."
        problems.append(_wrong(path, "model", "is missing or unknown", remedy))
    if not isinstance(parameters, dict):
        remedy = 'Give an object such as {"epochs": 30}.'
        problems.append(_wrong(path, "parameters", "is missing or no object", remedy))
    if problems:
        raise DataError(*problems)
    weights = {key: get_type_hints(Weighted)[key] for key in WEIGHTS}
    kinds = get_type_hints(type(MODELS[name])) | weights
    for key, value in parameters.items():
        if key not in kinds:
            what, remedy = f"is no field of {name}", f"It has {', '.join(kinds)}."
        elif remedy := _remedy(key, value, kinds[key]):
            what = f"cannot be {json.dumps(value)}"
        else:
            continue
        problems.append(_wrong(path, f"parameters.{key}", what, remedy))
    if problems:
        raise DataError(*problems)
    whole = {key for key, kind in kinds.items() if float not in (kind, *get_args(kind))}
    typed = {key: v if key in whole or v is None else float(v) for key, v in parameters.items()}
    return stage_of(name, typed)


def _wrong(path: Path, key: str, what: str, remedy: str) -> Problem:
    return Problem(f"{path}, {key}", "", what, remedy)


def _remedy(key: str, value: object, kind: object) -> str:
    """Say what a field takes if it does not take a value."""
    if get_origin(kind) in (Union, UnionType):  # a number, or none
        return "" if value is None else _remedy(key, value, get_args(kind)[0])
    if get_origin(kind) is Literal:
        return "" if value in get_args(kind) else f"Use one of {', '.join(get_args(kind))}."
    if kind is bool:
        return "" if isinstance(value, bool) else "Use true or false."
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        least = 0 if key == "seed" else 1
        fits = number and isinstance(value, int) and least <= value <= MOST
        return "" if fits else f"Give a whole number from {least} to {MOST}."
    zero = key in MAY_BE_ZERO
    fits = number and 0 <= value <= MOST and (value > 0 or zero)
    return "" if fits else f"Give a number {'not below' if zero else 'above'} 0, up to {MOST}."
