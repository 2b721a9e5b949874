"""A signal to any rank, or to all, ends all ranks: none hangs in what they do together, and all save the same step."""

import os
import random
import signal
import time

import pytest
import torch
from chaos import finish, left, rounds, start, tiny_config
from test_stopping import PHASES, check_end, config_of, reach

TERM, INT = signal.SIGTERM, signal.SIGINT
SHORT = [("step1", 0, INT), ("validation3", 1, TERM), ("saving3", "all", TERM)]


def cases():
    """The phase, its step, the step that is saved, the signal, and the ranks that get it."""
    found = []
    for number in (TERM, INT):
        for phase, step, saved in PHASES:
            for to in (0, 1, "all"):
                name = f"{phase}{step or ''}"
                if rounds(0, 1) or (name, to, number) in SHORT:
                    label = f"{name}-{signal.Signals(number).name}-to-{to}"
                    found.append(pytest.param(phase, step, saved, number, to, id=label))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "step", "saved", "number", "to"), cases())
def test_two_ranks(tmp_path, nursery, phase, step, saved, number, to):
    config = config_of(tmp_path, phase, step, images=24)
    ranks = nursery.start_ranks(["train", config], folder=tmp_path)
    reach(tmp_path, 2, ranks)
    before = set(os.listdir("/dev/shm"))
    sent = time.monotonic()
    for rank, run in enumerate(ranks):
        if to in (rank, "all"):
            run.send(number)
    check_end(tmp_path, ranks, number, sent)
    assert set(os.listdir("/dev/shm")) <= before
    last = tmp_path / "runs" / "tiny" / "version_0" / "last.ckpt"
    if saved is None:
        assert not last.exists()
    else:
        assert torch.load(last, weights_only=True)["global_step"] == saved


@pytest.mark.slow
@pytest.mark.parametrize("waiting", rounds([1], [0, 1]))
@pytest.mark.parametrize("phase", rounds(["validation"], ["setup", "sanity", "validation", "scored", "report"]))
def test_a_rank_that_waits_for_another_ends(tmp_path, nursery, phase, waiting):
    """One rank sleeps; the other has done its part, and waits in a call that no signal reaches."""
    config = config_of(tmp_path, phase, 0, images=24, rank=1 - waiting)
    ranks = nursery.start_ranks(["train", config], folder=tmp_path)
    reach(tmp_path, 2, ranks)
    time.sleep(0.5)
    sent = time.monotonic()
    ranks[waiting].send(TERM)
    check_end(tmp_path, ranks, TERM, sent)


LAUNCHERS = {
    "lightning": (),
    "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "vitdet"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", range(rounds(1, 10)))
@pytest.mark.parametrize("to", rounds(["group"], ["main", "rank", "group"]))
@pytest.mark.parametrize("launcher", rounds(["lightning"], LAUNCHERS))
def test_at_any_time(tmp_path, launcher, to, case):
    """From the first moment of a process to the end of its last epoch, started as users do."""
    config = tiny_config(tmp_path, trainer={"devices": 2, "strategy": "ddp", "max_epochs": 1000})
    before = set(os.listdir("/dev/shm"))
    process = start(["train", config], program=LAUNCHERS[launcher] or ("-m", "vitdet"))
    # the first second is that of Python itself
    time.sleep(random.Random(f"{launcher} {to} {case}").uniform(1.0, 25.0))
    sent = time.monotonic()
    number = INT if case % 2 else TERM
    if to == "group":
        os.killpg(process.pid, number)
    else:
        children = [pid for pid in left(process) if pid != process.pid]
        os.kill(children[-1] if to == "rank" and children else process.pid, number)
    code, output = finish(process, 10)
    assert time.monotonic() - sent < 10
    # torchrun has a status and a traceback of its own
    if launcher == "lightning":
        assert code in (128 + number, -number), output[-3000:]
        assert "Traceback" not in output, output[-3000:]
    assert code != 0 and output.count("not finished") <= 1
    assert not left(process)
    assert set(os.listdir("/dev/shm")) <= before
    assert not list(tmp_path.glob("runs/*/*/*.tmp"))
    last = tmp_path / "runs" / "tiny" / "version_0" / "last.ckpt"
    assert not last.exists() or torch.load(last, weights_only=True)["global_step"] > 0
