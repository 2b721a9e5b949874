"""The COCO protocol for boxes and masks: the twelve scores and the AP of each class from ground truth and detections.

I is the number of images, D of detections, K of classes, and M of limits on the detections of an image. Precision is
`(10, 101, K, 4, M)`: IoU thresholds, recall levels, classes, areas (all, small, medium, large) and limits; recall is
`(10, K, 4, M)`.
"""

from collections.abc import Sequence
from typing import Any

import hotcoco
import numpy as np

from vitdet.metrics.evaluation import evaluator
from vitdet.metrics.ground_truth import GroundTruth

# the score that COCO gives if there is no ground truth
ABSENT = -1.0


def average_precision(
    truth: GroundTruth,
    detections: np.ndarray,
    *,
    images: np.ndarray | None = None,
    max_dets: int = 100,
    masks: Sequence[bytes] | None = None,
) -> dict[str, float]:
    """The COCO scores of detections, by Lin et al. 2014 (arXiv:1405.0312) as implemented in pycocotools.

    `AP` averages over 10 IoU thresholds, 0.50 to 0.95; `s`, `m` and `l` stand for areas up to 32² pixels, up to 96²
    pixels and above; `ARn` is the recall at n detections per class and image, for n of `max_dets_levels(max_dets)`. A
    score is -1 if there is no ground truth of that kind.

    Args:
        truth: the ground truth.
        detections: `(D, 7)`: image 0..I-1, left, top, width, height (in pixels), score, class 0..K-1.
        images: the positions of the images to score; by default all.
        max_dets: the number of detections of an image and a class that count.
        masks: the compressed run lengths of each detection, if masks are to be scored instead of boxes.
    """
    return _evaluated(truth, detections, images=images, max_dets=max_dets, masks=masks)[0]


def _evaluated(
    truth: GroundTruth,
    detections: np.ndarray,
    *,
    images: np.ndarray | None = None,
    max_dets: int = 100,
    masks: Sequence[bytes] | None = None,
) -> tuple[dict[str, float], hotcoco.COCOeval | None]:
    """The scores of `average_precision`, and the evaluator that gave them; none where there is nothing to score."""
    levels = max_dets_levels(max_dets)
    images = np.arange(len(truth)) if images is None else np.asarray(images)
    if not len(images) or not truth.names:
        return _scores(*_nothing(truth, levels), levels, truth), None
    made = evaluator(truth, detections, images=images, levels=levels, masks=masks)
    return summary(made, truth), made


def summary(made: hotcoco.COCOeval, truth: GroundTruth) -> dict[str, float]:
    """The scores of `average_precision`, from an evaluator that has accumulated; `truth` names the classes."""
    # a copy of all curves
    curves: Any = made.eval
    return _scores(curves["precision"], curves["recall"], made.params.max_dets, truth)


def _scores(precision: np.ndarray, recall: np.ndarray, levels: Sequence[int], truth: GroundTruth) -> dict[str, float]:
    per_class = {key: _mean(precision[:, :, k, 0, -1]) for k, key in enumerate(truth.keys())}
    return _summary(precision, recall, levels) | per_class


def coco_scores(
    truth: GroundTruth, detections: np.ndarray, *, masks: Sequence[bytes] | None = None, **options: Any
) -> tuple[dict[str, float], hotcoco.COCOeval | None]:
    """The `average_precision` of masks if there are any, else of boxes, and the evaluator, if there is one, of these.

    The scores of masks are followed by `box_AP`, `box_AP50` and `box_AP75`, and those of single classes come last.
    """
    found, made = _evaluated(truth, detections, masks=masks, **options)
    if masks is None:
        return found, made
    boxes = average_precision(truth, detections, **options)
    classes = {name: found.pop(name) for name in list(found) if "/" in name}
    return found | {f"box_{name}": boxes[name] for name in ("AP", "AP50", "AP75")} | classes, made


def max_dets_levels(max_dets: int) -> list[int]:
    """The numbers of detections at which recall is reported: 1, 10 and `max_dets`."""
    return sorted({min(1, max_dets), min(10, max_dets), max_dets})


def curves(
    truth: GroundTruth,
    detections: np.ndarray,
    *,
    images: np.ndarray,
    levels: list[int],
    masks: Sequence[bytes] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Precision `(10, 101, K, 4, M)` and recall `(10, K, 4, M)`, -1 if there is no ground truth."""
    if not len(images) or not truth.names:
        return _nothing(truth, levels)
    found: Any = evaluator(truth, detections, images=images, levels=levels, masks=masks).eval
    return found["precision"], found["recall"]


def _nothing(truth: GroundTruth, levels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The curves of no image or no class."""
    classes, limits = len(truth.names), len(levels)
    return np.full((10, 101, classes, 4, limits), ABSENT), np.full((10, classes, 4, limits), ABSENT)


def _mean(values: np.ndarray) -> float:
    present = values[values > ABSENT]
    return float(present.mean()) if present.size else ABSENT


def _summary(precision: np.ndarray, recall: np.ndarray, levels: Sequence[int]) -> dict[str, float]:
    """The twelve scores by name."""
    numbers = {
        "AP": precision[..., 0, -1],
        "AP50": precision[0, ..., 0, -1],
        "AP75": precision[5, ..., 0, -1],
        "APs": precision[..., 1, -1],
        "APm": precision[..., 2, -1],
        "APl": precision[..., 3, -1],
    }
    numbers |= {f"AR{n}": recall[..., 0, m] for m, n in enumerate(levels)}
    numbers |= {"ARs": recall[..., 1, -1], "ARm": recall[..., 2, -1], "ARl": recall[..., 3, -1]}
    return {name: _mean(values) for name, values in numbers.items()}
