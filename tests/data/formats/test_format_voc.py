"""Pascal VOC's XML as the devkit, LabelImg, CVAT and Roboflow lay it out, with boxes by hand."""

import pytest
from exports import classes, objects, read, sizes, voc, write

from vitdet.data.formats import voc as module
from vitdet.errors import DataError

DOG, CAT = ("dog", 11, 6, 30, 15), ("cat", 1, 1, 40, 20)
# the last pixel belongs to a box
WANTED = [("dog", [10, 5, 20, 10]), ("cat", [0, 0, 40, 20])]


def one(image: str, xml: str) -> dict:
    return {image: (40, 20), xml: voc(image.rpartition("/")[2], (40, 20), DOG, CAT)}


LAYOUTS = {
    "devkit": (
        {
            **one("VOC2012/JPEGImages/1.jpg", "VOC2012/Annotations/1.xml"),
            **one("VOC2012/JPEGImages/2.jpg", "VOC2012/Annotations/2.xml"),
            "VOC2012/ImageSets/Main/train.txt": "1\n",
            "VOC2012/ImageSets/Main/val.txt": "2\n",
            "VOC2012/ImageSets/Main/trainval.txt": "1\n2\n",
            "VOC2012/ImageSets/Main/dog_train.txt": "2 -1\n",
            "VOC2012/ImageSets/Segmentation/train.txt": "2\n",
        },
        "train",
        "VOC2012/JPEGImages/1.jpg",
    ),
    "trainval alone": (
        {**one("JPEGImages/1.jpg", "Annotations/1.xml"), "ImageSets/Main/trainval.txt": "1\n"},
        "train",
        "JPEGImages/1.jpg",
    ),
    "cvat": (
        {**one("JPEGImages/1.jpg", "Annotations/1.xml"), "ImageSets/Main/default.txt": "1\n"},
        "all",
        "JPEGImages/1.jpg",
    ),
    "sets of file names": (
        {**one("JPEGImages/a.b.jpeg", "Annotations/a.b.xml"), "ImageSets/Main/train.txt": "a.b.jpeg\n"},
        "train",
        "JPEGImages/a.b.jpeg",
    ),
    "without sets": (one("JPEGImages/1.jpg", "Annotations/1.xml"), "all", "JPEGImages/1.jpg"),
    "beside the images": (one("a.v1.jpg", "a.v1.xml"), "all", "a.v1.jpg"),
    "roboflow": (one("valid/a_jpg.rf.0f.jpg", "valid/a_jpg.rf.0f.xml"), "val", "valid/a_jpg.rf.0f.jpg"),
    "folders": (one("images/train/a.PNG", "annotations/train/a.xml"), "train", "images/train/a.PNG"),
    "pets": (one("images/a.jpg", "annotations/xmls/a.xml"), "all", "images/a.jpg"),
    "name with suffix": (one("a.jpg", "a.jpg.xml"), "all", "a.jpg"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name, tmp_path):
    files, split, image = LAYOUTS[name]
    content, _ = read(module, write(tmp_path, files), split)
    assert [thing[:3] for thing in objects(content)] == [(image, *rest) for rest in WANTED]
    assert classes(content) == {1: "cat", 2: "dog"} and sizes(content) == {image: (40, 20)}


def test_splits_have_their_classes_in_common(tmp_path):
    files = {"train/a.jpg": (40, 20), "train/a.xml": voc("a.jpg", (40, 20), DOG)}
    files |= {"valid/b.jpg": (40, 20), "valid/b.xml": voc("b.jpg", (40, 20), ("ant", 2, 2, 3, 3))}
    root = write(tmp_path, files)
    for split in ("train", "val"):
        assert classes(read(module, root, split)[0]) == {1: "ant", 2: "dog"}
    (root / "labels.txt").write_text("dog\nzebra\nant\n")
    assert classes(read(module, root, "val")[0]) == {1: "dog", 2: "zebra", 3: "ant"}


def single(tmp_path, xml, **files):
    return read(module, write(tmp_path, {"a.jpg": (40, 20), "a.xml": xml, **files}))


def test_corners_below_one_are_edges(tmp_path):
    """Tools that count from 0 write the edges of the boxes."""
    other = {"b.jpg": (40, 20), "b.xml": voc("b.jpg", (40, 20), ("cat", 0, 3.5, 40, 20))}
    content, lines = single(tmp_path, voc("a.jpg", (40, 20), DOG), **other)
    assert [box for _, _, box, _ in objects(content)] == [[11, 6, 19, 9], [0, 3.5, 40, 16.5]]
    assert [line for line in lines if "edges of boxes, counted from 0: 2" in line]


def test_labelimg_writes_edges(tmp_path):
    xml = voc("a.jpg", (40, 20), DOG, extra="<source><database>Unknown</database></source>")
    content, _ = single(tmp_path, xml)
    assert objects(content)[0][2] == [11, 6, 19, 9]


def test_parts_are_no_objects_and_difficult_ones_are_crowds(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    boxes = (*DOG, "<difficult>1</difficult>", part), (*CAT, "<difficult>0</difficult>")
    content, lines = single(tmp_path, voc("a.jpg", (40, 20), *boxes))
    assert [(a["iscrowd"], a["category_id"]) for a in content["annotations"]] == [(1, 2), (0, 1)]
    assert any(line.startswith("objects that are difficult, which count as crowds") for line in lines)


def test_the_image_is_found_by_the_name_of_the_xml(tmp_path):
    """Files are renamed more often than their content."""
    files = {"a.jpg": (40, 20), "b.jpg": (40, 20), "a.xml": voc("b.jpg", (40, 20), DOG), "c.xml": voc("b", None, CAT)}
    content, lines = read(module, write(tmp_path, files))
    assert [thing[:2] for thing in objects(content)] == [("a.jpg", "dog"), ("b.jpg", "cat")]
    assert any(line.startswith("XML files whose <filename> is not the image with their name") for line in lines)


@pytest.mark.parametrize("size", [None, (0, 0)])
def test_a_size_that_is_missing_is_the_image_s(size, tmp_path):
    content, lines = single(tmp_path, voc("a.jpg", size, DOG))
    assert sizes(content) == {"a.jpg": (40, 20)}
    assert any(line.startswith("XML files without a size, which is taken from the image: 1") for line in lines)


def test_what_is_left_out_is_counted(tmp_path):
    files = {
        "JPEGImages/1.jpg": (40, 20),
        "JPEGImages/3.jpg": (40, 20),
        "JPEGImages/4.jpg": b"",
        "Annotations/1.xml": voc("1.jpg", (40, 20), ("dog", 30, 15, 11, 6)),
        "Annotations/2.xml": voc("2.jpg", (40, 20), DOG),
        "Annotations/4.xml": voc("4.jpg", None, DOG),
        "ImageSets/Main/train.txt": "1\n2\n3\n4\n",
    }
    content, lines = read(module, write(tmp_path, files), "train")
    assert [thing[2] for thing in objects(content)] == [[10, 5, 20, 10]]
    for text in (
        "images of train.txt without an XML file, left out: 1 (first: 3)",
        "XML files without an image, left out: 1",
        "boxes whose corners are swapped, put right: 1",
        "images without labels, left out: 1",
        "images that can't be read, left out with their labels: 1",
    ):
        assert sum(line.startswith(text) for line in lines) == 1, (text, lines)


def test_outlines_of_the_old_labelme(tmp_path):
    """CVAT's export in the format LabelMe is this XML."""
    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((4, 2), (20, 2), (20, 14)))
    deleted = "<object><name>cat</name><deleted>1</deleted></object>"
    xml = f"<object><name>dog</name><deleted>0</deleted><polygon>{points}</polygon></object>{deleted}"
    content, _ = single(tmp_path, voc("a.jpg", (40, 20)).replace("</annotation>", f"{xml}</annotation>"))
    assert objects(content) == [("a.jpg", "dog", [4, 2, 16, 12], [[4, 2, 20, 2, 20, 14]])]


BOMB = '<!DOCTYPE l [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi")
)


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        (f"{BOMB}]><annotation><filename>&i;</filename></annotation>", "document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "document type"),
        ("<annotation><object></annotation>", "not valid XML"),
        ("<annotation>&x;</annotation>", "not valid XML"),
        (voc("a.jpg", (40, 20), ("dog", "nan", 6, 30, 15)), "'dog': xmin is 'nan'"),
        (voc("a.jpg", (40, 20), ("dog", "", 6, 30, 15)), "xmin is ''"),
        (voc("a.jpg", (40, 20), ("dog", 1, 6, "1_0", 15)), "xmax is '1_0'"),
        (voc("a.jpg", (40, 20), ("dog", 1, 6, 1e30, 15)), "no position"),
        (voc("a.jpg", (40, 20), ("", 1, 6, 30, 15)), "has no <name>"),
        (voc("a.jpg", (10**6, 10**6), DOG), "wanted at most"),
        (voc("a.jpg", ("x", 20), DOG), "width is 'x'"),
    ],
)
def test_xml_that_can_not_be_used(xml, words, tmp_path):
    with pytest.raises(DataError, match=words):
        single(tmp_path, xml)


