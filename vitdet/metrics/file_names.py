"""Matching image files with the images of an annotation file by the ends of their paths.

The folders at the start of a path differ from machine to machine; its end does not.
"""

import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

from vitdet.errors import DataError, clip

Parts = tuple[str, ...]


class FileNames:
    """The file names of the images of an annotation file, for matching paths with them.

    Args:
        names: the `file_name` of each image.
        source: the name of the annotation file, for error messages.

    Example:
        >>> FileNames(["val/a.jpg", "val/b.jpg"], "instances.json").find(["/data/val/b.jpg", "c.jpg"])
        [1, None]
    """

    def __init__(self, names: Sequence[str], source: str) -> None:
        self.names, self.source = list(names), source
        self._parts = [split(name) for name in names]
        self._same_base: dict[str, list[int]] = defaultdict(list)
        for position, parts in enumerate(self._parts):
            if parts:
                self._same_base[parts[-1]].append(position)

    def find(self, paths: Sequence[str]) -> list[int | None]:
        """The position of the image that matches each path, or `None` if no image does.

        A path matches an image if either of the two names ends with the other: `data/val/a.jpg` matches `val/a.jpg` and
        `a.jpg`, and the longer match wins. For folders that were renamed, `data/a.jpg` matches `val/a.jpg` if that is
        the only `a.jpg` and no other path matches it.

        Raises:
            DataError: a path matches two images equally well, or two paths match an image.
        """
        found = [self._by_ending(path) for path in paths]
        taken = set(found)
        found = [self._by_base(path, taken) if i is None else i for path, i in zip(paths, found)]
        first: dict[int, str] = {}
        for path, position in zip(paths, found):
            if position is not None and first.setdefault(position, path) != path:
                raise DataError(
                    f"{clip(first[position])} and {clip(path)} are both image {clip(self.names[position])} of "
                    f"{self.source}; "
                    "leave out the one that it does not mean"
                )
        return found

    def _by_ending(self, path: str) -> int | None:
        wanted, best, most = split(path), [], (0, False)
        for position in self._same_base.get(wanted[-1], ()) if wanted else ():
            parts = self._parts[position]
            shared = min(len(parts), len(wanted))
            fit = (shared, parts == wanted)
            if parts[-shared:] == wanted[-shared:] and fit >= most:
                best = [*best, position] if fit == most else [position]
                most = fit
        if len(best) > 1:
            names = ", ".join(clip(self.names[position]) for position in best[:2])
            raise DataError(
                f"{clip(path)} could be {len(best)} images of {self.source}, such as {names}; "
                "images of the same name need their folders in both"
            )
        return best[0] if best else None

    def _by_base(self, path: str, taken: set[int | None]) -> int | None:
        wanted = split(path)
        same = self._same_base.get(wanted[-1], []) if wanted else []
        return same[0] if len(same) == 1 and same[0] not in taken else None


def split(path: str) -> Parts:
    """The parts of a path of any operating system, with accents in Unicode's composed form (NFC)."""
    path = posixpath.normpath(unicodedata.normalize("NFC", path).replace("\\", "/"))
    return tuple(part for part in path.split("/") if part not in ("", ".", ".."))
