"""Attention over packed sequences, and timm's transformer blocks built on it.

`attend` alone decides which tokens attend to each other. Constructors of blocks handle differences between families.

N tokens of all sequences, S sequences, L tokens of a sequence, C channels, heads, d channels of a head, B images
q, k, v  (N, heads, d)   sequence after sequence; sum(lengths) == N
"""

from collections.abc import Sequence
from functools import lru_cache, wraps
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from timm.layers import Attention, AttentionRope, LayerScale, apply_rot_embed_cat
from timm.models.eva import EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import ResPostBlock
from torch import Tensor, nn

from vitdet.backbone.sequences import EqualSequences
from vitdet.errors import UserError

if TYPE_CHECKING:
    from vitdet.backbone.relative import Places

# a prototype feature of PyTorch; without it, the grouped path is used instead
try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None


def remembered(function):
    """Like `lru_cache`, but without the cache while PyTorch traces a graph, whose tensors must not outlive it; tensors
    that are made in inference mode can be used in training later."""
    cache = lru_cache(maxsize=1024)(function)

    @wraps(function)
    def call(*args):
        if torch.compiler.is_compiling():
            return function(*args)
        with torch.inference_mode(False):
            return cache(*args)

    return call


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Sequence[int] | EqualSequences,
    *,
    dropout: float = 0.0,
    allowed: Sequence[Tensor] | None = None,
) -> Tensor:
    """Softmax attention `(N, heads, d)` inside each sequence.

    Sequences of equal length are a single batched call. For unequal lengths on CUDA, see `_varlen_fits`.

    Args:
        lengths: the number of tokens of each sequence.
        allowed: bool `(L, L)` for each sequence, which of its tokens may attend to which.

    Raises:
        UserError: the lengths do not add up to N.
    """
    if isinstance(lengths, EqualSequences):
        return lengths.attend(q, k, v)
    lengths = tuple(lengths)
    if sum(lengths) != len(q):
        raise UserError(
            f"lengths add up to {sum(lengths)}, but there are {len(q)} tokens; pass one length per sequence"
        )
    if allowed is None and dropout == 0.0 and len(set(lengths)) > 1 and _varlen_fits(q, v):
        offsets, longest = _offsets(lengths, q.device)
        return varlen_attn(q, k, v, offsets, offsets, longest, longest)
    return attend_grouped(q, k, v, lengths, dropout=dropout, allowed=allowed)


def attend_grouped(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: tuple[int, ...],
    *,
    dropout: float = 0.0,
    allowed: Sequence[Tensor] | None = None,
) -> Tensor:
    """`attend` by a batched call for each distinct length."""
    groups, order, inverse = _groups(lengths, q.device)
    if order is not None:
        q, k, v = q[order], k[order], v[order]
    rows = [count * length for count, length in groups]
    masks = [None] * len(groups)
    if allowed is not None:
        masks = [torch.stack([m for m in allowed if len(m) == length]).unsqueeze(1) for _, length in groups]
    outputs = []
    # a single group is not split, because the backward pass of a split copies
    split = [(q,), (k,), (v,)] if len(groups) == 1 else [part.split(rows) for part in (q, k, v)]
    for (count, length), mask, *parts in zip(groups, masks, *split):
        # (S*L, heads, d) -> (S, heads, L, d)
        parts = [part.unflatten(0, (count, length)).transpose(1, 2) for part in parts]
        output = F.scaled_dot_product_attention(*parts, attn_mask=mask, dropout_p=dropout)
        outputs.append(output.transpose(1, 2).flatten(0, 1))  # (S, heads, L, d) -> (S*L, heads, d)
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return output if inverse is None else output[inverse]


@remembered
def _groups(lengths: tuple[int, ...], device: torch.device):
    """`[(count, length)]` of the distinct lengths, the order of tokens that groups equal lengths, and its inverse.

    Order and inverse are `None` if equal lengths are neighbours already, as in blocks with global attention.
    """
    starts = list(accumulate(lengths, initial=0))
    members: dict[int, list[int]] = {}
    for sequence, length in enumerate(lengths):
        members.setdefault(length, []).append(sequence)
    groups = [(len(sequences), length) for length, sequences in members.items()]
    arranged = [sequence for sequences in members.values() for sequence in sequences]
    if arranged == sorted(arranged):
        return groups, None, None
    order = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in arranged])
    return groups, order.to(device), order.argsort().to(device)


