"""The look before the first step: data on which nothing can be learnt stop a training, and what is odd is said."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitdet.data import CocoData, PanopticData, SemanticData, SemanticSplit
from vitdet.data.look import look
from vitdet.data.look_at_labels import listed
from vitdet.errors import DataError, UserError

PLAIN = {"train_transforms": [], "scale_jitter": (1.0, 1.0)}


def lines(data, split="train"):
    loader = data.train_dataloader() if split == "train" else data.evaluation(split)
    return look(data, split, loader.dataset, data.files.bad(split))


# ---- label maps


def write_maps(folder, values, *, size=(12, 20), count=3, suffix="png"):
    """Label maps of columns with these values, each with its image."""
    for place in ("images", "labels"):
        (folder / place).mkdir(exist_ok=True)
    columns = np.array(values)[np.arange(size[1]) * len(values) // size[1]]
    for i in range(count):
        Image.new("RGB", size[::-1]).save(folder / "images" / f"{i}.jpg")
        dtype = np.uint8 if max(values) < 256 else np.uint16
        Image.fromarray(np.tile(columns, (size[0], 1)).astype(dtype)).save(folder / "labels" / f"{i}.{suffix}")
    return SemanticSplit(str(folder / "images"), str(folder / "labels"))


def semantic(folder, values, classes, given=None, **options):
    split = write_maps(folder, values)
    data = SemanticData(train=split, val=split, classes=classes, values=given, **PLAIN, **options)
    data.masks = True
    return data


STOP = {
    # values of the pixels, classes, given values: what the message has
    "counted from 1": ([1, 2], "ab", None, r"values 1 and 2, .* 1 of 2 classes occurs.*set data\.values: \[1, 2\]"),
    "counted from 1, with void": ([1, 2, 3, 255], "abc", None, r"count from 1, set data\.values: \[1, 2, 3\]"),
    "counted from 1, some absent": ([2, 5], "abcde", None, r"count from 1, set data\.values: \[1, 2, 3, 4, 5\]"),
    "0 and 255": ([0, 255], "ab", None, r"set data\.values: \[0, 255\], .*or, if .* void, data\.values: \[0, 1\]"),
    "0 and 128": ([0, 128], "ab", None, r"set data\.values: \[0, 128\], in the order of the classes"),
    "one class, on a background": ([0, 1], "a", None, r"1 of 1 classes.*count from 1, set data\.values: \[1\]|\[1\]"),
    "all void": ([255], "ab", None, r"0 of 2 classes occur, and 100% of the pixels are no class"),
    "all others": ([7, 8], "ab", [1, 2], r"values 7 and 8, and the classes have values 1 and 2: 0 of 2"),
}


@pytest.mark.parametrize("case", STOP)
def test_label_maps_with_other_values_than_the_classes_stop_a_training(tmp_path, case):
    values, classes, given, message = STOP[case]
    data = semantic(tmp_path, values, list(classes), given)
    for split in ("train", "val"):
        with pytest.raises(DataError, match=message):
            lines(data, split)


SAID = {
    "as they should be": ([0, 1], "ab", None, []),
    "the same, told": ([1, 2], "ab", [1, 2], []),
    "void": ([0, 1, 255, 0], "ab", None, ["25.00% of the pixels of 3 label maps are no class (value 255): neither"]),
    "void by choice": ([0, 255], "ab", [0, 1], ["50.00% ", "1 of 2 classes do not occur in 3 label maps: b", "a sing"]),
    "one too many": ([0, 1, 2], "ab", None, ["if the classes count from 1 and 0 is void, set data.values: [1, 2], an"]),
    "absent": ([0, 2], "abcd", None, ["2 of 4 classes do not occur in 3 label maps: b, d"]),
    "a single class": ([1, 1], "ab", None, ["1 of 2 classes do not occur", "a single class occurs, so every pixel"]),
    "16 bits": ([3, 300], "ab", [3, 300], []),
}


@pytest.mark.parametrize("case", SAID)
def test_what_is_odd_in_label_maps_is_said(tmp_path, case):
    values, classes, given, wanted = SAID[case]
    data = semantic(tmp_path, values, list(classes), given)
    for split in ("train", "val"):
        said = lines(data, split)
        assert len(said) == len(wanted) and all(line.startswith(f"{split}: ") for line in said)
        assert all(part in line for part, line in zip(wanted, said)), said


def test_label_maps_of_16_bits_keep_their_values(tmp_path):
    data = semantic(tmp_path, [3, 300, 301], ["a", "b"], [3, 300])
    assert np.unique(data.truth("val")(0)).tolist() == [0, 1, 255]
    ids = semantic(tmp_path, [3, 24001], ["a"], [3])
    with pytest.raises(DataError, match=r"values up to 24001, and no class has one above 255.*ids of objects"):
        ids.truth("val")(0)


def test_negative_values_are_void(tmp_path):
    """As in Cityscapes' trainIds, which a TIFF can hold."""
    split = write_maps(tmp_path, [0, 1], suffix="tif")
    for path in (tmp_path / "labels").iterdir():
        Image.fromarray(np.array(Image.open(path)).astype(np.int32) - 1).save(path)
    data = SemanticData(val=split, classes=["road"], values=[0])
    assert np.unique(data.truth("val")(0)).tolist() == [0, 255]
    assert "no class (value -1)" in lines(data, "val")[0]


