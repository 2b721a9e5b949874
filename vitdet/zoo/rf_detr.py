"""RF-DETR and RF-DETR-Seg (Robinson et al. 2025, arXiv:2511.09554; github.com/roboflow/rf-detr), in vitdet's own parts.

The released weights decide, not the paper: the blocks that see the whole image are 3, 6 and 9 (from 0), not those that are tapped, 2, 5, 8 and 11.
Every window has its own copy of the class token. XL and 2XL, whose licence is not Apache-2.0, are left out.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from vitdet.backbone.keys import KeysError, Rule, rename, split_values
from vitdet.backbone.layouts import dinov2
from vitdet.zoo.cards import Card
from vitdet.zoo.coco import CLASSES, IDS

HOST = "https://storage.googleapis.com/rfdetr"
SOURCE = "RF-DETR's README, 1.11: COCO val2017"
GROUPS = 13


class Size(NamedTuple):
    """What differs between the sizes."""

    side: int
    layers: int
    path: str
    md5: str
    score: str
    parameters: float
    gflops: float
    patch: int = 16
    windows: int = 2
    queries: int = 300
    position_grid: int | None = None
    taps: tuple[int, ...] = (2, 5, 8, 11)
    global_blocks: tuple[int, ...] = (3, 6, 9)
    masks: bool = False


# fmt: off
SIZES = {
    "nano": Size(384, 2, "nano_coco/checkpoint_best_regular.pth", "fb6504cce7fbdc783f7a46991f07639f", "box AP 48.4", 30.4, 31.8),
    "small": Size(512, 3, "small_coco/checkpoint_best_regular.pth", "fb37061c1af7bace359c91b723a8d5c1", "box AP 53.0", 32.1, 59.6),
    "medium": Size(576, 4, "medium_coco/checkpoint_best_regular.pth", "7223f764a87b863f02eb8d52bf0ce2ee", "box AP 54.7", 33.6, 78.5),
    "large": Size(704, 4, "rf-detr-large-2026.pth", "5cb72153541cbcb9aa6efa26222acc75", "box AP 56.5", 33.9, 125.1),
    "base": Size(560, 3, "rf-detr-base-coco.pth", "b4d3ce46099eaed50626ede388caf979", "-", 30.4, 86.5,
                 patch=14, windows=4, position_grid=37, taps=(1, 4, 7, 10), global_blocks=(2, 5, 8)),
    "seg-nano": Size(312, 4, "rf-detr-seg-n-ft.pth", "9995497791d0ff1664a1d9ddee9cfd20", "mask AP 40.3", 33.5, 45.4,
                     patch=12, windows=1, queries=100, masks=True),
    "seg-small": Size(384, 4, "rf-detr-seg-s-ft.pth", "0a2a3006381d0c42853907e700eadd08", "mask AP 43.1", 33.7, 63.9,
                      patch=12, queries=100, masks=True),
    "seg-medium": Size(432, 5, "rf-detr-seg-m-ft.pth", "a49af1562c3719227ad43d0ca53b4c7a", "mask AP 45.3", 35.7, 87.2,
                       patch=12, queries=200, masks=True),
    "seg-large": Size(504, 5, "rf-detr-seg-l-ft.pth", "275f7b094909544ed2841c94a677d07e", "mask AP 47.1", 35.8, 124.0,
                      patch=12, queries=200, masks=True),
}
# fmt: on


def card(name: str, size: Size) -> Card:
    return Card(
        name=f"rf-detr-{name}",
        url=f"{HOST}/{size.path}",
        digest=f"md5:{size.md5}",
        licence="Apache-2.0",
        score=size.score,
        source=SOURCE,
        parameters=size.parameters,
        gflops=size.gflops,
        backbone=_backbone(size),
        head_class="vitdet.heads.detr.head.DETRHead",
        head=_head(size),
        size={"square": size.side},
        resample="bilinear",
        classes=CLASSES,
        category_ids=IDS,
        convert=partial(convert, masks=size.masks, depth=size.taps[-1] + 1),
    )


def _backbone(size: Size) -> dict:
    grid = size.position_grid or size.side // size.patch
    return {
        "name": "vit_small_patch14_dinov2",
        "model_args": {"img_size": grid * size.patch, "patch_size": size.patch},
        "windows": f"{size.windows}x{size.windows}" if size.windows > 1 else None,
        "global_blocks": list(size.global_blocks) if size.windows > 1 else None,
        "window_prefix": "window",
        "out_blocks": list(size.taps),
        "neck": "csp",
        "neck_depth": 3,
        "out_strides": [size.patch],
        "out_channels": 256,
    }


def _head(size: Size) -> dict:
    masks = {}
    if size.masks:
        masks = {"masks": True, "mask_branch": "refined", "mask_points": (size.side // 4) ** 2 // 16}
    return {
        "dim": 256,
        "num_queries": size.queries,
        "num_layers": size.layers,
        "num_heads": 8,
        "cross_heads": 16,
        "num_points": 2,
        "ffn_dim": 2048,
        "groups": GROUPS,
        "group_proposals": True,
        "denoising": 0,
        "content": "learned",
        "refine": "fixed",
        "learned_reference": True,
        "anchor_fraction": 0.05,
        "anchor_margin": 0.01,
        "distinct": None,
        "class_loss": "ia_bce",
        **masks,
    }


def _classes(weight: Tensor) -> Tensor:
    """Their rows are COCO's ids, with gaps; ours the 80 classes."""
    if len(weight) != 91:
        raise KeysError(
            f"it has {len(weight)} rows of classes, the published one 91; a model that was fine-tuned elsewhere can't be read"
        )
    return weight[IDS]


