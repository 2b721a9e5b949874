"""Necks: from the ViT's taps, all on the patch grid, to feature levels of several strides.

A neck gets a group of images with equal grids at a time, so nothing is padded; its norms work at each position, so
images are not mixed.

b images with equal grids, h×w a grid, C channels; maps are (b, h, w, C), channels last
"""

from collections.abc import Mapping, Sequence
from math import log2

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitdet.config import Configurable
from vitdet.errors import UserError
from vitdet.ranges import ranged, whole


class Expand(nn.Module):
    """Doubles the resolution of a map: a transposed 2×2 convolution of stride 2, computed as a matrix product."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, 4 * out_channels)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, _ = x.shape
        x = self.proj(x).view(b, h, w, 2, 2, self.proj.out_features // 4)
        return x.transpose(2, 3).reshape(b, 2 * h, 2 * w, self.proj.out_features // 4)  # from (b, h, 2, w, 2, C)


class Merge(nn.Module):
    """Halves the resolution of a map: a 2×2 convolution of stride 2, whose outputs are at the centres of their inputs.

    Odd sides are zero-padded.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(4 * in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        # in an exported graph, whose sizes are not known, there is no branch
        traced = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        if traced or x.shape[1] % 2 or x.shape[2] % 2:
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c)
        return self.proj(x.transpose(2, 3).flatten(3))  # (b, h/2, w/2, 2, 2, C) -> (b, h/2, w/2, 4*C)


class MaxPool(nn.Module):
    """Halves the resolution of a map by 2×2 max pooling; odd sides are rounded up."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(x.permute(0, 3, 1, 2), 2, ceil_mode=True)  # (b, h, w, C) -> (b, C, h/2, w/2)
        return x.permute(0, 2, 3, 1)


class Conv3x3(nn.Module):
    """3×3 convolution and LayerNorm over channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x.permute(0, 3, 1, 2))  # (b, h, w, C) -> (b, C, h, w), channels last in memory
        return self.norm(x.permute(0, 2, 3, 1))


class C2f(nn.Module):
    """Two halves of the channels, concatenated with the outputs of residual 3×3 convolutions on the second half.

    It is YOLOv8's block, as in LW-DETR's projector (arXiv:2406.03459).
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        half = channels // 2
        self.enter = nn.Linear(channels, 2 * half)
        self.stages = nn.ModuleList(nn.ModuleList([Conv3x3(half, half), Conv3x3(half, half)]) for _ in range(depth))
        self.leave = nn.Linear((2 + depth) * half, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(F.silu(self.enter(x)).chunk(2, dim=-1))
        for first, second in self.stages:
            parts.append(parts[-1] + F.silu(second(F.silu(first(parts[-1])))))
        return self.norm(self.leave(torch.cat(parts, dim=-1)))


class Neck(nn.Module, Configurable):
    """The base class of the necks, which turn the outputs of some of the ViT's blocks, the taps, into feature levels.

    `Backbone` makes it as `SomeNeck(channels, taps, patch_size, strides, out_channels, stem, **options)`: the user
    gives only the options.

    Args:
        channels: channels of each tap.
        taps: the number of taps.
        patch_size: stride of the taps, in pixels.
        strides: strides of the levels, finest first; each is the patch size times a power of two.
        out_channels: channels of every level.
        stem: channels of the stem's maps, by their strides.

    Attributes:
        several_taps: whether the taps are, if `out_blocks` is not given, the last blocks of the four quarters of the
            ViT, instead of its last block alone.
        first_step: the stride of the finest level is, if `out_strides` is not given, the patch size times two to this
            power.
    """

    several_taps = True
    first_step = -1

    def forward(self, taps: list[Tensor], stem: list[Tensor]) -> list[Tensor]:
        """Taps `(b, h, w, C)` and the stem's maps to levels `(b, h', w', out_channels)`, finest first."""
        raise NotImplementedError


