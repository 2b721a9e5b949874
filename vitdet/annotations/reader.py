"""Parsing COCO JSON to arrays in a single pass over the text, which keeps only the present annotation in memory.

Unusable annotations are left out and counted; a file that is no COCO JSON is an error. Names and sizes, which are
needed for training but not for scoring, may be missing here, and are then described in `unfit`. I is the number of
images, A of annotations.
"""

import json
import mmap
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.annotations.cache import Strings
from vitdet.annotations.json_text import WrongStructure, check_json, integer, is_box, is_finite, scan
from vitdet.errors import UserError

NO_ID = -(2**63)


def parse(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the plain values of a `CocoIndex` from a file.

    Raises:
        FileNotFoundError: the file does not exist.
        UserError: the file is no COCO JSON.
    """
    check_json(path, "annotation file")
    with open(path, "rb") as file:
        raw = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
        return parse_text(raw, str(path))


def parse_text(raw: bytes | mmap.mmap, source: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the plain values of a `CocoIndex` from the bytes of a JSON text.

    Args:
        raw: the text in UTF-8.
        source: the name of the text in error messages.

    Raises:
        UserError: the text is no COCO JSON.
    """
    # Latin-1 maps each byte to one character, so positions in the text are positions in the file.
    text = str(raw, "latin-1")
    notes: Counter[str] = Counter()
    images, categories, annotations = _Named(text), _Named(text), _Annotations(notes)
    try:
        found = scan(text, {"images": images.add, "categories": categories.add, "annotations": annotations.add})
        for name in ("images", "categories"):
            if name not in found:
                raise WrongStructure(f'it has no list "{name}" (found {", ".join(found) or "nothing"})')
        image_arrays, unfit = _images(images.items)
        category_ids, names, things, nameless = _categories(categories.items)
    except json.JSONDecodeError as error:
        raise UserError(f"{source} is not valid JSON: {error.msg} at byte {error.pos}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is not valid JSON: a name in it is not in UTF-8") from error
    except RecursionError as error:
        raise UserError(f"{source} is nested too deeply to be a COCO file") from error
    except WrongStructure as error:
        raise UserError(f"{source} is not a COCO file: {error}") from error
    arrays = annotations.arrays(image_arrays, category_ids)
    meta = {"category_ids": category_ids, "names": names, "things": things, "panoptic": annotations.panoptic}
    if "annotations" not in found:
        annotations.training_notes['no "annotations": every image counts as empty'] = 0
    notes = {"notes": dict(notes), "training_notes": dict(annotations.training_notes)}
    return image_arrays | arrays, {**meta, **notes, "unfit": unfit or nameless}


class _Named:
    """The images or categories of a file, whose names may be in UTF-8, so their bytes are decoded a second time."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.items: list[Any] = []

    def add(self, start: int, end: int, item: Any) -> None:
        ascii_only = self.text[start:end].isascii()
        self.items.append(item if ascii_only else json.loads(self.text[start:end].encode("latin-1")))


def _ids(items: list[Any], key: str) -> list[int]:
    ids = [integer(item.get("id")) if isinstance(item, dict) else None for item in items]
    for item, number in zip(items, ids):
        if number is None:
            raise WrongStructure(f'each of "{key}" needs an integer "id", got {str(item)[:80]}')
    twice = [number for number, count in Counter(ids).items() if count > 1]
    if twice:
        raise WrongStructure(
            f'id {twice[0]} occurs more than once in "{key}" ({len(twice)} such ids); each needs its own'
        )
    return ids


def _images(items: list[Any]) -> tuple[dict[str, np.ndarray], str]:
    """The arrays, and a description of what an image lacks for training; a missing size is 0, a missing name empty."""
    ids, unfit = _ids(items, "images"), ""
    files = [name if isinstance(name := item.get("file_name"), str) else "" for item in items]
    sizes = np.array([[_side(item.get(side)) for side in ("height", "width")] for item in items]).reshape(-1, 2)
    for item, file, size in zip(items, files, sizes):
        if not file:
            unfit = f'image {item["id"]} has no "file_name"'
        elif not size.all():
            got = f"{item.get('width')}×{item.get('height')}"
            unfit = f'image {item["id"]} ({file}): "width" and "height" must be pixels, got {got}'
        if unfit:
            break
    names, ends = Strings.pack(files)
    sides = dict(zip(("heights", "widths"), sizes.astype(np.int32).T))
    return {"image_ids": np.array(ids, dtype=np.int64), "file_names": names, "file_name_ends": ends, **sides}, unfit


def _side(value: Any) -> int:
    """A height or width in pixels; 0 if the file has no valid value."""
    number = integer(value) or 0
    return number if 0 < number < 2**31 else 0


def _categories(items: list[Any]) -> tuple[list[int], list[str], list[bool], str]:
    """The ids, names and thing flags of the categories, and a description of what a category lacks for training.

    A category without a name gets its id as name. A thing is a countable object; a category without `isthing` is a
    thing.
    """
    ids = _ids(items, "categories")
    nameless = [number for number, item in zip(ids, items) if not isinstance(item.get("name"), str)]
    unfit = f'category {nameless[0]} has no "name"' if nameless else ""
    if not items:
        unfit = '"categories" is empty; list the classes, each with "id" and "name"'
    rows = sorted((n, str(item.get("name", n)), bool(item.get("isthing", 1))) for n, item in zip(ids, items))
    ids, names, things = (list(column) for column in zip(*rows)) if rows else ([], [], [])
    return ids, names, things, unfit


class _Annotations:
    """The annotations of a file as growing columns, which `arrays` sorts by image."""

    def __init__(self, notes: Counter[str]) -> None:
        self.notes, self.training_notes, self.panoptic = notes, Counter(), False
        # six numbers for each annotation: image id, category id, id, iscrowd, start, end
        self.integers = array("q")
        # five numbers for each annotation: x, y, width, height, area
        self.floats = array("d")

    def add(self, start: int, end: int, item: Any) -> None:
        segments = item.get("segments_info") if isinstance(item, dict) else None
        if not isinstance(segments, list):
            return self._add(start, end, item)
        # A panoptic file has an item for each image; each of the segments in it becomes an annotation.
        self.panoptic = True
        for segment in segments:
            self._add(start, end, {**segment, "image_id": item.get("image_id")} if isinstance(segment, dict) else None)

    def _add(self, start: int, end: int, item: Any) -> None:
        if not isinstance(item, dict):
            self.notes["annotations left out: no object"] += 1
            return
        ids = [integer(item.get(name)) for name in ("image_id", "category_id", "id")]
        box, area = item.get("bbox"), item.get("area")
        if not is_box(box):
            self.notes["annotations left out: no box of four finite numbers"] += 1
            return
        if not is_finite(area):
            self.notes["annotations without an area: the box's is taken"] += 1
            area = box[2] * box[3]
        self.integers.extend([NO_ID if number is None else number for number in ids])
        self.integers.extend((bool(item.get("iscrowd", 0)), start, end))
        self.floats.extend((*box, area))

    def arrays(self, images: dict[str, np.ndarray], category_ids: list[int]) -> dict[str, np.ndarray]:
        integers = np.frombuffer(self.integers, dtype=np.int64).reshape(-1, 6)
        floats = np.frombuffer(self.floats, dtype=np.float64).reshape(-1, 5)
        image = self._positions(integers[:, 0], images["image_ids"], "image")
        known = image >= 0
        category = np.full(len(image), -1)
        category[known] = self._positions(integers[known, 1], np.array(category_ids, dtype=np.int64), "category")
        kept = np.flatnonzero(category >= 0)
        # sorted by image; the annotations of an image stay in the order of the file
        order = kept[np.argsort(image[kept], kind="stable")]
        integers, floats, image = integers[order], floats[order], image[order]
        counts = np.bincount(image, minlength=len(images["image_ids"]))
        return {
            "first": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            "boxes_xywh": floats[:, :4],
            "area": floats[:, 4],
            "categories": category[order].astype(np.int32),
            "iscrowd": integers[:, 3] != 0,
            "annotation_ids": self._numbered(integers[:, 2]),
            "trainable": self._trainable(
                floats, integers[:, 3] != 0, images["heights"][image], images["widths"][image]
            ),
            "spans": integers[:, 4:],
        }

    def _positions(self, ids: np.ndarray, known: np.ndarray, what: str) -> np.ndarray:
        """The position of each id in `known`, or -1; unknown ids are counted in the notes."""
        order = np.argsort(known)
        place = np.searchsorted(known, ids, sorter=order).clip(max=max(len(known) - 1, 0))
        position = order[place] if len(known) else np.full(len(ids), -1)
        position = np.where(known[position] == ids, position, -1) if len(known) else position
        if (position < 0).any():
            self.notes[f"annotations left out: unknown {what} id"] = int((position < 0).sum())
        return position

    def _numbered(self, ids: np.ndarray) -> np.ndarray:
        """The annotation ids of the file, or 1..A if some ids are missing or repeated.

        The ids of panoptic segments are kept, because they need to be unique only within an image.
        """
        if self.panoptic:
            return ids
        if (ids == NO_ID).any() or len(np.unique(ids)) < len(ids):
            self.training_notes["annotations renumbered: ids are missing or not unique"] = len(ids)
            return np.arange(1, len(ids) + 1)
        return ids

    def _trainable(self, floats: np.ndarray, crowd: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
        x, y, w, h, _ = floats.T
        empty = (w <= 0) | (h <= 0)
        outside = ~empty & ((x >= widths) | (y >= heights) | (x + w <= 0) | (y + h <= 0))
        reasons = {
            "crowd": crowd,
            "zero or negative size": empty & ~crowd,
            "wholly outside the image": outside & ~crowd,
        }
        for reason, mask in reasons.items():
            if mask.any():
                self.training_notes[f"boxes kept out of training: {reason}"] = int(mask.sum())
        return ~(crowd | empty | outside)
