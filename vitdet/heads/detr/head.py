"""The deformable DETR head: features -> proposals -> queries -> boxes.

B images, G groups of queries, Q queries of a group, C channels, K classes, L decoder layers
N queries of all images and groups together, denoising queries included

Queries are packed like tokens: each group of queries of an image, and each set of its denoising queries, is a sequence,
and queries attend only to those of their sequence (`attend`).
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
    """The sizes of the decoder layers of a DETR head, and how the layers refine boxes.

    Args:
        num_heads: attention heads of the self-attention among queries.
        cross_heads: attention heads of the cross-attention to the image; `num_heads` if not given.
        num_points: sampling points of each head of the cross-attention: a number for all levels, or a list with a
            number for each level.
        ffn_dim, dropout: hidden width of the MLPs, and the fraction of values that are dropped in training.
        refine: `iterative` starts each layer from the boxes of the layer before (Deformable DETR, arXiv:2010.04159),
            `fixed` starts all of them from the proposals (LW-DETR, arXiv:2406.03459).

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
    """Self-attention among queries, deformable cross-attention to the image, and an MLP, each followed by a norm."""

    def __init__(self, dim: int, *, num_levels: int, options: Decoder) -> None:
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
        """States `(N, C)` of the queries, their positions `(N, C)` and reference boxes `(N, 4)`, to new states."""
        x = self.norm1(x + self.dropout(self.self_attention(x, position, queries.lengths)))
        x = self.norm2(x + self.dropout(self.cross_attention(x + position, boxes_cxcywh, queries.images, memory)))
        return self.ffn(x)


