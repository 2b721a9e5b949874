"""Two-stage query selection: every token proposes a box, the best ones become queries.

# B images, N tokens of all levels and images, Q queries, K classes, C channels
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from vitdet.boxes import cxcywh_to_xyxy
from vitdet.heads.layers import BoxMLP, class_bias, shift_boxes
from vitdet.structures import Features


@dataclass
class Proposals:
    """The selected tokens of each image: `tokens` `(B, Q, C)`, `logits` `(B, Q, K)`, `boxes_cxcywh` `(B, Q, 4)`.

    `dense_*` are the predictions of *all* tokens, for the dense auxiliary loss: `(N, K)`, `(N, 4)`, the image `(N,)` and the centre `(N, 2)` of each.
    """

    tokens: Tensor
    logits: Tensor
    boxes_cxcywh: Tensor
    dense_logits: Tensor | None = None
    dense_boxes: Tensor | None = None
    images: Tensor | None = None
    centres: Tensor | None = None


def anchors(features: Features, scale: float, device) -> tuple[Tensor, Tensor]:
    """A box `(N, 4)` on each token, `scale` strides wide and high, as a fraction of its image, and the image `(N,)` it belongs to.

    A fixed size in pixels, not in fractions, so that an object looks the same to its token in an image of any size and aspect.
    """
    boxes, images = [], []
    for level in features:
        for i, ((h, w), (height, width)) in enumerate(zip(level.grids, features.sizes)):
            y = (torch.arange(h, device=device) + 0.5) * (level.stride / height)
            x = (torch.arange(w, device=device) + 0.5) * (level.stride / width)
            box = torch.empty(h, w, 4, device=device)
            box[..., 0], box[..., 1] = x, y[:, None]
            box[..., 2], box[..., 3] = scale * level.stride / width, scale * level.stride / height
            boxes.append(box.flatten(0, 1))
            images.append(torch.full((h * w,), i, device=device))
    return torch.cat(boxes), torch.cat(images)


CANDIDATES = 3  # for each query


class QuerySelection(nn.Module):
    """Scores every token, and turns the `num_queries` best of each image into proposals.

    They are chosen to be distinct: of proposals that overlap by more than `distinct` (IoU) the best goes first, in the manner of DDQ, Zhang et al. 2023
    (arXiv:2303.12776); queries that start from the same place can hardly learn which of them is the one that counts.

    With `dense=True`, a second pair of predictors learns from every token near an object (one-to-many) and is used in training only.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        num_queries: int,
        anchor_scale: float = 4.0,
        dense: bool = False,
        distinct: float = 0.7,
    ) -> None:
        super().__init__()
        self.num_queries, self.anchor_scale, self.distinct = num_queries, anchor_scale, distinct
        self.project = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        self.classify = nn.Linear(dim, num_classes)
        self.box = BoxMLP(dim)
        self.dense_classify = nn.Linear(dim, num_classes) if dense else None
        self.dense_box = BoxMLP(dim) if dense else None
        for layer in (self.classify, self.dense_classify):
            if layer is not None:
                nn.init.constant_(layer.bias, class_bias())

    def forward(self, x: Tensor, features: Features) -> Proposals:
        boxes, images = anchors(features, self.anchor_scale, x.device)
        x = self.project(x)
        logits = self.classify(x)  # (N, K)
        chosen = self._distinct(self._top(logits, boxes, images, len(features.sizes)), x, logits, boxes)  # (B, Q)
        tokens = x[chosen]
        proposals = Proposals(tokens, logits[chosen], shift_boxes(boxes[chosen], self.box(tokens)))
        if self.training and self.dense_classify is not None:
            proposals.dense_logits = self.dense_classify(x)
            proposals.dense_boxes = shift_boxes(boxes, self.dense_box(x))
            proposals.images, proposals.centres = images, boxes[:, :2]
        return proposals

    @torch.no_grad()
    def _distinct(self, candidates: Tensor, x: Tensor, logits: Tensor, boxes: Tensor) -> Tensor:
        """Index `(B, Q)`: of the candidates `(B, CANDIDATES * Q)` the best that do not overlap too much, then the best of the rest."""
        corners = cxcywh_to_xyxy(shift_boxes(boxes[candidates], self.box(x[candidates])).float())
        scores = logits[candidates].float().amax(-1)
        chosen = []
        for mine, own_corners, own_scores in zip(candidates, corners, scores):
            distinct = nms(own_corners, own_scores, self.distinct)
            rest = torch.ones_like(mine, dtype=torch.bool).index_fill(0, distinct, False)
            chosen.append(mine[torch.cat([distinct, rest.nonzero().squeeze(1)])[: self.num_queries]])
        return torch.stack(chosen)

    @torch.no_grad()
    def _top(self, logits: Tensor, boxes: Tensor, images: Tensor, num_images: int) -> Tensor:
        """Index `(B, CANDIDATES * Q)` of the best tokens, best first. An image with fewer tokens repeats them."""
        count = CANDIDATES * self.num_queries
        score = logits.float().amax(-1)
        outside = (boxes[:, :2] > 1).any(-1)  # a fine level's last row or column may lie wholly in the padding
        score = score.masked_fill(outside, -torch.inf)
        chosen = []
        for i in range(num_images):
            mine = (images == i).nonzero().squeeze(1)
            valid = score[mine].isfinite().sum().item() if len(mine) < 2 * count else len(mine)
            top = score[mine].topk(min(count, max(valid, 1))).indices
            if len(top) < count:
                top = top.repeat(-(-count // len(top)))[:count]
            chosen.append(mine[top])
        return torch.stack(chosen)
