"""A COCO JSON file (instances or panoptic) as a few flat arrays.

The arrays are built once, cached in a file beside the JSON and memory-mapped, so that all workers, training and scoring
share a single copy. I is the number of images, A of annotations and K of categories.
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

# the version of the cached arrays; raise it whenever their names, types or meaning change
VERSION = 5


class CocoIndex:
    """The images, boxes and categories of a COCO JSON file as numpy arrays.

    Every annotation that pycocotools would evaluate is kept, including crowds and empty boxes; `trainable` marks those
    that are fit for training.

    Attributes:
        image_ids, heights, widths: `(I,)` integers; sizes are in pixels, and 0 if the JSON has none, see
            `check_images`.
        file_names: I strings, as in the JSON; empty if it has none.
        first: `(I + 1,)`; the annotations of image `i` are at `first[i]:first[i + 1]`.
        boxes_xywh: `(A, 4)` float64: left, top, width and height in pixels of the upright image.
        categories: `(A,)` int32 in 0..K-1, positions in `category_ids`.
        iscrowd, trainable: `(A,)` bool.
        area: `(A,)` float64 in square pixels, of the mask, or of the box if the JSON gives no area.
        annotation_ids: `(A,)` int64.
        category_ids: K integers in ascending order, which may have any values.
        names: K strings; the id if a category has no name.
        things: K flags, true for a thing (`isthing` in COCO's panoptic format).
        panoptic: whether the annotations are segments, whose masks are in PNGs.
        left_out: the reasons for which annotations were left out or filled in, and how often.
        notes: lines for these reasons, and for those to keep annotations out of training.

    Example:
        >>> index = CocoIndex.of({"images": [{"id": 7}], "categories": [{"id": 3, "name": "cat"}], "annotations": []})
        >>> index.image_ids.tolist(), index.names, index.category_ids
        ([7], ['cat'], [3])
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
        # (A, 2): the start and the end of the text of each annotation in the JSON, in bytes
        self._spans = arrays["spans"]

    @classmethod
    def open(cls, path: str | Path) -> "CocoIndex":
        """The index of a COCO JSON file, read from the cache if that is up to date, else built and cached.

        Raises:
            FileNotFoundError: the file does not exist.
            UserError: the file is no COCO JSON; the message names the fault.
        """
        path = Path(path).expanduser()
        check_json(path, "annotation file")
        path = path.resolve()
        arrays, meta = cache.load_or_build(path, version=VERSION, build=lambda: parse(path))
        return cls(path, arrays, meta)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "CocoIndex":
        """The index of the content of a COCO JSON file, which is checked as a file would be.

        Raises:
            UserError: the content is no COCO JSON; the message names the fault.
        """
        text = json.dumps(dict(content), default=_plain).encode()
        index = cls(Path("annotations"), *parse_text(text, "annotations"))
        index._text = text
        return index

    def check_images(self) -> None:
        """Check that the index has everything that is needed to read and show images.

        Raises:
            UserError: an image has no name or size, or a category has no name.
        """
        if self._unfit:
            raise UserError(f"{self.path} is not a COCO file: {self._unfit}")

    def __len__(self) -> int:
        return len(self.image_ids)

    def __str__(self) -> str:
        return f"{len(self)} images, {len(self.boxes_xywh)} boxes, {self.num_classes} classes ({self.path})"

    def __reduce__(self):
        # A spawned worker opens the memory-mapped cache again instead of copying the arrays.
        return CocoIndex.open, (self.path,)

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def annotations(self, image: int) -> slice:
        """The positions in the flat arrays of the annotations of the image at position `image` (0..I-1)."""
        return slice(int(self.first[image]), int(self.first[image + 1]))

    def raw(self, annotation: int) -> dict[str, Any]:
        """An annotation as in the JSON, including its `segmentation`, which is read from the JSON at every call.

        In a panoptic file, it is the item of the image that the segment belongs to.
        """
        start, end = self._spans[annotation]
        return json.loads(self._text[start:end])

    def item(self, image: int) -> dict[str, Any] | None:
        """The item of a panoptic file that belongs to the image at position `image`; none if it has no segment."""
        rows = self.annotations(image)
        return self.raw(rows.start) if rows.start < rows.stop else None

    @functools.cached_property
    def _text(self) -> mmap.mmap:
        with open(self.path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _plain(value: Any) -> Any:
    """Bytes of pycocotools as text, and arrays and numbers of numpy as lists and numbers, for `json.dumps`."""
    return value.decode("latin-1") if isinstance(value, bytes) else value.tolist()
