"""RF-DETR and RF-DETR-Seg, built from vitdet's modules.

Robinson et al. 2025, arXiv:2511.09554; github.com/roboflow/rf-detr. Where the paper and the released weights differ,
vitdet follows the weights: the blocks with attention over the entire image are 3, 6 and 9 (counted from 0), not the
blocks whose outputs the neck uses, 2, 5, 8 and 11. Each window has a copy of the class token. XL and 2XL, whose licence
is not Apache-2.0, are left out.
"""

from functools import partial
from typing import NamedTuple

from torch import Tensor

from vitdet.backbone.keys import Rule
from vitdet.backbone.layouts import dinov2
from vitdet.data.label_sets import LABEL_SETS
from vitdet.zoo import lw_family
from vitdet.zoo.cards import Card
from vitdet.zoo.tensors import flat

HOST = "https://storage.googleapis.com/rfdetr"
SOURCE = "RF-DETR's README, 1.11: COCO val2017"


class Size(NamedTuple):
    """The settings that differ between the sizes of RF-DETR.

    Attributes:
        side: side of the square image in pixels.
        layers: number of decoder layers.
        path: path of the file on `HOST`.
        md5: digest of the file.
        score: the score that the authors report.
        parameters: the number of parameters in millions.
        gflops: the arithmetic of an image in 10⁹ floating-point operations.
        patch: side of a patch in pixels.
        windows: number of windows of attention in each direction.
        queries: number of queries.
        position_grid: side of the grid of the position embedding, if it differs from the grid of the image.
        taps: blocks whose outputs the neck uses, counted from 0.
        global_blocks: blocks with attention over the image instead of windows, counted from 0.
        masks: whether the head predicts masks.
    """

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
    "nano": Size(384, 2, "nano_coco/checkpoint_best_regular.pth", "fb6504cce7fbdc783f7a46991f07639f",
                 "box AP 48.4", 30.4, 31.8),
    "small": Size(512, 3, "small_coco/checkpoint_best_regular.pth", "fb37061c1af7bace359c91b723a8d5c1",
                  "box AP 53.0", 32.1, 59.6),
    "medium": Size(576, 4, "medium_coco/checkpoint_best_regular.pth", "7223f764a87b863f02eb8d52bf0ce2ee",
                   "box AP 54.7", 33.6, 78.5),
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
        head_class="vitdet.DETRHead",
        head=_head(size),
        transform={"size": {"square": size.side}, "resample": "bilinear"},
        labels=LABEL_SETS["coco", "instances"],
        convert=partial(convert, masks=size.masks, depth=size.taps[-1] + 1),
    )


def _backbone(size: Size) -> dict:
    grid = size.position_grid or size.side // size.patch
    trunk = {}
    if size.windows > 1:
        windows = f"{size.windows}x{size.windows}"
        trunk = {"windows": windows, "global_blocks": list(size.global_blocks), "window_prefix": "window"}
    return {
        "name": "vit_small_patch14_dinov2",
        "model_args": {"img_size": grid * size.patch, "patch_size": size.patch},
        "trunk": trunk,
        "out_blocks": list(size.taps),
        "neck": {"class_path": "vitdet.CSPNeck", "init_args": {"depth": 3}},
        "out_strides": [size.patch],
        "out_channels": 256,
    }


def _head(size: Size) -> dict:
    masks = {}
    if size.masks:
        masks = {"masks": {"branch": "refined", "points": (size.side // 4) ** 2 // 16}}
    return lw_family.head(num_queries=size.queries, num_layers=size.layers, **masks)


ENCODER = "backbone.0.encoder.encoder."
MASKS: list[Rule] = [
    (r"segmentation_head\.blocks\.(\d+)\.dwconv\.(.+)", r"head.masks.blocks.\1.depthwise.\2"),
    (r"segmentation_head\.blocks\.(\d+)\.norm\.(.+)", r"head.masks.blocks.\1.norm.\2"),
    (r"segmentation_head\.blocks\.(\d+)\.pwconv1\.(.+)", r"head.masks.blocks.\1.linear.\2"),
    (r"segmentation_head\.spatial_features_proj\.weight", "head.masks.pixels.weight", flat),
    (r"segmentation_head\.spatial_features_proj\.bias", "head.masks.pixels.bias"),
    (r"segmentation_head\.query_features_block\.norm_in\.(.+)", r"head.masks.norm.\1"),
    (r"segmentation_head\.query_features_block\.layers\.(\d)\.(.+)", r"head.masks.mlp.\1.\2"),
    (r"segmentation_head\.query_features_proj\.(.+)", r"head.masks.embed.\1"),
    (r"segmentation_head\.bias", "head.masks.bias"),
]


def convert(state: dict[str, Tensor], *, masks: bool = False, depth: int = 12) -> dict[str, Tensor]:
    """Translates the authors' tensors to vitdet's names.

    Args:
        state: tensors with the authors' names.
        masks: whether the head predicts masks.
        depth: number of blocks of the ViT. Blocks after the last block that the neck uses are left out.

    Raises:
        KeysError: a name is unknown.
    """
    trunk = {key.removeprefix(ENCODER): value for key, value in state.items() if key.startswith(ENCODER)}
    rest = {key: value for key, value in state.items() if not key.startswith(ENCODER)}
    renamed = {f"backbone.trunk.{key}": value for key, value in dinov2(trunk).items()}
    renamed |= lw_family.convert(rest, [(r"_kp_active_mask", None), *(MASKS if masks else [])])
    unread = tuple(f"backbone.trunk.blocks.{i}." for i in range(depth, 12))
    return {key: value for key, value in renamed.items() if not key.startswith(unread)}


CARDS = [card(name, size) for name, size in SIZES.items()]
