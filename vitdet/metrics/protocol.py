"""The line that is printed with every score, and describes how it was counted."""

from collections.abc import Mapping

from vitdet.metrics.average_precision import max_dets_levels
from vitdet.metrics.evaluation import EVALUATOR
from vitdet.metrics.ground_truth import GroundTruth


def protocol(
    truth: GroundTruth, *, max_dets: int, images: int, notes: Mapping[str, int] | None = None, kind: str = "box"
) -> str:
    """The line that is printed with every result and describes how it was counted."""
    total = len(truth)
    parts = [
        f"COCO {kind} AP",
        f"only the {images} images seen of {total}" if images != total else f"all {total} images",
        f"{len(truth.names)} classes",
        "IoU 0.50:0.95",
        f"maxDets {'/'.join(map(str, max_dets_levels(max_dets)))}",
        EVALUATOR,
        f"data {truth.digest}",
    ]
    return ", ".join(parts + [f"{count} {reason}" for reason, count in {**truth.notes, **(notes or {})}.items()])
