"""Convolutions with a norm on maps with channels last, the components of necks and stems.

b images with equal grids, h×w a grid, C channels; maps are (b, h, w, C)
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


class FrozenBatchNorm(nn.Module):
    """Batch norm with fixed statistics: a scale and a shift for each channel, which does not mix images.

    Its parameters are named as in `nn.BatchNorm2d`, so it can load the weights of that. It starts as the identity;
    scale and shift are learned.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., C)` to `(..., C)`."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.to(x.dtype) + shift.to(x.dtype)


class ConvBN(nn.Module):
    """Convolution without bias, frozen batch norm, and an optional activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        options = {"stride": stride, "padding": kernel // 2, "groups": groups, "bias": False}
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, **options)
        self.norm: nn.Module = FrozenBatchNorm(out_channels)
        self.activation = activation or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x.permute(0, 3, 1, 2))  # (b, h, w, C) -> (b, C, h, w), channels last in memory
        return self.activation(self.norm(x.permute(0, 2, 3, 1)))


class ConvNorm(nn.Module):
    """Convolution without bias, a norm, and an activation; a 1×1 convolution is a linear layer."""

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
