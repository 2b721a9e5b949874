"""VGG Image Annotator: a JSON file with the regions of all images in pixels."""

import functools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vitdet.data.formats.assemble import ImagesByName, Labelled, Object, labels_of, mappings
from vitdet.data.formats.content import Notes, number
from vitdet.data.formats.files import by_split, files_under, images_of, json_mentions, read_object
from vitdet.data.formats.geometry import ellipse
from vitdet.data.formats.labels import Labels
from vitdet.errors import DataError

NAME = "VGG Image Annotator"
# attributes that hold the class where regions have several
CLASS_KEYS = ("class", "label", "name", "type", "category", "object")


def recognise(folder: Path, files: list[Path] | None = None) -> dict[str, Labels] | None:
    """The splits of a folder with VIA's JSON files, or None if it has none."""
    files = files_under(folder) if files is None else files
    found = [path for path in files if path.suffix.lower() == ".json" and json_mentions(path, "regions", "filename")]
    if not found:
        return None
    lines: list[str] = []
    splits = by_split(found, folder, "JSON files", lines)
    images = images_of(files)
    parse = functools.partial(_parse, ImagesByName(images))
    return labels_of(folder, splits, parse, files=found, images=images, lines=lines)


def _parse(images: ImagesByName, path: Path, notes: Notes) -> Iterable[Labelled]:
    content = read_object(path)
    items = content.get("_via_img_metadata", content)
    if not isinstance(items, dict):
        raise DataError(f"{path}: _via_img_metadata is {str(items)[:40]!r}; wanted an object")
    for key, item in items.items():
        where = f"{path}, {key}"
        if not isinstance(item, dict) or not isinstance(item.get("filename"), str):
            # a project has its settings beside the images, and files of before 2018 have them in the same object
            continue
        regions = item.get("regions")
        # an object with numbers as keys before version 2, a list since
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        image = images.find(item["filename"], path)
        if image is None:
            notes.add("images that are not in the folder, left out with their regions", where)
            continue
        things = (_object(region, where, notes) for region in mappings(regions, where, "regions"))
        yield Labelled(image, 0, 0, [thing for thing in things if thing is not None])


def _object(region: dict[str, Any], where: str, notes: Notes) -> Object | None:
    shape = region.get("shape_attributes")
    if not isinstance(shape, dict):
        raise DataError(f"{where}: shape_attributes is {str(shape)[:40]!r}; wanted an object")
    name, kind = _class(region.get("region_attributes"), where, notes), str(shape.get("name"))

    def values(*keys: str) -> list[float]:
        return [number(shape.get(key), where, key) for key in keys]

    if kind == "rect":
        x, y, width, height = values("x", "y", "width", "height")
        return Object(name, where, (x, y, x + width, y + height))
    if kind in ("circle", "ellipse"):
        x, y = values("cx", "cy")
        rx, ry = values("r", "r") if kind == "circle" else values("rx", "ry")
        # VIA has the angle in radians
        degrees = 0 if kind == "circle" else math.degrees(number(shape.get("theta", 0), where, "theta") % math.tau)
        return Object(name, where, polygons=[ellipse(x, y, rx, ry, degrees)])
    if kind != "polygon":
        notes.add(f"regions that are no area, left out ({kind})", where)
        return None
    xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
    if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
        raise DataError(f"{where}: all_points_x and all_points_y must be lists of the same length")
    if len(xs) < 3:
        notes.add("polygons of fewer than three points, left out", where)
        return None
    points = [(number(x, where, "all_points_x"), number(y, where, "all_points_y")) for x, y in zip(xs, ys)]
    return Object(name, where, polygons=[[value for point in points for value in point]])


def _class(attributes: Any, where: str, notes: Notes) -> str:
    """The class of a region: the value of its only attribute, or of the one that is named after classes."""
    if not attributes:
        notes.add('regions without attributes, of the class "object"', where)
        return "object"
    if not isinstance(attributes, dict):
        raise DataError(f"{where}: region_attributes is {str(attributes)[:40]!r}; wanted an object")
    keys = list(attributes) if len(attributes) == 1 else [key for key in CLASS_KEYS if key in attributes][:1]
    if not keys:
        raise DataError(
            f"{where}: no attribute of {', '.join(attributes)} is named class, label, name, type or category"
        )
    value = attributes[keys[0]]
    if isinstance(value, dict):
        # check boxes: the ones that are ticked
        value = ", ".join(str(key) for key, ticked in value.items() if ticked)
    if not str(value).strip():
        raise DataError(f"{where}: the attribute {keys[0]} of a region is empty; wanted its class")
    return str(value).strip()
