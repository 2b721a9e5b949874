"""Training: the task, the trainer, the parameter groups of the optimiser, the weight average and the checkpoints."""

from vitdet.training.callbacks.ema import EMA
from vitdet.training.task import Task
from vitdet.training.trainer import Trainer

__all__ = ["EMA", "Task", "Trainer"]
