"""The seeding that makes a resumed run repeat the uninterrupted run."""

import os
import random
from typing import Any

import lightning as L
import numpy as np
import torch


class StepSeed(L.Callback):
    """Seeds the random generators at each batch and validation from the seed of the run, the batch index and the rank.

    A resumed run therefore draws the random numbers that the uninterrupted run would have drawn.
    """

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
        # the index of the batch, not the optimiser step: the batches of an accumulated step need different seeds
        self._apply(trainer, trainer.fit_loop.epoch_loop.total_batch_idx, 0)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning keeps the random numbers of the sanity check from the training
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._apply(trainer, trainer.fit_loop.epoch_loop.total_batch_idx, 2)

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
