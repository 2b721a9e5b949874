"""The pictures of a report: images of a split with their truth and what was found, side by side, and crops of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import cv2
import numpy as np
from PIL import Image

from vitdet.draw import Colour, draw
from vitdet.masks import rle

# the longest side of a picture and of a crop, in pixels
SIDE, CROP = 560, 260
# the height of letters, since a page shows its pictures at about half their size
LETTERS = 17
# small images are enlarged at most so many times
ENLARGED = 4.0
# what agrees and what does not, in colours that colour-blind people can tell apart
RIGHT, WRONG = (64, 156, 255), (255, 140, 0)


@dataclass(frozen=True)
class Shown:
    """An object that is drawn: its box in pixels of the original, a text, a colour, and the run lengths of a mask."""

    box_xywh: np.ndarray
    text: str
    colour: Colour
    mask: Any = None


class Album:
    """The images of a split.

    Args:
        data: the data module.
        split: the name of the split.
    """

    def __init__(self, data: Any, split: str) -> None:
        self.index, self.source = data.index(split), data.files.source(split)
        self._parts = data.parts(split)
        self._position = {number: i for i, number in enumerate(self.index.image_ids.tolist())}

    def position(self, image_id: int) -> int:
        """The position in the index of an image, given its id."""
        return self._position[image_id]

    def name(self, i: int) -> str:
        return self.index.file_names[i] or f"image {self.index.image_ids[i]}"

    def groups(self) -> list[str]:
        """Where each image comes from: its source, where there are several, or the folder that it is in."""
        if len(self._parts) > 1:
            roots = [_last(str(files.images)) for files, _ in self._parts]
            names = [f"{root} ({k + 1})" if roots.count(root) > 1 else root for k, root in enumerate(roots)]
            return [name for name, (_, index) in zip(names, self._parts) for _ in range(len(index))]
        return [str(PurePosixPath(name.replace("\\", "/")).parent) for name in self.index.file_names]

    def image(self, i: int) -> np.ndarray | None:
        """Image `i` as RGB `(H, W, 3)`, or nothing if it can't be read."""
        try:
            return self.source.image(i)
        # the report says all that it says without it
        except Exception:
            return None


def _last(path: str) -> str:
    """The end of a path that tells its folder: the last part that is no common name of a folder of images."""
    parts = [part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("images", "val", "test")]
    return parts[-1] if parts else path


def picture(pixels: np.ndarray, objects: Sequence[Shown], *, side: int = SIDE, outline: bool = True) -> Image.Image:
    """An image with objects, at the size that a page needs; small ones are enlarged, so that names can be read.

    Args:
        pixels: `(H, W, 3)`.
        objects: what is drawn.
        side: the longest side of the picture.
        outline: whether boxes are drawn.
    """
    height, width = pixels.shape[:2]
    scale = min(ENLARGED, side / max(height, width))
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    canvas = Image.fromarray(resized(pixels, (w, h)))
    return _draw(canvas, objects, (0.0, 0.0), (w / width, h / height), outline)


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image at another size, its width and height."""
    smaller = size[0] < pixels.shape[1]
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def crop(pixels: np.ndarray, box_xywh: np.ndarray, objects: Sequence[Shown], *, side: int = CROP) -> Image.Image:
    """What is around a box, with objects; small ones are enlarged.

    Args:
        pixels: `(H, W, 3)`.
        box_xywh: left, top, width and height of what is in the middle.
        objects: what is drawn.
        side: the longest side of the picture.
    """
    height, width = pixels.shape[:2]
    x, y, w, h = (float(value) for value in box_xywh)
    # a square, unless the image is too small for it
    wide, high = (min(length, round(max(w, h, 24) * 1.8)) for length in (width, height))
    left = min(max(0, round(x + w / 2 - wide / 2)), width - wide)
    top = min(max(0, round(y + h / 2 - high / 2)), height - high)
    part = pixels[top : top + high, left : left + wide]
    scale = side / max(part.shape[:2])
    size = max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale))
    canvas = Image.fromarray(part).resize(size, Image.Resampling.BICUBIC)
    scales = size[0] / part.shape[1], size[1] / part.shape[0]
    return _draw(canvas, objects, (left, top), scales, True)


def _draw(
    canvas: Image.Image,
    objects: Sequence[Shown],
    origin: tuple[float, float],
    scale: tuple[float, float],
    outline: bool,
) -> Image.Image:
    boxes, masks = [], []
    for shown in objects:
        x, y, w, h = (float(value) for value in shown.box_xywh)
        x1, x2 = ((side - origin[0]) * scale[0] for side in (x, x + w))
        y1, y2 = ((side - origin[1]) * scale[1] for side in (y, y + h))
        boxes.append((x1, y1, x2, y2))
        masks.append(None if shown.mask is None else _mask(shown.mask, canvas.size, origin, scale))
    stack = np.stack(masks) if masks and all(mask is not None for mask in masks) else None
    texts, colours = [shown.text for shown in objects], [shown.colour for shown in objects]
    return draw(canvas, boxes, texts, colours=colours, masks=stack, outline=outline, letters=LETTERS)


def _mask(code: Any, size: tuple[int, int], origin: tuple[float, float], scale: tuple[float, float]) -> np.ndarray:
    """The pixels of a mask in a picture of a part of its image."""
    whole = rle.decode(code)
    columns = np.clip(((np.arange(size[0]) + 0.5) / scale[0] + origin[0]).astype(int), 0, whole.shape[1] - 1)
    rows = np.clip(((np.arange(size[1]) + 0.5) / scale[1] + origin[1]).astype(int), 0, whole.shape[0] - 1)
    return whole[rows][:, columns].astype(bool)
