"""Exponential moving average of the weights: validation, test and prediction see it, the optimiser doesn't.

Lightning has `EMAWeightAveraging`. Measured against it (2.6.6, one CPU thread): an update of configs/detr_vit.yaml's model
takes 1.2 ms here and 72 ms there; after 200 steps the average's validation loss is 3.46 here and 5.16 there, where the decay
does not grow; buffers of booleans and whole numbers keep their first values there; and after a training the weights
themselves are gone, since the average takes their place.
"""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from vitdet.checkpoint import average_of, write_average, write_weights
from vitdet.errors import UserError


class EMA(L.Callback):
    """Keeps `average = decay * average + (1 - decay) * weights`, updated after each optimiser step.

    The average is in 32 bits at least, also where the weights are not: in bfloat16 a thousandth of a change would be lost. The decay grows as
    `min(decay, (1 + t) / (10 + t))`, so short runs are not held back by the initial weights. Float buffers are averaged too, others copied. The
    checkpoint holds the average beside the weights.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"decay is {decay}; wanted 0 <= decay < 1, for example 0.999")
        self.decay = decay
        self.updates = 0
        self._average: dict[str, Tensor] = {}
        self._live: dict[str, Tensor] = {}  # the module's own weights while it has the average
        self._step = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        weights = pl_module.state_dict()
        if self._average.keys() != weights.keys():  # else they come from the checkpoint
            self._average = {name: _wide(tensor) for name, tensor in weights.items()}
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
        wide = [tensor.to(kept.dtype) for kept, tensor in zip(average, weights)]  # no copy of what is wide
        torch._foreach_lerp_(average, wide, 1 - decay)
        for kept, new in zip(*self._others):
            kept.copy_(new)

    def _pairs(self, module: L.LightningModule, *, floating: bool) -> tuple[list[Tensor], list[Tensor]]:
        weights = {name: t for name, t in module.state_dict().items() if t.is_floating_point() == floating}
        return [self._average[name] for name in weights], list(weights.values())

    def _to_device(self, module: L.LightningModule) -> None:
        self._average = {name: tensor.to(module.device) for name, tensor in self._average.items()}

    @torch.no_grad()
    def _swap_in(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.updates or self._live:
            return
        self._to_device(pl_module)
        weights = pl_module.state_dict()
        self._live = {name: tensor.clone() for name, tensor in weights.items()}
        for name, tensor in weights.items():
            tensor.copy_(self._average[name])  # in place, so that whatever is cached by a tensor's version notices

    @torch.no_grad()
    def _swap_out(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, tensor in pl_module.state_dict().items() if self._live else ():
            tensor.copy_(self._live[name])
        self._live = {}

    on_validation_start = on_test_start = on_predict_start = _swap_in
    on_validation_end = on_test_end = on_predict_end = _swap_out

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._swap_out(trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if not self._average:
            return
        write_average(checkpoint, self._average)
        if self._live:  # saved in the middle of a validation
            write_weights(checkpoint, self._live)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._live = {}  # the module's own weights have just been loaded
        self._average = {name: _wide(tensor) for name, tensor in average_of(checkpoint).items()}
        if not self._average and trainer.state.fn == "fit" and trainer.ckpt_path is not None:
            rank_zero_info(
                f"the checkpoint has no average of the weights: one of decay {self.decay} starts from its weights"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates = state_dict["updates"]


def is_average(callback: L.Callback) -> bool:
    """Whether it averages the weights: ours, or Lightning's."""
    return isinstance(callback, (EMA, WeightAveraging))


def _wide(tensor: Tensor) -> Tensor:
    """A copy, in 32 bits where it has fewer."""
    narrow = tensor.is_floating_point() and tensor.dtype.itemsize < 4
    return tensor.to(torch.float32) if narrow else tensor.clone()
