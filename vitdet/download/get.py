"""Fetching a published data set: what is missing is downloaded or taken from files that are there, and unpacked."""

import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from vitdet.download.archives import unpack
from vitdet.download.catalogue import Archive, Published
from vitdet.download.files import DownloadError, check, download

GIGABYTE = 1e9


def missing(published: Published, output: Path) -> list[Archive]:
    """The archives of which something is not in its place."""
    folder = output / published.folder
    return [
        archive
        for archive in published.archives
        if not all((folder / place).exists() for place in archive.gives.values())
    ]


def packed(archive: Archive, folder: Path) -> Path | None:
    """The archive as a file that is there already, in the folder of the data set or the one above it."""
    places = (folder / archive.name, folder.parent / archive.name)
    return next((path for path in places if path.is_file()), None)


def address(archive: Archive, mirror: str | None) -> str:
    """Where a file is fetched from; empty where it needs a login."""
    return f"{mirror.rstrip('/')}/{archive.name}" if mirror else archive.url


def describe(published: Published, output: Path, *, mirror: str | None = None) -> list[str]:
    """What would be fetched, and its terms, as lines."""
    folder = output / published.folder
    lines = [f"{published.name}: {published.title}", f"  licence: {published.licence} ({published.terms})"]
    for archive in published.archives:
        there = packed(archive, folder)
        if archive not in missing(published, output):
            how = "unpacked already"
        elif there is not None:
            how = f"from {there}"
        else:
            url = address(archive, mirror)
            how = f"from {url}" if url else "needs a login"
        lines.append(f"  {archive.name}, {size(archive.megabytes)}: {how}")
    return lines


def size(megabytes: float) -> str:
    return f"{megabytes / 1e3:.1f} GB" if megabytes >= 1e3 else f"{megabytes:.0f} MB"


def needed(published: Published, output: Path) -> tuple[float, float]:
    """How many megabytes are to be downloaded, and how many the unpacked files will take."""
    wanted, folder = missing(published, output), output / published.folder
    fetched = [archive for archive in wanted if packed(archive, folder) is None]
    return sum(archive.megabytes for archive in fetched), float(sum(archive.unpacked for archive in wanted))


def check_space(published: Published, output: Path) -> None:
    """Raises:
    DownloadError: the disk has no room for what is missing.
    """
    place = next(path for path in (output, *output.absolute().parents) if path.exists())
    want, free = sum(needed(published, output)) * 1e6, shutil.disk_usage(place).free
    if want > free:
        raise DownloadError(
            f"{published.name} needs about {want / GIGABYTE:.1f} GB, and there are {free / GIGABYTE:.1f} GB left in "
            f"{place}; free some space, or set --output to a folder of another disk"
        )


def check_login(published: Published, output: Path, *, mirror: str | None = None) -> None:
    """Raises:
    DownloadError: files are missing that can only be had after a login; the message says how, and where to put them.
    """
    folder = output / published.folder
    lacks = [archive for archive in missing(published, output) if packed(archive, folder) is None]
    wanted = [archive.name for archive in lacks if not address(archive, mirror)]
    if wanted:
        how = published.login.format(folder=folder, files=" ".join(wanted))
        raise DownloadError(
            f"{published.name} needs {' and '.join(wanted)}, which can't be had without a login: {how}. Put them into "
            f"{folder}, and say `vitdet data get {published.name}` again: they are checked and unpacked"
        )


def get(published: Published, output: Path, *, tell: Callable[[str], None], mirror: str | None = None) -> None:
    """Fetches, checks and unpacks what is missing of a data set.

    Args:
        published: the data set.
        output: the folder that holds data sets, each in a folder of its own.
        tell: is given a line about each file.
        mirror: the address of a folder on another server that has the files under their names.

    Raises:
        DownloadError: a file can't be had, is not the right one, or there is no room; or the data set is not complete
            in the end.
    """
    check_login(published, output, mirror=mirror)
    check_space(published, output)
    folder = output / published.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".get.lock", timeout=1):
            _remove_leftovers(published, folder)
            for archive in missing(published, output):
                _get(archive, published, folder, tell, mirror)
            for name, text in published.writes.items():
                if not (folder / name).exists():
                    (folder / name).write_text(text, encoding="utf-8")
    except Timeout as error:
        raise DownloadError(f"another process is fetching into {folder}; wait for it to end") from error
    except OSError as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(f"{folder} can't be written: {error.strerror or error}; set --output to another") from error
    check_complete(published, folder)


def _remove_leftovers(published: Published, folder: Path) -> None:
    """Removes what an unpacking that was killed has left; nobody else unpacks here while the lock is held."""
    for archive in published.archives:
        for path in folder.glob(f".{archive.name}.*"):
            shutil.rmtree(path, ignore_errors=True)


def _get(archive: Archive, published: Published, folder: Path, tell: Callable[[str], None], mirror: str | None) -> None:
    path = packed(archive, folder)
    by_hand = path is not None
    if path is not None:
        tell(f"{path}: checking")
        if archive.size is not None and path.stat().st_size != archive.size:
            raise DownloadError(
                f"{path} is not the file that it should be: {path.stat().st_size:,} bytes, wanted {archive.size:,}; "
                "fetch it again"
            )
        check(path, archive.digest, str(path), remove=False)
    else:
        path = download(
            address(archive, mirror),
            archive.name,
            digest=archive.digest,
            size=archive.size,
            folder=folder,
            advice=f", and say `vitdet data get {published.name}` again: it is checked and unpacked",
            elsewhere="set --output to a folder of another disk",
        )
    new = unpack(path, folder, archive.gives)
    tell(f"{folder}: {', '.join(new)}")
    if by_hand:
        tell(f"{path} is no longer needed; remove it to free {size(archive.megabytes)}")
    else:
        path.unlink()
        Path(f"{path}.lock").unlink(missing_ok=True)


def check_complete(published: Published, folder: Path) -> None:
    """Raises:
    DownloadError: a folder of the data set does not have as many files as it should.
    """
    for name, wanted in published.counts.items():
        found = sum(path.is_file() for path in (folder / name).rglob("*"))
        if found < wanted:
            raise DownloadError(
                f"{folder / name} has {found:,} files, wanted {wanted:,}; remove the folder, and say "
                f"`vitdet data get {published.name}` again"
            )
