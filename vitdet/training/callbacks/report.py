"""Reports of a run: the final validation, pictures of predictions, and a summary."""

import contextlib
import time
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from vitdet.data import ImageData
from vitdet.data.samples import caption, draw_found, draw_sample, file_names, sheet, with_labels
from vitdet.errors import UserError
from vitdet.metrics import Metric, print_scores
from vitdet.metrics.thresholds import print_thresholds
from vitdet.structures import Prediction, Target
from vitdet.thresholds import THRESHOLD, Threshold
from vitdet.training.callbacks.bar import duration, show
from vitdet.training.callbacks.best import BestCheckpoint, validates, worth
from vitdet.training.callbacks.last import LastCheckpoint
from vitdet.training.recipe import protocol

# the longest side of each half of a picture, in pixels
SIDE = 640


class FinalValidation(L.Callback):
    """Runs a validation after the last training step, whether epochs, steps or time end the training.

    A maximum also ends the training before `min_epochs` or `min_steps` is reached. Lightning would skip the validation
    in that case, so this callback lifts these minimums, and restores them after the training.
    """

    _every: Any = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loop = trainer.fit_loop
        self._every = (trainer.check_val_every_n_epoch, loop.min_epochs, loop.epoch_loop.min_steps)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        steps_done = 0 < trainer.max_steps <= trainer.global_step
        last_epoch = (
            trainer.current_epoch + 1 == trainer.max_epochs and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        )
        loop = trainer.fit_loop
        if steps_done or last_epoch:
            loop.min_epochs = loop.epoch_loop.min_steps = None
        if loop._can_stop_early and (trainer.should_stop or steps_done or last_epoch):
            trainer.check_val_every_n_epoch = 1
            trainer.should_stop = True

    def _restore(self, trainer: L.Trainer, *_: Any) -> None:
        if self._every is not None:
            loop = trainer.fit_loop
            trainer.check_val_every_n_epoch, loop.min_epochs, loop.epoch_loop.min_steps = self._every

    on_fit_end = on_exception = _restore


class Pictures(L.Callback):
    """Draws validation images with their labels beside what was found, into the folder `pictures` and for TensorBoard.

    Args:
        count: Number of images: the first `count` of each validation.
        threshold: Lowest score, in [0, 1], of the predictions that are drawn; by default the thresholds that the last
            validation chose.
    """

    def __init__(self, count: int = 4, *, threshold: Threshold | None = None) -> None:
        self.count, self.threshold = count, threshold
        self._drawn, self._failed = 0, False

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._drawn = 0

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        images, targets = batch
        chosen = getattr(pl_module, "thresholds", None)
        least = self.threshold if self.threshold is not None else THRESHOLD if chosen is None else chosen["values"]
        for image, target, prediction in zip(images, targets, outputs):
            if self._drawn == self.count:
                return
            self._drawn += 1
            try:
                self._draw(trainer, pl_module, image, target, prediction.cpu().above(least))
            # such as a full disk: the training matters more
            except OSError as error:
                if not self._failed:
                    show(f"a picture is not written: {error.strerror or error}; the training goes on")
                self._failed = True

    def _draw(self, trainer: Any, task: Any, image: Tensor, target: Target, prediction: Prediction) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        outline = getattr(data, "kind", "instances") == "instances"
        options = {"mean": task.backbone.mean, "std": task.backbone.std, "side": SIDE}
        if isinstance(data, ImageData) and (not outline or prediction.masks is not None):
            # labels that can't be read again are no reason to stop
            with contextlib.suppress(UserError):
                target = with_labels(data.files.source("val"), target)
        labelled = draw_sample(image, target, names=task.classes, outline=outline, **options)
        sides = [labelled, draw_found(image, prediction, **options)]
        name = file_names(data.index("val")).get(target.image_id, "") if hasattr(data, "index") else ""
        count = f"found: {len(prediction)}, " if prediction.semantic is None else "found: "
        found = f"{count}step {trainer.global_step}"
        picture = sheet(sides, [f"labels: {caption(target, name)}", found], columns=2)
        folder = trainer.run_folder / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{prediction.image_id}_step{trainer.global_step:06d}.jpg", quality=90)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                tag = f"val/{prediction.image_id}"
                logger.experiment.add_image(tag, np.asarray(picture), trainer.global_step, dataformats="HWC")


