"""Which recipe a model was trained by, in a few characters that stand beside its scores."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from vitdet import __version__
from vitdet.config import config_of

# where the data lie and how fast they are read is no part of a recipe
PLACES = {"train", "val", "test", "root", "num_workers", "cache"}


def recipe(task: Any) -> str:
    """The version of vitdet, and a hash of the model, the training arguments and the options of the data.

    The model is the class of backbone and head with all arguments, the training arguments are those that a checkpoint
    keeps (optimiser, rates and schedule), and the options of the data are those of the data module, without paths and
    what concerns the machine. Two models of one recipe were trained with the same options on data of any place.
    """
    try:
        model = {name: config_of(getattr(task, name)) for name in ("backbone", "head")}
    except TypeError:
        # a part of the user's own may take more than plain values
        return f"vitdet {__version__}"
    data = {key: value for key, value in _arguments(task.data_config).items() if key not in PLACES}
    known = {"model": model, "training": task.settings, "data": data}
    text = json.dumps(known, sort_keys=True, default=str)
    return f"vitdet {__version__}, recipe {hashlib.sha256(text.encode()).hexdigest()[:8]}"


def protocol(task: Any, split: str) -> str:
    """The line that says how the last evaluation of a split counted, and of which recipe the model is; or nothing."""
    metric = task.metric(split)
    counted = metric.protocol() if hasattr(metric, "protocol") else ""
    return f"{counted}, {recipe(task)}" if counted else ""


def _arguments(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return (config or {}).get("init_args", {})
