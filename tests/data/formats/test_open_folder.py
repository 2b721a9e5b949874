"""Folders of many layouts, opened, against what was drawn into them."""

import json

import folders
import numpy as np
import pytest
from PIL import Image

import vitdet.data
from vitdet.data import CocoData
from vitdet.data.formats import find
from vitdet.errors import UserError


def objects_of(data: CocoData, split: str) -> dict[str, list]:
    """The class and the box of each object, by the last part of the name of its image."""
    index = data.index(split)
    found = {}
    for i, name in enumerate(index.file_names):
        rows = range(*index.annotations(i).indices(len(index.categories)))
        named = [
            (index.names[index.categories[row]], np.round(index.boxes_xywh[row]).astype(int).tolist()) for row in rows
        ]
        found[name.rpartition("/")[2]] = named
    return found


def classes_of(data, split: str) -> dict[str, np.ndarray]:
    """The class name of each pixel, by the name of the image."""
    index, truth = data.index(split), data.truth(split)
    names = np.array([*index.names, "void"])
    found = {}
    for i, name in enumerate(index.file_names):
        labels = truth(int(index.image_ids[i]))
        if isinstance(labels, tuple):
            ids, numbers, categories, _ = labels
            by_id = dict(zip(numbers.tolist(), categories.tolist()))
            labels = np.array([by_id.get(number, len(index.names)) for number in ids.ravel().tolist()]).reshape(
                ids.shape
            )
        found[name] = names[np.minimum(labels, len(index.names))]
    return found


@pytest.mark.parametrize("name", folders.MAKERS)
def test_every_layout_is_opened_as_it_was_drawn(name, tmp_path):
    truth = folders.MAKERS[name](tmp_path)
    data = vitdet.data.open(tmp_path, size=32, batch_size=1)
    read = objects_of if data.kind == "instances" else classes_of
    found = {split: read(data, split) for split in data.splits}
    if "all" in truth:
        assert all(found.values()) and sorted(found) == ["train", "val"]
        found = {"all": {name: item for some in found.values() for name, item in some.items()}}
    assert found.keys() == truth.keys()
    for split, images in truth.items():
        assert found[split].keys() == images.keys()
        for image, wanted in images.items():
            assert (
                np.array_equal(found[split][image], wanted)
                if data.kind != "instances"
                else found[split][image] == wanted
            )
    names = next(iter(truth.values())).values()
    shown = {"cat", "dog", "emu"} if data.kind == "instances" else set(np.concatenate([*names]).ravel()) - {"void"}
    assert shown <= set(data.classes) and not {"animals", "void"} & set(data.classes)
    images, targets = next(iter(data.train_dataloader()))
    assert images[0].shape[0] == 3 and targets[0].size == images[0].shape[1:]


def test_a_folder_is_read_again_without_a_change(tmp_path):
    """What is kept is reused, and made anew where a label changes; the old one stays for the runs that named it."""
    folders.yolo(tmp_path)
    first = find(tmp_path)
    kept = tmp_path / ".vitdet"
    before = {path: path.stat().st_mtime_ns for path in kept.rglob("*.json")}
    assert find(tmp_path) == first and {path: path.stat().st_mtime_ns for path in kept.rglob("*.json")} == before
    label = next((tmp_path / "labels" / "train").glob("*.txt"))
    label.write_text("1 0.5 0.5 0.25 0.25\n")
    second = find(tmp_path)
    assert second.splits["train"] != first.splits["train"] and before.keys() <= set(kept.rglob("*.json"))
    assert sorted(path.suffix for path in kept.iterdir()) == ["", ""] or all(path.is_dir() for path in kept.iterdir())


@pytest.mark.parametrize("make", [folders.plain, folders.palette])
def test_a_split_by_hash_stays_when_images_are_added(make, tmp_path):
    make(tmp_path)

    def sides():
        data = vitdet.data.open(tmp_path)
        names = {split: {n.rpartition("/")[2] for n in data.index(split).file_names} for split in ("train", "val")}
        assert not names["train"] & names["val"]
        return names

    before = sides()
    if make is folders.plain:
        names = [f"{i}.jpg" for i in range(40)]
        for name in names:
            folders.photo(tmp_path / "photos" / name)
        folders.write(tmp_path / "birds.json", folders.coco(names))
    else:
        for i in range(9, 40):
            folders.maps(tmp_path, "{what}", {"all": [f"{i}.jpg"]}, what="annotations", palette=True)
    after = sides()
    assert before["train"] <= after["train"] and before["val"] <= after["val"]
    assert len(after["train"]) + len(after["val"]) == 40 and 3 <= len(after["val"]) <= 14
    assert vitdet.data.open(tmp_path, val_fraction=0).splits.keys() == {"train"}


