"""Shapes of annotation tools as polygons `[x1, y1, x2, y2, ...]` in pixels, and masks of bitmaps."""

import base64
import io
import math
import warnings
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from vitdet.errors import DataError
from vitdet.images import MAX_PIXELS, open_pil

# no mask in a file of labels is larger, compressed as an image
MAX_BYTES = 2**26


def around(polygons: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """The corners of the box around polygons."""
    xs = [x for polygon in polygons for x in polygon[::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def area(polygon: Sequence[float]) -> float:
    """The area of a polygon, by the shoelace formula.

    Example:
        >>> area([0, 0, 4, 0, 4, 3])
        6.0
    """
    xs, ys = polygon[::2], polygon[1::2]
    # from the first point on, so that large coordinates do not cost precision
    xs, ys = [x - xs[0] for x in xs], [y - ys[0] for y in ys]
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2


def turned(corners: Sequence[float], degrees: float) -> list[float]:
    """The corners of a box that is turned about its centre, clockwise in the image, as a polygon."""
    x0, y0, x1, y1 = corners
    x, y, sin, cos = (x0 + x1) / 2, (y0 + y1) / 2, math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    # a quarter turn is exact
    sin, cos = (value if abs(value - round(value)) > 1e-12 else round(value) for value in (sin, cos))
    offsets = ((px - x, py - y) for px, py in ((x0, y0), (x1, y0), (x1, y1), (x0, y1)))
    return [part for dx, dy in offsets for part in (x + dx * cos - dy * sin, y + dx * sin + dy * cos)]


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0) -> list[float]:
    """An ellipse as a polygon that stays within a tenth of a pixel of it; its leftmost and topmost points are exact."""
    radius = min(max(abs(rx), abs(ry), 1.0), 1e6)
    # the sagitta of a chord of n corners is r (1 - cos(pi / n)); a multiple of four has the outermost points
    count = 4 * min(64, max(4, math.ceil(math.pi / math.acos(1 - min(0.1 / radius, 1)) / 4)))
    angles = [2 * math.pi * i / count for i in range(count)]
    sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    points = [(rx * math.cos(angle), ry * math.sin(angle)) for angle in angles]
    return [part for dx, dy in points for part in (x + dx * cos - dy * sin, y + dx * sin + dy * cos)]


def bitmap(text: Any, where: Any) -> np.ndarray:
    """The mask `(h, w)` of an image file in base64, compressed by zlib or not; what is neither black nor transparent
    counts.

    Raises:
        DataError: the text is no such image.
    """
    try:
        data = base64.b64decode(text, validate=True)
        if not data.startswith(b"\x89PNG"):
            data = zlib.decompressobj().decompress(data, MAX_BYTES)
        # the size is checked before the image is decoded
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = open_pil(io.BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"it has {image.width}×{image.height} pixels")
        if image.mode in ("RGBA", "LA"):
            return np.asarray(image.getchannel("A")) > 0
        return np.asarray(image if image.mode in ("1", "L", "P") else image.convert("L")) > 0
    except Exception as error:
        # the decoders of PIL raise errors of many classes
        raise DataError(f"{where}: the mask is no image in base64: {error}") from error


def place_mask(mask: np.ndarray, left: int, top: int, width: int, height: int) -> np.ndarray:
    """A mask `(height, width)` of an image from that of a part of it, which is cut where it lies outside."""
    whole = np.zeros((height, width), np.uint8)
    y0, x0 = max(top, 0), max(left, 0)
    part = mask[y0 - top : max(height - top, 0), x0 - left : max(width - left, 0)]
    whole[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part
    return whole


def fill(polygons: Sequence[Sequence[float]], holes: Sequence[Sequence[float]], width: int, height: int) -> np.ndarray:
    """The mask `(height, width)` of polygons without their holes."""
    whole = _fill(polygons, width, height)
    for hole in holes:
        whole &= 1 - _fill([hole], width, height)
    return whole


def _fill(polygons: Sequence[Sequence[float]], width: int, height: int) -> np.ndarray:
    outlines = [list(polygon) for polygon in polygons]
    # pycocotools takes fractions of a pixel, which its stubs do not say
    codes = rle.frPyObjects(outlines, height, width)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return rle.decode(rle.merge(codes))


def mask_object(mask: np.ndarray) -> tuple[dict[str, Any], list[float], int]:
    """The run lengths, the box `[left, top, width, height]` and the number of pixels of a mask `(H, W)`."""
    code = rle.encode(np.asfortranarray(mask, np.uint8))
    box = [float(value) for value in rle.toBbox(code)]
    # bytes, where the stubs of pycocotools say text
    counts = code["counts"].decode()  # pyright: ignore[reportAttributeAccessIssue]
    return {"size": list(mask.shape), "counts": counts}, box, int(rle.area(code))
