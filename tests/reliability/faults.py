"""What goes wrong in one rank of a real run: a callback that a config names, see `test_ranks.py`."""

import os
import signal
import sys
import time
from pathlib import Path

import lightning as L

from vitdet.errors import UserError


def busy(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


KINDS = {
    "sleeps": lambda: time.sleep(3600),
    "spins": lambda: busy(3600),
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "gone": lambda: os._exit(3),
    "leaves": lambda: sys.exit(0),
    "fault": lambda: [][1],
    "mistake": lambda: (_ for _ in ()).throw(UserError("cat.jpg can't be decoded")),
    "works": lambda: busy(7),
    "nothing": lambda: None,
}


class Fault(L.Callback):
    """Does what `kind` says, in the rank `rank`, at the place `place`; the file `happened` says when."""

    def __init__(self, kind: str, rank: int, place: str, slow: float = 0.0) -> None:
        self.kind, self.rank, self.place, self.slow = kind, rank, place, slow

    def _happen(self, trainer, place):
        if place == self.place and trainer.global_rank == self.rank:
            # once: what only works goes on
            self.place = ""
            Path("happened").write_text(str(time.time()))
            KINDS[self.kind]()

    def setup(self, trainer, pl_module, stage):
        self._happen(trainer, "setup")

    def on_train_batch_start(self, trainer, *_):
        time.sleep(self.slow)
        if trainer.global_step >= 1:
            self._happen(trainer, "training")

    def on_validation_batch_start(self, trainer, *_):
        if not trainer.sanity_checking:
            self._happen(trainer, "validation")

    def on_save_checkpoint(self, trainer, *_):
        self._happen(trainer, "saving")

    def on_fit_end(self, trainer, *_):
        self._happen(trainer, "end")
