"""From a folder of labelled images to a data module."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitdet.data.formats.find import find
from vitdet.data.formats.found import Found
from vitdet.errors import DataError

if TYPE_CHECKING:
    from vitdet.data.module import ImageData

log = logging.getLogger("vitdet")
SPLITS = ("train", "val", "test")
# the arguments that say how a folder is read, and are no arguments of a data module
READING = ("kind", "layout", "prefer", "val_fraction")


def open(folder: str | Path, **options: Any) -> "ImageData":
    """A data module for a folder of labelled images, whose layout, splits, classes and kind of labels are recognised.

    What was recognised is logged as information, a line each.

    Args:
        folder: the folder; `docs/data.md` lists the layouts.
        options: arguments of the data module, which is a `CocoData`, `PanopticData` or `SemanticData`: they replace
            what is recognised. A split may be given in part, such as `val={"annotations": "val.json"}`. And those of
            `vitdet.data.formats.find`: `kind` and `layout` choose where a folder has several, `val_fraction` is the
            share of the images that validate where it has no split.

    Raises:
        UserError: there is no such folder, it has no labels that are known, or several and nothing tells which to take.

    Example:
        >>> from vitdet.data.shapes import make_shapes
        >>> data = open(make_shapes("datasets/few", train=4, val=2), kind="instances", batch_size=2)
        >>> type(data).__name__, len(data.index("train")), data.batch_size
        ('CocoData', 4, 2)
    """
    found, arguments = resolve(folder, options)
    for line in found.lines:
        log.info("%s", line)
    try:
        return found.module(**arguments)
    except OSError as error:
        raise DataError(str(error)) from error


def resolve(folder: str | Path, options: Mapping[str, Any]) -> tuple[Found, dict[str, Any]]:
    """What is in a folder, and the plain arguments of its data module: what was found, with `options` over it."""
    reading = {key: options[key] for key in READING if key in options}
    rest = {key: value for key, value in options.items() if key not in READING}
    given = {split: plain for split in SPLITS if isinstance(plain := _plain(rest.get(split)), dict)}
    known = {key: rest[key] for key in ("classes", "values") if rest.get(key) is not None}
    found = find(folder, given={**given, **known}, **reading)
    arguments = {key: _plain(value) for key, value in found.arguments.items()}
    for key, value in rest.items():
        if key not in given:
            arguments[key] = value
        elif not found.applied or key not in arguments:
            arguments[key] = {**(arguments.get(key) or {}), **given[key]}
    return found, arguments


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
