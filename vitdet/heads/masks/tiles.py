"""Large images in square tiles, and the classes of their pixels from those of the tiles.

# H×W an image as the model sees it, h×w a tile, K classes
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, product
from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# classes at full size that are held at once
CHUNK = 16


class Place(NamedTuple):
    """Which image a tile is of, and where its top left corner lies in that."""

    image: int
    top: int
    left: int


def cut(images: Sequence[Tensor], side: int) -> tuple[list[Tensor], list[Place]]:
    """Tiles `(3, h, w)` of images `(3, H, W)`: as few as cover a side, evenly spread, so that they overlap.

    A side that is shorter than a tile is not cut.
    """
    places = [
        Place(i, top, left)
        for i, image in enumerate(images)
        for top, left in product(*(_starts(length, side) for length in image.shape[-2:]))
    ]
    return [images[i][:, top : top + side, left : left + side] for i, top, left in places], places


def _starts(length: int, side: int) -> list[int]:
    count = ceil(length / side)
    return [i * (length - side) // max(count - 1, 1) for i in range(count)]


def put_together(
    scores: Iterable[Tensor], places: Sequence[Place], sizes: Sequence[tuple[int, int]]
) -> Iterator[Tensor]:
    """Of each image the mean of its tiles' scores `(K, h, w)` at every pixel, `(K, H, W)` for the `(H, W)` in `sizes`.

    A single image is held at a time.
    """
    for i, tiles in groupby(zip(scores, places), lambda tile: tile[1].image):
        total = count = None
        for tile, (_, top, left) in tiles:
            if total is None:
                total, count = tile.new_zeros(len(tile), *sizes[i]), tile.new_zeros(sizes[i])
            total[:, top : top + tile.shape[1], left : left + tile.shape[2]] += tile
            count[top : top + tile.shape[1], left : left + tile.shape[2]] += 1
        yield total.div_(count)


def best_class(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """The class with the largest score `(K, H, W)` at every pixel of the original image, bilinear: `size` uint8."""
    best = torch.full(size, -torch.inf, device=scores.device)
    label = torch.zeros(size, dtype=torch.uint8, device=scores.device)
    for first in range(0, len(scores), CHUNK):
        part = scores[first : first + CHUNK].float()
        top, index = F.interpolate(part[None], size, mode="bilinear", align_corners=False)[0].max(0)
        label = torch.where(top > best, (index + first).to(torch.uint8), label)
        best = torch.maximum(top, best)
    return label
