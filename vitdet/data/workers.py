"""The processes that load data take no part in the signals of the run: they end with it, not before."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader

from vitdet import signals

# what terminals and schedulers send to all processes of a run; the run alone decides what follows
IGNORED = ("SIGINT", "SIGUSR1", "SIGUSR2")


class Shielded:
    """What a process that loads data does first, with what the user wants it to do.

    A scheduler that ends a run sends SIGTERM to each of its processes. A run that lost its loaders by that could not
    complete the step in which it was asked to stop.

    Args:
        init: the `worker_init_fn` of the user.
    """

    def __init__(self, init: Callable[[int], Any] | None = None) -> None:
        self.init = init

    def __call__(self, worker: int) -> None:
        """Shields this process, which has the number `worker`."""
        if hasattr(signal, "pthread_sigmask"):
            _shield()
        if self.init is not None:
            self.init(worker)


def shielded(loader: DataLoader, begin: Callable[[], Any]) -> Any:
    """Calls `begin`; the processes that the loader starts meanwhile are shielded from their first moment.

    They inherit that signals wait, until they have said how they take them.
    """
    if not isinstance(loader.worker_init_fn, Shielded):
        loader.worker_init_fn = Shielded(loader.worker_init_fn)
    numbers, main = signals.numbers(), threading.current_thread() is threading.main_thread()
    if not numbers or not main or not hasattr(signal, "pthread_sigmask"):
        return begin()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        return begin()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _shield() -> None:
    ignored = [getattr(signal, name) for name in IGNORED]
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ignored)
    # SIGTERM stays blocked in all threads; one waits for it, since only so it is known who has sent it
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_end_with, args=(os.getppid(),), name="vitdet-shield", daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process when the run that has started it says so."""
    while True:
        with contextlib.suppress(OSError):
            if signal.sigwaitinfo([signal.SIGTERM]).si_pid == parent:
                os._exit(0)
