"""Scores above which a detection counts: a single score for all classes, or one for each class.

T is the number of detections of an image and K of classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vitdet.errors import UserError, check

# the score that a detection must have to be shown, counted and returned, where none was chosen on validation data
THRESHOLD = 0.3

Threshold = float | Sequence[float]
"""A score from 0 to 1 for all classes, or a list of K scores, indexed by label."""


def check_threshold(value: Threshold, *, classes: int | None = None) -> None:
    """Checks a threshold.

    Args:
        value: the threshold.
        classes: K, the number of scores that a list must have; by default any number.

    Raises:
        UserError: `value` is neither a score from 0 to 1 nor a list of such scores, or a list of another length.
    """
    numbers = _listed(value)
    if numbers is None:
        check("threshold", value, _is_score(value), "a score from 0 to 1, or a list with a score for each class")
        return
    for number in numbers:
        check("threshold of a class", number, _is_score(number), "a score from 0 to 1")
    if classes is not None and len(numbers) != classes:
        found = f"threshold has {len(numbers)} scores"
        raise UserError(f"{found}; wanted one for each of the {classes} classes, or a number")


def reach(scores: Tensor, labels: Tensor, threshold: Threshold) -> Tensor:
    """Which detections have at least the threshold of their class.

    Args:
        scores: `(T,)` float in [0, 1].
        labels: `(T,)` int64, classes 0..K-1.
        threshold: a score, or K scores.

    Returns:
        `(T,)` bool.

    Raises:
        UserError: the threshold is not valid, or there is none for a label.

    Example:
        >>> reach(torch.tensor([0.5, 0.5]), torch.tensor([0, 1]), [0.6, 0.4]).tolist()
        [False, True]
    """
    check_threshold(threshold)
    numbers = _listed(threshold)
    if numbers is None:
        return scores >= float(threshold)  # pyright: ignore[reportArgumentType]
    if len(labels) and int(labels.max()) >= len(numbers):
        raise UserError(f"threshold has {len(numbers)} scores, and there is a detection of label {int(labels.max())}")
    # the type of the scores: a threshold that equals a score must keep it
    limits = torch.tensor([float(number) for number in numbers], dtype=scores.dtype, device=scores.device)
    return scores >= limits[labels]


def describe_threshold(threshold: Threshold) -> str:
    """A threshold in a few characters: the score, or the lowest and the highest score of the classes.

    Example:
        >>> describe_threshold(0.3), describe_threshold([0.25, 0.5, 0.4])
        ('0.3', '0.25 to 0.5 by class')
    """
    numbers = _listed(threshold)
    values = [float(number) for number in ([threshold] if numbers is None else numbers)]  # pyright: ignore
    if not values or min(values) == max(values):
        return f"{values[0] if values else THRESHOLD:.3g}"
    return f"{min(values):.3g} to {max(values):.3g} by class"


def _listed(value: Any) -> list[Any] | None:
    """The scores of a list, a tuple or an array; none for a single score."""
    return list(value) if isinstance(value, (list, tuple)) or getattr(value, "ndim", None) == 1 else None


def _is_score(value: Any) -> bool:
    # numbers of Python, NumPy or PyTorch
    number = isinstance(value, (int, float)) or getattr(value, "ndim", None) == 0
    return number and bool(0 <= value <= 1)
