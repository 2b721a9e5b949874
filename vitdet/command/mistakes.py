"""What a wrong config is told: one sentence with the key, its value, what was wanted, and the nearest key there is.

Nothing here reads the messages of the parser: every value is tried on its own, so that its key is known.
"""

import dataclasses
import difflib
import importlib.util
import traceback
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonargparse

import vitdet
from vitdet.command.files import ConfigError, parse
from vitdet.command.keys import COMMON, REQUIRED, Key, Section, accepts, keys_of, sections, type_name
from vitdet.command.layers import SECTIONS, Setting
from vitdet.renamed import MOVED

# what people look for under another name
OTHER_WORDS = {
    "num_classes": "the classes come from the data",
    "classes": "the classes come from the data",
    "category_ids": "the ids come from the data",
    "in_channels": "it comes from the backbone",
    "strides": "they come from the backbone; set model.backbone.out_strides",
    "enable_progress_bar": "here it is trainer.progress",
    "enable_model_summary": "`vitdet benchmark CONFIG` shows the size of the model",
    "use_distributed_sampler": "the data shard themselves over the ranks",
    "epochs": "here it is trainer.max_epochs",
    "num_epochs": "here it is trainer.max_epochs",
    "batch": "here it is data.batch_size",
    "imgsz": "here it is data.size",
    "image_size": "here it is data.size",
    "resolution": "here it is data.size",
    "learning_rate": "here it is model.lr",
    "resume": "say --ckpt_path last",
    "gpus": "here it is trainer.devices",
    "workers": "here it is data.num_workers",
    "weights": "say model.checkpoint for a whole model, model.backbone.checkpoint for a ViT",
    "kind": "it chooses among the labels of a folder; say --data FOLDER first",
    "layout": "it chooses among the labels of a folder; say --data FOLDER first",
    "val_fraction": "it divides the images of a folder; say --data FOLDER first",
    "device": "say trainer.accelerator (cpu, gpu) and trainer.devices",
}
WANTED = {
    "data": "CocoData, PanopticData, SemanticData or a subclass",
    "model.backbone": "Backbone",
    "model.head": "a subclass of vitdet.Head",
}


