"""Mask losses at sampled points, which never compute an entire mask.

P points and T objects of an image, Q queries, L layers, M matched queries, C channels
H×W a target mask in pixels, h×w a map of pixel features

A mask is the dot product of a query's embedding with the features of every pixel. Bilinear sampling is linear, so the
logit of a mask at a point is the dot product of the embedding with the features sampled at the point, and all queries
share these samples. The choice of points is that of Kirillov et al. 2020 (PointRend, arXiv:1912.08193); the losses and
their use as matching costs are those of Cheng et al. 2022 (Mask2Former, arXiv:2112.01527).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vitdet.errors import UserError
from vitdet.structures import Level, Target

# the number of candidates that are sampled for each point at which the loss is computed
OVERSAMPLE = 3


def random_points(count: int, device) -> Tensor:
    """Random points `(P, 2)`, x and y uniform in [0, 1) of the image; a seed gives equal points on CPU and GPU."""
    return torch.rand(count, 2).to(device)


def mask_points(count: int, boxes_cxcywh: Tensor) -> Tensor:
    """Random points `(P, 2)`, x and y in [0, 1): half of them anywhere in the image, half in and around objects.

    Of the second half, each object gets about as many points, whatever its size. Of points anywhere in an image of
    640×480 pixels, an object of 16×16 pixels gets only every 1,200th, which is too few to learn its outline.

    Args:
        count: the number P of points.
        boxes_cxcywh: `(T, 4)` boxes of the objects, as fractions of the image.
    """
    points = random_points(count, boxes_cxcywh.device)
    if len(boxes_cxcywh):
        centre, size = boxes_cxcywh.float().split(2, dim=1)
        low, high = (centre - 0.75 * size).clamp(0, 1), (centre + 0.75 * size).clamp(0, 1)
        chosen = torch.randint(len(boxes_cxcywh), (count // 2,)).to(points.device)
        points[1::2] = torch.lerp(low[chosen], high[chosen], points[1::2]).clamp(max=1 - 1e-6)
    return points


def sample_points(maps: Tensor, points: Tensor, extent: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """`maps` `(C, h, w)`, bilinearly sampled at `points` `(P, 2)` of the image: `(C, P)`.

    Args:
        maps: the map of an image.
        points: x and y in [0, 1] of the image.
        extent: the fractions of the map's height and width that the image covers; the rest is padding.
    """
    scaled = points * points.new_tensor([extent[1], extent[0]])
    grid = (2 * scaled - 1).to(maps.dtype)[None, None]  # (P, 2) -> (1, 1, P, 2)
    sampled = F.grid_sample(maps[None], grid, padding_mode="border", align_corners=False)
    return sampled[0, :, 0]  # (1, C, 1, P) -> (C, P)


def mask_costs(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The costs of matching each prediction to each object: BCE and Dice.

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
    """BCE and Dice loss `(M,)` of each matched pair, from the logits and the true mask at its points, `(M, P)` each."""
    bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(-1)
    p = logits.sigmoid()
    dice = 1 - (2 * (p * truth).sum(-1) + 1) / (p.sum(-1) + truth.sum(-1) + 1)
    return bce, dice


@torch.no_grad()
def important_points(logits: Tensor, count: int, *, uncertain: float = 0.75) -> Tensor:
    """The points of each mask at which the loss is computed, as indices `(M, count)` of P random points.

    A fraction `uncertain` of them are those whose logit is closest to 0; the others are the first points, which are
    random.

    Args:
        logits: `(M, P)`.
        count: how many points are chosen for each mask.
        uncertain: the fraction that is chosen by its logits.
    """
    first = count - int(uncertain * count)
    rest = logits[:, first:].abs()
    chosen = rest.topk(min(count - first, rest.shape[1]), dim=1, largest=False).indices + first
    always = torch.arange(min(first, logits.shape[1]), device=logits.device).expand(len(logits), -1)
    return torch.cat([always, chosen], dim=1)


def extents(level: Level, sizes: list[tuple[int, int]]) -> list[tuple[float, float]]:
    """The fractions of each map's height and width that its image covers; the rest is padding."""
    return [(H / (h * level.stride), W / (w * level.stride)) for (h, w), (H, W) in zip(level.grids, sizes)]


@dataclass
class QueryMasks:
    """The masks of queries: dot products of their `embeddings` `(L, B, G, Q, C)` with `pixels`, a level of features.

    There is a single level for all layers, or a level for each layer. `sizes` are the `(H, W)` of the images in pixels.
    """

    embeddings: Tensor
    pixels: list[Level]
    sizes: list[tuple[int, int]]


@dataclass
class SampledMasks:
    """Mask logits `(…, Q, P)` of queries, and true masks `(T, P)`, at the random points of each image."""

    logits: list[Tensor]
    truth: list[Tensor]


def sample_masks(
    embeddings: Tensor, pixels: list[Level], sizes: list[tuple[int, int]], targets: list[Target], count: int
) -> SampledMasks:
    """Predicted and true masks at `count` random points of each image, see `mask_points`.

    Args:
        embeddings: `(L, B, …, Q, C)` of the queries.
        pixels: pixel features with C channels: a single level for all layers, or a level for each layer.
        sizes: `(H, W)` of the images in pixels.
        targets: the objects of each image.
        count: the number P of points.

    Raises:
        UserError: a target has no masks.
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
    """BCE and Dice loss `(M,)` of each matched query, at `count` points, see `important_points`.

    Args:
        sampled: predicted and true masks at random points.
        matched: `(M,)` index of the queries in `L*B*…*Q`.
        objects: `(M,)` index of their objects in the concatenated targets.
        shape: the numbers `(L, B, …, Q)`.
        count: the number of points for each query.
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
