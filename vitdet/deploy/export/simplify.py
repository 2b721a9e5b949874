"""A copy of a trained model whose parts are easier to export: without fused attention, and with folded norms.

b images, h×w a map, C channels, L tokens
"""

import copy

import torch
from torch import Tensor, nn

from vitdet.backbone.necks.convolutions import ConvBN, ConvNorm, FrozenBatchNorm


class PlainAttention(nn.Module):
    """What `nn.MultiheadAttention` computes for queries `(b, Q, C)` and keys and values `(b, L, C)`, written out."""

    def __init__(self, module: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads, self.dim = module.num_heads, module.head_dim
        weights, biases = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
        self.enter = nn.ModuleList(_linear(weight, bias) for weight, bias in zip(weights, biases))
        self.leave = module.out_proj

    def forward(self, q: Tensor, k: Tensor, v: Tensor, need_weights: bool = False) -> tuple[Tensor, None]:
        parts = [enter(x) for enter, x in zip(self.enter, (q, k, v))]
        shapes = [(part.shape[0], part.shape[1], self.heads, self.dim) for part in parts]
        q, k, v = (part.reshape(shape).transpose(1, 2) for part, shape in zip(parts, shapes))
        y = ((q * self.dim**-0.5) @ k.transpose(-1, -2)).softmax(-1) @ v
        return self.leave(y.transpose(1, 2).flatten(2)), None


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight, linear.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
    return linear


def simplified(model: nn.Module) -> nn.Module:
    """A copy of `model`, whose outputs are the same up to rounding."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        if isinstance(module, (ConvBN, ConvNorm)) and isinstance(module.norm, FrozenBatchNorm):
            module.conv, module.norm = _folded(module.conv, module.norm), nn.Identity()
        for name, child in module.named_children():
            if isinstance(child, nn.MultiheadAttention):
                setattr(module, name, PlainAttention(child))
    return model


@torch.no_grad()
def _folded(conv: nn.Module, norm: FrozenBatchNorm) -> nn.Module:
    """A convolution or a linear layer with the scale and the shift of the norm behind it."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    conv.weight.mul_(scale.view(-1, *[1] * (conv.weight.ndim - 1)))
    conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
    return conv
