"""Transforms of this package for training samples: flips and colours, on OpenCV.

They have the names, arguments, random draws and results of albumentations' transforms, with which a test compares them
pixel by pixel, so a config that names no other transform does not need that library.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import cv2
import numpy as np

from vitdet.data.transforms.sample import MIN_SIDE, Sample
from vitdet.errors import check
from vitdet.ranges import is_number, number

Range = float | Sequence[float]


class OwnTransform:
    """Base of the transforms; a call changes the sample with the probability `p`.

    Args:
        p: the probability.
    """

    def __init__(self, *, p: float = 0.5) -> None:
        ok, wanted = number(0, 1)
        check("p", p, ok(p), wanted)
        self.p = p

    def __call__(self, sample: Sample, rng: Random, order: np.random.Generator) -> Sample:
        """The sample, changed or not.

        Args:
            sample: the sample; its masks must be decoded.
            rng: draws all numbers.
            order: draws the order of steps.
        """
        # a probability of 0 or 1 takes no number from the stream
        applies = self.p >= 1 or (self.p > 0 and rng.random() < self.p)
        return self.apply(sample, rng, order) if applies else sample

    def apply(self, sample: Sample, rng: Random, order: np.random.Generator) -> Sample:
        """The changed sample."""
        raise NotImplementedError


class HorizontalFlip(OwnTransform):
    """Mirrors left and right."""

    # the code of OpenCV, and the coordinates of the low and high corner that change
    code, low, high = 1, 0, 2

    def apply(self, sample: Sample, rng: Random, order: np.random.Generator) -> Sample:
        boxes = sample.boxes.copy()
        boxes[:, self.low], boxes[:, self.high] = 1 - sample.boxes[:, self.high], 1 - sample.boxes[:, self.low]
        before = masks = sample.decoded
        if before is not None:
            masks = np.empty_like(before)
            for mask, flipped in zip(before, masks):
                cv2.flip(mask, self.code, dst=flipped)
        return Sample(cv2.flip(sample.image, self.code), boxes, sample.labels, masks)


class VerticalFlip(HorizontalFlip):
    """Mirrors top and bottom."""

    code, low, high = 0, 1, 3


class RandomBrightnessContrast(OwnTransform):
    """Multiplies pixel values by a random contrast, and adds a random brightness.

    Args:
        brightness_limit: the range of the brightness, as a fraction of 255; a number `b` is short for `(-b, b)`.
        contrast_limit: the range of the contrast, which is added to 1.
        brightness_by_max: whether the brightness is a fraction of 255, or of the mean of the image.
        ensure_safe_range: whether both are limited so that no value leaves 0 … 255.
        p: the probability.
    """

    def __init__(
        self,
        *,
        brightness_limit: Range = (-0.2, 0.2),
        contrast_limit: Range = (-0.2, 0.2),
        brightness_by_max: bool = True,
        ensure_safe_range: bool = False,
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.brightness = _range("brightness_limit", brightness_limit)
        self.contrast = _range("contrast_limit", contrast_limit)
        for name, value in (("brightness_by_max", brightness_by_max), ("ensure_safe_range", ensure_safe_range)):
            check(name, value, isinstance(value, bool), "true or false")
        self.by_max, self.safe = brightness_by_max, ensure_safe_range

    def apply(self, sample: Sample, rng: Random, order: np.random.Generator) -> Sample:
        factor = 1 + rng.uniform(*self.contrast)
        shift = rng.uniform(*self.brightness) * (255 if self.by_max else float(sample.image.mean()))
        if self.safe and factor > 0:
            shift = min(max(shift, 0.0), 255.0)
            factor = min(factor, (255 - shift) / 255)
        elif self.safe:
            shift = min(shift, 255.0)
            factor = max(factor, -shift / 255)
        return replace(sample, image=_scaled(sample.image, factor, shift))


class ColorJitter(OwnTransform):
    """Changes brightness, contrast, saturation and hue in a random order, each by a random amount.

    Args:
        brightness, contrast, saturation: the range of the factor; a number `b` is short for `(max(0, 1 - b), 1 + b)`.
        hue: the range of what is added to the hue, where 1 is a full turn; a number `h` is short for `(-h, h)`.
        p: the probability.
    """

    def __init__(
        self,
        *,
        brightness: Range = (0.8, 1.2),
        contrast: Range = (0.8, 1.2),
        saturation: Range = (0.8, 1.2),
        hue: Range = (-0.5, 0.5),
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        factors = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        self.ranges = [_range(name, value, around=1, low=0) for name, value in factors.items()]
        self.ranges.append(_range("hue", hue, low=-0.5, high=0.5))

    def apply(self, sample: Sample, rng: Random, order: np.random.Generator) -> Sample:
        amounts = [rng.uniform(*limits) for limits in self.ranges]
        steps = [0, 1, 2, 3]
        order.shuffle(steps)
        image = sample.image
        for step in steps:
            image = (_brightness, _contrast, _saturation, _hue)[step](image, amounts[step])
        return replace(sample, image=image)


def _range(
    name: str, value: Any, *, around: float = 0, low: float | None = None, high: float | None = None
) -> tuple[float, float]:
    """The range that an argument describes, which is a pair, or a number for a range around a value."""
    wanted = "a number from 0, or [low, high]"
    wanted += f" from {low:g}" if low is not None else ""
    wanted += f" to {high:g}" if high is not None else ""
    if is_number(value):
        check(name, value, value >= 0, wanted)
        value = (around - value, around + value)
        value = (max(value[0], low), value[1]) if around else value
    ok = _is_pair(value) and value[0] <= value[1]
    ok = ok and (low is None or value[0] >= low) and (high is None or value[1] <= high)
    check(name, value, ok, wanted)
    return value[0], value[1]


def _is_pair(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2 and all(map(is_number, value))


def _scaled(image: np.ndarray, factor: float, shift: float) -> np.ndarray:
    """`factor · image + shift`, clipped to 0 … 255 and cut to whole numbers."""
    values = np.arange(256, dtype=np.float32) * factor + shift
    return cv2.LUT(image, values.clip(0, 255).astype(np.uint8))


def _brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return image if factor == 1 else _scaled(image, factor, 0.0)


def _contrast(image: np.ndarray, factor: float) -> np.ndarray:
    if factor == 1:
        return image
    mean = float(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean())
    return np.full_like(image, int(mean + 0.5)) if factor == 0 else _scaled(image, factor, mean * (1 - factor))


def _saturation(image: np.ndarray, factor: float) -> np.ndarray:
    if factor == 1:
        return image
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return grey if factor == 0 else cv2.addWeighted(image, factor, grey, 1 - factor, 0)


def _hue(image: np.ndarray, turn: float) -> np.ndarray:
    if turn == 0:
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    # OpenCV's hue is in 0 … 179
    hues = np.mod(np.arange(256, dtype=np.int16) + 180 * turn, 180).astype(np.uint8)
    hsv[..., 0] = cv2.LUT(hsv[..., 0], hues)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


OWN: dict[str, Callable[..., OwnTransform]] = {
    kind.__name__: kind for kind in (HorizontalFlip, VerticalFlip, RandomBrightnessContrast, ColorJitter)
}


class OwnPipeline:
    """A row of this package's transforms.

    Args:
        transforms: the transforms, in their order.
    """

    def __init__(self, transforms: Sequence[OwnTransform]) -> None:
        self.transforms = transforms

    def __call__(self, sample: Sample, rng: Random, order: np.random.Generator) -> Sample:
        """The sample after all transforms, without objects whose boxes are thinner than a pixel."""
        # albumentations draws a number for the pipeline itself, and random streams must stay what they were
        rng.random()
        for transform in self.transforms:
            sample = transform(sample, rng, order)
        sides = (sample.boxes[:, 2:] - sample.boxes[:, :2]) * np.array(sample.image.shape[1::-1], np.float64)
        kept = np.flatnonzero((sides >= MIN_SIDE - 1e-7).all(1))
        if len(kept) == len(sample.boxes):
            return sample
        masks = sample.decoded
        masks = None if masks is None else masks[kept]
        return Sample(sample.image, sample.boxes[kept], sample.labels[kept], masks)
