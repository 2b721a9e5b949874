"""Checksums inside PyTorch's files: `write` adds one, and `verify` finds any change of a file.

PyTorch's files are zip archives. The comment at the end of the archive, which torch and zip tools ignore, holds the
SHA-256 of all bytes before it. Files of others, and of earlier versions, have no comment; of these, the CRC-32 is
compared that an archive holds of each of its members.
"""

import contextlib
import hashlib
import os
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from vitdet import atomic
from vitdet.errors import UserError

# the comment: these words, then the digest in hexadecimal digits
MARK, DIGITS = b"vitdet sha256 ", 64
# the last record of a zip archive, without its comment: how it begins, and how many bytes it has
END, END_BYTES = b"PK\x05\x06", 22
START = b"PK\x03\x04"
CHUNK = 1 << 20
# the seconds after which a change of a file is seen by its time
SETTLED = 2.0
# the files that this process has written or looked at, by what changes when they do: whether they have a checksum, or
# what is wrong with them
_known: dict[tuple[int, ...], "bool | DamagedError"] = {}


class DamagedError(UserError, RuntimeError):
    """A file whose bytes are not those that were written; the message names it."""


def write(path: str | Path, save: Callable[[Any], Any], *, before: Callable[[], Any] | None = None) -> None:
    """Replaces a file of PyTorch's as a whole, with a checksum in it.

    Args:
        path: the file.
        save: writes an archive into the binary file that it gets, as `torch.save(contents, file)` does.
        before: called when the new file is complete and on the disk, before it takes its place.

    Raises:
        OSError: the file can't be written; what was there before is unchanged.
    """

    def fill(file: BinaryIO) -> None:
        summed = _Summed(file)
        save(summed)
        summed.finish()

    atomic.replace(path, fill, before=before)
    with contextlib.suppress(OSError):
        _known[_state(path)] = True


def verify(path: str | Path) -> bool:
    """Compares a file with its checksum. A file that this process has written or verified before is not read again.

    Args:
        path: a file of PyTorch's.

    Returns:
        Whether it has a checksum of vitdet's. Without it, a change in what torch does not read may go unnoticed, and,
        in files that are no archive, any change.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: the file is cut off, or was changed after it was written.

    Example:
        >>> import tempfile, torch
        >>> place = Path(tempfile.mkdtemp(), "a.pt")
        >>> write(place, lambda file: torch.save({"a": torch.ones(3)}, file))
        >>> verify(place), torch.load(place, mmap=True)["a"].tolist()
        (True, [1.0, 1.0, 1.0])
    """
    state = _state(path)
    if state in _known:
        found = _known[state]
    else:
        try:
            found = _verify(path)
        except DamagedError as error:
            found = error
        # a file that was changed just now may change again without another time
        if time.time() - state[-1] / 1e9 > SETTLED:
            _known[state] = found
    if isinstance(found, DamagedError):
        raise DamagedError(*found.args)
    return found


def whole(path: str | Path, read: Callable[[], Any]) -> Any:
    """What `read` makes of a file that it opens more than once; again, if the file is replaced meanwhile.

    Raises:
        FileNotFoundError: there is no such file.
    """
    while True:
        state = _state(path)
        try:
            found = read()
        except Exception:
            if _state(path) == state:
                raise
            continue
        if _state(path) == state:
            return found


