"""A training in a process of its own, which kills itself by SIGKILL at a chosen point of its life.

A point is a hook of Lightning's, or an opening, renaming or removal of a file in the run folder. The process is a fork
of one that has imported everything, since that takes longer than these trainings.
"""

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch

HOOKS = [
    *("on_fit_start", "on_sanity_check_start", "on_sanity_check_end", "on_train_start", "on_train_epoch_start"),
    *("on_train_batch_start", "on_after_backward", "on_train_batch_end", "on_save_checkpoint", "on_validation_start"),
    *("on_validation_batch_start", "on_validation_batch_end", "on_validation_epoch_end", "on_validation_end"),
    *("on_train_epoch_end", "on_train_end", "on_fit_end"),
]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT


class Points:
    """Counts the points of a life, and writes their names, one a line, to a file."""

    def __init__(self, file: Path, place: Path, last: int | None) -> None:
        self.file, self.place, self.last, self.count = os.open(file, os.O_CREAT | os.O_WRONLY), str(place), last, 0
        sys.addaudithook(self._see)

    def reach(self, name: str) -> None:
        self.count += 1
        os.write(self.file, f"{name}\n".encode())
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def _see(self, event: str, args: Any) -> None:
        if event not in ("open", "os.rename", "os.remove") or not str(args[0]).startswith(self.place):
            return
        if event != "open" or (isinstance(args[2], int) and args[2] & WRITES):
            self.reach(f"{event} {Path(args[0]).name}")


POINTS: Points | None = None


class Watch(L.Callback):
    """Counts the hooks, and writes the image ids of each training batch to a file."""

    def __init__(self, file: str) -> None:
        self.file = file

    def on_train_batch_start(self, trainer: L.Trainer, task: Any, batch: Any, batch_idx: int) -> None:
        ids = sorted(target.image_id for target in batch[1])
        with open(self.file, "a") as file:
            file.write(f"{trainer.current_epoch} {batch_idx} {' '.join(map(str, ids))}\n")
        self._reach("on_train_batch_start", trainer)

    def _reach(self, hook: str, trainer: L.Trainer) -> None:
        if POINTS is not None:
            POINTS.reach(f"{hook} step {trainer.global_step}{' sanity' if trainer.sanity_checking else ''}")


for name in HOOKS:
    if name not in vars(Watch):
        setattr(Watch, name, lambda self, trainer, *_, hook=name: self._reach(hook, trainer))


def _live(argv: list[str], log: Path, points: Path, place: Path, last: int | None) -> None:
    global POINTS
    from vitdet.cli import main

    os.setsid()
    number = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(number, 1)
    os.dup2(number, 2)
    torch.set_num_threads(1)
    POINTS = Points(points, place, last)
    main(argv)


class Life:
    """A process that runs `vitdet ARGV`, and kills itself at point number `last`, counted from 1.

    Args:
        argv: the words.
        folder: the folder of the logs, whose folder `runs` has the run folders.
        last: at which point it ends; by default it lives on.
        name: of the logs.
    """

    def __init__(self, argv: list[Any], folder: Path, *, last: int | None = None, name: str = "log") -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["vitdet.command.run", "vitdet.training"])
        self._log, self._points = folder / f"{name}.txt", folder / f"{name}.points"
        for path in (self._log, self._points):
            path.unlink(missing_ok=True)
        argv = list(map(str, argv))
        self.process = context.Process(target=_live, args=(argv, self._log, self._points, folder / "runs", last))
        self.process.start()

    @property
    def output(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def end(self, timeout: float = 120) -> tuple[int, list[str], str]:
        """Waits for the end. Returns the status, negative for a signal, the names of the points, and the output."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"no end within {timeout} s: {self.output[-3000:]}")
        return self.process.exitcode, self._points.read_text().splitlines(), self.output


def live(argv: list[Any], folder: Path, *, last: int | None = None) -> tuple[int, list[str], str]:
    """Runs `vitdet ARGV` to its end, see `Life`."""
    return Life(argv, folder, last=last).end()
