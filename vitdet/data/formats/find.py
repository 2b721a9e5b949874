"""What a folder of labelled images holds: the layouts that are there, and which of them is meant."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from vitdet.data.formats import coco, foreign, scenes, semantic
from vitdet.data.formats.found import Found, Kind
from vitdet.data.formats.splits import FRACTION
from vitdet.data.formats.tree import Tree, check_some, checked_folder
from vitdet.errors import DataError, UserError, check

log = logging.getLogger("vitdet")
KINDS = get_args(Kind)


def find(
    folder: str | Path,
    *,
    kind: Kind | None = None,
    layout: str | None = None,
    prefer: Kind | None = None,
    val_fraction: float = FRACTION,
    given: Mapping[str, Any] | None = None,
) -> Found:
    """What is in a folder of labelled images: layout, splits, classes and kind of labels.

    Args:
        folder: the folder.
        kind: the kind of labels to take, where there are several.
        layout: the layout to take, where there are several, such as `YOLO`.
        prefer: the kind to take if there are several and neither `kind` nor `layout` is given.
        val_fraction: the share of the images that validate, where the folder has no validation data; 0 for none.
        given: what is known of each split, such as `{"train": {"annotations": "a.json"}}`.

    Raises:
        UserError: there is no such folder, it has no labels that are known, or several and nothing tells which to take.

    Example:
        >>> from vitdet.data.shapes import make_shapes
        >>> found = find(make_shapes("datasets/few", train=4, val=2), kind="instances")
        >>> found.layout, sorted(found.splits), found.kind
        ('COCO', ['train', 'val'], 'instances')
    """
    check("data.kind", kind, kind is None or kind in KINDS, ", ".join(KINDS))
    number = isinstance(val_fraction, (int, float)) and not isinstance(val_fraction, bool) and 0 <= val_fraction < 1
    check("data.val_fraction", val_fraction, number, "a number from 0, and below 1")
    root = checked_folder(folder)
    try:
        tree = _inner(Tree.of(root))
        check_some(tree)
        seen = list(_candidates(tree, given or {}, val_fraction))
        return _chosen(tree, seen, kind, layout, prefer)
    except OSError as error:
        raise DataError(f"{error.filename or root}: {error.strerror or error}; check the folder {root}") from error


def _inner(tree: Tree) -> Tree:
    """The only folder in a folder that holds nothing else, as archives unpack."""
    inside = [name for name in tree.folders if name and "/" not in name]
    if tree.folders[""] or len(inside) != 1 or len(tree.folders) == 2:
        return tree
    return _inner(Tree.of(tree.root / inside[0]))


def _candidates(tree: Tree, given: Mapping[str, Any], fraction: float) -> Iterable[Found | DataError]:
    """All that can be recognised; what is only known from its downloads comes first, and then alone."""
    for scene in (scenes.cityscapes, scenes.ade20k):
        if (found := scene(tree, given, fraction)) is not None:
            yield found
            return
    yield from foreign.recognise(tree, given, fraction)
    yield from coco.recognise(tree, given, fraction)
    if (found := semantic.recognise(tree, given, fraction)) is not None:
        yield found


def _chosen(tree: Tree, seen: list, kind: Kind | None, layout: str | None, prefer: Kind | None) -> Found:
    """The candidate that is meant.

    Raises:
        DataError: there is none, or several.
    """
    good = [one for one in seen if isinstance(one, Found)]
    faults = [one for one in seen if isinstance(one, DataError)]
    fits = [one for one in good if kind in (None, one.kind) and (layout or one.layout).lower() == one.layout.lower()]
    if not fits:
        raise _nothing(tree, good, [f for f in faults if kind in (None, getattr(f, "kind", None))], kind, layout)
    first = [one for one in fits if one.layout == "Roboflow COCO"] or [one for one in fits if one.kind == prefer]
    chosen = fits if len(fits) == 1 else first
    if len(chosen) != 1 or (len(fits) == 1 and not kind and not layout and any(_rivals(f, prefer) for f in faults)):
        raise _several(tree, fits, faults)
    found = chosen[0]
    others = [f"{one.layout} ({one.kind})" for one in good if one is not found]
    beside = [f"also there: {', '.join(others)}; --data.kind or --data.layout chooses"] if others else []
    beside += [f"left alone: {fault}" for fault in faults]
    lines = [f"data: {tree.root}", f"layout: {found.layout}", *found.lines, f"kind: {found.kind}", *beside]
    return Found(found.layout, found.kind, found.splits, found.options, lines)


def _rivals(fault: DataError, prefer: Kind | None) -> bool:
    """Whether labels that can't be used may be those that were meant."""
    return prefer is not None and getattr(fault, "kind", None) == prefer


def _nothing(tree: Tree, good: list[Found], faults: list[DataError], kind: str | None, layout: str | None) -> UserError:
    if faults:
        return DataError(f"{tree.root}: {'; '.join(map(str, faults))}")
    there = ", ".join(f"{one.layout} ({one.kind})" for one in good)
    if there:
        asked = " and ".join(f"data.{key} {value}" for key, value in (("kind", kind), ("layout", layout)) if value)
        return DataError(f"{tree.root} has no labels of {asked}; it has {there}")
    images = sum(map(len, tree.images.values()))
    endings = sorted({name.rpartition(".")[2].lower() for name in tree.files if "." in name})
    return DataError(
        f"{tree.root} holds {images} images, but no labels of a layout that is known (its files end with "
        f"{', '.join(endings[:8])}); docs/data.md lists the layouts, and data.train.images with "
        "data.train.annotations (COCO) or data.train.labels (PNGs) names the files"
    )


def _several(tree: Tree, fits: list[Found], faults: list[DataError]) -> DataError:
    seen = "; ".join(
        f"{one.kind}: {one.layout}, {', '.join(_place(tree, one, split) for split in one.splits)}" for one in fits
    )
    seen += "".join(f"; {fault}" for fault in faults)
    kinds = list(dict.fromkeys(one.kind for one in fits))
    key = f"--data.kind {'|'.join(kinds)}"
    if len(kinds) < len(fits):
        key = f"--data.layout {'|'.join(repr(one.layout) for one in fits)}"
    return DataError(f"{tree.root} has labels of several kinds or layouts ({seen}); say which to take: {key}")


def _place(tree: Tree, found: Found, split: str) -> str:
    files = found.splits[split]
    path = getattr(files, "annotations", None) or getattr(files, "labels", "")
    return str(tree.relative(path) or path)
