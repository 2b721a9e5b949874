"""Which detection found which object, at each IoU threshold, and what follows from it: AP of any part of the data.

D is the number of detections, A of annotations, K of classes, T of IoU thresholds, and I of images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitdet.metrics.evaluation import evaluator
from vitdet.metrics.ground_truth import GroundTruth

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_DETS = 100


@dataclass
class Matches:
    """The detections of some images, matched to the objects in them as in the COCO protocol.

    Detections are in the order in which the protocol counts them: class by class, the best score first.

    Attributes:
        truth: the ground truth.
        images: `(I,)`, the positions of the images that count, ascending.
        rows: `(D,)`, the position of each detection among those that were given.
        image, label: `(D,)`, image and class of each detection.
        score: `(D,)`.
        boxes_xywh: `(D, 4)` in pixels.
        found: `(T, D)`, the annotation that a detection found, or -1.
        counted: `(T, D)` bool; false for detections that neither count as right nor as wrong, such as those of crowds.
        evaluator: hotcoco's evaluator of the same; none without detections.
    """

    truth: GroundTruth
    images: np.ndarray
    rows: np.ndarray
    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    boxes_xywh: np.ndarray
    found: np.ndarray
    counted: np.ndarray
    evaluator: Any

    @property
    def objects(self) -> np.ndarray:
        """`(A,)` bool: the annotations that are to be found, which are those of the images, without crowds."""
        inside = np.zeros(len(self.truth), bool)
        inside[self.images] = True
        return inside[self.truth.image] & ~self.truth.iscrowd

    def __len__(self) -> int:
        return len(self.score)


def match(
    truth: GroundTruth,
    detections: np.ndarray,
    *,
    images: np.ndarray,
    masks: Sequence[bytes] | None = None,
    max_dets: int = MAX_DETS,
) -> Matches:
    """Matches detections to objects.

    Args:
        truth: the ground truth.
        detections: `(D, 7)`: image, left, top, width, height (in pixels), score, class.
        images: the positions of the images that count.
        masks: the compressed run lengths of each detection, if masks are matched instead of boxes.
        max_dets: the number of detections of an image and a class that count.
    """
    chosen = np.flatnonzero(np.isin(detections[:, 0], images))
    detections = detections[chosen]
    kept = None if masks is None else [masks[i] for i in chosen.tolist()]
    made = evaluator(truth, detections, images=images, levels=[max_dets], masks=kept) if len(chosen) else None
    found, counted = np.full((len(THRESHOLDS), len(chosen)), -1), np.zeros((len(THRESHOLDS), len(chosen)), bool)
    for t, threshold in enumerate(THRESHOLDS.tolist()):
        if made is None:
            break
        seen = made.image_diagnostics(iou_thr=threshold, score_thr=2.0)
        # ids begin with 1; a detection that is in no list does not count
        counted[t, np.fromiter(seen["dt_status"], np.int64) - 1] = True
        pairs = np.array(list(seen["dt_match"].items()), np.int64).reshape(-1, 2) - 1
        hit = counted[t, pairs[:, 0]]
        found[t, pairs[hit, 0]] = pairs[hit, 1]
    order = np.lexsort((np.arange(len(chosen)), detections[:, 0], -detections[:, 5], detections[:, 6]))
    detections = detections[order]
    image, label = detections[:, 0].astype(np.int64), detections[:, 6].astype(np.int64)
    places = (chosen[order], image, label, detections[:, 5], detections[:, 1:5])
    return Matches(truth, np.asarray(images), *places, found[:, order], counted[:, order], made)


def ap_by_class(
    matches: Matches, *, objects: np.ndarray | None = None, detections: np.ndarray | None = None
) -> np.ndarray:
    """AP at each IoU threshold and class, `(T, K)`, of a part of the data; NaN for classes without objects in it.

    As in COCO's areas, a detection that found an object outside of the part does not count, and one that found nothing
    counts if it is in the part itself.

    Args:
        matches: what was found.
        objects: `(A,)` bool, the annotations of the part; by default all.
        detections: `(D,)` bool, the detections that are in the part if they found nothing; by default all.
    """
    truth, wanted = matches.truth, matches.objects if objects is None else objects & matches.objects
    result = np.full((len(THRESHOLDS), len(truth.names)), np.nan)
    totals = np.bincount(truth.label[wanted], minlength=len(truth.names))
    bounds = np.searchsorted(matches.label, np.arange(len(truth.names) + 1))
    for k in np.flatnonzero(totals).tolist():
        part = slice(bounds[k], bounds[k + 1])
        found, counted = matches.found[:, part], matches.counted[:, part]
        right = (found >= 0) & wanted[found]
        wrong = counted & (found < 0)
        if detections is not None:
            wrong &= detections[part]
        result[:, k] = average_precision(right, wrong, int(totals[k]))
    return result


def average_precision(right: np.ndarray, wrong: np.ndarray, total: int) -> np.ndarray:
    """COCO's AP `(T,)` of detections in the order of their scores.

    Args:
        right, wrong: `(T, D)` bool; detections that are neither do not count.
        total: the number of objects.

    Example:
        >>> hit = np.array([[True, False, True]])
        >>> average_precision(hit, ~hit, 2).round(4).tolist()  # (51 × 1 + 50 × 2/3) / 101
        [0.835]
    """
    hits, misses = np.cumsum(right, axis=1), np.cumsum(wrong, axis=1)
    result = np.zeros(len(right))
    for t, (hit, miss) in enumerate(zip(hits, misses)):
        precision = hit / np.maximum(hit + miss, np.spacing(1))
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(hit / total, RECALLS, side="left")
        inside = places < len(hit)
        result[t] = precision[places[inside]].sum() / len(RECALLS)
    return result


def lost_ap(matches: Matches, *, most: int = 60) -> dict[int, float]:
    """How much AP the mistakes in an image cost: what AP would gain if all objects of that image alone were found,
    perfectly and above all others, and nothing else in it.

    Args:
        matches: what was found.
        most: how many images are computed; those with the most mistakes, weighed by how rare their classes are.

    Returns:
        The loss for each image, by its position, the largest first; images that lose nothing are left out.
    """
    totals = np.bincount(matches.truth.label[matches.objects], minlength=len(matches.truth.names))
    present = np.flatnonzero(totals)
    bounds = np.searchsorted(matches.label, np.arange(len(totals) + 1))
    base = ap_by_class(matches)
    losses = {}
    for i in _suspects(matches, totals)[:most].tolist() if len(present) else ():
        objects = np.bincount(matches.truth.label[(matches.truth.image == i) & matches.objects], minlength=len(totals))
        gain = 0.0
        touched = set(np.flatnonzero(objects).tolist()) | set(matches.label[matches.image == i].tolist())
        for k in touched & set(present.tolist()):
            part = slice(bounds[k], bounds[k + 1])
            others = matches.image[part] != i
            found, counted = matches.found[:, part][:, others], matches.counted[:, part][:, others]
            right, wrong = found >= 0, counted & (found < 0)
            first = np.ones((len(THRESHOLDS), objects[k]), bool)
            perfect = np.concatenate([first, right], 1), np.concatenate([~first, wrong], 1)
            gain += float((average_precision(*perfect, int(totals[k])) - base[:, k]).mean())
        losses[i] = gain / len(present)
    return {i: loss for i, loss in sorted(losses.items(), key=lambda item: -item[1]) if loss > 1e-9}


def _suspects(matches: Matches, totals: np.ndarray) -> np.ndarray:
    """Images by a guess of what they cost, the most first."""
    size = len(matches.truth)
    wrong = (matches.counted & (matches.found < 0)).mean(0)
    weight = wrong * matches.score / np.maximum(totals, 1)[matches.label]
    missed = matches.objects.astype(np.float64)
    for found in matches.found:
        missed[found[found >= 0]] -= 1 / len(matches.found)
    guess = np.bincount(matches.image, weight, minlength=size).astype(np.float64)
    guess += np.bincount(matches.truth.image, missed / np.maximum(totals, 1)[matches.truth.label], minlength=size)
    return np.argsort(-guess, kind="stable")[: np.count_nonzero(guess > 1e-12)]
