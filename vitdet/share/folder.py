"""Writes a trained model as a folder that others can use."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

import vitdet
from vitdet import model_folder, zoo
from vitdet.checkpoint import FORMAT, Checkpoint, write
from vitdet.errors import UserError
from vitdet.share import card, facts
from vitdet.share.facts import Facts

README, PICTURE = "README.md", "picture"
IMAGES = (".jpg", ".jpeg", ".png", ".webp")
# left out of the entry `vitdet`: paths of the machine that trained, and of no use without it
PRIVATE = ("data",)


@dataclass(frozen=True)
class Saved:
    """A folder that was written.

    Attributes:
        folder: the folder.
        lines: what is in it, and what was not known, a sentence each.
    """

    folder: Path
    lines: list[str]


def save(
    model: str | Path,
    folder: str | Path,
    *,
    title: str | None = None,
    licence: str | None = None,
    datasets: Sequence[str] = (),
    picture: str | Path | bool = True,
) -> Saved:
    """Writes a model as a folder for others: `model.safetensors`, `config.json`, and the model card `README.md`.

    The weights are the average of the training where the checkpoint has one. There is no optimiser, and no path of the
    machine that trained. `vitdet.load(folder)` reads it.

    Args:
        model: the checkpoint of a run, or the name of a published model.
        folder: the folder to write; files of an earlier call are replaced.
        title: the title of the card; by default the name of the folder.
        licence: the licence of the weights, such as `apache-2.0`; by default that of a published model.
        datasets: names of the data sets that it was trained on, on the hub if they are there.
        picture: an image file for the card; true takes the newest picture of the run, false takes none.

    Returns:
        The folder, with lines that say what is in it and what was left out.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        UserError: the checkpoint can't be used, the folder holds other things, or the picture can't be read.

    Example:
        >>> save("runs/custom/version_0/best.ckpt", "blood-cells", licence="apache-2.0")  # doctest: +SKIP
    """
    folder = Path(folder)
    _check_free(folder)
    saved, known = _read(model)
    licence = licence or known.licence or None
    # what was read is in today's words
    entry = {**{key: value for key, value in saved.saved.items() if key not in PRIVATE}, "format": FORMAT}
    image = _picture(picture, Path(saved.name))
    model_folder.write(folder, _plain(entry), saved.weights, version=vitdet.__version__)
    name = None
    if image is not None:
        name = f"{PICTURE}{image.suffix.lower()}"
        shutil.copyfile(image, folder / name)
    title = title or folder.resolve().name
    page = card.text(known, title=title, licence=licence, datasets=datasets, picture=name)
    (folder / README).write_text(page, encoding="utf-8")
    lines = [_sizes(saved, folder), *_left_out(known, licence, datasets)]
    if image is not None:
        lines.append(f"picture: {image}; --picture none leaves it out")
    return Saved(folder, lines)


def _read(model: str | Path) -> tuple[Checkpoint, Facts]:
    """The checkpoint, or a published model as one, and what is known of it."""
    published, _ = zoo.of(str(model))
    if published is None:
        saved = Checkpoint.read(model)
        # also a check that it can be built, before anything is written
        backbone, head = saved.build()
        known = facts.of_checkpoint(saved, predicts=str(head.predicts), parameters=_count(backbone, head))
        return saved, known
    parts = published.load()
    known = {"classes": published.classes, "category_ids": published.category_ids}
    contents = write({}, parts["backbone"], parts["head"], **known, eval_transform=published.eval_transform)
    told = facts.of_card(published, predicts=str(parts["head"].predicts), parameters=_count(*parts.values()))
    return Checkpoint.of(contents, published.name), replace(told, thresholds=[])


def _count(*parts: nn.Module) -> int:
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def _plain(value: Any) -> Any:
    """A value in JSON's words."""
    return json.loads(json.dumps(value))


def _check_free(folder: Path) -> None:
    ours = {model_folder.WEIGHTS, model_folder.CONFIG, README, *(f"{PICTURE}{suffix}" for suffix in IMAGES)}
    if folder.is_file():
        raise UserError(f"{folder} is a file; wanted a folder to write the model into")
    others = sorted(path.name for path in folder.iterdir() if path.name not in ours) if folder.is_dir() else []
    if others:
        raise UserError(f"{folder} holds {others[0]}, which is no part of a shared model; give a folder of its own")


def _picture(picture: str | Path | bool, checkpoint: Path) -> Path | None:
    """The image of the card: the one that was given, or the newest of the run."""
    if isinstance(picture, bool):
        found = checkpoint.with_name("pictures").glob("*.jpg") if picture else ()
        return max(found, key=lambda path: (path.stat().st_mtime, path.name), default=None)
    path = Path(picture)
    if path.suffix.lower() not in IMAGES or not path.is_file():
        raise UserError(f"picture is {picture}, and there is no such image; wanted a file that ends in .jpg or .png")
    return path


def _sizes(saved: Checkpoint, folder: Path) -> str:
    after = (folder / model_folder.WEIGHTS).stat().st_size
    text = f"{folder}: {_megabytes(after)} of {'averaged ' if saved.average else ''}weights, without the optimiser"
    before = Path(saved.name)
    return f"{text} ({before.name} has {_megabytes(before.stat().st_size)})" if before.is_file() else text


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _left_out(known: Facts, licence: str | None, datasets: Sequence[str]) -> list[str]:
    """What the card does not say, and how it would."""
    lines = []
    if not licence:
        lines.append("licence: not known, so the card names none; --licence apache-2.0 adds it")
    if not (datasets or known.data or known.source):
        lines.append(
            "data set: not known, so the card names none, and its metadata has no scores; --dataset NAME adds it"
        )
    if not known.scores and not known.source:
        lines.append("scores: the checkpoint has none, so the card has none")
    elif not known.protocol and not known.source:
        lines.append("protocol: not recorded in this checkpoint; the card says so")
    return lines
