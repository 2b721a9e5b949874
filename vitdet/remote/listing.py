"""The files below a folder that lies elsewhere."""

import hashlib
from collections.abc import Mapping

import numpy as np


class Listing:
    """The sizes of files by their names, in 16 bytes for each file, which worker processes share.

    Args:
        sizes: the size in bytes of each name.

    Example:
        >>> Listing({"a.jpg": 700}).size("a.jpg"), Listing({}).size("a.jpg")
        (700, None)
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        keys = np.array([_key(name) for name in sizes], np.uint64)
        order = np.argsort(keys)
        self._keys, self._sizes = keys[order], np.array(list(sizes.values()), np.int64)[order]

    def __len__(self) -> int:
        return len(self._keys)

    def size(self, name: str) -> int | None:
        """The size of a file in bytes; nothing if there is no such file."""
        key = np.uint64(_key(name))
        at = int(np.searchsorted(self._keys, key))
        return int(self._sizes[at]) if at < len(self) and self._keys[at] == key else None


def _key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "little")
