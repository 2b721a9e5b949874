"""How the ranks of a run hear of each other: by torch's store, over a connection that nothing else uses."""

import itertools
import json
from typing import Any

import torch.distributed as dist

from vitdet.training.ranks import State, Verdict

# all ranks of a program start the same runs in the same order
_runs = itertools.count()
OPEN, VERDICT = "open", "verdict"


class Line:
    """A line to the other ranks of a run.

    The store answers one request of a connection at a time, and the main thread may wait in the store for long. A line
    therefore has a connection of its own. Each request may fail with a `RuntimeError`, or wait for as long as the
    network is down.

    Args:
        rank: the number of this process.
        size: the number of all processes, which must be connected.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self._open = rank, rank == 0
        distributed: Any = dist.distributed_c10d
        self._store: Any = distributed.PrefixStore(f"vitdet/{next(_runs)}", distributed._get_default_store().clone())
        self._keys = [f"rank{number}" for number in range(size if rank == 0 else 1)]
        if rank == 0:
            for key in (VERDICT, *self._keys):
                self._store.set(key, "")
            self._store.set(OPEN, "1")

    def turn(self, state: State) -> tuple[Verdict | None, list[State]]:
        """Says how this rank is, and returns the verdict, if there is one, and what other ranks have said.

        The first rank hears of all ranks, and the others hear of the first.
        """
        self._store.set(f"rank{self.rank}", json.dumps(state))
        # what the first rank has not prepared yet could only be waited for
        if not self._open and not self._store.check([OPEN]):
            return None, []
        self._open = True
        verdict, *states = (word.decode() for word in self._store.multi_get([VERDICT, *self._keys]))
        return _verdict(verdict), [State(*json.loads(word)) for word in states if word]

    def decide(self, verdict: Verdict) -> Verdict:
        """Makes it the verdict on the run, unless there is one, and returns the one that holds."""
        return _verdict(self._store.compare_set(VERDICT, "", json.dumps(verdict)).decode()) or verdict


def _verdict(word: str) -> Verdict | None:
    return Verdict(*json.loads(word)) if word else None
