"""The deformable DETR head: features -> proposals -> queries -> boxes.

# B images, G groups, Q queries, N queries of all images and groups, C channels, K classes, L layers

Queries are packed like tokens: each group of an image's queries, and each set of its denoising queries, is a sequence,
and `attend` keeps sequences apart.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from vitdet.config import options
from vitdet.heads.base import Head
from vitdet.heads.layers import BoxMLP, FeedForward, SelfAttention, class_bias, shift_boxes, sine_embedding
from vitdet.heads.masks.branches import BRANCHES, Masks
from vitdet.heads.masks.inference import best_detections
from vitdet.heads.options import POINTS, RANGES
from vitdet.heads.queries.deformable import DeformableAttention, Memory
from vitdet.heads.queries.denoising import Denoising, Queries
from vitdet.heads.queries.selection import QuerySelection, Selection
from vitdet.losses.detection import ClassLoss, DETROutputs, Proposals, SetCriterion
from vitdet.losses.points import QueryMasks
from vitdet.ranges import check_divides, ranged
from vitdet.structures import Features, Prediction, Target


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
                embedded = sine_embedding(reference, self.dim // 2).to(x.dtype)  # (N, 4) -> (N, 2*C)
                position = self.position(embedded)
            x = layer(x, position, queries, reference, memory)
            state = self.norm(x)
            states.append(state)
            boxes.append(shift_boxes(reference, self.box(state)))
            if self.refine == "iterative":
                reference = boxes[-1].detach()
        states = torch.stack(states)
        return self.classify(states), torch.stack(boxes), states


class DETRHead(Head):
    """Two-stage deformable DETR on packed tokens.

    Args:
        in_channels: channels of each feature level, finest first.
        strides: their strides in pixels.
        num_classes: how many classes there are.
        dim: width of the decoder.
        num_queries: queries of an image: at most so many objects can be found.
        num_layers: decoder layers.
        decoder: what they are made of, see `Decoder`.
        selection: where queries start, see `Selection`.
        groups: sets of queries in training, each matched by itself (Group DETR, arXiv:2207.13085); inference uses the
            first.
        denoising: about how many denoising queries an image has in training; 0 turns them off.
        dense_aux: also train every token near an object to find it (one-to-many); costs nothing at inference.
        masks: find the mask of every object, too (instance segmentation); scored by mask AP. `True`, or see `Masks`.
        class_loss: `mal`, `ia_bce` or `focal`.
        loss_weights: weights other than the defaults, by term: `{class: 1, box: 5, giou: 2}`, each also with `aux_`,
            `enc_`, `dn_`, `dense_`; with masks also `{mask: 5, dice: 5}`, and their `aux_` and `enc_`.
        max_detections: how many boxes `predict` returns for an image; `num_queries` if not given.

    Example:
        >>> head = DETRHead([256, 256], [8, 16], num_classes=80, num_queries=100, selection={"distinct": None})
        >>> head.selection.num_queries
        100
    """

    kinds = ("instances",)
    class_parts = ("decoder.classify", "selection.groups.*.classify", "selection.dense_classify", "denoising.embed")
    query_parts = ("query_embed", "query_boxes")

    @ranged(RANGES)
    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[float],
        num_classes: int,
        *,
        dim: int = 256,
        num_queries: int = 300,
        num_layers: int = 3,
        decoder: Decoder = Decoder(),
        selection: Selection = Selection(),
        groups: int = 1,
        denoising: int = 100,
        dense_aux: bool = False,
        masks: bool | Masks = False,
        class_loss: ClassLoss = "mal",
        loss_weights: dict[str, float] | None = None,
        max_detections: int | None = None,
    ) -> None:
        super().__init__(in_channels, strides, num_classes)
        self.num_queries, self.groups, self.content = num_queries, groups, selection.content
        self.max_detections = max_detections or num_queries
        self.input_proj = nn.ModuleList(nn.Identity() if c == dim else nn.Linear(c, dim) for c in in_channels)
        chosen_by = groups if selection.per_group else 1
        sizes = {"num_queries": num_queries, "groups": chosen_by, "dense": dense_aux}
        self.selection = QuerySelection(dim, num_classes, options=selection, **sizes)
        sizes = {"num_layers": num_layers, "num_levels": len(self.in_channels)}
        self.decoder = DeformableDecoder(dim, num_classes, options=decoder, **sizes)
        self.query_embed = nn.Embedding(groups * (1 if self.content == "tokens" else num_queries), dim)
        self.query_boxes = nn.Embedding(groups * num_queries, 4) if selection.learned_reference else None
        if self.query_boxes is not None:
            nn.init.zeros_(self.query_boxes.weight)
        self.denoising = Denoising(dim, num_classes, num_queries=denoising) if denoising else None
        options = Masks() if masks is True else masks or None
        self.needs_masks, self.masks = options is not None, None
        if options is not None:
            make = BRANCHES[options.branch]
            self.masks = make(self.in_channels[0], self.strides[0], dim, num_layers=num_layers)
        self.criterion = SetCriterion(class_loss, loss_weights, mask_points=options.points if options else 0)
        self.loss_weights = self.criterion.weights

    def forward(self, features: Features, targets: list[Target] | None = None) -> DETROutputs:
        """Boxes and logits after each layer. Denoising queries are added where `targets` are given."""
        x = torch.cat([proj(level.x) for proj, level in zip(self.input_proj, features)])
        proposals = self.selection(x, features)
        queries = self._queries(proposals)
        noised = self.denoising(targets) if self.denoising is not None and targets is not None else None
        logits, boxes, states = self.decoder(queries.and_noised(noised), Memory(x, features))
        shape, num = (len(features.sizes), -1, self.num_queries), len(queries.images)
        outputs = DETROutputs(
            logits[:, :num].unflatten(1, shape),
            boxes[:, :num].unflatten(1, shape),  # (L, N, K) -> (L, B, G, Q, K)
        )
        if self.masks is not None:
            tokens = None if targets is None else proposals.tokens[None]
            (embeddings, pixels), proposed = self.masks(features, states[:, :num], tokens)
            outputs.masks = QueryMasks(embeddings.unflatten(1, shape), pixels, features.sizes)
            outputs.proposal_masks = None if proposed is None else QueryMasks(*proposed, features.sizes)
        if targets is not None:
            outputs.proposals = proposals
        if noised is not None:
            outputs.noised, outputs.noised_logits, outputs.noised_boxes = noised, logits[:, num:], boxes[:, num:]
        return outputs

    def _queries(self, proposals: Proposals) -> Queries:
        """Each group has its content, and starts from its proposals or from those that all groups share."""
        B, _, Q, dim = proposals.tokens.shape
        G = self.groups if self.training else 1
        content = self.query_embed.weight.view(self.groups, -1, dim)[:G]  # (G, 1 or Q, C)
        content = content.expand(B, G, Q, -1)
        if self.content == "tokens":
            content = content + proposals.tokens.detach()
        boxes = proposals.boxes_cxcywh.detach().expand(B, G, Q, 4)
        if self.query_boxes is not None:
            boxes = shift_boxes(boxes, self.query_boxes.weight.view(self.groups, Q, 4)[:G])
        images = torch.arange(B, device=boxes.device).repeat_interleave(G * Q)
        return Queries(content.flatten(0, 2), boxes.flatten(0, 2), images, [Q] * (B * G))

    def loss(self, outputs: DETROutputs, targets: list[Target]) -> dict[str, Tensor]:
        """`class`, `box` and `giou` terms of each set of predictions, in fp32."""
        with torch.autocast(outputs.boxes_cxcywh.device.type, enabled=False):
            return self.criterion(outputs, targets)

    def predict(self, outputs: DETROutputs, sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        logits, boxes = outputs.logits[-1, :, 0], outputs.boxes_cxcywh[-1, :, 0]
        return best_detections(logits, boxes, sizes, self.max_detections, outputs.masks)

    @property
    def predicts(self) -> str:
        return "masks" if self.needs_masks else "boxes"
