"""Downloads files: resumable, checked, and put in place only when complete.

`huggingface_hub` is not used, since it can't download the files of RF-DETR, which are not on its hub. Version 2.4,
tried against a local server, also returned a file of the right size and wrong content without an error. Without a
network, it took 24 s and five warnings to fail, and its message named neither the file nor where to put it by hand.
"""

import contextlib
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

from vitdet import atomic, checksum
from vitdet.errors import UserError

CHUNK = 1 << 20
# seconds without receiving a byte
TIMEOUT = 30.0


class DownloadError(UserError, RuntimeError):
    """A file could not be downloaded, or has a wrong digest; the message says what to do."""


def cache_folder() -> Path:
    """Returns the cache folder: `$VITDET_HOME`, otherwise `vitdet` in `$XDG_CACHE_HOME` or in `~/.cache`."""
    home = os.environ.get("VITDET_HOME")
    return Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitdet"


def download(
    url: str,
    name: str,
    *,
    digest: str | None = None,
    size: int | None = None,
    folder: Path | None = None,
    advice: str = "",
    elsewhere: str = "set VITDET_HOME to a folder that can",
) -> Path:
    """Downloads a file into the cache folder, unless it is there already.

    The download goes to `name.part` first. A later call resumes it, if the server supports this and its file has not
    changed. Proxies are taken from the environment (`https_proxy` …). A lock keeps several processes from downloading a
    file at the same time.

    Args:
        url: the address of the file.
        name: the name of the file in the cache folder.
        digest: the expected digest, `sha256:…`, `sha1:…` or `md5:…` in hexadecimal digits.
        size: the expected size in bytes.
        folder: the folder to use instead of the cache folder.
        advice: what else can be done without a network; the end of a sentence.
        elsewhere: what can be done where the folder can't be written.

    Returns:
        The path of the file.

    Raises:
        DownloadError: there is no network or no such file, the connection was cut, or the size or digest is wrong.
    """
    path = (folder or cache_folder()) / name
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=3600):
            # another process may have downloaded the file in the meantime
            if not path.is_file():
                part = path.with_name(f"{path.name}.part")
                _fetch(url, part, path, size, advice)
                check(part, digest, url)
                part.replace(path)
    except Timeout as error:
        raise DownloadError(
            f"another process has been fetching {path} for an hour; if it is dead, remove {path}.lock"
        ) from error
    except OSError as error:
        # errors of the network are `DownloadError`s by now, so this is an error of the disk
        raise DownloadError(f"{path} can't be written: {error}; free some space, or {elsewhere}") from error
    return path


def check(path: Path, digest: str | None, url: str, *, remove: bool = True) -> None:
    """Checks the digest of a file, and removes the file if its digest is wrong, unless `remove` is false.

    Raises:
        DownloadError: the digest is wrong.
    """
    if digest is None:
        return
    kind, _, wanted = digest.partition(":")
    if (found := _of(path, kind)) != wanted:
        size = path.stat().st_size
        if remove:
            path.unlink()
        again = "It was removed; try again" if remove else "Fetch it again"
        raise DownloadError(
            f"{url} is not the file that it should be: {size:,} bytes with {kind} {found}, wanted {wanted}. "
            f"{again}, and if that does not help, it was changed or damaged at its source"
        )


def check_again(path: Path, digest: str | None) -> None:
    """Checks that a file of the cache has not been damaged since it was fetched.

    Where its digest is not known, that of its first use is kept beside it, in `NAME.sha256`.

    Args:
        path: the file.
        digest: the digest that it must have, if it is known.

    Raises:
        DownloadError: the file has another digest.
    """
    beside, both = path.with_name(f"{path.name}.sha256"), ""
    if digest is None and beside.is_file():
        digest, both = f"sha256:{beside.read_bytes()[:64].decode('latin-1')}", f" and {beside.name}"
    if digest is None:
        line = f"{checksum.file_digest(path)}  {path.name}\n".encode()
        # others may have filled the cache, and it may be read-only
        with contextlib.suppress(OSError):
            atomic.replace(beside, lambda file: file.write(line))
        return
    kind, _, wanted = digest.partition(":")
    if (found := _of(path, kind)) != wanted:
        raise DownloadError(
            f"{path} is damaged, or not the file of before: its {kind} begins with {found[:12]}, and that of before "
            f"with {wanted[:12]}; remove it{both}, and it is fetched again"
        )


def _of(path: Path, kind: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest() if sys.version_info >= (3, 11) else _digest(file, kind)


def _digest(file: BinaryIO, kind: str) -> str:
    sum_ = hashlib.new(kind)
    while chunk := file.read(CHUNK):
        sum_.update(chunk)
    return sum_.hexdigest()


def _fetch(url: str, part: Path, path: Path, size: int | None, advice: str) -> None:
    tag = part.with_name(f"{part.name}.etag")
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "vitdet"})
    # without the ETag of the first part, the file on the server may have changed since
    if done and tag.is_file():
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", tag.read_text(encoding="utf-8"))
    try:
        # a new opener reads the proxies from the environment; the shared opener keeps those of its first use
        reply = urllib.request.build_opener().open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        # "range not satisfiable": the part is longer than the file, which therefore has changed
        if error.code == 416 and done:
            part.unlink()
            return _fetch(url, part, path, size, advice)
        raise DownloadError(f"{url}: the server says {error.code} {error.reason}{_instead(path, advice)}") from error
    except (OSError, HTTPException) as error:
        # `URLError`, which is an `OSError`, holds the reason
        reason = getattr(error, "reason", None) or error
        raise DownloadError(
            f"{url} can't be reached: {reason or type(error).__name__}{_instead(path, advice)}"
        ) from error
    with reply:
        done = done if reply.status == 206 else 0
        if not done:
            tag.unlink(missing_ok=True)
            if reply.headers.get("ETag"):
                tag.write_text(reply.headers["ETag"], encoding="utf-8")
        length = reply.headers.get("Content-Length")
        total = done + int(length) if length else None
        if None not in (size, total) and size != total:
            raise DownloadError(
                f"{url} is not the file that it should be: the server's has {total:,} bytes, wanted {size:,}; it was "
                f"changed at its source, or a page of another server stands in its place{_instead(path, advice)}"
            )
        _copy(reply, part, done, size if total is None else total, path)
    tag.unlink(missing_ok=True)


def _copy(reply, part: Path, done: int, total: int | None, path: Path) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - done > free:
        raise OSError(f"it needs {total - done:,} bytes, and there are {free:,} left")
    cut: Exception | None = None
    with progress_bar() as bar, open(part, "ab" if done else "wb") as file:
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
            f"the connection was cut after {written:,}{of} bytes{why}; what there is stays in {part}: "
            "the same command goes on from there"
        )


def _read(reply) -> bytes | Exception:
    """Returns the next bytes, empty at the end, or the error that ended the connection."""
    try:
        return reply.read(CHUNK)
    except (OSError, HTTPException) as error:
        return error


def progress_bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _instead(path: Path, advice: str) -> str:
    return f". Without a network, fetch it where there is one, and put it at {path}{advice}"
