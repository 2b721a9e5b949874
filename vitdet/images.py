"""Reading images, from files or as PIL images and arrays, as upright RGB arrays; H×W is the size in pixels.

Photographs are scaled to 8 bits; the numbers of id maps and label maps are never changed.
"""

import contextlib
import io
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, Union, overload

import numpy as np
from PIL import Image

from vitdet.errors import clip
from vitdet.fetch import STDIN, fetch, is_url, standard_input
from vitdet.pixels import (
    WANTED,
    ImageError,
    NoImageError,
    array_rgb,
    has_deep_colours,
    tensor_rgb,
    to_rgb,
)
from vitdet.remote import Remote

if TYPE_CHECKING:
    from torch import Tensor

# the number of pixels from which PIL warns about decompression bombs; the setting in PIL is not changed
MAX_PIXELS = 89_478_485
# the most characters of the name of a file on common file systems
LONGEST_NAME = 255
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# formats of PIL that are programs
RUN_BY_OTHERS = {"EPS": "PostScript, a program that Ghostscript"}
# what may be given as an image
ImageLike: TypeAlias = Union[str, Path, bytes, bytearray, memoryview, BinaryIO, Image.Image, np.ndarray, "Tensor"]


def as_array(image: ImageLike, *, bit_depth: int | None = None) -> np.ndarray:
    """An image as upright RGB `(H, W, 3)` uint8; the same picture gives the same array in whatever form it comes.

    Args:
        image: the path of an image file, an address (`http://…`, `https://…`, see `vitdet.fetch`), `-` for standard
            input, the bytes of a file or a file that is open for reading bytes, a PIL image of any mode (of several
            frames, the present one), an array (see `array_rgb`) or a tensor (see `tensor_rgb`). Integers of more than 8
            bits are scaled by `bit_depth`; floats are taken from 0 to 1, but not from files, which don't say what is
            white. Once it has decoded a colour image of 16 bits, PIL keeps the upper 8 only.
        bit_depth: the number of bits that images with more than 8 bits a channel use, see `load_image`.

    Raises:
        ImageError: the image can't be read, or its values are out of range.
        NoImageError: a `TypeError` as well: the image is of another type.

    Example:
        >>> as_array(Image.new("L", (4, 2))).shape
        (2, 4, 3)
        >>> as_array(np.full((4, 2), 4095, np.uint16), bit_depth=12).max()
        np.uint8(255)
    """
    if isinstance(image, (str, Path)) and not is_url(image) and str(image) != STDIN:
        return load_image(image, bit_depth=bit_depth)
    if isinstance(image, Image.Image):
        try:
            return to_rgb(image, exif=True, bit_depth=bit_depth, name="the image", floats=True)
        except ImageError:
            raise
        except Exception as error:
            # PIL decodes a file when its pixels are first used
            raise ImageError(f"the image can't be decoded: {error}") from error
    if isinstance(image, np.ndarray):
        return array_rgb(image, bit_depth=bit_depth)
    # a tensor can only come from a program that has imported PyTorch; importing it here would take seconds
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(image, torch.Tensor):
        tensor: Any = image
        return tensor_rgb(tensor, bit_depth=bit_depth)
    content, name = _content(image)
    with _decoding(io.BytesIO(content), name, MAX_PIXELS) as opened:
        return to_rgb(opened, exif=True, bit_depth=bit_depth, name=name)


def _content(image: Any) -> tuple[bytes, str]:
    """The bytes of an image file that is given in another way than by its path, and what it is called in messages."""
    if isinstance(image, (str, Path)):
        return (fetch(str(image)), str(image)) if is_url(image) else (standard_input(), "standard input")
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image), f"the file of {len(image):,} bytes"
    if callable(getattr(image, "read", None)):
        name = getattr(image, "name", None)
        content = image.read()
        if isinstance(content, bytes):
            return content, name if isinstance(name, str) else "the open file"
        raise NoImageError("got a file that is open as text; wanted one that is open for bytes, with mode 'rb'")
    what = type(image).__name__
    if hasattr(image, "shape") and hasattr(image, "dtype"):
        what = f"{what} {tuple(image.shape)} {image.dtype}"
    raise NoImageError(f"got {what}; wanted {WANTED}")


