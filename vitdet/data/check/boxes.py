"""Findings about boxes and masks of instances, and the boxes of panoptic segments."""

from collections.abc import Callable, Sequence

import numpy as np

from vitdet.annotations.box_formats import box_formats, disagree, overhang, tolerance
from vitdet.data.check.content import Content
from vitdet.data.check.finding import Findings
from vitdet.data.check.masks import Mask


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


def check_repeats(content: Content, findings: Findings) -> None:
    """Annotations with the image, class and box of an earlier one."""
    objects = content.objects
    rows = np.flatnonzero(np.isfinite(objects.boxes_xywh).all(1))
    keys = np.column_stack([objects.image[rows], objects.raw_label[rows], objects.boxes_xywh[rows].round(2)])
    _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    again = np.zeros(len(objects), bool)
    again[rows] = first[which.ravel()] != np.arange(len(rows))
    _note(content, findings, "object-twice", again)
