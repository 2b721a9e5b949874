"""Masks of detection queries: the dot product of a query's embedding with the features of every pixel.

b images with equal grids, N queries of all images and groups, C channels, L decoder layers, h×w a map
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitdet.config import options
from vitdet.heads.masks.pixels import MaskEmbedding, PixelBranch, on_maps
from vitdet.heads.options import RANGES
from vitdet.structures import Features, Level

Made = tuple[Tensor, list[Level]]
# the stride of RF-DETR-Seg's masks, in pixels
MASK_STRIDE = 4


@options(RANGES)
class Masks:
    """How a detection head finds the mask of every object, as in RF-DETR-Seg.

    Args:
        branch: `plain` takes pixel features from the finest level at twice its resolution, `refined`, as in
            RF-DETR-Seg, at stride 4, and refines them by a block for every decoder layer.
        points: the number of points of each mask at which the loss is computed.

    Example:
        >>> Masks(branch="refined").points
        1024
    """

    branch: Literal["plain", "refined"] = "plain"
    points: int = 1024


class PlainMasks(nn.Module):
    """Pixel features from the finest level at twice its resolution, shared by all decoder layers."""

    def __init__(self, in_channels: int, stride: float, dim: int, *, num_layers: int) -> None:
        super().__init__()
        self.pixels, self.embed = PixelBranch(in_channels, stride, dim), MaskEmbedding(dim, dim)

    def forward(self, features: Features, states: Tensor, tokens: Tensor | None) -> tuple[Made, None]:
        """Embeddings `(L, N, C)` of the states `(L, N, C)` after each layer, and the pixel features; proposals have no
        masks."""
        return (self.embed(states), [self.pixels(features)]), None


class RefineBlock(nn.Module):
    """3×3 depthwise convolution, LayerNorm, linear layer, GELU, and a residual: ConvNeXt's block without its MLP."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm, self.linear = nn.LayerNorm(channels, eps=1e-6), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (b, h, w, C) -> (b, C, h, w) -> (b, h, w, C)
        return x + F.gelu(self.linear(self.norm(y)))


class RefinedMasks(nn.Module):
    """RF-DETR's segmentation head: a block for each decoder layer refines the finest level, resized to stride 4.

    The masks of a layer's queries are computed from the pixel features after that layer's block.
    """

    def __init__(self, in_channels: int, stride: float, dim: int, *, num_layers: int) -> None:
        super().__init__()
        self.factor = stride / MASK_STRIDE
        self.blocks = nn.ModuleList(RefineBlock(in_channels) for _ in range(num_layers))
        self.pixels = nn.Linear(in_channels, in_channels)
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.embed = nn.Linear(dim, in_channels)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, features: Features, states: Tensor, tokens: Tensor | None) -> tuple[Made, Made | None]:
        """Embeddings `(L, N, C + 1)` of the states `(L, N, C)` after each layer, and the pixel features of each layer.

        In training there are also embeddings of the selected `tokens`, with the pixel features before all blocks. At
        inference, when `tokens` are `None`, only the last layer is returned.
        """
        level, levels, proposals = self._resized(features), [], None
        if tokens is not None:
            proposals = self._embeddings(tokens), [self._pixels(level)]
        for block in self.blocks:
            level = on_maps(level, block, MASK_STRIDE)
            levels.append(level)
        if tokens is None:
            states, levels = states[-1:], levels[-1:]
        return (self._embeddings(states), [self._pixels(level) for level in levels]), proposals

    def _resized(self, features: Features) -> Level:
        return on_maps(features[0], self._resize, MASK_STRIDE)

    def _resize(self, x: Tensor) -> Tensor:
        size = [scaled(side, self.factor) for side in x.shape[1:3]]
        x = F.interpolate(x.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=False)  # (b, C, h, w)
        return x.permute(0, 2, 3, 1)

    def _embeddings(self, states: Tensor) -> Tensor:
        """Embeddings whose last channel holds the bias of all masks: the last channel of the pixel features is 1."""
        x = self.embed(states + self.mlp(self.norm(states)))
        return torch.cat([x, self.bias.to(x.dtype).expand(*x.shape[:-1], 1)], -1)

    def _pixels(self, level: Level) -> Level:
        x = self.pixels(level.x)
        return Level(torch.cat([x, x.new_ones(len(x), 1)], 1), level.grids, level.stride)


def scaled(side: int, factor: float) -> int:
    """`round(side * factor)`, without a branch for multiples of a quarter: in an exported graph the side is unknown."""
    if 4 * factor != int(4 * factor):
        return round(side * factor)
    whole, quarters = side * int(4 * factor) // 4, side * int(4 * factor) % 4
    # a half is rounded to an even number
    return whole + quarters // 3 + (quarters // 2 - quarters // 3) * (whole % 2)


BRANCHES = {"plain": PlainMasks, "refined": RefinedMasks}
