"""What is to be checked, from the arguments of a data module, without building one."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from vitdet.data.check.run import Place, Plan, all_used
from vitdet.data.label_sets import label_set
from vitdet.errors import UserError
from vitdet.fetch import is_url

SPLITS = ("train", "val", "test")


def plan_of(source: str, kind: Any, options: dict[str, Any]) -> Plan:
    """What is to be checked of data, from the arguments of their data module.

    Args:
        source: what the report calls the data.
        kind: the kind of the labels.
        options: the arguments; a split is a mapping, an object with attributes, or a list of these.

    Raises:
        UserError: no split is given, or one lacks a folder or file.
    """
    places = {name: place for split in SPLITS for name, place in _places(split, options.get(split))}
    if not places:
        raise UserError(f"{source} gives no data: set data.train, data.val or data.test, or say --data FOLDER")
    names, values = label_set(options["classes"], options.get("values")) if kind == "semantic" else ((), None)
    reading = typed(plain(options.get("reading")))
    changed = [
        f"data.{key}" for key in ("classes", "rename") if options.get(key) and (kind, key) != ("semantic", "classes")
    ]
    lines = [f"{' and '.join(changed)}: not applied, the files are checked as they are"] if changed else []
    return Plan(
        source,
        kind,
        places,
        names=names,
        values=values,
        image_suffix=options.get("image_suffix"),
        label_suffix=options.get("label_suffix"),
        exif=reading.get("exif", True),
        unused=_unused(options) if kind != "semantic" else all_used,
        lines=lines,
    )


def _unused(options: dict[str, Any]) -> Callable[[str], bool]:
    """Whether `data.classes` leaves out a class, whose name `data.rename` may change."""
    kept, new = options.get("classes"), plain(options.get("rename"))
    return (lambda name: new.get(name, name) not in kept) if isinstance(kept, list | tuple) else all_used


def _places(split: str, given: Any) -> list[tuple[str, Place]]:
    sources = given if isinstance(given, list) else [given]
    sources = [source for item in sources if (source := plain(item))]
    found = []
    for k, source in enumerate(sources):
        labels = source.get("annotations") or source.get("labels")
        if not source.get("images") or not labels:
            raise UserError(f"data.{split} has {source}; wanted images with annotations or labels")
        on_disk(*(source.get(key) for key in ("images", "annotations", "labels", "segments", "files")))
        segments = Path(source["segments"]) if source.get("segments") else None
        name = f"{split} {k + 1}" if len(sources) > 1 else split
        files = Path(source["files"]) if source.get("files") else None
        found.append((name, Place(Path(source["images"]), Path(labels), segments, files)))
    return found


def on_disk(*paths: Any) -> None:
    """Raises:
    UserError: a path is an address.
    """
    for path in filter(is_url, paths):
        raise UserError(f"{path} is an address, and vitdet data check reads files on disk; check a copy of the data")


def plain(value: Any) -> dict[str, Any]:
    """The content of a mapping or a dataclass; nothing of any other value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return dict(value) if isinstance(value, dict) else {}


def typed(options: dict[str, Any]) -> dict[str, Any]:
    """Options with the numbers, lists and flags that the command line gives as text.

    Example:
        >>> typed({"size": "320", "values": "[1, 2]", "classes": "ade20k"})
        {'size': 320, 'values': [1, 2], 'classes': 'ade20k'}
    """
    return {key: _typed(value) if isinstance(value, str) else value for key, value in options.items()}


def nested(settings: dict[str, str]) -> dict[str, Any]:
    """Keys with dots, and their values as text, as the mappings that they mean.

    Example:
        >>> nested({"kind": "semantic", "val.files": "val.txt", "val_fraction": "0.1"})
        {'kind': 'semantic', 'val': {'files': 'val.txt'}, 'val_fraction': 0.1}
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        holder = found
        *outer, name = key.split(".")
        for part in outer:
            holder = holder.setdefault(part, {})
        holder[name] = value if outer else _typed(value)
    return found


def _typed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
