"""A copy of a trained model whose parts are easier to export: without fused attention, and with folded norms.

b images, h×w a map, C channels, L tokens
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from vitdet.backbone.attention import Block, PostNormBlock
from vitdet.backbone.attention import SelfAttention as TrunkAttention
from vitdet.backbone.necks.convolutions import ConvBN, ConvNorm, FrozenBatchNorm
from vitdet.heads.layers import SelfAttention


class PlainAttention(nn.Module):
    """What `nn.MultiheadAttention` computes for queries `(b, Q, C)` and keys and values `(b, L, C)`, written out."""

    def __init__(self, module: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads, self.dim = module.num_heads, module.head_dim
        weights, biases = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
        enter = [_linear(weight, bias) for weight, bias in zip(weights, biases)]
        _scale(enter[0], self.dim**-0.5)
        self.enter, self.leave = nn.ModuleList(enter), module.out_proj

    def forward(self, q: Tensor, k: Tensor, v: Tensor, need_weights: bool = False) -> tuple[Tensor, None]:
        parts = [enter(x) for enter, x in zip(self.enter, (q, k, v))]
        shapes = [(part.shape[0], part.shape[1], self.heads, self.dim) for part in parts]
        q, k, v = (part.reshape(shape).transpose(1, 2) for part, shape in zip(parts, shapes))
        y = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return self.leave(y.transpose(1, 2).flatten(2)), None


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight, linear.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
    return linear


@torch.no_grad()
def simplified(model: nn.Module) -> nn.Module:
    """A copy of `model`, whose outputs are the same up to rounding.

    Norms with fixed statistics, layer scales and the scale of attention's logits are part of the weights before them.
    Attention modules whose logits need no scale any more have an attribute `scaled`.
    """
    model = copy.deepcopy(model)
    modules: list[Any] = list(model.modules())
    for module in modules:
        if isinstance(module, (ConvBN, ConvNorm)) and isinstance(module.norm, FrozenBatchNorm):
            module.conv, module.norm = _folded(module.conv, module.norm), nn.Identity()
        elif isinstance(module, Block) and not isinstance(module, PostNormBlock):
            for name, layer in (("ls1", module.attn.proj), ("ls2", getattr(module.mlp, "fc2", None))):
                gamma = getattr(getattr(module, name), "gamma", None)
                if gamma is not None and isinstance(layer, nn.Linear):
                    _scale(layer, gamma)
                    setattr(module, name, nn.Identity())
        elif isinstance(module, TrunkAttention):
            _scale_queries(module)
        elif isinstance(module, SelfAttention):
            dim = module.v.out_features
            _scale(module.qk, (dim // module.num_heads) ** -0.5, slice(dim))
        for name, child in module.named_children():
            if isinstance(child, nn.MultiheadAttention):
                setattr(module, name, PlainAttention(child))
    return model


def _scale(linear: nn.Linear, factor: Tensor | float, rows: slice = slice(None)) -> None:
    """Multiplies some of the outputs of a linear layer."""
    linear.weight[rows] *= factor[:, None] if isinstance(factor, Tensor) else factor
    if linear.bias is not None:
        linear.bias[rows] *= factor


def _scale_queries(attention: Any) -> None:
    """Makes the scale of the logits part of the projection to queries, unless a norm or a product stands between."""
    if not isinstance(attention.q_norm, nn.Identity) or attention.rel_pos_h is not None:
        return
    factor, width = attention.head_dim**-0.5, attention.heads * attention.head_dim
    if hasattr(attention, "qkv"):
        _scale(attention.qkv, factor, slice(width))
    else:
        _scale(attention.q_proj, factor)
    if hasattr(attention, "q_bias"):
        attention.q_bias.mul_(factor)
    attention.scaled = True


def _folded(conv: Any, norm: Any) -> Any:
    """A convolution or a linear layer with the scale and the shift of the norm behind it."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    conv.weight.mul_(scale.view(-1, *[1] * (conv.weight.ndim - 1)))
    conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
    return conv
