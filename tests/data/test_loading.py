"""Workers: what they raise, and how they are started."""

import json
import os
import pickle
import signal
from pathlib import Path

import pytest
import torch

from vitdet.data import CocoData, ShapesData, ShapesPanopticData, ShapesSemanticData
from vitdet.data.sampler import Loader
from vitdet.errors import UserError
from vitdet.images import ImageError


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_image_in_a_worker_is_the_same_error_as_without(coco_split, workers, split):
    given = coco_split()
    bad = Path(given.images) / "2.png"
    bad.write_text("damaged")
    messages = []
    for count in (0, workers):
        data = CocoData(train=given, val=given, num_workers=count)
        with pytest.raises(ImageError) as error:
            list(data.train_dataloader() if split == "train" else data.val_dataloader())
        messages.append(str(error.value))
    assert messages[0] == messages[1] and str(bad) in messages[0] and "\n" not in messages[0]


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, i):
        raise KeyError("our own fault")


def test_other_errors_keep_the_traceback_of_the_worker():
    with pytest.raises(KeyError, match=r"Original Traceback") as error:
        list(Loader(Broken(), num_workers=1))
    assert "our own fault" in str(error.value)


class Killed(Broken):
    def __getitem__(self, i):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_is_killed_is_told_in_a_sentence():
    with pytest.raises(UserError, match=r"a process that loads data has ended .*smaller data\.num_workers, or 0"):
        list(Loader(Killed(), num_workers=1))


def _equal(batch, other):
    (images, targets), (others, same) = batch, other
    assert all(torch.equal(a, b) for a, b in zip(images, others, strict=True))
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(targets, same, strict=True))


@pytest.mark.slow
def test_workers_may_be_spawned(tmp_path):
    """As they are on Windows and on a Mac; the second batch has a damaged image."""
    options = {"root": str(tmp_path / "shapes"), "train_images": 2, "val_images": 1, "size": 32, "batch_size": 1}
    data = ShapesPanopticData(**options)
    data.masks = True
    batches = list(data.train_dataloader())
    damaged = Path(data.splits["train"].images) / f"{batches[1][1][0].image_id - 1:06d}.jpg"
    damaged.write_text("damaged")
    data.num_workers = 1
    loader = data.train_dataloader()
    loader.multiprocessing_context = "spawn"
    spawned = iter(loader)
    _equal(batches[0], next(spawned))
    with pytest.raises(ImageError, match=r"^\S*\.jpg can't be read as an image"):
        next(spawned)


@pytest.mark.parametrize("kind", [ShapesData, ShapesPanopticData, ShapesSemanticData])
def test_all_that_workers_get_can_be_sent_to_them(tmp_path, kind):
    root = str(tmp_path / "shapes")
    data = kind(
        root=root, train_images=4, val_images=2, size=32, batch_size=2, augmentation={"mosaic": 0.5}, cache=True
    )
    data.masks = kind is not ShapesData
    for loader in (data.train_dataloader(), data.val_dataloader()):
        wanted = list(loader)
        dataset, make = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))
        for draws, batch in zip(loader.batch_sampler, wanted, strict=True):
            _equal(batch, make([dataset[draw] for draw in draws]))


def _empty(split):
    content = json.loads(Path(split.annotations).read_text())
    content["annotations"] = [a for a in content["annotations"] if a["iscrowd"]]
    Path(split.annotations).write_text(json.dumps(content))


def test_what_makes_scores_worthless_is_said(coco_split, tmp_path):
    train, val = coco_split(7, name="train"), coco_split(3, name="val")
    assert "so its scores" not in CocoData(train=train, val=val).describe()
    assert "val: none, so nothing is validated" in CocoData(train=train).describe()
    assert "val: none" not in CocoData(val=val).describe()
    assert "val: 7 of its 7 images are training images, too" in CocoData(train=train, val=train).describe()
    _empty(val)
    assert "val: no image has an object to find" in CocoData(train=train, val=val).describe()


def test_training_images_are_known_by_their_files(coco_split, tmp_path):
    """Another annotation file, and another way to the same folder."""
    train = coco_split(7, name="train")
    content = json.loads(Path(train.annotations).read_text())
    content["images"] = content["images"][:2]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] < 102]
    for image in content["images"]:
        image["file_name"] = f"train/{image['file_name']}"
    (tmp_path / "few.json").write_text(json.dumps(content))
    val = type(train)(f"{tmp_path}/train/..", str(tmp_path / "few.json"))
    assert "val: 2 of its 2 images are training images, too" in CocoData(train=train, val=val).describe()
    assert "test: 2 of its 2 images" in CocoData(train=train, val=train, test=val).describe()
