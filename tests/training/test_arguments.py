"""Every argument of Lightning's trainer works, or is refused in one sentence before anything is trained."""

from datetime import timedelta

import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, Timer
from lightning.pytorch.loggers import CSVLogger

from vitdet import Trainer
from vitdet.errors import UserError
from vitdet.training import EMA
from vitdet.training.callbacks import LastCheckpoint, Pictures, ProgressReport

FILES = {"best.ckpt", "last-1.ckpt", "last.ckpt"}
WORKS = {  # an argument, and the files of the run folder
    "progress_bar": ({"enable_progress_bar": False, "progress": True}, FILES),
    "model_summary": ({"enable_model_summary": True}, FILES),
    "no checkpoints": ({"enable_checkpointing": False}, set()),
    "sampler": ({"use_distributed_sampler": True}, FILES),
    "csv": ({"logger": True}, FILES | {"metrics.csv"}),
    "profiler": ({"profiler": "simple"}, FILES),
    "anomaly": ({"detect_anomaly": True}, FILES),
    "no sanity check": ({"num_sanity_val_steps": 0}, FILES),
    "whole sanity check": ({"num_sanity_val_steps": -1}, FILES),
    "interval": ({"val_check_interval": 0.5}, FILES),
    "half a validation": ({"limit_val_batches": 0.5}, FILES),
    "one batch of it": ({"limit_val_batches": 1}, FILES),
    "none of it": ({"limit_val_batches": 0}, {"last.ckpt"}),
    "logs no losses": ({"log_every_n_steps": 0, "logger": True}, FILES | {"metrics.csv"}),
    "time": ({"max_time": "00:01:00:00"}, FILES),
    "time as keys": ({"max_time": {"minutes": 5}}, FILES),
    "time as such": ({"max_time": timedelta(minutes=5)}, FILES),
    "callbacks in a tuple": ({"callbacks": (EMA(0.5),)}, FILES),
    "own average": ({"callbacks": [EMA(0.5)]}, FILES),
    "own bar": ({"callbacks": [RichProgressBar()]}, FILES),
    "own pictures": ({"callbacks": [Pictures(1)], "pictures": 4}, FILES | {"pictures", "report.html"}),
    "no logger of its own": ({"logger": None}, FILES | {"metrics.csv"}),
    "fewest epochs, which a maximum ends before": ({"min_epochs": 3, "max_epochs": 5}, FILES),
    "half weights": ({"precision": "bf16-true"}, FILES),
    "early stopping": ({"callbacks": EarlyStopping("val/AP", mode="max")}, FILES),
}


@pytest.mark.parametrize(("options", "files"), WORKS.values(), ids=WORKS)
def test_it_works(tiny, options, files):
    task, data, trainer = tiny(data={"eval_batch_size": 2}, **{"max_steps": 2, **options})
    trainer.fit(task, data)
    assert trainer.global_step == 2
    names = {path.name for path in trainer.run_folder.iterdir() if not path.name.startswith("events.")}
    assert names == files


@pytest.mark.parametrize("option", ["barebones", "fast_dev_run"])
def test_nothing_is_added_or_written(tiny, option, tmp_path, capsys):
    task, data, trainer = tiny(logger=True, pictures=4, max_steps=2, **{option: True})
    trainer.fit(task, data)
    assert trainer.global_step == (1 if option == "fast_dev_run" else 2) and not (tmp_path / "runs").exists()
    assert ("no best.ckpt or last.ckpt was written" in capsys.readouterr().out) is (option == "fast_dev_run")


def test_checkpoints_and_loggers_of_the_user_stand_beside(tiny, tmp_path):
    own = [ModelCheckpoint(monitor=f"val/{name}", mode="max", filename=name) for name in ("AP", "AP50")]
    task, data, trainer = tiny(callbacks=own, logger=CSVLogger(tmp_path / "mine"), max_steps=1)
    trainer.fit(task, data)
    assert {path.stem for path in (trainer.run_folder / "checkpoints").iterdir()} == {"AP", "AP50"}
    assert list((tmp_path / "mine").rglob("metrics.csv")) and (trainer.run_folder / "best.ckpt").is_file()


def test_one_callback_of_a_kind():
    mine = [EMA(0.5), LastCheckpoint(minutes=1), ProgressReport(every=1)]
    kept = Trainer(accelerator="cpu", callbacks=mine).callbacks
    for one in mine:
        assert [other for other in kept if type(other) is type(one)] == [one]
    for quiet in ({"progress": False}, {"enable_progress_bar": False}, {"callbacks": [RichProgressBar()]}):
        assert not [c for c in Trainer(accelerator="cpu", **quiet).callbacks if isinstance(c, ProgressReport)]


def test_default_root_dir_is_the_root(tmp_path):
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path)
    assert trainer.run_folder == tmp_path / "default" / "version_0"


