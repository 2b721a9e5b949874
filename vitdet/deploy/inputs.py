"""Finds the image files to predict on, and the paths of their drawings."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn

from PIL import Image

from vitdet.errors import UserError

# formats for drawings: they hold colour, and every viewer shows them
PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
# formats that PIL recognises, but can't decode without other programs
NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}


@cache
def suffixes() -> frozenset[str]:
    """Returns the suffixes of the files that are searched for in folders.

    These are the suffixes of all formats that PIL can decode, including those of registered plug-ins.
    """
    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in known if kind in Image.OPEN and kind not in NO_PICTURES)


def find_images(
    patterns: Sequence[str | Path] | str | Path, *, leave_out: Path | None = None
) -> tuple[list[Path], Counter[str]]:
    """Finds the image files that paths, folders and globs refer to.

    Args:
        patterns: image files, folders (searched recursively) or globs.
        leave_out: a folder that is not searched.

    Returns:
        The files in order, without repetitions, and the number of other files in the folders by suffix.

    Raises:
        FileNotFoundError: a pattern matches no image file.
        OSError: a folder can't be read.
        UserError: there is no pattern, or a pattern is empty or a URL.
    """
    paths: dict[str, Path] = {}
    # other files, with their kind
    others: dict[str, str] = {}
    given = [patterns] if isinstance(patterns, (str, Path)) else patterns
    for pattern in map(_as_path, given):
        if pattern.is_dir():
            matches = sorted(_below(pattern, leave_out, others))
        elif pattern.exists() or pattern.is_symlink():
            matches = [pattern]
        else:
            matches = [Path(path) for path in sorted(glob.glob(str(pattern), recursive=True)) if Path(path).is_file()]
        if not matches:
            there = f", only {describe(Counter(others.values()))}" if others else ""
            raise FileNotFoundError(f"no image at {pattern}{there}; give image files, folders of images, or globs")
        for path in matches:
            paths.setdefault(os.path.abspath(path), path)
    if not paths:
        raise UserError("got no images; give image files, folders of images, or globs")
    return list(paths.values()), Counter(others.values())


def _as_path(pattern: str | Path) -> Path:
    """Converts a pattern to a path.

    Raises:
        UserError: the pattern is empty or a URL.
    """
    # An empty name, such as from an unset variable of the shell, would mean the current folder.
    if not str(pattern):
        raise UserError("one of the images is an empty name; give image files, folders of images, or globs")
    if "://" in str(pattern):
        raise UserError(f"{pattern} is an address on the network; download it, and give the file")
    return Path(pattern)


def _below(folder: Path, leave_out: Path | None, others: dict[str, str]) -> Iterator[Path]:
    known = suffixes()
    for root, folders, files in os.walk(folder, onerror=_fail):
        here = Path(root)
        if leave_out is not None:
            folders[:] = [name for name in folders if os.path.realpath(here / name) != os.path.realpath(leave_out)]
        links = [os.path.abspath(here / name) for name in folders if (here / name).is_symlink()]
        others |= dict.fromkeys(links, "links to folders")
        for path in map(here.joinpath, files):
            # a broken link is reported later, when it is read; reading a pipe would never end
            is_file = path.is_file() or path.is_symlink()
            if is_file and path.suffix.lower() in known:
                yield path
            else:
                others[os.path.abspath(path)] = (path.suffix.lower() or "no suffix") if is_file else "no regular files"


def _fail(error: OSError) -> NoReturn:
    raise error


def describe(ignored: Counter[str]) -> str:
    """Describes how many files were ignored, and of which kinds."""
    count = sum(ignored.values())
    kinds = [f"{number} {kind}" for kind, number in ignored.most_common(8)]
    more = f", and {len(ignored) - 8} other kinds" if len(ignored) > 8 else ""
    return f"{count} file{'s' if count > 1 else ''} that can't be read as images ({', '.join(kinds)}{more})"


def picture_paths(paths: Sequence[Path], output: Path) -> list[Path]:
    """Returns the paths of the drawings, which keep the folder structure of the images below `output`.

    Equal names in different folders therefore do not collide.

    Raises:
        FileExistsError: a drawing would overwrite an image.
    """
    absolute = [Path(os.path.abspath(path)) for path in paths]
    root = os.path.commonpath([path.parent for path in absolute])
    pictures: dict[Path, None] = {}
    for path in absolute:
        picture = output / path.relative_to(root)
        if picture.suffix.lower() not in PICTURES:
            picture = picture.with_name(picture.name + ".png")
        # the drawings of a.gif and a.gif.png would both be a.gif.png
        while picture in pictures:
            picture = picture.with_name(picture.name + ".png")
        pictures[picture] = None
    # unlike `Path.resolve`, also of links that lead to each other
    inputs = {os.path.realpath(path) for path in absolute}
    for picture in pictures:
        if os.path.realpath(picture) in inputs:
            raise FileExistsError(f"the drawing {picture} would overwrite an image; give another output folder")
    return list(pictures)
