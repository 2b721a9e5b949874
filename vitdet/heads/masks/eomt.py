"""EoMT, a mask transformer inside the ViT: queries join each image's tokens in the ViT's last blocks.

Kerssies et al. 2025, "Your ViT is Secretly an Image Segmentation Model" (arXiv:2503.19108).

B images, Q queries of an image, C channels, P prefix tokens, h×w a grid of tokens
L predictions: in training before each of these blocks and after the last, at inference only after the last
"""

from collections.abc import Sequence
from math import log2

import torch
from torch import Tensor, nn

from vitdet.backbone.necks import Expand
from vitdet.errors import UserError
from vitdet.heads.masks.base import MaskTask, QueryMaskHead
from vitdet.heads.masks.inference import MaskRules
from vitdet.heads.masks.pixels import MaskEmbedding, on_maps
from vitdet.heads.options import RANGES
from vitdet.losses.points import extents, sample_points
from vitdet.losses.segmentation import MaskCriterion, MaskOutputs
from vitdet.ranges import ranged
from vitdet.structures import Features, Level, Target, centres


class Upscale(nn.Module):
    """Doubles the resolution of a map: transposed convolution, GELU, 3×3 depthwise convolution, LayerNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand, self.norm = Expand(channels, channels), nn.LayerNorm(channels, eps=1e-6)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, h, w, C)` to `(b, 2*h, 2*w, C)`."""
        x = nn.functional.gelu(self.expand(x)).permute(0, 3, 1, 2)  # (b, h, w, C) -> (b, C, h, w)
        return self.norm(self.depthwise(x).permute(0, 2, 3, 1))


