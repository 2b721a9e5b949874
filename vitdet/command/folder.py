"""`data: FOLDER` in the layers of a config, and what it comes to: the data module that reads what is in the folder."""

import difflib
import logging
import re
from pathlib import Path
from typing import Any

from vitdet.command.files import ConfigError, describe, parse

log = logging.getLogger("vitdet")
# stands for the class until all layers are merged and the folder has been looked into
UNKNOWN = "vitdet.data.ImageData"
# the classes that say of which kind the labels of a folder are
KINDS = {"vitdet.CocoData": "instances", "vitdet.PanopticData": "panoptic", "vitdet.SemanticData": "semantic"}
# a config that was written for such data is for labels of their kind; that of boxes is the usual one, and says little
PREFERRED = {
    "vitdet.PanopticData": "panoptic",
    "vitdet.ShapesPanopticData": "panoptic",
    "vitdet.SemanticData": "semantic",
    "vitdet.ShapesSemanticData": "semantic",
}


def is_folder(value: str) -> bool:
    """Whether `data: VALUE` is meant as a folder rather than as the name of a class.

    Example:
        >>> is_folder("sets/birds"), is_folder("CocoData"), is_folder("mine.Birds"), is_folder("birds.zip")
        (True, False, False, True)
    """
    import vitdet

    if value in vitdet.__all__:
        return False
    if re.search(r"[\\/~]", value) or re.search(r"\.(zip|tar|tgz|gz)$", value) or Path(value).exists():
        return True
    # no class is spelt so, or it is one of another library, such as `mine.birds`
    if re.fullmatch(r"(\w+\.)*[A-Z]\w*|\w+(\.\w+)+", value):
        return False
    return not difflib.get_close_matches(value.lower(), [name.lower() for name in vitdet.__all__], 1, 0.8)


def spelt(value: str) -> dict[str, Any]:
    """`data: FOLDER` with its class and arguments."""
    return {"class_path": UNKNOWN, "init_args": {"folder": value}}


def over(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The data of a layer, given those of the layers below it: a folder wins over a class, whose kind it takes over.

    Args:
        before, after: the class and the arguments of the data, each spelt out.
    """
    below, path, given = before.get("class_path"), after.get("class_path"), after.get("init_args") or {}
    if "folder" in given and path in (None, UNKNOWN, *KINDS) and (path or below is None or below.startswith("vitdet.")):
        known = {"prefer": PREFERRED[below]} if below in PREFERRED else {}
        return {**after, "class_path": UNKNOWN, "init_args": {**known, **_kind(path), **given}}
    if below == UNKNOWN and path in KINDS and "folder" in (before.get("init_args") or {}):
        return {**after, "class_path": UNKNOWN, "init_args": {**given, **_kind(path)}}
    return after


def _kind(path: str | None) -> dict[str, str]:
    return {"kind": KINDS[path]} if path in KINDS else {}


def look(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the class and the arguments of what is in the folder that it names, if it names one.

    What is recognised is logged, a line each. The paths are spelt out, so that the config of a run is what it was
    trained with, whatever else the folder holds later.

    Raises:
        UserError: there is no such folder, or nothing tells what is in it.
    """
    data = config.get("data") or {}
    if data.get("class_path") != UNKNOWN:
        return config
    options = dict(data.get("init_args") or {})
    folder = options.pop("folder", None)
    if not isinstance(folder, str):
        raise ConfigError(f"data.folder is {describe(folder)}; wanted the path of a folder of labelled images")
    from vitdet.data.formats.open import resolve

    for key in ("classes", "values", "val_fraction"):
        # what follows from them is found here, before the parser makes lists and numbers of text
        if isinstance(options.get(key), str):
            options[key] = parse(options[key], f"data.{key}")
    found, arguments = resolve(folder, options)
    for line in found.lines:
        log.info("%s", line)
    return {**config, "data": {"class_path": f"vitdet.{found.module.__name__}", "init_args": arguments}}
