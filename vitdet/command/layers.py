"""Config files to one mapping: `base:`, short class names, and what the command line sets on top.

A file may begin with `base: other.yaml` (or a list), relative to itself: that is read first, and the file says what differs.
"""

import difflib
import inspect
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from vitdet.errors import UserError
from vitdet.renamed import renew

SECTIONS = ("model", "data", "trainer")
CLASSES = (
    ("data",),
    ("model", "backbone"),
    ("model", "head"),
)  # what may be given as `Name` or `{class_path: Name, key: value}`
MAX_VALUES = 100_000  # of a file, aliases written out; a config has some hundred


class ConfigError(UserError):
    """A config file or an override is wrong; the message says what to do."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would take the last, and leaves dates as they are written."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_layers(path: str | Path, *, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML file merged into those that its `base:` names; a base need not name a class, the file on top of it may.

    Raises:
        ConfigError: a file is missing, is no mapping, holds a section of another shape, or is its own base.
    """
    path = Path(path)
    if path.resolve() in above:
        raise ConfigError(f"{path} is its own base; leave one `base:` of the circle out")
    own = _checked(_parse(_text(path), str(path)), str(path))
    bases = own.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: base is {_short(bases)}; wanted the path of another config, or a list of paths")
    config: dict[str, Any] = {}
    for layer in [*(read_layers(path.parent / base, above=(*above, path.resolve())) for base in bases), own]:
        config = put_over(config, layer)
    return config


def _text(path: Path) -> str:
    if re.match(r"\w+:/+\w", str(path)):
        raise ConfigError(f"{path} is a URL; download the config, and give the file")
    if path.is_dir():
        inside = sorted(path.glob("*.yaml"))
        raise ConfigError(f"{path} is a folder; give a config file" + (f", such as {inside[0]}" if inside else ""))
    if not path.is_file():
        near = difflib.get_close_matches(str(path), [str(p) for p in Path("configs").rglob("*.yaml")], 1, 0.4)
        raise ConfigError(f"there is no config {path}" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8, so it is no config: give a YAML file") from error


def _parse(text: str, where: str) -> Any:
    """The values of YAML; a bomb of aliases is refused before anybody walks through it."""
    try:
        value = yaml.load(text, _Loader)  # a SafeLoader
        if _count(value, {}) > MAX_VALUES:
            raise ConfigError(
                f"{where} holds more than {MAX_VALUES:,} values once its aliases are written out; write a plain config"
            )
        return _numbers(value)
    except RecursionError as error:
        raise ConfigError(f"{where} is nested too deeply, or an alias holds itself; write a plain config") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{where}{line} is not valid YAML: {reason}") from error


def _count(value: Any, known: dict[int, int]) -> int:
    """How many values there are, an alias counted as often as it is named; raises RecursionError where one holds itself."""
    if not isinstance(value, (dict, list)):
        return 1
    if known.get(id(value)) == -1:
        raise RecursionError
    if id(value) not in known:
        known[id(value)] = -1  # being counted
        items = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(item, known) for item in items)
    return known[id(value)]


def _checked(own: Any, where: str) -> dict[str, Any]:
    """A file's content, its classes spelt out, if it has the shape of a config."""
    if own is None:
        own = {}
    if not isinstance(own, dict):
        raise ConfigError(f"{where} holds {_short(own)}; wanted keys such as model, data and trainer")
    for section in SECTIONS:
        value = own.get(section)
        if value is None:
            own.pop(section, None)
        elif not isinstance(value, dict) and not (section == "data" and isinstance(value, str)):
            raise ConfigError(
                f"{where}: {section} is {_short(value)}; wanted its keys, such as {section}: {{{EXAMPLES[section]}}}"
            )
    for keys in CLASSES:
        spell_out(own, keys, None, where)
    _check_keys(own, where)
    return renew(own)


EXAMPLES = {"model": "lr: 1e-4", "data": "batch_size: 4", "trainer": "max_epochs: 10"}


def _check_keys(value: Any, where: str) -> None:
    for key, item in value.items() if isinstance(value, dict) else ():
        if not isinstance(key, str):
            raise ConfigError(f"{where}: {key!r} is no key; wanted a name, such as lr")
        _check_keys(item, where)


def _short(value: Any) -> str:
    kinds = {dict: "a mapping", list: "a list", str: "the text", bool: "", int: "the number", float: "the number"}
    text = repr(value)
    return f"{kinds.get(type(value), type(value).__name__)} {text if len(text) <= 40 else text[:40] + ' …'}".strip()


