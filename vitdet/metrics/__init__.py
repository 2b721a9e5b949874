"""The metrics, and the scoring of results files.

What needs PyTorch is imported when it is used, so that `vitdet evaluate` starts at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vitdet.metrics.results import evaluate, print_scores

if TYPE_CHECKING:
    from vitdet.metrics.base import Metric
    from vitdet.metrics.coco import CocoMetric
    from vitdet.metrics.create import METRICS, create_metric
    from vitdet.metrics.panoptic import PanopticMetric
    from vitdet.metrics.semantic import SemanticMetric

_PLACE_OF = {
    "METRICS": "create",
    "CocoMetric": "coco",
    "Metric": "base",
    "PanopticMetric": "panoptic",
    "SemanticMetric": "semantic",
    "create_metric": "create",
}
__all__ = [
    "METRICS",
    "CocoMetric",
    "Metric",
    "PanopticMetric",
    "SemanticMetric",
    "create_metric",
    "evaluate",
    "print_scores",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACE_OF:
        raise AttributeError(f"module 'vitdet.metrics' has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(f"vitdet.metrics.{_PLACE_OF[name]}"), name)
    return value
