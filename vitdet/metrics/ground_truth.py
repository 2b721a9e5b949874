"""What is to be found, as a few flat arrays in the order in which pycocotools scores.

I images, A annotations, K classes
boxes_xywh   left, top, width, height in pixels, as COCO writes them
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.annotations import CocoIndex
from vitdet.errors import UserError
from vitdet.masks import to_rle

NO_MASK = "annotations left out: no segmentation that can be read"


@dataclass
class GroundTruth:
    """Images 0..I-1 in the order of their ids, classes 0..K-1 in the order of theirs, and the annotations.

    Images are in the order of their ids since pycocotools breaks ties between equal scores in that order.
    """

    image_ids: np.ndarray  # (I,) int64, ascending
    image: np.ndarray  # (A,) in 0..I-1
    label: np.ndarray  # (A,) in 0..K-1
    boxes_xywh: np.ndarray  # (A, 4)
    area: np.ndarray  # (A,) square pixels: of the mask, or of the box where the file gives none
    iscrowd: np.ndarray  # (A,) bool
    sizes: np.ndarray  # (I, 2) height and width, 0 where the file gives none
    rles: list[dict[str, Any]]  # (A,) COCO's run lengths of the masks, where they were asked for
    file_names: list[str]  # (I,) empty where the file gives none
    names: list[str]
    category_ids: list[int]
    notes: Counter[str]  # what was left out or filled in, and how often

    @classmethod
    def read(cls, source: "str | Path | Mapping[str, Any] | CocoIndex", *, masks: bool = False) -> "GroundTruth":
        """Of an index, of an annotation file, or of its content; segmentations are read only if `masks`, and annotations
        without one are then left out.

        Raises:
            FileNotFoundError: there is no such file.
            UserError: it is no annotation file of boxes or masks; the message says what is wrong.
        """
        if isinstance(source, Mapping):
            source = CocoIndex.of(source)
        index = source if isinstance(source, CocoIndex) else CocoIndex.open(source)
        if index.panoptic:
            raise UserError(
                f"{index.path} has nothing to score against: it is a COCO panoptic file; wanted boxes or masks in COCO's "
                "format (`vitdet test` scores panoptic results)"
            )
        order = np.argsort(index.image_ids)
        image = np.repeat(np.argsort(order), np.diff(index.first))
        sizes = np.stack([index.heights, index.widths], 1).astype(np.int64)
        notes, rows, rles = Counter(index.left_out), np.arange(len(image)), []
        if masks:
            found = [_run_lengths(index, row, size) for row, size in zip(rows, sizes[order][image].tolist())]
            rows, rles = rows[[rle is not None for rle in found]], [rle for rle in found if rle is not None]
            notes += Counter({NO_MASK: len(found) - len(rles)})
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
            notes=notes,
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def keys(self) -> list[str]:
        """How each class is called in results: `AP/<name>`, with its id where two classes share a name."""
        shared = {name for name, count in Counter(self.names).items() if count > 1}
        return [f"AP/{n} ({i})" if n in shared else f"AP/{n}" for n, i in zip(self.names, self.category_ids)]


def _run_lengths(index: CocoIndex, row: int, size: list[int]) -> dict[str, Any] | None:
    try:
        return to_rle(index.raw(row).get("segmentation"), *size)
    except ValueError:
        return None
