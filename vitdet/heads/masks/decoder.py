"""A small mask decoder: queries attend to the feature levels in turn, each inside the mask that it predicts so far.

It follows Mask2Former, Cheng et al. 2022 (arXiv:2112.01527), on packed levels.

B images, b of them with equal grids, Q queries of an image, C channels, L decoder layers, h×w a grid of tokens
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitdet.heads.layers import FeedForward, sine_embedding
from vitdet.heads.masks.base import MaskTask, QueryMaskHead
from vitdet.heads.masks.inference import MaskRules
from vitdet.heads.masks.pixels import MaskEmbedding, PixelBranch, attend_to
from vitdet.heads.options import RANGES
from vitdet.losses.points import extents, sample_points
from vitdet.losses.segmentation import MaskCriterion, MaskOutputs
from vitdet.ranges import check_divides, ranged
from vitdet.structures import Features, Level, Target, equal_grids


class MaskDecoderLayer(nn.Module):
    """Masked cross-attention to a level, self-attention among queries, and an MLP, each followed by a norm."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.self_attention = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, ffn_dim, dropout)

    def forward(self, x: Tensor, queries: Tensor, memory: Level, positions: Tensor, blocked: list[Tensor]) -> Tensor:
        """States of the queries after the layer, `(B, Q, C)`.

        Args:
            x, queries: states and learned positions of the queries, `(B, Q, C)` each.
            memory, positions: the packed level, and the positions `(N, C)` of its tokens.
            blocked: bool `(Q, h*w)` for each image, the tokens that a query may not attend to.
        """
        q, k, v = self.project(x, queries, memory, positions)
        out: list[Tensor] = [None] * len(x)
        for images in equal_grids(memory.grids):
            stacked = [torch.stack([part[i] for i in images]) for part in (q, k, v, blocked)]
            for i, found in zip(images, attend_to(*stacked, self.num_heads)):
                out[i] = found
        x = self.norm1(x + self.proj(torch.stack(out)))
        y = x + queries
        x = self.norm2(x + self.self_attention(y, y, x, need_weights=False)[0])
        return self.ffn(x)

    def project(
        self, x: Tensor, queries: Tensor, memory: Level, positions: Tensor
    ) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]:
        """Of the cross-attention the queries `(B, Q, C)`, and keys and values `(h*w, C)` of each image."""
        k = nn.functional.linear(memory.x + positions, *self._part(0)).split(memory.lengths)
        v = nn.functional.linear(memory.x, *self._part(1)).split(memory.lengths)
        return self.q(x + queries), k, v

    def _part(self, number: int) -> tuple[Tensor, Tensor]:
        return self.kv.weight.chunk(2)[number], self.kv.bias.chunk(2)[number]


