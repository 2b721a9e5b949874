"""What LW-DETR and RF-DETR share: the head, the blocks of the neck, and the names of their tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vitdet.backbone.keys import KeysError, Rule, rename
from vitdet.data.label_sets.coco import IDS
from vitdet.zoo.tensors import flat, split_values


def head(*, decoder: Mapping[str, Any] | None = None, **differs: Any) -> dict[str, Any]:
    """Returns the arguments of `DETRHead` for the smaller models; `decoder` and `differs` replace some of them."""
    layers = {"num_heads": 8, "cross_heads": 16, "num_points": 2, "ffn_dim": 2048, "refine": "fixed"}
    start = {"content": "learned", "learned_reference": True, "per_group": True}
    anchors = {"anchor_fraction": 0.05, "anchor_margin": 0.01, "distinct": None}
    return {
        "dim": 256,
        "num_queries": 300,
        "num_layers": 3,
        "decoder": {**layers, **(decoder or {})},
        "selection": {**start, **anchors},
        "groups": 13,
        "denoising": 0,
        "class_loss": "ia_bce",
        **differs,
    }


def convert(state: dict[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Translates tensors to vitdet's names; `rules` are for those that are not in the shared neck and head.

    Raises:
        KeysError: a name is unknown.
    """
    return split_values(rename(state, [*rules, *NECK, *HEAD]))


def _classes(weight: Tensor) -> Tensor:
    """Selects the rows of the 80 classes: the authors have a row for each of COCO's ids, which have gaps."""
    if len(weight) != 91:
        raise KeysError(
            f"it has {len(weight)} rows of classes, the published one 91; "
            "a model that was fine-tuned elsewhere can't be read"
        )
    return weight[IDS]


def _swap(weight: Tensor) -> Tensor:
    """Reorders the embedded coordinates: y, x, width, height in the authors' order, x, y, width, height in vitdet's."""
    y, x, rest = weight.split([weight.shape[1] // 4, weight.shape[1] // 4, weight.shape[1] // 2], 1)
    return torch.cat([x, y, rest], 1)


P = r"backbone\.0\.projector\.stages\.(\d+)\."
DECODER = r"transformer\.decoder\."
NECK: list[Rule] = [
    (P + r"0\.cv1\.conv\.weight", r"backbone.neck.refine.\1.enter.conv.weight", flat),
    (P + r"0\.cv1\.bn\.(.+)", r"backbone.neck.refine.\1.enter.norm.\2"),
    (P + r"0\.cv2\.conv\.weight", r"backbone.neck.refine.\1.leave.conv.weight", flat),
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
]
