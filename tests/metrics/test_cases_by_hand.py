"""Inputs on which pycocotools itself goes wrong, each with the value computed by hand."""

import numpy as np
import pytest
from coco_oracle import TWELVE, predictions, pycocotools

from vitdet.metrics import CocoMetric

BOX, ELSEWHERE = [10.0, 10.0, 40.0, 40.0], [100.0, 100.0, 40.0, 40.0]  # 1600 square pixels: "medium"


def truth(*objects, images=(1,), categories=(1,), first_id=1):
    """Objects are `(image, category, box)`."""
    annotations = [
        {
            "id": first_id + n,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for n, (image, category, box) in enumerate(objects)
    ]
    return {
        "images": [{"id": i} for i in images],
        "categories": [{"id": c, "name": f"c{c}"} for c in categories],
        "annotations": annotations,
    }


def scores(content, detections, **options):
    metric = CocoMetric(content, **options)
    metric.update(predictions(content, detections))
    return metric.compute()


def equal(result, value, *names):
    return [result[name] for name in names] == pytest.approx([value] * len(names))


def test_annotation_id_0_is_an_object_like_any_other():
    content, found = truth((1, 1, BOX), first_id=0), [(1, 1, BOX, 0.9)]
    assert pycocotools(content, found)[2][0] == 0.0  # what is wrong with it: a match with id 0 counts as none
    result = scores(content, found)
    assert equal(result, 1, "AP", "AP50", "APm", "AR1", "AR100")
    assert result["APs"] == result["APl"] == result["ARs"] == result["ARl"] == -1  # no such object


def test_annotation_ids_used_twice_are_two_objects():
    content = truth((1, 1, BOX), (1, 1, ELSEWHERE))
    content["annotations"][1]["id"] = 1
    result = scores(content, [(1, 1, BOX, 0.9)])
    assert result["AP"] == pytest.approx(51 / 101)  # one of two: precision 1 at recall 0.00, 0.01 ... 0.50
    assert result["AR100"] == pytest.approx(0.5)


def test_categories_from_0_and_sparse():
    content = truth((1, 0, BOX), (1, 90, ELSEWHERE), categories=(90, 0, 7))
    result = scores(content, [(1, 0, BOX, 0.9), (1, 90, BOX, 0.8)])
    assert result["AP/c0"] == pytest.approx(1) and result["AP/c90"] == 0 and result["AP/c7"] == -1
    assert result["AP"] == pytest.approx(0.5)  # a class without objects is not averaged


def test_image_ids_from_0_negative_and_beyond_float32():
    images = (0, -3, 2**40 + 1)
    content = truth(*((i, 1, BOX) for i in images), images=images)
    assert scores(content, [(i, 1, BOX, 0.9) for i in images])["AP"] == pytest.approx(1)


@pytest.mark.parametrize("update", [True, False])
def test_no_detections_at_all(update):
    content = truth((1, 1, BOX), (2, 1, ELSEWHERE), images=(1, 2))
    metric = CocoMetric(content)
    if update:
        metric.update(predictions(content, []))
    result = metric.compute()
    assert result["AP"] == result["APm"] == result["AR100"] == result["AP/c1"] == 0
    assert result["APs"] == result["APl"] == -1


def test_no_annotations_at_all():
    result = scores(truth(), [(1, 1, BOX, 0.9)])
    assert set(result.values()) == {-1.0} and set(result) == {*TWELVE, "AP/c1"}


def test_nothing_seen_and_only_the_seen_are_scored():
    assert set(CocoMetric(truth((1, 1, BOX)), seen_only=True).compute().values()) == {-1.0}


def test_no_images_and_no_categories():
    assert set(CocoMetric(truth(images=())).compute().values()) == {-1.0}
    assert set(CocoMetric(truth(categories=())).compute()) == set(TWELVE)


@pytest.mark.parametrize(("max_dets", "wanted"), [(1, 0.0), (2, 0.5), (100, 0.5)])
def test_other_numbers_of_detections(max_dets, wanted):
    # the summary of pycocotools gives -1 for AP unless the limit is 100; the object is found by the second best
    # detection, so precision is 1/2 at every recall
    result = scores(truth((1, 1, BOX)), [(1, 1, ELSEWHERE, 0.9), (1, 1, BOX, 0.8)], max_dets=max_dets)
    assert result["AP"] == pytest.approx(wanted)
    assert result[f"AR{max_dets}"] == (1 if wanted else 0)


def test_recall_is_named_after_the_number_of_detections():
    assert {"AR1", "AR10", "AR300"} < set(CocoMetric(truth((1, 1, BOX)), max_dets=300).compute())


def test_areas_on_the_limit_belong_to_both_sides():
    square = [0.0, 0.0, 32.0, 32.0]
    result = scores(truth((1, 1, square)), [(1, 1, square, 0.5)])
    assert equal(result, 1, "APs", "APm") and result["APl"] == -1
    square = [0.0, 0.0, 96.0, 96.0]
    result = scores(truth((1, 1, square)), [(1, 1, square, 0.5)])
    assert equal(result, 1, "APm", "APl") and result["APs"] == -1


def test_an_iou_counts_at_the_thresholds_up_to_it():
    # 40×40 against 40×30 inside it: IoU 0.75, found at 0.50 to 0.75, 6 of 10 thresholds
    result = scores(truth((1, 1, BOX)), [(1, 1, [10.0, 10.0, 40.0, 30.0], 0.9)])
    assert equal(result, 1, "AP50", "AP75") and result["AP"] == pytest.approx(0.6)


def test_equal_scores_count_in_the_order_of_image_ids():
    # id 9 comes first in the file, 2 first in the protocol; the false one on image 2 is therefore ranked first
    content = truth((9, 1, BOX), images=(9, 2))
    assert scores(content, [(9, 1, BOX, 0.5), (2, 1, BOX, 0.5)])["AP"] == pytest.approx(0.5)
    content = truth((2, 1, BOX), images=(9, 2))
    assert scores(content, [(9, 1, BOX, 0.5), (2, 1, BOX, 0.5)])["AP"] == pytest.approx(1)


def test_a_crowd_takes_any_number_and_is_never_missed():
    content = truth((1, 1, BOX), (1, 1, [100.0, 100.0, 100.0, 100.0]))
    content["annotations"][1]["iscrowd"] = 1
    found = [(1, 1, ELSEWHERE, 0.95), (1, 1, [150.0, 150.0, 40.0, 40.0], 0.94), (1, 1, BOX, 0.9)]
    assert scores(content, found)["AP"] == pytest.approx(1)
    assert scores(content, found[2:])["AP"] == pytest.approx(1)


def test_two_classes_of_one_name_keep_their_own_scores():
    content = truth((1, 1, BOX), (1, 2, ELSEWHERE), categories=(1, 2))
    content["categories"] = [{"id": 1, "name": "mouse"}, {"id": 2, "name": "mouse"}]
    result = scores(content, [(1, 1, BOX, 0.9)])
    assert result["AP/mouse (1)"] == pytest.approx(1) and result["AP/mouse (2)"] == 0


def test_a_missing_area_is_that_of_the_box_and_said():
    content = truth((1, 1, [0.0, 0.0, 20.0, 20.0]))
    del content["annotations"][0]["area"]
    metric = CocoMetric(content)
    metric.update(predictions(content, [(1, 1, [0.0, 0.0, 20.0, 20.0], 0.9)]))
    assert metric.compute()["APs"] == pytest.approx(1)
    assert "1 annotations without an area: the box's is taken" in metric.protocol()


def test_annotations_that_cannot_be_scored_are_counted():
    content = truth((1, 1, BOX), (8, 1, BOX), (1, 8, BOX), (1, 1, [0.0, 0.0, float("nan"), 1.0]))
    metric = CocoMetric(content)
    metric.update(predictions(content, [(1, 1, BOX, 0.9)]))
    assert metric.compute()["AP"] == pytest.approx(1)
    for reason in ("unknown image id", "unknown category id", "no box of four finite numbers"):
        assert f"1 annotations left out: {reason}" in metric.protocol()
    assert len(metric.truth.image) == 1 and np.array_equal(metric.truth.boxes_xywh, [BOX])
