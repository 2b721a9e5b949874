"""Lightning's Trainer with what vitdet trains with by default, the same from YAML and from Python."""

import atexit
import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from vitdet.training.callbacks import FinalValidation, Pictures, ProgressBar, Summary
from vitdet.training.checkpoint import BestCheckpoint, LastCheckpoint, StepSeed
from vitdet.training.ema import EMA


@atexit.register
def _leave_gloo() -> None:
    """Threads of gloo that outlive the interpreter abort the process, now and then, after all is done."""
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()


class Trainer(L.Trainer):
    """Lightning's `Trainer`; every argument of it works here too, and `callbacks` and `logger` add to the ones below.

    On by default: an average of the weights, `best.ckpt` and `last.ckpt`, metrics as CSV and for TensorBoard, a progress bar, pictures of
    predictions, and a summary at the end. All of it goes to `root/name/version_N`.

    Args:
        name: Of the run; the command line takes that of the config.
        root: The folder of all runs.
        version: Number of the run, or the next free one.
        ema: Decay of the weight average; 0 trains without.
        monitor: What `best.ckpt` is chosen by; by default the first score of the head's metric: `val/AP`, `val/mIoU`, `val/PQ`.
        mode: Whether more of it is better ("max") or less ("min").
        pictures: How many validation images to draw predictions on.
        progress: Whether to show a progress bar; by default where the output is a terminal.
    """

    def __init__(
        self,
        *,
        name: str = "default",
        root: str | Path = "runs",
        version: int | None = None,
        ema: float = 0.999,
        monitor: str | None = None,
        mode: str = "max",
        pictures: int = 4,
        progress: bool | None = None,
        max_epochs: int | None = None,
        max_steps: int = -1,
        max_time: str | timedelta | dict[str, int] | None = None,
        gradient_clip_val: float | None = 1.0,
        log_every_n_steps: int = 10,
        callbacks: list[L.Callback] | L.Callback | None = None,
        logger: Logger | Iterable[Logger] | bool = True,
        **kwargs: Any,
    ) -> None:
        progress = sys.stdout.isatty() if progress is None else progress
        self.run_folder = run_folder(root, name, version)
        extra = [] if callbacks is None else callbacks if isinstance(callbacks, list) else [callbacks]
        ours: list[L.Callback] = [StepSeed()]
        if max_time is not None:  # here rather than by Lightning, so that the last validation comes after it
            ours.append(Timer(max_time))
        if ema:
            ours.append(EMA(ema))
        if pictures:
            ours.append(Pictures(self.run_folder, pictures))
        if progress:
            ours.append(ProgressBar())
        best = BestCheckpoint(self.run_folder, monitor=monitor, mode=mode)
        ours += [FinalValidation(), Summary(), best, LastCheckpoint(self.run_folder)]
        super().__init__(
            max_epochs=max_epochs,
            max_steps=max_steps,
            gradient_clip_val=gradient_clip_val,
            log_every_n_steps=log_every_n_steps,
            callbacks=[*ours, *extra],
            logger=self._loggers(logger),
            enable_progress_bar=progress,
            enable_model_summary=False,
            use_distributed_sampler=False,  # ours shard the data themselves: no image twice in evaluation
            **kwargs,
        )

    def _loggers(self, logger: Logger | Iterable[Logger] | bool) -> list[Logger]:
        if logger is False:
            return []
        place = {"name": self.run_folder.parent.name, "version": self.run_folder.name}
        root = self.run_folder.parent.parent
        earlier = self.run_folder / "metrics.csv"
        if earlier.exists():  # of a run that goes on; the logger would delete it
            earlier.rename(earlier.with_name(f"metrics_{len(list(self.run_folder.glob('metrics_*.csv')))}.csv"))
        ours = [TensorBoardLogger(root, **place), CSVLogger(root, **place)]
        return ours + ([] if logger is True else [logger] if isinstance(logger, Logger) else list(logger))


def run_folder(root: str | Path, name: str, version: int | None = None) -> Path:
    """`root/name/version_N`, where N is `version` or the next free number."""
    taken = runs(root, name)
    free = int(taken[-1].name.removeprefix("version_")) + 1 if taken else 0
    return Path(root) / name / f"version_{free if version is None else version}"


def runs(root: str | Path, name: str) -> list[Path]:
    """The run folders of `name`, oldest first."""
    folders = [f for f in (Path(root) / name).glob("version_*") if f.name.removeprefix("version_").isdigit()]
    return sorted(folders, key=lambda f: int(f.name.removeprefix("version_")))
