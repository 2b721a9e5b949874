"""Starts a training from the weights of a published model or of a checkpoint.

Weights that fit are copied, weights of other sizes are resampled or left random, and each of these decisions is logged.
In shapes, G is the number of groups, Q of queries in a group, and C of channels.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor, nn

from vitdet.backbone.weights import create_timm_model, some
from vitdet.checkpoint import DERIVED, Checkpoint, CheckpointError
from vitdet.heads import Head
from vitdet.zoo.cards import Card

log = logging.getLogger("vitdet")


def architecture(card: Card | None, path: str | Path) -> dict[str, Any]:
    """Returns the defaults of a config that starts from a published model or a checkpoint.

    Args:
        card: the published model, if any.
        path: the checkpoint of a run, if there is no card.

    Returns:
        `model` and `data` as in a config file.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        CheckpointError: the checkpoint is damaged, or its model uses classes that are not parts of vitdet.
    """
    source = card or Checkpoint.read(path)
    before = source.eval_transform
    shown = {key: before[key] for key in ("size", "resample") if key in before}
    model = source.config()
    options = {key: value for key, value in model["head"]["init_args"].items() if key not in DERIVED}
    return {"model": {**model, "head": {**model["head"], "init_args": options}}, "data": {"init_args": shown}}


def start(
    backbone: nn.Module,
    head: Head,
    classes: Sequence[str],
    *,
    card: Card | None,
    path: str | Path | None,
) -> list[str]:
    """Loads the weights of a published model, or of a checkpoint, into a model that may differ from it.

    Rows of classification layers are matched by class name. If the numbers of queries differ, the first queries are
    copied. Position embeddings and patch kernels are resampled.

    Args:
        backbone, head: the model that receives the weights.
        classes: class names of the model, indexed by label.
        card: the published model, if any.
        path: a file with the weights of the published model, or the checkpoint of a run.

    Returns:
        The classes whose weights were left random.

    Raises:
        FileNotFoundError: there is no such file.
        DownloadError: the weights can't be downloaded.
        CheckpointError: the weights are those of another model.
    """
    source = card or Checkpoint.read(path)
    state = card.weights(path) if card is not None else dict(source.weights)
    known, name = source.classes, source.name
    before, options = (source.config()[part]["init_args"] for part in ("backbone", "head"))
    model = nn.ModuleDict({"backbone": backbone, "head": head})
    target = model.state_dict()
    log.info("weights: %s", name)
    groups = options.get("groups", Head.groups), head.groups
    for key in (f"head.{row}" for row in head.query_rows()):
        if key in state:
            state[key] = _queries(key, state[key], target[key], *groups)
    if list(known) != list(classes):
        pairs = [(i, known.index(label)) for i, label in enumerate(classes) if label in known]
        _say_classes(len(pairs), classes, known)
        for key in (f"head.{row}" for row in head.class_rows()):
            if key in state:
                state[key] = _class_rows(state[key], target[key], pairs, len(known), len(classes))
    _resample(state, target, backbone, before)
    _load(model, state, target, name)
    return [label for label in classes if label not in known]


def _queries(key: str, value: Tensor, target: Tensor, groups: int, target_groups: int) -> Tensor:
    """Copies the first queries of the first groups, as many as both models have; others keep the values of `target`."""
    if (value.shape == target.shape and groups == target_groups) or value.shape[1:] != target.shape[1:]:
        return value
    theirs, ours = value.unflatten(0, (groups, -1)), target.clone().unflatten(0, (target_groups, -1))  # (G, Q, C)
    g, q = min(len(theirs), len(ours)), min(theirs.shape[1], ours.shape[1])
    ours[:g, :q] = theirs[:g, :q]
    kept = f"{q} of {theirs.shape[1]} queries in {g} of {len(theirs)} groups kept"
    log.info("weights: %s, %s; the model has %d in %d", key, kept, ours.shape[1], len(ours))
    return ours.flatten(0, 1)


def _say_classes(kept: int, classes: Sequence[str], known: Sequence[str]) -> None:
    names = [label for label in classes if label in known]
    new = [label for label in classes if label not in known]
    log.info("weights: classes kept by name, %d of %d: %s", kept, len(classes), some(names))
    if new:
        log.info("weights: classes left at random, %d: %s", len(new), some(new))


def _class_rows(value: Tensor, target: Tensor, pairs: Sequence[tuple[int, int]], known: int, count: int) -> Tensor:
    """Copies the rows of classes with equal names, and rows after the classes, such as "no object"."""
    if value.shape[1:] != target.shape[1:] or len(value) - known != len(target) - count:
        return value
    rows = target.clone()
    for ours, theirs in [*pairs, *zip(range(count, len(target)), range(known, len(value)))]:
        rows[ours] = value[theirs]
    return rows


def _resample(state: dict[str, Tensor], target: dict[str, Tensor], backbone: nn.Module, before: dict[str, Any]) -> None:
    """Resamples the position embedding and the patch kernel to the grid and the patch size of the model.

    `before` holds the arguments of the backbone that the weights come from.
    """
    position, kernel = "backbone.trunk.pos_embed", "backbone.trunk.patch_embed.proj.weight"
    trunk = backbone.trunk
    if position in state and position in target and (grid := native_grid(before)) != tuple(trunk.native_grid):
        prefix = trunk.num_prefix if trunk.embeds_prefix else 0
        state[position] = resample_abs_pos_embed(
            state[position], list(trunk.native_grid), list(grid), num_prefix_tokens=prefix
        )
        log.info("weights resampled: %s from a grid of %s to %s", position, grid, tuple(trunk.native_grid))
    if kernel in state and kernel in target and state[kernel].shape[2:] != target[kernel].shape[2:]:
        shape = tuple(state[kernel].shape)
        state[kernel] = resample_patch_embed(state[kernel], list(target[kernel].shape[2:]))
        log.info("weights resampled: %s %s -> %s", kernel, shape, tuple(target[kernel].shape))


def native_grid(options: dict[str, Any]) -> tuple[int, int]:
    """Returns the grid `(rows, columns)` of the position embedding of a backbone with these arguments."""
    with torch.device("meta"):
        return tuple(create_timm_model(options["name"], **(options.get("model_args") or {})).patch_embed.grid_size)


def _load(model: nn.Module, state: dict[str, Tensor], target: dict[str, Tensor], name: str) -> None:
    wrong = [key for key in target if key in state and state[key].shape != target[key].shape]
    missing = [key for key in target if key not in state]
    unused = [key for key in state if key not in target]
    if wrong or len(missing) > len(target) / 2:
        what = f"{len(missing)} of {len(target)} tensors are missing in it: {some(missing)}"
        if wrong:
            key = wrong[0]
            what = (
                f"{len(wrong)} differ in shape, such as {key}: "
                f"{tuple(state[key].shape)}, wanted {tuple(target[key].shape)}"
            )
        raise CheckpointError(
            f"{name} is another model: {what}; leave out model.backbone and model.head to get its own"
        )
    model.load_state_dict({key: state[key] for key in target if key in state}, strict=False)
    if missing:
        log.warning("weights missing, left at random: %s", some(missing))
    if unused:
        log.info("weights not used: %s", some(unused))
