"""The heads that find boxes, for images of equal size: `DETRHead`, `DEIMHead` and `PlainDETRHead`.

B images, H×W their size, T tokens of an image in all levels, Q queries, D detections, K classes, C channels
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitdet.backbone.sequences import EqualSequences
from vitdet.boxes import cxcywh_to_xyxy
from vitdet.deploy.export.dynamic import Size, cells, divided, pick, real
from vitdet.deploy.export.nms import suppressed
from vitdet.deploy.export.sampling import DenseMemory
from vitdet.heads.deim.head import DEIMHead
from vitdet.heads.detr.head import DETRHead
from vitdet.heads.detr.plain import PlainDETRHead
from vitdet.heads.layers import shift_boxes, sine_embedding
from vitdet.heads.masks.branches import PlainMasks, RefinedMasks
from vitdet.heads.queries.denoising import Queries
from vitdet.heads.queries.selection import CANDIDATES, QuerySelection


def centres(maps: Tensor, stride: float, size: tuple[Size, Size]) -> Tensor:
    """x and y `(h*w, 2)` of the tokens of maps `(B, h, w, C)`, as fractions of images of `size` `(H, W)`."""
    h, w = maps.shape[1], maps.shape[2]
    y, x = ((cells(side) + 0.5) * (stride / real(whole)) for side, whole in zip((h, w), size))
    return torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1).flatten(0, 1)


def decoded(
    logits: Tensor, boxes_cxcywh: Tensor, size: tuple[Size, Size], count: int, num_classes: int
) -> tuple[Tensor, ...]:
    """Boxes, scores and labels of the best (query, class) pairs, see `best_detections`, and their queries `(B, D)`."""
    scores, index = logits.sigmoid().flatten(1).topk(count, dim=1)
    queries = index // num_classes
    scale = torch.stack([real(side) for side in (size[1], size[0], size[1], size[0])])
    boxes = pick(cxcywh_to_xyxy(boxes_cxcywh).clamp(0, 1) * scale, queries)
    return boxes, scores, index % num_classes, queries


class Selected(nn.Module):
    """Query selection: from tokens `(B, T, C)` to those that queries start from, `(B, Q, C)`, and their boxes."""

    def __init__(self, selection: QuerySelection) -> None:
        super().__init__()
        self.selection = selection
        self.proposer: Any = selection.groups[0]

    def forward(
        self, x: Tensor, maps: Sequence[Tensor], strides: Sequence[float], size: tuple[Size, Size]
    ) -> tuple[Tensor, Tensor]:
        anchors = self._anchors(maps, strides, size)  # (T, 4)
        places, margin = anchors[:, :2], self.selection.margin
        if margin:
            inner = ((places > margin) & (places < 1 - margin)).all(-1, keepdim=True).float()
            x, anchors = x * inner, anchors * inner
        batch, length = x.shape[0], x.shape[1]
        x = self.proposer.project(x.flatten(0, 1))
        scores = divided(self.proposer.classify(x).amax(-1), 0, (batch, length))
        chosen = self._top(scores, (places > 1 + 1e-6).any(-1))
        x = divided(x, 0, (batch, length))
        tokens, boxes = self._proposals(x, anchors, chosen)
        if self.selection.distinct is None:
            return tokens, boxes
        best = scores.flatten()[(chosen + torch.arange(batch)[:, None] * length).flatten()].view_as(chosen)
        order = self._distinct(cxcywh_to_xyxy(boxes), best)
        return pick(tokens, order), pick(boxes, order)

    def _anchors(self, maps: Sequence[Tensor], strides: Sequence[float], size: tuple[Size, Size]) -> Tensor:
        """As `anchors` of `vitdet.heads.queries.selection`, of one image."""
        scale, fraction = self.selection.anchors["scale"], self.selection.anchors["fraction"]
        boxes = []
        for number, (level, stride) in enumerate(zip(maps, strides)):
            points = centres(level, stride, size)
            if fraction is None:
                side = torch.stack([scale * stride / real(size[1]), scale * stride / real(size[0])])
            else:
                side = torch.tensor([fraction * 2.0**number] * 2)
            boxes.append(torch.cat([points, side.expand_as(points)], 1))
        return torch.cat(boxes)

    def _top(self, scores: Tensor, outside: Tensor) -> Tensor:
        """Index `(B, n)` of the best tokens, best first; if an image has fewer inside it, they are repeated."""
        count = self.selection.num_queries * (1 if self.selection.distinct is None else CANDIDATES)
        scores = scores.masked_fill(outside, -torch.inf)
        # with so many that have no chance, there are always `count` to choose from
        scores = F.pad(scores, (0, count), value=-torch.inf)
        top = scores.topk(count, dim=1).indices
        inside = (~outside).long().sum().clamp(min=1, max=count)
        return top[:, torch.arange(count) % inside]

    def _proposals(self, x: Tensor, anchors: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        tokens = pick(x, chosen)
        start = anchors[chosen.flatten()]
        boxes = self.proposer.boxes(start, tokens.flatten(0, 1))
        return tokens, divided(boxes, 0, (chosen.shape[0], chosen.shape[1]))

    def _distinct(self, boxes_xyxy: Tensor, scores: Tensor) -> Tensor:
        """Index `(B, Q)` of the best of the candidates: first those that do not overlap too much, then the rest."""
        behind = suppressed(boxes_xyxy, scores, self.selection.distinct or 0.0)
        count = behind.shape[1]
        place = behind.float() * count + cells(count)
        return (-place).topk(self.selection.num_queries, dim=1).indices


class DeformableGraph(nn.Module):
    """`DETRHead` or `DEIMHead`, from levels `(B, h, w, C)` to named outputs."""

    def __init__(self, head: DETRHead | DEIMHead) -> None:
        super().__init__()
        self.head: Any = head
        self.selected = Selected(head.selection)
        self.points: list[int] = self.head.decoder.layers[0].cross_attention.points
        self.count = min(head.max_detections, head.num_queries * head.num_classes)

    def forward(self, maps: Sequence[Tensor], rest: None, size: tuple[Size, Size]) -> dict[str, Tensor]:
        head, batch = self.head, maps[0].shape[0]
        levels = [proj(level) for proj, level in zip(head.input_proj, maps)]
        memory = DenseMemory(levels, head.strides, size, self.points)
        tokens, boxes = self.selected(memory.tokens, levels, head.strides, size)
        content, boxes = self._queries(tokens, boxes)
        sequences = EqualSequences(batch, 1, head.num_queries, scale=1.0)
        packed: tuple[Any, ...] = (content.flatten(0, 1), boxes.flatten(0, 1), None, sequences)
        queries = Queries(*packed)
        if isinstance(head, DEIMHead):
            found = head.decoder(queries, memory)
            logits, boxes, states = found.logits, found.boxes_cxcywh, None
        else:
            logits, boxes, states = head.decoder(queries, memory)
        shape = (batch, head.num_queries)
        logits, boxes = divided(logits[-1], 0, shape), divided(boxes[-1], 0, shape)
        boxes, scores, labels, which = decoded(logits, boxes, size, self.count, head.num_classes)
        outputs = {"boxes": boxes, "scores": scores, "labels": labels}
        if states is not None and head.masks is not None:
            outputs["masks"] = self._masks(maps[0], pick(divided(states[-1], 0, shape), which))
        return outputs

    def _queries(self, tokens: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Content `(B, Q, C)` and boxes `(B, Q, 4)` of the queries, as in `DETRHead._queries`."""
        head = self.head
        if isinstance(head, DEIMHead):
            return tokens, boxes
        content = head.query_embed.weight.view(head.groups, -1, tokens.shape[2])[0]
        content = content + tokens if head.content == "tokens" else content.expand_as(tokens)
        if head.query_boxes is not None:
            boxes = shift_boxes(boxes, head.query_boxes.weight.view(head.groups, -1, 4)[0])
        return content, boxes

    def _masks(self, level: Tensor, states: Tensor) -> Tensor:
        """Logits `(B, D, h, w)` of the masks of queries with states `(B, D, C)`."""
        masks = self.head.masks
        if isinstance(masks, PlainMasks):
            return products(masks.embed(states), masks.pixels.up(level))
        if not isinstance(masks, RefinedMasks):
            raise TypeError(f"{type(masks).__name__} can't be exported")
        level = masks._resize(level)
        for block in masks.blocks:
            level = block(level)
        embeddings = masks.embed(states + masks.mlp(masks.norm(states)))
        return products(embeddings, masks.pixels(level)) + masks.bias


