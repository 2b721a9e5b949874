"""Reading a COCO JSON file for the check: whatever can be read of it, and findings about the rest.

`CocoIndex` refuses a file at its first fault; here a fault costs an entry. A fault is kept with an example.
"""

import json
import mmap
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.annotations.json_text import WrongStructure, check_json, flag, integer, is_box, is_finite, scan
from vitdet.data.check.content import NO_CLASS, Content, Kind, Objects
from vitdet.data.check.finding import Example, Findings
from vitdet.errors import UserError
from vitdet.images import resolve

NO_ID = -(2**63)


class Reader:
    """Takes the entries of a file one by one.

    Args:
        text: the file in Latin-1, in which a character is a byte.
        split: the split that the file is of.
        findings: where faults go.
    """

    def __init__(self, text: str, split: str, findings: Findings) -> None:
        self.text, self.split, self.findings = text, split, findings
        # the id of the image and the text of each fault, by code
        self.faults: dict[str, list[tuple[int | None, str]]] = {}
        # the number, name, width and height of each image, and of its entry
        self.images: list[tuple[int, str, int, int]] = []
        self.categories: list[tuple[int, str]] = []
        # image, class, id, crowd, start and end of each annotation; its box and area
        self.integers, self.floats = array("q"), array("d")
        self.panoptic, self.pngs = False, dict[int, str]()

    def fault(self, code: str, text: str, image: int | None = None) -> None:
        self.faults.setdefault(code, []).append((image, text))

    def _item(self, start: int, end: int, item: Any) -> Any:
        ascii_only = self.text[start:end].isascii()
        return item if ascii_only else json.loads(self.text[start:end].encode("latin-1"))

    def image(self, start: int, end: int, item: Any) -> None:
        item = self._item(start, end, item)
        number = integer(item.get("id")) if isinstance(item, dict) else None
        name = item.get("file_name") if isinstance(item, dict) else None
        if number is None or not isinstance(name, str) or not name:
            self.fault("labels-invalid", f"image {str(item)[:100]}: wanted an integer id and a file_name")
            return
        width, height = (integer(item.get(key)) or 0 for key in ("width", "height"))
        known = 0 < width < 2**31 and 0 < height < 2**31
        self.images.append((number, name, width if known else 0, height if known else 0))

    def category(self, start: int, end: int, item: Any) -> None:
        item = self._item(start, end, item)
        number = integer(item.get("id")) if isinstance(item, dict) else None
        if number is None:
            self.fault("labels-invalid", f"category {str(item)[:100]}: wanted an integer id and a name")
            return
        name = item.get("name")
        if not isinstance(name, str):
            self.fault("labels-invalid", f"category {number} has the name {name!r}; wanted text")
        self.categories.append((number, str(name)))

    def annotation(self, start: int, end: int, item: Any) -> None:
        segments = item.get("segments_info") if isinstance(item, dict) else None
        if not isinstance(segments, list):
            self._object(start, end, item)
            return
        self.panoptic = True
        number, name = integer(item.get("image_id")), self._item(start, end, item).get("file_name")
        if number is not None and isinstance(name, str):
            self.pngs[number] = name
        for segment in segments:
            self._object(start, end, {**segment, "image_id": number} if isinstance(segment, dict) else segment)

    def _object(self, start: int, end: int, item: Any) -> None:
        if not isinstance(item, dict):
            self.fault("labels-invalid", f"annotation {str(item)[:100]}: wanted an object")
            return
        numbers = [integer(item.get(key)) for key in ("image_id", "category_id", "id")]
        box, area, crowd = item.get("bbox"), item.get("area"), flag(item.get("iscrowd"))
        where = f"{'segment' if self.panoptic else 'annotation'} {item.get('id')}"
        if box is None and not item.get("segmentation") and not self.panoptic:
            self.fault("box-invalid", f"{where}, no bbox, and no segmentation", numbers[0])
        elif box is not None and not is_box(box):
            self.fault("box-invalid", f"{where}, bbox {str(box)[:60]}", numbers[0])
        elif box is None and not self.panoptic:
            self.fault("box-missing", where, numbers[0])
        if crowd is None:
            self.fault("crowd-invalid", f"{where}, iscrowd {item['iscrowd']!r}"[:120], numbers[0])
        self.integers.extend(NO_ID if number is None else number for number in numbers)
        self.integers.extend((bool(crowd), start, end))
        self.floats.extend(map(float, box) if is_box(box) else [np.nan] * 4)
        self.floats.append(float(area) if is_finite(area) else np.nan)


