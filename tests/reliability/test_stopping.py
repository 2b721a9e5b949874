"""SIGTERM and Ctrl-C end a run within ten seconds in whatever it does; its status says that it is not finished, and it
goes on where it was."""

import random
import signal
import time
from pathlib import Path

import pytest
import torch
from chaos import rounds, tiny_config

TERM, INT = signal.SIGTERM, signal.SIGINT
# the seconds that a phase lasts: those in which work is saved must come to their end before the run ends
LASTS = {"step": 1.0, "saving": 1.0}
# the phase, how many steps are done then, and how many are done at least when the run goes on
PHASES = [
    ("setup", 0, None),
    ("sanity", 0, None),
    ("step", 1, 2),
    ("step", 5, 6),
    ("saving", 3, 3),
    ("validation", 3, 3),
    ("validation", 6, 6),
    ("scoring", 3, 3),
    ("scored", 6, 6),
    ("report", 6, 6),
]
SHORT = [("step1", INT), ("saving3", TERM), ("validation3", TERM)]


def reach(folder: Path, count: int, runs, seconds: float = 60) -> None:
    """Waits until `count` ranks have reached the phase, which none of them leaves by itself."""
    end = time.monotonic() + seconds
    while not all((folder / f"reached{rank}").exists() for rank in range(count)):
        ended = next((run for run in runs if run.poll() is not None), None)
        assert ended is None, f"status {ended.poll()}:\n{ended.output[-4000:]}"
        assert time.monotonic() < end, runs[0].output[-4000:]
        time.sleep(0.02)
    time.sleep(0.2)


def config_of(folder: Path, phase: str, step: int, *, images: int = 12, **more):
    """A tiny run that stays in a phase; three steps an epoch are 12 images for each rank."""
    where = {"phase": phase, "folder": str(folder), "step": step, "seconds": LASTS.get(phase, 60.0), **more}
    callbacks = [{"class_path": "phases.Phase", "init_args": where}]
    trainer = {"callbacks": callbacks, "pictures": int(phase == "report")}
    return tiny_config(folder, trainer=trainer, data={"train_images": images})


def check_end(folder: Path, runs, number: int, sent: float) -> None:
    """All ranks end in time, with the status of the signal and a single line, and leave nothing behind."""
    for run in runs:
        status = run.wait(max(0.1, 10 - (time.monotonic() - sent)))
        assert status == 128 + number, run.output[-4000:]
    output = "".join(run.output for run in runs)
    name = signal.Signals(number).name
    assert output.count(f"not finished: stopped by {name}") == 1 and "Traceback" not in output, output[-4000:]
    assert not list(folder.glob("runs/*/*/*.tmp")) and not list(folder.glob("runs/*/*/.*"))


def cases():
    """The phase, its step, the step that is saved, and the signal."""
    found = []
    for number in (TERM, INT):
        for phase, step, saved in PHASES:
            name = f"{phase}{step or ''}"
            if rounds(0, 1) or (name, number) in SHORT:
                label = f"{name}-{signal.Signals(number).name}"
                found.append(pytest.param(phase, step, saved, number, id=label))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "step", "saved", "number"), cases())
def test_one_process(tmp_path, nursery, phase, step, saved, number):
    config = config_of(tmp_path, phase, step)
    run = nursery.start(["train", config], folder=tmp_path)
    reach(tmp_path, 1, [run])
    sent = time.monotonic()
    run.send(number, group=rounds(0, 1) == 1)
    check_end(tmp_path, [run], number, sent)
    last = tmp_path / "runs" / "tiny" / "version_0" / "last.ckpt"
    if saved is None:
        assert not last.exists() and "start it again" in run.output
        return
    assert torch.load(last, weights_only=True)["global_step"] == saved
    assert f"go on with --ckpt_path last ({last})" in run.output
    (tmp_path / "reached0").unlink()
    config = tiny_config(tmp_path, trainer={"pictures": 0})
    assert nursery.start(["train", config, "--ckpt_path", "last"], folder=tmp_path).wait(60) == 0
    assert torch.load(last, weights_only=True)["global_step"] == 6
    assert (last.parent / "best.ckpt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("case", range(rounds(1, 24)))
def test_one_process_at_any_time(tmp_path, nursery, case):
    """From the first look at the data on; the short steps, saves and validations take their turns."""
    config = tiny_config(tmp_path, trainer={"max_epochs": 100000})
    run = nursery.start(["train", config], folder=tmp_path)
    end = time.monotonic() + 60
    # before, Python imports the first module of vitdet
    while "Seed set" not in run.output:
        assert run.poll() is None and time.monotonic() < end, run.output
        time.sleep(0.01)
    time.sleep(random.Random(case).uniform(0.0, 6.0))
    number, sent = (INT if case % 2 else TERM), time.monotonic()
    run.send(number, group=case % 4 < 2)
    check_end(tmp_path, [run], number, sent)
    last = tmp_path / "runs" / "tiny" / "version_0" / "last.ckpt"
    assert ("go on with" in run.output) == last.exists()
    assert not last.exists() or torch.load(last, weights_only=True)["global_step"] > 0


@pytest.mark.slow
def test_processes_that_load_data_survive_a_signal_to_all(tmp_path, nursery):
    """A terminal sends Ctrl-C to the group of the run, and SLURM sends SIGTERM to all of its processes."""
    config = config_of(tmp_path, "step", 1)
    run = nursery.start(["train", config, "--data.num_workers", 2], folder=tmp_path)
    reach(tmp_path, 1, [run])
    sent = time.monotonic()
    run.send(TERM, group=True)
    check_end(tmp_path, [run], TERM, sent)
    last = tmp_path / "runs" / "tiny" / "version_0" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 2


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(tmp_path, nursery):
    config = config_of(tmp_path, "step", 2, seconds=60.0)
    run = nursery.start(["train", config], folder=tmp_path)
    reach(tmp_path, 1, [run])
    run.send(INT)
    # a terminal and torchrun may send the first one twice
    run.send(INT)
    time.sleep(2.5)
    assert run.poll() is None and "press Ctrl-C again" in run.output
    sent = time.monotonic()
    run.send(INT)
    check_end(tmp_path, [run], INT, sent)
