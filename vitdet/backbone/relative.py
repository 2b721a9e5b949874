"""Decomposed relative position embeddings over packed tokens, as in ViTDet.

Li et al. 2022 (MViTv2, arXiv:2112.01526; ViTDet, arXiv:2203.16527).

N tokens of all images, b images with equal grids, L tokens of an image, heads, d channels of a head
h×w the patches of a sequence, an image or a window; a table `(2*side - 1, d)` has a row for each distance
H×W the largest h and w of a batch, W a little more, so that H + W is a multiple of 8

To the logit of a query at (y, x) and a key at (y', x'), `q · vertical[y - y'] + q · horizontal[x - x']` is added. This
is the dot product of two vectors of H + W channels: the query's products with the rows of the tables, and the one-hot
position of the key. So `attend` gets wider queries and keys, and no L×L bias is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitdet.backbone.attention import RELATIVE_TABLES, remembered
from vitdet.backbone.windows import Windows, window_layout


def add_relative_position(model: Any, side: int, windows: Windows | None, global_blocks: Sequence[int]) -> None:
    """Adds two tables to every attention module of a timm model; they start at zero, as in Detectron2.

    The tables of global blocks cover `side` × `side` tokens, those of all other blocks the windows of such a grid.
    """
    for i, block in enumerate(model.blocks):
        sides = (side, side) if windows is None or i in global_blocks else windows.largest((side, side))
        for name, length in zip(RELATIVE_TABLES, sides):
            setattr(block.attn, name, nn.Parameter(torch.zeros(2 * length - 1, block.attn.head_dim)))


def resample_table(table: Tensor, side: int) -> Tensor:
    """A table for `side` tokens, interpolated linearly between the rows of another table, as in MViTv2."""
    if len(table) == 2 * side - 1:
        return table
    return F.interpolate(table.T[None], size=2 * side - 1, mode="linear")[0].T  # (r, d) -> (1, d, r) -> (r', d)


@dataclass(frozen=True)
class Run:
    """The `count` of neighbouring images with equal grids, and the `sides` that their tables are resampled to.

    `rows` `(L, H)` and `(L, W)` are the rows of these tables that each query needs for keys at 0, 1 …. If the query is
    not a patch, or there is no such key, it is the row after the last, which is zero.
    """

    count: int
    sides: tuple[int, int]
    rows: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Places:
    """The position of each token in its sequence: `runs` for queries, and one-hot `keys` `(N, 1, H + W)` for keys.

    Prefix tokens have no position.
    """

    runs: list[Run]
    keys: Tensor

    def products(self, q: Tensor, tables: Sequence[Tensor]) -> Tensor:
        """Products `(N, heads, H + W)` of queries `(N, heads, d)` with the rows for keys at 0, 1 …, down and across."""
        parts = []
        for part, run in zip(q.split([run.count * len(run.rows[0]) for run in self.runs]), self.runs):
            part = part.unflatten(0, (run.count, -1))  # (b*L, heads, d) -> (b, L, heads, d)
            for table, side, rows in zip(tables, run.sides, run.rows):
                found = part @ F.pad(resample_table(table, side), (0, 0, 0, 1)).T  # (b, L, heads, 2*side)
                rows = rows[None, :, None].expand(*found.shape[:-1], -1)  # (L, H) -> (b, L, heads, H)
                parts.append(found.gather(-1, rows).flatten(0, 1))
        return torch.cat([torch.cat(pair, dim=-1) for pair in zip(parts[::2], parts[1::2])])

    def widen(self, q: Tensor, k: Tensor, v: Tensor, products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `(N, heads, d + H + W)`, whose attention adds `products` to the logits.

        `v` is padded with zeros, because kernels need all three to be equally wide.
        """
        d, wide = q.shape[-1], q.shape[-1] + products.shape[-1]
        # `attend` divides logits by sqrt(wide), but q·k has to be divided by sqrt(d), and the products by nothing
        q = torch.cat([q * (wide / d) ** 0.5, products.type_as(q) * wide**0.5], dim=-1)
        k = torch.cat([k, self.keys.type_as(k).expand(-1, k.shape[1], -1)], dim=-1)
        return q, k, F.pad(v, (0, wide - d))


def find_places(
    counts: Sequence[int],
    grids: Sequence[tuple[int, int]],
    windows: Windows | None,
    prefix: int,
    device: torch.device,
    *,
    inside: bool,
) -> Places:
    """The positions of a batch's tokens.

    Args:
        counts, grids: the number of images of each group, and their grid.
        windows: the windows that the order of the tokens follows, if there are any.
        prefix: how many prefix tokens an image has.
        device: where the tensors are made.
        inside: whether positions are those in windows instead of those in images.
    """
    places = [_coordinates(windows, grid, prefix, device, inside) for grid in grids]
    sides = [windows.largest(grid) if inside else grid for grid in grids]
    height, width = (max(min(side[a], grid[a]) for side, grid in zip(sides, grids)) for a in (0, 1))
    # the channels of a head have to be a multiple of 8 for CUDA's flash kernels
    extents = (height, width + -(height + width) % 8)
    steps = [torch.arange(extent, device=device) for extent in extents]
    runs, keys = [], []
    for count, place, side in zip(counts, places, sides):
        runs.append(Run(count, side, tuple(_rows(p, step, s) for p, step, s in zip(place, steps, side))))
        one_hot = torch.cat([p[:, None] == step for p, step in zip(place, steps)], dim=1)  # (L, H + W)
        keys.append(one_hot.repeat(count, 1))
    return Places(runs, torch.cat(keys).unsqueeze(1))


def _rows(place: Tensor, step: Tensor, side: int) -> Tensor:
    """Indices `(L, H)` of rows in a table of `2*side` rows, of which the last is zero."""
    rows = place[:, None] - step + side - 1
    outside = (place[:, None] < 0) | (rows < 0) | (rows >= 2 * side - 1)
    return rows.masked_fill(outside, 2 * side - 1)


@remembered
def _coordinates(
    windows: Windows | None, grid: tuple[int, int], prefix: int, device: torch.device, inside: bool
) -> Tensor:
    """Row and column `(2, L)` of each token of an image, in the image or in its window; -1 for prefix tokens."""
    h, w = grid
    if windows is None:
        order, lengths = torch.arange(prefix + h * w), (prefix + h * w,)
    else:
        layout = window_layout(windows, grid, prefix, torch.device("cpu"))
        order, lengths = layout.order, layout.lengths if inside else (len(layout.order),)
    patch = order - prefix
    far = max(h, w)
    places = torch.stack([patch // w, patch % w]).masked_fill(patch < 0, far)
    places = torch.cat([part - part.amin(1, keepdim=True) for part in places.split(lengths, dim=1)], dim=1)
    return places.masked_fill(patch < 0, -1).to(device)
