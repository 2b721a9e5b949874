"""Unpacking zip and tar archives: nothing outside the folder, and a path appears in its place only when complete."""

import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from vitdet.download.files import CHUNK, DownloadError, progress_bar

# the path of a zip in an archive, and a path in that zip: `annotations/masks.zip!masks`
NESTED = "!"


class Member(NamedTuple):
    """A file in an archive: its path there, its size in bytes, and what opens it."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path, gives: Mapping[str, str]) -> list[str]:
    """Unpacks files and folders of an archive, each of which appears in its place only when it is complete.

    They are unpacked beside their places first, and then renamed. What is already in place is left as it is.

    Args:
        archive: a zip or tar file.
        folder: where it is unpacked.
        gives: the paths in `folder` of files and folders of the archive, by their paths there. `outer.zip!inner` is
            `inner` in the archive `outer.zip` that is in the archive.

    Returns:
        The paths in `folder` that are new.

    Raises:
        DownloadError: it is no archive, is damaged, has no such path, would write outside the folder, or there is no
            room for it.
    """
    wanted = {inside: place for inside, place in gives.items() if not (folder / place).exists()}
    if not wanted:
        return []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{archive.name}.", dir=folder) as name:
            scratch = Path(name)
            _extract(archive, scratch, wanted)
            for inside, place in wanted.items():
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                os.replace(scratch / inside.replace(NESTED, "/"), folder / place)
    except OSError as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(
            f"{archive} can't be unpacked into {folder}: {error.strerror or error}; free some space, or set --output "
            "to a folder that can be written"
        ) from error
    return list(wanted.values())


def _extract(archive: Path, scratch: Path, wanted: Mapping[str, str]) -> None:
    direct = [inside for inside in wanted if NESTED not in inside]
    inner: dict[str, list[str]] = {}
    for inside in wanted:
        if NESTED in inside:
            outer, _, path = inside.partition(NESTED)
            inner.setdefault(outer, []).append(path)
    with _opened(archive) as members:
        found = [member for member in members if _is_in(member.name, [*direct, *inner])]
        missing = [path for path in [*direct, *inner] if not any(_is_in(member.name, [path]) for member in found)]
        if missing:
            raise DownloadError(f"{archive} has no {missing[0]}; is it the file that it should be?")
        total, free = sum(member.size for member in found), shutil.disk_usage(scratch).free
        if total > free:
            raise DownloadError(
                f"{archive} needs {total:,} bytes unpacked, and there are {free:,} left in {scratch.parent}"
            )
        with progress_bar() as bar:
            task = bar.add_task(f"unpacking {archive.name}", total=total)
            for member in found:
                _write(
                    member,
                    scratch / _safe(member.name, archive),
                    lambda count, task=task: bar.update(task, advance=count),
                )
    for outer, paths in inner.items():
        packed = scratch / "packed" / Path(outer).name
        packed.parent.mkdir(exist_ok=True)
        (scratch / outer).rename(packed)
        (scratch / outer).mkdir()
        _extract(packed, scratch / outer, dict.fromkeys(paths, ""))
        packed.unlink()


def _write(member: Member, path: Path, tell: Callable[[int], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, open(path, "xb") as file:
        while chunk := source.read(CHUNK):
            file.write(chunk)
            tell(len(chunk))
        written = file.tell()
    if written != member.size:
        raise DownloadError(f"{member.name} has {written:,} bytes, but the archive says {member.size:,}; it is damaged")


def _is_in(name: str, paths: list[str]) -> bool:
    name = name.removeprefix("./")
    return any(name == path or name.startswith(f"{path}/") for path in paths)


def _safe(name: str, archive: Path) -> str:
    """The path of a member, which stays inside the folder.

    Raises:
        DownloadError: it would not.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise DownloadError(f"{archive} holds {name!r}, which would be written outside its folder; it is not unpacked")
    return str(path)


@contextmanager
def _opened(archive: Path) -> Iterator[list[Member]]:
    """The files of an archive.

    Raises:
        DownloadError: it is no archive, is damaged or encrypted, or has links or devices.
    """
    damaged = f"{archive} is damaged, or no archive"
    again = "remove it, and fetch it again"
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                yield [_of_zip(packed, info, archive) for info in packed.infolist() if not info.is_dir()]
        else:
            with tarfile.open(archive) as packed:
                yield [_of_tar(packed, info, archive) for info in packed.getmembers() if not info.isdir()]
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(f"{damaged} ({error}); {again}") from error


def _of_zip(packed: zipfile.ZipFile, info: zipfile.ZipInfo, archive: Path) -> Member:
    # the type of a file in Unix's mode: none, or that of a plain file
    if (info.external_attr >> 28) not in (0, 0o10):
        raise DownloadError(f"{archive} holds a link or device, {info.filename!r}; it is not unpacked")
    return Member(info.filename, info.file_size, lambda: packed.open(info))


def _of_tar(packed: tarfile.TarFile, info: tarfile.TarInfo, archive: Path) -> Member:
    if not info.isfile():
        raise DownloadError(f"{archive} holds a link or device, {info.name!r}; it is not unpacked")
    # a file, of which `extractfile` never returns `None`
    return Member(info.name, info.size, lambda: packed.extractfile(info))  # pyright: ignore[reportArgumentType]
