"""What a process knows of itself, asked from another of its threads: where it is, whether it works, its children."""

import contextlib
import faulthandler
import os
import signal
import site
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from vitdet import signals

# a thread that waits needs less than this share of a processor, and a process that waits moves fewer bytes in a second
SHARE, BYTES = 0.05, 1 << 16
LIBRARIES = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib")} | {*site.getsitepackages()}
)


class Work:
    """Measures whether the process works, by the time of the processor and by the bytes that it reads and writes.

    Example:
        >>> work = Work()
        >>> sum(range(1_000_000)), work.since_last(0.01)
        (499999500000, True)
    """

    def __init__(self) -> None:
        self._cpu, self._bytes = time.process_time(), _moved()

    def since_last(self, seconds: float) -> bool:
        """Whether the process has worked since the last call, which was so many seconds ago."""
        cpu, moved = time.process_time(), _moved()
        worked = cpu - self._cpu > SHARE * seconds or moved - self._bytes > BYTES * seconds
        self._cpu, self._bytes = cpu, moved
        return worked


def _moved() -> int:
    """How many bytes the process has read and written; 0 on systems that do not say so."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/io", encoding="ascii") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith(("rchar", "wchar")))
    return 0


def where(thread: int) -> str:
    """The line of code at which a thread is and, where that is in a library, the one outside that led there.

    Args:
        thread: the number of the thread, see `threading.get_ident`.

    Example:
        >>> import threading
        >>> where(threading.get_ident()).split()[-1]
        'where'
    """
    frame = sys._current_frames().get(thread)
    found: list[str] = []
    while frame is not None:
        path, code = frame.f_code.co_filename, frame.f_code
        ours = not path.startswith((*LIBRARIES, "<"))
        if ours or not found:
            found.append(f"{Path(path).name}:{frame.f_lineno} in {code.co_name}")
        if ours:
            break
        frame = frame.f_back
    return ", called at ".join(found)


def dump(path: Path | None) -> None:
    """Adds the stacks of all threads to a file, or prints them on standard error where there is none."""
    # it must not hinder the end of the process
    with contextlib.suppress(Exception):
        if path is None:
            faulthandler.dump_traceback(2, all_threads=True)
            return
        with open(path, "a", encoding="utf-8") as file:
            faulthandler.dump_traceback(file, all_threads=True)


def ended(process: subprocess.Popen) -> str | None:
    """How a child has ended, in words; nothing while it runs."""
    code = process.poll()
    if code is None:
        return None
    if code >= 0:
        return f"ended with status {code}"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else str(-code)
    return f"was ended by {name}" + (", most often since the memory is full" if -code == signal.SIGKILL else "")


def stopping(seconds: float = 0.0) -> bool:
    """Whether a signal ends the run, of which this rank may hear within so many seconds."""
    return bool(signals.asked() or (seconds and signals.heard(seconds)))


def tell(text: str) -> None:
    """Prints a line on standard error, without the lock that a stalled thread may hold."""
    with contextlib.suppress(OSError):
        # below the progress bar
        os.write(2, f"{chr(10) * os.isatty(2)}vitdet: {text}\n".encode(errors="replace"))


def leave(status: int) -> None:
    """Ends the process at once: nothing is waited for, and no destructor runs."""
    # flushing may wait for a lock that a stalled thread holds
    with contextlib.suppress(Exception), open(os.devnull, "w", encoding="ascii") as nowhere:
        faulthandler.dump_traceback_later(3, exit=True, file=nowhere)
        sys.stdout.flush()
        sys.stderr.flush()
        faulthandler.cancel_dump_traceback_later()
    os._exit(status)
