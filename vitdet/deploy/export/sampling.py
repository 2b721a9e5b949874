"""Deformable sampling of maps of equal size, by gathers and weighted sums: every engine has these, and fuses them.

B images, Q queries of an image, T tokens of an image in all levels, A heads, D channels of a head
S sampling points of all levels together
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vitdet.deploy.export.dynamic import Size, divided, real


class DenseMemory:
    """What `Memory` of the deformable attention is, for images of equal size.

    Args:
        maps: the level's maps `(B, h, w, C)`, finest first.
        strides: their strides in pixels.
        size: height and width of the images in pixels, without padding.
        points: the number of sampling points in each level.

    Attributes:
        tokens: `(B, T, C)` the tokens, level after level.
        x: `(B*T, C)` the same, packed.
    """

    def __init__(
        self, maps: Sequence[Tensor], strides: Sequence[float], size: tuple[Size, Size], points: Sequence[int]
    ) -> None:
        self.batch = maps[0].shape[0]
        self.tokens = torch.cat([level.flatten(1, 2) for level in maps], 1)
        self.x = self.tokens.flatten(0, 1)
        levels = [level for level, count in enumerate(points) for _ in range(count)]
        self.points = sum(points)
        # of each point (S,): its level's grid, where the level starts, and the image's size in tokens
        one = torch.arange(1)
        grids = [(level.shape[1], level.shape[2]) for level in maps]
        starts = [0]
        for h, w in grids[:-1]:
            starts.append(starts[-1] + h * w)
        self.h, self.w, self.start = (
            torch.cat([one + values[level] for level in levels]) for values in (*zip(*grids), starts)
        )
        self.down, self.across = (
            torch.stack([real(side) / strides[level] for level in levels]) for side in (size[0], size[1])
        )

    def sample(self, value: Tensor, images: None, levels: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums `(B*Q, A*D)` of bilinear samples, with zeros outside each map, see `deformable.sample`."""
        A, D = value.shape[1], value.shape[2]
        x, y = locations[..., 0] * self.across - 0.5, locations[..., 1] * self.down - 0.5  # (B*Q, A, S)
        left, top = x.floor(), y.floor()
        dx, dy = x - left, y - top
        left, top = left.long(), top.long()
        # the weights of the two columns and rows around a point, 0 outside the map
        columns = [(left, 1 - dx), (left + 1, dx)]
        rows = [(top, (1 - dy) * weights), (top + 1, dy * weights)]
        columns = [self._inside(cell, factor, self.w) for cell, factor in columns]
        rows = [self._inside(cell, factor, self.h) for cell, factor in rows]
        token = torch.stack([row * self.w + column for row, _ in rows for column, _ in columns], -1)
        factor = torch.stack([a * b for _, a in rows for _, b in columns], -1)  # (B*Q, A, S, 4)
        head = torch.arange(A)[:, None, None]
        image = torch.arange(self.batch)[:, None, None, None, None] * self.tokens.shape[1]
        token = divided(token + self.start[:, None], 0, (self.batch, -1)) + image
        rows = value.flatten(0, 1)[(token * A + head).flatten()]  # (B*Q*A*S*4, D)
        rows = rows.view(-1, 4 * self.points, D)
        return (factor.view(-1, 1, 4 * self.points) @ rows).view(-1, A * D)

    def _inside(self, cell: Tensor, factor: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        """The cell, moved into the map, and its factor, which is 0 if it had to be moved."""
        moved = torch.minimum(cell.clamp(min=0), side - 1)
        return moved, factor * (moved == cell)
