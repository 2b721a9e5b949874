"""Real runs that start at once: a process that has imported everything forks a child for each, in its own session.

with Nursery() as nursery:
    run = nursery.start(["train", config], folder=tmp_path)
    run.send(signal.SIGTERM)
    assert run.wait(10) == 143 and "not finished" in run.output
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Started:
    """A run that a nursery has started: a process, and all that it starts.

    Args:
        nursery: where it comes from.
        pid: its process id, which is that of its group, too.
        log: the file with its output.
    """

    def __init__(self, nursery: "Nursery", pid: int, log: Path) -> None:
        self.nursery, self.pid, self.log, self.status = nursery, pid, log, None

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def poll(self) -> int | None:
        """The exit status, negative where a signal has killed it; `None` as long as it runs."""
        if self.status is None:
            self.status = self.nursery.ask({"poll": self.pid})
        return self.status

    def wait(self, seconds: float) -> int:
        """Waits for its end; a run that takes longer is killed with its group, and the test fails."""
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill()
                raise AssertionError(f"no end within {seconds} s; the output:\n{self.output[-4000:]}")
            time.sleep(0.02)
        return self.status

    def send(self, number: int, *, group: bool = False) -> None:
        """Sends a signal to the process, or to its whole group, as a terminal and many schedulers do."""
        (os.killpg if group else os.kill)(self.pid, number)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        while self.poll() is None:
            time.sleep(0.02)


class Nursery:
    """Starts `vitdet ARGV` in forked processes. It must be closed, which kills what still runs."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(HERE), str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._server = subprocess.Popen([sys.executable, __file__], text=True, env=env, **pipes)
        self._runs: list[Started] = []

    def ask(self, request: dict[str, Any]) -> Any:
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(self, argv: list[Any], *, folder: Path, **env: str) -> Started:
        """Starts a run.

        Args:
            argv: the words after `vitdet`.
            folder: its working folder, where its output goes.
            env: environment variables that are added.
        """
        log = folder / f"output{len(self._runs)}.txt"
        log.touch()
        request = {"argv": [str(word) for word in argv], "log": str(log), "cwd": str(folder), "env": env}
        self._runs.append(Started(self, self.ask(request), log))
        return self._runs[-1]

    def start_ranks(self, argv: list[Any], *, folder: Path, count: int = 2, **env: str) -> list[Started]:
        """Starts a run of several ranks, as torchrun and SLURM do: each is a process of its own."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
        shared |= {"MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", **env}
        words = [*argv, "--trainer.devices", count, "--trainer.strategy", "ddp"]
        ranks = ({"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count))
        return [self.start(words, folder=folder, **shared, **rank) for rank in ranks]

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_: Any) -> None:
        for run in self._runs:
            run.kill()
        # it has nothing of its own to tidy up
        self._server.kill()
        self._server.wait()
        self._server.stdin.close()
        self._server.stdout.close()


def _child(request: dict[str, Any]) -> None:
    """Becomes the run."""
    os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for number, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
        os.dup2(number, target)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    sys.argv = ["vitdet", *request["argv"]]
    from vitdet.cli import main

    main()


def _serve() -> None:
    # all that a run needs; it starts no thread
    import vitdet.command.run  # noqa: F401

    # the pipe to the test must not be that of the runs
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in requests:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            reply = os.waitstatus_to_exitcode(status) if pid else None
        else:
            reply = os.fork()
            if reply == 0:
                _child(request)
                return
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    _serve()
