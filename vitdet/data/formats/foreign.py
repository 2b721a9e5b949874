"""Folders with labels in formats other than COCO's, which are converted to COCO JSON and kept."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from vitdet.data.formats import cvat, labelme, supervisely, via, voc, yolo
from vitdet.data.formats.files import files_under
from vitdet.data.formats.found import Fault, Found, Kind, class_line
from vitdet.data.formats.labels import Labels
from vitdet.data.formats.rewrite import Change, rewritten
from vitdet.data.formats.splits import SIDES, divide
from vitdet.data.formats.store import kept, write_json
from vitdet.data.formats.tree import Tree
from vitdet.data.splits import Split
from vitdet.errors import UserError

# each has a NAME, and a function `recognise`; and the endings of the files, of which there is at least one
MODULES = {
    yolo: (".txt", ".yaml", ".yml", ".data"),
    voc: (".xml",),
    labelme: (".json",),
    cvat: (".xml",),
    supervisely: (".json",),
    via: (".json", ".csv"),
}


@dataclass(frozen=True)
class Pending:
    """Labels that are recognised by the names of files, and not yet converted.

    Args:
        layout, kind: see `Found`.
        source: the splits, and how many files they were recognised by.
        make: converts them.
    """

    layout: str
    kind: Kind
    source: str
    make: Callable[[], Found]


def likely(tree: Tree, jsons: bool) -> list[ModuleType]:
    """The formats of which there may be files, by their endings: to look closer at 100,000 files takes seconds.

    Args:
        jsons: whether there are JSON files that are not COCO's.
    """
    endings = {os.path.splitext(name)[1].lower() for names in tree.folders.values() for name in names}
    endings -= set() if jsons else {".json"}
    return [module for module, some in MODULES.items() if endings & {*some}]


def recognise(
    tree: Tree, modules: list[ModuleType], given: Mapping[str, Any], fraction: float
) -> Iterable[Pending | Fault]:
    """What there is of each format; or, of a format, why it can't be used."""
    files = files_under(tree.root) if modules else []
    for module in modules:
        try:
            splits = module.recognise(tree.root, files)
        except UserError as error:
            yield Fault(module.NAME, "instances", error)
            continue
        if splits:
            yield _pending(tree, module.NAME, splits, "val" in given, fraction)


def _pending(tree: Tree, name: str, splits: dict[str, Labels], has_val: bool, fraction: float) -> Pending:
    source = ", ".join(f"{split} of {len(labels.files)} files" for split, labels in splits.items())
    return Pending(name, "instances", source, lambda: _converted(tree, name, splits, has_val, fraction))


def _converted(tree: Tree, name: str, splits: dict[str, Labels], has_val: bool, fraction: float) -> Found:
    files = [path for labels in splits.values() for path in labels.files]
    share = 0 if has_val or "val" in splits else fraction
    place, lines = kept(tree.root, name, files, share, lambda folder: _write(tree, folder, splits, share))
    written = [split for split in ("train", "val", "test") if (place / f"{split}.json").is_file()]
    images = {split: (splits.get(split) or splits.get("train") or splits["all"]).images for split in written}
    found: dict[str, Any] = {split: Split(str(images[split]), str(place / f"{split}.json")) for split in written}
    return Found(name, "instances", found, {}, [*lines, f"the labels are kept in {place}, as COCO JSON"])


def _write(tree: Tree, folder: Path, splits: Mapping[str, Labels], fraction: float) -> list[str]:
    """Writes the JSON files of all splits, which have the same classes; returns lines about them."""
    contents, odd = {}, []
    for split, labels in splits.items():
        contents["train" if split == "all" else split], lines = labels.read()
        odd += [line for line in lines if line not in odd]
    names = _same_classes(contents)
    if (whole := contents.get("train")) is not None and fraction:
        flags, line = divide(tree.root, [image["file_name"] for image in whole["images"]], fraction)
        if any(flags):
            changes = {split: Change(kept=[flag == side for flag in flags]) for split, side in SIDES.items()}
            contents |= {split: rewritten(dict(whole), change) for split, change in changes.items()}
            odd.insert(0, line)
    for split, content in contents.items():
        write_json(folder / f"{split}.json", content)
    said = [
        f"{split}: {len(contents[split]['images'])} images, {len(contents[split]['annotations'])} objects"
        for split in ("train", "val", "test")
        if split in contents
    ]
    return [*said, class_line(names), *odd]


def _same_classes(contents: Mapping[str, dict[str, Any]]) -> list[str]:
    """Gives all contents the same categories, with the ids of the first that has each name; returns the names."""
    ids: dict[str, int] = {}
    for content in contents.values():
        for category in content["categories"]:
            free = category["id"] if category["id"] not in ids.values() else max(ids.values()) + 1
            ids.setdefault(category["name"], free)
    for content in contents.values():
        new = {category["id"]: ids[category["name"]] for category in content["categories"]}
        rest = {category["name"]: category for category in content["categories"]}
        content["categories"] = [{**rest.get(name, {}), "id": number, "name": name} for name, number in ids.items()]
        for annotation in content["annotations"]:
            annotation["category_id"] = new[annotation["category_id"]]
    return list(ids)
