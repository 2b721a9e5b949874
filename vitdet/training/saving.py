"""How a training writes its checkpoints: each as a whole, with a checksum, and with earlier ones beside the last.

A save that fails never touches the files that are there.
"""

from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.plugins import _PLUGIN_INPUT
from lightning.pytorch.plugins.io import CheckpointIO, TorchCheckpointIO
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO
from lightning.pytorch.utilities import rank_zero_info

from vitdet import checksum
from vitdet.errors import UserError, check
from vitdet.kept import EARLIER, LAST, earlier, is_good, keep
from vitdet.ranges import is_whole
from vitdet.training.callbacks.finite import check_finite
from vitdet.training.events import note

# what Lightning's trainer takes as plugins
Plugins = _PLUGIN_INPUT | list[_PLUGIN_INPUT] | None


class SaveError(UserError, RuntimeError):
    """A checkpoint could not be written; the message names it, the reason, and what is left."""


class Checkpoints(TorchCheckpointIO):
    """Writes and reads the checkpoints of a training, for each `Trainer` that is given no other `CheckpointIO`.

    A file is written beside its place, and takes it once all of it is on the disk: whatever happens to the process or
    to the disk, there is the old file or the new one. It has a checksum, which is compared before it is read.

    Args:
        keep_last, failed_save: see `Saving`.

    Raises:
        UserError: an argument is out of its range.

    Example:
        >>> import tempfile
        >>> folder, files = Path(tempfile.mkdtemp()), Checkpoints()
        >>> for step in range(4):
        ...     files.save_checkpoint({"step": step}, folder / "last.ckpt")
        >>> [(path.name, files.load_checkpoint(path)["step"]) for path in sorted(folder.iterdir())]
        [('last-1.ckpt', 2), ('last.ckpt', 3)]
    """

    def __init__(self, *, keep_last: int = 2, failed_save: Literal["retry", "stop"] = "retry") -> None:
        check("keep_last", keep_last, is_whole(keep_last), "a whole number from 1")
        check("failed_save", failed_save, failed_save in ("retry", "stop"), "retry or stop")
        self.keep_last, self.failed_save = keep_last, failed_save

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint.

        Raises:
            SaveError: it can't be written; the file that was there is unchanged.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(path)
        before = (lambda: keep(place, self.keep_last)) if place.name == LAST else None
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            checksum.write(place, lambda file: torch.save(checkpoint, file), before=before)
        except OSError as error:
            left = "the one of before is unchanged" if place.is_file() else "there is none of before"
            raise SaveError(f"{path} can't be written: {error.strerror or error}; {left}") from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Reads a checkpoint.

        Raises:
            FileNotFoundError: there is no such file.
            DamagedError: the file is not as it was written.
        """
        if "://" not in str(path) and Path(path).is_file():
            checksum.verify(path)
        return super().load_checkpoint(path, map_location or "cpu", weights_only)


def with_files(plugins: Any, files: Checkpoints) -> list[Any]:
    """The plugins of a trainer, with `files` unless the user has given another `CheckpointIO`.

    Raises:
        UserError: there is another one, and `files` has other options than the default ones.
    """
    listed = plugins if isinstance(plugins, (list, tuple)) else [] if plugins is None else [plugins]
    theirs = [one for one in listed if isinstance(one, CheckpointIO)]
    for one in theirs:
        # such as Lightning's `AsyncCheckpointIO()`, which writes through another
        if isinstance(one, _WrappingCheckpointIO) and one.checkpoint_io is None:
            one.checkpoint_io = files
        elif vars(files) != vars(Checkpoints()):
            kind = type(one).__name__
            raise UserError(
                f"keep_last is {files.keep_last} and failed_save is {files.failed_save}, but {kind} of plugins writes "
                "the checkpoints; leave out either"
            )
    return [*listed, *([] if theirs else [files])]


class Saving(L.Trainer):
    """A trainer that says so, and goes on, where a checkpoint can't be written.

    Args:
        keep_last: How many files there are to resume from: `last.ckpt` and, of the saves before it, `last-1.ckpt`, …
        failed_save: What follows when a checkpoint can't be written, as on a full disk: with `retry`, the training goes
            on, tries again at its next save, and ends with an error if the one at its end fails, too; with `stop`, it
            ends at once.
        plugins: Lightning's `plugins`; without a `CheckpointIO` among them, `Checkpoints` is added.
        kwargs: the other arguments of Lightning's `Trainer`.

    Attributes:
        unsaved: The checkpoints whose last save has failed, by the names of their files, and why; all ranks know it.
    """

    def __init__(
        self,
        *,
        keep_last: int = 2,
        failed_save: Literal["retry", "stop"] = "retry",
        plugins: Plugins = None,
        **kwargs: Any,
    ) -> None:
        self.unsaved: dict[str, str] = {}
        files = Checkpoints(keep_last=keep_last, failed_save=failed_save)
        super().__init__(plugins=with_files(plugins, files), **kwargs)

    def save_checkpoint(
        self, filepath: Any, weights_only: bool | None = None, storage_options: Any | None = None
    ) -> None:
        """Writes a checkpoint as Lightning's `save_checkpoint` does, with its arguments; every rank calls it.

        Where it can't be written, as on a full disk, a line says so, and `unsaved` has the reason.

        Raises:
            SaveError: it can't be written, and `failed_save` is `stop`.
            DivergedError: the weights, their average or the state of the optimiser are not finite; nothing is written.
        """
        if self.model is not None:
            check_finite(self)
        self._settle(Path(filepath).name, *self.try_to_save(filepath, weights_only, storage_options))

    def try_to_save(
        self, filepath: Any, weights_only: bool | None = None, storage_options: Any | None = None
    ) -> tuple[str | None, SaveError | None]:
        """Writes a checkpoint, whatever its values are, and returns why it can't be written, the same on all ranks."""
        error = None
        try:
            super().save_checkpoint(filepath, weights_only, storage_options)
        except SaveError as raised:
            # the other ranks wait for this one here
            self.strategy.barrier("Trainer.save_checkpoint")
            error = raised
        reason = None if error is None else str(error)
        if self.world_size > 1:
            reason = self.strategy.broadcast(reason)
        return reason, error

    def _settle(self, name: str, reason: str | None, error: SaveError | None) -> None:
        if reason is None:
            self.unsaved.pop(name, None)
            return
        self.unsaved[name] = reason
        note(self, "save_failed", file=name, reason=reason)
        io = self.strategy.checkpoint_io
        if getattr(getattr(io, "checkpoint_io", io), "failed_save", "stop") == "stop":
            raise SaveError(reason) from error
        rank_zero_info(f"{reason}; the training goes on, and tries again at its next save")

    def check_saved(self) -> None:
        """Raises:
        SaveError: a checkpoint is missing at the end of the training.
        """
        if self.unsaved:
            raise SaveError(f"the training is done, but {'; '.join(self.unsaved.values())}")


def tell_damaged(trainer: Any, checkpoint: Any) -> None:
    """Notes which damaged files were passed over, if a training goes on from an earlier save than `last.ckpt`."""
    if not isinstance(checkpoint, Path) or EARLIER.fullmatch(checkpoint.name) is None:
        return
    for file in (checkpoint.with_name(LAST), *earlier(checkpoint.parent)):
        if file.name == checkpoint.name:
            break
        if file.is_file() and not is_good(file):
            note(trainer, "damaged", file=file.name, taken=checkpoint.name)
