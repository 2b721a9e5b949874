"""The masks of instances: whether they can be read, and their bounding boxes."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle

from vitdet.annotations.json_text import is_finite
from vitdet.data.check.content import Content
from vitdet.errors import UserError
from vitdet.masks import to_rle

# a coordinate beyond this is no pixel of any image
FAR = 1e6
# how many pixels a mask may reach beyond its image, as a fraction of the side and at least
BEYOND, LEAST = 0.01, 2.0

Box = tuple[float, float, float, float]


class Mask(NamedTuple):
    """What is known of the mask of an object.

    Attributes:
        row: the position of the object.
        code: what is wrong with it, or empty; `why` says more.
        box_xywh: its bounding box in pixels, if it has one.
        there: whether the annotation has a mask at all.
    """

    row: int
    code: str = ""
    why: str = ""
    box_xywh: Box | None = None
    there: bool = True


def read_masks(content: Content, i: int, rows: range, file: Path) -> list[Mask]:
    """The masks of the objects of image `i`, whose annotations are read from the file a second time."""
    width, height = content.size(i)
    if not rows or not (width and height):
        return []
    found = []
    with open(file, "rb") as text:
        for row in rows:
            start, end = content.objects.spans[row].tolist()
            text.seek(start)
            item = json.loads(text.read(end - start).decode("latin-1"))
            found.append(check_mask(row, item.get("segmentation"), width, height))
    return found


def check_mask(row: int, segmentation: Any, width: int, height: int) -> Mask:
    """What is known of the mask of an object.

    Args:
        row: the position of the object.
        segmentation: as in COCO: polygons, or run lengths.
        width, height: the size of the image in pixels.
    """
    if segmentation is None or segmentation == [] or segmentation == {}:
        return Mask(row, there=False)
    if isinstance(segmentation, dict):
        return _check_runs(row, segmentation, width, height)
    if not isinstance(segmentation, list):
        return Mask(row, "mask-broken", f"segmentation is {str(segmentation)[:40]!r}")
    if not all(isinstance(polygon, list) for polygon in segmentation):
        return Mask(row, "mask-broken", "its polygon is no list in a list")
    usable = [polygon for polygon in segmentation if len(polygon) >= 4]
    if not usable:
        return Mask(row, "mask-broken", "no polygon has three points")
    for polygon in usable:
        if wrong := [value for value in polygon if not is_finite(value) or abs(value) > FAR]:
            return Mask(row, "mask-broken", f"a polygon has the coordinate {wrong[0]!r}"[:80])
        if len(polygon) % 2:
            return Mask(row, "mask-broken", f"a polygon has {len(polygon)} numbers, which is odd")
    return _check_polygons(row, usable, width, height)


def _check_polygons(row: int, polygons: list[list[float]], width: int, height: int) -> Mask:
    points = [np.array(polygon, np.float64).reshape(-1, 2) for polygon in polygons]
    (left, top), (right, bottom) = np.concatenate(points).min(0).tolist(), np.concatenate(points).max(0).tolist()
    box = (left, top, right - left, bottom - top)
    # a polygon of two points is a rectangle, by its corners
    areas = [abs(math.prod((p[1] - p[0]).tolist())) if len(p) == 2 else _area(p) for p in points]
    if max(areas) == 0:
        return Mask(row, "mask-empty", "its polygons have no area", box)
    over = max(-left, -top, right - width, bottom - height)
    if over > max(LEAST, BEYOND * max(width, height)):
        return Mask(row, "mask-outside", f"{over:.0f} pixels beyond the image of {width}×{height}", box)
    return Mask(row, box_xywh=box)


def _area(points: np.ndarray) -> float:
    x, y = points.T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def _check_runs(row: int, code: dict[str, Any], width: int, height: int) -> Mask:
    size = code.get("size")
    if isinstance(size, (list, tuple)) and len(size) == 2 and list(size) != [height, width]:
        swapped = ", swapped" if list(size) == [width, height] else ""
        return Mask(row, "mask-size", f"mask of {size[1]}×{size[0]}, image of {width}×{height}{swapped}")
    try:
        runs = to_rle(code, height, width)
        area, box = float(rle.area(runs)), rle.toBbox(runs).tolist()
    except (UserError, ValueError, TypeError, KeyError, OverflowError) as error:
        return Mask(row, "mask-broken", str(error)[:120])
    return Mask(row, "" if area else "mask-empty", "" if area else "its run lengths hold no pixel", tuple(box))
