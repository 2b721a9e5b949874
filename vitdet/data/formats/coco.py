"""Folders with COCO JSON files: as published, of Roboflow, CVAT, Label Studio and FiftyOne, and any like them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.annotations.index import CocoIndex
from vitdet.annotations.json_text import read_json
from vitdet.data.formats.families import Family, choose, kind_of
from vitdet.data.formats.found import Fault, Found, class_line
from vitdet.data.formats.names import SAMPLE, folder_of, match
from vitdet.data.formats.rewrite import Change, rewritten
from vitdet.data.formats.splits import divide
from vitdet.data.formats.store import kept, write_json
from vitdet.data.formats.tree import Tree
from vitdet.data.splits import PanopticSplit, Split
from vitdet.errors import DataError, UserError

ORDER = ("all", "train", "val", "test")
ROBOFLOW, PANOPTIC = "Roboflow COCO", "COCO panoptic"


class Absent(DataError):
    """The files that a JSON names are not there."""


@dataclass
class Part:
    """A JSON file with its images.

    Args:
        split: `train`, `val` or `test`.
        path: the JSON file.
        index: what is in it.
        images: the folder of its images.
        segments: the folder of its PNGs, of panoptic labels.
        change: how the JSON has to be written anew, if at all.
        lines: what was odd.
    """

    split: str
    path: Path
    index: CocoIndex
    images: str | Path | None
    segments: str | Path | None = None
    change: Change = field(default_factory=Change)
    lines: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many images the split has."""
        return len(self.index) if self.change.kept is None else sum(self.change.kept)


def recognise(tree: Tree, all_families: list[Family], given: Mapping[str, Any], fraction: float) -> list[Found | Fault]:
    """What there is of COCO's instances and of its panoptic labels; or, of a kind, why it can't be used.

    Args:
        tree: the folder.
        all_families: the JSON files in it.
        given: what the user says of each split: `images`, `annotations` and `segments`.
        fraction: the share of the images that validate where the folder has no split.
    """
    found: list[Found | Fault] = []
    named = {split: values["annotations"] for split, values in given.items() if "annotations" in values}
    kinds = {split: kind_of(Path(path)) or "instances" for split, path in named.items()}
    for kind in ("instances", "panoptic"):
        some = [family for family in all_families if family.kind == kind]
        # relative to the folder where they lie in it; the path of any other file is absolute
        files = {s: tree.relative(path) or str(Path(path).resolve()) for s, path in named.items() if kinds[s] == kind}
        if some or files:
            try:
                found.append(_found(tree, *choose(some, files), given, fraction))
            except UserError as error:
                layout = PANOPTIC if kind == "panoptic" else _layout(some[0]) if some else "COCO"
                found.append(Fault(layout, kind, error, isinstance(error, Absent)))
    return found


def _found(tree: Tree, family: Family, others: list[Family], given: Mapping[str, Any], fraction: float) -> Found:
    odd = sorted(split for split in family.files if split not in ORDER)
    if odd:
        raise DataError(f"{odd[0]} and {family} are of the same split; say which: --data.train.annotations JSON")
    lines = [f"left alone: {other}" for other in others]
    files = dict(family.files)
    if "all" in files and "train" in files:
        lines.append(f"left alone: {files.pop('all')}")
    parts = [
        _part(tree, split, tree.path(path), given.get("train" if split == "all" else split, {}))
        for split, path in files.items()
    ]
    lines += [line for part in parts for line in part.lines]
    parts = [part for part in parts if part.images is not None and (family.kind, part.segments) != ("panoptic", None)]
    parts.sort(key=lambda part: ORDER.index(part.split))
    if not parts:
        raise Absent("; ".join(lines) or f"{family} lists no image")
    layout, options, names = _layout(family), {}, list(parts[0].index.names)
    if layout == ROBOFLOW and (root := _root(parts)) is not None:
        names.remove(root)
        options = {"classes": names}
        lines.append(f"left out: the class {root!r}, which Roboflow puts above all others, and which no object has")
    parts, notes = _divided(tree, parts, "val" in given, fraction)
    splits, written = _written(tree, parts, layout)
    said = [f"{part.split}: {part.count} images in {part.images or '.'}, {part.path.name}" for part in parts]
    lines = [*said, class_line(names), *notes, *written, *lines]
    return Found(layout, family.kind, splits, options, lines, str(family), True)


def _layout(family: Family) -> str:
    if family.name.endswith("_annotations.coco"):
        return ROBOFLOW
    return PANOPTIC if family.kind == "panoptic" else "COCO"


