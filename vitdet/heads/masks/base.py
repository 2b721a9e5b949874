"""The base classes of the heads for segmentation.

B images, Q queries of an image, K classes, H×W the original image in pixels
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitdet.errors import UserError
from vitdet.handshake import Labels
from vitdet.heads.base import Head
from vitdet.heads.masks.inference import MaskRules, Masks, class_scores, instances, panoptic, semantic
from vitdet.heads.masks.pixels import full_size
from vitdet.heads.masks.tiles import cut, put_together
from vitdet.heads.options import RANGES
from vitdet.losses.points import extents
from vitdet.losses.segmentation import MaskCriterion, MaskOutputs
from vitdet.progress import Progress
from vitdet.ranges import ranged
from vitdet.structures import Prediction, Target

MaskTask = Literal["instances", "semantic", "panoptic"]


class SegmentationHead(Head):
    """The base class of heads that learn from masks, for instance, semantic or panoptic segmentation.

    Args:
        task: `instances`, `semantic` or `panoptic`; if not given, the kind of labels of the data set.
        tile: side in pixels of the square tiles in which an image is seen at inference. The tiles overlap, and scores
            are averaged there, as many published semantic segmenters do. It works for semantic maps only, and has no
            effect in training, where images can be cropped.

    Attributes:
        task: what `predict` returns.
        things: `(K,)` bool, which classes have countable objects; as a buffer it is part of the checkpoint.

    Raises:
        UserError: an argument is out of range, or `tile` is given for another task than `semantic`.
    """

    needs_masks = True
    class_parts = ("classify", "things")
    things: Tensor

    @ranged(RANGES)
    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[float],
        num_classes: int,
        *,
        task: MaskTask | None,
        tile: int | None,
    ) -> None:
        super().__init__(in_channels, strides, num_classes)
        self.tile = tile
        self.task: MaskTask = task or "panoptic"
        self._chosen = task is not None
        if self._chosen:
            self.kinds = (self.task,)
            self._check_tile()
        self.register_buffer("things", torch.ones(num_classes, dtype=torch.bool))

    def prepare(self, progress: Progress, labels: Labels | None = None) -> None:
        super().prepare(progress, labels)
        if labels is None:
            return
        self.things.copy_(torch.tensor(labels.things))
        if not self._chosen:
            self.task = labels.kind
            # a head that is built from a checkpoint has this task
            self.init_args = {**self.init_args, "task": labels.kind}
        self._check_tile()

    def _check_tile(self) -> None:
        if self.tile is not None and self.task != "semantic":
            raise UserError(
                f"head.tile is {self.tile}, but the task is {self.task}: only semantic maps are put together from "
                "tiles; set it to null"
            )

    def infer(
        self, backbone: nn.Module, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Prediction]:
        if self.tile is None:
            return super().infer(backbone, images, sizes)
        tiles, places = cut(images, self.tile)
        scores = self.pixel_scores(self(backbone(tiles)))
        scores = put_together(scores, places, [tuple(image.shape[-2:]) for image in images])
        return [semantic(image, tuple(size)) for image, size in zip(scores, sizes)]

    def pixel_scores(self, outputs: Any) -> Iterator[Tensor]:
        """The scores `(K, H, W)` of the classes at every pixel of each image, in the size that the model sees."""
        raise NotImplementedError

    @property
    def predicts(self) -> str:
        return "masks" if self.task == "instances" else self.task


class QueryMaskHead(SegmentationHead):
    """The base class of heads whose queries each have a class and a mask; `forward` returns `MaskOutputs`.

    Args:
        rules: how classes and masks become a prediction, see `MaskRules`.
        task, tile: see `SegmentationHead`.
    """

    criterion: MaskCriterion

    @ranged(RANGES)
    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[float],
        num_classes: int,
        *,
        task: MaskTask | None,
        rules: MaskRules,
        tile: int | None,
    ) -> None:
        super().__init__(in_channels, strides, num_classes, task=task, tile=tile)
        self.rules = rules

    def loss(self, outputs: MaskOutputs, targets: list[Target]) -> dict[str, Tensor]:
        """The unweighted terms, named as in `loss_weights`, in fp32."""
        with torch.autocast(outputs.logits.device.type, enabled=False):
            return self.criterion(outputs, targets)

    def predict(self, outputs: MaskOutputs, sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        return [
            self._predict_one(scores, masks, tuple(size))
            for (scores, masks), size in zip(self._found(outputs, sizes), sizes)
        ]

    def pixel_scores(self, outputs: MaskOutputs) -> Iterator[Tensor]:
        for (scores, masks), size in zip(self._found(outputs, outputs.sizes), outputs.sizes):
            yield class_scores(scores, masks, size)

    def _found(self, outputs: MaskOutputs, sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[Tensor, Masks]]:
        """For each image, the scores `(Q, K)` of its queries, and a function that computes their masks at `sizes`."""
        pixels = outputs.pixels[-1]
        zoom = pixels.stride if self.rules.two_step else None
        scores = outputs.logits[-1].float().softmax(-1)[..., :-1]  # (B, Q, K + 1) -> (B, Q, K)
        parts = zip(scores, outputs.embeddings[-1], pixels.maps(), extents(pixels, outputs.sizes), sizes)
        for scores, embeddings, features, extent, size in parts:
            yield scores, partial(_mask_logits, embeddings, features, tuple(size), extent, zoom)

    def _predict_one(self, scores: Tensor, masks: Masks, size: tuple[int, int]) -> Prediction:
        if self.task == "instances":
            return instances(scores, masks, size, self.rules.max_detections)
        if self.task == "semantic":
            return semantic(class_scores(scores, masks, size), size)
        return panoptic(scores, masks, size, self.things, self.rules)


def _mask_logits(
    embeddings: Tensor,
    pixels: Tensor,
    size: tuple[int, int],
    extent: tuple[float, float],
    zoom: float | None,
    rows: Tensor,
) -> Tensor:
    """The mask logits `(n, H, W)` of the queries with numbers `rows` `(n,)`."""
    logits = torch.einsum("qc,chw->qhw", embeddings[rows].float(), pixels.float())
    return full_size(logits, size, extent, zoom=zoom)
