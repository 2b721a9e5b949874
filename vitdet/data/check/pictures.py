"""Small pictures of examples, with the boxes in question, for the page of a report."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from vitdet.data.check.finding import Example
from vitdet.data.check.maps import numbers_of
from vitdet.images import open_pil
from vitdet.pages.document import data_uri

# the longest side of a picture in pixels
SIDE = 360
COLOUR = (255, 40, 40)
# a box below so many pixels in the picture is hard to see
TINY = 14


def picture(example: Example, *, exif: bool = True) -> str:
    """An example as the content of an `<img src>`, or nothing if its image can't be shown.

    Args:
        example: what is shown.
        exif: whether the image is turned upright by its EXIF tag, as the boxes are taken to be.
    """
    if example.path is None:
        return ""
    try:
        with open_pil(example.path) as image:
            width, height = image.size
            if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
                return ""
            # JPEGs are decoded at a fraction of their size
            image.draft("RGB", (2 * SIDE, 2 * SIDE))
            if exif and image.getexif().get(0x0112, 1) >= 5:
                width, height = height, width
            shown = ImageOps.exif_transpose(image) if exif else image
            shown = _eight_bits(shown)
    # whatever a damaged file does; the text of the example says what it is
    except Exception:
        return ""
    scale = SIDE / max(width, height)
    shown = shown.resize((max(1, round(width * scale)), max(1, round(height * scale))))
    if example.map is not None:
        shown = _marked(shown, example.map, example.values, colours=example.colours)
    pen = ImageDraw.Draw(shown)
    for box in example.boxes_xywh:
        _mark(pen, np.array(box) * scale, shown.size)
    return data_uri(shown)


def _mark(pen: ImageDraw.ImageDraw, box: np.ndarray, size: tuple[int, int]) -> None:
    """Draws a box; a tiny one gets a ring around it, and one beyond the picture is shown at its edge."""
    corners = np.clip([*box[:2], *(box[:2] + box[2:])], -1e4, 1e4)
    (left, right), (top, bottom) = sorted(corners[::2].tolist()), sorted(corners[1::2].tolist())
    left, right = (min(max(x, 1), size[0] - 3) for x in (left, right))
    top, bottom = (min(max(y, 1), size[1] - 3) for y in (top, bottom))
    for colour, width in (((255, 255, 255), 4), (COLOUR, 2)):
        if right - left < TINY and bottom - top < TINY:
            middle = ((left + right) / 2, (top + bottom) / 2)
            pen.ellipse([m + sign * TINY for sign in (-1, 1) for m in middle], outline=colour, width=width)
        pen.rectangle((left, top, right, bottom), outline=colour, width=width)


def _marked(shown: Image.Image, path: Path, values: tuple[int, ...], *, colours: bool) -> Image.Image:
    """A picture with the pixels of a map that have some values, in red."""
    try:
        numbers = numbers_of(path, colours=colours)
    except ValueError:
        return shown
    mask = Image.fromarray((np.isin(numbers, values) * 150).astype(np.uint8)).resize(shown.size, 0)
    return Image.composite(Image.new("RGB", shown.size, COLOUR), shown, mask)


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        low, high = float(values.min()), float(values.max())
        image = Image.fromarray(((values - low) / max(high - low, 1e-9) * 255).astype(np.uint8))
    return image.convert("RGB")
