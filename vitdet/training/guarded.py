"""A trainer that skips steps which are not finite, and ends a training of nothing else."""

from typing import Any

from vitdet.training.callbacks.finite import SkippedSteps
from vitdet.training.saving import Saving


class Guarded(Saving):
    """A trainer that counts the steps that are skipped since their loss or gradients are not finite.

    Args:
        skip_steps: Number of steps in a row that are skipped before the training ends, see `SkippedSteps`.
        callbacks: Lightning's `callbacks`; without a `SkippedSteps` among them, one is added.
        kwargs: the arguments of `Saving`, and the other arguments of Lightning's `Trainer`.

    Raises:
        UserError: an argument is out of its range.
    """

    def __init__(self, *, skip_steps: int = 10, callbacks: Any = None, **kwargs: Any) -> None:
        given = list(callbacks or [])
        # behind `StepSeed`, since it keeps the state of the random generators
        if not kwargs.get("barebones") and not any(isinstance(callback, SkippedSteps) for callback in given):
            given.append(SkippedSteps(skip_steps))
        super().__init__(callbacks=given, **kwargs)
