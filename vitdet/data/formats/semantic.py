"""Folders of images and label maps: which folder holds what of which split, and what the pixel values stand for."""

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitdet.data.formats.classes import ClassList, class_list
from vitdet.data.formats.found import Fault, Found, class_line
from vitdet.data.formats.maps import Map, values_of
from vitdet.data.formats.splits import SIDES, divide
from vitdet.data.formats.store import kept
from vitdet.data.formats.tree import Tree, join, parts, split_of
from vitdet.data.label_sets import label_set
from vitdet.data.splits import SemanticSplit
from vitdet.errors import DataError, UserError

PHOTOS = {"images", "image", "imgs", "img", "jpegimages", "photos", "rgb", "input", "inputs", "imgdir"}
MAPS = {
    *("masks", "mask", "labels", "label", "annotations", "annotation", "annots", "annot", "segmentation", "semantic"),
    *("segmentations", "segmentationclass", "segmentationclasspng", "gt", "groundtruth", "target", "targets"),
    *("pixellabels", "labelids", "segmentationmasks", "semanticmasks", "semanticlabels", "seg", "anndir"),
    "stuffthingmaps",
}
# labels of other kinds, which may lie beside label maps
OTHER = re.compile(r"panoptic|instance|object|depth|disparity|color|colour|vis(?![a-z])")
MAP_FILES = (".png", ".bmp", ".tif", ".tiff", ".gif")
# where Pascal VOC lists the names of each split
LISTS = "ImageSets/Segmentation"
# what follows the name of an image in that of its label map, where both lie in one folder
MARK = re.compile(r"(_mask|_label|_labels|_seg|_segmentation|_gt|_L|-mask|-label|\.mask|_lab)\.(png|bmp|tiff?|gif)$")


@dataclass(frozen=True)
class Pair:
    """A folder of images, one of their label maps, and what follows the common part of their names."""

    images: str
    labels: str
    image_suffix: str | None = None
    label_suffix: str | None = None


def recognise(tree: Tree, given: Mapping[str, Any], fraction: float) -> Found | Fault | None:
    """The label maps of a folder, if there are any; or why they can't be used."""
    try:
        pairs = {split: pair for split, pair in _pairs(tree, given).items() if pair is not None}
        return _found(tree, pairs, given, fraction) if pairs else None
    except UserError as error:
        return Fault("label maps", "semantic", error)


def _pairs(tree: Tree, given: Mapping[str, Any]) -> dict[str, Pair | None]:
    """The folders of each split, `all` where there is no split."""
    places: dict[tuple[str, str], list[str]] = {}
    together: dict[str, str] = {}
    for folder, names in tree.images.items():
        marks = [name for name in names if MARK.search(name)]
        if marks and len(marks) < len(names) and (role := _role(folder)) is not None:
            together.setdefault(role[0], role[2])
        elif (role := _role(folder)) is not None:
            split, what, place = role
            if place not in places.setdefault((split, what), []):
                places[split, what].append(place)
    found: dict[str, Pair | None] = {}
    for split in ("train", "val", "test", "all"):
        photos, maps = (places.get((split, what), []) for what in ("images", "maps"))
        photos, maps = _given(tree, given, split, "images", photos), _given(tree, given, split, "labels", maps)
        if split in together:
            found[split] = _suffixes(tree, together[split], together[split])
        if maps and photos and split not in found:
            found[split] = _pair(tree, split, photos, maps)
    divided = any(found.get(split) for split in ("train", "val", "test"))
    return {split: pair for split, pair in found.items() if not (divided and split == "all")}


def _given(tree: Tree, given: Mapping[str, Any], split: str, key: str, found: list[str]) -> list[str]:
    """The folder that the user gives, if it lies in the tree, or those that were found."""
    folder = tree.relative(given[split][key]) if key in given.get(split, {}) else None
    return found if folder is None else [folder]


def _of_splits(given: Mapping[str, Any]) -> list[dict[str, str]]:
    return [given[split] for split in ("train", "val", "test") if split in given]