def test_label_maps_of_16_bits_and_palettes_whose_colours_are_the_classes(tmp_path):
    truth = folders.ids(tmp_path / "deep")
    (tmp_path / "deep" / "classes.txt").write_text("300 cat\n4000 dog\n7 emu\n")
    for path in (tmp_path / "deep" / "masks").rglob("*.png"):
        values = np.array([300, 4000, 7, 0], np.uint16)[folders.pixels(f"{path.stem}.jpg")]
        Image.fromarray(values).save(path)
    truth = {"deep": truth, "palette": folders.colours(tmp_path / "palette")}
    for path in (tmp_path / "palette").rglob("*_L.png"):
        Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE, colors=8).save(path)
    for name, wanted in truth.items():
        data = vitdet.data.open(tmp_path / name)
        for split, images in wanted.items():
            found = classes_of(data, split)
            assert all(np.array_equal(found[image], classes) for image, classes in images.items())


def test_copies_of_an_image_are_on_the_same_side(tmp_path):
    """Roboflow's augmented copies of a photo would else validate what was trained on."""
    names = [f"{i}_jpg.rf.{hash_:032x}.jpg" for i in range(12) for hash_ in range(3)]
    for name in names:
        folders.photo(tmp_path / "train" / name)
    folders.write(tmp_path / "train" / "_annotations.coco.json", folders.coco(names))
    data = vitdet.data.open(tmp_path)
    sides = [{name.partition(".")[0] for name in data.index(split).file_names} for split in ("train", "val")]
    assert sides[1] and not sides[0] & sides[1]


OTHER_NAMES = {
    "absolute": "/home/someone/export/images/{}",
    "windows": "C:\\Users\\me\\images\\{}",
    "url": "https://host/upload/{}?token=1".replace("?token=1", ""),
    "local files": "/data/local-files/?d=images/{}",
    "hash": "upload/1a2b3c4d-{}",
    "escaped": "images/{}",
    "dot": "./images/{}",
    "case": "IMAGES/{}",
}


@pytest.mark.parametrize("how", OTHER_NAMES)
def test_names_that_other_machines_wrote_mean_the_files_that_are_there(how, tmp_path):
    names = [f"Vögel {i}.JPG" for i in range(8)]
    for name in names:
        folders.photo(tmp_path / "images" / name)

    def title(name):
        written = name.replace(" ", "%20") if how == "escaped" else name.upper() if how == "case" else name
        return OTHER_NAMES[how].format(written)

    folders.write(tmp_path / "result.json", folders.coco(names, title=title))
    data = vitdet.data.open(tmp_path)
    found = {name: item for split in ("train", "val") for name, item in objects_of(data, split).items()}
    assert found == folders.truth_of({"all": names})["all"]
    assert all((tmp_path / "images" / name).is_file() for name in found)


def test_missing_images_and_annotations_are_said(tmp_path):
    folders.published(tmp_path)
    (tmp_path / "train2017" / "train_0.jpg").unlink()
    lines = find(tmp_path).lines
    assert any(
        "1 images of annotations/instances_train2017.json are not in the folder: train_0.jpg" in line for line in lines
    )
    for path in (tmp_path / "train2017").iterdir():
        path.unlink()
    found = find(tmp_path)
    assert set(found.splits) == {"val"} and any("none of its 4 images is in the folder" in line for line in found.lines)


def test_what_is_recognised_is_said_in_a_line_each(tmp_path):
    folders.roboflow(tmp_path)
    assert find(tmp_path).lines == [
        f"data: {tmp_path}",
        "layout: Roboflow COCO",
        "train: 4 images in train, _annotations.coco.json",
        "val: 2 images in valid, _annotations.coco.json",
        "test: 2 images in test, _annotations.coco.json",
        "classes: 3 (cat, dog, emu)",
        "left out: the class 'animals', which Roboflow puts above all others, and which no object has",
        "kind: instances",
    ]


def test_a_class_that_is_used_stays(tmp_path):
    folders.roboflow(tmp_path)
    path = tmp_path / "test" / "_annotations.coco.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 0
    path.write_text(json.dumps(content))
    data = vitdet.data.open(tmp_path)
    assert data.classes == ["animals", *folders.NAMES] and not (tmp_path / ".vitdet").exists()


def two_kinds(root):
    folders.published(root)
    folders.panoptic(root)
    folders.maps(root, "{what}/{split}", {split: folders.names_of(split, ".png") for split in folders.ALL})


