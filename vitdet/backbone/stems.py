"""From images to patches: the only padding there is, and the convolutions that may stand before or beside the ViT.

B images, b of them with equal grids, H×W an image in pixels, h×w a grid of patches, C channels
maps are (b, h, w, C): channels last, which is what linear layers, norms and CPU convolutions want
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitdet.backbone.necks.convolutions import ConvBN
from vitdet.config import Configurable
from vitdet.errors import UserError
from vitdet.ranges import ranged, whole
from vitdet.structures import Level, equal_grids


@dataclass
class Group:
    """Images of a batch with equal grids: `pixels` `(b, 3, h*patch, w*patch)`, and their positions in the batch."""

    pixels: Tensor
    indices: list[int]


def group_images(
    images: Sequence[Tensor] | Tensor, patch_size: int, canvas: tuple[int, Tensor] | None = None
) -> list[Group]:
    """Images gathered by grid, zero-padded at the right and bottom up to the next multiple of the patch size.

    Args:
        canvas: pad all of them to squares of this side instead, with this colour `(3,)`.

    Groups are sorted by their number of patches, so that sequences of equal length are neighbours (see `attend`).

    Raises:
        ValueError: there is no image, one is not a float `(3, H, W)`, or larger than the canvas.
    """
    _check(images)
    if canvas is not None:
        images = torch.stack([_on_canvas(image, *canvas) for image in images])
    if isinstance(images, Tensor):
        return [Group(_pad(images, patch_size), list(range(len(images))))]
    grids = [(ceil(image.shape[-2] / patch_size), ceil(image.shape[-1] / patch_size)) for image in images]
    groups = sorted(equal_grids(grids), key=lambda group: (prod(grids[group[0]]), grids[group[0]]))
    return [Group(torch.stack([_pad(images[i], patch_size) for i in group]), group) for group in groups]


def pack_level(maps: list[Tensor], groups: list[Group], stride: float) -> Level:
    """Maps `(b, h, w, C)` of each group to one packed level, in the order of the batch."""
    if len(groups) == 1:
        # (b, h, w, C) -> (N, C)
        return Level(maps[0].flatten(0, 2), [(maps[0].shape[1], maps[0].shape[2])] * len(maps[0]), stride)
    images = {i: image for batch, group in zip(maps, groups) for i, image in zip(group.indices, batch)}
    ordered = [images[i] for i in range(len(images))]
    grids = [(image.shape[0], image.shape[1]) for image in ordered]
    return Level(torch.cat([image.flatten(0, 1) for image in ordered]), grids, stride)


def _on_canvas(image: Tensor, side: int, colour: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    if max(height, width) > side:
        raise UserError(
            f"an image is {width}×{height}, the backbone's canvas {side}×{side}; "
            "resize it (data.size) or set canvas: null"
        )
    square = colour.to(image).view(-1, 1, 1).repeat(1, side, side)
    square[:, :height, :width] = image
    return square


def _pad(image: Tensor, patch_size: int) -> Tensor:
    bottom, right = (-side % patch_size for side in image.shape[-2:])
    return F.pad(image, (0, right, 0, bottom)) if bottom or right else image


def _check(images: Sequence[Tensor] | Tensor) -> None:
    if len(images) == 0:
        raise UserError("got no images; a batch has at least one")
    if isinstance(images, Tensor) and images.ndim != 4:
        raise UserError(f"got a tensor {tuple(images.shape)}; wanted (B, 3, H, W), or a list of (3, H, W)")
    for image in images:
        if image.ndim != 3 or not image.is_floating_point() or 0 in image.shape:
            got = f"{tuple(image.shape)} {str(image.dtype).removeprefix('torch.')}"
            raise UserError(f"got an image {got}; wanted (3, H, W) float, normalised with the backbone's mean and std")


class Stem(nn.Module, Configurable):
    """Base of the stems: convolutions that read an image's pixels.

    `Backbone` makes it as `SomeStem(embed_dim, patch_size, **options)`: only the options are the user's.

    Args:
        embed_dim: the ViT's width.
        patch_size: a patch's side in pixels.

    Attributes:
        beside: whether it works beside the ViT, and gives a list of maps `(b, H/s, W/s, c)`; or in place of the patch
            embedding, and gives the patches `(b, h, w, C)`, too, before that list.
        strides, channels: of the finer maps, which a neck adds to its levels of these strides.
    """

    beside = False
    strides: Sequence[int] = ()
    channels: Sequence[int] = ()


class PatchStem(nn.Module):
    """timm's patch embedding."""

    strides: Sequence[int] = ()
    channels: Sequence[int] = ()

    def __init__(self, patch_embed: Any) -> None:
        super().__init__()
        self.proj, self.norm = patch_embed.proj, patch_embed.norm

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images `(b, 3, H, W)` to patches `(b, h, w, C)`, and no finer maps."""
        return self.norm(self.proj(pixels).permute(0, 2, 3, 1)), []  # (b, C, h, w) -> (b, h, w, C)


class ConvStem(Stem):
    """A few 3×3 stride-2 convolutions in place of the patch embedding: trains better from scratch.

    Xiao et al. 2021 (arXiv:2106.14881). Flat colour tells little, and is most of what filters drawn at random answer
    to; so three quarters of the first filters start blind to it, and strong, which brings faint texture through the
    norm that follows. The price: where flat brightness is all there is to learn, it takes longer.

    Args:
        embed_dim, patch_size: see `Stem`.
        width: channels at stride 2; they double with every stride.
        lateral: whether the neck gets the maps of strides 4, 8 … for its levels of those strides.

    Raises:
        UserError: the patch size is no power of two.

    Example:
        >>> from vitdet import Backbone
        >>> Backbone("vit_tiny_patch16_224", depth=2, stem=ConvStem).trunk.patch_embed.strides
        (4, 8)
    """

    @ranged({"width": whole(1)})
    def __init__(self, embed_dim: int, patch_size: int, *, width: int = 32, lateral: bool = True) -> None:
        super().__init__()
        steps = int(log2(patch_size))
        if 2**steps != patch_size or steps < 2:
            raise UserError(f"ConvStem halves the image step by step: patch size {patch_size} is no power of two ≥ 4")
        widths = [min(width * 2**i, embed_dim, 8 * width) for i in range(steps)]
        # padding of 1 leaves each output half a pixel left of its inputs' centre, as in a ResNet: the network learns it
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False) for a, b in zip([3, *widths], widths)
        )
        with torch.no_grad():
            edges = self.convs[0].weight[widths[0] // 4 :]
            edges.sub_(edges.mean((2, 3), keepdim=True)).mul_(20)
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in widths)  # per position: batch norm would mix images
        self.proj = nn.Linear(widths[-1], embed_dim)
        if lateral:
            self.strides, self.channels = tuple(2 ** (i + 1) for i in range(1, steps - 1)), tuple(widths[1:-1])

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images `(b, 3, H, W)` to patches `(b, h, w, C)`, and the maps `(b, H/s, W/s, c)` of strides 4, 8 …."""
        x = pixels.contiguous(memory_format=torch.channels_last)
        maps = []
        for conv, norm in zip(self.convs, self.norms):
            x = conv(x).permute(0, 2, 3, 1)  # (b, c, H, W) -> (b, H, W, c): a view, convolutions keep channels last
            x = F.relu(norm(x), inplace=True)
            maps.append(x)
            x = x.permute(0, 3, 1, 2)  # (b, H, W, c) -> (b, c, H, W)
        return self.proj(maps[-1]), maps[1:-1]


