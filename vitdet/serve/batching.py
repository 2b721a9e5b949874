"""Collects what arrives one by one into batches for the model."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Runs a function on batches of what is submitted one by one, in a thread of its own.

    A batch starts when it is full, or when its first item has waited for `max_wait`. While the function runs, the next
    batch fills, so that under load batches are full without waiting. Where the function fails on a batch of several,
    it gets its items one by one, and only those that fail alone have failed.

    Args:
        run: the function of a batch; it returns a result for each item, in order.
        max_batch: the largest number of items of a batch.
        max_wait: seconds that an item waits for others.
        size: the size of an item, which counts against `max_size`.
        max_size: the largest sum of sizes of a batch; an item that is larger is a batch of its own.

    Example:
        >>> async def main():
        ...     batcher = Batcher(lambda batch: [(number, len(batch)) for number in batch], max_batch=2, max_wait=9)
        ...     work = asyncio.create_task(batcher.work())
        ...     results = await asyncio.gather(batcher.submit(1), batcher.submit(2))
        ...     await batcher.stop(work)
        ...     return results
        >>> asyncio.run(main())
        [(1, 2), (2, 2)]
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result]],
        *,
        max_batch: int,
        max_wait: float,
        size: Callable[[Item], int] = lambda item: 0,
        max_size: int = 0,
    ) -> None:
        self._run, self._size = run, size
        self._max_batch, self._max_wait, self._max_size = max_batch, max_wait, max_size
        self._waiting: deque[tuple[Item, asyncio.Future[Result], float]] = deque()
        self._changed, self._stopping = asyncio.Event(), False
        self._thread = ThreadPoolExecutor(1, "vitdet-model")

    async def submit(self, item: Item) -> Result:
        """The result of an item; where the caller is cancelled before its batch starts, the item is not run."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future, loop.time()))
        self._changed.set()
        return await future

    async def work(self) -> None:
        """Runs batches until `stop`, and what is waiting then."""
        loop = asyncio.get_running_loop()
        while True:
            await self._fill(loop)
            batch = self._take()
            if batch:
                await self._answer(loop, batch)
            elif self._stopping:
                return

    async def stop(self, work: "asyncio.Task[None]") -> None:
        """Waits until all that was submitted has its result; `work` is the task that runs `work()`."""
        self._stopping = True
        self._changed.set()
        await work
        self._thread.shutdown()

    async def _fill(self, loop: asyncio.AbstractEventLoop) -> None:
        """Waits until there is a batch to run, or nothing more to wait for."""
        while not self._stopping and len(self._waiting) < self._max_batch:
            left = self._waiting[0][2] + self._max_wait - loop.time() if self._waiting else None
            if left is not None and left <= 0:
                return
            self._changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    def _take(self) -> list[tuple[Item, "asyncio.Future[Result]"]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        total = 0
        while self._waiting and len(batch) < self._max_batch:
            item, future, _ = self._waiting[0]
            total += self._size(item)
            if batch and total > self._max_size > 0:
                break
            self._waiting.popleft()
            # nobody waits any more for what was cancelled
            if future.done():
                total -= self._size(item)
            else:
                batch.append((item, future))
        return batch

    async def _answer(self, loop: asyncio.AbstractEventLoop, batch: list) -> None:
        for future, outcome in zip([future for _, future in batch], await self._outcomes(loop, batch)):
            if future.done():
                continue
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    async def _outcomes(self, loop: asyncio.AbstractEventLoop, batch: list) -> Sequence:
        """A result, or the exception, of each item."""
        try:
            return await loop.run_in_executor(self._thread, self._run, [item for item, _ in batch])
        except Exception as error:
            if len(batch) == 1:
                return [error]
        return [outcome for one in batch for outcome in await self._outcomes(loop, [one])]
