"""Lightning's training loops, with checkpoints that say where in a step they were written.

Lightning leaves out a validation in which a training was killed, and goes on after it, since its checkpoints do not say
whether that validation has been done. The next one then has another best score, and the best weights may be lost.
"""

from typing import Any

import lightning as L
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from vitdet.training.callbacks.last import LastCheckpoint


class EpochLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, which resumes with the validation that is due, if one is.

    After each step and its validation, once all of it is logged, it calls `LastCheckpoint.on_step_end`.

    Attributes:
        due: whether the step that was resumed has been trained, but not been validated as it should be.
    """

    def __init__(self, trainer: L.Trainer, min_steps: int | None, max_steps: int) -> None:
        super().__init__(trainer, min_steps=min_steps, max_steps=max_steps)
        self.due = False
        # whether everything of the last step is done
        self._ended = False

    def on_save_checkpoint(self) -> dict[str, Any]:
        return {**super().on_save_checkpoint(), "validation_due": self._validation_due(), "step_ended": self._ended}

    def _validation_due(self) -> bool:
        if self.trainer.validating:
            progress = self.val_loop.batch_progress
            return not (progress.is_last_batch and progress.current.completed == progress.current.ready)
        # true in `on_train_batch_end` only
        current: Any = self.batch_progress.current
        return current.processed > current.completed and self._should_check_val_fx(self.trainer.fit_loop._data_fetcher)

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        self.due, self._ended = state_dict.get("validation_due", False), state_dict.get("step_ended", False)
        if self.due:
            counts: Any = (self.batch_progress.total, self.batch_progress.current)
            for count in counts:
                count.completed = count.processed

    @property
    def done(self) -> bool:
        return not self.due and super().done

    def advance(self, data_fetcher: Any) -> None:
        ended, self._ended = self._ended, False
        if self.due or ended:
            # Lightning would otherwise look for a validation that this step has had
            self.restarting = False
        if not self.due:
            super().advance(data_fetcher)

    def _broadcast_sigterm_tensor(self) -> None:
        """Does nothing: Lightning would wait for the device in each step, for what `agree.asked` does on the CPU."""

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:
        return self.due or super()._should_check_val_fx(data_fetcher)

    def on_advance_end(self, data_fetcher: Any) -> None:
        super().on_advance_end(data_fetcher)
        self.due, self._ended = False, True
        trainer: Any = self.trainer
        for callback in trainer.callbacks:
            if isinstance(callback, LastCheckpoint):
                callback.on_step_end(trainer)


class FitLoop(_FitLoop):
    """Lightning's loop over the epochs, which does not end before a validation that is due."""

    epoch_loop: EpochLoop

    def __init__(self, trainer: L.Trainer) -> None:
        """Takes the bounds of the loop that `trainer` has so far."""
        before = trainer.fit_loop
        super().__init__(trainer, min_epochs=before.min_epochs, max_epochs=before.max_epochs)
        self.epoch_loop = EpochLoop(trainer, before.epoch_loop.min_steps, before.epoch_loop.max_steps)

    @property
    def done(self) -> bool:
        return not self.epoch_loop.due and super().done

    def _iteration_based_training(self) -> bool:
        # With `max_steps`, Lightning would resume a completed epoch, and train an additional batch in it.
        return False

    def on_advance_end(self) -> None:
        # an epoch that was resumed ends as any other: schedules that follow a score are updated
        self._restarting = False
        super().on_advance_end()
