"""What is checked and said of the masks of instances before they are trained or scored."""

import logging

from vitdet.annotations.index import CocoIndex
from vitdet.data.options import OnBadImage
from vitdet.errors import DataError

log = logging.getLogger("vitdet")


def check_masks(index: CocoIndex, split: str, on_bad_image: OnBadImage) -> None:
    """Check that a split has masks, of which none is broken.

    Args:
        index: the annotations.
        split: the name of the split.
        on_bad_image: whether a broken mask is an error (`error`), or its object is left out (`skip`).

    Raises:
        DataError: a mask is broken, or there is none to train on.
    """
    if on_bad_image == "error":
        index.check_masks("mend or remove it, or set data.reading.on_bad_image: skip")
    if split == "train" and not (index.trainable & index.masked).any():
        notes = "; ".join([*index.notes, *index.mask_notes()])
        raise DataError(
            f"{index.path} has no mask to train on ({notes}); give annotations with masks, set --model.head.masks "
            "false, or choose a model for boxes"
        )


def say_masks(index: CocoIndex, split: str) -> None:
    """Log how many annotations of a split are left out where masks are trained or scored."""
    for note in index.mask_notes():
        log.warning("%s: %s", split, note)
