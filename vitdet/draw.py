"""Drawing predictions on an image: boxes, labels and masks.

Line widths and font sizes scale with the image, and shrink for small objects. T is the number of objects, H×W the size
of the image in pixels.
"""

import colorsys
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from vitdet.masks import bounds
from vitdet.plates import Plate, covered, extent, font_of, padding, plates, smallest

Colour = tuple[int, int, int]
MASK_OPACITY = 0.45
# lines around an object take at most this share of its shorter side
LINE_SHARE = 1 / 10
# the names of objects that have no plate may hide so much of another object
KEY_HIDES = 0.3


def draw(
    image: Image.Image,
    boxes_xyxy: Sequence[Sequence[float]],
    texts: Sequence[str],
    labels: Sequence[int] = (),
    *,
    colours: Sequence[Colour] | None = None,
    masks: np.ndarray | None = None,
    outline: bool = True,
    letters: int | None = None,
) -> Image.Image:
    """A copy of an image with boxes, texts and masks in the colours of their classes.

    Earlier objects are drawn over later objects, so the best should come first. A text is written small, shortened or,
    where it would still hide an object, left out; the names of such classes stand in a corner, in their colours.

    Args:
        image: the image to draw on, which is not changed.
        boxes_xyxy: T boxes, corners in pixels.
        texts: the text for each box; an empty text is not drawn.
        labels: the class of each box, which determines its colour.
        colours: instead of labels, the colour of each box.
        masks: `(T, H, W)` bool.
        outline: whether the boxes are drawn.
        letters: the height of the largest letters in pixels; by default it follows from the size of the image.
    """
    canvas = image.convert("RGB")
    colours = [class_colour(label) for label in labels] if colours is None else list(colours)
    if masks is not None:
        canvas = _blend(canvas, masks, colours)
    pen = ImageDraw.Draw(canvas)
    scale = (canvas.width * canvas.height) ** 0.5
    width = max(2, round(scale / 250))
    for box, colour in reversed(list(zip(boxes_xyxy, colours))) if outline else ():
        x1, y1, x2, y2 = (round(side) for side in box)
        # PIL includes the last corner in a rectangle
        corners = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        pen.rectangle(corners, outline=colour, width=min(width, max(1, round(min(x2 - x1, y2 - y1) * LINE_SHARE))))
    centres = None if outline or masks is None else [middle(mask) for mask in masks]
    boxes = np.array(boxes_xyxy, np.float64).reshape(-1, 4)
    largest = letters or max(11, round(scale / 42))
    placed = plates(boxes, texts, canvas.size, width=width, largest=largest, centres=centres)
    # drawn after all boxes, so that no line crosses a text
    for plate, colour in reversed(list(zip(placed, colours))):
        if plate is not None:
            _write(pen, plate, colour)
    left_out: dict[str, Colour] = {
        text: colour for plate, text, colour in zip(placed, texts, colours) if text and plate is None
    }
    if left_out:
        taken = [plate.place for plate in placed if plate is not None]
        _write_key(pen, left_out, boxes, taken, smallest(largest))
    return canvas


def draw_classes(
    image: Image.Image, classes: np.ndarray, name_of: Callable[[int], str], *, void: int | None = None
) -> Image.Image:
    """A copy of an image covered by a map `(H, W)` of classes, each in its colour and with its name.

    Args:
        image: the image to draw on, which is not changed.
        classes: the class of each pixel.
        name_of: gives the name of a class.
        void: the value of pixels without a class, which are left as they are.
    """
    present = [label for label in np.unique(classes).tolist() if label != void]
    if not present:
        return image.convert("RGB")
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


def middle(mask: np.ndarray) -> tuple[float, float] | None:
    """The x and y of the pixel of a mask that is the farthest from its border; nothing for an empty mask."""
    step = max(1, round(max(mask.shape) / 512))
    # with a border, so that the side of the image is one, too
    small = np.pad(mask[::step, ::step].astype(np.uint8), 1)
    if not small.any():
        return None
    far = cv2.distanceTransform(small, cv2.DIST_L2, 3)
    # of several such pixels, the one in the middle of them
    places = np.argwhere(far >= far.max() - 0.5)
    y, x = places[np.abs(places - places.mean(0)).sum(1).argmin()]
    return (float(x) - 0.5) * step, (float(y) - 0.5) * step


def _write(pen: ImageDraw.ImageDraw, plate: Plate, colour: Colour) -> None:
    pad = padding(plate.size)
    pen.rounded_rectangle(plate.place, radius=pad, fill=colour)
    ink = (0, 0, 0) if _brightness(colour) > 125 else (255, 255, 255)
    middle = (plate.place[1] + plate.place[3]) / 2
    pen.text((plate.place[0] + pad, middle), plate.text, fill=ink, font=font_of(plate.size, plate.text), anchor="lm")


def _write_key(
    pen: ImageDraw.ImageDraw,
    left_out: dict[str, Colour],
    boxes: np.ndarray,
    taken: list[tuple[float, float, float, float]],
    size: int,
) -> None:
    """Writes the names of objects without a plate in the corner that hides least; nothing where all hide much."""
    names = {_name(text): colour for text, colour in left_out.items()}
    width, height = pen.im.size
    extents = [extent(name, size) for name in names]
    w, h = max(one[0] for one in extents), sum(one[1] + 1 for one in extents)
    if w > width / 2 or h > height / 2:
        return
    corners = np.array([(x, y, x + w, y + h) for y in (0, height - h) for x in (0, width - w)])
    hidden = covered(corners, np.concatenate([boxes, np.array(taken).reshape(-1, 4)])).max(1)
    if hidden.min() > KEY_HIDES:
        return
    x, y = corners[hidden.argmin(), :2]
    for (name, colour), (wide, high) in zip(names.items(), extents):
        _write(pen, Plate(name, (x, y, x + wide, y + high), size), colour)
        y += high + 1


def _name(text: str) -> str:
    """A text without the score at its end."""
    head, _, tail = text.rpartition(" ")
    return head if head and tail.replace(".", "").isdigit() else text
