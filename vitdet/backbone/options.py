"""What the backbone's options may be."""

from collections.abc import Mapping
from pathlib import Path

from vitdet.ranges import Rule, listed, number, whole

COUNT, INTEGER = whole(1), ((lambda v: isinstance(v, int) and not isinstance(v, bool)), "a whole number")
OURS = {
    "checkpoint_path",
    "dynamic_img_pad",
    "dynamic_img_size",
    "features_only",
    "in_chans",
    "model_name",
    "num_classes",
    "pretrained",
}


def _are_timms(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) and name not in OURS for name in value)


RANGES: dict[str, Rule] = {
    "name": ((lambda v: isinstance(v, str) and v != ""), "the name of a model of timm"),
    "checkpoint": ((lambda v: isinstance(v, (str, Path)) and str(v) != ""), "the path of a file with weights"),
    "model_args": (
        _are_timms,
        f"arguments of the timm model by name, without {', '.join(sorted(OURS))}, which are vitdet's to set",
    ),
    "neck_args": ((lambda v: isinstance(v, Mapping)), "arguments of the neck by name"),
    "patch_size": COUNT,
    "embed_dim": COUNT,
    "depth": COUNT,
    "num_heads": COUNT,
    "stem_width": COUNT,
    "tail": whole(0),
    "out_blocks": listed(INTEGER),  # -1 is the last one
    "global_blocks": listed(INTEGER, least=0),
    "window_prefix": ((lambda v: v in ("image", "window")), "image or window"),
    "relative_position": COUNT,
    "out_strides": listed(number(0, without=[0])),
    "out_channels": whole(2),
    "neck_depth": whole(0),
    "drop_path": number(0, 1, without=[1]),
    "canvas": COUNT,
}
