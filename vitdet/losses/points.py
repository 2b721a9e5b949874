"""Mask losses on sampled points, without ever forming a mask.

# P points and C channels of an image, Q queries, T objects, L layers, M matched queries, H×W a target mask, h×w the
# pixels

A mask is the dot product of a query's embedding with every pixel's features, and bilinear sampling is linear: so the
logit of a mask at a point is the embedding times the features sampled there, the same for all queries. Points, Kirillov
et al. 2020 (PointRend, arXiv:1912.08193); the losses and their use in matching, Cheng et al. 2022 (Mask2Former,
arXiv:2112.01527).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vitdet.errors import UserError
from vitdet.structures import Level, Target

# candidates for each point that is learned from
OVERSAMPLE = 3


def random_points(count: int, device) -> Tensor:
    """`(P, 2)` x and y, uniform in [0, 1) of the image, the same on the CPU as on a GPU for one seed."""
    return torch.rand(count, 2).to(device)


def mask_points(count: int, boxes_cxcywh: Tensor) -> Tensor:
    """`(P, 2)` x and y in [0, 1) of the image: every second point anywhere, the rest in and around the objects.

    Each object gets as many, large or small. Of points that fall anywhere, an object of 16×16 pixels in an image of
    640×480 gets every 1,200th: too few to learn its outline from.

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
    sampled = F.grid_sample(maps[None], grid, padding_mode="border", align_corners=False)
    return sampled[0, :, 0]  # (1, C, 1, P) -> (C, P)


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


def extents(level: Level, sizes: list[tuple[int, int]]) -> list[tuple[float, float]]:
    """How much of each map's height and width its image covers; the rest is padding."""
    return [(H / (h * level.stride), W / (w * level.stride)) for (h, w), (H, W) in zip(level.grids, sizes)]


@dataclass
class QueryMasks:
    """The masks of queries: dot products of their `embeddings` `(L, B, G, Q, C)` with the `pixels` of images of
    `sizes`.

    There is one level of pixels for all layers, or one for each.
    """

    embeddings: Tensor
    pixels: list[Level]
    sizes: list[tuple[int, int]]


@dataclass
class SampledMasks:
    """Mask logits `(…, Q, P)` of queries, and true masks `(T, P)`, at random points (`mask_points`) of each image."""

    logits: list[Tensor]
    truth: list[Tensor]


def sample_masks(
    embeddings: Tensor, pixels: list[Level], sizes: list[tuple[int, int]], targets: list[Target], count: int
) -> SampledMasks:
    """Masks of embeddings `(L, B, …, Q, C)` and one level of pixels for all layers, or one for each, at `count` points.

    Raises:
        ValueError: a target has no masks.
    """
    logits, truth = [], []
    maps, covered = [level.maps() for level in pixels], extents(pixels[0], sizes)
    for b, (extent, target) in enumerate(zip(covered, targets)):
        if target.masks is None:
            raise UserError("a mask head learns from masks, but the targets have none; give data with masks")
        points = mask_points(count, target.boxes_cxcywh)
        sampled = torch.stack([sample_points(layer[b].float(), points, extent) for layer in maps])  # (1 or L, C, P)
        queries = embeddings[:, b].float()
        logits.append(torch.einsum("l...qc,lcp->l...qp", queries, sampled.expand(len(queries), -1, -1)))
        height, width = target.masks.shape[-2:]
        x, y = (points * points.new_tensor([width, height])).long().unbind(1)
        truth.append(target.masks[:, y, x].float())
    return SampledMasks(logits, truth)


def point_losses(
    sampled: SampledMasks, matched: Tensor, objects: Tensor, shape: tuple[int, ...], count: int
) -> tuple[Tensor, Tensor]:
    """BCE and Dice loss `(M,)` of each matched query, on the `count` points that matter most.

    Args:
        matched: index in `L*B*…*Q` of each, `shape` being those numbers.
        objects: and of its object in the concatenated targets.
    """
    places = torch.unravel_index(matched, shape)
    first, parts = 0, []
    for b, (logits, truth) in enumerate(zip(sampled.logits, sampled.truth)):
        mine = (places[1] == b).nonzero().squeeze(1)
        rest = tuple(place[mine] for k, place in enumerate(places) if k != 1)
        parts.append((mine, logits[rest], truth[objects[mine] - first]))
        first += len(truth)
    order = torch.cat([mine for mine, _, _ in parts])
    logits, truth = torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])
    chosen = important_points(logits, count)
    bce, dice = mask_losses(logits.gather(1, chosen), truth.gather(1, chosen))
    back = order.argsort()
    return bce[back], dice[back]
