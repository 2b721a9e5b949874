"""Folders of images and label maps: which folder holds what of which split, and what the pixel values stand for."""

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitdet.data.formats.classes import ClassList, class_list
from vitdet.data.formats.found import Fault, Found, class_line
from vitdet.data.formats.maps import Map, values_of
from vitdet.data.formats.splits import divide
from vitdet.data.formats.store import kept
from vitdet.data.formats.tree import Tree, join, parts, split_of
from vitdet.data.label_sets import label_set
from vitdet.data.sets import SemanticSplit
from vitdet.errors import DataError, UserError

PHOTOS = {"images", "image", "imgs", "img", "jpegimages", "photos", "rgb", "input", "inputs"}
MAPS = {
    *("masks", "mask", "labels", "label", "annotations", "annotation", "annots", "annot", "segmentation", "semantic"),
    *("segmentations", "segmentationclass", "segmentationclasspng", "gt", "groundtruth", "target", "targets"),
    *("pixellabels", "labelids", "segmentationmasks", "semanticmasks", "semanticlabels", "seg"),
}
# labels of other kinds, which may lie beside label maps
OTHER = re.compile(r"panoptic|instance|object|depth|disparity|color|colour|vis(?![a-z])")
MAP_FILES = (".png", ".bmp", ".tif", ".tiff", ".gif")
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
    if len({pair.labels for pair in found}) > 1:
        places = ", ".join(sorted({pair.labels for pair in found}))
        raise DataError(f"it has several folders of label maps: {places}; say which: --data.{split}.labels DIR")
    return found[0] if found else None


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
    splits, divided = _divided(tree, pairs, splits, "val" in given, fraction)
    said = [
        f"{name}: {_count(tree, pairs.get(name, some))} label maps in {split.labels}" for name, split in splits.items()
    ]
    said += [class_line(rule.names), *divided, *lines]
    source = ", ".join(dict.fromkeys(pair.labels for pair in pairs.values()))
    ends = {"image_suffix": some.image_suffix, "label_suffix": suffix} if some.label_suffix else {}
    options = {"classes": rule.names, "values": rule.values, **ends}
    return Found("label maps", "semantic", splits, options, said, source)


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


def _count(tree: Tree, pair: Pair) -> int:
    return len(_maps(tree, pair))


def _divided(
    tree: Tree, pairs: dict[str, Pair], splits: dict[str, SemanticSplit], has_val: bool, fraction: float
) -> tuple:
    """The splits, where there is no validation data with some of the training images for it."""
    whole = next((split for split in ("all", "train") if split in splits), None)
    if whole is None:
        return splits, []
    maps = _maps(tree, pairs[whole])
    flags, line = divide(tree.root, [m.path for m in maps], 0 if has_val or "val" in splits else fraction)
    rest = {split: value for split, value in splits.items() if split != whole}
    if not any(flags):
        return {"train": splits[whole], **rest}, []
    names = {"train": [], "val": []}
    for one, flag in zip(maps, flags):
        names["val" if flag else "train"].append(_stem(one.name, pairs[whole].label_suffix))

    def write(folder):
        for split, some in names.items():
            (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in some), encoding="utf-8")
        return []

    place, _ = kept(tree.root, "split", [], names, write)
    images, labels = splits[whole].images, splits[whole].labels
    halves = {split: SemanticSplit(images, labels, files=str(place / f"{split}.txt")) for split in names}
    return halves | rest, [line]
