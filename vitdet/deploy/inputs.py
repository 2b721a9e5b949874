"""Finds the images to predict on: files, folders, patterns and addresses; and the names of what is written of them."""

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from PIL import Image

from vitdet.deploy.formats import PICTURES, file_name
from vitdet.errors import UserError
from vitdet.fetch import STDIN, is_url

log = logging.getLogger("vitdet")

# formats that PIL recognises, but can't decode without other programs
NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
WANTED = "give image files, folders of images, globs or URLs"


@cache
def suffixes() -> frozenset[str]:
    """Returns the suffixes of the files that are searched for in folders.

    These are the suffixes of all formats that PIL can decode, including those of registered plug-ins.
    """
    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in known if kind in Image.OPEN and kind not in NO_PICTURES)


def expand(images: Any) -> tuple[Sequence[Any], bool]:
    """The images that are meant by an image, a folder, a pattern, or a list of these; and whether it is a single one.

    Files in folders that are no images are said in a line.

    Raises:
        FileNotFoundError: a folder or a pattern has no image.
    """
    if not isinstance(images, (list, tuple)):
        if not _is_several(images):
            return [images], True
        images = [images]
    several: list[Any] = []
    for image in images:
        if not _is_several(image):
            several.append(image)
            continue
        found, ignored = find_images(image)
        several += found
        if ignored:
            log.warning(f"left out of {image}: {describe(ignored)}")
    return several, False


def _is_several(image: Any) -> bool:
    if not isinstance(image, (str, Path)) or not str(image) or is_url(image):
        return False
    return os.path.isdir(image) or (glob.has_magic(str(image)) and not os.path.lexists(image))


def find_images(
    patterns: Sequence[str | Path] | str | Path, *, leave_out: Path | None = None
) -> tuple[list[str | Path], Counter[str]]:
    """Finds the image files that paths, folders and globs refer to.

    Args:
        patterns: image files, folders (searched recursively) or globs; URLs and `-`, which are left as they are.
        leave_out: a folder that is not searched, unless an element of `patterns` is about what is in it.

    Returns:
        The files in order, without repetitions, and the number of other files in the folders by suffix.

    Raises:
        FileNotFoundError: a pattern matches no image file.
        OSError: a folder can't be read.
        UserError: there is no pattern, or a pattern is empty.
    """
    paths: dict[str, str | Path] = {}
    # other files, with their kind
    others: dict[str, str] = {}
    entry = _Entries()
    for pattern in [patterns] if isinstance(patterns, (str, Path)) else patterns:
        # An empty name, such as from an unset variable of the shell, would mean the current folder.
        if not str(pattern):
            raise UserError(f"one of the images is an empty name; {WANTED}")
        if is_url(pattern) or str(pattern) == STDIN:
            paths.setdefault(str(pattern), str(pattern))
            continue
        pattern = Path(pattern)
        if pattern.is_dir():
            matches = sorted(_below(pattern, leave_out, others))
        elif pattern.exists() or pattern.is_symlink():
            matches = [pattern]
        else:
            matches = sorted(path for path in _matches(pattern) if path.is_file())
            if leave_out is not None and not entry.below(_fixed(pattern), leave_out):
                matches = [path for path in matches if not entry.below(path.parent, leave_out)]
        if not matches:
            there = f", only {describe(Counter(others.values()))}" if others else ""
            raise FileNotFoundError(f"no image at {pattern}{there}; {WANTED}")
        for path in matches:
            paths.setdefault(entry.of(path), path)
    if not paths:
        raise UserError(f"got no images; {WANTED}")
    return list(paths.values()), Counter(others.values())


class _Entries:
    """Tells files apart by their entry in a folder: the same folder may be reached in several ways, as by links."""

    def __init__(self) -> None:
        self.folder = cache(os.path.realpath)

    def of(self, path: Path) -> str:
        return os.path.join(self.folder(path.parent), path.name)

    def below(self, folder: Path, top: Path) -> bool:
        """Whether a folder is `top`, or somewhere in it."""
        return Path(self.folder(folder)).is_relative_to(self.folder(top))


