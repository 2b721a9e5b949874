"""Task, trainer, optimiser groups, weight average, checkpoints."""

from vitdet.training.callbacks.ema import EMA
from vitdet.training.task import Task
from vitdet.training.trainer import Trainer

__all__ = ["EMA", "Task", "Trainer"]
