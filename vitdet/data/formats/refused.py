"""Folders whose COCO JSON files are refused in training: where they and their images are, for `vitdet data check`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitdet.data.formats.families import Kind, choose, families
from vitdet.data.formats.find import inner
from vitdet.data.formats.found import AnySplit, Found
from vitdet.data.formats.names import folder_of
from vitdet.data.formats.tree import Tree, checked_folder
from vitdet.data.splits import PanopticSplit, Split
from vitdet.errors import DataError


def refused(folder: str | Path, error: DataError, kind: str | None = None) -> Found:
    """The COCO JSON files of a folder by split, with the folders of their images, whatever the files hold.

    Args:
        folder: the folder.
        error: why it is refused.
        kind: the kind of the labels, if several are there.

    Raises:
        DataError: `error`, where there are no such files, or several of which nothing tells which are meant.
    """
    tree = inner(Tree.of(checked_folder(folder)))
    found = [family for family in families(tree) if kind in (None, family.kind)]
    if len({family.kind for family in found}) != 1:
        raise error
    family, _ = choose(found, {})
    splits: dict[str, AnySplit] = {}
    for split, name in family.files.items():
        path = tree.path(name)
        splits["train" if split == "all" else split] = _split(tree, family.kind, split, path)
    return Found("COCO", family.kind, splits, lines=[f"can't be trained on: {error}"], source=str(family))


def _split(tree: Tree, kind: Kind, split: str, path: Path) -> AnySplit:
    beside = tree.relative(path.parent) or ""
    content = _content(path)
    wanted = None if split == "all" else split
    images, _ = folder_of(_names(content.get("images")), tree, split=wanted, beside=beside)
    photos = str(tree.path(beside if images is None else images))
    if kind == "instances":
        return Split(photos, str(path))
    names = _names(content.get("annotations"))
    segments, _ = folder_of(names, tree, split=wanted, beside=beside, maps=path.stem)
    return PanopticSplit(photos, str(path), str(tree.path(beside if segments is None else segments)))


def _content(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    # the check of the file says what is wrong with it
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _names(items: Any) -> list[str]:
    found = [item.get("file_name") for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return [name for name in found if isinstance(name, str) and "\0" not in name]
