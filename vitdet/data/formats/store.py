"""What vitdet makes of a folder's labels: kept in the folder, under `.vitdet/`, and made again when a file changes."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from vitdet import atomic
from vitdet.data.kept import KEPT
from vitdet.errors import UserError

log = logging.getLogger("vitdet")
# raise it where a conversion of before would be another one today
VERSION = 1
LINES = "lines.json"


def kept(folder: Path, name: str, files: Iterable[Path], about: Any, make: Callable[[Path], list[str]]) -> tuple:
    """A folder of converted labels, which is made unless it is there.

    It is `FOLDER/.vitdet/NAME-DIGEST`, or, if that can't be written, lies in the cache of the user. What changes the
    labels changes the digest, so a run of before still finds the labels that it was trained with.

    Args:
        folder: the folder of the data.
        name: the name of the layout.
        files: all files that the conversion depends on: their names, sizes and times are part of the digest.
        about: whatever else it depends on, as plain values.
        make: writes the conversion into an empty folder, and returns lines about it.

    Returns:
        The path of the folder, and the lines.

    Raises:
        UserError: neither place can be written.
    """
    unique = f"{name.lower().replace(' ', '-')}-{digest(folder, files, about)}"
    for place in places(folder):
        with contextlib.suppress(OSError, ValueError):
            return place / unique, json.loads((place / unique / LINES).read_text(encoding="utf-8"))
    for place in writable(folder):
        try:
            draft = Path(tempfile.mkdtemp(prefix=f"{unique}.", suffix=".tmp", dir=place))
        except OSError as error:
            log.debug("can't keep labels in %s: %s", place, error)
            continue
        return _fill(draft, place / unique, make)
    raise _no_place(folder)


def writable(folder: Path) -> Iterator[Path]:
    """Those of `places` that can be written, as far as is known before."""
    for place in places(folder):
        # a read-only folder is left unchanged, even if this user could write to it
        if place.parent == folder and not folder.stat().st_mode & 0o222:
            continue
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            yield place


def _no_place(folder: Path) -> UserError:
    first, second = places(folder)
    return UserError(
        f"what is made of the labels of {folder} can be kept neither in {first} nor in {second}; make one of them "
        "writable, or set XDG_CACHE_HOME"
    )


def replace(folder: Path, name: str, text: str) -> Path:
    """Writes a file into the first of `places` that can be written, so that no process sees a part of it."""
    for place in writable(folder):
        with contextlib.suppress(OSError):
            atomic.replace(place / name, lambda file: file.write(text.encode()))
            return place / name
    raise _no_place(folder)


def _fill(draft: Path, place: Path, make: Callable[[Path], list[str]]) -> tuple[Path, list[str]]:
    """Makes a conversion under a temporary name and renames it, so that no process sees a part of it."""
    try:
        lines = make(draft)
        (draft / LINES).write_text(json.dumps(lines), encoding="utf-8")
        # `mkdtemp` makes a private folder, but other users of the data may read it
        os.chmod(draft, 0o755)
        # another process may have been faster; what it made is the same
        with contextlib.suppress(OSError):
            os.rename(draft, place)
        if not (place / LINES).is_file():
            raise UserError(f"{place} is in the way; remove it")
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return place, lines


def places(folder: Path) -> list[Path]:
    """Where what is made of a folder is kept: in the folder, or, if that can't be written, in the user's cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    unique = hashlib.blake2b(str(folder.resolve()).encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return [folder / KEPT, home / "vitdet" / f"{folder.resolve().name}.{unique}"]


def digest(folder: Path, files: Iterable[Path], about: Any) -> str:
    """A digest of the names, sizes and times of files, and of plain values."""
    state = hashlib.blake2b(f"{VERSION} {json.dumps(about, sort_keys=True)}".encode(), digest_size=6)
    for path in sorted({*files}):
        stat = os.stat(path)
        # relative to the folder, which may be moved as a whole
        name = os.path.relpath(path, folder)
        state.update(f"\0{name} {stat.st_size} {stat.st_mtime_ns}".encode(errors="surrogatepass"))
    return state.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Writes plain values as JSON.

    Numbers that JSON does not have (NaN) are written as Python reads them, so that who reads the file finds them.
    """
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=True)