def read_coco(
    annotations: Path, *, split: str, kind: Kind, images: Path, segments: Path | None, findings: Findings
) -> Content | None:
    """The content of a COCO file of instances or panoptic segments; `None` if nothing of it can be read.

    Args:
        annotations: the JSON file.
        split: the split that it is of.
        kind: what its annotations should be.
        images: the folder of the images.
        segments: the folder of the PNGs of panoptic segments.
        findings: where faults go.
    """
    try:
        check_json(annotations, "annotation file")
        text = str(_raw(annotations), "latin-1")
        reader = Reader(text, split, findings)
        visitors = {"images": reader.image, "categories": reader.category, "annotations": reader.annotation}
        found = scan(text, visitors)
        if missing := {"images", "categories"} - set(found):
            raise WrongStructure(f"it has no list {' and no list '.join(sorted(missing))}")
        if reader.panoptic != (kind == "panoptic") and len(reader.integers):
            raise WrongStructure(f"it is a file of {'panoptic segments' if reader.panoptic else 'instances'}")
    except (UserError, OSError, ValueError, RecursionError) as error:
        findings.note("labels-unreadable", split, [Example(f"{annotations}: {error}")])
        return None
    return _content(reader, annotations, kind, images, segments)


def _raw(path: Path) -> bytes | mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def _content(reader: Reader, annotations: Path, kind: Kind, images: Path, segments: Path | None) -> Content:
    findings, split = reader.findings, reader.split
    kept = _kept(reader, "image-id-twice", "image", [number for number, *_ in reader.images])
    rows = [reader.images[i] for i in kept]
    classes = [
        reader.categories[i] for i in _kept(reader, "class-id-twice", "class", [n for n, _ in reader.categories])
    ]
    classes.sort()
    names = [name for _, name, *_ in rows]
    paths = [_path(images, name) for name in names]
    by_name = Counter(names)
    twice = [Example(name, path) for name, path in zip(names, paths) if by_name.pop(name, 1) > 1]
    findings.note("image-name-twice", split, twice)
    by_class = Counter(name for _, name in classes)
    findings.note("class-name-twice", split, [Example(name) for name, count in by_class.items() if count > 1])
    objects = _objects(reader, [number for number, *_ in rows], [number for number, _ in classes], names)
    place = {number: (name, path) for (number, *_), name, path in zip(rows, names, paths)}
    for code, faults in reader.faults.items():
        shown = [_example(text, None if image is None else place.get(image)) for image, text in faults]
        findings.note(code, split, shown)
    sides = np.array([row[2:] for row in rows], np.int64).reshape(-1, 2)
    widths, heights = sides.T
    titles, ids = [title for _, title in classes], [number for number, _ in classes]
    content = Content(split, kind, images, names, paths, widths, heights, titles, ids, objects)
    if kind == "panoptic":
        pngs = [reader.pngs.get(number) for number, *_ in rows]
        content.maps = [None if png is None else _path(segments or images, png) for png in pngs]
    if not rows or not classes:
        what = "images" if not rows else "categories"
        findings.note("split-empty", split, [Example(f'{annotations}: "{what}" is empty')])
    return content


def _example(text: str, image: tuple[str, Path | None] | None) -> Example:
    return Example(text) if image is None else Example(f"{image[0]}: {text}", image[1])


def _kept(reader: Reader, code: str, what: str, ids: list[int]) -> list[int]:
    """The positions of the first entry of each id; the others are findings."""
    first: dict[int, int] = {}
    for i, number in enumerate(ids):
        if first.setdefault(number, i) != i:
            reader.fault(code, f"{what} id {number}")
    return list(first.values())


def _path(folder: Path, name: str) -> Path | None:
    try:
        return resolve(folder, name)
    except UserError:
        return None


def _objects(reader: Reader, image_ids: list[int], class_ids: list[int], names: list[str]) -> Objects:
    """The annotations whose image is known, ordered by image; the others are findings."""
    integers = np.array(reader.integers, np.int64).reshape(-1, 6)
    floats = np.array(reader.floats, np.float64).reshape(-1, 5)
    image, label = positions(integers[:, 0], image_ids), positions(integers[:, 1], class_ids)
    for row in np.flatnonzero(image < 0).tolist():
        number = integers[row, 0]
        said = "no integer" if number == NO_ID else f"{number}, which is no image"
        reader.fault("object-without-image", f"annotation {integers[row, 2]}: image_id is {said}")
    order = np.argsort(image, kind="stable")
    order = order[image[order] >= 0]
    integers, floats = integers[order], floats[order]
    ids = integers[:, 2]
    if reader.panoptic:
        pairs = Counter(zip(image[order].tolist(), ids.tolist()))
        for (i, number), count in pairs.items():
            if count > 1:
                reader.fault("segment-id-twice", f"{names[i]}: segment {number}")
    elif twice := len(ids) - len(np.unique(ids[ids != NO_ID])):
        given, counts = np.unique(ids, return_counts=True)
        repeated = given[(counts > 1) | (given == NO_ID)].tolist()
        shown = ["no id" if number == NO_ID else f"id {number}" for number in repeated]
        reader.findings.note("object-id-twice", reader.split, [Example(text) for text in shown], count=twice)
    return Objects(
        image[order],
        label[order],
        integers[:, 1],
        floats[:, :4],
        floats[:, 4],
        integers[:, 3] != 0,
        ids,
        integers[:, 4:],
    )


def positions(values: np.ndarray, known: list[int]) -> np.ndarray:
    """The position of each value in `known`, or -1."""
    place = {number: i for i, number in enumerate(known)}
    return np.array([place.get(value, NO_CLASS) for value in values.tolist()], np.int64)
