"""The deformable DETR head: features -> proposals -> queries -> boxes.

# B images, G groups, Q queries, N tokens, C channels, K classes, L layers
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitdet.heads.base import Head
from vitdet.heads.detr.criterion import DETROutputs, SetCriterion, best_detections
from vitdet.heads.detr.decoder import DeformableDecoder, Queries
from vitdet.heads.detr.deformable import Memory
from vitdet.heads.detr.denoising import Denoising
from vitdet.heads.detr.masks import QueryMasks, make_masks
from vitdet.heads.detr.selection import Proposals, QuerySelection
from vitdet.heads.layers import shift_boxes
from vitdet.heads.options import POINTS, RANGES
from vitdet.losses import ClassLoss
from vitdet.ranges import check_divides, ranged
from vitdet.structures import Features, Prediction, Target


class DETRHead(Head):
    """Two-stage deformable DETR on packed tokens.

    Args:
        in_channels: channels of each feature level, finest first.
        strides: their strides in pixels.
        num_classes: how many classes there are.
        dim: width of the decoder.
        num_queries: queries of an image: at most so many objects can be found.
        num_layers: decoder layers.
        num_heads: attention heads between queries.
        ffn_dim, dropout: hidden width of the MLPs, and the share of values that training drops.
        cross_heads: attention heads that look at the image; `num_heads` if not given.
        num_points: at which each head looks, in every level or in each.
        groups: sets of queries in training, each matched on its own (Group DETR, arXiv:2207.13085); inference uses the first.
        group_proposals: each group also selects its own proposals.
        denoising: about how many denoising queries an image has in training; 0 turns them off.
        dense_aux: also train every token near an object to find it (one-to-many); costs nothing at inference.
        content: what queries start from: the selected `tokens`, or `learned` vectors.
        refine: `iterative` moves the reference boxes layer by layer, `fixed` keeps the proposals.
        learned_reference: each query also learns where to look relative to its proposal.
        anchor_scale: side of the box that each token starts from, in strides.
        anchor_fraction: the same as a fraction of the image instead.
        anchor_margin, distinct: see `QuerySelection`.
        class_loss: `mal`, `ia_bce` or `focal`.
        loss_weights: weights other than the defaults, by term: `{class: 1, box: 5, giou: 2}`, each also with `aux_`, `enc_`, `dn_`, `dense_`; with masks
            also `{mask: 5, dice: 5}`, and their `aux_` and `enc_`.
        max_detections: how many boxes `predict` returns for an image; `num_queries` if not given.
        masks: find the mask of every object, too (instance segmentation), in the manner of RF-DETR-Seg; scored by mask AP.
        mask_branch: what masks are made from: the finest level at twice its resolution (`plain`), or, as in RF-DETR-Seg, at stride 4, refined once for every
            decoder layer (`refined`).
        mask_points: points at which the loss looks at each mask.
    """

    kinds = ("instances",)
    class_parts = ("decoder.classify", "selection.groups.*.classify", "selection.dense_classify", "denoising.embed")
    query_parts = ("query_embed", "query_boxes")

    @ranged(RANGES | {"num_points": POINTS})
    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[float],
        num_classes: int,
        *,
        dim: int = 256,
        num_queries: int = 300,
        num_layers: int = 3,
        num_heads: int = 8,
        cross_heads: int | None = None,
        num_points: int | list[int] = 4,
        ffn_dim: int = 1024,
        dropout: float = 0.0,
        groups: int = 1,
        group_proposals: bool = False,
        denoising: int = 100,
        dense_aux: bool = False,
        content: Literal["tokens", "learned"] = "tokens",
        refine: Literal["iterative", "fixed"] = "iterative",
        learned_reference: bool = False,
        anchor_scale: float = 4.0,
        anchor_fraction: float | None = None,
        anchor_margin: float = 0.0,
        distinct: float | None = 0.7,
        class_loss: ClassLoss = "mal",
        loss_weights: dict[str, float] | None = None,
        max_detections: int | None = None,
        masks: bool = False,
        mask_branch: Literal["plain", "refined"] = "plain",
        mask_points: int = 1024,
    ) -> None:
        super().__init__(in_channels, strides, num_classes)
        check_divides("dim", dim, num_heads=num_heads, cross_heads=cross_heads or num_heads)
        self.num_queries, self.groups, self.content = num_queries, groups, content
        self.max_detections = max_detections or num_queries
        self.input_proj = nn.ModuleList(nn.Identity() if c == dim else nn.Linear(c, dim) for c in in_channels)
        self.selection = QuerySelection(
            dim,
            num_classes,
            num_queries=num_queries,
            groups=groups if group_proposals else 1,
            anchor_scale=anchor_scale,
            anchor_fraction=anchor_fraction,
            margin=anchor_margin,
            dense=dense_aux,
            distinct=distinct,
        )
        layer = {"num_heads": num_heads, "cross_heads": cross_heads or num_heads, "num_points": num_points}
        layer |= {"ffn_dim": ffn_dim, "dropout": dropout, "num_levels": len(self.in_channels)}
        self.decoder = DeformableDecoder(dim, num_classes, num_layers=num_layers, refine=refine, **layer)
        self.query_embed = nn.Embedding(groups * (1 if content == "tokens" else num_queries), dim)
        self.query_boxes = nn.Embedding(groups * num_queries, 4) if learned_reference else None
        if self.query_boxes is not None:
            nn.init.zeros_(self.query_boxes.weight)
        self.denoising = Denoising(dim, num_classes, num_queries=denoising) if denoising else None
        self.needs_masks, self.masks = masks, None
        if masks:
            finest = (self.in_channels[0], self.strides[0], dim)
            self.masks = make_masks(mask_branch, *finest, num_layers=num_layers)
        points = mask_points if masks else 0
        self.criterion = SetCriterion(class_loss=class_loss, weights=loss_weights, mask_points=points)
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
        """Every group starts from its own proposals, or from those that all groups share, with content of its own."""
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

    def metric(self, data: Any) -> str:
        return "coco_mask" if self.needs_masks else "coco_box"
