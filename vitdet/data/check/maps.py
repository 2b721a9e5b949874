"""Label maps and the PNGs of panoptic segments: which values they hold, and where."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

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


def read_map(path: Path, *, colours: bool) -> Map:
    """What is known of a map.

    Args:
        path: the file.
        colours: whether a colour stands for a number, R + 256 G + 65536 B, as in COCO's panoptic format.
    """
    try:
        if not path.is_file():
            return Map("map-missing", "no such file")
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            if image.format in ("JPEG", "MPO"):
                return Map("map-lossy", "a JPEG", image.size)
            values = np.asarray(image)
            mode, size = image.mode, image.size
    except Exception as error:
        why = str(error) if "cannot identify" not in str(error) else "no known format"
        return Map("map-unreadable", why)
    if colours and values.ndim == 3 and values.shape[2] >= 3:
        values = png_ids(values[..., :3])
    if values.ndim != 2:
        return Map("map-colours", f"mode {mode}", size)
    if values.dtype.kind not in "ui":
        return Map("map-unreadable", f"mode {mode}: wanted whole numbers", size)
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
