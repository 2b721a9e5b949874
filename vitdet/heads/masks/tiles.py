"""Cuts large images into square tiles, and combines the scores of the tiles' pixels.

H×W an image in the size that the model sees, h×w a tile, K classes
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, product
from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# the number of classes whose scores at full size are held in memory at a time
CHUNK = 16


class Place(NamedTuple):
    """The number of a tile's image in the batch, and the tile's top left corner in that image, in pixels."""

    image: int
    top: int
    left: int


def cut(images: Sequence[Tensor], side: int) -> tuple[list[Tensor], list[Place]]:
    """Overlapping tiles `(3, h, w)` of images `(3, H, W)`: as few as cover an image, spread evenly.

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
    """For each image, the mean of its tiles' scores `(K, h, w)` at every pixel, `(K, H, W)` for the `(H, W)` in
    `sizes`.

    Only the scores of a single image are held in memory at a time.
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
    """The class with the largest score at every pixel of the original image, uint8 in its `size`.

    Args:
        scores: `(K, H, W)`; they are interpolated bilinearly.
        size: height and width of the original image.
    """
    best = torch.full(size, -torch.inf, device=scores.device)
    label = torch.zeros(size, dtype=torch.uint8, device=scores.device)
    for first in range(0, len(scores), CHUNK):
        part = scores[first : first + CHUNK].float()
        top, index = F.interpolate(part[None], size, mode="bilinear", align_corners=False)[0].max(0)
        label = torch.where(top > best, (index + first).to(torch.uint8), label)
        best = torch.maximum(top, best)
    return label