class ResizeNeck(Neck):
    """Base class of necks that resize a map of all taps to each level's stride, add the stem's map, and refine the sum.

    Args:
        channels, taps, patch_size, strides, out_channels, stem: see `Neck`.
        depth: the number of stages of 3×3 convolutions that refine each level.

    Raises:
        UserError: a stride is not the patch size times a power of two, or strides are not in ascending order.
    """

    @ranged({"depth": whole(0)})
    def __init__(
        self,
        channels: int,
        taps: int,
        patch_size: int,
        strides: Sequence[float],
        out_channels: int,
        stem: Mapping[float, int],
        *,
        depth: int = 1,
    ) -> None:
        super().__init__()
        steps = [log2(patch_size / stride) for stride in strides]
        if list(strides) != sorted(set(strides)) or any(step != int(step) for step in steps):
            wanted = ", ".join(f"{patch_size * 2.0**i:g}" for i in range(-2, 2))
            raise UserError(
                f"out_strides is {list(strides)}; with patch size {patch_size} choose among {wanted}, ascending"
            )
        self.out_channels, self.depth = out_channels, depth
        self.enter = self.make_enter(channels, taps)
        self.resize = nn.ModuleList(self.make_resize(channels, int(step)) for step in steps)
        self.refine = nn.ModuleList(self.make_refine(channels, int(step)) for step in steps)
        # for each level, the index of the stem's map of equal stride
        self.lateral_of = [list(stem).index(s) if s in stem else None for s in strides]
        used = [(str(level), int(step), stem[s]) for level, (s, step) in enumerate(zip(strides, steps)) if s in stem]
        self.laterals = nn.ModuleDict(
            {level: nn.Linear(width, self.resized(channels, step)) for level, step, width in used}
        )

    def make_enter(self, channels: int, taps: int) -> nn.Module:
        """The module from the taps, concatenated along channels, to the input of `make_resize`."""
        raise NotImplementedError

    def make_resize(self, channels: int, step: int) -> nn.Module:
        """The module to `2**step` times the resolution, and to `resized` channels."""
        raise NotImplementedError

    def resized(self, channels: int, step: int) -> int:
        return self.out_channels

    def make_refine(self, channels: int, step: int) -> nn.Module:
        """The module from the resized map to `out_channels`."""
        raise NotImplementedError

    def forward(self, taps: list[Tensor], stem: list[Tensor]) -> list[Tensor]:
        """Taps `(b, h, w, C)` and the stem's maps to levels `(b, h', w', out_channels)`, finest first."""
        x = self.enter(torch.cat(taps, dim=-1) if len(taps) > 1 else taps[0])
        levels = []
        for i, (resize, refine, lateral) in enumerate(zip(self.resize, self.refine, self.lateral_of)):
            level = resize(x)
            if lateral is not None:
                level = level + self.laterals[str(i)](stem[lateral])
            levels.append(refine(level))
        return levels


class Projector(ResizeNeck):
    """A light projector of several taps, similar to LW-DETR's (arXiv:2406.03459): reduce channels, resize, and C2f.

    Args:
        channels, taps, patch_size, strides, out_channels, stem: see `Neck`.
        depth: the number of stages of 3×3 convolutions that refine each level.

    Example:
        >>> from vitdet import Backbone
        >>> Backbone("vit_tiny_patch16_224", depth=4, out_strides=[8, 16], neck=Projector).out_channels
        [256, 256]
    """

    def make_enter(self, channels: int, taps: int) -> nn.Module:
        return nn.Sequential(nn.Linear(channels * taps, self.out_channels), nn.LayerNorm(self.out_channels))

    def make_resize(self, channels: int, step: int) -> nn.Module:
        c = self.out_channels
        ups = [layer for i in range(step) for layer in (Expand(c, c), nn.LayerNorm(c))]
        downs = [layer for i in range(-step) for layer in (Merge(c, c), nn.LayerNorm(c))]
        return nn.Sequential(*ups, *downs)

    def make_refine(self, channels: int, step: int) -> nn.Module:
        return C2f(self.out_channels, self.depth) if self.depth else nn.LayerNorm(self.out_channels)


class Pyramid(ResizeNeck):
    """The simple feature pyramid of ViTDet, from the ViT's last block, Li et al. 2022 (arXiv:2203.16527).

    Args:
        channels, taps, patch_size, strides, out_channels, stem: see `Neck`; it uses a single tap.
        depth: the number of 3×3 convolutions that refine each level.

    Raises:
        UserError: there are several taps.

    Example:
        >>> from vitdet import Backbone
        >>> Backbone("vit_tiny_patch16_224", depth=2, neck=Pyramid).strides
        [4, 8, 16, 32]
    """

    several_taps = False
    first_step = -2

    def make_enter(self, channels: int, taps: int) -> nn.Module:
        if taps != 1:
            raise UserError(f"Pyramid reads one tap, got {taps} out_blocks; Projector reads several")
        return nn.Identity()

    def make_resize(self, channels: int, step: int) -> nn.Module:
        layers: list[nn.Module] = []
        for i in range(step):
            layers += [nn.LayerNorm(channels), nn.GELU()] if i else []
            layers += [Expand(channels, channels // 2)]
            channels //= 2
        layers += [MaxPool() for _ in range(-step)]
        return nn.Sequential(
            *layers, nn.Linear(channels, self.out_channels, bias=False), nn.LayerNorm(self.out_channels)
        )

    def make_refine(self, channels: int, step: int) -> nn.Module:
        return nn.Sequential(*(Conv3x3(self.out_channels, self.out_channels) for _ in range(self.depth)))
