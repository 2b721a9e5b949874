"""Images to upright RGB arrays: files, and what else a user may have.  # H×W in pixels"""

import warnings
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageOps

from vitdet.errors import UserError

MAX_PIXELS = 89_478_485  # where PIL begins to warn of decompression bombs; its own setting stays as it is


class ImageError(UserError):
    """A file that is no image, is damaged, or is too large to be decoded; the message names it."""


ImageLike = str | Path | Image.Image | np.ndarray


def as_array(image: ImageLike) -> np.ndarray:
    """An image as upright RGB `(H, W, 3)` uint8.

    Raises:
        ImageError: a file can't be read.
        TypeError: it is neither a path, a PIL image nor such an array.
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
    """An image file as RGB `(H, W, 3)` uint8, turned upright by its EXIF tag unless `exif=False`.

    Grey, palette, CMYK and 16-bit images are converted; transparency is dropped, so the colour that lies under it counts.

    Raises:
        ImageError: the file is missing, damaged, or has more than `max_pixels`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is the one that holds
            image = Image.open(path)
    except Exception as error:  # PIL's decoders raise whatever they trip over: OSError, SyntaxError, RuntimeError …
        raise ImageError(f"{path} can't be read as an image: {error}") from error
    with image:
        width, height = image.size  # from the header: nothing is decoded yet
        if width * height > max_pixels:
            raise ImageError(f"{path} is {width}×{height}, more than {max_pixels:,} pixels: make it smaller")
        try:
            if exif:
                ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(_to_rgb(image))
        except Exception as error:
            raise ImageError(f"{path} can't be decoded: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16 and 32 bits a pixel, which PIL would clip, not scale
        values = np.asarray(image).astype(np.float64)
        if image.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise UserError(
                f"pixels of mode {image.mode} from {values.min():g} to {values.max():g}; wanted 8 or 16 bits"
            )
        image = Image.fromarray((values / 257).round().astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def resolve(root: str | Path, file_name: str) -> Path:
    """Where `file_name` of a data set lies under `root`.

    Raises:
        ValueError: it points outside of `root`.
    """
    name = PurePath(file_name)
    if name.is_absolute() or ".." in name.parts or "\0" in file_name:
        raise UserError(
            f"file_name {file_name!r} leaves the image folder {root}; names must be relative and without '..'"
        )
    return Path(root) / name
