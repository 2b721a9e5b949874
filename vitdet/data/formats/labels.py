"""What each module of a foreign annotation format gives, and the size of an image as vitdet reads it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vitdet.images import ImageError

# the EXIF tag of the orientation, and its values that swap width and height
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)


@dataclass(frozen=True)
class Labels:
    """The labelled images of a split in a format other than COCO's.

    Args:
        images: the folder that the file names are relative to.
        files: every file that the annotations depend on, so that a cached conversion is known to be up to date.
        read: a function that returns the content of a COCO JSON (images with sizes, annotations and categories), and
            lines about what was odd. Raises `DataError` where a file can't be read.

    Example:
        >>> labels = Labels(Path("photos"), [], lambda: ({"images": [], "categories": [], "annotations": []}, []))
        >>> labels.read()[1]
        []
    """

    images: Path
    files: list[Path]
    read: Callable[[], tuple[dict[str, Any], list[str]]]


def image_size(path: str | Path, *, exif: bool = True) -> tuple[int, int]:
    """The width and height of an image file in pixels, from its header.

    Args:
        path: the image file.
        exif: whether the image counts as turned upright by its EXIF tag, as vitdet reads it by default. Annotation
            tools that show the upright image (most do, and Ultralytics trains on it) mean this size.

    Raises:
        ImageError: the file can't be read as an image.
    """
    try:
        with warnings.catch_warnings():
            # a size is no danger; the limit on decoding is checked where images are decoded
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
                turned = exif and _orientation(image) in TURNED
    except Exception as error:
        # the decoders of PIL raise errors of many classes: OSError, SyntaxError, RuntimeError …
        raise ImageError(f"{path} can't be read as an image: {error}") from error
    return (height, width) if turned else (width, height)


def _orientation(image: Image.Image) -> Any:
    # PIL decodes a whole PNG to look for a tag behind the pixels; one before them is known without that
    if image.format == "PNG" and not {"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp"} & set(image.info):
        return None
    return image.getexif().get(ORIENTATION)
