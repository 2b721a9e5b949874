"""Reading images, from files or as PIL images and arrays, as upright RGB arrays; H×W is the size in pixels."""

import warnings
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageOps

from vitdet.errors import DataError, UserError

# the number of pixels from which PIL warns about decompression bombs; the setting in PIL is not changed
MAX_PIXELS = 89_478_485


class ImageError(DataError):
    """A file is no image, is damaged, or is too large to be decoded; the message has its name."""


ImageLike = str | Path | Image.Image | np.ndarray


def as_array(image: ImageLike) -> np.ndarray:
    """An image as upright RGB `(H, W, 3)` uint8.

    Args:
        image: the path of an image file, a PIL image, or an RGB array `(H, W, 3)` uint8, which is returned as it is.

    Raises:
        ImageError: the file can't be read.
        TypeError: the image is of another type.

    Example:
        >>> as_array(Image.new("L", (4, 2))).shape
        (2, 4, 3)
    """
    if isinstance(image, (str, Path)):
        return load_image(image)
    if isinstance(image, Image.Image):
        return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return image
    what = type(image).__name__
    if hasattr(image, "shape") and hasattr(image, "dtype"):
        what = f"{what} {tuple(image.shape)} {image.dtype}"
    raise TypeError(f"got {what}; wanted a path, a PIL image, an RGB array (H, W, 3) uint8, or a list of these")


def load_image(path: str | Path, *, exif: bool = True, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An image file as RGB `(H, W, 3)` uint8.

    Grey, palette, CMYK and 16-bit images are converted. Transparency is dropped, which shows the colours under it.

    Args:
        path: the image file.
        exif: whether the image is turned upright by its EXIF tag.
        max_pixels: the largest number of pixels that the image may have.

    Raises:
        ImageError: the file is missing, damaged, or has more than `max_pixels`.
    """
    try:
        with warnings.catch_warnings():
            # `max_pixels` is checked below instead
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
    except Exception as error:
        # the decoders of PIL raise errors of many classes: OSError, SyntaxError, RuntimeError …
        raise ImageError(f"{path} can't be read as an image: {error}") from error
    with image:
        # the size is read from the header; nothing is decoded yet
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(f"{path} is {width}×{height}, more than {max_pixels:,} pixels: make it smaller")
        try:
            if exif:
                ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(_to_rgb(image))
        except Exception as error:
            raise ImageError(f"{path} can't be decoded: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    # modes with 16 or 32 bits for each pixel, whose values PIL would clip instead of scaling them
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        if image.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise UserError(
                f"pixels of mode {image.mode} from {values.min():g} to {values.max():g}; wanted 8 or 16 bits"
            )
        image = Image.fromarray((values / 257).round().astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def resolve(root: str | Path, file_name: str) -> Path:
    """The path of an image file of a data set.

    Args:
        root: the folder of the images.
        file_name: the name in the annotation file, relative to `root`.

    Raises:
        UserError: the name is absolute, or leads out of `root`.
    """
    name = PurePath(file_name)
    if name.is_absolute() or ".." in name.parts or "\0" in file_name:
        raise UserError(
            f"file_name {file_name!r} leaves the image folder {root}; names must be relative and without '..'"
        )
    return Path(root) / name
