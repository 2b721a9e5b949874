"""A YAML file to plain values, or a sentence that says why it is no config."""

import difflib
import re
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from vitdet.bounds import count
from vitdet.command import shipped
from vitdet.errors import UserError

# The most values that a file may hold once its aliases are written out; a config has some hundred.
MAX_VALUES = 100_000
# the most bytes of a config, which has some thousand; the reader takes about a second for a hundred thousand
MAX_BYTES = 300_000
# the most files that a config is made of, its bases and theirs
MAX_FILES = 100
# whole numbers below 2 to this power
MAX_BITS = 64
PLAIN = (bool, int, float, str, type(None))


class ConfigError(UserError):
    """A config file or an option of the command line is wrong; the message says what to do."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would take the last, and leaves dates as they are written."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<")
        twice = next((key for key, count in keys.items() if count > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        # each `<<: [*a, *a]` doubles them
        if len(node.value) > MAX_VALUES:
            text = f"it has more than {MAX_VALUES:,} values once its merge keys are written out"
            raise yaml.constructor.ConstructorError(None, None, text, node.start_mark)


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
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ConfigError(f"{path} has {size:,} bytes; wanted a config, of at most {MAX_BYTES:,}")
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
        if count(value) > MAX_VALUES:
            raise ConfigError(
                f"{where} holds more than {MAX_VALUES:,} values once its aliases are written out; write a plain config"
            )
        return _numbers(value, where)
    except ConfigError:
        raise
    except RecursionError as error:
        raise ConfigError(f"{where} is nested too deeply, or an alias holds itself; write a plain config") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{where}{line} is not valid YAML: {reason}") from error
    # what the reader says of `!!int many`, and of numbers of thousands of digits
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        raise ConfigError(f"{where} is not valid YAML: a value is not what its tag says ({error})") from error


def _numbers(value: Any, where: str) -> Any:
    """`4e-4` is a number, though YAML 1.1 reads it as text.

    Raises:
        ConfigError: a value is of a kind that no option takes, or too large a number.
    """
    if isinstance(value, dict):
        return {key: _numbers(item, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item, where) for item in value]
    if not isinstance(value, PLAIN):
        raise ConfigError(f"{where} holds {type(value).__name__} values; wanted numbers, texts, lists and mappings")
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ConfigError(f"{where} holds a number of {value.bit_length():,} bits; wanted at most {MAX_BITS}")
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value


def describe(value: Any) -> str:
    """A value with its kind, cut to a length that fits a sentence: `the text 'abc'`."""
    kinds = {dict: "a mapping", list: "a list", str: "the text", bool: "", int: "the number", float: "the number"}
    text = repr(value)
    return f"{kinds.get(type(value), type(value).__name__)} {text if len(text) <= 40 else text[:40] + ' …'}".strip()
