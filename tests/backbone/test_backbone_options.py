"""The backbone's constructor refuses options that are out of range, or that its model does not have, with an error of a
single sentence."""

import inspect
import math
from functools import partial

import pytest

from vitdet.backbone import Backbone, ConvStem, CSPNeck, HybridNeck, Projector, SpatialAdapter, TrunkOptions
from vitdet.backbone.backbone import RANGES
from vitdet.errors import UserError

SIZES = {"embed_dim": 32, "num_heads": 2}
TINY = {"model_args": SIZES, "depth": 2, "out_channels": 32}
NUMBERS = {name: [-1, math.nan, "x"] for name in RANGES if name not in ("name", "checkpoint")}
NUMBERS |= {name: [*wrong, 0] for name, wrong in NUMBERS.items() if name not in ("tail", "drop_path")}
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
    "patch_size": [0, -1, 16.0],
    "out_channels": [0, 1],
    "drop_path": [1.0, -0.1, math.nan],
    "freeze": [3, -2, "x", None, 1.5, True],
    "tail": [-1, 2, 1.5, "1"],
    "stem": ["patches", "conv", 1],
    "neck": ["fpn", [1], {"depth": 1}],
    "out_blocks": [[], [2], [-3], [0, 0], ["a"], 1],
    "out_strides": [[], [0], [-8, 16], [16, 8], [12], ["a"], [math.nan], 8],
    "model_args": [
        [1],
        {"nope": 1},
        {"mlp_ratio": -1},
        {"mlp_ratio": "a"},
        {"img_size": 0},
        {"reg_tokens": -1},
        {**SIZES, "embed_dim": 0},
        {**SIZES, "embed_dim": 33},
        {**SIZES, "embed_dim": 2.0},
        {**SIZES, "num_heads": 0},
        {**SIZES, "num_heads": 5},
    ],
    "pretrained": ["yes"],
    "trunk": [None, 4, {"nope": 1}],
}
TRUNK = {
    "windows": [0, -1, "0x2", "2x", "2x2x2", 1.5, [2], True],
    "global_blocks": [[-1], [math.nan], "x", 0],
    "window_prefix": ["x", None, 1],
    "relative_position": [0, -1, math.nan, "x"],
    "canvas": [0, 50, 64.0, -1],
    "grad_checkpointing": ["x"],
    "pos_antialias": [3],
}
PARTS = [  # of necks and stems
    ("neck", Projector, "depth", [-1, math.nan, "x"]),
    ("neck", CSPNeck, "depth", [-1]),
    ("neck", CSPNeck, "norm", ["batch", ["layer"]]),
    ("neck", HybridNeck, "depth", [-1]),
    ("neck", HybridNeck, "csp_channels", [0]),
    ("neck", HybridNeck, "ffn_dim", [-1]),
    ("neck", HybridNeck, "num_heads", [0]),
    ("stem", ConvStem, "width", [0, 1.5]),
    ("stem", ConvStem, "lateral", [1]),
    ("stem", SpatialAdapter, "width", [0]),
]


def test_every_option_is_there():
    assert set(WRONG) == set(inspect.signature(Backbone).parameters)
    assert set(TRUNK) == set(inspect.signature(TrunkOptions).parameters)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name, values in WRONG.items() for value in values),
        *(("trunk", {name: value}) for name, values in TRUNK.items() for value in values),
        *((part, partial(cls, **{name: value})) for part, cls, name, values in PARTS for value in values),
    ],
)
def test_what_is_out_of_range(name, value):
    with pytest.raises(UserError, match=r"^[^\n]+$"):
        Backbone(**{"name": "vit_tiny_patch16_224", **TINY, name: value})


def test_fifteen_arguments_are_enough():
    for cls in (Backbone, TrunkOptions, Projector, CSPNeck, HybridNeck, ConvStem, SpatialAdapter):
        assert len(inspect.signature(cls).parameters) <= 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neck": CSPNeck, "out_channels": 33}, "out_channels is 33; wanted a multiple of 2"),
        ({"neck": HybridNeck, "out_channels": 30}, r"out_channels is 30; wanted a multiple of 8 \(num_heads\)"),
        ({"neck": partial(HybridNeck, num_heads=2), "out_channels": 6}, "wanted a multiple of 4"),
        ({"stem": ConvStem, "patch_size": 14}, "no power of two"),
        (
            {"name": "eva02_tiny_patch14_224", "model_args": {**SIZES, "embed_dim": 36}},
            "heads of 18 channels, and rotates them in fours",
        ),
        (
            {"name": "vit_small_patch16_rope_mixed_224", "model_args": {**SIZES, "embed_dim": 36}},
            "head_dim must be divisible by 4",
        ),
    ],
)
def test_what_does_not_go_together(options, message):
    with pytest.raises(UserError, match=message):
        Backbone(**{"name": "vit_tiny_patch16_224", **TINY, **options})
