"""Whether a checkpoint can be gone on with."""

from pathlib import Path

from vitdet.training.task import Task


def check_resume(task: Task, path: str | Path, *, training: bool) -> None:
    """Nothing is checked yet."""
