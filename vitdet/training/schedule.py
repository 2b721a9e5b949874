"""How the learning rate changes over a training, in fractions of it, never in steps."""

import math
from typing import Literal, get_args

from vitdet.config import options
from vitdet.ranges import number

Shape = Literal["cosine", "linear", "constant", "wsd"]
WSD_DECAY = 0.2  # the last fifth of training, as in Hägele et al. 2024 (arXiv:2405.18392)


@options(
    {
        "shape": (lambda value: value in get_args(Shape), f"one of {', '.join(get_args(Shape))}"),
        "warmup": (number(0, 1, without=[1])[0], "a fraction of the training, from 0 to below 1"),
        "final": number(0, 1),
    }
)
class Schedule:
    """How the learning rate rises to its peak and falls again.

    Args:
        shape: how it falls after the warm-up: cosine, linear, constant, or wsd (warm-up, stable, decay), which stays at
            the peak until the last fifth of the training.
        warmup: the fraction of the training in which it rises.
        final: the last learning rate as a fraction of the peak.

    Example:
        >>> round(Schedule(shape="linear", warmup=0.1, final=0.0).factor(0.55), 6)
        0.5
    """

    shape: Shape = "cosine"
    warmup: float = 0.03
    final: float = 0.01

    def factor(self, done: float) -> float:
        """The learning rate as a fraction of its peak, when `done`, in [0, 1], of the training is over."""
        if done < self.warmup:
            return 0.01 + 0.99 * done / self.warmup  # not from 0, which would waste the first step
        t = min(1.0, (done - self.warmup) / max(1e-9, 1 - self.warmup))
        if self.shape == "constant":
            return 1.0
        if self.shape == "cosine":
            return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * t))
        if self.shape == "linear":
            return self.final + (1 - self.final) * (1 - t)
        return 1.0 - (1 - self.final) * max(0.0, (done - (1 - WSD_DECAY)) / WSD_DECAY)
