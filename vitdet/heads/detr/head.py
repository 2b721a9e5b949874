"""The deformable DETR head: features -> proposals -> queries -> boxes.

# B images, G groups, Q queries, N tokens, C channels, K classes, L layers
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitdet.heads.base import Head
from vitdet.heads.detr.criterion import DETROutputs, QueryMasks, SetCriterion, best_detections
from vitdet.heads.detr.decoder import DeformableDecoder, Queries
from vitdet.heads.detr.deformable import Memory
from vitdet.heads.detr.denoising import Denoising, Noised
from vitdet.heads.detr.selection import Proposals, QuerySelection
from vitdet.heads.mask.pixels import MaskEmbedding, PixelBranch
from vitdet.losses import ClassLoss
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
        groups: sets of queries in training, each matched on its own (Group DETR, arXiv:2207.13085); inference uses the first.
        denoising: about how many denoising queries an image has in training; 0 turns them off.
        dense_aux: also train every token near an object to find it (one-to-many); costs nothing at inference.
        content: what queries start from: the selected `tokens`, or `learned` vectors.
        refine: `iterative` moves the reference boxes layer by layer, `fixed` keeps the proposals.
        anchor_scale: side of the box that each token starts from, in strides.
        class_loss: `mal`, `ia_bce` or `focal`.
        loss_weights: weights other than the defaults, by term: `{class: 1, box: 5, giou: 2}`, each also with `aux_`, `enc_`, `dn_`, `dense_`; with masks
            also `{mask: 5, dice: 5}` and their `aux_`.
        max_detections: how many boxes `predict` returns for an image; `num_queries` if not given.
        masks: find the mask of every object, too (instance segmentation), in the manner of RF-DETR-Seg; scored by mask AP.
        mask_points: points at which the loss looks at each mask.
    """

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
        num_points: int = 4,
        ffn_dim: int = 1024,
        dropout: float = 0.0,
        groups: int = 1,
        denoising: int = 100,
        dense_aux: bool = False,
        content: Literal["tokens", "learned"] = "tokens",
        refine: Literal["iterative", "fixed"] = "iterative",
        anchor_scale: float = 4.0,
        class_loss: ClassLoss = "mal",
        loss_weights: dict[str, float] | None = None,
        max_detections: int | None = None,
        masks: bool = False,
        mask_points: int = 1024,
    ) -> None:
        super().__init__()
        self.in_channels, self.strides, self.num_classes = list(in_channels), list(strides), num_classes
        self.num_queries, self.groups, self.content = num_queries, groups, content
        self.max_detections = max_detections or num_queries
        self.input_proj = nn.ModuleList(nn.Identity() if c == dim else nn.Linear(c, dim) for c in in_channels)
        self.selection = QuerySelection(
            dim, num_classes, num_queries=num_queries, anchor_scale=anchor_scale, dense=dense_aux
        )
        self.decoder = DeformableDecoder(
            dim,
            num_classes,
            num_layers=num_layers,
            refine=refine,
            num_levels=len(self.in_channels),
            num_heads=num_heads,
            num_points=num_points,
            ffn_dim=ffn_dim,
            dropout=dropout,
        )
        nn.init.constant_(self.decoder.classify.bias, self.selection.classify.bias[0].item())
        self.query_embed = nn.Embedding(groups * (1 if content == "tokens" else num_queries), dim)
        self.denoising = Denoising(dim, num_classes, num_queries=denoising) if denoising else None
        self.needs_masks = masks
        self.pixels = PixelBranch(self.in_channels[0], self.strides[0], dim) if masks else None
        self.mask_embed = MaskEmbedding(dim, dim) if masks else None
        points = mask_points if masks else 0
        self.criterion = SetCriterion(class_loss=class_loss, weights=loss_weights, mask_points=points)
        self.loss_weights = self.criterion.weights

    def forward(self, features: Features, targets: list[Target] | None = None) -> DETROutputs:
        """Boxes and logits after each layer. Denoising queries are added where `targets` are given."""
        x = torch.cat([proj(level.x) for proj, level in zip(self.input_proj, features)])
        proposals = self.selection(x, features)
        queries = self._queries(proposals)
        noised = self.denoising(targets) if self.denoising is not None and targets is not None else None
        logits, boxes, states = self.decoder(_append(queries, noised), Memory(x, features))
        B, Q = proposals.logits.shape[:2]
        num = len(queries.images)
        outputs = DETROutputs(
            logits[:, :num].unflatten(1, (B, -1, Q)),
            boxes[:, :num].unflatten(1, (B, -1, Q)),  # (L, B*G*Q, K) -> (L, B, G, Q, K)
        )
        if self.pixels is not None:
            embeddings = self.mask_embed(states[:, :num]).unflatten(1, (B, -1, Q))
            outputs.masks = QueryMasks(embeddings, self.pixels(features), features.sizes)
        if targets is not None:
            outputs.proposals = proposals
        if noised is not None:
            outputs.noised, outputs.noised_logits, outputs.noised_boxes = noised, logits[:, num:], boxes[:, num:]
        return outputs

    def _queries(self, proposals: Proposals) -> Queries:
        """Every group starts from the same proposals, with content of its own."""
        B, Q = proposals.logits.shape[:2]
        G = self.groups if self.training else 1
        content = self.query_embed.weight.view(self.groups, -1, self.query_embed.embedding_dim)[:G]  # (G, 1 or Q, C)
        content = content.expand(B, G, Q, -1)
        if self.content == "tokens":
            content = content + proposals.tokens.detach().unsqueeze(1)
        boxes = proposals.boxes_cxcywh.detach().unsqueeze(1).expand(B, G, Q, 4)
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


def _append(queries: Queries, noised: Noised | None) -> Queries:
    if noised is None:
        return queries
    return Queries(
        torch.cat([queries.content, noised.content]),
        torch.cat([queries.boxes_cxcywh, noised.boxes_cxcywh]),
        torch.cat([queries.images, noised.images]),
        queries.lengths + noised.lengths,
    )
