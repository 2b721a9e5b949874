"""Reading semantic label maps: a folder of PNGs whose pixel values stand for classes.

I stands for the number of images, K for the number of classes, and H×W for the size of an image in pixels.
"""

import difflib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.data.names import by_stem
from vitdet.data.object_masks import IdMasks, Masks
from vitdet.data.sources import ImageSource
from vitdet.errors import UserError
from vitdet.images import ImageError, load_values, open_image
from vitdet.masks import VOID, bounds
from vitdet.remote import Remote, ahead, place

# how many values a pixel of 16 bits may have
MOST_VALUES = 2**16
# how many label maps that lie elsewhere are asked for at a time
AT_ONCE = 64


class SemanticIndex:
    """Pairs of images and label maps, matched by their names and sorted by them.

    Args:
        images, labels: the folder to search, including its subfolders, on disk or at an address that can be listed. The
            two files of a pair have equal relative paths, except for the suffixes.
        classes: the class names, indexed by label.
        values: the pixel value of each class, up to 65535; by default 0..K-1. Pixels with other values are not scored.
        image_suffix, label_suffix: what follows the common part of the two names, such as `_leftImg8bit.png` and
            `_gtFine_labelIds.png`; by default the extension of the file.
        files: a text file that names the pairs to take, a line each, without suffixes; by default all are taken.
        skip_bad: whether label maps that can't be read are left out, with their images; by default they are an error.

    Attributes:
        file_names, label_names: I paths, relative to their folders.
        image_ids: 0..I-1.
        heights, widths: `(I,)` integers, the sizes of the label maps in pixels.
        names, category_ids, num_classes: the classes; their ids are the pixel values.
        things: K flags, which are all false.
        notes: lines about files that were left out.
        bad: why label maps were left out.

    Raises:
        FileNotFoundError: no pair was found.
        ImageError: a label map can't be read.
        UserError: the numbers of classes and values differ, or a value is out of range.
    """

    def __init__(
        self,
        images: str | Path | Remote,
        labels: str | Path | Remote,
        classes: Sequence[str],
        *,
        values: Sequence[int] | None = None,
        image_suffix: str | None = None,
        label_suffix: str | None = None,
        files: str | Path | Remote | None = None,
        skip_bad: bool = False,
    ) -> None:
        self.path = place(labels)
        found = [by_stem(place(images), image_suffix), by_stem(self.path, label_suffix)]
        if files is not None:
            listed = place(files)
            content = listed.read() if isinstance(listed, Remote) else listed.read_bytes()
            wanted = set(content.decode("utf-8").splitlines())
            found = [{stem: name for stem, name in names.items() if stem in wanted} for names in found]
        common = sorted(found[0].keys() & found[1].keys())
        if not common:
            raise FileNotFoundError(
                f"no image in {images} has a label map in {labels}: the files of a pair must share their name, "
                "up to the extension or "
                f"image_suffix and label_suffix (found {len(found[0])} images and {len(found[1])} label maps)"
            )
        self.file_names, self.label_names = ([names[stem] for stem in common] for names in found)
        self.notes = [
            f"{len(names) - len(common)} {what} left out: no partner"
            for names, what in zip(found, ("images", "label maps"))
            if len(names) > len(common)
        ]
        self._read_sizes(skip_bad)
        self.image_ids = np.arange(len(self))
        self.names = list(classes)
        self.category_ids = list(range(len(classes)) if values is None else values)
        self.things = [False] * len(self.names)
        # whether the pixel values of the classes are only assumed
        self.assumed = values is None
        _check_values(self.category_ids, self.names)
        # the label of each value of 16 bits, and in the last place that of negative ones
        self._label_of = np.full(MOST_VALUES + 1, VOID, np.uint8)
        self._label_of[self.category_ids] = np.arange(len(self.names))

    def _read_sizes(self, skip_bad: bool) -> None:
        self.bad: list[str] = []
        sizes, kept = [], []
        for i, name in enumerate(self.label_names):
            if i % AT_ONCE == 0:
                ahead(self.path / other for other in self.label_names[i : i + AT_ONCE])
            try:
                with open_image(self.path / name) as image:
                    sizes.append(image.size)
                    kept.append(i)
            except ImageError as error:
                if not skip_bad:
                    raise
                self.bad.append(str(error))
        if self.bad:
            self.notes.append(f"{len(self.bad)} images left out: their label maps can't be read")
            self.file_names = [self.file_names[i] for i in kept]
            self.label_names = [self.label_names[i] for i in kept]
        if not kept:
            raise ImageError(f"no label map in {self.path} can be read: {self.bad[0]}")
        self.widths, self.heights = np.array(sizes, np.int64).reshape(-1, 2).T

    def rename(self, names: Mapping[str, str]) -> None:
        """Gives classes other names; those with equal names become one, whose id is the smallest of its pixel values.

        Raises:
            UserError: a name is no class; the message names the nearest.
        """
        if not names:
            return
        before, values = self.names, self.category_ids
        for name in names:
            if name not in before:
                near = difflib.get_close_matches(name, before, 1)
                raise UserError(
                    f"data.rename has {name!r}, which is no class of data.classes; "
                    + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(before[:10])}")
                )
        after = [names.get(name, name) for name in before]
        self.names = list(dict.fromkeys(after))
        label_of = [self.names.index(name) for name in after]
        self.category_ids = [
            min(v for v, k in zip(values, label_of) if k == label) for label in range(self.num_classes)
        ]
        self.things = [False] * len(self.names)
        self._label_of[values] = label_of
        for target in dict.fromkeys(names.values()):
            merged = [old for old in before if names.get(old) == target]
            self.notes.append(f"{', '.join(merged)} {'are' if len(merged) > 1 else 'is'} called {target} (data.rename)")

    def __len__(self) -> int:
        return len(self.file_names)

    def __str__(self) -> str:
        return f"{len(self)} images, {self.num_classes} classes ({self.path})"

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def values(self, i: int) -> np.ndarray:
        """The numbers in the label map of image `i`, `(H, W)` integers.

        Raises:
            ImageError: the file can't be read, or its pixels are not single numbers.
        """
        path = self.path / self.label_names[i]
        # the indices of a palette are the values, and its colours are ignored
        values = load_values(path)
        if values.ndim == 3:
            raise ImageError(
                f"{path} has colours; a label map has one value a pixel, the number of its class (grey or palette PNG, "
                "not RGB)"
            )
        highest = values.max(initial=0)
        if highest > 255 and (self._label_of[256:] == VOID).all():
            raise ImageError(
                f"{path} has values up to {highest}, and no class has one above 255: these are no numbers of classes "
                "(are they ids of objects?); list those that are under data.values"
            )
        return values

    def labels(self, i: int) -> np.ndarray:
        """The label map of image `i`, `(H, W)` uint8: the class of each pixel, 0..K-1, or `VOID`.

        Raises:
            ImageError: the file can't be read, or does not have a single value for each pixel.
        """
        values = self.values(i)
        return self._label_of[values if values.dtype.kind == "u" else values.clip(min=-1)]

    def label_of(self, values: np.ndarray) -> np.ndarray:
        """The class of each pixel value, or `VOID`."""
        return self._label_of[np.asarray(values).clip(-1, MOST_VALUES)]

    def void(self, i: int) -> np.ndarray:
        """A label map for image `i` in which no pixel is scored."""
        return np.full((int(self.heights[i]), int(self.widths[i])), VOID, np.uint8)


