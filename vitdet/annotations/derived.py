"""Indices made from others: with other classes, or of several files in a row.

I is the number of images, A of annotations and K of categories.
"""

import functools
import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vitdet.annotations.cache import Strings
from vitdet.annotations.index import DIGITS, CocoIndex

# the arrays of an index with a row for each annotation
FLAGS = ("iscrowd", "trainable", "masked", "broken", "boxless")
ANNOTATION_ARRAYS = ("boxes_xywh", "area", "categories", "annotation_ids", *FLAGS)


class Table(NamedTuple):
    """The classes of a data set by label: K ids in ascending order, names, and flags that are true for things."""

    ids: list[int]
    names: list[str]
    things: list[bool]


class Relabelled(CocoIndex):
    """An index with other classes; annotations of classes that are not kept are left out.

    Args:
        base: the index, which is not changed.
        table: the new classes.
        label_of: the new label of each old one; -1 for classes that are left out.
        reason: why annotations are left out, as `notes` say it.
        lines: further notes.
        wanted: whether the user has chosen to leave them out, so that scores need not say it again.

    Attributes:
        merged: for each image where segments of stuff have become the same segment, by the position of the image: the
            numbers of the segments that were joined to another, and the numbers of the others.
    """

    def __init__(
        self,
        base: CocoIndex,
        table: Table,
        label_of: Sequence[int],
        *,
        reason: str,
        lines: Sequence[str] = (),
        wanted: bool = False,
    ) -> None:
        vars(self).update({name: value for name, value in vars(base).items() if name not in ("_text", "digest")})
        self._base = base
        self._made_by = (base, table, list(label_of)), {"reason": reason, "lines": list(lines), "wanted": wanted}
        self.category_ids, self.names, self.things = list(table.ids), list(table.names), list(table.things)
        lowest: dict[int, int] = {}
        for number, label in zip(base.category_ids, label_of):
            lowest[label] = min(number, lowest.get(label, number))
        self.file_ids = [lowest.get(label, number) for label, number in enumerate(table.ids)]
        labels = np.array([*label_of, -1], np.int32)[base.categories]
        image = np.repeat(np.arange(len(base)), np.diff(base.first))
        rows = np.flatnonzero(labels >= 0)
        left_out = len(labels) - len(rows)
        self.merged: dict[int, dict[int, int]] = {}
        if base.panoptic:
            rows = self._merge_stuff(rows, labels, image, np.asarray(table.things, bool))
        self._rows = rows
        for name in ANNOTATION_ARRAYS:
            setattr(self, name, getattr(base, name)[rows])
        self.categories = labels[rows]
        counts = np.bincount(image[rows], minlength=len(base))
        self.first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        if self.merged:
            self._join_boxes(base)
        self.left_out = {**base.left_out, **({reason: left_out} if left_out and not wanted else {})}
        self.notes = [*base.notes, *([f"{left_out} {reason}"] if left_out else []), *lines]

    def _merge_stuff(self, rows: np.ndarray, labels: np.ndarray, image: np.ndarray, things: np.ndarray) -> np.ndarray:
        """The rows without segments of stuff whose class an earlier segment of the image has, which is noted."""
        stuff = rows[~things[labels[rows]] & ~self.iscrowd[rows]]
        pairs = np.stack([image[stuff], labels[stuff]], 1)
        _, first, inverse = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
        keeper = stuff[first][inverse.reshape(-1)]
        again = keeper != stuff
        numbers = self.annotation_ids
        for row, kept in zip(stuff[again].tolist(), keeper[again].tolist()):
            self.merged.setdefault(int(image[row]), {})[int(numbers[row])] = int(numbers[kept])
        return np.setdiff1d(rows, stuff[again])

    def _join_boxes(self, base: CocoIndex) -> None:
        """Each segment that others were joined to has the box around them all, and the sum of their areas."""
        for i, joined in self.merged.items():
            span, theirs = self.annotations(i), base.annotations(i)
            row_of = dict(zip(base.annotation_ids[theirs].tolist(), range(theirs.start, theirs.stop)))
            mine = dict(zip(self.annotation_ids[span].tolist(), range(span.start, span.stop)))
            for number, kept in joined.items():
                row, other = mine[kept], row_of[number]
                self.trainable[row] |= base.trainable[other]
                # the box of a segment that has none is taken from its pixels, which are those of both
                self.boxless[row] |= base.boxless[other]
                if self.boxless[row]:
                    self.boxes_xywh[row] = 0.0
                    continue
                both = np.stack([self.boxes_xywh[row], base.boxes_xywh[other]])
                low, high = both[:, :2].min(0), (both[:, :2] + both[:, 2:]).max(0)
                # a segment without a box gets that of its pixels when they are read
                self.boxes_xywh[row] = [*low, *(high - low)] if (both[:, 2:] > 0).all() else 0
                self.boxless[row] |= base.boxless[other]
                self.area[row] += base.area[other]

    def raw(self, annotation: int) -> dict[str, Any]:
        return self._base.raw(int(self._rows[annotation]))

    def rle(self, annotation: int) -> dict[str, Any]:
        return self._base.rle(int(self._rows[annotation]))

    def fault(self, annotation: int) -> str:
        return self._base.fault(int(self._rows[annotation]))

    @functools.cached_property
    def digest(self) -> str:
        return self._base.digest

    def item(self, image: int) -> dict[str, Any] | None:
        return self._base.item(image)

    def png_name(self, image: int) -> str | None:
        return self._base.png_name(image)

    def __reduce__(self):
        # a spawned worker makes the arrays again instead of copying them
        return _relabelled, self._made_by


