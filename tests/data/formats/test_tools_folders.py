"""Folders as tools and people leave them: which splits, classes and objects are read, or which error is told."""

import json
from pathlib import Path

import pytest
from PIL import Image

from vitdet.cli import main
from vitdet.data.formats.find import find
from vitdet.errors import UserError

ROWS = "0 0.5 0.5 0.25 0.5\n2 0.25 0.25 0.1 0.1\n"
NAMES = "names: [cat, dog, bird]\n"
XML = (
    "<annotation><filename>{}.jpg</filename><size><width>40</width><height>30</height></size><object>"
    "<name>cat</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>25</ymax></bndbox></object></annotation>"
)


def coco(names, categories, of=1):
    return json.dumps(
        {
            "images": [{"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names)],
            "annotations": [
                {"id": i, "image_id": i, "category_id": of, "bbox": [1, 2, 20, 10], "area": 200, "iscrowd": 0}
                for i, _ in enumerate(names)
            ],
            "categories": [{"id": i, "name": name} for i, name in categories],
        }
    )


def yolo(image="{}/images/{}.jpg", label="{}/labels/{}.txt", **texts):
    """Three images to train, two to validate, of boxes of the classes 0 and 2."""
    files = {name.replace("__", "/").replace("_yaml", ".yaml"): text for name, text in texts.items()}
    for split, count in (("train", 3), ("val", 2)):
        for i in range(count):
            files[image.format(split, f"{split}{i}")] = None
            files[label.format(split, f"{split}{i}")] = ROWS
    return files


VOC = {f"JPEGImages/{i}.jpg": None for i in range(5)} | {f"Annotations/{i}.xml": XML.format(i) for i in range(5)}
SETS = {"train": "0\n1\n2\n", "val": "3\n4\n"}
PEOPLE = {f"{split}2017/{i}.jpg": None for split, count in (("train", 3), ("val", 2)) for i in range(count)} | {
    f"annotations/person_keypoints_{split}2017.json": coco([f"{i}.jpg" for i in range(count)], [(1, "person")])
    for split, count in (("train", 3), ("val", 2))
}
THREE = ["cat", "dog", "bird"]
# the files, an image where there is no text, and the classes
FOLDERS = {
    "a test split that is left empty, as in Ultralytics' files": (
        yolo(data_yaml=f"train: train/images\nval: val/images\ntest: # test images (optional)\n{NAMES}"),
        THREE,
    ),
    "a description above the folder that its path names": (
        yolo(
            "sets/images/{}/{}.jpg",
            "sets/labels/{}/{}.txt",
            data_yaml=f"path: ../datasets/sets\ntrain: images/train\nval: images/val\n{NAMES}",
        ),
        THREE,
    ),
    "a description in a folder of its own": (
        yolo(cfg__data_yaml=f"train: ../train/images\nval: ../val/images\n{NAMES}"),
        THREE,
    ),
    "names in a file": (
        yolo(data_yaml="train: train/images\nval: val/images\nnames: names.txt\n") | {"names.txt": "cat\ndog\nbird\n"},
        THREE,
    ),
    "capitals": (yolo("{}/Images/{}.JPG", "{}/Labels/{}.TXT") | {"classes.txt": "cat\ndog\nbird"}, THREE),
    "train_images beside train_labels": (
        yolo("{}_images/{}.jpg", "{}_labels/{}.txt") | {"classes.txt": "cat\ndog\nbird"},
        THREE,
    ),
    "images beside annotations": (
        yolo("images/{}/{}.jpg", "annotations/{}/{}.txt") | {"classes.txt": "cat\ndog\nbird"},
        THREE,
    ),
    "Pascal VOC with label maps of the same names": (
        VOC
        | {f"SegmentationObject/{i}.png": None for i in range(5)}
        | {f"ImageSets/Main/{split}.txt": text for split, text in SETS.items()},
        ["cat"],
    ),
    "Pascal VOC with lists beside its folders": (VOC | {f"{s}.txt": text for s, text in SETS.items()}, ["cat"]),
    "people with keypoints alone": (PEOPLE, ["person"]),
}


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            Image.new("RGB", (40, 30), (sum(map(ord, name)) % 255, 0, 0)).save(path)
        else:
            path.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(tmp_path, name):
    files, classes = FOLDERS[name]
    found = find(write(tmp_path, files))
    contents = {split: json.loads(Path(place.annotations).read_text()) for split, place in found.splits.items()}
    assert {split: len(content["images"]) for split, content in contents.items()} == {"train": 3, "val": 2}
    assert [category["name"] for category in contents["train"]["categories"]] == classes
    per_image = 2 if classes == THREE else 1
    assert {len(content["annotations"]) / len(content["images"]) for content in contents.values()} == {per_image}
    assert not [line for line in found.lines if "does not exist" in line]


def test_data_sets_beside_each_other_are_not_mixed(tmp_path):
    for fold in ("fold1", "fold2"):
        write(tmp_path / fold, yolo(data_yaml=f"train: train/images\nval: val/images\n{NAMES}"))
    with pytest.raises(UserError, match="it holds 2 YOLO data sets"):
        find(tmp_path)


def test_classes_that_are_left_out_may_be_unseen(tmp_path, capsys):
    """Roboflow's root class has no objects, and is no fault of the data."""
    root = {"supercategory": "none"}
    for split in ("train", "valid"):
        content = json.loads(coco(["a.jpg"], [(0, "animals"), (1, "cat")]))
        for category, above in zip(content["categories"], (root, {"supercategory": "animals"})):
            category |= above
        write(tmp_path, {f"{split}/a.jpg": None, f"{split}/_annotations.coco.json": json.dumps(content)})
    Image.new("RGB", (40, 30), (9, 99, 9)).save(tmp_path / "valid/a.jpg")
    main(["data", "check", str(tmp_path)])
    said = capsys.readouterr().out
    assert "class-unseen" not in said and "not applied" not in said and "left out: the class 'animals'" in said


def test_convert_takes_the_keys_that_errors_name(tmp_path, capsys):
    root = write(tmp_path / "set", yolo() | {"classes.txt": "cat\ndog\nbird"} | VOC)
    with pytest.raises(UserError, match="--data.layout YOLO or --data.layout 'Pascal VOC'"):
        find(root)
    main(["data", "convert", str(root), str(tmp_path / "out"), "--data.layout", "YOLO"])
    assert "instances_val.json: 2 images, 4 objects" in capsys.readouterr().out


def test_splits_in_one_folder_list_each_others_images(tmp_path, capsys):
    names = [f"{i}.jpg" for i in range(6)]
    texts = {"train.json": coco(names[:4], [(1, "cat")]), "val.json": coco(names[4:], [(1, "cat")])}
    main(["data", "check", str(write(tmp_path, {f"images/{name}": None for name in names} | texts))])
    assert "image-unlisted" not in capsys.readouterr().out
