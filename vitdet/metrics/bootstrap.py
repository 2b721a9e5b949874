"""AP on images that are drawn again and again with replacement, for intervals of confidence (Efron 1979).

An image that is drawn twice counts twice, as two images with the same objects and detections. `hotcoco.compare` counts
it once, which gives intervals about a quarter too narrow (`tests/metrics/test_bootstrap.py` shows both).

I is the number of images, D of detections, K of classes, R of draws, and T = 10 of IoU thresholds, 0.50 to 0.95.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import hotcoco
import numpy as np

from vitdet.metrics.evaluation import as_coco, match, with_masks
from vitdet.metrics.ground_truth import GroundTruth

# the ranges of areas in square pixels, as in COCO
AREAS = {"": (0.0, 1e10), "s": (0.0, 1024.0), "m": (1024.0, 9216.0), "l": (9216.0, 1e10)}
IOUS = np.linspace(0.5, 0.95, 10)
# how many numbers are worked on at once
AT_ONCE = 1 << 21


@dataclass
class Flags:
    """Which detections of a class are right, best score first.

    Attributes:
        image: `(D,)`, the position of the image of each detection.
        right: `(T, D)` bool.
        counted: `(T, D)` bool; others match a crowd, or lie outside the range of areas.
        objects: `(I,)`, the number of objects of each image.
    """

    image: np.ndarray
    right: np.ndarray
    counted: np.ndarray
    objects: np.ndarray


def flags(
    truth: GroundTruth,
    detections: np.ndarray,
    *,
    images: np.ndarray,
    max_dets: int = 100,
    masks: Sequence[bytes] | None = None,
    areas: Sequence[str] = tuple(AREAS),
) -> dict[tuple[str, int], Flags]:
    """What hotcoco finds right, by the range of areas, a key of `AREAS`, and the class.

    Args:
        truth: the ground truth.
        detections: `(D, 7)`, as `evaluator` takes them.
        images: the positions of the images to score.
        max_dets: the number of detections of an image and a class that count.
        masks: the run lengths of the detections, if masks are scored.
        areas: which ranges.
    """
    coco = as_coco(truth)
    found = coco.load_res(detections) if masks is None else with_masks(truth, coco, detections, masks)
    # the order in which pycocotools counts detections
    order = np.lexsort([detections[:, 0], -detections[:, 5], detections[:, 6]])
    labels, all_images = detections[order, 6], detections[order, 0].astype(np.int64)
    made = {}
    for name in areas:
        kind = "bbox" if masks is None else "segm"
        matched = match(coco, found, iou_type=kind, images=images, levels=[max_dets], area=AREAS[name])
        right, counted = _status(matched, order)
        low, high = AREAS[name]
        real = ~truth.iscrowd & (truth.area >= low) & (truth.area <= high) & np.isin(truth.image, images)
        for k in range(len(truth.names)):
            mine, objects = labels == k, truth.image[real & (truth.label == k)]
            count = np.bincount(objects, minlength=len(truth))
            made[name, k] = Flags(all_images[mine], right[:, mine], counted[:, mine], count)
    return made


def _status(matched: hotcoco.COCOeval, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which detections are right and which count, `(T, D)` each, in a given order."""
    right, counted = (np.zeros((len(IOUS), len(order)), bool) for _ in range(2))
    for t, iou in enumerate(IOUS.tolist()):
        status: dict[int, str] = matched.image_diagnostics(iou_thr=iou)["dt_status"]
        rows = np.fromiter(status, np.int64, len(status)) - 1
        counted[t, rows] = True
        right[t, rows] = np.fromiter((word == "tp" for word in status.values()), bool, len(status))
    return right[:, order], counted[:, order]


def draws(images: np.ndarray, total: int, *, count: int, seed: int = 0) -> np.ndarray:
    """How often each of all images is drawn, `(R, I)`, where as many as there are `images` are drawn of these."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((count, total), np.int64)
    weights[:, images] = rng.multinomial(len(images), np.full(len(images), 1 / len(images)), size=count)
    return weights


def resampled(made: Flags, weights: np.ndarray) -> np.ndarray:
    """The AP of a class in each draw and at each IoU, `(R, T)`; NaN in draws without an object of the class."""
    result = np.full((len(weights), len(IOUS)), np.nan)
    objects = weights @ made.objects
    step = max(1, AT_ONCE // max(len(made.image), 1))
    for first in range(0, len(weights), step):
        rows = slice(first, first + step)
        for t, ap in enumerate(_aps(made, weights[rows], objects[rows])):
            result[rows, t] = ap
    result[objects == 0] = np.nan
    return result


def _aps(made: Flags, weights: np.ndarray, objects: np.ndarray) -> Iterator[np.ndarray]:
    """The AP of each draw, for each IoU."""
    drawn = weights[:, made.image].astype(np.int32)
    objects = np.maximum(objects, 1)[:, None]
    for right, counted in zip(made.right, made.counted):
        # precision rises only where a detection is right
        at = np.flatnonzero(right)
        found = drawn[:, at].cumsum(1)
        precision = found / np.maximum((drawn * counted).cumsum(1)[:, at], 1)
        # of an image that is not drawn, the detection is not there
        precision[drawn[:, at] == 0] = 0
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        # how many of the 101 levels of recall are reached by then
        levels = 100 * found // objects + (found > 0)
        yield (best * np.diff(levels, axis=1, prepend=0)).sum(1) / 101
