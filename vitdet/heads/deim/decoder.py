"""DEIMv2's decoder over packed queries, Huang et al. 2025 (arXiv:2509.20787): a lighter D-FINE (arXiv:2410.13842).

N queries of all images, C channels, L decoder layers, K classes, n distances that an edge may have
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitdet.heads.deim.edges import BINS, boxes_from_edges
from vitdet.heads.layers import BoxMLP, SelfAttention, class_bias
from vitdet.heads.queries.deformable import DeformableAttention, Memory
from vitdet.heads.queries.denoising import Queries

# the epsilon of the norms
EPS = 1e-6
# coordinates stay this far from 0 and 1 before the inverse sigmoid, which is infinite there
EDGE = 1e-5


class Gateway(nn.Module):
    """A gated residual: the weights of a query `x` and of a layer's output `y` are computed from both, per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate, self.norm = nn.Linear(2 * dim, 2 * dim), nn.RMSNorm(dim, eps=EPS)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        keep, add = self.gate(torch.cat([x, y], -1)).sigmoid().chunk(2, dim=-1)
        return self.norm(keep * x + add * y)


class SwiGLU(nn.Module):
    """Gated MLP, Shazeer 2020 (arXiv:2002.05202)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, x = self.enter(x).chunk(2, dim=-1)
        return self.leave(nn.functional.silu(gate) * x)


# self-attention among queries, deformable cross-attention to the image, and a gated MLP
class DEIMLayer(nn.Module):
    def __init__(self, dim: int, *, num_levels: int, num_heads: int, num_points: int | list[int], ffn_dim: int) -> None:
        super().__init__()
        self.self_attention, self.norm1 = SelfAttention(dim, num_heads), nn.RMSNorm(dim, eps=EPS)
        self.cross_attention = DeformableAttention(
            dim, num_levels=num_levels, num_heads=num_heads, num_points=num_points, projected=False
        )
        self.gateway = Gateway(dim)
        self.ffn, self.norm2 = SwiGLU(dim, ffn_dim), nn.RMSNorm(dim, eps=EPS)

    def forward(self, x: Tensor, position: Tensor, queries: Queries, boxes_cxcywh: Tensor, memory: Memory) -> Tensor:
        x = self.norm1(x + self.self_attention(x, position, queries.lengths))
        x = self.gateway(x, self.cross_attention(x + position, boxes_cxcywh, queries.images, memory))
        return self.norm2(x + self.ffn(x))


class Quality(nn.Module):
    """A correction `(N, 1)` of each query's logits, computed from the distributions `(N, 4, n)` of its edges.

    A query with narrow distributions is likely to have found an object (D-FINE's LQE, arXiv:2410.13842).
    """

    top, hidden = 4, 64

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(4 * (self.top + 1), self.hidden), nn.SiLU(), nn.Linear(self.hidden, 1))
        nn.init.zeros_(self.mlp[-1].weight)
        nn.init.zeros_(self.mlp[-1].bias)

    def forward(self, edges: Tensor) -> Tensor:
        best = edges.softmax(-1).topk(self.top, dim=-1).values  # (N, 4, top)
        return self.mlp(torch.cat([best, best.mean(-1, keepdim=True)], -1).flatten(1))


@dataclass
class Decoded:
    """`logits` `(1 + L, N, K)` and `boxes_cxcywh` `(1 + L, N, 4)` of a first guess, then of each layer.

    `edges` `(L, N, 4, n)` are logits of the distances of each layer's edges from those of `references_cxcywh` `(N, 4)`,
    the boxes of the first guess.
    """

    logits: Tensor
    boxes_cxcywh: Tensor
    edges: Tensor
    references_cxcywh: Tensor

    def take(self, queries: slice) -> "Decoded":
        """The outputs for a part of the N queries."""
        layers = (value[:, queries] for value in (self.logits, self.boxes_cxcywh, self.edges))
        return Decoded(*layers, self.references_cxcywh[queries])


class DEIMDecoder(nn.Module):
    """Decoder layers of which the first guesses a box, and every layer refines the distributions of its edges.

    The position of a query is embedded once, for all layers.
    """

    def __init__(self, dim: int, num_classes: int, *, num_layers: int, **layer) -> None:
        super().__init__()
        self.position = nn.Sequential(nn.Linear(4, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.layers = nn.ModuleList(DEIMLayer(dim, **layer) for _ in range(num_layers))
        self.guess = BoxMLP(dim, activation=nn.SiLU)
        self.edges = nn.ModuleList(BoxMLP(dim, 4 * (BINS + 1), activation=nn.SiLU) for _ in range(num_layers))
        self.classify = nn.ModuleList(nn.Linear(dim, num_classes) for _ in range(num_layers))
        self.quality = nn.ModuleList(Quality() for _ in range(num_layers))
        for linear in self.classify:
            nn.init.constant_(linear.bias, class_bias())

    def forward(self, queries: Queries, memory: Memory) -> Decoded:
        x, boxes = queries.content, [queries.boxes_cxcywh]
        position = self.position(boxes[0].to(x.dtype)).clamp(-10, 10)
        before, edges, logits = torch.zeros_like(x), [], []
        for layer, edge, classify, quality in zip(self.layers, self.edges, self.classify, self.quality):
            x = layer(x, position, queries, boxes[-1].detach(), memory)
            scores = classify(x)
            if not logits:
                boxes = [move_boxes(boxes[0], self.guess(x))]
                logits = [scores]
            step = edge(x + before).unflatten(1, (4, -1)).float()  # (N, 4*n) -> (N, 4, n)
            edges.append(edges[-1] + step if edges else step)
            boxes.append(boxes_from_edges(edges[-1], boxes[0].detach()))
            logits.append(scores + quality(edges[-1]))
            before = x.detach()
        return Decoded(torch.stack(logits), torch.stack(boxes), torch.stack(edges), boxes[0].detach())


def move_boxes(boxes_cxcywh: Tensor, step: Tensor) -> Tensor:
    """Boxes `(..., 4)` after a step in the space of inverse sigmoids, which keeps them inside the image
    (arXiv:2010.04159)."""
    inside = boxes_cxcywh.float().clamp(0, 1)
    return ((inside.clamp(min=EDGE) / (1 - inside).clamp(min=EDGE)).log() + step.float()).sigmoid()
