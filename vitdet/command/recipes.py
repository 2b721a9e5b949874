"""Configs by their names: `rf_detr` for `configs/rf_detr.yaml`, and `rf_detr/nano` for it with a published model."""

from collections.abc import Iterator
from pathlib import Path

import vitdet

# where configs are looked for, besides as a path: here, and in the clone that vitdet runs from
PLACES = (Path("configs"), Path(vitdet.__file__).parents[1] / "configs")


def recipe(name: str) -> tuple[str, str | None]:
    """The file of a config that is given by its path or its name, and the published model that the name adds.

    Example:
        >>> file, model = recipe("rf_detr/nano")
        >>> Path(file).name, model
        ('rf_detr.yaml', 'rf-detr-nano')
    """
    if Path(name).suffix or Path(name).exists():
        return name, None
    for place in PLACES:
        if (file := place / f"{name}.yaml").is_file():
            return str(file), None
    for file, model in _published(name):
        return str(file), model
    return name, None


def _published(name: str) -> Iterator[tuple[Path, str]]:
    """The configs that start from a published model of that name: `rf-detr-nano`, `rf_detr-nano` or `rf_detr/nano`."""
    from vitdet.zoo import CARDS

    model = name.replace("/", "-").replace("_", "-")
    if model in CARDS:
        for place in PLACES:
            files = [path for path in place.glob("*.yaml") if model.startswith(f"{path.stem.replace('_', '-')}-")]
            yield from ((path, model) for path in sorted(files, key=lambda path: -len(path.stem)))
