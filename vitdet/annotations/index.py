"""A COCO JSON (instances or panoptic) as a few flat arrays, built once, cached beside it and memory-mapped, so that all workers share one copy.

I images, A annotations (those of image `i` are `first[i]:first[i + 1]`), K categories
boxes_xywh   left, top, width, height in pixels of the upright image, as COCO writes them
categories   0..K-1, the position of the category in `category_ids`, which are sorted and may be any integers
"""

import functools
import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.annotations import cache
from vitdet.annotations.cache import Strings
from vitdet.annotations.reader import parse

VERSION = 4  # of the cached arrays; raise it whenever their names, types or meaning change


class CocoIndex:
    """Images, boxes and categories of one COCO JSON, as numpy arrays.

    Every annotation that pycocotools would evaluate is kept, crowds and empty boxes too; `trainable` marks those that
    are fit for training.

    Attributes:
        image_ids, heights, widths: `(I,)` integers.
        file_names: I strings, as the JSON has them.
        first: `(I + 1,)` where each image's annotations start.
        boxes_xywh: `(A, 4)` float64, pixels.
        categories: `(A,)` int32 in 0..K-1.
        iscrowd, trainable: `(A,)` bool.
        area: `(A,)` float64, square pixels: of the mask, or of the box where the JSON gives none.
        annotation_ids: `(A,)` int64.
        category_ids, names, things: K integers, K strings, and whether each is a thing (COCO panoptic's `isthing`).
        panoptic: the annotations are segments, whose masks are in PNGs.
        notes: what was dropped or changed, one line a kind.
    """

    def __init__(self, path: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        self.path = path
        self.category_ids: list[int] = meta["category_ids"]
        self.names: list[str] = meta["names"]
        self.things: list[bool] = meta["things"]
        self.panoptic: bool = meta["panoptic"]
        self.notes: list[str] = meta["notes"]
        self.image_ids = arrays["image_ids"]
        self.heights, self.widths = arrays["heights"], arrays["widths"]
        self.file_names = Strings(arrays["file_names"], arrays["file_name_ends"])
        self.first = arrays["first"]
        self.boxes_xywh, self.area = arrays["boxes_xywh"], arrays["area"]
        self.categories, self.annotation_ids = arrays["categories"], arrays["annotation_ids"]
        self.iscrowd, self.trainable = arrays["iscrowd"], arrays["trainable"]
        self._spans = arrays["spans"]  # (A, 2): where each annotation's text lies in the JSON, in bytes

    @classmethod
    def open(cls, path: str | Path) -> "CocoIndex":
        """The index of a COCO JSON, from the cache where it is still right, else built and cached.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no COCO JSON; the message says what is missing.
        """
        path = Path(path).expanduser().resolve()
        if not path.is_file():
            raise FileNotFoundError(f"annotation file {path} does not exist")
        arrays, meta = cache.load_or_build(path, version=VERSION, build=lambda: parse(path))
        return cls(path, arrays, meta)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __str__(self) -> str:
        return f"{len(self)} images, {len(self.boxes_xywh)} boxes, {self.num_classes} classes ({self.path})"

    def __reduce__(self):
        return CocoIndex.open, (self.path,)  # a worker that is spawned maps the cache again instead of copying it

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def annotations(self, image: int) -> slice:
        """Where the annotations of image number `image` (0..I-1) lie in the flat arrays."""
        return slice(int(self.first[image]), int(self.first[image + 1]))

    def raw(self, annotation: int) -> dict[str, Any]:
        """One annotation as the JSON has it, its `segmentation` included; read from the JSON only when asked for.

        Of a panoptic file, the item of the whole image.
        """
        start, end = self._spans[annotation]
        return json.loads(self._text[start:end])

    @functools.cached_property
    def _text(self) -> mmap.mmap:
        with open(self.path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def to_coco_dict(self) -> dict[str, Any]:
        """Images, categories and boxes (no segmentations) in COCO's own form, as pycocotools takes it."""
        owner = np.repeat(self.image_ids, np.diff(self.first)).tolist()
        category_ids = np.asarray(self.category_ids, dtype=np.int64)[self.categories].tolist()
        columns = zip(
            self.annotation_ids.tolist(),
            owner,
            category_ids,
            self.boxes_xywh.tolist(),
            self.area.tolist(),
            self.iscrowd.tolist(),
        )
        keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
        sizes = zip(self.image_ids.tolist(), self.file_names, self.heights.tolist(), self.widths.tolist())
        return {
            "images": [dict(zip(("id", "file_name", "height", "width"), row)) for row in sizes],
            "categories": [{"id": i, "name": name} for i, name in zip(self.category_ids, self.names)],
            "annotations": [dict(zip(keys, (*row[:-1], int(row[-1])))) for row in columns],
        }
