"""Whether the boxes and classes of an annotation file are probably others than those that are read."""

import numpy as np

from vitdet.annotations.box_formats import box_formats, disagree, overhang, tolerance
from vitdet.annotations.columns import UNKNOWN
from vitdet.annotations.index import CocoIndex
from vitdet.errors import DataError
from vitdet.masks import box_of

# how many boxes are compared with their masks, which are read from the file
MASKS = 100
# the share of the annotations that must be wrong before a file is refused
MOST = 0.5
# a file with fewer boxes that look like percents is not refused: small objects near a corner look like them, too
PERCENTS = 12
# the share of the boxes that reach beyond their images from which it is said
MANY = 0.1
# for each format that boxes may be in, what they seem to be, and what makes COCO's boxes of them
FORMATS = {
    "box-fractions": (
        "lie within 0 to 1, so they seem to be fractions of the images",
        "multiply them by the widths and heights",
    ),
    "box-percent": (
        "lie within 0 to 100, so they seem to be percents of the images",
        "multiply them by the widths and heights, and divide by 100",
    ),
    "box-xyxy": (
        "seem to be corners, [left, top, right, bottom]",
        "subtract left from the third number and top from the fourth",
    ),
    "box-centre": (
        "seem to have their centre in place of left and top",
        "subtract half of the width and half of the height",
    ),
}


def look_for_misread(index: CocoIndex) -> list[str]:
    """What is odd in all boxes of a file, a line each.

    Args:
        index: the annotations of a file; of several files, each is looked at by itself.

    Raises:
        DataError: most annotations are left out or lie outside their images, or most boxes are in another format.

    Example:
        >>> images = [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}]
        >>> boxes = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0.1, 0.2, 0.5, 0.5]}]
        >>> content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
        >>> look_for_misread(CocoIndex.of(content))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        vitdet.errors.DataError: annotations: all 1 boxes lie within 0 to 1, so they seem to be fractions ...
    """
    parts = getattr(index, "parts", None)
    if parts is not None:
        return [line for part in parts for line in look_for_misread(part)]
    _check_left_out(index)
    sizes = np.repeat(np.stack([index.widths, index.heights], 1).astype(np.float64), np.diff(index.first), axis=0)
    whole = ~index.boxless & (index.boxes_xywh[:, 2:] > 0).all(1) & (sizes > 0).all(1) & ~index.iscrowd
    rows = np.flatnonzero(whole)
    masks = np.full((len(sizes), 4), np.nan)
    if index.panoptic:
        return _formats(index, rows, sizes, masks)
    _check_outside(index, rows, sizes)
    with_mask = rows[(index.masked & ~index.broken)[rows]]
    with_mask = with_mask[np.linspace(0, len(with_mask) - 1, min(len(with_mask), MASKS)).astype(int)]
    for row in with_mask.tolist():
        masks[row] = box_of(index.rle(row))
    _formats(index, with_mask, sizes, masks)
    lines = _formats(index, rows, sizes, masks)
    there = (masks[with_mask, 2:] > 0).all(1)
    off = int(disagree(index.boxes_xywh[with_mask], masks[with_mask])[there].sum())
    if not lines and off > MOST * len(with_mask):
        lines = [f"{off} of {len(with_mask)} boxes are not those of their masks; `vitdet data check` lists them"]
    if not there.all():
        number = int(index.annotation_ids[with_mask[~there][0]])
        lines.append(
            f"{int((~there).sum())} of {len(with_mask)} masks have no pixel, such as that of annotation {number}: "
            "these objects are left out of the training of masks"
        )
    return lines


def _check_left_out(index: CocoIndex) -> None:
    left_out = {reason: count for reason, count in index.left_out.items() if reason.startswith("annotations left out:")}
    kept, served = len(index.categories), int((np.diff(index.first) > 0).sum())
    # a file of which somebody kept a part of the images, with the annotations of all, has what these images need
    harmless = left_out.get(UNKNOWN.format("image"), 0) if served > MOST * len(index) else 0
    lost = sum(left_out.values()) - harmless
    if lost > MOST * (lost + kept):
        reasons = "; ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise DataError(
            f"{index.path}: {lost} of {lost + kept} annotations can't be used: {reasons}; correct the file, or remove "
            "these annotations from it"
        )


def _check_outside(index: CocoIndex, rows: np.ndarray, sizes: np.ndarray) -> None:
    x, y, w, h = index.boxes_xywh[rows].T
    width, height = sizes[rows].T
    outside = int(((x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0)).sum())
    if outside > MOST * len(rows):
        raise DataError(
            f"{index.path}: {outside} of {len(rows)} boxes lie wholly outside their images; COCO's are [left, top, "
            'width, height] in pixels of an image of "width" and "height": are these of another size?'
        )


def _formats(index: CocoIndex, rows: np.ndarray, sizes: np.ndarray, masks: np.ndarray) -> list[str]:
    """Lines about boxes in other formats.

    Raises:
        DataError: most are.
    """
    boxes, usable = index.boxes_xywh[rows], np.ones(len(rows), bool)
    over = int((overhang(boxes, sizes[rows]) > tolerance(sizes[rows])).sum())
    lines = []
    for code, found in box_formats(boxes, sizes[rows], masks[rows], index.area[rows], usable).items():
        seem, remedy = FORMATS[code]
        count = int(found.sum())
        line = f"{f'all {count}' if count == len(rows) else f'{count} of {len(rows)}'} boxes {seem}"
        if count > MOST * len(rows) and (code != "box-percent" or count >= PERCENTS):
            raise DataError(f"{index.path}: {line}; COCO's are [left, top, width, height] in pixels: {remedy}")
        lines.append(line)
    if over > MANY * len(rows) and not lines:
        lines.append(f"{over} of {len(rows)} boxes reach beyond their images, where they are cut off")
    return lines
