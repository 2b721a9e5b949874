"""What a config says about its data and its model, for `vitdet data check`, which must not stop at the first fault."""

import inspect
import re
from collections.abc import Sequence
from typing import Any

from vitdet.command.files import ConfigError
from vitdet.command.keys import part_class
from vitdet.command.layers import arguments, at
from vitdet.command.mistakes import Checked
from vitdet.command.run import _command, _layers, complete
from vitdet.data import CocoData, ImageData, PanopticData, SemanticData, Size
from vitdet.data.check import Plan
from vitdet.data.check.places import plan_of, typed


def plan_of_config(path: str, words: Sequence[str]) -> Plan:
    """What is to be checked of the data of `CONFIG --key value …`, and for which model.

    No data module is built, since that refuses data at their first fault, unless it is one of a class of the user's.

    Args:
        path: the config, its name, or a checkpoint.
        words: the keys and values on top of it.

    Raises:
        UserError: the config is wrong, or gives no data.
    """
    file, settings, flags = _command([path, *words])
    if flags:
        raise ConfigError(f"{flags[0]} is no option of vitdet data check")
    config = _layers("check", file, settings)
    config = complete(config, at(config, "model").get("checkpoint"))
    Checked(config, file, settings).check()
    cls, options = part_class(config["data"]["class_path"]), typed(arguments(config["data"]))
    if cls not in (CocoData, PanopticData, SemanticData):
        options = _of_instance(cls, options)
    plan = plan_of(path, cls.kind, options)
    size = Size.parse(options.get("size"))
    return plan.with_model(size=size, patch=_patch(config), queries=_queries(config))


def _of_instance(cls: type, options: dict[str, Any]) -> dict[str, Any]:
    """The options with the splits and classes of an object of another class, which makes them in its constructor."""
    common = inspect.signature(ImageData).parameters
    data = cls(**{key: value for key, value in options.items() if key not in common})
    known = {**getattr(data, "_classes", {}), **getattr(data, "_suffixes", {})}
    return {**options, **known, **data.splits}


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
