"""Decomposed relative position embeddings over packed tokens, as ViTDet has them.

Li et al. 2022 (MViTv2, arXiv:2112.01526; ViTDet, arXiv:2203.16527).

N tokens of all images, b images of one grid, L tokens of one of them, heads, d channels of a head
h×w the patches of a sequence, an image or a window; a table `(2*side - 1, d)` has a row for each distance
H×W the largest h and w of a batch, W a little more, so that H + W is a multiple of 8

To the logit of a query at (y, x) and a key at (y', x'), `q · vertical[y - y'] + q · horizontal[x - x']` is added. That
is the product of two vectors of H + W channels, the query's products with the rows it needs and the key's place,
one-hot: so `attend` sees wider queries and keys, and no L×L bias.
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
    """Gives every attention of a timm model its two tables, zero, as Detectron2 starts them.

    Those of global blocks cover `side` × `side` tokens, the others the windows of such a grid.
    """
    for i, block in enumerate(model.blocks):
        sides = (side, side) if windows is None or i in global_blocks else windows.largest((side, side))
        for name, length in zip(RELATIVE_TABLES, sides):
            setattr(block.attn, name, nn.Parameter(torch.zeros(2 * length - 1, block.attn.head_dim)))


def resample_table(table: Tensor, side: int) -> Tensor:
    """A table for `side` tokens, linear between the rows of another one, as in MViTv2."""
    if len(table) == 2 * side - 1:
        return table
    return F.interpolate(table.T[None], size=2 * side - 1, mode="linear")[0].T  # (r, d) -> (1, d, r) -> (r', d)


@dataclass(frozen=True)
class Run:
    """Neighbouring images of one grid: how many, and the `sides` that their tables are resampled to.

    `rows` `(L, H)` and `(L, W)` of these are what a query takes for keys at 0, 1 …: the row behind the last, a zero
    one, where the query is no patch, or there is no such key.
    """

    count: int
    sides: tuple[int, int]
    rows: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Places:
    """Where each token lies in its sequence: `runs` for queries, and `keys` `(N, 1, H + W)`, one-hot, for keys.

    Prefix tokens lie nowhere.
    """

    runs: list[Run]
    keys: Tensor

    def products(self, q: Tensor, tables: Sequence[Tensor]) -> Tensor:
        """Queries `(N, heads, d)` times the tables, added to the logits of keys at 0, 1 …: `(N, heads, H + W)`."""
        parts = []
        for part, run in zip(q.split([run.count * len(run.rows[0]) for run in self.runs]), self.runs):
            part = part.unflatten(0, (run.count, -1))  # (b*L, heads, d) -> (b, L, heads, d)
            for table, side, rows in zip(tables, run.sides, run.rows):
                found = part @ F.pad(resample_table(table, side), (0, 0, 0, 1)).T  # (b, L, heads, 2*side)
                rows = rows[None, :, None].expand(*found.shape[:-1], -1)  # (L, H) -> (b, L, heads, H)
                parts.append(found.gather(-1, rows).flatten(0, 1))
        return torch.cat([torch.cat(pair, dim=-1) for pair in zip(parts[::2], parts[1::2])])

    def widen(self, q: Tensor, k: Tensor, v: Tensor, products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `(N, heads, d + H + W)` whose attention is that of `q`, `k`, `v` with `products`.

        What `v` gets is zero: kernels want all three equally wide.
        """
        d, wide = q.shape[-1], q.shape[-1] + products.shape[-1]
        # `attend` divides by sqrt(wide), where q·k wants sqrt(d), and the products are added as they are
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
    """Places of a batch's tokens, groups of `counts` images of equal `grids`, in the order of `windows`.

    Args:
        prefix: how many prefix tokens an image has.
        inside: places in windows, not in images.
    """
    places = [_coordinates(windows, grid, prefix, device, inside) for grid in grids]
    sides = [windows.largest(grid) if inside else grid for grid in grids]
    height, width = (max(min(side[a], grid[a]) for side, grid in zip(sides, grids)) for a in (0, 1))
    extents = (height, width + -(height + width) % 8)  # CUDA's flash kernels want heads of a multiple of 8 channels
    steps = [torch.arange(extent, device=device) for extent in extents]
    runs, keys = [], []
    for count, place, side in zip(counts, places, sides):
        runs.append(Run(count, side, tuple(_rows(p, step, s) for p, step, s in zip(place, steps, side))))
        one_hot = torch.cat([p[:, None] == step for p, step in zip(place, steps)], dim=1)  # (L, H + W)
        keys.append(one_hot.repeat(count, 1))
    return Places(runs, torch.cat(keys).unsqueeze(1))


def _rows(place: Tensor, step: Tensor, side: int) -> Tensor:
    """Rows `(L, H)` of a table of `2*side` rows, the last one zero."""
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
