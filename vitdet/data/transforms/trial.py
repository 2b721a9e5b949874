"""A trial of albumentations' transforms on made-up images, before a training.

A transform may fail for some images only, or in one of a hundred draws, and some give arrays that are no images for a
training. Here each is applied to the smallest images that a training shows, whatever its probability.
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from random import Random
from typing import Any

import albumentations as A
import cv2
import numpy as np

from vitdet.data.transforms.adapter import Pipeline, Transform, apply
from vitdet.data.transforms.augment import describe
from vitdet.data.transforms.sample import Sample
from vitdet.errors import UserError

# draws for each transform when it is surely applied, and for all of them with their own probabilities
FORCED, DRAWN = 2, 6
# the groups that apply some of their members
CHOICES = (A.OneOf, A.SomeOf, A.OneOrOther)


def try_out(pipeline: Pipeline, sizes: Iterable[tuple[int, int]], *, masks: bool) -> None:
    """See `Augment.try_out`."""
    for size in sizes:
        for objects in (3, 0):
            sample = made_up(size, objects, masks=masks)
            for seed in range(FORCED):
                _forced(pipeline, sample, seed)
            for seed in range(DRAWN):
                shown = sample
                for transform in pipeline.transforms:
                    shown = _attempt(pipeline, transform, shown, seed)


def _forced(pipeline: Pipeline, sample: Sample, seed: int) -> None:
    for transform in pipeline.transforms:
        results = [_attempt(pipeline, surely, sample, seed) for surely in alternatives(transform)]
        sample = results[0]


def alternatives(transform: Transform) -> Iterator[Transform]:
    """Copies of a transform that are applied surely; of a group that chooses, each of its members."""
    members = list(getattr(transform, "transforms", ())) if isinstance(transform, A.BaseCompose) else []
    if isinstance(transform, CHOICES):
        for member in members:
            yield from alternatives(member)
        return
    for place, member in enumerate(members):
        for k, surely in enumerate(alternatives(member)):
            # the first alternatives of all members are tried together
            if place == 0 or k > 0:
                changed: Any = deepcopy(transform)
                firsts = [next(alternatives(other)) for other in members]
                changed.p, changed.transforms = 1.0, [*firsts[:place], surely, *firsts[place + 1 :]]
                yield changed
    if not members:
        copy = deepcopy(transform)
        copy.p = 1.0
        yield copy


def _attempt(pipeline: Pipeline, transform: Transform, sample: Sample, seed: int) -> Sample:
    name, (height, width) = describe([transform], chances=False), sample.image.shape[:2]
    try:
        out = apply(pipeline.composed([transform]), sample, Random(seed), np.random.default_rng(seed))
    except Exception as error:
        # the errors of albumentations have no class in common
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"train_transforms: {name} can't be applied to an image of {width}×{height}, as data.size, "
            f"data.scale_jitter and data.augmentation may give{_about(sample)}: {reason}; change it, or leave it out"
        ) from error
    if fault := _fault(out, sample):
        raise UserError(f"train_transforms: {name} gives {fault}")
    return out


def _about(sample: Sample) -> str:
    parts = [] if len(sample.boxes) else ["without objects"]
    return ", ".join(["", *parts, *(["without masks"] if sample.masks is None else [])])


def _fault(out: Sample, before: Sample) -> str:
    """Why a result is no sample to train on; empty if it is one."""
    image, wanted = out.image, "wanted RGB (H, W, 3) uint8, which vitdet normalises itself: leave it out"
    if not isinstance(image, np.ndarray):
        return f"a {type(image).__module__}.{type(image).__name__}; {wanted}"
    if image.dtype != np.uint8:
        return f"{image.dtype}; {wanted}"
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        return f"an array {image.shape}; {wanted}"
    if not (np.isfinite(out.boxes).all() and len(out.boxes) == len(out.labels) <= len(before.boxes)):
        return "boxes that are no longer those of the objects; leave it out"
    masks = out.decoded
    if masks is not None and (masks.shape != (len(out.labels), *image.shape[:2]) or masks.max(initial=0) > 1):
        return f"masks {masks.shape} with values up to {masks.max(initial=0)}, which don't fit the image; leave it out"
    return ""


def made_up(size: tuple[int, int], objects: int, *, masks: bool) -> Sample:
    """A sample of `size` `(H, W)`: noise, on which brighter rectangles are the objects."""
    (height, width), rng = size, np.random.default_rng(0)
    coarse = rng.integers(0, 180, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    image = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    boxes = np.array([[0.1, 0.1, 0.5, 0.6], [0.3, 0.4, 0.9, 0.95], [0.05, 0.7, 0.25, 0.8]], np.float32)[:objects]
    shapes = np.zeros((objects, height, width), np.uint8)
    for shape, box in zip(shapes, boxes):
        left, top, right, bottom = (box * [width, height, width, height]).round().astype(int)
        shape[top:bottom, left:right] = 1
        image[top:bottom, left:right] |= 64
    return Sample(image, boxes, np.arange(objects), shapes if masks else None)
