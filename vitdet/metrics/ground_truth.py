"""The ground truth as a few flat arrays in the order in which pycocotools scores.

I is the number of images, A of annotations and K of classes.
"""

import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.annotations import CocoIndex
from vitdet.errors import DataError

NO_MASK = "annotations left out: no segmentation that can be read"


@dataclass
class GroundTruth:
    """Images 0..I-1 and classes 0..K-1, both in the order of their ids, and the annotations.

    The order of the images matters, because pycocotools breaks ties between equal scores by it.

    Attributes:
        image_ids: `(I,)` int64, ascending.
        image: `(A,)`, the position of the image of each annotation, in 0..I-1.
        label: `(A,)`, the class of each annotation, in 0..K-1.
        boxes_xywh: `(A, 4)`: left, top, width and height in pixels.
        area: `(A,)` in square pixels, of the mask, or of the box if the file gives no area.
        iscrowd: `(A,)` bool.
        sizes: `(I, 2)`, height and width in pixels, 0 if the file gives none.
        rles: the run lengths of the A masks in COCO's format; empty if masks were not read.
        file_names: I strings, empty if the file gives none.
        names: K class names.
        category_ids: K category ids, ascending.
        file_ids: the K category ids of the file itself, see `CocoIndex`, for results that belong to it.
        notes: the reasons for which annotations were left out or filled in, and how often.
        digest: the hash of the annotation file, see `CocoIndex.digest`.
    """

    image_ids: np.ndarray
    image: np.ndarray
    label: np.ndarray
    boxes_xywh: np.ndarray
    area: np.ndarray
    iscrowd: np.ndarray
    sizes: np.ndarray
    rles: list[dict[str, Any]]
    file_names: list[str]
    names: list[str]
    category_ids: list[int]
    file_ids: list[int]
    notes: Counter[str]
    digest: str = ""

    @classmethod
    def read(cls, source: "str | Path | Mapping[str, Any] | CocoIndex", *, masks: bool = False) -> "GroundTruth":
        """The ground truth of an annotation file.

        Args:
            source: the path, the content or the index of the annotation file.
            masks: whether masks are read; annotations without a readable mask are then left out.

        Raises:
            FileNotFoundError: the file does not exist.
            DataError: the file is no annotation file of boxes or masks; the message names the fault.
        """
        if isinstance(source, Mapping):
            source = CocoIndex.of(source)
        index = source if isinstance(source, CocoIndex) else CocoIndex.open(source)
        known = _read.setdefault(index, {})
        if masks not in known:
            known[masks] = cls._of(index, masks)
        return known[masks]

    @classmethod
    def _of(cls, index: CocoIndex, masks: bool) -> "GroundTruth":
        if index.panoptic:
            raise DataError(
                f"{index.path} has nothing to score against: it is a COCO panoptic file; "
                "wanted boxes or masks in COCO's "
                "format (`vitdet test` scores panoptic results)"
            )
        order = np.argsort(index.image_ids)
        image = np.repeat(np.argsort(order), np.diff(index.first))
        sizes = np.stack([index.heights, index.widths], 1).astype(np.int64)
        notes, rows, rles = Counter(index.left_out), np.arange(len(image)), []
        if masks:
            rows = np.flatnonzero(index.masked)
            rles = [index.rle(row) for row in rows.tolist()]
            notes += Counter({NO_MASK: len(image) - len(rles)})
        return cls(
            image_ids=index.image_ids[order],
            image=image[rows],
            label=index.categories[rows].astype(np.int64),
            boxes_xywh=index.boxes_xywh[rows],
            area=index.area[rows],
            iscrowd=index.iscrowd[rows],
            sizes=sizes[order],
            rles=rles,
            file_names=[index.file_names[i] for i in order.tolist()],
            names=index.names,
            category_ids=index.category_ids,
            file_ids=index.file_ids,
            notes=notes,
            digest=index.digest,
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def keys(self) -> list[str]:
        """The key of each class in the scores: `AP/<name>`, with the category id if several classes share a name."""
        shared = {name for name, count in Counter(self.names).items() if count > 1}
        return [f"AP/{n} ({i})" if n in shared else f"AP/{n}" for n, i in zip(self.names, self.category_ids)]


# the ground truths of an index, with and without masks, because a run validates many times on an index
_read: weakref.WeakKeyDictionary[CocoIndex, dict[bool, GroundTruth]] = weakref.WeakKeyDictionary()
