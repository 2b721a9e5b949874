"""Ends all ranks of a distributed run where one of them stalls, dies, fails or can't be reached."""

import contextlib
import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from torch.distributed.constants import default_pg_timeout

from vitdet.errors import UserError
from vitdet.training.ranks import ADVICE, STATUS, Pace, RankError, Verdict, name
from vitdet.training.session import LAUNCHER, Session
from vitdet.training.vitals import stopping

# seconds for the ranks to come together, which includes starting Python, and for a single collective operation; it is
# the watch that ends those much earlier
ARRIVAL, COLLECTIVE = 120.0, 3600.0
# what torch says where a rank is gone, besides errors of the class DistError
BROKEN = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL", "ncclRemoteError", "Socket Timeout")


class Watch:
    """Ends all ranks of a run if one of them stalls, dies, fails or can't be reached, with one message that names it.

    Args:
        trainer: the trainer, each run of which is watched if it has several ranks.
        timeout: the longest time without progress, in seconds; 0 watches nothing.

    Attributes:
        pace: how far this rank is.
    """

    def __init__(self, trainer: Any, timeout: float) -> None:
        self._trainer, self._timeout = trainer, timeout
        self._session: Session | None = None
        self._past: Session | None = None
        self.pace = Pace()
        strategy = trainer.strategy
        # a notebook itself waits for the processes that it forks
        if not timeout or isinstance(strategy.launcher, _MultiProcessingLauncher):
            return
        # a bound that the user gave stays
        self._bounded = getattr(strategy, "_timeout", None) == default_pg_timeout
        if self._bounded:
            strategy._timeout = timedelta(seconds=max(timeout, ARRIVAL))
        # the ranks are connected before the first hook that a callback has
        self._connect, strategy.setup_environment = strategy.setup_environment, self._begin

    def mark(self, what: str, *, counted: bool) -> None:
        """Takes note of progress.

        Args:
            what: what begins now, such as `in step 7 of the training`.
            counted: whether marks come often now. Otherwise, a rank that uses the processor, reads or writes gets on.
        """
        self.pace.what, self.pace.counted = what, counted
        self.pace.progress += 1

    def _begin(self) -> None:
        self._connect()
        self.leave()
        if self._trainer.world_size < 2 or not (dist.is_available() and dist.is_initialized()):
            return
        if self._bounded:
            _allow(timedelta(seconds=max(COLLECTIVE, 6 * self._timeout)))
        self.mark("at the start", counted=False)
        self._session = Session(self._trainer, timeout=self._timeout, pace=self.pace)
        _dismiss_observer()

    @contextlib.contextmanager
    def over(self) -> Iterator[None]:
        """Watches over a run, at whose end all ranks wait for each other.

        Raises:
            RankError: another rank has stalled, died or failed, or this one has lost its connection to the others.
        """
        if self._timeout and self._trainer.strategy.launcher is not None and "LOCAL_RANK" not in os.environ:
            # this process is going to start the others, which inherit it
            os.environ[LAUNCHER] = str(os.getpid())
        try:
            yield
        except Exception as error:
            if getattr(error, "agreed", False):
                # all ranks raise it together, and the first prints it
                self.leave()
                error.printed = not self._trainer.is_global_zero  # pyright: ignore[reportAttributeAccessIssue]
                raise
            session = self._session
            told = self._unconnected(error) if session is None else self._failed(session, error)
            if told is not None:
                raise told from error
            raise
        # Ctrl-C, or another end that all ranks have agreed on
        except BaseException:
            self.leave()
            raise
        if (session := self._session) is not None:
            session.done()
            if (verdict := session.verdict) is not None and verdict.status:
                raise self._raised(session, verdict)
            # it goes on to look after the children that it has
            self._session, self._past = None, session

    def leave(self) -> None:
        """Ends the watch without waiting for the other ranks, such as where all of them stop."""
        for session in filter(None, (self._session, self._past)):
            session.close(abandon=True)
        self._session = self._past = None

    def failed(self, error: BaseException) -> None:
        """Tells the other ranks of an error as early as possible; they end while this rank still tidies up."""
        session = self._session
        if getattr(error, "agreed", False):
            return
        if session is not None and isinstance(error, Exception) and not _is_broken(error):
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            status = 2 if isinstance(error, UserError) else 1
            session.on_way_out()
            text = f"{session.name}: {kind}{' '.join(str(error).split())}"
            session.propose(Verdict([session.rank], text, status, by=session.rank))
        elif not isinstance(error, Exception):
            self.leave()

    def _failed(self, session: Session, error: Exception) -> RankError | None:
        """What is raised instead of an error of a rank that is not the reason; nothing for the reason itself."""
        if _is_broken(error):
            if stopping(0.6):
                # the other rank has left since a signal ends the run
                self.leave()
                return None
            session.complain(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        else:
            self.failed(error)
        session.decided.wait(session.patience)
        verdict = session.verdict
        if verdict is None or not verdict.status:
            text = f"{session.name} lost its connection to the other ranks; {ADVICE}"
            verdict = Verdict([session.rank], text, STATUS) if _is_broken(error) else None
        if verdict is None or (verdict.by == session.rank and not _is_broken(error)):
            _add_note(error, f"on {session.name}")
            session.on_way_out()
            session.part()
            return None
        return self._raised(session, verdict)

    def _raised(self, session: Session, verdict: Verdict) -> RankError:
        session.on_way_out()
        session.part()
        return RankError(verdict.text, status=verdict.status)

    def _unconnected(self, error: Exception) -> RankError | None:
        """What is raised where the ranks have not come together."""
        if not self._timeout or not isinstance(error, dist.DistError) or dist.is_initialized():
            return None
        environment = self._trainer.strategy.cluster_environment
        place = f"{environment.main_address}:{environment.main_port}"
        first = " ".join(str(error).split())[:160]
        who = name(self._trainer.global_rank, self._trainer.world_size, "")
        told = RankError(f"{who} has waited in vain for all ranks to come to {place} ({first}); check the other hosts")
        told.printed = False
        return told


def _is_broken(error: BaseException) -> bool:
    """Whether it is an error of the connection to the other ranks, for which one of them may be the reason."""
    if isinstance(error, UserError) or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or any(word in str(error) for word in BROKEN)


def _add_note(error: Exception, note: str) -> None:
    # older versions of Python do not show notes, but the command line does
    error.__notes__ = [*getattr(error, "__notes__", []), note]


def _allow(timeout: timedelta) -> None:
    """Sets how long a collective operation may take from here on."""
    # torch has renamed it
    change = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    change(timeout, dist.group.WORLD)


def _dismiss_observer() -> None:
    """Ends the thread of Lightning's that kills all processes, itself first, where a child has failed."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            # it ends where it has no children to look after
            thread._child_processes = []  # pyright: ignore[reportAttributeAccessIssue]
