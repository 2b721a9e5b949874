"""Which files of a data set are missing, and which existing file is probably meant by the name of one."""

import contextlib
import difflib
import functools
import itertools
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

from vitdet.errors import clip
from vitdet.images import ImageError, check_regular, resolve
from vitdet.remote import Remote, RemoteError

# with fewer names in a folder than this, each is looked up; else the folder is listed, which is faster
FEW = 100
# the most files below a folder among which a name is looked for, and among which a similar one is
MOST, SIMILAR = 300_000, 5_000
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
SEPARATOR, NUMBERS = re.compile(r"[-_. ]+"), re.compile("[0-9]+")


def missing(root: str | Path | Remote, names: Iterable[tuple[int, str]]) -> list[int]:
    """Which names lead to no regular file, or out of the folder.

    Args:
        root: the folder of the files.
        names: numbers, and the name that belongs to each, relative to `root`.

    Returns:
        The numbers of those names, in ascending order.
    """
    if isinstance(root, Remote):
        listing = root.listing
        return sorted(i for i, name in names if listing is not None and listing.size(root.below(name) or "") is None)
    folders: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for i, name in names:
        folder, slash, base = name.rpartition("/")
        folders[folder + slash].append((i, base))
    absent = []
    for folder, members in folders.items():
        try:
            place = str(resolve(root, folder)) if folder else str(root)
            listed = _files_in(place) if len(members) > FEW else frozenset()
        except ImageError:
            absent += [i for i, _ in members]
            continue
        # A file system may ignore case, so a name that was not listed is looked up.
        absent += [i for i, base in members if base not in listed and not os.path.isfile(os.path.join(place, base))]
    return sorted(absent)


def why(root: str | Path | Remote, name: str) -> str:
    """Why a file can't be read, and which existing one was probably meant.

    Args:
        root: the folder of the files.
        name: the name of the file, relative to `root`.
    """
    there = False
    try:
        path = resolve(root, name)
        reason = f"{clip(str(path), 300)} can't be read"
        if isinstance(path, Remote):
            reason += ": it does not exist"
        else:
            there = os.path.lexists(path)
            check_regular(path)
    except ImageError as error:
        reason = str(error)
    if not isinstance(root, Remote) and not os.path.isdir(root):
        return f"{clip(str(Path(root) / name), 300)} can't be read: the folder {root} does not exist"
    near = nearest(root, name)
    if near == name:
        return reason
    if near is not None:
        return f"{reason}; did you mean {near!r}? It differs in {difference(name, near)}"
    if there:
        return reason
    files = _Tree.of(_place(root)).files
    some = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    return f"{reason}, nor does a file of a similar name; {root} holds {some or 'no files'}"


def nearest(root: str | Path | Remote, name: str) -> str | None:
    """The name, relative to `root`, of the existing file that is probably meant by the name of a missing one.

    It may differ in its folder, case, extension, Unicode form, in slashes, in codes such as `%20`, or by a prefix, such
    as Label Studio adds.
    """
    tree, base = _Tree.of(_place(root)), _base(name)
    for found in (
        tree.by_base.get(base),
        # a prefix that the name has, and one that the file has
        *(tree.by_base.get(end) for end in _ends(base)),
        tree.by_end.get(base),
        tree.by_stem.get(_stem(base)),
        *(tree.by_stem.get(_stem(end)) for end in _ends(base)),
    ):
        if found:
            # of several, the one whose path ends like the name
            return max(found, key=lambda path: _common_end(_plain(path), _plain(name)))
    # names with other numbers are those of other images
    alike = [other for other in tree.by_base if NUMBERS.findall(other) == NUMBERS.findall(base)]
    near = difflib.get_close_matches(base, alike[:SIMILAR], 1, cutoff=0.75)
    return tree.by_base[near[0]][0] if near else None


def difference(name: str, found: str) -> str:
    """In what a name differs from that of the file that is meant, in words."""
    words, plain = [], name.replace("\\", "/")
    if plain != name:
        words.append("the back-slashes")
    if unquote(plain) != plain and "%" not in found:
        plain = unquote(plain)
        words.append("codes such as %20")
    base, other = plain.rpartition("/")[2], found.rpartition("/")[2]
    forms = [unicodedata.normalize("NFC", text) for text in (base, other)]
    if base != other and forms[0] == forms[1]:
        words.append("the Unicode form of its letters")
    elif base.strip() == other.strip():
        words += [] if base == other else ["white space"]
    elif forms[0] != forms[1] and _base(base) == _base(other):
        words.append("upper and lower case")
    elif _base(base) != _base(other):
        same, ends = _stem(_base(base)) == _stem(_base(other)), (_base(base), _base(other))
        prefix = _stem(ends[0]).endswith(_stem(ends[1])) or _stem(ends[1]).endswith(_stem(ends[0]))
        words.append("the extension" if same else "a prefix" if prefix else "the spelling")
    if os.path.normpath(plain.rpartition("/")[0]) != os.path.normpath(found.rpartition("/")[0]):
        words.append("the folder")
    return " and ".join(words) or "white space"


class _Tree:
    """The files below a folder by their plain names; at most `MOST` of them."""

    def __init__(self, root: str | Remote) -> None:
        self.files = sorted(_below(root))
        self.by_base: dict[str, list[str]] = defaultdict(list)
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        self.by_end: dict[str, list[str]] = defaultdict(list)
        for path in self.files:
            base = _base(path)
            self.by_base[base].append(path)
            self.by_stem[_stem(base)].append(path)
            for end in _ends(base):
                self.by_end[end].append(path)

    @staticmethod
    @functools.lru_cache(maxsize=2)
    def of(root: str | Remote) -> "_Tree":
        return _Tree(root)


def _place(root: str | Path | Remote) -> str | Remote:
    return root if isinstance(root, Remote) else str(root)


def _below(root: str | Remote) -> Iterator[str]:
    if isinstance(root, Remote):
        # a hint at what is meant is not worth another error
        with contextlib.suppress(RemoteError):
            yield from itertools.islice(root.names(), MOST)
        return
    count = 0
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if count >= MOST:
                return
            count += 1
            path = os.path.relpath(os.path.join(folder, name), root)
            if not name.startswith("."):
                yield path.replace(os.sep, "/")


def _common_end(path: str, other: str) -> int:
    """How many characters the ends of two texts share."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(reversed(path), reversed(other))))


def _files_in(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except (OSError, ValueError):
        return frozenset()


def _plain(name: str) -> str:
    """A name without what differs between systems and programs."""
    return unicodedata.normalize("NFC", unquote(name.replace("\\", "/"))).casefold()


def _base(name: str) -> str:
    return _plain(name).rpartition("/")[2].strip()


def _stem(base: str) -> str:
    return base.rpartition(".")[0] or base


def _ends(base: str) -> Iterator[str]:
    """A base name without its first word, without its first two words, and so on."""
    stem = len(_stem(base))
    yield from (base[match.end() :] for match in SEPARATOR.finditer(base) if match.start() > 0 and match.end() < stem)


def by_stem(folder: Path | Remote, suffix: str | None) -> dict[str, str]:
    """The relative paths of the files under `folder`, keyed by the paths without their suffix.

    Args:
        folder: the folder, whose subfolders are searched, too.
        suffix: the end of the names to take; by default the extension of an image.

    Raises:
        FileNotFoundError: it is no folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder")
    if isinstance(folder, Remote):
        names = folder.names()
    else:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in files]
    if suffix is not None:
        return {name.removesuffix(suffix): name for name in names if name.endswith(suffix)}
    return {name.rpartition(".")[0]: name for name in names if name.lower().endswith(SUFFIXES)}
