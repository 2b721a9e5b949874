"""DEIMv2 on plain ViTs, in the sizes S, M, L and X, built from vitdet's modules.

Huang et al. 2025, arXiv:2509.20787; github.com/Intellindust-AI-Lab/DEIMv2. S and M use a ViT-Tiny that the authors
distilled from DINOv3, without registers, layer scale and last norm, but with a bias of the keys. The sizes are those in
the authors' hf_models.ipynb. Atto, Femto, Pico and N have no ViT and are left out.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from vitdet.backbone.keys import KeysError, Rule, rename
from vitdet.data.label_sets import LABEL_SETS
from vitdet.heads.deim.edges import SCALE, UP
from vitdet.zoo.cards import Card
from vitdet.zoo.tensors import split_values

HOST = "https://huggingface.co/Intellindust"
SOURCE = "DEIMv2's README: COCO val2017"
TINY = {
    "rope_type": "dinov3",
    "rope_rotate_half": True,
    "rope_grid_indexing": "ij",
    # timm has this ViT only with a layer scale; a scale of 1 has no effect
    "init_values": 1.0,
    "use_post_transformer_norm": False,
}


def _tiny(embed_dim: int, num_heads: int) -> dict:
    sizes = {"embed_dim": embed_dim, "num_heads": num_heads}
    return {"name": "vit_small_patch16_rope_224", "model_args": {**TINY, **sizes}}


class Size(NamedTuple):
    """The settings that differ between the sizes of DEIMv2.

    Attributes:
        vit: name and arguments of the ViT.
        taps: blocks whose outputs the neck uses, counted from 0.
        detail: width of the spatial adapter in channels.
        dim: channels of neck and head.
        csp: channels inside the CSP blocks of the neck.
        depth: number of consecutive RepVGG blocks in a CSP block.
        attention_ffn: hidden channels of the FFN in the neck's attention layer.
        ffn: hidden channels of the FFN in a decoder layer.
        score: the score that the authors report.
        parameters: the number of parameters in millions.
        gflops: the arithmetic of an image in 10⁹ floating-point operations.
        layers: the number of decoder layers.
    """

    vit: dict
    taps: tuple[int, ...]
    detail: int
    dim: int
    csp: int
    depth: int
    attention_ffn: int
    ffn: int
    score: str
    parameters: float
    gflops: float
    layers: int = 4


# fmt: off
SIZES = {
    "s": Size(_tiny(192, 3), (3, 7, 11), 16, 192, 32, 2, 512, 256, "box AP 50.9", 9.8, 25.6),
    "m": Size(_tiny(256, 4), (3, 7, 11), 16, 256, 85, 3, 512, 256, "box AP 53.0", 18.4, 53.0),
    "l": Size({"name": "vit_small_patch16_dinov3_qkvb"}, (5, 8, 11), 32, 224, 112, 3, 896, 896,
              "box AP 56.0", 32.5, 98.1),
    "x": Size({"name": "vit_small_plus_patch16_dinov3_qkvb"}, (5, 8, 11), 64, 256, 160, 4, 1024, 1024,
              "box AP 57.8", 51.2, 155.6, layers=6),
}
# fmt: on


def card(name: str, size: Size) -> Card:
    tiny = "model_args" in size.vit
    return Card(
        name=f"deimv2-{name}",
        url=f"{HOST}/DEIMv2_DINOv3_{name.upper()}_COCO/resolve/main/model.safetensors",
        licence="Apache-2.0" if tiny else "Apache-2.0; DINOv3's on Meta's terms",
        score=size.score,
        source=SOURCE,
        parameters=size.parameters,
        gflops=size.gflops,
        backbone=_backbone(size),
        head_class="vitdet.DEIMHead",
        head={
            "dim": size.dim,
            "num_queries": 300,
            "num_layers": size.layers,
            "num_heads": 8,
            "num_points": [3, 6, 3],
            "ffn_dim": size.ffn,
            "denoising": 200,
            "class_loss": "mal",
        },
        transform={"size": {"square": 640}, "resample": "antialias"},
        labels=LABEL_SETS["coco", "instances"],
        convert=partial(convert, tiny=tiny),
    )


def _backbone(size: Size) -> dict:
    neck = {"depth": size.depth, "csp_channels": size.csp, "ffn_dim": size.attention_ffn, "num_heads": 8}
    return {
        **size.vit,
        "stem": {"class_path": "vitdet.SpatialAdapter", "init_args": {"width": size.detail}},
        "out_blocks": list(size.taps),
        "neck": {"class_path": "vitdet.HybridNeck", "init_args": neck},
        "out_strides": [8, 16, 32],
        "out_channels": size.dim,
    }


B = r"backbone\.dinov3\.(?:_model\.)?"
TRUNK: list[Rule] = [
    (B + r"(cls_token|patch_embed\.proj\..+|norm\..+)", r"backbone.trunk.\1"),
    (B + r"storage_tokens", "backbone.trunk.reg_token"),
    (B + r"blocks\.(\d+)\.(norm[12]\..+|attn\.proj\..+|attn\.qkv\.(?:weight|bias))", r"backbone.trunk.blocks.\1.\2"),
    (B + r"blocks\.(\d+)\.(ls[12]\.gamma|mlp\.fc[12]\..+)", r"backbone.trunk.blocks.\1.\2"),
    (B + r"blocks\.(\d+)\.mlp\.w1\.(.+)", r"backbone.trunk.blocks.\1.mlp.fc1_g.\2"),
    (B + r"blocks\.(\d+)\.mlp\.w2\.(.+)", r"backbone.trunk.blocks.\1.mlp.fc1_x.\2"),
    (B + r"blocks\.(\d+)\.mlp\.w3\.(.+)", r"backbone.trunk.blocks.\1.mlp.fc2.\2"),
    (B + r"(mask_token|rope_embed\.periods|blocks\.\d+\.attn\.qkv\.bias_mask)", None),
]
E = r"encoder\.(fpn|pan)_blocks\.(\d+)\."
BLOCK = r"backbone.neck.\1.\2."
NECK: list[Rule] = [
    (r".+\.num_batches_tracked", None),
    (r"backbone\.sta\.stem\.0\.(.+)", r"backbone.adapter.stem.conv.\1"),
    (r"backbone\.sta\.stem\.1\.(.+)", r"backbone.adapter.stem.norm.\1"),
    (r"backbone\.sta\.conv2\.0\.(.+)", r"backbone.adapter.convs.0.conv.\1"),
    (r"backbone\.sta\.conv2\.1\.(.+)", r"backbone.adapter.convs.0.norm.\1"),
    (r"backbone\.sta\.conv3\.1\.(.+)", r"backbone.adapter.convs.1.conv.\1"),
    (r"backbone\.sta\.conv3\.2\.(.+)", r"backbone.adapter.convs.1.norm.\1"),
    (r"backbone\.sta\.conv4\.1\.(.+)", r"backbone.adapter.convs.2.conv.\1"),
    (r"backbone\.sta\.conv4\.2\.(.+)", r"backbone.adapter.convs.2.norm.\1"),
    (r"backbone\.convs\.(\d+)\.(.+)", r"backbone.neck.enter.\1.conv.\2"),
    (r"backbone\.norms\.(\d+)\.(.+)", r"backbone.neck.enter.\1.norm.\2"),
    (r"encoder\.encoder\.0\.layers\.0\.self_attn\.(.+)", r"backbone.neck.attend.attention.\1"),
    (r"encoder\.encoder\.0\.layers\.0\.linear1\.(.+)", r"backbone.neck.attend.ffn.0.\1"),
    (r"encoder\.encoder\.0\.layers\.0\.linear2\.(.+)", r"backbone.neck.attend.ffn.2.\1"),
    (r"encoder\.encoder\.0\.layers\.0\.(norm[12]\..+)", r"backbone.neck.attend.\1"),
    (r"encoder\.lateral_convs\.(\d+)\.(.+)", r"backbone.neck.lateral.\1.\2"),
    (r"encoder\.downsample_convs\.(\d+)\.0\.cv1\.(.+)", r"backbone.neck.halve.\1.0.\2"),
    (r"encoder\.downsample_convs\.(\d+)\.0\.cv2\.(.+)", r"backbone.neck.halve.\1.1.\2"),
    (E + r"cv1\.(.+)", BLOCK + r"enter.\3"),
    (E + r"cv4\.(.+)", BLOCK + r"leave.\3"),
    (E + r"cv2\.0\.conv1\.(.+)", BLOCK + r"first.enter.\3"),
    (E + r"cv3\.0\.conv1\.(.+)", BLOCK + r"second.enter.\3"),
    (E + r"cv2\.0\.bottlenecks\.(\d+)\.conv1\.(.+)", BLOCK + r"first.blocks.\3.wide.\4"),
    (E + r"cv2\.0\.bottlenecks\.(\d+)\.conv2\.(.+)", BLOCK + r"first.blocks.\3.narrow.\4"),
    (E + r"cv3\.0\.bottlenecks\.(\d+)\.conv1\.(.+)", BLOCK + r"second.blocks.\3.wide.\4"),
    (E + r"cv3\.0\.bottlenecks\.(\d+)\.conv2\.(.+)", BLOCK + r"second.blocks.\3.narrow.\4"),
]
D = r"decoder\.decoder\.layers\.(\d+)\."
LAYER = r"head.decoder.layers.\1."
HEAD: list[Rule] = [
    (D + r"self_attn\.in_proj_(.+)", LAYER + r"self_attention.qkv.\2"),
    (D + r"self_attn\.out_proj\.(.+)", LAYER + r"self_attention.proj.\2"),
    (D + r"cross_attn\.sampling_offsets\.(.+)", LAYER + r"cross_attention.offsets.\2"),
    (D + r"cross_attn\.attention_weights\.(.+)", LAYER + r"cross_attention.weights.\2"),
    (D + r"cross_attn\.num_points_scale", None),
    (D + r"norm1\.scale", LAYER + "norm1.weight"),
    (D + r"norm3\.scale", LAYER + "norm2.weight"),
    (D + r"gateway\.gate\.(.+)", LAYER + r"gateway.gate.\2"),
    (D + r"gateway\.norm\.scale", LAYER + "gateway.norm.weight"),
    (D + r"swish_ffn\.w12\.(.+)", LAYER + r"ffn.enter.\2"),
    (D + r"swish_ffn\.w3\.(.+)", LAYER + r"ffn.leave.\2"),
    (r"decoder\.dec_score_head\.(.+)", r"head.decoder.classify.\1"),
    (r"decoder\.enc_score_head\.(.+)", r"head.selection.groups.0.classify.\1"),
    (r"decoder\.denoising_class_embed\.weight", "head.denoising.embed.weight", lambda weight: weight[:-1]),
    (r"decoder\.(?:anchors|valid_mask)", None),
]
PERCEPTRONS = {
    r"decoder\.dec_bbox_head\.(\d+)": r"head.decoder.edges.\1",
    r"decoder\.decoder\.lqe_layers\.(\d+)\.reg_conf": r"head.decoder.quality.\1.mlp",
    r"decoder\.(pre_bbox_head)": "head.decoder.guess",
    r"decoder\.(query_pos_head)": "head.decoder.position",
    r"decoder\.(enc_bbox_head)": "head.selection.groups.0.box",
}
HEAD += [
    (rf"{theirs}\.layers\.{i}\.(.+)", rf"{ours}.{2 * i}.\2") for theirs, ours in PERCEPTRONS.items() for i in range(3)
]


def convert(state: dict[str, Tensor], *, tiny: bool) -> dict[str, Tensor]:
    """Translates the authors' tensors to vitdet's names.

    Args:
        state: tensors with the authors' names.
        tiny: whether the ViT is the authors' ViT-Tiny.

    Raises:
        KeysError: a name is unknown, or the distances of the box edges are scaled differently.
    """
    state = dict(state)
    for name, ours in (("up", UP), ("reg_scale", SCALE)):
        found = [state.pop(key) for key in (f"decoder.{name}", f"decoder.decoder.{name}") if key in state]
        if any(not value.is_meta and value.item() != ours for value in found):
            raise KeysError(f"its decoder.{name} is {found[0].item():g}, wanted {ours}")
    renamed = split_values(rename(state, [*NECK, *TRUNK, *HEAD]))
    fusions = {"backbone.neck.fpn.": "backbone.neck.top_down.", "backbone.neck.pan.": "backbone.neck.bottom_up."}
    for theirs, ours in fusions.items():
        renamed = {key.replace(theirs, ours): value for key, value in renamed.items()}
    for key in [key for key in renamed if key.endswith(".norm1.weight") and ".trunk." in key]:
        block = key.removesuffix(".norm1.weight")
        if tiny:
            renamed |= {f"{block}.ls{i}.gamma": torch.ones_like(renamed[key]) for i in (1, 2)}
        else:
            # the keys have no bias: the authors' code multiplies it by 0
            renamed[f"{block}.attn.q_bias"], _, renamed[f"{block}.attn.v_bias"] = renamed.pop(
                f"{block}.attn.qkv.bias"
            ).chunk(3)
    return renamed


CARDS = [card(name, size) for name, size in SIZES.items()]
