"""Images that can't be used, and images of 16 bits: the same in training, validation and prediction."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from vitdet import Backbone, DETRHead, Task, Trainer, load
from vitdet.data import CocoData, EvalTransform
from vitdet.data.bad import Bad
from vitdet.data.files import Files
from vitdet.errors import DataError, UserError
from vitdet.images import ImageError, load_image

SKIP = {"on_bad_image": "skip"}
PLAIN = {"train_transforms": [], "scale_jitter": (1.0, 1.0), "size": 64}


def deepen(split, bits=12, shift=0):
    """Makes 16-bit files of the images of a split, whose values have so many bits."""
    for path in Path(split.images).glob("*.png"):
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.uint16)
        cv2.imwrite(str(path), np.rint(grey / 255 * (2**bits - 1)).astype(np.uint16) << shift)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bit_images_are_as_bright_as_their_bits_in_all_stages(coco_split, bits):
    split = coco_split(3)
    names = ["0.png", "1.png", "2.png"]
    wanted = [cv2.imread(f"{split.images}/{name}", cv2.IMREAD_GRAYSCALE) for name in names]
    deepen(split, bits)
    data = CocoData(train=split, val=split, **PLAIN)
    assert f"16-bit images: taken to use {bits} bits" in data.describe()
    assert "data.reading.bit_depth" in data.describe()
    config = data.eval_transform().config
    assert config["bit_depth"] == bits
    # what prediction makes of the file, by the transform that a checkpoint holds
    transform = EvalTransform(**config)
    for loader in (data.val_dataloader(), data.train_dataloader()):
        for image, target in [pair for batch in loader for pair in zip(*batch)]:
            i = target.image_id - 100
            as_predicted = load_image(f"{split.images}/{names[i]}", bit_depth=transform.bit_depth)
            assert np.array_equal(as_predicted, np.repeat(wanted[i][..., None], 3, 2))
            assert torch.equal(image, transform(as_predicted))


def test_the_depth_of_images_can_be_given_and_comes_back_from_a_checkpoint(coco_split):
    split = coco_split(3)
    plain = CocoData(val=split)
    assert "16-bit" not in plain.describe() and "bit_depth" not in plain.eval_transform().config
    deepen(split, 12)
    given = CocoData(val=split, reading={"bit_depth": 14})
    assert "16-bit images: 14 bits, 16383 is white (data.reading.bit_depth)" in given.describe()
    small = CocoData(val=split, reading={"bit_depth": 10})
    assert "3 of 3 images of 16 bits hold larger values, up to " in small.describe()
    # a run that only tests sees other images, whose values may be smaller
    assert given.files.read_like({"bit_depth": 16}).bit_depth == 14
    assert CocoData(val=split).files.read_like({"bit_depth": 16}).bit_depth == 16
    assert CocoData(val=split).files.read_like({}).bit_depth == 12
    for wrong in (7, 17, 12.0, "12"):
        with pytest.raises(UserError, match=r"bit_depth is .*; wanted a whole number from 8 to 16, or null"):
            CocoData(val=split, reading={"bit_depth": wrong})


def damage(split, *names):
    for name in names:
        (Path(split.images) / name).write_text("damaged")


@pytest.mark.parametrize("stage", ["train", "val"])
def test_skipped_images_are_said_once_whatever_the_number_of_workers(coco_split, caplog, stage):
    split = coco_split(30)
    damage(split, "3.png", "7.png", "8.png")
    said, summaries = [], []
    for workers in (0, 1, 2):
        caplog.clear()
        options = {"num_workers": workers, "batch_size": 4, "size": 32, "reading": {**SKIP, "max_bad": 0.1}}
        data = CocoData(train=split, val=split, **options)
        loader = data.train_dataloader() if stage == "train" else data.val_dataloader()
        batches = [[target.image_id for target in targets] for _ in range(2) for _, targets in loader]
        assert sum(map(len, batches)) == (2 * 28 if stage == "train" else 2 * 30)
        said.append([record.getMessage() for record in caplog.records if "skipped" in record.getMessage()])
        summaries += data.files.summary()
    assert said[0] == said[1] == said[2] and len(said[0]) == 3
    assert f"{stage}: skipped (1 of 30 images so far): " in said[0][0] and "can't be read as an image" in said[0][0]
    assert len(set(summaries)) == 1 and f"{stage}: 3 of 30 images were skipped (10 %)" in summaries[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_skipped_images_stop_the_run(coco_split, workers):
    split = coco_split(30)
    damage(split, *(f"{i}.png" for i in range(10)))
    data = CocoData(train=split, num_workers=workers, batch_size=4, size=32, reading=SKIP)
    with pytest.raises(DataError, match=r"^train: 2 of 30 images were skipped \(6\.67 %\), more than data\.reading\."):
        list(data.train_dataloader())


def test_long_lists_are_cut_short(caplog):
    bad = Bad("train", total=10_000, share=0.01)
    for i in range(100):
        bad.add(i, f"{i}.png is damaged")
        bad.add(i, "the same again")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 21 and "only counted" in lines[-1]
    assert bad.summary().endswith("3.png is damaged; 4.png is damaged; and 95 more")
    with pytest.raises(DataError, match=r"101 of 10000 images were skipped .*max_bad allows \(1 %\).*96 more"):
        bad.add(100, "it is too much")


def test_nothing_is_said_where_nothing_was_skipped(coco_split):
    data = CocoData(train=coco_split(3), reading=SKIP)
    list(data.train_dataloader())
    assert data.files.summary() == [] and isinstance(data.files, Files)
    with pytest.raises(ImageError, match="on_bad_image: skip"):
        data.reading = type(data.reading)()
        damage(data.splits["train"], "0.png")
        list(data.train_dataloader())


def test_a_checkpoint_knows_the_depth_of_images(coco_split, tmp_path):
    split = coco_split(3)
    deepen(split, 12)
    options = {"size": 64, "batch_size": 3}
    task = Task(Backbone("vit_tiny_patch16_224", depth=1), DETRHead, classes=["cat", "dog"])
    quiet = {"logger": False, "accelerator": "cpu", "default_root_dir": str(tmp_path)}
    trainer = Trainer(max_steps=1, **quiet)
    trainer.fit(task, datamodule=CocoData(train=split, **options))
    checkpoint = trainer.entered / "last.ckpt"
    detector = load(checkpoint, device="cpu")
    assert detector.transform.bit_depth == 12
    path = Path(split.images) / "0.png"
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    by_path, by_pil, by_array = detector.predict([path, Image.open(path), pixels], threshold=0.0)
    assert torch.equal(by_path.boxes_xyxy, by_pil.boxes_xyxy) and torch.equal(by_path.boxes_xyxy, by_array.boxes_xyxy)
    # a test on images that happen to be darker reads them in the same way
    for name in ("0.png", "1.png", "2.png"):
        file = Path(split.images) / name
        cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_UNCHANGED) // 64)
    darker = CocoData(val=split, **options)
    assert darker.files.depth.bits == 8
    Trainer(**quiet).test(task, datamodule=darker, ckpt_path=checkpoint)
    assert darker.files.depth.bits == 12 == darker.eval_transform().bit_depth
