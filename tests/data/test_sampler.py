"""Order, sharding and resuming of batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitdet.data.sampler import BatchSampler, EvalBatchSampler
from vitdet.progress import Progress


def sampler_of(tokens, **options):
    """The sampler with what a plain `ImageData` hands it, but for `options`."""
    usual = {"batch_size": 8, "max_tokens": None, "scales": (1.0, 1.0), "progressive": False, "seed": 0}
    return BatchSampler(tokens, **{**usual, "progress": Progress(), **options})


def _indices(batches):
    return [[draw.index for draw in batch] for batch in batches]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 50), st.integers(1, 4), st.integers(1, 4), st.integers(0, 5))
def test_global_batches_are_the_same_on_any_number_of_ranks(count, share, ranks, epoch):
    def make(rank, world, size):
        sampler = sampler_of([1] * count, batch_size=size, rank=rank, world_size=world, seed=3)
        sampler.set_epoch(epoch)
        return _indices(sampler)

    one = make(0, 1, share * ranks)
    many = [make(rank, ranks, share) for rank in range(ranks)]
    assert len({len(batches) for batches in many}) == 1
    if count >= ranks:
        assert [sorted(sum(parts, [])) for parts in zip(*many)] == [sorted(batch) for batch in one]
    assert all(batch for batches in many for batch in batches)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 60), st.integers(1, 3))
def test_token_budget(tokens, budget, ranks):
    seen = []
    for rank in range(ranks):
        sampler = sampler_of(tokens, max_tokens=budget, rank=rank, world_size=ranks)
        batches = _indices(sampler)
        assert len(batches) == len(sampler)
        for batch in batches:
            assert len(batch) == 1 or sum(tokens[i] for i in batch) <= budget
        seen += sum(batches, [])
    if ranks == 1:
        assert sorted(seen) == list(range(len(tokens)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 90), st.integers(1, 3))
def test_all_epochs_have_as_many_batches(tokens, budget, ranks):
    samplers = [sampler_of(tokens, max_tokens=budget, rank=r, world_size=ranks) for r in range(ranks)]
    length = len(samplers[0])
    for epoch in range(5):
        for sampler in samplers:
            sampler.set_epoch(epoch)
            batches = _indices(sampler)
            assert len(batches) == len(sampler) == length
            assert all(len(batch) == 1 or sum(tokens[i] for i in batch) <= budget for batch in batches)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(1, 5), st.integers(1, 4))
def test_evaluation_sees_every_image_once(count, batch_size, ranks):
    tokens = np.random.default_rng(0).integers(1, 9, count)
    parts = [_indices(EvalBatchSampler(tokens, batch_size=batch_size, rank=r, world_size=ranks)) for r in range(ranks)]
    seen = sorted(sum((sum(part, []) for part in parts), []))
    assert seen == list(range(count)) if count >= ranks else set(seen) == set(range(count))
    assert all(parts) or not count  # a rank without an image would skip the validation, and the others wait for it


@pytest.mark.parametrize("options", [{"batch_size": 3}, {"max_tokens": 10}])
def test_resumes_in_the_middle_of_an_epoch(options):
    def make():
        sampler = sampler_of([2] * 20, scales=(0.5, 1.0), seed=1, **options)
        sampler.set_epoch(2)
        return sampler

    whole = list(make())
    stopped = make()
    first = [batch for _, batch in zip(range(3), stopped)]
    resumed = make()
    resumed.load_state_dict({"epoch": 2, "position": 3})
    assert first + list(resumed) == whole
    assert list(resumed) == whole  # the next pass is a whole one


def test_overfitting_has_the_same_batches_in_every_epoch():
    sampler = sampler_of([1] * 30, batch_size=4)
    sampler.same_order = True
    first = _indices(sampler)
    sampler.set_epoch(1)
    again = list(sampler)
    assert _indices(again) == first and {draw.epoch for batch in again for draw in batch} == {1}


def test_epochs_differ_and_repeat():
    sampler = sampler_of([1] * 30, batch_size=4)
    zero = _indices(sampler)
    sampler.set_epoch(1)
    one = _indices(sampler)
    sampler.set_epoch(0)
    assert zero != one and _indices(sampler) == zero


def test_progressive_scale_grows_to_the_full_size_and_stays():
    sampler = sampler_of([1] * 40, batch_size=2, scales=(0.5, 1.0), progressive=True, progress=Progress(max_epochs=2))
    scales = [batch[0].scale for batch in sampler]
    sampler.set_epoch(1)
    scales += [batch[0].scale for batch in sampler]
    assert scales[0] == 0.5 and scales == sorted(scales) and scales[16] == pytest.approx(0.75)
    assert scales[32:] == [1.0] * 8
    progress = [batch[0].progress for batch in sampler]
    assert progress[0] == 0.5 and progress[-1] == pytest.approx(39 / 40)
