"""timm's transformer blocks over packed tokens. What differs between timm's families is settled in the constructors.

N tokens, C channels, heads, d channels of a head; S sequences, B images
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import Attention, AttentionRope, LayerScale, apply_rot_embed_cat
from timm.models.eva import EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import ResPostBlock
from torch import Tensor, nn

from vitdet.backbone.attention import attend
from vitdet.backbone.relative import NAMES, Places
from vitdet.errors import UserError

SUPPORTED_BLOCKS = (TimmBlock, ResPostBlock, EvaBlock, EvaBlockPostNorm)
SUPPORTED_ATTENTION = (Attention, EvaAttention, AttentionRope)


class SelfAttention(nn.Module):
    """Self-attention with the parameters, and the parameter names, of one of timm's attention modules."""

    def __init__(self, attn: nn.Module) -> None:
        super().__init__()
        self.heads, self.head_dim = attn.num_heads, attn.head_dim
        self.kv_heads = getattr(attn, "num_kv_heads", attn.num_heads)  # fewer in grouped-query attention
        self.half = getattr(attn, "rotate_half", False)
        self.dropout = attn.attn_drop.p
        self.q_norm, self.k_norm, self.norm = attn.q_norm, attn.k_norm, attn.norm
        self.gate, self.proj, self.proj_drop = attn.gate, attn.proj, attn.proj_drop
        if attn.qkv is None:
            self.q_proj, self.k_proj, self.v_proj = attn.q_proj, attn.k_proj, attn.v_proj
            self.project = _project_apart
        else:
            self.qkv = attn.qkv
            self.project = _project
        if getattr(attn, "q_bias", None) is not None:  # EVA: keys have no bias
            self.q_bias, self.v_bias = attn.q_bias, attn.v_bias
            self.register_buffer("k_bias", attn.k_bias, persistent=False)
            self.project = _project_without_key_bias
        for name in NAMES:  # tables of relative positions, where `add_relative_position` was there
            self.register_parameter(name, getattr(attn, name, None))

    def forward(
        self,
        x: Tensor,
        lengths: Sequence[int],
        rope: Tensor | None = None,
        allowed: Sequence[Tensor] | None = None,
        places: Places | None = None,
    ) -> Tensor:
        q, k, v = self.project(self, x)  # (N, heads, d) each
        q, k = self.q_norm(q), self.k_norm(k)
        relative = None if places is None else places.products(q, (self.rel_pos_h, self.rel_pos_w))
        if rope is not None:
            q, k = (apply_rot_embed_cat(part, rope, half=self.half) for part in (q, k))
        if self.kv_heads != self.heads:
            k, v = (part.repeat_interleave(self.heads // self.kv_heads, dim=1) for part in (k, v))
        q, k = q.type_as(v), k.type_as(v)
        if places is not None:
            q, k, v = places.widen(q, k, v, relative)
        dropout = self.dropout if self.training else 0.0
        y = attend(q, k, v, lengths, dropout=dropout, allowed=allowed)[..., : self.head_dim]
        y = self.norm(y.flatten(1))  # (N, heads, d) -> (N, C)
        if self.gate is not None:
            y = y * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(y))


def _project(attn: SelfAttention, x: Tensor) -> tuple[Tensor, ...]:
    return attn.qkv(x).view(len(x), 3, attn.heads, attn.head_dim).unbind(1)  # (N, 3*C) -> 3 × (N, heads, d)


def _project_without_key_bias(attn: SelfAttention, x: Tensor) -> tuple[Tensor, ...]:
    qkv = F.linear(x, attn.qkv.weight, torch.cat([attn.q_bias, attn.k_bias, attn.v_bias]))
    return qkv.view(len(x), 3, attn.heads, attn.head_dim).unbind(1)  # (N, 3*C) -> 3 × (N, heads, d)


def _project_apart(attn: SelfAttention, x: Tensor) -> tuple[Tensor, ...]:
    projected = (attn.q_proj(x), attn.k_proj(x), attn.v_proj(x))
    return tuple(y.view(len(x), -1, attn.head_dim) for y in projected)  # (N, C) -> (N, heads, d)


class DropPath(nn.Module):
    """Stochastic depth, Huang et al. 2016 (arXiv:1603.09382): drops a residual branch for whole images, never for single tokens."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, image_lengths: Sequence[int]) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.rand(len(image_lengths), device=x.device) >= self.rate  # one draw an image
        scale = keep.to(x.dtype) / (1 - self.rate)
        if len(set(image_lengths)) == 1:
            return (x.view(len(scale), -1) * scale[:, None]).view_as(x)  # (N, C) -> (B, N/B*C) -> (N, C)
        return torch.cat([part * s for part, s in zip(x.split(list(image_lengths)), scale)])


class Block(nn.Module):
    """A pre-norm transformer block made of a timm block's modules.

    Parameters keep timm's names, except that EVA's `gamma_1` is called `ls1.gamma`, as in every other family.
    """

    def __init__(self, block: nn.Module, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.attn = SelfAttention(block.attn)
        self.ls1, self.ls2 = (_layer_scale(block, i) for i in (1, 2))
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x: Tensor,
        lengths: Sequence[int],
        images: Sequence[int],
        rope: Tensor | None = None,
        allowed: Sequence[Tensor] | None = None,
        places: Places | None = None,
    ) -> Tensor:
        """Tokens `(N, C)` to tokens; `lengths` are those of the attention's sequences, `images` those of the images; `allowed` as in `attend`."""
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), lengths, rope, allowed, places)), images)
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))), images)


class PostNormBlock(Block):
    """The same with the norms at the end of the residual branches (Swin v2's order)."""

    def forward(
        self,
        x: Tensor,
        lengths: Sequence[int],
        images: Sequence[int],
        rope: Tensor | None = None,
        allowed: Sequence[Tensor] | None = None,
        places: Places | None = None,
    ) -> Tensor:
        x = x + self.drop_path(self.norm1(self.attn(x, lengths, rope, allowed, places)), images)
        return x + self.drop_path(self.norm2(self.mlp(x)), images)


def pack_block(block: nn.Module, *, drop_path: float) -> Block:
    """The packed counterpart of a timm block.

    Raises:
        ValueError: it is not a block of a plain ViT.
    """
    if type(block) not in SUPPORTED_BLOCKS or type(block.attn) not in SUPPORTED_ATTENTION:
        wanted = ", ".join(cls.__name__ for cls in SUPPORTED_BLOCKS)
        got = f"{type(block).__name__} with {type(getattr(block, 'attn', None)).__name__}"
        raise UserError(f"its blocks are {got}; a plain ViT has {wanted} with softmax attention")
    cls = PostNormBlock if isinstance(block, (ResPostBlock, EvaBlockPostNorm)) else Block
    return cls(block, drop_path=drop_path)


def _layer_scale(block: nn.Module, i: int) -> nn.Module:
    if hasattr(block, f"ls{i}"):
        return getattr(block, f"ls{i}")
    gamma = getattr(block, f"gamma_{i}", None)
    if gamma is None:
        return nn.Identity()
    scale = LayerScale(len(gamma))
    scale.gamma = gamma
    return scale
