"""Training samples made of several: mixup and copy-paste; H×W is the size of an image in pixels, T counts its objects.

The samples have been resized and cropped before, so their masks are decoded.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vitdet.data.transforms.sample import Sample
from vitdet.errors import UserError
from vitdet.masks import bounds

# the range of the weight of the first image in a mixup, as in RT-DETRv2 (arXiv:2407.17140) and DEIM (arXiv:2412.04234)
WEIGHTS = (0.45, 0.55)
# the probability with which an object of the other image is pasted
CHOSEN = 0.5
# how many objects are searched for a mask before copy-paste is refused
SEARCHED = 100


def mixup(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """Two images blended, with the objects of both (arXiv:1710.09412; for detection arXiv:1902.04103).

    Args:
        sample: the first image, whose size the result has. Where the other image is not, it stays as it is.
        other: the other image, which is no larger. Its place is random.
        rng: draws the place and the weight.
    """
    top, left = _place(sample, other, rng)
    weight = float(rng.uniform(*WEIGHTS))
    height, width = other.image.shape[:2]
    image = sample.image.copy()
    part = image[top : top + height, left : left + width]
    part[...] = (weight * part + (1 - weight) * other.image).round().astype(np.uint8)
    rows, size, masks = np.arange(len(other.labels)), image.shape[:2], other.decoded
    boxes = _moved_boxes(other, rows, size, (top, left))
    masks = None if masks is None else _moved_masks(masks, rows, size, (top, left))
    return _joined(Sample(image, sample.boxes, sample.labels, sample.masks), boxes, other.labels, masks)


def copy_paste(
    sample: Sample, other: Sample, rng: np.random.Generator, *, may: Sequence[bool], min_visible: float
) -> Sample:
    """Random objects of another image, cut out by their masks and pasted on top (arXiv:2012.07177).

    What they cover is cut off the objects under them, whose boxes become the bounds of the rest.

    Args:
        sample: the image to paste on, with masks.
        other: the image of the objects, with masks, which is no larger. Its place is random.
        rng: draws the place and the objects.
        may: whether objects of a class may be pasted, by label.
        min_visible: the share of an object that must be left uncovered, or it is dropped.
    """
    (top, left), theirs = _place(sample, other, rng), _masks(other)
    drawn = rng.random(len(other.labels)) < CHOSEN
    chosen = [k for k, label in enumerate(other.labels.tolist()) if drawn[k] and may[label] and theirs[k].any()]
    if not chosen:
        return sample
    height, width = other.image.shape[:2]
    image, rows, size = sample.image.copy(), np.array(chosen), sample.image.shape[:2]
    boxes = _moved_boxes(other, rows, size, (top, left))
    masks = _moved_masks(theirs, rows, size, (top, left))
    # `asarray` is for the type only: numpy's stubs take a single flag into account
    covered = np.asarray(masks.any(0))
    part = (slice(top, top + height), slice(left, left + width))
    image[part][covered[part]] = other.image[covered[part]]
    ours = _masks(sample)
    rest = ours * ~covered
    before, after = (m.reshape(len(m), covered.size).sum(1, dtype=np.int64) for m in (ours, rest))
    kept = np.flatnonzero((after == before) | (after > min_visible * before))
    cut = after < before
    under = sample.boxes.copy()
    under[cut] = bounds(rest[cut]) / np.array(image.shape[1::-1] * 2, np.float32)
    return _joined(Sample(image, under[kept], sample.labels[kept], rest[kept]), boxes, other.labels[chosen], masks)


def check_mixing(augmentation: Any, kind: str, index: Any) -> None:
    """Checks that the training data has what mixup and copy-paste need.

    Args:
        augmentation: the options, see `vitdet.data.Augmentation`.
        kind: the kind of the labels: instances, semantic or panoptic.
        index: the training images.

    Raises:
        UserError: it does not.
    """
    for name in ("mixup", "copy_paste"):
        value, reason = getattr(augmentation, name), ""
        if kind == "semantic":
            reason = "a label map has one class for each pixel and no objects"
        elif kind == "panoptic" and name == "mixup":
            reason = "of two blended images each pixel would have two segments"
        elif kind == "panoptic" and not any(index.things):
            reason = "only things are pasted, and no class is a thing"
        elif name == "copy_paste" and value and kind == "instances" and not _have_masks(index):
            reason = f"objects are cut out by their masks, and {index.path} has boxes only"
        if value and reason:
            raise UserError(f"augmentation.{name} is {value:g}; wanted 0 for this data: {reason}")


def _have_masks(index: Any) -> bool:
    rows = np.flatnonzero(index.trainable)[:SEARCHED].tolist()
    return any(index.raw(row).get("segmentation") for row in rows)


def _place(sample: Sample, other: Sample, rng: np.random.Generator) -> tuple[int, int]:
    """The row and column of `sample` at which the corner of `other` lies."""
    pairs = zip(sample.image.shape[:2], other.image.shape[:2])
    top, left = (int(rng.integers(outer - inner + 1)) for outer, inner in pairs)
    return top, left


def _masks(sample: Sample) -> np.ndarray:
    """The masks of a sample that must have them."""
    masks = sample.decoded
    if masks is None:
        raise TypeError("the sample has no masks")
    return masks


def _moved_boxes(sample: Sample, rows: np.ndarray, size: tuple[int, int], corner: tuple[int, int]) -> np.ndarray:
    """The boxes of objects on a canvas of `size` `(H, W)`, on which the image lies at `corner`."""
    (height, width), (top, left) = sample.image.shape[:2], corner
    boxes = sample.boxes[rows] * [width, height, width, height] + [left, top, left, top]
    return (boxes / [size[1], size[0], size[1], size[0]]).clip(0, 1).astype(np.float32)


def _moved_masks(masks: np.ndarray, rows: np.ndarray, size: tuple[int, int], corner: tuple[int, int]) -> np.ndarray:
    """The masks of objects on the same canvas, `(T, H, W)`."""
    (height, width), (top, left) = masks.shape[1:], corner
    moved = np.zeros((len(rows), *size), np.uint8)
    moved[:, top : top + height, left : left + width] = masks[rows]
    return moved


def _joined(sample: Sample, boxes: np.ndarray, labels: np.ndarray, masks: np.ndarray | None) -> Sample:
    """The sample with more objects."""
    return Sample(
        sample.image,
        np.concatenate([sample.boxes, boxes]),
        np.concatenate([sample.labels, labels]),
        None if masks is None else np.concatenate([_masks(sample), masks]),
    )
