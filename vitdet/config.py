"""The arguments that a part was built with, so that a file can name it and a checkpoint can build it again.

A `Configurable` remembers the arguments of its constructor, whether it was made from YAML or in Python.
`config_of(part)` gives them as plain values (safe for `torch.load(weights_only=True)`), with the part's public name;
`build(config)` is the inverse. `options` makes a class for a group of arguments that belong together.
"""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vitdet.errors import UserError
from vitdet.ranges import Rule, ranged
from vitdet.trust import find_class

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda function: function


T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def options(rules: Mapping[str, Rule]) -> Callable[[type[T]], type[T]]:
    """A decorator that makes a class a group of options: a frozen dataclass of keywords, checked by `rules`.

    Args:
        rules: the rules of the options, by their names, see `ranged`.

    Example:
        >>> from vitdet.ranges import whole
        >>> @options({"points": whole(1)})
        ... class Masks:
        ...     points: int = 1024
        >>> Masks(points=12)
        Masks(points=12)
    """

    def decorate(cls: type[T]) -> type[T]:
        cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        cls.__init__ = ranged(rules)(cls.__init__)
        return cls

    return decorate


class Configurable:
    """A mixin class: `self.init_args` holds the arguments of the outermost constructor, with all defaults.

    If a constructor takes `**options` for its base class, the defaults of the base class are recorded as well. An
    argument that is annotated with a dataclass may be given as a mapping; an argument that is annotated as a `Callable`
    that makes a part may be given as `{"class_path": ..., "init_args": ...}`.
    """

    init_args: dict[str, Any]

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _remember(cls.__init__)

    def make_part(self, name: str, factory: Callable[..., T], /, *sizes: Any, **more_sizes: Any) -> T:
        """The part `factory(*sizes, **more_sizes)`, which is recorded as the argument `name`.

        The sizes are not recorded: whoever builds the part again computes them again.
        """
        made = factory(*sizes, **more_sizes)
        if isinstance(made, Configurable):
            given = inspect.signature(type(made)).bind_partial(*sizes, **more_sizes).arguments
            rest = {key: value for key, value in made.init_args.items() if key not in given}
            self.init_args[name] = {"class_path": public_path(type(made)), "init_args": rest}
        return made


def _remember(init):
    signature = inspect.signature(init)
    names = [name for name, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD][1:]
    rest = next((name for name, p in signature.parameters.items() if p.kind is p.VAR_KEYWORD), None)

    @functools.wraps(init)
    def wrapped(self, *args, **kwargs):
        bound = signature.bind(self, *args, **kwargs)
        given = bound.arguments
        hints, raw = _hints(init), dict(given)
        given.update({name: _understood(given[name], hints.get(name), name) for name in names if name in given})
        defaults = {name: signature.parameters[name].default for name in names if name not in given}
        if outermost := "init_args" not in vars(self):
            recorded = {**{name: given[name] for name in names if name in given}, **given.get(rest, {}), **defaults}
            object.__setattr__(self, "init_args", recorded)
        elif self._takes_more:
            # the outer constructors pass their `**options` on to this constructor
            recorded = self.init_args
            handed_on = [name for name in names if name in raw and raw[name] is recorded.get(name, _remember)]
            recorded.update({name: given[name] for name in handed_on})
            recorded.update({name: value for name, value in defaults.items() if name not in recorded})
        object.__setattr__(self, "_takes_more", rest is not None and (outermost or self._takes_more))
        init(*bound.args, **bound.kwargs)
        if outermost:
            object.__delattr__(self, "_takes_more")

    return wrapped


