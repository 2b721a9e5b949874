"""A checkpoint is written as a whole: a process that is killed in writing it leaves the old file or the new one."""

import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from chaos import rounds

from vitdet import atomic, checksum, kept

# one process imports torch, and the others are its forks
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "pytest", "vitdet.kept"])
# 4 MB, so that a write takes some milliseconds
NUMBERS = 1_000_000


def save(contents, path, count=3):
    """What `Checkpoints` does, without the seconds that Lightning takes to be imported."""
    checksum.write(path, lambda file: torch.save(contents, file), before=lambda: kept.keep(path, count))


def write_for_ever(path, start):
    for step in range(start, 10**9):
        save({"step": step, "weights": torch.full((NUMBERS,), float(step))}, path)
        with open(f"{path}.steps", "a") as file:
            file.write(f"{step}\n")


def write_until(path, step, boundary):
    """Writes once, and kills itself at the given operation on files, counted from 0."""
    seen = []

    def hook(event, args):
        if event in ("open", "os.rename", "os.remove", "os.link", "os.chmod", "os.listdir"):
            if len(seen) == boundary:
                os.kill(os.getpid(), signal.SIGKILL)
            seen.append(event)

    contents = {"step": step, "weights": torch.full((1000,), float(step))}
    sys.addaudithook(hook)
    save(contents, path)
    os._exit(0)


def written(path):
    """The newest step that the writer has said to be written."""
    lines = Path(f"{path}.steps").read_text().split("\n") if Path(f"{path}.steps").exists() else []
    return int(lines[-2]) if len(lines) > 1 else 0


def steps(folder):
    """The step of each checkpoint, all of which must be whole."""
    found = {}
    for path in sorted(folder.glob("*.ckpt")):
        assert checksum.verify(path), path
        contents = torch.load(path, mmap=True, weights_only=True)
        assert contents["weights"].eq(contents["step"]).all()
        found[path.name] = contents["step"]
    return found


def drafts(folder):
    return [path.name for path in folder.iterdir() if path.suffix == ".tmp"]


def test_a_writer_that_is_killed_at_any_time_leaves_a_whole_file(tmp_path):
    path, chance = tmp_path / "last.ckpt", random.Random(0)
    step, killed_in_a_write = 0, 0
    for _ in range(rounds(6, 40)):
        writer = FORKS.Process(target=write_for_ever, args=(path, step + 1))
        writer.start()
        begun = time.monotonic()
        while written(path) <= step:
            assert writer.is_alive() and time.monotonic() - begun < 60
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        killed_in_a_write += bool(drafts(tmp_path))
        found = steps(tmp_path)
        step, said = found["last.ckpt"], written(path)
        assert step in (said, said + 1) and found.get("last-1.ckpt", step - 1) in (step - 1, step), (found, said)
    assert killed_in_a_write
    save({"step": step + 1, "weights": torch.full((3,), step + 1.0)}, path)
    assert not drafts(tmp_path) and len(steps(tmp_path)) == 3


def test_a_writer_that_is_killed_between_any_two_operations_leaves_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "last.ckpt"
    for step in range(4):
        save({"step": step, "weights": torch.full((1000,), float(step))}, path)
    assert steps(tmp_path) == {"last-1.ckpt": 2, "last-2.ckpt": 1, "last.ckpt": 3}
    boundary, code, outcomes = 0, -signal.SIGKILL, set()
    while code != 0:
        before = steps(tmp_path)
        step = before["last.ckpt"] + 1
        writer = FORKS.Process(target=write_until, args=(path, step, boundary))
        writer.start()
        writer.join(60)
        code, after = writer.exitcode, steps(tmp_path)
        assert code in (0, -signal.SIGKILL)
        assert after["last.ckpt"] in (before["last.ckpt"], step)
        # the last two good saves are there at any time
        assert {before["last.ckpt"], before["last.ckpt"] - 1} & set(after.values()) >= {before["last.ckpt"]}
        outcomes.add(after["last.ckpt"] == step)
        boundary += 1
        # the next save removes what the killed one has left
        save({"step": step, "weights": torch.full((1000,), float(step))}, path)
        assert not drafts(tmp_path)
    assert outcomes == {True, False} and boundary > 6, boundary


def test_a_writer_leaves_drafts_of_others_alone(tmp_path):
    path = tmp_path / "a.txt"
    inside = []

    def write(file):
        # another writer of the same file, in the middle of this one
        atomic.replace(path, lambda other: other.write(b"second"))
        inside.extend(drafts(tmp_path))
        file.write(b"first")

    atomic.replace(path, write)
    assert path.read_bytes() == b"first" and len(inside) == 1 and not drafts(tmp_path)
    stranger = tmp_path / ".b.txt.1-abcdef.tmp"
    stranger.write_bytes(b"")
    atomic.replace(path, lambda file: file.write(b"third"))
    assert drafts(tmp_path) == [stranger.name]


def test_permissions_stay_and_what_a_link_points_to(tmp_path):
    place, link = tmp_path / "elsewhere" / "a.txt", tmp_path / "link.txt"
    place.parent.mkdir()
    place.write_bytes(b"old")
    place.chmod(0o640)
    link.symlink_to(place)
    atomic.replace(link, lambda file: file.write(b"new"))
    assert not link.is_symlink() and link.read_bytes() == b"new" and place.read_bytes() == b"old"
    atomic.replace(place, lambda file: file.write(b"new"))
    assert place.read_bytes() == b"new" and place.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("count", [1, 2, 4])
def test_as_many_files_are_kept_as_wanted(tmp_path, count):
    from vitdet.training.saving import Checkpoints

    for step in range(6):
        Checkpoints(keep_last=count).save_checkpoint(
            {"step": step, "weights": torch.ones(1) * step}, tmp_path / kept.LAST
        )
    assert sorted(steps(tmp_path).values()) == list(range(6 - count, 6))
    # fewer from now on
    Checkpoints(keep_last=1).save_checkpoint({"step": 6, "weights": torch.ones(1) * 6}, tmp_path / kept.LAST)
    assert steps(tmp_path) == {kept.LAST: 6}


def test_a_damaged_file_does_not_replace_a_good_one(tmp_path):
    path = tmp_path / kept.LAST
    for step in (1, 2):
        save({"step": step, "weights": torch.ones(1) * step}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    save({"step": 3, "weights": torch.ones(1) * 3}, path)
    assert steps(tmp_path) == {"last-1.ckpt": 1, kept.LAST: 3}
