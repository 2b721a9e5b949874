"""From what was watched of a model to what it looked at for an object or a place.

H×W the image in pixels, h×w a grid of tokens, heads, M tokens that are attended to
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitdet.backbone import Backbone
from vitdet.backbone.windows import window_layout
from vitdet.explain.arrays import AttentionMap, SamplingPoints, Subject
from vitdet.explain.watch import Watched
from vitdet.heads import EoMTHead
from vitdet.losses.points import extents, sample_points


@dataclass
class Look:
    """Finds what was looked at for a subject, in what was watched.

    Attributes:
        backbone, head: the model.
        seen: what was watched.
        chosen: the blocks of the ViT that are shown.
        seen_size: `(H, W)` of the image as the model sees it.
        size: `(H, W)` of the original.
    """

    backbone: Backbone
    head: Any
    seen: Watched
    chosen: list[int]
    seen_size: tuple[int, int]
    size: tuple[int, int]

    def at(self, subject: Subject) -> None:
        """Adds to a subject what was looked at."""
        patch = self._patch(subject.place)
        subject.blocks = [self._block(number, patch) for number in self.chosen]
        if subject.query is None:
            return
        for attention, grid, stride in self.seen.levels:
            weights, tokens = attention.weights(subject.query), torch.arange(grid[0] * grid[1])
            name, covers = f"level of stride {stride:g}", self._covers(stride, grid)
            subject.query_maps.append(_map(name, weights, tokens, grid, covers))
        if isinstance(self.head, EoMTHead):
            depth, tail = len(self.backbone.trunk.blocks), self.backbone.trunk.tail
            subject.query_maps = [self._block(n, None, query=subject.query) for n in range(depth - tail, depth)]
        if self.seen.sampled is not None:
            subject.points = self._points(subject.query)

    def strongest(self, outputs: Any, point: tuple[float, float]) -> int:
        """The query whose score times its mask is the largest at a point."""
        pixels, (height, width) = outputs.pixels[-1], self.size
        maps, covered = pixels.maps()[0].float(), extents(pixels, outputs.sizes)[0]
        place = maps.new_tensor([[point[0] / width, point[1] / height]])
        mask = outputs.embeddings[-1, 0].float() @ sample_points(maps, place, covered)[:, 0]
        scores = outputs.logits[-1, 0].float().softmax(-1)[:, :-1].amax(-1)
        return int((scores * mask.sigmoid()).argmax())

    def _covers(self, stride: float, grid: tuple[int, int]) -> tuple[float, float]:
        return self.seen_size[0] / (grid[0] * stride), self.seen_size[1] / (grid[1] * stride)

    def _patch(self, place: tuple[float, float]) -> int:
        """The number of the patch at a place of the original, row by row."""
        side, (h, w) = self.backbone.patch_size, self.seen.grid
        x, y = (p * seen / size for p, seen, size in zip(place, self.seen_size[::-1], self.size[::-1]))
        return min(int(y / side), h - 1) * w + min(int(x / side), w - 1)

    def _block(self, number: int, patch: int | None, query: int | None = None) -> AttentionMap:
        """What a patch, or a query that runs with the patches, attends to in a block."""
        trunk, attention = self.backbone.trunk, self.seen.blocks[number]
        h, w = self.seen.grid
        patches = torch.arange(h * w) + trunk.num_prefix
        if trunk.windows is not None:
            patches = window_layout(trunk.windows, (h, w), trunk.num_prefix, torch.device("cpu")).patches
        # queries of the head stand in front of all
        patches = patches + len(attention.k) - trunk.image_length((h, w), patches.device)
        weights = attention.weights(int(patches[patch]) if query is None else query)
        inside = trunk.windows is not None and number not in trunk.global_blocks
        name = f"block {number}" + (" (windows)" if inside else "")
        return _map(name, weights, patches, (h, w), self._covers(self.backbone.patch_size, (h, w)))

    def _points(self, query: int) -> SamplingPoints:
        sampled = self.seen.sampled
        assert sampled is not None
        scale = sampled.locations.new_tensor(self.size[::-1])
        centre, side = (sampled.references_cxcywh[query].float() * scale.repeat(2)).split(2)
        return SamplingPoints(
            (sampled.locations[query] * scale).cpu().numpy(),
            sampled.weights[query].cpu().numpy(),
            sampled.levels.cpu().numpy(),
            list(self.head.strides),
            torch.cat([centre - side / 2, centre + side / 2]).cpu().numpy(),
        )


def _map(
    name: str, weights: Tensor, patches: Tensor, grid: tuple[int, int], covers: tuple[float, float]
) -> AttentionMap:
    """The map of weights `(heads, M)`, of which those of the grid are at `patches` `(h*w,)`."""
    weights = weights.cpu()
    shown = weights[:, patches]
    rest = weights.sum(-1) - shown.sum(-1)
    return AttentionMap(name, shown.unflatten(1, grid).numpy(), rest.clamp(min=0).numpy(), covers)
