"""The own formats of LabelMe, CVAT, Supervisely and VIA, with boxes and masks by hand."""

import math

import numpy as np
import pytest
from exports import (
    FLAT,
    META,
    POINTS,
    TRIANGLE,
    classes,
    cvat_image,
    item,
    me,
    objects,
    png,
    project,
    read,
    region,
    shape,
    sizes,
    thing,
    voc,
    write,
)
from pycocotools import mask as rle

from vitdet.data.formats import cvat, labelme, supervisely, via
from vitdet.errors import DataError


def pixels(segmentation) -> list[list[int]]:
    """The row and column of each pixel of run lengths."""
    return np.argwhere(rle.decode(segmentation)).tolist()


# LabelMe


def read_me(tmp_path, *shapes, files=None, split="all", **more):
    files = {"a.jpg": (40, 20), "a.json": me(*shapes, **more)} | (files or {})
    return read(labelme, write(tmp_path, files), split)


def test_labelme_shapes(tmp_path):
    content, lines = read_me(
        tmp_path,
        shape("dog", TRIANGLE),
        shape("box", [[30, 15], [10, 5]], "rectangle"),
        shape("box", [[10, 5], [30, 5], [30, 15], [10, 15]], "rectangle"),
        shape("dog", [[10, 5], [30, 15]]),
        shape("ball", [[10, 10], [13, 14]], "circle"),
        shape("mask", [[3, 4], [5, 5]], "mask", mask=png([[0, 1, 1], [1, 1, 0]])),
        shape("dog", [[1, 1]], "point"),
        shape("dog", [[1, 1], [2, 2], [3, 1]], "linestrip"),
        shape("__ignore__", TRIANGLE),
    )
    (dog, *boxes, ball, mask) = objects(content)
    assert dog == ("a.jpg", "dog", [4, 2, 16, 12], FLAT)
    assert boxes == [("a.jpg", name, [10, 5, 20, 10], None) for name in ("box", "box", "dog")]
    assert ball[:3] == ("a.jpg", "ball", [5, 5, 10, 10])
    assert content["annotations"][4]["area"] == pytest.approx(math.pi * 25, rel=0.03)
    assert pixels(mask[3]) == [[4, 4], [4, 5], [5, 3], [5, 4]] and mask[2] == [3, 4, 3, 2]
    assert [*classes(content).values()] == ["ball", "box", "dog", "mask"]
    assert sorted(line.split(" (first")[0] for line in lines) == [
        "polygons of two points, read as boxes: 1",
        "shapes that are no area, left out (linestrip): 1",
        "shapes that are no area, left out (point): 1",
    ]


def test_labelme_groups_are_objects_of_several_parts(tmp_path):
    second = [[30, 10], [35, 10], [35, 15]]
    content, lines = read_me(
        tmp_path,
        shape("dog", TRIANGLE, group_id=1),
        shape("cat", TRIANGLE, group_id=1),
        shape("dog", second, group_id=1),
        shape("dog", TRIANGLE, group_id=2),
    )
    assert [len(polygons) for *_, polygons in objects(content)] == [2, 1, 1]
    assert objects(content)[0][2] == [4, 2, 31, 13] and content["annotations"][0]["area"] == 96 + 12.5
    assert any(line.startswith("polygons that are further parts of an object") for line in lines)


