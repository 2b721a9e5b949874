"""The folders and file names under a folder, and the splits that their names tell of."""

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from vitdet.errors import DataError, UserError
from vitdet.fetch import is_url

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jp2", ".avif", ".ppm")
# a folder of data has fewer; the root of a disk, or a home, has more
MAX_FOLDERS, MAX_DEPTH = 20_000, 6
SPLIT_NAMES = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}
_WORDS = {word: split for split, words in SPLIT_NAMES.items() for word in words}
_SPLIT = re.compile(rf"(?<![a-z])({'|'.join(sorted(_WORDS, key=len, reverse=True))})(?![a-z])")


@dataclass(frozen=True)
class Tree:
    """The files under a folder, without hidden ones; paths are relative to it, with `/` between names.

    Args:
        root: the folder.
        folders: the names of the files in each folder; the root is `""`.
    """

    root: Path
    folders: dict[str, list[str]]

    @classmethod
    def of(cls, root: Path) -> "Tree":
        """The tree of a folder, links followed.

        Raises:
            UserError: it holds too many folders to be a data set.
            OSError: a folder can't be read.
        """
        folders: dict[str, list[str]] = {}
        left: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
        while left:
            name, above = left.pop()
            stat = os.stat(root / name)
            # a link may lead back to a folder above
            if len(above) > MAX_DEPTH or (stat.st_dev, stat.st_ino) in above:
                continue
            above = (*above, (stat.st_dev, stat.st_ino))
            with os.scandir(root / name) as entries:
                entries = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
            folders[name] = [entry.name for entry in entries if entry.is_file()]
            inside = [entry.name for entry in entries if entry.is_dir() and entry.name != "__MACOSX"]
            left += [(join(name, inner), above) for inner in reversed(inside)]
            if len(folders) > MAX_FOLDERS:
                raise UserError(
                    f"{root} holds more than {MAX_FOLDERS:,} folders; give the folder of the data set itself"
                )
        return cls(root, folders)

    @cached_property
    def files(self) -> set[str]:
        """All files."""
        return {join(folder, name) for folder, names in self.folders.items() for name in names}

    @cached_property
    def images(self) -> dict[str, list[str]]:
        """The names of the images in each folder that directly holds some."""
        found = {folder: [name for name in names if is_image(name)] for folder, names in self.folders.items()}
        return {folder: names for folder, names in found.items() if names}

    def within(self, folder: str) -> list[str]:
        """The images in a folder and all folders in it, relative to it."""
        start = f"{folder}/" if folder else ""
        return [
            join(place, name)[len(start) :]
            for place, names in self.images.items()
            if place == folder or place.startswith(start)
            for name in names
        ]

    def relative(self, path: str | Path) -> str | None:
        """A path relative to the root, if it lies below it."""
        path, root = Path(path).resolve(), self.root.resolve()
        if not path.is_relative_to(root):
            return None
        return "" if path == root else path.relative_to(root).as_posix()

    def path(self, name: str) -> Path:
        return self.root / name if name else self.root


def join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name).parts


def is_image(name: str) -> bool:
    return name.lower().endswith(IMAGES)


def split_of(word: str) -> tuple[str | None, str]:
    """The split that a name tells of, or `None`, and the name with `*` in its place.

    Example:
        >>> split_of("instances_train2017"), split_of("valid"), split_of("result")
        (('train', 'instances_*2017'), ('val', '*'), (None, 'result'))
    """
    found = list(_SPLIT.finditer(word.lower()))
    # `instances_val_train.json` tells of two
    if len({_WORDS[match[1]] for match in found}) != 1:
        return None, word.lower()
    match = found[-1]
    return _WORDS[match[1]], word.lower()[: match.start()] + "*" + word.lower()[match.end() :]


def split_of_path(name: str) -> str | None:
    """The split that one of the folders of a path tells of, the innermost first."""
    return next((split for part in reversed(parts(name)) if (split := split_of(part)[0])), None)


def checked_folder(folder: str | Path) -> Path:
    """A folder that is there.

    Raises:
        UserError: it is not; the message names the nearest one, or says what the path is instead.
    """
    import difflib

    if is_url(folder):
        raise UserError(
            f"{folder} is an address, and what is in a folder is recognised on disk alone; give data.train.images and "
            "data.train.annotations, and likewise val: these may be addresses"
        )
    path = Path(folder).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"):
            raise UserError(
                f"{path} is an archive; unpack it (unzip, tar xf), and give the folder that comes out of it"
            )
        kind = "an annotation file" if path.suffix == ".json" else "a file"
        raise UserError(f"{path} is {kind}; give the folder that holds the images and labels, such as {path.parent}")
    above = path.parent
    while not above.is_dir() and above != above.parent:
        above = above.parent
    wanted = path.relative_to(above).parts[0]
    try:
        there = sorted(entry.name for entry in above.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        there = []
    same = [name for name in there if name.lower() == wanted.lower()]
    near = same or difflib.get_close_matches(wanted, there, 1, 0.5)
    # without a name beside it, at least what it lies in
    hint = f"did you mean {above / near[0]}?" if near else f"{above} holds {_few(there)}"
    raise UserError(f"there is no folder {path}; {hint}")


def _few(names: list[str]) -> str:
    if not names:
        return "no folder"
    return "the folders " + ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def check_some(tree: Tree) -> None:
    """Raises:
    DataError: there is no image under the folder.
    """
    if not tree.images:
        archives = [name for name in sorted(tree.files) if name.lower().endswith((".zip", ".tar", ".tgz", ".tar.gz"))]
        hint = f"unpack {archives[0]} first" if archives else "give the folder that holds the images and the labels"
        raise DataError(f"{tree.root} holds no image; {hint}")
