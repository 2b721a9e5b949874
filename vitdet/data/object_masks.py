"""Object masks, decoded object by object and only at the size at which they are needed.

T is the number of objects, H×W the size of the full image in pixels, and h×w the size to which a part of it is resized.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as rle

from vitdet.masks import resize_labels, resize_mask

# the rows and columns of a part of the full image
Part = tuple[slice, slice]
# whole numbers, one for each object
Positions = Sequence[int] | np.ndarray


class Masks:
    """The masks of an image as its annotations encode them; a call decodes some of them to arrays."""

    def __call__(self, rows: Positions, part: Part, size: tuple[int, int]) -> np.ndarray:
        """The masks of some objects, `(T, h, w)` uint8 with values 0 and 1.

        Args:
            rows: the positions of the T objects.
            part: the part of the image to decode.
            size: `(h, w)` to which the part is resized.
        """
        raise NotImplementedError


class CocoMasks(Masks):
    """Masks that are stored as compressed run lengths.

    Args:
        rles: the run lengths of each object, as pycocotools encodes them.
    """

    def __init__(self, rles: Sequence[dict[str, Any]]) -> None:
        self.rles = rles

    def __call__(self, rows: Positions, part: Part, size: tuple[int, int]) -> np.ndarray:
        out = np.zeros((len(rows), *size), np.uint8)
        for k, row in enumerate(rows):
            # the stubs of pycocotools have a private type for run lengths
            mask = rle.decode(self.rles[row])  # pyright: ignore[reportArgumentType]
            out[k] = resize_mask(mask[part], *size)
        return out


class IdMasks(Masks):
    """Masks that are stored as a map in which every pixel holds the number of its segment or class.

    Args:
        ids: the map, `(H, W)` integers.
        wanted: the number that each object has in the map.

    Example:
        >>> masks = IdMasks(np.array([[1, 1], [1, 2]]), wanted=[2])
        >>> masks(rows=[0], part=(slice(0, 2), slice(0, 2)), size=(2, 2)).tolist()
        [[[0, 0], [0, 1]]]
    """

    def __init__(self, ids: np.ndarray, wanted: Positions) -> None:
        self.ids, self.wanted = ids, np.asarray(wanted)

    def __call__(self, rows: Positions, part: Part, size: tuple[int, int]) -> np.ndarray:
        shown = resize_labels(self.ids[part], *size)
        return (shown == self.wanted[list(rows), None, None]).astype(np.uint8)
