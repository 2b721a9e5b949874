"""Image files that an annotation file describes."""

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from vitdet.annotations import CocoIndex
from vitdet.errors import UserError
from vitdet.metrics.file_names import FileNames


class KnownImages:
    """The image files that an annotation file describes, found by their names (see `FileNames`).

    Args:
        annotations: COCO annotation file.
        paths: Image files. Those that the annotation file does not contain are left out.

    Attributes:
        paths: the files that were found, in the order of the argument.
        ids: their ids in the annotation file.
        lines: messages about the other files and images.

    Raises:
        FileNotFoundError: there is no such annotation file.
        UserError: the file is not an annotation file, contains none of the images, or the name of an image is
            ambiguous.
    """

    def __init__(self, annotations: str | Path, paths: Sequence[str | Path]) -> None:
        self.source, self._index = str(annotations), CocoIndex.open(annotations)
        found = FileNames(self._index.file_names, self.source).find([os.path.abspath(path) for path in paths])
        pairs = [(path, position) for path, position in zip(paths, found) if position is not None]
        if not pairs:
            names = next(filter(None, self._index.file_names), "none at all")
            raise UserError(
                f"none of the {len(paths)} files, such as {paths[0]}, is an image of {annotations}, "
                f"whose file_name are like {names}; give the annotation file of these images"
            )
        self.paths = [path for path, _ in pairs]
        self._positions = [position for _, position in pairs]
        self.ids = [int(self._index.image_ids[position]) for position in self._positions]
        self.lines = []
        if others := [path for path, position in zip(paths, found) if position is None]:
            self.lines.append(f"left out: {len(others)} files that are no image of {annotations}, such as {others[0]}")
        if missing := len(self._index) - len(pairs):
            self.lines.append(f"{missing} of the {len(self._index)} images of {annotations} are not among the files")

    def check_size(self, i: int, size: tuple[int, int]) -> None:
        """Checks that file number `i` has the size of its annotations.

        Args:
            i: position in `paths`.
            size: `(H, W)` of the image in pixels.

        Raises:
            UserError: the annotation file gives another size.
        """
        position = self._positions[i]
        height, width = int(self._index.heights[position]), int(self._index.widths[position])
        if height and width and (height, width) != tuple(size):
            raise UserError(
                f"{self.paths[i]} is {size[1]}×{size[0]}, but {self.source} says {width}×{height}, "
                "so boxes would be in other pixels; give the images that were annotated"
            )

    def check_classes(self, category_ids: Sequence[int], classes: Sequence[str], console: Console) -> None:
        """Prints how many categories have other names in the model than in the annotation file."""
        known = dict(zip(self._index.category_ids, self._index.names))
        other = [(i, name, known.get(i)) for i, name in zip(category_ids, classes) if known.get(i) != name]
        if other:
            number, name, theirs = other[0]
            console.print(
                f"{len(other)} of the model's {len(classes)} categories are not those of {self.source}: "
                f"it has {number} as {name}, the file " + (f"as {theirs}" if theirs is not None else "not at all")
            )