class Summary(L.Callback):
    """Prints a line after each validation, a table of scores at the end, and the command to run next."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._trained = self._scored = False
        # the scores of the newest validation, by name, its step, and how they were counted
        self._scores: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint says of its scores, for those who share it."""
        return self._scores

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._scores = state_dict

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started, self._trained, self._scored = time.monotonic(), False, False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._trained = True
        if not trainer.is_global_zero:
            return
        if trainer.ckpt_path is not None:
            due = ", with its validation" if getattr(trainer.fit_loop.epoch_loop, "due", False) else ""
            show(f"the training goes on after step {trainer.global_step} of {trainer.ckpt_path}{due}")
        if not validates(trainer):
            show("no validation data, or limit_val_batches is 0: nothing is validated, so there is no best.ckpt")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        self._scored = True
        logged = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(("train/loss", "val/"))}
        values = {k: v for k, v in logged.items() if k.startswith("val/")}
        self._scores = {"values": values, "step": trainer.global_step, "protocol": protocol(pl_module, "val")}
        shown = list(logged.items())[:4]
        scores = "  ".join(f"{key} {value:.4g}" if worth(value, key) else f"{key} none" for key, value in shown)
        minutes = (time.monotonic() - self._started) / 60
        show(f"epoch {trainer.current_epoch}  step {trainer.global_step}  {scores}  {minutes:.1f} min")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        if not self._trained:
            bounds = [
                (key, getattr(trainer, key)) for key in ("max_steps", "max_epochs") if getattr(trainer, key) != -1
            ]
            if trainer.limit_train_batches == 0:
                bounds = [("limit_train_batches", 0)]
            listed = " and ".join(f"{key} {value}" for key, value in bounds) or "no batch"
            at = f"step {trainer.global_step}, epoch {trainer.current_epoch}"
            show(f"nothing to train: the run is at {at}, and has {listed}")
        elif self._scored:
            spent = duration(time.monotonic() - self._started)
            self._report(trainer, pl_module, "val", f"last validation, after {spent}")
            if getattr(pl_module, "thresholds", None) is not None:
                print_thresholds(pl_module.thresholds, pl_module.classes)
        self._next(trainer)

    def _next(self, trainer: L.Trainer) -> None:
        """Prints which checkpoint to use, and the command that uses it."""
        best = next(
            (callback for callback in trainer.checkpoint_callbacks if isinstance(callback, BestCheckpoint)), None
        )
        last = next(
            (callback for callback in trainer.checkpoint_callbacks if isinstance(callback, LastCheckpoint)), None
        )
        if best is not None and best.best_model_score is not None:
            show(f"best {best.monitor} {float(best.best_model_score):.4f}: {best.best_model_path}")
            show(f"Next: vitdet predict {best.best_model_path} IMAGE")
        elif last is not None and last.path.is_file():
            show(f"Next: vitdet predict {last.path} IMAGE")
        elif self._trained and last is None:
            show("no best.ckpt or last.ckpt was written: enable_checkpointing is false, or fast_dev_run is set")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        metric = pl_module.metric("test")
        if trainer.is_global_zero:
            self._report(trainer, pl_module, "test", "test")
        if isinstance(metric, Metric) and metric.saves:
            # saving gathers the predictions of all ranks, so every rank must call it
            self._save(trainer, metric)

    def _save(self, trainer: L.Trainer, metric: Metric) -> None:
        folder = trainer.tested_folder
        if folder is None:
            text = "predictions.json is not written: there is no checkpoint to put it beside"
        else:
            path = folder / "predictions.json"
            try:
                metric.save(path)
                text = f"predictions, in the data set's own ids: {path}"
            except OSError as error:
                text = f"predictions.json is not written: {error}"
        if trainer.is_global_zero:
            show(text)

    def _report(self, trainer: L.Trainer, task: L.LightningModule, split: str, title: str) -> None:
        prefix = f"{split}/"
        scores = {k.removeprefix(prefix): float(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}
        if scores:
            show(title)
            print_scores(scores, protocol(task, split))
