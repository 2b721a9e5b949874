"""The sections on label maps and segments: borders, and what an image costs, by brute force."""

import cv2
import numpy as np
import pytest

from vitdet.masks import VOID
from vitdet.metrics.panoptic import Segments, count
from vitdet.metrics.semantic import confusion
from vitdet.report.album import picture
from vitdet.report.maps import MOST, KeptMaps
from vitdet.report.panoptic import PanopticReport, quality
from vitdet.report.run import Run
from vitdet.report.semantic import SemanticReport, border, border_counts, class_picture, iou_of, lost_iou
from vitdet.structures import Prediction


def maps(count=6, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    truth = [
        cv2.resize(rng.integers(0, classes, (4, 5)).astype(np.uint8), (60, 40), interpolation=0) for _ in range(count)
    ]
    truth[0][:10] = VOID
    found = [
        np.where(rng.random(part.shape) < 0.3, rng.integers(0, classes, part.shape), part) % classes for part in truth
    ]
    return truth, [part.astype(np.uint8) for part in found]


@pytest.mark.parametrize("width", [1, 3, 7])
def test_a_border_is_what_erosion_takes_away(width):
    """By the definition of boundary IoU: a mask without itself eroded, with nothing beyond the image."""
    mask = cv2.resize((np.random.default_rng(width).random((6, 8)) < 0.5).astype(np.uint8), (80, 60), interpolation=0)
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    assert (border(mask.astype(bool), width) == (mask - eroded).astype(bool)).all()


def test_borders_of_the_same_map_agree_and_void_does_not_count():
    truth, _ = maps()
    shared, union = border_counts(truth[0], truth[0], 3)
    assert (shared == union).all() and shared.any()
    changed = truth[0].copy()
    changed[truth[0] == VOID] = 2
    assert (border_counts(truth[0], changed, 3)[:, :2] == border_counts(truth[0], truth[0], 3)[:, :2]).all()


def test_what_an_image_costs_in_mean_iou_is_what_its_perfection_gains():
    truth, found = maps()
    counts = {i: confusion(a, b, 3) for i, (a, b) in enumerate(zip(truth, found))}
    losses = lost_iou(counts)
    base = iou_of(sum(counts.values())).mean()
    for i in counts:
        perfect = {**counts, i: confusion(truth[i], np.where(truth[i] == VOID, 0, truth[i]), 3)}
        assert losses[i] == pytest.approx(iou_of(sum(perfect.values())).mean() - base)


class NoAlbum:
    """Images without files."""

    def position(self, image_id):
        return image_id

    def image(self, i):
        return np.zeros((40, 60, 3), np.uint8)

    def name(self, i):
        return f"<{i}>.png"


def kept_maps(found):
    kept = KeptMaps()
    import torch

    none = torch.zeros(0)
    for i, part in enumerate(found):
        one = Prediction(none.reshape(0, 4), none, none.long(), (40, 60), image_id=i, semantic=torch.from_numpy(part))
        kept.add([one])
    return kept


def test_maps_are_kept_as_they_are_up_to_a_number():
    _, found = maps()
    kept = kept_maps(found)
    assert all((kept.map(i) == part).all() for i, part in enumerate(found))
    many = kept_maps([found[0]] * (MOST + 3))
    assert len(many.maps) == MOST and many.left_out == 3
    joined = kept.join([kept_maps(found), many])
    assert len(joined.maps) == MOST and joined.left_out == 3


def test_a_semantic_report_scores_as_the_metric_and_says_what_it_leaves_out():
    truth, found = maps()
    kept = kept_maps(found)
    kept.left_out = 94
    run = Run("run", "", {})
    page = "".join(SemanticReport(kept, truth.__getitem__, ["a", "b", "c"], album=NoAlbum(), run=run).body())
    ious = iou_of(sum(confusion(a, b, 3) for a, b in zip(truth, found)))
    assert all(f'<td data-value="{iou:.6g}">{iou:.3f}</td>' in page for iou in ious)
    assert "about 6 of the 100 images" in run.notes[0] and "&lt;0&gt;.png" in page and "<0>" not in page


def test_what_an_image_costs_in_pq_is_what_its_perfection_gains():
    truth, found = maps(seed=1)
    kept, segments = KeptMaps(), {}
    for i, (a, b) in enumerate(zip(truth, found)):
        kept.maps[i], kept.labels[i] = kept_maps([b + 1]).maps[0], [0, 1, 2]
        ids = np.where(a == VOID, 0, a.astype(int) + 1)
        present = np.unique(ids[ids > 0])
        segments[i] = (ids, present, present - 1, np.zeros(len(present), bool))
    made = PanopticReport(kept, segments.__getitem__, "abc", [True, False, True], album=NoAlbum(), run=Run("", "", {}))
    base, losses = np.nanmean(quality(made.total)[0]), made.lost()
    for i in segments:
        perfect = count(Segments(*segments[i]), Segments(*segments[i]), 3)
        better = quality(sum((made.counts[j] for j in segments if j != i), perfect))[0]
        assert losses.get(i, 0) == pytest.approx(np.nanmean(better) - base, abs=1e-9)
    assert "".join(made.body()).count("<figure class=pair>") == len(losses)


def test_pictures_of_any_size_fit_the_page():
    for height, width in ((1, 1), (2, 900), (3000, 20), (40, 60)):
        shown = picture(np.zeros((height, width, 3), np.uint8), [])
        assert max(shown.size) <= 560
        assert max(class_picture(np.zeros((height, width, 3), np.uint8), np.zeros((height, width)), ["a"]).size) <= 560
