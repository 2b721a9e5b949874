"""The COCO JSON files of a folder, sorted by kind, and by what their names have in common besides the split."""

import mmap
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitdet.data.formats.tree import Tree, join, split_of
from vitdet.errors import DataError

Kind = Literal["instances", "panoptic"]
# files that COCO publishes beside those of instances, and that say less or nothing of boxes
BESIDE = re.compile(r"^(captions|person_keypoints|stuff|image_info)_")
# those without boxes
LESS = re.compile(r"^(captions|stuff|image_info)_")
# the name that COCO gives to the file of instances, and CVAT and Roboflow to theirs
USUAL = re.compile(r"(^|/)(instances_(\*(\d{4})?|default)|_annotations\.coco)$")
NAMED = re.compile(r"^(_annotations\.coco|instances_.*)\.json$")
# a folder with more JSON files holds one for each image, as LabelMe writes them
MAX_FILES = 50
# how many of several sets an error lists
FEW = 3


@dataclass(frozen=True)
class Family:
    """JSON files of one kind, one for each split, that are named alike.

    Args:
        kind: the kind of their annotations.
        name: what their paths have in common, with `*` for the split: `annotations/instances_*2017`.
        files: the path of each split, relative to the folder; a file without a split is `all`.
    """

    kind: Kind
    name: str
    files: dict[str, str]

    @property
    def usual(self) -> bool:
        return USUAL.search(self.name) is not None

    def __str__(self) -> str:
        return ", ".join(self.files.values())


def families(tree: Tree) -> list[Family]:
    """All families of COCO JSON files under a folder; people with keypoints only if there are no others."""
    return _families(tree, BESIDE) or _families(tree, LESS)


def _families(tree: Tree, left_out: re.Pattern) -> list[Family]:
    found: dict[tuple[Kind, str], dict[str, str]] = {}
    for folder, names in tree.folders.items():
        jsons = [name for name in names if name.lower().endswith(".json") and not left_out.match(name)]
        for name in jsons if len(jsons) <= MAX_FILES else ():
            path = join(folder, name)
            if kind := kind_of(tree.path(path)):
                split, family = _split(path)
                files = found.setdefault((kind, family), {})
                # two spellings of a split (`val` and `valid`) are no family
                files.setdefault(split if split not in files else path, path)
    return [Family(kind, name, files) for (kind, name), files in sorted(found.items())]


def others(tree: Tree, known: list[Family]) -> bool:
    """Whether there are JSON files that are not COCO's: those of LabelMe, say."""
    ours = {path for family in known for path in family.files.values()}
    names = (join(folder, name) for folder, some in tree.folders.items() for name in some if not BESIDE.match(name))
    return any(name.lower().endswith(".json") and name not in ours for name in names)


def _split(path: str) -> tuple[str, str]:
    """The split of a JSON file by its name, or else by its folders, and its path with `*` for the split."""
    folder, _, name = path.rpartition("/")
    stem = name[: -len(".json")]
    split, plain = split_of(stem)
    if split is None:
        words = folder.split("/") if folder else []
        for i in reversed(range(len(words))):
            split, word = split_of(words[i])
            if split is not None:
                folder = "/".join([*words[:i], word, *words[i + 1 :]])
                break
    return split or "all", join(folder, plain)


def kind_of(path: Path) -> Kind | None:
    """Whether a file looks like a COCO JSON, and of which kind, by the keys that occur in it."""
    # a damaged file of such a name is no reason to do without its split: it is an error where it is opened
    damaged = "instances" if NAMED.match(path.name) else None
    with open(path, "rb") as file:
        if not path.stat().st_size:
            return damaged
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            start = text[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
            if not start.startswith(b"{") or text.find(b'"images"') < 0:
                return damaged
            if text.find(b'"segments_info"') >= 0:
                return "panoptic"
            return "instances" if text.find(b'"categories"') >= 0 or text.find(b'"annotations"') >= 0 else damaged


def choose(found: list[Family], given: dict[str, str]) -> tuple[Family, list[Family]]:
    """The family to take of those of a kind, and the others.

    Args:
        found: the families, of which there is at least one, or `given` has a file.
        given: the files that the user names, by split: they and their family are taken.

    Raises:
        DataError: nothing tells which to take; the message lists them.
    """
    if given:
        chosen = [family for family in found if set(family.files.values()) & set(given.values())]
        if not chosen and found and not {"train", "val"} <= given.keys():
            # files from elsewhere, for some of the splits of this folder
            chosen = [choose(found, {})[0]]
        files = dict(chosen[0].files) if len(chosen) == 1 else {}
        if "train" in given or set(given.values()) & {files.get("all")}:
            files.pop("all", None)
        name = chosen[0].name if chosen else next(iter(given.values()))
        return Family(found[0].kind if found else "instances", name, {**files, **given}), []
    usual = [family for family in found if family.usual]
    divided = [family for family in found if "train" in family.files]
    for choices in (found, usual, divided):
        if len(choices) == 1:
            return choices[0], [family for family in found if family is not choices[0]]
    splits = [split for family in found for split in family.files]
    if len(set(splits)) == len(splits) and "all" not in splits:
        # `birds_train.json` and `more_val.json`
        files = {split: path for family in found for split, path in family.files.items()}
        return Family(found[0].kind, found[0].name, files), []
    more = f"; and {len(found) - FEW} more" if len(found) > FEW else ""
    raise DataError(
        f"it has several sets of {found[0].kind}: {'; '.join(map(str, found[:FEW]))}{more}; say which: "
        "--data.train.annotations JSON --data.val.annotations JSON"
    )