class SpatialAdapter(Stem):
    """A small convolutional network beside the ViT, for detail that patches lose: maps of strides 8, 16 and 32.

    The Spatial Tuning Adapter of DEIMv2, Huang et al. 2025 (arXiv:2509.20787).

    Args:
        embed_dim, patch_size: see `Stem`; it needs neither.
        width: channels at stride 2 and 4; at stride 8 there are twice, at 16 and 32 four times as many.

    Example:
        >>> from vitdet import Backbone, HybridNeck
        >>> Backbone("vit_tiny_patch16_224", depth=2, stem=SpatialAdapter, neck=HybridNeck).adapter.channels
        (64, 128, 128)
    """

    beside = True
    strides = (8, 16, 32)

    @ranged({"width": whole(1)})
    def __init__(self, embed_dim: int, patch_size: int, *, width: int = 32) -> None:
        super().__init__()
        self.channels = (2 * width, 4 * width, 4 * width)
        self.stem = ConvBN(3, width, 3, stride=2, activation=nn.GELU())
        self.convs = nn.ModuleList(ConvBN(a, b, 3, stride=2) for a, b in zip((width, *self.channels), self.channels))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Images `(b, 3, H, W)` to their maps `(b, H/s, W/s, c)`, rounded up."""
        x = self.stem(pixels.permute(0, 2, 3, 1))  # (b, 3, H, W) -> (b, H, W, 3)
        x = F.max_pool2d(x.permute(0, 3, 1, 2), 3, stride=2, padding=1).permute(0, 2, 3, 1)  # (b, h, w, c) and back
        maps: list[Tensor] = []
        for conv in self.convs:
            maps.append(conv(F.gelu(maps[-1]) if maps else x))
        return maps
