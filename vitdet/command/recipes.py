"""Configs by their names: `rf_detr` for `configs/rf_detr.yaml`, and `rf_detr/nano` for it with a published model."""

import difflib
from collections.abc import Iterator
from pathlib import Path

from vitdet.command import shipped
from vitdet.command.files import ConfigError


def recipe(name: str) -> tuple[str, str | None]:
    """The file of a config that is given by its path or its name, and the published model that the name adds.

    A file wins over a name, and a config of the folder `configs` here over one that comes with vitdet.

    Raises:
        ConfigError: it is a name, and there is no such config.

    Example:
        >>> file, model = recipe("rf_detr/nano")
        >>> Path(file).name, model
        ('rf_detr.yaml', 'rf-detr-nano')
    """
    if Path(name).is_file():
        return name, None
    own = Path("configs", f"{name}.yaml")
    if file := own if own.is_file() else shipped.find(name):
        return str(file), None
    if Path(name).suffix or Path(name).exists() or "://" in name:
        return name, None
    for file, model in _published(name):
        return str(file), model
    near = difflib.get_close_matches(name, [*shipped.names(), *_names()], 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else "`vitdet configs` lists those that come with vitdet"
    raise ConfigError(f"there is no config {name}, neither a file nor one of vitdet's; {hint}")


def _files() -> list[Path]:
    """The configs that may start from a published model; of two whose names fit, the longer name is meant."""
    files = [path for place in (Path("configs"), shipped.folder()) for path in place.glob("*.yaml")]
    return sorted(files, key=lambda path: -len(path.stem))


def _prefix(path: Path) -> str:
    return f"{path.stem.replace('_', '-')}-"


def _published(name: str) -> Iterator[tuple[Path, str]]:
    """The configs that start from a published model of that name: `rf-detr-nano`, `rf_detr-nano` or `rf_detr/nano`."""
    from vitdet.zoo import CARDS

    model = name.replace("/", "-").replace("_", "-")
    if model in CARDS:
        yield from ((path, model) for path in _files() if model.startswith(_prefix(path)))


def _names() -> Iterator[str]:
    """`rf_detr/nano` for every published model that has a config."""
    from vitdet.zoo import CARDS

    for model in CARDS:
        for path in _files():
            if model.startswith(_prefix(path)):
                yield f"{path.stem}/{model.removeprefix(_prefix(path))}"
                break
