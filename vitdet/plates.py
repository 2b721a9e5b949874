"""Where the names of objects are written in a picture, so that they hide neither the objects nor each other.

T is the number of objects. Rectangles are `(x1, y1, x2, y2)` in pixels.
"""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ImageFont

# the smallest letters that can still be read, in pixels
SMALLEST = 8
# how much of an object a plate may hide: of its own one and of others
OWN, OTHERS = 0.12, 0.12
# above so many objects, plates are placed without a look at all the others, which takes its square in time
MOST = 400


@dataclass(frozen=True)
class Plate:
    """A text and the rectangle that it is written in.

    Attributes:
        text: the text, which may be a part of what was wanted.
        place: the rectangle.
        size: the height of the letters in pixels.
    """

    text: str
    place: tuple[float, float, float, float]
    size: int


# The font that comes with Pillow has the letters of English alone; these are usual on Linux, macOS and Windows.
FONTS = (
    "DejaVuSans",
    "NotoSans-Regular",
    "NotoSansCJK-Regular",
    "Arial Unicode",
    "PingFang",
    "Arial",
    "msyh",
    "YuGothM",
)


@functools.lru_cache(maxsize=256)
def font_of(size: int, text: str) -> ImageFont.FreeTypeFont:
    """A font of a height in pixels that has the letters of a text; that of Pillow if there is none."""
    own: ImageFont.FreeTypeFont = ImageFont.load_default(size)  # pyright: ignore[reportAssignmentType]
    if text.isascii():
        return own
    for name, suffix in itertools.product(FONTS, (".ttf", ".ttc")):
        with contextlib.suppress(OSError):
            found = ImageFont.truetype(name + suffix, size)
            # what stands for a letter that a font does not have
            nothing = _shape(found, "\uffff")
            if all(letter.isspace() or _shape(found, letter) != nothing for letter in set(text)):
                return found
    return own


def _shape(letters: Any, text: str) -> bytes:
    """The pixels of a text."""
    return bytes(letters.getmask(text))


def extent(text: str, size: int) -> tuple[float, float]:
    """Width and height of the plate of a text."""
    letters, pad = font_of(size, text), padding(size)
    ascent, descent = letters.getmetrics()
    return letters.getlength(text) + 2 * pad, ascent + descent + (pad if size > SMALLEST + 2 else 0)


def smallest(largest: int) -> int:
    """The height of the smallest letters of a picture, given that of the largest: half, as long as they can be read."""
    return max(SMALLEST, largest // 2)


def padding(size: int) -> int:
    """The space between a text and the sides of its plate."""
    return max(1, round(size / 5))


def plates(
    boxes: np.ndarray,
    texts: Sequence[str],
    limit: tuple[int, int],
    *,
    width: int,
    largest: int,
    centres: Sequence[tuple[float, float] | None] | None = None,
) -> list[Plate | None]:
    """A plate for each object, or none where it would hide the object, or others.

    The first objects choose first. Each takes the largest of its texts that fits: as wanted, in smaller letters, then
    without its last word if that is a number.

    Args:
        boxes: `(T, 4)`, corners in pixels.
        texts: the text of each object; an empty one gets no plate.
        limit: width and height of the picture.
        width: the width of the lines around objects.
        largest: the height of the largest letters in pixels.
        centres: for objects that are drawn by their area alone, the middle of it, where their text belongs.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    shown = np.clip(boxes, 0, [*limit, *limit])
    taken, result = np.zeros((0, 4)), []
    for n, text in enumerate(texts):
        centre = None if centres is None else centres[n]
        others = shown if len(shown) <= MOST else shown[n : n + 1]
        own = n if len(shown) <= MOST else 0
        plate = _choose(shown[n], text, limit, width, largest, (others, own, taken), centre) if text else None
        if plate is not None:
            taken = np.concatenate([taken, [plate.place]])
        result.append(plate)
    return result


def _choose(
    box: np.ndarray,
    text: str,
    limit: tuple[int, int],
    width: int,
    largest: int,
    around: tuple[np.ndarray, int, np.ndarray],
    centre: tuple[float, float] | None,
) -> Plate | None:
    others, own, taken = around
    for words, size in _variants(box, text, largest):
        w, h = extent(words, size)
        if w > limit[0] or h > limit[1]:
            continue
        places = np.array(list(_places(box, (w, h), limit, width, centre)))
        hidden = covered(places, others)
        mine = hidden[:, own].copy()
        hidden[:, own] = 0
        # an area that is drawn without a box lies where its middle is; its box may be that of the whole picture
        good = (hidden.max(1) <= OTHERS) & (mine <= OWN) if centre is None else mine <= 2 * OWN
        if len(taken):
            good &= covered(places, taken).max(1) == 0
        if good.any():
            # of the places that will do, the one that hides least, or the nearest to the middle
            cost = hidden.sum(1) + mine if centre is None else np.zeros(len(places))
            best = np.flatnonzero(good)[np.argmin(cost[good].round(2))]
            return Plate(words, tuple(places[best].tolist()), size)
    return None


def _variants(box: np.ndarray, text: str, largest: int) -> Iterator[tuple[str, int]]:
    """Texts and heights of letters, the most wanted first: small objects have small letters."""
    side = max(1.0, float((box[2] - box[0]) * (box[3] - box[1]))) ** 0.5
    least = smallest(largest)
    first = int(min(largest, max(least, side / 4)))
    sizes = list(dict.fromkeys([first, max(least, round(first * 0.75)), least]))
    head, _, tail = text.rpartition(" ")
    texts = [text, head] if head and tail.replace(".", "").isdigit() else [text]
    for words in texts:
        yield from ((words, size) for size in sizes)


def _places(
    box: np.ndarray, size: tuple[float, float], limit: tuple[int, int], width: int, centre: tuple[float, float] | None
) -> Iterator[tuple[float, float, float, float]]:
    """Places for a plate: above the box, below it, beside it, and inside it, where it has room."""
    (x1, y1, x2, y2), (w, h) = box.tolist(), size
    if centre is not None:
        corners = [(centre[0] - w / 2, centre[1] - h / 2)]
        corners += [(centre[0] - w / 2, centre[1] + step * h) for step in (-1.6, 0.6, -2.7, 1.7)]
    else:
        lefts, half = (x1 - width / 2, x2 - w + width / 2, (x1 + x2 - w) / 2), width / 2
        corners = [(x, y1 - h - half) for x in lefts] + [(x, y2 + half) for x in lefts]
        corners += [(x, y) for y in (y1, (y1 + y2 - h) / 2, y2 - h) for x in (x2 + half, x1 - w - half)]
        corners += [(x, y) for y in (y1 + width, y2 - h - width) for x in (x1 + width, x2 - w - width)]
    for x, y in corners:
        left, top = max(0.0, min(x, limit[0] - w)), max(0.0, min(y, limit[1] - h))
        yield left, top, left + w, top + h


def covered(plates: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The share of each box that each plate hides, `(P, B)`.

    Example:
        >>> covered(np.array([[0, 0, 10, 5]]), np.array([[0, 0, 10, 10], [20, 20, 30, 30]])).tolist()
        [[0.5, 0.0]]
    """
    low = np.maximum(plates[:, None, :2], boxes[None, :, :2])
    high = np.minimum(plates[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    return shared / np.clip((boxes[:, 2:] - boxes[:, :2]).prod(1), 1, None)