def _swap(weight: Tensor) -> Tensor:
    """They embed y, x, width and height in this order, we x, y, width and height."""
    y, x, rest = weight.split([weight.shape[1] // 4, weight.shape[1] // 4, weight.shape[1] // 2], 1)
    return torch.cat([x, y, rest], 1)


def _flat(weight: Tensor) -> Tensor:
    """A 1×1 convolution is a linear layer."""
    return weight.flatten(1)


ENCODER = "backbone.0.encoder.encoder."
P = r"backbone\.0\.projector\.stages\.(\d+)\."
DECODER = r"transformer\.decoder\."
NECK: list[Rule] = [
    (P + r"0\.cv1\.conv\.weight", r"backbone.neck.refine.\1.enter.conv.weight", _flat),
    (P + r"0\.cv1\.bn\.(.+)", r"backbone.neck.refine.\1.enter.norm.\2"),
    (P + r"0\.cv2\.conv\.weight", r"backbone.neck.refine.\1.leave.conv.weight", _flat),
    (P + r"0\.cv2\.bn\.(.+)", r"backbone.neck.refine.\1.leave.norm.\2"),
    (P + r"0\.m\.(\d+)\.cv1\.conv\.weight", r"backbone.neck.refine.\1.stages.\2.0.conv.weight"),
    (P + r"0\.m\.(\d+)\.cv2\.conv\.weight", r"backbone.neck.refine.\1.stages.\2.1.conv.weight"),
    (P + r"0\.m\.(\d+)\.cv1\.bn\.(.+)", r"backbone.neck.refine.\1.stages.\2.0.norm.\3"),
    (P + r"0\.m\.(\d+)\.cv2\.bn\.(.+)", r"backbone.neck.refine.\1.stages.\2.1.norm.\3"),
    (P + r"1\.(.+)", r"backbone.neck.refine.\1.norm.\2"),
]
HEAD: list[Rule] = [
    (r"transformer\.enc_output\.(\d+)\.(.+)", r"head.selection.groups.\1.project.0.\2"),
    (r"transformer\.enc_output_norm\.(\d+)\.(.+)", r"head.selection.groups.\1.project.1.\2"),
    (r"transformer\.enc_out_class_embed\.(\d+)\.(.+)", r"head.selection.groups.\1.classify.\2", _classes),
    (r"transformer\.enc_out_bbox_embed\.(\d+)\.layers\.0\.(.+)", r"head.selection.groups.\1.box.0.\2"),
    (r"transformer\.enc_out_bbox_embed\.(\d+)\.layers\.1\.(.+)", r"head.selection.groups.\1.box.2.\2"),
    (r"transformer\.enc_out_bbox_embed\.(\d+)\.layers\.2\.(.+)", r"head.selection.groups.\1.box.4.\2"),
    (DECODER + r"ref_point_head\.layers\.0\.weight", "head.decoder.position.0.weight", _swap),
    (DECODER + r"ref_point_head\.layers\.0\.bias", "head.decoder.position.0.bias"),
    (DECODER + r"ref_point_head\.layers\.1\.(.+)", r"head.decoder.position.2.\1"),
    (DECODER + r"layers\.(\d+)\.self_attn\.in_proj_(.+)", r"head.decoder.layers.\1.self_attention.qkv.\2"),
    (DECODER + r"layers\.(\d+)\.self_attn\.out_proj\.(.+)", r"head.decoder.layers.\1.self_attention.proj.\2"),
    (
        DECODER + r"layers\.(\d+)\.cross_attn\.sampling_offsets\.(.+)",
        r"head.decoder.layers.\1.cross_attention.offsets.\2",
    ),
    (
        DECODER + r"layers\.(\d+)\.cross_attn\.attention_weights\.(.+)",
        r"head.decoder.layers.\1.cross_attention.weights.\2",
    ),
    (DECODER + r"layers\.(\d+)\.cross_attn\.value_proj\.(.+)", r"head.decoder.layers.\1.cross_attention.value.\2"),
    (DECODER + r"layers\.(\d+)\.cross_attn\.output_proj\.(.+)", r"head.decoder.layers.\1.cross_attention.proj.\2"),
    (DECODER + r"layers\.(\d+)\.norm([12])\.(.+)", r"head.decoder.layers.\1.norm\2.\3"),
    (DECODER + r"layers\.(\d+)\.norm3\.(.+)", r"head.decoder.layers.\1.ffn.norm.\2"),
    (DECODER + r"layers\.(\d+)\.linear1\.(.+)", r"head.decoder.layers.\1.ffn.net.0.\2"),
    (DECODER + r"layers\.(\d+)\.linear2\.(.+)", r"head.decoder.layers.\1.ffn.net.3.\2"),
    (DECODER + r"norm\.(.+)", r"head.decoder.norm.\1"),
    (r"class_embed\.(.+)", r"head.decoder.classify.\1", _classes),
    (r"bbox_embed\.layers\.0\.(.+)", r"head.decoder.box.0.\1"),
    (r"bbox_embed\.layers\.1\.(.+)", r"head.decoder.box.2.\1"),
    (r"bbox_embed\.layers\.2\.(.+)", r"head.decoder.box.4.\1"),
    (r"refpoint_embed\.weight", "head.query_boxes.weight"),
    (r"query_feat\.weight", "head.query_embed.weight"),
    (r"_kp_active_mask", None),
]
MASKS: list[Rule] = [
    (r"segmentation_head\.blocks\.(\d+)\.dwconv\.(.+)", r"head.masks.blocks.\1.depthwise.\2"),
    (r"segmentation_head\.blocks\.(\d+)\.norm\.(.+)", r"head.masks.blocks.\1.norm.\2"),
    (r"segmentation_head\.blocks\.(\d+)\.pwconv1\.(.+)", r"head.masks.blocks.\1.linear.\2"),
    (r"segmentation_head\.spatial_features_proj\.weight", "head.masks.pixels.weight", _flat),
    (r"segmentation_head\.spatial_features_proj\.bias", "head.masks.pixels.bias"),
    (r"segmentation_head\.query_features_block\.norm_in\.(.+)", r"head.masks.norm.\1"),
    (r"segmentation_head\.query_features_block\.layers\.(\d)\.(.+)", r"head.masks.mlp.\1.\2"),
    (r"segmentation_head\.query_features_proj\.(.+)", r"head.masks.embed.\1"),
    (r"segmentation_head\.bias", "head.masks.bias"),
]


def convert(state: dict[str, Tensor], *, masks: bool = False, depth: int = 12) -> dict[str, Tensor]:
    """Their tensors by our names; blocks behind the last tap, whose outputs nobody reads, are left out.

    Raises:
        KeysError: a name is not theirs.
    """
    trunk = {key.removeprefix(ENCODER): value for key, value in state.items() if key.startswith(ENCODER)}
    rest = {key: value for key, value in state.items() if not key.startswith(ENCODER)}
    renamed = {f"backbone.trunk.{key}": value for key, value in dinov2(trunk).items()}
    renamed |= split_values(rename(rest, [*NECK, *HEAD, *(MASKS if masks else [])]))
    unread = tuple(f"backbone.trunk.blocks.{i}." for i in range(depth, 12))
    return {key: value for key, value in renamed.items() if not key.startswith(unread)}


CARDS = [card(name, size) for name, size in SIZES.items()]
