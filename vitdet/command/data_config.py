"""What a config says about its data and its model, for `vitdet data check`, which must not stop at the first fault."""

import dataclasses
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitdet.command.files import ConfigError, parse
from vitdet.command.keys import part_class
from vitdet.command.layers import arguments, at, read_words
from vitdet.command.mistakes import Checked
from vitdet.command.run import _layers, complete
from vitdet.data import CocoData, ImageData, PanopticData, SemanticData, Size
from vitdet.data.check import Place, Plan
from vitdet.data.label_sets import label_set

SPLITS = ("train", "val", "test")


def plan_of_config(path: str, words: Sequence[str]) -> Plan:
    """What is to be checked of the data of `CONFIG --key value …`, and for which model.

    No data module is built, since that refuses data at their first fault, unless it is one of a class of the user's.

    Args:
        path: the config, or a checkpoint.
        words: the keys and values on top of it.

    Raises:
        UserError: the config is wrong, or gives no data.
    """
    settings, flags = read_words(words)
    if flags:
        raise ConfigError(f"{flags[0]} is no option of vitdet data check")
    config = _layers("check", path, settings)
    config = complete(config, at(config, "model").get("checkpoint"))
    Checked(config, path, settings).check()
    cls, options = part_class(config["data"]["class_path"]), _typed(arguments(config["data"]))
    if cls not in (CocoData, PanopticData, SemanticData):
        options = _of_instance(cls, options)
    plan = plan_of(path, cls.kind, options)
    size = Size.parse(options.get("size"))
    return plan.with_model(size=size, patch=_patch(config), queries=_queries(config))


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
        raise ConfigError(f"{source} gives no data: set data.train, data.val or data.test, or say --data FOLDER")
    names, values = label_set(options["classes"], options.get("values")) if kind == "semantic" else ((), None)
    reading = _typed(_plain(options.get("reading")))
    changed = [
        f"data.{key}" for key in ("classes", "rename") if options.get(key) and (kind, key) != ("semantic", "classes")
    ]
    lines = [f"{' and '.join(changed)}: not applied, the files are checked as they are"] if changed else []
    suffixes = {key: options.get(key) for key in ("image_suffix", "label_suffix")}
    exif = reading.get("exif", True)
    return Plan(source, kind, places, names=names, values=values, exif=exif, lines=lines, **suffixes)


def _typed(options: dict[str, Any]) -> dict[str, Any]:
    """Options with the numbers, lists and flags that the command line gives as text."""
    return {key: parse(value, key) if isinstance(value, str) else value for key, value in options.items()}


def _of_instance(cls: type, options: dict[str, Any]) -> dict[str, Any]:
    """The options with the splits and classes of an object of another class, which makes them in its constructor."""
    common = inspect.signature(ImageData).parameters
    data = cls(**{key: value for key, value in options.items() if key not in common})
    known = {**getattr(data, "_classes", {}), **getattr(data, "_suffixes", {})}
    return {**options, **known, **data.splits}


def _places(split: str, given: Any) -> list[tuple[str, Place]]:
    sources = given if isinstance(given, list) else [given]
    sources = [source for item in sources if (source := _plain(item))]
    found = []
    for k, source in enumerate(sources):
        labels = source.get("annotations") or source.get("labels")
        if not source.get("images") or not labels:
            raise ConfigError(f"data.{split} has {source}; wanted images with annotations or labels")
        segments = Path(source["segments"]) if source.get("segments") else None
        name = f"{split} {k + 1}" if len(sources) > 1 else split
        files = Path(source["files"]) if source.get("files") else None
        found.append((name, Place(Path(source["images"]), Path(labels), segments, files)))
    return found


def _plain(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return dict(value) if isinstance(value, dict) else {}


def _patch(config: dict[str, Any]) -> int:
    """The side of a patch in pixels, as the backbone's options or its name say."""
    options = at(config, "model.backbone").get("init_args") or {}
    named = re.search(r"patch(\d+)", str(options.get("name")))
    return int(options.get("patch_size") or (named[1] if named else 16))


def _queries(config: dict[str, Any]) -> int | None:
    """How many objects the head can find in an image; nothing if it has no queries."""
    head = at(config, "model.head")
    given = (head.get("init_args") or {}).get("num_queries")
    if given is not None:
        return int(given)
    known = inspect.signature(part_class(head["class_path"])).parameters.get("num_queries")
    return known.default if known is not None and isinstance(known.default, int) else None
