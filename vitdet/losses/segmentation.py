"""Mask losses on sampled points, without ever forming a mask.

# P points and C channels of one image, Q queries, T objects, L layers, H×W a target mask, h×w the pixel features

A mask is the dot product of a query's embedding with every pixel's features, and bilinear sampling is linear: so the logit of a mask at a point is the
embedding times the features sampled there, the same for all queries. Points, Kirillov et al. 2020 (PointRend, arXiv:1912.08193); the losses and
their use in matching, Cheng et al. 2022 (Mask2Former, arXiv:2112.01527).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def random_points(count: int, device) -> Tensor:
    """`(P, 2)` x and y, uniform in [0, 1) of the image, the same on the CPU as on a GPU for one seed."""
    return torch.rand(count, 2).to(device)


def mask_points(count: int, boxes_cxcywh: Tensor) -> Tensor:
    """`(P, 2)` x and y in [0, 1) of the image: every other one anywhere, the rest in and around the objects, as many for each of them, large or small.

    Of points that fall anywhere, an object of 16×16 pixels in an image of 640×480 gets one in 1,200: too few to learn its outline from.

    Args:
        boxes_cxcywh: `(T, 4)` the objects, as fractions of the image.
    """
    points = random_points(count, boxes_cxcywh.device)
    if len(boxes_cxcywh):
        centre, size = boxes_cxcywh.float().split(2, dim=1)
        low, high = (centre - 0.75 * size).clamp(0, 1), (centre + 0.75 * size).clamp(0, 1)
        chosen = torch.randint(len(boxes_cxcywh), (count // 2,)).to(points.device)
        points[1::2] = torch.lerp(low[chosen], high[chosen], points[1::2]).clamp(max=1 - 1e-6)
    return points


def sample_points(maps: Tensor, points: Tensor, extent: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """`maps` `(C, h, w)` at `points` `(P, 2)` of the image, bilinear: `(C, P)`.

    Args:
        extent: how much of the map's height and width the image covers; the rest is padding.
    """
    scaled = points * points.new_tensor([extent[1], extent[0]])
    grid = (2 * scaled - 1).to(maps.dtype)[None, None]  # (P, 2) -> (1, 1, P, 2)
    return F.grid_sample(maps[None], grid, padding_mode="border", align_corners=False)[
        0, :, 0
    ]  # (1, C, 1, P) -> (C, P)


def mask_costs(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """What it costs to pair each prediction with each object: BCE and Dice.

    Args:
        logits: `(..., Q, P)`.
        truth: `(T, P)` in [0, 1].

    Returns:
        Two of `(..., Q, T)`.
    """
    count = max(logits.shape[-1], 1)
    # BCE(x, t) = softplus(x) - x * t, summed over points as two matrix products
    bce = (F.softplus(logits).sum(-1, keepdim=True) - logits @ truth.T) / count
    p = logits.sigmoid()
    dice = 1 - (2 * (p @ truth.T) + 1) / (p.sum(-1, keepdim=True) + truth.sum(-1) + 1)
    return bce, dice


def mask_losses(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """BCE and Dice loss of each pair, `(M,)`, of logits and truth `(M, P)`."""
    bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(-1)
    p = logits.sigmoid()
    dice = 1 - (2 * (p * truth).sum(-1) + 1) / (p.sum(-1) + truth.sum(-1) + 1)
    return bce, dice


@torch.no_grad()
def important_points(logits: Tensor, count: int, *, uncertain: float = 0.75) -> Tensor:
    """Which of P random points of each mask to learn from: `(M, count)` indices.

    `uncertain` of them are those whose logit `(M, P)` is nearest to 0, the rest are the first ones, which are random.
    """
    first = count - int(uncertain * count)
    rest = logits[:, first:].abs()
    chosen = rest.topk(min(count - first, rest.shape[1]), dim=1, largest=False).indices + first
    always = torch.arange(min(first, logits.shape[1]), device=logits.device).expand(len(logits), -1)
    return torch.cat([always, chosen], dim=1)
