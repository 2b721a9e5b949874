"""Object masks, decoded one at a time and only as large as they are needed.

T objects, H×W the whole image in pixels, h×w the part that is shown, at the size it is shown at
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as rle

from vitdet.masks import resize_labels, resize_mask

Part = tuple[slice, slice]  # rows and columns of the whole image


class Masks:
    """The masks of one image, as its annotations give them. Calling it gives some of them as arrays."""

    def __call__(self, rows: Sequence[int], part: Part, size: tuple[int, int]) -> np.ndarray:
        """`(T, h, w)` uint8, 0 or 1: of objects number `rows`, the `part`, resized to `size` `(h, w)`."""
        raise NotImplementedError


class CocoMasks(Masks):
    """Of compressed run lengths, one for each object."""

    def __init__(self, rles: Sequence[dict[str, Any]]) -> None:
        self.rles = rles

    def __call__(self, rows: Sequence[int], part: Part, size: tuple[int, int]) -> np.ndarray:
        out = np.zeros((len(rows), *size), np.uint8)
        for k, row in enumerate(rows):
            out[k] = resize_mask(rle.decode(self.rles[row])[part], *size)
        return out


class IdMasks(Masks):
    """Of a map in which every pixel holds the number of its segment or class.

    Args:
        ids: `(H, W)` integers.
        wanted: the number of each object.
    """

    def __init__(self, ids: np.ndarray, wanted: Sequence[int]) -> None:
        self.ids, self.wanted = ids, np.asarray(wanted)

    def __call__(self, rows: Sequence[int], part: Part, size: tuple[int, int]) -> np.ndarray:
        shown = resize_labels(self.ids[part], *size)
        return (shown == self.wanted[list(rows), None, None]).astype(np.uint8)
