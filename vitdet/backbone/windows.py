"""Windows: the order of an image's tokens in which each window is a contiguous, shorter sequence.

h×w the patch grid of an image, P prefix tokens (class, registers)
L tokens of the image: P + h*w, or more if each window has a copy of the prefix tokens
"""

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from vitdet.backbone.attention import remembered


@dataclass(frozen=True)
class Windows:
    """How a grid is divided: into windows of at most `size` tokens a side, or into `rows` × `columns` windows.

    If the size does not divide the grid, the grid is divided as evenly as possible (20 tokens by 14 give 10 + 10), so
    that no window is narrow, and nothing is padded.

    `prefix` is the role of prefix tokens in blocks with windows. With `"image"`, the prefix tokens of an image are a
    separate sequence, and attend to patches in global blocks only. With `"window"`, every window has a copy of them, as
    in RF-DETR's windowed DINOv2, and attention in global blocks is among all copies.
    """

    size: int = 0
    rows: int = 0
    columns: int = 0
    prefix: str = "image"

    @classmethod
    def parse(cls, windows: int | str, prefix: str) -> "Windows":
        """The windows of an option: `14` is a size in tokens, `"2x2"` a number of rows and columns of windows."""
        rows, x, columns = str(windows).partition("x")
        return cls(rows=int(rows), columns=int(columns), prefix=prefix) if x else cls(size=int(rows), prefix=prefix)

    def sides(self, grid: tuple[int, int]) -> tuple[list[int], list[int]]:
        """The heights of the rows of windows, and the widths of their columns, in tokens."""
        h, w = grid
        rows, columns = (ceil(h / self.size), ceil(w / self.size)) if self.size else (self.rows, self.columns)
        return _even(h, min(rows, h)), _even(w, min(columns, w))

    def largest(self, grid: tuple[int, int]) -> tuple[int, int]:
        """An upper bound of the height and the width of the grid's windows in tokens: `size`, if it is given."""
        return (self.size, self.size) if self.size else tuple(max(parts) for parts in self.sides(grid))


@dataclass(frozen=True)
class Layout:
    """The order of the tokens of an image.

    `order` `(L,)` are the indices of the ordered tokens among prefix tokens and patches, row by row; `patches` `(h*w,)`
    are the indices of the patches, row by row, in the ordered tokens. `lengths` are the numbers of tokens of the
    windows (and of the prefix), which add up to L.
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
    # windows row by row
    parts = [cell.flatten() for row in tokens.split(heights) for cell in row.split(widths, dim=1)]
    if windows.prefix == "window":
        parts = [torch.cat([head, part]) for part in parts]
    elif prefix:
        parts = [head, *parts]
    order = torch.cat(parts)
    # prefix tokens are sorted last
    patches = order.masked_fill(order < prefix, prefix + h * w).argsort()[: h * w]
    return Layout(order.to(device), patches.to(device), tuple(len(part) for part in parts))


def _even(total: int, parts: int) -> list[int]:
    return [total // parts + (i < total % parts) for i in range(parts)]
