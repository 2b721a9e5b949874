"""Which keys a config takes: those of its task, backbone, head, data and trainer, and of all parts that these hold."""

import collections.abc
import copy
import dataclasses
import importlib
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import docstring_parser
from jsonargparse import ArgumentError, ArgumentParser

import vitdet
from vitdet.command.layers import arguments, at, structure

TITLES = {
    "model": "how it is trained",
    "data": "the data",
    "model.backbone": "the backbone",
    "model.head": "the head",
    "trainer": "the run",
}
# arguments of the task that come from the data
LINKED = {"classes", "category_ids"}
# the default of a key that must be given
REQUIRED = inspect.Parameter.empty


class Kind(NamedTuple):
    """What an annotation takes besides plain values: a class, or what makes an instance from so many sizes."""

    cls: type
    sizes: int


@dataclass
class Key:
    """One key of a config: `model.lr`, of type `float`, with its value there or else its default, and what it does."""

    name: str
    hint: Any
    default: Any
    text: str

    @property
    def type(self) -> str:
        return type_name(self.hint)

    @property
    def part(self) -> Kind | None:
        return part_of(self.hint)


@dataclass
class Section:
    """A part of a config: the class that is to be there, the path and the arguments that are given, and what is found.

    Where the class can't be had, or is of another kind, `error` says why, and there are no keys. A part that is not in
    the config has its keys, too, but nothing that is given (`values` is `None`).
    """

    name: str
    kind: Kind
    values: dict[str, Any] | None
    path: str = ""
    cls: type | None = None
    title: str = ""
    keys: list[Key] = field(default_factory=list)
    error: Exception | None = None


COMMON = (
    Key("config", str | None, None, "one more config file, on top of what stands before it"),
    Key(
        "ckpt_path",
        str | None,
        None,
        "a checkpoint to go on from, or `last` or `best`: that of the newest run of this name",
    ),
    Key("seed_everything", int | bool, 0, "the seed of all random numbers"),
)


def part_class(path: str, base: type | None = None) -> type:
    """The class of that name: public in vitdet, in a module, or, of other libraries, a subclass of `base`.

    Raises:
        ImportError, AttributeError: there is none.
    """
    module, _, name = path.rpartition(".")
    if not module and name not in vitdet.__all__ and base is not None:
        for cls in _below(base):
            if cls.__name__ == name:
                return cls
    return getattr(importlib.import_module(module or "vitdet"), name)


def _below(base: type) -> Iterator[type]:
    for cls in base.__subclasses__():
        yield cls
        yield from _below(cls)


