"""Missing files are found before the first step, and the existing file that is meant is named."""

import json
import os
import time
import unicodedata
from pathlib import Path

import pytest

from vitdet.annotations.cache import Strings
from vitdet.data import CocoData
from vitdet.data.names import difference, missing, nearest, why
from vitdet.errors import DataError
from vitdet.images import ImageError

MEANT = {
    "a.png": ("A.PNG", "upper and lower case"),
    "a.jpg": ("A.PNG", "the extension"),
    "sub\\b c.png": ("sub/b c.png", "the back-slashes"),
    "sub/b%20c.png": ("sub/b c.png", "codes such as %20"),
    "b c.png": ("sub/b c.png", "the folder"),
    "images/sub/b c.png": ("sub/b c.png", "the folder"),
    "../../media/upload/4/b c.png": ("sub/b c.png", "the folder"),
    "/data/local-files/?d=upload/b%20c.png": ("sub/b c.png", "codes such as %20 and the folder"),
    "3f2a9c01-photo.jpeg": ("photo.jpeg", "a prefix"),
    "COCO_val2014_000000000042.jpg": ("000000000042.jpg", "a prefix"),
    "dog.jpg": ("0a1b2c3d-dog.jpg", "a prefix"),
    unicodedata.normalize("NFC", "Ä.png"): (unicodedata.normalize("NFD", "Ä.png"), "the Unicode form of its letters"),
    "fotograf.jpeg": ("photograf.jpeg", "the spelling"),
    "C:\\data\\photo.jpeg": ("photo.jpeg", "the back-slashes and the folder"),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".thumbs").mkdir()
    for name in {found for found, _ in MEANT.values()} | {".thumbs/dog.jpg"}:
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("name", MEANT)
def test_the_nearest_existing_file_and_the_difference(folder, name):
    found, difference_ = MEANT[name]
    assert nearest(folder, name) == found and difference(name, found) == difference_
    assert missing(folder, [(7, name), (8, found)]) == [7]
    assert f"did you mean {found!r}? It differs in {difference_}" in why(folder, name)


def test_what_is_near_to_nothing_names_some_files(folder):
    assert nearest(folder, "zzzzzz.tiff") is None
    assert "nor does a file of a similar name" in why(folder, "zzzzzz.tiff") and "holds 0000" in why(folder, "zz.tiff")
    empty = folder / "empty"
    empty.mkdir()
    assert why(empty, "a.png").endswith("empty holds no files")


def test_what_is_there_but_no_file_has_no_other_name(folder):
    os.mkfifo(folder / "pipe.png")
    assert why(folder, "pipe.png").endswith("can't be read as an image: it is a pipe")
    assert why(folder, "sub").endswith("can't be read as an image: it is a folder")
    assert why(folder / "gone", "a.png").endswith(f"can't be read: the folder {folder / 'gone'} does not exist")


def test_a_message_is_a_line_whatever_the_name(folder):
    assert difference("photo.jpeg ", "photo.jpeg") == "white space"
    assert "photo.jpeg\\n can't be read" in why(folder, "photo.jpeg\n")
    assert "\\ud800photo.jpeg can't be read" in why(folder, "\ud800photo.jpeg")
    assert len(why(folder, "x" * 5000)) < 600
    # another number is another image
    (folder / "frame_0001.png").touch()
    assert nearest(folder, "frame_0002.png") is None


def test_names_that_lead_to_no_regular_file_are_missing(folder):
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "link.png").symlink_to("photo.jpeg")
    os.mkfifo(folder / "pipe.png")
    names = ["photo.jpeg", "sub", "gone.png", "link.png", "pipe.png", "", "a\0.png", "../x.png", f"{folder}/photo.jpeg"]
    assert missing(folder, enumerate(names)) == [1, 2, 4, 5, 6, 7]
    many = [*names, *(f"{i}.png" for i in range(200))]
    assert missing(folder, enumerate(many)) == [1, 2, 4, 5, 6, 7, *range(9, 209)]
    with pytest.raises(DataError, match="is a pipe, a socket or a device; wanted a JSON file"):
        CocoData(train={"images": str(folder), "annotations": str(folder / "pipe.png")})
    assert "it is a pipe" in why(folder, "pipe.png") and "it is a folder" in why(folder, "sub")


def test_118000_names_are_looked_up_in_less_than_two_seconds(tmp_path):
    names = [f"{i:012d}.jpg" for i in range(118_287)]
    for name in names[:100]:
        (tmp_path / name).touch()
    strings = Strings(*Strings.pack(names))
    start = time.process_time()
    assert len(missing(tmp_path, enumerate(strings))) == 118_287 - 100
    assert time.process_time() - start < 2


def change(split, edit):
    path = Path(split.annotations)
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["file_name"] = edit(image["file_name"])
    path.write_text(json.dumps(content))


def test_the_start_of_a_run_finds_missing_images_of_all_its_splits(coco_split):
    train, val = coco_split(6, name="train"), coco_split(4, name="val")
    (Path(val.images) / "3.png").rename(Path(val.images) / "3.PNG")
    data = CocoData(train=train, val=val)
    with pytest.raises(ImageError, match=r"^1 of 4 images of val can't be read .*did you mean '3\.PNG'.*upper and lo"):
        data.setup("fit")
    with pytest.raises(ImageError, match=r"on_bad_image: skip$"):
        data.setup("test")
    change(val, lambda name: "../" + name)
    with pytest.raises(
        ImageError, match=r"^4 of 4 images of val .*'\.\./0\.png' leaves the .*mean '0\.png'.*the folder"
    ):
        CocoData(train=train, val=val).setup("fit")
    CocoData(train=train).setup("fit")
    change(train, lambda name: f"{train.images}/{name}")
    data = CocoData(train=train)
    data.setup("fit")
    assert sum(len(images) for images, _ in data.train_dataloader()) == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_missing_images_and_names_that_leave_the_folder_are_skipped_too(coco_split, caplog, workers):
    split = coco_split(20)
    change(split, lambda name: {"3.png": "gone.png", "4.png": "../4.png"}.get(name, name))
    with pytest.raises(
        DataError, match=r"2 of 20 images were skipped \(10 %\), more than data\.reading\.max_bad allows"
    ):
        CocoData(train=split, reading={"on_bad_image": "skip"}).setup("fit")
    caplog.clear()
    options = {"num_workers": workers, "batch_size": 5, "reading": {"on_bad_image": "skip", "max_bad": 0.1}}
    data = CocoData(train=split, val=split, **options)
    data.setup("fit")
    said = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert len(said) == 4 and "gone.png" in said[0] and "leaves the image folder" in said[1]
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert sum(len(images) for images, _ in loader) == 20
    # they were known before
    assert len([record for record in caplog.records if "skipped" in record.getMessage()]) == 4
    assert [line.split(":")[0] for line in data.files.summary()] == ["train", "val"]