def test_label_maps_that_can_not_be_used_are_skipped_or_stop(tmp_path, caplog):
    split = write_maps(tmp_path, [0, 1], count=6)
    Image.new("L", (5, 4)).save(tmp_path / "labels" / "1.png")
    with pytest.raises(DataError, match=r"1\.jpg is 20×12, but its label map 1\.png has 5×4.*on_bad_image: skip"):
        list(SemanticData(train=split, classes=["a", "b"]).train_dataloader())
    (tmp_path / "labels" / "2.png").write_text("damaged")
    Image.new("RGB", (20, 12)).save(tmp_path / "labels" / "3.png")
    with pytest.raises(DataError, match=r"2\.png can't be read"):
        SemanticData(train=split, classes=["a", "b"])
    reading = {"on_bad_image": "skip", "max_bad": 0.7}
    data = SemanticData(train=split, val=split, classes=["a", "b"], reading=reading, **PLAIN)
    data.masks = True
    data.setup("fit")
    assert len(data.index("val")) == 5 and "1 images left out: their label maps can't be read" in data.describe()
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert sum(len(images) for images, _ in loader) == 5
    # of an image without a usable label map, nothing is scored
    maps = [data.truth("val")(i) for i in range(5)]
    assert [bool((labels == 255).all()) for labels in maps] == [False, False, True, False, False]
    train, val = data.files.summary()
    assert "train: 3 of 5 images were skipped" in train and "3.png has colours; a label map has one value" in val


# ---- panoptic segments


def write_panoptic(folder, *, mode="RGB", boxes=True, stray=False, edit=lambda ids: ids):
    """Three images of two segments, whose numbers fit into 16 bits."""
    for place in ("images", "segments"):
        (folder / place).mkdir(exist_ok=True)
    small = mode in ("L", "P")
    images, annotations = [], []
    for i in range(3):
        first, second = (3, 7) if small else (700 + i, 1000 + i)
        ids = np.full((12, 20), first)
        ids[2 : 7 + i, 3:12] = second
        if stray:
            ids[10:, 18:] = 5000
        shown = edit(ids)
        if mode in ("L", "I;16", "I"):
            image = Image.fromarray(shown.astype({"L": np.uint8, "I;16": np.uint16, "I": np.int32}[mode]))
        else:
            image = Image.fromarray(np.stack([shown % 256, shown // 256 % 256, shown // 65536], -1).astype(np.uint8))
            image = image.quantize(4) if mode == "P" else image.convert(mode)
        image.save(folder / "segments" / f"{i}.{'tiff' if mode == 'I' else 'png'}")
        Image.new("RGB", (20, 12)).save(folder / "images" / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "width": 20, "height": 12})
        given = ({"bbox": [0, 0, 20, 12], "area": 200}, {"bbox": [3, 2, 9, 5 + i], "area": 9 * (5 + i)})
        segments = [{"id": first, "category_id": 2}, {"id": second, "category_id": 1}]
        segments = [{**segment, **(more if boxes else {})} for segment, more in zip(segments, given)]
        name = f"{i}.{'tiff' if mode == 'I' else 'png'}"
        annotations.append({"image_id": i + 1, "file_name": name, "segments_info": segments})
    categories = [{"id": 1, "name": "thing", "isthing": 1}, {"id": 2, "name": "ground", "isthing": 0}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "a.json").write_text(json.dumps(content))
    split = {name: str(folder / name) for name in ("images", "segments")} | {"annotations": str(folder / "a.json")}
    data = PanopticData(train=split, val=split, size=None, **PLAIN)
    data.masks = True
    return data


def targets(loader):
    return sorted((t for _, batch in loader for t in batch), key=lambda target: target.image_id)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "I", "L", "P"])
