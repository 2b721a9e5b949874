"""Lets ckpt-chaos, a package of others, judge what a kill leaves: `python tests/reliability/outside.py [OPTION …]`.

It kills `vitdet train` at every opening, renaming and removal of a file in the run folder, also with the file cut in
half (`--modes before,torn`), or with all that was not synchronised lost (`unsynced`), resumes it, and compares the
outcome with that of a training that was not killed. The options are those of `ckpt-chaos run`; it is installed by
`pip install ckpt-chaos`.

The commands that ckpt-chaos starts ask a process that has imported everything to fork, which takes a tenth of the time;
the fork is armed as ckpt-chaos arms a process at its start.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from chaos import ROOT, tiny_config

HERE = Path(__file__)


def judge(folder: Path, options: list[str]) -> int:
    """Runs ckpt-chaos, whose commands are `ask`."""
    config = tiny_config(folder, trainer={"max_epochs": 2, "log_every_n_steps": 1, "version": 0})
    ask = f"{sys.executable} {HERE} --ask {folder / 'nursery'}"
    train = f"{ask} train {config} --trainer.root {{out}}"
    run = "{out}/tiny/version_0"
    # a training that was killed before its first checkpoint starts again
    resume = f"if [ -e {run}/last.ckpt ]; then {train} --ckpt_path last; else {train}; fi"
    words = ["--resume-cmd", f"sh -c '{resume}'", "--result-cmd", f"{ask} outcome {run}"]
    words += ["--work", str(folder / "work"), "--step-regex", r"goes on after step (\d+)", *options]
    command = [sys.executable, "-m", "ckpt_chaos", "run", *words, "--", *train.split()]
    return subprocess.run(command, check=False).returncode


def ask(place: str, words: list[str]) -> int:
    """Has the nursery run the words, and passes on what they print and their status."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(place)
        env = {key: value for key, value in os.environ.items() if key.startswith("CKPT_CHAOS_")}
        env.pop("CKPT_CHAOS_ARMED", None)
        client.sendall(json.dumps([words, env]).encode() + b"\n")
        text, _, code = b"".join(iter(lambda: client.recv(65536), b"")).rpartition(b"\0")
    sys.stdout.write(text.decode(errors="replace"))
    return int(code)


def serve(server: socket.socket) -> None:
    """Forks a process for each connection, one after the other."""
    import torch

    import vitdet.command.run
    import vitdet.training  # noqa: F401

    torch.set_num_threads(1)
    while True:
        client, _ = server.accept()
        words, env = json.loads(client.makefile().readline())
        child = os.fork()
        if child == 0:
            os.dup2(client.fileno(), 1)
            os.dup2(client.fileno(), 2)
            os.environ.update(env)
            live(words)
        _, status = os.waitpid(child, 0)
        client.sendall(b"\0%d" % (os.waitstatus_to_exitcode(status) % 256))
        client.close()


def live(words: list[str]) -> None:
    """What a fork does; it never returns."""
    code = 1
    try:
        from ckpt_chaos.targets.common import arm_from_env
        from outcome import fingerprint

        from vitdet.cli import main

        if words[0] == "outcome":
            print(fingerprint(Path(words[1])))
        else:
            arm_from_env(0, lazy=True)
            main(words)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        os._exit(code)


def start(options: list[str]) -> int:
    folder = Path(tempfile.mkdtemp(prefix="outside-"))
    # the commands below see the vitdet of this folder
    os.environ |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]]), "HF_HUB_OFFLINE": "1"}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "nursery"))
        server.listen()
        child = os.fork()
        if child == 0:
            serve(server)
    try:
        return judge(folder, options)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ask"]:
        sys.exit(ask(sys.argv[2], sys.argv[3:]))
    sys.exit(start(sys.argv[1:]))
