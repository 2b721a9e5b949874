"""Options of the backbone that are out of range, or not those of its model, are refused by its constructor in one sentence."""

import inspect
import math

import pytest

from vitdet.backbone import Backbone
from vitdet.backbone.options import RANGES
from vitdet.errors import UserError

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "out_channels": 32}
NUMBERS = {name: [-1, math.nan, "x"] for name in RANGES if name not in ("name", "checkpoint")}
NUMBERS |= {name: [*wrong, 0] for name, wrong in NUMBERS.items() if name not in ("tail", "neck_depth", "drop_path")}
WRONG = {
    **NUMBERS,
    "name": [
        "",
        None,
        5,
        "resnet50",
        "swin_tiny_patch4_window7_224",
        "vit_tiny_patch16_225",
        "vit_tiny_patch16_224.no",
    ],
    "checkpoint": ["", 5],
    "embed_dim": [0, 33, 2.0],
    "num_heads": [0, 5],
    "patch_size": [0, -1, 16.0],
    "out_channels": [0, 1],
    "drop_path": [1.0, -0.1, math.nan],
    "canvas": [0, 50, 64.0],
    "freeze": [3, -2, "x", None, 1.5, True],
    "tail": [-1, 2, 1.5, "1"],
    "stem": ["patches", None],
    "neck": ["fpn", [1]],
    "windows": [0, -1, "0x2", "2x", "2x2x2", 1.5, [2], True],
    "out_blocks": [[], [2], [-3], [0, 0], ["a"], 1],
    "out_strides": [[], [0], [-8, 16], [16, 8], [12], ["a"], [math.nan], 8],
    "model_args": [[1], {"nope": 1}, {"mlp_ratio": -1}, {"mlp_ratio": "a"}, {"img_size": 0}, {"reg_tokens": -1}],
    "neck_args": [[1], {"norm": "layer"}],
    "pretrained": ["yes"],
    "stem_taps": [1],
    "grad_checkpointing": ["x"],
    "pos_antialias": [3],
}


def test_every_option_is_there():
    assert set(WRONG) == set(inspect.signature(Backbone).parameters)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_what_is_out_of_range(name, value):
    with pytest.raises(UserError, match=r"^[^\n]+$"):
        Backbone(**{"name": "vit_tiny_patch16_224", **TINY, name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neck": "csp", "out_channels": 33}, "out_channels is 33; wanted a multiple of 2"),
        ({"neck": "csp", "neck_args": {"norm": ["layer"]}}, "neck='csp' has layer, frozen_batch"),
        ({"neck": "hybrid", "out_channels": 30}, r"out_channels is 30; wanted a multiple of 8 \(num_heads\)"),
        ({"neck": "hybrid", "out_channels": 6, "neck_args": {"num_heads": 2}}, "wanted a multiple of 4"),
        ({"neck": "hybrid", "neck_args": {"num_heads": 0}}, "num_heads is 0"),
        ({"neck": "hybrid", "neck_args": {"csp_channels": 0}}, "csp_channels is 0"),
        ({"neck": "hybrid", "neck_args": {"ffn_dim": -1}}, "ffn_dim is -1"),
        ({"stem": "conv", "patch_size": 14}, "no power of two"),
        ({"name": "eva02_tiny_patch14_224", "embed_dim": 36}, "heads of 18 channels, and rotates them in fours"),
        ({"name": "vit_small_patch16_rope_mixed_224", "embed_dim": 36}, "head_dim must be divisible by 4"),
    ],
)
def test_what_does_not_go_together(options, message):
    with pytest.raises(UserError, match=message):
        Backbone(**{"name": "vit_tiny_patch16_224", **TINY, **options})
