"""Measures the progress of a training for `vitdet.progress.Progress`."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer

from vitdet.progress import Progress


def begin(progress: Progress, trainer: L.Trainer) -> None:
    """Passes the bounds of the training from the trainer to `progress`."""
    progress.begin(
        max_epochs=trainer.max_epochs,
        max_steps=trainer.max_steps,
        accumulate=trainer.accumulate_grad_batches,
        limit=trainer.limit_train_batches,
    )


def update(progress: Progress, trainer: L.Trainer) -> None:
    """Measures the progress; all ranks must call this together.

    Time counts as well as epochs and steps: a run with `max_time: 00:00:12:00` reaches its final learning rate after
    twelve minutes. A resumed run continues at the progress where it stopped.
    """
    loop = trainer.fit_loop
    epochs = loop.epoch_progress.current
    # in a run that is resumed after a completed epoch, Lightning still counts the batches of that epoch
    within = epochs.ready > epochs.processed
    batches = loop.epoch_loop.batch_progress.current.processed / max(1, trainer.num_training_batches) if within else 0.0
    time = time_spent(trainer)
    if time is not None and trainer.world_size > 1:
        # clocks differ between ranks, but all ranks must use the same learning rate
        time = trainer.strategy.broadcast(time)
    progress.update(steps=trainer.global_step, epochs=epochs.processed + batches, time=time or 0.0)


def time_spent(trainer: L.Trainer) -> float | None:
    """Returns the fraction of `max_time` that has passed by the clock of this rank, or `None` without a time limit."""
    timers = (callback for callback in trainer.callbacks if isinstance(callback, Timer))
    clocks = [(timer.time_elapsed("train"), timer.time_remaining("train")) for timer in timers]
    return max((spent / max(1e-9, spent + left) for spent, left in clocks if left is not None), default=None)


def is_logged(trainer: Any) -> bool:
    """Whether losses are logged in the step that is being trained on: in the first one, and where a row is written.

    Lightning writes a row every `log_every_n_steps` steps, and in the last. The row of a step without losses would have
    those of an earlier step, which a resumed run may not know.
    """
    every, step = trainer.log_every_n_steps, trainer.global_step
    if not every or step == 0 or (step + 1) % every == 0 or trainer.should_stop:
        return bool(every)
    last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
    ends = last_epoch and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    return ends or step + 1 == trainer.max_steps