REFUSED = {
    "mode": ({"mode": "maximum"}, "mode is 'maximum'; wanted max"),
    "devices": ({"devices": 0}, "devices is 0; wanted a whole number from 1"),
    "accelerator": ({"accelerator": "gpu"}, "accelerator is 'gpu'; wanted cpu or auto: torch finds no GPU"),
    "no accelerator": ({"accelerator": "abacus"}, "abacus"),
    "max_time": ({"max_time": "00:05:00"}, "max_time is '00:05:00'; wanted days.* did you mean 00:00:05:00"),
    "no time": ({"max_time": "00:00:00:00"}, "wanted more than nothing"),
    "wrong keys": ({"max_time": {"minuets": 3}}, "max_time is .*wanted days"),
    "two clocks": ({"max_time": "00:00:05:00", "callbacks": [Timer("00:00:06:00")]}, "give one of them"),
    "version": ({"version": -1}, "version is -1"),
    "name": ({"name": " "}, "name is ' '"),
    "remote": ({"root": "s3://bucket/runs"}, "wanted a local folder"),
    "two roots": ({"default_root_dir": "elsewhere"}, "give one of them"),
    "ema": ({"ema": 1.0}, "ema is 1.0; wanted 0 <= ema < 1"),
    "pictures": ({"pictures": -1}, "pictures is -1"),
    "accumulate": ({"accumulate_grad_batches": 0}, "accumulate_grad_batches is 0; wanted a whole number from 1"),
    "log": ({"log_every_n_steps": -1}, "log_every_n_steps is -1"),
    "precision": ({"precision": "bf17"}, "bf17"),
    "strategy": ({"strategy": "ddpp"}, "ddpp"),
    "max_epochs": ({"max_epochs": -2}, "max_epochs is -2; wanted a whole number from 0, or -1 for no bound"),
    "steps as text": ({"max_steps": "2"}, "max_steps is '2'; wanted a whole number"),
    "half an epoch": ({"max_epochs": 1.5}, "max_epochs is 1.5"),
    "accumulate as text": ({"accumulate_grad_batches": "2"}, "accumulate_grad_batches is '2'"),
    "no average": ({"ema": None}, "ema is None; wanted 0 <= ema < 1"),
    "half a picture": ({"pictures": 2.5}, "pictures is 2.5; wanted a whole number"),
    "version as text": ({"version": "a"}, "version is 'a'"),
    "class of a callback": ({"callbacks": [EMA]}, "callbacks is .*EMA.*; wanted instances of lightning.Callback"),
    "logger as text": ({"logger": "csv"}, "logger is 'csv'; wanted loggers such as CSVLogger"),
    "profiler": ({"profiler": "quick"}, "simple"),
    "barebones": ({"barebones": True, "detect_anomaly": True}, "detect_anomaly"),
    "negative clip": ({"gradient_clip_val": -1.0}, "gradient_clip_val is -1.0; wanted a number above 0"),
    "no clip": ({"gradient_clip_val": float("nan")}, "gradient_clip_val is nan; wanted a number above 0"),
    "interval": ({"val_check_interval": 0}, "val_check_interval is 0; wanted batches from 1"),
    "no interval": ({"val_check_interval": 0.0}, "val_check_interval is 0.0"),
    "sanity": ({"num_sanity_val_steps": -2}, "num_sanity_val_steps is -2; wanted a whole number from 0, or -1"),
    "epochs": ({"min_epochs": 3, "max_epochs": 1}, "min_epochs is 3; wanted at most max_epochs, which is 1"),
    "steps": ({"min_steps": 5, "max_steps": 2}, "min_steps is 5; wanted at most max_steps, which is 2"),
    "cores": ({"devices": "1,2"}, "devices is '1,2'; wanted a whole number from 1, of processes on the CPU"),
    "all cores": ({"devices": -1}, "devices is -1; wanted a whole number"),
    "spawn": ({"strategy": "ddp_spawn"}, "strategy is 'ddp_spawn'; wanted ddp"),
    "clip": ({"gradient_clip_val": "much"}, "gradient_clip_val"),
    "same twice": ({"callbacks": [ModelCheckpoint(), ModelCheckpoint()]}, "more than one stateful callback"),
    "bar twice": ({"callbacks": [RichProgressBar(), RichProgressBar()]}, "only one progress bar"),
}


@pytest.mark.parametrize(("options", "sentence"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_at_once(options, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence) as error:
        Trainer(**{"root": tmp_path, "accelerator": "cpu", **options})
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


LATE = {
    "interval": ({"val_check_interval": 90}, "val_check_interval"),
    "half of one batch": ({"limit_val_batches": 0.5}, "limit_val_batches"),
    "sampler": ({"use_distributed_sampler": True, "devices": 2}, "leave it out"),
}


@pytest.mark.parametrize(("options", "sentence"), LATE.values(), ids=LATE)
def test_it_is_refused_when_the_data_are_known(tiny, options, sentence):
    task, data, trainer = tiny(data={"eval_batch_size": 8}, max_epochs=1, **options)
    with pytest.raises(UserError, match=sentence) as error:
        trainer.fit(task, data)
    assert "\n" not in str(error.value)
