"""Converts ViTs from the layouts of the transformers library and of Detectron2 to timm's names."""

import logging
from math import isqrt

import torch
from torch import Tensor

from vitdet.backbone.keys import KeysError, Rule, rename

log = logging.getLogger("vitdet")

L = r"(?:encoder\.layer|layers)\.(\d+)\."
DINOV2: list[Rule] = [
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.mask_token", None),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.position_embeddings(?:\.weight)?", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(.+)", r"patch_embed.proj.\1"),
    (L + r"(norm[12]|mlp\.fc[12])\.(.+)", r"blocks.\1.\2.\3"),
    (L + r"mlp\.weights_in\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (L + r"mlp\.weights_out\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (L + r"mlp\.gate_proj\.(.+)", r"blocks.\1.mlp.fc1.\2#0"),
    (L + r"mlp\.up_proj\.(.+)", r"blocks.\1.mlp.fc1.\2#1"),
    (L + r"mlp\.down_proj\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (L + r"attention\.(?:attention\.query|q_proj)\.(.+)", r"blocks.\1.attn.qkv.\2#0"),
    (L + r"attention\.(?:attention\.key|k_proj)\.(.+)", r"blocks.\1.attn.qkv.\2#1"),
    (L + r"attention\.(?:attention\.value|v_proj)\.(.+)", r"blocks.\1.attn.qkv.\2#2"),
    (L + r"attention\.(?:output\.dense|o_proj|out_proj)\.(.+)", r"blocks.\1.attn.proj.\2"),
    (L + r"layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"layernorm\.(.+)", r"norm.\1"),
]
D = r"(?:model\.)?layers?\.(\d+)\."
DINOV3: list[Rule] = [
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.mask_token", None),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.patch_embeddings\.(.+)", r"patch_embed.proj.\1"),
    (D + r"(norm[12])\.(.+)", r"blocks.\1.\2.\3"),
    (D + r"attention\.q_proj\.weight", r"blocks.\1.attn.qkv.weight#0"),
    (D + r"attention\.k_proj\.weight", r"blocks.\1.attn.qkv.weight#1"),
    (D + r"attention\.v_proj\.weight", r"blocks.\1.attn.qkv.weight#2"),
    (D + r"attention\.([qv])_proj\.bias", r"blocks.\1.attn.\2_bias"),
    (D + r"attention\.o_proj\.(.+)", r"blocks.\1.attn.proj.\2"),
    (D + r"layer_scale([12])\.lambda1", r"blocks.\1.gamma_\2"),
    (D + r"mlp\.gate_proj\.(.+)", r"blocks.\1.mlp.fc1_g.\2"),
    (D + r"mlp\.up_proj\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (D + r"mlp\.down_proj\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (r"(?:layer)?norm\.(.+)", r"norm.\1"),
]
VITDET: list[Rule] = [
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.projection\.(.+)", r"patch_embed.proj.\1"),
    (L + r"attention\.(.+)", r"blocks.\1.attn.\2"),
    (L + r"((?:norm[12]|mlp\.fc[12])\..+)", r"blocks.\1.\2"),
]
# prefixes of the ViT's names, and how the names after them begin: in a detector of Detectron2, in its backbone, and in
# transformers
PREFIXES = {"backbone.net.": "blocks.", "net.": "blocks."}
PREFIXES |= dict.fromkeys(("dinov2.", "dinov3_vit.", "vitdet.", "backbone."), "embeddings.")


def dinov2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of DINOv2, with or without registers, by timm's names.

    Raises:
        KeysError: a name belongs to another model.
    """
    renamed = rename(state, DINOV2)
    # in timm, the class token of models with registers includes its position embedding
    if "reg_token" in renamed:
        first, rest = renamed["pos_embed"].split([1, renamed["pos_embed"].shape[1] - 1], 1)
        renamed |= {"cls_token": renamed["cls_token"] + first, "pos_embed": rest}
    return renamed


def dinov3(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of DINOv3 by timm's names; raises as `dinov2`."""
    renamed = rename(state, DINOV3)
    # in MLPs with a gate, timm has another name for the layer beside it
    for key in [key for key in renamed if ".mlp.fc1_g." in key]:
        renamed[key.replace("fc1_g", "fc1_x")] = renamed.pop(key.replace("fc1_g", "fc1"))
    return renamed


def to_timm(state: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """The tensors of `state` by timm's names if it has the layout of transformers or Detectron2, else unchanged.

    Args:
        state: the tensors by name.
        wanted: the names of the timm model. Biases of queries and values that it lacks are left out if they are zero.

    Raises:
        KeysError: a name belongs to another model, or biases that the model lacks are not zero.
    """
    for prefix, first in PREFIXES.items():
        if any(key.startswith(prefix + first) for key in state):
            state = _only(state, prefix)
    if "embeddings.patch_embeddings.projection.weight" in state:
        state = dinov2(state)
    elif "embeddings.projection.weight" in state:
        state = rename(state, VITDET)
    elif "embeddings.patch_embeddings.weight" in state:
        state = dinov3(state)
        extra = {key: value for key, value in state.items() if key.endswith("_bias") and key not in wanted}
        _check_zero(extra)
        state = {key: value for key, value in state.items() if key not in extra}
    elif "storage_tokens" in state:
        state = _without_zero_biases(state, wanted)
    return state if "cls_token" in wanted else _patches_only(state)


def _without_zero_biases(state: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """The tensors of DINOv3 in the authors' layout, without the biases that the model does not have.

    timm would drop these, and the biases of keys, without checking that they are zero.
    """
    extra = {}
    for key in [key for key in state if key.endswith("attn.qkv.bias")]:
        mask = state.get(f"{key}_mask", torch.ones(1))
        query, key_bias, value = torch.where(mask == 0, 0, state[key]).chunk(3)
        _check_zero({key.replace("qkv.bias", "k_bias"): key_bias})
        if key.replace("qkv.bias", "q_bias") not in wanted:
            extra |= {key: torch.cat([query, value])}
    _check_zero(extra)
    return {key: value for key, value in state.items() if key not in extra}


def _check_zero(biases: dict[str, Tensor]) -> None:
    if some := [key for key, value in biases.items() if torch.any(value)]:
        raise KeysError(
            f"{len(some)} biases of queries, keys or values are not zero, such as {some[0]}, and the model has none "
            "there; timm's names with _qkvb have those of queries and values"
        )


def _only(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without the prefix; how many are left out is logged."""
    if rest := [key for key in state if not key.startswith(prefix)]:
        log.info("weights not used: %s …, %d in all", rest[0], len(rest))
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _patches_only(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the class token and its position embedding, for a model that has no class token."""
    table = state.get("pos_embed")
    if table is None or table.ndim != 3 or isqrt(table.shape[1]) ** 2 == table.shape[1]:
        return state
    log.info("weights not used: the class token and its position")
    return {key: value for key, value in state.items() if key != "cls_token"} | {"pos_embed": table[:, 1:]}
