"""Weights for the trunk: timm's pretrained weights, or a file in the layout of timm or of a model's authors."""

import logging
import pickle
import re
from argparse import Namespace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.models import eva, vision_transformer
from torch import Tensor

from vitdet import checksum
from vitdet.backbone.attention import RELATIVE_TABLES
from vitdet.backbone.hub import cached, why_not
from vitdet.backbone.keys import KeysError
from vitdet.backbone.layouts import to_timm
from vitdet.backbone.relative import resample_table
from vitdet.backbone.trunk import SUPPORTED, check_plain
from vitdet.bounds import check_archive
from vitdet.entry import wrong_tensors
from vitdet.errors import UserError

log = logging.getLogger("vitdet")

_MODULES = ("vision_transformer", "deit", "eva")


class WeightsError(UserError, RuntimeError):
    """Weights that can't be fetched or read, or do not fit the model."""


def create_timm_model(name: str, *, pretrained: bool = False, **model_args: Any) -> Any:
    """A plain ViT of timm without its classifier, with timm's weights if `pretrained` is true.

    Raises:
        UserError: the name is unknown or not that of a plain ViT, or the model does not take the arguments.
        WeightsError: the weights cannot be fetched, or do not fit.
        DamagedError: their file in the cache is damaged.
    """
    architecture = name.split(".")[0]
    if ":" not in name and not timm.is_model(architecture):
        known = [model for module in _MODULES for model in timm.list_models(module=module)]
        near = get_close_matches(architecture, known, n=3) or ["vit_small_patch16_224"]
        raise UserError(f"timm has no model {name!r}; near it: {', '.join(near)}")
    if ":" not in name and timm.models.model_entrypoint(architecture).__module__.rpartition(".")[2] not in _MODULES:
        raise UserError(f"{name} is no plain ViT; supported are {SUPPORTED}")
    if (pretrained or name.startswith("hf-hub:")) and (reason := why_not(name)) is not None:
        raise WeightsError(_unavailable(name, model_args, reason)) from reason
    try:
        model = timm.create_model(name, num_classes=0, dynamic_img_size=True, pretrained=pretrained, **model_args)
    except TypeError as error:
        raise UserError(f"timm's {name} does not take these model_args: {str(error).splitlines()[0]}") from error
    except Exception as error:
        if not pretrained and ":" not in name:
            raise UserError(f"timm can't build {name} with {model_args or 'its own sizes'}: {error}") from error
        raise WeightsError(_unavailable(name, model_args, error)) from error
    check_plain(model, name)
    _check_rope(model, name)
    if pretrained or name.startswith("hf-hub:"):
        for file in cached(name):
            checksum.verify(file)
    if pretrained:
        log.info("weights: %s from %s", name, model.pretrained_cfg.get("hf_hub_id") or model.pretrained_cfg.get("url"))
    return model


def _check_rope(model: Any, name: str) -> None:
    if getattr(model, "rope", None) is None:
        return
    head_dim = model.embed_dim // model.blocks[0].attn.num_heads
    if head_dim % 4:
        raise UserError(
            f"{name} has heads of {head_dim} channels, and rotates them in fours; "
            "choose embed_dim and num_heads so that 4 divides their ratio"
        )


def _unavailable(name: str, model_args: dict, error: Exception) -> str:
    if "size mismatch" in str(error) or "loading state_dict" in str(error):
        changed = ", ".join(model_args) or "nothing"
        return f"the pretrained weights of {name} do not fit the model as configured (changed: {changed}): {error}"
    reason = next(iter(str(error).splitlines()), "")
    return (
        f"the pretrained weights of {name} could not be fetched ({type(error).__name__}: {reason}): "
        "run once where there is a network and copy its Hugging Face cache ($HF_HOME, ~/.cache/huggingface), or set "
        "model.backbone.pretrained: false and model.backbone.checkpoint: FILE, a .safetensors or .pth file with them"
    )


