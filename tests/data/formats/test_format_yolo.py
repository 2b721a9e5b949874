"""YOLO's text files in the layouts of Ultralytics, Roboflow, Darknet, CVAT and Label Studio, with boxes by hand."""

import pytest
from exports import BOX, POLYGON, classes, objects, read, sizes, write

from vitdet.data.formats import yolo
from vitdet.errors import DataError

TWO = [("cat", [4.0, 2.0, 16.0, 12.0], [[4.0, 2.0, 20.0, 2.0, 20.0, 14.0]]), ("dog", [10.0, 5.0, 20.0, 10.0], None)]
NAMES = "names: [cat, dog]\n"


def at(images: str, labels: str) -> dict:
    return {f"{images}/a.jpg": (40, 20), f"{labels}/a.txt": POLYGON + BOX}


# a name: the files, the split, and the name of the image
LAYOUTS = {
    "ultralytics": (
        {
            **at("images/train2017", "labels/train2017"),
            "coco.yaml": "path: ../datasets/coco  # root\ntrain: images/train2017\nval: images/val2017\n"
            "names:\n  0: cat\n  1: dog\ndownload: x\n",
        },
        "train",
        "images/train2017/a.jpg",
    ),
    "roboflow": (
        {
            **at("valid/images", "valid/labels"),
            "README.dataset.txt": "BCCD v4",
            "data.yaml": "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\n"
            "names: ['cat', 'dog']\n\nroboflow:\n  workspace: x\n",
        },
        "val",
        "valid/images/a.jpg",
    ),
    "another machine": (
        {**at("images/val", "labels/val"), "data.yaml": f"train: []\nval: 'C:\\Users\\me\\set\\images\\val'\n{NAMES}"},
        "val",
        "images/val/a.jpg",
    ),
    "list of folders": (
        {**at("b/images", "b/labels"), "data.yaml": f"train: [a/images, b/images]\n{NAMES}"},
        "train",
        "b/images/a.jpg",
    ),
    "list of images": (
        {
            **at("images", "labels"),
            "data.yaml": f"train: train.txt\nval: gone.txt\n{NAMES}",
            "train.txt": "./images/a.jpg\r\n/home/x/images/gone.jpg\r\n",
        },
        "train",
        "images/a.jpg",
    ),
    "no split": ({**at("images", "labels"), "classes.txt": "cat\r\ndog\r\n"}, "all", "images/a.jpg"),
    "label studio": (
        {**at("images", "labels"), "classes.txt": "cat\ndog", "notes.json": {"categories": []}},
        "all",
        "images/a.jpg",
    ),
    "labelimg": (
        {**at("train", "train"), "train/classes.txt": "cat\ndog\n", "val/b.jpg": (9, 9), "val/classes.txt": "cat\ndog"},
        "train",
        "train/a.jpg",
    ),
    "darknet": ({**at("train", "train"), "train/_darknet.labels": "cat\ndog\n"}, "train", "train/a.jpg"),
    "cvat": (
        {
            **at("obj_train_data", "obj_train_data"),
            "obj.names": "cat\ndog\n",
            "obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
            "train.txt": "data/obj_train_data/a.jpg\n",
        },
        "train",
        "obj_train_data/a.jpg",
    ),
    "labels below the images": ({**at("train", "train/labels"), "classes.txt": "cat\ndog"}, "train", "train/a.jpg"),
    "images of another name": ({**at("img", "labels"), "classes.txt": "cat\ndog"}, "all", "img/a.jpg"),
    "path": (
        {**at("sub/images", "sub/labels"), "images/b.jpg": (4, 4), "data.yaml": f"path: sub\ntrain: images\n{NAMES}"},
        "train",
        "sub/images/a.jpg",
    ),
    "sets of VOC": (
        {**at("JPEGImages", "labels"), "voc.names": "", "names.txt": "cat\ndog"},
        "all",
        "JPEGImages/a.jpg",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name, tmp_path):
    files, split, image = LAYOUTS[name]
    content, _ = read(yolo, write(tmp_path, files), split)
    assert [(file, *rest) for file, *rest in objects(content)] == [(image, *rest) for rest in TWO]
    assert classes(content) == {0: "cat", 1: "dog"} and sizes(content)[image] == (40, 20)


def label(tmp_path, text, names="[cat, dog]", more=""):
    data = text if isinstance(text, bytes) else text.encode()
    files = {"images/a.jpg": (40, 20), "labels/a.txt": data, "data.yaml": f"train: images\nnames: {names}\n{more}"}
    return read(yolo, write(tmp_path, files), "train")


@pytest.mark.parametrize(
    ("text", "boxes", "line"),
    [
        ("", [], None),
        ("\n \n", [], None),
        (b"\xef\xbb\xbf0 0.5 0.5 1 1\r\n", [[0, 0, 40, 20]], None),
        ("1.0\t0.5  0.5 0.5 5e-1", [[10, 5, 20, 10]], None),
        ("0 0.95 0.5 0.2 0.5", [[34, 5, 8, 10]], None),
        ("0 0.5 0.5 0 0", [[20, 10, 0, 0]], None),
        ("0 0.5 0.5 0.5 0.5 0.93", [[10, 5, 20, 10]], "rows of 6 numbers: the last, a score, is ignored: 1"),
        ("0 0.25 0 0.5 0.5 0.25 1 0 0.5", [[0, 0, 20, 20]], "rows of 9 numbers"),
        ("0 0.5 0.5 0.5 0.5\n0 0.5 0.5 2 0.5", [[10, 5, 20, 10]], "left out, with values outside of 0..1: 1 (first: "),
        ("0 0.5 0.5 0.5 0.5\n0 0.5 -0.5 0.2 0.5", [[10, 5, 20, 10]], "labels/a.txt, line 2)"),
    ],
)
def test_rows(text, boxes, line, tmp_path):
    content, lines = label(tmp_path, text)
    assert [box for _, _, box, _ in objects(content)] == boxes
    assert (line is None and not lines) or any(line in said for said in lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 nan 0.5 0.5 0.5", "labels/a.txt, line 1: '0 nan 0.5 0.5 0.5' has a value that is no finite number"),
        ("0 0.5 0.5 1e999 0.5", "no finite number"),
        ("0 0.5 0.5 0.5", "line 1: a row of 4 numbers"),
        ("\n0 0.5 0.5 0.5 0.5 0.5 0.5 0.5", "line 2: a row of 8 numbers"),
        ("2 0.5 0.5 0.5 0.5", "class 2 has no name: there are 2, from 0 to 1"),
        ("-1 0.5 0.5 0.5 0.5", "class '-1'"),
        ("0.5 0.5 0.5 0.5 0.5", "wanted a whole number"),
        ("0,0.5,0.5,0.1,0.1", "spaces, not commas"),
        ("dog 0.5 0.5 0.1 0.1", "wanted a class id and numbers"),
        ("0 320 240 50 50\n1 100 100 20 20", "2 of 2 rows have values outside of 0..1, as if they were pixels"),
        (b"\xff\xfe0\x00", "not in UTF-8"),
        (b"0\x00 ", "zero byte"),
    ],
)
def test_rows_that_are_none(text, words, tmp_path):
    with pytest.raises(DataError, match=words.replace("(", r"\(").replace(".", r"\.")):
        label(tmp_path, text)


