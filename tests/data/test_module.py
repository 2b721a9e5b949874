"""The data module on files: classes, targets, determinism, errors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitdet.boxes import cxcywh_to_xyxy
from vitdet.data import Augmentation, CocoData, EvalTransform, Reading, Split
from vitdet.data.sampler import Draw
from vitdet.images import ImageError

PLAIN = {"train_transforms": [], "scale_jitter": (1.0, 1.0)}


def test_classes_are_ordered_by_id_and_map_back(coco_split):
    data = CocoData(train=coco_split())
    assert data.classes == ["cat", "dog"] and data.category_ids == [3, 7] and data.num_classes == 2


def test_targets_are_the_boxes_of_the_json_without_crowds_and_empty_ones(coco_split):
    split = coco_split()
    rows = json.loads(Path(split.annotations).read_text())
    data = CocoData(val=split, eval_batch_size=3)
    seen = 0
    for images, targets in data.val_dataloader():
        for image, target in zip(images, targets):
            mine = [
                a
                for a in rows["annotations"]
                if a["image_id"] == target.image_id and not a["iscrowd"] and a["bbox"][2] > 0
            ]
            assert image.shape[1:] == target.size == target.orig_size
            height, width = target.size
            boxes = cxcywh_to_xyxy(target.boxes_cxcywh) * torch.tensor([width, height, width, height])
            expected = torch.tensor([a["bbox"] for a in mine]).reshape(-1, 4)
            expected[:, 2:] += expected[:, :2]
            expected = expected.minimum(torch.tensor([width, height, width, height]))
            torch.testing.assert_close(boxes, expected.float(), atol=1e-3, rtol=1e-4)
            assert target.labels.tolist() == [{3: 0, 7: 1}[a["category_id"]] for a in mine]
            seen += 1
    assert seen == len(rows["images"])


def test_no_training_batch_has_more_tokens_than_the_budget(coco_split):
    options = {"max_tokens": 60, "size": 96, "scale_jitter": (0.5, 2.0)}
    options["augmentation"] = {"batch_scale": (0.5, 1.5), "mosaic": 0.5}
    loader = CocoData(train=coco_split(12), **options).train_dataloader()
    most = 0
    for epoch in range(5):
        loader.batch_sampler.set_epoch(epoch)
        for images, _ in loader:
            tokens = [-(-h // 16) * -(-w // 16) for _, h, w in (image.shape for image in images)]
            assert len(tokens) == 1 or sum(tokens) <= 60
            most = max(most, sum(tokens))
    assert most > 40


def test_data_without_a_box_to_train_on_is_refused(coco_split):
    split = coco_split()
    content = json.loads(Path(split.annotations).read_text())
    content["annotations"] = [a for a in content["annotations"] if a["iscrowd"]]
    Path(split.annotations).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"data\.train\.annotations"):
        CocoData(train=split)
    assert len(CocoData(val=split).index("val")) == 7


def test_a_sample_depends_on_its_draw_alone(coco_split):
    split = coco_split(12)
    options = {"augmentation": {"mosaic": 0.5}, "scale_jitter": (0.6, 1.6), "size": 40}
    one = CocoData(train=split, batch_size=4, **options).train_dataloader()
    other = CocoData(train=split, batch_size=4, num_workers=2, **options).train_dataloader()
    for epoch in range(2):
        for loader in (one, other):
            loader.batch_sampler.set_epoch(epoch)
        for (a, a_targets), (b, b_targets) in zip(one, other, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b))
            assert all(torch.equal(x.boxes_cxcywh, y.boxes_cxcywh) for x, y in zip(a_targets, b_targets))
    sample = one.dataset[Draw(3, epoch=1)]
    assert torch.equal(sample[0], one.dataset[Draw(3, epoch=1)][0])
    assert sample[0].shape != one.dataset[Draw(3, epoch=2)][0].shape or not torch.equal(
        sample[0], one.dataset[Draw(3, epoch=2)][0]
    )


def test_training_boxes_are_valid_under_every_augmentation(coco_split):
    data = CocoData(train=coco_split(12), augmentation=Augmentation(mosaic=0.5), scale_jitter=(0.3, 2.5), size=48)
    dataset = data.train_dataloader().dataset
    for epoch in range(20):
        for i in range(len(dataset)):
            image, target = dataset[Draw(i, epoch)]
            corners = cxcywh_to_xyxy(target.boxes_cxcywh)
            assert image.isfinite().all() and max(image.shape[1:]) <= 48
            assert (corners >= -1e-6).all() and (corners <= 1 + 1e-6).all()
            assert (target.boxes_cxcywh[:, 2:] > 0).all() and len(target.labels) == len(corners)


def test_a_mosaic_puts_boxes_on_their_objects(tmp_path):
    """Every image is one bright square on black, the box on it; so must every mosaic be."""
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for i in range(4):
        pixels = np.zeros((80, 100, 3), np.uint8)
        pixels[20:60, 30 + i : 70 + i] = 250
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 80, "width": 100})
        annotations.append(
            {"id": i, "image_id": i, "category_id": 1, "bbox": [30 + i, 20, 40, 40], "area": 1600, "iscrowd": 0}
        )
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (tmp_path / "a.json").write_text(json.dumps(coco))
    data = CocoData(
        train=Split(str(tmp_path / "images"), str(tmp_path / "a.json")), augmentation=Augmentation(mosaic=1.0), **PLAIN
    )
    data.mean, data.std = (0, 0, 0), (1, 1, 1)
    dataset = data.train_dataloader().dataset
    counts = []
    for epoch in range(10):
        image, target = dataset[Draw(epoch % 4, epoch)]
        height, width = image.shape[1:]
        assert (height, width) == (80, 100)
        counts.append(len(target.labels))
        for box in (
            (cxcywh_to_xyxy(target.boxes_cxcywh) * torch.tensor([width, height, width, height])).round().int().tolist()
        ):
            x1, y1, x2, y2 = box
            inside = image[:, y1 + 1 : max(y2 - 1, y1 + 2), x1 + 1 : max(x2 - 1, x1 + 2)]
            assert inside.mean() > 0.8
    assert max(counts) > 2


def test_bad_images_stop_or_are_skipped_and_counted(coco_split, caplog):
    split = coco_split()
    (Path(split.images) / "2.png").write_text("damaged")
    with pytest.raises(ImageError, match=r"2\.png.*on_bad_image"):
        list(CocoData(val=split).val_dataloader())
    data = CocoData(train=split, val=split, reading={"on_bad_image": "skip"})
    assert sum(len(images) for images, _ in data.val_dataloader()) == 7
    assert "1 of 7" in caplog.text and "2.png" in caplog.text
    assert sum(len(images) for images, _ in data.train_dataloader()) == 7


def test_a_size_that_the_json_gets_wrong_is_an_error(coco_split):
    split = coco_split(3)
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (64, 48)).save(Path(split.images) / "0.png", exif=exif)
    with pytest.raises(ImageError, match=r"data\.reading\.exif: false"):
        list(CocoData(val=split).val_dataloader())
    assert len(list(CocoData(val=split, reading=Reading(exif=False)).val_dataloader())) == 1


def test_splits_with_other_categories_are_refused(coco_split):
    train, val = coco_split(name="train"), coco_split(name="val")
    text = Path(val.annotations).read_text().replace('"dog"', '"horse"')
    Path(val.annotations).write_text(text)
    with pytest.raises(ValueError, match=r"7: 'dog' and 'horse'"):
        CocoData(train=train, val=val)


def test_missing_data_names_the_keys(coco_split, tmp_path):
    with pytest.raises(ValueError, match=r"data\.train\.images"):
        CocoData()
    with pytest.raises(ValueError, match=r"data\.val\.annotations"):
        CocoData(train=coco_split()).val_dataloader()
    with pytest.raises(FileNotFoundError, match=r"data\.train\.images"):
        CocoData(train=Split(str(tmp_path / "nowhere"), coco_split(name="b").annotations))


def test_description_says_what_is_left_out(coco_split):
    text = CocoData(train=coco_split(), size=320).describe()
    assert (
        "7 images" in text
        and "1 boxes kept out of training: crowd" in text
        and "HorizontalFlip" in text
        and "long side 320" in text
    )


def test_the_eval_transform_rebuilds_from_its_config(coco_split):
    data = CocoData(val=coco_split(), size={"short_side": 20, "max_long_side": 30})
    image = np.random.default_rng(0).integers(0, 255, (50, 33, 3), dtype=np.uint8)
    again = EvalTransform(**data.eval_transform().config)
    assert torch.equal(again(image), data.eval_transform()(image))
    json.dumps(data.eval_transform().config)


def test_loader_state_counts_batches_handed_out(coco_split):
    split = coco_split(12)
    whole = [[t.image_id for t in targets] for _, targets in CocoData(train=split, batch_size=2).train_dataloader()]
    loader = CocoData(train=split, batch_size=2, num_workers=2).train_dataloader()
    for _, _ in zip(range(2), loader):
        state = loader.state_dict()
    resumed = CocoData(train=split, batch_size=2).train_dataloader()
    resumed.load_state_dict(state)
    assert [[t.image_id for t in targets] for _, targets in resumed] == whole[2:]
