"""Reading COCO panoptic annotations: a JSON file, and a PNG for each image whose colours encode segment numbers.

H×W stands for the size of an image in pixels, T for the number of its segments.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.annotations.json_text import integer
from vitdet.data.names import why
from vitdet.data.object_masks import IdMasks, Masks
from vitdet.data.sources import CocoSource
from vitdet.errors import DataError
from vitdet.images import ImageError, load_values, resolve
from vitdet.masks import bounds, png_ids
from vitdet.remote import Remote, place


class PanopticSource(CocoSource):
    """Reads images with their segments, things and stuff, as objects; crowds and void pixels are left out.

    Args:
        segments: the folder of the PNGs, on disk or at an address.
    """

    # a crop keeps any visible part of a segment
    min_visible = 0.0

    def __init__(self, *args: Any, segments: str | Path | Remote, **options: Any) -> None:
        super().__init__(*args, **options)
        self.segments = place(segments)
        # the position and the ids of the image that was read last, which several methods need
        self._last: tuple[int, np.ndarray] = -1, np.zeros((0, 0), np.int32)

    def files(self) -> Iterator[tuple[str, Path | Remote, Iterable[tuple[int, str]]]]:
        yield from super().files()
        names = ((i, self.index.png_name(i)) for i in range(len(self)))
        yield "segment PNGs", self.segments, ((i, name) for i, name in names if name is not None)

    def wanted(self, images: Sequence[int]) -> Iterator[Path | Remote]:
        yield from super().wanted(images)
        if self.with_masks:
            for i in images:
                # what is wrong is said when the image is read
                with contextlib.suppress(DataError):
                    if (name := self.index.png_name(i)) is not None:
                        yield resolve(self.segments, name)

    def objects(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        boxes, labels = super().objects(i)
        rows = self._rows(i)
        boxless = np.flatnonzero((self.index.boxes_xywh[rows, 2:] <= 0).any(1))
        if len(boxless):
            # where the JSON has no box for a segment, it is the box around its pixels
            ids = self.ids(i)
            height, width = ids.shape
            masks = (ids == number for number in self.index.annotation_ids[rows[boxless]])
            boxes[boxless] = np.concatenate([bounds(mask[None]) for mask in masks]) / [width, height, width, height]
        return boxes, labels

    def masks(self, i: int) -> Masks:
        return IdMasks(self.ids(i), self.index.annotation_ids[self._rows(i)])

    def truth(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The true segments of image `i`, crowds included.

        Returns:
            The id map `(H, W)`, and the number, class and crowd flag of each segment, `(T,)` each.
        """
        rows, ids = self.index.annotations(i), self.ids(i)
        # pixels of numbers that the JSON does not know are void, so that what is found there is no mistake
        ids = np.where(np.isin(ids, self.numbers(i)), ids, 0)
        return ids, self.index.annotation_ids[rows], self.index.categories[rows], self.index.iscrowd[rows]

    def void(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The truth of an image of which nothing is known: all its pixels are void, so nothing is scored."""
        none = np.zeros(0, np.int64)
        return np.zeros((int(self.index.heights[i]), int(self.index.widths[i])), np.int32), none, none, none > 0

    def numbers(self, i: int) -> np.ndarray:
        """The numbers of all segments that the JSON has for image `i`, also of those that are no objects."""
        item = self.index.item(i) or {}
        segments = item.get("segments_info") or []
        numbers = (segment.get("id") for segment in segments if isinstance(segment, dict))
        return np.array([number for number in map(integer, numbers) if number is not None], np.int64)

    def ids(self, i: int) -> np.ndarray:
        """The segment number of each pixel of image `i`, `(H, W)` int32; 0 is void.

        Raises:
            ImageError: the PNG can't be read, or is of another size than the image.
        """
        if self._last[0] == i:
            return self._last[1]
        size, name = (int(self.index.heights[i]), int(self.index.widths[i])), self.index.png_name(i)
        if name is None:
            # without segments all pixels are void
            return np.zeros(size, np.int32)
        path = resolve(self.segments, name)
        if not isinstance(path, Remote) and not os.path.exists(path):
            raise ImageError(why(self.segments, name))
        ids = load_ids(path)
        if ids.shape != size:
            (h, w), (height, width) = ids.shape, size
            raise ImageError(f"{path} is {w}×{h}, but {self.index.path.name} says that its image is {width}×{height}")
        # where `data.rename` has made one class of several, their segments of stuff are a single segment
        for number, kept in getattr(self.index, "merged", {}).get(i, {}).items():
            ids[ids == number] = kept
        self._last = i, ids
        return ids


def load_ids(path: str | Path | Remote) -> np.ndarray:
    """The segment numbers `(H, W)` int32 of a PNG: R + 256 G + 65536 B of a colour, also of a palette; else the value.

    Args:
        path: the file: RGB with or without transparency, a palette, or grey with up to 32 bits.

    Raises:
        ImageError: it can't be read, or holds other numbers than those from 0 to 2**31 - 1.
    """
    values = load_values(path, colours=True)
    if values.ndim == 3:
        return png_ids(values)
    if values.min(initial=0) < 0:
        raise ImageError(f"{path} has the segment number {values.min()}; wanted numbers from 0")
    return values.astype(np.int32)
