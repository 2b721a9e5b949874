"""Work that threads do ahead of the model, in order, with a bound on the memory that waits for it."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
# the most bytes of results that wait, unless a single one is larger
WAITING = 2**30


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ahead(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    count: int,
    threads: int | None = None,
    size: Callable[[R], int] = lambda result: 0,
) -> Generator[R, None, None]:
    """The results of a function, in the order of the items, computed by threads while earlier ones are used.

    Args:
        function: is called with each item; its error is raised where its result would come.
        items: what the function is called with; taken as they are needed.
        count: the most results that are computed ahead.
        threads: the number of threads; by default one for each core, at most 16.
        size: the bytes of a result.

    Example:
        >>> list(ahead(abs, [-1, -2, 3], count=2))
        [1, 2, 3]
    """
    pool = ThreadPoolExecutor(threads or min(16, cores()), thread_name_prefix="vitdet-reads")
    waiting: deque[Future[R]] = deque()
    left = iter(items)
    try:
        while True:
            while len(waiting) < count and (not waiting or _bytes(waiting, size) < WAITING):
                try:
                    item = next(left)
                except StopIteration:
                    break
                waiting.append(pool.submit(function, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        # also where whoever uses the results stops early
        pool.shutdown(wait=True, cancel_futures=True)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last of which may be shorter.

    Example:
        >>> list(batched("abc", 2))
        [['a', 'b'], ['c']]
    """
    left = iter(items)
    while batch := list(itertools.islice(left, size)):
        yield batch


def _bytes(waiting: Iterable[Future[Any]], size: Callable[[Any], int]) -> int:
    return sum(size(one.result()) for one in waiting if one.done() and not one.cancelled() and one.exception() is None)
