"""Resizing, cropping, mixing, augmenting and normalising upright RGB arrays for the model."""

from vitdet.data.transforms.augment import Augment
from vitdet.data.transforms.crop import crop, fit_boxes, reduction, smallest_shown
from vitdet.data.transforms.evaluate import EvalTransform, Resample, resize, to_tensor
from vitdet.data.transforms.sample import MIN_SIDE, MIN_VISIBLE, Sample
from vitdet.data.transforms.size import MAX_SIDE, Size

__all__ = [
    "MAX_SIDE",
    "MIN_SIDE",
    "MIN_VISIBLE",
    "Augment",
    "EvalTransform",
    "Resample",
    "Sample",
    "Size",
    "crop",
    "fit_boxes",
    "reduction",
    "resize",
    "smallest_shown",
    "to_tensor",
]
