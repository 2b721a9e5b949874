"""A file or folder at an address, with what reading data needs of a path."""

import concurrent.futures
import logging
import time
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from vitdet.errors import UserError
from vitdet.fetch import is_url
from vitdet.remote.copies import copy
from vitdet.remote.listing import Listing
from vitdet.remote.tries import RefusedError, ask, process, start

log = logging.getLogger("vitdet")
# how often a file is asked for before the run stops, and the seconds of each try
TRIES, TIMEOUT = 8, 30.0
# the seconds that the list of all names may take
SECONDS = 3600.0
WEB = ("http", "https")


class Remote:
    """A file or a folder at an address.

    Args:
        url: the address, such as `s3://bucket/images`, without user, password and query, since runs save it.
        tries: how often a file is asked for.
        timeout: the seconds that each try may take.

    Attributes:
        size: how many bytes the file had when its folder was listed; nothing where that was not possible.

    Raises:
        UserError: the address has a user, a password or a query.

    Example:
        >>> folder = Remote("s3://birds/images/")
        >>> str(folder / "a.jpg"), (folder / "a.jpg").name
        ('s3://birds/images/a.jpg', 'a.jpg')
    """

    def __init__(self, url: str, *, tries: int = TRIES, timeout: float = TIMEOUT) -> None:
        parts = urlsplit(url)
        self.kind = parts.scheme.lower()
        if "@" in parts.netloc or (parts.query and self.kind in WEB):
            shown = f"{self.kind}://{parts.netloc.rpartition('@')[2]}{parts.path}"
            raise UserError(
                f"the address {shown} was given with a user, a password or a query, and every run would save these; "
                "wanted the address alone, and credentials in the environment"
            )
        self.url, self.tries, self.timeout = url.rstrip("/"), tries, timeout
        self.size: int | None = None
        self._listing: Listing | None = None
        self._asked = False

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"Remote({self.url!r})"

    @property
    def name(self) -> str:
        """The last part of the address."""
        last = self.url.rpartition("/")[2]
        return unquote(last) if self.kind in WEB else last

    def __truediv__(self, name: str) -> "Remote":
        name = PurePosixPath(name).as_posix()
        # a server would take `#` and `?` for ends of the path
        file = Remote(f"{self.url}/{quote(name) if self.kind in WEB else name}", tries=self.tries, timeout=self.timeout)
        file.size = None if self._listing is None else self._listing.size(name)
        return file

    def below(self, name: str) -> str | None:
        """The name of a file below this folder, relative to it; nothing where it leads out of the folder.

        Args:
            name: the name, relative to the folder, or a whole address.
        """
        name = name.removeprefix(f"{self.url}/")
        path = PurePosixPath(name)
        return None if path.is_absolute() or ".." in path.parts or "\0" in name or is_url(name) else path.as_posix()

    def read(self) -> bytes:
        """The content of the file.

        Raises:
            FileNotFoundError: there is no such file.
            RemoteError: it could not be read in `tries` tries, or may not be read.
        """
        return (process().ahead.pop(self.url, None) or self.start()).result()

    def start(self) -> "concurrent.futures.Future[bytes]":
        """Begins to read the file."""
        return start(self._whole, self.kind, self.url, tries=self.tries, timeout=self.timeout)

    async def _whole(self, system: Any, path: str) -> bytes:
        content = await ask(system, "cat_file", path)
        if self.size is not None and len(content) != self.size:
            raise OSError(f"{len(content):,} bytes came, wanted {self.size:,}")
        return content

    def is_dir(self) -> bool:
        """Whether there are files below the address, or it can't be told."""
        listing = self.listing
        return listing is None or len(listing) > 0

    @property
    def listing(self) -> Listing | None:
        """The files below this folder, which is listed once; nothing where that is impossible, which is said."""
        if not self._asked:
            reason = "a web server has no list of its files"
            try:
                if self.kind not in WEB:
                    self.names()
            except RefusedError as error:
                reason = str(error)
            if self._listing is None:
                log.warning("%s: whether files are missing is seen when they are read: %s", self, reason)
            self._asked = True
        return self._listing

    def names(self) -> list[str]:
        """The names of all files below this folder, relative to it, in order.

        Raises:
            UserError: they can't be listed.
        """
        if self.kind in WEB:
            raise UserError(f"{self} can't be listed, and all names are wanted; use object storage, or a folder")
        started = time.monotonic()
        try:
            sizes = start(_find, self.kind, self.url, tries=self.tries, timeout=SECONDS, patient=True).result()
        except FileNotFoundError:
            sizes = {}
        self._listing, self._asked = Listing(sizes), True
        log.info("%s: %s files, listed in %.1f s", self, f"{len(sizes):,}", time.monotonic() - started)
        return sorted(sizes)

    def local(self) -> Path:
        """A copy of the file on this machine, which is fetched if there is none of this version; see `copies.copy`."""
        return copy(self.kind, self.url, self.name, tries=self.tries, timeout=self.timeout)


async def _find(system: Any, path: str) -> dict[str, int]:
    """The sizes of all files below a path, by their names relative to it."""
    found = await ask(system, "find", path, detail=True)
    first = len(path.rstrip("/")) + 1
    return {name[first:]: int(info.get("size") or 0) for name, info in found.items() if len(name) > first}


def place(path: str | Path | Remote, *, tries: int = TRIES, timeout: float = TIMEOUT) -> Path | Remote:
    """What reads from a path on disk or an address.

    Args:
        path: the path or address; `file://…` is a path, too.
        tries, timeout: see `Remote`.

    Example:
        >>> place("s3://birds/a.jpg").name, place("birds/a.jpg").name
        ('a.jpg', 'a.jpg')
    """
    if isinstance(path, (Path, Remote)):
        return path
    if not is_url(path):
        return Path(path)
    if path.lower().startswith("file://"):
        return Path(unquote(urlsplit(path).path))
    return Remote(path, tries=tries, timeout=timeout)


def ahead(files: Iterable[Path | Remote]) -> None:
    """Asks for files that will be read next, several at once; what was asked for before, and not read, is dropped."""
    if wanted := [file for file in files if isinstance(file, Remote)]:
        here = process()
        for future in here.ahead.values():
            future.cancel()
        here.ahead = {file.url: file.start() for file in wanted}