def _role(folder: str) -> tuple[str, str, str] | None:
    """The split, what is in a folder (`images` or `maps`), and the topmost folder of its kind; or `None`.

    Example:
        >>> _role("masks/train/day"), _role("train_labels"), _role("panoptic_train")
        (('train', 'maps', 'masks/train'), ('train', 'maps', 'train_labels'), None)
    """
    split, what, last = None, None, 0
    if OTHER.search(folder.lower()):
        return None
    for i, word in enumerate(parts(folder)):
        of_word, rest = split_of(word)
        if of_word is None and (glued := re.fullmatch(r"(train|val|test)(annot|masks?|labels?)", word.lower())):
            of_word, rest = glued[1], glued[2]
        plain = re.sub(r"[^a-z]", "", rest)
        kind = "images" if plain in PHOTOS else "maps" if plain in MAPS else "" if of_word and not plain else None
        if kind is None or (kind and what not in (None, kind)) or (of_word and split not in (None, of_word)):
            break
        split, what, last = of_word or split, kind or what, i + 1
    if last == 0 and folder:
        return None
    return split or "all", what or "images", "/".join(parts(folder)[:last])


def _pair(tree: Tree, split: str, photos: list[str], maps: list[str]) -> Pair | None:
    """The folders of images and maps that share names; several maps for the same images are an error."""
    found = [pair for photo in photos for place in maps if (pair := _suffixes(tree, photo, place)) is not None]
    if not found and (jpegs := [place for place in maps if _shares(tree, photos, place)]):
        raise DataError(
            f"the label maps in {jpegs[0]} are JPEG, whose compression changes the values; export them as PNG"
        )
    if len({pair.labels for pair in found}) > 1:
        places = ", ".join(sorted({pair.labels for pair in found}))
        raise DataError(f"it has several folders of label maps: {places}; say which: --data.{split}.labels DIR")
    return found[0] if found else None


def _shares(tree: Tree, photos: list[str], maps: str) -> bool:
    """Whether JPEG files have the names of photos."""
    stems = {name.rpartition(".")[0] for photo in photos for name in tree.within(photo)}
    names = [name for name in tree.within(maps) if name.lower().endswith((".jpg", ".jpeg"))]
    return any(name.rpartition(".")[0] in stems for name in names)


def _suffixes(tree: Tree, images: str, labels: str) -> Pair | None:
    """The pair of two folders, with the suffixes that make names of images and maps equal."""
    photos, maps = tree.within(images), tree.within(labels)
    if images == labels:
        maps = [name for name in maps if MARK.search(name)]
        photos = [name for name in photos if not MARK.search(name)]
        if len({name.rpartition(".")[2] for name in photos}) != 1:
            return None
    maps = [name for name in maps if name.lower().endswith(MAP_FILES)]
    stems = {name.rpartition(".")[0] for name in photos}
    if images != labels and stems & {name.rpartition(".")[0] for name in maps}:
        return Pair(images, labels)
    ends = (_common_end(photos), _common_end(maps))
    if all(ends) and {p.removesuffix(ends[0]) for p in photos} & {m.removesuffix(ends[1]) for m in maps}:
        return Pair(images, labels, *ends)
    return None


def _common_end(names: list[str]) -> str:
    """What all names end with, from a `_`, `-` or `.` on.

    Example:
        >>> _common_end(["a_1_L.png", "b_1_L.png"]), _common_end(["a0.png", "b0.png"])
        ('_1_L.png', '.png')
    """
    # of letters, not of folders
    end = os.path.commonprefix([name[::-1] for name in names])[::-1]  # noqa: RUF071
    if len(names) == 1:
        end = next((match[0] for match in [MARK.search(names[0])] if match), os.path.splitext(names[0])[1])
    start = re.search(r"[_.-]", end)
    return end[start.start() :] if start else ""


def _found(tree: Tree, pairs: dict[str, Pair], given: Mapping[str, Any], fraction: float) -> Found:
    some = next(iter(pairs.values()))
    if len({(pair.image_suffix, pair.label_suffix) for pair in pairs.values()}) > 1:
        ends = "; ".join(f"{split}: {pair.image_suffix}, {pair.label_suffix}" for split, pair in pairs.items())
        raise DataError(f"the names of its images and label maps end differently in its splits ({ends}); rename them")
    folders = [place for pair in pairs.values() for place in (pair.labels, os.path.dirname(pair.labels), pair.images)]
    classes = _classes(tree, folders, given)
    maps = {split: _maps(tree, pair) for split, pair in pairs.items()}
    rule = values_of(tree, maps, classes)
    splits, labels, lines = {}, {split: str(tree.path(pair.labels)) for split, pair in pairs.items()}, list(rule.lines)
    suffix = some.label_suffix
    if rule.converts:
        place, more = kept(
            tree.root, "semantic", rule.files(tree, maps), rule.plain, lambda p: rule.write(tree, maps, p)
        )
        labels, suffix = {split: str(place / split) for split in pairs}, suffix and f"{suffix.rpartition('.')[0]}.png"
        lines += [f"the colours are turned into pixel values, which are kept in {place}", *more]
    for split, pair in pairs.items():
        splits[split] = SemanticSplit(str(tree.path(pair.images)), labels[split])
    splits, counts, divided = _divided(tree, pairs, maps, splits, given, fraction)
    said = [
        f"{split}: {counts[split]} label maps in {tree.relative(files.labels) or '.'}"
        for split, files in splits.items()
    ]
    said += [class_line(rule.names), *divided, *lines]
    source = ", ".join(dict.fromkeys(pair.labels for pair in pairs.values()))
    ends = {"image_suffix": some.image_suffix, "label_suffix": suffix} if some.label_suffix else {}
    options = {"classes": rule.names, "values": rule.values, **ends}
    # folders that lie elsewhere are not looked into
    inside = all(tree.relative(path) for values in _of_splits(given) for path in values.values())
    return Found("label maps", "semantic", splits, options, said, source, inside)


