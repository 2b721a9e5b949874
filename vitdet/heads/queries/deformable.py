"""Multi-scale deformable attention over packed maps, Zhu et al. 2020 (arXiv:2010.04159), in plain PyTorch.

N tokens of all levels and images, Q queries of all images, S sampling points of all levels together, A heads
B images, C channels, D = C / A channels of a head

Bilinear sampling followed by a weighted sum is a sparse matrix product: each (query, head) adds up rows of the value
table, the 4 corners around each of S points, with a weight for each row. This is what `F.embedding_bag` computes, for
maps of any mixture of sizes, and without an intermediate tensor of size Q*S*C.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitdet.errors import UserError
from vitdet.structures import Features


class Memory:
    """The tokens `x` `(N, C)` of a batch, level after level and image after image, and where each map starts in them.

    It is made once for each batch.
    """

    def __init__(self, x: Tensor, features: Features) -> None:
        self.x = x
        starts, offset = [], 0
        for level in features:
            level_starts = []
            for length in level.lengths:
                level_starts.append(offset)
                offset += length
            starts.append(level_starts)
        # (levels, B[, 2]) -> (B, levels[, 2])
        self.starts = torch.tensor(starts, device=x.device).T
        self.grids = torch.tensor([level.grids for level in features], device=x.device).transpose(0, 1)
        sizes = torch.tensor(features.sizes, dtype=torch.float32, device=x.device)
        strides = torch.tensor([level.stride for level in features], dtype=torch.float32, device=x.device)
        # (B, levels, 2): height and width, in tokens, of each image without padding
        self.cells = sizes[:, None, :] / strides[None, :, None]

    def sample(self, value: Tensor, images: Tensor, levels: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        """See `sample`."""
        return sample(value, self, images, levels, locations, weights)


class _WeightedSum(torch.autograd.Function):
    """`out[r] = sum_j weights[r, j] * table[index[r, j]]`.

    The backward pass of `embedding_bag` is slow for the gradient of the table. It is replaced by a second
    `embedding_bag`, over the transposed lists.
    """

    @staticmethod
    def forward(ctx, table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(table, index, weights)
        return F.embedding_bag(index, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx, grad: Tensor):
        table, index, weights = ctx.saved_tensors
        grad = grad.contiguous()
        grad_table = grad_weights = None
        if ctx.needs_input_grad[0]:
            # with a stable sort, the sums are equal bit for bit in every run
            order = index.flatten().to(torch.int32).sort(stable=True).indices
            counts = torch.bincount(index.flatten(), minlength=len(table))
            row = order // index.shape[1]
            grad_table = F.embedding_bag(
                row, grad, counts.cumsum(0) - counts, per_sample_weights=weights.flatten()[order], mode="sum"
            )
        if ctx.needs_input_grad[2]:
            with torch.enable_grad():
                w = weights.detach().requires_grad_()
                out = F.embedding_bag(index, table.detach(), per_sample_weights=w, mode="sum")
            (grad_weights,) = torch.autograd.grad(out, w, grad)
        return grad_table, None, grad_weights


def sample(value: Tensor, memory: Memory, images: Tensor, levels: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of bilinear samples, with zeros outside each map.

    Args:
        value: `(N, A, D)`.
        memory: where the map of each level and image starts in `value`.
        images: `(Q,)` which image each query belongs to.
        levels: `(S,)` which level each point lies in.
        locations: `(Q, A, S, 2)`, x and y as fractions of the image.
        weights: `(Q, A, S)`.

    Returns:
        `(Q, A * D)`.
    """
    A = value.shape[1]
    tables = (memory.starts, memory.grids, memory.cells)  # (B, levels[, 2])
    starts, grids, cells = (table[images][:, None, levels] for table in tables)  # (Q, 1, S[, 2])
    h, w = grids.unbind(-1)
    x = locations[..., 0] * cells[..., 1] - 0.5
    y = locations[..., 1] * cells[..., 0] - 0.5
    left, top = x.detach().floor(), y.detach().floor()
    dx, dy = x - left, y - top
    left, top = left.long(), top.long()
    head = torch.arange(A, device=value.device)[:, None]
    index, factor = [], []
    for down in (0, 1):
        for right in (0, 1):
            column, row = left + right, top + down
            inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            token = starts + torch.minimum(row.clamp(min=0), h - 1) * w + torch.minimum(column.clamp(min=0), w - 1)
            index.append(token * A + head)
            factor.append((dx if right else 1 - dx) * (dy if down else 1 - dy) * weights * inside)
    index = torch.stack(index, -1).flatten(0, 1).flatten(1)  # (Q, A, S, 4) -> (Q*A, S*4)
    factor = torch.stack(factor, -1).flatten(0, 1).flatten(1)
    out = _WeightedSum.apply(value.flatten(0, 1), index, factor)  # (N, A, D) -> (N*A, D); out (Q*A, D)
    return out.view(len(images), value[0].numel())


class DeformableAttention(nn.Module):
    """Cross-attention of queries to a few sampling points around their boxes, in all maps of their image.

    Args:
        dim: channels of queries and tokens.
        num_levels: feature levels.
        num_heads: attention heads.
        num_points: sampling points of each head: a number for all levels, or a list with a number for each level.
        projected: whether values and output pass a linear layer; D-FINE (arXiv:2410.13842) has none.

    Raises:
        UserError: `num_points` is a list, and not of `num_levels` numbers.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_levels: int,
        num_heads: int,
        num_points: int | Sequence[int],
        projected: bool = True,
    ) -> None:
        super().__init__()
        points = [num_points] * num_levels if isinstance(num_points, int) else list(num_points)
        if len(points) != num_levels:
            raise UserError(f"num_points is {points}, but there are {num_levels} levels; give one number for each")
        self.num_heads, self.points = num_heads, points
        self.offsets = nn.Linear(dim, num_heads * sum(points) * 2)
        self.weights = nn.Linear(dim, num_heads * sum(points))
        self.value = nn.Linear(dim, dim) if projected else nn.Identity()
        self.proj = nn.Linear(dim, dim) if projected else nn.Identity()
        levels = [level for level, count in enumerate(points) for _ in range(count)]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        # an offset that equals the number of points of its level reaches the border of the box
        self.register_buffer("reach", torch.tensor([[0.5 / points[i]] for i in levels]), persistent=False)
        self._reset(points)

    def _reset(self, points: Sequence[int]) -> None:
        # each head starts in another direction, and each point is a step farther out than the point before
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.cat([torch.arange(1, count + 1) for count in points])
        nn.init.zeros_(self.offsets.weight)
        self.offsets.bias.data.copy_((direction[:, None] * steps[:, None]).flatten())  # (A, S, 2)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        for linear in (layer for layer in (self.value, self.proj) if isinstance(layer, nn.Linear)):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, boxes_cxcywh: Tensor, images: Tensor, memory: Memory) -> Tensor:
        """The output `(Q, C)` for queries `x` `(Q, C)` with boxes `(Q, 4)`, whose images are `images` `(Q,)`."""
        A, S = self.num_heads, sum(self.points)
        value = self.value(memory.x).unflatten(1, (A, -1)).float()  # (N, C) -> (N, A, D)
        offsets = self.offsets(x).float().view(-1, A, S, 2)
        weights = self.weights(x).float().view(-1, A, S).softmax(-1)
        centre, size = boxes_cxcywh[:, None, None].split(2, dim=-1)
        locations = centre + offsets * self.reach * size
        return self.proj(memory.sample(value, images, self.levels, locations, weights).to(x.dtype))
