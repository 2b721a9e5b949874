"""Drawing predictions on an image: boxes, labels and masks.

Line widths and font sizes scale with the image. T is the number of objects, H×W the size of the image in pixels.
"""

import colorsys
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vitdet.masks import bounds

Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]
MASK_OPACITY = 0.45


def draw(
    image: Image.Image,
    boxes_xyxy: Sequence[Sequence[float]],
    texts: Sequence[str],
    labels: Sequence[int],
    *,
    masks: np.ndarray | None = None,
    outline: bool = True,
) -> Image.Image:
    """A copy of an image with boxes, texts and masks in the colours of their classes.

    Earlier objects are drawn over later objects, so the best should come first. Texts don't overlap if there is room.

    Args:
        image: the image to draw on, which is not changed.
        boxes_xyxy: T boxes, corners in pixels.
        texts: the text for each box; an empty text is not drawn.
        labels: the class of each box, which determines its colour.
        masks: `(T, H, W)` bool.
        outline: whether the boxes are drawn.
    """
    canvas = image.convert("RGB")
    colours = [class_colour(label) for label in labels]
    if masks is not None:
        canvas = _blend(canvas, masks, colours)
    pen = ImageDraw.Draw(canvas)
    scale = (canvas.width * canvas.height) ** 0.5
    width = max(2, round(scale / 250))
    for box, colour in reversed(list(zip(boxes_xyxy, colours))) if outline else ():
        x1, y1, x2, y2 = (round(side) for side in box)
        # PIL includes the last corner in a rectangle
        corners = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        pen.rectangle(corners, outline=colour, width=width)
    font = ImageFont.load_default(max(11, round(scale / 42)))
    _draw_texts(pen, boxes_xyxy, texts, colours, font, width)
    return canvas


def draw_classes(image: Image.Image, classes: np.ndarray, name_of: Callable[[int], str]) -> Image.Image:
    """A copy of an image covered by a map `(H, W)` of classes, each in its colour and with its name."""
    present = np.unique(classes).tolist()
    masks = np.stack([classes == label for label in present])
    return draw(
        image, bounds(masks).tolist(), [name_of(label) for label in present], present, masks=masks, outline=False
    )


def class_colour(label: int) -> Colour:
    """The colour of a class, bright enough for dark images.

    The hues of successive classes are a golden angle apart, so that they differ, in four tones.

    Example:
        >>> class_colour(0)
        (255, 64, 38)
    """
    hue = (0.02 + label * 0.61803398875) % 1
    # Similar hues return after 13, 21 and 34 classes, which are no multiples of 4, so their tones differ.
    saturation, value = ((0.85, 1.0), (0.75, 1.0), (0.55, 1.0), (1.0, 0.85))[label % 4]
    rgb = colorsys.hsv_to_rgb(hue, saturation, value)
    # moves dark colours, which are blues and purples, towards white
    lift = max(0.0, (0.42 - _brightness(rgb)) / (1 - _brightness(rgb)))
    red, green, blue = (round(255 * (channel + lift * (1 - channel))) for channel in rgb)
    return red, green, blue


def _brightness(rgb: Sequence[float]) -> float:
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def _blend(canvas: Image.Image, masks: np.ndarray, colours: Sequence[Colour]) -> Image.Image:
    pixels = np.asarray(canvas).astype(np.float32)
    for mask, colour in reversed(list(zip(masks, colours))):
        pixels[mask] += MASK_OPACITY * (np.float32(colour) - pixels[mask])
    return Image.fromarray(pixels.round().astype(np.uint8))


def _draw_texts(pen, boxes_xyxy, texts: Sequence[str], colours: Sequence[Colour], font, width: int) -> None:
    limit = pen.im.size
    pad = max(2, round(font.size / 5))
    ascent, descent = font.getmetrics()
    taken: list[Rectangle] = []
    plates = []
    # the places of the best objects are chosen first
    for box, text, colour in zip(boxes_xyxy, texts, colours):
        size = (font.getlength(text) + 2 * pad, ascent + descent + pad)
        plate = _place(box, size, limit, taken, width)
        taken.append(plate)
        plates.append((plate, text, colour))
    # drawn after all boxes, so that no line crosses a text
    for plate, text, colour in reversed(plates):
        if text:
            pen.rounded_rectangle(plate, radius=pad, fill=colour)
            ink = (0, 0, 0) if _brightness(colour) > 125 else (255, 255, 255)
            middle = (plate[1] + plate[3]) / 2
            pen.text((plate[0] + pad, middle), text, fill=ink, font=font, anchor="lm")


def _place(box: Sequence[float], size: tuple[float, float], limit: tuple[int, int], taken: list[Rectangle], width: int):
    """The rectangle of a text plate of `size`, at the first free place.

    The places are tried in this order: above the box, below it, inside it at the top, inside it at the bottom.
    """
    x1, y1, x2, y2 = box
    w, h = size
    tops = (y1 - h - width / 2, y2 + width / 2, y1 + width, y2 - h - width)
    lefts = (x1 - width / 2, x2 - w + width / 2)
    # A plate that would reach beyond the image is moved into it. If it has to move up or down, it would hide its box,
    # so that place is tried last.
    places = []
    for left in lefts:
        for order, top in enumerate(tops):
            x, y = max(0, min(left, limit[0] - w - 1)), max(0, min(top, limit[1] - h - 1))
            places.append((y != top, order, (x, y, x + w, y + h)))
    places = [place for _, _, place in sorted(places, key=lambda entry: entry[:2])]
    return next((place for place in places if not any(_meet(place, other) for other in taken)), places[0])


def _meet(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
