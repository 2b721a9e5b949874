"""Resizing, cropping, augmenting and normalising upright RGB arrays for the model.

Boxes are `(T, 4)` float32 corners of T objects as fractions of the image, so resizing does not change them.
"""

import difflib
import os
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitdet.config import Configurable
from vitdet.data.object_masks import Masks
from vitdet.errors import UserError, check
from vitdet.masks import bounds
from vitdet.ranges import whole

# without it, albumentations looks up its newest version on the network
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

# the share of the area of a box that a crop must leave, or the object is dropped
MIN_VISIBLE = 0.3
# the most pixels of a side of a resized image: beyond it, a single image takes gigabytes
MAX_SIDE = 2**15
# the fewest pixels of a side of a box; a thinner box is dropped, because it may round to no area
MIN_SIDE = 1.0

Resample = Literal["area", "bilinear", "antialias"]


@dataclass
class Sample:
    """An image with its objects.

    Attributes:
        image: `(H, W, 3)` uint8.
        boxes, labels: `(T, 4)` float32, corners as fractions of the image, and `(T,)` int64.
        masks: `None` if the task needs no masks; else `Masks`, or `(T, H, W)` uint8 after `crop`, which decodes them.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: Masks | np.ndarray | None = None


class Size(Configurable):
    """The size to which images are resized for the model: a single rule, or no rule for the native size.

    Args:
        long_side: the length of the longer side in pixels; the aspect ratio is kept.
        short_side: the length of the shorter side in pixels; the aspect ratio is kept.
        max_long_side: the largest length of the longer side in pixels, where `short_side` is given.
        square: the length of both sides in pixels; the aspect ratio is not kept.

    Example:
        >>> Size(long_side=320)(480, 640)
        (240, 320)
    """

    def __init__(
        self,
        *,
        long_side: int | None = None,
        short_side: int | None = None,
        max_long_side: int | None = None,
        square: int | None = None,
    ) -> None:
        rules = {"long_side": long_side, "short_side": short_side, "square": square}
        given = [name for name, value in rules.items() if value is not None]
        if len(given) > 1:
            raise UserError(f"size has {' and '.join(given)}; give one")
        if max_long_side is not None and short_side is None:
            raise UserError("max_long_side goes with short_side; use long_side alone")
        is_whole, wanted = whole(1)
        for name, value in {**rules, "max_long_side": max_long_side}.items():
            check(f"size.{name}", value, value is None or is_whole(value), f"pixels, {wanted}")
        self.long_side, self.short_side, self.max_long_side, self.square = long_side, short_side, max_long_side, square
        largest = max([0, *(rules[name] for name in given)])
        check("size", largest, largest <= MAX_SIDE, f"at most {MAX_SIDE} pixels")

    @classmethod
    def parse(cls, value: "int | dict[str, int] | None") -> "Size":
        """The size that an option describes: `320` is short for `{long_side: 320}`, and `None` is the native size."""
        if value is None or isinstance(value, dict):
            unknown = set(value or {}) - {"long_side", "short_side", "max_long_side", "square"}
            check("size", value, not unknown, "the keys long_side, short_side with max_long_side, or square")
            return cls(**(value or {}))
        check("size", value, whole(1)[0](value), "pixels of the long side, a whole number from 1, or {square: 384}")
        return cls(long_side=value)

    def __call__(self, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
        """`(H, W)` to which an image of `height` and `width` is resized, multiplied by `scale`."""
        if self.square is not None:
            side = max(1, round(self.square * scale))
            return side, side
        factor = scale
        if self.long_side is not None:
            factor *= self.long_side / max(height, width)
        elif self.short_side is not None:
            ratio = self.short_side / min(height, width)
            factor *= min(ratio, self.max_long_side / max(height, width)) if self.max_long_side else ratio
        return max(1, round(height * factor)), max(1, round(width * factor))

    def __str__(self) -> str:
        rules = {"long side": self.long_side, "short side": self.short_side, "square": self.square}
        text = next((f"{name} {value}" for name, value in rules.items() if value is not None), "native size")
        return text + (f", long side at most {self.max_long_side}" if self.max_long_side else "")


class EvalTransform:
    """The transform of images in validation and prediction, which resizes and normalises them.

    Args:
        size: the size to which images are resized, see `Size.parse`.
        mean, std: the value for each channel by which the backbone's images are normalised, for pixels in [0, 1].
        resample: the filter with which the model was trained: `area` (see `resize`), `bilinear` (four nearest pixels,
            however much the image shrinks) or `antialias` (torchvision's triangle filter, as wide as the new pixels).
    """

    def __init__(
        self,
        *,
        size: int | dict[str, int] | None = None,
        mean: Sequence[float],
        std: Sequence[float],
        resample: Resample = "area",
    ) -> None:
        if resample not in get_args(Resample):
            raise UserError(f"resample is {resample!r}; choose from {', '.join(get_args(Resample))}")
        self.config = {"size": size, "mean": list(mean), "std": list(std), "resample": resample}
        self.size = Size.parse(size)
        self.mean, self.std, self.resample = list(mean), list(std), resample

    def __call__(self, image: np.ndarray) -> Tensor:
        """RGB `(H, W, 3)` uint8 to float `(3, H', W')`."""
        height, width = self.size(*image.shape[:2])
        if self.resample == "bilinear":
            # as floats, so that OpenCV does not round the values
            plain = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
            return to_tensor(plain, self.mean, self.std)
        if self.resample == "antialias":
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # (H, W, 3) -> (1, 3, H, W)
            smooth = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)[0]
            return to_tensor(smooth.permute(1, 2, 0).numpy(), self.mean, self.std)
        return to_tensor(resize(image, height, width), self.mean, self.std)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image `(H, W, 3)` at another size: by area averaging if it shrinks, by bilinear interpolation if it grows."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def to_tensor(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """An RGB image `(H, W, 3)` with values in 0 … 255 as a normalised float tensor `(3, H, W)`."""
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float()  # (H, W, 3) -> (3, H, W)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (mean, std))
    return x.sub_(mean * 255).div_(std * 255)


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
    shown = tuple(min(a, b) for a, b in zip(full, window))
    height, width = sample.image.shape[:2]
    # Only the part of the image that the crop shows is resized, enlarged to full pixels of the original image.
    top, bottom = _span(height, full[0], shown[0], rng)
    left, right = _span(width, full[1], shown[1], rng)
    part = (slice(top, bottom), slice(left, right))
    limit = np.array([right - left, bottom - top] * 2, np.float32)
    moved = sample.boxes * np.array([width, height] * 2, np.float32) - np.array([left, top] * 2, np.float32)
    clipped = moved.clip(0, limit)
    sides = (clipped[:, 2:] - clipped[:, :2]) * (np.array(shown[::-1], np.float32) / limit[:2])
    keep = (_area(clipped) > min_visible * _area(moved)) & (sides >= MIN_SIDE).all(1)
    masks = None if sample.masks is None else sample.masks(np.flatnonzero(keep), part, shown)
    return Sample(resize(sample.image[part], *shown), (clipped / limit)[keep], sample.labels[keep], masks)


def fit_boxes(sample: Sample) -> Sample:
    """The sample with boxes clipped to the bounds of their masks plus a pixel, and without objects of empty masks."""
    if sample.masks is None:
        return sample
    height, width = sample.image.shape[:2]
    tight = bounds(sample.masks)
    keep = np.flatnonzero(tight[:, 2] > 0)
    tight = (tight[keep] + np.array([-1, -1, 1, 1])) / np.array([width, height] * 2)
    boxes, tight = sample.boxes[keep], tight.clip(0, 1).astype(np.float32)
    cut = np.concatenate([np.maximum(boxes[:, :2], tight[:, :2]), np.minimum(boxes[:, 2:], tight[:, 2:])], axis=1)
    boxes = np.where((cut[:, 2:] > cut[:, :2]).all(1, keepdims=True), cut, tight)
    return Sample(sample.image, boxes, sample.labels[keep], sample.masks[keep])


def _span(side: int, full: int, shown: int, rng: np.random.Generator) -> tuple[int, int]:
    """The start and end of a random part of `side` pixels that becomes `shown` pixels when `side` becomes `full`."""
    start = int(rng.integers(full - shown + 1))
    return start * side // full, -(-(start + shown) * side // full)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


class Augment:
    """A pipeline of albumentations' transforms for samples, which is driven by a seed.

    Args:
        transforms: names of albumentations' transforms, or `{Name: {argument: value}}` for a name with arguments.
        min_visible: the share of the area of a box that the transforms must leave, or the object is dropped.

    Raises:
        UserError: albumentations has no such transform, or the transform does not take the arguments.
    """

    def __init__(self, transforms: Sequence[str | dict[str, Any]], *, min_visible: float = MIN_VISIBLE) -> None:
        items = isinstance(transforms, Sequence) and not isinstance(transforms, str)
        check("train_transforms", transforms, items, "a list of albumentations' transforms, such as [HorizontalFlip]")
        bbox_params = A.BboxParams(
            "albumentations",
            label_fields=["rows"],
            min_visibility=min_visible,
            min_width=MIN_SIDE,
            min_height=MIN_SIDE,
            clip=True,
        )
        self.pipeline = A.Compose([_transform(t) for t in transforms], bbox_params=bbox_params if transforms else None)

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """The sample after all transforms; its masks must be decoded."""
        if not self.pipeline.transforms:
            return sample
        # All transforms share a random stream. `set_random_seed` would give each transform a separate stream from an
        # equal seed, and so equal draws: an image would be brightened exactly when it is flipped.
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        masks = {} if sample.masks is None or not len(sample.masks) else {"masks": list(sample.masks)}
        rows = np.arange(len(sample.boxes))
        try:
            out = self.pipeline(image=sample.image, bboxes=sample.boxes, rows=rows, **masks)
        except Exception as error:
            # the errors of albumentations have no class in common
            height, width = sample.image.shape[:2]
            raise UserError(
                f"train_transforms ({self}) can't be applied to an image of {width}×{height}: {error}; "
                "change them, or leave one out"
            ) from error
        kept = np.asarray(out["rows"], np.int64).reshape(-1)
        moved = sample.masks
        if moved is not None:
            moved = np.stack(out["masks"])[kept] if masks else np.zeros((0, *out["image"].shape[:2]), np.uint8)
        boxes = np.asarray(out["bboxes"], np.float32).reshape(-1, 4)
        return Sample(out["image"], boxes, sample.labels[kept], moved)

    def __str__(self) -> str:
        return ", ".join(f"{type(t).__name__}(p={t.p:g})" for t in self.pipeline.transforms) or "none"


def _transform(item: str | dict[str, Any]) -> A.BasicTransform:
    one = isinstance(item, dict) and len(item) == 1 and all(isinstance(a, (dict, type(None))) for a in item.values())
    check("one of train_transforms", item, isinstance(item, str) or one, "a name, or {Name: {argument: value}}")
    name, arguments = (item, {}) if isinstance(item, str) else next(iter(item.items()))
    cls = getattr(A, name, None)
    if isinstance(cls, type) and issubclass(cls, A.BaseCompose):
        raise UserError(
            f"one of train_transforms is {name}, which puts others together; list those one by one, each with its p"
        )
    if not (isinstance(cls, type) and issubclass(cls, A.BasicTransform)):
        known = [n for n, one in vars(A).items() if isinstance(one, type) and issubclass(one, A.BasicTransform)]
        near = difflib.get_close_matches(name, known, 3)
        raise UserError(f"albumentations has no transform {name!r}; did you mean {', '.join(near) or 'another'}?")
    try:
        # albumentations only warns about an argument that it does not know
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            return cls(**(arguments or {}))
    except (TypeError, ValueError, UserWarning) as error:
        # the errors of pydantic, whose message has many lines
        found = getattr(error.__cause__, "errors", list)()
        faults = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found]
        raise UserError(f"albumentations' {name} does not take {arguments}: {'; '.join(faults) or error}") from error
