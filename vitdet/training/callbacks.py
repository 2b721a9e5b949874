"""What a run shows: a progress bar, pictures of its predictions, and a summary."""

import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from rich.console import Console
from torch import Tensor

from vitdet.metrics import print_scores


class ProgressBar(RichProgressBar):
    """The loss and the validation score, without the run's version number."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=5)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class FinalValidation(L.Callback):
    """Lets the last step of a training be followed by a validation, however it ends: by epochs, by steps, or by time."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._every = trainer.check_val_every_n_epoch

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.check_val_every_n_epoch = self._every

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        steps_done = 0 < trainer.max_steps <= trainer.global_step
        last_epoch = (
            trainer.current_epoch + 1 == trainer.max_epochs and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        )
        if trainer.should_stop or steps_done or last_epoch:
            trainer.check_val_every_n_epoch = 1
            trainer.should_stop = True


class Pictures(L.Callback):
    """Draws the predictions on the first `count` validation images, into `folder/pictures` and TensorBoard."""

    def __init__(self, folder: str | Path, count: int = 4, *, threshold: float = 0.3) -> None:
        self.folder, self.count, self.threshold = Path(folder) / "pictures", count, threshold
        self._drawn = 0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._drawn = 0

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        images, targets = batch
        for image, target, prediction in zip(images, targets, outputs):
            if self._drawn == self.count:
                return
            self._draw(trainer, pl_module, image, target.orig_size, prediction.cpu().above(self.threshold))
            self._drawn += 1

    def _draw(
        self, trainer: L.Trainer, task: L.LightningModule, image: Tensor, size: tuple[int, int], prediction: Any
    ) -> None:
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (task.backbone.mean, task.backbone.std))
        pixels = (
            ((image.float().cpu() * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
        )  # (3, H, W) -> (H, W, 3)
        picture = prediction.plot(Image.fromarray(pixels.numpy()).resize((size[1], size[0])))
        self.folder.mkdir(parents=True, exist_ok=True)
        picture.save(self.folder / f"{prediction.image_id}_step{trainer.global_step:06d}.jpg", quality=90)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                tag = f"val/{prediction.image_id}"
                logger.experiment.add_image(tag, np.asarray(picture), trainer.global_step, dataformats="HWC")


class Summary(L.Callback):
    """A line after each validation, a table at the end, and what to run next."""

    def __init__(self) -> None:
        self.console = Console(soft_wrap=True, highlight=False)
        self._started = time.monotonic()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        shown = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(("train/loss", "val/"))}
        scores = "  ".join(f"{key} {value:.4g}" for key, value in list(shown.items())[:4])
        minutes = (time.monotonic() - self._started) / 60
        self.console.print(f"epoch {trainer.current_epoch}  step {trainer.global_step}  {scores}  {minutes:.1f} min")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        best = next(
            (
                c
                for c in trainer.checkpoint_callbacks
                if isinstance(c, ModelCheckpoint) and c.best_model_score is not None
            ),
            None,
        )
        minutes = (time.monotonic() - self._started) / 60
        self._report(trainer, pl_module, "val", f"last validation, after {minutes:.1f} minutes")
        if best is not None:
            self.console.print(f"best {best.monitor} {float(best.best_model_score):.4f}: {best.best_model_path}")
            self.console.print(f"Next: vitdet predict {best.best_model_path} IMAGE")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        metric = pl_module.metric("test")
        path = trainer.run_folder / "predictions.json"
        if hasattr(metric, "save"):
            metric.save(path)  # gathers, so every rank takes part
        if trainer.is_global_zero:
            self._report(trainer, pl_module, "test", "test")
            if hasattr(metric, "save"):
                self.console.print(f"predictions, in the data set's own ids: {path}")

    def _report(self, trainer: L.Trainer, task: L.LightningModule, split: str, title: str) -> None:
        prefix = f"{split}/"
        scores = {k.removeprefix(prefix): float(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}
        metric = task.metric(split)
        if scores:
            self.console.print(title)
            print_scores(scores, metric.protocol() if hasattr(metric, "protocol") else "", self.console)