def test_labelme_layouts(tmp_path):
    """Images apart, a path of Windows, names renamed, splits, a list of classes, sizes that are missing."""
    files = {
        "images/a.jpg": (40, 20),
        "labels/train/a.json": me(shape("dog", TRIANGLE), path="..\\..\\images\\a.jpg", size=(None, None)),
        "labels/val/b.json": me(shape("cat", TRIANGLE), path="/home/x/old.png"),
        "images/old.png": (40, 20),
        "images/c.png": (40, 20),
        "labels/val/gone.json": me(shape("cat", TRIANGLE), path="gone.jpg"),
        "labels.txt": "__ignore__\n_background_\ncat\ndog\n",
    }
    root = write(tmp_path, files)
    content, lines = read(labelme, root, "train")
    assert objects(content) == [("images/a.jpg", "dog", [4, 2, 16, 12], FLAT)] and sizes(content) == {
        "images/a.jpg": (40, 20)
    }
    content, lines = read(labelme, root, "val")
    assert objects(content)[0][:2] == ("images/old.png", "cat") and classes(content) == {1: "cat", 2: "dog"}
    assert [line.split(" (first")[0] for line in lines] == [
        "JSON files without an image, left out: 1",
        "images without labels, left out: 1",
    ]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (shape("dog", [[math.nan, 2], [20, 2], [20, 14]]), "shape 1: x is 'nan'"),
        (shape("dog", [["a", 2], [20, 2], [20, 14]]), "x is 'a'"),
        (shape("dog", [[1, 2, 3]] * 3), "the point"),
        (shape("dog", [None] * 3), "the point"),
        (shape("dog", None), "points are"),
        (shape(None, TRIANGLE), "label is"),
        (shape("", TRIANGLE), "label is"),
        (shape("dog", [[1, 1]], "circle"), "a circle with 1 points"),
        (shape("dog", TRIANGLE, "mask", mask="AAAA"), "the mask is no image"),
        (shape("dog", TRIANGLE, "mask"), "the mask is no image"),
        ([], "shapes is"),
    ],
)
def test_labelme_that_can_not_be_used(wrong, words, tmp_path):
    with pytest.raises(DataError, match=f"a.json.*{words}"):
        read_me(tmp_path, wrong)


# CVAT


def read_cvat(tmp_path, *images, split="all", files=None):
    content = f"<annotations><version>1.1</version>{META}{''.join(images)}</annotations>"
    text = f'<?xml version="1.0" encoding="utf-8"?>\n{content}'
    return read(cvat, write(tmp_path, {"annotations.xml": text, "images/a.jpg": (40, 20)} | (files or {})), split)


def test_cvat_shapes(tmp_path):
    box = '<box label="ant" xtl="10" ytl="5" xbr="30" ybr="15" occluded="1" rotation="{}">{}</box>'
    content, lines = read_cvat(
        tmp_path,
        cvat_image(
            box.format("0.0", '<attribute name="x">1</attribute>')
            + box.format("90.0", "")
            + '<polygon label="zebra" source="manual" points="4,2;20,2;20,14"/>'
            + '<ellipse label="zebra" cx="20" cy="10" rx="8" ry="4"/>'
            + '<mask label="zebra" rle="1, 3, 2" left="3" top="4" width="3" height="2"/>'
            + '<points label="ant" points="1,1"/><tag label="ant"/><polyline label="ant" points="1,1;2,2"/>'
        ),
    )
    upright, turned, polygon, ellipse, mask = objects(content)
    assert upright == ("images/a.jpg", "ant", [10, 5, 20, 10], None)
    assert turned[2:] == ([15, 0, 10, 20], [[25, 0, 25, 20, 15, 20, 15, 0]])
    assert polygon == ("images/a.jpg", "zebra", [4, 2, 16, 12], FLAT)
    assert ellipse[2] == [12, 6, 16, 8]
    assert pixels(mask[3]) == [[4, 4], [4, 5], [5, 3]] and mask[2] == [3, 4, 3, 2]
    assert classes(content) == {1: "zebra", 2: "ant"}
    assert [line.split(": 1 (first")[0] for line in lines] == [
        "boxes that are turned, read as polygons of four points with the box around them",
        "shapes that are no area, left out (points)",
        "shapes that are no area, left out (polyline)",
    ]


