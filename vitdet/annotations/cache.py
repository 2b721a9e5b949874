"""A cache file of arrays that are memory-mapped: built once, shared by all processes, rebuilt when the source changes.

Layout of the file: 8 bytes magic number, 8 bytes length of the header, a JSON header (key, meta, type, shape and offset
of each array), then the arrays, each aligned to 64 bytes.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vitdet import atomic
from vitdet.errors import UserError

log = logging.getLogger("vitdet")

MAGIC = b"vitdet01"
ALIGN = 64

Content = tuple[dict[str, np.ndarray], dict[str, Any]]


def load_or_build(source: Path, *, version: int, build: Callable[[], Content]) -> Content:
    """The arrays and plain values made from `source`, from its cache if that is up to date, else from `build()`.

    The cache lies beside the source, or under `$XDG_CACHE_HOME/vitdet` if the folder of the source can't be written; if
    neither can be, the arrays stay in memory. The file is written under a temporary name and then renamed, so that no
    process sees a part of it, even if two processes build it at the same time.

    Args:
        source: the file from which the arrays are made.
        version: the version of the arrays; a cache of another version is built again.
        build: makes the arrays and plain values.
    """
    key = fingerprint(source, version)
    found = load(source, key)
    if found is not None:
        return found
    places = _places(source)
    arrays, meta = build()
    for place in places:
        # a read-only folder is left unchanged, even if this user could write to it
        if place.parent == source.parent and not source.parent.stat().st_mode & 0o222:
            continue
        try:
            _save(place, key, arrays, meta)
            # the memory-mapped file replaces the copy of this process
            return _load(place, key)
        except OSError as error:
            log.debug("can't cache %s at %s: %s", source, place, error)
    log.warning(
        "no place to cache %s (tried %s): it will be parsed again at every start", source, ", ".join(map(str, places))
    )
    return arrays, meta


def load(source: Path, key: str) -> Content | None:
    """The arrays and plain values in the cache of `source`, if there is one that has this `fingerprint`.

    The fingerprint of the cache is among the plain values, as `key`, so that another process can open the same cache
    without reading the source.
    """
    for place in _places(source):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return _load(place, key)
    return None


def fingerprint(source: Path, version: int) -> str:
    """A digest of the version and of the whole content of a file, at about 1 GB/s."""
    digest = hashlib.blake2b(f"{version} {source.stat().st_size}".encode(), digest_size=16)
    block = bytearray(1 << 20)
    with open(source, "rb", buffering=0) as file:
        while length := file.readinto(block):
            digest.update(memoryview(block)[:length])
    return digest.hexdigest()


def _places(source: Path) -> list[Path]:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    unique = hashlib.blake2b(str(source).encode(), digest_size=8).hexdigest()
    return [source.with_name(source.name + ".vitdet-cache"), home / "vitdet" / f"{source.name}.{unique}.vitdet-cache"]


def _save(place: Path, key: str, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    table, offset = {}, 0
    for name, array in arrays.items():
        table[name] = (array.dtype.str, array.shape, offset)
        offset += -(-array.nbytes // ALIGN) * ALIGN
    header = json.dumps({"key": key, "meta": meta, "arrays": table, "bytes": offset}).encode()
    header += b" " * (-(len(header) + 16) % ALIGN)
    place.parent.mkdir(parents=True, exist_ok=True)

    def write(file: BinaryIO) -> None:
        file.write(MAGIC + len(header).to_bytes(8, "little") + header)
        for array in arrays.values():
            file.write(array.data if array.size else b"")
            file.write(b"\0" * (-array.nbytes % ALIGN))

    atomic.replace(place, write)


def _load(place: Path, key: str) -> Content:
    with open(place, "rb") as file:
        start = file.read(16)
        length = int.from_bytes(start[8:], "little")
        if start[:8] != MAGIC or length > place.stat().st_size:
            raise UserError(f"{place} is not a vitdet cache")
        header = json.loads(file.read(length))
    base = 16 + length
    if header["key"] != key or place.stat().st_size != base + header["bytes"]:
        raise UserError(f"{place} is out of date")
    data = np.memmap(place, dtype=np.uint8, mode="r")
    arrays = {}
    for name, (dtype, shape, offset) in header["arrays"].items():
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        arrays[name] = data[base + offset : base + offset + size].view(dtype).reshape(shape)
    return arrays, {**header["meta"], "key": key}


class Strings(Sequence[str]):
    """Many strings in a single byte array, so that they can be memory-mapped.

    Args:
        text: the strings in UTF-8 without separators, as an array of bytes.
        ends: the position at which each string ends.

    Example:
        >>> list(Strings(*Strings.pack(["a.jpg", "b.jpg"])))
        ['a.jpg', 'b.jpg']
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray) -> None:
        self._text, self._ends = text, ends

    @staticmethod
    def pack(strings: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The arrays `text` and `ends` of some strings."""
        parts = [s.encode(errors="surrogatepass") for s in strings]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return np.frombuffer(b"".join(parts), dtype=np.uint8), ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        # negative and out-of-range positions behave as in a list
        i = range(len(self))[i]
        return bytes(self._text[int(self._ends[i - 1]) if i else 0 : int(self._ends[i])]).decode(errors="surrogatepass")
