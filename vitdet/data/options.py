"""The ranges of the options of data modules and samplers, and the groups of options."""

import os
from typing import Any, Literal

from vitdet.config import options
from vitdet.ranges import Rule, is_whole, number, so_many, whole
from vitdet.remote.address import TIMEOUT, TRIES

COUNT, FRACTION, POSITIVE = whole(1), number(0, 1), number(0, without=[0])
DEPTH: Rule = (lambda v: is_whole(v, 8) and v <= 16), "a whole number from 8 to 16"


def _are_scales(value: Any) -> bool:
    return so_many(2, POSITIVE, "")[0](value) and value[0] <= value[1]


SCALES: Rule = (_are_scales, "[low, high] with 0 < low <= high, for example [0.5, 1.5]")
RANGES: dict[str, Rule] = {
    "batch_size": COUNT,
    "max_tokens": COUNT,
    "eval_batch_size": COUNT,
    "scale_jitter": SCALES,
    "batch_scale": SCALES,
    "scales": SCALES,
    "crop": so_many(2, COUNT, "[height, width], whole numbers from 1"),
    "mosaic": FRACTION,
    "mosaic_until": FRACTION,
    "mixup": FRACTION,
    "mixup_until": FRACTION,
    "copy_paste": FRACTION,
    "copy_paste_until": FRACTION,
    "balance": number(0, 1, without=[0]),
    "num_workers": whole(0),
    "max_bad": FRACTION,
    "bit_depth": DEPTH,
    "tries": COUNT,
    "timeout": POSITIVE,
    "seed": whole(0),
    "train_images": COUNT,
    "val_images": COUNT,
}


def usable_cores() -> int:
    """The number of cores that this process may use, where the system tells (Linux), else of all cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


OnBadImage = Literal["error", "skip"]


@options(RANGES)
class Augmentation:
    """Augmentation of training images besides `train_transforms` and `scale_jitter`.

    Args:
        crop: the largest `[height, width]` of a training image in pixels; larger images are cropped at random.
        batch_scale: the range from which the scale of each batch is drawn, relative to `size`. Batches at a small scale
            cost less time and memory.
        progressive: whether the scale of batches grows from the lowest to the highest of `batch_scale` over the first
            80 % of the training, instead of being drawn at random.
        mosaic: the probability that a training sample is a mosaic of four images.
        mosaic_until: the fraction of the training after which no more mosaics are made.
        mixup: the probability that a training sample is blended with another image, about half and half, and keeps the
            objects of both. Only for boxes and instance masks.
        mixup_until: the fraction of the training after which no more images are blended.
        copy_paste: the probability that about half of the objects of another image, cut out by their masks, are pasted
            onto a training sample. What they cover is cut off the objects under them. The annotations must have masks,
            even if the model learns boxes only; of panoptic data, things are pasted.
        copy_paste_until: the fraction of the training after which no more objects are pasted.

    Raises:
        UserError: a value is out of range.

    Example:
        >>> Augmentation(mosaic=0.5).mosaic_until
        0.8
    """

    crop: tuple[int, int] | None = None
    batch_scale: tuple[float, float] = (1.0, 1.0)
    progressive: bool = False
    mosaic: float = 0.0
    mosaic_until: float = 0.8
    mixup: float = 0.0
    mixup_until: float = 0.8
    copy_paste: float = 0.0
    copy_paste_until: float = 0.8


@options(RANGES)
class Reading:
    """How image files are read.

    Args:
        exif: whether images are turned upright by their EXIF tag. Set it to false if the boxes refer to the pixels as
            they are stored.
        on_bad_image: whether an image, or labels of it, that can't be used stop the run (`error`), or are replaced,
            reported and counted (`skip`).
        max_bad: the largest share of the images of a split that may be skipped; beyond it the run stops. A single
            image always may.
        bit_depth: the number of bits, 8 to 16, that images with more than 8 bits a channel use; `2**bit_depth - 1` is
            white. By default the smallest of 8, 10, 12, 14 and 16 that holds the values of a sample of the images; the
            start of a run says which.

        reduce_large: whether a JPEG of which training shows a half or less in each direction is decoded at a half, a
            quarter or an eighth of its size. That takes a fraction of the time; pixels differ a little. Evaluation and
            prediction always decode whole images.
        tries: how often a file at an address is asked for, after growing pauses, before the run stops.
        timeout: the seconds that each of these tries may take.

    Raises:
        UserError: a value is out of range.

    Example:
        >>> Reading(on_bad_image="skip").exif
        True
    """

    exif: bool = True
    on_bad_image: OnBadImage = "error"
    max_bad: float = 0.01
    bit_depth: int | None = None
    reduce_large: bool = True
    tries: int = TRIES
    timeout: float = TIMEOUT
