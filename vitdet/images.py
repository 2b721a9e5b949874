"""Reading images, from files or as PIL images and arrays, as upright RGB arrays; H×W is the size in pixels.

Photographs are scaled to 8 bits; the numbers of id maps and label maps are never changed.
"""

import contextlib
import functools
import logging
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from vitdet.errors import DataError, clip

log = logging.getLogger("vitdet")

# the number of pixels from which PIL warns about decompression bombs; the setting in PIL is not changed
MAX_PIXELS = 89_478_485
# the most characters of the name of a file on common file systems
LONGEST_NAME = 255
# the number of bits of a pixel for which images with more than 8 bits a channel are made
MAX_BITS = 16
# the tag of EXIF that says how an image is turned
ORIENTATION = 0x0112
WANTED = "a path, a PIL image, an RGB array (H, W, 3) uint8 or uint16, or a list of these"
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

# what has been said of an image in this process
_said: set[str] = set()


class ImageError(DataError):
    """A file is no image, is damaged, or is too large to be decoded; the message has its name."""


class NoImageError(ImageError, TypeError):
    """A value that is given in place of an image is of a type, or holds numbers, that can't be shown."""


ImageLike = str | Path | Image.Image | np.ndarray


def as_array(image: ImageLike, *, bit_depth: int | None = None) -> np.ndarray:
    """An image as upright RGB `(H, W, 3)` uint8; the same picture gives the same array in whatever form it comes.

    Args:
        image: the path of an image file, a PIL image (of several frames, the present one), an RGB array `(H, W, 3)`
            uint8, which is returned as it is, or an array uint16, `(H, W, 3)` or grey `(H, W)`. Once it has decoded a
            colour image of 16 bits, PIL keeps the upper 8 only.
        bit_depth: the number of bits that images with more than 8 bits a channel use, see `load_image`.

    Raises:
        ImageError: the file can't be read, or its pixels are floats.
        NoImageError: a `TypeError` as well: the image is of another type.

    Example:
        >>> as_array(Image.new("L", (4, 2))).shape
        (2, 4, 3)
        >>> as_array(np.full((4, 2), 4095, np.uint16), bit_depth=12).max()
        np.uint8(255)
    """
    if isinstance(image, (str, Path)):
        return load_image(image, bit_depth=bit_depth)
    if isinstance(image, Image.Image):
        return to_rgb(image, exif=True, bit_depth=bit_depth, name="the image")
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
            return image
        # PIL reads 16-bit grey images as arrays of these types
        deep = image.dtype.kind in "ui" and image.dtype.itemsize in (2, 4)
        if deep and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
            return _eight_bits(image, bit_depth, "the array")
    what = type(image).__name__
    if hasattr(image, "shape") and hasattr(image, "dtype"):
        what = f"{what} {tuple(image.shape)} {image.dtype}"
    raise NoImageError(f"got {what}; wanted {WANTED}")


def load_image(
    path: str | Path, *, exif: bool = True, max_pixels: int = MAX_PIXELS, bit_depth: int | None = None
) -> np.ndarray:
    """An image file as RGB `(H, W, 3)` uint8.

    Grey, palette, CMYK and 1-bit images are converted. Transparency is dropped, which shows the colours under it. Of
    several frames (TIFF, GIF, MPO), the first is read.

    Args:
        path: the image file.
        exif: whether the image is turned upright by its EXIF tag.
        max_pixels: the largest number of pixels that the image may have.
        bit_depth: the number of bits that an image with more than 8 bits a channel uses, 8 to 16: the value
            `2**bit_depth - 1` becomes white, and so do larger ones. By default all 16 bits. Never taken from the
            image itself: a dark image would become as bright as others.

    Raises:
        ImageError: the file is missing, damaged, no regular file, has more than `max_pixels`, or its pixels are floats.
    """
    with open_image(path, max_pixels=max_pixels) as image:
        return to_rgb(image, exif=exif, bit_depth=bit_depth, name=str(path))


