"""Notes the start, the end and the warnings of a run in its `events.jsonl`."""

import logging
import os
import platform
import warnings
from typing import Any

import lightning as L

from vitdet import __version__
from vitdet.training.events import note

LOGGERS = ("vitdet", "lightning.pytorch", "lightning.fabric")
# the most warnings of a run that are noted: its file is for reading, too
MOST = 1000


class RunEvents(L.Callback):
    """Notes in the run's `events.jsonl` that training starts or is resumed, ends or is stopped, and each warning.

    A warning is noted once, however often it is said; those that a process says before training are not noted.
    """

    def __init__(self) -> None:
        self._begun = False
        self._said: set[str] = set()
        self._handler: logging.Handler | None = None
        self._show: Any = None
        self._ours: Any = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._begun = False
        if stage == "fit":
            self._listen(trainer)

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin(trainer)

    def _begin(self, trainer: L.Trainer) -> None:
        if self._begun:
            return
        self._begun = True
        where = {"vitdet": __version__, "host": platform.node(), "pid": os.getpid(), "ranks": trainer.world_size}
        if trainer.ckpt_path is None:
            note(trainer, "started", **where)
        else:
            note(trainer, "resumed", checkpoint=trainer.ckpt_path, **where)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # only a training that has come to its end gets here, with its report
        if stage == "fit":
            note(trainer, "finished")
        self._leave()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if trainer.state.fn == "fit":
            text = " ".join(str(exception).split())
            note(trainer, "stopped", error=type(exception).__name__, text=text[:500])
        self._leave()

    def _listen(self, trainer: L.Trainer) -> None:
        self._leave()
        self._said = set()

        def say(text: str, source: str) -> None:
            if text not in self._said and len(self._said) < MOST:
                self._said.add(text)
                note(trainer, "warning", text=text, source=source)

        self._handler = handler = _Handler(say)
        for name in LOGGERS:
            logging.getLogger(name).addHandler(handler)
        self._show = shown = warnings.showwarning

        def show(message: Any, category: Any, filename: str, *rest: Any, **options: Any) -> None:
            say(str(message), category.__name__)
            shown(message, category, filename, *rest, **options)

        warnings.showwarning = self._ours = show

    def _leave(self) -> None:
        if self._handler is not None:
            for name in LOGGERS:
                logging.getLogger(name).removeHandler(self._handler)
            self._handler = None
        # somebody else may have put another in its place
        if self._ours is not None and warnings.showwarning is self._ours:
            warnings.showwarning = self._show
        self._ours = None


class _Handler(logging.Handler):
    """Passes on what is logged as a warning or an error."""

    def __init__(self, say: Any) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage(), record.name)
