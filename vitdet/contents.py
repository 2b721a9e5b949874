"""The names under which a checkpoint holds tensors, as Lightning writes it, and access to them.

`vitdet.checkpoint` holds the rest of the format.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

WEIGHTS, AVERAGE, OPTIMIZERS = "state_dict", "ema_state_dict", "optimizer_states"


def weights_of(contents: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the weights in the contents of a checkpoint, as the optimiser left them."""
    return contents[WEIGHTS]


def write_weights(contents: dict[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Replaces the weights in the contents of a checkpoint."""
    contents[WEIGHTS] = dict(weights)


def average_of(contents: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the average of the weights in the contents of a checkpoint; empty if there is none."""
    return contents.get(AVERAGE) or {}


def write_average(contents: dict[str, Any], average: Mapping[str, Tensor]) -> None:
    """Adds the average of the weights to the contents of a checkpoint, with the names of the weights."""
    contents[AVERAGE] = dict(average)


def optimizers_of(contents: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the states of the optimisers in the contents of a checkpoint; empty if it holds only weights."""
    return contents.get(OPTIMIZERS) or []


def loop_of(contents: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the state of the training loop in the contents of a checkpoint; empty if it holds none."""
    return contents.get("loops", {}).get("fit_loop", {}).get(WEIGHTS, {})
