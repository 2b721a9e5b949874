"""What is kept as the best, and what a training leaves that was never scored, or has diverged."""

import json

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader

from vitdet import CocoData, ShapesData, Split
from vitdet.errors import UserError
from vitdet.training.callbacks.best import BestCheckpoint
from vitdet.training.callbacks.finite import DivergedError, finite


def _say_best_was(path, score):
    saved = torch.load(path, weights_only=True)
    best = saved["callbacks"]["BestCheckpoint"]
    best["best_model_score"] = best["kth_value"] = torch.tensor(score)
    best["best_k_models"] = dict.fromkeys(best["best_k_models"], torch.tensor(score))
    torch.save(saved, path)


@pytest.mark.parametrize("of", ["last.ckpt", "best.ckpt"])
def test_the_best_score_belongs_to_the_run_wherever_it_lies(tiny, tmp_path, of, recwarn, capsys):
    """`best.ckpt` may be newer than the checkpoint that the run goes on from: its own score counts, too."""
    task, data, trainer = tiny(max_epochs=1)
    trainer.fit(task, data)
    _say_best_was(trainer.run_folder / of, 0.9)
    place = (tmp_path / "runs").rename(tmp_path / "elsewhere") / "default" / "version_0"
    kept = (place / "best.ckpt").read_bytes()
    task, data, again = tiny(max_epochs=2)
    again.fit(task, data, ckpt_path=place / "last.ckpt")
    assert (place / "best.ckpt").read_bytes() == kept
    assert f"best val/AP 0.9000: {place / 'best.ckpt'}" in capsys.readouterr().out
    assert not [w for w in recwarn if "dirpath" in str(w.message)]


def test_where_no_best_is_beside_the_score_starts_anew(tiny, caplog):
    task, data, trainer = tiny(max_epochs=1)
    trainer.fit(task, data)
    last = trainer.run_folder / "last.ckpt"
    _say_best_was(last, 0.9)
    (trainer.run_folder / "best.ckpt").unlink()
    task, data, again = tiny(max_epochs=2)
    again.fit(task, data, ckpt_path=last)
    assert "there is no best.ckpt in" in caplog.text
    assert torch.load(again.run_folder / "best.ckpt", weights_only=True)["global_step"] == 6


@pytest.mark.parametrize(("monitor", "kept"), [(None, True), ("val/AP", True), ("val/AP50", False)])
def test_another_score_chooses_anew(tiny, monitor, kept, caplog):
    task, data, trainer = tiny(max_epochs=1)
    trainer.fit(task, data)
    _say_best_was(trainer.run_folder / "last.ckpt", 0.9)
    task, data, again = tiny(max_epochs=2, monitor=monitor)
    again.fit(task, data, ckpt_path=trainer.run_folder / "last.ckpt")
    best = next(c for c in again.checkpoint_callbacks if isinstance(c, BestCheckpoint))
    assert (float(best.best_model_score) == pytest.approx(0.9)) is kept and best.monitor == (monitor or "val/AP")
    assert ("chosen by max val/AP50 from now on, no longer by max val/AP" in caplog.text) is not kept


def test_nothing_to_find_is_no_score(tiny, shapes_root, capsys, caplog, tmp_path):
    task, data, trainer = tiny(max_epochs=2)
    content = json.loads(data.index("val").path.read_text())
    (tmp_path / "none.json").write_text(json.dumps({**content, "annotations": []}))
    train, val = (
        Split(f"{shapes_root}/{s}", a)
        for s, a in (("train", data.index("train").path), ("val", tmp_path / "none.json"))
    )
    trainer.fit(task, CocoData(train=train, val=val, size=64, batch_size=4))
    assert caplog.text.count("nothing to score in val: val/AP is -1") == 1
    said = capsys.readouterr().out
    assert (
        "best" not in said.replace("there is no best", "")
        and f"Next: vitdet predict {trainer.run_folder / 'last.ckpt'} IMAGE" in said
    )
    assert {path.name for path in trainer.run_folder.glob("*.ckpt")} == {"last.ckpt", "last-1.ckpt"}


@pytest.mark.parametrize("head", ["DETRHead", "SemanticHead"])
def test_a_monitor_that_nothing_logs_is_refused_at_the_start(tiny, head):
    steps = []

    class Count(L.Callback):
        def on_train_batch_end(self, *_):
            steps.append(1)

    task, data, trainer = tiny(monitor="val/mAP", callbacks=[Count()])
    with pytest.raises(UserError, match="monitor is 'val/mAP', which nothing logs; did you mean val/AP"):
        trainer.fit(task, data)
    assert not steps


