"""A YAML file to plain values, or a sentence that says why it is no config."""

import difflib
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from vitdet.command import shipped
from vitdet.errors import UserError

# The most values that a file may hold once its aliases are written out; a config has some hundred.
MAX_VALUES = 100_000


class ConfigError(UserError):
    """A config file or an option of the command line is wrong; the message says what to do."""


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


def read_text(path: Path) -> str:
    """The text of a config file.

    Raises:
        ConfigError: there is none, or it is no text; the message names the nearest file where there is one.
    """
    if re.match(r"\w+:/+\w", str(path)):
        raise ConfigError(f"{path} is a URL; download the config, and give the file")
    if path.is_dir():
        inside = sorted(path.glob("*.yaml"))
        raise ConfigError(f"{path} is a folder; give a config file" + (f", such as {inside[0]}" if inside else ""))
    if not path.is_file():
        known = [*map(str, Path("configs").rglob("*.yaml")), *map(str, Path().glob("*.yaml")), *shipped.names()]
        near = difflib.get_close_matches(str(path), known, 1, 0.4)
        raise ConfigError(f"there is no config {path}" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8, so it is no config: give a YAML file") from error


def parse(text: str, where: str) -> Any:
    """The values of YAML text. Aliases that multiply without bound are refused before anybody walks through them.

    Raises:
        ConfigError: it is not YAML, or too large or deep; the message starts with `where`.
    """
    try:
        # the loader is a SafeLoader: no tag of a file runs code
        value = yaml.load(text, _Loader)
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
    """How many values there are, an alias counted as often as it is named.

    Raises:
        RecursionError: an alias holds itself.
    """
    if not isinstance(value, (dict, list)):
        return 1
    if known.get(id(value)) == -1:
        raise RecursionError
    if id(value) not in known:
        # -1: it is being counted
        known[id(value)] = -1
        items = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(item, known) for item in items)
    return known[id(value)]


def _numbers(value: Any) -> Any:
    """`4e-4` is a number, though YAML 1.1 reads it as text."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value


def describe(value: Any) -> str:
    """A value with its kind, cut to a length that fits a sentence: `the text 'abc'`."""
    kinds = {dict: "a mapping", list: "a list", str: "the text", bool: "", int: "the number", float: "the number"}
    text = repr(value)
    return f"{kinds.get(type(value), type(value).__name__)} {text if len(text) <= 40 else text[:40] + ' …'}".strip()
