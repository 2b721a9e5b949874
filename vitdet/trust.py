"""Which classes a file of unknown origin may name: no file decides which code is run.

Known are vitdet's own classes, those of modules that the program has imported already, and those of modules that a
config of the user's own names (`allow`). No other module is imported.
"""

import importlib
import re
import sys
from collections.abc import Iterator
from typing import Any, TypeVar

from vitdet.errors import clip, short

T = TypeVar("T")

# what names a class in a config, where it is not the value of `class_path`
_CLASS = re.compile(r"(\w+\.)+[A-Z]\w*")
_allowed: set[str] = set()


def find_class(class_path: str) -> Any:
    """What has the name `class_path`; for vitdet's classes the module may be left out.

    Raises:
        ModuleNotFoundError: its module is not known, and is not imported.
        AttributeError: the module has no such name.
    """
    if not is_known(class_path):
        raise ModuleNotFoundError(f"{short(class_path)} is no part of vitdet; {how_to_trust(class_path)}")
    module, _, name = class_path.rpartition(".")
    module = module or "vitdet"
    if module in _allowed or is_ours(module):
        return getattr(importlib.import_module(module), name)
    # a module may import others when it is asked for a name that it does not have
    if name not in vars(sys.modules[module]):
        raise AttributeError(f"module {module} has no attribute {name}")
    return vars(sys.modules[module])[name]


def how_to_trust(class_path: Any) -> str:
    """What a message says of a class that is not known."""
    module = clip(str(class_path).rpartition(".")[0] or str(class_path), 60)
    return f"if you trust it, import {module} first; on the command line: --import {module}"


def is_ours(name: str) -> bool:
    """Whether a module or a class is vitdet's, by its name."""
    return name.partition(".")[0] == "vitdet"


def is_known(class_path: Any) -> bool:
    """Whether a file may name this class: it is in vitdet, or in a module that is imported already, or allowed.

    Example:
        >>> is_known("vitdet.Backbone"), is_known("os.system"), is_known("antigravity.Fly")
        (True, True, False)
    """
    if not isinstance(class_path, str) or not all(word.isidentifier() for word in class_path.split(".")):
        return False
    module = class_path.rpartition(".")[0] or "vitdet"
    return is_ours(module) or module in sys.modules or module in _allowed


def allow(config: T) -> T:
    """Allows the modules of the classes that a config of the user's own names, so that a checkpoint may name them, too.

    Returns:
        The config.

    Example:
        >>> is_known("my_heads.MyHead"), allow({"head": "my_heads.MyHead"}), is_known("my_heads.MyHead")
        (False, {'head': 'my_heads.MyHead'}, True)
    """
    _allowed.update(name.rpartition(".")[0] for name in classes_in(config) if "." in name)
    for value in _leaves(config):
        if isinstance(value, str) and _CLASS.fullmatch(value):
            _allowed.add(value.rpartition(".")[0])
    return config


def _leaves(value: Any) -> Iterator[Any]:
    if not isinstance(value, (dict, list, tuple)):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from _leaves(item)


def classes_in(value: Any) -> Iterator[str]:
    """Every `class_path` inside of a value."""
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from classes_in(item)
    if isinstance(value, dict) and isinstance(value.get("class_path"), str):
        yield value["class_path"]
