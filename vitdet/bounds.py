"""Limits to what a file of unknown origin may cost: values that multiply by aliases, and archives that swell."""

import zipfile
from pathlib import Path
from typing import Any

# the most values of what a model's file says of itself: the names of its classes, above all
MAX_VALUES = 1_000_000


def count(value: Any, known: dict[int, int] | None = None) -> int:
    """How many values there are in lists and dictionaries, one that stands at several places counted at each of them.

    Raises:
        RecursionError: a value holds itself, or is nested too deeply.

    Example:
        >>> twice = [1, 2]
        >>> count({"a": twice, "b": [twice, twice]})
        11
    """
    known = {} if known is None else known
    if not isinstance(value, (dict, list, tuple, set)):
        return 1
    if known.get(id(value)) == -1:
        raise RecursionError("a value holds itself")
    if id(value) not in known:
        # -1: it is being counted
        known[id(value)] = -1
        items = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(count(item, known) for item in items)
    return known[id(value)]


def check_archive(path: str | Path) -> None:
    """Checks that a zip archive of PyTorch holds no more than its own bytes; any other file passes.

    PyTorch compresses nothing. An archive whose entries are compressed, or share bytes, may be a few megabytes on disk,
    and hundreds of gigabytes in memory.

    Raises:
        ValueError: it holds more, or can't be read as an archive.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise ValueError(f"a damaged archive: {error}") from error
    inside, size = sum(entry.file_size for entry in entries), Path(path).stat().st_size
    if inside > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError(f"an archive of {size:,} bytes that holds {inside:,}, compressed; PyTorch compresses nothing")