def test_cvat_subsets_are_splits(tmp_path):
    polygon = '<polygon label="ant" points="{}" group_id="{}"/>'
    two = (
        polygon.format("4,2;20,2;20,14", 1) + polygon.format("30,10;35,10;35,15", 1) + polygon.format("0,0;9,0;9,9", 0)
    )
    images = [
        cvat_image(two, "a.jpg", 'subset="Train"'),
        cvat_image("", "a.jpg", 'subset="Validation"'),
        cvat_image("", "lost.jpg", 'subset="Validation"'),
    ]
    files = {"images/Train/a.jpg": (40, 20), "images/Validation/b/a.jpg": (40, 20), "images/a.jpg": (8, 8)}
    root_images = [image.replace('name="a.jpg" subset="Val', 'name="b/a.jpg" subset="Val') for image in images]
    root_images[0] = root_images[0].replace('name="a.jpg"', 'name="Train/a.jpg"')
    content, _ = read_cvat(tmp_path, *root_images, split="train", files=files)
    assert [thing[0] for thing in objects(content)] == ["images/Train/a.jpg"] * 2
    assert [len(polygons) for *_, polygons in objects(content)] == [2, 1]
    content, lines = read(cvat, tmp_path, "val")
    assert [*sizes(content)] == ["images/Validation/b/a.jpg"]
    assert any(line.startswith("images of CVAT's XML that are not in the folder, left out") for line in lines)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ('<box label="ant" xtl="nan" ytl="5" xbr="30" ybr="15"/>', "xtl is 'nan'"),
        ('<box label="ant" xtl="1" ytl="5" xbr="30"/>', "ybr is 'None'"),
        ('<box xtl="1" ytl="5" xbr="30" ybr="15"/>', "no label"),
        ('<polygon label="ant" points="1,2;3"/>', "wanted x,y"),
        ('<polygon label="ant" points="1,2;3,4"/>', "a polygon has 2 points"),
        ('<mask label="ant" rle="1, 2" left="0" top="0" width="2" height="2"/>', "does not fill a mask of 2×2"),
        ('<mask label="ant" rle="-1, 5" left="0" top="0" width="2" height="2"/>', "does not fill"),
        ('<mask label="ant" rle="999999999" left="0" top="0" width="999999" height="1"/>', "does not fill"),
    ],
)
def test_cvat_that_can_not_be_used(shapes, words, tmp_path):
    with pytest.raises(DataError, match=f"annotations.xml, image a.jpg, shape 1.*{words}"):
        read_cvat(tmp_path, cvat_image(shapes))


def test_cvat_for_video(tmp_path):
    with pytest.raises(DataError, match="CVAT for images 1.1"):
        read_cvat(tmp_path, '<track id="0" label="ant"><box frame="0"/></track>')


# Supervisely


def test_supervisely_shapes(tmp_path):
    bitmap = {"data": png([[0, 1], [1, 1]], compressed=True), "origin": [3, 4]}
    hole = [[1, 1], [3, 1], [3, 3], [1, 3]]
    files = project(
        thing("rectangle", [[10, 5], [29, 14]]),
        thing("polygon", TRIANGLE),
        thing("polygon", [[0, 0], [4, 0], [4, 4], [0, 4]], [hole]),
        thing("bitmap", bitmap=bitmap),
        thing("point", [[1, 1]]),
    )
    content, lines = read(supervisely, write(tmp_path, files))
    box, polygon, ring, mask = objects(content)
    # the last pixel belongs to a rectangle
    assert box == ("ds0/img/a.jpg", "ant", [10, 5, 20, 10], None)
    assert polygon[2:] == ([4, 2, 16, 12], FLAT)
    assert ring[2] == [0, 0, 4, 4] and content["annotations"][2]["area"] == 12 and [1, 1] not in pixels(ring[3])
    assert mask[2] == [3, 4, 2, 2] and pixels(mask[3]) == [[4, 4], [5, 3], [5, 4]]
    assert classes(content) == {1: "zebra", 2: "ant"}
    assert [line.split(" (first")[0] for line in lines] == ["shapes that are no area, left out (point): 1"]


def test_supervisely_splits_are_data_sets(tmp_path):
    root = write(tmp_path, project(thing("polygon", TRIANGLE), name="train") | project(name="val", size=(0, 0)))
    assert objects(read(supervisely, root, "train")[0])[0][0] == "train/img/a.jpg"
    assert sizes(read(supervisely, root, "val")[0]) == {"val/img/a.jpg": (40, 20)}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (thing("rectangle", [[1, 1]]), "a rectangle with 1 points"),
        (thing("polygon", [[1, math.inf]] * 3), "y is 'inf'"),
        (thing("bitmap", bitmap={"data": "eJw=", "origin": [0, 0]}), "the mask is no image"),
        (thing("bitmap", bitmap=7), "bitmap is"),
        (thing("bitmap", bitmap={"data": png([[1]]), "origin": None}), "the point"),
        ({"classTitle": "ant", "geometryType": "polygon"}, "points is"),
        (thing("polygon", TRIANGLE, classTitle=7), "classTitle is"),
        (7, "objects is"),
    ],
)
def test_supervisely_that_can_not_be_used(wrong, words, tmp_path):
    with pytest.raises(DataError, match=f"a.jpg.json.*{words}"):
        read(supervisely, write(tmp_path, project(wrong)))


