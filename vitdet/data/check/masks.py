"""The masks of instances: whether they can be read, and their bounding boxes."""

import json
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from pycocotools import mask as rle

from vitdet.annotations.box_formats import BEYOND, LEAST
from vitdet.data.check.content import Content
from vitdet.errors import DataError
from vitdet.masks import to_rle
from vitdet.segmentations import check_on_image, extent_of, is_missing, polygons_of, size_of

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
    if is_missing(segmentation):
        return Mask(row, there=False)
    try:
        if isinstance(segmentation, dict):
            return _check_runs(row, segmentation, width, height)
        polygons = polygons_of(segmentation)
        check_on_image(extent_of(polygons), height, width)
    except DataError as error:
        return Mask(row, "mask-broken", str(error))
    return _check_polygons(row, polygons, width, height)


def _check_polygons(row: int, polygons: list[list[float]], width: int, height: int) -> Mask:
    points = [np.array(polygon, np.float64).reshape(-1, 2) for polygon in polygons]
    (left, top), (right, bottom) = np.concatenate(points).min(0).tolist(), np.concatenate(points).max(0).tolist()
    box = (left, top, right - left, bottom - top)
    if not any(map(_area, points)):
        return Mask(row, "mask-empty", "its polygons have no area", box)
    over = max(-left, -top, right - width, bottom - height)
    if over > max(LEAST, BEYOND * max(width, height)):
        return Mask(row, "mask-outside", f"{over:.0f} pixels beyond the image of {width}×{height}", box)
    return Mask(row, box_xywh=box)


def _area(points: np.ndarray) -> float:
    x, y = points.T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def _check_runs(row: int, code: dict[str, Any], width: int, height: int) -> Mask:
    size = size_of(code)
    if size != (height, width):
        swapped = ", swapped" if size == (width, height) else ""
        return Mask(row, "mask-size", f"mask of {size[1]}×{size[0]}, image of {width}×{height}{swapped}")
    # pycocotools' stubs want a type of their own, which is private
    runs = cast(Any, to_rle(code, height, width))
    box = tuple(rle.toBbox(runs).tolist())
    return Mask(row, "" if rle.area(runs) else "mask-empty", "" if rle.area(runs) else "no pixel in run lengths", box)
