"""Files from the network, once: resumed where they were cut off, checked, and put in place whole.

`huggingface_hub` could fetch those that lie on its hub, but not RF-DETR's, and less well (2.4, against a server on this
machine): it gave back a file of the right size and wrong content without a word, and needed 24 s and five warnings to say
that there is no network, in a sentence that names neither the file nor where to put it by hand.
"""

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

from vitdet.errors import UserError

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte


class DownloadError(UserError, RuntimeError):
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
    except OSError as error:  # the network's are told apart below
        raise DownloadError(
            f"{path} can't be written: {error}; free some space, or set VITDET_HOME to a folder that can"
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
        request.add_header("If-Range", tag.read_text(encoding="utf-8"))
    try:
        # a new opener: the shared one keeps the proxies of its first use
        reply = urllib.request.build_opener().open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # the part is longer than the file: it is another one by now
            part.unlink()
            return _fetch(url, part, path)
        raise DownloadError(f"{url}: the server says {error.code} {error.reason}{_instead(path)}") from error
    except (OSError, HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"{url} can't be reached: {reason or type(error).__name__}{_instead(path)}") from error
    with reply:
        done = done if reply.status == 206 else 0
        if not done:
            tag.unlink(missing_ok=True)
            if reply.headers.get("ETag"):
                tag.write_text(reply.headers["ETag"], encoding="utf-8")
        length = reply.headers.get("Content-Length")
        _copy(reply, part, done, done + int(length) if length else None, path)
    tag.unlink(missing_ok=True)


def _copy(reply, part: Path, done: int, total: int | None, path: Path) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - done > free:
        raise OSError(f"it needs {total - done:,} bytes, and there are {free:,} left")
    cut: Exception | None = None
    with _progress() as bar, open(part, "ab" if done else "wb") as file:
        task: TaskID = bar.add_task(path.name, total=total, completed=done)
        while chunk := _read(reply):
            if isinstance(chunk, Exception):
                cut = chunk
                break
            file.write(chunk)
            bar.update(task, advance=len(chunk))
        written = file.tell()
    if cut is not None or (total is not None and written < total):
        of = "" if total is None else f" of {total:,}"
        why = f" ({cut})" if cut else ""
        raise DownloadError(
            f"the connection was cut after {written:,}{of} bytes{why}; what there is stays in {part}: the same command goes on from there"
        )


def _read(reply) -> bytes | Exception:
    """The next bytes, none at the end, or why there are no more."""
    try:
        return reply.read(CHUNK)
    except (OSError, HTTPException) as error:
        return error


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _instead(path: Path) -> str:
    return (
        f". Without a network, fetch it where there is one, and put it at {path}, or give its path: vitdet.load(name, checkpoint=path), "
        "or model.checkpoint_file in YAML"
    )