@remembered
def _offsets(lengths: tuple[int, ...], device: torch.device) -> tuple[Tensor, int]:
    """The start of each sequence and the end of the last, `(S + 1,)` int32, and the largest length."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device), max(lengths)


def _varlen_fits(q: Tensor, v: Tensor) -> bool:
    """Whether `varlen_attn` supports these: half precision, d a multiple of 8 up to 256, a GPU from Ampere on."""
    return (
        varlen_attn is not None
        and q.is_cuda
        and q.dtype == v.dtype
        and q.dtype in (torch.float16, torch.bfloat16)
        and q.shape[-1] % 8 == 0
        and q.shape[-1] <= 256
        and _is_ampere(q.device)
    )


@lru_cache
def _is_ampere(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


SUPPORTED_BLOCKS = (TimmBlock, ResPostBlock, EvaBlock, EvaBlockPostNorm)
SUPPORTED_ATTENTION = (Attention, EvaAttention, AttentionRope)
# names of the tables of relative positions that `add_relative_position` adds
RELATIVE_TABLES = ("rel_pos_h", "rel_pos_w")


class SelfAttention(nn.Module):
    """Self-attention with the parameters of an attention module of timm, and with their names."""

    def __init__(self, attn: Any) -> None:
        super().__init__()
        self.heads, self.head_dim = attn.num_heads, attn.head_dim
        # grouped-query attention has fewer heads of keys and values
        self.kv_heads = getattr(attn, "num_kv_heads", attn.num_heads)
        self.rotate_half = getattr(attn, "rotate_half", False)
        self.dropout = attn.attn_drop.p
        self.q_norm, self.k_norm, self.norm = attn.q_norm, attn.k_norm, attn.norm
        self.gate, self.proj, self.proj_drop = attn.gate, attn.proj, attn.proj_drop
        if attn.qkv is None:
            self.q_proj, self.k_proj, self.v_proj = attn.q_proj, attn.k_proj, attn.v_proj
            self.project = _project_apart
        else:
            self.qkv = attn.qkv
            self.project = _project
        # EVA's keys have no bias
        if getattr(attn, "q_bias", None) is not None:
            self.q_bias, self.v_bias = attn.q_bias, attn.v_bias
            self.register_buffer("k_bias", attn.k_bias, persistent=False)
            self.project = _project_without_key_bias
        for name in RELATIVE_TABLES:
            self.register_parameter(name, getattr(attn, name, None))

    def forward(
        self,
        x: Tensor,
        lengths: Sequence[int],
        rope: Tensor | None = None,
        allowed: Sequence[Tensor] | None = None,
        places: "Places | None" = None,
    ) -> Tensor:
        q, k, v = self.project(self, x)  # (N, heads, d) each
        q, k = self.q_norm(q), self.k_norm(k)
        relative = None if places is None else places.products(q, (self.rel_pos_h, self.rel_pos_w))
        if rope is not None:
            q, k = (apply_rot_embed_cat(part, rope, half=self.rotate_half) for part in (q, k))
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
    return attn.qkv(x).view(x.shape[0], 3, attn.heads, attn.head_dim).unbind(1)  # (N, 3*C) -> 3 × (N, heads, d)


def _project_without_key_bias(attn: SelfAttention, x: Tensor) -> tuple[Tensor, ...]:
    qkv = F.linear(x, attn.qkv.weight, torch.cat([attn.q_bias, attn.k_bias, attn.v_bias]))
    return qkv.view(x.shape[0], 3, attn.heads, attn.head_dim).unbind(1)  # (N, 3*C) -> 3 × (N, heads, d)


def _project_apart(attn: SelfAttention, x: Tensor) -> tuple[Tensor, ...]:
    projected = (attn.q_proj(x), attn.k_proj(x), attn.v_proj(x))
    return tuple(y.view(x.shape[0], -1, attn.head_dim) for y in projected)  # (N, C) -> (N, heads, d)


class DropPath(nn.Module):
    """Stochastic depth, Huang et al. 2016 (arXiv:1603.09382): drops a residual branch for entire images."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, image_lengths: Sequence[int]) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.rand(len(image_lengths), device=x.device) >= self.rate  # (B,)
        scale = keep.to(x.dtype) / (1 - self.rate)
        if len(set(image_lengths)) == 1:
            return (x.view(len(scale), -1) * scale[:, None]).view_as(x)  # (N, C) -> (B, N/B*C) -> (N, C)
        return torch.cat([part * s for part, s in zip(x.split(list(image_lengths)), scale)])


class Block(nn.Module):
    """A pre-norm transformer block that is made of the modules of a timm block.

    Parameters keep timm's names, except that EVA's `gamma_1` is named `ls1.gamma`, as in all other families.
    """

    def __init__(self, block: Any, *, drop_path: float) -> None:
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
        places: "Places | None" = None,
    ) -> Tensor:
        """Tokens `(N, C)` to tokens; `lengths` and `images` are the numbers of tokens of sequences and of images."""
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), lengths, rope, allowed, places)), images)
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))), images)


class PostNormBlock(Block):
    """A `Block` with the norms at the end of the residual branches, as in Swin v2."""

    def forward(self, x: Tensor, lengths: Sequence[int], images: Sequence[int], *more: Any) -> Tensor:
        x = x + self.drop_path(self.norm1(self.attn(x, lengths, *more)), images)
        return x + self.drop_path(self.norm2(self.mlp(x)), images)


def pack_block(block: Any, *, drop_path: float) -> Block:
    """The block over packed tokens that corresponds to a timm block.

    Raises:
        UserError: it is not a block of a plain ViT.
    """
    if type(block) not in SUPPORTED_BLOCKS or type(block.attn) not in SUPPORTED_ATTENTION:
        wanted = ", ".join(cls.__name__ for cls in SUPPORTED_BLOCKS)
        got = f"{type(block).__name__} with {type(getattr(block, 'attn', None)).__name__}"
        raise UserError(f"its blocks are {got}; a plain ViT has {wanted} with softmax attention")
    cls = PostNormBlock if isinstance(block, (ResPostBlock, EvaBlockPostNorm)) else Block
    return cls(block, drop_path=drop_path)


def _layer_scale(block: Any, i: int) -> nn.Module:
    if hasattr(block, f"ls{i}"):
        return getattr(block, f"ls{i}")
    gamma = getattr(block, f"gamma_{i}", None)
    if gamma is None:
        return nn.Identity()
    scale = LayerScale(len(gamma))
    scale.gamma = gamma
    return scale
