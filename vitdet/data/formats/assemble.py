"""From images with objects of named classes, as most annotation tools write them, to the splits of a data set."""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.data.formats.content import FARTHEST, Content, Notes, number
from vitdet.data.formats.files import root_of
from vitdet.data.formats.geometry import mask_object
from vitdet.data.formats.labels import Labels
from vitdet.errors import DataError
from vitdet.images import MAX_PIXELS

# folders of label maps, as Pascal VOC and LabelMe's tools name them
LABEL_MAPS = re.compile("^(segmentation|semantic|instance|mask|label)", re.IGNORECASE)


@dataclass
class Object:
    """An object of an image: its class, and either the corners of its box, polygons, or a mask of the image.

    Args:
        name: the name of its class.
        where: its place, for error messages.
        corners: left, top, right and bottom of its box in pixels; with `polygons`, an exact box for these.
        polygons: the outlines of its parts in pixels.
        mask: `(H, W)`, or a function that returns it.
        crowd: whether it is kept out of training and neither wanted nor wrong in evaluation.
    """

    name: str
    where: str
    corners: Sequence[float] | None = None
    polygons: list[list[float]] = field(default_factory=list)
    mask: Callable[[int, int], np.ndarray] | None = None
    crowd: bool = False


@dataclass
class Labelled:
    """An image file with its objects.

    Args:
        image: the image file.
        width, height: its size as the labels say it, in pixels; 0 if they don't.
        objects: what is on it.
    """

    image: Path
    width: int
    height: int
    objects: list[Object]


# reads the images that a source of labels (mostly a file) describes, and notes what was odd
Parse = Callable[[Any, Notes], Iterable[Labelled]]


def labels_of(
    folder: Path,
    splits: Mapping[str, Sequence[Any]],
    parse: Parse,
    *,
    files: Sequence[Path],
    images: Sequence[Path],
    names: Callable[[], Sequence[str]] = tuple,
    lines: Sequence[str] = (),
) -> dict[str, Labels]:
    """The splits of a data set, which have their classes in common.

    Args:
        folder: the folder of the data set.
        splits: the sources of labels of each split.
        parse: reads one of them.
        files: the files of labels of all splits, because the classes of a split depend on all.
        images: all images that may belong to the labels.
        names: returns the classes whose order is given; others follow in the order of the alphabet.
        lines: what was odd in all splits.
    """

    @functools.cache
    def parsed() -> dict[str, tuple[list[Labelled], Notes]]:
        found = {}
        for split, sources in splits.items():
            notes = Notes()
            found[split] = [item for source in sources for item in parse(source, notes)], notes
        return found

    @functools.cache
    def classes() -> list[str]:
        used = {thing.name for items, _ in parsed().values() for item in items for thing in item.objects}
        first = list(dict.fromkeys(names()))
        return first + sorted(used - set(first))

    root = root_of(images, folder)
    depends = [*files, *images]

    @functools.cache
    def used() -> set[Path]:
        return {item.image for items, _ in parsed().values() for item in items}

    def read(split: str) -> tuple[dict[str, Any], list[str]]:
        items, notes = parsed()[split]
        places = {item.image.parent for item in items}
        for image in images:
            if image.parent in places and image not in used():
                notes.add("images without labels, left out", image)
        if not items:
            raise DataError(f"{folder}: the split {split} has no labelled image ({'; '.join(notes.lines())})")
        content = Content(classes())
        content.notes = notes
        for item in sorted(items, key=lambda item: item.image):
            _add(content, item, root)
        return content.result(lines)

    return {split: Labels(root, depends, functools.partial(read, split)) for split in splits}


def _add(content: Content, item: Labelled, root: Path) -> None:
    size = (item.width, item.height)
    if min(size) > 0:
        content.add_image(item.image.relative_to(root).as_posix(), *size)
    else:
        size = content.add_file(item.image, root)
        if size is None:
            return
    width, height = size
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{item.image}: its labels say that it is {width}×{height}; wanted at most {MAX_PIXELS:,} pixels"
        )
    for thing in item.objects:
        category = content.ids[thing.name]
        if thing.mask is not None:
            code, box, pixels = mask_object(thing.mask(width, height))
            if not pixels:
                content.notes.add("masks without a pixel, left out", thing.where)
                continue
            content.add_mask(category, code, box, pixels)
        elif thing.polygons:
            content.add_polygons(category, thing.polygons, where=thing.where, box=thing.corners, crowd=thing.crowd)
        else:
            content.add_box(category, thing.corners or (), where=thing.where, crowd=thing.crowd)


