"""EoMT with DINOv2: queries join the last blocks of the ViT, which take the place of a mask decoder.

Kerssies et al. 2025, arXiv:2503.19108; github.com/tue-mps/eomt. The authors resize an image to fit into a square and
pad it with black, and the position embedding was learned on such squares; in vitdet, `canvas` pads. For semantic maps
the authors cut an image into square tiles.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitdet.backbone.keys import KeysError, Rule, rename
from vitdet.backbone.layouts import DINOV2
from vitdet.data.label_sets import LABEL_SETS
from vitdet.zoo.cards import Card
from vitdet.zoo.tensors import expand, expand_bias

SOURCE = "EoMT's model zoo, DINOv2"


class Size(NamedTuple):
    """The settings that differ between the models.

    Attributes:
        vit: size of the ViT.
        side: side of the square image in pixels.
        blocks: number of blocks, at the end of the ViT, that queries join.
        repository: name of the authors' repository on Hugging Face.
        score: the score that the authors report.
        parameters: the number of parameters in millions.
        gflops: the arithmetic of an image, or of a tile for semantic maps, in 10⁹ floating-point operations.
        task: kind of the labels.
        data: data set that the model was trained on.
    """

    vit: str
    side: int
    blocks: int
    repository: str
    score: str
    parameters: float
    gflops: float
    task: str = "panoptic"
    data: str = "coco"


# fmt: off
SIZES = {
    "eomt-small-coco-panoptic-640": Size("small", 640, 3, "coco_panoptic_eomt_small_640_2x", "PQ 46.7", 24.0, 131.7),
    "eomt-base-coco-panoptic-640": Size("base", 640, 3, "coco_panoptic_eomt_base_640_2x", "PQ 51.6", 93.7, 423.2),
    "eomt-large-coco-panoptic-640": Size("large", 640, 4, "coco_panoptic_eomt_large_640", "PQ 56.0", 316.7, 1325.5),
    "eomt-large-coco-panoptic-1280": Size("large", 1280, 4, "coco_panoptic_eomt_large_1280", "PQ 58.3", 321.6, 8246.3),
    "eomt-giant-coco-panoptic-640": Size("giant", 640, 5, "coco_panoptic_eomt_giant_640", "PQ 57.0", 1163.6, 4504.4),
    "eomt-giant-coco-panoptic-1280": Size("giant", 1280, 5, "coco_panoptic_eomt_giant_1280",
         "PQ 59.2", 1171.0, 25351.0),
    "eomt-large-coco-instance-640": Size("large", 640, 4, "coco_instance_eomt_large_640",
         "mask AP 45.2", 316.6, 1325.4, "instances"),
    "eomt-large-coco-instance-1280": Size("large", 1280, 4, "coco_instance_eomt_large_1280",
         "mask AP 48.8", 321.6, 8246.2, "instances"),
    "eomt-large-ade20k-panoptic-640": Size("large", 640, 4, "ade20k_panoptic_eomt_large_640",
         "PQ 50.6", 316.7, 1325.5, data="ade20k"),
    "eomt-large-ade20k-panoptic-1280": Size("large", 1280, 4, "ade20k_panoptic_eomt_large_1280",
         "PQ 51.7", 321.6, 8246.3, data="ade20k"),
    "eomt-giant-ade20k-panoptic-640": Size("giant", 640, 5, "ade20k_panoptic_eomt_giant_640",
         "PQ 51.3", 1163.7, 4504.4, data="ade20k"),
    "eomt-giant-ade20k-panoptic-1280": Size("giant", 1280, 5, "ade20k_panoptic_eomt_giant_1280",
         "PQ 52.8", 1171.0, 25351.0, data="ade20k"),
    "eomt-large-ade20k-semantic-512": Size("large", 512, 4, "ade20k_semantic_eomt_large_512",
         "mIoU 58.4", 316.0, 784.8, "semantic", "ade20k"),
    "eomt-large-cityscapes-semantic-1024": Size("large", 1024, 4, "cityscapes_semantic_eomt_large_1024",
         "mIoU 84.2", 319.0, 4334.3, "semantic", "cityscapes"),
}
# fmt: on


def card(name: str, size: Size, **differs: Any) -> Card:
    """Creates the card of a model; `differs` replaces attributes of the cards with DINOv2."""
    labels = LABEL_SETS[size.data, size.task]
    tiles = size.task == "semantic"
    rules = {"two_step": True} if tiles else {"two_step": True, "threshold": 0.8, "overlap": 0.8}
    more = {"tile": size.side, "num_queries": 100} if tiles else {"num_queries": 200}
    vit = {
        "name": f"vit_{size.vit}_patch14_reg4_dinov2",
        "model_args": {"img_size": size.side, "patch_size": 16},
    }
    backbone = {**differs.pop("vit", vit), "tail": size.blocks, "neck": None}
    options = {
        "url": f"https://huggingface.co/tue-mps/{size.repository}/resolve/main/pytorch_model.bin",
        "licence": "MIT",
        "source": SOURCE,
        "backbone": backbone if tiles else {**backbone, "trunk": {"canvas": size.side}},
        "head_class": "vitdet.EoMTHead",
        "head": {"num_points": 12544, "task": size.task, "rules": rules, **more},
        "transform": {"size": {"short_side" if tiles else "long_side": size.side}, "resample": "antialias"},
        "convert": partial(differs.pop("convert", convert), things=labels.things, blocks=size.blocks),
        **differs,
    }
    figures = {"score": size.score, "parameters": size.parameters, "gflops": size.gflops}
    return Card(name=name, labels=labels, **figures, **options)


def _batch(weight: Tensor) -> Tensor:
    """Adds a batch dimension: `(N, C)` to `(1, N, C)`."""
    return weight.unsqueeze(0) if weight.ndim == 2 else weight


B = r"network\.encoder\.backbone\."
AUTHORS_TRUNK: list[Rule] = [
    (B + r"(cls_token|reg_token|patch_embed\.proj\.\w+|norm\.\w+)", r"backbone.trunk.\1"),
    (B + r"pos_embed", "backbone.trunk.pos_embed", _batch),
    (B + r"(blocks\.\d+\..+)", r"backbone.trunk.\1"),
]
AUTHORS_HEAD: list[Rule] = [
    (r"network\.q\.weight", "head.queries.weight"),
    (r"network\.class_head\.(\w+)", r"head.classify.\1"),
    (r"network\.mask_head\.(\d)\.(\w+)", r"head.embed.\1.\2"),
    (r"network\.upscale\.(\d)\.conv1\.weight", r"head.upscale.\1.expand.proj.weight", expand),
    (r"network\.upscale\.(\d)\.conv1\.bias", r"head.upscale.\1.expand.proj.bias", expand_bias),
    (r"network\.upscale\.(\d)\.conv2\.weight", r"head.upscale.\1.depthwise.weight"),
    (r"network\.upscale\.(\d)\.norm\.(\w+)", r"head.upscale.\1.norm.\2"),
    (r"network\.encoder\.pixel_(mean|std)|network\.attn_mask_probs|criterion\.empty_weight|metrics\..*", None),
]
TRANSFORMERS_HEAD: list[Rule] = [
    (r"query\.weight", "head.queries.weight"),
    (r"class_predictor\.(\w+)", r"head.classify.\1"),
    (r"mask_head\.fc1\.(\w+)", r"head.embed.0.\1"),
    (r"mask_head\.fc2\.(\w+)", r"head.embed.2.\1"),
    (r"mask_head\.fc3\.(\w+)", r"head.embed.4.\1"),
    (r"upscale_block\.block\.(\d)\.conv1\.weight", r"head.upscale.\1.expand.proj.weight", expand),
    (r"upscale_block\.block\.(\d)\.conv1\.bias", r"head.upscale.\1.expand.proj.bias", expand_bias),
    (r"upscale_block\.block\.(\d)\.conv2\.weight", r"head.upscale.\1.depthwise.weight"),
    (r"upscale_block\.block\.(\d)\.layernorm2d\.(\w+)", r"head.upscale.\1.norm.\2"),
    (r"attn_mask_probs|criterion\.empty_weight", None),
]


def convert(state: dict[str, Tensor], *, things: Sequence[bool], blocks: int) -> dict[str, Tensor]:
    """Translates tensors of the authors, or of the transformers library, to vitdet's names.

    Args:
        state: tensors with the names of the authors or of transformers.
        things: whether each class is a thing, indexed by label.
        blocks: number of blocks that queries join.

    Raises:
        KeysError: a name is unknown, or queries join another number of blocks.
    """
    if is_authors(state):
        return convert_head(state, [*AUTHORS_TRUNK, *AUTHORS_HEAD], things=things, blocks=blocks)
    trunk, rest = split(state)
    trunk = {f"backbone.trunk.{key}": value for key, value in rename(trunk, DINOV2).items()}
    trunk["backbone.trunk.pos_embed"] = _batch(trunk["backbone.trunk.pos_embed"])
    return trunk | convert_head(rest, TRANSFORMERS_HEAD, things=things, blocks=blocks)


def is_authors(state: dict[str, Tensor]) -> bool:
    """Whether the names are those of the authors of EoMT, not of transformers."""
    return any(key.startswith("network.") for key in state)


def split(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Splits tensors with the names of transformers into those of the ViT and all others."""
    prefixes = ("embeddings.", "layers.", "layernorm.")
    trunk = {key: value for key, value in state.items() if key.startswith(prefixes)}
    return trunk, {key: value for key, value in state.items() if key not in trunk}


def convert_head(
    state: dict[str, Tensor], rules: list[Rule], *, things: Sequence[bool], blocks: int
) -> dict[str, Tensor]:
    """Renames tensors by `rules` and adds the tensor `things`; raises as `convert`."""
    for key in ("network.attn_mask_probs", "attn_mask_probs"):
        if key in state and len(state[key]) != blocks:
            raise KeysError(f"its queries join the last {len(state[key])} blocks, wanted {blocks}")
    return rename(state, rules) | {"head.things": torch.tensor(things)}


CARDS = [card(name, size) for name, size in SIZES.items()]
