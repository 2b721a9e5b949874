"""Small parts that the heads share.  # Q queries, C channels"""

import math

import torch
from torch import Tensor, nn

_MAX_LOG_SCALE = math.log(1000 / 16)  # as in Faster R-CNN: exp() of a wild prediction must not overflow


class BoxMLP(nn.Sequential):
    """Three-layer perceptron `(..., C) -> (..., 4)` that starts at 0, so that a box starts as its reference."""

    def __init__(self, dim: int) -> None:
        super().__init__(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4))
        nn.init.zeros_(self[-1].weight)
        nn.init.zeros_(self[-1].bias)


def class_bias(prior: float = 0.01) -> float:
    """The bias at which a sigmoid says `prior`: nearly everything is background (Lin et al. 2017, arXiv:1708.02002)."""
    return -math.log((1 - prior) / prior)


def shift_boxes(reference_cxcywh: Tensor, delta: Tensor) -> Tensor:
    """Move a box by a fraction of its size, and scale it: the step is the same for small and large objects (LW-DETR, arXiv:2406.03459)."""
    delta = delta.float()
    centre = reference_cxcywh[..., :2] + delta[..., :2] * reference_cxcywh[..., 2:]
    size = reference_cxcywh[..., 2:] * delta[..., 2:].clamp(max=_MAX_LOG_SCALE).exp()
    return torch.cat([centre, size], -1)


def sine_embedding(values: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """Sines and cosines `(..., D * dim)` of each of `D` values in [0, 1]."""
    octave = temperature ** (torch.arange(dim // 2, device=values.device, dtype=torch.float32) * 2 / dim)
    angle = values.float().unsqueeze(-1) * (2 * math.pi) / octave  # (..., D) -> (..., D, dim/2)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-3)


class FeedForward(nn.Module):
    """Post-norm residual MLP, as in DETR."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, dim), nn.Dropout(dropout)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.net(x))
