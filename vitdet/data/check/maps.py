"""Label maps and the PNGs of panoptic segments: which values they hold, and where."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitdet.images import load_values, open_image
from vitdet.masks import png_ids


class Region(NamedTuple):
    """The pixels of a map that hold one value.

    Attributes:
        value: the value.
        area: the number of its pixels.
        box_xywh: their bounding box in pixels.
    """

    value: int
    area: int
    box_xywh: tuple[int, int, int, int]


class Map(NamedTuple):
    """What is known of a map.

    Attributes:
        code: what is wrong with it, or empty; `why` says more.
        size: width and height in pixels.
        regions: a region for each value, ordered by value.
    """

    code: str = ""
    why: str = ""
    size: tuple[int, int] = (0, 0)
    regions: tuple[Region, ...] = ()


def numbers_of(path: Path, *, colours: bool) -> np.ndarray:
    """The numbers in a map as training reads them, `(H, W)`, or its colours, `(H, W, 3)`, if they stand for none.

    Args:
        path: the file; of a palette, the positions are the numbers, unless its colours are.
        colours: whether a colour stands for a number, R + 256 G + 65536 B, as in COCO's panoptic format.
    """
    values = load_values(path, colours=colours)
    return png_ids(values) if colours and values.ndim == 3 else values


def read_map(path: Path, *, colours: bool) -> Map:
    """What is known of a map.

    Args:
        path: the file.
        colours: see `numbers_of`.
    """
    if not path.exists():
        return Map("map-missing", "no such file")
    try:
        with open_image(path) as image:
            size, form = image.size, image.format
        if form in ("JPEG", "MPO"):
            return Map("map-lossy", "a JPEG", size)
        values = numbers_of(path, colours=colours)
    # decoders raise errors of many classes
    except Exception as error:
        return Map("map-unreadable", str(error).removeprefix(f"{path} "))
    if values.ndim != 2:
        return Map("map-colours", "pixels of three channels", size)
    return Map(size=size, regions=tuple(regions(values)))


def regions(values: np.ndarray) -> list[Region]:
    """The regions of a map `(H, W)` of whole numbers.

    Example:
        >>> regions(np.array([[0, 7], [0, 0]]))[1]
        Region(value=7, area=1, box_xywh=(1, 0, 1, 1))
    """
    if not values.size:
        return []
    width = values.shape[1]
    # runs of equal values within a row, which are far fewer than pixels
    new = np.ones(values.shape, bool)
    new[:, 1:] = values[:, 1:] != values[:, :-1]
    starts = np.flatnonzero(new)
    lengths = np.diff(starts, append=values.size)
    found, group = np.unique(values.ravel()[starts], return_inverse=True)
    top, left = np.full((2, len(found)), values.size)
    bottom, right = np.zeros((2, len(found)), np.int64)
    rows, columns = np.divmod(starts, width)
    np.minimum.at(top, group, rows)
    np.maximum.at(bottom, group, rows + 1)
    np.minimum.at(left, group, columns)
    np.maximum.at(right, group, columns + lengths)
    area = np.bincount(group, lengths).astype(np.int64)
    boxes = np.stack([left, top, right - left, bottom - top], 1).tolist()
    return [Region(v, a, tuple(box)) for v, a, box in zip(found.tolist(), area.tolist(), boxes)]
