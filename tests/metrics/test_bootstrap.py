"""AP of drawn images is that of a data set in which these images are repeated, and the intervals cover the truth."""

from dataclasses import replace

import hotcoco
import numpy as np
import pytest
from coco_oracle import make_case, predictions

from vitdet.metrics import CocoMetric
from vitdet.metrics.average_precision import average_precision
from vitdet.metrics.bootstrap import AREAS, draws, flags, resampled
from vitdet.metrics.compare import Found, compare
from vitdet.metrics.evaluation import evaluator


def larger_case(rng):
    """Several small cases in one file of three classes, with crowds, sizes on the limits, and images of nothing."""
    images, annotations, detections = [], [], []
    for shift in range(0, 5000, 1000):
        truth, found = make_case(rng)
        images += [{"id": image["id"] + shift} for image in truth["images"]]
        for one in truth["annotations"]:
            number = len(annotations) + 1
            where = {"image_id": one["image_id"] + shift, "category_id": one["category_id"] % 3 + 1}
            annotations.append({**one, **where, "id": number})
        # scores that tie between images have no order of their own
        detections += [(i + shift, c % 3 + 1, box, s + 1e-3 * rng.random()) for i, c, box, s in found]
    names = [{"id": k, "name": str(k)} for k in (1, 2, 3)]
    return {"images": images, "categories": names, "annotations": annotations}, detections


def read(truth, detections):
    metric = CocoMetric(truth)
    metric.update(predictions(truth, detections))
    return metric.truth, metric.found()[0]


def repeated(truth, rows, weights):
    """The scores of a data set that has each image as often as it was drawn."""
    order = np.repeat(np.arange(len(truth)), weights)
    mine = [np.flatnonzero(truth.image == i) for i in order]
    at = np.concatenate(mine)
    found = [
        np.column_stack([np.full((rows[:, 0] == i).sum(), j), rows[rows[:, 0] == i][:, 1:]])
        for j, i in enumerate(order)
    ]
    columns = {name: getattr(truth, name)[at] for name in ("label", "boxes_xywh", "area", "iscrowd")}
    image = np.repeat(np.arange(len(order)), [len(one) for one in mine])
    drawn = replace(truth, image_ids=np.arange(len(order)), image=image, sizes=truth.sizes[order], **columns)
    return average_precision(drawn, np.concatenate(found))


def test_a_draw_scores_as_the_repeated_images():
    rng, checked = np.random.default_rng(0), 0
    for seed in range(6):
        truth, rows = read(*larger_case(rng))
        images = np.arange(len(truth))
        made = flags(truth, rows, images=images)
        weights = np.concatenate([np.ones((1, len(truth)), np.int64), draws(images, len(truth), count=4, seed=seed)])
        assert (weights.sum(1) == len(truth)).all()
        aps = {key: resampled(one, weights) for key, one in made.items()}
        for r, row in enumerate(weights):
            wanted = repeated(truth, rows, row)
            for name in AREAS:
                mine = np.stack([aps[name, k][r] for k in range(3)])
                got = np.nanmean(mine) if np.isfinite(mine).any() else -1
                assert got == pytest.approx(wanted[f"AP{name}"], abs=1e-9)
                checked += wanted[f"AP{name}"] > 0
    assert checked > 40


def pair(rng, count, better=0.0):
    """Two models on images with an object each; the second finds more of them by `better`."""
    images = [{"id": i + 1, "height": 100, "width": 100} for i in range(count)]
    box = [10.0, 10.0, 40.0, 40.0]
    row = {"category_id": 1, "bbox": box, "area": 1600.0, "iscrowd": 0}
    annotations = [{"id": i + 1, "image_id": i + 1, **row} for i in range(count)]
    truth = {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": annotations}
    models = []
    for share in (0.5, 0.5 + better):
        scores = rng.random((2, count))
        hits = [(i + 1, 1, box, s) for i, s in enumerate(scores[0]) if rng.random() < share]
        models.append(hits + [(i + 1, 1, [60.0, 60.0, 30.0, 30.0], s) for i, s in enumerate(scores[1])])
    return truth, models


def both(truth, models):
    (known, first), (_, second) = (read(truth, found) for found in models)
    return known, Found("a", first), Found("b", second)


def test_models_of_one_quality_differ_within_noise_and_better_ones_beyond():
    rng = np.random.default_rng(0)
    calls = [compare(*both(*pair(rng, 60)), resamples=100, seed=k)[0].verdict for k in range(40)]
    assert calls.count("within noise") >= 34  # 95 % of 40 are 38
    difference = compare(*both(*pair(rng, 200, better=0.4)), resamples=200)[0]
    assert difference.name == "AP" and difference.verdict == "better" and difference.low < difference.change
    assert difference.high > difference.change > 0.1


def test_the_intervals_of_hotcoco_are_too_narrow_and_ours_are_not():
    """Of many pairs of models, the standard deviation of the difference is known: it is that of the differences."""
    rng, ours, theirs, changes = np.random.default_rng(1), [], [], []
    for _ in range(50):
        truth, models = pair(rng, 50)
        known, first, second = both(truth, models)
        one = compare(known, first, second, resamples=100)[0]
        ours.append((one.high - one.low) / 3.92)
        changes.append(one.change)
        result = hotcoco.compare(*(evaluator(known, found.rows) for found in (first, second)), n_bootstrap=100)
        theirs.append(result["ci"]["AP"]["std_err"])
    assert np.mean(ours) == pytest.approx(np.std(changes), rel=0.25)
    assert np.mean(theirs) < 0.87 * np.mean(ours)
