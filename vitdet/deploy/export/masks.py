"""The heads for segmentation, for images of equal size: `MaskDecoderHead`, `EoMTHead` and `SemanticHead`.

B images, H×W their size, h×w a map, Q queries, K classes, C channels, P prefix tokens
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitdet.backbone.sequences import EqualSequences
from vitdet.deploy.export.detection import centres, products
from vitdet.deploy.export.dynamic import Size, divided, linear_matrix, resample
from vitdet.deploy.export.trunk import Rest
from vitdet.heads.layers import sine_embedding
from vitdet.heads.masks.decoder import MaskDecoderHead, MaskDecoderLayer
from vitdet.heads.masks.eomt import EoMTHead
from vitdet.heads.semantic import SemanticHead


def brought_to(maps: Tensor, stride: float, like: Tensor, wanted: float) -> Tensor:
    """Maps `(B, h, w, C)` of a stride, sampled bilinearly at the tokens of the map `like`, of the stride `wanted`."""
    sides = zip(like.shape[1:3], maps.shape[1:3])
    return resample(maps, *(linear_matrix(new, old, wanted / stride) for new, old in sides))


class MaskDecoderGraph(nn.Module):
    """`MaskDecoderHead`, from levels `(B, h, w, C)` to named outputs."""

    def __init__(self, head: MaskDecoderHead) -> None:
        super().__init__()
        self.head: Any = head

    def forward(self, maps: Sequence[Tensor], rest: None, size: tuple[Size, Size]) -> dict[str, Tensor]:
        head, strides = self.head, self.head.strides
        pixels = head.pixels.up(maps[0])
        levels = [proj(level) for proj, level in zip(head.input_proj, maps)]
        # at the tokens of each level, (B, h*w, C)
        sampled = [
            brought_to(pixels, head.pixels.stride, level, stride).flatten(1, 2)
            for level, stride in zip(levels, strides)
        ]
        places = [centres(level, stride, size) for level, stride in zip(levels, strides)]
        positions = [sine_embedding(points, head.dim // 2) for points in places]
        tokens = [level.flatten(1, 2) for level in levels]
        x, queries = (part.weight.expand(pixels.shape[0], -1, -1) for part in (head.content, head.queries))
        state = head.norm(x)
        for i, layer in enumerate(head.layers):
            n = len(levels) - 1 - i % len(levels)
            blocked = head.embed(state) @ sampled[n].transpose(1, 2) < 0
            x = self._layer(layer, x, queries, tokens[n], positions[n], blocked)
            state = head.norm(x)
        embeddings = head.embed(state)
        # the mean logits of the tokens inside each query's mask, see `_evidence` of the head
        inside = (embeddings @ sampled[0].transpose(1, 2)).sigmoid() * (places[0] < 1).all(-1).float()
        share = inside / (inside.sum(-1, keepdim=True) + 1)
        logits = head.classify(state) + share @ head.classify_tokens(tokens[0])
        return {"scores": logits.softmax(-1)[..., :-1], "masks": products(embeddings, pixels)}

    def _layer(
        self, layer: MaskDecoderLayer, x: Tensor, queries: Tensor, memory: Tensor, position: Tensor, blocked: Tensor
    ) -> Tensor:
        heads = layer.num_heads
        q = layer.q(x + queries)
        k = F.linear(memory + position, *layer._part(0))
        v = F.linear(memory, *layer._part(1))
        q, k, v = (divided(part, 2, (heads, part.shape[2] // heads)).transpose(1, 2) for part in (q, k, v))
        # a query for which all tokens are blocked attends to all of them
        blocked = blocked & ~blocked.all(-1, keepdim=True)
        hidden = torch.zeros_like(blocked, dtype=q.dtype).masked_fill(blocked, -torch.inf)[:, None]
        y = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + hidden).softmax(-1) @ v
        x = layer.norm1(x + layer.proj(y.transpose(1, 2).flatten(2)))
        y = x + queries
        return layer.ffn(layer.norm2(x + layer.self_attention(y, y, x)[0]))


class EoMTGraph(nn.Module):
    """`EoMTHead`, from the tokens before the last blocks to named outputs."""

    def __init__(self, head: EoMTHead) -> None:
        super().__init__()
        self.head: Any = head

    def forward(self, maps: Sequence[Tensor], rest: Rest, size: tuple[Size, Size]) -> dict[str, Tensor]:
        head, batch, count = self.head, rest.x.shape[0], self.head.queries.num_embeddings
        x = torch.cat([head.queries.weight.expand(batch, -1, -1), rest.x], 1)
        sequences = EqualSequences(batch, 1, x.shape[1], scale=rest.scale)
        length, x = x.shape[1], x.flatten(0, 1)
        for block, rope in rest.blocks:
            if rope is not None:
                # queries have no position in the image: their sines are 0, their cosines 1
                still = torch.zeros(count, rope.shape[1], rope.shape[2] // 2)
                rope = torch.cat([torch.cat([still, still + 1], -1), rope]).repeat(batch, 1, 1)
            x = block(x, sequences, sequences, rope)
        x = divided(rest.norm(x), 0, (batch, length))
        queries, tokens = x[:, :count], x[:, count + rest.num_prefix :]
        pixels = head.upscale(divided(tokens, 1, rest.grid))
        scores = head.classify(queries).softmax(-1)[..., :-1]
        return {"scores": scores, "masks": products(head.embed(queries), pixels)}


class SemanticGraph(nn.Module):
    """`SemanticHead`, from levels `(B, h, w, C)` to logits at the finest."""

    def __init__(self, head: SemanticHead) -> None:
        super().__init__()
        self.head: Any = head

    def forward(self, maps: Sequence[Tensor], rest: None, size: tuple[Size, Size]) -> dict[str, Tensor]:
        head, finest, x = self.head, maps[0], maps[0]
        if head.mix is not None:
            x = head.mix[0](finest)
            for proj, level, stride in zip(head.mix[1:], maps[1:], head.strides[1:]):
                x = x + brought_to(proj(level), stride, finest, head.strides[0])
            x = F.gelu(head.norm(x))
        return {"logits": head.classify(x).permute(0, 3, 1, 2)}
