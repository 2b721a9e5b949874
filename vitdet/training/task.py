"""The Lightning module: a backbone and a head, their training step, their evaluation and their checkpoints."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from vitdet import zoo
from vitdet.backbone import Backbone
from vitdet.checkpoint import Checkpoint, write
from vitdet.config import config_of, understands_mappings
from vitdet.data import ImageData
from vitdet.errors import UserError, check
from vitdet.handshake import agree, check_features
from vitdet.heads.base import Head
from vitdet.metrics import create_metric
from vitdet.ranges import ranged
from vitdet.structures import Prediction, Target
from vitdet.training import progress
from vitdet.training.callbacks.ema import is_average
from vitdet.training.callbacks.finite import skipped_steps
from vitdet.training.learning import Learning
from vitdet.training.optim import RANGES
from vitdet.training.resume import check_fits
from vitdet.training.schedule import Schedule

Batch = tuple[Sequence[Tensor], list[Target]]


class Task(Learning):
    """The Lightning module of a backbone and a head, which serves every head; `training_step` goes from images to loss.

    Args:
        backbone: turns images into feature levels.
        head: a head, or what makes one from `(out_channels, strides, num_classes)`, such as the class itself.
        classes: the class names, indexed by label; checkpoints keep them.
        category_ids: the category ids of the data set, indexed by label; by default those of the training data.
        optimizer: `adamw`, or `muon`, which needs fewer steps from scratch; Muon updates matrices, and AdamW the rest.
        lr: the peak learning rate.
        backbone_lr: the learning rate of the backbone as a multiple of `lr`.
        trunk_lr: the learning rate of the ViT, embeddings and last norm included, as a multiple of the neck's.
        layer_decay: each block of the ViT learns at this multiple of the learning rate of the block above it.
        weight_decay: decoupled weight decay; norms, biases and position embeddings are not decayed.
        betas: the decay rates of AdamW's two moments.
        schedule: how the learning rate changes over the training.
        compile: whether backbone and head are compiled by `torch.compile`, on a GPU only.
        checkpoint: the weights to start from: the name of a published model (`vitdet zoo` lists them), or a checkpoint
            of another run. A config file then needs no backbone and head: it changes those of the checkpoint.
        checkpoint_file: the file with the weights of the published model, where it can't be downloaded.

    Raises:
        UserError: an argument is out of range, or backbone, head, classes and checkpoint do not fit together.

    Example:
        >>> from vitdet import Backbone, DETRHead, Task
        >>> task = Task(Backbone("vit_tiny_patch16_224", depth=2), DETRHead, classes=["cat", "dog"], lr=1e-4)
        >>> task.head.num_classes
        2
    """

    @understands_mappings
    @ranged(RANGES)
    def __init__(
        self,
        backbone: Backbone,
        head: Callable[[Sequence[int], Sequence[float], int], Head],
        *,
        classes: Sequence[str],
        category_ids: Sequence[int] | None = None,
        optimizer: Literal["adamw", "muon"] = "adamw",
        lr: float = 2e-4,
        backbone_lr: float = 1.0,
        trunk_lr: float = 1.0,
        layer_decay: float = 1.0,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.999),
        schedule: Schedule = Schedule(),
        compile: bool = False,
        checkpoint: str | None = None,
        checkpoint_file: str | None = None,
    ) -> None:
        super().__init__()
        rates = {"lr": lr, "backbone_lr": backbone_lr, "trunk_lr": trunk_lr, "layer_decay": layer_decay}
        self.use_settings(optimizer=optimizer, **rates, weight_decay=weight_decay, betas=betas, schedule=schedule)
        is_list = isinstance(classes, Sequence) and not isinstance(classes, str)
        check("classes", classes, is_list, "the list of the class names, such as data.classes")
        check("backbone", type(backbone).__name__, isinstance(backbone, nn.Module), "a Backbone")
        self.classes = list(classes)
        self._ids_given = category_ids is not None
        self.category_ids = list(range(len(self.classes)) if category_ids is None else category_ids)
        if len(self.category_ids) != len(self.classes):
            counts = f"{len(self.classes)} classes but {len(self.category_ids)} category ids"
            raise UserError(f"got {counts}; they must pair")
        self.backbone = backbone
        built = isinstance(head, Head)
        self.head = head if built else head(backbone.out_channels, backbone.strides, len(self.classes))
        check_features(backbone, self.head)
        self.head.prepare(self.progress)
        if checkpoint_file is not None and checkpoint is None:
            raise UserError("checkpoint_file goes with checkpoint, the name of a published model")
        self.checkpoint = checkpoint
        # the classes for which the checkpoint has no weights
        self.new_classes = self.classes
        if checkpoint is not None:
            card, file = zoo.of(checkpoint, checkpoint_file)
            self.new_classes = zoo.start(self.backbone, self.head, self.classes, card=card, path=file)
        self.eval_transform: dict[str, Any] = {}
        # class and arguments of the data module, if it can be built again from them
        self.data_config: dict[str, Any] | None = None
        self._metrics: dict[str, Any] = {}
        # the name of the main score of the last evaluation, such as val/AP
        self.main_score: str | None = None
        self._compiles = compile

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.trainer.precision == "64-true":
            raise UserError("precision is 64-true; losses and sampling are in 32 bits, so wanted 32-true or bf16-mixed")
        if self._compiles:
            self._compile()
        if isinstance(self.trainer.datamodule, ImageData):
            self.use_data(self.trainer.datamodule)

    def _compile(self) -> None:
        if self.trainer.strategy.root_device.type == "cpu":
            raise UserError(
                "compile is true, but on a CPU every other size of images, batch or number of objects takes minutes to "
                "compile; set model.compile: false, or train on a GPU"
            )
        self.backbone.compile()
        self.head.compile()
        self._compiles = False

    def use_data(self, data: ImageData) -> None:
        """Tells the head of the data's labels, and the data of the images and targets that the model needs.

        Raises:
            UserError: backbone, head and data can't work together.
        """
        labels, needs = agree(self.backbone, self.head, data)
        self.head.prepare(self.progress, labels)
        data.prepare(self.progress, needs)
        self.eval_transform = data.eval_transform().config
        if not self._ids_given and data.classes == self.classes:
            self.category_ids = data.category_ids
        try:
            self.data_config = config_of(data)
        # a data module of the user's may take more than plain values
        except TypeError:
            self.data_config = None

    # ---- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        features = self.backbone(images)
        outputs = self.head(features, targets)
        losses = self.head.loss(outputs, targets)
        return self._logged(self.head.total(losses), losses)

    def _logged(self, total: Tensor, losses: dict[str, Tensor]) -> Tensor:
        # not in every step: `self.log` costs 0.1 ms a term, and reading a loss waits for the device
        if progress.is_logged(self.trainer):
            terms = {f"train/{name}": value.detach() for name, value in losses.items()}
            skipped = skipped_steps(self.trainer)
            counted = {"skipped_steps": float(skipped)} if skipped else {}
            self.log_dict({**terms, "lr": self.learning_rate(), **counted}, batch_size=1)
            self.log("train/loss", total.detach(), prog_bar=True, batch_size=1)
        return total

    # ---- evaluation

    def predict(self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """What is found in normalised images `(3, H, W)`, in pixels of the originals, whose `(H, W)` are `sizes`."""
        predictions = self.head.infer(self.backbone, images, sizes)
        for prediction in predictions:
            prediction.names, prediction.category_ids = self.classes, self.category_ids
        return predictions

    def _eval_start(self, split: str) -> None:
        metric = self._new_metric(split)
        if metric is None and split not in self._metrics:
            rank_zero_info(f"{type(self.head).__name__} has no metric for this data: nothing is scored on {split}")
        self._metrics[split] = metric

    def _new_metric(self, split: str) -> Any:
        """The metric that the head makes itself, else the one of what the head `predicts`, else none."""
        data = self.trainer.datamodule
        metric = self.head.metric(data)
        if metric is not None:
            wanted = "a torchmetrics.Metric, or None: vitdet's own metric follows from the head's `predicts`"
            check(f"{type(self.head).__name__}.metric()", metric, isinstance(metric, nn.Module), wanted)
            metric.reset()
            return metric.to(self.device)
        if self.head.predicts is None or not isinstance(data, ImageData):
            return None
        limit = self.trainer.limit_test_batches if split == "test" else self.trainer.limit_val_batches
        # In Lightning, the float 1.0 means all batches, and the integer 1 a single one.
        seen_only = isinstance(limit, int) or limit < 1 or self.trainer.sanity_checking
        return create_metric(self.head.predicts, data, split=split, seen_only=seen_only)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:
        images, targets = batch
        predictions = self.predict(images, [target.orig_size for target in targets])
        for prediction, target in zip(predictions, targets):
            prediction.image_id = target.image_id
        return predictions

    def _eval_step(self, batch: Batch, split: str) -> list[Prediction]:
        predictions = self.predict_step(batch, 0)
        if self._metrics[split] is not None:
            self._metrics[split].update(predictions, batch[1])
        return predictions

    def _eval_end(self, split: str) -> None:
        metric = self._metrics[split]
        if metric is None or self.trainer.sanity_checking:
            return
        # the metric has gathered the results of all ranks
        scores = {f"{split}/{name}": float(value) for name, value in metric.compute().items()}
        self.log_dict(scores, rank_zero_only=False, sync_dist=False)
        self.main_score = next(iter(scores), None)

    def metric(self, split: str) -> Any:
        """The metric of the last evaluation of `split` ("val" or "test"), or `None`."""
        return self._metrics.get(split)

    def on_validation_epoch_start(self) -> None:
        self._eval_start("val")

    def validation_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:
        return self._eval_step(batch, "val")

    def on_validation_epoch_end(self) -> None:
        self._eval_end("val")

    def on_test_epoch_start(self) -> None:
        self._eval_start("test")

    def test_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:
        return self._eval_step(batch, "test")

    def on_test_epoch_end(self) -> None:
        self._eval_end("test")

    # ---- checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        known = {"classes": self.classes, "category_ids": self.category_ids, "eval_transform": self.eval_transform}
        chosen = {"settings": self.settings, "data": self.data_config, "thresholds": self.thresholds}
        write(checkpoint, self.backbone, self.head, **known, **chosen)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = Checkpoint.of(checkpoint, self.trainer.ckpt_path)
        training = self.trainer.state.fn == "fit"
        check_fits(self, saved, training=training, tell=True)
        self.thresholds = saved.chosen
        if training:
            self.resumes(saved)
        if isinstance(data := self.trainer.datamodule, ImageData):
            self.eval_transform = data.files.read_like(saved.eval_transform).config
        if training and saved.average and not any(map(is_average, self.trainer.callbacks)):
            rank_zero_info(
                "from here on there is no average of the weights, which the checkpoint has: trainer.ema is 0"
            )

    @classmethod
    def load_from_checkpoint(
        cls, checkpoint_path: str | Path, map_location: str | torch.device | None = None, **options: Any
    ) -> "Task":
        """A task built from a checkpoint alone, with the averaged weights (EMA) if the file has them.

        Args:
            map_location: the device that the task is put on, by default the CPU.
            options: arguments of the constructor that replace those of the checkpoint.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: it is damaged, was not written by vitdet, or needs a part that is not installed.
        """
        saved = Checkpoint.read(checkpoint_path)
        known = {"classes": saved.classes, "category_ids": saved.category_ids, **saved.settings}
        # Lightning's other arguments: the file never holds more than weights and plain values
        options.pop("weights_only", None)
        for name in ("strict", "hparams_file"):
            value = options.pop(name, None)
            check(name, value, value in (None, True), "nothing: all is in the checkpoint, and must fit")
        task = cls(*saved.build(), **{**known, **options})
        task.eval_transform, task.thresholds = saved.eval_transform, saved.chosen
        return task.to(map_location or "cpu")
