"""A training has the same global batches on any number of processes, also where it goes on with another number."""

from collections import defaultdict

import numpy as np
import pytest
from chaos import rounds
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


CHAINS = {
    "ranks": ({}, [(1, 3), (4, 6), (2, 8), (8, None)]),
    # a batch of a process has at most 2 images
    "accumulated": ({"data": {"batch_size": 2}, "trainer": {"val_check_interval": 0.4}}, [(4, 3), (1, 7), (2, None)]),
    "tokens": ({"data": {"max_tokens": 16 * 8}}, [(2, 1), (4, 3), (1, None)]),
}
# of the short form
CHAINS = {name: CHAINS[name] for name in list(CHAINS)[: rounds(2, 3)]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What was drawn by each training without a stop, by its parts on other numbers of processes, and what was said."""
    folder, runs = tmp_path_factory.mktemp("elastic"), []
    for name, (options, chain) in CHAINS.items():
        trainer = {"max_epochs": rounds(2, 4), **options.get("trainer", {})}
        runs.append({**options, "ranks": chain[0][0], "trainer": {**trainer, "name": f"{name}_straight"}})
        for i, (processes, stop) in enumerate(chain):
            part = {"ranks": processes, "stop": stop, "resume": i > 0, "trainer": {**trainer, "name": name}}
            runs.append({**options, **part})
    runs.append({"ranks": 3, "resume": True, "trainer": {"name": "ranks"}})
    parts, said = run(folder, runs)
    found, first = {}, 0
    for name, (_, chain) in CHAINS.items():
        found[name] = parts[first], parts[first + 1 : first + 1 + len(chain)]
        first += 1 + len(chain)
    return found, said


@pytest.mark.parametrize("name", CHAINS)
def test_a_training_on_other_numbers_of_processes_is_one_training(name, trained):
    (straight, parts), said = trained[0][name], trained[1]
    whole = steps_of(straight)
    assert list(whole) == list(range(len(whole))) and len(whole) > CHAINS[name][1][-2][1]
    assert {step: samples for part in parts for step, samples in steps_of(part).items()} == whole
    if name == "tokens":
        assert "2 times at most 128 tokens: 4 processes, at most 128 tokens, shared by 2 each" in said
        return
    assert all(len(samples) == 8 for samples in whole.values())
    for first in range(0, len(whole), 5):
        images = [image for step in range(first, first + 5) for image, _ in whole[step]]
        assert sorted(images) == sorted({*images}) and len(images) == 40
    if name == "accumulated":
        assert "a global batch keeps its 8 images: 1 process, 4 accumulated batches of 2 images each" in said


def test_gradients_do_not_depend_on_the_number_of_processes(trained):
    (straight, parts), said = trained[0]["ranks"], trained[1]
    np.testing.assert_allclose([norm for part in parts for norm in part[0]["norms"]], straight[0]["norms"], rtol=2e-3)
    assert parts[-1][0]["scores"]["val/AP"] == pytest.approx(straight[0]["scores"]["val/AP"], abs=1e-3)
    assert "keeps its 8 images: 4 processes, 2 images each; before, 1 process, 8 images each" in said


def test_what_can_not_be_shared_is_refused(trained):
    assert "a global batch of the checkpoint has 8 images, which 3 processes can't share equally" in trained[1]
