"""Config files and the words of the command line to a single mapping, without torch.

A file may begin with `base: other.yaml` (or a list of paths), relative to itself, or with the name of a config that
comes with vitdet: those are read first, and the file says what differs. The command line lies on top, as one more file.
"""

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vitdet.command import folder, shipped
from vitdet.command.files import MAX_FILES, ConfigError, describe, parse, read_text
from vitdet.renamed import in_one_form, renew, renew_arguments
from vitdet.trust import allow

EXAMPLES = {"model": "lr: 1e-4", "data": "batch_size: 4", "trainer": "max_epochs: 10"}
SECTIONS = tuple(EXAMPLES)
# what may be given as `Name`, as `{class_path: Name, key: value}` or as `{key: value}`; what holds others comes first
PARTS = ("data", "model.backbone", "model.head", "model.backbone.stem", "model.backbone.neck")
# two keys of Lightning's for a single rule: a layer that sets the first drops the second of the layers below it
TWINS = {"check_val_every_n_epoch": "val_check_interval", "max_steps": "max_epochs", "max_epochs": "max_steps"}


class Setting(NamedTuple):
    """`--key value` on the command line; `--key+ value` appends to a list."""

    key: str
    value: str


def read_words(words: Sequence[str]) -> tuple[list[Setting], list[str]]:
    """The words of the command line as settings, and the flags that only the parser knows (`--print_config`).

    Raises:
        ConfigError: a word is no key, or a key has no value.
    """
    settings, flags, left = [], [], list(words)
    while left:
        word = left.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        if key == "print_config":
            flags.append(word)
            continue
        if not word.startswith("--"):
            raise ConfigError(f"{word} is neither a key nor the value of one; wanted --key value")
        if not equals:
            if not left or left[0].startswith("--"):
                raise ConfigError(f"{word} has no value; wanted {word} VALUE")
            value = left.pop(0)
        if "" in key.split("."):
            raise ConfigError(f"--{key} is no key; wanted --section.key VALUE, such as --model.lr 1e-4")
        settings.append(Setting(key, value))
    return settings, flags


def read_layers(path: str | Path, *, above: tuple[Path, ...] = (), left: Any = None) -> dict[str, Any]:
    """A YAML file merged into those that its `base:` names; a base need not name a class, the file on top of it may.

    Raises:
        ConfigError: a file is missing, is no mapping, holds a section of another shape, or is its own base.
    """
    path, left = Path(path), iter(range(MAX_FILES)) if left is None else left
    if next(left, None) is None:
        raise ConfigError(f"{path} is one base too many: a config has at most {MAX_FILES} files below it")
    if path.resolve() in above:
        raise ConfigError(f"{path} is its own base; leave one `base:` of the circle out")
    content = _checked(parse(read_text(path), str(path)), str(path))
    bases = [base] if isinstance(base := content.pop("base", []), str) else base
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: base is {describe(bases)}; wanted the path of another config, or a list of paths")
    config: dict[str, Any] = {}
    for layer in [
        *(read_layers(shipped.base_of(path, base), above=(*above, path.resolve()), left=left) for base in bases),
        content,
    ]:
        config = put_over(config, layer)
    return config


def _checked(content: Any, where: str) -> dict[str, Any]:
    """The content of a file, in today's names and with its classes spelt out, if it has the shape of a config."""
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"{where} holds {describe(content)}; wanted keys such as model, data and trainer")
    for section, example in EXAMPLES.items():
        value = content.get(section)
        if value is None:
            content.pop(section, None)
        elif not isinstance(value, dict) and not (section == "data" and isinstance(value, str)):
            wanted = f"wanted its keys, such as {section}: {{{example}}}"
            raise ConfigError(f"{where}: {section} is {describe(value)}; {wanted}")
    _check_keys(allow(content), where)
    spell_out(content, where)
    if "model" in content:
        content["model"] = renew_arguments("vitdet.Task", content["model"])
    return renew(content, layer=True)


def _check_keys(value: Any, where: str) -> None:
    for key, item in value.items() if isinstance(value, dict) else ():
        if not isinstance(key, str):
            raise ConfigError(f"{where}: {key!r} is no key; wanted a name, such as lr")
        _check_keys(item, where)


