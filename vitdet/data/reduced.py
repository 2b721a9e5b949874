"""Decoding photographs that are much larger than what is shown of them."""

from pathlib import Path

import numpy as np

from vitdet.images import MAX_PIXELS, open_image
from vitdet.pixels import ORIENTATION, to_rgb
from vitdet.remote import Remote


def load_reduced(
    path: str | Path | Remote,
    factor: int,
    *,
    exif: bool = True,
    max_pixels: int = MAX_PIXELS,
    bit_depth: int | None = None,
) -> tuple[np.ndarray, tuple[int, int]]:
    """An image file, decoded at a fraction of its size if it is a JPEG, which takes a fraction of the time.

    Args:
        path: the image file.
        factor: 1, 2, 4 or 8: how much smaller the sides may become, rounded up.
        exif, max_pixels, bit_depth: see `load_image`.

    Returns:
        RGB `(h, w, 3)` uint8, and the size `(H, W)` of the whole image, equal to `(h, w)` if it was not reduced.

    Raises:
        ImageError: see `load_image`.
    """
    with open_image(path, max_pixels=max_pixels) as image:
        width, height = image.size
        if factor > 1 and image.format in ("JPEG", "MPO"):
            image.draft(None, (max(1, width // factor), max(1, height // factor)))
        # the values from 5 turn an image by a quarter
        turned = exif and image.getexif().get(ORIENTATION, 1) >= 5
        pixels = to_rgb(image, exif=exif, bit_depth=bit_depth, name=str(path))
    return pixels, (width, height) if turned else (height, width)
