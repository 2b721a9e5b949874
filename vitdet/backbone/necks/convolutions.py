"""Norms over channels-last maps.  # C channels"""

import torch
from torch import Tensor, nn


class FrozenBatchNorm(nn.Module):
    """Batch norm whose statistics stay as they are: a scale and a shift for each channel, so that images do not meet.

    Its names are those of `nn.BatchNorm2d`, whose weights it takes. Without any it changes nothing to begin with; scale and shift are learned.
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
