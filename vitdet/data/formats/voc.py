"""Pascal VOC: an XML file for each image, with the corners of the boxes in pixels.

The corners of the devkit count pixels from 1, and the last pixel belongs to the box: its left edge is `xmin - 1`, its
right edge `xmax`. Other tools (CVAT, LabelImg, Roboflow) write the edges themselves, from 0. Edges are assumed where a
corner of the data set is below 1, and in files that LabelImg wrote; else the devkit's rule holds.
"""

import functools
import os
import re
from collections.abc import Iterable
from pathlib import Path
from xml.etree.ElementTree import Element

from vitdet.data.formats.assemble import ImagesByName, Labelled, Object, labels_of
from vitdet.data.formats.content import Notes, number
from vitdet.data.formats.files import (
    by_split,
    files_under,
    images_of,
    names_in,
    read_bytes,
    read_text,
    read_xml,
    split_of_name,
    xml_root,
)
from vitdet.data.formats.labels import Labels
from vitdet.errors import DataError

NAME = "Pascal VOC"
LOW = re.compile(rb"<[xy]min>\s*([-+]?\d+\.?\d*)")
DIFFICULT = "objects that are difficult, which count as crowds: not trained on, and not scored"


def recognise(folder: Path, files: list[Path] | None = None) -> dict[str, Labels] | None:
    """The splits of a folder of Pascal VOC's XML files, or None if it is none.

    Raises:
        DataError: a list of images can't be used.
    """
    files = files_under(folder) if files is None else files
    kinds: dict[Path, bool] = {}
    xmls = []
    for path in files:
        if path.suffix.lower() == ".xml":
            if path.parent not in kinds:
                kinds[path.parent] = xml_root(path) == "annotation"
            if kinds[path.parent]:
                xmls.append(path)
    if not xmls:
        return None
    lines: list[str] = []
    splits = _sets(files, set(xmls), lines) or by_split(xmls, folder, "XML files", lines)
    images = images_of(files)
    used = [path for paths in splits.values() for path in paths]
    parse = _Parser(images, used)
    order = functools.partial(names_in, files, folder)
    return labels_of(folder, splits, parse, files=used, images=images, names=order, lines=lines)


def _sets(files: list[Path], xmls: set[Path], lines: list[str]) -> dict[str, list[Path]]:
    """The XML files of each split that the lists in ImageSets name."""
    lists = [path for path in files if path.suffix == ".txt" and "ImageSets" in path.parts]
    for place in ("Main", "ImageSets", "Segmentation", "Layout"):
        found: dict[str, list[Path]] = {}
        for path in lists:
            name = {"trainval": "trainval", "default": "all"}.get(path.stem.lower()) or split_of_name(path.stem)
            if path.parent.name == place and name is not None:
                found.setdefault(name, []).extend(_listed(path, xmls, lines))
        found = {name: list(dict.fromkeys(paths)) for name, paths in found.items() if paths}
        both = found.pop("trainval", None)
        if both and not {"train", "val"} & set(found):
            found["train"] = both
        if set(found) > {"all"}:
            del found["all"]
        if found:
            return found
    return {}


def _listed(path: Path, xmls: set[Path], lines: list[str]) -> list[Path]:
    root = path.parents[list(path.parts[::-1]).index("ImageSets")]
    names = [line.split()[0] for line in read_text(path).splitlines() if line.split()]
    # some tools write the names of the images, with their suffixes
    tried = [[root / "Annotations" / f"{text}.xml" for text in (name, os.path.splitext(name)[0])] for name in names]
    found = [place for places in tried if (place := next((place for place in places if place in xmls), None))]
    missing = next((name for name, places in zip(names, tried) if not xmls & {*places}), None)
    if missing is not None and found:
        count = len(names) - len(found)
        lines.append(f"images of {path.name} without an XML file, left out: {count} (first: {missing})")
    return found


class _Parser:
    """Reads XML files; whether corners count from 0 or 1 is decided by all of them."""

    def __init__(self, images: list[Path], xmls: list[Path]) -> None:
        self.images, self.xmls = ImagesByName(images), xmls

    @functools.cached_property
    def from_one(self) -> bool:
        """Whether no corner of the data set is below 1."""
        # a search of the text, because all files are read before the first one is understood
        lows = (low for path in self.xmls for low in re.findall(LOW, read_bytes(path)))
        return all(number(low.decode(), "", "xmin or ymin") >= 1 for low in lows)

    def __call__(self, path: Path, notes: Notes) -> Iterable[Labelled]:
        root = read_xml(path)
        if root.tag != "annotation":
            raise DataError(f"{path}: the first element is <{root.tag}>; wanted Pascal VOC's <annotation>")
        written = (root.findtext("filename") or "").strip()
        image = self.images.find(path.name, path) or (self.images.find(written, path) if written else None)
        if image is None:
            notes.add("XML files without an image, left out", path)
            return
        if written and image.stem != Path(written.replace("\\", "/")).stem and image.name != written:
            notes.add("XML files whose <filename> is not the image with their name, which is taken", path)
        sides = ("width", root.findtext("size/width")), ("height", root.findtext("size/height"))
        width, height = (int(number(text or "0", path, f"the size's {side}")) for side, text in sides)
        if min(width, height) <= 0:
            notes.add("XML files without a size, which is taken from the image", path)
        # LabelImg writes edges, raised to 1 where they are 0, and has no other database
        edges = not self.from_one or (root.findtext("source/database") or "").strip() == "Unknown"
        notes.add("XML files whose corners are " + (EDGES if edges else PIXELS), path)
        things = (_object(item, path, 0 if edges else 1, notes) for item in root.iterfind("object"))
        yield Labelled(image, width, height, [thing for thing in things if thing is not None])


EDGES = "edges of boxes, counted from 0"
PIXELS = "pixels, counted from 1, as in VOC's devkit: xmin - 1 is the left edge, xmax the right one"


def _object(item: Element, path: Path, shift: int, notes: Notes) -> Object | None:
    name = (item.findtext("name") or "").strip()
    where = f"{path}, object {name!r}"
    if not name:
        raise DataError(f"{path}: an <object> has no <name>")
    box = item.find("bndbox")
    if box is None:
        return _outline(item, name, where, notes)
    x0, y0, x1, y1 = (number(box.findtext(key), where, key) for key in ("xmin", "ymin", "xmax", "ymax"))
    if x0 > x1 or y0 > y1:
        notes.add("boxes whose corners are swapped, put right", where)
        x0, y0, x1, y1 = min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
    difficult = (item.findtext("difficult") or "").strip() == "1"
    if difficult:
        notes.add(DIFFICULT, where)
    points = item.find("polygon")
    polygon = [] if points is None else [number(point.text, where, point.tag) - shift for point in points]
    corners = (x0 - shift, y0 - shift, x1, y1)
    return Object(name, where, corners, [polygon] if len(polygon) >= 6 else [], crowd=difficult)


def _outline(item: Element, name: str, where: str, notes: Notes) -> Object | None:
    """An object of the old LabelMe's XML, which CVAT writes, too: an outline without a box."""
    points = [number(point.findtext(axis), where, axis) for point in item.iterfind("polygon/pt") for axis in ("x", "y")]
    if len(points) < 6 or (item.findtext("deleted") or "").strip() == "1":
        notes.add("objects without a box (<bndbox>) or an outline (<polygon>), left out", where)
        return None
    return Object(name, where, polygons=[points])
