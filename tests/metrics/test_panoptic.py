"""Panoptic quality by hand, and against a direct transcription of the definition, pixel sets and all."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vitdet.data import PanopticData, PanopticSplit
from vitdet.metrics.panoptic import PanopticMetric, Segments, count
from vitdet.structures import Prediction

NAMES, THINGS, IDS = ["cat", "dog", "sky", "sea"], [True, True, False, False], [3, 5, 8, 9]


def by_definition(truth: Segments, found: Segments, num_classes: int) -> np.ndarray:
    """PQ after Kirillov et al. 2019, section 4, with sets of pixels; void and crowd after their section 4.3 and the
    COCO task."""
    out = np.zeros((4, num_classes))
    pixels = {("t", int(n)): set(np.flatnonzero(truth.ids.ravel() == n)) for n in truth.numbers}
    pixels |= {("f", int(n)): set(np.flatnonzero(found.ids.ravel() == n)) for n in found.numbers}
    void = set(np.flatnonzero(truth.ids.ravel() == 0))
    hit_true, hit_found = set(), set()
    for n, k, crowd in zip(truth.numbers, truth.labels, truth.crowd):
        for m, j in zip(found.numbers, found.labels):
            t, f = pixels["t", int(n)], pixels["f", int(m)]
            if crowd or k != j or not t & f:
                continue
            iou = len(t & f) / len((t | f) - (void & f))
            if iou > 0.5:
                out[:2, k] += iou, 1
                hit_true.add(int(n))
                hit_found.add(int(m))
    for n, k, crowd in zip(truth.numbers, truth.labels, truth.crowd):
        out[3, k] += not crowd and int(n) not in hit_true
    for m, j in zip(found.numbers, found.labels):
        f = pixels["f", int(m)]
        ignored = void.union(
            *(pixels["t", int(n)] for n, k, c in zip(truth.numbers, truth.labels, truth.crowd) if c and k == j)
        )
        if f and int(m) not in hit_found and len(f & ignored) <= 0.5 * len(f):
            out[2, j] += 1
    return out


def random_segments(rng, crowds: bool, base=None) -> Segments:
    h, w, n = 12, 15, int(rng.integers(0, 7))
    ids = np.zeros((h, w), np.int64) if base is None else base.ids.copy()
    if base is None:
        for i in range(n):
            y, x = rng.integers(0, h), rng.integers(0, w)
            ids[y : y + rng.integers(2, 9), x : x + rng.integers(2, 9)] = i + 1
        labels = rng.integers(0, 4, n)
    else:  # the truth, disturbed: some segments match, some nearly
        n = len(base.numbers)
        ids = np.roll(ids, int(rng.integers(-2, 3)), axis=int(rng.integers(2)))
        ids[rng.random((h, w)) < 0.1] = 0
        labels = np.where(rng.random(n) < 0.8, base.labels, rng.integers(0, 4, n))
    crowd = (rng.random(n) < 0.25) & crowds
    return Segments(ids, np.arange(n) + 1, labels, crowd)


def test_counts_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    total = np.zeros(4)
    for _ in range(1500):
        truth = random_segments(rng, crowds=True)
        found = random_segments(rng, crowds=False, base=truth if rng.random() < 0.8 else None)
        got = count(truth, found, 4)
        np.testing.assert_allclose(got, by_definition(truth, found, 4), atol=1e-10)
        total += got.sum(1)
    assert (total > 300).all()  # every kind of outcome was among them


REAL = Path(__file__).parents[3] / "shared" / "data" / "coco128"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real panoptic data is not here")
def test_counts_on_real_data_are_those_of_the_definition():
    """Photos with crowds and void: their own segments, shifted, some of them of another class."""
    folder = REAL / "annotations"
    split = PanopticSplit(str(REAL / "train"), str(folder / "panoptic_train.json"), str(folder / "panoptic_train"))
    data, rng, total = PanopticData(train=split), np.random.default_rng(0), np.zeros(4)
    truth_of, index = data.truth("train"), data.index("train")
    crowded = [i for i in range(len(index)) if index.iscrowd[index.annotations(i)].any()]
    for i in [*crowded, *range(0, len(index), 10)]:
        truth = Segments(*truth_of(int(index.image_ids[i])))
        found = Segments(
            np.roll(truth.ids, 6, axis=1), truth.numbers, truth.labels.copy(), np.zeros(len(truth.labels), bool)
        )
        wrong = rng.random(len(found.labels)) < 0.2
        found.labels[wrong] = rng.integers(0, data.num_classes, wrong.sum())
        got = count(truth, found, data.num_classes)
        np.testing.assert_allclose(got, by_definition(truth, found, data.num_classes), atol=1e-10)
        total += got.sum(1)
    assert crowded and (total > 10).all()


def prediction(ids, labels, image_id=1):
    n = len(labels)
    return Prediction(
        torch.zeros(n, 4),
        torch.ones(n),
        torch.tensor(labels),
        size=ids.shape,
        image_id=image_id,
        panoptic=torch.from_numpy(ids.astype(np.int32)),
    )


def test_by_hand_and_saved(tmp_path):
    truth = np.repeat([[7] * 4 + [300] * 4 + [0] * 2], 4, axis=0)  # a cat, the sky, void
    found = np.repeat([[1] * 3 + [2] * 5 + [3] * 2], 4, axis=0)
    metric = PanopticMetric(
        lambda i: (truth, np.array([7, 300]), np.array([0, 2]), np.zeros(2, bool)), NAMES, THINGS, IDS, total=1
    )
    metric.update([prediction(found, [0, 2, 1])])  # the third lies on void: no false positive
    scores = metric.compute()
    assert scores["PQ/cat"] == 3 / 4 and scores["PQ/sky"] == 4 / 5
    assert scores["PQ/dog"] == -1 and scores["PQ/sea"] == -1  # never occur
    assert scores["PQ"] == pytest.approx((3 / 4 + 4 / 5) / 2) and scores["RQ"] == 1
    assert scores["PQ_things"] == 3 / 4 and scores["PQ_stuff"] == 4 / 5
    metric.save(tmp_path / "predictions.json")
    (row,) = json.loads((tmp_path / "predictions.json").read_text())["annotations"]
    assert [(s["id"], s["category_id"], s["area"]) for s in row["segments_info"]] == [(1, 3, 12), (2, 8, 20), (3, 5, 8)]
    png = cv2.imread(str(tmp_path / "predictions" / row["file_name"]))[..., ::-1].astype(int)
    assert np.array_equal(png @ [1, 256, 65536], found)


def test_mistakes_are_named():
    ids = np.ones((2, 3), np.int64)
    metric = PanopticMetric(lambda i: (ids, np.array([1]), np.array([0]), np.zeros(1, bool)), NAMES, THINGS, IDS, 1)
    with pytest.raises(ValueError, match="image id 4: got a map"):
        metric.update([prediction(np.ones((3, 2)), [0], 4)])
    metric.update([prediction(ids, [0], 4)])
    with pytest.raises(ValueError, match="twice"):
        metric.update([prediction(ids, [0], 4)])