def _classes(tree: Tree, folders: list[str], given: Mapping[str, Any]) -> ClassList | None:
    """The classes that the user gives, or else those that a file lists."""
    names, values = given.get("classes"), given.get("values")
    found = class_list(tree, folders) if names is None else None
    if names is not None:
        names, values = label_set(names, values)
        found = ClassList("data.classes", list(names))
    return found if values is None or found is None else dataclasses.replace(found, values=list(values))


def _maps(tree: Tree, pair: Pair) -> list[Map]:
    """The label maps of a pair that have an image."""
    end = pair.label_suffix
    names = [name for name in tree.within(pair.labels) if name.lower().endswith(end.lower() if end else MAP_FILES)]
    stems = {_stem(name, pair.image_suffix) for name in tree.within(pair.images)}
    return [Map(join(pair.labels, name), name) for name in names if _stem(name, end) in stems]


def _stem(name: str, end: str | None) -> str:
    return name.removesuffix(end) if end else name.rpartition(".")[0]


def _divided(
    tree: Tree,
    pairs: Mapping[str, Pair],
    maps: Mapping[str, list[Map]],
    splits: dict[str, SemanticSplit],
    given: Mapping[str, Any],
    fraction: float,
) -> tuple[dict[str, SemanticSplit], dict[str, int], list[str]]:
    """The splits and how many pairs each has; where nothing divides the pairs, lists or else a hash of names do."""
    counts = {split: len(some) for split, some in maps.items()}
    whole = next((split for split in ("all", "train") if split in splits), None)
    if whole is None:
        return splits, counts, []
    images, labels = splits[whole].images, splits[whole].labels
    stems = [_stem(label_map.name, pairs[whole].label_suffix) for label_map in maps[whole]]
    if whole == "all" and "train" in (lists := _lists(tree, set(stems))):
        found = {s: SemanticSplit(images, labels, files=str(tree.path(path))) for s, (path, _) in lists.items()}
        return found, {s: count for s, (_, count) in lists.items()}, [f"the splits are those of {LISTS}"]
    rest = {split: value for split, value in splits.items() if split != whole}
    flags, line = [], ""
    if "val" not in given and "val" not in splits:
        flags, line = divide(tree.root, [label_map.path for label_map in maps[whole]], fraction)
    if not any(flags):
        return {"train": splits[whole], **rest}, {**counts, "train": counts[whole]}, []
    names = {split: [stem for stem, flag in zip(stems, flags) if flag == side] for split, side in SIDES.items()}

    def write(folder: Path) -> list[str]:
        for split, some in names.items():
            (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in some), encoding="utf-8")
        return []

    place, _ = kept(tree.root, "split", [], names, write)
    halves = {split: SemanticSplit(images, labels, files=str(place / f"{split}.txt")) for split in names}
    return halves | rest, {**counts, **{split: len(some) for split, some in names.items()}}, [line]


def _lists(tree: Tree, stems: set[str]) -> dict[str, tuple[str, int]]:
    """Pascal VOC's lists of the pairs of each split, and how many each has."""
    found = {}
    for name in tree.folders.get(LISTS, []):
        split, rest = split_of(name)
        if split is not None and rest == "*.txt":
            listed = tree.path(join(LISTS, name)).read_text(encoding="utf-8", errors="replace").splitlines()
            if count := len(stems & set(listed)):
                found[split] = join(LISTS, name), count
    return {split: found[split] for split in ("train", "val", "test") if split in found}
