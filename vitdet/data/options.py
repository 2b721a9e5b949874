"""What the options of data and samplers may be, and those that belong together."""

from typing import Any, Literal

from vitdet.config import options
from vitdet.ranges import Rule, number, so_many, whole

COUNT, FRACTION, POSITIVE = whole(1), number(0, 1), number(0, without=[0])


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
    "num_workers": whole(0),
    "seed": whole(0),
    "train_images": COUNT,
    "val_images": COUNT,
}

OnBadImage = Literal["error", "skip"]


@options(RANGES)
class Augmentation:
    """What is done to training images besides `train_transforms` and `scale_jitter`.

    Args:
        crop: show at most this `[height, width]` of an image, at random.
        batch_scale: each batch is made at a scale from this range; batches at a small scale cost less.
        progressive: let the batch scale grow from its lowest to its highest over the first 80 % of the training, instead
            of drawing it.
        mosaic: the probability that a sample is put together from four images.
        mosaic_until: the fraction of the training after which there are no more mosaics.

    Example:
        >>> Augmentation(mosaic=0.5).mosaic_until
        0.8
    """

    crop: tuple[int, int] | None = None
    batch_scale: tuple[float, float] = (1.0, 1.0)
    progressive: bool = False
    mosaic: float = 0.0
    mosaic_until: float = 0.8


@options(RANGES)
class Reading:
    """How image files are read.

    Args:
        exif: turn images upright by their EXIF tag; false where the boxes are in stored pixels.
        on_bad_image: a file that can't be decoded stops the run (`error`), or is replaced and reported (`skip`).

    Example:
        >>> Reading(on_bad_image="skip").exif
        True
    """

    exif: bool = True
    on_bad_image: OnBadImage = "error"
