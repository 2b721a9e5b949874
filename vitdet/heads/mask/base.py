"""What all heads that segment have in common.  # B images, Q queries, K classes, H×W the original image"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from vitdet.heads.base import Head
from vitdet.heads.mask.criterion import MaskCriterion, MaskOutputs
from vitdet.heads.mask.inference import instances, panoptic, semantic
from vitdet.heads.mask.pixels import extents, full_size
from vitdet.structures import Prediction, Target

MaskTask = Literal["instances", "semantic", "panoptic"]
METRICS = {"instances": "coco_mask", "semantic": "semantic", "panoptic": "panoptic"}


class SegmentationHead(Head):
    """A head that learns from masks. What it is asked for, instances, a semantic map or panoptic segments, follows from the data it trains on.

    Attributes:
        task: what `predict` gives.
        things: `(K,)` bool, which classes can be counted; a buffer, so it is in the checkpoint.
    """

    needs_masks = True

    def __init__(self, num_classes: int, *, task: MaskTask | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.task: MaskTask = task or "panoptic"
        self._chosen = task is not None
        self.register_buffer("things", torch.ones(num_classes, dtype=torch.bool))

    def use_data(self, kind: MaskTask, things: Sequence[bool]) -> None:
        """What kind of labels the data has; a `Task` calls it before it trains."""
        self.things.copy_(torch.tensor(things))
        if not self._chosen:
            self.task = kind
            self.init_args = {**self.init_args, "task": kind}  # a checkpoint gives the same again

    def metric(self, data: Any) -> str:
        return METRICS[self.task]


class QueryMaskHead(SegmentationHead):
    """A head whose queries have a class and a mask each; `forward` gives `MaskOutputs`.

    Args:
        max_detections: instances that `predict` returns for an image.
        threshold, overlap: of panoptic segments, see `panoptic`.
        two_step: masks are enlarged to the size that the model sees before they are to the original one, as most published figures were taken.
    """

    criterion: MaskCriterion

    def __init__(
        self,
        num_classes: int,
        *,
        task: MaskTask | None = None,
        max_detections: int = 100,
        threshold: float = 0.5,
        overlap: float = 0.8,
        two_step: bool = False,
    ) -> None:
        super().__init__(num_classes, task=task)
        self.max_detections, self.threshold, self.overlap = max_detections, threshold, overlap
        self.two_step = two_step

    def loss(self, outputs: MaskOutputs, targets: list[Target]) -> dict[str, Tensor]:
        """The terms of `loss_weights`, in fp32."""
        with torch.autocast(outputs.logits.device.type, enabled=False):
            return self.criterion(outputs, targets)

    def predict(self, outputs: MaskOutputs, sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        pixels = outputs.pixels[-1]
        maps, covered = pixels.maps(), extents(pixels, outputs.sizes)
        zoom = pixels.stride if self.two_step else None
        return [
            self._predict_one(outputs.logits[-1, b], outputs.embeddings[-1, b], maps[b], covered[b], tuple(size), zoom)
            for b, size in enumerate(sizes)
        ]

    def _predict_one(
        self,
        logits: Tensor,
        embeddings: Tensor,
        pixels: Tensor,
        extent: tuple[float, float],
        size: tuple[int, int],
        zoom: float | None,
    ) -> Prediction:
        scores = logits.float().softmax(-1)[:, :-1]  # (Q, K + 1) -> (Q, K)

        def masks(rows: Tensor) -> Tensor:
            logits = torch.einsum("qc,chw->qhw", embeddings[rows].float(), pixels.float())
            return full_size(logits, size, extent, zoom=zoom)

        if self.task == "instances":
            return instances(scores, masks, size, self.max_detections)
        if self.task == "semantic":
            return semantic(scores, masks, size)
        return panoptic(scores, masks, size, self.things, threshold=self.threshold, overlap=self.overlap)
