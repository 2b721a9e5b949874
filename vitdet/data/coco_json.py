"""COCO JSON -> arrays: one pass over the text, one annotation in memory at a time.

I images, A annotations; bad annotations are dropped and counted, a file that is no COCO JSON is an error that says what is missing.
"""

import json
import math
import mmap
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_decoder = json.JSONDecoder()
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
    try:
        places = dict(_members(text))
        images = _section(text, places, "images", path)
        categories = _section(text, places, "categories", path)
        if not categories:
            raise ValueError(f'{path}: "categories" is empty; list the classes, each with "id" and "name"')
        notes: Counter[str] = Counter()
        image_arrays = _images(images, path)
        category_ids, names = _categories(categories, path)
        columns = _Columns(image_arrays["image_ids"], category_ids, notes)
        if "annotations" not in places:
            notes["no annotations: the file has images only"] = 1
        else:
            for start, end, item in _elements(text, places["annotations"], "annotations"):
                columns.add(start, end, item)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error.msg} at character {error.pos}") from error
    except _Wrong as error:
        raise ValueError(f"{path} is not a COCO file: {error}") from error
    arrays = image_arrays | columns.arrays(image_arrays["heights"], image_arrays["widths"])
    lines = [reason if reason.startswith("no ") else f"{count} {reason}" for reason, count in notes.items()]
    return arrays, {"category_ids": category_ids, "names": names, "notes": lines}


class _Wrong(ValueError):
    """The JSON's structure is not COCO's."""


def _skip(text: str, i: int) -> int:
    return _space.match(text, i).end()


def _members(text: str) -> Iterator[tuple[str, int]]:
    """Keys of the outermost object and where their values start."""
    i = _skip(text, 0)
    if text[i : i + 1] != "{":
        _decoder.raw_decode(text, i)  # a broken file says where it breaks
        raise _Wrong('wanted an object with "images", "annotations" and "categories", got a list or a single value')
    i = _skip(text, i + 1)
    while text[i : i + 1] != "}":
        key, i = _decoder.raw_decode(text, i)
        i = _skip(text, i)
        if text[i : i + 1] != ":":
            raise json.JSONDecodeError("expecting ':'", text, i)
        i = _skip(text, i + 1)
        yield key, i
        i = _separator(text, _decoder.raw_decode(text, i)[1], "}")


def _elements(text: str, i: int, what: str) -> Iterator[tuple[int, int, dict]]:
    """Start, end and value of each element of the list of objects that starts at `i`."""
    if text[i] != "[":
        raise _Wrong(f'"{what}" must be a list')
    i = _skip(text, i + 1)
    while text[i : i + 1] != "]":
        item, end = _decoder.raw_decode(text, i)
        if not isinstance(item, dict):
            raise _Wrong(f'"{what}" must hold objects, got {text[i : min(end, i + 40)]}')
        yield i, end, item
        i = _separator(text, end, "]")


def _separator(text: str, i: int, closing: str) -> int:
    """Past the comma, or at the closing bracket."""
    i = _skip(text, i)
    if text[i : i + 1] == ",":
        return _skip(text, i + 1)
    if text[i : i + 1] != closing:
        raise json.JSONDecodeError(f"expecting ',' or '{closing}'", text, i)
    return i


def _section(text: str, places: dict[str, int], name: str, path: Path) -> list[dict]:
    if name not in places:
        found = ", ".join(f'"{key}"' for key in places) or "nothing"
        raise _Wrong(f'it has no "{name}" (found {found}); wanted "images", "annotations" and "categories"')
    # Names may be UTF-8: decode this part's bytes properly. Annotations hold numbers only.
    spans = [(start, end) for start, end, _ in _elements(text, places[name], name)]
    return [json.loads(text[start:end].encode("latin-1")) for start, end in spans]


def _integer(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) >= 2**63:
        return None
    return int(value) if int(value) == value else None


def _ids(items: list[dict], what: str, fields: dict[str, type]) -> list[int]:
    ids = [_integer(item.get("id")) for item in items]
    for item, number in zip(items, ids):
        if number is None:
            raise _Wrong(f'{what} {str(item)[:80]} has no integer "id"')
        for name, kind in fields.items():
            value = item.get(name)
            if not isinstance(value, str) if kind is str else (_integer(value) or 0) <= 0:
                raise _Wrong(
                    f'{what} {number}: "{name}" must be a {"string" if kind is str else "positive integer"}, got {value!r}'
                )
    twice = [number for number, count in Counter(ids).items() if count > 1]
    if twice:
        raise _Wrong(f"{what} id {twice[0]} occurs more than once ({len(twice)} such ids); every {what} needs its own")
    return ids


