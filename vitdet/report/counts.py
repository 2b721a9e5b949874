"""What follows from the matches at IoU 0.5: curves over the score, thresholds, confusion, calibration, and mistakes.

D is the number of detections, K of classes, S of steps of the score.
"""

from dataclasses import dataclass

import hotcoco
import numpy as np

from vitdet.masks import rle
from vitdet.report.matches import Matches

STEPS = np.linspace(0, 1, 101)
# below this score, detections are neither calibrated nor confused with anything
FLOOR = 0.05
# a detection that overlaps an object less is none of that object
NEAR = 0.1
# so many mistakes are looked at
MOST = 400


@dataclass(frozen=True)
class Curves:
    """Precision, recall and F1 of each class at each lowest score, `(K, S)`; NaN where there is nothing to divide by.

    Attributes:
        steps: `(S,)`, the lowest scores.
    """

    steps: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def curves(matches: Matches) -> Curves:
    """Curves over the lowest score of the detections that count, at IoU 0.5."""
    names = matches.truth.names
    totals = np.bincount(matches.truth.label[matches.objects], minlength=len(names))
    right, found = np.zeros((2, len(names), len(STEPS)))
    for k in range(len(names)):
        part = (matches.label == k) & matches.counted[0]
        hit, score = matches.found[0][part] >= 0, matches.score[part]
        # how many detections have at least that score; they are sorted by it
        place = np.searchsorted(-score, -STEPS, side="right")
        right[k], found[k] = np.concatenate([[0], np.cumsum(hit)])[place], place
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = right / found, right / totals[:, None]
        f1 = 2 * right / (found + totals[:, None])
    f1[totals == 0], recall[totals == 0] = np.nan, np.nan
    return Curves(STEPS, precision, recall, f1)


