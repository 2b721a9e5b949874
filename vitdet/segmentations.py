"""Checking the `segmentation` of a COCO annotation before pycocotools sees it, which reads and writes memory unchecked.

H×W is the size of an image in pixels.
"""

import re
from math import isnan
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from vitdet.errors import DataError, short

# COCO's compressed run lengths: each character holds six bits, added to the code of "0"
COUNTS = re.compile("[0-o]+")
# JSON's numbers; `bool` is another type
NUMBERS = {int, float}
# values of JSON that stand for no mask
NOTHING = (None, "", [], {}, [[]])
# The memory of pycocotools grows with the length of an outline: this one, in pixels, takes 400 MB.
LONGEST = 4_000_000
# Coordinates may lie outside the image, where masks are cut off, by this many of its longer sides, or this many pixels.
SIDES, PIXELS = 10, 10_000
# the largest number that counts as finite: sums and products of some of them are finite, too
FINITE = 1e100
# pycocotools counts the pixels of an image in 32 bits
MOST_PIXELS = 2**32 - 1

Polygons = list[list[float]]


class Extent(NamedTuple):
    """What is known of a valid mask without its image.

    Attributes:
        low, high: the smallest and the largest coordinate of polygons; the height and the width of run lengths.
        polygons: whether it is polygons.
    """

    low: float
    high: float
    polygons: bool


def is_missing(segmentation: Any) -> bool:
    """Whether a `segmentation` stands for no mask, as that of an object that has only a box.

    Example:
        >>> is_missing([]), is_missing([[0, 0, 9, 0, 9, 9]])
        (True, False)
    """
    return segmentation is None or (isinstance(segmentation, (str, list, dict)) and segmentation in NOTHING)


def check(segmentation: Any) -> Extent:
    """Checks a `segmentation` as far as that is possible without its image.

    Raises:
        DataError: it is neither valid polygons nor valid run lengths; the message has the wrong value.

    Example:
        >>> check([[0, 0, 9.5, 0, 9.5, 9]])
        Extent(low=0, high=9.5, polygons=True)
    """
    if isinstance(segmentation, dict):
        height, width = size_of(segmentation)
        check_run_lengths(segmentation.get("counts"), height, width)
        return Extent(height, width, polygons=False)
    return _quick_extent(segmentation) or extent_of(polygons_of(segmentation))


def _quick_extent(segmentation: Any) -> Extent | None:
    """The extent of polygons that are valid, as most are; `None` where more must be known, see `polygons_of`."""
    if not isinstance(segmentation, list) or not segmentation:
        return None
    lows, highs = [], []
    for values in segmentation:
        if (
            not isinstance(values, list)
            or len(values) < 6
            or len(values) % 2
            or not NUMBERS.issuperset(map(type, values))
        ):
            return None
        low, high = min(values), max(values)
        # `min` and `max` may miss a NaN, but it makes the sum NaN
        if not (low > -LONGEST and high < LONGEST and not isnan(sum(values)) and len(values) * (high - low) < LONGEST):
            return None
        lows.append(low)
        highs.append(high)
    return Extent(min(lows), max(highs), polygons=True)


def extent_of(polygons: Polygons) -> Extent:
    """The smallest and the largest coordinate of polygons."""
    return Extent(min(map(min, polygons)), max(map(max, polygons)), polygons=True)


def check_on_image(extent: Extent, height: int, width: int) -> None:
    """Checks that a mask may be one of an image of this size.

    Raises:
        DataError: the run lengths are of another size, or polygons lie far outside the image.
    """
    if not 0 < height * width <= MOST_PIXELS:
        got = f"{height}×{width} pixels (H×W)" if height * width else "no size in the file"
        raise DataError(f"the image has {got}, and so can't have a mask")
    if not extent.polygons:
        if (extent.low, extent.high) != (height, width):
            size = [int(extent.low), int(extent.high)]
            raise DataError(f"run lengths are of size {size}, the image is {height}×{width} (H×W)")
        return
    limit = farthest(height, width)
    if not -limit <= extent.low <= extent.high <= limit:
        raise DataError(f"its polygons lie far outside the image of {height}×{width} (H×W)")


def farthest(height: Any, width: Any) -> Any:
    """The largest magnitude that a coordinate may have on an image of this size, in pixels; arrays give an array."""
    return np.maximum(SIDES * np.maximum(height, width), PIXELS)


