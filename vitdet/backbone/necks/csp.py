"""The neck of LW-DETR (arXiv:2406.03459) and RF-DETR as released.

b images with equal grids, h×w a grid, C channels; maps are (b, h, w, C), channels last
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitdet.backbone.neck import Expand, Neck
from vitdet.backbone.norm import FrozenBatchNorm
from vitdet.errors import UserError
from vitdet.ranges import check_divides

WIDE = 512  # channels above which a tap is halved before it grows, as in LW-DETR


Norm = Callable[[int], nn.Module]
layer_norm = partial(nn.LayerNorm, eps=1e-6)
NORMS: dict[str, Norm] = {"layer": layer_norm, "frozen_batch": FrozenBatchNorm}


class ConvNorm(nn.Module):
    """Convolution without bias, a norm, an activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        norm: Norm,
        activation: Callable[[Tensor], Tensor] = F.silu,
    ) -> None:
        super().__init__()
        if kernel == 1:
            self.conv: nn.Module = nn.Linear(in_channels, out_channels, bias=False)
        else:
            self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
        self.norm, self.activation = norm(out_channels), activation

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.conv, nn.Linear):
            return self.activation(self.norm(self.conv(x)))
        x = self.conv(x.permute(0, 3, 1, 2))  # (b, h, w, C) -> (b, C, h, w), channels last in memory
        return self.activation(self.norm(x.permute(0, 2, 3, 1)))


class CSP(nn.Module):
    """YOLOv8's C2f with a norm and an activation after every convolution and no residual, and a last norm."""

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
    """A module of its own for each of the taps that lie side by side in the channels."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(len(self.each), dim=-1)
        return torch.cat([module(part) for module, part in zip(self.each, parts)], dim=-1)


class CSPNeck(Neck):
    """All taps, resized, through one wide `CSP` for each level.

    Args:
        norm: after each convolution: `"layer"`, or `"frozen_batch"`, batch norm whose mean and variance stay as loaded (LW-DETR).

    Raises:
        ValueError: there is no such norm.
    """

    def __init__(self, channels: int, taps: int, patch_size: int, *, norm: str = "layer", **options: Any) -> None:
        if norm not in list(NORMS):
            raise UserError(f"norm is {norm!r}; neck='csp' has {', '.join(NORMS)}")
        check_divides("out_channels", options.get("out_channels", 0), halves=2)
        self.conv_norm = NORMS[norm]  # the parts are made in the base's constructor
        super().__init__(channels, taps, patch_size, **options)

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
