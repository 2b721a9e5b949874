"""Loggers that do not end a training where their files can't be written, as on a full disk."""

import contextlib
import os
import tempfile
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
            if self._told:
                self.resume_writing()
            call(*args, **options)
        # Lightning wraps some errors
        except (OSError, ValueError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            self._again = time.monotonic() + self.PAUSE
            self.failed()
            if not self._told:
                what = f"{type(self).__name__}: what is logged can't be written: {cause.strerror or cause}"
                rank_zero_info(f"{what}; the training goes on without it")
            self._told = True

    def failed(self) -> None:
        """Called after an error."""

    def resume_writing(self) -> None:
        """Called before another attempt after an error; raises an `OSError` where that would fail, too."""


class ForgivingWriter(Forgiving):
    """The same for TensorBoard's, whose thread ends with the error: after a minute, it begins a new file."""

    PAUSE = 60.0
    _experiment: Any
    log_dir: str

    def _try(self, call: Callable[..., Any], *args: Any, **options: Any) -> None:
        super()._try(call, *args, **options)
        # the thread of the writer would print the traceback of its error beside the line that is said of it
        with contextlib.suppress(AttributeError):
            # `_get_file_writer` would begin another file, once the writer is closed
            worker = self._experiment.file_writer.event_writer._async_writer._worker
            worker._invoke_excepthook = lambda *_: None

    def failed(self) -> None:
        self._experiment = None

    def resume_writing(self) -> None:
        with tempfile.TemporaryFile(dir=self.log_dir) as probe:
            probe.write(bytes(1 << 16))


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
