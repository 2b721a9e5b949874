"""Watches the attention of a model while it sees an image; at all other times, nothing of this is in the model.

Only what enters an attention module is kept. Weights are computed afterwards, for a few tokens or queries: there is
never a matrix of all tokens by all tokens.

N tokens that attend, M tokens that they attend to, L tokens of a sequence, heads, d channels of a head
Q queries, S sampling points of all levels together, C channels
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from vitdet.backbone.attention import attend
from vitdet.backbone.sequences import EqualSequences
from vitdet.heads import EoMTHead, MaskDecoderHead, PlainDETRHead
from vitdet.heads.masks.pixels import shut
from vitdet.heads.queries.deformable import DeformableAttention, Memory
from vitdet.structures import Level


@dataclass
class Attention:
    """What enters a softmax attention.

    Attributes:
        q: `(N, heads, d)`.
        k, v: `(M, heads, d)`.
        lengths: the numbers of tokens of the sequences, where tokens attend to those of their own sequence; with
            `None` each attends to all M.
        shut: `(N, M)` bool, the tokens that each does not attend to.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    lengths: Sequence[int] | None = None
    shut: Tensor | None = None

    def weights(self, row: int) -> Tensor:
        """The softmax weights `(heads, M)` of token `row`, zero outside its sequence; they sum to 1 for each head."""
        first, last = 0, len(self.k)
        if self.lengths is not None:
            ends = list(accumulate(self.lengths))
            last = next(end for end in ends if row < end)
            first = last - self.lengths[ends.index(last)]
        q, k = self.q[row].float(), self.k[first:last].float()
        logits = torch.einsum("hd,lhd->hl", q, k) * q.shape[-1] ** -0.5
        if self.shut is not None:
            logits = logits.masked_fill(self.shut[row], -torch.inf)
        whole = logits.new_zeros(len(logits), len(self.k))
        whole[:, first:last] = logits.softmax(-1)
        return whole


@dataclass
class Sampled:
    """What a deformable attention samples.

    Attributes:
        references_cxcywh: `(Q, 4)`, the boxes that the points are placed around, as fractions of the image.
        levels: `(S,)`, which level each point lies in.
        locations: `(Q, heads, S, 2)`, x and y as fractions of the image.
        weights: `(Q, heads, S)`, which sum to 1 over S.
    """

    references_cxcywh: Tensor
    levels: Tensor
    locations: Tensor
    weights: Tensor


@dataclass
class Watched:
    """What was seen of a model.

    Attributes:
        grid: the height and width of the ViT's patch grid.
        blocks: the attention of blocks of the ViT, by number.
        grids: the grid of each of the levels that the head reads, finest first.
        levels: the last attention of the head's queries to each level, with its grid and its stride in pixels.
        sampled: what the last layer of a deformable decoder samples.
    """

    grid: tuple[int, int] = (0, 0)
    blocks: dict[int, Attention] = field(default_factory=dict)
    grids: list[tuple[int, int]] = field(default_factory=list)
    levels: list[tuple[Attention, tuple[int, int], float]] = field(default_factory=list)
    sampled: Sampled | None = None


class _Sequences(EqualSequences):
    """Lengths of sequences, to which `attend` leaves its work: they keep what it is given, and do what it would do."""

    def __init__(self, lengths: Sequence[int], keep: Callable[[Attention], None]) -> None:
        self.lengths, self.keep = list(lengths), keep

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.keep(Attention(q, k, v, self.lengths))
        return attend(q, k, v, self.lengths)


class _Memory(Memory):
    """The tokens of a batch; `keep` gets what is sampled of them."""

    def __init__(self, memory: Memory, keep: Callable[[Tensor, Tensor, Tensor], None]) -> None:
        self.x, self.memory, self.keep = memory.x, memory, keep

    def sample(self, value: Tensor, images: Tensor, levels: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        self.keep(levels, locations, weights)
        return self.memory.sample(value, images, levels, locations, weights)


@contextmanager
def watching(backbone: Any, head: nn.Module, blocks: Sequence[int]) -> Iterator[Watched]:
    """Inside the statement, what the model attends to is kept; it must see a single image.

    Args:
        backbone: a `Backbone`.
        head: the head, of which the attention to the image is kept if it is one of vitdet's heads with queries.
        blocks: the blocks of the ViT whose attention is kept. Of heads that run the last blocks, these are kept anyway.
    """
    seen, trunk = Watched(), backbone.trunk
    with ExitStack() as stack:

        def before(module: Any, hook: Callable[..., Any]) -> None:
            stack.callback(module.register_forward_pre_hook(hook).remove)

        before(trunk, lambda _, inputs: setattr(seen, "grid", tuple(inputs[0][0].shape[1:3])))
        before(head, lambda _, inputs: setattr(seen, "grids", [level.grids[0] for level in inputs[0]]))
        tail = range(len(trunk.blocks) - trunk.tail, len(trunk.blocks)) if isinstance(head, EoMTHead) else ()
        for number in sorted({*blocks, *tail}):
            before(trunk.blocks[number].attn, _of_block(seen, number))
        if isinstance(head, MaskDecoderHead):
            for layer in head.layers[-len(head.strides) :]:
                before(layer, lambda layer, inputs: _mask_decoder(seen, layer, *inputs))
        elif isinstance(head, PlainDETRHead):
            stride = head.strides[-1]
            before(head.layers[-1].cross_attention, lambda part, inputs: _plain(seen, stride, part, *inputs))
        elif layers := getattr(getattr(head, "decoder", None), "layers", ()):
            part = getattr(layers[-1], "cross_attention", None)
            if isinstance(part, DeformableAttention):
                before(part, lambda _, inputs: _deformable(seen, *inputs))
        yield seen


def _of_block(seen: Watched, number: int) -> Callable[..., Any]:
    def keep(attention: Attention) -> None:
        seen.blocks[number] = attention

    return lambda _, inputs: (inputs[0], _Sequences(inputs[1], keep), *inputs[2:])


def _deformable(seen: Watched, x: Tensor, boxes_cxcywh: Tensor, images: Tensor, memory: Memory) -> tuple[Any, ...]:
    def keep(levels: Tensor, locations: Tensor, weights: Tensor) -> None:
        seen.sampled = Sampled(boxes_cxcywh, levels, locations, weights)

    return x, boxes_cxcywh, images, _Memory(memory, keep)


def _plain(seen: Watched, stride: float, part: nn.MultiheadAttention, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Keeps the inputs `(1, N, C)` of the attention of `PlainDETRHead`."""
    weights, biases = part.in_proj_weight.chunk(3), part.in_proj_bias.chunk(3)
    q, k, v = (
        nn.functional.linear(x[0], weight, bias).unflatten(-1, (part.num_heads, -1))
        for x, weight, bias in zip((q, k, v), weights, biases)
    )
    seen.levels.append((Attention(q, k, v), seen.grids[-1], stride))


def _mask_decoder(
    seen: Watched, layer: Any, x: Tensor, queries: Tensor, memory: Level, positions: Tensor, blocked: list[Tensor]
) -> None:
    q, k, v = layer.project(x, queries, memory, positions)
    q, k, v = (part[0].unflatten(-1, (layer.num_heads, -1)) for part in (q, k, v))
    seen.levels.append((Attention(q, k, v, shut=shut(blocked[0])), memory.grids[0], memory.stride))