def products(embeddings: Tensor, pixels: Tensor) -> Tensor:
    """Dot products `(B, D, h, w)` of embeddings `(B, D, C)` with pixel features `(B, h, w, C)`."""
    found = embeddings @ pixels.flatten(1, 2).transpose(1, 2)
    return divided(found, 2, (pixels.shape[1], pixels.shape[2]))


class PlainGraph(nn.Module):
    """`PlainDETRHead`, from levels `(B, h, w, C)` to named outputs."""

    def __init__(self, head: PlainDETRHead) -> None:
        super().__init__()
        self.head: Any = head

    def forward(self, maps: Sequence[Tensor], rest: None, size: tuple[Size, Size]) -> dict[str, Tensor]:
        head, level = self.head, maps[-1]
        memory = head.input_proj(level.flatten(1, 2))
        points = centres(level, head.strides[-1], size).flip(-1)
        keys = memory + sine_embedding(points, head.dim // 2)
        queries = head.queries.weight.expand(level.shape[0], -1, -1)
        x = torch.zeros_like(queries)
        for layer in head.layers:
            q = x + queries
            x = layer.norm1(x + layer.self_attention(q, q, x)[0])
            x = layer.ffn(layer.norm2(x + layer.cross_attention(x + queries, keys, memory)[0]))
        x = head.norm(x)
        boxes, scores, labels, _ = decoded(
            head.classify(x), head.box(x).sigmoid(), size, head.num_queries, head.num_classes
        )
        return {"boxes": boxes, "scores": scores, "labels": labels}