WATCHED = {  # an argument of the trainer, and what is said of it before anything is trained
    "most loss": (
        {"monitor": "train/loss"},
        "takes the worst for the best; less of it is better: set trainer.mode to min",
    ),
    "least AP": ({"monitor": "val/AP", "mode": "min"}, "more of it is better: set trainer.mode to max"),
    "least of the default": ({"mode": "min"}, "monitor is 'val/AP' and mode is 'min'"),
    "stop": (
        {"callbacks": EarlyStopping("val_loss")},
        "EarlyStopping: monitor is 'val_loss', which .* gives no loss: wanted val/AP",
    ),
    "stop by mAP": (
        {"callbacks": EarlyStopping("val/mAP", mode="max")},
        "EarlyStopping: monitor is 'val/mAP', which nothing",
    ),
    "stop while it grows": ({"callbacks": EarlyStopping("val/AP")}, "EarlyStopping: .* set mode to max"),
    "keep the least": ({"callbacks": ModelCheckpoint(monitor="val/AP50")}, "ModelCheckpoint: .* set mode to max"),
    "keep by mAP": ({"callbacks": ModelCheckpoint(monitor="val/mAP", mode="max")}, "ModelCheckpoint: .*nothing logs"),
    "never scored": (
        {"callbacks": EarlyStopping("val/AP", mode="max"), "limit_val_batches": 0},
        "EarlyStopping: monitor is 'val/AP', but nothing is validated",
    ),
}


@pytest.mark.parametrize(("options", "sentence"), WATCHED.values(), ids=WATCHED)
def test_what_goes_by_a_score_is_refused_at_the_start(tiny, options, sentence):
    task, data, trainer = tiny(**options)
    with pytest.raises(UserError, match=sentence) as error:
        trainer.fit(task, data)
    assert "\n" not in str(error.value) and trainer.global_step == 0


class Own(L.Callback):
    def on_validation_epoch_end(self, trainer, task):
        task.log("val_mine", 1.0)


@pytest.mark.parametrize("callbacks", [[Own(), EarlyStopping("val_mine")], [EarlyStopping("no", strict=False)]])
def test_a_score_of_the_users_own_is_watched(tiny, callbacks):
    task, data, trainer = tiny(max_steps=1, callbacks=callbacks)
    trainer.fit(task, data)
    assert trainer.global_step == 1


def test_a_class_or_a_loss_may_be_monitored(tiny):
    for options in ({"monitor": "val/AP/disc"}, {"monitor": "train/loss", "mode": "min"}):
        task, data, trainer = tiny(max_steps=1, **options)
        trainer.fit(task, data)
        assert (trainer.run_folder / "best.ckpt").is_file()


class NoVal(ShapesData):
    def val_dataloader(self):
        return []


def _loader(data):
    return DataLoader(
        data.train_dataloader().dataset,
        batch_sampler=data.train_dataloader().batch_sampler,
        collate_fn=data.train_dataloader().collate_fn,
    )


@pytest.mark.parametrize("how", ["no val", "limit 0", "loader"])
def test_training_works_without_validation(tiny, how, capsys):
    task, data, trainer = tiny(max_epochs=1, **({"limit_val_batches": 0} if how == "limit 0" else {}))
    if how == "no val":
        data.__class__ = NoVal
    trainer.fit(task, _loader(data) if how == "loader" else data)
    said = capsys.readouterr().out
    assert said.count("nothing is validated") == 1
    assert f"Next: vitdet predict {trainer.run_folder / 'last.ckpt'} IMAGE" in said
    assert {path.name for path in trainer.run_folder.glob("*.ckpt")} == {"last.ckpt"}


class Poison(L.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, task, *_):
        if trainer.global_step == self.step:
            next(task.head.parameters()).data.fill_(float("nan"))


@pytest.mark.parametrize("step", [3, 5], ids=["within an epoch", "at its end"])
def test_weights_that_are_not_finite_are_never_saved(tiny, step):
    task, data, trainer = tiny(callbacks=[Poison(step)], gradient_clip_val=None)
    with pytest.raises(DivergedError, match=r"weights are not finite at step 6 \(the first of \d+ is head\.") as error:
        trainer.fit(task, data)
    last = trainer.run_folder / "last.ckpt"
    assert f"{last} keeps the last good weights of step 3" in str(error.value)
    for name in ("last.ckpt", "best.ckpt"):
        saved = torch.load(trainer.run_folder / name, weights_only=True)
        weights = [*saved["state_dict"].values(), *saved["ema_state_dict"].values()]
        assert all(weight.isfinite().all() for weight in weights if weight.is_floating_point())
    task, data, again = tiny()
    again.fit(task, data, ckpt_path=last)
    assert again.global_step == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite(dtype):
    module = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.Linear(2, 2)).to(dtype)
    torch.nn.init.constant_(module[0].weight, 6e4)  # the sum of their squares is more than float16 holds
    assert finite(module) and finite(torch.nn.ReLU())
    for bad in (float("nan"), float("inf"), -float("inf")):
        with torch.no_grad():
            module[1].weight[1, 0] = bad
        assert not finite(module)