def test_ids_are_ids_in_whatever_file_and_boxes_come_from_them(tmp_path, mode):
    with_boxes, without = (write_panoptic(tmp_path / name, mode=mode, boxes=name == "a") for name in _folders(tmp_path))
    assert lines(with_boxes) == lines(without) == []
    for i in (1, 2, 3):
        ids, numbers, labels, _ = without.truth("val")(i)
        assert set(np.unique(ids)) == set(numbers.tolist()) and labels.tolist() == [1, 0]
        assert (ids == numbers[1]).sum() == 9 * (4 + i)
    for stage in ("train_dataloader", "val_dataloader"):
        wanted, got = targets(getattr(with_boxes, stage)()), targets(getattr(without, stage)())
        assert len(got) == 3
        for a, b in zip(wanted, got, strict=True):
            assert torch.equal(a.labels, b.labels) and torch.allclose(a.boxes_cxcywh, b.boxes_cxcywh, atol=1e-6)
            assert (a.masks is None and b.masks is None) or torch.equal(a.masks, b.masks)


def _folders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    return "a", "b"


def test_numbers_without_segment_and_segments_without_pixels_are_counted(tmp_path):
    data = write_panoptic(tmp_path, stray=True)
    (line,) = lines(data)
    assert "3 numbers in the PNGs of 3 images are no segment of the JSON (such as 5000 in 0.png)" in line
    assert "1.67% of the pixels are void" in line
    # void pixels are nothing that a model could be wrong about
    assert 5000 not in data.truth("val")(1)[0]
    content = json.loads((tmp_path / "a.json").read_text())
    content["annotations"][0]["segments_info"].append({"id": 99, "category_id": 1})
    (tmp_path / "a.json").write_text(json.dumps(content))
    data = PanopticData(train=data.splits["train"], **PLAIN)
    data.masks = True
    assert "1 of 7 segments of 3 images have no pixel in the PNGs: they are left out" in lines(data)[0]
    assert [len(target.labels) for target in targets(data.train_dataloader())] == [2, 2, 2]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda ids: (ids % 256 << 16) + (ids // 256 << 8), r"channels seem to be in the order B, G, R"),
        (lambda ids: ids // 257 * 65793, r"none of the 6 segments of 3 images has a pixel .* R \+ 256 G \+ 65536 B"),
    ],
)
def test_pngs_with_other_numbers_stop_a_training(tmp_path, edit, message):
    data = write_panoptic(tmp_path, edit=edit)
    for split in ("train", "val"):
        with pytest.raises(DataError, match=message):
            lines(data, split)


def test_segment_files_that_can_not_be_used(tmp_path):
    data = write_panoptic(tmp_path)
    (tmp_path / "segments" / "1.png").rename(tmp_path / "segments" / "1.PNG")
    with pytest.raises(
        DataError, match=r"^1 of 3 segment PNGs of train can't be read .* mean '1\.PNG'.*upper and lower"
    ):
        data.setup("fit")
    Image.new("RGB", (7, 5)).save(tmp_path / "segments" / "1.png")
    with pytest.raises(DataError, match=r"1\.png is 7×5, but a\.json says that its image is 20×12.*on_bad_image: skip"):
        list(data.train_dataloader())
    options = {"train": data.splits["train"], "val": data.splits["val"]}
    data = PanopticData(**options, reading={"on_bad_image": "skip"}, num_workers=2, **PLAIN)
    data.masks = True
    assert sum(len(images) for images, _ in data.train_dataloader()) == 3
    ids, numbers, *_ = data.truth("val")(2)
    assert not ids.any() and not len(numbers)
    train, val = data.files.summary()
    assert "train: 1 of 3" in train and val.endswith("it is not scored")


# ---- boxes


def test_boxes_of_segments_that_are_not_around_their_pixels_stop_a_training(tmp_path):
    data = write_panoptic(tmp_path)
    path = tmp_path / "a.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segments_info"][0]["bbox"] = [15, 9, 4, 2]
    path.write_text(json.dumps(content))
    again = PanopticData(train=data.splits["train"], val=data.splits["val"], size=None, **PLAIN)
    again.masks = True
    assert "train: 1 of 6 boxes are not those of their segments' pixels" in lines(again)
    for item in content["annotations"]:
        for segment in item["segments_info"]:
            segment["bbox"] = [15, 9, 4, 2]
    path.write_text(json.dumps(content))
    again = PanopticData(train=data.splits["train"], val=data.splits["val"], size=None, **PLAIN)
    again.masks = True
    with pytest.raises(DataError, match="6 of 6 boxes are not those of their segments' pixels; correct them, or leave"):
        lines(again)


