"""What each rank says of itself, and how it follows from that which rank keeps the others waiting.

A rank that waits for others makes no progress either, so that the time since the last progress does not tell who is to
blame. The number of collective operations does: all ranks begin the same ones in the same order, so a rank that has
begun fewer than the others is the one that they wait for.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from vitdet.errors import UserError

# what the shell sees where the run broke for a reason outside of it, and may be tried again: EX_TEMPFAIL of sysexits.h
STATUS = 75
# how many ranks a message names
NAMED = 3
ADVICE = "all ranks were ended; --ckpt_path last goes on from the last checkpoint"


class RankError(UserError):
    """A rank of a distributed run has stalled, died, failed or lost its connection; the message names it.

    The rank that notices prints the message, and the process of every rank ends soon afterwards, whatever it does.

    Args:
        message: the sentence that names the rank.
        status: the status that the process ends with.

    Attributes:
        printed: whether the message has been printed, by this or another rank, so that it is not printed again.

    Example:
        >>> RankError("rank 1 of 2 on host a has made no progress for 600 s").status
        75
    """

    printed = True

    def __init__(self, message: str, *, status: int = STATUS) -> None:
        super().__init__(message)
        self.status = status


class Pace:
    """How far this rank is, which the main thread writes and another one reads.

    Attributes:
        progress: how much it has done.
        what: what it does, such as `in step 7 of the training`.
        counted: whether it does something of which every part counts as progress.
    """

    progress, what, counted = 0, "", False


class State(NamedTuple):
    """What a rank says of itself at every beat.

    Attributes:
        rank: its number.
        host: the name of its machine.
        beat: how often it has spoken.
        progress: how much it has done: batches, phases and, where these take long, a share of the processor.
        calls: how many collective operations it has begun.
        what: what it does, such as `in step 7 of the training`.
        where: the lines of code at which it is.
        counted: whether it does something of which every part counts as progress, such as the batches of a training.
        over: whether it has done its part.
        knows: whether it knows the verdict.
        cut: why its connection to another rank broke; empty as long as it holds.
    """

    rank: int
    host: str = ""
    beat: int = 0
    progress: int = 0
    calls: int = 0
    what: str = ""
    where: str = ""
    counted: bool = False
    over: bool = False
    knows: bool = False
    cut: str = ""


class Verdict(NamedTuple):
    """How a run ends.

    Attributes:
        ranks: the ranks that are to blame.
        text: the sentence that names them; empty where all ranks have done their part.
        status: the status that the other ranks end with; 0 where nothing is wrong.
        by: the rank that noticed, which prints the sentence.
        stack: whether the ranks that are to blame write down where they are.
    """

    ranks: Sequence[int] = ()
    text: str = ""
    status: int = 0
    by: int = -1
    stack: bool = False


class Judge:
    """Finds the ranks that are to blame from what all ranks say of themselves.

    Time in which the judge itself did not run, such as in a job that is suspended, counts for no more than `longest`.

    Args:
        size: the number of ranks.
        timeout: the longest time without progress, in seconds.
        period: the time between two beats, in seconds.
        watched: the ranks that are watched, by default all.

    Example:
        >>> judge = Judge(2, timeout=20, period=1)
        >>> for second in range(22):
        ...     waits = State(0, "a", second, calls=8, what="in step 7")
        ...     stalls = State(1, "b", second, calls=7, what="in step 7")
        ...     verdict = judge.see([waits, stalls], passed=1.0)
        >>> verdict.text
        'rank 1 of 2 on host b has made no progress for 20 s, last in step 7; all ranks were ended; ...'
    """

    def __init__(self, size: int, *, timeout: float, period: float, watched: Collection[int] | None = None) -> None:
        self.size, self.timeout, self.longest = size, timeout, 4 * period
        # how long a broken connection waits for what the other ranks have to say
        self.patience = 3 * period + 1
        self._clock = 0.0
        watched = range(size) if watched is None else watched
        self._states = {rank: State(rank) for rank in watched}
        self._heard, self._moved = dict.fromkeys(watched, 0.0), dict.fromkeys(watched, 0.0)
        self._cut: dict[int, float] = {}

    def see(self, states: Iterable[State], passed: float) -> Verdict | None:
        """Takes note of what the ranks say now, and returns the verdict if one is to blame, or if all are done.

        Args:
            states: what is known of each rank.
            passed: the seconds since the last call.
        """
        self._clock += min(passed, self.longest)
        for state in states:
            self._note(state)
        active = [state for state in self._states.values() if not state.over]
        if not active:
            return Verdict()
        return self._silent(active) or self._broken(active) or self._stalled(active)

    def name(self, rank: int) -> str:
        """The rank in words, with its host."""
        return name(rank, self.size, self._states[rank].host)

    def _note(self, state: State) -> None:
        rank, before = state.rank, self._states[state.rank]
        if state.beat != before.beat:
            self._heard[rank] = self._clock
        if (state.progress, state.calls) != (before.progress, before.calls):
            self._moved[rank] = self._clock
        if state.cut and not before.cut:
            self._cut[rank] = self._clock
        self._states[rank] = state

    def _silent(self, active: list[State]) -> Verdict | None:
        silent = [state for state in active if self._clock - self._heard[state.rank] > self.timeout]
        if not silent:
            return None
        found = f"{self._named(silent)} not been heard of for {self.timeout:g} s{self._last(silent)}"
        why = "the process hangs or has been stopped, or the network between the hosts is down"
        return self._verdict(silent, f"{found}: {why}; {ADVICE}")

    def _broken(self, active: list[State]) -> Verdict | None:
        """Of a connection that broke, the rank that has fallen silent is the reason, if there is one."""
        cut = [state for state in active if state.rank in self._cut]
        if not cut or self._clock - min(self._cut.values()) < self.patience:
            return None
        silent = [state for state in active if self._clock - self._heard[state.rank] > self.patience - 1]
        if silent:
            found = f"{self._named(silent)} ended without a word, or can't be reached{self._last(silent)}"
            return self._verdict(silent, f"{found}; {ADVICE}")
        return self._verdict(cut[:1], f"{self.name(cut[0].rank)} lost its connection: {cut[0].cut}; {ADVICE}")

    def _stalled(self, active: list[State]) -> Verdict | None:
        fewest = min(state.calls for state in active)
        for state in active:
            if state.calls > fewest:
                # it waits for others, and can't be blamed for that afterwards either
                self._moved[state.rank] = self._clock
        behind = [state for state in active if state.calls == fewest]
        still = [state for state in behind if self._clock - self._moved[state.rank] > self.timeout]
        # outside of the steps, a rank may wait for another in other ways, such as for a file
        found = still if len(still) == len(behind) else [state for state in still if state.counted]
        if not found:
            return None
        text = f"{self._named(found)} made no progress for {self.timeout:g} s{self._last(found, where=True)}"
        return self._verdict(found, f"{text}; {ADVICE}", stack=True)

    def _verdict(self, states: list[State], text: str, *, stack: bool = False) -> Verdict:
        return Verdict([state.rank for state in states], text, STATUS, stack=stack)

    def _named(self, states: list[State]) -> str:
        names = [self.name(state.rank) for state in states[:NAMED]]
        names += [f"{len(states) - NAMED} more"] if len(states) > NAMED else []
        return f"{' and '.join(names)} {'has' if len(states) == 1 else 'have'}"

    def _last(self, states: list[State], *, where: bool = False) -> str:
        """What the ranks did last, in words."""
        found = []
        for state in states[:NAMED]:
            if state.what:
                found.append(f"{state.what}{f' ({state.where})' if where and state.where else ''}")
        return f", last {' and '.join(dict.fromkeys(found))}" if found else ""


def name(rank: int, size: int, host: str) -> str:
    """A rank in words: `rank 1 of 2 on host a`."""
    return f"rank {rank} of {size}{f' on host {host}' if host else ''}"
