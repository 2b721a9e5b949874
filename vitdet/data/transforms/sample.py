"""A training sample: an upright RGB array with its objects.

Boxes are `(T, 4)` float32 corners of T objects as fractions of the image, so resizing does not change them.
"""

from dataclasses import dataclass

import numpy as np

from vitdet.data.object_masks import Masks

# the share of the area of a box that a crop must leave, or the object is dropped
MIN_VISIBLE = 0.3
# the fewest pixels of a side of a box; a thinner box is dropped, because it may round to no area
MIN_SIDE = 1.0


@dataclass
class Sample:
    """An image with its objects.

    Attributes:
        image: `(H, W, 3)` uint8.
        boxes, labels: `(T, 4)` float32, corners as fractions of the image, and `(T,)` int64.
        masks: `None` if the task needs no masks; else `Masks`, or `(T, H, W)` uint8 after `crop`, which decodes them.
        whole: `(H, W)` of the image file, to which `Masks` refer, where `image` was decoded at a fraction of it.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: Masks | np.ndarray | None = None
    whole: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)` of the image file in pixels, or, after a crop, of the image."""
        return self.whole or self.image.shape[:2]

    @property
    def decoded(self) -> np.ndarray | None:
        """The masks as an array, `(T, H, W)` uint8; `None` if the task needs none.

        Raises:
            TypeError: they are not decoded yet.
        """
        if isinstance(self.masks, Masks):
            raise TypeError("the masks of the sample are not decoded; crop it first")
        return self.masks
