"""A COCO JSON file (instances or panoptic) as a few flat arrays.

The arrays are built once, cached in a file beside the JSON and memory-mapped, so that all workers, training and scoring
share a single copy. I is the number of images, A of annotations and K of categories.
"""

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.annotations import cache
from vitdet.annotations.cache import Strings
from vitdet.annotations.file_text import FileText
from vitdet.annotations.json_text import check_json, decode
from vitdet.annotations.reader import parse, parse_text
from vitdet.errors import DataError, short
from vitdet.masks import to_rle
from vitdet.remote import Remote, place
from vitdet.segmentations import is_missing

# the version of the cached arrays; raise it whenever their names, types or meaning change
VERSION = 7
# how many digits of a hash tell one file from another
DIGITS = 12
# the name of a file in the text of an item, if it has no escapes
FILE_NAME = re.compile(rb'"file_name"\s*:\s*"([ -!#-\[\]-~]+)"')


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
        masked: `(A,)` bool: whether an annotation has a mask. Panoptic segments have one in a PNG.
        broken: `(A,)` bool: whether an annotation has a `segmentation` that is no mask of its image, see `fault`.
        boxless: `(A,)` bool: whether a panoptic segment has no box in the JSON, so that it must be taken from its
            pixels; `boxes_xywh` is then zero. The boxes of instances that have none are made of their masks.
        area: `(A,)` float64 in square pixels, of the mask, or of the box if the JSON gives no area.
        annotation_ids: `(A,)` int64.
        category_ids: K integers in ascending order, which may have any values.
        file_ids: the ids of the classes in the file itself, which differ from `category_ids` where the categories of
            several files were matched by name.
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

    def __init__(
        self, path: Path | Remote, arrays: dict[str, np.ndarray], meta: dict[str, Any], *, file: Path | None = None
    ) -> None:
        self.path = path
        # where the JSON is read: of one that lies elsewhere, the copy on this machine
        self._file = file or Path(str(path))
        self.category_ids: list[int] = meta["category_ids"]
        self.file_ids = self.category_ids
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
        self.masked, self.broken, self.boxless = arrays["masked"], arrays["broken"], arrays["boxless"]
        # the number of bytes of the JSON, and the key of the cache
        self._bytes: int = meta["bytes"]
        self._key: str = meta.get("key", "")
        # (A, 2): the start and the end of the text of each annotation in the JSON, in bytes
        self._spans = arrays["spans"]

    @classmethod
    def open(cls, path: str | Path | Remote) -> "CocoIndex":
        """The index of a COCO JSON file, read from the cache if that is up to date, else built and cached.

        Args:
            path: the file, or its address, such as `s3://bucket/train.json`, from where it is fetched once.

        Raises:
            FileNotFoundError: the file does not exist.
            DataError: the file is no COCO JSON; the message names the fault.
            RemoteError: the file can't be read from its address.
        """
        name = place(path)
        file = name.local() if isinstance(name, Remote) else name.expanduser()
        shown = name if isinstance(name, Remote) else file
        check_json(file, "annotation file", name=shown)
        file = file.resolve()
        shown = name if isinstance(name, Remote) else file
        arrays, meta = cache.load_or_build(file, version=VERSION, build=lambda: parse(file, name=shown))
        return cls(shown, arrays, meta, file=file)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "CocoIndex":
        """The index of the content of a COCO JSON file, which is checked as a file would be.

        Raises:
            DataError: the content is no COCO JSON; the message names the fault.
        """
        text = json.dumps(dict(content), default=_plain).encode()
        return _of_text(cls, text)

    def check_images(self) -> None:
        """Check that the index has everything that is needed to read and show images.

        Raises:
            DataError: an image has no name or size, or a category has no name.
        """
        if self._unfit:
            raise DataError(f"{self.path} is not a COCO file: {self._unfit}")

    def __len__(self) -> int:
        return len(self.image_ids)

    def __str__(self) -> str:
        return f"{len(self)} images, {len(self.boxes_xywh)} boxes, {self.num_classes} classes ({self.path})"

    def __reduce__(self):
        text = vars(self).get("_text")
        if isinstance(text, bytes):
            return _of_text, (type(self), text)
        # A spawned worker opens the memory-mapped cache again, instead of copying the arrays or hashing the JSON.
        return _again, (type(self), self.path, self._file, self._key)

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def annotations(self, image: int) -> slice:
        """The positions in the flat arrays of the annotations of the image at position `image` (0..I-1)."""
        return slice(int(self.first[image]), int(self.first[image + 1]))

    def raw(self, annotation: int) -> dict[str, Any]:
        """An annotation as in the JSON, including its `segmentation`, which is read from the JSON at every call.

        In a panoptic file, it is the item of the image that the segment belongs to.

        Raises:
            DataError: the text is not in UTF-8, or the file has changed since it was opened.
        """
        start, end = self._spans[annotation]
        return decode(self._text[start:end], f"annotation {self.annotation_ids[annotation]} of {self.path}")

    def rle(self, annotation: int) -> dict[str, Any]:
        """The mask of an annotation as compressed run lengths, as pycocotools has them.

        Raises:
            DataError: it has no mask, or a broken one; the message has the file, the annotation and the wrong value.
        """
        image = int(np.searchsorted(self.first, annotation, side="right")) - 1
        try:
            segmentation = self.raw(annotation).get("segmentation")
            return to_rle(segmentation, int(self.heights[image]), int(self.widths[image]))
        except DataError as error:
            name = short(self.file_names[image]) if self.file_names[image] else int(self.image_ids[image])
            number = int(self.annotation_ids[annotation])
            raise DataError(f"{self.path}: annotation {number}: {error} (image {name})") from error

    def fault(self, annotation: int) -> str:
        """What is wrong with the mask of an annotation, as a sentence; empty if it has a valid one or none."""
        if self.panoptic or is_missing(self.raw(annotation).get("segmentation")):
            return ""
        try:
            self.rle(annotation)
        except DataError as error:
            return str(error)
        return ""

    def check_masks(self, remedy: str = "mend or remove it") -> None:
        """Check that every mask is one of its image, before masks are trained or scored; some may be missing.

        Args:
            remedy: what to do, for the error message.

        Raises:
            DataError: a mask is broken; the message has the first, and how many there are.
        """
        if count := int(self.broken.sum()):
            fault = self.fault(int(self.broken.argmax()))
            more = f", the first of {count} broken masks" if count > 1 else ""
            raise DataError(f"{fault}{more}; {remedy}")

    def mask_notes(self) -> list[str]:
        """Lines about annotations that are left out where masks are trained or scored."""
        notes = []
        if count := int((~(self.masked | self.broken)).sum()):
            notes.append(f"{count} annotations have no mask: left out of training and scoring of masks")
        if count := int(self.broken.sum()):
            notes.append(
                f"{count} annotations have a broken mask: left out of training and scoring of masks; the first: "
                + self.fault(int(self.broken.argmax()))
            )
        return notes

    def png_name(self, image: int) -> str | None:
        """The PNG of the image at position `image`, as a panoptic file names it; none if the image has no segment.

        Raises:
            DataError: the file names none.
        """
        rows = self.annotations(image)
        if rows.start == rows.stop:
            return None
        # The whole item need not be decoded, which matters where all names are checked.
        start, end = self._spans[rows.start]
        found = FILE_NAME.findall(self._text[start:end])
        name = found[0].decode() if len(found) == 1 else self.raw(rows.start).get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f'{self.path}: the segments of image {self.image_ids[image]} have no "file_name"')
        return name

    def item(self, image: int) -> dict[str, Any] | None:
        """The item of a panoptic file that belongs to the image at position `image`; none if it has no segment."""
        rows = self.annotations(image)
        return self.raw(rows.start) if rows.start < rows.stop else None

    @functools.cached_property
    def digest(self) -> str:
        """The first 12 digits of the SHA-256 of the JSON, which `sha256sum` prints; of several files, of theirs."""
        if isinstance(text := vars(self).get("_text"), bytes):
            return hashlib.sha256(text).hexdigest()[:DIGITS]
        digest, block = hashlib.sha256(), bytearray(1 << 18)
        with open(self._file, "rb", buffering=0) as file:
            while length := file.readinto(block):
                digest.update(memoryview(block)[:length])
        return digest.hexdigest()[:DIGITS]

    @functools.cached_property
    def _text(self) -> "FileText | bytes":
        text = FileText(self._file)
        if len(text) != self._bytes:
            raise DataError(f"{self.path} has changed since it was opened; start again")
        return text


def _of_text(kind: type[CocoIndex], text: bytes) -> CocoIndex:
    """The index of a JSON text that is in no file."""
    index = kind(Path("annotations"), *parse_text(text, "annotations"))
    index._text = text
    return index


def _again(kind: type[CocoIndex], path: Path | Remote, file: Path, key: str) -> CocoIndex:
    """The index of a file that another process has opened, with the key of its cache."""
    content = cache.load(file, key)
    return kind.open(path) if content is None else kind(path, *content, file=file)


def _plain(value: Any) -> Any:
    """Bytes of pycocotools as text, and arrays and numbers of numpy as lists and numbers, for `json.dumps`."""
    return value.decode("latin-1") if isinstance(value, bytes) else value.tolist()
