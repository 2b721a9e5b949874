"""`last.ckpt`, the checkpoint to resume from."""

import signal
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info

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
        self._stop = False
        self._saved: tuple[int, float] = (-1, 0.0)
        self._handler: Any = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.path = trainer.run_folder / "last.ckpt" if stage == "fit" else None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop, self._saved = False, (-1, time.monotonic())
        try:
            self._handler = signal.signal(signal.SIGINT, self._on_interrupt)
        except ValueError:
            # this is not the main thread, and only the main thread may handle signals
            self._handler = None

    def _on_interrupt(self, *_: Any) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True
        rank_zero_info("Stopping after this step or validation; press Ctrl-C again to stop at once.")

    def _asked(self, trainer: L.Trainer) -> bool:
        """Whether Ctrl-C or SIGTERM reached any rank; all ranks must stop at the same step."""
        asked = self._stop or trainer.received_sigterm
        return trainer.strategy.reduce_boolean_decision(asked, all=False) if trainer.world_size > 1 else asked

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        # a validation may fall between the batches of an optimiser step, whose gradients no checkpoint holds
        if trainer.fit_loop.epoch_loop._should_accumulate():
            check_finite(trainer, self.kept())
        else:
            self._save(trainer)

    def on_step_end(self, trainer: L.Trainer) -> None:
        """Saves or stops, if either is due, when a step and its validation are done and logged; see `EpochLoop`."""
        loop = trainer.fit_loop.epoch_loop
        # at the end of an epoch, `on_train_epoch_end` follows and saves
        if loop._should_accumulate() or loop.batch_progress.is_last_batch or loop.done:
            return
        stop, late = self._asked(trainer), time.monotonic() - self._saved[1] > 60 * self.minutes
        # all ranks must save at the same step
        if trainer.world_size > 1:
            late = trainer.strategy.reduce_boolean_decision(late, all=False)
        if stop or late:
            self._save(trainer)
        if stop:
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer)
        if self._asked(trainer):
            raise KeyboardInterrupt

    def _save(self, trainer: L.Trainer) -> None:
        check_finite(trainer, self.kept())
        trainer.save_checkpoint(self.path)
        self._saved = (trainer.global_step, time.monotonic())

    def kept(self) -> str:
        """Describes which good weights are left after a training has diverged."""
        if self.path is None or not self.path.is_file():
            return "no good weights were saved before"
        at = f" of step {self._saved[0]}" if self._saved[0] >= 0 else ""
        return f"{self.path} keeps the last good weights{at}"

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self.path is not None and self.path.exists():
            rank_zero_info(f"To go on from where this stopped: --ckpt_path {self.path}")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None
