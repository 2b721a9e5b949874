"""How an error of the command line ends.

A mistake of the user's is told in one sentence, and the status is 2. A fault of vitdet's shows its traceback and how to
report it, and the status is 1.
"""

import atexit
import contextlib
import errno
import multiprocessing
import os
import sys
import threading
import traceback
from typing import NoReturn

from vitdet.errors import UserError

REPORT = (
    "this is a fault of vitdet's own; please report it with the lines above, the command, and what "
    "`vitdet --version` prints"
)
LESS = "close other programs, or give less at a time: smaller files, images or batches"
HINTS = {
    errno.ENOSPC: "the disk is full: free some space, or write elsewhere",
    errno.EDQUOT: "your quota is used up: free some space, or write elsewhere",
    errno.EROFS: "it can't be written there: choose another folder",
    errno.EACCES: "you may not: choose another place, or change its permissions",
    errno.EPERM: "you may not: choose another place, or change its permissions",
    errno.ENOTDIR: "part of the path is a file: choose another place",
    errno.EISDIR: "it is a folder; wanted a file",
    errno.ENOENT: "check the path",
    errno.ENAMETOOLONG: "the name is too long",
}


def end(error: BaseException) -> NoReturn:
    """Prints what went wrong, and exits."""
    debug = os.environ.get("VITDET_DEBUG", "") not in ("", "0")
    if isinstance(error, KeyboardInterrupt):
        raise SystemExit(130) from error
    if isinstance(error, BrokenPipeError):
        # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from error
    if getattr(error, "printed", False):
        # a rank of a distributed run has said it for all of them
        _leave(getattr(error, "status", 2))
    message = sentence(error)
    if debug or message is None:
        traceback.print_exception(error)
    if message is None:
        print(f"vitdet: {REPORT}", file=sys.stderr)
        raise SystemExit(1) from error
    # which rank of a distributed run it is
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
    print(f"vitdet: {message}{notes}", file=sys.stderr)
    if notes:
        _leave(2)
    raise SystemExit(getattr(error, "status", 2)) from error


def _leave(status: int) -> NoReturn:
    """Ends a rank of a distributed run: nothing must wait for a rank that is gone, nor these for it."""
    for child in multiprocessing.active_children():
        child.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def leave(status: int) -> NoReturn:
    """Ends the process as `sys.exit` does, but without tidying up memory, which may take seconds on a busy machine."""
    # what is called at exit may wait for another process
    limit = threading.Timer(3.0, os._exit, [status])
    limit.daemon = True
    limit.start()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


def sentence(error: BaseException) -> str | None:
    """What a user is told of a mistake; nothing where it is a fault of vitdet's."""
    if isinstance(error, UserError):
        return _one_line(str(error))
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return (
            f"the memory of this machine, or its limit, is used up ({_one_line(str(error))[:200] or 'no more'}); {LESS}"
        )
    # by name: lightning and torch may not even be loaded
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    if kind.endswith("MisconfigurationException"):
        return _one_line(str(error)).replace("`", "")
    if kind.endswith("OutOfMemoryError"):
        smaller = "fewer images (data.batch_size), fewer tokens (data.max_tokens), or a smaller data.size"
        return f"the memory of the device is full; give {smaller}"
    return None


def _of_system(error: OSError) -> str:
    if error.errno is None or error.filename is None:
        hint = HINTS.get(error.errno or 0)
        return _one_line(str(error)) + (f"; {hint}" if hint else "")
    return f"{error.filename}: {error.strerror}; {HINTS.get(error.errno, 'check the path and the disk')}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
