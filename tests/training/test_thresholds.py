"""Thresholds are chosen by the validation, kept in both checkpoints, and used by whatever predicts."""

import pytest
import torch

from vitdet import DETRHead, Prediction, Task, load
from vitdet.checkpoint import Checkpoint
from vitdet.cli import main
from vitdet.errors import UserError
from vitdet.metrics.thresholds import choose
from vitdet.training.callbacks import Pictures


class Knowing(Task):
    """Finds every object with a score that its class has, and as many boxes elsewhere with half of that."""

    def predict_step(self, batch, batch_idx):
        found = []
        for target in batch[1]:
            height, width = target.orig_size
            centre, size = (target.boxes_cxcywh * torch.tensor([width, height] * 2)).split(2, 1)
            boxes = torch.cat([centre - size / 2, centre + size / 2], 1)
            scores = 0.4 + target.labels / 20
            both = torch.cat([boxes, boxes + 2 * max(height, width)]), torch.cat([scores, scores / 2])
            options = {"size": (height, width), "category_ids": self.category_ids, "names": self.classes}
            found.append(Prediction(*both, target.labels.repeat(2), image_id=target.image_id, **options))
        return found


@pytest.fixture
def knowing(tiny):
    def make(**options):
        task, data, trainer = tiny(max_epochs=1, data={"val_images": 40, "size": 64}, **options)
        task.__class__ = Knowing
        return task, data, trainer

    return make


def test_both_checkpoints_hold_what_the_validation_chose(knowing, capsys):
    task, data, trainer = knowing(pictures=1)
    trainer.fit(task, data)
    matches, chosen = task.metric("val").matches, task.thresholds
    assert chosen["values"] == choose(matches)["values"]
    assert chosen["values"] == pytest.approx([0.75 * (0.4 + k / 20) for k in range(6)]) and all(chosen["own"])
    for name in ("last.ckpt", "best.ckpt"):
        assert Checkpoint.read(trainer.run_folder / name).chosen == chosen
    assert load(trainer.run_folder / "best.ckpt", device="cpu").thresholds == chosen["values"]
    assert "best F1 at IoU 0.5 on the validation data" in capsys.readouterr().out
    first = trainer.run_folder
    # what goes on from a checkpoint begins with its thresholds, and keeps them if it chooses none
    again, data, trainer = knowing(thresholds=None)
    trainer.fit(again, data, ckpt_path=first / "last.ckpt")
    assert again.thresholds == chosen


def test_runs_that_choose_none_have_the_default(knowing):
    task, data, trainer = knowing(thresholds=None)
    trainer.fit(task, data)
    assert task.thresholds is None and load(trainer.run_folder / "last.ckpt", device="cpu").thresholds == [0.3] * 6


def test_another_rule_is_an_option_and_a_wrong_one_refused_at_once(knowing):
    task, data, trainer = knowing(thresholds="recall=0.5")
    trainer.validate(task, data)
    assert task.thresholds["rule"] == "recall=0.5" and min(task.thresholds["recall"]) >= 0.5
    with pytest.raises(UserError, match="thresholds is 'precison=0.9'; wanted f1, or precision=P"):
        knowing(thresholds="precison=0.9")


def test_an_existing_checkpoint_gets_thresholds(knowing, capsys, monkeypatch):
    task, data, trainer = knowing(thresholds=None)
    trainer.fit(task, data)
    file = trainer.run_folder / "last.ckpt"
    before = torch.load(file, weights_only=True)
    command = ["thresholds", str(file), "--device", "cpu", "--rule"]
    with pytest.raises(SystemExit):
        main([*command, "best"])
    assert "thresholds is 'best'; wanted f1, or precision=P" in capsys.readouterr().err
    # a head that finds what `Knowing` finds
    monkeypatch.setattr(DETRHead, "infer", lambda self, backbone, x, sizes: [known.pop(0) for _ in sizes])
    known = [one for batch in data.evaluation("val") for one in task.predict_step(batch, 0)]
    main([*command, "precision=1.0"])
    assert "precision=1.0 at IoU 0.5" in capsys.readouterr().out
    after = torch.load(file, weights_only=True)
    assert after["vitdet"].pop("thresholds")["rule"] == "precision=1.0" and before["vitdet"].pop("thresholds") is None
    assert after["vitdet"] == before["vitdet"] and after.keys() == before.keys()
    assert all(torch.equal(value, after["state_dict"][name]) for name, value in before["state_dict"].items())
    assert load(file, device="cpu").thresholds == pytest.approx([0.75 * (0.4 + k / 20) for k in range(6)])


@pytest.mark.parametrize("verb", ["thresholds", "compare", "test", "report"])
def test_data_that_have_moved_are_asked_for(tiny, verb, capsys):
    task, data, trainer = tiny(max_epochs=1, max_steps=1)
    trainer.fit(task, data)
    file = trainer.run_folder / "last.ckpt"
    contents = torch.load(file, weights_only=True)
    gone = {name: {"images": f"gone/{name}", "annotations": "gone/a.json"} for name in ("train", "val")}
    contents["vitdet"]["data"] = {"class_path": "vitdet.CocoData", "init_args": gone}
    torch.save(contents, file)
    with pytest.raises(SystemExit):
        main([verb, *[str(file)] * (2 if verb == "compare" else 1)])
    wanted = "'gone/train', which is no folder: its training found the data there; --data FOLDER says where they are"
    assert wanted in capsys.readouterr().err


def test_pictures_take_thresholds_of_classes(tiny):
    task, data, trainer = tiny(max_epochs=1, callbacks=[Pictures(1, threshold=[0.1] * 6)])
    trainer.fit(task, data)
    assert list((trainer.run_folder / "pictures").iterdir())
