"""Windows: the order of an image's tokens in which each window is a contiguous, shorter sequence.

h×w patch grid of one image, P prefix tokens (class, registers)
L tokens of the image: P + h*w, or more where each window has prefix tokens
"""

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from vitdet.backbone.attention import remembered


@dataclass(frozen=True)
class Windows:
    """How a grid is cut: windows of about `size` tokens a side, or `rows` × `columns` windows whatever the grid.

    A grid that does not divide is cut as evenly as it goes (20 tokens by 14 are 10 + 10), so that no window is a
    sliver and nothing is padded.

    `prefix` tells what prefix tokens do in windowed blocks. `"image"`: those of an image are a sequence by themselves,
    and meet the patches in global blocks only. `"window"`: every window has a copy of them, as in RF-DETR's windowed
    DINOv2; global blocks then see all copies.
    """

    size: int = 0
    rows: int = 0
    columns: int = 0
    prefix: str = "image"

    @classmethod
    def parse(cls, windows: int | str, prefix: str) -> "Windows":
        """Of an option: `14` is a size in tokens, `"2x2"` counts windows."""
        rows, x, columns = str(windows).partition("x")
        return cls(rows=int(rows), columns=int(columns), prefix=prefix) if x else cls(size=int(rows), prefix=prefix)

    def sides(self, grid: tuple[int, int]) -> tuple[list[int], list[int]]:
        """Heights of the rows of windows, and widths of their columns, in tokens."""
        h, w = grid
        rows, columns = (ceil(h / self.size), ceil(w / self.size)) if self.size else (self.rows, self.columns)
        return _even(h, min(rows, h)), _even(w, min(columns, w))

    def largest(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Height and width in tokens that no window of the grid exceeds; of windows of a size, that size."""
        return (self.size, self.size) if self.size else tuple(max(parts) for parts in self.sides(grid))


@dataclass(frozen=True)
class Layout:
    """The token order of one image.

    `order` `(L,)` indexes its prefix tokens followed by its patches row by row; `patches` `(h*w,)` finds the patches
    again, row by row, in the ordered tokens; `lengths` are those of the windows (and of the prefix), which add up to
    L.
    """

    order: Tensor
    patches: Tensor
    lengths: tuple[int, ...]


@remembered
def window_layout(windows: Windows, grid: tuple[int, int], prefix: int, device: torch.device) -> Layout:
    """The order in which the windows of a grid are contiguous, for `prefix` prefix tokens."""
    h, w = grid
    heights, widths = windows.sides(grid)
    head = torch.arange(prefix)
    tokens = torch.arange(h * w).view(h, w) + prefix
    parts = [cell.flatten() for row in tokens.split(heights) for cell in row.split(widths, dim=1)]  # row by row
    if windows.prefix == "window":
        parts = [torch.cat([head, part]) for part in parts]
    elif prefix:
        parts = [head, *parts]
    order = torch.cat(parts)
    patches = order.masked_fill(order < prefix, prefix + h * w).argsort()[: h * w]  # prefix tokens last
    return Layout(order.to(device), patches.to(device), tuple(len(part) for part in parts))


def _even(total: int, parts: int) -> list[int]:
    return [total // parts + (i < total % parts) for i in range(parts)]
