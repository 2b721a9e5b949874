"""A disk that is full, read-only or gone: the last good file survives, a line says so, and a run ends as told."""

import contextlib
import errno
import json
import os
import resource
import shutil
import subprocess
from pathlib import Path

import lightning as L
import pytest
import torch
from chaos import rounds
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

from vitdet import Backbone, DETRHead, ShapesData, Task, Trainer, checksum
from vitdet.errors import UserError
from vitdet.training.saving import Checkpoints, SaveError

BACKBONE = {
    "stem": {"class_path": "vitdet.ConvStem", "init_args": {"width": 8}},
    "model_args": {"embed_dim": 32, "num_heads": 2},
    "depth": 1,
    "out_channels": 32,
}
HEAD = {"dim": 32, "num_queries": 20, "num_layers": 1, "decoder": {"num_heads": 4, "ffn_dim": 32}}
# bytes: room for some checkpoints of the tiny model
SIZE = 24 * 2**20


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    return str(tmp_path_factory.mktemp("shapes") / "shapes")


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, which can be filled."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", place], capture_output=True)
    if done.returncode != 0:
        pytest.skip("a file system can't be mounted here: run as root")
    yield Disk(place)
    while os.path.ismount(place):
        subprocess.run(["umount", "-l", place], check=True)


class Disk:
    """A file system and what happens to it."""

    def __init__(self, place):
        self.place, self.stone = place, place / "stone"

    def fill(self, left=0):
        """Leaves `left` bytes free."""
        with contextlib.suppress(OSError), open(self.stone, "ab", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        if left:
            os.truncate(self.stone, max(0, self.stone.stat().st_size - left))

    def free(self):
        self.stone.unlink(missing_ok=True)

    def lock(self):
        """Puts a view that can only be read over the file system, which itself can't become so while files are open."""
        subprocess.run(["mount", "--bind", self.place, self.place], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", self.place], check=True)

    def unlock(self):
        subprocess.run(["umount", self.place], check=True)

    def gone(self):
        subprocess.run(["umount", "-l", self.place], check=True)


class At(L.Callback):
    """Does something at the start of a step, counted from 0."""

    def __init__(self, **does):
        self.does = {int(key.removeprefix("s")): value for key, value in does.items()}

    def on_train_batch_start(self, trainer, *_):
        self.does.get(trainer.global_step, lambda: None)()


def run(shapes, root, *, callbacks=(), resume=None, **trainer):
    """Trains two epochs of three steps, with a validation after each."""
    L.seed_everything(0, verbose=False)
    data = ShapesData(root=shapes, train_images=12, val_images=4, size=64, batch_size=4)
    task = Task(
        Backbone("vit_tiny_patch16_224", **BACKBONE), lambda c, s, k: DETRHead(c, s, k, **HEAD), classes=data.classes
    )
    options = {"accelerator": "cpu", "max_epochs": 2, "pictures": 0, "progress": False, "logger": False, "ema": 0}
    trainer = Trainer(root=root, callbacks=list(callbacks), **{**options, **trainer})
    trainer.fit(task, data, ckpt_path=resume)
    return trainer


def whole(folder, name="last.ckpt"):
    """The step of a checkpoint, which must be whole."""
    assert checksum.verify(folder / name)
    return torch.load(folder / name, weights_only=True)["global_step"]


def events(folder, kind):
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines() if line.strip()]
    return [line for line in lines if line["kind"] == kind]


FOLDER = Path("default/version_0")


def test_a_training_saves_again_when_there_is_room(shapes, disk, caplog):
    """The disk is full at the end of the first epoch, and free at the end of the second."""
    caplog.set_level("INFO")
    trainer = run(shapes, disk.place, callbacks=[At(s1=disk.fill, s4=disk.free)])
    folder = disk.place / FOLDER
    assert whole(folder) == 6 and not trainer.unsaved
    assert caplog.text.count("No space left on device") >= 1
    assert "tries again at its next save" in caplog.text
    assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]


@pytest.mark.parametrize("how", ["full", "read-only", "almost full"])
def test_the_last_good_file_survives_to_the_end(shapes, disk, how):
    folder = disk.place / FOLDER
    does = {"full": disk.fill, "read-only": disk.lock, "almost full": lambda: disk.fill(left=50_000)}
    with pytest.raises(SaveError, match="the training is done, but .*last.ckpt can't be written"):
        run(shapes, disk.place, callbacks=[At(s4=does[how])])
    if how == "read-only":
        disk.unlock()
    assert whole(folder) == 3 and whole(folder, "best.ckpt") == 3
    assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]
    disk.free()
    # what is left is enough to go on
    run(shapes, disk.place, resume=folder / "last.ckpt")
    assert whole(folder) == 6


