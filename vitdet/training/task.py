"""What is trained: a backbone, a head, and how their weights are updated."""

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
from vitdet.training.callbacks.ema import is_average
from vitdet.training.learning import Learning
from vitdet.training.optim import RANGES
from vitdet.training.resume import check_fits
from vitdet.training.schedule import Schedule

Batch = tuple[Sequence[Tensor], list[Target]]


class Task(Learning):
    """A backbone and a head, with what it takes to train them. One module serves every head.

    Args:
        backbone: Images to feature levels.
        head: A head, or what makes one from `(out_channels, strides, num_classes)`, such as the class itself.
        classes: The class names, indexed by label. The checkpoint keeps them.
        category_ids: The data set's own ids, indexed by label; those of the data that it trains on, where not given.
        optimizer: "adamw", or "muon", which learns from scratch in fewer steps (matrices only; the rest is left to AdamW).
        lr: Peak learning rate.
        backbone_lr: The backbone's learning rate as a multiple of `lr`.
        trunk_lr: That of the backbone's ViT, its embeddings and its last norm included, as a multiple of its neck's.
        layer_decay: Each block of the backbone learns at this multiple of the block above it.
        weight_decay: Decoupled weight decay; norms, biases and position embeddings are not decayed.
        betas: AdamW's moment decays.
        schedule: How the learning rate changes over the training.
        compile: Whether to `torch.compile` the backbone and the head; on a GPU only.
        checkpoint: What to start from: a published model by name (`vitdet zoo` lists them), or a checkpoint of another run. A config file then needs no
            backbone and head: they are those of the checkpoint, with what is said on top.
        checkpoint_file: With a name: the file with its weights, where there is no network.
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
        self.use_settings(
            optimizer=optimizer,
            lr=lr,
            backbone_lr=backbone_lr,
            trunk_lr=trunk_lr,
            layer_decay=layer_decay,
            weight_decay=weight_decay,
            betas=betas,
            schedule=schedule,
        )
        named = isinstance(classes, Sequence) and not isinstance(classes, str)
        check("classes", classes, named, "the list of the class names, such as data.classes")
        check("backbone", type(backbone).__name__, isinstance(backbone, nn.Module), "a Backbone")
        self.classes = list(classes)
        self._ids_given = category_ids is not None
        self.category_ids = list(range(len(self.classes)) if category_ids is None else category_ids)
        if len(self.category_ids) != len(self.classes):
            raise UserError(
                f"got {len(self.classes)} classes but {len(self.category_ids)} category ids; they must pair"
            )
        self.backbone = backbone
        built = isinstance(head, Head)
        self.head = head if built else head(backbone.out_channels, backbone.strides, len(self.classes))
        check_features(backbone, self.head)
        self.head.prepare(self.progress)
        if checkpoint_file is not None and checkpoint is None:
            raise UserError("checkpoint_file goes with checkpoint, the name of a published model")
        self.checkpoint = checkpoint
        self.new_classes = self.classes  # those that no weights are known for
        if checkpoint is not None:
            card, file = zoo.of(checkpoint, checkpoint_file)
            self.new_classes = zoo.start(self.backbone, self.head, self.classes, card=card, path=file)
        self.eval_transform: dict[str, Any] = {}
        self.data_config: dict[str, Any] | None = None  # how the data module is built again, where it can be
        self._metrics: dict[str, Any] = {}
        self.main_score: str | None = None  # of the last validation
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
                "compile is true, but on a CPU every other size of images, batch or number of objects takes minutes to compile; "
                "set model.compile: false, or train on a GPU"
            )
        self.backbone.compile()
        self.head.compile()
        self._compiles = False

    def use_data(self, data: ImageData) -> None:
        """Tells data and head of each other; a trainer calls it before it trains or evaluates.

        Raises:
            UserError: they can't work together.
        """
        labels, needs = agree(self.backbone, self.head, data)
        self.head.prepare(self.progress, labels)
        data.prepare(self.progress, needs)
        self.eval_transform = data.eval_transform().config
        if not self._ids_given and data.classes == self.classes:
            self.category_ids = data.category_ids
        try:
            self.data_config = config_of(data)
        except TypeError:  # a class of the user's own that takes more than plain values
            self.data_config = None

    # ---- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        features = self.backbone(images)
        outputs = self.head(features, targets)
        losses = self.head.loss(outputs, targets)
        return self._logged(self.head.total(losses), losses)

    def _logged(self, total: Tensor, losses: dict[str, Tensor]) -> Tensor:
        # `self.log` costs 0.1 ms a term, and reading a loss waits for the device: every n steps only
        every = self.trainer.log_every_n_steps  # 0 logs nothing
        if every and self.global_step % every == 0:
            terms = {f"train/{name}": value.detach() for name, value in losses.items()}
            if not torch.isfinite(total):
                listed = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
                raise FloatingPointError(
                    f"the loss is {total.item()} at step {self.global_step} ({listed}); try a lower lr"
                )
            self.log_dict({**terms, "lr": self.learning_rate()}, batch_size=1)
            self.log("train/loss", total.detach(), prog_bar=True, batch_size=1)
        return total

    # ---- evaluation

    def predict(self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """What is found in `images`, in pixels of the original images, whose `(H, W)` are `sizes`."""
        predictions = self.head.infer(self.backbone, images, sizes)
        for prediction in predictions:
            prediction.names, prediction.category_ids = self.classes, self.category_ids
        return predictions

    def _eval_start(self, split: str) -> None:
        metric = self._new_metric(split)
        if metric is None and split not in self._metrics:  # once is enough
            rank_zero_info(f"{type(self.head).__name__} has no metric for this data: nothing is scored on {split}")
        self._metrics[split] = metric

    def _new_metric(self, split: str) -> Any:
        """The user's metric, where the head has one, else that of what the head predicts, if there is one."""
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
        # the number 1.0 is all batches, the whole number 1 a single one
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
        # the metric has gathered over the ranks, so every rank logs the same numbers
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
        write(
            checkpoint,
            self.backbone,
            self.head,
            classes=self.classes,
            category_ids=self.category_ids,
            eval_transform=self.eval_transform,
            settings=self.settings,
            data=self.data_config,
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = Checkpoint.of(checkpoint, self.trainer.ckpt_path)
        training = self.trainer.state.fn == "fit"
        check_fits(self, saved, training=training, tell=True)
        if training:
            self.resumes(saved)
        if training and saved.average and not any(map(is_average, self.trainer.callbacks)):
            rank_zero_info(
                "from here on there is no average of the weights, which the checkpoint has: trainer.ema is 0"
            )

    @classmethod
    def load_from_checkpoint(
        cls, checkpoint_path: str | Path, map_location: str | torch.device | None = None, **options: Any
    ) -> "Task":
        """The task of a checkpoint, built from what the file says, with its averaged weights if it has some, as `vitdet predict` takes them.

        Args:
            map_location: the device to put it on, by default the CPU.
            options: other arguments of the constructor, over those of the checkpoint.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: it is damaged, was not written by vitdet, or needs a part that is not installed.
        """
        saved = Checkpoint.read(checkpoint_path)
        known = {"classes": saved.classes, "category_ids": saved.category_ids, **saved.settings}
        options.pop("weights_only", None)  # nothing else is loaded
        for name in ("strict", "hparams_file"):
            value = options.pop(name, None)
            check(name, value, value in (None, True), "nothing: all is in the checkpoint, and must fit")
        task = cls(*saved.build(), **{**known, **options})
        task.eval_transform = saved.eval_transform
        return task.to(map_location or "cpu")
