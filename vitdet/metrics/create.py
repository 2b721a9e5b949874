"""Which metric scores what a head `predicts`."""

import difflib
from collections.abc import Callable
from typing import Any

from vitdet.errors import UserError
from vitdet.metrics.base import Metric
from vitdet.metrics.coco import CocoMetric
from vitdet.metrics.panoptic import PanopticMetric
from vitdet.metrics.semantic import SemanticMetric

METRICS: dict[str, Callable[..., Metric]] = {
    "boxes": lambda data, split, **options: CocoMetric(data.index(split), **options),
    "masks": lambda data, split, **options: CocoMetric(data.index(split), iou_type="segm", **options),
    "semantic": lambda data, split, **options: SemanticMetric(
        data.truth(split), data.classes, len(data.index(split)), **options
    ),
    "panoptic": lambda data, split, **options: PanopticMetric(
        data.truth(split), data.classes, data.things, data.index(split).file_ids, len(data.index(split)), **options
    ),
}
"""What scores each kind of prediction: what a head says that it `predicts`."""


def create_metric(predicts: str, data: Any, *, split: str = "val", seen_only: bool = False) -> Metric:
    """The metric for a kind of prediction on a split of a data module.

    Args:
        predicts: the kind of prediction, a key of `METRICS`.
        data: the data module.
        split: the name of the split.
        seen_only: whether only images with a prediction are scored, see `Metric`.

    Raises:
        UserError: there is no metric for this kind of prediction.
    """
    if predicts not in METRICS:
        near = difflib.get_close_matches(predicts, METRICS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"no metric for {predicts!r}{hint} (there are {sorted(METRICS)})")
    return METRICS[predicts](data, split, seen_only=seen_only)
