"""What a report counts: against COCO's own numbers, against brute force, and against cases by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitdet.metrics.average_precision import average_precision
from vitdet.metrics.ground_truth import GroundTruth
from vitdet.report.counts import above, best_thresholds, calibration, confusion, curves, mistakes, unseen
from vitdet.report.matches import ap_by_class, lost_ap, match

# image, class, box, crowd
BY_HAND = [
    (0, 0, [0, 0, 10, 10], 0),
    (0, 1, [50, 50, 20, 20], 0),
    (1, 0, [10, 10, 30, 30], 0),
    (1, 0, [60, 60, 30, 30], 1),
    (2, 1, [20, 20, 40, 40], 0),
]
# image, box, score, class
FOUND = [
    (0, 0, 0, 10, 10, 0.9, 0),  # right
    (0, 0, 0, 10, 9, 0.8, 0),  # found twice
    (0, 50, 50, 20, 20, 0.7, 0),  # another class
    (1, 10, 10, 30, 12, 0.6, 0),  # IoU 0.4
    (1, 60, 60, 10, 10, 0.55, 0),  # in a crowd
    (1, 80, 0, 10, 10, 0.95, 1),  # nothing there
    (2, 20, 20, 40, 12, 0.85, 0),  # another class, IoU 0.3
]


def ground_truth(objects, images=3, names=("a", "b")):
    annotations = [
        {"id": n + 7, "image_id": i, "category_id": k, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
        for n, (i, k, box, crowd) in enumerate(objects)
    ]
    content = {
        "images": [{"id": i, "width": 100, "height": 100, "file_name": f"{i}.png"} for i in range(images)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
    }
    return GroundTruth.read({**content, "annotations": annotations})


def by_hand():
    truth = ground_truth(BY_HAND)
    return match(truth, np.array(FOUND, np.float64), images=np.arange(3))


def random_case(seed, images=5, classes=3):
    rng = np.random.default_rng(seed)
    objects, rows = [], []
    for i in range(images):
        for _ in range(rng.integers(0, 6)):
            box = [float(side) for side in (*rng.uniform(0, 60, 2), *rng.uniform(5, 40, 2))]
            label = int(rng.integers(classes))
            objects.append((i, label, box, int(rng.random() < 0.1)))
            for _ in range(rng.integers(0, 3)):
                found = label if rng.random() < 0.8 else int(rng.integers(classes))
                rows.append([i, *(np.array(box) + rng.normal(0, 2, 4)).clip(1), round(rng.random(), 2), found])
        rows += [
            [i, *rng.uniform(0, 60, 2), *rng.uniform(5, 40, 2), round(rng.random(), 2), rng.integers(classes)]
            for _ in range(rng.integers(0, 4))
        ]
    truth = ground_truth(objects, images, [f"class {k}" for k in range(classes)])
    return truth, np.array(rows, np.float64).reshape(-1, 7)


def mean(values):
    return float(np.nanmean(values)) if np.isfinite(values).any() else -1.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_ap_of_the_matches_is_that_of_coco(seed):
    truth, rows = random_case(seed)
    found, expected = match(truth, rows, images=np.arange(len(truth))), average_precision(truth, rows)
    ap = ap_by_class(found)
    assert mean(ap) == pytest.approx(expected["AP"], abs=1e-9)
    assert mean(ap[0]) == pytest.approx(expected["AP50"], abs=1e-9)
    for k, name in enumerate(truth.names):
        assert mean(ap[:, k]) == pytest.approx(expected[f"AP/{name}"], abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_ap_of_some_images_is_that_of_a_data_set_of_them(seed):
    truth, rows = random_case(seed, images=6)
    some = np.array([0, 2, 3])
    expected = average_precision(truth, rows, images=some)["AP"]
    assert mean(ap_by_class(match(truth, rows, images=some))) == pytest.approx(expected, abs=1e-9)
    # the same as a part of the whole
    whole, inside = match(truth, rows, images=np.arange(6)), np.isin(np.arange(6), some)
    part = ap_by_class(whole, objects=inside[truth.image], detections=inside[whole.image])
    assert mean(part) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_what_an_image_costs_is_what_its_perfection_gains(seed):
    """By brute force: the image's detections are replaced by its objects, above all others."""
    truth, rows = random_case(seed)
    found = match(truth, rows, images=np.arange(len(truth)))
    base, losses = average_precision(truth, rows)["AP"], lost_ap(found)
    for i in range(len(truth)) if base >= 0 else ():
        objects = np.flatnonzero((truth.image == i) & ~truth.iscrowd)
        perfect = [[i, *truth.boxes_xywh[row], 2.0, truth.label[row]] for row in objects]
        better = np.concatenate([rows[rows[:, 0] != i], np.array(perfect, np.float64).reshape(-1, 7)])
        gain = average_precision(truth, better)["AP"] - base
        assert losses.get(i, 0.0) == pytest.approx(gain, abs=1e-9)


