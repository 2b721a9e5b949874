"""Who gets which run folder, and what is in it."""

import subprocess
import sys

import pytest
import torch

from vitdet.errors import UserError

AT_ONCE = """
import multiprocessing, sys
from vitdet import Trainer

def start(ready):
    trainer = Trainer(root=sys.argv[1], accelerator="cpu", name="many", progress=False)
    ready.wait()
    print(f"{trainer.run_folder} ", end="", flush=True)  # one write, which another process does not cut

context = multiprocessing.get_context("fork")
ready = context.Barrier(20)
all = [context.Process(target=start, args=(ready,)) for _ in range(20)]
for one in all: one.start()
for one in all: one.join()
sys.exit(max(one.exitcode for one in all))
"""


def test_twenty_trainings_started_at_once_take_twenty_folders(tmp_path):
    done = subprocess.run([sys.executable, "-c", AT_ONCE, str(tmp_path)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(set(done.stdout.split())) == 20
    assert len(list((tmp_path / "many").iterdir())) == 20


def test_a_folder_is_taken_when_training_starts_and_holds_what_is_promised(tiny, tmp_path):
    task, data, trainer = tiny(max_steps=1, logger=True, pictures=1)
    assert not (tmp_path / "runs").exists()
    trainer.fit(task, data)
    assert trainer.run_folder == tmp_path / "runs" / "default" / "version_0"
    names = {path.name for path in trainer.run_folder.iterdir() if not path.name.startswith("events.")}
    assert names == {"best.ckpt", "last-1.ckpt", "last.ckpt", "metrics.csv", "pictures", "report.html"}


def test_a_training_goes_on_in_the_folder_of_its_checkpoint_whatever_that_is_called(tiny, tmp_path):
    task, data, first = tiny(max_steps=1, logger=True)
    first.fit(task, data)
    place = first.run_folder.rename(tmp_path / "my best run")
    lines = (place / "metrics.csv").read_text()
    task, data, trainer = tiny(max_steps=2, logger=True)
    trainer.fit(task, data, ckpt_path=place / "last.ckpt")
    assert trainer.run_folder == place and not list((tmp_path / "runs" / "default").iterdir())
    assert not (place / "metrics_0.csv").exists() and (place / "metrics.csv").read_text().startswith(lines)
    assert (place / "metrics.csv").read_text() != lines
    assert torch.load(place / "last.ckpt", weights_only=True)["global_step"] == 2


def test_from_a_checkpoint_that_lies_alone_a_training_takes_a_new_folder(tiny, tmp_path):
    task, data, first = tiny(max_steps=1)
    first.fit(task, data)
    alone = (first.run_folder / "last.ckpt").rename(tmp_path / "given.ckpt")
    task, data, trainer = tiny(max_steps=2)
    trainer.fit(task, data, ckpt_path=alone)
    assert trainer.run_folder.name == "version_1"


def test_no_training_replaces_the_checkpoints_of_another(tiny, tmp_path):
    for _ in range(2):
        task, data, trainer = tiny(max_steps=1)
        trainer.fit(task, data)
    saved = (tmp_path / "runs" / "default" / "version_0" / "last.ckpt").read_bytes()
    for start in (None, trainer.run_folder / "last.ckpt"):
        task, data, again = tiny(max_steps=2, version=0)
        with pytest.raises(
            UserError, match="holds best.ckpt and last.ckpt of an earlier training.*ckpt_path .*version_0"
        ):
            again.fit(task, data, ckpt_path=start)
    assert (tmp_path / "runs" / "default" / "version_0" / "last.ckpt").read_bytes() == saved


def test_last_is_that_of_the_newest_run_and_a_missing_one_is_named(tiny):
    task, data, trainer = tiny()
    with pytest.raises(UserError, match="there is no last.ckpt under .*default; train without --ckpt_path first"):
        trainer.fit(task, data, ckpt_path="last")
    with pytest.raises(UserError, match="there is no checkpoint nowhere.ckpt"):
        trainer.test(task, data, ckpt_path="nowhere.ckpt")
    for steps, start in ((1, None), (2, "last")):
        task, data, trainer = tiny(max_steps=steps)
        trainer.fit(task, data, ckpt_path=start)
    assert trainer.run_folder.name == "version_0"


def test_one_trainer_goes_on_in_its_folder(tiny, capsys):
    task, data, trainer = tiny(max_epochs=1, logger=True, log_every_n_steps=1)
    trainer.fit(task, data)
    trainer.fit(task, data)
    assert "nothing to train: the run is at step 3, epoch 1, and has max_epochs 1" in capsys.readouterr().out
    trainer.fit_loop.max_epochs = 2
    trainer.fit(task, data)
    assert trainer.run_folder.name == "version_0" and not list(trainer.run_folder.glob("metrics_*"))
    steps = {line.split(",")[2] for line in (trainer.run_folder / "metrics.csv").read_text().splitlines()[1:]}
    assert steps == {"0", "1", "2", "3", "4", "5"}
    assert trainer.validate(task, data, verbose=False)[0]["val/AP"] >= 0


def test_a_test_opens_no_folder_and_writes_beside_the_checkpoint(tiny, tmp_path, recwarn, capsys):
    task, data, trainer = tiny(max_steps=1)
    trainer.fit(task, data)
    moved = trainer.run_folder.rename(tmp_path / "moved")
    task, data, tester = tiny(logger=True)
    tester.test(task, data, ckpt_path=moved / "best.ckpt", verbose=False)
    assert (moved / "predictions.json").is_file() and not list((tmp_path / "runs" / "default").iterdir())
    assert not [w for w in recwarn if "dirpath" in str(w.message)]
    (moved / "predictions.json").unlink()
    (moved / "predictions.json").mkdir()
    tester.test(task, data, ckpt_path=moved / "best.ckpt", verbose=False)
    tiny()[2].test(task, data, verbose=False)
    said = capsys.readouterr().out
    assert "predictions.json is not written: [Errno 21]" in said
    assert "predictions.json is not written: there is no checkpoint to put it beside" in said
