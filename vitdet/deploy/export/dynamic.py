"""Arithmetic of sizes that are not known when a graph is written, and resampling as products with small matrices.

Sizes are integers, or stand for integers of the graph; a comparison or a branch would fix them, so there are none.

B images, h×w a map, C channels, n and m the numbers of cells of a side before and after resampling
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vitdet.backbone.sequences import fixed

# an integer, or what an exporter has in its place
Size = Any


def real(size: Size) -> Tensor:
    """A size as a float tensor without dimensions."""
    return torch.scalar_tensor(size, dtype=torch.float32)


def least(a: Size, b: Size) -> Size:
    """The smaller of two sizes."""
    return a if a is b else (a + b - abs(a - b)) // 2


def rounded_up(size: Size, step: int) -> Size:
    """How many steps cover a size."""
    return (size + step - 1) // step


def cells(size: Size) -> Tensor:
    """The numbers 0 … size - 1, as floats."""
    return torch.arange(size).float()


def divided(x: Tensor, dim: int, sizes: Sequence[Size]) -> Tensor:
    """`x.unflatten(dim, sizes)`, which the exporter writes with the sizes of the example instead of those of `x`.

    The last dimension, unless it is divided, has the channels, whose number is fixed.
    """
    after = [x.shape[i] for i in range(dim + 1, x.ndim - 1)]
    last = [fixed(x, x.ndim - 1)] if dim < x.ndim - 1 else []
    return x.reshape(*x.shape[:dim], *sizes, *after, *last)


def pick(x: Tensor, index: Tensor) -> Tensor:
    """Of rows `(B, T, C)`, those with the numbers `index` `(B, n)`: `(B, n, C)`."""
    first = torch.arange(x.shape[0])[:, None] * x.shape[1]
    return divided(x.flatten(0, 1)[(index + first).flatten()], 0, (x.shape[0], index.shape[1]))


def linear_matrix(m: Size, n: Size, ratio: Tensor | float) -> Tensor:
    """The weights `(m, n)` of linear interpolation, as in PyTorch with `align_corners=False`; border values go on.

    Args:
        m, n: the numbers of cells after and before.
        ratio: the size of a cell after, in cells before.
    """
    centre = (cells(m) + 0.5) * ratio - 0.5
    centre = torch.minimum(centre.clamp(min=0), real(n - 1))
    return (1 - (centre[:, None] - cells(n)).abs()).clamp(min=0)


def resample(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Maps `(B, h, w, C)` to `(B, h', w', C)` by the weights `(h', h)` of rows and `(w', w)` of columns."""
    x = divided(rows @ maps.flatten(2), 2, maps.shape[2:])  # (B, h', w, C)
    return divided(columns @ x.flatten(0, 1), 0, (maps.shape[0], rows.shape[0]))


def cubic_matrix(m: Size, n: int, *, antialias: bool) -> Tensor:
    """The weights `(m, n)` of bicubic interpolation from `n` cells to `m`, as PyTorch's `interpolate` computes them."""
    ratio = n / real(m)
    if antialias:
        # the kernel is as wide as the larger cells, and what lies beyond the border has no weight
        wide = ratio.clamp(min=1.0)
        centre = (cells(m) + 0.5) * ratio - 0.5
        weights = _cubic((cells(n) - centre[:, None]) / wide, -0.5)
        return weights / weights.sum(1, keepdim=True)
    # cells beyond the border have the value of the border
    centre = (cells(m) + 0.5) * ratio - 0.5
    reach = torch.arange(-2, n + 2)
    weights = _cubic(reach.float() - centre[:, None], -0.75)
    return weights @ (reach.clamp(0, n - 1)[:, None] == torch.arange(n)).float()


def _cubic(distance: Tensor, a: float) -> Tensor:
    """The cubic convolution kernel of Keys with the parameter `a`."""
    x = distance.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
