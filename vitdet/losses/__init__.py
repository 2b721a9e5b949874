"""Losses and the assignment of predictions to objects: pure functions."""

from vitdet.losses.assign import assign_aligned
from vitdet.losses.boxes import box_losses
from vitdet.losses.classification import ClassLoss, classification_loss
from vitdet.losses.detection import Objects, mean_over_ranks, set_losses
from vitdet.losses.matcher import assign, match

__all__ = [
    "ClassLoss",
    "Objects",
    "assign",
    "assign_aligned",
    "box_losses",
    "classification_loss",
    "match",
    "mean_over_ranks",
    "set_losses",
]
