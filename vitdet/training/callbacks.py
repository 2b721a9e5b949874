"""What a run shows: a progress bar, pictures of its predictions, and a summary."""

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from rich.console import Console
from rich.table import Table


class ProgressBar(RichProgressBar):
    """The loss and the validation score, without the run's version number."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=5)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class Pictures(L.Callback):
    """Draws the predictions on the first `count` validation images, into `folder/pictures` and TensorBoard."""

    def __init__(self, folder: str | Path, count: int = 4, *, threshold: float = 0.3) -> None:
        self.folder, self.count, self.threshold = Path(folder) / "pictures", count, threshold


class Summary(L.Callback):
    """A line after each validation, a table at the end, and what to run next."""

    def __init__(self) -> None:
        self.console = Console(soft_wrap=True, highlight=False)
        self._started = time.monotonic()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        shown = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(("train/loss", "val/"))}
        scores = "  ".join(f"{key} {value:.4g}" for key, value in list(shown.items())[:4])
        minutes = (time.monotonic() - self._started) / 60
        self.console.print(f"epoch {trainer.current_epoch}  step {trainer.global_step}  {scores}  {minutes:.1f} min")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        best = next(
            (c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.best_model_path), None
        )
        minutes = (time.monotonic() - self._started) / 60
        self.console.print(scores_table(trainer, pl_module, "val", f"last validation, after {minutes:.1f} minutes"))
        if best is not None:
            self.console.print(f"best {best.monitor} {float(best.best_model_score):.4f}: {best.best_model_path}")
            self.console.print(f"Next: vitdet predict {best.best_model_path} IMAGE")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.console.print(scores_table(trainer, pl_module, "test", "test"))


def scores_table(trainer: L.Trainer, task: L.LightningModule, split: str, title: str) -> Table:
    """All scores that were logged for `split`, in the metric's order."""
    table = Table("score", "value", title=title)
    for key, value in trainer.callback_metrics.items():
        if key.startswith(f"{split}/"):
            table.add_row(key.removeprefix(f"{split}/"), f"{float(value):.4f}")
    return table