def test_curves_count_what_is_above_each_score():
    truth, rows = random_case(3)
    found = match(truth, rows, images=np.arange(len(truth)))
    curve = curves(found)
    for k in range(3):
        total = int((found.objects & (truth.label == k)).sum())
        for s in (0, 17, 50, 93, 100):
            some = (found.label == k) & found.counted[0] & (found.score >= s / 100)
            right = int((found.found[0][some] >= 0).sum())
            assert curve.recall[k, s] == pytest.approx(right / total)
            assert curve.f1[k, s] == pytest.approx(2 * right / (some.sum() + total))
            if some.any():
                assert curve.precision[k, s] == pytest.approx(right / some.sum())
    for k, threshold in enumerate(best_thresholds(curve, 0.3)):
        assert curve.f1[k, round(threshold * 100)] == pytest.approx(np.nanmax(curve.f1[k]))


def test_hotcocos_error_types_are_those_of_tide_by_hand():
    """AP50 is (51/101 + 0) / 2: one of two objects of class a is found first, and none of class b."""
    found = by_hand().evaluator.tide_errors()
    assert found["ap_base"] == pytest.approx(51 / 101 / 2)
    assert found["counts"] == {"Cls": 1, "Loc": 1, "Both": 1, "Dupe": 1, "Bkg": 1, "Miss": 1}
    # with its box mended, the second object of class a is found fifth, after four that are not right: 2 of 5
    assert found["delta_ap"]["Loc"] == pytest.approx(50 * 2 / 5 / 101 / 2)
    # with its class mended, an object of class b is found after one that is not right: 1 of 2, at half of the recalls
    assert found["delta_ap"]["Cls"] == pytest.approx(51 / 2 / 101 / 2)
    # nothing is found below these three, and a class without hits gains nothing by fewer objects
    assert [found["delta_ap"][kind] for kind in ("Dupe", "Bkg", "Both", "Miss")] == [0, 0, 0, 0]


def test_confusion_by_hand_leaves_crowds_out():
    """hotcoco's own table counts the detection in the crowd as one of nothing."""
    found = by_hand()
    table = confusion(found, above(found, [0.5, 0.5]), None)
    # rows: a, b, nothing; columns: found as a, as b, not found
    assert table.tolist() == [[1, 0, 1], [1, 0, 1], [3, 1, 0]]
    theirs = found.evaluator.confusion_matrix(min_score=0.5)["matrix"]
    assert theirs[2, 0] == 4, "hotcoco no longer counts crowds: take its table"
    assert confusion(found, above(found, [0.75, 0.96]), None).tolist() == [[1, 0, 1], [0, 0, 2], [2, 0, 0]]


def test_calibration_by_hand():
    """Six detections count; bins of 0.6, 0.7, 0.8 to 0.9 (two), and 0.9 to 1 (two, one of them right)."""
    found = calibration(by_hand())
    assert found.count.tolist() == [1, 1, 2, 2] and found.precision.tolist() == [0, 0, 0, 0.5]
    assert found.error == pytest.approx((0.6 + 0.7 + 2 * 0.825 + 2 * (0.925 - 0.5)) / 6)


def test_kinds_of_mistakes_by_hand():
    found = by_hand()
    kinds = {float(found.score[one.detection]): (one.kind, one.annotation) for one in mistakes(found, None, floor=0.1)}
    assert kinds == {
        0.95: ("background", -1),
        0.85: ("class and place", 4),
        0.8: ("twice", 0),
        0.7: ("class", 1),
        0.6: ("place", 2),
    }
    assert unseen(found, None) == []
    alone = match(ground_truth(BY_HAND), np.array(FOUND[:3], np.float64), images=np.arange(3))
    assert [(one.kind, one.annotation) for one in unseen(alone, None)] == [("unseen", 4), ("unseen", 2)]


@pytest.mark.parametrize(("objects", "rows"), [([], FOUND), (BY_HAND, []), ([], [])])
def test_nothing_to_find_or_nothing_found(objects, rows):
    found = match(ground_truth(objects), np.array(rows, np.float64).reshape(-1, 7), images=np.arange(3))
    assert not np.nanmax(np.nan_to_num(ap_by_class(found))) and (lost_ap(found) != {}) is bool(objects)
    assert len(best_thresholds(curves(found), 0.3)) == 2 and calibration(found).error >= 0
    assert confusion(found, above(found, [0.3, 0.3]), None)[:2].sum() == (4 if objects else 0)
