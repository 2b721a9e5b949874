"""The learning-rate schedule, in fractions of the training instead of steps."""

import math
from typing import Literal, get_args

from vitdet.config import options
from vitdet.ranges import number

Shape = Literal["cosine", "linear", "constant", "wsd"]
# the learning rate decays in the last fifth of the training, as in Hägele et al. 2024 (arXiv:2405.18392)
WSD_DECAY = 0.2


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
        shape: How the learning rate falls after the warm-up: cosine, linear, constant, or wsd. With wsd (warm-up,
            stable, decay) it stays at the peak until the last fifth of the training.
        warmup: Fraction of the training in which the learning rate rises, from 0 to below 1.
        final: Learning rate at the end of the training as a fraction of the peak, from 0 to 1.

    Raises:
        UserError: an argument is out of its range.

    Example:
        >>> round(Schedule(shape="linear", warmup=0.1, final=0.0).factor(0.55), 6)
        0.5
    """

    shape: Shape = "cosine"
    warmup: float = 0.03
    final: float = 0.01

    def factor(self, done: float) -> float:
        """Returns the learning rate as a fraction of its peak; `done`, in [0, 1], is the progress of the training."""
        if done < self.warmup:
            # a learning rate of 0 would waste the first step
            return 0.01 + 0.99 * done / self.warmup
        t = min(1.0, (done - self.warmup) / max(1e-9, 1 - self.warmup))
        if self.shape == "constant":
            return 1.0
        if self.shape == "cosine":
            return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * t))
        if self.shape == "linear":
            return self.final + (1 - self.final) * (1 - t)
        return 1.0 - (1 - self.final) * max(0.0, (done - (1 - WSD_DECAY)) / WSD_DECAY)
