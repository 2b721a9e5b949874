"""`vitdet new FILE --from NAME`: begins a config of the user's own, on top of one that comes with vitdet."""

import os
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from vitdet.cli import VERBS
from vitdet.command import shipped
from vitdet.command.files import ConfigError
from vitdet.command.layers import arguments, at, read_layers
from vitdet.command.parser import Parser
from vitdet.command.recipes import recipe

# what is changed first; its value in the base is shown
SHOWN = {"model": ("lr",), "data": ("size", "batch_size"), "trainer": ("max_epochs", "max_steps")}
BASE = "finetune"


def run(argv: list[str]) -> None:
    parser = Parser("new", VERBS["new"])
    parser.add_argument("file", type=Path, help="the file to write, such as my.yaml")
    parser.add_argument("--from", dest="base", default=BASE, help="the config that it is based on (%(default)s)")
    parser.add_argument("--data", help="the folder of your labelled images")
    options = parser.parse_args(argv)
    missing = write(options.file, options.base, data=options.data)
    print(f"{options.file} is written; next: vitdet train {quote(str(options.file))}{missing}")


def write(file: Path, base: str, *, data: str | None = None) -> str:
    """Writes a config that is based on another, and returns the words that a training with it needs, see `needed`.

    Args:
        file: the file to write.
        base: the name of a config that comes with vitdet, or the path of a file.
        data: the folder of labelled images, relative to where the command runs.

    Raises:
        ConfigError: the file exists, its folder does not, it is no YAML by its name, or there is no such base.
    """
    if file.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{file} is no name of a config; wanted one that ends in .yaml")
    path, model = recipe(base)
    config, text = read_layers(path), Path(path).read_text(encoding="utf-8")
    own = {"model": {"checkpoint": model} if model else {}, "data": {"folder": data} if data else {}}
    name = quote(str(file))
    lines = [
        f"# vitdet train {name}{needed(config, data)}",
        f"# On top of {base}: {shipped.purpose(text) or 'a config'}",
        f"# `vitdet configs {base}` prints that, and `vitdet train {name} --help` lists every key.",
        yaml.safe_dump({"base": _place(Path(path), file)}).strip(),
        "# what stands behind a mark has the values of the base; remove the mark to change them",
        *(line for section in SHOWN for line in _section(section, own.get(section, {}), at(config, section))),
    ]
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")
    except FileExistsError as error:
        raise ConfigError(f"{file} exists, and is left as it is; give another name, or remove it") from error
    except OSError as error:
        raise ConfigError(f"{file} can't be written ({error.strerror}); give a file in a folder that exists") from error
    return needed(config, data)


def needed(config: dict[str, Any], data: str | None) -> str:
    """The words that a training on top of a config needs: its data, unless the config has some."""
    given = data or "Shapes" in at(config, "data").get("class_path", "") or "train" in arguments(at(config, "data"))
    return "" if given else " --data FOLDER"


def _place(path: Path, file: Path) -> str:
    """How a config names its base: a config of vitdet's by its name, any other by its path from there."""
    if path.is_relative_to(shipped.folder()):
        return path.relative_to(shipped.folder()).with_suffix("").as_posix()
    return Path(os.path.relpath(path, file.parent)).as_posix()


def _section(name: str, own: dict[str, Any], base: dict[str, Any]) -> Iterator[str]:
    """The lines of a section: what the new config says, and what it may say instead of its base."""
    known = arguments(base)
    shown = {key: known[key] for key in SHOWN[name] if known.get(key) is not None and key not in own}
    if own or shown:
        mark = "" if own else "# "
        yield f"{mark}{name}:"
        yield from (f"  {line}" for line in _lines(own))
        yield from (f"  # {line}" if own else f"#   {line}" for line in _lines(shown))


def _lines(values: dict[str, Any]) -> list[str]:
    """A line of YAML for each key."""
    nested = {key: None if isinstance(value, (dict, list)) else False for key, value in values.items()}
    return [yaml.safe_dump({key: values[key]}, default_flow_style=nested[key], width=1000).strip() for key in values]
