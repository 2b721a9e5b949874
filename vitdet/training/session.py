"""The threads that watch over one run of several ranks: what each rank tells, and how all of them end."""

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist

from vitdet.training import events, vitals
from vitdet.training.line import Line
from vitdet.training.ranks import ADVICE, STATUS, Judge, Pace, State, Verdict, name
from vitdet.training.vitals import stopping

# the process that has started this one as a rank
LAUNCHER = "VITDET_LAUNCHER"
# seconds between two looks at what does not need the network
TICK = 0.25
# seconds that the main thread has to end by itself: where it waits for other ranks; where it is on its way out
GRACE, WAY_OUT = 1.5, 10.0


class Session:
    """Watches over one run, by two threads.

    One tells the others how far this rank is, and that of the first rank judges. The other watches what needs no
    network: the child processes of the launcher, the parent, and whether the first rank is still heard of. It ends the
    process once there is a verdict and the main thread does not end by itself.

    Args:
        trainer: the trainer, whose ranks are connected.
        timeout: the longest time without progress, in seconds.
        pace: how far this rank is.
    """

    def __init__(self, trainer: Any, *, timeout: float, pace: Pace) -> None:
        self._trainer, self._timeout, self._pace = trainer, timeout, pace
        self.rank, self.size, self._host = trainer.global_rank, trainer.world_size, socket.gethostname()
        self.period = min(2.0, timeout / 20)
        # how long this rank waits for a verdict, once it has asked for one
        self.patience = 6 * self.period + 3
        self.verdict: Verdict | None = None
        self.decided = threading.Event()
        self._wake, self._quiet, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self._over, self._closed, self._leaving, self._cut = False, False, False, ""
        self._proposal: Verdict | None = None
        self._main, self._parent, self._since = threading.get_ident(), os.getppid(), 0.0
        launcher = trainer.strategy.launcher
        self._children = [one for one in getattr(launcher, "procs", []) if isinstance(one, subprocess.Popen)]
        self._first = self.rank - trainer.local_rank
        # whether the first rank of this host has started this process
        self._launched = os.environ.get(LAUNCHER) == str(self._parent)
        self._all_know, self._zero, self._heard, self._worked = False, State(0), True, 0
        self._line = Line(self.rank, self.size)
        for work in (self._speak, self._guard):
            threading.Thread(target=work, name=f"vitdet-watch{work.__name__}", daemon=True).start()

    # ---- for the main thread

    @property
    def name(self) -> str:
        """This rank in words."""
        return name(self.rank, self.size, self._host)

    def propose(self, verdict: Verdict) -> None:
        """Asks for a verdict; the first that is asked for holds."""
        self._proposal = self._proposal or verdict
        self._wake.set()

    def complain(self, reason: str) -> None:
        """Tells the judge that the connection to another rank broke."""
        self._cut = reason
        self._wake.set()

    def on_way_out(self) -> None:
        """Gives the main thread, which ends by itself now, more time."""
        self._leaving, self._since = True, time.monotonic()

    def done(self) -> None:
        """Says that this rank has done its part, and waits for the others."""
        self._over = True
        self._wake.set()
        self.decided.wait()
        if self.verdict is not None and not self.verdict.status:
            # the end of the first rank takes the store with it
            self._quiet.wait(2.0)
            self._closed = True

    def close(self, *, abandon: bool = False) -> None:
        """Ends the watch.

        Args:
            abandon: whether the child processes are left alone, too, from here on.
        """
        self._closed = True
        if abandon:
            self._children = []

    def part(self) -> None:
        """Waits until the other ranks know the verdict and the children have ended, or ends these."""
        theirs = self.verdict is not None and self.verdict.by in self.verdict.ranks and self.verdict.by != self.rank
        # a rank that fails has something to say
        end = time.monotonic() + (WAY_OUT if theirs else 3 * self.period + GRACE)
        while time.monotonic() < end and not (
            (self._all_know or self.rank != 0) and all(one.poll() is not None for one in self._children)
        ):
            time.sleep(0.05)
        for child in self._children:
            if child.poll() is None:
                child.kill()

    # ---- what this rank tells the others

    def _speak(self) -> None:
        judge = Judge(self.size, timeout=self._timeout, period=self.period)
        work, state, last = vitals.Work(), State(self.rank, self._host), time.monotonic()
        while not (self._closed or state.knows) or (self.rank == 0 and state.knows and not self._all_know):
            self._wake.wait(TICK / 2 if self._over else self.period)
            self._wake.clear()
            now = time.monotonic()
            passed, last = now - last, now
            # what counts by itself needs no work of the processor
            worked = work.since_last(passed) and not self._pace.counted
            state = self._state(state, worked)
            try:
                self._round(state, judge, passed)
            # torch's errors of the network are of this class
            except RuntimeError as error:
                self._lost(error)
                break
        self._quiet.set()

    def _state(self, last: State, worked: bool) -> State:
        self._worked += worked
        pace = self._pace
        return State(
            self.rank,
            self._host,
            last.beat + 1,
            pace.progress + self._worked,
            max(last.calls, self._calls()),
            pace.what,
            vitals.where(self._main),
            pace.counted,
            self._over,
            self.verdict is not None,
            self._cut,
        )

    def _calls(self) -> int:
        """How many collective operations this rank has begun; 0 where torch does not count them."""
        with contextlib.suppress(Exception):
            mesh = getattr(self._trainer.strategy, "_device_mesh", None)
            groups: list[Any] = [dist.group.WORLD, *(mesh.get_all_groups() if mesh is not None else [])]
            return sum({one.group_name: one._get_sequence_number_for_group() for one in groups}.values())
        return 0

    def _round(self, state: State, judge: Judge, passed: float) -> None:
        verdict, states = self._line.turn(state)
        if verdict is None and self._proposal is not None:
            verdict = self._line.decide(self._proposal)
        if self.rank == 0:
            self._all_know = len(states) == self.size and all(one.knows for one in states[1:])
            found = None if verdict is not None else judge.see(states, passed)
            verdict = verdict if found is None else self._line.decide(self._with_stacks(found))
        elif states:
            self._heard = self._heard or states[0].beat != self._zero.beat
            self._zero = states[0]
        if verdict is not None:
            self._learn(verdict)

    def _with_stacks(self, verdict: Verdict) -> Verdict:
        """The verdict of this rank, with the place where the others leave their stacks."""
        more = f"; stacks: {self._folder}/stack_rank*.txt" if verdict.stack and self._folder is not None else ""
        return verdict._replace(by=self.rank, text=verdict.text + more)

    @property
    def _folder(self) -> Path | None:
        return getattr(self._trainer, "entered", None)

    def _lost(self, error: Exception) -> None:
        """The store, which the first rank or torchrun holds, can't be reached any more."""
        # the ranks end one after the other where a signal ends the run
        if self._closed or self.verdict is not None or stopping():
            return
        reason = " ".join(str(error).split())
        holder = (
            "torchrun"
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
            else name(0, self.size, self._zero.host)
        )
        text = f"{holder} has ended without a word, last {self._zero.what or 'at the start'} ({reason[:120]}); {ADVICE}"
        self._learn(Verdict([0], text, STATUS, by=self._speaker()))

    def _speaker(self) -> int:
        """The rank that prints what each finds alone since the first rank is lost: the lowest one of each host."""
        lowest = 1 if self._trainer.node_rank == 0 else 0
        return self.rank if self._trainer.local_rank == lowest else -1

    # ---- the verdict

    def _learn(self, verdict: Verdict) -> None:
        with self._lock:
            if self.verdict is not None:
                return
            self.verdict = verdict
        self._since = time.monotonic()
        if verdict.status:
            if verdict.by == self.rank and not self._leaving:
                vitals.tell(verdict.text)
            # a file system that hangs must not stop the end
            threading.Thread(target=self._write_down, args=(verdict,), daemon=True).start()
        self._over = True
        self.decided.set()
        self._wake.set()

    def _write_down(self, verdict: Verdict) -> None:
        if self.rank == 0:
            events.note(self._trainer, "rank_lost", ranks=list(verdict.ranks), message=verdict.text)
        if verdict.stack and self.rank in verdict.ranks:
            vitals.dump(self._folder / f"stack_rank{self.rank}.txt" if self._folder is not None else None)

    # ---- what needs no network

    def _guard(self) -> None:
        last, silent, proposed = time.monotonic(), 0.0, 0.0
        while not self._closed or self._children:
            time.sleep(TICK)
            now = time.monotonic()
            # in a job that was suspended, time has passed in which nobody could speak
            passed, last = min(now - last, 4 * TICK), now
            self._look_after_children()
            silent = 0.0 if self._heard or self.rank == 0 else silent + passed
            self._heard = False
            proposed = proposed + passed if self._proposal is not None else 0.0
            if self.verdict is not None:
                if self.verdict.status and now - self._since > (WAY_OUT if self._leaving else GRACE):
                    self._end(self.verdict)
            elif self._closed:
                continue
            elif self._launched and os.getppid() != self._parent and not stopping():
                found = f"{name(self._first, self.size, self._host)} has ended without a word"
                self._learn(Verdict([self._first], f"{found}; {ADVICE}", STATUS, by=self._speaker()))
            elif silent > self._timeout:
                found = f"{name(0, self.size, self._zero.host)} has not been heard of for {self._timeout:g} s"
                why = "its process hangs or has been stopped, or the network between the hosts is down"
                self._learn(Verdict([0], f"{found}: {why}; {ADVICE}", STATUS, by=self._speaker()))
            elif self._proposal is not None and proposed > 3 * self.period + 1:
                # the store does not answer
                self._learn(self._proposal)

    def _look_after_children(self) -> None:
        for number, child in enumerate(self._children, start=self.rank + 1):
            how = vitals.ended(child)
            # once all have done their part, only what went wrong afterwards counts
            if how is None or (child.returncode == 0 and (self._over or self._closed)) or stopping():
                continue
            status = child.returncode if child.returncode > 0 else STATUS
            verdict = Verdict([number], f"{name(number, self.size, self._host)} {how}; {ADVICE}", status, by=self.rank)
            if self._closed:
                self._end_after(verdict)
            elif self.verdict is None:
                self.propose(verdict)

    def _end_after(self, verdict: Verdict) -> None:
        """A child has failed after the run, in what follows it in the program."""
        vitals.tell(verdict.text)
        self._end(verdict)

    def _end(self, verdict: Verdict) -> None:
        """Ends this process and all that it has started."""
        self.part()
        for child in multiprocessing.active_children():
            child.kill()
        if self._launched and self._first in verdict.ranks:
            end = time.monotonic() + 3 * self.period + 2 * GRACE
            while os.getppid() == self._parent and time.monotonic() < end:
                time.sleep(0.05)
            # it may have been stopped, so that it can't end by itself
            if os.getppid() == self._parent:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(self._parent, signal.SIGKILL)
        vitals.leave(verdict.status)