def load_values(path: str | Path, *, colours: bool = False, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The whole numbers that an id map or a label map stores, neither scaled nor turned.

    Args:
        path: the file, of any lossless format.
        colours: whether a palette stands for its colours; by default for the indices into it.
        max_pixels: the largest number of pixels that the image may have.

    Returns:
        `(H, W)` integers, or `(H, W, 3)` uint8 for colours; transparency is dropped.

    Raises:
        ImageError: the file can't be read, or its pixels are not whole numbers.
    """
    with open_image(path, max_pixels=max_pixels) as image:
        if image.format in ("JPEG", "MPO", "JPEG2000"):
            raise ImageError(f"{path} is {image.format}, which changes the numbers; wanted a lossless file like PNG")
        if image.mode in ("P", "PA") and colours:
            image = image.convert("RGBA")
        if image.mode in ("RGB", "RGBA", "RGBX") and not _has_deep_colours(image):
            return np.asarray(image)[..., :3]
        if image.mode in ("1", "L", "P", "LA", "PA") or image.mode.startswith("I"):
            values = np.asarray(image)
            values = values.astype(np.uint8) if values.dtype == bool else values
            return values[..., 0] if values.ndim == 3 else values
        bits = ", with 16 bits a channel" if _has_deep_colours(image) else ""
        raise ImageError(f"{path} has pixels of mode {image.mode}{bits}; wanted whole numbers, or RGB of 8 bits")


@contextlib.contextmanager
def open_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """An image file as a PIL image of which only the header has been read, for a `with` statement.

    Args:
        path: the image file.
        max_pixels: the largest number of pixels that the image may have.

    Raises:
        ImageError: the file is missing, no regular file, damaged, or has more than `max_pixels`, or decoding it inside
            the statement fails.
    """
    check_regular(path)
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
            yield image
        except ImageError:
            raise
        except Exception as error:
            raise ImageError(f"{path} can't be decoded: {error}") from error


def check_regular(path: str | Path) -> None:
    """Checks that a file can be read without waiting for it: opening a pipe would wait, and some devices never end.

    Raises:
        ImageError: the file does not exist, or is a folder, a pipe, a socket or a device.
    """
    try:
        kind = KINDS.get(stat.S_IFMT(os.stat(path).st_mode))
        wrong = None if kind is None else f"it is {kind}"
    except FileNotFoundError:
        wrong = "it does not exist"
    except (OSError, ValueError) as error:
        wrong = str(getattr(error, "strerror", None) or error)
    if wrong is not None:
        raise ImageError(f"{clip(str(path), 300)} can't be read as an image: {wrong}")


def deep_values(image: Image.Image) -> np.ndarray | None:
    """The values of a PIL image with more than 8 bits a channel, `(H, W)` or `(H, W, 3)`; `None` for other images.

    PIL cuts colours of 16 bits to 8 when it decodes them, so this must come before the image is decoded.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)
    if not _has_deep_colours(image):
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


def _has_deep_colours(image: Image.Image) -> bool:
    """Whether an image in which PIL shows 8 bits a channel is stored with 16; known until it is decoded."""
    tiles: Any = getattr(image, "tile", None) or []
    return image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[-1]) for tile in tiles)


def to_rgb(image: Image.Image, *, exif: bool, bit_depth: int | None, name: str) -> np.ndarray:
    """A PIL image as RGB `(H, W, 3)` uint8; `name` stands for it in messages, and the rest as in `load_image`."""
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


def resolve(root: str | Path, file_name: str) -> Path:
    """The path of an image file of a data set.

    Args:
        root: the folder of the images.
        file_name: the name in the annotation file, relative to `root`, or absolute and inside `root`.

    Raises:
        ImageError: the name leads out of `root`, or is too long for a file.
    """
    name = PurePath(file_name)
    if max(map(len, name.parts), default=0) > LONGEST_NAME:
        raise ImageError(
            f"file_name {clip(file_name, 60)!r} has {len(file_name)} characters, too many for the name of a file"
        )
    if "\0" not in file_name:
        if not name.is_absolute() and ".." not in name.parts:
            return Path(root) / name
        path = os.path.normpath(os.path.join(root, file_name))
        # The same folder may be named with and without symbolic links; the image itself may be one.
        real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        tops = (os.path.abspath(root), os.path.realpath(root))
        if any(PurePath(os.path.abspath(here)).is_relative_to(top) for here in (path, real) for top in tops):
            return Path(path)
    name = clip(file_name)
    raise ImageError(f"file_name {name!r} leaves the image folder {root}; names are relative to it, without '..'")