def _fixed(pattern: Path) -> Path:
    """The folder that all matches of a pattern have in common."""
    parts = pattern.parts
    return Path(*parts[: next((i for i, part in enumerate(parts) if glob.has_magic(part)), -1)])


def _matches(pattern: Path) -> Iterator[Path]:
    """The paths that match a pattern. `**` does not follow links to folders, which may lead in circles."""
    parts = pattern.parts
    if "**" not in parts:
        yield from map(Path, glob.glob(str(pattern)))
        return
    # pathlib takes ** at the end for folders alone, and the shell for files, too
    parts = (*parts, "*") if parts[-1] == "**" else parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    # as elsewhere, what begins with a dot is hidden, unless the pattern says so
    hidden = any(part.startswith(".") for part in parts[first:])
    for path in Path(*parts[:first]).glob("/".join(parts[first:])):
        if hidden or not any(part.startswith(".") for part in path.parts[first:]):
            yield path


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


def places(paths: Sequence[str | Path]) -> list[str]:
    """The path of each image relative to the folder that all of them share; those of URLs begin with the host.

    Example:
        >>> places(["/photos/a/x.jpg", "/photos/b/x.jpg", "https://example.org/c/x.jpg?size=3"])
        ['a/x.jpg', 'b/x.jpg', 'example.org/c/x.jpg']
    """
    files = [os.path.abspath(path) for path in paths if _is_file(path)]
    root = os.path.commonpath({os.path.dirname(path) for path in files}) if files else ""
    left = iter(files)
    return [
        Path(os.path.relpath(next(left), root)).as_posix() if _is_file(path) else _name(str(path)) for path in paths
    ]


def _is_file(path: str | Path) -> bool:
    return not is_url(path) and str(path) != STDIN


def _name(image: str) -> str:
    """The path of an image that is no file."""
    if image == STDIN:
        return "stdin"
    url = urlsplit(image)
    parts = [part for part in re.split(r"[/\\]", unquote(url.path)) if part]
    return "/".join(file_name(part) for part in [url.netloc.rpartition("@")[2], *parts])


def pictures(places: Sequence[str]) -> list[str]:
    """The paths of the drawings, which keep the folders of the images, so that equal names in several don't collide.

    Example:
        >>> pictures(["a.jpg", "b.gif", "b.gif.png"])
        ['a.jpg', 'b.gif.png', 'b.gif.png.png']
    """
    taken: dict[str, None] = {}
    for place in places:
        picture = place if os.path.splitext(place)[1].lower() in PICTURES else f"{place}.png"
        # the drawings of a.gif and a.gif.png would both be a.gif.png
        while picture in taken:
            picture += ".png"
        taken[picture] = None
    return list(taken)


def stems(pictures: Sequence[str]) -> list[str]:
    """The paths without a suffix, or with it where two would be the same.

    Example:
        >>> stems(["a.jpg", "a.png", "b.png"])
        ['a', 'a.png', 'b']
    """
    taken: dict[str, None] = {}
    for picture in pictures:
        stem = os.path.splitext(picture)[0]
        stem = picture if stem in taken else stem
        while stem in taken:
            stem += "_"
        taken[stem] = None
    return list(taken)


def check_apart(paths: Sequence[str | Path], pictures: Sequence[str], output: Path) -> None:
    """Checks that no drawing would overwrite an image.

    Raises:
        FileExistsError: one would.
    """
    # unlike `Path.resolve`, also of links that lead to each other
    inputs = {os.path.realpath(path) for path in paths if _is_file(path)}
    for picture in pictures:
        if os.path.realpath(output / picture) in inputs:
            raise FileExistsError(
                f"the drawing {output / picture} would overwrite an image; give another output folder"
            )