def at(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The mapping under `model.head` and the like, or an empty one; arguments of a class count as its keys."""
    value: Any = config
    for key in filter(None, name.split(".")):
        value = arguments(value).get(key)
        if not isinstance(value, dict):
            return {}
    return value


def arguments(part: dict[str, Any]) -> dict[str, Any]:
    """The keys of a part that is spelt out, or of any other mapping."""
    if not part.keys() & {"class_path", "init_args"}:
        return part
    return part["init_args"] if isinstance(part.get("init_args"), dict) else {}


def spell_out(config: dict[str, Any], where: str = "the config") -> None:
    """Every part that given as `Name`, `{class_path: Name, dim: 8}` or `{dim: 8}` becomes `{class_path, init_args}`."""
    for name in PARTS:
        owner, _, key = name.rpartition(".")
        holder = arguments(at(config, owner))
        value = holder.get(key)
        if owner in ("", "model"):
            if value is None:
                holder.pop(key, None)
            else:
                holder[key] = spelt(value, name, where)
        elif isinstance(value, dict) or _names_class(value):
            # any other value is for the class of the owner, which may also have none there
            holder[key] = spelt(value, name, where)
        if name == "model.backbone" and value is not None and "class_path" not in holder[key]:
            # an old file may give its stem and neck by other keys
            holder[key]["init_args"] = renew_arguments("vitdet.Backbone", holder[key]["init_args"], layer=True)


def spelt(value: Any, name: str, where: str = "the config") -> dict[str, Any]:
    """A part, given in any of the short ways, as `{class_path: …, init_args: …}`, the first only if it is known.

    Raises:
        ConfigError: it is neither the name of a class nor a mapping.
    """
    if isinstance(value, str):
        if name == "data" and folder.is_folder(value):
            return folder.spelt(value)
        return {"class_path": full_name(value), "init_args": {}}
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {name} is {describe(value)}; wanted the name of a class, or its keys")
    kept = {key: item for key, item in value.items() if key == "dict_kwargs"}
    rest = {key: item for key, item in value.items() if key not in ("class_path", "init_args", "dict_kwargs")}
    inner, path = value.get("init_args") or {}, value.get("class_path")
    if not isinstance(inner, dict) or not isinstance(path, (str, type(None))):
        got = f"class_path {path!r} and init_args {describe(inner)}"
        raise ConfigError(f"{where}: {name} has {got}; wanted a name, and a mapping")
    return {**({"class_path": full_name(path)} if path else {}), "init_args": {**rest, **inner}, **kept}


def _names_class(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(\w+\.)*[A-Z]\w*", value) is not None


def full_name(name: str) -> str:
    """`vitdet.DETRHead` for `DETRHead`; any other name as it is."""
    import vitdet

    return f"vitdet.{name}" if name in vitdet.__all__ else name


def put_over(base: dict[str, Any], layer: dict[str, Any]) -> dict[str, Any]:
    """`layer` over `base`.

    Another data class takes over what all data have (sizes, batches, augmentation), so that one line changes the task.
    """
    before, after = base.get("data") or {}, layer.get("data") or {}
    after = folder.over(before, after)
    if after:
        layer = {**layer, "data": after}
    changed = after.get("class_path") not in (None, before.get("class_path"))
    if before and changed and ("class_path" in before or after["class_path"] == folder.UNKNOWN):
        from vitdet.data import ImageData

        common = inspect.signature(ImageData).parameters
        before = arguments(_of_class(before, after["class_path"]))
        kept = {key: value for key, value in before.items() if key in common}
        base = {key: value for key, value in base.items() if key != "data"}
        layer = {**layer, "data": {**after, "init_args": merge(kept, after["init_args"])}}
    return merge(_without_twins(base, layer.get("trainer") or {}), layer)


def _without_twins(config: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    trainer = config.get("trainer") or {}
    gone = {TWINS[key] for key, value in given.items() if key in TWINS and value is not None} - given.keys()
    return {**config, "trainer": {key: value for key, value in trainer.items() if key not in gone}} if gone else config


def merge(base: dict[str, Any], layer: dict[str, Any]) -> dict[str, Any]:
    """`layer` over `base`, key by key.

    Lists are replaced, and sizes, which are a single rule; `key+` appends. Another class takes no arguments over (but
    see `put_over`).
    """
    if "class_path" in layer and layer["class_path"] != base.get("class_path", layer["class_path"]):
        return layer
    if path := layer.get("class_path") or base.get("class_path"):
        base, layer = _of_class(base, path), _of_class(layer, path)
    if "init_args" in base and "init_args" in layer:
        below, above = in_one_form(path, arguments(base), arguments(layer))
        base, layer = {**base, "init_args": below}, {**layer, "init_args": above}
    merged = dict(base)
    for key, value in layer.items():
        name = key.removesuffix("+")
        before = merged.get(name)
        if name != key:
            merged[name] = [*_listed(before), *_listed(value)]
        elif isinstance(value, dict) and _names_class(before):
            merged[name] = merge(spelt(before, name), spelt(value, name))
        elif isinstance(value, dict) and isinstance(before, dict) and key != "size":
            merged[name] = merge(before, value)
        else:
            merged[name] = value
    return merged


def _of_class(part: dict[str, Any], path: str) -> dict[str, Any]:
    """A part that names no class, which now is known, with its options at today's places."""
    if not part or "class_path" in part:
        return part
    return renew({"class_path": path, "init_args": arguments(part)}, layer=True)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def apply_settings(config: dict[str, Any], settings: Sequence[Setting]) -> dict[str, Any]:
    """`--model.head EoMTHead`, `--data.size 64`, `--config more.yaml` on top of a config, in their order.

    Those of the trainer are a single layer, the last one, so that two keys of a rule can be given together.
    """
    trainer: list[tuple[str, Any]] = []
    for key, value in settings:
        if key.startswith("trainer."):
            trainer.append((key.removeprefix("trainer."), None if value == "null" else structure(value)))
            continue
        layer = read_layers(value) if key == "config" else _layer(key, value)
        named = at(layer, key).get("class_path") not in (None, folder.UNKNOWN)
        if key in PARTS and named and "class_path" not in at(config, key):
            # a class that is named here takes no arguments of a class that a file did not name
            at(config, key).pop("init_args", None)
        config = put_over(config, layer)
    config = _without_twins(config, dict(trainer))
    for key, value in trainer:
        config = {**config, "trainer": _set_in_trainer(config.get("trainer") or {}, key, value)}
    return config


def _layer(key: str, value: str) -> dict[str, Any]:
    """The config that holds nothing but `key: value`; text stays for the parser, which knows its type.

    A mapping is read, since it lies on what is below it key by key, as in a file.
    """
    content: Any = None if value == "null" else value
    if value != "null" and key in (*PARTS, "model", "model.head.masks"):
        # the name of a folder may be no YAML: `2024` is a number
        content = value if key == "data" and folder.is_folder(value) else parse(value, f"--{key}")
    elif key.endswith("+") or value.strip().startswith("{"):
        content = structure(value)
    return _checked(_nested(key.split("."), content), f"--{key}")


def _nested(names: Sequence[str], value: Any) -> Any:
    for name in reversed(names):
        value = {name: value}
    return value


def structure(value: Any) -> Any:
    """A list or a mapping where it is written as YAML text; any other value as it is."""
    if not isinstance(value, str) or value.strip()[:1] not in ("[", "{"):
        return value
    parsed = parse(value, value)
    return parsed if isinstance(parsed, (list, dict)) else value


def _set_in_trainer(trainer: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """`callbacks.monitor` is an argument of the last callback, `strategy.x` one of the strategy that was named."""
    name, *inner = key.split(".")
    before = trainer.get(name)
    if inner and isinstance(before, list) and before:
        last = merge({name: before[-1]}, _nested([name, *inner], value))[name]
        return {**trainer, name: [*before[:-1], last]}
    return merge(trainer, _nested([name, *inner], value))
