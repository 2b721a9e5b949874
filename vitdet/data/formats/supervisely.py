"""Supervisely: a project with `meta.json`, and folders `img` and `ann`, with a JSON file for each image.

Coordinates are those of pixels: a rectangle from 2 to 5 covers four pixels.
"""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.data.formats.assemble import ImagesByName, Labelled, Object, labels_of, mappings, points_of, text_of
from vitdet.data.formats.content import Notes, number
from vitdet.data.formats.files import by_split, files_under, images_of, json_mentions, read_object
from vitdet.data.formats.geometry import bitmap, fill, place_mask
from vitdet.data.formats.labels import Labels
from vitdet.errors import DataError

NAME = "Supervisely"


def recognise(folder: Path, files: list[Path] | None = None) -> dict[str, Labels] | None:
    """The splits of a Supervisely project, by the names of its data sets, or None if the folder is none."""
    files = files_under(folder) if files is None else files
    metas = [path for path in files if path.name == "meta.json" and json_mentions(path, "classes")]
    found = [path for path in files if path.suffix == ".json" and path.parent.name == "ann"]
    if not metas or not found:
        return None
    lines: list[str] = []
    splits = by_split(found, folder, "JSON files", lines)
    images = images_of(files)
    by_name = ImagesByName(images)

    def names() -> list[str]:
        classes = mappings(read_object(metas[0]).get("classes"), metas[0], "classes")
        return [text_of(item, "title", metas[0]) for item in classes]

    parse = functools.partial(_parse, by_name)
    return labels_of(folder, splits, parse, files=[*metas, *found], images=images, names=names, lines=lines)


def _parse(images: ImagesByName, path: Path, notes: Notes) -> Iterable[Labelled]:
    image = images.find(path.name.removesuffix(".json"), path.parent.parent / "img" / path.name)
    if image is None:
        notes.add("JSON files without an image, left out", path)
        return
    content = read_object(path)
    size = content.get("size")
    size = size if isinstance(size, dict) else {}
    width, height = (int(number(size.get(side) or 0, path, f"size {side}")) for side in ("width", "height"))
    objects = []
    for place, item in enumerate(mappings(content.get("objects"), path, "objects"), 1):
        thing = _object(item, f"{path}, object {place}", notes)
        if thing is not None:
            objects.append(thing)
    yield Labelled(image, width, height, objects)


def _object(item: dict[str, Any], where: str, notes: Notes) -> Object | None:
    name = text_of(item, "classTitle", where)
    # projects of before 2019 have a bitmap beside empty points, and no kind
    kind = str(item.get("geometryType") or ("bitmap" if item.get("bitmap") else "polygon"))
    if kind == "bitmap":
        picture = item.get("bitmap")
        if not isinstance(picture, dict):
            raise DataError(f"{where}: bitmap is {str(picture)[:40]!r}; wanted an object")
        part = bitmap(picture.get("data"), where)
        ((left, top),) = points_of([picture.get("origin")], where)
        return Object(name, where, mask=functools.partial(place_mask, part, int(left), int(top)))
    if kind not in ("rectangle", "polygon"):
        notes.add(f"shapes that are no area, left out ({kind})", where)
        return None
    points = item.get("points")
    if not isinstance(points, dict):
        raise DataError(f"{where}: points is {str(points)[:40]!r}; wanted an object with exterior")
    outline = points_of(points.get("exterior"), where)
    if kind == "rectangle":
        if len(outline) < 2:
            raise DataError(f"{where}: a rectangle with {len(outline)} points; wanted two")
        xs, ys = zip(*outline)
        # the last pixel belongs to the rectangle
        return Object(name, where, (min(xs), min(ys), max(xs) + 1, max(ys) + 1))
    if len(outline) < 3:
        notes.add("polygons of fewer than three points, left out", where)
        return None
    flat = [value for point in outline for value in point]
    inner = points.get("interior") or []
    if not isinstance(inner, list):
        raise DataError(f"{where}: interior is {str(inner)[:40]!r}; wanted a list")
    holes = [[value for point in points_of(hole, where) for value in point] for hole in inner]
    holes = [hole for hole in holes if len(hole) >= 6]
    if not holes:
        return Object(name, where, polygons=[flat])

    def mask(width: int, height: int) -> np.ndarray:
        return fill([flat], holes, width, height)

    return Object(name, where, mask=mask)
