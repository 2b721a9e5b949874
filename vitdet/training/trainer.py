"""Lightning's Trainer with what vitdet trains with by default, the same from YAML and from Python."""

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
from vitdet.training import arguments
from vitdet.training.callbacks import (
    EMA,
    BestCheckpoint,
    CheckMonitors,
    DivergedError,
    FinalValidation,
    LastCheckpoint,
    Pictures,
    ProgressReport,
    StepSeed,
    Summary,
)
from vitdet.training.folder import check_free, find, is_run, make_loggers, reserve, runs
from vitdet.training.quiet import quiet
from vitdet.training.resume import check_resume
from vitdet.training.task import Task


@atexit.register
def _leave_gloo() -> None:
    """Threads of gloo that outlive the interpreter abort the process, now and then, after all is done."""
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()


class ShareFolder(L.Callback):
    """Tells the other ranks the run folder that the first one has taken."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            trainer.enter(trainer.strategy.broadcast(trainer.entered))


class Trainer(L.Trainer):
    """Lightning's `Trainer`; every argument of it works here too, and `callbacks` and `logger` add to the ones below.

    On by default: an average of the weights, `best.ckpt` and `last.ckpt`, metrics as CSV and for TensorBoard, progress, pictures of predictions, and
    a summary at the end. All of it goes to `run_folder`. A callback of yours takes the place of that of the same class; `enable_checkpointing=False`
    writes no checkpoints, `fast_dev_run` nothing at all, and `barebones` leaves all of it out.

    Args:
        name: Of the run; the command line takes that of the config.
        root: The folder of all runs; Lightning's `default_root_dir` means the same.
        version: Number of the run's folder, `root/name/version_N`. By default the next free one, or, for a training that goes on from a
            checkpoint, the folder where that is.
        ema: Decay of the weight average; 0 trains without.
        monitor: What `best.ckpt` is chosen by; by default the first score of the head's metric: `val/AP`, `val/mIoU`, `val/PQ`.
        mode: Whether more of it is better ("max") or less ("min").
        pictures: How many validation images to draw predictions on.
        progress: Whether to show how far the training is: a bar on a terminal, else a line about every 30 s.
        max_time: When to end the training, as days:hours:minutes:seconds, such as 00:00:12:00.

    Raises:
        UserError: an argument is out of its range, or Lightning refuses it.
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
        progress: bool = True,
        max_epochs: int | None = None,
        max_steps: int = -1,
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
        arguments.check_bounds(kwargs, max_epochs=max_epochs, max_steps=max_steps)
        self.given = given = arguments.take(kwargs, logger)
        self.entered: Path | None = None
        self.tested_folder: Path | None = None
        self._begun = False
        extra = arguments.listed(callbacks)
        # the clock is here rather than Lightning's, so that the last validation comes after it
        ours = [Timer(end)] if (end := arguments.duration(max_time)) else []
        if not given.bare:
            ours += [StepSeed(), *([EMA(ema)] if ema else []), FinalValidation(), Summary()]
            ours += [ProgressReport()] if given.shows(progress) and not arguments.has_bar(extra) else []
            ours += [Pictures(pictures)] if pictures and not given.dry else []
            ours += [BestCheckpoint(monitor=monitor, mode=mode), LastCheckpoint()] if given.checkpoints else []
        with arguments.refusals(TypeError, RuntimeError):
            super().__init__(
                max_epochs=max_epochs,
                max_steps=max_steps,
                gradient_clip_val=gradient_clip_val,
                log_every_n_steps=0 if given.bare else log_every_n_steps,
                callbacks=[ShareFolder(), CheckMonitors(), *arguments.with_theirs(ours, extra)],
                logger=given.loggers or False,
                enable_progress_bar=arguments.has_bar(extra),  # ours is none of Lightning's
                enable_model_summary=given.model_summary,
                use_distributed_sampler=False,  # `fit` knows whether the data are ours
                **kwargs,
            )
        # With `max_steps`, Lightning takes an epoch that is over for one to go on in, and trains a batch too many in it; this says no.
        self.fit_loop._iteration_based_training = bool

    @property
    def run_folder(self) -> Path:
        """The folder of this run. It is taken when training starts, or when this is read: a new one, unless `version` names it.

        Raises:
            UserError: another rank takes it, and training has not started.
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
        """Whether this process is of global rank 0, known before the processes have met."""
        return self.node_rank == 0 and self.local_rank == 0

    def enter(self, folder: Path | None) -> None:
        """Makes `folder` this run's, and lets vitdet's loggers write there."""
        if folder is None or (self._begun and folder == self.entered):
            return
        self.entered, self._begun = folder, True
        ours = make_loggers(folder) if self.given.logs and self._first else []
        self.loggers = [*ours, *self.given.loggers]

    def _choose(self, checkpoint: Path | None) -> Path:
        if self._begun and checkpoint is None:
            return self.entered
        if checkpoint is not None and self._place[2] is None:
            own = next(filter(is_run, (checkpoint.parent, checkpoint.resolve().parent)), None)  # the file may be a link
            if own is not None:
                return own
        folder = self.run_folder
        if folder != self.entered:  # named by its version
            check_free(folder, start=checkpoint)
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _checkpoint(self, given: str | Path | None, model: Any, *, training: bool = False) -> Any:
        """The file that `ckpt_path` means; what it holds fits the model."""
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
        """vitdet's data share out their images among the ranks themselves, no image twice in evaluation; for other loaders Lightning does it."""
        ours, wanted = isinstance(data, ImageData), self.given.share_out
        if ours and wanted and self.num_devices * self.num_nodes > 1:
            raise UserError(
                "use_distributed_sampler is true, but vitdet's data share out their images themselves; leave it out"
            )
        self._accelerator_connector.use_distributed_sampler = not ours if wanted is None else wanted and not ours

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What Lightning refuses, and what can't be gone on with, as one sentence."""
        with arguments.refusals():
            try:
                yield
            except FloatingPointError as error:
                last = next((one for one in self.checkpoint_callbacks if isinstance(one, LastCheckpoint)), None)
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
        """Trains, as Lightning's `fit` does; `ckpt_path` goes on in its own run folder, and `last` is that of the newest run of this name.

        Raises:
            UserError: what Lightning refuses, a checkpoint that does not fit, a folder that is another run's, or (`DivergedError`) weights or a loss
                that are no longer finite.
        """
        self._share_out(train_dataloaders if datamodule is None else datamodule)
        ckpt_path = self._checkpoint(ckpt_path, model, training=True)
        if self._first and not self.given.dry and not self.given.bare:
            self.enter(self._choose(ckpt_path if isinstance(ckpt_path, Path) else None))
        with self._told():
            super().fit(model, train_dataloaders, val_dataloaders, datamodule, ckpt_path, weights_only)

    def _evaluate(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        method = getattr(super(), verb)
        given = inspect.signature(method).bind(*args, **{"weights_only": True, **kwargs}).arguments
        data = given.get("datamodule")
        self._share_out(given.get("dataloaders") if data is None else data)
        given["ckpt_path"] = checkpoint = self._checkpoint(given.get("ckpt_path"), given.get("model"))
        self.tested_folder = checkpoint.parent if isinstance(checkpoint, Path) else self.entered
        with self._told():
            return method(**given)

    def validate(self, *args: Any, **kwargs: Any) -> Any:
        """Lightning's, with its arguments; it writes nothing, and refuses as `fit` does."""
        return self._evaluate("validate", *args, **kwargs)

    def test(self, *args: Any, **kwargs: Any) -> Any:
        """Lightning's, with its arguments; it writes `predictions.json` beside the checkpoint, and refuses as `fit` does."""
        return self._evaluate("test", *args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Lightning's, with its arguments: the predictions on each batch; it writes nothing, and refuses as `fit` does."""
        return self._evaluate("predict", *args, **kwargs)