def test_two_images_for_an_xml(tmp_path):
    files = {"x/a.jpg": (4, 4), "y/a.jpg": (4, 4), "z/a.xml": voc("a.jpg", (4, 4), DOG)}
    with pytest.raises(DataError, match="may be"):
        read(module, write(tmp_path, files))


def test_what_is_no_voc(tmp_path):
    assert module.recognise(write(tmp_path, {"a.jpg": (4, 4), "a.xml": "<?xml version='1.0'?><svg/>"})) is None


def test_supervision_reads_the_same_boxes(tmp_path):
    """An independent reader, by the devkit's rule."""
    supervision = pytest.importorskip("supervision")
    boxes = [(f"c{n % 3}", 1 + n, 2 + n, 20 + n, 9 + n / 2) for n in range(12)]
    root = write(tmp_path, {"a.jpg": (40, 20), "a.xml": voc("a.jpg", (40, 20), *boxes)})
    other = supervision.DetectionDataset.from_pascal_voc(str(root), str(root))
    (theirs,) = other.annotations.values()
    ours = objects(read(module, root)[0])
    assert [name for _, name, _, _ in ours] == [other.classes[n] for n in theirs.class_id]
    for (_, _, (x, y, w, h), _), box in zip(ours, theirs.xyxy, strict=True):
        assert [x, y, x + w, y + h] == pytest.approx(box.tolist(), abs=1e-4)
