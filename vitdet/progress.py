"""How far a training is: one value for the learning rate, the data and the head, and the same on all ranks."""

import math


class Progress:
    """How much of a training is done, in [0, 1].

    A training ends by steps, by epochs or by time, whichever comes first, so the largest of the three fractions counts.
    It holds plain numbers: what measures them, and tells all ranks, is `vitdet.training.progress`.

    Attributes:
        done: the fraction at the present batch.
        time: the fraction of the time that has passed; 0 where time does not end the training.
    """

    def __init__(
        self,
        *,
        max_epochs: int | None = None,
        max_steps: int | None = None,
        accumulate: int = 1,
        limit: int | float = 1.0,
    ) -> None:
        self.done = self.time = 0.0
        self.begin(max_epochs=max_epochs, max_steps=max_steps, accumulate=accumulate, limit=limit)

    def begin(
        self, *, max_epochs: int | None, max_steps: int | None, accumulate: int = 1, limit: int | float = 1.0
    ) -> None:
        """A training starts, with these bounds.

        Args:
            max_epochs, max_steps: what ends it; `None`, or a number that is not positive, does not.
            accumulate: batches in an optimiser step.
            limit: how many batches of an epoch are trained on, or, as a float, which share of them.
        """
        self.done = self.time = 0.0
        self._epochs, self._steps = (
            bound if bound is not None and bound > 0 else math.inf for bound in (max_epochs, max_steps)
        )
        self._accumulate, self._limit = accumulate, limit

    def update(self, *, steps: int, epochs: float, time: float) -> None:
        """The optimiser steps and epochs that are done, and the fraction of the time that has passed."""
        self.time = time
        self.done = min(1.0, max(steps / self._steps, epochs / self._epochs, time))

    def at(self, epoch: int, batch: int, batches: int) -> float:
        """The fraction at a batch that is drawn now, perhaps long before it is trained on.

        Args:
            epoch, batch: its place, from 0.
            batches: how many there are in an epoch.
        """
        limited = min(batches, self._limit) if isinstance(self._limit, int) else int(batches * self._limit)
        per_epoch = max(1, limited)
        total = min(self._epochs * per_epoch, self._steps * self._accumulate)
        return min(1.0, max((epoch * per_epoch + batch) / total, self.time))
