"""Where the tokens of an image are: windows and relative positions, for grids of unknown size.

B images, h×w the patch grid, P prefix tokens, L tokens of an image, heads, d channels of a head
R×S windows of at most r×s tokens; a window with fewer rows or columns repeats its last, and hides the copies
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitdet.backbone.sequences import fixed
from vitdet.backbone.windows import Windows
from vitdet.deploy.export.dynamic import Size, least, linear_matrix, real, rounded_up


@dataclass
class Cut:
    """The windows of a grid.

    Attributes:
        count, length: the number of windows, and of the tokens of each.
        order: `(count * length,)` the patch that each token is.
        inverse: `(h*w,)` the token that each patch is; copies left aside.
        places: `(2, count * length)` row and column in the window.
        copies: `(count, length)` bool, which tokens are copies; `None` if none is.
        extent: the largest number of rows and of columns of a window.
    """

    count: Size
    length: Size
    order: Tensor
    inverse: Tensor
    places: Tensor
    copies: Tensor | None
    extent: tuple[Size, Size]


class _Side:
    """The windows of one side of a grid: their `number` and largest size `most`, and `(number, most)` the `cell` of
    each token, its `place` in the window, and whether it is a `copy`; `window` and `inner` `(side,)` are of a cell."""

    def __init__(self, side: Size, size: int, parts: int) -> None:
        self.number = rounded_up(side, size) if size else least(parts, side)
        even, rest = side // self.number, side % self.number
        self.most = (side + self.number - 1) // self.number
        self.even = isinstance(side, int) and not rest
        # the first `rest` windows have a cell more than the others
        which, inside, cell = torch.arange(self.number), torch.arange(self.most), torch.arange(side)
        rest = torch.arange(1) + rest
        start, length = which * even + torch.minimum(which, rest), even + (which < rest).long()
        self.place = torch.minimum(inside, length[:, None] - 1)
        self.cell, self.copy = start[:, None] + self.place, inside >= length[:, None]
        far = rest * (even + 1)
        self.window = torch.where(cell < far, cell // (even + 1), rest + (cell - far) // even)
        self.inner = cell - start[self.window]


def cut(windows: Windows, grid: tuple[Size, Size]) -> Cut:
    """Divides a grid into windows, as `window_layout` does."""
    down, across = _Side(grid[0], windows.size, windows.rows), _Side(grid[1], windows.size, windows.columns)

    def table(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        # (R, r) and (S, s) -> (R, S, r, s)
        return a[:, None, :, None], b[:, None]

    sizes = (down.number * across.number, down.most * across.most)
    y, x = table(down.cell, across.cell)
    order = (y * grid[1] + x).flatten()
    i, j = table(down.place, across.place)
    places = torch.stack([(i + 0 * j).flatten(), (0 * i + j).flatten()])
    copies = None
    if not (down.even and across.even):
        low, right = table(down.copy, across.copy)
        copies = (low | right).reshape(*sizes)
    window = down.window[:, None] * across.number + across.window
    inverse = (window * down.most + down.inner[:, None]) * across.most + across.inner
    return Cut(*sizes, order, inverse.flatten(), places, copies, (down.most, across.most))


class RelativePlaces:
    """What `Places` of `vitdet.backbone.relative` is, for images of equal size.

    Args:
        places: `(2, L)` row and column of each token, -1 for prefix tokens.
        batch: the number of images.
        extent: the largest number of rows and columns.
        sides: the number of tokens that the tables are resampled to.
    """

    def __init__(self, places: Tensor, batch: Size, extent: Sequence[Size], sides: Sequence[Size]) -> None:
        self.places, self.batch, self.sides = places, batch, sides
        self.steps = [torch.arange(side) for side in extent]
        one_hot = torch.cat([place[:, None] == step for place, step in zip(places, self.steps)], 1)  # (L, H + W)
        self.keys = one_hot.float().repeat(batch, 1)[:, None]

    def products(self, q: Tensor, tables: Sequence[Tensor]) -> Tensor:
        """Products `(N, heads, H + W)` of queries `(N, heads, d)` with the rows for keys at 0, 1 …, down and across."""
        parts = []
        for table, side, place, step in zip(tables, self.sides, self.places, self.steps):
            length, rows = 2 * side - 1, place[:, None] - step + side - 1
            table = linear_matrix(length, table.shape[0], table.shape[0] / real(length)) @ table
            outside = (place[:, None] < 0) | (rows < 0) | (rows >= length)
            found = (q @ table.T).reshape(self.batch, place.shape[0], fixed(q, 1), -1)  # (B, L, heads, 2*side - 1)
            rows = rows.clamp(min=0).minimum(torch.arange(1) + length - 1)
            index = rows[None, :, None].expand(self.batch, -1, fixed(q, 1), -1)
            parts.append((found.gather(-1, index) * ~outside[:, None]).flatten(0, 1))
        return torch.cat(parts, -1)

    def widen(self, q: Tensor, k: Tensor, v: Tensor, products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys `(N, heads, d + H + W)`, whose dot product is the scaled product plus `products`."""
        keys = self.keys.expand(-1, k.shape[1], -1)
        return torch.cat([q * q.shape[-1] ** -0.5, products], -1), torch.cat([k, keys], -1), v
