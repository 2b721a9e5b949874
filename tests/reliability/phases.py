"""A callback that makes one phase of a training last, and says so by a file, so that a test can act in it."""

import time
from pathlib import Path
from typing import Any

import lightning as L


class Phase(L.Callback):
    """Sleeps in a phase, the first `times` times that it is reached at `step` or later.

    Args:
        phase: `setup`, `sanity`, `step`, `saving`, `validation`, `scoring`, `scored` or `report`.
        folder: where the file `reached0` of rank 0, … appears.
        seconds: how long it lasts.
        step: the least number of steps that are done.
        rank: the rank that sleeps; all by default.
        times: how often.
    """

    def __init__(
        self, phase: str, folder: str, *, seconds: float = 60.0, step: int = 0, rank: int | None = None, times: int = 1
    ) -> None:
        self.phase, self.folder, self.seconds, self.step = phase, folder, seconds, step
        self.rank, self.times = rank, times

    def _at(self, phase: str, trainer: L.Trainer) -> None:
        if phase != self.phase or self.times == 0 or trainer.global_step < self.step:
            return
        self.times -= 1
        Path(self.folder, f"reached{trainer.global_rank}").touch()
        end = time.monotonic() + self.seconds * (self.rank in (None, trainer.global_rank))
        # in slices: an error that a handler raises comes through at once, as it does in other code
        while time.monotonic() < end:
            time.sleep(0.01)

    def setup(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self._at("setup", trainer)

    def on_sanity_check_start(self, trainer: L.Trainer, *_: Any) -> None:
        self._at("sanity", trainer)

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self._at("step", trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, *_: Any) -> None:
        self._at("saving", trainer)

    def on_validation_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self._at("validation", trainer)

    def on_validation_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self._at("scoring", trainer)

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self._at("scored", trainer)

    def on_fit_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._at("report", trainer)
