"""How the weights of a task are updated: optimiser, schedule, gradient clipping, and resuming from a checkpoint."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor

from vitdet.checkpoint import Checkpoint
from vitdet.config import config_of
from vitdet.progress import Progress
from vitdet.training import finite, progress
from vitdet.training.muon import Muon
from vitdet.training.optim import is_scaled, parameter_groups
from vitdet.training.resume import apply_settings
from vitdet.training.schedule import Schedule
from vitdet.training.sharded import FSDP, shard

OPTIMIZERS = {"adamw": torch.optim.AdamW, "muon": Muon}


class Learning(L.LightningModule):
    """The part of `Task` that configures the optimiser, the learning-rate schedule and gradient clipping.

    Attributes:
        lr, optimizer, schedule, …: the training arguments of the task, see `settings`.
        progress: the progress of the training, which the schedule, the data and the head read.
        thresholds: what the last validation chose, see `vitdet.metrics.thresholds.choose`; none if nothing was chosen.
        bad_step: 1 if the last step was skipped, since its loss or gradients were not finite, else 0; on the device.
    """

    backbone: torch.nn.Module
    head: torch.nn.Module
    schedule: Schedule
    thresholds: dict[str, Any] | None = None
    bad_step: Tensor | None = None

    def use_settings(self, **settings: Any) -> None:
        """Sets the training arguments of the task."""
        self._settings = tuple(settings)
        for name, value in settings.items():
            setattr(self, name, value)
        self.progress = Progress()
        self._resumed: Checkpoint | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The training arguments of the task, which a checkpoint keeps."""
        return config_of({name: getattr(self, name) for name in self._settings})

    def resumes(self, saved: Checkpoint) -> None:
        """Remembers the checkpoint that the training is resumed from."""
        self._resumed = saved

    def learning_rate(self) -> float:
        """Returns the largest learning rate of all parameter groups."""
        return max(group["lr"] for optimizer in self.trainer.optimizers for group in optimizer.param_groups)

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, FSDP):
            shard(self)

    def make_optimizer(self, *, fused: bool = True) -> torch.optim.Optimizer:
        """Creates the optimiser. No trainer is needed."""
        names = ("lr", "weight_decay", "layer_decay", "backbone_lr", "trunk_lr")
        options = {name: getattr(self, name) for name in names}
        groups = parameter_groups(self.backbone, self.head, matrices=self.optimizer == "muon", **options)
        return OPTIMIZERS[self.optimizer](groups, betas=tuple(self.betas), fused=fused)

    @property
    def standard_optimizer(self) -> bool:
        """Whether the optimiser is that of `make_optimizer`, not overridden in a derived class."""
        cls = type(self)
        return (cls.configure_optimizers, cls.make_optimizer) == (
            Learning.configure_optimizers,
            Learning.make_optimizer,
        )

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.make_optimizer(fused=not is_scaled(self.trainer))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: self.schedule.factor(self.progress.done))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def setup(self, stage: str) -> None:
        if stage == "fit":
            progress.begin(self.progress, self.trainer)

    def on_fit_start(self) -> None:
        # data loaders may draw batches ahead, before the training starts
        progress.update(self.progress, self.trainer)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        progress.update(self.progress, self.trainer)

    def on_train_start(self) -> None:
        progress.update(self.progress, self.trainer)
        if self._resumed is not None and self.standard_optimizer:
            apply_settings(self, self._resumed)
        self._resumed = None

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        progress.update(self.progress, self.trainer)
        scheduler.step()

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips the gradients, and has the optimiser skip a step whose gradients are not finite."""
        parameters = list(self.trainer.precision_plugin.main_params(optimizer))
        if scaled := is_scaled(self.trainer):
            norm = finite.clip(parameters, None)
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        # Lightning itself refuses to clip gradients for a fused optimiser with bfloat16. Only a gradient scaler, which
        # bfloat16 does not use, is incompatible with that (Lightning#21435).
        else:
            by_value = GradClipAlgorithmType(gradient_clip_algorithm or "norm") == GradClipAlgorithmType.VALUE
            norm = finite.clip(parameters, gradient_clip_val, by_value=by_value)
        self.bad_step = finite.on_any_rank(finite.is_bad(norm).to(self.device))
        # a scaler skips the step itself
        if not scaled:
            finite.skip_if(self.bad_step, optimizer)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        super().backward(finite.spoil(loss), *args, **kwargs)