def test_rows_with_keypoints_keep_their_box(tmp_path):
    pose = "0 0.5 0.5 0.5 0.5 0.1 0.1 2 0.2 0.2 1\n"
    content, lines = label(tmp_path, pose, more="kpt_shape: [2, 3]")
    assert objects(content)[0][2] == [10, 5, 20, 10] and objects(content)[0][3] is None
    assert any(line.startswith("rows with keypoints, of which the box is kept: 1") for line in lines)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ("[no, 'yes', 7]", {0: "no", 1: "yes", 2: "7"}),
        ("{0: a, 2: c}", {0: "a", 2: "c"}),
        ("{10: k, 2: c, '0': a}", {0: "a", 2: "c", 10: "k"}),
    ],
)
def test_names_are_text_and_keep_their_ids(names, wanted, tmp_path):
    assert classes(label(tmp_path, "0 0.5 0.5 0.5 0.5", names)[0]) == wanted


@pytest.mark.parametrize("names", ["7", "{a: b}", "[[1]]", "{}", "[a"])
def test_names_that_are_none(names, tmp_path):
    with pytest.raises(DataError, match="data.yaml"):
        label(tmp_path, "0 0.5 0.5 0.5 0.5", names)


def test_a_copy_is_read_and_not_what_its_description_still_names(tmp_path):
    first = write(tmp_path / "first", at("images", "labels"))
    copy = write(tmp_path / "copy", {**at("images", "labels"), "data.yaml": f"path: {first}\ntrain: images\n{NAMES}"})
    assert yolo.recognise(copy)["train"].images == copy


def test_splits_that_share_images_are_said(tmp_path):
    """As in Ultralytics' coco128.yaml."""
    _, lines = label(tmp_path, "0 0.5 0.5 0.5 0.5", more="val: images\n")
    assert lines == ["data.yaml: 1 images are in train and in val, whose scores will flatter"]


def test_odd_names_are_said(tmp_path):
    _, lines = label(tmp_path, "0 0.5 0.5 0.5 0.5", "[a, b, a]", "nc: 2")
    assert lines == [
        "data.yaml: nc is 2, but there are 3 names, which are taken",
        "data.yaml: classes of the same name become one: a",
    ]


def test_names_may_be_missing(tmp_path):
    root = write(tmp_path, {**at("train/images", "train/labels"), **at("val/images", "val/labels")})
    (root / "val/labels/a.txt").write_text("3 0.5 0.5 0.5 0.5")
    content, lines = read(yolo, root, "train")
    assert classes(content) == {n: f"class_{n}" for n in range(4)}
    assert any("the 4 classes are named by their ids" in line for line in lines)