def _state(path: str | Path) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _verify(path: str | Path) -> bool:
    wanted = named_digest(path)
    if wanted is not None and not (found := file_digest(path)).startswith(wanted):
        reason = f"its SHA-256 begins with {found[:12]}, and its name says {wanted[:12]}"
        raise DamagedError(f"{path} is damaged: {reason}; remove it, so that it is fetched again")
    with open(path, "rb") as file:
        start = file.read(len(START))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - END_BYTES - len(MARK) - DIGITS))
        end = file.read()
        if end[-DIGITS - len(MARK) : -DIGITS] == MARK:
            file.seek(0)
            found, wanted = _digest(file, size - DIGITS), end[-DIGITS:].decode("latin-1")
            if found != wanted:
                raise DamagedError(f"{path} is damaged: its SHA-256 is {found[:12]}…, and was {wanted[:12]}…")
            return True
    if size < len(START):
        raise DamagedError(f"{path} is damaged: it has {size} bytes")
    if start == START or END in end:
        # the record that ends an archive without a comment
        last = end[-END_BYTES:]
        if start != START or last[: len(END)] != END or last[-2:] != b"\0\0":
            raise DamagedError(f"{path} is damaged: it is cut off, or was changed at its {_part(start)}")
        _check_members(path)
    return False


def _part(start: bytes) -> str:
    return "end" if start == START else "beginning"


def _check_members(path: str | Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    # whatever a damaged archive leads to
    except (zipfile.BadZipFile, NotImplementedError, ValueError, RuntimeError, EOFError, OSError) as error:
        raise DamagedError(f"{path} is damaged: {error}") from error
    if wrong is not None:
        raise DamagedError(f"{path} is damaged: the CRC-32 of {wrong} in it is another")


def _digest(file: Any, count: int) -> str:
    """The digest of the next bytes of a file."""
    digest, block = hashlib.sha256(), memoryview(bytearray(CHUNK))
    while count > 0 and (length := file.readinto(block[: min(CHUNK, count)])):
        digest.update(block[:length])
        count -= length
    return digest.hexdigest()


def file_digest(path: str | Path) -> str:
    """The SHA-256 of a whole file, in hexadecimal digits."""
    with open(path, "rb", buffering=0) as file:
        return _digest(file, os.fstat(file.fileno()).st_size)


def named_digest(path: str | Path) -> str | None:
    """The SHA-256, or its beginning, that the caches of other libraries say in the name of a file.

    huggingface_hub names files by their digest, and `torch.hub` writes the first digits into the name.

    Example:
        >>> named_digest("torch/hub/checkpoints/vit_b-01ec64d3.pth"), named_digest("run/vit_b-01ec64d3.pth")
        ('01ec64d3', None)
    """
    place = Path(os.path.realpath(path))
    if place.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", place.name):
        return place.name
    found = re.fullmatch(r".*-([0-9a-f]{8,64})\.\w+", Path(path).name)
    return found[1] if found and Path(path).parent.parts[-2:] == ("hub", "checkpoints") else None


class _Summed:
    """The file that torch writes to: passes the bytes on, and takes their digest.

    An error is kept until `finish`, since it would have to pass through code in C++. The last record of the archive is
    held back, as it says how long the comment is.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest, self._end = file, hashlib.sha256(), b""
        self._error: BaseException | None = None

    def write(self, data: Any) -> int:
        length = len(data)
        if self._error is None:
            try:
                if length >= END_BYTES:
                    self._pass(self._end)
                    self._pass(memoryview(data)[: length - END_BYTES])
                    self._end = bytes(data[length - END_BYTES :])
                else:
                    both = self._end + bytes(data)
                    self._pass(both[: max(0, len(both) - END_BYTES)])
                    self._end = both[-END_BYTES:]
            except BaseException as error:
                self._error = error
        return length

    def flush(self) -> None:
        """Nothing: what is written is on the disk before the file takes its place."""

    def _pass(self, data: Any) -> None:
        self._digest.update(data)
        self._file.write(data)

    def finish(self) -> None:
        """Writes the end with the comment.

        Raises:
            OSError: writing has failed.
        """
        if self._error is not None:
            raise self._error
        if self._end[:4] != END or self._end[-2:] != b"\0\0":
            raise ValueError("what was saved is no zip archive without a comment")
        self._pass(self._end[:-2] + (len(MARK) + DIGITS).to_bytes(2, "little") + MARK)
        self._file.write(self._digest.hexdigest().encode())
