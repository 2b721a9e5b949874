"""A training has the same global batches on any number of processes, also where it goes on with another number."""

from collections import defaultdict

import numpy as np
import pytest
from forked import run, steps_of
from hypothesis import given, settings
from hypothesis import strategies as st

from vitdet.data.sampler import BatchSampler
from vitdet.data.sharing import Sharing
from vitdet.errors import UserError
from vitdet.progress import Progress

USUAL = {"batch_size": 4, "max_tokens": None, "scales": (0.5, 1.0), "progressive": False, "seed": 3}


def make(tokens, sharing, *, rank=0, repeats=None, state=None):
    progress = Progress(max_epochs=4, accumulate=sharing.accumulate)
    sampler = BatchSampler(tokens, **USUAL, progress=progress, repeats=repeats, rank=rank)
    sampler.share(sharing)
    if state is not None:
        sampler.load_state_dict(state)
    return sampler


def drawn(tokens, sharing, steps, *, state, repeats=None):
    """The draws of the next global batches, each sorted, and the state after them, the same of all ranks."""
    batches, states = defaultdict(list), []
    for rank in range(sharing.ranks):
        sampler = make(tokens, sharing, rank=rank, repeats=repeats, state=state)
        for i, batch in zip(range(steps * sampler.sharing.accumulate), sampler):
            assert batch
            batches[i // sampler.sharing.accumulate] += batch
        states.append(sampler.state_dict())
    assert all(one == states[0] for one in states)
    return [sorted(batch) for batch in batches.values()], states[0]


ranks = st.sampled_from([1, 2, 4, 8])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_an_epoch_goes_on_with_its_global_batches_on_any_number_of_ranks(data):
    """Images are counted, or budgets of tokens filled; some images are drawn several times in an epoch."""
    budget = data.draw(st.sampled_from([None, 240]))
    # a budget has from 8 images
    count = data.draw(st.integers(40, 80) if budget is None else st.integers(300, 400))
    tokens = np.random.default_rng(count).integers(1, 30, count)
    repeats = data.draw(st.sampled_from([None, np.linspace(0.5, 2.5, count)]))
    first, accumulate = data.draw(ranks), data.draw(st.sampled_from([1, 2]))
    start = Sharing.of(8 // first if budget is None else 8, budget, first, accumulate)
    alone = start._replace(ranks=1, accumulate=accumulate if budget is None else start.size)
    whole, _ = drawn(tokens, alone, 99, state={"epoch": 1, "position": 0}, repeats=repeats)

    seen, state, now = [], {"epoch": 1, "position": 0}, start
    while len(seen) < len(whole):
        batches, state = drawn(tokens, now, data.draw(st.integers(1, 3)), state=state, repeats=repeats)
        seen += batches
        now = now.on(data.draw(ranks), 8)
    assert [len(batch) for batch in seen] == [len(batch) for batch in whole]
    assert seen == whole
    if repeats is None and budget is None:
        images = [draw.index for batch in seen for draw in batch]
        assert len(set(images)) == len(images)


@given(st.integers(1, 64), st.integers(1, 12), st.integers(1, 16))
def test_a_global_batch_of_images_is_shared_equally_or_refused(size, batch_size, processes):
    if size % processes:
        with pytest.raises(UserError, match=f"which {processes} processes can't share equally"):
            Sharing(size).on(processes, batch_size)
        return
    sharing = Sharing(size).on(processes, batch_size)
    shares = [sharing.deal([np.arange(size)], rank) for rank in range(processes)]
    assert {len(batch) for share in shares for batch in share} == {size // processes // sharing.accumulate}
    assert size // processes // sharing.accumulate <= batch_size
    assert sorted(np.concatenate([batch for share in shares for batch in share])) == list(range(size))


def test_budgets_of_tokens_are_not_mixed():
    with pytest.raises(UserError, match="divides, or is a multiple of, 4, or set another data.max_tokens"):
        Sharing(4, 100).on(6, 8)
    assert Sharing(4, 100).on(2, 8) == Sharing(4, 100, 2, 2) and Sharing(4, 100).on(8, 8) == Sharing(4, 100, 8, 1)


def test_a_batch_size_that_was_changed_goes_on_after_the_images_that_were_drawn():
    state = make([1] * 40, Sharing(8)).state_at(3)
    resumed = make([1] * 40, Sharing(10), state=state)
    # 24 images were drawn: two global batches of 10 lie in them, and the third is drawn whole
    assert resumed.position == 2


def test_checkpoints_of_before_say_nothing_of_sharing():
    assert make([1] * 40, Sharing(8), state={"epoch": 0, "position": 3}).position == 3


# ---- trainings


def test_a_training_on_1_4_2_and_8_processes_is_one_training(tmp_path):
    chain = [{"ranks": 1, "stop": 3}, {"ranks": 4, "stop": 7}, {"ranks": 2, "stop": 11}, {"ranks": 8}]
    runs = [{"ranks": 1, "trainer": {"name": "straight"}}, *({"resume": i > 0, **one} for i, one in enumerate(chain))]
    (straight, *others), said = run(tmp_path, runs)
    whole = steps_of(straight)
    assert list(whole) == list(range(15)) and all(len(samples) == 8 for samples in whole.values())
    joined = {step: samples for part in others for step, samples in steps_of(part).items()}
    assert joined == whole
    for epoch in range(3):
        images = [image for step in range(5 * epoch, 5 * epoch + 5) for image, _ in whole[step]]
        assert sorted(images) == sorted({*images}) and len(images) == 40
    norms = [norm for part in others for norm in part[0]["norms"]]
    np.testing.assert_allclose(norms, straight[0]["norms"], rtol=2e-3)
    assert others[-1][0]["scores"]["val/AP"] == pytest.approx(straight[0]["scores"]["val/AP"], abs=1e-3)
    assert "a global batch keeps its 8 images: 4 processes, 2 images each; before, 1 process, 8 images each" in said


def test_accumulation_keeps_the_global_batch(tmp_path):
    data, trainer = {"batch_size": 2}, {"val_check_interval": 0.4}
    chain = [{"ranks": 4, "stop": 3}, {"ranks": 1, "stop": 7}, {"ranks": 2, "stop": 11}, {"ranks": 4}]
    runs = [
        {"ranks": 4, "data": data, "trainer": {"name": "straight", **trainer}},
        *({"resume": i > 0, "data": data, "trainer": trainer, **one} for i, one in enumerate(chain)),
    ]
    (straight, *others), said = run(tmp_path, runs)
    joined = {step: samples for part in others for step, samples in steps_of(part).items()}
    assert len(joined) == 15 and joined == steps_of(straight)
    assert "1 process, 4 accumulated batches of 2 images each" in said


def test_budgets_of_tokens_make_the_same_global_batches(tmp_path):
    data = {"max_tokens": 16 * 8, "size": 64}
    chain = [{"ranks": 2, "stop": 3}, {"ranks": 4, "stop": 5}, {"ranks": 1}]
    runs = [
        {"ranks": 2, "data": data, "trainer": {"name": "straight"}},
        *({"resume": i > 0, "data": data, **one} for i, one in enumerate(chain)),
    ]
    (straight, *others), said = run(tmp_path, runs)
    joined = {step: samples for part in others for step, samples in steps_of(part).items()}
    assert joined == steps_of(straight)
    assert "2 times at most 128 tokens: 4 processes, at most 128 tokens, shared by 2 each" in said


def test_what_can_not_be_shared_is_refused(tmp_path):
    runs = [{"ranks": 1, "stop": 2}, {"ranks": 3, "resume": True}]
    _, said = run(tmp_path, runs)
    assert "a global batch of the checkpoint has 8 images, which 3 processes can't share equally" in said
