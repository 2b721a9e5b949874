"""`last.ckpt`, the checkpoint to resume from."""

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info

from vitdet import signals
from vitdet.training.agree import agreed, asked
from vitdet.training.callbacks.finite import check_finite


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt` in the run folder, the checkpoint to resume from.

    It is written before each validation, at the end of each epoch, every `minutes`, when training ends, and when
    training is stopped by Ctrl-C or SIGTERM. These take effect at the end of a step or of a validation, so that the
    file is consistent; a second Ctrl-C stops immediately and writes nothing. A training that was killed in a validation
    resumes with that validation. Weights that are not finite are never written: the training ends, and the previous
    file is kept.

    Args:
        minutes: Longest time between two saves, in minutes.

    Raises:
        DivergedError: the weights are not finite.
    """

    def __init__(self, *, minutes: float = 15.0) -> None:
        self.path: Path | None = None
        self.minutes = minutes
        self._saved: tuple[int, float] = (-1, 0.0)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.path = trainer.run_folder / "last.ckpt" if stage == "fit" else None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved = (-1, time.monotonic())

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        signals.hold()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        # a validation may fall between the batches of an optimiser step, whose gradients no checkpoint holds: the step
        # before it was saved at its end
        if trainer.fit_loop.epoch_loop._should_accumulate():
            check_finite(trainer)
        else:
            self._save(trainer)
        self._stop(trainer)
        # a training that is stopped in a validation goes on with it
        signals.release()

    def on_step_end(self, trainer: L.Trainer) -> None:
        """Saves or stops, if either is due, when a step and its validation are done and logged; see `EpochLoop`."""
        signals.hold()
        loop = trainer.fit_loop.epoch_loop
        # at the end of an epoch, `on_train_epoch_end` follows and saves
        if loop._should_accumulate() or loop.batch_progress.is_last_batch or loop.done:
            return
        late = time.monotonic() - self._saved[1] > 60 * self.minutes or _validates_within_next_step(trainer)
        # all ranks must save and stop at the same step
        stop, late = agreed(trainer, signals.asked(), late)
        if stop or late:
            self._save(trainer)
        if stop:
            signals.leave(stop)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer)
        self._stop(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        signals.release()

    def _stop(self, trainer: L.Trainer) -> None:
        """Ends the training, whose work is saved, if any rank was asked to."""
        if number := asked(trainer):
            signals.leave(number)

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        if self.path is not None and self.path.name in getattr(trainer, "unsaved", ()):
            # tries again in a minute, not at once: the whole file would be written at each step
            self._saved = (self._saved[0], time.monotonic() - 60 * max(0.0, self.minutes - 1))
        else:
            self._saved = (trainer.global_step, time.monotonic())

    def kept(self) -> str:
        """Describes which good weights are left after a training has diverged."""
        if self.path is None or not self.path.is_file():
            return "no good weights were saved before"
        at = f" of step {self._saved[0]}" if self._saved[0] >= 0 else ""
        return f"{self.path} keeps the last good weights{at}"

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        # of a signal, the end of the run says more
        if self.path is not None and self.path.exists() and not isinstance(exception, signals.Stopped):
            rank_zero_info(f"To go on from where this stopped: --ckpt_path {self.path}")


def _validates_within_next_step(trainer: L.Trainer) -> bool:
    """Whether a validation comes between the batches of the next optimiser step."""
    loop, every = trainer.fit_loop.epoch_loop, trainer.val_check_batch
    if trainer.accumulate_grad_batches == 1 or not every or not loop._should_check_val_epoch():
        return False
    done = 1 + (loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx)
    return any((done + i) % every == 0 for i in range(1, trainer.accumulate_grad_batches))