def test_a_split_without_images_stops_a_training(coco_split):
    split = coco_split(2)
    path = Path(split.annotations)
    none = path.with_name("none.json")
    none.write_text(json.dumps({**json.loads(path.read_text()), "images": [], "annotations": []}))
    data = CocoData(train=split, val=type(split)(split.images, str(none)), size=640)
    with pytest.raises(DataError, match="none.json lists no image; correct data.val, or leave that split out"):
        lines(data, "val")


@pytest.mark.parametrize(("classes", "values"), [([], None), (["a"], ["x"])])
def test_classes_and_values_are_checked(tmp_path, classes, values):
    with pytest.raises(UserError, match="data.classes is empty|data.values has 'x'; wanted whole numbers"):
        semantic(tmp_path, [0, 1], classes, values)


def edit_boxes(split, change):
    path = Path(split.annotations)
    content = json.loads(path.read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for annotation in content["annotations"]:
        annotation["bbox"] = change(annotation["bbox"], *sizes[annotation["image_id"]])
    path.write_text(json.dumps(content))


def test_boxes_as_fractions_stop_a_training(coco_split):
    split = coco_split(7)
    edit_boxes(split, lambda box, w, h: [box[0] / w, box[1] / h, box[2] / w, box[3] / h])
    data = CocoData(train=split, val=split, size=640)
    for stage in ("train", "val"):
        with pytest.raises(DataError, match=r"all 6 boxes lie within 0 to 1, so they seem to be fractions"):
            lines(data, stage)


def test_boxes_that_are_too_small_are_counted_and_stop_a_training_if_all_are(coco_split):
    split = coco_split(7)
    edit_boxes(split, lambda box, w, h: [box[0], box[1], min(box[2], 4), min(box[3], 4)])
    assert lines(CocoData(train=split, size=32)) == []
    said = lines(CocoData(train=split, size={"square": 10}, scale_jitter=(0.5, 1.5)))
    assert "boxes are narrower than a pixel even at the largest scale of the training (square 10)" in said[0]
    with pytest.raises(DataError, match=r"has nothing to train on: resizing, crops and tr.*6 of 6 boxes are.*: crowd"):
        lines(CocoData(train=split, size=8, scale_jitter=(0.5, 1.0)))


def test_images_with_several_frames_are_said(coco_split):
    split = coco_split(3)
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
    frames[0].save(Path(split.images) / "0.png", save_all=True, append_images=frames[1:])
    (line,) = lines(CocoData(train=split))
    assert line == "train: 1 of 3 images have several frames, such as 0.png: the first is read"


def test_the_look_changes_nothing_in_the_training(coco_split):
    split = coco_split(9)
    options = {"size": 32, "augmentation": {"mosaic": 0.5}, "batch_size": 3}
    plain = list(CocoData(train=split, **options).train_dataloader())
    data = CocoData(train=split, **options)
    state = np.random.get_state()[1].tolist(), torch.get_rng_state()
    lines(data)
    assert state[0] == np.random.get_state()[1].tolist() and torch.equal(state[1], torch.get_rng_state())
    for (images, _), (others, _) in zip(plain, data.train_dataloader(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(images, others, strict=True))


def test_the_look_takes_two_seconds_at_most(tmp_path):
    """Images of 12 megapixels, of which there are many."""
    Image.new("RGB", (4000, 3000)).save(tmp_path / "a.jpg")
    for i in range(200):
        (tmp_path / f"{i}.jpg").symlink_to("a.jpg")
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 4000, "height": 3000} for i in range(200)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [9, 9, 900, 900]} for i in range(200)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    split = {"images": str(tmp_path), "annotations": str(tmp_path / "a.json")}
    data = CocoData(train=split, val=split, size=640)
    start = time.monotonic()
    assert lines(data) == lines(data, "val") == []
    assert time.monotonic() - start < 4


def test_a_training_starts_with_the_look(tmp_path):
    from vitdet import Backbone, EoMTHead, Task, Trainer

    data = semantic(tmp_path, [1, 2], ["a", "b"], size=32)
    backbone = Backbone("vit_tiny_patch16_224", depth=2, neck=None, tail=1)
    task = Task(backbone, EoMTHead, classes=data.classes)
    trainer = Trainer(max_steps=1, logger=False, default_root_dir=str(tmp_path), accelerator="cpu")
    with pytest.raises(DataError, match="if the maps count from 1"):
        trainer.fit(task, datamodule=data)
    assert trainer.global_step == 0


def test_values_in_words():
    assert listed([1]) == "value 1" and listed([1, 2, 4, 5, 6]) == "values 1, 2 and 4 to 6"
    assert listed([0, 255], "id") == "ids 0 and 255"
    assert listed(range(0, 40, 2)).endswith("10, 12, 14 and 12 more")
