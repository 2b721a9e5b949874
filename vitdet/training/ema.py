"""Exponential moving average of the weights: validation, test and prediction see it, the optimiser doesn't."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from vitdet.errors import UserError


class EMA(L.Callback):
    """Keeps `average = decay * average + (1 - decay) * weights`, updated after each optimiser step.

    The decay grows as `min(decay, (1 + t) / (10 + t))`, so short runs are not held back by the initial weights. Float buffers are averaged
    too, others copied. The checkpoint holds the average under "ema_state_dict", with the keys of "state_dict".
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"decay is {decay}; wanted 0 <= decay < 1, for example 0.999")
        self.decay = decay
        self.updates = 0
        self._average: dict[str, Tensor] = {}
        self._swapped = False
        self._step = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        weights = pl_module.state_dict()
        if self._average.keys() != weights.keys():  # else they come from the checkpoint
            self._average = {name: tensor.clone() for name, tensor in weights.items()}
        self._to_device(pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._step = trainer.global_step
        # collecting them takes longer than averaging them, so not in every step
        self._floats, self._others = (self._pairs(pl_module, floating=floating) for floating in (True, False))

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == self._step:  # accumulating: no optimiser step yet
            return
        self._step = trainer.global_step
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        average, weights = self._floats
        torch._foreach_lerp_(average, weights, 1 - decay)
        for kept, new in zip(*self._others):
            kept.copy_(new)

    def _pairs(self, module: L.LightningModule, *, floating: bool) -> tuple[list[Tensor], list[Tensor]]:
        weights = {name: t for name, t in module.state_dict().items() if t.is_floating_point() == floating}
        return [self._average[name] for name in weights], list(weights.values())

    def _to_device(self, module: L.LightningModule) -> None:
        self._average = {name: tensor.to(module.device) for name, tensor in self._average.items()}

    @torch.no_grad()
    def _swap(self, module: L.LightningModule) -> None:
        # in place, so that whatever is cached by a tensor's version notices
        for floating in (True, False):
            average, weights = self._pairs(module, floating=floating)
            for kept, live in zip(average, weights):
                saved = kept.clone()
                kept.copy_(live)
                live.copy_(saved)
        self._swapped = not self._swapped

    def _swap_in(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.updates and not self._swapped:
            self._to_device(pl_module)
            self._swap(pl_module)

    def _swap_out(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._swapped:
            self._swap(pl_module)

    on_validation_start = on_test_start = on_predict_start = _swap_in
    on_validation_end = on_test_end = on_predict_end = _swap_out

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._swap_out(trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if not self._average:
            return
        average = dict(self._average)
        if self._swapped:  # saved in the middle of a validation
            checkpoint["state_dict"], average = average, checkpoint["state_dict"]
        checkpoint["ema_state_dict"] = average

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._swapped = False  # the module's own weights have just been loaded
        self._average = {name: tensor.clone() for name, tensor in checkpoint.get("ema_state_dict", {}).items()}

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates = state_dict["updates"]
