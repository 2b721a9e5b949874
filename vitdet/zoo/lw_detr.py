"""LW-DETR (Chen et al. 2024, arXiv:2406.03459; github.com/Atten4Vis/LW-DETR), built from vitdet's modules.

Files of the authors and of the transformers library (huggingface.co/AnnaZhang) can be read; names of transformers are
translated to those of the authors first. Where the implementations differ, vitdet follows the authors: a token at the
border of a fine level (see `anchor_margin`) may become a query there, but not in transformers.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitdet.backbone.keys import Rule, rename
from vitdet.data.label_sets import LABEL_SETS
from vitdet.zoo import lw_family
from vitdet.zoo.cards import Card
from vitdet.zoo.tensors import expand, expand_bias, flat

HOST = "https://huggingface.co/xbsu/LW-DETR/resolve/main/pretrain_weights"
SOURCE = "LW-DETR's README: COCO val2017, as in the paper; when trained again 42.9, 48.1, 52.6, 56.1 and 58.3"
SIDE = 640


class Size(NamedTuple):
    """The settings that differ between the sizes (scripts/lwdetr_*_coco_train.sh of the authors).

    Attributes:
        vit: name of the ViT in timm.
        depth: number of blocks.
        score: the score that the authors report.
        parameters: the number of parameters in millions.
        gflops: the arithmetic of an image in 10⁹ floating-point operations.
        taps: blocks whose outputs the neck uses, counted from 0.
        global_blocks: blocks with attention over the image instead of windows, counted from 0.
        strides: strides of the feature maps in pixels.
        head: arguments of the head.
    """

    vit: str
    depth: int
    score: str
    parameters: float
    gflops: float
    taps: tuple[int, ...] = (2, 4, 5, 9)
    global_blocks: tuple[int, ...] = (2, 4, 5, 8)
    strides: tuple[int, ...] = (16,)
    head: Mapping[str, Any] = MappingProxyType({})


# DeiT's ViTs are plain and, like LW-DETR, expect images normalised by ImageNet's mean and deviation
TINY, SMALL, BASE = (f"deit_{size}_patch16_224" for size in ("tiny", "small", "base"))
TWO_LEVELS = {"dim": 384, "decoder": {"num_heads": 12, "cross_heads": 24, "num_points": 4}}
# fmt: off
SIZES = {
    "tiny": Size(TINY, 6, "box AP 42.6", 12.0, 21.0,
                 taps=(1, 3, 5), global_blocks=(1, 3, 5), head={"num_queries": 100}),
    "small": Size(TINY, 10, "box AP 48.0", 14.5, 31.4),
    "medium": Size(SMALL, 10, "box AP 52.5", 28.2, 83.6),
    "large": Size(SMALL, 10, "box AP 56.1", 46.8, 133.6, strides=(8, 32), head=TWO_LEVELS),
    "xlarge": Size(BASE, 10, "box AP 58.3", 118.0, 338.6, strides=(8, 32), head=TWO_LEVELS),
}
# fmt: on


def card(name: str, size: Size) -> Card:
    return Card(
        name=f"lw-detr-{name}",
        url=f"{HOST}/LWDETR_{name}_60e_coco.pth",
        licence="Apache-2.0",
        score=size.score,
        source=SOURCE,
        parameters=size.parameters,
        gflops=size.gflops,
        backbone=_backbone(size),
        head_class="vitdet.DETRHead",
        head=lw_family.head(**size.head),
        transform={"size": {"square": SIDE}, "resample": "antialias"},
        labels=LABEL_SETS["coco", "instances"],
        convert=convert,
    )


def _backbone(size: Size) -> dict:
    plain = {"class_token": False, "global_pool": "", "final_norm": False, "init_values": 0.1}
    return {
        "name": size.vit,
        "depth": size.depth,
        "model_args": {**plain, "num_heads": 12},
        # the position embedding is resampled from the 14×14 grid of pretraining to the grid of the image
        "trunk": {"windows": "4x4", "global_blocks": list(size.global_blocks), "pos_antialias": False},
        "out_blocks": list(size.taps),
        "neck": {"class_path": "vitdet.CSPNeck", "init_args": {"depth": 3, "norm": "frozen_batch"}},
        "out_strides": list(size.strides),
        "out_channels": size.head.get("dim", 256),
    }


def _patches_only(table: Tensor) -> Tensor:
    """Removes the first position, which is that of the class token, used in pretraining only."""
    return table[:, 1:]


def _no_key_bias(bias: Tensor) -> Tensor:
    """Appends zeros to the bias of the queries, since the keys have no bias."""
    return torch.cat([bias, torch.zeros_like(bias)])


def _resize(weight: Tensor) -> Tensor:
    """Converts a 1×1 convolution to a linear layer; a 3×3 convolution is left as it is."""
    return flat(weight) if weight.shape[2:] == (1, 1) else weight


E = r"backbone\.0\.encoder\."
B = E + r"blocks\.(\d+)\."
S = r"backbone\.0\.projector\.stages_sampling\.(\d+)\.(\d+)\.(\d+)\."
RESIZE = r"backbone.neck.resize.\1.each.\2.\3."
OURS: list[Rule] = [
    (r".+\.num_batches_tracked", None),
    (E + r"pos_embed", "backbone.trunk.pos_embed", _patches_only),
    (E + r"patch_embed\.proj\.(.+)", r"backbone.trunk.patch_embed.proj.\1"),
    (B + r"gamma_([12])", r"backbone.trunk.blocks.\1.ls\2.gamma"),
    (B + r"attn\.q_bias", r"backbone.trunk.blocks.\1.attn.qkv.bias#0", _no_key_bias),
    (B + r"attn\.v_bias", r"backbone.trunk.blocks.\1.attn.qkv.bias#1"),
    (B + r"((?:norm[12]|attn\.qkv|attn\.proj|mlp\.fc[12])\..+)", r"backbone.trunk.blocks.\1.\2"),
    (S + r"conv\.weight", RESIZE + "conv.weight", _resize),
    (S + r"bn\.(.+)", RESIZE + r"norm.\4"),
    (S + r"weight", RESIZE + "proj.weight", expand),
    (S + r"bias", RESIZE + "proj.bias", expand_bias),
]

T = r"model\.backbone\.backbone\."
L = T + r"encoder\.layer\.(\d+)\."
LEVEL = r"model\.backbone\.projector\.scale_layers\.(\d+)\."
D = r"model\.decoder\.layers\.(\d+)\."
BLOCK, STAGE, LAYER = (
    r"backbone.0.encoder.blocks.\1.",
    r"backbone.0.projector.stages.\1.",
    r"transformer.decoder.layers.\1.",
)
SAMPLING = r"backbone.0.projector.stages_sampling.\1.\2.\3."
TRANSFORMERS: list[Rule] = [
    (T + r"embeddings\.position_embeddings", "backbone.0.encoder.pos_embed"),
    (T + r"embeddings\.projection\.(.+)", r"backbone.0.encoder.patch_embed.proj.\1"),
    (L + r"gamma_([12])", BLOCK + r"gamma_\2"),
    (L + r"attention\.(?:q_proj|attention\.query)\.weight", BLOCK + "attn.qkv.weight#0"),
    (L + r"attention\.(?:k_proj|attention\.key)\.weight", BLOCK + "attn.qkv.weight#1"),
    (L + r"attention\.(?:v_proj|attention\.value)\.weight", BLOCK + "attn.qkv.weight#2"),
    (L + r"attention\.(?:q_proj|attention\.query)\.bias", BLOCK + "attn.q_bias"),
    (L + r"attention\.(?:v_proj|attention\.value)\.bias", BLOCK + "attn.v_bias"),
    (L + r"attention\.(?:o_proj|output)\.(.+)", BLOCK + r"attn.proj.\2"),
    (L + r"intermediate\.(.+)", BLOCK + r"mlp.\2"),
    (L + r"layernorm_before\.(.+)", BLOCK + r"norm1.\2"),
    (L + r"layernorm_after\.(.+)", BLOCK + r"norm2.\2"),
    (LEVEL + r"sampling_layers\.(\d+)\.layers\.(\d+)\.norm\.(.+)", SAMPLING + r"bn.\4"),
    (LEVEL + r"sampling_layers\.(\d+)\.layers\.(\d+)\.(.+)", SAMPLING + r"\4"),
    (LEVEL + r"projector_layer\.conv([12])\.conv\.(.+)", STAGE + r"0.cv\2.conv.\3"),
    (LEVEL + r"projector_layer\.conv([12])\.norm\.(.+)", STAGE + r"0.cv\2.bn.\3"),
    (LEVEL + r"projector_layer\.bottlenecks\.(\d+)\.conv([12])\.conv\.(.+)", STAGE + r"0.m.\2.cv\3.conv.\4"),
    (LEVEL + r"projector_layer\.bottlenecks\.(\d+)\.conv([12])\.norm\.(.+)", STAGE + r"0.m.\2.cv\3.bn.\4"),
    (LEVEL + r"layer_norm\.(.+)", STAGE + r"1.\2"),
    (D + r"self_attn\.q_proj\.(.+)", LAYER + r"self_attn.in_proj_\2#0"),
    (D + r"self_attn\.k_proj\.(.+)", LAYER + r"self_attn.in_proj_\2#1"),
    (D + r"self_attn\.v_proj\.(.+)", LAYER + r"self_attn.in_proj_\2#2"),
    (D + r"self_attn\.o_proj\.(.+)", LAYER + r"self_attn.out_proj.\2"),
    (D + r"self_attn_layer_norm\.(.+)", LAYER + r"norm1.\2"),
    (D + r"cross_attn_layer_norm\.(.+)", LAYER + r"norm2.\2"),
    (D + r"layer_norm\.(.+)", LAYER + r"norm3.\2"),
    (D + r"cross_attn\.(.+)", LAYER + r"cross_attn.\2"),
    (D + r"mlp\.fc([12])\.(.+)", LAYER + r"linear\2.\3"),
    (r"model\.decoder\.layernorm\.(.+)", r"transformer.decoder.norm.\1"),
    (r"model\.(decoder\.ref_point_head\..+|enc_out.+)", r"transformer.\1"),
    (r"model\.reference_point_embed\.weight", "refpoint_embed.weight"),
    (r"model\.query_feat\.weight", "query_feat.weight"),
    (r"((?:class|bbox)_embed\..+)", r"\1"),
]


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translates tensors of the authors, or of the transformers library, to vitdet's names.

    Raises:
        KeysError: a name is unknown.
    """
    theirs = rename(state, TRANSFORMERS) if any(key.startswith("model.") for key in state) else state
    return lw_family.convert(theirs, OURS)


CARDS = [card(name, size) for name, size in SIZES.items()]
