"""Folders with labels in formats other than COCO's, which are converted to COCO JSON."""

from collections.abc import Iterable, Mapping
from typing import Any

from vitdet.data.formats.found import Found
from vitdet.data.formats.tree import Tree
from vitdet.errors import DataError

MODULES = ()


def recognise(tree: Tree, given: Mapping[str, Any], fraction: float) -> Iterable[Found | DataError]:
    return ()
