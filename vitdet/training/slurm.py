"""Jobs of SLURM: one that is told that its time is up queues itself again, and goes on where it was when it restarts.

Nothing of this happens outside of SLURM, which is known by the environment variable SLURM_JOB_ID.
"""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_info

from vitdet.training.folder import find, runs

# the file in a run folder that says which job trains there
MARK = "slurm_job"


def job() -> str | None:
    """The id of this job, such as `1234`, or `1234_5` for a job of an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def requeue_signals(trainer: Any) -> list[int]:
    """The signal after which the job is queued again: SIGUSR1, unless a `SLURMEnvironment` of the user says else."""
    if job() is None or not hasattr(signal, "SIGUSR1"):
        return []
    environment = trainer._accelerator_connector.cluster_environment
    if not isinstance(environment, SLURMEnvironment):
        return [signal.SIGUSR1]
    return [environment.requeue_signal or signal.SIGUSR1] if environment.auto_requeue else []


def requeue() -> str:
    """Queues this job again, and returns a line that says whether that went well."""
    command = ["scontrol", "requeue", str(job())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
        fault = " ".join((done.stderr or done.stdout).split()) or f"exit status {done.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"job {job()} is not queued again: {' '.join(command)} failed ({error}); submit it again"
    if done.returncode != 0:
        return f"job {job()} is not queued again: {' '.join(command)} failed ({fault}); submit it again"
    return f"job {job()} is queued again, and will go on by itself"


def mark(folder: Path) -> None:
    """Notes in a run folder which job trains there."""
    path = folder / MARK
    # of a job that was started again, the mark is older than its checkpoints
    if job() is not None and not _is_marked(folder):
        path.write_text(f"{job()}\n", encoding="utf-8")


def go_on(trainer: Any, ckpt_path: Any) -> Any:
    """What a training goes on from: the checkpoint that this job has written before it was started again, if it has.

    Args:
        trainer: the trainer, for its runs.
        ckpt_path: what the command says.
    """
    restarted = job() is not None and os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    root, name, _ = trainer._place
    for folder in reversed(runs(root, name) if restarted and not trainer.given.dry and not trainer.given.bare else []):
        last = folder / "last.ckpt"
        # an older one is that of an earlier training in this folder
        if _is_marked(folder) and last.is_file() and last.stat().st_mtime >= (folder / MARK).stat().st_mtime:
            rank_zero_info(f"job {job()} was started again, and goes on from {last}")
            return find("last", [folder], folder)
    return ckpt_path


def _is_marked(folder: Path) -> bool:
    path = folder / MARK
    return path.is_file() and path.read_text(encoding="utf-8").strip() == job()
