"""The bytes of a file, which are read when they are needed."""

import os
import threading
from pathlib import Path


class FileText:
    """The bytes of a file, of which parts are read when they are needed.

    The file is not mapped to memory, because in time each worker would have all of it mapped.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        # it is closed when this object goes
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def __getitem__(self, part: slice) -> bytes:
        start, end, _ = part.indices(len(self))
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), end - start, start)
        # Windows has no `pread`
        with self._lock:
            self._file.seek(start)
            return self._file.read(end - start)
