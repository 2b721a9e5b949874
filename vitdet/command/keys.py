"""Which keys a config takes, of its task, backbone, head, data and trainer, with their types, defaults and what they do."""

import importlib
import inspect
import textwrap
import types
import typing
from dataclasses import dataclass
from typing import Any

import docstring_parser
from jsonargparse import ArgumentParser

import vitdet

TITLES = {
    "model": "how it is trained",
    "data": "the data",
    "model.backbone": "the backbone",
    "model.head": "the head",
    "trainer": "the run",
}
FROM_ELSEWHERE = {
    "model": {"backbone", "head", "classes", "category_ids"},
    "model.head": {"in_channels", "strides", "num_classes"},
}


REQUIRED = inspect.Parameter.empty  # the default of a key that must be given


@dataclass
class Key:
    """One key of a config: `model.lr`, of type `float`, with its default there, and what it does."""

    name: str
    type: str
    default: Any
    text: str


COMMON = (
    Key("config", "str | None", None, "one more config file, on top of what stands before it"),
    Key(
        "ckpt_path",
        "str | None",
        None,
        "a checkpoint to go on from, or `last` or `best`: that of the newest run of this name",
    ),
    Key("seed_everything", "int", 0, "the seed of all random numbers"),
)


def part_class(class_path: str) -> type:
    """The class of that name.

    Raises:
        ImportError, AttributeError: there is none.
    """
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module or "vitdet"), name)


def classes_of(config: dict[str, Any]) -> dict[str, type]:
    """The classes that a config names, by their section; one that can't be found is left out."""
    found: dict[str, type] = {"model": vitdet.Task}
    for section in ("model.backbone", "model.head", "data"):
        try:
            found[section] = part_class(at(config, section)["class_path"])
        except Exception:  # the user's own module may raise anything; `mistakes` says what
            continue
    return {**found, "trainer": vitdet.Trainer}


def at(config: dict[str, Any], section: str) -> dict[str, Any]:
    """The mapping under `model.head` and the like, empty where there is none."""
    value: Any = config
    for key in filter(None, section.split(".")):
        value = (value.get(key) or {}) if isinstance(value, dict) else {}
    return value if isinstance(value, dict) else {}


def keys_of(section: str, cls: type, values: dict[str, Any] | None = None) -> list[Key]:
    """The keys of one class, as jsonargparse resolves its signature, `values` instead of its defaults."""
    parser = ArgumentParser(exit_on_error=False)
    skipped = FROM_ELSEWHERE.get(section, set()) & set(inspect.signature(cls).parameters)
    parser.add_class_arguments(cls, section, skip=skipped, fail_untyped=False, sub_configs=False)
    texts, keys = _texts(cls), []
    for action in parser._actions:  # it has no public list of them
        name = action.dest.rpartition(".")[2]
        if not action.option_strings or name == "help" or action.dest == section:
            continue
        kind = getattr(action, "_typehint", action.type)
        default = REQUIRED if action.required else action.default
        keys.append(Key(action.dest, _type_name(kind), (values or {}).get(name, default), texts.get(name, "")))
    return keys


def all_keys(config: dict[str, Any]) -> dict[str, list[Key]]:
    """The keys of all classes that a config names, by section, with the config's own values."""
    sections = {}
    for section, cls in classes_of(config).items():
        values = at(config, section)
        sections[section] = keys_of(section, cls, values.get("init_args", values))
    return sections


def _texts(cls: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say of each argument, the first sentence; `a, b: …` speaks of both."""
    texts: dict[str, str] = {}
    for base in cls.__mro__[:-1]:
        for doc in (vars(base).get("__doc__"), getattr(vars(base).get("__init__"), "__doc__", None)):
            for param in docstring_parser.parse(doc or "").params:
                text = " ".join((param.description or "").split()).partition(". ")[0]
                for name in (name.strip() for name in param.arg_name.split(",")):
                    if texts.get(name, "see `").startswith("see `"):  # the base that is named says more
                        texts[name] = text
    for name, text in texts.items():
        named = text.removeprefix("see `").partition("`")[0]
        if text.startswith("see `") and named in vitdet.__all__:
            texts[name] = _texts(getattr(vitdet, named)).get(name, text)
    return texts


def _type_name(kind: Any) -> str:
    """`int | None` for `Optional[int]`."""
    args = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " | ".join(map(_type_name, args))
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(map(repr, args))
    name = "None" if kind is type(None) else "…" if kind is ... else getattr(kind, "__name__", str(kind))
    return f"{name}[{', '.join(map(_type_name, args))}]" if args else name


def print_help(config: dict[str, Any], path: str, verb: str) -> None:
    """Every key that a config can take, with its type, its value in this config or else its default, and what it does."""
    print(f"usage: vitdet {verb} {path} [--key value …]\n")
    print(
        "Each key can stand in the file, or on the command line; values are those of this config, defaults included.\n"
    )
    for key in COMMON:
        _print_key(key)
    for section, keys in all_keys(config).items():
        cls = classes_of(config)[section]
        print(f"\n{section}: {TITLES[section]} ({cls.__name__})\n")
        for key in keys:
            _print_key(key)


def _print_key(key: Key) -> None:
    default = "required" if key.default is REQUIRED else f"= {key.default}"
    print(f"  --{key.name}  {key.type} {default}")
    if key.text:
        print(textwrap.fill(key.text, 110, initial_indent="      ", subsequent_indent="      "))
