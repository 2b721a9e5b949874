"""Measures how far a training is, for `vitdet.progress.Progress`."""

import lightning as L
from lightning.pytorch.callbacks import Timer

from vitdet.progress import Progress


def begin(progress: Progress, trainer: L.Trainer) -> None:
    """Takes over what ends the training."""
    progress.begin(
        max_epochs=trainer.max_epochs,
        max_steps=trainer.max_steps,
        accumulate=trainer.accumulate_grad_batches,
        limit=trainer.limit_train_batches,
    )


def update(progress: Progress, trainer: L.Trainer) -> None:
    """Measures it; all ranks must take part.

    So a run with `max_time: 00:00:12:00` reaches its final learning rate when the twelve minutes are up, and a resumed
    run goes on counting where it stopped.
    """
    loop = trainer.fit_loop
    epochs = loop.epoch_progress.current
    # of a run that goes on after a whole epoch, that epoch's batches are still counted, too
    within = epochs.ready > epochs.processed
    batches = loop.epoch_loop.batch_progress.current.processed / max(1, trainer.num_training_batches) if within else 0.0
    time = time_spent(trainer)
    if time is not None and trainer.world_size > 1:
        time = trainer.strategy.broadcast(time)  # ranks read their own clocks, but must step at one learning rate
    progress.update(steps=trainer.global_step, epochs=epochs.processed + batches, time=time or 0.0)


def time_spent(trainer: L.Trainer) -> float | None:
    """The fraction of the training's time that has passed, by this rank's clock; none where time does not end it."""
    timers = (callback for callback in trainer.callbacks if isinstance(callback, Timer))
    clocks = [(timer.time_elapsed("train"), timer.time_remaining("train")) for timer in timers]
    return max((spent / max(1e-9, spent + left) for spent, left in clocks if left is not None), default=None)