def load_image(
    path: str | Path | Remote, *, exif: bool = True, max_pixels: int = MAX_PIXELS, bit_depth: int | None = None
) -> np.ndarray:
    """An image file as RGB `(H, W, 3)` uint8.

    Grey, palette, CMYK and 1-bit images are converted. Transparency is dropped, which shows the colours under it. Of
    several frames (TIFF, GIF, MPO), the first is read.

    Args:
        path: the image file, on disk or, as a `Remote`, elsewhere.
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


def load_values(path: str | Path | Remote, *, colours: bool = False, max_pixels: int = MAX_PIXELS) -> np.ndarray:
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
        if image.mode in ("RGB", "RGBA", "RGBX") and not has_deep_colours(image):
            return np.asarray(image)[..., :3]
        if image.mode in ("1", "L", "P", "LA", "PA") or image.mode.startswith("I"):
            values = np.asarray(image)
            values = values.astype(np.uint8) if values.dtype == bool else values
            return values[..., 0] if values.ndim == 3 else values
        bits = ", with 16 bits a channel" if has_deep_colours(image) else ""
        raise ImageError(f"{path} has pixels of mode {image.mode}{bits}; wanted whole numbers, or RGB of 8 bits")


@contextlib.contextmanager
def open_image(path: str | Path | Remote, *, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """An image file as a PIL image of which only the header has been decoded, for a `with` statement.

    Args:
        path: the image file; all bytes of a `Remote` are read.
        max_pixels: the largest number of pixels that the image may have.

    Raises:
        ImageError: the file is missing, no regular file, damaged, or has more than `max_pixels`, or decoding it inside
            the statement fails.
        RemoteError: the file lies elsewhere, and the network or the storage fails.
    """
    source: str | Path | io.BytesIO
    if isinstance(path, Remote):
        try:
            source = io.BytesIO(path.read())
        except FileNotFoundError as error:
            raise ImageError(f"{clip(str(path), 300)} can't be read as an image: it does not exist") from error
    else:
        check_regular(path)
        source = path
    with _decoding(source, path, max_pixels) as image:
        yield image


@contextlib.contextmanager
def _decoding(source: str | Path | io.BytesIO, path: Any, max_pixels: int) -> Iterator[Image.Image]:
    """`open_image` of a file that exists, or of its bytes; `path` stands for it in messages."""
    try:
        with warnings.catch_warnings():
            # `max_pixels` is checked below instead
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = open_pil(source)
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


def open_pil(source: Any) -> Image.Image:
    """`PIL.Image.open`, except for files that PIL would have another program run.

    Raises:
        ImageError: it is such a file.
    """
    image = Image.open(source)
    if image.format in RUN_BY_OTHERS:
        image.close()
        raise ImageError(f"it is {RUN_BY_OTHERS[image.format]} would run; save it as PNG")
    return image


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


@overload
def resolve(root: str | Path, file_name: str) -> Path: ...
@overload
def resolve(root: str | Path | Remote, file_name: str) -> Path | Remote: ...
def resolve(root: str | Path | Remote, file_name: str) -> Path | Remote:
    """The path of an image file of a data set.

    Args:
        root: the folder of the images, on disk or elsewhere.
        file_name: the name in the annotation file, relative to `root`, or absolute and inside `root`.

    Raises:
        ImageError: the name leads out of `root`, or is too long for a file.
    """
    name = PurePath(file_name)
    if max(map(len, name.parts), default=0) > LONGEST_NAME:
        raise ImageError(
            f"file_name {clip(file_name, 60)!r} has {len(file_name)} characters, too many for the name of a file"
        )
    if isinstance(root, Remote):
        if (below := root.below(file_name)) is not None:
            return root / below
    elif "\0" not in file_name:
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
