"""Files of strangers: none runs code, imports a module, hangs or takes much memory, and each is refused in a sentence.

The short form runs a third of the cases, each in a forked process; the long form starts a process for each of all.
"""

import json
import os
import resource
import subprocess
import sys
import time

import pytest
from chaos import ROOT, rounds
from hostile import CASES, MAY_WORK, Kit, make_kit

LONG = bool(rounds(0, 1))
# cases that earlier versions failed
ONCE = {
    "a config: merge keys that multiply",
    "a head of a module beside it: train from it",
    "a neck of a module beside it, as a text: go on with it",
    "a zip bomb: a pickle of 3 GB in 3 MB",
    "an image that is PostScript",
    "a checkpoint to go on with whose optimizer_states are of another kind",
    "a line of pixels for a model that sees the short side",
    "configs whose bases are each the base of the next twice",
    "an ONNX file with weights outside of its folder",
}
NAMES = [name for i, name in enumerate(CASES) if i % 3 == 0 or LONG or name in ONCE]
# seconds of the processor that a case may take, and bytes that it may need beyond those of the libraries
SECONDS, BYTES, GROWN = 20, 3 * 2**30, 1.5 * 2**30


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    return folder, make_kit(folder)


@pytest.fixture(scope="module")
def server():
    command = [sys.executable, str(ROOT / "tests" / "reliability" / "hostile_server.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()
        process.wait(30)


def forked(server, argv, folder) -> dict:
    order = {"argv": argv, "folder": str(folder), "seconds": SECONDS, "bytes": BYTES}
    server.stdin.write(json.dumps(order) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


def alone(argv, folder) -> dict:
    """The same in a process of its own, as a user starts it; importing takes it some seconds and gigabytes."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (3 * BYTES,) * 2)

    begun = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with open(folder / "printed", "wb") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", "vitdet", *argv],
            stdout=printed,
            stderr=printed,
            cwd=folder,
            env=environment,
            preexec_fn=limit,
        )
        try:
            code = process.wait(8 * SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    return {"code": code, "seconds": time.monotonic() - begun, "grown": 0, "did": []}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_a_stranger(name, kit, tmp_path, request):
    good, contents = kit
    argv = CASES[name](Kit(tmp_path, contents, good))
    (tmp_path / "good.ckpt").symlink_to(good / "good.ckpt")
    done = alone(argv, tmp_path) if LONG else forked(request.getfixturevalue("server"), argv, tmp_path)
    said = (tmp_path / "printed").read_text(errors="replace")
    told = f"{argv}: {done}\n{said[-3000:]}"
    assert not done["did"] and not (tmp_path / "imported").exists() and not (tmp_path / "called").exists(), told
    assert done["code"] in ((0, 1, 2) if name in MAY_WORK else (2,)), told
    assert "Traceback" not in said, told
    if done["code"] == 2:
        last = said.splitlines()[-1]
        assert last.startswith("vitdet: ") and len(last) < 800, told
    assert done["grown"] < GROWN, told


def test_there_are_enough():
    assert len(NAMES) >= 60 and set(NAMES) >= ONCE
