"""Batches: every item gets its own result, no batch is too large, and a fault touches no other item."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitdet.serve.batching import Batcher


def run(main):
    return asyncio.run(asyncio.wait_for(main, 10))


async def with_batcher(use, function, **options):
    batcher = Batcher(function, **{"max_batch": 4, "max_wait": 0.005, **options})
    work = asyncio.create_task(batcher.work())
    try:
        return await use(batcher)
    finally:
        await batcher.stop(work)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.booleans()), max_size=25),
    st.integers(1, 6),
    st.sampled_from([0, 0.001]),
)
def test_each_item_has_its_result(items, max_batch, max_wait):
    """Items have sizes; some fail, and some are given up before they run."""
    batches = []

    def function(batch):
        batches.append([i for i, _ in batch])
        if any(items[i][1] for i, _ in batch):
            raise RuntimeError(f"{[i for i, _ in batch if items[i][1]]}")
        return [i * 10 for i, _ in batch]

    async def use(batcher):
        tasks = [asyncio.ensure_future(batcher.submit((i, size))) for i, (size, _, _) in enumerate(items)]
        await asyncio.sleep(0)
        for task, (_, _, gives_up) in zip(tasks, items):
            if gives_up:
                task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    options = {"max_batch": max_batch, "max_wait": max_wait, "size": lambda item: item[1], "max_size": 10}
    results = run(with_batcher(use, function, **options))
    for i, (result, (_, fails, gives_up)) in enumerate(zip(results, items)):
        if gives_up:
            assert isinstance(result, asyncio.CancelledError)
        else:
            assert str(result) == f"[{i}]" if fails else result == i * 10
    for batch in batches:
        assert len(batch) <= max_batch and (len(batch) == 1 or sum(items[i][0] for i in batch) <= 10)
        assert batch == sorted(batch)


def test_an_item_waits_for_others_but_not_for_long():
    sizes = []

    async def use(batcher):
        loop = asyncio.get_running_loop()
        began = loop.time()
        await batcher.submit(0)
        alone = loop.time() - began
        # four are a batch, and start without a wait
        await asyncio.gather(*map(batcher.submit, range(4)))
        return alone, loop.time() - began - alone

    def function(batch):
        sizes.append(len(batch))
        return batch

    alone, together = run(with_batcher(use, function, max_wait=0.4))
    assert sizes == [1, 4] and 0.39 < alone < 2 and together < 0.35


def test_what_was_submitted_before_the_stop_is_run():
    async def main():
        batcher = Batcher(lambda batch: batch, max_batch=2, max_wait=5)
        work = asyncio.create_task(batcher.work())
        tasks = [asyncio.ensure_future(batcher.submit(i)) for i in range(7)]
        await asyncio.sleep(0)
        await batcher.stop(work)
        return await asyncio.gather(*tasks)

    assert run(main()) == list(range(7))


def test_a_fault_of_the_model_is_told_to_its_sender():
    def function(batch):
        raise MemoryError("too much")

    async def use(batcher):
        return await batcher.submit(1)

    with pytest.raises(MemoryError):
        run(with_batcher(use, function))
