"""Files of data sets in foreign formats: listing, splits by names of folders, and reading text and XML."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from vitdet.annotations.json_text import decode
from vitdet.data.formats import tree
from vitdet.errors import DataError

# lists of class names, whose order is kept
NAME_FILES = ("labels.txt", "classes.txt")


def files_under(folder: Path) -> list[Path]:
    """All files below a folder in the order of their names, except hidden ones and those of macOS's archives."""
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    left = [folder]
    while left:
        place = left.pop()
        stat = os.stat(place)
        # a link may lead to a folder above it
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith((".", "__MACOSX")):
                    continue
                if entry.is_dir():
                    left.append(place / entry.name)
                elif entry.is_file():
                    found.append(place / entry.name)
    return sorted(found)


def images_of(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if tree.is_image(path.name)]


def split_of_name(name: str) -> str | None:
    """The split that a name says and nothing else, except for a year.

    Example:
        >>> split_of_name("val2017"), split_of_name("Training"), split_of_name("dog_train")
        ('val', 'train', None)
    """
    split, rest = tree.split_of(name)
    return split if rest.strip("0123456789-_ ") == "*" else None


def split_of(path: Path, folder: Path) -> str | None:
    """The split that a folder between the data set's and a file tells of."""
    return tree.split_of_path(path.parent.relative_to(folder).as_posix())


def by_split(paths: Iterable[Path], folder: Path, what: str, lines: list[str]) -> dict[str, list[Path]]:
    """Files by the folders that are named after splits; "all" where there are none.

    Args:
        paths: the files.
        folder: the folder of the data set.
        what: the kind of files, in the plural.
        lines: gets a line about files beside the folders of splits, which are left out.
    """
    splits: dict[str, list[Path]] = {}
    for path in paths:
        splits.setdefault(split_of(path, folder) or "all", []).append(path)
    if len(splits) > 1 and (stray := splits.pop("all", None)):
        lines.append(f"{what} in no folder of a split, left out: {len(stray)} (first: {stray[0]})")
    return splits


def names_in(files: Iterable[Path], folder: Path) -> list[str]:
    """The lines of the list of classes in a folder; empty if it has none."""
    named = [path for path in files if path.parent == folder and path.name in NAME_FILES]
    return [line.strip() for path in named[:1] for line in read_text(path).splitlines() if line.strip()]


def root_of(paths: Sequence[Path], folder: Path) -> Path:
    """The folder that file names are relative to: that of the data set, or one above all images if some lie outside."""
    if not paths or all(path.is_relative_to(folder) for path in paths):
        return folder
    return Path(os.path.commonpath([path.parent for path in paths]))


def read_bytes(path: Path) -> bytes:
    """
    Raises:
        DataError: the path is no file, or can't be read.
    """
    try:
        # a FIFO or a device would never end
        if not path.is_file():
            raise DataError(f"{path} is not a file")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        DataError: it can't be read, or is in another encoding.
    """
    data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not in UTF-8 (byte {error.start}); save it as UTF-8") from error
    if "\0" in text:
        raise DataError(f"{path} is no text: it holds a zero byte; if it is in UTF-16, save it as UTF-8")
    return text


def json_mentions(path: Path, *keys: str) -> bool:
    """Whether a file has some keys of JSON in its first or last kilobytes."""
    size = 2**16
    try:
        with open(path, "rb") as file:
            text = file.read(size)
            file.seek(max(path.stat().st_size - size, 0))
            text += file.read(size)
    except OSError:
        return False
    return all(f'"{key}"'.encode() in text for key in keys)


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        DataError: the file can't be read, or holds something else.
    """
    content = decode(read_bytes(path), f"JSON file {path}")
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}; wanted an object")
    return content


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file without a document type, whose entities could blow a small file up to gigabytes.

    Raises:
        DataError: it can't be read, is not valid, or has a document type.
    """
    builder = ElementTree.TreeBuilder()

    def refuse(*_: Any) -> None:
        raise DataError(f"{path} has a document type (<!DOCTYPE …>), which vitdet does not read; remove it")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
    try:
        parser.Parse(read_bytes(path), True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not valid XML: {error}") from error
    return builder.close()


def xml_root(path: Path) -> str:
    """The name of the first element within the first kilobytes of an XML file, or "" if there is none."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError:
        return ""
    found = re.search(rb"<([A-Za-z_][\w.-]*)[\s/>]", re.sub(rb"<!--.*?-->", b"", head, flags=re.DOTALL))
    return found[1].decode() if found else ""


class Finder:
    """Finds files and folders whose paths may have been written on another machine, or for another place.

    Args:
        bases: the folders that a path may be relative to.
        folder: the folder of the data set, in which the last parts of a path are looked for first.

    Example:
        >>> Finder([Path(".")], Path("."))("../nowhere/images") is None
        True
    """

    def __init__(self, bases: list[Path], folder: Path) -> None:
        self.bases, self.folder = bases, folder
        # how many leading parts were left out for the path before, which is likely right for this one, too
        self._skip: int | None = None

    def __call__(self, text: str) -> Path | None:
        text = text.strip().replace("\\", "/")
        parts = [part for part in text.split("/") if part not in ("", ".", "..")]
        if "\0" in text or not parts:
            return None
        plain = not text.startswith(("/", "../"))
        for base in self.bases if plain else ():
            if _exists(base / text):
                return base / text
        # Roboflow writes ../train/images for train/images, and others the paths of their machine
        skips = range(len(parts)) if self._skip is None else (self._skip, *range(len(parts)))
        for skip in skips:
            if parts[skip:] and _exists(path := self.folder.joinpath(*parts[skip:])):
                self._skip = skip
                return path
        outside = [Path(text)] if text.startswith("/") else [base / text for base in self.bases]
        return next((path for path in outside if _exists(path)), None)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # a name that is too long, for example
        return False


# finds a file or folder by its written path
Find = Callable[[str], Path | None]


def finder_of(roots: list[Path], path: Any) -> Find:
    """Finds what a data.yaml names: beside it, if it lies in a folder of its own, or else in the data set's folder."""
    finders = [Finder(_bases(root, path), root) for root in roots]

    def find_in(text: str) -> Path | None:
        place = next((place for finder in finders if (place := finder(text)) is not None), None)
        plain = place and Path(os.path.normpath(place))
        return plain if plain and ".." in place.parts and plain.exists() and plain.samefile(place) else place

    return find_in


def _bases(folder: Path, path: Any) -> list[Path]:
    """What the paths of a data.yaml are relative to: its `path`, but first the folder itself, if that lies outside, and
    what has the last name of `path` in the folder.
    """
    given = [folder / path] if isinstance(path, str) and path.strip() and "\0" not in path else []
    inside = [place for place in given if place.resolve().is_relative_to(folder.resolve())]
    moved = [folder / place.name for place in given if place not in inside and (folder / place.name).is_dir()]
    return [*inside, folder, *moved, *(place for place in given if place not in inside)]