def merged(things: Iterable[tuple[Any, Object]], notes: Notes) -> list[Object]:
    """Objects, of which polygons of a class and a group are the parts of a single one.

    Args:
        things: objects, each with its group, which is None or 0 for those that stand alone.
        notes: gets the number of parts.
    """
    groups: dict[Any, Object] = {}
    objects = []
    for group, thing in things:
        first = thing
        if group not in (None, 0, "", "0") and thing.polygons:
            first = groups.setdefault((str(group), thing.name), thing)
        if first is thing:
            objects.append(thing)
        else:
            notes.add("polygons that are further parts of an object, by their group", thing.where)
            first.polygons += thing.polygons
            first.corners = None
    return objects


def mappings(value: Any, where: Any, key: str) -> list[dict[str, Any]]:
    """A list of objects of a JSON file.

    Raises:
        DataError: it is none.
    """
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(f"{where}: {key} is {str(value)[:40]!r}; wanted a list of objects")
    return value


def text_of(item: dict[str, Any], key: str, where: Any) -> str:
    """A value of a JSON object that must be text.

    Raises:
        DataError: it is none.
    """
    value = item.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {key} is {str(value)[:40]!r}; wanted text")
    return value.strip()


def points_of(value: Any, where: Any) -> list[tuple[float, float]]:
    """A list of points `[x, y]` of a JSON file.

    Raises:
        DataError: it is none.
    """
    if not isinstance(value, list):
        raise DataError(f"{where}: points are {str(value)[:40]!r}; wanted a list")
    wrong = next((point for point in value if not isinstance(point, list) or len(point) != 2), None)
    if wrong is not None or None in value:
        raise DataError(f"{where}: the point {str(wrong)[:40]!r}; wanted [x, y]")
    points = [(number(x, where, "x"), number(y, where, "y")) for x, y in value]
    # filling a polygon takes memory by its length
    far = next((point for point in points if max(map(abs, point)) >= FARTHEST), None)
    if far is not None:
        raise DataError(f"{where}: the point {far} is far outside of any image")
    return points


class ImagesByName:
    """Finds the image of a file of labels by names, which may have lost their folder or suffix.

    Args:
        images: all images.
    """

    def __init__(self, images: Sequence[Path]) -> None:
        self.names: dict[str, list[Path]] = {}
        self.stems: dict[str, list[Path]] = {}
        for image in images:
            self.names.setdefault(image.name, []).append(image)
            self.stems.setdefault(image.stem, []).append(image)

    def find(self, name: str, near: Path) -> Path | None:
        """The image with a name, the nearest one to the file `near` if there are several.

        Raises:
            DataError: several are equally near.
        """
        parts = name.replace("\\", "/").split("/")
        base = parts[-1]
        found = self.names.get(base) or self.stems.get(base) or self.stems.get(Path(base).stem) or []
        # label maps have the names of their images
        found = [image for image in found if not LABEL_MAPS.search(image.parent.name)] or found
        if len(found) < 2:
            return found[0] if found else None
        folders = set(near.parent.parts)
        ranked = sorted(found, key=lambda image: _nearness(image, parts, folders), reverse=True)
        if _nearness(ranked[0], parts, folders) == _nearness(ranked[1], parts, folders):
            raise DataError(f"{near}: the image {name!r} may be {ranked[0]} or {ranked[1]}; rename one of them")
        return ranked[0]


def _nearness(image: Path, parts: list[str], folders: set[str]) -> tuple[int, int, int]:
    """How much of a written path fits, how many folders are shared, and how few are not."""
    tail = list(image.parts[-len(parts) :])
    fits = next((n for n in range(len(parts), 0, -1) if tail[-n:] == parts[-n:]), 0)
    around = set(image.parent.parts)
    return fits, len(around & folders), -len(around - folders)
