"""Pixel features, and masks as their dot product with an embedding.

b images with equal grids, h×w a grid, C channels, T masks of an image, H×W the original image in pixels
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitdet.backbone.necks import Expand
from vitdet.losses.points import sample_points
from vitdet.structures import Features, Level, centres, equal_grids


def on_maps(level: Level, module: Callable[[Tensor], Tensor], stride: float) -> Level:
    """The level that `module` makes of another level.

    Args:
        level: the packed level.
        module: takes the maps `(b, h, w, C)` of images with equal grids, and must not mix images.
        stride: of the new level, in pixels.
    """
    parts = level.x.split(level.lengths)
    done: list[Tensor] = [None] * len(parts)
    for images in equal_grids(level.grids):
        grid = level.grids[images[0]]
        maps = module(torch.stack([parts[i] for i in images]).unflatten(1, grid))  # (b, h*w, C) -> (b, h, w, C)
        for i, image in zip(images, maps):
            done[i] = image
    return Level(torch.cat([image.flatten(0, 1) for image in done]), [tuple(image.shape[:2]) for image in done], stride)


class PixelBranch(nn.Module):
    """Pixel features: the finest level at twice its resolution."""

    def __init__(self, in_channels: int, stride: float, dim: int) -> None:
        super().__init__()
        self.stride = stride / 2
        self.up = nn.Sequential(Expand(in_channels, dim), nn.LayerNorm(dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, features: Features) -> Level:
        return on_maps(features[0], self.up, self.stride)


def full_size(
    logits: Tensor, size: tuple[int, int], extent: tuple[float, float], *, zoom: float | None = None
) -> Tensor:
    """Maps `(T, h, w)`, bilinearly interpolated at every pixel of the original image: `(T, H, W)`.

    Args:
        logits: the maps.
        size: `(H, W)` of the original image.
        extent: the fractions of the map's height and width that the image covers; the rest is padding.
        zoom: a factor by which the maps are enlarged first, before the padding is cut off; this second interpolation
            makes outlines rounder.
    """
    height, width = size
    if zoom is not None:
        h, w = (round(side * zoom) for side in logits.shape[-2:])
        logits = F.interpolate(logits.float()[None], (h, w), mode="bilinear", align_corners=False)[0]
        logits = logits[:, : round(h * extent[0]), : round(w * extent[1])]
        return F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    points = centres(size, (1, 1), logits.device)
    points = points / points.new_tensor([width, height])
    return sample_points(logits.float(), points, extent).unflatten(1, (height, width))


def binary_masks(embeddings: Tensor, pixels: Tensor, size: tuple[int, int], extent: tuple[float, float]) -> Tensor:
    """Masks `(T, H, W)` from embeddings `(T, C)` and the pixel features `(C, h, w)` of an image, 16 at a time to save
    memory."""
    out = torch.zeros(len(embeddings), *size, dtype=torch.bool, device=pixels.device)
    for first in range(0, len(embeddings), 16):
        logits = torch.einsum("tc,chw->thw", embeddings[first : first + 16].float(), pixels.float())
        out[first : first + 16] = full_size(logits, size, extent) > 0
    return out


class MaskEmbedding(nn.Sequential):
    """Three-layer perceptron from a query's state to its mask embedding, whose dot product with pixels is the mask."""

    def __init__(self, dim: int, pixel_dim: int, *, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__(
            nn.Linear(dim, dim), activation(), nn.Linear(dim, dim), activation(), nn.Linear(dim, pixel_dim)
        )


def shut(blocked: Tensor) -> Tensor:
    """The tokens `(..., h*w)` that each query does not attend to: those that are blocked, unless all of them are."""
    return blocked & ~blocked.all(-1, keepdim=True)


def attend_to(q: Tensor, k: Tensor, v: Tensor, blocked: Tensor | None, num_heads: int) -> Tensor:
    """Attention of queries `(b, Q, C)` to tokens `(b, h*w, C)`, except those that are `blocked` `(b, Q, h*w)`.

    A query for which all tokens are blocked attends to all of them.
    """
    q, k, v = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in (q, k, v))  # -> (b, heads, ., d)
    mask = None
    if blocked is not None:
        mask = ~shut(blocked).unsqueeze(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
