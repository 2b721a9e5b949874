"""Pixels of any type as RGB of 8 bits: PIL images of every mode, arrays and tensors; H×W is the size in pixels.

White is 255 for 8 bits, `2**bit_depth - 1` for more, and 1 for floats.
"""

import functools
import logging
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageOps

from vitdet.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("vitdet")

# the number of bits of a pixel for which images with more than 8 bits a channel are made
MAX_BITS = 16
# the tag of EXIF that says how an image is turned
ORIENTATION = 0x0112
# how far floats may lie outside of 0 to 1, which rounding explains
ROUNDING = 1e-5
WANTED = (
    "a path, a URL, the bytes of a file, an open file, a PIL image, an array (H, W) or (H, W, 1, 3 or 4), a tensor "
    "(1, 3 or 4, H, W), or a list of these"
)

# what has been said of an image in this process
_said: set[str] = set()


class ImageError(DataError):
    """A file is no image, is damaged, or is too large to be decoded; the message has its name."""


class NoImageError(ImageError, TypeError):
    """A value that is given in place of an image is of a type, or holds numbers, that can't be shown."""


def array_rgb(values: np.ndarray, *, bit_depth: int | None = None, name: str = "the array") -> np.ndarray:
    """An array as RGB `(H, W, 3)` uint8.

    Args:
        values: `(H, W)`, `(H, W, 1)`, `(H, W, 3)` or `(H, W, 4)`, whose fourth channel, alpha, is dropped: uint8,
            integers of 16 or 32 bits from 0 to 65535, bool, or floats from 0 to 1. RGB of uint8 is returned as it is.
        bit_depth: the bits that integers of more than 8 bits use, see `vitdet.images.load_image`.
        name: what stands for the array in messages.

    Raises:
        NoImageError: it has another shape or type.
        ImageError: its values are out of range.

    Example:
        >>> array_rgb(np.array([[0.0, 0.5, 1.0]]))[0, :, 0].tolist()
        [0, 128, 255]
    """
    if values.ndim not in (2, 3) or not values.size or (values.ndim == 3 and values.shape[2] not in (1, 3, 4)):
        hint = ""
        if values.ndim == 3 and values.shape[0] in (1, 3, 4):
            hint = "; channels come last in an array, and first in a tensor"
        if values.ndim == 4:
            hint = "; a batch is given as a list: list(batch)"
        raise NoImageError(f"got {_describe(values)}{hint}; wanted {WANTED}")
    if values.ndim == 3 and values.shape[2] != 3:
        values = values[..., 0] if values.shape[2] == 1 else values[..., :3]
    if values.dtype == bool:
        values = values * np.uint8(255)
    elif values.dtype.kind == "f":
        values = _from_floats(values, name)
    elif values.dtype.kind in "ui" and values.dtype.itemsize in (2, 4):
        return _eight_bits(values, bit_depth, name)
    elif values.dtype != np.uint8:
        raise NoImageError(f"got {_describe(values)}; wanted uint8, uint16, or floats from 0 to 1")
    return np.repeat(values[..., None], 3, axis=2) if values.ndim == 2 else values


def tensor_rgb(values: "Tensor", *, bit_depth: int | None = None, name: str = "the tensor") -> np.ndarray:
    """A tensor on any device as RGB `(H, W, 3)` uint8, as in `array_rgb`, but with the channels first.

    Args:
        values: `(H, W)`, `(1, H, W)`, `(3, H, W)` or `(4, H, W)`.
        bit_depth, name: as in `array_rgb`.

    Raises:
        NoImageError: it has another shape or type.
        ImageError: its values are out of range.
    """
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[0] not in (1, 3, 4)):
        hint = "; a batch is given as a list: list(batch)" if values.ndim == 4 else ""
        hint = "; channels come first in a tensor, and last in an array" if values.shape[2:] in ((3,), (4,)) else hint
        raise NoImageError(f"got {_describe(values)}{hint}; wanted {WANTED}")
    here = values.detach().cpu()
    # NumPy has no bfloat16
    here = here.float() if here.is_floating_point() else here
    array = here.numpy()
    array = np.ascontiguousarray(array.transpose(1, 2, 0)) if array.ndim == 3 else array  # (C, H, W) -> (H, W, C)
    return array_rgb(array, bit_depth=bit_depth, name=name)


def _describe(values: Any) -> str:
    return f"{type(values).__name__} {tuple(values.shape)} {values.dtype}"


