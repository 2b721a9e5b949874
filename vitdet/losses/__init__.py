"""Losses, and the assignment of predictions to objects."""

from vitdet.losses.assign import assign, assign_aligned, match
from vitdet.losses.detection import ClassLoss, Objects, box_losses, classification_loss, mean_over_ranks, set_losses

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
