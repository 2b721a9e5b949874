"""Two-stage query selection: every token proposes a box, and the best proposals become queries.

B images, G groups of queries, N tokens of all levels and images, Q queries of a group, K classes, C channels
"""

from math import floor
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from vitdet.boxes import cxcywh_to_xyxy
from vitdet.config import options
from vitdet.heads.layers import BoxMLP, class_bias, shift_boxes
from vitdet.heads.options import RANGES
from vitdet.losses.detection import Proposals
from vitdet.structures import Features


@options(RANGES)
class Selection:
    """How the queries of a DETR head start: from which tokens of the image, where, and with what content.

    Args:
        content: the content vectors that queries start from: the selected `tokens`, or `learned` vectors.
        learned_reference: whether each query also learns a shift of its reference box relative to its proposal.
        per_group: whether each group of queries selects proposals by a separate predictor; otherwise all groups share
            their proposals.
        anchor_scale: side of the box that each token starts from, in strides. This is a fixed size in pixels, so the
            size and the aspect ratio of the image make no difference to the prediction for an object.
        anchor_fraction: side of the box that each token starts from, as a fraction of the image instead of in strides;
            twice as much on the second level, and so on (Deformable DETR, arXiv:2010.04159).
        anchor_margin: tokens whose centre is closer than this fraction of the image to its border are set to zero, as
            is the box that they start from.
        distinct: IoU above which proposals overlap too much: of such proposals the best comes first, the others after
            all that are distinct, as in DDQ (arXiv:2303.12776); `None` ranks proposals by score alone. Queries that
            start from nearly equal boxes can hardly learn which of them is to find the object.

    Example:
        >>> Selection(content="learned", distinct=None).anchor_scale
        4.0
    """

    content: Literal["tokens", "learned"] = "tokens"
    learned_reference: bool = False
    per_group: bool = False
    anchor_scale: float = 4.0
    anchor_fraction: float | None = None
    anchor_margin: float = 0.0
    distinct: float | None = 0.7


def anchors(features: Features, device, *, scale: float, fraction: float | None) -> tuple[Tensor, Tensor]:
    """A box `(N, 4)` around the centre of each token, as a fraction of its image, and the number `(N,)` of the image.

    Its side is `scale` strides, or `fraction` of the image, twice as much on the second level, and so on; see
    `Selection`.
    """
    boxes, images = [], []
    for number, level in enumerate(features):
        for i, (height, width) in enumerate(features.sizes):
            centres = level.centres(i, (height, width)).to(device)
            side = scale * level.stride
            size = (side / width, side / height) if fraction is None else (fraction * 2.0**number,) * 2
            boxes.append(torch.cat([centres, centres.new_tensor(size).expand_as(centres)], 1))
            images.append(torch.full((len(centres),), i, device=device))
    return torch.cat(boxes), torch.cat(images)


# the number of candidates for each query, from which distinct proposals are chosen
CANDIDATES = 3


