"""Parsing COCO JSON to arrays in a single pass over the text, which keeps only the present annotation in memory.

Unusable annotations are left out and counted; a file that is no COCO JSON is an error, as is a value whose meaning can
only be guessed, such as a flag that is a text. Names and sizes, which are
needed for training but not for scoring, may be missing here, and are then described in `unfit`. I is the number of
images, A of annotations.
"""

import json
import mmap
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.annotations.cache import Strings
from vitdet.annotations.columns import Columns
from vitdet.annotations.json_text import WrongStructure, check_json, flag, integer, not_utf8, scan
from vitdet.errors import DataError, short


def parse(path: Path, *, name: object = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the plain values of a `CocoIndex` from a file.

    Args:
        path: the file.
        name: what it is called in error messages; by default its path.

    Raises:
        FileNotFoundError: the file does not exist.
        DataError: the file is no COCO JSON.
    """
    check_json(path, "annotation file", name=name)
    with open(path, "rb") as file:
        raw = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
        return parse_text(raw, str(path if name is None else name))


def parse_text(raw: bytes | mmap.mmap, source: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the plain values of a `CocoIndex` from the bytes of a JSON text.

    Args:
        raw: the text in UTF-8.
        source: the name of the text in error messages.

    Raises:
        DataError: the text is no COCO JSON.
    """
    # Latin-1 maps each byte to one character, so positions in the text are positions in the file.
    text = str(raw, "latin-1")
    notes: Counter[str] = Counter()
    images, categories, annotations = _Named(text), _Named(text), Columns(source, notes)
    try:
        found = scan(text, {"images": images.add, "categories": categories.add, "annotations": annotations.add})
        for name in ("images", "categories"):
            if name not in found:
                keys = ", ".join(key if key.isascii() and len(key) < 40 else short(key) for key in found[:9])
                raise WrongStructure(f'it has no list "{name}" (found {keys or "nothing"})')
        image_arrays, unfit = _images(images.items)
        category_ids, names, things, nameless = _categories(categories.items)
    except json.JSONDecodeError as error:
        fault = f"{error.msg} at byte {error.pos}" if text.strip() else "it is empty"
        raise DataError(f"{source} is not valid JSON: {fault}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not valid JSON: {not_utf8(error)}") from error
    except RecursionError as error:
        raise DataError(f"{source} is nested too deeply to be a COCO file") from error
    except WrongStructure as error:
        raise DataError(f"{source} is not a COCO file: {error}") from error
    except DataError:
        raise
    except ValueError as error:
        # Python reads no number of more than 4,300 digits
        raise DataError(f"{source} can't be read: a number in it has thousands of digits") from error
    arrays = annotations.arrays(image_arrays, category_ids)
    again = Counter(item.get("file_name") for item in images.items if isinstance(item.get("file_name"), str))
    if twice := [name for name, count in again.items() if count > 1]:
        shared = f"file names belong to several images, such as {short(twice[0])}"
        annotations.training_notes[shared] = len(twice)
    meta = {"category_ids": category_ids, "names": names, "things": things, "panoptic": annotations.panoptic}
    if "annotations" not in found:
        annotations.training_notes['no "annotations": every image counts as empty'] = 0
    for name, count in Counter(names).items():
        if count > 1:
            same = f"categories have the same name, {short(name)}, and remain different classes"
            annotations.training_notes[same] = count
    reasons = {"notes": dict(notes), "training_notes": dict(annotations.training_notes)}
    return image_arrays | arrays, {**meta, **reasons, "unfit": unfit or nameless, "bytes": len(raw)}


class _Named:
    """The images or categories of a file, whose names may be in UTF-8, so their bytes are decoded a second time."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.items: list[Any] = []

    def add(self, start: int, end: int, item: Any) -> None:
        ascii_only = self.text[start:end].isascii()
        self.items.append(item if ascii_only else json.loads(self.text[start:end].encode("latin-1")))


def _ids(items: list[Any], key: str) -> list[int]:
    ids: list[int] = []
    for item in items:
        number = integer(item.get("id")) if isinstance(item, dict) else None
        if number is None:
            raise WrongStructure(f'each of "{key}" needs an integer "id", got {short(item, 80)}')
        ids.append(number)
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
            name = item.get("file_name")
            unfit = f'image {item["id"]} has no "file_name"'
            unfit += f"; it is {short(name)}, and a text is wanted" if name not in (None, "") else ""
        elif not size.all():
            got = f"{short(item.get('width'))}×{short(item.get('height'))}"
            unfit = f'image {item["id"]} ({file!r}): "width" and "height" must be pixels, got {got}'
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
    rows = sorted((n, _name(n, item), _thing(n, item)) for n, item in zip(ids, items))
    ids, names, things = (list(column) for column in zip(*rows)) if rows else ([], [], [])
    return ids, names, things, unfit


def _name(number: int, item: dict[str, Any]) -> str:
    name = item.get("name")
    if not isinstance(name, str):
        return str(number) if name is None else short(name)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise WrongStructure(f'category {number}: "name" is {short(name)}, which is no valid Unicode') from error
    return name


def _thing(number: int, item: dict[str, Any]) -> bool:
    value = item.get("isthing", 1)
    thing = True if value is None else flag(value)
    if thing is None:
        raise WrongStructure(f'category {number}: "isthing" is {short(value)}; wanted 0, 1, true or false')
    return thing