def load_checkpoint(model: Any, name: str, path: str) -> None:
    """Loads a `.safetensors` or `.pth` file into a timm model; resampled, missing and unexpected tensors are logged.

    timm's filter of the family resamples position embeddings to the model's grid and the patch kernel to its patch
    size, and converts the layouts of the models' authors (DINOv2, CLIP, MAE …); `layouts` converts those of
    transformers (DINOv2, DINOv3, ViTDet) and of Detectron2 (ViTDet).

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: the file does not contain the weights of this model.
    """
    try:
        found = to_timm(read_weights(path), set(model.state_dict()))
    except KeysError as error:
        raise WeightsError(f"{path} does not fit {name}: {error}") from error
    if any(key.startswith("backbone.trunk.") for key in found):
        raise WeightsError(
            f"{path} is a checkpoint of vitdet's; give it as model.checkpoint, not model.backbone.checkpoint"
        )
    try:
        state = _filter(model, name)(dict(found), model)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path} does not fit {name}: timm can't convert its tensors: {error}; is it the file of a plain ViT?"
        ) from error
    broken = [key for key, value in state.items() if value.is_floating_point() and not value.float().sum().isfinite()]
    if broken:
        raise WeightsError(f"{path} has values that are not finite, in {some(broken)}; take an earlier file")
    wanted = model.state_dict()
    for key in [key for key in wanted if key.endswith(RELATIVE_TABLES) and key in state]:
        state[key] = resample_table(state[key], (len(wanted[key]) + 1) // 2)
    wrong = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    missing = [key for key in wanted if key not in state]
    unexpected = sorted(set(state) - set(wanted))
    # a model with fewer blocks than the file uses the file's first blocks
    inside = tuple(f"blocks.{i}." for i in range(len(model.blocks)))
    strangers = [key for key in (*missing, *unexpected) if key.startswith(inside)]
    if wrong or strangers:
        raise WeightsError(_does_not_fit(name, path, found, state, wanted, wrong, strangers))
    resampled = [key for key in wanted if key in state and key in found and found[key].shape != state[key].shape]
    model.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)
    log.info("weights: %s from %s", name, path)
    for key in resampled:
        log.info("weights resampled: %s %s -> %s", key, tuple(found[key].shape), tuple(state[key].shape))
    if missing:
        log.warning("weights missing, left at random: %s", some(missing))
    if unexpected:
        log.info("weights unexpected, not used: %s", some(unexpected))


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by name, without the wrappers of training scripts, such as `model`, `teacher`, `module.`.

    Code in the file is never run; besides tensors and plain values it may contain the options of `argparse`.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: the file contains no tensors, or objects that are neither tensors nor plain values.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint {str(path)!r} is not a file; give the path of a .safetensors or .pth file")
    state = read_file(path)
    for wrapper in ("model_ema", "state_dict_ema", "ema_state_dict", "teacher", "model", "state_dict", "encoder"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    items = state.items() if isinstance(state, dict) else ()
    state = {key: value for key, value in items if isinstance(key, str) and isinstance(value, Tensor)}
    if not state:
        raise WeightsError(f"{path} holds no tensors by name; save `model.state_dict()`")
    if wrong := wrong_tensors(state):
        raise WeightsError(f"{path} can't be used: {wrong}; save `model.state_dict()`")
    for prefix in ("module.", "backbone.", "_orig_mod."):
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def read_file(path: str | Path) -> Any:
    """The content of a `.safetensors` or PyTorch file, on the CPU.

    Raises:
        DamagedError: the file is damaged, as far as a checksum in it or a digest in its name says.
        WeightsError: the file is incomplete, or contains objects that are neither tensors nor plain values.
    """
    checksum.verify(path)
    try:
        if str(path).endswith(".safetensors"):
            return load_file(path)
        check_archive(path)
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    # a file of unknown origin may make the reader fail in any way
    except Exception as error:
        reason = type(error).__name__
        # the text of an UnpicklingError explains how to run the code in the file, so it is left out
        if not isinstance(error, pickle.UnpicklingError):
            reason += f": {error}".splitlines()[0][:200]
        raise WeightsError(
            f"{path} can't be read as weights: it is cut off, or holds something else than tensors and plain values "
            f"({reason}); save only the state dict, or convert it to .safetensors"
        ) from error


def _filter(model: Any, name: str):
    """The function of timm that converts other layouts, with the options that timm uses for the model's family."""
    if isinstance(model, eva.Eva):
        return eva.checkpoint_filter_fn
    # timm resamples these weights bilinearly
    if "flexi" in name:
        return partial(vision_transformer.checkpoint_filter_fn, interpolation="bilinear", antialias=False)
    return partial(vision_transformer.checkpoint_filter_fn, adapt_layer_scale=True)


def _does_not_fit(name, path, found, state, wanted, wrong, strangers) -> str:
    blocks = {int(match[1]) for key in state if (match := re.match(r"blocks\.(\d+)\.", key))}
    kernel = next((v for k, v in found.items() if "patch_embed" in k and v.ndim == 4), None)
    if wrong:
        key = wrong[0]
        shapes = f"got {tuple(state[key].shape)}, wanted {tuple(wanted[key].shape)}"
        what = f"{len(wrong)} tensors differ in shape, the first is {key}: {shapes}"
    elif any(key in state for key in wanted):
        kind = "has no" if strangers[0] in wanted else "has"
        what = f"its blocks are others, {len(strangers)} tensors differ: the file {kind} {strangers[0]}"
    else:
        near = get_close_matches("blocks.0.norm1.weight", state, n=1, cutoff=0.3) or list(state)[:1]
        what = (
            f"none of its {len(found)} tensors is one of the model's; the nearest to blocks.0.norm1.weight is {near[0]}"
        )
    if kernel is None:
        fix = "is it the file of a plain ViT?"
    else:
        sizes = f"{kernel.shape[0]} wide with {len(blocks)} blocks and patch {kernel.shape[-1]}"
        fix = f"the file is {sizes}: choose `name` to match"
    return f"{path} does not fit {name}: {what}; {fix}"


def some(keys: list[str]) -> str:
    return ", ".join(keys[:6]) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")