class Proposer(nn.Module):
    """Scores tokens, and turns them into boxes."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        self.classify, self.box = nn.Linear(dim, num_classes), BoxMLP(dim)
        nn.init.constant_(self.classify.bias, class_bias())

    def boxes(self, anchors_cxcywh: Tensor, x: Tensor) -> Tensor:
        """Boxes `(..., 4)` of projected tokens `(..., C)` on their anchors."""
        return shift_boxes(anchors_cxcywh, self.box(x))


class QuerySelection(nn.Module):
    """Scores every token, and turns the `num_queries` best tokens of each image into proposals.

    Args:
        dim: channels of the tokens.
        num_classes: how many classes there are.
        num_queries: queries of a group.
        options: see `Selection`.
        groups: the number of predictors: in training each selects the proposals of a group; inference uses the first.
        dense: whether a further pair of predictors learns from every token near an object (one-to-many matching), in
            training only.
        proposer: how tokens are scored and turned into boxes.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        num_queries: int,
        options: Selection,
        groups: int = 1,
        dense: bool = False,
        proposer: type[Proposer] = Proposer,
    ) -> None:
        super().__init__()
        self.num_queries, self.distinct, self.margin = num_queries, options.distinct, options.anchor_margin
        self.anchors = {"scale": options.anchor_scale, "fraction": options.anchor_fraction}
        self.groups = nn.ModuleList(proposer(dim, num_classes) for _ in range(groups))
        self.dense_classify = nn.Linear(dim, num_classes) if dense else None
        self.dense_box = BoxMLP(dim) if dense else None
        if self.dense_classify is not None:
            nn.init.constant_(self.dense_classify.bias, class_bias())

    def forward(self, x: Tensor, features: Features) -> Proposals:
        boxes, images = anchors(features, x.device, **self.anchors)
        centres = boxes[:, :2]
        if self.margin:
            inner = ((centres > self.margin) & (centres < 1 - self.margin)).all(-1, keepdim=True)
            x, boxes = x * inner, boxes * inner
        groups = self.groups if self.training else self.groups[:1]
        chosen = [self._choose(group, x, boxes, centres, features) for group in groups]
        proposals = Proposals(*(torch.stack(parts, 1) for parts in zip(*(parts for parts, _ in chosen))))
        if self.training and self.dense_classify is not None:
            x = chosen[0][1]
            proposals.dense_logits = self.dense_classify(x)
            proposals.dense_boxes = shift_boxes(boxes, self.dense_box(x))
            proposals.images, proposals.centres = images, centres
        return proposals

    def _choose(self, group: Proposer, x: Tensor, boxes: Tensor, centres: Tensor, features: Features):
        """The selected tokens `(B, Q, C)` of a group, their logits and boxes, and all tokens projected `(N, C)`."""
        x = group.project(x)
        logits = group.classify(x)  # (N, K)
        chosen = self._top(logits, centres, features)
        if self.distinct is not None:
            chosen = self._distinct(group, chosen, x, logits, boxes)  # (B, Q)
        tokens = x[chosen]
        return (tokens, logits[chosen], group.boxes(boxes[chosen], tokens)), x

    @torch.no_grad()
    def _distinct(self, group: Proposer, candidates: Tensor, x: Tensor, logits: Tensor, boxes: Tensor) -> Tensor:
        """Index `(B, Q)` of the best of the candidates `(B, CANDIDATES * Q)`: first those that do not overlap too much,
        then the rest."""
        corners = cxcywh_to_xyxy(group.boxes(boxes[candidates], x[candidates]).float())
        scores = logits[candidates].float().amax(-1)
        chosen = []
        for mine, image_corners, image_scores in zip(candidates, corners, scores):
            distinct = nms(image_corners, image_scores, self.distinct)
            rest = torch.ones_like(mine, dtype=torch.bool).index_fill(0, distinct, False)
            chosen.append(mine[torch.cat([distinct, rest.nonzero().squeeze(1)])[: self.num_queries]])
        return torch.stack(chosen)

    @torch.no_grad()
    def _top(self, logits: Tensor, centres: Tensor, features: Features) -> Tensor:
        """Index `(B, Q)` of the best tokens of each image, best first; `CANDIDATES` times as many for `_distinct`.

        If an image has fewer tokens, they are repeated.
        """
        count = self.num_queries * (1 if self.distinct is None else CANDIDATES)
        score = logits.float().amax(-1)
        # tokens in the padding come last, see `tokens_inside`
        score = score.masked_fill((centres > 1 + 1e-6).any(-1), -torch.inf)
        chosen = []
        for mine, inside in zip(image_tokens(features, score.device), tokens_inside(features)):
            top = score[mine].topk(min(count, inside)).indices
            if len(top) < count:
                top = top.repeat(-(-count // len(top)))[:count]
            chosen.append(mine[top])
        return torch.stack(chosen)


def image_tokens(features: Features, device) -> list[Tensor]:
    """For each image, the index of its tokens among the tokens of all levels and images."""
    ranges: list[list[Tensor]] = [[] for _ in features.sizes]
    first = 0
    for level in features:
        for tokens, length in zip(ranges, level.lengths):
            tokens.append(torch.arange(first, first + length, device=device))
            first += length
    return [torch.cat(tokens) for tokens in ranges]


def tokens_inside(features: Features) -> list[int]:
    """How many tokens of each image have their centre inside the image, at least 1.

    The last row and column of a fine level may lie in the padding.
    """
    counts = []
    for i, size in enumerate(features.sizes):
        inside = 0
        for level in features:
            h, w = (min(n, floor(side / level.stride - 0.5) + 1) for n, side in zip(level.grids[i], size))
            inside += h * w
        counts.append(max(inside, 1))
    return counts
