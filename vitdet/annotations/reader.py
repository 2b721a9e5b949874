"""COCO JSON -> arrays: one pass over the text, one annotation in memory at a time.

I images, A annotations. Bad annotations are dropped and counted; a file that is no COCO JSON is an error.
"""

import json
import mmap
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.annotations.cache import Strings
from vitdet.errors import UserError

Visitor = Callable[[int, int, dict], None]

_decode = json.JSONDecoder().raw_decode
_space = json.decoder.WHITESPACE
NO_ID = -(2**63)


def parse(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the plain values of a `CocoIndex`.

    Raises:
        ValueError: not a COCO JSON.
    """
    with open(path, "rb") as file:
        raw = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
        # Latin-1 maps each byte to one character, so positions in the text are positions in the file.
        text = str(raw, "latin-1")
    notes: Counter[str] = Counter()
    images, categories, annotations = _Named(text), _Named(text), _Annotations(notes)
    try:
        found = _scan(text, {"images": images.add, "categories": categories.add, "annotations": annotations.add})
        for name in ("images", "categories"):
            if name not in found:
                raise _Wrong(f'it has no "{name}", only {found}; wanted "images", "annotations" and "categories"')
        if not categories.items:
            raise _Wrong('"categories" is empty; list the classes, each with "id" and "name"')
        image_arrays = _images(images.items)
        category_ids, names, things = _categories(categories.items)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON: {error.msg} at byte {error.pos}") from error
    except _Wrong as error:
        raise UserError(f"{path} is not a COCO file: {error}") from error
    if "annotations" not in found:
        notes['no "annotations": every image counts as empty'] = 0
    arrays = annotations.arrays(image_arrays, category_ids)
    lines = [f"{count} {reason}" if count else reason for reason, count in notes.items()]
    meta = {"category_ids": category_ids, "names": names, "things": things, "panoptic": annotations.panoptic}
    return image_arrays | arrays, {**meta, "notes": lines}


class _Wrong(ValueError):
    """The JSON's structure is not COCO's."""


def _skip(text: str, i: int) -> int:
    return _space.match(text, i).end()


def _scan(text: str, visitors: dict[str, Visitor]) -> list[str]:
    """Pass each object of the named top-level lists, with its start and end, to its visitor; return the keys found."""
    i = _skip(text, 0)
    if text[i : i + 1] != "{":
        _decode(text, i)  # a broken file says where it breaks
        raise _Wrong('wanted an object with "images", "annotations" and "categories", got a list or a single value')
    keys, i = [], _skip(text, i + 1)
    while text[i : i + 1] != "}":
        key, i = _decode(text, i)
        keys.append(key)
        i = _skip(text, i)
        if text[i : i + 1] != ":":
            raise json.JSONDecodeError("wanted ':'", text, i)
        i = _skip(text, i + 1)
        i = _each(text, i, key, visitors[key]) if key in visitors else _decode(text, i)[1]
        i = _separator(text, i, "}")
    return keys


def _each(text: str, i: int, name: str, visit: Visitor) -> int:
    """Visit the objects of the list that starts at `i`; return where it ends."""
    if text[i : i + 1] != "[":
        raise _Wrong(f'"{name}" must be a list')
    i = _skip(text, i + 1)
    while text[i : i + 1] != "]":
        item, end = _decode(text, i)
        if not isinstance(item, dict):
            raise _Wrong(f'"{name}" must hold objects, got {text[i : min(end, i + 40)]}')
        visit(i, end, item)
        i = _separator(text, end, "]")
    return i + 1


def _separator(text: str, i: int, closing: str) -> int:
    """Past the comma, or at the closing bracket."""
    i = _skip(text, i)
    if text[i : i + 1] == ",":
        return _skip(text, i + 1)
    if text[i : i + 1] != closing:
        raise json.JSONDecodeError(f"wanted ',' or '{closing}'", text, i)
    return i


class _Named:
    """Images or categories: few, and with names, which may be UTF-8, so their bytes are decoded again."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.items: list[dict] = []

    def add(self, start: int, end: int, item: dict) -> None:
        ascii_only = self.text[start:end].isascii()
        self.items.append(item if ascii_only else json.loads(self.text[start:end].encode("latin-1")))


def _integer(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) >= 2**63:
        return None
    return int(value) if int(value) == value else None


def _ids(items: list[dict], what: str) -> list[int]:
    ids = [_integer(item.get("id")) for item in items]
    for item, number in zip(items, ids):
        if number is None:
            raise _Wrong(f'{what} {str(item)[:80]} has no integer "id"')
    twice = [number for number, count in Counter(ids).items() if count > 1]
    if twice:
        raise _Wrong(f"{what} id {twice[0]} occurs more than once ({len(twice)} such ids); every {what} needs its own")
    return ids


def _images(items: list[dict]) -> dict[str, np.ndarray]:
    ids = _ids(items, "image")
    for item in items:
        if not isinstance(item.get("file_name"), str):
            raise _Wrong(f'image {item["id"]} has no "file_name"')
        if not all(0 < (_integer(item.get(side)) or 0) < 2**31 for side in ("width", "height")):
            got = f"{item.get('width')}×{item.get('height')}"
            raise _Wrong(f'image {item["id"]} ({item["file_name"]}): "width" and "height" must be pixels, got {got}')
    names, ends = Strings.pack([item["file_name"] for item in items])
    sides = {f"{side}s": np.array([item[side] for item in items], dtype=np.int32) for side in ("height", "width")}
    return {"image_ids": np.array(ids, dtype=np.int64), "file_names": names, "file_name_ends": ends, **sides}


def _categories(items: list[dict]) -> tuple[list[int], list[str], list[bool]]:
    """Ids, names, and whether each is a thing: an object that can be counted, as all are where the file doesn't say."""
    ids = _ids(items, "category")
    for number, item in zip(ids, items):
        if not isinstance(item.get("name"), str):
            raise _Wrong(f'category {number} has no "name"')
    rows = sorted((number, item["name"], bool(item.get("isthing", 1))) for number, item in zip(ids, items))
    return tuple(list(column) for column in zip(*rows))


class _Annotations:
    """Annotations as growing columns; `arrays()` sorts them by image."""

    def __init__(self, notes: Counter[str]) -> None:
        self.notes, self.panoptic = notes, False
        self.integers = array("q")  # image id, category id, id, iscrowd, start, end
        self.floats = array("d")  # x, y, width, height, area

    def add(self, start: int, end: int, item: dict) -> None:
        if "segments_info" not in item:
            return self._add(start, end, item)
        self.panoptic = True  # one item an image: each of its segments becomes an annotation
        for segment in item["segments_info"]:
            self._add(start, end, {**segment, "image_id": item.get("image_id")})

    def _add(self, start: int, end: int, item: dict) -> None:
        ids = [_integer(item.get(name)) for name in ("image_id", "category_id", "id")]
        box, area = item.get("bbox"), item.get("area")
        if not _is_box(box):
            self.notes["annotations dropped: no box of four finite numbers"] += 1
            return
        if not _is_finite(area):
            self.notes["annotations without an area: the box's is taken"] += 1
            area = box[2] * box[3]
        self.integers.extend([NO_ID if number is None else number for number in ids])
        self.integers.extend((bool(item.get("iscrowd", 0)), start, end))
        self.floats.extend((*box, area))

    def arrays(self, images: dict[str, np.ndarray], category_ids: list[int]) -> dict[str, np.ndarray]:
        integers = np.frombuffer(self.integers, dtype=np.int64).reshape(-1, 6)
        floats = np.frombuffer(self.floats, dtype=np.float64).reshape(-1, 5)
        image = self._positions(integers[:, 0], images["image_ids"], "image")
        category = self._positions(integers[:, 1], np.array(category_ids, dtype=np.int64), "category")
        kept = np.flatnonzero((image >= 0) & (category >= 0))
        order = kept[np.argsort(image[kept], kind="stable")]  # by image; within one, the file's order
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
        """Where each id stands in `known`, or -1; unknown ids are counted."""
        order = np.argsort(known)
        place = np.searchsorted(known, ids, sorter=order).clip(max=max(len(known) - 1, 0))
        position = order[place] if len(known) else np.full(len(ids), -1)
        position = np.where(known[position] == ids, position, -1) if len(known) else position
        if (position < 0).any():
            self.notes[f"annotations dropped: unknown {what} id"] = int((position < 0).sum())
        return position

    def _numbered(self, ids: np.ndarray) -> np.ndarray:
        """The file's ids, or 1..A where some are missing or used twice; those of segments are unique within an image only."""
        if self.panoptic:
            return ids
        if (ids == NO_ID).any() or len(np.unique(ids)) < len(ids):
            self.notes["annotations renumbered: ids are missing or not unique"] = len(ids)
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
                self.notes[f"boxes kept out of training: {reason}"] = int(mask.sum())
        return ~(crowd | empty | outside)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300  # False for NaN


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))
