"""`best.ckpt`, the checkpoint with the best score so far, and checks of the score that it is chosen by."""

import difflib
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from vitdet.checkpoint import Checkpoint
from vitdet.data import ImageData
from vitdet.errors import UserError
from vitdet.metrics import create_metric
from vitdet.metrics.average_precision import ABSENT


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt` in the run folder: the checkpoint with the best score so far.

    The best score belongs to the run, even if its folder is moved. NaN, or COCO's -1 for a class without objects, never
    counts as the best score.

    Args:
        monitor: Name of the score. By default the first score of the head's metric.
        mode: Whether a higher score is better ("max") or a lower score ("min").
    """

    # Lightning's key contains `monitor`, which may not be known yet when a run is resumed
    state_key = "BestCheckpoint"

    def __init__(self, *, monitor: str | None = None, mode: str = "max") -> None:
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            enable_version_counter=False,
            save_last=False,
            # saving happens after a validation only
            save_on_train_epoch_end=False,
        )
        self._warned = False
        self._given = monitor

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        folder = str(trainer.run_folder) if stage == "fit" else None
        # this trainer now trains another run
        if folder is not None and self.dirpath not in (None, folder):
            self.best_model_score, self.best_model_path, self.best_k_models = None, "", {}
        self.dirpath = folder

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "mode": self.mode}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best score of a resumed run.

        It starts anew if `best.ckpt` is missing, or is now chosen by another score or mode.
        """
        # no training, so there is no run folder
        if self.dirpath is None:
            return
        self.monitor = self._given or state_dict["monitor"]
        file = Path(self.dirpath) / "best.ckpt"
        known = state_dict["best_model_score"]
        if known is not None and not worth(known, self.monitor):
            known = None
        if known is not None and (self.monitor, self.mode) != (state_dict["monitor"], state_dict["mode"]):
            was = f"{state_dict['mode']} {state_dict['monitor']}"
            rank_zero_info(f"best.ckpt is chosen by {self.mode} {self.monitor} from now on, no longer by {was}")
        elif known is not None and not file.is_file():
            rank_zero_info(f"there is no best.ckpt in {self.dirpath}: the best score starts anew")
        elif (score := self._better(known, file)) is not None:
            path = str(file)
            restored = {"best_model_score": score, "kth_value": score, "best_k_models": {path: score}}
            paths = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path}
            super().load_state_dict({**state_dict, **restored, **paths})
            self.current_score = score

    def _better(self, score: torch.Tensor | None, file: Path) -> torch.Tensor | None:
        """Returns the better of `score`, if there is one, and the score of `best.ckpt`.

        `best.ckpt` may have been written after the checkpoint that the run is resumed from.
        """
        try:
            state = Checkpoint.read(file).callback(self.state_key)
        except (UserError, FileNotFoundError):
            return score
        other = state["best_model_score"] if state is not None else None
        if state is None or other is None:
            return score
        # before the first validation, the name of the score may not be known
        self.monitor = self.monitor or state["monitor"]
        if (state["monitor"], state.get("mode")) != (self.monitor, self.mode):
            return score
        return other if score is None else (max if self.mode == "max" else min)(score.cpu(), other.cpu())

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        logged = sorted(key for key in trainer.callback_metrics if key.startswith(("val/", "train/")))
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.monitor = self.monitor or pl_module.main_score
        # the head has no metric, so there is no best checkpoint
        if self.monitor is None:
            return
        if self.monitor not in logged:
            raise UserError(_unknown(self.monitor, logged))
        score = trainer.callback_metrics[self.monitor]
        if worth(score, self.monitor):
            before = {**vars(self), "best_k_models": dict(self.best_k_models)}
            super().on_validation_end(trainer, pl_module)
            # the best is what the file holds
            if "best.ckpt" in getattr(trainer, "unsaved", ()):
                vars(self).update(before)
        elif not self._warned:
            self._warned = True
            why = "the validation data has no such object" if score == ABSENT else "which is no score"
            rank_zero_info(
                f"nothing to score in val: {self.monitor} is {float(score):g}, {why}; there is no best.ckpt of it"
            )


class CheckMonitors(L.Callback):
    """Checks at the start of training what `best.ckpt`, each `ModelCheckpoint` and each `EarlyStopping` monitor.

    A score that is never logged, or a mode that keeps the worst score, would otherwise be noticed only after hours.

    Raises:
        UserError: a monitored score is unknown, its mode is the wrong way round, or there is no validation to log it.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        watching = [
            callback for callback in trainer.callbacks if isinstance(callback, (ModelCheckpoint, EarlyStopping))
        ]
        if all(callback.monitor is None and callback.mode == "max" for callback in watching):
            return
        known = _scores(pl_module, trainer.datamodule)
        for callback in watching:
            name = (
                callback.monitor or next(iter(known), None)
                if isinstance(callback, BestCheckpoint)
                else callback.monitor
            )
            if name is None:
                continue
            of = "" if isinstance(callback, BestCheckpoint) else f"{type(callback).__name__}: "
            needed = bool(known) and getattr(callback, "strict", True)
            if needed and name not in known and not _may_log(trainer, pl_module, name):
                raise UserError(of + _unknown(name, known))
            right = "min" if name.endswith("loss") else "max" if name in known else callback.mode
            if callback.mode != right:
                more = "more" if right == "max" else "less"
                fault = f"{of}monitor is {name!r} and mode is {callback.mode!r}, which takes the worst for the best"
                raise UserError(f"{fault}; {more} of it is better: set {'' if of else 'trainer.'}mode to {right}")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for callback in trainer.callbacks:
            waits = isinstance(callback, (ModelCheckpoint, EarlyStopping)) and not isinstance(callback, BestCheckpoint)
            if waits and (callback.monitor or "").startswith("val/") and not validates(trainer):
                raise UserError(
                    f"{type(callback).__name__}: monitor is {callback.monitor!r}, but nothing is validated; "
                    "give data.val, or leave that callback out"
                )


def validates(trainer: L.Trainer) -> bool:
    """Whether there is validation data, as far as is known when training starts."""
    known = trainer.val_dataloaders is not None
    return trainer.enable_validation and not (known and sum(trainer.num_val_batches) == 0)


def worth(score: torch.Tensor | float, name: str) -> bool:
    """Whether a score measures the model: it is finite, and not COCO's -1 for "there is no such object"."""
    value = float(score)
    return torch.isfinite(torch.tensor(value)).item() and not (value == ABSENT and name.startswith("val/"))


def _scores(task: L.LightningModule, data: Any) -> list[str]:
    """Returns the names of the scores that a validation will log.

    The list is empty where they are not known in advance: for data or a metric that the user has written.
    """
    known = isinstance(data, ImageData) and "val" in data.splits and task.head.predicts is not None
    if not known or task.head.metric(data) is not None:
        return []
    # computed over no images: only the names are needed
    metric = create_metric(task.head.predicts, data, seen_only=True)
    return [f"val/{name}" for name in metric.compute()]


def _may_log(trainer: L.Trainer, task: L.LightningModule, name: str) -> bool:
    """Whether `name` may be logged by training or by code that the user has written, not by vitdet's validation."""
    if name.startswith("train/") or name == "lr" or not type(task).__module__.startswith("vitdet."):
        return True
    others = [
        type(callback)
        for callback in trainer.callbacks
        if not type(callback).__module__.startswith(("vitdet.", "lightning."))
    ]
    return any(
        not name.startswith("val") or any(key.startswith("on_validation") for key in vars(callback))
        for callback in others
    )


def _unknown(name: str, known: list[str]) -> str:
    if "loss" in name:
        score = next((key for key in known if key.startswith("val/")), "val/AP")
        return (
            f"monitor is {name!r}, which nothing logs; a validation gives no loss: wanted {score} with mode max, "
            "or train/loss with mode min"
        )
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:3]
    rest = [key for key in known if key.startswith("val/") and "/" not in key.removeprefix("val/")]
    there = f"there are {', '.join(rest)} and one for each class" if rest else "nothing is scored on val"
    return f"monitor is {name!r}, which nothing logs; did you mean {' or '.join(near)}? {there}"
