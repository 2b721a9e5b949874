"""What a folder of labelled images holds: the layouts that are there, and which of them is meant."""

import dataclasses
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from vitdet.data.formats import coco, foreign, scenes, semantic
from vitdet.data.formats.coco import ROBOFLOW
from vitdet.data.formats.families import families, others
from vitdet.data.formats.foreign import Pending
from vitdet.data.formats.found import Fault, Found, Kind
from vitdet.data.formats.splits import FRACTION
from vitdet.data.formats.tree import Tree, check_some, checked_folder
from vitdet.errors import DataError, check

KINDS = get_args(Kind)
# how many of several layouts an error lists
FEW = 4
Candidate = Found | Pending | Fault


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
        given: what is known of each split, such as `{"train": {"annotations": "a.json"}}`, and the `classes` and
            `values` of label maps.

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
        tree = inner(Tree.of(root))
        check_some(tree)
        seen = list(_candidates(tree, given or {}, val_fraction))
        return _chosen(tree, seen, kind, layout, prefer)
    except OSError as error:
        raise DataError(f"{error.filename or root}: {error.strerror or error}; check the folder {root}") from error


def inner(tree: Tree) -> Tree:
    """The only folder in a folder that holds nothing else, as archives unpack."""
    inside = [name for name in tree.folders if name and "/" not in name]
    if tree.folders[""] or len(inside) != 1 or len(tree.folders) == 2:
        return tree
    return inner(Tree.of(tree.root / inside[0]))


def _candidates(tree: Tree, given: Mapping[str, Any], fraction: float) -> Iterable[Candidate]:
    """All that can be recognised; what is only known from its downloads comes first, and then alone."""
    for scene in (scenes.cityscapes, scenes.ade20k):
        if (found := scene(tree, given, fraction)) is not None:
            yield found
            return
    jsons = families(tree)
    yield from foreign.recognise(tree, foreign.likely(tree, others(tree, jsons)), given, fraction)
    yield from coco.recognise(tree, jsons, given, fraction)
    if (found := semantic.recognise(tree, given, fraction)) is not None:
        yield found


def _chosen(tree: Tree, seen: list[Candidate], kind: Kind | None, layout: str | None, prefer: Kind | None) -> Found:
    """The candidate that is meant.

    Raises:
        DataError: there is none, or several.
    """
    asked = [
        candidate
        for candidate in seen
        if kind in (None, candidate.kind) and (layout or candidate.layout).lower() == candidate.layout.lower()
    ]
    if not asked:
        raise _nothing(tree, seen, kind, layout)
    # a JSON file whose images or PNGs were not downloaded is no rival
    asked = [candidate for candidate in asked if not (isinstance(candidate, Fault) and candidate.absent)] or asked
    # it says so itself, and has no other labels
    likely = (
        [candidate for candidate in asked if candidate.layout == ROBOFLOW]
        or [candidate for candidate in asked if candidate.kind == prefer]
        or asked
    )
    if len(likely) > 1:
        raise _several(tree, likely)
    found = likely[0]
    if isinstance(found, Fault):
        raise DataError(f"{tree.root}: {found.error}") from found.error
    rest = [candidate for candidate in seen if candidate is not found]
    others = [f"{candidate.layout} ({candidate.kind})" for candidate in rest if not isinstance(candidate, Fault)]
    if isinstance(found, Pending):
        found = found.make()
    beside = [f"also there: {', '.join(others)}; --data.kind or --data.layout chooses"] if others else []
    beside += [
        f"left alone: {candidate.layout} ({candidate.kind}): {candidate.error}"
        for candidate in rest
        if isinstance(candidate, Fault)
    ]
    lines = [f"data: {tree.root}", f"layout: {found.layout}", *found.lines, f"kind: {found.kind}", *beside]
    return dataclasses.replace(found, lines=lines)


def _nothing(tree: Tree, seen: list[Candidate], kind: str | None, layout: str | None) -> DataError:
    if seen:
        asked = " and ".join(f"data.{key} {value}" for key, value in (("kind", kind), ("layout", layout)) if value)
        there = ", ".join(f"{candidate.layout} ({candidate.kind})" for candidate in seen)
        return DataError(f"{tree.root} has no labels of {asked}; it has {there}")
    images = sum(map(len, tree.images.values()))
    endings = sorted({name.rpartition(".")[2].lower() for name in tree.files if "." in name})
    return DataError(
        f"{tree.root} holds {images} images, but no labels of a layout that is known (its files end with "
        f"{', '.join(endings[:8])}); docs/data.md lists the layouts, and data.train.images with "
        "data.train.annotations (COCO) or data.train.labels (PNGs) names the files"
    )


def _several(tree: Tree, likely: list[Candidate]) -> DataError:
    few = likely[:FEW]
    shown = "; ".join(f"{candidate.layout} ({candidate.kind}): {candidate.source}" for candidate in few)
    shown += f"; and {len(likely) - FEW} more: is it a folder of several data sets?" if len(likely) > FEW else ""
    kinds = list(dict.fromkeys(candidate.kind for candidate in likely))
    key = f"--data.kind {'|'.join(kinds)}"
    if len(kinds) < len(likely):
        key = " or ".join(f"--data.layout {shlex.quote(layout)}" for layout in dict.fromkeys(c.layout for c in few))
    return DataError(f"{tree.root} has labels of several kinds or layouts; say which to take: {key} ({shown})")
