"""The part of `Trainer` that lets the ranks of a distributed run watch over each other."""

from typing import Any

import lightning as L

from vitdet.errors import check
from vitdet.ranges import is_number
from vitdet.training.callbacks.pulse import Pulse
from vitdet.training.guarded import Guarded
from vitdet.training.watch import Watch


class Watched(Guarded):
    """A trainer whose ranks watch over each other.

    Args:
        rank_timeout: The longest time, in seconds, in which a rank of a distributed run may make no progress: a batch
            or, between batches, work of the processor or reading and writing. Then all ranks end, as they do if one
            dies or fails. 0 watches nothing.
        kwargs: the other arguments of Lightning's `Trainer`.

    Raises:
        UserError: `rank_timeout` is negative.
    """

    callbacks: list[L.Callback]

    def __init__(self, *, rank_timeout: float = 600.0, **kwargs: Any) -> None:
        wanted = "seconds, such as 600, or 0, which watches nothing"
        check("rank_timeout", rank_timeout, is_number(rank_timeout) and rank_timeout >= 0, wanted)
        super().__init__(**kwargs)
        self.watch = Watch(self, rank_timeout)
        # before the callbacks that take long
        self.callbacks.insert(0, Pulse(self.watch))
