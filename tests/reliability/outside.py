"""Lets ckpt-chaos, a package of others, judge what a kill leaves: `python tests/reliability/outside.py [OPTION …]`.

It kills `vitdet train` at every opening, renaming and removal of a file in the run folder, also with the file cut in
half, resumes it, and compares the outcome with that of a training that was not killed. The options are those of
`ckpt-chaos run`; it is installed by `pip install ckpt-chaos`.
"""

import os
import sys
import tempfile
from pathlib import Path

from chaos import ROOT, tiny_config

HERE = Path(__file__).parent


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="outside-"))
    config = tiny_config(folder, trainer={"max_epochs": 2, "log_every_n_steps": 1, "version": 0})
    train = f"{sys.executable} -m vitdet train {config} --trainer.root {{out}}"
    run = "{out}/tiny/version_0"
    # a training that was killed before its first checkpoint starts again
    resume = f"if [ -e {run}/last.ckpt ]; then {train} --ckpt_path last; else {train}; fi"
    result = f"{sys.executable} {HERE / 'outcome.py'} {run}"
    options = ["--resume-cmd", f"sh -c '{resume}'", "--result-cmd", result, "--work", str(folder / "work")]
    options += ["--step-regex", r"goes on after step (\d+)", *sys.argv[1:]]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    os.execve(sys.executable, [sys.executable, "-m", "ckpt_chaos", "run", *options, "--", *train.split()], env)


if __name__ == "__main__":
    main()