def understands_mappings(init: Callable) -> Callable:
    """A decorator for constructors of classes that are not Configurable: options and parts may be given as mappings."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapped(*args, **kwargs):
        bound, hints = signature.bind(*args, **kwargs), _hints(init)
        bound.arguments.update({name: _understood(v, hints.get(name), name) for name, v in bound.arguments.items()})
        return init(*bound.args, **bound.kwargs)

    return wrapped


@functools.cache
def _hints(init: Callable) -> dict[str, Any]:
    try:
        return typing.get_type_hints(init)
    except (NameError, TypeError):
        # an annotation uses a name that is imported for type checkers only
        return dict(getattr(init, "__annotations__", {}))


def _understood(value: Any, hint: Any, name: str) -> Any:
    """An argument converted to its annotation: a mapping to a dataclass, a part, or a function that makes a part."""
    if isinstance(value, str) and _makes_parts(hint):
        try:
            return part(value)
        except AttributeError:
            # there is no such class: the constructor that takes the argument raises an error with what was wanted
            return value
    if isinstance(value, list) and (kinds := [k for k in _choices(hint) if typing.get_origin(k) is list]):
        (inner,) = typing.get_args(kinds[0]) or (Any,)
        return [_understood(item, inner, f"{name}[{i}]") for i, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    if "class_path" in value and set(value) <= {"class_path", "init_args"}:
        made = functools.partial(part(value["class_path"]), **(value.get("init_args") or {}))
        return made if _makes_parts(hint) else made()
    kind = next((kind for kind in _choices(hint) if dataclasses.is_dataclass(kind)), None)
    return value if kind is None else _filled(kind, value, name)


def _filled(kind: type, values: Mapping[str, Any], name: str) -> Any:
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - known):
        raise UserError(f"{name} has {', '.join(unknown)}; wanted some of {', '.join(sorted(known))}")
    hints = _hints(kind)
    return kind(**{key: _understood(value, hints.get(key), f"{name}.{key}") for key, value in values.items()})


def _choices(hint: Any) -> tuple:
    return typing.get_args(hint) or (hint,)


def _makes_parts(hint: Any) -> bool:
    origins = (typing.get_origin(kind) for kind in (hint, *typing.get_args(hint)))
    return any(origin is not None and issubclass(origin, Callable) for origin in origins if isinstance(origin, type))


def public_path(cls: type) -> str:
    """The name of a class in files: `vitdet.DETRHead` without its module; for a user's class, module and name."""
    import vitdet

    if cls.__module__.startswith("vitdet.") and getattr(vitdet, cls.__name__, None) is cls:
        return f"vitdet.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def config_of(value: Any) -> Any:
    """`value` as plain Python: a Configurable becomes `{"class_path": ..., "init_args": {...}}`, a dataclass a dict.

    Raises:
        TypeError: the value, or a value in it, is neither plain nor Configurable, so it could not be built again.
    """
    if isinstance(value, Configurable):
        return {"class_path": public_path(type(value)), "init_args": config_of(value.init_args)}
    if isinstance(value, Mapping):
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
        f"a constructor argument of type {type(value).__name__} can't be saved; "
        "use numbers, strings, lists or a Configurable"
    )


def build(config: Any) -> Any:
    """The part that is described by an output of `config_of`.

    Raises:
        TypeError: a `class_path` names something that is not a Configurable; a checkpoint may call nothing else.
    """
    if isinstance(config, list):
        return [build(item) for item in config]
    if not isinstance(config, dict):
        return config
    if set(config) == {"class_path", "init_args"}:
        # parts in the arguments are left to the constructor, which may need the part or a function that makes it
        arguments = config["init_args"].items()
        return part(config["class_path"])(**{k: v if _is_part(v) else build(v) for k, v in arguments})
    return {key: build(item) for key, item in config.items()}


def _is_part(config: Any) -> bool:
    return isinstance(config, dict) and set(config) == {"class_path", "init_args"}


def part(class_path: str) -> type[Configurable]:
    """The class with the name `class_path`; for vitdet's classes the module may be left out.

    Raises:
        ModuleNotFoundError: its module is neither vitdet's, nor imported, nor allowed, see `vitdet.trust`.
        TypeError: the class is not a Configurable.
    """
    cls = find_class(class_path)
    if not (isinstance(cls, type) and issubclass(cls, Configurable)):
        raise TypeError(f"{class_path} is not a vitdet part, so a checkpoint may not build it")
    return cls


def check_parts(config: Any) -> None:
    """Raises:
    ModuleNotFoundError: a `class_path` anywhere in `config` names a class that may not be imported, see `part`.
    TypeError: it names something that is not a Configurable.
    """
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, (list, tuple)) else ():
        check_parts(value)
    if isinstance(config, dict) and "class_path" in config:
        part(config["class_path"])
