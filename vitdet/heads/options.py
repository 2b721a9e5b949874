"""The ranges of the heads' options, in a single table: an option has equal meaning and range in all heads."""

import math
from typing import Any

from vitdet.ranges import Rule, either, listed, number, whole

FRACTION, COUNT = number(0, 1), whole(1)


def _is_annealing(value: Any) -> bool:
    ok = listed(FRACTION, least=2)[0]
    return ok(value) and len(value) == 2 and value[0] <= value[1]


def _are_weights(value: Any) -> bool:
    return isinstance(value, dict) and all(number(0)[0](weight) for weight in value.values())


def _is_width(value: Any) -> bool:
    return COUNT[0](value) and value % 4 == 0


# sampling points of deformable attention: a number for all levels, or a list with a number for each level
POINTS = either(COUNT, listed(COUNT))
RANGES: dict[str, Rule] = {
    "in_channels": listed(COUNT),
    "strides": listed(number(0, math.inf, without=[0])),
    "num_classes": COUNT,
    # sine embeddings consist of sines and cosines of two coordinates
    "dim": (_is_width, "a multiple of 4 from 4"),
    "num_queries": COUNT,
    "num_layers": COUNT,
    "num_heads": COUNT,
    "cross_heads": COUNT,
    "num_points": COUNT,
    "ffn_dim": COUNT,
    "dropout": number(0, 1, without=[1]),
    "groups": COUNT,
    "denoising": whole(0),
    "anchor_scale": number(0, math.inf, without=[0]),
    "anchor_fraction": number(0, 1, without=[0]),
    "anchor_margin": number(0, 0.5, without=[0.5]),
    "distinct": FRACTION,
    "loss_weights": (_are_weights, "terms of the loss, each with a number from 0"),
    "max_detections": COUNT,
    "points": COUNT,
    "mask_stride": number(0, math.inf, without=[0]),
    "annealing": (_is_annealing, "two fractions of the training, the smaller one first"),
    "threshold": FRACTION,
    "overlap": FRACTION,
    "tile": COUNT,
}