class JoinedMaps(SemanticIndex):
    """The images of several indices with equal classes, in a row.

    Args:
        parts: the indices.
    """

    def __init__(self, parts: Sequence[SemanticIndex]) -> None:
        self.parts, first = list(parts), parts[0]
        self.path, self.names, self.category_ids = first.path, first.names, first.category_ids
        self.things = first.things
        self.file_names = [name for part in parts for name in part.file_names]
        self.label_names = [name for part in parts for name in part.label_names]
        self.widths, self.heights = (np.concatenate([getattr(p, k) for p in parts]) for k in ("widths", "heights"))
        self.image_ids = np.arange(len(self.file_names))
        self.notes = [f"{part.path}: {note}" for part in parts for note in part.notes]
        self.assumed = first.assumed
        self._starts = np.cumsum([0, *map(len, parts)]).tolist()

    def __str__(self) -> str:
        paths = ", ".join(str(part.path) for part in self.parts)
        return f"{len(self)} images, {self.num_classes} classes ({paths})"

    def values(self, i: int) -> np.ndarray:
        k = bisect_right(self._starts, i) - 1
        return self.parts[k].values(i - self._starts[k])

    def labels(self, i: int) -> np.ndarray:
        k = bisect_right(self._starts, i) - 1
        return self.parts[k].labels(i - self._starts[k])

    def label_of(self, values: np.ndarray) -> np.ndarray:
        return self.parts[0].label_of(values)


class SemanticSource(ImageSource):
    """Reads images with an object for each class that occurs in them; its mask is the pixels of that class."""

    min_visible = 0.0
    index: SemanticIndex

    def wanted(self, images: Sequence[int]) -> Iterator[Path | Remote]:
        yield from super().wanted(images)
        if self.with_masks:
            yield from (self.index.path / self.index.label_names[i] for i in images)

    def objects(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        # the objects are known only after the masks have been read, see `sample`
        return np.zeros((0, 4), np.float32), np.zeros(0, np.int64)

    def sample(self, i: int, *, reduction: int = 1) -> Any:
        sample = super().sample(i, reduction=reduction)
        if isinstance(sample.masks, IdMasks):
            sample.labels = sample.masks.wanted.astype(np.int64)
            height, width = sample.masks.ids.shape
            whole = sample.masks.ids[None] == sample.labels[:, None, None]
            sample.boxes = bounds(whole) / np.array([width, height] * 2, np.float32)
        return sample

    def says(self, i: int) -> str:
        return f"its label map {self.index.label_names[i]} has"

    def masks(self, i: int) -> Masks:
        labels = self.index.labels(i)
        present = np.unique(labels)
        return IdMasks(labels, present[present != VOID])


def _check_values(values: Sequence[int], names: Sequence[str]) -> None:
    if not names:
        raise UserError("data.classes is empty; list the names of the classes, in the order of their pixel values")
    wrong = [value for value in values if type(value) is not int]
    if wrong:
        raise UserError(f"data.values has {wrong[0]!r}; wanted whole numbers")
    if len(set(values)) != len(names):
        raise UserError(f"got {len(names)} classes but {len(set(values))} pixel values; they must pair")
    if len(names) > VOID:
        raise UserError(f"got {len(names)} classes; a label map can have at most {VOID}")
    outside = [value for value in values if not 0 <= value < MOST_VALUES]
    if outside:
        raise UserError(f"data.values has {outside[0]}; a label map holds 0..255, or 0..65535 with 16 bits")
