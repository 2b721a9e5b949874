"""What is checked of the augmentation before a training, with the training images of a data module."""

from typing import Any

from vitdet.data.transforms import smallest_shown
from vitdet.data.transforms.mixing import check_mixing


def check_augmentation(data: Any) -> None:
    """Checks that the training data has what mixup and copy-paste need, and that the transforms can be applied.

    Args:
        data: an `ImageData`.

    Raises:
        UserError: it has not, or a transform can't.
    """
    if "train" in data.splits:
        check_mixing(data.augmentation, data.kind, data.index("train"))
        try_transforms(data, masks=True)


def try_transforms(data: Any, *, masks: bool) -> None:
    """Tries the transforms from another library on made-up images of the smallest sizes that the training shows.

    Args:
        data: an `ImageData` with training images.
        masks: whether the samples have masks.

    Raises:
        UserError: a transform can't be applied, or its result is no image to train on.
    """
    if data.augment.foreign:
        index, options = data.index("train"), data.augmentation
        scale = options.batch_scale[0] * min(1.0, data.scale_jitter[0])
        sizes = smallest_shown(index.heights, index.widths, data.image_size, scale=scale, window=options.crop)
        data.augment.try_out(sizes, masks=masks)
