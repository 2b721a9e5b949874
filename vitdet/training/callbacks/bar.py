"""Progress of a run: a single bar for the entire training on a terminal, otherwise a line about every 30 seconds."""

import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from vitdet.training.progress import time_spent


def show(text: str) -> None:
    """Prints a line and flushes it, so that it appears immediately even where the output is a file.

    A line that can't be written, as where that file is on a full disk, is no reason to end a training.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        pass


def duration(seconds: float) -> str:
    """Formats a duration, such as `45 s`, `3 min 20 s` or `1 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def extent(trainer: L.Trainer) -> tuple[float, str]:
    """Returns the fraction of the training that is done and the total number of steps.

    The bound that ends the training first counts. The total is text: `900`, `~900` (an estimate) where time ends the
    training, or `?` where nothing bounds it. Unlike `vitdet.training.progress.update`, this function does not
    communicate with other ranks, so a single rank may call it.
    """
    # infinite for an endless data loader
    per_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
    planned = [trainer.max_steps] if trainer.max_steps > 0 else []
    planned += (
        [trainer.max_epochs * (math.ceil(per_epoch) if math.isfinite(per_epoch) else per_epoch)]
        if (trainer.max_epochs or 0) > 0
        else []
    )
    total = min(planned, default=float("inf"))
    done = min(1.0, trainer.global_step / total) if total > 0 else 1.0
    if (spent := time_spent(trainer) or 0.0) > done:
        done = min(1.0, spent)
        return done, f"~{round(trainer.global_step / done)}"
    return done, "?" if total == float("inf") else f"{int(total)}"


def _waited(trainer: L.Trainer) -> float | None:
    """The seconds that the training has waited for batches; `None` for loaders that do not measure it."""
    return getattr(trainer.train_dataloader, "waited", None)


def memory() -> str:
    """The memory that this process holds, and the most that it has held on the GPU, such as `memory 1.3+20.5 GB`."""
    try:
        held = [int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")]
    # not on Linux
    except (OSError, AttributeError):
        held = []
    if torch.cuda.is_initialized():
        held.append(torch.cuda.max_memory_allocated())
    return f"memory {'+'.join(f'{size / 1e9:.1f}' for size in held)} GB" if held else ""


class ProgressReport(L.Callback):
    """Shows the step, the loss, the score, images per second, the share of the time that the training has waited for
    data, the memory, the steps that were skipped, and the estimated time left.

    Args:
        every: Seconds between two lines where the output is not a terminal. The first lines come sooner.
    """

    def __init__(self, *, every: float = 30.0) -> None:
        self.every = every
        self._terminal = False
        self._bar: Progress | None = None
        self._stage: Any = None
        self._start, self._begin, self._due = 0.0, 0.0, 0.0
        self._images, self._since, self._validating, self._waited = 0, 0.0, 0.0, 0.0

    def _begin_at(self, done: float) -> None:
        # a bar that is shown redirects the standard output, which then is no terminal
        if self._bar is None:
            self._terminal = sys.stdout.isatty()
        self._start = self._since = time.monotonic()
        self._begin, self._images = done, 0
        self._due = self._start
        self._put_off()

    def _put_off(self) -> None:
        """Schedules the next report.

        On a terminal, reports are 0.5 seconds apart. Elsewhere they come after about 5, 10, 20, … seconds, and from
        then on every `every` seconds.
        """
        now = time.monotonic()
        gap = 0.5 if self._terminal else min(self.every, max(5.0, now - self._start))
        self._due = now + gap

    def _report(self, done: float, text: str) -> None:
        if not self._terminal:
            show(text)
        else:
            if self._bar is None:
                columns = (BarColumn(), TextColumn("{task.description}"))
                # a separate console: on rich's shared console, a bar that other code has not stopped would hide it
                self._bar = Progress(*columns, console=Console(), transient=True, refresh_per_second=2)
                self._stage = self._bar.add_task("", total=1.0)
                self._bar.start()
            self._bar.update(self._stage, completed=done, description=text, refresh=True)
        self._put_off()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin_at(extent(trainer)[0])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._images += len(batch[0]) * trainer.world_size
        now = time.monotonic()
        if now < self._due or not trainer.is_global_zero:
            return
        parts = []
        # reading the loss waits for the device, so this happens only when the loss is shown
        if outputs is not None:
            parts.append(f"loss {float(outputs['loss']) * trainer.accumulate_grad_batches:.4g}")
        score = getattr(pl_module, "main_score", None)
        if score in trainer.callback_metrics:
            parts.append(f"{score} {float(trainer.callback_metrics[score]):.4g}")
        done, total = extent(trainer)
        now = time.monotonic()
        spent = max(1e-9, now - self._since)
        parts.append(f"{self._images / spent:.3g} images/s")
        if (waited := _waited(trainer)) is not None:
            parts.append(f"data {min(1.0, max(0.0, waited - self._waited) / spent):.0%}")
            self._waited = waited
        parts += filter(None, [memory()])
        # of steps whose loss or gradients were not finite
        if skipped := sum(getattr(callback, "skipped", 0) for callback in trainer.callbacks):
            parts.append(f"skipped {skipped}")
        if done > self._begin:
            parts.append(f"ETA {duration((now - self._start) * (1 - done) / (done - self._begin))}")
        self._report(done, "  ".join([f"step {trainer.global_step}/{total}", *parts]))
        self._since, self._images = time.monotonic(), 0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validating = time.monotonic()
        if trainer.state.fn != "fit":
            self._begin_at(0.0)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # images/s count the training only
        self._since += time.monotonic() - self._validating
        if trainer.state.fn != "fit":
            self._stop()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin_at(0.0)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if not trainer.sanity_checking:
            self._evaluated(trainer, "validating", batch_idx + 1, sum(trainer.num_val_batches))

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._evaluated(trainer, "testing", batch_idx + 1, sum(trainer.num_test_batches))

    def _evaluated(self, trainer: L.Trainer, verb: str, batches: int, total: float) -> None:
        if time.monotonic() < self._due or not trainer.is_global_zero:
            return
        done = extent(trainer)[0] if trainer.state.fn == "fit" else batches / total
        self._report(done, f"{verb}, batch {batches}/{total}")

    def _stop(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    on_train_end = on_test_end = on_exception = _stop