def _from_floats(values: np.ndarray, name: str) -> np.ndarray:
    """Floats from 0 to 1 as uint8."""
    low, high = float(values.min()), float(values.max())
    # not a number is in no range
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        hint = "divide by the value of white"
        if low < 0:
            hint = "undo the normalisation, which the model does itself"
        raise ImageError(f"{name} has floats from {low:g} to {high:g}; wanted 0 to 1, where 1 is white: {hint}")
    return (values * 255).round().clip(0, 255).astype(np.uint8)


def deep_values(image: Image.Image) -> np.ndarray | None:
    """The values of a PIL image with more than 8 bits a channel, `(H, W)` or `(H, W, 3)`; `None` for other images.

    PIL cuts colours of 16 bits to 8 when it decodes them, so this must come before the image is decoded.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)
    if not has_deep_colours(image):
        return None
    opened: Any = image
    file, at = opened.fp, opened.fp.tell()
    file.seek(0)
    values = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    file.seek(at)
    if values is None or values.dtype != np.uint16:
        return None
    # OpenCV orders the channels B, G, R, and alpha
    return values[..., 2::-1] if values.ndim == 3 and values.shape[2] > 2 else values


def has_deep_colours(image: Image.Image) -> bool:
    """Whether an image in which PIL shows 8 bits a channel is stored with 16; known until it is decoded."""
    tiles: Any = getattr(image, "tile", None) or []
    return image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[-1]) for tile in tiles)


def to_rgb(image: Image.Image, *, exif: bool, bit_depth: int | None, name: str, floats: bool = False) -> np.ndarray:
    """A PIL image as RGB `(H, W, 3)` uint8.

    Args:
        image: the image, of any mode.
        exif, bit_depth: as in `vitdet.images.load_image`.
        name: what stands for the image in messages.
        floats: whether floats from 0 to 1 are taken; those of a file are not, since it does not say what is white.

    Raises:
        ImageError: its values are out of range.
    """
    if floats and image.mode == "F":
        image = Image.fromarray(_from_floats(np.asarray(image), name))
    values = deep_values(image)
    if values is not None:
        # PGM and PPM say themselves which value is white, and PIL scales them to 16 bits
        bit_depth = None if image.format == "PPM" else bit_depth
        turn = image.getexif().get(ORIENTATION)
        image = Image.fromarray(_eight_bits(values, bit_depth, name))
        image.getexif()[ORIENTATION] = turn or 1
    image.load()
    if exif and image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    # PIL warns where it drops a palette's transparency, and can't convert some modes in a single step
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image
    between = {"P": "RGBA" if "transparency" in image.info else "P", "RGBa": "RGBA", "La": "LA"}
    image = image.convert(between.get(image.mode, image.mode))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _eight_bits(values: np.ndarray, bit_depth: int | None, name: str) -> np.ndarray:
    """Values `(H, W)` or `(H, W, 3)` of up to 16 bits as RGB `(H, W, 3)` uint8."""
    low, high = values.min(initial=0), values.max(initial=0)
    if values.dtype.kind == "f":
        raise ImageError(
            f"{name} has floats from {low:g} to {high:g}, whose white is not known; save it with 8 or 16 bits"
        )
    if low < 0 or high >= 2**MAX_BITS:
        raise ImageError(f"{name} has pixels from {low} to {high}; wanted 8 or 16 bits, 0 to 65535")
    bits = MAX_BITS if bit_depth is None else bit_depth
    if high >= 2**bits:
        _say_once(f"{name} has values up to {high}: those beyond {bits} bits become white, as in other such images")
    elif bit_depth is None and 0 < high < 2**12:
        _say_once(
            f"{name} has 16 bits but no value above {high}, so it is nearly black; if its white is less than 65535, "
            "give the bit_depth, such as 12"
        )
    scaled = _table(bits)[values]
    return np.repeat(scaled[..., None], 3, axis=2) if scaled.ndim == 2 else scaled


@functools.cache
def _table(bits: int) -> np.ndarray:
    """What each value of 16 bits is with 8, where the largest value of `bits` is white."""
    top = 2**bits - 1
    return (np.arange(2**MAX_BITS).clip(max=top) / (top / 255)).round().astype(np.uint8)


def _say_once(text: str) -> None:
    """Logs a warning about an image, unless the same has been said of another."""
    kind = text.rpartition(": ")[2].rpartition("; ")[2]
    if kind not in _said:
        _said.add(kind)
        log.warning(text)
