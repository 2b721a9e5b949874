"""LabelMe: a JSON file for each image, with polygons, boxes, circles and masks in pixels."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vitdet.data.formats.assemble import ImagesByName, Labelled, Object, labels_of, mappings, merged, points_of, text_of
from vitdet.data.formats.content import Notes, number
from vitdet.data.formats.files import by_split, files_under, images_of, json_mentions, names_in, read_object
from vitdet.data.formats.geometry import bitmap, ellipse, place_mask
from vitdet.data.formats.labels import Labels
from vitdet.errors import DataError

NAME = "LabelMe"
# names of LabelMe's lists of classes that are none
NO_CLASSES = {"__ignore__", "_background_", "__background__"}
KNOWN = {"polygon", "rectangle", "circle", "mask"}


def recognise(folder: Path, files: list[Path] | None = None) -> dict[str, Labels] | None:
    """The splits of a folder of LabelMe's JSON files, or None if it is none."""
    files = files_under(folder) if files is None else files
    kinds: dict[Path, bool] = {}
    found = []
    for path in files:
        if path.suffix.lower() == ".json":
            # a folder has files of one kind; those of LabelMe end with the size of the image
            if not kinds.get(path.parent):
                kinds[path.parent] = json_mentions(path, "shapes", "imageHeight")
            if kinds[path.parent]:
                found.append(path)
    if not found:
        return None
    lines: list[str] = []
    splits = by_split(found, folder, "JSON files", lines)
    images = images_of(files)
    by_name = ImagesByName(images)

    def names() -> list[str]:
        return [name for name in names_in(files, folder) if name not in NO_CLASSES]

    def parse(path: Path, notes: Notes) -> Iterable[Labelled]:
        return _parse(path, by_name, notes)

    return labels_of(folder, splits, parse, files=found, images=images, names=names, lines=lines)


def _parse(path: Path, images: ImagesByName, notes: Notes) -> Iterable[Labelled]:
    content = read_object(path)
    shapes = content.get("shapes")
    if not isinstance(shapes, list):
        notes.add("JSON files without a list of shapes, left out", path)
        return
    written = content.get("imagePath")
    image = images.find(path.name, path)
    if image is None and isinstance(written, str):
        image = images.find(written, path)
    if image is None:
        notes.add("JSON files without an image, left out", path)
        return
    size = [content.get(key) or 0 for key in ("imageWidth", "imageHeight")]
    width, height = (int(number(value, path, key)) for value, key in zip(size, ("imageWidth", "imageHeight")))
    things = []
    for place, shape in enumerate(mappings(shapes, path, "shapes"), 1):
        thing = _object(shape, f"{path}, shape {place}", notes)
        if thing is not None and thing.name not in NO_CLASSES:
            things.append((shape.get("group_id"), thing))
    yield Labelled(image, width, height, merged(things, notes))


def _object(shape: dict[str, Any], where: str, notes: Notes) -> Object | None:
    name = text_of(shape, "label", where)
    # files of LabelMe 2 have polygons alone, and no key for the kind
    kind = str(shape.get("shape_type") or "polygon")
    points = points_of(shape.get("points"), where)
    if kind in ("polygon", "oriented_rectangle", "rotation", "quadrilateral"):
        if len(points) == 2 and kind == "polygon":
            notes.add("polygons of two points, read as boxes", where)
            kind = "rectangle"
        elif len(points) < 3:
            notes.add("polygons of fewer than three points, left out", where)
            return None
        else:
            return Object(name, where, polygons=[[value for point in points for value in point]])
    if kind not in KNOWN:
        notes.add(f"shapes that are no area, left out ({kind})", where)
        return None
    if len(points) < 2:
        raise DataError(f"{where}: a {kind} with {len(points)} points; wanted two")
    (x0, y0), (x1, y1) = points[:2]
    if kind == "circle":
        radius = math.hypot(x1 - x0, y1 - y0)
        corners = (x0 - radius, y0 - radius, x0 + radius, y0 + radius)
        return Object(name, where, corners, [ellipse(x0, y0, radius, radius)])
    # a rectangle may have all its four corners
    xs, ys = zip(*points)
    corners = (min(xs), min(ys), max(xs), max(ys))
    if kind == "mask":
        part = bitmap(shape.get("mask"), where)
        left, top = int(corners[0]), int(corners[1])
        return Object(name, where, corners, mask=lambda width, height: place_mask(part, left, top, width, height))
    return Object(name, where, corners)
