"""Files from the network, once: resumed where they were cut off, checked, and put in place whole."""

import hashlib
import os
import shutil
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte


class DownloadError(RuntimeError):
    """A file could not be fetched, or is not the one that it should be; the message says what to do."""


def cache_folder() -> Path:
    """`$VITDET_HOME`, or `vitdet` in `$XDG_CACHE_HOME` or `~/.cache`."""
    home = os.environ.get("VITDET_HOME")
    return Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitdet"


def download(url: str, name: str, *, digest: str | None = None, folder: Path | None = None) -> Path:
    """The file behind `url`, as `name` in the cache folder; fetched if it is not there yet.

    What is fetched goes to `name.part` first; a later call goes on from there, if the server can and its file is still the same. Proxies are those of the
    environment (`https_proxy` …). Two processes do not fetch the same file at once.

    Args:
        digest: `sha256:…` or `md5:…` of the file, hexadecimal.

    Raises:
        DownloadError: no network, no such file, a cut connection, or a wrong digest.
    """
    path = (folder or cache_folder()) / name
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{path}.lock", timeout=3600):
            if not path.is_file():  # another process may have been quicker
                part = path.with_name(f"{path.name}.part")
                _fetch(url, part, path)
                check(part, digest, url)
                part.replace(path)
    except Timeout as error:
        raise DownloadError(
            f"another process has been fetching {path} for an hour; if it is dead, remove {path}.lock"
        ) from error
    return path


def check(path: Path, digest: str | None, url: str) -> None:
    """Removes the file if its digest is another one.

    Raises:
        DownloadError: it is.
    """
    if digest is None:
        return
    kind, _, wanted = digest.partition(":")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest() if sys.version_info >= (3, 11) else _digest(file, kind)
    if found != wanted:
        size = path.stat().st_size
        path.unlink()
        raise DownloadError(
            f"{url} is not the file that it should be: {size:,} bytes with {kind} {found}, wanted {wanted}. It was removed; try again, "
            "and if that does not help, it was changed or damaged at its source"
        )


def _digest(file: BinaryIO, kind: str) -> str:
    sum_ = hashlib.new(kind)
    while chunk := file.read(CHUNK):
        sum_.update(chunk)
    return sum_.hexdigest()


def _fetch(url: str, part: Path, path: Path) -> None:
    tag = part.with_name(f"{part.name}.etag")
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "vitdet"})
    if done and tag.is_file():  # without a tag nobody knows whether the rest belongs to the same file
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", tag.read_text())
    try:
        # a new opener: the shared one keeps the proxies of its first use
        with urllib.request.build_opener().open(request, timeout=TIMEOUT) as reply:
            done = done if reply.status == 206 else 0
            if not done:
                tag.unlink(missing_ok=True)
                if reply.headers.get("ETag"):
                    tag.write_text(reply.headers["ETag"])
            total = done + int(reply.headers["Content-Length"]) if reply.headers.get("Content-Length") else None
            _copy(reply, part, done, total, path)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is longer than the file: it is another one by now
            part.unlink()
            return _fetch(url, part, path)
        raise DownloadError(f"{url}: the server says {error.code} {error.reason}{_instead(path)}") from error
    except (OSError, HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"{url} can't be reached: {reason or type(error).__name__}{_instead(path)}") from error
    tag.unlink(missing_ok=True)


def _copy(reply, part: Path, done: int, total: int | None, path: Path) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - done > free:
        raise DownloadError(
            f"{path.name} needs {total - done:,} bytes, but {part.parent} has {free:,} left; free some, or set VITDET_HOME to another folder"
        )
    with _progress() as bar, open(part, "ab" if done else "wb") as file:
        task: TaskID = bar.add_task(path.name, total=total, completed=done)
        while chunk := reply.read(CHUNK):
            file.write(chunk)
            bar.update(task, advance=len(chunk))
        written = file.tell()
    if total is not None and written < total:
        raise DownloadError(
            f"the connection was cut after {written:,} of {total:,} bytes; what there is stays in {part}: the same command goes on from there"
        )


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _instead(path: Path) -> str:
    return (
        f". Without a network, fetch it where there is one, and put it at {path}, or give its path: vitdet.load(name, checkpoint=path), "
        "or model.checkpoint_file in YAML"
    )
