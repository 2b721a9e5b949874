"""The score from which a detection of each class counts, chosen on validation data.

A detection is right if it matches an object at an IoU of 0.5, as for AP50: of boxes, or of masks where masks are
scored. D is the number of detections that count (those that match a crowd do not), and K of classes.
"""

import re
from dataclasses import dataclass
from typing import Any

import hotcoco
import numpy as np
from rich.console import Console
from rich.table import Table

from vitdet.errors import UserError
from vitdet.thresholds import describe_threshold

# a class with fewer objects has the threshold of all classes together
FEW = 10
IOU = 0.5
# of so many classes each is a row of the printed table
MOST_ROWS = 40
WANTED = "f1, or precision=P or recall=R with a number from 0 to 1, such as precision=0.9"


@dataclass
class Matches:
    """Which detections are right, and how many objects there are to be found.

    Attributes:
        scores: `(D,)` float64.
        labels: `(D,)` int64, classes 0..K-1.
        right: `(D,)` bool.
        objects: `(K,)` int64, the number of objects of each class without crowds.
    """

    scores: np.ndarray
    labels: np.ndarray
    right: np.ndarray
    objects: np.ndarray

    @classmethod
    def of(cls, made: hotcoco.COCOeval, detections: np.ndarray, objects: np.ndarray) -> "Matches":
        """The matches of an `evaluator` of `detections` `(D', 7)`; without those that it does not count."""
        status: dict[int, str] = made.image_diagnostics(iou_thr=IOU)["dt_status"]
        rows = np.fromiter(status, np.int64, len(status)) - 1
        right = np.fromiter((word == "tp" for word in status.values()), bool, len(status))
        return cls(detections[rows, 5], detections[rows, 6].astype(np.int64), right, objects)


@dataclass
class Point:
    """A threshold, and what the detections of at least this score are worth.

    Attributes:
        threshold: the score.
        precision: the share of these detections that are right.
        recall: the share of the objects that they find.
        reached: whether the precision or recall that was wanted is reached.
    """

    threshold: float
    precision: float
    recall: float
    reached: bool = True

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return 2 * self.precision * self.recall / max(self.precision + self.recall, 1e-12)


def check_rule(rule: str | None) -> tuple[str, float] | None:
    """A rule as its name and the number that is wanted; none for no rule.

    Raises:
        UserError: there is no such rule.

    Example:
        >>> check_rule("f1"), check_rule("precision=0.9")
        (('f1', 1.0), ('precision', 0.9))
    """
    if rule is None:
        return None
    found = re.fullmatch(r"(f1)|(precision|recall)=(\d*\.?\d+)", rule) if isinstance(rule, str) else None
    wanted = float(found[3] or 1) if found else 2.0
    if found is None or not wanted <= 1:
        raise UserError(f"thresholds is {rule!r}; wanted {WANTED}, or null to choose none")
    return found[1] or found[2], wanted


def choose(matches: Matches, rule: str = "f1") -> dict[str, Any] | None:
    """The threshold of each class; none if nothing was found, so that there is nothing to choose by.

    `f1` takes the threshold of the best F1, `precision=P` the lowest with at least this precision, which finds most,
    and `recall=R` the highest with at least this recall, which is wrong least. Where the number is not reached, what
    comes nearest is taken. A class of fewer than 10 objects, or of which nothing was found, has the threshold of all
    classes together.

    Args:
        matches: which detections are right.
        rule: `f1`, `precision=P` or `recall=R`.

    Returns:
        `values`, K thresholds; `rule`; `all`, the threshold of all classes together; and for each class `precision`
        and `recall` (-1 without objects), `objects`, and whether the threshold is its `own`.

    Raises:
        UserError: there is no such rule.

    Example:
        >>> right = np.array([True, True, False])
        >>> found = Matches(np.array([0.9, 0.7, 0.5]), np.zeros(3, int), right, np.array([2]))
        >>> choose(found)["values"]
        [0.6]
    """
    name, wanted = check_rule(rule) or ("f1", 1.0)
    total = int(matches.objects.sum())
    everything = best_point(matches.scores, matches.right, total, name, wanted)
    if everything is None:
        return None
    values, rows, reached = [], [], [everything.reached]
    for k, count in enumerate(matches.objects.tolist()):
        mine = matches.labels == k
        own = best_point(matches.scores[mine], matches.right[mine], count, name, wanted) if count >= FEW else None
        point = own or at(matches.scores[mine], matches.right[mine], count, everything.threshold)
        values.append(point.threshold)
        rows.append((point.precision, point.recall, count, own is not None))
        reached += [own.reached] if own else []
    columns = dict(zip(("precision", "recall", "objects", "own"), map(list, zip(*rows))))
    return {"values": values, "rule": rule, "all": everything.threshold, "missed": reached.count(False), **columns}


