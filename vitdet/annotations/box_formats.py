"""Whether boxes seem to be in another format than COCO's: left, top, width and height in pixels. A is their number."""

import numpy as np

# how many pixels a box or a mask may reach beyond its image, as a fraction of the side and at least
BEYOND, LEAST = 0.01, 2.0
# a box is judged by the format of all boxes only where there are so many
ENOUGH = 8


def overhang(boxes_xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """How many pixels each box reaches beyond its image `(A, 2)`, negative where it lies inside."""
    x, y, w, h = boxes_xywh.T
    return np.max([-x, -y, x + w - sizes[:, 0], y + h - sizes[:, 1]], axis=0)


def tolerance(sizes: np.ndarray) -> np.ndarray:
    """How many pixels a box may reach beyond its image without a finding."""
    return np.maximum(LEAST, BEYOND * sizes.max(1))


def disagree(boxes_xywh: np.ndarray, masks_xywh: np.ndarray) -> np.ndarray:
    """Which boxes are not those of their masks: a side is more than 4 pixels and a tenth of the box off."""
    corners, other = (np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], 1) for box in (boxes_xywh, masks_xywh))
    side = np.maximum(boxes_xywh[:, 2:], masks_xywh[:, 2:])
    return np.asarray((np.abs(corners - other) > np.maximum(4.0, 0.1 * np.concatenate([side, side], 1))).any(1))


def box_formats(
    boxes: np.ndarray, sizes: np.ndarray, masks_xywh: np.ndarray, area: np.ndarray, usable: np.ndarray
) -> dict[str, np.ndarray]:
    """Which boxes seem to be in another format than left, top, width and height in pixels.

    Args:
        boxes: `(A, 4)` as in the file.
        sizes: `(A, 2)`, the width and height of the image of each box in pixels.
        masks_xywh: `(A, 4)`, the bounding boxes of masks, NaN where there is none.
        area: `(A,)`, as in the file.
        usable: `(A,)` bool, which boxes are judged.
    """
    fractions = usable & (boxes[:, 2:] > 0).all(1) & (np.abs(boxes) <= 1).all(1) & (sizes > 16).all(1)
    rest = usable & ~fractions & (boxes[:, 2:] > 0).all(1)
    over = overhang(boxes, sizes) > tolerance(sizes)
    # the same four numbers as corners, and as a centre with sides, in left, top, width, height
    corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    centred = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], 1)
    found = {"box-fractions": fractions, "box-percent": np.zeros(len(boxes), bool)}
    if rest.sum() >= ENOUGH and _percent(boxes[rest], sizes[rest]):
        found["box-percent"], rest = rest, np.zeros(len(boxes), bool)
    for code, other in (("box-xyxy", corners), ("box-centre", centred)):
        fits = rest & (other[:, 2:] > 0).all(1) & (overhang(other, sizes) <= tolerance(sizes))
        # by the mask, or by the area where the box as it stands is beyond the image
        by_mask, rows = np.zeros(len(boxes), bool), np.flatnonzero(fits & ~np.isnan(masks_xywh[:, 0]))
        by_mask[rows] = disagree(boxes[rows], masks_xywh[rows]) & ~disagree(other[rows], masks_xywh[rows])
        product = other[:, 2] * other[:, 3]
        by_area = fits & over & (np.abs(area - product) < 0.01 * product) & (code == "box-xyxy")
        # or because all fit so, and many do not fit as they stand
        many = rest.sum() >= ENOUGH and fits[rest].mean() > 0.98 and over[rest].mean() > 0.2
        found[code] = fits if many else by_mask | by_area
        rest = rest & ~found[code]
    return {code: rows for code, rows in found.items() if rows.any()}


def _percent(boxes: np.ndarray, sizes: np.ndarray) -> bool:
    ends = boxes[:, :2] + boxes[:, 2:]
    return bool((boxes >= 0).all() and (ends <= 100.5).all() and (ends.max(0) > 75).all() and (sizes > 150).all())
