"""The numbers are those of pycocotools, on thousands of generated cases."""

import numpy as np
import pytest
from coco_oracle import TWELVE, make_case, predictions, pycocotools

from vitdet.metrics import CocoMetric
from vitdet.metrics.average_precision import curves, max_dets_levels


def compare(truth, detections, *, max_dets=100):
    """Equal curves, and for 100 detections equal numbers; returns the AP."""
    levels = max_dets_levels(max_dets)
    precision, recall, stats = pycocotools(truth, detections, max_dets=levels if len(levels) == 3 else (1, 10, 100))
    metric = CocoMetric(truth, max_dets=max_dets)
    metric.update(predictions(truth, detections))
    with metric.sync_context():
        rows = metric.rows.numpy()
    ours = curves(metric.truth, rows, images=np.arange(len(metric.truth)), levels=levels)
    np.testing.assert_allclose(ours[0], precision, rtol=0, atol=1e-10)
    np.testing.assert_allclose(ours[1], recall, rtol=0, atol=1e-10)
    scores = metric.compute()
    if max_dets == 100:
        np.testing.assert_allclose([scores[name] for name in TWELVE], stats, rtol=0, atol=1e-10)
    for k, (_, name) in enumerate(sorted((c["id"], c["name"]) for c in truth["categories"])):
        found = precision[:, :, k, 0, -1]
        wanted = found[found > -1].mean() if (found > -1).any() else -1
        assert scores[f"AP/{name}"] == pytest.approx(wanted, abs=1e-10)
    return scores["AP"]


@pytest.mark.slow
def test_thousands_of_small_cases():
    rng = np.random.default_rng(0)
    scores = np.array([compare(*make_case(rng)) for _ in range(2000)])
    # cases that are all 0, or all -1, would prove little
    assert (scores == -1).sum() > 50 and (scores == 0).sum() > 50 and ((scores > 0) & (scores < 1)).sum() > 800


def test_boxes_without_an_area():
    rng = np.random.default_rng(1)
    sides = np.array([0, 0, -4, 8, 16, 32])  # an empty box overlaps nothing, but 0/0 is easily taken for a match
    for _ in range(200):
        compare(*make_case(rng, sides=sides))


@pytest.mark.parametrize("max_dets", [100, 20, 300])
def test_more_detections_than_count(max_dets):
    rng = np.random.default_rng(max_dets)
    cases = [make_case(rng, crowded=True) for _ in range(25)]
    assert sum(len(detections) > 100 for _, detections in cases) > 5
    for case in cases:
        compare(*case, max_dets=max_dets)


def test_one_image_with_several_hundred_boxes_of_a_class():
    rng = np.random.default_rng(5)
    boxes = [[float(x), float(y), 8.0, 8.0] for x in range(0, 160, 10) for y in range(0, 160, 10)]
    annotations = [
        {"id": i + 1, "image_id": 3, "category_id": 0, "bbox": box, "area": 64.0, "iscrowd": 0}
        for i, box in enumerate(boxes)
    ]
    truth = {"images": [{"id": 3}], "categories": [{"id": 0, "name": "a"}], "annotations": annotations}
    detections = [(3, 0, box, float(rng.integers(0, 20)) / 20) for box in boxes]
    assert compare(truth, detections) == pytest.approx(40 / 101, abs=1e-12)  # recall 100/256 reaches levels 0.00-0.39
    assert compare(truth, detections, max_dets=300) == pytest.approx(1.0)


def test_only_the_images_seen():
    rng = np.random.default_rng(7)
    differ = 0
    for _ in range(200):
        truth, detections = make_case(rng)
        images = [image["id"] for image in truth["images"]][:1]
        mine = [d for d in detections if d[0] in images]
        metric = CocoMetric(truth, seen_only=True)
        metric.update(predictions(truth, mine, images=images))
        seen = metric.compute()
        np.testing.assert_allclose(
            [seen[name] for name in TWELVE], pycocotools(truth, mine, images=images)[2], rtol=0, atol=1e-10
        )
        metric = CocoMetric(truth)
        metric.update(predictions(truth, mine, images=images))
        everything = metric.compute()
        np.testing.assert_allclose(
            [everything[name] for name in TWELVE], pycocotools(truth, mine)[2], rtol=0, atol=1e-10
        )
        differ += seen["AP"] != everything["AP"]
    assert differ > 20


def test_the_order_of_images_and_batches_does_not_matter():
    rng = np.random.default_rng(11)
    for _ in range(50):
        truth, detections = make_case(rng)
        one, other = CocoMetric(truth), CocoMetric(truth)
        one.update(predictions(truth, detections))
        for prediction in reversed(predictions(truth, detections)):
            other.update([prediction])
        assert one.compute() == other.compute()