def test_negatives_strays_and_unreadable_images_are_counted(tmp_path):
    files = {**at("images", "labels"), "images/b.jpg": (8, 8), "images/c.d.png": (8, 8), "labels/c.d.txt": ""}
    files |= {"images/broken.jpg": b"\xff\xd8\xff", "labels/broken.txt": BOX, "labels/gone.txt": BOX}
    content, lines = read(
        yolo, write(tmp_path, {**files, "data.yaml": f"train: images\nval: nowhere\n{NAMES}"}), "train"
    )
    assert [*sizes(content)] == ["images/a.jpg", "images/b.jpg", "images/c.d.png"] and len(objects(content)) == 2
    for text in (
        "data.yaml: val names nowhere, which does not exist: left out",
        "images without a label file, which count as images without objects: 1",
        "images that can't be read, left out with their labels: 1",
        "label files without an image, left out: 1",
    ):
        assert sum(line.startswith(text) for line in lines) == 1, text
    assert len(lines) == 4


def test_boxes_are_in_the_upright_frame(tmp_path):
    """Ultralytics and OpenCV turn images by their EXIF tag, as vitdet does."""
    files = {"train/a.jpg": (40, 20, 6), "train/a.txt": "0 0.5 0.5 0.5 0.5", "classes.txt": "cat"}
    content, _ = read(yolo, write(tmp_path, files), "train")
    assert sizes(content) == {"train/a.jpg": (20, 40)} and objects(content)[0][2] == [5, 10, 10, 20]


def test_images_of_all_splits_have_their_folder_in_common(tmp_path):
    outside = write(tmp_path / "photos", {"images/a.jpg": (40, 20), "labels/a.txt": BOX})
    root = write(tmp_path / "set", {"data.yaml": f"train: {outside}/images\n{NAMES}"})
    labels = yolo.recognise(root)["train"]
    assert labels.images == outside / "images" and labels.read()[0]["images"][0]["file_name"] == "a.jpg"


@pytest.mark.parametrize(
    "files",
    [
        {"images/a.jpg": (4, 4)},
        {"images/a.jpg": (4, 4), "labels/a.txt": "Car 0.0 0 -1.5 100 200 300 400"},
        {"images/a.jpg": (4, 4), "labels/a.txt": "a photo of a cat"},
        {"images/a.jpg": (4, 4), "labels/a.png": (4, 4)},
        {"a.jpg": (4, 4), "config.yaml": "model: {head: DETRHead}\ndata: {train: x}"},
    ],
)
def test_what_is_no_yolo(files, tmp_path):
    assert yolo.recognise(write(tmp_path, files)) is None


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"data.yaml": f"train: images\n{NAMES}", "images/a.jpg": (4, 4)}, "none of the 1 images"),
        ({"data.yaml": f"train: elsewhere\n{NAMES}", "images/a.jpg": (4, 4)}, "elsewhere, which does not exist"),
        ({"data.yaml": f"train: {{a: b}}\n{NAMES}", "images/a.jpg": (4, 4)}, "train is"),
        ({"a.yaml": NAMES, "b.yaml": NAMES, "a.jpg": (4, 4)}, "several descriptions"),
        ({"data.yaml": f"{NAMES}kpt_shape: x", "a.jpg": (4, 4)}, "kpt_shape"),
        ({**at("train", "train"), "train/classes.txt": "a", "classes.txt": "b"}, "name different classes"),
    ],
)
def test_descriptions_that_can_not_be_used(files, words, tmp_path):
    with pytest.raises(DataError, match=words):
        next(iter(yolo.recognise(write(tmp_path, files)).values())).read()


def test_supervision_reads_the_same_boxes(tmp_path):
    """An independent reader of the format."""
    supervision = pytest.importorskip("supervision")
    rows = [f"{n % 3} {0.1 + n / 20:.6f} {0.9 - n / 15:.6f} {0.05 + n / 90:.6f} {n / 50:.6f}" for n in range(12)]
    files = {
        "images/a.jpg": (333, 217),
        "labels/a.txt": "\n".join(rows),
        "data.yaml": "train: images\nnames: [a, b, c]",
    }
    root = write(tmp_path, files)
    other = supervision.DetectionDataset.from_yolo(*(str(root / n) for n in ("images", "labels", "data.yaml")))
    (theirs,) = other.annotations.values()
    ours = objects(read(yolo, root, "train")[0])
    assert [name for _, name, _, _ in ours] == [other.classes[n] for n in theirs.class_id]
    for (_, _, (x, y, w, h), _), box in zip(ours, theirs.xyxy, strict=True):
        assert [x, y, x + w, y + h] == pytest.approx(box.tolist(), abs=1e-3)
