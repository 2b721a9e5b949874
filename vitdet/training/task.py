"""What is trained: a backbone, a head, and how their weights are updated."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from vitdet import metrics, zoo
from vitdet.backbone import Backbone
from vitdet.config import config_of
from vitdet.data import ImageData
from vitdet.errors import UserError
from vitdet.heads.base import Head
from vitdet.structures import Prediction, Target
from vitdet.training.muon import Muon
from vitdet.training.optim import Schedule, lr_factor, parameter_groups, progress
from vitdet.zoo.files import FORMAT

Batch = tuple[Sequence[Tensor], list[Target]]
OPTIMIZERS = {"adamw": torch.optim.AdamW, "muon": Muon}


class Task(L.LightningModule):
    """A backbone and a head, with what it takes to train them. One module serves every head.

    Args:
        backbone: Images to feature levels.
        head: A head, or what makes one from `(out_channels, strides, num_classes)`, such as the class itself.
        classes: The class names, indexed by label. The checkpoint keeps them.
        category_ids: The data set's own ids, indexed by label; those of the data that it trains on, where not given.
        optimizer: "adamw", or "muon", which learns from scratch in fewer steps (matrices only; the rest is left to AdamW).
        lr: Peak learning rate.
        backbone_lr: The backbone's learning rate as a multiple of `lr`.
        trunk_lr: That of the backbone's blocks and embeddings, but not of its last norm, as a multiple of its neck's.
        layer_decay: Each block of the backbone learns at this multiple of the block above it.
        weight_decay: Decoupled weight decay; norms, biases and position embeddings are not decayed.
        betas: AdamW's moment decays.
        schedule: How the learning rate falls after the warm-up: cosine, linear, constant or wsd.
        warmup: The fraction of the training in which the learning rate rises.
        final_lr: The last learning rate as a fraction of `lr`.
        compile: Whether to `torch.compile` the backbone and the head.
        checkpoint: What to start from: a published model by name (`vitdet zoo` lists them), or a checkpoint of another run. A config file then needs no
            backbone and head: they are those of the checkpoint, with what is said on top.
        checkpoint_file: With a name: the file with its weights, where there is no network.
    """

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
        schedule: Schedule = "cosine",
        warmup: float = 0.03,
        final_lr: float = 0.01,
        compile: bool = False,
        checkpoint: str | None = None,
        checkpoint_file: str | None = None,
    ) -> None:
        super().__init__()
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
        if checkpoint_file is not None and checkpoint is None:
            raise UserError("checkpoint_file goes with checkpoint, the name of a published model")
        self.checkpoint = checkpoint
        self.new_classes = self.classes  # those that no weights are known for
        if checkpoint is not None:
            card, file = zoo.of(checkpoint, checkpoint_file)
            self.new_classes = zoo.start(self.backbone, self.head, self.classes, card=card, path=file)
        if optimizer not in ("muon", "adamw"):
            raise UserError(f"optimizer is {optimizer!r}; choose from muon, adamw")
        self.optimizer, self.lr, self.layer_decay = optimizer, lr, layer_decay
        self.backbone_lr, self.trunk_lr = backbone_lr, trunk_lr
        self.weight_decay, self.betas = weight_decay, betas
        self.schedule, self.warmup, self.final_lr = schedule, warmup, final_lr
        self.eval_transform: dict[str, Any] = {}
        self._progress = 0.0
        self._metrics: dict[str, Any] = {}
        self.main_score: str | None = None  # of the last validation
        lr_factor(
            0.5, schedule=schedule, warmup=warmup, final=final_lr
        )  # a misspelt schedule fails here, not after loading the data
        if compile:
            self.backbone.compile()
            self.head.compile()

    def setup(self, stage: str) -> None:
        if isinstance(self.trainer.datamodule, ImageData):
            self.use_data(self.trainer.datamodule)

    def use_data(self, data: ImageData) -> None:
        """Tells the data what backbone and head need, and the head what labels there are; a trainer calls it before it trains."""
        data.use_head(self.head)
        self.head.use_data(data.kind, data.things)
        own = self.backbone
        data.use_backbone(mean=own.mean, std=own.std, patch_size=own.patch_size, canvas=getattr(own, "canvas", None))
        self.eval_transform = data.eval_transform().config
        if not self._ids_given and data.classes == self.classes:
            self.category_ids = data.category_ids

    # ---- training

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.head.progress = progress(self.trainer)

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
            self.log_dict({**terms, "lr": self._lr()}, batch_size=1)
            self.log("train/loss", total.detach(), prog_bar=True, batch_size=1)
        return total

    def _lr(self) -> float:
        return self.lr * lr_factor(self._progress, **self._schedule())

    def _schedule(self) -> dict[str, Any]:
        return {"schedule": self.schedule, "warmup": self.warmup, "final": self.final_lr}

    def make_optimizer(self, *, fused: bool = True) -> torch.optim.Optimizer:
        """The optimiser, which needs no trainer."""
        groups = parameter_groups(
            self.backbone,
            self.head,
            lr=self.lr,
            weight_decay=self.weight_decay,
            layer_decay=self.layer_decay,
            backbone_lr=self.backbone_lr,
            trunk_lr=self.trunk_lr,
            matrices=self.optimizer == "muon",
        )
        return OPTIMIZERS[self.optimizer](groups, lr=self.lr, betas=tuple(self.betas), fused=fused)

    def configure_optimizers(self) -> dict[str, Any]:
        # the gradient scaler of 16-mixed can't clip gradients for a fused optimiser
        optimizer = self.make_optimizer(fused=self.trainer.precision != "16-mixed")
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda _: lr_factor(self._progress, **self._schedule())
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        self._progress = progress(self.trainer)
        scheduler.step()

    # ---- evaluation

    def predict(self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """What is found in `images`, in pixels of the original images, whose `(H, W)` are `sizes`."""
        predictions = self.head.infer(self.backbone, images, sizes)
        for prediction in predictions:
            prediction.names, prediction.category_ids = self.classes, self.category_ids
        return predictions

    def _eval_start(self, split: str) -> None:
        metric = self.head.metric(self.trainer.datamodule)
        if isinstance(metric, str):
            metric = metrics.create_metric(metric, self.trainer.datamodule, split=split)
        if metric is None:
            rank_zero_warn(f"{type(self.head).__name__} names no metric for this data: nothing is scored on {split}")
        elif hasattr(metric, "seen_only"):
            limit = self.trainer.limit_test_batches if split == "test" else self.trainer.limit_val_batches
            # the number 1.0 is all batches, the whole number 1 a single one
            metric.seen_only = isinstance(limit, int) or limit < 1 or self.trainer.sanity_checking
        self._metrics[split] = metric

    def _eval_step(self, batch: Batch, split: str) -> list[Prediction]:
        images, targets = batch
        predictions = self.predict(images, [target.orig_size for target in targets])
        for prediction, target in zip(predictions, targets):
            prediction.image_id = target.image_id
        if self._metrics[split] is not None:
            self._metrics[split].update(predictions, targets)
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

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:
        images, targets = batch
        predictions = self.predict(images, [target.orig_size for target in targets])
        for prediction, target in zip(predictions, targets):
            prediction.image_id = target.image_id
        return predictions

    # ---- checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["vitdet"] = {
            "format": FORMAT,
            "model": {"backbone": config_of(self.backbone), "head": config_of(self.head)},
            "classes": self.classes,
            "category_ids": self.category_ids,
            "eval_transform": self.eval_transform,
            "mean": [float(v) for v in self.backbone.mean],
            "std": [float(v) for v in self.backbone.std],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("vitdet")
        if saved is None:
            raise UserError("this checkpoint was not written by vitdet: it has no key 'vitdet'")
        if saved["format"] != FORMAT:
            raise UserError(f"the checkpoint has format {saved['format']}, this vitdet reads {FORMAT}")
        if saved["classes"] != self.classes:
            raise UserError(
                f"the checkpoint knows {len(saved['classes'])} classes {saved['classes'][:5]}, the data has "
                f"{len(self.classes)} {self.classes[:5]}; give the data that it was trained on"
            )
