"""Checks whether a checkpoint fits the task that is resumed from it, and describes the differences."""

import contextlib
import inspect
import math
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from vitdet.checkpoint import DERIVED, Checkpoint, CheckpointError
from vitdet.config import config_of, part, public_path
from vitdet.errors import UserError

# arguments of a backbone that affect training, but not its outputs in evaluation
FREE = {"drop_path", "freeze", "grad_checkpointing"}
# keys of a parameter group that belong to the state of the optimiser, or that `apply_settings` sets separately
KERNELS = {"params", "lr", "fused", "foreach", "capturable", "differentiable"}
# the file of Lightning's that restores a run from a checkpoint
_RESTORES = re.compile(r"connectors[\\/]checkpoint_connector\.py$")
# the key, the value in the run, and the value in the checkpoint
Difference = tuple[str, Any, Any]


def check_resume(task: Any, path: str | Path, *, training: bool) -> None:
    """Checks that a checkpoint can be loaded into a task.

    Args:
        task: the task that is resumed or scored.
        path: the checkpoint.
        training: whether training is resumed, rather than the task scored.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged, was not written by vitdet, or holds another model, other classes or
            another optimiser. The message names the differences.
    """
    check_fits(task, Checkpoint.read(path), training=training)


@contextlib.contextmanager
def restoring(path: Any) -> Iterator[None]:
    """Tells of a checkpoint whose state of a run Lightning can't take over: it is not that of such a run.

    Raises:
        CheckpointError: an error came from Lightning's code that restores a run.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        places = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        if path is None or isinstance(error, UserError) or not any(map(_RESTORES.search, places)):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise CheckpointError(
            f"{path} holds no state of a run that can be gone on with ({reason}); {_start(path)}"
        ) from error


def check_fits(task: Any, saved: Checkpoint, *, training: bool, tell: bool = False) -> None:
    """Does the checks of `check_resume` for a checkpoint that has been read.

    Args:
        task: the task that is resumed or scored.
        saved: the checkpoint.
        training: whether training is resumed, rather than the task scored.
        tell: whether to log which options differ where a difference is allowed.

    Raises:
        CheckpointError: the checkpoint does not fit the task.
    """
    path = saved.name
    if differs := class_difference(saved.classes, task.classes):
        raise CheckpointError(
            f"{path} does not fit the data: {differs}; {_advice(path, training, 'the data that it was trained on')}"
        )
    model = list(_model(task, saved.model))
    expected, found = task.state_dict(), saved.state_dict
    unmatched = [key for key in {**expected, **found} if key not in expected or key not in found]
    unmatched += [key for key, value in expected.items() if key in found and found[key].shape != value.shape]
    bound = [difference for difference in model if _is_bound(difference[0], unmatched)]
    if unmatched and not bound:
        _refuse(path, training, f"{len(unmatched)} tensors, the first is {unmatched[0]}")
    if bound:
        _refuse(path, training, _describe(bound))
    if training:
        _check_optimizer(task, saved, [difference for difference in model if difference not in bound])
    others = [
        difference for difference in model if difference[0].rpartition(".")[2] not in ({"freeze"} if training else FREE)
    ]
    if others and tell:
        now = "; from here on holds" if training else ", and is now used with"
        rank_zero_info(f"{path} was trained with other options{now}: {_describe(others)}")


def _refuse(path: Any, training: bool, what: str) -> None:
    raise CheckpointError(
        f"{path} does not fit this run: {what}; {_advice(path, training, 'what it was trained with')}"
    )


def _advice(path: Any, training: bool, first: str) -> str:
    start = f", or start from its weights instead of going on: model.checkpoint: {path}, without --ckpt_path"
    return f"give {first}{start if training else ''}"


def _describe(differences: Sequence[Difference]) -> str:
    shown = ", ".join(
        f"{key} {_plain(now)}, the checkpoint has {_plain(before)}" for key, now, before in differences[:4]
    )
    return shown + (f", and {len(differences) - 4} more" if len(differences) > 4 else "")


def _plain(value: Any) -> str:
    return "null" if value is None else str(value)


def class_difference(model: Sequence[str], data: Sequence[str]) -> str | None:
    """Describes how the classes of a model differ from those of the data; `None` if they are equal."""
    if list(model) == list(data):
        return None
    new, gone = [c for c in data if c not in model], [c for c in model if c not in data]
    names = [f"{word} {', '.join(map(repr, some[:5]))}" for word, some in (("new:", new), ("missing:", gone)) if some]
    what = "; ".join(names) or "the same names in another order"
    return f"it knows {len(model)} classes, the data has {len(data)} ({what})"


def _model(task: Any, before: dict[str, Any]) -> Iterator[Difference]:
    for name in ("backbone", "head"):
        now, then = config_of(getattr(task, name)), before[name]
        if now["class_path"] != then["class_path"]:
            yield f"model.{name}", *(config["class_path"].rpartition(".")[2] for config in (now, then))
        else:
            known = _over(_defaults(part(now["class_path"])), then["init_args"])
            yield from _arguments(f"model.{name}", now["init_args"], known)


def _defaults(cls: type) -> dict[str, Any]:
    """Returns the default arguments of a class, for those that a checkpoint of an older vitdet does not hold."""
    given = {p.name: p.default for p in inspect.signature(cls).parameters.values() if p.default is not p.empty}
    return {name: _part_of(value) if isinstance(value, type) else config_of(value) for name, value in given.items()}


def _part_of(cls: type) -> dict[str, Any]:
    return {"class_path": public_path(cls), "init_args": _defaults(cls)}


def _over(base: Any, top: Any) -> Any:
    """Returns `top`, completed recursively by the keys of `base`, unless these configure different classes."""
    if not (isinstance(base, dict) and isinstance(top, dict)) or top.get("class_path") != base.get("class_path"):
        return top
    return {**base, **{key: _over(base.get(key), value) for key, value in top.items()}}


def _arguments(place: str, now: dict[str, Any], before: dict[str, Any]) -> Iterator[Difference]:
    for key in now:
        if key in DERIVED or now[key] == before.get(key):
            continue
        classes = [value.get("class_path") for value in (now[key], before.get(key)) if isinstance(value, dict)]
        if len(classes) == 2 and classes[0] != classes[1]:
            yield f"{place}.{key}", *(str(name).rpartition(".")[2] for name in classes)
        elif len(classes) == 2:
            yield from _arguments(f"{place}.{key}".removesuffix(".init_args"), now[key], before[key])
        else:
            yield f"{place}.{key}", now[key], before.get(key)


def _is_bound(key: str, unmatched: list[str]) -> bool:
    """Whether an argument must have the value that it has in the checkpoint.

    If tensors differ, these are all arguments except those in `FREE`; otherwise, those that change the outputs.
    """
    name = key.rpartition(".")[2]
    if name in FREE:
        return False
    return bool(unmatched) or not key.startswith("model.head.") or name == "num_heads"


def _check_optimizer(task: Any, saved: Checkpoint, model: list[Difference]) -> None:
    path, before = saved.name, saved.optimizer_groups
    if not before:
        raise CheckpointError(f"{path} has no optimiser, only weights; {_start(path)}")
    if not task.standard_optimizer:
        return
    kind = "muon" if "momentum" in before[0] else "adamw"
    if kind != task.optimizer:
        _refuse(path, True, _describe([("model.optimizer", task.optimizer, kind)]))
    groups_now = task.make_optimizer(fused=False).param_groups
    if [len(group["params"]) for group in groups_now] != [len(group["params"]) for group in before]:
        changed = [*model, *(difference for difference in _settings(task, saved) if difference[0] in REGROUP)]
        counts = [sum(len(group["params"]) for group in groups) for groups in (groups_now, before)]
        plain = [
            ("trained tensors", *counts)
            if counts[0] != counts[1]
            else ("parameter groups", len(groups_now), len(before))
        ]
        _refuse(path, True, _describe(changed or plain))


# these change which weights share a learning rate, and hence the parameter groups
REGROUP = {"model.backbone_lr", "model.trunk_lr", "model.layer_decay"}


def _start(path: Any) -> str:
    return f"start from it, model.checkpoint: {path}, without --ckpt_path"


def _settings(task: Any, saved: Checkpoint) -> Iterator[Difference]:
    now = task.settings
    # checkpoints of an older vitdet may lack some settings
    yield from _arguments("model", now, {**now, **saved.settings})


def apply_settings(task: Any, saved: Checkpoint) -> None:
    """Applies the task's training settings after Lightning has restored those of a checkpoint, and logs differences.

    These settings are the learning rate, the schedule, the weight decay and the moment decays of the optimiser.
    """
    factor = task.schedule.factor(task.progress.done)
    (optimizer,), fresh = task.trainer.optimizers, task.make_optimizer(fused=False)
    changed = [(key.removeprefix("model."), now, before) for key, now, before in _settings(task, saved)]
    rates = []
    for group, new in zip(optimizer.param_groups, fresh.param_groups, strict=True):
        group.update({key: value for key, value in new.items() if key not in KERNELS}, initial_lr=new["lr"])
        # a learning rate that has not changed keeps its exact bits, so that resuming is exact
        if not math.isclose(group["lr"], new["lr"] * factor, rel_tol=1e-9):
            group["lr"] = new["lr"] * factor
        rates.append(new["lr"])
    for scheduler in task.trainer.lr_scheduler_configs:
        scheduler.scheduler.base_lrs = list(rates)
    if changed:
        rank_zero_info(f"from here on holds: {_describe(changed)}")
