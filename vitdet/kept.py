"""The files that are kept of earlier saves of a checkpoint, in case the last one is damaged: `last-1.ckpt`, …"""

import logging
import os
import re
from itertools import pairwise
from pathlib import Path

from vitdet import atomic, checksum
from vitdet.checksum import DamagedError

log = logging.getLogger("vitdet")

# the checkpoint whose earlier saves are kept, and their names; 1 is the save before it
LAST, EARLIER = "last.ckpt", re.compile(r"last-([1-9]\d*)\.ckpt")


def earlier(folder: str | Path) -> list[Path]:
    """The files of earlier saves of `last.ckpt` in a folder, the newest first.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("last-2.ckpt", "last.ckpt", "last-1.ckpt"):
        ...     _ = (folder / name).write_bytes(b"")
        >>> [path.name for path in earlier(folder)]
        ['last-1.ckpt', 'last-2.ckpt']
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    found = [(int(match[1]), name) for name in names if (match := EARLIER.fullmatch(name))]
    return [Path(folder, name) for _, name in sorted(found)]


def keep(path: Path, count: int) -> None:
    """Keeps a `last.ckpt` that is about to be replaced as `last-1.ckpt`, and removes the files that are too many.

    A damaged file does not take the place of a good one.

    Args:
        path: the file.
        count: the number of files to have, together with the one that replaces it.

    Raises:
        OSError: a file can't be renamed or removed.
    """
    names = [path.with_name(f"last-{number}.ckpt") for number in range(1, count)]
    for file in earlier(path.parent):
        if file not in names:
            file.unlink(missing_ok=True)
    if not names or not is_good(path):
        return
    for source, target in reversed(list(pairwise(names))):
        if source.is_file():
            os.replace(source, target)
    _name(path, names[0])


def _name(path: Path, other: Path) -> None:
    """Gives a file another name, and takes the first away only where a file system has no files with two names."""
    atomic.tidy(other)
    draft = other.with_name(f".{other.name}.{os.getpid()}.tmp")
    try:
        os.link(path, draft)
    except OSError:
        os.replace(path, other)
    else:
        os.replace(draft, other)


def is_good(path: Path) -> bool:
    """Whether a file is there and not damaged."""
    try:
        checksum.verify(path)
    except (DamagedError, OSError):
        return False
    return True


def verify(path: str | Path) -> None:
    """Compares a file with its checksum, see `vitdet.checksum.verify`; if it has none, a line of the log says so.

    Raises:
        DamagedError: it is damaged; the message names a file of the same run that is not, if there is one.
    """
    try:
        if not checksum.verify(path):
            log.info("%s has no checksum, as it is of an earlier vitdet: not every damage is found", path)
    except DamagedError as error:
        other = instead(path)
        fix = f"{other} of the same run is good: give that" if other else "give another file, or make it again"
        raise DamagedError(f"{error}; {fix}") from error


def instead(path: str | Path) -> Path | None:
    """The newest file that can take the place of a damaged checkpoint: one of the same run that is good, if any."""
    folder = Path(path).parent
    newest = [folder / LAST, *earlier(folder), folder / "best.ckpt"]
    return next((file for file in newest if file.name != Path(path).name and is_good(file)), None)
