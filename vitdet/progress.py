"""The progress of a training: a value shared by the learning rate, the data and the head, equal on all ranks."""

import math


class Progress:
    """The fraction of a training that is done, in [0, 1].

    A training ends by steps, by epochs or by time, whichever comes first, so the largest of the three fractions counts.
    This class only holds numbers; `vitdet.training.progress` measures them and makes them equal on all ranks.

    Args:
        max_epochs: Number of epochs after which training ends. It has no effect if it is `None` or not positive.
        max_steps: Number of optimiser steps after which training ends. It has no effect if it is `None` or not
            positive.
        accumulate: Number of batches in an optimiser step.
        limit: Number of batches of an epoch that are trained on or, as a float, their share of the epoch.

    Attributes:
        done: the fraction at the current batch.
        time: the fraction of the time limit that has passed; 0 without a time limit.

    Example:
        >>> progress = Progress(max_steps=100)
        >>> progress.update(steps=25, epochs=0.0, time=0.0)
        >>> progress.done
        0.25
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
        """Starts a training with these bounds; the arguments are those of the class."""
        self.done = self.time = 0.0
        self._epochs, self._steps = (
            bound if bound is not None and bound > 0 else math.inf for bound in (max_epochs, max_steps)
        )
        self._accumulate, self._limit = accumulate, limit

    def update(self, *, steps: int, epochs: float, time: float) -> None:
        """Sets the completed optimiser steps and epochs, and the fraction of the time limit that has passed."""
        self.time = time
        self.done = min(1.0, max(steps / self._steps, epochs / self._epochs, time))

    def at(self, epoch: int, batch: int, batches: int) -> float:
        """Returns the fraction at a batch that is drawn now, which may be long before the batch is trained on.

        Args:
            epoch, batch: the epoch, and the batch in the epoch, counted from 0.
            batches: the number of batches in an epoch.
        """
        limited = min(batches, self._limit) if isinstance(self._limit, int) else int(batches * self._limit)
        per_epoch = max(1, limited)
        total = min(self._epochs * per_epoch, self._steps * self._accumulate)
        return min(1.0, max((epoch * per_epoch + batch) / total, self.time))
