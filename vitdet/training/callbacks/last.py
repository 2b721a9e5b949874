"""`last.ckpt`, the checkpoint to resume from."""

import signal
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info

from vitdet.errors import UserError


class DivergedError(UserError, FloatingPointError):
    """The loss or the weights are not finite; the message names the step and the last good checkpoint."""


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt` in the run folder, the checkpoint to resume from.

    It is written before each validation, at the end of each epoch, every `minutes`, when training ends, and when
    training is stopped by Ctrl-C or SIGTERM. These take effect at the end of a step or of a validation, so that the
    file is consistent; a second Ctrl-C stops immediately and writes nothing. Weights that are not finite are never
    written: the training ends, and the previous file is kept.

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
        self._step = -1
        self._accumulating = False
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

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        loop = trainer.fit_loop.epoch_loop
        self._accumulating = trainer.global_step == self._step
        self._step = trainer.global_step
        validates = loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
        if self._accumulating or loop.batch_progress.is_last_batch or validates:
            # Stopping here would lose accumulated gradients or skip a validation that is due. The end of the
            # accumulation, of the epoch or of the validation follows soon, and saves then.
            return
        stop, late = self._asked(trainer), time.monotonic() - self._saved[1] > 60 * self.minutes
        # all ranks must save at the same step
        if trainer.world_size > 1:
            late = trainer.strategy.reduce_boolean_decision(late, all=False)
        if stop or late:
            self._save(trainer)
        if stop:
            raise KeyboardInterrupt

    def _asked(self, trainer: L.Trainer) -> bool:
        """Whether Ctrl-C or SIGTERM reached any rank; all ranks must stop at the same step."""
        asked = self._stop or trainer.received_sigterm
        return trainer.strategy.reduce_boolean_decision(asked, all=False) if trainer.world_size > 1 else asked

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            if self._accumulating:
                self._check(trainer)
            else:
                self._save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit" or self._accumulating:
            return
        ends = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or trainer.should_stop
        # at the end of an epoch, `on_train_epoch_end` follows and saves
        if not ends and self._asked(trainer):
            self._save(trainer)
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer)
        if self._asked(trainer):
            raise KeyboardInterrupt

    def _save(self, trainer: L.Trainer) -> None:
        self._check(trainer)
        trainer.save_checkpoint(self.path)
        self._saved = (trainer.global_step, time.monotonic())

    def _check(self, trainer: L.Trainer) -> None:
        good = finite(trainer.lightning_module)
        if trainer.world_size > 1:
            good = trainer.strategy.reduce_boolean_decision(good)
        if not good:
            advice = "try a lower learning rate (model.lr), or clip gradients (trainer.gradient_clip_val)"
            raise DivergedError(f"the weights are not finite at step {trainer.global_step}; {advice}; {self.kept()}")

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


def finite(module: torch.nn.Module) -> bool:
    """Whether all weights are finite.

    The sum of a tensor is not finite if an element is not, so a single transfer of all sums from the device is enough.
    This takes a few hundredths of the time of a save.
    """
    sums = [weight.detach().sum(dtype=torch.float32) for weight in module.parameters()]
    return not sums or bool(torch.stack(sums).isfinite().all())
