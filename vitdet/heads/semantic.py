"""The simplest head for semantic segmentation: a linear classifier of every token, a baseline for other heads.

K classes, N tokens of all images, C channels, h×w a grid of tokens, H×W an image in pixels
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitdet.errors import UserError
from vitdet.heads.masks.base import SegmentationHead
from vitdet.heads.masks.inference import semantic
from vitdet.heads.masks.pixels import full_size
from vitdet.heads.options import RANGES
from vitdet.losses import mean_over_ranks
from vitdet.losses.points import extents
from vitdet.masks import VOID
from vitdet.ranges import ranged, whole
from vitdet.structures import Features, Level, Prediction, Target


@dataclass
class SemanticOutputs:
    """`logits`, a level with K channels, and the `sizes` `(H, W)` of the images, in pixels."""

    logits: Level
    sizes: list[tuple[int, int]]


class SemanticHead(SegmentationHead):
    """Semantic segmentation by the sum of all levels, resampled to the finest grid, and a linear layer to the classes.

    It is trained by cross-entropy at the resolution of the image.

    Args:
        in_channels: channels of each feature level, finest first.
        strides: their strides in pixels.
        num_classes: how many classes there are.
        dim: the channels to which levels are projected before they are added up; with 0 only the finest level is
            used, and classified by a linear layer alone.
        tile: side in pixels of the square tiles in which an image is seen at inference, see `SegmentationHead`.

    Raises:
        UserError: an argument is out of range.

    Example:
        >>> SemanticHead([256, 256], [8, 16], num_classes=19).classify
        Linear(in_features=256, out_features=19, bias=True)
    """

    @ranged(RANGES | {"dim": whole(0)})
    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[float],
        num_classes: int,
        *,
        dim: int = 0,
        tile: int | None = None,
    ) -> None:
        super().__init__(in_channels, strides, num_classes, task="semantic", tile=tile)
        self.mix = nn.ModuleList(nn.Linear(c, dim) for c in in_channels) if dim else None
        self.norm = nn.LayerNorm(dim) if dim else nn.Identity()
        self.classify = nn.Linear(dim or self.in_channels[0], num_classes)
        self.loss_weights = {"semantic": 1.0}

    def forward(self, features: Features, targets: list[Target] | None = None) -> SemanticOutputs:
        finest = features[0]
        x = finest.x if self.mix is None else F.gelu(self.norm(self._mixed(features)))
        return SemanticOutputs(Level(self.classify(x), finest.grids, finest.stride), features.sizes)

    def _mixed(self, features: Features) -> Tensor:
        """The sum `(N, dim)` of all levels at the tokens of the finest level."""
        finest, total = features[0], 0.0
        for proj, level in zip(self.mix, features):
            x = proj(level.x)
            if level is not finest:
                maps = Level(x, level.grids, level.stride).maps()
                sizes = [(h * finest.stride, w * finest.stride) for h, w in finest.grids]
                covered = extents(level, sizes)
                x = torch.cat(
                    [full_size(m, grid, e).flatten(1).T for m, grid, e in zip(maps, finest.grids, covered)]
                ).to(x.dtype)
            total = total + x
        return total

    def loss(self, outputs: SemanticOutputs, targets: list[Target]) -> dict[str, Tensor]:
        """The mean cross-entropy of the pixels that have a class, in fp32."""
        with torch.autocast(outputs.logits.x.device.type, enabled=False):
            total, count = 0.0 * outputs.logits.x.float().sum(), 0
            for logits, extent, target in zip(outputs.logits.maps(), extents(outputs.logits, outputs.sizes), targets):
                truth = label_map(target)
                at_pixels = full_size(logits, tuple(truth.shape), extent)  # (K, H, W)
                total = total + F.cross_entropy(at_pixels[None], truth[None], ignore_index=VOID, reduction="sum")
                count += int((truth != VOID).sum())
            return {"semantic": total / mean_over_ranks(count, total.device)}

    def predict(self, outputs: SemanticOutputs, sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        return [semantic(scores, tuple(size)) for scores, size in zip(self._at(outputs, sizes), sizes)]

    def pixel_scores(self, outputs: SemanticOutputs) -> Iterator[Tensor]:
        return self._at(outputs, outputs.sizes)

    def _at(self, outputs: SemanticOutputs, sizes: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
        """The logits `(K, H, W)` of each image, resampled to its `(H, W)` in `sizes`."""
        parts = zip(outputs.logits.maps(), extents(outputs.logits, outputs.sizes), sizes)
        return (full_size(logits, tuple(size), extent) for logits, extent, size in parts)


def label_map(target: Target) -> Tensor:
    """The class of the mask that each pixel belongs to, `(H, W)` int64; `VOID` where it belongs to no mask.

    Raises:
        UserError: the target has no masks.
    """
    if target.masks is None:
        raise UserError("a semantic head learns from masks, but the targets have none; give data with masks")
    out = torch.full(target.masks.shape[-2:], VOID, device=target.masks.device)
    for mask, label in zip(target.masks, target.labels):
        out[mask] = label
    return out
