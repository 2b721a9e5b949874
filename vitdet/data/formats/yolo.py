"""YOLO's text files: a box, a polygon, an oriented box or a pose in each row, as fractions of the image.

A row is `class x y width height` with the centre of the box, `class x1 y1 x2 y2 x3 y3 …` with the corners of a polygon,
of which an oriented box has four, or a box with the numbers of its keypoints behind it.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from vitdet.data.formats.content import Content
from vitdet.data.formats.files import files_under, images_of, read_text, root_of
from vitdet.data.formats.labels import Labels
from vitdet.data.formats.yolo_layout import OTHER_TEXTS, Layout, find, label_places
from vitdet.errors import DataError

NAME = "YOLO"
# how far beyond the image a position may lie, as a fraction of it; tools round, and Ultralytics allows as much
MARGIN = 0.01
# what is said about kinds of rows
ODD = {
    "scored": "rows of 6 numbers: the last, a score, is ignored",
    "pose": "rows with keypoints, of which the box is kept",
}
FOUR = "rows of 9 numbers, read as polygons of four points (of an oriented box, its corners)"


def recognise(folder: Path, files: list[Path] | None = None) -> dict[str, Labels] | None:
    """The splits of a folder in one of YOLO's formats, or None if it is in none of them.

    Raises:
        DataError: its description can't be used.
    """
    files = files_under(folder) if files is None else files
    layout = find(folder, files)
    if layout is None:
        return None
    texts = {path.as_posix() for path in files if path.suffix.lower() == ".txt"}
    splits = {name: _Split(folder, layout, images, texts) for name, images in layout.splits.items()}
    owned = {place for image in images_of(files) for place in label_places(image)}
    names = functools.cache(lambda: _names(layout, splits.values()))
    found = {}
    for name, split in splits.items():
        root = root_of(split.images, folder)
        depends = [*layout.sources, *split.images, *split.labels.values()]
        found[name] = Labels(root, depends, functools.partial(split.read, root, names, sorted(texts - owned)))
    return found


def _names(layout: Layout, splits: Iterable["_Split"]) -> dict[int, str]:
    """The names of the classes; their ids, as far as they occur, where no file names them."""
    if layout.names is not None:
        return layout.names
    rows = (row for split in splits for path in split.labels.values() for row in rows_of(path, layout.keypoints))
    highest = max((row[0] for row in rows), default=0)
    return {number: f"class_{number}" for number in range(highest + 1)}


class _Split:
    """The images of a split with their label files."""

    def __init__(self, folder: Path, layout: Layout, images: list[Path], texts: set[str]) -> None:
        self.folder, self.layout, self.images, self.texts = folder, layout, images, texts
        self.labels: dict[Path, Path] = {}
        for image in images:
            inside = image.is_relative_to(folder)
            for place in label_places(image):
                if place in texts or (not inside and Path(place).is_file()):
                    self.labels[image] = Path(place)
                    break

    def read(
        self, root: Path, names: Callable[[], dict[int, str]], ownerless: list[str]
    ) -> tuple[dict[str, Any], list[str]]:
        if not self.labels:
            tried = " or ".join(label_places(self.images[0]))
            raise DataError(f"none of the {len(self.images)} images of {self.folder} has a label file, such as {tried}")
        classes, content, lines = names(), Content([]), list(self.layout.lines)
        if self.layout.names is None:
            lines.append(f"no data.yaml, classes.txt or obj.names: the {len(classes)} classes are named by their ids")
        rows = outside = 0
        for image in self.images:
            size = content.add_file(image, root)
            label = self.labels.get(image)
            if size is None:
                continue
            if label is None:
                content.notes.add("images without a label file, which count as images without objects", image)
                continue
            for row in rows_of(label, self.layout.keypoints):
                rows += 1
                outside += not _add(content, row, size, classes)
        if not content.images:
            raise DataError(
                f"none of the {len(self.images)} images of {self.folder} can be read: {content.notes.lines()[0]}"
            )
        if 2 * outside > rows:
            raise DataError(
                f"{self.folder}: {outside} of {rows} rows have values outside of 0..1, as if they were pixels; YOLO's "
                f"are fractions of the image's width and height ({content.notes.lines()[-1]})"
            )
        self._note_strays(content, ownerless)
        content.categories = [{"id": number, "name": name} for number, name in sorted(classes.items())]
        return content.result(lines)

    def _note_strays(self, content: Content, ownerless: list[str]) -> None:
        folders = {path.parent.as_posix() for path in self.labels.values()}
        for text in ownerless:
            folder, _, name = text.rpartition("/")
            if folder in folders and name not in OTHER_TEXTS and not name.startswith("README"):
                content.notes.add("label files without an image, left out", text)


def _add(content: Content, row: tuple, size: tuple[int, int], names: dict[int, str]) -> bool:
    """Add the object of a row, unless it lies outside of the image."""
    (number, kind, values, where), (width, height) = row, size
    if number not in names:
        known = f"there are {len(names)}, from {min(names)} to {max(names)}"
        raise DataError(f"{where}: class {number} has no name: {known}")
    if min(values) < -MARGIN or max(values) > 1 + MARGIN:
        content.notes.add("rows left out, with values outside of 0..1", where)
        return False
    if kind == "polygon":
        points = [value * side for value, side in zip(values, (width, height) * (len(values) // 2))]
        content.add_polygons(number, [points], where=where)
    else:
        x, y, w, h = values
        corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        content.add_box(number, corners, where=where)
    if kind in ODD or len(values) == 8:
        content.notes.add(ODD.get(kind, FOUR), where)
    return True


def rows_of(path: Path, keypoints: int = 0) -> Iterator[tuple[int, str, list[float], str]]:
    """The class, the kind, the numbers and the place of each row of a label file.

    Raises:
        DataError: a row is none of the kinds.
    """
    for count, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f"{path}, line {count}"
        try:
            values = [float(word) for word in words]
        except ValueError:
            hint = "; separate them by spaces, not commas" if "," in line else ""
            raise DataError(f"{where}: {line[:60]!r}; wanted a class id and numbers{hint}") from None
        if not all(map(math.isfinite, values)) or "_" in line:
            raise DataError(f"{where}: {line[:60]!r} has a value that is no finite number")
        if values[0] < 0 or values[0] != int(values[0]):
            raise DataError(f"{where}: class {words[0]!r}; wanted a whole number from 0")
        kind, used = _kind(len(values), keypoints, where)
        yield int(values[0]), kind, values[1:used], where


def _kind(count: int, keypoints: int, where: str) -> tuple[str, int]:
    """The kind of a row by how many numbers it has, and how many of them are used."""
    if count == 5:
        return "box", 5
    if keypoints and count == 5 + keypoints:
        return "pose", 5
    if count == 6:
        return "scored", 5
    if count >= 7 and count % 2:
        return "polygon", count
    raise DataError(
        f"{where}: a row of {count} numbers; wanted 5 (class, centre, size), or the class and at least three points "
        "of a polygon; rows with keypoints need kpt_shape in data.yaml"
    )
