"""Small modules and functions that several heads use.

N queries of all images and groups, C channels, D values
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vitdet.backbone.attention import attend

# the largest logarithm of a scale, as in Faster R-CNN: exp() of an extreme prediction must not overflow
_MAX_LOG_SCALE = math.log(1000 / 16)
# the number of rows whose hidden layer is held in memory at a time
CHUNK = 2048


class BoxMLP(nn.Sequential):
    """Three-layer perceptron `(..., C) -> (..., outputs)`.

    Its last layer starts at 0, so a predicted box starts at its reference box.
    """

    def __init__(self, dim: int, outputs: int = 4, *, activation: type[nn.Module] = nn.ReLU) -> None:
        hidden = [layer for _ in range(2) for layer in (nn.Linear(dim, dim), activation())]
        super().__init__(*hidden, nn.Linear(dim, outputs))
        nn.init.zeros_(self[-1].weight)
        nn.init.zeros_(self[-1].bias)


def class_bias(prior: float = 0.01) -> float:
    """The bias at which a sigmoid gives `prior`, which is small because nearly everything is background (Lin et al.
    2017, arXiv:1708.02002)."""
    return -math.log((1 - prior) / prior)


def shift_boxes(reference_cxcywh: Tensor, delta: Tensor) -> Tensor:
    """Boxes `(..., 4)` moved by fractions of their size, and scaled, as LW-DETR does (arXiv:2406.03459).

    A prediction then means an equal step, relative to the box, for small and for large objects.

    Args:
        reference_cxcywh: the boxes `(..., 4)`.
        delta: shift in x and y as a fraction of width and height, and logarithm of the scale of both: `(..., 4)`.
    """
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
    """`linear(relu(linear(x)))`, `CHUNK` rows at a time; the hidden layer is computed again in the backward pass.

    With the thousands of queries of grouped training, the hidden layer would be the largest tensor of the model, and
    allocating so much memory takes longer than computing its matrix product twice.
    """

    @staticmethod
    def forward(ctx, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        ctx.save_for_backward(x, w1, b1, w2)
        return torch.cat([F.linear(F.linear(rows, w1, b1).relu_(), w2, b2) for rows in x.split(CHUNK)])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        x, w1, b1, w2 = ctx.saved_tensors
        grad_x, grad_b1 = [], torch.zeros_like(b1)
        grad_w1, grad_w2 = torch.zeros_like(w1), torch.zeros_like(w2)
        for rows, grad_rows in zip(x.split(CHUNK), grad.split(CHUNK)):
            hidden, inner = F.linear(rows, w1, b1).relu_(), grad_rows @ w2
            # in place
            torch.ops.aten.threshold_backward.grad_input(inner, hidden, 0, grad_input=inner)
            grad_x.append(inner @ w1)
            grad_w1.addmm_(inner.T, rows)
            grad_w2.addmm_(grad_rows.T, hidden)
            grad_b1 += inner.sum(0)
        return torch.cat(grad_x), grad_w1, grad_b1, grad_w2, grad.sum(0)


class FeedForward(nn.Module):
    """The residual MLP of DETR, with the norm after the sum (post-norm)."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, dim), nn.Dropout(dropout)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        # in this order, because the number of rows is not known in an exported graph
        if not self._trains_plainly(x) or x[..., 0].numel() <= CHUNK:
            return self.norm(x + self.net(x))
        rows = x.flatten(0, -2)  # (..., C) -> (N, C)
        first, last = self.net[0], self.net[3]
        y = _ReluMLP.apply(rows, first.weight, first.bias, last.weight, last.bias)
        return self.norm(x + y.view_as(x))

    def _trains_plainly(self, x: Tensor) -> bool:
        """Whether there is a backward pass, and none of what `_ReluMLP` does not support: dropout, mixed precision and
        `torch.compile`."""
        dropped = self.training and self.net[2].p > 0
        mixed = torch.is_autocast_enabled(x.device.type)
        return torch.is_grad_enabled() and not (dropped or mixed or torch.compiler.is_compiling())


class SelfAttention(nn.Module):
    """Attention among the tokens of each sequence; their positions are added to queries and keys, not to values."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qk, self.v, self.proj = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, position: Tensor, lengths: list[int]) -> Tensor:
        # (N, 2*C) -> 2 × (N, heads, C/heads)
        q, k = self.qk(x + position).unflatten(1, (2, self.num_heads, -1)).unbind(1)
        v = self.v(x).unflatten(1, (self.num_heads, -1))
        return self.proj(attend(q, k, v, lengths).flatten(1))
