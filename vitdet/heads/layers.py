"""Small parts that the heads share.  # Q queries, C channels"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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


class _ReluMLP(torch.autograd.Function):
    """`linear(relu(linear(x)))`, whose hidden layer is held once in forward and once in backward; for many queries it is the largest tensor of all."""

    @staticmethod
    def forward(ctx, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        hidden = F.linear(x, w1, b1).relu_()
        ctx.save_for_backward(x, hidden, w1, w2)
        return F.linear(hidden, w2, b2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        x, hidden, w1, w2 = ctx.saved_tensors
        inner = grad @ w2
        torch.ops.aten.threshold_backward.grad_input(inner, hidden, 0, grad_input=inner)  # in place
        return inner @ w1, inner.T @ x, inner.sum(0), grad.T @ hidden, grad.sum(0)


class FeedForward(nn.Module):
    """Post-norm residual MLP, as in DETR."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, dim), nn.Dropout(dropout)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        first, last, drops = self.net[0], self.net[3], self.training and self.net[2].p > 0
        if (
            drops
            or not torch.is_grad_enabled()
            or torch.is_autocast_enabled(x.device.type)
            or torch.compiler.is_compiling()
        ):
            return self.norm(x + self.net(x))
        y = _ReluMLP.apply(x.flatten(0, -2), first.weight, first.bias, last.weight, last.bias)
        return self.norm(x + y.view_as(x))
