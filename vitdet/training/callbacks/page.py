"""The report of a run, `report.html`: what its best validation found, and how it was trained."""

import contextlib
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist

from vitdet import __version__
from vitdet.data import ImageData
from vitdet.metrics import CocoMetric, Metric
from vitdet.report.album import Album
from vitdet.report.instances import InstanceReport
from vitdet.report.maps import KeptMaps
from vitdet.report.panoptic import PanopticReport
from vitdet.report.run import Run, partly, read_history
from vitdet.report.semantic import SemanticReport
from vitdet.report.write import write_report
from vitdet.training.callbacks.bar import duration, show
from vitdet.training.callbacks.best import BestCheckpoint, worth
from vitdet.training.recipe import recipe

# of so many images a report counts the detections
MOST = 2000


@dataclass
class Validation:
    """A validation that is reported: the metric with what was found, and the scores.

    Attributes:
        metric: the metric, which still has all predictions of this process.
        maps: the maps of semantic and panoptic predictions.
        scores: the scores by name.
        when: which step and epoch it was.
        score: what the best is chosen by.
        thresholds: what it chose, see `Thresholds`.
    """

    metric: Metric
    maps: Any
    scores: Mapping[str, float]
    when: str
    score: float | None
    thresholds: Mapping[str, Any] | None


