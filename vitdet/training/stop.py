"""How a training that runs in several processes, its ranks, is stopped by a signal to any of them.

Where there is work to save, all ranks must stop after the same step, on which they agree at its end (`agree.asked`). In
all other places each rank may end on its own; a thread of each rank looks every moment whether another was asked to.
"""

import contextlib
import multiprocessing
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from vitdet import signals
from vitdet.errors import UserError
from vitdet.signals import Listener, Stopped
from vitdet.training import events, slurm
from vitdet.training.callbacks.last import LastCheckpoint

# how often a rank asks whether another was asked to end, how long ranks wait for each other then, and how long the
# first waits for the processes that it has started, in seconds
TICK, PATIENCE, CHILDREN = 0.2, 1.5, 3.0


class Signals:
    """Takes the place of Lightning's signal handlers, which wait for the other ranks, and may wait forever.

    Attributes:
        received_sigterm: never true: Lightning would stop a single rank, in the middle of what all do together.
    """

    received_sigterm = False

    def register_signal_handlers(self) -> None:
        """Does nothing: `listening` has done it."""

    def teardown(self) -> None:
        """Does nothing, see above."""


class Peers(threading.Thread):
    """Tells the other ranks of a signal, and hears from them, through the store that has connected them.

    Before the ranks are connected, those that Lightning has started, and the one that has started them, get the signal
    itself.

    Args:
        trainer: the trainer.
        listener: where signals arrive.
        visit: how many trainings or evaluations this process has had before.
    """

    def __init__(self, trainer: L.Trainer, listener: Listener, visit: int) -> None:
        super().__init__(name="vitdet-ranks", daemon=True)
        self._trainer, self._listener, self._key = trainer, listener, f"vitdet/stop/{visit}"
        self._store: Any = None
        self._told = self._closed = self._left = False

    def run(self) -> None:
        while not self._closed:
            asked = self._listener.heard.wait(TICK) if not self._told else time.sleep(TICK)
            # the connection is lost with the rank, or the launcher, that holds the store
            with contextlib.suppress(RuntimeError, ValueError, OSError):
                self._connect()
                if asked:
                    self._tell()
                elif self._store is not None:
                    self._look()

    def _connect(self) -> None:
        if self._store is None and dist.is_available() and dist.is_initialized():
            # a connection of its own, which no other thread waits on
            store = dist.distributed_c10d._get_default_store()
            self._store = store.clone()

    def _tell(self) -> None:
        self._told = True
        _calm_observer()
        if self._store is None:
            for process in children(self._trainer):
                process.send_signal(self._listener.number)
            signals.tell_launcher(self._listener.number)
            return
        self._store.set(f"{self._key}/number", str(self._listener.number))
        self._store.add(f"{self._key}/heard", 1)
        self._look()

    def _look(self) -> None:
        """What the others have told, and tells them that this rank left where they can't do without it."""
        listener, alone = self._listener, f"{self._key}/alone"
        if listener.alone and not self._left:
            self._left = True
            self._store.set(alone, "1")
        elif not listener.leaving and self._store.check([f"{self._key}/number"]):
            others = self._store.check([alone])
            if not listener.number or (others and not listener.alone):
                listener.hear(int(self._store.get(f"{self._key}/number")), alone=others)

    def finish(self) -> None:
        """Waits until the other ranks have heard, before this one, which may hold the store, goes."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.is_alive() and not self._all_know():
            time.sleep(TICK / 4)

    def _all_know(self) -> bool:
        if self._store is None or not self._told or (self._listener.alone and not self._left):
            return False
        with contextlib.suppress(RuntimeError, ValueError, OSError):
            return self._store.add(f"{self._key}/heard", 0) >= self._trainer.world_size
        return True

    def close(self) -> None:
        """Ends it."""
        self._closed = True
        self.join(PATIENCE)


def children(trainer: L.Trainer) -> list[Any]:
    """The processes that run the other ranks, where this one has started them."""
    return list(getattr(trainer.strategy.launcher, "procs", ()))


def _calm_observer() -> None:
    """Lightning's observer would kill this process as soon as a rank has ended by the signal."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            vars(thread)["_child_processes"] = []


