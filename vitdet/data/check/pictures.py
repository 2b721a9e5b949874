"""Small pictures of examples, with the boxes in question, for the page of a report."""

import base64
import io

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from vitdet.data.check.finding import Example

# the longest side of a picture in pixels
SIDE = 360
COLOUR = (255, 40, 40)


def picture(example: Example, *, exif: bool = True) -> str:
    """An example as the content of an `<img src>`, or nothing if its image can't be shown.

    Args:
        example: what is shown.
        exif: whether the image is turned upright by its EXIF tag, as the boxes are taken to be.
    """
    if example.path is None:
        return ""
    try:
        with Image.open(example.path) as image:
            width, height = image.size
            if width * height > Image.MAX_IMAGE_PIXELS:
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
    pen = ImageDraw.Draw(shown)
    for left, top, w, h in example.boxes_xywh:
        corners = np.clip(np.array([left, top, left + w, top + h]) * scale, -1e4, 1e4)
        (x1, x2), (y1, y2) = sorted(corners[::2].tolist()), sorted(corners[1::2].tolist())
        # a box without a size, or beyond the picture, is shown as a mark at its edge
        x1, x2 = (min(max(x, 1), shown.width - 2) for x in (x1, max(x2, x1 + 3)))
        y1, y2 = (min(max(y, 1), shown.height - 2) for y in (y1, max(y2, y1 + 3)))
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=(255, 255, 255), width=4)
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=COLOUR, width=2)
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=72)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        low, high = float(values.min()), float(values.max())
        image = Image.fromarray(((values - low) / max(high - low, 1e-9) * 255).astype(np.uint8))
    return image.convert("RGB")
