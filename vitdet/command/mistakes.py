"""What a wrong config is told: one sentence that names the key, what it is, what was wanted, and the nearest one that exists."""

import difflib
import importlib.util
import re
from collections.abc import Iterator
from typing import Any

import vitdet
from vitdet.command.keys import COMMON, REQUIRED, Key, all_keys, at, keys_of, part_class
from vitdet.command.layers import SECTIONS, ConfigError
from vitdet.errors import UserError

OWN_WORDS = {  # what people look for under another name
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
    "device": "say trainer.accelerator (cpu, gpu) and trainer.devices",
}
BASES = {
    "data": "CocoData, PanopticData, SemanticData or a subclass",
    "model.backbone": "Backbone",
    "model.head": "a subclass of vitdet.Head",
}
# lines of the parser's messages that say nothing of their own
NOISE = (
    "Does not validate",
    "Subtypes",
    "Errors",
    "Given value",
    "Problem",
    "Expected a <class 'NoneType'>",
    "Not of type",
    "Parser key",
    "Type collections",
)


class Said:
    """A config and the words of the command line, to tell where a key was said, and what it was set to."""

    def __init__(self, config: dict[str, Any], path: str, overrides: list[str], rest: list[str]) -> None:
        self.config, self.path, self.overrides = config, path, overrides
        self.words = list(_flags(rest))
        self.sections: dict[str, list[Key]] = {}

    def place(self, key: str) -> str:
        """The key as it was said: `--model.lr` on the command line, or the file."""
        said = [*self.overrides, *(name for name, _ in self.words)]
        return f"--{key}" if any(word == key or word.startswith(f"{key}.") for word in said) else f"{self.path}: {key}"

    def value(self, key: str) -> Any:
        """What it was set to."""
        typed = [value for name, value in self.words if name == key]
        section, _, name = key.rpartition(".")
        values = at(self.config, section)
        return typed[-1] if typed else values.get("init_args", values).get(name)

    def all(self) -> list[Key]:
        return [*COMMON, *(key for keys in self.sections.values() for key in keys)]


def _flags(words: list[str]) -> Iterator[tuple[str, str | None]]:
    """`--key value` and `--key=value` as pairs."""
    for i, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            following = words[i + 1] if i + 1 < len(words) else None
            yield name.removesuffix("+"), value if equals else following


def check_config(said: Said) -> None:
    """Every class that it names exists and is of its kind, and takes every key that it is given.

    Raises:
        ConfigError: one does not.
    """
    for section in (*(key for key in said.config if key not in (*SECTIONS, *(common.name for common in COMMON))),):
        raise ConfigError(f"{said.place(section)}: there is no key {section}{_hint(section, said)}")
    for section in BASES:
        _check_class(section, at(said.config, section).get("class_path"), said)
    said.sections = all_keys(said.config)
    for section, keys in said.sections.items():
        known = {key.name for key in keys}
        values = at(said.config, section)
        inner = {"backbone", "head"} if section == "model" else set()
        for name, value in values.get("init_args", values).items():
            if f"{section}.{name}" not in known and name not in inner:
                _refuse(f"{section}.{name}", said)
            kind = next((key.type for key in keys if key.name == f"{section}.{name}"), "None")
            if value is None and "None" not in kind and kind != "Any":
                raise ConfigError(f"{said.place(f'{section}.{name}')} is null; wanted {kind}")
        for key in keys:
            if key.default is REQUIRED:
                raise ConfigError(f"{said.place(key.name)} is missing; wanted {key.type}, {key.text}")
    known = {*(key.name for key in said.all()), "trainer", "print_config", "c"}
    for name, value in said.words:
        if (value is None or value.startswith("--")) and name != "print_config":
            raise ConfigError(f"--{name} has no value; wanted --{name} VALUE")
        if name not in known and ".".join(name.split(".")[:2]) not in known:
            _refuse(name, said)


def _refuse(key: str, said: Said) -> None:
    raise ConfigError(f"{said.place(key)}: there is no key {key}{_hint(key, said)}")


def _check_class(section: str, name: str | None, said: Said) -> None:
    place = said.place(section)
    if name is None:
        raise ConfigError(f"{place} names no class; give {BASES[section]}")
    try:
        cls = part_class(name)
    except Exception as error:  # whatever the user's own module raises when it is imported
        raise ConfigError(f"{place}: {_no_class(name, error)}") from error
    base = {"data": vitdet.CocoData.__mro__[1], "model.backbone": vitdet.Backbone, "model.head": vitdet.Head}[section]
    if not callable(cls) or (isinstance(cls, type) and not issubclass(cls, base)):
        raise ConfigError(f"{place}: {name} is no {section.rpartition('.')[2]} of vitdet; give {BASES[section]}")


