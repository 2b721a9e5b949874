"""How a training writes its checkpoints: each as a whole, with a checksum, and with files of before beside the last one.

A save that fails never touches the files that are there. By default the training goes on and tries again at its next
save, and it ends with an error if its last save has failed, too.
"""

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info

from vitdet import checksum
from vitdet.checkpoint import Checkpoint, CheckpointError
from vitdet.checksum import DamagedError
from vitdet.errors import UserError, check
from vitdet.ranges import is_whole

# the file whose former versions are kept
KEPT = "last.ckpt"
# what torch says where a file can't be written
REFUSED = (OSError, UserError)


class SaveError(UserError, RuntimeError):
    """A checkpoint could not be written; the message names it, and which good file is left."""


class Checkpoints(TorchCheckpointIO):
    """Reads and writes the checkpoints of a training; every `Trainer` has one, unless another `CheckpointIO` is given.

    A file is written beside its place, and takes it when all of it is on the disk, so that whatever happens to the
    process, one of both files is whole. Each has a checksum, which is compared before it is read. Files in folders of
    this machine are written so; others, such as `s3://…`, as Lightning does.

    Args:
        keep_last: How many files there are to resume from: `last.ckpt` and, from the save before it, `last-1.ckpt`, …
        failed: What a save that fails, as on a full disk, leads to: with `go_on`, the training goes on, and tries again
            at its next save; with `stop`, it ends.

    Raises:
        UserError: an argument is out of its range.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> io = Checkpoints()
        >>> for step in range(4):
        ...     io.save_checkpoint({"step": step}, folder / "last.ckpt")
        >>> [(path.name, io.load_checkpoint(path)["step"]) for path in sorted(folder.iterdir())]
        [('last-1.ckpt', 2), ('last.ckpt', 3)]
    """

    def __init__(self, *, keep_last: int = 2, failed: Literal["go_on", "stop"] = "go_on") -> None:
        check("keep_last", keep_last, is_whole(keep_last), "a whole number from 1")
        check("failed", failed, failed in ("go_on", "stop"), "go_on or stop")
        self.keep_last, self.failed = keep_last, failed

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint.

        Raises:
            SaveError: it can't be written; what was there before is unchanged.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(path)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            before = (lambda: keep(place, self.keep_last)) if place.name == KEPT else None
            checksum.write(place, lambda file: torch.save(checkpoint, file), before=before)
        except REFUSED as error:
            raise SaveError(_sentence(place, error)) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a checkpoint, after comparing it with its checksum.

        Raises:
            DamagedError: the file was changed after it was written.
        """
        if "://" not in str(path) and Path(path).is_file():
            checksum.verify(path)
        return super().load_checkpoint(path, map_location or (lambda storage, _: storage), weights_only)


def _sentence(path: Path, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    left = f"{path} of before is unchanged" if path.is_file() else "there is none of before"
    return f"{path} can't be written: {reason}; {left}"


def earlier(path: str | Path) -> list[Path]:
    """The files that were kept of earlier saves of a checkpoint, the newest first: `last-1.ckpt`, `last-2.ckpt`, …"""
    place = Path(path)
    if place.name != KEPT:
        return []
    found = [(int(match[1]), file) for file in _files(place.parent) if (match := re.fullmatch(NAMES, file.name))]
    return [file for _, file in sorted(found)]


NAMES = r"last-([1-9]\d*)\.ckpt"


def _files(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def keep(path: Path, count: int) -> None:
    """Gives a checkpoint that is about to be replaced another name, and removes those that are too many.

    A damaged file does not take the place of a good one.

    Args:
        path: the checkpoint.
        count: the number of files to be kept, with the one that replaces it.
    """
    old = earlier(path)
    for file in old[max(0, count - 1) :]:
        file.unlink(missing_ok=True)
    if count == 1 or not path.is_file():
        return
    try:
        checksum.verify(path)
    except (DamagedError, OSError):
        return
    names = [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, count)]
    for source, target in reversed(list(zip(names, names[1:]))):
        if source.is_file():
            os.replace(source, target)
    _double(path, names[0])


def _double(path: Path, other: Path) -> None:
    """Gives a file a second name; where a file system has no such names, its name is the other one for a moment."""
    draft = other.with_name(f".{other.name}.{os.getpid()}.tmp")
    try:
        draft.unlink(missing_ok=True)
        os.link(path, draft)
    except OSError:
        os.replace(path, other)
    else:
        os.replace(draft, other)


def good(path: Path) -> Path | None:
    """The newest of the files that were kept of earlier saves of a checkpoint that can be read, if there is one."""
    for file in earlier(path):
        with contextlib.suppress(UserError, OSError):
            Checkpoint.read(file)
            return file
    return None


def offer(path: str | Path) -> Iterator:
    ...
