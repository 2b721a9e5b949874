"""Copies on this machine of files that lie elsewhere, such as those of annotations."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from vitdet.atomic import replace
from vitdet.errors import UserError
from vitdet.remote.tries import RemoteError, ask, start

log = logging.getLogger("vitdet")
# the bytes of a large file that are asked for at a time
BLOCK = 8 * 2**20
# what tells one version of a file from another, as the file systems of fsspec call it
VERSIONS = ("ETag", "etag", "md5Hash", "Content-MD5", "generation", "mtime", "LastModified", "Last-Modified", "created")


def copy(kind: str, url: str, name: str, *, tries: int, timeout: float) -> Path:
    """A copy of a file, which is fetched if there is none of this version.

    It lies under `$XDG_CACHE_HOME/vitdet/remote`, or `~/.cache/vitdet/remote`, in a folder for each version. Of several
    processes that want it, one fetches it.

    Args:
        kind: the kind of the address.
        url: the address.
        name: what the copy is called.
        tries: how often each part is asked for.
        timeout: the seconds that each try may take.

    Raises:
        FileNotFoundError: there is no such file.
        RemoteError: it can't be read, or has changed meanwhile.
        UserError: the copy can't be written.
    """

    def run(call: Any) -> Any:
        return start(call, kind, url, tries=tries, timeout=timeout).result()

    size, version = run(_version)
    unique = hashlib.blake2b(f"{url} {version}".encode(), digest_size=12).hexdigest()
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = home / "vitdet" / "remote" / unique / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / ".lock"):
            # where nothing tells versions apart, it is fetched at every start
            if not path.is_file() or not version:
                log.info("%s is fetched to %s", url, path)
                replace(path, lambda file: _fetch(run, size, file))
                if run(_version) != (size, version):
                    path.unlink()
                    raise RemoteError(f"{url} has changed while it was fetched; start again")
    except OSError as error:
        # a file that has gone has no number, other than what the disk says
        if error.errno is None:
            raise
        raise UserError(
            f"{url} can't be kept at {path}: {error.strerror}; set XDG_CACHE_HOME to another folder"
        ) from error
    return path


async def _version(system: Any, path: str) -> tuple[int | None, str]:
    """The size of a file, and what tells its version from others; empty where nothing does."""
    info = await ask(system, "info", path)
    known = [f"{key} {info[key]}" for key in VERSIONS if info.get(key)]
    return info.get("size"), f"{info.get('size')} {' '.join(known)}" if known else ""


def _fetch(run: Any, size: int | None, file: BinaryIO) -> None:
    at, more = 0, True
    while more:
        content = run(_Part(at, size))
        file.write(content)
        at += len(content)
        more = size is not None and at < size


class _Part:
    """Reads the bytes of a file from `at` on: a block of them, or all where the server knows no parts."""

    def __init__(self, at: int, size: int | None) -> None:
        self.at, self.size = at, size

    async def __call__(self, system: Any, path: str) -> bytes:
        at, size = self.at, self.size
        if size is None or size <= BLOCK:
            content, wanted = await ask(system, "cat_file", path), size
        else:
            end = min(size, at + BLOCK)
            content, wanted = await ask(system, "cat_file", path, start=at, end=end), end - at
            if len(content) == size:
                content, wanted = content[at:], size - at
        if wanted is not None and len(content) != wanted:
            raise OSError(f"{len(content):,} bytes came, wanted {wanted:,}")
        return content