def _relabelled(args: tuple, options: dict[str, Any]) -> Relabelled:
    return Relabelled(*args, **options)


class Joined(CocoIndex):
    """The images of several indices with equal classes, in a row.

    Image ids that an earlier index has already are shifted by a number that makes them unique.

    Args:
        parts: the indices.
    """

    def __init__(self, parts: Sequence[CocoIndex]) -> None:
        self.parts, first = list(parts), parts[0]
        self.path, self.panoptic = first.path, first.panoptic
        self.category_ids, self.names, self.things = first.category_ids, first.names, first.things
        same = all(part.file_ids == first.file_ids for part in parts)
        self.file_ids = first.file_ids if same else first.category_ids
        self._unfit = next((part._unfit for part in parts if part._unfit), "")
        for name in (*ANNOTATION_ARRAYS, "heights", "widths"):
            setattr(self, name, np.concatenate([getattr(part, name) for part in parts]))
        self.image_ids, shifted = unique_ids([part.image_ids for part in parts])
        self.file_names = Strings(*Strings.pack([name for part in parts for name in part.file_names]))
        counts = np.concatenate([np.diff(part.first) for part in parts])
        self.first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._image_starts = np.cumsum([0, *map(len, parts)]).tolist()
        self._starts = np.cumsum([0, *(len(part.categories) for part in parts)]).tolist()
        self.left_out = {}
        for part in parts:
            for reason, count in part.left_out.items():
                self.left_out[reason] = self.left_out.get(reason, 0) + count
        self.notes = [f"{part.path}: {note}" for part in parts for note in part.notes]
        if shifted:
            self.notes.append(f"{shifted} image ids occur in an earlier source, too, and are shifted to be unique")

    def raw(self, annotation: int) -> dict[str, Any]:
        part, row = self._find(annotation)
        return part.raw(row)

    def rle(self, annotation: int) -> dict[str, Any]:
        part, row = self._find(annotation)
        return part.rle(row)

    def fault(self, annotation: int) -> str:
        part, row = self._find(annotation)
        return part.fault(row)

    @functools.cached_property
    def digest(self) -> str:
        return hashlib.sha256(" ".join(part.digest for part in self.parts).encode()).hexdigest()[:DIGITS]

    def _find(self, annotation: int) -> tuple[CocoIndex, int]:
        """The index that an annotation comes from, and its position there."""
        k = bisect_right(self._starts, annotation) - 1
        return self.parts[k], annotation - self._starts[k]

    def item(self, image: int) -> dict[str, Any] | None:
        k = bisect_right(self._image_starts, image) - 1
        return self.parts[k].item(image - self._image_starts[k])

    def png_name(self, image: int) -> str | None:
        k = bisect_right(self._image_starts, image) - 1
        return self.parts[k].png_name(image - self._image_starts[k])

    def __str__(self) -> str:
        return (
            f"{len(self)} images, {len(self.boxes_xywh)} boxes, {self.num_classes} classes "
            f"({', '.join(str(part.path) for part in self.parts)})"
        )

    def __reduce__(self):
        return Joined, (self.parts,)


def unique_ids(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
    """The image ids of several files in a row, those of a file with repeated ids shifted; and how many were shifted."""
    found, taken, shifted = [], np.zeros(0, np.int64), 0
    for ids in parts:
        if np.isin(ids, taken).any():
            ids = ids + (int(taken.max()) + 1 - int(ids.min()))
            shifted += len(ids)
        found.append(ids)
        taken = np.concatenate([taken, ids])
    return taken, shifted