def polygons_of(segmentation: Any, *, limit: float = FINITE) -> Polygons:
    """The polygons of a `segmentation`, which are `[x1, y1, x2, y2, ...]` with three points or more.

    A rectangle that is written as two opposite corners, as LabelMe does, becomes a polygon of four points. Single
    points, which cover nothing, are passed over.

    Args:
        segmentation: the value in the file.
        limit: the largest magnitude that a coordinate may have, see `farthest`.

    Raises:
        DataError: it is no list of polygons, or a coordinate is no number, or beyond the limit.

    Example:
        >>> polygons_of([[1, 2, 5, 4]])
        [[1, 2, 5, 2, 5, 4, 1, 4]]
    """
    if not isinstance(segmentation, (list, tuple)) or not all(isinstance(part, (list, tuple)) for part in segmentation):
        flat = isinstance(segmentation, (list, tuple)) and segmentation and all(map(_is_number, segmentation))
        hint = "; put the numbers of each polygon into a list within the list" if flat else ""
        raise DataError(
            f"segmentation {short(segmentation)} is neither polygons of three points or more nor run lengths{hint}"
        )
    polygons = [_polygon(n, part, limit) for n, part in enumerate(segmentation) if len(part)]
    polygons = [part for part in polygons if len(part) > 2]
    if not polygons:
        raise DataError(
            f"segmentation {short(segmentation)} is neither polygons of three points or more nor run lengths"
        )
    return polygons


def _polygon(n: int, values: Any, limit: float) -> list[float]:
    if not NUMBERS.issuperset(map(type, values)):
        for k, value in enumerate(values):
            if not _is_number(value):
                raise DataError(f"coordinate {k} of polygon {n} is {short(value)}; wanted a number")
        values = list(map(float, values))
    if len(values) % 2:
        raise DataError(f"polygon {n} has {len(values)} numbers; wanted x and y of each point")
    low, high = min(values), max(values)
    # NaN is neither below nor above other numbers, but makes the sum NaN
    if not -limit <= low <= high <= limit or isnan(sum(values)):
        k, value = next((k, v) for k, v in enumerate(values) if not -limit <= v <= limit)
        wanted = "a number on the image" if -FINITE <= value <= FINITE else "a finite number"
        raise DataError(f"coordinate {k} of polygon {n} is {short(value)}; wanted {wanted}")
    if len(values) == 4:
        (left, right), (top, bottom) = sorted(values[::2]), sorted(values[1::2])
        values = [left, top, right, top, right, bottom, left, bottom]
    if len(values) * (high - low) > LONGEST and _length(values) > LONGEST:
        k = max(range(len(values)), key=lambda k: abs(values[k]))
        raise DataError(
            f"the outline of polygon {n} is {_length(values):g} pixels long (coordinate {k} is {short(values[k])}); "
            f"wanted {LONGEST:,} at most"
        )
    return list(values)


def _length(values: list[float]) -> float:
    """The length of the outline of a polygon in pixels, in the greater of the two directions of each side."""
    points = np.array(values, np.float64).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(1).sum())


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def size_of(segmentation: dict[str, Any]) -> tuple[int, int]:
    """The height and the width that run lengths are of.

    Raises:
        DataError: they have none.
    """
    size = segmentation.get("size")
    if (
        not isinstance(size, (list, tuple))
        or len(size) != 2
        or not all(_is_number(side) and 0 <= side <= MOST_PIXELS and side == int(side) for side in size)
    ):
        raise DataError(f"run lengths are of size {short(size)}; wanted the height and the width of the image")
    return int(size[0]), int(size[1])


def check_run_lengths(counts: Any, height: int, width: int) -> None:
    """Checks run lengths, compressed or as a list.

    Raises:
        DataError: they are no run lengths, or do not add up to the number of pixels.

    Example:
        >>> check_run_lengths([4, 2, 3], 3, 3)
    """
    if isinstance(counts, (str, bytes)):
        total = int(decompress(counts).sum())
    elif isinstance(counts, (list, tuple)):
        for k, count in enumerate(counts):
            if not _is_number(count) or not 0 <= count <= MOST_PIXELS or count != int(count):
                raise DataError(
                    f"segmentation {short(counts)} can't be read: run length {k} is {short(count)}; "
                    f"wanted a whole number from 0 to {height * width}"
                )
        total = int(sum(counts))
    else:
        raise DataError(f"run lengths have counts {short(counts)}; wanted a string or a list of integers")
    if total != height * width:
        raise DataError(f"run lengths cover {total} pixels, the image has {height}×{width} (H×W)")


def decompress(counts: str | bytes) -> np.ndarray:
    """The run lengths that COCO's compressed text stands for, int64.

    A number is written in groups of five bits, the lowest first; a sixth bit says that another group follows, and the
    highest of the last group is the sign. From the fourth number on, it is the difference to the last but one.

    Raises:
        DataError: the text is not compressed run lengths.

    Example:
        >>> decompress("423").tolist()
        [4, 2, 3]
    """
    text = counts if isinstance(counts, str) else counts.decode("latin-1")
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48 if COUNTS.fullmatch(text) else np.array([32])
    ends = np.flatnonzero(codes < 32)
    if codes[-1] >= 32:
        raise DataError(f"run lengths have counts {short(text)}, which are not COCO's compressed ones")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise DataError(f"run lengths have counts {short(text)}, of which one is out of range")
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 31) << 5 * places, starts)
    values -= np.where(codes[ends] & 16, 1 << 5 * lengths, 0)
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    if values.min() < 0:
        raise DataError(f"run lengths have counts {short(text)}, of which one is negative")
    return values