def test_several_kinds_need_a_word(tmp_path):
    two_kinds(tmp_path)
    with pytest.raises(UserError, match=r"say which to take: --data.kind instances\|panoptic") as error:
        find(tmp_path)
    for file in ("annotations/instances_train2017.json", "annotations/panoptic_val2017.json"):
        assert file in str(error.value)
    for kind in ("instances", "panoptic"):
        assert find(tmp_path, kind=kind).kind == kind == find(tmp_path, prefer=kind).kind
    assert vitdet.data.open(tmp_path, layout="coco panoptic").kind == "panoptic"
    with pytest.raises(UserError, match=r"data.kind is 'boxes'; wanted instances, panoptic, semantic"):
        find(tmp_path, kind="boxes")


def test_several_files_of_a_kind_need_a_word(tmp_path):
    folders.in_images(tmp_path)
    for split in folders.ALL:
        folders.write(tmp_path / "annotations" / f"more_{split}.json", folders.coco(folders.names_of(split)[:1]))
    with pytest.raises(UserError, match=r"several sets of instances: .*; say which: --data.train.annotations JSON"):
        find(tmp_path)
    given = {split: {"annotations": str(tmp_path / "annotations" / f"more_{split}.json")} for split in folders.ALL}
    data = vitdet.data.open(tmp_path, **given)
    assert [len(data.index(split)) for split in ("train", "val")] == [1, 1]
    assert data.splits["train"].images == str(tmp_path / "images" / "train")


def test_training_labels_that_are_given_are_divided_too(tmp_path):
    """No image that validates is trained on."""
    folders.plain(tmp_path)
    folders.write(tmp_path / "other.json", folders.coco([f"{i}.jpg" for i in range(6)]))
    data = vitdet.data.open(tmp_path, train={"annotations": str(tmp_path / "other.json")})
    names = {split: set(data.index(split).file_names) for split in ("train", "val")}
    assert not names["train"] & names["val"] and len(names["train"] | names["val"]) == 6
    elsewhere = (tmp_path / "other.json").rename(tmp_path.with_suffix(".json"))
    data = vitdet.data.open(tmp_path, val={"annotations": str(elsewhere)})
    assert [len(data.index(split)) for split in ("train", "val")] == [9, 6]
    colours = tmp_path / "colours"
    folders.colours(colours)
    data = vitdet.data.open(colours, train={"labels": str(colours / "train_labels")})
    assert data.truth("train")(0).max() == 255 and set(np.unique(data.truth("train")(0))) == {0, 1, 2, 255}


def test_links_are_followed_but_not_in_circles(tmp_path):
    folders.published(tmp_path / "there")
    (tmp_path / "set").mkdir()
    for name in ("annotations", "train2017", "val2017"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "there" / name)
    (tmp_path / "set" / "again").symlink_to(tmp_path / "set")
    assert find(tmp_path / "set").splits["train"].images == str(tmp_path / "set" / "train2017")


def test_the_usual_names_come_first(tmp_path):
    folders.published(tmp_path)
    folders.write(tmp_path / "annotations" / "instances_train2017_fixed.json", folders.coco(["train_0.jpg"]))
    found = find(tmp_path)
    assert found.splits["train"].annotations.endswith("instances_train2017.json")
    assert "left alone: annotations/instances_train2017_fixed.json" in found.lines


def test_a_folder_in_a_folder_is_found(tmp_path):
    truth = folders.fiftyone(tmp_path / "export" / "set")
    data = vitdet.data.open(tmp_path)
    assert len(data.index("train")) + len(data.index("val")) == len(truth["all"])


def test_a_folder_that_can_not_be_written_has_its_labels_kept_elsewhere(tmp_path, monkeypatch):
    folders.yolo(tmp_path / "set")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "set").chmod(0o555)
    try:
        data = vitdet.data.open(tmp_path / "set")
    finally:
        (tmp_path / "set").chmod(0o755)
    assert not (tmp_path / "set" / ".vitdet").exists() and str(tmp_path / "cache") in data.splits["train"].annotations


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON: it is empty"),
        ('{"images": []}'.encode("utf-16"), "is in UTF-16; save it as UTF-8"),
        (b"\x1f\x8b" + bytes(40), "is compressed; unpack it first"),
        (b"[]", "got a list; is this a results file"),
    ],
)
def test_a_damaged_file_of_a_split_is_no_reason_to_do_without_it(tmp_path, text, message):
    folders.roboflow(tmp_path)
    (tmp_path / "valid" / "_annotations.coco.json").write_bytes(text)
    with pytest.raises(UserError, match=message):
        vitdet.data.open(tmp_path)
