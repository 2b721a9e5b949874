"""Which files are looked at, and where their drawings go."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn

from PIL import Image

from vitdet.errors import UserError

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}  # formats that hold colour and that every viewer shows
NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}  # PIL knows them, but can't decode them on its own


@cache
def suffixes() -> frozenset[str]:
    """Those of the files that are looked for in a folder: all that PIL can decode here, with the plug-ins that are registered."""
    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in known if kind in Image.OPEN and kind not in NO_PICTURES)


def find_images(
    patterns: Sequence[str | Path] | str | Path, *, leave_out: Path | None = None
) -> tuple[list[Path], Counter[str]]:
    """The files that paths, folders and globs name, each once, in order; folders are searched to the bottom, but for the folder `leave_out` below them.

    Returns:
        The files, and how many others the folders hold, by suffix.

    Raises:
        FileNotFoundError: one of them names nothing.
        OSError: a folder can't be read.
    """
    paths: dict[str, Path] = {}
    others: dict[str, str] = {}  # and what kind they are of
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
    """Raises:
    UserError: it is the name of nothing here.
    """
    if not str(pattern):  # would be the folder one is in: a shell's variable that is not set
        raise UserError("one of the images is an empty name; give image files, folders of images, or globs")
    if "://" in str(pattern):
        raise UserError(f"{pattern} is an address on the network; download it, and give the file")
    return Path(pattern)


def _below(folder: Path, leave_out: Path | None, others: dict[str, str]) -> Iterator[Path]:
    known = suffixes()
    for root, folders, files in os.walk(folder, onerror=_fail):
        here = Path(root)
        if leave_out is not None:
            folders[:] = [name for name in folders if (here / name).resolve() != leave_out.resolve()]
        links = [os.path.abspath(here / name) for name in folders if (here / name).is_symlink()]
        others |= dict.fromkeys(links, "links to folders")
        for path in map(here.joinpath, files):
            is_file = path.is_file() or path.is_symlink()  # a broken link is said to be one, a pipe would never end
            if is_file and path.suffix.lower() in known:
                yield path
            else:
                others[os.path.abspath(path)] = (path.suffix.lower() or "no suffix") if is_file else "no regular files"


def _fail(error: OSError) -> NoReturn:
    raise error


def describe(ignored: Counter[str]) -> str:
    """How many files, and which."""
    count = sum(ignored.values())
    kinds = [f"{number} {kind}" for kind, number in ignored.most_common(8)]
    more = f", and {len(ignored) - 8} other kinds" if len(ignored) > 8 else ""
    return f"{count} file{'s' if count > 1 else ''} that can't be read as images ({', '.join(kinds)}{more})"


def picture_paths(paths: Sequence[Path], output: Path) -> list[Path]:
    """Where the drawings go: as the files lie to each other, so that equal names in different folders do not collide.

    Raises:
        FileExistsError: a drawing would overwrite its image.
    """
    absolute = [Path(os.path.abspath(path)) for path in paths]
    root = os.path.commonpath([path.parent for path in absolute])
    pictures: dict[Path, None] = {}
    for path in absolute:
        picture = output / path.relative_to(root)
        if picture.suffix.lower() not in PICTURES:
            picture = picture.with_name(picture.name + ".png")
        while picture in pictures:  # a.gif beside a.gif.png
            picture = picture.with_name(picture.name + ".png")
        pictures[picture] = None
    inputs = {path.resolve() for path in absolute}
    for picture in pictures:
        if picture.resolve() in inputs:
            raise FileExistsError(f"the drawing {picture} would overwrite an image; give another output folder")
    return list(pictures)