class MaskDecoderHead(QueryMaskHead):
    """Instance, semantic or panoptic segmentation by a few decoder layers on the levels of any backbone, as in
    Mask2Former (Cheng et al. 2022, arXiv:2112.01527).

    It also suits small and frozen backbones. The tokens of the finest level are classified as well, and the mean of the
    logits under a query's mask is added to the query's logits: without this, a short training from scratch does not
    learn to distinguish stuff classes.

    Args:
        in_channels: channels of each feature level, finest first.
        strides: their strides in pixels.
        num_classes: how many classes there are.
        task: `instances`, `semantic` or `panoptic`; if not given, the kind of labels of the data set.
        dim: width of the decoder.
        num_queries: queries of an image: at most so many segments can be found.
        num_layers: the number of decoder layers; they attend to the levels in turn, from the coarsest to the finest,
            and then from the coarsest again.
        num_heads: attention heads of the cross-attention and of the self-attention.
        ffn_dim: hidden width of the MLPs.
        dropout: the fraction of values that are dropped in training.
        num_points: the number of points of each mask at which the loss is computed.
        loss_weights: weights of loss terms that replace the defaults `{class: 2, mask: 5, dice: 5}` and `{dense: 1}`,
            the classification of tokens; the prefix `aux_` is for all predictions but the last, `dense` aside.
        rules: how classes and masks become a prediction, see `MaskRules`.
        tile: side in pixels of the square tiles in which an image is seen at inference, see `SegmentationHead`.

    Raises:
        UserError: an argument is out of range, `dim` is no multiple of `num_heads`, `loss_weights` names a term that
            does not exist, or `tile` is given for another task than `semantic`.

    Example:
        >>> head = MaskDecoderHead([256, 256], [8, 16], num_classes=133, rules={"threshold": 0.8})
        >>> head.rules.threshold, head.rules.overlap
        (0.8, 0.8)
    """

    class_parts = ("classify", "classify_tokens", "things")
    query_parts = ("queries", "content")

    @ranged(RANGES)
    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[float],
        num_classes: int,
        *,
        task: MaskTask | None = None,
        dim: int = 256,
        num_queries: int = 100,
        num_layers: int = 3,
        num_heads: int = 8,
        ffn_dim: int = 1024,
        dropout: float = 0.0,
        num_points: int = 2048,
        loss_weights: dict[str, float] | None = None,
        rules: MaskRules = MaskRules(),
        tile: int | None = None,
    ) -> None:
        super().__init__(in_channels, strides, num_classes, task=task, rules=rules, tile=tile)
        check_divides("dim", dim, num_heads=num_heads)
        self.dim = dim
        self.input_proj = nn.ModuleList(nn.Identity() if c == dim else nn.Linear(c, dim) for c in in_channels)
        self.pixels = PixelBranch(self.in_channels[0], self.strides[0], dim)
        self.content, self.queries = nn.Embedding(num_queries, dim), nn.Embedding(num_queries, dim)
        self.layers = nn.ModuleList(MaskDecoderLayer(dim, num_heads, ffn_dim, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.classify, self.embed = nn.Linear(dim, num_classes + 1), MaskEmbedding(dim, dim)
        self.classify_tokens = nn.Linear(dim, num_classes + 1)
        self.criterion = MaskCriterion(num_points, loss_weights, dense=True)
        self.loss_weights = self.criterion.weights

    def forward(self, features: Features, targets: list[Target] | None = None) -> MaskOutputs:
        pixels = self.pixels(features)
        levels = [Level(proj(level.x), level.grids, level.stride) for proj, level in zip(self.input_proj, features)]
        sampled = [self._at_tokens(pixels, level, features.sizes) for level in levels]
        positions = [self._positions(level, features.sizes) for level in levels]
        B = len(features.sizes)
        x, queries = (embedding.weight.expand(B, -1, -1) for embedding in (self.content, self.queries))
        states = [self.norm(x)]
        for i, layer in enumerate(self.layers):
            n = len(levels) - 1 - i % len(levels)
            blocked = [(self.embed(s) @ p).detach() < 0 for s, p in zip(states[-1], sampled[n])]
            x = layer(x, queries, levels[n], positions[n], blocked)
            states.append(self.norm(x))
        states = torch.stack(states)  # (L + 1, B, Q, C)
        tokens = Level(self.classify_tokens(levels[0].x), levels[0].grids, levels[0].stride)
        embeddings = self.embed(states)
        logits = self.classify(states) + self._evidence(embeddings, sampled[0], tokens, features.sizes)
        return MaskOutputs(logits, embeddings, [pixels], features.sizes, tokens)

    def _evidence(
        self, embeddings: Tensor, sampled: list[Tensor], tokens: Level, sizes: list[tuple[int, int]]
    ) -> Tensor:
        """The mean logits `(L, B, Q, K + 1)` of the tokens inside each query's mask, smaller if the mask is small."""
        pooled = []
        for b, (pixels, logits) in enumerate(zip(sampled, tokens.x.split(tokens.lengths))):
            # all other tokens lie in the padding
            in_image = (tokens.centres(b, sizes[b]) < 1).all(-1)
            inside = (embeddings[:, b].detach() @ pixels).float().sigmoid() * in_image  # (L, Q, h*w)
            share = inside / (inside.sum(-1, keepdim=True) + 1)
            pooled.append(share.to(logits.dtype) @ logits)
        return torch.stack(pooled, 1)

    def _at_tokens(self, pixels: Level, level: Level, sizes: list[tuple[int, int]]) -> list[Tensor]:
        """For each image, the pixel features `(C, h*w)` at the centre of each token."""
        covered = extents(pixels, sizes)
        return [
            sample_points(image.detach(), level.centres(i, sizes[i]), covered[i])
            for i, image in enumerate(pixels.maps())
        ]

    def _positions(self, level: Level, sizes: list[tuple[int, int]]) -> Tensor:
        """Sine embeddings `(N, C)` of the position of each token, as a fraction of its image."""
        points = torch.cat([level.centres(i, size) for i, size in enumerate(sizes)])
        return sine_embedding(points, self.dim // 2).to(level.x.dtype)
