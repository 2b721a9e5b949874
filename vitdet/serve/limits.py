"""How much a server takes at a time, and from a single request."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from vitdet.errors import check
from vitdet.ranges import whole


def _limit(default: float, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server accepts; the help of each limit says what it bounds.

    Raises:
        UserError: a limit is out of range.

    Example:
        >>> Limits(max_batch=4).max_batch
        4
    """

    max_batch: int = _limit(8, "images that the model sees at a time")
    max_wait: float = _limit(5, "milliseconds that an image waits for others before the model runs")
    queue: int = _limit(256, "images that may wait; further ones are told to come back later (429)")
    timeout: float = _limit(30, "seconds to receive a request (408), and seconds to answer it (504)")
    max_bytes: int = _limit(20_000_000, "bytes of an image file (413)")
    max_pixels: int = _limit(50_000_000, "pixels of an image, read from its header before it is decoded (413)")
    batch_pixels: int = _limit(2**22, "pixels of a batch as the model sees it, and so of a single image (413)")
    connections: int = _limit(1024, "open connections (503)")

    def __post_init__(self) -> None:
        counts, wanted = whole(1)
        for limit in fields(self):
            value = getattr(self, limit.name)
            if limit.type is int or limit.type == "int":
                check(limit.name, value, counts(value), wanted)
        check("max_wait", self.max_wait, 0 <= self.max_wait < math.inf, "milliseconds from 0")
        check("timeout", self.timeout, 0 < self.timeout < math.inf, "seconds above 0")
