"""Where a rank stalls, dies or fails, all ranks end within the limit, with one message that names it."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from chaos import Run, finish, left, rounds, start, tiny_config
from hypothesis import given
from hypothesis import strategies as st

from vitdet.training.ranks import Judge, State

TIMEOUT = rounds(6, 20)
# seconds that the others need to learn of it, and to end; they are a few, but other tests may run beside
MARGIN = 30
NAMES = {
    "sleeps": "made no progress",
    "spins": "made no progress",
    "stopped": "not been heard of",
    "killed": "SIGKILL|without a word",
    "gone": "status 3|without a word",
    "leaves": "status 0|without a word|lost its connection",
    "fault": "list index out of range",
    "mistake": "cat.jpg can't be decoded",
}
# the first are the short form
CASES = [
    ("sleeps", 1, "training"),
    ("killed", 0, "validation"),
    ("mistake", 1, "training"),
    ("stopped", 0, "training"),
    ("stopped", 1, "validation"),
    ("sleeps", 0, "training"),
    ("sleeps", 0, "saving"),
    ("sleeps", 1, "end"),
    ("sleeps", 0, "end"),
    ("sleeps", 1, "setup"),
    ("spins", 1, "training"),
    ("spins", 0, "validation"),
    ("killed", 1, "training"),
    ("killed", 0, "saving"),
    ("killed", 1, "end"),
    ("gone", 1, "training"),
    ("gone", 0, "validation"),
    ("leaves", 1, "training"),
    ("fault", 0, "training"),
    ("fault", 1, "validation"),
]


def config(folder: Path, kind: str, rank: int, place: str, **trainer) -> Path:
    shutil.copy(Path(__file__).parent / "faults.py", folder)
    fault = {"class_path": "faults.Fault", "init_args": {"kind": kind, "rank": rank, "place": place}}
    fault["init_args"]["slow"] = trainer.pop("slow", 0.0)
    options = {"devices": 2, "strategy": "ddp", "rank_timeout": TIMEOUT, "callbacks": [fault], **trainer}
    return tiny_config(folder, trainer=options)


def events(folder: Path) -> list[dict]:
    (path,) = folder.glob("runs/tiny/*/events.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "rank", "place"), CASES[: rounds(2, len(CASES))])
def test_all_ranks_end_and_one_message_names_the_one_to_blame(tmp_path, kind, rank, place):
    shared = set(os.listdir("/dev/shm"))
    process = start(["train", config(tmp_path, kind, rank, place)], cwd=tmp_path)
    status, _ = finish(process, 180)
    happened = float((tmp_path / "happened").read_text())
    # where the first rank was killed, the others outlive it for as long as they need to learn of it
    while left(process) and time.time() - happened < TIMEOUT + MARGIN:
        time.sleep(0.1)
    output = process.output
    assert time.time() - happened < TIMEOUT + MARGIN, output
    assert status != 0
    told = [line for line in output.splitlines() if line.startswith("vitdet: ")]
    if kind == "fault":
        # a fault of vitdet's has a traceback, and says how to report it
        assert output.count("Traceback") == 1 and f"on rank {rank} of 2" in output, output
    else:
        assert "Traceback" not in output, output
        assert re.search(NAMES[kind], told[0]), told
        blamed = rf"rank {rank} of 2"
        assert re.search(blamed, told[0]), told
    assert len(told) == 1, output
    assert not left(process), output
    assert set(os.listdir("/dev/shm")) <= shared
    if rank == 1:
        assert [event["ranks"] for event in events(tmp_path) if event["kind"] == "rank_lost"] == [[1]]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["end", "setup", "saving"][: rounds(1, 3)])
def test_a_rank_that_works_is_waited_for(tmp_path, place):
    """For longer than the limit, while the other rank waits; each step takes a good part of the limit, too."""
    path = config(tmp_path, "works", 0, place, slow=0.6, rank_timeout=5, max_epochs=1)
    status, output = finish(start(["train", path], cwd=tmp_path), 120)
    assert status == 0, output
    assert (tmp_path / "happened").is_file()


class Ranks:
    """Ranks that all begin the same operations; one that stands still stops the others at their next operation."""

    def __init__(self, size: int, stalled: dict[int, int], slow: dict[int, int]) -> None:
        self.calls, self.progress = [0] * size, [0] * size
        self.stalled, self.slow, self.time = stalled, slow, 0

    def second(self) -> list[State]:
        self.time += 1
        complete = min(self.calls)
        for rank in range(len(self.calls)):
            ready = self.calls[rank] == complete and self.time >= 0
            works = self.time < self.stalled.get(rank, 10**9) and self.time % self.slow.get(rank, 1) == 0
            if ready and works:
                self.calls[rank] += 1
                self.progress[rank] += 1
        return [
            State(rank, f"host{rank}", self.time, self.progress[rank], self.calls[rank], "in a step", counted=True)
            for rank in range(len(self.calls))
        ]


@given(st.data(), st.integers(2, 8), st.integers(5, 60))
def test_the_judge_blames_those_that_the_others_wait_for(data, size, timeout):
    ranks = st.sampled_from(range(size))
    stalled = data.draw(st.dictionaries(ranks, st.integers(1, 50), max_size=size))
    slow = data.draw(st.dictionaries(ranks, st.integers(1, timeout - 1), max_size=size))
    simulated, judge = Ranks(size, stalled, slow), Judge(size, timeout=timeout, period=1)
    verdict, end = None, (min(stalled.values()) if stalled else 60) + 2 * timeout + 70
    while verdict is None and simulated.time < end:
        verdict = judge.see(simulated.second(), passed=1.0)
    if stalled:
        assert verdict is not None and set(verdict.ranks) <= set(stalled)
        assert simulated.time <= min(stalled.values()) + 2 * timeout + 2
        assert f"rank {verdict.ranks[0]} of {size} on host host{verdict.ranks[0]} " in verdict.text
    else:
        assert verdict is None


@given(st.integers(2, 6), st.data())
def test_the_judge_names_those_that_fall_silent(size, data):
    silent = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    judge, verdict = Judge(size, timeout=20, period=1), None
    for second in range(1, 60):
        beats = [
            State(rank, "", second if rank not in silent else min(second, 9), second, second) for rank in range(size)
        ]
        verdict = verdict or judge.see(beats, passed=1.0)
    assert verdict is not None and set(verdict.ranks) == silent


def test_a_suspended_job_is_not_blamed_for_the_time_in_which_it_did_not_run():
    judge = Judge(2, timeout=20, period=1)
    for second in range(5):
        assert judge.see([State(rank, "", second, second, second) for rank in (0, 1)], passed=1.0) is None
    # an hour later, the first to run is the judge
    assert judge.see([State(rank, "", 4, 4, 4) for rank in (0, 1)], passed=3600.0) is None


def test_all_that_are_done_end_the_watch():
    judge = Judge(2, timeout=20, period=1)
    assert judge.see([State(0, over=True), State(1)], passed=1.0) is None
    verdict = judge.see([State(0, over=True), State(1, over=True)], passed=1.0)
    assert verdict is not None and verdict.status == 0


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="only root may connect two hosts by `ip`")
@pytest.mark.parametrize("link", ["down", "slow"][: rounds(0, 2)])
def test_two_hosts(tmp_path, hosts, link):
    """Two network namespaces: a link that goes down ends both hosts, and a slow one ends none."""
    steps = {"max_epochs": 100000, "check_val_every_n_epoch": 100000} if link == "down" else {"max_epochs": 2}
    path = config(tmp_path, "nothing", 0, "training", devices=1, num_nodes=2, **steps)
    if link == "slow":
        hosts.run(
            "tc", "qdisc", "add", "dev", hosts.link, "root", "tbf", "rate", "4mbit", "burst", "16k", "latency", "1s"
        )
    processes = [hosts.start(number, ["train", path], cwd=tmp_path) for number in (0, 1)]
    if link == "down":
        end = time.monotonic() + 120
        while not (tmp_path / "happened").is_file() and time.monotonic() < end:
            time.sleep(0.2)
        # names of hosts are looked up in vain here, which takes seconds
        time.sleep(10)
        hosts.run("ip", "link", "set", hosts.link, "down")
    cut, ends = time.monotonic(), [finish(process, 180) for process in processes]
    if link == "slow":
        assert [status for status, _ in ends] == [0, 0], ends
        return
    assert time.monotonic() - cut < TIMEOUT + MARGIN
    for (status, output), other in zip(ends, (1, 0)):
        told = [line for line in output.splitlines() if line.startswith("vitdet: ")]
        assert status != 0 and len(told) == 1 and f"rank {other} of 2 on host vitdet{other}" in told[0], output
        assert "not been heard of" in told[0], output
    assert not any(map(left, processes))


class Hosts:
    """Two network namespaces, connected by a link."""

    def __init__(self) -> None:
        self.names = [f"vd{os.getpid()}{end}" for end in "ab"]
        self.link = f"vd{os.getpid()}"

    def run(self, *command: str, check: bool = True) -> None:
        import subprocess

        subprocess.run(["ip", "netns", "exec", self.names[0], *command], check=check, capture_output=True)

    def __enter__(self) -> "Hosts":
        import subprocess

        def ip(*words: str) -> None:
            subprocess.run(["ip", *words], check=True, capture_output=True)

        for space in self.names:
            ip("netns", "add", space)
            ip("-n", space, "link", "set", "lo", "up")
        other = f"{self.link}p"
        ip("-n", self.names[0], "link", "add", self.link, "type", "veth", "peer", "name", other)
        ip("-n", self.names[0], "link", "set", other, "netns", self.names[1])
        for number, (space, end) in enumerate(zip(self.names, (self.link, other)), start=1):
            ip("-n", space, "addr", "add", f"10.77.0.{number}/24", "dev", end)
            ip("-n", space, "link", "set", end, "up")
        self.ends = (self.link, other)
        return self

    def __exit__(self, *_) -> None:
        import subprocess

        for space in self.names:
            subprocess.run(["ip", "netns", "del", space], capture_output=True)

    def start(self, number: int, argv: list, cwd: Path) -> Run:
        import sys

        words = ["ip", "netns", "exec", self.names[number], "unshare", "--uts", "sh", "-c"]
        command = [*words, f'hostname vitdet{number}; exec "$@"', "sh", sys.executable, "-m", "vitdet", *map(str, argv)]
        place = {"MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29511", "NODE_RANK": str(number), "LOCAL_RANK": "0"}
        place |= {"GLOO_SOCKET_IFNAME": self.ends[number], "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        root = str(Path(__file__).parents[2])
        return Run(command, cwd=cwd, env={**os.environ, **place, "PYTHONPATH": root, "HF_HUB_OFFLINE": "1"})


@pytest.fixture
def hosts():
    with Hosts() as two:
        yield two
