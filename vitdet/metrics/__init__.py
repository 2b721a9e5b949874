"""How predictions are scored."""

import difflib
from collections.abc import Callable
from typing import Any

from vitdet.errors import UserError
from vitdet.metrics.coco import CocoMetric
from vitdet.metrics.panoptic import PanopticMetric
from vitdet.metrics.results import evaluate, print_scores
from vitdet.metrics.semantic import SemanticMetric

__all__ = ["METRICS", "CocoMetric", "PanopticMetric", "SemanticMetric", "create_metric", "evaluate", "print_scores"]

METRICS: dict[str, Callable[[Any, str], Any]] = {
    "coco_box": lambda data, split: CocoMetric(data.index(split)),
    "coco_mask": lambda data, split: CocoMetric(data.index(split), iou_type="segm"),
    "semantic": lambda data, split: SemanticMetric(data.truth(split), data.classes, len(data.index(split))),
    "panoptic": lambda data, split: PanopticMetric(
        data.truth(split), data.classes, data.things, data.category_ids, len(data.index(split))
    ),
}


def create_metric(name: str, data: Any, *, split: str = "val") -> Any:
    """The metric `name` on one split of a data module.

    Raises:
        ValueError: no such metric.
    """
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"no metric {name!r}{hint} (there are {sorted(METRICS)})")
    return METRICS[name](data, split)