def test_a_training_stops_where_it_is_told_to(shapes, disk):
    with pytest.raises(SaveError, match="No space left on device"):
        run(shapes, disk.place, callbacks=[At(s4=disk.fill)], failed_save="stop")
    assert whole(disk.place / FOLDER) == 3


def test_a_file_system_that_is_gone(shapes, disk, tmp_path):
    """What is written goes to the folder where it was mounted, as if it were a new one."""
    run(shapes, disk.place, callbacks=[At(s4=disk.gone)])
    assert whole(disk.place / FOLDER) == 6


def test_loggers_pictures_and_report_do_not_end_a_training(shapes, disk, caplog, capfd):
    caplog.set_level("INFO")
    options = {"logger": True, "pictures": 2, "log_every_n_steps": 1}
    with pytest.raises(SaveError):
        run(shapes, disk.place, callbacks=[At(s4=disk.fill)], **options)
    told = capfd.readouterr()
    assert "a picture is not written: No space left on device" in told.out
    assert "no report is written" in told.out
    folder = disk.place / FOLDER
    assert whole(folder) == 3
    rows = (folder / "metrics.csv").read_text().splitlines()
    assert len({row.count(",") for row in rows}) == 1 and len(rows) > 3
    shutil.rmtree(folder)
    # they write again once they can
    disk.free()
    run(shapes, disk.place, callbacks=[At(s1=disk.fill, s4=disk.free)], **options)
    folder = disk.place / FOLDER
    steps = [row.split(",") for row in (folder / "metrics.csv").read_text().splitlines()]
    assert len(steps) >= 7 and len({len(row) for row in steps}) == 1


def test_a_full_disk_at_every_step(shapes, disk, tmp_path):
    """Whenever the disk becomes full, and whenever it is free again, the files that are there are whole."""
    cases = [(2, 5), (5, 9)] if rounds(0, 1) == 0 else [(a, b) for a in range(1, 6) for b in (a + 1, a + 3, 9)]
    for full, free in cases:
        disk.free()
        shutil.rmtree(disk.place / "default", ignore_errors=True)
        failed = contextlib.nullcontext() if free <= 5 else pytest.raises(SaveError)
        with failed:
            run(shapes, disk.place, callbacks=[At(**{f"s{full}": disk.fill, f"s{free}": disk.free})])
        files = list((disk.place / FOLDER).glob("*.ckpt"))
        assert all(checksum.verify(file) for file in files)
        assert [path.name for path in (disk.place / FOLDER).iterdir() if path.suffix == ".tmp"] == []


def test_a_temporary_folder_elsewhere_is_not_used(shapes, disk, tmp_path, monkeypatch):
    disk.fill()
    monkeypatch.setenv("TMPDIR", str(disk.place))
    run(shapes, tmp_path / "runs", max_epochs=1)
    assert whole(tmp_path / "runs" / FOLDER) == 3


def test_a_quota(tmp_path):
    """A limit on the size of files, as a quota sets one."""
    files, path = Checkpoints(), tmp_path / "last.ckpt"
    files.save_checkpoint({"step": 1, "weights": torch.ones(1000)}, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(SaveError, match=f"{os.strerror(errno.EFBIG)}; the one of before is unchanged"):
            files.save_checkpoint({"step": 2, "weights": torch.ones(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    files.save_checkpoint({"step": 3, "weights": torch.ones(1000)}, path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last-1.ckpt", "last.ckpt"]
    assert [files.load_checkpoint(tmp_path / name)["step"] for name in ("last-1.ckpt", "last.ckpt")] == [1, 3]


def test_options_that_another_writer_of_checkpoints_would_ignore_are_refused():
    with pytest.raises(UserError, match="keep_last is 3 .*TorchCheckpointIO of plugins writes the checkpoints"):
        Trainer(accelerator="cpu", keep_last=3, plugins=TorchCheckpointIO())
    for wrong in ({"keep_last": 0}, {"failed_save": "never"}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} is .*; wanted"):
            Trainer(accelerator="cpu", **wrong)
    trainer = Trainer(accelerator="cpu", plugins=AsyncCheckpointIO(), keep_last=3)
    assert trainer.strategy.checkpoint_io.checkpoint_io.keep_last == 3
