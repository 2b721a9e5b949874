"""Cityscapes and ADE20K, as they are downloaded."""

from collections.abc import Mapping
from typing import Any

from vitdet.data.formats.found import Found, class_line
from vitdet.data.formats.tree import Tree
from vitdet.data.label_sets import LABEL_SETS
from vitdet.data.splits import SemanticSplit

CITYSCAPES = (("_gtFine_labelIds.png", None), ("_gtFine_labelTrainIds.png", list(range(19))))


def cityscapes(tree: Tree, given: Mapping[str, Any], fraction: float) -> Found | None:
    """`leftImg8bit/train/CITY/*_leftImg8bit.png` and `gtFine/train/CITY/*_gtFine_labelIds.png`."""
    images = {folder.split("/")[1] for folder in tree.images if folder.startswith("leftImg8bit/")}
    for suffix, values in CITYSCAPES:
        counts = {
            split: sum(name.endswith(suffix) for name in tree.within(f"gtFine/{split}")) for split in ("train", "val")
        }
        if there := {split: count for split, count in counts.items() if count and split in images}:
            return _cityscapes(tree, there, suffix, values)
    return None


def _cityscapes(tree: Tree, there: dict[str, int], suffix: str, values: list[int] | None) -> Found:
    splits = {s: SemanticSplit(str(tree.path(f"leftImg8bit/{s}")), str(tree.path(f"gtFine/{s}"))) for s in there}
    lines = [f"{split}: {count} label maps *{suffix} in gtFine/{split}" for split, count in there.items()]
    found = LABEL_SETS["cityscapes", "semantic"]
    names = found.classes if values else "cityscapes"
    lines.append(class_line(found.classes))
    if tree.within("gtFine/test"):
        lines.append("left alone: gtFine/test, whose label maps are empty")
    options = {"classes": names, "image_suffix": "_leftImg8bit.png", "label_suffix": suffix}
    options |= {"values": values} if values else {}
    return Found("Cityscapes", "semantic", splits, options, lines)


def ade20k(tree: Tree, given: Mapping[str, Any], fraction: float) -> Found | None:
    """ADE20K of the scene parsing challenge: `images/training/*.jpg` and `annotations/training/*.png`."""
    splits, lines = {}, []
    for split, folder in (("train", "training"), ("val", "validation")):
        maps = [name for name in tree.images.get(f"annotations/{folder}", []) if name.startswith("ADE_")]
        if maps and f"images/{folder}" in tree.images:
            splits[split] = SemanticSplit(str(tree.path(f"images/{folder}")), str(tree.path(f"annotations/{folder}")))
            lines.append(f"{split}: {len(maps)} label maps in annotations/{folder}")
    if not splits:
        return None
    names = LABEL_SETS["ade20k", "semantic"].classes
    lines += [class_line(names), "pixel value 0 is void, 1 to 150 are the classes"]
    return Found("ADE20K", "semantic", splits, {"classes": "ade20k"}, lines)
