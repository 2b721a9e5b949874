"""What the options of data and samplers may be."""

from typing import Any

from vitdet.ranges import Rule, number, so_many, whole

COUNT, FRACTION, POSITIVE = whole(1), number(0, 1), number(0, without=[0])


def _are_scales(value: Any) -> bool:
    return so_many(2, POSITIVE, "")[0](value) and value[0] <= value[1]


SCALES: Rule = (_are_scales, "[low, high] with 0 < low <= high, for example [0.5, 1.5]")
RANGES: dict[str, Rule] = {
    "batch_size": COUNT,
    "max_tokens": COUNT,
    "eval_batch_size": COUNT,
    "scale_jitter": SCALES,
    "batch_scale": SCALES,
    "scales": SCALES,
    "crop": so_many(2, COUNT, "[height, width], whole numbers from 1"),
    "mosaic": FRACTION,
    "mosaic_until": FRACTION,
    "num_workers": whole(0),
    "seed": whole(0),
    "mean": so_many(3, number(-float("inf")), "three numbers"),
    "std": so_many(3, POSITIVE, "three numbers above 0"),
    "patch_size": COUNT,
    "train_images": COUNT,
    "val_images": COUNT,
}