class Checked:
    """A config, where each of its keys was given, and the keys that it could have.

    Args:
        config: all layers, classes spelt out.
        path: the file that the command names.
        settings: what the command line sets on top.
    """

    def __init__(self, config: dict[str, Any], path: str, settings: Sequence[Setting]) -> None:
        self.config, self.path = config, path
        self.typed = [setting.key.removesuffix("+").replace("init_args.", "") for setting in settings]
        self.typed += [name for key in self.typed for name in _moved_to(key)]
        self.sections = list(sections(config))
        self.names = [key.name for key in [*COMMON, *(key for section in self.sections for key in section.keys)]]

    def place(self, key: str) -> str:
        """The key as it was given: `--model.lr` on the command line, or the file and `model.lr`."""
        typed = any(name == key or name.startswith(f"{key}.") for name in self.typed)
        return f"--{key}" if typed else f"{self.path}: {key}"

    def check(self) -> None:
        """Every class that the config names is there and fits, and takes every key and value that it is given.

        Raises:
            ConfigError: one does not.
        """
        known = {*SECTIONS, *(key.name for key in COMMON)}
        for name in (name for name in self.config if name not in known):
            typed = (key for key in self.typed if key.partition(".")[0] == name)
            raise self._unknown(next(typed, name), "")
        for section in self.sections:
            self._check_keys(section)
        # what a part holds comes before the part
        for section in reversed(self.sections):
            for key in section.keys if section.values is not None else ():
                self._check_value(key, section.values.get(key.name.rpartition(".")[2], REQUIRED))
        for key in COMMON:
            self._check_value(key, self.config.get(key.name, REQUIRED))

    def _check_keys(self, section: Section) -> None:
        if section.error is not None:
            raise ConfigError(f"{self.place(section.name)}: {_wrong_class(section)}")
        known = {key.name for key in section.keys}
        for name in section.values or ():
            if f"{section.name}.{name}" not in known:
                raise self._unknown(f"{section.name}.{name}", section.cls.__name__)

    def _check_value(self, key: Key, value: Any) -> None:
        if value is REQUIRED:
            if key.default is REQUIRED:
                wanted = f"{key.type}, {key.text}" if key.text else key.type
                raise ConfigError(f"{self.place(key.name)} is missing; wanted {wanted}")
        # what a part is given is checked in its own section
        elif (key.part is None or not isinstance(value, dict)) and not _fits(key.hint, value):
            self._check_items(key, value)
            value = "null" if value is None else repr(value)
            raise ConfigError(f"{self.place(key.name)} is {value}; wanted {key.type}")

    def _check_items(self, key: Key, value: Any) -> None:
        """What is wrong with an item of a list of mappings, such as `data.train` of several sources."""
        items = _read(value) if isinstance(value, str) else value
        takes_lists = any(typing.get_origin(kind) is list for kind in typing.get_args(key.hint))
        if not (takes_lists and isinstance(items, list) and key.part and dataclasses.is_dataclass(key.part.cls)):
            return
        known = {field.name: field for field in dataclasses.fields(key.part.cls)}
        hints = typing.get_type_hints(key.part.cls)
        for i, item in enumerate(items):
            place = f"{self.place(key.name)}[{i}]"
            if not isinstance(item, dict):
                raise ConfigError(f"{place} is {item!r}; wanted a mapping with {', '.join(known)}")
            for name in item:
                if name not in known:
                    near = difflib.get_close_matches(str(name), known, 1, 0.5)
                    hint = f"did you mean {near[0]}?" if near else f"wanted some of {', '.join(known)}"
                    raise ConfigError(f"{place} has {name}, which is no key of it; {hint}")
            for name, field in known.items():
                if name not in item and field.default is dataclasses.MISSING:
                    raise ConfigError(f"{place}.{name} is missing; wanted {type_name(hints[name])}")
                if name in item and not accepts(hints[name], item[name]):
                    raise ConfigError(f"{place}.{name} is {item[name]!r}; wanted {type_name(hints[name])}")

    def _unknown(self, key: str, cls: str) -> ConfigError:
        section, _, word = key.rpartition(".")
        if section.startswith("trainer."):
            # a class of Lightning's
            return ConfigError(f"{self.place(section)}: {cls} takes no {word}{self._hint(key, cls)}")
        return ConfigError(f"{self.place(key)}: there is no key {key}{self._hint(key, cls)}")

    def _hint(self, key: str, cls: str) -> str:
        section, _, word = key.rpartition(".")
        if word in OTHER_WORDS:
            return f"; {OTHER_WORDS[word]}"
        if owners := self._other_owners(key):
            return f"; {', '.join(owners)} take{'s' if len(owners) == 1 else ''} it, {cls} does not"
        names = [name for name in self.names if name != section]
        near = difflib.get_close_matches(key, names, 1, 0.85)
        if not section:
            near = difflib.get_close_matches(key, SECTIONS, 1, 0.6)
        likely = [name for name in names if name.rpartition(".")[2] == word] or near
        likely = likely or [name for name in names if _likeness(name.rpartition(".")[2], word) > 0.7]
        best = max(likely, key=lambda name: _likeness(name, key), default=None)
        return f"; did you mean {best}?" if best else "; `vitdet train CONFIG --help` lists all keys"

    def _other_owners(self, key: str) -> list[str]:
        """The classes of vitdet that take a key which the chosen one of the same kind does not."""
        section = next((section for section in self.sections if key.rpartition(".")[0] == section.name), None)
        if section is None:
            return []
        named = {cls: keys_of(section.name, cls, sizes=section.kind.sizes) for cls in _kinds(section.kind.cls)}
        return [cls.__name__ for cls, keys in named.items() if any(known.name == key for known in keys)]


