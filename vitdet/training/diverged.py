"""The folder `diverged` of a run: all that it takes to run a step again whose loss or gradients were not finite.

state.ckpt     weights, optimiser and progress, as they were before the step: a checkpoint as any other
rank0.pt, …    of each process the batches of the step, the state of the random generators before each of them, and
               what else the step depends on, see `write`
config.yaml    the config of the run, if the command line started it
"""

import dataclasses
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from vitdet import atomic
from vitdet.backbone.weights import read_file
from vitdet.data import ImageData
from vitdet.data.samples import file_names, is_target
from vitdet.errors import UserError
from vitdet.structures import Target

FOLDER, STATE = "diverged", "state.ckpt"
# what the file of a rank has at least
KEYS = {"rank", "ranks", "step", "epoch", "device", "precision", "progress", "labels", "evaluating", "batches"}


class ReplayError(UserError):
    """A folder that `vitdet replay` can't use; the message names the file and what is wrong with it."""


@dataclass
class Kept:
    """A batch that is about to be trained on.

    Attributes:
        batch: the batch, on the device.
        index: its number in the training, from 0.
        generators: the state of the random generators before it, see `generators`.
    """

    batch: Any
    index: int
    generators: dict[str, Any]


def keep(trainer: L.Trainer, batch: Any) -> Kept:
    """Keeps a batch and the state of the random generators, until the step is known to be good."""
    return Kept(batch, trainer.fit_loop.epoch_loop.total_batch_idx, generators(trainer.strategy.root_device))


def generators(device: torch.device) -> dict[str, Any]:
    """The state of the random generators of torch, NumPy and Python, in plain values and tensors."""
    name, keys, *rest = np.random.get_state()
    states = {"torch": torch.get_rng_state(), "python": random.getstate()}
    states["numpy"] = (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest)
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: Mapping[str, Any], device: torch.device) -> None:
    """Sets the random generators as `generators` has found them; that of a GPU only on a GPU."""
    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def write(trainer: Any, kept: list[Kept], row: int) -> str:
    """Writes the folder; all ranks call this together. What can't be written is no reason to hide why training ends.

    Args:
        kept: the batches of the step.
        row: how many steps in a row were skipped.

    Returns:
        Where it is and what reads it, or why it was not written, as part of a sentence.
    """
    if trainer.given.dry or trainer.given.bare:
        return "a training without a folder keeps nothing of them"
    folder = trainer.run_folder / FOLDER
    reason = _why_not(lambda: _make(folder)) if trainer.is_global_zero else None
    # all ranks come here and to the next line, whatever happened to the files of one
    trainer.strategy.barrier("diverged")
    unsaved, _ = trainer.try_to_save(folder / STATE)
    place = folder / f"rank{trainer.global_rank}.pt"
    content = {**_facts(trainer), "in_a_row": row, "batches": [_plain(trainer, one) for one in kept]}
    reason = reason or unsaved or _why_not(lambda: atomic.replace(place, lambda file: torch.save(content, file)))
    if reason:
        return f"their batches and weights can't be written to {folder} ({reason})"
    return f"`vitdet replay {folder}` runs the last of them again, and names what is not finite first"


def _why_not(action: Callable[[], None]) -> str | None:
    try:
        action()
    # torch makes a RuntimeError of an OSError
    except (OSError, RuntimeError) as error:
        return " ".join(str(error).split())
    return None


def _make(folder: Path) -> None:
    """Makes the folder, without what an earlier training left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if (config := folder.with_name("config.yaml")).is_file():
        shutil.copy(config, folder)


def _facts(trainer: Any) -> dict[str, Any]:
    task, data = trainer.lightning_module, trainer.datamodule
    ours = isinstance(data, ImageData)
    labels = {"kind": data.kind, "classes": tuple(data.classes), "things": tuple(data.things)} if ours else None
    return {
        "rank": trainer.global_rank,
        "ranks": trainer.world_size,
        "step": trainer.global_step,
        "epoch": trainer.current_epoch,
        "device": str(task.device),
        "precision": str(trainer.precision),
        "progress": task.progress.done,
        "labels": labels,
        # parts that are frozen may be in evaluation mode
        "evaluating": [name for name, module in task.named_modules() if not module.training],
    }


def _plain(trainer: Any, kept: Kept) -> dict[str, Any]:
    """A batch in plain values and tensors on the CPU; without images where it is not one of vitdet's batches."""
    plain: dict[str, Any] = {"index": kept.index, "generators": kept.generators}
    batch = kept.batch
    if not (isinstance(batch, (list, tuple)) and len(batch) == 2 and all(map(is_target, batch[1]))):
        return plain
    images, targets = batch
    names = file_names(trainer.datamodule.index("train")) if isinstance(trainer.datamodule, ImageData) else {}
    plain["images"] = [image.detach().cpu() for image in images]
    plain["targets"] = [
        {field.name: getattr(target.to("cpu"), field.name) for field in dataclasses.fields(target)}
        for target in targets
    ]
    plain["names"] = [names.get(target.image_id, "") for target in targets]
    return plain


def read(folder: str | Path) -> tuple[Path, list[dict[str, Any]]]:
    """Reads what `write` has written: the path of the checkpoint, and the content of each rank's file, by rank.

    Args:
        folder: the folder, or that of its run.

    Raises:
        ReplayError: it is no such folder, or a file in it is damaged.
    """
    inside = Path(folder) / FOLDER
    place = inside if inside.is_dir() else Path(folder)
    files = sorted(place.glob("rank*.pt"), key=lambda path: (len(path.name), path.name))
    if not files or not (place / STATE).is_file():
        raise ReplayError(
            f"{folder} has no {STATE} and rank0.pt; wanted the folder {FOLDER} of a run that ended since its steps "
            "were skipped, such as runs/…/version_0/diverged"
        )
    return place / STATE, [_content(path) for path in files]


def _content(path: Path) -> dict[str, Any]:
    try:
        content = read_file(path)
        missing = KEYS - set(content)
        for batch in content["batches"]:
            batch["targets"] = [Target(**target) for target in batch.get("targets", [])]
            missing |= {"index", "generators"} - set(batch)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = type(error).__name__
        raise ReplayError(f"{path} can't be read: it is damaged, or no file of a skipped step ({reason})") from error
    if missing:
        raise ReplayError(f"{path} is no file of a skipped step: it has no {min(missing)}")
    return content
