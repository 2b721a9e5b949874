"""Image files that strangers send: checked by their header, then decoded; H×W is the size in pixels."""

import io
import math
import warnings

import numpy as np
from PIL import Image

from vitdet.data.transforms import EvalTransform
from vitdet.images import as_array
from vitdet.serve.limits import Limits
from vitdet.serve.refusal import Refusal

# the decoders that are open to strangers; PIL has many more, for formats that nobody photographs in
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
WANTED = "wanted a JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, JPEG 2000 or AVIF file"


def decode(data: bytes, transform: EvalTransform, limits: Limits) -> np.ndarray:
    """An image file as upright RGB `(H, W, 3)` uint8; of several frames, the first.

    Args:
        data: the bytes of the file.
        transform: the transform of the model, which says how large the image becomes.
        limits: how large it may be; nothing is decoded before its size has been checked.

    Raises:
        Refusal: 413 for too large an image, 422 for what is none or is damaged.
    """
    if not data:
        raise Refusal(422, f"the image is empty; {WANTED}")
    try:
        with warnings.catch_warnings():
            # the limits are checked below
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in _known()])
    except Image.DecompressionBombError as error:
        raise Refusal(413, f"the image has more than {limits.max_pixels:,} pixels; make it smaller") from error
    except Exception as error:
        # the decoders of PIL raise errors of many classes
        raise Refusal(422, f"the file can't be read as an image; {WANTED}") from error
    with image:
        check_size((image.height, image.width), transform, limits)
        try:
            return as_array(image, bit_depth=transform.bit_depth)
        except Exception as error:
            raise Refusal(422, f"the {image.format} file is damaged, or of a kind that can't be decoded") from error


def check_size(size: tuple[int, int], transform: EvalTransform, limits: Limits) -> None:
    """Checks the size `(H, W)` of an image before it is decoded.

    Raises:
        Refusal: 413; it has too many pixels, in the file or as the model would see it.
    """
    height, width = size
    if height * width > limits.max_pixels:
        raise Refusal(413, f"the image is {width}×{height}, more than {limits.max_pixels:,} pixels; make it smaller")
    seen = transform.size(height, width)
    if math.prod(seen) > limits.batch_pixels:
        why = f"the model would see it at {seen[1]}×{seen[0]}, more than {limits.batch_pixels:,} pixels"
        raise Refusal(413, f"the image is {width}×{height}; {why}; make it smaller")


def _known() -> set[str]:
    """The formats that this PIL has been built with."""
    Image.init()
    return set(Image.OPEN)
