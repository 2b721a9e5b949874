"""Reading the images and objects of an index from files.

H×W stands for the size of an image in pixels, T for the number of its objects.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.annotations.index import CocoIndex
from vitdet.data.names import why
from vitdet.data.object_masks import CocoMasks, Masks
from vitdet.data.reduced import load_reduced
from vitdet.data.transforms import MIN_VISIBLE, Sample
from vitdet.images import MAX_PIXELS, ImageError, open_image, resolve
from vitdet.pixels import ORIENTATION
from vitdet.remote import Remote, ahead, place


class ImageSource:
    """Base of the classes that read the images of an index with their objects.

    Args:
        index: the names, sizes and ids of the images.
        root: the folder to which the file names in the index are relative, on disk or at an address.
        exif: whether images are turned upright by their EXIF tag. Set it to `False` if the annotations refer to the
            pixels as they are stored.
        cache: whether decoded images are kept in memory, by each worker.
        masks: whether samples have the masks of the objects.
        max_pixels: the largest number of pixels that an image may have.

    Attributes:
        bit_depth: the number of bits that images with more than 8 bits a channel use, see `load_image`.
    """

    # the share of the box of an object that a crop must leave, or the object is dropped
    min_visible = MIN_VISIBLE

    def __init__(
        self,
        index: Any,
        root: str | Path | Remote,
        *,
        exif: bool = True,
        cache: bool = False,
        masks: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.with_masks = masks
        self.index, self.root, self.exif, self.max_pixels = index, place(root), exif, max_pixels
        self.bit_depth: int | None = None
        self._cache: dict[int, np.ndarray] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.index)

    def path(self, i: int) -> Path | Remote:
        """The file of image `i`.

        Raises:
            ImageError: its name leads out of `root`.
        """
        return resolve(self.root, self.index.file_names[i])

    def files(self) -> Iterator[tuple[str, Path | Remote, Iterable[tuple[int, str]]]]:
        """What files the images need: the kind of files, their folder, and the name for each position."""
        yield "images", self.root, enumerate(self.index.file_names)

    def ahead(self, images: Sequence[int]) -> None:
        """Asks for the files of images that will be read next, where they lie elsewhere."""
        if isinstance(self.root, Remote):
            ahead(self.wanted(images))

    def wanted(self, images: Sequence[int]) -> Iterator[Path | Remote]:
        """The files that reading images needs, which may lie elsewhere."""
        for i in images:
            # what is wrong is said when the image is read
            with contextlib.suppress(ImageError):
                if self._cache is None or i not in self._cache:
                    yield self.path(i)

    def image(self, i: int, *, reduction: int = 1) -> np.ndarray:
        """Image `i` as RGB `(H, W, 3)` uint8.

        Args:
            i: the position of the image.
            reduction: 1, 2, 4 or 8: by how much the sides of a JPEG may be smaller, see `load_reduced`.

        Raises:
            ImageError: the file can't be decoded, or its size differs from the size in the index.
        """
        if self._cache is not None and i in self._cache:
            return self._cache[i]
        path = self.path(i)
        try:
            options = {"exif": self.exif, "max_pixels": self.max_pixels, "bit_depth": self.bit_depth}
            # images that are kept in memory must do for all sizes
            image, size = load_reduced(path, reduction if self._cache is None else 1, **options)
        except ImageError as error:
            # unlike `Path.exists`, also for a name that no file system can hold
            if isinstance(path, Remote) or os.path.exists(path):
                raise
            raise ImageError(why(self.root, self.index.file_names[i])) from error
        expected = (int(self.index.heights[i]), int(self.index.widths[i]))
        if size != expected:
            (h, w), (height, width) = size, expected
            hint = (
                "; it was turned upright by its EXIF tag: "
                "set data.reading.exif: false if the boxes are in stored pixels"
            )
            turned = self.exif and (w, h) == expected and self._is_turned(path)
            raise ImageError(f"{path} is {w}×{h}, but {self.says(i)} {width}×{height}{hint if turned else ''}")
        if self._cache is not None:
            self._cache[i] = image
        return image

    @staticmethod
    def _is_turned(path: Path | Remote) -> bool:
        with open_image(path) as image:
            return image.getexif().get(ORIENTATION, 1) != 1

    def says(self, i: int) -> str:
        """What gives another size for image `i`, for error messages."""
        return f"{self.index.path.name} says"

    def objects(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The boxes and labels of the objects of image `i`, without crowds and empty boxes.

        Returns:
            Boxes `(T, 4)` float32, which are corners as fractions of the image and clipped to it, and labels `(T,)`.
        """
        raise NotImplementedError

    def masks(self, i: int) -> Masks:
        """The masks of `objects(i)`, which are decoded later."""
        raise NotImplementedError

    def sample(self, i: int, *, reduction: int = 1) -> Sample:
        """Image `i` with its objects; see `image`."""
        size = (int(self.index.heights[i]), int(self.index.widths[i]))
        masks = self.masks(i) if self.with_masks else None
        return Sample(self.image(i, reduction=reduction), *self.objects(i), masks, size)


class CocoSource(ImageSource):
    """Reads the images of a COCO index with their boxes and instance masks."""

    index: CocoIndex

    def objects(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self._rows(i)
        x, y, w, h = self.index.boxes_xywh[rows].T
        boxes_xyxy = np.stack([x, y, x + w, y + h], axis=1)
        size = np.array([self.index.widths[i], self.index.heights[i]] * 2, np.float64)
        return (boxes_xyxy / size).clip(0, 1).astype(np.float32), self.index.categories[rows].astype(np.int64)

    def _rows(self, i: int) -> np.ndarray:
        """The positions in the index of the annotations that are objects of image `i`; if masks are read, with one."""
        rows = self.index.annotations(i)
        shown = self.index.trainable[rows]
        return rows.start + np.flatnonzero(shown & self.index.masked[rows] if self.with_masks else shown)

    def masks(self, i: int) -> Masks:
        return CocoMasks([self.index.rle(row) for row in self._rows(i).tolist()])
