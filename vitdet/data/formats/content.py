"""The content of a COCO JSON while it is put together from another format, with counts of what was odd."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vitdet.data.formats.geometry import area, around
from vitdet.data.formats.labels import image_size
from vitdet.errors import DataError
from vitdet.images import ImageError

# coordinates beyond this number of pixels are no image's
FARTHEST = 1e6


class Notes:
    """Counts of what was odd, each with the place of the first.

    Example:
        >>> notes = Notes()
        >>> notes.add("points left out", "a.json")
        >>> notes.lines()
        ['points left out: 1 (first: a.json)']
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, Any]] = {}

    def add(self, what: str, where: Any) -> None:
        count, first = self._found.get(what, (0, where))
        self._found[what] = count + 1, first

    def lines(self) -> list[str]:
        """A line about each kind of what was odd."""
        return [f"{what}: {count} (first: {where})" for what, (count, where) in self._found.items()]


class Content:
    """COCO's images, annotations and categories, and lines about what was odd.

    Args:
        names: the names of the classes.
        first_id: the category id of the first class; the others follow.

    Attributes:
        ids: the category id of each class.
        images, annotations, categories: the lists of a COCO JSON.
        notes: what was odd.

    Example:
        >>> content = Content(["cat"])
        >>> content.add_image("a.jpg", 20, 10)
        >>> content.add_box(content.ids["cat"], (5, 5, 15, 10), where="a.txt")
        >>> content.result()[0]["annotations"][0]["bbox"]
        [5, 5, 10, 5]
    """

    def __init__(self, names: Iterable[str], *, first_id: int = 1) -> None:
        self.ids = {name: number for number, name in enumerate(names, first_id)}
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.categories = [{"id": number, "name": name} for name, number in self.ids.items()]
        self.notes = Notes()

    def add_file(self, path: Path, root: Path) -> tuple[int, int] | None:
        """Add an image with the width and height that its file says, which are returned; None if it can't be read."""
        try:
            width, height = image_size(path)
        except ImageError as error:
            self.notes.add("images that can't be read, left out with their labels", error)
            return None
        self.add_image(path.relative_to(root).as_posix(), width, height)
        return width, height

    def add_image(self, file_name: str, width: int, height: int) -> None:
        """Add an image, to which the objects that are added next belong."""
        image = {"id": len(self.images) + 1, "file_name": file_name, "width": width, "height": height}
        self.images.append(image)

    def add_box(self, category: int, corners: Sequence[float], *, where: Any, crowd: bool = False) -> None:
        """Add an object from the corners of its box, left, top, right and bottom, in pixels.

        Raises:
            DataError: a number is not finite, or far outside of any image; the message has the place, `where`.
        """
        self._check(corners, where)
        x0, y0, x1, y1 = corners
        box = [x0, y0, x1 - x0, y1 - y0]
        self._add(category, box, box[2] * box[3], crowd)

    def add_polygons(
        self,
        category: int,
        polygons: list[list[float]],
        *,
        where: Any,
        box: Sequence[float] | None = None,
        crowd: bool = False,
    ) -> None:
        """Add an object from the polygons `[x1, y1, x2, y2, ...]` of its parts in pixels.

        Args:
            category: the category id.
            polygons: the outlines of the parts.
            where: the place of the object, for error messages.
            box: the corners of the box; left out, those around the polygons.
            crowd: whether it is kept out of training.

        Raises:
            DataError: a polygon has fewer than three points, or a number is not finite.
        """
        for polygon in polygons:
            self._check(polygon, where)
            if len(polygon) < 6 or len(polygon) % 2:
                raise DataError(f"{where}: a polygon has {len(polygon) / 2:g} points; wanted three or more")
        x0, y0, x1, y1 = box or around(polygons)
        self._add(category, [x0, y0, x1 - x0, y1 - y0], sum(map(area, polygons)), crowd, polygons)

    def add_mask(self, category: int, rle: dict[str, Any], box: list[float], pixels: int) -> None:
        """Add an object from the run lengths of its mask, its box `[left, top, width, height]` and its pixel count."""
        self._add(category, box, pixels, False, rle)

    def _check(self, numbers: Sequence[float], where: Any) -> None:
        # written so that NaN fails, too
        if not all(abs(number) < FARTHEST for number in numbers):
            wrong = next(number for number in numbers if not abs(number) < FARTHEST)
            raise DataError(f"{where}: {wrong:g} is no position in an image; wanted a finite number of pixels")

    def _add(self, category: int, box: list[float], pixels: float, crowd: bool, segmentation: Any = None) -> None:
        object_ = {"id": len(self.annotations) + 1, "image_id": len(self.images), "category_id": category}
        object_ |= {"bbox": box, "area": pixels, "iscrowd": int(crowd)}
        if segmentation is not None:
            object_["segmentation"] = segmentation
        self.annotations.append(object_)

    def result(self, lines: Iterable[str] = ()) -> tuple[dict[str, Any], list[str]]:
        """The COCO content, and `lines` with those about what was odd."""
        content = {"images": self.images, "annotations": self.annotations, "categories": self.categories}
        return content, [*lines, *self.notes.lines()]


def number(text: Any, where: Any, key: str) -> float:
    """A finite number from its text, or from the value of a JSON key.

    Raises:
        DataError: it is none; the message has the place and the key.
    """
    try:
        value = math.nan if isinstance(text, bool) or "_" in str(text) else float(text)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {key} is {str(text)[:40]!r}; wanted a finite number")
    return value
