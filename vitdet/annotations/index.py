"""A COCO JSON (instances or panoptic) as a few flat arrays, built once, cached beside it and memory-mapped, so that all
workers share one copy, and training and scoring do.

I images, A annotations (those of image `i` are `first[i]:first[i + 1]`), K categories
boxes_xywh   left, top, width, height in pixels of the upright image, as COCO writes them
categories   0..K-1, the position of the category in `category_ids`, which are sorted and may be any integers
"""

import functools
import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.annotations import cache
from vitdet.annotations.cache import Strings
from vitdet.annotations.json_text import check_json
from vitdet.annotations.reader import parse, parse_text
from vitdet.errors import UserError

VERSION = 5  # of the cached arrays; raise it whenever their names, types or meaning change


class CocoIndex:
    """Images, boxes and categories of one COCO JSON, as numpy arrays.

    Every annotation that pycocotools would evaluate is kept, crowds and empty boxes too; `trainable` marks those that
    are fit for training.

    Attributes:
        image_ids, heights, widths: `(I,)` integers; sizes are 0 where the JSON has none, see `check_images`.
        file_names: I strings, as the JSON has them; empty where it has none.
        first: `(I + 1,)` where each image's annotations start.
        boxes_xywh: `(A, 4)` float64, pixels.
        categories: `(A,)` int32 in 0..K-1.
        iscrowd, trainable: `(A,)` bool.
        area: `(A,)` float64, square pixels: of the mask, or of the box where the JSON gives none.
        annotation_ids: `(A,)` int64.
        category_ids, names, things: K integers, K strings (the id where there is none), and whether each is a thing
            (COCO panoptic's `isthing`).
        panoptic: the annotations are segments, whose masks are in PNGs.
        left_out: what was left out or filled in, and how often.
        notes: that, and what is kept out of training, in lines.
    """

    def __init__(self, path: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        self.path = path
        self.category_ids: list[int] = meta["category_ids"]
        self.names: list[str] = meta["names"]
        self.things: list[bool] = meta["things"]
        self.panoptic: bool = meta["panoptic"]
        self.left_out: dict[str, int] = meta["notes"]
        counts = [*self.left_out.items(), *meta["training_notes"].items()]
        self.notes = [f"{count} {reason}" if count else reason for reason, count in counts]
        self._unfit: str = meta["unfit"]
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
            UserError: the file is no COCO JSON; the message says what is missing.
        """
        path = Path(path).expanduser()
        check_json(path, "annotation file")
        path = path.resolve()
        arrays, meta = cache.load_or_build(path, version=VERSION, build=lambda: parse(path))
        return cls(path, arrays, meta)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "CocoIndex":
        """The index of what would be in the file, read in the same way.

        Raises:
            UserError: it is no COCO JSON; the message says what is missing.
        """
        text = json.dumps(dict(content), default=_plain).encode()
        index = cls(Path("annotations"), *parse_text(text, "annotations"))
        index._text = text
        return index

    def check_images(self) -> None:
        """Raises:
        UserError: an image has no name or size, or a category no name, without which images can't be read and shown.
        """
        if self._unfit:
            raise UserError(f"{self.path} is not a COCO file: {self._unfit}")

    def __len__(self) -> int:
        return len(self.image_ids)

    def __str__(self) -> str:
        return f"{len(self)} images, {len(self.boxes_xywh)} boxes, {self.num_classes} classes ({self.path})"

    def __reduce__(self):
        # a worker that is spawned maps the cache again instead of copying it
        return CocoIndex.open, (self.path,)

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


def _plain(value: Any) -> Any:
    """What `json` can write of what pycocotools and numpy give."""
    return value.decode("latin-1") if isinstance(value, bytes) else value.tolist()
