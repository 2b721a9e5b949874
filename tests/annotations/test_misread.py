"""Files whose boxes or ids are probably not what is read: refused by the same rule in training and in scoring."""

import json

import numpy as np
import pytest

from vitdet.annotations.index import CocoIndex
from vitdet.annotations.misread import look_for_misread
from vitdet.errors import DataError
from vitdet.metrics import evaluate

WIDTH, HEIGHT, COUNT = 200, 160, 12


def content(box=lambda box: box, *, masks=False, count=COUNT, shift=(0, 0)):
    """A file of `count` images with a box each, which `box` changes; `shift` is added to image and category ids."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(1, count + 1):
        w, h = rng.integers(30, 90, 2).tolist()
        x, y = int(rng.integers(0, WIDTH - w)), int(rng.integers(0, HEIGHT - h))
        images.append({"id": i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT})
        ids = {"id": i, "image_id": i + shift[0], "category_id": i % 2 + 1 + shift[1]}
        annotations.append({**ids, "bbox": box([x, y, w, h]), "area": w * h, "iscrowd": 0})
        if masks:
            annotations[-1]["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def fractions(box):
    return [box[0] / WIDTH, box[1] / HEIGHT, box[2] / WIDTH, box[3] / HEIGHT]


def corners(box):
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def centred(box):
    return [box[0] + box[2] / 2, box[1] + box[3] / 2, *box[2:]]


WRONG = [
    (content(fractions), "all 12 boxes lie within 0 to 1, so they seem to be fractions of the images; COCO's"),
    (content(corners), "all 12 boxes seem to be corners"),
    (content(corners, masks=True, count=3), "boxes seem to be corners"),
    (content(centred, masks=True), "boxes seem to have their centre in place of left and top"),
    (content(lambda box: [100 * value for value in fractions(box)]), "percents of the images"),
    (content(lambda box: [box[0] + WIDTH, *box[1:]]), "12 of 12 boxes lie wholly outside their images"),
    (content(lambda box: box if box[2] < 40 else None), "annotations can't be used: .* no box of four finite numbers"),
    (content(shift=(0, -1)), '"category_id" of the annotations is 0 to 1, and "categories" have the ids 1 to 2'),
    (content(shift=(0, 1)), "count one above them"),
    (content(shift=(-1, 0)), '"image_id" of the annotations is 0 to 11, and "images" have the ids 1 to 12'),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_what_is_misread_is_refused_in_training_and_scoring(tmp_path, wrong, message):
    with pytest.raises(DataError, match=message):
        look_for_misread(CocoIndex.of(wrong))
    (tmp_path / "truth.json").write_text(json.dumps(wrong))
    (tmp_path / "found.json").write_text(
        json.dumps([{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 1}])
    )
    with pytest.raises(DataError, match=message):
        evaluate(tmp_path / "found.json", tmp_path / "truth.json")


@pytest.mark.parametrize("masks", [False, True])
def test_right_boxes_pass(masks):
    assert look_for_misread(CocoIndex.of(content(masks=masks))) == []
    few = content(masks=masks)
    few["annotations"] = few["annotations"][:3]
    assert look_for_misread(CocoIndex.of(few)) == []
    # an unknown id, or an image of which no annotation is known, is no shift
    few["annotations"][0]["category_id"] = 9
    assert CocoIndex.of(few).left_out == {"annotations left out: unknown category id": 1}


def test_what_is_odd_in_some_is_said():
    some = content(masks=True)
    for k in range(4):
        some["annotations"][k]["bbox"] = fractions(some["annotations"][k]["bbox"])
    assert look_for_misread(CocoIndex.of(some)) == [
        "4 of 12 boxes lie within 0 to 1, so they seem to be fractions of the images"
    ]
    flat = content(masks=True)
    flat["annotations"][1]["segmentation"] = [[5, 5, 25, 5, 45, 5]]
    (line,) = look_for_misread(CocoIndex.of(flat))
    assert line.startswith("1 of 12 masks have no pixel, such as that of annotation 2")
    beyond = content(lambda box: [box[0] - 40, *box[1:]])
    (line,) = look_for_misread(CocoIndex.of(beyond))
    assert line.endswith("of 12 boxes reach beyond their images, where they are cut off")
    elsewhere = content(masks=True)
    for annotation in elsewhere["annotations"]:
        annotation["segmentation"] = [[0, 0, 9, 0, 9, 9]]
    (line,) = look_for_misread(CocoIndex.of(elsewhere))
    assert line.startswith("12 of 12 boxes are not those of their masks")


def test_names_that_several_have_are_said():
    several = content()
    several["images"][1]["file_name"] = "1.jpg"
    several["categories"][1]["name"] = "cat"
    assert CocoIndex.of(several).notes == [
        "1 file names belong to several images, such as '1.jpg'",
        "2 categories have the same name, 'cat', and remain different classes",
    ]


def test_the_id_of_a_segment_is_a_number():
    segments = [{"id": "1000", "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}]
    panoptic = {**content(), "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": segments}]}
    with pytest.raises(DataError, match="annotation '1000': \"id\" is '1000'; wanted the whole number of a segment"):
        CocoIndex.of(panoptic)


def test_a_part_of_the_images_with_the_annotations_of_all_is_no_fault():
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 64} for i in range(1, 4)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 30, 20]} for i in range(1, 11)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    assert look_for_misread(CocoIndex.of(content)) == []
    with pytest.raises(DataError, match="9 of 10 annotations can't be used"):
        look_for_misread(
            CocoIndex.of(
                {**content, "images": [{**image, "id": 100 * image["id"]} for image in images] + [{**images[0]}]}
            )
        )