class DeformableDecoder(nn.Module):
    """Decoder layers that sample the image around the reference box of each query, and predict by how much it moves."""

    def __init__(self, dim: int, num_classes: int, *, num_layers: int, num_levels: int, options: Decoder) -> None:
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
        x, reference_cxcywh = queries.content, queries.boxes_cxcywh
        states, boxes = [], []
        for i, layer in enumerate(self.layers):
            if i == 0 or self.refine == "iterative":
                embedded = sine_embedding(reference_cxcywh, self.dim // 2).to(x.dtype)  # (N, 4) -> (N, 2*C)
                position = self.position(embedded)
            x = layer(x, position, queries, reference_cxcywh, memory)
            state = self.norm(x)
            states.append(state)
            boxes.append(shift_boxes(reference_cxcywh, self.box(state)))
            if self.refine == "iterative":
                reference_cxcywh = boxes[-1].detach()
        states = torch.stack(states)
        return self.classify(states), torch.stack(boxes), states


class DETRHead(Head):
    """Two-stage deformable DETR on packed tokens: every token proposes a box, and the best proposals become queries.

    Args:
        in_channels: channels of each feature level, finest first.
        strides: their strides in pixels.
        num_classes: how many classes there are.
        dim: width of the decoder.
        num_queries: queries of an image: at most so many objects can be found.
        num_layers: the number of decoder layers.
        decoder: the sizes of the decoder layers and how they refine boxes, see `Decoder`.
        selection: how proposals are selected and become queries, see `Selection`.
        groups: how many sets of queries are trained side by side, each matched separately (Group DETR,
            arXiv:2207.13085); inference uses the first.
        denoising: about how many denoising queries an image has in training (DINO, arXiv:2203.03605); 0 turns them off.
        dense_aux: whether an auxiliary loss also trains every token near an object to find it (one-to-many matching);
            it costs nothing at inference.
        masks: whether the mask of every object is found, too (instance segmentation, scored by mask AP). Instead of
            `True`, options may be given, see `Masks`.
        class_loss: `mal` (DEIM), `ia_bce` (LW-DETR) or `focal`, as in `classification_loss`.
        loss_weights: weights of loss terms that replace the defaults `{class: 1, box: 5, giou: 2}` and, with masks,
            `{mask: 5, dice: 5}`; a prefix, as in `aux_class`, is for the other decoder layers (`aux_`), the proposals
            (`enc_`), and, masks aside, the denoising queries (`dn_`) and `dense_aux` (`dense_`).
        max_detections: how many detections `predict` returns for an image; `num_queries` if not given.

    Raises:
        UserError: an argument is out of range, `dim` is no multiple of the number of attention heads, or `loss_weights`
            names a term that does not exist.

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
        self.selection = QuerySelection(
            dim,
            num_classes,
            num_queries=num_queries,
            options=selection,
            groups=groups if selection.per_group else 1,
            dense=dense_aux,
        )
        num_levels = len(self.in_channels)
        self.decoder = DeformableDecoder(
            dim, num_classes, num_layers=num_layers, num_levels=num_levels, options=decoder
        )
        self.query_embed = nn.Embedding(groups * (1 if self.content == "tokens" else num_queries), dim)
        self.query_boxes = nn.Embedding(groups * num_queries, 4) if selection.learned_reference else None
        if self.query_boxes is not None:
            nn.init.zeros_(self.query_boxes.weight)
        self.denoising = Denoising(dim, num_classes, num_queries=denoising) if denoising else None
        mask_options = Masks() if masks is True else masks or None
        self.needs_masks, self.masks = mask_options is not None, None
        if mask_options is not None:
            make_branch = BRANCHES[mask_options.branch]
            self.masks = make_branch(self.in_channels[0], self.strides[0], dim, num_layers=num_layers)
        mask_points = mask_options.points if mask_options else 0
        self.criterion = SetCriterion(class_loss, loss_weights, mask_points=mask_points)
        self.loss_weights = self.criterion.weights

    def forward(self, features: Features, targets: list[Target] | None = None) -> DETROutputs:
        """Logits and boxes after each decoder layer; with `targets`, also denoising queries and proposals."""
        x = torch.cat([proj(level.x) for proj, level in zip(self.input_proj, features)])
        proposals = self.selection(x, features)
        queries = self._queries(proposals)
        noised = self.denoising(targets) if self.denoising is not None and targets is not None else None
        logits, boxes, states = self.decoder(queries.and_noised(noised), Memory(x, features))
        # the denoising queries stand behind all others
        first_noised, shape = len(queries.images), (len(features.sizes), -1, self.num_queries)
        outputs = DETROutputs(
            # (L, B*G*Q, K) -> (L, B, G, Q, K)
            logits[:, :first_noised].unflatten(1, shape),
            boxes[:, :first_noised].unflatten(1, shape),
        )
        if self.masks is not None:
            tokens = None if targets is None else proposals.tokens[None]
            (embeddings, pixels), of_proposals = self.masks(features, states[:, :first_noised], tokens)
            outputs.masks = QueryMasks(embeddings.unflatten(1, shape), pixels, features.sizes)
            outputs.proposal_masks = None if of_proposals is None else QueryMasks(*of_proposals, features.sizes)
        if targets is not None:
            outputs.proposals = proposals
        if noised is not None:
            outputs.noised = noised
            outputs.noised_logits, outputs.noised_boxes = logits[:, first_noised:], boxes[:, first_noised:]
        return outputs

    def _queries(self, proposals: Proposals) -> Queries:
        """The queries of all images and groups: each group has its content vectors, and starts from the boxes of its
        proposals, or of those that all groups share."""
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
        """The unweighted terms in fp32: `class`, `box`, `giou`, `mask`, `dice`, with the prefixes of `SetCriterion`."""
        with torch.autocast(outputs.boxes_cxcywh.device.type, enabled=False):
            return self.criterion(outputs, targets)

    def predict(self, outputs: DETROutputs, sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        # of the last decoder layer and the first group
        logits, boxes = outputs.logits[-1, :, 0], outputs.boxes_cxcywh[-1, :, 0]
        return best_detections(logits, boxes, sizes, self.max_detections, outputs.masks)

    @property
    def predicts(self) -> str:
        return "masks" if self.needs_masks else "boxes"
