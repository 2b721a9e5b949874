"""What the tests of promises share: the number of cases, a tiny run, and real processes that are started and ended.

The short form of a test runs in every suite; `VITDET_LONG=1` chooses the long form.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
# a model of a few thousand weights on the built-in images, three batches an epoch
TINY = {
    "model": {
        "backbone": {
            "name": "vit_tiny_patch16_224",
            "stem": {"class_path": "ConvStem", "init_args": {"width": 8}},
            "model_args": {"embed_dim": 32, "num_heads": 2},
            "depth": 1,
            "out_channels": 32,
        },
        "head": {"dim": 32, "num_queries": 20, "num_layers": 1, "decoder": {"num_heads": 4, "ffn_dim": 32}},
    },
    "data": {"class_path": "ShapesData", "train_images": 12, "val_images": 5, "size": 64, "batch_size": 4},
    "trainer": {"max_epochs": 2, "accelerator": "cpu", "pictures": 0},
}


def rounds(short: int, long: int) -> int:
    """The number of cases: `short`, or `long` where `VITDET_LONG` is set."""
    return long if os.environ.get("VITDET_LONG", "") not in ("", "0") else short


def tiny_config(folder: Path, *, name: str = "tiny", **sections: dict[str, Any]) -> Path:
    """Writes `NAME.yaml` of a tiny run to `folder`, where its data and `runs/NAME` go, too.

    Args:
        folder: an existing folder.
        name: the name of the run.
        sections: changes to the sections `model`, `data` and `trainer`, such as `trainer={"max_epochs": 3}`. A section
            that changes `class_path` replaces the one of the tiny run.
    """
    config = _over({**TINY, "data": {**TINY["data"], "root": str(folder / "shapes")}}, sections)
    config["trainer"] = {"root": str(folder / "runs"), **config["trainer"]}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _over(base: Any, top: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(top, dict)):
        return top
    if top.get("class_path", base.get("class_path")) != base.get("class_path"):
        return top
    return {**base, **{key: _over(base.get(key), value) for key, value in top.items()}}


class Run(subprocess.Popen):
    """A process in its own process group, whose output goes to a file: it never waits for a reader."""

    def __init__(self, command: list[str], **options: Any) -> None:
        # closed with the object
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        super().__init__(command, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True, **options)

    @property
    def output(self) -> str:
        """What the process and its children have printed so far."""
        return os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode(errors="replace")


def start(argv: list[Any], *, program: tuple[str, ...] = ("-m", "vitdet"), cwd: Any = None, **env: str) -> Run:
    """Starts `python -m vitdet ARGV` in its own process group.

    Args:
        argv: the words after the program.
        program: what Python runs, such as `("-m", "torch.distributed.run", …)` or the path of a script.
        cwd: the working folder.
        env: environment variables that are added.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # a thread of a tiny model only waits for the others
    fixed = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *program, *map(str, argv)]
    return Run(command, cwd=cwd, env={**os.environ, **fixed, **{key: str(value) for key, value in env.items()}})


def finish(process: Run, timeout: float) -> tuple[int, str]:
    """Waits for the end of a process, and returns its status and its output.

    A process that takes longer than `timeout` seconds is killed with its whole group, and the test fails.
    """
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        kill(process)
        raise AssertionError(f"no end within {timeout} s; the output:\n{process.output[-4000:]}") from None
    return code, process.output


def kill(process: Run) -> None:
    """Kills a process and its whole group by SIGKILL, as a lost machine would, and waits for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def left(process: Run) -> list[int]:
    """The processes of the group that still run, such as the children of a process that has ended."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            # after the name, which may hold spaces: the state, the parent and the group
            state, _, group = entry.joinpath("stat").read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(group) == process.pid and state != "Z":
            found.append(int(entry.name))
    return found
