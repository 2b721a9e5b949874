"""Calls of the file systems of fsspec, which are tried again where that may help."""

import asyncio
import concurrent.futures
import logging
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vitdet.errors import MissingLibraryError, UserError

log = logging.getLogger("vitdet")
T = TypeVar("T")
# takes a file system and the path there
Call = Callable[[Any, str], Awaitable[T]]

# the first pause in seconds, which doubles with each try, and the longest
PAUSE, LONGEST = 0.5, 20.0
# how many files a process reads at once
AT_ONCE = 8
# what is to be installed for a kind of storage, where fsspec needs more
LIBRARIES = {"s3": "'vitdet[remote]'", "s3a": "'vitdet[remote]'", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}
# proxies, and credentials in `.netrc`, as other programs take them
WEB = {"client_kwargs": {"trust_env": True}}
# a single try, so that the reason of a failure is not lost among those of another layer, and an object in one piece:
# s3fs would ask for its size first, and of a piece that is cut it would leave the rest at zero
S3 = {"config_kwargs": {"retries": {"total_max_attempts": 1}}, "max_concurrency": 1}
OPTIONS: dict[str, dict[str, Any]] = {"http": WEB, "https": WEB, "s3": S3, "s3a": S3}
# answers of a server below 500 that may be others the next time
AGAIN = {408, 425, 429}


class RemoteError(UserError):
    """A file on object storage or on a server can't be read, for which the file is not to blame: none is skipped."""


class RefusedError(RemoteError):
    """The storage answers that a file may not be read or listed, so that it is not asked again."""


@dataclass
class Process:
    """What one process reads with. A forked process makes its own, and leaves that of its parent as it is.

    Were it released there, its connections, which the parent goes on using, would be closed.

    Attributes:
        loop: runs in a thread of its own.
        turns: lets a few calls at a time through.
        ahead: files that were asked for before they are needed, by their addresses.
    """

    loop: asyncio.AbstractEventLoop
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    ahead: "dict[str, concurrent.futures.Future[bytes]]" = field(default_factory=dict)
    _first: asyncio.Lock = field(default_factory=asyncio.Lock)
    _systems: dict[tuple[str, bool], Any] = field(default_factory=dict)
    _connected: set[int] = field(default_factory=set)

    def system(self, kind: str, url: str, *, patient: bool = False) -> Any:
        """The file system of fsspec for a kind of addresses.

        Args:
            kind: the kind.
            url: an address of that kind, for error messages.
            patient: whether its library tries again by itself, as many requests for one list need it.

        Raises:
            UserError: fsspec knows none, or its library is not installed.
        """
        key = (kind, patient)
        if key not in self._systems:
            import fsspec
            from fsspec.config import conf

            options = {} if patient else OPTIONS.get(kind, {})
            options = {name: _over(conf.get(kind, {}).get(name), value) for name, value in options.items()}
            try:
                # a list of earlier would hide changes, and takes memory
                system = self._systems[key] = fsspec.filesystem(kind, use_listings_cache=False, **options)
                if hasattr(system, "retries") and not patient:
                    system.retries = 1
            except ImportError as error:
                library = LIBRARIES.get(kind)
                remedy = f"pip install {library}" if library else str(error)
                raise MissingLibraryError(f"{url} needs a library that is not installed: {remedy}") from error
            except (ValueError, TypeError) as error:
                raise UserError(f"{url} is of a kind that can't be read; wanted s3://, gs:// or https://") from error
        return self._systems[key]

    async def call(self, call: Call[T], system: Any, path: str) -> T:
        """A call; what all calls need to begin with is made by the first."""
        if id(system) not in self._connected and hasattr(system, "set_session"):
            async with self._first:
                await system.set_session()
                self._connected.add(id(system))
        return await call(system, path)


_PROCESSES: dict[int, Process] = {}


def process() -> Process:
    """What this process reads with."""
    number = os.getpid()
    if number not in _PROCESSES:
        from fsspec.asyn import get_loop

        _PROCESSES[number] = Process(get_loop())
    return _PROCESSES[number]


def ask(system: Any, name: str, *args: Any, **options: Any) -> Awaitable[Any]:
    """A method of a file system, whether it is asynchronous or not."""
    from fsspec.asyn import AsyncFileSystem

    if isinstance(system, AsyncFileSystem):
        return getattr(system, f"_{name}")(*args, **options)
    return asyncio.to_thread(getattr(system, name), *args, **options)


def start(
    call: Call[T], kind: str, url: str, *, tries: int, timeout: float, patient: bool = False
) -> "concurrent.futures.Future[T]":
    """Begins a call, which is tried again where that may help.

    Args:
        call: what is done with the file system and the path there.
        kind: the kind of the address.
        url: the address.
        tries: how often it is tried.
        timeout: the seconds of a try.
        patient: see `Process.system`.

    Returns:
        Its result, later, or the error: `FileNotFoundError` where there is no such file, else `RemoteError`.
    """
    here = process()

    async def run() -> T:
        system = here.system(kind, url, patient=patient)
        return await _tried(here, call, system, url, tries, timeout)

    return asyncio.run_coroutine_threadsafe(run(), here.loop)


async def _tried(here: Process, call: Call[T], system: Any, url: str, tries: int, timeout: float) -> T:
    path = system._strip_protocol(url)
    for number in range(1, tries + 1):
        try:
            async with here.turns:
                return await asyncio.wait_for(here.call(call, system, path), timeout)
        except Exception as caught:
            error = _cause(caught)
            reason = _reason(error, timeout)
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError(f"{url} does not exist") from caught
            if not _may_pass(error):
                hint = "check the address, and the credentials in the environment"
                raise RefusedError(f"{url} can't be read: {reason}; {hint}") from caught
            if number == tries:
                times = f"{tries} tries" if tries > 1 else "1 try"
                hint = "check the network and the storage, and go on with --ckpt_path last"
                raise RemoteError(f"{url} could not be read after {times}: {reason}; {hint}") from caught
            log.debug("%s: try %d of %d: %s", url, number, tries, reason)
        # apart from the random numbers that trainings are seeded with
        await asyncio.sleep(min(LONGEST, PAUSE * 2 ** (number - 1)) * random.SystemRandom().uniform(0.5, 1))
    raise AssertionError("the last try ends it")


def _over(base: Any, top: Any) -> Any:
    """What the user's own configuration of fsspec says, over ours."""
    return {**top, **(base or {})} if isinstance(top, dict) else top if base is None else base


def _cause(error: Exception) -> Exception:
    """What has really happened: fsspec says of some failures of servers that the file does not exist."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception):
        return error
    failed = isinstance(cause, (OSError, TimeoutError, asyncio.TimeoutError))
    if getattr(cause, "status", 404) != 404 or (failed and not isinstance(cause, FileNotFoundError)):
        return cause
    return error


def _may_pass(error: Exception) -> bool:
    """Whether a further try may help."""
    if isinstance(error, (PermissionError, UserError)) or "Credentials" in type(error).__name__:
        return False
    status = getattr(error, "status", None)
    return not isinstance(status, int) or status < 400 or status >= 500 or status in AGAIN


def _reason(error: Exception, timeout: float) -> str:
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)) and not str(error):
        return f"no answer within {timeout:g} s"
    status = getattr(error, "status", None)
    if isinstance(status, int) and status:
        return f"the server answers {status} {getattr(error, 'message', '')}".rstrip()
    return " ".join(str(error).split()) or type(error).__name__
