"""The run folder, `root/name/version_N`: how it is chosen and recognised, and that no two trainings share it."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from vitdet import checksum, kept
from vitdet.checksum import DamagedError
from vitdet.errors import UserError

try:
    import fcntl
# Windows has other locks
except ImportError:
    fcntl = None

# a folder that holds any of these files is a run folder
SIGNS = ("config.yaml", "metrics.csv", "best.ckpt", "last.ckpt")


def runs(root: str | Path, name: str) -> list[Path]:
    """Returns the run folders of `name`, oldest first."""
    folders = [f for f in (Path(root) / name).glob("version_*") if f.name.removeprefix("version_").isdigit()]
    return sorted(folders, key=lambda f: int(f.name.removeprefix("version_")))


def reserve(root: str | Path, name: str) -> Path:
    """Creates `root/name/version_N` with the next free N. Concurrent processes get different folders."""
    taken = runs(root, name)
    number = int(taken[-1].name.removeprefix("version_")) + 1 if taken else 0
    (Path(root) / name).mkdir(parents=True, exist_ok=True)
    while True:
        folder = Path(root) / name / f"version_{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            # another process has just taken this number
            number += 1
        else:
            return folder


def is_run(folder: Path) -> bool:
    """Whether a folder is a run folder, judged by its files, not by its name or place."""
    return any((folder / sign).is_file() for sign in SIGNS)


def check_free(folder: Path, *, start: Path | None) -> None:
    """Checks that a training which starts from checkpoint `start`, or from none, may write to the folder.

    Raises:
        UserError: the folder holds checkpoints of another training, and `start` is not among them.
    """
    held = sorted(path.name for path in folder.glob("*.ckpt"))
    held = [name for name in held if kept.EARLIER.fullmatch(name) is None] or held
    if held and (start is None or start.resolve().parent != folder.resolve()):
        checkpoint = folder / ("last.ckpt" if "last.ckpt" in held else held[0])
        raise UserError(
            f"{folder} holds {' and '.join(held[:3])} of an earlier training, which this one would replace; "
            f"go on with that (ckpt_path {checkpoint}), or leave trainer.version out for a folder of its own"
        )


@contextlib.contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Keeps other trainings out of the folder, until this one or its process ends, however that ends.

    Raises:
        UserError: another training is writing to the folder.
    """
    path = folder / ".lock"
    file = _locked(path)
    try:
        yield
    finally:
        if file is not None:
            # while it is locked, so that a process which waits for it finds that it has gone
            path.unlink(missing_ok=True)
            file.close()


def _locked(path: Path) -> TextIO | None:
    """Creates and locks a file, which says whose it is; nothing is locked where the file system knows no locks."""
    while fcntl is not None:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read().strip() or "of another host"
            file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                break
            raise UserError(
                f"{path.parent} belongs to a training that is still running (process {owner}); wait for its end, or "
                "stop it first; without --ckpt_path and trainer.version, a training has a folder of its own"
            ) from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                print(os.getpid(), "on", socket.gethostname(), file=file, flush=True)
                return file
        # another training has ended, and removed the file, before it was locked here
        file.close()
    return None


def find(word: str, folders: list[Path], place: Path) -> Path:
    """Returns the checkpoint that `last` or `best` refers to: the file of that name in the newest of `folders`.

    In place of a damaged `last.ckpt`, it is the newest good file of an earlier save of that run, and a line says so.

    Raises:
        UserError: no folder holds such a file, or it is damaged and no earlier one is good.
    """
    found = [folder for folder in folders if (folder / f"{word}.ckpt").is_file()]
    found += [folder for folder in folders[-1:] if word == "last" and kept.earlier(folder)]
    if not found:
        raise UserError(f"there is no {word}.ckpt under {place}; train without --ckpt_path first, or name the file")
    file = found[-1] / f"{word}.ckpt"
    return _good(file) if word == "last" else file


def _good(file: Path) -> Path:
    """The file, or the newest good one of an earlier save."""
    try:
        checksum.verify(file)
        return file
    except FileNotFoundError:
        reason = f"{file} is missing"
    except DamagedError as error:
        reason = str(error)
    other = next(filter(kept.is_good, kept.earlier(file.parent)), None)
    if other is None:
        best = kept.instead(file)
        fix = "no other file of that run is good" if best is None else f"to go on from the best: --ckpt_path {best}"
        raise UserError(f"{reason}; {fix}")
    rank_zero_info(f"{reason}; {other}, of an earlier save, is good and taken instead")
    return other


class ShareFolder(L.Callback):
    """Broadcasts the run folder that rank 0 has taken to the other ranks."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            trainer.enter(trainer.strategy.broadcast(trainer.entered))
