"""Functions on masks as numpy arrays: run lengths, resizing and bounds; T is the number of masks, H×W their size."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as pycocotools_mask

from vitdet.segmentations import Extent, check_on_image, check_run_lengths, extent_of, farthest, polygons_of, size_of

# the stubs of pycocotools know neither polygons nor lists of run lengths, and not that counts are bytes
rle: Any = pycocotools_mask

# the value of pixels without a class in a class map, which are neither trained on nor scored
VOID = 255


def to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """A `segmentation` of COCO as compressed run lengths.

    Args:
        segmentation: a list of polygons `[x1, y1, x2, y2, ...]` in pixels, or run lengths, compressed or not.
        height, width: the size of the image in pixels.

    Raises:
        DataError: it is neither polygons nor run lengths of an image of this size; the message has the wrong value.

    Example:
        >>> code = to_rle([[0, 0, 2, 0, 2, 2, 0, 2]], height=4, width=4)
        >>> rle.decode(code).tolist()
        [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    """
    if isinstance(segmentation, dict):
        # of run lengths that are of another size and broken, the size says more
        check_on_image(Extent(*size_of(segmentation), polygons=False), height, width)
        check_run_lengths(segmentation.get("counts"), height, width)
        counts = segmentation["counts"]
        code = {"size": [height, width], "counts": counts}
        if isinstance(counts, (str, bytes)):
            return code
        return rle.frPyObjects({**code, "counts": list(map(int, counts))}, height, width)
    polygons = polygons_of(segmentation, limit=float(farthest(height, width)))
    check_on_image(extent_of(polygons), height, width)
    return rle.merge(rle.frPyObjects(polygons, height, width))


def box_of(segmentation: Any) -> list[float]:
    """The box `[left, top, width, height]` around a `segmentation`, in pixels; polygons are not cut at the image.

    Raises:
        DataError: it is neither valid polygons nor valid run lengths.

    Example:
        >>> box_of([[1, 2, 5, 2, 5, 4.5]])
        [1, 2, 4, 2.5]
    """
    if isinstance(segmentation, dict):
        return rle.toBbox(to_rle(segmentation, *size_of(segmentation))).tolist()
    polygons = polygons_of(segmentation)
    left, top = (min(min(polygon[axis::2]) for polygon in polygons) for axis in (0, 1))
    right, bottom = (max(max(polygon[axis::2]) for polygon in polygons) for axis in (0, 1))
    return [left, top, right - left, bottom - top]


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask `(H, W)` uint8 of 0 and 1 at another size: a pixel is 1 if at least half of the area it covers was."""
    import cv2

    out = np.zeros((height, width), np.uint8)
    # pycocotools decodes masks column by column, which OpenCV would copy
    _, left, _, wide = cv2.boundingRect(mask.T)
    if not wide:
        return out
    # The height first, then the width, because either may shrink while the other grows. So the first pass is needed for
    # the columns of the object only, the second for its rows.
    filters = [cv2.INTER_AREA if new < old else cv2.INTER_LINEAR for new, old in zip((height, width), mask.shape)]
    strip = cv2.resize(mask[:, left : left + wide] * np.uint8(255), (wide, height), interpolation=filters[0])
    _, top, _, high = cv2.boundingRect(strip)
    if not high:
        return out
    band = np.zeros((high, mask.shape[1]), np.uint8)
    band[:, left : left + wide] = strip[top : top + high]
    out[top : top + high] = cv2.resize(band, (width, high), interpolation=filters[1]) > 127
    return out


def resize_labels(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map `(H, W)` of integers at another size: each pixel gets the value at its centre."""
    if labels.shape == (height, width):
        return labels
    rows = ((np.arange(height) + 0.5) * labels.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * labels.shape[1] / width).astype(int)
    return labels[rows[:, None], columns]


def bounds(masks: np.ndarray) -> np.ndarray:
    """The bounding boxes of masks `(T, H, W)`: `(T, 4)` corners in pixels; zeros for an empty mask."""
    out = np.zeros((len(masks), 4), np.float32)
    for k, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            out[k] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return out


def id_png(ids: np.ndarray) -> bytes:
    """A map `(H, W)` of segment numbers as a PNG in COCO's panoptic format: a number is R + 256 G + 65536 B."""
    import cv2

    # OpenCV writes the channels in the order B, G, R
    planes = [(ids >> shift & 255).astype(np.uint8) for shift in (16, 8, 0)]
    return cv2.imencode(".png", np.stack(planes, -1))[1].tobytes()


def png_ids(rgb: np.ndarray) -> np.ndarray:
    """The map `(H, W)` int32 of segment numbers, 0 for void, from a panoptic PNG as an RGB array `(H, W, 3)`."""
    return rgb.astype(np.int32) @ np.array([1, 256, 65536], np.int32)


def encode(masks: np.ndarray) -> list[bytes]:
    """The compressed run lengths of masks `(T, H, W)` in COCO's format."""
    # pycocotools needs a copy in column-major order, which is made for 16 MB of masks at a time
    at_once = max(1, 2**24 // max(masks[:1].size, 1))
    parts = (masks[i : i + at_once] for i in range(0, len(masks), at_once))
    return [
        code["counts"] for part in parts for code in rle.encode(np.asfortranarray(part.transpose(1, 2, 0), np.uint8))
    ]


def outlines(mask: np.ndarray, *, tolerance: float = 0.0) -> list[np.ndarray]:
    """The borders of the parts of a mask, along the edges of its pixels, as one closed line each.

    The line of a part with holes goes to each hole and back on the same way, which encloses no area, so that a
    polygon filled by the even-odd rule, as all common tools fill them, is the mask.

    Args:
        mask: `(H, W)` bool.
        tolerance: how far, in pixels, a line may leave out corners; steps of single pixels become slopes at 0.5.

    Returns:
        `(N, 2)` float x and y in pixels of each part, the largest first.

    Example:
        >>> outlines(np.array([[False, True, True]]))[0].tolist()
        [[1.0, 0.0], [1.0, 1.0], [3.0, 1.0], [3.0, 0.0]]
    """
    import cv2

    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return []
    top, left = rows[0], columns[0]
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    # OpenCV follows the centres of pixels; those of pixels of half the size tell on which side of the border they are
    fine = part.astype(np.uint8).repeat(2, 0).repeat(2, 1)
    found, tree = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    lines = [_line(contour, tolerance) + np.array([left, top]) for contour in found]
    parts: dict[int, list[np.ndarray]] = {i: [] for i, (_, _, _, owner) in enumerate(tree[0]) if owner < 0}
    for i, (_, _, _, owner) in enumerate(tree[0]):
        parts[i if owner < 0 else owner].insert(0 if owner < 0 else len(parts[owner]), lines[i])
    largest = sorted(parts.values(), key=lambda some: -cv2.contourArea(some[0].astype(np.float32)))
    return [joined(some) for some in largest]


def joined(lines: Sequence[np.ndarray]) -> np.ndarray:
    """Closed lines `(N, 2)` as a single one, which goes from the first to each other and back on the same way."""
    first, *others = lines
    return np.concatenate([first, *(step for line in others for step in (first[:1], line, line[:1]))])


def _line(contour: np.ndarray, tolerance: float) -> np.ndarray:
    """A contour `(N, 1, 2)` on pixels of half the size as `(N, 2)` float along the edges of whole pixels."""
    import cv2

    corners = (contour[:, 0] + 1) // 2
    different = (corners != np.roll(corners, 1, axis=0)).any(1)
    corners = corners[different].astype(np.float64)
    if tolerance:
        fewer = cv2.approxPolyDP(corners.astype(np.float32)[:, None], tolerance, True)[:, 0]
        return fewer.astype(np.float64) if len(fewer) > 2 else corners
    return corners
