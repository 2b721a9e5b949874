"""The deformable decoder over packed queries.

# N queries of all images and groups, C channels, L layers

Queries are packed like tokens: groups of one image, and its denoising sets, are sequences of their own, and `attend` keeps them apart.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vitdet.backbone.attention import attend
from vitdet.config import options
from vitdet.heads.layers import BoxMLP, FeedForward, class_bias, shift_boxes, sine_embedding
from vitdet.heads.options import POINTS, RANGES
from vitdet.heads.queries.deformable import DeformableAttention, Memory
from vitdet.heads.queries.denoising import Noised
from vitdet.ranges import check_divides


@options(RANGES | {"num_points": POINTS})
class Decoder:
    """What the decoder layers of a DETR head are made of.

    Args:
        num_heads: attention heads between queries.
        cross_heads: attention heads that look at the image; `num_heads` if not given.
        num_points: at which each of them looks, in every level or in each.
        ffn_dim, dropout: hidden width of the MLPs, and the share of values that training drops.
        refine: `iterative` starts each layer from the boxes of the layer before (Deformable DETR), `fixed` always from
            the proposals (LW-DETR).

    Example:
        >>> Decoder(num_points=2).ffn_dim
        1024
    """

    num_heads: int = 8
    cross_heads: int | None = None
    num_points: int | list[int] = 4
    ffn_dim: int = 1024
    dropout: float = 0.0
    refine: Literal["iterative", "fixed"] = "iterative"


@dataclass
class Queries:
    """`content` `(N, C)`, reference `boxes_cxcywh` `(N, 4)`, the image of each `(N,)`, and the `lengths` of the self-attention sequences."""

    content: Tensor
    boxes_cxcywh: Tensor
    images: Tensor
    lengths: list[int]

    def and_noised(self, noised: Noised | None) -> "Queries":
        """These, and behind them the denoising queries, if there are any."""
        if noised is None:
            return self
        return Queries(
            torch.cat([self.content, noised.content]),
            torch.cat([self.boxes_cxcywh, noised.boxes_cxcywh]),
            torch.cat([self.images, noised.images]),
            self.lengths + noised.lengths,
        )


class SelfAttention(nn.Module):
    """Attention among the queries of one sequence; positions are added to queries and keys, not to values."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qk, self.v, self.proj = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, position: Tensor, lengths: list[int]) -> Tensor:
        q, k = (
            self.qk(x + position).unflatten(1, (2, self.num_heads, -1)).unbind(1)
        )  # (N, 2*C) -> 2 x (N, heads, C/heads)
        v = self.v(x).unflatten(1, (self.num_heads, -1))
        return self.proj(attend(q, k, v, lengths).flatten(1))


class DecoderLayer(nn.Module):
    def __init__(
        self,
        dim: int,
        *,
        num_levels: int,
        options: Decoder,
    ) -> None:
        super().__init__()
        self.self_attention = SelfAttention(dim, options.num_heads)
        self.cross_attention = DeformableAttention(
            dim,
            num_levels=num_levels,
            num_heads=options.cross_heads or options.num_heads,
            num_points=options.num_points,
        )
        self.ffn = FeedForward(dim, options.ffn_dim, options.dropout)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, x: Tensor, position: Tensor, queries: Queries, boxes_cxcywh: Tensor, memory: Memory) -> Tensor:
        x = self.norm1(x + self.dropout(self.self_attention(x, position, queries.lengths)))
        x = self.norm2(x + self.dropout(self.cross_attention(x + position, boxes_cxcywh, queries.images, memory)))
        return self.ffn(x)


class DeformableDecoder(nn.Module):
    """Layers that look where the boxes are, and move them."""

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        num_layers: int,
        num_levels: int,
        options: Decoder,
    ) -> None:
        super().__init__()
        check_divides("dim", dim, num_heads=options.num_heads, cross_heads=options.cross_heads or options.num_heads)
        self.dim, self.refine = dim, options.refine
        self.position = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.layers = nn.ModuleList(
            DecoderLayer(dim, num_levels=num_levels, options=options) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.box = BoxMLP(dim)
        self.classify = nn.Linear(dim, num_classes)
        nn.init.constant_(self.classify.bias, class_bias())

    def forward(self, queries: Queries, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `(L, N, K)`, boxes `(L, N, 4)` and states `(L, N, C)` after each layer."""
        x, reference = queries.content, queries.boxes_cxcywh
        states, boxes = [], []
        for i, layer in enumerate(self.layers):
            if i == 0 or self.refine == "iterative":
                position = self.position(
                    sine_embedding(reference, self.dim // 2).to(x.dtype)
                )  # (N, 4) -> (N, 2*C) -> (N, C)
            x = layer(x, position, queries, reference, memory)
            state = self.norm(x)
            states.append(state)
            boxes.append(shift_boxes(reference, self.box(state)))
            if self.refine == "iterative":
                reference = boxes[-1].detach()
        states = torch.stack(states)
        return self.classify(states), torch.stack(boxes), states
