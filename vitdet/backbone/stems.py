"""From images to patches: the only place where images are padded, and convolutions before or beside the ViT.

B images, b of them with equal grids, H×W an image in pixels, h×w a grid of patches, C channels
maps are (b, h, w, C): channels last, which suits linear layers, norms and convolutions on the CPU
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
    """The images of a batch that have equal grids: `pixels` `(b, 3, h*patch, w*patch)`, and positions in the batch."""

    pixels: Tensor
    indices: list[int]


def group_images(
    images: Sequence[Tensor] | Tensor, patch_size: int, canvas: tuple[int, Tensor] | None = None
) -> list[Group]:
    """Images grouped by grid, zero-padded at the right and bottom to the next multiple of the patch size.

    Groups are sorted by their number of patches, so that sequences of equal length are neighbours (see `attend`).

    Args:
        images: normalised images `(3, H, W)`, or a tensor `(B, 3, H, W)`.
        patch_size: side of a patch in pixels.
        canvas: side of a square in pixels and a colour `(3,)`; all images are padded to the square by this colour.

    Raises:
        UserError: there is no image, or an image is not a float tensor `(3, H, W)`, or larger than the canvas.
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
    """The packed level of the maps `(b, h, w, C)` of all groups, in the order of the batch."""
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
    """The base class of the stems: convolutions on the pixels of images.

    `Backbone` makes it as `SomeStem(embed_dim, patch_size, **options)`: the user gives only the options.

    Args:
        embed_dim: width of the ViT.
        patch_size: side of a patch in pixels.

    Attributes:
        beside: whether it works beside the ViT, and returns a list of maps `(b, H/s, W/s, c)`; otherwise it replaces
            the patch embedding, and returns the patches `(b, h, w, C)` and that list.
        strides, channels: strides in pixels and channels of these maps, which a neck adds to levels of equal stride.
    """

    beside = False
    strides: Sequence[int] = ()
    channels: Sequence[int] = ()


class PatchStem(nn.Module):
    """The patch embedding of timm."""

    strides: Sequence[int] = ()
    channels: Sequence[int] = ()

    def __init__(self, patch_embed: Any) -> None:
        super().__init__()
        self.proj, self.norm = patch_embed.proj, patch_embed.norm

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images `(b, 3, H, W)` to patches `(b, h, w, C)`, and an empty list of maps."""
        return self.norm(self.proj(pixels).permute(0, 2, 3, 1)), []  # (b, C, h, w) -> (b, h, w, C)


class ConvStem(Stem):
    """A few 3×3 convolutions of stride 2 instead of the patch embedding, which train better from scratch.

    Xiao et al. 2021 (arXiv:2106.14881). Random filters respond mostly to flat colour, which carries little information.
    So three quarters of the first filters start with zero response to flat colour, and with large weights, so that
    faint texture gets through the norm after them. In return, training takes longer if only flat brightness matters.

    Args:
        embed_dim, patch_size: see `Stem`.
        width: channels at stride 2; they double with every further convolution.
        lateral: whether the neck gets the maps of strides 4, 8 … for its levels of these strides.

    Raises:
        UserError: the patch size is no power of two from 4 on.

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
        # a padding of 1 shifts each output by half a pixel from the centre of its inputs, as in ResNets; the network
        # can learn to correct this
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False) for a, b in zip([3, *widths], widths)
        )
        with torch.no_grad():
            edges = self.convs[0].weight[widths[0] // 4 :]
            edges.sub_(edges.mean((2, 3), keepdim=True)).mul_(20)
        # layer norm works at each position; batch norm would mix images
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in widths)
        self.proj = nn.Linear(widths[-1], embed_dim)
        if lateral:
            self.strides, self.channels = tuple(2 ** (i + 1) for i in range(1, steps - 1)), tuple(widths[1:-1])

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images `(b, 3, H, W)` to patches `(b, h, w, C)`, and the maps `(b, H/s, W/s, c)` of strides 4, 8 …."""
        x = pixels.contiguous(memory_format=torch.channels_last)
        maps = []
        for conv, norm in zip(self.convs, self.norms):
            # a view: convolutions keep the memory format, which is channels last
            x = conv(x).permute(0, 2, 3, 1)  # (b, c, H, W) -> (b, H, W, c)
            x = F.relu(norm(x), inplace=True)
            maps.append(x)
            x = x.permute(0, 3, 1, 2)  # (b, H, W, c) -> (b, c, H, W)
        return self.proj(maps[-1]), maps[1:-1]


class SpatialAdapter(Stem):
    """A small convolutional network beside the ViT, for detail that patches lose: maps of strides 8, 16 and 32.

    It is the Spatial Tuning Adapter of DEIMv2, Huang et al. 2025 (arXiv:2509.20787).

    Args:
        embed_dim, patch_size: see `Stem`; this stem uses neither.
        width: channels at strides 2 and 4; there are twice as many at stride 8, and four times as many at 16 and 32.

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
        """Images `(b, 3, H, W)` to maps `(b, H/s, W/s, c)`, with sides rounded up."""
        x = self.stem(pixels.permute(0, 2, 3, 1))  # (b, 3, H, W) -> (b, H, W, 3)
        x = F.max_pool2d(x.permute(0, 3, 1, 2), 3, stride=2, padding=1).permute(0, 2, 3, 1)  # (b, h, w, c)
        maps: list[Tensor] = []
        for conv in self.convs:
            maps.append(conv(F.gelu(maps[-1]) if maps else x))
        return maps
