"""Files that were written by format 2, before options moved into parts, give what they gave then.

Each `NAME.ckpt` is the last checkpoint of a training of two steps with options that are not the defaults, `NAME.yaml`
the `config.yaml` of its run, and `expected.json` what it found in `noise.png` then. All but `detr.ckpt` hold the
averaged weights alone.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

import vitdet
from vitdet import Task
from vitdet.cli import main
from vitdet.renamed import CLASSES, MOVED, renew

HERE = Path(__file__).parent
NAMES = sorted(path.stem for path in HERE.glob("*.ckpt"))
EXPECTED = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))


def found(prediction):
    """What `expected.json` has of a prediction."""
    values = {
        "boxes": prediction.boxes_xyxy,
        "scores": prediction.scores,
        "labels": prediction.labels,
        "mask_pixels": None if prediction.masks is None else prediction.masks.flatten(1).sum(1),
        "semantic": None if prediction.semantic is None else prediction.semantic.flatten().long().bincount(minlength=9),
        "panoptic": None if prediction.panoptic is None else prediction.panoptic.flatten().long().bincount(),
    }
    return {name: value.tolist() for name, value in values.items() if value is not None}


@pytest.mark.parametrize("name", NAMES)
def test_an_old_checkpoint_finds_what_it_found_then(name):
    prediction = vitdet.load(HERE / f"{name}.ckpt").predict(HERE / "noise.png", threshold=0.0)
    got, expected = found(prediction), EXPECTED[name]
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(torch.tensor(got[key]), torch.tensor(value), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_an_old_checkpoint_is_a_task_that_is_saved_as_today(name, tmp_path):
    task = Task.load_from_checkpoint(HERE / f"{name}.ckpt")
    saved: dict = {}
    task.on_save_checkpoint(saved)
    text = json.dumps(saved["vitdet"]["model"])
    assert text.count('"vitdet.') == text.count("class_path") >= 2
    assert not any(old in text for old in CLASSES)
    assert renew(saved["vitdet"]["model"]) == saved["vitdet"]["model"]


@pytest.mark.parametrize("name", NAMES)
def test_an_old_config_trains(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config.yaml"
    shutil.copy(HERE / f"{name}.yaml", config)
    resume = ["--ckpt_path", str(HERE / "detr.ckpt"), "--trainer.max_steps", "3"] if name == "detr" else []
    main(["train", str(config), "--trainer.limit_val_batches", "1", *resume])
    out = capsys.readouterr()
    for moved in MOVED.values():  # all of it is at today's places
        assert not any(f"did you mean {new}" in out.err for new in moved.values())
    written = next(tmp_path.glob("runs/**/config.yaml")).read_text(encoding="utf-8")
    assert not any(old in written for old in CLASSES)


def test_the_data_of_an_old_checkpoint_are_found(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["test", str(HERE / "detr.ckpt"), "--trainer.accelerator", "cpu"])
    assert "AP" in capsys.readouterr().out