def _images(items: list[dict], path: Path) -> dict[str, np.ndarray]:
    from vitdet.data.index import Strings

    ids = _ids(items, "image", {"file_name": str, "width": int, "height": int})
    names, ends = Strings.pack([item["file_name"] for item in items])
    sides = {f"{side}s": np.array([item[side] for item in items], dtype=np.int32) for side in ("height", "width")}
    return {"image_ids": np.array(ids, dtype=np.int64), "file_names": names, "file_name_ends": ends, **sides}


def _categories(items: list[dict], path: Path) -> tuple[list[int], list[str]]:
    ids = _ids(items, "category", {"name": str})
    pairs = sorted(zip(ids, (item["name"] for item in items)))
    return [number for number, _ in pairs], [name for _, name in pairs]


class _Columns:
    """Annotations as growing columns; `arrays()` sorts them by image."""

    def __init__(self, image_ids: np.ndarray, category_ids: list[int], notes: Counter[str]) -> None:
        self.image_of = {number: i for i, number in enumerate(image_ids.tolist())}
        self.category_of = {number: k for k, number in enumerate(category_ids)}
        self.notes = notes
        self.integers = array("q")  # image, category, id, iscrowd, start, end
        self.floats = array("d")  # x, y, width, height, area

    def add(self, start: int, end: int, item: dict) -> None:
        image = self.image_of.get(_integer(item.get("image_id")))
        category = self.category_of.get(_integer(item.get("category_id")))
        if image is None or category is None:
            self.notes[f"annotations dropped: unknown {'image' if image is None else 'category'} id"] += 1
            return
        box = item.get("bbox")
        if not _is_box(box):
            self.notes["annotations dropped: no box of four finite numbers"] += 1
            return
        area = item.get("area")
        if not isinstance(area, (int, float)) or not math.isfinite(area):
            self.notes["annotations without an area: the box's is taken"] += 1
            area = box[2] * box[3]
        number = _integer(item.get("id"))
        crowd = bool(item.get("iscrowd", 0))
        self.integers.extend((image, category, NO_ID if number is None else number, crowd, start, end))
        self.floats.extend((*box, area))

    def arrays(self, heights: np.ndarray, widths: np.ndarray) -> dict[str, np.ndarray]:
        integers = np.frombuffer(self.integers, dtype=np.int64).reshape(-1, 6)
        floats = np.frombuffer(self.floats, dtype=np.float64).reshape(-1, 5)
        ids = self._numbered(integers[:, 2])
        order = np.argsort(integers[:, 0], kind="stable")  # by image; within one, the file's order
        integers, floats, ids = integers[order], floats[order], ids[order]
        image, crowd, boxes_xywh = integers[:, 0], integers[:, 3] != 0, floats[:, :4]
        first = np.concatenate([[0], np.cumsum(np.bincount(image, minlength=len(heights)))])
        return {
            "first": first.astype(np.int64),
            "boxes_xywh": boxes_xywh,
            "area": floats[:, 4],
            "categories": integers[:, 1].astype(np.int32),
            "iscrowd": crowd,
            "annotation_ids": ids,
            "trainable": self._trainable(boxes_xywh, crowd, heights[image], widths[image]),
            "spans": integers[:, 4:],
        }

    def _numbered(self, ids: np.ndarray) -> np.ndarray:
        """The file's ids, or 1..A where some are missing or used twice."""
        if (ids == NO_ID).any() or len(np.unique(ids)) < len(ids):
            self.notes["annotations renumbered: ids are missing or not unique"] = len(ids)
            return np.arange(1, len(ids) + 1)
        return ids

    def _trainable(
        self, boxes_xywh: np.ndarray, crowd: np.ndarray, heights: np.ndarray, widths: np.ndarray
    ) -> np.ndarray:
        x, y, w, h = boxes_xywh.T
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


def _is_box(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4:
        return False
    return all(isinstance(v, (int, float)) and math.isfinite(v) for v in box)
