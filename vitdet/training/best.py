"""`best.ckpt`: the weights with the best score so far, and what may be the score."""

import difflib
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from vitdet.data import ImageData
from vitdet.errors import UserError
from vitdet.metrics import create_metric
from vitdet.metrics.average_precision import ABSENT
from vitdet.zoo.files import read_checkpoint


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt` in the run folder: the weights with the best `monitor` so far; by default the first score of the head's metric.

    The best score belongs to the run, wherever its folder is moved. A score of -1, where there is nothing to find, or NaN is no best.
    """

    state_key = "BestCheckpoint"  # Lightning's holds `monitor`, which may not be known yet when a run goes on

    def __init__(self, *, monitor: str | None = None, mode: str = "max") -> None:
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            enable_version_counter=False,
            save_last=False,
            save_on_train_epoch_end=False,  # but only after a validation
        )
        self._warned = False
        self._given = monitor

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        folder = str(trainer.run_folder) if stage == "fit" else None
        if folder is not None and self.dirpath not in (None, folder):  # this trainer goes on with another run
            self.best_model_score, self.best_model_path, self.best_k_models = None, "", {}
        self.dirpath = folder

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._given is None:
            return
        if self._given.endswith("loss") and self.mode == "max":
            raise UserError(
                f"monitor is {self._given!r} and mode is 'max', which keeps the worst; set trainer.mode to min"
            )
        known = _scores(pl_module, trainer.datamodule)
        if known and self._given not in known and not self._given.startswith("train/"):
            raise UserError(_unknown(self._given, known))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "mode": self.mode}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The best score of a run that goes on, unless it is now chosen by another one, or `best.ckpt` is not there."""
        if self.dirpath is None:  # nothing is trained
            return
        self.monitor = self._given or state_dict["monitor"]
        file = Path(self.dirpath) / "best.ckpt"
        if state_dict["best_model_score"] is None or not worth(state_dict["best_model_score"], self.monitor):
            return
        if (self.monitor, self.mode) != (state_dict["monitor"], state_dict["mode"]):
            was = f"{state_dict['mode']} {state_dict['monitor']}"
            rank_zero_info(f"best.ckpt is chosen by {self.mode} {self.monitor} from now on, no longer by {was}")
        elif not file.is_file():
            rank_zero_info(f"there is no best.ckpt in {self.dirpath}: the best score starts anew")
        else:
            score = self._better(state_dict["best_model_score"], file)
            path = str(file)
            own = {"best_model_score": score, "kth_value": score, "best_k_models": {path: score}}
            paths = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path}
            super().load_state_dict({**state_dict, **own, **paths})

    def _better(self, score: torch.Tensor, file: Path) -> torch.Tensor:
        """The score of `best.ckpt`, which may have been written after the checkpoint that the run goes on from."""
        try:
            own = read_checkpoint(file)["callbacks"][self.state_key]
        except (UserError, KeyError):
            return score
        if (own["monitor"], own.get("mode")) != (self.monitor, self.mode) or own["best_model_score"] is None:
            return score
        return (max if self.mode == "max" else min)(score.cpu(), own["best_model_score"].cpu())

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        logged = sorted(key for key in trainer.callback_metrics if key.startswith(("val/", "train/")))
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.monitor = self.monitor or pl_module.main_score
        if self.monitor is None:  # the head is not scored, and there is no best
            return
        if self.monitor not in logged:
            raise UserError(_unknown(self.monitor, logged))
        score = trainer.callback_metrics[self.monitor]
        if worth(score, self.monitor):
            super().on_validation_end(trainer, pl_module)
        elif not self._warned:
            self._warned = True
            why = "the validation data has no such object" if score == ABSENT else "which is no score"
            rank_zero_info(
                f"nothing to score in val: {self.monitor} is {float(score):g}, {why}; there is no best.ckpt of it"
            )


def worth(score: torch.Tensor | float, name: str) -> bool:
    """Whether a score says how good a model is: it is finite, and not COCO's -1 for "nothing to find"."""
    value = float(score)
    return torch.isfinite(torch.tensor(value)).item() and not (value == ABSENT and name.startswith("val/"))


def _scores(task: L.LightningModule, data: Any) -> list[str]:
    """The names that a validation will log, or nothing where they are not known before: where the data or the metric are the user's own."""
    metric = task.head.metric(data) if isinstance(data, ImageData) and "val" in data.splits else None
    if not isinstance(metric, str):
        return []
    metric = create_metric(metric, data)
    metric.seen_only = True  # of no image at all
    return [f"val/{name}" for name in metric.compute()]


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:3]
    rest = [one for one in known if "/" not in one.removeprefix("val/")]
    return f"monitor is {name!r}, which nothing logs; did you mean {' or '.join(near)}? there are {', '.join(rest)} and one for each class"
