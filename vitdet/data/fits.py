"""Whether the labels have what the head learns."""

import numpy as np

from vitdet.annotations.index import CocoIndex
from vitdet.errors import UserError

# so many objects are looked at
SAMPLE = 100


def check_masks(index: CocoIndex) -> None:
    """Raises:
    UserError: of a sample of the objects none has a mask, so there is nothing to learn for a head with masks.
    """
    rows = np.flatnonzero(index.trainable)
    sample = rows[:: max(1, len(rows) // SAMPLE)].tolist()
    if sample and not any(index.raw(row).get("segmentation") for row in sample):
        raise UserError(
            f"the head learns masks, and {index.path} has boxes only; say --model.head.masks false, choose a model for "
            "boxes, or give annotations with masks"
        )
