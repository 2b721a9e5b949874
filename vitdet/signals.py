"""How a long run ends on Ctrl-C and SIGTERM: at once, or as soon as its work is saved.

A run that would lose work *holds* signals: the handler then only notes them, and the run stops itself where it has
saved (`leave`). Otherwise the handler ends it at once by `Stopped`, an exception. A thread sees signals even while the
main thread is in a call that does not return, and ends the process if that takes longer than `GRACE`.

The exit status is 128 plus the number of the signal, as shells have it: 130 for SIGINT, and 143 for SIGTERM.
"""

import contextlib
import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

# a run that could end at once, but has not within so many seconds, is ended by `os._exit`
GRACE = 6.0
# a Ctrl-C counts as the second one, which ends a run at once, so many seconds after the first: a terminal sends it to
# every process of its group, and torchrun sends it to its workers once more
AGAIN = 2.0
# seconds between two looks at whether the run has ended
TICK = 0.2
# the process that has started this one as a rank of its training
LAUNCHER = "VITDET_LAUNCHER"


class Stopped(SystemExit):
    """A run was ended by a signal before it was finished; its exit status says so.

    Args:
        number: the number of the signal.

    Example:
        >>> Stopped(15).code, str(Stopped(15))
        (143, 'SIGTERM')
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number
        # whether the user knows already
        self.told = False

    def __str__(self) -> str:
        return name_of(self.number)


def name_of(number: int) -> str:
    """The name of a signal, such as `SIGTERM`."""
    return next((one.name for one in signal.Signals if one == number), f"signal {number}")


class Listener:
    """Waits for signals, `numbers`, while a run goes on, see the head of this file.

    Attributes:
        number: the signal that the run was asked to end by; 0 as long as it was not.
        heard: is set when the run was asked to end, by this process or another rank.
        held: whether signals wait until the run has saved.
        leaving: whether the run is on its way out.
        alone: whether it left without having agreed on it with the other ranks, which can't do a further step then.
        last_words: what is said at the end, once, on the first rank.
        forward: tells others that belong to the run of the first signal; it must not wait for them.
        last_acts: ends what else belongs to the run, where the process is ended by force.
    """

    def __init__(self, *numbers: int) -> None:
        self.numbers = frozenset(numbers)
        self.number = 0
        self.heard = threading.Event()
        self.held = self.leaving = self.alone = False
        self.last_words: Callable[[int], None] = _unsaved
        self.forward: Callable[[int], None] = tell_launcher
        self.last_acts: Callable[[], None] = lambda: None
        self._handled = self._noticed = self._deadline = 0.0
        self._hurried = self._concluded = False
        self._before: dict[int, Any] = {}

    # ---- in the main thread

    def open(self) -> None:
        """Begins to listen; only the main thread may."""
        self._before = {number: signal.signal(number, self._handle) for number in self.numbers}
        # Windows knows this for sockets only; there, the handler is all
        if os.name != "nt":
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._watch, name="vitdet-signals", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Ends it, and gives the signals back to whoever had them."""
        if os.name != "nt":
            signal.set_wakeup_fd(self._wakeup)
            # no signal has the number 0
            os.write(self._write, b"\0")
            self._thread.join()
            os.close(self._read)
            os.close(self._write)
        self.restore()

    def restore(self) -> None:
        """Gives the signals back, in this process or in a child of it."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: Any) -> None:
        now, first = time.monotonic(), not self._handled
        self._handled = self._handled or now
        self._take(number)
        again = number == signal.SIGINT and not first and now - self._handled > AGAIN
        if self.leaving:
            if again:
                self._die()
        elif again or not self.held:
            self.leave()
        elif first:
            more = "; press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
            say(f"{name_of(self.number)}: stopping after this step{more}")

    def _take(self, number: int) -> None:
        # what a scheduler sends besides SIGTERM says more
        if not self.number or number not in (signal.SIGINT, signal.SIGTERM):
            self.number = number

    def leave(self, *, alone: bool = True) -> NoReturn:
        """Ends the run by an exception; `alone` unless the ranks have agreed on it."""
        self.leaving, self.held, self.alone = True, False, self.alone or alone
        raise Stopped(self.number)

    # ---- in the thread

    def _watch(self) -> None:
        while True:
            # nothing to look after, as long as nobody has asked
            ready, _, _ = select.select([self._read], [], [], TICK if self.number else None)
            told = os.read(self._read, 64) if ready else b""
            if 0 in told:
                return
            for number in told:
                if number in self.numbers:
                    self._notice(number)
            if self._late():
                self._die()

    def _notice(self, number: int) -> None:
        now = time.monotonic()
        if not self._noticed:
            self._noticed = now
            self._take(number)
            self.heard.set()
            self.forward(number)
        elif number == signal.SIGINT and now - self._noticed > AGAIN:
            self._hurried = True

    def _late(self) -> bool:
        """Whether the run could have ended, and has not."""
        if not self.number or (self.held and not self._hurried):
            self._deadline = 0.0
            return False
        self._deadline = self._deadline or time.monotonic() + GRACE
        return time.monotonic() > self._deadline

    def hear(self, number: int, *, alone: bool = False) -> None:
        """Notes, from any thread, that another rank was asked to end by a signal, and whether it has left `alone`."""
        self.number = self.number or number
        if alone:
            self.alone, self.held = True, False
        self.heard.set()
        # the main thread wakes up, and does what the handler says
        if os.name != "nt":
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def conclude(self) -> None:
        """Says what there is to say at the end, once."""
        if not self._concluded:
            self._concluded = True
            self.last_words(self.number)

    def _die(self) -> NoReturn:
        with contextlib.suppress(Exception):
            self.conclude()
        with contextlib.suppress(Exception):
            self.last_acts()
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(128 + self.number)


_listener: Listener | None = None


@contextlib.contextmanager
def listening(*more: int) -> Iterator[Listener | None]:
    """Listens to SIGINT, SIGTERM and the signals `more`; inside of another `listening`, that one goes on.

    Gives nothing outside of the main thread, which alone may handle signals.
    """
    global _listener
    outer = _listener
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    if outer is not None and outer.numbers.issuperset(more):
        yield outer
        return
    _listener = listener = Listener(signal.SIGINT, signal.SIGTERM, *more)
    listener.open()
    try:
        yield listener
    except Stopped as stopped:
        if not stopped.told:
            listener.conclude()
            stopped.told = True
        raise
    finally:
        listener.close()
        _listener = outer


def asked() -> int:
    """The signal by which this process was asked to end; 0 if it was not. Ranks may differ, see `training.agree`."""
    return _listener.number if _listener is not None else 0


def heard(seconds: float) -> int:
    """The signal by which any rank was asked to end, waiting so long to hear of it; 0 if none was."""
    if _listener is not None:
        _listener.heard.wait(seconds)
    return asked()


def hold() -> None:
    """From now on there is work that would be lost: signals wait until `release` or `leave`."""
    if _listener is not None and not _listener.leaving and not _listener.alone:
        _listener.held = True


def release() -> None:
    """From now on nothing would be lost: a signal, also one that has waited, ends the run at once."""
    if _listener is not None:
        _listener.held = False
        if _listener.number:
            _listener.leave()


def leave(number: int) -> NoReturn:
    """Ends the run because of a signal, after its work was saved."""
    if _listener is not None:
        _listener.number = _listener.number or number
        _listener.leave(alone=False)
    raise Stopped(number)


def numbers() -> frozenset[int]:
    """The signals that this process listens to now."""
    return _listener.numbers if _listener is not None else frozenset()


def say(text: str) -> None:
    """Writes a line to standard error. Unlike `print`, a handler may do so while another line is being written."""
    if is_first():
        with contextlib.suppress(OSError):
            os.write(2, f"{text}\n".encode())


def is_first() -> bool:
    """Whether this process is alone, or the first rank, judged by the environment before the ranks are connected."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def _unsaved(number: int) -> None:
    say(f"not finished: stopped by {name_of(number)} before anything was saved; start it again")


def tell_launcher(number: int) -> None:
    """Tells the first rank, where that has started this process and would wait for it."""
    if os.environ.get(LAUNCHER) == str(os.getppid()):
        with contextlib.suppress(OSError):
            os.kill(os.getppid(), number)


def _forget() -> None:
    """A forked child is not the run: its signals are not those of the run."""
    global _listener
    if _listener is not None:
        signal.set_wakeup_fd(-1)
        _listener.restore()
        _listener = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