# VIA


def test_via_shapes(tmp_path):
    regions = [
        region("polygon", {"class": "ant"}, **POINTS),
        region("rect", {"class": "bee", "note": "x"}, x=10, y=5, width=20, height=10),
        region("circle", {"kind": {"cat": True, "dog": False}}, cx=10, cy=10, r=5),
        region("ellipse", {"class": "ant"}, cx=20, cy=10, rx=4, ry=8, theta=math.pi / 2),
        region("point", {"class": "ant"}, cx=1, cy=1),
    ]
    project = {"_via_settings": {}, "_via_img_metadata": item(*regions) | item(name="b.jpg") | item(name="gone.jpg")}
    root = write(tmp_path, {"via_project.json": project, "a.jpg": (40, 20), "b.jpg": (8, 8)})
    content, lines = read(via, root)
    assert [thing[1:3] for thing in objects(content)] == [
        ("ant", [4, 2, 16, 12]),
        ("bee", [10, 5, 20, 10]),
        ("cat", [5, 5, 10, 10]),
        ("ant", [12, 6, 16, 8]),
    ]
    assert sizes(content) == {"a.jpg": (40, 20), "b.jpg": (8, 8)}
    assert [line.split(" (first")[0] for line in lines] == [
        "regions that are no area, left out (point): 1",
        "images that are not in the folder, left out with their regions: 1",
    ]


def test_via_of_balloons(tmp_path):
    """The data set of Mask R-CNN's tutorial: regions as an object with numbers, without a class."""
    old = item()
    old["a.jpg123"]["regions"] = {"0": region("polygon", **POINTS)}
    root = write(tmp_path, {"train/via_region_data.json": old, "train/a.jpg": (40, 20), "val/a.jpg": (40, 20)})
    content, lines = read(via, root, "train")
    assert objects(content) == [("train/a.jpg", "object", [4, 2, 16, 12], FLAT)]
    assert any(line.startswith('regions without attributes, of the class "object": 1') for line in lines)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (region("polygon", {"class": "a"}, all_points_x=[1], all_points_y=[]), "of the same length"),
        (region("rect", {"class": "a"}, x=1, y=None, width=2, height=3), "y is 'None'"),
        (region("rect", {"a": "x", "b": "y"}, x=1, y=1, width=2, height=3), "no attribute of a, b is named"),
        (region("rect", {"class": ""}, x=1, y=1, width=2, height=3), "is empty"),
        ({"shape_attributes": 7}, "shape_attributes is"),
        (7, "regions is"),
    ],
)
def test_via_that_can_not_be_used(wrong, words, tmp_path):
    with pytest.raises(DataError, match=f"via.json, a.jpg123.*{words}"):
        read(via, write(tmp_path, {"via.json": item(wrong), "a.jpg": (40, 20)}))


@pytest.mark.parametrize("module", [labelme, cvat, supervisely, via])
def test_what_is_none_of_these(module, tmp_path):
    """COCO, panoptic COCO, a VOC file, settings of an editor, and a broken JSON."""
    coco = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []}
    files = {"train/_annotations.coco.json": coco, "settings.json": {"shapes": 1}, "broken.json": "{", "a.jpg": (4, 4)}
    assert module.recognise(write(tmp_path, {**files, "a.xml": voc("a.jpg", (4, 4))})) is None


@pytest.mark.parametrize(("module", "name"), [(labelme, "a.json"), (via, "via.json")])
def test_json_that_is_cut_off(module, name, tmp_path):
    text = '{"shapes": [], "imageHeight": 3, "regions": [], "filename": "'
    with pytest.raises(DataError, match=f"{name} is not valid JSON"):
        read(module, write(tmp_path, {name: text, "a.jpg": (4, 4)}))