class EoMTHead(QueryMaskHead):
    """Instance, semantic or panoptic segmentation by the ViT itself, whose last blocks the backbone must leave to the
    head (`tail: 3`, `neck: null`).

    In training, queries at first attend only inside the mask that they predict so far; this masked attention is
    removed block by block as training proceeds, so that inference works without it. Kerssies et al. 2025 (EoMT,
    arXiv:2503.19108).

    Args:
        in_channels: channels of the feature level, which is the ViT's output.
        strides: its stride in pixels, which is the patch size.
        num_classes: how many classes there are.
        task: `instances`, `semantic` or `panoptic`; if not given, the kind of labels of the data set.
        num_queries: queries of an image: at most so many segments can be found.
        num_points: the number of points of each mask at which the loss is computed.
        mask_stride: the stride of the masks, in pixels.
        annealing: the fractions of training between which masked attention is removed, block after block; each block
            takes a quarter of that time.
        loss_weights: weights of loss terms that replace the defaults `{class: 2, mask: 5, dice: 5}`; the prefix `aux_`
            is for all predictions but the last.
        rules: how classes and masks become a prediction, see `MaskRules`.
        tile: side in pixels of the square tiles in which an image is seen at inference, see `SegmentationHead`.

    Raises:
        UserError: an argument is out of range, `mask_stride` is larger than the patch size, `loss_weights` names a term
            that does not exist, or `tile` is given for another task than `semantic`.

    Example:
        >>> from vitdet import Backbone
        >>> backbone = Backbone("vit_tiny_patch16_224", tail=3, neck=None)
        >>> head = EoMTHead(backbone.out_channels, backbone.strides, num_classes=133)
        >>> head.queries.weight.shape
        torch.Size([100, 192])
    """

    runs_tail = True

    @ranged(RANGES)
    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[float],
        num_classes: int,
        *,
        task: MaskTask | None = None,
        num_queries: int = 100,
        num_points: int = 2048,
        mask_stride: int = 4,
        annealing: tuple[float, float] = (1 / 6, 5 / 6),
        loss_weights: dict[str, float] | None = None,
        rules: MaskRules = MaskRules(),
        tile: int | None = None,
    ) -> None:
        super().__init__(in_channels, strides, num_classes, task=task, rules=rules, tile=tile)
        self.annealing = tuple(annealing)
        dim, steps = self.in_channels[-1], round(log2(self.strides[-1] / mask_stride))
        if steps < 0:
            raise UserError(f"mask_stride is {mask_stride}; wanted at most the backbone's stride, {self.strides[-1]}")
        self.pixel_stride = self.strides[-1] / 2**steps
        self.queries = nn.Embedding(num_queries, dim)
        self.upscale = nn.Sequential(*(Upscale(dim) for _ in range(steps)))
        self.classify, self.embed = nn.Linear(dim, num_classes + 1), MaskEmbedding(dim, dim, activation=nn.GELU)
        self.criterion = MaskCriterion(num_points, loss_weights)
        self.loss_weights = self.criterion.weights

    def forward(self, features: Features, targets: list[Target] | None = None) -> MaskOutputs:
        rest = features.unfinished
        if rest is None:
            raise UserError("EoMTHead runs the backbone's last blocks: set model.backbone.tail (3 or 4) and neck: null")
        Q = self.queries.num_embeddings
        x = self._with_queries(rest.x, rest.lengths)
        lengths = [Q + length for length in rest.lengths]
        predictions = []
        for i in range(len(rest.blocks)):
            allowed = None
            if self.training:
                predictions.append(self._predictions(rest.norm(x), lengths, features))
                allowed = self._allowed(predictions[-1], features, i / max(len(rest.blocks) - 1, 1))
            x = rest.run(i, x, Q, allowed)
        predictions.append(self._predictions(rest.norm(x), lengths, features))
        queries = torch.stack([q for q, _ in predictions])  # (L, B, Q, C)
        return MaskOutputs(self.classify(queries), self.embed(queries), [p for _, p in predictions], features.sizes)

    def _with_queries(self, x: Tensor, lengths: list[int]) -> Tensor:
        """Tokens `(N, C)` with a copy of the queries in front of those of each image."""
        return torch.cat([part for image in x.split(lengths) for part in (self.queries.weight.to(x.dtype), image)])

    def _predictions(self, x: Tensor, lengths: list[int], features: Features) -> tuple[Tensor, Level]:
        """The states `(B, Q, C)` of the queries and the pixel features, in the order of the batch."""
        rest, Q = features.unfinished, self.queries.num_embeddings
        parts: list[Tensor] = [None] * len(lengths)
        for place, image in zip(rest.order, x.split(lengths)):
            parts[place] = image
        grids: list[tuple[int, int]] = [None] * len(lengths)
        for place, grid in zip(rest.order, rest.grids):
            grids[place] = grid
        tokens = Level(torch.cat([image[Q + rest.num_prefix :] for image in parts]), grids, self.strides[-1])
        return torch.stack([image[:Q] for image in parts]), on_maps(tokens, self.upscale, self.pixel_stride)

    @torch.no_grad()
    def _allowed(self, prediction: tuple[Tensor, Level], features: Features, depth: float) -> list[Tensor] | None:
        """Which token may attend to which, bool `(Q + P + h*w, Q + P + h*w)` for each image, in the blocks' order.

        Only queries are restricted: they may not attend to patches outside their mask. A query is restricted with a
        probability that falls from 1 to 0 in the block's part of training; `None` once it is 0.

        Args:
            prediction: states of the queries, and the pixel features, as in `_predictions`.
            depth: the position of the block, from 0 for the first to 1 for the last.
        """
        first, last = self.annealing
        if self.progress >= last:
            return None
        part = (last - first) / 4
        start = first + (last - first - part) * depth
        done = min(1.0, max(0.0, (self.progress - start) / max(part, 1e-9)))
        held = (1 - done) ** 0.9
        if held <= 0:
            return None
        queries, pixels = prediction
        rest, Q = features.unfinished, self.queries.num_embeddings
        maps, covered, masks = pixels.maps(), extents(pixels, features.sizes), self.embed(queries)
        allowed = []
        for place, grid, length in zip(rest.order, rest.grids, rest.lengths):
            step = [self.strides[-1] / side for side in features.sizes[place]]
            points = centres(grid, step, pixels.x.device)
            inside = masks[place] @ sample_points(maps[place], points, covered[place]) > 0  # (Q, h*w)
            free = torch.rand(Q, 1, device=inside.device) >= held
            mask = inside.new_ones(Q + length, Q + length)
            mask[:Q, Q + rest.num_prefix :] = inside | free
            allowed.append(mask)
        return allowed
