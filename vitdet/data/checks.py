"""Ranges of numbers that users give, refused where they are given."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from vitdet.errors import check


def is_number(value: Any) -> bool:
    """Whether it is a number, and neither NaN nor infinite."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any, least: int = 1) -> bool:
    """Whether it is a whole number from `least`."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= least


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raises:
    UserError: it is no whole number from `least`.
    """
    check(name, value, is_whole(value, least), f"a whole number from {least}")


def check_fraction(name: str, value: Any) -> None:
    """Raises:
    UserError: it is not in [0, 1].
    """
    check(name, value, is_number(value) and 0 <= value <= 1, "a number from 0 to 1")


def check_scales(name: str, value: Any) -> None:
    """Raises:
    UserError: it is no `[low, high]` with `0 < low <= high`.
    """
    pair = isinstance(value, Sequence) and len(value) == 2 and all(map(is_number, value))
    check(name, value, pair and 0 < value[0] <= value[1], "[low, high] with 0 < low <= high, for example [0.5, 1.5]")


def check_data(
    *,
    batch_size: int,
    max_tokens: int | None,
    eval_batch_size: int | None,
    scale_jitter: Sequence[float],
    crop: Sequence[int] | None,
    batch_scale: Sequence[float],
    mosaic: float,
    mosaic_until: float,
    on_bad_image: str,
    num_workers: int | None,
    seed: int,
    mean: Sequence[float],
    std: Sequence[float],
    patch_size: int,
) -> None:
    """The arguments of `ImageData`.

    Raises:
        UserError: one is out of range.
    """
    check_whole("batch_size", batch_size)
    for name, value in (("max_tokens", max_tokens), ("eval_batch_size", eval_batch_size)):
        check(name, value, value is None or is_whole(value), "a whole number from 1, or nothing")
    check_scales("scale_jitter", scale_jitter)
    check_scales("batch_scale", batch_scale)
    two = crop is None or (isinstance(crop, Sequence) and len(crop) == 2 and all(map(is_whole, crop)))
    check("crop", crop, two, "[height, width], whole numbers from 1, or nothing")
    check_fraction("mosaic", mosaic)
    check_fraction("mosaic_until", mosaic_until)
    check("on_bad_image", on_bad_image, on_bad_image in ("error", "skip"), "error or skip")
    check(
        "num_workers", num_workers, num_workers is None or is_whole(num_workers, 0), "a whole number from 0, or nothing"
    )
    check_whole("seed", seed, 0)
    check("mean", mean, len(mean) == 3 and all(map(is_number, mean)), "three numbers")
    check("std", std, len(std) == 3 and all(is_number(v) and v > 0 for v in std), "three numbers above 0")
    check_whole("patch_size", patch_size)
