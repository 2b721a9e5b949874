"""From the file names in a JSON to the files that are there: which folder they are relative to, or which files."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

from vitdet.data.formats.tree import Tree, join, parts, split_of

# names of folders that hold label maps, drawings and the like rather than photos
NOT_PHOTOS = re.compile(r"mask|label|annot|segment|panoptic|instance|depth|gt(?![a-z])|disparity", re.IGNORECASE)
# Label Studio puts eight hexadecimal digits before the name of an upload
_HASH = re.compile(r"^[0-9a-f]{8}-")
# so many names of a file are looked up to find their folder
SAMPLE = 100


def folder_of(names: Sequence[str], tree: Tree, *, split: str | None, beside: str, maps: str | None = None) -> tuple:
    """The folder that file names are relative to, and which share of them is in it.

    Args:
        names: relative paths, as a JSON has them; a sample of them is looked up.
        split: the split that they belong to; of two folders with files of these names, that of the split is taken.
        beside: the folder of the JSON.
        maps: the usual name of the folder, if PNGs of panoptic segments are looked for, not the photos or other label
            maps that often have the same names.

    Returns:
        The folder, or `None` if none of the files is anywhere, and a number in [0, 1].
    """
    step = max(1, len(names) // SAMPLE)
    sample = names[::step]

    def rank(folder: str) -> tuple:
        found = sum(_joined(folder, name) in tree.files for name in sample)
        words = parts(folder)
        splits = {split_of(word)[0] for word in words} - {None}
        likely = not any(NOT_PHOTOS.search(word) for word in words)
        if maps is not None:
            likely = 2 * (maps in words) + any("panoptic" in word.lower() for word in words)
        ours = 0 if not splits or split is None else 1 if splits == {split} else -1
        return found, likely, ours, folder == beside, -len(words)

    best = max(_folders(tree, sample), key=rank, default=None)
    if best is None or (found := rank(best)[0]) == 0:
        return None, 0.0
    return best, found / len(sample)


def _joined(folder: str, name: str) -> str:
    return join(folder, name.removeprefix("./"))


def _folders(tree: Tree, names: Sequence[str]) -> set[str]:
    """The folders that could hold a file of these relative names: those with an image, less the folders of the name."""
    depths = {len(parts(name)) - 1 for name in names}
    return {
        "/".join(words[: len(words) - depth])
        for words in map(parts, tree.images)
        for depth in depths
        if depth <= len(words)
    }


def match(names: Iterable[str], tree: Tree, *, split: str | None, folder: str) -> dict[str, str]:
    """The file that each name means, relative to the root: names that other tools wrote, on other machines.

    Tried are back-slashes, `%20`, Unicode forms, the case of letters, the last part alone, and a hash of Label Studio's
    before it. A name that could mean several files means that of its split or of the given folder, or none.
    """
    by_name: dict[str, list[str]] = {}
    for place, files in tree.images.items():
        for file in files:
            for key in {_plain(file), _HASH.sub("", _plain(file))}:
                by_name.setdefault(key, []).append(join(place, file))
    found = {}
    for name in names:
        if (exact := _joined(folder, name)) in tree.files:
            found[name] = exact
            continue
        path = _path_of(name)
        last = _plain(path.rpartition("/")[2])
        choices = by_name.get(last) or by_name.get(_HASH.sub("", last)) or []
        if chosen := _likeliest(path, choices, split):
            found[name] = chosen
    return found


def _path_of(name: str) -> str:
    """A path with slashes, out of a path of Windows, a URL, or Label Studio's `/data/local-files/?d=…`."""
    path = name.replace("\\", "/")
    if "?d=" in path:
        path = path.partition("?d=")[2]
    return unquote(path) if "%" in path else path


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _likeliest(path: str, choices: list[str], split: str | None) -> str | None:
    """Of several files of a name, the only one that shares most of the path's last folders, or that of the split."""
    if len(choices) < 2:
        return choices[0] if choices else None

    def rank(choice: str) -> tuple[bool, int, bool]:
        same = 0
        for part, chosen in zip(reversed(path.split("/")), reversed(choice.split("/"))):
            if _plain(part) != _plain(chosen):
                break
            same += 1
        words = parts(choice)[:-1]
        of_split = split is not None and any(split_of(word)[0] == split for word in words)
        return not any(NOT_PHOTOS.search(word) for word in words), same, of_split

    ranked = sorted(choices, key=rank)
    return ranked[-1] if rank(ranked[-1]) > rank(ranked[-2]) else None