def part_of(hint: Any) -> Kind | None:
    """The class of which an annotation takes an instance or a maker, also in a list; nothing for plain values."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is collections.abc.Callable:
        sizes, made = inner or ([], None)
        return Kind(made, len(sizes) if isinstance(sizes, list) else 0) if isinstance(made, type) else None
    if origin is not None:
        found = (part_of(kind) for kind in inner if origin is not typing.Literal and kind is not ...)
        return next(filter(None, found), None)
    plain = not isinstance(hint, type) or hint.__module__.partition(".")[0] in sys.stdlib_module_names
    return None if plain else Kind(hint, 0)


def accepts(hint: Any, value: Any) -> bool:
    """Whether the parser takes a value, also one that is written as text, for an annotation."""
    if value is None:
        # for the parser it is no value at all
        return hint is Any or type(None) in (hint, *typing.get_args(hint))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        # a copy: the parser writes into what it is given
        parser.parse_object({"value": copy.deepcopy(value)})
    except ArgumentError:
        return False
    return True


def keys_of(section: str, cls: type, values: dict[str, Any] | None = None, *, sizes: int = 0) -> list[Key]:
    """The keys of a class, as jsonargparse resolves its signature, with `values` instead of its defaults.

    Args:
        sizes: so many first arguments are no keys: they come from whoever builds the part.
    """
    parser = ArgumentParser(exit_on_error=False)
    names = list(inspect.signature(cls).parameters)
    skipped = {*names[:sizes], *(LINKED & set(names) if section == "model" else ())}
    parser.add_class_arguments(cls, section, skip=skipped, fail_untyped=False, sub_configs=False)
    texts, keys, defaults = _texts(cls), [], parser.get_defaults()
    # the parser has no public list of its arguments
    for action in parser._actions:
        owner, _, name = action.dest.rpartition(".")
        if owner != section:
            continue
        # an argument that is a dataclass stands for a group of arguments
        hint = getattr(action, "_typehint", None) or getattr(action, "basetype", None) or action.type
        default = REQUIRED if action.required else _plain(defaults.get(action.dest))
        keys.append(Key(action.dest, hint, _over(default, (values or {}).get(name, default)), texts.get(name, "")))
    return keys


def _plain(value: Any) -> Any:
    """A default as a mapping where it is an object that a config gives as one."""
    if hasattr(value, "as_dict"):
        return value.as_dict()
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _over(default: Any, value: Any) -> Any:
    """A value with what is not given in it: the other fields of a dataclass, or the class."""
    if not isinstance(default, dict) or not isinstance(value, dict):
        return value
    if "class_path" in default:
        return value if "class_path" in value else {**default, "init_args": arguments(value)}
    return {**default, **value}


def sections(config: dict[str, Any]) -> Iterator[Section]:
    """All parts of a config, each before those that it holds."""
    yield from _section(Section("model", Kind(vitdet.Task, 0), at(config, "model"), cls=vitdet.Task))
    yield from _held(Key("data", vitdet.data.ImageData, at(config, "data"), ""))
    yield from _section(Section("trainer", Kind(vitdet.Trainer, 0), at(config, "trainer"), cls=vitdet.Trainer))


def _section(section: Section) -> Iterator[Section]:
    section.title = TITLES.get(section.name, section.title.partition(", see `")[0].rstrip("."))
    section.keys = keys_of(section.name, section.cls, section.values, sizes=section.kind.sizes)
    yield section
    for key in section.keys:
        yield from _held(key)


def _held(key: Key) -> Iterator[Section]:
    """What stands under a key: a dataclass, a class with its arguments, or a list of these."""
    kind, value = key.part, structure(key.default)
    if kind is None:
        return
    if dataclasses.is_dataclass(kind.cls):
        values = value if isinstance(value, dict) else None
        yield from _section(Section(key.name, kind, values, cls=kind.cls, title=key.text))
    # what Lightning takes may be of several classes; only what the parser refuses is looked into
    elif not key.name.startswith("trainer.") or not accepts(key.hint, value):
        for item in value if isinstance(value, list) else [value]:
            named = isinstance(item, str) and str not in typing.get_args(key.hint)
            yield from _class(key, kind, {"class_path": item} if named else item)


def _class(key: Key, kind: Kind, part: Any) -> Iterator[Section]:
    if not isinstance(part, dict):
        return
    path = str(part.get("class_path") or "")
    section = Section(key.name, kind, arguments(part) if "class_path" in part else {}, path, title=key.text)
    try:
        cls = section.cls = part_class(path, kind.cls)
        if not callable(cls) or (isinstance(cls, type) and not issubclass(cls, kind.cls)):
            raise TypeError(f"{path} is no {kind.cls.__name__}")
    # a module of the user's may raise anything when it is imported
    except Exception as error:
        section.error = error
        yield section
    else:
        if isinstance(cls, type):
            yield from _section(section)


def _texts(cls: type) -> dict[str, str]:
    """The first sentence on each argument in the docstrings of a class and its bases; `a, b: …` is about both."""
    texts: dict[str, str] = {}
    for base in cls.__mro__[:-1]:
        for doc in (vars(base).get("__doc__"), getattr(vars(base).get("__init__"), "__doc__", None)):
            for param in docstring_parser.parse(doc or "").params:
                text = " ".join((param.description or "").split()).partition(". ")[0]
                for name in (name.strip() for name in param.arg_name.split(",")):
                    # a text that only names another class is replaced by what a base says
                    if texts.get(name, "see `").startswith("see `"):
                        texts[name] = text
    for name, text in texts.items():
        named = text.removeprefix("see `").partition("`")[0]
        if text.startswith("see `") and named in vitdet.__all__:
            texts[name] = _texts(getattr(vitdet, named)).get(name, text)
    return texts


def type_name(hint: Any) -> str:
    """An annotation as it is written: `int | None`, and the class that is made for a `Callable`."""
    args, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(type_name, args))
    if origin is typing.Literal:
        return " | ".join(map(repr, args))
    if origin is collections.abc.Callable:
        return type_name(args[-1])
    name = "None" if hint is type(None) else "…" if hint is ... else getattr(hint, "__name__", str(hint))
    return f"{name}[{', '.join(map(type_name, args))}]" if args else name


def print_help(config: dict[str, Any], path: str, verb: str) -> None:
    """Prints every key that a config can take, with its type, its value here or else its default, and what it does."""
    print(f"usage: vitdet {verb} {path} [--key value …]\n")
    print(
        "Each key can stand in the file, or on the command line; values are those of this config, defaults included.\n"
    )
    for key in COMMON:
        _print_key(key)
    for section in sections(config):
        if section.error is None:
            print(f"\n{section.name}: {section.title} ({section.cls.__name__})\n")
        for key in section.keys:
            _print_key(key)


def _print_key(key: Key) -> None:
    value = key.default
    if key.part is not None and isinstance(value, dict):
        # the keys of the part follow
        value = value.get("class_path", "…")
    print(f"  --{key.name}  {key.type} {'required' if value is REQUIRED else f'= {value}'}")
    if key.text:
        print(textwrap.fill(key.text, 110, initial_indent="      ", subsequent_indent="      "))