def _no_class(name: str, error: Exception) -> str:
    module, _, cls = name.rpartition(".")
    word = cls if module.startswith("vitdet") else name
    same = [known for known in class_names() if known.lower() == word.lower()]
    near = same or difflib.get_close_matches(word, class_names(), 1, 0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    if not module:
        return f"there is no class {name}{hint or '; give one of vitdet, or module.Class of a file in this folder'}"
    try:
        there = importlib.util.find_spec(module) is not None
    except Exception:  # a parent of it fails
        there = isinstance(error, SyntaxError)
    if not there:
        return f"there is no module {module}, so no class {name}; it is looked for in this folder and on PYTHONPATH"
    if isinstance(error, AttributeError) or (hint and not isinstance(error, (ImportError, SyntaxError))):
        return f"there is no class {cls} in {module}{hint}"
    return f"{module} can't be imported: {type(error).__name__}: {error}"


def class_names() -> list[str]:
    """The public classes of vitdet."""
    return [name for name in vitdet.__all__ if isinstance(getattr(vitdet, name), type)]


def _hint(key: str, said: Said) -> str:
    said.sections = said.sections or all_keys(said.config)
    section, _, word = key.rpartition(".")
    known = [one.name for one in said.all()]
    if word in OWN_WORDS:
        return f"; {OWN_WORDS[word]}"
    near = difflib.get_close_matches(key, known, 1, 0.85)
    if not section:
        near = difflib.get_close_matches(key, SECTIONS, 1, 0.6)
    if owners := _other_owners(key):
        cls = at(said.config, section).get("class_path", "").rpartition(".")[2]
        return f"; {', '.join(owners)} take{'s' if len(owners) == 1 else ''} it, {cls} does not"
    same = [name for name in known if name.rpartition(".")[2] == word] or near
    same = same or [
        name for name in known if difflib.SequenceMatcher(None, name.rpartition(".")[2], word).ratio() > 0.7
    ]
    best = max(same, key=lambda name: difflib.SequenceMatcher(None, name, key).ratio(), default=None)
    return f"; did you mean {best}?" if best else "; `vitdet train CONFIG --help` lists all keys"


def _other_owners(key: str) -> list[str]:
    """The classes of vitdet that take a key which the chosen one does not."""
    section = key.rpartition(".")[0]
    base = {"model.head": vitdet.Head, "data": vitdet.CocoData.__mro__[1]}.get(section)
    parts = [getattr(vitdet, name) for name in class_names()]
    owners = [cls for cls in parts if base and issubclass(cls, base) and cls is not base]
    return [cls.__name__ for cls in owners if any(one.name == key for one in keys_of(section, cls))]


def explain(error: Exception, said: Said) -> str:
    """What the parser or a constructor says, in one sentence that names the key or the file."""
    message = str(error)
    if isinstance(error, UserError) and not message.startswith("Parser key"):
        return f"{said.path}: {message}"
    key = _wrong_key(message, said)
    if found := re.search(
        r"[Uu]ndefined class.*?'(\S+)'|Expected a (?:dot import )?path(?: string:| but) (\S+)", message
    ):
        where = said.place(key.name) if key else said.path
        return f"{where}: {_no_class(found[1] or found[2], error)}"
    if found := re.search(r"unrecognized arguments: (.+)", message):
        return f"{found[1]} is neither a key nor the value of one; wanted --key value"
    reason = _reason(message)
    if found := re.search(r"Problem with given class_path '(\S+)':\s+Option '(\S+)' is not accepted", message):
        where = said.place(key.name) if key else said.path
        return f"{where}: {found[1].rpartition('.')[2]} takes no {found[2]}"
    if key is None or "required" in message:
        own = type(error).__module__ == "builtins" and not isinstance(error, (ValueError, TypeError))
        reason = (
            f"{type(error).__name__}: {reason}" if own or not reason else reason
        )  # a bare KeyError says a word only
        return f"{said.place(key.name) if key else said.path}: {reason}"
    value = said.value(key.name)
    return f"{said.place(key.name)} is {value!r}; wanted {key.type}{_range(message)}"


def _wrong_key(message: str, said: Said) -> Key | None:
    """The key that the parser's message is about: the section, and the argument of its class."""
    named = re.findall(r'Parser key "([\w.]+)"', message) + re.findall(r'argument "?--([\w.]+)', message)
    names = {key.name: key for key in said.all()}
    for count in range(len(named), 0, -1):
        whole = ".".join(dict.fromkeys(part.replace("init_args.", "") for part in named[:count]))
        while whole:
            if whole in names:
                return names[whole]
            whole = whole.rpartition(".")[0]
    return None


def _range(message: str) -> str:
    found = re.search(r"(?:value|Value) (?:is|must be) ([^\n]+)", message)
    return f" ({found[1]})" if found else ""


def _reason(message: str) -> str:
    """The line of a parser's message that says what is wrong."""
    lines = [line.strip(" -") for line in message.splitlines()]
    reasons = [line for line in lines if line and not line.startswith(NOISE)] or [line for line in lines if line]
    return re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", reasons[0]).replace("`", "") if reasons else ""
