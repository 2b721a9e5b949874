"""Callbacks of `Trainer`: the weight average, checkpoints, progress, pictures of predictions and a summary."""

from vitdet.training.callbacks.bar import ProgressReport
from vitdet.training.callbacks.best import BestCheckpoint, CheckMonitors
from vitdet.training.callbacks.ema import EMA
from vitdet.training.callbacks.events import RunEvents
from vitdet.training.callbacks.finite import DivergedError, SkippedSteps
from vitdet.training.callbacks.global_batch import GlobalBatch
from vitdet.training.callbacks.last import LastCheckpoint
from vitdet.training.callbacks.page import Report
from vitdet.training.callbacks.report import FinalValidation, Pictures, Summary
from vitdet.training.callbacks.samples import FirstBatches
from vitdet.training.callbacks.seed import StepSeed
from vitdet.training.callbacks.thresholds import Thresholds

__all__ = [
    "EMA",
    "BestCheckpoint",
    "CheckMonitors",
    "DivergedError",
    "FinalValidation",
    "FirstBatches",
    "GlobalBatch",
    "LastCheckpoint",
    "Pictures",
    "ProgressReport",
    "Report",
    "RunEvents",
    "SkippedSteps",
    "StepSeed",
    "Summary",
    "Thresholds",
]
