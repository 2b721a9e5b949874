"""Predicts on large images in overlapping tiles, so that small objects keep their size; `merge` puts them together."""

from collections.abc import Iterator, Sequence
from itertools import product
from math import ceil

import numpy as np
import torch

from vitdet.deploy.merge import Corners, Found, merge
from vitdet.deploy.predict import Detector, check_batch_size
from vitdet.errors import UserError, check
from vitdet.structures import Prediction


class TiledDetector(Detector):
    """A detector that sees images larger than a tile in overlapping tiles, and puts the predictions together.

    Each tile is resized as an image of its size would be, and an image that fits into a tile is predicted as ever.
    Detections of several tiles that are one object become one: that with the best score among those that no border
    cuts, or, if borders cut them all, the union of their boxes and masks. Its score is the best of them. Of semantic
    maps, each pixel is that of the tile whose centre is nearest.

    Args:
        detector: The detector that sees the tiles.
        tile: Side of a tile in pixels of the image.
        overlap: Share of a tile's side, in [0.05, 0.9], that neighbours overlap at least. Objects that are smaller
            than the overlap are whole in a tile.
        whole: Whether the whole image is seen, too, at the size of the model, for objects that are much larger than a
            tile. It costs a little accuracy on small ones.
        batch_size: Number of tiles in a batch.
        limit: Number of the best detections of an image that are returned; fewer if their masks would take more than
            1 GB.

    Raises:
        UserError: an argument is out of its range, or the model is panoptic.

    Example:
        >>> list(tiles((480, 1000), 640, 0.2))
        [(0, 0, 640, 480), (360, 0, 1000, 480)]
    """

    def __init__(
        self,
        detector: Detector,
        *,
        tile: int = 640,
        overlap: float = 0.2,
        whole: bool = False,
        batch_size: int = 8,
        limit: int = 1000,
    ) -> None:
        check("tile", tile, isinstance(tile, int) and tile >= 16, "a number of pixels from 16")
        check("overlap", overlap, 0.05 <= overlap <= 0.9, "a share of the tile from 0.05 to 0.9")
        check("limit", limit, isinstance(limit, int) and limit >= 1, "a whole number from 1")
        check_batch_size(batch_size)
        if detector.kind == "panoptic":
            raise UserError("panoptic maps can't be put together from tiles; predict without tiles")
        # whatever the detector is, also one of another engine, this one has the same classes, transform and thresholds
        vars(self).update(vars(detector))
        self.detector, self.tile, self.overlap, self.whole = detector, tile, overlap, whole
        self.tile_batch, self.limit = batch_size, limit

    @property
    def kind(self) -> str:
        return self.detector.kind

    @property
    def predicts(self) -> str | None:
        return self.detector.predicts

    @property
    def runs_on(self) -> str:
        return self.detector.runs_on

    def infer(self, x: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        return self.detector.infer(x, sizes)

    def see(self, arrays: Sequence[np.ndarray], x: Sequence[torch.Tensor] | None = None) -> list[Prediction]:
        small = [max(array.shape[:2]) <= self.tile for array in arrays]
        untiled = iter(self.detector.see([array for array, one in zip(arrays, small) if one]) if any(small) else ())
        return [next(untiled) if one else self._tiled(array) for array, one in zip(arrays, small)]

    def _tiled(self, array: np.ndarray) -> Prediction:
        size = (array.shape[0], array.shape[1])
        places = list(tiles(size, self.tile, self.overlap))
        batches = [places[i : i + self.tile_batch] for i in range(0, len(places), self.tile_batch)]
        if self.whole and self.kind != "semantic":
            places.append((0, 0, size[1], size[0]))
            batches.append(places[-1:])
        maps, found = [], []
        for batch in batches:
            for part, place in zip(self.detector.see([array[y1:y2, x1:x2] for x1, y1, x2, y2 in batch]), batch):
                if part.semantic is not None:
                    maps.append(part.semantic.cpu())
                else:
                    found.append(Found.of(part, place))
        return mosaic(maps, places, size) if maps else merge(found, places, size, limit=self.limit)


def tiles(size: tuple[int, int], tile: int, overlap: float) -> Iterator[Corners]:
    """The corners of as few tiles as cover an image of `size` `(H, W)`, spread evenly; a shorter side is not cut."""
    rows, columns = (_spans(length, tile, overlap) for length in size)
    return ((x1, y1, x2, y2) for (y1, y2), (x1, x2) in product(rows, columns))


def _spans(length: int, tile: int, overlap: float) -> list[tuple[int, int]]:
    if length <= tile:
        return [(0, length)]
    count = 1 + ceil((length - tile) / (tile * (1 - overlap)))
    starts = [i * (length - tile) // (count - 1) for i in range(count)]
    return [(start, start + tile) for start in starts]


def mosaic(maps: Sequence[torch.Tensor], places: Sequence[Corners], size: tuple[int, int]) -> Prediction:
    """The semantic map of an image of `size` `(H, W)`: each pixel is that of the tile whose centre is nearest.

    Args:
        maps: the maps `(h, w)` of the tiles.
        places: the corners of the tiles.
        size: of the image.
    """
    whole, nearest = maps[0].new_zeros(size), torch.full(size, torch.inf)
    for part, (x1, y1, x2, y2) in zip(maps, places):
        y = torch.arange(y1, y2) - (y1 + y2 - 1) / 2
        x = torch.arange(x1, x2) - (x1 + x2 - 1) / 2
        distance = y[:, None] ** 2 + x**2
        nearer = distance < nearest[y1:y2, x1:x2]
        nearest[y1:y2, x1:x2][nearer] = distance[nearer]
        whole[y1:y2, x1:x2][nearer] = part[nearer]
    empty = torch.zeros(0)
    return Prediction(empty.view(0, 4), empty, empty.long(), size=size, semantic=whole)
