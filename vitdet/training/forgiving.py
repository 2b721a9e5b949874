"""Loggers that do not end a training where their files can't be written, as on a full disk."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info


class Forgiving:
    """Put before a logger of Lightning's, lets it lose what it logs rather than end the training.

    A line says so once; later lines of the logger are written again when they can be.
    """

    # the seconds after an error in which nothing is tried
    PAUSE = 0.0
    _again, _told = 0.0, False

    def log_metrics(self, *args: Any, **options: Any) -> None:
        self._try(super().log_metrics, *args, **options)  # type: ignore[misc]

    def log_hyperparams(self, *args: Any, **options: Any) -> None:
        self._try(super().log_hyperparams, *args, **options)  # type: ignore[misc]

    def save(self) -> None:
        self._try(super().save)  # type: ignore[misc]

    def finalize(self, status: str) -> None:
        self._try(super().finalize, status)  # type: ignore[misc]

    def _try(self, call: Callable[..., Any], *args: Any, **options: Any) -> None:
        if time.monotonic() < self._again:
            return
        try:
            call(*args, **options)
        except OSError as error:
            self._again = time.monotonic() + self.PAUSE
            self.failed()
            if not self._told:
                what = f"{type(self).__name__}: what is logged can't be written: {error.strerror or error}"
                rank_zero_info(f"{what}; the training goes on without it")
            self._told = True

    def failed(self) -> None:
        """Called after an error."""


class ForgivingWriter(Forgiving):
    """The same for TensorBoard: its writer has a thread, which ends with the error, so that it begins a new file."""

    PAUSE = 60.0
    _experiment: Any

    def failed(self) -> None:
        self._experiment = None


def append(path: Path, data: bytes) -> None:
    """Adds lines to a file; if not all of them can be written, none are. A line that was cut short before is removed.

    Raises:
        OSError: they can't be written.
    """
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size, written = os.fstat(handle).st_size, 0
        if size and os.pread(handle, 1, size - 1) != b"\n":
            size = os.pread(handle, size, 0).rfind(b"\n") + 1
            os.ftruncate(handle, size)
        try:
            while written < len(data):
                written += os.write(handle, data[written:])
        except OSError:
            os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)
