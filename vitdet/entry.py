"""Checks of what a checkpoint or a shared model holds, its entry `vitdet` and its tensors, before it is built."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitdet.bounds import MAX_VALUES, count
from vitdet.errors import short
from vitdet.trust import is_ours

# A tensor may repeat its numbers (an expanded one is a view), but hardly so often.
REPEATS = 64
# what makes a backbone fetch or read weights, with what makes it do neither: a checkpoint brings its own
FETCHING = {"pretrained": False, "checkpoint": None}


def misfit(saved: Mapping[str, Any]) -> str | None:
    """What in the entry `vitdet` is not of its kind, in words; keys that are absent are not looked at.

    Example:
        >>> misfit({"format": 3, "classes": 7})
        'classes is 7; wanted a list of names'
    """
    try:
        if count(saved) > MAX_VALUES:
            return f"it has more than {MAX_VALUES:,} values"
    except RecursionError:
        return "its values are nested too deeply, or hold themselves"
    names, chosen = saved.get("classes", []), saved.get("thresholds") or {"values": []}
    scores = chosen.get("values") if isinstance(chosen, dict) else None
    kinds = {
        "format": (_is_number(saved.get("format", 0), int), "a whole number"),
        "classes": (_is_list(names, str), "a list of names"),
        "category_ids": (_is_list(saved.get("category_ids", []), int), "a list of whole numbers"),
        "eval_transform": (_is_transform(saved.get("eval_transform", {})), "the arguments of a transform"),
        **{name: (_is_colour(saved.get(name)), "a number for each of three channels") for name in ("mean", "std")},
        "thresholds": (_is_list(scores, (int, float)), "a dictionary with the scores of the classes as values"),
        "training": (isinstance(saved.get("training") or {}, dict), "the arguments of the task"),
        "data": (saved.get("data") is None or _is_part(saved["data"]), "a class with its arguments, or nothing"),
        "model": (_is_model(saved.get("model")), "the classes of backbone and head, with their arguments"),
    }
    found = {key: wanted for key, (good, wanted) in kinds.items() if key in saved and not good}
    return next((f"{key} is {short(saved[key])}; wanted {wanted}" for key, wanted in found.items()), None)


def _is_list(value: Any, kind: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(_is_number(item, kind) for item in value)


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_colour(value: Any) -> bool:
    return _is_list(value, (int, float)) and len(value) == 3 and all(map(math.isfinite, value))


def _is_transform(value: Any) -> bool:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return False
    return all(_is_colour(value[name]) for name in ("mean", "std") if name in value)


def _is_part(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("class_path"), str):
        return False
    given = value.get("init_args")
    return isinstance(given, dict) and all(isinstance(name, str) for name in given)


def _is_model(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_part(value.get(name)) for name in ("backbone", "head"))


def fetching_nothing(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The entry `vitdet` with a backbone that neither fetches nor reads weights, as vitdet writes it.

    Example:
        >>> backbone = {"class_path": "vitdet.Backbone", "init_args": {"pretrained": True, "model_args": None}}
        >>> fetching_nothing({"model": {"backbone": backbone}})["model"]["backbone"]["init_args"]
        {'pretrained': False, 'model_args': None}
    """
    model = saved["model"]
    given = model["backbone"]["init_args"]
    if not is_ours(model["backbone"]["class_path"]):
        return dict(saved)
    inside = {**given, **{name: value for name, value in FETCHING.items() if name in given}}
    if isinstance(inside.get("model_args"), dict):
        inside["model_args"] = {key: value for key, value in inside["model_args"].items() if key != "checkpoint_path"}
    return {**saved, "model": {**model, "backbone": {**model["backbone"], "init_args": inside}}}


def wrong_tensors(state: Any) -> str | None:
    """What is wrong with weights that come from a file, in words.

    Example:
        >>> wrong_tensors({"scale": torch.ones(3)}), wrong_tensors({"scale": torch.ones(1).expand(2**40)})
        (None, "'scale' claims 1,099,511,627,776 numbers, of which the file holds 1")
    """
    if not isinstance(state, Mapping):
        return f"its weights are a {type(state).__name__}; wanted tensors by name"
    for key, value in state.items():
        if not isinstance(key, str):
            return f"a tensor is called {short(key)}; wanted a name"
        # a module may keep what it wants beside its tensors
        if key.endswith("_extra_state"):
            continue
        if not isinstance(value, Tensor):
            return f"{short(key)} is a {type(value).__name__}; wanted a tensor"
        # the parts of a tensor that several processes share are checked where it is put together
        if type(value) not in (Tensor, torch.nn.Parameter):
            continue
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            return f"{short(key)} is a tensor without plain numbers"
        held = value.untyped_storage().nbytes() // value.element_size()
        if value.numel() > REPEATS * held + 2**20:
            return f"{short(key)} claims {value.numel():,} numbers, of which the file holds {held:,}"
    return None


def wrong_run(optimizers: Any, callbacks: Any) -> str | None:
    """What of the states of a run's optimisers and callbacks is not of its kind, in words; without a run both are None.

    Example:
        >>> wrong_run([], None), wrong_run(None, 7)
        (None, 'the states of its callbacks are 7')
    """
    if optimizers is not None and not (isinstance(optimizers, list) and all(map(_is_optimizer, optimizers))):
        return f"the states of its optimisers are {short(optimizers)}"
    named = isinstance(callbacks, dict) and all(isinstance(state, dict) for state in callbacks.values())
    return None if callbacks is None or named else f"the states of its callbacks are {short(callbacks)}"


def _is_optimizer(value: Any) -> bool:
    groups = value.get("param_groups", []) if isinstance(value, dict) else None
    lists = (isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups or [])
    return isinstance(groups, list) and all(lists)
