"""Numbers about a split: images, objects of each class, sizes, shapes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from vitdet.data.check.classes import box_tokens, class_counts
from vitdet.data.check.content import NO_CLASS, Content

# the upper ends of the bins of box sizes, in patches
BINS = (1, 4, 16, 64, 256)


def numbers(content: Content, size: Callable[[int, int], tuple[int, int]], patch: int) -> dict[str, Any]:
    """The numbers about a split, as plain values.

    Args:
        content: the split.
        size: the height and width at which the model sees an image of a height and width.
        patch: the side of a patch in pixels.
    """
    objects, sizes = content.objects, content.sizes()
    known = sizes[(sizes > 0).all(1)]
    found: dict[str, Any] = {"images": len(content), "objects": len(objects), "crowds": int(objects.crowd.sum())}
    found["width"], found["height"] = quantiles(known[:, 0]), quantiles(known[:, 1])
    found["aspect"] = quantiles(known[:, 0] / known[:, 1])
    found["classes"] = _classes(content)
    if content.kind == "semantic":
        return found
    per_image = np.bincount(objects.image, minlength=len(content))
    found["objects_per_image"] = quantiles(per_image)
    tokens = box_tokens(content, size, patch)
    tokens = tokens[np.isfinite(tokens)]
    found["box_patches"] = quantiles(tokens)
    bins = np.bincount(np.searchsorted(BINS, tokens, side="right"), minlength=len(BINS) + 1)
    ends = [*(f"below {end}" for end in BINS), f"from {BINS[-1]}"]
    found["box_patches_bins"] = dict(zip(ends, bins.tolist()))
    with np.errstate(divide="ignore", invalid="ignore"):
        aspects = objects.boxes_xywh[:, 2] / objects.boxes_xywh[:, 3]
    found["box_aspect"] = quantiles(aspects[np.isfinite(aspects)])
    return found


def quantiles(values: np.ndarray) -> dict[str, float]:
    """The smallest, the 10th, 50th and 90th of 100, and the largest value; nothing of no values.

    Example:
        >>> quantiles(np.array([1, 2, 3]))
        {'min': 1.0, 'p10': 1.2, 'median': 2.0, 'p90': 2.8, 'max': 3.0}
    """
    if not len(values):
        return {}
    found = np.quantile(values, [0, 0.1, 0.5, 0.9, 1]).round(3).tolist()
    return dict(zip(("min", "p10", "median", "p90", "max"), found))


def _classes(content: Content) -> list[dict[str, Any]]:
    objects = content.objects
    counts = class_counts(content)
    pairs = np.unique(np.column_stack([objects.image, objects.label])[objects.label != NO_CLASS], axis=0)
    images = np.bincount(pairs[:, 1].astype(np.int64), minlength=len(counts)) if len(pairs) else np.zeros_like(counts)
    rows = [
        {"id": number, "name": name, "objects": int(count), "images": int(of)}
        for number, name, count, of in zip(content.class_ids, content.classes, counts, images)
    ]
    if content.kind == "semantic" and len(objects):
        pixels = np.bincount(objects.label[objects.label >= 0], objects.area[objects.label >= 0], len(counts))
        for row, share in zip(rows, pixels / objects.area.sum()):
            # an object of a label map is all there is of a class in an image
            del row["objects"]
            row["pixels"] = round(float(share), 6)
    return rows