def _part(tree: Tree, split: str, path: Path, given: Mapping[str, Any]) -> Part:
    """A JSON file with the folder of its images, as far as they are found."""
    index = CocoIndex.open(path)
    index.check_images()
    images, segments = (Path(given[key]) if key in given else None for key in ("images", "segments"))
    part = Part(split, path, index, images, segments)
    wanted, beside = None if split == "all" else split, tree.relative(path.parent)
    names = index.file_names
    where = tree.relative(path) or path
    if part.images is None and names:
        part.images, share = folder_of(names, tree, split=wanted, beside=beside or "")
        if share < 1:
            _match(part, tree, wanted, list(names), str(where))
    if index.panoptic and part.segments is None:
        maps = _segment_names(index)
        part.segments, share = folder_of(maps, tree, split=wanted, beside=beside or "", maps=path.stem)
        if not maps or part.segments is None:
            part.segments = None
            part.lines.append(f"{where} is left alone: none of the PNGs that it names is in the folder")
    return part


def _match(part: Part, tree: Tree, split: str | None, names: list[str], where: str) -> None:
    """Takes the names of a JSON for those of files that are there, where other tools wrote them differently."""
    folder = str(part.images or "")
    here = {name: f"{folder}/{name}" if folder else name for name in names}
    found = match(names, tree, split=split, folder=folder)
    changed = {name: path for name, path in found.items() if path != here[name].replace("/./", "/")}
    missing = [name for name in names if name not in found]
    if not found:
        part.images = None
        part.lines.append(f"{where} is left alone: none of its {len(names)} images is in the folder ({names[0]}, …)")
        return
    if changed:
        part.images = ""
        part.change.names = {**{name: here[name] for name in missing}, **found}
        first = next(iter(changed))
        part.lines.append(
            f"{len(changed)} names of {where} are taken for files that are there: {first} for {changed[first]}"
        )
    if missing:
        part.lines.append(f"{len(missing)} images of {where} are not in the folder: {missing[0]}, …")


def _segment_names(index: CocoIndex) -> list[str]:
    """The names of some PNGs of a panoptic file."""
    rows = index.first[:-1][np.diff(index.first) > 0]
    rows = rows[:: max(1, len(rows) // SAMPLE)]
    names = (index.raw(int(row)).get("file_name") for row in rows)
    return [name for name in names if isinstance(name, str)]


def _root(parts: list[Part]) -> str | None:
    """The class that Roboflow puts above all others, if no object has it."""
    content = read_json(parts[0].path, "annotation file")
    categories = [item for item in content.get("categories") or [] if isinstance(item, dict)]
    above = [item.get("supercategory") for item in categories]
    root = next((c["name"] for c in categories if c.get("supercategory") == "none" and c.get("name") in above), None)
    indices = [part.index for part in parts]
    used = any(root not in i.names or (i.categories == i.names.index(root)).any() for i in indices)
    return None if used or len(categories) < 2 else root


def _divided(tree: Tree, parts: list[Part], has_val: bool, fraction: float) -> tuple[list[Part], list[str]]:
    """The parts, where there is no validation data with some of the training images for it."""
    by_split = {part.split: part for part in parts}
    whole = by_split.get("all") or by_split.get("train")
    if whole is None:
        return parts, []
    flags: list[bool] = []
    if not has_val and "val" not in by_split:
        flags, line = divide(tree.root, list(whole.index.file_names), fraction)
    if not any(flags):
        whole.split = "train"
        return parts, []
    halves = []
    for split, side in (("train", False), ("val", True)):
        change = Change(whole.change.names, [flag == side for flag in flags])
        halves.append(Part(split, whole.path, whole.index, whole.images, whole.segments, change))
    return halves + [part for part in parts if part is not whole], [line]


def _written(tree: Tree, parts: list[Part], layout: str) -> tuple[dict[str, Any], list[str]]:
    """The splits, with JSON files written anew where they have to be changed, and a line that says where."""
    changed = {part.split: part for part in parts if part.change}
    annotations = {part.split: part.path for part in parts}
    lines = []
    if changed:
        about = {split: part.change.plain() for split, part in changed.items()}
        files = [part.path for part in changed.values()]
        place, _ = kept(tree.root, layout, files, about, lambda folder: _write(folder, changed))
        annotations |= {split: place / f"{split}.json" for split in changed}
        lines.append(f"the labels are kept in {place}")
    splits: dict[str, Any] = {}
    for part in parts:
        images = str(tree.path(part.images) if isinstance(part.images, str) else part.images)
        if part.index.panoptic:
            segments = str(tree.path(part.segments) if isinstance(part.segments, str) else part.segments)
            splits[part.split] = PanopticSplit(images, str(annotations[part.split]), segments)
        else:
            splits[part.split] = Split(images, str(annotations[part.split]))
    return splits, lines


def _write(folder: Path, parts: Mapping[str, Part]) -> list[str]:
    for split, part in parts.items():
        content = read_json(part.path, "annotation file")
        write_json(folder / f"{split}.json", rewritten(content, part.change))
    return []