def spell_out(config: dict[str, Any], keys: tuple[str, ...], default: str | None, where: str = "the config") -> None:
    """`DETRHead` or `{class_path: DETRHead, dim: 8}`, or just `{dim: 8}`, to `{class_path: …, init_args: …}`."""
    for key in keys[:-1]:
        if not config.get(key) and default is None:
            return
        config = config.setdefault(key, {})
    value, name = config.get(keys[-1]), ".".join(keys)
    if value is None and default is None:
        config.pop(keys[-1], None)
    elif isinstance(value, str):
        config[keys[-1]] = {"class_path": full_name(value), "init_args": {}}
    elif isinstance(value, dict) or value is None:
        value = value or {}
        rest = {k: v for k, v in value.items() if k not in ("class_path", "init_args")}
        inner, given = value.get("init_args") or {}, value.get("class_path") or default
        if not isinstance(inner, dict) or not isinstance(given, (str, type(None))):
            raise ConfigError(
                f"{where}: {name} has class_path {given!r} and init_args {_short(inner)}; wanted a name, and a mapping"
            )
        spelt = {"init_args": {**rest, **inner}}
        config[keys[-1]] = {"class_path": full_name(given), **spelt} if given else spelt
    else:
        raise ConfigError(f"{where}: {name} is {_short(value)}; wanted the name of a class, or its keys")


def full_name(name: str) -> str:
    """`DETRHead` as `vitdet.DETRHead`; any other name as it is."""
    import vitdet

    return f"vitdet.{name}" if name in vitdet.__all__ else name


def put_over(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` over `base`, where another data class takes over what all data have: sizes, batches, augmentation; so a config changes its task in one line."""
    before, after = base.get("data") or {}, own.get("data") or {}
    if "class_path" in after and "class_path" in before and after["class_path"] != before["class_path"]:
        from vitdet.data import ImageData

        common = inspect.signature(ImageData).parameters
        kept = {key: value for key, value in before["init_args"].items() if key in common}
        own = {**own, "data": {**after, "init_args": merge(kept, after["init_args"])}}
    return merge(_without_twins(base, own.get("trainer") or {}), own)


TWINS = {  # one rule in two keys of Lightning's: who says the one does not mean the other, which an earlier layer said
    "check_val_every_n_epoch": "val_check_interval",
    "max_steps": "max_epochs",
    "max_epochs": "max_steps",
}


def _without_twins(config: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    trainer = config.get("trainer") or {}
    gone = {TWINS[key] for key, value in said.items() if key in TWINS and value not in (None, "null")} - said.keys()
    return {**config, "trainer": {key: value for key, value in trainer.items() if key not in gone}} if gone else config


def merge(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` over `base`, key by key; another class takes no arguments over (but see `put_over`); lists, and sizes, which are one rule, are replaced."""
    if "class_path" in own and own["class_path"] != base.get("class_path", own["class_path"]):
        return own
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict) and key != "size"
        merged[key] = merge(base[key], value) if both else value
    return merged


def apply_overrides(config: dict[str, Any], argv: list[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    """`--model.head EoMTHead`, `--data.size 64`, `--config more.yaml` on top of a config, in their order, as if each were one more file.

    Returns:
        The config, the words that are left to the parser (those of the trainer, and flags), and the keys that were set.
    """
    rest, keys, words = [], [], list(argv)
    while words:
        word = words.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        ours = key in ("config", *CLASS_SECTIONS) or key.startswith(tuple(f"{name}." for name in CLASS_SECTIONS))
        if not word.startswith("--") or not ours or key.endswith("+"):
            rest.append(word)
            continue
        if not equals:
            if not words or words[0].startswith("--"):
                raise ConfigError(f"{word} has no value; wanted {word} VALUE")
            value = words.pop(0)
        layer = read_layers(value) if key == "config" else _override(key, value)
        if tuple(key.split(".")) in CLASSES:
            _forget_arguments(config, key.split("."), layer)
        keys += [] if key == "config" else [key]
        config = put_over(config, layer)
    return _without_twins(config, _said_of_trainer(rest)), rest, keys


def _forget_arguments(config: dict[str, Any], keys: list[str], layer: dict[str, Any]) -> None:
    """A class that is named on the command line does not take over what a file said of a class that it did not name."""
    for key in keys:
        config, layer = config.get(key) or {}, layer.get(key) or {}
    if "class_path" in layer and "class_path" not in config:
        config.pop("init_args", None)


def _said_of_trainer(words: list[str]) -> dict[str, str]:
    said = {}
    for word, following in zip(words, [*words[1:], ""]):
        key, equals, value = word.partition("=")
        if key.startswith("--trainer."):
            said[key.removeprefix("--trainer.")] = value if equals else following
    return said


CLASS_SECTIONS = ("model", "data")


def _override(key: str, value: str) -> dict[str, Any]:
    """The config that says nothing but `key: value`; a value stays as it was typed, for the parser, which knows its type, but for classes."""
    names = key.split(".")
    if "" in names:
        raise ConfigError(f"--{key} is no key; wanted --section.key VALUE, such as --model.lr 1e-4")
    whole = tuple(names) in (*CLASSES, ("model",))
    content: Any = _parse(value, f"--{key}") if whole else value
    if value == "null":
        content = None
    for name in reversed(names):
        content = {name: content}
    return _checked(content, f"--{key}")


def _numbers(value: Any) -> Any:
    """`4e-4` is a number, though YAML 1.1 reads it as text."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value
