"""Replaces files as a whole: a reader finds the old content or the new one, whenever the writer is stopped.

The new content goes to a draft beside the file, which is on the same file system, and takes its place when it is on
the disk. Where writing fails, the old file is left as it was.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
# on Windows, a file that is open can't be removed, so that no lock is needed
except ImportError:
    fcntl = None

# a folder that can't be synchronised, as on some network file systems and on Windows
UNABLE = {errno.EINVAL, errno.EACCES, errno.EPERM, errno.EBADF, errno.ENOTSUP, errno.ENOSYS, errno.EISDIR}


def replace(path: str | Path, write: Callable[[BinaryIO], Any], *, before: Callable[[], Any] | None = None) -> None:
    """Writes a file under a temporary name in its folder, and renames it when all of it is on the disk.

    Drafts of this file that processes left behind when they were killed are removed first; those of processes that are
    still writing are locked, and stay. A symbolic link is replaced, not followed. A file that is there already keeps
    its permissions.

    Args:
        path: the file.
        write: writes the content into the binary file that it gets. The name of that file is `file.name`, for libraries
            that want a path.
        before: called when the draft is complete and on the disk, before it takes the place of the file.

    Raises:
        OSError: the file can't be written; what was there before is unchanged, and no draft is left.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp(), "a.txt")
        >>> replace(place, lambda file: file.write(b"whole"))
        >>> place.read_text(), [path.name for path in place.parent.iterdir()]
        ('whole', ['a.txt'])
    """
    place = Path(path)
    tidy(place)
    file = _draft(place)
    draft = Path(file.name)
    try:
        with file:
            write(file)
            file.flush()
            # a library that was given the name may have replaced the draft, so that it is opened again
            with open(draft, "rb+") as written:
                os.fsync(written.fileno())
            with contextlib.suppress(FileNotFoundError, PermissionError):
                os.chmod(draft, place.stat().st_mode & 0o7777)
            if before is not None:
                before()
            # the lock ends when the file is closed; until then nobody takes the draft for one that was left behind
            if fcntl is not None:
                os.replace(draft, place)
        if fcntl is None:
            os.replace(draft, place)
    except BaseException:
        # where the file system has gone, the draft has, too
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    sync_folder(place.parent)


def tidy(path: str | Path) -> list[Path]:
    """Removes the drafts of a file that killed processes have left behind, and returns them."""
    place = Path(path)
    removed = []
    for draft in _drafts(place):
        with contextlib.suppress(OSError), open(draft, "rb+") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                draft.unlink()
                removed.append(draft)
        if fcntl is None:
            with contextlib.suppress(OSError):
                draft.unlink()
                removed.append(draft)
    return removed


def _drafts(place: Path) -> list[Path]:
    start, folder = f".{place.name}.", place.parent
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [folder / name for name in names if name.startswith(start) and name.endswith(".tmp")]


def _draft(place: Path) -> BinaryIO:
    """Creates and locks `.NAME.PID-RANDOM.tmp`; other hosts that share the folder may have the same process numbers."""
    while True:
        draft = place.with_name(f".{place.name}.{os.getpid()}-{secrets.token_hex(3)}.tmp")
        # closed by whoever writes to it
        file = open(draft, "xb")  # noqa: SIM115
        try:
            if fcntl is None:
                return file
            # a file system without locks: others can't lock the draft either, and leave it alone
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            # another process may have removed it before it was locked
            if draft.exists():
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def sync_folder(folder: Path) -> None:
    """Makes sure that the names of the files in a folder are on the disk.

    Raises:
        OSError: the disk fails.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in UNABLE:
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
    finally:
        os.close(handle)
