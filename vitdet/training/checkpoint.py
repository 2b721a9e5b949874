"""The checkpoints of a run: `best.ckpt` and `last.ckpt`, and what makes resuming exact."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from vitdet.errors import UserError


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt` in `folder`: the weights with the best `monitor` so far; by default the first score of the head's metric."""

    state_key = "BestCheckpoint"  # Lightning's holds `monitor`, which may not be known yet when a run goes on

    def __init__(self, folder: str | Path, *, monitor: str | None = None, mode: str = "max") -> None:
        super().__init__(
            folder,
            "best",
            monitor=monitor,
            mode=mode,
            enable_version_counter=False,
            save_last=False,
            save_on_train_epoch_end=False,  # but only after a validation
        )

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "mode": self.mode}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The best score of a run that goes on, unless it is now chosen by another one."""
        self.monitor = self.monitor or state_dict["monitor"]
        if (self.monitor, self.mode) == (state_dict["monitor"], state_dict["mode"]):
            super().load_state_dict(state_dict)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        logged = sorted(key for key in trainer.callback_metrics if key.startswith("val/"))
        if trainer.sanity_checking:
            return
        self.monitor = self.monitor or pl_module.main_score
        if logged and self.monitor not in logged:
            raise UserError(f"monitor is {self.monitor!r}, which nothing logs; choose among {', '.join(logged)}")
        if logged:  # else the head is not scored, and there is no best
            super().on_validation_end(trainer, pl_module)


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt` in `folder`: what to resume from.

    It is written at the end of each epoch, every `minutes`, when training ends, and when it is stopped by Ctrl-C or SIGTERM, which take effect
    at the end of a step or of a validation, so that the file is consistent. A second Ctrl-C stops at once, and writes nothing.
    """

    def __init__(self, folder: str | Path, *, minutes: float = 15.0) -> None:
        self.path = Path(folder) / "last.ckpt"
        self.minutes = minutes
        self._stop = False
        self._saved: tuple[int, float] = (-1, 0.0)
        self._step = -1
        self._handler: Any = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop, self._saved = False, (-1, time.monotonic())
        try:
            self._handler = signal.signal(signal.SIGINT, self._on_interrupt)
        except ValueError:  # not in the main thread: whoever started this one handles signals
            self._handler = None

    def _on_interrupt(self, *_: Any) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True
        rank_zero_info("Stopping after this step or validation; press Ctrl-C again to stop at once.")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        accumulating = trainer.global_step == self._step
        self._step = trainer.global_step
        if accumulating or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return  # gradients would be lost, or the validation that is due; the end of the epoch is near
        stop, late = self._asked(trainer), time.monotonic() - self._saved[1] > 60 * self.minutes
        if trainer.world_size > 1:  # all ranks must save at the same step
            late = trainer.strategy.reduce_boolean_decision(late, all=False)
        if stop or late:
            self._save(trainer)
        if stop:
            raise KeyboardInterrupt

    def _asked(self, trainer: L.Trainer) -> bool:
        """Whether somebody wants the run to stop; all ranks must leave at the same step."""
        asked = self._stop or trainer.received_sigterm
        return trainer.strategy.reduce_boolean_decision(asked, all=False) if trainer.world_size > 1 else asked

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer)
        if self._asked(trainer):
            raise KeyboardInterrupt

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved = (trainer.global_step, time.monotonic())

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self.path.exists():
            rank_zero_info(f"To go on from where this stopped: --ckpt_path {self.path}")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None


class StepSeed(L.Callback):
    """Seeds each step from the run's seed, the step and the rank, so that a resumed run draws the numbers that it would have drawn."""

    def __init__(self) -> None:
        self.seed: int | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.seed is None:
            self.seed = int(os.environ.get("PL_GLOBAL_SEED", random.getrandbits(32)))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._apply(trainer, trainer.current_epoch, 1)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # batches, not optimiser steps: those of one accumulation differ
        self._apply(trainer, trainer.fit_loop.epoch_loop.total_batch_idx, 0)

    def _apply(self, trainer: L.Trainer, index: int, stream: int) -> None:
        sequence = np.random.SeedSequence((self.seed, index, trainer.global_rank, stream))
        first, second, third = (int(word) for word in sequence.generate_state(3))
        torch.manual_seed(first)
        random.seed(second)
        np.random.seed(third)

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seed = state_dict["seed"]