class Report(L.Callback):
    """Writes `report.html` to the run folder after a training, about its best validation.

    A report that can't be written is no reason to fail: a line says why.

    Args:
        path: the file; by default `report.html` in the run folder.
        validated: whether a validation without training is reported, too.
    """

    def __init__(self, path: str | Path | None = None, *, validated: bool = False) -> None:
        self.path, self.validated = path, validated
        self.figures: dict[str, Any] = {}
        self._best: Validation | None = None
        self._maps: Any = None
        self._tick = self._began = 0.0
        self._found: Any = None
        self._failed = ""

    # ---- speed and memory

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        known = self.figures
        self.figures = {
            "seconds": 0.0,
            "images": 0,
            "val_seconds": 0.0,
            "val_images": 0,
            "command": _command(),
            **known,
        }
        self._tick, self._best, self._found, self._failed = time.monotonic(), None, None, ""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        now = time.monotonic()
        self.figures["seconds"] += now - self._tick
        self.figures["images"] += _count(batch) * trainer.world_size
        self._tick = now

    # ---- what was found

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began, self._maps = time.monotonic(), KeptMaps()
        if self.validated:
            self.figures |= {"val_seconds": 0.0, "val_images": 0}

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if not trainer.sanity_checking and isinstance(outputs, list):
            self._maps.add(outputs)
            self.figures["val_images"] = self.figures.get("val_images", 0) + len(outputs) * trainer.world_size

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now = time.monotonic()
        if trainer.sanity_checking:
            self._tick = now
            return
        self.figures["val_seconds"] = self.figures.get("val_seconds", 0.0) + now - self._began
        # of a validation alone, the figures of the training say more
        self.figures = {**_device(trainer), **self.figures} if self.validated else {**self.figures, **_device(trainer)}
        self._tick = now
        task: Any = pl_module
        if isinstance(metric := task.metric("val"), Metric) and isinstance(_data(trainer), ImageData):
            self._keep(trainer, task, metric)
        if self.validated and trainer.state.fn == "validate":
            self._gather(trainer)
            self._write(trainer, pl_module)

    def _keep(self, trainer: L.Trainer, task: Any, metric: Metric) -> None:
        """Keeps this validation if it is the best so far."""
        best = _checkpoint(trainer)
        key: str | None = (best.monitor if best is not None else None) or task.main_score
        score = trainer.callback_metrics.get(key) if key else None
        score = float(score) if score is not None and key is not None and worth(score, key) else None
        sign = -1 if best is not None and best.mode == "min" else 1
        known = self._best.score if self._best is not None else None
        if known is not None and (score is None or sign * score <= sign * known):
            return
        scores = {k.removeprefix("val/"): float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        when = f"step {trainer.global_step}, epoch {trainer.current_epoch}"
        self._best = Validation(metric, self._maps, scores, when, score, getattr(task, "thresholds", None))

    # ---- the page

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._gather(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        best, run = _checkpoint(trainer), getattr(trainer, "run_folder", None)
        if self._best is not None or best is None or run is None or not trainer.is_global_zero:
            self._write(trainer, pl_module)
        # the training was over, but was killed before it wrote its report
        elif Path(best.best_model_path).is_file() and not (run / "report.html").exists():
            show(f"there is no report of this run; vitdet report {best.best_model_path} writes one")

    def _gather(self, trainer: L.Trainer) -> None:
        """Brings what all processes have found together; every process calls it."""
        if self._best is None:
            return
        metric = self._best.metric
        if isinstance(metric, CocoMetric):
            self._found = metric.detections()
            return
        parts: list[Any] = [self._best.maps]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            dist.all_gather_object(parts, self._best.maps)
        self._found = parts[0].join(parts[1:])

    def _write(self, trainer: Any, task: Any) -> None:
        if self._best is None or not trainer.is_global_zero:
            return
        path = Path(self.path) if self.path is not None else trainer.run_folder / "report.html"
        began = time.monotonic()
        try:
            self._page(path, trainer, task, self._best)
        # whatever it is, the training matters more
        except Exception as error:
            if self.validated:
                raise
            show(f"no report is written: {type(error).__name__}: {error}")
        else:
            show(f"report: {path} ({duration(time.monotonic() - began)})")
        finally:
            self._best = self._found = None

    def _page(self, path: Path, trainer: Any, task: Any, best: Validation) -> None:
        data, metric = _data(trainer), best.metric
        folder = trainer.tested_folder if self.validated else trainer.run_folder
        title = "/".join(Path(folder).absolute().parts[-2:]) if folder else type(task.head).__name__
        scored = f"{type(task.head).__name__} on {type(task.backbone).__name__}"
        scored += ", scored on the validation images" if self.validated else f", best validation: {best.when}"
        how = f"{metric.protocol()}, {recipe(task)}"
        run = Run(title, scored, best.scores, how, self.figures.get("command", ""))
        run.history = read_history(folder) if folder else {}
        run.figures = _figures(self.figures)
        run.notes += _earlier(_checkpoint(trainer), best)
        album = Album(data, "val")
        if isinstance(metric, CocoMetric):
            seen, rows, masks = self._found
            run.thresholds, run.rule = _thresholds(best, metric.truth.category_ids, task.category_ids)
            images = _some(seen if metric.seen_only else np.arange(len(metric.truth)), run)
            found = InstanceReport(metric.truth, rows, images=images, album=album, run=run, masks=masks or None)
        elif self._found.labels:
            found = PanopticReport(self._found, data.truth("val"), data.classes, data.things, album=album, run=run)
        else:
            found = SemanticReport(self._found, data.truth("val"), data.classes, album=album, run=run)
        write_report(path, run, found)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.figures)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.figures = dict(state_dict)


def _checkpoint(trainer: L.Trainer) -> Any:
    """The callback that keeps the best checkpoint; `None` if there is none."""
    return next((one for one in trainer.checkpoint_callbacks if isinstance(one, BestCheckpoint)), None)


def _earlier(kept: Any, best: Validation) -> list[str]:
    """A line where the best validation of the run is not this one, since it was before the run was resumed."""
    if kept is None or kept.best_model_score is None:
        return []
    score = float(kept.best_model_score)
    if best.score is None or (score <= best.score if kept.mode == "max" else score >= best.score):
        return []
    return [
        f"The best validation of the run, {kept.monitor} {score:.4f}, was before it was resumed; this page is about "
        f"the best one since. vitdet report {kept.best_model_path} makes a page about the other."
    ]


def _data(trainer: Any) -> Any:
    return getattr(trainer, "datamodule", None)


def _some(images: np.ndarray, run: Any) -> np.ndarray:
    """At most `MOST` images, evenly spread, with a note on the page if that are not all."""
    if len(images) <= MOST:
        return images
    run.notes.append(partly(MOST, len(images)))
    return images[np.linspace(0, len(images) - 1, MOST).round().astype(int)]


def _thresholds(best: Validation, known: list[int], category_ids: list[int]) -> tuple[list[float] | None, str]:
    """The chosen thresholds of the classes of the annotation file, and how they were chosen; `None` if not of all.

    Args:
        best: the validation.
        known: the category ids of the file.
        category_ids: those of the model, by label.
    """
    place = {number: label for label, number in enumerate(category_ids)}
    if best.thresholds is None or not all(number in place for number in known):
        return None, ""
    values = best.thresholds["values"]
    return [
        float(values[place[number]]) for number in known
    ], f"chosen on validation data by the rule {best.thresholds['rule']}"


def _command() -> str:
    """The command line of this process, where it is one of vitdet's."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    words = ["vitdet", *sys.argv[1:]] if name in ("vitdet", "__main__.py") else ["python", *sys.argv]
    return shlex.join(words)


def _count(batch: Any) -> int:
    return len(batch[0]) if isinstance(batch, (list, tuple)) and isinstance(batch[0], Sequence) else 0


def _device(trainer: L.Trainer) -> dict[str, Any]:
    """The device, and the most memory that was used so far, in bytes."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "memory": torch.cuda.max_memory_allocated(device)}
    known: dict[str, Any] = {"device": device.type}
    # Windows has no such module
    with contextlib.suppress(ImportError):
        import resource

        # in KiB on Linux, in bytes on macOS
        unit = 1 if sys.platform == "darwin" else 1024
        known["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return known


def _figures(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of speed and memory, in words."""
    rows = [("vitdet, torch", f"{__version__}, {torch.__version__}"), ("device", str(known.get("device", "")))]
    for name, seconds, images in (("training", "seconds", "images"), ("validation", "val_seconds", "val_images")):
        if known.get(seconds) and known.get(images):
            speed = f"{known[images] / known[seconds]:.1f} images/s"
            rows.append((name, f"{known[images]:,} images in {duration(known[seconds])}: {speed}"))
    if known.get("memory"):
        where = "of the process" if known.get("device") == "cpu" else "allocated on the device"
        rows.append(("most memory", f"{known['memory'] / 2**30:.2f} GiB {where}"))
    return rows
