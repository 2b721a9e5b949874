"""A job of SLURM that is told that its time is up queues itself again, and goes on where it was when it restarts.

SLURM is not here: a program `scontrol` on the PATH takes its place, and notes how it is called.
"""

import signal
import time

import pytest
import torch
from chaos import rounds, tiny_config
from test_stopping import check_end, config_of, reach

SCONTROL = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/calls"
[ -z "$SCONTROL_FAILS" ] || { echo "slurm_requeue error: Access denied" >&2; exit 1; }
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The environment of a job, and the file with the calls of `scontrol`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "scontrol"
    program.write_text(SCONTROL)
    program.chmod(0o755)
    # what `srun` tells its first task, so that Lightning's own handling of SLURM is there, too
    tasks = {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    return {**tasks, "SLURM_JOB_ID": "4711", "PATH": f"{folder}:/usr/bin:/bin"}, folder / "calls"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "step", "count"),
    rounds([("step", 4, 1)], [("step", 4, 1), ("validation", 3, 1), ("step", 4, 2), ("validation", 3, 2)]),
)
def test_a_job_is_queued_again_and_goes_on(tmp_path, nursery, slurm, phase, step, count):
    job, calls = slurm
    if count == 2:
        # the ranks are those of torchrun, which a job may start, too
        job = {name: job[name] for name in ("SLURM_JOB_ID", "PATH")}
    config = config_of(tmp_path, phase, step, images=12 * count)
    first = nursery.start_ranks if count == 2 else lambda *args, **env: [nursery.start(*args, **env)]
    runs = first(["train", config], folder=tmp_path, **job)
    reach(tmp_path, count, runs)
    sent = time.monotonic()
    for run in runs:
        run.send(signal.SIGUSR1)
        # what SLURM sends to a job that it takes from its nodes
        run.send(signal.SIGTERM)
    check_end(tmp_path, runs, signal.SIGUSR1, sent)
    assert calls.read_text().splitlines() == ["requeue 4711"]
    assert "job 4711 is queued again" in runs[0].output
    last = tmp_path / "runs" / "tiny" / "version_0" / "last.ckpt"
    stopped = torch.load(last, weights_only=True)["global_step"]

    # the same command, while another run of that name is newer
    config = tiny_config(tmp_path, trainer={"max_epochs": 1}, data={"train_images": 12 * count})
    assert nursery.start(["train", config], folder=tmp_path).wait(60) == 0
    config = tiny_config(tmp_path, data={"train_images": 12 * count})
    runs = first(["train", config], folder=tmp_path, **job, SLURM_RESTART_COUNT="1")
    assert [run.wait(60) for run in runs] == [0] * count, runs[0].output[-3000:]
    assert f"job 4711 was started again, and goes on from {last}" in runs[0].output
    assert torch.load(last, weights_only=True)["global_step"] > stopped
    assert sorted(path.name for path in last.parents[1].iterdir()) == ["version_0", "version_1"]


@pytest.mark.slow
@pytest.mark.skipif(rounds(1, 0) == 1, reason="of the long form")
def test_a_job_that_can_not_be_queued_says_so(tmp_path, nursery, slurm):
    job, calls = slurm
    array = {"SLURM_ARRAY_JOB_ID": "47", "SLURM_ARRAY_TASK_ID": "3", "SCONTROL_FAILS": "1"}
    run = nursery.start(["train", config_of(tmp_path, "sanity", 0)], folder=tmp_path, **job, **array)
    reach(tmp_path, 1, [run])
    sent = time.monotonic()
    run.send(signal.SIGUSR1)
    check_end(tmp_path, [run], signal.SIGUSR1, sent)
    assert calls.read_text().splitlines() == ["requeue 47_3"]
    assert (
        "job 47_3 is not queued again: scontrol requeue 47_3 failed (slurm_requeue error: Access denied)" in run.output
    )
