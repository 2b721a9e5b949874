"""One-to-many assignment of tokens to objects.  # N tokens, K classes, T objects of one image"""

import torch
from torch import Tensor

from vitdet.boxes import cxcywh_to_xyxy, pairwise_iou


@torch.no_grad()
def assign_aligned(
    logits: Tensor,
    boxes_cxcywh: Tensor,
    centres: Tensor,
    labels: Tensor,
    targets_cxcywh: Tensor,
    *,
    topk: int = 8,
    alpha: float = 0.5,
    beta: float = 4.0,
) -> tuple[Tensor, Tensor]:
    """The `topk` tokens of each object that score and fit best, `p^alpha * IoU^beta`, of those inside it (TOOD, arXiv:2108.07755).

    A token claimed by several objects goes to the one it overlaps most; an object that covers no token's centre takes the nearest one.

    Args:
        logits: `(N, K)`, boxes `(N, 4)` and centres `(N, 2)` of one image's tokens.
        labels: `(T,)` and boxes `(T, 4)` of its objects.

    Returns:
        Index of the assigned tokens, and of the object of each; both `(M,)`.
    """
    if not len(labels) or not len(logits):
        empty = torch.zeros(0, dtype=torch.long, device=logits.device)
        return empty, empty
    targets_xyxy = cxcywh_to_xyxy(targets_cxcywh)
    inside = ((centres[:, None] > targets_xyxy[:, :2]) & (centres[:, None] < targets_xyxy[:, 2:])).all(-1)  # (N, T)
    nearest = (centres[:, None] - targets_cxcywh[:, :2]).square().sum(-1).argmin(0)  # (T,)
    inside[nearest, torch.arange(len(labels), device=labels.device)] |= ~inside.any(0)
    ious = pairwise_iou(cxcywh_to_xyxy(boxes_cxcywh.float()), targets_xyxy)  # (N, T)
    score = logits.float().sigmoid()[:, labels] ** alpha * ious**beta
    best = score.masked_fill(~inside, -1).topk(min(topk, len(score)), dim=0).indices  # (topk, T)
    claimed = torch.zeros_like(inside).scatter_(0, best, True) & inside
    owner = torch.where(claimed, ious + 1e-6, -1).argmax(1)
    tokens = claimed.any(1).nonzero().squeeze(1)
    return tokens, owner[tokens]
