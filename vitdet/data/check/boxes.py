"""Findings about boxes and masks of instances, and the boxes of panoptic segments."""

from collections.abc import Callable, Sequence

import numpy as np

from vitdet.data.check.content import Content
from vitdet.data.check.finding import Findings
from vitdet.data.check.masks import BEYOND, LEAST, Mask

# a box of a split is judged by the format of all boxes only where there are so many
ENOUGH = 8


def check_masks(content: Content, masks: Sequence[Mask], findings: Findings) -> None:
    """Findings about masks that can't be read; the boxes of the others are kept in `content.objects`."""
    objects = content.objects
    for mask in masks:
        if mask.box_xywh is not None and not mask.code:
            objects.masks_xywh[mask.row] = mask.box_xywh
    for code in ("mask-broken", "mask-size", "mask-empty", "mask-outside"):
        note = [content.object_example(mask.row, mask.why) for mask in masks if mask.code == code]
        findings.note(code, content.split, note)
    without = [mask.row for mask in masks if not mask.there]
    if len(without) < len(masks):
        few = [content.object_example(row) for row in without]
        findings.note("mask-missing", content.split, few, of=len(masks))
    boxless = np.isnan(objects.boxes_xywh[:, 0]) & ~np.isnan(objects.masks_xywh[:, 0])
    objects.boxes_xywh[boxless] = objects.masks_xywh[boxless]


def check_boxes(content: Content, findings: Findings) -> None:
    """Findings about boxes of instances: another format, beyond the image, empty, or not that of the mask."""
    objects = content.objects
    if not len(objects):
        return
    sizes = content.sizes()[objects.image]
    usable = np.asarray(np.isfinite(objects.boxes_xywh).all(1) & (sizes > 0).all(1))
    with np.errstate(invalid="ignore", over="ignore"):
        formats = box_formats(objects.boxes_xywh, sizes, objects.masks_xywh, objects.area, usable)
        for code, rows in formats.items():
            _note(content, findings, code, rows)
            usable &= ~rows
            # what is in another format says nothing about sizes
            objects.boxes_xywh[rows] = np.nan
        x, y, w, h = objects.boxes_xywh.T
        width, height = sizes.T
        empty = usable & ((w <= 0) | (h <= 0))
        _note(content, findings, "box-empty", empty)
        usable &= ~empty
        outside = usable & ((x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0))
        _note(content, findings, "box-outside", outside, lambda row: _of(sizes[row]))
        usable &= ~outside
        over = overhang(objects.boxes_xywh, sizes)
        beyond = usable & (over > tolerance(sizes))
        _note(content, findings, "box-beyond", beyond, lambda row: f"{over[row]:.0f} pixels beyond {_of(sizes[row])}")
        # stuff, such as sky or a kerb, often has such boxes
        things = usable & (content.kind == "instances")
        _note(content, findings, "box-thin", things & (np.fmax(w, h) > 20 * np.fmin(w, h)) & (np.fmax(w, h) > 40))
        _note(content, findings, "box-whole-image", things & (w >= 0.995 * width) & (h >= 0.995 * height))
        off = usable & ~beyond & disagree(objects.boxes_xywh, objects.masks_xywh) & ~objects.crowd
    code = "mask-box" if content.kind == "instances" else "segment-box"
    _note(content, findings, code, off, lambda row: f"mask {_sides(objects.masks_xywh[row])}")
    if content.kind == "instances":
        check_repeats(content, findings)


def _note(
    content: Content, findings: Findings, code: str, rows: np.ndarray, more: Callable[[int], str] | None = None
) -> None:
    found = np.flatnonzero(rows)
    few = found[np.linspace(0, len(found) - 1, min(len(found), 200)).astype(int)] if len(found) else found
    examples = [content.object_example(row, more(row) if more else "") for row in few.tolist()]
    findings.note(code, content.split, examples, count=len(found), of=len(content.objects))


def _of(size: np.ndarray) -> str:
    return f"an image of {size[0]:g}×{size[1]:g}"


def _sides(box: np.ndarray) -> str:
    return f"[{', '.join(f'{side:g}' for side in box.round(1).tolist())}]"


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
        by_mask = fits & disagree(boxes, masks_xywh) & ~np.isnan(masks_xywh[:, 0]) & ~disagree(other, masks_xywh)
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


def check_repeats(content: Content, findings: Findings) -> None:
    """Annotations with the image, class and box of an earlier one."""
    objects = content.objects
    rows = np.flatnonzero(np.isfinite(objects.boxes_xywh).all(1))
    keys = np.column_stack([objects.image[rows], objects.raw_label[rows], objects.boxes_xywh[rows].round(2)])
    _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    again = np.zeros(len(objects), bool)
    again[rows] = first[which.ravel()] != np.arange(len(rows))
    _note(content, findings, "object-twice", again)
