"""Resizing and cropping training samples, and fitting boxes to masks; H×W is the size of an image in pixels."""

from collections.abc import Sequence

import numpy as np

from vitdet.data.object_masks import Masks
from vitdet.data.transforms.evaluate import resize
from vitdet.data.transforms.sample import MIN_SIDE, MIN_VISIBLE, Sample
from vitdet.data.transforms.size import Size
from vitdet.masks import bounds


def crop(
    sample: Sample,
    full: tuple[int, int],
    window: tuple[int, int],
    rng: np.random.Generator,
    *,
    min_visible: float = MIN_VISIBLE,
) -> Sample:
    """The sample resized to `full` `(H, W)` and cropped at random to at most `window` `(H, W)`, its masks decoded.

    An object is dropped if less than the share `min_visible` of its box is left, or less than a pixel; other boxes are
    clipped. A crop without objects is not drawn again: it is a negative, like an image without annotations.
    """
    shown = min(full[0], window[0]), min(full[1], window[1])
    height, width = sample.size
    # how many pixels of the file a pixel of the image stands for
    step = reduction(sample.size, sample.image.shape[:2])
    # Only the part of the image that the crop shows is resized, enlarged to full pixels of the image.
    top, bottom = _span(height, full[0], shown[0], rng, step)
    left, right = _span(width, full[1], shown[1], rng, step)
    part = (slice(top, bottom), slice(left, right))
    limit = np.array([right - left, bottom - top] * 2, np.float32)
    moved = sample.boxes * np.array([width, height] * 2, np.float32) - np.array([left, top] * 2, np.float32)
    clipped = moved.clip(0, limit)
    sides = (clipped[:, 2:] - clipped[:, :2]) * (np.array(shown[::-1], np.float32) / limit[:2])
    keep = (_area(clipped) > min_visible * _area(moved)) & (sides >= MIN_SIDE).all(1)
    masks = None if sample.masks is None else _encoded(sample.masks)(np.flatnonzero(keep), part, shown)
    pixels = sample.image[top // step : -(-bottom // step), left // step : -(-right // step)]
    return Sample(resize(pixels, *shown), (clipped / limit)[keep], sample.labels[keep], masks)


def _encoded(masks: Masks | np.ndarray) -> Masks:
    if not isinstance(masks, Masks):
        raise TypeError("the masks of the sample are decoded, so it can't be cropped again")
    return masks


def reduction(size: tuple[int, int], wanted: tuple[int, int]) -> int:
    """The largest of 8, 4, 2 and 1 by which the sides of an image of `size` can be divided and be at least `wanted`."""
    return next((k for k in (8, 4, 2) if all(-(-a // k) >= b for a, b in zip(size, wanted))), 1)


def fit_boxes(sample: Sample) -> Sample:
    """The sample with boxes clipped to the bounds of their masks plus a pixel, and without objects of empty masks."""
    masks = sample.decoded
    if masks is None:
        return sample
    height, width = sample.image.shape[:2]
    tight = bounds(masks)
    keep = np.flatnonzero(tight[:, 2] > 0)
    tight = (tight[keep] + np.array([-1, -1, 1, 1])) / np.array([width, height] * 2)
    boxes, tight = sample.boxes[keep], tight.clip(0, 1).astype(np.float32)
    cut = np.concatenate([np.maximum(boxes[:, :2], tight[:, :2]), np.minimum(boxes[:, 2:], tight[:, 2:])], axis=1)
    boxes = np.where((cut[:, 2:] > cut[:, :2]).all(1, keepdims=True), cut, tight)
    # masks take megabytes, so they are copied only where some are dropped
    masks = masks if len(keep) == len(masks) else masks[keep]
    return Sample(sample.image, boxes, sample.labels[keep], masks)


def _span(side: int, full: int, shown: int, rng: np.random.Generator, step: int) -> tuple[int, int]:
    """The start and end of a random part of `side` pixels that becomes `shown` pixels when `side` becomes `full`.

    They are multiples of `step`, unless the end is that of the image.
    """
    start = int(rng.integers(full - shown + 1))
    low, high = start * side // full, -(-(start + shown) * side // full)
    return low // step * step, min(side, -(-high // step) * step)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def smallest_shown(
    heights: Sequence[int], widths: Sequence[int], size: Size, *, scale: float, window: tuple[int, int] | None
) -> list[tuple[int, int]]:
    """The `(H, W)` with the fewest rows, and the one with the fewest columns, to which images are resized and cropped.

    Args:
        heights, widths: the sizes of the images in pixels.
        size: the size to which they are resized.
        scale: the smallest factor by which that size is multiplied.
        window: `(H, W)`, the largest size of a crop.
    """
    pairs = np.unique(np.stack([heights, widths], axis=1), axis=0).tolist()
    resized = (size(*pair) for pair in pairs)
    shown = [(max(1, round(height * scale)), max(1, round(width * scale))) for height, width in resized]
    shown = [pair if window is None else (min(pair[0], window[0]), min(pair[1], window[1])) for pair in shown]
    return list(dict.fromkeys([min(shown), min(shown, key=lambda pair: pair[::-1])]))
