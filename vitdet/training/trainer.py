"""Lightning's `Trainer` with the defaults and callbacks of vitdet, used from Python and from the command line."""

import atexit
import contextlib
import inspect
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch.distributed as dist
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import Logger

from vitdet.data import ImageData
from vitdet.errors import UserError
from vitdet.training import arguments, saving, slurm, stop
from vitdet.training.callbacks import (
    EMA,
    BestCheckpoint,
    CheckMonitors,
    DivergedError,
    FinalValidation,
    FirstBatches,
    GlobalBatch,
    LastCheckpoint,
    Pictures,
    ProgressReport,
    Report,
    RunEvents,
    StepSeed,
    Summary,
    Thresholds,
)
from vitdet.training.folder import ShareFolder, check_free, find, is_run, occupied, reserve, runs
from vitdet.training.guarded import Guarded
from vitdet.training.loggers import LoggedValues, make_loggers
from vitdet.training.loops import FitLoop
from vitdet.training.quiet import quiet
from vitdet.training.resume import check_resume, restoring
from vitdet.training.task import Task


@atexit.register
def _leave_gloo() -> None:
    """Stops gloo's threads: if they outlive the interpreter, they sometimes abort the process at its exit."""
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()


class Trainer(Guarded):
    """Lightning's `Trainer` with a weight average, checkpoints, loggers, progress reports and a summary.

    By default, it keeps an average of the weights, writes `best.ckpt` and `last.ckpt`, logs metrics as CSV and for
    TensorBoard, shows the progress, draws predictions on validation images, and prints a summary at the end. All files
    go to `run_folder`. Every argument of Lightning's `Trainer` is accepted, too. Callbacks and loggers of the user are
    added to vitdet's; a callback of the user replaces vitdet's callback of that class. `enable_checkpointing=False`
    writes no checkpoints, `fast_dev_run` writes no files, and `barebones` adds nothing to Lightning's trainer.

    Args:
        name: Name of the run. The command line uses the name of the config file by default.
        root: Folder of all runs. Lightning's `default_root_dir` means the same.
        version: Number N of the run folder, `root/name/version_N`. By default the next free number or, for a training
            that is resumed from a checkpoint, the folder of that checkpoint.
        ema: Decay of the weight average, from 0 to below 1; 0 trains without it.
        monitor: Score that `best.ckpt` is chosen by. By default the first score of the head's metric, such as `val/AP`,
            `val/mIoU` or `val/PQ`.
        mode: Whether a higher score is better ("max") or a lower score ("min").
        pictures: Number of validation images to draw predictions on; unless it is 0, the first training batches are
            drawn, too, and `report.html` is written after the training.
        thresholds: How the score from which a detection counts is chosen for each class by the validations: `f1` for
            the best F1 score, or a wanted `precision=P` or `recall=R`, such as `precision=0.9`. With `None`, it is 0.3.
        progress: Whether to show the progress: a bar on a terminal, otherwise a line about every 30 s.
        max_time: Longest time of the training, as days:hours:minutes:seconds, such as 00:00:12:00.
        kwargs: `keep_last` (2) and `failed_save` (retry), see `Saving`; `skip_steps` (10), see `SkippedSteps`; and the
            arguments of Lightning's `Trainer`.

    Raises:
        UserError: an argument is out of its range, or Lightning refuses it.

    Example:
        >>> Trainer(name="shapes", max_epochs=2).run_folder.as_posix()
        'runs/shapes/version_0'
    """

    def __init__(
        self,
        *,
        name: str = "default",
        root: str | Path = "runs",
        version: int | None = None,
        ema: float = 0.999,
        monitor: str | None = None,
        mode: Literal["max", "min"] = "max",
        pictures: int = 4,
        thresholds: str | None = "f1",
        progress: bool = True,
        max_epochs: int | None = None,
        max_time: str | timedelta | dict[str, int] | None = None,
        gradient_clip_val: float | None = 1.0,
        log_every_n_steps: int = 10,
        callbacks: list[L.Callback] | L.Callback | None = None,
        logger: Logger | Iterable[Logger] | bool | None = True,
        **kwargs: Any,
    ) -> None:
        quiet()
        self._place = arguments.place(name, root, version, kwargs)
        arguments.check_own(
            ema=ema,
            mode=mode,
            pictures=pictures,
            log_every_n_steps=log_every_n_steps,
            gradient_clip_val=gradient_clip_val,
        )
        arguments.check_theirs(kwargs)
        arguments.check_bounds(kwargs, max_epochs=max_epochs, max_steps=kwargs.get("max_steps", -1))
        self.given = given = arguments.take(kwargs, logger)
        self.entered: Path | None = None
        self.tested_folder: Path | None = None
        self._begun = False
        extra = arguments.listed(callbacks)
        # the timer comes before `FinalValidation`, which must see that the time is up; Lightning would add it elsewhere
        ours = [Timer(end)] if (end := arguments.duration(max_time)) else []
        if not given.bare:
            ours += [RunEvents(), GlobalBatch(), StepSeed(), *([EMA(ema)] if ema else [])]
            ours += [FinalValidation(), Thresholds(thresholds)]
            ours += [*([Report()] if pictures and not given.dry else []), Summary()]
            ours += [ProgressReport()] if given.shows(progress) and not arguments.has_bar(extra) else []
            ours += [Pictures(pictures), FirstBatches()] if pictures and not given.dry else []
            ours += [BestCheckpoint(monitor=monitor, mode=mode), LastCheckpoint()] if given.checkpoints else []
        with arguments.refusals(TypeError, RuntimeError):
            super().__init__(
                max_epochs=max_epochs,
                gradient_clip_val=gradient_clip_val,
                log_every_n_steps=0 if given.bare else log_every_n_steps,
                callbacks=[ShareFolder(), LoggedValues(), CheckMonitors(), *arguments.with_theirs(ours, extra)],
                logger=given.loggers or False,
                # `ProgressReport` is not a progress bar in Lightning's sense
                enable_progress_bar=arguments.has_bar(extra),
                enable_model_summary=given.model_summary,
                # `_share_out` sets this once the data are known
                use_distributed_sampler=False,
                **kwargs,
            )
        self.fit_loop = FitLoop(self)

    @property
    def run_folder(self) -> Path:
        """The folder of this run: a new folder, unless `version` is given or the training is resumed.

        A new folder is created when training starts, or when this property is read before.

        Raises:
            UserError: this process is not rank 0, and training has not started.
        """
        if self.entered is None:
            root, name, version = self._place
            if version is not None:
                return root / name / f"version_{version}"
            if not self._first:
                raise UserError("only the first rank takes a run folder; the others know it once training has started")
            self.entered = reserve(root, name)
        return self.entered

    @property
    def _first(self) -> bool:
        """Whether this process has global rank 0, known before the processes are connected."""
        return self.node_rank == 0 and self.local_rank == 0

    def enter(self, folder: Path | None, *, resumed: bool = False) -> None:
        """Makes `folder` the run folder, and creates vitdet's loggers, which write to it."""
        if folder is None or (self._begun and folder == self.entered):
            return
        self.entered, self._begun = folder, True
        ours = make_loggers(folder, resumed=resumed) if self.given.logs and self._first else []
        self.loggers = [*ours, *self.given.loggers]

    def _choose(self, checkpoint: Path | None) -> Path:
        if self._begun and checkpoint is None:
            return self.entered
        if checkpoint is not None and self._place[2] is None:
            # the file may be a symbolic link
            run = next(filter(is_run, (checkpoint.parent, checkpoint.resolve().parent)), None)
            if run is not None:
                return run
        folder = self.run_folder
        # the user chose the folder by `version`
        if folder != self.entered:
            check_free(folder, start=checkpoint)
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _checkpoint(self, given: str | Path | None, model: Any, *, training: bool = False) -> Any:
        """Returns the file that `ckpt_path` refers to, after checking that it fits the model."""
        if given is None or str(given) in ("hpc", "registry") or "://" in str(given):
            return given
        if str(given) in ("last", "best"):
            root, name, _ = self._place
            given = find(str(given), [self.entered] if self._begun else runs(root, name), self.entered or root / name)
        if not Path(given).exists():
            raise UserError(f"there is no checkpoint {given}")
        if isinstance(model, Task):
            check_resume(model, given, training=training)
        return Path(given)

    def _share_out(self, data: Any) -> None:
        """Decides whether Lightning distributes the samples among the ranks.

        vitdet's data distribute their images themselves, so that no image is evaluated twice. For other data loaders,
        Lightning does so.
        """
        ours, wanted = isinstance(data, ImageData), self.given.share_out
        if ours and wanted and self.num_devices * self.num_nodes > 1:
            raise UserError(
                "use_distributed_sampler is true, but vitdet's data share out their images themselves; leave it out"
            )
        self._accelerator_connector.use_distributed_sampler = not ours if wanted is None else wanted and not ours

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turns errors that Lightning raises on purpose, and losses that are not finite, into a `UserError`."""
        with arguments.refusals():
            try:
                yield
            except FloatingPointError as error:
                last = next(
                    (callback for callback in self.checkpoint_callbacks if isinstance(callback, LastCheckpoint)), None
                )
                if isinstance(error, UserError) or last is None:
                    raise
                raise DivergedError(f"{error}; {last.kept()}") from error

    def fit(
        self,
        model: L.LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: L.LightningDataModule | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = True,
    ) -> None:
        """Trains a model, with the arguments of Lightning's `fit`.

        A training with `ckpt_path` continues in the run folder of that checkpoint. `"last"` and `"best"` refer to the
        checkpoint of the newest run of this name.

        Raises:
            UserError: Lightning refuses an argument, the checkpoint does not fit, or the folder holds another run.
            Stopped: a signal has ended the training, which its exit status says.
            SaveError: a checkpoint could not be written, and neither at the end of the training.
            DivergedError: the weights are no longer finite, or too many steps in a row were skipped.
        """
        self._share_out(train_dataloaders if datamodule is None else datamodule)
        self.unsaved = {}
        with stop.listening(self), contextlib.ExitStack() as stack:
            ckpt_path = self._checkpoint(slurm.go_on(self, ckpt_path), model, training=True)
            if self._first and not self.given.dry and not self.given.bare:
                folder = self._choose(ckpt_path if isinstance(ckpt_path, Path) else None)
                stack.enter_context(occupied(folder))
                self.enter(folder, resumed=ckpt_path is not None)
                slurm.mark(folder)
                saving.tell_damaged(self, ckpt_path)
            stack.enter_context(self._told())
            stack.enter_context(restoring(ckpt_path))
            super().fit(model, train_dataloaders, val_dataloaders, datamodule, ckpt_path, weights_only)
        self.check_saved()

    def _evaluate(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        method = getattr(super(), verb)
        given = inspect.signature(method).bind(*args, **{"weights_only": True, **kwargs}).arguments
        data = given.get("datamodule")
        self._share_out(given.get("dataloaders") if data is None else data)
        given["ckpt_path"] = checkpoint = self._checkpoint(given.get("ckpt_path"), given.get("model"))
        self.tested_folder = checkpoint.parent if isinstance(checkpoint, Path) else self.entered
        with stop.listening(self), self._told():
            return method(**given)

    def validate(self, *args: Any, **kwargs: Any) -> Any:
        """Validates as Lightning's `validate` does, with its arguments. It writes no files, and raises as `fit`."""
        return self._evaluate("validate", *args, **kwargs)

    def test(self, *args: Any, **kwargs: Any) -> Any:
        """Tests as Lightning's `test` does, with its arguments, and raises as `fit`.

        It writes `predictions.json` to the folder of the checkpoint.
        """
        return self._evaluate("test", *args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the predictions for each batch, as Lightning's `predict` does, with its arguments.

        It writes no files, and raises as `fit`.
        """
        return self._evaluate("predict", *args, **kwargs)
