"""The neck in the released code of LW-DETR (arXiv:2406.03459) and RF-DETR.

b images with equal grids, h×w a grid, C channels; maps are (b, h, w, C), channels last
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitdet.backbone.necks.convolutions import ConvNorm, FrozenBatchNorm, Norm
from vitdet.backbone.necks.simple import Expand, ResizeNeck
from vitdet.ranges import check_divides, ranged

# with more channels than this, a tap's channels are halved before its resolution is increased, as in LW-DETR
WIDE = 512
layer_norm = partial(nn.LayerNorm, eps=1e-6)
NORMS: dict[str, Norm] = {"layer": layer_norm, "frozen_batch": FrozenBatchNorm}


class CSP(nn.Module):
    """YOLOv8's C2f with a norm and an activation after every convolution, without residuals, and with a final norm."""

    def __init__(self, in_channels: int, out_channels: int, depth: int, norm: Norm) -> None:
        super().__init__()
        half = out_channels // 2
        self.enter = ConvNorm(in_channels, out_channels, norm=norm)
        self.stages = nn.ModuleList(
            nn.Sequential(ConvNorm(half, half, 3, norm=norm), ConvNorm(half, half, 3, norm=norm)) for _ in range(depth)
        )
        self.leave, self.norm = ConvNorm((2 + depth) * half, out_channels, norm=norm), layer_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, dim=-1))
        for stage in self.stages:
            parts.append(stage(parts[-1]))
        return self.norm(self.leave(torch.cat(parts, dim=-1)))


class PerTap(nn.Module):
    """A separate module for each of the taps, which are concatenated along the channels."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(len(self.each), dim=-1)
        return torch.cat([module(part) for module, part in zip(self.each, parts)], dim=-1)


class CSPNeck(ResizeNeck):
    """The neck of LW-DETR and RF-DETR: all taps, resized and concatenated, and a wide `CSP` for each level.

    Args:
        channels, taps, patch_size, strides, out_channels, stem: see `Neck`.
        norm: the norm after each convolution: `"layer"`, or `"frozen_batch"` with fixed statistics (LW-DETR).
        options: `depth`, see `ResizeNeck`.

    Raises:
        UserError: `out_channels` is odd, or a stride cannot be reached.

    Example:
        >>> from functools import partial
        >>> from vitdet import Backbone
        >>> Backbone("vit_tiny_patch16_224", depth=4, out_strides=[16], neck=partial(CSPNeck, depth=3)).strides
        [16]
    """

    @ranged({})
    def __init__(
        self,
        channels: int,
        taps: int,
        patch_size: int,
        strides: Sequence[float],
        out_channels: int,
        stem: Mapping[float, int],
        *,
        norm: Literal["layer", "frozen_batch"] = "layer",
        **options: Any,
    ) -> None:
        check_divides("out_channels", out_channels, halves=2)
        # before the constructor of the base class, which makes the layers
        self.conv_norm = NORMS[norm]
        super().__init__(channels, taps, patch_size, strides, out_channels, stem, **options)

    def make_enter(self, channels: int, taps: int) -> nn.Module:
        self.taps = taps
        return nn.Identity()

    def make_resize(self, channels: int, step: int) -> nn.Module:
        if step == 0:
            return nn.Identity()
        return PerTap([self._resize_tap(channels, step) for _ in range(self.taps)])

    def _resize_tap(self, channels: int, step: int) -> nn.Module:
        conv_norm = partial(ConvNorm, norm=self.conv_norm, activation=F.relu)
        layers: list[nn.Module] = []
        if step > 0 and channels > WIDE:
            layers.append(conv_norm(channels, channels // 2))
            channels //= 2
        for i in range(step):
            layers += [layer_norm(channels), nn.GELU()] if i else []
            layers.append(Expand(channels, channels // 2))
            channels //= 2
        layers += [conv_norm(channels, channels, 3, stride=2) for _ in range(-step)]
        return nn.Sequential(*layers)

    def resized(self, channels: int, step: int) -> int:
        halvings = max(step, 0) + (step > 0 and channels > WIDE)
        return self.taps * (channels >> halvings)

    def make_refine(self, channels: int, step: int) -> nn.Module:
        return CSP(self.resized(channels, step), self.out_channels, self.depth, self.conv_norm)
