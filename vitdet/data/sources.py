"""Where samples come from: an index of images, and the files.  # H×W in pixels, T objects"""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.annotations.index import CocoIndex
from vitdet.data.object_masks import CocoMasks, Masks
from vitdet.data.transforms import MIN_VISIBLE, Sample
from vitdet.images import MAX_PIXELS, ImageError, load_image, resolve
from vitdet.masks import to_rle

log = logging.getLogger("vitdet")


class ImageSource:
    """Reads image number `i` of an index with its objects.

    Args:
        index: names, sizes and ids of the images.
        root: the folder that the index's file names are relative to.
        exif: turn images upright; `False` where the annotations were made on the pixels as stored.
        cache: keep decoded images in memory, of each worker.
        masks: give the objects' masks, too.
    """

    min_visible = MIN_VISIBLE  # of the box of an object, or a crop drops it

    def __init__(
        self,
        index: Any,
        root: str | Path,
        *,
        exif: bool = True,
        cache: bool = False,
        masks: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.with_masks = masks
        self.index, self.root, self.exif, self.max_pixels = index, Path(root), exif, max_pixels
        self.bad: set[int] = set()
        self._cache: dict[int, np.ndarray] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.index)

    def image(self, i: int) -> np.ndarray:
        """RGB `(H, W, 3)` uint8.

        Raises:
            ImageError: it can't be decoded, or its size is not the one that the JSON gives.
        """
        if self._cache is not None and i in self._cache:
            return self._cache[i]
        path = resolve(self.root, self.index.file_names[i])
        image = load_image(path, exif=self.exif, max_pixels=self.max_pixels)
        expected = (int(self.index.heights[i]), int(self.index.widths[i]))
        if image.shape[:2] != expected:
            (h, w), (height, width) = image.shape[:2], expected
            hint = "; it was turned upright by its EXIF tag: set data.reading.exif: false if the boxes are in stored pixels"
            turned = self.exif and (w, h) == expected
            raise ImageError(
                f"{path} is {w}×{h}, but {self.index.path.name} says {width}×{height}{hint if turned else ''}"
            )
        if self._cache is not None:
            self._cache[i] = image
        return image

    def objects(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes `(T, 4)` float32 corners as fractions of the image, clipped to it, and labels `(T,)`; no crowds, no empty boxes."""
        raise NotImplementedError

    def masks(self, i: int) -> Masks:
        """Those of `objects(i)`, not yet decoded."""
        raise NotImplementedError

    def sample(self, i: int) -> Sample:
        return Sample(self.image(i), *self.objects(i), self.masks(i) if self.with_masks else None)

    def note_bad(self, i: int, error: ImageError) -> None:
        """Says once that image `i` was skipped, and how many have been."""
        if i not in self.bad:
            self.bad.add(i)
            log.warning("skipped (%d of %d images so far): %s", len(self.bad), len(self), error)


class CocoSource(ImageSource):
    """Of a COCO index."""

    index: CocoIndex

    def objects(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self._rows(i)
        x, y, w, h = self.index.boxes_xywh[rows].T
        boxes_xyxy = np.stack([x, y, x + w, y + h], axis=1)
        size = np.array([self.index.widths[i], self.index.heights[i]] * 2, np.float64)
        return (boxes_xyxy / size).clip(0, 1).astype(np.float32), self.index.categories[rows].astype(np.int64)

    def _rows(self, i: int) -> np.ndarray:
        """Which of the index's annotations are the objects of image `i`."""
        rows = self.index.annotations(i)
        return rows.start + np.flatnonzero(self.index.trainable[rows])

    def masks(self, i: int) -> Masks:
        size = (int(self.index.heights[i]), int(self.index.widths[i]))
        rles = []
        for row in self._rows(i):
            try:
                rles.append(to_rle(self.index.raw(row).get("segmentation"), *size))
            except ValueError as error:
                number = self.index.annotation_ids[row]
                raise ImageError(f"{self.index.path.name}: annotation {number}: {error}") from error
        return CocoMasks(rles)