def best_point(scores: np.ndarray, right: np.ndarray, objects: int, rule: str, wanted: float) -> Point | None:
    """The point of a curve of precision and recall that a rule takes; none if no detection is right.

    The threshold lies halfway to the next lower score, so that it does not hang on the last digit of a score.
    """
    if not right.any():
        return None
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(right[order])
    # equal scores stand or fall together
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    scores, found, count = scores[ends], found[ends], ends + 1
    precision, recall = found / count, found / objects
    if rule == "precision":
        good = np.flatnonzero(precision >= wanted)
        i = good[-1] if len(good) else np.flatnonzero(precision == precision.max())[-1]
    elif rule == "recall":
        good = np.flatnonzero(recall >= wanted)
        i = good[0] if len(good) else recall.argmax()
    else:
        good, i = [0], (2 * found / (count + objects)).argmax()
    below = scores[i + 1] if i + 1 < len(scores) else 0.0
    return Point(float(scores[i] + below) / 2, float(precision[i]), float(recall[i]), len(good) > 0)


def at(scores: np.ndarray, right: np.ndarray, objects: int, threshold: float) -> Point:
    """The point of a given threshold; precision and recall are -1 where there is nothing that they are a share of."""
    kept = right[scores >= threshold]
    precision = float(kept.mean()) if len(kept) else -1.0
    return Point(threshold, precision, float(kept.sum() / objects) if objects else -1.0)


def by_label(chosen: dict[str, Any], known: list[int], category_ids: list[int]) -> dict[str, Any]:
    """Thresholds of the classes of an annotation file as those of a model's labels.

    Args:
        chosen: what `choose` returns.
        known: the category ids of the annotation file, in the order of the thresholds.
        category_ids: those of the model, indexed by label; a class that the file lacks has no objects.
    """
    place = {number: k for k, number in enumerate(known)}
    absent = {"values": chosen["all"], "precision": -1.0, "recall": -1.0, "objects": 0, "own": False}
    columns = {
        name: [chosen[name][place[number]] if number in place else default for number in category_ids]
        for name, default in absent.items()
    }
    return {**chosen, **columns}


def print_thresholds(chosen: dict[str, Any], names: list[str], console: Console | None = None) -> None:
    """Print the thresholds that `choose` has chosen, of each class if these are few, and by what rule."""
    console = console or Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    pooled = [name for name, own in zip(names, chosen["own"]) if not own]
    if len(names) <= MOST_ROWS:
        table = Table("class", "threshold", "precision", "recall", "objects")
        columns = zip(names, *(chosen[key] for key in ("values", "precision", "recall", "objects")))
        for name, value, precision, recall, count in columns:
            shares = ("none" if share < 0 else f"{share:.3f}" for share in (precision, recall))
            table.add_row(name, f"{value:.3f}", *shares, str(count))
        console.print(table)
    by = "best F1" if chosen["rule"] == "f1" else chosen["rule"]
    line = f"thresholds {describe_threshold(chosen['values'])}, {by} at IoU {IOU} on the validation data"
    if pooled:
        why = f"they have fewer than {FEW} objects, or none was found"
        line += f"; {len(pooled)} of {len(names)} classes have that of all classes, {chosen['all']:.3f}: {why}"
    if chosen["missed"]:
        line += f"; {chosen['missed']} do not reach what was wanted, and have what comes nearest"
    console.print(line, markup=False)
