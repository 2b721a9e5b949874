"""The loss of one or many sets of predictions whose objects are known.  # L layers, N predictions, K classes, M matched pairs"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from vitdet.losses.boxes import box_losses
from vitdet.losses.classification import ClassLoss, classification_loss
from vitdet.structures import Target


@dataclass
class Objects:
    """The objects of all images, one after the other: `boxes_cxcywh` `(T, 4)`, `labels` `(T,)`."""

    boxes_cxcywh: Tensor
    labels: Tensor

    @classmethod
    def of(cls, targets: list[Target]) -> "Objects":
        return cls(torch.cat([t.boxes_cxcywh for t in targets]), torch.cat([t.labels for t in targets]))


def mean_over_ranks(count: int | Tensor, device) -> Tensor:
    """`count` averaged over the DDP ranks, at least 1: what a loss is divided by."""
    value = torch.as_tensor(count, dtype=torch.float32, device=device)
    if dist.is_available() and dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
        value = value / dist.get_world_size()
    return value.clamp(min=1.0)


def set_losses(
    logits: Tensor,
    boxes_cxcywh: Tensor,
    matched: Tensor,
    objects: Tensor,
    truth: Objects,
    normaliser: Tensor,
    *,
    class_loss: ClassLoss,
) -> dict[str, Tensor]:
    """`class`, `box` and `giou` loss of each layer, `(L,)`, all layers in one pass.

    Args:
        logits: `(L, N, K)`.
        boxes_cxcywh: `(L, N, 4)`.
        matched: `(M,)` index in `L*N` of the predictions that have an object.
        objects: `(M,)` which object of `truth` each has.
        normaliser: what the sums are divided by.
    """
    L, N = logits.shape[:2]
    layer = matched // max(N, 1)
    l1, one_less_giou, ious = box_losses(boxes_cxcywh.flatten(0, 1)[matched], truth.boxes_cxcywh[objects])
    per_query = classification_loss(class_loss, logits.flatten(0, 1), matched, truth.labels[objects], ious)
    nothing = 0.0 * boxes_cxcywh.float().sum()  # the graph of a batch without objects is that of any other
    by_layer = l1.new_zeros(L)
    return {
        "class": per_query.view(L, N).sum(1) / normaliser,
        "box": by_layer.index_add(0, layer, l1) / normaliser + nothing,
        "giou": by_layer.index_add(0, layer, one_less_giou) / normaliser + nothing,
    }
