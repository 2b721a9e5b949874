"""The loggers of a run, for TensorBoard and `metrics.csv`, and how a resumed run goes on with what they wrote."""

import csv
import io
import os
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_info
from tensorboard.compat.proto import event_pb2
from torch import Tensor

from vitdet.atomic import replace
from vitdet.training.forgiving import Forgiving, ForgivingWriter, append

NAME = "metrics.csv"


class _Writer(TensorBoardLogger):
    """Lightning's TensorBoard logger, which writes no `hparams.yaml` here if there are no hyperparameters."""

    def save(self) -> None:
        if self.hparams:
            super().save()
        else:
            super(TensorBoardLogger, self).save()


class TensorBoard(ForgivingWriter, _Writer):
    """TensorBoard's logger of a run, which may be resumed."""

    def resume(self, step: int) -> None:
        """Lets TensorBoard forget what was logged for `step` and later steps, which a resumed run logs again."""
        events: Any = event_pb2
        start = events.Event(step=step, session_log=events.SessionLog(status=events.SessionLog.START))
        self.experiment._get_file_writer().add_event(start)


class Rows(ExperimentWriter):
    """Lightning's writer of `metrics.csv`, which adds to a file that is there already.

    Attributes:
        count: the number of rows in the file.
    """

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.path = Path(self.metrics_file_path)
        self.metrics_keys, rows = self._read()
        self.count = len(rows)

    def _check_log_dir_exists(self) -> None:
        """Lightning would delete the file here."""

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """The columns and the rows of the file, without a row that was cut short when the disk was full."""
        if not self.path.is_file():
            return [], []
        with open(self.path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            return list(reader.fieldnames or []), [row for row in rows if None not in row.values()]

    def save(self) -> None:
        """Writes the rows of which the file has none so far; where that fails, all of them stay for the next time."""
        if not self.metrics:
            return
        columns = sorted({*self.metrics_keys, *(key for row in self.metrics for key in row)})
        if columns != self.metrics_keys or not self.path.is_file():
            rows = [{key: str(value) for key, value in row.items()} for row in self.metrics]
            self._write(columns, [*self._read()[1], *rows])
        else:
            text = io.StringIO(newline="")
            csv.DictWriter(text, fieldnames=columns).writerows(self.metrics)
            append(self.path, text.getvalue().encode("utf-8"))
        self.count += len(self.metrics)
        self.metrics_keys, self.metrics = columns, []

    def _write(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        replace(self.path, lambda file: file.write(text.getvalue().encode("utf-8")))

    def keep(self, count: int | None, step: int) -> int:
        """Drops rows that a resumed run logs again, and returns how many.

        Args:
            count: the number of rows when the checkpoint was written; `None` if it does not say.
            step: the number of steps then.
        """
        columns, rows = self._read()
        kept = [row for row in rows if int(row["step"]) < step] if count is None else rows[:count]
        if len(kept) < len(rows):
            columns = [column for column in columns if any(row[column] for row in kept)]
            if kept:
                self._write(columns, kept)
            else:
                self.path.unlink()
            self.metrics_keys = columns
        self.count = len(kept)
        return len(rows) - len(kept)


class Metrics(Forgiving, CSVLogger):
    """Lightning's CSV logger, which adds to the `metrics.csv` of a run that is resumed."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Rows:
        if not isinstance(self._experiment, Rows):
            os.makedirs(self.root_dir, exist_ok=True)
            self._experiment = Rows(self.log_dir)
        return self._experiment


def make_loggers(folder: Path, *, resumed: bool) -> list[Logger]:
    """Creates the loggers for TensorBoard and CSV, which write to `folder`.

    A training that is not resumed leaves the `metrics.csv` of an earlier one there as `metrics_0.csv`, and so on.
    """
    earlier = folder / NAME
    if earlier.exists() and not resumed:
        earlier.rename(folder / f"metrics_{len(list(folder.glob('metrics_*.csv')))}.csv")
    return [TensorBoard(folder, name="", version=""), Metrics(folder, name="", version="")]


class LoggedValues(L.Callback):
    """Lets a resumed run go on with `metrics.csv`, TensorBoard and the values that were logged last.

    What was logged after the checkpoint is dropped, since the run logs it again. The values that were logged last are
    those that `best.ckpt` may be chosen by, and that are printed.
    """

    def __init__(self) -> None:
        self._saved: dict[str, Any] | None = None
        self._steps = 0

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        rows = next((one.experiment.count for one in trainer.loggers if isinstance(one, Metrics)), None)
        values = {name: value.detach().cpu().clone() for name, value in trainer.callback_metrics.items()}
        checkpoint["callbacks"][self.state_key] = {"rows": rows, "values": values}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        # checkpoints of an older vitdet hold neither
        self._saved = checkpoint["callbacks"].get(self.state_key, {"rows": None, "values": {}})
        self._steps = checkpoint["global_step"]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._saved is None or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoard):
                logger.resume(self._steps)
            elif isinstance(logger, Metrics):
                dropped = logger.experiment.keep(self._saved["rows"], self._steps)
                if dropped:
                    rank_zero_info(
                        f"{logger.experiment.path}: the {dropped} newest rows are dropped, of what the run now repeats"
                    )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        values: dict[str, Tensor] = self._saved["values"] if self._saved is not None else {}
        trainer.callback_metrics.update({name: value.to(pl_module.device) for name, value in values.items()})
        self._saved = None