_visits = 0


@contextlib.contextmanager
def listening(trainer: Any) -> Iterator[None]:
    """While a trainer trains or evaluates, signals end it, on all ranks, as the head of this file says.

    Raises:
        Stopped: it was ended by a signal.
    """
    global _visits
    _visits += 1
    if trainer.given.bare:
        yield
        return
    trainer._signal_connector = Signals()
    with signals.listening(*slurm.requeue_signals(trainer)) as listener, _launching(trainer):
        if listener is None:
            yield
            return
        before = listener.last_words, listener.last_acts, listener.forward
        listener.last_words = lambda number: _conclude(trainer, number)
        listener.last_acts = lambda: _end_by_force(trainer, listener)
        peers = Peers(trainer, listener, _visits) if trainer.num_devices * trainer.num_nodes > 1 else None
        if peers is not None:
            listener.forward = lambda number: None
            peers.start()
        try:
            yield
        except BaseException as error:
            _leave(error, trainer, listener, peers)
            raise
        finally:
            listener.held = False
            if peers is not None:
                peers.close()
            listener.last_words, listener.last_acts, listener.forward = before


@contextlib.contextmanager
def _launching(trainer: L.Trainer) -> Iterator[None]:
    """Tells the processes that Lightning starts who waits for them."""
    if not isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher) or trainer.local_rank != 0:
        yield
        return
    os.environ[signals.LAUNCHER] = str(os.getpid())
    try:
        yield
    finally:
        os.environ.pop(signals.LAUNCHER, None)


def _leave(error: BaseException, trainer: Any, listener: Listener, peers: Peers | None) -> None:
    """What is done on the way out, if a signal is the reason.

    Raises:
        Stopped: the error is what a rank meets that waits for one that has left.
    """
    if not isinstance(error, Stopped):
        if peers is None or not isinstance(error, RuntimeError) or isinstance(error, UserError):
            return
        # the other rank may have left before this one has heard why
        if not signals.heard(3 * TICK):
            return
        listener.leaving, listener.held, listener.alone = True, False, True
    listener.conclude()
    if peers is not None:
        peers.finish()
        _end(trainer, CHILDREN)
    stopped = error if isinstance(error, Stopped) else Stopped(listener.number)
    stopped.told = True
    if stopped is not error:
        raise stopped from error


def _end(trainer: L.Trainer, seconds: float = 0.0) -> None:
    """Waits for the processes that run the other ranks, and kills those that are left after so many seconds."""
    end, processes = time.monotonic() + seconds, children(trainer)
    if processes and seconds and dist.is_initialized() and dist.get_backend() == "gloo":
        # a rank that waits for this one is told that it is gone
        dist.destroy_process_group()
    while any(map(_runs, processes)) and time.monotonic() < end:
        time.sleep(TICK / 4)
    for process in filter(_runs, processes):
        process.kill()


def _end_by_force(trainer: L.Trainer, listener: Listener) -> None:
    """What no callback can do any more, where the main thread does not return."""
    events.note(trainer, "stopped", error=Stopped.__name__, text=signals.name_of(listener.number))
    _end(trainer)


def _runs(process: subprocess.Popen[bytes] | multiprocessing.Process) -> bool:
    return process.poll() is None if isinstance(process, subprocess.Popen) else process.is_alive()


def _conclude(trainer: Any, number: int) -> None:
    """Says that it is not finished, and how it goes on; a job of SLURM is put into the queue again."""
    name = signals.name_of(number)
    if trainer.state.fn not in ("fit", None):
        signals.say(f"not finished: stopped by {name}")
        return
    signals.say(f"not finished: stopped by {name} at step {trainer.global_step}; {_advice(trainer)}")
    if number in slurm.requeue_signals(trainer) and signals.is_first():
        signals.say(slurm.requeue())


def _advice(trainer: Any) -> str:
    last: Any = next((one for one in trainer.checkpoint_callbacks if isinstance(one, LastCheckpoint)), None)
    if last is None:
        return "nothing was saved, since enable_checkpointing is false"
    if last.path is None or not last.path.is_file():
        return "nothing was saved yet, so start it again"
    return f"go on with --ckpt_path last ({last.path})"
