"""CVAT for images 1.1: XML files with boxes, polygons, ellipses and masks in pixels, for any number of images each.

CVAT's exports in the formats YOLO, Pascal VOC, COCO and LabelMe are read as these.
"""

import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from vitdet.data.formats.assemble import ImagesByName, Labelled, Object, labels_of, merged
from vitdet.data.formats.content import Notes, number
from vitdet.data.formats.files import files_under, images_of, read_bytes, read_xml, split_of, split_of_name, xml_root
from vitdet.data.formats.geometry import ellipse, place_mask, turned
from vitdet.data.formats.labels import Labels
from vitdet.errors import DataError
from vitdet.images import MAX_PIXELS

NAME = "CVAT for images"
# CVAT writes the attributes of an image in an order of its own, and others in theirs
IMAGE, SUBSET = re.compile(rb"<image\s[^>]*>"), re.compile(rb"\ssubset=\"([^\"]*)\"")
SHAPES = {"box", "polygon", "ellipse", "mask"}
# elements of an image that are no shapes
NO_SHAPES = {"tag"}
TURNED = "boxes that are turned, read as polygons of four points with the box around them"


def recognise(folder: Path, files: list[Path] | None = None) -> dict[str, Labels] | None:
    """The splits of a folder with CVAT's XML files, or None if it has none.

    Raises:
        DataError: such a file can't be read.
    """
    files = files_under(folder) if files is None else files
    found = [path for path in files if path.suffix.lower() == ".xml" and xml_root(path) == "annotations"]
    splits: dict[str, list[tuple[Path, str]]] = {}
    for path in found:
        tags = IMAGE.findall(read_bytes(path))
        subsets = dict.fromkeys(match[1].decode() if (match := SUBSET.search(tag)) else "" for tag in tags)
        for split in dict.fromkeys(_split(path, subset, folder) for subset in subsets or [""]):
            splits.setdefault(split, []).append((path, split))
    if not splits:
        return None
    lines = []
    if len(splits) > 1 and (stray := splits.pop("all", None)):
        lines.append(f"images in no subset that is named after a split, left out (in {stray[0][0]})")
    root = functools.lru_cache(maxsize=1)(read_xml)
    images = images_of(files)
    by_name = ImagesByName(images)

    def names() -> list[str]:
        labels = (label.findtext("name") for path in found for label in root(path).iterfind("meta//labels/label"))
        return [name.strip() for name in labels if name and name.strip()]

    def parse(source: tuple[Path, str], notes: Notes) -> Iterable[Labelled]:
        path, split = source
        tracks = root(path).find("track")
        if tracks is not None:
            raise DataError(f"{path} is of the format CVAT for video; export the task as CVAT for images 1.1")
        for item in root(path).iterfind("image"):
            if _split(path, item.get("subset", ""), folder) == split:
                yield from _image(item, path, by_name, notes)

    return labels_of(folder, splits, parse, files=found, images=images, names=names, lines=lines)


def _split(path: Path, subset: str, folder: Path) -> str:
    return split_of_name(subset) or split_of(path, folder) or split_of_name(path.stem) or "all"


def _image(item: Element, path: Path, images: ImagesByName, notes: Notes) -> Iterable[Labelled]:
    name = item.get("name", "")
    image = images.find(name, path) if name else None
    if image is None:
        notes.add("images of CVAT's XML that are not in the folder, left out (export with images)", f"{path}, {name}")
        return
    width, height = (int(number(item.get(side, "0"), f"{path}, {name}", side)) for side in ("width", "height"))
    things = []
    for place, shape in enumerate(item, 1):
        where = f"{path}, image {name}, shape {place}"
        if shape.tag in SHAPES:
            things.append((shape.get("group_id"), _object(shape, where, notes)))
        elif shape.tag not in NO_SHAPES:
            notes.add(f"shapes that are no area, left out ({shape.tag})", where)
    yield Labelled(image, width, height, merged(things, notes))


def _object(shape: Element, where: str, notes: Notes) -> Object:
    name = (shape.get("label") or "").strip()
    if not name:
        raise DataError(f"{where}: it has no label")

    def numbers(*keys: str) -> list[float]:
        return [number(shape.get(key), where, key) for key in keys]

    degrees = number(shape.get("rotation", "0"), where, "rotation")
    if shape.tag == "box":
        corners = numbers("xtl", "ytl", "xbr", "ybr")
        if degrees % 360 == 0:
            return Object(name, where, corners)
        notes.add(TURNED, where)
        return Object(name, where, polygons=[turned(corners, degrees)])
    if shape.tag == "ellipse":
        x, y, rx, ry = numbers("cx", "cy", "rx", "ry")
        return Object(name, where, polygons=[ellipse(x, y, rx, ry, degrees)])
    if shape.tag == "mask":
        left, top, width, height = map(int, numbers("left", "top", "width", "height"))
        return Object(name, where, mask=_mask(shape.get("rle", ""), left, top, width, height, where))
    pairs = [pair.split(",") for pair in shape.get("points", "").split(";")]
    if not all(len(pair) == 2 for pair in pairs):
        raise DataError(f"{where}: points are {shape.get('points', '')[:40]!r}; wanted x,y;x,y;…")
    return Object(name, where, polygons=[[number(value, where, "points") for pair in pairs for value in pair]])


def _mask(text: str, left: int, top: int, width: int, height: int, where: str) -> Callable[[int, int], np.ndarray]:
    """The mask from run lengths of rows, of which the first counts what is not part of the object."""
    words = text.replace(",", " ").split()
    runs = [int(word) if word.isdecimal() and len(word) < 10 else -1 for word in words]
    fits = min(width, height) > 0 and width * height <= MAX_PIXELS and sum(runs) == width * height
    if min(runs, default=-1) < 0 or not fits:
        raise DataError(f"{where}: rle {text[:40]!r} does not fill a mask of {width}×{height} pixels")
    part = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return functools.partial(place_mask, part, left, top)
