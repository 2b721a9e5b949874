"""What a part was built with, so that a checkpoint can build it again.

A `Configurable` remembers its constructor's arguments, whether it was made from YAML or in Python.
`config_of(part)` gives them as plain values (safe for `torch.load(weights_only=True)`); `build(config)` is the way back.
"""

import dataclasses
import functools
import importlib
import inspect
from pathlib import Path
from typing import Any


class Configurable:
    """Mixin: `self.init_args` holds the arguments of the outermost constructor, defaults included."""

    init_args: dict[str, Any]

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _remember(cls.__init__)


def _remember(init):
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapped(self, *args, **kwargs):
        if "init_args" not in vars(self):  # the outermost constructor runs first; those of its bases change nothing
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            arguments = dict(list(bound.arguments.items())[1:])
            for name, parameter in signature.parameters.items():
                if parameter.kind is parameter.VAR_KEYWORD:
                    arguments.update(arguments.pop(name))
            object.__setattr__(self, "init_args", arguments)
        init(self, *args, **kwargs)

    return wrapped


def config_of(value: Any) -> Any:
    """`value` as plain Python: a Configurable becomes `{"class_path": ..., "init_args": {...}}`, a dataclass such as `Split` a dict.

    Raises:
        TypeError: the value is neither plain nor Configurable, so it could not be built again.
    """
    if isinstance(value, Configurable):
        cls = type(value)
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": config_of(value.init_args)}
    if isinstance(value, dict):
        return {str(key): config_of(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [config_of(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: config_of(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"a constructor argument of type {type(value).__name__} can't be saved; use numbers, strings, lists or a Configurable"
    )


def build(config: Any) -> Any:
    """The part that `config_of` described.

    Raises:
        TypeError: `class_path` names something that is not a Configurable; a checkpoint may not call anything else.
    """
    if isinstance(config, list):
        return [build(item) for item in config]
    if not isinstance(config, dict):
        return config
    if set(config) == {"class_path", "init_args"}:
        return part(config["class_path"])(**build(config["init_args"]))
    return {key: build(item) for key, item in config.items()}


def part(class_path: str) -> type[Configurable]:
    """The class of that name.

    Raises:
        TypeError: it is not a Configurable.
    """
    module, _, name = class_path.rpartition(".")
    cls = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    if not (isinstance(cls, type) and issubclass(cls, Configurable)):
        raise TypeError(f"{class_path} is not a vitdet part, so a checkpoint may not build it")
    return cls


def check_parts(config: Any) -> None:
    """Raises:
    TypeError: somewhere in it a `class_path` names something that is not a Configurable.
    """
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, (list, tuple)) else ():
        check_parts(value)
    if isinstance(config, dict) and "class_path" in config:
        part(config["class_path"])
