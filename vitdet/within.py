"""Builds a model no larger than its weights: what a file says of a model may cost little more than the file itself."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# How much larger than the weights a model may be before they are loaded, or do not fit: some parts are made twice, and
# positions and targets are computed.
FACTOR = 64
NUMBERS, TENSORS = 2**24, 10_000
_SIZED = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full}


class Within(TorchFunctionMode):
    """A context in which tensors are made, but neither larger nor more than `weights` explain.

    Args:
        weights: the tensors of a file, by name.

    Raises:
        ValueError: while a model is built, a tensor has more numbers, or there are more tensors.

    Example:
        >>> with Within({"weight": torch.ones(8, 4)}):
        ...     layer = torch.nn.Linear(4, 8)
    """

    def __init__(self, weights: Mapping[str, Any]) -> None:
        super().__init__()
        tensors = [value for value in weights.values() if isinstance(value, Tensor)]
        self.numbers = NUMBERS + FACTOR * sum(value.numel() for value in tensors)
        self.tensors = TENSORS + FACTOR * len(tensors)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        # before the memory is taken; what is computed from tensors is small where they are
        numbers = _numbers(func, args, kwargs or {})
        if numbers is not None:
            self.tensors -= 1
            if numbers > self.numbers:
                raise ValueError(f"a part of it has {numbers:,} numbers, far more than its weights")
            if self.tensors < 0:
                raise ValueError("it has far more parts than weights")
        return func(*args, **(kwargs or {}))


def _numbers(func: Any, args: tuple, kwargs: dict[str, Any]) -> int | None:
    """How many numbers a function makes; nothing for those that make none of their own."""
    if func in _SIZED:
        size = kwargs.get("size", args[0] if args and isinstance(args[0], (tuple, list)) else args)
        return math.prod(int(side) for side in (size if isinstance(size, (tuple, list)) else (size,)))
    if func is torch.arange:
        ends = [value for value in (*args, *(kwargs.get(name, 0) for name in ("start", "end"))) if _is_real(value)]
        step = args[2] if len(args) > 2 else kwargs.get("step", 1)
        return math.ceil(2 * max(map(abs, ends), default=0) / max(abs(step), 1e-9)) if _is_real(step) else None
    if func is torch.linspace:
        steps = args[2] if len(args) > 2 else kwargs.get("steps", 0)
        return steps if isinstance(steps, int) else None
    return None


def _is_real(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