def best_thresholds(found: Curves, default: float) -> list[float]:
    """The lowest score at which each class has its best F1; the default for classes without objects."""
    best = []
    for row in found.f1:
        if not np.isfinite(row).any() or np.nanmax(row) <= 0:
            best.append(default)
        else:
            # of several equal ones the middle, which is the least exact about where it lies
            places = np.flatnonzero(row >= np.nanmax(row) - 1e-12)
            best.append(float(STEPS[places[len(places) // 2]]))
    return best


def above(matches: Matches, thresholds: list[float]) -> np.ndarray:
    """Which detections have the lowest score of their class, `(D,)` bool."""
    return matches.score >= np.asarray(thresholds)[matches.label]


def overlaps(matches: Matches, image: int, detections: np.ndarray, masks: list[bytes] | None) -> np.ndarray:
    """The IoU of some detections of an image with all its annotations, `(d, a)`."""
    truth = matches.truth
    rows = np.flatnonzero(truth.image == image)
    if not len(rows) or not len(detections):
        return np.zeros((len(detections), len(rows)))
    crowd = truth.iscrowd[rows].astype(np.uint8).tolist()
    if masks is None:
        return np.asarray(rle.iou(matches.boxes_xywh[detections], truth.boxes_xywh[rows], crowd))
    size = truth.sizes[image].tolist()
    codes = [{"size": size, "counts": masks[i]} for i in matches.rows[detections].tolist()]
    return np.asarray(rle.iou(codes, [truth.rles[row] for row in rows.tolist()], crowd))


def confusion(matches: Matches, shown: np.ndarray, masks: list[bytes] | None) -> np.ndarray:
    """How often an object of a class (row) was found as a class (column), `(K + 1, K + 1)`.

    The last column counts objects that were not found, the last row detections of nothing. First, a detection is
    matched to an object of its class, as AP does; what is left of both is matched at IoU 0.5 without regard to
    classes, the best score first. Detections of crowds do not count.

    Args:
        matches: what was found.
        shown: `(D,)` bool, the detections that count.
        masks: the run lengths of all detections, if masks are compared.
    """
    size = len(matches.truth.names)
    table = np.zeros((size + 1, size + 1), np.int64)
    hit = shown & (matches.found[0] >= 0)
    np.add.at(table, (matches.label[hit], matches.label[hit]), 1)
    left = matches.objects.copy()
    left[matches.found[0][hit]] = False
    wrong = shown & matches.counted[0] & (matches.found[0] < 0)
    order = np.flatnonzero(wrong)
    order = order[np.argsort(matches.image[order], kind="stable")]
    starts = np.searchsorted(matches.image[order], matches.images)
    ends = np.searchsorted(matches.image[order], matches.images, side="right")
    for image, start, end in zip(matches.images.tolist(), starts, ends):
        some = order[start:end]
        some = some[np.argsort(-matches.score[some], kind="stable")]
        rows = np.flatnonzero(matches.truth.image == image) if len(some) else np.zeros(0, np.int64)
        iou = overlaps(matches, image, some, masks)
        for n, detection in enumerate(some.tolist()):
            near = np.where(left[rows], iou[n], 0)
            row = size
            if near.size and near.max() >= 0.5:
                left[rows[near.argmax()]] = False
                row = matches.truth.label[rows[near.argmax()]]
            table[row, matches.label[detection]] += 1
    table[:size, size] += np.bincount(matches.truth.label[left], minlength=size)
    return table


@dataclass(frozen=True)
class Calibration:
    """How often detections of a score are right.

    Attributes:
        error: the mean distance of score and precision, weighed by the number of detections (ECE).
        score, precision: the mean score of each of ten bins, and how many in it are right.
        count: how many detections are in each bin.
    """

    error: float
    score: np.ndarray
    precision: np.ndarray
    count: np.ndarray


def calibration(matches: Matches) -> Calibration:
    """The calibration of all detections with a score of at least `FLOOR`, at IoU 0.5."""
    some = matches.counted[0] & (matches.score >= FLOOR)
    score, right = matches.score[some], matches.found[0][some] >= 0
    if not len(score):
        return Calibration(0.0, *np.zeros((3, 0)))
    bins = [one for one in hotcoco.metrics.calibration_curve(score, right, 10) if one["count"]]
    error, _ = hotcoco.metrics.calibration_error(score, right, 10)
    keys = ("avg_confidence", "avg_accuracy", "count")
    return Calibration(float(error), *(np.array([one[key] for one in bins]) for key in keys))


@dataclass(frozen=True)
class Mistake:
    """A detection that found nothing, or an object that nothing found.

    Attributes:
        kind: `background`, `class`, `place`, `class and place` or `twice`; `unseen` for an object.
        image: the position of the image.
        detection: the position of the detection, or -1.
        annotation: the object that is meant, or nearest; or -1.
        iou: how much the two overlap.
    """

    kind: str
    image: int
    detection: int
    annotation: int
    iou: float


def mistakes(matches: Matches, masks: list[bytes] | None, *, floor: float, most: int = MOST) -> list[Mistake]:
    """The wrong detections with a score of at least `floor`, the best first, at most so many."""
    wrong = np.flatnonzero(matches.counted[0] & (matches.found[0] < 0) & (matches.score >= floor))
    best = wrong[np.argsort(-matches.score[wrong], kind="stable")][:most]
    return [_mistake(matches, int(detection), masks) for detection in best]


def _mistake(matches: Matches, detection: int, masks: list[bytes] | None) -> Mistake:
    image, label = int(matches.image[detection]), matches.label[detection]
    rows = np.flatnonzero(matches.truth.image == image)
    iou = overlaps(matches, image, np.array([detection]), masks)[0]
    iou[matches.truth.iscrowd[rows]] = 0
    same = np.where(matches.truth.label[rows] == label, iou, 0)
    other = np.where(matches.truth.label[rows] != label, iou, 0)
    for values, low, kind in ((same, 0.5, "twice"), (other, 0.5, "class"), (same, NEAR, "place")):
        if values.size and values.max() >= low:
            return Mistake(kind, image, detection, int(rows[values.argmax()]), float(values.max()))
    if other.size and other.max() >= NEAR:
        return Mistake("class and place", image, detection, int(rows[other.argmax()]), float(other.max()))
    return Mistake("background", image, detection, -1, 0.0)


def unseen(matches: Matches, masks: list[bytes] | None, *, most: int = MOST) -> list[Mistake]:
    """Objects that no detection of any class with a score of at least `FLOOR` overlaps, the largest first."""
    missed = matches.objects.copy()
    missed[matches.found[0][matches.found[0] >= 0]] = False
    some = np.flatnonzero(missed)
    found = []
    for row in some[np.argsort(-matches.truth.area[some], kind="stable")][:most].tolist():
        image = int(matches.truth.image[row])
        near = np.flatnonzero((matches.image == image) & (matches.score >= FLOOR))
        place = int(np.flatnonzero(np.flatnonzero(matches.truth.image == image) == row)[0])
        iou = overlaps(matches, image, near, masks)
        if not len(near) or iou[:, place].max() < NEAR:
            found.append(Mistake("unseen", image, -1, row, 0.0))
    return found
