"""Necks: from the ViT's taps, all on the patch grid, to feature levels of several strides.

    b images with equal grids, h×w a grid, C channels; maps are (b, h, w, C), channels last

A neck sees one group of equal grids at a time, so nothing is padded; its norms are per position, so images do not meet.
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
    """Doubles a map: a 2×2 stride-2 transposed convolution, written as one matrix product."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, 4 * out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x).unflatten(-1, (2, 2, -1))  # (b, h, w, 4*C) -> (b, h, w, 2, 2, C)
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (b, h, 2, w, 2, C) -> (b, 2*h, 2*w, C)


class Merge(nn.Module):
    """Halves a map: a 2×2 stride-2 convolution, whose outputs lie at the centres of their inputs.

    Odd sides are zero-padded.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(4 * in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2)) if x.shape[1] % 2 or x.shape[2] % 2 else x
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (b, h, w, C) -> (b, h/2, 2, w/2, 2, C)
        return self.proj(x.transpose(2, 3).flatten(3))  # (b, h/2, w/2, 2, 2, C) -> (b, h/2, w/2, 4*C)


class MaxPool(nn.Module):
    """Halves a map: 2×2 maximum; an odd side keeps its last row."""

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
    """Two branches, one through residual 3×3 convolutions, all stages concatenated.

    YOLOv8's block as LW-DETR's projector has it (arXiv:2406.03459).
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
    """Base of the necks, which turn the ViT's tapped maps, all of the patch's stride, into the backbone's levels.

    `Backbone` makes it as `SomeNeck(channels, taps, patch_size, strides, out_channels, stem, **options)`: only the
    options are the user's.

    Args:
        channels: of each tap.
        taps: how many there are.
        patch_size: their stride in pixels.
        strides: of the levels, finest first; each the patch size times a power of two.
        out_channels: of every level.
        stem: channels of the finer maps that a convolutional stem hands over, by their strides.

    Attributes:
        several_taps: whether, where `out_blocks` does not name them, the taps are the ends of the ViT's four quarters,
            or its last block.
        first_step: where `out_strides` does not say, the finest level's stride is the patch size times two to this
            power.
    """

    several_taps = True
    first_step = -1

    def forward(self, taps: list[Tensor], stem: list[Tensor]) -> list[Tensor]:
        """Taps `(b, h, w, C)` and the stem's maps to levels `(b, h', w', out_channels)`, finest first."""
        raise NotImplementedError


class ResizeNeck(Neck):
    """A level is the taps' map brought to the level's stride, plus the stem's map of that stride, refined.

    Args:
        channels, taps, patch_size, strides, out_channels, stem: see `Neck`.
        depth: stages of 3×3 convolutions that refine each level.

    Raises:
        UserError: a stride cannot be reached.
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
        # position among the stem's maps
        self.lateral_of = [list(stem).index(s) if s in stem else None for s in strides]
        used = [(str(level), int(step), stem[s]) for level, (s, step) in enumerate(zip(strides, steps)) if s in stem]
        self.laterals = nn.ModuleDict(
            {level: nn.Linear(width, self.resized(channels, step)) for level, step, width in used}
        )

    def make_enter(self, channels: int, taps: int) -> nn.Module:
        """Taps concatenated along channels, to the channels that `make_resize` expects."""
        raise NotImplementedError

    def make_resize(self, channels: int, step: int) -> nn.Module:
        """`2**step` times larger, to `resized` channels."""
        raise NotImplementedError

    def resized(self, channels: int, step: int) -> int:
        return self.out_channels

    def make_refine(self, channels: int, step: int) -> nn.Module:
        """The resized map to `out_channels`."""
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
    """Light projector over several taps, in the manner of LW-DETR (arXiv:2406.03459): reduce, resize, C2f.

    Args:
        channels, taps, patch_size, strides, out_channels, stem: see `Neck`.
        depth: see `ResizeNeck`.

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
    """Simple feature pyramid from the ViT's last block, Li et al. 2022 (arXiv:2203.16527).

    Args:
        channels, taps, patch_size, strides, out_channels, stem: see `Neck`; it reads one tap.
        depth: see `ResizeNeck`.

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