def _moved_to(key: str) -> list[str]:
    """Where an option that is typed under its name of before stands now: `selection.anchor_scale`."""
    section, _, word = key.rpartition(".")
    return [f"{section}.{moved[word]}".lstrip(".") for moved in MOVED.values() if word in moved]


def _fits(hint: Any, value: Any) -> bool:
    """Whether the parser takes a value that is no mapping; it passes some on that no dataclass can be made of."""
    kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind is not type(None)]
    groups = all(dataclasses.is_dataclass(kind) for kind in kinds)
    return accepts(hint, value) and (value is None or not groups)


def _read(text: str) -> Any:
    """A value of the command line as YAML; nothing where it is none."""
    try:
        return parse(text, "")
    except ConfigError:
        return None


def _likeness(word: str, other: str) -> float:
    return difflib.SequenceMatcher(None, word, other).ratio()


def _kinds(base: type) -> list[type]:
    """The public classes of vitdet that derive from `base`."""
    return [cls for cls in map(vitdet.__dict__.get, class_names()) if issubclass(cls, base) and cls is not base]


def class_names() -> list[str]:
    """The public classes of vitdet."""
    return [name for name in vitdet.__all__ if isinstance(getattr(vitdet, name), type)]


def _wrong_class(section: Section) -> str:
    kinds = ", ".join(cls.__name__ for cls in _kinds(section.kind.cls))
    wanted = WANTED.get(section.name) or kinds or f"a subclass of {section.kind.cls.__name__}"
    if not section.path:
        return f"it names no class; give {wanted}"
    if section.cls is None:
        few = kinds if section.name not in WANTED else ""
        return _no_class(section.path, section.error, few or "one of vitdet, or module.Class of a file in this folder")
    kind = section.name.rpartition(".")[2]
    owner = "" if section.name.startswith("trainer.") else " of vitdet"
    return f"{section.path} is no {kind}{owner}; give {wanted}"


def _no_class(name: str, error: Exception, wanted: str) -> str:
    module, _, cls = name.rpartition(".")
    word = cls if module.startswith("vitdet") else name
    same = [known for known in class_names() if known.lower() == word.lower()]
    near = same or difflib.get_close_matches(word, class_names(), 1, 0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    if not module:
        return f"there is no class {name}{hint or f'; give {wanted}'}"
    try:
        there = importlib.util.find_spec(module) is not None
    # a parent of the module may raise anything
    except Exception:
        there = isinstance(error, SyntaxError)
    if not there:
        return f"there is no module {module}, so no class {name}; it is looked for in this folder and on PYTHONPATH"
    if isinstance(error, AttributeError) or (hint and not isinstance(error, (ImportError, SyntaxError))):
        return f"there is no class {cls} in {module}{hint}"
    return f"{module} can't be imported: {type(error).__name__}: {error}"


def explain(error: BaseException, path: str, settings: Sequence[Setting] = ()) -> str:
    """What a constructor, or the parser, refuses, in one sentence that names the file or what was typed."""
    # the parser hands on what a constructor raised as the cause of an error of its own
    while error.__cause__ is not None and _raised_by_parser(error):
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    message = " ".join(" ".join(lines if _raised_by_parser(error) else lines[:1]).split()).replace("`", "")
    # a bare KeyError holds no more than a word
    bare = type(error).__module__ == "builtins" and not isinstance(error, (ValueError, TypeError, OSError))
    name, _, rest = message.partition(" is ")
    typed = [key for key, value in settings if key.rpartition(".")[2] == name and rest.startswith(_forms(value))]
    if typed:
        return f"--{typed[-1]} is {rest}"
    return f"{path}: {f'{type(error).__name__}: {message}' if bare else message}"


def _forms(value: Any) -> tuple[str, ...]:
    """How a constructor may write a value: a whole number, too, as what a parser makes of it."""
    return tuple(f"{form}{end}" for form in (value, repr(value), f"{value}.0") for end in (";", ","))


def _raised_by_parser(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(jsonargparse.__file__).parent in Path(frames[-1].filename).parents
